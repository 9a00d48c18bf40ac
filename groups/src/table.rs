//! The group table: who is a member of what.
//!
//! Groups and memberships are found by hash; whatever is announced or sent is put in byte order of the names
//! first, so that all daemons do it in the same order.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use spread_wire::{GroupId, GroupName};

use crate::types::{Nodes, Recipients, SessionId};

/// Members that a join may bring a group to: the largest number whose list fits the largest message of the
/// original, (143 200 - 48 - 56) / 32 rounded down. A join beyond it is returned to the requester. A merge may
/// make a group larger, and its views are sent all the same: the protocol itself sets no limit.
///
/// spec: group-semantics 5, "members per group"
pub const MEMBERS_MAX: usize = 4_471;

/// Groups that a join may bring the table to; a join that would create more is returned to the requester.
/// About 200 MB of memory at every daemon.
pub const GROUPS_MAX: usize = 1 << 20;

/// Memberships (pairs of session and group) that a join may bring the table to. About 500 MB of memory at every
/// daemon.
pub const MEMBERSHIPS_MAX: usize = 1 << 22;

/// A session of this daemon, as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) session: SessionId,
    /// Whether it asked for membership messages.
    pub(crate) membership: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its private group.
    pub(crate) name: GroupName,
    /// Its daemon.
    pub(crate) node: u16,
    /// Set exactly for the sessions of this daemon.
    pub(crate) local: Option<Local>,
}

impl Member {
    /// Member order: configuration order of the daemons, then byte order of the names.
    ///
    /// spec: group-semantics 2.5
    fn key(&self) -> (u16, &GroupName) {
        (self.node, &self.name)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The id of the current view.
    pub(crate) id: GroupId,
    /// Whether the next daemon view has to announce it: it lost members, or got some that are departing.
    pub(crate) changed: bool,
    /// In member order.
    members: Vec<Member>,
    /// The members of this daemon, if asked for since the last change.
    recipients: Option<Recipients>,
}

impl Group {
    pub(crate) fn new(id: GroupId, changed: bool) -> Self {
        Self { id, changed, members: Vec::new(), recipients: None }
    }

    /// In member order.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn contains(&self, node: u16, name: &GroupName) -> bool {
        self.find(node, name).is_ok()
    }

    /// Adds a member; false if it was one.
    pub(crate) fn insert(&mut self, member: Member) -> bool {
        let Err(at) = self.find(member.node, &member.name) else { return false };
        self.members.insert(at, member);
        self.recipients = None;
        true
    }

    fn remove(&mut self, node: u16, name: &GroupName) -> Option<Member> {
        let at = self.find(node, name).ok()?;
        self.recipients = None;
        Some(self.members.remove(at))
    }

    fn find(&self, node: u16, name: &GroupName) -> Result<usize, usize> {
        self.members.binary_search_by(|m| m.key().cmp(&(node, name)))
    }

    /// The members on this daemon.
    pub(crate) fn recipients(&mut self) -> &Recipients {
        self.recipients.get_or_insert_with(|| {
            let sessions: Vec<_> = self.members.iter().filter_map(|m| m.local).map(|l| l.session).collect();
            Recipients::new(&sessions)
        })
    }

