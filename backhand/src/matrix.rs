//! From announcements to slots, in the process that receives them.
// spec: mod_backhand 5.3, 8, 10

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::acl::Network;
use crate::announce::{Announcement, DecodeError, Key};
use crate::stat::{Flags, Micros, ServerStat};

/// Most slots of a matrix.
pub const SLOTS_MAX: usize = 4096;
/// Announcements that are taken from one address in a second.
pub const RATE_MAX: u32 = 20;
/// Addresses whose rate is watched in a second; more are refused.
const SOURCES_MAX: usize = SLOTS_MAX;
/// Largest difference of the clocks of two servers with keys.
const CLOCK_LIMIT: Micros = Micros::from_secs(30);

/// Rules of a matrix.
#[derive(Clone, Debug)]
pub struct Config {
    /// From whom announcements are accepted.
    pub networks: Vec<Network>,
    /// Keys that authenticate.
    pub keys: Vec<Key>,
    /// Refuse announcements without a valid code.
    pub require_auth: bool,
    /// Slots, 2 to [`SLOTS_MAX`].
    pub slots: usize,
    /// A slot may be used again after this silence.
    pub server_timeout: Micros,
    /// Where this server serves HTTP; announcements of these are its own.
    pub contacts: Vec<SocketAddr>,
}

/// How an announcement came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via<'a> {
    /// By UDP from this address.
    Udp(IpAddr),
    /// Through a Spread group, from this member.
    Spread(&'a str),
}

/// Why an announcement was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not from an accepted address, or for a contact that is none.
    #[error("address not accepted")]
    Acl,
    /// Not well-formed.
    #[error(transparent)]
    Bad(DecodeError),
    /// No valid authentication, or not of this time.
    #[error("not authenticated")]
    Mac,
    /// No slot is free.
    #[error("no free slot")]
    Full,
    /// Not newer than what is known, for example heard twice.
    #[error("not newer")]
    Old,
    /// This server's own.
    #[error("own announcement")]
    Own,
    /// Too many from there.
    #[error("too many in a second")]
    Rate,
}

#[derive(Clone, Debug)]
struct Entry {
    stat: ServerStat,
    interval_ms: u32,
    flags: Flags,
    stamp: Micros,
    udp_at: Option<Micros>,
    member: Option<String>,
}

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    /// The slot.
    pub slot: u16,
    /// Another server had it, or none.
    pub new: bool,
}

/// A slot with its announced record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The record.
    pub stat: ServerStat,
    /// Interval of its announcements in milliseconds.
    pub interval_ms: u32,
    /// State.
    pub flags: Flags,
}

/// Announcements of all servers. Slot 0 is this server.
#[derive(Debug)]
pub struct Matrix {
    config: Config,
    slots: Vec<Option<Entry>>,
    rates: BTreeMap<IpAddr, u32>,
    rates_of: u64,
}

impl Matrix {
    /// An empty matrix.
    pub fn new(config: Config) -> Self {
        let slots = vec![None; config.slots.clamp(2, SLOTS_MAX)];
        Self { config, slots, rates: BTreeMap::new(), rates_of: 0 }
    }

