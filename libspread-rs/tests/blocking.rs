//! The blocking face against a daemon that is silent, stuck, broken or dead.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod script;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use script::{LIMIT, Script, Session};
use spread::{
    ConnectError, GroupName, Message, ReceiveError, Reconnect, Reject, SendError, Service, ServiceType,
};
use spread_wire::handshake::RejectCode;
use spread_wire::{GroupId, build};

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn quick() -> Reconnect {
    Reconnect {
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(10),
        give_up_after: None,
    }
}

/// The number a test put into a message.
fn number(data: &[u8]) -> u32 {
    u32::from_le_bytes(data[..4].try_into().unwrap())
}

fn numbered(i: u32, len: usize) -> Vec<u8> {
    let mut data = vec![0; len.max(4)];
    data[..4].copy_from_slice(&i.to_le_bytes());
    data
}

fn next_number(session: &mut Session) -> Option<u32> {
    session.next().map(|frame| number(frame.data_bytes()))
}

#[test]
fn a_session_has_the_name_it_asked_for() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let connection = script.builder().private_name("ann").unwrap().connect_blocking().unwrap();
        assert_eq!(connection.private_group().to_string(), "#ann#script");
        assert_eq!(connection.private_group(), daemon.join().unwrap().private);
        assert_eq!(connection.daemon_version(), (5, 0, 1));
        assert_eq!(connection.address(), &script.address());
    });
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let script = Script::new();
    for (code, reason) in [
        (RejectCode::QUOTA, Reject::Quota),
        (RejectCode::ILLEGAL_NAME, Reject::IllegalName),
        (RejectCode::NOT_UNIQUE, Reject::NotUnique),
        (RejectCode(-77), Reject::Other(-77)),
    ] {
        thread::scope(|scope| {
            scope.spawn(|| script.refuse(code));
            let error = script.builder().connect_blocking().unwrap_err();
            assert!(matches!(error, ConnectError::Rejected { reason: r } if r == reason), "{error:?}");
            assert_eq!(error.code(), code.code());
        });
    }
}

#[test]
fn nobody_there_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("4803");
    let error = spread::Builder::from_address(spread::Address::Unix(path)).connect_blocking().unwrap_err();
    assert!(matches!(error, ConnectError::Connect { .. }), "{error:?}");
    assert_eq!(error.code(), -2);
}

#[test]
fn a_silent_daemon_holds_nobody_longer_than_the_limit() {
    let script = Script::new();
    let limit = Duration::from_millis(100);
    let start = Instant::now();
    let error = script.builder().connect_timeout(Some(limit)).connect_blocking().unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { limit: l } if l == limit), "{error:?}");
    assert!(start.elapsed() >= limit);
    assert_eq!(error.code(), -8);
}

/// A Unix listener that accepts nobody: its backlog fills up, and then even connecting does not succeed.
#[test]
fn a_full_backlog_holds_nobody_longer_than_the_limit() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    use std::os::fd::AsRawFd;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("4803");
    let addr = UnixAddr::new(&path).unwrap();
    let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let listener = new();
    bind(listener.as_raw_fd(), &addr).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        waiting.push(new());
        assert!(waiting.len() < 100);
        if connect(waiting.last().unwrap().as_raw_fd(), &addr).is_err() {
            break;
        }
    }
    let limit = Duration::from_millis(50);
    let start = Instant::now();
    let builder = spread::Builder::from_address(spread::Address::Unix(path)).connect_timeout(Some(limit));
    let error = builder.connect_blocking().unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() >= limit);
    assert_eq!(error.code(), -8);
}

#[test]
fn a_fallback_is_used_when_the_first_daemon_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new();
    thread::scope(|scope| {
        scope.spawn(|| script.accept());
        let first = spread::Address::Unix(dir.path().join("nobody"));
        let builder = spread::Builder::from_address(first).fallback(script.address());
        assert_eq!(builder.connect_blocking().unwrap().address(), &script.address());
    });
}

