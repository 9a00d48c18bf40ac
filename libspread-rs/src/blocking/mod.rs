//! The client for plain threads: no runtime, no thread of its own (but while it reconnects).
//!
//! ```no_run
//! use spread::{Builder, Message, Service};
//!
//! let (mut sender, mut receiver) = Builder::new("4803")?.private_name("me")?.connect_blocking()?.split();
//! let group = "numbers".parse()?;
//! sender.join(group)?;
//! let reader = std::thread::spawn(move || {
//!     for _ in 0..1000 {
//!         if let Message::Data(data) = receiver.receive()? {
//!             println!("{:?}", data.payload());
//!         }
//!     }
//!     Ok::<_, spread::ReceiveError>(())
//! });
//! for i in 0..1000_u32 {
//!     sender.enqueue(Service::AGREED, group, 1, i.to_le_bytes())?;
//! }
//! sender.flush()?;
//! reader.join().expect("the reader does not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod link;
mod read;
mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use spread_wire::{FrameDecoder, GroupName, PrivateGroup, ServiceType};

use crate::address::Address;
use crate::builder::Config;
use crate::error::{ConnectError, ReceiveError, SendError};
use crate::message::{Message, Reconnected, illegal};
use crate::outbox::{Outbox, Unsent, frame_bytes};
use crate::service::Service;
use crate::target::Targets;
use link::{Gone, Handle, Link, Shared};
use read::ReadBuffer;
use socket::Deadline;

#[cfg(feature = "tokio")]
pub(crate) use link::Delay;
#[cfg(feature = "tokio")]
pub(crate) use socket::set_keepalive;

/// How long an orderly end waits for the daemon when no limit for sends is set.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection that one thread uses in both directions; [`split`](Self::split) it for two.
///
/// Dropping it closes the socket: the other members see the session disconnect, and queued messages are lost.
/// [`disconnect`](Self::disconnect) ends it in order.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
}

impl Connection {
    pub(crate) fn connect(config: Config) -> Result<Self, ConnectError> {
        let (handle, link) = Shared::connect(config)?;
        let receiver = Receiver {
            handle: Arc::clone(&handle),
            link: Arc::clone(&link),
            decoder: FrameDecoder::client(),
            buffer: ReadBuffer::new(link.take_early()),
            event: None,
            state: ReceiverState::Open,
        };
        let limit = handle.0.config.send_timeout;
        let sender = Sender { handle, link, outbox: Outbox::default(), limit, resent: 0, failed: false };
        Ok(Self { sender, receiver })
    }

    /// Gives the two directions, for two threads.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Gives the sending half.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// Gives the receiving half. Unlike [`receive`](Self::receive) its methods do not write what is queued.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// Gives the private group of the session, `#name#daemon`.
    pub fn private_group(&self) -> PrivateGroup {
        self.receiver.private_group()
    }

    /// Gives the address of the daemon in use.
    pub fn address(&self) -> &Address {
        self.receiver.address()
    }

    /// Gives the version of the daemon: major, minor, patch.
    pub fn daemon_version(&self) -> (u8, u8, u8) {
        self.receiver.link.version
    }

    /// Joins a group; see [`Sender::join`].
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn join(&mut self, group: GroupName) -> Result<(), SendError> {
        self.sender.join(group)
    }

    /// Leaves a group; see [`Sender::leave`].
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn leave(&mut self, group: GroupName) -> Result<(), SendError> {
        self.sender.leave(group)
    }

    /// Sends a message; see [`Sender::multicast`].
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn multicast(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.sender.multicast(service, groups, message_type, data)
    }

