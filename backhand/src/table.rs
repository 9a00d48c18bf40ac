//! The matrix in memory that many processes share: one writes, all read, none waits.
//!
//! Each slot has two copies of its record. The writer fills the one that is not in use between two steps of its
//! sequence number, then makes it the one in use. A reader that sees the sequence change, or odd, reads again; after
//! three tries it treats the slot as absent. A writer that dies in the middle leaves the copy in use untouched.
//!
//! All zero bytes are an empty table, and all parts are atomics: the table can lie in anonymous shared memory.
// spec: mod_backhand-httpd24 3

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, fence};

use crate::chain::Snapshot;
use crate::matrix::Row;
use crate::stat::{Flags, Live, Micros, Name, Server, ServerStat};

/// Words of a record before its name.
const FIXED_WORDS: usize = 11;
const NAME_WORDS: usize = 32;
const WORDS: usize = FIXED_WORDS + NAME_WORDS;
/// Place of the word with the flags, and above them the length of the name.
const FLAGS: usize = 10;
/// Places of the words with the contact: family and port, address.
const CONTACT: [usize; 3] = [1, 2, 3];
const TRIES: u32 = 3;
/// 32-bit words of a record of the C interface: 104 bytes.
pub const CLASSIC_WORDS: usize = 26;
const CLASSIC_LOAD: usize = 19;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of a server, all from 0.
        #[derive(Debug)]
        #[repr(C)]
        #[allow(missing_docs, reason = "documented one by one where they are listed")]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        impl Counters {
            /// Names and values.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed))),*]
            }
        }
    };
}

counters! {
    /// Announcements taken.
    rx,
    /// Refused: address not accepted.
    rx_acl,
    /// Refused: malformed.
    rx_bad,
    /// Refused: not authenticated.
    rx_mac,
    /// Refused: no free slot.
    rx_full,
    /// Refused: not newer, or own.
    rx_old,
    /// Refused: too many from one address.
    rx_rate,
    /// Announcements sent.
    tx,
    /// Announcements that could not be sent.
    tx_failed,
    /// Chains run.
    decided,
    /// Decisions to serve here.
    local,
    /// Requests answered by another server.
    proxied,
    /// Requests redirected.
    redirected,
    /// Attempts after a failed one.
    retried,
    /// Requests that no server took.
    failed,
    /// Requests received from another server.
    hop_in,
    /// Headers of other servers that were not believed.
    hop_forged,
    /// External functions that did something wrong.
    external_errors,
    /// Managers started.
    manager_starts,
}

#[derive(Debug)]
#[repr(C)]
struct Copy {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

#[derive(Debug)]
#[repr(C)]
struct Slot {
    /// Which copy is in use.
    active: AtomicU64,
    copies: [Copy; 2],
    predicted_load: AtomicI64,
    predicted_busy: AtomicI64,
    in_flight: AtomicI64,
    in_flight_announced: AtomicI64,
    suspect_until: AtomicU64,
    sent: AtomicU64,
    time_us: AtomicU64,
}

/// A table with room for `N` servers.
#[derive(Debug)]
#[repr(C)]
pub struct Table<const N: usize> {
    /// Process id of the manager; 0 before the first.
    pub manager: AtomicU64,
    /// Last sign of life of the manager.
    pub heartbeat: AtomicU64,
    /// Slots ever used.
    used: AtomicU64,
    /// Not 0 while the server ends.
    pub stopping: AtomicU64,
    /// Highest load seen, times 1000.
    pub load_max: AtomicU64,
    /// Counters.
    pub counters: Counters,
    slots: [Slot; N],
    classic: [[AtomicU32; CLASSIC_WORDS]; N],
}

impl<const N: usize> Table<N> {
    /// Writes a record; by one process at a time. What was charged since the last announcement is settled.
    pub fn publish(&self, slot: u16, row: &Row, new: bool) {
        let Some(place) = self.slots.get(usize::from(slot)) else { return };
        place.write(&encode(row));
        if new {
            place.suspect_until.store(0, Relaxed);
            place.sent.store(0, Relaxed);
            place.time_us.store(0, Relaxed);
            place.in_flight.store(0, Relaxed);
        }
        place.predicted_load.store(0, Relaxed);
        place.predicted_busy.store(0, Relaxed);
        place.in_flight_announced.store(place.in_flight.load(Relaxed), Relaxed);
        self.publish_classic(slot, &row.stat);
        self.used.fetch_max(u64::from(slot) + 1, AcqRel);
    }

