//! The transition table of the membership: which event leads from which state to which
//! (`ring-protocol` 4.1, 4.4).
//!
//! ```text
//!         token lost / join / foreign ring / restart of a member / failed to receive / ring moved on
//!    O ------------------------------------------------------------------------------------------> G
//!    ^                                                                                             |
//!    |  done_run >= N: deliver, Transitional, rest, Regular      consensus + commit token (pass 1) |
//!    |                                                                                             v
//!    V <--------------------------------- commit token (pass 2) ---------------------------------- C
//!    |                                                                                             |
//!    +---- T_token, join of a new member with epoch >= attempt, restart, reject: abort ------> G <-+
//! ```

use crate::midset::MidSet;
use crate::ring::{Phase, Ring};
use crate::stats::Cause;
use crate::timers::Timer;
use crate::types::Mid;
use crate::wire::Join;

impl Ring {
    pub(crate) fn on_join(&mut self, from: Mid, join: Join) {
        self.stats.joins_received += 1;
        self.note_epoch(join.epoch.max(join.seen));
        if !join.proc.iter().all(|mid| self.is_configured(*mid)) {
            self.stats.drops.facts += 1;
            return;
        }
        self.hearing.note_features(from, join.features);
        let hears_me = join.hear.iter().any(|heard| heard.mid == self.me);
        if !hears_me || !self.hearing.is_usable(from) {
            self.stats.drops.join += 1;
            return;
        }
        if !self.hearing.is_newest_join(self.now, from.node, join.join_no) {
            self.stats.drops.join += 1;
            return;
        }
        if join.leaving {
            self.on_leaving_join(from);
            return;
        }
        match self.phase {
            Phase::Operational if self.join_moves_me(from, &join) => {
                // Whom the join excludes must not count when I look at who hears whom.
                let ours = self.conf.contains(from);
                let fail = join.fail.iter().copied().filter(|mid| ours || !self.conf.contains(*mid));
                let fail: MidSet = fail.collect();
                self.enter_gather(Cause::Join, &[from], &fail);
            }
            Phase::Commit | Phase::Recovery if self.join_aborts_me(from, &join) => {
                self.abort_attempt(Cause::Join, &[from], &MidSet::default());
            }
            Phase::Gather => {}
            _ => {
                self.stats.drops.join += 1;
                return;
            }
        }
        // If nobody else was left the ring is formed already.
        if self.phase == Phase::Gather {
            self.on_gather_join(from, join);
        }
    }

    /// Whether a join takes an operational member out of its ring.
    fn join_moves_me(&self, from: Mid, join: &Join) -> bool {
        if join.fail.contains(&self.me) {
            // The sender excludes me. Its own presence will come back later.
            return false;
        }
        if self.conf.contains(from) {
            return join.epoch >= self.conf.id.epoch;
        }
        let theirs = join.proc.iter().filter(|mid| join.fail.binary_search(mid).is_err());
        let mut theirs: Vec<Mid> = theirs.copied().filter(|mid| !self.conf.contains(*mid)).collect();
        if !theirs.contains(&from) {
            theirs.push(from);
        }
        self.leaving.is_none() && self.hearing.can_merge(self.now, &self.conf.members, &theirs)
    }

    /// Whether a join says that an attempt failed: its sender took part in it, and gathers again.
    fn join_aborts_me(&self, from: Mid, join: &Join) -> bool {
        let attempt = self.attempt.as_ref();
        attempt.is_some_and(|a| a.member(from.node) == Some(from) && join.epoch >= a.ring.epoch)
    }

    /// Leaves the ring for good: from now on its token is dropped, and nothing is sent or delivered in it
    /// until the next one is installed.
    pub(crate) fn enter_gather(&mut self, cause: Cause, add: &[Mid], failed: &MidSet) {
        if self.phase != Phase::Operational {
            return;
        }
        self.stats.gathers[cause as usize] += 1;
        self.stats.last_cause = Some(cause);
        self.stop_ring_timers();
        self.conf.parked = None;
        self.note(|_| format!("gather cause={} add={add:?} failed={failed}", cause.name()));
        self.phase = Phase::Gather;
        self.begin_gather(add, failed);
    }

    /// Gives up the ring that is being formed. Always allowed: nothing of it was delivered.
    pub(crate) fn abort_attempt(&mut self, cause: Cause, add: &[Mid], failed: &MidSet) {
        match self.phase {
            Phase::Commit => self.stats.aborts_commit += 1,
            Phase::Recovery => self.stats.aborts_recovery += 1,
            Phase::Operational | Phase::Gather => return,
        }
        self.stop_ring_timers();
        self.attempt = None;
        self.note(|_| format!("abort cause={} add={add:?} failed={failed}", cause.name()));
        self.phase = Phase::Gather;
        self.resume_gather(add, failed);
    }

    fn stop_ring_timers(&mut self) {
        self.copy = None;
        self.visit_due = false;
        for timer in [Timer::Token, Timer::Rto, Timer::Park, Timer::Wake, Timer::Ack] {
            self.timers.stop(timer);
        }
    }
}
