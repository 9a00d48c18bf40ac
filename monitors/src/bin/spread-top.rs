//! `spread-top`: the cluster's access log live in a terminal.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser as _;
use monitors::cli::TopArgs;
use monitors::filter::Filter;
use monitors::snapshot::{Snapshot, TopList, parse_over};
use monitors::top::{self, Panel};
use monitors::watch::now_ms;

fn main() -> ExitCode {
    match run(&TopArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spread-top: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &TopArgs) -> anyhow::Result<()> {
    let filter = args.filter.as_deref().map(|text| Filter::parse(text).map(|filter| (text, filter)));
    let filter = filter.transpose().context("--filter")?;
    let over = parse_over(&args.over).map_err(|expected| anyhow::anyhow!("--over {expected}"))?;
    let state = args.source.start()?;
    if !args.once {
        let panel = if args.source.groups.is_empty() { Panel::Machines } else { Panel::Paths };
        return top::run(&state, &args.source.title(), panel);
    }
    // What is asked for: figures of so many seconds.
    thread::sleep(Duration::from_secs(args.wait));
    let filter = filter.as_ref().map(|(text, filter)| (*text, filter));
    let shot = Snapshot::take(&mut state.lock(), filter, now_ms(), TopList { count: 20, over });
    println!("{}", serde_json::to_string_pretty(&shot)?);
    Ok(())
}
