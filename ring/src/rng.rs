//! The engine's own random numbers: nonces and jitter. Drawn from a seed, so a run can be repeated.

/// SplitMix64 over a seed that is folded from 32 bytes. Uniqueness, not secrecy, is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: [u8; 32], salt: u64) -> Self {
        let (words, _) = seed.as_chunks::<8>();
        let mut rng = Self(salt);
        for word in words {
            rng.0 = rng.next() ^ u64::from_le_bytes(*word);
        }
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}
