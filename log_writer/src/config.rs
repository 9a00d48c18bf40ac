//! What to read and where to write.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spread::{Address, GroupName};

use crate::format::Form;
use crate::output::Target;
use crate::rotate::Rotation;
use crate::route::{Matcher, Rewrite};
use crate::words::Word;

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
    /// Keep an audit index beside each file.
    pub index: bool,
    /// Remember sources after their end, and insist on all that is needed for every line once.
    pub exactly_once: bool,
    /// Most bytes of lines that wait on disk when the memory for them is full; 0: none.
    pub spill_bytes: u64,
    /// Keep the position over restarts.
    pub state: bool,
    /// In which order lines are written.
    pub order: Order,
    /// Where they wait; `None`: beside the state file.
    pub spill_dir: Option<PathBuf>,
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
    /// In which form lines are written.
    pub form: Form,
    /// How files follow one another; the name of the file is the template there.
    pub rotation: Option<Arc<Rotation>>,
}

impl LogConfig {
    /// A log of a group that goes nowhere yet.
    pub fn new(group: GroupName) -> Self {
        Self {
            group,
            target: None,
            vhost_dir: None,
            matches: Vec::new(),
            rewrite: Rewrite::Keep,
            form: Form::Raw,
            rotation: None,
        }
    }
}

/// When written lines are put on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// When the system does it. Lines are acknowledged once written.
    Never,
    /// At most once in this time, and lines are acknowledged then.
    Every(Duration),
}

/// Order of lines in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As they are delivered: the same everywhere.
    #[default]
    Delivery,
    /// By the time in the line: a line is held until others are later by this much.
    Time(Duration),
}

impl Order {
    /// Longest window.
    pub const WINDOW_MAX: Duration = Duration::from_secs(60);
}

impl Word for Order {
    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "delivery" => Ok(Self::Delivery),
            None if text == "time" => Ok(Self::Time(Duration::from_secs(5))),
            Some(("time", window)) => {
                let window = Duration::read(window)?;
                if window > Self::WINDOW_MAX {
                    return Err(format!("a window of at most {:?} is expected", Self::WINDOW_MAX));
                }
                Ok(Self::Time(window))
            }
            _ => Err("delivery, time or time:5s is expected".into()),
        }
    }
}

impl Default for Fsync {
    fn default() -> Self {
        Self::Every(Duration::from_secs(1))
    }
}

/// Bytes that are read ahead unless configured.
pub const BUFFER_BYTES: usize = 64 << 20;
/// Bytes that wait on disk unless configured.
pub const SPILL_BYTES: u64 = 1 << 30;
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
            index: true,
            exactly_once: false,
            spill_bytes: SPILL_BYTES,
            state: true,
            order: Order::Delivery,
            spill_dir: None,
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