#[test]
fn bytes_right_behind_the_handshake_are_a_message() {
    let script = Script::new();
    let leave = build::self_leave(&group("g"));
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept_with(&leave));
        let mut connection = script.builder().connect_blocking().unwrap();
        assert!(matches!(connection.receive().unwrap(), Message::SelfLeave { group: g } if g == group("g")));
        drop(daemon.join().unwrap());
    });
}

#[test]
fn requests_are_what_the_daemon_expects_and_in_order() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let mut session = script.accept();
            let mut got = Vec::new();
            while let Some(frame) = session.next() {
                let groups: Vec<_> = frame.group_names().map(|g| g.to_string()).collect();
                got.push((frame.header.service, groups, frame.message_type(), frame.data_bytes().to_vec()));
                if frame.header.service == ServiceType::KILL {
                    // As a daemon does: closing the session is the answer.
                    break;
                }
            }
            got
        });
        let mut connection = script.builder().connect_blocking().unwrap();
        connection.join(group("g")).unwrap();
        connection.enqueue(Service::RELIABLE, group("g"), 1, "a").unwrap();
        connection.multicast(Service::SAFE.self_discard(), [group("g"), group("h")], -2, b"b").unwrap();
        connection.leave(group("g")).unwrap();
        connection.enqueue(Service::FIFO, group("h"), i16::MAX, "").unwrap();
        let own = connection.private_group().to_string();
        connection.disconnect().unwrap();
        let one = |name: &str| vec![name.to_owned()];
        let want = vec![
            (ServiceType::JOIN, one("g"), 0, vec![]),
            (ServiceType::RELIABLE, one("g"), 1, b"a".to_vec()),
            (ServiceType(0x60), vec!["g".to_owned(), "h".to_owned()], -2, b"b".to_vec()),
            (ServiceType::LEAVE, one("g"), 0, vec![]),
            (ServiceType::FIFO, one("h"), i16::MAX, vec![]),
            (ServiceType::KILL, vec![own], 0, vec![]),
        ];
        assert_eq!(daemon.join().unwrap(), want);
    });
}

#[test]
fn the_private_group_of_a_session_cannot_be_joined() {
    let script = Script::new();
    thread::scope(|scope| {
        scope.spawn(|| script.accept());
        let mut connection = script.builder().connect_blocking().unwrap();
        let own = connection.private_group().as_group();
        for result in [connection.join(own), connection.leave(own), connection.join(GroupName::EMPTY)] {
            let error = result.unwrap_err();
            assert!(matches!(error, SendError::IllegalGroup { .. }));
            assert_eq!(error.code(), -14);
        }
    });
}

/// The daemon stops reading: a send gives up after its limit, and then everything that was taken arrives once, in order.
#[test]
fn a_stuck_daemon_holds_a_send_no_longer_than_its_limit() {
    let script = Script::new();
    let limit = Duration::from_millis(50);
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let (mut sender, _receiver) =
            script.builder().send_timeout(Some(limit)).connect_blocking().unwrap().split();
        let mut session = daemon.join().unwrap();
        let mut taken = Vec::new();
        let start = loop {
            let i = u32::try_from(taken.len()).unwrap();
            let start = Instant::now();
            match sender.multicast(Service::FIFO, group("g"), 0, numbered(i, 10_000)) {
                Ok(()) => taken.push(i),
                Err(SendError::TimedOut) => break start,
                Err(error) => panic!("{error:?}"),
            }
        };
        assert!(start.elapsed() >= limit);
        assert!(taken.len() > 5, "{taken:?}");
        // Refused once, it stays refused, and without waiting when not asked to.
        let start = Instant::now();
        let refused = sender.try_multicast(Service::FIFO, group("g"), 0, numbered(9999, 10_000));
        assert!(matches!(refused, Err(SendError::TimedOut)));
        assert!(start.elapsed() < limit);
        assert!(sender.is_connected());
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            while let Some(frame) = session.next() {
                if frame.header.service == ServiceType::KILL {
                    break;
                }
                got.push(number(frame.data_bytes()));
            }
            got
        });
        sender.set_send_timeout(None);
        let last = u32::try_from(taken.len()).unwrap();
        sender.multicast(Service::FIFO, group("g"), 0, numbered(last, 10_000)).unwrap();
        sender.disconnect().unwrap();
        taken.push(last);
        assert_eq!(reader.join().unwrap(), taken);
    });
}

