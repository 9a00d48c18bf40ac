//! The programs against a live daemon.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use spread::{Builder, Message, Service};
use spreadd::{Daemon, Options};

const LIMIT: Duration = Duration::from_secs(20);

fn daemon() -> (Daemon, String) {
    let mut options = Options::alone("d1".parse().unwrap(), 0);
    options.listen = vec!["127.0.0.1".parse().unwrap()];
    options.socket_dir = None;
    options.threads = 1;
    let daemon = Daemon::start(options).unwrap();
    let address = format!("{}@127.0.0.1", daemon.port());
    (daemon, address)
}

fn program(name: &str, address: &str, args: &[&str]) -> Command {
    let path = match name {
        "spuser" => env!("CARGO_BIN_EXE_spuser"),
        "spflooder" => env!("CARGO_BIN_EXE_spflooder"),
        "spsend" => env!("CARGO_BIN_EXE_spsend"),
        _ => env!("CARGO_BIN_EXE_sprecv"),
    };
    let mut command = Command::new(path);
    command.args(["-s", address]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a program with this input to its end.
fn run(name: &str, address: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = program(name, address, args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that ends early does not read it.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A receiver that has joined.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// The group must be named `g`; a watcher sees the join.
    fn recv(address: &str, args: &[&str]) -> Self {
        let mut watcher = Builder::new(address).unwrap().membership(true).connect_blocking().unwrap();
        watcher.join("g".parse().unwrap()).unwrap();
        watcher.receive_timeout(LIMIT).unwrap().unwrap();
        let mut child = program("sprecv", address, &[&["-g", "g"], args].concat()).spawn().unwrap();
        let joined = watcher.receive_timeout(LIMIT).unwrap().unwrap();
        assert!(matches!(joined, Message::Membership(view) if view.members.len() == 2));
        watcher.disconnect().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn rest(mut self) -> String {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text
    }
}

#[test]
fn lines_go_through_groups() {
    let (_daemon, address) = daemon();
    let receiver = Running::recv(&address, &["-n", "5"]);
    good(&run("spsend", &address, &["-g", "g", "-g", "other"], b"one\n\nthree with words\nno end"));
    good(&run("spsend", &address, &["-g", "g", "an argument"], b""));
    assert_eq!(receiver.rest(), "one\n\nthree with words\nno end\nan argument\n");

    let receiver = Running::recv(&address, &["-n", "3", "-0"]);
    good(&run("spsend", &address, &["-g", "g", "-0"], b"a\nb\0\xff\0"));
    good(&run("spsend", &address, &["-g", "g", "--whole"], b"x\ny\n"));
    let Running { mut child, mut out } = receiver;
    let mut bytes = Vec::new();
    out.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"a\nb\0\xff\0x\ny\n\0");
    assert!(child.wait().unwrap().success());
}

#[test]
fn objects_say_all_and_can_be_sent_again() {
    let (_daemon, address) = daemon();
    let receiver = Running::recv(&address, &["-n", "3", "--json"]);
    let objects = concat!(
        r#"{"kind":"membership","group":"g"}"#,
        "\n",
        r#"{"data":"text\n","groups":["g","h"],"type":-7,"service":"safe"}"#,
        "\n",
        r#"{"data_base64":"/wA=","groups":["g"]}"#,
    );
    good(&run("spsend", &address, &["--json", "-u", "ann", "-t", "3"], objects.as_bytes()));
    good(&run("spsend", &address, &["-g", "g", "--service", "fifo", "last"], b""));
    let text = receiver.rest();
    let got: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let safe = json!({"kind": "data", "sender": "#ann#d1", "groups": ["g", "h"], "service": "safe", "type": -7,
        "data": "text\n"});
    assert_eq!(got[0], safe);
    assert_eq!((&got[1]["data_base64"], &got[1]["type"]), (&json!("/wA="), &json!(3)));
    assert_eq!((&got[2]["data"], &got[2]["service"]), (&json!("last"), &json!("fifo")));

    // What sprecv wrote, spsend reads.
    let receiver = Running::recv(&address, &["-n", "3", "--json"]);
    good(&run("spsend", &address, &["--json", "-g", "g"], text.as_bytes()));
    let again: Vec<Value> = receiver.rest().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (a, b) in got.iter().zip(&again) {
        for field in ["service", "type", "data", "data_base64"] {
            assert_eq!(a.get(field), b.get(field));
        }
    }
}

#[test]
fn members_are_shown_and_time_is_limited() {
    let (_daemon, address) = daemon();
    let receiver = Running::recv(&address, &["--json", "--membership", "--timeout", "0.3", "-u", "me"]);
    let first: Value = serde_json::from_str(receiver.rest().lines().next().unwrap()).unwrap();
    assert_eq!((&first["kind"], &first["cause"]), (&json!("membership"), &json!("join")));
    assert_eq!(first["member"], "#me#d1");
    assert_eq!(first["members"].as_array().unwrap().len(), 2);
}

#[test]
fn failures_are_told() {
    let (daemon, address) = daemon();
    let output = run("spsend", &address, &["--json", "-g", "g"], b"{\"data\":\"x\"}\nhello\n");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("spsend: message 2 of standard input"), "{text}");
    assert_eq!(run("sprecv", &address, &[], b"").status.code(), Some(2));
    assert_eq!(run("sprecv", &address, &["-g", "#a#b"], b"").status.code(), Some(2));
    assert_eq!(run("sprecv", &address, &["-g", "g", "-u", "a name"], b"").status.code(), Some(1));
    let receiver = Running::recv(&address, &[]);
    daemon.stop();
    let output = receiver.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output = run("spsend", &address, &["-g", "g", "x"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot use the daemon"), "{output:?}");
}

/// All commands of the original, and what they show.
#[test]
fn a_session_by_hand() {
    let (_daemon, address) = daemon();
    let mut child = program("spuser", &address, &["-u", "ann"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let expect = |part: &str| {
        let mut seen = Vec::new();
        while let Ok(line) = lines.recv_timeout(LIMIT) {
            let found = line.contains(part);
            seen.push(line);
            if found {
                return;
            }
        }
        panic!("{part:?} was expected in {seen:#?}");
    };
    let mut say = |text: &str| stdin.write_all(text.as_bytes()).unwrap();
    expect("You are #ann#d1");
    expect("q                quit");
    say("j g\n");
    expect("group g: #ann#d1 joined; 1 member: #ann#d1");
    say("s g hello\tworld\n");
    expect(r"safe of #ann#d1 to g, type 1, 11 bytes: hello\tworld");
    say("s g\nthe next line\n");
    expect("13 bytes: the next line");
    say("m g\none\ntwo\n\n");
    expect(r"8 bytes: one\ntwo\n");
    say("b g 12\n");
    for _ in 0..10 {
        expect("12 bytes: message");
    }
    say("d\np\n");
    expect("no message is there");
    // Kept: the first that is shown is the first that was asked for.
    say("s g kept\nr\np\n");
    expect("kept");
    expect("no message is there");
    say("e\nl g\n");
    expect("group g: you left");
    say("s #ann#d1 to myself\n");
    expect("to #ann#d1, type 1, 9 bytes: to myself");
    say("x\n");
    expect("no such command");
    say("j #ann#d1\n");
    expect("is not the name of a group");
    say("j\n");
    expect("which group? j GROUP");
    say("q\n");
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_session_by_hand_ends_with_the_daemon() {
    let (daemon, address) = daemon();
    let mut child = program("spuser", &address, &[]).spawn().unwrap();
    // Its input stays open.
    let stdin = child.stdin.take();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("You are #"), "{first}");
    daemon.stop();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the session has ended"), "{output:?}");
    drop(stdin);
}

#[test]
fn floods_are_counted() {
    let (_daemon, address) = daemon();
    let figures = |args: &[&str]| {
        let args = [&["-b", "100", "--json"], args].concat();
        let figures: Value = serde_json::from_str(&good(&run("spflooder", &address, &args, b""))).unwrap();
        assert!(figures["messages_per_second"].as_f64().unwrap() > 0.0);
        (figures["sent"].as_u64().unwrap(), figures["received"].as_u64().unwrap())
    };
    assert_eq!(figures(&["-m", "3000"]), (3000, 3000));
    assert_eq!(figures(&["-m", "1000", "--service", "safe", "--window", "1"]), (1000, 1000));
    assert_eq!(figures(&["-m", "3000", "-wo"]), (3000, 0));
    let text = good(&run("spflooder", &address, &["-m", "10", "-b", "0"], b""));
    assert!(text.starts_with("10 messages sent, 10 received, of 0 bytes, in "), "{text}");

    // One writes, another reads.
    let mut watcher = Builder::new(&address).unwrap().membership(true).connect_blocking().unwrap();
    let group = "flooder".parse().unwrap();
    watcher.join(group).unwrap();
    watcher.receive_timeout(LIMIT).unwrap().unwrap();
    let reader = program("spflooder", &address, &["-m", "500", "-ro"]).spawn().unwrap();
    watcher.receive_timeout(LIMIT).unwrap().unwrap();
    for _ in 0..500 {
        watcher.multicast(Service::FIFO, group, 0, "x").unwrap();
    }
    assert!(good(&reader.wait_with_output().unwrap()).starts_with("0 messages sent, 500 received"));
}

#[test]
fn what_was_good_before_an_error_is_sent() {
    let (_daemon, address) = daemon();
    let receiver = Running::recv(&address, &["-n", "1"]);
    let output = run("spsend", &address, &["--json", "-g", "g"], b"{\"data\":\"good\"}\n{bad\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("message 2 of standard input"));
    assert_eq!(receiver.rest(), "good\n");
}

#[test]
fn a_login_is_by_a_file_or_a_variable() {
    let mut options = Options::alone("d1".parse().unwrap(), 0);
    options.listen = vec!["127.0.0.1".parse().unwrap()];
    options.socket_dir = None;
    options.auth.allowed = spreadd::Methods::one(spreadd::Method::Pword);
    // The password is "test".
    options.auth.passwords = spreadd::Passwords::parse("alice:abgOeLfPimXQo").unwrap();
    let daemon = Daemon::start(options).unwrap();
    let address = format!("{}@127.0.0.1", daemon.port());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "test\n").unwrap();
    let file = file.path().to_str().unwrap();
    good(&run("spsend", &address, &["--login", "alice", "--password-file", file, "-g", "g", "x"], b""));
    let by_variable = |password: Option<&str>| {
        let mut command = program("spsend", &address, &["--login", "alice", "-g", "g", "x"]);
        command.env_remove("SPREAD_PASSWORD");
        command.envs(password.map(|password| ("SPREAD_PASSWORD", password)));
        command.output().unwrap()
    };
    good(&by_variable(Some("test")));
    for (output, text) in [
        (by_variable(Some("wrong")), "credentials"),
        (by_variable(None), "SPREAD_PASSWORD"),
        (run("spsend", &address, &["-g", "g", "x"], b""), "(log in with --login)"),
    ] {
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(text), "{error}");
    }
}
