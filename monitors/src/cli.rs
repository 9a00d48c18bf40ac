//! The command lines of `spread-top` and `spread-web`.

use std::net::SocketAddr;
use std::path::PathBuf;

use access_log::Format;
use access_log::stats::Limits;
use anyhow::Context;
use clap::{Args, CommandFactory as _, Parser};
use spread::GroupName;

use crate::state::{Bounds, Shared, State};
use crate::watch::{self, Source, now_ms};

/// Where the log lines come from and how they are written.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// Daemon to connect to: a port (Unix socket of this host) or port@host
    #[arg(short = 's', long = "spread", value_name = "DAEMON", default_value = "4803")]
    pub daemon: String,
    /// Group that lines are published to; can be given several times
    #[arg(short, long = "group", value_name = "GROUP", required = true)]
    pub groups: Vec<String>,
    /// Group of mod_backhand's statistics (BackhandStatsGroup), to show the resources of the machines
    #[arg(long, value_name = "GROUP")]
    pub backhand_group: Option<String>,
    /// Format of the lines: common, combined, vhost_combined, or the string of the LogFormat directive
    #[arg(short, long, value_name = "FORMAT", default_value = "common")]
    pub format: String,
}

impl SourceArgs {
    /// Connects, joins, and begins to count.
    ///
    /// # Errors
    /// If an argument is wrong or the daemon cannot be reached.
    pub fn start(&self) -> anyhow::Result<Shared> {
        let format = Format::compile(&self.format).with_context(|| format!("--format {}", self.format))?;
        let group = |name: &String| {
            // As Apache's configuration writes it: `$site4`.
            let bare = name.strip_prefix('$').unwrap_or(name);
            bare.parse::<GroupName>().with_context(|| format!("--group {name}"))
        };
        let groups =
            self.groups.iter().chain(&self.backhand_group).map(group).collect::<anyhow::Result<_>>()?;
        let bounds = Bounds { limits: Limits::default(), ..Bounds::default() };
        let state = Shared::new(State::new(format, bounds, now_ms()));
        watch::start(&Source { daemon: self.daemon.clone(), groups }, state.clone())?;
        Ok(state)
    }
}

/// Shows the access log of a whole cluster live: requests, bits, status codes and latency of every server
#[derive(Parser, Debug)]
#[command(
    name = "spread-top",
    version,
    after_help = "Examples:\n  spread-top -s 4803 --group site4\n  spread-top --group site4 --once --json --wait 10 | jq .total.windows"
)]
pub struct TopArgs {
    #[command(flatten)]
    /// Where the lines come from
    pub source: SourceArgs,
    /// Count for a while, print the figures once and end
    #[arg(long, requires = "json")]
    pub once: bool,
    /// Print JSON (with --once)
    #[arg(long, requires = "once")]
    pub json: bool,
    /// Seconds to count (with --once)
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "once")]
    pub wait: u64,
    /// Only entries that fit, e.g. 'status=5xx and server=web1' (with --once)
    #[arg(long, value_name = "EXPRESSION", requires = "once")]
    pub filter: Option<String>,
}

/// Shows the access log of a whole cluster live: a web page at /, JSON under /api/, Prometheus at /metrics
///
/// Connects to a spreadd as any subscriber does, counts every line that the web servers publish, and keeps all
/// figures in bounded memory. The page needs nothing from elsewhere.
#[derive(Parser, Debug)]
#[command(
    name = "spread-web",
    version,
    after_help = "Example:\n  spread-web -s 4803 --group site4 --format combined --listen 127.0.0.1:8080"
)]
pub struct WebArgs {
    #[command(flatten)]
    /// Where the lines come from
    pub source: SourceArgs,
    /// Address of the page
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Rules for alerts (docs/reference/monitors.md)
    #[arg(long, value_name = "FILE")]
    pub alerts: Option<PathBuf>,
    /// Keep the figures of each minute in this file
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Days that are kept in the file
    #[arg(long, value_name = "DAYS", default_value_t = 30, requires = "history")]
    pub history_days: u32,
    /// Ask for a user and a password of this file (made with `htpasswd -B`)
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Serve over TLS: file with the certificate and its chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// The command line of `spread-top`, for the man page and for completions.
pub fn top_command() -> clap::Command {
    TopArgs::command()
}

/// The command line of `spread-web`, for the man page and for completions.
pub fn web_command() -> clap::Command {
    WebArgs::command()
}

/// Sends what the program has to say to standard error; `RUST_LOG` selects more or less.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
