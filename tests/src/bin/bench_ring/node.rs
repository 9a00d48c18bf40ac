//! One host's process: the ring thread with a synthetic layer above it. Obeys lines on standard input and
//! answers each with one line.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{BufMut, BytesMut};
use clap::Args;
use nix::time::{ClockId, clock_gettime};
use spread_ring::{Body, Event, NodeId, RingConfig, Service};
use spreadd::ring_driver::bare::Bare;
use spreadd::ring_driver::{
    DriverConfig, KeyRing, Network, NodeAddr, SegmentAddr, Upper, Waker, new_boot, start,
};

use crate::report::Histogram;

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

/// Beginning of every message: time of submission, number of the message from its sender.
const STAMP: usize = 16;

/// Every so many deliveries the hash of the order is kept.
const CHECK_EVERY: u64 = 1024;
const CHECKS: usize = 4096;

#[derive(Default)]
struct Shared {
    size: AtomicUsize,
    safe: AtomicBool,
    flood: AtomicBool,
    measure: AtomicBool,
    delivered: AtomicU64,
    bytes: AtomicU64,
    submitted: AtomicU64,
    /// Messages to submit, with their times.
    paced: Mutex<VecDeque<u64>>,
    latency: Mutex<Histogram>,
    /// Time and number of members of each regular configuration.
    confs: Mutex<Vec<(u64, usize)>>,
    /// Epoch of the configuration, deliveries in it, hash of their order.
    checks: Mutex<VecDeque<(u64, u64, u64)>>,
    faults: AtomicU64,
}

/// Nanoseconds of the clock that all processes of the machine share.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

fn cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

/// The synthetic layer: makes messages, checks and counts them.
struct Synthetic {
    shared: Arc<Shared>,
    arena: BytesMut,
    number: u64,
    /// Last number seen of each daemon.
    last: Vec<u64>,
    /// Epoch of the regular configuration; `None` in a transitional one, where components may differ.
    epoch: Option<u64>,
    count: u64,
    hash: u64,
    batch: (u64, u64),
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

