//! Compiles the C programs of the rows of `spec/c-api-cases.md` against our headers, links them to the shared libraries
//! and runs them against a live daemon.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use spread::{Builder, Message};
use spreadd::{Daemon, Options};
use tempfile::TempDir;
use tests::bins;
use tests::cluster::Cluster;

/// A library: its package, the name cargo gives it, and the one programs link to.
#[derive(Clone, Copy)]
struct Library(&'static str, &'static str, &'static str);

const CORE: Library = Library("spread-core", "spread_core", "spread-core");
const TCORE: Library = Library("tspread-core", "tspread_core", "tspread-core");
const FULL: Library = Library("spread-full", "spread_full", "spread");

impl Library {
    /// The library under the names programs link to and load.
    fn install(self, dir: &Path) {
        let Self(package, built, name) = self;
        let built = bins::shared_library(package, built).unwrap();
        symlink(&built, dir.join(format!("lib{name}.so"))).unwrap();
        symlink(&built, dir.join(format!("lib{name}.so.3"))).unwrap();
    }
}

fn capi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("libspread-rs/capi")
}

fn cc(compiler: &str, args: &[&str], source: &str, library: Library, dir: &Path) -> PathBuf {
    let program = dir.join(source.replace('.', "_"));
    let out = Command::new(compiler)
        .args(args)
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
            "-Wno-unused-variable",
            "-pthread",
            "-I",
        ])
        .arg(capi().join("include"))
        .arg(capi().join("tests").join(source))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(dir)
        .arg(format!("-l{}", library.2))
        .output()
        .unwrap();
    assert!(out.status.success(), "{compiler} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    program
}

/// Runs a program with the port of a daemon; it may ask for the daemon to be stopped. Gives what it printed.
fn run(source: &str, library: Library) -> String {
    run_with(source, library, |_| {})
}

/// The same with a daemon that is set up otherwise.
fn run_with(source: &str, library: Library, set: impl FnOnce(&mut Options)) -> String {
    let mut options = Options::alone("localhost".parse().unwrap(), 0);
    options.listen = vec!["127.0.0.1".parse().unwrap()];
    options.threads = 1;
    set(&mut options);
    let daemon = Daemon::start(options).unwrap();
    let port = daemon.port().to_string();
    let mut daemon = Some(daemon);
    talk(source, library, &[&port], |asked| {
        assert_eq!(asked, "stop");
        daemon.take().unwrap().stop();
    })
}

/// Compiles and runs a program, and does what it asks for. Gives what it printed.
fn talk(source: &str, library: Library, args: &[&str], mut ask: impl FnMut(&str)) -> String {
    let dir = TempDir::new().unwrap();
    library.install(dir.path());
    let program = cc("cc", &["-g", "-O1"], source, library, dir.path());
    let mut child = Command::new(program)
        .args(args)
        .env("LD_LIBRARY_PATH", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut printed = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(asked) = line.strip_prefix('@') {
            ask(asked);
            answers.write_all(b"done\n").unwrap();
        } else {
            printed.push_str(&line);
            printed.push('\n');
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}\n{printed}");
    printed
}

#[test]
fn the_headers_are_as_published_in_c89_c99_and_cxx() {
    let dir = TempDir::new().unwrap();
    FULL.install(dir.path());
    for (compiler, args) in [
        ("cc", &["-std=c89", "-pedantic"][..]),
        ("cc", &["-std=c99", "-pedantic"]),
        ("c++", &["-x", "c++", "-Wno-unused-local-typedefs"]),
    ] {
        let program = cc(compiler, args, "header.c", FULL, dir.path());
        let status = Command::new(program).env("LD_LIBRARY_PATH", dir.path()).status().unwrap();
        assert!(status.success());
    }
}

/// A program that is linked to a library asks the loader for the published name.
#[test]
fn the_libraries_have_the_names_the_loader_is_asked_for() {
    for library in [CORE, TCORE, FULL] {
        let built = bins::shared_library(library.0, library.1).unwrap();
        let bytes = std::fs::read(built).unwrap();
        let name = format!("lib{}.so.3\0", library.2);
        assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
        let flush = bytes.windows(11).any(|part| part == b"FL_receive\0");
        assert_eq!(flush, library.2 == "spread", "the flush layer is in libspread alone");
    }
}

#[test]
fn connecting() {
    let printed = run("connect.c", TCORE);
    assert!(printed.contains("SP_error: (-8) "), "MS3: {printed}");
}

#[test]
fn messages() {
    run("messages.c", TCORE);
}

#[test]
fn messages_with_the_library_for_one_thread() {
    run("messages.c", CORE);
}

#[test]
fn threads() {
    run("threads.c", TCORE);
}

#[test]
fn events() {
    run("events.c", TCORE);
}

#[test]
fn the_flush_layer() {
    let printed = run("flush.c", FULL);
    assert!(printed.contains("FL_error: (-27) ") && printed.contains("SP_error: (-8) "), "{printed}");
}

#[test]
fn limits() {
    run_with("limits.c", TCORE, |options| options.limits.sessions_max = 10);
}

/// Two daemons, of which one does not run for a while.
#[test]
fn a_network_that_changes() {
    let mut cluster = Cluster::on_loopback(2).unwrap();
    cluster.start_all().unwrap();
    for index in 0..2 {
        let limit = Duration::from_secs(30);
        cluster.daemon(index).unwrap().wait_printed("Serving clients", limit).unwrap();
    }
    let (h1, h2) = (cluster.connect_string(0), cluster.connect_string(1));
    wait_for_ring(&h1, &h2);
    talk("network.c", FULL, &[&h1, &h2], |asked| {
        let signal = match asked {
            "stop 2" => Signal::SIGSTOP,
            "cont 2" => Signal::SIGCONT,
            other => panic!("asked for {other}"),
        };
        cluster.daemon(1).unwrap().signal(signal).unwrap();
    });
}

/// The daemons are in one ring when members see each other.
fn wait_for_ring(h1: &str, h2: &str) {
    let join = |daemon: &str| {
        let mut member = Builder::new(daemon).unwrap().membership(true).connect_blocking().unwrap();
        member.join("ring".parse().unwrap()).unwrap();
        member
    };
    let (mut one, _two) = (join(h1), join(h2));
    loop {
        let message = one.receive_timeout(Duration::from_secs(30)).unwrap().expect("a view with both");
        if matches!(message, Message::Membership(view) if view.members.len() == 2) {
            return;
        }
    }
}
