//! Changes of the ring's configuration, and what they do to groups.
//!
//! ```text
//!            transitional             regular, losses only: announce
//!   stable ----------------> broken --------------------------------> stable
//!     ^       TRANS, if        |
//!     |       not exchanging   | regular, daemons from elsewhere
//!     |                        v
//!     +------------------- exchanging ----+
//!        tables complete:      ^          | transitional: nothing is announced; if the tables become
//!        announce              +----------+ complete after it, announce and then TRANS
//! ```
//!
//! spec: group-semantics 2.7, 2.9, 4

use spread_wire::{Cause, GroupId, GroupName};
use tracing::debug;

use crate::exchange::{Exchange, Part};
use crate::groups::{Configuration, Groups, Transition, low_half};
use crate::mutation::{Rule, without};
use crate::table::{Group, Member};
use crate::types::{ConfigId, Nodes};
use crate::views::network_sets;

impl Groups {
    /// The ring broke: `members` are the daemons that go on together. What the ring delivers until
    /// [`handle_regular`](Self::handle_regular) is left over from the configuration that ends.
    pub fn handle_transitional(&mut self, id: ConfigId, members: &[u16]) {
        self.transition = Some(Transition { id, survivors: Nodes::of(members) });
        if self.exchange.is_none() {
            self.signal_transition();
        }
    }

    /// The ring formed a configuration of the daemons `members`.
    pub fn handle_regular(&mut self, id: ConfigId, members: &[u16]) {
        let members = Nodes::of(members);
        let survivors = self.transition.take().map_or_else(|| Nodes::one(self.me), |t| t.survivors);
        self.exchange = None;
        self.config = Some(Configuration { id, members });
        // Everybody else either left or has another table. spec: group-semantics 4 R7
        if !without(Rule::Survivors) {
            self.side = self.side.and(survivors);
            self.table.retain(self.side);
        }
        let exchange = self.side != members;
        debug!(epoch = id.epoch, ?members, side = ?self.side, exchange, "New configuration.");
        if exchange {
            self.generation = low_half(id.epoch);
            if !without(Rule::Renew) {
                self.queue.renew();
            }
            self.stats.exchanges_begun += 1;
            self.exchange = Some(Exchange::new(id, members, self.side, self.parted, self.me, &self.table));
        } else {
            // spec: group-semantics 4 R2
            let base = GroupId { index: 1, ..self.base_id(id) };
            for name in self.table.names(|group| group.changed) {
                if without(Rule::Changed) {
                    continue;
                }
                let Some(group) = self.table.get_mut(&name) else { continue };
                group.changed = false;
                group.id = base;
                let all = group.members().iter().map(|m| m.name).collect();
                self.send_view(name, Cause::Network, vec![all], |_, _| 0);
            }
        }
    }

    /// Ends the view of every group that has members on departing daemons.
    ///
    /// spec: group-semantics 2.4 (transitional id), 2.7 step 2
    fn signal_transition(&mut self) {
        let Some(Transition { id, survivors }) = self.transition else { return };
        self.parted = id;
        if without(Rule::Signal) {
            return;
        }
        let base = GroupId { index: 1, ..self.base_id(id) };
        for name in self.table.names(|group| group.reaches_beyond(survivors)) {
            let Some(group) = self.table.get_mut(&name) else { continue };
            group.changed = true;
            let old = std::mem::replace(&mut group.id, base);
            self.send_transition(name, old);
        }
    }

    /// The tables of all sides are there: makes one of them and announces what changed.
    ///
    /// spec: group-semantics 4 R5
    pub(crate) fn complete_exchange(&mut self) {
        let (Some(exchange), Some(config)) = (self.exchange.take(), self.config) else { return };
        self.stats.exchanges_completed += 1;
        let own = self.side;
        self.side = config.members;
        let base = GroupId { index: 1, ..self.base_id(config.id) };

        let mut groups = exchange.into_groups();
        for name in self.table.names(|group| group.changed) {
            groups.entry(name).or_default();
        }
        for (name, parts) in groups {
            self.merge(name, parts, base);
        }
        debug!(epoch = config.id.epoch, side = ?own, groups = self.table.len(), "Group tables exchanged.");
        // The break that was waiting for this. spec: group-semantics 2.9
        if self.transition.is_some() {
            self.signal_transition();
        }
    }

    /// Joins what all sides know of one group.
    fn merge(&mut self, name: GroupName, parts: Vec<Part>, base: GroupId) {
        let own = self.table.get(&name).map(|group| Part {
            id: group.id,
            parted: self.parted,
            changed: group.changed,
            members: group.members().iter().map(|m| (m.node, m.name)).collect(),
        });
        let sides = parts.len() + usize::from(own.is_some());
        let changed = sides > 1 || parts.iter().chain(&own).any(|part| part.changed);
        // Taken over silently, with its id. spec: group-semantics 2.4
        let first_id = parts.first().map_or(base, |part| part.id);
        for part in &parts {
            for &(node, member) in &part.members {
                // Nobody else speaks for the sessions of this daemon.
                if node != self.me {
                    let member = Member { name: member, node, local: None };
                    self.table.join(name, member, || Group::new(first_id, false));
                }
            }
        }
        let Some(group) = self.table.get_mut(&name) else { return };
        if !changed {
            return;
        }
        group.changed = false;
        group.id = base;
        if group.watchers().next().is_none() {
            return;
        }
        let sets = network_sets(parts.into_iter().chain(own).collect());
        // All receivers here were on this daemon's side, so they are in one set.
        let own_set = group.watchers().next().map(|(receiver, _)| *receiver);
        let own_set = own_set.and_then(|r| sets.iter().position(|set| set.contains(&r))).unwrap_or(0);
        self.send_view(name, Cause::Network, sets, |_, _| own_set);
    }
}
