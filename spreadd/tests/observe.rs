//! What an administrator sees: `spreadd status`, the metrics, the event log, the state file.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::program::{LIMIT, Running, free_port, output};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::Value;
use spread_wire::ServiceType;
use spreadd::Daemon;

/// A daemon alone on a free port; returns the port too.
fn alone(dir: &Path, args: &[&str]) -> (Running, u16) {
    let port = free_port();
    let text = port.to_string();
    let args = [&["--port", &text, "--listen", "127.0.0.1"], args].concat();
    (Running::serving(dir, &args), port)
}

/// Runs `spreadd status` on the sockets of `dir`; standard output.
fn status(dir: &Path, args: &[&str]) -> String {
    let dir_text = dir.to_str().unwrap();
    let (output, errors) = output(dir, &[&["status", "--socket-dir", dir_text], args].concat());
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&status(dir, &[&["--json"], args].concat())).unwrap()
}

/// Where the metrics are, from the log.
fn metrics_addr(daemon: &Running) -> SocketAddr {
    let line = daemon.seen.lines().find(|line| line.contains("Serving metrics.")).unwrap();
    line.split("addr=").nth(1).unwrap().trim().parse().unwrap()
}

/// Head and body of the answer.
fn http(addr: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn get(addr: SocketAddr, path: &str) -> (String, String) {
    http(addr, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// The value of a sample.
fn sample(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in:\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn status_shows_sessions_and_groups_as_a_table_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let (_daemon, port) = alone(dir.path(), &[]);
    let connect = |name| common::Client::on(TcpStream::connect(("127.0.0.1", port)).unwrap(), name).unwrap();
    let (mut alice, mut bob) = (connect("alice"), connect("bob"));
    for client in [&mut alice, &mut bob] {
        client.join("chat");
    }
    let all = json(dir.path(), &[]);
    assert_eq!(all["name"], "localhost");
    assert_eq!(all["port"], port);
    assert_eq!(all["ring"]["state"], "operational");
    assert_eq!(all["ring"]["members"], serde_json::json!(["localhost"]));
    assert_eq!(all["changes"][0]["cause"], "start");
    assert_eq!(all["sessions"]["live"], 2);
    let names: BTreeSet<&str> =
        all["sessions"]["list"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["#alice#localhost", "#bob#localhost"]));
    assert_eq!(all["sessions"]["list"][0]["address"], "127.0.0.1");
    assert_eq!(all["groups"]["list"], serde_json::json!([{ "name": "chat", "members": 2 }]));
    assert_eq!(all["counters"]["sessions"]["sessions_total"], 2);
    let table = status(dir.path(), &["-p", &port.to_string()]);
    for text in ["operational, 1 of 1 daemons", "#alice#localhost", "SESSIONS 2 of", "chat", "2 members"] {
        assert!(table.contains(text), "{text} is not in:\n{table}");
    }
}

#[test]
fn status_says_why_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for (args, expected) in [
        (
            &["status", "--socket-dir", path][..],
            "no status: no daemon runs here: there is no control socket in",
        ),
        (&["status", "--socket-dir", path, "-p", "4803"], "no status: no daemon runs here on port 4803"),
    ] {
        let (output, text) = output(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    // A daemon that was killed leaves its socket; the next one replaces it.
    let (mut daemon, port) = alone(dir.path(), &[]);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let (output_, text) = output(dir.path(), &["status", "--socket-dir", path]);
    assert_eq!(output_.status.code(), Some(1));
    assert!(text.contains("it ended without removing this file"), "{text}");
    let text = port.to_string();
    let mut again = Running::serving(dir.path(), &["--port", &text, "--listen", "127.0.0.1"]);
    assert_eq!(json(dir.path(), &[])["pid"], again.child.id());
    again.signal(Signal::SIGTERM);
    assert_eq!(again.wait(), 0);
    assert!(!dir.path().join(format!("{port}.control")).exists());
}

#[test]
fn the_control_socket_is_for_root_and_the_daemons_user() {
    let dir = tempfile::tempdir().unwrap();
    let (_daemon, port) = alone(dir.path(), &[]);
    let socket = dir.path().join(format!("{port}.control"));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    if !Uid::effective().is_root() {
        return;
    }
    // Also where the mode of the file does not hinder: the daemon asks the system who asks.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let program = dir.path().join("spreadd");
    fs::copy(env!("CARGO_BIN_EXE_spreadd"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program);
    command.args(["status", "--socket-dir"]).arg(dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("only root and the user that the daemon runs as may ask"), "{text}");
    // Nonsense on the socket hurts nobody.
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(&[0xff; 200]).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("error: "), "{answer}");
    assert_eq!(json(dir.path(), &[])["port"], port);
}

#[test]
fn a_ring_explains_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = dir.path().join("spread.conf");
    fs::write(&conf, format!("Spread_Segment 127.0.0.255:{port} {{\n  one 127.0.0.1\n  two 127.0.0.2\n}}\n"))
        .unwrap();
    let sockets = [dir.path().join("1"), dir.path().join("2")];
    let start = |name, sockets: &Path| {
        fs::create_dir_all(sockets).unwrap();
        Running::start(sockets, &["-n", name, "-c", conf.to_str().unwrap(), "--metrics", "0"])
    };
    let mut one = start("one", &sockets[0]);
    let mut two = start("two", &sockets[1]);
    for daemon in [&mut one, &mut two] {
        daemon.wait_for("daemons=2 members=one two");
    }
    let state = json(&sockets[0], &[]);
    assert_eq!(state["ring"]["members"], serde_json::json!(["one", "two"]));
    assert_eq!(state["ring"]["place"], 1);
    assert_eq!(json(&sockets[1], &[])["ring"]["place"], 2);
    assert_eq!(state["daemons"][1]["state"], "member");
    assert_eq!(state["daemons"][1]["address"], format!("127.0.0.2:{port}"));
    assert_eq!(state["configuration_hash"], json(&sockets[1], &[])["configuration_hash"]);
    two.child.kill().unwrap();
    one.wait_for("daemons=1 members=one");
    let state = json(&sockets[0], &[]);
    let last = state["changes"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["cause"], &last["lost"]),
        (&"token_loss".into(), &serde_json::json!(["two"])),
        "{last}"
    );
    let table = status(&sockets[0], &[]);
    assert!(table.contains("1 daemon -two") && table.contains("token_loss"), "{table}");
    // The events before it, and those of now.
    let changes = status(&sockets[0], &["--changes"]);
    assert!(changes.contains("received presence node=n1") && changes.contains("(token_loss)"), "{changes}");
    assert!(status(&sockets[0], &["--events"]).contains("regular node=n0"));
    let metrics = get(metrics_addr(&one), "/metrics").1;
    assert_eq!(sample(&metrics, "spreadd_ring_membership_changes_total{cause=\"token_loss\"}"), 1.0);
    assert_eq!(sample(&metrics, "spreadd_ring_members"), 1.0);
    assert_eq!(sample(&metrics, "spreadd_peer_heard{peer=\"two\"}"), 0.0);
    assert!(sample(&metrics, "spreadd_ring_forming_seconds_count") >= 2.0);
}

#[test]
fn metrics_are_served_and_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, port) = alone(dir.path(), &["--metrics", "0"]);
    let addr = metrics_addr(&daemon);
    assert!(addr.ip().is_loopback(), "a port alone means the loopback interface");
    let mut alice = common::Client::on(TcpStream::connect(("127.0.0.1", port)).unwrap(), "alice").unwrap();
    alice.join("chat");
    let frame = alice.message(ServiceType::AGREED, &[common::group("chat")], b"hello");
    alice.send(&frame);
    assert_eq!(alice.data()[..], b"hello"[..]);
    let (head, text) = get(addr, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(sample(&text, "spreadd_sessions"), 1.0);
    assert_eq!(sample(&text, "spreadd_groups"), 1.0);
    assert_eq!(sample(&text, "spreadd_group_memberships"), 1.0);
    assert_eq!(sample(&text, "spreadd_session_requests_total"), 2.0);
    assert_eq!(
        sample(&text, "spreadd_ring_messages_delivered_total"),
        sample(&text, "spreadd_ring_messages_submitted_total")
    );
    // Names of clients and groups are no labels.
    assert!(!text.contains("alice") && !text.contains("chat"));
    // The form: every sample belongs to a family with a type and a help, none comes twice, values are numbers.
    let mut seen = BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(family), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        let stem =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end)).unwrap_or(bare);
        assert!(bare == family || stem == family, "{line} stands in the family {family}");
        assert!(seen.insert(name.to_owned()), "{name} comes twice");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(
        get(addr, "/healthz"),
        (get(addr, "/healthz").0, "ok: 1 of 1 daemons in the ring\n".to_owned())
    );
    assert!(get(addr, "/healthz").0.starts_with("HTTP/1.1 200 OK"));
    assert!(get(addr, "/x").0.starts_with("HTTP/1.1 404 "));
    assert!(http(addr, "POST /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 405 "));
    let (head, body) = http(addr, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty());
    assert!(http(addr, "\x16\x03\x01 what\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
    // Connections that say nothing do not hinder others, nor the daemon.
    let idle: Vec<TcpStream> = (0..20).filter_map(|_| TcpStream::connect(addr).ok()).collect();
    let frame = alice.message(ServiceType::AGREED, &[common::group("chat")], b"still");
    alice.send(&frame);
    assert_eq!(alice.data()[..], b"still"[..]);
    drop(idle);
    common::wait_until("an answer after the flood", || {
        let Ok(mut stream) = TcpStream::connect(addr) else { return false };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut text = String::new();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok()
            && text.contains("/healthz")
    });
}

/// The unit of systemd: its options are options of this program, and systemd finds nothing wrong with it.
#[test]
fn the_unit_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let unit = fs::read_to_string(root.join("packaging/spreadd.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    spreadd::cli::command().try_get_matches_from(start.split(' ')).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spreadd.service");
    let installed = unit.replace("/usr/sbin/spreadd", env!("CARGO_BIN_EXE_spreadd"));
    // The manual page is not installed here.
    let installed: Vec<&str> = installed.lines().filter(|line| !line.starts_with("Documentation=")).collect();
    fs::write(&file, installed.join("\n")).unwrap();
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        eprintln!("systemd-analyze is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("spreadd.service")).collect();
    assert_eq!(ours, Vec::<&str>::new(), "{text}");
}

/// What the dashboard, the alert rules and the documents name exists, and what exists is documented.
#[test]
fn every_metric_of_the_documents_exists() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    fs::write(
        dir.path().join("spread.conf"),
        format!("Spread_Segment 127.0.0.255:{port} {{\n  one 127.0.0.1\n  two 127.0.0.2\n}}\n"),
    )
    .unwrap();
    let daemon = Running::serving(dir.path(), &["-n", "one", "--metrics", "0"]);
    let text = get(metrics_addr(&daemon), "/metrics").1;
    let real: BTreeSet<&str> = text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut named = 0;
    for file in [
        "docs/operate/grafana-spreadd.json",
        "docs/operate/prometheus-alerts-spreadd.yml",
        "docs/reference/metrics.md",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            // `spreadd_ring_..._total` stands for several.
            if word.starts_with("spreadd_") && !word.ends_with('_') {
                named += 1;
                assert!(
                    real.contains(word) || families.contains(word),
                    "{file} names {word}, which does not exist"
                );
            }
        }
    }
    assert!(named > 100, "{named}");
    let rules = fs::read_to_string(root.join("docs/operate/prometheus-alerts-spreadd.yml")).unwrap();
    let guide = fs::read_to_string(root.join("docs/operate/monitor.md")).unwrap();
    for alert in guide.split('`').filter(|word| word.starts_with("Spread") && !word.contains(' ')) {
        assert!(rules.contains(&format!("- alert: {alert}\n")), "{alert} is no alert");
    }
}

