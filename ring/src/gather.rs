//! Agreeing on a set of members (`ring-protocol` 4.4).
//!
//! Difference from the design: on the way back from a failed attempt the joins are forgotten, as they are at
//! T_commit. Kept joins would carry the `rotations` of before the attempt, and the blame at the third
//! agreement rests on all members looking at the same ones. Every member repeats its join each T_join, so
//! this costs at most that time.

use crate::api::Class;
use crate::midset::MidSet;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::stats::Cause;
use crate::timers::Timer;
use crate::types::{ConfId, Mid, Nanos, NodeId, NodeSet};
use crate::wire::{Join, Kind};

/// Agreements on the same sets that fail before somebody is blamed.
const AGREEMENTS_MAX: u8 = 3;

/// What counts of the last join of a peer.
#[derive(Clone, Debug)]
pub(crate) struct JoinRecord {
    from: Mid,
    proc: MidSet,
    fail: MidSet,
    rotations: u16,
    pub(crate) ring: ConfId,
}

/// State of the gather. Both sets only grow until a ring is installed.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    pub(crate) proc: MidSet,
    /// Part of `proc`; never contains this daemon.
    pub(crate) fail: MidSet,
    /// By node.
    joins: Vec<Option<JoinRecord>>,
    /// The sets agreed on last, and how often.
    agreed: Option<(MidSet, MidSet, u8)>,
    /// How often I forwarded the token of the last attempt.
    pub(crate) rotations: u16,
    pub(crate) since: Nanos,
    /// The first gather waits for others before this daemon stays alone.
    initial: bool,
    joins_sent: u32,
    /// Members that left in good order.
    pub(crate) left: NodeSet,
    /// Daemons outside with which I want to merge and that did not answer yet.
    pub(crate) wooed: Vec<Mid>,
}

impl Gather {
    pub(crate) fn new(nodes: usize, me: Mid) -> Self {
        Self {
            proc: MidSet::one(me),
            fail: MidSet::default(),
            joins: vec![None; nodes],
            agreed: None,
            rotations: 0,
            since: Nanos(0),
            initial: false,
            joins_sent: 0,
            left: NodeSet::EMPTY,
            wooed: Vec::new(),
        }
    }

    fn forget_joins(&mut self) {
        self.joins.iter_mut().for_each(|slot| *slot = None);
    }

    pub(crate) fn join_of(&self, mid: Mid) -> Option<&JoinRecord> {
        self.joins.get(mid.node.index())?.as_ref().filter(|record| record.from == mid)
    }

    fn agrees(&self, mid: Mid) -> bool {
        self.join_of(mid).is_some_and(|record| record.proc == self.proc && record.fail == self.fail)
    }

    /// The candidates that have not failed.
    pub(crate) fn members(&self) -> MidSet {
        self.proc.minus(&self.fail)
    }

    /// Adds to `fail`; what is not in `proc` goes there too.
    fn add_failed(&mut self, me: Mid, failed: impl IntoIterator<Item = Mid>) -> bool {
        let mut changed = false;
        for mid in failed.into_iter().filter(|mid| *mid != me) {
            changed |= self.proc.insert(mid);
            changed |= self.proc.contains(mid) && self.fail.insert(mid);
        }
        changed
    }

    /// Sets are those of a new gather.
    fn restart(&mut self, me: Mid, proc: MidSet, now: Nanos) {
        self.proc = proc;
        self.proc.insert(me);
        self.fail = MidSet::default();
        self.forget_joins();
        self.agreed = None;
        self.rotations = 0;
        self.since = now;
        self.joins_sent = 0;
    }

    /// The ring is installed.
    pub(crate) fn finish(&mut self, me: Mid, members: &[Mid], now: Nanos) {
        self.restart(me, members.iter().copied().collect(), now);
        self.initial = false;
        self.left = NodeSet::EMPTY;
        self.wooed.clear();
    }
}

impl Ring {
    /// The first gather: looks for others for a while, unless no other daemon is configured.
    pub(crate) fn start_gather(&mut self, cause: Cause) {
        self.gather.initial = self.cfg.nodes.len() > 1;
        self.enter_gather(cause, &[], &MidSet::default());
    }

    /// From normal operation: candidates are the members and `add`; who is known to be out of reach fails.
    pub(crate) fn begin_gather(&mut self, add: &[Mid], failed: &MidSet) {
        let (me, now) = (self.me, self.now);
        let proc: MidSet = self.conf.members.iter().chain(add).copied().collect();
        let apart = self.hearing.outside_my_group(now, &proc, failed);
        self.gather.restart(me, proc, now);
        let silent = self.silent_members();
        self.gather.add_failed(me, apart.iter().chain(failed.iter()).chain(silent.iter()));
        self.fail_superseded_quietly();
        self.announce();
        self.presence_soon();
    }

