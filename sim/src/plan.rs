//! What a seed stands for: the daemons, their load, and the faults.

use std::fmt;

use spread_ring::Service;

use super::rng::Rng;

mod small;
mod storm;

/// One millisecond of virtual time.
pub const MS: u64 = 1_000_000;
/// One microsecond of virtual time.
pub const US: u64 = 1_000;

/// A history, fully determined. Everything that can hurt is in `faults`, one by one, so that a failing
/// history can be made smaller by leaving some out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that it was drawn from; also that of the network and the clients.
    pub seed: u64,
    /// Number of daemons.
    pub nodes: usize,
    /// Virtual time during which faults happen and clients submit.
    pub active: u64,
    /// Whether the history goes on without faults until everything has settled.
    pub liveness: bool,
    /// One-way delay of a packet without faults.
    pub latency: u64,
    /// Greatest random addition to it.
    pub jitter: u64,
    /// Time from the arrival of a packet to its handling, at most.
    pub wakeup: u64,
    /// What the clients do.
    pub load: Load,
    /// What goes wrong.
    pub faults: Vec<Timed>,
    /// Overrides of the engine's configuration.
    pub engine: Engine,
    /// With the groups on top of the ring, and clients in place of plain messages.
    pub groups: Option<GroupLoad>,
}

/// What the clients of each daemon submit.
#[derive(Clone, Debug)]
pub struct Load {
    /// Mean time between submissions at one daemon.
    pub every: u64,
    /// Most messages submitted at once.
    pub burst: u64,
    /// Part of SAFE messages per mille.
    pub safe: u64,
    /// Part of messages that need several packets per mille.
    pub long: u64,
    /// Longest message.
    pub len_max: u64,
    /// Which daemons submit, by bit.
    pub senders: u64,
    /// Most messages of the whole history.
    pub total: u64,
}

/// What the clients of groups do.
#[derive(Clone, Debug)]
pub struct GroupLoad {
    /// Number of groups.
    pub groups: usize,
    /// Most clients of a daemon that come and go, besides the one that stays.
    pub clients: u64,
    /// Mean time between the turns of a client.
    pub every: u64,
    /// Most messages that a client sends in one turn.
    pub burst: u64,
    /// Part of SAFE messages per mille.
    pub safe: u64,
}

/// What is not the default in the engine's configuration.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Largest packet.
    pub packet_len: usize,
    /// T_token in milliseconds; the other times keep their relation to it.
    pub token_ms: u64,
    /// Window, personal window, accelerated window.
    pub windows: [Option<u16>; 3],
    /// See `RingConfig::acks`.
    pub acks: Option<bool>,
    /// See `RingConfig::park`.
    pub park: bool,
    /// Packets kept for repair.
    pub store: usize,
    /// Most messages queued.
    pub submit_count: usize,
    /// Most bytes queued.
    pub submit_bytes: usize,
    /// Lower bound of the first epoch, in place of a wall clock.
    pub epoch: u64,
    /// Where counters of 32 bits begin.
    pub counters: u32,
}

/// A fault and when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Begin.
    pub at: u64,
    /// End.
    pub until: u64,
    /// Stays for ever: the part of the faults that does not end before the history settles.
    pub stays: bool,
    /// What.
    pub fault: Fault,
}

/// Something that goes wrong. Rates are per mille, nodes are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Packets of all kinds get lost.
    Loss(u64),
    /// Data packets get lost.
    DataLoss(u64),
    /// Packets come twice.
    Duplicate(u64),
    /// Packets overtake each other by up to this time.
    Reorder(u64, u64),
    /// Packets come late by up to this time; true: only data packets.
    Late(u64, u64, bool),
    /// Bits flip; the checksum finds it.
    Corrupt(u64),
    /// Nothing goes from one node to another one.
    CutOneWay(usize, usize),
    /// Nothing goes between two nodes.
    CutLink(usize, usize),
    /// A node hears nobody.
    Deaf(usize),
    /// A node is heard by nobody.
    Mute(usize),
    /// The network falls into parts: part number of each node.
    Partition(Vec<u8>),
    /// Multicast does not reach a node.
    NoMulticast(usize),
    /// Packets longer than this do not reach a node.
    LargeLost(usize, usize),
    /// The process dies at the begin and is started again at the end.
    Crash(usize),
    /// The process says goodbye at the begin and is started again at the end.
    Leave(usize),
    /// The process does not run.
    Pause(usize),
    /// Handling takes up to this time longer.
    Slow(usize, u64),
    /// The node's clock goes at this rate per mille, from its next start on.
    Clock(usize, u64),
    /// A node submits this many messages at once at the begin.
    Flood(usize, u64),
    /// The n-th occurrence of something, counted from the begin, is struck.
    Ambush(Moment, u64, Strike),
}

