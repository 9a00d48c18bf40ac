//! One state of an exploration, and the moves from it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher as _};
use std::rc::Rc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHasher};
use spread_ring::wire::Kind;
use spread_ring::{ConfId, Event, Mid, Nanos, NodeId, NodeSet, Path, Ring, Service};

use super::Bounds;
use crate::body;
use crate::log::{Entry, Log, Msg, Proc};
use crate::oracle::{self, Violation};
use crate::watch::describe;

pub(super) type Step<T> = Result<T, Violation>;

/// Timers further away than this do not belong to what is explored.
const TIMER_FAR: u64 = 1_900_000_000;
/// Steps of engines that are remembered.
const KNOWN_MAX: usize = 400_000;

/// A daemon process.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) ring: Ring,
    pub(super) mid: Mid,
    pub(super) proc: Proc,
    pub(super) clock: Nanos,
    pub(super) conf: (ConfId, Vec<Mid>),
    pub(super) submitted: u32,
    pub(super) own_delivered: u32,
    /// Timers that may still fire.
    timers: u8,
    /// It replaced a process that died.
    reborn: bool,
    /// Hash of all that decides what it does next, and of what it delivered.
    print: u64,
    said: u64,
}

impl Node {
    pub(super) fn new(ring: Ring, proc: Proc, clock: Nanos) -> Self {
        Self {
            mid: ring.me(),
            ring,
            proc,
            clock,
            conf: (ConfId::default(), Vec::new()),
            submitted: 0,
            own_delivered: 0,
            timers: 0,
            reborn: false,
            print: 0,
            said: 0,
        }
    }

    /// All effects of the engine.
    fn drain(&mut self, effects: &mut Effects) -> Step<()> {
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.ring.poll_transmit() {
                quiet = false;
                let path = if transmit.multicast { Path::Multicast } else { Path::Unicast };
                let mut hash = FxHasher::default();
                (&transmit.packet[..], transmit.multicast).hash(&mut hash);
                let flying = Flying { path, packet: transmit.packet, hash: hash.finish() };
                effects.sent.push((transmit.to, flying));
            }
            while let Some(event) = self.ring.poll_event() {
                quiet = false;
                self.event(event, effects)?;
            }
            if quiet {
                break;
            }
        }
        while self.ring.poll_trace().is_some() {}
        self.ring.invariants().map_err(|what| Violation { promise: "INV", what })
    }

    fn event(&mut self, event: Event, effects: &mut Effects) -> Step<()> {
        let entry = match event {
            Event::Deliver { seq, index, body, service, .. } => {
                let (msg, _) = body::read(&body).map_err(|what| Violation { promise: "BODY", what })?;
                self.own_delivered += u32::from(msg.by == self.proc);
                Entry::Deliver { msg, place: (seq, index), service }
            }
            Event::Transitional { id, members, of } => Entry::Transitional { id, members, of },
            Event::Regular { id, members } => {
                self.conf = (id, members.clone());
                Entry::Regular { id, members }
            }
            Event::Writable => return Ok(()),
        };
        let mut hash = FxHasher::default();
        (self.said, format!("{entry:?}")).hash(&mut hash);
        self.said = hash.finish();
        effects.entries.push((self.clock.0, entry));
        Ok(())
    }

    fn submit(&mut self, service: Service, effects: &mut Effects) -> Step<()> {
        self.submitted += 1;
        let msg = Msg { by: self.proc, no: self.submitted };
        let body = body::write(msg, service, 24, 1);
        effects.entries.push((self.clock.0, Entry::Submit { msg, service }));
        self.ring
            .submit(self.clock, service, body)
            .map_err(|err| Violation { promise: "PANIC", what: format!("a message is refused: {err}") })
    }

    /// The next timer fires. `signs`: a sign of life is one; otherwise the first other timer counts.
    fn timer(&mut self, signs: bool, effects: &mut Effects) -> Step<()> {
        for _ in 0..4 {
            let Some((presence, due)) = self.ring.next_timer() else { break };
            self.clock = self.clock.max(due);
            self.ring.handle_timeout(self.clock);
            self.drain(effects)?;
            if !presence || signs {
                break;
            }
        }
        self.timers -= 1;
        Ok(())
    }

    fn seal(&mut self) {
        let mut hash = FxHasher::default();
        let Self { ring, said, timers, clock, submitted, reborn, .. } = self;
        (ring.fingerprint(), *said, *timers, clock.0, *submitted, *reborn).hash(&mut hash);
        self.print = hash.finish();
    }
}

