//! Data packets and their chunks.

use bytes::{BufMut, Bytes};

use crate::types::{NodeId, Seq, Service};
use crate::wire::io::{Reader, put_key};
use crate::wire::{RingKey, WireError};

/// Length of the fixed part of a data packet's body.
pub const DATA_LEN: usize = 52;
/// Most chunks of one packet.
pub const CHUNKS_MAX: usize = 255;
/// Length of a chunk without its bytes and without the total.
pub const CHUNK_LEN_MIN: usize = 4;
/// Length of the total, present in a chunk that begins a message and does not end it.
pub const TOTAL_LEN: usize = 4;

const CHUNK_FIRST: u8 = 0x40;
const CHUNK_LAST: u8 = 0x80;
const CHUNK_SERVICE: u8 = 0x0f;
const FLAG_SAFE: u8 = 0x01;

/// The fixed part of a data packet.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 12 | ring: epoch u64, nonce u32 |
/// | 12 | 8 | seq, from 1 |
/// | 20 | 8 | token_seq of the visit in which it was first sent |
/// | 28 | 8 | aru of the transmitter |
/// | 36 | 8 | safe line known to the transmitter |
/// | 44 | 4 | first_msg_no |
/// | 48 | 2 | origin |
/// | 50 | 1 | number of chunks |
/// | 51 | 1 | flags: bit 0 contains SAFE |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHead {
    /// The ring in which the packet was numbered.
    pub ring: RingKey,
    /// Its number.
    pub seq: Seq,
    /// Visit in which it was first sent; unchanged in retransmissions.
    pub token_seq: u64,
    /// All packets up to here were received by the transmitter.
    pub aru: Seq,
    /// All packets up to here are known by the transmitter to be held by every member.
    pub safe: Seq,
    /// The originator's running number (mod 2^32) of the first message that begins in this packet, or of the
    /// next one that will begin. For checks only.
    pub first_msg_no: u32,
    /// The originator; the header's sender is another node in retransmissions.
    pub origin: NodeId,
    /// Number of chunks, at least 1.
    pub chunks: u8,
    /// Whether a chunk belongs to a SAFE message.
    pub has_safe: bool,
}

impl DataHead {
    /// Appends the 52 bytes.
    pub fn write(&self, out: &mut impl BufMut) {
        put_key(out, self.ring);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.token_seq);
        out.put_u64_le(self.aru);
        out.put_u64_le(self.safe);
        out.put_u32_le(self.first_msg_no);
        out.put_u16_le(self.origin.0);
        out.put_u8(self.chunks);
        out.put_u8(if self.has_safe { FLAG_SAFE } else { 0 });
    }
}

/// A checked data packet. Holds the body as received; chunks are slices of it.
///
/// Chunk: `len u16 | kind u8 | 0 u8 | [total u32 if FIRST and not LAST] | bytes`. `kind`: bits 0-3 service,
/// bit 6 FIRST, bit 7 LAST. The chunks of one originator form a stream: a message is cut wherever a packet
/// ends, and its rest is the first chunk of the originator's next packet. So a chunk without FIRST is the
/// first of its packet and a chunk without LAST the last one. `total` is the length of the whole message.
/// Zero bytes may follow the last chunk: they make the packets of a burst equally long where the room left
/// is too small for another chunk.
#[derive(Clone, Debug)]
pub struct Data {
    head: DataHead,
    body: Bytes,
}

impl Data {
    /// Checks a body (the packet after its header): the fixed part and every chunk.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(body: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new("data", &body);
        let mut head = DataHead {
            ring: r.key()?,
            seq: r.seq("seq")?,
            token_seq: r.seq("token_seq")?,
            aru: r.seq("aru")?,
            safe: r.seq("safe")?,
            first_msg_no: r.u32()?,
            origin: r.node("origin")?,
            chunks: r.u8()?,
            has_safe: false,
        };
        if head.seq == 0 {
            return Err(WireError::Value { what: "seq", found: 0 });
        }
        let flags = r.u8()?;
        if flags & !FLAG_SAFE != 0 {
            return Err(WireError::Value { what: "flags", found: flags.into() });
        }
        head.has_safe = flags == FLAG_SAFE;
        if check_chunks(&mut r, head.chunks)? != head.has_safe {
            return Err(WireError::Value { what: "flags", found: flags.into() });
        }
        r.padding()?;
        Ok(Self { head, body })
    }

    /// The fixed part.
    pub fn head(&self) -> &DataHead {
        &self.head
    }

    /// The body as received: fixed part and chunks.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The chunks and padding without the fixed part: what a retransmission repeats after a new
    /// [`DataHead`].
    pub fn chunk_bytes(&self) -> &[u8] {
        self.body.get(DATA_LEN..).unwrap_or_default()
    }

    /// The chunks in order.
    pub fn chunks(&self) -> Chunks<'_> {
        self.chunks_from(0)
    }

    /// The chunks from the one with number `index` on.
    pub fn chunks_from(&self, index: u8) -> Chunks<'_> {
        let mut chunks = Chunks { body: &self.body, at: DATA_LEN, index: 0, count: self.head.chunks };
        for _ in 0..index {
            if chunks.next().is_none() {
                break;
            }
        }
        chunks
    }
}

