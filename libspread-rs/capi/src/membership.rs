//! Reading the bodies of membership messages (spec: c-api 4.9, 5). Pure functions; they trust the body, which has no
//! length argument.

use std::ffi::{c_char, c_int, c_uint};

use spread_wire::limits::GROUP_FIELD;
use spread_wire::{ByteOrder, ServiceType, codes};

use crate::guard;
use crate::types::{GroupId, MembershipInfo, Name, Scatter, VsSetInfo};

const NUM_SETS_AT: usize = 12;
const OWN_OFFSET_AT: usize = 16;
const SETS_AT: usize = 20;
/// From a set to its first name.
const NAMES_AT: usize = 4;

/// Brings the words of a body, or of its first part, into the order of this machine.
pub(crate) fn to_native_order(body: &mut [u8], order: ByteOrder) {
    let convert = |body: &mut [u8], at: usize| -> Option<u32> {
        let word = body.get_mut(at..)?.first_chunk_mut::<4>()?;
        let value = order.read(*word);
        *word = value.to_ne_bytes();
        Some(value)
    };
    for at in [0, 4, 8] {
        let _ = convert(body, at);
    }
    let Some(num_sets) = convert(body, NUM_SETS_AT) else { return };
    let _ = convert(body, OWN_OFFSET_AT);
    let mut at = SETS_AT;
    // Ends with the body, whatever the number of sets says.
    for _ in 0..num_sets {
        let Some(members) = convert(body, at) else { return };
        let size = (members as usize).saturating_mul(GROUP_FIELD).saturating_add(NAMES_AT);
        at = at.saturating_add(size);
    }
}

/// A body in one piece or in several: a string of bytes.
#[derive(Clone, Copy)]
enum Body {
    Flat(*const c_char),
    Scatter(*const Scatter),
}

impl Body {
    /// Copies bytes out. Of a scatter, those behind its end are zero.
    ///
    /// # Safety
    ///
    /// A flat body is as long as its contents say; a scatter has valid elements.
    unsafe fn read(self, at: usize, to: &mut [u8]) {
        to.fill(0);
        match self {
            Self::Flat(base) if base.is_null() => {}
            // SAFETY: the caller vouches for the length.
            Self::Flat(base) => unsafe {
                std::ptr::copy_nonoverlapping(base.add(at).cast(), to.as_mut_ptr(), to.len());
            },
            Self::Scatter(scatter) => {
                // SAFETY: a scatter or null.
                let Some(scatter) = (unsafe { scatter.as_ref() }) else { return };
                let (mut skip, mut done) = (at, 0);
                for element in scatter.elements.iter().take(scatter.num_elements) {
                    let Some(rest) = element.len.checked_sub(skip) else {
                        skip -= element.len;
                        continue;
                    };
                    let part = rest.min(to.len() - done);
                    // SAFETY: within the element.
                    unsafe {
                        let from = element.buf.add(skip).cast();
                        std::ptr::copy_nonoverlapping(from, to[done..].as_mut_ptr(), part);
                    }
                    done += part;
                    skip = 0;
                    if done == to.len() {
                        return;
                    }
                }
            }
        }
    }

    unsafe fn word(self, at: usize) -> c_uint {
        let mut word = [0; 4];
        // SAFETY: as `read`.
        unsafe { self.read(at, &mut word) };
        c_uint::from_ne_bytes(word)
    }

    unsafe fn name(self, at: usize) -> Name {
        let mut name = [0; GROUP_FIELD];
        // SAFETY: as `read`.
        unsafe { self.read(at, &mut name) };
        name.map(u8::cast_signed)
    }

    unsafe fn info(self, service: c_int, info: *mut MembershipInfo) -> c_int {
        let service = ServiceType(service.cast_unsigned());
        if !service.intersects(ServiceType::MEMBERSHIP) {
            return codes::ILLEGAL_MESSAGE;
        }
        // SAFETY: as `read`, and room for an info.
        unsafe {
            (*info).gid = GroupId { id: [0, 4, 8].map(|at| self.word(at).cast_signed()) };
            if !service.intersects(ServiceType::REG_MEMB) {
                (*info).num_vs_sets = 0;
                (*info).my_vs_set = VsSetInfo::default();
                return 1;
            }
            let own = SETS_AT + self.word(OWN_OFFSET_AT) as usize;
            (*info).changed_member = if service.intersects(ServiceType::CAUSED_BY_NETWORK) {
                [0; GROUP_FIELD]
            } else {
                self.name(SETS_AT + NAMES_AT)
            };
            (*info).num_vs_sets = self.word(NUM_SETS_AT);
            (*info).my_vs_set = VsSetInfo { num_members: self.word(own), members_offset: offset(own) };
        }
        1
    }

