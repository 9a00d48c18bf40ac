//! From flags and files to a [`Config`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::cli::{Args, LogOptions, Options, SpreadTable};
use crate::conf_file;
use crate::config::{self, Config, Fsync, LogConfig, Order, SessionConfig};
use crate::format::Form;
use crate::output::{Target, with_suffix};
use crate::rotate::{Archive, Rotation, Template};
use crate::route::Rewrite;
use crate::words::{Daemon, Word};

/// Least memory for reading ahead: spreadlogd's -b was the size of one message and often small.
const BUFFER_MIN: u64 = 1 << 20;

/// A TOML file.
#[derive(Deserialize, Default, Debug)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    spread: Vec<SpreadTable>,
    writer: Options,
}

/// Reads everything.
///
/// # Errors
/// What is wrong, with the place.
pub fn configuration(args: &Args) -> anyhow::Result<Config> {
    let daemons: Vec<&String> = args.spread.iter().filter(|s| !s.is_empty()).collect();
    let Some(path) = &args.config else {
        let mut config = Config { ..Config::new() };
        apply(&mut config, &args.options);
        let session = from_flags(&daemons, args, &mut config)?;
        config.sessions = vec![session];
        return checked(config);
    };
    if !daemons.is_empty() {
        bail!("-s with a daemon and -c exclude each other: the daemons are in {}", path.display());
    }
    let mut config = Config::new();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_some_and(|e| e == "toml") {
        let file: File =
            toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        apply(&mut config, &file.writer);
        apply(&mut config, &args.options);
        for table in file.spread {
            let session = from_table(table, &mut config).with_context(|| path.display().to_string())?;
            config.sessions.push(session);
        }
    } else {
        apply(&mut config, &args.options);
        config.lock &= args.spread.is_empty();
        config.sessions = from_spreadlogd(path, &text, args)?;
    }
    for (i, session) in config.sessions.iter_mut().enumerate() {
        if args.options.no_state || session.state.is_none() && !config.state {
            session.state = None;
        } else if let Some(state) = &args.state {
            // One file for each session.
            session.state = Some(if i > 0 { with_suffix(state, &format!("-{i}")) } else { state.clone() });
        } else if session.state.is_none() {
            session.state = state_path(&session.logs);
        }
    }
    if config.sessions.is_empty() && !args.check {
        bail!("{}: no log is configured, there is nothing to do", path.display());
    }
    checked(config)
}

fn apply(config: &mut Config, options: &Options) {
    if let Some(size) = options.buffer {
        config.buffer_bytes = usize::try_from(size.0.max(BUFFER_MIN)).unwrap_or(usize::MAX);
    }
    config.spill_bytes = options.spill.map_or(config.spill_bytes, |size| size.0);
    config.spill_dir = options.spill_dir.clone().or_else(|| config.spill_dir.take());
    config.fsync = options.fsync.unwrap_or(config.fsync);
    config.flush_every = options.flush.unwrap_or(config.flush_every);
    config.exactly_once |= options.exactly_once;
    config.index &= !options.no_audit;
    config.acks &= !options.no_acks;
    config.lock &= !options.no_lock;
    config.state &= !options.no_state;
    if let Some(suffix) = &options.audit_suffix {
        config.audit_suffix = Some(suffix.clone()).filter(|s| !s.is_empty());
    }
}

/// What cannot be promised together.
fn checked(config: Config) -> anyhow::Result<Config> {
    if config.order != Order::Delivery {
        let vhosts = config.sessions.iter().flat_map(|s| &s.logs).any(|l| l.vhost_dir.is_some());
        if vhosts || !config.index {
            bail!("order by time needs the audit index of a file (not --vhost-dir, not --no-audit)");
        }
    }
    if config.exactly_once {
        let why = |what: &str| format!("--exactly-once is not possible {what}");
        for session in &config.sessions {
            let command = session.logs.iter().find(|l| !matches!(l.target, Some(Target::File(_)) | None));
            if let Some(log) = command.and_then(|l| l.target.as_ref()) {
                bail!(why(&format!("with {log}: what was written cannot be taken back after a crash")));
            }
            if session.state.is_none() {
                bail!(why("without a state file"));
            }
        }
        if !config.acks {
            bail!(why("with --no-acks: lost lines would not be sent again"));
        }
        if config.audit_suffix.is_none() {
            bail!(why("with an empty --audit-suffix: plain lines would have no numbers"));
        }
        if config.fsync == Fsync::Never {
            bail!(why("with --fsync never: acknowledged lines could be lost with the power"));
        }
    }
    Ok(config)
}

