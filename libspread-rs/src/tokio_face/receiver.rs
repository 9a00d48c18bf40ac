//! The receiving half.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use futures_core::Stream;
use spread_wire::{FrameDecoder, PrivateGroup};

use crate::address::Address;
use crate::error::ReceiveError;
use crate::message::{Message, Reconnected, illegal};
use crate::tokio_face::shared::{End, Handle};
use crate::tokio_face::socket::Link;

/// Room a read has at least.
const READ_SPACE: usize = 16 * 1024;
/// Size of a new block for reads.
const READ_BLOCK: usize = 64 * 1024;

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
    pub(super) fn new(handle: Arc<Handle>, link: Arc<Link>) -> Self {
        let buffer = link.take_early();
        Self { handle, link, decoder: FrameDecoder::client(), buffer, event: None, phase: Phase::Open }
    }

    /// Gives the address of the daemon this half reads from.
    pub fn address(&self) -> &Address {
        &self.link.address
    }

    /// Gives the version of the daemon this half reads from: major, minor, patch.
    pub fn daemon_version(&self) -> (u8, u8, u8) {
        self.link.version
    }

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
