//! The fuzz targets with the corpus and with bounded random changes of it: what libFuzzer does, short, repeatable,
//! in every test run. A longer run: `DECODER_ROUNDS=100000 cargo test -p tests --test decoders`.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

#[path = "../../fuzz/src/targets.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the fuzz targets")]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use spread_ring::{Boot, Nanos, NodeId, Path as Way, Ring, RingConfig};
use spread_wire::handshake::{AuthChoice, Hello, MethodList, MethodName};
use spread_wire::{GroupName, PrivateGroup, PrivateName, ServiceType, build};
use targets::TARGETS;

/// Random inputs of each target.
fn rounds() -> u64 {
    std::env::var("DECODER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

/// Longest input.
const LEN_MAX: usize = 4096;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// The files of a target's corpus by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("corpus of {target}: {error}"));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// A number below `n`, which is not 0.
fn below(rng: &mut Xoshiro256PlusPlus, n: usize) -> usize {
    usize::try_from(rng.next_u64() % n as u64).unwrap()
}

/// Changes a few places: bits, bytes, numbers at their limits, pieces cut, doubled, or taken from another seed.
fn change(rng: &mut Xoshiro256PlusPlus, mut data: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..1 + below(rng, 4) {
        if data.is_empty() {
            data.push(0);
        }
        let at = below(rng, data.len());
        match below(rng, 8) {
            0 => data[at] ^= 1 << below(rng, 8),
            1 => data[at] = u8::try_from(below(rng, 256)).unwrap(),
            2 => data.truncate(at),
            3 => {
                let word = [0, 1, 0x7f, 0x80, 0xff][below(rng, 5)];
                let end = (at + 4).min(data.len());
                data[at..end].fill(word);
            }
            4 => {
                let piece: Vec<u8> = data[at..(at + 1 + below(rng, 32)).min(data.len())].to_vec();
                data.splice(at..at, piece);
            }
            5 if !other.is_empty() => {
                let from = below(rng, other.len());
                let piece = other[from..(from + 1 + below(rng, 64)).min(other.len())].to_vec();
                data.splice(at..at, piece);
            }
            6 => {
                let end = (at + 1 + below(rng, 16)).min(data.len());
                data.drain(at..end);
            }
            _ => data.swap(at, 0),
        }
    }
    data.truncate(LEN_MAX);
    data
}

#[test]
fn no_decoder_breaks_on_the_corpus_or_what_is_near_it() {
    let run = |target: &str, function: fn(&[u8]), name: &str, data: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| function(data))).is_err() {
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{target} fails on {name}: {hex}");
        }
    };
    for (target, function) in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no corpus");
        for (name, data) in &seeds {
            run(target, function, name, data);
        }
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(0x5eed);
        for round in 0..rounds() {
            let seed = &seeds[below(&mut rng, seeds.len())].1;
            let other = &seeds[below(&mut rng, seeds.len())].1;
            let data = change(&mut rng, seed.clone(), other);
            run(target, function, &format!("round {round}"), &data);
        }
    }
}

/// The targets look: each of them tells right from wrong on its own seeds, so a run that sees nothing would be
/// noticed. A planted fault is found.
#[test]
fn a_planted_fault_is_found() {
    let seeds = seeds("ring_packet");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(0x5eed);
    let faulty = |data: &[u8]| {
        // As if a decoder trusted the packet's type.
        spread_ring::wire::Packet::check(&Bytes::copy_from_slice(data))
            .is_ok_and(|packet| packet.header.flags & 0x04 != 0)
    };
    let found = (0..20_000).any(|_| {
        let seed = &seeds[below(&mut rng, seeds.len())].1;
        let data = change(&mut rng, seed.clone(), &[]);
        faulty(&data)
    });
    assert!(found, "the changes do not reach behind the checks");
}

