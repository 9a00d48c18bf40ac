//! The gap mark: our own message of a daemon to a client that asked for it.
//!
//! A daemon that may drop messages for slow clients puts a mark where messages are missing. Only clients that set
//! bit 1 of the flags of their hello get it, which Spread 5 ignores; others miss the messages without a sign. The
//! mark is a message of type 0x0010_0000 alone, which is not used with clients otherwise:
//!
//! | field | content |
//! |---|---|
//! | type | 0x0010_0000, marked little-endian |
//! | sender | private group of the receiver |
//! | num_groups | 0 |
//! | hint | type 0 |
//! | data | number of messages dropped, then their bytes with headers; both `u64`, little-endian |

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::frame::Frame;
use crate::header::Header;
use crate::limits::HEADER;
use crate::names::GroupName;
use crate::service::{ByteOrder, Hint, ServiceType};

/// Bytes of data of a mark.
const DATA: u32 = 16;

/// What is missing at one place of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gap {
    /// Messages that were dropped.
    pub messages: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

impl Gap {
    /// Length of a mark in bytes.
    pub const LEN: usize = HEADER + DATA as usize;

    /// The mark that `frame` is, if it is one.
    pub fn of(frame: &Frame) -> Option<Self> {
        let others = ServiceType::REQUEST | ServiceType::MEMBERSHIP | ServiceType::REJECT;
        let service = frame.header.service;
        if !service.intersects(ServiceType::GAP) || service.intersects(others) {
            return None;
        }
        let (messages, rest) = frame.data_bytes().split_first_chunk()?;
        let (bytes, _) = rest.split_first_chunk()?;
        Some(Self { messages: u64::from_le_bytes(*messages), bytes: u64::from_le_bytes(*bytes) })
    }

    /// The message for the client with the private group `receiver`.
    pub fn encode(&self, receiver: &GroupName) -> Bytes {
        let order = ByteOrder::Little;
        let header = Header {
            service: ServiceType::GAP,
            sender: *receiver,
            num_groups: 0,
            hint: Hint::new(0, order),
            data_len: DATA,
            order,
        };
        let mut out = BytesMut::with_capacity(Self::LEN);
        out.put_slice(&header.encode());
        out.put_u64_le(self.messages);
        out.put_u64_le(self.bytes);
        out.freeze()
    }

    /// Both gaps as one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::names::PrivateGroup;

    #[test]
    fn marks_are_read_as_they_were_written_and_nothing_else_is_one() {
        let me = PrivateGroup::parse(b"#me#d").unwrap().as_group();
        let gap = Gap { messages: 3, bytes: u64::MAX };
        let raw = gap.encode(&me);
        assert_eq!(raw.len(), Gap::LEN);
        let frame = Frame::parse(raw.clone(), 1 << 20).unwrap();
        assert_eq!(Gap::of(&frame), Some(gap));
        assert_eq!(gap.and(gap), Gap { messages: 6, bytes: u64::MAX });
        // A client can send the bit only beside a service: then it is data.
        let mut forged = raw.to_vec();
        forged[0] |= ServiceType::FIFO.0.to_le_bytes()[0];
        assert_eq!(Gap::of(&Frame::parse(forged.into(), 1 << 20).unwrap()), None);
        let join = Frame::parse(build::join(&me, &me), 1 << 20).unwrap();
        assert_eq!(Gap::of(&join), None);
        let mut short = raw.to_vec();
        short.truncate(HEADER + 8);
        short[44] = 8;
        assert_eq!(Gap::of(&Frame::parse(short.into(), 1 << 20).unwrap()), None);
    }
}