/// What an engine put out in one step.
#[derive(Default)]
struct Effects {
    /// With the time of its clock.
    entries: Vec<(u64, Entry)>,
    sent: Vec<(NodeSet, Flying)>,
}

/// What became of a daemon by an input, and what it put out.
struct Outcome {
    node: Rc<Node>,
    effects: Effects,
}

/// Steps of engines that were made before. A daemon does the same whatever the others are doing: it gets into far
/// fewer states than all of them together.
#[derive(Default)]
pub(super) struct Memo(FxHashMap<(u64, u64), Rc<Outcome>>);

/// One line of the history, and all before it.
pub(super) struct Told {
    proc: Proc,
    at: u64,
    entry: Entry,
    before: Option<Rc<Self>>,
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
    restarts: u8,
}

#[derive(Clone)]
pub(super) struct State {
    /// By node; none if it is dead.
    pub(super) nodes: Vec<Option<Rc<Node>>>,
    /// Processes that died.
    dead: Vec<Rc<Node>>,
    pub(super) ways: BTreeMap<Way, VecDeque<Flying>>,
    held: Vec<(Way, Flying)>,
    /// Nodes that are cut off, by bit.
    pub(super) cut: u32,
    /// Messages that will be submitted, in this order.
    plan: VecDeque<(usize, Service)>,
    left: Left,
    /// Of moves whose order does not matter one order is tried.
    reduced: bool,
    /// Timers of a daemon that starts again.
    timers: u8,
    /// Signs of life arrive. Otherwise only those from and to daemons that were started again.
    pub(super) lively: bool,
    /// What was submitted and delivered, the last thing first.
    story: Option<Rc<Told>>,
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
    Restart(usize),
    Cut(usize),
    Submit,
}

impl State {
    pub(super) fn new(rings: Vec<Ring>) -> Step<Self> {
        let left = Left { losses: 0, duplicates: 0, late: 0, crashes: 0, cuts: 0, restarts: 0 };
        let mut state = Self {
            nodes: Vec::new(),
            dead: Vec::new(),
            ways: BTreeMap::new(),
            held: Vec::new(),
            cut: 0,
            plan: VecDeque::new(),
            left,
            reduced: false,
            timers: 0,
            lively: true,
            story: None,
        };
        for ring in rings {
            let at = state.nodes.len();
            let proc = Proc(u32::try_from(at).unwrap_or(u32::MAX));
            let node = Node::new(ring, proc, Nanos(super::start::CLOCK));
            state.nodes.push(Some(Rc::new(node)));
            state.change(at, |_, _| Ok(()))?;
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
            restarts: bounds.restarts,
        };
        (self.timers, self.reduced) = (bounds.timers, bounds.reduced);
        self.plan = plan.iter().copied().collect();
        self.lively = false;
        for node in self.nodes.iter_mut().flatten() {
            let node = Rc::make_mut(node);
            node.timers = bounds.timers;
            node.seal();
        }
    }

    pub(super) fn node(&self, at: usize) -> Option<&Rc<Node>> {
        self.nodes.get(at).and_then(Option::as_ref)
    }

