//! The bounded queue between the reader and the writer of a session.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spread::blocking::Sender;

/// Bytes that a queued message costs beside its own.
const ITEM_COST: usize = 128;

/// What the reader tells the writer, in order.
#[derive(Debug)]
pub enum Item {
    /// A session is up; answers go through this.
    Up(Sender),
    /// The session is gone.
    Lost,
    /// A message.
    Message(Message),
}

/// A message as the writer needs it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Private group of the sender.
    pub sender: Bytes,
    /// The log group (without the audit suffix).
    pub group: Bytes,
    /// It came in the audit group of that log group.
    pub audit: bool,
    /// Type that the sender gave.
    pub mess_type: i16,
    /// The bytes.
    pub payload: Bytes,
}

impl Item {
    fn cost(&self) -> usize {
        match self {
            Self::Message(message) => message.payload.len() + ITEM_COST,
            Self::Up(_) | Self::Lost => 0,
        }
    }
}

/// The queue. Messages that the writer took count until it says that it is done with them.
#[derive(Debug)]
pub struct Queue {
    max_bytes: usize,
    inner: Mutex<Inner>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    used: usize,
    high_water: usize,
    wake: bool,
    closed: bool,
}

/// What [`Queue::push`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// The item is in the queue.
    Done,
    /// It is in the queue, after waiting for room for this long.
    Waited(Duration),
    /// The writer has ended; the item is gone.
    Closed,
}

impl Queue {
    /// A queue that holds at most about `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, inner: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item; waits while the queue is full. `full` is called once before waiting.
    pub fn push(&self, item: Item, full: impl FnOnce()) -> Pushed {
        let cost = item.cost();
        let mut inner = self.lock();
        let mut waited = None;
        let no_room = |i: &mut Inner| !i.closed && i.used > 0 && i.used + cost > self.max_bytes;
        if no_room(&mut inner) {
            let begun = Instant::now();
            drop(inner);
            full();
            inner = self.emptied.wait_while(self.lock(), no_room).unwrap_or_else(PoisonError::into_inner);
            waited = Some(begun.elapsed());
        }
        if inner.closed {
            return Pushed::Closed;
        }
        inner.used += cost;
        inner.high_water = inner.high_water.max(inner.used);
        inner.items.push_back(item);
        drop(inner);
        self.filled.notify_one();
        waited.map_or(Pushed::Done, Pushed::Waited)
    }

    /// Takes all items; waits for some, for [`Queue::wake`] or for the end of `limit`.
    pub fn take(&self, limit: Duration) -> VecDeque<Item> {
        let nothing = |i: &mut Inner| i.items.is_empty() && !i.wake;
        let (mut inner, _) = self
            .filled
            .wait_timeout_while(self.lock(), limit, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        inner.wake = false;
        std::mem::take(&mut inner.items)
    }

    /// Gives the room of taken items back.
    pub fn done(&self, cost: usize) {
        let mut inner = self.lock();
        inner.used = inner.used.saturating_sub(cost);
        drop(inner);
        self.emptied.notify_all();
    }

    /// Cost of an item, for [`Queue::done`].
    pub fn cost(item: &Item) -> usize {
        item.cost()
    }

    /// Ends a wait in [`Queue::take`].
    pub fn wake(&self) {
        self.lock().wake = true;
        self.filled.notify_all();
    }

    /// Nothing is taken any more: the reader must end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.emptied.notify_all();
        self.wake();
    }

    /// Bytes in use and most bytes ever in use.
    pub fn fill(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.used, inner.high_water)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn message(n: usize) -> Item {
        Item::Message(Message {
            sender: Bytes::new(),
            group: Bytes::new(),
            audit: false,
            mess_type: 1,
            payload: Bytes::from(vec![b'x'; n]),
        })
    }

    #[test]
    fn a_full_queue_holds_the_reader_until_the_writer_is_done() {
        let queue = Arc::new(Queue::new(1000));
        assert_eq!(queue.push(message(500), || panic!("there is room")), Pushed::Done);
        let (other, told) = (Arc::clone(&queue), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&told);
        let reader = thread::spawn(move || other.push(message(500), || flag.store(true, Ordering::SeqCst)));
        let first = queue.take(Duration::from_secs(10));
        assert_eq!(first.len(), 1, "the second does not fit while the first is not done");
        while !told.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        queue.done(first.iter().map(Queue::cost).sum());
        assert!(matches!(reader.join().expect("no panic"), Pushed::Waited(_)));
        assert_eq!(queue.take(Duration::from_secs(10)).len(), 1);
        assert!(queue.fill().1 <= 1000);
    }

    #[test]
    fn one_message_larger_than_the_queue_still_passes() {
        let queue = Queue::new(100);
        assert_eq!(queue.push(message(5000), || ()), Pushed::Done);
    }

    #[test]
    fn a_closed_queue_lets_the_reader_go() {
        let queue = Arc::new(Queue::new(1));
        assert_eq!(queue.push(message(1), || ()), Pushed::Done);
        let other = Arc::clone(&queue);
        let reader = thread::spawn(move || other.push(message(1), || ()));
        queue.close();
        assert_eq!(reader.join().expect("no panic"), Pushed::Closed);
    }

    #[test]
    fn a_wake_ends_the_wait() {
        let queue = Queue::new(1);
        queue.wake();
        assert!(queue.take(Duration::from_secs(60)).is_empty());
    }
}
