//! Taking over the log writer of mod_log_config: names of our own become handles, all others go on as before.
// spec: mod_log_spread 7

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ffi;
use crate::guard::guard;
use crate::pool::Pool;
use crate::server::{Request, Server, bytes};

/// What a module does with log names of its own.
pub trait LogWriter: 'static {
    /// A log directive names this log. `Some` takes it: the number comes back with each line. Called in the parent,
    /// for every reading of the configuration.
    fn open(server: Server<'_>, name: &[u8]) -> Option<u32>;

    /// A line for a log that was taken, in portions. Called by any thread of a child.
    fn write(request: Request<'_>, log: u32, portions: Portions<'_>);
}

/// A log line in the portions that mod_log_config made.
#[derive(Clone, Copy, Debug)]
pub struct Portions<'a> {
    texts: &'a [*const c_char],
    lengths: &'a [c_int],
}

impl<'a> Portions<'a> {
    /// The portions in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.texts.iter().zip(self.lengths).filter(|(text, _)| !text.is_null()).map(|(text, len)| {
            // SAFETY: mod_log_config gives a length for each text, of which so many bytes are readable during the
            // call; a negative one counts as none.
            unsafe { slice::from_raw_parts(text.cast(), usize::try_from(*len).unwrap_or(0)) }
        })
    }

    /// Bytes of the line.
    pub fn len(self) -> usize {
        self.lengths.iter().filter_map(|len| usize::try_from(*len).ok()).sum()
    }

    /// True for a line without bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What mod_log_config finds behind our pointer. With BufferedLogs it takes every handle for its own buffer and
/// flushes it when the child ends; zero words there make it do nothing.
#[repr(C)]
struct Handle {
    zero: [u8; 16],
    log: u32,
}

/// Handles of the reading under way.
static OPENED: Mutex<Vec<(usize, u32)>> = Mutex::new(Vec::new());
/// The sorted handles that the writer looks through; never changed while a child runs.
static HANDLES: AtomicPtr<Vec<(usize, u32)>> = AtomicPtr::new(ptr::null_mut());
static INIT_BEFORE: AtomicUsize = AtomicUsize::new(0);
static WRITER_BEFORE: AtomicUsize = AtomicUsize::new(0);

type Init = unsafe extern "C" fn(*mut ffi::apr_pool_t, *mut ffi::server_rec, *const c_char) -> *mut c_void;
type Writer = unsafe extern "C" fn(
    *mut ffi::request_rec,
    *mut c_void,
    *mut *const c_char,
    *mut c_int,
    c_int,
    ffi::apr_size_t,
) -> ffi::apr_status_t;

/// Forgets the handles of a former reading. In `pre_config`.
pub fn reset() {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).clear();
    set_handles(ptr::null_mut());
}

/// Puts `W` before the present writer. In `open_logs`, before mod_log_config. False when that is not loaded.
pub fn take<W: LogWriter>() -> bool {
    let (mut init_before, mut writer_before) = (None, None);
    // SAFETY: the shim installs two functions of the right types and writes the previous ones.
    let found = unsafe {
        ffi::httpd_shim_take_log_writer(
            Some(init::<W>),
            Some(writer::<W>),
            &raw mut init_before,
            &raw mut writer_before,
        )
    };
    INIT_BEFORE.store(init_before.map_or(0, |f| f as usize), Ordering::Relaxed);
    WRITER_BEFORE.store(writer_before.map_or(0, |f| f as usize), Ordering::Relaxed);
    found != 0
}

/// Makes the opened handles known to the writer. In `open_logs`, after mod_log_config.
pub fn freeze() {
    let mut handles = std::mem::take(&mut *OPENED.lock().unwrap_or_else(PoisonError::into_inner));
    handles.sort_unstable();
    set_handles(Box::into_raw(Box::new(handles)));
}

fn set_handles(new: *mut Vec<(usize, u32)>) {
    let old = HANDLES.swap(new, Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: made by `freeze`; the parent, which alone calls this, has no writer thread that could still read.
        drop(unsafe { Box::from_raw(old) });
    }
}

unsafe extern "C" fn init<W: LogWriter>(
    p: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
    name: *const c_char,
) -> *mut c_void {
    // SAFETY: the server gives live pointers and a NUL-terminated name.
    let (pool, server, text) =
        unsafe { (Pool::from_raw(p), Server::from_raw(s), bytes(name).unwrap_or_default()) };
    let ours = guard("open of a log", None, || {
        let log = W::open(server, text)?;
        let handle = pool.zeroed(size_of::<Handle>()).cast::<Handle>();
        // SAFETY: fresh zeroed memory of the right size; APR aligns for any type.
        unsafe { (*handle.as_ptr()).log = log };
        OPENED.lock().unwrap_or_else(PoisonError::into_inner).push((handle.as_ptr() as usize, log));
        Some(handle.as_ptr().cast::<c_void>())
    });
    match (ours, INIT_BEFORE.load(Ordering::Relaxed)) {
        (Some(handle), _) => handle,
        (None, 0) => ptr::null_mut(),
        // SAFETY: the address of a function of this type, stored by `take`.
        (None, before) => unsafe { std::mem::transmute::<usize, Init>(before)(p, s, name) },
    }
}

unsafe extern "C" fn writer<W: LogWriter>(
    r: *mut ffi::request_rec,
    handle: *mut c_void,
    texts: *mut *const c_char,
    lengths: *mut c_int,
    count: c_int,
    len: ffi::apr_size_t,
) -> ffi::apr_status_t {
    match find(handle as usize) {
        Some(log) => {
            let n = usize::try_from(count).unwrap_or(0);
            if n > 0 && !texts.is_null() && !lengths.is_null() {
                // SAFETY: mod_log_config gives `count` texts and lengths, and the live request of this thread.
                let (request, portions) = unsafe {
                    let texts = slice::from_raw_parts(texts, n);
                    let lengths = slice::from_raw_parts(lengths, n);
                    (Request::from_raw(r), Portions { texts, lengths })
                };
                guard("write of a log line", (), || W::write(request, log, portions));
            }
            // Any other value would make mod_log_config warn for every line.
            0
        }
        None => match WRITER_BEFORE.load(Ordering::Relaxed) {
            0 => 0,
            // SAFETY: the address of a function of this type, stored by `take`.
            before => unsafe {
                std::mem::transmute::<usize, Writer>(before)(r, handle, texts, lengths, count, len)
            },
        },
    }
}

/// The number of a handle, if it is ours: by its address, never by looking through a foreign pointer.
fn find(handle: usize) -> Option<u32> {
    // SAFETY: null, or the vector of `freeze`, which stays until the next reading of the configuration.
    let handles = unsafe { HANDLES.load(Ordering::Acquire).as_ref() }?;
    let at = handles.binary_search_by_key(&handle, |(address, _)| *address).ok()?;
    Some(handles[at].1)
}
