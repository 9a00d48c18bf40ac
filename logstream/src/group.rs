//! Names that begin with `$` in a log directive: one group, or a family of groups for virtual hosts.
// spec: mod_log_spread 3

use std::fmt::Write;

/// Longest group name.
pub const GROUP_BYTES_MAX: usize = 31;
/// Longest prefix of a family: room for `-NNNN`.
pub const PREFIX_BYTES_MAX: usize = 26;
/// Most groups behind one `$#prefix`.
pub const BUCKETS_MAX: u32 = 10_000;

/// Where the lines of one log directive go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// `$group`: all lines to one group.
    Group(Box<[u8]>),
    /// `$#prefix`: a line goes to `prefix-NNNN`, by the name of the virtual host.
    Family(Box<[u8]>),
}

/// Why a `$` name cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing after the sign.
    #[error("the group name after \"{0}\" is empty")]
    Empty(&'static str),
    /// Too many bytes.
    #[error("the group name has {len} bytes; at most {max} are possible")]
    Long {
        /// Bytes found.
        len: usize,
        /// Bytes allowed here.
        max: usize,
    },
    /// A byte that no group name may have.
    #[error(
        "byte 0x{byte:02x} at position {at} cannot be part of a group name (letters, digits and $%&'()*+,-.:;<=>?@[\\]^_`{{|}}~ can)"
    )]
    Byte {
        /// The byte.
        byte: u8,
        /// Its place in the directive's text, from 1.
        at: usize,
    },
}

impl Target {
    /// Reads the text of a directive; `None` when it does not begin with `$` and so is none of ours.
    pub fn parse(text: &[u8]) -> Option<Result<Self, NameError>> {
        let name = text.strip_prefix(b"$")?;
        Some(match name.strip_prefix(b"#") {
            Some(prefix) => check(prefix, "$#", PREFIX_BYTES_MAX).map(|()| Self::Family(prefix.into())),
            None => check(name, "$", GROUP_BYTES_MAX).map(|()| Self::Group(name.into())),
        })
    }
}

fn check(name: &[u8], sign: &'static str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty(sign));
    }
    if name.len() > max {
        return Err(NameError::Long { len: name.len(), max });
    }
    // A slash is legal in Spread, but mod_log_config refuses names in directories that do not exist.
    match name.iter().position(|b| !(0x24..=0x7e).contains(b) || *b == b'/') {
        Some(i) => Err(NameError::Byte { byte: name[i], at: i + sign.len() + 1 }),
        None => Ok(()),
    }
}

/// Name of one group of a family.
pub fn bucket_name(prefix: &[u8], bucket: u32) -> Box<[u8]> {
    let mut digits = String::with_capacity(5);
    // Writing to a string cannot fail.
    let _ = write!(digits, "-{bucket:04}");
    [prefix, digits.as_bytes()].concat().into()
}

/// How host names are spread over the groups of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostHash {
    /// The hash of the published writer (and probably of the original module).
    Legacy,
    /// 64-bit FNV-1a.
    #[default]
    Fnv1a,
}

impl HostHash {
    /// Bucket of a host name among `n` (at least 1). The name is taken in lower case, without a final dot.
    pub fn bucket(self, host: &[u8], n: u32) -> u32 {
        let host = host.strip_suffix(b".").unwrap_or(host);
        let bytes = host.iter().map(u8::to_ascii_lowercase);
        let n = n.max(1);
        match self {
            Self::Legacy => bytes.fold(0, legacy_step) % n,
            Self::Fnv1a => {
                let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                });
                u32::try_from(hash % u64::from(n)).unwrap_or(0)
            }
        }
    }
}

/// One byte of the legacy hash: product and sum are cut to 32 bits before the halving.
// spec: mod_log_spread 3.2
fn legacy_step(v: u32, byte: u8) -> u32 {
    let c = i32::from(byte.cast_signed());
    let scaled = (31 * c).div_euclid(32).cast_unsigned();
    let v = v.wrapping_mul(2).wrapping_add(scaled) / 2;
    let top = v & 0xf000_0000;
    if top == 0 { v } else { v ^ (top >> 24) ^ top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_files() {
        assert_eq!(Target::parse(b"logs/access.log"), None);
        assert_eq!(Target::parse(b"|/bin/cat"), None);
        assert_eq!(Target::parse(b"$site4"), Some(Ok(Target::Group(b"site4"[..].into()))));
        assert_eq!(Target::parse(b"$#vhost"), Some(Ok(Target::Family(b"vhost"[..].into()))));
        assert_eq!(Target::parse(b"$$x"), Some(Ok(Target::Group(b"$x"[..].into()))));
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        let error = |text: &[u8]| Target::parse(text).expect("ours").expect_err("bad").to_string();
        assert_eq!(error(b"$"), "the group name after \"$\" is empty");
        assert_eq!(error(b"$#"), "the group name after \"$#\" is empty");
        assert!(
            error(b"$with space").starts_with("byte 0x20 at position 6 cannot"),
            "{}",
            error(b"$with space")
        );
        assert!(error(b"$a/b").starts_with("byte 0x2f at position 3"));
        assert!(error("$ü".as_bytes()).starts_with("byte 0xc3 at position 2"));
        assert!(error(b"$#a#b").starts_with("byte 0x23 at position 4"));
        assert_eq!(
            error(&[&b"$"[..], &[b'x'; 32]].concat()),
            "the group name has 32 bytes; at most 31 are possible"
        );
        assert_eq!(
            error(&[&b"$#"[..], &[b'x'; 27]].concat()),
            "the group name has 27 bytes; at most 26 are possible"
        );
    }

    #[test]
    fn legacy_buckets_are_those_of_the_published_code() {
        // spec: mod_log_spread 3.2, table
        for (host, buckets) in [
            ("www.example.com", [4, 5, 25, 725]),
            ("example.com", [0, 4, 32, 532]),
            ("a.example.com", [5, 8, 0, 600]),
            ("b.example.com", [6, 9, 1, 601]),
            ("localhost", [2, 0, 64, 464]),
            ("xn--bcher-kva.example", [3, 11, 55, 955]),
            ("www.example.org", [2, 10, 30, 730]),
        ] {
            let got = [7, 16, 100, 1024].map(|n| HostHash::Legacy.bucket(host.as_bytes(), n));
            assert_eq!(got, buckets, "{host}");
        }
    }

    #[test]
    fn buckets_ignore_case_and_final_dot() {
        for hash in [HostHash::Legacy, HostHash::Fnv1a] {
            assert_eq!(hash.bucket(b"WWW.Example.COM.", 1024), hash.bucket(b"www.example.com", 1024));
            assert_eq!(hash.bucket(b"", 0), 0);
        }
    }

    #[test]
    fn buckets_have_four_digits() {
        assert_eq!(&*bucket_name(b"apache", 3), b"apache-0003");
        assert_eq!(&*bucket_name(b"a", 9999), b"a-9999");
    }
}