#[test]
fn the_log_obeys_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    fs::write(
        dir.path().join("spread.conf"),
        format!(
            "EventLogFile = events_%h.log\nEventTimeStamp = \"<%Y>\"\nEventPreciseTimeStamp\nDebugFlags = {{ PRINT SESSION }}\n\
             EventPriority = pDEBUG\nSpread_Segment 127.0.0.255:{port} {{\n one 127.0.0.1\n}}\n"
        ),
    )
    .unwrap();
    let mut daemon = Running::start(dir.path(), &["-n", "one"]);
    daemon.wait_for("spreadd: the log goes to ");
    let file = dir.path().join(format!("events_{host}.log"));
    let log = || fs::read_to_string(&file).unwrap_or_default();
    common::wait_until("the daemon to serve", || log().contains("Serving clients."));
    drop(common::Client::on(TcpStream::connect(("127.0.0.1", port)).unwrap(), "me").unwrap());
    common::wait_until("the line of the flag SESSION", || log().contains("DEBUG Session established."));
    let text = log();
    let year = text.lines().next().unwrap();
    // `<2026> %s.micros`: the flag appends the seconds, as the format does not end in them.
    let stamp: Vec<&str> = year.split(' ').take(2).collect();
    assert!(stamp[0].starts_with("<2") && stamp[0].ends_with('>'), "{year}");
    assert!(stamp[1].parse::<f64>().unwrap() > 1e9, "{year}");
    assert!(!text.contains('\u{1b}'), "no colors");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0, "{}", log());
    assert!(log().contains("Ended."));
    // The command line wins.
    fs::remove_file(&file).unwrap();
    let mut quiet = Running::start(dir.path(), &["-n", "one", "--log-level", "error"]);
    common::wait_until("the daemon to serve", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    quiet.signal(Signal::SIGTERM);
    assert_eq!(quiet.wait(), 0);
    assert_eq!(log(), "");
}

