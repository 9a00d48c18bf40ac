//! Another configuration while daemons run, on loopback addresses in one process: who joins and who leaves, and what
//! clients see of it.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Client, group, metric, ring_port, wait_until};
use spread_wire::{GroupName, Kind, ServiceType};
use spreadd::config::{self, SystemHost};
use spreadd::ring_driver::KeyRing;
use spreadd::{Daemon, Options, Unchangeable};

/// A configuration with these daemons in one segment, each with the last number of its address.
fn file(port: u16, daemons: &[(&str, u8)], more: &str) -> String {
    let entries: String = daemons.iter().map(|(name, host)| format!("  {name} 127.0.0.{host}\n")).collect();
    format!("{more}\nSpread_Segment 127.0.0.255:{port} {{\n{entries}}}\n")
}

fn options(text: &str, name: &str) -> Options {
    let mut config = config::parse("test.conf", text.as_bytes(), &SystemHost).unwrap();
    let me = config.identify(Some(name.parse().unwrap()), &SystemHost).unwrap();
    let mut options = Options::from_config(&config, me).unwrap();
    options.socket_dir = None;
    // One daemon of a file does not know that others use its port.
    options.listen = vec![config.daemon(me).unwrap().0.address.ip];
    options
}

fn start(text: &str, name: &str) -> Daemon {
    Daemon::start(options(text, name)).unwrap()
}

fn reload(daemon: &Daemon, text: &str) {
    daemon.reload(&options(text, &daemon.name().to_string())).unwrap();
}

/// Waits until the client's view of `g` has members on exactly these daemons, and returns whether a membership
/// message on the way came from the network.
fn until_members(client: &mut Client, daemons: &[&str]) -> bool {
    let mut wanted: Vec<String> = daemons.iter().map(|daemon| format!("#member#{daemon}")).collect();
    wanted.sort();
    let mut network = false;
    client.until(|frame| {
        if frame.kind() != Kind::Membership || frame.header.sender != group("g") {
            return false;
        }
        network |= frame.header.service.contains(ServiceType::CAUSED_BY_NETWORK);
        let mut found: Vec<String> = frame.group_names().map(|name| name.to_string()).collect();
        found.sort();
        found == wanted
    });
    network
}

const THREE: [(&str, u8); 3] = [("one", 1), ("two", 2), ("three", 3)];

/// Sends numbers to `g` until it is told to stop, and returns how many.
fn sender(daemon: &Daemon, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    let mut client = Client::connect(daemon, "sender");
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut count = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let service = [ServiceType::FIFO, ServiceType::AGREED, ServiceType::SAFE][count as usize % 3];
            // Some span several packets.
            let mut data = vec![0; if count.is_multiple_of(50) { 20_000 } else { 100 }];
            data[..4].copy_from_slice(&count.to_le_bytes());
            let frame = client.message(service, &[group("g")], &data);
            client.send(&frame);
            count += 1;
            if count.is_multiple_of(4) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Ordered behind all of them.
        let frame = client.message(ServiceType::SAFE, &[group("g")], b"end!");
        client.send(&frame);
        let me = client.me;
        let frame = client.message(ServiceType::SAFE, &[me], b"back");
        client.send(&frame);
        client.until(|frame| frame.data_bytes() == b"back");
        count
    })
}

/// What a reader saw: how many numbers, and the membership messages with whether the network caused them.
type Seen = (Client, u32, Vec<(bool, Vec<GroupName>)>);

/// Reads until the end; asserts that nothing is lost, and returns the membership messages of `g` on the way, with
/// whether the network caused them.
fn reader(mut client: Client) -> std::thread::JoinHandle<Seen> {
    std::thread::spawn(move || {
        let (mut next, mut views) = (0u32, Vec::new());
        loop {
            let frame = client.frame().expect("the stream ended");
            match frame.kind() {
                Kind::Data if frame.data_bytes() == b"end!" => return (client, next, views),
                Kind::Data => {
                    let number = u32::from_le_bytes(*frame.data_bytes().first_chunk().unwrap());
                    assert_eq!(number, next, "{} lost something", client.me);
                    next += 1;
                }
                _ => views.push((
                    frame.header.service.contains(ServiceType::CAUSED_BY_NETWORK),
                    frame.group_names().collect(),
                )),
            }
        }
    })
}

