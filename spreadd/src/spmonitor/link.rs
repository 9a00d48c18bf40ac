//! The way to the daemons: the configuration, and a socket at the address of one of them.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use spread_wire::DaemonName;

use crate::config::{self, Config, LoadError, SystemHost};
use crate::monitor::packet::{Command, ENTRIES, Packet, Request, Status};

/// The port of the original.
pub(super) const PORT: u16 = 6543;

/// Every command is sent so often: nothing says whether it arrived.
const COPIES: usize = 2;

/// Waits between questions for the status that was not answered.
const AGAIN: Duration = Duration::from_millis(300);

/// Longest wait when it is found out why a daemon is silent.
const CONNECT: Duration = Duration::from_millis(500);

/// Longest packet that can be a reply, and more.
const PACKET_MAX: usize = 2048;

/// A configured daemon.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) addr: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    file: PathBuf,
    name: Option<DaemonName>,
    socket: UdpSocket,
    pub(super) peers: Vec<Peer>,
    pub(super) me: usize,
    pub(super) hash: u32,
    /// Whether the configuration has `AcceleratedRing = true`.
    pub(super) accelerated: bool,
    /// Whether it has `DangerousMonitor = true`.
    pub(super) dangerous: bool,
}

impl Link {
    /// Reads the configuration and opens the socket. `port` is 0 for a free one; none for [`PORT`].
    pub(super) fn open(
        file: Option<&Path>,
        name: Option<DaemonName>,
        port: Option<u16>,
    ) -> anyhow::Result<Self> {
        let file = match file {
            Some(file) => file.to_owned(),
            None => config::find().ok_or_else(|| {
                anyhow!(
                    "there is no configuration: neither {}; give one with -c",
                    config::SEARCH.join(" nor ")
                )
            })?,
        };
        let (config, me) = read(&file, name)?;
        let (daemon, _, _) = config.daemon(me).ok_or_else(|| anyhow!("no daemon number {me}"))?;
        let addr = SocketAddr::new(daemon.address.ip, port.unwrap_or(PORT));
        let socket = UdpSocket::bind(addr).with_context(|| match addr.port() {
            0 => format!("cannot open a socket at {}", addr.ip()),
            port => format!("cannot open UDP port {port} of {}; -p takes another port", addr.ip()),
        })?;
        let mut link = Self {
            file,
            name,
            socket,
            peers: Vec::new(),
            me: usize::from(me),
            hash: 0,
            accelerated: false,
            dangerous: false,
        };
        link.take(&config);
        Ok(link)
    }

    fn take(&mut self, config: &Config) {
        let peer = |(daemon, addr): (&config::Daemon, SocketAddr)| Peer {
            name: daemon.name.to_string(),
            id: daemon.virtual_id,
            addr,
        };
        self.peers = config.daemons().zip(config.socket_addrs()).map(peer).collect();
        self.hash = config.hash();
        self.accelerated = config.options.accelerated_ring == Some(true);
        self.dangerous = config.options.dangerous_monitor == Some(true);
    }

    /// Reads the configuration again.
    pub(super) fn reread(&mut self) -> anyhow::Result<()> {
        let (config, me) = read(&self.file, self.name)?;
        let old = self.peers.get(self.me).map(|peer| peer.addr.ip());
        let new = config.daemon(me).map(|(daemon, _, _)| daemon.address.ip);
        if new != old {
            return Err(anyhow!("the address that this monitor uses is another one now: start it again"));
        }
        self.me = usize::from(me);
        self.take(&config);
        Ok(())
    }

    /// The address replies come to.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// A second handle of the socket, for a thread that receives.
    pub(super) fn receiver(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// The number of a daemon.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.name == name)
    }

    fn request(&self, command: Command, numbers: Vec<i16>) -> io::Result<Vec<u8>> {
        let id = self.peers.get(self.me).map_or(0, |peer| peer.id);
        let reply_port = self.local()?.port();
        Ok(Request { command, id, reply_port, hash: self.hash, numbers }.to_bytes())
    }

