//! Normal operation: the token and what a member does when it comes (`ring-protocol` 3.2, 3.5).
//!
//! The order of emission is the order on the wire: repairs, packets before the token, the token, packets
//! after it. Everything else rests on it: when a member sees the token again, every packet up to the number
//! that the token had when it passed here before was sent before the token left its sender.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::Class;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring, TokenCopy};
use crate::stats::Cause;
use crate::timers::Timer;
use crate::types::{Mid, NodeId, NodeSet};
use crate::wire::{
    CHUNK_LEN_MIN, DATA_LEN, Data, DataHead, HEADER_LEN, HopAck, HopStatus, Kind, RingKey, TOKEN_LEN_MAX,
    TOTAL_LEN, Token,
};

/// How many stores ahead of what is released a token may be before it is taken for nonsense.
const STORES_AHEAD_MAX: u64 = 4;
/// What a packet has before its chunks.
const FIXED_LEN: usize = HEADER_LEN + DATA_LEN;
const CHUNK_HEAD_MAX: usize = CHUNK_LEN_MIN + TOTAL_LEN;

impl Ring {
    pub(crate) fn on_token(&mut self, from: Mid, token: Box<Token>) {
        match self.phase {
            Phase::Operational if token.ring == self.conf.key && self.conf.contains(from) => {
                if token.token_seq <= self.conf.last_ts && !without(Rule::TokenOnce) {
                    self.stats.token_duplicates += 1;
                    self.send_hop_ack(from.node, token.ring, self.conf.last_ts);
                    return;
                }
                let ahead = STORES_AHEAD_MAX * self.conf.store.capacity();
                let last = self.conf.store.released().saturating_add(ahead);
                // The token counts every packet that was sent, and flow control keeps the store ahead of it.
                if token.seq < self.conf.high || token.seq > last {
                    self.stats.drops.facts += 1;
                    return;
                }
                self.visit(token, Some(from.node));
            }
            Phase::Recovery => self.on_recovery_token(from, token),
            Phase::Gather
                if without(Rule::Veto)
                    && token.ring == self.conf.key
                    && self.conf.contains(from)
                    && token.token_seq > self.conf.last_ts
                    && token.seq >= self.conf.high =>
            {
                self.visit(token, Some(from.node));
            }
            // The old ring's token is dropped for ever once its ring was left: a veto.
            _ => self.stats.drops.ring += 1,
        }
    }

    /// One visit of the token. `from` is the member that forwarded it, none if it rested or began here.
    pub(crate) fn visit(&mut self, mut token: Box<Token>, from: Option<NodeId>) {
        self.begin_visit(&token);
        let t = token.as_mut();
        if self.conf.pos == 0 {
            self.conf.flow.rotate(t);
        }
        self.conf.flow.begin(t);

        // 1. Repair, before anything else and before the token.
        t.requests.retain(|request| request.group == 0);
        let limit = self.conf.flow.repairs(t);
        let answered = self.answer(t, 0, limit);

        // 2. New packets.
        let room = self.links.packet_len - HEADER_LEN - DATA_LEN;
        let mine = self.outq.packets(room);
        let count = self.conf.flow.allowed(t, self.conf.safe, mine, answered);
        let burst = self.pack_burst(t, room, count);
        let pre = burst.len().saturating_sub(self.conf.flow.accelerated());
        let sent = burst.len();
        let mut burst = burst.into_iter();
        burst.by_ref().take(pre).for_each(|packet| self.emit_data(packet));

        // 3. Requests: only what must have been sent before this token came.
        self.ask(t);

        // 4. Acknowledgement.
        self.acknowledge(t);

        // 5. Idle, flow control, and on.
        let conf = &mut self.conf;
        let busy =
            sent > 0 || !t.requests.is_empty() || t.aru < t.seq || conf.safe < t.seq || !self.outq.is_empty();
        t.idle = if busy { 0 } else { t.idle.saturating_add(1) };
        if sent > 0 {
            t.last_sender = self.me.node;
        }
        let waiting = if sent == mine { 0 } else { self.outq.packets(room) };
        let free = if self.paused { 0 } else { conf.flow.free(t, conf.safe.min(conf.cursor.seq)) };
        conf.flow.end(t, sent + answered, waiting, free);
        t.token_seq += 1;
        conf.visit_idle = t.idle > 0;
        self.note_visit(t);
        let stuck = self.check_stuck(t);
        if self.park_here(t) {
            self.park(token, from);
        } else {
            let next = self.conf.next();
            self.forward(next, token);
        }
        burst.for_each(|packet| self.emit_data(packet));
        self.deliver();
        self.note_room();
        if let Some(failed) = stuck {
            let failed = std::iter::once(failed).collect();
            self.enter_gather(Cause::FailedToReceive, &[], &failed);
        }
    }

