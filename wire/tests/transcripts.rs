//! The recorded conversations of real clients with a real Spread 5.0.1 daemon, decoded by both ends at random
//! fragmentations and encoded again, byte for byte.
//!
//! spec: client-protocol, `transcripts/README.md`
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use spread_wire::handshake::{
    Accept, AuthChoice, HandshakeError, Hello, HelloError, MethodList, MethodName, RejectCode, Version,
};
use spread_wire::{
    ByteOrder, Frame, FrameDecoder, FrameError, GroupId, GroupName, Header, Kind, Membership, PrivateGroup,
    ServiceType, build, limits,
};

#[derive(Deserialize)]
struct Line {
    conn: String,
    dir: String,
    hex: String,
    note: String,
}

/// One connection: the frames of both directions, in order.
#[derive(Default)]
struct Conversation {
    client: Vec<Vec<u8>>,
    daemon: Vec<Vec<u8>>,
    /// The last frame of the client was never completed.
    incomplete: bool,
}

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/transcripts");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    assert_eq!(files.len(), 41, "all recorded scenarios are here");
    files
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn load(path: &Path) -> BTreeMap<String, Conversation> {
    let mut conversations = BTreeMap::<String, Conversation>::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let conversation = conversations.entry(line.conn).or_default();
        if line.hex.is_empty() {
            continue;
        }
        conversation.incomplete |= line.note.starts_with("incomplete frame");
        match line.dir.as_str() {
            "c2d" => conversation.client.push(unhex(&line.hex)),
            "d2c" => conversation.daemon.push(unhex(&line.hex)),
            other => panic!("direction {other}"),
        }
    }
    conversations
}

/// Feeds a byte stream in pieces of random length; the seed is printed by the assertion that fails.
struct Feed<'a> {
    left: &'a [u8],
    buf: BytesMut,
    state: u64,
    piece_max: u64,
}

impl<'a> Feed<'a> {
    fn new(stream: &'a [u8], seed: u64) -> Self {
        // Seed 0 feeds single bytes, seed 1 all at once.
        let piece_max = [1, u64::MAX, 3, 50, 200, 5000][usize::try_from(seed % 6).unwrap()];
        Self { left: stream, buf: BytesMut::new(), state: seed * 2 + 1, piece_max }
    }

    /// Appends the next piece; false at the end of the stream.
    fn more(&mut self) -> bool {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = (self.state >> 33) % self.piece_max.min(1 << 30) + 1;
        let size = if self.piece_max == u64::MAX { u64::MAX } else { size };
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(self.left.len());
        let (piece, left) = self.left.split_at(size);
        self.buf.extend_from_slice(piece);
        self.left = left;
        size > 0
    }

    /// Decodes until a unit is complete, `None` if the stream ends before.
    fn next<T, E>(
        &mut self,
        mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        loop {
            if let Some(unit) = decode(&mut self.buf)? {
                return Ok(Some(unit));
            }
            if !self.more() {
                return Ok(None);
            }
        }
    }
}

/// The same frame from its decoded fields, in its own byte order.
fn encode_again(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    build::put_frame(&mut out, &frame.header, frame.orig_type, frame.groups(), 0);
    out.extend_from_slice(&frame.data());
    out.to_vec()
}

/// What a daemon made of the client's side of a conversation.
#[derive(Debug, PartialEq)]
enum End {
    Orderly,
    Hello(HelloError),
    Frame(FrameError),
    NoChoice,
}

/// Reads a client's stream as a daemon. Gives the normalized frames.
fn as_daemon(c: &Conversation, seed: u64) -> (Vec<Frame>, End) {
    let stream = c.client.concat();
    let mut lines = c.client.iter();
    let mut feed = Feed::new(&stream, seed);
    let hello = match feed.next(Hello::decode) {
        Ok(Some(hello)) => hello,
        Ok(None) => return (vec![], End::Hello(Hello::end(&feed.buf).unwrap())),
        Err(error) => return (vec![], End::Hello(error)),
    };
    let mut out = BytesMut::new();
    hello.encode(&mut out);
    assert_eq!(out, lines.next().unwrap());

    if hello.version.has_auth() {
        let Some(choice) = feed.next(|buf| Ok::<_, ()>(AuthChoice::decode(buf))).unwrap() else {
            return (vec![], End::NoChoice);
        };
        let mut out = BytesMut::new();
        choice.encode(&mut out);
        assert_eq!(out, lines.next().unwrap());
    }

    let accept = c.daemon.iter().find(|d| d[0] == 1 && d.len() > 1);
    let Some(accept) = accept else { return (vec![], End::Orderly) };
    let private = &accept[if hello.version.has_patch() { 5 } else { 4 }..];
    let mut decoder = FrameDecoder::daemon(PrivateGroup::parse(private).unwrap());
    let mut frames = vec![];
    loop {
        match feed.next(|buf| decoder.decode(buf)) {
            Ok(Some(frame)) => {
                let sent = lines.next().unwrap();
                assert_eq!(&encode_again(&frame), sent, "as the client wrote it, seed {seed}");
                assert_normalized(&frame, sent);
                frames.push(frame);
            }
            Ok(None) => {
                assert!(feed.buf.is_empty() && lines.next().is_none(), "all was read, seed {seed}");
                return (frames, End::Orderly);
            }
            Err(error) => return (frames, End::Frame(error)),
        }
    }
}

