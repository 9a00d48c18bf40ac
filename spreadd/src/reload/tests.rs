//! The agreement over real ring engines, on a network that loses packets, with daemons that read the new file whenever
//! they like, one that is new, one that is removed and one that dies: who changes over, and what is delivered.
//!
//! Each run is made of a seed; a failure names it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spread_ring::{
    Body, Boot, ConfId, Event, Mid, Nanos, NodeId, Path, Ring, RingConfig, Service, successor,
};

use super::changeover::Changeover;
use super::notice::{Notice, Proposal};

const OLD: [u8; 16] = [1; 16];
const NEW: [u8; 16] = [2; 16];

/// Names by number: under the old configuration `a b c`, under the new one `d a b`.
const NAMES: [[char; 3]; 2] = [['a', 'b', 'c'], ['d', 'a', 'b']];
/// New numbers of `a b c`.
const NUMBERS: [Option<NodeId>; 3] = [Some(NodeId(1)), Some(NodeId(2)), None];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

struct Daemon {
    name: char,
    ring: Ring,
    changeover: Changeover,
    /// Whether it works under the new configuration.
    new: bool,
    alive: bool,
    conf: (ConfId, Vec<Mid>),
    transitional: bool,
    /// The changeover of the engine is due.
    switching: Option<(Nanos, Option<Proposal>)>,
    /// Messages of clients that wait.
    waiting: u32,
    sent: u32,
    /// What was delivered: sender and number, and `|` at the place of the changeover.
    log: Vec<(char, u32)>,
    views: Vec<String>,
}

/// From name, to name, hash as new, way, packet.
type Sent = (char, char, bool, Path, Bytes);

struct World {
    now: Nanos,
    daemons: Vec<Daemon>,
    /// By time and number.
    wire: BTreeMap<(u64, u64), Sent>,
    count: u64,
    rng: Rng,
    loss: u64,
}

fn config(me: u16, hash: [u8; 16]) -> RingConfig {
    RingConfig::new(NodeId(me), vec![0; 3], hash)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Nanos(1_000_000_000),
            daemons: Vec::new(),
            wire: BTreeMap::new(),
            count: 0,
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            loss: seed % 4 * 10,
        };
        (0..3u16).zip(NAMES[0]).for_each(|(me, name)| world.start(name, me, false));
        world
    }

    fn start(&mut self, name: char, me: u16, new: bool) {
        let hash = if new { NEW } else { OLD };
        let boot = Boot { session: u64::from(u32::from(name)), epoch_min: 1000, seed: [name as u8; 32] };
        let ring = Ring::new(Arc::new(config(me, hash)), boot, self.now).unwrap();
        self.daemons.push(Daemon {
            name,
            ring,
            changeover: Changeover::new(me, hash),
            new,
            alive: true,
            conf: (ConfId::default(), Vec::new()),
            transitional: false,
            switching: None,
            waiting: 0,
            sent: 0,
            log: Vec::new(),
            views: Vec::new(),
        });
        self.turn(self.daemons.len() - 1);
    }

    fn daemon(&mut self, name: char) -> &mut Daemon {
        self.daemons.iter_mut().find(|daemon| daemon.name == name).unwrap()
    }

    /// All work of one daemon, as the driver does it.
    fn turn(&mut self, at: usize) {
        let now = self.now;
        let daemon = &mut self.daemons[at];
        if !daemon.alive {
            return;
        }
        daemon.change(now);
        daemon.submit(now);
        loop {
            let mut packets = Vec::new();
            while let Some(transmit) = daemon.ring.poll_transmit() {
                packets.push(transmit);
            }
            let (from, new) = (daemon.name, daemon.new);
            let mut any = false;
            while let Some(event) = daemon.ring.poll_event() {
                any = true;
                daemon.event(now, event);
            }
            daemon.submit(now);
            for transmit in packets {
                let path = if transmit.multicast { Path::Multicast } else { Path::Unicast };
                for node in transmit.to.iter() {
                    let to = NAMES[usize::from(new)][node.index()];
                    if self.rng.below(1000) < self.loss {
                        continue;
                    }
                    self.count += 1;
                    let due = self.now + Duration::from_micros(50 + self.rng.below(200));
                    self.wire.insert((due.0, self.count), (from, to, new, path, transmit.packet.clone()));
                }
            }
            if !any {
                return;
            }
        }
    }

    fn step(&mut self, end: Nanos) -> bool {
        let packet = self.wire.keys().next().map(|(at, _)| Nanos(*at));
        let due = |daemon: &Daemon| {
            let switch = daemon.switching.map(|(at, _)| at);
            daemon.ring.poll_timeout().into_iter().chain(switch).min()
        };
        let timers = self.daemons.iter().enumerate().filter(|(_, daemon)| daemon.alive);
        let timer = timers.filter_map(|(at, daemon)| Some((due(daemon)?, at))).min();
        let at = match (packet, timer) {
            (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                if at > end {
                    return false;
                }
                self.now = self.now.max(at);
                let Some((_, (from, to, new, path, packet))) = self.wire.pop_first() else { return false };
                let Some(at) = self.daemons.iter().position(|daemon| daemon.name == to) else { return true };
                let daemon = &mut self.daemons[at];
                // The driver knows the daemons of its own configuration and its hash only.
                let node = NAMES[usize::from(daemon.new)].iter().position(|name| *name == from);
                if let Some(node) = node.filter(|_| daemon.alive && daemon.new == new) {
                    let node = NodeId(u16::try_from(node).unwrap());
                    daemon.ring.handle_packet(self.now, path, node, packet);
                }
                at
            }
            (_, Some((due, at))) => {
                if due > end {
                    return false;
                }
                self.now = self.now.max(due);
                let now = self.now;
                self.daemons[at].ring.handle_timeout(now);
                at
            }
            (_, None) => return false,
        };
        self.turn(at);
        true
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until all of these living daemons are in one working ring that has no other members.
    fn settle(&mut self, names: &[char], seed: u64) {
        let end = self.now + Duration::from_secs(60);
        loop {
            let together = names.iter().all(|name| {
                let count = names.len();
                let daemon = self.daemons.iter().find(|daemon| daemon.name == *name).unwrap();
                daemon.ring.is_operational() && daemon.conf.1.len() == count && daemon.switching.is_none()
            });
            if together {
                return;
            }
            assert!(self.step(end), "seed {seed}: {:?}", self.views());
        }
    }

    fn views(&self) -> Vec<(char, &Vec<String>)> {
        self.daemons.iter().map(|daemon| (daemon.name, &daemon.views)).collect()
    }
}

