//! From submitted messages to the chunks of data packets.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use crate::api::{Body, SubmitError};
use crate::config::Limits;
use crate::types::Service;
use crate::wire::{CHUNK_LEN_MIN, CHUNKS_MAX, Chunk, TOTAL_LEN};

/// The queue of submitted messages, and the cutting of it into packets.
///
/// Messages leave in the order they came. A message is cut wherever a packet ends, so all packets that are
/// filled while more waits have exactly the same length. The message that is sent in part stays at the head
/// of the queue until its last byte is in a packet: [`Packer::rewind`] starts it again from its first byte.
#[derive(Clone, Debug)]
pub struct Packer {
    queue: VecDeque<Message>,
    /// What of the first message is in packets already.
    sent: Progress,
    /// Bytes of all messages in the queue, those already in packets included.
    bytes: usize,
    /// Bytes of the first message that are in packets.
    sent_bytes: usize,
    /// Number of the next message that begins.
    msg_no: u32,
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Message {
    service: Service,
    body: Body,
    len: usize,
}

/// Position in the first message of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    begun: bool,
    part: usize,
    offset: usize,
}

/// What [`Packer::fill`] put into a packet: the fields of the packet's head that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// See [`DataHead::first_msg_no`](crate::wire::DataHead::first_msg_no).
    pub first_msg_no: u32,
    /// Number of chunks, at least 1.
    pub chunks: u8,
    /// Whether a chunk is SAFE.
    pub has_safe: bool,
}

/// Smallest useful room: a message that neither fits nor ended must be able to advance by one byte.
const ROOM_MIN: usize = CHUNK_LEN_MIN + TOTAL_LEN + 1;

impl Packer {
    /// An empty queue.
    pub fn new(limits: &Limits) -> Self {
        Self {
            queue: VecDeque::new(),
            sent: Progress::default(),
            bytes: 0,
            sent_bytes: 0,
            msg_no: 0,
            limits: limits.clone(),
        }
    }

    /// Appends a message. A queue that is below its limits takes any message of legal length, so one of the
    /// greatest length always gets through.
    ///
    /// # Errors
    ///
    /// The queue is full, or the message too long. The body is dropped then.
    pub fn push(&mut self, service: Service, body: Body) -> Result<(), SubmitError> {
        let (len, max) = (body.len(), self.limits.message_len_max);
        if len > max || u32::try_from(len).is_err() {
            return Err(SubmitError::TooLarge { len, max });
        }
        if !self.has_room() {
            return Err(SubmitError::Full);
        }
        self.bytes += len;
        self.queue.push_back(Message { service, body, len });
        Ok(())
    }

    /// Whether [`Packer::push`] would take a message of legal length.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.limits.submit_count_max && self.bytes < self.limits.submit_bytes_max
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next message gets the number `n`.
    pub(crate) fn start_messages_at(&mut self, n: u32) {
        self.msg_no = n;
    }

    /// Number of messages that wait, one that is sent in part included.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that are not in packets yet.
    pub fn bytes_waiting(&self) -> usize {
        self.bytes - self.sent_bytes
    }

    /// An estimate of the packets that the queue fills, each with `room` bytes of chunks; 0 only if nothing
    /// waits.
    pub fn packets(&self, room: usize) -> usize {
        let heads = self.queue.len() * CHUNK_LEN_MIN;
        (self.bytes_waiting() + heads).div_ceil(room.max(ROOM_MIN))
    }

    /// Takes the next message whole, for a ring of one member, which sends no packets. A message that was
    /// begun is taken from its first byte.
    pub fn pop(&mut self) -> Option<(Service, Body)> {
        self.rewind();
        let message = self.queue.pop_front()?;
        self.bytes -= message.len;
        self.msg_no = self.msg_no.wrapping_add(1);
        Some((message.service, message.body))
    }

    /// Appends the chunks of one packet to `out`: exactly `room` bytes if the queue holds enough, otherwise
    /// all of it. Zeros fill the end where no further chunk fits while messages still wait. `None`, and
    /// nothing is written, if nothing waits or `room` is too small for any chunk.
    pub fn fill(&mut self, room: usize, out: &mut BytesMut) -> Option<Filled> {
        if self.queue.is_empty() || room < ROOM_MIN {
            return None;
        }
        let first_msg_no = self.msg_no;
        let (mut left, mut chunks, mut has_safe) = (room, 0u8, false);
        while usize::from(chunks) < CHUNKS_MAX {
            let Some(message) = self.queue.front() else { break };
            let first = !self.sent.begun;
            let rest = message.len - self.sent_bytes;
            let last = Chunk::len_on_wire(rest, first, true) <= left;
            let len = if last { rest } else { left.saturating_sub(Chunk::len_on_wire(0, first, false)) };
            // The length is a u16; packets are far shorter.
            let len = len.min(usize::from(u16::MAX));
            let last = last && len == rest;
            if len == 0 && !last {
                break;
            }
            let service = message.service;
            has_safe |= service == Service::Safe;
            chunks += 1;
            left = left.saturating_sub(Chunk::len_on_wire(len, first, last));
            if first {
                self.msg_no = self.msg_no.wrapping_add(1);
            }
            self.write_chunk(first, last, len, out);
            if !last {
                break;
            }
        }
        if !self.queue.is_empty() {
            out.put_bytes(0, left);
        }
        Some(Filled { first_msg_no, chunks, has_safe })
    }

    /// Starts the message that is sent in part again from its first byte.
    pub fn rewind(&mut self) {
        if self.sent.begun {
            self.msg_no = self.msg_no.wrapping_sub(1);
        }
        self.sent = Progress::default();
        self.sent_bytes = 0;
    }

    /// Whether the first message is sent in part.
    pub fn is_mid_message(&self) -> bool {
        self.sent.begun
    }

    /// Writes the next `len` bytes of the first message as a chunk; removes the message if it ends here.
    fn write_chunk(&mut self, first: bool, last: bool, len: usize, out: &mut BytesMut) {
        let Some(message) = self.queue.front() else { return };
        let total = u32::try_from(message.len).unwrap_or(u32::MAX);
        let chunk_len = u16::try_from(len).unwrap_or(u16::MAX);
        Chunk::write_head(out, message.service, first, last, chunk_len, total);
        let mut left = len;
        while left > 0 {
            let Some(part) = message.body.parts().get(self.sent.part) else { break };
            let bytes = part.get(self.sent.offset..).unwrap_or_default();
            let take = bytes.len().min(left);
            out.put_slice(bytes.get(..take).unwrap_or_default());
            left -= take;
            if take == bytes.len() {
                self.sent.part += 1;
                self.sent.offset = 0;
            } else {
                self.sent.offset += take;
            }
        }
        self.sent.begun = true;
        self.sent_bytes += len;
        if last {
            self.bytes -= message.len;
            self.queue.pop_front();
            self.sent = Progress::default();
            self.sent_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests;
