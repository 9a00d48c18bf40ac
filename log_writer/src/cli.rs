//! The command line of the program `log_writer`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use serde::Deserialize;
use spread::GroupName;

use crate::config::{self, Fsync};
use crate::retention::Keep;
use crate::rotate::{Archive, Period};
use crate::route::{Matcher, Rewrite};
use crate::words::{self, Daemon, Size, Word};

/// The command line, for the man page and for completions.
pub fn command() -> clap::Command {
    Args::command()
}

/// Writes the access lines of all web servers of a cluster to one file, in one order.
///
/// Web servers publish their lines with mod_log_spread to a group of the Spread daemons. This program joins the group
/// and writes every line once, in the order of delivery, which is the same on every host: two log writers have
/// byte-identical files. Lines with numbers (mod_log_spread gives them) that were lost or doubled on the way are asked
/// for again or left out; what is missing for good is written to this program's own log as a GAP. The numbers stand in
/// an index beside each file, by which "log_writer audit" proves that every line is there.
///
/// Signals: HUP opens the output anew (rename it, then send HUP), USR1 begins new files (with rotation), TERM and INT
/// write what was read and end, USR2 shows counters. Exit status: 0 ended in order, 1 something could not be written,
/// 2 wrong use or configuration; of audit: 0 every line once and in order, 1 not so, 2 cannot be read.
#[derive(Parser, Debug)]
#[command(name = "log_writer", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  log_writer -s 4803 --group site4 --output access.log
  log_writer -s 4803@log1 -s 4803@log2 --group site4 --output '/var/log/site4-%F.log' --compress gzip --keep 90
  log_writer -s 4803 --group site4 --output access.log --exactly-once --fsync batch
  log_writer -s 4803 --group site4 --vhost-dir hosts --format json
  log_writer -s 4803 --group site4 --group site5 --output '|gzip >access.gz'
  log_writer -c /etc/log_writer.toml --check
  log_writer audit access.log access.log-20261127-000000.gz
  log_writer audit access.log --compare /net/log2/access.log")]
pub struct Args {
    /// What to do instead of writing.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Daemon: 4803 for the local socket, 4803@host for another host. More than once: the first that answers is used.
    /// Without a value (and with -c): files are not locked.
    #[arg(short = 's', long = "spread", value_name = "DAEMON", num_args = 0..=1, default_missing_value = "")]
    pub spread: Vec<String>,

    /// What is written where.
    #[command(flatten)]
    pub log: LogOptions,

    /// Configuration: a TOML file (*.toml), or a spreadlogd.conf, instead of --spread, --group and --output.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["group", "output", "vhost_dir", "matches"])]
    pub config: Option<PathBuf>,

    /// Check the configuration and end.
    #[arg(long)]
    pub check: bool,

    /// With a spreadlogd.conf: keys that are not supported (Perl, Python, C modules) are warnings.
    #[arg(long)]
    pub ignore_unsupported: bool,

    /// How the writer works.
    #[command(flatten)]
    pub options: Options,

    /// File with the position, for restarts without loss and without doubles. Default: the output with .state.
    #[arg(long, value_name = "FILE", conflicts_with = "no_state")]
    pub state: Option<PathBuf>,

    /// Log level of this program (error, warn, info, debug), or filters of tracing.
    #[arg(long, value_name = "LEVEL", default_value = "info", global = true)]
    pub log_level: String,

    /// More messages (the same as --log-level debug).
    #[arg(short, long)]
    pub verbose: bool,

    /// Accepted for spreadlogd's sake: errors of Spread are always told.
    #[arg(short = 'x', hide = true)]
    pub report_errors: bool,

    /// Accepted for spreadlogd's sake: this program stays in the foreground.
    #[arg(short = 'D', hide = true)]
    pub foreground: bool,
}