    /// Queues a message; see [`Sender::enqueue`]. A receive that has to wait writes the queue too.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn enqueue(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.sender.enqueue(service, groups, message_type, data)
    }

    /// Writes all that is queued; see [`Sender::flush`].
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.sender.flush()
    }

    /// Waits for the next message. What is queued is written meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn receive(&mut self) -> Result<Message, ReceiveError> {
        loop {
            if let Some(message) = self.receive_until(Deadline::NEVER)? {
                return Ok(message);
            }
        }
    }

    /// Waits for the next message for at most `limit`; `None` when it has passed. What is queued is written meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn receive_timeout(&mut self, limit: Duration) -> Result<Option<Message>, ReceiveError> {
        self.receive_until(Deadline::after(Some(limit)))
    }

    /// Gives the next message if it has arrived.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn try_receive(&mut self) -> Result<Option<Message>, ReceiveError> {
        self.receive_timeout(Duration::ZERO)
    }

    fn receive_until(&mut self, deadline: Deadline) -> Result<Option<Message>, ReceiveError> {
        loop {
            if let Some(message) = self.receiver.buffered()? {
                return Ok(Some(message));
            }
            // A loss that shows in a write shows in the read below as well, which deals with it.
            let pending = self.sender.write_now();
            if self.receiver.state != ReceiverState::Open || !pending {
                match self.receiver.fill(deadline)? {
                    Filled::Bytes => continue,
                    Filled::Nothing => return Ok(None),
                }
            }
            let ready = self.receiver.link.socket.wait(true, true, deadline).map_err(ReceiveError::Io)?;
            if ready.read {
                self.receiver.fill(Deadline::after(Some(Duration::ZERO)))?;
            } else if !ready.write {
                return Ok(None);
            }
        }
    }

    /// Ends the session in order: writes what is queued, tells the daemon, and waits until the daemon has closed the
    /// session, so that its private name is free again. Messages that arrive meanwhile are dropped.
    ///
    /// Waits at most for the limit for sends, or 5 s if there is none, for the queue and again for the daemon.
    ///
    /// # Errors
    ///
    /// [`SendError`] if queued messages could not be written. The connection is closed in any case.
    pub fn disconnect(self) -> Result<(), SendError> {
        let Self { mut sender, mut receiver } = self;
        let limit = Some(sender.limit.unwrap_or(DISCONNECT_LIMIT));
        let result = sender.write_kill(limit);
        if result.is_ok() && Arc::ptr_eq(&sender.link, &receiver.link) {
            receiver.drain(Deadline::after(limit));
        }
        sender.link.socket.shutdown();
        result
    }
}

/// The sending half.
///
/// A message is encoded into a queue at once and leaves with [`multicast`](Self::multicast) immediately, or with
/// [`enqueue`](Self::enqueue) when the queue is worth a system call, at [`flush`](Self::flush), or when a
/// [`Connection`] waits in a receive. With the default limits a hundred thousand small messages a second cost a few
/// hundred system calls.
///
/// No call blocks longer than its limit, set by [`Builder::send_timeout`](crate::Builder::send_timeout) or
/// [`set_send_timeout`](Self::set_send_timeout); without one, no longer than the daemon takes to read.
///
/// Dropping it leaves queued messages unsent; if the receiver is dropped as well, the session ends.
#[derive(Debug)]
pub struct Sender {
    handle: Arc<Handle>,
    link: Arc<Link>,
    outbox: Outbox,
    limit: Option<Duration>,
    resent: u64,
    failed: bool,
}

/// What to do with a message that is queued.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    /// Write all before going on.
    All,
    /// Write if the queue is worth it.
    Batch,
}

impl Sender {
    /// Gives the private group of the session this half writes to.
    pub fn private_group(&self) -> PrivateGroup {
        self.link.private_group
    }

    /// Gives the address of the daemon this half writes to.
    pub fn address(&self) -> &Address {
        &self.link.address
    }

    /// Limits how long a send or flush waits for the daemon. `None`: no limit.
    pub fn set_send_timeout(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// Joins a group. With membership messages, the view that shows this session as a member follows; joining twice
    /// has no effect.
    ///
    /// # Errors
    ///
    /// [`SendError::IllegalGroup`] for the name of a session; the others as [`multicast`](Self::multicast).
    pub fn join(&mut self, group: GroupName) -> Result<(), SendError> {
        check_group(&group)?;
        let new = self.handle.0.groups().insert(group);
        let result = self.send(ServiceType::JOIN, &[group], 0, &[], Write::All, self.limit);
        if result.is_err() && new {
            self.handle.0.groups().remove(&group);
        }
        result
    }

    /// Leaves a group. With membership messages, a self-leave message follows; leaving a group one is not in has no
    /// effect.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    pub fn leave(&mut self, group: GroupName) -> Result<(), SendError> {
        check_group(&group)?;
        let known = self.handle.0.groups().remove(&group);
        let result = self.send(ServiceType::LEAVE, &[group], 0, &[], Write::All, self.limit);
        if result.is_err() && known {
            self.handle.0.groups().insert(group);
        }
        result
    }

