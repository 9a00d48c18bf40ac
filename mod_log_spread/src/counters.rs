//! Counters of all children together.
// spec: mod_log_spread M-17

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use httpd::StatusForm;
use httpd::shared::Zeroed;
use log_stream::group::HostHash;

/// Bits that remember for which groups a writer was ever heard.
const HEARD_WORDS: usize = 256;

macro_rules! counters {
    ($($name:ident, $shown:literal, $help:literal;)*) => {
        /// Counters in shared memory: all zero at the first start, kept over graceful restarts and ends of children.
        #[derive(Debug, Default)]
        #[repr(C)]
        pub(crate) struct Counters {
            $(#[doc = $help] pub(crate) $name: AtomicU64,)*
            heard: Heard,
        }

        impl Counters {
            /// Name for programs, help for people, value.
            fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($shown, $help, self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    lines, "Lines", "Lines that the server gave to $ logs.";
    bytes, "Bytes", "Bytes of these lines.";
    acked, "Acknowledged", "Lines that a log writer acknowledged.";
    ordered, "Ordered", "Lines that the daemons ordered while no log writer was heard.";
    in_doubt, "InDoubt", "Lines that were sent, but whose arrival is not known.";
    dropped_full, "DroppedQueueFull", "Lines dropped because the queue was full.";
    dropped_exit, "DroppedAtExit", "Lines dropped because a child ended without a daemon.";
    dropped_name, "DroppedBadName", "Lines dropped because the log has no usable name.";
    cut, "Cut", "Lines cut to SpreadLogMaxLine.";
    messages, "Messages", "Messages sent to daemons.";
    resent, "Resent", "Messages that were sent again.";
    connects, "Connects", "Sessions made.";
    connect_failures, "ConnectFailures", "Attempts to connect that failed.";
    lost_sessions, "LostSessions", "Sessions that broke.";
    sessions, "Sessions", "Sessions that are up now.";
    queue_high_water, "QueueHighWater", "Most bytes ever in a child's queue.";
    write_max_us, "LongestWriteMicroseconds", "Longest time that a request spent in the module, in microseconds.";
}

#[derive(Debug)]
#[repr(C)]
struct Heard([AtomicU64; HEARD_WORDS]);

impl Default for Heard {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; HEARD_WORDS])
    }
}

// SAFETY: atomics only; zero is the start of each.
unsafe impl Zeroed for Counters {}

impl Counters {
    /// A writer answered for this group, in any child, at any time.
    pub(crate) fn heard(&self, group: &[u8]) -> bool {
        let (word, bit) = place(group);
        self.heard.0[word].load(Relaxed) & bit != 0
    }

    /// Remembers that a writer answered for this group.
    pub(crate) fn set_heard(&self, group: &[u8]) {
        let (word, bit) = place(group);
        self.heard.0[word].fetch_or(bit, Relaxed);
    }

    /// Lines whose end is not known yet: in queues, or on their way.
    fn under_way(&self) -> u64 {
        let done = [
            &self.acked,
            &self.ordered,
            &self.in_doubt,
            &self.dropped_full,
            &self.dropped_exit,
            &self.dropped_name,
        ];
        let done: u64 = done.iter().map(|c| c.load(Relaxed)).sum();
        self.lines.load(Relaxed).saturating_sub(done)
    }

    /// The counters for a status page.
    pub(crate) fn page(&self, form: StatusForm) -> String {
        let mut rows = self.rows();
        rows.push(("UnderWay", "Lines in queues or not confirmed yet.", self.under_way()));
        let mut page = String::new();
        if form == StatusForm::Html {
            page.push_str("<hr />\n<h2>Log lines to Spread</h2>\n<table border=\"0\">\n");
        }
        for (name, help, value) in rows {
            // Writing to a string cannot fail.
            let _ = match form {
                StatusForm::Auto => writeln!(page, "SpreadLog-{name}: {value}"),
                StatusForm::Html => {
                    writeln!(page, "<tr><td>{help}</td><td align=\"right\">{value}</td></tr>")
                }
            };
        }
        if form == StatusForm::Html {
            page.push_str("</table>\n");
        }
        page
    }
}

/// A group has one bit; two groups may share it, which makes the second one strict from its start.
fn place(group: &[u8]) -> (usize, u64) {
    let bit = HostHash::Fnv1a.bucket(group, 64 * 256) as usize;
    (bit / 64, 1 << (bit % 64))
}
