//! The properties of the group semantics, checked on the logs of the clients (`group-semantics` 7.2).
//!
//! | property | |
//! |---|---|
//! | P1 to P5 | no creation, no duplication, only addressees, self-discard, self-delivery |
//! | P6, P7 | one order, no gap in the messages of a sender |
//! | P8 to P17 | views, transitional signals, self-leaves |
//! | P18 to P22 | virtual synchrony and SAFE |
//! | P23, P24 | agreement and delivery after the last fault |
//! | P25 to P27 | loose messages, clients without membership messages, crash reports |
//!
//! What asks for an end (P5, P23, P24, and the parts of others about clients that have not gone on) is
//! checked in histories that came to rest.

use rustc_hash::{FxHashMap, FxHashSet};
use spread_ring::ConfId;
use spread_wire::{Cause, GroupName};

use super::group_log::{Act, ClientLog, ClientNo, GroupLog, MsgNo, View, ViewKey};
use super::oracle::Violation;

mod order;
mod synchrony;
#[cfg(test)]
mod tests;
mod views;

type Check = Result<(), Violation>;

fn violation<T>(promise: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { promise, what })
}

/// Checks the logs of a whole history.
///
/// # Errors
///
/// The first broken property.
pub fn check(log: &GroupLog) -> Check {
    basic(log)?;
    let readings: Vec<Reading> = log.clients.iter().map(Reading::of).collect();
    views::check(log, &readings)?;
    order::check(log, &readings)?;
    synchrony::check(log, &readings)?;
    rest(log, &readings)
}

/// A message that a client read.
#[derive(Clone, Copy, Debug)]
struct Read {
    msg: MsgNo,
    /// Position in the client's log.
    at: usize,
    /// The transitional configuration of its daemon, if it was delivered in one.
    broken: Option<ConfId>,
}

/// What a client read of one group, from a base view to the next.
#[derive(Debug)]
struct Period {
    group: GroupName,
    /// Position of the base view in the log.
    at: usize,
    /// Messages to the group.
    reads: Vec<Read>,
    /// Number of `reads` before the transitional signal.
    before_trans: usize,
    /// Whether there was a transitional signal.
    trans: bool,
    /// Position of the next base view; none if the client left or its log ends.
    next: Option<usize>,
}

impl Period {
    fn begin(group: GroupName, at: usize) -> Self {
        let (reads, next) = (Vec::new(), None);
        Self { group, at, reads, before_trans: 0, trans: false, next }
    }
}

/// A client's log, cut into periods.
#[derive(Debug)]
struct Reading {
    periods: Vec<Period>,
    /// Messages that it read, with the position.
    had: FxHashMap<MsgNo, usize>,
}

impl Reading {
    fn of(client: &ClientLog) -> Self {
        let mut reading = Self { periods: Vec::new(), had: FxHashMap::default() };
        // Period of each group that the client is in.
        let mut open: FxHashMap<GroupName, usize> = FxHashMap::default();
        let mut broken = None;
        for (at, act) in client.acts.iter().enumerate() {
            match act {
                Act::Broken(id) => broken = Some(*id),
                Act::Together(_) => broken = None,
                Act::Data { msg, read } => {
                    reading.had.entry(*msg).or_insert(at);
                    let targets: FxHashSet<GroupName> = read.targets.iter().copied().collect();
                    for period in targets.iter().filter_map(|group| open.get(group)) {
                        let period = &mut reading.periods[*period];
                        period.reads.push(Read { msg: *msg, at, broken });
                        period.before_trans += usize::from(!period.trans);
                    }
                }
                Act::View(view) if !view.is_in_transition() => {
                    if let Some(last) = open.get(&view.group) {
                        reading.periods[*last].next = Some(at);
                    }
                    open.insert(view.group, reading.periods.len());
                    reading.periods.push(Period::begin(view.group, at));
                }
                Act::Trans(group, _) => {
                    if let Some(period) = open.get(group) {
                        reading.periods[*period].trans = true;
                    }
                }
                Act::SelfLeave(group) => {
                    open.remove(group);
                }
                _ => {}
            }
        }
        reading
    }
}

fn view_at(client: &ClientLog, at: usize) -> &View {
    match &client.acts[at] {
        Act::View(view) => view,
        other => unreachable!("no view at {at} but {other:?}"),
    }
}

fn key_at(client: &ClientLog, at: usize) -> ViewKey {
    view_at(client, at).key()
}

fn clients(log: &GroupLog) -> impl Iterator<Item = (ClientNo, &ClientLog)> {
    (0u32..).map(ClientNo).zip(&log.clients)
}

