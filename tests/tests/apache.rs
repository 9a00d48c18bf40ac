//! mod_log_spread in a real Apache, one real daemon, a real log_writer.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::apache::{Mpm, Setup, configtest, free_address};
use tests::cluster::Cluster;
use tests::load::{Load, Outcome, Verdict, get};
use tests::wait;
use tests::weblog::{self, Place, Writer, config, settled, setup, warm_up};

const LIMIT: Duration = Duration::from_secs(60);

fn writer(cluster: &Cluster, args: &[&str]) -> Writer {
    let daemon = cluster.connect_string(0);
    let args = [&["-s", &*daemon, "--group", "site4"], args].concat();
    Writer::start(cluster.dir(), Place::Here, "writer", &args).unwrap().joined().unwrap()
}

fn run(server: SocketAddr, requests: u64) -> Outcome {
    Load::new(&[server], 4, requests).run(&AtomicU64::new(0)).unwrap()
}

fn complete(outcome: &Outcome, log: &str) {
    assert_eq!(outcome.compare(log), Verdict::default(), "of {} requests", outcome.answered.len());
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn every_request_once(mpm: Mpm, more: &str) {
    let cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let plain = cluster.dir().join("plain.log");
    let piped = cluster.dir().join("piped.log");
    let beside = format!(
        "{more}\nCustomLog {} common\nCustomLog \"|$/bin/cat >>{}\" common",
        plain.display(),
        piped.display()
    );
    let apache = weblog::www(&cluster, mpm, "$site4", &beside).unwrap();
    let outcome = run(apache.address(), 400);
    let counters = settled(Place::Here, apache.address(), outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    let (log, _) = writer.stop().unwrap();
    complete(&outcome, &log);
    // Files and pipes beside it have the same lines (and the one of the status page).
    complete(&outcome, &read(&plain));
    wait::until("the piped log", LIMIT, || match outcome.compare(&read(&piped)) {
        verdict if verdict == Verdict::default() => Ok(()),
        verdict => Err(verdict),
    })
    .unwrap();
    assert!(counters["Lines"] >= outcome.answered.len() as u64, "{counters:?}");
    assert_eq!((counters["InDoubt"], counters["DroppedQueueFull"]), (0, 0));
    // The format is the one of the directive.
    let line = log.lines().find(|l| l.contains("?id=7&")).unwrap();
    assert!(line.starts_with("127.0.0.1 - - [") && line.ends_with("\" 200 6"), "{line}");
}

#[test]
fn every_request_is_logged_once_with_event() {
    every_request_once(Mpm::Event, "");
}

#[test]
fn every_request_is_logged_once_with_prefork() {
    every_request_once(Mpm::Prefork, "");
}

#[test]
fn every_request_is_logged_once_with_worker() {
    every_request_once(Mpm::Worker, "");
}

#[test]
fn every_request_is_logged_once_in_frames() {
    every_request_once(Mpm::Event, "SpreadLogWire framed");
}

/// spec: mod_log_spread 7.2: mod_log_config flushes every handle as if it were its own buffer.
#[test]
fn buffered_logs_beside_it_are_complete_and_no_child_crashes() {
    let cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let plain = cluster.dir().join("plain.log");
    let more = format!("BufferedLogs On\nCustomLog {} common", plain.display());
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", &more).unwrap();
    let outcome = run(apache.address(), 50);
    settled(Place::Here, apache.address(), outcome.answered.len() as u64, LIMIT).unwrap();
    let errors = apache.root().join("logs/error.log");
    apache.stop(LIMIT).unwrap();
    let (log, _) = writer.stop().unwrap();
    complete(&outcome, &log);
    complete(&outcome, &read(&plain));
    assert!(!read(&errors).contains("exit signal"), "{}", read(&errors));
}

/// What an old subscriber sees: plain lines, one a message, as the sibling programs of the old module send them.
#[test]
fn a_plain_client_receives_the_lines_of_each_directive_as_they_are() {
    let cluster = weblog::daemon().unwrap();
    let builder = spread::Builder::new(&cluster.connect_string(0)).unwrap();
    let mut client = wait::until("the daemon", LIMIT, || builder.clone().connect_blocking()).unwrap();
    let groups = ["site4", "transfer", "all", "some"];
    for group in groups {
        client.join(group.parse().unwrap()).unwrap();
    }
    client.sender().flush().unwrap();
    let plain = cluster.dir().join("plain.log");
    let address = free_address().unwrap();
    let more = format!(
        "LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so\nSetEnvIf Request_URI index wanted\n\
         CustomLog {} common\nTransferLog $transfer\nGlobalLog $all common\nCustomLog $some common env=wanted\n\
         CustomLog $none common env=!wanted\n<VirtualHost {address}>\nServerName v.test\nCustomLog /dev/null common\n\
         </VirtualHost>",
        plain.display()
    );
    // The virtual host has a log of its own, so only the global one gets its lines.
    let config =
        config(&cluster.connect_string(0), "$site4", &more.replace(&address.to_string(), "*:1")).unwrap();
    let apache =
        weblog::apache(cluster.dir(), Place::Here, setup("www", address, Mpm::Event, config)).unwrap();
    let outcome = run(apache.address(), 40);
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    wait::until("all lines in all groups", LIMIT, || {
        while let Ok(Some(message)) = client.try_receive() {
            let spread::Message::Data(data) = message else { continue };
            assert_eq!(data.message_type(), 1);
            assert_eq!(data.service(), spread::Service::AGREED);
            assert!(data.sender().to_string().starts_with("#m"), "{}", data.sender());
            let line = String::from_utf8(data.payload().to_vec()).unwrap();
            assert_eq!(line.find('\n'), Some(line.len() - 1), "one whole line: {line:?}");
            let all: Vec<String> = data.groups().map(|g| g.to_string()).collect();
            assert_eq!(all.len(), 1);
            got.entry(all[0].clone()).or_default().push(line);
        }
        let counts: Vec<usize> = groups.iter().map(|g| got.get(*g).map_or(0, Vec::len)).collect();
        if counts == [40; 4] { Ok(()) } else { Err(counts) }
    })
    .unwrap();
    let mut file: Vec<String> = read(&plain).lines().map(|l| format!("{l}\n")).collect();
    file.sort();
    for group in groups {
        let mut lines = got.remove(group).unwrap();
        complete(&outcome, &lines.concat());
        lines.sort();
        assert_eq!(lines, file, "{group}");
    }
    apache.stop(LIMIT).unwrap();
}

#[test]
fn requests_do_not_wait_for_a_daemon_that_stands_still() {
    let mut cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "").unwrap();
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    cluster.daemon(0).unwrap().signal(Signal::SIGSTOP).unwrap();
    let outcome = run(apache.address(), 500);
    assert_eq!(outcome.answered.len(), 500);
    // The daemon cannot take part. (An answer reaches its client before its line is logged.)
    wait::until("the lines to wait", LIMIT, || match weblog::counters(Place::Here, apache.address()) {
        Ok(counters) if counters["UnderWay"] >= 500 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    cluster.daemon(0).unwrap().signal(Signal::SIGCONT).unwrap();
    settled(Place::Here, apache.address(), outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    complete(&outcome, &writer.stop().unwrap().0);
}

#[test]
fn lines_wait_for_a_daemon_that_comes_later() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let apache =
        weblog::www(&cluster, Mpm::Event, "$site4", "SpreadLogAudit on\nSpreadLogRetry 50 500").unwrap();
    let outcome = run(apache.address(), 300);
    assert_eq!(outcome.answered.len(), 300, "requests do not wait for the log");
    assert!(apache.error_log().contains("no Spread daemon answers"), "{}", apache.error_log());
    cluster.start_all().unwrap();
    let writer = writer(&cluster, &[]);
    settled(Place::Here, apache.address(), outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    complete(&outcome, &writer.stop().unwrap().0);
}

#[test]
fn a_daemon_that_is_killed_under_load_costs_no_line() {
    let mut cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "SpreadLogRetry 50 500").unwrap();
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    let server = apache.address();
    let progress = std::sync::Arc::new(AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&progress);
    let load = thread::spawn(move || Load::new(&[server], 4, 3_000).run(&counter).unwrap());
    for round in 1..=2 {
        wait::until("progress", LIMIT, || match progress.load(Ordering::Relaxed) {
            n if n >= round * 800 || load.is_finished() => Ok(()),
            n => Err(n),
        })
        .unwrap();
        cluster.kill(0).unwrap();
        cluster.start(0).unwrap();
    }
    let outcome = load.join().unwrap();
    let counters = settled(Place::Here, server, outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    let (log, said) = writer.stop().unwrap();
    complete(&outcome, &log);
    assert!(said.contains("Session lost"), "{said}");
    let lost: Vec<_> =
        ["InDoubt", "DroppedQueueFull", "DroppedAtExit"].iter().map(|n| counters[*n]).collect();
    assert_eq!(lost, [0, 0, 0], "{counters:?}");
}

fn graceful_restarts(mpm: Mpm) {
    let cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let apache = weblog::www(&cluster, mpm, "$site4", "").unwrap();
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    let server = apache.address();
    let done = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let outcome = Load::new(&[server], 4, 1_500).run(&AtomicU64::new(0));
            done.store(true, Ordering::SeqCst);
            outcome.unwrap()
        });
        let mut restarts = 0;
        while !done.load(Ordering::SeqCst) {
            apache.graceful().unwrap();
            restarts += 1;
            let marks = restarts + 1;
            wait::until("the restart", LIMIT, || {
                let log = apache.error_log();
                let seen = log.matches("resuming normal operations").count();
                if seen >= marks || done.load(Ordering::SeqCst) { Ok(()) } else { Err(log) }
            })
            .unwrap();
        }
        assert!(restarts > 0);
        load.join().unwrap()
    });
    let counters = settled(Place::Here, server, outcome.answered.len() as u64, LIMIT).unwrap();
    // Before the stop: a child of event that is stopped while it still closes connections crashes now and then in the
    // server's own close_worker_sockets, without any module of ours too (4 of 130 stops amid restarts).
    let errors = apache.error_log();
    apache.stop(LIMIT).unwrap();
    let (log, _) = writer.stop().unwrap();
    complete(&outcome, &log);
    // Counters are kept over restarts.
    assert!(counters["Lines"] >= outcome.answered.len() as u64, "{counters:?}");
    assert!(!errors.contains("exit signal"), "{errors}");
}

