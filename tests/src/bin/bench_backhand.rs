//! `cargo xtask bench backhand`: what mod_backhand costs, and how well it chooses.
//!
//! (a) requests/s with the module and a chain that serves here, against without the module;
//! (b) requests/s through it, against plain `ProxyPass` with connections that stay open;
//! (c) the chains themselves: a burst of 1,000 requests between two announcements, and response times of simulated
//!     queues beside the expectations of `load-balancing-evaluation.md`;
//! (d) response times on unequal servers with mixed requests, beside the methods of mod_proxy_balancer.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backhand::chain::NoExternal;
use backhand::stat::{Flags, Live};
use backhand::{Chain, Function, Micros, Random, RequestView, Server, ServerStat, Snapshot};
use clap::Parser;
use tests::apache::{Apache, Mpm, Setup, free_address};
use tests::backhand::{Pretender, Webs, load_modules};

/// Measures mod_backhand.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each round of (a) and (b).
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Rounds of (a) and (b); the median of the ratios is shown.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Arrivals of each simulated queue in (c).
    #[arg(long, default_value_t = 1_000_000)]
    arrivals: u64,
    /// Seconds for each policy in (d).
    #[arg(long, default_value_t = 20.0)]
    live_secs: f64,
    /// Only these parts.
    #[arg(long, default_value = "abcd")]
    parts: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!("mod_backhand: {} CPUs", thread::available_parallelism()?);
    let wanted = |part| options.parts.contains(part);
    if wanted('a') {
        local_overhead(&options)?;
    }
    if wanted('b') {
        proxied(&options)?;
    }
    if wanted('c') {
        burst();
        decision_cost();
        queues(options.arrivals);
    }
    if wanted('d') {
        live(&options)?;
    }
    Ok(())
}

// ---- (a) and (b): throughput ----

const CLIENTS: usize = 8;

/// Requests per second of clients that keep their connection.
fn throughput(to: SocketAddr, target: &str, secs: f64) -> Result<f64> {
    let (stop, begun) = (AtomicBool::new(false), Instant::now());
    let total = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let mut client = Client::new(to)?;
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        client.get(target)?;
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        thread::sleep(Duration::from_secs_f64(secs));
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|c| c.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .sum::<Result<u64>>()
    })?;
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

struct Client {
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
    line: String,
}

impl Client {
    fn new(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { addr, stream: BufReader::new(stream), line: String::new() })
    }

    /// One request; a connection that the server had closed is made anew.
    fn get(&mut self, target: &str) -> Result<()> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        let (mut length, mut status, mut close) = (0, String::new(), false);
        self.stream.get_mut().write_all(head.as_bytes())?;
        loop {
            self.line.clear();
            ensure!(self.stream.read_line(&mut self.line)? > 0, "the server closed the connection");
            let line = self.line.trim().to_ascii_lowercase();
            if status.is_empty() {
                status.clone_from(&line);
            }
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("connection", value)) => close = value == "close",
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        ensure!(status.contains(" 200 "), "{status}");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if close {
            *self = Self::new(self.addr)?;
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// Alternates between two servers and prints the ratio.
fn compare(
    what: &str,
    ours: (SocketAddr, &str),
    theirs: (SocketAddr, &str),
    options: &Options,
) -> Result<()> {
    for (addr, target) in [ours, theirs] {
        throughput(addr, target, 1.0)?;
    }
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        // The order changes, so that neither is always the first one.
        let (a, b) = if round.is_multiple_of(2) {
            let a = throughput(ours.0, ours.1, options.secs)?;
            (a, throughput(theirs.0, theirs.1, options.secs)?)
        } else {
            let b = throughput(theirs.0, theirs.1, options.secs)?;
            (throughput(ours.0, ours.1, options.secs)?, b)
        };
        ratios.push(a / b);
        rates.push((a, b));
    }
    let (ratio, least, most) = median(ratios);
    let (ours, _, _) = median(rates.iter().map(|r| r.0).collect());
    let (theirs, _, _) = median(rates.iter().map(|r| r.1).collect());
    println!("{what}: {ours:.0} against {theirs:.0} requests/s, ratio {ratio:.3} ({least:.3} to {most:.3})");
    Ok(())
}