    /// Sends a message to one or many groups, of which this session need not be a member, behind all that is queued.
    ///
    /// When it returns, the message is in the hands of the system. (If the limit passes in the midst of this very
    /// message, the rest of it stays queued and counts as sent.) Whether it was delivered is known only by receiving
    /// it. `message_type` is a number for the application.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`] if the limit passed; the message is then not queued, those before it still are.
    /// [`SendError::TooLong`], [`SendError::TooManyGroups`]: it is not queued. [`SendError::Closed`],
    /// [`SendError::Io`], [`SendError::Reconnect`]: the connection is gone for good; see
    /// [`take_unsent`](Self::take_unsent).
    pub fn multicast(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        let limit = self.limit;
        self.send(service.into(), groups.names(), message_type, data.as_ref(), Write::All, limit)
    }

    /// Does the same as [`multicast`](Self::multicast) with a limit of its own.
    ///
    /// # Errors
    ///
    /// As for [`multicast`](Self::multicast).
    pub fn multicast_timeout(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
        limit: Duration,
    ) -> Result<(), SendError> {
        self.send(service.into(), groups.names(), message_type, data.as_ref(), Write::All, Some(limit))
    }

    /// Does the same as [`multicast`](Self::multicast) without waiting at all.
    ///
    /// # Errors
    ///
    /// As for [`multicast`](Self::multicast).
    pub fn try_multicast(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.multicast_timeout(service, groups, message_type, data, Duration::ZERO)
    }

    /// Queues a message. The queue is written when it has reached
    /// [`Builder::batch_bytes`](crate::Builder::batch_bytes), without waiting; this call waits only while the queue
    /// has reached [`Builder::queue_bytes`](crate::Builder::queue_bytes). Follow the last one by
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// As for [`multicast`](Self::multicast).
    pub fn enqueue(
        &mut self,
        service: Service,
        groups: impl Targets,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        let limit = self.limit;
        self.send(service.into(), groups.names(), message_type, data.as_ref(), Write::Batch, limit)
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    ///
    /// [`SendError::TimedOut`] if the limit passed; what is left stays queued. Otherwise as
    /// [`multicast`](Self::multicast).
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.write_until(0, Deadline::after(self.limit))
    }

