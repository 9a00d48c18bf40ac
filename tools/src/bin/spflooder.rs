//! `spflooder`; see [`spread_tools::flooder`].

use std::process::ExitCode;

use clap::Parser as _;
use spread_tools::cli::{FlooderArgs, flooder_words};

fn main() -> ExitCode {
    let args = FlooderArgs::parse_from(flooder_words(std::env::args_os()));
    spread_tools::exit("spflooder", spread_tools::flooder::run(&args))
}
