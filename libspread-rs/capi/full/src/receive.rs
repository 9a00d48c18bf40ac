//! `FL_receive` and `FL_scat_receive`: what the engine delivers, as the program wants it.

use std::ffi::{c_char, c_int, c_short};

use spread::flush::Event;
use spread::{Cause, GroupName, Message};
use spread_capi::layer::{self, Step};
use spread_capi::types::{Name, Scatter};
use spread_capi::wanted::{Space, Wanted, write_name};
use spread_wire::{ByteOrder, ServiceType, codes};

use crate::{FLUSH_REQ_MESS, ILLEGAL_PARAM, WOULD_BLOCK, find, give_up, is_gone, lock, perform};

const DONT_BLOCK: u32 = 0x1000_0000;
const SUBGROUP_CAST: u32 = 0x4000_0000;

/// Receives one message: the length of its body, or an error.
///
/// # Safety
///
/// Pointers to what the prototype says; as many cells and bytes as the sizes say.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn FL_receive(
    mbox: c_int,
    service_type: *mut c_int,
    sender: *mut c_char,
    max_groups: c_int,
    num_groups: *mut c_int,
    groups: *mut Name,
    mess_type: *mut c_short,
    endian_mismatch: *mut c_int,
    max_len: c_int,
    mess: *mut c_char,
    more: *mut c_int,
) -> c_int {
    let body = Space::Flat(mess, max_len);
    let to =
        Wanted { service_type, sender, max_groups, num_groups, groups, mess_type, endian_mismatch, body };
    // SAFETY: passed on.
    unsafe { receive_into(mbox, to, more) }
}

/// Receives one message into pieces: the length of its body, or an error.
///
/// # Safety
///
/// Pointers to what the prototype says; as many cells as the size says; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn FL_scat_receive(
    mbox: c_int,
    service_type: *mut c_int,
    sender: *mut c_char,
    max_groups: c_int,
    num_groups: *mut c_int,
    groups: *mut Name,
    mess_type: *mut c_short,
    endian_mismatch: *mut c_int,
    scat: *mut Scatter,
    more: *mut c_int,
) -> c_int {
    let body = Space::Scatter(scat);
    let to =
        Wanted { service_type, sender, max_groups, num_groups, groups, mess_type, endian_mismatch, body };
    // SAFETY: passed on.
    unsafe { receive_into(mbox, to, more) }
}

unsafe fn receive_into(mbox: c_int, wanted: Wanted, more: *mut c_int) -> c_int {
    layer::look_and_wait(|waited_for| look(mbox, &wanted, more, waited_for))
}

fn look(mbox: c_int, wanted: &Wanted, more: *mut c_int, waited_for: Option<u64>) -> Step {
    if wanted.max_groups < 0 {
        return Step::Done(ILLEGAL_PARAM);
    }
    let Some(connection) = find(mbox).filter(|found| waited_for.is_none_or(|id| id == found.id)) else {
        return Step::Done(if waited_for.is_some() {
            codes::CONNECTION_CLOSED
        } else {
            codes::ILLEGAL_SESSION
        });
    };
    // SAFETY: a scatter or null.
    if !unsafe { wanted.body.is_valid() } {
        return Step::Done(codes::ILLEGAL_MESSAGE);
    }
    let mut state = lock(&connection.state);
    loop {
        if let Some(event) = state.events.front() {
            let parts = Parts::of(event, connection.own);
            let left = state.events.len() - 1;
            // SAFETY: pointers to what the prototype says.
            let (code, taken) = unsafe { parts.write(wanted) };
            if taken {
                state.events.pop_front();
            }
            if code >= 0 && !more.is_null() {
                // SAFETY: a number.
                unsafe { *more = c_int::try_from(left).unwrap_or(c_int::MAX) };
            }
            return Step::Done(code);
        }
        match layer::receive(mbox) {
            // SAFETY: a number.
            Ok(None) if unsafe { *wanted.service_type }.cast_unsigned() & DONT_BLOCK != 0 => {
                return Step::Done(WOULD_BLOCK);
            }
            Ok(None) => return Step::Wait { fd: mbox, id: connection.id },
            Ok(Some(frame)) => {
                if state.engine.handle_frame(frame).is_err() || is_gone(perform(mbox, &mut state)) {
                    drop(state);
                    return Step::Done(give_up(mbox));
                }
            }
            Err(_) => {
                drop(state);
                return Step::Done(give_up(mbox));
            }
        }
    }
}