#[test]
fn enqueue_waits_only_when_the_queue_is_full() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let builder = script
            .builder()
            .batch_bytes(10_000)
            .queue_bytes(50_000)
            .send_timeout(Some(Duration::from_millis(20)));
        let mut connection = builder.connect_blocking().unwrap();
        let mut session = daemon.join().unwrap();
        let sender = connection.sender();
        let mut count = 0;
        let error = loop {
            match sender.enqueue(Service::FIFO, group("g"), 0, numbered(count, 1000)) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(sender.queued_bytes() <= 50_000);
        };
        assert!(matches!(error, SendError::TimedOut), "{error:?}");
        assert!(sender.queued_bytes() > 48_000);
        assert!(matches!(sender.flush(), Err(SendError::TimedOut)));
        let reader = scope.spawn(move || (0..count).all(|i| next_number(&mut session) == Some(i)));
        sender.flush_timeout(LIMIT).unwrap();
        assert_eq!(sender.queued_bytes(), 0);
        assert!(reader.join().unwrap());
    });
}

/// The other side dies with messages under way: each was either wholly taken by the system, or comes back.
#[test]
fn unsent_messages_can_be_taken_back() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let builder = script.builder().send_timeout(Some(Duration::from_millis(20)));
        let (mut sender, mut receiver) = builder.connect_blocking().unwrap().split();
        let mut session = daemon.join().unwrap();
        let mut count = 0;
        while sender.enqueue(Service::AGREED, [group("g"), group("h")], 7, numbered(count, 5000)).is_ok() {
            count += 1;
        }
        let mut got: Vec<u32> = session.read_some(100_000).iter().map(|f| number(f.data_bytes())).collect();
        while matches!(sender.flush_timeout(Duration::ZERO), Err(SendError::TimedOut)) {
            let frames = session.read_some(30_000);
            got.extend(frames.iter().map(|f| number(f.data_bytes())));
            if got.len() > 60 {
                break;
            }
        }
        drop(session);
        let error = sender.flush().unwrap_err();
        assert!(matches!(error, SendError::Io(_)), "{error:?}");
        assert!(matches!(sender.flush(), Err(SendError::Closed)));
        assert!(!sender.is_connected());
        assert!(matches!(receiver.receive(), Err(ReceiveError::Closed | ReceiveError::Io(_))));
        let unsent = sender.take_unsent();
        assert!(!unsent.is_empty());
        assert_eq!(unsent[0].groups, [group("g"), group("h")]);
        assert_eq!(unsent[0].message_type, 7);
        assert_eq!(unsent[0].service, ServiceType::AGREED);
        let kept: Vec<u32> = unsent.iter().map(|m| number(&m.data)).collect();
        // What was read and what came back: the first and the last part of what was sent, nothing in both.
        let first_kept = kept[0];
        assert!(got.iter().copied().eq(0..u32::try_from(got.len()).unwrap()));
        assert!(got.len() <= first_kept as usize, "{} received, {first_kept} came back", got.len());
        assert!(kept.iter().copied().eq(first_kept..count));
    });
}

#[test]
fn a_dead_daemon_is_seen_without_sending() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let (sender, mut receiver) = script.builder().connect_blocking().unwrap().split();
        assert!(sender.is_connected());
        drop(daemon.join().unwrap());
        assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
        assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
        assert!(matches!(receiver.try_receive(), Err(ReceiveError::Closed)));
        assert!(!sender.is_connected());
    });
}