impl Daemon {
    fn me(&self) -> u16 {
        self.ring.me().node.0
    }

    fn names(&self, members: &[Mid]) -> String {
        members.iter().map(|mid| NAMES[usize::from(self.new)][mid.node.index()]).collect()
    }

    fn event(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Deliver { sender, body, .. } => {
                let from = sender.node.0;
                if let Some(notice) = Notice::parse(body.parts()) {
                    if self.switching.is_none()
                        && let Some(proposal) = self.changeover.handle_notice(from, notice)
                    {
                        self.log.push(('|', 0));
                        let stays = proposal.keeps(self.me());
                        let after = Duration::from_millis(50);
                        self.switching = Some((now + after, stays.then_some(proposal)));
                        self.changeover.finish(
                            if stays { self.me() + 1 } else { self.me() },
                            if stays { NEW } else { OLD },
                        );
                    }
                    return;
                }
                assert!(self.switching.is_none(), "{} delivers something behind the changeover", self.name);
                let number = u32::from_le_bytes(*body.to_bytes().first_chunk().unwrap());
                self.log.push((NAMES[usize::from(self.new)][usize::from(from)], number));
            }
            Event::Transitional { members, .. } => match &mut self.switching {
                Some((at, _)) => *at = now,
                None => {
                    self.transitional = true;
                    self.changeover.handle_transitional();
                    self.views.push(format!("({})", self.names(&members)));
                }
            },
            Event::Regular { id, members } => {
                if self.switching.is_none() {
                    self.transitional = false;
                    self.views.push(self.names(&members));
                    let nodes: Vec<u16> = members.iter().map(|mid| mid.node.0).collect();
                    self.conf = (id, members);
                    self.changeover.handle_regular(&nodes);
                }
            }
            Event::Writable => {}
        }
    }

    fn submit(&mut self, now: Nanos) {
        if self.switching.is_some() || self.transitional {
            return;
        }
        while let Some(notice) = self.changeover.poll_notice(true) {
            self.ring.submit(now, Service::Safe, Body::One(notice.to_bytes())).unwrap();
        }
        while self.waiting > 0 && !self.changeover.holds() {
            self.waiting -= 1;
            let service = [Service::Fifo, Service::Agreed, Service::Safe][self.sent as usize % 3];
            let bytes = Bytes::copy_from_slice(&self.sent.to_le_bytes());
            self.ring.submit(now, service, Body::One(bytes)).unwrap();
            self.sent += 1;
        }
    }

    /// The changeover of the engine, once it is due.
    fn change(&mut self, now: Nanos) {
        let Some((_, proposal)) = self.switching.take_if(|(at, _)| *at <= now) else { return };
        let (id, members) = &self.conf;
        let (numbers, cfg, kept) = match proposal {
            Some(_) => {
                let me = NUMBERS[usize::from(self.me())].unwrap();
                let kept: Vec<Mid> =
                    members.iter().filter(|mid| NUMBERS[mid.node.index()].is_some()).copied().collect();
                (NUMBERS.to_vec(), config(me.0, NEW), kept)
            }
            None => {
                let same = (0..3).map(|node| Some(NodeId(node))).collect();
                (same, config(self.me(), OLD), vec![self.ring.me()])
            }
        };
        let next = successor(*id, &kept, &numbers, &NEW).unwrap();
        self.new |= proposal.is_some();
        self.ring.reconfigure(now, Arc::new(cfg), &numbers, next).unwrap();
    }
}

