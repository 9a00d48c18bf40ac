//! What the layer above orders of the driver while it runs.

use std::time::Duration;

use spread_ring::{
    Condition, ConfigError, Mid, Nanos, NodeId, NodeSet, RingConfig, Stats, Successor, Timers, Windows,
};
use tracing::{error, info, warn};

use super::blackbox::What;
use super::driver::{Driver, Engine, Upper};
use super::sys::Waiter;
use super::transport::{Network, NetworkError, Transport};

/// A change of the driver or its engine; see [`Upper::poll_order`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Order {
    /// Takes packets of these daemons only: what a partition of the network does.
    Admit(NodeSet),
    /// Uses these windows.
    Windows(Windows),
    /// Uses these time limits.
    Timers(Box<Timers>),
    /// Uses these addresses; those of this daemon are the present ones.
    Network(Box<Network>),
    /// Goes on under another configuration.
    Reconfigure(Box<Reconfiguration>),
    /// Leaves the ring.
    Leave,
}

/// Another configuration: who is in the ring, and where.
#[derive(Clone, Debug)]
pub struct Reconfiguration {
    /// The engine's configuration.
    pub ring: RingConfig,
    /// Addresses. Those of this daemon are the present ones.
    pub network: Network,
    /// Separates the keys of clusters that share a key file.
    pub cluster: Vec<u8>,
    /// The new numbers by old number, `None` for daemons that are not configured any more.
    pub numbers: Vec<Option<NodeId>>,
    /// The ring that goes on.
    pub successor: Successor,
}

/// Whether the driver of the daemon `me` can work with a network.
///
/// # Errors
/// [`NetworkError`].
pub fn check_network(network: &Network, me: NodeId) -> Result<(), NetworkError> {
    Transport::new(network, me).map(drop)
}

/// What an engine shows of itself: its state and its counters.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is doing.
    pub condition: Condition,
    /// Its counters.
    pub stats: Stats,
}

impl<E: Engine, U: Upper> Driver<E, U> {
    /// Does what the layer above orders.
    pub(super) fn orders(&mut self, now: Nanos) {
        while let Some(order) = self.upper.poll_order() {
            // The engine may have something to send or deliver.
            self.unfinished = true;
            match order {
                Order::Admit(nodes) => self.admitted = nodes,
                Order::Windows(windows) => self.engine.set_windows(windows),
                Order::Timers(timers) => {
                    self.pause_min = pause_min(&timers);
                    if let Err(error) = self.engine.set_timers(*timers) {
                        error!(%error, "The engine does not take the time limits.");
                    }
                }
                Order::Network(network) => match self.use_network(*network) {
                    Ok(transport) => self.transport = transport,
                    Err(error) => error!(%error, "The new addresses are not used."),
                },
                Order::Leave => self.engine.leave(now),
                Order::Reconfigure(change) => {
                    if let Err(error) = self.reconfigure(now, *change) {
                        // What was agreed on cannot be done here. Better to be away than to be wrong.
                        error!(%error, "This daemon cannot go on under the new configuration; it leaves.");
                        self.engine.leave(now);
                    }
                }
            }
        }
    }

    /// Makes the sockets those of another network.
    fn use_network(&mut self, mut network: Network) -> Result<Transport, NetworkError> {
        let me = self.peers.me();
        if let Err(error) = self.sockets.adjust(&network, me) {
            warn!(%error, "The segment address cannot be used; every daemon gets a copy of each packet instead.");
            let own = network.nodes.get(me.index()).map(|node| usize::from(node.segment));
            if let Some(segment) = own.and_then(|segment| network.segments.get_mut(segment)) {
                segment.multicast = None;
            }
        }
        // Sockets may have come or gone.
        self.waiter = Waiter::new(self.sockets.fds(&self.waker));
        self.more.clear();
        self.more.resize(self.sockets.inputs.len(), true);
        Transport::new(&network, me)
    }

    fn reconfigure(&mut self, now: Nanos, change: Reconfiguration) -> Result<(), Impossible> {
        let Reconfiguration { ring, network, cluster, numbers, successor } = change;
        let me = ring.me;
        check_network(&network, me)?;
        let [a, b, c, d, ..] = ring.hash;
        let (pause, nodes) = (pause_min(&ring.timers), ring.nodes.len());
        // What was sent and not yet put on the wire belongs to the former configuration.
        self.transmit(now);
        let members = successor.members.len();
        let epoch = successor.id.epoch;
        let session = successor.members.iter().find(|mid| mid.node == me).map_or(0, |mid| mid.session);
        self.engine.reconfigure(now, ring, &numbers, successor)?;
        self.tokens.clear();
        self.peers.renumber(me, nodes, [a, b, c, d], &numbers);
        self.watch.renumber(&numbers);
        self.sealer.rename(&cluster, Mid { node: me, session });
        self.transport = self.use_network(network)?;
        self.admitted = NodeSet(u128::MAX);
        self.pause_min = pause;
        self.full = false;
        self.more_submissions = true;
        self.blackbox.note(now, What::Reconfigured, Some(me), epoch, members as u64);
        info!(daemons = nodes, members, "The ring goes on under the new configuration.");
        Ok(())
    }
}

/// A thread that does not run for so long has paused.
pub(super) fn pause_min(timers: &Timers) -> Duration {
    timers.token / 4
}

/// Why a configuration that was checked before cannot be used.
#[derive(Debug, thiserror::Error)]
enum Impossible {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Ring(#[from] ConfigError),
}
