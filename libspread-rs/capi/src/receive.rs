//! Receive and poll (spec: c-api 4.7, 4.8).

use std::ffi::{c_char, c_int, c_short};
use std::io;

use spread_wire::limits::{GROUP_FIELD, HEADER, RECEIVED_BODY_MAX, REJECT_WORD};
use spread_wire::{ByteOrder, Frame, FrameError, Header, ServiceType, codes};

use crate::guard;
use crate::membership;
use crate::session::{self, Session};
use crate::sys::{read_exact, read_now, read_pieces, wait_readable_or_cancelled};
use crate::types::{Name, Scatter};
use crate::wanted::{Space, Wanted, write_name};

/// What a look at the socket came to.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// To this result of the call.
    Done(c_int),
    /// Nothing has arrived on this session.
    Wait {
        /// Its socket.
        fd: c_int,
        /// Tells it from another session with the same socket number.
        id: u64,
    },
}

/// Receives one message: the number of bytes of its body, or an error.
///
/// # Safety
///
/// Pointers to what the prototype says; as many cells and bytes as the sizes say.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn SP_receive(
    mbox: c_int,
    service_type: *mut c_int,
    sender: *mut c_char,
    max_groups: c_int,
    num_groups: *mut c_int,
    groups: *mut Name,
    mess_type: *mut c_short,
    endian_mismatch: *mut c_int,
    max_mess_len: c_int,
    mess: *mut c_char,
) -> c_int {
    let body = Space::Flat(mess, max_mess_len);
    let wanted =
        Wanted { service_type, sender, max_groups, num_groups, groups, mess_type, endian_mismatch, body };
    // SAFETY: passed on.
    unsafe { receive(mbox, wanted) }
}

/// Receives one message into pieces: the number of bytes of its body, or an error.
///
/// # Safety
///
/// Pointers to what the prototype says; as many cells as the size says; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn SP_scat_receive(
    mbox: c_int,
    service_type: *mut c_int,
    sender: *mut c_char,
    max_groups: c_int,
    num_groups: *mut c_int,
    groups: *mut Name,
    mess_type: *mut c_short,
    endian_mismatch: *mut c_int,
    scat_mess: *mut Scatter,
) -> c_int {
    let body = Space::Scatter(scat_mess);
    let wanted =
        Wanted { service_type, sender, max_groups, num_groups, groups, mess_type, endian_mismatch, body };
    // SAFETY: passed on.
    unsafe { receive(mbox, wanted) }
}

/// Gives the number of bytes that can be read from the socket now.
#[unsafe(no_mangle)]
pub extern "C" fn SP_poll(mbox: c_int) -> c_int {
    guard(|| {
        let Some(session) = session::find(mbox) else { return codes::ILLEGAL_SESSION };
        let mut bytes: c_int = 0;
        // SAFETY: room for one number.
        let result = unsafe { libc::ioctl(session.fd, libc::FIONREAD, &raw mut bytes) };
        if result == 0 { bytes } else { codes::ILLEGAL_SESSION }
    })
}

unsafe fn receive(mbox: c_int, wanted: Wanted) -> c_int {
    look_and_wait(|waited_for| look(mbox, &wanted, waited_for))
}

/// Looks again and again until something comes of it; `look` is given the session that was waited for. The wait stands
/// alone between two looks, with no lock taken and nothing to be dropped: a thread can be cancelled in it (c-api 6.1),
/// and sends never wait for it.
pub fn look_and_wait(mut look: impl FnMut(Option<u64>) -> Step) -> c_int {
    let mut waited_for = None;
    loop {
        let mut step = Step::Done(codes::SP_BUG);
        guard(|| {
            step = look(waited_for);
            0
        });
        match step {
            Step::Done(code) => return code,
            Step::Wait { fd, id } => {
                waited_for = Some(id);
                wait_readable_or_cancelled(fd);
            }
        }
    }
}

