//! The spool of mod_log_spread: lines that outlive daemons, children and servers.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tests::apache::{Apache, Mpm, free_address};
use tests::cluster::Cluster;
use tests::load::{Load, Outcome, Verdict};
use tests::wait;
use tests::weblog::{self, Place, Writer, config, settled, setup, warm_up};

const LIMIT: Duration = Duration::from_secs(60);

fn apache(cluster: &Cluster, name: &str, mpm: Mpm, more: &str) -> Apache {
    let more = format!("SpreadLogRetry 50 200\n{more}");
    let config = config(&cluster.connect_string(0), "$site4", &more).unwrap();
    let setup = setup(name, free_address().unwrap(), mpm, config);
    weblog::apache(cluster.dir(), Place::Here, setup).unwrap()
}

fn writer(cluster: &Cluster) -> Writer {
    let daemon = cluster.connect_string(0);
    let args = ["-s", &*daemon, "--group", "site4"];
    Writer::start(cluster.dir(), Place::Here, "writer", &args).unwrap().joined().unwrap()
}

fn load(apache: &Apache, requests: u64, padding: usize) -> Outcome {
    let mut load = Load::new(&[apache.address()], 4, requests);
    load.padding = padding;
    let outcome = load.run(&AtomicU64::new(0)).unwrap();
    assert_eq!(outcome.answered.len() as u64, requests, "requests do not wait for the log");
    // An answer reaches its client before its line is logged.
    wait::until("the lines to be logged", LIMIT, || match weblog::counters(Place::Here, apache.address()) {
        Ok(counters) if counters["Lines"] >= requests => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    outcome
}

/// Counters, when the server has an end for so many lines.
fn settled_with(apache: &Apache, lines: u64) -> BTreeMap<String, u64> {
    settled(Place::Here, apache.address(), lines, LIMIT).unwrap()
}

/// Journals that hold lines. A server that is stopped ends a child that just starts in the middle of it: such a child
/// leaves an empty one, for the next server.
fn journals(spool: &Path) -> usize {
    let list = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let holds = |file: &Path| {
        file.extension().is_some_and(|e| e == "log") && file.metadata().is_ok_and(|m| m.len() > 0)
    };
    list(spool).filter(|journal| list(journal).any(|file| holds(&file))).count()
}

/// Processes below the server's own one.
fn children(apache: &mut Apache) -> Vec<Pid> {
    let pid = apache.process().pid();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn gone(pids: &[Pid]) {
    wait::until("the children to be gone", LIMIT, || {
        match pids.iter().filter(|p| kill(**p, None).is_ok()).count() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .unwrap();
}

fn complete(outcome: &Outcome, writer: Writer) {
    let (log, _) = writer.stop().unwrap();
    assert_eq!(outcome.compare(&log), Verdict::default(), "of {} requests", outcome.answered.len());
}

fn what_does_not_fit_in_the_memory_waits_on_the_disk(mpm: Mpm, more: &str) {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let spool = cluster.dir().join("spool");
    let more = format!(
        "SpreadLogAudit on\nSpreadLogSpool {} 64M\nStartServers 1\nServerLimit 4\n{more}",
        spool.display()
    );
    let apache = apache(&cluster, "www", mpm, &more);
    let outcome = load(&apache, 800, 2_000);
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let counters = settled_with(&apache, 800);
    apache.stop(LIMIT).unwrap();
    assert!(counters["Spilled"] > 100, "{counters:?}");
    assert_eq!((counters["DroppedQueueFull"], counters["SpoolErrors"]), (0, 0), "{counters:?}");
    assert_eq!(journals(&spool), 0, "nothing is left when everything is confirmed");
    complete(&outcome, writer);
}

#[test]
fn lines_wait_on_the_disk_with_event() {
    what_does_not_fit_in_the_memory_waits_on_the_disk(Mpm::Event, "");
}

#[test]
fn lines_wait_on_the_disk_with_prefork_and_in_frames() {
    what_does_not_fit_in_the_memory_waits_on_the_disk(Mpm::Prefork, "SpreadLogWire framed");
}

#[test]
fn killed_children_lose_no_line_that_they_took() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let spool = cluster.dir().join("spool");
    let mut apache = apache(
        &cluster,
        "www",
        Mpm::Worker,
        &format!("SpreadLogAudit on\nSpreadLogSpool {}", spool.display()),
    );
    let mut outcome = load(&apache, 300, 0);
    let old = children(&mut apache);
    for child in &old {
        kill(*child, Signal::SIGKILL).unwrap();
    }
    gone(&old);
    // The server goes on with new ones.
    let mut more = Load::new(&[apache.address()], 4, 50);
    more.first = 1_000;
    outcome.add(more.run(&AtomicU64::new(0)).unwrap());
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let counters = settled_with(&apache, 350);
    assert_eq!((counters["Acknowledged"], counters["LostInCrash"]), (350, 0), "{counters:?}");
    apache.stop(LIMIT).unwrap();
    complete(&outcome, writer);
    assert_eq!(journals(&spool), 0);
}

#[test]
fn a_server_that_is_killed_whole_finds_its_lines_again() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let spool = cluster.dir().join("spool");
    let more = format!("SpreadLogAudit on\nSpreadLogSpool {}", spool.display());
    let mut first = apache(&cluster, "www", Mpm::Event, &more);
    let outcome = load(&first, 300, 0);
    let pids = children(&mut first);
    // The parent first: it would start new ones.
    first.signal(Signal::SIGKILL).unwrap();
    for child in &pids {
        kill(*child, Signal::SIGKILL).unwrap();
    }
    gone(&pids);
    drop(first);
    assert!(fs::read_dir(&spool).unwrap().next().is_some());
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let second = apache(&cluster, "www-again", Mpm::Event, &more);
    let counters =
        wait::until("all lines", LIMIT, || match weblog::counters(Place::Here, second.address()) {
            Ok(counters) if counters["Adopted"] == 300 && counters["UnderWay"] == 0 => Ok(counters),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    assert_eq!((counters["Lines"], counters["Acknowledged"]), (0, 300), "{counters:?}");
    second.stop(LIMIT).unwrap();
    complete(&outcome, writer);
    assert_eq!(journals(&spool), 0);
}

#[test]
fn a_server_that_ends_without_a_daemon_leaves_its_lines_for_the_next_one() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let spool = cluster.dir().join("spool");
    let more = format!("SpreadLogAudit on\nSpreadLogSpool {}", spool.display());
    let first = apache(&cluster, "www", Mpm::Prefork, &more);
    let mut outcome = load(&first, 200, 0);
    let begun = Instant::now();
    let log = first.root().join("logs/error.log");
    first.stop(LIMIT).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(!fs::read_to_string(log).unwrap().contains("lines dropped"));
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let second = apache(&cluster, "www-again", Mpm::Prefork, &more);
    let mut more = Load::new(&[second.address()], 4, 50);
    more.first = 1_000;
    outcome.add(more.run(&AtomicU64::new(0)).unwrap());
    wait::until("all lines", LIMIT, || match weblog::counters(Place::Here, second.address()) {
        Ok(counters) if counters["Acknowledged"] == 250 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    second.stop(LIMIT).unwrap();
    complete(&outcome, writer);
    assert_eq!(journals(&spool), 0);
}

#[test]
fn a_graceful_restart_without_a_daemon_hands_the_lines_to_the_new_children() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let spool = cluster.dir().join("spool");
    let mut apache = apache(&cluster, "www", Mpm::Event, &format!("SpreadLogSpool {}", spool.display()));
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    cluster.kill(0).unwrap();
    let outcome = load(&apache, 200, 0);
    let old = children(&mut apache);
    apache.graceful().unwrap();
    gone(&old);
    let counters = weblog::counters(Place::Here, apache.address()).unwrap();
    assert!(counters["Spooled"] >= 200, "{counters:?}");
    cluster.start(0).unwrap();
    let counters =
        wait::until("all lines", LIMIT, || match weblog::counters(Place::Here, apache.address()) {
            Ok(counters) if counters["Adopted"] == counters["Spooled"] && counters["UnderWay"] == 0 => {
                Ok(counters)
            }
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    assert_eq!((counters["InDoubt"], counters["DroppedAtExit"]), (0, 0), "{counters:?}");
    apache.stop(LIMIT).unwrap();
    complete(&outcome, writer);
}

/// The sum of all that is missing is what the module counted and the writer was told.
fn a_full_spool(spool: &str) {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let more = format!(
        "SpreadLogAudit on\nSpreadLogQueue 256K\nSpreadLogSpool {spool}\nStartServers 1\nServerLimit 1\n\
         MaxRequestWorkers 8\nMaxSpareThreads 8"
    );
    let apache = apache(&cluster, "www", Mpm::Event, &more);
    let outcome = load(&apache, 1_000, 3_000);
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let counters = settled_with(&apache, 1_000);
    let dropped = counters["DroppedQueueFull"];
    assert!(dropped > 100 && dropped < 800 && counters["Spilled"] > 100, "{counters:?}");
    assert!(
        counters["SpoolErrors"] > 0 && apache.error_log().contains("the spool"),
        "{}",
        apache.error_log()
    );
    apache.stop(LIMIT).unwrap();
    let (log, said) = writer.stop().unwrap();
    let verdict = outcome.compare(&log);
    assert!(verdict.doubled.is_empty() && verdict.strange.is_empty(), "{verdict:?}");
    assert_eq!(verdict.missing.len() as u64, dropped);
    assert!(said.contains("reason="), "the writer knows of the gap: {said}");
}

#[test]
fn a_full_spool_drops_with_a_count_and_a_gap() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    a_full_spool(&format!("{}/spool 1M", dir.path().display()));
}

/// A small file system, mounted as long as the value lives.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_below_the_spool_costs_lines_but_no_request() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let disk = Tmpfs::new("2m");
    a_full_spool(&format!("{}/spool 1G", disk.0.path().display()));
}

#[test]
fn a_spool_that_cannot_be_made_is_told_and_the_server_runs() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    let writer = writer(&cluster);
    let file = cluster.dir().join("file");
    fs::write(&file, "").unwrap();
    let apache = apache(&cluster, "www", Mpm::Event, &format!("SpreadLogSpool {}", file.display()));
    let outcome = load(&apache, 50, 0);
    settled_with(&apache, 50);
    assert!(
        apache.error_log().contains("this is no folder; lines are in memory only"),
        "{}",
        apache.error_log()
    );
    apache.stop(LIMIT).unwrap();
    complete(&outcome, writer);
}