    /// The record of the C interface.
    // spec: mod_backhand 3
    fn publish_classic(&self, slot: u16, stat: &ServerStat) {
        let Some(place) = self.classic.get(usize::from(slot)) else { return };
        let mut bytes = [0u8; CLASSIC_WORDS * 4];
        let name = stat.hostname.as_str().as_bytes();
        let len = name.len().min(39);
        bytes[..len].copy_from_slice(&name[..len]);
        bytes[40..48].copy_from_slice(&(stat.mtime.0 / 1_000_000).to_ne_bytes());
        // The structure has room for an IPv4 address only: one of IPv6 has the family 0 there.
        if let IpAddr::V4(addr) = stat.contact.ip() {
            bytes[48..50].copy_from_slice(&2u16.to_ne_bytes());
            bytes[52..56].copy_from_slice(&addr.octets());
        }
        bytes[50..52].copy_from_slice(&stat.contact.port().to_be_bytes());
        let memory = |bytes: u64| i32::try_from(bytes).unwrap_or(i32::MAX).cast_unsigned();
        let fields = [
            stat.arriba,
            stat.aservers,
            stat.nservers,
            stat.load,
            stat.load_hwm,
            stat.cpu,
            stat.ncpu,
            memory(stat.tmem),
            memory(stat.amem),
        ];
        for (at, field) in bytes[64..100].chunks_exact_mut(4).zip(fields) {
            at.copy_from_slice(&field.to_ne_bytes());
        }
        for (word, value) in place.iter().zip(bytes.chunks_exact(4)) {
            let value = value.try_into().map_or(0, u32::from_ne_bytes);
            word.store(value, Relaxed);
        }
    }

    /// Start of the records of the C interface, `N` of 104 bytes.
    pub fn classic(&self) -> &[[AtomicU32; CLASSIC_WORDS]; N] {
        &self.classic
    }

    /// The record of a slot as it was announced.
    pub fn row(&self, slot: u16) -> Option<Row> {
        decode(&self.slots.get(usize::from(slot))?.read()?)
    }

    /// Slots from 0 that were ever used.
    pub fn used(&self) -> u16 {
        u16::try_from(self.used.load(Acquire)).unwrap_or(u16::MAX)
    }

    /// All that a request needs to know.
    pub fn snapshot(&self, now: Micros) -> Snapshot {
        let mut snapshot = Snapshot::new(now);
        self.read(&mut snapshot);
        snapshot
    }

    /// As [`snapshot`](Self::snapshot), into one that has no slots yet and whose time is now: it is large, and is not
    /// moved then.
    pub fn read(&self, snapshot: &mut Snapshot) {
        let used = usize::try_from(self.used.load(Acquire)).unwrap_or(N).min(N);
        for slot in self.slots.iter().take(used) {
            let row = slot.read().and_then(|words| decode(&words));
            snapshot.slots.push(row.map(|row| {
                let Row { stat, interval_ms, flags } = row;
                Server { stat, interval_ms, flags, live: slot.live() }
            }));
        }
    }

    /// Whether a server announces this address. Cheaper than a [`snapshot`](Self::snapshot).
    pub fn announces(&self, addr: IpAddr) -> bool {
        let used = usize::try_from(self.used.load(Acquire)).unwrap_or(N).min(N);
        self.slots.iter().take(used).filter_map(Slot::contact).any(|contact| contact.ip() == addr)
    }

    /// Charges a decision to a server.
    pub fn charge(&self, slot: u16, load: i64) {
        self.with(slot, |s| {
            s.predicted_load.fetch_add(load, Relaxed);
            s.predicted_busy.fetch_add(i64::from(load != 0), Relaxed);
        });
        if let Some(place) = self.classic.get(usize::from(slot)) {
            let load = i32::try_from(load).unwrap_or(0);
            place[CLASSIC_LOAD].fetch_add(load.cast_unsigned(), Relaxed);
        }
    }

