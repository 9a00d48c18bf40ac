//! The client for tokio.
//!
//! A task per connection writes what the senders queue, so that messages queued while it writes leave together, and
//! makes the connection again when it is lost. The receiver reads by itself.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_core::Stream;
use spread_wire::{FrameDecoder, GroupName, PrivateGroup, ServiceType, build};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::address::Address;
use crate::blocking::{Delay, set_keepalive};
use crate::builder::{Config, Reconnect};
use crate::error::{ConnectError, ReceiveError, SendError};
use crate::handshake::Handshake;
use crate::message::{Message, Reconnected, illegal};
use crate::outbox::{Outbox, Unsent, frame_bytes};
use crate::service::Service;
use crate::target::Targets;

/// Room a read has at least.
const READ_SPACE: usize = 16 * 1024;
/// Size of a new block for reads.
const READ_BLOCK: usize = 64 * 1024;
/// Pause between attempts on a Unix socket whose daemon has a full backlog.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// How long an orderly end waits for the daemon.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection on a tokio runtime. [`split`](Self::split) it for two tasks.
///
/// Dropping it closes the session; messages that are still queued are lost then.
/// [`disconnect`](Self::disconnect) ends it in order.
///
/// ```no_run
/// use spread::{Builder, Message, Service};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, mut receiver) = Builder::new("4803")?.membership(true).connect().await?.split();
/// let group = "chat".parse()?;
/// sender.join(group).await?;
/// sender.multicast(Service::AGREED, group, 0, "hello").await?;
/// while let Message::Membership(_) = receiver.receive().await? {}
/// sender.disconnect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
}

