//! The most frequent values of a stream (Space-Saving, Metwally et al. 2005): bounded memory, known error.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// The values that can be among the most frequent ones, with counts that are never too small.
///
/// For a capacity of `c` and `n` values added, every value that occurred more than `n / c` times is here, and
/// no count is too large by more than its own `error`, which is at most `n / c`.
///
/// Each addition takes the same few steps, whatever the capacity: values with one count are a list (a bucket), and
/// the buckets are a list in the order of their counts (the Stream-Summary of the same paper).
#[derive(Clone, Debug)]
pub struct TopK {
    /// Places in `slots`, by the values' hashes.
    index: HashTable<u32>,
    slots: Vec<Slot>,
    buckets: Vec<Bucket>,
    /// Places in `buckets` that are not in use.
    spare: Vec<u32>,
    /// The bucket with the smallest count.
    least: u32,
    capacity: usize,
    total: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Its memory is used again for the value that takes its place.
    value: Vec<u8>,
    hash: u64,
    error: u64,
    weight: u64,
    bucket: u32,
    /// The others with the same count.
    before: u32,
    after: u32,
}

/// Values with the same count; never empty while it is in use.
#[derive(Clone, Debug)]
struct Bucket {
    count: u64,
    /// The first of its slots.
    slot: u32,
    /// Those with the next smaller and greater counts.
    before: u32,
    after: u32,
}

/// No slot or bucket: the end of a list.
const NONE: u32 = u32::MAX;

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

/// A value, cut off where it is too long, and its hash: made once for all lists that count it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashed<'a> {
    value: &'a [u8],
    hash: u64,
}

impl<'a> Hashed<'a> {
    pub(super) fn new(value: &'a [u8]) -> Self {
        let value = &value[..value.len().min(VALUE_LEN_MAX)];
        let mut hasher = FxHasher::default();
        hasher.write(value);
        Self { value, hash: hasher.finish() }
    }
}

