//! The end of a branch: no more faults, and time goes on in good order.

use std::collections::BTreeMap;

use spread_ring::Nanos;

use super::state::{Flying, State, Step, Way};
use crate::oracle::Violation;

/// One-way delay of a packet.
const DELAY: u64 = 50_000;
/// Longest time until everything has settled: a member that broke rings is kept away for a while.
const SETTLE_MAX: u64 = 120_000_000_000;

/// Packets by arrival.
type Wire = BTreeMap<(u64, u64), (Way, Flying)>;

impl State {
    /// Goes on until all live daemons are in one ring and have delivered all that was submitted (G10).
    pub(super) fn settle(&mut self) -> Step<()> {
        (self.cut, self.lively) = (0, true);
        if !self.run(SETTLE_MAX, Self::is_settled)? {
            let what = self.nodes.iter().flatten().map(|node| {
                let members: Vec<u16> = node.conf.1.iter().map(|mid| mid.node.0).collect();
                format!("n{}: {} of {} in {members:?}", node.mid.node.0, node.own_delivered, node.submitted)
            });
            let what: Vec<String> = what.collect();
            return Err(Violation { promise: "G10", what: format!("no rest: {}", what.join(", ")) });
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let live = || self.nodes.iter().flatten();
        let members: Vec<_> = live().map(|node| node.mid).collect();
        live().all(|node| {
            node.ring.is_operational() && node.conf.1 == members && node.own_delivered == node.submitted
        }) && live().all(|node| live().all(|other| node.conf.0 == other.conf.0))
    }

    /// Time goes on for `time` at most, until something is true. Returns whether it is.
    /// What is under way stays under way.
    pub(super) fn run(&mut self, time: u64, done: impl Fn(&Self) -> bool) -> Step<bool> {
        let mut wire: Wire = BTreeMap::new();
        let result = self.run_wire(&mut wire, time, done);
        let newer = std::mem::take(&mut self.ways);
        let older = wire.into_values();
        let newer =
            newer.into_iter().flat_map(|(way, queue)| queue.into_iter().map(move |flying| (way, flying)));
        older.chain(newer).for_each(|(way, flying)| self.ways.entry(way).or_default().push_back(flying));
        result
    }

    fn run_wire(&mut self, wire: &mut Wire, time: u64, done: impl Fn(&Self) -> bool) -> Step<bool> {
        let base: Vec<u64> =
            self.nodes.iter().map(|node| node.as_ref().map_or(0, |node| node.clock.0)).collect();
        let (mut now, mut count) = (0, 0);
        loop {
            if done(self) {
                return Ok(true);
            }
            for (way, queue) in std::mem::take(&mut self.ways) {
                for flying in queue {
                    count += 1;
                    wire.insert((now + DELAY, count), (way, flying));
                }
            }
            let timer = |(at, node): (usize, &Option<std::rc::Rc<super::state::Node>>)| {
                let due = node.as_ref()?.ring.poll_timeout()?;
                Some((due.0.saturating_sub(base[at]).max(now), at))
            };
            let timer = self.nodes.iter().enumerate().filter_map(timer).min();
            let packet = wire.first_key_value().map(|((at, _), _)| *at);
            match (packet, timer) {
                // Packets that are there come before timers that are due.
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                    now = at;
                    if let Some((_, (way, flying))) = wire.pop_first() {
                        let to = usize::from(way.1);
                        self.set_clock(to, Nanos(base[to] + now));
                        self.arrive(way, &flying)?;
                    }
                }
                (_, Some((due, at))) => {
                    now = due;
                    self.timeout(at, Nanos(base[at] + now))?;
                }
                _ => return Ok(false),
            }
            if now > time {
                return Ok(false);
            }
        }
    }
}
