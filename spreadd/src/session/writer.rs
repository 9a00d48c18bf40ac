//! Writes a session's outbox to its socket: as much as there is, with as few system calls as possible.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::task::yield_now;

use super::outbox::{Load, Outbox, Piece};
use super::slow::SlowAction;
use super::spill::{Spill, SpillError};

/// Most slices of one system call: `IOV_MAX` of Linux.
const SLICES_MAX: usize = 1024;

/// A system call is offered no more slices when it has so many bytes: more than a socket takes at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A session lets the others on its thread go on when it has written so much.
const TURN_BYTES_MAX: usize = 256 << 10;

/// Longest list of slices whose memory is kept for the next one.
const KEPT_PIECES: usize = 4096;

/// Why writing ended.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The socket failed.
    Socket(io::Error),
    /// What waits for the client cannot wait on disk.
    Spill(SpillError),
}

impl From<io::Error> for WriteEnd {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<SpillError> for WriteEnd {
    fn from(error: SpillError) -> Self {
        Self::Spill(error)
    }
}

/// The writer of a session.
pub(crate) struct Writer<'a, W, F> {
    pub(crate) socket: &'a mut W,
    pub(crate) outbox: &'a Outbox,
    /// Where messages wait if the client does not read; `None`: they do not.
    pub(crate) spill: Option<Spill>,
    /// Called when the ring thread waits for this writer and need not any more.
    pub(crate) relieved: F,
}

impl<W: AsyncWrite + Unpin, F: Fn()> Writer<'_, W, F> {
    /// Writes until the outbox dies or something fails. `accept` is what goes out before everything else; it counts
    /// as no frame.
    pub(crate) async fn run(mut self, accept: &[u8]) -> WriteEnd {
        match self.write_all(accept).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn write_all(&mut self, accept: &[u8]) -> Result<Infallible, WriteEnd> {
        self.socket.write_all(accept).await?;
        self.socket.flush().await?;
        let mut pieces = Vec::new();
        loop {
            // What is on disk is older than what is in the queue.
            while let Some(spill) = self.spill.as_mut().filter(|spill| !spill.is_empty()) {
                spill.absorb(self.outbox).await?;
                let bytes = spill.read().await?;
                let piece = Piece { bytes, ends_frame: false, action: SlowAction::Disconnect, mark: false };
                self.write_pieces(&[piece], false).await?;
            }
            if !self.outbox.take(&mut pieces) {
                self.outbox.filled().await;
                continue;
            }
            self.write_pieces(&pieces, true).await?;
            pieces.clear();
            if pieces.capacity() > KEPT_PIECES {
                // After a burst; the list goes round between writer, outbox and ring thread.
                pieces = Vec::new();
            }
        }
    }

    /// Writes them. `counted`: they are part of the outbox's load.
    async fn write_pieces(&mut self, pieces: &[Piece], counted: bool) -> Result<(), WriteEnd> {
        let mut at = 0;
        // Bytes of `pieces[at]` that are written.
        let mut offset = 0;
        let mut turn = 0;
        loop {
            let mut done = Load::default();
            while let Some(piece) = pieces.get(at).filter(|piece| piece.bytes.len() <= offset) {
                offset -= piece.bytes.len();
                done.frames += usize::from(piece.ends_frame);
                done.bytes += piece.bytes.len();
                at += 1;
            }
            if counted {
                self.outbox.written(done);
            }
            if self.outbox.is_relieved() {
                (self.relieved)();
            }
            if at == pieces.len() {
                return self.until_ready(|socket, cx| Pin::new(socket).poll_flush(cx)).await;
            }
            // The slices are made in the poll: they live on the stack, not in the task.
            let n = self.until_ready(|socket, cx| poll_write(socket, cx, &pieces[at..], offset)).await?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            offset += n;
            turn += n;
            if turn >= TURN_BYTES_MAX {
                turn = 0;
                yield_now().await;
            }
        }
    }

    /// Waits for the socket. Meanwhile the client counts as one that does not read, and its queue may go to disk.
    async fn until_ready<T>(
        &mut self,
        mut poll: impl FnMut(&mut W, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Result<T, WriteEnd> {
        let Self { socket, outbox, spill, relieved } = self;
        loop {
            let ready = poll_fn(|cx| {
                let result = poll(socket, cx);
                outbox.set_blocked(result.is_pending());
                if result.is_pending() && outbox.is_relieved() {
                    relieved();
                }
                result
            });
            let Some(spill) = spill else { return Ok(ready.await?) };
            tokio::select! {
                biased;
                result = ready => return Ok(result?),
                () = outbox.overfull() => spill.absorb(outbox).await?,
            }
        }
    }
}

/// One system call for the first of `pieces`, `offset` bytes of the first one are already written.
fn poll_write<W: AsyncWrite + Unpin>(
    socket: &mut W,
    cx: &mut Context<'_>,
    pieces: &[Piece],
    offset: usize,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let (mut used, mut bytes) = (0, 0);
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(&piece.bytes);
        used += 1;
        bytes += piece.bytes.len();
        if bytes >= WRITE_BYTES_MAX {
            break;
        }
    }
    slices[0].advance(offset);
    Pin::new(socket).poll_write_vectored(cx, &slices[..used])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn partial_writes_keep_every_byte_in_order() {
        // A pipe of 7 bytes makes every write partial and cuts pieces at all places.
        let (mut near, mut far) = tokio::io::duplex(7);
        let outbox = Outbox::default();
        let mut expected = b"accept".to_vec();
        let mut batch = Vec::new();
        let mut added = Load::default();
        for i in 0u8..200 {
            let bytes = vec![i; usize::from(i % 23)];
            expected.extend_from_slice(&bytes);
            added.bytes += bytes.len();
            added.frames += usize::from(i % 3 == 0);
            let (bytes, ends_frame) = (Bytes::from(bytes), i % 3 == 0);
            batch.push(Piece { bytes, ends_frame, action: SlowAction::Disconnect, mark: false });
        }
        outbox.append(&mut batch, added, None);
        let mut got = vec![0; expected.len()];
        let writer = Writer { socket: &mut near, outbox: &outbox, spill: None, relieved: || {} };
        tokio::select! {
            end = writer.run(b"accept") => panic!("the writer ended: {end:?}"),
            read = far.read_exact(&mut got) => { read.unwrap(); }
        }
        assert_eq!(got, expected);
        // The writer may not have seen the end of the last pieces.
        assert!(outbox.load().bytes <= 7 + 22, "{:?}", outbox.load());
    }
}
