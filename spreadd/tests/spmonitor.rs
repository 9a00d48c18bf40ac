//! The monitor against living daemons: every command, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Client, LIMIT, metric, ring_port};
use serde_json::Value;
use spread_wire::{Kind, ServiceType};
use spreadd::config::{self, SystemHost};
use spreadd::{Daemon, MonitorCommand, Options, Refused, Request};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Three daemons in segments of their own, as in the recorded cases, and their file.
fn start(dir: &Path, more: &str) -> Vec<Daemon> {
    let port = ring_port(3);
    let segments: String = (1..)
        .zip(NAMES)
        .map(|(host, name)| format!("Spread_Segment 127.0.0.255:{port} {{ {name} 127.0.0.{host} }}\n"))
        .collect();
    let text = format!("WideAreaNetwork = false\n{more}\n{segments}");
    std::fs::write(dir.join("spread.conf"), &text).unwrap();
    let config = config::parse("spread.conf", text.as_bytes(), &SystemHost).unwrap();
    let start = |me| {
        let mut options = Options::from_config(&config, me).unwrap();
        options.socket_dir = None;
        options.metrics = Some(([127, 0, 0, 1], 0).into());
        Daemon::start(options).unwrap()
    };
    (0..3).map(start).collect()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spmonitor"));
    command.current_dir(dir).args(args);
    command
}

fn monitor(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(dir: &Path, args: &[&str]) -> String {
    let output = monitor(dir, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The field of each daemon's status; null for silent ones.
fn fields(dir: &Path, name: &str) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&monitor(dir, &["--once", "--json"]).stdout).unwrap();
    report["daemons"].as_array().unwrap().iter().map(|daemon| daemon["status"][name].clone()).collect()
}

fn wait_for(dir: &Path, name: &str, wanted: [i64; 3]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = fields(dir, name);
        if found == wanted.map(Value::from) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: {found:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The next thing that a monitor asks of the daemon's process.
fn requested(daemon: &Daemon) -> Request {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, daemon.requested()).await.unwrap() })
}

#[test]
fn daemons_are_divided_and_come_together_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemons = start(dir.path(), "DangerousMonitor = true");
    wait_for(dir.path(), "num_procs", [3; 3]);
    assert_eq!(fields(dir.path(), "state"), [1, 1, 1]);
    assert_eq!(fields(dir.path(), "num_segments"), [3, 3, 3]);
    let leaders = fields(dir.path(), "leader_id");
    assert!(leaders.iter().all(|leader| *leader == fields(dir.path(), "my_id")[0]), "{leaders:?}");
    let mut clients: Vec<Client> = daemons.iter().map(|daemon| Client::connect(daemon, "member")).collect();
    clients.iter_mut().for_each(|client| client.joined("g"));
    for client in &mut clients[..2] {
        client.until(|frame| frame.kind() == Kind::Membership && frame.header.num_groups == 3);
    }
    wait_for(dir.path(), "num_sessions", [1; 3]);

    succeeds(dir.path(), &["partition", "three=1"]);
    wait_for(dir.path(), "num_procs", [2, 2, 1]);
    let members = |client: &mut Client, count: usize| {
        let frame = client.until(|frame| frame.header.service.contains(ServiceType::CAUSED_BY_NETWORK));
        assert_eq!(frame.group_names().count(), count);
    };
    members(&mut clients[0], 2);
    members(&mut clients[2], 1);
    clients[0].multicast("g", b"not for all");
    clients[1].until(|frame| frame.data_bytes() == b"not for all");

    succeeds(dir.path(), &["heal"]);
    wait_for(dir.path(), "num_procs", [3; 3]);
    clients.iter_mut().for_each(|client| members(client, 3));
    clients[2].multicast("g", b"for all");
    clients[0].until(|frame| frame.data_bytes() == b"for all");
}