/// Something that can be waited for in ambush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A commit token of the first pass is sent.
    CommitPass1,
    /// A commit token of the second pass is sent.
    CommitPass2,
    /// A recovery token is sent: one of a ring that nobody has installed yet.
    RecoveryToken,
    /// A hop ack is sent.
    HopAck,
    /// A join is sent.
    Join,
    /// A token of normal operation is sent.
    Token,
    /// The token goes to another node than the successor.
    Jump,
    /// A token request is sent: somebody waits for a parked token.
    TokenRequest,
    /// A data packet is sent for the first time.
    Data,
    /// A data packet is sent again.
    Retransmission,
    /// A node gets a transitional configuration.
    Transitional,
    /// A node installs a ring with others.
    Install,
    /// A node delivers a SAFE message.
    SafeDelivery,
}

/// What an ambush does. The victim is the node that sends or does what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The packet is lost at all its receivers.
    Lose,
    /// The packet is lost and the victim dies for this time.
    LoseAndCrash(u64),
    /// The victim dies for this time right after it.
    Crash(u64),
    /// A receiver of the packet dies for this time before it comes.
    CrashReceiver(u64),
    /// The victim is cut off from all for this time, before the packet gets out.
    Isolate(u64),
    /// The victim hears nobody for this time.
    Deafen(u64),
    /// The victim is heard by nobody for this time.
    Mute(u64),
    /// The nodes up to the victim are cut off from those after it for this time.
    Split(u64),
    /// The victim does not run for this time.
    Pause(u64),
    /// All data packets come late by up to this time, for as long again.
    LateData(u64),
}

impl Plan {
    /// Draws the history of a seed: mostly a small one, now and then a small storm, a large storm or a long one.
    /// What breaks an engine is that few things meet at the wrong moment, so many small histories find more than
    /// a few long ones in the same time.
    pub fn draw(seed: u64) -> Self {
        let mut plan = match Rng::new(seed, 8).below(1000) {
            0..735 => Self::small(seed),
            735..985 => Self::small_storm(seed),
            985..990 => Self::storm(seed),
            _ => Self::long(seed),
        };
        // Near the wrap of what wraps: counters of 32 bits, the signed and the unsigned low half of the epoch (a part
        // of group ids), and the highest epoch that a daemon begins with.
        let mut rng = Rng::new(seed, 12);
        if rng.per_mille(200) {
            plan.engine.counters = u32::MAX - u32::try_from(rng.below(60)).unwrap_or(0);
            plan.engine.epoch = rng.pick(&[1 << 31, 1 << 32, u64::MAX >> 2]) - 2 * rng.below(4);
            // At the very end a daemon cannot begin above its state file, so what clients see of an epoch could come
            // twice (seed 818967): all daemons forget, and as many rings later there is a group with the same id.
            if plan.groups.is_some() && plan.engine.epoch > 1 << 32 {
                plan.engine.epoch -= 1 << 20;
            }
        }
        plan
    }

    /// Draws a long history: up to twelve daemons, up to eight seconds with up to thirty faults.
    pub fn long(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let nodes = usize::try_from(match rng.below(100) {
            0..2 => 1,
            2..12 => 2,
            12..72 => rng.range(3, 5),
            72..92 => rng.range(6, 8),
            _ => rng.range(9, 12),
        })
        .unwrap_or(3);
        let latency = rng.log_range(30 * US, 2 * MS);
        let active = rng.log_range(1500, 8000) * MS;
        let load = Load::draw(&mut rng, nodes);
        let engine = Engine::draw(&mut rng);
        let mut plan = Self {
            seed,
            nodes,
            active,
            liveness: rng.per_mille(600),
            latency,
            jitter: rng.below(latency) + 1,
            wakeup: rng.log_range(US, 200 * US),
            load,
            faults: Vec::new(),
            engine,
            groups: GroupLoad::draw(seed),
        };
        plan.draw_faults(&mut rng);
        plan
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        self.draw_noise(rng);
        let events = if rng.per_mille(70) { 0 } else { rng.log_range(1, 24) };
        for _ in 0..events {
            self.draw_event(rng);
        }
        for _ in 0..rng.below(5) {
            if rng.per_mille(500) {
                let (at, _) = self.draw_span(rng, MS, 2 * MS);
                let fault = draw_ambush(rng, 40);
                self.faults.push(Timed { at, until: self.active, stays: false, fault });
            }
        }
        if self.liveness && rng.per_mille(400) {
            self.draw_lasting(rng);
        }
    }

