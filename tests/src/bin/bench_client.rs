//! `cargo xtask bench client`: messages per second, system calls per message, processor time and latency of the client
//! library's faces against one local daemon, beside a client that makes the system calls of a plain implementation (one
//! write a message; header, names and data read one by one), all in the same run.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use spread::{Address, Builder, GroupName, Message, Service};
use spread_capi::connect::SP_connect;
use spread_capi::receive::SP_receive;
use spread_capi::send::{SP_join, SP_multicast};
use spread_wire::handshake::{Accept, AuthChoice, Hello, MethodList, MethodName};
use spread_wire::{Header, build};
use tests::bins;
use tests::process::Process;
use tokio::sync::Notify;

/// Speed of the client library against one local daemon.
#[derive(Parser)]
struct Args {
    /// Messages of each run.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Bytes of data in a message; may be repeated.
    #[arg(long = "size", default_values_t = [100, 1000])]
    sizes: Vec<usize>,
    /// Runs of each; the best counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Messages sent and not yet received at most. A daemon drops a reader that is 1000 messages behind.
    #[arg(long, default_value_t = 960)]
    window: u64,
    /// Round trips for the latency figures.
    #[arg(long, default_value_t = 20_000)]
    rounds: u64,
    /// Leave faces out: only these are run.
    #[arg(long = "face", value_enum)]
    faces: Vec<Face>,
    /// Used by the program itself: do one run and print its figures.
    #[arg(long, value_enum, hide = true, requires = "daemon")]
    worker: Option<Work>,
    /// Used by the program itself: socket of the daemon.
    #[arg(long, hide = true)]
    daemon: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Face {
    /// Plain threads, batched.
    Blocking,
    /// Tasks on a tokio runtime of two threads.
    Async,
    /// The C interface: no read-ahead, so that programs can wait with `select`.
    C,
    /// One write a message, three reads a message: what a plain implementation does.
    Plain,
}

impl Face {
    fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Async => "async",
            Self::C => "c",
            Self::Plain => "plain",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    Throughput,
    Latency,
}

/// Figures of one run.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Figures {
    seconds: f64,
    /// Processor time of the client.
    cpu_seconds: f64,
    /// Sorted round trips in microseconds: median, 99 %, 99.9 %.
    micros: [f64; 3],
    #[serde(default)]
    daemon_cpu_seconds: f64,
    #[serde(default)]
    system_calls: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(work), Some(daemon)) = (args.worker, &args.daemon) {
        let (Some(face), Some(size)) = (args.faces.first(), args.sizes.first()) else {
            bail!("no face, no size")
        };
        let figures = worker(*face, work, daemon, *size, &args)?;
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(bins::bin("spreadd", "spreadd")?);
    command.args(["--name", "bench", "--port", "0", "--listen", "127.0.0.1", "--socket-dir"]).arg(dir.path());
    let daemon = Process::start("spreadd", dir.path(), command)?;
    let socket =
        tests::wait::until("the socket of the daemon", Duration::from_secs(10), || socket(dir.path()))?;
    let pid = daemon.pid().as_raw();

    let faces = if args.faces.is_empty() {
        vec![Face::Blocking, Face::Async, Face::C, Face::Plain]
    } else {
        args.faces.clone()
    };
    let counter = Counter::find();
    println!(
        "{} messages a run, best of {} runs; at most {} under way; system calls by {}",
        args.count,
        args.runs,
        args.window,
        counter.name()
    );
    for size in &args.sizes {
        println!("\n{size} bytes, one sender, one receiver, AGREED, Unix socket");
        println!(
            "  {:<10} {:>12} {:>8} {:>14} {:>14} {:>16}",
            "face", "messages/s", "ratio", "calls/message", "client us/msg", "daemon us/msg"
        );
        let idle: Vec<_> = faces
            .iter()
            .map(|face| run(*face, Work::Throughput, &socket, *size, 0, &args, counter, pid))
            .collect::<Result<_>>()?;
        let mut best: Vec<Option<Figures>> = vec![None; faces.len()];
        // Interleaved, so that whatever else the machine does falls on all alike.
        for _ in 0..args.runs {
            for (face, best) in faces.iter().zip(&mut best) {
                let now = run(*face, Work::Throughput, &socket, *size, args.count, &args, counter, pid)?;
                if best.as_ref().is_none_or(|best| now.seconds < best.seconds) {
                    *best = Some(now);
                }
            }
        }
        let rival = best.last().and_then(Option::as_ref).map_or(0.0, |figures| figures.seconds);
        for ((face, best), idle) in faces.iter().zip(&best).zip(&idle) {
            let Some(best) = best else { continue };
            #[allow(clippy::cast_precision_loss, reason = "figures for people")]
            let count = args.count as f64;
            let calls = match (best.system_calls, idle.system_calls) {
                #[allow(clippy::cast_precision_loss, reason = "figures for people")]
                (Some(all), Some(idle)) => format!("{:.4}", all.saturating_sub(idle) as f64 / count),
                _ => "-".to_owned(),
            };
            println!(
                "  {:<10} {:>12.0} {:>8.2} {calls:>14} {:>14.3} {:>16.3}",
                face.name(),
                count / best.seconds,
                rival / best.seconds,
                best.cpu_seconds * 1e6 / count,
                best.daemon_cpu_seconds * 1e6 / count,
            );
        }
        println!("\n  round trip of a message to oneself, microseconds");
        println!("  {:<10} {:>10} {:>10} {:>10} {:>8}", "face", "median", "99 %", "99.9 %", "ratio");
        let mut best: Vec<Option<Figures>> = vec![None; faces.len()];
        for _ in 0..args.runs {
            for (face, best) in faces.iter().zip(&mut best) {
                let now = run(*face, Work::Latency, &socket, *size, args.rounds, &args, counter, pid)?;
                if best.as_ref().is_none_or(|best| now.micros[0] < best.micros[0]) {
                    *best = Some(now);
                }
            }
        }
        let rival = best.last().and_then(Option::as_ref).map_or(0.0, |figures| figures.micros[0]);
        for (face, best) in faces.iter().zip(&best) {
            let Some(best) = best else { continue };
            let [median, p99, p999] = best.micros;
            let ratio = rival / median;
            println!("  {:<10} {median:>10.1} {p99:>10.1} {p999:>10.1} {ratio:>8.2}", face.name());
        }
    }
    println!("\nratio: against the last line of each table, the same work done with plain system calls");
    Ok(())
}