fn from_flags(daemons: &[&String], args: &Args, config: &mut Config) -> anyhow::Result<SessionConfig> {
    if args.log.group.is_empty() {
        bail!("which group? Give --group (or -c with a configuration file); see --help");
    }
    if args.log.output.is_none() && args.log.vhost_dir.is_none() {
        bail!("where to? Give --output or --vhost-dir; see --help");
    }
    let daemons = daemons
        .iter()
        .map(|text| Daemon::read(text).map_err(|error| anyhow::anyhow!("daemon {text:?}: {error}")))
        .collect::<anyhow::Result<_>>()?;
    let table = SpreadTable { daemon: daemons, state: args.state.clone(), log: vec![args.log.clone()] };
    let mut session = from_table(table, config)?;
    if !config.state {
        session.state = None;
    } else if session.state.is_none() {
        session.state = state_path(&session.logs);
    }
    Ok(session)
}

fn from_table(table: SpreadTable, config: &mut Config) -> anyhow::Result<SessionConfig> {
    let mut daemons: Vec<_> = table.daemon.into_iter().map(|Daemon(text, address)| (text, address)).collect();
    if daemons.is_empty() {
        let Daemon(text, address) = Daemon::read("4803").map_err(anyhow::Error::msg)?;
        daemons.push((text, address));
    }
    let mut logs = Vec::new();
    for options in &table.log {
        logs.extend(logs_of(options)?);
    }
    if logs.is_empty() {
        bail!("a session without a log with group and output");
    }
    let order = table.log.iter().find_map(|l| l.order).unwrap_or(Order::Delivery);
    if table.log.iter().any(|l| l.order.unwrap_or(Order::Delivery) != order) {
        bail!("all logs of a session have the same order: delivery, or time with the same window");
    }
    config.order = order;
    Ok(SessionConfig { daemons, logs, state: table.state })
}

fn logs_of(options: &LogOptions) -> anyhow::Result<Vec<LogConfig>> {
    let form = match &options.format {
        None => Form::Raw,
        Some(name) => Form::parse(name, options.log_format.as_deref())
            .map_err(|error| anyhow::anyhow!("format {name:?}: {error}"))?,
    };
    if options.group.is_empty() {
        bail!("a log without a group");
    }
    let rotation = rotation_of(options)?.map(Arc::new);
    let target = options.output.as_deref().map(Target::parse);
    let log = |group: &spread::GroupName| LogConfig {
        target: target.clone(),
        vhost_dir: options.vhost_dir.clone(),
        matches: options.matches.clone(),
        rewrite: options.rewrite_timestamp.clone().unwrap_or(Rewrite::Keep),
        form: form.clone(),
        rotation: rotation.clone(),
        ..LogConfig::new(*group)
    };
    Ok(options.group.iter().map(log).collect())
}

