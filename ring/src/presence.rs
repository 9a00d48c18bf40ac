//! Signs of life: sending them, and what they lead to (`ring-protocol` 4.2, 4.4).

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::api::Class;
use crate::hearing::PACKET_LEN_SAFE;
use crate::midset::MidSet;
use crate::ring::{Phase, Ring};
use crate::stats::Cause;
use crate::timers::Timer;
use crate::types::{Mid, NodeSet};
use crate::wire::{HEADER_LEN, Kind, Presence, State};

/// Changes are told at once, but not more often than this.
const PRESENCE_GAP_MIN: Duration = Duration::from_millis(20);
/// Another length that is tested: what most tunnels pass.
const PACKET_LEN_TUNNEL: usize = 1200;

/// The length of this presence if it tests a way: mostly that of the longest packet, or another one that may
/// pass where that does not. Three of four presences go by multicast, the fourth by unicast.
fn probe_len(count: u32, len_max: usize) -> Option<usize> {
    let shorter = if (count / 8).is_multiple_of(2) { PACKET_LEN_TUNNEL } else { PACKET_LEN_SAFE };
    match count % 8 {
        0 | 3 | 4 => Some(len_max),
        6 | 7 => Some(shorter.min(len_max)),
        _ => None,
    }
}

impl Ring {
    /// The state or the hear list changed: tells it soon.
    pub(crate) fn presence_soon(&mut self) {
        let gap = PRESENCE_GAP_MIN.min(self.cfg.timers.presence);
        let at = if self.presence_count == 0 { self.now } else { self.presence_at + gap };
        self.timers.set_min(Timer::Presence, at.max(self.now));
    }

    /// Both ways are tested, and several lengths; by unicast it goes to the token's port, which a filter between
    /// two hosts may forget.
    pub(crate) fn send_presence(&mut self) {
        let (now, count) = (self.now, self.presence_count);
        self.timers.set(Timer::Presence, now + self.cfg.timers.presence);
        self.presence_at = now;
        self.presence_count = count.wrapping_add(1);
        if self.cfg.nodes.len() < 2 {
            return;
        }
        let probe = probe_len(count, self.cfg.packet_len_max);
        let len_max = self.cfg.packet_len_max;
        let operational = self.phase == Phase::Operational;
        let presence = Presence {
            epoch: self.epoch,
            seen: self.seen,
            ring: operational.then_some(self.conf.id),
            state: match self.phase {
                Phase::Operational => State::Operational,
                Phase::Gather => State::Gather,
                Phase::Commit => State::Commit,
                Phase::Recovery => State::Recovery,
            },
            token_seq: if operational { self.conf.last_ts } else { 0 },
            leaving: self.leaving.is_some(),
            probe: probe.is_some(),
            hash: self.cfg.hash,
            members: if operational { self.conf.nodes } else { NodeSet::EMPTY },
            hear: self.hearing.list(now),
        };
        let mut body = BytesMut::new();
        presence.write(&mut body);
        if let Some(padding) = probe.and_then(|len| len.checked_sub(HEADER_LEN + body.len())) {
            body.put_bytes(0, padding);
        }
        let multicast = count % 4 != 3;
        let to = self.hearing.presence_targets(now, multicast);
        self.stats.presences_sent += 1;
        let packets = if HEADER_LEN + body.len() <= len_max {
            let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
            self.write_header(Kind::Presence, 0, &mut out);
            out.extend_from_slice(&body);
            vec![out.freeze()]
        } else {
            self.control_packets(Kind::Presence, &body)
        };
        // Who is new shall know soon that I hear it, and that unicast passes.
        let greet = std::mem::replace(&mut self.greet, NodeSet::EMPTY);
        for packet in packets {
            let class = if multicast { Class::Data } else { Class::Token };
            self.emit(to, multicast, class, packet.clone());
            if multicast {
                self.emit(greet, false, Class::Token, packet);
            }
        }
    }

    pub(crate) fn on_presence(&mut self, from: Mid, presence: &Presence) {
        self.stats.presences_received += 1;
        self.note_epoch(presence.epoch.max(presence.seen));
        if presence.leaving {
            return;
        }
        if self.phase != Phase::Operational || !self.hearing.is_usable(from) {
            return;
        }
        if self.now.since(self.links_at) >= self.cfg.timers.presence / 2 {
            self.refresh_links();
        }
        let Some(ring) = presence.ring.filter(|_| presence.state == State::Operational) else {
            // It agrees on members now and will say with whom.
            return;
        };
        if ring == self.conf.id {
            self.note_evidence(presence.token_seq);
        } else if self.conf.contains(from) {
            if ring.epoch > self.conf.id.epoch {
                self.note(|_| format!("left_behind by={} ring={ring}", from.node));
                self.enter_gather(Cause::LeftBehind, &[], &MidSet::default());
            }
        } else if self.leaving.is_none() {
            self.consider_merge(from, presence.members);
        }
    }

    /// A daemon outside of my ring works in a ring with `members`. If all of mine and all of them hear each
    /// other, the rings merge.
    fn consider_merge(&mut self, from: Mid, members: NodeSet) {
        let mut theirs: Vec<Mid> = members.iter().filter_map(|node| self.hearing.current(node)).collect();
        if theirs.len() != members.len() || !theirs.contains(&from) {
            return;
        }
        theirs.retain(|mid| !self.conf.contains(*mid));
        let shy = theirs.iter().any(|mid| self.hearing.is_shy(self.now, mid.node));
        if !shy && self.hearing.can_merge(self.now, &self.conf.members, &theirs) {
            self.note(|_| format!("merge with={members:?}"));
            self.gather.wooed.clone_from(&theirs);
            self.enter_gather(Cause::Merge, &theirs, &MidSet::default());
        }
    }

    /// A session of a node became usable. If the node's former process is a member, it is dead.
    pub(crate) fn on_usable(&mut self, from: Mid) {
        let older = |mid: Option<Mid>| mid.filter(|old| *old != from && self.hearing.is_superseded(*old));
        match self.phase {
            Phase::Operational => {
                if let Some(old) = older(self.conf.member(from.node)) {
                    self.enter_gather(Cause::Restart, &[], &MidSet::one(old));
                }
            }
            Phase::Commit | Phase::Recovery => {
                let member = self.attempt.as_ref().and_then(|attempt| attempt.member(from.node));
                if let Some(old) = older(member) {
                    self.abort_attempt(Cause::Restart, &[], &MidSet::one(old));
                }
            }
            Phase::Gather => self.fail_superseded(),
        }
    }

    pub(crate) fn refresh_links(&mut self) {
        self.links_at = self.now;
        let links = self.hearing.links(self.now, &self.conf.members);
        if links != self.links {
            self.note(|_| format!("links multicast={} packet={}", links.multicast, links.packet_len));
            self.links = links;
        }
    }

    /// Remembers the highest epoch seen anywhere.
    pub(crate) fn note_epoch(&mut self, epoch: u64) {
        self.seen = self.seen.max(epoch);
    }
}
