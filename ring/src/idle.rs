//! The idle ring: the token rests at the last sender, and comes when somebody asks (`ring-protocol` 3.6).

use std::time::Duration;

use crate::api::Class;
use crate::features::FEATURE_PARK;
use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::timers::Timer;
use crate::types::{Mid, NodeId};
use crate::wire::{HopAck, HopStatus, Kind, Token, TokenRequest};

const WAKE_REPEAT_MIN: Duration = Duration::from_millis(2);
const WAKE_REPEAT_MAX: Duration = Duration::from_millis(20);

impl Ring {
    /// Whether the token of this ring may rest.
    fn parks(&self) -> bool {
        self.cfg.park && self.conf.features & FEATURE_PARK != 0
    }

    /// Whether the token rests here: nothing waits, and it passed all members without work since I sent last.
    /// Then all of them know that everything is safe.
    pub(crate) fn park_here(&self, t: &Token) -> bool {
        self.parks()
            && self.outq.is_empty()
            && (usize::from(t.idle) >= self.conf.len() || without(Rule::ParkSafe))
            && t.last_sender == self.me.node
    }

    pub(crate) fn park(&mut self, token: Box<Token>, from: Option<NodeId>) {
        let wanted = self.conf.wanted.take().filter(|(_, at)| self.now.since(*at) < WAKE_REPEAT_MIN * 2);
        if let Some((node, _)) = wanted {
            // Its next request would be up to 20 ms away.
            self.jump(node, token);
            return;
        }
        self.stats.parked += 1;
        // The forwarder would see no sign of the token for long: tell it.
        if let Some(from) = from {
            let hop = self.conf.last_ts;
            self.send_receipt(from, HopAck { ring: self.conf.key, hop, status: HopStatus::Ok });
        }
        self.timers.set(Timer::Park, self.now + self.cfg.timers.park());
        self.conf.parked = Some(token);
    }

    /// The token rested long enough: it makes one round, so that nobody misses it.
    pub(crate) fn on_park_end(&mut self) {
        if without(Rule::TokenWakes) {
            self.timers.set(Timer::Park, self.now + self.cfg.timers.park());
        } else if let Some(token) = self.conf.parked.take() {
            let next = self.conf.next();
            self.forward(next, token);
        }
    }

    /// Work came while the token rests here: it begins at once.
    pub(crate) fn visit_parked(&mut self) {
        self.visit_due = false;
        if self.phase == Phase::Operational
            && let Some(token) = self.conf.parked.take()
        {
            self.visit(token, None);
        }
    }

    /// Work came and the token is not here. If it is not back in time, it rests somewhere: ask for it.
    pub(crate) fn arm_wake(&mut self) {
        if self.timers.is_set(Timer::Wake) || !self.parks() {
            return;
        }
        let rotation = self.conf.rotation.map_or(self.cfg.timers.rto_min, |(mean, _)| mean);
        let at = self.conf.visited_at + rotation * 3 / 2;
        self.wake_wait = WAKE_REPEAT_MIN;
        if at <= self.now {
            self.send_token_request();
        } else {
            self.timers.set(Timer::Wake, at);
        }
    }

    pub(crate) fn send_token_request(&mut self) {
        let conf = &self.conf;
        if self.phase != Phase::Operational || conf.is_single() || conf.parked.is_some() {
            return;
        }
        if self.outq.is_empty() || without(Rule::TokenWakes) {
            return;
        }
        let request = TokenRequest { ring: conf.key, token_seq: conf.last_ts };
        let (to, multicast) = (conf.nodes, self.links.multicast);
        let mut body = Vec::with_capacity(32);
        request.write(&mut body);
        self.stats.wakes += 1;
        self.trace(|_| "wake".to_owned());
        for packet in self.control_packets(Kind::TokenRequest, &body) {
            self.emit(to, multicast, Class::Data, packet);
        }
        self.timers.set(Timer::Wake, self.now + self.wake_wait);
        self.wake_wait = (self.wake_wait * 2).min(WAKE_REPEAT_MAX);
    }

    /// Sends the resting token directly to the one who asks: the ring goes on from there. A request that
    /// finds no holder is remembered for a moment: the token is moving and will come, or come to rest.
    pub(crate) fn on_token_request(&mut self, from: Mid, request: TokenRequest) {
        let ours = request.ring == self.conf.key && self.conf.contains(from);
        if self.phase != Phase::Operational || !ours {
            self.stats.drops.ring += 1;
            return;
        }
        let Some(token) = self.conf.parked.take() else {
            // It is on its way to somebody. If it comes to rest here, the one who asked gets it.
            self.conf.wanted = Some((from.node, self.now));
            return;
        };
        if self.visit_due {
            // I have work too; the token passes the requester on its way.
            self.conf.parked = Some(token);
            return;
        }
        self.timers.stop(Timer::Park);
        self.jump(from.node, token);
    }

    /// Everything is safe at all members: the token may leave out some of them.
    fn jump(&mut self, to: NodeId, mut token: Box<Token>) {
        token.idle = 0;
        self.stats.jumps += 1;
        self.trace(|_| format!("jump to={to} ts={}", token.token_seq));
        self.forward(to, token);
    }
}
