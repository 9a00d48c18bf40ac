//! Waking the ring thread from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Tells the ring thread that there is something to take. Cheap to clone; many calls cost one wake-up.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: EventFd,
    /// Set from the first call until the ring thread looks; saves the system calls in between.
    pending: AtomicBool,
}

impl Waker {
    /// A waker for one ring thread.
    ///
    /// # Errors
    ///
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Inner { event, pending: AtomicBool::new(false) })))
    }

    /// Wakes the ring thread. Put first what it shall find.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: it is read before the flag is cleared.
            let _ = self.0.event.write(1);
        }
    }

    /// For the ring thread: to be called before it takes what is there. A wake-up from now on counts again.
    pub(super) fn clear(&self) {
        if self.0.pending.load(Ordering::SeqCst) {
            let _ = self.0.event.read();
            self.0.pending.store(false, Ordering::SeqCst);
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::super::sys::Waiter;
    use super::*;

    fn is_awake(waker: &Waker) -> bool {
        let mut waiter = Waiter::new([waker.as_fd().as_raw_fd()]);
        waiter.wait(Duration::ZERO).unwrap();
        waiter.is_ready(0)
    }

    #[test]
    fn wakes_once_until_cleared() {
        let waker = Waker::new().unwrap();
        assert!(!is_awake(&waker));
        waker.wake();
        waker.wake();
        assert!(is_awake(&waker));
        waker.clear();
        assert!(!is_awake(&waker));
        waker.wake();
        assert!(is_awake(&waker));
    }

    /// A wake-up between the look at the flag and the read must not be lost.
    #[test]
    fn no_wake_up_is_lost() {
        let waker = Waker::new().unwrap();
        let count = 20_000;
        let (send, receive) = crossbeam_channel::unbounded();
        let other = waker.clone();
        let thread = std::thread::spawn(move || {
            for i in 0..count {
                send.send(i).unwrap();
                other.wake();
            }
        });
        let mut waiter = Waiter::new([waker.as_fd().as_raw_fd()]);
        let mut got = 0;
        while got < count {
            waiter.wait(Duration::from_secs(10)).unwrap();
            assert!(waiter.is_ready(0), "lost after {got}");
            waker.clear();
            got += receive.try_iter().count();
        }
        thread.join().unwrap();
    }
}
