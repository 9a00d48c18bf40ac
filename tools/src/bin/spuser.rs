//! `spuser`; see [`spread_tools::user`].

use std::process::ExitCode;

use clap::Parser as _;
use spread_tools::cli::UserArgs;

fn main() -> ExitCode {
    spread_tools::exit("spuser", spread_tools::user::run(&UserArgs::parse()))
}
