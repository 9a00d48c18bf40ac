//! The program and SIGHUP: what a reload does, what the log says, and that nothing that is wrong with the file ends
//! or changes a daemon that runs.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use nix::sys::signal::Signal;
use program::{LIMIT, Manager, Running, free_port, spreadd};

fn file(port: u16, more: &str) -> String {
    format!("{more}\nSpread_Segment 127.0.0.255:{port} {{\n  one 127.0.0.1 {{ 127.0.0.1 }}\n}}\n")
}

fn serving(dir: &Path, port: u16, more: &str) -> Running {
    let path = dir.join("spread.conf");
    fs::write(&path, file(port, more)).unwrap();
    Running::serving(dir, &["-n", "one", "-c", "spread.conf"])
}

#[test]
fn a_reload_that_cannot_work_changes_nothing_and_says_why_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut daemon = serving(dir.path(), port, "");
    let path = dir.path().join("spread.conf");
    let two = format!("Spread_Segment 127.0.0.255:{port} {{\n  two 127.0.0.2\n}}\n");
    let cases: [(Option<String>, &[&str]); 6] = [
        (None, &["cannot read", "spread.conf", "No such file"]),
        (Some(file(port, "Window=100")), &["spread.conf:1:", "Window=100"]),
        (Some(file(port, "Window = 10\nPersonalWindow = 20")), &["spread.conf:2:", "PersonalWindow"]),
        (Some(two), &["spread.conf", "no daemon is called `one`"]),
        (
            Some(file(port, "").replace("one 127.0.0.1 { 127.0.0.1 }", "one 127.0.0.2 { 127.0.0.2 }")),
            &["spread.conf:3:", "the address of this daemon cannot change while it runs", "it was 127.0.0.1"],
        ),
        (Some(file(port + 2, "")), &["the port of this daemon cannot change", "it was"]),
    ];
    for (text, wanted) in cases {
        match &text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        daemon.seen.clear();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for("The configuration is not reloaded; everything goes on as before.");
        for text in wanted {
            if !daemon.seen.contains(text) {
                daemon.wait_for(text);
            }
        }
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
    fs::write(&path, file(port, "MaxSessionMessages = 77\nRuntimeDir = /")).unwrap();
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_for("The configuration was read again.");
    assert!(line.contains("MaxSessionMessages = 77"), "{line}");
    let line = daemon.wait_for("need a restart");
    assert!(line.contains("RuntimeDir"), "{line}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0, "{}", daemon.seen);
}

#[test]
fn the_log_level_changes_and_the_log_file_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let log = dir.path().join("log");
    let options = |more: &str| format!("EventLogFile = {}\n{more}", log.display());
    let path = dir.path().join("spread.conf");
    fs::write(&path, file(port, &options(""))).unwrap();
    let daemon = Running::start(dir.path(), &["-n", "one", "-c", "spread.conf"]);
    let wait_for = |text: &str| {
        let deadline = std::time::Instant::now() + LIMIT;
        while !fs::read_to_string(&log).unwrap_or_default().contains(text) {
            assert!(std::time::Instant::now() < deadline, "{:?}", fs::read_to_string(&log));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    wait_for("Serving clients");
    // As a tool that rotates logs does it.
    fs::rename(&log, dir.path().join("log.1")).unwrap();
    fs::write(&path, file(port, &options("EventPriority = ERROR"))).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_for("EventPriority");
    // From now on this is not important enough.
    daemon.signal(Signal::SIGUSR1);
    fs::write(&path, "Window=1").unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_for("The configuration is not reloaded");
    assert!(!fs::read_to_string(&log).unwrap().contains("Status, "));
}

#[test]
fn the_service_manager_is_told_of_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    fs::write(dir.path().join("spread.conf"), file(port, "")).unwrap();
    let mut command = spreadd(dir.path());
    command.args(["-n", "one", "-c", "spread.conf", "--no-local-socket"]);
    let (manager, daemon) = Manager::start(dir.path(), command);
    assert!(manager.told().contains("READY=1"));
    daemon.signal(Signal::SIGHUP);
    let text = manager.told();
    assert!(text.contains("RELOADING=1") && text.contains("MONOTONIC_USEC="), "{text}");
    let text = manager.told();
    assert!(text.contains("READY=1") && !text.contains("failed"), "{text}");
    fs::write(dir.path().join("spread.conf"), "Window=1").unwrap();
    daemon.signal(Signal::SIGHUP);
    assert!(manager.told().contains("RELOADING=1"));
    let text = manager.told();
    assert!(text.contains("READY=1") && text.contains("the last reload failed, see the log"), "{text}");
}