impl Connection {
    pub(crate) async fn connect(config: Config) -> Result<Self, ConnectError> {
        let link = Arc::new(establish(&config).await?.link(0, None));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                outbox: Outbox::default(),
                link: Arc::clone(&link),
                lost: None,
                ended: None,
                closing: false,
                handed: 0,
                done: 0,
                unsent: Vec::new(),
                resent: 0,
                receiver: None,
            }),
            groups: Mutex::default(),
            work: Notify::new(),
            progress: Notify::new(),
            config,
        });
        tokio::spawn(Driver { shared: Arc::clone(&shared), link: Arc::clone(&link) }.run());
        let handle = Arc::new(Handle(shared));
        let receiver = Receiver {
            handle: Arc::clone(&handle),
            decoder: FrameDecoder::client(),
            buffer: link.take_early(),
            link,
            event: None,
            phase: Phase::Open,
        };
        Ok(Self { sender: Sender { handle }, receiver })
    }

    /// Gives the two directions. The sender can be cloned for more tasks.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Gives the sending half.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Gives the private group of the session, `#name#daemon`.
    pub fn private_group(&self) -> PrivateGroup {
        self.receiver.private_group()
    }

    /// Gives the address of the daemon in use.
    pub fn address(&self) -> &Address {
        &self.receiver.link.address
    }

    /// Gives the version of the daemon: major, minor, patch.
    pub fn daemon_version(&self) -> (u8, u8, u8) {
        self.receiver.link.version
    }

    /// Joins a group; see [`Sender::join`].
    ///
    /// # Errors
    ///
    /// [`SendError`]
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::join`].
    pub async fn join(&self, group: GroupName) -> Result<(), SendError> {
        self.sender.join(group).await
    }

    /// Leaves a group; see [`Sender::leave`].
    ///
    /// # Errors
    ///
    /// [`SendError`]
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::leave`].
    pub async fn leave(&self, group: GroupName) -> Result<(), SendError> {
        self.sender.leave(group).await
    }

    /// Sends a message; see [`Sender::multicast`].
    ///
    /// # Errors
    ///
    /// [`SendError`]
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::multicast`].
    pub async fn multicast(
        &self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.sender.multicast(service, groups, message_type, data).await
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    ///
    /// # Cancel safety
    ///
    /// Safe: no message is lost when the future is dropped.
    pub async fn receive(&mut self) -> Result<Message, ReceiveError> {
        self.receiver.receive().await
    }

    /// Ends the session in order: writes what is queued, tells the daemon, and waits until the daemon has closed the
    /// session, so that its private name is free again; at most 5 s for each. Messages that arrive meanwhile are
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`SendError`] if queued messages could not be written. The connection is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the session ends without order.
    pub async fn disconnect(self) -> Result<(), SendError> {
        let Self { sender, mut receiver } = self;
        sender.disconnect().await?;
        let drained = async { while receiver.receive().await.is_ok() {} };
        // The daemon not closing in time changes nothing for us.
        let _ = timeout(DISCONNECT_LIMIT, drained).await;
        Ok(())
    }
}

impl Stream for Connection {
    type Item = Result<Message, ReceiveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

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
    /// has arrived, then [`ReceiveError::Closed`]. Other clones give [`SendError::Closed`].
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

    fn shared(&self) -> &Arc<Shared> {
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
        if !was_empty && state.outbox.len() + len > shared.config.queue_bytes {
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

fn check_group(group: &GroupName) -> Result<(), SendError> {
    // spec: client-protocol 4.2
    match GroupName::new(group.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(SendError::IllegalGroup { name: group.to_string() }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The session is lost and the next one not yet there.
    Lost,
    /// An error was given; there is nothing more.
    Failed,
}

/// The receiving half. Also a [`Stream`], which ends after its first error.
#[derive(Debug)]
pub struct Receiver {
    handle: Arc<Handle>,
    link: Arc<Link>,
    decoder: FrameDecoder,
    buffer: BytesMut,
    event: Option<Reconnected>,
    phase: Phase,
}

impl Receiver {
    /// Gives the private group of the session this half reads from.
    pub fn private_group(&self) -> PrivateGroup {
        self.link.private_group
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]: the connection is gone for good; later calls give [`ReceiveError::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Safe: no message is lost when the future is dropped.
    pub async fn receive(&mut self) -> Result<Message, ReceiveError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Gives the next message if it has arrived and was read already; makes no system call.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<Message>, ReceiveError> {
        self.buffered()
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ReceiveError>> {
        loop {
            if let Some(message) = self.buffered()? {
                return Poll::Ready(Ok(message));
            }
            match self.phase {
                Phase::Failed => return Poll::Ready(Err(ReceiveError::Closed)),
                Phase::Lost => ready!(self.poll_next_link(cx, None))?,
                Phase::Open => {
                    let wanted = self.decoder.wanted(self.buffer.len());
                    if self.buffer.capacity() - self.buffer.len() < READ_SPACE.max(wanted) {
                        self.buffer.reserve(READ_BLOCK.max(wanted));
                    }
                    match ready!(self.link.socket.poll_read(cx, &mut self.buffer)) {
                        Ok(0) => ready!(self.poll_next_link(cx, None))?,
                        Ok(_) => {}
                        Err(error) => ready!(self.poll_next_link(cx, Some(error)))?,
                    }
                }
            }
        }
    }

    #[inline]
    fn buffered(&mut self) -> Result<Option<Message>, ReceiveError> {
        if let Some(event) = self.event.take() {
            return Ok(Some(Message::Reconnected(event)));
        }
        if self.phase != Phase::Open {
            return Ok(None);
        }
        let message = match self.decoder.decode(&mut self.buffer) {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => Message::from_frame(frame, &self.link.own),
            Err(error) => Err(illegal(error)),
        };
        match message {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                self.phase = Phase::Failed;
                self.handle.0.end(End::Closed);
                Err(error)
            }
        }
    }

    /// Waits for the session that follows the lost one.
    #[cold]
    fn poll_next_link(
        &mut self,
        cx: &mut Context<'_>,
        error: Option<io::Error>,
    ) -> Poll<Result<(), ReceiveError>> {
        self.phase = Phase::Lost;
        let shared = &self.handle.0;
        let mut state = shared.state();
        if let Some(end) = &state.ended {
            self.phase = Phase::Failed;
            return Poll::Ready(Err(match (end, error) {
                (End::Failed(error), _) => ReceiveError::Reconnect(Arc::clone(error)),
                (End::Lost(kind), _) if *kind != io::ErrorKind::UnexpectedEof => {
                    ReceiveError::Io((*kind).into())
                }
                _ => ReceiveError::Closed,
            }));
        }
        if state.link.generation != self.link.generation {
            let link = Arc::clone(&state.link);
            drop(state);
            // Part of a message of the old session means nothing in the new one.
            self.decoder = FrameDecoder::client();
            self.buffer = link.take_early();
            self.event.clone_from(&link.event);
            self.link = link;
            self.phase = Phase::Open;
            return Poll::Ready(Ok(()));
        }
        let kind = error.map_or(io::ErrorKind::UnexpectedEof, |error| error.kind());
        if state.lost.is_none() {
            state.lost = Some((self.link.generation, kind));
            // Wakes a writer that waits for room.
            self.link.socket.shutdown();
            shared.work.notify_one();
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Stream for Receiver {
    type Item = Result<Message, ReceiveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.phase == Phase::Failed {
            return Poll::Ready(None);
        }
        self.poll_receive(cx).map(Some)
    }
}

/// Why the connection is gone for good.
#[derive(Clone, Debug)]
enum End {
    /// Closed by this side.
    Closed,
    /// Closed by the daemon (`UnexpectedEof`) or broken, and not to be made again.
    Lost(io::ErrorKind),
    /// Making it again failed for good.
    Failed(Arc<ConnectError>),
}

impl End {
    fn send_error(&self) -> SendError {
        match self {
            Self::Closed | Self::Lost(io::ErrorKind::UnexpectedEof) => SendError::Closed,
            Self::Lost(kind) => SendError::Io((*kind).into()),
            Self::Failed(error) => SendError::Reconnect(Arc::clone(error)),
        }
    }
}

#[derive(Debug)]
struct State {
    /// What the driver takes next.
    outbox: Outbox,
    link: Arc<Link>,
    /// The session the receiver found lost, and how.
    lost: Option<(u64, io::ErrorKind)>,
    ended: Option<End>,
    /// The queue is to be written, then the session to be ended.
    closing: bool,
    /// Times the driver took the outbox, and times it was done with what it took.
    handed: u64,
    done: u64,
    /// What the driver had taken and not wholly written at the end.
    unsent: Vec<Unsent>,
    resent: u64,
    receiver: Option<Waker>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    groups: Mutex<BTreeSet<GroupName>>,
    /// Wakes the driver.
    work: Notify,
    /// Wakes senders: there is room, or the end.
    progress: Notify,
}

/// Held by the halves of a connection: when the last is gone, the session ends.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end(End::Closed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks with half-made changes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn groups(&self) -> MutexGuard<'_, BTreeSet<GroupName>> {
        lock(&self.groups)
    }

    /// Ends the connection for good, unless it has ended.
    fn end(&self, end: End) {
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

/// What the driver has to do next.
enum Task {
    Write,
    Kill,
    Lost(io::ErrorKind),
    End,
    Wait,
}

/// The task that writes, and that makes the session again.
struct Driver {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Drop for Driver {
    /// Whatever ends the task, a runtime that shuts down included, nobody waits for it any longer.
    fn drop(&mut self) {
        self.shared.end(End::Closed);
    }
}

impl Driver {
    async fn run(mut self) {
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
        Ok(())
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
                    let event = Reconnected {
                        old_private_group: lost.private_group,
                        private_group: new.private_group,
                        address: new.address.clone(),
                        rejoined,
                        downtime: since.elapsed(),
                        attempts,
                        generation: lost.generation + 1,
                    };
                    return Ok(new.link(lost.generation + 1, Some(event)));
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
        let groups: Vec<_> = self.shared.groups().iter().copied().collect();
        let own = new.private_group.as_group();
        let joins: Vec<u8> = groups.iter().flat_map(|group| build::join(&own, group)).collect();
        limited(self.shared.config.connect_timeout, async {
            new.socket.write_all(&joins).await.map_err(ConnectError::Io)
        })
        .await?;
        Ok((new, groups))
    }
}

/// One established session.
#[derive(Debug)]
struct Link {
    socket: Socket,
    generation: u64,
    private_group: PrivateGroup,
    own: GroupName,
    version: (u8, u8, u8),
    address: Address,
    /// How it came about; `None` for the first.
    event: Option<Reconnected>,
    /// Bytes that arrived right behind the handshake, until the receiver takes them.
    early: Mutex<BytesMut>,
}

impl Link {
    fn take_early(&self) -> BytesMut {
        std::mem::take(&mut lock(&self.early))
    }
}

/// A session that has just been made.
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

async fn limited<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or(Err(ConnectError::TimedOut { limit })),
    }
}

