//! What is done with messages for clients that do not read, by policy. The others never notice.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::time::Duration;

use common::{Client, choice, hello, hello_gaps, options, raw, rest, wait_until};
use spread_wire::{Gap, Kind, ServiceType};
use spreadd::{Daemon, Options, SlowAction, SlowRules};

/// Messages that may wait.
const LIMIT: usize = 50;

/// More than the buffers of sockets take: 20 MB.
const MESSAGES: u32 = 1000;

/// Bytes of data of each.
const LEN: usize = 20_000;

fn daemon_with(slow: SlowRules, change: impl FnOnce(&mut Options)) -> Daemon {
    let mut options = options();
    options.limits.session_messages_max = LIMIT;
    options.limits.slow_grace = Duration::from_millis(100);
    options.slow = slow;
    change(&mut options);
    Daemon::start(options).unwrap()
}

/// A member of `g` and `witnesses` that does not read on.
fn stalled(daemon: &Daemon, hello: &[u8]) -> Client {
    let stream = raw(daemon);
    socket2::SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
    let mut client = Client::with(stream, hello, &choice()).unwrap();
    client.joined("g");
    client
}

/// Another member, which sends numbered messages to `to` and reads them all.
fn send(sender: &mut Client, to: &str, from: u32, to_number: u32) {
    for i in from..to_number {
        let mut data = vec![7; LEN];
        data[..4].copy_from_slice(&i.to_le_bytes());
        sender.multicast(to, &data);
        // One after the other: the limit is never passed because a batch is large.
        assert_eq!(sender.data()[..4], i.to_le_bytes());
    }
}

/// Numbers of messages received, and of those that gap marks say are missing, up to number `last`.
fn read_to(client: &mut Client, last: u32) -> (Vec<u32>, Vec<(usize, Gap)>) {
    let (mut numbers, mut gaps) = (Vec::new(), Vec::new());
    while numbers.last() != Some(&last) {
        let frame = client.frame().unwrap();
        if frame.kind() == Kind::Data {
            numbers.push(u32::from_le_bytes(frame.data_bytes()[..4].try_into().unwrap()));
        } else if let Some(gap) = Gap::of(&frame) {
            gaps.push((numbers.len(), gap));
        } else {
            assert_eq!(frame.kind(), Kind::Membership);
        }
    }
    (numbers, gaps)
}

fn started(daemon: &Daemon) -> Client {
    let mut sender = Client::connect(daemon, "sender");
    sender.joined("g");
    sender
}

#[test]
fn old_messages_are_dropped_and_the_stream_says_where() {
    let daemon = daemon_with(SlowRules::new(SlowAction::DropOldest, []), |_| {});
    let mut slow = stalled(&daemon, &hello_gaps("slow"));
    let mut sender = started(&daemon);
    send(&mut sender, "g", 0, MESSAGES);
    let (numbers, gaps) = read_to(&mut slow, MESSAGES - 1);
    assert!(numbers.is_sorted());
    // The gaps are exact, each at its place.
    let mut at = 0;
    for (index, number) in numbers.iter().enumerate() {
        let missing: u64 = gaps.iter().filter(|(i, _)| *i == index).map(|(_, gap)| gap.messages).sum();
        assert_eq!(u64::from(*number), at + missing, "before message {number}");
        at = u64::from(*number) + 1;
    }
    let stats = daemon.session_stats();
    let missing: u64 = gaps.iter().map(|(_, gap)| gap.messages).sum();
    assert!(missing > 300, "only {missing} were dropped");
    assert_eq!(missing, stats.slow_discarded_total);
    assert_eq!(gaps.iter().map(|(_, gap)| gap.bytes).sum::<u64>(), stats.slow_discarded_bytes_total);
    // It kept the newest, as many as may wait.
    let kept = numbers.iter().rev().zip((0..MESSAGES).rev()).take_while(|(a, b)| **a == *b).count();
    assert!(kept >= LIMIT / 8 * 6, "{kept}");
    assert_eq!(stats.dropped_slow_total, 0);
    // It goes on.
    send(&mut sender, "g", MESSAGES, MESSAGES + 10);
    let (numbers, gaps) = read_to(&mut slow, MESSAGES + 9);
    assert_eq!((numbers.len(), gaps.len()), (10, 0));
}

#[test]
fn new_messages_are_dropped_for_clients_that_know_no_marks() {
    let daemon = daemon_with(SlowRules::new(SlowAction::DropNewest, []), |_| {});
    let mut slow = stalled(&daemon, &hello("slow"));
    let mut sender = started(&daemon);
    send(&mut sender, "g", 0, MESSAGES);
    let discarded = daemon.session_stats().slow_discarded_total;
    assert!(discarded > 300, "{discarded}");
    let last = u32::try_from(u64::from(MESSAGES) - discarded).unwrap() - 1;
    let (numbers, gaps) = read_to(&mut slow, last);
    assert!(numbers.into_iter().eq(0..=last), "the oldest, without a hole");
    assert!(gaps.is_empty());
    send(&mut sender, "g", MESSAGES, MESSAGES + 1);
    assert_eq!(read_to(&mut slow, MESSAGES).0, [MESSAGES]);
}

