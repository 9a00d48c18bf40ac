//! Hostile clients on a living daemon, and healthy ones beside them whose latency is measured.
//!
//! What is sent: recorded conversations with bits flipped, bytes added, removed and moved; handshakes and frames with
//! fields out of the ordinary; plain noise; cut into random segments and ended in random ways. Then datagrams on the
//! ports of the ring: status requests and commands of the monitor, and packets of the ring itself, as they are and
//! changed, with right checksums.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use spread_wire::{Kind, ServiceType, build};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::watched::{self, Memory};
use crate::wire_client::{self, WireClient};

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How long the client port is under fire.
    pub clients: Duration,
    /// How long the ports of the ring are.
    pub datagrams: Duration,
    /// Hostile connections at once.
    pub hostile: usize,
    /// For what is random.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Hostile connections.
    pub connections: u64,
    /// Bytes they sent.
    pub bytes: u64,
    /// Of these connections, those that became sessions.
    pub sessions: u64,
    /// Datagrams sent to the ports of the ring.
    pub datagrams: u64,
    /// Messages that healthy clients sent and got.
    pub healthy: u64,
    /// Longest time from sending to getting, while nobody was hostile, while the client port was under fire, while the
    /// ports of the ring were.
    pub worst: [Duration; 3],
    /// The time that only one in a thousand messages took longer than, in the same order.
    pub usual: [Duration; 3],
    /// Memory of the daemon.
    pub memory: Memory,
    /// Times the ring formed anew under forged datagrams.
    pub reformed: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, bytes, sessions, datagrams, healthy, .. } = self;
        writeln!(
            f,
            "{connections} hostile connections with {bytes} bytes, {sessions} of them sessions; {datagrams} datagrams"
        )?;
        writeln!(f, "{healthy} messages of healthy clients:")?;
        for (phase, (worst, usual)) in ["undisturbed", "client port under fire", "ring ports under fire"]
            .iter()
            .zip(self.worst.iter().zip(&self.usual))
        {
            writeln!(f, "  {phase}: worst latency {worst:.1?}, 99.9 % within {usual:.1?}")?;
        }
        writeln!(f, "rings formed anew under forged datagrams (there are no keys): {}", self.reformed)?;
        let step = (self.memory.samples.len() / 30).max(1);
        let series: Vec<_> = self.memory.samples.iter().step_by(step).map(|kib| kib >> 10).collect();
        writeln!(
            f,
            "resident MiB over time {series:?}, second and last quarter {:?} KiB",
            self.memory.quarters()
        )
    }
}

/// Time without hostility at the start.
const QUIET: Duration = Duration::from_secs(2);

/// Time for whatever must happen.
const LIMIT: Duration = Duration::from_secs(60);

/// Pause between two messages of a healthy client.
const PULSE: Duration = Duration::from_millis(10);

struct Shared {
    seed: u64,
    target: SocketAddr,
    recorded: Vec<Vec<Vec<u8>>>,
    /// 0 undisturbed, 1 client port, 2 ring ports.
    phase: AtomicU64,
    over: AtomicBool,
    firing: AtomicBool,
    connections: AtomicU64,
    sessions: AtomicU64,
    bytes: AtomicU64,
    datagrams: AtomicU64,
    latencies: [Mutex<Vec<Duration>>; 3],
}