/// A message as the receive call gives it.
pub(crate) struct Parts {
    service: u32,
    sender: GroupName,
    groups: Vec<GroupName>,
    kind: i16,
    mismatch: bool,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(event: &Event, own: GroupName) -> Self {
        let plain = |service, sender, kind| Self {
            service,
            sender,
            groups: Vec::new(),
            kind,
            mismatch: false,
            body: Vec::new(),
        };
        match event {
            Event::Data(data) => Self {
                service: data.service_type.0,
                sender: data.sender,
                groups: data.groups.clone(),
                kind: data.message_type,
                mismatch: data.endian_mismatch,
                body: data.data.to_vec(),
            },
            Event::FlushRequest { group } => plain(FLUSH_REQ_MESS, *group, 0),
            Event::Transition { group } => plain(ServiceType::TRANSITION.0, *group, 0),
            Event::SelfLeave { group } => plain(ServiceType::CAUSED_BY_LEAVE.0, *group, -1),
            Event::View(view) => {
                let cause = match view.cause {
                    Cause::Join(_) => ServiceType::CAUSED_BY_JOIN,
                    Cause::Leave(_) => ServiceType::CAUSED_BY_LEAVE,
                    Cause::Disconnect(_) => ServiceType::CAUSED_BY_DISCONNECT,
                    Cause::Network => ServiceType::CAUSED_BY_NETWORK,
                };
                let mut body = view.id.encode(ByteOrder::NATIVE).to_vec();
                body.extend_from_slice(&u32::try_from(view.set.len()).unwrap_or(u32::MAX).to_ne_bytes());
                for name in &view.set {
                    body.extend_from_slice(name.as_field());
                }
                Self {
                    service: ServiceType::REG_MEMB.0 | cause.0,
                    sender: view.group,
                    groups: view.members.clone(),
                    kind: view.own_index.and_then(|i| i16::try_from(i).ok()).unwrap_or(-1),
                    mismatch: false,
                    body,
                }
            }
            Event::Other(Message::Reject(rejected)) => Self {
                service: rejected.service_type().0 | ServiceType::REJECT.0,
                sender: own,
                groups: rejected.groups().chain([own]).collect(),
                kind: rejected.message_type(),
                mismatch: false,
                body: rejected.payload().to_vec(),
            },
            _ => plain(0, own, -1),
        }
    }

    /// Gives the message to the program, or the sizes it needs; whether the message is taken.
    unsafe fn write(&self, wanted: &Wanted) -> (c_int, bool) {
        let number = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
        let room = usize::try_from(wanted.max_groups).unwrap_or(0);
        // SAFETY: looked at before.
        let capacity = unsafe { wanted.body.capacity() };
        let (groups_short, body_short) = (self.groups.len() > room, self.body.len() > capacity);
        // SAFETY: pointers to what the prototype says.
        unsafe {
            let input = (*wanted.service_type).cast_unsigned();
            // Also for a message that is taken: what follows writes over the sizes that fit.
            let groups = groups_short.then(|| number(self.groups.len()));
            let body = body_short.then(|| number(self.body.len()));
            let sender = self.sender.as_field();
            let code = wanted.tell_sizes(ServiceType(self.service), sender, self.kind, groups, body);
            if (groups_short || body_short) && input & ServiceType::DROP_RECV.0 == 0 {
                return (code, false);
            }
            *wanted.endian_mismatch = c_int::from(self.mismatch);
            *wanted.num_groups =
                if groups_short { -number(self.groups.len()) } else { number(self.groups.len()) };
            for (i, name) in self.groups.iter().take(room).enumerate() {
                let subgroup = self.service & SUBGROUP_CAST != 0;
                // Of a message to a part of a group, the last cell there is room for is the group.
                let name =
                    if groups_short && subgroup && i + 1 == room { self.groups.last() } else { Some(name) };
                let field = name.unwrap_or(&GroupName::EMPTY).as_field();
                write_name(wanted.groups.add(i).cast(), field);
            }
            wanted.body.fill(&self.body);
            if groups_short || body_short {
                return (code, true);
            }
        }
        (number(self.body.len()), true)
    }
}
