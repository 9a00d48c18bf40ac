//! Counters of all children together.
// spec: mod_log_spread M-17

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

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
            writers: Writers,
            /// Random; tells this server from an earlier one.
            pub(crate) instance: AtomicU64,
            /// Seconds since 1970 when some child last looked for journals of ended ones.
            scanned: AtomicU64,
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
    acked_in_part, "AcknowledgedInPart", "Of these, lines that not every known log writer has.";
    ordered, "Ordered", "Lines that the daemons ordered while no log writer was heard.";
    in_doubt, "InDoubt", "Lines that were sent, but whose arrival is not known.";
    dropped_full, "DroppedQueueFull", "Lines dropped because the queue was full.";
    dropped_exit, "DroppedAtExit", "Lines dropped because a child ended without a daemon.";
    dropped_name, "DroppedBadName", "Lines dropped because the log has no usable name.";
    spooled, "Spooled", "Lines that children left in the spool when they ended.";
    adopted, "Adopted", "Lines of the spool that children took over from ended ones or from an earlier server.";
    lost_crash, "LostInCrash", "Lines that are missing in the spool of a child that was killed.";
    spilled, "Spilled", "Lines that waited on the disk alone.";
    spool_bytes, "SpoolBytes", "Bytes in the spool now.";
    spool_errors, "SpoolErrors", "Failures to write or read the spool, a full one too.";
    error_lines, "ErrorLines", "Lines of the error log among all lines.";
    error_suppressed, "ErrorLinesSuppressed", "Lines of the error log left out: too many a second.";
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

/// Writers that answered some child lately, so that a new child waits for them too.
#[derive(Debug)]
#[repr(C)]
struct Writers([Slot; WRITER_SLOTS]);

impl Default for Writers {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Slot::default()))
    }
}

/// One writer of one group.
#[derive(Debug, Default)]
#[repr(C)]
struct Slot {
    /// Seconds since 1970 when it last answered; 0: free; `LOCKED` while the slot changes.
    heard: AtomicU64,
    group: AtomicU64,
    id: [AtomicU64; 2],
}

/// Writers and groups that are remembered.
const WRITER_SLOTS: usize = 64;
/// Children look for journals of ended ones so often, all together.
const SCAN_SECONDS: u64 = 2;
/// Mark of a slot that changes.
const LOCKED: u64 = u64::MAX;
/// The place of a writer that no child heard for this long may be used for another one.
const WRITER_SECONDS: u64 = 120;

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

    /// Remembers that a writer answered for a group, or (`here` is false) that it ended in order.
    pub(crate) fn note_writer(&self, group: &[u8], id: &[u8], here: bool, now: u64) {
        let Ok(id) = <[u8; 16]>::try_from(id) else { return };
        let (group, id) = (hash(group), halves(id));
        let slots = &self.writers.0;
        if let Some(slot) = slots.iter().find(|s| s.heard.load(Acquire) != 0 && s.is(group, id)) {
            let before = slot.heard.load(Relaxed);
            if before != LOCKED {
                // Another child may have been faster: as good.
                let _ = slot.heard.compare_exchange(before, if here { now } else { 0 }, AcqRel, Relaxed);
            }
            return;
        }
        let free = |s: &&Slot| s.heard.load(Relaxed).saturating_add(WRITER_SECONDS) < now;
        for slot in slots.iter().filter(free).filter(|_| here) {
            let before = slot.heard.load(Relaxed);
            if before != LOCKED && slot.heard.compare_exchange(before, LOCKED, AcqRel, Relaxed).is_ok() {
                slot.group.store(group, Relaxed);
                slot.id[0].store(id[0], Relaxed);
                slot.id[1].store(id[1], Relaxed);
                slot.heard.store(now, Release);
                return;
            }
        }
    }

    /// Writers that answered some child for this group in the last `limit` seconds.
    pub(crate) fn writers(&self, group: &[u8], now: u64, limit: u64) -> Vec<[u8; 16]> {
        let group = hash(group);
        let lately = |s: &&Slot| {
            let heard = s.heard.load(Acquire);
            heard != LOCKED && heard.saturating_add(limit) >= now && s.group.load(Relaxed) == group
        };
        let id = |s: &Slot| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&s.id[0].load(Relaxed).to_be_bytes());
            id[8..].copy_from_slice(&s.id[1].load(Relaxed).to_be_bytes());
            id
        };
        self.writers.0.iter().filter(lately).map(id).collect()
    }

    /// True for one child every few seconds, or when the last one found something: look for journals of ended children.
    pub(crate) fn may_scan(&self, now: u64) -> bool {
        let last = self.scanned.load(Relaxed);
        last.saturating_add(SCAN_SECONDS) <= now
            && self.scanned.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// There may be more journals.
    pub(crate) fn scan_again(&self) {
        self.scanned.store(0, Relaxed);
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
            &self.spooled,
            &self.lost_crash,
        ];
        let done: u64 = done.iter().map(|c| c.load(Relaxed)).sum();
        (self.lines.load(Relaxed) + self.adopted.load(Relaxed)).saturating_sub(done)
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

impl Slot {
    fn is(&self, group: u64, id: [u64; 2]) -> bool {
        self.group.load(Relaxed) == group
            && self.id[0].load(Relaxed) == id[0]
            && self.id[1].load(Relaxed) == id[1]
    }
}

fn halves(id: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = id;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

fn hash(group: &[u8]) -> u64 {
    u64::from(HostHash::Fnv1a.bucket(group, u32::MAX))
}

/// A group has one bit; two groups may share it, which makes the second one strict from its start.
fn place(group: &[u8]) -> (usize, u64) {
    let bit = HostHash::Fnv1a.bucket(group, 64 * 256) as usize;
    (bit / 64, 1 << (bit % 64))
}
