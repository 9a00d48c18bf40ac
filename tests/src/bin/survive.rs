//! `cargo xtask survive`: requests over two Apaches while a daemon is killed and restarted; prints the account.

use std::time::Duration;

use clap::Parser;
use tests::apache::Mpm;
use tests::survive::{Scenario, all_trouble, one_kill, run, unavailable};

/// Requests over two Apaches on two hosts (network namespaces), three daemons, two log writers. The daemon of the
/// first server's host is killed with SIGKILL after a third of the requests and started again after half. Prints the
/// account; the exit status is 0 only if it is complete.
#[derive(Parser)]
struct Args {
    /// Requests in all.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Leave the daemons alone.
    #[arg(long)]
    no_kill: bool,
    /// More trouble: daemons killed, hosts cut off, servers restarted gracefully, log writers standing still.
    #[arg(long, conflicts_with = "no_kill")]
    all: bool,
    /// Milliseconds between two requests of a client.
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// Use prefork instead of event.
    #[arg(long)]
    prefork: bool,
    /// More lines for the servers' configuration, for example "SpreadLogWire framed".
    #[arg(long, default_value = "")]
    config: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(why) = unavailable() {
        anyhow::bail!("this needs hosts of its own: {why}");
    }
    let report = run(&Scenario {
        requests: args.requests,
        clients: args.clients,
        trouble: match (args.no_kill, args.all) {
            (true, _) => Vec::new(),
            (_, true) => all_trouble(),
            _ => one_kill(),
        },
        pace: Duration::from_millis(args.pace),
        mpm: if args.prefork { Mpm::Prefork } else { Mpm::Event },
        config: args.config,
    })?;
    for note in &report.notes {
        println!("  {note}");
    }
    println!("{report}");
    for (counters, name) in report.counters.iter().zip(["www1", "www2"]) {
        println!("{name}: {counters:?}");
    }
    report.check()?;
    println!("every request is in both files exactly once, or counted");
    Ok(())
}
