//! Messages on their way out: encoded back to back in one buffer, so that many leave with one system call.
//!
//! The buffer keeps a message until its last byte is written. A daemon never acts on part of a message, so after a loss
//! everything from the first message that is not wholly written can be sent again on a new session, and only that.

use spread_wire::limits::{BODY_MAX, GROUP_FIELD, GROUPS_MAX, HEADER};
use spread_wire::{ByteOrder, GroupName, Header, Hint, ServiceType};

use crate::error::SendError;

/// A message that was queued and not wholly written when the connection was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsent {
    /// Type bits: a service with its self-discard mark, or a join, leave or disconnect request.
    pub service: ServiceType,
    /// Where it was to go.
    pub groups: Vec<GroupName>,
    /// The type given by the application.
    pub message_type: i16,
    /// The data.
    pub data: Vec<u8>,
}

/// Written bytes that stay at the head of the buffer before they are moved out of the way.
const SETTLE_BYTES: usize = 64 * 1024;
/// Capacity an empty buffer keeps.
const KEEP_BYTES: usize = 1024 * 1024;

/// The messages that are not wholly written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Whole messages; the first byte is the first of a message.
    buf: Vec<u8>,
    /// Bytes of `buf` that are written.
    written: usize,
}

impl Outbox {
    /// Appends a message and gives its length in bytes.
    ///
    /// # Errors
    ///
    /// [`SendError::TooManyGroups`] and [`SendError::TooLong`]; nothing is appended then.
    #[inline]
    pub(crate) fn push(
        &mut self,
        sender: &GroupName,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
    ) -> Result<usize, SendError> {
        let num_groups = groups.len();
        if num_groups > GROUPS_MAX {
            return Err(SendError::TooManyGroups { groups: num_groups });
        }
        let over = (data.len() + num_groups * GROUP_FIELD).saturating_sub(BODY_MAX);
        if over > 0 {
            return Err(SendError::TooLong { len: data.len(), groups: num_groups, over });
        }
        if self.written >= SETTLE_BYTES {
            self.settle();
        }
        #[allow(clippy::cast_possible_truncation, reason = "both are limited above")]
        let header = Header {
            service,
            sender: *sender,
            num_groups: num_groups as u32,
            hint: Hint::new(message_type, ByteOrder::NATIVE),
            data_len: data.len() as u32,
            order: ByteOrder::NATIVE,
        };
        let len = frame_bytes(num_groups, data.len());
        self.buf.reserve(len);
        self.buf.extend_from_slice(&header.encode());
        for group in groups {
            self.buf.extend_from_slice(group.as_field());
        }
        self.buf.extend_from_slice(data);
        Ok(len)
    }

    /// Marks the next `bytes` as written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.written = (self.written + bytes).min(self.buf.len());
        if self.written == self.buf.len() {
            self.clear();
        }
    }

    /// Takes back the message that was appended last, of `len` bytes, unless part of it is written. With `force` even
    /// then; the connection must not be used any further.
    pub(crate) fn take_back(&mut self, len: usize, force: bool) -> bool {
        let at = self.buf.len().saturating_sub(len);
        let free = force || self.written <= at;
        if free {
            self.buf.truncate(at);
            self.written = self.written.min(at);
            if self.written == at {
                self.clear();
            }
        }
        free
    }

    /// Makes all that is kept unwritten again, under the name of a new session. Gives the number of messages.
    pub(crate) fn rewind(&mut self, sender: &GroupName) -> usize {
        self.settle();
        self.written = 0;
        let mut at = 0;
        let mut count = 0;
        while let Some(len) = frame_len(&self.buf[at..]) {
            self.buf[at + 4..at + 36].copy_from_slice(sender.as_field());
            at += len;
            count += 1;
        }
        count
    }

    /// Takes out all messages that are not wholly written.
    pub(crate) fn drain(&mut self) -> Vec<Unsent> {
        self.settle();
        let mut messages = Vec::new();
        let mut rest: &[u8] = &self.buf;
        while let Some(len) = frame_len(rest) {
            let (frame, tail) = rest.split_at(len);
            rest = tail;
            let Some(header) = frame.first_chunk().and_then(|head| Header::parse(head).ok()) else { break };
            let (names, data) = frame[HEADER..].split_at(GROUP_FIELD * header.num_groups as usize);
            messages.push(Unsent {
                service: header.service,
                groups: names.as_chunks().0.iter().map(|field| GroupName::from_field(*field)).collect(),
                message_type: header.hint.message_type(),
                data: data.to_vec(),
            });
        }
        self.clear();
        messages
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.written = 0;
        self.buf.clear();
        if self.buf.capacity() > KEEP_BYTES {
            self.buf.shrink_to(KEEP_BYTES);
        }
    }

    /// Gives the bytes to be written next.
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.buf[self.written..]
    }

    /// Gives the number of bytes to be written.
    pub(crate) fn len(&self) -> usize {
        self.buf.len() - self.written
    }

    /// Tells whether there is nothing to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the messages that are wholly written.
    fn settle(&mut self) {
        let mut start = 0;
        while let Some(len) = frame_len(&self.buf[start..]) {
            if start + len > self.written {
                break;
            }
            start += len;
        }
        self.buf.drain(..start);
        self.written -= start;
    }
}