#[test]
fn receiving_waits_no_longer_than_its_limit() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let mut connection = script.builder().connect_blocking().unwrap();
        let mut session = daemon.join().unwrap();
        assert!(connection.try_receive().unwrap().is_none());
        let start = Instant::now();
        assert!(connection.receive_timeout(Duration::from_millis(30)).unwrap().is_none());
        assert!(start.elapsed() >= Duration::from_millis(30));
        // Half a message is none.
        let leave = build::self_leave(&group("g"));
        session.send(&leave[..20]);
        assert!(connection.receive_timeout(Duration::from_millis(10)).unwrap().is_none());
        session.send(&leave[20..]);
        assert!(matches!(connection.receive_timeout(LIMIT).unwrap(), Some(Message::SelfLeave { .. })));
    });
}

/// A connection that waits for messages writes what was queued, also when the daemon takes it late.
#[test]
fn receiving_writes_the_queue() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let mut connection = script.builder().batch_bytes(1 << 20).connect_blocking().unwrap();
        let mut session = daemon.join().unwrap();
        for i in 0..40 {
            connection.enqueue(Service::FIFO, group("g"), 0, numbered(i, 10_000)).unwrap();
        }
        let daemon = scope.spawn(move || {
            let all = (0..40).all(|i| next_number(&mut session) == Some(i));
            session.send(&build::self_leave(&group("done")));
            (all, session)
        });
        assert!(matches!(connection.receive_timeout(LIMIT).unwrap(), Some(Message::SelfLeave { .. })));
        assert!(daemon.join().unwrap().0);
    });
}

#[test]
fn disconnecting_wakes_the_receiver() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let (sender, mut receiver) = script.builder().connect_blocking().unwrap().split();
        let mut session = daemon.join().unwrap();
        let waiting = scope.spawn(move || receiver.receive());
        sender.disconnect().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(ReceiveError::Closed)));
        assert_eq!(session.next().unwrap().header.service, ServiceType::KILL);
        assert!(session.next().is_none());
    });
}

#[test]
fn garbage_from_the_daemon_is_an_error_and_the_end() {
    let negative = {
        let mut bytes = build::self_leave(&group("g")).to_vec();
        bytes[36..40].copy_from_slice(&(-1i32).to_le_bytes());
        bytes
    };
    let unknown = {
        let mut bytes = build::self_leave(&group("g")).to_vec();
        bytes[..4].copy_from_slice(&[0x80, 0, 0, 0x80]);
        bytes
    };
    let short_body = {
        let mut bytes = build::transition(&group("g"), GroupId::default()).to_vec();
        bytes[44..48].copy_from_slice(&4i32.to_le_bytes());
        bytes[..52].to_vec()
    };
    for bytes in [negative, unknown, short_body] {
        let script = Script::new();
        thread::scope(|scope| {
            let daemon = scope.spawn(|| script.accept());
            let builder = script.builder().reconnect(quick());
            let mut connection = builder.connect_blocking().unwrap();
            let mut session = daemon.join().unwrap();
            session.send(&build::self_leave(&group("g")));
            session.send(&bytes);
            assert!(matches!(connection.receive().unwrap(), Message::SelfLeave { .. }));
            let error = connection.receive().unwrap_err();
            assert!(matches!(error, ReceiveError::Protocol { .. }), "{error:?}");
            assert_eq!(error.code(), -13);
            assert!(matches!(connection.receive(), Err(ReceiveError::Closed)));
            let sent = connection.multicast(Service::FIFO, group("g"), 0, "x");
            assert!(matches!(sent, Err(SendError::Closed | SendError::Io(_))), "{sent:?}");
        });
    }
}

