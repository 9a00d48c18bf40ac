//! A daemon that does what a test tells it, one session at a time: to be silent, to stop reading, to die.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use spread::{Address, Builder, PrivateGroup};
use spread_wire::handshake::{Accept, AuthChoice, Hello, MethodList, MethodName, RejectCode, Version};
use spread_wire::{Frame, FrameDecoder};
use tempfile::TempDir;

/// No step of a test takes longer; what does has hung.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Script {
    dir: TempDir,
    listener: UnixListener,
}

impl Script {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("4803")).unwrap();
        Self { dir, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("4803")
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.path())
    }

    pub(crate) fn builder(&self) -> Builder {
        Builder::from_address(self.address()).connect_timeout(Some(LIMIT))
    }

    /// Takes a connection without a word.
    pub(crate) fn accept_silent(&self) -> UnixStream {
        let stream = self.listener.accept().unwrap().0;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Takes a connection and refuses the session.
    pub(crate) fn refuse(&self, code: RejectCode) {
        let mut stream = self.accept_silent();
        let mut buf = BytesMut::new();
        read_unit(&mut stream, &mut buf, |buf| Hello::decode(buf).unwrap());
        stream.write_all(&[code.to_byte()]).unwrap();
    }

    /// Takes a connection and makes a session of it. Its name is the one asked for, or `r1`.
    pub(crate) fn accept(&self) -> Session {
        self.accept_with(&[])
    }

    /// The same, with bytes that leave together with the last of the handshake.
    pub(crate) fn accept_with(&self, first: &[u8]) -> Session {
        let mut stream = self.accept_silent();
        let mut buf = BytesMut::new();
        let hello = read_unit(&mut stream, &mut buf, |buf| Hello::decode(buf).unwrap());
        let mut out = BytesMut::new();
        MethodList::new([MethodName::NULL]).encode(&mut out);
        stream.write_all(&out).unwrap();
        read_unit(&mut stream, &mut buf, AuthChoice::decode);
        let name = hello.name.map_or_else(|| "r1".to_owned(), |name| name.to_string());
        let private: PrivateGroup = format!("#{name}#script").parse().unwrap();
        out.clear();
        Accept::new(&private).encode(Version::CURRENT, &mut out);
        out.extend_from_slice(first);
        stream.write_all(&out).unwrap();
        Session { private, stream, buf, decoder: FrameDecoder::daemon(private) }
    }
}

fn read_unit<T>(
    stream: &mut UnixStream,
    buf: &mut BytesMut,
    mut decode: impl FnMut(&mut BytesMut) -> Option<T>,
) -> T {
    loop {
        if let Some(unit) = decode(buf) {
            return unit;
        }
        let mut space = [0; 256];
        let n = stream.read(&mut space).unwrap();
        assert!(n > 0, "the client closed during the handshake");
        buf.extend_from_slice(&space[..n]);
    }
}

pub(crate) struct Session {
    pub(crate) private: PrivateGroup,
    stream: UnixStream,
    buf: BytesMut,
    decoder: FrameDecoder,
}

impl Session {
    /// The next message of the client; `None` if it has closed the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buf).unwrap() {
                return Some(frame);
            }
            let mut space = [0; 64 * 1024];
            match self.stream.read(&mut space) {
                Ok(0) => return None,
                Ok(n) => self.buf.extend_from_slice(&space[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the client sends nothing for {LIMIT:?}: {error}"),
            }
        }
    }

    /// Reads a number of bytes at most, whatever they are, and gives the whole messages among all that was read.
    pub(crate) fn read_some(&mut self, bytes: usize) -> Vec<Frame> {
        let mut space = vec![0; bytes];
        let n = self.stream.read(&mut space).unwrap();
        self.buf.extend_from_slice(&space[..n]);
        std::iter::from_fn(|| self.decoder.decode(&mut self.buf).unwrap()).collect()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
}