#[test]
fn graceful_restarts_under_load_lose_and_double_nothing_with_event() {
    graceful_restarts(Mpm::Event);
}

#[test]
fn graceful_restarts_under_load_lose_and_double_nothing_with_prefork() {
    graceful_restarts(Mpm::Prefork);
}

#[test]
fn a_full_queue_drops_with_a_count_and_the_writer_knows_the_hole() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    let more = "SpreadLogAudit on\nSpreadLogQueue 256K\nSpreadLogRetry 50 200\nStartServers 1\nServerLimit 1\n\
                MaxRequestWorkers 8\nMaxSpareThreads 8";
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", more).unwrap();
    let mut load = Load::new(&[apache.address()], 4, 400);
    load.padding = 2_000;
    let outcome = load.run(&AtomicU64::new(0)).unwrap();
    assert_eq!(outcome.answered.len(), 400);
    cluster.start_all().unwrap();
    let writer = writer(&cluster, &[]);
    let counters = settled(Place::Here, apache.address(), outcome.answered.len() as u64, LIMIT).unwrap();
    let errors = apache.root().join("logs/error.log");
    apache.stop(LIMIT).unwrap();
    let (log, said) = writer.stop().unwrap();
    let verdict = outcome.compare(&log);
    assert!(verdict.doubled.is_empty() && verdict.strange.is_empty(), "{verdict:?}");
    let dropped = counters["DroppedQueueFull"];
    assert!(dropped > 100, "{counters:?}");
    assert_eq!(verdict.missing.len() as u64, dropped, "{counters:?}");
    assert_eq!(sum_after(&read(&errors), "lines dropped: "), dropped, "{}", read(&errors));
    assert_eq!(sum_after(&said, " lines="), dropped, "{said}");
}

