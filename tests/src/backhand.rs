//! Several Apaches with mod_backhand, and servers that only pretend.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use backhand::{Announcement, Key, Micros, Name, ServerStat};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::apache::{Apache, Mpm, Setup};
use crate::{bins, wait};

const LIMIT: Duration = Duration::from_secs(20);
const MODULES: &str = "/usr/lib/apache2/modules";
/// Multicast group on loopback.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 8, 1);

/// Lines that load mod_proxy and mod_backhand.
///
/// # Errors
/// If the module cannot be built.
pub fn load_modules() -> anyhow::Result<String> {
    let module = bins::shared_library("mod_backhand", "mod_backhand")?;
    // Before mod_proxy: the harder order.
    let mut lines = format!("LoadModule backhand_module {}\n", module.display());
    for name in ["proxy", "proxy_http", "env", "alias", "mime", "dir", "authz_host", "headers"] {
        lines.push_str(&format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n"));
    }
    Ok(lines)
}

/// Apaches `www-1`, `www-2`, ... on 127.0.0.1, 127.0.0.2, ... with one HTTP port, who hear each other by multicast.
#[derive(Debug)]
pub struct Webs {
    apaches: Vec<Option<Apache>>,
    setups: Vec<Setup>,
    stats_port: u16,
    dir: TempDir,
}

impl Webs {
    /// Starts `count` servers; `config` gives more lines for number `n` from 1, whose folder is given too.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(count: u8, mpm: Mpm, config: impl Fn(u8, &Path) -> String) -> anyhow::Result<Self> {
        let stats = |addr: Ipv4Addr, port| format!("MulticastStats {addr} {GROUP}:{port}\n");
        Self::start_with(count, mpm, stats, config)
    }

    /// As [`start`](Self::start), with other lines that say how statistics travel; they get the server's address and a
    /// free port.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start_with(
        count: u8,
        mpm: Mpm,
        stats: impl Fn(Ipv4Addr, u16) -> String,
        config: impl Fn(u8, &Path) -> String,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("backhand-").tempdir()?;
        let addrs: Vec<Ipv4Addr> = (1..=count).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
        let port = free_port(&addrs)?;
        let stats_port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
        let mut webs = Self { apaches: Vec::new(), setups: Vec::new(), stats_port, dir };
        let modules = load_modules()?;
        for (n, addr) in (1..).zip(addrs) {
            let name = format!("www-{n}");
            let root = webs.dir.path().join(&name);
            let sockets = root.join("sockets");
            fs::create_dir_all(root.join("htdocs"))?;
            fs::create_dir_all(&sockets)?;
            fs::write(root.join("htdocs/who"), format!("{name}\n"))?;
            let user = nix::unistd::User::from_name("www-data")?.map(|user| user.uid);
            nix::unistd::chown(&sockets, user, None)?;
            let common = format!(
                "{modules}TypesConfig /dev/null\nUnixSocketDir {}\nBackhandArriba 100\nBackhandHostname {name}.test\n\
                 BackhandInterval 200ms\n{}AcceptStats 127.0.0.0/24\n\
                 <Location /backhand/>\n  SetHandler backhand-handler\n</Location>\nKeepAliveTimeout 5\n",
                sockets.display(),
                stats(addr, stats_port)
            );
            let more = config(n, &root);
            let listen = SocketAddr::from((addr, port));
            webs.setups.push(Setup { name, listen, mpm, config: common + &more });
            webs.apaches.push(None);
            webs.restart(n)?;
        }
        Ok(webs)
    }

    /// Starts number `n` from 1 if it does not run.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self, n: u8) -> anyhow::Result<()> {
        let at = usize::from(n) - 1;
        let apache = Apache::start_here(self.dir.path(), self.setups[at].clone())?;
        self.apaches[at] = Some(apache);
        Ok(())
    }

    /// Ends number `n` from 1 with SIGKILL, children included.
    pub fn kill(&mut self, n: u8) {
        self.apaches[usize::from(n) - 1] = None;
    }

    /// Ends number `n` from 1 with SIGTERM and waits.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(&mut self, n: u8, limit: Duration) -> anyhow::Result<()> {
        self.apaches[usize::from(n) - 1].take().map_or(Ok(()), |apache| apache.stop(limit))
    }

    /// Number `n` from 1.
    ///
    /// # Panics
    /// If it was killed.
    pub fn web(&self, n: u8) -> &Apache {
        self.apaches[usize::from(n) - 1].as_ref().expect("it runs")
    }

    /// Port of announcements.
    pub fn stats_port(&self) -> u16 {
        self.stats_port
    }

    /// Folder of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until number `n` sees these servers, and no others, in state `up`.
    ///
    /// # Errors
    /// If it does not: its page and its error log.
    pub fn wait_up(&self, n: u8, names: &[&str]) -> anyhow::Result<()> {
        let web = self.web(n);
        let seen = wait::until(&format!("{names:?} to be up at www-{n}"), LIMIT, || {
            let page = status(web).map_err(|e| e.to_string())?;
            let mut up = up(&page);
            up.sort_unstable();
            let mut wanted = names.to_vec();
            wanted.sort_unstable();
            if up == wanted { Ok(()) } else { Err(page.to_string()) }
        });
        seen.with_context(|| web.error_log())
    }

    /// Waits until all running ones see all running ones.
    ///
    /// # Errors
    /// As [`wait_up`](Self::wait_up).
    pub fn wait_all_up(&self) -> anyhow::Result<()> {
        let running: Vec<u8> =
            (1..).zip(&self.apaches).filter(|(_, a)| a.is_some()).map(|(n, _)| n).collect();
        let names: Vec<String> = running.iter().map(|n| format!("www-{n}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        running.iter().try_for_each(|n| self.wait_up(*n, &names))
    }
}

/// Names of the servers that a page shows as up.
pub fn up(page: &Value) -> Vec<&str> {
    let servers = page["servers"].as_array().map_or(&[][..], Vec::as_slice);
    servers.iter().filter(|s| s["state"] == "up").filter_map(|s| s["hostname"].as_str()).collect()
}

/// The diagnostic page of a server.
///
/// # Errors
/// If it does not answer with one.
pub fn status(web: &Apache) -> anyhow::Result<Value> {
    // Of HTTP/1.0: in one piece, however long.
    let head = "GET /backhand/?json HTTP/1.0\r\nHost: www.example.com\r\n\r\n";
    let answer = request(None, web.address(), head, b"")?;
    serde_json::from_str(&answer.body).with_context(|| answer.body)
}

/// A counter of the diagnostic page.
///
/// # Errors
/// If there is none of that name.
pub fn counter(web: &Apache, name: &str) -> anyhow::Result<u64> {
    let page = status(web)?;
    page["counters"][name].as_u64().with_context(|| format!("no counter {name}: {page}"))
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Body, of chunked answers with the frames of the chunks.
    pub body: String,
}

impl Answer {
    /// A header of it.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// `GET` with `Host: www.example.com`.
///
/// # Errors
/// If there is no whole answer.
pub fn get(to: SocketAddr, target: &str) -> anyhow::Result<Answer> {
    request(
        None,
        to,
        &format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"),
        b"",
    )
}

/// Sends a request, from an address if given, and reads to the end of the connection.
///
/// # Errors
/// If there is no whole answer.
pub fn request(from: Option<Ipv4Addr>, to: SocketAddr, head: &str, body: &[u8]) -> anyhow::Result<Answer> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddrV4::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), LIMIT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no whole answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| head.to_owned())?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

