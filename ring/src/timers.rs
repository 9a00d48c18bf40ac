//! Deadlines by name.

use crate::types::Nanos;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Timer {
    /// T_token: no visit for too long.
    Token,
    /// The token or commit token that was forwarded is sent again.
    Rto,
    /// T_park: the parked token makes a round.
    Park,
    /// Ask for the parked token.
    Wake,
    /// Send an ack.
    Ack,
    /// T_pres.
    Presence,
    /// T_join: the join is sent again.
    Join,
    /// T_cons: those who do not agree fail.
    Consensus,
    /// T_commit: the commit token did not come.
    Commit,
    /// The next step of leaving.
    Leave,
    /// The driver does not take the events.
    Stall,
}

/// All timers, in the order in which due ones are handled.
pub(crate) const TIMERS: [Timer; 11] = [
    Timer::Rto,
    Timer::Park,
    Timer::Wake,
    Timer::Ack,
    Timer::Presence,
    Timer::Join,
    Timer::Commit,
    Timer::Consensus,
    Timer::Token,
    Timer::Leave,
    Timer::Stall,
];

const OFF: Nanos = Nanos(u64::MAX);

/// The deadlines that are armed.
#[derive(Clone, Debug)]
pub(crate) struct Timers([Nanos; TIMERS.len()]);

impl Timers {
    pub(crate) fn new() -> Self {
        Self([OFF; TIMERS.len()])
    }

    pub(crate) fn set(&mut self, timer: Timer, at: Nanos) {
        self.0[timer as usize] = at;
    }

    /// Arms the timer unless it is due earlier already.
    pub(crate) fn set_min(&mut self, timer: Timer, at: Nanos) {
        let slot = &mut self.0[timer as usize];
        *slot = at.min(*slot);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = OFF;
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize] != OFF
    }

    /// Whether the timer is due.
    pub(crate) fn is_due(&self, timer: Timer, now: Nanos) -> bool {
        self.0[timer as usize] <= now
    }

    /// Stops the timer if it is due and says so.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Nanos) -> bool {
        let due = self.is_due(timer, now);
        if due {
            self.stop(timer);
        }
        due
    }

    pub(crate) fn next(&self) -> Option<Nanos> {
        self.0.iter().copied().min().filter(|at| *at != OFF)
    }
}
