//! The words of the language, and the nearest of them to a wrong one.

use crate::config::client_words;
use crate::config::options::{EventFlags, EventPriority};

/// The word that begins a segment.
pub(super) const SEGMENT: &str = "Spread_Segment";
/// The word before an identifier.
pub(super) const VIRTUAL_ID: &str = "VirtualID";
/// The letters of interface stanzas.
pub(super) const LETTERS: [&str; 3] = ["D", "C", "M"];

/// The options of Spread 5, as they are written.
pub(super) const OPTIONS: [&str; 31] = [
    "DebugFlags",
    "EventPriority",
    "EventLogFile",
    "EventTimeStamp",
    "EventPreciseTimeStamp",
    "DangerousMonitor",
    "SocketPortReuse",
    "RuntimeDir",
    "DaemonUser",
    "DaemonGroup",
    "AllowedAuthMethods",
    "RequiredAuthMethods",
    "AccessControlPolicy",
    "MaxSessionMessages",
    "ActiveIPVersion",
    "Window",
    "PersonalWindow",
    "AcceleratedRing",
    "AcceleratedWindow",
    "TokenTimeout",
    "HurryTimeout",
    "AliveTimeout",
    "JoinTimeout",
    "RepTimeout",
    "SegTimeout",
    "GatherTimeout",
    "FormTimeout",
    "LookupTimeout",
    "WideAreaNetwork",
    "ExcludeSegAddrsFromHash",
    "IgnoreMulticastJoinErrors",
];

/// Our own words about the daemon itself; those about clients are in [`client_words`].
pub(super) const OWN: [&str; 1] = ["MetricsAddress"];

/// All options: those of Spread 5 and our own.
pub(super) fn options() -> impl Iterator<Item = &'static str> + Clone {
    OPTIONS.into_iter().chain(OWN).chain(client_words::words())
}

/// Whether `word` is an option or begins a segment.
pub(super) fn is_top_level(word: &str) -> bool {
    word == SEGMENT || options().any(|option| option == word)
}

/// Whether `word` is reserved in the language: it cannot be a name without quotes.
pub(super) fn is_keyword(word: &str) -> bool {
    is_top_level(word)
        || word == VIRTUAL_ID
        || LETTERS.contains(&word)
        || word == "NONE"
        || EventFlags::WORDS.iter().any(|(w, _)| *w == word)
        || EventPriority::WORDS.iter().any(|(w, _)| *w == word)
}

/// The word of `words` that is nearest to `wrong`, if it is near: at most a third of its letters differ.
/// Different case counts little.
pub(super) fn nearest<'a>(wrong: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word that is much longer than any keyword is near to none; this also bounds the work.
    if wrong.len() > 40 {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase();
    words
        .into_iter()
        .map(|word| (distance(&wrong, &word.to_ascii_lowercase()), word))
        .filter(|(d, word)| d * 3 <= word.len().max(3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, word)| word)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        for (wrong, right) in [
            ("window", Some("Window")),
            ("PersonalWindw", Some("PersonalWindow")),
            ("TokenTimout", Some("TokenTimeout")),
            ("spread_segment", Some("Spread_Segment")),
            ("Colour", None),
            ("x", None),
        ] {
            let words = options().chain([SEGMENT]);
            assert_eq!(nearest(wrong, words), right, "{wrong}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
