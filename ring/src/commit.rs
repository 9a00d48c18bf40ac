//! Forming a ring: the two passes of the commit token (`ring-protocol` 4.5).
//!
//! Hops of the commit token and numbers of the regular token are one number space: the regular token begins
//! with the hop after the last one. So a receipt for a hop can never be taken for one of a later token.

use std::time::Duration;

use crate::midset::MidSet;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::stats::Cause;
use crate::store::Store;
use crate::timers::Timer;
use crate::types::{ConfId, Mid, NodeId, NodeSet, Seq};
use crate::wire::{Commit, CommitMember, Group, HopAck, HopStatus, Kind, RingKey, Token};

/// A ring that is being formed.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) ring: ConfId,
    pub(crate) key: RingKey,
    pub(crate) members: Vec<CommitMember>,
    pub(crate) pos: usize,
    /// My old ring's number in the commit token.
    pub(crate) group: u8,
    /// The members that come from my old ring, in ring order: T.
    pub(crate) mates: Vec<Mid>,
    /// What my group holds together, after the first pass: U and O.
    pub(crate) record: Option<Group>,
    /// Last hop or token_seq that I processed.
    pub(crate) last_hop: u64,
    /// I counted myself complete once, and took the obligation.
    pub(crate) completed: bool,
    /// Packets of the new ring.
    pub(crate) store: Store,
    pub(crate) safe_top: Seq,
}

impl Attempt {
    fn new(commit: &Commit, pos: usize, store_packets: usize) -> Self {
        let group = commit.members.get(pos).map_or(0, |member| member.group);
        Self {
            ring: commit.ring,
            key: commit.ring.into(),
            members: commit.members.clone(),
            pos,
            group,
            mates: commit.members.iter().filter(|m| m.group == group).map(|m| m.mid).collect(),
            record: None,
            last_hop: 0,
            completed: false,
            store: Store::new(store_packets),
            safe_top: 0,
        }
    }

    pub(crate) fn member(&self, node: NodeId) -> Option<Mid> {
        self.members.iter().map(|member| member.mid).find(|mid| mid.node == node)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn next(&self) -> NodeId {
        let next = (self.pos + 1) % self.members.len().max(1);
        self.members.get(next).map_or(NodeId(0), |member| member.mid.node)
    }

    pub(crate) fn group_nodes(&self) -> NodeSet {
        self.mates.iter().map(|mid| mid.node).collect()
    }

    /// As [`Conf::my_turn`](crate::conf::Conf::my_turn), among those that have anything of the old ring.
    pub(crate) fn my_turn(&self, tries: u8, requester: NodeId) -> bool {
        let n = self.mates.len();
        let place = |node: NodeId| self.mates.iter().position(|mid| mid.node == node);
        let me = self.members.get(self.pos).and_then(|member| place(member.mid.node));
        let (Some(from), Some(me)) = (place(requester), me) else { return false };
        if from == me || n < 2 {
            return false;
        }
        match usize::from(tries).checked_sub(1) {
            None => true,
            Some(k) => (from + k % (n - 1) + 1) % n == me,
        }
    }
}

impl Ring {
    /// All agreed and I am the first: makes the commit token, or installs at once if I am alone.
    pub(crate) fn form(&mut self, members: &MidSet) {
        let seen = if without(Rule::EpochSeen) { self.conf.id.epoch } else { self.seen.max(self.epoch) };
        let epoch = seen.saturating_add(2) & !1;
        let ring = ConfId { epoch, rep: self.me.node, nonce: self.rng.next_u32() };
        let mut groups: Vec<Group> = Vec::new();
        let mut list = Vec::with_capacity(members.len());
        for mid in members.iter() {
            let old = if mid == self.me {
                self.conf.id
            } else {
                let Some(record) = self.gather.join_of(mid) else { return };
                record.ring
            };
            let at = groups.iter().position(|group| group.ring == old).unwrap_or_else(|| {
                groups.push(Group::new(old));
                groups.len() - 1
            });
            list.push(CommitMember { mid, group: u8::try_from(at).unwrap_or(0) });
        }
        self.stats.commits += 1;
        let commit = Commit { ring, hop: 0, done_run: 0, members: list, groups };
        self.note(|_| format!("form ring={ring} members={members}"));
        self.first_pass(commit, 0);
    }