/// Runs it; `progress` gets a line now and then.
///
/// # Errors
/// If a daemon ends or its log tells of a fault, a healthy client is cut off or waits for more than a minute, a hostile
/// session is left over, or memory grows.
pub fn run(scenario: &Scenario, progress: impl Fn(String)) -> anyhow::Result<Report> {
    // The third daemon is never started: its address is that of the one who forges.
    let mut cluster = Cluster::on_loopback(3)?;
    cluster.start(0)?;
    cluster.start(1)?;
    for index in 0..2 {
        cluster.daemon(index)?.wait_printed("daemons=2", LIMIT)?;
    }
    let (addrs, port) = ([0, 1, 2].map(|index| cluster.addr(index)), cluster.port());
    let addr = |index: usize| SocketAddr::new(addrs[index], port);
    let shared = Arc::new(Shared {
        seed: scenario.seed,
        target: addr(0),
        recorded: recorded()?,
        phase: AtomicU64::new(0),
        over: AtomicBool::new(false),
        firing: AtomicBool::new(false),
        connections: AtomicU64::new(0),
        sessions: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        datagrams: AtomicU64::new(0),
        latencies: Default::default(),
    });
    let healthy_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let hostile_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let healthy: Vec<_> = (0..4)
        .map(|n| healthy_runtime.spawn(healthy(n, addr(n % 2), addr(0), Arc::clone(&shared))))
        .collect();
    std::thread::sleep(QUIET);
    let mut memory = Memory::default();
    shared.phase.store(1, Ordering::Relaxed);
    shared.firing.store(true, Ordering::Relaxed);
    let hostile: Vec<_> =
        (0..scenario.hostile).map(|n| hostile_runtime.spawn(hostile(n, Arc::clone(&shared)))).collect();
    let interval = (scenario.clients / 60).max(Duration::from_millis(100));
    let watch = |cluster: &mut Cluster, memory: &mut Memory, time: Duration| -> anyhow::Result<()> {
        let start = Instant::now();
        let mut shown = start;
        while start.elapsed() < time {
            std::thread::sleep(interval.min(time));
            for index in 0..2 {
                watched::check_alive(cluster.daemon(index)?)?;
            }
            memory.samples.push(watched::resident_kib(cluster.daemon(0)?)?);
            if let Some(ended) = healthy.iter().position(tokio::task::JoinHandle::is_finished) {
                bail!("healthy client {ended} has ended");
            }
            if shown.elapsed() > Duration::from_secs(30) {
                shown = Instant::now();
                progress(format!(
                    "{:>4} s: {} connections, {} datagrams",
                    start.elapsed().as_secs(),
                    shared.connections.load(Ordering::Relaxed),
                    shared.datagrams.load(Ordering::Relaxed),
                ));
            }
        }
        Ok(())
    };
    watch(&mut cluster, &mut memory, scenario.clients)?;
    shared.firing.store(false, Ordering::Relaxed);
    hostile_runtime.block_on(async {
        for task in hostile {
            timeout(LIMIT, task).await.context("a hostile client hangs")???;
        }
        anyhow::Ok(())
    })?;
    // The healthy are left.
    let deadline = Instant::now() + LIMIT;
    loop {
        let counters = watched::session_counters(cluster.daemon(0)?, LIMIT)?;
        if counters.get("live") == Some(&2) {
            break;
        }
        ensure!(Instant::now() < deadline, "hostile sessions are left: {counters:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    shared.phase.store(2, Ordering::Relaxed);
    let rings = |cluster: &mut Cluster| -> anyhow::Result<usize> {
        let printed = cluster.daemon(0)?.printed();
        Ok(printed.lines().filter(|line| line.contains("New membership of the ring")).count())
    };
    let before = rings(&mut cluster)?;
    let forger = hostile_runtime.spawn(forge(addrs[2], [addr(0), addr(1)], Arc::clone(&shared)));
    shared.firing.store(true, Ordering::Relaxed);
    let mut late = Memory::default();
    watch(&mut cluster, &mut late, scenario.datagrams)?;
    shared.firing.store(false, Ordering::Relaxed);
    hostile_runtime.block_on(async { timeout(LIMIT, forger).await.context("the forger hangs")?? })?;
    // Whatever the forged packets did to the ring, it comes back.
    shared.over.store(true, Ordering::Relaxed);
    let results = healthy_runtime.block_on(async {
        let mut count = 0;
        for task in healthy {
            count += timeout(2 * LIMIT, task).await.context("a healthy client hangs")???;
        }
        anyhow::Ok(count)
    })?;
    let reformed = rings(&mut cluster)? - before;
    for index in 0..2 {
        watched::check_alive(cluster.daemon(index)?)?;
    }
    let mut report = Report {
        connections: shared.connections.load(Ordering::Relaxed),
        bytes: shared.bytes.load(Ordering::Relaxed),
        sessions: shared.sessions.load(Ordering::Relaxed),
        datagrams: shared.datagrams.load(Ordering::Relaxed),
        healthy: results,
        memory,
        reformed,
        ..Report::default()
    };
    for (phase, latencies) in shared.latencies.iter().enumerate() {
        let mut all = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_unstable();
        report.worst[phase] = all.last().copied().unwrap_or_default();
        report.usual[phase] = all.get(all.len() * 999 / 1000).copied().unwrap_or_default();
    }
    ensure!(report.memory.is_flat(), "the memory of the daemon grows:\n{report}");
    Ok(report)
}

/// The bytes that clients sent in the recorded conversations, by connection and message.
fn recorded() -> anyhow::Result<Vec<Vec<Vec<u8>>>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/cases/transcripts");
    let mut files: Vec<_> = fs::read_dir(&dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "jsonl")) {
        let mut connections: std::collections::BTreeMap<String, Vec<Vec<u8>>> = Default::default();
        for line in fs::read_to_string(file)?.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            if line["dir"] == "c2d" {
                let conn = line["conn"].as_str().unwrap_or_default().to_owned();
                let hex = line["hex"].as_str().unwrap_or_default().as_bytes();
                let digit = |byte: u8| {
                    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0)
                };
                let bytes = hex.as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect();
                connections.entry(conn).or_default().push(bytes);
            }
        }
        all.extend(connections.into_values());
    }
    ensure!(all.len() > 20, "only {} recorded conversations in {}", all.len(), dir.display());
    Ok(all)
}

