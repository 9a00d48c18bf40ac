//! `cargo xtask bench monitor`: lines per second of one core, parsed and with all figures, against GoAccess
//! and a bare count in mawk on the same file in the same run.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use access_log::stats::{Aggregate, Dimension, Limits, Span};
use access_log::{Format, Lines};
use anyhow::{Context, ensure};
use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Lines per second of the access-log parser and its figures, against GoAccess on the same file.
#[derive(Parser)]
struct Args {
    /// Lines of the file.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u32,
    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Distinct URLs added to the figures to see what memory they need; 0 to skip.
    #[arg(long, default_value_t = 10_000_000)]
    urls: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // First: later, memory that is free again would be used.
    if args.urls > 0 {
        memory(args.urls)?;
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("access.log");
    generate(&path, args.lines)?;
    let bytes = fs::read(&path)?;
    println!(
        "{} lines in combined format, {} MiB; median of {} runs",
        args.lines,
        bytes.len() >> 20,
        args.runs
    );

    // Interleaved, so that whatever else the machine does falls on all alike.
    let mut times: Vec<(&str, Vec<Duration>)> = vec![
        ("parsed", Vec::new()),
        ("parsed, all figures", Vec::new()),
        ("goaccess", Vec::new()),
        ("mawk: count by status", Vec::new()),
    ];
    for _ in 0..args.runs {
        times[0].1.push(timed(|| parse(&bytes))?);
        times[1].1.push(timed(|| figures(&bytes, args.lines))?);
        if found("goaccess") {
            times[2].1.push(timed(|| goaccess(&path))?);
        }
        if found("mawk") {
            times[3].1.push(timed(|| mawk(&path))?);
        }
    }
    let rate = |times: &[Duration]| -> Option<f64> {
        let mut times = times.to_vec();
        times.sort_unstable();
        times.get(times.len() / 2).map(|t| f64::from(args.lines) / t.as_secs_f64())
    };
    let rival = rate(&times[2].1);
    for (name, times) in &times {
        match rate(times) {
            None => println!("{name:<24} not installed"),
            Some(rate) => {
                let ratio = rival.map_or(String::new(), |rival| format!("  {:6.1} x goaccess", rate / rival));
                println!("{name:<24} {:>12.0} lines/s{ratio}", rate);
            }
        }
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn found(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Lines as a busy site has them: paths and clients with a long tail, several statuses and programs.
fn generate(path: &Path, lines: u32) -> anyhow::Result<()> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut out = BufWriter::new(File::create(path)?);
    let agents = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
        "curl/8.14.1",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    ];
    let statuses = [200, 200, 200, 200, 200, 200, 304, 302, 404, 500];
    let mut tail = move |max: f64| {
        let u: f64 = random.random();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below max")]
        let value = max.powf(u) as u32;
        (value, random.random::<u32>())
    };
    for n in 0..lines {
        let (path, r) = tail(50_000.0);
        let (client, s) = tail(200_000.0);
        let second = n / 2000;
        writeln!(
            out,
            "10.{}.{}.{} - - [23/Nov/2026:{:02}:{:02}:{:02} +0000] \"GET /site/page-{path}.html?id={} HTTP/1.1\" {} {} \"https://www.example.com/from/{}\" \"{}\"",
            client >> 16,
            (client >> 8) & 255,
            client & 255,
            5 + second / 3600,
            second / 60 % 60,
            second % 60,
            r % 1000,
            statuses[r as usize % 10],
            s % 50_000,
            path % 97,
            agents[s as usize % 4],
        )?;
    }
    Ok(out.flush()?)
}

fn parse(bytes: &[u8]) -> anyhow::Result<()> {
    let format = Format::named("combined").context("a known format")?;
    for line in Lines::new(bytes) {
        black_box(format.parse(line)?);
    }
    Ok(())
}

fn figures(bytes: &[u8], lines: u32) -> anyhow::Result<()> {
    let format = Format::named("combined").context("a known format")?;
    let mut all = Aggregate::new(Limits::default());
    let mut now = i64::MAX / 2;
    for line in Lines::new(bytes) {
        let entry = format.parse(line)?;
        now = entry.time_us.map_or(now, |us| us / 1_000_000);
        all.add(now, "web1", &entry);
    }
    black_box(all.total().window().sum(Span::Hour, now));
    ensure!(all.total().window().total().requests == u64::from(lines), "lines were lost");
    Ok(())
}

fn goaccess(path: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("goaccess");
    command.arg(path).args(["--log-format=COMBINED", "--no-progress", "--no-global-config", "-o", "json"]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "goaccess failed: {status}");
    Ok(())
}

fn mawk(path: &Path) -> anyhow::Result<()> {
    let status = Command::new("mawk")
        .arg("{ n[$9]++ } END { for (s in n) print s, n[s] }")
        .arg(path)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "mawk failed: {status}");
    Ok(())
}

/// Adds ever new URLs, clients and programs over more than an hour, so that every window is full, and prints what
/// memory that needs.
fn memory(urls: u32) -> anyhow::Result<()> {
    let format = Format::named("combined").context("a known format")?;
    let limits = Limits { servers: 1, vhosts: 1, methods: 4, ..Limits::default() };
    let before = resident()?;
    let mut all = Aggregate::new(limits);
    for n in 0..urls {
        let second = u64::from(n) * 4000 / u64::from(urls);
        let line = format!(
            "10.{}.{}.{} - - [23/Nov/2026:{:02}:{:02}:{:02} +0000] \"GET /{n:0>80} HTTP/1.1\" 404 5 \"https://{n}/\" \"agent {n}\"\n",
            n >> 16,
            (n >> 8) & 255,
            n & 255,
            5 + second / 3600,
            second / 60 % 60,
            second % 60,
        );
        let entry = format.parse(line.as_bytes())?;
        let now = entry.time_us.context("a time")? / 1_000_000;
        all.add(now, "web1", &entry);
    }
    let used = resident()?.saturating_sub(before);
    let bound = limits.memory_max() as u64 / 1024;
    println!(
        "{urls} distinct URLs, clients, programs in 4000 s: {:.1} MiB resident for all figures; bound {:.1} MiB (top {} kept, largest error {})",
        used as f64 / 1024.0,
        bound as f64 / 1024.0,
        all.top(Dimension::Path).top(usize::MAX).len(),
        all.top(Dimension::Path).top(1).first().map_or(0, |top| top.error),
    );
    ensure!(used <= bound, "more memory than the bound");
    Ok(())
}

/// Resident memory in KiB.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no VmRSS")?.parse()?)
}
