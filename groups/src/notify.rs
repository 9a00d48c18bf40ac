//! Joins, leaves and disconnects as they take effect, and the messages that announce them.
//!
//! spec: group-semantics 2, client-protocol 5

use spread_wire::{Cause, Frame, GroupId, GroupName, Membership, build};
use tracing::debug;

use crate::groups::Groups;
use crate::mutation::{Rule, without};
use crate::table::{GROUPS_MAX, Group, Local, MEMBERS_MAX, MEMBERSHIPS_MAX, Member};
use crate::types::{OutFrame, Output, Recipients};
use crate::views::transition_sets;

/// What happened to a group.
enum Change {
    Join(Member),
    Leave(Member),
    Disconnect(Member),
}

impl Groups {
    /// A join takes effect. `frame` is the request, for the case that it is refused.
    pub(crate) fn join(&mut self, from: u16, name: GroupName, group: GroupName, frame: &OutFrame) {
        let local = if from == self.me { self.registry.local(&name) } else { None };
        if from == self.me && local.is_none() {
            return;
        }
        if self.is_at_limit(from, &name, &group) {
            self.stats.joins_rejected += 1;
            if let Some(local) = local {
                self.reject(local, frame);
            }
            return;
        }
        let departing = self.transition.is_some_and(|t| !t.survivors.contains(from));
        // spec: group-semantics 2.4, "created by a join delivered in transition"
        let Some(config) = self.transition.map(|t| t.id).or_else(|| self.config.map(|c| c.id)) else {
            return;
        };
        let base = self.base_id(config);
        let member = Member { name, node: from, local };
        let joined = self.table.join(group, member, || Group::new(base, departing));
        // A join by a member is ignored silently. spec: group-semantics 2.3
        let Some(entry) = joined else { return };
        // spec: group-semantics 2.8, "a join from a client of a departed daemon makes it changed"
        entry.changed |= departing;
        self.announce(group, &Change::Join(member));
    }

    /// A leave takes effect.
    pub(crate) fn leave(&mut self, from: u16, name: &GroupName, group: GroupName) {
        let Some(member) = self.table.leave(&group, from, name) else { return };
        if let Some(Local { session, membership: true }) = member.local {
            self.send(&[session], build::self_leave(&group));
        }
        self.announce(group, &Change::Leave(member));
    }

    /// A session ends, with or without a disconnect request: it leaves all its groups, in byte order of their
    /// names.
    ///
    /// spec: group-semantics 2.6, client-protocol 4.4
    pub(crate) fn end_session(&mut self, from: u16, name: &GroupName) {
        for group in self.table.groups_of(name) {
            if let Some(member) = self.table.leave(&group, from, name) {
                self.announce(group, &Change::Disconnect(member));
            }
        }
        if from == self.me
            && let Some(session) = self.registry.remove(name)
        {
            self.outputs.push_back(Output::Close(session));
        }
    }

    fn is_at_limit(&self, from: u16, name: &GroupName, group: &GroupName) -> bool {
        match self.table.get(group) {
            Some(group) if group.contains(from, name) => false,
            Some(group) if group.members().len() >= MEMBERS_MAX => true,
            Some(_) => self.table.memberships() >= MEMBERSHIPS_MAX,
            None => self.table.len() >= GROUPS_MAX || self.table.memberships() >= MEMBERSHIPS_MAX,
        }
    }

    /// Returns a refused join to its session, whether or not it asked for membership messages.
    ///
    /// spec: client-protocol 5.5
    fn reject(&mut self, to: Local, frame: &OutFrame) {
        let request = Frame::parse(frame.to_bytes(), spread_wire::limits::BODY_MAX).ok();
        if let Some((head, data)) = request.as_ref().and_then(build::reject) {
            let frame = OutFrame::from_parts(&[head, data], 0);
            self.stats.notifications += 1;
            let to = Recipients::new(&[to.session]);
            self.outputs.push_back(Output::Deliver { to, except: None, frame });
        }
    }

    /// Gives a group its next id after one member changed, and tells its members.
    fn announce(&mut self, name: GroupName, change: &Change) {
        if self.table.drop_if_empty(&name) {
            return;
        }
        let Some(group) = self.table.get_mut(&name) else { return };
        group.id.index = group.id.index.wrapping_add(i32::from(!without(Rule::Count)));
        let in_transition = self.transition.filter(|_| group.changed && !without(Rule::TransitionView));
        let id = group.id;
        let (cause, member) = match change {
            Change::Join(member) => (Cause::Join, member),
            Change::Leave(member) => (Cause::Leave, member),
            Change::Disconnect(member) => (Cause::Disconnect, member),
        };
        let Some(transition) = in_transition else {
            self.send_view(name, cause, vec![vec![member.name]], |_, _| 0);
            return;
        };
        // spec: group-semantics 2.8, in-transition view
        let joiner = matches!(change, Change::Join(_)).then_some(member.name);
        debug!(group = %name, "Changed in transition; its members on departed daemons stay listed.");
        let sets = transition_sets(group.members(), transition.survivors, joiner.as_ref());
        self.send_view(
            name,
            Cause::Network,
            sets,
            |sets, receiver| {
                if joiner == Some(*receiver) { sets - 1 } else { 0 }
            },
        );
        self.send_transition(name, id);
    }

    /// Sends the current view of a group to its members here. `own_set` gives the number of a receiver's own
    /// set, from the number of sets and its name.
    pub(crate) fn send_view(
        &mut self,
        name: GroupName,
        cause: Cause,
        sets: Vec<Vec<GroupName>>,
        own_set: impl Fn(usize, &GroupName) -> usize,
    ) {
        let Some(group) = self.table.get(&name) else { return };
        // Receivers with the same own set share one frame; nearly always that is all of them.
        let mut by_set: Vec<(usize, Vec<_>)> = Vec::new();
        for (receiver, session) in group.watchers() {
            let own = own_set(sets.len(), receiver);
            match by_set.iter_mut().find(|(set, _)| *set == own) {
                Some((_, sessions)) => sessions.push(session),
                None => by_set.push((own, vec![session])),
            }
        }
        if by_set.is_empty() {
            return;
        }
        let members = group.members().iter().map(|m| m.name).collect();
        let message = Membership { group: name, cause, id: group.id, members, sets };
        for (own, sessions) in by_set {
            self.send(&sessions, message.encode(own));
        }
    }

    /// Sends the transitional signal that ends the view `id` of a group to its members here.
    pub(crate) fn send_transition(&mut self, name: GroupName, id: GroupId) {
        let Some(group) = self.table.get(&name) else { return };
        let to: Vec<_> = group.watchers().map(|(_, session)| session).collect();
        self.send(&to, build::transition(&name, id));
    }
}
