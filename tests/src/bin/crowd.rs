//! `cargo xtask crowd`: very many clients on one daemon; prints what they cost.

use clap::Parser;
use tests::crowd::{Scenario, run};

/// One daemon. First idle clients, then groups with many members each; prints the resident memory of the daemon, times,
/// and fails if a single client is not served.
#[derive(Parser)]
struct Args {
    /// Idle clients; 0: none.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Groups; 0: none.
    #[arg(long, default_value_t = 1000)]
    groups: usize,
    /// Members of each group.
    #[arg(long, default_value_t = 100)]
    members: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let needed = args.idle.max(args.members * 10) + 200;
    let fits = spreadd::sessions_that_fit(needed);
    anyhow::ensure!(fits == needed, "{needed} open files are needed; the limit allows {fits}");
    print!("{}", run(&Scenario { idle: args.idle, groups: args.groups, members: args.members })?);
    Ok(())
}
