//! Starting the ring thread, and talking to it.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError, bounded};
use rand::TryRng;
use spread_ring::{
    Body, Boot, ConfigError, Event, Mid, Nanos, NodeId, Path, Ring, RingConfig, Service, Stats, SubmitError,
    Successor, Timers, Transmit, Windows,
};
use tracing::warn;

use super::driver::{COMMANDS, Clock, Command, Driver, Engine, LEAVE_MAX, Parts, Told, Upper};
use super::keys::KeyRing;
use super::order::{View, pause_min};
use super::peers::Peers;
use super::seal::{Aead, Checksum, Protection, Sealer};
use super::sockets::{SocketError, SocketOptions, Sockets};
use super::stats::IoStats;
use super::transport::{Network, NetworkError, Transport};
use super::waker::Waker;
use super::watch::{Change, Outlook};

/// Everything the ring thread needs to know.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// The engine's configuration.
    pub ring: RingConfig,
    /// The identity of this process; see [`new_boot`].
    pub boot: Boot,
    /// Name of the cluster; separates the keys of clusters that share a key file.
    pub cluster: Vec<u8>,
    /// Addresses.
    pub network: Network,
    /// Socket properties.
    pub sockets: SocketOptions,
    /// Keys; `None`: packets are in clear with a checksum.
    pub keys: Option<KeyRing>,
    /// What to do with keys.
    pub protection: Protection,
    /// How long to look for input before sleeping. Saves wake-up time, costs a processor.
    pub spin: Duration,
    /// Log the engine's trace (level `trace`) and keep it for dumps.
    pub trace: bool,
}

impl DriverConfig {
    /// A configuration without keys and with default sockets.
    pub fn new(ring: RingConfig, boot: Boot, network: Network) -> Self {
        Self {
            ring,
            boot,
            cluster: Vec::new(),
            network,
            sockets: SocketOptions::default(),
            keys: None,
            protection: Protection::default(),
            spin: Duration::ZERO,
            trace: false,
        }
    }
}

/// A fresh identity for this process. `epoch_min` is what the state file says, if there is one; the wall
/// clock bounds it from below.
///
/// # Errors
///
/// The system gives no random numbers.
pub fn new_boot(epoch_min: u64) -> io::Result<Boot> {
    let mut random = [0; 40];
    rand::rngs::SysRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    let (session, seed) = random.split_at(8);
    let mut boot = Boot { session: 0, epoch_min, seed: [0; 32] };
    boot.session = session.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)).max(1);
    boot.seed.copy_from_slice(seed);
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    boot.epoch_min = boot.epoch_min.max(wall.as_secs());
    Ok(boot)
}

/// Why the ring thread could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The engine does not accept its configuration.
    #[error("the ring configuration is not possible")]
    Config(#[source] ConfigError),
    /// The addresses do not fit together.
    #[error("the network configuration is not possible")]
    Network(#[from] NetworkError),
    /// A socket could not be opened.
    #[error("the ring's sockets could not be opened")]
    Socket(#[from] SocketError),
    /// The thread could not be started.
    #[error("the ring thread could not be started")]
    Thread(#[source] io::Error),
}

/// What the ring thread knows about itself and the ring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The driver's counters.
    pub io: IoStats,
    /// The engine's counters.
    pub ring: Stats,
    /// The state of the ring.
    pub outlook: Outlook,
    /// The last membership changes, oldest first.
    pub changes: Vec<Change>,
    /// Links between daemons that are broken: `(a, b)` says that `a` does not hear `b`.
    pub broken_links: Vec<(NodeId, NodeId)>,
    /// How long the thread runs.
    pub uptime: Duration,
}

/// The way to ask the ring thread from other threads. Each question wakes the thread; it answers within one
/// turn, or not at all if it hangs.
pub struct Asker<U> {
    commands: Sender<Command<Stats, U>>,
    waker: Waker,
}

impl<U> Clone for Asker<U> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), waker: self.waker.clone() }
    }
}

