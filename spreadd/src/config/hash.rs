//! The configuration hash, and the identifiers made from names.
//!
//! Source: `spec/daemon-config.md#5`.

use std::fmt::Write;
use std::net::IpAddr;

use ring::digest::{SHA256, digest};

use crate::config::model::Config;

/// The text that the hash of a configuration covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashText(Vec<u8>);

impl HashText {
    /// The bytes, without the terminating zero that the hash also covers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Config {
    /// The text that describes who is in the ring. Equal on all daemons that may talk to each other.
    pub fn hash_text(&self) -> HashText {
        let mut out = Vec::new();
        let addresses = self.options.exclude_segment_addresses != Some(true);
        for segment in &self.segments {
            put(&mut out, format_args!("Segment: port = {};", segment.port));
            for address in segment.addresses.iter().filter(|_| addresses) {
                put(&mut out, format_args!(" [{}]", full_form(address.ip)));
            }
            out.push(b'\n');
            for daemon in &segment.daemons {
                out.extend_from_slice(b"\t'");
                out.extend_from_slice(daemon.name.as_bytes());
                put(&mut out, format_args!("' [{}] [{}]\n", full_form(daemon.address.ip), daemon.virtual_id));
            }
            out.push(b'\n');
        }
        let accelerated = self.options.accelerated_ring == Some(true);
        let protocol = if accelerated { "Accelerated" } else { "Original" };
        put(&mut out, format_args!("Version: 5\nProtocol: {protocol} Ring\n"));
        HashText(out)
    }

    /// The 32-bit hash that Spread 5.0.1 computes for this configuration.
    pub fn hash(&self) -> u32 {
        hash(self.hash_text().as_bytes())
    }

    /// The hash that the packets of our ring carry: of the same text, with the version of the ring protocol.
    pub fn ring_hash(&self) -> [u8; 16] {
        let mut text = b"spread ring 1\n".to_vec();
        text.extend_from_slice(self.hash_text().as_bytes());
        let digest = digest(&SHA256, &text);
        let mut out = [0; 16];
        out.copy_from_slice(&digest.as_ref()[..16]);
        out
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = line.write_fmt(text);
    out.extend_from_slice(line.as_bytes());
}

/// IPv4 in dotted decimal; IPv6 as eight groups of four digits.
fn full_form(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:04x}")).join(":"),
    }
}

/// The hash of `text` and one terminating zero byte.
pub fn hash(text: &[u8]) -> u32 {
    let len = text.len().wrapping_add(1);
    // The length enters modulo 2^32, like everything else.
    let mut h = u32::try_from(len & 0xffff_ffff).unwrap_or(u32::MAX);
    for byte in text.iter().chain(&[0]) {
        h = h.wrapping_add_signed(i32::from(byte.cast_signed()));
        h = h.wrapping_add(h << 10);
        h ^= h >> 6;
    }
    h = h.wrapping_add(h << 3);
    h ^= h >> 11;
    h.wrapping_add(h << 15)
}

/// The identifier of a daemon without a `VirtualID`: the hash of its name, which is never 0 or 2^32 - 1.
pub fn virtual_id(name: &[u8]) -> u32 {
    match hash(name) {
        0 | u32::MAX => u32::try_from(name.len() + 1).unwrap_or(u32::MAX) << 16,
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_in_the_original() {
        for (name, id) in [
            ("localhost", 482_711_334),
            ("na", 1_560_913_510),
            ("nb", 4_056_437_397),
            ("nc", 3_869_720_491),
            ("127.0.0.2", 2_163_772_977),
            ("nœud-é", 2_414_866_250),
        ] {
            assert_eq!(virtual_id(name.as_bytes()), id, "{name}");
        }
    }

    #[test]
    fn addresses_are_hashed_in_full() {
        assert_eq!(full_form(IpAddr::from([127, 0, 0, 1])), "127.0.0.1");
        assert_eq!(
            full_form("fd00:77::a".parse().expect("address")),
            "fd00:0077:0000:0000:0000:0000:0000:000a"
        );
    }
}
