//! The bytes of an announcement, version 1; the same over UDP and over a Spread group.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | `BKHS` |
//! | 4 | 1 | version 1 |
//! | 5 | 1 | bit 0 authenticated, bit 1 goodbye, bit 2 draining |
//! | 6 | 2 | length of the body, big-endian |
//! | 8 | 8 | stamp: sender's time in microseconds, big-endian, strictly increasing |
//! | 16 | .. | body: CBOR map with integer keys, deterministic encoding |
//! | .. | 1 + 32 | with bit 0: key id, HMAC-SHA256 over all before the code |
// spec: mod_backhand 7

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ring::hmac;

use crate::stat::{Micros, Name, ServerStat};

const MAGIC: &[u8; 4] = b"BKHS";
const VERSION: u8 = 1;
const HEAD: usize = 16;
const MAC: usize = 1 + 32;
const AUTHENTICATED: u8 = 1;
const GOODBYE: u8 = 2;
const DRAINING: u8 = 4;
/// Longest announcement in bytes.
pub const SIZE_MAX: usize = 1400;

/// One announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Sender's time; strictly increasing per sender.
    pub stamp: Micros,
    /// The sender ends now.
    pub goodbye: bool,
    /// The sender ends soon and wants no more requests.
    pub draining: bool,
    /// The resources; `mtime` is the receiver's to set and 0 here.
    pub stat: ServerStat,
    /// Interval between announcements, in milliseconds.
    pub interval_ms: u32,
}

/// A key shared by the servers of a cluster.
#[derive(Clone)]
pub struct Key {
    /// Number of the key, for rotation.
    pub id: u8,
    secret: hmac::Key,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key {}", self.id)
    }
}

