//! What is fuzzed: every decoder of bytes that come from outside. Each target takes any bytes; a fault is a panic.
//!
//! The same functions are the targets of libFuzzer (`fuzz/fuzz_targets`) and, with the corpus and bounded random
//! changes of it, a test of every run (`tests/tests/decoders.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use access_log::{Format, Lines, parse_clf_time, unescape};
use backhand::chain::NoExternal;
use backhand::hop::{self, Signed};
use backhand::{
    Announcement, Chain, Function, Key, Micros, Name, Random, RequestView, Server, ServerStat, Snapshot,
    redirect, request,
};
use bytes::{BufMut, Bytes, BytesMut};
use log_stream::{Sequencer, SourceId};
use spread_ring::wire::{Content, HEADER_LEN, Header, Packet};
use spread_ring::{Boot, Mid, Nanos, NodeId, Path, Ring, RingConfig};
use spread_wire::handshake::{Accept, AuthChoice, Hello, MethodList};
use spread_wire::{Frame, FrameDecoder, Membership, PrivateGroup};
use spreadd::config::{self, Host};
use spreadd::ring_driver::{Aead, Checksum, KeyRing, Protection, Sealer};
use spreadd::{AccessList, Passwords, Rules};

/// Name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("wire", wire),
    ("handshake", handshake),
    ("ring_packet", ring_packet),
    ("ring_engine", ring_engine),
    ("seal", seal),
    ("log_stream", log_stream),
    ("monitor", monitor),
    ("announcement", announcement),
    ("web_request", web_request),
    ("configuration", configuration),
    ("access_log", access_log),
];

/// Frames of the client protocol, both sides: the same frames come out however the bytes are cut, and what is
/// received can be looked at.
pub fn wire(data: &[u8]) {
    let Some((cut, rest)) = data.split_first() else { return };
    let private = PrivateGroup::parse(b"#fuzz#daemon").expect("a legal name");
    let makes: [&dyn Fn() -> FrameDecoder; 2] = [&FrameDecoder::client, &|| FrameDecoder::daemon(private)];
    for make in makes {
        let whole = frames(make(), rest, rest.len().max(1));
        let pieces = frames(make(), rest, usize::from(*cut).max(1));
        assert_eq!(whole, pieces, "the cut changes what comes out");
    }
}

