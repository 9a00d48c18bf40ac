//! The program: command line, messages, exit codes, signals, and what it leaves behind.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::program::{LIMIT, Manager, Running, free_port, output, spreadd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use spread_wire::ServiceType;

#[test]
fn help_says_what_it_is_and_exits_with_0() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["-h", "--help"] {
        let (output, _) = output(dir.path(), &[flag]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        for word in ["--name", "--config", "4803", "Exit status", "spreadd -n web1 -c /etc/spread.conf"] {
            assert!(text.contains(word), "{word} is not in:\n{text}");
        }
    }
    assert_eq!(output(dir.path(), &["--version"]).0.status.code(), Some(0));
}

#[test]
fn wrong_use_exits_with_2_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(20);
    for (args, expected) in [
        (&["--frobnicate"][..], "unexpected argument '--frobnicate'"),
        (&["-n"], "a value is required for '--name <NAME>'"),
        (&["-p", "0", "-n", ""], "invalid value"),
        (&["-p", "0", "-n", &long], "invalid value"),
        (&["-p", "0", "-l", "maybe"], "invalid value 'maybe' for '-l <y|n>'"),
        (&["-c", "x", "-p", "4803"], "cannot be used with"),
        (&["-p", "70000"], "invalid value '70000' for '--port <PORT>'"),
        (&["-p", "0", "--log-level", "a=b=c"], "\"a=b=c\" is no log level"),
        (&["-c", "missing.conf"], "cannot read missing.conf: No such file or directory"),
        (&["-p", "0", "--key-file", "missing.keys"], "key file missing.keys"),
    ] {
        let (output, text) = output(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn errors_of_the_configuration_are_shown_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("spread.conf"), text).unwrap();
    write("Spread_Segment 127.0.0.255:4803 {\n  one 127.0.0.1\n  one 127.0.0.2\n}\nWindov = 20\n");
    let (result, text) = output(dir.path(), &["-c", "spread.conf", "-n", "one"]);
    assert_eq!(result.status.code(), Some(2), "{text}");
    // Both errors, each with its line; then the summary.
    for part in ["spread.conf:3:3", "spread.conf:5:1", "Windov", "spreadd: 2 errors in spread.conf"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }

    write("Spread_Segment 127.0.0.255:4803 {\n  one 127.0.0.1\n}\n");
    let (result, text) = output(dir.path(), &["-n", "two"]);
    assert_eq!(result.status.code(), Some(2), "{text}");
    assert!(text.contains("two") && text.contains("spreadd: 1 error in ./spread.conf"), "{text}");

    write("Spread_Segment 192.0.2.255:4803 {\n  far 192.0.2.7\n}\n");
    let (result, text) = output(dir.path(), &["-n", "far"]);
    assert_eq!(result.status.code(), Some(2), "{text}");
    assert!(text.contains("192.0.2.7 is not an address of this host"), "{text}");
}

#[test]
fn check_reads_the_configuration_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("spread.conf"),
        "Spread_Segment 127.0.0.255:4803 {\n  one 127.0.0.1\n  two 127.0.0.2\n}\n",
    )
    .unwrap();
    let (output, text) = output(dir.path(), &["--check", "-n", "two"]);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let told = String::from_utf8(output.stdout).unwrap();
    let good = "spreadd: the configuration is good: this is two (127.0.0.2, port 4803) of 2 daemons in ./spread.conf\n";
    assert!(told.starts_with(good), "{told}");
    // What must be equal on all daemons, for comparison.
    assert!(told.contains("Its hash is ") && told.contains("\n\t'two' [127.0.0.2] ["), "{told}");
}

#[test]
fn without_a_file_it_runs_alone_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut daemon = Running::start(dir.path(), &["--port", &port.to_string()]);
    let line = daemon.wait_for("Starting");
    let expected = format!("no configuration file, so the daemon localhost runs alone, on port {port}");
    assert!(line.contains(&expected), "{line}");
    let line = daemon.wait_for("Serving clients");
    assert!(line.contains(&port.to_string()), "{line}");
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    UnixStream::connect(dir.path().join(port.to_string())).unwrap();
}

