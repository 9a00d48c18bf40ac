//! `spread-top`: the cluster's access log live in a terminal.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use monitors::cli::SourceArgs;
use monitors::filter::Filter;
use monitors::snapshot::Snapshot;
use monitors::top;
use monitors::watch::now_ms;

/// Shows the access log of a whole cluster live: requests, bits, status codes and latency of every server
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "Examples:\n  spread-top -s 4803 --group site4\n  spread-top --group site4 --once --json --wait 10 | jq .total.windows"
)]
struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Count for a while, print the figures once and end
    #[arg(long, requires = "json")]
    once: bool,
    /// Print JSON (with --once)
    #[arg(long, requires = "once")]
    json: bool,
    /// Seconds to count (with --once)
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "once")]
    wait: u64,
    /// Only entries that fit, e.g. 'status=5xx and server=web1' (with --once)
    #[arg(long, value_name = "EXPRESSION", requires = "once")]
    filter: Option<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spread-top: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let filter = args.filter.as_deref().map(|text| Filter::parse(text).map(|filter| (text, filter)));
    let filter = filter.transpose().context("--filter")?;
    let state = args.source.start()?;
    if !args.once {
        return top::run(&state, &args.source.groups.join(" "));
    }
    // What is asked for: figures of so many seconds.
    thread::sleep(Duration::from_secs(args.wait));
    let filter = filter.as_ref().map(|(text, filter)| (*text, filter));
    let shot = Snapshot::take(&mut state.lock(), filter, now_ms(), 20);
    println!("{}", serde_json::to_string_pretty(&shot)?);
    Ok(())
}
