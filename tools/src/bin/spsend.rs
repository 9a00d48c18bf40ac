//! `spsend`; see [`spread_tools::send`].

use std::process::ExitCode;

use clap::Parser as _;
use spread_tools::cli::SendArgs;

fn main() -> ExitCode {
    spread_tools::exit("spsend", spread_tools::send::run(&SendArgs::parse()))
}
