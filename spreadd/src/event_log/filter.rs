//! From `EventPriority` and `DebugFlags` to what is logged.
//!
//! The flags of the original name its modules. Here they choose the parts of this program that do the same:
//!
//! - `PRINT` (and `ALL`): the lines of normal operation, one for each start, stop, reload and membership change;
//! - another flag: what its part says, down to `EventPriority`;
//! - parts that are not chosen still tell what is wrong (level `warn`).
//!
//! So a file that was written for Spread 5 hides no warning, and `EventPriority = pDEBUG` with `SESSION` shows
//! every decision about clients and nothing else.

use crate::config::{EventFlags, EventPriority, Options};

/// The flags that choose a part, and the part.
const PARTS: [(&str, &[&str]); 13] = [
    ("DATA_LINK", &["spreadd::ring_driver"]),
    ("NETWORK", &["spreadd::ring_driver"]),
    ("PROTOCOL", &["spreadd::ring_driver", "spread_ring"]),
    ("FLOW_CONTROL", &["spreadd::ring_driver", "spread_ring"]),
    ("MEMBERSHIP", &["spreadd::ring_driver", "spreadd::hub", "spread_ring"]),
    ("SESSION", &["spreadd::session", "spreadd::hub"]),
    ("GROUPS", &["spreadd::hub", "spread_groups"]),
    ("CONFIGURATION", &["spreadd::config", "spreadd::cluster"]),
    ("SECURITY", &["spreadd::session"]),
    ("ACM", &["spreadd::session"]),
    ("EVENTS", &["spreadd::daemon"]),
    ("STATUS", &["spreadd::observe"]),
    ("DEBUG", &["spreadd"]),
];

/// What is logged, as text for [`tracing_subscriber::EnvFilter`].
pub(crate) fn directives(options: &Options) -> String {
    let flags = options.debug_flags.unwrap_or_default();
    let level = match options.event_priority.unwrap_or_default() {
        EventPriority::Debug => "debug",
        EventPriority::Info => "info",
        EventPriority::Warning => "warn",
        EventPriority::Error | EventPriority::Critical | EventPriority::Fatal => "error",
    };
    if flags.0 == u32::MAX {
        return level.to_owned();
    }
    let base = match (flags.intersects(EventFlags::PRINT), level) {
        (true, "debug") => "info",
        (true, level) => level,
        (false, "error") => "error",
        (false, _) => "warn",
    };
    let mut text = base.to_owned();
    let mut chosen: Vec<&str> = Vec::new();
    for (word, parts) in PARTS {
        let bit = EventFlags::WORDS.iter().find(|(flag, _)| *flag == word).map_or(0, |(_, bit)| *bit);
        if flags.intersects(bit) {
            chosen.extend(parts);
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    for part in chosen {
        text.push_str(&format!(",{part}={level}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(flags: Option<u32>, priority: Option<EventPriority>) -> String {
        let options =
            Options { debug_flags: flags.map(EventFlags), event_priority: priority, ..Options::default() };
        directives(&options)
    }

    #[test]
    fn flags_and_priorities_choose_levels() {
        assert_eq!(of(None, None), "info,spreadd::cluster=info,spreadd::config=info");
        assert_eq!(of(Some(0), None), "warn", "NONE");
        assert_eq!(of(Some(EventFlags::PRINT | EventFlags::EXIT), None), "info", "the sample file");
        assert_eq!(of(Some(u32::MAX), Some(EventPriority::Debug)), "debug", "ALL");
        assert_eq!(of(Some(EventFlags::PRINT), Some(EventPriority::Fatal)), "error");
        let session = EventFlags::WORDS.iter().find(|(word, _)| *word == "SESSION").unwrap().1;
        let text = of(Some(session | EventFlags::PRINT), Some(EventPriority::Debug));
        assert_eq!(text, "info,spreadd::hub=debug,spreadd::session=debug");
    }

    #[test]
    fn every_choice_is_a_valid_filter() {
        for (_, flag) in EventFlags::WORDS {
            for (_, priority) in EventPriority::WORDS {
                let text = of(Some(flag), Some(priority));
                assert!(tracing_subscriber::EnvFilter::try_new(&text).is_ok(), "{text}");
            }
        }
    }
}