/// Sum of the numbers that follow `mark` in a text.
fn sum_after(text: &str, mark: &str) -> u64 {
    let numbers = text.split(mark).skip(1).filter(|rest| mark != " lines=" || rest.contains("reason="));
    numbers
        .map(|rest| {
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap_or(0)
        })
        .sum()
}

#[test]
fn a_server_without_a_daemon_ends_and_counts_what_it_drops() {
    let cluster = Cluster::on_loopback(1).unwrap();
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "").unwrap();
    let outcome = run(apache.address(), 200);
    let errors = apache.root().join("logs/error.log");
    let begun = std::time::Instant::now();
    apache.stop(LIMIT).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(
        sum_after(&read(&errors), "lines dropped: "),
        outcome.answered.len() as u64,
        "{}",
        read(&errors)
    );
}

#[test]
fn virtual_hosts_are_spread_over_groups_and_written_to_a_file_each() {
    let cluster = weblog::daemon().unwrap();
    let mut args = vec![];
    let groups: Vec<String> = (0..4).map(|n| format!("v-000{n}")).collect();
    args.extend(groups.iter().flat_map(|g| ["--group", &**g]));
    let vhosts = cluster.dir().join("vhosts");
    let daemon = cluster.connect_string(0);
    let mut writer = tests::process::Process::start("writer", cluster.dir(), {
        let mut command = std::process::Command::new(tests::bins::bin("log_writer", "log_writer").unwrap());
        command.args(["-s", &*daemon, "--fsync", "50ms"]).args(&args).arg("--vhost-dir").arg(&vhosts);
        command
    })
    .unwrap();
    writer.wait_printed("Joined;", LIMIT).unwrap();
    let mut more = String::from(
        "SpreadLogVhostBuckets 4\nLogFormat \"%v %h %l %u %t \\\"%r\\\" %>s %b\" byhost\nCustomLog $#v byhost\n",
    );
    let names = ["a.test", "b.test", "C.test", "d.test", "e.test"];
    let address = free_address().unwrap();
    for name in names {
        more.push_str(&format!("<VirtualHost {address}>\nServerName {name}\n</VirtualHost>\n"));
    }
    // The first log is unused: virtual hosts take both from the main server.
    let config = config(&daemon, "$unread", &more).unwrap();
    let apache =
        weblog::apache(cluster.dir(), Place::Here, setup("www", address, Mpm::Event, config)).unwrap();
    let mut outcomes = BTreeMap::new();
    for (i, name) in (0..).zip(names) {
        let mut load = Load::new(&[address], 2, 20);
        (load.first, load.host) = (1 + 1000 * i, name.to_owned());
        outcomes.insert(name.to_lowercase(), load.run(&AtomicU64::new(0)).unwrap());
    }
    for (name, outcome) in &outcomes {
        let path = vhosts.join(name);
        wait::until("the lines of a host", LIMIT, || match outcome.compare(&read(&path)) {
            verdict if verdict == Verdict::default() => Ok(()),
            verdict => Err(format!("{name}: {verdict:?}")),
        })
        .unwrap();
        assert!(read(&path).starts_with("127.0.0.1 - - ["), "the first word is cut off: {}", read(&path));
    }
    apache.stop(LIMIT).unwrap();
    assert!(writer.stop(LIMIT).unwrap().success());
}

