//! The driver's system calls without the ring: what the machine can do, for comparison in benchmarks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use spread_ring::{Class, NodeId, Path};

use super::batch::{Intake, segments};
use super::sockets::{SocketError, SocketOptions, Sockets};
use super::sys::{self, Outgoing, RECV_BATCH};
use super::transport::{Network, NodeAddr, SegmentAddr};

/// Sockets as the ring's, with nothing behind them.
pub struct Bare {
    sockets: Sockets,
    intake: Intake,
    group: socket2::SockAddr,
}

impl std::fmt::Debug for Bare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bare").field("group", &self.group.as_socket()).finish_non_exhaustive()
    }
}

impl Bare {
    /// Opens the sockets: own address, multicast group (both with the group's port).
    ///
    /// # Errors
    ///
    /// As the ring's sockets.
    pub fn open(own: IpAddr, group: SocketAddr, coalesce: bool) -> Result<Self, SocketError> {
        let network = Network {
            nodes: vec![NodeAddr { segment: 0, addrs: vec![own], port: group.port() }],
            segments: vec![SegmentAddr { multicast: Some(group) }],
        };
        let options = SocketOptions { coalesce, ..SocketOptions::default() };
        let sockets = Sockets::open(&network, NodeId(0), &options)?;
        Ok(Self { sockets, intake: Intake::new(), group: group.into() })
    }

    /// Multicasts `bytes` as datagrams of `segment_len`: cut by the kernel in one send, or handed over in
    /// one call as single datagrams. Waits for room.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn multicast(&self, bytes: &[u8], segment_len: u16, offload: bool) -> io::Result<()> {
        let whole = [Outgoing { to: &self.group, bytes, segment_len }];
        let single: Vec<_>;
        let mut rest = if offload {
            &whole[..]
        } else {
            single = segments(bytes.len(), segment_len.into())
                .map(|range| Outgoing { to: &self.group, bytes: &bytes[range], segment_len })
                .collect();
            &single[..]
        };
        while !rest.is_empty() {
            match sys::send_batch(self.sockets.output(Class::Data), rest) {
                Ok(n) => rest = &rest[n.min(rest.len())..],
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    sys::wait_writable(self.sockets.output(Class::Data), Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends one datagram to an address.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.sockets.reply(to, bytes).map(|_| ())
    }

    /// Waits up to `timeout` for datagrams of the group (`multicast`) or to the own address, and hands
    /// each to `take`. Returns how many came.
    ///
    /// # Errors
    ///
    /// What the kernel says, but for "nothing there".
    pub fn receive(
        &mut self,
        multicast: bool,
        timeout: Duration,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let path = if multicast { Path::Multicast } else { Path::Unicast };
        let input = self
            .sockets
            .inputs
            .iter()
            .find(|input| input.path == path && input.class == Class::Data)
            .ok_or(io::ErrorKind::NotConnected)?;
        let runs = match self.intake.read(input.as_fd(), RECV_BATCH) {
            Ok(runs) => runs,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !timeout.is_zero() => {
                let mut waiter = sys::Waiter::new([std::os::fd::AsRawFd::as_raw_fd(&input.as_fd())]);
                waiter.wait(timeout)?;
                return self.receive(multicast, Duration::ZERO, take);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut count = 0;
        for run in 0..runs {
            let Some((received, data)) = self.intake.run(run) else { break };
            for range in segments(received.len, received.segment_len) {
                count += 1;
                take(&data[range]);
            }
        }
        Ok(count)
    }
}