/// The socket in the folder of the daemon: its name is the port.
fn socket(dir: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(dir).map_err(|error| error.to_string())?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
        })
        .filter(|path| UnixStream::connect(path).is_ok())
        .ok_or_else(|| "not there yet".to_owned())
}

/// Who counts system calls.
#[derive(Clone, Copy)]
enum Counter {
    Perf,
    Strace,
    Nobody,
}

impl Counter {
    fn find() -> Self {
        let works = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
        let mut perf = Command::new("perf");
        if works(perf.args(["stat", "-e", "raw_syscalls:sys_enter", "true"])) {
            Self::Perf
        } else if works(Command::new("strace").args(["-c", "-f", "true"])) {
            Self::Strace
        } else {
            Self::Nobody
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat",
            Self::Strace => "strace -c, which slows the client down",
            Self::Nobody => "nobody: neither perf nor strace works here",
        }
    }

    /// The command that runs `program` and leaves the count in the file.
    fn command(self, program: &Path, file: &Path) -> Command {
        let mut command = match self {
            Self::Nobody => return Command::new(program),
            Self::Perf => Command::new("perf"),
            Self::Strace => Command::new("strace"),
        };
        match self {
            Self::Perf => command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"]),
            _ => command.args(["-f", "-c", "-U", "calls,name", "-o"]),
        };
        command.arg(file).arg(program);
        command
    }

