//! The loop of the ring thread.
//!
//! ```text
//! loop:
//!   wait for a socket, a wake-up, or the engine's deadline
//!   up to some rounds: read tokens, read data, give in data, take submissions, give in tokens, send
//!   if the deadline passed: tell the engine              input before timers, always
//!   send, then deliver upward, then once more what that caused
//! ```
//!
//! Three orders matter. Input comes before timers, so that a pause of the process is not taken for the
//! silence of the others. Data come before tokens: what was sent before a token must not look lost because
//! it waits in another socket. And packets leave in the order of their emission, across both sockets.
//! spec: ring-protocol 3.2, 6.3

mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use spread_ring::{
    Body, ConfigError, Event, Mid, Nanos, NodeId, NodeSet, Path, RingConfig, Service, SubmitError, Successor,
    Timers, Transmit, Windows,
};
use tracing::{debug, info, trace, warn};

use super::batch::{Intake, SendQueue};
use super::blackbox::{Blackbox, What};
use super::keys::KeyRing;
use super::order::{Order, View};
use super::peers::Peers;
use super::seal::Sealer;
use super::sockets::Sockets;
use super::stats::IoStats;
use super::sys::Waiter;
use super::transport::Transport;
use super::waker::Waker;
use super::watch::{Change, Outlook, Watch};

/// Longest sleep without a deadline.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Rounds of reading before other work gets its turn; more if a deadline has passed, because then timers
/// come next and must not speak about packets that are already here.
const ROUNDS: usize = 4;
const ROUNDS_OVERDUE: usize = 64;

/// Submissions taken in one turn.
const SUBMISSIONS: usize = 512;

/// Turns of deliver, submit, send before the sockets are looked at again.
const TURNS: usize = 8;

/// How long a wait for kernel buffers sleeps; the socket says it is writable all the while.
const NO_BUFFERS_WAIT: Duration = Duration::from_micros(200);

/// How long a leave may take.
pub(super) const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Lines of the engine's trace kept for a dump.
const TRACE_LINES: usize = 4096;

/// Commands waiting for the ring thread.
pub(super) const COMMANDS: usize = 16;

/// The layer above the ring. Called on the ring thread; must not block.
pub trait Upper {
    /// Takes the next event, in order.
    fn handle_event(&mut self, event: Event);

    /// The next message to order, if there is one. Called only when the engine has room, in batches, after
    /// each [wake-up](Waker::wake) and after events.
    fn next_submission(&mut self) -> Option<(Service, Body)>;

    /// A batch of events is complete: pass on what was collected.
    fn flush(&mut self);

    /// A datagram on the data port that is no ring packet but one of the monitor protocol. `view` shows the
    /// engine. What is returned goes to the address with it.
    fn handle_foreign(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        view: &dyn Fn() -> Option<View>,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let _ = (from, datagram, view);
        None
    }

    /// The next change that the driver is to make. Asked for in each turn.
    fn poll_order(&mut self) -> Option<Order> {
        None
    }

    /// Links between daemons that have become broken, and those that work again: `(a, b)` says that `a` does
    /// not hear `b`.
    fn note_links(&mut self, broken: &[(NodeId, NodeId)], healed: &[(NodeId, NodeId)]) {
        let _ = (broken, healed);
    }

    /// A packet with another configuration (the first bytes of its hash) came from an address of `node`. Called
    /// at most once a second.
    fn note_other_configuration(&mut self, node: NodeId, hash: [u8; 4]) {
        let _ = (node, hash);
    }
}