/// The bytes of all frames, and whether an error ended them.
fn frames(mut decoder: FrameDecoder, data: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let (mut buf, mut out) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => {
                    look(&frame);
                    out.push(frame.raw().clone());
                }
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

fn look(frame: &Frame) {
    let _ = (frame.message_type(), frame.kind(), frame.first_group(), frame.data_bytes().len());
    assert!(frame.group_names().count() <= frame.raw().len());
    if let Ok((message, own)) = Membership::decode(frame) {
        assert!(own < message.sets.len(), "the own set is one of the sets");
    }
}

/// The units of the handshake, of both sides.
pub fn handshake(data: &[u8]) {
    let buf = || BytesMut::from(data);
    let _ = Hello::decode(&mut buf());
    let _ = MethodList::decode(&mut buf());
    let _ = AuthChoice::decode(&mut buf());
    for priority in [0, 1] {
        let _ = Accept::decode(&mut buf(), priority);
    }
    let mut rest = buf();
    let before = rest.len();
    if let Ok(Some(_)) = Hello::decode(&mut rest) {
        assert!(rest.len() < before, "a unit takes bytes");
    }
}

/// Packets between daemons. What is accepted is written again as it was.
pub fn ring_packet(data: &[u8]) {
    let plain = Bytes::copy_from_slice(data);
    let Ok(packet) = Packet::check(&plain) else { return };
    let mut again = BytesMut::new();
    packet.header.write(&mut again);
    assert_eq!(again[..], plain[..HEADER_LEN], "{:?}", packet.header);
    let mut body = BytesMut::new();
    match &packet.content {
        Content::Join(join) => join.write(&mut body),
        Content::Token(token) => token.write(&mut body),
        _ => return,
    }
    let content = Content::check(packet.header.kind, body.freeze()).expect("what was written can be read");
    match (&packet.content, &content) {
        (Content::Join(a), Content::Join(b)) => assert_eq!(a, b),
        (Content::Token(a), Content::Token(b)) => assert_eq!(a, b),
        _ => unreachable!("the kind is the same"),
    }
}

/// A whole engine: packets of two peers, one after the other, with time between them. Its invariants hold.
pub fn ring_engine(data: &[u8]) {
    let config = RingConfig::new(NodeId(0), vec![0; 3], [7; 16]);
    let boot = Boot { session: 1, epoch_min: 1000, seed: [3; 32] };
    let mut ring = Ring::new(Arc::new(config), boot, Nanos(0)).expect("a possible configuration");
    let mut now = Nanos(0);
    let mut rest = data;
    let mut counter = 0;
    while let [control, len, tail @ ..] = rest {
        let (body, after) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = after;
        now = now + Duration::from_millis(u64::from(*control >> 4) * 10);
        let from = NodeId(1 + u16::from(*control & 1));
        let path = if control & 2 == 0 { Path::Unicast } else { Path::Multicast };
        // A right header: the body is what is to be tested.
        let mut packet = BytesMut::with_capacity(HEADER_LEN + body.len());
        let Some((kind, body)) = body.split_first() else { continue };
        let Some(kind) = spread_ring::wire::Kind::from_u8(kind % 10) else { continue };
        counter += 1;
        let header = Header {
            kind,
            config_hash: u32::from_le_bytes([7; 4]),
            session: 2 + u64::from(from.0),
            counter,
            sender: from,
            key_id: 0,
            flags: 0,
        };
        header.write(&mut packet);
        packet.put_slice(body);
        ring.handle_packet(now, path, from, packet.freeze());
        while ring.poll_transmit().is_some() {}
        while ring.poll_event().is_some() {}
        if ring.poll_timeout().is_some_and(|due| due <= now) {
            ring.handle_timeout(now);
        }
        while ring.poll_transmit().is_some() {}
        while ring.poll_event().is_some() {}
    }
    assert_eq!(ring.invariants(), Ok(()));
}

/// Nothing that was not sealed with the key passes; nothing breaks the checksum either.
pub fn seal(data: &[u8]) {
    let text = "1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f active\n";
    let keys = KeyRing::parse(text).expect("a legal key file");
    let from = Mid { node: NodeId(1), session: 7 };
    let mut sealer = Aead::new(b"fuzz", Mid { node: NodeId(0), session: 1 }, keys, Protection::Sealed);
    assert!(sealer.open(from, &mut data.to_vec()).is_err(), "a forgery passed");
    let mut plain = Checksum::default();
    if let Ok(len) = plain.open(from, &mut data.to_vec()) {
        assert!(len + plain.trailer_len() == data.len());
    }
}

/// Frames of log lines, and the sequencer of a log writer that is fed with them.
pub fn log_stream(data: &[u8]) {
    let mut payload = Bytes::copy_from_slice(data);
    loop {
        let before = payload.len();
        match log_stream::Frame::decode(&mut payload) {
            Ok(_) => assert!(payload.len() < before, "a frame takes bytes"),
            Err(_) => {
                assert_eq!(payload.len(), before, "an error changes nothing");
                break;
            }
        }
    }
    let Some((first, rest)) = data.split_first() else { return };
    let mut sequencer = Sequencer::new(SourceId([1; 16]));
    let mut out = Vec::new();
    let (sender, group) = (Bytes::from_static(b"#a#b"), Bytes::from_static(b"logs"));
    for (number, piece) in (0i16..).zip(rest.chunks(usize::from(*first).max(1)).take(200)) {
        let now = Duration::from_millis(number.unsigned_abs().into());
        sequencer.handle_message(
            now,
            &sender,
            &group,
            number % 3 == 0,
            number,
            Bytes::copy_from_slice(piece),
            &mut out,
        );
    }
    sequencer.handle_message(
        Duration::ZERO,
        &sender,
        &group,
        false,
        1,
        Bytes::copy_from_slice(data),
        &mut out,
    );
}

/// Datagrams of the monitor protocol. What is accepted says so at its first bytes, and can be read.
pub fn monitor(data: &[u8]) {
    if let Ok(packet) = spreadd::monitor::packet::Packet::parse(data) {
        assert!(packet.numbers().count() <= data.len() / 2);
        if let Some(status) = packet.status() {
            let _ = (status.fields().count(), status.state_name(), status.gstate_name());
        }
    }
    let _ = spreadd::monitor::packet::is_monitor(data);
}

/// Announcements of servers. Without the secret nobody has a valid code.
pub fn announcement(data: &[u8]) {
    let _ = Announcement::decode(data, &[]);
    let keys = [Key::new(1, b"a secret that the input does not know")];
    if let Ok((_, valid)) = Announcement::decode(data, &keys) {
        assert!(!valid, "a forged code is valid");
    }
}

/// A request as mod_backhand reads it: a request line and headers, each with whatever bytes Apache lets pass (no line
/// ends). What is signed holds for this request only, nobody is believed without reason, a redirect goes to a host name
/// and never away from a server that was asked for by its name, and a session names a candidate or nobody.
pub fn web_request(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(3, |b| *b == b' ');
    let (method, unparsed) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: Vec<(&[u8], &[u8])> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|b| *b == b':')?;
            Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
        })
        .collect();
    let all = |name: &'static str| {
        let same = move |(known, _): &&(&[u8], &[u8])| known.eq_ignore_ascii_case(name.as_bytes());
        headers.iter().filter(same).map(|(_, value)| *value)
    };
    let first = |name| all(name).next();
    let host = first("Host").unwrap_or_default();
    let target = request::target(unparsed);
    assert!(target.is_none_or(|t| t.starts_with(b"/") && unparsed.ends_with(t)), "not the end of the URI");
    let _ = (
        request::is_idempotent(method),
        request::has_body(first("Transfer-Encoding"), first("Content-Length")),
    );
    let forwarded = request::forwarded(first("X-Forwarded-For").unwrap_or_default());
    assert!(!forwarded.contains(&b','), "two addresses");

    let keys = [Key::new(1, b"a secret that the input does not know")];
    let now = Micros(1_700_000_000_000_000);
    let signed = Signed { method, host, target: target.unwrap_or_default() };
    for value in all("Backhand-Hop") {
        assert_eq!(hop::verify(value, now, &keys, || signed, |_| true), None, "a forged code is valid");
        assert_eq!(hop::verify(value, now, &[], || signed, |_| false), None, "an unknown peer is believed");
        let mut asked = None;
        let from = hop::verify(
            value,
            now,
            &[],
            || signed,
            |from| {
                asked = Some(from);
                true
            },
        );
        assert_eq!(from.map(|from| from.contact), asked, "another one than the caller agreed to");
    }
    let own = SocketAddr::from(([10, 0, 5, 10], 80));
    let made = hop::Origin::new(own).header(now, keys.first(), || signed);
    let from = hop::verify(&made, now, &keys, || signed, |_| false);
    assert_eq!(from.map(|from| from.contact), Some(own), "{made:?}");
    let longer = [signed.target, b"x"].concat();
    let other = Signed { target: &longer, ..signed };
    assert_eq!(hop::verify(&made, now, &keys, || other, |_| false), None, "it holds for another path");

    let slots = (0..4u8).map(|n| Some(server(n))).collect();
    let snapshot = Snapshot { now, slots };
    let cookies: Vec<&[u8]> = all("Cookie").collect();
    let query = unparsed.splitn(2, |b| *b == b'?').nth(1).unwrap_or_default();
    let mut chain = Chain::default();
    for (name, arg) in [("byAge", None), ("byRandom", None), ("bySession", Some("sid=")), ("byLoad", None)] {
        let function = Function::parse(name, arg).expect("a known function");
        chain.push(name.to_owned(), function).expect("few functions");
    }
    let view = RequestView { cookies: &cookies, query };
    let decision = chain.decide(&snapshot, &view, &mut Random::new(1), &mut NoExternal, true);
    assert!(matches!(decision.set.len(), 1 | 4), "the session keeps one server or all");
    if let Ok(host) = std::str::from_utf8(host) {
        redirects(host, &snapshot);
    }
}

