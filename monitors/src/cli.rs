//! Arguments that all views have.

use access_log::Format;
use access_log::stats::Limits;
use anyhow::Context;
use clap::Args;
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

/// Sends what the program has to say to standard error; `RUST_LOG` selects more or less.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