fn free_port(addrs: &[Ipv4Addr]) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = TcpListener::bind((addrs[0], 0))?.local_addr()?.port();
        if addrs.iter().all(|addr| TcpListener::bind((*addr, port)).is_ok()) {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port on {addrs:?}")
}

/// A server that exists by its announcements only.
#[derive(Debug)]
pub struct Pretender {
    socket: UdpSocket,
    to: SocketAddrV4,
    /// What it announces; change it at will.
    pub stat: ServerStat,
}

impl Pretender {
    /// Announces from `addr`, with HTTP at `port` there.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub fn new(webs: &Webs, addr: Ipv4Addr, port: u16, name: &str) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind(&SocketAddrV4::new(addr, 0).into())?;
        socket.set_multicast_if_v4(&addr)?;
        let stat = ServerStat {
            hostname: Name::new(name).context("not a host name")?,
            contact: SocketAddr::from((addr, port)),
            nservers: 10,
            aservers: 10,
            ..ServerStat::default()
        };
        let to = SocketAddrV4::new(GROUP, webs.stats_port());
        Ok(Self { socket: socket.into(), to, stat })
    }

    /// Announces itself once.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn announce(&self, key: Option<&Key>) -> anyhow::Result<()> {
        self.announce_at(now(), key)
    }

    /// As [`announce`](Self::announce) with a clock of its own.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn announce_at(&self, stamp: Micros, key: Option<&Key>) -> anyhow::Result<()> {
        let message =
            Announcement { stamp, goodbye: false, draining: false, stat: self.stat, interval_ms: 200 };
        let bytes = message.encode(key);
        let sent = self.socket.send_to(&bytes, self.to)?;
        ensure!(sent == bytes.len(), "only {sent} bytes sent");
        Ok(())
    }
}

