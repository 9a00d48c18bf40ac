//! Clients that come, talk and die at random on three daemons, and the account at the end.
//!
//! While it lasts every client checks what it gets: all messages of each sender to each of its groups, in order,
//! without a hole. At the end a known set of clients joins known groups, and every one must see exactly that
//! membership. Then all go, and the counters of the daemons must be those of the clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use spread_wire::handshake::RejectCode;
use spread_wire::{Frame, GroupName, Kind, ServiceType, build};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep, timeout};

use crate::cluster::Cluster;
use crate::watched::{self, Memory};
use crate::wire_client::{self, WireClient};

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Clients at once.
    pub clients: usize,
    /// How long they come and go.
    pub time: Duration,
    /// Groups they share.
    pub groups: usize,
    /// Longest life of a session.
    pub life: Duration,
    /// Longest pause between two messages of a session.
    pub pause: Duration,
    /// For what is random.
    pub seed: u64,
}

/// `MaxSessionMessages` of the daemons.
const SESSION_MESSAGES: usize = 500;

/// Time for whatever must become true.
const LIMIT: Duration = Duration::from_secs(120);

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the clients did and saw.
        #[derive(Debug, Default)]
        pub struct Tally {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, "{}={} ", stringify!($name), self.$name.load(Ordering::Relaxed))?;)*
                Ok(())
            }
        }
    };
}

tally! {
    /// Connections that were made.
    connects,
    /// Sessions that were accepted.
    sessions,
    /// Refused because the name was still taken.
    name_taken,
    /// Connections whose hello came too late, because this machine is busy: the daemon waits a second.
    late,
    /// Connections left before the handshake was over.
    half_open,
    /// Sessions ended by a request.
    kills,
    /// Sessions ended by a close, a reset, or within a message.
    closes,
    /// Sessions ended by an illegal message.
    illegal,
    /// Sessions of clients that did not read.
    slow,
    /// Messages sent.
    sent,
    /// Messages received, all checked.
    received,
    /// Membership messages received.
    views,
    /// Of these, those by the network.
    network_views,
    /// Places where messages of a sender were missing.
    holes,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    scenario: Scenario,
    addrs: Vec<SocketAddr>,
    groups: Vec<GroupName>,
    tally: Tally,
    over: AtomicBool,
    incarnations: AtomicU64,
    /// The first thing that went wrong.
    failed: Mutex<Option<anyhow::Error>>,
}

