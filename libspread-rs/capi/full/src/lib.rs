//! `libspread.so.3`: the functions of the crate `spread-capi` and the flush layer, `FL_`.
//!
//! The protocol is `spread::flush::Engine`; here are its mailboxes and the outputs of the receive call.
//!
//! Source: `spec/flush-api.md`.
//!
//! # Safety
//!
//! All exported functions take pointers as the C prototypes in `include/fl.h` say.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int, c_short};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spread::flush::{Engine, Event, FlushError, MESSAGE_TYPE_MIN, Output};
use spread::{Cause, GroupName, Message};
use spread_capi::guard;
use spread_capi::layer::{self, Flat, Pieces, bytes_of_c, cut_name, scatter_pieces};
use spread_capi::types::{Name, Scatter};
use spread_wire::limits::SCATTER_MAX;
use spread_wire::{ByteOrder, ServiceType, codes};

pub use spread_capi::{connect, events, membership, misc, receive, send, session, types};

const DONT_BLOCK: u32 = 0x1000_0000;
const FLUSH_REQ_MESS: u32 = 0x2000_0000;
const ILLEGAL_PARAM: c_int = -24;
const WOULD_BLOCK: c_int = -25;
const ILLEGAL_MESSAGE_TYPE: c_int = -26;
const ILLEGAL_STATE: c_int = -27;
const ILLEGAL_RECEIVERS: c_int = -28;
/// One less than below: the original needs one for itself.
const FL_SCATTER_MAX: usize = 99;

/// A connection of this layer. Its lock is held while a message is read or written, never in the wait for one.
struct Connection {
    own: GroupName,
    /// Tells connections with the same descriptor number apart.
    id: u64,
    state: Mutex<State>,
}

struct State {
    engine: Engine,
    events: VecDeque<Event>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);
static CONNECTIONS: Mutex<BTreeMap<c_int, Arc<Connection>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(mbox: c_int) -> Option<Arc<Connection>> {
    lock(&CONNECTIONS).get(&mbox).cloned()
}

/// Frees a mailbox whose connection is gone; gives the code for the call that met it.
fn give_up(mbox: c_int) -> c_int {
    lock(&CONNECTIONS).remove(&mbox);
    layer::disconnect(mbox);
    codes::CONNECTION_CLOSED
}

fn is_gone(code: c_int) -> bool {
    matches!(code, codes::CONNECTION_CLOSED | codes::ILLEGAL_SESSION | codes::NET_ERROR_ON_SESSION)
}

/// Sends what the engine wants sent and queues what it delivers; the result of the last send.
fn perform(mbox: c_int, state: &mut State) -> c_int {
    let mut result = 0;
    while let Some(output) = state.engine.poll_output() {
        match output {
            Output::Deliver(event) => state.events.push_back(event),
            Output::Send(out) => {
                result = layer::send(mbox, out.service_type, &out.groups, out.message_type, &out.data);
            }
        }
    }
    result
}

/// Runs a command on a connection: 0, or the code of what went wrong.
fn command(mbox: c_int, run: impl FnOnce(&mut Engine) -> Result<(), FlushError>) -> c_int {
    let Some(connection) = find(mbox) else { return codes::ILLEGAL_SESSION };
    let code = {
        let mut state = lock(&connection.state);
        match run(&mut state.engine) {
            Ok(()) => perform(mbox, &mut state),
            Err(error) => error.code(),
        }
    };
    if is_gone(code) { give_up(mbox) } else { code.min(0) }
}

/// To be called once before threads start; 0, later -27. Everything works without it.
#[unsafe(no_mangle)]
pub extern "C" fn FL_lib_init() -> c_int {
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::Relaxed) { ILLEGAL_STATE } else { 0 }
}

/// Tells the version of the layer.
///
/// # Safety
///
/// Numbers to be written to, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int) {
    for (to, number) in [(major, 2), (minor, 0), (patch, 0)] {
        if !to.is_null() {
            // SAFETY: a number.
            unsafe { *to = number };
        }
    }
}

