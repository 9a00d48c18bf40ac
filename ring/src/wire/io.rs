//! Reading and writing of the fields that several bodies share.

use bytes::BufMut;

use crate::types::{ConfId, Mid, NODES_MAX, NodeId};
use crate::wire::{RingKey, WireError};

/// Takes fields off the front of a slice.
pub(super) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(WireError::Short { what: self.what, need: len, have: self.rest.len() });
        };
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(WireError::Short { what: self.what, need: N, have: self.rest.len() });
        };
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A sequence number or epoch. The last 2^32 numbers are refused, so that the engine can add to what it
    /// received.
    pub(super) fn seq(&mut self, what: &'static str) -> Result<u64, WireError> {
        match self.u64()? {
            found @ SEQ_LIMIT.. => Err(WireError::Value { what, found }),
            seq => Ok(seq),
        }
    }

    /// A node number below [`NODES_MAX`].
    pub(super) fn node(&mut self, what: &'static str) -> Result<NodeId, WireError> {
        let found = self.u16()?;
        if usize::from(found) >= NODES_MAX {
            return Err(WireError::Value { what, found: found.into() });
        }
        Ok(NodeId(found))
    }

    /// Node and session, 10 bytes.
    pub(super) fn mid(&mut self, what: &'static str) -> Result<Mid, WireError> {
        let node = self.node(what)?;
        let session = self.u64()?;
        if session == 0 {
            return Err(WireError::Value { what, found: 0 });
        }
        Ok(Mid { node, session })
    }

    /// `len` ascending members.
    pub(super) fn mids(&mut self, what: &'static str, len: usize) -> Result<Vec<Mid>, WireError> {
        self.need(len, MID_LEN)?;
        let mut list = Vec::with_capacity(len);
        for _ in 0..len {
            let mid = self.mid(what)?;
            if list.last().is_some_and(|last| *last >= mid) {
                return Err(WireError::Order { what });
            }
            list.push(mid);
        }
        Ok(list)
    }

    /// Fails before anything is allocated if fewer than `count` elements of `size` bytes are left.
    pub(super) fn need(&self, count: usize, size: usize) -> Result<(), WireError> {
        let need = count.saturating_mul(size);
        if self.rest.len() < need {
            return Err(WireError::Short { what: self.what, need, have: self.rest.len() });
        }
        Ok(())
    }

    /// Epoch and nonce, 12 bytes.
    pub(super) fn key(&mut self) -> Result<RingKey, WireError> {
        Ok(RingKey { epoch: self.seq("epoch")?, nonce: self.u32()? })
    }

    /// Epoch, representative, nonce, 14 bytes.
    pub(super) fn conf(&mut self, what: &'static str) -> Result<ConfId, WireError> {
        Ok(ConfId { epoch: self.seq("epoch")?, rep: self.node(what)?, nonce: self.u32()? })
    }

    /// A reserved byte.
    pub(super) fn zero_u8(&mut self, what: &'static str) -> Result<(), WireError> {
        match self.u8()? {
            0 => Ok(()),
            found => Err(WireError::Value { what, found: found.into() }),
        }
    }

    /// Everything left must be zero: padding.
    pub(super) fn padding(&self) -> Result<(), WireError> {
        // Most presences are padded to the longest packet. Without an early end the loop takes many bytes at once.
        match self.rest.iter().fold(0, |all, byte| all | byte) {
            0 => Ok(()),
            _ => Err(WireError::Trailing { what: self.what, len: self.rest.len() }),
        }
    }

    pub(super) fn end(&self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(WireError::Trailing { what: self.what, len }),
        }
    }
}

/// No number of a packet, visit or epoch reaches this.
const SEQ_LIMIT: u64 = u64::MAX - (1 << 32);

/// Length of a member in lists.
pub(super) const MID_LEN: usize = 10;

pub(super) fn put_mid(out: &mut impl BufMut, mid: Mid) {
    out.put_u16_le(mid.node.0);
    out.put_u64_le(mid.session);
}

pub(super) fn put_key(out: &mut impl BufMut, key: RingKey) {
    out.put_u64_le(key.epoch);
    out.put_u32_le(key.nonce);
}

pub(super) fn put_conf(out: &mut impl BufMut, id: ConfId) {
    out.put_u64_le(id.epoch);
    out.put_u16_le(id.rep.0);
    out.put_u32_le(id.nonce);
}

/// The number of elements of a list that `N` bits can hold. Lists are bounded far below by the engine; a
/// longer one is an error of the caller and is cut, so that the packet stays well formed.
pub(super) fn count_u16(what: &'static str, len: usize, max: usize) -> u16 {
    debug_assert!(len <= max, "{what} has {len} elements, {max} fit");
    u16::try_from(len.min(max)).unwrap_or(u16::MAX)
}

/// As [`count_u16`] for one byte.
pub(super) fn count_u8(what: &'static str, len: usize, max: usize) -> u8 {
    debug_assert!(len <= max, "{what} has {len} elements, {max} fit");
    u8::try_from(len.min(max)).unwrap_or(u8::MAX)
}