#[test]
fn a_log_file_that_cannot_be_opened_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let conf = format!(
        "EventLogFile = {}/no/such/dir/log\nSpread_Segment 127.0.0.255:{} {{\n one 127.0.0.1\n}}\n",
        dir.path().display(),
        free_port()
    );
    fs::write(dir.path().join("spread.conf"), conf).unwrap();
    let (output, text) = output(dir.path(), &["-n", "one", "--no-local-socket"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot open the log file") && text.contains("No such file"), "{text}");
}

#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("journal")).unwrap();
    let meta = file.metadata().unwrap();
    let run = |stream: String| {
        let mut command = common::program::spreadd(dir.path());
        command.args(["--port", "0", "--listen", "192.0.2.1", "--no-local-socket"]);
        command.env("JOURNAL_STREAM", stream).stderr(file.try_clone().unwrap()).stdin(Stdio::null());
        assert_eq!(command.status().unwrap().code(), Some(1));
        fs::read_to_string(dir.path().join("journal")).unwrap()
    };
    let text = run(format!("{}:{}", meta.dev(), meta.ino()));
    assert!(text.starts_with("<6> INFO Starting"), "{text}");
    // Another stream: standard error was redirected, so it is no journal.
    let len = text.len();
    let text = run(format!("{}:{}", meta.dev(), meta.ino() + 1));
    assert!(text[len..].starts_with("20"), "{text}");
}

