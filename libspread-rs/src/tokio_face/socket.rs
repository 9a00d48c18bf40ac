//! One stream socket, and how a session is made on it.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::address::Address;
use crate::blocking::set_keepalive;
use crate::builder::Config;
use crate::error::ConnectError;
use crate::handshake::Handshake;
use crate::session;
#[cfg(feature = "tls")]
use crate::tls;

/// Pause between attempts on a Unix socket whose daemon has a full backlog.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

pub(super) type Link = session::Link<Socket>;
pub(super) type New = session::New<Socket>;

pub(super) async fn limited<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or(Err(ConnectError::TimedOut { limit })),
    }
}

/// Tries the addresses in their order.
pub(super) async fn establish(config: &Config) -> Result<New, ConnectError> {
    let mut last = None;
    for address in &config.addresses {
        match limited(config.connect_timeout, establish_one(config, address)).await {
            Ok(new) => return Ok(new),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(ConnectError::Closed))
}

async fn establish_one(config: &Config, address: &Address) -> Result<New, ConnectError> {
    let socket = Socket::connect(config, address).await?;
    let mut handshake = Handshake::new(config);
    let mut input = BytesMut::new();
    loop {
        if let Some(established) = handshake.handle_input(&mut input)? {
            return Ok(New {
                socket,
                private_group: established.private_group,
                version: established.version,
                address: address.clone(),
                early: input,
            });
        }
        while let Some(unit) = handshake.poll_transmit() {
            // A daemon that refuses the session says why and closes; the reason may be there to be read although
            // the write fails.
            let _ = socket.write_all(&unit).await;
        }
        input.reserve(256);
        match poll_fn(|cx| socket.poll_read(cx, &mut input)).await {
            Ok(0) => return Err(ConnectError::Closed),
            Ok(_) => {}
            Err(error) => return Err(ConnectError::Io(error)),
        }
    }
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<(TcpStream, tls::Session)>),
}

impl Socket {
    async fn connect(config: &Config, address: &Address) -> Result<Self, ConnectError> {
        match address {
            Address::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return Ok(Self::Unix(stream)),
                    // The backlog is full; the system offers no way to wait for it.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
                    Err(source) => {
                        return Err(ConnectError::Connect { address: path.display().to_string(), source });
                    }
                }
            },
            Address::Tcp { host, port } => connect_tcp(host, *port).await.map(Self::Tcp),
            #[cfg(feature = "tls")]
            Address::Tls { host, port } => {
                let tls = config.tls_session(host, address)?;
                let stream = connect_tcp(host, *port).await?;
                loop {
                    match tls.handshake(&mut Now(&stream)) {
                        Ok(()) => return Ok(Self::Tls(Box::new((stream, tls)))),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            let writing = tls.is_writing();
                            let ready = async {
                                if writing { stream.writable().await } else { stream.readable().await }
                            };
                            ready.await.map_err(ConnectError::Io)?;
                        }
                        Err(error) => return Err(ConnectError::of_handshake(address, error)),
                    }
                }
            }
            #[cfg(not(feature = "tls"))]
            Address::Tls { .. } => {
                let _ = config;
                Err(ConnectError::TlsMissing { address: address.to_string() })
            }
        }
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            // What has arrived is tried first: TLS may hold data that the socket does not show.
            #[cfg(feature = "tls")]
            if let Self::Tls(both) = self {
                let (stream, tls) = &**both;
                let take = |data: &[u8]| {
                    buffer.extend_from_slice(data);
                    data.len()
                };
                match tls.read(&mut Now(stream), take) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            }
            let result = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buffer)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buffer)
                }
                #[cfg(feature = "tls")]
                Self::Tls(both) => {
                    ready!(both.0.poll_read_ready(cx))?;
                    continue;
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes what the socket takes now. With TLS, what was written still has to be [flushed](Self::flush).
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(both) => both.1.write(&mut Now(&both.0), bytes),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
            #[cfg(feature = "tls")]
            Self::Tls(both) => both.0.writable().await,
        }
    }

    /// Makes sure that what was written is in the hands of the system.
    #[cfg_attr(
        not(feature = "tls"),
        allow(clippy::unused_async, reason = "without TLS a write is all there is")
    )]
    pub(super) async fn flush(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Self::Tls(both) = self {
            loop {
                match both.1.flush(&mut Now(&both.0)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => both.0.writable().await?,
                    result => return result,
                }
            }
        }
        Ok(())
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.flush().await
    }

    /// Ends both directions. Bytes that have arrived can still be read.
    pub(super) fn shutdown(&self) {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{Shutdown, shutdown};
        let fd = match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            #[cfg(feature = "tls")]
            Self::Tls(both) => {
                both.1.close(&mut Now(&both.0));
                both.0.as_raw_fd()
            }
        };
        // Fails only when the connection is gone already.
        let _ = shutdown(fd, Shutdown::Both);
    }
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let addrs = tokio::net::lookup_host((host, port))
        .await
        .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
    let mut last = ConnectError::Resolve {
        host: host.to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
    };
    for addr in addrs {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                // Options that fail cost speed, not correctness.
                let _ = stream.set_nodelay(true);
                let _ = set_keepalive(&stream);
                return Ok(stream);
            }
            Err(source) => {
                last = ConnectError::Connect { address: format!("{port}@{}", addr.ip()), source };
            }
        }
    }
    Err(last)
}

/// The bytes under TLS, without waiting.
#[cfg(feature = "tls")]
struct Now<'a>(&'a TcpStream);

#[cfg(feature = "tls")]
impl io::Read for Now<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(space)
    }
}

#[cfg(feature = "tls")]
impl io::Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