/// spec: client-protocol 12.2; the new session joins first, then the rest of the queue follows under the new name.
#[test]
fn a_lost_session_is_made_again_and_the_gap_is_told() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let mut first = script.accept();
            while first.next().unwrap().header.service != ServiceType::FIFO {}
            drop(first);
            // The name of the old session may still be taken for a while.
            script.refuse(RejectCode::NOT_UNIQUE);
            let mut second = script.accept();
            let joins: Vec<_> = (0..2).map(|_| second.next().unwrap()).collect();
            let names: Vec<_> = joins.iter().map(|f| f.first_group().unwrap().to_string()).collect();
            assert!(joins.iter().all(|f| f.header.service == ServiceType::JOIN));
            second.send(&build::self_leave(&group("marker")));
            let last = loop {
                let frame = second.next().unwrap();
                if frame.data_bytes() == b"after" {
                    break frame;
                }
            };
            (names, last.header.sender)
        });
        let builder = script.builder().private_name("me").unwrap().reconnect(quick());
        let mut connection = builder.connect_blocking().unwrap();
        for name in ["b", "c", "a"] {
            connection.join(group(name)).unwrap();
        }
        connection.leave(group("c")).unwrap();
        connection.multicast(Service::FIFO, group("a"), 0, "before").unwrap();
        let gap = match connection.receive().unwrap() {
            Message::Reconnected(gap) => gap,
            other => panic!("{other:?}"),
        };
        assert_eq!(gap.rejoined, [group("a"), group("b")]);
        assert_eq!(gap.attempts, 2);
        assert_eq!(gap.generation, 1);
        assert_eq!(gap.address, script.address());
        assert!(matches!(connection.receive().unwrap(), Message::SelfLeave { .. }));
        connection.multicast(Service::FIFO, group("a"), 0, "after").unwrap();
        let (rejoined, sender) = daemon.join().unwrap();
        assert_eq!(rejoined, ["a", "b"]);
        assert_eq!(sender.to_string(), "#me#script");
    });
}

/// A sender alone, with nobody reading, gets over the death of its daemon, and loses nothing but what the dead one took.
#[test]
fn a_sender_that_waits_for_room_gets_over_a_loss() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let mut first = script.accept();
            let taken = next_number(&mut first).unwrap();
            assert_eq!(taken, 0);
            drop(first);
            let mut second = script.accept();
            let mut got = Vec::new();
            while let Some(frame) = second.next() {
                if frame.header.service == ServiceType::KILL {
                    break;
                }
                got.push(number(frame.data_bytes()));
            }
            got
        });
        let builder = script.builder().reconnect(quick()).send_timeout(Some(LIMIT));
        let (mut sender, receiver) = builder.connect_blocking().unwrap().split();
        drop(receiver);
        // Far more than the system takes: the first session is lost with the queue full.
        for i in 0..1000 {
            sender.enqueue(Service::FIFO, group("g"), 0, numbered(i, 5000)).unwrap();
        }
        sender.flush().unwrap();
        assert_eq!(sender.generation(), 1);
        assert!(sender.resent_total() > 0);
        sender.disconnect().unwrap();
        let got = daemon.join().unwrap();
        assert!(got[0] > 0);
        assert!(got.iter().copied().eq(got[0]..1000), "from {} on not all there", got[0]);
    });
}

#[test]
fn a_send_while_there_is_no_daemon_keeps_its_limit() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let builder = script.builder().reconnect(quick()).send_timeout(Some(Duration::from_millis(30)));
        let (mut sender, mut receiver) = builder.connect_blocking().unwrap().split();
        drop(daemon.join().unwrap());
        std::fs::remove_file(script.path()).unwrap();
        let start = Instant::now();
        let error = sender.multicast(Service::FIFO, group("g"), 0, "x").unwrap_err();
        assert!(matches!(error, SendError::TimedOut), "{error:?}");
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(!sender.is_connected());
        assert!(receiver.receive_timeout(Duration::from_millis(10)).unwrap().is_none());
        assert_eq!(sender.queued_bytes(), 0);
        // Queueing goes on meanwhile.
        sender.enqueue(Service::FIFO, group("g"), 0, "y").unwrap();
        assert_eq!(sender.take_unsent().len(), 1);
        assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
    });
}

