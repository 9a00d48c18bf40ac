//! The sockets: data port P and token port P + 1 on each own address, and one socket per multicast or
//! broadcast address of the own segment.
//!
//! Binding to addresses, not to the wildcard, lets several daemons share a host and a port (127.0.0.1,
//! 127.0.0.2, ...), and tells by the socket whether a packet came by multicast. spec: ring-protocol 6.3

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use spread_ring::{Class, NodeId, Path};
use tracing::{debug, warn};

use super::batch::SendCall;
use super::sys::{self, Outgoing};
use super::transport::Network;
use super::waker::Waker;

/// Properties of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Receive buffer of the data sockets in bytes; the token socket gets a sixteenth.
    pub receive_buffer: usize,
    /// Send buffer in bytes.
    pub send_buffer: usize,
    /// Hops that multicasts may take.
    pub multicast_ttl: u32,
    /// Type-of-service byte of IPv4 packets.
    pub tos: Option<u32>,
    /// Let the kernel poll the device for so many microseconds (`SO_BUSY_POLL`).
    pub busy_poll_us: Option<u32>,
    /// Let the kernel coalesce received datagrams (`UDP_GRO`).
    pub coalesce: bool,
    /// Send runs of equal packets in one call (`UDP_SEGMENT`).
    pub offload: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            receive_buffer: 16 << 20,
            send_buffer: 4 << 20,
            multicast_ttl: 1,
            tos: None,
            busy_poll_us: None,
            coalesce: true,
            offload: true,
        }
    }
}

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a socket for {addr}: {what}")]
pub struct SocketError {
    /// The address.
    pub addr: SocketAddr,
    /// The step that failed.
    pub what: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// A receiving socket and what it is for.
pub(super) struct Input {
    socket: Socket,
    pub(super) class: Class,
    pub(super) path: Path,
    /// Drop counter at the last look.
    pub(super) dropped: u32,
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All sockets of a daemon. The first two are those for sending: data, token.
pub(super) struct Sockets {
    pub(super) inputs: Vec<Input>,
    options: SocketOptions,
}

impl Sockets {
    /// Opens the sockets of the daemon `me`.
    pub(super) fn open(network: &Network, me: NodeId, options: &SocketOptions) -> Result<Self, SocketError> {
        let own = &network.nodes[me.index()];
        let looped = shares_host(network, me);
        let mut inputs = Vec::new();
        for (i, ip) in own.addrs.iter().enumerate() {
            for (class, port) in [(Class::Data, own.port), (Class::Token, own.port + 1)] {
                let addr = SocketAddr::new(*ip, port);
                let socket = bound(addr, false, class, options)?;
                if i == 0 {
                    set_multicast_sender(&socket, *ip, looped, options).map_err(|source| SocketError {
                        addr,
                        what: "set the multicast interface",
                        source,
                    })?;
                }
                inputs.push(Input { socket, class, path: Path::Unicast, dropped: 0 });
            }
        }
        inputs.extend(shared(network, me, options)?);
        debug!(sockets = inputs.len(), looped, "Ring sockets are open.");
        Ok(Self { inputs, options: options.clone() })
    }

    /// Makes the sockets those of another network in which the addresses of the daemon `me` are the same: the
    /// segment's address may come or go, and another daemon on this host.
    ///
    /// # Errors
    /// The segment's address cannot be used; there is no socket for it then.
    pub(super) fn adjust(&mut self, network: &Network, me: NodeId) -> Result<(), SocketError> {
        let own = &network.nodes[me.index()];
        let had = self.inputs.iter().any(|input| input.path == Path::Multicast);
        let has = network.segments.get(usize::from(own.segment)).is_some_and(|s| s.multicast.is_some());
        if !has {
            self.inputs.retain(|input| input.path != Path::Multicast);
            return Ok(());
        }
        let ip = own.addrs[0];
        let fail = |what| move |source| SocketError { addr: SocketAddr::new(ip, own.port), what, source };
        let looped = shares_host(network, me);
        set_multicast_sender(&self.inputs[0].socket, ip, looped, &self.options)
            .map_err(fail("set the multicast interface"))?;
        if !had {
            self.inputs.extend(shared(network, me, &self.options)?);
        }
        Ok(())
    }

