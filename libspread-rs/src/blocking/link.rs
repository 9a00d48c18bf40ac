//! The session behind a connection: shared by its two halves, replaced by a thread when it is lost.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use spread_wire::GroupName;
use tracing::{debug, info, warn};

use crate::address::Address;
use crate::blocking::socket::{Deadline, Socket};
use crate::builder::{Config, Reconnect};
use crate::error::ConnectError;
use crate::handshake::Handshake;
use crate::session::{self, Delay, Gap, joined, lock};

pub(crate) type Link = session::Link<Socket>;
type New = session::New<Socket>;

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

impl Shared {
    /// Makes the first session.
    pub(crate) fn connect(config: Config) -> Result<(Arc<Handle>, Arc<Link>), ConnectError> {
        let link = Arc::new(establish(&config)?.first());
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
                    info!(daemon = %new.address, attempts, "Connected to the daemon again.");
                    let link = Arc::new(new.after(lost, Gap { since, attempts, rejoined }));
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
        let groups = joined(&self.groups);
        let joins = new.joins(&groups);
        let limit = self.config.connect_timeout;
        write_all(&new.socket, &joins, limit, Deadline::after(limit))?;
        Ok((new, groups))
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
    let socket = Socket::connect(config, address, deadline)?;
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
    if !socket.flush(deadline).map_err(ConnectError::Io)? {
        return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
    }
    Ok(())
}