#[test]
fn daemons_join_and_leave_under_load_and_no_client_loses_anything() {
    let port = ring_port(4);
    let old = file(port, &THREE, "");
    let daemons = THREE.map(|(name, _)| start(&old, name));
    let mut clients: Vec<Client> = daemons.iter().map(|daemon| Client::connect(daemon, "member")).collect();
    clients.iter_mut().for_each(|client| client.join("g"));
    clients.iter_mut().for_each(|client| {
        until_members(client, &["one", "two", "three"]);
    });
    let stop = Arc::new(AtomicBool::new(false));
    let senders = sender(&daemons[1], &stop);
    let readers: Vec<_> = clients.drain(..).map(reader).collect();

    // In front of the others: all get other numbers.
    let new = file(port, &[("zero", 4), ("one", 1), ("two", 2), ("three", 3)], "");
    let zero = start(&new, "zero");
    let mut on_zero = Client::connect(&zero, "member");
    for daemon in &daemons {
        reload(daemon, &new);
    }
    let hash = |daemon: &Daemon| daemon.config().unwrap().hash();
    wait_until("all to change over", || daemons.iter().all(|daemon| hash(daemon) == hash(&zero)));
    on_zero.join("g");
    until_members(&mut on_zero, &["zero", "one", "two", "three"]);
    stop.store(true, Ordering::Relaxed);
    let count = senders.join().unwrap();
    for reader in readers {
        let (mut client, got, views) = reader.join().unwrap();
        assert_eq!(got, count, "{}", client.me);
        // Nobody was ever away: all views have all three, and the fourth member only comes.
        assert!(views.iter().all(|(_, members)| members.is_empty() || members.len() >= 3), "{views:?}");
        if !views.iter().any(|(_, members)| members.len() == 4) {
            until_members(&mut client, &["zero", "one", "two", "three"]);
        }
        clients.push(client);
    }

    // One goes: it is not asked, and its clients stay with it.
    let less = file(port, &[("one", 1), ("zero", 4), ("three", 3)], "");
    for daemon in [&daemons[0], &daemons[2], &zero] {
        reload(daemon, &less);
    }
    let [on_one, on_two, on_three] = clients.get_disjoint_mut([0, 1, 2]).unwrap();
    for client in [&mut *on_one, &mut *on_three, &mut on_zero] {
        assert!(until_members(client, &["zero", "one", "three"]), "{}", client.me);
    }
    assert!(until_members(on_two, &["two"]));
    on_one.multicast("g", b"still here");
    for client in [on_three, &mut on_zero] {
        client.until(|frame| frame.data_bytes() == b"still here");
    }
}

#[test]
fn nothing_happens_until_all_have_read_the_file() {
    let port = ring_port(4);
    let old = file(port, &THREE[..2], "");
    let daemons = [start(&old, "one"), start(&old, "two")];
    let mut clients: Vec<Client> = daemons.iter().map(|daemon| Client::connect(daemon, "member")).collect();
    clients.iter_mut().for_each(|client| client.join("g"));
    clients.iter_mut().for_each(|client| {
        until_members(client, &["one", "two"]);
    });
    let new = file(port, &THREE, "");
    let hash = daemons[0].config().unwrap().hash();
    reload(&daemons[0], &new);
    // Two messages there and back: the notice of the first daemon was before them.
    for _ in 0..2 {
        clients[0].multicast("g", b"on");
        clients.iter_mut().for_each(|client| {
            client.until(|frame| frame.data_bytes() == b"on");
        });
    }
    assert!(daemons.iter().all(|daemon| daemon.config().unwrap().hash() == hash));
    // It thinks better of it.
    reload(&daemons[0], &old);
    clients[0].multicast("g", b"back");
    clients[1].until(|frame| frame.data_bytes() == b"back");
    reload(&daemons[1], &new);
    clients[1].multicast("g", b"still");
    clients[0].until(|frame| frame.data_bytes() == b"still");
    assert!(daemons.iter().all(|daemon| daemon.config().unwrap().hash() == hash));
    reload(&daemons[0], &new);
    wait_until("the change", || daemons.iter().all(|daemon| daemon.config().unwrap().hash() != hash));
    clients[1].multicast("g", b"new");
    clients[0].until(|frame| frame.data_bytes() == b"new");
}

#[test]
fn a_daemon_that_was_alone_gets_company() {
    let port = ring_port(4);
    let one = start(&file(port, &THREE[..1], ""), "one");
    let mut first = Client::connect(&one, "member");
    first.joined("g");
    let both = file(port, &THREE[..2], "");
    let two = start(&both, "two");
    let mut second = Client::connect(&two, "member");
    second.joined("g");
    reload(&one, &both);
    until_members(&mut first, &["one", "two"]);
    until_members(&mut second, &["one", "two"]);
    // And is alone again.
    reload(&one, &file(port, &THREE[..1], ""));
    until_members(&mut first, &["one"]);
    first.multicast("g", b"alone");
    first.until(|frame| frame.data_bytes() == b"alone");
}

#[test]
fn options_change_at_once_and_what_cannot_is_named() {
    let port = ring_port(4);
    let one = start(&file(port, &THREE[..1], ""), "one");
    let more =
        "MaxSessionMessages = 7\nWindow = 50\nPersonalWindow = 9\nRuntimeDir = /tmp\nDaemonUser = \"x\"";
    let reloaded = one.reload(&options(&file(port, &THREE[..1], more), "one")).unwrap();
    let changed: Vec<&str> = reloaded.changed.iter().map(|(name, _)| *name).collect();
    assert_eq!(changed, ["MaxSessionMessages", "Window", "PersonalWindow"]);
    assert_eq!(reloaded.restart, ["RuntimeDir", "DaemonUser"]);
    assert!(!reloaded.agreement && reloaded.joining.is_empty());
    wait_until("it to be in force", || one.config().unwrap().options.window == Some(50));
    // An option that is taken out has its default again.
    let reloaded = one.reload(&options(&file(port, &THREE[..1], ""), "one")).unwrap();
    assert_eq!(reloaded.changed[0], ("MaxSessionMessages", "default".to_owned()));
}