    /// The descriptors to wait for: those of the inputs, then the waker's.
    pub(super) fn fds(&self, waker: &Waker) -> impl Iterator<Item = RawFd> {
        self.inputs.iter().map(|input| input.as_fd().as_raw_fd()).chain([waker.as_fd().as_raw_fd()])
    }

    /// The socket that packets of this class leave by.
    pub(super) fn output(&self, class: Class) -> BorrowedFd<'_> {
        match class {
            Class::Data => self.inputs[0].as_fd(),
            Class::Token => self.inputs[1].as_fd(),
        }
    }

    /// Sends one datagram that is no ring packet. The result does not matter: the peer asks again.
    pub(super) fn reply(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
        self.inputs[0].socket.send_to(bytes, &to.into())
    }

    /// Bytes of the smallest data receive buffer, as the kernel granted them.
    pub(super) fn receive_buffer(&self) -> usize {
        self.inputs
            .iter()
            .filter(|input| input.class == Class::Data)
            .filter_map(|input| input.socket.recv_buffer_size().ok())
            .min()
            .unwrap_or(0)
    }
}

/// The socket of the segment's address, if it has one of the family of this daemon.
fn shared(network: &Network, me: NodeId, options: &SocketOptions) -> Result<Option<Input>, SocketError> {
    let own = &network.nodes[me.index()];
    let addr = network.segments.get(usize::from(own.segment)).and_then(|s| s.multicast);
    let Some((addr, ip)) = addr.and_then(|addr| {
        let ip = own.addrs.iter().find(|ip| ip.is_ipv4() == addr.is_ipv4())?;
        Some((addr, *ip))
    }) else {
        return Ok(None);
    };
    let socket = bound(addr, true, Class::Data, options)?;
    if addr.ip().is_multicast() {
        let what = "join the multicast group";
        join(&socket, addr.ip(), ip).map_err(|source| SocketError { addr, what, source })?;
    }
    Ok(Some(Input { socket, class: Class::Data, path: Path::Multicast, dropped: 0 }))
}

impl SendCall for &Sockets {
    fn send(&mut self, class: Class, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        sys::send_batch(self.output(class), messages)
    }
}

/// Opens and binds a socket.
fn bound(
    addr: SocketAddr,
    shared: bool,
    class: Class,
    options: &SocketOptions,
) -> Result<Socket, SocketError> {
    let fail = |what| move |source| SocketError { addr, what, source };
    let socket =
        Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).map_err(fail("create"))?;
    socket.set_nonblocking(true).map_err(fail("make non-blocking"))?;
    if shared {
        // Each daemon of the segment on this host has a socket with the multicast address.
        socket.set_reuse_address(true).map_err(fail("share the address"))?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(true).map_err(fail("limit to IPv6"))?;
    }
    // A broadcast address may be the destination of this daemon's own packets.
    socket.set_broadcast(true).map_err(fail("allow broadcast"))?;
    let receive = match class {
        Class::Data => options.receive_buffer,
        Class::Token => options.receive_buffer / 16,
    };
    set_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive).map_err(fail("set buffers"))?;
    set_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer)
        .map_err(fail("set buffers"))?;
    // The ring chooses packet sizes that fit; fragments cost many times more than whole packets.
    let (level, name, value) = if addr.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    sys::set_option(socket.as_fd(), level, name, value).map_err(fail("forbid fragments"))?;
    optional(addr, "SO_RXQ_OVFL", sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1));
    if options.coalesce {
        optional(addr, "UDP_GRO", sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1));
    }
    if let Some(us) = options.busy_poll_us {
        optional(addr, "SO_BUSY_POLL", socket.set_busy_poll(us));
    }
    if let Some(tos) = options.tos.filter(|_| addr.is_ipv4()) {
        optional(addr, "IP_TOS", socket.set_tos_v4(tos));
    }
    if addr.is_ipv4() {
        optional(addr, "IP_MULTICAST_ALL", socket.set_multicast_all_v4(false));
    } else {
        optional(addr, "IPV6_MULTICAST_ALL", socket.set_multicast_all_v6(false));
    }
    socket.bind(&addr.into()).map_err(fail("bind"))?;
    Ok(socket)
}

