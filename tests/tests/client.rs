//! The client library against a live daemon in the same process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use futures_sink::Sink;
use spread::blocking::Connection;
use spread::{
    Address, Builder, Cause, ConnectError, Data, GroupName, Membership, Message, Outgoing, Reconnect, Reject,
    SendError, Service,
};
use spreadd::{Daemon, Options};
use tempfile::TempDir;

/// No step takes longer; what does has hung.
const LIMIT: Duration = Duration::from_secs(20);

/// A daemon that can be stopped and started again where it was.
struct Host {
    dir: TempDir,
    port: u16,
    daemon: Option<Daemon>,
}

impl Host {
    fn new() -> Self {
        let mut host = Self { dir: tempfile::tempdir().unwrap(), port: 0, daemon: None };
        host.start();
        host
    }

    fn start(&mut self) {
        let mut options = Options::alone("d1".parse().unwrap(), self.port);
        options.listen = vec!["127.0.0.1".parse().unwrap()];
        options.socket_dir = Some(self.dir.path().to_owned());
        options.threads = 2;
        let daemon = Daemon::start(options).unwrap();
        self.port = daemon.port();
        self.daemon = Some(daemon);
    }

    fn stop(&mut self) {
        self.daemon.take().unwrap().stop();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.port.to_string())
    }

    fn unix(&self) -> Builder {
        Builder::from_address(Address::Unix(self.path()))
    }

    fn tcp(&self) -> Builder {
        Builder::new(&format!("{}@127.0.0.1", self.port)).unwrap()
    }

    /// A session with membership messages.
    fn member(&self, name: &str) -> Connection {
        self.unix().private_name(name).unwrap().membership(true).connect_blocking().unwrap()
    }
}

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn next(connection: &mut Connection) -> Message {
    connection.receive_timeout(LIMIT).unwrap().expect("a message within the limit")
}

fn view(connection: &mut Connection) -> Membership {
    match next(connection) {
        Message::Membership(view) => view,
        other => panic!("a view was expected, not {other:?}"),
    }
}

fn data(connection: &mut Connection) -> Data {
    match next(connection) {
        Message::Data(data) => data,
        other => panic!("data was expected, not {other:?}"),
    }
}

/// Everything that was ordered before now has been received: a message to oneself comes back, and nothing else.
fn nothing_more(connection: &mut Connection) {
    let own = connection.private_group().as_group();
    connection.multicast(Service::AGREED, own, 99, "marker").unwrap();
    let marker = data(connection);
    assert_eq!((marker.message_type(), marker.payload()), (99, &b"marker"[..]), "{marker:?}");
}

fn names(view: &Membership) -> Vec<String> {
    view.members.iter().map(ToString::to_string).collect()
}

#[test]
fn a_session_by_either_socket() {
    let host = Host::new();
    for builder in [host.unix(), host.tcp()] {
        let invented = builder.clone().connect_blocking().unwrap();
        assert_eq!(invented.private_group().daemon().to_string(), "d1");
        let named = builder.clone().private_name("ann").unwrap().connect_blocking().unwrap();
        assert_eq!(named.private_group().to_string(), "#ann#d1");
        assert_eq!(named.daemon_version(), (5, 0, 1));
        let again = builder.clone().private_name("ann").unwrap().connect_blocking().unwrap_err();
        assert!(matches!(again, ConnectError::Rejected { reason: Reject::NotUnique }), "{again:?}");
        // An orderly end frees the name before it returns.
        named.disconnect().unwrap();
        let again = builder.private_name("ann").unwrap().connect_blocking().unwrap();
        again.disconnect().unwrap();
    }
}

