//! Slow, broken and hostile clients hurt only themselves.
//!
//! spec: client-protocol 2.7, 2.8, 4.1, 6.2, 6.3, 10

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use common::{Client, LIMIT, choice, group, hello, options, raw, rest, wait_until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use spread_wire::{Kind, ServiceType, build};
use spreadd::Daemon;

/// A client that must not notice what others do: it sends to itself and waits for it.
fn still_served(witness: &mut Client, n: u32) {
    witness.multicast("witnesses", &n.to_le_bytes());
    witness.until(|frame| frame.data_bytes() == n.to_le_bytes());
}

#[test]
fn silent_connections_are_closed_and_block_nobody() {
    let mut options = options();
    options.limits.hello_timeout = Duration::from_millis(300);
    let daemon = Daemon::start(options).unwrap();
    let mut silent: Vec<_> = (0..50).map(|_| raw(&daemon)).collect();
    let start = Instant::now();
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    still_served(&mut witness, 1);
    // With one connection after the other, this would have taken 50 times the limit.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for stream in &mut silent {
        assert_eq!(rest(stream), b"");
    }
    wait_until("the seats of the silent", || daemon.sessions() == 1);
    assert_eq!(daemon.session_stats().handshakes_broken_total, 50);
}

#[test]
fn silence_after_the_hello_ends_with_a_code_and_frees_the_name() {
    let mut options = options();
    options.limits.auth_timeout = Duration::from_millis(200);
    let daemon = Daemon::start(options).unwrap();
    let mut silent = raw(&daemon);
    silent.write_all(&hello("bob")).unwrap();
    let mut list = [0; 6];
    silent.read_exact(&mut list).unwrap();
    // The name is taken before the authentication is done.
    assert_eq!(Client::on(raw(&daemon), "bob").err().unwrap(), [0xfa]);
    assert_eq!(rest(&mut silent), [0xf7]);
    Client::connect(&daemon, "bob");
}

#[test]
fn handshake_in_single_bytes_and_requests_ahead_of_the_answer() {
    let daemon = Daemon::start(options()).unwrap();
    let mut stream = raw(&daemon);
    let me = spread_wire::PrivateGroup::parse(b"#slow#localhost").unwrap().as_group();
    let mut all = hello("slow");
    all.extend_from_slice(&choice());
    all.extend_from_slice(&build::join(&me, &group("g")));
    for byte in all {
        stream.write_all(&[byte]).unwrap();
    }
    let mut answer = vec![0; 6 + 20 + 48];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..26], b"\x05NULL \x01\x05\0\x01\x0f#slow#localhost");
    assert_eq!(answer[26..30], [0x80, 0x11, 0, 0x80], "the join was taken");
}

#[test]
fn a_refusal_arrives_although_the_client_sent_more() {
    let daemon = Daemon::start(options()).unwrap();
    for first in [&b"\x02\x09"[..], b"\x05\0\x01\x01\x0b", b"\x05\0\x01\x01\x03a b"] {
        let mut stream = raw(&daemon);
        let mut bytes = first.to_vec();
        bytes.resize(20_000, b'x');
        stream.write_all(&bytes).unwrap();
        let mut code = [0];
        stream.read_exact(&mut code).unwrap();
        assert!(matches!(code, [0xf9 | 0xfb]), "{code:02x?}");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(&mut stream), b"");
    }
}

#[test]
fn sessions_above_the_quota_are_refused_at_once() {
    let mut options = options();
    options.limits.sessions_max = 2;
    let daemon = Daemon::start(options).unwrap();
    let _a = Client::connect(&daemon, "a");
    let b = Client::connect(&daemon, "b");
    let mut third = raw(&daemon);
    // Not a byte was sent.
    let mut code = [0];
    third.read_exact(&mut code).unwrap();
    assert_eq!(code, [0xfd]);
    b.finish();
    drop(b);
    wait_until("the seat of b", || daemon.sessions() < 2);
    Client::connect(&daemon, "c");
}

#[test]
fn a_name_can_be_used_again_when_its_session_is_over() {
    let daemon = Daemon::start(options()).unwrap();
    for round in 0..100 {
        let mut client = Client::connect(&daemon, "phoenix");
        if round % 2 == 0 {
            let kill = build::kill(&client.me);
            client.send(&kill);
        } else {
            client.finish();
        }
        // The daemon closes after the name is free.
        client.assert_end();
    }
    assert_eq!(daemon.session_stats().sessions_total, 100);
}

