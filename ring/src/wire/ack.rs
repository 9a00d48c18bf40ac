//! The three short packets: ack, hop ack, token request.

use bytes::BufMut;

use crate::types::Seq;
use crate::wire::io::{Reader, put_key};
use crate::wire::{RingKey, WireError};

/// Length of an ack's body.
pub const ACK_LEN: usize = 36;
/// Length of a hop ack's body.
pub const HOP_ACK_LEN: usize = 21;
/// Length of a token request's body.
pub const TOKEN_REQUEST_LEN: usize = 20;

/// What the sender has received: a hint that makes SAFE faster. `ring 12 | aru 8 | safe 8 | token_seq 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The ring that the numbers belong to.
    pub ring: RingKey,
    /// All packets up to here were received by the sender.
    pub aru: Seq,
    /// All packets up to here are known by the sender to be held by every member.
    pub safe: Seq,
    /// The sender's last visit.
    pub token_seq: u64,
}

impl Ack {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The length is wrong.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("ack", body);
        let ack =
            Self { ring: r.key()?, aru: r.seq("aru")?, safe: r.seq("safe")?, token_seq: r.seq("token_seq")? };
        r.end()?;
        Ok(ack)
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        put_key(out, self.ring);
        out.put_u64_le(self.aru);
        out.put_u64_le(self.safe);
        out.put_u64_le(self.token_seq);
    }
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HopStatus {
    /// It was processed, now or before.
    Ok = 0,
    /// The commit token names another set of members than the one agreed to, or comes too late.
    Reject = 1,
}

/// Receipt for a token or commit token. `ring 12 | hop or token_seq 8 | status 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopAck {
    /// The ring of the token.
    pub ring: RingKey,
    /// Hop of a commit token, token_seq of a token: that of the last one processed.
    pub hop: u64,
    /// Whether it was accepted.
    pub status: HopStatus,
}

impl HopAck {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The length or the status is wrong.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("hop ack", body);
        let ring = r.key()?;
        let hop = r.seq("hop")?;
        let status = match r.u8()? {
            0 => HopStatus::Ok,
            1 => HopStatus::Reject,
            found => return Err(WireError::Value { what: "status", found: found.into() }),
        };
        r.end()?;
        Ok(Self { ring, hop, status })
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        put_key(out, self.ring);
        out.put_u64_le(self.hop);
        out.put_u8(self.status as u8);
    }
}

/// Asks the holder of a parked token for it. `ring 12 | token_seq 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The ring of the token.
    pub ring: RingKey,
    /// The requester's last visit.
    pub token_seq: u64,
}

impl TokenRequest {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The length is wrong.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("token request", body);
        let request = Self { ring: r.key()?, token_seq: r.seq("token_seq")? };
        r.end()?;
        Ok(request)
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        put_key(out, self.ring);
        out.put_u64_le(self.token_seq);
    }
}