fn look(mbox: c_int, wanted: &Wanted, waited_for: Option<u64>) -> Step {
    let session = match (session::find(mbox), waited_for) {
        (Some(session), None) => session,
        (Some(session), Some(id)) if session.id == id => session,
        // Closed while we waited; the number may be another session's by now.
        (_, Some(_)) => return Step::Done(codes::CONNECTION_CLOSED),
        (None, None) => return Step::Done(codes::ILLEGAL_SESSION),
    };
    // SAFETY: a scatter or null.
    if !unsafe { wanted.body.is_valid() } {
        return Step::Done(codes::ILLEGAL_MESSAGE);
    }
    session.receiving(|saved| {
        let error = session.error();
        if error != 0 {
            return Step::Done(error);
        }
        match take(&session, saved, wanted) {
            Ok(Some(code)) => Step::Done(code),
            Ok(None) => Step::Wait { fd: session.fd, id: session.id },
            Err(_) => {
                *saved = None;
                Step::Done(session.fail())
            }
        }
    })
}

/// Reads a header. `None`: nothing of one has arrived.
fn take_header(fd: c_int) -> io::Result<Option<[u8; HEADER]>> {
    let mut head = [0; HEADER];
    let mut done = match read_now(fd, &mut head) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(n) => n,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    read_exact(fd, &mut head, &mut done, None)?;
    Ok(Some(head))
}

/// Reads a whole message without looking into it. `None`: nothing of one has arrived.
pub(crate) fn take_frame(fd: c_int) -> io::Result<Option<Frame>> {
    let Some(head) = take_header(fd)? else { return Ok(None) };
    let illegal = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
    let header = Header::parse(&head).map_err(illegal)?;
    let word = if header.service.intersects(ServiceType::REJECT) { REJECT_WORD } else { 0 };
    let rest = usize::try_from(header.body_len()).unwrap_or(usize::MAX).saturating_add(word);
    if rest > RECEIVED_BODY_MAX + REJECT_WORD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; HEADER + rest];
    bytes[..HEADER].copy_from_slice(&head);
    read_exact(fd, &mut bytes, &mut { HEADER }, None)?;
    Frame::parse(bytes.into(), RECEIVED_BODY_MAX).map(Some).map_err(illegal)
}

/// Takes a message off the socket. `None`: nothing of one has arrived.
fn take(session: &Session, saved: &mut Option<[u8; HEADER]>, wanted: &Wanted) -> io::Result<Option<c_int>> {
    let head = match *saved {
        Some(head) => head,
        None => match take_header(session.fd)? {
            Some(head) => head,
            None => return Ok(None),
        },
    };
    let Ok(header) = Header::parse(&head) else { return Ok(Some(codes::ILLEGAL_MESSAGE)) };
    *saved = Some(head);
    let message = Incoming::new(&header);
    // SAFETY: pointers to what the prototype says.
    unsafe {
        let drop_rest = (*wanted.service_type).cast_unsigned() & ServiceType::DROP_RECV.0 != 0;
        if !drop_rest && let Some(code) = message.too_short(wanted) {
            return Ok(Some(code));
        }
        // From here on the message is taken, whatever comes of it.
        *saved = None;
        message.deliver(session, wanted).map(Some)
    }
}

/// A message whose header has arrived.
struct Incoming<'a> {
    header: &'a Header,
    reject: bool,
    /// A regular membership message.
    view: bool,
    num_groups: c_int,
    len: c_int,
}

impl<'a> Incoming<'a> {
    fn new(header: &'a Header) -> Self {
        let service = header.service;
        let reject = service.intersects(ServiceType::REJECT);
        Self {
            header,
            reject,
            view: !reject && !service.is_regular() && service.intersects(ServiceType::REG_MEMB),
            // The header check lets no number above `i32::MAX` pass.
            num_groups: c_int::try_from(header.num_groups).unwrap_or(c_int::MAX),
            len: c_int::try_from(header.data_len).unwrap_or(c_int::MAX),
        }
    }

    /// Whether the message type is the sender's: data, or data that came back.
    fn has_type(&self) -> bool {
        self.reject || self.header.service.is_regular()
    }

