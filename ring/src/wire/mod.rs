//! The packets that daemons exchange, bit for bit (`ring-protocol` section 2).
//!
//! All numbers are little-endian, there is no padding between fields and there are no variable-length
//! numbers. A packet is a [`Header`] of 28 bytes and a body whose form depends on the header's [`Kind`]. The
//! driver removes the CRC-32 or authentication tag before it hands a packet to the engine and appends it to
//! what the engine sends; neither exists in this module.
//!
//! Every type has a `check` that looks at the whole input once. What it returns is a plain value or a view
//! whose accessors cannot fail and cannot panic. Every type has a `write` that appends its bytes; for values
//! that satisfy the documented ranges `check(write(v)) == v`. Reserved fields must be zero, lists of members
//! must ascend: what is accepted has exactly one encoding (but for padding).
//!
//! | kind | type | body |
//! |---|---|---|
//! | 1 | [`Data`] | 52 bytes, chunks |
//! | 2 | [`Token`] | 68 bytes, requests |
//! | 3 | [`TokenRequest`] | 20 bytes |
//! | 4 | [`Ack`] | 36 bytes |
//! | 5 | [`Join`] | 70 bytes, lists |
//! | 6 | [`Commit`] | 20 bytes, lists |
//! | 7 | [`HopAck`] | 21 bytes |
//! | 8 | [`Presence`] | 69 bytes, lists, padding |
//! | 9 | [`Fragment`] | 6 bytes, content |

mod ack;
mod commit;
mod data;
mod fragment;
mod header;
mod io;
mod join;
mod presence;
#[cfg(test)]
mod tests;
mod token;

pub use ack::{ACK_LEN, Ack, HOP_ACK_LEN, HopAck, HopStatus, TOKEN_REQUEST_LEN, TokenRequest};
pub use commit::{BITMAP_BITS_MAX, COMMIT_LEN_MIN, Commit, CommitMember, Group};
pub use data::{CHUNK_LEN_MIN, CHUNKS_MAX, Chunk, Chunks, DATA_LEN, Data, DataHead, TOTAL_LEN};
pub use fragment::{
    FRAGMENT_LEN, FRAGMENT_TIME_MAX, FRAGMENTS_LEN_MAX, FRAGMENTS_MAX, Fragment, Reassembly, split,
};
pub use header::{
    COUNTER_AT, FLAG_AUTHENTICATED, FLAG_RELAYED, FLAG_RETRANSMISSION, FLAG_SEALED, FLAGS_AT, HEADER_LEN,
    Header, KEY_ID_AT, Kind, MAGIC, VERSION,
};
pub use join::{Heard, JOIN_LEN_MIN, Join, LIST_MAX, PATH_MULTICAST, PATH_UNICAST};
pub use presence::{PRESENCE_LEN_MIN, Presence, State};
pub use token::{REQUESTS_MAX, Request, TOKEN_LEN_MAX, TOKEN_LEN_MIN, Token};

use bytes::Bytes;

use crate::types::ConfId;

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("{what} needs {need} more bytes, {have} are left")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Length of the field.
        need: usize,
        /// Bytes left.
        have: usize,
    },
    /// Bytes follow the end of the body.
    #[error("{len} bytes follow the end of {what}")]
    Trailing {
        /// The body that ended.
        what: &'static str,
        /// Number of bytes after it.
        len: usize,
    },
    /// The first two bytes are not ours.
    #[error("magic number {found:02x?} is not of a ring packet")]
    Magic {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// A version that this engine does not speak.
    #[error("packet version {found} is not supported")]
    Version {
        /// As found.
        found: u8,
    },
    /// An unknown packet type.
    #[error("packet type {found} is unknown")]
    Kind {
        /// As found.
        found: u8,
    },
    /// A field holds a value outside its range.
    #[error("{what} has the value {found}, which is not allowed")]
    Value {
        /// Name of the field.
        what: &'static str,
        /// As found, or the first offending element.
        found: u64,
    },
    /// A list of members does not ascend, or names one twice.
    #[error("{what} is not in ascending order")]
    Order {
        /// Name of the list.
        what: &'static str,
    },
}

/// The short form of a ring's identifier in packets of normal operation: a regular configuration's epoch and
/// nonce, without the representative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingKey {
    /// See [`ConfId::epoch`].
    pub epoch: u64,
    /// See [`ConfId::nonce`].
    pub nonce: u32,
}

impl From<ConfId> for RingKey {
    fn from(id: ConfId) -> Self {
        Self { epoch: id.epoch, nonce: id.nonce }
    }
}

/// A whole checked packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The common header.
    pub header: Header,
    /// What follows it.
    pub content: Content,
}

/// The body of a packet by kind.
#[derive(Clone, Debug)]
pub enum Content {
    /// Kind 1.
    Data(Data),
    /// Kind 2.
    Token(Box<Token>),
    /// Kind 3.
    TokenRequest(TokenRequest),
    /// Kind 4.
    Ack(Ack),
    /// Kind 5.
    Join(Box<Join>),
    /// Kind 6.
    Commit(Box<Commit>),
    /// Kind 7.
    HopAck(HopAck),
    /// Kind 8.
    Presence(Box<Presence>),
    /// Kind 9.
    Fragment(Fragment),
}

impl Packet {
    /// Checks header and body. The result of a data packet or fragment refers to `plain`, everything else is
    /// copied out.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(plain: &Bytes) -> Result<Self, WireError> {
        let header = Header::check(plain)?;
        let content = Content::check(header.kind, plain.slice(HEADER_LEN..))?;
        Ok(Self { header, content })
    }
}

impl Content {
    /// Checks a body of the given kind.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(kind: Kind, body: Bytes) -> Result<Self, WireError> {
        Ok(match kind {
            Kind::Data => Self::Data(Data::check(body)?),
            Kind::Token => Self::Token(Box::new(Token::check(&body)?)),
            Kind::TokenRequest => Self::TokenRequest(TokenRequest::check(&body)?),
            Kind::Ack => Self::Ack(Ack::check(&body)?),
            Kind::Join => Self::Join(Box::new(Join::check(&body)?)),
            Kind::Commit => Self::Commit(Box::new(Commit::check(&body)?)),
            Kind::HopAck => Self::HopAck(HopAck::check(&body)?),
            Kind::Presence => Self::Presence(Box::new(Presence::check(&body)?)),
            Kind::Fragment => Self::Fragment(Fragment::check(body)?),
        })
    }
}