/// What the loop needs of the engine. A trait so that the loop can be tested with a scripted one.
pub(super) trait Engine {
    type Stats: Clone + Send + 'static;
    fn handle_packet(&mut self, now: Nanos, path: Path, from: NodeId, plain: Bytes);
    fn handle_timeout(&mut self, now: Nanos);
    fn submit(&mut self, now: Nanos, service: Service, body: Body) -> Result<(), SubmitError>;
    fn leave(&mut self, now: Nanos);
    fn is_gone(&self) -> bool;
    fn poll_transmit(&mut self) -> Option<Transmit>;
    fn poll_event(&mut self) -> Option<Event>;
    fn poll_timeout(&self) -> Option<Nanos>;
    fn poll_trace(&mut self) -> Option<String>;
    fn is_usable(&self, mid: Mid) -> bool;
    fn stats(&self) -> Self::Stats;
    fn outlook(&self) -> Outlook {
        Outlook::default()
    }
    fn deaf_links(&self) -> Vec<(NodeId, NodeId)> {
        Vec::new()
    }
    fn view(&self) -> Option<View> {
        None
    }
    fn set_windows(&mut self, windows: Windows) {
        let _ = windows;
    }
    fn set_timers(&mut self, timers: Timers) -> Result<(), ConfigError> {
        let _ = timers;
        Ok(())
    }
    fn reconfigure(
        &mut self,
        now: Nanos,
        ring: RingConfig,
        numbers: &[Option<NodeId>],
        successor: Successor,
    ) -> Result<(), ConfigError> {
        let _ = (now, ring, numbers, successor);
        Ok(())
    }
}

/// Work for the layer above, done on the ring thread.
pub(super) type Visit<U> = Box<dyn FnOnce(&mut U) + Send>;

/// What other threads ask of the ring thread. Each is taken once a turn.
pub(super) enum Command<S, U> {
    Leave,
    Keys(KeyRing),
    Report(Sender<Told<S>>),
    Blackbox(Sender<String>),
    Visit(Visit<U>),
}

/// The answer to [`Command::Report`].
pub(super) struct Told<S> {
    pub(super) io: IoStats,
    pub(super) engine: S,
    pub(super) outlook: Outlook,
    pub(super) changes: Vec<Change>,
    pub(super) broken_links: Vec<(NodeId, NodeId)>,
    pub(super) uptime: Duration,
}

/// Time since the start of the driver.
pub(super) struct Clock(pub(super) Instant);

impl Clock {
    pub(super) fn now(&self) -> Nanos {
        Nanos(0) + self.0.elapsed()
    }
}

/// What a [`Driver`] is made of.
pub(super) struct Parts<E: Engine, U> {
    pub(super) engine: E,
    pub(super) upper: U,
    pub(super) sealer: Box<dyn Sealer>,
    pub(super) peers: Peers,
    pub(super) transport: Transport,
    pub(super) sockets: Sockets,
    pub(super) waker: Waker,
    pub(super) inbox: Receiver<Command<E::Stats, U>>,
    pub(super) clock: Clock,
    /// A thread that does not run for so long has paused.
    pub(super) pause_min: Duration,
    pub(super) spin: Duration,
    pub(super) offload: bool,
}

/// A token that waits for the data before it.
pub(super) struct HeldToken {
    path: Path,
    from: NodeId,
    session: u64,
    usable: bool,
    plain: Bytes,
}

pub(super) struct Driver<E: Engine, U> {
    pub(super) engine: E,
    pub(super) upper: U,
    pub(super) sealer: Box<dyn Sealer>,
    pub(super) peers: Peers,
    pub(super) transport: Transport,
    pub(super) sockets: Sockets,
    pub(super) waiter: Waiter,
    /// Per input: there may be more to read.
    pub(super) more: Vec<bool>,
    pub(super) waker: Waker,
    inbox: Receiver<Command<E::Stats, U>>,
    clock: Clock,
    pub(super) pause_min: Duration,
    spin: Duration,
    intake: Intake,
    queue: SendQueue,
    ranges: Vec<(Range<usize>, u64, bool)>,
    pub(super) tokens: Vec<HeldToken>,
    /// A submission that the engine had no room for.
    held: Option<(Service, Body)>,
    pub(super) full: bool,
    pub(super) more_submissions: bool,
    /// The last turn ended while there were still events.
    pub(super) unfinished: bool,
    /// When a leave ends at the latest.
    leaving: Option<Nanos>,
    /// Daemons whose packets are taken.
    pub(super) admitted: NodeSet,
    stats: IoStats,
    pub(super) blackbox: Blackbox,
    trace: VecDeque<String>,
    pub(super) watch: Watch,
    /// When a foreign configuration was last told.
    foreign_at: Option<Nanos>,
}

