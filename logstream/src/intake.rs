//! The bounded queue between the threads that end requests and the one thread that sends.
//!
//! The owner puts it behind a short lock: putting a line is a few stores and no allocation beyond the queue's own
//! growth, taking all is a swap. The number of a line is given here, under the same lock that fixes its place.
// spec: mod_log_spread 9.1, M-16, 4.4

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

/// Bytes that a queued line costs beside its own.
pub const RECORD_COST: usize = 64;

/// A line, or numbers that will never come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Index of the stream (group).
    pub stream: u32,
    /// Number of the line, or first number of the gap.
    pub seq: u64,
    /// Time of queuing, microseconds since 1970.
    pub time_us: u64,
    /// The rest.
    pub what: What,
}

/// Content of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A complete line with its line feed.
    Line {
        /// The bytes.
        data: Bytes,
        /// It was cut to the line limit.
        cut: bool,
    },
    /// No line with the numbers up to this one will come.
    Gap {
        /// Last number of the gap.
        to: u64,
        /// Why.
        why: GapWhy,
    },
}

/// Why a source has no line for a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum GapWhy {
    /// The queue (and the spool, if there is one) was full.
    QueueFull = 1,
    /// The process was killed with the line in memory only, or its place on the disk cannot be read.
    Crash = 2,
}

impl GapWhy {
    /// The word in a gap frame.
    pub fn text(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Crash => "crash",
        }
    }
}

impl Record {
    /// Bytes that the record takes of the queue's bound.
    pub fn cost(&self) -> usize {
        match &self.what {
            What::Line { data, .. } => data.len() + RECORD_COST,
            What::Gap { .. } => 0,
        }
    }

    /// Last number of the record.
    pub fn last(&self) -> u64 {
        match self.what {
            What::Line { .. } => self.seq,
            What::Gap { to, .. } => to,
        }
    }

    /// Lines of the record: 1, or 0 for a gap.
    pub fn lines(&self) -> u64 {
        u64::from(matches!(self.what, What::Line { .. }))
    }
}

/// What happens to a line when the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// The new line is dropped.
    #[default]
    DropNewest,
    /// The oldest lines that the sender has not yet taken are dropped to make room.
    DropOldest,
}

/// Result of [`Intake::push`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pushed {
    /// The new line is in the queue.
    pub accepted: bool,
    /// Lines that were dropped, the new one included.
    pub dropped: u64,
    /// The queue was empty before: the sender may be asleep.
    pub wake: bool,
    /// Number of the new line, also when it was dropped.
    pub seq: u64,
}

/// The queue. See the module for its place.
#[derive(Debug)]
pub struct Intake {
    max_bytes: usize,
    when_full: WhenFull,
    /// Cost of all lines in here and of those that the sender took and has not released.
    used: usize,
    high_water: usize,
    queue: VecDeque<Record>,
    /// Index of the first record in `queue` that may be a line (drop-oldest).
    oldest: usize,
    streams: Vec<Stream>,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    next: u64,
    /// First number and time of a gap that is still growing.
    gap: Option<(u64, u64)>,
}

impl Intake {
    /// A queue for `streams` groups that holds at most `max_bytes`, taken lines included.
    pub fn new(streams: usize, max_bytes: usize, when_full: WhenFull) -> Self {
        Self {
            max_bytes,
            when_full,
            used: 0,
            high_water: 0,
            queue: VecDeque::new(),
            oldest: 0,
            streams: vec![Stream { next: 1, gap: None }; streams],
            closed: false,
        }
    }

    /// Puts a line at the end of a stream. A line that does not fit is dropped and leaves a gap in the numbers.
    pub fn push(&mut self, stream: u32, time_us: u64, data: Bytes, cut: bool) -> Pushed {
        let Some(state) = self.streams.get_mut(stream as usize) else {
            return Pushed { dropped: 1, ..Pushed::default() };
        };
        let seq = state.next;
        state.next += 1;
        let record = Record { stream, seq, time_us, what: What::Line { data, cut } };
        let mut dropped = 0;
        if self.when_full == WhenFull::DropOldest {
            while self.used + record.cost() > self.max_bytes && self.drop_oldest() {
                dropped += 1;
            }
        }
        let state = &mut self.streams[stream as usize];
        if self.closed || self.used + record.cost() > self.max_bytes {
            state.gap.get_or_insert((seq, time_us));
            return Pushed { accepted: false, dropped: dropped + 1, wake: false, seq };
        }
        let wake = self.queue.is_empty();
        if let Some((from, time_us)) = state.gap.take() {
            self.queue.push_back(Record {
                stream,
                seq: from,
                time_us,
                what: What::Gap { to: seq - 1, why: GapWhy::QueueFull },
            });
        }
        self.used += record.cost();
        self.high_water = self.high_water.max(self.used);
        self.queue.push_back(record);
        Pushed { accepted: true, dropped, wake, seq }
    }

