//! `cargo xtask fuzz-live`: hostile clients and datagrams on a living daemon; prints what the healthy noticed.

use std::time::Duration;

use clap::Parser;
use tests::fuzz_live::{Scenario, run};

/// Two daemons on loopback. Hostile clients send recorded conversations with changes, odd handshakes and frames, and
/// noise, from many connections at once; then forged and changed datagrams go to the ports of the ring. Healthy clients
/// send messages to themselves all the time. The exit status is 0 only if no daemon failed, nobody healthy was cut off
/// or waited for a minute, no hostile session is left over and memory does not grow.
#[derive(Parser)]
struct Args {
    /// How long, in minutes: four fifths on the client port, the rest on the ports of the ring.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Hostile connections at once.
    #[arg(long, default_value_t = 32)]
    hostile: usize,
    /// For what is random.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let scenario = Scenario { clients: time / 5 * 4, datagrams: time / 5, hostile: args.hostile, seed };
    println!("{}", run(&scenario, |line| println!("{line}"))?);
    Ok(())
}