    /// Tells the program the sizes if something does not fit; the message stays.
    unsafe fn too_short(&self, wanted: &Wanted) -> Option<c_int> {
        let groups_short = self.num_groups > wanted.max_groups;
        let body_short = match wanted.body {
            Space::Flat(_, max) => self.len > max,
            // SAFETY: a scatter of valid elements.
            space @ Space::Scatter(_) => self.header.data_len as usize > unsafe { space.capacity() },
        };
        if !groups_short && !body_short {
            return None;
        }
        let kind = if self.has_type() { self.header.hint.message_type() } else { 0 };
        let (groups, body) = (groups_short.then_some(self.num_groups), body_short.then_some(self.len));
        let sender = self.header.sender.as_field();
        // SAFETY: pointers to what the prototype says.
        Some(unsafe { wanted.tell_sizes(self.header.service, sender, kind, groups, body) })
    }

    /// Reads the rest of the message to where the program wants it, and drops what does not fit.
    unsafe fn deliver(&self, session: &Session, wanted: &Wanted) -> io::Result<c_int> {
        let fd = session.fd;
        let header = self.header;
        let mut service = header.service;
        if self.reject {
            let mut word = [0; REJECT_WORD];
            read_exact(fd, &mut word, &mut 0, None)?;
            service = ServiceType::from_word(word, header.order) | ServiceType::REJECT;
        }
        let mismatch = self.has_type() && header.hint.order() != ByteOrder::NATIVE;
        // SAFETY: pointers to what the prototype says.
        unsafe {
            *wanted.service_type = service.0.cast_signed();
            write_name(wanted.sender, header.sender.as_field());
            *wanted.mess_type = if self.has_type() { header.hint.message_type() } else { -1 };
            *wanted.endian_mismatch = c_int::from(mismatch);
        }

        let count = header.num_groups as usize;
        let fit = count.min(usize::try_from(wanted.max_groups).unwrap_or(0));
        let cut = fit < count;
        let cells = libc::iovec { iov_base: wanted.groups.cast(), iov_len: fit * GROUP_FIELD };
        let len = header.data_len as usize;
        // SAFETY: room as the sizes say.
        let (mut body, room) = unsafe { (wanted.body.pieces(len), wanted.body.capacity()) };
        let fit_len = len.min(room);
        if cut || (self.view && header.order != ByteOrder::NATIVE) {
            // SAFETY: room for `fit` cells.
            unsafe { read_pieces(fd, &mut [cells])? };
            skip(fd, (count - fit) * GROUP_FIELD)?;
            if self.view && header.order != ByteOrder::NATIVE {
                // Never more than the program has room for.
                let mut bytes = vec![0; fit_len];
                read_exact(fd, &mut bytes, &mut 0, None)?;
                membership::to_native_order(&mut bytes, header.order);
                // SAFETY: room as the sizes say.
                unsafe { wanted.body.fill(&bytes) };
            } else {
                // SAFETY: room as the sizes say.
                unsafe { read_pieces(fd, &mut body)? };
            }
        } else {
            body.insert(0, cells);
            // SAFETY: room as the sizes say.
            unsafe { read_pieces(fd, &mut body)? };
        }
        skip(fd, len - fit_len)?;
        // SAFETY: pointers to what the prototype says; `fit` cells were filled.
        unsafe {
            *wanted.num_groups = if cut { -self.num_groups } else { self.num_groups };
            if self.view && !cut {
                let own = session.own.as_field();
                let at = (0..fit).find(|i| same_name(wanted.groups.add(*i), own));
                *wanted.mess_type = at.and_then(|i| c_short::try_from(i).ok()).unwrap_or(-1);
            }
        }
        Ok(if fit_len < len { codes::BUFFER_TOO_SHORT } else { self.len })
    }
}

/// Reads and drops.
fn skip(fd: c_int, mut bytes: usize) -> io::Result<()> {
    let mut scratch = [0; 4096];
    while bytes > 0 {
        let part = bytes.min(scratch.len());
        read_exact(fd, &mut scratch[..part], &mut 0, None)?;
        bytes -= part;
    }
    Ok(())
}

/// Whether a cell holds the name: the same bytes up to the first zero.
unsafe fn same_name(cell: *const Name, name: &[u8; GROUP_FIELD]) -> bool {
    // SAFETY: a cell.
    let cell = unsafe { &*cell.cast::<[u8; GROUP_FIELD]>() };
    spread_wire::GroupName::from_field(*cell).as_field() == name
}