impl Shared {
    fn fail(&self, error: anyhow::Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The account.
#[derive(Debug)]
pub struct Report {
    /// What the clients did.
    pub tally: Tally,
    /// Memory of each daemon.
    pub memory: Vec<Memory>,
    /// Counters of each daemon after all clients have gone.
    pub counters: Vec<BTreeMap<String, u64>>,
    /// How often rings were formed after the first.
    pub reformed: usize,
    /// What does not fit; empty: all is well.
    pub faults: Vec<String>,
}

/// Runs it; `progress` gets a line now and then.
///
/// # Errors
/// If daemons cannot be started, or a client saw what must not be.
pub fn run(scenario: &Scenario, progress: impl Fn(String)) -> anyhow::Result<Report> {
    let mut cluster = Cluster::on_loopback(3)?;
    let conf = std::fs::read_to_string(cluster.conf())?;
    std::fs::write(cluster.conf(), format!("MaxSessionMessages = {SESSION_MESSAGES}\n{conf}"))?;
    cluster.start_all()?;
    for index in 0..cluster.len() {
        cluster.daemon(index)?.wait_printed("daemons=3", LIMIT)?;
    }
    let shared = Arc::new(Shared {
        scenario: scenario.clone(),
        addrs: (0..cluster.len()).map(|index| SocketAddr::new(cluster.addr(index), cluster.port())).collect(),
        groups: (0..scenario.groups).map(|i| wire_client::group(&format!("g{i}"))).collect(),
        tally: Tally::default(),
        over: AtomicBool::new(false),
        incarnations: AtomicU64::new(1),
        failed: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // What waits for a client that does not read is the most that a daemon holds: its memory is judged from there on.
    runtime.block_on(async {
        for (index, addr) in shared.addrs.iter().enumerate() {
            slow_session(*addr, scenario.clients + index, &shared).await?;
        }
        anyhow::Ok(())
    })?;
    let slots: Vec<_> =
        (0..scenario.clients).map(|slot| runtime.spawn(slot_loop(slot, Arc::clone(&shared)))).collect();
    let mut memory = vec![Memory::default(); cluster.len()];
    let start = Instant::now();
    let interval = (scenario.time / 180).max(Duration::from_millis(250));
    let mut shown = Instant::now();
    while start.elapsed() < scenario.time && !shared.over.load(Ordering::Relaxed) {
        std::thread::sleep(interval);
        for (index, memory) in memory.iter_mut().enumerate() {
            let daemon = cluster.daemon(index)?;
            watched::check_alive(daemon)?;
            memory.samples.push(watched::resident_kib(daemon)?);
        }
        if shown.elapsed() > Duration::from_secs(30) {
            shown = Instant::now();
            let now: Vec<_> = memory.iter().filter_map(|m| m.samples.last()).collect();
            progress(format!("{:>5} s, resident KiB {now:?}, {}", start.elapsed().as_secs(), shared.tally));
        }
    }
    shared.over.store(true, Ordering::Relaxed);
    let finals = runtime.block_on(async {
        for slot in slots {
            timeout(LIMIT, slot).await.context("a client does not come to its end")??;
        }
        match shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }?;
        final_sessions(&shared).await
    });
    let wrong = match finals {
        Ok(wrong) => wrong,
        Err(error) => {
            for index in 0..cluster.len() {
                let printed = cluster.daemon(index)?.printed();
                let tail: Vec<_> = printed.lines().rev().take(20).collect();
                progress(format!(
                    "h{}: {}",
                    index + 1,
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            return Err(error);
        }
    };
    runtime.shutdown_background();
    let mut counters = Vec::new();
    let mut formed = 0;
    for index in 0..cluster.len() {
        let daemon = cluster.daemon(index)?;
        let deadline = Instant::now() + LIMIT;
        let last = loop {
            let counters = watched::session_counters(daemon, LIMIT)?;
            if counters.get("live") == Some(&0) || Instant::now() > deadline {
                break counters;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        counters.push(last);
        let rings =
            daemon.printed().lines().filter(|line| line.contains("New membership of the ring")).count();
        let first = daemon
            .printed()
            .lines()
            .take_while(|line| !line.contains("daemons=3"))
            .filter(|line| line.contains("New membership of the ring"))
            .count()
            + 1;
        formed += rings.saturating_sub(first);
    }
    let shared = Arc::into_inner(shared).context("a client is still there")?;
    let mut report = Report { tally: shared.tally, memory, counters, reformed: formed, faults: wrong };
    report.judge();
    Ok(report)
}

impl Report {
    fn judge(&mut self) {
        let ours = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum =
            |name: &str| -> u64 { self.counters.iter().filter_map(|counters| counters.get(name)).sum() };
        let refused = ["quota", "name", "not_unique", "version", "auth"]
            .iter()
            .map(|why| sum(&format!("refused_{why}_total")))
            .sum::<u64>();
        let t = &self.tally;
        let ended = sum("ended_by_request_total")
            + sum("ended_by_close_total")
            + sum("dropped_illegal_total")
            + sum("dropped_slow_total");
        let broken = sum("handshakes_broken_total");
        let mut faults = Vec::new();
        for (what, daemons, clients) in [
            ("sessions that are left", sum("live"), 0),
            ("connections", sum("connections_total"), ours(&t.connects)),
            (
                "connections by what became of them",
                sum("sessions_total") + refused + broken,
                ours(&t.connects),
            ),
            ("sessions", sum("sessions_total"), ours(&t.sessions)),
            ("sessions by their ends", ended, ours(&t.sessions)),
            ("names taken", sum("refused_not_unique_total"), ours(&t.name_taken)),
            ("ended by request", sum("ended_by_request_total"), ours(&t.kills)),
            ("ended by close", sum("ended_by_close_total"), ours(&t.closes)),
            ("dropped: illegal", sum("dropped_illegal_total"), ours(&t.illegal)),
            ("dropped: slow", sum("dropped_slow_total"), ours(&t.slow)),
        ] {
            if daemons != clients {
                faults.push(format!("{what}: {daemons} in the daemons, {clients} of the clients"));
            }
        }
        for (index, memory) in self.memory.iter().enumerate() {
            if !memory.is_flat() {
                faults.push(format!("the memory of h{} grows: {:?} KiB", index + 1, memory.quarters()));
            }
        }
        if self.reformed == 0 && ours(&t.holes) > 0 {
            faults.push(format!(
                "{} holes in streams of messages without a change of the ring",
                ours(&t.holes)
            ));
        }
        self.faults.append(&mut faults);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clients: {}", self.tally)?;
        for (index, (counters, memory)) in self.counters.iter().zip(&self.memory).enumerate() {
            let counters: Vec<_> = counters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(f, "h{}: {}", index + 1, counters.join(" "))?;
            let step = (memory.samples.len() / 30).max(1);
            let series: Vec<_> = memory.samples.iter().step_by(step).map(|kib| kib >> 10).collect();
            writeln!(
                f,
                "h{}: resident MiB over time {series:?}, second and last quarter {:?} KiB",
                index + 1,
                memory.quarters()
            )?;
        }
        writeln!(f, "rings formed after the first: {}", self.reformed)?;
        for fault in &self.faults {
            writeln!(f, "FAULT: {fault}")?;
        }
        Ok(())
    }
}

async fn slot_loop(slot: usize, shared: Arc<Shared>) {
    let mut random = StdRng::seed_from_u64(shared.scenario.seed ^ (slot as u64) << 32);
    let name = format!("c{slot}");
    while !shared.over.load(Ordering::Relaxed) {
        let addr = shared.addrs[random.random_range(0..shared.addrs.len())];
        let result = match random.random_range(0..100) {
            0..6 => half_open(addr, &mut random, &shared).await,
            // Rarely: it moves megabytes.
            6 if slot.is_multiple_of(10) => slow_session(addr, slot, &shared).await,
            _ => session(addr, &name, &mut random, &shared).await,
        };
        if let Err(error) = result {
            return shared.fail(error.context(format!("client {slot} at {addr}")));
        }
    }
}

/// A connection that never becomes a session.
async fn half_open(addr: SocketAddr, random: &mut StdRng, shared: &Shared) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    add(&shared.tally.connects);
    add(&shared.tally.half_open);
    let hello = wire_client::hello(None, true);
    match random.random_range(0..4) {
        0 => {}
        1 => stream.write_all(&hello[..random.random_range(1..5)]).await?,
        2 => stream.write_all(&hello).await?,
        // Silent until the daemon has enough of it.
        _ => {
            let mut byte = [0];
            timeout(LIMIT, stream.read(&mut byte)).await.context("a silent connection is not closed")??;
        }
    }
    Ok(())
}

async fn connect(
    addr: SocketAddr,
    name: Option<&str>,
    membership: bool,
    pieces: bool,
    shared: &Shared,
) -> anyhow::Result<WireClient> {
    let deadline = Instant::now() + LIMIT;
    loop {
        add(&shared.tally.connects);
        let start = Instant::now();
        let result = WireClient::connect(addr, name, membership, pieces).await;
        if is_late(start, &result) {
            add(&shared.tally.late);
            ensure!(
                start < deadline,
                "this machine is too busy: for {LIMIT:?} each hello of {name:?} came too late"
            );
            continue;
        }
        match result? {
            Ok(client) => {
                add(&shared.tally.sessions);
                return Ok(client);
            }
            // The end of the last session is not delivered yet.
            Err(RejectCode::NOT_UNIQUE) if Instant::now() < deadline => {
                add(&shared.tally.name_taken);
                sleep(Duration::from_millis(20)).await;
            }
            Err(code) => bail!("{name:?} is refused: {code}"),
        }
    }
}

/// Whether the daemon ended the handshake because we took too long. It gives a second for the hello and ten for what
/// follows; the rest is for what cannot be measured here.
fn is_late(start: Instant, result: &anyhow::Result<Result<WireClient, RejectCode>>) -> bool {
    let limit = match result {
        Err(_) | Ok(Err(RejectCode::ILLEGAL_NAME)) => Duration::from_millis(900),
        Ok(Err(RejectCode::AUTH)) => Duration::from_millis(9900),
        Ok(_) => return false,
    };
    start.elapsed() > limit
}

/// A session that joins, talks, listens and dies.
async fn session(addr: SocketAddr, name: &str, random: &mut StdRng, shared: &Shared) -> anyhow::Result<()> {
    let membership = random.random_bool(0.7);
    let pieces = random.random_bool(0.02);
    let mut client = connect(addr, Some(name), membership, pieces, shared).await?;
    let mut own = Talker::new(client.me, membership, shared);
    for _ in 0..random.random_range(1..=3) {
        let group = random.random_range(0..shared.groups.len());
        client.join(&shared.groups[group]).await?;
        own.joined.insert(group);
    }
    let life = TokioInstant::now() + shared.scenario.life.mul_f64(random.random_range(0.05..1.0));
    let pause = |random: &mut StdRng| shared.scenario.pause.mul_f64(random.random_range(0.0..1.0));
    let mut next = TokioInstant::now() + pause(random);
    loop {
        tokio::select! {
            frame = client.frame() => match frame? {
                Some(frame) => own.check(&frame)?,
                None => bail!("{} was closed by the daemon", client.me),
            },
            () = tokio::time::sleep_until(next.min(life)) => {
                if TokioInstant::now() >= life || shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let message = own.message(&client, random);
                client.send(&message).await?;
                if random.random_bool(0.02) {
                    let group = random.random_range(0..shared.groups.len());
                    if own.left.contains(&group) {
                        // Where it joins again the streams begin anew, and nothing could be said of them.
                    } else if own.joined.insert(group) {
                        client.join(&shared.groups[group]).await?;
                    } else if own.joined.len() > 1 {
                        own.leave(group);
                        let leave = build::leave(&client.me, &shared.groups[group]);
                        client.send(&leave).await?;
                    }
                }
                next = TokioInstant::now() + pause(random);
            }
        }
    }
    die(client, own, random, shared).await
}

async fn die(
    mut client: WireClient,
    mut own: Talker<'_>,
    random: &mut StdRng,
    shared: &Shared,
) -> anyhow::Result<()> {
    let tally = &shared.tally;
    match random.random_range(0..100) {
        0..40 => {
            add(&tally.kills);
            client.kill().await?;
        }
        40..65 => {
            add(&tally.closes);
        }
        65..80 => {
            add(&tally.closes);
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO))?;
        }
        80..95 => {
            add(&tally.closes);
            let message = own.message(&client, random);
            // It was never sent as a whole, so nobody gets it.
            own.sent_back(&message);
            client.send(&message[..random.random_range(1..message.len())]).await?;
        }
        _ => {
            add(&tally.illegal);
            let mut message = client.message(ServiceType::AGREED, &[], b"illegal");
            message[0] |= 0x20;
            client.send(&message).await?;
            let to_end = async {
                let mut scrap = vec![0; 64 << 10];
                while client.stream.read(&mut scrap).await.is_ok_and(|n| n > 0) {}
            };
            timeout(LIMIT, to_end).await.context("a session is not closed after an illegal message")?;
        }
    }
    Ok(())
}

/// A client that does not read while another one sends to it.
async fn slow_session(addr: SocketAddr, slot: usize, shared: &Shared) -> anyhow::Result<()> {
    let start = Instant::now();
    let stream = {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(16 << 10)?;
        socket.connect(addr).await?
    };
    add(&shared.tally.connects);
    let name = format!("slow{slot}");
    let slow = WireClient::shake_hands(stream, Some(&name), true, false).await;
    if is_late(start, &slow) {
        add(&shared.tally.late);
        return Ok(());
    }
    let slow = slow?;
    // The name is that of this slot alone, and its last session was seen to end.
    let mut slow = slow.map_err(|code| anyhow::anyhow!("{name} is refused: {code}"))?;
    add(&shared.tally.sessions);
    let mut sender = connect(addr, Some(&format!("s{slot}")), false, false, shared).await?;
    let message = sender.message(ServiceType::FIFO, &[slow.me], &[7; 10_000]);
    for _ in 0..3 * SESSION_MESSAGES {
        sender.send(&message).await?;
    }
    let last = sender.message(ServiceType::FIFO, &[sender.me], b"last");
    sender.send(&last).await?;
    timeout(LIMIT, sender.frame()).await.context("a message to oneself does not come")??;
    add(&shared.tally.kills);
    sender.kill().await?;
    // All of it waits now. It was cut off or will be: only a reader would be kept.
    sleep(Duration::from_secs(1)).await;
    let mut got = 0;
    let to_end = async {
        while let Ok(Some(_)) = slow.frame().await {
            got += 1;
        }
    };
    timeout(LIMIT, to_end).await.context("a client that does not read is not cut off")?;
    ensure!(got < 3 * SESSION_MESSAGES, "a client that does not read has got everything");
    add(&shared.tally.slow);
    Ok(())
}

/// What one session sends and expects.
struct Talker<'a> {
    shared: &'a Shared,
    me: GroupName,
    membership: bool,
    incarnation: u64,
    joined: BTreeSet<usize>,
    left: BTreeSet<usize>,
    /// Number of the next message to each group.
    next: HashMap<usize, u32>,
    /// Number of the next message of each sender to each group.
    expected: HashMap<(GroupName, u64), u32>,
}

impl<'a> Talker<'a> {
    fn new(me: GroupName, membership: bool, shared: &'a Shared) -> Self {
        let incarnation = shared.incarnations.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            me,
            membership,
            incarnation,
            joined: BTreeSet::new(),
            left: BTreeSet::new(),
            next: HashMap::new(),
            expected: HashMap::new(),
        }
    }

    fn leave(&mut self, group: usize) {
        self.joined.remove(&group);
        self.left.insert(group);
        let name = self.shared.groups[group];
        self.expected.retain(|(g, _), _| *g != name);
    }

    fn message(&mut self, client: &WireClient, random: &mut StdRng) -> bytes::BytesMut {
        let group = random.random_range(0..self.shared.groups.len());
        let number = self.next.entry(group).or_default();
        let mut data = vec![7; 12 + random.random_range(0..1500)];
        data[..8].copy_from_slice(&self.incarnation.to_le_bytes());
        data[8..12].copy_from_slice(&number.to_le_bytes());
        *number += 1;
        add(&self.shared.tally.sent);
        let service = [ServiceType::FIFO, ServiceType::CAUSAL, ServiceType::AGREED, ServiceType::SAFE]
            [random.random_range(0..4)];
        client.message(service, &[self.shared.groups[group]], &data)
    }

    fn sent_back(&mut self, _message: &[u8]) {
        self.shared.tally.sent.fetch_sub(1, Ordering::Relaxed);
    }

    fn check(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let tally = &self.shared.tally;
        match frame.kind() {
            Kind::Data => {
                add(&tally.received);
                let group = frame.first_group().context("data without a group")?;
                let data = frame.data_bytes();
                let (Some(incarnation), Some(number)) = (data.first_chunk(), data.get(8..12)) else {
                    bail!("data of {} bytes", data.len());
                };
                let key = (group, u64::from_le_bytes(*incarnation));
                let number = u32::from_le_bytes(number.try_into()?);
                match self.expected.insert(key, number + 1) {
                    Some(expected) if number > expected => add(&tally.holes),
                    Some(expected) => {
                        ensure!(
                            number == expected,
                            "{}: message {number} of {} to {group} comes instead of {expected}",
                            self.me,
                            frame.header.sender
                        );
                    }
                    None => {}
                }
            }
            Kind::Membership => {
                add(&tally.views);
                ensure!(self.membership, "a membership message that was not asked for");
                if frame.header.service.contains(ServiceType::CAUSED_BY_NETWORK) {
                    add(&tally.network_views);
                    let group = frame.header.sender;
                    self.expected.retain(|(g, _), _| *g != group);
                }
                ensure!(
                    frame.group_names().any(|name| name == self.me),
                    "{} gets a view of {} without itself",
                    self.me,
                    frame.header.sender
                );
            }
            Kind::Transition | Kind::SelfLeave => ensure!(self.membership, "not asked for: {frame:?}"),
            _ => bail!("{frame:?}"),
        }
        Ok(())
    }
}

/// Known clients in known groups: all must see the same, and that it is right. Returns what is not.
async fn final_sessions(shared: &Arc<Shared>) -> anyhow::Result<Vec<String>> {
    let count = shared.scenario.clients;
    let groups = shared.groups.len();
    let places = move |slot: usize| BTreeSet::from([slot % groups, (slot * 7 + 3) % groups]);
    let mut expected: BTreeMap<usize, Vec<(usize, GroupName)>> = BTreeMap::new();
    let mut clients = Vec::new();
    for slot in 0..count {
        let daemon = slot % shared.addrs.len();
        let client = connect(shared.addrs[daemon], Some(&format!("f{slot}")), true, false, shared).await?;
        for group in places(slot) {
            expected.entry(group).or_default().push((daemon, client.me));
        }
        clients.push(client);
    }
    for members in expected.values_mut() {
        // spec: client-protocol 5.2: by daemon, then by the bytes of the name.
        members.sort_by(|a, b| (a.0, a.1.as_bytes()).cmp(&(b.0, b.1.as_bytes())));
    }
    let expected: Arc<HashMap<GroupName, Vec<GroupName>>> = Arc::new(
        expected
            .into_iter()
            .map(|(g, m)| (shared.groups[g], m.into_iter().map(|(_, name)| name).collect()))
            .collect(),
    );
    let mut tasks = JoinSet::new();
    for (slot, mut client) in clients.into_iter().enumerate() {
        let (shared, expected) = (Arc::clone(shared), Arc::clone(&expected));
        tasks.spawn(async move {
            let mut waits: BTreeSet<GroupName> = places(slot).into_iter().map(|g| shared.groups[g]).collect();
            for group in &waits {
                client.join(group).await?;
            }
            let all = waits.clone();
            let mut seen: HashMap<GroupName, Vec<GroupName>> = HashMap::new();
            let reading = async {
                while !waits.is_empty() {
                    let frame = client.frame().await?.context("the session ended")?;
                    if frame.kind() == Kind::Membership {
                        let group = frame.header.sender;
                        let members: Vec<_> = frame.group_names().collect();
                        if expected.get(&group) == Some(&members) {
                            waits.remove(&group);
                        } else if all.contains(&group) {
                            // A right view must stay right.
                            waits.insert(group);
                        }
                        seen.insert(group, members);
                    }
                }
                anyhow::Ok(())
            };
            let result = timeout(LIMIT, reading).await;
            let wrong: Vec<_> = waits
                .iter()
                .map(|group| {
                    let (have, want) =
                        (seen.get(group).map_or(0, Vec::len), expected.get(group).map_or(0, Vec::len));
                    format!("f{slot} sees {have} members of {group}, {want} are right")
                })
                .collect();
            if let Ok(result) = result {
                result?;
            }
            anyhow::Ok((client, wrong))
        });
    }
    let mut wrong = Vec::new();
    let mut left = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (client, faults) = done??;
        wrong.extend(faults);
        left.push(client);
    }
    for client in left {
        add(&shared.tally.kills);
        client.kill().await?;
    }
    Ok(wrong)
}