/// Prints a code and its text to standard output.
#[unsafe(no_mangle)]
pub extern "C" fn FL_error(error: c_int) {
    let text = match error {
        ILLEGAL_PARAM => c"illegal parameter",
        WOULD_BLOCK => c"no message, and the call was not to wait",
        ILLEGAL_MESSAGE_TYPE => c"message types below -32765 are reserved",
        ILLEGAL_STATE => c"not in this flush state",
        ILLEGAL_RECEIVERS => c"a receiver is not in the current view",
        _ => return misc::SP_error(error),
    };
    // SAFETY: the format fits the arguments.
    unsafe { libc::printf(c"FL_error: (%d) %s\n".as_ptr(), error, text.as_ptr()) };
}

/// Connects, with membership messages.
///
/// # Safety
///
/// Strings or null; `mbox` and `private_name` (32 bytes) to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_connect(
    daemon_name: *const c_char,
    user_name: *const c_char,
    priority: c_int,
    mbox: *mut c_int,
    private_name: *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: strings or null.
        let (address, name) = unsafe { (bytes_of_c(daemon_name), bytes_of_c(user_name)) };
        match layer::connect(address, name, priority, None) {
            Err(code) => code,
            Ok((fd, own)) => {
                let state = State { engine: Engine::new(own), events: VecDeque::new() };
                let id = NEXT.fetch_add(1, Ordering::Relaxed);
                lock(&CONNECTIONS).insert(fd, Arc::new(Connection { own, id, state: Mutex::new(state) }));
                // SAFETY: room for 32 bytes.
                unsafe {
                    layer::write_private_group(private_name, &own);
                    if !mbox.is_null() {
                        *mbox = fd;
                    }
                }
                codes::ACCEPT_SESSION
            }
        }
    })
}

/// Ends a connection: 0, or -11. A thread that waits in a receive gets -8.
#[unsafe(no_mangle)]
pub extern "C" fn FL_disconnect(mbox: c_int) -> c_int {
    guard(|| match lock(&CONNECTIONS).remove(&mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(_) => {
            layer::disconnect(mbox);
            0
        }
    })
}

unsafe fn group_command(
    mbox: c_int,
    group: *const c_char,
    run: impl FnOnce(&mut Engine, GroupName) -> Result<(), FlushError>,
) -> c_int {
    guard(|| {
        if find(mbox).is_none() {
            return codes::ILLEGAL_SESSION;
        }
        // SAFETY: a string or null.
        match GroupName::new(unsafe { bytes_of_c(group) }) {
            Ok(group) => command(mbox, |engine| run(engine, group)),
            Err(_) => codes::ILLEGAL_GROUP,
        }
    })
}

/// Joins a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_join(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::join) }
}

/// Leaves a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_leave(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::leave) }
}

/// Answers a flush request: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_flush(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::flush) }
}

/// Who is to get a message.
#[derive(Clone, Copy)]
enum To {
    All,
    /// A string.
    One(*const c_char),
    /// So many cells.
    Some(c_int, *const Name),
}

unsafe fn send_to(
    mbox: c_int,
    bits: c_int,
    group: *const c_char,
    to: To,
    kind: c_short,
    pieces: impl FnOnce() -> Result<Pieces, c_int>,
) -> c_int {
    guard(|| {
        if find(mbox).is_none() {
            return codes::ILLEGAL_SESSION;
        }
        if matches!(to, To::Some(count, _) if count < 0) {
            return ILLEGAL_PARAM;
        }
        let bits = bits.cast_unsigned();
        let own_bits =
            FLUSH_REQ_MESS | ServiceType::MEMBERSHIP.0 | ServiceType::MARK | ServiceType::RESERVED.0;
        if bits & own_bits != 0 {
            return codes::ILLEGAL_SERVICE;
        }
        if kind < MESSAGE_TYPE_MIN {
            return ILLEGAL_MESSAGE_TYPE;
        }
        let pieces = match pieces() {
            Ok(pieces) if pieces.len() <= FL_SCATTER_MAX => pieces,
            _ => return codes::ILLEGAL_MESSAGE,
        };
        // SAFETY: a string or null.
        let Some(group) = (unsafe { cut_name(group) }) else { return codes::ILLEGAL_GROUP };
        // SAFETY: what the C function was given.
        let Some(receivers) = (unsafe { receivers(to) }) else { return ILLEGAL_RECEIVERS };
        let mut body = Vec::new();
        for piece in &pieces {
            if piece.iov_len > 0 {
                // Never more than what can be sent is copied.
                let len = piece.iov_len.min(spread_wire::limits::LIBRARY_BODY_MAX + 1);
                // SAFETY: a piece of the caller's body.
                body.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.iov_base.cast(), len) });
            }
        }
        let group = GroupName::from_field(group);
        let len = c_int::try_from(body.len()).unwrap_or(c_int::MAX);
        let code =
            command(mbox, |engine| engine.send(ServiceType(bits), group, receivers.as_deref(), kind, &body));
        if code == 0 { len } else { code }
    })
}

