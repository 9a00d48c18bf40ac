//! View synchrony: a new view of a group is installed only after every member has agreed, and a message is delivered
//! only in the view it was sent in.
//!
//! A layer over an ordinary connection, compatible on the wire with the flush library of Spread. [`Connection`] is the
//! layer for plain threads; with the feature `capi` there is also `Engine`, the protocol without a socket.
//!
//! Source: `spec/flush-api.md`, `spec/group-semantics.md#6`.

mod engine;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use spread_wire::{GroupName, PrivateGroup};

use crate::blocking;
use crate::error::{ReceiveError, SendError};
use crate::service::Service;

#[cfg(feature = "capi")]
pub use engine::{Engine, Outgoing, Output};
#[cfg(not(feature = "capi"))]
use engine::{Engine, Output};
pub use engine::{Event, FlushData, FlushError, MESSAGE_TYPE_MIN, View};

/// A connection with view synchrony.
///
/// ```no_run
/// use spread::flush::{Connection, Event};
/// use spread::{Builder, Service};
///
/// let connection = Builder::new("4803")?.membership(true).connect_blocking()?;
/// let mut connection = Connection::new(connection);
/// let group = "replicas".parse()?;
/// connection.join(group)?;
/// loop {
///     match connection.receive()? {
///         Event::View(view) => {
///             println!("{} members", view.members.len());
///             connection.multicast(Service::FIFO, group, 0, "hello")?;
///         }
///         Event::FlushRequest { group } => connection.flush(group)?,
///         Event::Data(data) => println!("{} says {:?}", data.sender, data.data),
///         _ => {}
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    inner: blocking::Connection,
    engine: Engine,
    events: VecDeque<Event>,
}

impl Connection {
    /// Puts the layer over a connection that asked for membership messages, is in no group, and does not reconnect (a
    /// new session is a new member: the views of the old one have ended).
    pub fn new(inner: blocking::Connection) -> Self {
        let engine = Engine::new(inner.private_group().as_group());
        Self { inner, engine, events: VecDeque::new() }
    }

    /// Gives the private group of the session.
    pub fn private_group(&self) -> PrivateGroup {
        self.inner.private_group()
    }

    /// Joins a group. The first event of it is a view.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`], [`FlushError::Send`].
    pub fn join(&mut self, group: GroupName) -> Result<(), FlushError> {
        self.engine.join(group)?;
        self.perform()
    }

    /// Leaves a group. The last event of it is a self-leave.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`], [`FlushError::Send`].
    pub fn leave(&mut self, group: GroupName) -> Result<(), FlushError> {
        self.engine.leave(group)?;
        self.perform()
    }

    /// Answers a flush request.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`], [`FlushError::IllegalState`], [`FlushError::Send`].
    pub fn flush(&mut self, group: GroupName) -> Result<(), FlushError> {
        self.engine.flush(group)?;
        self.perform()
    }

    /// Sends to all members of the view, or to a private group.
    ///
    /// # Errors
    ///
    /// [`FlushError`]
    pub fn multicast(
        &mut self,
        service: Service,
        group: GroupName,
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), FlushError> {
        self.engine.send(service.into(), group, None, message_type, data.as_ref())?;
        self.perform()
    }

    /// Sends to some members of the view.
    ///
    /// # Errors
    ///
    /// [`FlushError`]
    pub fn subgroupcast(
        &mut self,
        service: Service,
        group: GroupName,
        receivers: &[GroupName],
        message_type: i16,
        data: impl AsRef<[u8]>,
    ) -> Result<(), FlushError> {
        self.engine.send(service.into(), group, Some(receivers), message_type, data.as_ref())?;
        self.perform()
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn receive(&mut self) -> Result<Event, ReceiveError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let message = self.inner.receive()?;
            self.handle(message)?;
        }
    }

    /// Waits for the next event for at most `limit`; `None` when it has passed.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]
    pub fn receive_timeout(&mut self, limit: Duration) -> Result<Option<Event>, ReceiveError> {
        let start = Instant::now();
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.inner.receive_timeout(limit.saturating_sub(start.elapsed()))? {
                Some(message) => self.handle(message)?,
                None => return Ok(None),
            }
        }
    }

    /// Ends the session in order.
    ///
    /// # Errors
    ///
    /// [`SendError`] if queued messages could not be written.
    pub fn disconnect(self) -> Result<(), SendError> {
        self.inner.disconnect()
    }

    fn handle(&mut self, message: crate::Message) -> Result<(), ReceiveError> {
        self.engine.handle_message(message);
        match self.perform() {
            Ok(()) => Ok(()),
            // The protocol's own messages fit: only the connection can have failed.
            Err(FlushError::Send(SendError::Io(error))) => Err(ReceiveError::Io(error)),
            Err(_) => Err(ReceiveError::Closed),
        }
    }

    fn perform(&mut self) -> Result<(), FlushError> {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Deliver(event) => self.events.push_back(event),
                Output::Send(out) => {
                    let sender = self.inner.sender();
                    sender.send_raw(out.service_type, &out.groups, out.message_type, &out.data)?;
                }
            }
        }
        Ok(())
    }
}