    /// What has to be tried: all that can happen next, or only what can happen next at one daemon.
    ///
    /// The latter is enough at a daemon to which a packet is under way from each other one. Whatever the others do
    /// first leaves the daemon and the first packets to it as they are, and gives it nothing else to do: it only
    /// puts packets behind these. So all of that can as well be done after the daemon's next move (its moves are a
    /// persistent set), and every end is still reached, with the same log of each daemon. Not so as long as faults
    /// are left, for one anywhere means one less everywhere; nor if another daemon's message must be submitted before one here.
    pub(super) fn moves(&self) -> Vec<Move> {
        let all = self.all_moves();
        let places: Vec<Option<usize>> = all.iter().map(|step| self.place(*step)).collect();
        if !self.reduced || places.contains(&None) {
            return all;
        }
        let live = || self.nodes.iter().enumerate().filter(|(_, node)| node.is_some()).map(|(at, _)| at);
        let narrow = |at: usize| u8::try_from(at).unwrap_or(u8::MAX);
        let due = |at: usize| {
            let next = self.plan.iter().position(|(node, _)| *node == at);
            let coming = |from: usize| self.ways.contains_key(&(narrow(from), narrow(at)));
            next.is_none_or(|next| next == 0) && live().all(|from| from == at || coming(from))
        };
        let count = |at: usize| places.iter().filter(|place| **place == Some(at)).count();
        match live().filter(|at| due(*at) && count(*at) > 0).min_by_key(|at| count(*at)) {
            Some(at) => {
                let here = all.into_iter().zip(places).filter(|(_, place)| *place == Some(at));
                here.map(|(step, _)| step).collect()
            }
            None => all,
        }
    }

    /// The daemon at which something happens; `None` for faults.
    fn place(&self, step: Move) -> Option<usize> {
        match step {
            Move::Arrive(way) => Some(usize::from(way.1)),
            Move::ArriveLate(at) => self.held.get(at).map(|(way, _)| usize::from(way.1)),
            Move::Timer(at) => Some(at),
            Move::Submit => self.plan.front().map(|(at, _)| *at),
            Move::Lose(_) | Move::Twice(_) | Move::Hold(_) => None,
            Move::Crash(_) | Move::Restart(_) | Move::Cut(_) => None,
        }
    }

