//! A small network: engines, packets on their way, one clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::{Body, Boot, Class, Event, Path, Transmit};
use crate::config::RingConfig;
use crate::ring::Ring;
use crate::rng::Rng;
use crate::tests::env_number;
use crate::types::{ConfId, Mid, Nanos, NodeId, Service};
use crate::wire::{Header, Kind};

/// What a filter sees of a packet.
pub(crate) struct Hop<'a> {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) path: Path,
    pub(crate) class: Class,
    pub(crate) kind: Kind,
    pub(crate) packet: &'a Bytes,
}

/// Decides whether a packet passes.
pub(crate) type Filter = Box<dyn FnMut(&Hop<'_>) -> bool>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Message { sender: u16, service: Service, body: Vec<u8> },
    Transitional { id: ConfId, members: Vec<u16>, of: ConfId },
    Regular { id: ConfId, members: Vec<u16> },
}

pub(crate) struct Net {
    pub(crate) now: Nanos,
    pub(crate) rings: Vec<Option<Ring>>,
    pub(crate) seen: Vec<Vec<Seen>>,
    wire: BTreeMap<(u64, u64), (usize, usize, Path, Bytes)>,
    count: u64,
    pub(crate) delay: Duration,
    pub(crate) filter: Filter,
    pub(crate) rng: Rng,
    /// Part of 1000 packets that is lost.
    pub(crate) loss: u64,
    /// Parts of 1000 packets that come twice, or up to 30 ms late.
    pub(crate) duplicate: u64,
    pub(crate) late: u64,
    pub(crate) packets: u64,
    /// A node whose driver takes no events.
    pub(crate) deaf: Option<usize>,
    cfgs: Vec<Arc<RingConfig>>,
    sessions: u64,
    tracing: bool,
    /// Members say what is not true.
    pub(crate) hostile: bool,
}

impl Net {
    pub(crate) fn new(n: usize) -> Self {
        Self::with(n, |_| {})
    }

    pub(crate) fn with(n: usize, change: impl Fn(&mut RingConfig)) -> Self {
        let cfg = |me: u16| {
            let mut cfg = RingConfig::new(NodeId(me), vec![0; n], [7; 16]);
            change(&mut cfg);
            Arc::new(cfg)
        };
        let cfgs: Vec<_> = (0..u16::try_from(n).unwrap()).map(cfg).collect();
        let mut net = Self {
            now: Nanos(1_000_000_000),
            rings: (0..n).map(|_| None).collect(),
            seen: vec![Vec::new(); n],
            wire: BTreeMap::new(),
            count: 0,
            delay: Duration::from_micros(50),
            filter: Box::new(|_| true),
            rng: Rng::new([3; 32], 1),
            loss: 0,
            duplicate: 0,
            late: 0,
            packets: 0,
            deaf: None,
            cfgs,
            sessions: 100,
            hostile: false,
            tracing: env_number("RING_TRACE").is_some(),
        };
        for node in 0..n {
            net.start(node);
        }
        net
    }

    /// Changes the configuration of a node from its next start on.
    pub(crate) fn change(&mut self, node: usize, change: impl Fn(&mut RingConfig)) {
        change(Arc::make_mut(&mut self.cfgs[node]));
    }

    /// Starts a node, also again: a new session.
    pub(crate) fn start(&mut self, node: usize) {
        self.sessions += 1;
        let boot = Boot { session: self.sessions, epoch_min: 1000, seed: [9; 32] };
        let mut ring = Ring::new(self.cfgs[node].clone(), boot, self.now).unwrap();
        ring.set_trace(env_number("RING_TRACE") == Some(1));
        self.rings[node] = Some(ring);
        self.seen[node].clear();
        self.drain(node);
    }

    /// Whether the node lives and takes messages.
    pub(crate) fn takes(&self, node: usize) -> bool {
        self.rings[node].as_ref().is_some_and(|ring| ring.leaving.is_none() && !ring.gone)
    }

    pub(crate) fn stop(&mut self, node: usize) {
        self.rings[node] = None;
    }

    pub(crate) fn ring(&mut self, node: usize) -> &mut Ring {
        self.rings[node].as_mut().unwrap()
    }

    pub(crate) fn submit(&mut self, node: usize, service: Service, body: &[u8]) {
        let now = self.now;
        self.ring(node).submit(now, service, Body::One(Bytes::copy_from_slice(body))).unwrap();
        self.drain(node);
    }

    pub(crate) fn leave(&mut self, node: usize) {
        let now = self.now;
        self.ring(node).leave(now);
        self.drain(node);
    }