    fn read(self, file: &Path) -> Option<u64> {
        let text = fs::read_to_string(file).ok()?;
        match self {
            Self::Nobody => None,
            Self::Perf => text.lines().find(|l| l.contains("sys_enter"))?.split(',').next()?.parse().ok(),
            Self::Strace => text
                .lines()
                .find(|l| l.trim_end().ends_with("total"))?
                .split_whitespace()
                .next()?
                .parse()
                .ok(),
        }
    }
}

/// One run in a process of its own.
#[allow(clippy::too_many_arguments, reason = "they are what a run is made of")]
fn run(
    face: Face,
    work: Work,
    socket: &Path,
    size: usize,
    count: u64,
    args: &Args,
    counter: Counter,
    daemon: i32,
) -> Result<Figures> {
    let file = tempfile::NamedTempFile::new()?;
    let mut command = counter.command(&std::env::current_exe()?, file.path());
    let work = if work == Work::Latency { "latency" } else { "throughput" };
    command.args(["--worker", work, "--face", face.name(), "--daemon"]).arg(socket);
    command.args([
        "--size",
        &size.to_string(),
        "--count",
        &count.to_string(),
        "--rounds",
        &count.to_string(),
    ]);
    command.args(["--window", &args.window.to_string()]);
    let before = cpu_seconds_of(daemon)?;
    let out = command.output()?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    let mut figures: Figures = serde_json::from_slice(&out.stdout)?;
    figures.daemon_cpu_seconds = cpu_seconds_of(daemon)? - before;
    figures.system_calls = counter.read(file.path());
    Ok(figures)
}

/// Processor time a process has used.
fn cpu_seconds_of(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon has ended")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("unreadable stat");
    // utime and stime are fields 14 and 15, the first after the name is field 3; the kernel counts 100 a second.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn own_cpu_seconds() -> Result<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    #[allow(clippy::cast_precision_loss, reason = "microseconds since the start of the process")]
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn worker(face: Face, work: Work, daemon: &Path, size: usize, args: &Args) -> Result<Figures> {
    match (face, work) {
        (Face::Blocking, Work::Throughput) => blocking_throughput(daemon, size, args),
        (Face::Blocking, Work::Latency) => blocking_latency(daemon, size, args.rounds),
        (Face::Async, _) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async {
                match work {
                    Work::Throughput => async_throughput(daemon, size, args).await,
                    Work::Latency => async_latency(daemon, size, args.rounds).await,
                }
            })
        }
        (Face::C, Work::Throughput) => c_throughput(daemon, size, args),
        (Face::C, Work::Latency) => c_latency(daemon, size, args.rounds),
        (Face::Plain, Work::Throughput) => plain_throughput(daemon, size, args),
        (Face::Plain, Work::Latency) => plain_latency(daemon, size, args.rounds),
    }
}

fn builder(daemon: &Path) -> Builder {
    Builder::from_address(Address::Unix(daemon.to_owned()))
}

fn group() -> Result<GroupName> {
    Ok("bench".parse()?)
}

/// Lets the sender go no further ahead of the receiver than the window.
struct Window {
    window: u64,
    received: AtomicU64,
    /// Told after each quarter of the window, and when the receiver fails.
    progress: Notify,
    failed: AtomicBool,
}

impl Window {
    fn new(window: u64) -> Arc<Self> {
        let window = window.max(4);
        Arc::new(Self {
            window,
            received: AtomicU64::new(0),
            progress: Notify::new(),
            failed: AtomicBool::new(false),
        })
    }

    /// Whether message number `sent` must wait.
    fn is_closed(&self, sent: u64) -> bool {
        sent - self.received.load(Ordering::Relaxed) >= self.window
    }

    fn received(&self) {
        if (self.received.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.window / 4) {
            self.progress.notify_one();
        }
    }