/// Nobody orders messages differently, and nobody delivers one twice or out of the order of its sender.
fn check_orders(world: &World, seed: u64) {
    for daemon in &world.daemons {
        let mut next: BTreeMap<char, u32> = BTreeMap::new();
        for (from, number) in daemon.log.iter().filter(|(from, _)| *from != '|') {
            let last = next.entry(*from).or_insert(*number);
            assert!(number >= last, "seed {seed}: {} got {from} {number} again", daemon.name);
            *last = number + 1;
        }
        for other in &world.daemons {
            let place: BTreeMap<_, _> =
                other.log.iter().enumerate().map(|(at, entry)| (*entry, at)).collect();
            let common: Vec<usize> =
                daemon.log.iter().filter_map(|entry| place.get(entry).copied()).collect();
            assert!(common.is_sorted(), "seed {seed}: {} and {} disagree", daemon.name, other.name);
        }
    }
}

fn proposal() -> Proposal {
    Proposal { hash: NEW, stay: 0b011 }
}

#[test]
fn those_that_stay_lose_nothing_whatever_the_network_does() {
    let mut whole = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.settle(&['a', 'b', 'c'], seed);
        world.start('d', 0, true);
        let mut wants = ['a', 'b'];
        if seed % 2 == 1 {
            wants.reverse();
        }
        for round in 0..40 {
            for at in 0..3 {
                world.daemons[at].waiting += u32::try_from(world.rng.below(5)).unwrap();
                world.turn(at);
            }
            if round == 10 || round == 20 {
                world.daemon(wants[round / 10 - 1]).changeover.want(proposal());
            }
            let ms = world.rng.below(10);
            world.run(ms);
        }
        world.settle(&['d', 'a', 'b'], seed);
        world.run(2000);
        check_orders(&world, seed);
        let (a, b) = (world.daemons[0].log.clone(), world.daemons[1].log.clone());
        // Lost tokens may break a ring at any time; what is promised then is less.
        let broke = world.views().iter().filter(|(name, _)| ['a', 'b'].contains(name)).any(|(_, views)| {
            let views = views.iter().map(|view| view.trim_matches(['(', ')']));
            views.skip_while(|view| view.len() < 3).any(|view| !view.contains('a') || !view.contains('b'))
        });
        if broke {
            continue;
        }
        whole += 1;
        // Together all the time: the same log, with every message of both.
        assert_eq!(a, b, "seed {seed}: {:?}", world.views());
        for daemon in &world.daemons[..2] {
            let own = a.iter().filter(|(from, _)| *from == daemon.name).map(|(_, number)| *number);
            assert!(own.eq(0..daemon.sent), "seed {seed}: messages of {} are missing", daemon.name);
        }
        let place = |log: &[(char, u32)]| log.iter().position(|(from, _)| *from == '|');
        assert!(place(&a).is_some(), "seed {seed}: nobody changed over");
        if !world.daemons[2].views.iter().any(|view| view.len() == 2) {
            assert_eq!(place(&world.daemons[2].log), place(&a), "seed {seed}");
            assert_eq!(world.daemons[2].log[..place(&a).unwrap()], a[..place(&a).unwrap()], "seed {seed}");
        }
    }
    assert!(whole >= 30, "only {whole} runs without a break");
}

#[test]
fn one_that_dies_meanwhile_holds_nobody_up() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.settle(&['a', 'b', 'c'], seed);
        world.daemon('a').changeover.want(proposal());
        world.daemon('b').changeover.want(proposal());
        (0..2).for_each(|at| world.turn(at));
        // Anywhere between the first notice and the changed ring.
        for _ in 0..world.rng.below(400) {
            let end = world.now + Duration::from_secs(1);
            world.step(end);
        }
        let dies = ['b', 'c'][usize::try_from(seed % 2).unwrap()];
        world.daemon(dies).alive = false;
        let left: Vec<char> = ['a', 'b'].into_iter().filter(|name| *name != dies).collect();
        world.settle(&left, seed);
        for _ in 0..20 {
            if left.iter().all(|name| world.daemons.iter().any(|d| d.name == *name && d.new)) {
                break;
            }
            world.run(500);
        }
        assert!(
            left.iter().all(|name| world.daemons.iter().any(|d| d.name == *name && d.new)),
            "seed {seed}: {:?}",
            world.views()
        );
        world.settle(&left, seed);
        check_orders(&world, seed);
    }
}
