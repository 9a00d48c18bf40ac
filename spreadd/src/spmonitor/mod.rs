//! The program `spmonitor`: asks the daemons of a configuration for their status and commands them, by the monitor
//! protocol. It works with these daemons and with those of Spread 5.
//!
//! spec: monitor-protocol 9, 10

pub mod cli;
mod interactive;
mod link;
mod once;
mod show;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use anyhow::Context as _;

use cli::{Args, Command};
use link::Link;

/// Exit code for wrong use or configuration.
const EXIT_USAGE: u8 = 2;

/// Does what the command line says. Lines of the dialogue come from `input`.
pub fn run(args: &Args, input: impl BufRead + Send + 'static, out: &mut impl Write) -> ExitCode {
    // A script must not fail because a menu is open on the same host.
    let free = (args.once || args.command.is_some()).then_some(0);
    let link = match Link::open(args.config.as_deref(), args.name, args.port.or(free)) {
        Ok(link) => link,
        Err(error) => {
            eprintln!("spmonitor: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = match &args.command {
        None if args.once => once::status(&link, &[], args, out),
        None => interactive::run(link, args, input, out).map(|()| true),
        Some(Command::Status { names }) => once::status(&link, names, args, out),
        Some(Command::Watch { names }) => once::watch(&link, names, args, out).map(|()| true),
        Some(Command::Partition { components }) => once::partition(&link, components, out),
        Some(Command::Heal) => once::heal(&link, out),
        Some(Command::Flow(flow)) => once::flow(&link, flow, out),
        Some(Command::Kill { names }) => once::kill(&link, names, out),
        Some(Command::Reload) => once::reload(&link, out),
    };
    match result.and_then(|good| out.flush().context("cannot write").map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<WrongUse>() => {
            eprintln!("spmonitor: {error:#}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            eprintln!("spmonitor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUse(String);

/// Whoever reads the output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().any(|cause| io(cause) == Some(io::ErrorKind::BrokenPipe))
}