#[test]
fn a_line_that_is_too_long_is_cut_and_counted() {
    let cluster = weblog::daemon().unwrap();
    let writer = writer(&cluster, &[]);
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "SpreadLogMaxLine 512").unwrap();
    let (status, _) = get(apache.address(), &format!("/index.html?id=1&{}", "y".repeat(2_000))).unwrap();
    assert_eq!(status, 200);
    let counters = settled(Place::Here, apache.address(), 1, LIMIT).unwrap();
    assert_eq!(counters["Cut"], 1);
    apache.stop(LIMIT).unwrap();
    let (log, _) = writer.stop().unwrap();
    let line = log.lines().find(|l| l.contains("?id=1&")).unwrap();
    assert!(line.len() < 512 && line.contains("...[cut ") && line.ends_with("bytes]\""), "{line}");
}

#[test]
fn wrong_directives_are_refused_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    for (directive, words) in [
        ("CustomLog $ common", "CustomLog \"$\": the group name after \"$\" is empty"),
        ("CustomLog \"$a b\" common", "byte 0x20 at position 3"),
        ("TransferLog $#", "TransferLog \"$#\""),
        ("GlobalLog $a/b common", "GlobalLog \"$a/b\": byte 0x2f"),
        (
            "<VirtualHost *:1>\nCustomLog $aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa common\n</VirtualHost>",
            "has 32 bytes",
        ),
        ("SpreadDaemon host", "SpreadDaemon: \"host\""),
        ("SpreadDaemon", "SpreadDaemon takes one or more daemons"),
        ("SpreadLogQueue 1", "SpreadLogQueue: \"1\" is not a size"),
        ("SpreadLogWire round", "\"round\" is not one of: plain, framed"),
        ("SpreadLogRetry 500 100", "below the shortest"),
        ("SpreadLogSpool /tmp/x 1K", "SpreadLogSpool: \"1K\" is not a size"),
        ("<VirtualHost *:1>\nSpreadLogSpool /tmp/x\n</VirtualHost>", "SpreadLogSpool cannot occur within"),
        ("SpreadErrorLog errors", "SpreadErrorLog: \"errors\" is no $group"),
        ("SpreadErrorLog $errors loud", "\"loud\" is not one of: emerg, alert"),
        ("SpreadErrorLog $a/b", "byte 0x2f"),
        ("SpreadLogVhostBuckets 0", "not a number from 1 to 10000"),
        ("<VirtualHost *:1>\nSpreadLogQueue 4M\n</VirtualHost>", "SpreadLogQueue cannot occur within"),
    ] {
        let config = config("4803", "$site4", &format!("#marker\n{directive}")).unwrap();
        let setup = Setup {
            name: "www".into(),
            listen: "127.0.0.1:1".parse().unwrap(),
            mpm: Mpm::Event,
            config: config.clone(),
        };
        let (accepted, said) = configtest(dir.path(), &setup).unwrap();
        assert!(!accepted && said.contains(words), "{directive}: {said}");
        let file = read(&dir.path().join("www/httpd.conf"));
        let marker = file.lines().position(|l| l == "#marker").unwrap();
        let first = marker + 2;
        let lines = [first, first + 1];
        let named = lines.iter().any(|n| said.contains(&format!("on line {n} of ")));
        assert!(named && said.contains("httpd.conf"), "{directive}, line {lines:?}: {said}");
    }
}

