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

use serde::Deserialize;
use spread_wire::{DaemonName, GroupName, PrivateGroup};
use spreadd::{AccessList, Daemon, Method, Methods, Options, Policy};

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
    fn join(&self, _: &PrivateGroup, group: &GroupName) -> bool {
        !group.as_bytes().starts_with(b"deny")
    }

    fn leave(&self, _: &PrivateGroup, group: &GroupName) -> bool {
        !group.as_bytes().starts_with(b"nolv")
    }

    fn multicast(&self, _: &PrivateGroup, target: &GroupName) -> bool {
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

macro_rules! transcripts {
    ($($name:ident,)*) => {
        /// All recordings are replayed; this one needs two daemons and a broken network and is in
        /// `network_views.rs`.
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
