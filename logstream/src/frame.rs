//! Frames: numbered records in one message. All integers in network byte order.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `MLS1` |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags |
//! | 6 | 2 | number of records n |
//! | 8 | 16 | source id |
//! | 24 | 8 | number of the first record |
//! | 32 | 8 | time of queuing of the first record, microseconds since 1970 |
//! | 40 | 4n | length of each record, then the records |
//! | end | 4 | CRC-32C of all before |
//!
//! Frames may follow one another in a message. A frame that was checked cannot fail later.
// spec: mod_log_spread 4.4

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use crc32c::crc32c;

use crate::MESSAGE_BYTES_MAX;

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MLS1";
/// Bytes before the lengths of the records.
pub const HEAD_BYTES: usize = 40;
/// Bytes of the checksum.
pub const TAIL_BYTES: usize = 4;

/// The records were sent before (or may have been).
pub const FLAG_REPLAYED: u8 = 0x01;
/// At least one record was cut to the line limit.
pub const FLAG_CUT: u8 = 0x02;
/// The source keeps its records until a writer acknowledges them: ask for what is missing.
pub const FLAG_STRICT: u8 = 0x04;
/// In an acknowledgement: send again from the number after the acknowledged one.
pub const FLAG_RESEND: u8 = 0x08;
/// In an acknowledgement: the writer ends in order, its answers are not to be waited for.
pub const FLAG_LAST: u8 = 0x10;

/// In a rotation: now, whatever the period.
pub const FLAG_NOW: u8 = 0x20;

/// Identity of a source: random, chosen once by each child process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub [u8; 16]);

/// Addressee of a request by a writer that knows the sender, but not its source id.
pub const ANYONE: SourceId = SourceId([0; 16]);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SourceId {
    /// Reads the 32 hexadecimal digits that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut id = [0; 16];
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(id))
    }
}

/// What a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Log lines.
    Lines = 1,
    /// A source begins, or says where it stands.
    Hello = 2,
    /// A source ends in order.
    Goodbye = 3,
    /// Numbers that will never come.
    Gap = 4,
    /// A writer to a source: all up to the number are durable.
    Ack = 5,
    /// Checksums over plain lines.
    Summary = 6,
    /// Rotation marker among writers.
    Rotate = 7,
    /// A source to itself: what was sent before has been ordered.
    Barrier = 8,
    /// Somebody who listens, to a source: say hello. Publishers that do not know it ignore it.
    Ask = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Lines,
            2 => Self::Hello,
            3 => Self::Goodbye,
            4 => Self::Gap,
            5 => Self::Ack,
            6 => Self::Summary,
            7 => Self::Rotate,
            8 => Self::Barrier,
            9 => Self::Ask,
            _ => return None,
        })
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes do not begin with the magic word.
    #[error("no frame: the magic word is missing")]
    Magic,
    /// The bytes end inside the frame.
    #[error("frame is truncated: {have} bytes of {want}")]
    Short {
        /// Bytes present.
        have: usize,
        /// Bytes needed, as far as known.
        want: usize,
    },
    /// The frame would be longer than a message may be.
    #[error("frame of {0} bytes is longer than a message may be")]
    Long(usize),
    /// Unknown kind.
    #[error("unknown kind of frame: {0}")]
    Kind(u8),
    /// Checksum does not fit.
    #[error("checksum of the frame is wrong")]
    Checksum,
}

/// A checked frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// Bits `FLAG_*`.
    pub flags: u8,
    /// The source it is about.
    pub source: SourceId,
    /// Number of the first record.
    pub seq: u64,
    /// Time of queuing of the first record, microseconds since 1970.
    pub time_us: u64,
    records: Vec<Bytes>,
}

impl Frame {
    /// True when a message begins like a frame.
    pub fn looks_like(payload: &[u8]) -> bool {
        payload.starts_with(&MAGIC)
    }

