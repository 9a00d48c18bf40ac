//! Installing a new configuration: one atomic step without communication (`ring-protocol` 4.6).

use crate::api::Event;
use crate::conf::{Conf, Cursor};
use crate::midset::MidSet;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::timers::Timer;
use crate::types::{ConfId, Mid, NodeId};

impl Ring {
    /// Delivers what is left of the old ring and makes the new one the regular configuration. With more than
    /// one member, the caller goes on with a visit.
    pub(crate) fn install(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let now = self.now;
        // What can still be delivered in the old regular configuration. The driver may be behind: this is
        // bounded by the store.
        self.deliver_up_to(usize::MAX);
        let mates: MidSet = attempt.mates.iter().copied().collect();
        let rep = attempt.mates.first().map_or(self.me.node, |mid| mid.node);
        let rep = if without(Rule::TransGroups) { attempt.ring.rep } else { rep };
        let ring = attempt.ring;
        let transitional = ConfId { epoch: ring.epoch.saturating_sub(1), rep, nonce: ring.nonce };
        let of = self.conf.id;
        self.events.push_back(Event::Transitional { id: transitional, members: attempt.mates.clone(), of });
        let mut origins = mates;
        let mut high = self.conf.store.aru();
        if let Some(record) = &attempt.record {
            if !without(Rule::Obligations) {
                origins.extend(record.obligations.iter().copied());
            }
            high = high.max(record.high());
        }
        self.deliver_transitional(high, &origins);
        self.asm.reset();
        // My own message that is sent in part begins again in the new configuration.
        if !without(Rule::RestartSent) {
            self.outq.rewind();
        }

        let members: Vec<Mid> = attempt.members.iter().map(|member| member.mid).collect();
        let age = now.since(self.conf.installed_at);
        let old = std::mem::take(&mut self.conf.members);
        if old.len() > 1 && age < self.cfg.timers.stable {
            let lost = old.iter().filter(|mid| !members.contains(mid));
            let lost: Vec<NodeId> = lost.map(|mid| mid.node).collect();
            let left = self.gather.left;
            for node in lost.into_iter().filter(|node| !left.contains(*node)) {
                self.punish(node);
            }
        }
        self.note_answers(&members);
        self.events.push_back(Event::Regular { id: ring, members: members.clone() });
        self.stats.installs += 1;
        self.stats.last_forming = now.since(self.gather.since);
        self.stats.forming.add(self.stats.last_forming);
        self.note(|_| {
            let list: Vec<u16> = members.iter().map(|mid| mid.node.0).collect();
            format!("install ring={ring} members={list:?} of={of} trans={:?}", attempt.mates)
        });
        self.gather.finish(self.me, &members, now);
        let features = self.shared_features(&members);
        self.conf = Conf::new(&self.cfg, ring, members, attempt.store, now);
        self.conf.features = features;
        self.conf.last_ts = attempt.last_hop;
        self.conf.safe_top = attempt.safe_top;
        self.frozen = false;
        if !without(Rule::ObligationsEnd) {
            self.obligations = MidSet::default();
        }
        self.phase = Phase::Operational;
        for timer in [Timer::Join, Timer::Consensus, Timer::Commit, Timer::Rto, Timer::Token] {
            self.timers.stop(timer);
        }
        self.copy = None;
        self.refresh_links();
        self.presence_soon();
        if self.conf.is_single() {
            self.deliver_alone();
        }
    }

    /// Daemons outside with which I wanted to merge did not even answer: I do not ask them for a while.
    fn note_answers(&mut self, members: &[Mid]) {
        members.iter().for_each(|mid| self.hearing.note_mate(mid.node));
        let wooed = std::mem::take(&mut self.gather.wooed);
        for mid in wooed.into_iter().filter(|mid| !members.contains(mid)) {
            self.hearing.be_shy(self.now, mid.node, &mut self.rng);
        }
    }

    /// Delivers in the transitional configuration: after a gap only what an obliged origin sent.
    fn deliver_transitional(&mut self, high: u64, origins: &MidSet) {
        let before = self.events.len();
        let Self { conf, asm, events, stats, .. } = self;
        let mut gap = false;
        let mut cursor = conf.cursor;
        for seq in cursor.seq + 1..=high {
            let (chunk, mut index) = (cursor.chunk, cursor.index);
            cursor = Cursor::default();
            let Some(data) = conf.store.get(seq) else {
                gap = true;
                continue;
            };
            let head = data.head();
            let Some(sender) = conf.member(head.origin) else { continue };
            if gap && !origins.contains(sender) && !without(Rule::Gap) {
                continue;
            }
            for chunk in data.chunks_from(chunk) {
                match asm.push(head.origin, chunk) {
                    Ok(None) => {}
                    Ok(Some((service, body))) => {
                        stats.delivered += 1;
                        stats.delivered_bytes += body.len() as u64;
                        events.push_back(Event::Deliver { seq, index, sender, service, body });
                        index += 1;
                    }
                    Err(_) => stats.drops.chunk += 1,
                }
            }
        }
        self.note_own(before);
    }
}
