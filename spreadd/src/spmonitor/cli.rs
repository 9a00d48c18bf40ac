//! The command line of the program `spmonitor`.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use spread_wire::DaemonName;

/// The command line, for the man page and for completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Asks the daemons of a configuration for their status, and commands them.
///
/// Reads the same spread.conf as the daemons. It must run on a host that has the address of one of them: daemons
/// answer nobody else. Without a command it shows a menu and reads commands from standard input, as the monitor of
/// Spread 5 does.
///
/// Partition, flow control and kill need `DangerousMonitor = true` in the configuration of the daemons.
#[derive(Parser, Debug)]
#[command(name = "spmonitor", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    /// UDP port for replies; 0 takes a free one. Two monitors on a host need two ports.
    ///
    /// Decimal, octal with a leading 0, or hexadecimal with 0x. Commands for scripts take a free port by default.
    #[arg(short, long, value_name = "PORT", value_parser = port)]
    pub port: Option<u16>,

    /// The entry of the configuration to run as. Default: the first one with an address of this host.
    #[arg(short, long, value_name = "NAME", value_parser = daemon_name)]
    pub name: Option<DaemonName>,

    /// Seconds between two questions for the status.
    #[arg(short = 't', long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub interval: u32,

    /// Configuration file. Default: ./spread.conf, then /etc/spread.conf.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Ask all daemons once, and exit: the same as the command `status`.
    #[arg(long)]
    pub once: bool,

    /// Report as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// Longest wait for answers, in milliseconds.
    #[arg(long, global = true, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub timeout: u64,

    /// What to do; without it, a menu.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// For scripts.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Ask once and print a table; exit status 1 if a daemon does not answer.
    Status {
        /// Only these daemons.
        names: Vec<String>,
    },
    /// Show the table again and again.
    Watch {
        /// Only these daemons.
        names: Vec<String>,
    },
    /// Divide the daemons; lasts 60 seconds, so repeat it. Daemons that are not named are component 0.
    Partition {
        /// The component of a daemon, a number.
        #[arg(required = true, value_name = "NAME=NUMBER")]
        components: Vec<String>,
    },
    /// End a partition.
    Heal,
    /// Set windows until the next reload.
    Flow(Flow),
    /// End daemons.
    Kill {
        /// These.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let all daemons read their configuration again.
    Reload,
}

/// Windows, in packets.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Flow {
    /// Packets of all daemons in one round of the token.
    #[arg(long, value_name = "PACKETS", value_parser = clap::value_parser!(i16).range(1..))]
    pub window: Option<i16>,
    /// Packets of one daemon in one visit of the token: NUMBER for all daemons, or NAME=NUMBER.
    #[arg(long, value_name = "[NAME=]PACKETS")]
    pub personal: Vec<String>,
    /// Packets sent after the token was passed on: NUMBER for all daemons, or NAME=NUMBER.
    #[arg(long, value_name = "[NAME=]PACKETS")]
    pub accelerated: Vec<String>,
}

const AFTER_HELP: &str = "\
Examples:
  spmonitor                           the menu
  spmonitor --once                    one table, and why a daemon is silent
  spmonitor --once --json             the same for programs
  spmonitor -t 1 watch                a table that is renewed each second
  spmonitor partition web1=0 web2=1   divide two daemons for a minute
  spmonitor flow --window 100 --personal web1=20
  spmonitor reload                    all daemons read their spread.conf

Exit status: 0 all daemons answered, or the command was sent; 1 a daemon did not answer; 2 wrong use or
configuration. There is no answer to commands: their effect shows in the status and in the logs of the daemons.";

fn daemon_name(text: &str) -> Result<DaemonName, String> {
    DaemonName::new(text.as_bytes()).map_err(|error| error.to_string())
}

/// As `strtol` with base 0 reads it.
fn port(text: &str) -> Result<u16, String> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    u16::from_str_radix(digits, radix).map_err(|_| "expected 0 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn ports_are_read_as_the_original_reads_them() {
        for (text, wanted) in [("6543", 6543), ("0x198f", 6543), ("014617", 6543), ("0", 0), ("65535", 65535)]
        {
            assert_eq!(port(text), Ok(wanted), "{text}");
        }
        for text in ["65536", "-1", "x", "", "0x", "08"] {
            assert!(port(text).is_err(), "{text}");
        }
    }
}