/// spec: group-semantics 3.1, cases 01 to 05, 23
#[test]
fn the_views_of_a_stable_network() {
    let host = Host::new();
    let mut a = host.member("a1");
    let g = group("g");
    a.join(g).unwrap();
    let first = view(&mut a);
    assert_eq!(first.group, g);
    assert_eq!(first.cause, Cause::Join(a.private_group().as_group()));
    assert_eq!(names(&first), ["#a1#d1"]);
    assert_eq!(first.own_index, Some(0));
    assert_eq!(first.own_vs_set(), [a.private_group().as_group()]);
    assert_eq!(first.id.index, 1);

    let mut b = host.member("b2");
    b.join(g).unwrap();
    let (at_a, at_b) = (view(&mut a), view(&mut b));
    assert_eq!(at_a.cause, Cause::Join(b.private_group().as_group()));
    assert_eq!(names(&at_a), ["#a1#d1", "#b2#d1"]);
    assert_eq!((at_a.own_index, at_b.own_index), (Some(0), Some(1)));
    assert_eq!((at_a.id, at_a.id.index), (at_b.id, 2));
    assert_eq!((at_a.id.proc, at_a.id.time), (first.id.proc, first.id.time));
    assert_eq!(at_a.members, at_b.members);

    // A join by a member, a leave by a stranger: nothing.
    a.join(g).unwrap();
    a.leave(group("other")).unwrap();
    nothing_more(&mut a);
    nothing_more(&mut b);

    // A member that did not ask for membership messages is one all the same.
    let mut quiet = host.unix().private_name("q").unwrap().connect_blocking().unwrap();
    quiet.join(g).unwrap();
    assert_eq!(names(&view(&mut a)), ["#a1#d1", "#b2#d1", "#q#d1"]);
    assert_eq!(names(&view(&mut b)), ["#a1#d1", "#b2#d1", "#q#d1"]);
    nothing_more(&mut quiet);
    let q = quiet.private_group().as_group();
    drop(quiet);
    for member in [&mut a, &mut b] {
        let left = view(member);
        assert_eq!((left.cause, left.id.index), (Cause::Disconnect(q), 4));
    }

    b.leave(g).unwrap();
    assert!(matches!(next(&mut b), Message::SelfLeave { group } if group == g));
    let left = view(&mut a);
    assert_eq!(left.cause, Cause::Leave(b.private_group().as_group()));
    assert_eq!(names(&left), ["#a1#d1"]);
    assert_eq!(left.id.index, 5);
    a.multicast(Service::AGREED, g, 0, "alone").unwrap();
    assert_eq!(data(&mut a).payload(), b"alone");
    nothing_more(&mut b);

    // The last member goes, and the group begins anew.
    a.leave(g).unwrap();
    assert!(matches!(next(&mut a), Message::SelfLeave { group } if group == g));
    a.join(g).unwrap();
    assert_eq!(view(&mut a).id.index, 1);

    // Join, data, leave, data, join in one write.
    b.enqueue(Service::AGREED, g, 0, "before").unwrap();
    b.join(g).unwrap();
    b.enqueue(Service::AGREED, g, 0, "in").unwrap();
    b.leave(g).unwrap();
    b.enqueue(Service::AGREED, g, 0, "out").unwrap();
    b.join(g).unwrap();
    assert!(matches!(next(&mut b), Message::Membership(_)));
    assert_eq!(data(&mut b).payload(), b"in");
    assert!(matches!(next(&mut b), Message::SelfLeave { .. }));
    assert!(matches!(next(&mut b), Message::Membership(_)));
    nothing_more(&mut b);

    // Groups of a session that ends are told of in the order of their names.
    let mut c = host.member("c");
    for name in ["z", "g", "m"] {
        c.join(group(name)).unwrap();
        a.join(group(name)).unwrap();
    }
    nothing_more_but_views(&mut c);
    nothing_more_but_views(&mut a);
    c.disconnect().unwrap();
    for name in ["g", "m", "z"] {
        let view = view(&mut a);
        assert_eq!(view.group, group(name));
        assert!(matches!(view.cause, Cause::Disconnect(_)));
    }
    nothing_more(&mut a);
}

/// Skips the views that were ordered before now.
fn nothing_more_but_views(connection: &mut Connection) {
    let own = connection.private_group().as_group();
    connection.multicast(Service::AGREED, own, 98, "").unwrap();
    while !matches!(next(connection), Message::Data(data) if data.message_type() == 98) {}
}

