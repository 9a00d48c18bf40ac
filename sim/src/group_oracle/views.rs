//! P8 to P17, P27: what a client is told about a group, one message after the other.

use spread_ring::ConfId;

use super::{
    Act, Cause, Check, ClientLog, ClientNo, FxHashMap, FxHashSet, GroupLog, GroupName, Reading, View,
    ViewKey, clients, violation,
};

pub(super) fn check(log: &GroupLog, _: &[Reading]) -> Check {
    for (no, client) in clients(log) {
        Walk { log, no, client, groups: FxHashMap::default() }.run()?;
    }
    agreement(log)?;
    set_agreement(log)
}

/// What a client knows of a group.
#[derive(Default)]
struct Known<'a> {
    /// The last view, unless the client left.
    view: Option<&'a View>,
    /// A signal came after it.
    trans: bool,
    /// A signal came and no network view since.
    owes_network: bool,
    leaves_asked: usize,
    leaves_told: usize,
    /// Whom a disconnect was reported of.
    gone: FxHashSet<GroupName>,
}

struct Walk<'a> {
    log: &'a GroupLog,
    no: ClientNo,
    client: &'a ClientLog,
    groups: FxHashMap<GroupName, Known<'a>>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Check {
        let mut batch: Option<GroupName> = None;
        for act in &self.client.acts {
            let last = batch.take();
            match act {
                Act::View(view) => self.view(view)?,
                Act::Trans(group, _) => {
                    // P17
                    if last.is_some_and(|last| last >= *group) {
                        let no = self.no;
                        return violation("P17", format!("{no} got the signal of {group} after {last:?}"));
                    }
                    batch = Some(*group);
                    self.trans(act)?;
                }
                Act::LeaveReq(group) => self.groups.entry(*group).or_default().leaves_asked += 1,
                Act::SelfLeave(group) => self.self_leave(*group)?,
                _ => {}
            }
        }
        self.effective_leaves()
    }

    fn view(&mut self, view: &'a View) -> Check {
        let (no, me, group) = (self.no, self.client.name, view.group);
        // P8
        if !view.members.contains(&me) {
            return violation(
                "P8",
                format!("{no} is not in its view {:?} of {group}: {:?}", view.id, view.members),
            );
        }
        let known = self.groups.entry(group).or_default();
        let lightweight = view.cause != Cause::Network;
        match known.view {
            None => {
                // P9
                let alone = view.own_set() == [me];
                let entry = (view.cause == Cause::Join && view.sets == [vec![me]])
                    || (view.is_in_transition() && alone);
                if !entry {
                    return violation("P9", format!("{no} enters {group} with {view:?}"));
                }
            }
            Some(last) if lightweight => lightweight_step(no, last, view)?,
            Some(_) => {}
        }
        if !lightweight {
            network_step(no, me, known.view, view)?;
        }
        // P14
        if known.owes_network && known.view.is_some() && lightweight {
            return violation("P14", format!("{no} got {:?} of {group} after the signal", view.cause));
        }
        // P27
        if let Some(back) = view.members.iter().find(|member| known.gone.contains(member)) {
            return violation("P27", format!("{no} sees {back} again in {:?} of {group}", view.id));
        }
        if view.cause == Cause::Disconnect {
            known.gone.extend(view.sets.iter().flatten());
        }
        known.view = Some(view);
        known.trans = false;
        known.owes_network &= lightweight;
        Ok(())
    }

    /// P14
    fn trans(&mut self, act: &Act) -> Check {
        let Act::Trans(group, id) = act else { return Ok(()) };
        let no = self.no;
        let known = self.groups.entry(*group).or_default();
        if known.view.is_none_or(|view| view.id != *id) {
            let view = known.view.map(|view| view.id);
            return violation("P14", format!("{no} got the signal of {group} {id:?} while in {view:?}"));
        }
        if known.trans {
            return violation("P14", format!("{no} got the signal of {group} {id:?} twice"));
        }
        (known.trans, known.owes_network) = (true, true);
        Ok(())
    }

    /// P16
    fn self_leave(&mut self, group: GroupName) -> Check {
        let no = self.no;
        let known = self.groups.entry(group).or_default();
        known.leaves_told += 1;
        if known.view.is_none() {
            return violation("P16", format!("{no} left {group} without being a member"));
        }
        if known.leaves_told > known.leaves_asked {
            return violation("P16", format!("{no} left {group} without asking"));
        }
        known.view = None;
        (known.trans, known.owes_network) = (false, false);
        Ok(())
    }

    /// P16 at the end: each leave that took effect was told.
    fn effective_leaves(&self) -> Check {
        if self.log.rest.is_none() || self.client.excused || !self.client.membership {
            return Ok(());
        }
        let mut inside: FxHashMap<GroupName, (bool, usize)> = FxHashMap::default();
        for act in &self.client.acts {
            match act {
                Act::JoinReq(group) => inside.entry(*group).or_default().0 = true,
                Act::LeaveReq(group) => {
                    let (joined, leaves) = inside.entry(*group).or_default();
                    *leaves += usize::from(*joined);
                    *joined = false;
                }
                _ => {}
            }
        }
        for (group, (_, leaves)) in inside {
            let told = self.groups.get(&group).map_or(0, |known| known.leaves_told);
            if told != leaves {
                let no = self.no;
                return violation(
                    "P16",
                    format!("{no} left {group} {leaves} times and was told {told} times"),
                );
            }
        }
        Ok(())
    }
}