#[test]
fn windows_reloads_and_ends_are_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemons = start(dir.path(), "DangerousMonitor = true\nWindow = 60\nPersonalWindow = 15");
    wait_for(dir.path(), "num_procs", [3; 3]);
    wait_for(dir.path(), "personal_window", [15; 3]);
    succeeds(
        dir.path(),
        &["flow", "--window", "50", "--personal", "12", "--personal", "two=9", "--accelerated", "3"],
    );
    wait_for(dir.path(), "personal_window", [12, 9, 12]);
    wait_for(dir.path(), "accelerated_window", [3; 3]);
    // The window of the ring goes around with the token.
    Client::connect(&daemons[1], "x").joined("g");
    wait_for(dir.path(), "window", [50; 3]);

    succeeds(dir.path(), &["reload"]);
    assert!(daemons.iter().all(|daemon| requested(daemon) == Request::Reload));
    succeeds(dir.path(), &["kill", "two"]);
    assert_eq!(requested(&daemons[1]), Request::Stop);
    daemons.remove(1).stop();
    let output = monitor(dir.path(), &["--once", "--timeout", "300"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("silent") && text.contains("two: nothing listens at 127.0.0.2:"), "{text}");
    assert!(succeeds(dir.path(), &["status", "one", "three"]).contains("2 of 3 (one)"));
}

#[test]
fn nobody_else_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let daemons = start(dir.path(), "");
    wait_for(dir.path(), "num_procs", [3; 3]);
    for args in
        [&["partition", "one=1"][..], &["kill", "one"], &["flow", "--window", "9"], &["status", "four"]]
    {
        let output = monitor(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
    // A monitor that believes in another switch is refused by the daemons.
    let other = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(dir.path().join("spread.conf")).unwrap();
    std::fs::write(other.path().join("spread.conf"), format!("DangerousMonitor = true\n{text}")).unwrap();
    succeeds(other.path(), &["kill", "one"]);
    common::wait_until("the refusal", || daemons[0].monitor_stats().refused(Refused::Dangerous) == 2);
    // One with another configuration sees why.
    std::fs::write(other.path().join("spread.conf"), format!("AcceleratedRing = true\n{text}")).unwrap();
    let output = monitor(other.path(), &["--once", "--timeout", "200"]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("the daemon has another configuration than this monitor"), "{report}");
    assert!(daemons[2].monitor_stats().refused(Refused::Hash) > 0);
    // The metrics say the same.
    let stats = daemons[0].monitor_stats();
    let (asked, killed) = (stats.accepted(MonitorCommand::Status), stats.accepted(MonitorCommand::Partition));
    assert!(asked > 0 && killed == 0 && stats.packets() > asked, "{stats:?}");
    for (name, value) in [
        ("spreadd_monitor_packets_total", stats.packets()),
        ("spreadd_monitor_requests_total{command=\"status\"}", asked),
        ("spreadd_monitor_requests_total{command=\"partition\"}", 0),
        ("spreadd_monitor_refused_total{reason=\"dangerous\"}", 2),
    ] {
        assert_eq!(metric(&daemons[0], name), value, "{name}");
    }
    // And the daemons did not mind.
    wait_for(dir.path(), "num_procs", [3; 3]);
}

#[test]
fn the_dialogue_is_that_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let _daemons = start(dir.path(), "DangerousMonitor = true");
    wait_for(dir.path(), "num_procs", [3; 3]);
    let mut child = command(dir.path(), &["-t", "1", "-n", "two", "-p", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    input.write_all(b"0\nall\n\n").unwrap();
    let mut seen: Vec<String> = Vec::new();
    // Twice from each: it goes on asking.
    while seen.len() < 6 {
        let line = lines.next().expect("the dialogue ended");
        if let Some((_, rest)) = line.split_once("Status at ") {
            seen.push(rest.split(' ').next().unwrap().to_owned());
        }
    }
    for name in NAMES {
        assert!(seen.iter().any(|seen| seen == name), "{seen:?}");
    }
    input.write_all(b"0\nnone\n\n1\n0\n0\n1\n2\n3\n").unwrap();
    lines.find(|line| line.contains("three: 1")).expect("the partition is shown");
    wait_for(dir.path(), "num_procs", [2, 2, 1]);
    input.write_all(b"4\n5\n100\n\n20\n\n6\n7\n").unwrap();
    lines
        .find(|line| line.contains("two: personal 20, accelerated unchanged"))
        .expect("the windows are shown");
    wait_for(dir.path(), "num_procs", [3; 3]);
    let personal = fields(dir.path(), "personal_window");
    assert_eq!(personal[1], 20, "{personal:?}");
    // The end of the input ends it.
    drop(input);
    assert!(lines.any(|line| line.contains("Bye.")));
    assert!(child.wait().unwrap().success());
}
