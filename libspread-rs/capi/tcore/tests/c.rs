//! Compiles the C programs of the rows of `spec/c-api-cases.md` against our header, links them to the shared library
//! and runs them against a live daemon.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use spreadd::{Daemon, Options};
use tempfile::TempDir;

/// The library beside the test program, under the names programs link to and load.
fn library(dir: &Path) {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let built = deps.join("libtspread_core.so");
    assert!(built.exists(), "{} is not there", built.display());
    for name in ["libtspread-core.so", "libtspread-core.so.3"] {
        symlink(&built, dir.join(name)).unwrap();
    }
}

fn capi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cc(compiler: &str, args: &[&str], source: &str, dir: &Path) -> PathBuf {
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
        .arg("-ltspread-core")
        .output()
        .unwrap();
    assert!(out.status.success(), "{compiler} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    program
}

/// Runs a program with the port of a daemon; it may ask for the daemon to be stopped. Gives what it printed.
fn run(source: &str) -> String {
    let dir = TempDir::new().unwrap();
    library(dir.path());
    let program = cc("cc", &["-g", "-O1"], source, dir.path());
    let mut options = Options::alone("localhost".parse().unwrap(), 0);
    options.listen = vec!["127.0.0.1".parse().unwrap()];
    options.threads = 1;
    let daemon = Daemon::start(options).unwrap();
    let mut child = Command::new(program)
        .arg(daemon.port().to_string())
        .env("LD_LIBRARY_PATH", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Some(daemon);
    let mut answers = child.stdin.take().unwrap();
    let mut printed = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "@stop" {
            daemon.take().unwrap().stop();
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
fn the_header_is_as_published_in_c89_c99_and_cxx() {
    let dir = TempDir::new().unwrap();
    library(dir.path());
    for (compiler, args) in [
        ("cc", &["-std=c89", "-pedantic"][..]),
        ("cc", &["-std=c99", "-pedantic"]),
        ("c++", &["-x", "c++", "-Wno-unused-local-typedefs"]),
    ] {
        let program = cc(compiler, args, "header.c", dir.path());
        let status = Command::new(program).env("LD_LIBRARY_PATH", dir.path()).status().unwrap();
        assert!(status.success());
    }
}

#[test]
fn connecting() {
    let printed = run("connect.c");
    assert!(printed.contains("SP_error: (-8) "), "MS3: {printed}");
}

#[test]
fn messages() {
    run("messages.c");
}

#[test]
fn threads() {
    run("threads.c");
}

#[test]
fn events() {
    run("events.c");
}
