//! `cargo xtask bench backhand`: what mod_backhand costs, and how well it chooses.
//!
//! (a) requests/s with the module and a chain that serves here, against without the module;
//! (b) requests/s through it, against plain `ProxyPass` with connections that stay open;
//! (c) the chains themselves: a burst of 1,000 requests between two announcements, and response times of simulated
//!     queues beside the expectations of `load-balancing-evaluation.md`;
//! (d) response times on unequal servers with mixed requests, beside the methods of mod_proxy_balancer: one front, three
//!     fronts, and three fronts with a load on two servers that no front knows of.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod live;
mod queues;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use tests::apache::{Apache, Mpm, Setup, free_address};
use tests::backhand::{Webs, load_modules};

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
    /// Seconds of each run in (d).
    #[arg(long, default_value_t = 15.0)]
    live_secs: f64,
    /// Runs of each policy in each case of (d); the medians are shown.
    #[arg(long, default_value_t = 1)]
    live_rounds: usize,
    /// Milliseconds between announcements in (d).
    #[arg(long, default_value_t = 200)]
    interval_ms: u64,
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
        queues::burst();
        queues::decision_cost();
        queues::queues(options.arrivals);
    }
    if wanted('d') {
        live::run(&options)?;
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
