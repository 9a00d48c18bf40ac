//! Sources whose clocks are ahead, known from the lines alone, so that two writers agree.
//!
//! What counts for a source's clock is the largest time of its lines: a long request has an old one. When a source that
//! goes on is behind others by more than the window, time after time, one of the two clocks is wrong. The majority of
//! the sources that spoke lately is right, of two the one behind: lines that wait for the time of a clock that is ahead
//! would all come too late. The others are from then on taken as so much earlier. Their lines are not changed.
// spec: log_writer L-15

use std::collections::BTreeMap;

use log_stream::SourceId;

/// So many lines in a row must speak for a change.
const EVIDENCE: u8 = 3;
/// A source has spoken lately when it had one of so many lines.
const LATELY: u64 = 1_000;
/// Most sources that are remembered; those that were silent for longest are forgotten.
const SOURCES_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Largest time of its lines, by its own clock.
    newest: i64,
    /// Its clock is ahead by this.
    ahead: i64,
    /// Number of its last line in the order of delivery.
    last: u64,
    /// Lines in a row that were behind.
    behind: u8,
}

/// The clocks of all sources.
#[derive(Debug)]
pub struct Skews {
    window: i64,
    lines: u64,
    sources: BTreeMap<SourceId, Clock>,
    /// Largest time of all, as it is seen.
    newest: i64,
}

/// Something was learned about clocks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// By how much each of these sources is ahead more than was known (less, if negative), in seconds.
    pub sources: BTreeMap<SourceId, i64>,
    /// The largest time of all sources, as it is seen now.
    pub newest: i64,
}

impl Skews {
    /// Clocks may differ by a window, in seconds.
    pub fn new(window: i64) -> Self {
        Self { window, lines: 0, sources: BTreeMap::new(), newest: i64::MIN }
    }

    /// Takes the time of a source's line; gives the time by which it is to be ordered, and what it taught.
    pub fn time(&mut self, source: SourceId, time: i64) -> (i64, Option<Change>) {
        self.lines += 1;
        let lines = self.lines;
        let fresh = Clock { newest: time, ahead: 0, last: lines, behind: 0 };
        let Some(own) = self.sources.get_mut(&source) else {
            self.sources.insert(source, fresh);
            self.newest = self.newest.max(time);
            self.forget();
            return (time, None);
        };
        own.last = lines;
        let goes_on = time > own.newest;
        own.newest = own.newest.max(time);
        let seen = time.saturating_sub(own.ahead);
        let known = *own;
        self.newest = self.newest.max(seen);
        let limit = seen.saturating_add(self.window);
        if self.newest <= limit {
            own.behind = if goes_on { 0 } else { own.behind };
            return (seen, None);
        }
        let (mut ahead, mut with) = (Vec::new(), 0_usize);
        for (id, clock) in &self.sources {
            if clock.last.saturating_add(LATELY) < lines {
                continue;
            }
            let newest = clock.newest.saturating_sub(clock.ahead);
            if *id != source && newest > limit { ahead.push((*id, newest - seen)) } else { with += 1 }
        }
        // A clock that was set right stands still in `newest`, for it was ahead.
        let set_right = known.ahead > 0 && time < known.newest.saturating_sub(self.window);
        let behind = if ahead.is_empty() || !(goes_on || set_right) { 0 } else { known.behind + 1 };
        let learned = behind >= EVIDENCE && (set_right || ahead.len() <= with);
        let changed = if learned && set_right { vec![(source, -known.ahead)] } else { ahead };
        if let Some(own) = self.sources.get_mut(&source) {
            // A long request says nothing, neither for nor against.
            own.behind = if learned {
                0
            } else if goes_on || set_right {
                behind.min(EVIDENCE)
            } else {
                known.behind
            };
            if learned && set_right {
                *own = fresh;
            }
        }
        if !learned {
            return (seen, None);
        }
        for (id, by) in &changed {
            if let Some(clock) = self.sources.get_mut(id).filter(|_| *id != source) {
                clock.ahead = clock.ahead.saturating_add(*by);
                clock.behind = 0;
            }
        }
        let newest = self.sources.values().map(|c| c.newest.saturating_sub(c.ahead)).max();
        self.newest = newest.unwrap_or(seen);
        let seen = if set_right { time } else { seen };
        (seen, Some(Change { sources: changed.into_iter().collect(), newest: self.newest }))
    }

    fn forget(&mut self) {
        if self.sources.len() > SOURCES_MAX
            && let Some(id) = self.sources.iter().min_by_key(|(_, c)| c.last).map(|(id, _)| *id)
        {
            self.sources.remove(&id);
        }
    }

    /// Sources whose clocks are ahead, in seconds.
    pub fn ahead(&self) -> impl Iterator<Item = (SourceId, i64)> {
        self.sources.iter().filter(|(_, c)| c.ahead != 0).map(|(id, c)| (*id, c.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = SourceId([1; 16]);
    const B: SourceId = SourceId([2; 16]);
    const C: SourceId = SourceId([3; 16]);

    #[test]
    fn the_one_ahead_is_seen_as_so_much_earlier() {
        let mut skews = Skews::new(5);
        let mut learned = Vec::new();
        for second in 0..20 {
            for (source, off) in [(A, 0), (B, 3_600), (C, 1)] {
                let (seen, change) = skews.time(source, 1_000 + second + off);
                learned.extend(change);
                if second > 5 {
                    assert!((seen - 1_000 - second).abs() <= 2, "{source} {second} {seen}");
                }
            }
        }
        assert_eq!(learned.len(), 1);
        assert_eq!(skews.ahead().map(|(id, _)| id).collect::<Vec<_>>(), [B]);
        // Its clock is set right: it goes back.
        for second in 20..30 {
            for source in [A, B, C] {
                learned.extend(skews.time(source, 1_000 + second).1);
            }
        }
        assert_eq!((learned.len(), skews.ahead().count()), (2, 0), "{learned:?}");
        assert_eq!(skews.time(B, 1_030), (1_030, None));
    }

    #[test]
    fn pauses_long_requests_and_a_single_one_behind_change_nothing() {
        let mut skews = Skews::new(5);
        let mut times: Vec<(SourceId, i64)> = Vec::new();
        // C is an hour behind; B has long requests; at times nobody speaks for minutes.
        for n in 0..200 {
            let now = 10_000 + n + n / 20 * 300;
            times.extend([(A, now), (B, now), (B, now - 120), (C, now - 3_600)]);
            times.extend((n % 7 == 0).then_some((A, now - 30)));
        }
        for (source, time) in times {
            assert_eq!(skews.time(source, time), (time, None));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut skews = Skews::new(5);
        for n in 0..10_000_u128 {
            skews.time(SourceId(n.to_be_bytes()), 7);
        }
        assert_eq!(skews.sources.len(), SOURCES_MAX);
    }
}
