//! Counting distinct values (HyperLogLog, Flajolet et al. 2007, with linear counting for small numbers).

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Registers: 2^12 give a standard error of 1.04 / 64 = 1.6 %.
const BITS: u32 = 12;
const REGISTERS: usize = 1 << BITS;

/// How many different values were added: 4 KiB whatever the number. The hash is fixed, so sketches of
/// different processes can be merged.
#[derive(Clone, PartialEq, Eq)]
pub struct Hll {
    registers: Box<[u8; REGISTERS]>,
}

impl Default for Hll {
    fn default() -> Self {
        Self { registers: Box::new([0; REGISTERS]) }
    }
}

impl std::fmt::Debug for Hll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hll({})", self.estimate())
    }
}

impl Hll {
    /// Adds a value.
    pub fn add(&mut self, value: &[u8]) {
        let hash = hash(value);
        let index = usize::try_from(hash >> (64 - BITS)).unwrap_or(0);
        // The marker bit bounds the run of zeros by the number of bits that are left.
        let rest = (hash << BITS) | (1 << (BITS - 1));
        let rank = u8::try_from(rest.leading_zeros() + 1).unwrap_or(u8::MAX);
        let register = &mut self.registers[index];
        *register = rank.max(*register);
    }

    /// Adds all values of another one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.registers.iter_mut().zip(other.registers.iter()) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.registers.fill(0);
    }

    /// The number of different values; standard error 1.6 %, exact within a few for small numbers.
    pub fn estimate(&self) -> u64 {
        let m = 4096.0_f64;
        let sum: f64 = self.registers.iter().map(|&rank| (-f64::from(rank)).exp2()).sum();
        let empty = self.registers.iter().filter(|&&rank| rank == 0).count();
        let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let estimate = match u32::try_from(empty) {
            Ok(empty) if empty > 0 && raw <= 2.5 * m => m * (m / f64::from(empty)).ln(),
            _ => raw,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
        let rounded = estimate.round() as u64;
        rounded
    }
}

/// A fixed hash with all bits well mixed: FxHash is fast but weak in the high bits, which select the register.
fn hash(value: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(value);
    let mut h = hasher.finish();
    // Finalizer of SplitMix64.
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_within_five_percent_from_ten_to_a_million() {
        let mut hll = Hll::default();
        assert_eq!(hll.estimate(), 0);
        let mut checks = [10_u32, 100, 1_000, 10_000, 100_000, 1_000_000].into_iter().peekable();
        for n in 1..=1_000_000_u32 {
            hll.add(format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255).as_bytes());
            if checks.next_if_eq(&n).is_some() {
                let error = (hll.estimate() as f64 - f64::from(n)).abs() / f64::from(n);
                assert!(error < 0.05, "{n}: {}", hll.estimate());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn merging_is_adding_all(a: Vec<Vec<u8>>, b: Vec<Vec<u8>>) {
            let of = |values: &[Vec<u8>]| {
                let mut hll = Hll::default();
                values.iter().for_each(|value| hll.add(value));
                hll
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            proptest::prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }
}
