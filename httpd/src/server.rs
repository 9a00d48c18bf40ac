//! Views of what the server shows to a callback.

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;

use crate::ffi;
use crate::log::Log;
use crate::pool::Pool;

/// Bytes of a text that may be null.
///
/// # Safety
/// `text` is null or a NUL-terminated text that lives for `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: by contract.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text).to_bytes() })
}

/// A server: the main one or a virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    raw: *mut ffi::server_rec,
    life: PhantomData<&'a ffi::server_rec>,
}

impl<'a> Server<'a> {
    /// Wraps the server's pointer.
    ///
    /// # Safety
    /// `raw` is a live server record for `'a`.
    pub(crate) unsafe fn from_raw(raw: *mut ffi::server_rec) -> Self {
        Self { raw, life: PhantomData }
    }

    /// The canonical host name (`%v`), if one is configured or was found.
    pub fn hostname(self) -> Option<&'a [u8]> {
        // SAFETY: the record is live and its texts live as long.
        unsafe { bytes((*self.raw).server_hostname) }
    }

    /// True for a virtual host.
    pub fn is_virtual(self) -> bool {
        // SAFETY: the record is live.
        unsafe { (*self.raw).is_virtual != 0 }
    }

    /// The main server and all virtual hosts, beginning with this one.
    pub fn list(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |s| {
            // SAFETY: the list of servers is complete and ends with null.
            let next = unsafe { (*s.raw).next };
            (!next.is_null()).then_some(Self { raw: next, life: PhantomData })
        })
    }

    /// The error log of the server.
    pub fn log(self) -> Log {
        // SAFETY: server records live as long as the configuration, which a child keeps to its end.
        unsafe { Log::server(self.raw) }
    }

    pub(crate) fn raw(self) -> *mut ffi::server_rec {
        self.raw
    }

    pub(crate) fn config_vector(self) -> *const ffi::ap_conf_vector_t {
        // SAFETY: the record is live.
        unsafe { (*self.raw).module_config }
    }
}

/// A request, in the thread that works on it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    raw: *mut ffi::request_rec,
    life: PhantomData<&'a ffi::request_rec>,
}

/// Form of the status page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusForm {
    /// A page for people.
    Html,
    /// `Key: value` lines (`?auto`).
    Auto,
}

impl<'a> Request<'a> {
    /// Wraps the server's pointer.
    ///
    /// # Safety
    /// `raw` is a live request for `'a`, and this thread works on it.
    pub(crate) unsafe fn from_raw(raw: *mut ffi::request_rec) -> Self {
        Self { raw, life: PhantomData }
    }

    pub(crate) fn raw(self) -> *mut ffi::request_rec {
        self.raw
    }

    /// The server that answers.
    pub fn server(self) -> Server<'a> {
        // SAFETY: a request always has a server, which outlives it.
        unsafe { Server::from_raw((*self.raw).server) }
    }

    /// The pool of the request.
    pub fn pool(self) -> Pool<'a> {
        // SAFETY: a request always has a pool, used by its thread.
        unsafe { Pool::from_raw((*self.raw).pool) }
    }

    /// Writes to the body of the response. False when the client is gone.
    pub fn write(self, text: &[u8]) -> bool {
        text.chunks(1 << 20).all(|part| {
            let len = c_int::try_from(part.len()).unwrap_or(0);
            // SAFETY: `len` bytes are readable and the request is live.
            unsafe { ffi::ap_rwrite(part.as_ptr().cast(), len, self.raw) >= 0 }
        })
    }
}

/// What the server is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MainState {
    /// First of the two passes over the configuration at start.
    FirstPass,
    /// Later passes: the second at start, and each restart.
    Configuring,
    /// Anything else.
    Other,
}

impl MainState {
    /// Asks the server.
    pub fn now() -> Self {
        // SAFETY: a plain query.
        match unsafe { ffi::ap_state_query(ffi::AP_SQ_MAIN_STATE as c_int) } as u32 {
            ffi::AP_SQ_MS_CREATE_PRE_CONFIG => Self::FirstPass,
            ffi::AP_SQ_MS_CREATE_CONFIG => Self::Configuring,
            _ => Self::Other,
        }
    }
}

/// User and group of the children. In the parent, after the configuration was read.
pub fn run_user() -> (u32, u32) {
    let (mut user, mut group) = (0, 0);
    // SAFETY: writes two integers.
    unsafe { ffi::httpd_shim_run_user(&raw mut user, &raw mut group) };
    (user, group)
}

/// How often the server was restarted gracefully.
pub fn generation() -> Option<u32> {
    query(ffi::AP_MPMQ_GENERATION)
}

/// Most child processes that may run at once.
pub fn children_max() -> Option<u32> {
    query(ffi::AP_MPMQ_MAX_DAEMONS)
}

fn query(what: u32) -> Option<u32> {
    let mut value: c_int = 0;
    // SAFETY: a plain query that writes one int.
    let status = unsafe { ffi::ap_mpm_query(what as c_int, &raw mut value) };
    (status == 0).then(|| u32::try_from(value).ok()).flatten()
}
