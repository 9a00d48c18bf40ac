//! What is due when, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Next;

/// A queue by time; what is due at the same moment comes in the order in which it was put in.
#[derive(Default)]
pub(super) struct Queue {
    /// Time, running number, place. What is due lies apart: the heap moves its entries again and again.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    numbers: u64,
    places: Vec<Option<Next>>,
    free: Vec<usize>,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, next: Next) {
        self.numbers += 1;
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(slot) => *slot = Some(next),
            None => self.places.push(Some(next)),
        }
        self.heap.push(Reverse((at, self.numbers, place)));
    }

    /// The next that is due at `until` or earlier, and when.
    pub(super) fn pop(&mut self, until: u64) -> Option<(u64, Next)> {
        let Reverse((at, _, place)) = *self.heap.peek().filter(|first| first.0.0 <= until)?;
        self.heap.pop();
        self.free.push(place);
        Some((at, self.places[place].take()?))
    }
}