    /// All that can happen next.
    fn all_moves(&self) -> Vec<Move> {
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
            let Some(node) = node else {
                moves.extend((self.left.restarts > 0).then_some(Move::Restart(at)));
                continue;
            };
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
    pub(super) fn after(&self, step: Move, memo: &mut Memo) -> Step<Self> {
        let mut next = self.clone();
        match step {
            Move::Arrive(way) => {
                if let Some(flying) = next.take(way) {
                    next.arrive_known(way, &flying, memo)?;
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
                    next.arrive_known(way, &flying, memo)?;
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
                next.arrive_known(way, &flying, memo)?;
            }
            Move::Timer(at) => {
                let signs = next.nodes.iter().flatten().any(|node| node.reborn);
                next.step(at, hash_of((2, signs)), memo, |node, effects| node.timer(signs, effects))?;
            }
            Move::Crash(at) => {
                next.left.crashes -= 1;
                next.crash(at);
            }
            Move::Restart(at) => {
                next.left.restarts -= 1;
                next.restart(at)?;
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
                    let input = hash_of((3, service as u8));
                    next.step(at, input, memo, |node, effects| node.submit(service, effects))?;
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

    /// The dead daemon starts again, as another process.
    fn restart(&mut self, at: usize) -> Step<()> {
        let clock = self.dead.iter().rfind(|node| node.mid.node.index() == at).map(|node| node.clock);
        let started = self.dead.len() + self.nodes.iter().flatten().count();
        let ring = super::start::ring(self.nodes.len(), at, started as u64)?;
        let proc = Proc(u32::try_from(started).unwrap_or(u32::MAX));
        let mut node = Node::new(ring, proc, clock.unwrap_or(Nanos(super::start::CLOCK)));
        (node.timers, node.reborn) = (self.timers, true);
        self.nodes[at] = Some(Rc::new(node));
        self.change(at, |_, _| Ok(()))?;
        if let Some(node) = self.nodes.get_mut(at).and_then(Option::as_mut) {
            Rc::make_mut(node).seal();
        }
        Ok(())
    }

    /// A node with its changes, which the closure makes.
    fn change(&mut self, at: usize, act: impl FnOnce(&mut Node, &mut Effects) -> Step<()>) -> Step<()> {
        let Some(rc) = self.nodes.get_mut(at).and_then(Option::as_mut) else { return Ok(()) };
        let node = Rc::make_mut(rc);
        let mut effects = Effects::default();
        act(node, &mut effects)?;
        node.drain(&mut effects)?;
        self.apply(at, &effects);
        Ok(())
    }

    /// The same for an input that the daemon may have had in the same state before.
    fn step(
        &mut self,
        at: usize,
        input: u64,
        memo: &mut Memo,
        act: impl FnOnce(&mut Node, &mut Effects) -> Step<()>,
    ) -> Step<()> {
        let Some(before) = self.node(at) else { return Ok(()) };
        let key = (before.print, input);
        let outcome = match memo.0.get(&key) {
            Some(outcome) => Rc::clone(outcome),
            None => {
                let (mut node, mut effects) = (Node::clone(before), Effects::default());
                act(&mut node, &mut effects)?;
                node.drain(&mut effects)?;
                node.seal();
                let outcome = Rc::new(Outcome { node: Rc::new(node), effects });
                if memo.0.len() >= KNOWN_MAX {
                    memo.0.clear();
                }
                memo.0.insert(key, Rc::clone(&outcome));
                outcome
            }
        };
        self.nodes[at] = Some(Rc::clone(&outcome.node));
        self.apply(at, &outcome.effects);
        Ok(())
    }

    fn apply(&mut self, at: usize, effects: &Effects) {
        let Some(proc) = self.node(at).map(|node| node.proc) else { return };
        for (time, entry) in &effects.entries {
            let told = Told { proc, at: *time, entry: entry.clone(), before: self.story.take() };
            self.story = Some(Rc::new(told));
        }
        for (to, flying) in &effects.sent {
            self.put(at, *to, flying);
        }
    }

    pub(super) fn arrive(&mut self, way: Way, flying: &Flying) -> Step<()> {
        self.change(usize::from(way.1), |node, _| {
            node.ring.handle_packet(node.clock, flying.path, NodeId(way.0.into()), flying.packet.clone());
            Ok(())
        })
    }

    fn arrive_known(&mut self, way: Way, flying: &Flying, memo: &mut Memo) -> Step<()> {
        self.step(usize::from(way.1), hash_of((1, way.0, flying.hash)), memo, |node, _| {
            node.ring.handle_packet(node.clock, flying.path, NodeId(way.0.into()), flying.packet.clone());
            Ok(())
        })
    }

    /// A node's clock is at `clock`, and its timers fire.
    pub(super) fn timeout(&mut self, at: usize, clock: Nanos) -> Step<()> {
        self.change(at, |node, _| {
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
        self.change(at, |node, effects| node.submit(service, effects))
    }

    fn put(&mut self, from: usize, to: NodeSet, flying: &Flying) {
        if self.cut >> from & 1 == 1 {
            return;
        }
        let sign = flying.packet.get(3).copied() == Some(Kind::Presence as u8);
        let reborn = |at: usize| self.node(at).is_some_and(|node| node.reborn);
        let heard = |at: usize| !sign || self.lively || reborn(from) || reborn(at);
        // Before the begin there is nobody yet.
        let dead = |at: usize| self.node(at).is_none() && self.dead.iter().any(|d| d.mid.node.index() == at);
        let receivers = to.iter().map(NodeId::index);
        let receivers: Vec<usize> =
            receivers.filter(|at| heard(*at) && !dead(*at) && self.cut >> at & 1 == 0).collect();
        let narrow = |at: usize| u8::try_from(at).unwrap_or(u8::MAX);
        for at in receivers {
            self.ways.entry((narrow(from), narrow(at))).or_default().push_back(flying.clone());
        }
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
        for node in all {
            let proc = log.start(node.mid);
            if self.dead.iter().any(|dead| dead.mid == node.mid) {
                log.end(proc);
            }
        }
        for told in self.told_since(None) {
            log.push(told.proc, told.at, told.entry.clone());
        }
        log
    }

    /// What happened after `begin`, in order.
    fn told_since(&self, begin: Option<&Rc<Told>>) -> Vec<&Told> {
        let mut lines = Vec::new();
        let mut next = self.story.as_ref();
        while let Some(told) = next.filter(|told| begin.is_none_or(|begin| !Rc::ptr_eq(told, begin))) {
            lines.push(&**told);
            next = told.before.as_ref();
        }
        lines.reverse();
        lines
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
        let lines = self.told_since(before.story.as_ref()).into_iter();
        lines.map(|told| format!("    p{} {:?}", told.proc.0, told.entry)).collect()
    }
}

fn hash_of(what: impl Hash) -> u64 {
    let mut hash = FxHasher::default();
    what.hash(&mut hash);
    hash.finish()
}
