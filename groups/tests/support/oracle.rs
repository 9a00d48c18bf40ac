//! What clients may rely on, checked on their logs.
//!
//! The properties have the names of `spec: group-semantics 7.2`. Each client's log is its own requests and what
//! it got, in the order of the client. Every payload begins with a number that is used for one message only.

use std::collections::{BTreeMap, BTreeSet};

use spread_wire::{Cause, GroupId, GroupName, ServiceType};

/// A configuration of the ring, as it names views: epoch, representative, nonce.
pub type Conf = (u64, u16, u32);

/// Where a daemon was when a session got something. No client knows it; an ideal ring does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub regular: Conf,
    /// The transitional configuration, from there on.
    pub broken: Option<Conf>,
    /// What was delivered last there: its number in the log of the ring.
    pub entry: Option<usize>,
}

/// A message as its sender sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub number: u32,
    pub sender: GroupName,
    pub service: ServiceType,
    pub groups: Vec<GroupName>,
    pub message_type: i16,
}

impl Message {
    /// FIFO, CAUSAL, AGREED or SAFE.
    fn is_ordered(&self) -> bool {
        self.service.intersects(ServiceType(0x3c))
    }

    fn is_to(&self, group: &GroupName) -> bool {
        self.groups.contains(group)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub group: GroupName,
    pub id: GroupId,
    pub cause: Cause,
    pub members: Vec<GroupName>,
    pub sets: Vec<Vec<GroupName>>,
    pub own: usize,
    /// Where the daemon was, if known.
    pub place: Option<Place>,
}

/// What names a view of a group: its id, and if it announces a single change also where it was delivered. A daemon
/// may lack the last messages of a daemon view that another one delivered. If that leaves the group untouched by the
/// break on its side, the group goes on counting there, and the other side counts other joins with the same numbers.
type Key = (GroupId, Option<Place>);

impl View {
    /// Only in-transition views have this cause and a counter above 1.
    fn is_in_transition(&self) -> bool {
        self.cause == Cause::Network && self.id.index >= 2
    }

    fn key(&self) -> Key {
        let base = self.cause == Cause::Network && !self.is_in_transition();
        (self.id, self.place.filter(|_| !base))
    }

    fn own_set(&self) -> &[GroupName] {
        &self.sets[self.own]
    }
}

#[derive(Clone, Debug)]
pub enum Event {
    Send(Message),
    JoinRequest(GroupName),
    LeaveRequest(GroupName),
    Data(Message, Option<Place>),
    View(View),
    Transition(GroupName, GroupId),
    SelfLeave(GroupName),
}

#[derive(Clone, Debug)]
pub struct ClientLog {
    pub name: GroupName,
    /// Whether it asked for membership messages.
    pub membership: bool,
    /// It closed, crashed, was disconnected, or its daemon was killed.
    pub excused: bool,
    pub events: Vec<Event>,
}

/// How a client delivered a message: its base view of each target group it was a member of, and whether a
/// transitional signal had ended that view.
#[derive(Clone, Debug, Default)]
struct Delivery {
    bases: BTreeMap<GroupName, (Key, bool)>,
    /// Where the daemon was, if known.
    place: Option<Place>,
}

/// A client's stay in a base view of a group.
#[derive(Debug)]
struct Stay {
    client: usize,
    group: GroupName,
    base: View,
    /// Ordered messages to the group, with those delivered after the transitional signal marked.
    delivered: BTreeMap<u32, bool>,
    signaled: bool,
    /// The next base view, if the client got one without leaving.
    next: Option<View>,
}

/// A view that a client logged.
#[derive(Debug)]
struct Logged {
    client: usize,
    view: View,
    /// The one before it in the same membership.
    last: Option<View>,
    /// A transitional signal ended `last`.
    signaled: bool,
}

struct Facts<'a> {
    logs: &'a [ClientLog],
    by_name: BTreeMap<GroupName, usize>,
    messages: BTreeMap<u32, &'a Message>,
    /// By client and message number.
    deliveries: Vec<BTreeMap<u32, Delivery>>,
    stays: Vec<Stay>,
    views: Vec<Logged>,
}

type Check = Result<(), String>;

