//! A whole daemon inside a process: what the program `spreadd` is made of, and what tests start on free ports.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use spread_groups::{Groups, GroupsConfig};
use spread_ring::RingConfig;
use spread_wire::{DaemonName, limits};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tracing::error;

use crate::alone::{Alone, AloneError};
use crate::config::{Config, Variants, virtual_id};
use crate::hub::{Hub, SlowLimits};
use crate::monitor::packet::Command as MonitorCommand;
use crate::monitor::{Cluster, Monitor, MonitorStats, Refused};
use crate::observe::{self, Identity, Probe, RingLink};
use crate::reload::{self, Change, Live, LiveParts, Present, Reloaded, Unchangeable};
use crate::ring_driver::{self, DriverConfig, KeyRing, Network, Protection, SocketOptions, Waker};
use crate::session::brake::Brake;
use crate::session::handshake::Times;
use crate::session::inbox::Inbox;
use crate::session::listen::{Listeners, SocketFile, Tcp};
use crate::session::policy::{Access, Permit, Policy};
use crate::session::quiet::Quiet;
use crate::session::registry::Registry;
use crate::session::spill::{self, SpillRules};
use crate::session::stats::Counters;
use crate::session::tls::Acceptor;
use crate::session::{
    Auth, ListenError, SessionStats, Shared, SlowRules, TlsError, TlsOptions, accept_local, accept_tcp,
    accept_tls,
};
use crate::state::{self, EpochFile, StateError};

/// Directory of the local socket unless another is given; the client libraries look there.
pub const SOCKET_DIR: &str = "/tmp";

/// Sessions at once unless the configuration says otherwise. Spread 5 takes 997.
const SESSIONS_MAX: usize = 16_384;

/// A refused client is waited for so long until it has taken its code.
const LINGER: Duration = Duration::from_secs(1);

/// Most time for the threads that serve clients to end.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Everything a daemon must be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// All configured daemons in configuration order: segment after segment.
    pub daemons: Vec<Member>,
    /// Which of them this one is, from 0.
    pub me: u16,
    /// Port for clients; 0 takes a free one, see [`Daemon::port`].
    pub port: u16,
    /// Addresses on which TCP clients are served. Empty: all addresses of the host.
    pub listen: Vec<IpAddr>,
    /// Directory of the local socket; its name is the port. `None`: no local socket.
    pub socket_dir: Option<PathBuf>,
    /// Directory of the control socket, which `spreadd status` asks. `None`: there is none.
    pub control_dir: Option<PathBuf>,
    /// Where metrics are served over HTTP. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Directory of the state file, which keeps identifiers of groups from being used twice whatever the clock
    /// says. `None`: there is none.
    pub state_dir: Option<PathBuf>,
    /// TLS for clients. `None`: there is none.
    pub tls: Option<TlsOptions>,
    /// Who may connect.
    pub auth: Auth,
    /// What is done with messages for clients that do not read.
    pub slow: SlowRules,
    /// Directory for messages that wait on disk; needed for [`SlowAction::Spill`](crate::SlowAction::Spill).
    pub spill_dir: Option<PathBuf>,
    /// What clients may do.
    pub policy: Arc<dyn Policy>,
    /// Limits of the sessions.
    pub limits: SessionLimits,
    /// Threads that serve clients.
    pub threads: usize,
    /// Whether TCP clients are served at all.
    pub serve_tcp: bool,
    /// The ring of the configured daemons. `None`: this daemon is alone, and opens no UDP socket.
    pub ring: Option<RingOptions>,
    /// The configuration that all this was made from.
    pub config: Option<Arc<Config>>,
    /// Whether a monitor may ask for a reload of the configuration.
    pub monitor_reload: bool,
}

/// How the daemons reach each other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RingOptions {
    /// The engine's configuration.
    pub ring: RingConfig,
    /// Addresses of all daemons.
    pub network: Network,
    /// Properties of the UDP sockets.
    pub sockets: SocketOptions,
    /// Separates the keys of clusters that share a key file.
    pub cluster: Vec<u8>,
    /// Keys; `None`: packets are in clear, with a checksum.
    pub keys: Option<KeyRing>,
    /// What is done with keys.
    pub protection: Protection,
    /// Names what is different in the configuration of a daemon that is refused.
    pub variants: Arc<Variants>,
}

