//! A client made of the protocol alone: it can also do what no library does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use spread_wire::handshake::{Accept, AuthChoice, Hello, MethodList, MethodName, RejectCode};
use spread_wire::{Frame, FrameDecoder, GroupName, PrivateName, ServiceType, build};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most time for a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(60);

/// A session.
#[derive(Debug)]
pub struct WireClient {
    /// The connection.
    pub stream: TcpStream,
    /// The private group.
    pub me: GroupName,
    buf: BytesMut,
    decoder: FrameDecoder,
}

/// The hello of a client.
pub fn hello(name: Option<&str>, membership: bool) -> Bytes {
    let mut out = BytesMut::new();
    let name = name.and_then(|name| PrivateName::new(name.as_bytes()).ok());
    Hello::new(name, membership, 0).encode(&mut out);
    out.freeze()
}

/// The choice of the method `NULL`.
pub fn choice() -> Bytes {
    let mut out = BytesMut::new();
    AuthChoice::new([MethodName::NULL]).encode(&mut out);
    out.freeze()
}

/// A group of this name, which must be a legal one.
///
/// # Panics
/// If it is none.
pub fn group(name: &str) -> GroupName {
    #[allow(clippy::expect_used, reason = "names are made by the callers, from numbers")]
    GroupName::new(name.as_bytes()).expect("a legal name")
}

impl WireClient {
    /// Connects and goes through the handshake; the daemon's code if it refuses. With `pieces` every byte is a
    /// segment of its own.
    ///
    /// # Errors
    /// If the connection fails or the daemon does not keep to the protocol.
    pub async fn connect(
        addr: SocketAddr,
        name: Option<&str>,
        membership: bool,
        pieces: bool,
    ) -> anyhow::Result<Result<Self, RejectCode>> {
        let shake = async {
            let stream =
                TcpStream::connect(addr).await.with_context(|| format!("no connection to {addr}"))?;
            stream.set_nodelay(true)?;
            Self::shake_hands(stream, name, membership, pieces).await
        };
        timeout(HANDSHAKE_LIMIT, shake)
            .await
            .with_context(|| format!("no handshake with {addr} for {HANDSHAKE_LIMIT:?}"))?
    }

    /// The handshake on a connection.
    ///
    /// # Errors
    /// If the connection fails or the daemon does not keep to the protocol.
    pub async fn shake_hands(
        mut stream: TcpStream,
        name: Option<&str>,
        membership: bool,
        pieces: bool,
    ) -> anyhow::Result<Result<Self, RejectCode>> {
        let mut buf = BytesMut::new();
        send(&mut stream, &hello(name, membership), pieces).await?;
        while MethodList::decode(&mut buf).unwrap_or_default().is_none() {
            if let Some(code) = refusal(&buf) {
                return Ok(Err(code));
            }
            ensure!(stream.read_buf(&mut buf).await? > 0, "the daemon closed after the hello of {name:?}");
        }
        send(&mut stream, &choice(), pieces).await?;
        let accept = loop {
            if let Some(code) = refusal(&buf) {
                return Ok(Err(code));
            }
            match Accept::decode(&mut buf, 0) {
                Ok(Some(accept)) => break accept,
                Ok(None) => {}
                Err(error) => bail!("{error}"),
            }
            ensure!(stream.read_buf(&mut buf).await? > 0, "the daemon closed after the choice of {name:?}");
        };
        Ok(Ok(Self { stream, me: accept.private_group, buf, decoder: FrameDecoder::client() }))
    }

    /// The next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// If the connection breaks or the daemon does not keep to the protocol.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn frame(&mut self) -> anyhow::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buf)? {
                return Ok(Some(frame));
            }
            if self.stream.read_buf(&mut self.buf).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Joins a group.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn join(&mut self, name: &GroupName) -> io::Result<()> {
        let frame = build::join(&self.me, name);
        self.send(&frame).await
    }

    /// A message of this session, as bytes.
    ///
    /// # Panics
    /// If it is larger than the protocol allows.
    pub fn message(&self, service: ServiceType, to: &[GroupName], data: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        #[allow(clippy::expect_used, reason = "what is sent is made by the callers")]
        build::put_multicast(&mut out, service, &self.me, to, 0, data.len(), data.len())
            .expect("a legal message");
        out.extend_from_slice(data);
        out
    }

    /// Ends the session by request and waits for the end of the stream.
    ///
    /// # Errors
    /// If the daemon does not close.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        let frame = build::kill(&self.me);
        self.send(&frame).await?;
        let mut scrap = vec![0; 64 << 10];
        let to_end = async {
            // A reset is an end too.
            while self.stream.read(&mut scrap).await.is_ok_and(|n| n > 0) {}
        };
        timeout(HANDSHAKE_LIMIT, to_end).await.context("the daemon does not close the connection")?;
        Ok(())
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8], pieces: bool) -> io::Result<()> {
    if !pieces {
        return stream.write_all(bytes).await;
    }
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn refusal(buf: &[u8]) -> Option<RejectCode> {
    buf.first().map(|byte| byte.cast_signed()).filter(|code| *code < 0).map(RejectCode)
}
