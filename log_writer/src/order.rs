//! Lines in the order of their own times.
//!
//! A line is published at the end of its request and bears the time of its begin, so delivery order is not time order.
//! Lines are held until the largest time seen is a window later than their own; what is released when depends on the
//! lines alone, so two writers still write the same bytes. Only when the stream stands still are held lines released by
//! the clock.
// spec: log_writer L-14, L-15

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log_stream::SourceId;

use tracing::info;

use crate::route::time_of;
use crate::skew::{Change, Skews};

/// A line that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its group.
    pub group: Bytes,
    /// The line.
    pub line: Bytes,
    /// Source and number.
    pub origin: Option<(SourceId, u64)>,
}

/// Lines that are held.
#[derive(Debug)]
pub struct TimeOrder {
    window_s: i64,
    /// By time and place in the order of delivery.
    held: BTreeMap<(i64, u64), Held>,
    bytes: usize,
    bytes_max: usize,
    delivered: u64,
    /// Time of the line before, for lines without one.
    before: i64,
    newest: i64,
    /// Lines up to this time were released.
    released: i64,
    late: u64,
    skews: Skews,
    last_push: Option<Instant>,
    window: Duration,
}

impl TimeOrder {
    /// Holds lines for a window, and at most so many bytes.
    pub fn new(window: Duration, bytes_max: usize) -> Self {
        // Times in lines are whole seconds.
        let window_s = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        Self {
            window_s,
            skews: Skews::new(window_s),
            held: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            delivered: 0,
            before: i64::MIN,
            newest: i64::MIN,
            released: i64::MIN,
            late: 0,
            last_push: None,
            window,
        }
    }

    /// Takes a line; gives the lines that are due, in order.
    pub fn push(&mut self, now: Instant, held: Held, out: &mut Vec<Held>) {
        let time = match (stamp(&held.line), held.origin) {
            (Some(time), Some((source, _))) => {
                let (time, change) = self.skews.time(source, time);
                if let Some(change) = change {
                    self.learn(&change);
                }
                time
            }
            (time, _) => time.unwrap_or(self.before),
        };
        self.before = time;
        self.newest = self.newest.max(time);
        self.last_push = Some(now);
        self.delivered += 1;
        if time < self.released {
            self.late += 1;
            out.push(held);
        } else {
            self.bytes += held.line.len();
            self.held.insert((time, self.delivered), held);
        }
        let due = self.newest.saturating_sub(self.window_s);
        while let Some(entry) = self.held.first_entry() {
            // A line exactly as old as the window may still be followed by others of its second.
            if entry.key().0 >= due && self.bytes <= self.bytes_max {
                break;
            }
            self.released = self.released.max(entry.key().0);
            let held = entry.remove();
            self.bytes -= held.line.len();
            out.push(held);
        }
    }

    /// Clocks are seen in another way than before: so are the lines that wait.
    fn learn(&mut self, change: &Change) {
        for (source, by) in &change.sources {
            if *by > 0 {
                info!(%source, ahead_s = by, "The clock of a source is ahead of others; its lines are ordered as if it were right.");
            } else {
                info!(%source, "The clock of a source was set right.");
            }
        }
        self.newest = change.newest;
        self.released = self.released.min(self.newest.saturating_sub(self.window_s));
        let seen = |held: &Held, time: i64| {
            let by = held.origin.and_then(|(source, _)| change.sources.get(&source));
            time.saturating_sub(by.copied().unwrap_or(0))
        };
        let held = std::mem::take(&mut self.held).into_iter();
        self.held = held.map(|((time, n), held)| ((seen(&held, time), n), held)).collect();
    }

