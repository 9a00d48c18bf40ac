//! Keeps the servers whose name contains a text; a candidacy function in Rust, for
//! `BackhandFromSO libexec/by_hostname.so byHostname app`.
//!
//! Compile: `rustc --edition 2024 --crate-type cdylib -O -o by_hostname.so by_hostname.rs`

use std::ffi::{CStr, c_char, c_int, c_void};

/// The beginning of `serverstat` of `mod_backhand.h`; 104 bytes in all.
#[repr(C)]
pub struct ServerStat {
    hostname: [c_char; 40],
    rest: [u64; 8],
}

unsafe extern "C" {
    static serverstats: *const ServerStat;
}

/// Calls may overlap.
#[unsafe(no_mangle)]
pub static backhand_threadsafe: c_int = 1;

/// The candidacy function.
///
/// # Safety
/// Called by mod_backhand with its documented arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn byHostname(
    _request: *mut c_void,
    servers: *mut c_int,
    n: *mut c_int,
    arg: *mut c_char,
) -> c_int {
    // SAFETY: `servers` holds `*n` numbers of records; names end with a zero byte; `arg` is null or such a text.
    unsafe {
        if arg.is_null() {
            return -1; // the set stays as it is
        }
        let wanted = CStr::from_ptr(arg).to_bytes();
        let set = std::slice::from_raw_parts_mut(servers, usize::try_from(*n).unwrap_or(0));
        let mut kept = 0;
        for i in 0..set.len() {
            let record = serverstats.add(usize::try_from(set[i]).unwrap_or(0));
            let name = CStr::from_ptr((&raw const (*record).hostname).cast()).to_bytes();
            if wanted.is_empty() || name.windows(wanted.len()).any(|part| part == wanted) {
                set[kept] = set[i];
                kept += 1;
            }
        }
        *n = c_int::try_from(kept).unwrap_or(0);
        *n
    }
}
