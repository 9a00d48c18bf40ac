//! The network between the daemons of a history.

use super::plan::{Fault, US};
use super::rng::Rng;

/// What the faults that are there at this moment do to packets.
#[derive(Debug)]
pub(super) struct Net {
    nodes: usize,
    /// Number of faults that cut the way from a node to another one, by `from * nodes + to`.
    cut: Vec<u32>,
    no_multicast: Vec<u32>,
    active: Vec<Fault>,
    latency: u64,
    jitter: u64,
    /// Time on the wire of one packet.
    wire: u64,
    /// When the sender's wire is free.
    free: Vec<u64>,
    /// Last arrival in order, by `from * nodes + to`.
    last: Vec<u64>,
    rng: Rng,
    pub(super) lost: u64,
}

/// A packet as the network sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) multicast: bool,
    pub(super) is_data: bool,
    pub(super) len: usize,
}

impl Net {
    pub(super) fn new(nodes: usize, latency: u64, jitter: u64, mut rng: Rng) -> Self {
        let wire = rng.log_range(US / 2, 20 * US);
        Self {
            nodes,
            cut: vec![0; nodes * nodes],
            no_multicast: vec![0; nodes],
            active: Vec::new(),
            latency,
            jitter,
            wire,
            free: vec![0; nodes],
            last: vec![0; nodes * nodes],
            rng,
            lost: 0,
        }
    }

    /// A fault begins or ends. Those of processes are none of the network's business.
    pub(super) fn set(&mut self, fault: &Fault, on: bool) {
        match fault {
            Fault::CutOneWay(from, to) => self.cut(*from, *to, on),
            Fault::CutLink(a, b) => {
                self.cut(*a, *b, on);
                self.cut(*b, *a, on);
            }
            Fault::Deaf(node) => (0..self.nodes).for_each(|other| self.cut(other, *node, on)),
            Fault::Mute(node) => (0..self.nodes).for_each(|other| self.cut(*node, other, on)),
            Fault::Partition(parts) => {
                for (a, part_a) in parts.iter().enumerate() {
                    for (b, part_b) in parts.iter().enumerate() {
                        if part_a != part_b {
                            self.cut(a, b, on);
                        }
                    }
                }
            }
            Fault::NoMulticast(node) => count(&mut self.no_multicast[*node], on),
            Fault::Loss(_)
            | Fault::DataLoss(_)
            | Fault::Duplicate(_)
            | Fault::Reorder(..)
            | Fault::Late(..)
            | Fault::LargeLost(..)
            | Fault::Corrupt(_)
                if on =>
            {
                self.active.push(fault.clone())
            }
            Fault::Loss(_)
            | Fault::DataLoss(_)
            | Fault::Duplicate(_)
            | Fault::Reorder(..)
            | Fault::Late(..)
            | Fault::LargeLost(..)
            | Fault::Corrupt(_) => {
                if let Some(i) = self.active.iter().position(|f| f == fault) {
                    self.active.remove(i);
                }
            }
            Fault::Crash(_)
            | Fault::Leave(_)
            | Fault::Pause(_)
            | Fault::Slow(..)
            | Fault::Clock(..)
            | Fault::Flood(..)
            | Fault::Ambush(..) => {}
        }
    }

    fn cut(&mut self, from: usize, to: usize, on: bool) {
        if from != to {
            count(&mut self.cut[from * self.nodes + to], on);
        }
    }

    /// Whether packets can go from a node to another one.
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.nodes + to] == 0
    }

    /// The sender's wire takes one packet. Returns when it has left.
    pub(super) fn depart(&mut self, now: u64, from: usize) -> u64 {
        let free = &mut self.free[from];
        *free = (*free).max(now) + self.wire;
        *free
    }

    /// The times at which a packet that left at `left` arrives: none if it is lost, two if it is doubled.
    pub(super) fn arrivals(&mut self, left: u64, packet: Datagram) -> [Option<u64>; 2] {
        let Datagram { from, to, multicast, is_data, .. } = packet;
        if !self.is_open(from, to) || (multicast && self.no_multicast[to] > 0) || self.loses(packet) {
            self.lost += 1;
            return [None, None];
        }
        let due = left + self.latency + self.rng.below(self.jitter);
        let slot = from * self.nodes + to;
        let (mut extra, mut double) = (0, None);
        for fault in &self.active {
            match fault {
                Fault::Reorder(rate, most) if self.rng.per_mille(*rate) => extra += self.rng.below(*most),
                Fault::Late(rate, most, data_only)
                    if (is_data || !data_only) && self.rng.per_mille(*rate) =>
                {
                    extra += self.rng.below(*most);
                }
                Fault::Duplicate(rate) if self.rng.per_mille(*rate) => {
                    double = Some(due + self.rng.log_range(1, 20_000 * US));
                }
                _ => {}
            }
        }
        if extra > 0 {
            return [Some(due + extra), double];
        }
        // Without a fault, packets between two nodes stay in order.
        let due = due.max(self.last[slot] + 1);
        self.last[slot] = due;
        [Some(due), double]
    }

    fn loses(&mut self, packet: Datagram) -> bool {
        let mut lost = false;
        for fault in &self.active {
            lost |= match fault {
                // The driver compares the checksum: a packet that arrives damaged is lost.
                Fault::Loss(rate) | Fault::Corrupt(rate) => self.rng.per_mille(*rate),
                Fault::DataLoss(rate) => packet.is_data && self.rng.per_mille(*rate),
                Fault::LargeLost(node, len) => packet.to == *node && packet.len > *len,
                _ => false,
            };
        }
        lost
    }
}

fn count(n: &mut u32, on: bool) {
    *n = if on { *n + 1 } else { n.saturating_sub(1) };
}
