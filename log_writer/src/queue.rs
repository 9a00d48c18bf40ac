//! The bounded queue between the reader and the writer of a session.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spread::blocking::Sender;

use crate::spill::Spill;

/// A reader that waits looks for room at least so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
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

/// The queue. Messages that the writer took count until it says that it is done with them. When memory is full, more
/// wait in a spill on disk.
#[derive(Debug)]
pub struct Queue {
    max_bytes: usize,
    inner: Mutex<Inner>,
    /// Apart from `inner`, which is never locked while a disk works. Locked before `inner`, and until the items are counted.
    spill: Option<Mutex<Spill>>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    used: usize,
    high_water: usize,
    /// Items in the spill: all of them are younger than `items`.
    spilled: u64,
    spilled_total: u64,
    spill_high_water: u64,
    wake: bool,
    closed: bool,
}

/// What [`Queue::push`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// The item is in the queue.
    Done,
    /// Memory is full: from this item on they wait on disk.
    Spills,
    /// It is in the queue, after waiting for room for this long.
    Waited(Duration),
    /// The writer has ended; the item is gone.
    Closed,
}

/// How full the queue is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fill {
    /// Bytes in memory.
    pub bytes: usize,
    /// Most bytes that were in memory.
    pub high_water: usize,
    /// Items on disk.
    pub spilled: u64,
    /// Items that were ever on disk.
    pub spilled_total: u64,
    /// Most bytes that were on disk.
    pub spill_high_water: u64,
}