#[test]
fn every_service_by_both_faces() {
    let host = Host::new();
    let mut receiver = host.member("r");
    receiver.join(group("g")).unwrap();
    view(&mut receiver);
    let mut sender = host.tcp().private_name("s").unwrap().connect_blocking().unwrap();
    let own = sender.private_group().as_group();
    for service in Service::ALL {
        for service in [service, service.self_discard()] {
            for message_type in [0, 1, -1, i16::MIN, i16::MAX] {
                let body = format!("{service} {message_type}");
                sender.multicast(service, [group("g"), own], message_type, &body).unwrap();
                let got = data(&mut receiver);
                assert_eq!(got.service(), service);
                assert_eq!(got.sender(), own);
                assert_eq!(got.message_type(), message_type);
                assert_eq!(got.payload(), body.as_bytes());
                assert_eq!(got.groups().collect::<Vec<_>>(), [group("g"), own]);
                assert!(!got.endian_mismatch());
                if !service.is_self_discard() {
                    assert_eq!(data(&mut sender).payload(), body.as_bytes());
                }
            }
        }
    }
    nothing_more(&mut receiver);
    nothing_more(&mut sender);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = host.tcp().private_name("t").unwrap().connect().await.unwrap();
        connection.join(group("g")).await.unwrap();
        // Another way may be faster than the join; the message to oneself comes after it.
        for service in Service::ALL {
            connection.multicast(service, group("g"), 5, service.to_string()).await.unwrap();
        }
        let own = connection.private_group().as_group();
        connection.multicast(Service::SAFE, own, 0, "end").await.unwrap();
        let mut got = BTreeSet::new();
        loop {
            match tokio::time::timeout(LIMIT, connection.receive()).await.unwrap().unwrap() {
                Message::Data(data) if data.payload() == b"end" => break,
                Message::Data(data) => {
                    assert_eq!(data.payload(), data.service().to_string().as_bytes());
                    assert_eq!(data.message_type(), 5);
                    got.insert(data.service().to_string());
                }
                other => panic!("{other:?}"),
            }
        }
        // The loose ones may run ahead of the join.
        for service in &Service::ALL[2..] {
            assert!(got.contains(&service.to_string()), "{service}");
        }
        connection.disconnect().await.unwrap();
    });
}

/// spec: client-protocol 3.5
#[test]
fn the_largest_messages_pass_and_larger_ones_are_refused_here() {
    let host = Host::new();
    for builder in [host.unix(), host.tcp()] {
        let mut a = builder.connect_blocking().unwrap();
        let own = a.private_group().as_group();
        for len in [0, 1, 1352, 1353, 65_536, 143_119, 143_120] {
            let body: Vec<u8> = (0..len).map(|i: u32| (i * 31 % 251) as u8).collect();
            a.multicast(Service::AGREED, own, 0, &body).unwrap();
            assert!(data(&mut a).payload() == body, "{len} bytes");
        }
        let error = a.multicast(Service::AGREED, own, 0, vec![0; 143_121]).unwrap_err();
        assert!(matches!(error, SendError::TooLong { over: 1, .. }), "{error:?}");
        assert_eq!(error.code(), -17);
        // 100 groups leave room for 139,952 bytes.
        let mut groups = vec![group("nobody"); 99];
        groups.push(own);
        let body = vec![7; 143_152 - 100 * 32];
        a.multicast(Service::SAFE, &groups, 0, &body).unwrap();
        let got = data(&mut a);
        assert_eq!(got.groups().collect::<Vec<_>>(), groups);
        assert!(got.payload() == body);
        groups.push(own);
        let error = a.multicast(Service::SAFE, &groups, 0, "").unwrap_err();
        assert!(matches!(error, SendError::TooManyGroups { groups: 101 }), "{error:?}");
        nothing_more(&mut a);
    }
}

#[test]
fn one_copy_however_many_groups_match() {
    let host = Host::new();
    let mut a = host.unix().connect_blocking().unwrap();
    let groups: Vec<GroupName> = (0..500).map(|i| group(&format!("g{i}"))).collect();
    for g in &groups {
        a.join(*g).unwrap();
    }
    nothing_more(&mut a);
    for part in groups.chunks(100) {
        a.enqueue(Service::FIFO, part, 0, "x").unwrap();
    }
    for part in groups.chunks(100) {
        assert_eq!(data(&mut a).groups().collect::<Vec<_>>(), part);
    }
    nothing_more(&mut a);
}

