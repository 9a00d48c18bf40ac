//! `log_writer`: one access log for all web servers.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use log_writer::config::{Config, Fsync, LogConfig, SessionConfig};
use log_writer::output::Target;
use log_writer::route::{Matcher, Rewrite};
use log_writer::run::{Failure, run};
use log_writer::{conf_file, config};
use tracing_subscriber::EnvFilter;

/// Writes the access lines of all web servers of a cluster to one file, in one order.
///
/// Web servers publish their lines with mod_log_spread to a group of the Spread daemons. This program joins the group
/// and writes every line once, in the order of delivery, which is the same on every host: two log writers have
/// byte-identical files. Lines with numbers (mod_log_spread gives them) that were lost or doubled on the way are asked
/// for again or left out; what is missing for good is written to this program's own log as a GAP.
///
/// Signals: HUP opens the output anew (rename it, then send HUP), TERM and INT write what was read and end, USR2
/// shows counters. Exit status: 0 ended in order, 1 something could not be written, 2 wrong use or configuration.
#[derive(Parser, Debug)]
#[command(name = "log_writer", version, max_term_width = 100)]
#[command(after_help = "\
Examples:
  log_writer -s 4803 --group site4 --output access.log
  log_writer -s 4803@log1 -s 4803@log2 --group site4 --group site5 --output '|gzip >access.gz'
  log_writer -c /etc/spreadlogd.conf")]
struct Args {
    /// Daemon: 4803 for the local socket, 4803@host for another host. More than once: the first that answers is used.
    /// Without a value (and with -c): files are not locked.
    #[arg(short = 's', long = "spread", value_name = "DAEMON", num_args = 0..=1, default_missing_value = "")]
    spread: Vec<String>,

    /// Group to read. May be repeated.
    #[arg(short, long, value_name = "GROUP")]
    group: Vec<String>,

    /// File to append to; |command for a command's input; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,

    /// One file for each virtual host (the first word of a line, which is cut off) in this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    vhost_dir: Option<PathBuf>,

    /// Only lines that match (POSIX extended expression). May be repeated: one match is enough.
    #[arg(long = "match", value_name = "EXPRESSION")]
    matches: Vec<String>,

    /// Configuration file of spreadlogd, instead of --spread, --group and --output.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["group", "output", "vhost_dir", "matches"])]
    config: Option<PathBuf>,

    /// Check the configuration and end.
    #[arg(long)]
    check: bool,

    /// With -c: keys that are not supported (Perl, Python, C modules) are warnings.
    #[arg(long)]
    ignore_unsupported: bool,

    /// Memory for lines that are read ahead of a slow output.
    #[arg(short, long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    buffer: usize,

    /// When written lines are forced to disk, and acknowledged to the web servers: never, or a time like 1s, 200ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = fsync)]
    fsync: Fsync,

    /// Longest time a line waits in memory for others.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time)]
    flush: Duration,

    /// File with the position, for restarts without loss and without doubles. Default: the output with .state.
    #[arg(long, value_name = "FILE", conflicts_with = "no_state")]
    state: Option<PathBuf>,

    /// Keep no position: lines that were not acknowledged before a crash may be doubled.
    #[arg(long)]
    no_state: bool,

    /// Do not acknowledge: the web servers do not learn that lines were written.
    #[arg(long)]
    no_acks: bool,

    /// Suffix of the groups in which web servers tell the numbers of plain lines (SpreadLogAudit). Empty: none.
    #[arg(long, value_name = "TEXT", default_value = config::AUDIT_SUFFIX)]
    audit_suffix: String,

    /// Log level of this program (error, warn, info, debug), or filters of tracing.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,

    /// More messages (the same as --log-level debug).
    #[arg(short, long)]
    verbose: bool,

    /// Accepted for spreadlogd's sake: errors of Spread are always told.
    #[arg(short = 'x', hide = true)]
    report_errors: bool,

    /// Accepted for spreadlogd's sake: this program stays in the foreground.
    #[arg(short = 'D', hide = true)]
    foreground: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = init_log(&args)
        .and_then(|()| configuration(&args).map_err(Failure::Usage))
        .and_then(|config| if args.check { Ok(()) } else { run(config) });
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Failed(error)) => (error, 1),
    };
    eprintln!("log_writer: {error:#}");
    ExitCode::from(code)
}

fn init_log(args: &Args) -> Result<(), Failure> {
    let level = if args.verbose { "debug" } else { &args.log_level };
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("{level:?} is no log level"))
        .map_err(Failure::Usage)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr);
    // The journal has its own time stamps.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init()
    } else {
        builder.init()
    }
    Ok(())
}

fn configuration(args: &Args) -> anyhow::Result<Config> {
    let mut config = Config {
        buffer_bytes: args.buffer,
        fsync: args.fsync,
        flush_every: args.flush,
        acks: !args.no_acks,
        audit_suffix: Some(args.audit_suffix.clone()).filter(|s| !s.is_empty()),
        ..Config::new()
    };
    let daemons: Vec<&String> = args.spread.iter().filter(|s| !s.is_empty()).collect();
    match &args.config {
        Some(path) => {
            if !daemons.is_empty() {
                bail!("-s with a daemon and -c exclude each other: the daemons are in {}", path.display());
            }
            config.lock = args.spread.is_empty();
            config.sessions = from_file(path, args)?;
        }
        None => config.sessions = vec![from_flags(&daemons, args)?],
    }
    Ok(config)
}