    /// A request of this host begins at a server.
    pub fn begin(&self, slot: u16) {
        self.with(slot, |s| {
            s.in_flight.fetch_add(1, Relaxed);
        });
    }

    /// It has ended after `time`; `sent` if another server answered it.
    pub fn end(&self, slot: u16, time: Micros, sent: bool) {
        self.with(slot, |s| {
            s.in_flight.fetch_sub(1, Relaxed);
            if sent {
                s.sent.fetch_add(1, Relaxed);
                s.time_us.fetch_add(time.0, Relaxed);
            }
        });
    }

    /// No process of this host has a request under way: what processes left behind that died is cleared.
    pub fn clear_in_flight(&self) {
        self.slots.iter().for_each(|s| s.in_flight.store(0, Relaxed));
    }

    /// A server failed: it is no candidate until then.
    pub fn suspect(&self, slot: u16, until: Micros) {
        self.with(slot, |s| s.suspect_until.store(until.0, Relaxed));
    }

    fn with(&self, slot: u16, change: impl FnOnce(&Slot)) {
        if let Some(slot) = self.slots.get(usize::from(slot)) {
            change(slot);
        }
    }
}

impl Slot {
    fn live(&self) -> Live {
        Live {
            predicted_load: self.predicted_load.load(Relaxed),
            predicted_busy: self.predicted_busy.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed).max(0),
            in_flight_announced: self.in_flight_announced.load(Relaxed).max(0),
            suspect_until: Micros(self.suspect_until.load(Relaxed)),
            sent: self.sent.load(Relaxed),
            time_us: self.time_us.load(Relaxed),
        }
    }

    fn write(&self, words: &[u64; WORDS]) {
        let next = 1 - self.active.load(Relaxed).min(1);
        let copy = &self.copies[usize::from(next == 1)];
        // A former writer may have died here and left an odd number.
        let sequence = copy.sequence.load(Relaxed) | 1;
        copy.sequence.store(sequence, Relaxed);
        fence(Release);
        for (place, word) in copy.words.iter().zip(words) {
            place.store(*word, Relaxed);
        }
        copy.sequence.store(sequence.wrapping_add(1), Release);
        self.active.store(next, Release);
    }

    fn contact(&self) -> Option<SocketAddr> {
        for _ in 0..TRIES {
            let copy = &self.copies[usize::from(self.active.load(Acquire) == 1)];
            let before = copy.sequence.load(Acquire);
            let mtime = copy.words[0].load(Relaxed);
            let words = CONTACT.map(|place| copy.words[place].load(Relaxed));
            fence(Acquire);
            if before & 1 == 0 && copy.sequence.load(Relaxed) == before {
                return contact(words).filter(|_| mtime != 0);
            }
        }
        None
    }

    fn read(&self) -> Option<[u64; WORDS]> {
        let mut words = [0; WORDS];
        for _ in 0..TRIES {
            let copy = &self.copies[usize::from(self.active.load(Acquire) == 1)];
            let before = copy.sequence.load(Acquire);
            // Names are short: most words of the room for them need not be read, at every request.
            let used = FIXED_WORDS + usize::from(name_len(copy.words[FLAGS].load(Relaxed))).div_ceil(8);
            for (word, place) in words.iter_mut().zip(&copy.words[..used]) {
                *word = place.load(Relaxed);
            }
            fence(Acquire);
            if before & 1 == 0 && copy.sequence.load(Relaxed) == before {
                return Some(words);
            }
        }
        None
    }
}

/// Length of the name, as the word with the flags says.
fn name_len(flags: u64) -> u8 {
    flags.to_be_bytes()[3]
}

