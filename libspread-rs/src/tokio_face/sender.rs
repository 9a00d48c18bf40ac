//! The sending half.

use std::sync::Arc;

use spread_wire::{GroupName, PrivateGroup, ServiceType};
use tokio::time::timeout;

use crate::error::SendError;
use crate::outbox::{Unsent, frame_bytes};
use crate::service::Service;
use crate::session::check_group;
use crate::target::Targets;
use crate::tokio_face::DISCONNECT_LIMIT;
use crate::tokio_face::shared::{End, Handle, Shared, State};
use crate::tokio_face::sink::MessageSink;

/// The sending half. Clones share the session; each message leaves whole.
///
/// A message is queued at once and written by the connection's own task as soon as it runs; messages queued until then
/// leave with the same system call. When [`Builder::queue_bytes`](crate::Builder::queue_bytes) are queued, sends wait:
/// that is the back-pressure of the daemon.
#[derive(Clone, Debug)]
pub struct Sender {
    handle: Arc<Handle>,
}

impl Sender {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Gives this half as a [`Sink`](futures_sink::Sink) of messages.
    pub fn into_sink(self) -> MessageSink {
        MessageSink::new(self)
    }

    /// Gives the private group of the session in use.
    pub fn private_group(&self) -> PrivateGroup {
        self.shared().state().link.private_group
    }

    /// Joins a group. With membership messages, the view that shows this session as a member follows; joining twice
    /// has no effect.
    ///
    /// # Errors
    ///
    /// [`SendError::IllegalGroup`] for the name of a session; [`SendError::Closed`], [`SendError::Io`],
    /// [`SendError::Reconnect`]: the connection is gone for good.
    ///
    /// # Cancel safety
    ///
    /// Safe: if the future is dropped before it is ready, nothing was queued.
    pub async fn join(&self, group: GroupName) -> Result<(), SendError> {
        check_group(&group)?;
        self.queue_when_room(ServiceType::JOIN, &[group], 0, &[], |shared| {
            shared.groups().insert(group);
        })
        .await
    }

    /// Leaves a group. With membership messages, a self-leave message follows; leaving a group one is not in has no
    /// effect.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    ///
    /// # Cancel safety
    ///
    /// Safe: if the future is dropped before it is ready, nothing was queued.
    pub async fn leave(&self, group: GroupName) -> Result<(), SendError> {
        check_group(&group)?;
        self.queue_when_room(ServiceType::LEAVE, &[group], 0, &[], |shared| {
            shared.groups().remove(&group);
        })
        .await
    }

    /// Sends a message to one or many groups, of which this session need not be a member. `message_type` is a number
    /// for the application.
    ///
    /// When it returns, the message is queued and will be written without further ado. [`flush`](Self::flush) waits
    /// for that.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLong`], [`SendError::TooManyGroups`]; [`SendError::Closed`], [`SendError::Io`],
    /// [`SendError::Reconnect`]: the connection is gone for good. The message is not queued then.
    ///
    /// # Cancel safety
    ///
    /// Safe: if the future is dropped before it is ready, nothing was queued.
    pub async fn multicast(
        &self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.queue_when_room(service.into(), groups.names(), message_type, data.as_ref(), |_| ()).await
    }

    /// Does the same as [`multicast`](Self::multicast) without waiting.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`] if there is no room; otherwise as for [`multicast`](Self::multicast).
    pub fn try_multicast(
        &self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        let (groups, data) = (groups.names(), data.as_ref());
        match self.try_queue(service.into(), groups, message_type, data, &mut |_| ())? {
            true => Ok(()),
            false => Err(SendError::TimedOut),
        }
    }

