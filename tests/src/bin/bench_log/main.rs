//! `cargo xtask bench log`: what the unified log costs, and how much it carries.
//!
//! (a) requests/s and response times of Apache with mod_log_spread, against the same server with a plain `CustomLog`
//!     file and with piped `rotatelogs`;
//! (b) lines/s from the module's side (`log_stream`) through one daemon to the file of a log_writer;
//! (c) log_writer against rsyslog (imtcp, omfile) with the same lines: lines/s and CPU.
//!
//! Rivals take turns in the same run, forth and back (A B C C B A), so that the mood of the machine is the same for all.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::time::Duration;

use clap::Parser;
use tests::process::Process;

mod httpd;
mod path;
mod rsyslog;

/// Measures the unified log.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  bench_log --parts b --lines 20000000\n  bench_log --parts a --rounds 8 --secs 5"
)]
struct Options {
    /// Only these parts.
    #[arg(long, default_value = "abc")]
    parts: String,
    /// Rounds of (a) and (c), each forth and back.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Seconds of each turn in (a).
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Lines in (b), and of each turn in (c) if the time allows.
    #[arg(long, default_value_t = 4_000_000)]
    lines: u64,
    /// Longest time of (b) and of (c), in seconds; turns of (c) get as many lines as fit.
    #[arg(long, default_value_t = 120.0)]
    limit: f64,
    /// Bytes of a line in (b) and (c).
    #[arg(long, default_value_t = 110)]
    bytes: usize,
    /// Sources (children of a web server) in (b).
    #[arg(long, default_value_t = 2)]
    sources: usize,
    /// Form of the lines in (b): framed or plain.
    #[arg(long, default_value = "framed")]
    wire: String,
    /// When log_writer forces its file to disk and acknowledges.
    #[arg(long, default_value = "1s")]
    fsync: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!("unified log: {} CPUs", std::thread::available_parallelism()?);
    if options.parts.contains('a') {
        httpd::run(&options)?;
    }
    if options.parts.contains('b') {
        path::run(&options)?;
    }
    if options.parts.contains('c') {
        rsyslog::run(&options)?;
    }
    Ok(())
}

/// CPU time that a process used so far, without its children.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may have blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// CPU time of a process.
fn cpu_of(process: &Process) -> Duration {
    cpu(process.pid().as_raw())
}

/// CPU time of a server with its children.
fn cpu_of_all(pid: i32) -> Duration {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    cpu(pid) + children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(cpu).sum::<Duration>()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => values[n / 2],
        _ => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// A line of an access log, with its line feed; `bytes` long if possible.
fn line(number: u64, bytes: usize) -> Vec<u8> {
    let mut line = format!(
        "10.1.{}.{} - - [23/Nov/2026:05:52:44 +0000] \"GET /shop/item?id={number} HTTP/1.1\" 200 {}",
        number >> 8 & 255,
        number & 255,
        number % 9_000 + 512
    )
    .into_bytes();
    line.resize(line.len().max(bytes.saturating_sub(1)), b'x');
    line.push(b'\n');
    line
}
