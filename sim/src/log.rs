//! What happened at each daemon process, as the oracle reads it.

use std::fmt;

use rustc_hash::FxHashMap;
use spread_ring::{ConfId, Mid, Seq, Service};

/// Number of a daemon process in a history. A restarted daemon is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proc(pub u32);

impl Proc {
    /// As an array index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A message: the process that submitted it and its running number there, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msg {
    /// Who submitted it.
    pub by: Proc,
    /// The how many-th of this process.
    pub no: u32,
}

impl fmt::Display for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}#{}", self.by.0, self.no)
    }
}

/// Place of a message in the order of its configuration: packet and number inside the packet.
pub type Place = (Seq, u16);

/// One thing that happened at a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message was accepted by `submit`; the running numbers of a process have no gaps.
    Submit {
        /// The message.
        msg: Msg,
        /// Its service.
        service: Service,
    },
    /// A message was delivered.
    Deliver {
        /// The message.
        msg: Msg,
        /// Its place.
        place: Place,
        /// Its service.
        service: Service,
    },
    /// A transitional configuration.
    Transitional {
        /// Its identifier.
        id: ConfId,
        /// Its members.
        members: Vec<Mid>,
        /// The regular configuration that ends.
        of: ConfId,
    },
    /// A regular configuration.
    Regular {
        /// Its identifier.
        id: ConfId,
        /// Its members.
        members: Vec<Mid>,
    },
}

/// An entry with its position among all entries of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Position among the entries of all processes: an earlier thing has a smaller number.
    pub order: u64,
    /// Virtual time in nanoseconds.
    pub at: u64,
    /// What happened.
    pub entry: Entry,
}

/// The log of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcLog {
    /// The process.
    pub mid: Mid,
    /// Its entries in order.
    pub lines: Vec<Line>,
    /// Whether it crashed or left.
    pub ended: bool,
}

/// The logs of a history.
#[derive(Clone, Debug, Default)]
pub struct Log {
    procs: Vec<ProcLog>,
    by_mid: FxHashMap<Mid, Proc>,
    lines: u64,
}

impl Log {
    /// Adds a process.
    pub fn start(&mut self, mid: Mid) -> Proc {
        let proc = Proc(u32::try_from(self.procs.len()).unwrap_or(u32::MAX));
        self.procs.push(ProcLog { mid, lines: Vec::new(), ended: false });
        self.by_mid.insert(mid, proc);
        proc
    }

    /// Appends an entry.
    pub fn push(&mut self, proc: Proc, at: u64, entry: Entry) {
        self.lines += 1;
        self.procs[proc.index()].lines.push(Line { order: self.lines, at, entry });
    }

    /// Notes that a process crashed or left.
    pub fn end(&mut self, proc: Proc) {
        self.procs[proc.index()].ended = true;
    }

    /// All processes.
    pub fn procs(&self) -> &[ProcLog] {
        &self.procs
    }

    /// One process.
    pub fn proc(&self, proc: Proc) -> &ProcLog {
        &self.procs[proc.index()]
    }

    /// For the tests that damage a log.
    pub fn proc_mut(&mut self, proc: Proc) -> &mut ProcLog {
        &mut self.procs[proc.index()]
    }

    /// The process with this identity, if it ever started.
    pub fn find(&self, mid: Mid) -> Option<Proc> {
        self.by_mid.get(&mid).copied()
    }

    /// Number of entries of all processes.
    pub fn len(&self) -> u64 {
        self.lines
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }
}