/// All packets that three engines exchange while they form a ring and send.
fn packets() -> Vec<Bytes> {
    let mut rings: Vec<Ring> = (0..3u16)
        .map(|me| {
            let config = RingConfig::new(NodeId(me), vec![0; 3], [7; 16]);
            let boot = Boot { session: 2 + u64::from(me), epoch_min: 1000, seed: [9; 32] };
            Ring::new(Arc::new(config), boot, Nanos(0)).unwrap()
        })
        .collect();
    let mut all = Vec::new();
    let mut now = Nanos(0);
    for step in 0..4000u32 {
        now = now + Duration::from_micros(500);
        let mut sent = Vec::new();
        for (from, ring) in (0u16..).zip(&mut rings) {
            if ring.poll_timeout().is_some_and(|due| due <= now) {
                ring.handle_timeout(now);
            }
            if step % 500 == 499 && step > 2000 {
                let body = Bytes::from(vec![b'x'; 20 + usize::from(from) * 900]);
                ring.submit(now, spread_ring::Service::Safe, body.into()).unwrap();
            }
            while let Some(transmit) = ring.poll_transmit() {
                sent.push((from, transmit));
            }
            while ring.poll_event().is_some() {}
        }
        for (from, transmit) in sent {
            all.push(transmit.packet.clone());
            for to in transmit.to.iter() {
                let path = if transmit.multicast { Way::Multicast } else { Way::Unicast };
                rings[to.index()].handle_packet(now, path, NodeId(from), transmit.packet.clone());
            }
        }
    }
    all
}

