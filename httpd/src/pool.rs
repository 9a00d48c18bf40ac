//! Memory pools of the server.
// spec: httpd-ffi 8

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::ffi;
use crate::guard::guard;

/// A pool, borrowed for the length of a callback. Not usable from other threads, as pools are not thread-safe.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    raw: *mut ffi::apr_pool_t,
    life: PhantomData<&'a ffi::apr_pool_t>,
}

impl<'a> Pool<'a> {
    /// Wraps the server's pointer.
    ///
    /// # Safety
    /// `raw` is a live pool for `'a`, and only this thread uses it.
    pub(crate) unsafe fn from_raw(raw: *mut ffi::apr_pool_t) -> Self {
        Self { raw, life: PhantomData }
    }

    pub(crate) fn raw(self) -> *mut ffi::apr_pool_t {
        self.raw
    }

    /// Copies a text into the pool, up to its first NUL byte.
    pub fn text(self, text: &[u8]) -> &'a CStr {
        let text = until_nul(text);
        let len = text.len();
        // SAFETY: the pool is live (from_raw) and `len` bytes are readable; the copy is NUL-terminated and lives as
        // long as the pool. APR ends the process when memory is out, so the result is never null.
        unsafe { CStr::from_ptr(ffi::apr_pstrmemdup(self.raw, text.as_ptr().cast(), len as ffi::apr_size_t)) }
    }

    /// Memory of the pool, all zero, aligned for any type.
    pub fn zeroed(self, bytes: usize) -> NonNull<u8> {
        // SAFETY: the pool is live; APR never returns null (it aborts) and aligns to 8.
        unsafe {
            let memory = ffi::apr_palloc(self.raw, bytes as ffi::apr_size_t).cast::<u8>();
            memory.write_bytes(0, bytes);
            NonNull::new_unchecked(memory)
        }
    }

    /// Copies two texts into the pool, one behind the other.
    pub fn join(self, first: &[u8], second: &[u8]) -> &'a CStr {
        let (first, second) = (until_nul(first), until_nul(second));
        let bytes = first.len() + second.len() + 1;
        // SAFETY: the pool is live, APR never returns null, and both copies and the final NUL fit; the texts have no
        // NUL of their own. It lives as long as the pool.
        unsafe {
            let memory = ffi::apr_palloc(self.raw, bytes as ffi::apr_size_t).cast::<u8>();
            memory.copy_from_nonoverlapping(first.as_ptr(), first.len());
            memory.add(first.len()).copy_from_nonoverlapping(second.as_ptr(), second.len());
            memory.add(bytes - 1).write(0);
            CStr::from_ptr(memory.cast())
        }
    }

    /// Moves a value into memory of the pool. Nothing drops it.
    fn place<T: 'static>(self, value: T) -> NonNull<T> {
        // What APR aligns to; more would need another way.
        const { assert!(align_of::<T>() <= 8) };
        // SAFETY: the pool is live, APR never returns null, and the memory has room and is aligned for the value.
        unsafe {
            let memory = ffi::apr_palloc(self.raw, size_of::<T>().max(1) as ffi::apr_size_t).cast::<T>();
            memory.write(value);
            NonNull::new_unchecked(memory)
        }
    }

    /// Keeps a value until the pool is cleared or destroyed.
    pub(crate) fn keep<T: 'static>(self, value: T) -> NonNull<T> {
        let place = self.place(value);
        if std::mem::needs_drop::<T>() {
            let address = place.as_ptr() as usize;
            self.on_end(move || {
                // SAFETY: the value placed above; its memory outlives the cleanups of its pool, which run once.
                unsafe { (address as *mut T).drop_in_place() };
            });
        }
        place
    }

    /// A pool below this one that several threads may use at once.
    pub(crate) fn shared(self) -> Option<NonNull<ffi::apr_pool_t>> {
        // SAFETY: the pool is live; the new one has an allocator and a lock of its own.
        NonNull::new(unsafe { ffi::httpd_shim_shared_pool(self.raw) })
    }

    /// A null-terminated list of names in the pool, as the hook functions want it; null for an empty list.
    pub(crate) fn names(self, names: &[&'static CStr]) -> *const *const c_char {
        if names.is_empty() {
            return std::ptr::null();
        }
        let list = self.zeroed((names.len() + 1) * size_of::<*const c_char>()).cast::<*const c_char>();
        for (i, name) in names.iter().enumerate() {
            // SAFETY: the list has room for all names and the final null, which is there already.
            unsafe { list.add(i).write(name.as_ptr()) };
        }
        list.as_ptr()
    }

    /// Runs `end` when the pool is cleared or destroyed. Later registrations run first.
    pub fn on_end<F: FnOnce() + 'static>(self, end: F) {
        unsafe extern "C" fn run<F: FnOnce() + 'static>(data: *mut c_void) -> ffi::apr_status_t {
            // SAFETY: `data` was placed below; APR runs a cleanup once, before the memory of the pool goes.
            let end = unsafe { data.cast::<F>().read() };
            guard("a cleanup", (), end);
            0
        }
        let data = self.place(end).as_ptr().cast::<c_void>();
        // SAFETY: the pool is live; `run` gets exactly this data. In forked helpers (CGI) nothing happens.
        unsafe {
            ffi::apr_pool_cleanup_register(self.raw, data, Some(run::<F>), Some(ffi::apr_pool_cleanup_null));
        }
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.iter().position(|b| *b == 0).map_or(text, |end| &text[..end])
}
