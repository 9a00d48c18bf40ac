//! Real ring threads on loopback: several daemons of one host, with one port and an address each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spread_ring::{Body, Event, NodeId, RingConfig, Service};
use spreadd::ring_driver::{
    DriverConfig, DropReason, Handle, KeyRing, Network, NodeAddr, SegmentAddr, Upper, Waker, new_boot, start,
};

const LIMIT: Duration = Duration::from_secs(20);

const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a daemon delivered: sender and message, and the sizes of its regular configurations.
#[derive(Default)]
struct Seen {
    messages: Vec<(u16, Vec<u8>)>,
    regular: Vec<Vec<u16>>,
    queue: VecDeque<(Service, Body)>,
}

struct Top(Arc<Mutex<Seen>>);

impl Upper for Top {
    fn handle_event(&mut self, event: Event) {
        let mut seen = self.0.lock().unwrap();
        match event {
            Event::Deliver { sender, body, .. } => {
                seen.messages.push((sender.node.0, body.to_bytes().to_vec()))
            }
            Event::Regular { members, .. } => seen.regular.push(members.iter().map(|m| m.node.0).collect()),
            Event::Transitional { .. } | Event::Writable => {}
        }
    }
    fn next_submission(&mut self) -> Option<(Service, Body)> {
        self.0.lock().unwrap().queue.pop_front()
    }
    fn flush(&mut self) {}
}

struct Daemon {
    handle: Handle<Top>,
    seen: Arc<Mutex<Seen>>,
    waker: Waker,
}

