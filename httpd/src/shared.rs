//! Memory that the children share with the parent and that stays over restarts.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::ffi;

/// A value in shared memory. It is made once in the life of a server, in the parent; graceful restarts find it
/// again, and all children, old and new, see the same one.
///
/// `T` is used by several processes at once: only atomics make sense in it, and all zero bytes must be its start.
#[derive(Debug)]
pub struct Shared<T: Zeroed> {
    value: NonNull<T>,
    own: PhantomData<T>,
}

/// Types whose start is all zero bytes and that many processes may change at once.
///
/// # Safety
/// All zero bytes are a valid value; all changes go through atomics; no pointers inside.
pub unsafe trait Zeroed: Sync + 'static {}

impl<T: Zeroed> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Zeroed> Copy for Shared<T> {}

// SAFETY: `T` is Sync and never freed.
unsafe impl<T: Zeroed> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroed> Sync for Shared<T> {}

impl<T: Zeroed> Shared<T> {
    /// The value that is kept under `key`; made when there is none yet. In the parent only, never in a child.
    ///
    /// # Errors
    /// When the system gives no memory.
    pub fn retained(key: &'static CStr) -> std::io::Result<Self> {
        // SAFETY: the server keeps one pointer-sized, zeroed place per key for its whole life.
        unsafe {
            let mut place = ffi::ap_retained_data_get(key.as_ptr()).cast::<*mut T>();
            if place.is_null() {
                place =
                    ffi::ap_retained_data_create(key.as_ptr(), size_of::<*mut T>() as ffi::apr_size_t).cast();
            }
            if (*place).is_null() {
                *place = map::<T>()?.as_ptr();
            }
            Ok(Self { value: NonNull::new_unchecked(*place), own: PhantomData })
        }
    }
}

impl<T: Zeroed> Shared<T> {
    /// The value, for as long as the process lives.
    pub fn get(self) -> &'static T {
        // SAFETY: the mapping is never removed and `T` allows zero bytes as its start.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Zeroed> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is never removed and `T` allows zero bytes as its start.
        unsafe { self.value.as_ref() }
    }
}

fn map<T>() -> std::io::Result<NonNull<T>> {
    // SAFETY: a fresh anonymous mapping; page alignment is enough for any `T`.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<T>().max(1),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| std::io::Error::other("the system mapped address zero"))
}
