//! The main promise, end to end: three hosts with a daemon each, two of them with an Apache, two with a log writer;
//! requests run while a daemon is killed and started again. Every request must be in both files exactly once, or be
//! counted by the module as dropped or in doubt; and both files must have the same lines: in the same order (the same
//! bytes) when the writers' daemons were together all the time.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apache::{Apache, Mpm};
use crate::cluster::Cluster;
use crate::load::{Load, Outcome, Verdict};
use crate::weblog::{self, Place, Writer};
use crate::{netns, wait};

/// Something that goes wrong, or is done, while requests run. Hosts count from 0; servers are on 0 and 1, log writers
/// on 1 and 2.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Trouble {
    /// The daemon of a host is killed with SIGKILL.
    Kill(usize),
    /// It is started again.
    Start(usize),
    /// A host is cut off from the others.
    Cut(usize),
    /// The network is whole again.
    Heal,
    /// A server restarts gracefully.
    Graceful(usize),
    /// A log writer (0 or 1) stands still.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
}

/// The daemon of the first server's host is killed after a third of the requests and started again after half.
pub fn one_kill() -> Vec<(u64, Trouble)> {
    vec![(33, Trouble::Kill(0)), (50, Trouble::Start(0))]
}

/// Everything in turn.
pub fn all_trouble() -> Vec<(u64, Trouble)> {
    use Trouble::{Cut, Freeze, Graceful, Heal, Kill, Start, Thaw};
    vec![
        (5, Kill(0)),
        (10, Start(0)),
        (15, Graceful(0)),
        (20, Freeze(0)),
        (30, Thaw(0)),
        (35, Cut(1)),
        (40, Graceful(1)),
        (45, Heal),
        (50, Kill(2)),
        (55, Start(2)),
        (60, Cut(2)),
        (65, Kill(1)),
        (70, Start(1)),
        (75, Heal),
        (80, Freeze(1)),
        (85, Kill(0)),
        (87, Start(0)),
        (90, Thaw(1)),
        (92, Graceful(0)),
    ]
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Requests over both servers.
    pub requests: u64,
    /// Clients at once.
    pub clients: usize,
    /// What happens meanwhile, each after so many percent of the requests.
    pub trouble: Vec<(u64, Trouble)>,
    /// Time between two requests of a client, so that troubles are some time apart.
    pub pace: Duration,
    /// Multi-processing module of the servers.
    pub mpm: Mpm,
    /// More lines for the servers' configuration.
    pub config: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The clients' side.
    pub outcome: Outcome,
    /// Comparison of the clients' side with each writer's file.
    pub verdicts: Vec<Verdict>,
    /// Answered, but in none of the two files.
    pub in_none: Vec<u64>,
    /// Both files have the same bytes.
    pub identical: bool,
    /// Both files have the same lines, perhaps in another order.
    pub same_lines: bool,
    /// The writers' daemons were together all the time, so that the bytes must be the same.
    pub together: bool,
    /// Lines in the first file.
    pub lines: usize,
    /// Counters of the two servers.
    pub counters: Vec<BTreeMap<String, u64>>,
    /// How long the daemon was down.
    pub down: Duration,
    /// Time from the last answer until every line was confirmed.
    pub settling: Duration,
    /// What the servers' modules and the writers had to say.
    pub notes: Vec<String>,
}

impl Report {
    fn sum(&self, names: &[&str]) -> u64 {
        self.counters.iter().flat_map(|c| names.iter().filter_map(|n| c.get(*n))).sum()
    }

    /// Lines that the modules counted as dropped.
    pub fn dropped(&self) -> u64 {
        self.sum(&["DroppedQueueFull", "DroppedAtExit", "DroppedBadName"])
    }

    /// Lines whose fate the modules do not know.
    pub fn in_doubt(&self) -> u64 {
        self.sum(&["InDoubt"])
    }

    /// Lines that one log writer has, but not the other: a child ended while that one could not be reached.
    pub fn in_part(&self) -> u64 {
        self.sum(&["AcknowledgedInPart"])
    }

    fn told(&self) -> u64 {
        self.dropped() + self.in_doubt()
    }