/// Sends a message to itself every now and then, over the ring, and waits for it. Returns how many. Half of the
/// healthy clients also open new sessions.
async fn healthy(
    number: usize,
    addr: SocketAddr,
    other: SocketAddr,
    shared: Arc<Shared>,
) -> anyhow::Result<u64> {
    let name = format!("well{number}");
    let mut client = match WireClient::connect(addr, Some(&name), true, false).await? {
        Ok(client) => client,
        Err(code) => bail!("a healthy client is refused: {code}"),
    };
    let group = wire_client::group("healthy");
    client.join(&group).await?;
    let mut count = 0u64;
    while !shared.over.load(Ordering::Relaxed) {
        let mut data = [0; 16];
        data[..8].copy_from_slice(&(number as u64).to_le_bytes());
        data[8..].copy_from_slice(&count.to_le_bytes());
        let message = client.message(ServiceType::AGREED, &[group], &data);
        let start = Instant::now();
        let phase = shared.phase.load(Ordering::Relaxed);
        client.send(&message).await?;
        let coming = async {
            loop {
                let frame = client.frame().await?.context("a healthy client was cut off")?;
                if frame.kind() == Kind::Data && frame.data_bytes() == data {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(2 * LIMIT, coming).await.with_context(|| format!("a message of {name} does not come"))??;
        if count.is_multiple_of(20) && number < 2 {
            // New clients are served, too.
            let visitor = WireClient::connect(other, None, false, false).await?;
            visitor.map_err(|code| anyhow::anyhow!("a healthy client is refused: {code}"))?.kill().await?;
        } else if let Some(latencies) = shared.latencies.get(usize::try_from(phase)?) {
            latencies.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed());
        }
        count += 1;
        sleep(PULSE).await;
    }
    Ok(count)
}

/// One hostile connection after the other. The bytes of each depend on the seed alone.
async fn hostile(number: usize, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut round = 0u64;
    while shared.firing.load(Ordering::Relaxed) {
        let mut random = StdRng::seed_from_u64(shared.seed ^ (number as u64) << 40 ^ round);
        round += 1;
        let Ok(stream) = TcpStream::connect(shared.target).await else {
            // The daemon's queue of connections is full: that is what a flood does.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        // Errors are the daemon's answer.
        let _ = timeout(Duration::from_secs(5), attack(stream, number, &mut random, &shared)).await;
    }
    Ok(())
}

async fn attack(
    mut stream: TcpStream,
    number: usize,
    random: &mut StdRng,
    shared: &Shared,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    match random.random_range(0..10) {
        0..4 => {
            let conversation = &shared.recorded[random.random_range(0..shared.recorded.len())];
            for message in conversation {
                bytes.extend_from_slice(message);
            }
            mutate(&mut bytes, random);
        }
        4 => {
            bytes = noise(random, 3000);
        }
        5 => {
            // A hello and a choice with odd fields.
            bytes.extend_from_slice(&[
                *pick(random, &[5, 3, 4, 127, 128, 0]),
                *pick(random, &[0, 14, 15, 16, 127, 255]),
                random.random(),
            ]);
            bytes.push(random.random());
            let len = random.random_range(0..13u8);
            bytes.push(len);
            bytes.extend((0..len).map(|_| random.random_range(0x20..0x80u8)));
            let mut choice = wire_client::choice().to_vec();
            mutate(&mut choice, random);
            bytes.extend_from_slice(&choice);
        }
        _ => {
            // A session, and in it frames of its own that are not quite right.
            let name = format!("evil{number}");
            let Ok(mut client) =
                WireClient::shake_hands(stream, Some(&name), random.random(), random.random_bool(0.05))
                    .await?
            else {
                return Ok(());
            };
            shared.sessions.fetch_add(1, Ordering::Relaxed);
            for _ in 0..random.random_range(1..30) {
                let frame = odd_frame(&client, random);
                shared.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                for part in frame.chunks(random.random_range(1..=frame.len().max(2))) {
                    client.send(part).await?;
                }
            }
            stream = client.stream;
        }
    }
    shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    for part in bytes.chunks(random.random_range(1..=bytes.len().max(2))) {
        stream.write_all(part).await?;
        if random.random_bool(0.1) {
            tokio::task::yield_now().await;
        }
    }
    match random.random_range(0..4) {
        0 => {}
        1 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        2 => stream.shutdown().await?,
        _ => {
            let mut scrap = vec![0; 4096];
            let reading = async { while stream.read(&mut scrap).await.is_ok_and(|n| n > 0) {} };
            let _ = timeout(Duration::from_millis(random.random_range(1..300)), reading).await;
        }
    }
    Ok(())
}

fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}

fn noise(random: &mut StdRng, max: usize) -> Vec<u8> {
    let len = random.random_range(0..max);
    (0..len).map(|_| random.random()).collect()
}

/// Flips, adds, removes, repeats and moves.
fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        let len = random.random_range(1..=(bytes.len() - at).min(64));
        match random.random_range(0..7) {
            0 | 1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes[at] = *pick(random, &[0, 1, 0x7f, 0x80, 0xff]),
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let part = bytes[at..at + len].to_vec();
                bytes.splice(at..at, part);
            }
            5 => drop(bytes.splice(at..at, noise(random, 64))),
            _ => bytes.truncate(at),
        }
    }
}