#[test]
fn membership_messages_are_never_dropped() {
    let daemon = daemon_with(SlowRules::new(SlowAction::DropOldest, []), |_| {});
    let mut slow = stalled(&daemon, &hello_gaps("slow"));
    let mut sender = started(&daemon);
    send(&mut sender, "g", 0, MESSAGES / 2);
    let mut visitors = 0;
    for i in 0..20 {
        let mut visitor = Client::connect(&daemon, &format!("v{i}"));
        visitor.joined("g");
        visitors += 1;
        send(&mut sender, "g", MESSAGES / 2 + i, MESSAGES / 2 + i + 1);
    }
    let mut joins = 0;
    while joins < visitors {
        let frame = slow.frame().unwrap();
        joins += u32::from(
            frame.kind() == Kind::Membership
                && frame.header.service.contains(ServiceType::CAUSED_BY_JOIN)
                && frame
                    .group_names()
                    .any(|name| name.as_bytes() == format!("#v{joins}#localhost").as_bytes()),
        );
    }
    assert!(daemon.session_stats().slow_discarded_total > 0);
}

#[test]
fn what_waits_on_disk_comes_whole_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon_with(SlowRules::new(SlowAction::Spill, []), |options| {
        options.spill_dir = Some(dir.path().to_owned());
    });
    let mut slow = stalled(&daemon, &hello("slow"));
    let mut sender = started(&daemon);
    send(&mut sender, "g", 0, MESSAGES);
    wait_until("messages on disk", || daemon.session_stats().spilled_total > 300);
    // More come while the disk is read.
    let more = std::thread::spawn(move || {
        send(&mut sender, "g", MESSAGES, MESSAGES + 200);
        sender
    });
    let (numbers, _) = read_to(&mut slow, MESSAGES + 199);
    assert!(numbers.into_iter().eq(0..MESSAGES + 200));
    let mut sender = more.join().unwrap();
    send(&mut sender, "g", 0, 1);
    assert_eq!(read_to(&mut slow, 0).0, [0]);
    assert_eq!(daemon.session_stats().dropped_slow_total, 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
}

#[test]
fn when_the_disk_is_full_the_client_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon_with(SlowRules::new(SlowAction::Disconnect, [("g", SlowAction::Spill)]), |options| {
        options.spill_dir = Some(dir.path().to_owned());
        options.limits.spill_bytes_max = 4 << 20;
    });
    let mut slow = stalled(&daemon, &hello("slow"));
    let mut sender = started(&daemon);
    send(&mut sender, "g", 0, MESSAGES);
    wait_until("the end of the slow session", || daemon.sessions() == 1);
    let stats = daemon.session_stats();
    assert_eq!(stats.dropped_slow_total, 1);
    assert!(stats.spilled_bytes_total > 2 << 20 && stats.spilled_bytes_total <= 4 << 20, "{stats:?}");
    rest(&mut slow.stream);
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_at_the_start() {
    let mut options = options();
    options.slow = SlowRules::new(SlowAction::Spill, []);
    options.spill_dir = Some("/nonexistent/spill".into());
    let error = Daemon::start(options).unwrap_err().to_string();
    assert!(error.starts_with("cannot write to /nonexistent/spill"), "{error}");
}

#[test]
fn the_action_depends_on_the_group() {
    let daemon =
        daemon_with(SlowRules::new(SlowAction::Disconnect, [("metrics.*", SlowAction::DropOldest)]), |_| {});
    let mut slow = stalled(&daemon, &hello_gaps("slow"));
    slow.joined("metrics.cpu");
    let mut sender = started(&daemon);
    sender.joined("metrics.cpu");
    send(&mut sender, "metrics.cpu", 0, MESSAGES);
    assert!(daemon.session_stats().slow_discarded_total > 300);
    assert_eq!(daemon.sessions(), 2);
    // Messages to another group must not be dropped, so the client is.
    sender.send_until_disconnect("g", &[7; 1000], "#slow#localhost");
    assert_eq!(daemon.session_stats().dropped_slow_total, 1);
}

#[test]
fn few_large_messages_are_too_much_by_their_bytes() {
    for (limit, sessions) in [(None, 2), (Some(1 << 20), 1)] {
        let daemon = daemon_with(SlowRules::default(), |options| {
            options.limits.session_messages_max = 1000;
            options.limits.session_bytes_max = limit;
        });
        let _slow = stalled(&daemon, &hello("slow"));
        let mut sender = started(&daemon);
        send(&mut sender, "g", 0, 600);
        wait_until("the sessions", || daemon.sessions() == sessions);
        assert_eq!(daemon.session_stats().dropped_slow_total, 2 - sessions as u64);
    }
}