    unsafe fn sets(self, sets: *mut VsSetInfo, room: c_int, own_index: *mut c_uint) -> c_int {
        // SAFETY: as `read`, and room for that many sets and a number.
        unsafe {
            let count = self.word(NUM_SETS_AT);
            if u32::try_from(room).unwrap_or(0) < count {
                return codes::BUFFER_TOO_SHORT;
            }
            let own = SETS_AT + self.word(OWN_OFFSET_AT) as usize;
            let mut at = SETS_AT;
            for i in 0..count {
                let num_members = self.word(at);
                *sets.add(i as usize) = VsSetInfo { num_members, members_offset: offset(at) };
                if at == own {
                    *own_index = i;
                }
                at += NAMES_AT + num_members as usize * GROUP_FIELD;
            }
            c_int::try_from(count).unwrap_or(c_int::MAX)
        }
    }

    unsafe fn members(self, set: *const VsSetInfo, names: *mut Name, room: c_int) -> c_int {
        // SAFETY: a set of this body, and room for that many names.
        unsafe {
            let VsSetInfo { num_members, members_offset } = *set;
            if u32::try_from(room).unwrap_or(0) < num_members {
                return codes::BUFFER_TOO_SHORT;
            }
            for i in 0..num_members as usize {
                *names.add(i) = self.name(members_offset as usize + i * GROUP_FIELD);
            }
            c_int::try_from(num_members).unwrap_or(c_int::MAX)
        }
    }
}

/// Where the first name of the set at this place is.
fn offset(set_at: usize) -> c_uint {
    c_uint::try_from(set_at + NAMES_AT).unwrap_or(c_uint::MAX)
}

/// Reads what a membership message says: 1, or -13 if it is none.
///
/// # Safety
///
/// The body of a membership message of this type, and an info to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_get_memb_info(
    body: *const c_char,
    service: c_int,
    info: *mut MembershipInfo,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Flat(body).info(service, info) })
}

/// Lists the vs sets: their number, or -15.
///
/// # Safety
///
/// The body of a regular membership message, and room for that many sets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_get_vs_sets_info(
    body: *const c_char,
    sets: *mut VsSetInfo,
    num_vs_sets: c_int,
    my_vs_set_index: *mut c_uint,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Flat(body).sets(sets, num_vs_sets, my_vs_set_index) })
}

/// Lists the members of a vs set: their number, or -15.
///
/// # Safety
///
/// The body of a regular membership message, one of its sets, and room for that many names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_get_vs_set_members(
    body: *const c_char,
    set: *const VsSetInfo,
    names: *mut Name,
    count: c_int,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Flat(body).members(set, names, count) })
}

/// As [`SP_get_memb_info`], for a body in pieces.
///
/// # Safety
///
/// As there; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_scat_get_memb_info(
    body: *const Scatter,
    service: c_int,
    info: *mut MembershipInfo,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Scatter(body).info(service, info) })
}

/// As [`SP_get_vs_sets_info`], for a body in pieces.
///
/// # Safety
///
/// As there; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_scat_get_vs_sets_info(
    body: *const Scatter,
    sets: *mut VsSetInfo,
    num_vs_sets: c_int,
    my_vs_set_index: *mut c_uint,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Scatter(body).sets(sets, num_vs_sets, my_vs_set_index) })
}

/// As [`SP_get_vs_set_members`], for a body in pieces.
///
/// # Safety
///
/// As there; a scatter of valid elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_scat_get_vs_set_members(
    body: *const Scatter,
    set: *const VsSetInfo,
    names: *mut Name,
    count: c_int,
) -> c_int {
    // SAFETY: passed on.
    guard(|| unsafe { Body::Scatter(body).members(set, names, count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body with two sets, of one and of two members; spec: client-protocol 11.
    fn body(write: impl Fn(u32) -> [u8; 4]) -> Vec<u8> {
        let name = |text: &[u8]| {
            let mut name = [0; GROUP_FIELD];
            name[..text.len()].copy_from_slice(text);
            name
        };
        let mut body = Vec::new();
        for word in [7, 8, 1, 2, 36, 1] {
            body.extend_from_slice(&write(word));
        }
        body.extend_from_slice(&name(b"#bob#d2"));
        body.extend_from_slice(&write(2));
        body.extend_from_slice(&name(b"#alice#d1"));
        body.extend_from_slice(&name(b"#ann#d1"));
        body
    }

    #[test]
    fn every_part_of_a_body_comes_into_native_order() {
        let native = body(u32::to_ne_bytes);
        for (order, foreign) in
            [(ByteOrder::Little, body(u32::to_le_bytes)), (ByteOrder::Big, body(u32::to_be_bytes))]
        {
            for len in 0..=foreign.len() {
                let mut part = foreign[..len].to_vec();
                to_native_order(&mut part, order);
                // A word that is cut stays as it is.
                let whole = [20, 24, 56, 60].iter().rfind(|end| **end <= len).copied().unwrap_or(len / 4 * 4);
                assert_eq!(part[..whole.min(len)], native[..whole.min(len)], "{order:?} {len}");
            }
        }
    }

    #[test]
    fn a_wrong_number_of_sets_ends_with_the_body() {
        let mut bytes = body(u32::to_be_bytes);
        bytes[12..16].copy_from_slice(&[0xff; 4]);
        bytes[20..24].copy_from_slice(&[0xff; 4]);
        to_native_order(&mut bytes, ByteOrder::Big);
        assert_eq!(bytes.len(), 124);
    }
}