    pub(crate) fn on_commit(&mut self, from: Mid, commit: Commit) {
        let Some(pos) = commit.position(self.me).filter(|_| commit.position(from).is_some()) else {
            self.stats.drops.ring += 1;
            return;
        };
        let n = commit.members.len();
        let hop = usize::from(commit.hop);
        if commit.ring == self.conf.id {
            self.acknowledge_commit(from.node, &commit);
            return;
        }
        if let Some(attempt) = self.attempt.as_ref().filter(|attempt| attempt.ring == commit.ring) {
            if commit.members != attempt.members {
                self.stats.drops.ring += 1;
            } else if u64::from(commit.hop) <= attempt.last_hop {
                self.stats.token_duplicates += 1;
                self.acknowledge_commit(from.node, &commit);
            } else if self.phase == Phase::Commit && hop == n + pos {
                self.acknowledge_commit(from.node, &commit);
                self.second_pass(commit);
            } else if self.phase == Phase::Recovery && pos == 0 && hop == 2 * n {
                self.acknowledge_commit(from.node, &commit);
                self.start_token(&commit);
            } else {
                self.stats.drops.ring += 1;
            }
            return;
        }
        if hop != pos || pos == 0 {
            self.stats.drops.ring += 1;
        } else if self.accepts(&commit, pos) {
            self.acknowledge_commit(from.node, &commit);
            self.first_pass(commit, pos);
        } else {
            self.stats.rejects += 1;
            self.note(|_| format!("reject ring={}", commit.ring));
            let ack = HopAck { ring: commit.ring.into(), hop: commit.hop.into(), status: HopStatus::Reject };
            self.send_receipt(commit.ring.rep, ack);
        }
    }

    /// How long an attempt may go without a visit: as long as those wait whom the commit token did not reach
    /// yet. Difference from the design, where it is T_token: with its default times those had given up the
    /// members of the attempt (T_commit and T_cons) before these gave up the attempt, and a lost member cost
    /// its neighbors as well.
    pub(crate) fn attempt_limit(&self) -> Duration {
        self.cfg.timers.token.min(self.cfg.timers.commit)
    }

    fn acknowledge_commit(&mut self, to: NodeId, commit: &Commit) {
        let ack = HopAck { ring: commit.ring.into(), hop: commit.hop.into(), status: HopStatus::Ok };
        self.send_receipt(to, ack);
    }

    /// Whether I agreed to these members and promised nothing later. In the first pass of another attempt
    /// with the same members a later one is taken too: the representative tried again (R13).
    fn accepts(&self, commit: &Commit, pos: usize) -> bool {
        let members = commit.members.iter().map(|member| member.mid);
        let same = without(Rule::CommitMembers)
            || match (self.phase, &self.attempt) {
                (Phase::Gather, _) => members.eq(self.gather.members().iter()),
                (Phase::Commit, Some(attempt)) => members.eq(attempt.members.iter().map(|m| m.mid)),
                _ => false,
            };
        let group = commit.members.get(pos).and_then(|m| commit.groups.get(usize::from(m.group)));
        let promised = self.epoch.max(self.attempt.as_ref().map_or(0, |attempt| attempt.ring.epoch));
        same && !self.leaves_now()
            && (commit.ring.epoch > promised || without(Rule::CommitFresh))
            && group.is_some_and(|group| group.ring == self.conf.id)
    }

