//! The client for tokio.
//!
//! A task per connection writes what the senders queue, so that messages queued while it writes leave together, and
//! makes the connection again when it is lost. The receiver reads by itself.
//!
//! | module | what |
//! |---|---|
//! | `sender`, `sink` | the sending half: queues messages |
//! | `receiver` | the receiving half: reads by itself |
//! | `shared` | what the halves and the task know of each other |
//! | `driver` | the task: writes, and makes the session again |
//! | `socket` | one stream socket, and how a session is made on it |

mod driver;
mod receiver;
mod sender;
mod shared;
mod sink;
mod socket;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use spread_wire::{GroupName, PrivateGroup};
use tokio::time::timeout;

use crate::address::Address;
use crate::builder::Config;
use crate::error::{ConnectError, ReceiveError, SendError};
use crate::message::Message;
use crate::service::Service;
use crate::target::Targets;
use driver::Driver;
use shared::{Handle, Shared};
use socket::establish;

pub use receiver::Receiver;
pub use sender::Sender;
pub use sink::{MessageSink, Outgoing};

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
        let link = Arc::new(establish(&config).await?.first());
        let shared = Arc::new(Shared::new(config, Arc::clone(&link)));
        tokio::spawn(Driver { shared: Arc::clone(&shared), link: Arc::clone(&link) }.run());
        let handle = Arc::new(Handle(shared));
        let receiver = Receiver::new(Arc::clone(&handle), link);
        Ok(Self { sender: Sender::new(handle), receiver })
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
        self.receiver.address()
    }

    /// Gives the version of the daemon: major, minor, patch.
    pub fn daemon_version(&self) -> (u8, u8, u8) {
        self.receiver.daemon_version()
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