/// As in the configuration that Apache ships: without `AllowOverride None` a request that is mapped to a file looks for
/// `.htaccess` in each folder above it, one that `ProxyPass` takes does not.
const MORE: &str = "MaxKeepAliveRequests 0\nServerLimit 2\nStartServers 2\nThreadsPerChild 25\nMaxRequestWorkers 50\n\
                    <Directory />\nAllowOverride None\n</Directory>\n";

fn local_overhead(options: &Options) -> Result<()> {
    let chain = "<Location /who>\nBackhand byAge\nBackhand byRandom\nBackhand byLogWindow\nBackhand byLoad\n</Location>\n";
    let webs = Webs::start(1, Mpm::Event, |_, _| format!("{MORE}{chain}"))?;
    webs.wait_all_up()?;
    let dir = tempfile::tempdir()?;
    // The same modules but ours.
    let modules: String =
        load_modules()?.lines().filter(|l| !l.contains("backhand")).map(|l| format!("{l}\n")).collect();
    let config = format!("{modules}TypesConfig /dev/null\nKeepAliveTimeout 5\n{MORE}");
    let plain = Setup { name: "plain".into(), listen: free_address()?, mpm: Mpm::Event, config };
    let plain = Apache::start_here(dir.path(), plain)?;
    std::fs::write(plain.root().join("htdocs/who"), "www-1\n")?;
    let ours = (webs.web(1).address(), "/who");
    compare("(a) chain that serves here, against no module", ours, (plain.address(), "/who"), options)
}

fn proxied(options: &Options) -> Result<()> {
    let webs = Webs::start(2, Mpm::Event, |n, _| {
        if n == 1 {
            format!("{MORE}<Location /who>\nBackhand byAge\nBackhand removeSelf\n</Location>\n")
        } else {
            MORE.to_owned()
        }
    })?;
    webs.wait_all_up()?;
    let dir = tempfile::tempdir()?;
    let modules = load_modules()?;
    let modules: String =
        modules.lines().filter(|l| !l.contains("backhand")).map(|l| format!("{l}\n")).collect();
    let pass = format!("ProxyPass /who http://{}/who\nProxyPreserveHost On\n", webs.web(2).address());
    let config = format!("{modules}TypesConfig /dev/null\nKeepAliveTimeout 5\n{MORE}{pass}");
    let plain = Setup { name: "plain".into(), listen: free_address()?, mpm: Mpm::Event, config };
    let plain = Apache::start_here(dir.path(), plain)?;
    let ours = (webs.web(1).address(), "/who");
    compare("(b) proxied, against ProxyPass", ours, (plain.address(), "/who"), options)
}

// ---- (c): the chains themselves ----

fn chain(lines: &str) -> Result<Chain> {
    let mut chain = Chain::default();
    for line in lines.split(", ") {
        let (name, arg) = line.split_once(' ').map_or((line, None), |(name, arg)| (name, Some(arg)));
        let function = Function::parse(name, arg).map_err(anyhow::Error::msg)?;
        chain.push(line.to_owned(), function).map_err(anyhow::Error::msg)?;
    }
    Ok(chain)
}

fn server(load: u32) -> Option<Server> {
    let stat = ServerStat {
        mtime: Micros(1),
        arriba: 100,
        load,
        load_hwm: 8,
        nservers: 100_000,
        aservers: 100_000 - load / 1000,
        tmem: 8 << 30,
        amem: 4 << 30,
        ..ServerStat::default()
    };
    Some(Server { stat, interval_ms: 1000, flags: Flags::default(), live: Live::default() })
}

const PAPER: &str = "byAge, byRandom, byLogWindow, byLoad";

