//! The last events of the driver, kept in memory for the day when something went wrong.
//!
//! Writing an entry costs a few nanoseconds and allocates nothing; text is made when somebody asks.

use std::fmt::Write;

use spread_ring::{Nanos, NodeId};

/// Entries kept.
const LEN: usize = 4096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A packet of this type came; its counter.
    Received(u8),
    /// A packet of this type left; its length.
    Sent(u8),
    /// A datagram was dropped; the number of its reason.
    Dropped,
    /// A regular configuration; its epoch and number of members.
    Regular,
    /// A transitional configuration; its epoch and number of members.
    Transitional,
    /// A deadline of the engine passed; nanoseconds late.
    Timeout,
    /// The thread did not run; for how many nanoseconds.
    Pause,
    /// A socket had no room.
    Blocked,
    /// Packets were given up; how many.
    Abandoned,
    /// A send failed; the error code.
    SendError,
    /// The engine was asked to leave.
    Leave,
    /// Keys were reloaded; the active id.
    Keys,
    /// Another configuration; the epoch and the members of the ring that goes on.
    Reconfigured,
}

#[derive(Clone, Copy)]
struct Entry {
    at: Nanos,
    what: What,
    node: Option<NodeId>,
    a: u64,
    b: u64,
}

/// A ring buffer of entries.
pub(super) struct Blackbox {
    entries: Vec<Entry>,
    next: usize,
}

impl Blackbox {
    pub(super) fn new() -> Self {
        Self { entries: Vec::with_capacity(LEN), next: 0 }
    }

    pub(super) fn note(&mut self, at: Nanos, what: What, node: Option<NodeId>, a: u64, b: u64) {
        let entry = Entry { at, what, node, a, b };
        if let Some(slot) = self.entries.get_mut(self.next) {
            *slot = entry;
        } else {
            self.entries.push(entry);
        }
        self.next = (self.next + 1) % LEN;
    }

    /// One line per entry, oldest first.
    pub(super) fn dump(&self) -> String {
        self.last(LEN)
    }

    /// The last `max` entries, one per line, oldest first.
    pub(super) fn last(&self, max: usize) -> String {
        let (new, old) = self.entries.split_at(self.next.min(self.entries.len()));
        let mut text = String::with_capacity(self.entries.len().min(max) * 48);
        for entry in old.iter().chain(new).skip(self.entries.len().saturating_sub(max)) {
            let (seconds, nanos) = (entry.at.0 / 1_000_000_000, entry.at.0 % 1_000_000_000);
            let _ = write!(text, "{seconds}.{nanos:09} ");
            let _ = match entry.what {
                What::Received(kind) => write!(text, "received {}", packet_name(kind)),
                What::Sent(kind) => write!(text, "sent {}", packet_name(kind)),
                what => write!(text, "{}", format!("{what:?}").to_lowercase()),
            };
            if let Some(node) = entry.node {
                let _ = write!(text, " node={node}");
            }
            let _ = writeln!(text, " a={} b={}", entry.a, entry.b);
        }
        text
    }
}

fn packet_name(kind: u8) -> &'static str {
    match kind {
        1 => "data",
        2 => "token",
        3 => "token-request",
        4 => "ack",
        5 => "join",
        6 => "commit",
        7 => "hop-ack",
        8 => "presence",
        9 => "fragment",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_entries_in_order() {
        let mut blackbox = Blackbox::new();
        assert_eq!(blackbox.dump(), "");
        for i in 0..LEN as u64 + 10 {
            blackbox.note(Nanos(i * 1_000), What::Received(2), Some(NodeId(3)), i, 0);
        }
        let dump = blackbox.dump();
        let lines: Vec<_> = dump.lines().collect();
        assert_eq!(lines.len(), LEN);
        assert_eq!(lines[0], "0.000010000 received token node=n3 a=10 b=0");
        assert_eq!(lines[LEN - 1], "0.004105000 received token node=n3 a=4105 b=0");
    }
}
