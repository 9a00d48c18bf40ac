//! Writes a session's outbox to its socket: as much as there is, with as few system calls as possible.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::task::yield_now;

use super::outbox::{Load, Outbox, Piece};

/// Most slices of one system call: `IOV_MAX` of Linux.
const SLICES_MAX: usize = 1024;

/// A system call is offered no more slices when it has so many bytes: more than a socket takes at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A session lets the others on its thread go on when it has written so much.
const TURN_BYTES_MAX: usize = 256 << 10;

/// Longest list of slices whose memory is kept for the next one.
const KEPT_PIECES: usize = 4096;

/// Writes until the outbox dies or the socket fails.
///
/// `accept` is what goes out before everything else; it counts as no frame. `relieved` is called when the ring
/// thread waits for this writer and need not any more.
pub(crate) async fn write_all<W: AsyncWrite + Unpin>(
    socket: &mut W,
    accept: &[u8],
    outbox: &Outbox,
    relieved: impl Fn(),
) -> io::Result<()> {
    socket.write_all(accept).await?;
    let mut pieces = Vec::new();
    loop {
        while !outbox.take(&mut pieces) {
            outbox.filled().await;
        }
        write_pieces(socket, &pieces, outbox, &relieved).await?;
        pieces.clear();
        if pieces.capacity() > KEPT_PIECES {
            // After a burst; the list goes round between writer, outbox and ring thread.
            pieces = Vec::new();
        }
    }
}

async fn write_pieces<W: AsyncWrite + Unpin>(
    socket: &mut W,
    pieces: &[Piece],
    outbox: &Outbox,
    relieved: &impl Fn(),
) -> io::Result<()> {
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
        outbox.written(done);
        if outbox.is_relieved() {
            relieved();
        }
        if at == pieces.len() {
            return Ok(());
        }
        // The slices are made in the poll: they live on the stack, not in the task.
        let n = poll_fn(|cx| {
            let write = poll_write(socket, cx, &pieces[at..], offset);
            outbox.set_blocked(write.is_pending());
            if write.is_pending() && outbox.is_relieved() {
                relieved();
            }
            write
        })
        .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += n;
        turn += n;
        if turn >= TURN_BYTES_MAX {
            turn = 0;
            yield_now().await;
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
            batch.push(Piece { bytes: Bytes::from(bytes), ends_frame: i % 3 == 0 });
        }
        outbox.append(&mut batch, added);
        let mut got = vec![0; expected.len()];
        tokio::select! {
            end = write_all(&mut near, b"accept", &outbox, || {}) => panic!("the writer ended: {end:?}"),
            read = far.read_exact(&mut got) => { read.unwrap(); }
        }
        assert_eq!(got, expected);
        // The writer may not have seen the end of the last pieces.
        assert!(outbox.load().bytes <= 7 + 22, "{:?}", outbox.load());
    }
}