impl Queue {
    /// A queue that holds at most about `max_bytes` in memory.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            inner: Mutex::default(),
            spill: None,
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    /// A queue that has more room on disk.
    pub fn with_spill(max_bytes: usize, spill: Spill) -> Self {
        Self { spill: Some(Mutex::new(spill)), ..Self::new(max_bytes) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item; waits while the queue is full. `full` is called once before waiting, with what the disk said if
    /// it is the reason. To be called by one thread only.
    pub fn push(&self, item: Item, full: impl FnOnce(Option<io::Error>)) -> Pushed {
        let cost = item.cost();
        let room = |i: &Inner| i.spilled == 0 && (i.used == 0 || i.used + cost <= self.max_bytes);
        let (mut item, mut full, mut begun) = (item, Some(full), None::<Instant>);
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return Pushed::Closed;
            }
            if room(&inner) {
                inner.used += cost;
                inner.high_water = inner.high_water.max(inner.used);
                inner.items.push_back(item);
                drop(inner);
                self.filled.notify_one();
                return begun.map_or(Pushed::Done, |at| Pushed::Waited(at.elapsed()));
            }
            let first = inner.spilled == 0;
            drop(inner);
            let mut why = None;
            if let Some(spill) = &self.spill {
                let mut spill = spill.lock().unwrap_or_else(PoisonError::into_inner);
                match spill.push(item) {
                    Ok(()) => {
                        let mut inner = self.lock();
                        inner.spilled += 1;
                        inner.spilled_total += 1;
                        inner.spill_high_water = inner.spill_high_water.max(spill.bytes());
                        drop(inner);
                        drop(spill);
                        self.filled.notify_one();
                        return match begun {
                            Some(at) => Pushed::Waited(at.elapsed()),
                            None if first => Pushed::Spills,
                            None => Pushed::Done,
                        };
                    }
                    Err((back, error)) => (item, why) = (back, error),
                }
            }
            begun.get_or_insert_with(Instant::now);
            if let Some(full) = full.take() {
                full(why);
            }
            inner = self.lock();
            if !room(&inner) && !inner.closed {
                // A spill may have room without a notice: it is looked at now and then.
                let wait = self.emptied.wait_timeout(inner, LOOK_EVERY);
                inner = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Takes items, oldest first; waits for some, for [`Queue::wake`] or for the end of `limit`.
    ///
    /// # Errors
    /// When the spill cannot be read: its messages are lost.
    pub fn take(&self, limit: Duration) -> io::Result<VecDeque<Item>> {
        let nothing = |i: &mut Inner| i.items.is_empty() && i.spilled == 0 && !i.wake;
        let (mut inner, _) = self
            .filled
            .wait_timeout_while(self.lock(), limit, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        inner.wake = false;
        if inner.items.is_empty()
            && inner.spilled > 0
            && let Some(spill) = &self.spill
        {
            drop(inner);
            let mut spill = spill.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = spill.take();
            let mut inner = self.lock();
            match taken {
                Ok(items) => {
                    inner.spilled -= items.len() as u64;
                    inner.used += items.iter().map(Item::cost).sum::<usize>();
                    return Ok(items.into());
                }
                Err(error) => {
                    // What is no message must not be lost with the rest.
                    inner.spilled = 0;
                    inner.items.extend(spill.clear());
                    return Err(error);
                }
            }
        }
        Ok(std::mem::take(&mut inner.items))
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

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let inner = self.lock();
        Fill {
            bytes: inner.used,
            high_water: inner.high_water,
            spilled: inner.spilled,
            spilled_total: inner.spilled_total,
            spill_high_water: inner.spill_high_water,
        }
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
        assert_eq!(queue.push(message(500), |_| panic!("there is room")), Pushed::Done);
        let (other, told) = (Arc::clone(&queue), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&told);
        let reader = thread::spawn(move || other.push(message(500), |_| flag.store(true, Ordering::SeqCst)));
        let first = queue.take(Duration::from_secs(10)).expect("memory");
        assert_eq!(first.len(), 1, "the second does not fit while the first is not done");
        while !told.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        queue.done(first.iter().map(Queue::cost).sum());
        assert!(matches!(reader.join().expect("no panic"), Pushed::Waited(_)));
        assert_eq!(queue.take(Duration::from_secs(10)).expect("memory").len(), 1);
        assert!(queue.fill().high_water <= 1000);
    }

    #[test]
    fn one_message_larger_than_the_queue_still_passes() {
        let queue = Queue::new(100);
        assert_eq!(queue.push(message(5000), |_| ()), Pushed::Done);
    }

    #[test]
    fn a_closed_queue_lets_the_reader_go() {
        let queue = Arc::new(Queue::new(1));
        assert_eq!(queue.push(message(1), |_| ()), Pushed::Done);
        let other = Arc::clone(&queue);
        let reader = thread::spawn(move || other.push(message(1), |_| ()));
        queue.close();
        assert_eq!(reader.join().expect("no panic"), Pushed::Closed);
    }

    #[test]
    fn what_does_not_fit_into_memory_waits_on_disk_in_order() {
        let dir = tempfile::tempdir().expect("dir");
        let spill = Spill::new(dir.path().join("s"), 50 << 20);
        let queue = Arc::new(Queue::with_spill(100_000, spill));
        let pusher = Arc::clone(&queue);
        let numbered = |n: u64| {
            let Item::Message(m) = message(0) else { panic!("a message") };
            Item::Message(Message { payload: [&n.to_be_bytes()[..], &[0; 500]].concat().into(), ..m })
        };
        let reader = thread::spawn(move || {
            let mut spills = 0;
            for n in 0..50_000 {
                match pusher.push(numbered(n), |why| panic!("there is room: {why:?}")) {
                    Pushed::Done => {}
                    Pushed::Spills => spills += 1,
                    other => panic!("{other:?}"),
                }
            }
            spills
        });
        let mut next = 0u64;
        while next < 50_000 {
            let items = queue.take(Duration::from_secs(20)).expect("readable");
            assert!(!items.is_empty(), "{:?}", queue.fill());
            for item in &items {
                let Item::Message(m) = item else { panic!("a message") };
                assert_eq!(m.payload[..8], next.to_be_bytes());
                next += 1;
            }
            queue.done(items.iter().map(Queue::cost).sum());
            if next.is_multiple_of(3) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let fill = queue.fill();
        assert!(reader.join().expect("no panic") >= 1 && fill.spilled_total > 0, "{fill:?}");
        assert_eq!((fill.spilled, fill.bytes), (0, 0));
        assert_eq!(queue.push(message(1), |_| ()), Pushed::Done);
    }

    #[test]
    fn a_spill_that_is_full_holds_the_reader() {
        let dir = tempfile::tempdir().expect("dir");
        let queue = Arc::new(Queue::with_spill(1000, Spill::new(dir.path().join("s"), 1000)));
        assert_eq!(queue.push(message(600), |_| ()), Pushed::Done);
        assert_eq!(queue.push(message(600), |_| ()), Pushed::Spills);
        let (other, told) = (Arc::clone(&queue), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&told);
        let reader = thread::spawn(move || other.push(message(600), |_| flag.store(true, Ordering::SeqCst)));
        while !told.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        for _ in 0..3 {
            let items = queue.take(Duration::from_secs(20)).expect("readable");
            assert_eq!(items.len(), 1);
            queue.done(items.iter().map(Queue::cost).sum());
        }
        assert!(matches!(reader.join().expect("no panic"), Pushed::Waited(_)));
    }

    #[test]
    fn a_wake_ends_the_wait() {
        let queue = Queue::new(1);
        queue.wake();
        assert!(queue.take(Duration::from_secs(60)).expect("memory").is_empty());
    }
}