impl Daemon {
    fn start(network: &Network, me: u16, keys: Option<&str>) -> Self {
        let mut ring = RingConfig::new(NodeId(me), vec![0; network.nodes.len()], [3; 16]);
        // A machine that stands still for a while shall not change the membership under a test.
        ring.timers.token = TOKEN_TIMEOUT;
        let mut config = DriverConfig::new(ring, new_boot(0).unwrap(), network.clone());
        config.keys = keys.map(|text| KeyRing::parse(text).unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let waker = Waker::new().unwrap();
        let handle = start(config, Top(Arc::clone(&seen)), waker.clone()).unwrap();
        Self { handle, seen, waker }
    }

    fn submit(&self, service: Service, body: impl Into<Bytes>) {
        self.seen.lock().unwrap().queue.push_back((service, Body::One(body.into())));
        self.waker.wake();
    }

    fn members(&self) -> Vec<u16> {
        self.seen.lock().unwrap().regular.last().cloned().unwrap_or_default()
    }

    fn messages(&self) -> Vec<(u16, Vec<u8>)> {
        self.seen.lock().unwrap().messages.clone()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.handle.report().unwrap().io.dropped(reason)
    }
}

/// Addresses of its own for each test.
fn network(count: u16, multicast: bool) -> Network {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = NEXT.fetch_add(count, Ordering::Relaxed) + 1;
    let process = std::process::id();
    let third = u8::try_from(process % 200 + 1).unwrap();
    let second = u8::try_from(process / 200 % 200 + 1).unwrap();
    let last = |n: u16| u8::try_from(n).unwrap();
    Network {
        nodes: (0..count)
            .map(|n| NodeAddr {
                segment: 0,
                addrs: vec![IpAddr::from([127, second, third, last(base + n)])],
                port: 4803,
            })
            .collect(),
        segments: vec![SegmentAddr {
            multicast: multicast.then(|| SocketAddr::from(([239, second, third, last(base)], 4803))),
        }],
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "not reached: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn together(daemons: &[&Daemon]) {
    let names: Vec<_> = daemons.iter().map(|d| d.handle.report()).collect();
    let count = daemons.len();
    let end = Instant::now() + LIMIT;
    while !daemons.iter().all(|d| d.members().len() == count) {
        if Instant::now() > end {
            for daemon in daemons {
                eprintln!("{:?}\n{}", daemon.members(), daemon.handle.blackbox().unwrap());
            }
            panic!("not together; at the start {names:?}");
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Messages of all sizes and services from all daemons come in one order everywhere.
fn orders_everything(network: &Network, keys: Option<&str>) {
    let daemons: Vec<_> = (0..3).map(|me| Daemon::start(network, me, keys)).collect();
    let all: Vec<_> = daemons.iter().collect();
    together(&all);
    let sizes = [1, 100, 1000, 1456, 5000, 100_000];
    let rounds = 100;
    for i in 0..rounds {
        for (me, daemon) in daemons.iter().enumerate() {
            let mut body = vec![u8::try_from(me).unwrap(); sizes[(i + me) % sizes.len()]];
            body[0] = u8::try_from(i).unwrap();
            daemon.submit(if i % 7 == 0 { Service::Safe } else { Service::Agreed }, body);
        }
    }
    until("all is delivered", || daemons.iter().all(|d| d.messages().len() == 3 * rounds));
    let first = daemons[0].messages();
    for daemon in &daemons {
        assert!(daemon.messages() == first, "one order");
    }
    for me in 0..3u16 {
        let own: Vec<_> = first.iter().filter(|(sender, _)| *sender == me).collect();
        for (i, (_, body)) in own.iter().enumerate() {
            assert_eq!(body.len(), sizes[(i + usize::from(me)) % sizes.len()]);
            assert_eq!(usize::from(body[0]), i);
            assert!(body[1..].iter().all(|b| u16::from(*b) == me));
        }
    }
    for daemon in daemons {
        daemon.handle.leave();
        daemon.handle.join().unwrap();
    }
}

#[test]
fn three_daemons_by_unicast() {
    orders_everything(&network(3, false), None);
}

#[test]
fn three_daemons_by_multicast() {
    orders_everything(&network(3, true), None);
}

#[test]
fn three_daemons_sealed() {
    orders_everything(&network(3, true), Some(&format!("1 {} active", "ab".repeat(32))));
}

#[test]
fn one_daemon_alone_delivers_at_once() {
    let daemon = Daemon::start(&network(1, false), 0, None);
    for i in 0..1000u32 {
        daemon.submit(Service::Safe, i.to_le_bytes().to_vec());
    }
    until("all is delivered", || daemon.messages().len() == 1000);
    let expected: Vec<_> = (0..1000u32).map(|i| (0, i.to_le_bytes().to_vec())).collect();
    assert_eq!(daemon.messages(), expected);
}

#[test]
fn a_daemon_that_leaves_is_missed_at_once() {
    let network = network(3, true);
    let daemons: Vec<_> = (0..3).map(|me| Daemon::start(&network, me, None)).collect();
    together(&daemons.iter().collect::<Vec<_>>());
    let mut daemons = daemons;
    let leaver = daemons.remove(1);
    let begin = Instant::now();
    leaver.handle.leave();
    leaver.handle.join().unwrap();
    until("the others go on", || daemons.iter().all(|d| d.members() == [0, 2]));
    assert!(begin.elapsed() < TOKEN_TIMEOUT / 2, "long before the token timeout: {:?}", begin.elapsed());
    // It comes back as another process.
    let back = Daemon::start(&network, 1, None);
    together(&[&daemons[0], &back, &daemons[1]]);
}

#[test]
fn a_daemon_with_another_key_stays_outside_and_harms_nobody() {
    let network = network(3, true);
    let good = format!("1 {} active", "ab".repeat(32));
    let bad = format!("1 {} active", "cd".repeat(32));
    let a = Daemon::start(&network, 0, Some(&good));
    let b = Daemon::start(&network, 1, Some(&good));
    let stranger = Daemon::start(&network, 2, Some(&bad));
    together(&[&a, &b]);
    until("the stranger is refused", || {
        a.dropped(DropReason::Tag) > 0 && stranger.dropped(DropReason::Tag) > 0
    });
    for i in 0..100u8 {
        a.submit(Service::Agreed, vec![i]);
    }
    until("all is delivered", || b.messages().len() == 100);
    assert_eq!(stranger.members(), [2]);
    assert!(stranger.messages().is_empty());
    assert_eq!(a.members(), [0, 1]);
}

#[test]
fn the_key_is_changed_while_messages_flow() {
    let network = network(3, true);
    let (one, two) = ("11".repeat(32), "22".repeat(32));
    let steps =
        [format!("1 {one} active\n2 {two}"), format!("1 {one}\n2 {two} active"), format!("2 {two} active")];
    let daemons: Vec<_> =
        (0..3).map(|me| Daemon::start(&network, me, Some(&format!("1 {one} active")))).collect();
    together(&daemons.iter().collect::<Vec<_>>());
    let installs: Vec<_> = daemons.iter().map(|d| d.seen.lock().unwrap().regular.len()).collect();
    let mut sent = 0;
    for step in &steps {
        for daemon in &daemons {
            for i in 0..50u8 {
                daemons[usize::from(i % 3)].submit(Service::Agreed, vec![i; 700]);
                sent += 1;
            }
            daemon.handle.reload_keys(KeyRing::parse(step).unwrap());
            // The command was taken when the next one is answered.
            daemon.handle.report().unwrap();
        }
        until("all is delivered", || daemons.iter().all(|d| d.messages().len() == sent));
    }
    let after: Vec<_> = daemons.iter().map(|d| d.seen.lock().unwrap().regular.len()).collect();
    assert_eq!(installs, after, "no membership change");
    assert!(daemons[0].messages() == daemons[2].messages());
    for daemon in &daemons {
        assert_eq!(daemon.dropped(DropReason::Key) + daemon.dropped(DropReason::Tag), 0);
    }
}

#[test]
fn rubbish_from_anywhere_changes_nothing() {
    let network = network(2, false);
    let daemons: Vec<_> = (0..2).map(|me| Daemon::start(&network, me, None)).collect();
    together(&daemons.iter().collect::<Vec<_>>());
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 1u64;
    for i in 0..3000usize {
        let mut bytes: Vec<u8> = (0..i % 1500)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33).to_le_bytes()[0]
            })
            .collect();
        if i % 2 == 0 && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&[0x53, 0x52, 1, i.to_le_bytes()[0] % 11, 3, 3, 3, 3]);
        }
        for node in &network.nodes {
            let port = node.port + u16::from(i % 3 == 0);
            stranger.send_to(&bytes, (node.addrs[0], port)).unwrap();
        }
        if i % 100 == 0 {
            daemons[0].submit(Service::Agreed, vec![7; 10]);
        }
    }
    until("all is delivered", || daemons.iter().all(|d| d.messages().len() == 30));
    assert_eq!(daemons[1].members(), [0, 1]);
    assert!(daemons[1].dropped(DropReason::Source) > 1000);
}