    /// Asks a daemon for its status.
    pub(super) fn ask(&self, peer: usize) -> io::Result<()> {
        let request = self.request(Command::Status, Vec::new())?;
        match self.peers.get(peer) {
            Some(peer) => self.socket.send_to(&request, peer.addr).map(drop),
            None => Ok(()),
        }
    }

    /// Commands daemons.
    pub(super) fn command(
        &self,
        command: Command,
        numbers: Vec<i16>,
        peers: impl Iterator<Item = usize>,
    ) -> io::Result<()> {
        let request = self.request(command, numbers)?;
        for peer in peers.filter_map(|peer| self.peers.get(peer)) {
            for _ in 0..COPIES {
                self.socket.send_to(&request, peer.addr)?;
            }
        }
        Ok(())
    }

    /// The body of a partition: the component of each daemon.
    pub(super) fn components(&self, of: &[i16]) -> Vec<i16> {
        let mut numbers = of.to_vec();
        numbers.resize(ENTRIES, 0);
        numbers
    }

    /// The body of a flow control command: personal and accelerated window of each daemon, and the global window.
    pub(super) fn windows(&self, of: &[(i16, i16)], global: i16) -> Vec<i16> {
        let mut numbers: Vec<i16> =
            of.iter().flat_map(|(personal, accelerated)| [*personal, *accelerated]).collect();
        numbers.extend([global, 0]);
        numbers.resize(2 * ENTRIES, 0);
        numbers
    }

    /// The daemon that a reply is from, and its status.
    pub(super) fn reply(&self, datagram: &[u8]) -> Option<(usize, Status)> {
        let status = Packet::parse(datagram).ok()?.status()?;
        let peer = self.peers.iter().position(|peer| peer.id == status.my_id)?;
        Some((peer, status))
    }

    /// Asks these daemons until each has answered or `limit` is over. In the order of `peers`.
    pub(super) fn collect(&self, peers: &[usize], limit: Duration) -> anyhow::Result<Vec<Option<Status>>> {
        let mut found: Vec<Option<Status>> = vec![None; peers.len()];
        let (start, mut next) = (Instant::now(), Instant::now());
        let mut buf = [0; PACKET_MAX];
        while found.contains(&None) && start.elapsed() < limit {
            if Instant::now() >= next {
                next = Instant::now() + AGAIN;
                for (peer, _) in peers.iter().zip(&found).filter(|(_, found)| found.is_none()) {
                    // A host without a route is silent like any other.
                    let _ = self.ask(*peer);
                }
            }
            let end = next.min(start + limit);
            let wait = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(wait)).context("cannot wait")?;
            // An error is the end of the wait, or the late refusal of an earlier packet.
            if let Ok(len) = self.socket.recv(&mut buf)
                && let Some((peer, status)) = self.reply(&buf[..len])
                && let Some(at) = peers.iter().position(|p| *p == peer)
                && let Some(slot) = found.get_mut(at)
            {
                *slot = Some(status);
            }
        }
        Ok(found)
    }

    /// Why a daemon may be silent.
    pub(super) fn why_silent(&self, peer: usize) -> String {
        let Some(peer) = self.peers.get(peer) else { return String::new() };
        match TcpStream::connect_timeout(&peer.addr, CONNECT) {
            Ok(_) => format!(
                "port {} takes clients: the daemon has another configuration than this monitor (hash {:#010x}), \
                 or UDP is filtered",
                peer.addr.port(),
                self.hash
            ),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                format!("nothing listens at {}: the daemon is down, or serves no clients there", peer.addr)
            }
            Err(error) => format!("{} cannot be reached: {error}", peer.addr.ip()),
        }
    }
}

fn read(file: &Path, name: Option<DaemonName>) -> anyhow::Result<(Config, u16)> {
    let mut config = config::load(file, &SystemHost).map_err(|error| match error {
        LoadError::Errors(errors) => anyhow!("the configuration has errors\n{}", errors.render(false)),
        other => other.into(),
    })?;
    let me = config.identify(name, &SystemHost).map_err(|errors| {
        anyhow!("this monitor can only run on a host of the configuration\n{}", errors.render(false))
    })?;
    Ok((config, me))
}