impl Key {
    /// From its bytes.
    pub fn new(id: u8, secret: &[u8]) -> Self {
        Self { id, secret: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    pub(crate) fn sign(&self, data: &[u8]) -> [u8; 32] {
        let mut code = [0; 32];
        code.copy_from_slice(hmac::sign(&self.secret, data).as_ref());
        code
    }

    /// In constant time, for the whole code only.
    fn verify(&self, data: &[u8], code: &[u8]) -> bool {
        hmac::verify(&self.secret, data, code).is_ok()
    }
}

/// Why bytes are no announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than [`SIZE_MAX`] or shorter than the head.
    #[error("{0} bytes are no possible size")]
    Size(usize),
    /// Other bytes at the beginning.
    #[error("not an announcement")]
    Magic,
    /// A version of the future.
    #[error("version {0}, known is 1")]
    Version(u8),
    /// Unknown flags.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    /// The body's length does not fit to the size.
    #[error("the length of the body is wrong")]
    Length,
    /// The body is not well-formed, or a value has a wrong type or range.
    #[error("malformed body: {0}")]
    Body(&'static str),
    /// The code is wrong or of an unknown key.
    #[error("wrong authentication")]
    Mac,
}

impl Announcement {
    /// Encodes it, with a code if there is a key.
    pub fn encode(&self, key: Option<&Key>) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        let stat = &self.stat;
        head(&mut body, 5, 13);
        text(&mut body, 1, stat.hostname.as_str());
        uint(&mut body, 2);
        match stat.contact.ip() {
            IpAddr::V4(addr) => {
                head(&mut body, 2, 4);
                body.extend(addr.octets());
            }
            IpAddr::V6(addr) => {
                head(&mut body, 2, 16);
                body.extend(addr.octets());
            }
        }
        let words = [
            u64::from(stat.contact.port()),
            stat.arriba.into(),
            stat.aservers.into(),
            stat.nservers.into(),
            stat.load.into(),
            stat.load_hwm.into(),
            stat.cpu.into(),
            stat.ncpu.into(),
            stat.tmem,
            stat.amem,
            self.interval_ms.into(),
        ];
        for (key, word) in (3..).zip(words) {
            uint(&mut body, key);
            uint(&mut body, word);
        }
        let mut flags = if key.is_some() { AUTHENTICATED } else { 0 };
        flags |= if self.goodbye { GOODBYE } else { 0 } | if self.draining { DRAINING } else { 0 };
        let mut out = Vec::with_capacity(HEAD + body.len() + MAC);
        out.extend(MAGIC);
        out.extend([VERSION, flags]);
        // A name has at most 255 bytes, so the body has less than 400.
        out.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(self.stamp.0.to_be_bytes());
        out.extend(body);
        if let Some(key) = key {
            out.push(key.id);
            let code = key.sign(&out);
            out.extend(code);
        }
        out
    }

    /// Decodes bytes from anywhere. The second value says whether they carried a valid code of one of `keys`; a wrong
    /// code is an error, a missing one is not. A code is not looked at when there are no keys.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8], keys: &[Key]) -> Result<(Self, bool), DecodeError> {
        let size = DecodeError::Size(bytes.len());
        if bytes.len() > SIZE_MAX {
            return Err(size);
        }
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(size)?;
        let (magic, head) = head.split_at(4);
        if magic != MAGIC {
            return Err(DecodeError::Magic);
        }
        let &[version, flags, high, low, ref stamp @ ..] = head else { return Err(size) };
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if flags & !(AUTHENTICATED | GOODBYE | DRAINING) != 0 {
            return Err(DecodeError::Flags(flags));
        }
        let stamp = Micros(u64::from_be_bytes(stamp.try_into().map_err(|_| size)?));
        let signed = flags & AUTHENTICATED != 0;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (body, trailer) = rest.split_at_checked(len).ok_or(DecodeError::Length)?;
        if trailer.len() != if signed { MAC } else { 0 } {
            return Err(DecodeError::Length);
        }
        let mut authenticated = false;
        if let Some((id, code)) = trailer.split_first().filter(|_| !keys.is_empty()) {
            let data = bytes.get(..HEAD + len + 1).ok_or(DecodeError::Length)?;
            authenticated = keys.iter().filter(|key| key.id == *id).any(|key| key.verify(data, code));
            if !authenticated {
                return Err(DecodeError::Mac);
            }
        }
        let (stat, interval_ms) = decode_body(body)?;
        let (goodbye, draining) = (flags & GOODBYE != 0, flags & DRAINING != 0);
        Ok((Self { stamp, goodbye, draining, stat, interval_ms }, authenticated))
    }
}

fn decode_body(body: &[u8]) -> Result<(ServerStat, u32), DecodeError> {
    let mut input = Cbor(body);
    let Item::Map(entries) = input.item()? else { return Err(DecodeError::Body("not a map")) };
    let mut stat = ServerStat::default();
    let (mut address, mut port, mut interval_ms) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, 0);
    let mut seen: u32 = 0;
    let mut last = None;
    for _ in 0..entries {
        let Item::Uint(key) = input.item()? else { return Err(DecodeError::Body("a key is no number")) };
        if last.is_some_and(|last| last >= key) {
            return Err(DecodeError::Body("keys are not in order"));
        }
        last = Some(key);
        if !(1..=13).contains(&key) {
            input.skip(0)?;
            continue;
        }
        seen |= 1 << key;
        let item = input.item()?;
        match (key, item) {
            (1, Item::Text(name)) => {
                stat.hostname = std::str::from_utf8(name)
                    .ok()
                    .and_then(Name::new)
                    .ok_or(DecodeError::Body("the host name is not legal"))?;
            }
            (2, Item::Bytes(bytes)) => {
                address = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
                    (Ok(octets), _) => octets.into(),
                    (_, Ok(octets)) => octets.into(),
                    _ => return Err(DecodeError::Body("the contact is not an address")),
                };
            }
            (3, Item::Uint(value)) => {
                port = u16::try_from(value)
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or(DecodeError::Body("the port is out of range"))?;
            }
            (4, Item::Uint(value)) => stat.arriba = word(value)?.max(1),
            (5, Item::Uint(value)) => stat.aservers = word(value)?,
            (6, Item::Uint(value)) => stat.nservers = word(value)?,
            (7, Item::Uint(value)) => stat.load = word(value)?,
            (8, Item::Uint(value)) => stat.load_hwm = word(value)?.max(1),
            (9, Item::Uint(value)) => stat.cpu = word(value)?.min(1000),
            (10, Item::Uint(value)) => stat.ncpu = word(value)?.max(1),
            (11, Item::Uint(value)) => stat.tmem = value,
            (12, Item::Uint(value)) => stat.amem = value,
            (13, Item::Uint(value)) => interval_ms = word(value)?,
            _ => return Err(DecodeError::Body("a value has a wrong type")),
        }
    }
    if !input.0.is_empty() {
        return Err(DecodeError::Body("bytes after the end"));
    }
    if seen != 0b11_1111_1111_1110 {
        return Err(DecodeError::Body("a value is missing"));
    }
    stat.contact = SocketAddr::new(address, port);
    Ok((stat, interval_ms))
}