    /// Holds the run against the promise.
    ///
    /// # Errors
    /// What was broken.
    pub fn check(&self) -> anyhow::Result<()> {
        for (verdict, name) in self.verdicts.iter().zip(["first", "second"]) {
            ensure!(verdict.doubled.is_empty(), "doubled in the {name} file: {:?}", verdict.doubled);
            ensure!(verdict.strange.is_empty(), "in the {name} file, but never asked: {:?}", verdict.strange);
            let missing = verdict.missing.len() as u64;
            let told = self.told() + self.in_part();
            ensure!(
                missing <= told,
                "{missing} requests are not in the {name} file, but the modules count only {told} as dropped, in doubt \
                 or acknowledged in part: {:?}",
                &verdict.missing[..verdict.missing.len().min(20)]
            );
        }
        let none = self.in_none.len() as u64;
        ensure!(
            none <= self.told(),
            "{none} requests are in no file, but the modules count only {} as dropped or in doubt: {:?}",
            self.told(),
            &self.in_none[..self.in_none.len().min(20)]
        );
        ensure!(self.same_lines || self.in_part() > 0, "the two files have different lines");
        ensure!(self.identical || !self.together, "the two files differ, but their daemons were together");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.outcome;
        let rate = o.answered.len() as f64 / o.took.as_secs_f64().max(0.001);
        writeln!(
            f,
            "requests answered      {:>8}  ({rate:.0}/s, slowest {:?})",
            o.answered.len(),
            o.slowest
        )?;
        writeln!(f, "connections that broke {:>8}", o.unsure.len())?;
        writeln!(f, "daemon down            {:>8.1} s", self.down.as_secs_f64())?;
        writeln!(f, "until all confirmed    {:>8.1} s", self.settling.as_secs_f64())?;
        writeln!(f, "lines in the file      {:>8}", self.lines)?;
        for (verdict, name) in self.verdicts.iter().zip(["first ", "second"]) {
            writeln!(
                f,
                "{name} writer          missing {}, doubled {}, strange {}",
                verdict.missing.len(),
                verdict.doubled.len(),
                verdict.strange.len()
            )?;
        }
        writeln!(f, "in none of the files   {:>8}", self.in_none.len())?;
        writeln!(f, "files identical        {:>8}", self.identical)?;
        writeln!(f, "writers together       {:>8}", self.together)?;
        writeln!(f, "dropped (counted)      {:>8}", self.dropped())?;
        writeln!(f, "in doubt (counted)     {:>8}", self.in_doubt())?;
        writeln!(f, "in one file (counted)  {:>8}", self.in_part())?;
        write!(f, "sent again (messages)  {:>8}", self.sum(&["Resent"]))
    }
}

/// Why the scenario cannot run here; `None` when it can.
pub fn unavailable() -> Option<String> {
    netns::unavailable()
}

/// Runs the scenario.
///
/// # Errors
/// If something does not start, or does not settle; not if the promise is broken (see [`Report::check`]).
pub fn run(scenario: &Scenario) -> anyhow::Result<Report> {
    let mut cluster = Cluster::on_hosts(3)?;
    cluster.start_all()?;
    let writers = [1, 2].map(|host| writer(&cluster, host));
    let [first, second] = writers;
    let (mut first, mut second) = (first?, second?);
    // Both writers see each other: their daemons are in one ring.
    first.process().wait_printed("group=site4 members=2", Duration::from_secs(60))?;
    let apaches = [0, 1].map(|host| apache(&cluster, host, scenario));
    let [a, b] = apaches;
    let apaches = [a?, b?];
    for (host, apache) in apaches.iter().enumerate() {
        weblog::warm_up(place(&cluster, host)?, apache.address(), Duration::from_secs(60))?;
    }
    let writers = [first.process().pid(), second.process().pid()];
    let (outcome, down) = drive(&mut cluster, &apaches, writers, scenario)?;
    let mut counters = Vec::new();
    let settling = Instant::now();
    for (host, apache) in apaches.iter().enumerate() {
        counters.push(weblog::settled(
            place(&cluster, host)?,
            apache.address(),
            0,
            Duration::from_secs(120),
        )?);
    }
    let settling = settling.elapsed();
    let mut notes = Vec::new();
    for apache in apaches {
        notes.extend(apache.error_log().lines().filter(|l| l.contains("log_spread:")).map(String::from));
        apache.stop(Duration::from_secs(30))?;
    }
    settle_equal(&first, &second);
    let together = [1, 2].into_iter().all(|host| stayed(&mut cluster, host).unwrap_or(false));
    for host in 0..3 {
        let said = cluster.daemon(host)?.printed();
        let lines = said.lines().filter(|l| !l.contains("Session "));
        notes.extend(lines.map(|l| format!("h{}: {l}", host + 1)));
    }
    let (one, said_one) = first.stop()?;
    let (two, said_two) = second.stop()?;
    notes.extend(
        [said_one, said_two]
            .iter()
            .flat_map(|s| s.lines())
            .filter(|l| !l.contains("Membership changed"))
            .map(String::from),
    );
    Ok(Report {
        verdicts: vec![outcome.compare(&one), outcome.compare(&two)],
        in_none: outcome.compare(&format!("{one}{two}")).missing,
        identical: one == two,
        same_lines: sorted(&one) == sorted(&two),
        together,
        lines: one.lines().count(),
        outcome,
        counters,
        down,
        settling,
        notes,
    })
}