impl TopK {
    /// For `capacity` values, at least 1. Memory: at most about 400 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            buckets: Vec::new(),
            spare: Vec::new(),
            least: NONE,
            // A place must fit into 32 bits, and not be `NONE`.
            capacity: capacity.clamp(1, NONE as usize - 1),
            total: 0,
        }
    }

    /// Adds one occurrence with a weight that is summed up.
    pub fn add(&mut self, value: &[u8], weight: u64) {
        self.count(Hashed::new(value), weight);
    }

    pub(super) fn count(&mut self, value: Hashed<'_>, weight: u64) {
        self.total += 1;
        if let Some(place) = self.find(value) {
            let slot = &mut self.slots[place as usize];
            slot.weight = slot.weight.saturating_add(weight);
            self.grow(place);
        } else if self.slots.len() < self.capacity {
            let place = self.push(value, 0, weight);
            if self.least == NONE || self.buckets[self.least as usize].count > 1 {
                self.bucket(1, NONE);
            }
            self.attach(place, self.least);
        } else {
            // The least frequent one makes room; what it was counted is how often this one may have been
            // before.
            let Bucket { count, slot: place, .. } = self.buckets[self.least as usize];
            let least = &mut self.slots[place as usize];
            if let Ok(entry) = self.index.find_entry(least.hash, |at| *at == place) {
                entry.remove();
            }
            least.value.clear();
            least.value.extend_from_slice(value.value);
            (least.hash, least.error, least.weight) = (value.hash, count, weight);
            self.index_at(place);
            self.grow(place);
        }
    }

    fn find(&self, value: Hashed<'_>) -> Option<u32> {
        let same = |at: &u32| {
            let slot = &self.slots[*at as usize];
            slot.hash == value.hash && slot.value == value.value
        };
        self.index.find(value.hash, same).copied()
    }

    fn index_at(&mut self, place: u32) {
        let slots = &self.slots;
        self.index.insert_unique(slots[place as usize].hash, place, |at| slots[*at as usize].hash);
    }

    /// A new slot, in no bucket yet.
    fn push(&mut self, value: Hashed<'_>, error: u64, weight: u64) -> u32 {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "less than the capacity, which is at most u32::MAX - 1"
        )]
        let place = self.slots.len() as u32;
        let Hashed { value, hash } = value;
        let value = value.to_vec();
        self.slots.push(Slot { value, hash, error, weight, bucket: NONE, before: NONE, after: NONE });
        self.index_at(place);
        place
    }

    /// A new bucket behind `before`, or in front of all. A slot must follow.
    fn bucket(&mut self, count: u64, before: u32) -> u32 {
        let after = if before == NONE { self.least } else { self.buckets[before as usize].after };
        let bucket = Bucket { count, slot: NONE, before, after };
        let at = if let Some(at) = self.spare.pop() {
            self.buckets[at as usize] = bucket;
            at
        } else {
            self.buckets.push(bucket);
            #[allow(clippy::cast_possible_truncation, reason = "there are at most as many as slots, and one")]
            let at = (self.buckets.len() - 1) as u32;
            at
        };
        self.link(before, at);
        if after != NONE {
            self.buckets[after as usize].before = at;
        }
        at
    }

    /// Lets `after` follow `before`, which can be the beginning.
    fn link(&mut self, before: u32, after: u32) {
        if before == NONE {
            self.least = after;
        } else {
            self.buckets[before as usize].after = after;
        }
    }

    fn attach(&mut self, place: u32, bucket: u32) {
        let first = std::mem::replace(&mut self.buckets[bucket as usize].slot, place);
        let slot = &mut self.slots[place as usize];
        (slot.bucket, slot.before, slot.after) = (bucket, NONE, first);
        if first != NONE {
            self.slots[first as usize].before = place;
        }
    }

    /// One occurrence more of what is at `place`.
    fn grow(&mut self, place: u32) {
        let Slot { bucket, before, after, .. } = self.slots[place as usize];
        let Bucket { count, before: smaller, after: greater, .. } = self.buckets[bucket as usize];
        let count = count + 1;
        let fits = greater != NONE && self.buckets[greater as usize].count == count;
        let alone = before == NONE && after == NONE;
        if alone && !fits {
            self.buckets[bucket as usize].count = count;
            return;
        }
        if before == NONE {
            self.buckets[bucket as usize].slot = after;
        } else {
            self.slots[before as usize].after = after;
        }
        if after != NONE {
            self.slots[after as usize].before = before;
        }
        let to = if fits { greater } else { self.bucket(count, bucket) };
        self.attach(place, to);
        if alone {
            self.link(smaller, greater);
            self.buckets[greater as usize].before = smaller;
            self.spare.push(bucket);
        }
    }

    fn count_of(&self, slot: &Slot) -> u64 {
        self.buckets[slot.bucket as usize].count
    }

    /// Adds all of another one of the same capacity `c`. Errors add up: with `n` values added to both together, no
    /// error is greater than `n / c`, and every value that occurred more than `2 n / c` times is here. (Twice, since
    /// the counts of either side may all be too large by what the other may have dropped.)
    pub fn merge(&mut self, other: &Self) {
        // What one of them may have dropped was counted there at most this often.
        let (mine, theirs) = (self.floor(), other.floor());
        let hashed = |slot| {
            let Slot { value, hash, .. }: &Slot = slot;
            Hashed { value, hash: *hash }
        };
        // Count, error and weight of each value of both.
        let mut both: Vec<(u64, Hashed<'_>, u64, u64)> =
            Vec::with_capacity(self.slots.len() + other.slots.len());
        for slot in &self.slots {
            let (mut count, mut error, mut weight) = (self.count_of(slot), slot.error, slot.weight);
            if let Some(place) = other.find(hashed(slot)) {
                let same = &other.slots[place as usize];
                count += other.count_of(same);
                error += same.error;
                weight = weight.saturating_add(same.weight);
            } else {
                count += theirs;
                error += theirs;
            }
            both.push((count, hashed(slot), error, weight));
        }
        for slot in other.slots.iter().filter(|slot| self.find(hashed(slot)).is_none()) {
            both.push((other.count_of(slot) + mine, hashed(slot), slot.error + mine, slot.weight));
        }
        let order = |a: &(u64, Hashed<'_>, u64, u64), b: &(u64, Hashed<'_>, u64, u64)| {
            b.0.cmp(&a.0).then_with(|| a.1.value.cmp(b.1.value))
        };
        if both.len() > self.capacity {
            both.select_nth_unstable_by(self.capacity - 1, order);
            both.truncate(self.capacity);
        }
        both.sort_unstable_by_key(|(count, ..)| *count);
        let mut merged = Self::new(self.capacity);
        merged.total = self.total + other.total;
        let mut last = NONE;
        for (count, value, error, weight) in both {
            let place = merged.push(value, error, weight);
            if last == NONE || merged.buckets[last as usize].count < count {
                last = merged.bucket(count, last);
            }
            merged.attach(place, last);
        }
        *self = merged;
    }

    /// All values that are kept, in no order, each with its count, error and weight.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&[u8], u64, u64, u64)> {
        self.slots.iter().map(|slot| (&*slot.value, self.count_of(slot), slot.error, slot.weight))
    }

    /// How often a value that is not here can have occurred at most.
    pub(super) fn floor(&self) -> u64 {
        if self.slots.len() < self.capacity { 0 } else { self.buckets[self.least as usize].count }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    /// Number of occurrences added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The `k` most frequent, the first of them first; equal counts by value.
    pub fn top(&self, k: usize) -> Vec<Counted> {
        let mut all: Vec<_> = self.counted().collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let counted = |(value, count, error, weight): (&[u8], _, _, _)| Counted {
            value: value.to_vec(),
            count,
            error,
            weight,
        };
        all.into_iter().take(k).map(counted).collect()
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

    /// Every slot is found, and is in one bucket; the counts of the buckets grow.
    fn linked(top: &TopK) -> Result<(), TestCaseError> {
        prop_assert!(top.slots.len() <= top.capacity);
        prop_assert_eq!(top.index.len(), top.slots.len());
        for (place, slot) in (0..).zip(&top.slots) {
            prop_assert_eq!(top.find(Hashed::new(&slot.value)), Some(place));
        }
        let (mut seen, mut used) = (0, 0);
        let (mut before, mut at, mut count) = (NONE, top.least, 0);
        while at != NONE {
            let bucket = &top.buckets[at as usize];
            prop_assert!(bucket.count > count && bucket.before == before && bucket.slot != NONE, "{top:?}");
            let (mut last, mut place) = (NONE, bucket.slot);
            while place != NONE {
                let slot = &top.slots[place as usize];
                prop_assert!(slot.bucket == at && slot.before == last, "{top:?}");
                (last, place) = (place, slot.after);
                seen += 1;
            }
            used += 1;
            (before, at, count) = (at, bucket.after, bucket.count);
        }
        prop_assert_eq!(seen, top.slots.len());
        prop_assert_eq!(used + top.spare.len(), top.buckets.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_are_within_the_stated_error(
            values in prop::collection::vec(0_u8..60, 0..600),
            capacity in 1_usize..40,
        ) {
            let top = sketch(capacity, &values);
            linked(&top)?;
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
            let slack = (a.len() / capacity + b.len() / capacity) as u64;
            let rare = (2 * (a.len() + b.len()) / capacity) as u64;
            check(&top, &exact(&[a.clone(), b].concat()), slack, rare)?;
            linked(&top)?;
            // And it goes on counting right.
            a.iter().for_each(|value| top.add(&[*value], 10));
            linked(&top)?;
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
