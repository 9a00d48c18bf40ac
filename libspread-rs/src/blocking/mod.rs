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
mod receiver;
mod sender;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use spread_wire::{GroupName, PrivateGroup};

use crate::address::Address;
use crate::builder::Config;
use crate::error::{ConnectError, ReceiveError, SendError};
use crate::message::Message;
use crate::outbox::Outbox;
use crate::service::Service;
use crate::target::Targets;
use link::Shared;
use receiver::{Filled, ReceiverState};
use socket::Deadline;

pub use receiver::Receiver;
pub use sender::Sender;
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
        let receiver = Receiver::new(Arc::clone(&handle), Arc::clone(&link));
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
