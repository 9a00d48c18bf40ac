//! Alerts of `spread-web` by real traffic of a real Apache.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::apache::{Mpm, free_address};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::weblog::{self, Place};
use tests::{bins, load, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// Takes what is posted to it.
fn receiver() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let (sender, posts) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut len) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                len =
                    line.strip_prefix("Content-Length: ").map_or(len, |value| value.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body).unwrap();
            let _ = (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            let _ = sender.send(serde_json::from_slice(&body).unwrap());
        }
    });
    (url, posts)
}

#[test]
fn failing_requests_and_a_lost_writer_are_told_once_when_they_begin_and_once_when_they_end() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0], LIMIT).unwrap();
    let (url, posts) = receiver();
    let rules = cluster.dir().join("alerts.toml");
    let text = format!(
        "[[alert]]\nname = \"missing pages\"\nkind = \"status\"\nstatus = \"4xx\"\nabove_percent = 50.0\nover = \"10s\"\n\
         min_requests = 10\nwebhook = \"{url}\"\n\
         [[alert]]\nname = \"writers\"\nkind = \"members\"\ngroup = \"site4\"\nat_least = 2\nwebhook = \"{url}\"\n"
    );
    fs::write(&rules, text).unwrap();
    let start_writer = |name: &str| {
        let mut writer = Command::new(bins::bin("log_writer", "log_writer").unwrap());
        writer.args(["-s", &cluster.connect_string(0), "--group", "site4", "--output"]);
        writer.arg(cluster.dir().join(format!("{name}.log")));
        Process::start(name, cluster.dir(), writer).unwrap()
    };
    let writer = start_writer("writer");
    let mut web = Command::new(bins::bin("monitors", "spread-web").unwrap());
    web.args(["-s", &cluster.connect_string(0), "--group", "site4", "--listen", "127.0.0.1:0", "--alerts"])
        .arg(&rules);
    let mut web = Process::start("spread-web", cluster.dir(), web).unwrap();
    web.wait_printed("The page is at", LIMIT).unwrap();
    let next = |name: &str| {
        // Another rule may be told in between: at the start there may be no writer yet.
        loop {
            let post = posts.recv_timeout(LIMIT).unwrap();
            if post["name"] == name {
                return (
                    post["state"].as_str().unwrap().to_owned(),
                    post["text"].as_str().unwrap().to_owned(),
                );
            }
        }
    };

    let config = weblog::config(&cluster.connect_string(0), "$site4", "").unwrap();
    let setup = weblog::setup("web1", free_address().unwrap(), Mpm::Event, config);
    let apache = weblog::apache(cluster.dir(), Place::Here, setup).unwrap();
    for n in 0..20 {
        load::get(apache.address(), &format!("/missing-{n}")).unwrap();
    }
    let (state, text) = next("missing pages");
    assert!(state == "begins" && text.contains("h1: ") && text.contains("were 4xx in 10s"), "{text}");
    // The ten seconds pass without failures.
    assert_eq!(next("missing pages").0, "ends");

    writer.stop(LIMIT).unwrap();
    let (state, text) = next("writers");
    assert_eq!((state.as_str(), text.as_str()), ("begins", "site4 has 1 members, not 2"));
    let writer = start_writer("writer2");
    assert_eq!(next("writers").0, "ends");
    assert!(web.printed().contains("were 4xx in 10s"), "{}", web.printed());

    writer.stop(LIMIT).unwrap();
    web.signal(Signal::SIGTERM).unwrap();
    web.wait_end(LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
}

#[test]
fn an_imbalance_and_a_silent_server_are_told_once_when_they_begin_and_once_when_they_end() {
    let mut cluster = Cluster::on_loopback(2).unwrap();
    cluster.start_all().unwrap();
    for index in 0..2 {
        cluster.daemon(index).unwrap().wait_printed("daemons=2", LIMIT).unwrap();
    }
    let told = cluster.dir().join("told");
    let rules = cluster.dir().join("alerts.toml");
    let command = format!(
        "command = [\"/bin/sh\", \"-c\", \"echo \\\"$ALERT_STATE $ALERT_NAME $ALERT_TEXT\\\" >> {}\"]",
        told.display()
    );
    let text = format!(
        "[[alert]]\nname = \"imbalance\"\nkind = \"imbalance\"\nfactor = 1.5\nover = \"10s\"\nmin_requests = 40\n{command}\n\
         [[alert]]\nname = \"silent\"\nkind = \"silent\"\nseconds = 3\n{command}\n"
    );
    fs::write(&rules, text).unwrap();
    let mut web = Command::new(bins::bin("monitors", "spread-web").unwrap());
    web.args(["-s", &cluster.connect_string(0), "--group", "site4", "--listen", "127.0.0.1:0", "--alerts"])
        .arg(&rules);
    let mut web = Process::start("spread-web", cluster.dir(), web).unwrap();
    web.wait_printed("The page is at", LIMIT).unwrap();
    let start = |index: usize| {
        let config = weblog::config(&cluster.connect_string(index), "$site4", "").unwrap();
        let setup = weblog::setup(&format!("web{index}"), free_address().unwrap(), Mpm::Event, config);
        weblog::apache(cluster.dir(), Place::Here, setup).unwrap()
    };
    let apaches = [start(0), start(1)];
    let said = |line: &str| {
        fs::read_to_string(&told).unwrap_or_default().lines().filter(|l| l.contains(line)).count()
    };
    // h1 has 38 of 40 requests, and nothing is judged before all are seen; then both fall silent, and one speaks again.
    for n in 0..40 {
        load::get(apaches[usize::from(n % 20 == 0)].address(), "/index.html").unwrap();
    }
    let all = [
        "begins imbalance h1: 38 requests in 10s, the mean of all is 20",
        "begins silent h1: no line for",
        "begins silent h2: no line for",
        "ends imbalance",
    ];
    wait::until("the alerts", LIMIT, || {
        let counts = all.map(said);
        if counts == [1; 4] { Ok(()) } else { Err(format!("{counts:?} {:?}", fs::read_to_string(&told))) }
    })
    .unwrap();
    load::get(apaches[1].address(), "/index.html").unwrap();
    wait::until("the end", LIMIT, || {
        if said("ends silent silent is over for h2") == 1 { Ok(()) } else { Err(()) }
    })
    .unwrap();
    assert_eq!(said("ends silent silent is over for h1"), 0);
    web.signal(Signal::SIGTERM).unwrap();
    web.wait_end(LIMIT).unwrap();
    for apache in apaches {
        apache.stop(LIMIT).unwrap();
    }
}
