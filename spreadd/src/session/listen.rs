//! The sockets clients connect to: TCP on the port of the daemon, and a Unix socket named after it.
//!
//! spec: client-protocol 1.1

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

/// Connections the system keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process has the port.
    #[error(
        "TCP port {} on address {} is in use by another process. Is a spreadd already running? `ss -ltnp` \
         shows who has the port; stop that process or give this daemon another port",
        addr.port(), addr.ip()
    )]
    InUse {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address is of another host.
    #[error("address {addr} does not belong to this host, so clients cannot be served there")]
    NotLocal {
        /// What was asked for.
        addr: IpAddr,
    },
    /// The system refused for another reason.
    #[error("cannot listen on TCP port {} of address {}", addr.port(), addr.ip())]
    Tcp {
        /// What was asked for.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// There is a file where the Unix socket should be.
    #[error("{} exists and is not a socket: remove it, or choose another directory for the local socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The Unix socket cannot be made.
    #[error("cannot make the local socket {}", path.display())]
    Unix {
        /// Its name.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// All listeners of a daemon. Dropping it removes the Unix socket's file.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) tcp: Vec<std::net::TcpListener>,
    pub(crate) unix: Option<std::os::unix::net::UnixListener>,
    file: Option<SocketFile>,
    port: u16,
}

/// Where TCP clients are served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tcp<'a> {
    /// Nowhere.
    None,
    /// On all addresses of the host.
    Everywhere,
    /// On these.
    On(&'a [IpAddr]),
}

impl Listeners {
    /// Opens them, TCP on `port` and a Unix socket in `unix_dir` if there is one. Port 0 takes a free port.
    ///
    /// If another daemon already serves the Unix socket this is logged, and the daemon runs without one.
    pub(crate) fn open(on: Tcp<'_>, port: u16, unix_dir: Option<&Path>) -> Result<Self, ListenError> {
        let mut port = port;
        let mut tcp = Vec::new();
        match on {
            Tcp::None => {}
            Tcp::Everywhere => {
                let listener = listen_everywhere(port)?;
                port = local_port(&listener, port);
                tcp.push(listener);
            }
            Tcp::On(addrs) => {
                for addr in addrs {
                    let listener = listen_tcp(SocketAddr::new(*addr, port), false)?;
                    port = local_port(&listener, port);
                    tcp.push(listener);
                }
            }
        }
        let mut unix = None;
        let mut file = None;
        if let Some(dir) = unix_dir {
            let path = dir.join(port.to_string());
            if let Some((listener, socket_file)) = listen_unix(&path, CLIENTS)? {
                unix = Some(listener);
                file = Some(socket_file);
            } else {
                warn!(path = %path.display(), "Another daemon serves the local socket; going on without one.");
            }
        }
        Ok(Self { tcp, unix, file, port })
    }

    /// The port that was asked for, or the free one that was taken.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where clients can connect.
    pub(crate) fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The path of the Unix socket.
    pub(crate) fn unix_path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Takes the file's guard out: the file is removed when that is dropped.
    pub(crate) fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

/// One IPv6 socket that also takes IPv4 clients; where the host has no IPv6, an IPv4 socket.
fn listen_everywhere(port: u16) -> Result<std::net::TcpListener, ListenError> {
    match listen_tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), true) {
        Err(ListenError::Tcp { .. } | ListenError::NotLocal { .. }) => {
            listen_tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false)
        }
        other => other,
    }
}

fn listen_tcp(addr: SocketAddr, both_families: bool) -> Result<std::net::TcpListener, ListenError> {
    let open = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!both_families)?;
        }
        // Lets a restarted daemon bind while connections of the old one are still in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr },
        io::ErrorKind::AddrNotAvailable => ListenError::NotLocal { addr: addr.ip() },
        _ => ListenError::Tcp { addr, source },
    })
}

fn local_port(listener: &std::net::TcpListener, asked: u16) -> u16 {
    listener.local_addr().map_or(asked, |addr| addr.port())
}

/// The local socket for clients is open for everybody.
const CLIENTS: u32 = 0o666;

/// Makes the socket, in place of one that a dead daemon left. `None` if a living one is there.
pub(crate) fn listen_unix(
    path: &Path,
    mode: u32,
) -> Result<Option<(std::os::unix::net::UnixListener, SocketFile)>, ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            fs::remove_file(path).map_err(failed)?;
        }
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(Some((listener, file)))
}

/// The file of a Unix socket, removed when dropped, unless somebody else has put another one there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "Cannot remove the local socket.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_socket_is_replaced_and_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let listeners = Listeners::open(Tcp::On(&loopback), 0, Some(dir.path())).unwrap();
        let path = listeners.unix_path().unwrap().to_owned();
        assert_eq!(path, dir.path().join(listeners.port().to_string()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        drop(listeners);
        assert!(!path.exists());

        // A dead daemon's socket.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (listener, file) = listen_unix(&path, CLIENTS).unwrap().unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(listen_unix(&path, CLIENTS).unwrap().is_none(), "a living daemon keeps its socket");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("4803");
        fs::write(&path, "precious").unwrap();
        let error = listen_unix(&path, CLIENTS).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn port_in_use_names_address_and_port() {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let first = Listeners::open(Tcp::On(&loopback), 0, None).unwrap();
        let error = Listeners::open(Tcp::On(&loopback), first.port(), None).unwrap_err();
        let expected = format!("TCP port {} on address 127.0.0.1 is in use", first.port());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    #[test]
    fn foreign_address_is_named() {
        let error = Listeners::open(Tcp::On(&["192.0.2.1".parse().unwrap()]), 0, None).unwrap_err();
        assert!(error.to_string().starts_with("address 192.0.2.1 does not belong to this host"), "{error}");
    }
}
