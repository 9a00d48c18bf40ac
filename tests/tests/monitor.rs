//! What a monitor knows of who publishes: servers below the host, frames, and lines that were missed.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::apache::{Apache, Mpm, free_address};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::weblog::{self, Place, Writer};
use tests::{bins, load, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn apache(cluster: &Cluster, name: &str, more: &str) -> Apache {
    // One child: its numbers are those of the whole server.
    let one = "ServerLimit 1\nStartServers 1\nMaxRequestWorkers 8\nMinSpareThreads 1\nMaxSpareThreads 8\n";
    let config = weblog::config(&cluster.connect_string(0), "$site4", &format!("{one}{more}")).unwrap();
    let setup = weblog::setup(name, free_address().unwrap(), Mpm::Event, config);
    weblog::apache(cluster.dir(), Place::Here, setup).unwrap()
}

fn monitor(dir: &Path, daemon: &str, more: &[&str]) -> (Process, SocketAddr) {
    let mut web = Command::new(bins::bin("monitors", "spread-web").unwrap());
    web.args(["-s", daemon, "--group", "$site4", "--listen", "127.0.0.1:0"]).args(more);
    let mut web = Process::start("spread-web", dir, web).unwrap();
    web.wait_printed("The page is at http://", LIMIT).unwrap();
    let printed = web.printed();
    let address = printed.split("The page is at http://").nth(1).unwrap().split('/').next().unwrap();
    let address = address.parse().unwrap();
    (web, address)
}

fn snapshot(address: SocketAddr) -> Value {
    serde_json::from_str(&load::get(address, "/api/snapshot?over=1m").unwrap().1).unwrap()
}

fn until(what: &str, address: SocketAddr, holds: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, LIMIT, || {
        let shot = snapshot(address);
        if holds(&shot) { Ok(shot) } else { Err(format!("{} of {shot}", shot["sources"])) }
    })
    .unwrap()
}

fn ask(server: &Apache, count: usize, path: &str) {
    for _ in 0..count {
        load::get(server.address(), path).unwrap();
    }
}

#[test]
fn apaches_of_one_host_are_told_apart_and_frames_are_read() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    let writer = Writer::start(
        cluster.dir(),
        Place::Here,
        "writer",
        &["-s", &cluster.connect_string(0), "-g", "site4"],
    );
    let writer = writer.unwrap().joined().unwrap();
    let (web, page) = monitor(cluster.dir(), &cluster.connect_string(0), &["--servers", "apaches"]);
    let plain = apache(&cluster, "plain", "");
    let framed = apache(&cluster, "framed", "SpreadLogWire framed\n");
    // Before a writer has answered, plain lines have no number.
    weblog::warm_up(Place::Here, plain.address(), LIMIT).unwrap();
    ask(&plain, 20, "/index.html?a");
    ask(&framed, 30, "/missing");
    let shot = until("all lines", page, |shot| {
        let lines = |name: &str| {
            let sources = shot["sources"].as_array().unwrap().iter();
            sources.filter(|s| s["apache"] == name).filter_map(|s| s["lines"].as_u64()).sum::<u64>()
        };
        lines("plain.test") >= 21
            && lines("framed.test") == 30
            && shot["total"]["windows"]["1m"]["classes"][4] == 30
    });
    let names: Vec<&str> =
        shot["servers"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["framed.test@h1", "plain.test@h1"]);
    for (counter, expected) in [("missed", 0), ("dropped", 0), ("twice", 0), ("broken", 0)] {
        assert_eq!(shot["intake"][counter], expected, "{shot}");
    }
    assert_eq!(shot["top_over"], "1m");
    assert_eq!(
        (&shot["top"]["failed_path"][0]["value"], &shot["top"]["failed_path"][0]["count"]),
        (&"/missing".into(), &30.into())
    );
    let members: Vec<&String> = shot["daemons"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["h1"]);
    let exact = writer.text().unwrap().lines().count() as u64;
    assert_eq!(shot["intake"]["lines"].as_u64().unwrap(), exact, "as in the unified log");
    for process in [plain, framed] {
        process.stop(LIMIT).unwrap();
    }
    web.stop(LIMIT).unwrap();
    writer.stop().unwrap();
}

