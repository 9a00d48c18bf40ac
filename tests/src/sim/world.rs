//! One history: daemons, clients, network, faults, and virtual time.

mod clients;
mod forge;

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spread_ring::wire::{Kind, RingKey};
use spread_ring::{
    Boot, Class, ConfId, Event, Mid, Nanos, NodeId, NodeSet, Path, Ring, RingConfig, Service, SubmitError,
    Transmit,
};

use self::clients::{Client, Upper};
use self::forge::Forger;
use super::body;
use super::group_log::{ClientNo, GroupLog};
use super::group_oracle;
use super::log::{Entry, Log, Msg, Proc};
use super::net::{Datagram, Net};
use super::oracle::{self, Violation};
use super::plan::{Fault, MS, Moment, NOT_SAFE, Plan, Strike, Timed};
use super::rng::{Rng, mix};
use super::watch::{self, Watch};

/// Longest time in which everything must settle after the faults: the engine keeps a member that broke rings
/// away for up to a minute.
const SETTLE_MAX: u64 = 120_000 * MS;
/// Longest time until a lost token or a dead member is noticed.
const NOTICE_MAX: u64 = 2_000 * MS;
/// After the ring is whole, it must stay so for this time.
const QUIET: u64 = 6_000 * MS;
/// Longest time without a delivery in a whole ring while there is something to deliver: the longest message in
/// packets of one a visit.
const STALL_MAX: u64 = 10_000 * MS;
/// Longest time from `leave` to the end of the process.
const LEAVE_MAX: u64 = 5_000 * MS;
/// Packets that the sockets of a node hold.
const SOCKET_MAX: usize = 8192;
/// Messages that clients of a daemon hold while it does not take more.
const PENDING_MAX: usize = 500;
/// More steps than any history needs: the engine is busy with itself.
const STEPS_MAX: u64 = 60_000_000;
/// Timeouts of one process at one moment: the engine does not move its deadline.
const SPIN_MAX: u32 = 1000;
/// Lines of the trace that are kept.
const TRACE_MAX: usize = 400_000;

/// What may be changed of a plan, to make a failing history smaller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Faults that are left out, by number.
    pub without: Vec<usize>,
    /// Leave out messages: only this part of the load, in percent; `None`: all.
    pub load: Option<u64>,
    /// Keep a trace.
    pub trace: bool,
    /// Somebody with the addresses and sessions of the daemons sends forged packets. Nothing is promised then
    /// but that no daemon ends or runs hot, and that all is well again when the forger stops.
    pub hostile: bool,
}

/// Why a history failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `G1` to `G10`; `INV`: an invariant of the engine; `WIRE`: a packet that nobody may send; `BODY`: a
    /// damaged message; `PANIC`; `SPIN`: a busy loop; `LEAVE`: a goodbye without end.
    pub promise: String,
    /// What happened.
    pub what: String,
    /// Virtual time in nanoseconds when it was noticed.
    pub at: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.promise, self.at / MS, self.what)
    }
}

/// How much a history exercised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages submitted.
    pub submitted: u64,
    /// Messages delivered, at all processes together.
    pub deliveries: u64,
    /// Deliveries in transitional configurations.
    pub transitional: u64,
    /// Installs of rings of two or more members, at all processes together.
    pub installs: u64,
    /// Rings for which a token was sent.
    pub rings: u64,
    /// Packets put on the wire, one for each receiver.
    pub packets: u64,
    /// Packets lost.
    pub lost: u64,
    /// Processes started.
    pub starts: u64,
    /// Messages that clients of groups read.
    pub client_deliveries: u64,
    /// Views that clients of groups read.
    pub views: u64,
    /// Views in transition that clients of groups read.
    pub transition_views: u64,
    /// Transitional signals that clients of groups read.
    pub signals: u64,
    /// Ambushes that struck.
    pub strikes: u64,
    /// Virtual time in nanoseconds.
    pub time: u64,
}

impl Figures {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.deliveries += other.deliveries;
        self.transitional += other.transitional;
        self.installs += other.installs;
        self.rings += other.rings;
        self.packets += other.packets;
        self.lost += other.lost;
        self.starts += other.starts;
        self.client_deliveries += other.client_deliveries;
        self.views += other.views;
        self.transition_views += other.transition_views;
        self.signals += other.signals;
        self.strikes += other.strikes;
        self.time += other.time;
    }
}

/// A finished history.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: all promises were kept.
    pub failure: Option<Failure>,
    /// How much was done.
    pub figures: Figures,
    /// Depends on every event of the history: equal digests, equal histories.
    pub digest: u64,
    /// The trace, if asked for.
    pub trace: Vec<String>,
    /// The logs of the daemons.
    pub log: Log,
    /// The logs of the clients, if groups were simulated.
    pub group_log: GroupLog,
}

thread_local! {
    /// Where the last panic of this thread happened.
    static PANIC_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on, panics print nothing: a history reports them as its failure.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANIC_AT.with(|at| at.replace(place));
    }));
}