/// P11
fn lightweight_step(no: ClientNo, last: &View, view: &View) -> Check {
    let bad = |what: &str| violation("P11", format!("{no} went from {last:?} to {view:?}: {what}"));
    let same = (last.id.proc, last.id.time) == (view.id.proc, view.id.time);
    if !same || last.id.index.checked_add(1) != Some(view.id.index) {
        return bad("the id");
    }
    let [changed] = view.sets.as_slice() else { return bad("the number of sets") };
    let [member] = changed.as_slice() else { return bad("the size of the set") };
    let (small, large) = if view.cause == Cause::Join {
        (&last.members, &view.members)
    } else {
        (&view.members, &last.members)
    };
    let without: Vec<GroupName> = large.iter().copied().filter(|m| m != member).collect();
    if without != *small || !large.contains(member) {
        return bad("the members");
    }
    Ok(())
}

/// P12
fn network_step(no: ClientNo, me: GroupName, last: Option<&View>, view: &View) -> Check {
    let bad = |what: &str| violation("P12", format!("{no} went from {last:?} to {view:?}: {what}"));
    let mut union: Vec<GroupName> = view.sets.iter().flatten().copied().collect();
    let listed = union.len();
    union.sort_unstable();
    union.dedup();
    let mut members = view.members.clone();
    members.sort_unstable();
    if union.len() != listed || union != members {
        return bad("the sets are not the members");
    }
    if !view.own_set().contains(&me) {
        return bad("the own set is another one's");
    }
    if view.is_in_transition() {
        return Ok(());
    }
    if view.id.index != 1 {
        return bad("the counter");
    }
    if view.sets.iter().any(Vec::is_empty) {
        return bad("an empty set");
    }
    if let Some(last) = last
        && view.own_set().iter().any(|member| !last.members.contains(member))
    {
        return bad("somebody new in the own set");
    }
    Ok(())
}

/// P10
fn agreement(log: &GroupLog) -> Check {
    let mut known: FxHashMap<ViewKey, (ClientNo, &View)> = FxHashMap::default();
    for (no, client) in clients(log) {
        for view in
            client.acts.iter().filter_map(|act| if let Act::View(view) = act { Some(view) } else { None })
        {
            let (other, first) = *known.entry(view.key()).or_insert((no, view));
            if (&first.members, first.cause, &first.sets) != (&view.members, view.cause, &view.sets) {
                return violation("P10", format!("{other} has {first:?}, {no} has {view:?}"));
            }
        }
    }
    Ok(())
}

/// How a client came to a network view: its view before, and the steps of its daemon since then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way<'a> {
    before: Option<ViewKey>,
    steps: &'a [ConfId],
}

/// P13. That two clients with the same view before are in one set holds only if their daemons took the same
/// way: one of them may have installed a daemon view that the other one never got to, which changed nothing for
/// the group and so was not announced. They were apart then.
fn set_agreement(log: &GroupLog) -> Check {
    let steps: Vec<Vec<ConfId>> = log
        .clients
        .iter()
        .map(|client| {
            client
                .acts
                .iter()
                .filter_map(|act| if let Act::Together(id) = act { Some(*id) } else { None })
                .collect()
        })
        .collect();
    let mut seen: FxHashMap<ViewKey, Vec<(ClientNo, &View, Way<'_>)>> = FxHashMap::default();
    for ((no, client), steps) in clients(log).zip(&steps) {
        // View, and number of steps before it.
        let mut last: FxHashMap<GroupName, (ViewKey, usize)> = FxHashMap::default();
        let mut step = 0;
        for act in &client.acts {
            match act {
                Act::Together(_) => step += 1,
                Act::View(view) => {
                    let key = view.key();
                    let before = last.insert(view.group, (key, step));
                    if view.cause == Cause::Network {
                        let from = before.map_or(step, |(_, from)| from);
                        let way = Way { before: before.map(|(key, _)| key), steps: &steps[from..step] };
                        seen.entry(key).or_default().push((no, view, way));
                    }
                }
                Act::SelfLeave(group) => {
                    last.remove(group);
                }
                _ => {}
            }
        }
    }
    for ((group, id, _), list) in &seen {
        for (i, (no, view, way)) in list.iter().enumerate() {
            for (other, theirs, their_way) in &list[i + 1..] {
                let together = view.own_set().contains(&log.clients[other.index()].name);
                let same = view.own == theirs.own;
                let from_one = way == their_way && way.before.is_some();
                if together != same || (together && way.before != their_way.before) || (from_one && !same) {
                    let what = format!(
                        "{no} came to {group} {id:?} from {way:?} in set {}, {other} from {their_way:?} in {}",
                        view.own, theirs.own
                    );
                    return violation("P13", what);
                }
            }
        }
    }
    Ok(())
}
