//! A brake on guessing passwords: a source with too many wrong ones is refused for a while, unheard.
//!
//! Failures are counted per source in a window that begins with the first of them. With [`FAILURES_MAX`] the source
//! is braked until the window ends: its passwords are then wrong without being looked at, also right ones, so that an
//! answer tells nothing. A success takes no failure back: who has one account must not guess at others for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::auth::Peer;
use super::quiet::Quiet;
use super::stats::Counters;

/// Wrong passwords of one source in one window, before it is braked.
pub(crate) const FAILURES_MAX: u32 = 10;

/// Length of a window.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Sources that are remembered: about 500 KB. Further ones take the place of the oldest that is not braked.
const SOURCES_MAX: usize = 4096;

/// What is braked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A host. Of IPv6 a network of 64 bits, in which a host chooses its addresses as it likes.
    Host(IpAddr),
    /// A user of this host, by the local socket. One must not brake the others.
    User(u32),
}

impl Source {
    /// The source of a connection; `uid` is the user at the other end of a local one.
    pub(crate) fn new(peer: Peer, uid: u32) -> Self {
        match peer {
            Peer::Local => Self::User(uid),
            Peer::Ip(IpAddr::V6(addr)) => {
                Self::Host(Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX)).into())
            }
            Peer::Ip(addr) => Self::Host(addr),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(IpAddr::V6(addr)) => write!(f, "{addr}/64"),
            Self::Host(addr) => addr.fmt(f),
            Self::User(uid) => write!(f, "uid {uid}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    start: Instant,
    failures: u32,
    refused: u64,
}

impl Record {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.start) >= WINDOW
    }

    fn is_braked(&self) -> bool {
        self.failures >= FAILURES_MAX
    }
}

/// The failures of all sources. One for a daemon, so that a reload of its files forgets nothing.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    records: Mutex<BTreeMap<Source, Record>>,
    counters: Arc<Counters>,
    quiet: Quiet,
}

impl Brake {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, ..Self::default() }
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<Source, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a password of this source is to be looked at. If not, that is counted.
    pub(crate) fn admits(&self, source: Source, now: Instant) -> bool {
        let (failures, refused) = {
            let mut records = self.records();
            let Some(record) = records.get_mut(&source) else { return true };
            if record.is_over(now) {
                records.remove(&source);
                return true;
            }
            if !record.is_braked() {
                return true;
            }
            record.refused += 1;
            (record.failures, record.refused)
        };
        self.counters.password_refused_total.add(1);
        if refused.is_power_of_two()
            && let Some(suppressed) = self.quiet.admit()
        {
            warn!(
                %source, failures, refused, suppressed,
                "Passwords are not looked at: too many of this source were wrong."
            );
        }
        false
    }

    /// A password of this source was wrong.
    pub(crate) fn failed(&self, source: Source, now: Instant) {
        let failures = {
            let mut records = self.records();
            if records.len() >= SOURCES_MAX && !records.contains_key(&source) {
                self.forget(&mut records, now);
            }
            let new = Record { start: now, failures: 0, refused: 0 };
            let record = records.entry(source).or_insert(new);
            if record.is_over(now) {
                *record = new;
            }
            record.failures = record.failures.saturating_add(1);
            record.failures
        };
        self.counters.password_failures_total.add(1);
        if failures.is_power_of_two()
            && let Some(suppressed) = self.quiet.admit()
        {
            warn!(%source, failures, suppressed, "A client gave a wrong password, or a user that is not known.");
        }
    }

    /// Makes room for one more.
    fn forget(&self, records: &mut BTreeMap<Source, Record>, now: Instant) {
        records.retain(|_, record| !record.is_over(now));
        if records.len() < SOURCES_MAX {
            return;
        }
        let oldest = records.iter().min_by_key(|(_, record)| (record.is_braked(), record.start));
        if let Some(source) = oldest.map(|(source, _)| *source) {
            records.remove(&source);
            self.counters.password_sources_forgotten_total.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u32) -> Source {
        Source::new(Peer::Ip(IpAddr::from(number.to_be_bytes())), 0)
    }

    #[test]
    fn too_many_failures_brake_a_source_until_its_window_ends() {
        let brake = Brake::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(brake.admits(host(1), start));
            brake.failed(host(1), start + Duration::from_secs(1));
        }
        let end = start + Duration::from_secs(1) + WINDOW;
        assert!(!brake.admits(host(1), end - Duration::from_millis(1)));
        assert!(!brake.admits(host(1), end - Duration::from_millis(1)), "being refused does not help");
        assert!(brake.admits(host(2), start), "others are not braked");
        assert!(brake.admits(host(1), end), "nor made it longer");
        let stats = brake.counters.read();
        assert_eq!((stats.password_failures_total, stats.password_refused_total), (10, 2));
        // A new window begins with the next failure.
        brake.failed(host(1), end);
        assert!(brake.admits(host(1), end));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_that_are_braked() {
        let brake = Brake::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            brake.failed(host(0), start);
        }
        let later = start + Duration::from_secs(1);
        for number in 1..=u32::try_from(SOURCES_MAX).unwrap() + 5 {
            brake.failed(host(number), later);
        }
        assert_eq!(brake.records().len(), SOURCES_MAX);
        assert_eq!(brake.counters.read().password_sources_forgotten_total, 6);
        assert!(!brake.admits(host(0), later));
        // What is over makes room for all.
        brake.failed(host(0), later + WINDOW);
        brake.failed(host(u32::MAX), later + WINDOW);
        assert_eq!(brake.counters.read().password_sources_forgotten_total, 6);
        assert_eq!(brake.records().len(), 2);
    }

    #[test]
    fn hosts_of_ipv6_are_networks_and_local_clients_are_users() {
        let source = |text: &str| Source::new(Peer::Ip(text.parse().unwrap()), 7);
        assert_eq!(source("2001:db8::1:2:3:4"), source("2001:db8::5"));
        assert_ne!(source("2001:db8:0:1::5"), source("2001:db8::5"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        let shown = [source("2001:db8::5"), source("10.0.0.1"), Source::new(Peer::Local, 7)];
        assert_eq!(shown.map(|source| source.to_string()), ["2001:db8::/64", "10.0.0.1", "uid 7"]);
    }
}
