//! The token.

use arrayvec::ArrayVec;
use bytes::BufMut;

use crate::types::{NODES_MAX, NodeId, Seq};
use crate::wire::io::{Reader, count_u8, put_key};
use crate::wire::{RingKey, WireError};

/// Length of a token without requests.
pub const TOKEN_LEN_MIN: usize = 68;
/// Most requests in a token; what does not fit waits for the next visit.
pub const REQUESTS_MAX: usize = 80;
/// Length of a token with all requests: always one packet.
pub const TOKEN_LEN_MAX: usize = TOKEN_LEN_MIN + REQUESTS_MAX * REQUEST_LEN;

const REQUEST_LEN: usize = 16;

/// The token of normal operation and of recovery, without the header.
///
/// | offset | size | field | | offset | size | field |
/// |---|---|---|---|---|---|---|
/// | 0 | 12 | ring | | 52 | 2 | window |
/// | 12 | 8 | token_seq | | 54 | 2 | credit_now |
/// | 20 | 8 | seq | | 56 | 2 | credit_last |
/// | 28 | 8 | aru | | 58 | 2 | aru_id: node + 1, 0 none |
/// | 36 | 8 | safe | | 60 | 2 | last_sender: node |
/// | 44 | 4 | fcc | | 62 | 2 | done_run |
/// | 48 | 4 | backlog | | 64 | 2 | idle |
/// | | | | | 66 | 1+1 | number of requests, flags (0) |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The ring that the token belongs to.
    pub ring: RingKey,
    /// Grows by one at each forward.
    pub token_seq: u64,
    /// Last packet number that was given out.
    pub seq: Seq,
    /// All packets up to here were received by all, as far as the token knows; at most `seq`.
    pub aru: Seq,
    /// Every member has every packet up to here; at most `seq`.
    pub safe: Seq,
    /// Packets sent or resent in the last rotation.
    pub fcc: u32,
    /// Packets that wait at all members.
    pub backlog: u32,
    /// Packets of all members in one rotation.
    pub window: u16,
    /// Smallest number of free slots any member reported in this rotation.
    pub credit_now: u16,
    /// The same of the last rotation.
    pub credit_last: u16,
    /// The member that lowered `aru`.
    pub aru_id: Option<NodeId>,
    /// The member that sent the last new packet.
    pub last_sender: NodeId,
    /// Consecutive visits of complete members (recovery).
    pub done_run: u16,
    /// Consecutive visits without work.
    pub idle: u16,
    /// Packets that members miss.
    pub requests: ArrayVec<Request, REQUESTS_MAX>,
}

/// A range of packets that a member misses.
///
/// `group u8 | tries u8 | requester u16 | start u64 | len u16 | 0 u16`, 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// 0: of the token's ring; k: of the k-th old ring (from 1) of the commit token.
    pub group: u8,
    /// How often it was asked before.
    pub tries: u8,
    /// Who misses them.
    pub requester: NodeId,
    /// First packet, from 1.
    pub start: Seq,
    /// Number of packets, at least 1; `start + len - 1` does not overflow.
    pub len: u16,
}

impl Request {
    /// The last packet of the range.
    pub fn end(&self) -> Seq {
        self.start.saturating_add(Seq::from(self.len)).saturating_sub(1)
    }
}

impl Token {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("token", body);
        let mut token = Self {
            ring: r.key()?,
            token_seq: r.seq("token_seq")?,
            seq: r.seq("seq")?,
            aru: r.seq("aru")?,
            safe: r.seq("safe")?,
            fcc: r.u32()?,
            backlog: r.u32()?,
            window: r.u16()?,
            credit_now: r.u16()?,
            credit_last: r.u16()?,
            aru_id: aru_id(r.u16()?)?,
            last_sender: r.node("last_sender")?,
            done_run: r.u16()?,
            idle: r.u16()?,
            requests: ArrayVec::new(),
        };
        if token.aru > token.seq {
            return Err(WireError::Value { what: "aru", found: token.aru });
        }
        if token.safe > token.seq {
            return Err(WireError::Value { what: "safe", found: token.safe });
        }
        let count = r.u8()?;
        if usize::from(count) > REQUESTS_MAX {
            return Err(WireError::Value { what: "number of requests", found: count.into() });
        }
        r.zero_u8("flags of the token")?;
        for _ in 0..count {
            token.requests.push(check_request(&mut r)?);
        }
        r.end()?;
        Ok(token)
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        put_key(out, self.ring);
        out.put_u64_le(self.token_seq);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.aru);
        out.put_u64_le(self.safe);
        out.put_u32_le(self.fcc);
        out.put_u32_le(self.backlog);
        out.put_u16_le(self.window);
        out.put_u16_le(self.credit_now);
        out.put_u16_le(self.credit_last);
        out.put_u16_le(self.aru_id.map_or(0, |node| node.0.saturating_add(1)));
        out.put_u16_le(self.last_sender.0);
        out.put_u16_le(self.done_run);
        out.put_u16_le(self.idle);
        out.put_u8(count_u8("requests", self.requests.len(), REQUESTS_MAX));
        out.put_u8(0);
        for request in &self.requests {
            out.put_u8(request.group);
            out.put_u8(request.tries);
            out.put_u16_le(request.requester.0);
            out.put_u64_le(request.start);
            out.put_u16_le(request.len);
            out.put_u16_le(0);
        }
    }
}

fn aru_id(found: u16) -> Result<Option<NodeId>, WireError> {
    match found.checked_sub(1) {
        None => Ok(None),
        Some(node) if usize::from(node) < NODES_MAX => Ok(Some(NodeId(node))),
        Some(_) => Err(WireError::Value { what: "aru_id", found: found.into() }),
    }
}

fn check_request(r: &mut Reader<'_>) -> Result<Request, WireError> {
    let request = Request {
        group: r.u8()?,
        tries: r.u8()?,
        requester: r.node("requester")?,
        start: r.seq("start")?,
        len: r.u16()?,
    };
    let reserved = r.u16()?;
    if reserved != 0 {
        return Err(WireError::Value { what: "reserved bytes of a request", found: reserved.into() });
    }
    if request.start == 0 || request.len == 0 {
        return Err(WireError::Value { what: "range of a request", found: request.start });
    }
    Ok(request)
}
