//! A ring under full load for a while: no membership change, nothing lost, memory that stays.
//!
//! Three daemons, on hosts of their own if that is possible (root), otherwise on loopback. A client on each sends
//! as fast as the slowest reader allows, and checks that it gets all messages of all, in one order. Once a second
//! the daemons are asked what they did.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use spread::blocking::Connection;
use spread::{GroupName, Message, Service};
use tests::cluster::Cluster;
use tests::netns;

/// A ring under full load: fails on any membership change, loss or growth of memory.
#[derive(Parser)]
struct Args {
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The same in seconds, for a short look.
    #[arg(long, conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// Daemons.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    daemons: u8,
    /// Bytes of a message's data, 16 or more.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(16..=100_000))]
    size: u32,
    /// Messages of one sender that may be under way to the slowest reader.
    #[arg(long, default_value_t = 500)]
    window: u64,
    /// Mebibytes that a daemon may grow by after the first tenth of the time.
    #[arg(long, default_value_t = 64)]
    growth: u64,
}

const LIMIT: Duration = Duration::from_secs(30);

/// What a client does; the counters are read by the others.
struct Shared {
    stop: AtomicBool,
    failed: AtomicBool,
    /// Messages of each sender that each reader has: `got[reader][sender]`.
    got: Vec<Vec<AtomicU64>>,
    sent: Vec<AtomicU64>,
}

impl Shared {
    /// Messages of `sender` that the slowest reader has.
    fn slowest(&self, sender: usize) -> u64 {
        self.got.iter().map(|got| got[sender].load(Ordering::Acquire)).min().unwrap_or(0)
    }
}

fn payload(sender: usize, number: u64, size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    data[..8].copy_from_slice(&(sender as u64).to_le_bytes());
    data[8..16].copy_from_slice(&number.to_le_bytes());
    data
}

fn words(data: &[u8]) -> Option<(usize, u64)> {
    let word = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?));
    Some((usize::try_from(word(0)?).ok()?, word(8)?))
}

/// Reads until the end; a missing, repeated or reordered message ends it with an error. Returns a hash of the
/// order.
fn read(mut client: spread::blocking::Receiver, me: usize, shared: &Shared) -> anyhow::Result<u64> {
    let mut order = 0xcbf2_9ce4_8422_2325_u64;
    loop {
        match client.receive_timeout(Duration::from_millis(200))? {
            Some(Message::Data(data)) => {
                let (sender, number) = words(data.payload()).context("a message of somebody else")?;
                let got = shared.got[me].get(sender).context("a sender of somebody else")?;
                let expected = got.fetch_add(1, Ordering::AcqRel);
                ensure!(number == expected, "message {number} of {sender} came instead of {expected}");
                for word in [sender as u64, number] {
                    order = (order ^ word).wrapping_mul(0x0000_0100_0000_01b3);
                }
            }
            Some(Message::Membership(view)) => {
                ensure!(view.members.len() == shared.sent.len(), "a membership change: {:?}", view.members);
            }
            Some(_) => {}
            None => {
                let sent: u64 = shared.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum();
                let got: u64 = shared.got[me].iter().map(|got| got.load(Ordering::Acquire)).sum();
                if shared.failed.load(Ordering::Acquire) || shared.stop.load(Ordering::Acquire) && sent == got
                {
                    return Ok(order);
                }
            }
        }
    }
}