impl<E: Engine, U: Upper> Driver<E, U> {
    pub(super) fn new(parts: Parts<E, U>) -> Self {
        Self {
            waiter: Waiter::new(parts.sockets.fds(&parts.waker)),
            more: vec![false; parts.sockets.inputs.len()],
            engine: parts.engine,
            upper: parts.upper,
            sealer: parts.sealer,
            peers: parts.peers,
            transport: parts.transport,
            sockets: parts.sockets,
            waker: parts.waker,
            inbox: parts.inbox,
            clock: parts.clock,
            pause_min: parts.pause_min,
            spin: parts.spin,
            intake: Intake::new(),
            queue: SendQueue::new(parts.offload),
            ranges: Vec::with_capacity(1024),
            tokens: Vec::with_capacity(64),
            held: None,
            full: false,
            more_submissions: true,
            unfinished: false,
            leaving: None,
            admitted: NodeSet(u128::MAX),
            stats: IoStats::default(),
            blackbox: Blackbox::new(),
            trace: VecDeque::new(),
            watch: Watch::default(),
            foreign_at: None,
        }
    }

    /// Runs until the engine has left the ring.
    pub(super) fn run(mut self) -> U {
        info!("The ring thread runs.");
        let mut now = self.clock.now();
        self.transmit(now);
        self.deliver(now);
        loop {
            now = self.wait(now);
            self.turn(now);
            if self.engine.is_gone() || self.leaving.is_some_and(|end| now >= end) {
                break;
            }
        }
        self.transmit(now);
        self.deliver(now);
        info!(
            sent = self.stats.packets_sent,
            received = self.stats.packets_received,
            "The ring thread ends."
        );
        self.upper
    }

    /// Waits for something to do and returns the time.
    fn wait(&mut self, last: Nanos) -> Nanos {
        let before = self.clock.now();
        let busy = self.unfinished || self.more_submissions && !self.full || self.more.contains(&true);
        let deadline = self.engine.poll_timeout().unwrap_or(before + WAIT_MAX).min(before + WAIT_MAX);
        let timeout = if busy { Duration::ZERO } else { deadline.since(before) };
        if let Err(error) = self.ready(before, timeout) {
            // Out of kernel memory at worst; the next turn tries again, and the sockets are read anyway.
            warn!(%error, "Waiting for the ring's sockets failed.");
            thread::sleep(NO_BUFFERS_WAIT);
            self.more.fill(true);
        }
        for (index, more) in self.more.iter_mut().enumerate() {
            *more |= self.waiter.is_ready(index);
        }
        self.stats.wakeups += 1;
        let now = self.clock.now();
        let late = now.since(deadline).max(before.since(last));
        if late > self.pause_min {
            self.stats.pauses += 1;
            self.blackbox.note(now, What::Pause, None, (Nanos(0) + late).0, 0);
            // A machine that is always late shall not fill the log with it.
            if self.stats.pauses <= 10 || self.stats.pauses.is_power_of_two() {
                warn!(?late, pauses = self.stats.pauses, "The ring thread did not run for a while.");
            }
        }
        now
    }

