//! The session behind a connection: shared by its two halves, replaced by a thread when it is lost.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use spread_wire::{GroupName, PrivateGroup, build};
use tracing::{debug, info, warn};

use crate::address::Address;
use crate::blocking::socket::{Deadline, Socket};
use crate::builder::{Config, Reconnect};
use crate::error::ConnectError;
use crate::handshake::Handshake;
use crate::message::Reconnected;

/// One established session.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
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

impl Link {
    pub(crate) fn take_early(&self) -> BytesMut {
        std::mem::take(&mut lock(&self.early))
    }
}

/// Why there is no session.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    /// The time passed before there was a new one.
    TimedOut,
    /// Closed by this side, or lost and not to be made again.
    Closed,
    /// Making it again failed for good.
    Failed(Arc<ConnectError>),
}

#[derive(Debug)]
enum Phase {
    Up(Arc<Link>),
    Connecting,
    Closed,
    Failed(Arc<ConnectError>),
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    phase: Mutex<Phase>,
    changed: Condvar,
    /// What is joined, to be joined again.
    groups: Mutex<BTreeSet<GroupName>>,
}

/// Held by the halves of a connection: when the last is gone, attempts to reconnect end.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks with half-made changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Makes the first session.
    pub(crate) fn connect(config: Config) -> Result<(Arc<Handle>, Arc<Link>), ConnectError> {
        let link = Arc::new(establish(&config)?.link(0, None));
        let shared = Self {
            config,
            phase: Mutex::new(Phase::Up(Arc::clone(&link))),
            changed: Condvar::new(),
            groups: Mutex::default(),
        };
        Ok((Arc::new(Handle(Arc::new(shared))), link))
    }

    pub(crate) fn groups(&self) -> MutexGuard<'_, BTreeSet<GroupName>> {
        lock(&self.groups)
    }

    /// Marks the connection as closed by this side. The session, if there is one, stays as it is.
    pub(crate) fn close(&self) {
        let mut phase = lock(&self.phase);
        if !matches!(*phase, Phase::Failed(_)) {
            *phase = Phase::Closed;
        }
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*lock(&self.phase), Phase::Closed | Phase::Failed(_))
    }

    /// Gives the session that follows the lost one, waiting for it until the deadline.
    pub(crate) fn next(self: &Arc<Self>, lost: &Arc<Link>, deadline: Deadline) -> Result<Arc<Link>, Gone> {
        let mut phase = lock(&self.phase);
        loop {
            match &*phase {
                Phase::Closed => return Err(Gone::Closed),
                Phase::Failed(error) => return Err(Gone::Failed(Arc::clone(error))),
                Phase::Up(link) if link.generation != lost.generation => return Ok(Arc::clone(link)),
                Phase::Up(_) => {
                    // The other half must see the end too, after what it can still read.
                    lost.socket.shutdown();
                    *phase = match &self.config.reconnect {
                        None => Phase::Closed,
                        Some(policy) => self.start(policy.clone(), Arc::clone(lost)),
                    };
                    self.changed.notify_all();
                }
                Phase::Connecting => {
                    phase = match deadline.left() {
                        Some(left) if left.is_zero() => return Err(Gone::TimedOut),
                        Some(left) => {
                            let woken = self.changed.wait_timeout(phase, left);
                            woken.unwrap_or_else(PoisonError::into_inner).0
                        }
                        None => self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner),
                    };
                }
            }
        }
    }

    fn start(self: &Arc<Self>, policy: Reconnect, lost: Arc<Link>) -> Phase {
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("spread-reconnect".into());
        match thread.spawn(move || shared.reconnect(&policy, &lost)) {
            Ok(_) => Phase::Connecting,
            Err(error) => Phase::Failed(Arc::new(ConnectError::Io(error))),
        }
    }

    /// The thread that makes a new session: until it has one, for good or for ill.
    fn reconnect(&self, policy: &Reconnect, lost: &Link) {
        let since = Instant::now();
        let give_up = Deadline::after(policy.give_up_after);
        let mut delay = Delay::new(policy);
        info!(daemon = %lost.address, "The connection to the daemon is lost; reconnecting.");
        for attempts in 1.. {
            let error = match establish(&self.config).and_then(|new| self.rejoin(new)) {
                Ok((new, rejoined)) => {
                    let event = Reconnected {
                        old_private_group: lost.private_group,
                        private_group: new.private_group,
                        address: new.address.clone(),
                        rejoined,
                        downtime: since.elapsed(),
                        attempts,
                        generation: lost.generation + 1,
                    };
                    info!(daemon = %new.address, attempts, "Connected to the daemon again.");
                    let link = Arc::new(new.link(lost.generation + 1, Some(event)));
                    let mut phase = lock(&self.phase);
                    if matches!(*phase, Phase::Connecting) {
                        *phase = Phase::Up(link);
                    }
                    self.changed.notify_all();
                    return;
                }
                Err(error) => error,
            };
            debug!(attempts, %error, "Reconnecting failed.");
            let mut phase = lock(&self.phase);
            if !error.is_transient() || give_up.has_passed() {
                if matches!(*phase, Phase::Connecting) {
                    warn!(attempts, %error, "Reconnecting is given up.");
                    *phase = Phase::Failed(Arc::new(error));
                }
                self.changed.notify_all();
                return;
            }
            let until = Deadline::after(Some(delay.next())).min(give_up);
            while matches!(*phase, Phase::Connecting) {
                let left = until.left().unwrap_or_default();
                if left.is_zero() {
                    break;
                }
                let woken = self.changed.wait_timeout(phase, left);
                phase = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            if !matches!(*phase, Phase::Connecting) {
                return;
            }
        }
    }

    /// Joins on the new session what was joined on the old one, before anything else is sent.
    fn rejoin(&self, new: New) -> Result<(New, Vec<GroupName>), ConnectError> {
        let groups: Vec<_> = self.groups().iter().copied().collect();
        let own = new.private_group.as_group();
        let joins: Vec<u8> = groups.iter().flat_map(|group| build::join(&own, group)).collect();
        let limit = self.config.connect_timeout;
        write_all(&new.socket, &joins, limit, Deadline::after(limit))?;
        Ok((new, groups))
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

/// A session that has just been made.
#[derive(Debug)]
struct New {
    socket: Socket,
    private_group: PrivateGroup,
    version: (u8, u8, u8),
    address: Address,
    early: BytesMut,
}

impl New {
    fn link(self, generation: u64, event: Option<Reconnected>) -> Link {
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

/// Tries the addresses in their order.
fn establish(config: &Config) -> Result<New, ConnectError> {
    let mut last = None;
    for address in &config.addresses {
        match establish_one(config, address) {
            Ok(new) => return Ok(new),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(ConnectError::Closed))
}

fn establish_one(config: &Config, address: &Address) -> Result<New, ConnectError> {
    let limit = config.connect_timeout;
    let deadline = Deadline::after(limit);
    let socket = Socket::connect(address, limit, deadline)?;
    let mut handshake = Handshake::new(config);
    let mut input = BytesMut::new();
    let mut space = [0; 256];
    loop {
        if let Some(established) = handshake.handle_input(&mut input)? {
            return Ok(New {
                socket,
                private_group: established.private_group,
                version: established.version,
                address: address.clone(),
                early: input,
            });
        }
        while let Some(unit) = handshake.poll_transmit() {
            // A daemon that refuses the session says why and closes; the reason may be there to be read although
            // the write fails.
            if let Err(error) = write_all(&socket, &unit, limit, deadline)
                && !matches!(error, ConnectError::Io(_))
            {
                return Err(error);
            }
        }
        if !socket.wait(true, false, deadline).map_err(ConnectError::Io)?.read {
            return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
        }
        match socket.read(&mut space, false) {
            Ok(0) => return Err(ConnectError::Closed),
            Ok(n) => input.extend_from_slice(&space[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(ConnectError::Io(error)),
        }
    }
}

fn write_all(
    socket: &Socket,
    mut bytes: &[u8],
    limit: Option<Duration>,
    deadline: Deadline,
) -> Result<(), ConnectError> {
    while !bytes.is_empty() {
        match socket.write(bytes, false) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !socket.wait(false, true, deadline).map_err(ConnectError::Io)?.write {
                    return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
                }
            }
            Err(error) => return Err(ConnectError::Io(error)),
        }
    }
    Ok(())
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
