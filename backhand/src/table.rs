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

use arrayvec::ArrayVec;

use crate::chain::{SELF, Servers, Snapshot};
use crate::matrix::Row;
use crate::stat::{Figures, Flags, Live, Micros, Name, Server, ServerStat};

/// Words of a record before its name.
const FIXED_WORDS: usize = 11;
const NAME_WORDS: usize = 32;
const WORDS: usize = FIXED_WORDS + NAME_WORDS;
/// Place of the word whose lower half counts idle workers.
const IDLE: usize = 4;
/// Place of the word with the workers and the load.
const LOAD: usize = 5;
/// Place of the word whose lower half is the idle share of the CPU.
const CPU: usize = 6;
/// Place of the length of the name.
const NAME_LEN: usize = 10;
/// Place of the word with the flags.
const FLAGS: usize = 1;
/// Places of the words with the contact: family (among the flags) and port, address.
const CONTACT: [usize; 3] = [FLAGS, 2, 3];
/// Bit of the upper half of the word with the flags: the contact is one of IPv6.
const IPV6: u32 = 1 << 16;
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
            fn list(&self) -> Vec<(&'static str, u64)> {
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
    /// Decisions for another server.
    left,
    /// Those of them that were served here in the end.
    returned,
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

/// What usual chains need is in its first 64 bytes.
#[derive(Debug)]
#[repr(C, align(64))]
struct Copy {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// All requests of all processes use this: a usual one needs two lines of the cache, the first and that of the copy in use.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot {
    /// Which copy is in use.
    active: AtomicU64,
    predicted_load: AtomicI64,
    predicted_busy: AtomicI64,
    in_flight: AtomicI64,
    in_flight_announced: AtomicI64,
    suspect_until: AtomicU64,
    copies: [Copy; 2],
    sent: AtomicU64,
    time_us: AtomicU64,
    /// Decisions to serve here, for the slot of this server. Not in the first line: that would go from CPU to CPU with
    /// each request, and all wait for it.
    stayed: AtomicU64,
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
    /// Not 0 once requests under way at this server are counted too.
    counts_own: AtomicU64,
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

    /// A copy of all records.
    pub fn snapshot(&self, now: Micros) -> Snapshot {
        let server = |slot: &Slot| {
            let Row { stat, interval_ms, flags } = decode(&slot.read()?)?;
            let (sent, time_us) = (slot.sent.load(Relaxed), slot.time_us.load(Relaxed));
            Some(Server { stat, interval_ms, flags, live: slot.live(), sent, time_us })
        };
        let used = usize::from(self.used());
        Snapshot { now, slots: self.slots.iter().take(used).map(server).collect() }
    }

    /// The records as they are when they are asked for.
    pub fn at(&self, now: Micros) -> View<'_, N> {
        View { table: self, now }
    }

    /// Shows the name of a server, empty if there is none. Less is copied than for a whole record.
    pub fn with_name<T>(&self, slot: u16, show: impl FnOnce(&[u8]) -> T) -> T {
        let mut name = ArrayVec::new();
        self.with(slot, |slot| slot.read_name(&mut name));
        show(&name)
    }

    /// Where a server serves HTTP.
    pub fn contact(&self, slot: u16) -> Option<SocketAddr> {
        self.slots.get(usize::from(slot))?.contact()
    }

    /// Whether a server announces this address. Cheaper than a [`snapshot`](Self::snapshot).
    pub fn announces(&self, addr: IpAddr) -> bool {
        self.slots
            .iter()
            .take(self.used().into())
            .filter_map(Slot::contact)
            .any(|contact| contact.ip() == addr)
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

    /// From now on counts requests under way at this server too: a chain compares them.
    pub fn count_own(&self) {
        if !self.counts_own() {
            self.counts_own.store(1, Relaxed);
        }
    }

    /// Whether requests under way at this server are counted. If no chain compares them, they are not worth what each
    /// request would pay for it.
    pub fn counts_own(&self) -> bool {
        self.counts_own.load(Relaxed) != 0
    }

    /// The first decision for a request was to serve it here.
    pub fn stay(&self) {
        self.with(SELF, |s| {
            s.stayed.fetch_add(1, Relaxed);
        });
    }

    /// Names and values of the counters. `decided` and `local` are sums: for most requests one count does for both.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let stayed = self.slots.first().map_or(0, |own| own.stayed.load(Relaxed));
        let mut list = self.counters.list();
        for (name, value) in &mut list {
            match *name {
                "left" => (*name, *value) = ("decided", *value + stayed),
                "returned" => (*name, *value) = ("local", *value + stayed),
                _ => {}
            }
        }
        list
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

/// A table as a chain sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, const N: usize> {
    table: &'a Table<N>,
    now: Micros,
}

impl<const N: usize> Servers for View<'_, N> {
    fn now(&self) -> Micros {
        self.now
    }

    fn used(&self) -> u16 {
        self.table.used()
    }

    #[inline(always)]
    fn is_candidate(&self, slot: u16) -> bool {
        let Some(slot) = self.table.slots.get(usize::from(slot)) else { return false };
        let word = |n: usize| slot.in_use().words[n].load(Relaxed);
        word(0) != 0 && word(FLAGS) & NO_CANDIDATE == 0 && slot.suspect_until.load(Relaxed) <= self.now.0
    }

    #[inline(always)]
    fn mtime(&self, slot: u16) -> Option<Micros> {
        let mtime = self.table.slots.get(usize::from(slot))?.in_use().words[0].load(Relaxed);
        (mtime != 0).then_some(Micros(mtime))
    }

    fn figures(&self, slot: u16) -> Option<Figures> {
        self.table.slots.get(usize::from(slot))?.figures()
    }

    fn stat(&self, slot: u16) -> Option<ServerStat> {
        Some(self.table.row(slot)?.stat)
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

    /// The copy in use. One word of it may be read as it is: it is of this record or the next.
    #[inline(always)]
    fn in_use(&self) -> &Copy {
        &self.copies[usize::from(self.active.load(Acquire) == 1)]
    }

    /// What is read of the copy in use, if it did not change meanwhile.
    #[inline(always)]
    fn unchanged<T>(&self, mut read: impl FnMut(&[AtomicU64; WORDS]) -> T) -> Option<T> {
        (0..TRIES).find_map(|_| {
            let copy = self.in_use();
            let before = copy.sequence.load(Acquire);
            let value = read(&copy.words);
            fence(Acquire);
            (before & 1 == 0 && copy.sequence.load(Relaxed) == before).then_some(value)
        })
    }

    fn contact(&self) -> Option<SocketAddr> {
        let read = |words: &[AtomicU64; WORDS]| {
            (words[0].load(Relaxed), CONTACT.map(|place| words[place].load(Relaxed)))
        };
        let (mtime, words) = self.unchanged(read)?;
        contact(words).filter(|_| mtime != 0)
    }

    /// At requests for each server: only the words that are needed.
    fn figures(&self) -> Option<Figures> {
        let read = |words: &[AtomicU64; WORDS]| [0, IDLE, LOAD, CPU, FLAGS].map(|n| words[n].load(Relaxed));
        let [mtime, idle, load, cpu, bits] = self.unchanged(read)?;
        let ((nservers, load), (_, aservers), (_, cpu)) = (halves(load), halves(idle), halves(cpu));
        (mtime != 0).then(|| Figures {
            mtime: Micros(mtime),
            load,
            cpu,
            busy: nservers.saturating_sub(aservers),
            flags: flags(bits),
            live: self.live(),
        })
    }

    fn read_name(&self, name: &mut ArrayVec<u8, { NAME_WORDS * 8 }>) {
        let read = self.unchanged(|words| {
            name.clear();
            let (fixed, words) = words.split_at(FIXED_WORDS);
            let len = usize::try_from(fixed[NAME_LEN].load(Relaxed)).unwrap_or(0).min(Name::LEN_MAX);
            // There is room for all words.
            words.iter().take(len.div_ceil(8)).for_each(|word| name.extend(word.load(Relaxed).to_ne_bytes()));
            name.truncate(len);
        });
        if read.is_none() {
            name.clear();
        }
    }

    fn read(&self) -> Option<[u64; WORDS]> {
        self.unchanged(|words| std::array::from_fn(|n| words[n].load(Relaxed)))
    }
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
    let bits = bits | if stat.contact.is_ipv6() { IPV6 } else { 0 };
    let fixed: [u64; FIXED_WORDS] = [
        stat.mtime.0,
        pair(bits, stat.contact.port().into()),
        high,
        low,
        pair(stat.arriba, stat.aservers),
        pair(stat.nservers, stat.load),
        pair(stat.load_hwm, stat.cpu),
        pair(stat.ncpu, *interval_ms),
        stat.tmem,
        stat.amem,
        text.len() as u64,
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
    let (bits, port) = halves(family_port);
    let address = (u128::from(high) << 64) | u128::from(low);
    let address = match (bits & IPV6, u32::try_from(address)) {
        (0, Ok(address)) => IpAddr::from(address.to_be_bytes()),
        _ => IpAddr::V6(Ipv6Addr::from(address)),
    };
    Some(SocketAddr::new(address, u16::try_from(port).ok()?))
}

fn decode(words: &[u64; WORDS]) -> Option<Row> {
    let (fixed, name) = words.split_at(FIXED_WORDS);
    let &[mtime, family_port, high, low, a, b, c, d, tmem, amem, name_len] = fixed else { return None };
    if mtime == 0 {
        return None;
    }
    let [a, b, c, d] = [a, b, c, d].map(halves);
    let stat = ServerStat {
        hostname: Name::from_table(u8::try_from(name_len).ok()?, name),
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
    Some(Row { stat, interval_ms: d.1, flags: flags(family_port) })
}

/// Bits of the word with the flags of servers that no chain begins with: gone, draining.
const NO_CANDIDATE: u64 = 0b11 << 32;

fn flags(word: u64) -> Flags {
    let bit = |n: u32| halves(word).0 & (1 << n) != 0;
    Flags { gone: bit(0), draining: bit(1), authenticated: bit(2), spread: bit(3) }
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
            left: zero(),
            returned: zero(),
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
            counts_own: zero(),
            stopping: zero(),
            load_max: zero(),
            counters,
            slots: std::array::from_fn(|_| Slot {
                active: zero(),
                predicted_load: AtomicI64::new(0),
                predicted_busy: AtomicI64::new(0),
                in_flight: AtomicI64::new(0),
                in_flight_announced: AtomicI64::new(0),
                suspect_until: zero(),
                copies: [copy(), copy()],
                sent: zero(),
                time_us: zero(),
                stayed: zero(),
            }),
            classic: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0))),
        }
    }
}

#[cfg(test)]
mod tests;
