//! Records as bytes.

use bytes::Bytes;
use log_stream::SourceId;
use log_stream::sequencer::GapReason;

use super::record::{Event, Record};

/// Longest text in a record.
const TEXT_MAX: usize = 4096;

pub(super) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

/// Signed distances as small numbers.
pub(super) fn zigzag(from: u64, to: u64) -> u64 {
    let delta = to.wrapping_sub(from).cast_signed();
    ((delta << 1) ^ (delta >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(from: u64, code: u64) -> u64 {
    let delta = (code >> 1).cast_signed() ^ -((code & 1).cast_signed());
    from.wrapping_add(delta.cast_unsigned())
}

/// Codes and decodes records: knows what number each source is expected to have next.
#[derive(Clone, Debug, Default)]
pub(super) struct Coder {
    pub(super) next: Vec<u64>,
}

impl Coder {
    pub(super) fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let tag = |out: &mut Vec<u8>, kind: u64, n: u64| put(out, n << 4 | kind);
        let (kind, source, seq, count) = match record {
            Record::Source { id, group, first } => {
                tag(out, 0, group.len() as u64);
                out.extend_from_slice(&id.0);
                out.extend_from_slice(group);
                put(out, *first);
                return self.next.push(*first);
            }
            Record::Plain(n) => return tag(out, 3, *n),
            Record::Event(event) => {
                let place = Event::ALL.iter().position(|e| e == event).unwrap_or(0);
                return tag(out, 7, place as u64);
            }
            Record::Lines { source, seq, count } => (1, *source, *seq, *count),
            Record::Multi { source, seq, lines } => (2, *source, *seq, *lines),
            Record::Elsewhere { source, seq, count } => (4, *source, *seq, *count),
            Record::Gap { source, seq, count, reason } => {
                let reason = match reason {
                    GapReason::Publisher => 8,
                    GapReason::Elsewhere => 9,
                    GapReason::Lost => 10,
                };
                (reason, *source, *seq, *count)
            }
            Record::Duplicates { source, seq, count } => (6, *source, *seq, *count),
            Record::End { source, last } => (5, *source, *last, 0),
        };
        tag(out, kind, source as u64);
        put(out, zigzag(self.next[source], seq));
        put(out, count);
        self.advance(record);
    }

    fn advance(&mut self, record: &Record) {
        match record {
            Record::Lines { source, seq, count }
            | Record::Elsewhere { source, seq, count }
            | Record::Gap { source, seq, count, .. } => self.next[*source] = seq.saturating_add(*count),
            Record::Multi { source, seq, .. } => self.next[*source] = seq.saturating_add(1),
            _ => {}
        }
    }

    pub(super) fn decode(&mut self, bytes: &mut &[u8]) -> Option<Record> {
        let tag = take(bytes)?;
        let (kind, n) = (tag & 15, tag >> 4);
        match kind {
            0 => {
                let id = SourceId(take_bytes(bytes, 16)?.try_into().ok()?);
                let len = usize::try_from(n).ok().filter(|n| *n <= TEXT_MAX)?;
                let group = Bytes::copy_from_slice(take_bytes(bytes, len)?);
                let first = take(bytes)?;
                self.next.push(first);
                return Some(Record::Source { id, group, first });
            }
            3 => return Some(Record::Plain(n)),
            7 => return Some(Record::Event(*Event::ALL.get(usize::try_from(n).ok()?)?)),
            _ => {}
        }
        let source = usize::try_from(n).ok().filter(|n| *n < self.next.len())?;
        let seq = unzigzag(self.next[source], take(bytes)?);
        let count = take(bytes)?;
        let gap = |reason| Record::Gap { source, seq, count, reason };
        let record = match kind {
            1 => Record::Lines { source, seq, count },
            2 => Record::Multi { source, seq, lines: count },
            4 => Record::Elsewhere { source, seq, count },
            5 => Record::End { source, last: seq },
            6 => Record::Duplicates { source, seq, count },
            8 => gap(GapReason::Publisher),
            9 => gap(GapReason::Elsewhere),
            10 => gap(GapReason::Lost),
            _ => return None,
        };
        self.advance(&record);
        Some(record)
    }
}