    /// Takes one frame from the front of `payload`; the records are slices of it.
    ///
    /// # Errors
    /// When the bytes are no whole, correct frame. `payload` is then unchanged.
    pub fn decode(payload: &mut Bytes) -> Result<Self, FrameError> {
        let mut head: &[u8] = payload;
        if !Self::looks_like(head) {
            return Err(FrameError::Magic);
        }
        if head.len() < HEAD_BYTES + TAIL_BYTES {
            return Err(FrameError::Short { have: head.len(), want: HEAD_BYTES + TAIL_BYTES });
        }
        head.advance(4);
        let kind = head.get_u8();
        let flags = head.get_u8();
        let n = usize::from(head.get_u16());
        let mut source = [0; 16];
        head.copy_to_slice(&mut source);
        let seq = head.get_u64();
        let time_us = head.get_u64();
        if head.len() < 4 * n + TAIL_BYTES {
            return Err(FrameError::Short { have: payload.len(), want: HEAD_BYTES + 4 * n + TAIL_BYTES });
        }
        let lens: Vec<usize> = (0..n).map(|_| head.get_u32() as usize).collect();
        let body = lens.iter().try_fold(0usize, |sum, len| sum.checked_add(*len)).unwrap_or(usize::MAX);
        let total = body.saturating_add(HEAD_BYTES + 4 * n + TAIL_BYTES);
        if total > MESSAGE_BYTES_MAX {
            return Err(FrameError::Long(total));
        }
        if payload.len() < total {
            return Err(FrameError::Short { have: payload.len(), want: total });
        }
        let mut tail = &payload[total - TAIL_BYTES..total];
        if tail.get_u32() != crc32c(&payload[..total - TAIL_BYTES]) {
            return Err(FrameError::Checksum);
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        let mut rest = payload.split_to(total).slice(HEAD_BYTES + 4 * n..);
        let records = lens.into_iter().map(|len| rest.split_to(len)).collect();
        Ok(Self { kind, flags, source: SourceId(source), seq, time_us, records })
    }

    /// Builds the bytes of a frame. Returns `None` when it would be longer than a message may be.
    pub fn encode(
        kind: Kind,
        flags: u8,
        source: SourceId,
        seq: u64,
        time_us: u64,
        records: &[&[u8]],
    ) -> Option<Bytes> {
        let body: usize = records.iter().map(|r| r.len()).sum();
        let total = HEAD_BYTES + 4 * records.len() + body + TAIL_BYTES;
        let n = u16::try_from(records.len()).ok()?;
        if total > MESSAGE_BYTES_MAX {
            return None;
        }
        let mut out = BytesMut::with_capacity(total);
        out.put_slice(&MAGIC);
        out.put_u8(kind as u8);
        out.put_u8(flags);
        out.put_u16(n);
        out.put_slice(&source.0);
        out.put_u64(seq);
        out.put_u64(time_us);
        for record in records {
            out.put_u32(u32::try_from(record.len()).ok()?);
        }
        for record in records {
            out.put_slice(record);
        }
        let sum = crc32c(&out);
        out.put_u32(sum);
        Some(out.freeze())
    }

    /// The records, in order.
    pub fn records(&self) -> &[Bytes] {
        &self.records
    }

    /// Value of a `key=value` line in the first record.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.records
            .first()?
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    /// Value of a `key=value` line as a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        std::str::from_utf8(self.value(key)?).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: SourceId = SourceId([7; 16]);

    #[test]
    fn checksum_has_the_published_check_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn layout_is_the_published_one() {
        let bytes = Frame::encode(Kind::Gap, 2, ID, 5, 9, &[b"ab", b"c"]).expect("small");
        assert_eq!(&bytes[..8], b"MLS1\x04\x02\x00\x02");
        assert_eq!(bytes[24..32], 5u64.to_be_bytes());
        assert_eq!(bytes[32..40], 9u64.to_be_bytes());
        assert_eq!(&bytes[40..51], b"\x00\x00\x00\x02\x00\x00\x00\x01abc");
        assert_eq!(bytes.len(), 55);
    }

    #[test]
    fn text_records_give_values() {
        let mut bytes = Frame::encode(Kind::Hello, 0, ID, 1, 0, &[b"host=a\nfirst=17\n"]).expect("small");
        let frame = Frame::decode(&mut bytes).expect("own frame");
        assert_eq!(frame.number("first"), Some(17));
        assert_eq!(frame.value("host"), Some(&b"a"[..]));
        assert_eq!((frame.value("irst"), frame.number("host")), (None, None));
    }

    #[test]
    fn over_long_frames_are_not_made() {
        let line = vec![b'x'; MESSAGE_BYTES_MAX - HEAD_BYTES - TAIL_BYTES - 4];
        let bytes = Frame::encode(Kind::Lines, 0, ID, 1, 0, &[&line]).expect("just fits");
        assert_eq!(bytes.len(), MESSAGE_BYTES_MAX);
        assert_eq!(Frame::encode(Kind::Lines, 0, ID, 1, 0, &[&line, b""]), None);
    }

    proptest! {
        #[test]
        fn frames_come_back(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            kind in 1u8..=8, flags: u8, source: [u8; 16], seq: u64, time: u64, more: Vec<u8>,
        ) {
            let kind = Kind::from_byte(kind).expect("in range");
            let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let bytes = Frame::encode(kind, flags, SourceId(source), seq, time, &slices).expect("small");
            for cut in 0..bytes.len() {
                prop_assert!(Frame::decode(&mut bytes.slice(..cut)).is_err());
            }
            let mut payload = Bytes::from([&bytes[..], &more].concat());
            let frame = Frame::decode(&mut payload).expect("own frame");
            prop_assert_eq!(&payload[..], &more[..]);
            prop_assert_eq!((frame.kind, frame.flags, frame.source.0, frame.seq, frame.time_us), (kind, flags, source, seq, time));
            prop_assert_eq!(frame.records().iter().map(|r| r.to_vec()).collect::<Vec<_>>(), records);
        }

        #[test]
        fn a_changed_bit_is_found(bit in 0usize..8 * 55) {
            let mut bytes = Frame::encode(Kind::Gap, 2, ID, 5, 9, &[b"ab", b"c"]).expect("small").to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::decode(&mut Bytes::from(bytes)).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(&bytes);
            let _ = Frame::decode(&mut Bytes::from(bytes));
            let _ = Frame::decode(&mut Bytes::from(with_magic));
        }

        #[test]
        fn ids_are_read_back(id: [u8; 16]) {
            prop_assert_eq!(SourceId::parse(&SourceId(id).to_string()), Some(SourceId(id)));
        }
    }
}
