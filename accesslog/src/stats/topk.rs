//! The most frequent values of a stream (Space-Saving, Metwally et al. 2005): bounded memory, known error.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// The values that can be among the most frequent ones, with counts that are never too small.
///
/// For a capacity of `c` and `n` values added, every value that occurred more than `n / c` times is here, and
/// no count is too large by more than its own `error`, which is at most `n / c`.
#[derive(Clone, Debug)]
pub struct TopK {
    /// Place in `slots` of each value.
    index: FxHashMap<Arc<[u8]>, usize>,
    slots: Vec<Slot>,
    /// Places in `slots` as a min-heap by count: the first is the next to be replaced.
    heap: Vec<usize>,
    capacity: usize,
    total: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    value: Arc<[u8]>,
    count: u64,
    error: u64,
    weight: u64,
    /// Place in `heap`.
    at: usize,
}

/// One of the most frequent values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The value.
    pub value: Vec<u8>,
    /// How often it occurred, at most.
    pub count: u64,
    /// By how much `count` can be too large.
    pub error: u64,
    /// Sum of the weights (bytes, say) of the occurrences that were counted since it is here.
    pub weight: u64,
}

/// Longest value that is kept; the rest of a longer one is cut off. Bounds the memory.
const VALUE_LEN_MAX: usize = 256;

