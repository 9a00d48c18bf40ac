//! (a) What a log costs a web server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::apache::{Apache, Mpm, free_address};
use tests::bins;
use tests::cluster::Cluster;
use tests::weblog::{self, Place, Writer};

use crate::{Options, cpu_of, cpu_of_all, median};

const CLIENTS: usize = 8;
/// Always the same children, so that no connection ends, and answers of one length (tags of new files are longer).
const CHILDREN: &str = "StartServers 2\nServerLimit 2\nThreadsPerChild 16\nMinSpareThreads 32\nMaxSpareThreads 32\nFileETag None\n";
/// Requests/s of the turns that measure response times: far below what the server can do.
const PACED: f64 = 1_000.0;

const VARIANTS: [(&str, &str, &str); 6] = [
    ("no log", "", ""),
    ("plain file", "CustomLog logs/access.log common", ""),
    ("rotatelogs", "CustomLog \"|ROTATELOGS logs/rotated.log 86400\" common", ""),
    ("spread, plain", "CustomLog $plain common", ""),
    ("spread, framed", "CustomLog $framed common", "SpreadLogWire framed"),
    ("spread, spool", "CustomLog $spooled common", "SpreadLogWire framed\nSpreadLogSpool SPOOL 1G"),
];
const BASE: usize = 1;

struct Turn {
    rate: f64,
    /// CPU of the server for each request, in microseconds.
    cpu_us: f64,
    /// CPU of the daemon and of log_writer for each request, in microseconds.
    bus_us: [f64; 2],
    p50_us: f64,
    p99_us: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut cluster = Cluster::on_loopback(1)?;
    cluster.start_all()?;
    let daemon = cluster.connect_string(0);
    let args = ["-s", &*daemon, "--group", "plain", "--group", "framed", "--group", "spooled"];
    let output = cluster.dir().join("writer.access");
    let mut command = Command::new(bins::bin("log_writer", "log_writer")?);
    command.args(args).arg("--output").arg(&output);
    let mut writer = Writer::of(cluster.dir(), "writer", command, output)?.joined()?;
    let mut servers = Vec::new();
    for (name, log, more) in VARIANTS {
        servers.push(server(&cluster, name, log, more)?);
    }
    println!(
        "\n(a) Apache (event), {CLIENTS} clients, turns of {} s; daemon and log_writer on the same machine",
        options.secs
    );
    let mut turns: Vec<Vec<Turn>> = VARIANTS.iter().map(|_| Vec::new()).collect();
    let mut paced: Vec<Vec<Turn>> = VARIANTS.iter().map(|_| Vec::new()).collect();
    let mut bus = || Ok([cpu_of(cluster.daemon(0)?), cpu_of(writer.process())]);
    for server in &mut servers {
        turn(server, options.secs / 4.0, None, &mut bus)?;
    }
    for _ in 0..options.rounds {
        for at in (0..VARIANTS.len()).chain((0..VARIANTS.len()).rev()) {
            turns[at].push(turn(&mut servers[at], options.secs, None, &mut bus)?);
        }
        for at in 0..VARIANTS.len() {
            paced[at].push(turn(&mut servers[at], options.secs, Some(PACED), &mut bus)?);
        }
    }
    println!(
        "{:<16} {:>10} {:>8} {:>12} {:>8} {:>8} {:>9} {:>9} {:>12} {:>12}",
        "",
        "requests/s",
        "ratio",
        "CPU us/req",
        "daemon",
        "writer",
        "p50 us",
        "p99 us",
        "paced p50",
        "paced p99"
    );
    for (at, (name, ..)) in VARIANTS.iter().enumerate() {
        let of = |get: fn(&Turn) -> f64, list: &[Turn]| median(list.iter().map(get).collect());
        let ratio =
            median(turns[at].iter().zip(&turns[BASE]).map(|(own, base)| own.rate / base.rate).collect());
        println!(
            "{name:<16} {:>10.0} {ratio:>8.3} {:>12.2} {:>8.2} {:>8.2} {:>9.0} {:>9.0} {:>12.0} {:>12.0}",
            of(|t| t.rate, &turns[at]),
            of(|t| t.cpu_us, &turns[at]),
            of(|t| t.bus_us[0], &turns[at]),
            of(|t| t.bus_us[1], &turns[at]),
            of(|t| t.p50_us, &turns[at]),
            of(|t| t.p99_us, &turns[at]),
            of(|t| t.p50_us, &paced[at]),
            of(|t| t.p99_us, &paced[at]),
        );
    }
    for (server, (name, log, _)) in servers.iter_mut().zip(VARIANTS) {
        if log.contains('$') {
            let counters = weblog::counters(Place::Here, server.address())?;
            let lost: u64 = counters
                .iter()
                .filter(|(k, _)| k.starts_with("Dropped") || *k == "InDoubt")
                .map(|(_, v)| v)
                .sum();
            println!(
                "{name}: lines {}, lost {lost}, longest write {} us",
                counters["Lines"], counters["LongestWriteMicroseconds"]
            );
        }
    }
    for server in servers {
        server.stop(Duration::from_secs(30))?;
    }
    writer.stop()?;
    Ok(())
}

