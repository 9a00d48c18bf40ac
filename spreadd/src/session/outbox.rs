//! What waits to be written to one client.
//!
//! The ring thread appends whole batches, the session's writer takes all there is and writes it with few
//! system calls. The queue counts frames and bytes until they are written, not until they are taken, so its
//! load is what the client has not read yet.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// A slice of a frame. A frame is one piece or several; only the last one has `ends_frame` set.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) ends_frame: bool,
}

/// How much a client has not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Frames; one that is partly written counts.
    pub(crate) frames: usize,
    /// Bytes of these frames.
    pub(crate) bytes: usize,
}

/// Bytes that wait for a writer from which on the daemon takes no more requests until it has written them.
pub(crate) const BEHIND_BYTES: usize = 4 << 20;

const OPEN: u8 = 0;
/// The removal is ordered: nothing is read or written any more, the socket stays open.
const DYING: u8 = 1;
/// The removal is delivered: the socket can be closed.
const CLOSED: u8 = 2;

/// The queue between the ring thread and the writer of one session.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: Mutex<Vec<Piece>>,
    frames: AtomicUsize,
    bytes: AtomicUsize,
    /// Frames written since the start.
    written: AtomicU64,
    state: AtomicU8,
    /// The socket took no more at the last try.
    blocked: AtomicBool,
    /// The ring thread wants to know when there is little left, or the client has stopped to read.
    watched: AtomicBool,
    /// Something was appended.
    filled: Notify,
    /// The state changed.
    changed: Notify,
}

impl Outbox {
    /// Appends `pieces` (left empty) that hold `added` and wakes the writer. Returns the load afterwards.
    pub(crate) fn append(&self, pieces: &mut Vec<Piece>, added: Load) -> Load {
        if self.state.load(Ordering::Acquire) != OPEN {
            pieces.clear();
            return Load::default();
        }
        // Counted before the writer can see the pieces: it subtracts what it has written.
        let frames = self.frames.fetch_add(added.frames, Ordering::Relaxed) + added.frames;
        let bytes = self.bytes.fetch_add(added.bytes, Ordering::Relaxed) + added.bytes;
        {
            let mut queue = self.lock();
            if queue.is_empty() {
                std::mem::swap(&mut *queue, pieces);
            } else {
                queue.append(pieces);
            }
        }
        self.filled.notify_one();
        Load { frames, bytes }
    }

    /// Ends reading and writing: throws away what waits. The socket stays open until [`close`](Self::close).
    pub(crate) fn discard(&self) {
        let _ = self.state.compare_exchange(OPEN, DYING, Ordering::AcqRel, Ordering::Acquire);
        self.lock().clear();
        self.changed.notify_waiters();
    }

    /// The session is removed; its task may close the socket.
    pub(crate) fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
        self.lock().clear();
        self.changed.notify_waiters();
    }

    /// Exchanges what waits for the empty `taken`. Returns whether there was anything.
    pub(crate) fn take(&self, taken: &mut Vec<Piece>) -> bool {
        debug_assert!(taken.is_empty());
        std::mem::swap(&mut *self.lock(), taken);
        !taken.is_empty()
    }

    /// Waits until something may have been appended.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The writer has written so much.
    pub(crate) fn written(&self, done: Load) {
        self.frames.fetch_sub(done.frames, Ordering::Relaxed);
        // In one order with `watched`, as is `blocked`: a wake-up must not be missed.
        self.bytes.fetch_sub(done.bytes, Ordering::SeqCst);
        self.written.fetch_add(done.frames as u64, Ordering::Relaxed);
    }

    /// The writer says whether the socket takes no more.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::SeqCst);
    }

    /// Whether the socket took no more at the last try: the client does not read. Otherwise what waits here
    /// waits for the writer.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::SeqCst)
    }

    /// Asks the writer to wake the ring thread when [`is_behind`](Self::is_behind) is over.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// Whether the writer has much to do that it could do: the daemon, not the client, is behind.
    pub(crate) fn is_behind(&self, limit: usize) -> bool {
        !self.is_blocked() && self.bytes.load(Ordering::SeqCst) > limit
    }

    /// For the writer: whether to wake the ring thread now. True once for each [`watch`](Self::watch).
    pub(crate) fn is_relieved(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
            && !self.is_behind(BEHIND_BYTES / 2)
            && self.watched.swap(false, Ordering::SeqCst)
    }

    /// Frames written since the start.
    pub(crate) fn written_total(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The load now.
    pub(crate) fn load(&self) -> Load {
        Load { frames: self.frames.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Waits until the session is dying or closed.
    pub(crate) async fn dying(&self) {
        self.reached(DYING).await;
    }

    /// Waits until the session is closed.
    pub(crate) async fn closed(&self) {
        self.reached(CLOSED).await;
    }

    async fn reached(&self, state: u8) {
        loop {
            // Registered before the look, so that a change in between is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.state.load(Ordering::Acquire) >= state {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &'static str) -> Piece {
        Piece { bytes: Bytes::from_static(text.as_bytes()), ends_frame: true }
    }

    #[tokio::test]
    async fn load_counts_until_written() {
        let outbox = Outbox::default();
        let mut batch = vec![piece("abc"), piece("de")];
        let load = outbox.append(&mut batch, Load { frames: 2, bytes: 5 });
        assert_eq!(load, Load { frames: 2, bytes: 5 });
        assert!(batch.is_empty());
        outbox.filled().await;
        let mut taken = Vec::new();
        assert!(outbox.take(&mut taken));
        assert_eq!(taken.len(), 2);
        assert_eq!(outbox.load(), load, "taken is not written");
        outbox.written(Load { frames: 1, bytes: 3 });
        assert_eq!(outbox.load(), Load { frames: 1, bytes: 2 });
    }

    #[test]
    fn a_writer_that_is_behind_tells_once_when_it_is_not_any_more() {
        let outbox = Outbox::default();
        let big = Piece { bytes: Bytes::from(vec![0; 100]), ends_frame: true };
        outbox.append(&mut vec![big], Load { frames: 1, bytes: BEHIND_BYTES + 1 });
        assert!(outbox.is_behind(BEHIND_BYTES));
        outbox.set_blocked(true);
        assert!(!outbox.is_behind(BEHIND_BYTES), "then the client is");
        outbox.set_blocked(false);
        assert!(!outbox.is_relieved(), "nobody asked");
        outbox.watch();
        assert!(!outbox.is_relieved());
        outbox.written(Load { frames: 0, bytes: BEHIND_BYTES / 2 + 1 });
        assert!(outbox.is_relieved());
        assert!(!outbox.is_relieved(), "told already");
    }

    #[tokio::test]
    async fn dying_takes_nothing_more_and_closes_later() {
        let outbox = Outbox::default();
        outbox.append(&mut vec![piece("abc")], Load { frames: 1, bytes: 3 });
        outbox.discard();
        outbox.dying().await;
        assert!(!outbox.take(&mut Vec::new()));
        outbox.append(&mut vec![piece("abc")], Load { frames: 1, bytes: 3 });
        assert!(!outbox.take(&mut Vec::new()));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), outbox.closed()).await.is_err());
        outbox.close();
        outbox.closed().await;
    }
}
