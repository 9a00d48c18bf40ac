//! The configuration as values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use spread_wire::DaemonName;

use crate::config::diagnostic::{Source, Warning};
use crate::config::options::Options;

/// The family of all daemon and segment addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address of the file, with the interface that may follow an IPv6 one (`fe80::1%eth0`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigAddr {
    /// The address.
    pub ip: IpAddr,
    /// Name of the interface. It is no part of names and hashes, so it may differ from host to host.
    pub scope: Option<String>,
}

impl fmt::Display for ConfigAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Some(scope) => write!(f, "{}%{scope}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

/// Daemons that reach each other without a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Port of all its addresses: data on it, tokens on the next one, clients on it by TCP.
    pub port: u16,
    /// Multicast, broadcast or unicast addresses, 1 to 5.
    pub addresses: Vec<ConfigAddr>,
    /// Its daemons in the order of the file. Never empty.
    pub daemons: Vec<Daemon>,
}

/// One daemon of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its name, cut to 19 bytes.
    pub name: DaemonName,
    /// The address that others reach it at.
    pub address: ConfigAddr,
    /// Its identifier: the `VirtualID`, or the hash of its name.
    pub virtual_id: u32,
    /// Whether the file gives the identifier.
    pub id_in_file: bool,
    /// What it listens on; `None` without a stanza: everything on all addresses.
    pub interfaces: Option<Vec<Interface>>,
}

impl Daemon {
    /// The addresses it listens on for `what`. `None`: no stanza, so all addresses of the host.
    pub fn listens_on(&self, what: Use) -> Option<impl Iterator<Item = &ConfigAddr>> {
        let interfaces = self.interfaces.as_ref()?;
        Some(interfaces.iter().filter(move |i| i.uses.contains(what)).map(|i| &i.address))
    }
}

/// One entry of an interface stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address; the wildcard is possible.
    pub address: ConfigAddr,
    /// What it is for.
    pub uses: Use,
}

/// What an interface is for: a set of the letters `D`, `C` and `M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Use(u8);

impl Use {
    /// `D`: traffic of daemons, data and token.
    pub const DAEMON: Self = Self(1);
    /// `C`: connections of clients.
    pub const CLIENT: Self = Self(2);
    /// `M`: the monitor. Without effect.
    pub const MONITOR: Self = Self(4);
    /// No letter means all.
    pub const ALL: Self = Self(7);

    /// Whether all of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A `spread.conf` that was read without an error.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family of all daemon and segment addresses.
    pub ip_version: IpVersion,
    /// The segments in the order of the file; the order of all daemons is the ring order.
    pub segments: Vec<Segment>,
    /// The options, with `None` for those that the file does not set.
    pub options: Options,
    /// Everything that is odd, or that the file asks for and this daemon does not do. Log each once.
    pub warnings: Vec<Warning>,
    /// For errors that are found later, see [`Config::identify`].
    pub(crate) source: Source,
    /// Where the entry of each daemon stands, by number.
    pub(crate) places: Vec<Places>,
    /// Where the first address of each segment stands.
    pub(crate) segment_places: Vec<usize>,
}

/// Where the parts of a daemon's entry stand.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The address, or the name it was made from.
    pub(crate) address: Range<usize>,
    /// The addresses of the interface stanza.
    pub(crate) interfaces: Vec<Range<usize>>,
}

impl Config {
    /// The file it was read from, as messages call it.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// All daemons in the order of the file. The position is the daemon's number in the ring.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.segments.iter().flat_map(|s| &s.daemons)
    }

    /// The daemon with this number, with its segment and the number of that.
    pub fn daemon(&self, number: u16) -> Option<(&Daemon, &Segment, u16)> {
        let mut left = usize::from(number);
        for (index, segment) in (0u16..).zip(&self.segments) {
            match segment.daemons.get(left) {
                Some(daemon) => return Some((daemon, segment, index)),
                None => left -= segment.daemons.len(),
            }
        }
        None
    }

    /// The segment of each daemon, by number.
    pub fn segment_numbers(&self) -> Vec<u16> {
        (0u16..).zip(&self.segments).flat_map(|(i, s)| s.daemons.iter().map(move |_| i)).collect()
    }

    /// Address and port of each daemon, by number.
    pub fn socket_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.segments.iter().flat_map(|s| s.daemons.iter().map(|d| SocketAddr::new(d.address.ip, s.port)))
    }

    /// The first address of the segment of a daemon, and where it stands.
    pub(crate) fn segment_place(&self, number: u16) -> Option<(IpAddr, usize)> {
        let (_, segment, index) = self.daemon(number)?;
        Some((segment.addresses.first()?.ip, *self.segment_places.get(usize::from(index))?))
    }

    /// Whether the wide-area defaults apply: `WideAreaNetwork`, else two or more segments.
    pub fn is_wide_area(&self) -> bool {
        self.options.wide_area_network.unwrap_or(self.segments.len() > 1)
    }
}
