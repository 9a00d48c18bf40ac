//! The join.

use bytes::BufMut;

use crate::types::{ConfId, Mid, NODES_MAX};
use crate::wire::WireError;
use crate::wire::io::{Reader, count_u16, put_conf, put_mid};

/// Length of a join with empty lists.
pub const JOIN_LEN_MIN: usize = 70;
/// Most members in `proc` or `fail`: two sessions of each node.
pub const LIST_MAX: usize = 2 * NODES_MAX;
/// Bit of [`Heard::paths`]: heard by multicast.
pub const PATH_MULTICAST: u8 = 0x01;
/// Bit of [`Heard::paths`]: heard by unicast.
pub const PATH_UNICAST: u8 = 0x02;

const FLAG_LEAVING: u16 = 0x01;
const HEARD_LEN: usize = 13;

/// A daemon that the sender hears. `node 2 | session 8 | mtu 2 | path bits 1`, 13 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The daemon, in the session that was heard last.
    pub mid: Mid,
    /// Length of the longest packet that came from it.
    pub mtu: u16,
    /// `PATH_*`.
    pub paths: u8,
}

/// Proposal of a membership.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | epoch promised |
/// | 8 | 8 | epoch seen |
/// | 16 | 14 | own regular ring: epoch u64, rep u16, nonce u32 |
/// | 30 | 4 | join_no |
/// | 34 | 2 | rotations |
/// | 36 | 2 | flags: bit 0 leaving |
/// | 38 | 4 | features |
/// | 42 | 16 | full config hash |
/// | 58 | 2+2+2 | number of proc, fail, hear |
/// | 64 | 6 | reserved, 0 |
/// | 70 | | proc\[\] {node 2, session 8}, fail\[\] {node 2, session 8}, hear\[\] {node 2, session 8, mtu 2, path 1} |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Highest epoch that the sender promised.
    pub epoch: u64,
    /// Highest epoch that the sender has seen anywhere.
    pub seen: u64,
    /// The sender's last regular configuration.
    pub ring: ConfId,
    /// Grows with each join of the sender.
    pub join_no: u32,
    /// How often the sender forwarded the commit or recovery token of the last attempt.
    pub rotations: u16,
    /// The sender leaves for good.
    pub leaving: bool,
    /// Optional abilities of the sender; unknown bits are ignored.
    pub features: u32,
    /// Hash of the configuration text.
    pub hash: [u8; 16],
    /// Candidates, ascending.
    pub proc: Vec<Mid>,
    /// Those of `proc` that the sender excludes, ascending.
    pub fail: Vec<Mid>,
    /// Whom the sender hears, ascending by node, one session a node.
    pub hear: Vec<Heard>,
}

impl Join {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong; also if `fail` is not within `proc`.
    pub fn check(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("join", body);
        let (epoch, seen) = (r.seq("epoch")?, r.seq("seen")?);
        let ring = r.conf("representative")?;
        let join_no = r.u32()?;
        let rotations = r.u16()?;
        let flags = r.u16()?;
        if flags & !FLAG_LEAVING != 0 {
            return Err(WireError::Value { what: "flags", found: flags.into() });
        }
        let features = r.u32()?;
        let hash = r.array()?;
        let procs = count(&mut r, "number of proc", LIST_MAX)?;
        let fails = count(&mut r, "number of fail", LIST_MAX)?;
        let hears = count(&mut r, "number of hear", NODES_MAX)?;
        if r.array::<6>()? != [0; 6] {
            return Err(WireError::Value { what: "reserved bytes", found: 1 });
        }
        let proc = r.mids("proc", procs)?;
        let fail = r.mids("fail", fails)?;
        let hear = read_hear(&mut r, hears)?;
        r.end()?;
        if let Some(outside) = fail.iter().find(|mid| proc.binary_search(mid).is_err()) {
            return Err(WireError::Value { what: "fail", found: outside.node.0.into() });
        }
        let leaving = flags & FLAG_LEAVING != 0;
        Ok(Self { epoch, seen, ring, join_no, rotations, leaving, features, hash, proc, fail, hear })
    }

    /// Appends the body. The lists are brought into ascending order if they are not.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.seen);
        put_conf(out, self.ring);
        out.put_u32_le(self.join_no);
        out.put_u16_le(self.rotations);
        out.put_u16_le(if self.leaving { FLAG_LEAVING } else { 0 });
        out.put_u32_le(self.features);
        out.put_slice(&self.hash);
        let (proc, fail) = (ascending(&self.proc), ascending(&self.fail));
        let hear = ascending_hear(&self.hear);
        out.put_u16_le(count_u16("proc", proc.len(), LIST_MAX));
        out.put_u16_le(count_u16("fail", fail.len(), LIST_MAX));
        out.put_u16_le(count_u16("hear", hear.len(), NODES_MAX));
        out.put_bytes(0, 6);
        proc.iter().take(LIST_MAX).for_each(|mid| put_mid(out, *mid));
        fail.iter().take(LIST_MAX).for_each(|mid| put_mid(out, *mid));
        put_hear(out, &hear);
    }
}

fn count(r: &mut Reader<'_>, what: &'static str, max: usize) -> Result<usize, WireError> {
    let found = r.u16()?;
    if usize::from(found) > max {
        return Err(WireError::Value { what, found: found.into() });
    }
    Ok(found.into())
}

pub(super) fn ascending(list: &[Mid]) -> Vec<Mid> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

pub(super) fn ascending_hear(list: &[Heard]) -> Vec<Heard> {
    let mut list = list.to_vec();
    list.sort_by_key(|heard| heard.mid.node);
    list.dedup_by_key(|heard| heard.mid.node);
    list
}

pub(super) fn read_hear(r: &mut Reader<'_>, len: usize) -> Result<Vec<Heard>, WireError> {
    r.need(len, HEARD_LEN)?;
    let mut list: Vec<Heard> = Vec::with_capacity(len);
    for _ in 0..len {
        let heard = Heard { mid: r.mid("hear")?, mtu: r.u16()?, paths: r.u8()? };
        if heard.paths & !(PATH_MULTICAST | PATH_UNICAST) != 0 {
            return Err(WireError::Value { what: "path bits", found: heard.paths.into() });
        }
        if list.last().is_some_and(|last| last.mid.node >= heard.mid.node) {
            return Err(WireError::Order { what: "hear" });
        }
        list.push(heard);
    }
    Ok(list)
}

pub(super) fn put_hear(out: &mut impl BufMut, list: &[Heard]) {
    for heard in list.iter().take(NODES_MAX) {
        put_mid(out, heard.mid);
        out.put_u16_le(heard.mtu);
        out.put_u8(heard.paths);
    }
}
