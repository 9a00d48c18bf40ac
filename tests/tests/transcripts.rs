//! Replays the recorded transcripts of clients against a live daemon, byte for byte.
//!
//! The recordings are of Spread 5.0.1 with its C and Java libraries, and of hand-made bytes; their format is
//! described in `wire/tests/cases/transcripts/README.md`. Each is replayed over TCP and over the local socket.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use spread_wire::{DaemonName, Frame, GroupName, Membership};
use spreadd::{AccessList, Client, Daemon, Method, Methods, Options, Policy};
use tests::cluster::Cluster;

/// Nothing takes longer than the daemon's time limit for a hello.
const READ_LIMIT: Duration = Duration::from_secs(10);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/cases/transcripts")
}

#[derive(Deserialize)]
struct Line {
    conn: String,
    dir: String,
    hex: String,
    note: String,
    #[serde(default)]
    volatile: Vec<(usize, usize)>,
    event: Option<String>,
}

impl Line {
    fn bytes(&self) -> Vec<u8> {
        let digits = self.hex.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Via {
    Tcp,
    Local,
}

enum Stream {
    Tcp(TcpStream),
    Local(UnixStream),
}

impl Stream {
    fn open(daemon: &Daemon, via: Via) -> Self {
        match via {
            Via::Tcp => {
                let stream = TcpStream::connect(daemon.tcp_addrs()[0]).unwrap();
                stream.set_read_timeout(Some(READ_LIMIT)).unwrap();
                stream.set_nodelay(true).unwrap();
                Self::Tcp(stream)
            }
            Via::Local => {
                let stream = UnixStream::connect(daemon.local_path().unwrap()).unwrap();
                stream.set_read_timeout(Some(READ_LIMIT)).unwrap();
                Self::Local(stream)
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Local(stream) => stream.write_all(bytes),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.read_exact(bytes),
            Self::Local(stream) => stream.read_exact(bytes),
        }
    }

    fn finish(&self) {
        // The daemon may have closed first.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Local(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn reset(self) {
        if let Self::Tcp(stream) = &self {
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    /// The end of the stream may show as an orderly end or as a reset.
    fn assert_end(&mut self, context: &str) {
        let mut byte = [0];
        match self.read_exact(&mut byte) {
            Ok(()) => panic!("{context}: got byte {byte:02x?} instead of the end of the stream"),
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {}
            Err(e) => panic!("{context}: {e} instead of the end of the stream"),
        }
    }
}

/// What the recording of rejected requests was made with.
#[derive(Debug)]
struct Denying;

impl Policy for Denying {
    fn join(&self, _: &Client, group: &GroupName) -> bool {
        !group.as_bytes().starts_with(b"deny")
    }

    fn leave(&self, _: &Client, group: &GroupName) -> bool {
        !group.as_bytes().starts_with(b"nolv")
    }

    fn multicast(&self, _: &Client, target: &GroupName) -> bool {
        !target.as_bytes().starts_with(b"deny")
    }
}

fn options(name: &str, dir: &Path) -> Options {
    let mut options = Options::alone(DaemonName::new(b"localhost").unwrap(), 0);
    options.listen = vec!["127.0.0.1".parse().unwrap()];
    options.socket_dir = Some(dir.to_owned());
    match name {
        "auth_two_methods" => {
            options.auth.allowed = Methods::one(Method::Null).with(Method::Ip);
            options.auth.access = AccessList::parse("local\nunix\n").unwrap();
        }
        "auth_empty_list" => options.auth.allowed = Methods::NONE,
        "rejected_by_policy" => options.policy = Arc::new(Denying),
        _ => {}
    }
    options
}

/// Bytes of the recording that are other ones in the replay, of the same length: an invented name.
#[derive(Default)]
struct Renamed(Vec<(Vec<u8>, Vec<u8>)>);

impl Renamed {
    fn apply(&self, bytes: &mut [u8]) {
        for (recorded, now) in &self.0 {
            while let Some(at) = bytes.windows(recorded.len()).position(|window| window == recorded) {
                bytes[at..at + now.len()].copy_from_slice(now);
            }
        }
    }
}

fn padded(name: &[u8]) -> Vec<u8> {
    let mut field = name.to_vec();
    field.resize(32, 0);
    field
}

fn replay(name: &str, via: Via) {
    let text = fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Some(Daemon::start(options(name, dir.path())).unwrap());
    let mut streams: BTreeMap<String, Stream> = BTreeMap::new();
    let mut renamed = Renamed::default();
    // The volatile part of group ids by group and index: equal at all receivers.
    let mut ids: BTreeMap<(Vec<u8>, u32), Vec<u8>> = BTreeMap::new();
    let mut requests = 0;
    let mut last_sender = String::new();
    for (number, line) in (1..).zip(&lines) {
        let context = format!("{name}.jsonl:{number} over {via:?} ({})", line.note);
        let stream = streams.entry(line.conn.clone());
        let stream = match (&daemon, stream) {
            (Some(daemon), entry) => entry.or_insert_with(|| Stream::open(daemon, via)),
            (None, std::collections::btree_map::Entry::Occupied(entry)) => entry.into_mut(),
            (None, _) => panic!("{context}: the daemon has ended"),
        };
        match (line.dir.as_str(), line.event.as_deref()) {
            ("c2d", None) => {
                let mut bytes = line.bytes();
                renamed.apply(&mut bytes);
                // Requests of two clients may be taken in another order than they were recorded in.
                if let Some(daemon) = daemon.as_ref().filter(|_| last_sender != line.conn) {
                    tests::wait::until(&context, READ_LIMIT, || {
                        let taken = daemon.session_stats().requests_total;
                        if taken >= requests {
                            Ok(())
                        } else {
                            Err(format!("{taken} of {requests} requests taken"))
                        }
                    })
                    .unwrap();
                }
                last_sender.clone_from(&line.conn);
                requests += u64::from(
                    !name.starts_with("violation")
                        && ["JOIN", "LEAVE", "multicast"].iter().any(|word| line.note.starts_with(word)),
                );
                stream.send(&bytes).unwrap_or_else(|e| panic!("{context}: {e}"));
            }
            ("c2d", Some("fin")) => stream.finish(),
            ("c2d", Some("rst")) => {
                streams.remove(&line.conn).unwrap().reset();
            }
            ("d2c", Some(_)) => {
                if name == "daemon_exit"
                    && let Some(daemon) = daemon.take()
                {
                    daemon.stop();
                }
                stream.assert_end(&context);
            }
            ("d2c", None) if name == "connect_c_noname" && line.volatile.len() == 2 => {
                // An invented name may have another length.
                let mut head = [0; 5];
                stream.read_exact(&mut head).unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_eq!(head[..4], line.bytes()[..4], "{context}");
                let mut group = vec![0; usize::from(head[4])];
                stream.read_exact(&mut group).unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(group.starts_with(b"#r") && group.ends_with(b"#localhost"), "{context}: {group:?}");
                renamed.0.push((padded(&line.bytes()[5..]), padded(&group)));
            }
            ("d2c", None) => {
                let mut expected = line.bytes();
                renamed.apply(&mut expected);
                let mut got = vec![0; expected.len()];
                stream.read_exact(&mut got).unwrap_or_else(|e| panic!("{context}: {e}"));
                for &(at, len) in &line.volatile {
                    if len == 8 && got.len() >= at + 12 {
                        let index = u32::from_le_bytes(got[at + 8..at + 12].try_into().unwrap());
                        let id = got[at..at + 8].to_vec();
                        let first = ids.entry((got[4..36].to_vec(), index)).or_insert_with(|| id.clone());
                        assert_eq!(*first, id, "{context}: one view with two ids");
                    }
                    got[at..at + len].fill(0);
                    expected[at..at + len].fill(0);
                }
                assert!(got == expected, "{context}:\n got      {got:02x?}\n expected {expected:02x?}");
            }
            other => panic!("{context}: unknown line {other:?}"),
        }
    }
    if let Some(daemon) = daemon {
        daemon.stop();
    }
}

/// A membership message without what may differ: the id of the daemon view, and the order of the sets.
fn view(bytes: &[u8]) -> (Membership, Vec<GroupName>) {
    let frame = Frame::parse(Bytes::copy_from_slice(bytes), bytes.len()).unwrap();
    let (mut view, own) = Membership::decode(&frame).unwrap();
    let own = view.sets[own].clone();
    (view.id.proc, view.id.time) = (0, 0);
    view.sets.sort();
    (view, own)
}

/// Reads a whole frame.
fn read_frame(stream: &mut Stream, context: &str) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    stream.read_exact(&mut bytes).unwrap_or_else(|e| panic!("{context}: {e}"));
    let header = spread_wire::Header::parse(bytes.first_chunk().unwrap()).unwrap();
    bytes.resize(48 + usize::try_from(header.body_len()).unwrap(), 0);
    stream.read_exact(&mut bytes[48..]).unwrap_or_else(|e| panic!("{context}: {e}"));
    bytes
}

/// Two daemons, a cut between them, a merge, and a killed daemon, as the recording has it. Only one thing may
/// differ: the recorded daemon `d2` did not form a view of its own while it was cut off, ours does.
#[test]
fn network_split_merge() {
    if let Some(reason) = tests::netns::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let mut cluster = Cluster::on_hosts(2).unwrap();
    cluster.start_all().unwrap();
    for i in 0..2 {
        cluster.daemon(i).unwrap().wait_printed("daemons=2 members=h1 h2", READ_LIMIT).unwrap();
    }
    let text = fs::read_to_string(folder().join("network_split_merge.jsonl")).unwrap();
    let mut streams: BTreeMap<String, Stream> = BTreeMap::new();
    let mut lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The message was there before its receiver asked to be disconnected, but was recorded after it.
    lines.swap(46, 47);
    for (number, line) in (1..).zip(&lines) {
        let context = format!("line {number} ({})", line.note);
        // What happened between the recorded lines.
        match number {
            28 => cluster.net().unwrap().partition(&[&[0], &[1]]).unwrap(),
            35 => cluster.net().unwrap().heal().unwrap(),
            39 => cluster.kill(1).unwrap(),
            _ => {}
        }
        let host = usize::from(line.conn == "B");
        let stream = streams.entry(line.conn.clone()).or_insert_with(|| {
            let addr = (cluster.addr(host), cluster.port());
            let opened = cluster.net().unwrap().host(host).enter(move || TcpStream::connect(addr));
            let stream = opened.unwrap().join().unwrap().unwrap();
            stream.set_read_timeout(Some(READ_LIMIT)).unwrap();
            Stream::Tcp(stream)
        });
        let mut bytes = line.bytes();
        for (recorded, now) in [(b"#d1", b"#h1"), (b"#d2", b"#h2")] {
            while let Some(at) = bytes.windows(3).position(|window| window == recorded) {
                bytes[at..at + 3].copy_from_slice(now);
            }
        }
        match (line.dir.as_str(), line.event.as_deref()) {
            ("c2d", None) => stream.send(&bytes).unwrap_or_else(|e| panic!("{context}: {e}")),
            ("c2d", Some(_)) => stream.finish(),
            ("d2c", Some(_)) => stream.assert_end(&context),
            _ if bytes.len() > 100 && line.note.contains("membership") => {
                let mut got = read_frame(stream, &context);
                if number == 36 {
                    // The view of its own, while it was cut off.
                    let (alone, _) = view(&got);
                    assert_eq!(alone.members.len(), 1, "{context}: {alone:?}");
                    got = read_frame(stream, &context);
                }
                assert_eq!(view(&got), view(&bytes), "{context}");
            }
            _ => {
                let mut got = vec![0; bytes.len()];
                stream.read_exact(&mut got).unwrap_or_else(|e| panic!("{context}: {e}"));
                for &(at, len) in &line.volatile {
                    got[at..at + len].fill(0);
                    bytes[at..at + len].fill(0);
                }
                assert!(got == bytes, "{context}:\n got      {got:02x?}\n expected {bytes:02x?}");
            }
        }
    }
}

macro_rules! transcripts {
    ($($name:ident,)*) => {
        /// All recordings are replayed; this one needs two daemons and a broken network and has its own test.
        const ELSEWHERE: &str = "network_split_merge";

        #[test]
        fn no_recording_is_forgotten() {
            let mut known = vec![ELSEWHERE, $(stringify!($name),)*];
            known.sort_unstable();
            let mut found: Vec<String> = fs::read_dir(folder())
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".jsonl").map(str::to_owned))
                .collect();
            found.sort_unstable();
            assert_eq!(found, known);
        }

        $(
            #[test]
            fn $name() {
                replay(stringify!($name), Via::Tcp);
                replay(stringify!($name), Via::Local);
            }
        )*
    };
}

transcripts! {
    auth_empty_list,
    auth_two_methods,
    c_and_java,
    client_close_without_kill,
    client_reset,
    connect_c_memb,
    connect_c_name_truncated,
    connect_c_nomemb_priority,
    connect_c_noname,
    connect_java_memb,
    connect_java_nomemb,
    connect_old_3_14,
    connect_old_3_15,
    daemon_exit,
    disconnect_seen,
    join_illegal_name,
    join_leave_java,
    join_reg_memb,
    join_twice,
    leave_not_joined,
    max_size,
    member_without_membership,
    multigroup,
    opposite_endian,
    oversize_header,
    private_group,
    reject_auth_method,
    reject_bad_version,
    reject_duplicate_name,
    reject_illegal_name,
    reject_name_length_mismatch,
    reject_name_too_long,
    rejected_by_policy,
    self_discard,
    service_types_c,
    service_types_java,
    two_members,
    violation_two_services,
    violation_wrong_sender,
    zero_byte,
}
