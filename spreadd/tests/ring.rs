//! Three daemons in one process, on loopback addresses: what crosses from sessions of one to sessions of another.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::time::Duration;

use common::{Client, group, ring_port, wait_until};
use spread_wire::{GroupName, Kind, ServiceType};
use spreadd::config::{self, SystemHost};
use spreadd::{Daemon, Options};

fn start(change: impl Fn(&mut Options)) -> Vec<Daemon> {
    let port = ring_port(3);
    let text = format!(
        "Spread_Segment 127.0.0.255:{port} {{\n one 127.0.0.1\n two 127.0.0.2\n three 127.0.0.3\n}}\n"
    );
    let config = config::parse("test.conf", text.as_bytes(), &SystemHost).unwrap();
    (0..3)
        .map(|me| {
            let mut options = Options::from_config(&config, me).unwrap();
            options.socket_dir = None;
            change(&mut options);
            Daemon::start(options).unwrap()
        })
        .collect()
}

/// A member of `g` on each daemon; returns when all see all.
fn members(daemons: &[Daemon]) -> Vec<Client> {
    let mut clients: Vec<Client> = daemons.iter().map(|daemon| Client::connect(daemon, "member")).collect();
    for client in &mut clients {
        client.join("g");
    }
    for client in &mut clients {
        client.until(|frame| frame.kind() == Kind::Membership && frame.header.num_groups == 3);
    }
    clients
}

#[test]
fn all_members_get_all_messages_in_one_order() {
    let daemons = start(|_| {});
    let mut clients = members(&daemons);
    const COUNT: u32 = 2000;
    let senders: Vec<_> = clients
        .iter()
        .zip(&daemons)
        .map(|(_, daemon)| {
            let mut sender = Client::connect(daemon, "sender");
            std::thread::spawn(move || {
                for i in 0..COUNT {
                    let services = [ServiceType::FIFO, ServiceType::AGREED, ServiceType::SAFE];
                    let service = services[i as usize % 3];
                    // Some span several packets.
                    let mut data = vec![0; if i % 100 == 0 { 20_000 } else { 200 }];
                    data[..4].copy_from_slice(&i.to_le_bytes());
                    let frame = sender.message(service, &[group("g"), group("nobody")], &data);
                    sender.send(&frame);
                }
                sender
            })
        })
        .collect();
    let readers: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            std::thread::spawn(move || {
                (0..COUNT * 3)
                    .map(|_| {
                        let frame = client.until(|frame| frame.kind() == Kind::Data);
                        let number = u32::from_le_bytes(*frame.data_bytes().first_chunk().unwrap());
                        assert_eq!(
                            frame.data_bytes().len(),
                            if number.is_multiple_of(100) { 20_000 } else { 200 }
                        );
                        (frame.header.sender, number)
                    })
                    .collect::<Vec<(GroupName, u32)>>()
            })
        })
        .collect();
    let orders: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[0], orders[2]);
    for sender in senders {
        let me = sender.join().unwrap().me;
        let numbers: Vec<u32> = orders[0].iter().filter(|(from, _)| *from == me).map(|(_, n)| *n).collect();
        assert!(numbers.iter().copied().eq(0..COUNT), "{me}: {numbers:?}");
    }
}

#[test]
fn a_reader_that_stops_is_dropped_and_the_ring_goes_on() {
    let daemons = start(|options| {
        options.limits.session_messages_max = 50;
        options.limits.slow_grace = Duration::from_millis(100);
    });
    let mut clients = members(&daemons);
    let mut slow = Client::connect(&daemons[2], "slow");
    slow.joined("slow");
    clients[0].joined("slow");
    // A client of another daemon sends until it is dropped there.
    clients[0].send_until_disconnect("slow", &[7; 100_000], "#slow#three");
    assert_eq!(daemons[2].session_stats().dropped_slow_total, 1);
    clients[0].multicast("g", b"on");
    for client in &mut clients {
        client.until(|frame| frame.data_bytes() == b"on");
    }
    assert_eq!(daemons[0].session_stats().dropped_slow_total, 0);
}

#[test]
fn a_daemon_that_stops_takes_its_members_with_it_at_once() {
    let mut daemons = start(|_| {});
    let mut clients = members(&daemons);
    daemons.pop().unwrap().stop();
    clients.pop().unwrap().assert_ends();
    for client in &mut clients {
        let frame = client.until(|frame| frame.header.service.contains(ServiceType::CAUSED_BY_NETWORK));
        let members: Vec<GroupName> = frame.group_names().collect();
        let names: Vec<&[u8]> = members.iter().map(GroupName::as_bytes).collect();
        assert_eq!(names, [b"#member#one".as_slice(), b"#member#two"]);
    }
    wait_until("the daemons to run on", || daemons.iter().all(Daemon::is_running));
}