/// Checks all logs. `lasting` are the groups that never die out in any component, so that an id stands for one
/// view. `at_rest` says that the logs end with all daemons connected and everything delivered.
pub fn check(logs: &[ClientLog], lasting: &[GroupName], at_rest: bool) -> Check {
    let mut facts = Facts {
        logs,
        by_name: logs.iter().enumerate().map(|(i, log)| (log.name, i)).collect(),
        messages: BTreeMap::new(),
        deliveries: vec![BTreeMap::new(); logs.len()],
        stays: Vec::new(),
        views: Vec::new(),
    };
    for log in logs {
        for event in &log.events {
            if let Event::Send(m) = event {
                facts.messages.insert(m.number, m);
            }
        }
    }
    for (client, log) in logs.iter().enumerate() {
        walk(&mut facts, client).map_err(|e| format!("{}: {e}", log.name))?;
    }
    self_delivery(&facts, at_rest)?;
    one_order(&facts, lasting)?;
    no_fifo_gap(&facts, lasting)?;
    view_agreement(&facts, lasting)?;
    same_view(&facts, lasting)?;
    same_set(&facts, lasting)?;
    full_delivery_without_signal(&facts, lasting, at_rest)?;
    safe(&facts, lasting, at_rest)?;
    if at_rest {
        final_agreement(&facts)?;
    }
    Ok(())
}

/// A client's state in one group while its log is walked.
#[derive(Default)]
struct Membership {
    view: Option<View>,
    /// A transitional signal came for `view`.
    view_signaled: bool,
    /// Number of the stay in the base view.
    stay: Option<usize>,
    base_signaled: bool,
    gone: BTreeSet<GroupName>,
    leave_requests: usize,
    self_leaves: usize,
    asked: bool,
}

/// The properties of one client's log: P1 to P4, P8, P9, P11, P12, P14, P16, P17, P26, P27.
fn walk(facts: &mut Facts<'_>, client: usize) -> Check {
    let log = &facts.logs[client];
    let mut groups: BTreeMap<GroupName, Membership> = BTreeMap::new();
    let mut last_signal: Option<GroupName> = None;
    for event in &log.events {
        let signal = if let Event::Transition(group, _) = event { Some(*group) } else { None };
        if let (Some(last), Some(this)) = (last_signal, signal)
            && last >= this
        {
            return Err(format!("P17: signal for {this} directly after one for {last}"));
        }
        if !matches!(event, Event::Send(_) | Event::JoinRequest(_) | Event::LeaveRequest(_)) {
            last_signal = signal;
        }
        match event {
            Event::Send(_) => {}
            Event::JoinRequest(group) => groups.entry(*group).or_default().asked = true,
            Event::LeaveRequest(group) => groups.entry(*group).or_default().leave_requests += 1,
            Event::Data(m, place) => data(facts, client, &groups, m, *place)?,
            Event::View(view) if log.membership => {
                let state = groups.entry(view.group).or_default();
                step(&log.name, state, view).map_err(|e| format!("{e}, at {view:?}"))?;
                let last = state.view.replace(view.clone());
                let signaled = state.view_signaled;
                facts.views.push(Logged { client, view: view.clone(), last, signaled });
                state.view_signaled = false;
                if view.cause == Cause::Disconnect {
                    state.gone.extend(view.sets[0].iter().copied());
                }
                if !view.is_in_transition() {
                    if let Some(stay) = state.stay {
                        facts.stays[stay].next = Some(view.clone());
                        facts.stays[stay].signaled = state.base_signaled;
                    }
                    state.base_signaled = false;
                    state.stay = Some(facts.stays.len());
                    facts.stays.push(Stay {
                        client,
                        group: view.group,
                        base: view.clone(),
                        delivered: BTreeMap::new(),
                        signaled: false,
                        next: None,
                    });
                }
            }
            Event::Transition(group, id) if log.membership => {
                let state = groups.entry(*group).or_default();
                if state.view.as_ref().map(|v| v.id) != Some(*id) {
                    return Err(format!("P14: signal {id:?} for {group} in view {:?}", state.view));
                }
                if state.view_signaled {
                    return Err(format!("P14: second signal {id:?} for {group}"));
                }
                state.view_signaled = true;
                state.base_signaled = true;
                if let Some(stay) = state.stay {
                    facts.stays[stay].signaled = true;
                }
            }
            Event::SelfLeave(group) if log.membership => {
                let state = groups.entry(*group).or_default();
                state.self_leaves += 1;
                if state.view.is_none() || state.self_leaves > state.leave_requests {
                    return Err(format!("P16: self-leave of {group} in view {:?}", state.view));
                }
                (state.view, state.view_signaled) = (None, false);
                (state.stay, state.base_signaled) = (None, false);
            }
            Event::View(_) | Event::Transition(..) | Event::SelfLeave(_) => {
                return Err(format!("P26: {event:?} without having asked for it"));
            }
        }
        // What a client delivers in its stays.
        if let Event::Data(m, _) = event
            && m.is_ordered()
        {
            for (group, state) in &groups {
                if let Some(stay) = state.stay.filter(|_| m.is_to(group)) {
                    facts.stays[stay].delivered.insert(m.number, state.base_signaled);
                }
            }
        }
    }
    Ok(())
}

