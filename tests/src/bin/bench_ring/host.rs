//! What a process of the benchmark counts, and how it obeys the lines on its standard input.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::time::{ClockId, clock_gettime};
use spreadd::ring_driver::bare::Bare;

use crate::report::Histogram;

/// Beginning of every message: time of submission, number of the message from its sender.
pub(crate) const STAMP: usize = 16;

/// Every so many deliveries the hash of the order is kept.
const CHECK_EVERY: u64 = 1024;
const CHECKS: usize = 4096;

/// What the threads of a process share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) size: AtomicUsize,
    pub(crate) safe: AtomicBool,
    pub(crate) flood: AtomicBool,
    pub(crate) measure: AtomicBool,
    pub(crate) delivered: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) submitted: AtomicU64,
    /// Messages to submit, with their times.
    pub(crate) paced: Mutex<VecDeque<u64>>,
    pub(crate) latency: Mutex<Histogram>,
    /// Time and number of members of each regular configuration.
    pub(crate) confs: Mutex<Vec<(u64, usize)>>,
    /// Name of the configuration, deliveries in it, hash of their order.
    pub(crate) checks: Mutex<VecDeque<(String, u64, u64)>>,
    pub(crate) faults: AtomicU64,
}

/// Nanoseconds of the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

pub(crate) fn cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

/// Checks and counts what is delivered.
pub(crate) struct Deliveries {
    shared: Arc<Shared>,
    /// Last number seen of each sender.
    last: Vec<u64>,
    /// Name of the regular configuration; `None` in a transitional one, where components may differ.
    epoch: Option<String>,
    count: u64,
    hash: u64,
    batch: (u64, u64),
}

impl Deliveries {
    pub(crate) fn new(shared: Arc<Shared>, senders: usize) -> Self {
        Self { shared, last: vec![0; senders], epoch: None, count: 0, hash: 0, batch: (0, 0) }
    }

    /// A configuration of so many members begins.
    pub(crate) fn begin(&mut self, epoch: &str, members: usize) {
        self.epoch = Some(epoch.to_owned());
        self.count = 0;
        self.hash = 0;
        self.last.fill(0);
        if let Ok(mut confs) = self.shared.confs.lock() {
            confs.push((now(), members));
        }
    }

    /// The configuration ends; what still comes may differ between daemons.
    pub(crate) fn end(&mut self) {
        self.epoch = None;
    }

    /// Takes the next message, of sender number `sender`, in parts.
    pub(crate) fn deliver<'a>(&mut self, sender: usize, parts: impl Iterator<Item = &'a [u8]>) {
        let mut stamp = [0; STAMP];
        let (mut filled, mut len) = (0, 0);
        for part in parts {
            len += part.len() as u64;
            let take = part.len().min(STAMP - filled);
            stamp[filled..filled + take].copy_from_slice(&part[..take]);
            filled += take;
        }
        let (time, number) = stamp.split_at(8);
        let time = u64::from_le_bytes(time.try_into().expect("half of 16 bytes"));
        let number = u64::from_le_bytes(number.try_into().expect("half of 16 bytes"));
        let last = &mut self.last[sender];
        if *last != 0 && number != *last + 1 {
            self.shared.faults.fetch_add(1, Ordering::Relaxed);
        }
        *last = number;
        self.count += 1;
        self.hash = (self.hash ^ number ^ ((sender as u64) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.count.is_multiple_of(CHECK_EVERY)
            && let Some(epoch) = &self.epoch
            && let Ok(mut checks) = self.shared.checks.lock()
        {
            if checks.len() >= CHECKS {
                checks.pop_front();
            }
            checks.push_back((epoch.clone(), self.count, self.hash));
        }
        self.batch.0 += 1;
        self.batch.1 += len;
        if self.shared.measure.load(Ordering::Relaxed)
            && let Ok(mut latency) = self.shared.latency.lock()
        {
            latency.add(now().saturating_sub(time));
        }
    }

    /// Makes the counts of a batch visible.
    pub(crate) fn flush(&mut self) {
        self.shared.delivered.fetch_add(self.batch.0, Ordering::Relaxed);
        self.shared.bytes.fetch_add(self.batch.1, Ordering::Relaxed);
        self.batch = (0, 0);
    }
}

pub(crate) fn addr(node: u16) -> IpAddr {
    let [.., last] = (node + 1).to_be_bytes();
    Ipv4Addr::new(10, 77, 0, last).into()
}

pub(crate) fn group(port: u16) -> SocketAddr {
    (Ipv4Addr::new(239, 77, 0, 1), port).into()
}

/// A process that obeys.
pub(crate) struct Host {
    pub(crate) me: u16,
    pub(crate) shared: Arc<Shared>,
    /// Tells whoever submits that there is something to do.
    pub(crate) wake: Box<dyn Fn()>,
    pub(crate) bare: Option<(bool, Bare)>,
}

impl Host {
    pub(crate) fn new(me: u16, shared: Arc<Shared>, wake: impl Fn() + 'static) -> Self {
        Self { me, shared, wake: Box::new(wake), bare: None }
    }

    /// Answers lines until standard input ends. `more` knows further commands.
    pub(crate) fn serve(&mut self, more: impl Fn(&str) -> Option<String>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let answer =
                self.obey(&line, &more).unwrap_or_else(|error| format!("error {error:#}").replace('\n', " "));
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
        Ok(())
    }

    fn obey(&mut self, line: &str, more: impl Fn(&str) -> Option<String>) -> Result<String> {
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
                (self.wake)();
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
            other => more(other).with_context(|| format!("unknown command {other}")),
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
            (self.wake)();
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
}
