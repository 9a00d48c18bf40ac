//! Reads a session's requests: all that has arrived at once, and hands them on as one batch.

use std::io;

use bytes::BytesMut;
use spread_groups::SessionId;
use spread_wire::{FrameDecoder, FrameError, ServiceType};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::yield_now;

use super::inbox::Inbox;
use super::spill::SpillError;
use super::stats::Counters;

/// Room for reading at the start and of a session that sends little, in bytes: what an idle session costs.
const READ_LEN_MIN: usize = 2 << 10;

/// Room for reading of a session that fills it: bytes taken with one system call. Also what an idle session may
/// hold, and what one small message keeps alive that waits for a slow client.
const READ_LEN_MAX: usize = 64 << 10;

/// Why reading ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client asked for it.
    Kill,
    /// The client closed its sending side, or the connection broke.
    Closed(io::Result<()>),
    /// The client broke the protocol.
    Illegal(FrameError),
    /// The client does not read, and its messages cannot wait any more.
    Slow(SpillError),
}

/// Reads until the session ends. `buf` holds what the client sent during the handshake.
pub(crate) async fn read_all<R: AsyncRead + Unpin>(
    socket: &mut R,
    mut buf: BytesMut,
    mut decoder: FrameDecoder,
    id: SessionId,
    inbox: &Inbox,
    counters: &Counters,
) -> End {
    let mut read_len = READ_LEN_MIN;
    let mut batch = Vec::new();
    loop {
        // Frames before the end are taken whatever the end is: they were sent before it.
        let mut bytes = 0;
        let end = loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) if frame.header.service.intersects(ServiceType::KILL) => {
                    break Some(End::Kill);
                }
                Ok(Some(frame)) => {
                    bytes += frame.raw().len();
                    batch.push(frame);
                }
                Ok(None) => break None,
                Err(error) => break Some(End::Illegal(error)),
            }
        };
        if !batch.is_empty() {
            let requests = batch.len();
            inbox.submit(id, std::mem::replace(&mut batch, Vec::with_capacity(requests))).await;
            counters.requests_total.add(requests as u64);
            counters.request_bytes_total.add(bytes as u64);
            // Others on this thread go on, however fast this client sends.
            yield_now().await;
        }
        if let Some(end) = end {
            return end;
        }
        // A buffer is filled up before the next one is made: what is kept of it later keeps all of it.
        if buf.capacity() - buf.len() < read_len / 2 {
            buf.reserve(read_len);
        }
        match socket.read_buf(&mut buf).await {
            Ok(0) => return End::Closed(Ok(())),
            Ok(n) if n >= read_len / 2 => read_len = (read_len * 4).min(READ_LEN_MAX),
            Ok(n) if n < read_len / 8 => read_len = (read_len / 2).max(READ_LEN_MIN),
            Ok(_) => {}
            Err(error) => return End::Closed(Err(error)),
        }
    }
}
