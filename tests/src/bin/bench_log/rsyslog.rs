//! (c) log_writer against rsyslog.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::apache::free_address;
use tests::process::Process;
use tests::wait;

use crate::path::{await_size, carry, own_cpu};
use crate::{Options, cpu_of, line, median};

struct Turn {
    rate: f64,
    /// CPU seconds of the receiving program for a million lines.
    receiver: f64,
    /// Of the daemon, likewise.
    daemon: f64,
    /// Of what sends, likewise.
    sender: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    println!(
        "\n(c) {} lines of {} bytes, {} senders: log_writer (framed lines, one daemon) and rsyslog (imtcp, omfile)",
        options.lines, options.bytes, options.sources
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ours.push(log_writer(options)?);
        theirs.push(rsyslog(options)?);
        theirs.push(rsyslog(options)?);
        ours.push(log_writer(options)?);
    }
    println!("{:<12} {:>10} {:>22} {:>10} {:>10}", "", "lines/s", "CPU s/million lines", "daemon", "senders");
    for (name, turns) in [("log_writer", &ours), ("rsyslog", &theirs)] {
        let of = |get: fn(&Turn) -> f64| median(turns.iter().map(get).collect());
        println!(
            "{name:<12} {:>10.0} {:>22.3} {:>10.3} {:>10.3}",
            of(|t| t.rate),
            of(|t| t.receiver),
            of(|t| t.daemon),
            of(|t| t.sender)
        );
    }
    let ratio =
        |get: fn(&Turn) -> f64| median(ours.iter().zip(&theirs).map(|(a, b)| get(a) / get(b)).collect());
    println!(
        "log_writer / rsyslog: lines/s {:.2}, CPU {:.2}, CPU with the daemon {:.2}",
        ratio(|t| t.rate),
        ratio(|t| t.receiver),
        ratio(|t| t.receiver + t.daemon)
    );
    Ok(())
}

fn log_writer(options: &Options) -> Result<Turn> {
    let carried = carry(options, options.lines)?;
    let million = carried.lines as f64 / 1e6;
    let [sender, daemon, receiver] = carried.cpu.map(|cpu| cpu.as_secs_f64() / million);
    Ok(Turn { rate: carried.lines as f64 / carried.took.as_secs_f64(), receiver, daemon, sender })
}

fn rsyslog(options: &Options) -> Result<Turn> {
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
    let mut command = std::process::Command::new("/usr/sbin/rsyslogd");
    command.arg("-n").arg("-f").arg(&conf_path).arg("-i").arg(dir.path().join("pid"));
    let mut process = Process::start("rsyslogd", dir.path(), command)?;
    wait::until("rsyslogd to listen", Duration::from_secs(20), || TcpStream::connect(address))
        .with_context(|| process.printed())?;
    let (before, own, begun) = (cpu_of(&process), own_cpu(), Instant::now());
    let share = options.lines / options.sources as u64;
    let parts: Vec<Result<u64>> = thread::scope(|scope| {
        let senders: Vec<_> =
            (0..options.sources).map(|_| scope.spawn(|| sender(address, options, share))).collect();
        senders.into_iter().map(|s| s.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked"))).collect()
    });
    let bytes = parts.into_iter().sum::<Result<u64>>()?;
    await_size(&output, bytes, begun)?;
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
fn sender(to: SocketAddr, options: &Options, lines: u64) -> Result<u64> {
    let mut stream = std::io::BufWriter::with_capacity(16_384, TcpStream::connect(to)?);
    let mut bytes = 0;
    for number in 0..lines {
        let line = line(number, options.bytes);
        bytes += line.len() as u64;
        stream.write_all(b"<134>")?;
        stream.write_all(&line)?;
    }
    stream.flush()?;
    Ok(bytes)
}