/// A legal frame, made illegal in one respect.
fn illegal_frames(client: &Client) -> Vec<(&'static str, Vec<u8>)> {
    let good = client.message(ServiceType::AGREED, &[group("g")], b"data").to_vec();
    let join = build::join(&client.me, &group("g")).to_vec();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let word = |at: usize, word: u32| with(at, &word.to_le_bytes());
    let mut no_group = join[..48].to_vec();
    no_group[36..40].fill(0);
    vec![
        ("no request bit", word(0, 0x8000_0080)),
        ("two services", word(0, 0x8000_00b0)),
        ("service and join", word(0, 0x8001_0090)),
        ("internal bit", word(0, 0x8008_0090)),
        ("reject bit", word(0, 0x8040_0090)),
        ("membership bits", word(0, 0x8000_1190)),
        ("another session", with(4, b"#other#localhost\0")),
        ("another daemon", with(4, b"#evil#elsewhere\0")),
        ("no private group", with(4, b"someone\0")),
        ("101 groups", word(36, 101)),
        ("negative groups", word(36, u32::MAX)),
        ("hint bits", word(40, 0x8100_0080)),
        ("negative length", word(44, u32::MAX)),
        ("too long", word(44, 143_121)),
        ("much too long", word(44, 0x7fff_ffff)),
        ("join without a group", no_group),
        ("byte order mark on one side only", word(0, 0x8000_0010)),
        ("garbage", vec![0xa5; 200]),
        ("zeros", vec![0; 48]),
    ]
}

#[test]
fn illegal_frames_end_the_session_and_nothing_else() {
    let daemon = Daemon::start(options()).unwrap();
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    let count = {
        let probe = Client::connect(&daemon, "evil");
        let count = illegal_frames(&probe).len();
        probe.finish();
        let mut probe = probe;
        probe.assert_end();
        count
    };
    for i in 0..count {
        let mut evil = Client::connect(&daemon, "evil");
        evil.joined("witnesses");
        let (what, frame) = illegal_frames(&evil).swap_remove(i);
        // What came before it still counts.
        evil.multicast("witnesses", b"last words");
        evil.send(&frame);
        assert_eq!(witness.data()[..], b"last words"[..], "{what}");
        witness.sees_disconnect("evil");
        // Its own message may have reached it; then the stream ends.
        while let Some(frame) = evil.frame() {
            assert!(matches!(frame.kind(), Kind::Data), "{what}: {frame:?}");
        }
        still_served(&mut witness, u32::try_from(i).unwrap());
    }
    assert_eq!(daemon.session_stats().dropped_illegal_total, count as u64);
}

#[test]
fn a_connection_cut_within_a_frame_is_a_disconnect() {
    let daemon = Daemon::start(options()).unwrap();
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    for cut in [1, 47, 48, 60, 80, 1000] {
        let mut client = Client::connect(&daemon, "cut");
        client.joined("witnesses");
        let frame = client.message(ServiceType::SAFE, &[group("witnesses")], &[1; 2000]);
        client.send(&frame[..cut]);
        drop(client);
        // The message was never complete: nobody gets it.
        let frame = witness.until(|frame| {
            frame.kind() == Kind::Data || frame.header.service.contains(ServiceType::CAUSED_BY_DISCONNECT)
        });
        assert_eq!(frame.kind(), Kind::Membership, "cut at {cut}");
    }
}