    fn begin_visit(&mut self, token: &Token) {
        let now = self.now;
        let timers = &self.cfg.timers;
        self.timers.set(Timer::Token, now + timers.token);
        for timer in [Timer::Rto, Timer::Park, Timer::Wake] {
            self.timers.stop(timer);
        }
        self.copy = None;
        self.visit_due = false;
        self.stats.visits += 1;
        let conf = &mut self.conf;
        conf.parked = None;
        if !conf.visit_idle && conf.prev.is_some() {
            let time = now.since(conf.visited_at);
            self.stats.rotation.add(time);
            // A rotation in which a token was lost says how long this engine waited, not how long the token
            // takes: it must not make the engine wait longer.
            let limit = conf.rotation.map_or(self.cfg.timers.rto_min * 4, |(mean, _)| mean * 4);
            let time = time.min(limit.max(self.cfg.timers.rto_min));
            conf.rotation = Some(match conf.rotation {
                Some(last) if conf.resent => last,
                None => (time, time / 2),
                Some((mean, deviation)) => {
                    let off = time.abs_diff(mean);
                    (mean * 7 / 8 + time / 8, deviation * 3 / 4 + off / 4)
                }
            });
        }
        conf.resent = false;
        conf.visited_at = now;
        conf.last_ts = token.token_seq;
        conf.high = conf.high.max(token.seq);
        self.stats.drops.facts += u64::from(!conf.note_safe(token.safe));
    }

    /// Takes up to `count` packets out of the queue, numbers and stores them.
    fn pack_burst(&mut self, t: &mut Token, room: usize, count: usize) -> Vec<Bytes> {
        let mut burst = Vec::with_capacity(count);
        if count == 0 {
            return burst;
        }
        let packet_len = FIXED_LEN + room;
        // One slab for the burst: its packets leave the store together.
        let waiting = self.outq.packets(room).min(count);
        let need = self.outq.bytes_waiting() + (self.outq.len() + waiting) * CHUNK_HEAD_MAX;
        let mut slab = BytesMut::with_capacity((waiting * packet_len).min(need + waiting * FIXED_LEN));
        for _ in 0..count {
            self.write_header(Kind::Data, 0, &mut slab);
            slab.put_bytes(0, DATA_LEN);
            let Some(filled) = self.outq.fill(room, &mut slab) else { break };
            let seq = t.seq + 1;
            let conf = &mut self.conf;
            let whole = conf.store.aru() + 1 == seq || without(Rule::AruTrue);
            let aru = if whole { seq } else { conf.store.aru() };
            let head = DataHead {
                ring: conf.key,
                seq,
                token_seq: conf.last_ts,
                aru,
                safe: conf.safe,
                first_msg_no: filled.first_msg_no,
                origin: self.me.node,
                chunks: filled.chunks,
                has_safe: filled.has_safe,
            };
            let mut packet = slab.split();
            if let Some(mut fixed) = packet.get_mut(HEADER_LEN..HEADER_LEN + DATA_LEN) {
                head.write(&mut fixed);
            }
            let packet = packet.freeze();
            t.seq = seq;
            conf.high = conf.high.max(seq);
            conf.reported = conf.reported.max(aru);
            match Data::check(packet.slice(HEADER_LEN..)) {
                Ok(data) => {
                    self.stats.data_sent += 1;
                    self.stats.data_sent_bytes += packet.len() as u64;
                    self.keep(data);
                    burst.push(packet);
                }
                // The packer made it: a fault of the engine. The number stays without a packet, the ring
                // finds nobody who has it and forms anew; nothing wrong is delivered.
                Err(e) => debug_assert!(false, "own packet is malformed: {e}"),
            }
        }
        burst
    }

    pub(crate) fn emit_data(&mut self, packet: Bytes) {
        let (to, multicast) = (self.conf.nodes, self.links.multicast);
        self.emit(to, multicast, Class::Data, packet);
    }

    /// Step 4: lowers or raises the token's aru, and learns what is safe (`ring-protocol` 3.4).
    fn acknowledge(&mut self, t: &mut Token) {
        let me = self.me.node;
        let conf = &mut self.conf;
        let aru = conf.store.aru();
        // Whom nobody knows can never raise the token's aru again: that is left to me.
        let unknown = t.aru_id.is_none_or(|id| conf.member(id).is_none());
        if aru < t.aru || t.aru_id == Some(me) || unknown || without(Rule::AruOwner) {
            // My aru may be beyond the token's numbers only if the token is not of this ring's history.
            t.aru = aru.min(t.seq);
            t.aru_id = (t.aru != t.seq).then_some(me);
        }
        if let Some((_, prev_aru)) = conf.prev {
            // Every member was visited since my previous visit and none lowered the token below the smaller
            // of both values.
            conf.safe = conf.safe.max(prev_aru.min(t.aru));
        }
        if without(Rule::SafeTwoVisits) {
            conf.safe = conf.safe.max(t.aru);
        }
        conf.raise_safe_by_vector();
        t.safe = t.safe.max(conf.safe.min(t.seq));
        conf.prev = Some((t.seq, t.aru));
    }