    /// When held lines are released if no other comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.last_push.filter(|_| !self.held.is_empty()).map(|at| at + self.window)
    }

    /// Releases everything.
    pub fn release(&mut self, out: &mut Vec<Held>) {
        if let Some(((time, _), _)) = self.held.last_key_value() {
            self.released = self.released.max(*time);
        }
        self.bytes = 0;
        out.extend(std::mem::take(&mut self.held).into_values());
    }

    /// The lowest number of each source that is held.
    pub fn lowest(&self) -> BTreeMap<(Bytes, SourceId), u64> {
        let mut lowest = BTreeMap::new();
        for held in self.held.values() {
            if let Some((source, seq)) = held.origin {
                let entry = lowest.entry((held.group.clone(), source)).or_insert(seq);
                *entry = seq.min(*entry);
            }
        }
        lowest
    }

    /// Sources whose clocks are ahead, in seconds.
    pub fn ahead(&self) -> Vec<(SourceId, i64)> {
        self.skews.ahead().collect()
    }

    /// Lines that are held, and lines that came too late for their place.
    pub fn counts(&self) -> (usize, u64) {
        (self.held.len(), self.late)
    }
}

/// The time of a line, in seconds since 1970.
fn stamp(line: &[u8]) -> Option<i64> {
    let at = time_of(line)?;
    access_log::parse_clf_time(line.get(at + 1..at + 27)?).map(|stamp| stamp.unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(second: u32, n: u64) -> Held {
        let line = format!("h - - [10/Oct/2000:13:55:{second:02} +0000] \"GET /{n} HTTP/1.1\" 200 5\n");
        Held {
            group: Bytes::from_static(b"g"),
            line: line.into(),
            origin: Some((SourceId([u8::try_from(n % 2).expect("small"); 16]), n)),
        }
    }

    fn numbers(out: &mut Vec<Held>) -> Vec<u64> {
        out.drain(..).map(|h| h.origin.map_or(0, |o| o.1)).collect()
    }

    #[test]
    fn lines_are_released_by_time_once_others_are_a_window_later() {
        let (mut order, now) = (TimeOrder::new(Duration::from_secs(5), 1 << 20), Instant::now());
        let mut out = Vec::new();
        for (n, second) in [10, 8, 12, 9, 10].into_iter().enumerate() {
            order.push(now, held(second, n as u64 + 1), &mut out);
        }
        assert_eq!(numbers(&mut out), [0; 0]);
        assert_eq!(order.lowest().into_values().collect::<Vec<_>>(), [2, 1]);
        order.push(now, held(16, 6), &mut out);
        assert_eq!(numbers(&mut out), [2, 4, 1, 5]);
        // Too late for its place.
        order.push(now, held(7, 7), &mut out);
        assert_eq!((numbers(&mut out), order.counts()), (vec![7], (2, 1)));
        // Without a time: that of the line before, so late as well.
        order.push(now, Held { line: Bytes::from_static(b"x\n"), ..held(0, 8) }, &mut out);
        assert_eq!(numbers(&mut out), [8]);
        assert_eq!(order.deadline(), Some(now + Duration::from_secs(5)));
        order.release(&mut out);
        assert_eq!((numbers(&mut out), order.deadline()), (vec![3, 6], None));
    }

    #[test]
    fn a_source_that_is_an_hour_ahead_does_not_make_the_others_late() {
        let (mut order, now) = (TimeOrder::new(Duration::from_secs(5), 1 << 20), Instant::now());
        let mut out = Vec::new();
        for n in 0..120_u64 {
            let (second, fast) = (n / 2, n % 2 == 1);
            let hour = if fast { 14 } else { 13 };
            let line =
                format!("h - - [10/Oct/2000:{hour}:55:{second:02} +0000] \"GET /{n} HTTP/1.1\" 200 5\n");
            order.push(now, Held { line: line.into(), ..held(0, n) }, &mut out);
        }
        // Until it is known for sure, a few are.
        assert!(order.counts().1 <= 4, "{:?}", order.counts());
        assert_eq!(order.ahead().len(), 1);
        order.release(&mut out);
        let mut numbers = numbers(&mut out);
        // In the order of true times, but for these.
        assert!(numbers[16..].is_sorted_by_key(|n| n / 2), "{numbers:?}");
        numbers.sort_unstable();
        assert_eq!(numbers, (0..120).collect::<Vec<_>>());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut order, now) = (TimeOrder::new(Duration::from_secs(5), 300), Instant::now());
        let mut out = Vec::new();
        for n in 1..=100 {
            order.push(now, held(10, n), &mut out);
        }
        assert!(order.counts().0 < 8);
        order.release(&mut out);
        assert_eq!(numbers(&mut out), (1..=100).collect::<Vec<_>>());
    }
}