/// Tries the addresses in their order.
async fn establish(config: &Config) -> Result<New, ConnectError> {
    let mut last = None;
    for address in &config.addresses {
        match limited(config.connect_timeout, establish_one(config, address)).await {
            Ok(new) => return Ok(new),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(ConnectError::Closed))
}

async fn establish_one(config: &Config, address: &Address) -> Result<New, ConnectError> {
    let socket = Socket::connect(address).await?;
    let mut handshake = Handshake::new(config);
    let mut input = BytesMut::new();
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
            let _ = socket.write_all(&unit).await;
        }
        input.reserve(256);
        match poll_fn(|cx| socket.poll_read(cx, &mut input)).await {
            Ok(0) => return Err(ConnectError::Closed),
            Ok(_) => {}
            Err(error) => return Err(ConnectError::Io(error)),
        }
    }
}

/// A connected stream socket.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn connect(address: &Address) -> Result<Self, ConnectError> {
        match address {
            Address::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return Ok(Self::Unix(stream)),
                    // The backlog is full; the system offers no way to wait for it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
                    Err(source) => {
                        return Err(ConnectError::Connect { address: path.display().to_string(), source });
                    }
                }
            },
            Address::Tcp { host, port } => {
                let addrs = tokio::net::lookup_host((host.as_str(), *port))
                    .await
                    .map_err(|source| ConnectError::Resolve { host: host.clone(), source })?;
                let mut last = ConnectError::Resolve {
                    host: host.clone(),
                    source: io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
                };
                for addr in addrs {
                    match TcpStream::connect(addr).await {
                        Ok(stream) => {
                            // Options that fail cost speed, not correctness.
                            let _ = stream.set_nodelay(true);
                            let _ = set_keepalive(&stream);
                            return Ok(Self::Tcp(stream));
                        }
                        Err(source) => {
                            last = ConnectError::Connect { address: format!("{port}@{}", addr.ip()), source };
                        }
                    }
                }
                Err(last)
            }
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let result = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buffer)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buffer)
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends both directions. Bytes that have arrived can still be read.
    fn shutdown(&self) {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{Shutdown, shutdown};
        let fd = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        };
        // Fails only when the connection is gone already.
        let _ = shutdown(fd, Shutdown::Both);
    }
}