/// A little-endian client's frame is unchanged; of a big-endian one three words are turned round.
fn assert_normalized(frame: &Frame, sent: &[u8]) {
    let raw = frame.raw();
    assert_eq!(raw.len(), sent.len());
    let header = Header { order: ByteOrder::Little, ..frame.header };
    assert_eq!(raw[..48], header.encode());
    assert_eq!(raw[4..36], sent[4..36]);
    assert_eq!(raw[40..44], sent[40..44], "the hint is not touched");
    assert_eq!(raw[48..], sent[48..]);
    if frame.header.order == ByteOrder::Little {
        assert_eq!(raw[..], *sent);
    }
    let again = Frame::parse(raw.clone(), limits::BODY_MAX).unwrap();
    assert_eq!(again.header, header);
}

/// Reads a daemon's stream as a client. Gives the frames, or the error of the handshake.
fn as_client(c: &Conversation, seed: u64) -> (Vec<Frame>, Option<HandshakeError>) {
    let stream = c.daemon.concat();
    let mut lines = c.daemon.iter();
    let mut feed = Feed::new(&stream, seed);
    let hello = Hello::decode(&mut BytesMut::from(&c.client[0][..])).ok().flatten();
    let version = hello.as_ref().map_or(Version::CURRENT, |h| h.version);
    if version.has_auth() {
        let list = match feed.next(MethodList::decode) {
            Ok(list) => list.unwrap(),
            Err(error) => return (vec![], Some(error)),
        };
        let mut out = BytesMut::new();
        list.encode(&mut out);
        assert_eq!(out, lines.next().unwrap());
        assert_eq!(MethodList::new(list.methods().filter_map(MethodName::new)), list);
    }
    if !version.has_patch() {
        // Only clients of 3.14 and older read this form of the block; our end is the one that writes it.
        let private = PrivateGroup::parse(&c.daemon[0][4..]).unwrap();
        let mut out = BytesMut::new();
        Accept { version: Version { major: 5, minor: 0, patch: 1 }, private_group: private.as_group() }
            .encode(version, &mut out);
        assert_eq!(out, lines.next().unwrap());
        return (vec![], None);
    }
    let priority = hello.map_or(0, |h| h.priority);
    let accept = match feed.next(|buf| Accept::decode(buf, priority)) {
        Ok(accept) => accept.unwrap(),
        Err(error) => return (vec![], Some(error)),
    };
    let mut out = BytesMut::new();
    Accept::new(&PrivateGroup::try_from(&accept.private_group).unwrap()).encode(version, &mut out);
    assert_eq!(out, lines.next().unwrap());

    let mut decoder = FrameDecoder::client();
    let mut frames = vec![];
    while let Some(frame) = feed.next(|buf| decoder.decode(buf)).unwrap() {
        let sent = lines.next().unwrap();
        assert_eq!(frame.raw(), sent, "seed {seed}");
        assert_eq!(&encode_again(&frame), sent, "seed {seed}");
        assert_built(&frame);
        frames.push(frame);
    }
    assert!(feed.buf.is_empty() && lines.next().is_none(), "all was read, seed {seed}");
    (frames, None)
}

/// Our own builders make the same bytes from the values of the frame.
fn assert_built(frame: &Frame) {
    let group = frame.header.sender;
    match frame.kind() {
        Kind::Membership => {
            let (message, own_set) = Membership::decode(frame).unwrap();
            assert_eq!(message.encode(own_set), *frame.raw());
        }
        Kind::Transition => {
            let old = GroupId::of_transition(frame).unwrap();
            assert_eq!(build::transition(&group, old), *frame.raw());
        }
        Kind::SelfLeave => assert_eq!(build::self_leave(&group), *frame.raw()),
        Kind::Data | Kind::Reject => {}
        other => panic!("{other:?} from a daemon"),
    }
}

#[test]
fn every_frame_decodes_and_encodes_to_the_same_bytes() {
    let mut frames = 0;
    for path in cases() {
        for (_, conversation) in load(&path) {
            for seed in 0..12 {
                let (from_client, _) = as_daemon(&conversation, seed);
                let (from_daemon, _) = as_client(&conversation, seed);
                frames += from_client.len() + from_daemon.len();
            }
        }
    }
    assert!(frames > 12 * 200, "{frames} frames");
}

