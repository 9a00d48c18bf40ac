//! The ring driver between hosts, and under a process that does not run for a while.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spread::{Builder, GroupName, Message, Service as ClientService};
use spread_ring::{Body, Event, NodeId, RingConfig, Service};
use spreadd::ring_driver::{
    DriverConfig, Handle, Network, NodeAddr, SegmentAddr, Upper, Waker, new_boot, packet_len_max, start,
};
use tests::cluster::Cluster;
use tests::netns::{Net, unavailable};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Seen {
    messages: Vec<(u16, Vec<u8>)>,
    members: usize,
    queue: VecDeque<Vec<u8>>,
}

struct Top(Arc<Mutex<Seen>>);

impl Upper for Top {
    fn handle_event(&mut self, event: Event) {
        let mut seen = self.0.lock().unwrap();
        match event {
            Event::Deliver { sender, body, .. } => {
                seen.messages.push((sender.node.0, body.to_bytes().to_vec()));
            }
            Event::Regular { members, .. } => seen.members = members.len(),
            Event::Transitional { .. } | Event::Writable => {}
        }
    }
    fn next_submission(&mut self) -> Option<(Service, Body)> {
        let body = self.0.lock().unwrap().queue.pop_front()?;
        Some((Service::Agreed, bytes::Bytes::from(body).into()))
    }
    fn flush(&mut self) {}
}

fn can_make_hosts() -> bool {
    match unavailable() {
        Some(reason) => {
            assert!(std::env::var_os("CI").is_none(), "CI must be able to make hosts: {reason}");
            false
        }
        None => true,
    }
}

#[test]
fn ipv6_multicast_between_hosts() {
    if !can_make_hosts() {
        return;
    }
    let net = Net::new(3).unwrap();
    let addr = |n: u16| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n + 1);
    for (n, host) in (0..).zip(net.hosts()) {
        let text = format!("{}/64", addr(n));
        let status = Command::new("ip")
            .args(["-n", host.netns(), "addr", "add", &text, "dev", "eth0", "nodad"])
            .status();
        assert!(status.unwrap().success());
    }
    let addrs: Vec<_> = (0..3).map(|n| addr(n).into()).collect();
    each_packet_is_sent_once(&net, &addrs, "[ff15::77]:4803".parse().unwrap());
}

#[test]
fn ipv4_multicast_between_hosts() {
    if can_make_hosts() {
        let net = Net::new(3).unwrap();
        let addrs: Vec<_> = net.hosts().iter().map(tests::netns::Host::addr).collect();
        each_packet_is_sent_once(&net, &addrs, "239.77.0.9:4803".parse().unwrap());
    }
}

#[test]
fn ipv4_broadcast_between_hosts() {
    if can_make_hosts() {
        let net = Net::new(3).unwrap();
        for host in net.hosts() {
            let text = format!("{}/24", host.addr());
            let change = ["addr", "change", &text, "broadcast", "10.77.0.255", "dev", "eth0"];
            let status = Command::new("ip").args(["-n", host.netns()]).args(change).status();
            assert!(status.unwrap().success());
        }
        let addrs: Vec<_> = net.hosts().iter().map(tests::netns::Host::addr).collect();
        each_packet_is_sent_once(&net, &addrs, "10.77.0.255:4803".parse().unwrap());
    }
}

