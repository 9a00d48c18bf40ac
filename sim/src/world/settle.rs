//! The end of the faults: everything must come to rest and be delivered (G10).

use std::fmt::Write as _;

use spread_ring::{ConfId, Mid, Service};

use super::{MS, NOTICE, SETTLE_MAX, Step, World, show, violation};
use crate::log::{Entry, Line};
use crate::oracle::Violation;
use crate::plan::Fault;

/// After the ring is whole, it must stay so for this many T_token.
const QUIET: u64 = 12;
/// Time to come to rest, and time to stay there, in T_token, if the network has no clean parts.
const ROUGH: u64 = 40;
/// Longest time without a delivery in a whole ring while there is something to deliver: the longest message in
/// packets of one a visit.
const STALL_MAX: u64 = 10_000 * MS;

impl World {
    /// The faults have ended but for those that stay: everything must come to rest.
    pub(super) fn settle(&mut self) -> Step {
        self.quiet = true;
        self.note_world(|| "the faults end".to_owned());
        self.ambushes.clear();
        let Some(parts) = self.clean_parts() else { return self.settle_roughly() };
        let stable = self.comes_to_rest(&parts)?;
        // Time limits cannot hold between clocks that differ by more than what they leave room for.
        if self.skew() > 1300 {
            return Ok(());
        }
        // Four tokens of one rotation can be lost by chance, once in some 100 000 histories: no daemon can know better
        // than to form anew. Twice in a row is none.
        if !(stable || self.loss_stays() && self.comes_to_rest(&parts)?) {
            return violation(
                "G10",
                format!("did not stay together when all was whole: {}", self.describe()),
            );
        }
        // All of a part have delivered the same in their last configuration.
        let mut totals: Vec<(ConfId, usize)> = Vec::new();
        for process in self.nodes.iter().filter_map(|n| n.process.as_ref()) {
            let lines = self.log.proc(process.proc).lines.iter().rev();
            let count = lines
                .take_while(|line| !matches!(line.entry, Entry::Regular { .. }))
                .filter(|line| matches!(line.entry, Entry::Deliver { .. }))
                .count();
            match totals.iter().find(|(conf, _)| *conf == process.conf) {
                None => totals.push((process.conf, count)),
                Some((_, other)) if *other == count => {}
                Some((conf, other)) => {
                    return violation("G10", format!("{count} and {other} messages delivered in {conf}"));
                }
            }
        }
        self.group_log.rest = Some(parts);
        Ok(())
    }

    /// All come together, deliver what was submitted, and stay together. False if they formed anew afterwards.
    fn comes_to_rest(&mut self, parts: &[Vec<usize>]) -> Result<bool, Violation> {
        let begin = self.now;
        // A ring whose members were just cut off looks whole until they notice.
        self.run_until(self.now + NOTICE * self.t_token())?;
        while !self.is_whole(parts) {
            if self.now - begin > SETTLE_MAX {
                let what = format!("no rest after {} ms: {}", SETTLE_MAX / MS, self.describe());
                return violation("G10", what);
            }
            self.run_until(self.now + 20 * MS)?;
        }
        self.note_world(|| "all are where they belong".to_owned());
        // Packets of the time before may still be on their way.
        self.run_until(self.now + self.t_token())?;
        let installs = self.installs();
        self.probe()?;
        self.deliver_all()?;
        if self.plan.groups.is_some() {
            self.last_words()?;
            self.deliver_all()?;
            parts.iter().try_for_each(|part| self.tables_agree(part))?;
        }
        self.run_until(self.now + QUIET * self.t_token())?;
        self.read_everything()?;
        Ok(self.installs() == installs && self.is_whole(parts))
    }

    /// Packets go on being lost, for ever.
    fn loss_stays(&self) -> bool {
        self.faults.iter().any(|f| f.stays && matches!(f.fault, Fault::Loss(_) | Fault::DataLoss(_)))
    }

    pub(super) fn t_token(&self) -> u64 {
        self.plan.engine.token_ms * MS
    }

