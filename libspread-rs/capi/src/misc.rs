//! Versions and texts (spec: c-api 4.1, 4.10).

use std::ffi::{CStr, c_char, c_int};

use spread_wire::codes;

use crate::types::GroupId;

/// Tells the version: 1, or 0 if a pointer is null.
///
/// # Safety
///
/// Null or a number to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int) -> c_int {
    if major.is_null() || minor.is_null() || patch.is_null() {
        return 0;
    }
    // SAFETY: not null.
    unsafe { (*major, *minor, *patch) = (5, 0, 1) };
    1
}

/// Compares the ids of two views: 1 if they are equal.
#[unsafe(no_mangle)]
pub extern "C" fn SP_equal_group_ids(g1: GroupId, g2: GroupId) -> c_int {
    c_int::from(g1 == g2)
}

/// Gives the text of a code; never null, valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn SP_strerror(error: c_int) -> *const c_char {
    text(error).as_ptr()
}

/// Prints a code and its text to standard output.
#[unsafe(no_mangle)]
pub extern "C" fn SP_error(error: c_int) {
    // The program's own output goes through the same buffer: the order is kept.
    // SAFETY: the format fits the arguments.
    unsafe { libc::printf(c"SP_error: (%d) %s\n".as_ptr(), error, SP_strerror(error)) };
}

/// Exported by the original, declared in no header, never done: -1.
#[unsafe(no_mangle)]
pub extern "C" fn SP_query_groups() -> c_int {
    -1
}

/// Exported by the original, declared in no header, never done: -1.
#[unsafe(no_mangle)]
pub extern "C" fn SP_query_members() -> c_int {
    -1
}

fn text(error: c_int) -> &'static CStr {
    match error {
        codes::ILLEGAL_SPREAD => c"the name of the daemon cannot be understood or found",
        codes::COULD_NOT_CONNECT => c"no connection to the daemon",
        codes::REJECT_QUOTA => c"refused: too many sessions",
        codes::REJECT_NO_NAME => c"refused: no private name",
        codes::REJECT_ILLEGAL_NAME => c"refused: illegal private name",
        codes::REJECT_NOT_UNIQUE => c"refused: the private name is in use",
        codes::REJECT_VERSION => c"refused: the versions do not fit",
        codes::CONNECTION_CLOSED => c"the connection is closed",
        codes::REJECT_AUTH => c"refused: authentication failed",
        codes::ILLEGAL_SESSION => c"no such session",
        codes::ILLEGAL_SERVICE => c"illegal service type",
        codes::ILLEGAL_MESSAGE => c"illegal message",
        codes::ILLEGAL_GROUP => c"illegal group name",
        codes::BUFFER_TOO_SHORT => c"the buffer is too short for the message",
        codes::GROUPS_TOO_SHORT => c"the array is too short for the groups",
        codes::MESSAGE_TOO_LONG => c"the message is too long",
        codes::NET_ERROR_ON_SESSION => c"the session has failed before",
        codes::SP_BUG => c"bug in the client library",
        codes::ILLEGAL_TIME => c"illegal time limit",
        _ => c"unknown code",
    }
}