    /// Background noise for all of the time or a part of it, and clocks.
    fn draw_noise(&mut self, rng: &mut Rng) {
        type Draw = fn(&mut Rng) -> Fault;
        let noise: [(u64, Draw); 6] = [
            (350, |rng| Fault::Loss(rng.log_range(2, 250))),
            (200, |rng| Fault::DataLoss(rng.log_range(10, 500))),
            (250, |rng| Fault::Duplicate(rng.log_range(5, 300))),
            (250, |rng| Fault::Reorder(rng.log_range(10, 500), rng.log_range(50 * US, 5 * MS))),
            (350, |rng| Fault::Late(rng.log_range(20, 300), rng.range(1, 80) * MS, rng.per_mille(600))),
            (100, |rng| Fault::Corrupt(rng.log_range(1, 100))),
        ];
        for (chance, draw) in noise {
            if rng.per_mille(chance) {
                let (at, until) = if rng.per_mille(500) {
                    (0, self.active)
                } else {
                    self.draw_span(rng, 50 * MS, self.active)
                };
                self.faults.push(Timed { at, until, stays: false, fault: draw(rng) });
            }
        }
        for node in 0..self.nodes {
            if rng.per_mille(80) {
                let fault = Fault::Clock(node, rng.range(500, 2000));
                self.faults.push(Timed { at: 0, until: self.active, stays: false, fault });
            }
        }
    }

    /// Begin and length inside the active time.
    fn draw_span(&self, rng: &mut Rng, shortest: u64, longest: u64) -> (u64, u64) {
        let at = rng.below(self.active);
        let len = rng.log_range(shortest, longest.max(shortest));
        (at, (at + len).min(self.active))
    }

    fn draw_event(&mut self, rng: &mut Rng) {
        let node = rng.index(self.nodes);
        let other = rng.index(self.nodes);
        let (at, until) = self.draw_span(rng, 5 * MS, 1500 * MS);
        let fault = match rng.below(100) {
            0..22 => self.draw_partition(rng),
            22..30 => Fault::CutOneWay(node, other),
            30..38 => Fault::CutLink(node, other),
            38..60 => Fault::Crash(node),
            60..66 => Fault::Leave(node),
            66..78 => Fault::Pause(node),
            78..84 => Fault::Slow(node, rng.log_range(20 * US, 10 * MS)),
            84..86 => Fault::NoMulticast(node),
            86 => Fault::LargeLost(node, rng.pick(&[600, 1000, 1300])),
            87 => Fault::Deaf(node),
            88 => Fault::Mute(node),
            89..93 => Fault::Flood(node, rng.log_range(20, 400)),
            _ => Fault::Late(rng.range(100, 400), rng.range(5, 80) * MS, true),
        };
        // A second one right after the first: merges and partitions that meet a recovery.
        let cascade = rng.per_mille(350);
        self.faults.push(Timed { at, until, stays: false, fault });
        if cascade && self.active > until {
            let at = until + rng.log_range(100 * US, 400 * MS);
            let (end, _) = self.draw_span(rng, MS, 2 * MS);
            let fault = if rng.per_mille(500) { self.draw_partition(rng) } else { Fault::Crash(other) };
            if at < self.active {
                let until = (at + end / 4).min(self.active);
                self.faults.push(Timed { at, until, stays: false, fault });
            }
        }
    }

    fn draw_partition(&self, rng: &mut Rng) -> Fault {
        let parts = rng.range(2, 3);
        let part = |_| u8::try_from(rng.below(parts)).unwrap_or(0);
        Fault::Partition((0..self.nodes).map(part).collect())
    }

    /// What stays when the other faults end.
    fn draw_lasting(&mut self, rng: &mut Rng) {
        let node = rng.index(self.nodes);
        let fault = match rng.below(10) {
            0..4 => self.draw_partition(rng),
            4..6 => Fault::Loss(rng.range(5, 50)),
            6..8 => Fault::Crash(node),
            8 => Fault::CutOneWay(node, rng.index(self.nodes)),
            _ => Fault::CutLink(node, rng.index(self.nodes)),
        };
        let at = rng.below(self.active);
        self.faults.push(Timed { at, until: u64::MAX, stays: true, fault });
    }
}

