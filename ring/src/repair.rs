//! Requests for missing packets, and the answers to them (`ring-protocol` 3.2, 4.4 "failed to receive").

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::api::Class;
use crate::conf::Stuck;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::types::{Mid, NodeId, NodeSet, Seq};
use crate::wire::{
    DATA_LEN, Data, FLAG_RETRANSMISSION, HEADER_LEN, Kind, REQUESTS_MAX, Request, TOKEN_LEN_MIN, Token,
};

const REQUEST_LEN: usize = 16;
/// From this try on, the answer also goes to the requester alone.
const TRIES_UNICAST: u8 = 2;
const STUCK_VISITS: u32 = 50;
const STUCK_TIME: Duration = Duration::from_millis(500);

impl Ring {
    /// Sends what members ask for and is held here, at most `limit` packets; what is answered leaves the
    /// token. `group` is 0 for this ring, in recovery that of the old ring. Returns the number of packets.
    pub(crate) fn answer(&mut self, t: &mut Token, group: u8, limit: usize) -> usize {
        let mut answered = 0;
        let mut at = if without(Rule::Retransmit) { usize::MAX } else { 0 };
        while let Some(request) = t.requests.get(at).copied() {
            if request.group != group || request.requester == self.me.node {
                at += 1;
                continue;
            }
            let conf = &self.conf;
            if u64::from(request.len) > conf.store.capacity() {
                self.stats.drops.facts += 1;
                t.requests.remove(at);
                continue;
            }
            // Everybody has what is safe. In recovery the record tells exactly who may ask for what.
            if self.phase == Phase::Operational && request.end() <= conf.safe {
                t.requests.remove(at);
                continue;
            }
            if !self.is_my_turn(&request) {
                at += 1;
                continue;
            }
            let mut left: Vec<Request> = Vec::new();
            for seq in request.start..=request.end() {
                if answered < limit
                    && let Some(data) = self.conf.store.get(seq).cloned()
                {
                    self.retransmit(&data, &request);
                    if let Some(peer) = self.stats.peers.get_mut(request.requester.index()) {
                        peer.resent += 1;
                    }
                    answered += 1;
                    continue;
                }
                match left.last_mut() {
                    Some(last) if last.end() + 1 == seq => last.len += 1,
                    _ => left.push(Request { start: seq, len: 1, ..request }),
                }
            }
            t.requests.remove(at);
            for rest in left {
                // What does not fit is asked for again by the one who misses it.
                if t.requests.len() < REQUESTS_MAX {
                    t.requests.insert(at, rest);
                    at += 1;
                }
            }
        }
        self.stats.answered += answered as u64;
        answered
    }

    fn is_my_turn(&self, request: &Request) -> bool {
        match &self.attempt {
            Some(attempt) if self.phase == Phase::Recovery => {
                attempt.my_turn(request.tries, request.requester)
            }
            _ => self.conf.my_turn(request.tries, request.requester),
        }
    }

    /// Sends a packet again, with what I know now in its head.
    fn retransmit(&mut self, data: &Data, request: &Request) {
        let mut head = *data.head();
        head.aru = self.conf.store.aru();
        head.safe = self.conf.safe;
        self.conf.reported = self.conf.reported.max(head.aru);
        let chunks = data.chunk_bytes();
        let mut out = BytesMut::with_capacity(HEADER_LEN + DATA_LEN + chunks.len());
        self.write_header(Kind::Data, FLAG_RETRANSMISSION, &mut out);
        head.write(&mut out);
        out.put_slice(chunks);
        let packet = out.freeze();
        let multicast = self.links.multicast;
        let to = match &self.attempt {
            Some(attempt) if self.phase == Phase::Recovery => attempt.group_nodes(),
            _ => self.conf.nodes,
        };
        self.trace(|_| format!("answer seq={} tries={} for={}", head.seq, request.tries, request.requester));
        self.emit(to, multicast, Class::Data, packet.clone());
        if multicast && request.tries >= TRIES_UNICAST {
            self.emit(NodeSet::one(request.requester), false, Class::Data, packet);
        }
    }

    /// Step 3 of a visit: asks for what is missing up to the number that the token had when it was forwarded
    /// here before. Packets with greater numbers may still be on their way.
    pub(crate) fn ask(&mut self, t: &mut Token) {
        let me = self.me.node;
        t.requests.retain(|request| request.requester != me);
        let Some((prev_seq, _)) = self.conf.prev else { return };
        let missing = (self.conf.store.aru() + 1..=prev_seq.min(t.seq)).filter(|s| !self.conf.store.have(*s));
        let missing: Vec<Seq> = missing.take(usize::from(u16::MAX)).collect();
        self.request(t, 0, &missing);
    }

    /// Adds requests for the packets, which ascend. One that somebody else asks for is left to that request.
    pub(crate) fn request(&mut self, t: &mut Token, group: u8, missing: &[Seq]) {
        let room = self.links.packet_len.saturating_sub(HEADER_LEN + TOKEN_LEN_MIN) / REQUEST_LEN;
        let room = room.min(REQUESTS_MAX);
        let others = t.requests.len();
        let missing = if without(Rule::Requests) { &[] } else { missing };
        for seq in missing.iter().copied() {
            let asked = |r: &Request| r.group == group && r.start <= seq && seq <= r.end();
            if t.requests.iter().take(others).any(asked) {
                continue;
            }
            let tries = self.conf.store.tries(seq);
            let full = t.requests.len() >= room;
            let mine = t.requests.get_mut(others..).and_then(<[Request]>::last_mut);
            match mine {
                Some(last) if last.end() + 1 == seq && last.tries == tries && last.len < u16::MAX => {
                    last.len += 1;
                }
                _ if full => break,
                _ => {
                    t.requests.push(Request { group, tries, requester: self.me.node, start: seq, len: 1 });
                }
            }
            self.conf.store.count_try(seq);
            self.stats.requested[usize::from(tries).min(3)] += 1;
        }
    }

    /// Watches for a member that keeps the ring's aru down. Returns who is to be failed.
    pub(crate) fn check_stuck(&mut self, t: &Token) -> Option<Mid> {
        let now = self.now;
        let who = t.aru_id.filter(|_| t.aru < t.seq);
        let Some(who) = who else {
            self.conf.stuck = None;
            return None;
        };
        match &mut self.conf.stuck {
            Some(stuck) if stuck.aru == t.aru && stuck.who == who => stuck.visits += 1,
            stuck => {
                *stuck = Some(Stuck { aru: t.aru, who, visits: 1, since: now });
                return None;
            }
        }
        let stuck = self.conf.stuck?;
        if stuck.visits <= STUCK_VISITS || now.since(stuck.since) < STUCK_TIME {
            return None;
        }
        // Packets of one origin that two members miss: it does not get through to them.
        let node = self.common_origin(t).unwrap_or(who);
        self.conf.member(node).filter(|mid| *mid != self.me)
    }

    /// The origin of all requested packets that are held here, if two members or more ask.
    fn common_origin(&self, t: &Token) -> Option<NodeId> {
        let requesters: NodeSet = t.requests.iter().map(|r| r.requester).collect();
        if requesters.len() < 2 {
            return None;
        }
        let seqs = t.requests.iter().flat_map(|r| r.start..=r.end());
        let mut origins = seqs.filter_map(|s| self.conf.store.get(s)).map(|data| data.head().origin);
        let first = origins.next()?;
        (first != self.me.node && origins.all(|origin| origin == first)).then_some(first)
    }
}
