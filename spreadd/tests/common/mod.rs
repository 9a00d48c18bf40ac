//! A daemon in the test's process and clients made of plain sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod program;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use spread_wire::handshake::{Accept, AuthChoice, Hello, MethodList, MethodName, Password};
use spread_wire::{
    DaemonName, Frame, FrameDecoder, GroupName, Kind, MembershipBody, PrivateName, ServiceType, build,
};
use spreadd::{Daemon, Options};

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(10);

pub fn options() -> Options {
    let mut options = Options::alone(DaemonName::new(b"localhost").unwrap(), 0);
    options.listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    options.socket_dir = None;
    options
}

pub fn group(name: &str) -> GroupName {
    GroupName::new(name.as_bytes()).unwrap()
}

pub fn hello(name: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    let name = (!name.is_empty()).then(|| PrivateName::new(name.as_bytes()).unwrap());
    Hello::new(name, true, 0).encode(&mut out);
    out.to_vec()
}

/// The hello of a client that asks for gap marks.
pub fn hello_gaps(name: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    let name = PrivateName::new(name.as_bytes()).unwrap();
    Hello { gaps: true, ..Hello::new(Some(name), true, 0) }.encode(&mut out);
    out.to_vec()
}

/// The choice of `PWORD` with the answer to its question.
pub fn password(user: &str, password: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    AuthChoice::new([MethodName::PWORD]).encode(&mut out);
    Password::new(user.as_bytes(), password.as_bytes()).encode(&mut out);
    out.to_vec()
}

pub fn choice() -> Vec<u8> {
    let mut out = BytesMut::new();
    AuthChoice::new([MethodName::NULL]).encode(&mut out);
    out.to_vec()
}

/// A port that is free on the first `hosts` addresses of 127.0.0.0, with the next one for the token.
pub fn ring_port(hosts: u8) -> u16 {
    let free = |port: u16| {
        (1..=hosts).all(|host| {
            let addr = Ipv4Addr::new(127, 0, 0, host);
            TcpListener::bind((addr, port)).is_ok()
                && UdpSocket::bind((addr, port)).is_ok()
                && UdpSocket::bind((addr, port + 1)).is_ok()
        })
    };
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < u16::MAX && free(port) {
            return port;
        }
    }
}

/// The value of a metric, with its labels, of a daemon that serves them.
pub fn metric(daemon: &Daemon, name: &str) -> u64 {
    let mut stream = TcpStream::connect(daemon.metrics_addr().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// Waits until `look` is true.
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !look() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection without a handshake.
pub fn raw(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.tcp_addrs()[0]).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// All bytes up to the end of the stream, which may show as a reset.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return all,
            Err(e) => panic!("{e} instead of the end of the stream; got {all:02x?}"),
        }
    }
}

/// An established session.
pub struct Client {
    pub stream: TcpStream,
    pub me: GroupName,
    buf: BytesMut,
    decoder: FrameDecoder,
}

impl Client {
    pub fn connect(daemon: &Daemon, name: &str) -> Self {
        Self::on(raw(daemon), name).unwrap_or_else(|refused| panic!("{name} was refused: {refused:02x?}"))
    }

    /// The handshake over `stream`; the bytes that came instead if the daemon refuses.
    pub fn on(stream: TcpStream, name: &str) -> Result<Self, Vec<u8>> {
        Self::with(stream, &hello(name), &choice())
    }