/// P1 to P5, P26.
fn basic(log: &GroupLog) -> Check {
    let sends = |(no, client): (ClientNo, &ClientLog)| -> Vec<(ClientNo, MsgNo)> {
        client
            .acts
            .iter()
            .filter_map(|act| if let Act::Send(msg) = act { Some((no, *msg)) } else { None })
            .collect()
    };
    let sent: FxHashSet<(ClientNo, MsgNo)> = clients(log).flat_map(sends).collect();
    for (no, client) in clients(log) {
        let mut had: FxHashSet<MsgNo> = FxHashSet::default();
        let mut member: FxHashSet<GroupName> = FxHashSet::default();
        let mut asked: FxHashSet<GroupName> = FxHashSet::default();
        for act in &client.acts {
            match act {
                Act::Data { msg, read } => {
                    if log.messages.get(msg.index()) != Some(read) {
                        return violation("P1", format!("{no} read {msg} as {read:?}"));
                    }
                    if !sent.contains(&(read.by, *msg)) {
                        return violation("P1", format!("{no} read {msg}, which {} did not send", read.by));
                    }
                    if !had.insert(*msg) {
                        return violation("P2", format!("{no} read {msg} twice"));
                    }
                    let groups = if client.membership { &member } else { &asked };
                    if !read.targets.iter().any(|group| *group == client.name || groups.contains(group)) {
                        let what = format!("{no} read {msg} to {:?}, not being addressed", read.targets);
                        return violation("P3", what);
                    }
                    if read.is_self_discard() && read.by == no {
                        return violation("P4", format!("{no} read its own self-discard {msg}"));
                    }
                }
                Act::View(View { group, .. }) | Act::Trans(group, _) | Act::SelfLeave(group)
                    if !client.membership =>
                {
                    return violation("P26", format!("{no} did not ask for {act:?} of {group}"));
                }
                Act::View(view) => {
                    member.insert(view.group);
                }
                Act::SelfLeave(group) => {
                    member.remove(group);
                }
                Act::JoinReq(group) => {
                    asked.insert(*group);
                }
                Act::Send(_) | Act::LeaveReq(_) | Act::Close | Act::Trans(..) => {}
                Act::Broken(_) | Act::Together(_) => {}
            }
        }
        if log.rest.is_some() && !client.excused {
            self_delivery(log, no, client, &had)?;
        }
    }
    Ok(())
}

/// P5.
fn self_delivery(log: &GroupLog, no: ClientNo, client: &ClientLog, had: &FxHashSet<MsgNo>) -> Check {
    let mut joined: FxHashSet<GroupName> = FxHashSet::default();
    for act in &client.acts {
        match act {
            Act::JoinReq(group) => {
                joined.insert(*group);
            }
            Act::LeaveReq(group) => {
                joined.remove(group);
            }
            Act::Send(msg) => {
                let sent = &log.messages[msg.index()];
                let comes_back = sent.targets.iter().any(|group| joined.contains(group));
                let owed = sent.is_ordered() && !sent.is_self_discard() && comes_back;
                if owed && !had.contains(msg) {
                    return violation("P5", format!("{no} never got its own {msg} to {:?}", sent.targets));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// P23 and P24: after the last fault.
fn rest(log: &GroupLog, readings: &[Reading]) -> Check {
    let Some(parts) = &log.rest else { return Ok(()) };
    for part in parts {
        // By group: the clients whose last request was a join.
        let mut wanted: FxHashMap<GroupName, Vec<ClientNo>> = FxHashMap::default();
        let here = |client: &ClientLog| !client.excused && part.contains(&client.node);
        for (no, client) in clients(log).filter(|(_, client)| here(client)) {
            let mut joined: FxHashSet<GroupName> = FxHashSet::default();
            for act in &client.acts {
                match act {
                    Act::JoinReq(group) => joined.insert(*group),
                    Act::LeaveReq(group) => joined.remove(group),
                    _ => false,
                };
            }
            joined.into_iter().for_each(|group| wanted.entry(group).or_default().push(no));
        }
        for (group, members) in &wanted {
            final_view(log, *group, members)?;
            final_delivery(log, readings, *group, members)?;
        }
    }
    Ok(())
}

fn final_view(log: &GroupLog, group: GroupName, wanted: &[ClientNo]) -> Check {
    let mut names: Vec<GroupName> = wanted.iter().map(|no| log.clients[no.index()].name).collect();
    names.sort_unstable();
    let mut first: Option<&View> = None;
    for no in wanted {
        let client = &log.clients[no.index()];
        if !client.membership {
            continue;
        }
        let of_group = |act: &&Act| match act {
            Act::View(view) => view.group == group,
            Act::SelfLeave(left) => *left == group,
            _ => false,
        };
        let Some(Act::View(view)) = client.acts.iter().rev().find(of_group) else {
            return violation("P23", format!("{no} has no view of {group} at the end"));
        };
        let mut members = view.members.clone();
        members.sort_unstable();
        if members != names {
            let what = format!("{no} has {members:?} in {group} at the end, wanted is {names:?}");
            return violation("P23", what);
        }
        let known = *first.get_or_insert(view);
        if known.id != view.id || known.members != view.members {
            return violation(
                "P23",
                format!("{no} has the view {:?} of {group}, others {:?}", view.id, known.id),
            );
        }
    }
    Ok(())
}

fn final_delivery(log: &GroupLog, readings: &[Reading], group: GroupName, wanted: &[ClientNo]) -> Check {
    let Some(first) = log.after_rest else { return Ok(()) };
    for (msg, sent) in (0u32..).map(MsgNo).zip(&log.messages).skip(first.index()) {
        let same_part = wanted.contains(&sent.by) && sent.goes_to(group) && sent.is_ordered();
        for no in wanted.iter().filter(|_| same_part) {
            let own_discard = sent.is_self_discard() && sent.by == *no;
            if !own_discard && !readings[no.index()].had.contains_key(&msg) {
                return violation("P24", format!("{no} did not get {msg} to {group}, sent at rest"));
            }
        }
    }
    Ok(())
}
