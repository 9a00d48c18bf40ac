//! A real log_writer with sources that are made here: audit, rotation, slow and full outputs, bad input.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use log_stream::frame::FLAG_STRICT;
use log_stream::{Frame, Kind, SourceId, TYPE_FRAME, TYPE_PLAIN};
use nix::sys::signal::Signal;
use spread::blocking::Connection;
use spread::{Builder, Service};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::{bins, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn daemon() -> Cluster {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    // Who comes before the daemon listens warns that nobody answers.
    cluster.wait_ring(&[0], LIMIT).unwrap();
    cluster
}

fn program() -> PathBuf {
    bins::bin("log_writer", "log_writer").unwrap()
}

/// A writer of the group `g` that has joined.
fn writer(cluster: &Cluster, name: &str, args: &[&str]) -> Process {
    let mut command = Command::new(program());
    command.args(["-s", &cluster.connect_string(0), "--group", "g", "--fsync", "50ms"]).args(args);
    started(cluster, name, command)
}

fn started(cluster: &Cluster, name: &str, mut command: Command) -> Process {
    command.current_dir(cluster.dir());
    let mut process = Process::start(name, cluster.dir(), command).unwrap();
    process.wait_printed("Joined;", LIMIT).unwrap();
    process
}

/// Ends it in order; gives what it printed.
fn stop(mut process: Process) -> String {
    process.signal(Signal::SIGTERM).unwrap();
    let status = process.wait_end(LIMIT).unwrap();
    assert!(status.success(), "{status}: {}", process.printed());
    process.printed()
}

fn audit(cluster: &Cluster, args: &[&str]) -> Output {
    Command::new(program()).current_dir(cluster.dir()).arg("audit").args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn read(cluster: &Cluster, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(cluster.dir().join(name)).unwrap_or_default()).into_owned()
}

fn wait_lines(cluster: &Cluster, name: &str, lines: usize) {
    wait::until("all lines", LIMIT, || match read(cluster, name).lines().count() {
        n if n == lines => Ok(()),
        n => Err(format!("{n} of {lines}")),
    })
    .unwrap();
}

/// A web-server process.
struct Source {
    connection: Connection,
    id: SourceId,
    flags: u8,
}

impl Source {
    fn new(cluster: &Cluster, id: u8, flags: u8) -> Self {
        let address = cluster.connect_string(0).parse().unwrap();
        let connection = Builder::from_address(address).connect_blocking().unwrap();
        Self { connection, id: SourceId([id; 16]), flags }
    }

    fn send(&mut self, payload: Bytes, mess_type: i16) {
        let group: spread::GroupName = "g".parse().unwrap();
        self.connection.multicast(Service::AGREED, group, mess_type, payload).unwrap();
    }

    fn frame(&mut self, kind: Kind, seq: u64, records: &[&[u8]]) {
        let frame = Frame::encode(kind, self.flags, self.id, seq, 0, records).unwrap();
        self.send(frame, TYPE_FRAME);
    }

    /// Lines with these numbers, a hundred in a frame.
    fn lines(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at <= to {
            let end = to.min(at + 99);
            let lines: Vec<Vec<u8>> =
                (at..=end).map(|n| format!("line {n} of {:?}\n", self.id.0[0]).into_bytes()).collect();
            let records: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            self.frame(Kind::Lines, at, &records);
            at = end + 1;
        }
    }
}

#[test]
fn the_audit_proves_what_two_writers_have() {
    let cluster = daemon();
    let writers = ["a", "b"].map(|name| writer(&cluster, name, &["--output", name]));
    let mut one = Source::new(&cluster, 1, 0);
    let mut two = Source::new(&cluster, 2, 0);
    one.lines(1, 500);
    two.lines(1, 300);
    one.lines(201, 250);
    one.frame(Kind::Goodbye, 500, &[]);
    for name in ["a", "b"] {
        wait_lines(&cluster, name, 800);
    }
    let clean = audit(&cluster, &["a", "--compare", "b"]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean));
    assert!(text(&clean).contains("CLEAN") && text(&clean).contains("IDENTICAL"), "{}", text(&clean));
    // Ten are lost on the way.
    two.lines(311, 320);
    for (name, process) in ["a", "b"].into_iter().zip(writers) {
        wait_lines(&cluster, name, 810);
        stop(process);
    }
    let found = audit(&cluster, &["a", "--json", "--compare", "b"]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    let value: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let (one, two) = (&value["sources"][0], &value["sources"][1]);
    assert_eq!((one["lines"].as_u64(), one["left_out"].as_u64()), (Some(500), Some(50)), "{value}");
    assert_eq!((one["ended"].as_u64(), one["clean"].as_bool()), (Some(500), Some(true)), "{value}");
    assert_eq!((two["lines"].as_u64(), two["missing"].as_u64()), (Some(310), Some(10)), "{value}");
    assert_eq!(two["gaps"][0]["from"], 301);
    assert_eq!(value["comparisons"][0]["identical"], true);
    // A file that somebody edited, or that nobody can read.
    let mut bytes = std::fs::read(cluster.dir().join("b")).unwrap();
    bytes[5] = b'X';
    std::fs::write(cluster.dir().join("b"), bytes).unwrap();
    let edited = audit(&cluster, &["b", "--compare", "a"]);
    assert_eq!(edited.status.code(), Some(1));
    assert!(text(&edited).contains("not those that were written"), "{}", text(&edited));
    assert!(text(&edited).contains("from line 1 (byte 0) on"), "{}", text(&edited));
    assert_eq!(audit(&cluster, &["nowhere"]).status.code(), Some(2));
}

#[test]
fn writers_begin_new_files_at_the_same_line() {
    let cluster = daemon();
    let dirs = ["a", "b"];
    let writers = dirs.map(|name| {
        let output = format!("{name}/log-%s");
        let args = ["--output", &output, "--compress", "gzip", "--rotate-size", "20K", "--link"];
        let mut process = writer(&cluster, name, &[&args[..], &[&format!("{name}/now")]].concat());
        process.wait_printed("New files begun", LIMIT).unwrap();
        process
    });
    let mut source = Source::new(&cluster, 1, 0);
    let mut sent = 0;
    let files = |name: &str| {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(cluster.dir().join(name)).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            if file.starts_with("log-")
                && !file.ends_with(".audit")
                && !file.ends_with(".state")
                && !file.ends_with(".tmp")
            {
                let mut content = Vec::new();
                // It may have been compressed since.
                let Ok(bytes) = std::fs::File::open(&path) else { continue };
                match file.strip_suffix(".gz") {
                    Some(_) => flate2::read::GzDecoder::new(bytes).read_to_end(&mut content).unwrap(),
                    None => { bytes }.read_to_end(&mut content).unwrap(),
                };
                if !content.is_empty() {
                    files.insert(file.trim_end_matches(".gz").to_owned(), content);
                }
            }
        }
        files
    };
    // Lines all the time, over some ends of seconds.
    wait::until("some files", LIMIT, || {
        source.lines(sent + 1, sent + 300);
        sent += 300;
        match std::fs::read_dir(cluster.dir().join("a")).unwrap().count() {
            n if n > 16 => Ok(()),
            n => Err(n),
        }
    })
    .unwrap();
    for (process, name) in writers.into_iter().zip(dirs) {
        wait::until("the last line", LIMIT, || {
            match read(&cluster, &format!("{name}/now")).contains(&format!("line {sent} of")) {
                true => Ok(()),
                // The last second may have ended since.
                false
                    if files(name)
                        .values()
                        .any(|f| String::from_utf8_lossy(f).contains(&format!("line {sent} of"))) =>
                {
                    Ok(())
                }
                false => Err(()),
            }
        })
        .unwrap();
        stop(process);
    }
    let (a, b) = (files("a"), files("b"));
    assert!(a == b, "{:?} {:?}", a.keys(), b.keys());
    assert!(a.len() > 3 && a.values().all(|f| f.len() <= 20 << 10), "{:?}", a.keys());
    let lines: Vec<u8> = a.into_values().flatten().collect();
    assert_eq!(String::from_utf8_lossy(&lines).lines().count() as u64, sent);
    let mut names: Vec<String> = std::fs::read_dir(cluster.dir().join("a"))
        .unwrap()
        .map(|e| format!("a/{}", e.unwrap().file_name().to_str().unwrap()))
        .filter(|n| n.contains("log-") && !n.ends_with(".audit") && !n.ends_with(".state"))
        .collect();
    names.sort();
    let proof = audit(&cluster, &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(proof.status.code(), Some(0), "{}", text(&proof));
}

#[test]
fn an_output_that_stands_still_costs_no_line_and_no_session() {
    let cluster = daemon();
    let gate = cluster.dir().join("gate");
    // The command takes nothing before the gate is there.
    let output = format!("|while ! test -e {}; do sleep 0.05; done; cat >slow", gate.display());
    let args = ["--output", &output, "--buffer", "1M", "--spill-dir", ".", "--no-state"];
    let mut process = writer(&cluster, "w", &args);
    let mut source = Source::new(&cluster, 1, 0);
    // Far more than fits into the memory, the pipe and the buffers between them.
    source.lines(1, 200_000);
    process.wait_printed("lines wait on disk", LIMIT).unwrap();
    source.lines(200_001, 230_000);
    std::fs::write(&gate, "").unwrap();
    wait_lines(&cluster, "slow", 230_000);
    process.wait_printed("that waited on disk are taken", LIMIT).unwrap();
    process.signal(Signal::SIGUSR2).unwrap();
    process.wait_printed("spill_high_water=", LIMIT).unwrap();
    let said = stop(process);
    assert!(!said.contains("Session lost") && !said.contains("GAP"), "{said}");
    assert!(read(&cluster, "slow").lines().zip(1..).all(|(line, n)| line == format!("line {n} of 1")));
}

#[test]
fn a_disk_that_is_full_costs_no_line() {
    let cluster = daemon();
    let disk = cluster.dir().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // A small disk that only the writer sees; what fills it is removed later.
    let script = format!(
        "mount -t tmpfs -o size=512k none {0} && head -c 400k /dev/zero >{0}/ballast && exec {1} -s {2} --group g \
         --fsync 50ms --output {0}/log",
        disk.display(),
        program().display(),
        cluster.connect_string(0)
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let possible = Command::new("unshare").args(["--mount", "true"]).status();
    if !possible.is_ok_and(|s| s.success()) {
        eprintln!("not run: no mounts of our own");
        return;
    }
    let mut process = started(&cluster, "w", command);
    let inside = PathBuf::from(format!("/proc/{}/root{}", process.pid(), disk.display()));
    let mut source = Source::new(&cluster, 1, 0);
    source.lines(1, 10_000);
    process.wait_printed("cannot be written", LIMIT).unwrap();
    std::fs::remove_file(inside.join("ballast")).unwrap();
    let log = inside.join("log");
    wait::until("all lines", LIMIT, || {
        match std::fs::read_to_string(&log).unwrap_or_default().lines().count() {
            10_000 => Ok(()),
            n => Err(n),
        }
    })
    .unwrap();
    process.wait_printed("takes lines again", LIMIT).unwrap();
    wait::until("a clean audit", LIMIT, || {
        let found = audit(&cluster, &[log.to_str().unwrap()]);
        if found.status.success() { Ok(()) } else { Err(text(&found)) }
    })
    .unwrap();
    stop(process);
}

#[test]
fn a_spool_that_is_replayed_after_a_restart_doubles_nothing() {
    let cluster = daemon();
    let args = ["--output", "log", "--exactly-once"];
    let first = writer(&cluster, "w1", &args);
    let mut child = Source::new(&cluster, 1, FLAG_STRICT);
    child.frame(Kind::Hello, 1, &[b"first=1\nhost=www1\n"]);
    child.lines(1, 100);
    child.frame(Kind::Goodbye, 100, &[]);
    wait_lines(&cluster, "log", 100);
    let said = stop(first);
    assert!(!said.contains("WARN"), "{said}");
    // The acknowledgements never arrived: another child sends what it found in the spool, and more.
    let second = writer(&cluster, "w2", &args);
    let mut other = Source::new(&cluster, 1, FLAG_STRICT);
    other.frame(Kind::Hello, 1, &[b"first=1\nhost=www1\n"]);
    other.lines(1, 120);
    wait_lines(&cluster, "log", 120);
    stop(second);
    let found = audit(&cluster, &["log"]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found));
    assert!(text(&found).contains("100 duplicates were left out"), "{}", text(&found));
}

/// Lines without numbers are not sent again, and the order says which of them came before the end.
#[test]
fn what_was_ordered_before_the_end_is_written() {
    let cluster = daemon();
    let mut process = writer(&cluster, "w", &["--output", "log"]);
    process.signal(Signal::SIGSTOP).unwrap();
    let mut source = Source::new(&cluster, 1, 0);
    for n in 0..200 {
        source.send(Bytes::from(format!("line {n}\n")), TYPE_PLAIN);
    }
    // What comes back to the sender is in the order, and so are the lines before it.
    let own = source.connection.private_group().as_group();
    source.connection.multicast(Service::AGREED, own, 0, Bytes::new()).unwrap();
    source.connection.receive().unwrap();
    process.signal(Signal::SIGTERM).unwrap();
    process.signal(Signal::SIGCONT).unwrap();
    assert!(process.wait_end(LIMIT).unwrap().success(), "{}", process.printed());
    assert_eq!(read(&cluster, "log").lines().count(), 200);
}

#[test]
fn bad_input_is_counted_and_hurts_nobody() {
    let cluster = daemon();
    let raw = writer(&cluster, "raw", &["--output", "raw"]);
    let json = writer(&cluster, "json", &["--output", "json", "--format", "json"]);
    let mut source = Source::new(&cluster, 1, 0);
    let good = b"192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n";
    let long = [&vec![b'x'; 65_535][..], b"\n"].concat();
    source.send(Bytes::from_static(good), TYPE_PLAIN);
    source.send(Bytes::from(long.clone()), TYPE_PLAIN);
    source.send(Bytes::from_static(b"\x00\xff\x1b[31m \"\\\xc3\x28\n"), TYPE_PLAIN);
    source.send(Bytes::new(), TYPE_PLAIN);
    let frame = Frame::encode(Kind::Lines, 0, source.id, 1, 0, &[b"never\n"]).unwrap();
    source.send(frame.slice(..frame.len() - 1), TYPE_FRAME);
    source.send(Bytes::from_static(b"the end\n"), TYPE_PLAIN);
    wait_lines(&cluster, "raw", 4);
    wait_lines(&cluster, "json", 4);
    let bytes = std::fs::read(cluster.dir().join("raw")).unwrap();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!((lines[0], lines[1]), (&good[..], &long[..]));
    assert_eq!(lines[2], b"\x00\xff\x1b[31m \"\\\xc3\x28\n");
    let values: Vec<serde_json::Value> =
        read(&cluster, "json").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&values[0]["status"], &values[0]["target"]), (&200.into(), &"/1".into()));
    assert_eq!(values[1]["unparsed"].as_str().unwrap().len(), 65_535);
    assert!(values[2]["raw_b64"].is_string(), "{}", values[2]);
    let said = stop(raw);
    assert!(said.contains("no log lines were left out"), "{said}");
    stop(json);
    let found = audit(&cluster, &["raw"]);
    assert_eq!(found.status.code(), Some(1), "lines without numbers prove nothing");
    assert_eq!(audit(&cluster, &["raw", "--allow-unnumbered"]).status.code(), Some(0), "{}", text(&found));
}

