//! The structures of `sp.h`, with its layout (spec: c-api 2.3).

use std::ffi::{c_char, c_int, c_long, c_uint};

/// Cells of names.
pub const MAX_GROUP_NAME: usize = 32;
/// Elements of a scatter.
pub const MAX_CLIENT_SCATTER_ELEMENTS: usize = 100;

/// A name in a cell.
pub type Name = [c_char; MAX_GROUP_NAME];

/// `sp_time`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpTime {
    /// Seconds.
    pub sec: c_long,
    /// Microseconds.
    pub usec: c_long,
}

/// `scat_element`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ScatElement {
    /// Where.
    pub buf: *mut c_char,
    /// Bytes.
    pub len: usize,
}

/// `scatter`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scatter {
    /// Elements in use.
    pub num_elements: usize,
    /// The elements.
    pub elements: [ScatElement; MAX_CLIENT_SCATTER_ELEMENTS],
}

/// `group_id`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupId {
    /// Three words, to be compared only.
    pub id: [c_int; 3],
}

/// `vs_set_info`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VsSetInfo {
    /// Members of the set.
    pub num_members: c_uint,
    /// Place of the first name in the body.
    pub members_offset: c_uint,
}

/// `membership_info`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MembershipInfo {
    /// Id of the view.
    pub gid: GroupId,
    /// Who joined, left or was disconnected.
    pub changed_member: Name,
    /// Sets in the body.
    pub num_vs_sets: c_uint,
    /// The set of the receiver.
    pub my_vs_set: VsSetInfo,
}

// spec: c-api 2.3
const _: () = {
    assert!(size_of::<SpTime>() == 16);
    assert!(size_of::<ScatElement>() == 16);
    assert!(size_of::<Scatter>() == 1608);
    assert!(size_of::<GroupId>() == 12);
    assert!(size_of::<VsSetInfo>() == 8);
    assert!(size_of::<MembershipInfo>() == 56 && align_of::<MembershipInfo>() == 4);
};