#[test]
fn handshakes_and_sessions_end_as_recorded() {
    let daemon_ends = BTreeMap::from([
        ("auth_empty_list", End::NoChoice),
        ("reject_bad_version", End::Hello(HelloError::Version(Version { major: 2, minor: 9, patch: 0 }))),
        ("reject_name_too_long", End::Hello(HelloError::NameLength(11))),
        ("reject_name_length_mismatch", End::Hello(HelloError::Incomplete)),
        ("oversize_header", End::Frame(FrameError::TooLong { bytes: 143_953, max: limits::BODY_MAX })),
        (
            "violation_two_services",
            End::Frame(FrameError::SeveralRequests(ServiceType::RELIABLE | ServiceType::FIFO)),
        ),
    ]);
    for path in cases() {
        let name = stem(&path);
        let conversations = load(&path);
        let (_, end) = as_daemon(&conversations["A"], 3);
        match daemon_ends.get(name) {
            Some(expected) => assert_eq!(end, *expected, "{name}"),
            None if name == "reject_illegal_name" => {
                assert!(matches!(end, End::Hello(HelloError::Name(_))), "{name}: {end:?}");
            }
            None if name == "violation_wrong_sender" => {
                assert!(matches!(end, End::Frame(FrameError::SenderName(_))), "{name}: {end:?}");
            }
            None => assert_eq!(end, End::Orderly, "{name}"),
        }
    }

    let codes = [
        ("auth_empty_list", "A", RejectCode::AUTH),
        ("reject_auth_method", "A", RejectCode::AUTH),
        ("reject_bad_version", "A", RejectCode::VERSION),
        ("reject_duplicate_name", "B", RejectCode::NOT_UNIQUE),
        ("reject_illegal_name", "A", RejectCode::ILLEGAL_NAME),
        ("reject_name_length_mismatch", "A", RejectCode::ILLEGAL_NAME),
        ("reject_name_too_long", "A", RejectCode::ILLEGAL_NAME),
    ];
    for path in cases() {
        let name = stem(&path);
        for (conn, conversation) in load(&path) {
            let (_, error) = as_client(&conversation, 0);
            let code = codes.iter().find(|(n, c, _)| *n == name && *c == conn).map(|(_, _, code)| *code);
            assert_eq!(error, code.map(HandshakeError::Rejected), "{name} {conn}");
        }
    }
}

#[test]
fn the_oversize_header_is_refused_before_its_body() {
    let path = cases().into_iter().find(|p| stem(p) == "oversize_header").unwrap();
    let conversation = &load(&path)["A"];
    assert!(conversation.incomplete);
    assert_eq!(conversation.client.last().map(Vec::len), Some(limits::HEADER), "only the header was sent");
}

#[test]
fn delivered_data_is_the_normalized_frame_of_its_sender() {
    let mut delivered = 0;
    for path in cases() {
        let conversations = load(&path);
        let sent: Vec<Bytes> =
            conversations.values().flat_map(|c| as_daemon(c, 1).0).map(Frame::into_raw).collect();
        for conversation in conversations.values() {
            for frame in as_client(conversation, 1).0 {
                if frame.kind() == Kind::Data {
                    assert!(sent.contains(frame.raw()), "{} {frame:?}", stem(&path));
                    delivered += 1;
                }
            }
        }
    }
    assert!(delivered > 40, "{delivered} delivered");
}

#[test]
fn rejected_messages_are_built_from_the_request() {
    let path = cases().into_iter().find(|p| stem(p) == "rejected_by_policy").unwrap();
    let conversation = &load(&path)["A"];
    let requests = as_daemon(conversation, 1).0;
    let rejected: Vec<Frame> =
        as_client(conversation, 1).0.into_iter().filter(|f| f.kind() == Kind::Reject).collect();
    assert_eq!(rejected.len(), 4);
    for back in rejected {
        let built = requests.iter().filter_map(build::reject).find(|(head, data)| {
            back.raw().len() == head.len() + data.len() && back.raw().starts_with(head) && back.data() == data
        });
        assert!(built.is_some(), "{back:?}");
    }
    let discarding: Vec<_> = requests.iter().filter(|f| f.header.service.is_self_discard()).collect();
    assert_eq!(discarding.len(), 1);
    assert_eq!(build::reject(discarding[0]), None, "SELF_DISCARD: nothing comes back");
}

#[test]
fn requests_are_built_as_the_c_library_does() {
    let mut built = 0;
    for path in cases() {
        for conversation in load(&path).values() {
            for frame in as_daemon(conversation, 1).0 {
                let (sender, service) = (frame.header.sender, frame.header.service);
                let names: Vec<GroupName> = frame.group_names().collect();
                if frame.header.order == ByteOrder::Big || cfg!(target_endian = "big") {
                    continue;
                }
                if service == ServiceType::JOIN {
                    assert_eq!(build::join(&sender, &names[0]), *frame.raw());
                } else if service == ServiceType::LEAVE {
                    assert_eq!(build::leave(&sender, &names[0]), *frame.raw());
                } else if service == ServiceType::KILL {
                    // The C library leaves stack bytes behind the terminating zero of the name.
                    assert_eq!(build::kill(&sender)[..48], frame.raw()[..48]);
                    assert_eq!(names, [sender]);
                } else {
                    let data = frame.data();
                    let head =
                        build::multicast(service, &sender, &names, frame.message_type(), data.len()).unwrap();
                    assert_eq!([head, data].concat(), *frame.raw());
                }
                built += 1;
            }
        }
    }
    assert!(built > 100, "{built} requests");
}