    /// Back from a failed attempt: the sets grow on.
    pub(crate) fn resume_gather(&mut self, add: &[Mid], failed: &MidSet) {
        self.gather.forget_joins();
        self.gather.proc.extend(add.iter().copied());
        self.gather.add_failed(self.me, failed.iter());
        self.fail_superseded_quietly();
        self.announce();
        self.presence_soon();
    }

    /// The sets changed, or must be told again: sends them and looks whether all agree.
    fn announce(&mut self) {
        self.gather.joins_sent = 0;
        self.send_join();
        self.timers.stop(Timer::Commit);
        self.timers.set(Timer::Consensus, self.now + self.cfg.timers.consensus);
        self.try_form();
    }

    /// Candidates that were not heard for T_dead.
    fn silent_members(&self) -> MidSet {
        let (now, dead) = (self.now, self.cfg.timers.dead);
        let since = self.gather.since;
        let silent = |mid: &Mid| match self.hearing.heard_at(*mid) {
            Some(at) => now.since(at) > dead,
            None => now.since(since) > dead,
        };
        self.gather.members().iter().filter(|mid| *mid != self.me && silent(mid)).collect()
    }

    /// Processes that were replaced by a later one of the same node fail.
    fn fail_superseded_quietly(&mut self) -> bool {
        let old: Vec<Mid> =
            self.gather.members().iter().filter(|mid| self.hearing.is_superseded(*mid)).collect();
        let old = if without(Rule::Superseded) { Vec::new() } else { old };
        self.gather.add_failed(self.me, old)
    }

    pub(crate) fn fail_superseded(&mut self) {
        if self.fail_superseded_quietly() {
            self.announce();
        }
    }

    pub(crate) fn fail_in_gather(&mut self, failed: &MidSet) {
        if self.gather.add_failed(self.me, failed.iter()) {
            self.announce();
        }
    }

    pub(crate) fn send_join(&mut self) {
        self.timers.set(Timer::Join, self.now + self.cfg.timers.join);
        let to = self.gather.proc.nodes().union(self.hearing.heard_nodes(self.now));
        let first = self.gather.joins_sent == 0;
        let multicast = self.gather.joins_sent.is_multiple_of(2);
        self.gather.joins_sent += 1;
        self.send_join_to(to, multicast, false);
        if first && multicast {
            // The first one must get through: it also goes to each one alone.
            self.send_join_to(to, false, false);
        }
    }

    pub(crate) fn send_join_to(&mut self, to: NodeSet, multicast: bool, leaving: bool) {
        self.join_no = self.join_no.wrapping_add(1);
        let join = Join {
            epoch: self.epoch,
            seen: self.seen,
            ring: self.conf.id,
            join_no: self.join_no,
            rotations: self.gather.rotations,
            leaving,
            features: self.cfg.features,
            hash: self.cfg.hash,
            proc: self.gather.proc.as_slice().to_vec(),
            fail: self.gather.fail.as_slice().to_vec(),
            hear: self.hearing.list(self.now),
        };
        let mut to = to;
        to.remove(self.me.node);
        if to.is_empty() {
            return;
        }
        let mut body = Vec::with_capacity(1024);
        join.write(&mut body);
        self.stats.joins_sent += 1;
        for packet in self.control_packets(Kind::Join, &body) {
            self.emit(to, multicast, Class::Data, packet);
        }
    }

    pub(crate) fn on_gather_join(&mut self, from: Mid, join: Join) {
        let me = self.me;
        if self.gather.fail.contains(from) || self.is_stranger_apart(from, &join) {
            self.stats.drops.join += 1;
            return;
        }
        self.gather.wooed.retain(|mid| *mid != from);
        let record = JoinRecord {
            from,
            proc: join.proc.into_iter().collect(),
            fail: join.fail.into_iter().collect(),
            rotations: join.rotations,
            ring: join.ring,
        };
        let (proc, fail) = (record.proc.clone(), record.fail.clone());
        if let Some(slot) = self.gather.joins.get_mut(from.node.index()) {
            *slot = Some(record);
        }
        let gather = &mut self.gather;
        if proc == gather.proc && fail == gather.fail {
            self.try_form();
            return;
        }
        if proc.is_subset(&gather.proc) && fail.is_subset(&gather.fail) {
            return;
        }
        let mut changed = gather.proc.extend(proc.iter());
        changed |= gather.proc.insert(from);
        changed |= if fail.contains(me) {
            gather.add_failed(me, [from])
        } else if self.conf.contains(from) {
            gather.add_failed(me, fail.iter())
        } else {
            // An outsider cannot break up my ring.
            let conf = &self.conf;
            gather.add_failed(me, fail.iter().filter(|mid| !conf.contains(*mid)))
        };
        changed |= self.fail_superseded_quietly();
        if changed {
            self.note(|ring| {
                format!("sets proc={} fail={} by={}", ring.gather.proc, ring.gather.fail, from.node)
            });
            self.announce();
        }
    }