/// How the writer works: flags, and keys at the top of a TOML file.
#[derive(clap::Args, Deserialize, Clone, Default, Debug)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Memory for lines that are read ahead of a slow output [default: 64M].
    #[arg(short, long, value_name = "SIZE", value_parser = Size::read)]
    #[serde(deserialize_with = "words::one")]
    pub buffer: Option<Size>,

    /// Disk space for lines that are read ahead when that memory is full; 0 for none [default: 1G].
    #[arg(long, value_name = "SIZE", value_parser = Size::read)]
    #[serde(deserialize_with = "words::one")]
    pub spill: Option<Size>,

    /// Directory for these lines, best on another disk. Default: beside the state file.
    #[arg(long, value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,

    /// When written lines are forced to disk, and acknowledged to the web servers: never, batch (after each write), or
    /// a time like 1s, 200ms [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = Fsync::read)]
    #[serde(deserialize_with = "words::one")]
    pub fsync: Option<Fsync>,

    /// Longest time a line waits in memory for others [default: 50ms].
    #[arg(long, value_name = "TIME", value_parser = Duration::read)]
    #[serde(deserialize_with = "words::one")]
    pub flush: Option<Duration>,

    /// Every line once, also when a web server sends it again days later (a spool): the positions of all sources are
    /// kept over restarts, and everything that would break the promise is refused.
    #[arg(long)]
    pub exactly_once: bool,

    /// Keep no position: lines that were not acknowledged before a crash may be doubled.
    #[arg(long)]
    pub no_state: bool,

    /// Keep no audit index (FILE.audit) beside the files.
    #[arg(long)]
    pub no_audit: bool,

    /// Do not acknowledge: the web servers do not learn that lines were written.
    #[arg(long)]
    pub no_acks: bool,

    /// Do not lock files.
    #[arg(long)]
    pub no_lock: bool,

    /// Suffix of the groups in which web servers tell the numbers of plain lines (SpreadLogAudit), and writers when to
    /// begin new files. Empty: none [default: ~].
    #[arg(long, value_name = "TEXT")]
    pub audit_suffix: Option<String>,
}

/// What is written where: flags, and keys of a `[[spread.log]]` in a TOML file.
#[derive(clap::Args, Deserialize, Clone, Default, Debug)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogOptions {
    /// Group to read. May be repeated.
    #[arg(short, long, value_name = "GROUP", value_parser = GroupName::read)]
    #[serde(deserialize_with = "words::many")]
    pub group: Vec<GroupName>,

    /// File to append to, perhaps with a time in its name (%Y %m %d %H %M %F ...); |command for a command's input; -
    /// for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,

    /// One file for each virtual host (the first word of a line, which is cut off) in this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub vhost_dir: Option<PathBuf>,

    /// Name of these files in the directory, with %{vhost} and perhaps a time, such as %{vhost}-%F.log.
    #[arg(long, value_name = "NAME", requires = "vhost_dir")]
    pub vhost_name: Option<String>,

    /// Only lines that match (POSIX extended expression). May be repeated: one match is enough.
    #[arg(long = "match", value_name = "EXPRESSION", value_parser = Matcher::read)]
    #[serde(rename = "match", deserialize_with = "words::many")]
    pub matches: Vec<Matcher>,

    /// The time in lines becomes: common (the writer's time), a format of strftime, or monotone (never earlier than
    /// that of the line before) [default: keep].
    #[arg(long, value_name = "HOW", value_parser = Rewrite::read)]
    #[serde(deserialize_with = "words::one")]
    pub rewrite_timestamp: Option<Rewrite>,

    /// Form of lines: raw (as received), meta (with source and number), json (one object each) [default: raw].
    #[arg(long, value_name = "FORM")]
    pub format: Option<String>,

    /// With json: the LogFormat of the lines, or common, combined, vhost_combined. Default: these three are tried.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Order of lines: delivery, or time with a window, such as time:5s: held until the times of others are so much
    /// later, then written by their own time [default: delivery].
    #[arg(long, value_name = "ORDER", value_parser = config::Order::read)]
    #[serde(deserialize_with = "words::one")]
    pub order: Option<config::Order>,

    /// Begin a new file so often: 15m, 1h, 1d, 1w. Default: as the time in the name changes.
    #[arg(long, value_name = "PERIOD", value_parser = Period::read)]
    #[serde(deserialize_with = "words::one")]
    pub rotate: Option<Period>,

    /// Begin a new file before this size is exceeded.
    #[arg(long, value_name = "SIZE", value_parser = Size::read)]
    #[serde(deserialize_with = "words::one")]
    pub rotate_size: Option<Size>,

    /// Time zone of periods and names: UTC, local, or a name such as Europe/Berlin [default: UTC].
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,

    /// Symbolic link to the current file.
    #[arg(long, value_name = "FILE")]
    pub link: Option<PathBuf>,

    /// What is made of complete files: none, gzip; zstd, parquet where built in [default: none].
    #[arg(long, value_name = "HOW", value_parser = Archive::read)]
    #[serde(deserialize_with = "words::one")]
    pub compress: Option<Archive>,

    /// Program that is run with the name of each complete file, after compression; one at a time, ended after a minute.
    #[arg(long, value_name = "PROGRAM")]
    pub on_complete: Option<PathBuf>,

    /// Which complete files are kept, older ones are removed: so many (90), so old (30d; h, d, w), so many bytes (100G;
    /// K, M, G, T). May be repeated: what is beyond one limit goes [default: all].
    #[arg(long, value_name = "LIMIT", value_parser = Keep::read)]
    #[serde(deserialize_with = "words::many")]
    pub keep: Vec<Keep>,
}

