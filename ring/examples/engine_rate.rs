//! How fast the engine alone is: some rings in one thread, every packet handed over in memory.
//!
//! `cargo run --release -p spread-ring --example engine_rate [daemons] [message bytes] [messages]`
//!
//! Prints messages ordered per second of CPU time of all daemons together, the time of one packet at one
//! daemon, and allocations per message.

#![allow(clippy::disallowed_methods, reason = "measures time")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use spread_ring::{Body, Boot, Event, Nanos, NodeId, Path, Ring, RingConfig, Service};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

struct Net {
    rings: Vec<Ring>,
    wire: VecDeque<(usize, NodeId, Path, Bytes)>,
    now: Nanos,
    delivered: Vec<u64>,
    packets: u64,
}

impl Net {
    fn new(n: u16) -> Self {
        let ring = |me: u16| {
            let cfg = RingConfig::new(NodeId(me), vec![0; n.into()], [1; 16]);
            let boot = Boot { session: u64::from(me) + 1, epoch_min: 10, seed: [0; 32] };
            Ring::new(Arc::new(cfg), boot, Nanos(0)).expect("the configuration is possible")
        };
        Self {
            rings: (0..n).map(ring).collect(),
            wire: VecDeque::new(),
            now: Nanos(0),
            delivered: vec![0; n.into()],
            packets: 0,
        }
    }

    fn drain(&mut self, node: usize) {
        let ring = &mut self.rings[node];
        let from = ring.me().node;
        while let Some(transmit) = ring.poll_transmit() {
            let path = if transmit.multicast { Path::Multicast } else { Path::Unicast };
            for to in transmit.to.iter() {
                self.wire.push_back((to.index(), from, path, transmit.packet.clone()));
            }
        }
        while let Some(event) = ring.poll_event() {
            self.delivered[node] += u64::from(matches!(event, Event::Deliver { .. }));
        }
    }

    /// Hands over all packets that are on their way.
    fn round(&mut self) {
        self.now = Nanos(self.now.0 + 10_000);
        for _ in 0..self.wire.len() {
            let Some((to, from, path, packet)) = self.wire.pop_front() else { break };
            self.packets += 1;
            self.rings[to].handle_packet(self.now, path, from, packet);
            // The outputs of a batch are taken together, as a driver does.
            if self.wire.front().is_none_or(|next| next.0 != to) {
                self.drain(to);
            }
        }
        for node in 0..self.rings.len() {
            if self.rings[node].poll_timeout().is_some_and(|at| at <= self.now) {
                self.rings[node].handle_timeout(self.now);
            }
            self.drain(node);
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let n = args.next().unwrap_or(3);
    let len = args.next().unwrap_or(1000);
    let total = args.next().unwrap_or(1_000_000) as u64;
    let mut net = Net::new(u16::try_from(n).expect("few daemons"));
    let formed = |net: &Net| net.rings.iter().all(|r| r.configuration().1.len() == n && r.is_operational());
    while !formed(&net) {
        net.round();
    }
    for _ in 0..50_000 {
        net.round();
    }
    let body = Bytes::from(vec![7u8; len]);
    let mut submitted = 0;
    let mut feed = |net: &mut Net| {
        for node in 0..n {
            while submitted < total
                && net.rings[node].submit(net.now, Service::Agreed, Body::One(body.clone())).is_ok()
            {
                submitted += 1;
            }
            net.drain(node);
        }
    };
    net.delivered.iter_mut().for_each(|count| *count = 0);
    net.packets = 0;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let start = Instant::now();
    while net.delivered.iter().any(|count| *count < total) {
        feed(&mut net);
        net.round();
    }
    let time = start.elapsed();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let stats = net.rings[0].stats();
    println!(
        "{n} daemons, {len} bytes: {:.0} messages/s, {:.3} us for a packet at a daemon, {:.3} allocations a message \
         at a daemon, {} messages, {} packets handed over, window {}, {} visits of daemon 0, sent again {}",
        total as f64 / time.as_secs_f64(),
        time.as_secs_f64() * 1e6 / net.packets as f64,
        allocations as f64 / (total * n as u64) as f64,
        total,
        net.packets,
        stats.window,
        stats.visits,
        stats.answered,
    );
}
