//! One state of an exploration, and the moves from it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher as _};
use std::rc::Rc;

use bytes::Bytes;
use rustc_hash::FxHasher;
use spread_ring::wire::Kind;
use spread_ring::{ConfId, Event, Mid, Nanos, NodeId, Path, Ring, Service, Transmit};

use super::Bounds;
use crate::body;
use crate::log::{Entry, Line, Log, Msg, Proc};
use crate::oracle::{self, Violation};
use crate::watch::describe;

pub(super) type Step<T> = Result<T, Violation>;

/// Timers further away than this do not belong to what is explored.
const TIMER_FAR: u64 = 1_900_000_000;

/// A daemon process.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) ring: Ring,
    pub(super) mid: Mid,
    pub(super) proc: Proc,
    pub(super) clock: Nanos,
    pub(super) lines: Vec<Line>,
    pub(super) conf: (ConfId, Vec<Mid>),
    pub(super) submitted: u32,
    pub(super) own_delivered: u32,
    /// Timers that may still fire.
    timers: u8,
    /// Hash of the engine and of what it delivered.
    print: u64,
    said: u64,
}

/// A packet under way.
#[derive(Clone)]
pub(super) struct Flying {
    pub(super) path: Path,
    pub(super) packet: Bytes,
    hash: u64,
}

/// From and to: packets come in the order in which they were sent, tokens too.
pub(super) type Way = (u8, u8);

/// What may still happen.
#[derive(Clone, Copy, Hash)]
struct Left {
    losses: u8,
    duplicates: u8,
    late: u8,
    crashes: u8,
    cuts: u8,
}

#[derive(Clone)]
pub(super) struct State {
    /// By node; none if it is dead.
    pub(super) nodes: Vec<Option<Rc<Node>>>,
    /// Logs of processes that died.
    dead: Vec<Rc<Node>>,
    pub(super) ways: BTreeMap<Way, VecDeque<Flying>>,
    held: Vec<(Way, Flying)>,
    /// Nodes that are cut off, by bit.
    pub(super) cut: u32,
    /// Messages that will be submitted, in this order.
    plan: VecDeque<(usize, Service)>,
    left: Left,
    /// Signs of life arrive.
    pub(super) lively: bool,
    order: u64,
}

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Arrive(Way),
    Lose(Way),
    Twice(Way),
    Hold(Way),
    ArriveLate(usize),
    Timer(usize),
    Crash(usize),
    Cut(usize),
    Submit,
}

impl State {
    pub(super) fn new(rings: Vec<Ring>) -> Step<Self> {
        let left = Left { losses: 0, duplicates: 0, late: 0, crashes: 0, cuts: 0 };
        let mut state = Self {
            nodes: Vec::new(),
            dead: Vec::new(),
            ways: BTreeMap::new(),
            held: Vec::new(),
            cut: 0,
            plan: VecDeque::new(),
            left,
            lively: true,
            order: 0,
        };
        for ring in rings {
            let at = state.nodes.len();
            let proc = Proc(u32::try_from(at).unwrap_or(u32::MAX));
            let mut node = Node {
                mid: ring.me(),
                ring,
                proc,
                clock: Nanos(super::start::CLOCK),
                lines: Vec::new(),
                conf: (ConfId::default(), Vec::new()),
                submitted: 0,
                own_delivered: 0,
                timers: 0,
                print: 0,
                said: 0,
            };
            state.drain(&mut node)?;
            state.nodes.push(Some(Rc::new(node)));
        }
        Ok(state)
    }

    /// From here on it is explored.
    pub(super) fn begin(&mut self, bounds: &Bounds, plan: &[(usize, Service)]) {
        self.left = Left {
            losses: bounds.losses,
            duplicates: bounds.duplicates,
            late: bounds.late,
            crashes: bounds.crashes,
            cuts: bounds.cuts,
        };
        self.plan = plan.iter().copied().collect();
        self.lively = false;
        for node in self.nodes.iter_mut().flatten() {
            Rc::make_mut(node).timers = bounds.timers;
        }
    }

