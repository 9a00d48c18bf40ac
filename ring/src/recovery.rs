//! Exchange of the packets of the old rings (`ring-protocol` 4.6).
//!
//! Every group completes exactly what its members held together when they reported it. A member that is
//! complete stays complete, so `done_run >= N` means that N visits in a row met complete members: everybody
//! holds all, and everybody is obliged to deliver it.

use crate::mutation::{Rule, without};
use crate::ring::{Phase, Ring};
use crate::store::Insert;
use crate::timers::Timer;
use crate::types::{Mid, NodeId, Seq};
use crate::wire::{Data, Token};

impl Ring {
    /// A token while this member recovers.
    pub(crate) fn on_recovery_token(&mut self, from: Mid, token: Box<Token>) {
        let attempt = self.attempt.as_ref();
        let Some(attempt) = attempt.filter(|a| a.key == token.ring && a.member(from.node) == Some(from))
        else {
            self.stats.drops.ring += 1;
            return;
        };
        if token.token_seq <= attempt.last_hop {
            self.stats.token_duplicates += 1;
            let (ring, last) = (attempt.key, attempt.last_hop);
            self.send_hop_ack(from.node, ring, last);
            return;
        }
        if token.seq < attempt.store.top() || token.seq > attempt.store.capacity() {
            self.stats.drops.facts += 1;
            return;
        }
        self.recovery_visit(token, Some(from.node));
    }

    pub(crate) fn recovery_visit(&mut self, mut token: Box<Token>, from: Option<NodeId>) {
        let Some(attempt) = self.attempt.as_mut() else { return };
        attempt.last_hop = token.token_seq;
        let (n, group) = (attempt.len(), attempt.group.saturating_add(1));
        self.gather.rotations = self.gather.rotations.saturating_add(1);
        self.timers.set(Timer::Token, self.now + self.attempt_limit());
        self.timers.stop(Timer::Rto);
        self.copy = None;
        let t = token.as_mut();
        let limit = self.conf.flow.repairs(t);
        self.answer(t, group, limit);
        t.requests.retain(|request| request.requester != self.me.node);
        let missing = self.missing();
        self.request(t, group, &missing);
        let mut done_run = t.done_run;
        if usize::from(done_run) < n {
            self.complete_check(&mut done_run);
            t.done_run = done_run;
        }
        self.trace(|_| format!("recover ts={} done={done_run} missing={}", token.token_seq, missing.len()));
        if usize::from(done_run) >= n || without(Rule::InstallAll) && done_run > 0 {
            self.install();
            self.visit(token, from);
            return;
        }
        token.token_seq += 1;
        let Some(next) = self.attempt.as_ref().map(|attempt| attempt.next()) else { return };
        self.forward(next, token);
    }

    /// What the group holds and I do not.
    fn missing(&self) -> Vec<Seq> {
        let record = self.attempt.as_ref().and_then(|attempt| attempt.record.as_ref());
        let store = &self.conf.store;
        record.map(|r| r.held().filter(|seq| !store.have(*seq)).collect()).unwrap_or_default()
    }

    /// Counts this member's visit: complete or not. By counting itself complete it allows others to deliver,
    /// and takes the obligation to deliver the same, whatever becomes of the attempt.
    pub(crate) fn complete_check(&mut self, done_run: &mut u16) {
        if !self.missing().is_empty() {
            if !without(Rule::DoneRunReset) {
                *done_run = 0;
            }
            return;
        }
        if let Some(attempt) = self.attempt.as_mut()
            && !attempt.completed
        {
            attempt.completed = true;
            self.obligations.extend(attempt.mates.iter().copied());
            if let Some(record) = &attempt.record {
                self.obligations.extend(record.obligations.iter().copied());
            }
        }
        *done_run = done_run.saturating_add(1);
    }

    /// `old`: the packet belongs to my old ring and comes from one of its members.
    pub(crate) fn on_recovery_data(&mut self, from: Mid, data: Data, old: bool) {
        debug_assert_eq!(self.phase, Phase::Recovery);
        let head = *data.head();
        let Some(attempt) = self.attempt.as_mut() else { return };
        if old {
            let wanted = attempt.record.as_ref().is_some_and(|record| record.has(head.seq));
            if wanted && attempt.mates.contains(&from) && self.conf.member(head.origin).is_some() {
                self.keep(data);
            } else if head.seq > self.conf.safe {
                self.stats.drops.frozen += 1;
            } else {
                self.stats.data_duplicates += 1;
            }
            return;
        }
        if head.ring != attempt.key
            || attempt.member(from.node) != Some(from)
            || attempt.member(head.origin).is_none()
        {
            self.stats.drops.ring += 1;
            return;
        }
        // Of the new ring: somebody installed before me. Kept, not delivered, not acknowledged.
        match attempt.store.insert(data) {
            Insert::New if head.has_safe => attempt.safe_top = attempt.safe_top.max(head.seq),
            Insert::New => {}
            Insert::Duplicate => self.stats.data_duplicates += 1,
            Insert::Full => self.stats.drops.store_full += 1,
        }
        if self.copy.as_ref().is_some_and(|copy| copy.number <= head.token_seq) {
            self.note_evidence(head.token_seq);
        }
    }
}