/// Everything is acknowledged by both writers, or by one if the other was away for long: that one needs a moment more.
fn settle_equal(first: &Writer, second: &Writer) {
    let lines = |w: &Writer| w.text().map_or(0, |text| text.lines().count());
    // Whether they are equal is judged by the report.
    let _ = wait::until("equal files", Duration::from_secs(10), || match (lines(first), lines(second)) {
        (a, b) if a == b => Ok(()),
        differ => Err(differ),
    });
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Whether the daemon of a writer never lost the other writer's (hosts 2 and 3) after the writers saw each other.
fn stayed(cluster: &mut Cluster, host: usize) -> anyhow::Result<bool> {
    let said = cluster.daemon(host)?.printed();
    let mut lost = said.lines().filter_map(|l| l.split(" lost=").nth(1));
    let other = if host == 1 { "h3" } else { "h2" };
    Ok(!lost.any(|names| names.split_whitespace().any(|n| n == other)))
}

fn drive(
    cluster: &mut Cluster,
    apaches: &[Apache],
    writers: [Pid; 2],
    scenario: &Scenario,
) -> anyhow::Result<(Outcome, Duration)> {
    let servers: Vec<SocketAddr> = apaches.iter().map(Apache::address).collect();
    let mut load = Load::new(&servers, scenario.clients, scenario.requests);
    load.pace = scenario.pace;
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    let host = cluster.net().context("no hosts")?.host(2);
    let clients = host.enter(move || load.run(&counter))?;
    let (mut down, mut killed) = (Duration::ZERO, BTreeMap::new());
    for (percent, trouble) in &scenario.trouble {
        reach(&progress, scenario.requests * percent / 100, &clients)?;
        match *trouble {
            Trouble::Kill(host) => {
                cluster.kill(host)?;
                killed.insert(host, Instant::now());
            }
            Trouble::Start(host) => {
                cluster.start(host)?;
                down += killed.remove(&host).map_or(Duration::ZERO, |at: Instant| at.elapsed());
            }
            Trouble::Cut(host) => cut(cluster, host)?,
            Trouble::Heal => cluster.net().context("no hosts")?.heal()?,
            Trouble::Graceful(server) => apaches[server].graceful()?,
            Trouble::Freeze(writer) => kill(writers[writer], Signal::SIGSTOP)?,
            Trouble::Thaw(writer) => kill(writers[writer], Signal::SIGCONT)?,
        }
    }
    let outcome = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    Ok((outcome, down))
}

/// Cuts the daemon of a host off: datagrams only, so that the clients go on.
fn cut(cluster: &Cluster, host: usize) -> anyhow::Result<()> {
    let net = cluster.net().context("no hosts")?;
    for own in 0..3 {
        let others: Vec<String> = (0..3)
            .filter(|o| *o != own && (own == host || *o == host))
            .map(|o| cluster.addr(o).to_string())
            .collect();
        net.host(own).nft(&format!(
            "add table inet cut\ndelete table inet cut\ntable inet cut {{\n chain input {{\n  type filter hook input \
             priority 0;\n  meta l4proto udp ip saddr {{ {} }} drop\n }}\n}}\n",
            others.join(", ")
        ))?;
    }
    Ok(())
}

/// Waits until so many requests are answered.
fn reach<T>(progress: &AtomicU64, want: u64, clients: &thread::JoinHandle<T>) -> anyhow::Result<()> {
    wait::until("requests to be answered", Duration::from_secs(300), || {
        let have = progress.load(Ordering::Relaxed);
        if have >= want || clients.is_finished() { Ok(()) } else { Err(have) }
    })
}

fn place(cluster: &Cluster, host: usize) -> anyhow::Result<Place<'_>> {
    Ok(Place::Host(cluster.net().context("no hosts")?.host(host)))
}

fn writer(cluster: &Cluster, host: usize) -> anyhow::Result<Writer> {
    let daemon = cluster.connect_string(host);
    let name = format!("writer-h{}", host + 1);
    let args = ["-s", &*daemon, "--group", "site4"];
    Writer::start(cluster.dir(), place(cluster, host)?, &name, &args)?.joined()
}

fn apache(cluster: &Cluster, host: usize, scenario: &Scenario) -> anyhow::Result<Apache> {
    let config = weblog::config(&cluster.connect_string(host), "$site4", &scenario.config)?;
    let listen = SocketAddr::new(cluster.addr(host), 8080);
    let setup = weblog::setup(&format!("www{}", host + 1), listen, scenario.mpm, config);
    weblog::apache(cluster.dir(), place(cluster, host)?, setup)
}
