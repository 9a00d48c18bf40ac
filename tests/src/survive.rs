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

use crate::apache::{Apache, Mpm};
use crate::cluster::Cluster;
use crate::load::{Load, Outcome, Verdict};
use crate::weblog::{self, Place, Writer};
use crate::{netns, wait};

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Requests over both servers.
    pub requests: u64,
    /// Clients at once.
    pub clients: usize,
    /// Kill (-9) the daemon of the first server's host after a third of the requests, start it again after half.
    pub kill: bool,
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

    /// Holds the run against the promise.
    ///
    /// # Errors
    /// What was broken.
    pub fn check(&self) -> anyhow::Result<()> {
        for (verdict, name) in self.verdicts.iter().zip(["first", "second"]) {
            ensure!(verdict.doubled.is_empty(), "doubled in the {name} file: {:?}", verdict.doubled);
            ensure!(verdict.strange.is_empty(), "in the {name} file, but never asked: {:?}", verdict.strange);
            let missing = verdict.missing.len() as u64;
            let told = self.dropped() + self.in_doubt();
            ensure!(
                missing <= told,
                "{missing} requests are not in the {name} file, but the modules count only {told} as dropped or \
                 in doubt: {:?}",
                &verdict.missing[..verdict.missing.len().min(20)]
            );
        }
        ensure!(self.same_lines, "the two files have different lines");
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
        writeln!(f, "files identical        {:>8}", self.identical)?;
        writeln!(f, "writers together       {:>8}", self.together)?;
        writeln!(f, "dropped (counted)      {:>8}", self.dropped())?;
        writeln!(f, "in doubt (counted)     {:>8}", self.in_doubt())?;
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
    let (mut first, second) = (first?, second?);
    // Both writers see each other: their daemons are in one ring.
    first.process().wait_printed("group=site4 members=2", Duration::from_secs(60))?;
    let apaches = [0, 1].map(|host| apache(&cluster, host, scenario));
    let [a, b] = apaches;
    let apaches = [a?, b?];
    for (host, apache) in apaches.iter().enumerate() {
        weblog::warm_up(place(&cluster, host)?, apache.address(), Duration::from_secs(60))?;
    }
    let (outcome, down) = drive(&mut cluster, &apaches, scenario)?;
    let mut counters = Vec::new();
    for (host, apache) in apaches.iter().enumerate() {
        counters.push(weblog::settled(place(&cluster, host)?, apache.address(), Duration::from_secs(120))?);
    }
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
        [said_one, said_two].iter().flat_map(|s| s.lines()).filter(|l| l.contains("WARN")).map(String::from),
    );
    Ok(Report {
        verdicts: vec![outcome.compare(&one), outcome.compare(&two)],
        identical: one == two,
        same_lines: sorted(&one) == sorted(&two),
        together,
        lines: one.lines().count(),
        outcome,
        counters,
        down,
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
    scenario: &Scenario,
) -> anyhow::Result<(Outcome, Duration)> {
    let servers: Vec<SocketAddr> = apaches.iter().map(Apache::address).collect();
    let load = Load::new(&servers, scenario.clients, scenario.requests);
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    let host = cluster.net().context("no hosts")?.host(2);
    let clients = host.enter(move || load.run(&counter))?;
    let mut down = Duration::ZERO;
    if scenario.kill {
        reach(&progress, scenario.requests / 3, &clients)?;
        let begun = Instant::now();
        cluster.kill(0)?;
        reach(&progress, scenario.requests / 2, &clients)?;
        cluster.start(0)?;
        down = begun.elapsed();
    }
    let outcome = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    Ok((outcome, down))
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
