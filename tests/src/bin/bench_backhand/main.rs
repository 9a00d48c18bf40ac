//! `cargo xtask bench backhand`: what mod_backhand costs, and how well it chooses.
//!
//! (a) requests/s with the module and a chain that serves here, against without the module;
//! (b) requests/s through it, against plain `ProxyPass` with connections that stay open;
//! (c) the chains themselves: a burst of 1,000 requests between two announcements, and response times of simulated
//!     queues beside the expectations of `load-balancing-evaluation.md`;
//! (d) response times of real servers under the workloads W2 to W7 of that document, beside the methods of
//!     mod_proxy_balancer.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod back_end;
mod live;
mod queues;
mod throughput;
mod traffic;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use socket2::{Domain, Socket, Type};

/// Measures mod_backhand. All of it takes about seven minutes in a release build.
#[derive(Debug, Parser)]
struct Options {
    /// Short: a minute, for a look and not for figures.
    #[arg(long)]
    quick: bool,
    /// Seconds of each turn of (a) and (b).
    #[arg(long, default_value_t = 0.04)]
    turn_secs: f64,
    /// Pairs of turns of (a) and (b).
    #[arg(long, default_value_t = 960)]
    pairs: usize,
    /// Times the servers of (a) and (b) are started, for a part of the pairs each.
    #[arg(long, default_value_t = 16)]
    starts: usize,
    /// Arrivals of each simulated queue in (c).
    #[arg(long, default_value_t = 500_000)]
    arrivals: u64,
    /// Seconds of each run in (d).
    #[arg(long, default_value_t = 10.0)]
    live_secs: f64,
    /// Runs of each workload in (d), with other requests each time.
    #[arg(long, default_value_t = 2)]
    live_rounds: usize,
    /// Servers at which requests arrive in (d).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    fronts: u8,
    /// Milliseconds between announcements in (d).
    #[arg(long, default_value_t = 200)]
    interval_ms: u64,
    /// Only these workloads of (d), e.g. `W2,W6`.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Only these parts.
    #[arg(long, default_value = "abcd")]
    parts: String,
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if options.quick {
        options.pairs = options.pairs.min(100);
        options.starts = 2;
        options.arrivals = options.arrivals.min(100_000);
        options.live_secs = options.live_secs.min(4.0);
        options.live_rounds = 1;
    }
    println!("mod_backhand: {} CPUs", thread::available_parallelism()?);
    let wanted = |part| options.parts.contains(part);
    if wanted('a') {
        throughput::local_overhead(&options)?;
    }
    if wanted('b') {
        throughput::proxied(&options)?;
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

/// A client with one connection.
struct Client {
    from: Option<Ipv4Addr>,
    addr: SocketAddr,
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Client {
    fn new(addr: SocketAddr) -> Result<Self> {
        Self::from(None, addr)
    }

    /// One that comes from this address.
    fn from(from: Option<Ipv4Addr>, addr: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddrV4::new(from, 0).into())?;
        }
        socket.connect(&addr.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { from, addr, stream: BufReader::new(stream), line: String::new(), body: Vec::new() })
    }

    fn get(&mut self, target: &str) -> Result<()> {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\n\r\n"))
    }

    /// One request, which must be answered with 200; a connection that the server closes behind it is made anew.
    fn ask(&mut self, request: &str) -> Result<()> {
        let (mut length, mut status, mut close) = (0, String::new(), false);
        self.stream.get_mut().write_all(request.as_bytes())?;
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
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        if close {
            *self = Self::from(self.from, self.addr)?;
        }
        Ok(())
    }
}

/// Median, least and most.
fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