/// Three daemons; the first sends 400 messages of 1300 bytes to the shared address.
fn each_packet_is_sent_once(net: &Net, addrs: &[IpAddr], group: SocketAddr) {
    let network = Network {
        nodes: addrs.iter().map(|ip| NodeAddr { segment: 0, addrs: vec![*ip], port: 4803 }).collect(),
        segments: vec![SegmentAddr { multicast: Some(group) }],
    };
    let daemons: Vec<(Handle<Top>, Arc<Mutex<Seen>>, Waker)> = (0..3u16)
        .map(|me| {
            let mut ring = RingConfig::new(NodeId(me), vec![0; 3], [9; 16]);
            // A machine that stands still for a while shall not change the membership under the test.
            ring.timers.token = Duration::from_secs(5);
            ring.packet_len_max = packet_len_max(1500, addrs[0]);
            let config = DriverConfig::new(ring, new_boot(0).unwrap(), network.clone());
            let seen = Arc::new(Mutex::new(Seen::default()));
            let waker = Waker::new().unwrap();
            let (top, wake) = (Top(Arc::clone(&seen)), waker.clone());
            // The ring thread is a child of the thread on the host, so it is there too.
            let started = net.host(usize::from(me)).enter(move || start(config, top, wake)).unwrap();
            (started.join().unwrap().unwrap(), seen, waker)
        })
        .collect();
    wait::until("three daemons together", LIMIT, || {
        let members: Vec<_> = daemons.iter().map(|(_, seen, _)| seen.lock().unwrap().members).collect();
        if members == [3; 3] { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .unwrap();
    let before = daemons[0].0.report().unwrap().io.packets_sent;
    let count = 400u16;
    for i in 0..count {
        daemons[0].1.lock().unwrap().queue.push_back(i.to_le_bytes().repeat(650));
    }
    daemons[0].2.wake();
    wait::until("all messages everywhere", LIMIT, || {
        let counts: Vec<_> = daemons.iter().map(|(_, seen, _)| seen.lock().unwrap().messages.len()).collect();
        if counts == [usize::from(count); 3] { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .unwrap();
    let sent = daemons[0].0.report().unwrap().io.packets_sent - before;
    // One multicast each, not a copy for each receiver, and not much else.
    assert!((350..600).contains(&sent), "{sent} packets for {count} messages");
    let expected: Vec<_> = (0..count).map(|i| (0, i.to_le_bytes().repeat(650))).collect();
    for (_, seen, _) in &daemons {
        assert!(seen.lock().unwrap().messages == expected);
    }
}

/// A pause shorter than the token timeout is no failure: what came in the meantime is read before timers
/// are looked at.
#[test]
fn a_stopped_daemon_that_goes_on_in_time_is_not_missed() {
    let mut cluster = Cluster::on_loopback(3).unwrap();
    let mut conf = OpenOptions::new().append(true).open(cluster.conf()).unwrap();
    let timeouts = [
        ("Token", 4000),
        ("Hurry", 100),
        ("Alive", 100),
        ("Join", 20),
        ("Rep", 500),
        ("Seg", 500),
        ("Gather", 200),
        ("Form", 250),
        ("Lookup", 30_000),
    ];
    for (name, ms) in timeouts {
        writeln!(conf, "{name}Timeout = {ms}").unwrap();
    }
    cluster.start_all().unwrap();
    let group: GroupName = "pause".parse().unwrap();
    let mut clients: Vec<_> = (0..3)
        .map(|i| {
            let address = cluster.connect_string(i);
            let connection = wait::until("a connection", LIMIT, || {
                let builder = Builder::new(&address).map_err(|e| e.to_string())?.membership(true);
                builder.connect_blocking().map_err(|e| e.to_string())
            });
            let mut connection = connection.unwrap();
            connection.join(group).unwrap();
            connection
        })
        .collect();
    for client in &mut clients {
        loop {
            match client.receive_timeout(LIMIT).unwrap().expect("the three clients meet") {
                Message::Membership(view) if view.members.len() == 3 => break,
                _ => {}
            }
        }
    }
    let process = cluster.daemon(1).unwrap();
    process.signal(Signal::SIGSTOP).unwrap();
    // The length of the pause is what is tested: more than a quarter of the token timeout.
    let begin = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    process.signal(Signal::SIGCONT).unwrap();
    let paused = begin.elapsed();
    clients[0].multicast(ClientService::SAFE, group, 7, "after the pause").unwrap();
    for client in &mut clients {
        match client.receive_timeout(LIMIT).unwrap().expect("a message") {
            Message::Data(data) => assert_eq!(data.payload(), b"after the pause"),
            // A machine that stood still for seconds proves nothing.
            other => assert!(paused > Duration::from_secs(3), "{other:?} after {paused:?}"),
        }
    }
    let process = cluster.daemon(1).unwrap();
    process.wait_printed("did not run for a while", LIMIT).unwrap();
}