/// Notes that a wish was not granted; the daemon works without it.
fn optional(addr: SocketAddr, option: &str, result: io::Result<()>) {
    if let Err(error) = result {
        debug!(%addr, option, %error, "The kernel does not grant a socket option.");
    }
}

/// Sets a buffer size beyond the system's limit if the process may, otherwise up to the limit.
fn set_buffer(socket: &Socket, force: i32, normal: i32, bytes: usize) -> io::Result<()> {
    // The kernel doubles the value for its own overhead.
    let value = i32::try_from(bytes / 2).unwrap_or(i32::MAX / 2);
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, force, value)
        .or_else(|_| sys::set_option(socket.as_fd(), libc::SOL_SOCKET, normal, value))
}

fn set_multicast_sender(
    socket: &Socket,
    own: IpAddr,
    looped: bool,
    options: &SocketOptions,
) -> io::Result<()> {
    match own {
        IpAddr::V4(ip) => {
            socket.set_multicast_if_v4(&ip)?;
            socket.set_multicast_ttl_v4(options.multicast_ttl)?;
            socket.set_multicast_loop_v4(looped)
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(interface_index(own)?)?;
            socket.set_multicast_hops_v6(options.multicast_ttl)?;
            socket.set_multicast_loop_v6(looped)
        }
    }
}

fn join(socket: &Socket, group: IpAddr, own: IpAddr) -> io::Result<()> {
    match (group, own) {
        (IpAddr::V4(group), IpAddr::V4(own)) => socket.join_multicast_v4(&group, &own),
        (IpAddr::V6(group), own) => socket.join_multicast_v6(&group, interface_index(own)?),
        _ => Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
    }
}

/// The local addresses with the names of their interfaces.
fn local_addrs() -> io::Result<Vec<(IpAddr, String)>> {
    let found = getifaddrs()?.filter_map(|entry| {
        let storage = entry.address?;
        let ip = storage
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        Some((ip, entry.interface_name))
    });
    Ok(found.collect())
}

fn interface_index(own: IpAddr) -> io::Result<u32> {
    let name = local_addrs()?
        .into_iter()
        .find(|(ip, _)| *ip == own)
        .map(|(_, name)| name)
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok(if_nametoindex(name.as_str())?)
}

/// Whether another configured daemon lives on this host, so that multicasts must come back.
fn shares_host(network: &Network, me: NodeId) -> bool {
    let local = local_addrs().unwrap_or_else(|error| {
        warn!(%error, "Cannot list the addresses of this host.");
        Vec::new()
    });
    (0..).map(NodeId).zip(&network.nodes).filter(|(node, _)| *node != me).any(|(_, other)| {
        other.addrs.iter().any(|ip| ip.is_loopback() || local.iter().any(|(own, _)| own == ip))
    })
}

/// The MTU of the interface that holds `own`, if it can be found.
pub fn interface_mtu(own: IpAddr) -> Option<usize> {
    let addrs = local_addrs().ok()?;
    let loopback = own.is_loopback().then_some("lo");
    let name = addrs.iter().find(|(ip, _)| *ip == own).map(|(_, name)| name.as_str()).or(loopback)?;
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// The largest ring packet (header included, protection not) for an interface with this MTU.
pub fn packet_len_max(mtu: usize, own: IpAddr) -> usize {
    let headers = if own.is_ipv4() { 20 + 8 } else { 40 + 8 };
    mtu.saturating_sub(headers + super::TRAILER_MAX)
}
