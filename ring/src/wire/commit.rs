//! The commit token.

use bytes::BufMut;

use crate::types::{ConfId, Mid, NODES_MAX, Seq};
use crate::wire::WireError;
use crate::wire::io::{MID_LEN, Reader, count_u8, count_u16, put_conf, put_mid};
use crate::wire::join::{LIST_MAX, ascending};

/// Length of a commit token without members and groups.
pub const COMMIT_LEN_MIN: usize = 20;
/// Most packets a bitmap can speak of: the largest store that can be configured.
pub const BITMAP_BITS_MAX: u64 = 32_768;

const MEMBER_LEN: usize = MID_LEN + 1;
const GROUP_LEN_MIN: usize = 32;

/// The token that forms a ring: pass 1 collects what each old ring holds, pass 2 tells everybody.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 14 | the new ring: epoch u64, rep u16, nonce u32 |
/// | 14 | 2 | hop |
/// | 16 | 2 | done_run |
/// | 18 | 1+1 | number of members, of groups |
/// | 20 | | members\[\] {node 2, session 8, group 1}, groups\[\] |
///
/// Group: `old ring 14 | base 8 | high 8 | number of obligations 2 | obligations[] {node 2, session 8} |
/// bitmap`. Bit i of byte j of the bitmap stands for packet `base + 1 + 8 j + i`; it has as many bytes as
/// `high - base` needs, and its unused bits are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The new regular configuration; `rep` is the first member.
    pub ring: ConfId,
    /// Number of the next processing: member i processes hop i in pass 1 and hop N + i in pass 2.
    pub hop: u16,
    /// Consecutive visits of complete members.
    pub done_run: u16,
    /// The new members in ring order, one session a node.
    pub members: Vec<CommitMember>,
    /// The old rings that they come from, at least one.
    pub groups: Vec<Group>,
}

/// A member of the new ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitMember {
    /// The process.
    pub mid: Mid,
    /// Index of its old ring in [`Commit::groups`], from 0.
    pub group: u8,
}

/// What the members that come from one old ring hold of it together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The old ring.
    pub ring: ConfId,
    base: Seq,
    high: Seq,
    /// Origins whose messages must be delivered although they may come after a gap, ascending.
    pub obligations: Vec<Mid>,
    bitmap: Vec<u8>,
}

impl Group {
    /// A record to which no member has contributed yet.
    pub fn new(ring: ConfId) -> Self {
        Self { ring, base: 0, high: 0, obligations: Vec::new(), bitmap: Vec::new() }
    }

    /// Highest safe line of the group: every member has every packet up to here.
    pub fn base(&self) -> Seq {
        self.base
    }

    /// Highest packet in the record, or [`Group::base`].
    pub fn high(&self) -> Seq {
        self.high
    }

    /// Whether a member holds packet `seq` above the base.
    pub fn has(&self, seq: Seq) -> bool {
        let Some((byte, bit)) = self.position(seq).filter(|_| seq <= self.high) else {
            return false;
        };
        self.bitmap.get(byte).is_some_and(|b| b & bit != 0)
    }

    /// Notes that a member holds packet `seq`. Nothing happens up to the base. Returns whether the record
    /// speaks of `seq` now: false only if it is more than [`BITMAP_BITS_MAX`] above the base.
    pub fn insert(&mut self, seq: Seq) -> bool {
        if seq <= self.base {
            return true;
        }
        let Some((byte, bit)) = self.position(seq) else {
            return false;
        };
        if byte >= self.bitmap.len() {
            self.bitmap.resize(byte + 1, 0);
        }
        if let Some(b) = self.bitmap.get_mut(byte) {
            *b |= bit;
        }
        self.high = self.high.max(seq);
        true
    }

    /// Raises the base to `base` if it is lower; bits up to it are dropped.
    pub fn raise_base(&mut self, base: Seq) {
        if base <= self.base {
            return;
        }
        let held: Vec<Seq> = self.held().filter(|seq| *seq > base).collect();
        self.base = base;
        self.high = base;
        self.bitmap.clear();
        for seq in held {
            self.insert(seq);
        }
    }

