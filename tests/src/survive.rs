//! The main promise, end to end: three hosts with a daemon each, two of them with an Apache, two with a log writer;
//! requests run while a daemon is killed and started again. Every request must be in both files exactly once, or be
//! counted by the module as dropped or in doubt; and both files must have the same lines: in the same order (the same
//! bytes) when the writers' daemons were together all the time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apache::{Apache, Mpm};
use crate::cluster::Cluster;
use crate::load::{Load, Outcome};
use crate::weblog::{self, Place, Writer};
use crate::{bins, netns, wait};

mod report;
mod trouble;

pub use report::{Audit, Report};
pub use trouble::{Trouble, all_trouble, one_kill, random};

/// How long requests are made, and what happens meanwhile.
#[derive(Clone, Debug)]
pub enum Course {
    /// So many requests over both servers, and trouble after so many percent of them.
    Requests(u64, Vec<(u64, Trouble)>),
    /// Requests for so long, and trouble at so many moments.
    Time(Duration, Vec<(Duration, Trouble)>),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Requests and trouble.
    pub course: Course,
    /// Clients at once.
    pub clients: usize,
    /// Time between two requests of a client, so that troubles are some time apart.
    pub pace: Duration,
    /// Multi-processing modules of the two servers.
    pub mpms: [Mpm; 2],
    /// The servers keep lines on disk until they are confirmed.
    pub spool: bool,
    /// More lines for the servers' configuration.
    pub config: String,
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
    let driven = drive(&mut cluster, &apaches, writers, scenario)?;
    let Driven { outcome, down, events } = driven;
    let mut counters = Vec::new();
    let settling = Instant::now();
    for (host, apache) in apaches.iter().enumerate() {
        let settled = weblog::settled(place(&cluster, host)?, apache.address(), 0, Duration::from_secs(120));
        counters.push(settled.with_context(|| {
            let said = [apache.error_log(), first.process().printed(), second.process().printed()];
            format!("www{}:\n{}", host + 1, said.map(|text| tail(&text, 60)).join("\n---\n"))
        })?);
    }
    let settling = settling.elapsed();
    let mut notes = Vec::new();
    for apache in apaches {
        notes.extend(apache.error_log().lines().filter(|l| l.contains("log_spread:")).map(String::from));
        apache.stop(Duration::from_secs(30))?;
    }
    let journals =
        (0..2).map(|host| std::fs::read_dir(spool(&cluster, host)).map_or(0, Iterator::count)).sum();
    settle_equal(&first, &second);
    let together = [1, 2].into_iter().all(|host| stayed(&mut cluster, host).unwrap_or(false));
    for host in 0..3 {
        let said = cluster.daemon(host)?.printed();
        let lines = said.lines().filter(|l| !l.contains("Session "));
        notes.extend(lines.map(|l| format!("h{}: {l}", host + 1)));
    }
    let files = [first.path().to_owned(), second.path().to_owned()];
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
        events,
        journals,
        audit: audit(&files)?,
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

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
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

/// What `log_writer audit` says of each file: by its index, every line of every source is there once and in order. Lines
/// of the warm-up may have no number, as no log writer had answered yet.
fn audit(files: &[PathBuf; 2]) -> anyhow::Result<Audit> {
    let mut audit = Audit { good: true, said: String::new() };
    for file in files {
        let mut command = Command::new(bins::bin("log_writer", "log_writer")?);
        let output = command.args(["audit", "--allow-unnumbered"]).arg(file).output()?;
        audit.good &= output.status.success();
        audit.said.push_str(&String::from_utf8_lossy(&output.stdout));
        audit.said.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Ok(audit)
}

struct Driven {
    outcome: Outcome,
    down: Duration,
    events: Vec<(Duration, Trouble)>,
}

fn drive(
    cluster: &mut Cluster,
    apaches: &[Apache],
    writers: [Pid; 2],
    scenario: &Scenario,
) -> anyhow::Result<Driven> {
    let servers: Vec<SocketAddr> = apaches.iter().map(Apache::address).collect();
    let begun = Instant::now();
    let mut load = Load::new(&servers, scenario.clients, u64::MAX);
    load.pace = scenario.pace;
    match &scenario.course {
        Course::Requests(requests, _) => load.requests = *requests,
        Course::Time(length, _) => load.until = Some(begun + *length),
    }
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    let host = cluster.net().context("no hosts")?.host(2);
    let clients = host.enter(move || load.run(&counter))?;
    let mut maker = Maker { cluster, apaches, writers, down: Duration::ZERO, killed: BTreeMap::new() };
    let mut events = Vec::new();
    match &scenario.course {
        Course::Requests(requests, plan) => {
            for (percent, trouble) in plan {
                reach(&progress, requests * percent / 100, &clients)?;
                events.push((begun.elapsed(), *trouble));
                maker.make(*trouble)?;
            }
        }
        Course::Time(_, plan) => {
            for (at, trouble) in plan {
                // Not to wait for something, but to let time pass: the plan is one of moments.
                thread::sleep(at.saturating_sub(begun.elapsed()));
                ensure!(!clients.is_finished(), "the clients ended too soon: {:?}", join(clients).err());
                events.push((begun.elapsed(), *trouble));
                maker.make(*trouble)?;
            }
        }
    }
    let down = maker.down;
    Ok(Driven { outcome: join(clients)?, down, events })
}

fn join(clients: thread::JoinHandle<anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))?
}

