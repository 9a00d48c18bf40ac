//! The common header.

use bytes::BufMut;

use crate::types::{NODES_MAX, NodeId};
use crate::wire::WireError;
use crate::wire::io::Reader;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 28;
/// First two bytes of every packet. Monitor packets share the data port and begin with `80` or `81`.
pub const MAGIC: [u8; 2] = [0x53, 0x52];
/// The version that this engine speaks.
pub const VERSION: u8 = 1;
/// Offset of the counter (8 bytes), which the driver writes.
pub const COUNTER_AT: usize = 16;
/// Offset of the key id (1 byte), which the driver writes.
pub const KEY_ID_AT: usize = 26;
/// Offset of the flags (1 byte), in which the driver sets [`FLAG_SEALED`] or [`FLAG_AUTHENTICATED`].
pub const FLAGS_AT: usize = 27;
/// The body is encrypted.
pub const FLAG_SEALED: u8 = 0x01;
/// The body is in clear and has an authentication tag.
pub const FLAG_AUTHENTICATED: u8 = 0x02;
/// A data packet that was sent before.
pub const FLAG_RETRANSMISSION: u8 = 0x04;
/// Passed on by a relay of the segment.
pub const FLAG_RELAYED: u8 = 0x08;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Messages, or parts of them.
    Data = 1,
    /// The token of normal operation and recovery.
    Token = 2,
    /// Asks the holder of a parked token for it.
    TokenRequest = 3,
    /// What the sender has received: a hint that speeds up SAFE.
    Ack = 4,
    /// Proposal of a membership.
    Join = 5,
    /// The token that forms a ring.
    Commit = 6,
    /// Receipt for a token or commit token.
    HopAck = 7,
    /// A sign of life.
    Presence = 8,
    /// A piece of a join, commit token or presence that exceeds a packet.
    Fragment = 9,
}

impl Kind {
    /// The kind with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Data,
            2 => Self::Token,
            3 => Self::TokenRequest,
            4 => Self::Ack,
            5 => Self::Join,
            6 => Self::Commit,
            7 => Self::HopAck,
            8 => Self::Presence,
            9 => Self::Fragment,
            _ => return None,
        })
    }
}

/// The first 28 bytes of every packet: in clear, authenticated.
///
/// | offset | size | field | meaning |
/// |---|---|---|---|
/// | 0 | 2 | magic | `53 52` |
/// | 2 | 1 | version | 1 |
/// | 3 | 1 | type | [`Kind`] |
/// | 4 | 4 | config hash | first four bytes of the hash of the configuration |
/// | 8 | 8 | session | session of the transmitter |
/// | 16 | 8 | counter | per transmitter and session, from 1, never reused (driver) |
/// | 24 | 2 | sender | node number of the transmitter |
/// | 26 | 1 | key id | 0: no key (driver) |
/// | 27 | 1 | flags | bit 0 sealed, 1 authenticated only, 2 retransmission, 3 relayed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// As bytes 4..8 read as a little-endian number.
    pub config_hash: u32,
    /// The transmitter's session.
    pub session: u64,
    /// 0 until the driver writes it.
    pub counter: u64,
    /// The transmitter.
    pub sender: NodeId,
    /// 0 until the driver writes it.
    pub key_id: u8,
    /// `FLAG_*`; unknown bits are kept.
    pub flags: u8,
}

impl Header {
    /// Reads the header at the front of `packet`.
    ///
    /// # Errors
    ///
    /// Too short, foreign magic number, unknown version or type, a node number that cannot exist.
    pub fn check(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("header", packet);
        let found = r.array::<2>()?;
        if found != MAGIC {
            return Err(WireError::Magic { found });
        }
        let found = r.u8()?;
        if found != VERSION {
            return Err(WireError::Version { found });
        }
        let found = r.u8()?;
        let Some(kind) = Kind::from_u8(found) else {
            return Err(WireError::Kind { found });
        };
        Ok(Self {
            kind,
            config_hash: r.u32()?,
            session: r.u64()?,
            counter: r.u64()?,
            sender: r.node("sender")?,
            key_id: r.u8()?,
            flags: r.u8()?,
        })
    }

    /// Appends the 28 bytes.
    pub fn write(&self, out: &mut impl BufMut) {
        debug_assert!(self.sender.index() < NODES_MAX);
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.kind as u8);
        out.put_u32_le(self.config_hash);
        out.put_u64_le(self.session);
        out.put_u64_le(self.counter);
        out.put_u16_le(self.sender.0);
        out.put_u8(self.key_id);
        out.put_u8(self.flags);
    }
}