fn encode(row: &Row) -> [u64; WORDS] {
    let Row { stat, interval_ms, flags } = row;
    let pair = |high: u32, low: u32| (u64::from(high) << 32) | u64::from(low);
    let address: u128 = match stat.contact.ip() {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    };
    #[allow(clippy::cast_possible_truncation, reason = "the halves of an address")]
    let (high, low) = ((address >> 64) as u64, address as u64);
    let text = stat.hostname.as_str().as_bytes();
    let bits = [flags.gone, flags.draining, flags.authenticated, flags.spread];
    let bits: u32 = (0..).zip(bits).map(|(n, bit)| u32::from(bit) << n).sum();
    let fixed: [u64; FIXED_WORDS] = [
        stat.mtime.0,
        pair(stat.contact.is_ipv6().into(), stat.contact.port().into()),
        high,
        low,
        pair(stat.arriba, stat.aservers),
        pair(stat.nservers, stat.load),
        pair(stat.load_hwm, stat.cpu),
        pair(stat.ncpu, *interval_ms),
        stat.tmem,
        stat.amem,
        pair(u32::try_from(text.len()).unwrap_or(0), bits),
    ];
    let mut words = [0; WORDS];
    words[..FIXED_WORDS].copy_from_slice(&fixed);
    for (word, bytes) in words[FIXED_WORDS..].iter_mut().zip(text.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}

/// The two halves of a word.
#[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// From the words at [`CONTACT`].
fn contact([family_port, high, low]: [u64; 3]) -> Option<SocketAddr> {
    let (family, port) = halves(family_port);
    let address = (u128::from(high) << 64) | u128::from(low);
    let address = match (family, u32::try_from(address)) {
        (0, Ok(address)) => IpAddr::from(address.to_be_bytes()),
        _ => IpAddr::V6(Ipv6Addr::from(address)),
    };
    Some(SocketAddr::new(address, u16::try_from(port).ok()?))
}

fn decode(words: &[u64; WORDS]) -> Option<Row> {
    let (fixed, name) = words.split_at(FIXED_WORDS);
    let &[mtime, family_port, high, low, a, b, c, d, tmem, amem, bits] = fixed else { return None };
    if mtime == 0 {
        return None;
    }
    let [a, b, c, d] = [a, b, c, d].map(halves);
    let bit = |n: u32| bits & (1 << n) != 0;
    let stat = ServerStat {
        hostname: Name::from_table(name_len(bits), name),
        mtime: Micros(mtime),
        contact: contact([family_port, high, low])?,
        arriba: a.0,
        aservers: a.1,
        nservers: b.0,
        load: b.1,
        load_hwm: c.0,
        cpu: c.1,
        ncpu: d.0,
        tmem,
        amem,
    };
    let flags = Flags { gone: bit(0), draining: bit(1), authenticated: bit(2), spread: bit(3) };
    Some(Row { stat, interval_ms: d.1, flags })
}

impl<const N: usize> Default for Table<N> {
    /// An empty table, on the stack: for small `N`.
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let copy = || Copy { sequence: zero(), words: std::array::from_fn(|_| zero()) };
        let counters = Counters {
            rx: zero(),
            rx_acl: zero(),
            rx_bad: zero(),
            rx_mac: zero(),
            rx_full: zero(),
            rx_old: zero(),
            rx_rate: zero(),
            tx: zero(),
            tx_failed: zero(),
            decided: zero(),
            local: zero(),
            proxied: zero(),
            redirected: zero(),
            retried: zero(),
            failed: zero(),
            hop_in: zero(),
            hop_forged: zero(),
            external_errors: zero(),
            manager_starts: zero(),
        };
        Self {
            manager: zero(),
            heartbeat: zero(),
            used: zero(),
            stopping: zero(),
            load_max: zero(),
            counters,
            slots: std::array::from_fn(|_| Slot {
                active: zero(),
                copies: [copy(), copy()],
                predicted_load: AtomicI64::new(0),
                predicted_busy: AtomicI64::new(0),
                in_flight: AtomicI64::new(0),
                in_flight_announced: AtomicI64::new(0),
                suspect_until: zero(),
                sent: zero(),
                time_us: zero(),
            }),
            classic: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Row {
        let n32 = u32::try_from(n % 1_000_000).unwrap();
        let stat = ServerStat {
            hostname: Name::new(&format!("{}-{n}.example.com", "w".repeat(usize::try_from(n % 60).unwrap())))
                .unwrap(),
            mtime: Micros(n + 1),
            contact: SocketAddr::new(
                if n.is_multiple_of(2) {
                    IpAddr::from(n32.to_be_bytes())
                } else {
                    Ipv6Addr::from(u128::from(n) << 90).into()
                },
                80,
            ),
            arriba: n32,
            aservers: n32,
            nservers: n32,
            load: n32,
            load_hwm: n32,
            cpu: n32,
            ncpu: n32,
            tmem: n,
            amem: n,
        };
        Row {
            stat,
            interval_ms: n32,
            flags: Flags { gone: n.is_multiple_of(2), spread: true, ..Flags::default() },
        }
    }

    #[test]
    fn announced_addresses_are_known() {
        let table = Table::<4>::default();
        let mut row = row(7);
        for (slot, contact) in [(1, "10.0.5.13:80"), (3, "[fd77::2]:80")] {
            row.stat.contact = contact.parse().unwrap();
            table.publish(slot, &row, true);
        }
        for (addr, known) in
            [("10.0.5.13", true), ("fd77::2", true), ("10.0.5.14", false), ("0.0.0.0", false)]
        {
            assert_eq!(table.announces(addr.parse().unwrap()), known, "{addr}");
        }
    }

    #[test]
    fn what_is_published_is_read() {
        let table = Table::<4>::default();
        assert!(table.snapshot(Micros(0)).slots.is_empty());
        table.publish(2, &row(7), true);
        table.publish(2, &row(8), false);
        let snapshot = table.snapshot(Micros(0));
        assert_eq!(snapshot.slots.len(), 3);
        assert!(snapshot.get(0).is_none());
        assert_eq!(snapshot.get(2).unwrap().stat, row(8).stat);
        assert_eq!(table.row(2), Some(row(8)));
        table.publish(4, &row(1), true);
        assert!(table.row(4).is_none());
    }

    #[test]
    fn charges_are_settled_by_the_next_announcement() {
        let table = Table::<2>::default();
        table.publish(1, &row(1), true);
        table.begin(1);
        table.charge(1, 1000);
        table.charge(1, 500);
        let live = table.snapshot(Micros(0)).get(1).unwrap().live;
        assert_eq!((live.predicted_load, live.predicted_busy, live.in_flight), (1500, 2, 1));
        assert_eq!(table.classic()[1][CLASSIC_LOAD].load(Relaxed), 1501);
        table.publish(1, &row(1), false);
        let live = table.snapshot(Micros(0)).get(1).unwrap().live;
        assert_eq!((live.predicted_load, live.predicted_busy, live.in_flight_announced), (0, 0, 1));
        table.end(1, Micros(20), true);
        table.end(1, Micros(20), false);
        let live = table.snapshot(Micros(0)).get(1).unwrap().live;
        assert_eq!((live.in_flight, live.sent, live.time_us), (0, 1, 20));
    }

    #[test]
    fn the_c_record_has_the_documented_layout() {
        // spec: mod_backhand 3
        let table = Table::<2>::default();
        let mut row = row(3);
        row.stat.contact = "10.0.5.13:8080".parse().unwrap();
        row.stat.tmem = 8 << 30;
        row.stat.amem = 5;
        table.publish(1, &row, true);
        let bytes: Vec<u8> = table.classic()[1].iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect();
        assert_eq!(bytes.len(), 104);
        assert!(bytes.starts_with(b"www-3.example.com\0"));
        assert_eq!(bytes[50..56], [0x1f, 0x90, 10, 0, 5, 13]);
        assert_eq!(bytes[92..96], i32::MAX.to_ne_bytes());
        assert_eq!(bytes[96..100], 5u32.to_ne_bytes());
    }

    #[test]
    fn readers_never_see_half_a_record() {
        let table = Table::<2>::default();
        table.publish(0, &row(0), true);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..200_000).for_each(|n| table.publish(0, &row(n), false)));
            let (mut read, mut absent) = (0, 0);
            while !writer.is_finished() {
                match table.row(0) {
                    Some(seen) => assert_eq!(seen, row(seen.stat.tmem)),
                    None => absent += 1,
                }
                read += 1;
            }
            assert!(read > absent, "{absent} of {read} reads gave up");
        });
    }
}