impl<U> std::fmt::Debug for Asker<U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

impl<U> Asker<U> {
    /// The counters and the state now; `None` if the thread has ended or does not answer within 2 seconds.
    pub fn report(&self) -> Option<Report> {
        let Told { io, engine, outlook, changes, broken_links, uptime } = self.ask(Command::Report)?;
        Some(Report { io, ring: engine, outlook, changes, broken_links, uptime })
    }

    /// The last events, one per line; `None` as with [`Self::report`].
    pub fn blackbox(&self) -> Option<String> {
        self.ask(Command::Blackbox)
    }

    /// Runs `look` on the ring thread; it must not block. `None` as with [`Self::report`].
    pub fn visit<T: Send + 'static>(&self, look: impl FnOnce(&mut U) -> T + Send + 'static) -> Option<T> {
        self.ask(|answer| {
            Command::Visit(Box::new(move |upper| {
                // Nobody waits any more if this fails.
                let _ = answer.try_send(look(upper));
            }))
        })
    }

    fn command(&self, command: Command<Stats, U>) {
        if let Err(TrySendError::Full(command)) = self.commands.try_send(command) {
            // The thread takes all commands in each turn: it is stopped, or about to take them.
            self.waker.wake();
            let _ = self.commands.send_timeout(command, LEAVE_MAX);
        }
        self.waker.wake();
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command<Stats, U>) -> Option<T> {
        let (answer, wait) = bounded(1);
        self.command(command(answer));
        wait.recv_timeout(LEAVE_MAX).ok()
    }
}

/// The ring thread as seen from outside. Dropping it asks the thread to leave and does not wait.
pub struct Handle<U> {
    asker: Asker<U>,
    thread: Option<thread::JoinHandle<U>>,
}

impl<U> std::fmt::Debug for Handle<U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("running", &!self.is_finished()).finish_non_exhaustive()
    }
}

impl<U> Handle<U> {
    /// Asks the daemon to leave the ring. [`Self::join`] then returns soon.
    pub fn leave(&self) {
        self.asker.command(Command::Leave);
    }

    /// Uses other keys from now on. No effect without keys at the start.
    pub fn reload_keys(&self, keys: KeyRing) {
        self.asker.command(Command::Keys(keys));
    }

    /// The counters now; `None` if the thread has ended.
    pub fn report(&self) -> Option<Report> {
        self.asker.report()
    }

    /// The way to ask the thread from other threads.
    pub fn asker(&self) -> Asker<U> {
        self.asker.clone()
    }

    /// The last events, one per line; `None` if the thread has ended.
    pub fn blackbox(&self) -> Option<String> {
        self.asker.blackbox()
    }

    /// Whether the thread has ended: it was asked to leave, or the engine left by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Waits for the end of the thread and returns the upper layer; `None` if it panicked.
    pub fn join(mut self) -> Option<U> {
        self.thread.take()?.join().ok()
    }
}

impl<U> Drop for Handle<U> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.asker.commands.try_send(Command::Leave);
            self.asker.waker.wake();
        }
    }
}