/// One thread sends, another receives; nothing is lost, and messages leave in batches.
#[test]
fn two_threads_on_one_session() {
    const COUNT: u32 = 50_000;
    let host = Host::new();
    for builder in [host.unix(), host.tcp()] {
        let (mut sender, mut receiver) =
            builder.send_timeout(Some(LIMIT)).connect_blocking().unwrap().split();
        let own = sender.private_group().as_group();
        let reader = thread::spawn(move || {
            for i in 0..COUNT {
                match receiver.receive_timeout(LIMIT).unwrap().expect("a message within the limit") {
                    Message::Data(data) => assert_eq!(data.payload(), i.to_le_bytes()),
                    other => panic!("{other:?}"),
                }
            }
            receiver
        });
        for i in 0..COUNT {
            sender.enqueue(Service::AGREED, own, 0, i.to_le_bytes()).unwrap();
        }
        sender.flush().unwrap();
        let mut receiver = reader.join().unwrap();
        sender.disconnect().unwrap();
        assert!(receiver.receive_timeout(LIMIT).is_err());
    }
}

#[test]
fn tasks_share_a_sender() {
    const EACH: u32 = 5000;
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = host.unix().connect().await.unwrap().split();
        let own = sender.private_group().as_group();
        let tasks: Vec<_> = (0..4)
            .map(|kind| {
                let sender = sender.clone();
                tokio::spawn(async move {
                    for i in 0..EACH {
                        sender.multicast(Service::FIFO, own, kind, i.to_le_bytes()).await.unwrap();
                    }
                })
            })
            .collect();
        let mut seen = [0_u32; 4];
        while seen.iter().sum::<u32>() < 4 * EACH {
            match tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap() {
                Message::Data(data) => {
                    let seen = &mut seen[usize::try_from(data.message_type()).unwrap()];
                    assert_eq!(data.payload(), seen.to_le_bytes());
                    *seen += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        sender.disconnect().await.unwrap();
    });
}

/// A sink waits when the daemon does, flushes, and ends the session in order when it is closed.
#[test]
fn a_sink_of_messages() {
    const COUNT: i16 = 3000;
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = host.unix().queue_bytes(4000).connect().await.unwrap().split();
        let own = sender.private_group().as_group();
        let writer = tokio::spawn(async move {
            let mut sink = Box::pin(sender.into_sink());
            for i in 0..COUNT {
                poll_fn(|cx| sink.as_mut().poll_ready(cx)).await.unwrap();
                let message = Outgoing::new(Service::AGREED, own, i, vec![7; 1000]);
                sink.as_mut().start_send(message).unwrap();
            }
            poll_fn(|cx| sink.as_mut().poll_flush(cx)).await.unwrap();
            let error = sink.as_mut().start_send(Outgoing::new(Service::AGREED, own, 0, vec![7; 150_000]));
            assert!(matches!(error, Err(SendError::TooLong { .. })));
            sink
        });
        for i in 0..COUNT {
            match tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap() {
                Message::Data(data) => assert_eq!(data.message_type(), i),
                other => panic!("{other:?}"),
            }
        }
        let mut sink = writer.await.unwrap();
        poll_fn(|cx| sink.as_mut().poll_close(cx)).await.unwrap();
        let error = poll_fn(|cx| sink.as_mut().poll_ready(cx)).await.unwrap_err();
        assert!(matches!(error, SendError::Closed));
        let end = tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap();
        assert!(end.is_err(), "{end:?}");
    });
}

fn quick() -> Reconnect {
    Reconnect {
        first_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(50),
        give_up_after: Some(LIMIT),
    }
}

