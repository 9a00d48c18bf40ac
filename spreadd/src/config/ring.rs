//! From the file to the ring: who is in it, where, and with which limits.
//!
//! Source: `spec/daemon-config.md#3`, `spec/ring-protocol.md#4.9`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use spread_ring::{NodeId, RingConfig, Timers, Windows};

use crate::config::host::Host;
use crate::config::model::{Config, Daemon, Segment, Use};
use crate::ring_driver::{Network, NodeAddr, SegmentAddr};

impl Config {
    /// What the ring engine of daemon `me` must be told.
    pub fn ring_config(&self, me: u16) -> RingConfig {
        RingConfig {
            windows: self.windows(),
            timers: self.timers(),
            ..RingConfig::new(NodeId(me), self.segment_numbers(), self.ring_hash())
        }
    }

    /// The windows that the file gives. `AcceleratedRing = false` sends everything before the token.
    pub fn windows(&self) -> Windows {
        let options = &self.options;
        Windows {
            window: options.window,
            personal: options.personal_window,
            accelerated: match options.accelerated_ring {
                Some(false) => Some(0),
                _ => options.accelerated_window,
            },
        }
    }

    /// The timers: those of the file, otherwise our defaults for local or wide-area networks.
    pub fn timers(&self) -> Timers {
        let defaults = if self.is_wide_area() { Timers::wan() } else { Timers::lan() };
        let Some(given) = self.options.timeouts else { return defaults };
        Timers {
            token: given.token,
            rto_min: defaults.rto_min.min(given.hurry),
            rto_max: given.hurry,
            presence: given.alive,
            // A silent daemon must be given up before the token is, and not before it could speak twice.
            dead: (4 * given.alive).min(given.token * 4 / 5).max(2 * given.alive),
            // Several joins must fit into the phase that waits for them; more joins do no harm.
            join: given.join.min(given.gather / 6).max(Duration::from_millis(1)),
            consensus: given.gather,
            commit: given.form,
            probe_max: given.lookup,
            ..defaults
        }
    }

    /// Where the daemons are, as daemon `me` sees it.
    pub fn network(&self, me: u16, host: &dyn Host) -> Network {
        let own = self.daemon(me).map(|(_, _, segment)| segment);
        let segments = (0u16..).zip(&self.segments).map(|(number, segment)| SegmentAddr {
            multicast: if own == Some(number) { shared_address(segment, host) } else { None },
        });
        let nodes = (0u16..).zip(&self.segments).flat_map(|(number, segment)| {
            segment.daemons.iter().map(move |daemon| NodeAddr {
                segment: number,
                addrs: addresses(daemon),
                port: segment.port,
            })
        });
        Network { nodes: nodes.collect(), segments: segments.collect() }
    }

    /// The address on which daemon `me` reaches its whole segment at once. `None`: the segment has only one
    /// daemon, or no address that is multicast, or broadcast on this host; then everybody gets a copy.
    pub fn shared_address(&self, me: u16, host: &dyn Host) -> Option<SocketAddr> {
        shared_address(self.daemon(me)?.1, host)
    }
}

/// A daemon's address and the others that its packets may come from.
fn addresses(daemon: &Daemon) -> Vec<IpAddr> {
    let mut addrs = vec![daemon.address.ip];
    for listen in daemon.listens_on(Use::DAEMON).into_iter().flatten() {
        let ip = listen.ip;
        let fits = !ip.is_unspecified() && !ip.is_multicast() && ip.is_ipv4() == daemon.address.ip.is_ipv4();
        if fits && !addrs.contains(&ip) {
            addrs.push(ip);
        }
    }
    addrs
}

fn shared_address(segment: &Segment, host: &dyn Host) -> Option<SocketAddr> {
    if segment.daemons.len() < 2 {
        return None;
    }
    let addresses = || segment.addresses.iter().map(|a| a.ip);
    let multicast = addresses().find(IpAddr::is_multicast);
    // Without the list of networks no address counts as broadcast: then copies are sent, which always works.
    let broadcast = || host.broadcast_addresses().ok()?.into_iter().find(|ip| addresses().any(|a| a == *ip));
    Some(SocketAddr::new(multicast.or_else(broadcast)?, segment.port))
}
