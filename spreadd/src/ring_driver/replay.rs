//! Replay protection: which counters of a session were seen.

/// Counters remembered below the highest one.
pub(super) const WINDOW: u64 = 4096;

const WORDS: usize = (WINDOW / 64) as usize;

/// The last [`WINDOW`] counters of one session.
///
/// Asking and moving are two steps: the window moves only for packets that were verified, so a forged
/// counter cannot lock a peer out.
pub(super) struct ReplayWindow {
    highest: u64,
    /// Bit `c % WINDOW` for each counter c in `(highest - WINDOW, highest]`.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// A window for a session of which all counters up to `highest` may have been seen.
    pub(super) fn after(highest: u64) -> Self {
        let seen = if highest == 0 { [0; WORDS] } else { [u64::MAX; WORDS] };
        Self { highest, seen }
    }

    /// The highest counter seen.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether the counter is new.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        if counter > self.highest {
            return true;
        }
        if counter == 0 || self.highest - counter >= WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        self.seen[word] & bit == 0
    }

    /// Marks the counter of a verified packet as seen.
    pub(super) fn mark(&mut self, counter: u64) {
        if counter > self.highest {
            if counter - self.highest >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.highest + 1..counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = counter;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_is_never_new() {
        assert!(!ReplayWindow::after(0).is_new(0));
        let mut window = ReplayWindow::after(0);
        window.mark(5);
        assert!(!window.is_new(0));
    }

    #[test]
    fn the_end_of_the_number_range_is_usable() {
        let mut window = ReplayWindow::after(0);
        window.mark(u64::MAX - 1);
        window.mark(u64::MAX);
        assert!(!window.is_new(u64::MAX));
        assert!(window.is_new(u64::MAX - 2));
        assert!(!window.is_new(u64::MAX - WINDOW));
    }

    #[test]
    fn nothing_up_to_a_remembered_counter_is_new() {
        let mut window = ReplayWindow::after(10_000);
        assert!((9_000..=10_000).all(|counter| !window.is_new(counter)));
        window.mark(10_100);
        assert!((9_000..=10_000).all(|counter| !window.is_new(counter)));
        assert!((10_001..10_100).all(|counter| window.is_new(counter)));
    }

    proptest! {
        /// Against a set of all counters ever marked.
        #[test]
        fn equals_a_set_with_a_lower_bound(steps in prop::collection::vec((0u8..4, 0u64..9000), 1..400)) {
            let mut window = ReplayWindow::after(0);
            let mut model = BTreeSet::new();
            let mut highest = 0u64;
            for (kind, by) in steps {
                let counter = match kind {
                    0 => highest + 1,
                    1 => highest + by % 100,
                    2 => highest + by,
                    _ => highest.saturating_sub(by),
                };
                let fresh = counter > 0
                    && !model.contains(&counter)
                    && (counter > highest || highest - counter < WINDOW);
                prop_assert_eq!(window.is_new(counter), fresh, "counter {} highest {}", counter, highest);
                if fresh {
                    window.mark(counter);
                    model.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
