//! `sprecv`; see [`spread_tools::recv`].

use std::process::ExitCode;

use clap::Parser as _;
use spread_tools::cli::RecvArgs;

fn main() -> ExitCode {
    spread_tools::exit("sprecv", spread_tools::recv::run(&RecvArgs::parse()))
}