/// The receivers as names; `Some(None)`: all. `None` for null.
unsafe fn receivers(to: To) -> Option<Option<Vec<GroupName>>> {
    match to {
        To::All => Some(None),
        To::One(name) => {
            // SAFETY: a string or null.
            let name = unsafe { cut_name(name) }?;
            Some(Some(vec![GroupName::from_field(name)]))
        }
        To::Some(count, cells) => {
            let count = usize::try_from(count).ok()?;
            if count > 0 && cells.is_null() {
                return None;
            }
            // SAFETY: as many cells as said; a cell of bytes is one of characters.
            let cell = |i: usize| GroupName::from_field(unsafe { *cells.add(i).cast::<[u8; 32]>() });
            Some(Some((0..count).map(cell).collect()))
        }
    }
}

/// Sends to all members of a group: the length of the body, or an error.
///
/// # Safety
///
/// A string or null; a body of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_multicast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    kind: c_short,
    len: c_int,
    mess: *const c_char,
) -> c_int {
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, To::All, kind, || Flat { len, at: mess }.pieces()) }
}

/// Sends pieces to all members of a group: the length of the body, or an error.
///
/// # Safety
///
/// A string or null; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_scat_multicast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    kind: c_short,
    scat: *const Scatter,
) -> c_int {
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, To::All, kind, || scatter_pieces(scat)) }
}

/// Sends to one member of a group: the length of the body, or an error.
///
/// # Safety
///
/// Strings or null; a body of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_unicast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    receiver: *const c_char,
    kind: c_short,
    len: c_int,
    mess: *const c_char,
) -> c_int {
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, To::One(receiver), kind, || Flat { len, at: mess }.pieces()) }
}

/// Sends pieces to one member of a group: the length of the body, or an error.
///
/// # Safety
///
/// Strings or null; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_scat_unicast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    receiver: *const c_char,
    kind: c_short,
    scat: *const Scatter,
) -> c_int {
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, To::One(receiver), kind, || scatter_pieces(scat)) }
}

/// Sends to some members of a group: the length of the body, or an error.
///
/// # Safety
///
/// A string or null; as many cells as receivers; a body of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_subgroupcast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    count: c_int,
    receivers: *const Name,
    kind: c_short,
    len: c_int,
    mess: *const c_char,
) -> c_int {
    let to = To::Some(count, receivers);
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, to, kind, || Flat { len, at: mess }.pieces()) }
}

/// Sends pieces to some members of a group: the length of the body, or an error.
///
/// # Safety
///
/// A string or null; as many cells as receivers; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_scat_subgroupcast(
    mbox: c_int,
    service: c_int,
    group: *const c_char,
    count: c_int,
    receivers: *const Name,
    kind: c_short,
    scat: *const Scatter,
) -> c_int {
    // SAFETY: passed on.
    unsafe { send_to(mbox, service, group, To::Some(count, receivers), kind, || scatter_pieces(scat)) }
}