/// A server of the table that requests are decided over.
fn server(n: u8) -> Server {
    let stat = ServerStat {
        hostname: Name::new(&format!("www-{n}.example.com")).expect("a legal name"),
        mtime: Micros(1_700_000_000_000_000),
        contact: SocketAddr::from(([10, 0, 5, 10 + n], 80)),
        load: u32::from(n),
        ..ServerStat::default()
    };
    Server { stat, interval_ms: 1000, ..Server::default() }
}

fn redirects(host: &str, snapshot: &Snapshot) {
    let names = || snapshot.slots.iter().flatten().map(|s| s.stat.hostname.as_str());
    let plain = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.');
    let known = names().any(|name| name.eq_ignore_ascii_case(plain) || name.eq_ignore_ascii_case(host));
    assert!(!known || !redirect::is_allowed(host, names()), "{host:?} is a server's own name");
    for server in snapshot.slots.iter().flatten() {
        for format in [None, Some("%l.%D"), Some("%H"), Some("x%%-%h")] {
            let Some(to) = redirect::by_name(&server.stat, format, host, 80) else { continue };
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
            assert!(!to.is_empty() && to.bytes().all(legal), "{to:?} is no host");
        }
        assert!(redirect::by_ip(&server.stat, 80).parse::<IpAddr>().is_ok());
    }
}

/// A host that knows no names.
struct NoHost;

impl Host for NoHost {
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        Err(format!("{name} is not known"))
    }
    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
    fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

/// `spread.conf`, and the small files beside it. An error can be shown; what is accepted can be hashed.
pub fn configuration(data: &[u8]) {
    match config::parse("fuzz.conf", data, &NoHost) {
        Ok(config) => {
            let _ = (config.hash(), config.ring_hash(), config.timers(), config.windows());
        }
        Err(errors) => assert!(!errors.render(false).is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = (AccessList::parse(text), Passwords::parse(text), Rules::parse(text), KeyRing::parse(text));
    }
}

/// Lines of access logs in the named formats and in one that the input brings (its first line).
pub fn access_log(data: &[u8]) {
    let named = ["common", "combined", "vhost_combined"].into_iter().filter_map(Format::named);
    let mut lines = Lines::new(data);
    let own = lines
        .next()
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(|text| Format::compile(text.trim_end()).ok());
    for format in named.chain(own) {
        for line in Lines::new(data) {
            let _ = format.parse(line);
            let _ = format.parse_fields(line, |_, _| {});
        }
    }
    let _ = parse_clf_time(data);
    assert!(unescape(data).len() <= data.len(), "escapes only get shorter");
}
