//! Somebody who forges packets of the daemons.

use std::collections::VecDeque;

use bytes::Bytes;
use spread_ring::wire::{HEADER_LEN, Header};
use spread_ring::{Class, Path};

use super::{MS, Next, SETTLE_MAX, Step, World, violation};
use crate::rng::Rng;

/// Packets that a forger remembers.
const SEEN_MAX: usize = 200;

/// What a forger has seen, and its dice.
pub(super) struct Forger {
    seen: VecDeque<(Class, Path, Bytes)>,
    rng: Rng,
}

impl Forger {
    pub(super) fn new(seed: u64) -> Self {
        Self { seen: VecDeque::new(), rng: Rng::new(seed, 5) }
    }

    pub(super) fn see(&mut self, class: Class, path: Path, packet: &Bytes) {
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((class, path, packet.clone()));
    }

    /// A packet as it was, or with some numbers or bytes of its body changed.
    fn forge(&mut self) -> Option<(Class, Path, Vec<u8>)> {
        let index = self.rng.index(self.seen.len());
        let (class, path, packet) = self.seen.get(index)?;
        let (class, path, mut bytes) = (*class, *path, packet.to_vec());
        let rng = &mut self.rng;
        for _ in 0..rng.below(4) {
            let body = bytes.len().saturating_sub(HEADER_LEN);
            if body < 9 {
                break;
            }
            let at = HEADER_LEN + rng.index(body.min(200) - 8);
            match rng.below(6) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = u8::try_from(rng.below(256)).unwrap_or(0),
                2 => bytes.truncate(at),
                3 => bytes[at..at + 2].copy_from_slice(&rng.bits().to_le_bytes()[..2]),
                // A number that is somewhat greater or smaller.
                4 => {
                    let old = bytes.get(at..at + 8)?.try_into().map_or(0, u64::from_le_bytes);
                    let step = rng.log_range(1, 20_000);
                    let new =
                        if rng.per_mille(500) { old.wrapping_add(step) } else { old.wrapping_sub(step) };
                    bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
                }
                _ => {
                    let new = rng.pick(&[0, 1, u64::MAX, 1 << 40, 8192]);
                    bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
                }
            }
        }
        Some((class, path, bytes))
    }
}

impl World {
    pub(super) fn forge(&mut self) {
        let Some(forger) = self.forger.as_mut().filter(|_| !self.quiet) else { return };
        let pause = forger.rng.log_range(20_000, 20 * MS);
        let (to, packet) = (forger.rng.index(self.plan.nodes), forger.forge());
        self.at(self.now + pause, Next::Forge);
        let Some((class, path, bytes)) = packet else { return };
        // The driver knows the senders by their addresses, and gives up what has no header.
        if let Ok(header) = Header::check(&bytes)
            && header.sender.index() != to
        {
            self.note_world(|| format!("forged {:?} of {} to n{to}", header.kind, header.sender));
            self.arrive(to, header.sender, path, class, bytes.into());
        }
    }

    /// The forger stops: all must find together, and what is submitted from now on must be delivered.
    pub(super) fn recover_from_forger(&mut self) -> Step {
        self.quiet = true;
        self.ambushes.clear();
        let Some(parts) = self.clean_parts() else { return Ok(()) };
        let begin = self.now;
        self.run_until(self.now + super::NOTICE * self.t_token())?;
        while !self.is_whole(&parts) {
            if self.now - begin > SETTLE_MAX {
                return violation("G10", format!("no rest after a forger: {}", self.describe()));
            }
            self.run_until(self.now + 20 * MS)?;
        }
        let owned = |world: &Self| -> Vec<u32> {
            world.nodes.iter().map(|n| n.process.as_ref().map_or(0, |p| p.own_delivered)).collect()
        };
        let before = owned(self);
        self.probe()?;
        let begin = self.now;
        let done = |world: &Self| {
            let live = |node: usize| world.nodes[node].process.is_some();
            owned(world).iter().zip(&before).enumerate().all(|(i, (now, was))| !live(i) || *now >= was + 3)
        };
        while !done(self) {
            if self.now - begin > SETTLE_MAX {
                return violation("G10", format!("nothing is delivered after a forger: {}", self.describe()));
            }
            self.run_until(self.now + 20 * MS)?;
        }
        Ok(())
    }
}
