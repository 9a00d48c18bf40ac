//! Join, leave and multicast (spec: c-api 4.5, 4.6).

use std::ffi::{c_char, c_int, c_short};

use spread_wire::limits::{BODY_MAX, GROUP_FIELD, GROUP_NAME_MAX, GROUPS_MAX, SCATTER_MAX};
use spread_wire::{ByteOrder, GroupName, Header, Hint, ServiceType, codes};

use crate::connect::bytes_of_c;
use crate::guard;
use crate::session::{self, Session};
use crate::sys::write_pieces;
use crate::types::{Name, Scatter};

/// Joins a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_join(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { request(mbox, ServiceType::JOIN, group) })
}

/// Leaves a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_leave(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { request(mbox, ServiceType::LEAVE, group) })
}

unsafe fn request(mbox: c_int, service: ServiceType, group: *const c_char) -> c_int {
    // SAFETY: a string or null.
    let Ok(group) = GroupName::new(unsafe { bytes_of_c(group) }) else { return codes::ILLEGAL_GROUP };
    let Some(session) = session::find(mbox) else { return codes::ILLEGAL_SESSION };
    send(&session, service, &[*group.as_field()], 0, &mut Vec::new())
}

/// Sends to one group: the number of bytes of the body, or an error.
///
/// # Safety
///
/// A string or null; a body of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_multicast(
    mbox: c_int,
    service_type: c_int,
    group: *const c_char,
    mess_type: c_short,
    mess_len: c_int,
    mess: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: a string or null.
        let Some(group) = (unsafe { cut_name(group) }) else { return codes::ILLEGAL_GROUP };
        let body = Flat { len: mess_len, at: mess };
        multicast(mbox, service_type, Ok(&[group]), mess_type, || body.pieces())
    })
}

/// Sends pieces to one group: the number of bytes of the body, or an error.
///
/// # Safety
///
/// A string or null; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_scat_multicast(
    mbox: c_int,
    service_type: c_int,
    group: *const c_char,
    mess_type: c_short,
    scat_mess: *const Scatter,
) -> c_int {
    guard(|| {
        // SAFETY: a string or null.
        let Some(group) = (unsafe { cut_name(group) }) else { return codes::ILLEGAL_GROUP };
        // SAFETY: a scatter of valid elements.
        multicast(mbox, service_type, Ok(&[group]), mess_type, || unsafe { scatter_pieces(scat_mess) })
    })
}

/// Sends to several groups: the number of bytes of the body, or an error.
///
/// # Safety
///
/// As many cells as groups; a body of that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_multigroup_multicast(
    mbox: c_int,
    service_type: c_int,
    num_groups: c_int,
    groups: *const Name,
    mess_type: c_short,
    mess_len: c_int,
    mess: *const c_char,
) -> c_int {
    guard(|| {
        // SAFETY: as many cells as groups.
        let groups = unsafe { cells(num_groups, groups) };
        let body = Flat { len: mess_len, at: mess };
        multicast(mbox, service_type, groups, mess_type, || body.pieces())
    })
}

/// Sends pieces to several groups: the number of bytes of the body, or an error.
///
/// # Safety
///
/// As many cells as groups; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_multigroup_scat_multicast(
    mbox: c_int,
    service_type: c_int,
    num_groups: c_int,
    groups: *const Name,
    mess_type: c_short,
    scat_mess: *const Scatter,
) -> c_int {
    guard(|| {
        // SAFETY: as many cells as groups.
        let groups = unsafe { cells(num_groups, groups) };
        // SAFETY: a scatter of valid elements.
        multicast(mbox, service_type, groups, mess_type, || unsafe { scatter_pieces(scat_mess) })
    })
}

/// The 32 bytes of a name.
pub type Cell = [u8; GROUP_FIELD];

/// The name cut to 31 bytes and padded with zeros; `None` for null.
///
/// # Safety
///
/// A string or null.
pub unsafe fn cut_name(name: *const c_char) -> Option<Cell> {
    if name.is_null() {
        return None;
    }
    // SAFETY: a string.
    let bytes = unsafe { bytes_of_c(name) };
    let bytes = &bytes[..bytes.len().min(GROUP_NAME_MAX)];
    let mut cell = [0; GROUP_FIELD];
    cell[..bytes.len()].copy_from_slice(bytes);
    Some(cell)
}