/// It begins when the Apaches have long said hello: one whose lines a writer confirms, one that nobody answers.
#[test]
fn a_monitor_that_comes_later_asks_who_the_apaches_are() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    let daemon = cluster.connect_string(0);
    let servers = [apache(&cluster, "first", ""), apache(&cluster, "second", "SpreadLogWire framed\n")];
    let known = |shot: &Value, name: &str| {
        shot["sources"].as_array().unwrap().iter().any(|s| s["apache"] == name && s["lines"] != 0)
    };
    for with_writer in [false, true] {
        let args = ["-s", daemon.as_str(), "-g", "site4"];
        let writer = with_writer.then(|| {
            let writer =
                Writer::start(cluster.dir(), Place::Here, "writer", &args).unwrap().joined().unwrap();
            weblog::warm_up(Place::Here, servers[0].address(), LIMIT).unwrap();
            writer
        });
        servers.iter().for_each(|server| ask(server, 3, "/index.html"));
        let dir = cluster.dir().join(format!("monitor-{with_writer}"));
        fs::create_dir(&dir).unwrap();
        let (web, page) = monitor(&dir, &daemon, &["--servers", "apaches"]);
        // The second line comes when the first one was answered by a hello.
        until("both names", page, |shot| {
            servers.iter().for_each(|server| ask(server, 1, "/index.html"));
            known(shot, "first.test") && known(shot, "second.test")
        });
        web.stop(LIMIT).unwrap();
        if let Some(writer) = writer {
            writer.stop().unwrap();
        }
    }
    for server in servers {
        server.stop(LIMIT).unwrap();
    }
}

#[test]
fn daemons_without_a_member_are_shown_too() {
    let mut cluster = Cluster::on_loopback(3).unwrap();
    let metrics = free_address().unwrap();
    let conf = cluster.conf();
    cluster.start_with(0, &conf, &["--metrics", &metrics.to_string()]).unwrap();
    cluster.start(1).unwrap();
    cluster.daemon(0).unwrap().wait_printed("daemons=2", LIMIT).unwrap();
    let (web, page) =
        monitor(cluster.dir(), &cluster.connect_string(0), &["--daemon-metrics", &metrics.to_string()]);
    let ring = |shot: &Value| -> Vec<(String, bool)> {
        let daemons = shot["ring"]["daemons"].as_array().cloned().unwrap_or_default();
        daemons.iter().map(|d| (d["name"].as_str().unwrap().to_owned(), d["member"] == true)).collect()
    };
    let states = |third| vec![("h1".to_owned(), true), ("h2".to_owned(), true), ("h3".to_owned(), third)];
    // Of the group's members there is the monitor itself, once its join has come back to it.
    let members = |shot: &Value| shot["daemons"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    until("the ring of two", page, |shot| ring(shot) == states(false) && members(shot) == ["h1"]);
    cluster.start(2).unwrap();
    until("the ring of three", page, |shot| ring(shot) == states(true));
    cluster.kill(0).unwrap();
    let shot = until("no answer", page, |shot| shot["ring"]["error"].is_string());
    assert_eq!(ring(&shot), states(true), "what was known");
    web.stop(LIMIT).unwrap();
}

#[test]
fn lines_of_a_lost_connection_are_counted_as_missed_by_their_numbers() {
    let mut cluster = Cluster::on_loopback(2).unwrap();
    cluster.start_all().unwrap();
    for index in 0..2 {
        cluster.daemon(index).unwrap().wait_printed("daemons=2", LIMIT).unwrap();
    }
    let writer = Writer::start(
        cluster.dir(),
        Place::Here,
        "writer",
        &["-s", &cluster.connect_string(0), "-g", "site4"],
    );
    let writer = writer.unwrap().joined().unwrap();
    let (web, page) = monitor(cluster.dir(), &cluster.connect_string(1), &[]);
    let server = apache(&cluster, "web", "SpreadLogWire framed\n");
    ask(&server, 10, "/index.html");
    until("the first lines", page, |shot| shot["intake"]["lines"] == 10);
    cluster.kill(1).unwrap();
    ask(&server, 25, "/index.html");
    wait::until("the lines in the unified log", LIMIT, || {
        let lines = writer.text().unwrap().lines().count();
        if lines == 35 { Ok(()) } else { Err(lines) }
    })
    .unwrap();
    cluster.start(1).unwrap();
    // Its daemon is alone at first; the log writer is a member of the group through the other one.
    let back = |shot: &Value| shot["intake"]["reconnects"] == 1 && shot["daemons"].get("h1").is_some();
    until("the monitor to be back", page, back);
    ask(&server, 5, "/index.html");
    let shot = until("the last lines", page, |shot| shot["intake"]["lines"] == 15);
    assert_eq!(shot["intake"]["missed"], 25, "{shot}");
    assert_eq!(shot["sources"][0]["missed"], 25, "{shot}");
    server.stop(LIMIT).unwrap();
    web.stop(LIMIT).unwrap();
    let (log, _) = writer.stop().unwrap();
    assert_eq!(log.lines().count(), 40);
    cluster.daemon(1).unwrap().signal(Signal::SIGTERM).unwrap();
}