/// Runs a history.
pub fn run(plan: &Plan, options: &Options) -> Outcome {
    let mut world = World::new(plan.clone(), options);
    let result = catch_unwind(AssertUnwindSafe(|| world.play()));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(Violation { promise, what })) => Some((promise.to_owned(), what)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let place = PANIC_AT.with(|at| at.take());
            Some(("PANIC".to_owned(), format!("{place}: {}", text.unwrap_or_default())))
        }
    };
    let at = world.now;
    let failure = failure.map(|(promise, what)| Failure { promise, what, at });
    world.figures.time = at;
    world.figures.lost = world.net.lost;
    world.figures.rings = world.watch.rings_tried() as u64;
    Outcome {
        failure,
        figures: world.figures,
        digest: world.digest,
        trace: world.trace.into(),
        log: world.log,
        group_log: world.group_log,
    }
}

/// What comes next, in virtual time.
#[derive(Debug)]
enum Next {
    /// A packet reaches the sockets of a node.
    Arrive {
        to: usize,
        from: NodeId,
        path: Path,
        class: Class,
        packet: Bytes,
    },
    /// A node handles what has arrived, and its timers.
    Wake {
        node: usize,
        start: u64,
    },
    /// The clients of a node submit.
    Client {
        node: usize,
        start: u64,
    },
    /// A client of groups reads and does something.
    Turn(ClientNo),
    /// Another client of groups connects to a node.
    Connect {
        node: usize,
        start: u64,
    },
    /// A forged packet is sent.
    Forge,
    /// A fault of the plan, or of an ambush, begins or ends.
    Begin(usize),
    End(usize),
}

struct Scheduled {
    at: u64,
    /// Keeps the order of what is due at the same moment.
    number: u64,
    next: Next,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    // The heap gives the greatest: turned around.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A monotonic clock that may go wrong.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: u64,
    offset: u64,
    per_mille: u64,
}

impl Clock {
    fn read(&self, now: u64) -> Nanos {
        Nanos(self.offset + (now - self.started) * self.per_mille / 1000)
    }

    /// The first moment at which the clock shows at least `at`.
    fn when(&self, at: Nanos) -> u64 {
        self.started + (at.0.saturating_sub(self.offset) * 1000).div_ceil(self.per_mille)
    }
}

struct Node {
    process: Option<Process>,
    /// Number of starts; what was scheduled for an earlier one is void.
    start: u64,
    /// Faults that keep it down.
    down: u32,
    paused: u32,
    slow: Vec<u64>,
    clock_rate: u64,
    /// The epoch that an earlier process wrote down.
    epoch_file: u64,
    rng: Rng,
}

struct Process {
    ring: Ring,
    /// The groups, if they are simulated.
    upper: Option<Box<Upper>>,
    mid: Mid,
    proc: Proc,
    clock: Clock,
    data: VecDeque<(Path, NodeId, Bytes)>,
    tokens: VecDeque<(Path, NodeId, Bytes)>,
    /// When the next `Wake` is due.
    wake: Option<u64>,
    /// Messages that the ring did not take yet, in order.
    pending: VecDeque<(Service, usize)>,
    full: bool,
    submitted: u32,
    own_delivered: u32,
    conf: ConfId,
    members: Vec<Mid>,
    in_trans: Option<ConfId>,
    leaving_since: Option<u64>,
    /// Timeouts handled at `spin_at`.
    spin: u32,
    spin_at: u64,
}

struct World {
    plan: Plan,
    now: u64,
    queue: BinaryHeap<Scheduled>,
    numbers: u64,
    nodes: Vec<Node>,
    net: Net,
    /// Those of the plan, then those that ambushes made.
    faults: Vec<Timed>,
    /// Ambushes that wait: fault, occurrences left.
    ambushes: Vec<(usize, u64)>,
    /// No further submissions but the probes.
    quiet: bool,
    /// The last events of a process that dies are read.
    dying: bool,
    log: Log,
    clients: Vec<Client>,
    group_log: GroupLog,
    watch: Watch,
    figures: Figures,
    digest: u64,
    /// Packets that a forger has seen, if there is one.
    forger: Option<Forger>,
    tracing: bool,
    trace: VecDeque<String>,
    load: Rng,
    submissions_left: u64,
    steps: u64,
}

type Step = Result<(), Violation>;

fn violation<T>(promise: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { promise, what })
}

