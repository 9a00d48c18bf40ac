//! Nobody connects, joins or sends where the rules say no.
//!
//! spec: client-protocol 2.6, 5.5; daemon-config 12, 13

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use common::{Client, choice, group, hello, options, password, raw};
use spread_wire::{Frame, Kind, ServiceType, build};
use spreadd::{Daemon, Method, Methods, Passwords, Permit, Rules};

/// alice: test; bob: password.
const USERS: &str = "alice:abgOeLfPimXQo\nbob:zzXUHfURnGg8I\n";

fn daemon(rules: &str) -> Daemon {
    let mut options = options();
    options.auth.allowed = Methods::one(Method::Null).with(Method::Pword);
    options.auth.passwords = Passwords::parse(USERS).unwrap();
    options.policy = Arc::new(Rules::parse(rules).unwrap());
    Daemon::start(options).unwrap()
}

fn user(daemon: &Daemon, name: &str, user: &str, word: &str) -> Result<Client, Vec<u8>> {
    Client::with(raw(daemon), &hello(name), &password(user, word))
}

fn rejected(frame: &Frame) -> Option<ServiceType> {
    (frame.kind() == Kind::Reject).then_some(frame.orig_type?)
}

#[test]
fn passwords_open_sessions_and_wrong_ones_do_not() {
    let daemon = daemon("allow connect authenticated");
    user(&daemon, "a", "alice", "test").unwrap();
    user(&daemon, "b", "bob", "password").unwrap();
    for (name, word) in [("alice", "Test"), ("alice", "password"), ("carol", "test"), ("alice", ""), ("", "")]
    {
        assert_eq!(user(&daemon, "x", name, word).err().unwrap(), [0, 0xf7], "{name} {word}");
    }
    assert_eq!(Client::on(raw(&daemon), "x").err().unwrap(), [0xf7], "without a user");
    assert_eq!(daemon.session_stats().refused_auth_total, 6);
    assert_eq!(daemon.session_stats().sessions_total, 2);
}

#[test]
fn guessing_passwords_is_braked_for_the_source_that_guesses() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.auth.allowed = Methods::one(Method::Pword);
    options.auth.passwords = Passwords::parse(USERS).unwrap();
    options.socket_dir = Some(dir.path().to_owned());
    let daemon = Daemon::start(options).unwrap();
    user(&daemon, "a", "alice", "test").unwrap();
    for i in 0..10 {
        assert!(user(&daemon, "x", ["alice", "carol"][i % 2], "guess").is_err());
    }
    assert_eq!(user(&daemon, "b", "alice", "test").err().unwrap(), [0, 0xf7], "the right one, too late");
    let stats = daemon.session_stats();
    assert_eq!((stats.password_failures_total, stats.password_refused_total), (10, 1));
    assert_eq!((stats.refused_auth_total, stats.sessions_total), (11, 1));
    // A user of this host is another source.
    let local = UnixStream::connect(daemon.local_path().unwrap()).unwrap();
    // A reload brings no new attempts.
    let auth = spreadd::Auth {
        allowed: Methods::one(Method::Pword),
        passwords: Passwords::parse(USERS).unwrap(),
        ..spreadd::Auth::default()
    };
    daemon.set_access(auth, Arc::new(Permit));
    assert!(user(&daemon, "b", "alice", "test").is_err());
    let mut local_bytes = [hello("local"), password("alice", "test")].concat();
    (&local).write_all(&local_bytes).unwrap();
    // The list of methods (7 bytes), the answer, and the accept block.
    local_bytes.resize(9, 0);
    local.set_read_timeout(Some(common::LIMIT)).unwrap();
    (&local).read_exact(&mut local_bytes).unwrap();
    assert_eq!(local_bytes, *b"\x06PWORD \x01\x01");
}

#[test]
fn joins_and_messages_against_the_rules_come_back() {
    let daemon =
        daemon("allow connect *\nallow join,send alice audit\ndeny any * audit\nallow join,send *\n");
    let mut alice = user(&daemon, "a", "alice", "test").unwrap();
    let mut guest = Client::connect(&daemon, "alice");
    alice.joined("audit");
    guest.join("audit");
    let back = guest.until(|frame| frame.kind() == Kind::Reject);
    assert_eq!(rejected(&back), Some(ServiceType::CAUSED_BY_JOIN));
    assert_eq!(back.first_group(), Some(group("audit")));
    guest.joined("open");
    // One target of several is enough.
    let sent = guest.message(ServiceType::SAFE, &[group("open"), group("audit")], b"both");
    guest.send(&sent);
    let back = guest.until(|frame| frame.kind() != Kind::Membership);
    assert_eq!(rejected(&back), Some(ServiceType::SAFE));
    assert_eq!(back.data_bytes(), b"both");
    // The private group of a member is a target as any other.
    let member = alice.me;
    let sent = guest.message(ServiceType::AGREED, &[member], b"direct");
    guest.send(&sent);
    guest.multicast("open", b"fine");
    assert_eq!(guest.data()[..], b"fine"[..]);
    assert_eq!(alice.data()[..], b"direct"[..], "and nothing before it");
    // Whoever may join may also leave, by whatever rule.
    let leave = build::leave(&guest.me, &group("audit"));
    guest.send(&leave);
    guest.multicast("open", b"still here");
    assert_eq!(guest.data()[..], b"still here"[..]);
    assert_eq!(daemon.session_stats().rejected_total, 2);
}

#[test]
fn rules_can_be_exchanged_while_sessions_exist() {
    let daemon = daemon("allow any *");
    let mut client = Client::connect(&daemon, "client");
    client.joined("g");
    let auth = spreadd::Auth {
        allowed: Methods::one(Method::Pword),
        passwords: Passwords::parse(USERS).unwrap(),
        ..spreadd::Auth::default()
    };
    daemon.set_access(auth, Arc::new(Rules::parse("allow connect *\ndeny send * g\n").unwrap()));
    client.multicast("g", b"denied");
    assert!(rejected(&client.frame().unwrap()).is_some());
    assert_eq!(Client::with(raw(&daemon), &hello("x"), &choice()).err().unwrap(), [0xf7]);
    daemon.set_access(spreadd::Auth::default(), Arc::new(Permit));
    client.multicast("g", b"allowed");
    assert_eq!(client.data()[..], b"allowed"[..]);
    Client::connect(&daemon, "y");
}