    /// Turns the oldest line in the queue into a gap.
    fn drop_oldest(&mut self) -> bool {
        while let Some(record) = self.queue.get_mut(self.oldest) {
            self.oldest += 1;
            let cost = record.cost();
            if cost > 0 {
                record.what = What::Gap { to: record.seq, why: GapWhy::QueueFull };
                self.used -= cost;
                return true;
            }
        }
        false
    }

    /// The record that was put last and not yet taken.
    pub fn newest(&self) -> Option<&Record> {
        self.queue.back()
    }

    /// Takes all records. `into` must be empty; its room is used for the lines to come.
    pub fn take(&mut self, into: &mut VecDeque<Record>) {
        self.oldest = 0;
        mem::swap(&mut self.queue, into);
        for (stream, state) in (0..).zip(&mut self.streams) {
            if let Some((from, time_us)) = state.gap.take() {
                into.push_back(Record {
                    stream,
                    seq: from,
                    time_us,
                    what: What::Gap { to: state.next - 1, why: GapWhy::QueueFull },
                });
            }
        }
    }

    /// Counts the cost of records that the sender read back from its spool. The sender sees to the bound.
    pub fn charge(&mut self, cost: usize) {
        self.used += cost;
        self.high_water = self.high_water.max(self.used);
    }

    /// Gives room back: the cost of records that were taken and are now done with.
    pub fn release(&mut self, cost: usize) {
        self.used = self.used.saturating_sub(cost);
    }

    /// True when a line of this cost (see [`RECORD_COST`]) would be taken.
    pub fn has_room(&self, cost: usize) -> bool {
        !self.closed && self.used + cost <= self.max_bytes
    }

    /// From now on every line is dropped.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// True when there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.streams.iter().all(|s| s.gap.is_none())
    }

    /// Bytes in use, taken lines included.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Most bytes ever in use.
    pub fn high_water(&self) -> usize {
        self.high_water
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize) -> Bytes {
        Bytes::from(vec![b'x'; n])
    }

    fn taken(intake: &mut Intake) -> Vec<(u64, u64)> {
        let mut all = VecDeque::new();
        intake.take(&mut all);
        all.iter().map(|r| (r.seq, r.last())).collect()
    }

    #[test]
    fn numbers_follow_the_order_of_the_queue_per_stream() {
        let mut intake = Intake::new(2, 1 << 20, WhenFull::DropNewest);
        assert!(intake.push(0, 0, line(1), false).wake);
        assert!(!intake.push(1, 0, line(1), false).wake);
        assert!(intake.push(0, 0, line(1), false).accepted);
        assert_eq!(taken(&mut intake), [(1, 1), (1, 1), (2, 2)]);
        assert!(intake.is_empty());
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_leaves_one_gap() {
        let mut intake = Intake::new(1, 2 * (10 + RECORD_COST), WhenFull::DropNewest);
        for _ in 0..5 {
            intake.push(0, 0, line(10), false);
        }
        assert_eq!(taken(&mut intake), [(1, 1), (2, 2), (3, 5)]);
        // The bound holds until the sender is done with what it took.
        assert_eq!(
            intake.push(0, 0, line(10), false),
            Pushed { accepted: false, dropped: 1, wake: false, seq: 6 }
        );
        intake.release(10 + RECORD_COST);
        assert!(intake.push(0, 0, line(10), false).accepted);
        assert_eq!(taken(&mut intake), [(6, 6), (7, 7)]);
        assert_eq!(intake.high_water(), 2 * (10 + RECORD_COST));
    }

    #[test]
    fn a_full_queue_can_drop_the_oldest() {
        let mut intake = Intake::new(1, 2 * (10 + RECORD_COST), WhenFull::DropOldest);
        for n in 1..=4 {
            let pushed = intake.push(0, 0, line(10), false);
            assert_eq!((pushed.accepted, pushed.dropped), (true, u64::from(n > 2)));
        }
        let mut all = VecDeque::new();
        intake.take(&mut all);
        let lines: Vec<u64> = all.iter().filter(|r| r.lines() == 1).map(|r| r.seq).collect();
        assert_eq!(lines, [3, 4]);
        // What the sender holds cannot be dropped any more: the new line goes.
        assert_eq!(
            intake.push(0, 0, line(10), false),
            Pushed { accepted: false, dropped: 1, wake: false, seq: 5 }
        );
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let mut intake = Intake::new(1, 1 << 20, WhenFull::DropNewest);
        intake.close();
        assert_eq!(
            intake.push(0, 0, line(1), false),
            Pushed { accepted: false, dropped: 1, wake: false, seq: 1 }
        );
        assert_eq!(intake.push(9, 0, line(1), false).dropped, 1);
        assert_eq!(taken(&mut intake), [(1, 1)]);
    }
}
