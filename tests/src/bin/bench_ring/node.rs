//! Tier A: one host's process with the ring thread and a synthetic layer above it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use bytes::{BufMut, BytesMut};
use clap::Args;
use spread_ring::{Body, Event, NodeId, RingConfig, Service};
use spreadd::ring_driver::{
    DriverConfig, KeyRing, Network, NodeAddr, SegmentAddr, Upper, Waker, new_boot, start,
};

use crate::host::{Deliveries, Host, STAMP, Shared, addr, cpu, group, now};

/// Who this process is.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// Number of this daemon, from 0.
    #[arg(long)]
    me: u16,
    /// Number of daemons.
    #[arg(long)]
    count: u16,
    /// Data port.
    #[arg(long)]
    port: u16,
    /// Encrypt.
    #[arg(long)]
    sealed: bool,
    /// Packets in one visit.
    #[arg(long)]
    personal: Option<u16>,
}

/// The synthetic layer: makes messages, checks and counts them.
struct Synthetic {
    shared: Arc<Shared>,
    arena: BytesMut,
    number: u64,
    deliveries: Deliveries,
}

impl Synthetic {
    fn message(&mut self, time: u64) -> (Service, Body) {
        let size = self.shared.size.load(Ordering::Relaxed).max(STAMP);
        if self.arena.capacity() < size {
            self.arena = BytesMut::with_capacity((256 << 10).max(size));
        }
        self.number += 1;
        self.arena.put_u64_le(time);
        self.arena.put_u64_le(self.number);
        self.arena.resize(size, 7);
        self.shared.submitted.fetch_add(1, Ordering::Relaxed);
        let service = if self.shared.safe.load(Ordering::Relaxed) { Service::Safe } else { Service::Agreed };
        (service, self.arena.split().freeze().into())
    }
}

impl Upper for Synthetic {
    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Deliver { sender, body, .. } => {
                self.deliveries.deliver(sender.node.index(), body.parts().iter().map(|part| &part[..]));
            }
            Event::Regular { members, id } => self.deliveries.begin(&id.epoch.to_string(), members.len()),
            Event::Transitional { .. } => self.deliveries.end(),
            Event::Writable => {}
        }
    }

    fn next_submission(&mut self) -> Option<(Service, Body)> {
        if self.shared.flood.load(Ordering::Relaxed) {
            return Some(self.message(now()));
        }
        let time = self.shared.paced.lock().ok()?.pop_front()?;
        Some(self.message(time))
    }

    fn flush(&mut self) {
        self.deliveries.flush();
    }
}

/// Runs until standard input ends.
pub(crate) fn run(args: &NodeArgs) -> Result<()> {
    let network = Network {
        nodes: (0..args.count)
            .map(|n| NodeAddr { segment: 0, addrs: vec![addr(n)], port: args.port })
            .collect(),
        segments: vec![SegmentAddr { multicast: (args.count > 1).then(|| group(args.port)) }],
    };
    let mut ring = RingConfig::new(NodeId(args.me), vec![0; usize::from(args.count)], [7; 16]);
    ring.windows.personal = args.personal;
    let mut config = DriverConfig::new(ring, new_boot(0)?, network);
    if args.sealed {
        config.keys = Some(KeyRing::parse(&format!("1 {} active", "5a".repeat(32)))?);
    }
    let shared = Arc::new(Shared::default());
    let waker = Waker::new()?;
    let upper = Synthetic {
        shared: Arc::clone(&shared),
        arena: BytesMut::new(),
        number: 0,
        deliveries: Deliveries::new(Arc::clone(&shared), usize::from(args.count)),
    };
    let handle = start(config, upper, waker.clone())?;
    let mut host = Host::new(args.me, shared, move || waker.wake());
    host.serve(|line| {
        let report = handle.report();
        match line {
            "report" => Some(format!("{report:?}")),
            // Processor time, wake-ups, packets in and out.
            "use" => Some(report.map_or_else(
                || "error the ring thread has ended".into(),
                |r| format!("{} {} {} {}", cpu(), r.io.wakeups, r.io.packets_received, r.io.packets_sent),
            )),
            _ => None,
        }
    })?;
    handle.leave();
    handle.join();
    Ok(())
}
