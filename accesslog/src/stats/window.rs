//! Counters of the last second, ten seconds, minute and hour, by the time in the entries themselves.
//!
//! What counts is the second that an entry names, not the moment it arrives: so figures can be recomputed
//! from the unified log, and late entries (an entry is logged at the end of its request and names the start)
//! are put where they belong.

use std::ops::AddAssign;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests.
    pub requests: u64,
    /// Bytes of the responses.
    pub bytes: u64,
    /// By status: 0 none or outside of 100 to 599, 1 to 5 the class.
    pub classes: [u64; 6],
}

impl Counters {
    /// Counters of one request.
    pub fn one(status: Option<u16>, bytes: Option<u64>) -> Self {
        let class = status.map_or(0, |status| usize::from(status / 100));
        let mut classes = [0; 6];
        classes[if class > 5 { 0 } else { class }] = 1;
        Self { requests: 1, bytes: bytes.unwrap_or(0), classes }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (mine, theirs) in self.classes.iter_mut().zip(other.classes) {
            *mine += theirs;
        }
    }
}

/// A length of time to look back. The hour moves in steps of a minute, the others in steps of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// The last complete second.
    Second,
    /// The last ten seconds.
    TenSeconds,
    /// The last minute.
    Minute,
    /// The last sixty minutes.
    Hour,
}

impl Span {
    /// From the shortest.
    pub const ALL: [Self; 4] = [Self::Second, Self::TenSeconds, Self::Minute, Self::Hour];

    /// Its length in seconds.
    pub fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }
}

/// Seconds and minutes that are kept, one more than the longest span looks back, for the running one.
const SECONDS: usize = 64;
const MINUTES: usize = 61;

/// Slots of equal length in a ring, each of them of one period of time.
#[derive(Clone, Debug)]
struct Slots<const N: usize> {
    /// Period number and its counters.
    slots: Box<[(i64, Counters); N]>,
}

impl<const N: usize> Default for Slots<N> {
    fn default() -> Self {
        Self { slots: Box::new([(i64::MIN, Counters::default()); N]) }
    }
}

impl<const N: usize> Slots<N> {
    fn add(&mut self, period: i64, counters: Counters) {
        let slot = &mut self.slots[index::<N>(period)];
        if slot.0 < period {
            *slot = (period, Counters::default());
        }
        // An entry older than what the slot holds is too late for this ring.
        if slot.0 == period {
            slot.1 += counters;
        }
    }

    fn sum(&self, first: i64, last: i64) -> Counters {
        let mut sum = Counters::default();
        let inside = self.slots.iter().filter(|(period, _)| (first..=last).contains(period));
        inside.for_each(|(_, counters)| sum += *counters);
        sum
    }

    fn at(&self, period: i64) -> Counters {
        let slot = self.slots[index::<N>(period)];
        if slot.0 == period { slot.1 } else { Counters::default() }
    }
}

fn index<const N: usize>(period: i64) -> usize {
    i64::try_from(N).map_or(0, |n| usize::try_from(period.rem_euclid(n)).unwrap_or(0))
}

/// Sliding windows of counters: about 9 KiB.
#[derive(Clone, Debug, Default)]
pub struct Window {
    seconds: Slots<SECONDS>,
    minutes: Slots<MINUTES>,
    total: Counters,
}

impl Window {
    /// Adds what happened in `second` (since 1970). What is older than an hour only counts in the total.
    pub fn add(&mut self, second: i64, counters: Counters) {
        self.seconds.add(second, counters);
        self.minutes.add(second.div_euclid(60), counters);
        self.total += counters;
    }

    /// All that was ever added.
    pub fn total(&self) -> Counters {
        self.total
    }

    /// The sum over `span`, which ends with the second `last` (included). For the hour: the minute of `last`,
    /// as far as it has got, and the 59 before it.
    pub fn sum(&self, span: Span, last: i64) -> Counters {
        match span {
            Span::Hour => {
                let minute = last.div_euclid(60);
                self.minutes.sum(minute - 59, minute)
            }
            _ => self.seconds.sum(last - i64::from(span.seconds()) + 1, last),
        }
    }

    /// The counters of each of the last `count` seconds (at most 60), the oldest first.
    pub fn seconds(&self, count: u32, last: i64) -> Vec<Counters> {
        (0..i64::from(count.min(60))).rev().map(|back| self.seconds.at(last - back)).collect()
    }

    /// The counters of each of the last `count` minutes (at most 60), the oldest first.
    pub fn minutes(&self, count: u32, last: i64) -> Vec<Counters> {
        let minute = last.div_euclid(60);
        (0..i64::from(count.min(60))).rev().map(|back| self.minutes.at(minute - back)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list of all entries.
        #[test]
        fn sums_are_those_of_the_entries(
            steps in prop::collection::vec((0_i64..70, -50_i64..3), 1..200),
        ) {
            let mut window = Window::default();
            let mut all = Vec::new();
            let mut now = 1_000_000_000_i64;
            for (step, late) in steps {
                now += step;
                let second = now + late.min(0);
                window.add(second, Counters::one(Some(200), Some(5)));
                all.push(second);
                for span in [Span::Second, Span::TenSeconds, Span::Minute] {
                    let first = now - i64::from(span.seconds()) + 1;
                    let exact = all.iter().filter(|second| (first..=now).contains(second)).count() as u64;
                    prop_assert_eq!(window.sum(span, now).requests, exact, "{:?}", span);
                }
                let minute = now.div_euclid(60);
                let in_hour = |second: &&i64| (minute - 59..=minute).contains(&second.div_euclid(60));
                prop_assert_eq!(window.sum(Span::Hour, now).requests, all.iter().filter(in_hour).count() as u64);
            }
            prop_assert_eq!(window.total().requests, all.len() as u64);
            prop_assert_eq!(window.total().bytes, 5 * all.len() as u64);
        }
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let mut sum = Counters::default();
        for status in [Some(100), Some(204), Some(404), Some(499), Some(599), Some(600), None] {
            sum += Counters::one(status, None);
        }
        assert_eq!(sum.classes, [2, 1, 1, 0, 2, 1]);
    }
}