#[test]
fn good_directives_are_accepted_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let more = "SpreadDaemon 4803 4803@192.0.2.1\nSpreadLogWire framed $billing\nSpreadLogService safe\n\
                SpreadLogVhostBuckets 100\nSpreadLogVhostHash legacy\nSpreadLogQueue 1M\nSpreadLogMaxWait 5\n\
                SpreadLogWhenFull drop-oldest\nSpreadLogMaxLine 8K\nSpreadLogBatch 8192 10\nSpreadLogAudit on +\n\
                SpreadLogRetry 100 1000\nTransferLog $site5\nGlobalLog $all common\nCustomLog $#v common env=!x\n\
                <VirtualHost *:1>\nSpreadDaemon 4804\nSpreadLogWire plain\nCustomLog $own common\n</VirtualHost>";
    let config = config("4803", "$site4", more).unwrap();
    let setup = Setup { name: "www".into(), listen: "127.0.0.1:1".parse().unwrap(), mpm: Mpm::Event, config };
    let (accepted, said) = configtest(dir.path(), &setup).unwrap();
    assert!(accepted, "{said}");
}

#[test]
fn an_output_that_cannot_be_opened_is_a_usage_error() {
    let program = tests::bins::bin("log_writer", "log_writer").unwrap();
    let output = std::process::Command::new(program)
        .args(["-s", "1", "--group", "site4", "--output", "/proc/nothing/access.log"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot open /proc/nothing/access.log"), "{said}");
}

#[test]
fn a_killed_log_writer_loses_and_doubles_nothing() {
    let cluster = weblog::daemon().unwrap();
    let mut running = Some(writer(&cluster, &[]));
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "").unwrap();
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    let server = apache.address();
    let mut outcome = Outcome::default();
    for round in 0..4 {
        let mut load = Load::new(&[server], 4, 300);
        load.first = 1 + 1000 * round;
        let progress = AtomicU64::new(0);
        thread::scope(|scope| {
            let clients = scope.spawn(|| load.run(&progress).unwrap());
            wait::until("progress", LIMIT, || match progress.load(Ordering::Relaxed) {
                n if n >= 150 => Ok(()),
                n => Err(n),
            })
            .unwrap();
            running.take().unwrap().kill().unwrap();
            // What a crash leaves at the end of the file.
            let path = cluster.dir().join("writer.access");
            let torn = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut &torn, b"127.0.0.1 - - [torn").unwrap();
            running = Some(writer(&cluster, &[]));
            outcome.add(clients.join().unwrap());
        });
    }
    settled(Place::Here, server, outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    let (log, said) = running.unwrap().stop().unwrap();
    complete(&outcome, &log);
    assert!(!log.contains("torn") && said.contains("cut and saved"), "{said}");
}

#[test]
fn renamed_files_and_hangups_lose_and_split_no_line() {
    let cluster = weblog::daemon().unwrap();
    let mut writer = writer(&cluster, &[]);
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "").unwrap();
    warm_up(Place::Here, apache.address(), LIMIT).unwrap();
    let server = apache.address();
    let done = AtomicBool::new(false);
    let mut all = String::new();
    let outcome = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let outcome = Load::new(&[server], 4, 1_200).run(&AtomicU64::new(0));
            done.store(true, Ordering::SeqCst);
            outcome.unwrap()
        });
        let mut n = 0;
        while !done.load(Ordering::SeqCst) {
            n += 1;
            let old = cluster.dir().join(format!("old.{n}"));
            std::fs::rename(writer.path(), &old).unwrap();
            writer.process().signal(Signal::SIGHUP).unwrap();
            let path = writer.path().to_owned();
            wait::until("the new file", LIMIT, || if path.exists() { Ok(()) } else { Err(()) }).unwrap();
        }
        assert!(n > 1, "the load was too short for a rotation");
        for i in 1..=n {
            all.push_str(&read(&cluster.dir().join(format!("old.{i}"))));
            assert!(all.is_empty() || all.ends_with('\n'), "a line was split in old.{i}");
        }
        clients.join().unwrap()
    });
    settled(Place::Here, server, outcome.answered.len() as u64, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    // The last old file may have got lines after it was read.
    let (log, _) = writer.stop().unwrap();
    let rotated: String = (1..)
        .map(|i| cluster.dir().join(format!("old.{i}")))
        .take_while(|p| p.exists())
        .map(|p| read(&p))
        .collect();
    complete(&outcome, &(rotated + &log));
}