#[test]
fn what_belongs_to_the_daemon_itself_cannot_change() {
    let port = ring_port(4);
    let one = start(&file(port, &THREE, ""), "one");
    let refused = |text: &str| match one.reload(&options(text, "one")) {
        Err(Unchangeable::Entry(errors)) => errors.render(false),
        other => panic!("{other:?}"),
    };
    let text = refused(&file(port, &[("two", 2), ("one", 4)], ""));
    assert!(text.contains("the address of this daemon cannot change while it runs"), "{text}");
    assert!(text.contains("test.conf:4:") && text.contains("it was 127.0.0.1"), "{text}");
    assert!(refused(&file(port + 2, &THREE, "")).contains("the port of this daemon"));
    assert!(
        refused(
            &file(port, &[("one VirtualID = 5", 1)], "")
                .replace(" VirtualID = 5 127.0.0.1", " 127.0.0.1 VirtualID = 5")
        )
        .contains("the VirtualID")
    );
    assert!(
        refused(&file(port, &THREE, "").replace("one 127.0.0.1", "one 127.0.0.1 { 127.0.0.1 }"))
            .contains("interfaces")
    );
    assert!(
        refused(&file(port, &THREE, "").replace("127.0.0.255", "225.1.1.1")).contains("the segment address")
    );
    assert!(one.is_running());
    let alone = Daemon::start(common::options()).unwrap();
    assert!(matches!(alone.reload(&options(&file(port, &THREE, ""), "one")), Err(Unchangeable::NoFile)));
}

/// A key file with these keys, the first of them active.
fn keys(ids: &[u8]) -> KeyRing {
    let line = |id: &u8| {
        let active = if id == &ids[0] { "active" } else { "" };
        format!("{id} {} {active}\n", format!("{id:02x}").repeat(32))
    };
    KeyRing::parse(&ids.iter().map(line).collect::<String>()).unwrap()
}

#[test]
fn keys_are_exchanged_without_a_gap_and_only_the_new_one_opens_the_ring() {
    let port = ring_port(4);
    let text = file(port, &THREE[..2], "");
    let with_keys = |name: &str, ids: &[u8]| {
        let mut options = options(&text, name);
        options.ring.as_mut().unwrap().keys = Some(keys(ids));
        options.metrics = Some(([127, 0, 0, 1], 0).into());
        options
    };
    let packets = |daemon: &Daemon| metric(daemon, "spreadd_net_packets_received_total");
    let daemons = ["one", "two"].map(|name| Daemon::start(with_keys(name, &[1])).unwrap());
    let mut clients: Vec<Client> = daemons.iter().map(|daemon| Client::connect(daemon, "member")).collect();
    clients.iter_mut().for_each(|client| client.join("g"));
    clients.iter_mut().for_each(|client| {
        until_members(client, &["one", "two"]);
    });
    let stop = Arc::new(AtomicBool::new(false));
    let senders = sender(&daemons[0], &stop);
    let readers: Vec<_> = clients.drain(..).map(reader).collect();
    // As docs/operate/reconfigure.md says it: add on all, activate on all, remove on all.
    for ids in [&[1, 2][..], &[2, 1], &[2]] {
        for daemon in &daemons {
            let reloaded = daemon.reload(&with_keys(&daemon.name().to_string(), ids)).unwrap();
            assert!(!reloaded.agreement && reloaded.restart.is_empty(), "{reloaded:?}");
            // In use: the other sends under it before the next one changes.
            let before = packets(daemon);
            wait_until("packets under the new keys", || packets(daemon) > before + 20);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let count = senders.join().unwrap();
    for reader in readers {
        let (client, got, views) = reader.join().unwrap();
        assert_eq!((got, views), (count, Vec::new()), "{}: nothing is lost, nobody was away", client.me);
        clients.push(client);
    }
    // Who has the old key only is not heard any more.
    let [one, two] = daemons;
    drop(two);
    until_members(&mut clients[0], &["one"]);
    let old = Daemon::start(with_keys("two", &[1])).unwrap();
    let refused = "spreadd_net_packets_dropped_total{reason=\"key\"}";
    wait_until("its packets to be refused", || metric(&one, refused) > 0);
    let mut stranger = Client::connect(&old, "member");
    stranger.joined("g");
    clients[0].multicast("g", b"secret");
    clients[0].until(|frame| frame.data_bytes() == b"secret");
    drop(old);
    let new = Daemon::start(with_keys("two", &[2])).unwrap();
    Client::connect(&new, "member").join("g");
    until_members(&mut clients[0], &["one", "two"]);
}