    fn note_visit(&mut self, t: &Token) {
        let conf = &self.conf;
        let stats = &mut self.stats;
        stats.seq = t.seq;
        stats.my_aru = conf.store.aru();
        stats.aru = t.aru;
        stats.safe = conf.safe;
        stats.window = t.window;
        stats.credit = t.credit_last;
        stats.backlog = t.backlog;
        self.trace(|ring| {
            format!(
                "visit ts={} seq={} aru={} my={} safe={} idle={} req={}",
                t.token_seq - 1,
                t.seq,
                t.aru,
                ring.conf.store.aru(),
                ring.conf.safe,
                t.idle,
                t.requests.len()
            )
        });
    }

    /// Sends the token on and keeps a copy until there is evidence that it arrived.
    pub(crate) fn forward(&mut self, to: NodeId, token: Box<Token>) {
        let mut out = BytesMut::with_capacity(HEADER_LEN + TOKEN_LEN_MAX);
        self.write_header(Kind::Token, 0, &mut out);
        token.write(&mut out);
        // Nobody waits for an idle token, and a sleeping host takes its time: no needless copies of it.
        let idle = token.idle > 0;
        self.forward_packets(to, token.token_seq, vec![out.freeze()], idle);
    }

    /// Sends a token or commit token on. `number` is what evidence is compared with.
    pub(crate) fn forward_packets(&mut self, to: NodeId, number: u64, packets: Vec<Bytes>, idle: bool) {
        for packet in &packets {
            self.emit(NodeSet::one(to), false, Class::Token, packet.clone());
        }
        let wait = if idle { self.rto().max(self.rto_unknown()) } else { self.rto() };
        self.copy = Some(TokenCopy { to, number, packets, wait });
        self.timers.set(Timer::Rto, self.now + wait);
    }

    fn rto_max(&self) -> Duration {
        let timers = &self.cfg.timers;
        timers.rto_max.min(timers.token / 5).max(timers.rto_min)
    }

    fn rto_unknown(&self) -> Duration {
        (self.cfg.timers.rto_min * 10).min(self.rto_max())
    }

    /// How long to wait for evidence: two rotations and four deviations. Before anything is measured, ten
    /// times the smallest wait.
    fn rto(&self) -> Duration {
        let min = self.cfg.timers.rto_min;
        let wait = match self.conf.rotation {
            Some((mean, deviation)) if self.phase == Phase::Operational => mean * 2 + deviation * 4,
            _ => self.rto_unknown(),
        };
        wait.clamp(min, self.rto_max())
    }

    pub(crate) fn resend_token(&mut self) {
        let max = self.rto_max();
        let Some(mut copy) = self.copy.take() else { return };
        if without(Rule::TokenCopy) {
            return;
        }
        self.stats.token_resent += 1;
        self.conf.resent = true;
        self.trace(|_| format!("resend to={} number={}", copy.to, copy.number));
        for packet in &copy.packets {
            self.emit(NodeSet::one(copy.to), false, Class::Token, packet.clone());
        }
        copy.wait = (copy.wait * 2).min(max);
        self.timers.set(Timer::Rto, self.now + copy.wait);
        self.copy = Some(copy);
    }

    /// The successor processed the token with this number, or a later one was seen.
    pub(crate) fn note_evidence(&mut self, number: u64) {
        if self.copy.as_ref().is_some_and(|copy| copy.number <= number) {
            self.copy = None;
            self.timers.stop(Timer::Rto);
        }
    }

    /// Answers a token that was processed before; at most one answer in half the smallest wait.
    pub(crate) fn send_hop_ack(&mut self, to: NodeId, ring: RingKey, number: u64) {
        if self.now.since(self.hop_ack_at) < self.cfg.timers.rto_min / 2 {
            return;
        }
        self.hop_ack_at = self.now;
        self.send_receipt(to, HopAck { ring, hop: number, status: HopStatus::Ok });
    }

    pub(crate) fn send_receipt(&mut self, to: NodeId, ack: HopAck) {
        let mut body = Vec::with_capacity(32);
        ack.write(&mut body);
        for packet in self.control_packets(Kind::HopAck, &body) {
            self.emit(NodeSet::one(to), false, Class::Token, packet);
        }
    }

    pub(crate) fn on_hop_ack(&mut self, from: Mid, ack: HopAck) {
        if self.phase == Phase::Operational && ack.ring == self.conf.key && self.conf.contains(from) {
            if ack.status == HopStatus::Ok {
                self.note_evidence(ack.hop);
            }
            return;
        }
        self.on_attempt_hop_ack(from, ack);
    }

    /// T_token passed without a visit.
    pub(crate) fn on_token_loss(&mut self) {
        self.stats.token_lost += 1;
        self.note(|ring| format!("token_loss last_ts={}", ring.conf.last_ts));
        match self.phase {
            Phase::Operational => self.enter_gather(Cause::TokenLoss, &[], &Default::default()),
            Phase::Commit | Phase::Recovery => self.abort_attempt(Cause::TokenLoss, &[], &Default::default()),
            Phase::Gather => {}
        }
    }
}