impl RingOptions {
    /// Default sockets and no keys.
    pub fn new(ring: RingConfig, network: Network) -> Self {
        let cluster = ring.hash.to_vec();
        Self {
            ring,
            network,
            sockets: SocketOptions::default(),
            cluster,
            keys: None,
            protection: Protection::default(),
            variants: Arc::default(),
        }
    }
}

/// A configured daemon as its group members see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name: the last part of the private groups of its clients.
    pub name: DaemonName,
    /// Its number in group identifiers: the configured `VirtualID`, or [`virtual_id`] of its name.
    pub id: i32,
}

impl Member {
    /// A daemon without a `VirtualID`.
    pub fn new(name: DaemonName) -> Self {
        Self { name, id: virtual_id(name.as_bytes()).cast_signed() }
    }
}

/// Limits of the sessions. All bound memory or time of one client or of all.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Sessions at once, those in authentication included.
    pub sessions_max: usize,
    /// `MaxSessionMessages`: messages that may wait for a client that does not read.
    pub session_messages_max: usize,
    /// A client with more messages than that is dropped unless, in each such time, it catches up or reads at
    /// least `session_messages_max` messages.
    pub slow_grace: Duration,
    /// A client with more messages than that is dropped at once if they have more bytes than this.
    pub slow_bytes_max: usize,
    /// `MaxSessionBytes`: a client with more bytes than this is too slow, however few its messages are. `None`:
    /// only the number of messages counts.
    pub session_bytes_max: Option<usize>,
    /// `SpillBytes`: bytes that may wait on disk for one client.
    pub spill_bytes_max: u64,
    /// Bytes of requests, with overhead, that wait for the ring before the daemon stops reading from clients.
    pub inbox_bytes_max: usize,
    /// Time for a new connection's hello.
    pub hello_timeout: Duration,
    /// Time for the rest of the handshake.
    pub auth_timeout: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions_max: SESSIONS_MAX,
            session_messages_max: limits::SESSION_MESSAGES as usize,
            slow_grace: Duration::from_millis(250),
            slow_bytes_max: 64 << 20,
            session_bytes_max: None,
            spill_bytes_max: 256 << 20,
            inbox_bytes_max: 4 << 20,
            hello_timeout: Duration::from_millis(limits::HELLO_TIMEOUT_MS),
            auth_timeout: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// A daemon without others: TCP on all addresses and a local socket, everybody may connect.
    pub fn alone(name: DaemonName, port: u16) -> Self {
        Self {
            daemons: vec![Member::new(name)],
            me: 0,
            port,
            listen: Vec::new(),
            socket_dir: Some(PathBuf::from(SOCKET_DIR)),
            control_dir: None,
            metrics: None,
            state_dir: None,
            tls: None,
            auth: Auth::default(),
            slow: SlowRules::default(),
            spill_dir: None,
            policy: Arc::new(Permit),
            limits: SessionLimits::default(),
            threads: default_threads(),
            serve_tcp: true,
            ring: None,
            config: None,
            monitor_reload: true,
        }
    }
}

impl Options {
    /// When a client is too slow, and what happens then.
    pub(crate) fn slow_limits(&self) -> SlowLimits {
        SlowLimits {
            rules: self.slow.clone(),
            session_bytes: self.limits.session_bytes_max,
            frames: self.limits.session_messages_max,
            grace: self.limits.slow_grace,
            bytes: self.limits.slow_bytes_max,
        }
    }

