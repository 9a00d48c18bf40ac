//! System calls and locks in the form this interface needs: no read-ahead, locks that a fork can reset, one wait that a
//! thread can be cancelled in.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::io;
use std::time::{Duration, Instant};

/// A moment until which something may take; `None`: no limit.
pub(crate) type Deadline = Option<Instant>;

/// A lock without an owner in the type system: it is taken in one function and may be reset in the child of a fork.
pub(crate) struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a mutex is made to be used by several threads; it is only touched through the functions below.
unsafe impl Sync for Lock {}
// SAFETY: it is never moved while it is taken: it lives in a static or behind an `Arc`.
unsafe impl Send for Lock {}

impl Lock {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }

    pub(crate) fn lock(&self) {
        // SAFETY: initialized in `new`.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }

    pub(crate) fn try_lock(&self) -> bool {
        // SAFETY: initialized in `new`.
        unsafe { libc::pthread_mutex_trylock(self.0.get()) == 0 }
    }

    /// The caller has taken it.
    pub(crate) fn unlock(&self) {
        // SAFETY: initialized in `new`, and taken by the caller.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }

    /// Makes it free, in the child of a fork, where no other thread can hold it.
    pub(crate) fn reset(&self) {
        // SAFETY: the child has one thread, which is here.
        unsafe { self.0.get().write(libc::PTHREAD_MUTEX_INITIALIZER) };
    }
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    /// The wait in which a thread may be cancelled: the C library then unwinds through the caller.
    fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int;
}

const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// While it exists, the thread is not cancelled.
pub(crate) struct NoCancel(c_int);

impl NoCancel {
    pub(crate) fn new() -> Self {
        let mut old = 0;
        // SAFETY: both arguments are valid.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut old) };
        Self(old)
    }
}

impl Drop for NoCancel {
    fn drop(&mut self) {
        let mut ignored = 0;
        // SAFETY: the state is the one that was read.
        unsafe { pthread_setcancelstate(self.0, &raw mut ignored) };
    }
}

/// Waits until the descriptor can be read. The thread may be cancelled here: the caller has nothing to drop.
#[inline(never)]
pub(crate) fn wait_readable_or_cancelled(fd: c_int) {
    let mut fds = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry. Whatever the outcome, the caller looks for itself.
    unsafe { poll(&raw mut fds, 1, -1) };
}

/// Waits for the events; `false` when the time has passed.
pub(crate) fn wait(fd: c_int, events: i16, deadline: Deadline) -> io::Result<bool> {
    loop {
        let timeout = match deadline {
            None => -1,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                c_int::try_from(left.as_micros().div_ceil(1000).min(1_000_000)).unwrap_or(c_int::MAX)
            }
        };
        let mut fds = libc::pollfd { fd, events, revents: 0 };
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut fds, 1, timeout) } {
            0 if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(false),
            0 => {}
            1.. => return Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Reads what is there, up to the length of `space`; `WouldBlock`: nothing.
pub(crate) fn read_now(fd: c_int, space: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the space is valid for its length.
        let n = unsafe { libc::recv(fd, space.as_mut_ptr().cast(), space.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Reads exactly the space, waiting for it until the deadline. `TimedOut` when that has passed, `UnexpectedEof` when the
/// other side has closed; `done` counts what was read in any case.
pub(crate) fn read_exact(
    fd: c_int,
    space: &mut [u8],
    done: &mut usize,
    deadline: Deadline,
) -> io::Result<()> {
    while *done < space.len() {
        match read_now(fd, &mut space[*done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => *done += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(fd, libc::POLLIN, deadline)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills all pieces, waiting without limit.
///
/// # Safety
///
/// The pieces are valid for writing.
pub(crate) unsafe fn read_pieces(fd: c_int, mut pieces: &mut [libc::iovec]) -> io::Result<()> {
    loop {
        pieces = skip(pieces, 0);
        if pieces.is_empty() {
            return Ok(());
        }
        // SAFETY: a message header of zeros is valid and empty.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = pieces.len();
        // SAFETY: the pieces are valid for writing.
        let n = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_WAITALL) };
        match usize::try_from(n) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => pieces = skip(pieces, n),
            Err(_) => again(fd, libc::POLLIN)?,
        }
    }
}

/// Writes all pieces, waiting without limit.
///
/// # Safety
///
/// The pieces are valid for reading.
pub(crate) unsafe fn write_pieces(fd: c_int, mut pieces: &mut [libc::iovec]) -> io::Result<()> {
    loop {
        pieces = skip(pieces, 0);
        if pieces.is_empty() {
            return Ok(());
        }
        // SAFETY: a message header of zeros is valid and empty.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = pieces.len();
        // SAFETY: the pieces are valid for reading.
        let n = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(n) {
            Ok(n) => pieces = skip(pieces, n),
            Err(_) => again(fd, libc::POLLOUT)?,
        }
    }
}

/// Writes what the socket takes at once.
pub(crate) fn write_now(fd: c_int, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the bytes are valid for their length.
        let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
        match usize::try_from(n) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// After a failed call: waits if the program has made the descriptor non-blocking, goes on after a signal.
fn again(fd: c_int, events: i16) -> io::Result<()> {
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error if error.kind() == io::ErrorKind::WouldBlock => wait(fd, events, None).map(|_| ()),
        error => Err(error),
    }
}

/// Takes `n` bytes off the front of the pieces, and empty ones.
fn skip(mut pieces: &mut [libc::iovec], mut n: usize) -> &mut [libc::iovec] {
    while let Some(first) = pieces.first_mut() {
        if n < first.iov_len {
            first.iov_base = first.iov_base.cast::<u8>().wrapping_add(n).cast();
            first.iov_len -= n;
            break;
        }
        n -= first.iov_len;
        pieces = &mut pieces[1..];
    }
    pieces
}

/// The moment that long from now; `None` if there is none that far.
pub(crate) fn after(limit: Duration) -> Deadline {
    Instant::now().checked_add(limit)
}