    fn deliver(&mut self, sender: NodeId, body: &Body) {
        let mut stamp = [0; STAMP];
        let mut filled = 0;
        for part in body.parts() {
            let take = part.len().min(STAMP - filled);
            stamp[filled..filled + take].copy_from_slice(&part[..take]);
            filled += take;
        }
        let (time, number) = stamp.split_at(8);
        let time = u64::from_le_bytes(time.try_into().expect("half of 16 bytes"));
        let number = u64::from_le_bytes(number.try_into().expect("half of 16 bytes"));
        let last = &mut self.last[sender.index()];
        if *last != 0 && number != *last + 1 {
            self.shared.faults.fetch_add(1, Ordering::Relaxed);
        }
        *last = number;
        self.count += 1;
        self.hash = (self.hash ^ number ^ (u64::from(sender.0) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.count.is_multiple_of(CHECK_EVERY)
            && let Some(epoch) = self.epoch
            && let Ok(mut checks) = self.shared.checks.lock()
        {
            if checks.len() >= CHECKS {
                checks.pop_front();
            }
            checks.push_back((epoch, self.count, self.hash));
        }
        self.batch.0 += 1;
        self.batch.1 += body.len() as u64;
        if self.shared.measure.load(Ordering::Relaxed)
            && let Ok(mut latency) = self.shared.latency.lock()
        {
            latency.add(now().saturating_sub(time));
        }
    }
}

impl Upper for Synthetic {
    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Deliver { sender, body, .. } => self.deliver(sender.node, &body),
            Event::Regular { members, id } => {
                self.epoch = Some(id.epoch);
                self.count = 0;
                self.hash = 0;
                self.last.fill(0);
                if let Ok(mut confs) = self.shared.confs.lock() {
                    confs.push((now(), members.len()));
                }
            }
            Event::Transitional { .. } => self.epoch = None,
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
        self.shared.delivered.fetch_add(self.batch.0, Ordering::Relaxed);
        self.shared.bytes.fetch_add(self.batch.1, Ordering::Relaxed);
        self.batch = (0, 0);
    }
}

fn addr(node: u16) -> IpAddr {
    let [.., last] = (node + 1).to_be_bytes();
    Ipv4Addr::new(10, 77, 0, last).into()
}

fn group(port: u16) -> SocketAddr {
    (Ipv4Addr::new(239, 77, 0, 1), port).into()
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
        last: vec![0; usize::from(args.count)],
        epoch: None,
        count: 0,
        hash: 0,
        batch: (0, 0),
    };
    let handle = start(config, upper, waker.clone())?;
    let mut node = Host { me: args.me, shared, waker, bare: None };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.as_str() {
            "report" => format!("{:?}", handle.report()),
            // Processor time, wake-ups, packets in and out.
            "use" => handle.report().map_or_else(
                || "error the ring thread has ended".into(),
                |r| format!("{} {} {} {}", cpu(), r.io.wakeups, r.io.packets_received, r.io.packets_sent),
            ),
            line => node.obey(line).unwrap_or_else(|error| format!("error {error:#}")),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    handle.leave();
    handle.join();
    Ok(())
}

struct Host {
    me: u16,
    shared: Arc<Shared>,
    waker: Waker,
    bare: Option<(bool, Bare)>,
}

impl Host {
    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| -> Result<u64> { Ok(words.get(i).context("too few words")?.parse()?) };
        match *words.first().context("empty line")? {
            "members" => self.members(usize::try_from(number(1)?)?, Duration::from_millis(number(2)?)),
            "confs" => {
                let confs = self.shared.confs.lock().map_err(|_| anyhow!("poisoned"))?;
                Ok(confs.iter().map(|(t, n)| format!("{t}:{n}")).collect::<Vec<_>>().join(" "))
            }
            // load SIZE SERVICE WARM MS SEND
            "load" => {
                self.prepare(&words)?;
                let sends = number(5)? == 1;
                self.shared.flood.store(sends, Ordering::Relaxed);
                self.waker.wake();
                let answer = self.window(
                    Duration::from_millis(number(3)?),
                    Duration::from_millis(number(4)?),
                    false,
                    |_| {},
                );
                self.shared.flood.store(false, Ordering::Relaxed);
                answer
            }
            // paced SIZE SERVICE WARM MS RATE OFFSET_US
            "paced" => {
                self.prepare(&words)?;
                let (rate, offset) = (number(5)?, Duration::from_micros(number(6)?));
                let host = &*self;
                let begin = Instant::now() + offset;
                let mut done = 0u64;
                host.window(
                    Duration::from_millis(number(3)?),
                    Duration::from_millis(number(4)?),
                    true,
                    |end| {
                        host.pace(rate, begin, end, &mut done);
                    },
                )
            }
            "quiet" => self.quiet(),
            "checks" => {
                let checks = self.shared.checks.lock().map_err(|_| anyhow!("poisoned"))?;
                Ok(checks.iter().map(|(e, n, h)| format!("{e}.{n}:{h:x}")).collect::<Vec<_>>().join(" "))
            }
            // bare-open OFFLOAD
            "bare-open" => {
                let offload = number(1)? == 1;
                self.bare = None;
                self.bare = Some((offload, Bare::open(addr(self.me), group(9_000), offload)?));
                Ok("ok".into())
            }
            // bare-send RECEIVERS SIZE MS
            "bare-send" => {
                self.bare_send(usize::try_from(number(1)?)?, usize::try_from(number(2)?)?, number(3)?)
            }
            // bare-pace SIZE MS RATE
            "bare-pace" => self.bare_pace(usize::try_from(number(1)?)?, number(2)?, number(3)?),
            // bare-receive MS
            "bare-receive" => self.bare_receive(number(1)?),
            other => bail!("unknown command {other}"),
        }
    }