fn from_flags(daemons: &[&String], args: &Args) -> anyhow::Result<SessionConfig> {
    if args.group.is_empty() {
        bail!("which group? Give --group (or -c with a spreadlogd.conf); see --help");
    }
    let target = args.output.as_deref().map(Target::parse);
    if target.is_none() && args.vhost_dir.is_none() {
        bail!("where to? Give --output or --vhost-dir; see --help");
    }
    let default = String::from("4803");
    let daemons = if daemons.is_empty() { vec![&default] } else { daemons.to_vec() };
    let daemons = daemons
        .into_iter()
        .map(|text| Ok((text.clone(), text.parse().with_context(|| format!("daemon {text:?}"))?)))
        .collect::<anyhow::Result<_>>()?;
    let matches = args
        .matches
        .iter()
        .map(|m| Matcher::new(m).map_err(|error| anyhow::anyhow!("match {m:?}: {error}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let logs = args
        .group
        .iter()
        .map(|name| {
            let group = name.parse().with_context(|| format!("group {name:?}"))?;
            let (target, vhost_dir, matches) = (target.clone(), args.vhost_dir.clone(), matches.clone());
            Ok(LogConfig { group, target, vhost_dir, matches, rewrite: Rewrite::Keep })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let state = state_path(args, &logs);
    Ok(SessionConfig { daemons, logs, state })
}

fn from_file(path: &PathBuf, args: &Args) -> anyhow::Result<Vec<SessionConfig>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let conf = conf_file::parse(&text, args.ignore_unsupported).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|e| format!("{}: {e}", path.display())).collect();
        anyhow::anyhow!("{}", lines.join("\nlog_writer: "))
    })?;
    for warning in &conf.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    let mut sessions = conf.sessions;
    for (i, session) in sessions.iter_mut().enumerate() {
        session.state = match &args.state {
            // One file for each session.
            Some(state) if i > 0 => Some(with_suffix(state, &format!("-{i}"))),
            _ => state_path(args, &session.logs),
        };
    }
    if sessions.is_empty() && !args.check {
        bail!("{}: no log is configured, there is nothing to do", path.display());
    }
    Ok(sessions)
}

/// The state stands beside the first file of a session.
fn state_path(args: &Args, logs: &[LogConfig]) -> Option<PathBuf> {
    if args.no_state {
        return None;
    }
    args.state.clone().or_else(|| {
        logs.iter().find_map(|log| match (&log.target, &log.vhost_dir) {
            (_, Some(dir)) => Some(with_suffix(dir, ".state")),
            (Some(Target::File(path)), None) if !path.starts_with("/dev") => {
                Some(with_suffix(path, ".state"))
            }
            _ => None,
        })
    })
}

fn with_suffix(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err("a number with K, M or G is expected".into()),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        // spreadlogd's -b was the size of one message and often small.
        Some(n) if n < 1 << 20 => Ok(1 << 20),
        Some(n) => Ok(n),
        None => Err("a number with K, M or G is expected".into()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "a time like 1s or 200ms is expected".to_owned())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err("a time like 1s or 200ms is expected".into()),
    }
}

fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "never" | "none" => Ok(Fsync::Never),
        "batch" => Ok(Fsync::Every(Duration::ZERO)),
        text => time(text).map(Fsync::Every),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn of(args: &[&str]) -> anyhow::Result<Config> {
        configuration(&Args::try_parse_from([&["log_writer"], args].concat())?)
    }

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_plain_call_is_understood() {
        let config = of(&["-s", "4803", "--group", "site4", "--output", "access.log"]).expect("good");
        let session = &config.sessions[0];
        assert_eq!(session.daemons[0].0, "4803");
        assert_eq!(session.logs[0].target, Some(Target::File("access.log".into())));
        assert_eq!(session.state, Some("access.log.state".into()));
        assert_eq!(config.fsync, Fsync::Every(Duration::from_secs(1)));
    }

    #[test]
    fn wrong_use_is_told() {
        let error = |args: &[&str]| format!("{:#}", of(args).expect_err("wrong"));
        assert!(error(&["--output", "x"]).contains("which group"));
        assert!(error(&["--group", "x"]).contains("where to"));
        assert!(error(&["--group", "a b", "--output", "x"]).contains("group \"a b\""));
        assert!(error(&["-s", "host", "--group", "a", "--output", "x"]).contains("daemon \"host\""));
        assert!(error(&["--group", "a", "--output", "x", "--match", "("]).contains("match \"(\""));
        assert!(error(&["--group", "a", "--output", "x", "--fsync", "often"]).contains("1s or 200ms"));
        assert!(error(&["-c", "/nowhere"]).contains("cannot read /nowhere"));
    }

    #[test]
    fn values_have_units() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("8192"), Ok(1 << 20));
        assert!(size("M").is_err() && size("1MM").is_err() && size("-1").is_err());
        assert_eq!(time("200ms"), Ok(Duration::from_millis(200)));
        assert!(time("1").is_err() && time("s").is_err());
        assert_eq!(fsync("never"), Ok(Fsync::Never));
    }
}