    /// Whether a daemon that is no candidate yet is known not to hear one of them, or wants to bring somebody who
    /// does not: it stays outside. Otherwise two rings that cannot be one, and both merge with a third one at the
    /// same moment, bring all together, fall apart, and begin again at once.
    fn is_stranger_apart(&self, from: Mid, join: &Join) -> bool {
        let (now, hearing) = (self.now, &self.hearing);
        let stranger = |mid: Mid| !self.gather.proc.contains(mid) && !self.conf.contains(mid);
        if !stranger(from) {
            return false;
        }
        let brought = join.proc.iter().copied().filter(|mid| join.fail.binary_search(mid).is_err());
        let mut strangers = std::iter::once(from).chain(brought).filter(|mid| stranger(*mid));
        let members = self.gather.members();
        hearing.in_penalty(now, from.node)
            || strangers.any(|new| members.iter().any(|mid| hearing.apart(now, mid, new)))
    }

    /// T_join: says it again; silent candidates fail.
    pub(crate) fn on_join_timer(&mut self) {
        if self.phase != Phase::Gather {
            return;
        }
        let silent = self.silent_members();
        if !silent.is_empty() && self.gather.add_failed(self.me, silent.iter()) {
            self.note(|_| format!("silent failed={silent}"));
            self.announce();
        } else {
            self.send_join();
        }
    }

    /// T_cons: who does not agree fails.
    pub(crate) fn on_consensus_timer(&mut self) {
        if self.phase != Phase::Gather {
            return;
        }
        self.gather.initial = false;
        let members = self.gather.members();
        let others: Vec<Mid> =
            members.iter().filter(|mid| *mid != self.me && !self.gather.agrees(*mid)).collect();
        self.note(|_| format!("consensus_timeout failed={others:?}"));
        if !without(Rule::Consensus) {
            self.gather.add_failed(self.me, others);
        }
        self.announce();
    }

    /// T_commit: all agreed, but no commit token came.
    pub(crate) fn on_commit_timer(&mut self) {
        if self.phase == Phase::Gather {
            self.note(|_| "commit_timeout".to_owned());
            self.gather.forget_joins();
            self.announce();
        }
    }

    /// If all candidates agree: the first of them forms the ring, the others wait for its commit token.
    pub(crate) fn try_form(&mut self) {
        if self.phase != Phase::Gather || self.timers.is_set(Timer::Commit) || self.leaves_now() {
            return;
        }
        let me = self.me;
        let gather = &mut self.gather;
        let members = gather.members();
        if gather.initial && members.len() == 1 {
            return;
        }
        if !members.iter().all(|mid| mid == me || gather.agrees(mid)) && !without(Rule::JoinEqual) {
            return;
        }
        let sets = (&gather.proc, &gather.fail);
        let agreed = match &gather.agreed {
            Some((proc, fail, agreed)) if (proc, fail) == sets => agreed + 1,
            _ => 1,
        };
        gather.agreed = Some((gather.proc.clone(), gather.fail.clone(), agreed));
        if agreed >= AGREEMENTS_MAX && members.len() > 1 {
            self.blame(&members);
            return;
        }
        // The join is repeated until the commit token comes: somebody may have missed it.
        self.timers.stop(Timer::Consensus);
        if members.first() == Some(me) {
            self.form(&members);
        } else {
            self.gather.rotations = 0;
            self.timers.set(Timer::Commit, self.now + self.cfg.timers.commit);
        }
    }

    pub(crate) fn punish(&mut self, node: NodeId) {
        self.stats.penalties += 1;
        self.hearing.punish(self.now, node, &mut self.rng);
    }

    /// Two agreements on these members failed: the first one that passed the token on least often fails. All
    /// members blame the same one, for all look at the same joins.
    fn blame(&mut self, members: &MidSet) {
        let me = self.me;
        let gather = &mut self.gather;
        let mine = gather.rotations;
        let rotations = |mid: Mid, gather: &Gather| {
            if mid == me { mine } else { gather.join_of(mid).map_or(0, |record| record.rotations) }
        };
        // `min_by_key` returns the first of equal ones.
        let blamed = members.iter().min_by_key(|mid| rotations(*mid, gather));
        gather.agreed = None;
        match blamed {
            Some(blamed) if blamed != me => {
                gather.add_failed(me, [blamed]);
            }
            _ => {
                let others = gather.proc.clone();
                gather.add_failed(me, others.iter());
            }
        }
        // Without a pause it would all begin again at once.
        for node in members.minus(&self.gather.members()).nodes().iter() {
            self.punish(node);
        }
        self.stats.blames += 1;
        self.note(|_| format!("blame {blamed:?}"));
        self.announce();
    }
}