/// What a [`Stub`] does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Answers with the request line, its hop header's beginning and the length and checksum of the body.
    Echo,
    /// Closes the connection after the head.
    Close,
}

/// A little HTTP server.
#[derive(Debug)]
pub struct Stub {
    addr: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Stub {
    /// Starts it; it ends with the test.
    ///
    /// # Errors
    /// If the address is not free.
    pub fn start(addr: Ipv4Addr, does: Does) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((addr, 0))?;
        let (addr, connections) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || serve(BufReader::new(stream), does));
            }
        });
        Ok(Self { addr, connections })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: BufReader<TcpStream>, does: Does) -> std::io::Result<()> {
    loop {
        let (mut first, mut length, mut chunked, mut hop) = (String::new(), 0, false, String::new());
        if stream.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let lower = line.trim().to_ascii_lowercase();
            match lower.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(("backhand-hop", value)) => hop = value.split(';').next().unwrap_or_default().to_owned(),
                _ if lower.is_empty() => break,
                _ => {}
            }
        }
        if does == Does::Close {
            return Ok(());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if chunked {
            body = read_chunks(&mut stream)?;
        }
        let answer = format!("{} hop {hop} {}\n", first.trim(), digest(&body));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.get_mut().write_all((head + &answer).as_bytes())?;
    }
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend(&chunk[..size]);
    }
}

/// Length and checksum of a body.
pub fn digest(body: &[u8]) -> String {
    let sum = body.iter().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
    format!("{} bytes {sum:016x}", body.len())
}

/// Time in microseconds, never the same twice.
pub fn now() -> Micros {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let last = LAST.fetch_max(micros, Ordering::Relaxed);
    if micros > last { Micros(micros) } else { Micros(LAST.fetch_add(1, Ordering::Relaxed) + 1) }
}

/// Compiles a candidacy function in C to `<dir>/<name>.so`.
///
/// # Errors
/// What the compiler says.
pub fn compile_c(source: &Path, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let query = |program: &str, args: &[&str]| -> anyhow::Result<String> {
        Ok(String::from_utf8(Command::new(program).args(args).output()?.stdout)?.trim().to_owned())
    };
    let out = prepare(dir, name)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&out).arg(source);
    cc.arg(format!("-I{}", root.join("mod_backhand/include").display()));
    cc.arg(format!("-isystem{}", query("apxs", &["-q", "INCLUDEDIR"])?));
    cc.args(query("apr-1-config", &["--includes", "--cppflags"])?.split_whitespace());
    finish(cc, out)
}

/// Compiles a candidacy function in Rust to `<dir>/<name>.so`.
///
/// # Errors
/// What the compiler says.
pub fn compile_rust(source: &Path, dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let out = prepare(dir, name)?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"]).arg(&out).arg(source);
    finish(rustc, out)
}

fn prepare(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir.join(format!("{name}.so")))
}

fn finish(mut compiler: Command, out: PathBuf) -> anyhow::Result<PathBuf> {
    let output = compiler.output().with_context(|| format!("{compiler:?}"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::set_permissions(&out, fs::Permissions::from_mode(0o755))?;
    Ok(out)
}

/// Candidacy functions that are shipped.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mod_backhand/candidacy").join(name)
}