fn rotation_of(options: &LogOptions) -> anyhow::Result<Option<Rotation>> {
    let file = match (&options.output, &options.vhost_dir) {
        (Some(output), _) => match Target::parse(output) {
            Target::File(path) => Some(path),
            _ => None,
        },
        (None, Some(dir)) => Some(dir.join(options.vhost_name.as_deref().unwrap_or("%{vhost}"))),
        (None, None) => None,
    };
    let wanted = options.rotate.is_some() || options.rotate_size.is_some();
    let named = file.as_ref().is_some_and(|f| f.to_string_lossy().contains('%'));
    let more = options.link.is_some()
        || !options.keep.is_empty()
        || options.on_complete.is_some()
        || options.compress.is_some_and(|c| c != Archive::Keep);
    let Some(file) =
        file.filter(|_| wanted || named && (options.output.is_some() || options.vhost_name.is_some()))
    else {
        if wanted || more {
            bail!(
                "--link, --keep, --on-complete and --compress are for files that are rotated: give --rotate, --rotate-size or a \
                   time in the name of the file"
            );
        }
        return Ok(None);
    };
    let text = file.to_str().context("the name of a file that is rotated must be a text")?;
    let template = Template::parse(text).map_err(|error| anyhow::anyhow!("output {text:?}: {error}"))?;
    let mut rotation = Rotation::new(template);
    rotation.every = options.rotate.or(rotation.every);
    rotation.size = options.rotate_size.map(|s| s.0.max(1));
    rotation.zone = zone(options.zone.as_deref())?;
    rotation.link = options.link.clone();
    rotation.archive = options.compress.unwrap_or_default();
    rotation.on_complete = options.on_complete.clone();
    rotation.keep = options.keep.clone();
    let vhosts = options.vhost_dir.is_some();
    if vhosts != rotation.template.has_vhost() {
        bail!("{text:?}: %{{vhost}} stands in --vhost-name, and only there");
    }
    if vhosts && (!rotation.template.has_time() && rotation.every.is_some() || rotation.size.is_some()) {
        bail!(
            "files of virtual hosts are rotated by a time in their name: give --vhost-name, such as %{{vhost}}-%F.log"
        );
    }
    if rotation.template.has_time() && rotation.every.is_none() {
        rotation.every = rotation.template.period();
    }
    Ok(Some(rotation))
}

fn zone(name: Option<&str>) -> anyhow::Result<TimeZone> {
    match name {
        None | Some("UTC") => Ok(TimeZone::UTC),
        Some("local") => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name).with_context(|| format!("zone {name:?}")),
    }
}

fn from_spreadlogd(path: &Path, text: &str, args: &Args) -> anyhow::Result<Vec<SessionConfig>> {
    let conf = conf_file::parse(text, args.ignore_unsupported).map_err(|errors| {
        let lines: Vec<String> =
            errors.iter().map(|e| format!("{}: {e}{}", path.display(), excerpt(text, e))).collect();
        anyhow::anyhow!("{}", lines.join("\nlog_writer: "))
    })?;
    for warning in &conf.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    Ok(conf.sessions)
}

/// The line of an error, with carets below the word that the error names.
fn excerpt(text: &str, note: &conf_file::Note) -> String {
    let Some(line) = text.lines().nth(note.line.wrapping_sub(1)).filter(|l| !l.trim().is_empty()) else {
        return String::new();
    };
    let line = line.replace('\t', " ");
    let word = note.text.split('"').skip(1).step_by(2).find(|word| !word.is_empty() && line.contains(*word));
    let word = word.unwrap_or_else(|| line.trim());
    let before = line.find(word).map_or(0, |at| line[..at].chars().count());
    let (number, carets) = (note.line, "^".repeat(word.chars().count()));
    let margin = " ".repeat(number.to_string().len());
    format!("\n {margin} |\n {number} | {line}\n {margin} | {}{carets}", " ".repeat(before))
}

/// The state stands beside the first file of a session.
fn state_path(logs: &[LogConfig]) -> Option<PathBuf> {
    logs.iter().find_map(|log| match (&log.target, &log.vhost_dir, &log.rotation) {
        (_, Some(dir), _) => Some(with_suffix(dir, ".state")),
        // A name with a time changes, the position does not.
        (_, None, Some(plan)) => Some(with_suffix(&plan.template.without_time(), ".state")),
        (Some(Target::File(path)), None, None) if !path.starts_with("/dev") => {
            Some(with_suffix(path, ".state"))
        }
        _ => None,
    })
}

/// Suffix of audit groups unless configured.
pub const AUDIT_SUFFIX: &str = config::AUDIT_SUFFIX;

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