    /// The handshake with these bytes as the hello and behind the list of methods.
    pub fn with(mut stream: TcpStream, hello: &[u8], choice: &[u8]) -> Result<Self, Vec<u8>> {
        let mut buf = BytesMut::new();
        stream.write_all(hello).unwrap();
        loop {
            match MethodList::decode(&mut buf) {
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(_) => return Err(buf.to_vec()),
            }
            if read_more(&mut stream, &mut buf) == 0 {
                return Err(buf.to_vec());
            }
        }
        stream.write_all(choice).unwrap();
        if choice.len() > 90 {
            // The answer to the password.
            while buf.is_empty() {
                if read_more(&mut stream, &mut buf) == 0 {
                    return Err(Vec::new());
                }
            }
            if buf[0] != Password::GOOD {
                while read_more(&mut stream, &mut buf) > 0 {}
                return Err(buf.to_vec());
            }
            buf.advance(1);
        }
        loop {
            match Accept::decode(&mut buf, 0) {
                Ok(Some(accept)) => {
                    let me = accept.private_group;
                    return Ok(Self { stream, me, buf, decoder: FrameDecoder::client() });
                }
                Ok(None) => {}
                Err(_) => return Err(buf.to_vec()),
            }
            if read_more(&mut stream, &mut buf) == 0 {
                return Err(buf.to_vec());
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn join(&mut self, name: &str) {
        let frame = build::join(&self.me, &group(name));
        self.send(&frame);
    }

    /// Joins and waits for the membership message.
    pub fn joined(&mut self, name: &str) {
        self.join(name);
        let me = self.me;
        self.until(|frame| {
            frame.kind() == Kind::Membership
                && frame.header.sender == group(name)
                && frame.group_names().any(|member| member == me)
        });
    }

    pub fn message(&self, service: ServiceType, to: &[GroupName], data: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        build::put_multicast(&mut out, service, &self.me, to, 7, data.len(), data.len()).unwrap();
        out.extend_from_slice(data);
        out.freeze()
    }

    pub fn multicast(&mut self, to: &str, data: &[u8]) {
        let frame = self.message(ServiceType::AGREED, &[group(to)], data);
        self.send(&frame);
    }

    /// The next frame; `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buf).unwrap() {
                return Some(frame);
            }
            if read_more(&mut self.stream, &mut self.buf) == 0 {
                return None;
            }
        }
    }

    /// The first frame for which `wanted` holds; others are passed over.
    pub fn until(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            match self.frame() {
                Some(frame) if wanted(&frame) => return frame,
                Some(_) => {}
                None => panic!("the stream of {} ended", self.me),
            }
        }
    }

    /// The data of the next data message.
    pub fn data(&mut self) -> Bytes {
        self.until(|frame| frame.kind() == Kind::Data).data()
    }

    /// Waits for the membership message that `name` disconnected.
    pub fn sees_disconnect(&mut self, name: &str) {
        let private = format!("#{name}#localhost");
        self.until(|frame| disconnected(frame).is_some_and(|gone| gone.as_bytes() == private.as_bytes()));
    }

    /// Sends `data` to group `to` again and again, waiting for each, until the private group `name` is
    /// disconnected. The last message may come after this.
    pub fn send_until_disconnect(&mut self, to: &str, data: &[u8], name: &str) {
        let mut gone = false;
        // What fits into the socket buffers of the other is up to the system.
        for _ in 0..2000 {
            self.multicast(to, data);
            self.until(|frame| {
                gone |= disconnected(frame).is_some_and(|gone| gone.as_bytes() == name.as_bytes());
                gone || frame.kind() == Kind::Data
            });
            if gone {
                return;
            }
        }
        panic!("{name} is still there");
    }

    /// The rest of the stream is empty.
    pub fn assert_end(&mut self) {
        if let Some(frame) = self.frame() {
            panic!("{frame:?} instead of the end of the stream");
        }
    }

    /// The stream ends, after whatever was under way.
    pub fn assert_ends(&mut self) {
        while self.frame().is_some() {}
    }

    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// The member that disconnected, if this message says so.
fn disconnected(frame: &Frame) -> Option<GroupName> {
    let wanted = frame.header.service.contains(ServiceType::CAUSED_BY_DISCONNECT);
    MembershipBody::parse(frame).ok().filter(|_| wanted)?.changed()
}

fn read_more(stream: &mut TcpStream, buf: &mut BytesMut) -> usize {
    let mut part = [0; 64 << 10];
    match stream.read(&mut part) {
        Ok(n) => {
            buf.extend_from_slice(&part[..n]);
            n
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
        Err(e) => panic!("{e} while reading"),
    }
}