#[test]
fn random_bytes_in_every_state_hurt_nobody_else() {
    let daemon = Daemon::start(options()).unwrap();
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for i in 0..200 {
        let mut stream = raw(&daemon);
        let mut bytes = match i % 4 {
            0 => Vec::new(),
            1 => hello(""),
            2 => [hello(""), choice()].concat(),
            // A legal join, flipped below.
            _ => {
                let me = spread_wire::PrivateGroup::parse(b"#flip#localhost").unwrap().as_group();
                [hello("flip"), choice(), build::join(&me, &group("witnesses")).to_vec()].concat()
            }
        };
        if i % 4 == 3 {
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(96..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
        } else {
            let len = random.random_range(1..300);
            bytes.extend(std::iter::repeat_with(|| random.random::<u8>()).take(len));
        }
        // The daemon may close first.
        let _ = stream.write_all(&bytes);
        if i % 3 == 0 {
            drop(stream);
        } else {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            rest(&mut stream);
        }
        if i % 20 == 0 {
            still_served(&mut witness, i);
        }
    }
    still_served(&mut witness, 1000);
    wait_until("the seats of the hostile", || daemon.sessions() == 1);
}

#[test]
fn a_reader_that_stops_is_dropped_while_others_get_everything() {
    let mut options = options();
    options.limits.session_messages_max = 50;
    options.limits.slow_grace = Duration::from_millis(100);
    let daemon = Daemon::start(options).unwrap();
    let mut slow = Client::connect(&daemon, "slow");
    slow.joined("witnesses");
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    witness.send_until_disconnect("witnesses", &[7; 100_000], "#slow#localhost");
    assert_eq!(daemon.session_stats().dropped_slow_total, 1);
    still_served(&mut witness, 1);
    // What was in the socket still comes, then the stream ends, perhaps within a message.
    let start = Instant::now();
    rest(&mut slow.stream);
    assert!(start.elapsed() < LIMIT);
    // The name is free.
    Client::connect(&daemon, "slow");
}

#[test]
fn a_slow_reader_is_dropped_when_nothing_more_is_sent_to_it() {
    let mut options = options();
    options.limits.session_messages_max = 10;
    options.limits.slow_grace = Duration::from_millis(50);
    let daemon = Daemon::start(options).unwrap();
    let mut slow = Client::connect(&daemon, "slow");
    slow.joined("mail");
    let mut witness = Client::connect(&daemon, "witness");
    // More than the socket buffers of both sides take, at once; then silence.
    let frame = witness.message(ServiceType::AGREED, &[group("mail")], &vec![7; 140_000]);
    for _ in 0..200 {
        witness.send(&frame);
    }
    wait_until("the end of the slow session", || daemon.session_stats().dropped_slow_total == 1);
    wait_until("its seat", || daemon.sessions() == 1);
}

#[test]
fn a_burst_above_the_limit_is_no_reason_to_drop_a_client_that_reads() {
    let mut options = options();
    options.limits.session_messages_max = 1;
    let daemon = Daemon::start(options).unwrap();
    let mut client = Client::connect(&daemon, "reader");
    client.joined("g");
    let burst: Vec<u8> = (0..2000u32)
        .flat_map(|i| client.message(ServiceType::AGREED, &[group("g")], &i.to_le_bytes()))
        .collect();
    client.send(&burst);
    for i in 0..2000u32 {
        assert_eq!(client.data()[..], i.to_le_bytes());
    }
    assert_eq!(daemon.session_stats().dropped_slow_total, 0);
}

#[test]
fn a_reader_that_is_behind_but_reads_is_kept() {
    let mut options = options();
    options.limits.session_messages_max = 20;
    options.limits.slow_grace = Duration::from_millis(300);
    let daemon = Daemon::start(options).unwrap();
    let mut behind = Client::connect(&daemon, "behind");
    behind.joined("g");
    let sender = {
        let mut sender = Client::connect(&daemon, "sender");
        std::thread::spawn(move || {
            for i in 0..6000u32 {
                let mut data = vec![7; 10_000];
                data[..4].copy_from_slice(&i.to_le_bytes());
                sender.multicast("g", &data);
            }
            sender
        })
    };
    let start = Instant::now();
    for i in 0..6000u32 {
        assert_eq!(behind.data()[..4], i.to_le_bytes());
        // It has other work: a few thousand messages a second are its pace.
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(start.elapsed() > Duration::from_millis(300), "it was not behind for long enough");
    assert_eq!(daemon.session_stats().dropped_slow_total, 0);
    sender.join().unwrap();
}

#[test]
fn requests_wait_for_room_and_none_is_lost() {
    let mut options = options();
    // Room for a few requests only.
    options.limits.inbox_bytes_max = 4096;
    let daemon = Daemon::start(options).unwrap();
    let mut reader = Client::connect(&daemon, "reader");
    reader.joined("g");
    let senders: Vec<_> = (0..4u8)
        .map(|n| {
            let mut sender = Client::connect(&daemon, &format!("s{n}"));
            std::thread::spawn(move || {
                for i in 0..500u32 {
                    let mut data = vec![n; 1000];
                    data[..4].copy_from_slice(&i.to_le_bytes());
                    sender.multicast("g", &data);
                }
                sender
            })
        })
        .collect();
    let mut next = [0u32; 4];
    for _ in 0..2000 {
        let data = reader.data();
        let sender = usize::from(data[4]);
        assert_eq!(data[..4], next[sender].to_le_bytes(), "sender {sender}");
        next[sender] += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn messages_sent_before_a_close_are_delivered_before_the_disconnect() {
    let daemon = Daemon::start(options()).unwrap();
    let mut witness = Client::connect(&daemon, "witness");
    witness.joined("witnesses");
    for kill in [false, true] {
        let mut client = Client::connect(&daemon, "hasty");
        client.joined("witnesses");
        let mut bytes = Vec::new();
        for i in 0..100u32 {
            bytes.extend_from_slice(&client.message(
                ServiceType::FIFO,
                &[group("witnesses")],
                &i.to_le_bytes(),
            ));
        }
        if kill {
            bytes.extend_from_slice(&build::kill(&client.me));
        }
        client.send(&bytes);
        drop(client);
        for i in 0..100u32 {
            assert_eq!(witness.data()[..], i.to_le_bytes());
        }
        witness.sees_disconnect("hasty");
    }
}

#[tokio::test]
async fn a_daemon_can_be_started_and_stopped_in_asynchronous_code() {
    let daemon = Daemon::start(options()).unwrap();
    let mut client = Client::connect(&daemon, "client");
    daemon.stop();
    client.assert_end();
    drop(Daemon::start(options()).unwrap());
}