impl TopK {
    /// For `capacity` values, at least 1. Memory: at most about 400 bytes each.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { index: FxHashMap::default(), slots: Vec::new(), heap: Vec::new(), capacity, total: 0 }
    }

    /// Adds one occurrence with a weight that is summed up.
    pub fn add(&mut self, value: &[u8], weight: u64) {
        self.count(&value[..value.len().min(VALUE_LEN_MAX)], weight);
    }

    fn count(&mut self, value: &[u8], weight: u64) {
        self.total += 1;
        if let Some(&place) = self.index.get(value) {
            let slot = &mut self.slots[place];
            slot.count += 1;
            slot.weight = slot.weight.saturating_add(weight);
            let at = slot.at;
            self.sink(at);
        } else if self.slots.len() < self.capacity {
            let (place, at) = (self.slots.len(), self.heap.len());
            let value: Arc<[u8]> = value.into();
            self.index.insert(Arc::clone(&value), place);
            self.slots.push(Slot { value, count: 1, error: 0, weight, at });
            self.heap.push(place);
            self.rise(at);
        } else {
            // The least frequent one makes room; what it was counted is how often this one may have been
            // before.
            let place = self.heap[0];
            let least = &mut self.slots[place];
            let value: Arc<[u8]> = value.into();
            self.index.remove(&least.value);
            self.index.insert(Arc::clone(&value), place);
            (least.value, least.error, least.weight) = (value, least.count, weight);
            least.count += 1;
            self.sink(0);
        }
    }

    /// Adds all of another one of the same capacity `c`. Errors add up: with `n` values added to both together, no
    /// error is greater than `n / c`, and every value that occurred more than `2 n / c` times is here. (Twice, since
    /// the counts of either side may all be too large by what the other may have dropped.)
    pub fn merge(&mut self, other: &Self) {
        // What one of them may have dropped was counted there at most this often.
        let (mine, theirs) = (self.floor(), other.floor());
        let mut slots = std::mem::take(&mut self.slots);
        for slot in slots.iter_mut().filter(|slot| !other.index.contains_key(&slot.value)) {
            slot.count += theirs;
            slot.error += theirs;
        }
        for slot in &other.slots {
            if let Some(&place) = self.index.get(&slot.value) {
                let own = &mut slots[place];
                own.count += slot.count;
                own.error += slot.error;
                own.weight = own.weight.saturating_add(slot.weight);
            } else {
                slots.push(Slot { count: slot.count + mine, error: slot.error + mine, ..slot.clone() });
            }
        }
        slots.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        slots.truncate(self.capacity);
        // From the smallest count to the greatest, the order is a heap.
        slots.reverse();
        for (place, slot) in slots.iter_mut().enumerate() {
            slot.at = place;
        }
        self.heap = (0..slots.len()).collect();
        self.index = slots.iter().map(|slot| (slot.value.clone(), slot.at)).collect();
        self.slots = slots;
        self.total += other.total;
    }

    /// All values that are kept, in no order.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&[u8], u64, u64, u64)> {
        self.slots.iter().map(|slot| (&*slot.value, slot.count, slot.error, slot.weight))
    }

    /// How often a value that is not here can have occurred at most.
    pub(super) fn floor(&self) -> u64 {
        if self.slots.len() < self.capacity { 0 } else { self.slots[self.heap[0]].count }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
        self.heap.clear();
        self.total = 0;
    }

    /// Number of occurrences added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The `k` most frequent, the first of them first; equal counts by value.
    pub fn top(&self, k: usize) -> Vec<Counted> {
        let mut slots: Vec<&Slot> = self.slots.iter().collect();
        slots.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        let counted = |slot: &Slot| Counted {
            value: slot.value.to_vec(),
            count: slot.count,
            error: slot.error,
            weight: slot.weight,
        };
        slots.into_iter().take(k).map(counted).collect()
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for at in [a, b] {
            self.slots[self.heap[at]].at = at;
        }
    }

    fn count_at(&self, at: usize) -> u64 {
        self.slots[self.heap[at]].count
    }

    /// Moves a slot whose count grew away from the root.
    fn sink(&mut self, mut at: usize) {
        loop {
            let children = (2 * at + 1..=2 * at + 2).filter(|&child| child < self.heap.len());
            match children.min_by_key(|&child| self.count_at(child)) {
                Some(child) if self.count_at(child) < self.count_at(at) => {
                    self.swap(at, child);
                    at = child;
                }
                _ => return,
            }
        }
    }

    /// Moves a new slot towards the root.
    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.count_at(parent) <= self.count_at(at) {
                return;
            }
            self.swap(at, parent);
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn exact(values: &[u8]) -> BTreeMap<u8, u64> {
        let mut counts = BTreeMap::new();
        values.iter().for_each(|value| *counts.entry(*value).or_default() += 1);
        counts
    }

    fn sketch(capacity: usize, values: &[u8]) -> TopK {
        let mut top = TopK::new(capacity);
        values.iter().for_each(|value| top.add(&[*value], 10));
        top
    }

    /// No error is greater than `slack`, and no value that occurred more than `rare` times is missing.
    fn check(top: &TopK, counts: &BTreeMap<u8, u64>, slack: u64, rare: u64) -> Result<(), TestCaseError> {
        for counted in top.top(usize::MAX) {
            let real = counts.get(&counted.value[0]).copied().unwrap_or(0);
            prop_assert!(counted.count >= real, "{counted:?} occurred {real} times");
            prop_assert!(counted.count - counted.error <= real, "{counted:?} occurred {real} times");
            prop_assert!(counted.error <= slack, "{counted:?}, at most {slack}");
        }
        for (value, &real) in counts.iter().filter(|(_, real)| **real > rare) {
            let here = top.top(usize::MAX).iter().any(|counted| counted.value[0] == *value);
            prop_assert!(here, "{value} occurred {real} times and is missing");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_are_within_the_stated_error(
            values in prop::collection::vec(0_u8..60, 0..600),
            capacity in 1_usize..40,
        ) {
            let top = sketch(capacity, &values);
            prop_assert!(top.slots.len() <= capacity);
            prop_assert_eq!(top.total(), values.len() as u64);
            let slack = (values.len() / capacity) as u64;
            check(&top, &exact(&values), slack, slack)?;
        }

        #[test]
        fn merged_counts_are_within_the_sum_of_both_errors(
            a in prop::collection::vec(0_u8..60, 0..400),
            b in prop::collection::vec(20_u8..80, 0..400),
            capacity in 1_usize..40,
        ) {
            let mut top = sketch(capacity, &a);
            top.merge(&sketch(capacity, &b));
            prop_assert!(top.slots.len() <= capacity);
            let slack = (a.len() / capacity + b.len() / capacity) as u64;
            let rare = (2 * (a.len() + b.len()) / capacity) as u64;
            check(&top, &exact(&[a.clone(), b].concat()), slack, rare)?;
            // And it goes on counting right.
            a.iter().for_each(|value| top.add(&[*value], 10));
            for at in 1..top.heap.len() {
                prop_assert!(top.count_at((at - 1) / 2) <= top.count_at(at));
                prop_assert_eq!(top.index[&top.slots[top.heap[at]].value], top.heap[at]);
            }
        }
    }

    #[test]
    fn few_values_are_counted_exactly() {
        let mut top = TopK::new(10);
        for (value, times) in [("/a", 5), ("/b", 7), ("/c", 1)] {
            (0..times).for_each(|_| top.add(value.as_bytes(), 100));
        }
        let seen: Vec<_> = top.top(2).into_iter().map(|c| (c.value, c.count, c.error, c.weight)).collect();
        assert_eq!(seen, [(b"/b".to_vec(), 7, 0, 700), (b"/a".to_vec(), 5, 0, 500)]);
    }
}