/// Returns whether a chunk is SAFE.
fn check_chunks(r: &mut Reader<'_>, count: u8) -> Result<bool, WireError> {
    if count == 0 {
        return Err(WireError::Value { what: "number of chunks", found: 0 });
    }
    let mut safe = false;
    for index in 0..count {
        let len = r.u16()?;
        let kind = r.u8()?;
        r.zero_u8("reserved byte of a chunk")?;
        let bad = WireError::Value { what: "kind of a chunk", found: kind.into() };
        let service = service(kind).ok_or(bad)?;
        let (first, last) = (kind & CHUNK_FIRST != 0, kind & CHUNK_LAST != 0);
        if (!first && index != 0) || (!last && index + 1 != count) || kind & 0x30 != 0 {
            return Err(bad);
        }
        if len == 0 && !(first && last) {
            return Err(WireError::Value { what: "length of a chunk", found: 0 });
        }
        if first && !last {
            let total = r.u32()?;
            if total <= u32::from(len) {
                return Err(WireError::Value { what: "total of a chunk", found: total.into() });
            }
        }
        r.bytes(len.into())?;
        safe |= service == Service::Safe;
    }
    Ok(safe)
}

fn service(kind: u8) -> Option<Service> {
    Some(match kind & CHUNK_SERVICE {
        1 => Service::Reliable,
        2 => Service::Fifo,
        3 => Service::Causal,
        4 => Service::Agreed,
        5 => Service::Safe,
        _ => return None,
    })
}

/// A message or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Number in the packet, from 0.
    pub index: u8,
    /// Service of the message.
    pub service: Service,
    /// Whether the message begins here.
    pub first: bool,
    /// Whether the message ends here.
    pub last: bool,
    /// Length of the whole message; known where it begins.
    pub total: Option<u32>,
    /// The bytes, a slice of the packet.
    pub bytes: Bytes,
}

impl Chunk {
    /// Length in a packet of a chunk with `len` bytes.
    pub fn len_on_wire(len: usize, first: bool, last: bool) -> usize {
        CHUNK_LEN_MIN + if first && !last { TOTAL_LEN } else { 0 } + len
    }

    /// Appends a chunk's head; its bytes follow. `total` is written if the message begins and does not end
    /// here.
    pub fn write_head(
        out: &mut impl BufMut,
        service: Service,
        first: bool,
        last: bool,
        len: u16,
        total: u32,
    ) {
        out.put_u16_le(len);
        let first_bit = if first { CHUNK_FIRST } else { 0 };
        let last_bit = if last { CHUNK_LAST } else { 0 };
        out.put_u8(service as u8 | first_bit | last_bit);
        out.put_u8(0);
        if first && !last {
            out.put_u32_le(total);
        }
    }
}

/// Iterator over the chunks of a checked packet.
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    body: &'a Bytes,
    at: usize,
    index: u8,
    count: u8,
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        if self.index == self.count {
            return None;
        }
        // The packet was checked, so none of the `?` below ends the iteration early.
        let mut r = Reader::new("chunk", self.body.get(self.at..)?);
        let len = usize::from(r.u16().ok()?);
        let kind = r.u8().ok()?;
        r.u8().ok()?;
        let (first, last) = (kind & CHUNK_FIRST != 0, kind & CHUNK_LAST != 0);
        let total = match (first, last) {
            (true, true) => u32::try_from(len).ok(),
            (true, false) => Some(r.u32().ok()?),
            (false, _) => None,
        };
        let start = self.body.len() - r.remaining();
        let end = start.checked_add(len).filter(|end| *end <= self.body.len())?;
        let chunk = Chunk {
            index: self.index,
            service: service(kind)?,
            first,
            last,
            total,
            bytes: self.body.slice(start..end),
        };
        self.at = end;
        self.index += 1;
        Some(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.count - self.index);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Chunks<'_> {}
