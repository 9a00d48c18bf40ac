//! The password hash of old Unix systems: DES, 25 times, with a salt of two characters.
//!
//! Only to check hashes that `spread.access_pword` files have had since Spread 3. It is weak: eight characters
//! and a cipher of 56 bits. Written out here because the libraries that have it bring a dozen other hashes along.
//! The tables are those of FIPS 46-3.

/// Length of a hash: two characters of salt, eleven of result.
pub(crate) const HASH_LEN: usize = 13;

/// The digits of a hash, from 0 to 63.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[rustfmt::skip]
const FINAL: [u8; 64] = [
    40, 8, 48, 16, 56, 24, 64, 32, 39, 7, 47, 15, 55, 23, 63, 31, 38, 6, 46, 14, 54, 22, 62, 30, 37, 5, 45, 13, 53, 21, 61, 29,
    36, 4, 44, 12, 52, 20, 60, 28, 35, 3, 43, 11, 51, 19, 59, 27, 34, 2, 42, 10, 50, 18, 58, 26, 33, 1, 41, 9, 49, 17, 57, 25,
];
#[rustfmt::skip]
const EXPANSION: [u8; 48] = [
    32, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11, 12, 13, 12, 13, 14, 15, 16, 17,
    16, 17, 18, 19, 20, 21, 20, 21, 22, 23, 24, 25, 24, 25, 26, 27, 28, 29, 28, 29, 30, 31, 32, 1,
];
#[rustfmt::skip]
const ROUND: [u8; 32] = [
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
];
#[rustfmt::skip]
const KEY_LEFT: [u8; 28] = [
    57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
];
#[rustfmt::skip]
const KEY_RIGHT: [u8; 28] = [
    63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4,
];
#[rustfmt::skip]
const KEY_ROUND: [u8; 48] = [
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
];
const SHIFTS: [u32; 16] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1];
#[rustfmt::skip]
const BOXES: [[u8; 64]; 8] = [
    [14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, 0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8,
     4, 1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, 15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13],
    [15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, 3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5,
     0, 14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, 13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9],
    [10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, 13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1,
     13, 6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, 1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12],
    [7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, 13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9,
     10, 6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, 3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14],
    [2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, 14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6,
     4, 2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, 11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3],
    [12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, 10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8,
     9, 14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, 4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13],
    [4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, 13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6,
     1, 4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, 6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12],
    [13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, 1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2,
     7, 11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, 2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11],
];

/// Whether `hash` has the form of such a hash.
pub(crate) fn is_hash(hash: &[u8]) -> bool {
    hash.len() == HASH_LEN && hash.iter().all(|byte| digit(*byte).is_some())
}

/// The hash of `password`, of which the first 8 bytes count, with the salt of two characters that `salt` begins
/// with. `None` if that is no salt.
pub(crate) fn hash(password: &[u8], salt: &[u8]) -> Option<[u8; HASH_LEN]> {
    let (first, second) = (*salt.first()?, *salt.get(1)?);
    let swap = u64::from(digit(first)?) | u64::from(digit(second)?) << 6;
    let mut key = 0u64;
    for at in 0..8 {
        // The lowest bit of each byte of the key is its parity, which counts for nothing.
        key = key << 8 | u64::from(password.get(at).map_or(0, |byte| byte << 1));
    }
    let mut block = encrypt_25(&round_keys(key), swap);
    let mut out = [0; HASH_LEN];
    (out[0], out[1]) = (first, second);
    for digit in &mut out[2..] {
        *digit = DIGITS[usize::try_from(block >> 58).unwrap_or_default()];
        block <<= 6;
    }
    Some(out)
}

fn digit(byte: u8) -> Option<u8> {
    DIGITS.iter().position(|digit| *digit == byte).and_then(|at| u8::try_from(at).ok())
}

/// The bits of `value`, whose leftmost of `width` bits has number 1, in the order of `table`.
fn permute(value: u64, width: u32, table: &[u8]) -> u64 {
    table.iter().fold(0, |out, bit| out << 1 | (value >> (width - u32::from(*bit))) & 1)
}

fn round_keys(key: u64) -> [u64; 16] {
    let rotate = |half: u64, by: u32| (half << by | half >> (28 - by)) & 0x0fff_ffff;
    let (mut left, mut right) = (permute(key, 64, &KEY_LEFT), permute(key, 64, &KEY_RIGHT));
    SHIFTS.map(|by| {
        (left, right) = (rotate(left, by), rotate(right, by));
        permute(left << 28 | right, 56, &KEY_ROUND)
    })
}

/// A block of zeros, encrypted 25 times. `swap` has the 12 bits of the salt: bit i exchanges the bits i and i + 24
/// of each expanded half block. Initial and final permutation cancel each other between the encryptions.
fn encrypt_25(keys: &[u64; 16], swap: u64) -> u64 {
    // Bit 0 of the salt stands for the leftmost of 24 bits.
    let mask = (swap.reverse_bits() >> 40) & 0x00ff_ffff;
    let (mut left, mut right) = (0u64, 0u64);
    for _ in 0..25 {
        for key in keys {
            let expanded = permute(right, 32, &EXPANSION);
            let exchanged = (expanded >> 24 ^ expanded) & mask;
            let mixed = expanded ^ exchanged ^ exchanged << 24 ^ key;
            let substituted = BOXES.iter().enumerate().fold(0u64, |out, (i, table)| {
                let six = usize::try_from((mixed >> (42 - 6 * i)) & 0x3f).unwrap_or_default();
                // The outer bits choose the row, the inner ones the column.
                let at = (six & 0x20) | (six & 1) << 4 | (six >> 1) & 0xf;
                out << 4 | u64::from(table[at])
            });
            (left, right) = (right, left ^ permute(substituted, 32, &ROUND));
        }
        (left, right) = (right, left);
    }
    permute(left << 32 | right, 64, &FINAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_system_library() {
        // Made with crypt(3).
        for (password, hashed) in [
            (&b"foob"[..], b"arlEKn0OzVJn."),
            (b"test", b"abgOeLfPimXQo"),
            (b"password", b"zzXUHfURnGg8I"),
            (b"a", b"./xT2u5QYaHcU"),
            (b"longpass", b"9Zc35zTe789N6"),
            (b"longpassword", b"9Zc35zTe789N6"),
            (b"", b"xx95eIq3U1EUg"),
            (b"\xffabc", b"QqdTnSXaBHpfo"),
        ] {
            assert!(is_hash(hashed));
            assert_eq!(hash(password, hashed).as_ref(), Some(hashed), "{password:?}");
        }
        assert_eq!(hash(b"x", b"a"), None);
        assert_eq!(hash(b"x", b"a!"), None);
        assert!(!is_hash(b"arlEKn0OzVJn"));
        assert!(!is_hash(b"arlEKn0OzVJn$"));
    }
}