impl World {
    fn new(mut plan: Plan, options: &Options) -> Self {
        if options.hostile {
            // Clients of groups cannot tell what a forger did to them.
            plan.groups = None;
        }
        if let Some(percent) = options.load {
            plan.load.total = (plan.load.total * percent / 100).max(1);
        }
        let node = |i| Node {
            process: None,
            start: 0,
            down: 0,
            paused: 0,
            slow: Vec::new(),
            clock_rate: 1000,
            epoch_file: 0,
            rng: Rng::new(plan.seed, 100 + i),
        };
        let nodes = (0u64..).take(plan.nodes).map(node).collect();
        let net = Net::new(plan.nodes, plan.latency, plan.jitter, Rng::new(plan.seed, 2));
        let mut world = Self {
            now: 0,
            queue: BinaryHeap::new(),
            numbers: 0,
            nodes,
            net,
            faults: plan.faults.clone(),
            ambushes: Vec::new(),
            quiet: false,
            dying: false,
            log: Log::default(),
            clients: Vec::new(),
            group_log: GroupLog::default(),
            watch: Watch::default(),
            figures: Figures::default(),
            digest: 0,
            forger: options.hostile.then(|| Forger::new(plan.seed)),
            tracing: options.trace,
            trace: VecDeque::new(),
            load: Rng::new(plan.seed, 3),
            submissions_left: plan.load.total,
            steps: 0,
            plan,
        };
        for (i, fault) in world.plan.faults.clone().iter().enumerate() {
            if !options.without.contains(&i) {
                world.schedule_fault(i, fault);
            }
        }
        world
    }

    fn schedule_fault(&mut self, index: usize, fault: &Timed) {
        // Clocks are wrong from the start: they change at the start of a process only.
        self.at(fault.at, Next::Begin(index));
        if !fault.stays {
            self.at(fault.until, Next::End(index));
        }
    }

    fn at(&mut self, at: u64, next: Next) {
        self.numbers += 1;
        self.queue.push(Scheduled { at: at.max(self.now), number: self.numbers, next });
    }

    /// The whole history.
    fn play(&mut self) -> Step {
        let active = self.plan.active;
        // Faults of time 0 come before the first start: a clock may be wrong from the beginning.
        self.run_until(0)?;
        for node in 0..self.plan.nodes {
            if self.nodes[node].down == 0 {
                self.start(node)?;
            }
        }
        if self.forger.is_some() {
            self.at(0, Next::Forge);
            self.run_until(active)?;
            return self.recover_from_forger();
        }
        self.run_until(active)?;
        if self.plan.liveness {
            self.settle()?;
        }
        self.read_everything()?;
        oracle::check(&self.log)?;
        group_oracle::check(&self.group_log)
    }