#[test]
fn ten_thousand_virtual_hosts_need_few_descriptors() {
    let cluster = daemon();
    // In memory, if there is such a place: disks that discard blocks take long to remove ten thousand files.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let hosts = dir.path().join("hosts");
    let process = writer(&cluster, "w", &["--vhost-dir", hosts.to_str().unwrap()]);
    let mut source = Source::new(&cluster, 1, 0);
    for at in (1..=10_000u64).step_by(100) {
        let lines: Vec<Vec<u8>> =
            (at..at + 100).map(|n| format!("host{n}.test line {n}\n").into_bytes()).collect();
        source.frame(Kind::Lines, at, &lines.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    let open = || std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count();
    let mut most = 0;
    wait::until("all hosts", LIMIT, || {
        most = most.max(open());
        let written = |n: u64| {
            std::fs::read_to_string(hosts.join(format!("host{n}.test"))).is_ok_and(|t| !t.is_empty())
        };
        match [1, 5_000, 10_000].into_iter().all(written) {
            true => Ok(()),
            false => Err(()),
        }
    })
    .unwrap();
    wait::until("closed files", LIMIT, || match open() {
        n if n < 1_100 => Ok(()),
        n => Err(n),
    })
    .unwrap();
    stop(process);
    assert_eq!(std::fs::read_dir(&hosts).unwrap().count(), 10_000);
    assert_eq!(std::fs::read_to_string(hosts.join("host777.test")).unwrap(), "line 777\n");
    let found = audit(&cluster, &[hosts.to_str().unwrap()]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found));
    assert!(most > 10);
}

#[test]
fn configurations_are_checked_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, content: &str| {
        let path: PathBuf = Path::new(dir.path()).join(name);
        std::fs::write(&path, content).unwrap();
        Command::new(program()).args(["--check", "-c"]).arg(path).output().unwrap()
    };
    let good =
        check("w.toml", "[[spread]]\n[[spread.log]]\ngroup = \"a\"\noutput = \"/tmp/x-%F\"\nkeep = 3\n");
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    let bad = check("w.toml", "[[spread]]\n[[spread.log]]\ngroup = \"a\"\nrotate = \"7h\"\n");
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad).contains("line 4") && text(&bad).contains('^'), "{}", text(&bad));
    let bad = check("spreadlogd.conf", "Spread {\n Log {\n Group = a\n Flie = x\n }\n}\n");
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad).contains("line 4") && text(&bad).contains("did you mean \"File\"?"), "{}", text(&bad));
}
