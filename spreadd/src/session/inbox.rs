//! What the sessions hand to the ring thread.
//!
//! One queue for the whole daemon. Requests need room first: a session reads a batch, waits for room and
//! only then puts it in, so while the ring is behind, no session reads on (spec: client-protocol 6.1) and each
//! holds at most one read buffer. Room is given out in the order it is asked for: no session starves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use spread_groups::SessionId;
use spread_wire::Frame;
use tokio::sync::Semaphore;

use super::outbox::Outbox;
use super::policy::Client;
use super::registry::Seat;

/// What a queued request counts beside its own bytes: the memory around it.
const REQUEST_OVERHEAD: usize = 128;

/// From a session to the ring thread, in the session's order.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client is authenticated. The ring thread keeps its seat until the removal is delivered.
    Connect { seat: Seat, client: Client, membership: bool, outbox: Arc<Outbox> },
    /// Checked requests, in order. None of them is a KILL.
    Requests { id: SessionId, frames: Vec<Frame> },
    /// The client is gone, by its own request (`kill`) or otherwise.
    Disconnect { id: SessionId, kill: bool },
}

/// The queue, and the room in it.
pub(crate) struct Inbox {
    commands: Mutex<VecDeque<Command>>,
    room: Semaphore,
    capacity: usize,
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Inbox {
    /// A queue for requests of `capacity` bytes in all, [`cost`] each.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { commands: Mutex::default(), room: Semaphore::new(capacity), capacity, waker: OnceLock::new() }
    }

    /// Sets how the ring thread is woken. Only the first call counts.
    pub(crate) fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(waker));
    }

    /// Puts in a command that is not `Requests`. There are at most two per session.
    pub(crate) fn push(&self, command: Command) {
        let was_empty = {
            let mut commands = self.lock();
            commands.push_back(command);
            commands.len() == 1
        };
        if was_empty {
            self.wake();
        }
    }

    /// Wakes the ring thread.
    pub(crate) fn wake(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }

    /// Waits for room and puts in a batch of requests of one session.
    ///
    /// # Cancel safety
    /// When dropped before it ends, the batch is lost: for a session that ends anyway.
    pub(crate) async fn submit(&self, id: SessionId, frames: Vec<Frame>) {
        let batch_cost = frames.iter().map(cost).sum::<usize>().min(self.capacity);
        let permits = u32::try_from(batch_cost).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        if let Ok(room) = self.room.acquire_many(permits).await {
            room.forget();
        }
        self.push(Command::Requests { id, frames });
    }

    /// Gives back the room of a batch that the ring has taken or that is dropped.
    pub(crate) fn free(&self, batch_cost: usize) {
        if batch_cost > 0 {
            self.room.add_permits(batch_cost);
        }
    }

    /// The cost of a whole batch as [`submit`](Self::submit) took it.
    pub(crate) fn batch_cost(&self, frames: &[Frame]) -> usize {
        frames.iter().map(cost).sum::<usize>().min(self.capacity)
    }

    /// Exchanges all queued commands for the empty `taken`.
    pub(crate) fn take(&self, taken: &mut VecDeque<Command>) {
        debug_assert!(taken.is_empty());
        std::mem::swap(&mut *self.lock(), taken);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request counts in the queue.
fn cost(frame: &Frame) -> usize {
    frame.raw().len() + REQUEST_OVERHEAD
}
