//! The program `spmonitor`; everything is in the library.

use std::io::{BufReader, stdin, stdout};
use std::process::ExitCode;

use clap::Parser as _;
use spreadd::spmonitor::cli::Args;

fn main() -> ExitCode {
    spreadd::spmonitor::run(&Args::parse(), BufReader::new(stdin()), &mut stdout().lock())
}