    /// Does the same as [`flush`](Self::flush) with a limit of its own; with a limit of zero it does not wait.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    pub fn flush_timeout(&mut self, limit: Duration) -> Result<(), SendError> {
        self.write_until(0, Deadline::after(Some(limit)))
    }

    /// Gives the number of queued bytes, headers included.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Gives the number of messages that were in the queue at losses of the connection and were queued again for the
    /// session that followed.
    pub fn resent_total(&self) -> u64 {
        self.resent
    }

    /// Gives the number of sessions this half has seen go: 0 until the first reconnect is noticed by a write.
    pub fn generation(&self) -> u64 {
        self.link.generation
    }

    /// Tells whether the daemon still holds its end of the connection, without sending anything. A host that went
    /// away silently is found out by the system within about a minute.
    pub fn is_connected(&self) -> bool {
        !self.failed && !self.handle.0.is_closed() && !self.link.socket.is_closed_by_peer()
    }

    /// Takes the messages out of the queue that were not wholly handed to the system, oldest first: none of them has
    /// been or will be delivered. Meant for after an error that is not [`SendError::TimedOut`], or before giving up;
    /// after taking messages out the half cannot be used any further.
    pub fn take_unsent(&mut self) -> Vec<Unsent> {
        // The message at the head may be half written: nothing can follow it on this session.
        self.failed = true;
        self.handle.0.close();
        self.link.socket.shutdown();
        self.outbox.drain()
    }

    /// Ends the session in order: writes what is queued and tells the daemon. The receiver wakes up, gives what has
    /// arrived, then [`ReceiveError::Closed`]. Waits at most for the limit for sends, or 5 s if there is none.
    ///
    /// # Errors
    ///
    /// [`SendError`] if queued messages could not be written. The connection is closed in any case.
    pub fn disconnect(mut self) -> Result<(), SendError> {
        let limit = Some(self.limit.unwrap_or(DISCONNECT_LIMIT));
        let result = self.write_kill(limit);
        self.link.socket.shutdown();
        result
    }

    fn send(
        &mut self,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
        write: Write,
        limit: Option<Duration>,
    ) -> Result<(), SendError> {
        if self.failed {
            return Err(SendError::Closed);
        }
        let (queue, batch) = (self.handle.0.config.queue_bytes, self.handle.0.config.batch_bytes);
        let len = frame_bytes(groups.len(), data.len());
        let full = self.outbox.len() + len > queue && !self.outbox.is_empty();
        // The clock is read only if something may have to be waited for.
        let deadline = if full || write == Write::All { Deadline::after(limit) } else { Deadline::NEVER };
        if full {
            self.write_until(queue.saturating_sub(len), deadline)?;
        }
        let len = self.outbox.push(&self.link.own, service, groups, message_type, data)?;
        let result = match write {
            Write::Batch if self.outbox.len() < batch => return Ok(()),
            Write::Batch => self.write_until(0, Deadline::after(Some(Duration::ZERO))),
            Write::All => self.write_until(0, deadline),
        };
        match result {
            Ok(()) => Ok(()),
            Err(SendError::TimedOut) if write == Write::Batch => Ok(()),
            Err(SendError::TimedOut) => {
                if self.outbox.take_back(len, false) {
                    Err(SendError::TimedOut)
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                self.outbox.take_back(len, true);
                Err(error)
            }
        }
    }

    /// Sends with type bits that only layers of this library use.
    pub(crate) fn send_raw(
        &mut self,
        service: ServiceType,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
    ) -> Result<(), SendError> {
        self.send(service, groups, message_type, data, Write::All, self.limit)
    }

    /// Writes until at most `rest` bytes are queued.
    fn write_until(&mut self, rest: usize, deadline: Deadline) -> Result<(), SendError> {
        if self.failed {
            return Err(SendError::Closed);
        }
        while self.outbox.len() > rest {
            match self.link.socket.write(self.outbox.unwritten(), deadline.is_never()) {
                Ok(n) => self.outbox.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.link.socket.wait(false, true, deadline).map_err(SendError::Io)?.write {
                        return Err(SendError::TimedOut);
                    }
                }
                Err(error) => self.replace_link(error, deadline)?,
            }
        }
        Ok(())
    }

    /// Writes what the system takes at once. Tells whether something is left that it may take later.
    fn write_now(&mut self) -> bool {
        while !self.outbox.is_empty() && !self.failed {
            match self.link.socket.write(self.outbox.unwritten(), false) {
                Ok(n) => self.outbox.advance(n),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    #[cold]
    fn replace_link(&mut self, error: io::Error, deadline: Deadline) -> Result<(), SendError> {
        let closed = self.handle.0.is_closed();
        match self.handle.0.next(&self.link, deadline) {
            Ok(link) => {
                self.link = link;
                self.resent += self.outbox.rewind(&self.link.own) as u64;
                Ok(())
            }
            Err(Gone::TimedOut) => Err(SendError::TimedOut),
            Err(gone) => {
                self.failed = true;
                Err(match gone {
                    Gone::Failed(error) => SendError::Reconnect(error),
                    _ if closed => SendError::Closed,
                    _ => SendError::Io(error),
                })
            }
        }
    }

    /// Writes the queue and the request to be disconnected, and lets nobody reconnect from here on.
    fn write_kill(&mut self, limit: Option<Duration>) -> Result<(), SendError> {
        let deadline = Deadline::after(limit);
        let result = self.write_until(0, deadline);
        self.handle.0.close();
        if result.is_ok() {
            let own = self.link.own;
            // The queue is empty, so there is room; a failure means the session is gone, which was the aim.
            let _ = self.outbox.push(&own, ServiceType::KILL, &[own], 0, &[]);
            let _ = self.write_until(0, deadline);
        }
        result
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
enum ReceiverState {
    Open,
    /// The session is lost and the next one not yet there.
    Lost,
    /// An error was given; there is nothing more.
    Failed,
}

/// Outcome of waiting for bytes.
enum Filled {
    Bytes,
    Nothing,
}

/// The receiving half.
///
/// Reads as much as has arrived with one system call and gives it message by message.
#[derive(Debug)]
pub struct Receiver {
    handle: Arc<Handle>,
    link: Arc<Link>,
    decoder: FrameDecoder,
    buffer: ReadBuffer,
    event: Option<Reconnected>,
    state: ReceiverState,
}

impl Receiver {
    /// Gives the private group of the session this half reads from.
    pub fn private_group(&self) -> PrivateGroup {
        self.link.private_group
    }

    /// Gives the address of the daemon this half reads from.
    pub fn address(&self) -> &Address {
        &self.link.address
    }

    /// Waits for the next message, without limit.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]: the connection is gone for good; later calls give [`ReceiveError::Closed`].
    pub fn receive(&mut self) -> Result<Message, ReceiveError> {
        loop {
            if let Some(message) = self.receive_until(Deadline::NEVER)? {
                return Ok(message);
            }
        }
    }

    /// Waits for the next message for at most `limit`; `None` when it has passed.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub fn receive_timeout(&mut self, limit: Duration) -> Result<Option<Message>, ReceiveError> {
        if let Some(message) = self.buffered()? {
            return Ok(Some(message));
        }
        self.receive_until(Deadline::after(Some(limit)))
    }

    /// Gives the next message if it has arrived.
    ///
    /// # Errors
    ///
    /// As for [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<Message>, ReceiveError> {
        self.receive_timeout(Duration::ZERO)
    }

    fn receive_until(&mut self, deadline: Deadline) -> Result<Option<Message>, ReceiveError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            match self.fill(deadline)? {
                Filled::Bytes => {}
                Filled::Nothing => return Ok(None),
            }
        }
    }

    /// Gives what is there without a system call.
    #[inline]
    fn buffered(&mut self) -> Result<Option<Message>, ReceiveError> {
        if let Some(event) = self.event.take() {
            return Ok(Some(Message::Reconnected(event)));
        }
        if self.state != ReceiverState::Open {
            return Ok(None);
        }
        let message = match self.decoder.decode(&mut self.buffer.data) {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => Message::from_frame(frame, &self.link.own),
            Err(error) => Err(illegal(error)),
        };
        match message {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                self.state = ReceiverState::Failed;
                self.handle.0.close();
                self.link.socket.shutdown();
                Err(error)
            }
        }
    }

    /// Waits for bytes, or for the session that follows a lost one.
    fn fill(&mut self, deadline: Deadline) -> Result<Filled, ReceiveError> {
        match self.state {
            ReceiverState::Failed => return Err(ReceiveError::Closed),
            ReceiverState::Lost => return self.replace_link(None, deadline),
            ReceiverState::Open => {}
        }
        loop {
            let wanted = self.decoder.wanted(self.buffer.data.len());
            let socket = &self.link.socket;
            match self.buffer.fill(wanted, |space| socket.read(space, deadline.is_never())) {
                Ok(0) => return self.replace_link(None, deadline),
                Ok(_) => return Ok(Filled::Bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !socket.wait(true, false, deadline).map_err(ReceiveError::Io)?.read {
                        return Ok(Filled::Nothing);
                    }
                }
                Err(error) => return self.replace_link(Some(error), deadline),
            }
        }
    }

    #[cold]
    fn replace_link(&mut self, error: Option<io::Error>, deadline: Deadline) -> Result<Filled, ReceiveError> {
        self.state = ReceiverState::Lost;
        let closed = self.handle.0.is_closed();
        match self.handle.0.next(&self.link, deadline) {
            Ok(link) => {
                // Part of a message of the old session means nothing in the new one.
                self.decoder = FrameDecoder::client();
                self.buffer = ReadBuffer::new(link.take_early());
                self.event.clone_from(&link.event);
                self.link = link;
                self.state = ReceiverState::Open;
                Ok(Filled::Bytes)
            }
            Err(Gone::TimedOut) => Ok(Filled::Nothing),
            Err(gone) => {
                self.state = ReceiverState::Failed;
                Err(match (gone, error) {
                    (Gone::Failed(error), _) => ReceiveError::Reconnect(error),
                    (_, Some(error)) if !closed => ReceiveError::Io(error),
                    _ => ReceiveError::Closed,
                })
            }
        }
    }

    /// Reads and drops what arrives until the daemon closes the session.
    fn drain(&mut self, deadline: Deadline) {
        loop {
            self.buffer = ReadBuffer::default();
            let socket = &self.link.socket;
            match self.buffer.fill(0, |space| socket.read(space, false)) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !socket.wait(true, false, deadline).is_ok_and(|ready| ready.read) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