    /// Waits until all that was queued is written.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], [`SendError::Io`], [`SendError::Reconnect`]: the connection is gone for good.
    ///
    /// # Cancel safety
    ///
    /// Safe: the messages are written in any case.
    pub async fn flush(&self) -> Result<(), SendError> {
        let mut target = None;
        loop {
            let progress = self.shared().progress.notified();
            tokio::pin!(progress);
            // From here on a wake-up is not missed.
            progress.as_mut().enable();
            {
                let state = self.shared().state();
                if let Some(end) = &state.ended {
                    let written = state.unsent.is_empty() && state.outbox.is_empty();
                    return if written && matches!(end, End::Closed) {
                        Ok(())
                    } else {
                        Err(end.send_error())
                    };
                }
                let target =
                    *target.get_or_insert_with(|| state.handed + u64::from(!state.outbox.is_empty()));
                if state.done >= target {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    /// Gives the number of messages that were queued at losses of the connection and were queued again for the session
    /// that followed.
    pub fn resent_total(&self) -> u64 {
        self.shared().state().resent
    }

    /// Takes the messages out of the queue that were not wholly handed to the system, oldest first: none of them has
    /// been or will be delivered. Gives nothing before the connection is gone for good.
    pub fn take_unsent(&self) -> Vec<Unsent> {
        let mut state = self.shared().state();
        if state.ended.is_none() {
            return Vec::new();
        }
        let mut unsent = std::mem::take(&mut state.unsent);
        unsent.extend(state.outbox.drain());
        unsent
    }

    /// Ends the session in order: writes what is queued and tells the daemon, for at most 5 s. The receiver gives what
    /// has arrived, then [`ReceiveError::Closed`](crate::ReceiveError::Closed). Other clones give [`SendError::Closed`].
    ///
    /// # Errors
    ///
    /// [`SendError`] if queued messages could not be written. The connection is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the session still ends.
    pub async fn disconnect(self) -> Result<(), SendError> {
        let shared = self.shared();
        shared.state().closing = true;
        shared.work.notify_one();
        let ended = async {
            loop {
                let progress = shared.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                if let Some(end) = &shared.state().ended {
                    return end.clone();
                }
                progress.await;
            }
        };
        let end = timeout(DISCONNECT_LIMIT, ended).await;
        shared.end(End::Closed);
        let state = shared.state();
        match end {
            Err(_) => Err(SendError::TimedOut),
            Ok(_) if state.unsent.is_empty() && state.outbox.is_empty() => Ok(()),
            Ok(end) => Err(end.send_error()),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }

    async fn queue_when_room(
        &self,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
        mut then: impl FnMut(&Shared),
    ) -> Result<(), SendError> {
        if self.try_queue(service, groups, message_type, data, &mut then)? {
            return Ok(());
        }
        loop {
            let progress = self.shared().progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.try_queue(service, groups, message_type, data, &mut then)? {
                return Ok(());
            }
            progress.await;
        }
    }

    /// Queues the message if there is room, and then does `then`.
    fn try_queue(
        &self,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
        then: &mut impl FnMut(&Shared),
    ) -> Result<bool, SendError> {
        let limit = self.shared().config.queue_bytes;
        self.queue_up_to(limit, service, groups, message_type, data, then)
    }

    /// Queues the message, whether there is room or not.
    pub(super) fn queue(
        &self,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
    ) -> Result<(), SendError> {
        self.queue_up_to(usize::MAX, service, groups, message_type, data, &mut |_| ()).map(|_| ())
    }

    /// Queues the message if no more than `limit` bytes are queued then, and then does `then`.
    fn queue_up_to(
        &self,
        limit: usize,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
        then: &mut impl FnMut(&Shared),
    ) -> Result<bool, SendError> {
        let shared = self.shared();
        let mut state = shared.state();
        if let Some(end) = &state.ended {
            return Err(end.send_error());
        }
        if state.closing {
            return Err(SendError::Closed);
        }
        let len = frame_bytes(groups.len(), data.len());
        let was_empty = state.outbox.is_empty();
        if !was_empty && state.outbox.len() + len > limit {
            return Ok(false);
        }
        let State { outbox, link, .. } = &mut *state;
        outbox.push(&link.own, service, groups, message_type, data)?;
        then(shared);
        drop(state);
        if was_empty {
            shared.work.notify_one();
        }
        Ok(true)
    }
}