fn send(
    mut client: spread::blocking::Sender,
    me: usize,
    group: GroupName,
    size: usize,
    window: u64,
    shared: &Shared,
) -> anyhow::Result<()> {
    while !shared.stop.load(Ordering::Acquire) && !shared.failed.load(Ordering::Acquire) {
        let number = shared.sent[me].load(Ordering::Acquire);
        if number >= shared.slowest(me) + window {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        let service = if number.is_multiple_of(16) { Service::SAFE } else { Service::AGREED };
        // Counted first: a reader may have it before the call returns.
        shared.sent[me].store(number + 1, Ordering::Release);
        client.multicast(service, group, 0, payload(me, number, size))?;
    }
    Ok(())
}

/// Resident memory in bytes.
fn resident(pid: nix::unistd::Pid) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn connect_all(cluster: &Cluster, group: GroupName, count: usize) -> anyhow::Result<Vec<Connection>> {
    let mut clients = Vec::new();
    for index in 0..count {
        let mut client = cluster.client(index, &format!("soak{index}"), LIMIT)?;
        client.join(group)?;
        clients.push(client);
    }
    for client in &mut clients {
        loop {
            match client.receive_timeout(LIMIT)?.context("the clients do not meet")? {
                Message::Membership(view) if view.members.len() == count => break,
                _ => {}
            }
        }
    }
    Ok(clients)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let time = args.seconds.map_or_else(|| Duration::from_secs(args.minutes * 60), Duration::from_secs);
    let count = usize::from(args.daemons);
    let group: GroupName = "soak".parse()?;
    let mut cluster = match netns::unavailable() {
        None => Cluster::on_hosts(args.daemons)?,
        Some(reason) => {
            println!("all daemons on loopback: {reason}");
            Cluster::on_loopback(args.daemons)?
        }
    };
    cluster.start_all()?;
    let all: Vec<usize> = (0..count).collect();
    cluster.wait_ring(&all, LIMIT)?;
    let clients = connect_all(&cluster, group, count)?;
    let counts = || (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        got: (0..count).map(|_| counts()).collect(),
        sent: counts(),
    });
    let ring = cluster.status(0)?.ring.id;
    let (mut readers, mut senders) = (Vec::new(), Vec::new());
    for (me, client) in clients.into_iter().enumerate() {
        let (sender, receiver) = client.split();
        let (size, window) = (args.size as usize, args.window);
        let fail = |result: anyhow::Result<u64>, shared: &Shared| {
            shared.failed.fetch_or(result.is_err(), Ordering::AcqRel);
            result
        };
        let own = Arc::clone(&shared);
        readers.push(thread::spawn(move || fail(read(receiver, me, &own), &own)));
        let own = Arc::clone(&shared);
        senders.push(thread::spawn(move || {
            fail(send(sender, me, group, size, window, &own).map(|()| 0), &own).map(|_| ())
        }));
    }

    let begin = Instant::now();
    let mut base: Option<Vec<u64>> = None;
    let (mut most, mut second) = (0, 0);
    let mut problem = None;
    while begin.elapsed() < time && !shared.failed.load(Ordering::Acquire) && problem.is_none() {
        thread::sleep(Duration::from_secs(1).min(time.saturating_sub(begin.elapsed())));
        second += 1;
        let mut memory = Vec::new();
        for index in 0..count {
            let now = cluster.status(index)?;
            if now.ring.id != ring {
                let cause = now.changes.last().map(|change| change.cause.clone()).unwrap_or_default();
                problem = Some(format!("h{} has another ring after {second} s: {cause}", index + 1));
            }
            memory.push(resident(cluster.daemon(index)?.pid())?);
        }
        if begin.elapsed() >= time / 10 {
            let base = base.get_or_insert_with(|| memory.clone());
            let grown = memory.iter().zip(base.iter()).map(|(now, base)| now.saturating_sub(*base)).max();
            most = most.max(grown.unwrap_or(0));
        }
        if second % 60 == 0 {
            let sent: u64 = shared.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum();
            let memory: Vec<u64> = memory.iter().map(|bytes| bytes >> 20).collect();
            println!("{second} s: {sent} messages, resident memory {memory:?} MiB");
        }
    }
    let loaded = begin.elapsed();
    shared.stop.store(true, Ordering::Release);
    if problem.is_some() {
        shared.failed.store(true, Ordering::Release);
    }
    for sender in senders {
        match sender.join() {
            Ok(result) => result.context("a sender")?,
            Err(_) => bail!("a sender failed"),
        }
    }
    let mut orders = Vec::new();
    for reader in readers {
        match reader.join() {
            Ok(order) => orders.push(order.context("a reader")?),
            Err(_) => bail!("a reader failed"),
        }
    }
    if let Some(problem) = problem {
        bail!("a false membership change: {problem}");
    }
    ensure!(orders.iter().all(|order| *order == orders[0]), "the readers saw different orders");
    let sent: u64 = shared.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum();
    let status = cluster.status(0)?;
    let ring_counters = &status.counters["ring"];
    let per_second = sent as f64 / loaded.as_secs_f64();
    println!(
        "{count} daemons, {:.0} s of full load: {sent} messages of {} bytes, {per_second:.0} a second,",
        loaded.as_secs_f64(),
        args.size
    );
    println!("each received by {count} clients in one order; none lost, no membership change.");
    println!(
        "Retransmissions {} of {} packets; rotation median {:.2} ms, 99 % {:.2} ms, longest {:.1} ms; memory grew by at most {} MiB.",
        ring_counters["retransmissions_sent"],
        ring_counters["data_packets_sent"],
        status.ring.rotation.median_seconds * 1e3,
        status.ring.rotation.p99_seconds * 1e3,
        status.ring.rotation.max_seconds * 1e3,
        most >> 20
    );
    ensure!(most >> 20 <= args.growth, "a daemon grew by {} MiB, {} are allowed", most >> 20, args.growth);
    Ok(())
}
