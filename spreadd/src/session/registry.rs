//! Who is connected: the session slots and the private names in use.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spread_groups::SessionId;
use spread_wire::PrivateName;

use super::auth::Peer;

/// Slot numbers are the low 16 bits of a session identifier; the rest counts how often the slot was used.
const SLOT_BITS: u32 = 16;

/// The slot of a session, from 0: an index into tables.
pub(crate) fn slot_of(id: SessionId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

/// Slots and names. Names are unique per daemon and stay taken from the hello until the removal of the
/// session is delivered. spec: client-protocol 2.3, 6.3
#[derive(Debug)]
pub(crate) struct Registry {
    sessions_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Free slots with the identifier they get next.
    free: Vec<u64>,
    /// Slots that were ever used.
    used: u64,
    names: HashMap<PrivateName, SessionId>,
    live: usize,
    /// For invented names.
    invented: u32,
}

/// A slot of the registry, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    registry: Arc<Registry>,
    /// The identifier of the session.
    pub(crate) id: SessionId,
    name: Option<PrivateName>,
    /// Where the client is, for displays.
    pub(crate) peer: Option<Peer>,
    /// When it was admitted.
    pub(crate) since: Instant,
}

impl Registry {
    /// Room for `sessions_max` sessions, those in authentication included; at most 65 536.
    pub(crate) fn new(sessions_max: usize) -> Self {
        Self { sessions_max: sessions_max.min(1 << SLOT_BITS), table: Mutex::default() }
    }

    /// Sessions that exist now.
    pub(crate) fn live(&self) -> usize {
        self.lock().live
    }

    /// A seat for a new connection, or `None` when all are taken.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Seat> {
        let mut table = self.lock();
        if table.live >= self.sessions_max {
            return None;
        }
        let id = match table.free.pop() {
            Some(id) => id,
            None => {
                table.used += 1;
                table.used - 1
            }
        };
        table.live += 1;
        Some(Seat {
            registry: Arc::clone(self),
            id: SessionId(id),
            name: None,
            peer: None,
            since: Instant::now(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Takes `name`. Returns false if another session has it.
    pub(crate) fn take_name(&mut self, name: PrivateName) -> bool {
        let mut table = self.registry.lock();
        let Entry::Vacant(entry) = table.names.entry(name) else { return false };
        entry.insert(self.id);
        self.name = Some(name);
        true
    }

    /// Takes a name that nobody has: `r` and a number. spec: client-protocol 2.3
    pub(crate) fn invent_name(&mut self) -> PrivateName {
        let mut table = self.registry.lock();
        loop {
            let n = table.invented % 100_000_000;
            table.invented = table.invented.wrapping_add(1);
            let slot = slot_of(self.id);
            // At most 1 + 4 + 1 + 4 characters would be nicer to read; the number alone is always unique.
            let text = if n < 10_000 && slot < 1_000 { format!("r{n}-{slot}") } else { format!("r{n}") };
            let Ok(name) = PrivateName::new(text.as_bytes()) else { continue };
            if let Entry::Vacant(entry) = table.names.entry(name) {
                entry.insert(self.id);
                self.name = Some(name);
                return name;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.registry.lock();
        if let Some(name) = self.name.take() {
            table.names.remove(&name);
        }
        table.live -= 1;
        table.free.push(self.id.0.wrapping_add(1 << SLOT_BITS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PrivateName {
        PrivateName::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn seats_are_limited_and_reused_with_another_identifier() {
        let registry = Arc::new(Registry::new(2));
        let a = registry.admit().unwrap();
        let b = registry.admit().unwrap();
        assert!(registry.admit().is_none());
        let old = a.id;
        drop(a);
        let c = registry.admit().unwrap();
        assert_ne!(c.id, old);
        assert_eq!(slot_of(c.id), slot_of(old));
        assert_ne!(slot_of(c.id), slot_of(b.id));
        assert_eq!(registry.live(), 2);
    }

    #[test]
    fn a_name_is_free_again_when_its_seat_is_gone() {
        let registry = Arc::new(Registry::new(10));
        let mut a = registry.admit().unwrap();
        let mut b = registry.admit().unwrap();
        assert!(a.take_name(name("alice")));
        assert!(!b.take_name(name("alice")));
        assert!(b.take_name(name("Alice")), "names are case-sensitive");
        drop(a);
        let mut c = registry.admit().unwrap();
        assert!(c.take_name(name("alice")));
    }

    #[test]
    fn invented_names_avoid_taken_ones() {
        let registry = Arc::new(Registry::new(10));
        let mut a = registry.admit().unwrap();
        assert!(a.take_name(name("r0-1")));
        let mut b = registry.admit().unwrap();
        let invented = b.invent_name();
        assert_ne!(invented, name("r0-1"));
    }
}