/// The case of the paper: 1,000 requests between two announcements of ten servers.
fn burst() {
    println!("(c) 1,000 requests between two announcements, 10 servers with loads 1.0, 1.1 .. 1.9");
    println!("    {:<58} {:>9} {:>12}", "chain", "max share", "servers used");
    for lines in [
        "byAge, byLoad",
        PAPER,
        "byAge, byRandom, byLogWindow, byLoad, addPrediction",
        "byAge, byCost",
        "byAge, byCost, addPrediction",
        "byAge, byRandom, byLogWindow, byCost, addPrediction",
        "byAge, byRandom",
    ] {
        let Ok(chain) = chain(lines) else { continue };
        let slots = (0..10).map(|n| server(1000 + n * 100)).collect();
        let mut snapshot = Snapshot { now: Micros(2), slots };
        let mut random = Random::new(1);
        let mut chosen = BTreeMap::<u16, u32>::new();
        for _ in 0..1000 {
            let decision =
                chain.decide(&snapshot, &RequestView::default(), &mut random, &mut NoExternal, false);
            let Some(first) = decision.set.first() else { continue };
            *chosen.entry(*first).or_default() += 1;
            if let Some(Some(server)) = snapshot.slots.get_mut(usize::from(*first)) {
                server.live.predicted_load += decision.charge.unwrap_or(0);
            }
        }
        let most = chosen.values().max().copied().unwrap_or(0);
        println!("    {lines:<58} {:>9.3} {:>12}", f64::from(most) / 1000.0, chosen.len());
    }
}

/// What one decision costs, without the reading of the table.
fn decision_cost() {
    for servers in [10u32, 100, 1000] {
        let Ok(chain) = chain(PAPER) else { continue };
        let snapshot = Snapshot { now: Micros(2), slots: (0..servers).map(|n| server(1000 + n)).collect() };
        let (mut random, runs) = (Random::new(1), 2_000_000 / servers);
        let begun = Instant::now();
        for _ in 0..runs {
            let decision =
                chain.decide(&snapshot, &RequestView::default(), &mut random, &mut NoExternal, false);
            std::hint::black_box(decision);
        }
        let nanos = begun.elapsed().as_nanos() / u128::from(runs);
        println!("    one decision of the paper's chain, {servers} servers: {nanos} ns");
    }
}

/// Queues as in section 3 of the evaluation: 10 servers, one front, exponential service of mean 1, load 0.9, announced
/// every 33 units.
fn queues(arrivals: u64) {
    println!(
        "    simulated queues: 10 servers, 1 front, rho 0.9, announced every 33 service times, {arrivals} arrivals"
    );
    println!("    {:<52} {:>7} {:>7} {:>9}   expected mean / p99", "chain", "mean", "p99", "max share");
    for (lines, expected) in [
        ("byRandom", "10.0 / 45"),
        ("byRandom, byLoad", "62 / 232 (least)"),
        ("byRandom, byLogWindow, byLoad", "16.6 / 58 (win)"),
        ("byRandom, byLogWindow, byLoad, addPrediction", "8.0 / 25 (win+p)"),
        ("byRandom, byLoad, addPrediction", "9.9 / 28 (least+p)"),
        ("byRandom, byLogWindow, byLoad, addPrediction inflight", "2.5 / 9.2 (win+i)"),
        ("byRandom, byLogWindow 2, byLoad", "10.5 / 36 (p2)"),
        ("byRandom, byInFlight", "1.9 / 8.0 (lc)"),
        ("byRandom, byCost, addPrediction", "-"),
    ] {
        match chain(lines) {
            Ok(chain) => {
                let (mean, p99, share) = simulate(&chain, arrivals);
                println!("    {lines:<52} {mean:>7.1} {p99:>7.1} {share:>9.2}   {expected}");
            }
            Err(error) => println!("    {lines}: {error}"),
        }
    }
}

const SERVERS: usize = 10;
const INTERVAL: f64 = 33.0;

fn exponential(random: &mut Random, mean: f64) -> f64 {
    let unit = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    -mean * (1.0 - unit).ln()
}