/// Opens the sockets and starts the ring thread. `waker` is the one that `upper`'s sources call.
///
/// # Errors
///
/// [`StartError`]; nothing is left behind then.
pub fn start<U: Upper + Send + 'static>(
    config: DriverConfig,
    upper: U,
    waker: Waker,
) -> Result<Handle<U>, StartError> {
    let me = config.ring.me;
    let transport = Transport::new(&config.network, me)?;
    let sockets = Sockets::open(&config.network, me, &config.sockets)?;
    let mid = Mid { node: me, session: config.boot.session };
    let sealer: Box<dyn Sealer> = match &config.keys {
        Some(keys) => Box::new(Aead::new(&config.cluster, mid, keys.clone(), config.protection)),
        None => Box::new(Checksum::default()),
    };
    let window = usize::from(config.ring.windows.window.unwrap_or(160));
    // A packet in a socket costs about twice its length.
    let needed = 4 * window * config.ring.packet_len_max * 2;
    if sockets.receive_buffer() < needed {
        warn!(
            granted = sockets.receive_buffer(),
            needed, "The receive buffers are small; raise net.core.rmem_max or grant CAP_NET_ADMIN."
        );
    }
    let hash = [0, 1, 2, 3].map(|i| config.ring.hash[i]);
    let peers = Peers::new(me, config.network.nodes.len(), hash);
    let clock = Clock(Instant::now());
    let mut ring = Ring::new(Arc::new(config.ring.clone()), config.boot.clone(), clock.now())
        .map_err(StartError::Config)?;
    ring.set_trace(config.trace);
    let (commands, inbox) = bounded(COMMANDS);
    let parts = Parts {
        engine: ring,
        upper,
        sealer,
        peers,
        transport,
        sockets,
        waker: waker.clone(),
        inbox,
        clock,
        pause_min: pause_min(&config.ring.timers),
        spin: config.spin,
        offload: config.sockets.offload,
    };
    let thread = thread::Builder::new()
        .name(format!("ring-{me}"))
        .spawn(move || Driver::new(parts).run())
        .map_err(StartError::Thread)?;
    Ok(Handle { asker: Asker { commands, waker }, thread: Some(thread) })
}

impl Engine for Ring {
    type Stats = Stats;
    fn handle_packet(&mut self, now: Nanos, path: Path, from: NodeId, plain: Bytes) {
        Self::handle_packet(self, now, path, from, plain);
    }
    fn handle_timeout(&mut self, now: Nanos) {
        Self::handle_timeout(self, now);
    }
    fn submit(&mut self, now: Nanos, service: Service, body: Body) -> Result<(), SubmitError> {
        Self::submit(self, now, service, body)
    }
    fn leave(&mut self, now: Nanos) {
        Self::leave(self, now);
    }
    fn is_gone(&self) -> bool {
        Self::is_gone(self)
    }
    fn poll_transmit(&mut self) -> Option<Transmit> {
        Self::poll_transmit(self)
    }
    fn poll_event(&mut self) -> Option<Event> {
        Self::poll_event(self)
    }
    fn poll_timeout(&self) -> Option<Nanos> {
        Self::poll_timeout(self)
    }
    fn poll_trace(&mut self) -> Option<String> {
        Self::poll_trace(self)
    }
    fn is_usable(&self, mid: Mid) -> bool {
        Self::is_usable(self, mid)
    }
    fn stats(&self) -> Stats {
        Self::stats(self).clone()
    }
    fn outlook(&self) -> Outlook {
        outlook(self)
    }
    fn deaf_links(&self) -> Vec<(NodeId, NodeId)> {
        Self::deaf_links(self)
    }
    fn view(&self) -> Option<View> {
        Some(View { condition: self.condition(), stats: Self::stats(self).clone() })
    }
    fn set_windows(&mut self, windows: Windows) {
        Self::set_windows(self, windows);
    }
    fn set_timers(&mut self, timers: Timers) -> Result<(), ConfigError> {
        Self::set_timers(self, timers)
    }
    fn reconfigure(
        &mut self,
        now: Nanos,
        ring: RingConfig,
        numbers: &[Option<NodeId>],
        successor: Successor,
    ) -> Result<(), ConfigError> {
        Self::reconfigure(self, now, Arc::new(ring), numbers, successor)
    }
}

/// What an engine says about itself.
pub(crate) fn outlook(ring: &Ring) -> Outlook {
    let (id, members) = ring.configuration();
    Outlook {
        id,
        members: members.to_vec(),
        operational: ring.is_operational(),
        heard: ring.heard(),
        penalties: ring.penalties(),
        features: ring.features(),
        cause: ring.stats().last_cause,
        forming: ring.stats().last_forming,
    }
}
