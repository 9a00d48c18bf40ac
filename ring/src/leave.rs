//! Leaving in good order (`ring-protocol` 4.4).

use crate::midset::MidSet;
use crate::ring::{Phase, Ring};
use crate::stats::Cause;
use crate::timers::{TIMERS, Timer};
use crate::types::{Mid, Nanos};

/// How often the others are told.
const LEAVES: u8 = 3;

/// A daemon on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// What was submitted is sent until then.
    deadline: Nanos,
    /// How often the others were told.
    told: u8,
}

impl Ring {
    pub(crate) fn begin_leave(&mut self) {
        if self.leaving.is_some() || self.gone {
            return;
        }
        self.note(|_| "leave".to_owned());
        self.leaving = Some(Leaving { deadline: self.now + self.cfg.timers.token, told: 0 });
        self.on_leave_timer();
    }

    /// Whether the others are told already: this daemon takes part in nothing any more.
    pub(crate) fn leaves_now(&self) -> bool {
        self.leaving.is_some_and(|leaving| leaving.told > 0)
    }

    pub(crate) fn on_leave_timer(&mut self) {
        let Some(mut leaving) = self.leaving else { return };
        let sent = self.outq.is_empty() && self.conf.cursor.seq >= self.conf.high;
        let wait = self.phase == Phase::Operational && !sent && self.now < leaving.deadline;
        if wait && leaving.told == 0 {
            self.timers.set(Timer::Leave, self.now + self.cfg.timers.join);
            return;
        }
        if leaving.told == 0 {
            self.phase = Phase::Gather;
            self.attempt = None;
            self.copy = None;
            self.conf.parked = None;
            self.visit_due = false;
            for timer in TIMERS {
                self.timers.stop(timer);
            }
        }
        if leaving.told >= LEAVES || self.cfg.nodes.len() < 2 {
            self.gone = true;
            self.note(|_| "gone".to_owned());
            return;
        }
        leaving.told += 1;
        self.leaving = Some(leaving);
        let to = self.conf.nodes.union(self.hearing.heard_nodes(self.now));
        self.send_join_to(to, true, true);
        self.send_join_to(to, false, true);
        self.timers.set(Timer::Leave, self.now + self.cfg.timers.join);
    }

    /// Somebody leaves: it counts as failed at once.
    pub(crate) fn on_leaving_join(&mut self, from: Mid) {
        self.hearing.forget(from);
        let failed = MidSet::one(from);
        match self.phase {
            Phase::Operational if self.conf.contains(from) => {
                self.gather.left.insert(from.node);
                self.enter_gather(Cause::Leave, &[], &failed);
            }
            Phase::Operational => {}
            Phase::Gather => self.fail_in_gather(&failed),
            Phase::Commit | Phase::Recovery => {
                if self.attempt.as_ref().and_then(|a| a.member(from.node)) == Some(from) {
                    self.gather.left.insert(from.node);
                    self.abort_attempt(Cause::Leave, &[], &failed);
                }
            }
        }
    }

    /// The driver does not take the events: the ring cannot wait for this daemon for ever.
    pub(crate) fn on_stall(&mut self) {
        self.stats.stalls += 1;
        self.note(|_| "stall".to_owned());
        self.leaving = Some(Leaving { deadline: self.now, told: 0 });
        self.on_leave_timer();
    }
}