/// A session in a TOML file.
#[derive(Deserialize, Clone, Default, Debug)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SpreadTable {
    /// Daemons in the order in which they are tried.
    #[serde(deserialize_with = "words::many")]
    pub daemon: Vec<Daemon>,
    /// File with the position.
    pub state: Option<PathBuf>,
    /// What is written where.
    pub log: Vec<LogOptions>,
}

/// Subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Tells what log files hold, proved by their indexes: lines, holes, doubles, order of each source.
    ///
    /// Files of several periods are read together, in any order, also compressed; a directory stands for the files of
    /// virtual hosts in it. Exit status: 0 every line is there once and in order (with --compare: and the files are the
    /// same), 1 not so, 2 something cannot be read.
    #[command(after_help = "\
Examples:
  log_writer audit access.log
  log_writer audit --json /var/log/site4-2026-11-*.log.gz
  log_writer audit access.log --compare /net/log2/access.log")]
    Audit(AuditArgs),
    /// Follows the files of a log writer and gives their lines to a database or broker, at least once, with resume.
    ///
    /// The position is kept only after the receiver has confirmed; a writer is never held up.
    #[command(after_help = "\
Examples:
  log_writer ship access.log --to 'clickhouse:http://ch:8123/?table=logs.access'
  log_writer ship '/var/log/site4-%F.log' --to 'clickhouse:http://user:word@ch:8123/?table=logs.access'
  log_writer ship '/var/log/site4-%F.log' --to 'kafka:broker1:9092,broker2:9092/access-%{group}'")]
    Ship(ShipArgs),
    /// Prints the records of an audit index as JSON lines.
    Index {
        /// The index (FILE.audit).
        file: PathBuf,
    },
}

/// Flags of `ship`.
#[derive(clap::Args, Debug)]
pub struct ShipArgs {
    /// The name of the files, as in --output of the writer.
    pub file: String,
    /// Where to: `clickhouse:http://[user:password@]host:port/?table=NAME`, or `kafka:HOST[:PORT],.../TOPIC` where
    /// built in (`%{group}` in the topic is the group of a line).
    #[arg(long, value_name = "SINK")]
    pub to: String,
    /// Form of the lines: json, and for Kafka raw, meta [default: json].
    #[arg(long, value_name = "FORM")]
    pub format: Option<String>,
    /// For Kafka: file with settings of librdkafka, `name=value` in each line (TLS, SASL, compression).
    #[arg(long, value_name = "FILE")]
    pub sink_config: Option<PathBuf>,
    /// LogFormat of the lines, or common, combined, vhost_combined. Default: these three are tried.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// File with the position. Default: the name without its time, with .shipped.
    #[arg(long, value_name = "FILE")]
    pub position: Option<PathBuf>,
    /// State file of the writer. Default: the name without its time, with .state.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Most lines of a batch.
    #[arg(long, value_name = "LINES", default_value_t = 10_000)]
    pub batch: usize,
    /// Longest time a line waits for others.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = Duration::read)]
    pub wait: Duration,
    /// End when everything that is there was shipped.
    #[arg(long)]
    pub once: bool,
}

/// Flags of `audit`.
#[derive(clap::Args, Debug)]
pub struct AuditArgs {
    /// Log files, or directories of virtual hosts.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The file of another log writer, or a directory with files of the same names.
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// Lines without numbers are no fault.
    #[arg(long)]
    pub allow_unnumbered: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_key_has_its_flag() {
        let flags: Vec<String> =
            command().get_arguments().filter_map(|a| a.get_long().map(String::from)).collect();
        for (table, error) in [
            ("options", toml::from_str::<Options>("unknown = 1").expect_err("unknown").to_string()),
            ("log", toml::from_str::<LogOptions>("unknown = 1").expect_err("unknown").to_string()),
        ] {
            let keys: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            assert!(keys.len() > 8, "{table}: {error}");
            for key in keys {
                assert!(flags.iter().any(|f| f == key), "{table}: {key} in {flags:?}");
            }
        }
    }
}
