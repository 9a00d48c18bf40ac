//! The mailboxes of this process.
//!
//! A session is active until a send or receive fails, then in error until the program gives it up. Its descriptor is
//! closed under both of its locks, so that no thread uses a number that may belong to somebody else by then.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Once};

use spread_wire::limits::{HEADER, PROCESS_SESSIONS_MAX};
use spread_wire::{GroupName, build, codes};

use crate::guard;
use crate::sys::{Lock, NoCancel, write_now};

const ACTIVE: u8 = 0;
const ERROR: u8 = 1;
const CLOSED: u8 = 2;

pub(crate) struct Session {
    pub(crate) fd: c_int,
    /// Tells sessions with the same descriptor number apart.
    pub(crate) id: u64,
    /// The private group.
    pub(crate) own: GroupName,
    state: AtomicU8,
    /// Set when the descriptor is to be closed by whoever is still using it.
    close_later: AtomicBool,
    send: Lock,
    receive: Lock,
    /// A header that was read while its message did not fit the program's buffers. Under the receive lock.
    saved: UnsafeCell<Option<[u8; HEADER]>>,
}

// SAFETY: `saved` is touched under the receive lock only.
unsafe impl Sync for Session {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Session {}

impl Session {
    /// The error of a session that cannot be used: 0 if it can.
    pub(crate) fn error(&self) -> c_int {
        match self.state.load(Ordering::Acquire) {
            ACTIVE => 0,
            ERROR => codes::NET_ERROR_ON_SESSION,
            _ => codes::CONNECTION_CLOSED,
        }
    }

    /// Marks an active session as failed; gives the code for the call that met the failure.
    pub(crate) fn fail(&self) -> c_int {
        // A session that was closed meanwhile stays so.
        let _ = self.state.compare_exchange(ACTIVE, ERROR, Ordering::AcqRel, Ordering::Acquire);
        codes::CONNECTION_CLOSED
    }

    /// Runs `body` as the only sender.
    pub(crate) fn sending<T>(&self, body: impl FnOnce() -> T) -> T {
        let _no_cancel = NoCancel::new();
        self.send.lock();
        let result = body();
        self.send.unlock();
        self.close_if_asked();
        result
    }

    /// Runs `body` as the only receiver, with the saved header.
    pub(crate) fn receiving<T>(&self, body: impl FnOnce(&mut Option<[u8; HEADER]>) -> T) -> T {
        let _no_cancel = NoCancel::new();
        self.receive.lock();
        // SAFETY: under the receive lock.
        let result = body(unsafe { &mut *self.saved.get() });
        self.receive.unlock();
        self.close_if_asked();
        result
    }

    /// Tells the daemon, wakes threads that wait on the socket, and closes it. Waits for nobody but threads that are
    /// about to see the end.
    fn disconnect(&self) {
        let _no_cancel = NoCancel::new();
        let was = self.state.swap(CLOSED, Ordering::AcqRel);
        if was == ACTIVE && self.send.try_lock() {
            // What does not fit now is not worth waiting for: closing says the same.
            let _ = write_now(self.fd, &build::kill(&self.own));
            self.send.unlock();
        }
        // SAFETY: the descriptor is ours until it is closed below. Bytes that are under way are not lost.
        unsafe { libc::shutdown(self.fd, libc::SHUT_RDWR) };
        self.receive.lock();
        self.send.lock();
        self.close();
        self.send.unlock();
        self.receive.unlock();
    }

    /// Closes the socket without a word. A copy in another process stays as it is.
    fn abandon(&self) {
        self.state.store(CLOSED, Ordering::Release);
        self.close_later.store(true, Ordering::Release);
        self.close_if_asked();
    }

    /// Closes the descriptor if it is to be and nobody uses it; otherwise whoever does will come here.
    fn close_if_asked(&self) {
        if !self.close_later.load(Ordering::Acquire) {
            return;
        }
        if self.receive.try_lock() {
            if self.send.try_lock() {
                if self.close_later.swap(false, Ordering::AcqRel) {
                    self.close();
                }
                self.send.unlock();
            }
            self.receive.unlock();
        }
    }

    fn close(&self) {
        // SAFETY: ours, closed once: here, after the session has left the table.
        unsafe { libc::close(self.fd) };
    }
}

struct Table {
    lock: Lock,
    sessions: UnsafeCell<BTreeMap<c_int, Arc<Session>>>,
}

// SAFETY: `sessions` is touched under the lock only, or by the only thread of a forked child.
unsafe impl Sync for Table {}

static TABLE: Table = Table { lock: Lock::new(), sessions: UnsafeCell::new(BTreeMap::new()) };

fn with_table<T>(body: impl FnOnce(&mut BTreeMap<c_int, Arc<Session>>) -> T) -> T {
    let _no_cancel = NoCancel::new();
    TABLE.lock.lock();
    // SAFETY: under the lock; `body` does not come back here.
    let result = body(unsafe { &mut *TABLE.sessions.get() });
    TABLE.lock.unlock();
    result
}

/// The session of a mailbox.
pub(crate) fn find(mbox: c_int) -> Option<Arc<Session>> {
    with_table(|sessions| sessions.get(&mbox).cloned())
}

/// Whether this process has as many sessions as it may.
pub(crate) fn is_full() -> bool {
    with_table(|sessions| sessions.len() >= PROCESS_SESSIONS_MAX)
}

/// Enters a new session; the descriptor is its mailbox.
pub(crate) fn insert(fd: c_int, own: GroupName) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let session = Session {
        fd,
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        own,
        state: AtomicU8::new(ACTIVE),
        close_later: AtomicBool::new(false),
        send: Lock::new(),
        receive: Lock::new(),
        saved: UnsafeCell::new(None),
    };
    // A program may have closed the descriptor behind our back; the system has then given its number again.
    let _ = with_table(|sessions| sessions.insert(fd, Arc::new(session)));
}

fn remove(mbox: c_int) -> Option<Arc<Session>> {
    with_table(|sessions| sessions.remove(&mbox))
}

/// Disconnects; the code of the C interface.
pub fn disconnect(mbox: c_int) -> c_int {
    match remove(mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(session) => {
            session.disconnect();
            0
        }
    }
}

/// Once in a process: SIGPIPE is ignored, and forks are prepared for.
///
/// spec: c-api 6.3, 6.4
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both calls are given what they ask for; the handlers below are safe between fork and exec.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child));
        }
    });
}

unsafe extern "C" fn before_fork() {
    TABLE.lock.lock();
}

unsafe extern "C" fn in_parent() {
    TABLE.lock.unlock();
}

unsafe extern "C" fn in_child() {
    TABLE.lock.reset();
    // SAFETY: the child has one thread, and the fork was made under the lock: the table is whole.
    for session in unsafe { &*TABLE.sessions.get() }.values() {
        session.send.reset();
        session.receive.reset();
    }
}

/// Ends a session in order. 0, also for one in error; -11 for an unknown mailbox.
#[unsafe(no_mangle)]
pub extern "C" fn SP_disconnect(mbox: c_int) -> c_int {
    guard(|| disconnect(mbox))
}

/// Gives up a session without telling the daemon, for the copy of a mailbox that another process goes on using.
#[unsafe(no_mangle)]
pub extern "C" fn SP_kill(mbox: c_int) {
    guard(|| {
        if let Some(session) = remove(mbox) {
            session.abandon();
        }
        0
    });
}
