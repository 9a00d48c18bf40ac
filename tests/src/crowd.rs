//! Very many clients on one daemon: what they cost, and that all are served.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use spread_wire::{Kind, ServiceType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bins;
use crate::process::Process;
use crate::watched;
use crate::wire_client::{self, WireClient};

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Clients that are connected and do nothing.
    pub idle: usize,
    /// Groups.
    pub groups: usize,
    /// Members of each group: clients that are in several groups.
    pub members: usize,
}

/// What it took. Memory is that of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Clients that were idle.
    pub idle: usize,
    /// Resident KiB without clients, with the idle ones, with groups, after all have gone.
    pub resident_kib: [u64; 4],
    /// Time until the idle clients were connected.
    pub connecting: Duration,
    /// Time of a message to itself among the idle clients: the longest of a hundred.
    pub round_trip: Duration,
    /// Groups and members.
    pub groups: (usize, usize),
    /// Time until all members had joined.
    pub joining: Duration,
    /// Time until each member of each group had a message.
    pub delivering: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [empty, idle, groups, gone] = self.resident_kib;
        let each = |kib: u64, n: usize| (kib.saturating_sub(empty) << 10) / n.max(1) as u64;
        writeln!(f, "resident: {empty} KiB without clients")?;
        if self.idle > 0 {
            writeln!(
                f,
                "{} idle clients: connected in {:.1?}, resident {idle} KiB ({} bytes each), a message to oneself takes at most {:.1?}",
                self.idle,
                self.connecting,
                each(idle, self.idle),
                self.round_trip
            )?;
        }
        let (count, members) = self.groups;
        if count > 0 {
            writeln!(
                f,
                "{count} groups x {members} members: joined in {:.1?}, resident {groups} KiB ({} bytes a membership), \
                 a message to each group at all {} members in {:.1?}",
                self.joining,
                each(groups, count * members),
                count * members,
                self.delivering
            )?;
        }
        writeln!(f, "resident after all have gone: {gone} KiB")
    }
}

/// Time for each step.
const LIMIT: Duration = Duration::from_secs(300);

/// Connections that are made at once.
const AT_ONCE: usize = 100;

/// Runs it.
///
/// # Errors
/// If a client is not served.
pub fn run(scenario: &Scenario) -> anyhow::Result<Report> {
    let dir = tempfile::tempdir()?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let clients = scenario.idle.max(scenario.members * 10) + 100;
    let conf = dir.path().join("spread.conf");
    let segment = format!("Spread_Segment 127.0.0.255:{port} {{ alone 127.0.0.1 {{ 127.0.0.1 }} }}");
    fs::write(&conf, format!("MaxSessions = {clients}\n{segment}\n"))?;
    let mut command = Command::new(bins::bin("spreadd", "spreadd")?);
    command.args(["-n", "alone", "-c"]).arg(&conf).args(["--no-local-socket"]);
    let mut daemon = Process::start("spreadd", dir.path(), command)?;
    daemon.wait_printed("Serving clients", LIMIT)?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut report =
        Report { idle: scenario.idle, groups: (scenario.groups, scenario.members), ..Report::default() };
    report.resident_kib[0] = watched::resident_kib(&daemon)?;
    if scenario.idle > 0 {
        let start = Instant::now();
        let idle = runtime.block_on(connect(addr, scenario.idle))?;
        report.connecting = start.elapsed();
        report.round_trip = runtime.block_on(round_trip(addr))?;
        report.resident_kib[1] = watched::resident_kib(&daemon)?;
        let counters = watched::session_counters(&daemon, LIMIT)?;
        ensure!(counters.get("live") == Some(&(idle.len() as u64)), "{counters:?}");
        drop(idle);
        gone(&daemon)?;
    }
    if scenario.groups > 0 {
        // Ten times the members of a group: each client is in a tenth of the groups.
        let clients = runtime.block_on(connect(addr, scenario.members * 10))?;
        runtime.block_on(groups(clients, scenario, &mut report, &daemon))?;
        gone(&daemon)?;
    }
    report.resident_kib[3] = watched::resident_kib(&daemon)?;
    watched::check_alive(&mut daemon)?;
    Ok(report)
}

fn gone(daemon: &Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while watched::session_counters(daemon, LIMIT)?.get("live") != Some(&0) {
        ensure!(Instant::now() < deadline, "sessions are left");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

async fn connect(addr: SocketAddr, count: usize) -> anyhow::Result<Vec<WireClient>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for i in 0..count {
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            let _turn = turns.acquire().await?;
            match WireClient::connect(addr, Some(&format!("i{i}")), false, false).await? {
                Ok(client) => Ok(client),
                Err(code) => bail!("client {i} is refused: {code}"),
            }
        });
    }
    let mut clients = Vec::with_capacity(count);
    while let Some(client) = tasks.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

/// The longest of a hundred messages of a new client to itself.
async fn round_trip(addr: SocketAddr) -> anyhow::Result<Duration> {
    let client = WireClient::connect(addr, Some("witness"), false, false).await?;
    let mut client = client.map_err(|code| anyhow::anyhow!("refused: {code}"))?;
    let mut worst = Duration::ZERO;
    for _ in 0..100 {
        let message = client.message(ServiceType::AGREED, &[client.me], b"hello");
        let start = Instant::now();
        client.send(&message).await?;
        timeout(LIMIT, client.frame()).await??.context("the session ended")?;
        worst = worst.max(start.elapsed());
    }
    client.kill().await?;
    Ok(worst)
}

async fn groups(
    mut clients: Vec<WireClient>,
    scenario: &Scenario,
    report: &mut Report,
    daemon: &Process,
) -> anyhow::Result<()> {
    let names: Vec<_> = (0..scenario.groups).map(|g| wire_client::group(&format!("group{g}"))).collect();
    let start = Instant::now();
    let count = clients.len();
    // Group g has the clients g, g + 1, ... modulo their number.
    let mut expected = vec![0usize; count];
    let mut joins = vec![Vec::new(); count];
    for (g, name) in names.iter().enumerate() {
        for member in 0..scenario.members {
            let client = (g + member * (count / scenario.members).max(1)) % count;
            expected[client] += 1;
            joins[client].push(*name);
        }
    }
    let mut tasks = JoinSet::new();
    for ((mut client, joins), expected) in clients.drain(..).zip(joins).zip(expected) {
        tasks.spawn(async move {
            for group in &joins {
                client.join(group).await?;
            }
            // What it sends to itself comes behind its joins.
            let last = client.message(ServiceType::AGREED, &[client.me], b"last");
            client.send(&last).await?;
            timeout(LIMIT, client.frame()).await??.context("the session ended")?;
            anyhow::Ok((client, expected))
        });
    }
    let mut joined = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        joined.push(done??);
    }
    report.joining = start.elapsed();
    report.resident_kib[2] = watched::resident_kib(daemon)?;
    let start = Instant::now();
    for (i, name) in names.iter().enumerate() {
        let at = i % joined.len();
        let sender = &mut joined[at].0;
        let message = sender.message(ServiceType::AGREED, &[*name], b"to all members");
        sender.send(&message).await?;
    }
    let mut tasks = JoinSet::new();
    for (mut client, expected) in joined {
        tasks.spawn(async move {
            for got in 0..expected {
                let frame = timeout(LIMIT, client.frame())
                    .await
                    .with_context(|| format!("{got} of {expected} messages came"))??;
                ensure!(frame.context("the session ended")?.kind() == Kind::Data, "not data");
            }
            Ok(client)
        });
    }
    let mut left = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        left.push(done??);
    }
    report.delivering = start.elapsed();
    Ok(())
}