/// Where the program wants the parts of a message.
#[derive(Clone, Copy)]
struct Wanted {
    service_type: *mut c_int,
    sender: *mut c_char,
    max_groups: c_int,
    num_groups: *mut c_int,
    groups: *mut Name,
    mess_type: *mut c_short,
    endian_mismatch: *mut c_int,
    more: *mut c_int,
    space: Space,
}

#[derive(Clone, Copy)]
enum Space {
    Flat(*mut c_char, c_int),
    Scatter(*mut Scatter),
}

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
    let space = Space::Flat(mess, max_len);
    let wanted = Wanted {
        service_type,
        sender,
        max_groups,
        num_groups,
        groups,
        mess_type,
        endian_mismatch,
        more,
        space,
    };
    // SAFETY: passed on.
    unsafe { receive_into(mbox, wanted) }
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
    let space = Space::Scatter(scat);
    let wanted = Wanted {
        service_type,
        sender,
        max_groups,
        num_groups,
        groups,
        mess_type,
        endian_mismatch,
        more,
        space,
    };
    // SAFETY: passed on.
    unsafe { receive_into(mbox, wanted) }
}

/// The wait stands alone between two looks, as in the receive call below this layer.
unsafe fn receive_into(mbox: c_int, wanted: Wanted) -> c_int {
    let mut waited = None;
    loop {
        let mut wait = false;
        let code = guard(|| match look(mbox, &wanted, &mut waited) {
            Some(code) => code,
            None => {
                wait = true;
                0
            }
        });
        if !wait {
            return code;
        }
        layer::wait_readable_or_cancelled(mbox);
    }
}

/// Gives a result, or `None` if nothing has arrived on the connection that is waited for.
fn look(mbox: c_int, wanted: &Wanted, waited: &mut Option<u64>) -> Option<c_int> {
    if wanted.max_groups < 0 {
        return Some(ILLEGAL_PARAM);
    }
    let Some(connection) = find(mbox).filter(|found| waited.is_none_or(|id| id == found.id)) else {
        return Some(if waited.is_some() { codes::CONNECTION_CLOSED } else { codes::ILLEGAL_SESSION });
    };
    *waited = Some(connection.id);
    if let Space::Scatter(scatter) = wanted.space {
        // SAFETY: a scatter or null.
        match unsafe { scatter.as_ref() } {
            Some(scatter) if scatter.num_elements <= SCATTER_MAX => {}
            _ => return Some(codes::ILLEGAL_MESSAGE),
        }
    }
    let mut state = lock(&connection.state);
    loop {
        if let Some(event) = state.events.front() {
            let parts = Parts::of(event, connection.own);
            let more = state.events.len() - 1;
            // SAFETY: pointers to what the prototype says.
            let (code, taken) = unsafe { parts.write(wanted, more) };
            if taken {
                state.events.pop_front();
            }
            return Some(code);
        }
        match layer::receive(mbox) {
            // SAFETY: a number.
            Ok(None) if unsafe { *wanted.service_type }.cast_unsigned() & DONT_BLOCK != 0 => {
                return Some(WOULD_BLOCK);
            }
            Ok(None) => return None,
            Ok(Some(frame)) => {
                if state.engine.handle_frame(frame).is_err() || is_gone(perform(mbox, &mut state)) {
                    drop(state);
                    return Some(give_up(mbox));
                }
            }
            Err(_) => {
                drop(state);
                return Some(give_up(mbox));
            }
        }
    }
}

/// A message as the receive call gives it.
struct Parts {
    service: u32,
    sender: GroupName,
    groups: Vec<GroupName>,
    kind: i16,
    mismatch: bool,
    body: Vec<u8>,
}

