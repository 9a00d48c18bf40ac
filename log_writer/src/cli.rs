//! The command line of the program `log_writer`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};

use crate::config::{self, Fsync};

/// The command line, for the man page and for completions.
pub fn command() -> clap::Command {
    Args::command()
}

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
pub struct Args {
    /// Daemon: 4803 for the local socket, 4803@host for another host. More than once: the first that answers is used.
    /// Without a value (and with -c): files are not locked.
    #[arg(short = 's', long = "spread", value_name = "DAEMON", num_args = 0..=1, default_missing_value = "")]
    pub spread: Vec<String>,

    /// Group to read. May be repeated.
    #[arg(short, long, value_name = "GROUP")]
    pub group: Vec<String>,

    /// File to append to; |command for a command's input; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,

    /// One file for each virtual host (the first word of a line, which is cut off) in this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub vhost_dir: Option<PathBuf>,

    /// Only lines that match (POSIX extended expression). May be repeated: one match is enough.
    #[arg(long = "match", value_name = "EXPRESSION")]
    pub matches: Vec<String>,

    /// Configuration file of spreadlogd, instead of --spread, --group and --output.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["group", "output", "vhost_dir", "matches"])]
    pub config: Option<PathBuf>,

    /// Check the configuration and end.
    #[arg(long)]
    pub check: bool,

    /// With -c: keys that are not supported (Perl, Python, C modules) are warnings.
    #[arg(long)]
    pub ignore_unsupported: bool,

    /// Memory for lines that are read ahead of a slow output.
    #[arg(short, long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub buffer: usize,

    /// When written lines are forced to disk, and acknowledged to the web servers: never, or a time like 1s, 200ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = fsync)]
    pub fsync: Fsync,

    /// Longest time a line waits in memory for others.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time)]
    pub flush: Duration,

    /// File with the position, for restarts without loss and without doubles. Default: the output with .state.
    #[arg(long, value_name = "FILE", conflicts_with = "no_state")]
    pub state: Option<PathBuf>,

    /// Keep no position: lines that were not acknowledged before a crash may be doubled.
    #[arg(long)]
    pub no_state: bool,

    /// Do not acknowledge: the web servers do not learn that lines were written.
    #[arg(long)]
    pub no_acks: bool,

    /// Suffix of the groups in which web servers tell the numbers of plain lines (SpreadLogAudit). Empty: none.
    #[arg(long, value_name = "TEXT", default_value = config::AUDIT_SUFFIX)]
    pub audit_suffix: String,

    /// Log level of this program (error, warn, info, debug), or filters of tracing.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
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
    use super::*;

    #[test]
    fn flags_are_consistent() {
        command().debug_assert();
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