/// End of a job, ordered by time.
#[derive(PartialEq)]
struct End(f64, usize);

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// Mean and 99th percentile of the response time, and the largest share of a server in an interval.
fn simulate(chain: &Chain, arrivals: u64) -> (f64, f64, f64) {
    let (mut arrive, mut serve, mut decide) = (Random::new(11), Random::new(12), Random::new(13));
    let mut snapshot = Snapshot { now: Micros(2), slots: (0..SERVERS).map(|_| server(0)).collect() };
    let mut free_at = [0.0f64; SERVERS];
    let mut queue = [0u32; SERVERS];
    let mut ends = BinaryHeap::new();
    let mut phase = Random::new(14);
    let mut next_announcement: Vec<f64> =
        (0..SERVERS).map(|_| INTERVAL * phase.below(1000) as f64 / 1000.0).collect();
    let (mut now, mut times) = (0.0, Vec::new());
    let (mut window, mut window_end, mut shares) = ([0u32; SERVERS], INTERVAL, Vec::new());
    for number in 0..arrivals {
        now += exponential(&mut arrive, 1.0 / (0.9 * SERVERS as f64));
        loop {
            let announcer = (0..SERVERS)
                .min_by(|a, b| next_announcement[*a].total_cmp(&next_announcement[*b]))
                .unwrap_or(0);
            let end = ends.peek().map_or(f64::INFINITY, |end: &End| end.0);
            if end <= now && end <= next_announcement[announcer] {
                let Some(End(_, at)) = ends.pop() else { break };
                queue[at] -= 1;
                with(&mut snapshot, at, |s| s.live.in_flight -= 1);
            } else if next_announcement[announcer] <= now {
                next_announcement[announcer] += INTERVAL;
                let load = queue[announcer] * 1000;
                with(&mut snapshot, announcer, |s| {
                    s.stat.load = load;
                    s.live.predicted_load = 0;
                    s.live.in_flight_announced = s.live.in_flight;
                });
            } else {
                break;
            }
        }
        let decision = chain.decide(&snapshot, &RequestView::default(), &mut decide, &mut NoExternal, false);
        let at = usize::from(decision.set.first().copied().unwrap_or(0));
        let charge = decision.charge.unwrap_or(0);
        with(&mut snapshot, at, |s| {
            s.live.predicted_load += charge;
            s.live.in_flight += 1;
        });
        let end = free_at[at].max(now) + exponential(&mut serve, 1.0);
        free_at[at] = end;
        queue[at] += 1;
        ends.push(End(end, at));
        if now >= window_end {
            let all: u32 = window.iter().sum();
            shares.push(f64::from(window.iter().max().copied().unwrap_or(0)) / f64::from(all.max(1)));
            (window, window_end) = ([0; SERVERS], now + INTERVAL);
        }
        window[at] += 1;
        if number >= arrivals / 10 {
            times.push(end - now);
        }
    }
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0.0);
    (mean, p99, shares.iter().sum::<f64>() / shares.len().max(1) as f64)
}

fn with(snapshot: &mut Snapshot, at: usize, change: impl FnOnce(&mut Server)) {
    if let Some(Some(server)) = snapshot.slots.get_mut(at) {
        change(server);
    }
}

// ---- (d): live ----

/// Back ends with one worker each; every other one is four times slower.
const BACK_ENDS: u8 = 6;
const SLOWER: f64 = 4.0;
const MEAN: Duration = Duration::from_millis(30);
const RHO: f64 = 0.7;

/// A back end whose capacity is its one worker, not the CPU.
struct BackEnd {
    addr: SocketAddr,
    factor: f64,
    /// Requests here, waiting ones included.
    present: AtomicU32,
    busy: Mutex<bool>,
    free: Condvar,
}