    /// Takes over a record that an earlier matrix of this host had. It is replaced by the next announcement.
    pub fn restore(&mut self, slot: u16, row: Row) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            let Row { stat, interval_ms, flags } = row;
            *place = Some(Entry { stat, interval_ms, flags, stamp: Micros(0), udp_at: None, member: None });
        }
    }

    /// Takes the record of this server.
    pub fn handle_own(&mut self, now: Micros, stat: ServerStat, interval_ms: u32) {
        let stat = ServerStat { mtime: now, ..stat };
        let flags = Flags { authenticated: true, ..Flags::default() };
        if let Some(own) = self.slots.first_mut() {
            *own = Some(Entry { stat, interval_ms, flags, stamp: now, udp_at: None, member: None });
        }
    }

    /// Takes bytes that arrived.
    ///
    /// # Errors
    /// Why they change nothing.
    pub fn handle_announcement(
        &mut self,
        now: Micros,
        via: Via<'_>,
        bytes: &[u8],
    ) -> Result<Update, Refusal> {
        if let Via::Udp(source) = via {
            self.check_source(now, source)?;
        }
        let (announcement, authenticated) =
            Announcement::decode(bytes, &self.config.keys).map_err(|e| match e {
                DecodeError::Mac => Refusal::Mac,
                other => Refusal::Bad(other),
            })?;
        let Announcement { stamp, goodbye, draining, stat, interval_ms } = announcement;
        if self.config.contacts.contains(&stat.contact) {
            return Err(Refusal::Own);
        }
        let near = now.since(stamp) <= CLOCK_LIMIT && stamp.since(now) <= CLOCK_LIMIT;
        if (self.config.require_auth && !authenticated) || (authenticated && !near) {
            return Err(Refusal::Mac);
        }
        let ip = stat.contact.ip();
        if !self.accepts(ip) || matches!(via, Via::Udp(source) if source != ip && !authenticated) {
            return Err(Refusal::Acl);
        }
        let (slot, new) = self.slot_for(now, stat.contact)?;
        let place = self.slots.get_mut(usize::from(slot)).ok_or(Refusal::Full)?;
        let known = place.take_if(|_| new).map_or_else(|| place.clone(), |_| None);
        if let Some(known) = &known {
            let silence = Micros(u64::from(known.interval_ms.max(1)) * 10_000);
            let stepped_back = !authenticated && now.since(known.stat.mtime) > silence;
            if stamp <= known.stamp && !stepped_back {
                return Err(Refusal::Old);
            }
        }
        let (udp_at, member) = match via {
            Via::Udp(_) => (Some(now), known.and_then(|k| k.member)),
            Via::Spread(member) => (known.and_then(|k| k.udp_at), Some(member.to_owned())),
        };
        let spread = matches!(via, Via::Spread(_));
        let flags = Flags { gone: goodbye, draining, authenticated, spread };
        let stat = ServerStat { mtime: now, ..stat };
        *place = Some(Entry { stat, interval_ms, flags, stamp, udp_at, member });
        Ok(Update { slot, new })
    }

    /// Members left the group: these stayed. The slots of the others are gone, unless heard by UDP a moment ago.
    pub fn handle_members(&mut self, now: Micros, stayed: impl Fn(&str) -> bool) -> Vec<u16> {
        let mut gone = Vec::new();
        for (slot, entry) in (0..=u16::MAX).zip(&mut self.slots) {
            let Some(entry) = entry else { continue };
            let left = entry.member.as_deref().is_some_and(|member| !stayed(member));
            let two_intervals = Micros(u64::from(entry.interval_ms) * 2000);
            let heard = entry.udp_at.is_some_and(|at| now.since(at) <= two_intervals);
            if left {
                entry.member = None;
                if !heard && !entry.flags.gone {
                    entry.flags.gone = true;
                    gone.push(slot);
                }
            }
        }
        gone
    }

    /// A slot.
    pub fn row(&self, slot: u16) -> Option<Row> {
        let entry = self.slots.get(usize::from(slot))?.as_ref()?;
        Some(Row { stat: entry.stat, interval_ms: entry.interval_ms, flags: entry.flags })
    }

    /// Whether announcements of this address are accepted.
    pub fn accepts(&self, addr: IpAddr) -> bool {
        self.config.networks.iter().any(|network| network.contains(addr))
    }

    fn check_source(&mut self, now: Micros, source: IpAddr) -> Result<(), Refusal> {
        if !self.accepts(source) {
            return Err(Refusal::Acl);
        }
        let second = now.0 / 1_000_000;
        if std::mem::replace(&mut self.rates_of, second) != second {
            self.rates.clear();
        }
        if self.rates.len() >= SOURCES_MAX && !self.rates.contains_key(&source) {
            return Err(Refusal::Rate);
        }
        let rate = self.rates.entry(source).or_default();
        *rate += 1;
        if *rate > RATE_MAX { Err(Refusal::Rate) } else { Ok(()) }
    }

    /// The slot of a contact; a free one, or one silent for too long, for a new contact.
    fn slot_for(&self, now: Micros, contact: SocketAddr) -> Result<(u16, bool), Refusal> {
        let numbered = || (0..=u16::MAX).zip(&self.slots).skip(1);
        let known = numbered().find(|(_, e)| e.as_ref().is_some_and(|e| e.stat.contact == contact));
        if let Some((slot, _)) = known {
            return Ok((slot, false));
        }
        if let Some((slot, _)) = numbered().find(|(_, e)| e.is_none()) {
            return Ok((slot, true));
        }
        let silent = numbered()
            .filter_map(|(slot, e)| e.as_ref().map(|e| (e.stat.mtime, slot)))
            .filter(|(mtime, _)| now.since(*mtime) > self.config.server_timeout)
            .min();
        silent.map(|(_, slot)| (slot, true)).ok_or(Refusal::Full)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::stat::Name;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 5, 13));

    fn secs(secs: u64) -> Micros {
        Micros::from_secs(1000 + secs)
    }

    fn config() -> Config {
        Config {
            networks: vec![Network::parse("10.0.5.0/24").unwrap()],
            keys: vec![],
            require_auth: false,
            slots: 4,
            server_timeout: Micros::from_secs(120),
            contacts: vec!["10.0.5.10:80".parse().unwrap()],
        }
    }

    fn from(contact: &str, stamp: Micros) -> Announcement {
        let hostname = Name::new("www").unwrap();
        let stat = ServerStat { hostname, contact: contact.parse().unwrap(), ..ServerStat::default() };
        Announcement { stamp, goodbye: false, draining: false, stat, interval_ms: 1000 }
    }

    fn hear(matrix: &mut Matrix, now: Micros, contact: &str, stamp: Micros) -> Result<Update, Refusal> {
        let source = contact.parse::<SocketAddr>().unwrap().ip();
        matrix.handle_announcement(now, Via::Udp(source), &from(contact, stamp).encode(None))
    }

    #[test]
    fn servers_get_slots_and_silent_ones_lose_them() {
        let mut matrix = Matrix::new(config());
        matrix.handle_own(secs(0), ServerStat::default(), 1000);
        assert_eq!(matrix.row(0).unwrap().stat.mtime, secs(0));
        for (n, contact) in (1..).zip(["10.0.5.11:80", "10.0.5.11:81", "10.0.5.12:80"]) {
            assert_eq!(
                hear(&mut matrix, secs(n), contact, secs(0)),
                Ok(Update { slot: u16::try_from(n).unwrap(), new: true })
            );
        }
        assert_eq!(hear(&mut matrix, secs(4), "10.0.5.11:80", secs(1)), Ok(Update { slot: 1, new: false }));
        assert_eq!(hear(&mut matrix, secs(121), "10.0.5.13:80", secs(0)), Err(Refusal::Full));
        // 10.0.5.11:81 was heard first of all.
        assert_eq!(hear(&mut matrix, secs(124), "10.0.5.13:80", secs(0)), Ok(Update { slot: 2, new: true }));
        assert_eq!(matrix.row(2).unwrap().stat.mtime, secs(124));
    }

    #[test]
    fn only_accepted_addresses_are_heard() {
        let mut matrix = Matrix::new(config());
        let bytes = from("10.0.5.13:80", secs(0)).encode(None);
        let mut hear = |source, bytes: &[u8]| matrix.handle_announcement(secs(0), Via::Udp(source), bytes);
        assert_eq!(hear(Ipv4Addr::new(10, 0, 6, 13).into(), &bytes), Err(Refusal::Acl));
        // A server must speak for itself.
        assert_eq!(hear(Ipv4Addr::new(10, 0, 5, 14).into(), &bytes), Err(Refusal::Acl));
        let foreign = from("192.0.2.1:80", secs(0)).encode(None);
        assert_eq!(hear(SOURCE, &foreign), Err(Refusal::Acl));
        assert_eq!(hear(SOURCE, b"junk"), Err(Refusal::Bad(DecodeError::Size(4))));
        let own = from("10.0.5.10:80", secs(0)).encode(None);
        assert_eq!(hear(Ipv4Addr::new(10, 0, 5, 10).into(), &own), Err(Refusal::Own));
        assert_eq!(hear(SOURCE, &bytes), Ok(Update { slot: 1, new: true }));
        let silent = Matrix::new(Config { networks: vec![], ..config() }).handle_announcement(
            secs(0),
            Via::Udp(SOURCE),
            &bytes,
        );
        assert_eq!(silent, Err(Refusal::Acl));
        let mut matrix = Matrix::new(config());
        assert_eq!(matrix.handle_announcement(secs(0), Via::Spread("#a#b"), &foreign), Err(Refusal::Acl));
    }

    #[test]
    fn keys_are_asked_for_and_replays_refused() {
        let key = Key::new(1, b"k");
        let mut matrix = Matrix::new(Config { keys: vec![key.clone()], require_auth: true, ..config() });
        let mut hear = |now, bytes: &[u8]| matrix.handle_announcement(now, Via::Udp(SOURCE), bytes);
        let plain = from("10.0.5.13:80", secs(0));
        assert_eq!(hear(secs(0), &plain.encode(None)), Err(Refusal::Mac));
        assert_eq!(hear(secs(0), &plain.encode(Some(&Key::new(1, b"x")))), Err(Refusal::Mac));
        let signed = plain.encode(Some(&key));
        assert_eq!(hear(secs(31), &signed), Err(Refusal::Mac));
        assert!(hear(secs(30), &signed).is_ok());
        assert_eq!(hear(secs(30), &signed), Err(Refusal::Old));
        // Also after a long silence, which without a key would pass for a clock that stepped back.
        assert_eq!(hear(secs(45), &signed), Err(Refusal::Mac));
        // A signed server may be behind another address.
        let natted = from("10.0.5.99:80", secs(1)).encode(Some(&key));
        assert!(hear(secs(1), &natted).is_ok());
    }

    #[test]
    fn clocks_may_differ_and_step_back() {
        let mut matrix = Matrix::new(config());
        assert!(hear(&mut matrix, secs(0), "10.0.5.13:80", Micros(5)).is_ok());
        assert_eq!(matrix.row(1).unwrap().stat.mtime, secs(0));
        assert_eq!(hear(&mut matrix, secs(1), "10.0.5.13:80", Micros(5)), Err(Refusal::Old));
        assert_eq!(hear(&mut matrix, secs(10), "10.0.5.13:80", Micros(4)), Err(Refusal::Old));
        assert!(hear(&mut matrix, secs(11), "10.0.5.13:80", Micros(4)).is_ok());
    }

    #[test]
    fn a_flood_is_cut() {
        let mut matrix = Matrix::new(config());
        let taken = (0..100).filter(|n| hear(&mut matrix, secs(0), "10.0.5.13:80", secs(*n)).is_ok()).count();
        assert_eq!(taken, RATE_MAX as usize);
        assert!(hear(&mut matrix, secs(0), "10.0.5.14:80", secs(0)).is_ok());
        assert!(hear(&mut matrix, secs(1), "10.0.5.13:80", secs(200)).is_ok());
    }

    #[test]
    fn who_leaves_the_group_or_says_goodbye_is_gone() {
        // spec: mod_backhand 8, 12 T22
        let mut matrix = Matrix::new(config());
        let say = |m: &mut Matrix, via: Via<'_>, now, n: u8, goodbye| {
            let a = Announcement { goodbye, ..from(&format!("10.0.5.{n}:80"), now) };
            m.handle_announcement(now, via, &a.encode(None)).unwrap().slot
        };
        let a = say(&mut matrix, Via::Spread("#a#h"), secs(0), 13, false);
        let b = say(&mut matrix, Via::Spread("#b#h"), secs(0), 14, false);
        let c = say(&mut matrix, Via::Spread("#c#h"), secs(0), 15, false);
        say(&mut matrix, Via::Udp(Ipv4Addr::new(10, 0, 5, 15).into()), secs(1), 15, false);
        assert_eq!(matrix.handle_members(secs(2), |m| m == "#b#h"), [a]);
        let gone = |m: &Matrix| [a, b, c].map(|slot| m.row(slot).unwrap().flags.gone);
        assert_eq!(gone(&matrix), [true, false, false]);
        say(&mut matrix, Via::Spread("#a2#h"), secs(3), 13, false);
        assert_eq!(gone(&matrix), [false, false, false]);
        say(&mut matrix, Via::Spread("#b#h"), secs(3), 14, true);
        assert_eq!(gone(&matrix), [false, true, false]);
    }
}
