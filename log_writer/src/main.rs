//! `log_writer`: one access log for all web servers.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser as _;
use log_writer::cli::Args;
use log_writer::conf_file;
use log_writer::config::{Config, LogConfig, SessionConfig};
use log_writer::output::Target;
use log_writer::route::{Matcher, Rewrite};
use log_writer::run::{Failure, run};
use tracing_subscriber::EnvFilter;

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log_writer::config::Fsync;

    use super::*;

    fn of(args: &[&str]) -> anyhow::Result<Config> {
        configuration(&Args::try_parse_from([&["log_writer"], args].concat())?)
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
}
