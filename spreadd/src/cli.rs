//! The command line of the program `spreadd`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use spread_wire::DaemonName;

/// The command line, for the man page and for completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Group communication daemon, compatible with Spread clients.
///
/// Clients connect over TCP to PORT@HOST, or on the same host over the local socket /tmp/PORT, join groups and
/// send messages to them; all members of a group see the same messages in the same order. Daemons that are
/// configured together form one ring and serve the groups jointly.
///
/// Without a configuration file the daemon runs alone on port 4803. With one, give the same file to every host
/// and tell each daemon its name with --name.
#[derive(Parser, Debug)]
#[command(
    name = "spreadd",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// Without one the daemon runs.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Name of this daemon: the entry of the configuration file that is this host.
    ///
    /// Without a file: the name the daemon runs under, "localhost" by default.
    #[arg(short, long, value_name = "NAME", value_parser = daemon_name)]
    pub name: Option<DaemonName>,

    /// Configuration file (spread.conf). Without this option ./spread.conf, then /etc/spread.conf.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Read the configuration, say what this daemon would do, and exit.
    #[arg(long)]
    pub check: bool,

    /// Port for clients, if there is no configuration file. 0 takes a free one.
    #[arg(short, long, value_name = "PORT", conflicts_with = "config")]
    pub port: Option<u16>,

    /// Address for TCP clients, if there is no configuration file; may be repeated. Default: all of the host.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub listen: Vec<IpAddr>,

    /// Directory of the local socket, whose name is the port. Client libraries look in /tmp.
    ///
    /// The environment variable SPREAD_SOCKET_DIR does the same.
    #[arg(long, value_name = "DIR", conflicts_with = "no_local_socket")]
    pub socket_dir: Option<PathBuf>,

    /// Do not open a local socket.
    #[arg(long)]
    pub no_local_socket: bool,

    /// Keys of the ring: packets between daemons are then encrypted. The same file on every host.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Do not let a monitor (spmonitor) ask for a reload of the configuration; SIGHUP still does.
    #[arg(long)]
    pub no_monitor_reload: bool,

    /// Threads that serve clients. Default: one per processor, at most 4.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    /// Serve metrics (Prometheus) and /healthz over HTTP: a port of 127.0.0.1, or ADDRESS:PORT. Off by default.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = metrics_addr)]
    pub metrics: Option<SocketAddr>,

    /// Keep what must outlast a restart here: the last epoch, so that no group identifier is used twice.
    ///
    /// The environment variable STATE_DIRECTORY (of systemd) does the same.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Optional abilities of the ring protocol that are used, as bits. For tests of rings with older versions.
    #[arg(long, value_name = "BITS", hide = true)]
    pub ring_features: Option<u32>,

    /// What is logged to standard error: error, warn, info, debug or trace.
    ///
    /// Parts can be set apart, as in "info,spreadd::session=debug". The environment variable SPREADD_LOG does
    /// the same.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// For start scripts of Spread 5: accepted and without effect, the log is always written.
    #[arg(short = 'l', value_name = "y|n")]
    pub log: Option<YesNo>,
}

const AFTER_HELP: &str = "\
Examples:
  spreadd                              run alone on port 4803
  spreadd -n web1 -c /etc/spread.conf  run as the daemon web1 of the configuration
  spreadd --check -n web1 -c new.conf  check a configuration
  spreadd status                       what the daemon of this host does

Signals: TERM and INT end the daemon in order: it leaves the ring and removes its local socket. USR1 writes
all counters to the log. HUP reads the configuration and the key file again; daemons that are added to or removed
from the file join or leave the ring when all daemons of the ring have read it.
Exit status: 0 ended in order, 1 failed, 2 wrong use or configuration.";

/// What else the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show what a running daemon of this host does: ring, sessions, groups, and why the ring re-formed.
    Status(StatusArgs),
}

/// The command line of `spreadd status`.
#[derive(clap::Args, Debug)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    /// Port of the daemon. Not needed if only one runs here.
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Directory of the daemon's sockets; the environment variable SPREAD_SOCKET_DIR does the same.
    #[arg(long, value_name = "DIR")]
    pub socket_dir: Option<PathBuf>,

    /// Everything, as JSON.
    #[arg(long)]
    pub json: bool,

    /// List all sessions and groups, not the first 20.
    #[arg(long, conflicts_with = "json")]
    pub all: bool,

    /// The last events of the ring thread instead: packets, timers, configurations.
    #[arg(long, conflicts_with_all = ["json", "all", "changes"])]
    pub events: bool,

    /// The events before each of the last membership changes instead.
    #[arg(long, conflicts_with_all = ["json", "all"])]
    pub changes: bool,
}

const STATUS_HELP: &str = "\
Only root and the user that the daemon runs as may ask.

Examples:
  spreadd status                         the daemon of this host
  spreadd status -p 4803 --json          for scripts
  spreadd status --changes               what happened before the ring re-formed

Exit status: 0 answered, 1 no daemon answered, 2 wrong use.";

/// A port alone means the loopback interface: metrics are not for everybody.
fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    text.parse().map_err(|_| "expected a port, ADDRESS:PORT or [ADDRESS]:PORT".to_owned())
}

/// An answer.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum YesNo {
    /// Yes.
    Y,
    /// No.
    N,
}

fn daemon_name(text: &str) -> Result<DaemonName, String> {
    DaemonName::new(text.as_bytes()).map_err(|error| error.to_string())
}
