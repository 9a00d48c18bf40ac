//! The life of a process: start, the driver's loop, end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spread_ring::{Boot, Class, ConfId, Mid, NodeId, Path, Ring, RingConfig};

use super::{Clock, LEAVE_MAX, MS, Next, Process, SOCKET_MAX, SPIN_MAX, Step, World, violation};
use crate::plan::Plan;

impl World {
    pub(super) fn start(&mut self, node: usize) -> Step {
        let plan = &self.plan;
        let n = &mut self.nodes[node];
        n.start += 1;
        let session = n.rng.bits() | 1;
        // The state file may be lost: nothing depends on it but that clients never see an identifier twice.
        let kept = n.rng.per_mille(700) || plan.groups.is_some();
        let known = if kept { n.epoch_file } else { 0 };
        let mut seed = [0; 32];
        seed.iter_mut().for_each(|b| *b = u8::try_from(n.rng.below(256)).unwrap_or(0));
        let boot =
            Boot { session, epoch_min: (known + 2).max(plan.engine.epoch + self.now / (1000 * MS)), seed };
        let clock = Clock { started: self.now, offset: n.rng.below(1 << 50), per_mille: n.clock_rate };
        let id = NodeId(u16::try_from(node).unwrap_or(u16::MAX));
        let cfg = Arc::new(config(plan, id));
        let mid = Mid { node: id, session };
        let start = n.start;
        let mut ring = match Ring::new(cfg, boot, clock.read(self.now)) {
            Ok(ring) => ring,
            Err(err) => return violation("PANIC", format!("the configuration is refused: {err}")),
        };
        ring.set_trace(self.tracing);
        if plan.engine.counters > 0 {
            ring.start_counters_at(plan.engine.counters);
        }
        let upper = self.upper(node)?;
        let proc = self.log.start(mid);
        self.figures.starts += 1;
        self.nodes[node].process = Some(Process {
            ring,
            upper,
            mid,
            proc,
            clock,
            data: VecDeque::new(),
            tokens: VecDeque::new(),
            wake: None,
            pending: VecDeque::new(),
            full: false,
            submitted: 0,
            own_delivered: 0,
            conf: ConfId::default(),
            members: Vec::new(),
            in_trans: None,
            leaving_since: None,
            spin: 0,
            spin_at: 0,
        });
        self.note(node, || format!("starts as p{} session {session:x}", proc.0));
        if self.plan.groups.is_none() && self.plan.load.senders >> node & 1 == 1 {
            let at = self.now + self.load.below(self.plan.load.every);
            self.at(at, Next::Client { node, start });
        }
        self.drain(node)?;
        self.first_clients(node)?;
        self.drain(node)
    }