/// Seeds that our own encoders make are what these make today: a seed of a format that has changed tests little.
/// With `SPREAD_WRITE_SEEDS=1` they are written anew.
#[test]
fn seeds_are_of_the_formats_in_use() {
    let anew = std::env::var_os("SPREAD_WRITE_SEEDS").is_some();
    let write = |target: &str, name: &str, data: &[u8]| {
        let path = corpus(target).join(name);
        if anew {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(path, data).unwrap();
        } else {
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == data, "{}: run this test with SPREAD_WRITE_SEEDS=1", path.display());
        }
    };
    let group = GroupName::new(b"logs").unwrap();
    let me = PrivateGroup::parse(b"#fuzz#daemon").unwrap();
    let frames = [
        ("data", {
            let head = build::multicast(ServiceType::SAFE, &me.as_group(), &[group, group], 7, 5).unwrap();
            Bytes::from([&head[..], b"hello"].concat())
        }),
        ("join", build::join(&me.as_group(), &group)),
        ("kill", build::kill(&me.as_group())),
    ];
    let mut both = vec![3];
    for (name, frame) in &frames {
        write("wire", name, &[&[7u8][..], frame].concat());
        both.extend_from_slice(frame);
    }
    write("wire", "several", &both);
    let mut out = BytesMut::new();
    Hello::new(Some(PrivateName::new(b"me").unwrap()), true, 0).encode(&mut out);
    write("handshake", "hello", &out);
    out.clear();
    MethodList::new([MethodName::NULL, MethodName::new(b"IP").unwrap()]).encode(&mut out);
    write("handshake", "methods", &out);
    out.clear();
    AuthChoice::new([MethodName::NULL]).encode(&mut out);
    write("handshake", "choice", &out);
    let mut kinds = [0u8; 10];
    let mut engine: Vec<u8> = Vec::new();
    for packet in packets() {
        let kind = usize::from(packet[3]).min(9);
        if kinds[kind] < 3 && packet.len() < 1500 {
            kinds[kind] += 1;
            write("ring_packet", &format!("kind-{kind}-{}", kinds[kind]), &packet);
            write("seal", &format!("kind-{kind}-{}", kinds[kind]), &packet);
        }
        // What the peers of daemon 0 say, as the target of the engine takes it.
        let (body, from) = (&packet[28..], packet[24]);
        if (1..=2).contains(&from) && body.len() < 250 && engine.len() < 3500 {
            engine.extend([0x10 | (from - 1) | 2, u8::try_from(body.len() + 1).unwrap(), packet[3]]);
            engine.extend_from_slice(body);
        }
    }
    write("ring_engine", "forming", &engine);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["v001", "v010", "v020", "v029", "v040", "e010", "e020", "e030"] {
        let dir = fs::read_dir(root.join("spreadd/tests/cases/config")).unwrap();
        for entry in dir.flatten() {
            let file = entry.file_name().into_string().unwrap();
            if file.starts_with(name) && file.ends_with(".conf") {
                write("configuration", &file, &fs::read(entry.path()).unwrap());
            }
        }
    }
    write("configuration", "access", b"# office\nlocal\nunix\n10.0.0.0/8\n");
    write(
        "configuration",
        "passwords",
        b"alice:$2y$05$abcdefghijklmnopqrstuuO1yWpQ7Z0Qv3mHh1c4b6n8r0t2v4x6y\n",
    );
    write(
        "configuration",
        "rules",
        b"allow connect * - 10.0.0.0/8\nallow join,send alice audit.*\ndeny any * audit.*\n",
    );
    write(
        "configuration",
        "keys",
        b"1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f active\n",
    );
    let line = "192.0.2.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET /a?b=\\\"c HTTP/1.1\" 200 2326";
    write("access_log", "common", format!("{line}\n").as_bytes());
    write("access_log", "combined", format!("{line} \"http://example.com/\" \"Mozilla/4.08\"\n").as_bytes());
    write("access_log", "custom", b"%h %l %u %t \\\"%r\\\" %>s %b %D\n192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 304 - 1234\n");
    let stat = backhand::ServerStat {
        hostname: backhand::Name::new("www-3.example.com").unwrap(),
        contact: "10.0.5.13:80".parse().unwrap(),
        ..backhand::ServerStat::default()
    };
    let announcement = backhand::Announcement {
        stamp: backhand::Micros(1_700_000_000_000_000),
        goodbye: false,
        draining: true,
        stat,
        interval_ms: 1000,
    };
    write("announcement", "plain", &announcement.encode(None));
    write("announcement", "signed", &announcement.encode(Some(&backhand::Key::new(1, b"another secret"))));
    let head = "Host: www.example.com:80\nCookie: a=b; sid=0a00050c\nX-Forwarded-For: 192.0.2.1, fd00::1\n";
    let key = backhand::Key::new(1, b"another secret");
    let signed = backhand::hop::Signed { method: b"GET", host: b"www.example.com:80", target: b"/a?b" };
    let from = "10.0.5.11:80".parse().unwrap();
    let origin = backhand::hop::Origin::new(from);
    let hop = |key| String::from_utf8(origin.header(announcement.stamp, key, || signed).to_vec()).unwrap();
    write(
        "web_request",
        "signed",
        format!("GET /a?b HTTP/1.1\n{head}Backhand-Hop: {}\n", hop(Some(&key))).as_bytes(),
    );
    let absolute = "GET http://www.example.com/a?sid=0a00050d HTTP/1.1\nHost: WWW-2.example.com.\n";
    write("web_request", "absolute", format!("{absolute}Backhand-Hop: {}\n", hop(None)).as_bytes());
    write(
        "web_request",
        "body",
        b"POST * HTTP/1.1\nHost: [fd00::5]:80\nContent-Length: 0\nTransfer-Encoding: chunked\n",
    );
    use spreadd::monitor::packet::{Command, Request, Status};
    for (name, command, numbers) in [
        ("status", Command::Status, vec![]),
        ("partition", Command::Partition, vec![0, 1, 1, -1]),
        ("flow-control", Command::FlowControl, vec![160, 20, -1, -1]),
        ("reload", Command::Reload, vec![]),
    ] {
        let request = Request { command, id: 5, reply_port: 4899, hash: 0x1234_5678, numbers };
        write("monitor", name, &request.to_bytes());
    }
    write("monitor", "answer", &Status::default().to_bytes());
    let source = log_stream::SourceId([7; 16]);
    let lines =
        log_stream::Frame::encode(log_stream::Kind::Lines, 0, source, 1, 5, &[b"a line\n", b"another\n"]);
    let hello = log_stream::Frame::encode(log_stream::Kind::Hello, 0, source, 1, 5, &[]);
    let (lines, hello) = (lines.unwrap(), hello.unwrap());
    write("log_stream", "lines", &lines);
    write("log_stream", "several", &[&hello[..], &lines, &hello].concat());
}