    /// Pass 1: promises, freezes the old ring and reports what is held of it.
    fn first_pass(&mut self, mut commit: Commit, pos: usize) {
        if !without(Rule::CommitPromise) {
            self.epoch = commit.ring.epoch;
        }
        self.note_epoch(commit.ring.epoch);
        self.phase = Phase::Commit;
        self.frozen = true;
        self.gather.rotations = 1;
        for timer in [Timer::Join, Timer::Consensus, Timer::Commit] {
            self.timers.stop(timer);
        }
        self.timers.set(Timer::Token, self.now + self.attempt_limit());
        let mut attempt = Box::new(Attempt::new(&commit, pos, self.cfg.limits.store_packets));
        attempt.last_hop = commit.hop.into();
        if without(Rule::TransSameRing) {
            let known = commit.members.iter().map(|m| m.mid).filter(|mid| self.conf.contains(*mid));
            attempt.mates = known.collect();
        }
        if let Some(group) = commit.groups.get_mut(usize::from(attempt.group)) {
            group.raise_base(self.conf.safe);
            self.conf.store.report(group);
            let mut obligations: MidSet = group.obligations.iter().copied().collect();
            obligations.extend(self.obligations.iter());
            group.obligations = obligations.as_slice().to_vec();
        }
        self.note(|ring| {
            format!("pass1 ring={} safe={} aru={}", commit.ring, ring.conf.safe, ring.conf.store.aru())
        });
        self.attempt = Some(attempt);
        self.presence_soon();
        if commit.members.len() == 1 {
            self.form_alone(&commit);
            return;
        }
        self.forward_commit(commit);
    }

    /// A ring of one needs no token: I hold all that I hold.
    fn form_alone(&mut self, commit: &Commit) {
        let Some(attempt) = self.attempt.as_mut() else { return };
        attempt.record = commit.groups.first().cloned();
        self.phase = Phase::Recovery;
        self.timers.stop(Timer::Token);
        let mut done_run = 0;
        self.complete_check(&mut done_run);
        self.install();
    }

    fn forward_commit(&mut self, mut commit: Commit) {
        let Some(next) = self.attempt.as_ref().map(|attempt| attempt.next()) else { return };
        commit.hop += 1;
        let mut body = Vec::with_capacity(1024);
        commit.write(&mut body);
        let packets = self.control_packets(Kind::Commit, &body);
        self.forward_packets(next, commit.hop.into(), packets, false);
    }

    /// Pass 2: learns what the group holds together, and begins to complete it.
    fn second_pass(&mut self, mut commit: Commit) {
        let Some(attempt) = self.attempt.as_mut() else { return };
        let group = commit.groups.get(usize::from(attempt.group));
        let Some(group) = group.filter(|g| g.ring == self.conf.id && g.base() <= self.conf.store.aru())
        else {
            // I took part in the record: it can only be so if somebody broke the rules.
            self.abort_attempt(Cause::Abort, &[], &MidSet::default());
            return;
        };
        attempt.last_hop = commit.hop.into();
        attempt.record = Some(group.clone());
        if !without(Rule::Base) {
            self.conf.safe = self.conf.safe.max(group.base());
        }
        self.conf.high = self.conf.high.max(group.high());
        self.conf.store.reset_tries();
        self.phase = Phase::Recovery;
        self.gather.rotations = self.gather.rotations.saturating_add(1);
        self.timers.set(Timer::Token, self.now + self.attempt_limit());
        self.copy = None;
        self.timers.stop(Timer::Rto);
        let mut done_run = commit.done_run;
        self.complete_check(&mut done_run);
        commit.done_run = done_run;
        self.note(|_| format!("pass2 ring={} done={done_run}", commit.ring));
        self.forward_commit(commit);
    }

    /// The commit token went round twice: the representative turns it into the token.
    fn start_token(&mut self, commit: &Commit) {
        let n = commit.members.len();
        let window = self.conf.flow.window_start(n);
        let token = Token {
            ring: commit.ring.into(),
            token_seq: commit.hop.into(),
            seq: 0,
            aru: 0,
            safe: 0,
            fcc: 0,
            backlog: 0,
            window,
            credit_now: u16::MAX,
            credit_last: u16::MAX,
            aru_id: None,
            last_sender: self.me.node,
            done_run: commit.done_run,
            idle: 0,
            requests: Default::default(),
        };
        self.recovery_visit(Box::new(token), None);
    }

    pub(crate) fn on_attempt_hop_ack(&mut self, from: Mid, ack: HopAck) {
        let attempt = self.attempt.as_ref();
        let ours = attempt.is_some_and(|a| a.key == ack.ring && a.member(from.node) == Some(from));
        match ack.status {
            _ if !ours => self.stats.drops.ring += 1,
            HopStatus::Ok => self.note_evidence(ack.hop),
            HopStatus::Reject => self.abort_attempt(Cause::Reject, &[], &MidSet::default()),
        }
    }
}