    fn ready(&mut self, before: Nanos, timeout: Duration) -> io::Result<()> {
        let spin = self.spin.min(timeout);
        if !spin.is_zero() {
            loop {
                self.waiter.wait(Duration::ZERO)?;
                if (0..=self.more.len()).any(|index| self.waiter.is_ready(index)) {
                    return Ok(());
                }
                if self.clock.now().since(before) >= spin {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        self.waiter.wait(timeout - spin)
    }

    /// All work that is there.
    fn turn(&mut self, now: Nanos) {
        let overdue = self.engine.poll_timeout().is_some_and(|deadline| deadline <= now);
        if self.waiter.is_ready(self.more.len()) {
            self.waker.clear();
            self.more_submissions = true;
        }
        self.commands(now);
        self.orders(now);
        for _ in 0..if overdue { ROUNDS_OVERDUE } else { ROUNDS } {
            if !self.more.contains(&true) {
                break;
            }
            self.round(now);
            self.transmit(now);
        }
        self.submit(now);
        if let Some(deadline) = self.engine.poll_timeout().filter(|deadline| *deadline <= now) {
            self.blackbox.note(now, What::Timeout, None, (Nanos(0) + now.since(deadline)).0, 0);
            self.engine.handle_timeout(now);
        }
        self.transmit(now);
        self.unfinished = true;
        for _ in 0..TURNS {
            if !self.deliver(now) {
                self.unfinished = false;
                break;
            }
            self.submit(now);
            self.transmit(now);
        }
        self.orders(now);
        self.traces();
        if self.watch.is_due(now) {
            let (broken, healed) = self.watch.note_links(&self.engine.deaf_links());
            if !broken.is_empty() || !healed.is_empty() {
                self.upper.note_links(&broken, &healed);
            }
        }
    }

    fn commands(&mut self, now: Nanos) {
        for command in self.inbox.try_iter().take(COMMANDS) {
            match command {
                Command::Leave => {
                    if self.leaving.is_none() {
                        info!("Leaving the ring.");
                        self.blackbox.note(now, What::Leave, None, 0, 0);
                        self.leaving = Some(now + LEAVE_MAX);
                        self.engine.leave(now);
                    }
                }
                Command::Keys(keys) => {
                    let active = keys.active_id();
                    if self.sealer.reload(keys) {
                        info!(active, "The keys were reloaded.");
                        self.blackbox.note(now, What::Keys, None, active.into(), 0);
                    } else {
                        warn!("The daemon was started without keys; restart it to use some.");
                    }
                }
                // Nobody waits any more if these fail.
                Command::Report(answer) => {
                    self.stats.slabs_allocated = self.intake.slabs_allocated();
                    let _ = answer.try_send(Told {
                        io: self.stats.clone(),
                        engine: self.engine.stats(),
                        outlook: self.engine.outlook(),
                        changes: self.watch.changes(),
                        broken_links: self.watch.broken_links(),
                        uptime: now.since(Nanos(0)),
                    });
                }
                Command::Visit(visit) => visit(&mut self.upper),
                Command::Blackbox(answer) => {
                    let mut dump = self.blackbox.dump();
                    for line in &self.trace {
                        dump.push_str(line);
                        dump.push('\n');
                    }
                    let _ = answer.try_send(dump);
                }
            }
        }
    }

    /// Takes messages from the layer above while the engine has room.
    fn submit(&mut self, now: Nanos) {
        if self.full || !self.more_submissions {
            return;
        }
        for _ in 0..SUBMISSIONS {
            let Some((service, body)) = self.held.take().or_else(|| self.upper.next_submission()) else {
                self.more_submissions = false;
                return;
            };
            match self.engine.submit(now, service, body.clone()) {
                Ok(()) => self.stats.submissions += 1,
                Err(SubmitError::Full) => {
                    self.held = Some((service, body));
                    self.full = true;
                    self.stats.submit_full += 1;
                    return;
                }
                Err(error) => {
                    // The layer above knows the limit, and that it asked to leave.
                    self.stats.submissions_refused += 1;
                    debug!(%error, "The engine did not take a message.");
                }
            }
        }
    }

    /// Hands all events up. Returns whether there was one.
    fn deliver(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some(event) = self.engine.poll_event() {
            any = true;
            match &event {
                Event::Deliver { .. } => self.stats.deliveries += 1,
                Event::Regular { id, members } => {
                    self.blackbox.note(now, What::Regular, Some(id.rep), id.epoch, members.len() as u64);
                    let members: Vec<_> = members.iter().map(|m| m.node.0).collect();
                    let outlook = self.engine.outlook();
                    let cause = outlook.cause.map_or("start", spread_ring::Cause::name);
                    info!(%id, ?members, cause, forming = ?outlook.forming, "New regular configuration.");
                    self.watch.note_change(outlook, &self.blackbox, &self.trace);
                }
                Event::Transitional { id, members, of } => {
                    self.blackbox.note(now, What::Transitional, Some(id.rep), id.epoch, members.len() as u64);
                    let members: Vec<_> = members.iter().map(|m| m.node.0).collect();
                    debug!(%id, %of, ?members, "Transitional configuration.");
                    trace!(blackbox = self.blackbox.dump(), "The last events.");
                }
                Event::Writable => self.full = false,
            }
            self.upper.handle_event(event);
        }
        if any {
            self.upper.flush();
            self.more_submissions = true;
        }
        any
    }

    fn traces(&mut self) {
        while let Some(line) = self.engine.poll_trace() {
            trace!("{line}");
            if self.trace.len() >= TRACE_LINES {
                self.trace.pop_front();
            }
            self.trace.push_back(line);
        }
    }
}
