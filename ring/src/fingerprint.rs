//! A hash of the state of the engine, for those who explore all that it can get into.

use std::fmt::{self, Write as _};

use crate::ring::Ring;
use crate::timers::Timer;
use crate::types::Nanos;

/// A hash of what is formatted, eight bytes at a time.
struct Hash(u64);

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ (mixed >> 29);
        }
        Ok(())
    }
}

impl Ring {
    /// A hash of all that decides what this engine does next: two engines with the same fingerprint, the same
    /// configuration and the same inputs give the same outputs. Counters and the trace do not matter.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        // All fields by name: a new one must not be forgotten here.
        let Self {
            cfg: _,
            stats: _,
            tracing: _,
            trace: _,
            me,
            rng,
            now,
            phase,
            conf,
            attempt,
            gather,
            hearing,
            epoch,
            seen,
            frozen,
            obligations,
            outq,
            asm,
            copy,
            timers,
            links,
            links_at,
            tx,
            events,
            paused,
            refused,
            visit_due,
            wake_wait,
            sample,
            own_delivered,
            join_no,
            control_id,
            presence_count,
            presence_at,
            greet,
            hop_ack_at,
            leaving,
            gone,
        } = self;
        // Writing into a hash cannot fail.
        let _ = write!(
            hash,
            "{me:?}{rng:?}{now:?}{phase:?}{conf:?}{attempt:?}{gather:?}{hearing:?}{epoch}{seen}"
        );
        let _ = write!(hash, "{frozen}{obligations:?}{outq:?}{asm:?}{copy:?}{timers:?}{links:?}{links_at:?}");
        let _ = write!(
            hash,
            "{tx:?}{events:?}{paused}{refused}{visit_due}{wake_wait:?}{sample:?}{own_delivered}"
        );
        let _ =
            write!(hash, "{join_no} {control_id} {presence_count} {presence_at:?}{greet:?}{hop_ack_at:?}");
        let _ = write!(hash, "{leaving:?}{gone}");
        hash.0
    }

    /// Whether the next deadline is that of a sign of life, and when it is.
    pub fn next_timer(&self) -> Option<(bool, Nanos)> {
        let at = self.poll_timeout()?;
        Some((self.timers.is_due(Timer::Presence, at), at))
    }
}
