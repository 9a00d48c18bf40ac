//! Quantiles of durations: a histogram whose buckets grow with the value.

/// Buckets of one power of two: the value of a bucket is exact to 1/16, so a quantile to about 3 %.
const SUB: u64 = 16;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Powers of two above the exact range, up to 2^36 us (19 hours).
const POWERS: usize = 32;
const BUCKETS: usize = (POWERS + 1) * 16;

/// Durations in microseconds. 2 KiB, mergeable, relative error of a quantile at most 1/32.
#[derive(Clone, PartialEq, Eq)]
pub struct Latency {
    buckets: Box<[u32; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latency({} values, max {})", self.count, self.max)
    }
}

/// Values below 16 have a bucket each; above, each power of two has 16.
fn bucket_of(value: u64) -> usize {
    if value < SUB {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = 63 - value.leading_zeros();
    let sub = (value >> (power - SUB_BITS)) & (SUB - 1);
    let index = u64::from(power - SUB_BITS + 1) * SUB + sub;
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The middle of a bucket.
fn value_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    let low = (SUB + bucket % SUB) << shift;
    low + ((1 << shift) >> 1)
}

impl Latency {
    /// Adds a duration in microseconds.
    pub fn add(&mut self, micros: u64) {
        let bucket = &mut self.buckets[bucket_of(micros)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// Adds all durations of another one.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.count > 0 {
            *self = Self::default();
        }
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The duration that `per_mille` of 1000 do not exceed: 500 is the median. `None` without durations.
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = (self.count * per_mille.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return Some(value_of(bucket).min(self.max));
            }
        }
        Some(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous_and_contain_their_value() {
        for value in (0..100_000).chain((0..36).map(|p| 1 << p)).chain((4..36).map(|p| (1 << p) - 1)) {
            let bucket = bucket_of(value);
            assert_eq!(bucket_of(value_of(bucket)), bucket, "{value}");
            assert!(bucket_of(value + 1) - bucket <= 1, "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        /// Against the exact quantile of the sorted values.
        #[test]
        fn quantiles_are_within_a_bucket(mut values in prop::collection::vec(0_u64..1 << 36, 1..300), q in 1_u64..=1000) {
            let mut latency = Latency::default();
            values.iter().for_each(|&value| latency.add(value));
            values.sort_unstable();
            let rank = (values.len() as u64 * q).div_ceil(1000).max(1);
            let exact = values[usize::try_from(rank - 1).unwrap()];
            let seen = latency.quantile(q).unwrap();
            prop_assert!(seen.abs_diff(exact) <= exact / 16, "{seen} for {exact}");
            prop_assert_eq!(latency.max(), values.last().copied());
        }

        #[test]
        fn merging_is_adding_all(a: Vec<u32>, b: Vec<u32>) {
            let of = |values: &[u32]| {
                let mut latency = Latency::default();
                values.iter().for_each(|&value| latency.add(u64::from(value)));
                latency
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }
}