/// A daemon alone that is started twice in a second, or with a clock that was set back.
#[test]
fn the_state_file_keeps_epochs_from_being_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    // The port is part of the file's name, so a life with an earlier one begins with a copy.
    let life = |kept: Option<&str>| {
        let port = free_port();
        let file = dir.path().join(format!("localhost-{port}.epoch"));
        if let Some(kept) = kept {
            fs::write(&file, kept).unwrap();
        }
        let mut options = common::options();
        options.port = port;
        options.state_dir = Some(dir.path().to_owned());
        options.control_dir = Some(dir.path().to_owned());
        let daemon = Daemon::start(options).unwrap();
        assert_eq!(daemon.state_path(), Some(file.as_path()));
        let answer = spreadd::observe::control::ask(daemon.control_path().unwrap(), "status").unwrap();
        let state: Value = serde_json::from_str(&answer).unwrap();
        daemon.stop();
        let epoch = state["ring"]["id"].as_str().unwrap().split('.').next().unwrap().parse::<u64>().unwrap();
        (epoch, fs::read_to_string(&file).unwrap())
    };
    let (first, kept) = life(None);
    assert_eq!(kept, format!("spreadd epoch 1\n{first}\n"));
    let far = first + 1_000_000;
    let again = |text: &str| life(Some(text)).0;
    assert!(again(&kept) > first);
    assert!(again(&format!("spreadd epoch 1\n{far}\n")) > far, "as if the clock was set back");
    assert!(again("rubbish") < far, "a damaged file is left aside");
}

