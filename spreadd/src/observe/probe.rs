//! Asking the parts of a running daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use spread_wire::DaemonName;

use crate::alone::AskAlone;
use crate::hub::Hub;
use crate::hub::report::HubReport;
use crate::monitor::MonitorStats;
use crate::reload::Present;
use crate::ring_driver::{Asker, Report};
use crate::session::SessionStats;
use crate::session::registry::Registry;
use crate::session::stats::Counters;

/// Who the daemon is, as it was started; see [`Probe::identity`].
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: DaemonName,
    pub(crate) me: u16,
    pub(crate) port: u16,
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) local: Option<PathBuf>,
    pub(crate) sessions_max: usize,
    pub(crate) session_messages_max: usize,
    /// The hash of the configuration; `None` for a daemon without others.
    pub(crate) hash: Option<[u8; 16]>,
    /// Whether packets between daemons are encrypted.
    pub(crate) encrypted: bool,
    /// By node number.
    pub(crate) addresses: Vec<String>,
}

impl Identity {
    /// Takes over what the ring's options say.
    pub(crate) fn ring(&mut self, options: &crate::RingOptions) {
        self.hash = Some(options.ring.hash);
        self.encrypted = options.keys.is_some();
        let address = |node: &crate::ring_driver::NodeAddr| {
            node.addrs.first().map_or_else(String::new, |ip| SocketAddr::new(*ip, node.port).to_string())
        };
        self.addresses = options.network.nodes.iter().map(address).collect();
    }
}

/// The way to the ring thread.
pub(crate) enum RingLink {
    Alone(AskAlone<Hub>),
    Ring(Asker<Hub>),
}

impl RingLink {
    fn report(&self) -> Option<Report> {
        match self {
            Self::Alone(ask) => ask.report(),
            Self::Ring(ask) => ask.report(),
        }
    }

    fn hub(&self, detail: Detail) -> Option<HubReport> {
        let look = move |hub: &mut Hub| hub.report(detail.sessions, detail.groups);
        match self {
            Self::Alone(ask) => ask.visit(look),
            Self::Ring(ask) => ask.visit(look),
        }
    }

    fn blackbox(&self) -> Option<String> {
        match self {
            Self::Alone(_) => Some(String::new()),
            Self::Ring(ask) => ask.blackbox(),
        }
    }
}

/// How much to list one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detail {
    pub(crate) sessions: usize,
    pub(crate) groups: usize,
}

impl Detail {
    /// For `spreadd status`: bounds the answer to about 2 MB.
    pub(crate) const STATUS: Self = Self { sessions: 4096, groups: 4096 };
    /// For metrics: sums only.
    pub(crate) const SUMS: Self = Self { sessions: 0, groups: 0 };
}

/// Everything there is to know, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) identity: Identity,
    pub(crate) started: SystemTime,
    pub(crate) uptime: std::time::Duration,
    pub(crate) sessions_live: usize,
    pub(crate) counters: SessionStats,
    pub(crate) monitor: Arc<MonitorStats>,
    pub(crate) ring: Report,
    pub(crate) hub: HubReport,
}

/// Asks the parts of the daemon. Shared by the control socket, the metrics and the watchdog.
pub(crate) struct Probe {
    identity: Identity,
    present: Present,
    started: SystemTime,
    since: Instant,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    monitor: Arc<MonitorStats>,
    ring: Mutex<Arc<RingLink>>,
}

impl Probe {
    pub(crate) fn new(
        identity: Identity,
        present: Present,
        registry: Arc<Registry>,
        counters: Arc<Counters>,
        monitor: Arc<MonitorStats>,
        ring: RingLink,
    ) -> Self {
        Self {
            identity,
            present,
            started: SystemTime::now(),
            since: Instant::now(),
            registry,
            counters,
            monitor,
            ring: Mutex::new(Arc::new(ring)),
        }
    }

    /// Who the daemon is under the configuration in force.
    fn identity(&self) -> Identity {
        let mut identity = self.identity.clone();
        if let Some((config, me)) = self.present.get() {
            identity.me = me;
            identity.hash = Some(config.ring_hash());
            identity.addresses = config.socket_addrs().map(|addr| addr.to_string()).collect();
            if let Some(messages) = config.options.max_session_messages {
                identity.session_messages_max = usize::try_from(messages).unwrap_or(usize::MAX);
            }
        }
        identity
    }

    fn ring(&self) -> Arc<RingLink> {
        Arc::clone(&self.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at everything. Blocks until the ring thread has answered, at most about 4 seconds; `None` if it
    /// does not.
    pub(crate) fn look(&self, detail: Detail) -> Option<Look> {
        let link = self.ring();
        let ring = link.report()?;
        let hub = link.hub(detail)?;
        Some(Look {
            identity: self.identity(),
            started: self.started,
            uptime: self.since.elapsed(),
            sessions_live: self.registry.live(),
            counters: self.counters.read(),
            monitor: Arc::clone(&self.monitor),
            ring,
            hub,
        })
    }

    /// The last events of the ring thread, one per line; blocks like [`Self::look`].
    pub(crate) fn blackbox(&self) -> Option<String> {
        self.ring().blackbox()
    }

    /// Whether the ring thread answers.
    pub(crate) fn answers(&self) -> bool {
        self.ring().report().is_some()
    }
}
