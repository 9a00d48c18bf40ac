//! What daemons say to each other about a new configuration, through the ring.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | [`MAGIC`]: no message of the group layer begins like that |
//! | 4 | 4 | 1 prepared, 2 committed |
//! | 8 | 16 | hash of the configuration |
//! | 24 | 16 | bit n: the daemon with number n in the present configuration stays |
//!
//! Numbers are little-endian. A daemon that does not know these messages counts them as malformed.

use bytes::{BufMut, Bytes, BytesMut};

const MAGIC: [u8; 4] = *b"conf";

/// Length of every notice.
const LEN: usize = 40;

/// How far its sender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has read the configuration and can use it.
    Prepared,
    /// It has seen all members prepared, and sends nothing more under the present one.
    Committed,
}

/// A configuration that daemons agree on: its hash, and which of the present daemons stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) hash: [u8; 16],
    pub(crate) stay: u128,
}

impl Proposal {
    pub(crate) fn keeps(&self, node: u16) -> bool {
        self.stay.checked_shr(node.into()).is_some_and(|bits| bits & 1 == 1)
    }
}

/// A message about a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) step: Step,
    pub(crate) proposal: Proposal,
}

impl Notice {
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(LEN);
        out.put_slice(&MAGIC);
        out.put_u32_le(match self.step {
            Step::Prepared => 1,
            Step::Committed => 2,
        });
        out.put_slice(&self.proposal.hash);
        out.put_u128_le(self.proposal.stay);
        out.freeze()
    }

    /// The notice in a delivered message, if it is one.
    #[inline]
    pub(crate) fn parse(parts: &[Bytes]) -> Option<Self> {
        // Of almost all messages this is all that is looked at.
        if parts.iter().map(Bytes::len).sum::<usize>() != LEN {
            return None;
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (step, rest) = rest.split_first_chunk::<4>()?;
        let (hash, rest) = rest.split_first_chunk::<16>()?;
        let stay = u128::from_le_bytes(*rest.first_chunk()?);
        let step = match u32::from_le_bytes(*step) {
            1 => Step::Prepared,
            2 => Step::Committed,
            _ => return None,
        };
        (*magic == MAGIC).then_some(Self { step, proposal: Proposal { hash: *hash, stay } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_survives_the_ring_however_it_is_cut() {
        for step in [Step::Prepared, Step::Committed] {
            let notice = Notice { step, proposal: Proposal { hash: [7; 16], stay: 0b101 } };
            let bytes = notice.to_bytes();
            assert_eq!(Notice::parse(std::slice::from_ref(&bytes)), Some(notice));
            for cut in 0..bytes.len() {
                let parts = [bytes.slice(..cut), bytes.slice(cut..)];
                assert_eq!(Notice::parse(&parts), Some(notice), "cut at {cut}");
                assert_eq!(Notice::parse(&parts[..1]), None);
            }
        }
        assert_eq!(Notice::parse(&[]), None);
        assert_eq!(Notice::parse(&[Bytes::from_static(&[2; LEN])]), None);
    }
}