/// Makes trouble.
struct Maker<'a> {
    cluster: &'a mut Cluster,
    apaches: &'a [Apache],
    writers: [Pid; 2],
    down: Duration,
    killed: BTreeMap<usize, Instant>,
}

impl Maker<'_> {
    fn make(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Kill(host) => {
                self.cluster.kill(host)?;
                self.killed.insert(host, Instant::now());
            }
            Trouble::Start(host) => {
                self.cluster.start(host)?;
                self.down += self.killed.remove(&host).map_or(Duration::ZERO, |at| at.elapsed());
            }
            Trouble::Cut(host) => cut(self.cluster, |a, b| a == host || b == host)?,
            Trouble::CutBetween(one, two) => {
                cut(self.cluster, |a, b| a.min(b) == one.min(two) && a.max(b) == one.max(two))?
            }
            Trouble::Heal => self.cluster.net().context("no hosts")?.heal()?,
            Trouble::Graceful(server) => self.apaches[server].graceful()?,
            Trouble::Freeze(writer) => kill(self.writers[writer], Signal::SIGSTOP)?,
            Trouble::Thaw(writer) => kill(self.writers[writer], Signal::SIGCONT)?,
        }
        Ok(())
    }
}

/// Cuts hosts from each other, by pairs: datagrams of the daemons only, so that the clients go on.
fn cut(cluster: &Cluster, apart: impl Fn(usize, usize) -> bool) -> anyhow::Result<()> {
    let net = cluster.net().context("no hosts")?;
    for own in 0..3 {
        let others: Vec<String> = (0..3)
            .filter(|other| *other != own && apart(own, *other))
            .map(|other| cluster.addr(other).to_string())
            .collect();
        if others.is_empty() {
            continue;
        }
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
    let args = ["-s", &*daemon, "--group", "site4", "--exactly-once"];
    Writer::start(cluster.dir(), place(cluster, host)?, &name, &args)?.joined()
}

fn apache(cluster: &Cluster, host: usize, scenario: &Scenario) -> anyhow::Result<Apache> {
    let mut config = scenario.config.clone();
    if scenario.spool {
        config.push_str(&format!("\nSpreadLogSpool {} 512M\n", spool(cluster, host).display()));
    }
    let config = weblog::config(&cluster.connect_string(host), "$site4", &config)?;
    let listen = SocketAddr::new(cluster.addr(host), 8080);
    let setup = weblog::setup(&format!("www{}", host + 1), listen, scenario.mpms[host], config);
    weblog::apache(cluster.dir(), place(cluster, host)?, setup)
}

fn spool(cluster: &Cluster, host: usize) -> PathBuf {
    cluster.dir().join(format!("spool-h{}", host + 1))
}