/// `nth_max`: the strike comes at one of the first occurrences.
fn draw_ambush(rng: &mut Rng, nth_max: u64) -> Fault {
    use Moment as M;
    use Strike as S;
    let moments = [
        M::CommitPass1,
        M::CommitPass1,
        M::CommitPass2,
        M::CommitPass2,
        M::RecoveryToken,
        M::RecoveryToken,
        M::HopAck,
        M::Join,
        M::Token,
        M::Jump,
        M::TokenRequest,
        M::Data,
        M::Retransmission,
        M::Transitional,
        M::Install,
        M::Install,
        M::SafeDelivery,
    ];
    let time = rng.log_range(MS, 900 * MS);
    let strikes = [
        S::Lose,
        S::LoseAndCrash(time),
        S::Crash(time),
        S::CrashReceiver(time),
        S::Isolate(time),
        S::Deafen(time),
        S::Mute(time),
        S::Split(time),
        S::Pause(time),
        S::LateData(time.min(80 * MS)),
    ];
    Fault::Ambush(rng.pick(&moments), rng.log_range(1, nth_max), rng.pick(&strikes))
}

impl Load {
    fn draw(rng: &mut Rng, nodes: usize) -> Self {
        let len_max = match rng.below(10) {
            0..4 => 200,
            4..8 => 5_000,
            8 => 20_000,
            _ => 150_000,
        };
        let all = (1u64 << nodes) - 1;
        Self {
            every: rng.log_range(150 * US, 100 * MS),
            burst: rng.log_range(1, 30),
            safe: rng.pick(&[0, 50, 300, 300, 500, 1000]),
            long: if len_max > 1000 { rng.log_range(1, 300) } else { 0 },
            len_max,
            senders: if rng.per_mille(700) { all } else { rng.range(1, all) },
            total: rng.log_range(200, 6000),
        }
    }
}

impl GroupLoad {
    /// With generators of its own, so that histories without groups do not depend on it.
    fn draw(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed, 4);
        rng.per_mille(400).then(|| Self {
            groups: usize::try_from(rng.range(1, 5)).unwrap_or(1),
            clients: rng.below(5),
            every: rng.log_range(MS, 200 * MS),
            burst: rng.log_range(1, 12),
            safe: rng.pick(&[0, 100, 300, 500, 1000]),
        })
    }
}

impl Engine {
    fn draw(rng: &mut Rng) -> Self {
        let windows = match rng.below(5) {
            0 => {
                let window = rng.log_range(60, 600);
                let personal = rng.log_range(1, 60);
                [window, personal, rng.range(0, personal)].map(|w| u16::try_from(w).ok())
            }
            1 => [None, None, Some(0)],
            _ => [None; 3],
        };
        Self {
            packet_len: rng.pick(&[1404, 1456, 1456, 1456, 8956]),
            token_ms: rng.pick(&[500, 500, 500, 300]),
            windows,
            acks: rng.pick(&[None, None, None, Some(false)]),
            park: rng.per_mille(850),
            store: rng.pick(&[8192, 8192, 8192, 1024]),
            submit_count: rng.pick(&[8192, 8192, 64]),
            submit_bytes: rng.pick(&[8 << 20, 8 << 20, 100_000]),
            epoch: rng.pick(&[2, 1_700_000_000, (1 << 32) - 4]),
            counters: 0,
        }
    }
}

/// Services of messages that are not SAFE.
pub const NOT_SAFE: [Service; 4] = [Service::Reliable, Service::Fifo, Service::Causal, Service::Agreed];

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |t: u64| t / MS;
        if self.stays {
            write!(f, "from {} ms on: {:?}", ms(self.at), self.fault)
        } else {
            write!(f, "{}..{} ms: {:?}", ms(self.at), ms(self.until), self.fault)
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |t: u64| t / US;
        writeln!(
            f,
            "seed {}: {} daemons, {} ms{}, delay {}+{} us, wake-up {} us",
            self.seed,
            self.nodes,
            self.active / MS,
            if self.liveness { ", then liveness" } else { "" },
            us(self.latency),
            us(self.jitter),
            us(self.wakeup)
        )?;
        writeln!(f, "  {:?}", self.load)?;
        if let Some(groups) = &self.groups {
            writeln!(f, "  {groups:?}")?;
        }
        writeln!(f, "  {:?}", self.engine)?;
        for (i, fault) in self.faults.iter().enumerate() {
            writeln!(f, "  fault {i}: {fault}")?;
        }
        Ok(())
    }
}