    pub(crate) fn drain(&mut self, node: usize) {
        let mut sent = VecDeque::new();
        let Some(ring) = self.rings[node].as_mut() else { return };
        while let Some(transmit) = ring.poll_transmit() {
            sent.push_back(transmit);
        }
        while self.deaf != Some(node)
            && let Some(event) = ring.poll_event()
        {
            let nodes = |members: Vec<Mid>| members.iter().map(|mid| mid.node.0).collect();
            self.seen[node].push(match event {
                Event::Deliver { sender, service, body, .. } => {
                    Seen::Message { sender: sender.node.0, service, body: body.to_bytes().to_vec() }
                }
                Event::Transitional { id, members, of } => {
                    Seen::Transitional { id, members: nodes(members), of }
                }
                Event::Regular { id, members } => Seen::Regular { id, members: nodes(members) },
                Event::Writable => continue,
            });
        }
        while let Some(line) = ring.poll_trace() {
            if self.tracing {
                println!("{line}");
            }
        }
        assert_eq!(ring.invariants(), Ok(()), "node {node}");
        assert!(self.hostile || ring.stats().drops.facts == 0, "node {node} was told what cannot be true");
        for transmit in sent {
            self.put(node, transmit);
        }
    }

    fn put(&mut self, from: usize, transmit: Transmit) {
        let Transmit { to, multicast, class, packet } = transmit;
        let path = if multicast { Path::Multicast } else { Path::Unicast };
        let kind = Header::check(&packet).unwrap().kind;
        self.packets += 1;
        assert!(packet.len() <= self.cfgs[from].packet_len_max);
        for to in to.iter().map(NodeId::index) {
            assert_ne!(from, to);
            let hop = Hop { from, to, path, class, kind, packet: &packet };
            if !(self.filter)(&hop) || self.rng.next() % 1000 < self.loss {
                continue;
            }
            let copies = if self.rng.next() % 1000 < self.duplicate { 2 } else { 1 };
            for _ in 0..copies {
                self.count += 1;
                let mut at = self.now + self.delay;
                if self.rng.next() % 1000 < self.late {
                    at = at + Duration::from_micros(self.rng.next() % 30_000);
                }
                self.wire.insert((at.0, self.count), (from, to, path, packet.clone()));
            }
        }
    }

    /// Hands in a packet from outside of the network.
    pub(crate) fn inject(&mut self, to: usize, from: usize, packet: Bytes) {
        let now = self.now;
        if let Some(ring) = self.rings[to].as_mut() {
            ring.handle_packet(now, Path::Unicast, NodeId(u16::try_from(from).unwrap()), packet);
        }
        self.drain(to);
    }

    /// One step: the next packet or timer. Returns false if that is after `end`.
    pub(crate) fn step(&mut self, end: Nanos) -> bool {
        let packet = self.wire.keys().next().map(|(at, _)| Nanos(*at));
        let timers = self.rings.iter().enumerate();
        let timer = timers.filter_map(|(node, r)| Some((r.as_ref()?.poll_timeout()?, node))).min();
        match (packet, timer) {
            (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                if at > end {
                    return false;
                }
                self.now = self.now.max(at);
                let Some((_, (from, to, path, packet))) = self.wire.pop_first() else { return false };
                let from = NodeId(u16::try_from(from).unwrap());
                if let Some(ring) = self.rings[to].as_mut() {
                    ring.handle_packet(at, path, from, packet);
                }
                self.drain(to);
            }
            (_, Some((due, node))) => {
                if due > end {
                    return false;
                }
                self.now = self.now.max(due);
                let now = self.now;
                self.ring(node).handle_timeout(now);
                self.drain(node);
            }
            (_, None) => return false,
        }
        true
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until all living nodes are in one ring of exactly `members`.
    pub(crate) fn settle(&mut self, members: &[u16], limit: Duration) {
        let end = self.now + limit;
        while !self.is_settled(members) {
            assert!(self.step(end), "no ring of {members:?}: {:?}", self.rings_now());
        }
    }

    fn is_settled(&self, members: &[u16]) -> bool {
        let mut id = None;
        members.iter().all(|node| {
            self.rings[usize::from(*node)].as_ref().is_some_and(|ring| {
                let (conf, list) = ring.configuration();
                ring.is_operational()
                    && *id.get_or_insert(conf) == conf
                    && list.iter().map(|mid| mid.node.0).eq(members.iter().copied())
            })
        })
    }

    pub(crate) fn rings_now(&self) -> Vec<String> {
        let line = |ring: &Ring| {
            let (id, members) = ring.configuration();
            let members: Vec<u16> = members.iter().map(|mid| mid.node.0).collect();
            format!("{}{id}{members:?}", ring.phase.letter())
        };
        self.rings.iter().map(|ring| ring.as_ref().map_or_else(|| "-".to_owned(), line)).collect()
    }

    /// Bodies delivered at a node, in order.
    pub(crate) fn bodies(&self, node: usize) -> Vec<Vec<u8>> {
        let body = |seen: &Seen| match seen {
            Seen::Message { body, .. } => Some(body.clone()),
            _ => None,
        };
        self.seen[node].iter().filter_map(body).collect()
    }

    pub(crate) fn count_regular(&self, node: usize) -> usize {
        self.seen[node].iter().filter(|seen| matches!(seen, Seen::Regular { .. })).count()
    }
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