    pub(super) fn node(&self, at: usize) -> Option<&Rc<Node>> {
        self.nodes.get(at).and_then(Option::as_ref)
    }

    /// All that can happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (way, _) in self.ways.iter().filter(|(_, queue)| !queue.is_empty()) {
            moves.push(Move::Arrive(*way));
            let kinds = [
                (self.left.losses, Move::Lose(*way)),
                (self.left.duplicates, Move::Twice(*way)),
                (self.left.late, Move::Hold(*way)),
            ];
            moves.extend(kinds.into_iter().filter(|(left, _)| *left > 0).map(|(_, step)| step));
        }
        moves.extend((0..self.held.len()).map(Move::ArriveLate));
        if !self.plan.is_empty() {
            moves.push(Move::Submit);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let near = node.ring.poll_timeout().is_some_and(|due| due.0 < node.clock.0 + TIMER_FAR);
            if node.timers > 0 && near {
                moves.push(Move::Timer(at));
            }
            if self.left.crashes > 0 {
                moves.push(Move::Crash(at));
            }
            if self.left.cuts > 0 && self.cut >> at & 1 == 0 {
                moves.push(Move::Cut(at));
            }
        }
        moves
    }

    /// The state after a move.
    pub(super) fn after(&self, step: Move) -> Step<Self> {
        let mut next = self.clone();
        match step {
            Move::Arrive(way) => {
                if let Some(flying) = next.take(way) {
                    next.arrive(way, &flying)?;
                }
            }
            Move::Lose(way) => {
                next.left.losses -= 1;
                next.take(way);
            }
            Move::Twice(way) => {
                next.left.duplicates -= 1;
                if let Some(flying) = next.ways.get(&way).and_then(VecDeque::front).cloned() {
                    next.held.push((way, flying.clone()));
                    next.take(way);
                    next.arrive(way, &flying)?;
                }
            }
            Move::Hold(way) => {
                next.left.late -= 1;
                if let Some(flying) = next.take(way) {
                    next.held.push((way, flying));
                }
            }
            Move::ArriveLate(at) => {
                let (way, flying) = next.held.remove(at);
                next.arrive(way, &flying)?;
            }
            Move::Timer(at) => next.timer(at)?,
            Move::Crash(at) => {
                next.left.crashes -= 1;
                next.crash(at);
            }
            Move::Cut(at) => {
                next.left.cuts -= 1;
                next.cut |= 1 << at;
                let clear = |way: &Way| usize::from(way.0) != at && usize::from(way.1) != at;
                next.ways.retain(|way, _| clear(way));
                next.held.retain(|(way, _)| clear(way));
            }
            Move::Submit => {
                if let Some((at, service)) = next.plan.pop_front() {
                    next.submit(at, service)?;
                }
            }
        }
        Ok(next)
    }

    fn take(&mut self, way: Way) -> Option<Flying> {
        let queue = self.ways.get_mut(&way)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.ways.remove(&way);
        }
        first
    }

    pub(super) fn crash(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at).and_then(Option::take) {
            self.dead.push(node);
        }
        self.ways.retain(|way, _| usize::from(way.1) != at);
        self.held.retain(|(way, _)| usize::from(way.1) != at);
    }

    /// A node with its changes, which the closure makes.
    fn change(&mut self, at: usize, act: impl FnOnce(&mut Node) -> Step<()>) -> Step<()> {
        let Some(mut rc) = self.nodes.get_mut(at).and_then(Option::take) else { return Ok(()) };
        let node = Rc::make_mut(&mut rc);
        act(node)?;
        self.drain(node)?;
        self.nodes[at] = Some(rc);
        Ok(())
    }

    pub(super) fn arrive(&mut self, way: Way, flying: &Flying) -> Step<()> {
        let Flying { path, packet, .. } = flying.clone();
        self.change(usize::from(way.1), |node| {
            node.ring.handle_packet(node.clock, path, NodeId(way.0.into()), packet);
            Ok(())
        })
    }

    fn timer(&mut self, at: usize) -> Step<()> {
        // Signs of life are for nothing here: the first other timer counts.
        for _ in 0..4 {
            let due = self.node(at).and_then(|node| node.ring.next_timer());
            let Some((presence, due)) = due else { return Ok(()) };
            self.change(at, |node| {
                node.clock = node.clock.max(due);
                node.ring.handle_timeout(node.clock);
                Ok(())
            })?;
            if !presence {
                break;
            }
        }
        self.change(at, |node| {
            node.timers -= 1;
            Ok(())
        })
    }

    /// A node's clock is at `clock`, and its timers fire.
    pub(super) fn timeout(&mut self, at: usize, clock: Nanos) -> Step<()> {
        self.change(at, |node| {
            node.clock = node.clock.max(clock);
            node.ring.handle_timeout(node.clock);
            Ok(())
        })
    }

    pub(super) fn set_clock(&mut self, at: usize, clock: Nanos) {
        if let Some(node) = self.nodes.get_mut(at).and_then(Option::as_mut) {
            let node = Rc::make_mut(node);
            node.clock = node.clock.max(clock);
        }
    }

    pub(super) fn submit(&mut self, at: usize, service: Service) -> Step<()> {
        self.order += 1;
        let order = self.order;
        self.change(at, |node| {
            node.submitted += 1;
            let msg = Msg { by: node.proc, no: node.submitted };
            let body = body::write(msg, service, 24, 1);
            if let Err(err) = node.ring.submit(node.clock, service, body) {
                return Err(Violation { promise: "PANIC", what: format!("a message is refused: {err}") });
            }
            node.lines.push(Line { order, at: node.clock.0, entry: Entry::Submit { msg, service } });
            Ok(())
        })
    }

    /// All effects of an engine.
    fn drain(&mut self, node: &mut Node) -> Step<()> {
        let from = u8::try_from(node.mid.node.0).unwrap_or(u8::MAX);
        loop {
            let mut quiet = true;
            while let Some(transmit) = node.ring.poll_transmit() {
                quiet = false;
                self.put(from, &transmit);
            }
            while let Some(event) = node.ring.poll_event() {
                quiet = false;
                self.event(node, event)?;
            }
            if quiet {
                break;
            }
        }
        while node.ring.poll_trace().is_some() {}
        node.ring.invariants().map_err(|what| Violation { promise: "INV", what })?;
        let mut hash = FxHasher::default();
        (node.ring.fingerprint(), node.said, node.timers, node.clock.0).hash(&mut hash);
        node.print = hash.finish();
        Ok(())
    }

    fn put(&mut self, from: u8, transmit: &Transmit) {
        let Transmit { to, multicast, packet, .. } = transmit;
        let kind = packet.get(3).copied();
        if !self.lively && kind == Some(Kind::Presence as u8) || self.cut >> from & 1 == 1 {
            return;
        }
        let path = if *multicast { Path::Multicast } else { Path::Unicast };
        let mut hash = FxHasher::default();
        (&packet[..], *multicast).hash(&mut hash);
        let flying = Flying { path, packet: packet.clone(), hash: hash.finish() };
        for receiver in to.iter() {
            let at = receiver.index();
            if self.nodes.get(at).is_some_and(Option::is_none)
                && self.dead.iter().any(|d| d.mid.node == receiver)
                || self.cut >> at & 1 == 1
            {
                continue;
            }
            let way = (from, u8::try_from(receiver.0).unwrap_or(u8::MAX));
            self.ways.entry(way).or_default().push_back(flying.clone());
        }
    }

    fn event(&mut self, node: &mut Node, event: Event) -> Step<()> {
        let entry = match event {
            Event::Deliver { seq, index, body, service, .. } => {
                let (msg, _) = body::read(&body).map_err(|what| Violation { promise: "BODY", what })?;
                node.own_delivered += u32::from(msg.by == node.proc);
                Entry::Deliver { msg, place: (seq, index), service }
            }
            Event::Transitional { id, members, of } => Entry::Transitional { id, members, of },
            Event::Regular { id, members } => {
                node.conf = (id, members.clone());
                Entry::Regular { id, members }
            }
            Event::Writable => return Ok(()),
        };
        let mut hash = FxHasher::default();
        (node.said, format!("{entry:?}")).hash(&mut hash);
        node.said = hash.finish();
        self.order += 1;
        node.lines.push(Line { order: self.order, at: node.clock.0, entry });
        Ok(())
    }

    pub(super) fn hash(&self) -> u64 {
        let mut hash = FxHasher::default();
        for node in &self.nodes {
            node.as_ref().map_or(0, |node| node.print).hash(&mut hash);
        }
        for node in &self.dead {
            node.said.hash(&mut hash);
        }
        for (way, queue) in &self.ways {
            (way, queue.len()).hash(&mut hash);
            queue.iter().for_each(|flying| flying.hash.hash(&mut hash));
        }
        // In whatever order they were held back.
        let mut held: Vec<(Way, u64)> = self.held.iter().map(|(way, flying)| (*way, flying.hash)).collect();
        held.sort_unstable();
        (held, self.cut, self.left, self.plan.len()).hash(&mut hash);
        hash.finish()
    }

    /// The end of a branch: after everything has settled, if asked for, the logs are judged.
    pub(super) fn judge(&self, settle: bool) -> Step<()> {
        if settle {
            let mut state = self.clone();
            while let Some((at, service)) = state.plan.pop_front() {
                state.submit(at, service)?;
            }
            state.settle()?;
            oracle::check(&state.log())
        } else {
            oracle::check(&self.log())
        }
    }

    /// The logs of all processes, dead or alive.
    fn log(&self) -> Log {
        let mut log = Log::default();
        let mut all: Vec<&Rc<Node>> = self.dead.iter().chain(self.nodes.iter().flatten()).collect();
        all.sort_unstable_by_key(|node| node.proc.index());
        let mut lines: Vec<(&Line, Proc)> = Vec::new();
        for node in all {
            let proc = log.start(node.mid);
            lines.extend(node.lines.iter().map(|line| (line, proc)));
            if self.dead.iter().any(|dead| dead.mid == node.mid) {
                log.end(proc);
            }
        }
        lines.sort_unstable_by_key(|(line, _)| line.order);
        lines.into_iter().for_each(|(line, proc)| log.push(proc, line.at, line.entry.clone()));
        log
    }

    pub(super) fn describe(&self, step: Move) -> String {
        let first = |way: &Way| {
            let flying = self.ways.get(way).and_then(VecDeque::front);
            format!("n{} -> n{}: {}", way.0, way.1, flying.map_or_else(String::new, |f| describe(&f.packet)))
        };
        match step {
            Move::Arrive(way) => first(&way),
            Move::Lose(way) => format!("LOST {}", first(&way)),
            Move::Twice(way) => format!("TWICE {}", first(&way)),
            Move::Hold(way) => format!("LATE {}", first(&way)),
            Move::ArriveLate(at) => match self.held.get(at) {
                Some((way, flying)) => {
                    format!("(late) n{} -> n{}: {}", way.0, way.1, describe(&flying.packet))
                }
                None => String::new(),
            },
            other => format!("{other:?}"),
        }
    }

    /// What was delivered since `before`.
    pub(super) fn news(&self, before: &Self) -> Vec<String> {
        let mut out = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let known = before.node(at).map_or(0, |node| node.lines.len());
            out.extend(node.lines.iter().skip(known).map(|line| format!("    n{at} {:?}", line.entry)));
        }
        out
    }
}
