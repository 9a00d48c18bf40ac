//! mod_log_spread at its limits: error-log lines, odd bytes, long lines, very many virtual hosts.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fmt::Write;
use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use spread::blocking::Connection;
use tests::apache::{Mpm, Setup, configtest, free_address};
use tests::cluster::Cluster;
use tests::load::{Load, get};
use tests::wait;
use tests::weblog::{self, Place, Writer, config, settled, setup};

const LIMIT: Duration = Duration::from_secs(60);

fn member_of(cluster: &Cluster, groups: &[&str]) -> Connection {
    let builder = spread::Builder::new(&cluster.connect_string(0)).unwrap();
    let mut client = wait::until("the daemon", LIMIT, || builder.clone().connect_blocking()).unwrap();
    for group in groups {
        client.join(group.parse().unwrap()).unwrap();
    }
    client.sender().flush().unwrap();
    client
}

/// Adds the lines that arrived.
fn receive(client: &mut Connection, lines: &mut Vec<String>) {
    while let Ok(Some(message)) = client.try_receive() {
        if let spread::Message::Data(data) = message {
            lines.push(String::from_utf8_lossy(data.payload()).into_owned());
        }
    }
}

const DENIED: &str = "LoadModule authz_host_module /usr/lib/apache2/modules/mod_authz_host.so\n\
                      <Location \"/denied\">\nRequire all denied\n</Location>\n";

#[test]
fn error_log_lines_go_to_their_group_and_not_beyond_their_rate() {
    let cluster = weblog::daemon().unwrap();
    let mut client = member_of(&cluster, &["errors"]);
    let more =
        format!("{DENIED}SpreadErrorLog $errors warn 20\nStartServers 1\nServerLimit 1\nMaxSpareThreads 8");
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", &more).unwrap();
    let mut lines = Vec::new();
    assert_eq!(get(apache.address(), "/denied").unwrap().0, 403);
    wait::until("the line", LIMIT, || {
        receive(&mut client, &mut lines);
        if lines.is_empty() { Err(()) } else { Ok(()) }
    })
    .unwrap();
    let line = &lines[0];
    assert!(line.contains("] [authz_core:error] [pid ") && line.contains("] [client 127.0.0.1:"), "{line}");
    assert!(
        line.contains("AH01630: client denied by server configuration: ") && line.ends_with("denied\n"),
        "{line}"
    );
    assert!(apache.error_log().contains("AH01630"), "the file has it too");
    // Far more than 20 a second.
    for _ in 0..100 {
        assert_eq!(get(apache.address(), "/denied").unwrap().0, 403);
    }
    let counters = weblog::counters(Place::Here, apache.address()).unwrap();
    assert!(counters["ErrorLinesSuppressed"] > 10 && counters["ErrorLines"] < 91, "{counters:?}");
    // The next line that may go says how many did not.
    wait::until("the number of those left out", LIMIT, || {
        assert_eq!(get(apache.address(), "/denied").unwrap().0, 403);
        receive(&mut client, &mut lines);
        if lines.iter().any(|l| l.contains("[log_spread:warn]") && l.contains("lines left out: ")) {
            Ok(())
        } else {
            Err(lines.len())
        }
    })
    .unwrap();
    apache.stop(LIMIT).unwrap();
}