/// A frame of this session, right or with fields that are not.
fn odd_frame(client: &WireClient, random: &mut StdRng) -> BytesMut {
    const WORDS: [u32; 14] = [
        0,
        1,
        2,
        43,
        44,
        100,
        101,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        143_120,
        143_152,
        143_952,
        144_001,
    ];
    let group = wire_client::group(&format!("g{}", random.random_range(0..50)));
    let healthy = wire_client::group("healthy");
    let mut out = BytesMut::new();
    match random.random_range(0..8) {
        0 => out.put_slice(&build::join(&client.me, &group)),
        1 => out.put_slice(&build::leave(&client.me, &group)),
        2 => out.put_slice(&build::kill(&client.me)),
        3 => {
            // Into the group of the healthy: it is their affair to ignore it.
            let len = random.random_range(0..2000);
            out = client.message(ServiceType::SAFE, &[healthy, group], &vec![0; len]);
        }
        4 => {
            let groups = vec![group; random.random_range(0..=100)];
            out = client.message(ServiceType::AGREED, &groups, &noise(random, 100));
        }
        5 => {
            let len = *pick(random, &[0, 1, 143_120, 143_119]);
            out = client.message(ServiceType::FIFO, &[group], &vec![1; len]);
        }
        _ => {
            out = client.message(ServiceType::RELIABLE, &[group], &noise(random, 200));
            let at = *pick(random, &[0, 36, 40, 44]);
            let word = if random.random() { *pick(random, &WORDS) } else { 1 << random.random_range(0..32) };
            out[at..at + 4].copy_from_slice(&if random.random() {
                word.to_le_bytes()
            } else {
                word.to_be_bytes()
            });
        }
    }
    if random.random_bool(0.1) {
        let mut bytes = out.to_vec();
        mutate(&mut bytes, random);
        out = BytesMut::from(&bytes[..]);
    }
    out
}

