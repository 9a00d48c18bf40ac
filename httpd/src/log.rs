//! The error log.
// spec: httpd-ffi 3.2

use std::ffi::{CString, c_int};
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::ffi;
use crate::pool::Pool;

/// Index that the server gave to this module: `[log_spread:warn]` and `LogLevel log_spread:debug` come from it.
static MODULE_INDEX: AtomicI32 = AtomicI32::new(-1);

/// The records behind [`Log`] are gone or about to go.
static CLOSED: RwLock<bool> = RwLock::new(false);

/// The process ends: nothing is written any more. Waits for what is being written. A thread of a module that outlives
/// its time limit must not touch the server's records, whose pools end before the process does.
pub fn close() {
    *CLOSED.write().unwrap_or_else(PoisonError::into_inner) = true;
}

pub(crate) fn set_module_index(index: c_int) {
    MODULE_INDEX.store(index, Ordering::Relaxed);
}

/// Level of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Level {
    /// The module cannot do its work.
    Critical = ffi::APLOG_CRIT,
    /// Someone must act.
    Error = ffi::APLOG_ERR,
    /// Degraded, or data was lost.
    Warning = ffi::APLOG_WARNING,
    /// Worth knowing in normal operation.
    Notice = ffi::APLOG_NOTICE,
    /// Wanted with `LogLevel info`.
    Info = ffi::APLOG_INFO,
    /// Wanted with `LogLevel debug`.
    Debug = ffi::APLOG_DEBUG,
}

/// Where messages go. May be used by any thread of the process.
#[derive(Clone, Copy, Debug)]
pub struct Log(*const ffi::server_rec);

// SAFETY: the server's own worker threads write to the error log of the same server record at the same time; the
// record does not change after the configuration was read.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    /// The log of the process, when no server is at hand.
    pub fn process() -> Self {
        Self(ptr::null())
    }

    /// # Safety
    /// `server` is live as long as the log is used: until the configuration is read anew, or the child ends.
    pub(crate) unsafe fn server(server: *const ffi::server_rec) -> Self {
        Self(server)
    }

    /// Writes one message, if its level is wanted.
    #[track_caller]
    pub fn write(self, level: Level, text: &str) {
        let closed = CLOSED.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return;
        }
        let place = Location::caller();
        let (file, text) = (c_text(place.file()), c_text(text));
        let line = c_int::try_from(place.line()).unwrap_or(0);
        let index = MODULE_INDEX.load(Ordering::Relaxed);
        let level = (level as u32 | ffi::APLOG_NOERRNO).cast_signed();
        // SAFETY: both texts are NUL-terminated and live during the call; the server is null or live.
        unsafe { ffi::httpd_shim_log(file.as_ptr(), line, index, level, self.0, text.as_ptr()) };
    }
}

/// Writes a message while the server starts: to the console too.
#[track_caller]
pub fn at_start(pool: Pool<'_>, level: Level, text: &str) {
    let place = Location::caller();
    let (file, text) = (c_text(place.file()), c_text(text));
    let line = c_int::try_from(place.line()).unwrap_or(0);
    let index = MODULE_INDEX.load(Ordering::Relaxed);
    let level = (level as u32 | ffi::APLOG_NOERRNO | ffi::APLOG_STARTUP).cast_signed();
    // SAFETY: as above; the pool is live.
    unsafe { ffi::httpd_shim_log_pool(file.as_ptr(), line, index, level, pool.raw(), text.as_ptr()) };
}

/// The text up to a NUL byte, which no text of ours has.
fn c_text(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}
