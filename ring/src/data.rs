//! Data packets: receiving, delivering, acks (`ring-protocol` 3.3, 3.4).

use std::time::Duration;

use crate::api::{Class, Event};
use crate::conf::Cursor;
use crate::features::FEATURE_ACKS;
use crate::mutation::{Rule, without};
use crate::ring::{EVENTS_MAX, Phase, Ring};
use crate::store::Insert;
use crate::timers::Timer;
use crate::types::{Mid, Service};
use crate::wire::{Ack, Data, Kind};

const ACK_DELAY_MIN: Duration = Duration::from_micros(50);
const ACK_DELAY_MAX: Duration = Duration::from_millis(1);
/// Acks of one member: 2000 a second.
const ACK_GAP_MIN: Duration = Duration::from_micros(500);
/// Acks go to all: above this number of members they cost more than they gain.
const ACK_MEMBERS_MAX: usize = 16;

impl Ring {
    pub(crate) fn on_data(&mut self, from: Mid, data: Data) {
        let ours = data.head().ring == self.conf.key && self.conf.contains(from);
        match self.phase {
            Phase::Operational if ours => {
                self.receive(from, data, true);
                self.deliver();
            }
            // Until what is held was reported, every packet of the old ring is welcome.
            Phase::Gather if ours && !self.frozen => self.receive(from, data, false),
            Phase::Gather | Phase::Commit if ours && without(Rule::Freeze) => self.receive(from, data, false),
            Phase::Gather | Phase::Commit if ours => self.stats.drops.frozen += 1,
            Phase::Recovery => self.on_recovery_data(from, data, ours),
            _ => self.stats.drops.ring += 1,
        }
    }

    /// Takes a packet of the regular configuration.
    fn receive(&mut self, from: Mid, data: Data, operational: bool) {
        let head = *data.head();
        if !self.conf.store.fits(head.seq) {
            self.stats.drops.store_full += 1;
            return;
        }
        if self.conf.member(head.origin).is_none() {
            self.stats.drops.decode += 1;
            return;
        }
        if operational {
            self.note_evidence(head.token_seq);
        }
        let conf = &mut self.conf;
        conf.high = conf.high.max(head.seq);
        conf.note_aru(from.node, head.aru);
        self.keep(data);
        self.stats.drops.facts += u64::from(!self.conf.note_safe(head.safe));
        self.conf.raise_safe_by_vector();
    }

    /// Puts a packet into the store and counts it.
    pub(crate) fn keep(&mut self, data: Data) {
        let head = *data.head();
        let len = data.body().len() as u64;
        let mine = head.origin == self.me.node;
        let conf = &mut self.conf;
        let tries = conf.store.tries(head.seq);
        match conf.store.insert(data) {
            Insert::New => {
                if head.has_safe {
                    conf.safe_top = conf.safe_top.max(head.seq);
                }
                if !mine {
                    self.stats.data_received += 1;
                    self.stats.data_received_bytes += len;
                    if tries > 0 {
                        self.stats.repaired += 1;
                        if let Some(peer) = self.stats.peers.get_mut(head.origin.index()) {
                            peer.lost += 1;
                        }
                    }
                }
            }
            Insert::Duplicate => self.stats.data_duplicates += 1,
            Insert::Full => self.stats.drops.store_full += 1,
        }
    }

    /// Delivers in order what may be delivered in the regular configuration, gives up what nobody needs any
    /// more, and sees to it that the others learn of SAFE messages that came.
    pub(crate) fn deliver(&mut self) {
        self.deliver_ready();
        if self.conf.safe_top > self.conf.reported {
            self.arm_ack();
        }
    }

    /// Returns once a SAFE message must wait, a packet is missing, or the driver is behind.
    pub(crate) fn deliver_ready(&mut self) {
        if self.deliver_up_to(EVENTS_MAX) && !self.paused {
            self.paused = true;
            self.timers.set(Timer::Stall, self.now + self.cfg.limits.stall_max);
        }
    }