    /// The members on this daemon that asked for membership messages.
    pub(crate) fn watchers(&self) -> impl Iterator<Item = (&GroupName, SessionId)> {
        self.members.iter().filter_map(|m| {
            let local = m.local.filter(|l| l.membership)?;
            Some((&m.name, local.session))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a member is on a daemon outside `nodes`.
    pub(crate) fn reaches_beyond(&self, nodes: Nodes) -> bool {
        self.members.iter().any(|m| !nodes.contains(m.node))
    }
}

/// What one session is a member of.
#[derive(Debug)]
struct Memberships {
    node: u16,
    /// In byte order.
    groups: BTreeSet<GroupName>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    groups: FxHashMap<GroupName, Group>,
    /// By private group, for sessions with at least one membership.
    members: FxHashMap<GroupName, Memberships>,
    memberships: usize,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Pairs of session and group.
    pub(crate) fn memberships(&self) -> usize {
        self.memberships
    }

    pub(crate) fn get(&self, group: &GroupName) -> Option<&Group> {
        self.groups.get(group)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, group: &GroupName) -> Option<&mut Group> {
        self.groups.get_mut(group)
    }

    /// Adds `member` to `group`, which is made by `create` if it does not exist. `None` if it was a member.
    pub(crate) fn join(
        &mut self,
        group: GroupName,
        member: Member,
        create: impl FnOnce() -> Group,
    ) -> Option<&mut Group> {
        let entry = self.groups.entry(group).or_insert_with(create);
        if !entry.insert(member) {
            return None;
        }
        let sessions = self.members.entry(member.name);
        sessions
            .or_insert_with(|| Memberships { node: member.node, groups: BTreeSet::new() })
            .groups
            .insert(group);
        self.memberships += 1;
        Some(entry)
    }

    /// Removes a member; the group stays, even without members. `None` if it was not one.
    pub(crate) fn leave(&mut self, group: &GroupName, node: u16, name: &GroupName) -> Option<Member> {
        let member = self.groups.get_mut(group)?.remove(node, name)?;
        self.memberships -= 1;
        if let Entry::Occupied(mut sessions) = self.members.entry(*name) {
            sessions.get_mut().groups.remove(group);
            if sessions.get().groups.is_empty() {
                sessions.remove();
            }
        }
        Some(member)
    }

    /// Forgets a group if it has no members. A group without members does not exist.
    pub(crate) fn drop_if_empty(&mut self, group: &GroupName) -> bool {
        match self.groups.entry(*group) {
            Entry::Occupied(entry) if entry.get().is_empty() => {
                entry.remove();
                true
            }
            _ => false,
        }
    }

    /// What a session is a member of, in byte order.
    pub(crate) fn groups_of(&self, name: &GroupName) -> Vec<GroupName> {
        self.members.get(name).map_or_else(Vec::new, |m| m.groups.iter().copied().collect())
    }

    /// Removes all members outside `nodes`, marks the groups that lost some as changed, and forgets those that
    /// lost all.
    pub(crate) fn retain(&mut self, nodes: Nodes) {
        self.members.retain(|_, m| nodes.contains(m.node));
        self.groups.retain(|_, group| {
            if group.reaches_beyond(nodes) {
                group.members.retain(|m| nodes.contains(m.node));
                group.recipients = None;
                group.changed = true;
            }
            !group.is_empty()
        });
        self.memberships = self.groups.values().map(|group| group.members.len()).sum();
    }

    /// The nodes get other numbers, each its own. Members are put in the order of the new ones.
    pub(crate) fn renumber(&mut self, new: impl Fn(u16) -> u16) {
        self.members.values_mut().for_each(|m| m.node = new(m.node));
        for group in self.groups.values_mut() {
            group.members.iter_mut().for_each(|m| m.node = new(m.node));
            group.members.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
            group.recipients = None;
        }
    }

    /// The names of the groups for which `wanted` holds, in byte order.
    pub(crate) fn names(&self, mut wanted: impl FnMut(&Group) -> bool) -> Vec<GroupName> {
        let mut names: Vec<_> =
            self.groups.iter().filter(|(_, g)| wanted(g)).map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// Names and sizes of the `max` largest groups.
    pub(crate) fn largest(&self, max: usize) -> Vec<(GroupName, usize)> {
        let order = |a: &(GroupName, usize), b: &(GroupName, usize)| b.1.cmp(&a.1).then(a.0.cmp(&b.0));
        let mut all: Vec<_> = self.groups.iter().map(|(name, group)| (*name, group.members.len())).collect();
        if all.len() > max && max > 0 {
            all.select_nth_unstable_by(max - 1, order);
        }
        all.truncate(max);
        all.sort_unstable_by(order);
        all
    }

    /// What must hold after every step; for tests and the simulator.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut memberships = 0;
        for (name, group) in &self.groups {
            if group.is_empty() {
                return Err(format!("group {name} has no members"));
            }
            if !group.members.is_sorted_by(|a, b| a.key() < b.key()) {
                return Err(format!("members of {name} are not in order"));
            }
            memberships += group.members.len();
            for m in &group.members {
                match self.members.get(&m.name) {
                    Some(of) if of.node == m.node && of.groups.contains(name) => {}
                    _ => return Err(format!("member {} of {name} is not in the index", m.name)),
                }
            }
        }
        let indexed: usize = self.members.values().map(|m| m.groups.len()).sum();
        if indexed != memberships
            || self.memberships != memberships
            || self.members.values().any(|m| m.groups.is_empty())
        {
            return Err(format!("{memberships} memberships, {indexed} in the index"));
        }
        Ok(())
    }
}
