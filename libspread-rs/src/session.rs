//! A session behind a connection, as both faces see it: how it came about, what follows it, when to try again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use spread_wire::{GroupName, PrivateGroup, build};

use crate::address::Address;
use crate::builder::Reconnect;
use crate::error::SendError;
use crate::message::Reconnected;

/// One established session on a socket `S`.
#[derive(Debug)]
pub(crate) struct Link<S> {
    pub(crate) socket: S,
    pub(crate) generation: u64,
    pub(crate) private_group: PrivateGroup,
    pub(crate) own: GroupName,
    pub(crate) version: (u8, u8, u8),
    pub(crate) address: Address,
    /// How it came about; `None` for the first.
    pub(crate) event: Option<Reconnected>,
    /// Bytes that arrived right behind the handshake, until the receiver takes them.
    early: Mutex<BytesMut>,
}

impl<S> Link<S> {
    pub(crate) fn take_early(&self) -> BytesMut {
        std::mem::take(&mut lock(&self.early))
    }
}

/// A session that has just been made.
#[derive(Debug)]
pub(crate) struct New<S> {
    pub(crate) socket: S,
    pub(crate) private_group: PrivateGroup,
    pub(crate) version: (u8, u8, u8),
    pub(crate) address: Address,
    /// Bytes that arrived right behind the handshake.
    pub(crate) early: BytesMut,
}

impl<S> New<S> {
    /// Makes it the first session of a connection.
    pub(crate) fn first(self) -> Link<S> {
        self.link(0, None)
    }

    /// Makes it the session that follows a lost one.
    pub(crate) fn after(self, lost: &Link<S>, gap: Gap) -> Link<S> {
        let event = Reconnected {
            old_private_group: lost.private_group,
            private_group: self.private_group,
            address: self.address.clone(),
            rejoined: gap.rejoined,
            downtime: gap.since.elapsed(),
            attempts: gap.attempts,
            generation: lost.generation + 1,
        };
        self.link(event.generation, Some(event))
    }

    /// Gives the requests to join what was joined before; they go before anything else.
    pub(crate) fn joins(&self, groups: &[GroupName]) -> Vec<u8> {
        let own = self.private_group.as_group();
        groups.iter().flat_map(|group| build::join(&own, group)).collect()
    }

    fn link(self, generation: u64, event: Option<Reconnected>) -> Link<S> {
        Link {
            socket: self.socket,
            generation,
            private_group: self.private_group,
            own: self.private_group.as_group(),
            version: self.version,
            address: self.address,
            event,
            early: Mutex::new(self.early),
        }
    }
}

/// What lies between two sessions.
#[derive(Debug)]
pub(crate) struct Gap {
    /// When the old one was found lost.
    pub(crate) since: Instant,
    pub(crate) attempts: u32,
    pub(crate) rejoined: Vec<GroupName>,
}

/// The groups to be joined again, in order.
pub(crate) fn joined(groups: &Mutex<BTreeSet<GroupName>>) -> Vec<GroupName> {
    lock(groups).iter().copied().collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks with half-made changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses the name of a session where that of a group is wanted (spec: client-protocol 4.2).
pub(crate) fn check_group(group: &GroupName) -> Result<(), SendError> {
    match GroupName::new(group.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(SendError::IllegalGroup { name: group.to_string() }),
    }
}

/// Pauses between attempts: a random part of a limit that doubles.
#[derive(Debug)]
pub(crate) struct Delay {
    limit: Duration,
    max: Duration,
}

impl Delay {
    pub(crate) fn new(policy: &Reconnect) -> Self {
        Self { limit: policy.first_delay.min(policy.max_delay), max: policy.max_delay }
    }

    pub(crate) fn next(&mut self) -> Duration {
        // Half of the limit to all of it: many clients of one daemon do not come back in step.
        let random = RandomState::new().build_hasher().finish() >> 32;
        let part = (1u64 << 32) + random;
        let nanos = u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX);
        let pause = u64::try_from((u128::from(nanos) * u128::from(part)) >> 33).unwrap_or(u64::MAX);
        self.limit = self.limit.saturating_mul(2).min(self.max);
        Duration::from_nanos(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_are_random() {
        let policy = Reconnect {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(350),
            give_up_after: None,
        };
        let mut delay = Delay::new(&policy);
        for limit in [100, 200, 350, 350] {
            let pause = delay.next();
            assert!(pause <= Duration::from_millis(limit), "{pause:?} of {limit}");
            assert!(pause >= Duration::from_millis(limit / 2), "{pause:?} of {limit}");
        }
    }
}
