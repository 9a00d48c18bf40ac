//! Keeps the log readable when many clients misbehave.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind that are logged in each [`PERIOD`].
const LINES_MAX: u32 = 10;

/// See [`LINES_MAX`].
const PERIOD: Duration = Duration::from_secs(10);

/// Limits how often one kind of line is logged.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    start: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Quiet {
    /// Whether to log the line now: then with the number of lines that were left out since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.start.is_none_or(|start| now.duration_since(start) >= PERIOD) {
            state.start = Some(now);
            state.lines = 0;
        }
        if state.lines >= LINES_MAX {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_told_later() {
        let quiet = Quiet::default();
        let start = Instant::now();
        for _ in 0..LINES_MAX {
            assert_eq!(quiet.admit_at(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(quiet.admit_at(start + PERIOD / 2), None);
        }
        assert_eq!(quiet.admit_at(start + PERIOD), Some(7));
        assert_eq!(quiet.admit_at(start + PERIOD), Some(0));
    }
}
