//! The sending half.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use spread_wire::{GroupName, PrivateGroup, ServiceType};

use crate::address::Address;
use crate::blocking::DISCONNECT_LIMIT;
use crate::blocking::link::{Gone, Handle, Link};
use crate::blocking::socket::Deadline;
use crate::error::SendError;
use crate::outbox::{Outbox, Unsent, frame_bytes};
use crate::service::Service;
use crate::session::check_group;
use crate::target::Targets;

/// The sending half.
///
/// A message is encoded into a queue at once and leaves with [`multicast`](Self::multicast) immediately, or with
/// [`enqueue`](Self::enqueue) when the queue is worth a system call, at [`flush`](Self::flush), or when a
/// [`Connection`](crate::blocking::Connection) waits in a receive. With the default limits a hundred thousand small messages a second cost a few
/// hundred system calls.
///
/// No call blocks longer than its limit, set by [`Builder::send_timeout`](crate::Builder::send_timeout) or
/// [`set_send_timeout`](Self::set_send_timeout); without one, no longer than the daemon takes to read.
///
/// Dropping it leaves queued messages unsent; if the receiver is dropped as well, the session ends.
#[derive(Debug)]
pub struct Sender {
    pub(super) handle: Arc<Handle>,
    pub(super) link: Arc<Link>,
    pub(super) outbox: Outbox,
    pub(super) limit: Option<Duration>,
    pub(super) resent: u64,
    pub(super) failed: bool,
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
        self.flush_until(Deadline::after(self.limit))
    }

    /// Does the same as [`flush`](Self::flush) with a limit of its own; with a limit of zero it does not wait.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    pub fn flush_timeout(&mut self, limit: Duration) -> Result<(), SendError> {
        self.flush_until(Deadline::after(Some(limit)))
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
    /// arrived, then [`ReceiveError::Closed`](crate::ReceiveError::Closed). Waits at most for the limit for sends, or 5 s if there is none.
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
        // With TLS, a message that was encrypted counts as sent, also if the limit passes before it has left.
        let result = match result {
            Ok(()) if write == Write::All => match self.flush_until(deadline) {
                Err(SendError::TimedOut) => return Ok(()),
                result => result,
            },
            result => result,
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

    /// Writes all that is queued, and what TLS still holds.
    fn flush_until(&mut self, deadline: Deadline) -> Result<(), SendError> {
        loop {
            self.write_until(0, deadline)?;
            match self.link.socket.flush(deadline) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(SendError::TimedOut),
                Err(error) => self.replace_link(error, deadline)?,
            }
        }
    }

    /// Writes what the system takes at once. Tells whether something is left that it may take later.
    pub(super) fn write_now(&mut self) -> bool {
        while !self.outbox.is_empty() && !self.failed {
            match self.link.socket.write(self.outbox.unwritten(), false) {
                Ok(n) => self.outbox.advance(n),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        matches!(self.link.socket.flush(Deadline::after(Some(Duration::ZERO))), Ok(false))
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
    pub(super) fn write_kill(&mut self, limit: Option<Duration>) -> Result<(), SendError> {
        let deadline = Deadline::after(limit);
        let result = self.flush_until(deadline);
        self.handle.0.close();
        if result.is_ok() {
            let own = self.link.own;
            // The queue is empty, so there is room; a failure means the session is gone, which was the aim.
            let _ = self.outbox.push(&own, ServiceType::KILL, &[own], 0, &[]);
            let _ = self.flush_until(deadline);
        }
        result
    }
}