#[test]
fn root_becomes_the_daemons_user() {
    if !Uid::effective().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let port = free_port();
    let conf = |user: &str| {
        format!(
            "DaemonUser = {user}\nEventLogFile = log\nRuntimeDir = {}\nSpread_Segment 127.0.0.255:{port} {{\n one 127.0.0.1\n}}\n",
            dir.path().display()
        )
    };
    fs::write(dir.path().join("spread.conf"), conf("nobody")).unwrap();
    let mut daemon = Running::start(dir.path(), &["-n", "one"]);
    let log = dir.path().join("log");
    common::wait_until("the daemon to serve", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("Serving clients."))
    });
    let status_file = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let ids = |what: &str| {
        let line = status_file.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().skip(1).map(|id| id.parse::<u32>().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!((ids("Uid:").len(), ids("Uid:").contains(&0)), (1, false), "{status_file}");
    assert!(!ids("Gid:").contains(&0) && !ids("Groups:").contains(&0), "{status_file}");
    let nobody = fs::metadata(&log).unwrap().uid();
    assert_eq!(ids("Uid:"), BTreeSet::from([nobody]));
    let socket = dir.path().join(port.to_string());
    assert_eq!(fs::metadata(&socket).unwrap().uid(), nobody);
    // Root may still ask, and the state file is in RuntimeDir.
    assert_eq!(json(dir.path(), &[])["name"], "one");
    assert!(dir.path().join(format!("one-{port}.epoch")).exists());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0, "{}", daemon.seen);
    assert!(!socket.exists(), "its own socket can be removed");
    fs::write(dir.path().join("spread.conf"), conf("no-such-user")).unwrap();
    let (output, text) = output(dir.path(), &["-n", "one"]);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("`DaemonUser = no-such-user`: this host has no such user"), "{text}");
}

#[test]
fn the_watchdog_is_told_while_the_ring_thread_answers() {
    let dir = tempfile::tempdir().unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = common::program::spreadd(dir.path());
    command.args(["--port", &free_port().to_string(), "--listen", "127.0.0.1", "--no-local-socket"]);
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "300000");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut daemon = Running { child, log, seen: String::new() };
    let deadline = Instant::now() + LIMIT;
    let mut pings = 0;
    while pings < 3 {
        assert!(Instant::now() < deadline, "{pings} pings only");
        let mut text = [0; 1000];
        let len = manager.recv(&mut text).unwrap();
        pings += usize::from(String::from_utf8_lossy(&text[..len]).contains("WATCHDOG=1"));
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), 0, "{}", daemon.seen);
}
