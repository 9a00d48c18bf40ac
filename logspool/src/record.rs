//! Records: integers in network byte order.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | bytes of the body |
//! | 4 | 4 | CRC-32C of the body |
//! | 8 | 1 | kind: 1 line, 2 cut line, 3 gap (queue full), 4 gap (crash) |
//! | 9 | 4 | index of the group in `source` |
//! | 13 | 8 | number |
//! | 21 | 8 | time of queuing, microseconds since 1970 |
//! | 29 | | the line, or 8 bytes: last number of the gap |

use bytes::{Buf, BufMut, Bytes};
use log_stream::frame::crc32c;
use log_stream::intake::What;
use log_stream::{GapWhy, MESSAGE_BYTES_MAX, Record};

/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 8;
/// Bytes of the body before the line.
const FIXED_BYTES: usize = 21;
/// Longest body: no line is longer than a message.
const BODY_BYTES_MAX: usize = FIXED_BYTES + MESSAGE_BYTES_MAX;
/// Longest record.
pub(crate) const RECORD_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX;

/// Bytes that a line takes.
pub(crate) fn line_bytes(data: usize) -> usize {
    HEAD_BYTES + FIXED_BYTES + data
}

/// Appends the bytes of a record.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let begin = out.len();
    out.put_u64(0);
    match &record.what {
        What::Line { data, cut } => {
            put_head(out, if *cut { 2 } else { 1 }, record);
            out.put_slice(data);
        }
        What::Gap { to, why } => {
            put_head(out, if *why == GapWhy::QueueFull { 3 } else { 4 }, record);
            out.put_u64(*to);
        }
    }
    let body = &out[begin + HEAD_BYTES..];
    // A line is never longer than a message.
    let head = (u64::try_from(body.len()).unwrap_or(0) << 32) | u64::from(crc32c(body));
    out[begin..begin + HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
}

fn put_head(out: &mut Vec<u8>, kind: u8, record: &Record) {
    out.put_u8(kind);
    out.put_u32(record.stream);
    out.put_u64(record.seq);
    out.put_u64(record.time_us);
}

/// What is at the front of some bytes.
#[derive(Debug)]
pub(crate) enum Found {
    /// A record and its bytes.
    Record(Record, usize),
    /// The bytes end inside a record.
    Part,
    /// Anything else.
    Broken,
}

/// Reads one record.
pub(crate) fn decode(mut bytes: &[u8]) -> Found {
    if bytes.len() < HEAD_BYTES {
        return Found::Part;
    }
    let len = bytes.get_u32() as usize;
    let sum = bytes.get_u32();
    if !(FIXED_BYTES..=BODY_BYTES_MAX).contains(&len) {
        return Found::Broken;
    }
    let Some(mut body) = bytes.get(..len) else { return Found::Part };
    if crc32c(body) != sum {
        return Found::Broken;
    }
    let kind = body.get_u8();
    let stream = body.get_u32();
    let seq = body.get_u64();
    let time_us = body.get_u64();
    let what = match kind {
        1 | 2 => What::Line { data: Bytes::copy_from_slice(body), cut: kind == 2 },
        3 | 4 if body.len() == 8 => {
            let to = body.get_u64();
            if to < seq || to == u64::MAX {
                return Found::Broken;
            }
            What::Gap { to, why: if kind == 3 { GapWhy::QueueFull } else { GapWhy::Crash } }
        }
        _ => return Found::Broken,
    };
    if seq == u64::MAX {
        return Found::Broken;
    }
    Found::Record(Record { stream, seq, time_us, what }, HEAD_BYTES + len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        let line = (prop::collection::vec(any::<u8>(), 0..300), any::<bool>())
            .prop_map(|(data, cut)| (0, What::Line { data: data.into(), cut }));
        let gap = (0u64..1000, any::<bool>()).prop_map(|(more, crash)| {
            (more, What::Gap { to: 0, why: if crash { GapWhy::Crash } else { GapWhy::QueueFull } })
        });
        (any::<u32>(), 1u64..1 << 60, any::<u64>(), prop_oneof![line, gap]).prop_map(
            |(stream, seq, time_us, (more, mut what))| {
                if let What::Gap { to, .. } = &mut what {
                    *to = seq + more;
                }
                Record { stream, seq, time_us, what }
            },
        )
    }

    proptest! {
        #[test]
        fn records_come_back(record in records()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            if let What::Line { data, .. } = &record.what {
                prop_assert_eq!(bytes.len(), line_bytes(data.len()));
            }
            match decode(&bytes) {
                Found::Record(got, len) => prop_assert_eq!((got, len), (record, bytes.len())),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn a_part_is_no_record_and_a_flipped_byte_is_found(record in records(), at in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let at = at.index(bytes.len());
            prop_assert!(matches!(decode(&bytes[..at]), Found::Part));
            bytes[at] ^= 0x55;
            prop_assert!(!matches!(decode(&bytes), Found::Record(..)));
        }

        #[test]
        fn no_bytes_are_trusted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
