//! What the two halves and the task of a connection know of each other.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use spread_wire::GroupName;
use tokio::sync::Notify;

use crate::builder::Config;
use crate::error::{ConnectError, SendError};
use crate::outbox::{Outbox, Unsent};
use crate::session::lock;
use crate::tokio_face::socket::Link;

/// Why the connection is gone for good.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Closed by this side.
    Closed,
    /// Closed by the daemon (`UnexpectedEof`) or broken, and not to be made again.
    Lost(io::ErrorKind),
    /// Making it again failed for good.
    Failed(Arc<ConnectError>),
}

impl End {
    pub(super) fn send_error(&self) -> SendError {
        match self {
            Self::Closed | Self::Lost(io::ErrorKind::UnexpectedEof) => SendError::Closed,
            Self::Lost(kind) => SendError::Io((*kind).into()),
            Self::Failed(error) => SendError::Reconnect(Arc::clone(error)),
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    /// What the driver takes next.
    pub(super) outbox: Outbox,
    pub(super) link: Arc<Link>,
    /// The session the receiver found lost, and how.
    pub(super) lost: Option<(u64, io::ErrorKind)>,
    pub(super) ended: Option<End>,
    /// The queue is to be written, then the session to be ended.
    pub(super) closing: bool,
    /// Times the driver took the outbox, and times it was done with what it took.
    pub(super) handed: u64,
    pub(super) done: u64,
    /// What the driver had taken and not wholly written at the end.
    pub(super) unsent: Vec<Unsent>,
    pub(super) resent: u64,
    pub(super) receiver: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) state: Mutex<State>,
    pub(super) groups: Mutex<BTreeSet<GroupName>>,
    /// Wakes the driver.
    pub(super) work: Notify,
    /// Wakes senders: there is room, or the end.
    pub(super) progress: Arc<Notify>,
}

/// Held by the halves of a connection: when the last is gone, the session ends.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end(End::Closed);
    }
}

impl Shared {
    pub(super) fn new(config: Config, link: Arc<Link>) -> Self {
        let state = State {
            outbox: Outbox::default(),
            link,
            lost: None,
            ended: None,
            closing: false,
            handed: 0,
            done: 0,
            unsent: Vec::new(),
            resent: 0,
            receiver: None,
        };
        Self {
            config,
            state: Mutex::new(state),
            groups: Mutex::default(),
            work: Notify::new(),
            progress: Arc::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, BTreeSet<GroupName>> {
        lock(&self.groups)
    }

    /// Tells whether fewer bytes than the limit are queued, or that nothing can be queued any more; `None`: no room.
    pub(super) fn has_room(&self) -> Option<Result<(), SendError>> {
        let state = self.state();
        match &state.ended {
            Some(end) => Some(Err(end.send_error())),
            None if state.closing => Some(Err(SendError::Closed)),
            None => (state.outbox.len() < self.config.queue_bytes).then_some(Ok(())),
        }
    }

    /// Ends the connection for good, unless it has ended.
    pub(super) fn end(&self, end: End) {
        let mut state = self.state();
        state.ended.get_or_insert(end);
        state.link.socket.shutdown();
        let waker = state.receiver.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.work.notify_one();
        self.progress.notify_waiters();
    }
}
