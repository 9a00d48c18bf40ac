//! What to read and where to write.

use std::path::PathBuf;
use std::time::Duration;

use spread::{Address, GroupName};

use crate::output::Target;
use crate::route::{Matcher, Rewrite};

/// Everything the program needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sessions with daemons.
    pub sessions: Vec<SessionConfig>,
    /// Most bytes read ahead of the output, for each session.
    pub buffer_bytes: usize,
    /// When lines are on disk, and so acknowledged.
    pub fsync: Fsync,
    /// Longest time that a line stays in memory when the output is fine.
    pub flush_every: Duration,
    /// Send acknowledgements to sources that want them.
    pub acks: bool,
    /// Suffix of the audit groups; `None`: they are not joined.
    pub audit_suffix: Option<String>,
    /// Lock files.
    pub lock: bool,
}

/// One session: one order of lines.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Daemons in order of preference, with the texts they came from.
    pub daemons: Vec<(String, Address)>,
    /// What is written.
    pub logs: Vec<LogConfig>,
    /// Where the position is kept over restarts.
    pub state: Option<PathBuf>,
}

/// Where the lines of one group go.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The group.
    pub group: GroupName,
    /// A file (or pipe) for all lines that match.
    pub target: Option<Target>,
    /// A directory with one file for each virtual host.
    pub vhost_dir: Option<PathBuf>,
    /// Lines must match one of these; none: all lines.
    pub matches: Vec<Matcher>,
    /// What happens to the time of a line.
    pub rewrite: Rewrite,
}

/// When written lines are put on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// When the system does it. Lines are acknowledged once written.
    Never,
    /// At most once in this time, and lines are acknowledged then.
    Every(Duration),
}

impl Default for Fsync {
    fn default() -> Self {
        Self::Every(Duration::from_secs(1))
    }
}

/// Bytes that are read ahead unless configured.
pub const BUFFER_BYTES: usize = 64 << 20;
/// Time that a line stays in memory unless configured.
pub const FLUSH_EVERY: Duration = Duration::from_millis(50);
/// Suffix of audit groups unless configured.
pub const AUDIT_SUFFIX: &str = "~";

impl Config {
    /// A configuration without sessions.
    pub fn new() -> Self {
        Self {
            sessions: Vec::new(),
            buffer_bytes: BUFFER_BYTES,
            fsync: Fsync::default(),
            flush_every: FLUSH_EVERY,
            acks: true,
            audit_suffix: Some(AUDIT_SUFFIX.into()),
            lock: true,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionConfig {
    /// All groups, once each.
    pub fn groups(&self) -> Vec<GroupName> {
        let mut groups: Vec<GroupName> = self.logs.iter().map(|l| l.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}