    /// The packets above the base that a member holds, in order.
    pub fn held(&self) -> impl Iterator<Item = Seq> + '_ {
        let base = self.base;
        self.bitmap.iter().zip(0u64..).filter(|(byte, _)| **byte != 0).flat_map(move |(byte, j)| {
            (0u64..8).filter(move |i| byte & (1 << i) != 0).map(move |i| base + 1 + 8 * j + i)
        })
    }

    /// Byte and mask of a packet above the base.
    fn position(&self, seq: Seq) -> Option<(usize, u8)> {
        let bit = seq.checked_sub(self.base)?.checked_sub(1)?;
        if bit >= BITMAP_BITS_MAX {
            return None;
        }
        Some((usize::try_from(bit / 8).ok()?, 1 << (bit % 8)))
    }

    fn write(&self, out: &mut impl BufMut) {
        let obligations = ascending(&self.obligations);
        put_conf(out, self.ring);
        out.put_u64_le(self.base);
        out.put_u64_le(self.high);
        out.put_u16_le(count_u16("obligations", obligations.len(), LIST_MAX));
        obligations.iter().take(LIST_MAX).for_each(|mid| put_mid(out, *mid));
        out.put_slice(&self.bitmap);
    }

    fn check(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let ring = r.conf("representative of an old ring")?;
        let (base, high) = (r.seq("base")?, r.seq("high")?);
        let bits = high.checked_sub(base).filter(|bits| *bits <= BITMAP_BITS_MAX);
        let bits = bits.ok_or(WireError::Value { what: "high", found: high })?;
        let count = r.u16()?;
        if usize::from(count) > LIST_MAX {
            return Err(WireError::Value { what: "number of obligations", found: count.into() });
        }
        let obligations = r.mids("obligations", count.into())?;
        let len = usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX);
        let bitmap = r.bytes(len)?.to_vec();
        // The last bit that counts is that of `high`, and it is set: one encoding for each set.
        let top = bits.checked_sub(1).map_or(0, |bit| 1u8 << (bit % 8));
        let ends = bitmap.last().is_none_or(|last| *last & top != 0 && u16::from(*last) < 2 * u16::from(top));
        if !ends {
            return Err(WireError::Value { what: "bitmap", found: high });
        }
        Ok(Self { ring, base, high, obligations, bitmap })
    }
}

impl Commit {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong; also if there is no member, if the representative is not the first
    /// one, or a member's group does not exist.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("commit token", body);
        let ring = r.conf("representative")?;
        let (hop, done_run) = (r.u16()?, r.u16()?);
        let (members_len, groups_len) = (r.u8()?, r.u8()?);
        let members = check_members(&mut r, members_len, groups_len)?;
        if members.first().is_none_or(|first| first.mid.node != ring.rep) {
            return Err(WireError::Value { what: "representative", found: ring.rep.0.into() });
        }
        if usize::from(hop) > 2 * members.len() {
            return Err(WireError::Value { what: "hop", found: hop.into() });
        }
        if groups_len > members_len {
            return Err(WireError::Value { what: "number of groups", found: groups_len.into() });
        }
        r.need(groups_len.into(), GROUP_LEN_MIN)?;
        let groups = (0..groups_len).map(|_| Group::check(&mut r)).collect::<Result<_, _>>()?;
        r.end()?;
        Ok(Self { ring, hop, done_run, members, groups })
    }

    /// Appends the body.
    pub fn write(&self, out: &mut impl BufMut) {
        put_conf(out, self.ring);
        out.put_u16_le(self.hop);
        out.put_u16_le(self.done_run);
        out.put_u8(count_u8("members", self.members.len(), NODES_MAX));
        out.put_u8(count_u8("groups", self.groups.len(), NODES_MAX));
        for member in self.members.iter().take(NODES_MAX) {
            put_mid(out, member.mid);
            out.put_u8(member.group);
        }
        self.groups.iter().take(NODES_MAX).for_each(|group| group.write(out));
    }

    /// Position of a process among the members.
    pub fn position(&self, mid: Mid) -> Option<usize> {
        self.members.iter().position(|member| member.mid == mid)
    }
}

fn check_members(r: &mut Reader<'_>, len: u8, groups: u8) -> Result<Vec<CommitMember>, WireError> {
    if usize::from(len) > NODES_MAX {
        return Err(WireError::Value { what: "number of members", found: len.into() });
    }
    r.need(len.into(), MEMBER_LEN)?;
    let mut members: Vec<CommitMember> = Vec::with_capacity(len.into());
    for _ in 0..len {
        let member = CommitMember { mid: r.mid("members")?, group: r.u8()? };
        if members.last().is_some_and(|last| last.mid.node >= member.mid.node) {
            return Err(WireError::Order { what: "members" });
        }
        if member.group >= groups {
            return Err(WireError::Value { what: "group", found: member.group.into() });
        }
        members.push(member);
    }
    Ok(members)
}