fn data(
    facts: &mut Facts<'_>,
    client: usize,
    groups: &BTreeMap<GroupName, Membership>,
    m: &Message,
    place: Option<Place>,
) -> Check {
    let log = &facts.logs[client];
    if facts.messages.get(&m.number) != Some(&m) {
        return Err(format!("P1: {m:?} was sent as {:?}", facts.messages.get(&m.number)));
    }
    let member = |group: &GroupName| {
        groups.get(group).is_some_and(|g| if log.membership { g.view.is_some() } else { g.asked })
    };
    if !m.is_to(&log.name) && !m.groups.iter().any(member) {
        return Err(format!("P3: {m:?} is not for this client"));
    }
    if m.service.is_self_discard() && m.sender == log.name {
        return Err(format!("P4: own message {m:?}"));
    }
    let mut delivery = Delivery { place, ..Delivery::default() };
    for group in &m.groups {
        if let Some(state) = groups.get(group)
            && let Some(stay) = state.stay
        {
            delivery.bases.insert(*group, (facts.stays[stay].base.key(), state.base_signaled));
        }
    }
    if facts.deliveries[client].insert(m.number, delivery).is_some() {
        return Err(format!("P2: {m:?} twice"));
    }
    Ok(())
}

/// One view after another: P8, P9, P11, P12, P27, and the rest of P14.
fn step(me: &GroupName, state: &Membership, view: &View) -> Check {
    if !view.members.contains(me) {
        return Err("P8: not a member of its own view".to_owned());
    }
    let lightweight = view.cause != Cause::Network;
    match &state.view {
        None => {
            let own = view.sets.get(view.own).is_some_and(|set| set == &[*me]);
            if !own || !(view.cause == Cause::Join || view.is_in_transition()) {
                return Err("P9: first view".to_owned());
            }
        }
        Some(last) if lightweight => {
            let [changed] = &view.sets[0][..] else { return Err("P11: set".to_owned()) };
            let mut expected = last.members.clone();
            expected.retain(|m| m != changed);
            let mut members = view.members.clone();
            let joined = view.members.contains(changed);
            members.retain(|m| m != changed);
            let fits = view.sets.len() == 1
                && (last.id.proc, last.id.time) == (view.id.proc, view.id.time)
                && last.id.index + 1 == view.id.index
                && expected == members
                && joined == (view.cause == Cause::Join)
                && last.members.contains(changed) != joined;
            if !fits {
                return Err(format!("P11: after {last:?}"));
            }
            if state.view_signaled {
                return Err("P14: lightweight view after a signal".to_owned());
            }
        }
        Some(last) => {
            let own: BTreeSet<_> = view.own_set().iter().collect();
            let joined_here = view.is_in_transition() && own == [me].into();
            if !joined_here && !own.iter().all(|m| last.members.contains(m)) {
                return Err(format!("P12: own set is not part of {last:?}"));
            }
        }
    }
    if !lightweight {
        let listed: Vec<_> = view.sets.iter().flatten().copied().collect();
        let unique: BTreeSet<_> = listed.iter().copied().collect();
        let all: BTreeSet<_> = view.members.iter().copied().collect();
        if unique.len() != listed.len() || unique != all || !view.own_set().contains(me) {
            return Err("P12: sets".to_owned());
        }
        if !view.is_in_transition() && (view.id.index != 1 || view.sets.iter().any(Vec::is_empty)) {
            return Err("P12: counter or empty set".to_owned());
        }
    }
    match view.members.iter().find(|m| state.gone.contains(m)) {
        Some(back) => Err(format!("P27: {back} came back")),
        None => Ok(()),
    }
}