    fn prepare(&self, words: &[&str]) -> Result<()> {
        self.shared.size.store(words.get(1).context("no size")?.parse()?, Ordering::Relaxed);
        self.shared.safe.store(words.get(2) == Some(&"safe"), Ordering::Relaxed);
        Ok(())
    }

    fn members(&self, count: usize, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let last = self.shared.confs.lock().map_err(|_| anyhow!("poisoned"))?.last().copied();
            if let Some((time, _)) = last.filter(|(_, members)| *members == count) {
                return Ok(format!("{time}"));
            }
            if Instant::now() > end {
                bail!("last configuration {last:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Counts between warm-up and end. `work` runs until the instant it is given.
    fn window(
        &self,
        warm: Duration,
        length: Duration,
        latency: bool,
        mut work: impl FnMut(Instant),
    ) -> Result<String> {
        let mut until = |end: Instant| {
            work(end);
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        };
        let begin = Instant::now();
        until(begin + warm);
        self.shared.measure.store(latency, Ordering::Relaxed);
        let from = (
            now(),
            self.shared.delivered.load(Ordering::Relaxed),
            self.shared.bytes.load(Ordering::Relaxed),
            cpu(),
        );
        until(begin + warm + length);
        let to = (
            now(),
            self.shared.delivered.load(Ordering::Relaxed),
            self.shared.bytes.load(Ordering::Relaxed),
            cpu(),
        );
        self.shared.measure.store(false, Ordering::Relaxed);
        Ok(format!("{} {} {} {}", to.0 - from.0, to.1 - from.1, to.2 - from.2, to.3 - from.3))
    }

    /// Puts messages into the queue at their times.
    fn pace(&self, rate: u64, begin: Instant, end: Instant, done: &mut u64) {
        if rate == 0 {
            return;
        }
        // Fast rates in small bursts: a sleep is not shorter than some 50 us.
        let burst = rate.div_ceil(10_000);
        loop {
            let at = begin + Duration::from_nanos(*done * 1_000_000_000 / rate);
            if at >= end {
                return;
            }
            let wait = at.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            if let Ok(mut paced) = self.shared.paced.lock() {
                // A ring that does not follow shall show as latency, not as memory.
                if paced.len() < 100_000 {
                    let time = now();
                    paced.extend(std::iter::repeat_n(time, usize::try_from(burst).unwrap_or(1)));
                }
            }
            *done += burst;
            self.waker.wake();
        }
    }

    /// Waits until nothing is delivered any more, and gives the latencies of the last measurement.
    fn quiet(&self) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(10);
        let mut last = (self.shared.delivered.load(Ordering::Relaxed), Instant::now());
        while last.1.elapsed() < Duration::from_millis(100) {
            let count = self.shared.delivered.load(Ordering::Relaxed);
            if count != last.0 {
                last = (count, Instant::now());
            }
            if Instant::now() > end {
                bail!("deliveries do not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let faults = self.shared.faults.load(Ordering::Relaxed);
        let installs = self.shared.confs.lock().map_err(|_| anyhow!("poisoned"))?.len();
        let mut latency = self.shared.latency.lock().map_err(|_| anyhow!("poisoned"))?;
        let histogram = std::mem::take(&mut *latency);
        Ok(format!(
            "{faults} {installs} {} {} {} {}",
            histogram.count(),
            histogram.quantile(0.5),
            histogram.quantile(0.99),
            histogram.max()
        ))
    }

    /// Multicasts as fast as the receivers take it: no order, no repair, only a window of unacknowledged
    /// datagrams, without which the receivers would lose most.
    fn bare_send(&mut self, receivers: usize, size: usize, ms: u64) -> Result<String> {
        const WINDOW: u64 = 1024;
        let (offload, bare) = self.bare.as_mut().context("not open")?;
        // Messages longer than a packet are cut, as the ring does.
        let parts = size.div_ceil(1428) as u64;
        let segment = u16::try_from(size.div_ceil(usize::try_from(parts)?))?;
        let burst = if *offload { 64.min(65_507 / usize::from(segment)) } else { 32 };
        let mut data = vec![0u8; burst * usize::from(segment)];
        let mut acked = vec![0u64; receivers];
        let mut sent = 0u64;
        let (begin, cpu_before) = (Instant::now(), cpu());
        let mut progress = Instant::now();
        while begin.elapsed() < Duration::from_millis(ms) {
            let least = acked.iter().copied().min().unwrap_or(0);
            if sent - least < WINDOW {
                for chunk in data.chunks_mut(usize::from(segment)) {
                    sent += 1;
                    chunk[..8].copy_from_slice(&sent.to_le_bytes());
                }
                bare.multicast(&data, segment, *offload)?;
            }
            let timeout = if sent - least < WINDOW { Duration::ZERO } else { Duration::from_millis(1) };
            let mut news = false;
            bare.receive(false, timeout, |ack| {
                let (Some(node), Some(number)) = (ack.first(), ack.get(1..9)) else { return };
                let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
                if let Some(slot) = acked.get_mut(usize::from(*node).wrapping_sub(1)) {
                    news |= number > *slot;
                    *slot = number.max(*slot);
                }
            })?;
            if news {
                progress = Instant::now();
            } else if progress.elapsed() > Duration::from_millis(5) {
                // The last datagrams of a window were lost.
                acked.fill(sent);
                progress = Instant::now();
            }
        }
        Ok(format!("{} {sent} {parts} {}", begin.elapsed().as_nanos(), cpu() - cpu_before))
    }

    /// Multicasts single datagrams with their times.
    fn bare_pace(&mut self, size: usize, ms: u64, rate: u64) -> Result<String> {
        let (_, bare) = self.bare.as_ref().context("not open")?;
        let mut data = vec![0u8; size.max(STAMP)];
        let begin = Instant::now();
        for number in 0..ms * rate / 1000 {
            let at = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            data[8..STAMP].copy_from_slice(&now().to_le_bytes());
            bare.multicast(&data, u16::try_from(data.len())?, false)?;
        }
        Ok("ok".into())
    }

    /// Counts and acknowledges datagrams, and measures the age of those that carry a time.
    fn bare_receive(&mut self, ms: u64) -> Result<String> {
        let me = u8::try_from(self.me)?;
        let (_, bare) = self.bare.as_mut().context("not open")?;
        let sender = SocketAddr::new(addr(0), 9_000);
        let mut ages = Histogram::default();
        let (mut count, mut bytes, mut highest, mut answered) = (0u64, 0u64, 0u64, 0u64);
        let (mut first, mut last) = (None, Instant::now());
        let end = Instant::now() + Duration::from_millis(ms);
        let cpu_before = cpu();
        while Instant::now() < end {
            let n = bare.receive(true, Duration::from_millis(10), |packet| {
                count += 1;
                bytes += packet.len() as u64;
                let number = packet.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
                highest = highest.max(number);
                if let Some(time) = packet.get(8..STAMP).filter(|_| number == 0) {
                    let time = u64::from_le_bytes(time.try_into().expect("8 bytes"));
                    ages.add(now().saturating_sub(time));
                }
            })?;
            if n > 0 {
                last = Instant::now();
                first.get_or_insert(last);
            }
            if highest - answered >= 128 || n == 0 && highest > answered {
                answered = highest;
                let mut ack = vec![me];
                ack.extend(highest.to_le_bytes());
                // Lost if the sender has ended.
                let _ = bare.send(sender, &ack);
            }
        }
        let time = first.map_or(0, |first| (last - first).as_nanos());
        let cpu = cpu() - cpu_before;
        Ok(format!(
            "{time} {count} {bytes} {cpu} {} {} {}",
            ages.quantile(0.5),
            ages.quantile(0.99),
            ages.max()
        ))
    }
}
