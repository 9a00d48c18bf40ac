//! One history: daemons, clients, network, faults, and virtual time.

mod clients;
mod faults;
mod forge;
mod process;
mod queue;
mod settle;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use spread_ring::wire::{Kind, RingKey};
use spread_ring::{
    Class, ConfId, Event, Mid, Nanos, NodeId, NodeSet, Path, Ring, Service, SubmitError, Transmit,
};

use self::clients::{Client, Upper};
use self::forge::Forger;
use self::queue::Queue;
use super::body;
use super::group_log::{ClientNo, GroupLog};
use super::group_oracle;
use super::log::{Entry, Log, Msg, Proc};
use super::net::{Datagram, Net};
use super::oracle::{self, Violation};
use super::plan::{MS, Moment, NOT_SAFE, Plan, Timed};
use super::rng::{Rng, mix};
use super::watch::{self, Watch};

/// Longest time in which everything must settle after the faults: the engine keeps a member that broke rings
/// away for up to a minute.
const SETTLE_MAX: u64 = 120_000 * MS;
/// Longest time until a lost token or a dead member is noticed, in T_token.
const NOTICE: u64 = 4;
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
    queue: Queue,
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
            queue: Queue::default(),
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
        self.queue.push(at.max(self.now), next);
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
        while let Some((at, next)) = self.queue.pop(until) {
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
