//! The packets of one ring: a ring buffer by sequence number, and what is known to be held.
//!
//! A slot `s mod capacity` holds packet `s` and nothing else: a packet with another number is never "the
//! same packet". Everything up to `released` was held and given up; `aru` is the end of the part without
//! holes. The buffer starts small and grows to the configured capacity when it is needed.

use std::fmt;

use crate::types::Seq;
use crate::wire::{BITMAP_BITS_MAX, Data, Group};

const SLOTS_MIN: usize = 64;

/// What became of a packet offered to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insert {
    New,
    Duplicate,
    /// Further ahead than the store reaches. Flow control makes it impossible between correct members.
    Full,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    data: Option<Data>,
    /// How often this packet was requested while it is missing.
    tries: u8,
}

#[derive(Clone)]
pub(crate) struct Store {
    slots: Vec<Slot>,
    capacity: usize,
    released: Seq,
    aru: Seq,
    /// Highest number held.
    top: Seq,
}

impl fmt::Debug for Store {
    /// Without the empty slots, which are nearly all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slots, capacity, released, aru, top } = self;
        let used = slots.iter().enumerate().filter(|(_, slot)| slot.data.is_some() || slot.tries > 0);
        write!(f, "Store {{ {released} {aru} {top} of {capacity}, {} slots: ", slots.len())?;
        f.debug_map().entries(used).finish()?;
        f.write_str(" }")
    }
}

impl Store {
    /// `capacity` is rounded to a power of two that a bitmap can describe.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(SLOTS_MIN, usize::try_from(BITMAP_BITS_MAX).unwrap_or(SLOTS_MIN));
        let capacity = if capacity.is_power_of_two() { capacity } else { capacity.next_power_of_two() / 2 };
        Self { slots: Vec::new(), capacity, released: 0, aru: 0, top: 0 }
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    pub(crate) fn aru(&self) -> Seq {
        self.aru
    }

    pub(crate) fn top(&self) -> Seq {
        self.top
    }

    pub(crate) fn released(&self) -> Seq {
        self.released
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        // The mask keeps the result below the number of slots.
        let mask = self.slots.len().checked_sub(1)?;
        #[allow(clippy::cast_possible_truncation, reason = "masked by the number of slots")]
        Some(seq as usize & mask)
    }

    fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(self.index(seq)?)
    }

    /// Whether `seq` lies in the part that the slots describe now.
    fn in_reach(&self, seq: Seq) -> bool {
        seq > self.released && seq - self.released <= self.slots.len() as u64
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Data> {
        self.slot(seq)?.data.as_ref().filter(|data| data.head().seq == seq)
    }

    /// Whether this packet is or was held.
    pub(crate) fn have(&self, seq: Seq) -> bool {
        seq <= self.aru || self.get(seq).is_some()
    }

    /// Whether `seq` can be stored if it comes.
    pub(crate) fn fits(&self, seq: Seq) -> bool {
        seq <= self.released.saturating_add(self.capacity())
    }

    fn grow_to(&mut self, seq: Seq) {
        let need = usize::try_from(seq - self.released).unwrap_or(self.capacity);
        if need <= self.slots.len() {
            return;
        }
        let len = need.next_power_of_two().clamp(SLOTS_MIN, self.capacity);
        let mut slots = vec![Slot::default(); len];
        let old = std::mem::take(&mut self.slots);
        let old_len = old.len() as u64;
        if let Some(old_mask) = old_len.checked_sub(1) {
            let mut old = old;
            for s in self.released + 1..=self.released + old_len {
                #[allow(clippy::cast_possible_truncation, reason = "masked by the number of slots")]
                let (from, to) = ((s & old_mask) as usize, s as usize & (len - 1));
                slots[to] = std::mem::take(&mut old[from]);
            }
        }
        self.slots = slots;
    }

    pub(crate) fn insert(&mut self, data: Data) -> Insert {
        let seq = data.head().seq;
        if self.have(seq) {
            return Insert::Duplicate;
        }
        if !self.fits(seq) {
            return Insert::Full;
        }
        self.grow_to(seq);
        let Some(index) = self.index(seq) else { return Insert::Full };
        self.slots[index] = Slot { data: Some(data), tries: 0 };
        self.top = self.top.max(seq);
        if seq == self.aru + 1 {
            self.aru = seq;
            while self.aru < self.top && self.get(self.aru + 1).is_some() {
                self.aru += 1;
            }
        }
        Insert::New
    }

    /// Gives up everything up to `seq`, at most up to `aru`.
    pub(crate) fn release(&mut self, seq: Seq) {
        let seq = seq.min(self.aru);
        while self.released < seq {
            self.released += 1;
            if let Some(index) = self.index(self.released) {
                self.slots[index] = Slot::default();
            }
        }
    }

    /// Counts numbers up to `seq` as held and released without packets: a ring of one member needs none.
    pub(crate) fn skip_to(&mut self, seq: Seq) {
        debug_assert!(self.top == self.released, "packets are skipped");
        self.released = seq;
        self.aru = seq;
        self.top = seq;
    }

    /// Returns how often `seq` was requested before and counts one more.
    pub(crate) fn count_try(&mut self, seq: Seq) -> u8 {
        if !self.fits(seq) || seq <= self.released {
            return 0;
        }
        self.grow_to(seq);
        let Some(slot) = self.index(seq).and_then(|index| self.slots.get_mut(index)) else { return 0 };
        let tries = slot.tries;
        slot.tries = tries.saturating_add(1);
        tries
    }

    /// How often `seq` was requested.
    pub(crate) fn tries(&self, seq: Seq) -> u8 {
        if self.in_reach(seq) { self.slot(seq).map_or(0, |slot| slot.tries) } else { 0 }
    }

    /// Forgets how often missing packets were requested.
    pub(crate) fn reset_tries(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.tries = 0);
    }

    /// Notes in the record everything that is held above its base.
    pub(crate) fn report(&self, group: &mut Group) {
        for seq in group.base().saturating_add(1)..=self.top {
            if self.have(seq) {
                group.insert(seq);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn held_in_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.data.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
