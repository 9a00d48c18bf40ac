//! `cargo xtask survive`: requests over two Apaches while things go wrong; prints the account.

use std::time::Duration;

use clap::Parser;
use tests::apache::Mpm;
use tests::survive::{Course, Scenario, all_trouble, one_kill, random, run, unavailable};

/// Requests over two Apaches on two hosts (network namespaces), three daemons, two log writers. Prints the account; the
/// exit status is 0 only if it is complete: every request that was answered is in both files exactly once, or the
/// modules counted it as dropped.
///
/// Without --minutes, the daemon of the first server's host is killed with SIGKILL after a third of the requests and
/// started again after half. With it, servers (event and prefork, with a spool on disk) get requests for so long while
/// by chance daemons are killed and started again, the network between hosts is cut and healed, servers are restarted
/// gracefully and log writers are stopped for 20 s.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  survive\n  survive --minutes 5\n  survive --minutes 5 --seed 7 --wire framed"
)]
struct Args {
    /// Trouble by chance, for so many minutes.
    #[arg(long, conflicts_with_all = ["requests", "no_kill", "all"])]
    minutes: Option<f64>,
    /// Seed of the chance; printed, and taken from the clock when it is missing.
    #[arg(long, requires = "minutes")]
    seed: Option<u64>,
    /// Requests a second over both servers, with --minutes.
    #[arg(long, default_value_t = 800, requires = "minutes")]
    rate: u64,
    /// Requests in all.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Leave the daemons alone.
    #[arg(long)]
    no_kill: bool,
    /// More trouble, in a fixed order: daemons killed, hosts cut off, servers restarted gracefully, log writers standing
    /// still.
    #[arg(long, conflicts_with = "no_kill")]
    all: bool,
    /// Milliseconds between two requests of a client.
    #[arg(long, default_value_t = 0, conflicts_with = "minutes")]
    pace: u64,
    /// Use prefork instead of event.
    #[arg(long, conflicts_with = "minutes")]
    prefork: bool,
    /// Form of the lines on the way: plain or framed.
    #[arg(long, default_value = "plain")]
    wire: String,
    /// More lines for the servers' configuration.
    #[arg(long, default_value = "")]
    config: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(why) = unavailable() {
        anyhow::bail!("this needs hosts of its own: {why}");
    }
    let (course, pace, mpms) = match args.minutes {
        Some(minutes) => {
            let length = Duration::try_from_secs_f64(minutes * 60.0)?;
            let seed =
                args.seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_secs()));
            println!("seed {seed}: the same trouble again with --seed {seed}");
            let pace = Duration::from_secs_f64(args.clients as f64 / args.rate.max(1) as f64);
            (Course::Time(length, random(seed, length)), pace, [Mpm::Event, Mpm::Prefork])
        }
        None => {
            let trouble = match (args.no_kill, args.all) {
                (true, _) => Vec::new(),
                (_, true) => all_trouble(),
                _ => one_kill(),
            };
            let mpm = if args.prefork { Mpm::Prefork } else { Mpm::Event };
            (Course::Requests(args.requests, trouble), Duration::from_millis(args.pace), [mpm; 2])
        }
    };
    let report = run(&Scenario {
        course,
        clients: args.clients,
        pace,
        mpms,
        spool: args.minutes.is_some(),
        config: format!("SpreadLogWire {}\n{}", args.wire, args.config),
    })?;
    for note in &report.notes {
        println!("  {note}");
    }
    for (at, event) in &report.events {
        println!("{:>7.1} s  {event}", at.as_secs_f64());
    }
    println!("{report}");
    for (counters, name) in report.counters.iter().zip(["www1", "www2"]) {
        println!("{name}: {counters:?}");
    }
    println!("log_writer audit:\n{}", report.audit.said);
    report.check()?;
    println!("every request is in both files exactly once, or counted");
    Ok(())
}
