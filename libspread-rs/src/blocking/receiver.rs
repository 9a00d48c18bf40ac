//! The receiving half.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use spread_wire::{FrameDecoder, PrivateGroup};

use crate::address::Address;
use crate::blocking::link::{Gone, Handle, Link};
use crate::blocking::read::ReadBuffer;
use crate::blocking::socket::Deadline;
use crate::error::ReceiveError;
use crate::message::{Message, Reconnected, illegal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiverState {
    Open,
    /// The session is lost and the next one not yet there.
    Lost,
    /// An error was given; there is nothing more.
    Failed,
}

/// Outcome of waiting for bytes.
pub(super) enum Filled {
    Bytes,
    Nothing,
}

/// The receiving half.
///
/// Reads as much as has arrived with one system call and gives it message by message.
#[derive(Debug)]
pub struct Receiver {
    handle: Arc<Handle>,
    pub(super) link: Arc<Link>,
    decoder: FrameDecoder,
    buffer: ReadBuffer,
    event: Option<Reconnected>,
    pub(super) state: ReceiverState,
}

impl Receiver {
    pub(super) fn new(handle: Arc<Handle>, link: Arc<Link>) -> Self {
        let buffer = ReadBuffer::new(link.take_early());
        Self {
            handle,
            link,
            decoder: FrameDecoder::client(),
            buffer,
            event: None,
            state: ReceiverState::Open,
        }
    }

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
    pub(super) fn buffered(&mut self) -> Result<Option<Message>, ReceiveError> {
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
    pub(super) fn fill(&mut self, deadline: Deadline) -> Result<Filled, ReceiveError> {
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
    pub(super) fn drain(&mut self, deadline: Deadline) {
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