impl BackEnd {
    fn start(number: u8) -> Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 20 + number), 0))?;
        let factor = if number.is_multiple_of(2) { 1.0 } else { SLOWER };
        let (addr, present) = (listener.local_addr()?, AtomicU32::new(0));
        let this = Arc::new(Self { addr, factor, present, busy: Mutex::new(false), free: Condvar::new() });
        let back_end = Arc::clone(&this);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let back_end = Arc::clone(&back_end);
                // Ends with its connection.
                thread::spawn(move || back_end.serve(BufReader::new(stream)));
            }
        });
        Ok(this)
    }

    fn serve(&self, mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
        loop {
            let mut first = String::new();
            if stream.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line)? == 0 {
                    return Ok(());
                }
            }
            self.present.fetch_add(1, Ordering::Relaxed);
            let micros = first.split(['?', ' ']).nth(2).and_then(|m| m.parse().ok()).unwrap_or(0.0);
            {
                let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
                while *busy {
                    busy = self.free.wait(busy).unwrap_or_else(PoisonError::into_inner);
                }
                *busy = true;
            }
            thread::sleep(Duration::from_secs_f64(micros * self.factor / 1e6));
            *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = false;
            self.free.notify_one();
            self.present.fetch_sub(1, Ordering::Relaxed);
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
        }
    }
}

/// Arrival and service time of each request: mostly cheap ones, some heavy; the same for all policies.
fn schedule(secs: f64) -> VecDeque<(Duration, Duration)> {
    let mut random = Random::new(21);
    let speed: f64 = (0..BACK_ENDS).map(|n| if n.is_multiple_of(2) { 1.0 } else { 1.0 / SLOWER }).sum();
    let gap = MEAN.as_secs_f64() / (RHO * speed);
    let (mut at, mut jobs) = (0.0, VecDeque::new());
    while at < secs {
        at += exponential(&mut random, gap);
        // One in ten takes ten times as long; the mean is MEAN.
        let heavy = random.below(10) == 0;
        let mean = MEAN.as_secs_f64() / 1.9 * if heavy { 10.0 } else { 1.0 };
        jobs.push_back((
            Duration::from_secs_f64(at),
            Duration::from_secs_f64(exponential(&mut random, mean)),
        ));
    }
    jobs
}

