//! What is known of one server.
// spec: mod_backhand 3

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Microseconds since 1970, of the clock of the machine that says it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Micros(pub u64);

impl From<Duration> for Micros {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }
}

impl Micros {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Time since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// This long after.
    #[must_use]
    pub const fn plus(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// In seconds.
    #[allow(clippy::cast_precision_loss, reason = "for display and comparison of ages")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// A host name: up to 255 bytes of printable ASCII, kept in place so that a record has a fixed size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    len: u8,
    bytes: [u8; Self::LEN_MAX],
}

impl Name {
    /// Longest name in bytes.
    pub const LEN_MAX: usize = 255;

    /// Takes a name; `None` if it is empty, too long, or has a byte that no host name has.
    pub fn new(name: &str) -> Option<Self> {
        let len = u8::try_from(name.len()).ok().filter(|len| *len > 0)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if !name.bytes().all(legal) {
            return None;
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { len, bytes })
    }

    /// A name that was checked when it was written to the table.
    /// In words of memory, `len` bytes of them.
    pub(crate) fn from_table(len: u8, words: &[u64]) -> Self {
        let mut bytes = [0; Self::LEN_MAX];
        if let Some(place) = bytes.get_mut(..usize::from(len)) {
            for (bytes, word) in place.chunks_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
            }
        }
        Self { len, bytes }
    }

    /// The name, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl Default for Name {
    fn default() -> Self {
        Self { len: 0, bytes: [0; Self::LEN_MAX] }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Resources of one server, as announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerStat {
    /// Host name as announced.
    pub hostname: Name,
    /// When this record was last received, by the clock of the receiver.
    pub mtime: Micros,
    /// Where it serves HTTP.
    pub contact: SocketAddr,
    /// Speed of the machine: units of a fixed piece of work that one CPU does in a second, by 100; larger is faster.
    pub arriba: u32,
    /// Workers of the server that are idle.
    pub aservers: u32,
    /// Workers of the server that are alive, idle and busy.
    pub nservers: u32,
    /// Load average of one minute, times 1000.
    pub load: u32,
    /// Smallest power of two not below the highest load seen so far, not scaled, at least 1.
    pub load_hwm: u32,
    /// Share of CPU time that is idle, times 1000: 0 busy, 1000 idle.
    pub cpu: u32,
    /// Usable CPUs.
    pub ncpu: u32,
    /// Installed memory in bytes.
    pub tmem: u64,
    /// Available memory in bytes.
    pub amem: u64,
}

impl Default for ServerStat {
    /// What is assumed where nothing could be read.
    // spec: mod_backhand 5.1
    fn default() -> Self {
        Self {
            hostname: Name::default(),
            mtime: Micros(0),
            contact: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            arriba: 1,
            aservers: 0,
            nservers: 0,
            load: 0,
            load_hwm: 1,
            cpu: 1000,
            ncpu: 1,
            tmem: 0,
            amem: 0,
        }
    }
}

impl ServerStat {
    /// Workers that are busy.
    pub const fn busy(&self) -> u32 {
        self.nservers.saturating_sub(self.aservers)
    }
}

/// What this host adds to the record of a server from its own decisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Load times 1000 charged since the last announcement.
    pub predicted_load: i64,
    /// Requests charged since the last announcement.
    pub predicted_busy: i64,
    /// Requests that this host has open there now.
    pub in_flight: i64,
    /// The same at the last announcement.
    pub in_flight_announced: i64,
    /// Not a candidate until then: it failed.
    pub suspect_until: Micros,
}

/// State of a slot that its record alone does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Left: no candidate until its next announcement.
    pub gone: bool,
    /// Ends soon: no candidate.
    pub draining: bool,
    /// The announcement carried a valid authentication.
    pub authenticated: bool,
    /// Heard through a Spread group.
    pub spread: bool,
}

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Server {
    /// The announced record.
    pub stat: ServerStat,
    /// Interval between its announcements, in milliseconds.
    pub interval_ms: u32,
    /// State.
    pub flags: Flags,
    /// What this host adds.
    pub live: Live,
    /// Requests sent there and answered.
    pub sent: u64,
    /// Sum of their times in microseconds.
    pub time_us: u64,
}

/// Where a server stands, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Left, by its own word or by that of the group.
    Gone,
    /// Ends soon.
    Draining,
    /// Failed on this host a moment ago.
    Suspect,
    /// Silent for longer than 5 s.
    Stale,
    /// Announces itself.
    Up,
}

impl State {
    /// The word of the diagnostic page.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Stale => "stale",
            Self::Up => "up",
        }
    }
}

impl Server {
    /// Where it stands at `now`.
    pub fn state(&self, now: Micros) -> State {
        if self.flags.gone {
            State::Gone
        } else if self.flags.draining {
            State::Draining
        } else if self.live.suspect_until > now {
            State::Suspect
        } else if now.since(self.stat.mtime) > Micros::from_secs(5) {
            State::Stale
        } else {
            State::Up
        }
    }

    /// What a chain compares.
    pub fn figures(&self) -> Figures {
        let Self { stat, flags, live, .. } = *self;
        let ServerStat { mtime, load, cpu, .. } = stat;
        Figures { mtime, load, cpu, busy: stat.busy(), flags, live }
    }
}

/// The part of a [`Server`] that usual chains compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// See [`ServerStat::mtime`].
    pub mtime: Micros,
    /// See [`ServerStat::load`].
    pub load: u32,
    /// See [`ServerStat::cpu`].
    pub cpu: u32,
    /// See [`ServerStat::busy`].
    pub busy: u32,
    /// State.
    pub flags: Flags,
    /// What this host adds.
    pub live: Live,
}

impl Figures {
    /// Whether a chain begins with it.
    // spec: mod_backhand 4.1
    pub fn is_candidate(&self, now: Micros) -> bool {
        !self.flags.gone && !self.flags.draining && self.live.suspect_until <= now
    }
}

/// Smallest power of two, at least 1, that is not below `load` (times 1000).
pub fn high_water(load: u32) -> u32 {
    load.div_ceil(1000).max(1).checked_next_power_of_two().unwrap_or(1 << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_water_is_a_power_of_two_not_below_the_load() {
        // spec: mod_backhand 3
        for (load, mark) in
            [(0, 1), (300, 1), (1000, 1), (1200, 2), (2000, 2), (4700, 8), (u32::MAX, 1 << 23)]
        {
            assert_eq!(high_water(load), mark, "{load}");
        }
    }

    #[test]
    fn names_are_host_names() {
        assert_eq!(Name::new("www-3.example.com").unwrap().as_str(), "www-3.example.com");
        for bad in ["", "a b", "<b>", "a\"b", "a\nb", &"x".repeat(256)] {
            assert!(Name::new(bad).is_none(), "{bad:?}");
        }
    }
}