    /// A daemon inside a program, for its tests: alone, named `test`, on a free port of 127.0.0.1, one thread, no local
    /// socket, no file. [`Daemon::connect_string`] says where it is.
    ///
    /// ```
    /// let daemon = spreadd::Daemon::start(spreadd::Options::embedded())?;
    /// assert!(daemon.connect_string().ends_with("@127.0.0.1"));
    /// daemon.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn embedded() -> Self {
        let name = DaemonName::new(b"test").expect("`test` is a legal name");
        let mut options = Self::alone(name, 0);
        options.listen = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        options.socket_dir = None;
        options.threads = 1;
        options
    }

    fn tcp(&self) -> Tcp<'_> {
        match (self.serve_tcp, self.listen.as_slice()) {
            (false, _) => Tcp::None,
            (true, []) => Tcp::Everywhere,
            (true, addrs) => Tcp::On(addrs),
        }
    }
}

/// One thread serves tens of thousands of messages a second; more than four are never busy before the ring
/// thread is.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// What a monitor asks of the process that runs the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// To read the configuration again and call [`Daemon::reload`].
    Reload,
    /// To end in order.
    Stop,
}

/// Requests of monitors that may wait.
const REQUESTS: usize = 8;

/// Configurations on their way to the ring thread.
const CHANGES: usize = 4;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A socket for clients cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The daemons do not fit together.
    #[error(transparent)]
    Groups(#[from] spread_groups::ConfigError),
    /// `me` is not one of the daemons.
    #[error("the options name no daemon as this one")]
    Options,
    /// The ring of this daemon alone cannot be started.
    #[error(transparent)]
    Alone(#[from] AloneError),
    /// The ring cannot be started.
    #[error(transparent)]
    Ring(#[from] ring_driver::StartError),
    /// Messages cannot be written where they are to wait for slow clients.
    #[error("cannot write to {}, where messages for slow clients are to wait", dir.display())]
    SpillDir {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The metrics cannot be served where they should be.
    #[error("cannot serve metrics on {addr}")]
    Metrics {
        /// What was asked for.
        addr: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The state file cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gave no thread or descriptor.
    #[error("cannot start the threads that serve clients")]
    Runtime(#[source] std::io::Error),
}

/// The thread of the ring, alone or with others.
enum RingThread {
    Alone(Alone),
    Ring(Option<ring_driver::Handle<Hub>>),
}

impl RingThread {
    fn is_finished(&self) -> bool {
        match self {
            Self::Alone(alone) => alone.is_finished(),
            Self::Ring(handle) => handle.as_ref().is_none_or(ring_driver::Handle::is_finished),
        }
    }

    /// Leaves the ring and waits for the end of the thread, which takes at most two seconds.
    fn stop(&mut self) {
        match self {
            Self::Alone(alone) => alone.stop(),
            Self::Ring(handle) => {
                if let Some(handle) = handle.take() {
                    handle.leave();
                    if handle.join().is_none() {
                        error!("The ring thread failed.");
                    }
                }
            }
        }
    }
}

/// A running daemon. Dropping it stops it: clients see the end of their streams, the file of the local socket
/// is removed.
pub struct Daemon {
    name: DaemonName,
    port: u16,
    tcp: Vec<SocketAddr>,
    local: Option<PathBuf>,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    access: Arc<Access>,
    tls: Option<Arc<Acceptor>>,
    tls_addrs: Vec<SocketAddr>,
    /// Removes the file of the local socket when dropped.
    file: Option<SocketFile>,
    control: Option<SocketFile>,
    metrics: Option<SocketAddr>,
    probe: Arc<Probe>,
    /// Kept up to date until this is dropped.
    epochs: Option<EpochFile>,
    /// There until the daemon is stopped.
    runtime: Option<Runtime>,
    ring: RingThread,
    changes: crossbeam_channel::Sender<Change>,
    requests: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Request>>,
    inbox: Arc<Inbox>,
    present: Present,
    monitor_stats: Arc<MonitorStats>,
}

impl Daemon {
    /// Opens the sockets and starts the threads. Clients can connect when it returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let groups = Groups::new(GroupsConfig {
            daemons: options
                .daemons
                .iter()
                .map(|d| spread_groups::Daemon { name: d.name, id: d.id })
                .collect(),
            me: options.me,
        })?;
        let me = options.daemons.get(usize::from(options.me)).copied();
        // Checked by the group engine.
        let Some(Member { name, .. }) = me else { return Err(StartError::Options) };
        let mut listeners = Listeners::open(options.tcp(), options.port, options.socket_dir.as_deref())?;
        let tls = match &options.tls {
            Some(tls) => {
                let on = match tls.listen.as_deref() {
                    None => options.tcp(),
                    Some([]) => Tcp::Everywhere,
                    Some(addrs) => Tcp::On(addrs),
                };
                Some((Arc::new(Acceptor::new(tls)?), Listeners::open(on, tls.port, None)?))
            }
            None => None,
        };
        let limits = options.limits;
        let inbox = Arc::new(Inbox::new(limits.inbox_bytes_max));
        let counters = Arc::new(Counters::default());
        let registry = Arc::new(Registry::new(limits.sessions_max));
        let slow = options.slow_limits();
        let access = Arc::new(Access::new(options.auth, options.policy));
        let spill = match &options.spill_dir {
            Some(dir) if options.slow.may_spill() => {
                // Now, and not when a client is slow, is the time to find out.
                spill::create(dir).map_err(|source| StartError::SpillDir { dir: dir.clone(), source })?;
                Some(Arc::new(SpillRules {
                    dir: dir.clone(),
                    bytes_max: limits.spill_bytes_max,
                    frames_max: limits.session_messages_max,
                    quiet: Quiet::default(),
                }))
            }
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("sessions")
            // The ring thread wakes writers from outside the runtime. With the default they wait until a worker
            // has done 61 other things, each of which may write a quarter of a megabyte: long enough for a
            // client to be taken for a slow one.
            .global_queue_interval(2)
            .event_interval(8)
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let present = Present::new(options.config.clone(), options.me);
        let monitor_stats = Arc::new(MonitorStats::default());
        let (changes, changes_in) = crossbeam_channel::bounded(CHANGES);
        let (requests_out, requests) = tokio::sync::mpsc::channel(REQUESTS);
        let live = Live::new(LiveParts {
            me: options.me,
            ring: options.ring.clone(),
            monitor: options.config.as_deref().map(|config| {
                let cluster = Cluster::new(config, options.me);
                Monitor::new(cluster, options.monitor_reload, Arc::clone(&monitor_stats))
            }),
            changes: changes_in,
            requests: requests_out,
            present: present.clone(),
            registry: Arc::clone(&registry),
            names: options.daemons.iter().map(|daemon| daemon.name).collect(),
        });
        let hub = Hub::new(
            groups,
            Arc::clone(&inbox),
            Arc::clone(&access),
            Arc::clone(&counters),
            slow,
            live,
            runtime.handle().clone(),
        );
        let state = options.state_dir.map(|dir| state::path(&dir, &name.to_string(), listeners.port()));
        let mut boot =
            ring_driver::new_boot(state.as_deref().map_or(0, state::read)).map_err(StartError::Runtime)?;
        // Regular configurations have even epochs.
        boot.epoch_min += boot.epoch_min % 2;
        let epochs = state.map(|path| EpochFile::start(path, boot.epoch_min)).transpose()?;
        let hub = hub.with_epochs(epochs.as_ref().and_then(EpochFile::note));
        let mut identity = Identity {
            name,
            me: options.me,
            port: listeners.port(),
            tcp: listeners.tcp_addrs(),
            local: listeners.unix_path().map(Path::to_owned),
            sessions_max: limits.sessions_max,
            session_messages_max: limits.session_messages_max,
            hash: None,
            encrypted: false,
            addresses: Vec::new(),
        };
        let (ring, link) = match options.ring {
            None => {
                let (alone, ask) = Alone::start(boot, hub)?;
                inbox.set_waker(alone.waker());
                (RingThread::Alone(alone), RingLink::Alone(ask))
            }
            Some(ring) => {
                identity.ring(&ring);
                let hub = hub.with_hash(&ring.ring.hash, Arc::clone(&ring.variants));
                let waker = Waker::new().map_err(StartError::Runtime)?;
                let wake = waker.clone();
                inbox.set_waker(move || wake.wake());
                let config = DriverConfig {
                    cluster: ring.cluster,
                    sockets: ring.sockets,
                    keys: ring.keys,
                    protection: ring.protection,
                    ..DriverConfig::new(ring.ring, boot, ring.network)
                };
                let handle = ring_driver::start(config, hub, waker)?;
                let link = RingLink::Ring(handle.asker());
                (RingThread::Ring(Some(handle)), link)
            }
        };
        let probe = Arc::new(Probe::new(
            identity,
            present.clone(),
            Arc::clone(&registry),
            Arc::clone(&counters),
            Arc::clone(&monitor_stats),
            link,
        ));
        let (control, metrics) = observe::start(
            &runtime,
            &probe,
            options.control_dir.as_deref().map(|dir| observe::control::path(dir, listeners.port())),
            options.metrics,
        )?;
        let shared = Arc::new(Shared {
            daemon: name,
            access: Arc::clone(&access),
            times: Times { hello: limits.hello_timeout, auth: limits.auth_timeout, linger: LINGER },
            registry: Arc::clone(&registry),
            inbox: Arc::clone(&inbox),
            counters: Arc::clone(&counters),
            brake: Brake::new(Arc::clone(&counters)),
            spill,
            lingering: AtomicUsize::new(0),
            illegal: Quiet::default(),
            refused_by_system: Quiet::default(),
        });
        let daemon = Self {
            name,
            port: listeners.port(),
            tcp: listeners.tcp_addrs(),
            local: listeners.unix_path().map(Path::to_owned),
            registry,
            counters,
            access,
            tls_addrs: tls.as_ref().map(|(_, listeners)| listeners.tcp_addrs()).unwrap_or_default(),
            tls: tls.as_ref().map(|(acceptor, _)| Arc::clone(acceptor)),
            file: listeners.take_file(),
            control,
            metrics,
            probe,
            epochs,
            runtime: Some(runtime),
            ring,
            changes,
            requests: tokio::sync::Mutex::new(requests),
            inbox,
            present,
            monitor_stats,
        };
        if let Some(runtime) = &daemon.runtime {
            let _guard = runtime.enter();
            for listener in listeners.tcp {
                let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
                runtime.spawn(accept_tcp(listener, Arc::clone(&shared)));
            }
            if let Some((acceptor, listeners)) = tls {
                for listener in listeners.tcp {
                    let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
                    runtime.spawn(accept_tls(listener, Arc::clone(&acceptor), Arc::clone(&shared)));
                }
            }
            if let Some(listener) = listeners.unix {
                let listener = UnixListener::from_std(listener).map_err(StartError::Runtime)?;
                runtime.spawn(accept_local(listener, shared));
            }
        }
        Ok(daemon)
    }

    /// The daemon's name.
    pub fn name(&self) -> DaemonName {
        self.name
    }

    /// The port for clients; also the name of the local socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses on which TCP clients are served.
    pub fn tcp_addrs(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// How a client on this host connects: `4803@127.0.0.1`, or the path of the local socket if TCP is not served.
    pub fn connect_string(&self) -> String {
        match (self.tcp.first(), &self.local) {
            (Some(addr), _) if addr.ip().is_unspecified() => format!("{}@localhost", addr.port()),
            (Some(addr), _) => format!("{}@{}", addr.port(), addr.ip()),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => self.port.to_string(),
        }
    }

    /// The addresses on which clients are served over TLS.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addrs
    }

    /// Reads certificates and keys again; established sessions go on. The port stays.
    ///
    /// # Errors
    /// [`TlsError`]; nothing changes then.
    pub fn reload_tls(&self, options: &TlsOptions) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |acceptor| acceptor.reload(options))
    }

    /// The local socket.
    pub fn local_path(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// The control socket, if there is one.
    pub fn control_path(&self) -> Option<&Path> {
        self.control.as_ref().map(SocketFile::path)
    }

    /// The state file, if there is one.
    pub fn state_path(&self) -> Option<&Path> {
        self.epochs.as_ref().map(EpochFile::path)
    }

    /// Where metrics are served, if they are.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Whether the ring thread answers. Blocks for up to 2 seconds if it does not.
    pub fn answers(&self) -> bool {
        self.probe.answers()
    }

    /// A question for [`Self::answers`] that another thread can ask.
    pub fn health(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let probe = Arc::clone(&self.probe);
        move || probe.answers()
    }

    /// Sessions that exist now, those in authentication included.
    pub fn sessions(&self) -> usize {
        self.registry.live()
    }

    /// The counters of the session layer.
    pub fn session_stats(&self) -> SessionStats {
        self.counters.read()
    }

    /// From now on these hold: `auth` for new clients, `policy` for new clients and all requests.
    pub fn set_access(&self, auth: Auth, policy: Arc<dyn Policy>) {
        self.access.set(auth, policy);
    }

    /// All counters, for people: a line of `name=value` for each part.
    pub fn status(&self) -> Vec<String> {
        let counters = self.session_stats();
        let mut sessions = format!("sessions: live={}", self.sessions());
        for (name, value) in counters.iter() {
            sessions.push_str(&format!(" {name}={value}"));
        }
        let mut lines = vec![sessions];
        let stats = &self.monitor_stats;
        let mut monitor = format!("monitor: packets={}", stats.packets());
        for command in MonitorCommand::ALL {
            monitor.push_str(&format!(" {}={}", command.name(), stats.accepted(command)));
        }
        for reason in Refused::ALL {
            monitor.push_str(&format!(" refused_{}={}", reason.name(), stats.refused(reason)));
        }
        lines.push(monitor);
        if let RingThread::Ring(Some(handle)) = &self.ring
            && let Some(report) = handle.report()
        {
            lines.push(format!("network: {:?}", report.io));
            lines.push(format!("ring: {:?}", report.ring));
        }
        lines
    }

    /// What a monitor asks of this process, one thing after the other.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped before it ends.
    pub async fn requested(&self) -> Request {
        match self.requests.lock().await.recv().await {
            Some(request) => request,
            // The ring thread has ended.
            None => std::future::pending().await,
        }
    }

    /// Goes on with another configuration: `options` were made from it, for this daemon. What can change at once
    /// does; another list of daemons is used when all daemons of the ring have read it.
    ///
    /// # Errors
    /// [`Unchangeable`]; nothing has changed then.
    pub fn reload(&self, options: &Options) -> Result<Reloaded, Unchangeable> {
        let Some((config, me)) = self.present.get() else { return Err(Unchangeable::NoFile) };
        let (plan, reloaded) = reload::compare(&config, me, options)?;
        if let Some(tls) = &options.tls {
            self.reload_tls(tls)?;
        }
        self.access.set(options.auth.clone(), Arc::clone(&options.policy));
        self.changes.try_send(Change::Plan(Box::new(plan))).map_err(|error| match error {
            TrySendError::Full(_) => Unchangeable::Busy,
            TrySendError::Disconnected(_) => Unchangeable::Stopping,
        })?;
        if let (RingThread::Ring(Some(handle)), Some(keys)) =
            (&self.ring, options.ring.as_ref().and_then(|ring| ring.keys.as_ref()))
        {
            handle.reload_keys(keys.clone());
        }
        self.inbox.wake();
        Ok(reloaded)
    }

    /// The configuration in force.
    pub fn config(&self) -> Option<Arc<Config>> {
        self.present.get().map(|(config, _)| config)
    }

    /// What came by the monitor protocol.
    pub fn monitor_stats(&self) -> &MonitorStats {
        &self.monitor_stats
    }

    /// Whether the daemon still works. It stops by itself only by a fault.
    pub fn is_running(&self) -> bool {
        self.runtime.is_some() && !self.ring.is_finished()
    }

    /// Leaves the ring, ends all sessions and removes the local socket. Takes at most a few seconds.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // From here on clients cannot find the daemon any more.
        self.file = None;
        self.control = None;
        self.ring.stop();
        // On a thread of its own: a runtime must not be ended on a thread of another one, where a caller may be.
        let ending = std::thread::spawn(move || runtime.shutdown_timeout(RUNTIME_END));
        if ending.join().is_err() {
            error!("The threads that serve clients did not end in order.");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon")
            .field("name", &self.name)
            .field("tcp", &self.tcp)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