/// P5. Needs everything to be delivered.
fn self_delivery(facts: &Facts<'_>, at_rest: bool) -> Check {
    for (log, delivered) in
        facts.logs.iter().zip(&facts.deliveries).filter(|(log, _)| at_rest && !log.excused)
    {
        let mut joined = BTreeSet::new();
        for event in &log.events {
            match event {
                Event::JoinRequest(group) => {
                    joined.insert(*group);
                }
                Event::LeaveRequest(group) => {
                    joined.remove(group);
                }
                Event::Send(m)
                    if m.is_ordered()
                        && !m.service.is_self_discard()
                        && m.groups.iter().any(|g| joined.contains(g))
                        && !delivered.contains_key(&m.number) =>
                {
                    return Err(format!("P5: {} did not get its own {m:?}", log.name));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Message(u32),
    View(GroupName, Key),
}

/// P6: ordered messages and views have one order.
fn one_order(facts: &Facts<'_>, lasting: &[GroupName]) -> Check {
    let mut edges: BTreeMap<Node, BTreeSet<Node>> = BTreeMap::new();
    for log in facts.logs {
        let mut last = None;
        let mut last_send = None;
        for event in &log.events {
            let (node, sent) = match event {
                Event::Data(m, _) if m.is_ordered() => (Node::Message(m.number), false),
                Event::View(view) if lasting.contains(&view.group) => {
                    (Node::View(view.group, view.key()), false)
                }
                Event::Send(m) if m.is_ordered() => (Node::Message(m.number), true),
                _ => continue,
            };
            let before: &[Option<Node>] = if sent { &[last, last_send] } else { &[last] };
            for before in before.iter().flatten() {
                edges.entry(*before).or_default().insert(node);
            }
            *(if sent { &mut last_send } else { &mut last }) = Some(node);
        }
    }
    // Nodes without a way in are taken away until none is left.
    let mut incoming: BTreeMap<Node, usize> = BTreeMap::new();
    for (from, to) in &edges {
        incoming.entry(*from).or_default();
        to.iter().for_each(|node| *incoming.entry(*node).or_default() += 1);
    }
    let mut free: Vec<_> = incoming.iter().filter(|(_, n)| **n == 0).map(|(node, _)| *node).collect();
    let mut left = incoming.len();
    while let Some(node) = free.pop() {
        left -= 1;
        for next in edges.get(&node).into_iter().flatten() {
            let n = incoming.get_mut(next).expect("counted");
            *n -= 1;
            if *n == 0 {
                free.push(*next);
            }
        }
    }
    if left > 0 {
        let stuck: Vec<_> = incoming.iter().filter(|(_, n)| **n > 0).map(|(node, _)| node).take(8).collect();
        return Err(format!("P6: a cycle among {stuck:?}"));
    }
    Ok(())
}

/// P7.
fn no_fifo_gap(facts: &Facts<'_>, lasting: &[GroupName]) -> Check {
    for log in facts.logs {
        let sent = log.events.iter().filter_map(|e| if let Event::Send(m) = e { Some(m) } else { None });
        let sent: Vec<_> = sent.filter(|m| m.is_ordered()).collect();
        for group in lasting {
            let to: Vec<_> = sent.iter().filter(|m| m.is_to(group)).collect();
            for (first, second) in to.iter().zip(to.iter().skip(1)) {
                let base = |client: usize, m: &Message| {
                    facts.deliveries[client].get(&m.number).and_then(|d| d.bases.get(group)).map(|b| b.0)
                };
                let bases: BTreeSet<_> = (0..facts.logs.len()).filter_map(|c| base(c, first)).collect();
                for c in 0..facts.logs.len() {
                    let discarded = first.service.is_self_discard() && facts.logs[c].name == first.sender;
                    if let Some(base) = base(c, second)
                        && bases.contains(&base)
                        && !discarded
                        && !facts.deliveries[c].contains_key(&first.number)
                    {
                        return Err(format!("P7: {} got {second:?} without {first:?}", facts.logs[c].name));
                    }
                }
            }
        }
    }
    Ok(())
}

/// P10 and P13.
///
/// Members with the same previous view are in the same set, says P13. That is so if the view was not ended by a
/// signal: one daemon may be alone with another after it, and meet the first again before anything is announced
/// (a cascade), with other messages delivered in transition.
fn view_agreement(facts: &Facts<'_>, lasting: &[GroupName]) -> Check {
    let mut by_id: BTreeMap<(GroupName, Key), Vec<&Logged>> = BTreeMap::new();
    for logged in facts.views.iter().filter(|l| lasting.contains(&l.view.group)) {
        by_id.entry((logged.view.group, logged.view.key())).or_default().push(logged);
    }
    for (id, views) in by_id {
        for (i, a) in views.iter().enumerate() {
            for b in &views[i + 1..] {
                let [n1, n2] = [a, b].map(|l| facts.logs[l.client].name);
                let (v1, v2) = (&a.view, &b.view);
                if (&v1.members, v1.cause, &v1.sets) != (&v2.members, v2.cause, &v2.sets) {
                    return Err(format!("P10: {id:?} is {v1:?} at {n1}, {v2:?} at {n2}"));
                }
                if v1.cause != Cause::Network {
                    continue;
                }
                let same_last = a.last.as_ref().map(View::key) == b.last.as_ref().map(View::key);
                let together = a.last.is_some() && same_last && !a.signaled && !b.signaled;
                let own = v1.own_set().contains(&n2);
                if own != (v1.own == v2.own) || (together && !own) || (own && !same_last) {
                    return Err(format!("P13: {n1} and {n2} in {v1:?}, from {:?} and {:?}", a.last, b.last));
                }
            }
        }
    }
    Ok(())
}

/// P19.
///
/// A message delivered in transition may have lost a join or leave in front of it: a request of a departed daemon
/// that no survivor has. So it is compared among the daemons that were in transition together. Where the daemons
/// were is not known of real ones: then its base view may be an earlier one of the same daemon view.
fn same_view(facts: &Facts<'_>, lasting: &[GroupName]) -> Check {
    for (number, m) in facts.messages.iter().filter(|(_, m)| m.is_ordered()) {
        for group in m.groups.iter().filter(|g| lasting.contains(g)) {
            let mut known: BTreeMap<Option<Conf>, (Key, GroupName)> = BTreeMap::new();
            let mut unknown: BTreeMap<(GroupId, bool), GroupName> = BTreeMap::new();
            for (delivered, log) in facts.deliveries.iter().zip(facts.logs) {
                let Some(delivery) = delivered.get(number) else { continue };
                let Some((base, signaled)) = delivery.bases.get(group) else { continue };
                let Some(place) = delivery.place else {
                    unknown.insert((base.0, *signaled), log.name);
                    continue;
                };
                let (other, name) = *known.entry(place.broken).or_insert((*base, log.name));
                if other != *base {
                    let me = log.name;
                    return Err(format!(
                        "P19: {m:?} is in {other:?} at {name}, in {base:?} at {me}: {place:?}"
                    ));
                }
            }
            let latest = unknown.keys().max_by_key(|(id, signaled)| (!signaled, id.index)).copied();
            let fits = |(id, signaled): (GroupId, bool)| {
                latest.is_none_or(|(latest, latest_signaled)| {
                    let same_daemon_view = (id.proc, id.time) == (latest.proc, latest.time);
                    id == latest
                        || (signaled && same_daemon_view && (latest_signaled || id.index < latest.index))
                })
            };
            if !unknown.keys().all(|base| fits(*base)) {
                return Err(format!("P19: {m:?} is delivered in {unknown:?} (true: in transition)"));
            }
        }
    }
    Ok(())
}

/// P20, and with it P22.
fn same_set(facts: &Facts<'_>, lasting: &[GroupName]) -> Check {
    let mut stays: BTreeMap<_, Vec<&Stay>> = BTreeMap::new();
    for stay in facts.stays.iter().filter(|s| lasting.contains(&s.group)) {
        if let Some(next) = &stay.next {
            let set = if next.cause == Cause::Network { next.own } else { 0 };
            stays.entry((stay.group, stay.base.key(), next.key(), set)).or_default().push(stay);
        }
    }
    for ((group, base, next, _), stays) in stays {
        for pair in stays.windows(2) {
            let names = [facts.logs[pair[0].client].name, facts.logs[pair[1].client].name];
            let [a, b] = [pair[0], pair[1]].map(|stay| {
                let mut set = stay.delivered.clone();
                set.retain(|n, _| {
                    let m = facts.messages[n];
                    !(m.service.is_self_discard() && names.contains(&m.sender))
                });
                set
            });
            if a != b {
                return Err(format!(
                    "P20: from {base:?} to {next:?} of {group}, {} got {a:?}, {} got {b:?} (true: in transition)",
                    names[0], names[1]
                ));
            }
        }
    }
    Ok(())
}

/// P18, which is also what P15 leaves to check.
fn full_delivery_without_signal(facts: &Facts<'_>, lasting: &[GroupName], at_rest: bool) -> Check {
    for stay in facts.stays.iter().filter(|s| at_rest && lasting.contains(&s.group) && !s.signaled) {
        if stay.next.as_ref().is_none_or(|next| next.cause != Cause::Network) {
            continue;
        }
        for member in &stay.base.members {
            let client = facts.by_name[member];
            let log = &facts.logs[client];
            for number in stay.delivered.keys().filter(|_| !log.excused) {
                let m = facts.messages[number];
                let own_discard = m.service.is_self_discard() && m.sender == *member;
                let delivery = facts.deliveries[client].get(number);
                let fits = match delivery {
                    Some(d) => {
                        !log.membership || d.bases.get(&stay.group).map(|b| b.0) == Some(stay.base.key())
                    }
                    None => own_discard,
                };
                if !fits {
                    return Err(format!("P18: {member} has {m:?} as {delivery:?}, not in {:?}", stay.base));
                }
            }
        }
    }
    Ok(())
}

/// P21.
fn safe(facts: &Facts<'_>, lasting: &[GroupName], at_rest: bool) -> Check {
    for stay in facts.stays.iter().filter(|s| at_rest && lasting.contains(&s.group)) {
        for (number, in_transition) in &stay.delivered {
            let m = facts.messages[number];
            if *in_transition || !m.service.intersects(ServiceType::SAFE) {
                continue;
            }
            for member in &stay.base.members {
                let client = facts.by_name[member];
                let own_discard = m.service.is_self_discard() && m.sender == *member;
                let excused = facts.logs[client].excused || own_discard;
                if !excused && !facts.deliveries[client].contains_key(number) {
                    return Err(format!("P21: {member} of {:?} did not get {m:?}", stay.base));
                }
            }
        }
    }
    Ok(())
}

/// P23.
fn final_agreement(facts: &Facts<'_>) -> Check {
    let mut joined: BTreeMap<GroupName, BTreeSet<GroupName>> = BTreeMap::new();
    for log in facts.logs.iter().filter(|log| !log.excused) {
        for event in &log.events {
            match event {
                Event::JoinRequest(group) => {
                    joined.entry(*group).or_default().insert(log.name);
                }
                Event::LeaveRequest(group) => {
                    joined.entry(*group).or_default().remove(&log.name);
                }
                _ => {}
            }
        }
    }
    for (group, members) in joined {
        let mut agreed: Option<&View> = None;
        for log in facts.logs.iter().filter(|log| log.membership && members.contains(&log.name)) {
            let mut views =
                log.events.iter().filter_map(|e| if let Event::View(v) = e { Some(v) } else { None });
            let Some(last) = views.rfind(|v| v.group == group) else {
                return Err(format!("P23: {} has no view of {group}", log.name));
            };
            let listed: BTreeSet<_> = last.members.iter().copied().collect();
            if listed != members || agreed.is_some_and(|v| (v.id, &v.members) != (last.id, &last.members)) {
                return Err(format!("P23: {} ends with {last:?}, not {members:?} or {agreed:?}", log.name));
            }
            agreed = Some(last);
        }
    }
    Ok(())
}
