//! The socket of a blocking connection. It stays in blocking mode; a call that must not wait says so.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt,
    shutdown, socket, sockopt,
};

use crate::address::Address;
use crate::builder::Config;
use crate::error::ConnectError;
#[cfg(feature = "tls")]
use crate::tls;

/// Pause between attempts on a Unix socket whose daemon has a full backlog. The system offers no way to wait for it.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A moment until which something may take; `None`: no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) const NEVER: Self = Self(None);

    /// The moment `limit` from now. A limit too large to be a moment is none.
    pub(crate) fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// What is left; `None`: no limit.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn has_passed(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    pub(crate) fn is_never(self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// A read gives bytes, the end or an error.
    pub(crate) read: bool,
    /// A write takes bytes or gives an error.
    pub(crate) write: bool,
}

/// A connected stream socket, perhaps with TLS on it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    #[cfg(feature = "tls")]
    tls: Option<tls::Session>,
}

impl Socket {
    /// Connects to the address.
    pub(crate) fn connect(
        config: &Config,
        address: &Address,
        deadline: Deadline,
    ) -> Result<Self, ConnectError> {
        let limit = config.connect_timeout;
        match address {
            Address::Unix(path) => Self::connect_unix(path, limit, deadline),
            Address::Tcp { host, port } => Self::connect_tcp(host, *port, limit, deadline),
            #[cfg(feature = "tls")]
            Address::Tls { host, port } => {
                let tls = config.tls_session(host, address)?;
                let socket = Self::connect_tcp(host, *port, limit, deadline)?;
                socket.handshake(&tls, address, limit, deadline)?;
                Ok(Self { tls: Some(tls), ..socket })
            }
            #[cfg(not(feature = "tls"))]
            Address::Tls { .. } => Err(ConnectError::TlsMissing { address: address.to_string() }),
        }
    }

    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    fn handshake(
        &self,
        tls: &tls::Session,
        address: &Address,
        limit: Option<Duration>,
        deadline: Deadline,
    ) -> Result<(), ConnectError> {
        loop {
            match tls.handshake(&mut Now(self)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writing = tls.is_writing();
                    if self.wait(!writing, writing, deadline).map_err(ConnectError::Io)? == Ready::default() {
                        return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
                    }
                }
                Err(error) => return Err(ConnectError::of_handshake(address, error)),
            }
        }
    }

    fn connect_unix(path: &Path, limit: Option<Duration>, deadline: Deadline) -> Result<Self, ConnectError> {
        let failed = |errno: Errno| ConnectError::Connect {
            address: path.display().to_string(),
            source: io::Error::from(errno),
        };
        let addr = UnixAddr::new(path).map_err(failed)?;
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
            match connect(fd.as_raw_fd(), &addr) {
                Ok(()) => {
                    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).map_err(failed)?;
                    return Ok(Self::new(fd));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !deadline.has_passed() => {
                    thread::sleep(deadline.left().map_or(BACKLOG_PAUSE, |left| left.min(BACKLOG_PAUSE)));
                }
                Err(Errno::EAGAIN) => {
                    return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    fn connect_tcp(
        host: &str,
        port: u16,
        limit: Option<Duration>,
        deadline: Deadline,
    ) -> Result<Self, ConnectError> {
        let addrs = (host, port)
            .to_socket_addrs()
            .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
        let mut last = ConnectError::Resolve {
            host: host.to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
        };
        for addr in addrs {
            let result = match deadline.left() {
                None => TcpStream::connect(addr),
                Some(left) if left.is_zero() => {
                    return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
                }
                Some(left) => TcpStream::connect_timeout(&addr, left),
            };
            match result {
                Ok(stream) => {
                    // Options that fail cost speed, not correctness.
                    let _ = stream.set_nodelay(true);
                    let _ = set_keepalive(&stream);
                    return Ok(Self::new(stream.into()));
                }
                Err(source) if source.kind() == io::ErrorKind::TimedOut && deadline.has_passed() => {
                    return Err(ConnectError::TimedOut { limit: limit.unwrap_or_default() });
                }
                Err(source) => {
                    last = ConnectError::Connect { address: format!("{port}@{}", addr.ip()), source };
                }
            }
        }
        Err(last)
    }

    /// Writes what the socket takes. Without `wait` what it takes now; `WouldBlock`: nothing. With `wait` it may take
    /// as long as the other side lets it. With TLS, what was written still has to be [flushed](Self::flush).
    pub(crate) fn write(&self, bytes: &[u8], wait: bool) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            // Never waits with the lock held: the other half must be able to read meanwhile.
            return self.retry(false, wait, || tls.write(&mut Now(self), bytes));
        }
        self.send(bytes, wait)
    }

    /// Makes sure that what was written is in the hands of the system; tells whether it is, when the time has passed.
    #[cfg_attr(
        not(feature = "tls"),
        allow(clippy::unused_self, reason = "without TLS a write is all there is")
    )]
    pub(crate) fn flush(&self, deadline: Deadline) -> io::Result<bool> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            loop {
                match tls.flush(&mut Now(self)) {
                    Ok(()) => return Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if !self.wait(false, true, deadline)?.write {
                            return Ok(false);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let _ = deadline;
        Ok(true)
    }

    /// Reads what has arrived; 0 is the end. Without `wait`, `WouldBlock`: nothing.
    pub(crate) fn read(&self, space: &mut [u8], wait: bool) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return self.retry(true, wait, || {
                tls.read(&mut Now(self), |data| {
                    let n = data.len().min(space.len());
                    space[..n].copy_from_slice(&data[..n]);
                    n
                })
            });
        }
        self.recv(space, wait)
    }

    fn send(&self, bytes: &[u8], wait: bool) -> io::Result<usize> {
        let mut flags = MsgFlags::MSG_NOSIGNAL;
        flags.set(MsgFlags::MSG_DONTWAIT, !wait);
        loop {
            match send(self.fd.as_raw_fd(), bytes, flags) {
                Err(Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }

    fn recv(&self, space: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        loop {
            match recv(self.fd.as_raw_fd(), space, flags) {
                Err(Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }

    /// Does something that does not wait, with waits in between if they are wanted.
    #[cfg(feature = "tls")]
    fn retry(
        &self,
        read: bool,
        wait: bool,
        mut work: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match work() {
                Err(error) if wait && error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(read, !read, Deadline::NEVER)?;
                }
                result => return result,
            }
        }
    }

    /// Waits until the socket can be read, or written if `write` is set. Nothing is ready when the time has passed.
    pub(crate) fn wait(&self, read: bool, write: bool, deadline: Deadline) -> io::Result<Ready> {
        #[cfg(feature = "tls")]
        if read && self.tls.as_ref().is_some_and(tls::Session::has_data) {
            return Ok(Ready { read, write: false });
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, read);
        events.set(PollFlags::POLLOUT, write);
        loop {
            let mut fds = [PollFd::new(self.fd.as_fd(), events)];
            match poll(&mut fds, poll_timeout(deadline)) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) if !deadline.has_passed() => {}
                Ok(_) => {
                    let got = fds[0].revents().unwrap_or(PollFlags::empty());
                    let broken =
                        got.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
                    return Ok(Ready {
                        read: read && (broken || got.contains(PollFlags::POLLIN)),
                        write: write && (broken || got.contains(PollFlags::POLLOUT)),
                    });
                }
            }
        }
    }

    /// Tells whether the other side has closed the connection or it is broken, without reading anything.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        // Nothing but the end of the other side, or an error, makes this ready.
        let event = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        poll(&mut [PollFd::new(self.fd.as_fd(), event)], PollTimeout::ZERO) == Ok(1)
    }

    /// Ends both directions; a thread that waits wakes up. Bytes that have arrived can still be read.
    pub(crate) fn shutdown(&self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.close(&mut Now(self));
        }
        // Fails only when the connection is gone already.
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Both);
    }
}

/// The bytes under TLS, without waiting.
#[cfg(feature = "tls")]
struct Now<'a>(&'a Socket);

#[cfg(feature = "tls")]
impl io::Read for Now<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.0.recv(space, false)
    }
}

#[cfg(feature = "tls")]
impl io::Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Finds a dead host within about a minute instead of two hours.
pub(crate) fn set_keepalive(fd: &impl AsFd) -> nix::Result<()> {
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    #[cfg(target_os = "linux")]
    {
        setsockopt(fd, sockopt::TcpKeepIdle, &30)?;
        setsockopt(fd, sockopt::TcpKeepInterval, &10)?;
        setsockopt(fd, sockopt::TcpKeepCount, &3)?;
        setsockopt(fd, sockopt::TcpUserTimeout, &60_000)?;
    }
    Ok(())
}

/// The next whole millisecond, so that a wait does not end before its deadline and spin.
fn poll_timeout(deadline: Deadline) -> PollTimeout {
    match deadline.left() {
        None => PollTimeout::NONE,
        Some(left) => {
            let ms = left.as_micros().div_ceil(1000).min(3_600_000);
            PollTimeout::try_from(u32::try_from(ms).unwrap_or(3_600_000)).unwrap_or(PollTimeout::MAX)
        }
    }
}