    /// Goes on until everything submitted is delivered.
    fn deliver_all(&mut self) -> Step {
        let (mut count, mut since) = (self.figures.deliveries, self.now);
        while !self.all_delivered() {
            self.run_until(self.now + 20 * MS)?;
            if self.figures.deliveries != count {
                (count, since) = (self.figures.deliveries, self.now);
            }
            if self.now - since > STALL_MAX {
                return violation("G10", format!("nothing more is delivered: {}", self.describe()));
            }
        }
        Ok(())
    }

    /// Faults that stay and leave no clean parts: which rings form is open, but they must come to rest.
    fn settle_roughly(&mut self) -> Step {
        self.run_until(self.now + ROUGH * self.t_token())?;
        self.probe()?;
        let before = self.installs();
        self.run_until(self.now + ROUGH * self.t_token())?;
        let after = self.installs() - before;
        let most = 4 * self.plan.nodes;
        if self.skew() <= 1300 && after > most {
            let what = format!("{after} installs in {ROUGH} T_token without a change: {}", self.describe());
            return violation("G10", what);
        }
        Ok(())
    }

    /// The sets of nodes that can exchange packets, if each of them can with all others of its set and with
    /// nobody else.
    pub(super) fn clean_parts(&self) -> Option<Vec<Vec<usize>>> {
        let n = self.plan.nodes;
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for node in 0..n {
            let open = |other: usize| self.net.is_open(node, other);
            if let Some(part) = parts.iter_mut().find(|part| open(part[0])) {
                part.push(node);
            } else {
                parts.push(vec![node]);
            }
        }
        let part_of = |node: usize| parts.iter().position(|part| part.contains(&node));
        let clean = (0..n).all(|a| (0..n).all(|b| self.net.is_open(a, b) == (part_of(a) == part_of(b))));
        clean.then_some(parts)
    }

    /// Whether the live nodes of each part are in one ring of exactly them.
    pub(super) fn is_whole(&self, parts: &[Vec<usize>]) -> bool {
        parts.iter().all(|part| {
            let live = || part.iter().filter_map(|node| self.nodes[*node].process.as_ref());
            let members: Vec<Mid> = live().map(|process| process.mid).collect();
            let Some(first) = live().next() else { return true };
            live().all(|process| process.conf == first.conf && process.members == members)
        })
    }

    /// Rate of the fastest clock by that of the slowest one, per mille.
    fn skew(&self) -> u64 {
        let rates = || self.nodes.iter().filter_map(|n| n.process.as_ref()).map(|p| p.clock.per_mille);
        let (slow, fast) = (rates().min().unwrap_or(1000), rates().max().unwrap_or(1000));
        fast * 1000 / slow
    }

    fn installs(&self) -> usize {
        let regular = |line: &&Line| matches!(line.entry, Entry::Regular { .. });
        self.log.procs().iter().map(|proc| proc.lines.iter().filter(regular).count()).sum()
    }

    /// Each live node submits a few messages more.
    pub(super) fn probe(&mut self) -> Step {
        for node in 0..self.plan.nodes {
            let Some(process) = &mut self.nodes[node].process else { continue };
            if process.upper.is_some() {
                continue;
            }
            let probes = [(Service::Agreed, 100), (Service::Safe, 5000), (Service::Reliable, 16)];
            process.pending.extend(probes);
            self.submit_pending(node)?;
            self.drain(node)?;
        }
        Ok(())
    }

    fn all_delivered(&self) -> bool {
        let live = || self.nodes.iter().filter_map(|n| n.process.as_ref());
        live().all(|p| p.pending.is_empty() && p.own_delivered == p.submitted) && self.groups_idle()
    }

    pub(super) fn describe(&self) -> String {
        let mut out = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let _ = match &node.process {
                None => write!(out, "n{i} is down; "),
                Some(p) => write!(
                    out,
                    "n{i} (p{}) in {} {}, {} of {} own messages delivered, {} pending; ",
                    p.proc.0,
                    p.conf,
                    show(&p.members),
                    p.own_delivered,
                    p.submitted,
                    p.pending.len()
                ),
            };
        }
        out
    }
}
