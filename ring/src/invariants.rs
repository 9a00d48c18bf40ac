//! What must hold after every step (`ring-protocol` 4.11), as far as one member can see it.

use crate::ring::{Phase, Ring};
use crate::timers::Timer;

macro_rules! check {
    ($name:literal, $cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err(format!("{}: {}", $name, format_args!($($arg)+)));
        }
    };
}

impl Ring {
    /// Checks the invariants that one member can see.
    ///
    /// # Errors
    ///
    /// The first one that does not hold.
    pub fn invariants(&self) -> Result<(), String> {
        self.cheap_invariants()?;
        self.check_store()?;
        self.check_recovery()?;
        self.check_timers()
    }

    /// The part that debug builds check after every input.
    pub(crate) fn cheap_invariants(&self) -> Result<(), String> {
        let conf = &self.conf;
        let (released, aru, safe) = (conf.store.released(), conf.store.aru(), conf.safe);
        check!("I1", released <= safe, "released {released} > safe {safe}");
        check!("I1", safe <= aru, "safe {safe} > aru {aru}");
        check!("I2", conf.cursor.seq <= aru, "delivered {} > aru {aru}", conf.cursor.seq);
        check!("I2", released <= conf.cursor.seq, "released {released} > delivered {}", conf.cursor.seq);
        if let Some((seq, prev_aru)) = conf.prev {
            check!("I4", prev_aru <= aru && prev_aru <= seq, "prev aru {prev_aru}, aru {aru}, seq {seq}");
        }
        if let Some(token) = &conf.parked {
            check!("I4", token.aru <= token.seq && safe <= token.seq, "parked {token:?}");
            check!("I5", self.phase == Phase::Operational, "token rests in {:?}", self.phase);
            check!("I5", token.token_seq == conf.last_ts + 1, "token rests after another one");
        }
        check!("I3", self.epoch >= conf.id.epoch, "epoch {} < ring {}", self.epoch, conf.id);
        check!("I3", self.seen >= self.epoch, "seen {} < epoch {}", self.seen, self.epoch);
        check!("I12", !self.gather.fail.contains(self.me), "I failed myself");
        check!("I12", self.gather.fail.is_subset(&self.gather.proc), "fail is not within proc");
        check!("I12", self.gather.proc.contains(self.me), "I am no candidate");
        let attempting = matches!(self.phase, Phase::Commit | Phase::Recovery);
        check!("I6", attempting == self.attempt.is_some(), "attempt in {:?}", self.phase);
        check!("I6", !attempting || self.frozen, "not frozen in {:?}", self.phase);
        let frozen = self.frozen && self.phase == Phase::Operational;
        check!("I6", !frozen, "frozen in normal operation");
        let limits = &self.cfg.limits;
        check!("I17", self.outq.len() <= limits.submit_count_max, "{} messages wait", self.outq.len());
        Ok(())
    }

    fn check_store(&self) -> Result<(), String> {
        let store = &self.conf.store;
        for seq in store.released() + 1..=store.top() {
            if let Some(data) = store.get(seq) {
                check!("I15", data.head().seq == seq, "slot of {seq} holds {}", data.head().seq);
            } else {
                check!("I15", seq > store.aru(), "{seq} <= aru {} is not held", store.aru());
            }
        }
        let aru = store.aru();
        let low = self.conf.arus().iter().enumerate().filter(|(at, _)| *at != self.conf.pos);
        let low = low.map(|(_, aru)| *aru).min().unwrap_or(aru).min(aru);
        check!("I1", low <= self.conf.safe || self.phase != Phase::Operational, "safe below vector {low}");
        Ok(())
    }

    fn check_recovery(&self) -> Result<(), String> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        check!("I9", attempt.ring.epoch == self.epoch, "attempt {} is not promised", attempt.ring);
        if self.phase == Phase::Recovery
            && let Some(record) = &attempt.record
        {
            let store = &self.conf.store;
            check!("I8", record.ring == self.conf.id, "record of {}", record.ring);
            for seq in record.base() + 1..=store.top() {
                check!("I7", !store.have(seq) || record.has(seq), "{seq} is held and not in the record");
            }
            if attempt.completed {
                let obliged = attempt.mates.iter().all(|mid| self.obligations.contains(*mid));
                check!("I10", obliged, "obligations {} lack a mate", self.obligations);
            }
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), String> {
        let on = |timer| self.timers.is_set(timer);
        let any = |timers: &[Timer]| timers.iter().any(|timer| on(*timer));
        let single = self.conf.is_single();
        match self.phase {
            _ if self.gone => check!("I16", self.timers.next().is_none(), "a timer runs after the end"),
            Phase::Operational => {
                check!("I16", !any(&[Timer::Join, Timer::Consensus, Timer::Commit]), "gather timer in O");
                check!("I16", on(Timer::Token) != single, "T_token in a ring of {}", self.conf.len());
                check!("I16", on(Timer::Rto) == self.copy.is_some(), "rto without a copy");
                check!("I16", on(Timer::Park) == self.conf.parked.is_some() || self.visit_due, "T_park");
            }
            Phase::Gather => {
                let ring = [Timer::Token, Timer::Rto, Timer::Park, Timer::Wake, Timer::Ack];
                check!("I16", !any(&ring), "ring timer in G");
                let waits = any(&[Timer::Consensus, Timer::Commit, Timer::Leave]);
                check!("I16", waits, "no timer ends the gather");
            }
            Phase::Commit | Phase::Recovery => {
                let others =
                    [Timer::Join, Timer::Consensus, Timer::Commit, Timer::Park, Timer::Wake, Timer::Ack];
                check!("I16", !any(&others), "other timers in {:?}", self.phase);
                check!("I16", on(Timer::Token), "no timer ends {:?}", self.phase);
            }
        }
        Ok(())
    }
}
