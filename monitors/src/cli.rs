//! The command lines of `spread-top` and `spread-web`.

use std::net::SocketAddr;
use std::path::PathBuf;

use access_log::Format;
use access_log::stats::Limits;
use anyhow::Context;
use clap::{Args, CommandFactory as _, Parser, ValueEnum};
use spread::GroupName;

use crate::ring;
use crate::state::{Bounds, Shared, State};
use crate::watch::{self, Source, now_ms};

/// Where the log lines come from and how they are written.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// Daemon to connect to: a port (Unix socket of this host) or port@host
    #[arg(short = 's', long = "spread", value_name = "DAEMON", default_value = "4803")]
    pub daemon: String,
    /// Group that lines are published to; can be given several times
    #[arg(short, long = "group", value_name = "GROUP", required_unless_present = "backhand_group")]
    pub groups: Vec<String>,
    /// Group of mod_backhand's statistics (BackhandStatsGroup), to show the resources of the machines
    #[arg(long, value_name = "GROUP")]
    pub backhand_group: Option<String>,
    /// Format of the lines: common, combined, vhost_combined, or the string of the LogFormat directive
    #[arg(short, long, value_name = "FORMAT", default_value = "common")]
    pub format: String,
    /// What is one server in the figures
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub servers: ServersAre,
    /// Metrics of a daemon (MetricsAddress in spread.conf), to show all daemons of the ring, also those without a member
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub daemon_metrics: Option<SocketAddr>,
    /// Suffix of the groups in which numbers of lines are told (SpreadLogAudit); empty: these are not joined
    #[arg(long, value_name = "SUFFIX", default_value = "~")]
    pub audit_suffix: String,
}

/// What is one server in the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ServersAre {
    /// All Apaches that use one daemon: a host
    #[default]
    Daemons,
    /// Each Apache by the name (main ServerName) that it says, as name@daemon
    Apaches,
}

impl SourceArgs {
    /// The groups, for a title.
    pub fn title(&self) -> String {
        self.groups.iter().chain(&self.backhand_group).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

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
        let logs: Vec<GroupName> = self.groups.iter().map(group).collect::<anyhow::Result<_>>()?;
        let stats = self.backhand_group.iter().map(group).collect::<anyhow::Result<Vec<_>>>()?;
        // A name that would be too long is nobody's audit group.
        let audit =
            |log: &GroupName| GroupName::new(&[log.as_bytes(), self.audit_suffix.as_bytes()].concat()).ok();
        let audited = logs.iter().filter(|_| !self.audit_suffix.is_empty());
        let audits: Vec<(GroupName, GroupName)> =
            audited.filter_map(|log| audit(log).map(|audit| (audit, *log))).collect();
        let groups = audits.iter().map(|(audit, _)| *audit).chain(logs).chain(stats).collect();
        let bounds = Bounds { limits: Limits::default(), ..Bounds::default() };
        let mut state = State::new(format, bounds, now_ms());
        state.set_audit_groups(audits);
        if self.servers == ServersAre::Apaches {
            state.count_by_apache();
        }
        let state = Shared::new(state);
        watch::start(&Source { daemon: self.daemon.clone(), groups }, state.clone())?;
        if let Some(daemon) = self.daemon_metrics {
            ring::start(daemon, state.clone())?;
        }
        Ok(state)
    }
}

/// Shows the access log of a whole cluster live: requests, bits, status codes and latency of every server
#[derive(Parser, Debug)]
#[command(
    name = "spread-top",
    version,
    after_help = "Examples:\n  spread-top -s 4803 --group site4\n  spread-top --group site4 --once --json --wait 10 | jq .total.windows\n  \
                  spread-top --group site4 --once --json --over 1m | jq .top.path\n  \
                  spread-top --backhand-group stats --once --json | jq .machines"
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
    /// Window of the most frequent values: 1s, 10s, 1m, 1h, start (with --once)
    #[arg(long, value_name = "WINDOW", default_value = "start", requires = "once")]
    pub over: String,
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
