//! What waits to be written to one client.
//!
//! The ring thread appends whole batches, the session's writer takes all there is and writes it with few
//! system calls. The queue counts frames and bytes until they are written, not until they are taken, so its
//! load is what the client has not read yet.

use std::ops::Add;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use spread_wire::{Frame, Gap, GroupName};
use tokio::sync::Notify;

use super::slow::SlowAction;

/// A slice of a frame. A frame is one piece or several; only the last one has `ends_frame` set.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) ends_frame: bool,
    /// What happens to it when the client does not read; the same for all pieces of a frame.
    pub(crate) action: SlowAction,
    /// It is a gap mark.
    pub(crate) mark: bool,
}

/// How much a client has not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Frames; one that is partly written counts.
    pub(crate) frames: usize,
    /// Bytes of these frames.
    pub(crate) bytes: usize,
}

impl Load {
    fn exceeds(&self, max: &Self) -> bool {
        self.frames > max.frames || self.bytes > max.bytes
    }

    fn reaches(&self, max: &Self) -> bool {
        self.frames >= max.frames || self.bytes >= max.bytes
    }

    fn eighths(&self, n: usize) -> Self {
        Self { frames: self.frames / 8 * n, bytes: self.bytes / 8 * n }
    }

    fn minus(&self, other: &Self) -> Self {
        Self {
            frames: self.frames.saturating_sub(other.frames),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Add for Load {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { frames: self.frames + other.frames, bytes: self.bytes + other.bytes }
    }
}

/// What a walk through a queue has done.
#[derive(Clone, Copy, Debug, Default)]
struct Sifted {
    /// What was there, marks included.
    before: Load,
    /// What is left, marks included.
    after: Load,
    /// What was dropped: no marks.
    dropped: Load,
}

/// Drops frames for whose first piece `drops` holds. Where some are dropped a mark is put, unless `marks_for` is
/// `None`; neighbors become one.
fn sift(
    queue: &mut Vec<Piece>,
    marks_for: Option<&GroupName>,
    drops: impl Fn(&Piece, &Sifted) -> bool,
) -> Sifted {
    let mut sifted = Sifted::default();
    let mut gap = Gap::default();
    let mut at_start = true;
    let mut dropping = false;
    let old = std::mem::take(queue);
    queue.reserve(old.len());
    let put_mark = |queue: &mut Vec<Piece>, sifted: &mut Sifted, gap: &mut Gap| {
        if let Some(receiver) = marks_for.filter(|_| *gap != Gap::default()) {
            let bytes = gap.encode(receiver);
            sifted.after = sifted.after + Load { frames: 1, bytes: bytes.len() };
            queue.push(Piece { bytes, ends_frame: true, action: SlowAction::Disconnect, mark: true });
        }
        *gap = Gap::default();
    };
    for piece in old {
        let load = Load { frames: usize::from(piece.ends_frame), bytes: piece.bytes.len() };
        sifted.before = sifted.before + load;
        if piece.mark {
            gap = gap
                .and(Frame::parse(piece.bytes, Gap::LEN).ok().as_ref().and_then(Gap::of).unwrap_or_default());
            continue;
        }
        if at_start {
            dropping = drops(&piece, &sifted);
        }
        at_start = piece.ends_frame;
        if dropping {
            sifted.dropped = sifted.dropped + load;
            gap = gap.and(Gap { messages: load.frames as u64, bytes: load.bytes as u64 });
        } else {
            put_mark(queue, &mut sifted, &mut gap);
            sifted.after = sifted.after + load;
            queue.push(piece);
        }
    }
    put_mark(queue, &mut sifted, &mut gap);
    sifted
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
    /// Bytes of these.
    written_bytes: AtomicU64,
    /// The client's private group if it wants to know where messages were dropped.
    marks_for: Option<GroupName>,
    state: AtomicU8,
    /// The socket took no more at the last try.
    blocked: AtomicBool,
    /// The ring thread wants to know when there is little left, or the client has stopped to read.
    watched: AtomicBool,
    /// Something was appended.
    filled: Notify,
    /// There is more than should be in memory.
    overfull: Notify,
    /// The state changed.
    changed: Notify,
}

impl Outbox {
    /// The queue of a client that gets gap marks if `marks_for` is its private group.
    pub(crate) fn new(marks_for: Option<GroupName>) -> Self {
        Self { marks_for, ..Self::default() }
    }

    /// Appends `pieces` (left empty) that hold `added` and wakes the writer. If the client does not read, and there
    /// is more than `shed_above`, frames are dropped as their actions say. Returns the load afterwards, and what was
    /// dropped.
    pub(crate) fn append(
        &self,
        pieces: &mut Vec<Piece>,
        mut added: Load,
        shed_above: Option<Load>,
    ) -> (Load, Load) {
        if self.state.load(Ordering::Acquire) != OPEN {
            pieces.clear();
            return Default::default();
        }
        let mut dropped = Load::default();
        if let Some(max) = shed_above.filter(|max| self.is_blocked() && (self.load() + added).exceeds(max)) {
            dropped = self.shed(pieces, &mut added, max);
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
        (Load { frames, bytes }, dropped)
    }

    /// Drops the oldest frames, first of the queue, then of `pieces`, and of the newest ones those without room.
    /// The writer may have taken some already: those stay.
    fn shed(&self, pieces: &mut Vec<Piece>, added: &mut Load, max: Load) -> Load {
        let mut queue = self.lock();
        let load = self.load();
        // An eighth more than needed: not every further message is to cost a walk through the queue.
        let excess = (load + *added).minus(&max.eighths(7));
        let oldest = |excess: Load| {
            move |piece: &Piece, sifted: &Sifted| {
                piece.action == SlowAction::DropOldest
                    && (sifted.dropped.frames < excess.frames || sifted.dropped.bytes < excess.bytes)
            }
        };
        let marks_for = self.marks_for.as_ref();
        let first = sift(&mut queue, marks_for, oldest(excess));
        self.frames.fetch_sub(first.before.frames, Ordering::Relaxed);
        self.bytes.fetch_sub(first.before.bytes, Ordering::SeqCst);
        self.frames.fetch_add(first.after.frames, Ordering::Relaxed);
        self.bytes.fetch_add(first.after.bytes, Ordering::SeqCst);
        let second = sift(pieces, marks_for, oldest(excess.minus(&first.dropped)));
        let load = self.load();
        let third = sift(pieces, marks_for, |piece, sifted| {
            piece.action == SlowAction::DropNewest && (load + sifted.after).reaches(&max)
        });
        *added = third.after;
        first.dropped + second.dropped + third.dropped
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
        self.written_bytes.fetch_add(done.bytes as u64, Ordering::Relaxed);
    }

    /// So much was moved to disk.
    pub(crate) fn spilled(&self, moved: Load) {
        self.frames.fetch_sub(moved.frames, Ordering::Relaxed);
        self.bytes.fetch_sub(moved.bytes, Ordering::SeqCst);
    }

    /// Tells the writer that there is more than should be in memory.
    pub(crate) fn set_overfull(&self) {
        self.overfull.notify_one();
    }

    /// Waits for [`set_overfull`](Self::set_overfull).
    pub(crate) async fn overfull(&self) {
        self.overfull.notified().await;
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

    /// Frames and bytes written since the start.
    pub(crate) fn written_total(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.written_bytes.load(Ordering::Relaxed))
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
    use spread_wire::PrivateGroup;

    use super::*;

    fn frame(bytes: Bytes, action: SlowAction) -> Piece {
        Piece { bytes, ends_frame: true, action, mark: false }
    }

    fn piece(text: &'static str) -> Piece {
        frame(Bytes::from_static(text.as_bytes()), SlowAction::Disconnect)
    }

    #[tokio::test]
    async fn load_counts_until_written() {
        let outbox = Outbox::default();
        let mut batch = vec![piece("abc"), piece("de")];
        let (load, _) = outbox.append(&mut batch, Load { frames: 2, bytes: 5 }, None);
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
        let big = frame(Bytes::from(vec![0; 100]), SlowAction::Disconnect);
        outbox.append(&mut vec![big], Load { frames: 1, bytes: BEHIND_BYTES + 1 }, None);
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
        outbox.append(&mut vec![piece("abc")], Load { frames: 1, bytes: 3 }, None);
        outbox.discard();
        outbox.dying().await;
        assert!(!outbox.take(&mut Vec::new()));
        outbox.append(&mut vec![piece("abc")], Load { frames: 1, bytes: 3 }, None);
        assert!(!outbox.take(&mut Vec::new()));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), outbox.closed()).await.is_err());
        outbox.close();
        outbox.closed().await;
    }

    /// The bytes of the queue, marks as the number of messages.
    fn shown(outbox: &Outbox) -> Vec<String> {
        let mut all = Vec::new();
        outbox.take(&mut all);
        let sum: usize = all.iter().map(|piece| piece.bytes.len()).sum();
        assert_eq!(outbox.load(), Load { frames: all.len(), bytes: sum });
        let shown = |piece: &Piece| {
            let frame = Frame::parse(piece.bytes.clone(), Gap::LEN);
            match frame.ok().as_ref().and_then(Gap::of) {
                Some(gap) => format!("[{}, {} bytes]", gap.messages, gap.bytes),
                None => String::from_utf8_lossy(&piece.bytes).into_owned(),
            }
        };
        all.iter().map(shown).collect()
    }

    /// Appends frames of two bytes one by one: `o` is dropped when old, `n` when new, `k` never.
    fn append_all(outbox: &Outbox, frames: &str, max: usize) -> usize {
        let mut dropped = 0;
        for name in frames.split(' ') {
            let action = match name.as_bytes()[0] {
                b'o' => SlowAction::DropOldest,
                b'n' => SlowAction::DropNewest,
                _ => SlowAction::Disconnect,
            };
            let max = Load { frames: max, bytes: 1 << 20 };
            let mut batch = vec![frame(Bytes::copy_from_slice(name.as_bytes()), action)];
            let added = Load { frames: 1, bytes: name.len() };
            dropped += outbox.append(&mut batch, added, Some(max)).1.frames;
        }
        dropped
    }

    #[test]
    fn old_or_new_frames_are_dropped_and_marks_say_where() {
        let me = PrivateGroup::parse(b"#me#d").unwrap().as_group();
        let outbox = Outbox::new(Some(me));
        assert_eq!(append_all(&outbox, "o1 o2 o3 o4 o5 o6 o7 o8 o9", 8), 0, "the client reads");
        assert_eq!(shown(&outbox).len(), 9);
        outbox.written(outbox.load());
        outbox.set_blocked(true);
        // With the mark there is one frame more than without.
        assert_eq!(append_all(&outbox, "o1 k1 o2 o3 o4 o5 o6 o7 o8", 8), 2);
        assert_eq!(
            shown(&outbox),
            ["[1, 2 bytes]", "k1", "[1, 2 bytes]", "o3", "o4", "o5", "o6", "o7", "o8"]
        );
        outbox.written(outbox.load());
        assert_eq!(append_all(&outbox, "n1 n2 n3 n4 n5 n6 n7 n8 n9 na k1 nb", 8), 3);
        assert_eq!(
            shown(&outbox),
            ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "[2, 4 bytes]", "k1", "[1, 2 bytes]"]
        );
    }

    #[test]
    fn neighbors_of_marks_become_one_mark_and_the_queue_stays_bounded() {
        let outbox = Outbox::new(Some(PrivateGroup::parse(b"#me#d").unwrap().as_group()));
        outbox.set_blocked(true);
        let names: Vec<_> = (0..1000).map(|i| format!("o{i:03}")).collect();
        let dropped = append_all(&outbox, &names.join(" "), 16);
        let shown = shown(&outbox);
        assert!(shown.len() <= 17, "{}", shown.len());
        assert_eq!(shown[0], format!("[{dropped}, {} bytes]", dropped * 4));
        assert_eq!(shown[1..], names[dropped..]);
        // Without the wish for marks there are none.
        let outbox = Outbox::default();
        outbox.set_blocked(true);
        let dropped = append_all(&outbox, &names.join(" "), 16);
        let mut all = Vec::new();
        outbox.take(&mut all);
        assert_eq!(all.len(), 1000 - dropped);
        assert!(all.len() <= 16);
    }
}
