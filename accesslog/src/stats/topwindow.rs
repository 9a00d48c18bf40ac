//! The most frequent values of the last second, ten seconds, minute and hour.

use std::mem;

use rustc_hash::FxHashMap;

use super::topk::Hashed;
use super::{Counted, Span, TopK};

/// Seconds and minutes that are kept: as in [`Window`](super::Window), so that both show the same time.
const SECONDS: usize = 64;
const MINUTES: usize = 61;

/// The most frequent values of sliding windows, by the time in the entries themselves.
///
/// Each second and each minute has a [`TopK`] of its own; a second that is over is merged into its minute. A window is
/// the sum of its periods. For a capacity of `c` and `n` values in the window, no count is too small, and none is too
/// large by more than its own `error`, which is at most `n / c` for windows of seconds and `2 n / c` for the hour
/// (whose minutes are merged from seconds, and values can be dropped in both steps).
#[derive(Clone, Debug)]
pub struct TopWindow {
    seconds: Vec<Period>,
    minutes: Vec<Period>,
    capacity: usize,
}

#[derive(Clone, Debug)]
struct Period {
    number: i64,
    top: TopK,
}

impl TopWindow {
    /// The periods that have a list of their own.
    pub(super) const PERIODS: usize = SECONDS + MINUTES;

    /// For `capacity` values in each period, at least 1.
    pub fn new(capacity: usize) -> Self {
        let empty = |count| vec![Period { number: i64::MIN, top: TopK::new(capacity) }; count];
        Self { seconds: empty(SECONDS), minutes: empty(MINUTES), capacity }
    }

    /// Adds one occurrence in `second` (since 1970) with a weight that is summed up. What is older than an hour is
    /// in no window.
    pub fn add(&mut self, second: i64, value: &[u8], weight: u64) {
        self.count(second, Hashed::new(value), weight);
    }

    pub(super) fn count(&mut self, second: i64, value: Hashed<'_>, weight: u64) {
        let slot = &mut self.seconds[index(second, SECONDS)];
        if slot.number < second {
            let over = mem::replace(slot, Period { number: second, top: TopK::new(self.capacity) });
            slot.top.count(value, weight);
            if over.number > i64::MIN
                && let Some(minute) = self.minute(over.number)
            {
                minute.merge(&over.top);
            }
        } else if slot.number == second {
            slot.top.count(value, weight);
        } else if let Some(minute) = self.minute(second) {
            minute.count(value, weight);
        }
    }

    /// The minute of a second, unless a later one has its place.
    fn minute(&mut self, second: i64) -> Option<&mut TopK> {
        let number = second.div_euclid(60);
        let slot = &mut self.minutes[index(number, MINUTES)];
        if slot.number < number {
            slot.number = number;
            slot.top.clear();
        }
        (slot.number == number).then_some(&mut slot.top)
    }

    /// The `k` most frequent values over `span`, which ends with the second `last` (included), the first of them
    /// first; equal counts by value.
    pub fn top(&self, span: Span, last: i64, k: usize) -> Vec<Counted> {
        let minute = last.div_euclid(60);
        let (first, minutes) = match span {
            Span::Hour => ((minute - 59) * 60, Some(minute - 59..=minute)),
            _ => (last - i64::from(span.seconds()) + 1, None),
        };
        let seconds = self.seconds.iter().filter(|period| (first..=last).contains(&period.number));
        let inside = |period: &&Period| minutes.as_ref().is_some_and(|range| range.contains(&period.number));
        let minutes = self.minutes.iter().filter(inside);
        sum(seconds.chain(minutes).map(|period| &period.top), k)
    }
}

fn index(period: i64, count: usize) -> usize {
    i64::try_from(count).map_or(0, |n| usize::try_from(period.rem_euclid(n)).unwrap_or(0))
}