/// Bytes of a message on the wire.
pub(crate) fn frame_bytes(num_groups: usize, data_len: usize) -> usize {
    HEADER + num_groups * GROUP_FIELD + data_len
}

/// Length of the message at the head of our own buffer; `None` at its end.
fn frame_len(buf: &[u8]) -> Option<usize> {
    let head: &[u8; HEADER] = buf.first_chunk()?;
    let header = Header::parse(head).ok()?;
    usize::try_from(header.body_len()).ok().map(|body| HEADER + body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> GroupName {
        let mut field = [0; 32];
        field[..text.len()].copy_from_slice(text.as_bytes());
        GroupName::from_field(field)
    }

    /// spec: client-protocol 11, JOIN of `grp` by `alice`.
    #[test]
    fn a_join_is_byte_exact() {
        let mut outbox = Outbox::default();
        outbox.push(&name("#alice#localhost"), ServiceType::JOIN, &[name("grp")], 0, b"").unwrap();
        let mut want = vec![0x80, 0x00, 0x01, 0x80];
        want.extend_from_slice(b"#alice#localhost");
        want.resize(36, 0);
        want.extend_from_slice(&[1, 0, 0, 0, 0x80, 0, 0, 0x80, 0, 0, 0, 0]);
        want.extend_from_slice(b"grp");
        want.resize(80, 0);
        assert_eq!(outbox.unwritten(), want);
    }

    #[test]
    fn limits_are_kept_and_leave_nothing_behind() {
        let mut outbox = Outbox::default();
        let me = name("#me#d");
        let group = [name("g")];
        assert!(outbox.push(&me, ServiceType::FIFO, &group, 0, &vec![0; 143_120]).is_ok());
        let len = outbox.len();
        let error = outbox.push(&me, ServiceType::FIFO, &group, 0, &vec![0; 143_121]).unwrap_err();
        assert!(matches!(error, SendError::TooLong { len: 143_121, groups: 1, over: 1 }));
        assert_eq!(error.code(), -17);
        let error = outbox.push(&me, ServiceType::FIFO, &[name("g"); 101], 0, b"").unwrap_err();
        assert!(matches!(error, SendError::TooManyGroups { groups: 101 }));
        assert_eq!(outbox.len(), len);
        assert!(outbox.push(&me, ServiceType::FIFO, &[name("g"); 100], 0, b"").is_ok());
    }

    #[test]
    fn a_message_in_part_written_is_not_taken_back() {
        let mut outbox = Outbox::default();
        let me = name("#me#d");
        let one = outbox.push(&me, ServiceType::FIFO, &[name("g")], 0, b"one").unwrap();
        let two = outbox.push(&me, ServiceType::FIFO, &[name("g")], 0, b"two").unwrap();
        outbox.advance(one);
        assert!(outbox.take_back(two, false));
        assert!(outbox.is_empty());
        let three = outbox.push(&me, ServiceType::FIFO, &[name("g")], 0, b"three").unwrap();
        outbox.advance(1);
        assert!(!outbox.take_back(three, false));
        assert_eq!(outbox.len(), 84);
        assert!(outbox.take_back(three, true));
        assert!(outbox.is_empty());
    }

    proptest! {
        /// Whatever was written when the connection broke: exactly the messages not wholly written are left, in order,
        /// under the new name.
        #[test]
        fn after_a_loss_every_message_is_written_or_kept(
            sizes in prop::collection::vec(0usize..40_000, 1..20),
            cuts in prop::collection::vec(0usize..100_000, 0..20),
        ) {
            let (old, new) = (name("#old#d1"), name("#new#d2"));
            let mut outbox = Outbox::default();
            let mut written = 0;
            let mut ends = Vec::new();
            let mut end = 0;
            let mut cuts = cuts.into_iter();
            for (i, size) in sizes.iter().enumerate() {
                let kind = i16::try_from(i).unwrap();
                outbox.push(&old, ServiceType::AGREED, &[name("g"), name("h")], kind, &vec![7; *size]).unwrap();
                end += 48 + 64 + size;
                ends.push(end);
                let n = cuts.next().unwrap_or(0).min(outbox.len());
                outbox.advance(n);
                written += n;
            }
            let lost = ends.iter().filter(|end| **end <= written).count();
            prop_assert_eq!(outbox.rewind(&new), sizes.len() - lost);
            for frame in outbox.drain().iter().zip(lost..) {
                let (unsent, i) = frame;
                prop_assert_eq!(usize::try_from(unsent.message_type).unwrap(), i);
                prop_assert_eq!(unsent.data.len(), sizes[i]);
                prop_assert_eq!(unsent.groups.len(), 2);
            }
            prop_assert!(outbox.is_empty());
        }
    }
}
