//! From the chunks of data packets back to messages.

use bytes::Bytes;

use crate::api::Body;
use crate::types::{NodeId, Service};
use crate::wire::Chunk;

/// Joins the chunks of each originator to messages, without copying their bytes.
///
/// Feed the chunks of one ring in the order of sequence numbers. Whether a message may be delivered is
/// decided by the caller before it feeds the chunk that ends it ([`Chunk::last`], [`Chunk::service`]): what is
/// fed is delivered. Nothing of one ring may be fed after something of another one without
/// [`Assembler::reset`] between them.
#[derive(Clone, Debug)]
pub struct Assembler {
    /// By node number.
    partial: Vec<Option<Partial>>,
    message_len_max: usize,
    interrupted: u64,
}

/// The rest of a message whose first part is short comes in packets that are mostly longer than this.
const PART_LEN_MIN: usize = 1024;
/// Parts for which room is made before they come.
const PARTS_RESERVED_MAX: usize = 32;

#[derive(Clone, Debug)]
struct Partial {
    service: Service,
    total: usize,
    len: usize,
    parts: Vec<Bytes>,
}

/// A chunk that does not continue what came before it. Only packets that this engine did not write cause it.
/// The chunk and the message it would have continued are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A message goes on that never began, or belongs to a node that is not configured.
    #[error("a message of {origin} goes on that did not begin")]
    NotBegun {
        /// The originator.
        origin: NodeId,
    },
    /// The parts do not add up to the announced length, change the service, or exceed the limit.
    #[error("a message of {origin} has {found} bytes instead of {expected}")]
    Length {
        /// The originator.
        origin: NodeId,
        /// Bytes so far, or as announced.
        found: usize,
        /// As announced, or the limit.
        expected: usize,
    },
}

impl Assembler {
    /// For nodes `0..nodes` and messages of at most `message_len_max` bytes.
    pub fn new(nodes: usize, message_len_max: usize) -> Self {
        Self { partial: (0..nodes).map(|_| None).collect(), message_len_max, interrupted: 0 }
    }

    /// Takes the next chunk of `origin`. Returns the message that it ends.
    ///
    /// # Errors
    ///
    /// See [`AssembleError`]; the caller counts it and goes on.
    pub fn push(&mut self, origin: NodeId, chunk: Chunk) -> Result<Option<(Service, Body)>, AssembleError> {
        let max = self.message_len_max;
        let Some(slot) = self.partial.get_mut(origin.index()) else {
            return Err(AssembleError::NotBegun { origin });
        };
        let Chunk { service, first, last, total, bytes, .. } = chunk;
        if first {
            self.interrupted += u64::from(slot.take().is_some());
            let total = total.map_or(bytes.len(), |total| usize::try_from(total).unwrap_or(usize::MAX));
            if total > max {
                return Err(AssembleError::Length { origin, found: total, expected: max });
            }
            if last {
                return Ok(Some((service, Body::One(bytes))));
            }
            // One allocation for a message of a few packets.
            let rest = total.saturating_sub(bytes.len()).div_ceil(bytes.len().max(PART_LEN_MIN));
            let mut parts = Vec::with_capacity(1 + rest.min(PARTS_RESERVED_MAX));
            let len = bytes.len();
            parts.push(bytes);
            *slot = Some(Partial { service, total, len, parts });
            return Ok(None);
        }
        let Some(partial) = slot else {
            return Err(AssembleError::NotBegun { origin });
        };
        partial.len += bytes.len();
        partial.parts.push(bytes);
        let (found, expected) = (partial.len, partial.total);
        let fits = if last { found == expected } else { found < expected };
        if !fits || partial.service != service {
            *slot = None;
            return Err(AssembleError::Length { origin, found, expected });
        }
        if !last {
            return Ok(None);
        }
        Ok(slot.take().map(|partial| (partial.service, Body::Many(partial.parts))))
    }

    /// Drops all unfinished messages: at the end of a ring.
    pub fn reset(&mut self) {
        self.partial.iter_mut().for_each(|slot| *slot = None);
    }

    /// Messages that were dropped because another one of their originator began before they ended. Only packets
    /// that this engine did not write cause it.
    pub fn interrupted(&self) -> u64 {
        self.interrupted
    }

    /// Number of unfinished messages.
    pub fn unfinished(&self) -> usize {
        self.partial.iter().filter(|slot| slot.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
