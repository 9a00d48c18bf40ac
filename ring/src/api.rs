//! What goes into the engine and what comes out of it, as values.

use bytes::Bytes;

use crate::types::{ConfId, Mid, NodeId, NodeSet, Seq, Service};

/// What makes a daemon process unique. All of it comes from outside: the engine draws nothing itself.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Fresh random number of this process, never 0.
    pub session: u64,
    /// Lower bound for the first epoch: the epoch of the state file plus 2, or the wall clock in seconds,
    /// whichever is greater (`ring-protocol` 4.3).
    pub epoch_min: u64,
    /// Seed of the engine's random numbers (nonces, jitter).
    pub seed: [u8; 32],
}

/// How a packet reached this daemon. Links are tested separately for both (`ring-protocol` 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Through the multicast (or broadcast) address of the segment.
    Multicast,
    /// To this daemon's own address.
    Unicast,
}

/// Which socket a packet uses. Packets are put on the wire in the order they are emitted, across classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Data port: data, joins, presence, acks, requests.
    Data,
    /// Token port: tokens, commit tokens, hop acks.
    Token,
}

/// One packet to put on the wire.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The receivers. Never contains the sender.
    pub to: NodeSet,
    /// One multicast per segment where the transport has it; otherwise one copy to each of `to`.
    pub multicast: bool,
    /// The socket.
    pub class: Class,
    /// Header (28 bytes) and body. The driver writes the counter, the key id and the seal flags into its
    /// copy of the header and appends the CRC-32 or the authentication tag.
    pub packet: Bytes,
}

/// The bytes of a message: one slice, or several when it travelled in several packets. Cloning copies no
/// bytes.
#[derive(Clone, Debug)]
pub enum Body {
    /// All of it.
    One(Bytes),
    /// In order; the message is their concatenation.
    Many(Vec<Bytes>),
}

impl Body {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.parts().iter().map(Bytes::len).sum()
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slices.
    pub fn parts(&self) -> &[Bytes] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }

    /// The message as one slice; copies only if it has several parts.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::One(part) => part.clone(),
            Self::Many(parts) => parts.concat().into(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::One(bytes)
    }
}

/// What the engine tells the layer above, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message of the current configuration.
    Deliver {
        /// Packet in which the message ended.
        seq: Seq,
        /// Number of the message among those that end in this packet, from 0.
        index: u16,
        /// The daemon process that submitted it.
        sender: Mid,
        /// As submitted.
        service: Service,
        /// As submitted.
        body: Body,
    },
    /// A transitional configuration: the members that go on together from the regular configuration `of`.
    /// Left-over messages of it follow.
    Transitional {
        /// Odd epoch: that of the regular configuration that follows, minus 1.
        id: ConfId,
        /// In ring order.
        members: Vec<Mid>,
        /// The regular configuration that ends.
        of: ConfId,
    },
    /// A regular configuration: from here on, messages are sent and delivered in it. Every one but the first
    /// (this daemon alone) comes after a `Transitional`.
    Regular {
        /// Even epoch.
        id: ConfId,
        /// In ring order.
        members: Vec<Mid>,
    },
    /// There is room again after [`SubmitError::Full`].
    Writable,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The limits of queued messages are reached; [`Event::Writable`] follows when there is room.
    #[error("the queue of submitted messages is full")]
    Full,
    /// Longer than the configured limit.
    #[error("message of {len} bytes is longer than {max} bytes")]
    TooLarge {
        /// Length of the message.
        len: usize,
        /// `Limits::message_len_max`.
        max: usize,
    },
    /// This daemon is leaving the ring.
    #[error("the daemon is leaving the ring")]
    Leaving,
}

/// A packet's sender as the driver established it from the source address.
pub type PeerRef = NodeId;