#[test]
fn errors_of_sending_make_no_lines_to_send() {
    // No daemon: the module itself has much to complain of.
    let cluster = Cluster::on_loopback(1).unwrap();
    let more = "SpreadErrorLog $errors\nSpreadLogRetry 1 5\nSpreadLogQueue 256K\nStartServers 1\nServerLimit 1\n\
                MaxSpareThreads 8";
    let apache = weblog::www(&cluster, Mpm::Worker, "$site4", more).unwrap();
    let mut load = Load::new(&[apache.address()], 4, 400);
    load.padding = 2_000;
    load.run(&AtomicU64::new(0)).unwrap();
    wait::until("complaints", LIMIT, || {
        let log = apache.error_log();
        if log.contains("no Spread daemon answers") && log.contains("lines dropped: ") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .unwrap();
    let counters = wait::until("failures", LIMIT, || {
        let counters = weblog::counters(Place::Here, apache.address()).unwrap();
        if counters["ConnectFailures"] > 3 { Ok(counters) } else { Err(counters) }
    })
    .unwrap();
    assert_eq!(counters["ErrorLines"], 0, "{counters:?}");
    apache.stop(LIMIT).unwrap();
}

#[test]
fn a_line_of_64_kib_and_binary_bytes_arrive_as_they_are() {
    let cluster = weblog::daemon().unwrap();
    let daemon = cluster.connect_string(0);
    let args = ["-s", &*daemon, "--group", "site4"];
    let writer = Writer::start(cluster.dir(), Place::Here, "writer", &args).unwrap().joined().unwrap();
    let odd = "\u{1}\u{7f}\u{80}\u{ff}\u{fffd}\u{1b}[31m";
    // The status page is not logged: looking at it would keep lines under way, and they are what is waited for.
    let more = format!(
        "LimitRequestLine 70000\nSpreadLogMaxLine 100K\nLogFormat \"{odd} %r %D {odd}\" odd\n\
         CustomLog $site4 odd \"expr=%{{REQUEST_URI}} != '/status'\""
    );
    let apache = weblog::www(&cluster, Mpm::Prefork, "$site4", &more).unwrap();
    let path = format!("/index.html?id=1&{}", "y".repeat(65_536));
    assert_eq!(get(apache.address(), &path).unwrap().0, 200);
    let counters = settled(Place::Here, apache.address(), 2, LIMIT).unwrap();
    assert_eq!(counters["Cut"], 0);
    apache.stop(LIMIT).unwrap();
    let output = writer.path().to_owned();
    writer.stop().unwrap();
    let log = fs::read(output).unwrap();
    let lines: Vec<&[u8]> = log.split(|b| *b == b'\n').filter(|l| l.len() > 60_000).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.windows(path.len()).any(|w| w == path.as_bytes())));
    let line = lines.iter().find(|l| l.starts_with(odd.as_bytes())).expect("the odd line");
    assert!(line.ends_with(odd.as_bytes()));
}

#[test]
fn ten_thousand_virtual_hosts_start_in_bounded_time() {
    let cluster = weblog::daemon().unwrap();
    let mut hosts = String::new();
    for n in 0..10_000 {
        // Half of them with a group of their own, the others in the common family.
        let log = if n % 2 == 0 { format!("CustomLog $v{n} common\n") } else { String::new() };
        writeln!(hosts, "<VirtualHost *:PORT>\nServerName v{n}.test\n{log}</VirtualHost>").unwrap();
    }
    let address = free_address().unwrap();
    let more = hosts.replace("PORT", &address.port().to_string());
    let config =
        config(&cluster.connect_string(0), "$#mass", &format!("SpreadLogVhostBuckets 1000\n{more}")).unwrap();
    let bare = config.lines().filter(|l| !l.contains("Spread") && !l.contains("log_spread"));
    let bare: String = bare.flat_map(|l| [l, "\n"]).collect();
    // What the server itself needs for so many hosts, with files of the same names.
    let plain = Setup { name: "plain".into(), listen: address, mpm: Mpm::Event, config: bare };
    let begun = Instant::now();
    let (good, said) = configtest(cluster.dir(), &plain).unwrap();
    assert!(good, "{said}");
    let alone = begun.elapsed();
    let begun = Instant::now();
    let setup = setup("www", address, Mpm::Event, format!("StartServers 1\nServerLimit 1\n{config}"));
    let mut apache = weblog::apache(cluster.dir(), Place::Here, setup).unwrap();
    let started = begun.elapsed();
    assert!(started < alone * 4 + Duration::from_secs(10), "{started:?}, without the module {alone:?}");
    let mut client = member_of(&cluster, &["v9998", "mass-0000"]);
    let mut load = Load::new(&[address], 1, 1);
    load.host = "v9998.test".into();
    load.run(&AtomicU64::new(0)).unwrap();
    let mut lines = Vec::new();
    wait::until("its line", LIMIT, || {
        receive(&mut client, &mut lines);
        if lines.len() == 1 { Ok(()) } else { Err(lines.clone()) }
    })
    .unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", apache.process().pid())).unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    assert!(rss.parse::<u64>().unwrap() < 400_000, "{rss} kB in the parent");
    apache.stop(LIMIT).unwrap();
}