/// Bytes of the header and of the checksum of a packet of the ring.
const PACKET_MIN: usize = 32;

/// Datagrams to the data and token ports of the daemons, from the address of a configured one.
async fn forge(own: IpAddr, targets: [SocketAddr; 2], shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(shared.seed.rotate_left(17));
    let port = targets[0].port();
    // What the daemons send to the one that is not there is the best model.
    let data = UdpSocket::bind((own, port)).await?;
    let token = UdpSocket::bind((own, port + 1)).await?;
    let foreign = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut models: Vec<Vec<u8>> = Vec::new();
    let mut buf = vec![0; 65_536];
    while shared.firing.load(Ordering::Relaxed) || models.is_empty() && !shared.over.load(Ordering::Relaxed) {
        for socket in [&data, &token] {
            while let Ok(n) = socket.try_recv(&mut buf) {
                if models.len() < 64 {
                    models.push(buf[..n].to_vec());
                } else {
                    models[random.random_range(0..64)] = buf[..n].to_vec();
                }
            }
        }
        let datagram = match random.random_range(0..10) {
            0 => noise(&mut random, 1500),
            1 | 2 => monitor(&mut random),
            _ if models.is_empty() => noise(&mut random, 100),
            3 => pick(&mut random, &models).clone(),
            _ => {
                let mut packet = pick(&mut random, &models).clone();
                let content = packet.len().saturating_sub(4);
                packet.truncate(content);
                if random.random() {
                    mutate(&mut packet, &mut random);
                } else if packet.len() > PACKET_MIN {
                    let at = random.random_range(3..packet.len());
                    packet[at] = random.random();
                }
                let checksum = crc32fast::hash(&packet).to_le_bytes();
                packet.extend_from_slice(&checksum);
                packet
            }
        };
        let mut to = *pick(&mut random, &targets);
        to.set_port(port + u16::from(random.random_bool(0.3)));
        let from = if random.random_bool(0.2) { &foreign } else { &data };
        if from.send_to(&datagram, to).await.is_ok() {
            shared.datagrams.fetch_add(1, Ordering::Relaxed);
        }
        // A few thousand a second: it is not the network that is to be tested.
        if shared.datagrams.load(Ordering::Relaxed).is_multiple_of(8) {
            sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// Something like a packet of the monitor: the header of a status request or command, changed.
fn monitor(random: &mut StdRng) -> Vec<u8> {
    let mut out = vec![0; random.random_range(4..600)];
    let kinds = [
        [0x80, 0, 0, 0x84],
        [0x80, 0, 0x10, 0x84],
        [0x80, 0, 0x20, 0x80],
        [0x84, 0, 0, 0x80],
        [0x81, 0, 0, 0x80],
    ];
    let kind: &[u8; 4] = pick(random, &kinds);
    out[..4].copy_from_slice(kind);
    for _ in 0..random.random_range(0..20) {
        let at = random.random_range(0..out.len());
        out[at] = random.random();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_conversations_are_there_and_changes_depend_on_the_seed() {
        let all = recorded().unwrap();
        let of = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = all[3].concat();
            mutate(&mut bytes, &mut random);
            bytes
        };
        assert_eq!(of(1), of(1));
        assert!((2..20).any(|seed| of(seed) != of(1)));
    }
}