impl Parts {
    fn of(event: &Event, own: GroupName) -> Self {
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
    unsafe fn write(&self, wanted: &Wanted, more: usize) -> (c_int, bool) {
        let number = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
        let room = usize::try_from(wanted.max_groups).unwrap_or(0);
        let (groups_short, body_short) = (self.groups.len() > room, self.body.len() > wanted.capacity());
        // SAFETY: pointers to what the prototype says.
        unsafe {
            let input = (*wanted.service_type).cast_unsigned();
            *wanted.service_type = self.service.cast_signed();
            std::ptr::copy_nonoverlapping(self.sender.as_field().as_ptr().cast(), wanted.sender, 32);
            *wanted.mess_type = self.kind;
            let code = if groups_short { codes::GROUPS_TOO_SHORT } else { codes::BUFFER_TOO_SHORT };
            if (groups_short || body_short) && input & ServiceType::DROP_RECV.0 == 0 {
                *wanted.num_groups = if groups_short { -number(self.groups.len()) } else { 0 };
                *wanted.endian_mismatch = if body_short { -number(self.body.len()) } else { 0 };
                return (code, false);
            }
            *wanted.endian_mismatch = c_int::from(self.mismatch);
            *wanted.num_groups =
                if groups_short { -number(self.groups.len()) } else { number(self.groups.len()) };
            for (i, name) in self.groups.iter().take(room).enumerate() {
                let subgroup = self.service & 0x4000_0000 != 0;
                // Of a message to a part of a group, the last cell there is room for is the group.
                let name =
                    if groups_short && subgroup && i + 1 == room { self.groups.last() } else { Some(name) };
                let field = name.unwrap_or(&GroupName::EMPTY).as_field();
                std::ptr::copy_nonoverlapping(field.as_ptr(), wanted.groups.add(i).cast(), 32);
            }
            wanted.fill(&self.body);
            if groups_short || body_short {
                return (code, true);
            }
            if !wanted.more.is_null() {
                *wanted.more = number(more);
            }
        }
        (number(self.body.len()), true)
    }
}

impl Wanted {
    fn capacity(&self) -> usize {
        match self.space {
            Space::Flat(_, len) => usize::try_from(len).unwrap_or(0),
            // SAFETY: checked not to be null, and the number of its elements.
            Space::Scatter(scatter) => unsafe {
                let elements = (*scatter).elements.iter().take((*scatter).num_elements);
                elements.fold(0, |sum: usize, element| sum.saturating_add(element.len))
            },
        }
    }

    /// Copies as much of the body as there is room for.
    unsafe fn fill(&self, mut body: &[u8]) {
        let mut put = |to: *mut c_char, room: usize| {
            let (now, rest) = body.split_at(room.min(body.len()));
            if !now.is_empty() {
                // SAFETY: room of the caller.
                unsafe { std::ptr::copy_nonoverlapping(now.as_ptr().cast(), to, now.len()) };
            }
            body = rest;
        };
        match self.space {
            Space::Flat(to, len) => put(to, usize::try_from(len).unwrap_or(0)),
            // SAFETY: checked not to be null, and the number of its elements.
            Space::Scatter(scatter) => unsafe {
                for element in (*scatter).elements.iter().take((*scatter).num_elements) {
                    put(element.buf, element.len);
                }
            },
        }
    }
}

/// Gives the number of messages that are queued in the library.
#[unsafe(no_mangle)]
pub extern "C" fn FL_more_msgs(mbox: c_int) -> c_int {
    guard(|| match find(mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(connection) => c_int::try_from(lock(&connection.state).events.len()).unwrap_or(c_int::MAX),
    })
}

/// Tells whether something is there: not zero if so. It may be an internal message.
#[unsafe(no_mangle)]
pub extern "C" fn FL_poll(mbox: c_int) -> c_int {
    guard(|| match find(mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(connection) => {
            let state = lock(&connection.state);
            let queued: usize =
                state.events.iter().map(|event| Parts::of(event, connection.own).body.len() + 48).sum();
            let socket = receive::SP_poll(mbox);
            if socket < 0 {
                socket
            } else {
                socket.saturating_add(c_int::try_from(queued).unwrap_or(c_int::MAX))
            }
        }
    })
}

/// Where the id stands in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_gid_offset_memb_mess() -> c_int {
    0
}

/// Where the number of names stands in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_num_vs_offset_memb_mess() -> c_int {
    12
}

/// Where the names stand in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_vs_set_offset_memb_mess() -> c_int {
    16
}