    /// As [`Ring::deliver_ready`], with at most `events_max` events waiting. Returns whether that stopped it.
    pub(crate) fn deliver_up_to(&mut self, events_max: usize) -> bool {
        let before = self.events.len();
        let Self { conf, asm, events, stats, .. } = self;
        let mut paused = false;
        'packets: while conf.cursor.seq < conf.store.aru() {
            if events.len() >= events_max {
                paused = true;
                break;
            }
            let seq = conf.cursor.seq + 1;
            let Some(data) = conf.store.get(seq) else { break };
            let head = data.head();
            let wait_for_safe = head.has_safe && seq > conf.safe && !without(Rule::SafeWaits);
            let Some(sender) = conf.member(head.origin) else { break };
            let mut cursor = conf.cursor;
            for chunk in data.chunks_from(cursor.chunk) {
                if wait_for_safe && chunk.last && chunk.service == Service::Safe {
                    conf.cursor = cursor;
                    break 'packets;
                }
                cursor.chunk = cursor.chunk.saturating_add(1);
                match asm.push(head.origin, chunk) {
                    Ok(None) => {}
                    Ok(Some((service, body))) => {
                        let index = cursor.index;
                        cursor.index += 1;
                        stats.delivered += 1;
                        stats.delivered_bytes += body.len() as u64;
                        events.push_back(Event::Deliver { seq, index, sender, service, body });
                    }
                    Err(_) => stats.drops.chunk += 1,
                }
            }
            conf.cursor = Cursor { seq, chunk: 0, index: 0 };
        }
        conf.release();
        self.note_own(before);
        paused
    }

    /// Looks for my own messages among the events from number `first` on, to measure how long they took.
    pub(crate) fn note_own(&mut self, first: usize) {
        let me = self.me;
        for event in self.events.range(first..) {
            let Event::Deliver { sender, service, .. } = event else { continue };
            if *sender != me {
                continue;
            }
            self.own_delivered += 1;
            if let Some((_, since)) = self.sample.filter(|(number, _)| *number <= self.own_delivered) {
                self.sample = None;
                let time = self.now.since(since);
                match service {
                    Service::Safe => self.stats.latency_safe.add(time),
                    _ => self.stats.latency_agreed.add(time),
                }
            }
        }
    }

    /// The driver took events: goes on with delivery.
    pub(crate) fn resume_delivery(&mut self) {
        self.paused = false;
        self.timers.stop(Timer::Stall);
        if self.phase == Phase::Operational {
            if self.conf.is_single() {
                self.deliver_alone();
            } else {
                self.deliver_ready();
            }
        }
        self.note_room();
    }

    /// A ring of one member delivers at once: no packet, no token.
    pub(crate) fn deliver_alone(&mut self) {
        let sender = self.me;
        let before = self.events.len();
        let Self { conf, outq, events, stats, .. } = self;
        while events.len() < EVENTS_MAX
            && let Some((service, body)) = outq.pop()
        {
            let seq = conf.cursor.seq + 1;
            conf.cursor.seq = seq;
            conf.high = seq;
            conf.safe = seq;
            conf.store.skip_to(seq);
            stats.delivered += 1;
            stats.delivered_bytes += body.len() as u64;
            events.push_back(Event::Deliver { seq, index: 0, sender, service, body });
        }
        let seq = conf.cursor.seq;
        (stats.seq, stats.my_aru, stats.aru, stats.safe) = (seq, seq, seq, seq);
        self.note_own(before);
        if !self.outq.is_empty() && !self.paused {
            self.paused = true;
            self.timers.set(Timer::Stall, self.now + self.cfg.limits.stall_max);
        }
    }

    fn acks_on(&self) -> bool {
        self.cfg.acks.unwrap_or(self.conf.len() <= ACK_MEMBERS_MAX) && self.conf.features & FEATURE_ACKS != 0
    }

    /// A SAFE message came and I have nothing to send that would tell the others: an ack will.
    fn arm_ack(&mut self) {
        let due = self.conf.store.aru() > self.conf.reported;
        if !due || !self.outq.is_empty() || !self.acks_on() || self.timers.is_set(Timer::Ack) {
            return;
        }
        let rotation = self.conf.rotation.map_or(ACK_DELAY_MIN, |(mean, _)| mean);
        let delay = (rotation / 4).clamp(ACK_DELAY_MIN, ACK_DELAY_MAX);
        let at = (self.now + delay).max(self.conf.acked_at + delay.max(ACK_GAP_MIN));
        self.timers.set(Timer::Ack, at);
    }

    pub(crate) fn send_ack(&mut self) {
        let conf = &mut self.conf;
        let aru = conf.store.aru();
        let useless = conf.safe_top <= conf.reported || aru <= conf.reported;
        if self.phase != Phase::Operational || useless || !self.outq.is_empty() {
            return;
        }
        conf.reported = aru;
        conf.acked_at = self.now;
        let ack = Ack { ring: conf.key, aru, safe: conf.safe, token_seq: conf.last_ts };
        let mut body = Vec::with_capacity(64);
        ack.write(&mut body);
        let (to, multicast) = (conf.nodes, self.links.multicast);
        self.stats.acks_sent += 1;
        for packet in self.control_packets(Kind::Ack, &body) {
            self.emit(to, multicast, Class::Data, packet);
        }
    }

    pub(crate) fn on_ack(&mut self, from: Mid, ack: Ack) {
        if self.phase != Phase::Operational || ack.ring != self.conf.key || !self.conf.contains(from) {
            self.stats.drops.ring += 1;
            return;
        }
        self.stats.acks_received += 1;
        self.note_evidence(ack.token_seq);
        self.conf.note_aru(from.node, ack.aru);
        self.stats.drops.facts += u64::from(!self.conf.note_safe(ack.safe));
        self.conf.raise_safe_by_vector();
        self.deliver();
    }
}
