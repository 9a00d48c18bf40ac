//! The example programs of the client library, run once each against a daemon in this process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use spread::blocking::Connection;
use spread::{Builder, Message, Service};
use spreadd::{Daemon, Options};
use tests::bins;

const LIMIT: Duration = Duration::from_secs(20);

fn daemon() -> (Daemon, String) {
    let daemon = Daemon::start(Options::embedded()).unwrap();
    let address = daemon.connect_string();
    (daemon, address)
}

/// A running program. Dropping it kills it.
struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { stdin: child.stdin.take(), child, lines }
    }

    fn example(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(bins::example("libspread", name).unwrap());
        command.args(args);
        Self::start(command)
    }

    fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a line with this in it.
    fn expect(&self, part: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            let found = line.contains(part);
            seen.push(line);
            if found {
                return;
            }
        }
        panic!("{part:?} was expected in {seen:#?}");
    }

    /// Ends its input, and waits for its end.
    fn end(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A member that sees who joins.
fn watcher(address: &str, group: &str) -> Connection {
    let mut watcher = Builder::new(address).unwrap().membership(true).connect_blocking().unwrap();
    watcher.join(group.parse().unwrap()).unwrap();
    await_members(&mut watcher, 1);
    watcher
}

fn await_members(watcher: &mut Connection, count: usize) {
    loop {
        let message = watcher.receive_timeout(LIMIT).unwrap().expect("a view in time");
        if matches!(message, Message::Membership(view) if view.members.len() == count) {
            return;
        }
    }
}

#[test]
fn two_people_chat() {
    let (_daemon, address) = daemon();
    let mut ann = Program::example("chat", &[&address, "room", "ann"]);
    ann.expect("#ann#test joins, 1 here");
    let mut bob = Program::example("chat", &[&address, "room", "bob"]);
    ann.expect("#bob#test joins, 2 here");
    ann.say("hello\n");
    bob.expect("ann: hello");
    bob.say("good day\n");
    ann.expect("bob: good day");
    bob.end();
    ann.expect("#bob#test leaves");
    ann.end();
}

#[test]
fn replicas_count_the_same() {
    let (_daemon, address) = daemon();
    let mut watcher = watcher(&address, "hits");
    // The watcher knows no value: the first replica would wait for one.
    watcher.leave("hits".parse().unwrap()).unwrap();
    assert!(matches!(watcher.receive_timeout(LIMIT).unwrap(), Some(Message::SelfLeave { .. })));
    let mut one = Program::example("counter", &[&address, "hits"]);
    one.say("5\n-2\n");
    one.expect("3");
    let mut two = Program::example("counter", &[&address, "hits"]);
    two.expect("3");
    two.say("40\n");
    one.expect("43");
    two.expect("43");
    one.end();
    two.end();
}

#[test]
fn a_log_group_is_followed() {
    let (_daemon, address) = daemon();
    let mut watcher = watcher(&address, "weblogs");
    let tail = Program::example("tail", &[&address, "weblogs"]);
    await_members(&mut watcher, 2);
    watcher
        .multicast(Service::AGREED, "weblogs".parse::<spread::GroupName>().unwrap(), 0, "GET /\n")
        .unwrap();
    watcher.multicast(Service::AGREED, "weblogs".parse::<spread::GroupName>().unwrap(), 0, "GET /a").unwrap();
    tail.expect("GET /");
    tail.expect("GET /a");
}

#[test]
fn a_monitor_counts() {
    let (_daemon, address) = daemon();
    let mut watcher = watcher(&address, "weblogs");
    let monitor = Program::example("monitor", &[&address, "weblogs"]);
    await_members(&mut watcher, 2);
    watcher.multicast(Service::AGREED, "weblogs".parse::<spread::GroupName>().unwrap(), 0, "12345").unwrap();
    monitor.expect("1 messages/s          5 bytes/s");
}

/// The binding for Python over the C library.
#[test]
fn a_python_program_takes_part() {
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have python3");
        return;
    }
    let (_daemon, address) = daemon();
    let mut watcher = watcher(&address, "chat");
    let dir = tempfile::tempdir().unwrap();
    let library = bins::shared_library("spread-core", "spread_core").unwrap();
    symlink(library, dir.path().join("libspread-core.so.3")).unwrap();
    let script: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("libspread-rs/capi/examples/spread.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).args([&address, "chat", "hello from python"]);
    command.env("LD_LIBRARY_PATH", dir.path());
    let python = Program::start(command);
    python.expect("group chat has 2 members");
    python.expect(": hello from python");
    python.end();
    await_members(&mut watcher, 2);
    let data = watcher.receive_timeout(LIMIT).unwrap().unwrap();
    assert!(matches!(data, Message::Data(data) if data.payload() == b"hello from python"));
    await_members(&mut watcher, 1);
}