/// Response times from the intended time of sending, in milliseconds, and the number of failures.
fn drive(front: SocketAddr, secs: f64) -> Result<(Vec<f64>, usize)> {
    let jobs: Vec<_> = schedule(secs).into();
    let (next, failed, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let times = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                let mut client = None;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((at, service)) = jobs.get(number) else { return };
                    thread::sleep(at.saturating_sub(begun.elapsed()));
                    let target = format!("/work?{}", service.as_micros());
                    let result =
                        client.take().map_or_else(|| Client::new(front), Ok).and_then(|mut c: Client| {
                            c.get(&target)?;
                            Ok(c)
                        });
                    match result {
                        Ok(used) => {
                            client = Some(used);
                            let time = (begun.elapsed() - *at).as_secs_f64() * 1000.0;
                            // The first tenth warms up.
                            if number >= jobs.len() / 10 {
                                times.lock().unwrap_or_else(PoisonError::into_inner).push(time);
                            }
                        }
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    times.sort_by(f64::total_cmp);
    ensure!(!times.is_empty(), "no request was answered");
    Ok((times, failed.into_inner()))
}

const LIVE_MORE: &str = "MaxKeepAliveRequests 0\nKeepAliveTimeout 60\nServerLimit 2\nStartServers 2\nThreadsPerChild 128\n\
                         MaxRequestWorkers 256\n";

fn live(options: &Options) -> Result<()> {
    println!(
        "(d) one front, {BACK_ENDS} back ends of one worker, half of them {SLOWER} times slower, 10 % heavy requests, rho {RHO},"
    );
    println!(
        "    statistics every 200 ms (6.7 mean service times); milliseconds from the intended time of sending"
    );
    println!("    {:<62} {:>6} {:>6} {:>6} {:>7} {:>6}", "policy", "p50", "p90", "p99", "mean", "failed");
    let back_ends: Vec<_> = (0..BACK_ENDS).map(BackEnd::start).collect::<Result<_>>()?;
    let show = |policy: &str, front: SocketAddr| -> Result<()> {
        let (times, failed) = drive(front, options.live_secs)?;
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        println!(
            "    {policy:<62} {:>6.0} {:>6.0} {:>6.0} {mean:>7.0} {failed:>6}",
            at(0.5),
            at(0.9),
            at(0.99)
        );
        Ok(())
    };
    for method in ["byrequests", "bybusyness"] {
        let dir = tempfile::tempdir()?;
        let front = balancer(dir.path(), method, &back_ends)?;
        show(&format!("mod_proxy_balancer {method}"), front.address())?;
    }
    for lines in [
        "byAge, removeSelf, byRandom",
        "byAge, removeSelf, byLoad",
        "byAge, removeSelf, byRandom, byLogWindow, byLoad",
        "byAge, removeSelf, byRandom, byLogWindow, byLoad, addPrediction",
        "byAge, removeSelf, byRandom, byCost, addPrediction",
        "byAge, removeSelf, byRandom, byInFlight",
        "byAge, removeSelf, byRandom, byCost, addPrediction inflight",
    ] {
        let calls: String = lines.split(", ").map(|call| format!("Backhand {call}\n")).collect();
        let webs =
            Webs::start(1, Mpm::Event, |_, _| format!("{LIVE_MORE}<Location /work>\n{calls}</Location>\n"))?;
        let announcers = Announcers::start(&webs, &back_ends)?;
        webs.wait_up(1, &["b-0", "b-1", "b-2", "b-3", "b-4", "b-5", "www-1.test"])?;
        show(lines, webs.web(1).address())?;
        drop(announcers);
    }
    Ok(())
}

fn balancer(dir: &std::path::Path, method: &str, back_ends: &[Arc<BackEnd>]) -> Result<Apache> {
    let modules: String =
        load_modules()?.lines().filter(|l| !l.contains("backhand")).map(|l| format!("{l}\n")).collect();
    let more: String = ["slotmem_shm".to_owned(), "proxy_balancer".to_owned(), format!("lbmethod_{method}")]
        .iter()
        .map(|m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n"))
        .collect();
    let members: String = back_ends.iter().map(|b| format!("BalancerMember http://{}\n", b.addr)).collect();
    let config = format!(
        "{modules}{more}TypesConfig /dev/null\n{LIVE_MORE}<Proxy balancer://b>\n{members}ProxySet lbmethod={method}\n</Proxy>\n\
         ProxyPass /work balancer://b/work\n"
    );
    let setup = Setup { name: "balancer".into(), listen: free_address()?, mpm: Mpm::Event, config };
    Apache::start_here(dir, setup).context("the balancer does not start")
}

/// Announces the back ends, each by its number of requests.
struct Announcers {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Announcers {
    fn start(webs: &Webs, back_ends: &[Arc<BackEnd>]) -> Result<Self> {
        let mut pretenders = Vec::new();
        for (n, back_end) in (0..).zip(back_ends) {
            let addr = Ipv4Addr::new(127, 0, 0, 20 + n);
            let mut pretender = Pretender::new(webs, addr, back_end.addr.port(), &format!("b-{n}"))?;
            // What the speed of a machine says.
            pretender.stat.arriba = (100.0 / back_end.factor) as u32;
            pretender.stat.tmem = 8 << 30;
            pretender.stat.amem = 8 << 30;
            pretenders.push((pretender, Arc::clone(back_end)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for (pretender, back_end) in &mut pretenders {
                    let present = back_end.present.load(Ordering::Relaxed);
                    pretender.stat.load = present * 1000;
                    pretender.stat.load_hwm = backhand::stat::high_water(present * 1000);
                    pretender.stat.nservers = 1000;
                    pretender.stat.aservers = 1000 - present.min(1000);
                    // The next one follows at once if this is lost.
                    let _ = pretender.announce(None);
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Announcers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}