#[test]
fn reconnecting_ends_when_the_daemon_refuses_for_good_or_time_is_up() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            drop(script.accept());
            script.refuse(RejectCode::AUTH);
        });
        let builder = script.builder().reconnect(quick());
        let (mut sender, mut receiver) = builder.connect_blocking().unwrap().split();
        let error = receiver.receive().unwrap_err();
        assert!(matches!(error, ReceiveError::Reconnect(_)), "{error:?}");
        assert_eq!(error.code(), -9);
        let error = sender.multicast(Service::FIFO, group("g"), 0, "x").unwrap_err();
        assert!(matches!(error, SendError::Reconnect(_)), "{error:?}");
        daemon.join().unwrap();
    });
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let policy = Reconnect { give_up_after: Some(Duration::from_millis(20)), ..quick() };
        let mut connection = script.builder().reconnect(policy).connect_blocking().unwrap();
        let session = daemon.join().unwrap();
        std::fs::remove_file(script.path()).unwrap();
        drop(session);
        let error = connection.receive().unwrap_err();
        assert!(matches!(error, ReceiveError::Reconnect(_)), "{error:?}");
        assert_eq!(error.code(), -2);
    });
}

/// The other side is a big-endian daemon.
#[test]
fn both_byte_orders_are_understood() {
    use spread_wire::{ByteOrder, Cause, Membership};
    let script = Script::new();
    let names: Vec<GroupName> = ["#a#d", "#b#d", "#me#script"]
        .iter()
        .map(|n| n.parse::<spread::PrivateGroup>().unwrap().as_group())
        .collect();
    let view = Membership {
        group: group("g"),
        cause: Cause::Network,
        id: GroupId { proc: 1, time: -2, index: 3 },
        members: names.clone(),
        sets: vec![vec![names[0]], vec![names[1], names[2]]],
    };
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let builder = script.builder().private_name("me").unwrap().membership(true);
        let mut connection = builder.connect_blocking().unwrap();
        let mut session = daemon.join().unwrap();
        for order in [ByteOrder::Little, ByteOrder::Big] {
            session.send(&view.encode_in(1, order));
            let Message::Membership(got) = connection.receive().unwrap() else { panic!() };
            assert_eq!(got.group, group("g"));
            assert_eq!(got.cause, spread::Cause::Network);
            assert_eq!(got.id, view.id);
            assert_eq!(got.members, names);
            assert_eq!(got.own_index, Some(2));
            assert_eq!(got.vs_sets, view.sets);
            assert_eq!(got.own_vs_set(), &names[1..]);
        }
    });
}

#[test]
fn a_refused_join_comes_back() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let mut session = script.accept();
            let join = session.next().unwrap();
            let (head, data) = build::reject(&join).unwrap();
            session.send(&head);
            session.send(&data);
            session
        });
        let mut connection = script.builder().connect_blocking().unwrap();
        connection.join(group("deny")).unwrap();
        let Message::Reject(rejected) = connection.receive().unwrap() else { panic!() };
        assert!(rejected.is_join());
        assert!(!rejected.is_leave());
        assert_eq!(rejected.groups().collect::<Vec<_>>(), [group("deny")]);
        drop(daemon.join().unwrap());
    });
}

#[test]
fn a_client_that_says_nothing_more_is_closed_by_dropping_it() {
    let script = Script::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| script.accept());
        let connection = script.builder().reconnect(quick()).connect_blocking().unwrap();
        let mut session = daemon.join().unwrap();
        let (sender, receiver) = connection.split();
        drop(receiver);
        drop(sender);
        assert!(session.next().is_none());
    });
    // Nobody reconnects behind the back of the application.
    let mut stray = UnixStream::connect(script.path()).unwrap();
    stray.write_all(b"x").unwrap();
    let mut accepted = script.accept_silent();
    let mut byte = [0];
    std::io::Read::read_exact(&mut accepted, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
}