/// The cells of the caller.
unsafe fn cells<'a>(count: c_int, groups: *const Name) -> Result<&'a [Cell], c_int> {
    match usize::try_from(count) {
        Ok(0) => Ok(&[]),
        Ok(count) if count <= GROUPS_MAX && !groups.is_null() => {
            // SAFETY: as many cells as groups; a cell of bytes is one of characters.
            Ok(unsafe { std::slice::from_raw_parts(groups.cast(), count) })
        }
        _ => Err(codes::ILLEGAL_MESSAGE),
    }
}

/// Pieces of a body: where and how long.
pub type Pieces = Vec<libc::iovec>;

/// A body in one piece.
#[derive(Clone, Copy)]
pub struct Flat {
    /// Bytes.
    pub len: c_int,
    /// Where; null if there are none.
    pub at: *const c_char,
}

impl Flat {
    /// The piece.
    ///
    /// # Errors
    ///
    /// -13 for a negative length or a null body that is not empty.
    pub fn pieces(self) -> Result<Pieces, c_int> {
        let Ok(len) = usize::try_from(self.len) else { return Err(codes::ILLEGAL_MESSAGE) };
        if len > 0 && self.at.is_null() {
            return Err(codes::ILLEGAL_MESSAGE);
        }
        Ok(vec![libc::iovec { iov_base: self.at.cast_mut().cast(), iov_len: len }])
    }
}

/// The elements of a scatter.
///
/// # Errors
///
/// -13 for null or more than 100 elements.
///
/// # Safety
///
/// A scatter of valid elements, or null.
pub unsafe fn scatter_pieces(scatter: *const Scatter) -> Result<Pieces, c_int> {
    // SAFETY: a scatter or null.
    let Some(scatter) = (unsafe { scatter.as_ref() }) else { return Err(codes::ILLEGAL_MESSAGE) };
    if scatter.num_elements > SCATTER_MAX {
        return Err(codes::ILLEGAL_MESSAGE);
    }
    let elements = &scatter.elements[..scatter.num_elements];
    Ok(elements.iter().map(|e| libc::iovec { iov_base: e.buf.cast(), iov_len: e.len }).collect())
}

/// Checks in the order of the tables of c-api 4.6, then sends.
pub(crate) fn multicast(
    mbox: c_int,
    service_type: c_int,
    groups: Result<&[Cell], c_int>,
    mess_type: c_short,
    pieces: impl FnOnce() -> Result<Pieces, c_int>,
) -> c_int {
    let service = ServiceType(service_type.cast_unsigned());
    // More than one of these would make the daemon drop the session.
    let forbidden = service.intersects(ServiceType::REJECT | ServiceType::GROUPS);
    if service.only(ServiceType::REQUEST).0.count_ones() != 1 || !service.is_regular() || forbidden {
        return codes::ILLEGAL_SERVICE;
    }
    let Some(session) = session::find(mbox) else { return codes::ILLEGAL_SESSION };
    let error = session.error();
    if error != 0 {
        return error;
    }
    let groups = match groups {
        Ok(groups) => groups,
        Err(code) => return code,
    };
    match pieces() {
        Ok(mut pieces) => send(&session, service, groups, mess_type, &mut pieces),
        Err(code) => code,
    }
}

/// Writes one message as a unit: the number of bytes of the body, or an error.
pub(crate) fn send(
    session: &Session,
    service: ServiceType,
    groups: &[Cell],
    mess_type: c_short,
    body: &mut Pieces,
) -> c_int {
    let error = session.error();
    if error != 0 {
        return error;
    }
    let len = body.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.iov_len));
    if len.saturating_add(groups.len() * GROUP_FIELD) > BODY_MAX {
        return codes::MESSAGE_TOO_LONG;
    }
    let (Ok(data_len), Ok(num_groups)) = (u32::try_from(len), u32::try_from(groups.len())) else {
        return codes::MESSAGE_TOO_LONG;
    };
    let order = ByteOrder::NATIVE;
    let header = Header {
        service,
        sender: session.own,
        num_groups,
        hint: Hint::new(mess_type, order),
        data_len,
        order,
    };
    let mut head = header.encode().to_vec();
    head.extend_from_slice(groups.as_flattened());
    let mut pieces = Vec::with_capacity(1 + body.len());
    pieces.push(libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() });
    pieces.append(body);
    session.sending(|| {
        // Closed or failed while we waited for our turn.
        let error = session.error();
        if error != 0 {
            return error;
        }
        // SAFETY: `head` lives on; the pieces of the body are valid by the contract of the C function.
        match unsafe { write_pieces(session.fd, &mut pieces) } {
            Ok(()) => c_int::try_from(len).unwrap_or(c_int::MAX),
            Err(_) => session.fail(),
        }
    })
}
