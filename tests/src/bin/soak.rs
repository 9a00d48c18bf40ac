//! `cargo xtask soak`: clients that come, talk and die at random on three daemons; prints the account.

use std::time::Duration;

use clap::Parser;
use tests::soak::{Scenario, run};

/// Three daemons on loopback and clients that connect, join, send, listen and die at random: orderly, by a close, a
/// reset, within a message, by an illegal one, by not reading, or before they were connected. Every client checks
/// that each sender's messages come in order and without a hole. At the end all memberships, all counters and the
/// memory of the daemons over the time are judged; the exit status is 0 only if everything fits.
#[derive(Parser)]
struct Args {
    /// How long, in minutes.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Clients at once.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Groups they share.
    #[arg(long, default_value_t = 100)]
    groups: usize,
    /// Longest life of a session in seconds.
    #[arg(long, default_value_t = 20.0)]
    life: f64,
    /// Longest pause of a session between two messages, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pause: f64,
    /// For what is random.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    // Each client is a descriptor here, too.
    spreadd::sessions_that_fit(args.clients + 1000);
    let report = run(
        &Scenario {
            clients: args.clients,
            time: Duration::from_secs_f64(args.minutes * 60.0),
            groups: args.groups,
            life: Duration::from_secs_f64(args.life),
            pause: Duration::from_secs_f64(args.pause),
            seed,
        },
        |line| println!("{line}"),
    )?;
    println!("{report}");
    anyhow::ensure!(report.faults.is_empty(), "{} faults", report.faults.len());
    println!("no leak, no wrong membership, every counter explained");
    Ok(())
}