/// Values that the C view holds as `int`.
fn word(value: u64) -> Result<u32, DecodeError> {
    u32::try_from(value)
        .ok()
        .filter(|v| *v <= i32::MAX.unsigned_abs())
        .ok_or(DecodeError::Body("a value is out of range"))
}

fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    let bytes = value.to_be_bytes();
    match value {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend([major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend(bytes);
        }
    }
}

fn uint(out: &mut Vec<u8>, value: u64) {
    head(out, 0, value);
}

fn text(out: &mut Vec<u8>, key: u64, value: &str) {
    uint(out, key);
    head(out, 3, value.len() as u64);
    out.extend(value.as_bytes());
}

/// Reads the part of CBOR that deterministic encodings use.
struct Cbor<'a>(&'a [u8]);

enum Item<'a> {
    Uint(u64),
    Bytes(&'a [u8]),
    Text(&'a [u8]),
    Array(u64),
    Map(u64),
    Tag,
    Other,
}

impl<'a> Cbor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Body("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn item(&mut self) -> Result<Item<'a>, DecodeError> {
        let first = self.take(1)?.first().copied().unwrap_or_default();
        let value = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            size @ 24..=27 => {
                self.take(1 << (size - 24))?.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
            }
            _ => return Err(DecodeError::Body("an indefinite or reserved length")),
        };
        let len = || usize::try_from(value).map_err(|_| DecodeError::Body("it is cut off"));
        Ok(match first >> 5 {
            0 => Item::Uint(value),
            2 => Item::Bytes(self.take(len()?)?),
            3 => Item::Text(self.take(len()?)?),
            4 => Item::Array(value),
            5 => Item::Map(value),
            6 => Item::Tag,
            _ => Item::Other,
        })
    }

    /// Reads over one value. Each step takes a byte at least, so the size of the input bounds the work.
    fn skip(&mut self, depth: u32) -> Result<(), DecodeError> {
        if depth > 8 {
            return Err(DecodeError::Body("nested too deep"));
        }
        let inside = match self.item()? {
            Item::Array(count) => count,
            Item::Map(count) => count.saturating_mul(2),
            Item::Tag => 1,
            Item::Uint(_) | Item::Bytes(_) | Item::Text(_) | Item::Other => 0,
        };
        (0..inside).try_for_each(|_| self.skip(depth + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    fn example() -> Announcement {
        let stat = ServerStat {
            hostname: Name::new("www-3.example.com").unwrap(),
            mtime: Micros(0),
            contact: "10.0.5.13:80".parse().unwrap(),
            arriba: 1432,
            aservers: 47,
            nservers: 50,
            load: 1250,
            load_hwm: 2,
            cpu: 830,
            ncpu: 4,
            tmem: 8_589_934_592,
            amem: 6_442_450_944,
        };
        let stamp = Micros(1_700_000_000_000_000);
        Announcement { stamp, goodbye: false, draining: false, stat, interval_ms: 1000 }
    }

    const PLAIN: &str = "424b48530100004b00060a24181e4000ad01717777772d332e6578616d706c65\
                         2e636f6d02440a00050d0318500419059805182f061832071904e20802091903\
                         3e0a040b1b00000002000000000c1b00000001800000000d1903e8";

    #[test]
    fn the_vectors_of_the_specification() {
        // spec: mod_backhand 7, 12 T13
        let plain = hex(PLAIN);
        assert_eq!(plain.len(), 91);
        assert_eq!(example().encode(None), plain);
        assert_eq!(Announcement::decode(&plain, &[]), Ok((example(), false)));

        let key = Key::new(7, b"backhand-test-key");
        let signed = example().encode(Some(&key));
        assert_eq!(signed.len(), 124);
        assert_eq!(signed[5], 1);
        let trailer = "071849843dac5899c4627dc45ba259c44befe95408467960c1c11fe0e4179b87bb";
        assert_eq!(signed[91..], hex(trailer));
        assert_eq!(Announcement::decode(&signed, std::slice::from_ref(&key)), Ok((example(), true)));
        // Every flipped bit is noticed.
        for bit in 0..signed.len() * 8 {
            let mut forged = signed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let result = Announcement::decode(&forged, std::slice::from_ref(&key));
            assert!(!matches!(result, Ok((_, true))), "bit {bit}: {result:?}");
        }
        let other = Key::new(7, b"another key");
        assert_eq!(Announcement::decode(&signed, &[other]), Err(DecodeError::Mac));
    }

    #[test]
    fn every_truncation_is_refused_and_unknown_keys_are_not() {
        let plain = hex(PLAIN);
        for len in 0..plain.len() {
            assert!(Announcement::decode(&plain[..len], &[]).is_err(), "{len}");
        }
        // The same with key 15 = "c1" and key 16 = [1, {2: 3}].
        let mut longer = plain;
        longer[16] = 0xaf;
        longer.extend(hex("0f626331108201a10203"));
        longer[7] = u8::try_from(longer.len() - 16).unwrap();
        assert_eq!(Announcement::decode(&longer, &[]), Ok((example(), false)));
        longer[4] = 2;
        assert_eq!(Announcement::decode(&longer, &[]), Err(DecodeError::Version(2)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Announcement::decode(&bytes, &[]);
            let mut framed = b"BKHS\x01\x00".to_vec();
            framed.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
            framed.extend([0; 8]);
            framed.extend(&bytes);
            let _ = Announcement::decode(&framed, &[]);
        }

        #[test]
        fn decoding_undoes_encoding(
            name in "[a-z0-9.-]{1,255}",
            ip in any::<IpAddr>(),
            port in 1..=u16::MAX,
            words in proptest::array::uniform7(0..=i32::MAX.unsigned_abs()),
            memory in any::<(u64, u64)>(),
            stamp in any::<u64>(),
            interval_ms in 0..=60_000u32,
            (goodbye, draining, signed) in any::<(bool, bool, bool)>(),
        ) {
            let [arriba, aservers, nservers, load, hwm, cpu, ncpu] = words;
            let stat = ServerStat {
                hostname: Name::new(&name).unwrap(),
                mtime: Micros(0),
                contact: SocketAddr::new(ip, port),
                arriba: arriba.max(1),
                aservers,
                nservers,
                load,
                load_hwm: hwm.max(1),
                cpu: cpu % 1001,
                ncpu: ncpu.max(1),
                tmem: memory.0,
                amem: memory.1,
            };
            let sent = Announcement { stamp: Micros(stamp), goodbye, draining, stat, interval_ms };
            let keys = if signed { vec![Key::new(1, b"k")] } else { vec![] };
            let bytes = sent.encode(keys.first());
            prop_assert_eq!(Announcement::decode(&bytes, &keys), Ok((sent, signed)));
        }
    }
}