fn server(cluster: &Cluster, name: &str, log: &str, more: &str) -> Result<Apache> {
    let name: String = name.chars().filter(char::is_ascii_alphabetic).collect();
    let spool = cluster.dir().join(format!("spool-{name}"));
    let own = format!("{log}\n{more}\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n{CHILDREN}")
        .replace("ROTATELOGS", "/usr/bin/rotatelogs")
        .replace("SPOOL", &spool.to_string_lossy());
    // The module is loaded where it is used only.
    let config = if log.contains('$') {
        let whole = weblog::config(&cluster.connect_string(0), "$unused", &own)?;
        let lines = whole.lines().filter(|l| !l.contains("$unused") && !l.starts_with("LogLevel"));
        lines.flat_map(|l| [l, "\n"]).collect()
    } else {
        own
    };
    weblog::apache(cluster.dir(), Place::Here, weblog::setup(&name, free_address()?, Mpm::Event, config))
}

/// Requests for so long, as fast as they are answered or at a given rate.
///
/// `bus` gives the CPU time of the daemon and of log_writer so far.
fn turn(
    server: &mut Apache,
    secs: f64,
    rate: Option<f64>,
    bus: &mut impl FnMut() -> Result<[Duration; 2]>,
) -> Result<Turn> {
    let pid = server.process().pid().as_raw();
    let address = server.address();
    let (before, bus_before) = (cpu_of_all(pid), bus()?);
    let (begun, stop) = (Instant::now(), AtomicBool::new(false));
    let pace = rate.map(|rate| Duration::from_secs_f64(CLIENTS as f64 / rate));
    let parts = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(address, pace, &stop))).collect();
        thread::sleep(Duration::from_secs_f64(secs));
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|c| c.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })
    .with_context(|| server.error_log())?;
    let (took, cpu, bus) = (begun.elapsed().as_secs_f64(), cpu_of_all(pid) - before, bus()?);
    let mut times: Vec<u32> = parts.concat();
    times.sort_unstable();
    let n = times.len();
    ensure!(n > 100, "only {n} requests");
    let at = |percent: usize| f64::from(times[(n * percent / 100).min(n - 1)]) / 1_000.0;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / n as f64;
    Ok(Turn {
        rate: n as f64 / took,
        cpu_us: each(cpu),
        bus_us: [each(bus[0] - bus_before[0]), each(bus[1] - bus_before[1])],
        p50_us: at(50),
        p99_us: at(99),
    })
}

/// One connection; gives the time of each answer in nanoseconds.
fn client(server: SocketAddr, pace: Option<Duration>, stop: &AtomicBool) -> Result<Vec<u32>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let request = b"GET /index.html?id=1234567 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\n\r\n";
    stream.write_all(request)?;
    let mut buf = vec![0; 4_096];
    // All answers are of the same length: the first one tells it.
    let mut len = 0;
    while !buf[..len].ends_with(b"hello\n") {
        let got = stream.read(&mut buf[len..])?;
        ensure!(got > 0, "no answer: {}", String::from_utf8_lossy(&buf[..len]));
        len += got;
    }
    let mut times = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Some(pace) = pace {
            next += pace;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let begun = Instant::now();
        stream.write_all(request)?;
        stream.read_exact(&mut buf[..len]).context("an answer ended too soon")?;
        ensure!(buf.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buf[..len]));
        times.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(times)
}