#[test]
fn signals_end_it_in_order_and_nothing_is_left_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut daemon =
            Running::serving(dir.path(), &["--port", &port.to_string(), "--listen", "127.0.0.1"]);
        let socket = dir.path().join(port.to_string());
        assert!(socket.exists());
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for("There is nothing to reload");
        daemon.signal(Signal::SIGUSR1);
        let line = daemon.wait_for("Status, sessions: live=");
        assert!(line.contains(" connections_total=") && line.contains(" dropped_slow_total=0"), "{line}");
        daemon.signal(signal);
        assert_eq!(daemon.wait(), 0, "{}", daemon.seen);
        assert!(daemon.seen.contains("Ended."), "{}", daemon.seen);
        assert!(!socket.exists(), "the local socket is still there");
        // The client sees the end of its stream.
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let mut byte = [0];
        assert!(matches!(client.read(&mut byte), Ok(0) | Err(_)));
        // The port is free at once.
        drop(Running::serving(dir.path(), &["--port", &port.to_string(), "--listen", "127.0.0.1"]));
    }
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_the_next_one_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let args = ["--port", &port.to_string(), "--listen", "127.0.0.1"];
    let mut daemon = Running::serving(dir.path(), &args);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let socket = dir.path().join(port.to_string());
    assert!(socket.exists());
    let _next = Running::serving(dir.path(), &args);
    UnixStream::connect(socket).unwrap();
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (output, text) =
        output(dir.path(), &["--port", &port.to_string(), "--listen", "127.0.0.1", "--no-local-socket"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = format!(
        "spreadd: cannot start: TCP port {port} on address 127.0.0.1 is in use by another process. Is a spreadd \
         already running? `ss -ltnp` shows who has the port; stop that process or give this daemon another port"
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_daemon_of_a_ring_meets_the_others_and_leaves_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    fs::write(
        dir.path().join("spread.conf"),
        format!("Spread_Segment 127.0.0.255:{port} {{\n  one 127.0.0.1\n  two 127.0.0.2\n}}\n"),
    )
    .unwrap();
    let sockets = [dir.path().join("1"), dir.path().join("2")];
    let start = |name, sockets: &Path| {
        fs::create_dir(sockets).unwrap();
        let conf = dir.path().join("spread.conf");
        Running::start(sockets, &["-n", name, "-c", conf.to_str().unwrap()])
    };
    let mut one = start("one", &sockets[0]);
    let mut two = start("two", &sockets[1]);
    for daemon in [&mut one, &mut two] {
        daemon.wait_for("daemons=2 members=one two");
    }
    let start = Instant::now();
    two.signal(Signal::SIGTERM);
    assert_eq!(two.wait(), 0, "{}", two.seen);
    one.wait_for("daemons=1 members=one");
    // It said good-bye: nobody waited for a timeout of the token.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}\n{}", start.elapsed(), one.seen);
}

#[test]
fn the_ip_method_uses_the_access_file() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = format!(
        "Spread_Segment 127.0.0.255:{port} {{\n one 127.0.0.1\n}}\nRequiredAuthMethods = \"IP\"\nAllowedAuthMethods = \"NULL IP\"\n"
    );
    fs::write(dir.path().join("spread.conf"), conf).unwrap();
    for (rules, expected) in
        [(Some("# office\nlocal\n"), true), (Some("192.0.2.0/24\n"), false), (None, false)]
    {
        let file = dir.path().join("spread.access_ip");
        let _ = fs::remove_file(&file);
        if let Some(rules) = rules {
            fs::write(&file, rules).unwrap();
        }
        let mut daemon = Running::start(dir.path(), &["-n", "one"]);
        if rules.is_none() {
            daemon.wait_for("there is no file spread.access_ip: it refuses everybody");
        }
        daemon.wait_for("Serving clients");
        let result = common::Client::on(TcpStream::connect(("127.0.0.1", port)).unwrap(), "me");
        assert_eq!(result.as_ref().err().map(Vec::as_slice), (!expected).then_some(&[0xf7][..]), "{rules:?}");
    }
    fs::write(dir.path().join("spread.access_ip"), "local\nnobody\n").unwrap();
    let (output, text) = output(dir.path(), &["-n", "one"]);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("spread.access_ip: line 2: \"nobody\" is not an address"), "{text}");
}

#[test]
fn the_service_manager_is_told_when_clients_can_connect() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = spreadd(dir.path());
    command.args(["--port", &port.to_string(), "--listen", "127.0.0.1", "--no-local-socket"]);
    let (manager, mut daemon) = Manager::start(dir.path(), command);
    let ready = manager.told();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=serving clients as localhost"), "{ready}");
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    daemon.signal(Signal::SIGTERM);
    assert!(manager.told().contains("STOPPING=1"));
    assert_eq!(daemon.wait(), 0, "{}", daemon.seen);
}

/// More sessions than the original serves, and as many as it is told to; the next one is refused before it has sent a
/// byte.
#[test]
fn it_serves_as_many_sessions_as_configured() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 1400;
    assert!(hard >= wanted, "the limit of open files is {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = format!(
        "MaxSessions = 1100\nSpread_Segment 127.0.0.255:{port} {{ localhost 127.0.0.1 {{ 127.0.0.1 }} }}"
    );
    fs::write(dir.path().join("spread.conf"), config).unwrap();
    let _daemon = Running::serving(
        dir.path(),
        &["-n", "localhost", "-c", "spread.conf", "--log-level", "spreadd=info,spreadd::session=warn"],
    );
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    let mut sessions: Vec<_> = (0..1100)
        .map(|i| {
            let stream = connect();
            common::Client::on(stream, &format!("s{i}")).unwrap_or_else(|code| panic!("{i}: {code:02x?}"))
        })
        .collect();
    let mut code = [0];
    connect().read_exact(&mut code).unwrap();
    assert_eq!(code, [0xfd]);
    // All of them work.
    for session in &mut sessions {
        let frame = session.message(ServiceType::AGREED, &[session.me], b"hello");
        session.send(&frame);
    }
    for session in &mut sessions {
        assert_eq!(session.data()[..], b"hello"[..]);
    }
}
