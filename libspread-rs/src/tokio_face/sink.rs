//! The sending half as a sink, for programs that are built of streams.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_sink::Sink;
use spread_wire::GroupName;
use tokio::sync::futures::OwnedNotified;

use crate::error::SendError;
use crate::service::Service;
use crate::target::Targets;
use crate::tokio_face::sender::Sender;

/// A message for a [`MessageSink`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing {
    /// How it is to be delivered.
    pub service: Service,
    /// Where it goes, at most 100 groups.
    pub groups: Vec<GroupName>,
    /// A number for the application.
    pub message_type: i16,
    /// The data.
    pub data: Bytes,
}

impl Outgoing {
    /// Makes a message.
    pub fn new(service: Service, groups: impl Targets, message_type: i16, data: impl Into<Bytes>) -> Self {
        Self { service, groups: groups.names().to_vec(), message_type, data: data.into() }
    }
}

/// The sending half as a [`Sink`], made by [`Sender::into_sink`].
///
/// It is ready while fewer than [`Builder::queue_bytes`](crate::Builder::queue_bytes) are queued, so that what feeds it
/// waits when the daemon does. A flush ends when all is in the hands of the system. Closing it ends the session in order;
/// dropping it does not, if other clones of the sender or the receiver are left.
///
/// ```no_run
/// use std::pin::pin;
/// use futures_sink::Sink;
/// use spread::{Builder, Outgoing, Service};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, _receiver) = Builder::new("4803")?.connect().await?.split();
/// let mut sink = pin!(sender.into_sink());
/// // With the crate `futures`: sink.send_all(&mut stream).await?
/// std::future::poll_fn(|cx| sink.as_mut().poll_ready(cx)).await?;
/// sink.as_mut().start_send(Outgoing::new(Service::AGREED, "chat".parse::<spread::GroupName>()?, 0, "hello"))?;
/// std::future::poll_fn(|cx| sink.as_mut().poll_close(cx)).await?;
/// # Ok(())
/// # }
/// ```
pub struct MessageSink {
    sender: Sender,
    /// Resolves when there may be room, or the end.
    progress: Option<Pin<Box<OwnedNotified>>>,
    /// A flush that has begun.
    flush: Option<Work>,
    /// The end that has begun.
    close: Option<Work>,
}

type Work = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;

impl fmt::Debug for MessageSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageSink").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl MessageSink {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender, progress: None, flush: None, close: None }
    }

    /// Gives the sender this was made of, for joins and more.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }
}

/// Goes on with what has begun, or begins it.
fn poll_work(
    work: &mut Option<Work>,
    begin: impl FnOnce() -> Work,
    cx: &mut Context<'_>,
) -> Poll<Result<(), SendError>> {
    let result = ready!(work.get_or_insert_with(begin).as_mut().poll(cx));
    *work = None;
    Poll::Ready(result)
}

impl Sink<Outgoing> for MessageSink {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            // Made before the look: what happens in between is not missed.
            let shared = Arc::clone(self.sender.shared());
            let progress =
                self.progress.get_or_insert_with(|| Box::pin(Arc::clone(&shared.progress).notified_owned()));
            progress.as_mut().enable();
            if let Some(result) = shared.has_room() {
                self.progress = None;
                return Poll::Ready(result);
            }
            ready!(progress.as_mut().poll(cx));
            self.progress = None;
        }
    }

    fn start_send(mut self: Pin<&mut Self>, message: Outgoing) -> Result<(), SendError> {
        // A flush that began before does not wait for this one.
        self.flush = None;
        self.sender.queue(message.service.into(), &message.groups, message.message_type, &message.data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Self { sender, flush, .. } = &mut *self;
        let begin = || {
            let sender = sender.clone();
            Box::pin(async move { sender.flush().await }) as Work
        };
        poll_work(flush, begin, cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Self { sender, close, .. } = &mut *self;
        poll_work(close, || Box::pin(sender.clone().disconnect()), cx)
    }
}