/// The most frequent values of all of them together.
fn sum<'a>(tops: impl Iterator<Item = &'a TopK>, k: usize) -> Vec<Counted> {
    let mut values: FxHashMap<&[u8], Sum> = FxHashMap::default();
    // What each may have dropped was counted there at most so often.
    let mut floors = 0;
    for top in tops {
        let floor = top.floor();
        floors += floor;
        for (value, count, error, weight) in top.counted() {
            let sum = values.entry(value).or_default();
            sum.count += count;
            sum.error += error;
            sum.weight = sum.weight.saturating_add(weight);
            sum.floors += floor;
        }
    }
    let mut all: Vec<(&[u8], Sum)> = values.into_iter().collect();
    for (_, sum) in &mut all {
        let elsewhere = floors - sum.floors;
        sum.count += elsewhere;
        sum.error += elsewhere;
    }
    let order = |a: &(&[u8], Sum), b: &(&[u8], Sum)| b.1.count.cmp(&a.1.count).then_with(|| a.0.cmp(b.0));
    if k > 0 && k < all.len() {
        all.select_nth_unstable_by(k - 1, order);
    }
    all.truncate(k);
    all.sort_unstable_by(order);
    let counted = |(value, sum): (&[u8], Sum)| Counted {
        value: value.to_vec(),
        count: sum.count,
        error: sum.error,
        weight: sum.weight,
    };
    all.into_iter().map(counted).collect()
}

#[derive(Clone, Copy, Default)]
struct Sum {
    count: u64,
    error: u64,
    weight: u64,
    /// Of the periods that have the value.
    floors: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list of all values.
        #[test]
        fn windows_count_within_the_stated_error(
            steps in prop::collection::vec((0_i64..40, -70_i64..3, 0_u8..20), 1..300),
            capacity in 1_usize..25,
        ) {
            let mut tops = TopWindow::new(capacity);
            let mut all = Vec::new();
            let mut now = 1_000_000_000_i64;
            for (step, late, value) in steps {
                now += step / 10;
                let second = now + late.min(0);
                tops.add(second, &[value], 1);
                all.push((second, value));
            }
            let minute = now.div_euclid(60);
            for span in Span::ALL {
                let inside = |second: i64| match span {
                    Span::Hour => (minute - 59..=minute).contains(&second.div_euclid(60)),
                    _ => (now - i64::from(span.seconds()) + 1..=now).contains(&second),
                };
                let exact: Vec<u8> = all.iter().filter(|(second, _)| inside(*second)).map(|(_, v)| *v).collect();
                let slack = (exact.len() * if span == Span::Hour { 2 } else { 1 } / capacity) as u64;
                for counted in tops.top(span, now, usize::MAX) {
                    let real = exact.iter().filter(|v| **v == counted.value[0]).count() as u64;
                    prop_assert!(counted.count >= real, "{span:?} {counted:?}: {real}");
                    prop_assert!(counted.count - counted.error <= real, "{span:?} {counted:?}: {real}");
                    prop_assert!(counted.error <= slack, "{span:?} {counted:?}: at most {slack}");
                }
                if capacity >= 20 {
                    let seen: u64 = tops.top(span, now, usize::MAX).iter().map(|c| c.count).sum();
                    prop_assert_eq!(seen, exact.len() as u64, "{:?}", span);
                }
            }
        }
    }

    #[test]
    fn what_was_frequent_before_is_not_frequent_now() {
        let mut tops = TopWindow::new(10);
        (0..100).for_each(|_| tops.add(1000, b"/old", 1));
        (0..3).for_each(|_| tops.add(1100, b"/new", 7));
        let first =
            |span| tops.top(span, 1100, 1).into_iter().map(|c| (c.value, c.count, c.error, c.weight)).next();
        for span in [Span::Second, Span::TenSeconds, Span::Minute] {
            assert_eq!(first(span), Some((b"/new".to_vec(), 3, 0, 21)), "{span:?}");
        }
        assert_eq!(first(Span::Hour), Some((b"/old".to_vec(), 100, 0, 100)));
        assert!(tops.top(Span::Hour, 1100 + 3600, 1).is_empty());
    }
}
