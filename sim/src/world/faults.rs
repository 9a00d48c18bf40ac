//! Faults that begin and end, and ambushes.

use spread_ring::{NodeId, NodeSet};

use super::{Next, Step, World};
use crate::oracle::Violation;
use crate::plan::{Fault, Moment, Strike, Timed};

impl World {
    pub(super) fn begin(&mut self, index: usize) -> Step {
        let Some(timed) = self.faults.get(index).cloned() else { return Ok(()) };
        let Timed { fault, .. } = timed;
        self.note_world(|| format!("fault {index} begins: {fault:?}"));
        self.net.set(&fault, true);
        match fault {
            Fault::Crash(node) => {
                self.nodes[node].down += 1;
                self.kill(node, "dies")?;
            }
            Fault::Leave(node) => {
                self.nodes[node].down += 1;
                let now = self.now;
                if let Some(process) = self.nodes[node].process.as_mut().filter(|p| p.leaving_since.is_none())
                {
                    process.leaving_since = Some(now);
                    process.pending.clear();
                    self.clients_die(node);
                    let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
                    let clock = process.clock.read(now);
                    process.ring.leave(clock);
                    self.drain(node)?;
                }
            }
            Fault::Pause(node) => self.nodes[node].paused += 1,
            Fault::Slow(node, most) => self.nodes[node].slow.push(most),
            Fault::Clock(node, rate) => self.nodes[node].clock_rate = rate,
            Fault::Flood(node, count)
                if self.nodes[node].paused == 0 && !self.quiet && self.plan.groups.is_none() =>
            {
                self.offer(node, count);
                self.submit_pending(node)?;
                self.drain(node)?;
            }
            Fault::Ambush(_, nth, _) => self.ambushes.push((index, nth)),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn end(&mut self, index: usize) -> Step {
        let Some(Timed { fault, .. }) = self.faults.get(index).cloned() else { return Ok(()) };
        self.note_world(|| format!("fault {index} ends: {fault:?}"));
        self.net.set(&fault, false);
        match fault {
            Fault::Crash(node) | Fault::Leave(node) => {
                let n = &mut self.nodes[node];
                n.down -= 1;
                // A process that still says goodbye is started again when it has ended.
                if n.down == 0 && n.process.is_none() {
                    return self.start(node);
                }
            }
            Fault::Pause(node) => {
                self.nodes[node].paused -= 1;
                if self.nodes[node].paused == 0 {
                    if let Some(process) = &mut self.nodes[node].process {
                        process.wake = None;
                    }
                    let now = self.now;
                    self.wake_at(node, now);
                }
            }
            Fault::Slow(node, most) => {
                let slow = &mut self.nodes[node].slow;
                if let Some(i) = slow.iter().position(|s| *s == most) {
                    slow.remove(i);
                }
            }
            Fault::Clock(node, _) => self.nodes[node].clock_rate = 1000,
            Fault::Ambush(..) => self.ambushes.retain(|(armed, _)| *armed != index),
            _ => {}
        }
        Ok(())
    }

    /// Something happened at a node that an ambush may wait for. Returns whether the packet is lost.
    pub(super) fn ambush(
        &mut self,
        node: usize,
        moment: Moment,
        to: Option<NodeSet>,
    ) -> Result<bool, Violation> {
        if self.dying {
            return Ok(false);
        }
        let mut struck = None;
        let faults = &self.faults;
        self.ambushes.retain_mut(|(index, left)| {
            let Some(Fault::Ambush(waits_for, _, strike)) = faults.get(*index).map(|timed| &timed.fault)
            else {
                return false;
            };
            if *waits_for != moment || struck.is_some() {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                struck = Some((*index, *strike));
            }
            *left > 0
        });
        let Some((index, strike)) = struck else { return Ok(false) };
        self.figures.strikes += 1;
        self.note_world(|| format!("ambush {index}: {strike:?} at n{node}, {moment:?}"));
        let first = to.and_then(NodeSet::first).map_or(node, NodeId::index);
        let split = |i: usize| u8::from(i > node);
        let alone = |i: usize| u8::from(i != node);
        let parts = |f: &dyn Fn(usize) -> u8| (0..self.plan.nodes).map(f).collect();
        let (fault, time, lost) = match strike {
            Strike::Lose => return Ok(true),
            Strike::LoseAndCrash(time) => (Fault::Crash(node), time, true),
            Strike::Crash(time) => (Fault::Crash(node), time, false),
            Strike::CrashReceiver(time) => (Fault::Crash(first), time, false),
            Strike::Isolate(time) => (Fault::Partition(parts(&alone)), time, false),
            Strike::Deafen(time) => (Fault::Deaf(node), time, false),
            Strike::Mute(time) => (Fault::Mute(node), time, false),
            Strike::Split(time) => (Fault::Partition(parts(&split)), time, false),
            Strike::Pause(time) => (Fault::Pause(node), time, false),
            Strike::LateData(most) => (Fault::Late(500, most, true), most, false),
        };
        let until = (self.now + time).min(self.plan.active.max(self.now + 1));
        let timed = Timed { at: self.now, until, stays: false, fault };
        let index = self.faults.len();
        self.faults.push(timed);
        self.begin(index)?;
        self.at(until, Next::End(index));
        Ok(lost)
    }
}