#[test]
fn a_full_disk_is_told_and_lines_wait() {
    let cluster = weblog::daemon().unwrap();
    let daemon = cluster.connect_string(0);
    let full = cluster.dir().join("full");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let mut writer = tests::process::Process::start("writer", cluster.dir(), {
        let mut command = std::process::Command::new(tests::bins::bin("log_writer", "log_writer").unwrap());
        command.args(["-s", &*daemon, "--group", "site4", "--output"]).arg(&full);
        command
    })
    .unwrap();
    writer.wait_printed("Joined;", LIMIT).unwrap();
    let apache = weblog::www(&cluster, Mpm::Event, "$site4", "SpreadLogAudit on").unwrap();
    run(apache.address(), 20);
    writer.wait_printed("cannot be written; lines wait in memory", LIMIT).unwrap();
    // Room returns: the name leads to a usable file now, which is opened anew.
    let real = cluster.dir().join("real");
    std::fs::remove_file(&full).unwrap();
    std::os::unix::fs::symlink(&real, &full).unwrap();
    writer.signal(Signal::SIGHUP).unwrap();
    settled(Place::Here, apache.address(), 20, LIMIT).unwrap();
    apache.stop(LIMIT).unwrap();
    assert!(writer.stop(LIMIT).unwrap().success());
    assert_eq!(read(&real).matches("?id=").count(), 20, "{}", read(&real));
}