    fn run_until(&mut self, until: u64) -> Step {
        while self.queue.peek().is_some_and(|s| s.at <= until) {
            let Some(Scheduled { at, next, .. }) = self.queue.pop() else { break };
            self.now = at;
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return violation("SPIN", format!("more than {STEPS_MAX} steps"));
            }
            self.step(next)?;
        }
        self.now = until;
        Ok(())
    }

    fn step(&mut self, next: Next) -> Step {
        match next {
            Next::Arrive { to, from, path, class, packet } => self.arrive(to, from, path, class, packet),
            Next::Wake { node, start } => self.wake(node, start)?,
            Next::Client { node, start } => self.client(node, start)?,
            Next::Turn(client) => self.turn(client)?,
            Next::Connect { node, start } => self.connect_later(node, start)?,
            Next::Forge => self.forge(),
            Next::Begin(fault) => self.begin(fault)?,
            Next::End(fault) => self.end(fault)?,
        }
        Ok(())
    }

    // ---- processes ----

    fn start(&mut self, node: usize) -> Step {
        let plan = &self.plan;
        let n = &mut self.nodes[node];
        n.start += 1;
        let session = n.rng.bits() | 1;
        // The state file may be lost: nothing depends on it but that clients never see an identifier twice.
        let kept = n.rng.per_mille(700) || plan.groups.is_some();
        let known = if kept { n.epoch_file } else { 0 };
        let mut seed = [0; 32];
        seed.iter_mut().for_each(|b| *b = u8::try_from(n.rng.below(256)).unwrap_or(0));
        let boot =
            Boot { session, epoch_min: (known + 2).max(plan.engine.epoch + self.now / (1000 * MS)), seed };
        let clock = Clock { started: self.now, offset: n.rng.below(1 << 50), per_mille: n.clock_rate };
        let id = NodeId(u16::try_from(node).unwrap_or(u16::MAX));
        let cfg = Arc::new(config(plan, id));
        let mid = Mid { node: id, session };
        let start = n.start;
        let mut ring = match Ring::new(cfg, boot, clock.read(self.now)) {
            Ok(ring) => ring,
            Err(err) => return violation("PANIC", format!("the configuration is refused: {err}")),
        };
        ring.set_trace(self.tracing);
        let upper = self.upper(node)?;
        let proc = self.log.start(mid);
        self.figures.starts += 1;
        self.nodes[node].process = Some(Process {
            ring,
            upper,
            mid,
            proc,
            clock,
            data: VecDeque::new(),
            tokens: VecDeque::new(),
            wake: None,
            pending: VecDeque::new(),
            full: false,
            submitted: 0,
            own_delivered: 0,
            conf: ConfId::default(),
            members: Vec::new(),
            in_trans: None,
            leaving_since: None,
            spin: 0,
            spin_at: 0,
        });
        self.note(node, || format!("starts as p{} session {session:x}", proc.0));
        if self.plan.groups.is_none() && self.plan.load.senders >> node & 1 == 1 {
            let at = self.now + self.load.below(self.plan.load.every);
            self.at(at, Next::Client { node, start });
        }
        self.drain(node)?;
        self.first_clients(node)?;
        self.drain(node)
    }

    fn kill(&mut self, node: usize, why: &str) -> Step {
        // What the engine did before it died it has done, also if nobody had looked at its events yet: others
        // may have its packets.
        self.dying = true;
        while let Some(event) = self.ring(node).and_then(Ring::poll_event) {
            self.event(node, event)?;
        }
        self.dying = false;
        self.clients_die(node);
        if let Some(process) = self.nodes[node].process.take() {
            self.log.end(process.proc);
            self.note(node, || format!("{why} (p{})", process.proc.0));
        }
        Ok(())
    }

    fn arrive(&mut self, to: usize, from: NodeId, path: Path, class: Class, packet: Bytes) {
        let slowest = self.nodes[to].slow.iter().max().copied().unwrap_or(0);
        let delay = self.nodes[to].rng.below(self.plan.wakeup.max(slowest)) + 1;
        let Some(process) = &mut self.nodes[to].process else { return };
        let socket = match class {
            Class::Data => &mut process.data,
            Class::Token => &mut process.tokens,
        };
        if socket.len() < SOCKET_MAX {
            socket.push_back((path, from, packet));
        } else {
            self.net.lost += 1;
        }
        let at = self.now + delay;
        self.wake_at(to, at);
    }

    /// Makes sure that the node wakes at `at` or earlier.
    fn wake_at(&mut self, node: usize, at: u64) {
        let n = &mut self.nodes[node];
        let start = n.start;
        let Some(process) = &mut n.process else { return };
        if process.wake.is_none_or(|wake| at < wake) {
            process.wake = Some(at);
            self.at(at, Next::Wake { node, start });
        }
    }

    /// One turn of the driver's loop: all data packets, then tokens, then the timers, then the effects.
    fn wake(&mut self, node: usize, start: u64) -> Step {
        let now = self.now;
        let n = &mut self.nodes[node];
        let Some(process) = n.process.as_mut().filter(|p| start == n.start && p.wake == Some(now)) else {
            return Ok(());
        };
        process.wake = None;
        if n.paused > 0 {
            return Ok(());
        }
        let clock = process.clock.read(now);
        // As the driver does: what has arrived is read before timers are looked at. A token waits until the
        // data socket is empty.
        while let Some((path, from, packet)) = process.data.pop_front() {
            process.ring.handle_packet(clock, path, from, packet);
        }
        while let Some((path, from, packet)) = process.tokens.pop_front() {
            process.ring.handle_packet(clock, path, from, packet);
        }
        if process.ring.poll_timeout().is_some_and(|due| due <= clock) {
            process.ring.handle_timeout(clock);
            if process.spin_at != now {
                (process.spin_at, process.spin) = (now, 0);
            }
            process.spin += 1;
            if process.spin > SPIN_MAX {
                return violation("SPIN", format!("n{node} has timers due for ever"));
            }
        }
        self.drain(node)
    }

    /// Performs all effects of the engine of a node and arms its timer.
    fn drain(&mut self, node: usize) -> Step {
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.ring(node).and_then(Ring::poll_transmit) {
                quiet = false;
                self.transmit(node, transmit)?;
            }
            while let Some(event) = self.ring(node).and_then(Ring::poll_event) {
                quiet = false;
                self.event(node, event)?;
            }
            self.submit_pending(node)?;
            quiet &= !self.pump(node)?;
            if quiet {
                break;
            }
        }
        self.drain_trace(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if let Err(what) = process.ring.invariants()
            && self.forger.is_none()
        {
            return violation("INV", format!("n{node} (p{}): {what}", process.proc.0));
        }
        if let Some(Err(what)) = process.upper.as_mut().map(|upper| upper.invariants()) {
            return violation("INV", format!("groups of n{node} (p{}): {what}", process.proc.0));
        }
        if process.leaving_since.is_some_and(|since| self.now - since > LEAVE_MAX) {
            return violation("LEAVE", format!("n{node} does not get out"));
        }
        if process.ring.is_gone() {
            self.kill(node, "has left")?;
            if self.nodes[node].down == 0 {
                return self.start(node);
            }
            return Ok(());
        }
        let due = process.ring.poll_timeout().map(|due| process.clock.when(due).max(self.now));
        if let Some(due) = due {
            self.wake_at(node, due);
        }
        Ok(())
    }

    fn ring(&mut self, node: usize) -> Option<&mut Ring> {
        self.nodes[node].process.as_mut().map(|process| &mut process.ring)
    }

    // ---- clients ----

    fn client(&mut self, node: usize, start: u64) -> Step {
        if self.nodes[node].start != start || self.nodes[node].process.is_none() || self.quiet {
            return Ok(());
        }
        let every = self.plan.load.every;
        let at = self.now + self.load.below(2 * every) + 1;
        self.at(at, Next::Client { node, start });
        if self.nodes[node].paused > 0 {
            return Ok(());
        }
        let count = self.load.range(1, self.plan.load.burst);
        self.offer(node, count);
        self.submit_pending(node)?;
        self.drain(node)
    }

    /// The clients of a node want to submit `count` messages.
    fn offer(&mut self, node: usize, count: u64) {
        for _ in 0..count.min(self.submissions_left) {
            let load = &self.plan.load;
            let service =
                if self.load.per_mille(load.safe) { Service::Safe } else { self.load.pick(&NOT_SAFE) };
            let len = if self.load.per_mille(load.long) {
                self.load.log_range(1000, load.len_max)
            } else {
                self.load.log_range(body::LEN_MIN as u64, load.len_max.min(1200))
            };
            let Some(process) = &mut self.nodes[node].process else { return };
            if process.pending.len() >= PENDING_MAX || process.leaving_since.is_some() {
                return;
            }
            process.pending.push_back((service, usize::try_from(len).unwrap_or(0)));
            self.submissions_left -= 1;
        }
    }

    fn submit_pending(&mut self, node: usize) -> Step {
        let now = self.now;
        loop {
            let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
            if process.full || process.leaving_since.is_some() {
                return Ok(());
            }
            let Some((service, len)) = process.pending.front().copied() else { return Ok(()) };
            let msg = Msg { by: process.proc, no: process.submitted + 1 };
            let parts = usize::try_from(mix(u64::from(msg.no)) % 3 + 1).unwrap_or(1);
            let body = body::write(msg, service, len, parts);
            let clock = process.clock.read(now);
            // What `submit` delivers at once must find the submission in the log.
            match process.ring.submit(clock, service, body) {
                Ok(()) => {
                    process.submitted += 1;
                    process.pending.pop_front();
                    let proc = process.proc;
                    self.figures.submitted += 1;
                    self.log.push(proc, now, Entry::Submit { msg, service });
                    self.mix(u64::from(msg.no) << 8 | service as u64);
                    self.note(node, || format!("submits {msg} {service:?}, {len} bytes"));
                }
                Err(SubmitError::Full) => process.full = true,
                Err(err) => return violation("PANIC", format!("n{node} refuses a message: {err}")),
            }
        }
    }

    // ---- effects ----

    fn transmit(&mut self, node: usize, transmit: Transmit) -> Step {
        let Transmit { to, multicast, class, packet } = transmit;
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let mid = process.mid;
        let max = self.plan.engine.packet_len;
        if packet.len() > max || to.iter().any(|n| n.index() >= self.plan.nodes) {
            return violation("WIRE", format!("n{node} sends {} bytes to {to:?}", packet.len()));
        }
        let moment = match self.watch.packet(mid, to, &packet) {
            Ok(moment) => moment,
            Err(_) if self.forger.is_some() => None,
            Err(violation) => return Err(violation),
        };
        if self.tracing {
            let how = if multicast { "all" } else { "to" };
            let what = watch::describe(&packet);
            self.note(node, || format!("sends {how} {to:?}: {what}, {} bytes", packet.len()));
        }
        self.mix(packet.len() as u64 ^ u64::from(mid.node.0) << 16 ^ (class as u64) << 32);
        if let Some(moment) = moment
            && self.ambush(node, moment, Some(to))?
        {
            return Ok(());
        }
        let is_data = packet.get(3).copied() == Some(Kind::Data as u8);
        let path = if multicast { Path::Multicast } else { Path::Unicast };
        let left = self.net.depart(self.now, node);
        if let Some(forger) = &mut self.forger {
            forger.see(class, path, &packet);
        }
        for receiver in to.iter() {
            self.figures.packets += 1;
            let datagram =
                Datagram { from: node, to: receiver.index(), multicast, is_data, len: packet.len() };
            for at in self.net.arrivals(left, datagram).into_iter().flatten() {
                let packet = packet.clone();
                self.at(at, Next::Arrive { to: receiver.index(), from: mid.node, path, class, packet });
            }
        }
        Ok(())
    }

    fn event(&mut self, node: usize, event: Event) -> Step {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let proc = process.proc;
        match event {
            Event::Deliver { seq, index, sender, service, body } => {
                let read = match &process.upper {
                    None => body::read(&body).map(|(msg, service)| (msg, service, Vec::new())),
                    Some(_) => body::split(&body),
                };
                let (msg, submitted_as, parts) = match read {
                    Ok(message) => message,
                    Err(_) if self.forger.is_some() => return Ok(()),
                    Err(what) => return violation("BODY", format!("n{node} delivered {what}")),
                };
                if let Some(upper) = &mut process.upper {
                    upper.touched = true;
                    upper.groups.handle_deliver(sender.node.0, &parts);
                }
                if self.forger.is_some() {
                    process.own_delivered += u32::from(msg.by == proc);
                    self.figures.deliveries += 1;
                    return Ok(());
                }
                if self.log.find(sender) != Some(msg.by) || service != submitted_as {
                    let what =
                        format!("n{node} delivered {msg} {submitted_as:?} as {service:?} of {sender:?}");
                    return violation("BODY", what);
                }
                process.own_delivered += u32::from(msg.by == proc);
                self.figures.deliveries += 1;
                self.figures.transitional += u64::from(process.in_trans.is_some());
                self.log.push(proc, now, Entry::Deliver { msg, place: (seq, index), service });
                self.mix(seq << 20 ^ u64::from(index) << 8 ^ u64::from(msg.by.0) << 40 ^ u64::from(msg.no));
                self.note(node, || format!("delivers {msg} {service:?} at {seq}.{index}"));
                if service == Service::Safe {
                    self.ambush(node, Moment::SafeDelivery, None)?;
                }
            }
            Event::Transitional { id, members, of } => {
                process.in_trans = Some(id);
                self.daemon_view_breaks(node, id, &members)?;
                self.note(node, || format!("gets transitional {id} {} of {of}", show(&members)));
                self.log.push(proc, now, Entry::Transitional { id, members, of });
                self.ambush(node, Moment::Transitional, None)?;
            }
            Event::Regular { id, members } => {
                let trans = process.in_trans.take();
                process.conf = id;
                process.members.clone_from(&members);
                self.new_daemon_view(node, id, &members, trans)?;
                let set: NodeSet = members.iter().map(|mid| mid.node).collect();
                self.watch.installed(RingKey::from(id), set);
                self.mix(id.epoch ^ u64::from(id.nonce) << 32);
                self.note(node, || format!("installs {id} {}", show(&members)));
                self.log.push(proc, now, Entry::Regular { id, members });
                if self.nodes[node].rng.per_mille(600) || self.plan.groups.is_some() {
                    self.nodes[node].epoch_file = id.epoch;
                }
                if set.len() > 1 {
                    self.figures.installs += 1;
                    self.ambush(node, Moment::Install, None)?;
                }
            }
            Event::Writable => process.full = false,
        }
        Ok(())
    }

    // ---- faults ----

    fn begin(&mut self, index: usize) -> Step {
        let Some(timed) = self.faults.get(index).cloned() else { return Ok(()) };
        let Timed { fault, .. } = timed;
        self.note_world(|| format!("fault {index} begins: {fault:?}"));
        self.net.set(&fault, true);
        match fault {
            Fault::Crash(node) => {
                self.nodes[node].down += 1;
                self.kill(node, "dies")?;
            }
            Fault::Leave(node) => {
                self.nodes[node].down += 1;
                let now = self.now;
                if let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.leaving_since.is_none())
                {
                    process.leaving_since = Some(now);
                    process.pending.clear();
                    self.clients_die(node);
                    let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
                    let clock = process.clock.read(now);
                    process.ring.leave(clock);
                    self.drain(node)?;
                }
            }
            Fault::Pause(node) => self.nodes[node].paused += 1,
            Fault::Slow(node, most) => self.nodes[node].slow.push(most),
            Fault::Clock(node, rate) => self.nodes[node].clock_rate = rate,
            Fault::Flood(node, count)
                if self.nodes[node].paused == 0 && !self.quiet && self.plan.groups.is_none() =>
            {
                self.offer(node, count);
                self.submit_pending(node)?;
                self.drain(node)?;
            }
            Fault::Ambush(_, nth, _) => self.ambushes.push((index, nth)),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, index: usize) -> Step {
        let Some(Timed { fault, .. }) = self.faults.get(index).cloned() else { return Ok(()) };
        self.note_world(|| format!("fault {index} ends: {fault:?}"));
        self.net.set(&fault, false);
        match fault {
            Fault::Crash(node) | Fault::Leave(node) => {
                let n = &mut self.nodes[node];
                n.down -= 1;
                // A process that still says goodbye is started again when it has ended.
                if n.down == 0 && n.process.is_none() {
                    return self.start(node);
                }
            }
            Fault::Pause(node) => {
                self.nodes[node].paused -= 1;
                if self.nodes[node].paused == 0 {
                    if let Some(process) = &mut self.nodes[node].process {
                        process.wake = None;
                    }
                    let now = self.now;
                    self.wake_at(node, now);
                }
            }
            Fault::Slow(node, most) => {
                let slow = &mut self.nodes[node].slow;
                if let Some(i) = slow.iter().position(|s| *s == most) {
                    slow.remove(i);
                }
            }
            Fault::Clock(node, _) => self.nodes[node].clock_rate = 1000,
            Fault::Ambush(..) => self.ambushes.retain(|(armed, _)| *armed != index),
            _ => {}
        }
        Ok(())
    }

    /// Something happened at a node that an ambush may wait for. Returns whether the packet is lost.
    fn ambush(&mut self, node: usize, moment: Moment, to: Option<NodeSet>) -> Result<bool, Violation> {
        if self.dying {
            return Ok(false);
        }
        let mut struck = None;
        let faults = &self.faults;
        self.ambushes.retain_mut(|(index, left)| {
            let Some(Fault::Ambush(waits_for, _, strike)) = faults.get(*index).map(|timed| &timed.fault)
            else {
                return false;
            };
            if *waits_for != moment || struck.is_some() {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                struck = Some((*index, *strike));
            }
            *left > 0
        });
        let Some((index, strike)) = struck else { return Ok(false) };
        self.figures.strikes += 1;
        self.note_world(|| format!("ambush {index}: {strike:?} at n{node}, {moment:?}"));
        let first = to.and_then(NodeSet::first).map_or(node, NodeId::index);
        let split = |i: usize| u8::from(i > node);
        let alone = |i: usize| u8::from(i != node);
        let parts = |f: &dyn Fn(usize) -> u8| (0..self.plan.nodes).map(f).collect();
        let (fault, time, lost) = match strike {
            Strike::Lose => return Ok(true),
            Strike::LoseAndCrash(time) => (Fault::Crash(node), time, true),
            Strike::Crash(time) => (Fault::Crash(node), time, false),
            Strike::CrashReceiver(time) => (Fault::Crash(first), time, false),
            Strike::Isolate(time) => (Fault::Partition(parts(&alone)), time, false),
            Strike::Deafen(time) => (Fault::Deaf(node), time, false),
            Strike::Mute(time) => (Fault::Mute(node), time, false),
            Strike::Split(time) => (Fault::Partition(parts(&split)), time, false),
            Strike::Pause(time) => (Fault::Pause(node), time, false),
            Strike::LateData(most) => (Fault::Late(500, most, true), most, false),
        };
        let until = (self.now + time).min(self.plan.active.max(self.now + 1));
        let timed = Timed { at: self.now, until, stays: false, fault };
        let index = self.faults.len();
        self.faults.push(timed);
        self.begin(index)?;
        self.at(until, Next::End(index));
        Ok(lost)
    }

    // ---- liveness ----

    /// The faults have ended but for those that stay: everything must come to rest.
    fn settle(&mut self) -> Step {
        self.quiet = true;
        self.note_world(|| "the faults end".to_owned());
        self.ambushes.clear();
        let Some(parts) = self.clean_parts() else { return self.settle_roughly() };
        let begin = self.now;
        // A ring whose members were just cut off looks whole until they notice.
        self.run_until(self.now + NOTICE_MAX)?;
        while !self.is_whole(&parts) {
            if self.now - begin > SETTLE_MAX {
                return violation(
                    "G10",
                    format!("no rest after {} ms: {}", SETTLE_MAX / MS, self.describe()),
                );
            }
            self.run_until(self.now + 20 * MS)?;
        }
        self.note_world(|| "all are where they belong".to_owned());
        // Packets of the time before may still be on their way.
        self.run_until(self.now + 500 * MS)?;
        let installs = self.installs();
        self.probe()?;
        self.deliver_all()?;
        if self.plan.groups.is_some() {
            self.last_words()?;
            self.deliver_all()?;
            parts.iter().try_for_each(|part| self.tables_agree(part))?;
        }
        self.run_until(self.now + QUIET)?;
        self.read_everything()?;
        // Time limits cannot hold between clocks that differ by more than what they leave room for.
        if self.skew() > 1300 {
            return Ok(());
        }
        if self.installs() != installs {
            return violation("G10", format!("new installs after all was whole: {}", self.describe()));
        }
        if !self.is_whole(&parts) {
            return violation("G10", format!("no longer whole: {}", self.describe()));
        }
        // All of a part have delivered the same in their last configuration.
        let mut totals: Vec<(ConfId, usize)> = Vec::new();
        for process in self.nodes.iter().filter_map(|n| n.process.as_ref()) {
            let lines = self.log.proc(process.proc).lines.iter().rev();
            let count = lines
                .take_while(|line| !matches!(line.entry, Entry::Regular { .. }))
                .filter(|line| matches!(line.entry, Entry::Deliver { .. }))
                .count();
            match totals.iter().find(|(conf, _)| *conf == process.conf) {
                None => totals.push((process.conf, count)),
                Some((_, other)) if *other == count => {}
                Some((conf, other)) => {
                    return violation("G10", format!("{count} and {other} messages delivered in {conf}"));
                }
            }
        }
        self.group_log.rest = Some(parts);
        Ok(())
    }

    /// Goes on until everything submitted is delivered.
    fn deliver_all(&mut self) -> Step {
        let (mut count, mut since) = (self.figures.deliveries, self.now);
        while !self.all_delivered() {
            self.run_until(self.now + 20 * MS)?;
            if self.figures.deliveries != count {
                (count, since) = (self.figures.deliveries, self.now);
            }
            if self.now - since > STALL_MAX {
                return violation("G10", format!("nothing more is delivered: {}", self.describe()));
            }
        }
        Ok(())
    }

    /// Faults that stay and leave no clean parts: which rings form is open, but they must come to rest.
    fn settle_roughly(&mut self) -> Step {
        self.run_until(self.now + 20_000 * MS)?;
        self.probe()?;
        let before = self.installs();
        self.run_until(self.now + 20_000 * MS)?;
        let after = self.installs() - before;
        let most = 4 * self.plan.nodes;
        if self.skew() <= 1300 && after > most {
            let what = format!("{after} installs in 20 s without a change: {}", self.describe());
            return violation("G10", what);
        }
        Ok(())
    }

    /// The sets of nodes that can exchange packets, if each of them can with all others of its set and with
    /// nobody else.
    fn clean_parts(&self) -> Option<Vec<Vec<usize>>> {
        let n = self.plan.nodes;
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for node in 0..n {
            let open = |other: usize| self.net.is_open(node, other);
            if let Some(part) = parts.iter_mut().find(|part| open(part[0])) {
                part.push(node);
            } else {
                parts.push(vec![node]);
            }
        }
        let part_of = |node: usize| parts.iter().position(|part| part.contains(&node));
        let clean = (0..n).all(|a| (0..n).all(|b| self.net.is_open(a, b) == (part_of(a) == part_of(b))));
        clean.then_some(parts)
    }

    /// Whether the live nodes of each part are in one ring of exactly them.
    fn is_whole(&self, parts: &[Vec<usize>]) -> bool {
        parts.iter().all(|part| {
            let live = || part.iter().filter_map(|node| self.nodes[*node].process.as_ref());
            let members: Vec<Mid> = live().map(|process| process.mid).collect();
            let Some(first) = live().next() else { return true };
            live().all(|process| process.conf == first.conf && process.members == members)
        })
    }

    /// Rate of the fastest clock by that of the slowest one, per mille.
    fn skew(&self) -> u64 {
        let rates = || self.nodes.iter().filter_map(|n| n.process.as_ref()).map(|p| p.clock.per_mille);
        let (slow, fast) = (rates().min().unwrap_or(1000), rates().max().unwrap_or(1000));
        fast * 1000 / slow
    }

    fn installs(&self) -> usize {
        let regular = |line: &&super::log::Line| matches!(line.entry, Entry::Regular { .. });
        self.log.procs().iter().map(|proc| proc.lines.iter().filter(regular).count()).sum()
    }

    /// Each live node submits a few messages more.
    fn probe(&mut self) -> Step {
        for node in 0..self.plan.nodes {
            let Some(process) = &mut self.nodes[node].process else { continue };
            if process.upper.is_some() {
                continue;
            }
            let probes = [(Service::Agreed, 100), (Service::Safe, 5000), (Service::Reliable, 16)];
            process.pending.extend(probes);
            self.submit_pending(node)?;
            self.drain(node)?;
        }
        Ok(())
    }

    fn all_delivered(&self) -> bool {
        let live = || self.nodes.iter().filter_map(|n| n.process.as_ref());
        live().all(|p| p.pending.is_empty() && p.own_delivered == p.submitted) && self.groups_idle()
    }

    fn describe(&self) -> String {
        let mut out = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let _ = match &node.process {
                None => write!(out, "n{i} is down; "),
                Some(p) => write!(
                    out,
                    "n{i} (p{}) in {} {}, {} of {} own messages delivered, {} pending; ",
                    p.proc.0,
                    p.conf,
                    show(&p.members),
                    p.own_delivered,
                    p.submitted,
                    p.pending.len()
                ),
            };
        }
        out
    }

    // ---- trace ----

    fn mix(&mut self, value: u64) {
        self.digest = mix(self.digest ^ value ^ self.now.rotate_left(17));
    }

    fn note(&mut self, node: usize, text: impl FnOnce() -> String) {
        if self.tracing {
            self.drain_trace(node);
            let line = format!("n{node} {}", text());
            self.put_trace(&line);
        }
    }

    fn note_world(&mut self, text: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("-- {}", text());
            self.put_trace(&line);
        }
    }

    fn drain_trace(&mut self, node: usize) {
        if !self.tracing {
            return;
        }
        while let Some(line) = self.ring(node).and_then(Ring::poll_trace) {
            let line = format!("n{node} | {line}");
            self.put_trace(&line);
        }
    }

    fn put_trace(&mut self, line: &str) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let (ms, rest) = (self.now / MS, self.now % MS);
        self.trace.push_back(format!("{ms:6}.{rest:06} {line}"));
    }
}

fn show(members: &[Mid]) -> String {
    let nodes: Vec<String> = members.iter().map(|mid| mid.node.0.to_string()).collect();
    format!("{{{}}}", nodes.join(","))
}

fn config(plan: &Plan, me: NodeId) -> RingConfig {
    let engine = &plan.engine;
    let mut cfg = RingConfig::new(me, vec![0; plan.nodes], [0x5a; 16]);
    cfg.packet_len_max = engine.packet_len;
    let scale = |d: Duration| d * u32::try_from(engine.token_ms).unwrap_or(500) / 500;
    let t = &mut cfg.timers;
    let times = [&mut t.token, &mut t.presence, &mut t.dead, &mut t.join, &mut t.consensus, &mut t.commit];
    times.into_iter().for_each(|time| *time = scale(*time));
    let [window, personal, accelerated] = engine.windows;
    (cfg.windows.window, cfg.windows.personal, cfg.windows.accelerated) = (window, personal, accelerated);
    cfg.acks = engine.acks;
    cfg.park = engine.park;
    cfg.limits.store_packets = engine.store;
    cfg.limits.submit_count_max = engine.submit_count;
    cfg.limits.submit_bytes_max = engine.submit_bytes;
    cfg
}
