//! Control packets that exceed one packet.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::Nanos;
use crate::wire::io::Reader;
use crate::wire::{Kind, WireError};

/// Length of a fragment's body without content.
pub const FRAGMENT_LEN: usize = 6;
/// Most pieces of one control packet.
pub const FRAGMENTS_MAX: u8 = 16;
/// Longest control packet, its kind included.
pub const FRAGMENTS_LEN_MAX: usize = 32 << 10;
/// How long the pieces of a control packet are kept.
pub const FRAGMENT_TIME_MAX: Duration = Duration::from_millis(200);

/// A piece of a join, presence or commit token. `control id 4 | index 1 | count 1 | bytes`. The pieces
/// together are `kind u8 | body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Number of the control packet at its transmitter.
    pub control_id: u32,
    /// Number of this piece, from 0.
    pub index: u8,
    /// Number of pieces, 2 to [`FRAGMENTS_MAX`].
    pub count: u8,
    /// The piece, not empty.
    pub bytes: Bytes,
}

impl Fragment {
    /// Reads a body; the piece is a slice of it.
    ///
    /// # Errors
    ///
    /// Too short, too many pieces, an index outside the count.
    pub fn check(body: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new("fragment", &body);
        let (control_id, index, count) = (r.u32()?, r.u8()?, r.u8()?);
        if !(2..=FRAGMENTS_MAX).contains(&count) {
            return Err(WireError::Value { what: "number of fragments", found: count.into() });
        }
        if index >= count {
            return Err(WireError::Value { what: "index of a fragment", found: index.into() });
        }
        if r.remaining() == 0 {
            return Err(WireError::Short { what: "fragment", need: 1, have: 0 });
        }
        Ok(Self { control_id, index, count, bytes: body.slice(FRAGMENT_LEN..) })
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.control_id);
        out.put_u8(self.index);
        out.put_u8(self.count);
        out.put_slice(&self.bytes);
    }
}

/// Cuts a control body into fragments whose own bodies have at most `body_len_max` bytes (the packet without
/// its header). `None` if that takes more than [`FRAGMENTS_MAX`] pieces or [`FRAGMENTS_LEN_MAX`] bytes.
pub fn split(kind: Kind, body: &[u8], control_id: u32, body_len_max: usize) -> Option<Vec<Fragment>> {
    let mut whole = BytesMut::with_capacity(1 + body.len());
    whole.put_u8(kind as u8);
    whole.put_slice(body);
    let whole = whole.freeze();
    let piece = body_len_max.checked_sub(FRAGMENT_LEN).filter(|piece| *piece > 0)?;
    // At least two pieces, so that a short body can be cut too.
    let count = u8::try_from(whole.len().div_ceil(piece).max(2)).ok()?;
    if count > FRAGMENTS_MAX || whole.len() > FRAGMENTS_LEN_MAX || whole.len() < 2 {
        return None;
    }
    let piece = whole.len().div_ceil(count.into());
    let fragment = |index: u8| {
        let start = (usize::from(index) * piece).min(whole.len());
        let bytes = whole.slice(start..(start + piece).min(whole.len()));
        Fragment { control_id, index, count, bytes }
    };
    let fragments: Vec<_> = (0..count).map(fragment).collect();
    // Rounding up can leave nothing for the last pieces of a very short body.
    fragments.iter().all(|f| !f.bytes.is_empty()).then_some(fragments)
}

/// Collects the fragments of one peer: one control packet at a time, the newest.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    current: Option<Pending>,
    dropped: u64,
}

#[derive(Clone, Debug)]
struct Pending {
    control_id: u32,
    count: u8,
    since: Nanos,
    len: usize,
    pieces: [Option<Bytes>; FRAGMENTS_MAX as usize],
}

impl Reassembly {
    /// Takes a fragment. Returns kind and body of the control packet that it completes.
    pub fn push(&mut self, now: Nanos, fragment: Fragment) -> Option<(Kind, Bytes)> {
        let Fragment { control_id, index, count, bytes } = fragment;
        self.expire(now);
        let same = self.current.as_ref().is_some_and(|p| p.control_id == control_id && p.count == count);
        if !same {
            // A piece of an older control packet must not throw out a newer one. Numbers are compared around
            // the wrap.
            let older = |p: &Pending| control_id.wrapping_sub(p.control_id) > u32::MAX / 2;
            if self.current.as_ref().is_some_and(older) {
                self.dropped += 1;
                return None;
            }
            self.dropped += u64::from(self.current.is_some());
            self.current =
                Some(Pending { control_id, count, since: now, len: 0, pieces: Default::default() });
        }
        let pending = self.current.as_mut()?;
        let piece = pending.pieces.get_mut(usize::from(index))?;
        if piece.is_some() {
            return None;
        }
        pending.len += bytes.len();
        *piece = Some(bytes);
        if pending.len > FRAGMENTS_LEN_MAX {
            self.current = None;
            self.dropped += 1;
            return None;
        }
        let pieces = pending.pieces.get(..usize::from(count))?;
        if pieces.iter().any(Option::is_none) {
            return None;
        }
        let mut whole = BytesMut::with_capacity(pending.len);
        pieces.iter().flatten().for_each(|piece| whole.extend_from_slice(piece));
        self.current = None;
        let whole = whole.freeze();
        let kind = whole.first().and_then(|kind| Kind::from_u8(*kind));
        match kind {
            Some(kind @ (Kind::Join | Kind::Presence | Kind::Commit)) => Some((kind, whole.slice(1..))),
            _ => {
                self.dropped += 1;
                None
            }
        }
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now: Nanos) {
        if self.current.as_ref().is_some_and(|p| now.since(p.since) > FRAGMENT_TIME_MAX) {
            self.current = None;
            self.dropped += 1;
        }
    }

    /// Control packets that were given up.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
