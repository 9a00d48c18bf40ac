//! The `FL_` functions that send: to all members of a group, to one, to some; flat or in pieces.

use std::ffi::{c_char, c_int, c_short};

use spread::GroupName;
use spread::flush::MESSAGE_TYPE_MIN;
use spread_capi::guard;
use spread_capi::layer::{Flat, Pieces, cut_name, scatter_pieces};
use spread_capi::types::{Name, Scatter};
use spread_wire::limits::BODY_MAX;
use spread_wire::{ServiceType, codes};

use crate::{FLUSH_REQ_MESS, ILLEGAL_MESSAGE_TYPE, ILLEGAL_PARAM, ILLEGAL_RECEIVERS, command, find};

/// One less than below: the original needs one for itself.
const FL_SCATTER_MAX: usize = 99;

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
                let len = piece.iov_len.min(BODY_MAX + 1);
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
