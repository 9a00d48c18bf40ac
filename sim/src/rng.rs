//! Random numbers of a history.

/// A small generator (SplitMix64). It is written here and not taken from a crate so that a seed means the
/// same history for ever: seeds that once found a bug stay in the test run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of `seed` for one purpose. Purposes do not influence each other: a history keeps its
    /// loss pattern when its load changes.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95));
        rng.bits();
        Self(rng.bits() ^ seed.rotate_left(32))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias is below 2^-32 for the small ranges of a simulation.
        if n == 0 { 0 } else { self.bits() % n }
    }

    /// Uniform in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// Uniform in the logarithm, in `low..=high`, both at least 1.
    pub fn log_range(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low.max(1), high.max(1));
        let octaves = u64::from(high.ilog2() - low.ilog2());
        let base = low << self.below(octaves + 1);
        self.range(base, (2 * base).min(high)).clamp(low, high)
    }

    /// True in `per_mille` of 1000 cases.
    pub fn per_mille(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// One of `items`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

/// Scrambles 64 bits (the finalizer of SplitMix64).
pub fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        let mut rng = Rng::new(7, 1);
        let first: Vec<u64> = (0..3).map(|_| rng.below(1000)).collect();
        assert_eq!(first, FIRST);
    }

    const FIRST: [u64; 3] = [177, 9, 977];

    #[test]
    fn ranges_hold() {
        let mut rng = Rng::new(1, 2);
        for _ in 0..10_000 {
            assert!((5..=9).contains(&rng.range(5, 9)));
            assert!((3..=700).contains(&rng.log_range(3, 700)));
            assert!((1..=1).contains(&rng.log_range(1, 1)));
        }
    }
}