    pub(super) fn kill(&mut self, node: usize, why: &str) -> Step {
        // What the engine did before it died it has done, also if nobody had looked at its events yet: others
        // may have its packets.
        self.dying = true;
        while let Some(event) = self.ring(node).and_then(Ring::poll_event) {
            self.event(node, event)?;
        }
        self.dying = false;
        self.clients_die(node);
        if let Some(process) = self.nodes[node].process.take() {
            self.log.end(process.proc);
            self.note(node, || format!("{why} (p{})", process.proc.0));
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self, to: usize, from: NodeId, path: Path, class: Class, packet: Bytes) {
        let slowest = self.nodes[to].slow.iter().max().copied().unwrap_or(0);
        let delay = self.nodes[to].rng.below(self.plan.wakeup.max(slowest)) + 1;
        let Some(process) = &mut self.nodes[to].process else { return };
        let socket = match class {
            Class::Data => &mut process.data,
            Class::Token => &mut process.tokens,
        };
        if socket.len() < SOCKET_MAX {
            socket.push_back((path, from, packet));
        } else {
            self.net.lost += 1;
        }
        let at = self.now + delay;
        self.wake_at(to, at);
    }

    /// Makes sure that the node wakes at `at` or earlier.
    pub(super) fn wake_at(&mut self, node: usize, at: u64) {
        let n = &mut self.nodes[node];
        let start = n.start;
        let Some(process) = &mut n.process else { return };
        if process.wake.is_none_or(|wake| at < wake) {
            process.wake = Some(at);
            self.at(at, Next::Wake { node, start });
        }
    }

    /// One turn of the driver's loop: all data packets, then tokens, then the timers, then the effects.
    pub(super) fn wake(&mut self, node: usize, start: u64) -> Step {
        let now = self.now;
        let n = &mut self.nodes[node];
        let Some(process) = n.process.as_mut().filter(|p| start == n.start && p.wake == Some(now)) else {
            return Ok(());
        };
        process.wake = None;
        if n.paused > 0 {
            return Ok(());
        }
        let clock = process.clock.read(now);
        // As the driver does: what has arrived is read before timers are looked at. A token waits until the
        // data socket is empty.
        while let Some((path, from, packet)) = process.data.pop_front() {
            process.ring.handle_packet(clock, path, from, packet);
        }
        while let Some((path, from, packet)) = process.tokens.pop_front() {
            process.ring.handle_packet(clock, path, from, packet);
        }
        if process.ring.poll_timeout().is_some_and(|due| due <= clock) {
            process.ring.handle_timeout(clock);
            if process.spin_at != now {
                (process.spin_at, process.spin) = (now, 0);
            }
            process.spin += 1;
            if process.spin > SPIN_MAX {
                return violation("SPIN", format!("n{node} has timers due for ever"));
            }
        }
        self.drain(node)
    }

    /// Performs all effects of the engine of a node and arms its timer.
    pub(super) fn drain(&mut self, node: usize) -> Step {
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.ring(node).and_then(Ring::poll_transmit) {
                quiet = false;
                self.transmit(node, transmit)?;
            }
            while let Some(event) = self.ring(node).and_then(Ring::poll_event) {
                quiet = false;
                self.event(node, event)?;
            }
            self.submit_pending(node)?;
            quiet &= !self.pump(node)?;
            if quiet {
                break;
            }
        }
        self.drain_trace(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if let Err(what) = process.ring.invariants()
            && self.forger.is_none()
        {
            return violation("INV", format!("n{node} (p{}): {what}", process.proc.0));
        }
        if let Some(Err(what)) = process.upper.as_mut().map(|upper| upper.invariants()) {
            return violation("INV", format!("groups of n{node} (p{}): {what}", process.proc.0));
        }
        if process.leaving_since.is_some_and(|since| self.now - since > LEAVE_MAX) {
            return violation("LEAVE", format!("n{node} does not get out"));
        }
        if process.ring.is_gone() {
            self.kill(node, "has left")?;
            if self.nodes[node].down == 0 {
                return self.start(node);
            }
            return Ok(());
        }
        let due = process.ring.poll_timeout().map(|due| process.clock.when(due).max(self.now));
        if let Some(due) = due {
            self.wake_at(node, due);
        }
        Ok(())
    }

    pub(super) fn ring(&mut self, node: usize) -> Option<&mut Ring> {
        self.nodes[node].process.as_mut().map(|process| &mut process.ring)
    }
}

fn config(plan: &Plan, me: NodeId) -> RingConfig {
    let engine = &plan.engine;
    let mut cfg = RingConfig::new(me, vec![0; plan.nodes], [0x5a; 16]);
    cfg.packet_len_max = engine.packet_len;
    let scale = |d: Duration| d * u32::try_from(engine.token_ms).unwrap_or(500) / 500;
    let t = &mut cfg.timers;
    let times = [&mut t.token, &mut t.presence, &mut t.dead, &mut t.join, &mut t.consensus, &mut t.commit];
    times.into_iter().for_each(|time| *time = scale(*time));
    let [window, personal, accelerated] = engine.windows;
    (cfg.windows.window, cfg.windows.personal, cfg.windows.accelerated) = (window, personal, accelerated);
    cfg.acks = engine.acks;
    cfg.park = engine.park;
    cfg.limits.store_packets = engine.store;
    cfg.limits.submit_count_max = engine.submit_count;
    cfg.limits.submit_bytes_max = engine.submit_bytes;
    cfg
}
