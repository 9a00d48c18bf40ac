//! The task of a connection.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use spread_wire::{GroupName, build};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::builder::Reconnect;
use crate::error::ConnectError;
use crate::outbox::Outbox;
use crate::session::{Delay, Gap, joined};
use crate::tokio_face::DISCONNECT_LIMIT;
use crate::tokio_face::shared::{End, Shared};
use crate::tokio_face::socket::{Link, New, establish, limited};

/// What the driver has to do next.
enum Task {
    Write,
    Kill,
    Lost(io::ErrorKind),
    End,
    Wait,
}

/// The task that writes, and that makes the session again.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
}

impl Drop for Driver {
    /// Whatever ends the task, a runtime that shuts down included, nobody waits for it any longer.
    fn drop(&mut self) {
        self.shared.end(End::Closed);
    }
}

impl Driver {
    pub(super) async fn run(mut self) {
        let mut writing = Outbox::default();
        loop {
            let end = match self.next_task(&mut writing) {
                Task::Wait => {
                    self.shared.work.notified().await;
                    continue;
                }
                Task::Write => match self.write(&mut writing).await {
                    Ok(()) => {
                        self.shared.state().done += 1;
                        self.shared.progress.notify_waiters();
                        continue;
                    }
                    Err(error) => self.replace_link(&mut writing, error.kind()).await,
                },
                Task::Lost(kind) => self.replace_link(&mut writing, kind).await,
                Task::Kill => {
                    let kill = build::kill(&self.link.own);
                    // If the session is gone already, so much the better.
                    let _ = timeout(DISCONNECT_LIMIT, self.link.socket.write_all(&kill)).await;
                    Some(End::Closed)
                }
                Task::End => Some(End::Closed),
            };
            if let Some(end) = end {
                self.shared.state().unsent = writing.drain();
                self.shared.end(end);
                return;
            }
        }
    }

    fn next_task(&self, writing: &mut Outbox) -> Task {
        let mut state = self.shared.state();
        if state.ended.is_some() {
            return Task::End;
        }
        match state.lost {
            Some((generation, kind)) if generation == self.link.generation => return Task::Lost(kind),
            _ => state.lost = None,
        }
        if !writing.is_empty() {
            return Task::Write;
        }
        if !state.outbox.is_empty() {
            std::mem::swap(&mut state.outbox, writing);
            state.handed += 1;
            drop(state);
            // There is room again.
            self.shared.progress.notify_waiters();
            return Task::Write;
        }
        if state.closing { Task::Kill } else { Task::Wait }
    }

    /// Writes all of it, but gives up when the receiver has found the session lost or the connection has ended.
    async fn write(&self, writing: &mut Outbox) -> io::Result<()> {
        while !writing.is_empty() {
            match self.link.socket.try_write(writing.unwritten()) {
                Ok(n) => writing.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A lost session makes the socket writable: writing to it fails.
                    self.link.socket.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.link.socket.flush().await
    }

    /// Makes a new session in place of the lost one; gives the end if that is not to be.
    async fn replace_link(&mut self, writing: &mut Outbox, kind: io::ErrorKind) -> Option<End> {
        let shared = Arc::clone(&self.shared);
        // The receiver must see the end too, after what it can still read.
        self.link.socket.shutdown();
        if shared.state().ended.is_some() {
            return Some(End::Closed);
        }
        let Some(policy) = &shared.config.reconnect else { return Some(End::Lost(kind)) };
        let link = {
            let connecting = self.reconnect(policy);
            tokio::pin!(connecting);
            loop {
                let ended = shared.work.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if shared.state().ended.is_some() {
                    return Some(End::Closed);
                }
                // Whichever comes first.
                let result = poll_fn(|cx| {
                    if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
                        return Poll::Ready(Some(result));
                    }
                    ended.as_mut().poll(cx).map(|()| None)
                })
                .await;
                match result {
                    Some(Ok(link)) => break Arc::new(link),
                    Some(Err(error)) => return Some(End::Failed(Arc::new(error))),
                    None => {}
                }
            }
        };
        let mut state = shared.state();
        // What was taken goes first, then what was queued since: both under the new name.
        let resent = writing.rewind(&link.own) + state.outbox.rewind(&link.own);
        state.resent += resent as u64;
        state.lost = None;
        state.link = Arc::clone(&link);
        self.link = link;
        let waker = state.receiver.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        // What was wholly written counts as done, if nothing is left of it.
        if writing.is_empty() {
            let mut state = shared.state();
            state.done = state.handed;
            drop(state);
            shared.progress.notify_waiters();
        }
        None
    }

    async fn reconnect(&self, policy: &Reconnect) -> Result<Link, ConnectError> {
        let lost = &self.link;
        let since = Instant::now();
        let mut delay = Delay::new(policy);
        info!(daemon = %lost.address, "The connection to the daemon is lost; reconnecting.");
        let mut attempts = 0;
        loop {
            attempts += 1;
            let result = match establish(&self.shared.config).await {
                Ok(new) => self.rejoin(new).await,
                Err(error) => Err(error),
            };
            let error = match result {
                Ok((new, rejoined)) => {
                    info!(daemon = %new.address, attempts, "Connected to the daemon again.");
                    return Ok(new.after(lost, Gap { since, attempts, rejoined }));
                }
                Err(error) => error,
            };
            debug!(attempts, %error, "Reconnecting failed.");
            let pause = delay.next();
            let in_time = policy.give_up_after.is_none_or(|limit| since.elapsed() + pause < limit);
            if !error.is_transient() || !in_time {
                warn!(attempts, %error, "Reconnecting is given up.");
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Joins on the new session what was joined on the old one, before anything else is sent.
    async fn rejoin(&self, new: New) -> Result<(New, Vec<GroupName>), ConnectError> {
        let groups = joined(&self.shared.groups);
        let joins = new.joins(&groups);
        limited(self.shared.config.connect_timeout, async {
            new.socket.write_all(&joins).await.map_err(ConnectError::Io)
        })
        .await?;
        Ok((new, groups))
    }
}