    /// Waits until message number `sent` may leave, and as many as a quarter of the window behind it: a sender that
    /// follows each single message would send single messages.
    async fn open(&self, sent: u64) -> Result<()> {
        while self.is_closed(sent + self.window / 4) {
            ensure!(!self.failed.load(Ordering::Relaxed), "the receiver failed");
            self.progress.notified().await;
        }
        Ok(())
    }

    fn open_blocking(&self, sent: u64) -> Result<()> {
        let thread = thread::current();
        let waker = Waker::from(Arc::new(Unpark(thread)));
        let mut open = std::pin::pin!(self.open(sent));
        loop {
            match open.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// What the receiver came to; a failure ends the waiting of the sender.
    fn outcome(&self, result: Result<()>) -> Result<()> {
        self.failed.store(result.is_err(), Ordering::Relaxed);
        self.progress.notify_one();
        result
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Measures from the first message on: time and processor time.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Result<Self> {
        Ok(Self(Instant::now(), own_cpu_seconds()?))
    }

    fn stop(self) -> Result<Figures> {
        let seconds = self.0.elapsed().as_secs_f64();
        Ok(Figures { seconds, cpu_seconds: own_cpu_seconds()? - self.1, ..Figures::default() })
    }
}

fn blocking_throughput(daemon: &Path, size: usize, args: &Args) -> Result<Figures> {
    let (count, group) = (args.count, group()?);
    let mut sender = builder(daemon).connect_blocking()?;
    let mut receiver = builder(daemon).membership(true).connect_blocking()?;
    receiver.join(group)?;
    ensure!(matches!(receiver.receive()?, Message::Membership(_)));
    let window = Window::new(args.window);
    let data = vec![7; size];
    let clock = Clock::start()?;
    let reader = thread::spawn({
        let window = Arc::clone(&window);
        move || {
            window.outcome((0..count).try_for_each(|_| {
                let Message::Data(data) = receiver.receive()? else { bail!("not data") };
                ensure!(data.payload().len() == size);
                window.received();
                Ok(())
            }))
        }
    });
    for sent in 0..count {
        if window.is_closed(sent) {
            sender.flush()?;
            window.open_blocking(sent)?;
        }
        sender.enqueue(Service::AGREED, group, 0, &data)?;
    }
    sender.flush()?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader failed"))??;
    clock.stop()
}

async fn async_throughput(daemon: &Path, size: usize, args: &Args) -> Result<Figures> {
    let (count, group) = (args.count, group()?);
    let sender = builder(daemon).connect().await?;
    let mut receiver = builder(daemon).membership(true).connect().await?;
    receiver.join(group).await?;
    ensure!(matches!(receiver.receive().await?, Message::Membership(_)));
    let window = Window::new(args.window);
    let data = vec![7; size];
    let clock = Clock::start()?;
    let reader = tokio::spawn({
        let window = Arc::clone(&window);
        async move {
            let work = async {
                for _ in 0..count {
                    let Message::Data(data) = receiver.receive().await? else { bail!("not data") };
                    ensure!(data.payload().len() == size);
                    window.received();
                }
                Ok(())
            };
            window.outcome(work.await)
        }
    });
    let writer = tokio::spawn(async move {
        for sent in 0..count {
            if window.is_closed(sent) {
                window.open(sent).await?;
            }
            sender.multicast(Service::AGREED, group, 0, &data).await?;
        }
        sender.sender().flush().await?;
        anyhow::Ok(sender)
    });
    drop(writer.await??);
    reader.await??;
    clock.stop()
}

fn percentiles(mut micros: Vec<f64>) -> [f64; 3] {
    micros.sort_by(f64::total_cmp);
    let at = |permille: usize| micros.get(micros.len() * permille / 1000).copied().unwrap_or_default();
    [at(500), at(990), at(999)]
}

fn blocking_latency(daemon: &Path, size: usize, rounds: u64) -> Result<Figures> {
    let mut connection = builder(daemon).connect_blocking()?;
    let own = connection.private_group().as_group();
    let data = vec![7; size];
    let mut micros = Vec::new();
    let clock = Clock::start()?;
    for _ in 0..rounds {
        let start = Instant::now();
        connection.multicast(Service::AGREED, own, 0, &data)?;
        connection.receive()?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Figures { micros: percentiles(micros), ..clock.stop()? })
}

async fn async_latency(daemon: &Path, size: usize, rounds: u64) -> Result<Figures> {
    let mut connection = builder(daemon).connect().await?;
    let own = connection.private_group().as_group();
    let data = vec![7; size];
    let work = tokio::spawn(async move {
        let mut micros = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            connection.multicast(Service::AGREED, own, 0, &data).await?;
            connection.receive().await?;
            micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
        anyhow::Ok(micros)
    });
    let clock = Clock::start()?;
    Ok(Figures { micros: percentiles(work.await??), ..clock.stop()? })
}

/// A session of the C interface.
struct C {
    mbox: c_int,
    own: GroupName,
    groups: Vec<[c_char; 32]>,
    body: Vec<u8>,
}

impl C {
    fn connect(daemon: &Path, membership: bool) -> Result<Self> {
        let name = CString::new(daemon.as_os_str().as_encoded_bytes())?;
        let (mut mbox, mut own) = (-1, [0; 32]);
        let membership = c_int::from(membership);
        // SAFETY: a string, null for the name, a number and 32 bytes to be written to.
        let code = unsafe {
            let own = (&raw mut own).cast();
            SP_connect(name.as_ptr(), std::ptr::null(), 0, membership, &raw mut mbox, own)
        };
        ensure!(code == 1, "SP_connect: {code}");
        let own = GroupName::from_field(own);
        Ok(Self { mbox, own, groups: vec![[0; 32]; 100], body: vec![0; 200_000] })
    }

    fn send(&self, group: &CStr, data: &[u8]) -> Result<()> {
        let len = c_int::try_from(data.len())?;
        let agreed = 0x10;
        // SAFETY: a string and a body of that length.
        let code = unsafe { SP_multicast(self.mbox, agreed, group.as_ptr(), 0, len, data.as_ptr().cast()) };
        ensure!(code == len, "SP_multicast: {code}");
        Ok(())
    }

    fn receive(&mut self) -> Result<usize> {
        let (mut service, mut sender, mut count, mut kind, mut mismatch) = (0, [0; 32], 0, 0, 0);
        let (max_groups, max_len) = (c_int::try_from(self.groups.len())?, c_int::try_from(self.body.len())?);
        // SAFETY: all are there to be written to, as many as said.
        let code = unsafe {
            SP_receive(
                self.mbox,
                &raw mut service,
                (&raw mut sender).cast(),
                max_groups,
                &raw mut count,
                self.groups.as_mut_ptr(),
                &raw mut kind,
                &raw mut mismatch,
                max_len,
                self.body.as_mut_ptr().cast(),
            )
        };
        usize::try_from(code).map_err(|_| anyhow::anyhow!("SP_receive: {code}"))
    }
}

fn c_throughput(daemon: &Path, size: usize, args: &Args) -> Result<Figures> {
    let count = args.count;
    let sender = C::connect(daemon, false)?;
    let mut receiver = C::connect(daemon, true)?;
    // SAFETY: a string.
    ensure!(unsafe { SP_join(receiver.mbox, c"bench".as_ptr()) } == 0);
    receiver.receive()?;
    let window = Window::new(args.window);
    let data = vec![7; size];
    let clock = Clock::start()?;
    let reader = thread::spawn({
        let window = Arc::clone(&window);
        move || {
            window.outcome((0..count).try_for_each(|_| {
                ensure!(receiver.receive()? == size);
                window.received();
                Ok(())
            }))
        }
    });
    for sent in 0..count {
        if window.is_closed(sent) {
            window.open_blocking(sent)?;
        }
        sender.send(c"bench", &data)?;
    }
    reader.join().map_err(|_| anyhow::anyhow!("the reader failed"))??;
    clock.stop()
}

fn c_latency(daemon: &Path, size: usize, rounds: u64) -> Result<Figures> {
    let mut session = C::connect(daemon, false)?;
    let own = CString::new(session.own.as_bytes())?;
    let data = vec![7; size];
    let mut micros = Vec::new();
    let clock = Clock::start()?;
    for _ in 0..rounds {
        let start = Instant::now();
        session.send(&own, &data)?;
        session.receive()?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Figures { micros: percentiles(micros), ..clock.stop()? })
}

/// A session with nothing between it and the system calls.
struct Plain {
    stream: UnixStream,
    own: GroupName,
    body: Vec<u8>,
}

impl Plain {
    fn connect(daemon: &Path, membership: bool) -> Result<Self> {
        let mut stream = UnixStream::connect(daemon)?;
        let mut out = BytesMut::new();
        Hello::new(None, membership, 0).encode(&mut out);
        stream.write_all(&out)?;
        let mut input = BytesMut::new();
        let mut byte = [0];
        while MethodList::decode(&mut input)?.is_none() {
            stream.read_exact(&mut byte)?;
            input.extend_from_slice(&byte);
        }
        out.clear();
        AuthChoice::new([MethodName::NULL]).encode(&mut out);
        stream.write_all(&out)?;
        loop {
            if let Some(accept) = Accept::decode(&mut input, 0)? {
                return Ok(Self { stream, own: accept.private_group, body: Vec::new() });
            }
            stream.read_exact(&mut byte)?;
            input.extend_from_slice(&byte);
        }
    }

    fn send(&mut self, group: &GroupName, data: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        let service = spread::ServiceType::AGREED;
        build::put_multicast(&mut message, service, &self.own, &[*group], 0, data.len(), data.len())?;
        message.extend_from_slice(data);
        Ok(self.stream.write_all(&message)?)
    }

    fn receive(&mut self) -> Result<Header> {
        let mut head = [0; 48];
        self.stream.read_exact(&mut head)?;
        let header = Header::parse(&head)?;
        for len in [header.num_groups as usize * 32, header.data_len as usize] {
            self.body.resize(len, 0);
            self.stream.read_exact(&mut self.body)?;
        }
        Ok(header)
    }
}

fn plain_throughput(daemon: &Path, size: usize, args: &Args) -> Result<Figures> {
    let (count, group) = (args.count, group()?);
    let mut sender = Plain::connect(daemon, false)?;
    let mut receiver = Plain::connect(daemon, true)?;
    receiver.stream.write_all(&build::join(&receiver.own, &group))?;
    receiver.receive()?;
    let window = Window::new(args.window);
    let data = vec![7; size];
    let clock = Clock::start()?;
    let reader = thread::spawn({
        let window = Arc::clone(&window);
        move || {
            window.outcome((0..count).try_for_each(|_| {
                let header = receiver.receive()?;
                ensure!(header.data_len as usize == size);
                window.received();
                Ok(())
            }))
        }
    });
    for sent in 0..count {
        if window.is_closed(sent) {
            window.open_blocking(sent)?;
        }
        sender.send(&group, &data)?;
    }
    reader.join().map_err(|_| anyhow::anyhow!("the reader failed"))??;
    clock.stop()
}

fn plain_latency(daemon: &Path, size: usize, rounds: u64) -> Result<Figures> {
    let mut session = Plain::connect(daemon, false)?;
    let own = session.own;
    let data = vec![7; size];
    let mut micros = Vec::new();
    let clock = Clock::start()?;
    for _ in 0..rounds {
        let start = Instant::now();
        session.send(&own, &data)?;
        session.receive()?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Figures { micros: percentiles(micros), ..clock.stop()? })
}
