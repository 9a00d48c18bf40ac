//! (c) log_writer against rsyslog.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::apache::free_address;
use tests::process::Process;
use tests::wait;

use crate::path::{await_size, carry, own_cpu};
use crate::{Options, cpu_of, line, median};

const RSYSLOGD: &str = "/usr/sbin/rsyslogd";

struct Turn {
    rate: f64,
    /// CPU seconds of the receiving program for a million lines.
    receiver: f64,
    /// Of the daemon, likewise.
    daemon: f64,
    /// Of what sends, likewise.
    sender: f64,
}

/// Lines of the turns by which the others are sized.
const TRIAL: u64 = 50_000;
/// Part of the time that is planned with: rates differ, and programs are started and ended.
const PLANNED: f64 = 0.7;

/// One of the two, and what came of its turns.
struct Rival {
    name: &'static str,
    turn: fn(&Options, u64, Instant) -> Result<Turn>,
    turns: Vec<Turn>,
    missing: Option<String>,
}

impl Rival {
    fn new(name: &'static str, turn: fn(&Options, u64, Instant) -> Result<Turn>) -> Self {
        Self { name, turn, turns: Vec::new(), missing: None }
    }

    /// A turn, unless an earlier one failed.
    fn run(&mut self, options: &Options, lines: u64, deadline: Instant) -> Option<Turn> {
        if self.missing.is_some() {
            return None;
        }
        let turn = (self.turn)(options, lines, deadline);
        turn.map_err(|error| self.missing = Some(format!("{error:#}"))).ok()
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let limit = Duration::from_secs_f64(options.limit);
    let (begun, deadline) = (Instant::now(), Instant::now() + limit);
    let mut rivals = [Rival::new("log_writer", log_writer), Rival::new("rsyslog", rsyslog)];
    let mut slowest = f64::INFINITY;
    for rival in &mut rivals {
        let trial = rival.run(options, TRIAL.min(options.lines), deadline);
        slowest = slowest.min(trial.map_or(f64::INFINITY, |t| t.rate));
    }
    let turns = options.rounds * 4;
    let left = limit.saturating_sub(begun.elapsed()).as_secs_f64();
    let fit = slowest * left * PLANNED / turns as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of lines")]
    let lines = options.lines.min(fit as u64).max(1);
    println!(
        "\n(c) {turns} turns of {lines} lines of {} bytes, {} senders: log_writer (framed lines, one daemon) and \
         rsyslog (imtcp, omfile)",
        options.bytes, options.sources
    );
    let mut rounds = 0;
    while rounds < options.rounds && Instant::now() < deadline {
        for at in [0, 1, 1, 0] {
            let turn = rivals[at].run(options, lines, deadline);
            rivals[at].turns.extend(turn);
        }
        rounds += 1;
    }
    println!("{:<12} {:>10} {:>22} {:>10} {:>10}", "", "lines/s", "CPU s/million lines", "daemon", "senders");
    for rival in &rivals {
        let name = rival.name;
        if let Some(reason) = &rival.missing {
            println!("{name:<12} no more after {} turns: {reason}", rival.turns.len());
        }
        if rival.turns.is_empty() {
            continue;
        }
        let of = |get: fn(&Turn) -> f64| median(rival.turns.iter().map(get).collect());
        println!(
            "{name:<12} {:>10.0} {:>22.3} {:>10.3} {:>10.3}",
            of(|t| t.rate),
            of(|t| t.receiver),
            of(|t| t.daemon),
            of(|t| t.sender)
        );
    }
    if rounds < options.rounds {
        println!("{rounds} of {} rounds in {limit:.0?} (--limit gives more time)", options.rounds);
    }
    let [ours, theirs] = &rivals;
    if !ours.turns.is_empty() && !theirs.turns.is_empty() {
        let pairs = || ours.turns.iter().zip(&theirs.turns);
        let ratio = |get: fn(&Turn) -> f64| median(pairs().map(|(a, b)| get(a) / get(b)).collect());
        println!(
            "log_writer / rsyslog: lines/s {:.2}, CPU {:.2}, CPU with the daemon {:.2}",
            ratio(|t| t.rate),
            ratio(|t| t.receiver),
            ratio(|t| t.receiver + t.daemon)
        );
    }
    Ok(())
}

fn log_writer(options: &Options, lines: u64, deadline: Instant) -> Result<Turn> {
    let carried = carry(options, lines, deadline)?;
    let million = carried.lines as f64 / 1e6;
    let [sender, daemon, receiver] = carried.cpu.map(|cpu| cpu.as_secs_f64() / million);
    Ok(Turn { rate: carried.lines as f64 / carried.took.as_secs_f64(), receiver, daemon, sender })
}

fn rsyslog(options: &Options, lines: u64, deadline: Instant) -> Result<Turn> {
    let dir = tempfile::tempdir()?;
    let address = free_address()?;
    let output = dir.path().join("rsyslog.access");
    let conf = format!(
        "global(workDirectory=\"{dir}\" maxMessageSize=\"128k\")\n\
         main_queue(queue.size=\"200000\" queue.dequeueBatchSize=\"4096\")\n\
         module(load=\"imtcp\")\n\
         template(name=\"raw\" type=\"string\" string=\"%rawmsg-after-pri%\\n\")\n\
         input(type=\"imtcp\" address=\"{ip}\" port=\"{port}\" supportOctetCountedFraming=\"off\")\n\
         if $inputname == \"imtcp\" then {{\n\
         action(type=\"omfile\" file=\"{file}\" template=\"raw\" ioBufferSize=\"256k\")\n}}\n",
        dir = dir.path().display(),
        ip = address.ip(),
        port = address.port(),
        file = output.display()
    );
    let conf_path = dir.path().join("rsyslog.conf");
    fs::write(&conf_path, conf)?;
    ensure!(Path::new(RSYSLOGD).exists(), "no {RSYSLOGD} (Debian: rsyslog)");
    let mut command = std::process::Command::new(RSYSLOGD);
    command.arg("-n").arg("-f").arg(&conf_path).arg("-i").arg(dir.path().join("pid"));
    let mut process = Process::start("rsyslogd", dir.path(), command)?;
    wait::until("rsyslogd to listen", Duration::from_secs(20), || TcpStream::connect(address))
        .with_context(|| process.printed())?;
    let (before, own, begun) = (cpu_of(&process), own_cpu(), Instant::now());
    let share = lines / options.sources as u64;
    let parts: Vec<Result<u64>> = thread::scope(|scope| {
        let senders: Vec<_> =
            (0..options.sources).map(|_| scope.spawn(|| sender(address, options, share, deadline))).collect();
        senders.into_iter().map(|s| s.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked"))).collect()
    });
    let bytes = parts.into_iter().sum::<Result<u64>>()?;
    await_size(&output, bytes, deadline)?;
    let (took, cpu, own) = (begun.elapsed(), cpu_of(&process) - before, own_cpu() - own);
    ensure!(
        fs::metadata(&output)?.len() == bytes,
        "rsyslog wrote {} bytes, not {bytes}",
        fs::metadata(&output)?.len()
    );
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    process.wait_end(Duration::from_secs(20))?;
    let (lines, million) =
        ((share * options.sources as u64) as f64, (share * options.sources as u64) as f64 / 1e6);
    Ok(Turn {
        rate: lines / took.as_secs_f64(),
        receiver: cpu.as_secs_f64() / million,
        daemon: 0.0,
        sender: own.as_secs_f64() / million,
    })
}

/// Lines over TCP, as a syslog client of a web server sends them. Gives the bytes that are to be in the file.
fn sender(to: SocketAddr, options: &Options, lines: u64, deadline: Instant) -> Result<u64> {
    let stream = TcpStream::connect(to)?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = std::io::BufWriter::with_capacity(16_384, stream);
    let mut bytes = 0;
    for number in 0..lines {
        ensure!(
            number % 1_024 != 0 || Instant::now() < deadline,
            "{number} of {lines} lines were taken in time (--limit gives more)"
        );
        let line = line(number, options.bytes);
        bytes += line.len() as u64;
        stream.write_all(b"<134>")?;
        stream.write_all(&line)?;
    }
    stream.flush()?;
    Ok(bytes)
}
