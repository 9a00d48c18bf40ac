//! The presence.

use bytes::BufMut;

use crate::types::{ConfId, NODES_MAX, NodeSet};
use crate::wire::WireError;
use crate::wire::io::{Reader, count_u16, put_conf};
use crate::wire::join::{Heard, ascending_hear, put_hear, read_hear};

/// Length of a presence with empty lists and without padding.
pub const PRESENCE_LEN_MIN: usize = 69;

const FLAG_LEAVING: u16 = 0x01;
const FLAG_PROBE: u16 = 0x02;

/// State of the sender's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Member of a ring that works.
    Operational = 1,
    /// Agreeing on a set of members.
    Gather = 2,
    /// First pass of the commit token.
    Commit = 3,
    /// Exchange of old packets.
    Recovery = 4,
}

/// A sign of life, sent to all configured daemons.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | epoch promised |
/// | 8 | 8 | epoch seen |
/// | 16 | 14 | regular ring if operational, otherwise zero |
/// | 30 | 1 | state |
/// | 31 | 8 | last token_seq |
/// | 39 | 2 | flags: bit 0 leaving, bit 1 probe (padded to the packet size) |
/// | 41 | 16 | full config hash |
/// | 57 | 2+2 | number of members, hear |
/// | 61 | 8 | reserved, 0 |
/// | 69 | | members\[\] node 2, hear\[\] {node 2, session 8, mtu 2, path 1}, zeros |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Highest epoch that the sender promised.
    pub epoch: u64,
    /// Highest epoch that the sender has seen anywhere.
    pub seen: u64,
    /// The sender's ring, if it is operational; its epoch is not 0.
    pub ring: Option<ConfId>,
    /// The sender's state.
    pub state: State,
    /// The sender's last visit in `ring`.
    pub token_seq: u64,
    /// The sender leaves for good.
    pub leaving: bool,
    /// The packet is padded to the largest size: a test of the path.
    pub probe: bool,
    /// Hash of the configuration text.
    pub hash: [u8; 16],
    /// Members of `ring`.
    pub members: NodeSet,
    /// Whom the sender hears, ascending by node, one session a node.
    pub hear: Vec<Heard>,
}

impl Presence {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("presence", body);
        let (epoch, seen) = (r.seq("epoch")?, r.seq("seen")?);
        let ring = r.conf("representative")?;
        let state = match r.u8()? {
            1 => State::Operational,
            2 => State::Gather,
            3 => State::Commit,
            4 => State::Recovery,
            found => return Err(WireError::Value { what: "state", found: found.into() }),
        };
        let token_seq = r.seq("token_seq")?;
        let flags = r.u16()?;
        if flags & !(FLAG_LEAVING | FLAG_PROBE) != 0 {
            return Err(WireError::Value { what: "flags", found: flags.into() });
        }
        let hash = r.array()?;
        let (members_len, hear_len) = (r.u16()?, r.u16()?);
        if usize::from(hear_len) > NODES_MAX {
            return Err(WireError::Value { what: "number of hear", found: hear_len.into() });
        }
        if r.array::<8>()? != [0; 8] {
            return Err(WireError::Value { what: "reserved bytes", found: 1 });
        }
        let members = read_members(&mut r, members_len)?;
        let hear = read_hear(&mut r, hear_len.into())?;
        r.padding()?;
        if ring.epoch == 0 && ring != ConfId::default() {
            return Err(WireError::Value { what: "ring", found: 0 });
        }
        Ok(Self {
            epoch,
            seen,
            ring: (ring.epoch != 0).then_some(ring),
            state,
            token_seq,
            leaving: flags & FLAG_LEAVING != 0,
            probe: flags & FLAG_PROBE != 0,
            hash,
            members,
            hear,
        })
    }

    /// Appends the body without padding. To pad, append zeros.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.seen);
        put_conf(out, self.ring.unwrap_or_default());
        out.put_u8(self.state as u8);
        out.put_u64_le(self.token_seq);
        let leaving = if self.leaving { FLAG_LEAVING } else { 0 };
        out.put_u16_le(leaving | if self.probe { FLAG_PROBE } else { 0 });
        out.put_slice(&self.hash);
        let hear = ascending_hear(&self.hear);
        out.put_u16_le(count_u16("members", self.members.len(), NODES_MAX));
        out.put_u16_le(count_u16("hear", hear.len(), NODES_MAX));
        out.put_bytes(0, 8);
        self.members.iter().for_each(|node| out.put_u16_le(node.0));
        put_hear(out, &hear);
    }
}

fn read_members(r: &mut Reader<'_>, len: u16) -> Result<NodeSet, WireError> {
    if usize::from(len) > NODES_MAX {
        return Err(WireError::Value { what: "number of members", found: len.into() });
    }
    let mut members = NodeSet::EMPTY;
    let mut last = None;
    for _ in 0..len {
        let node = r.node("member")?;
        if last.is_some_and(|last| last >= node) {
            return Err(WireError::Order { what: "members" });
        }
        last = Some(node);
        members.insert(node);
    }
    Ok(members)
}