/// The daemon goes and comes back: the session is made again, the groups are joined again, and the gap is told.
#[test]
fn a_restarted_daemon_is_found_again() {
    let mut host = Host::new();
    let unix = host.unix().private_name("u").unwrap().membership(true).reconnect(quick());
    let tcp = host.tcp().private_name("t").unwrap().membership(true).reconnect(quick());
    for builder in [unix, tcp] {
        let mut a = builder.connect_blocking().unwrap();
        a.join(group("g")).unwrap();
        let before = view(&mut a);
        host.stop();
        assert!(a.receive_timeout(Duration::from_millis(50)).unwrap().is_none());
        host.start();
        let Message::Reconnected(gap) = next(&mut a) else { panic!() };
        assert_eq!(gap.rejoined, [group("g")]);
        assert!(gap.attempts > 1);
        assert_eq!(gap.private_group, gap.old_private_group);
        let after = view(&mut a);
        assert_eq!(after.members, before.members);
        assert_eq!(after.cause, Cause::Join(gap.private_group.as_group()));
        a.multicast(Service::SAFE, group("g"), 0, "again").unwrap();
        assert_eq!(data(&mut a).payload(), b"again");
        a.disconnect().unwrap();
    }
}

#[test]
fn a_restarted_daemon_is_found_again_by_tasks() {
    let mut host = Host::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let builder = host.tcp().reconnect(quick());
    let (sender, mut receiver) = runtime.block_on(async { builder.connect().await.unwrap().split() });
    runtime.block_on(sender.join(group("g"))).unwrap();
    runtime.block_on(sender.flush()).unwrap();
    host.stop();
    // Nothing is refused meanwhile: it waits for the new session.
    runtime.block_on(sender.multicast(Service::AGREED, group("g"), 1, "meanwhile")).unwrap();
    host.start();
    runtime.block_on(async {
        let message = tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap();
        let Message::Reconnected(gap) = message else { panic!("{message:?}") };
        assert_eq!(gap.rejoined, [group("g")]);
        sender.multicast(Service::AGREED, group("g"), 2, "again").await.unwrap();
        let mut types = Vec::new();
        while types.last() != Some(&2) {
            match tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap() {
                Message::Data(data) => types.push(data.message_type()),
                other => panic!("{other:?}"),
            }
        }
        // The first may have been handed to the system in the moment the daemon died.
        assert!(types == [1, 2] || types == [2], "{types:?}");
        sender.disconnect().await.unwrap();
    });
}

#[test]
fn without_reconnect_the_end_of_the_daemon_is_the_end() {
    let mut host = Host::new();
    let mut a = host.member("a");
    host.stop();
    let start = Instant::now();
    assert!(a.receive_timeout(LIMIT).is_err());
    assert!(a.multicast(Service::FIFO, group("g"), 0, "x").is_err());
    assert!(!a.sender().is_connected());
    assert!(start.elapsed() < LIMIT / 2);
}

/// View synchrony over a live daemon, in one thread; spec: flush-api 8
#[test]
fn two_members_agree_to_their_views() {
    use spread::flush::{self, Event};
    let host = Host::new();
    let mut a = flush::Connection::new(host.member("a"));
    let mut b = flush::Connection::new(host.member("b"));
    let g = group("g");
    let take = |from: &mut flush::Connection| from.receive_timeout(LIMIT).unwrap().expect("an event in time");
    a.join(g).unwrap();
    assert!(matches!(take(&mut a), Event::View(view) if view.members.len() == 1));
    b.join(g).unwrap();
    assert!(matches!(take(&mut a), Event::FlushRequest { .. }));
    a.multicast(Service::AGREED, g, 1, "old").unwrap();
    a.flush(g).unwrap();
    assert_eq!(a.multicast(Service::AGREED, g, 1, "x").unwrap_err().code(), -27);
    assert!(matches!(take(&mut b), Event::View(view) if view.members.len() == 2));
    assert!(matches!(take(&mut a), Event::Data(data) if &data.data[..] == b"old"));
    assert!(matches!(take(&mut a), Event::View(view) if view.set == [b.private_group().as_group()]));
    b.subgroupcast(Service::FIFO, g, &[a.private_group().as_group()], 2, "new").unwrap();
    assert!(matches!(take(&mut a), Event::Data(data) if &data.data[..] == b"new" && data.groups.len() == 2));
    assert!(b.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
    b.disconnect().unwrap();
    assert!(matches!(take(&mut a), Event::FlushRequest { .. }));
    assert!(matches!(take(&mut a), Event::Transition { .. }));
    a.flush(g).unwrap();
    assert!(matches!(take(&mut a), Event::View(view) if view.members.len() == 1));
}
