//! Engines in one process: a small daemon orders what they send and tells them the views.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use spread_wire::{FrameDecoder, GroupId, GroupName, PrivateGroup, ServiceType, build};

use super::{Engine, Event, FlushError, Output, View};
use crate::message::{Cause, Membership, Message};

fn name(text: &str) -> GroupName {
    match text.parse::<PrivateGroup>() {
        Ok(private) => private.as_group(),
        Err(_) => text.parse().unwrap(),
    }
}

const G: &str = "g";

/// One group on one daemon; each member has an inbox of its own pace.
#[derive(Default)]
struct Net {
    members: Vec<GroupName>,
    engines: BTreeMap<GroupName, Engine>,
    inboxes: BTreeMap<GroupName, VecDeque<Message>>,
    events: BTreeMap<GroupName, VecDeque<Event>>,
    index: i32,
}

impl Net {
    fn add(&mut self, who: &str) -> GroupName {
        let who = name(&format!("#{who}#d"));
        self.engines.insert(who, Engine::new(who));
        self.inboxes.insert(who, VecDeque::new());
        self.events.insert(who, VecDeque::new());
        who
    }

    /// Performs what an engine wants: sends are ordered at once.
    fn perform(&mut self, who: GroupName) {
        while let Some(output) = self.engines.get_mut(&who).unwrap().poll_output() {
            match output {
                Output::Deliver(event) => self.events.get_mut(&who).unwrap().push_back(event),
                Output::Send(out) if out.service_type == ServiceType::JOIN => self.change(Cause::Join(who)),
                Output::Send(out) if out.service_type == ServiceType::LEAVE => {
                    self.inboxes.get_mut(&who).unwrap().push_back(Message::SelfLeave { group: name(G) });
                    self.change(Cause::Leave(who));
                }
                Output::Send(out) => {
                    let mut bytes = bytes::BytesMut::new();
                    let (service, len) = (out.service_type, out.data.len());
                    build::put_multicast(&mut bytes, service, &who, &out.groups, out.message_type, len, len)
                        .unwrap();
                    bytes.extend_from_slice(&out.data);
                    let frame = FrameDecoder::client().decode(&mut bytes).unwrap().unwrap();
                    let to_group = out.groups.contains(&name(G));
                    for (member, inbox) in &mut self.inboxes {
                        if (to_group && self.members.contains(member)) || out.groups.contains(member) {
                            inbox.push_back(Message::from_frame(frame.clone(), member).unwrap());
                        }
                    }
                }
            }
        }
    }

    fn change(&mut self, cause: Cause) {
        let who = cause.member().unwrap();
        self.members.retain(|member| *member != who);
        if matches!(cause, Cause::Join(_)) {
            self.members.push(who);
            self.members.sort();
        }
        self.index += 1;
        for member in &self.members {
            let view = Membership {
                group: name(G),
                cause,
                id: GroupId { proc: 1, time: 1, index: self.index },
                members: self.members.clone(),
                own_index: self.members.iter().position(|m| m == member),
                vs_sets: vec![vec![who]],
                own_set: 0,
            };
            self.inboxes.get_mut(member).unwrap().push_back(Message::Membership(view));
        }
    }

    fn die(&mut self, who: GroupName) {
        self.engines.remove(&who);
        self.inboxes.remove(&who);
        if self.members.contains(&who) {
            self.change(Cause::Disconnect(who));
        }
    }

    /// One member takes one message.
    fn step(&mut self, who: GroupName) -> bool {
        let Some(message) = self.inboxes.get_mut(&who).and_then(VecDeque::pop_front) else { return false };
        self.engines.get_mut(&who).unwrap().handle_message(message);
        self.perform(who);
        true
    }

    fn settle(&mut self) {
        loop {
            let all: Vec<_> = self.engines.keys().copied().collect();
            // Everybody takes one, whether others had any or not.
            if all.into_iter().filter(|who| self.step(*who)).count() == 0 {
                return;
            }
        }
    }

    fn join(&mut self, who: GroupName) {
        self.engines.get_mut(&who).unwrap().join(name(G)).unwrap();
        self.perform(who);
    }

    fn flush(&mut self, who: GroupName) -> Result<(), FlushError> {
        let result = self.engines.get_mut(&who).unwrap().flush(name(G));
        self.perform(who);
        result
    }

    fn send(&mut self, who: GroupName, service: ServiceType, text: &str) -> Result<(), FlushError> {
        let result = self.engines.get_mut(&who).unwrap().send(service, name(G), None, 7, text.as_bytes());
        self.perform(who);
        result
    }

    fn next(&mut self, who: GroupName) -> Option<Event> {
        self.events.get_mut(&who).unwrap().pop_front()
    }

    fn view(&mut self, who: GroupName) -> View {
        match self.next(who) {
            Some(Event::View(view)) => view,
            other => panic!("{who}: a view was expected, not {other:?}"),
        }
    }

    fn asked(&mut self, who: GroupName) {
        let event = self.next(who);
        assert!(matches!(event, Some(Event::FlushRequest { .. })), "{who}: {event:?}");
    }

    fn text(&mut self, who: GroupName) -> String {
        match self.next(who) {
            Some(Event::Data(data)) => {
                assert_eq!(data.message_type, 7);
                String::from_utf8(data.data.to_vec()).unwrap()
            }
            other => panic!("{who}: data was expected, not {other:?}"),
        }
    }

    /// A group of so many members, all in a confirmed view.
    fn group(names: &[&str]) -> (Self, Vec<GroupName>) {
        let mut net = Self::default();
        let mut all = Vec::new();
        for who in names {
            let who = net.add(who);
            net.join(who);
            net.settle();
            for old in &all {
                net.flush(*old).unwrap();
            }
            net.settle();
            all.push(who);
        }
        net.events.values_mut().for_each(VecDeque::clear);
        (net, all)
    }
}

/// spec: flush-api 8, c-api-cases FL8, FL13 to FL17
#[test]
fn two_members_come_together() {
    let mut net = Net::default();
    let a = net.add("a");
    assert!(matches!(net.send(a, ServiceType::FIFO, "x"), Err(FlushError::IllegalGroup { .. })));
    net.join(a);
    net.settle();
    let first = net.view(a);
    assert_eq!((first.members, first.set), (vec![a], vec![a]));
    assert!(matches!(net.flush(a), Err(FlushError::IllegalState { .. })));
    let b = net.add("b");
    net.join(b);
    net.settle();
    net.asked(a);
    net.send(a, ServiceType::AGREED, "old view").unwrap();
    let to_b = net.engines.get_mut(&a).unwrap().send(ServiceType::FIFO, name(G), Some(&[b]), 0, b"x");
    assert!(matches!(to_b, Err(FlushError::Receiver { .. })));
    net.flush(a).unwrap();
    assert!(matches!(net.flush(a), Err(FlushError::IllegalState { .. })));
    assert!(matches!(net.send(a, ServiceType::AGREED, "x"), Err(FlushError::IllegalState { .. })));
    net.settle();
    assert_eq!(net.text(a), "old view");
    let (at_a, at_b) = (net.view(a), net.view(b));
    assert_eq!((at_a.members.clone(), at_a.id, at_a.set.clone()), (vec![a, b], at_b.id, vec![b]));
    assert_eq!((at_a.own_index, at_b.own_index), (Some(0), Some(1)));
    net.send(b, ServiceType::SAFE, "new view").unwrap();
    net.settle();
    assert_eq!((net.text(a), net.text(b)), ("new view".into(), "new view".into()));
}

/// spec: c-api-cases FL32
#[test]
fn a_leave_is_a_request_a_transitional_and_a_view() {
    let (mut net, all) = Net::group(&["a", "b"]);
    let [a, b] = all[..] else { panic!() };
    net.engines.get_mut(&b).unwrap().leave(name(G)).unwrap();
    net.perform(b);
    net.settle();
    assert!(matches!(net.next(b), Some(Event::SelfLeave { .. })));
    net.asked(a);
    assert!(matches!(net.next(a), Some(Event::Transition { .. })));
    net.flush(a).unwrap();
    net.settle();
    let view = net.view(a);
    assert_eq!((view.cause, view.members, view.set), (Cause::Leave(b), vec![a], vec![b]));
}

/// spec: c-api-cases FL33
#[test]
fn two_joins_are_two_views_and_two_requests() {
    let (mut net, all) = Net::group(&["a"]);
    let a = all[0];
    let (b, c) = (net.add("b"), net.add("c"));
    net.join(b);
    net.join(c);
    net.settle();
    net.asked(a);
    assert!(net.next(a).is_none());
    net.flush(a).unwrap();
    net.settle();
    assert_eq!(net.view(a).members, [a, b]);
    assert_eq!(net.view(b).members, [a, b]);
    net.asked(a);
    net.asked(b);
    net.flush(a).unwrap();
    net.flush(b).unwrap();
    net.settle();
    for who in [a, b, c] {
        assert_eq!(net.view(who).members, [a, b, c]);
    }
}

/// spec: c-api-cases FL34
#[test]
fn a_joiner_that_dies_at_once_leaves_one_network_view() {
    let (mut net, all) = Net::group(&["a", "b", "c", "d"]);
    let x = net.add("x");
    net.join(x);
    net.die(x);
    net.settle();
    for who in &all {
        net.asked(*who);
        net.flush(*who).unwrap();
    }
    net.settle();
    for who in &all {
        let view = net.view(*who);
        assert_eq!((view.cause, &view.members, &view.set), (Cause::Network, &all, &all));
        assert!(net.next(*who).is_none());
    }
}

/// spec: c-api-cases FL36
#[test]
fn two_leaves_before_the_flush_are_one_network_view() {
    let (mut net, all) = Net::group(&["a", "b", "c"]);
    let [a, b, c] = all[..] else { panic!() };
    net.die(b);
    net.die(c);
    net.settle();
    net.asked(a);
    assert!(matches!(net.next(a), Some(Event::Transition { .. })));
    net.flush(a).unwrap();
    net.settle();
    let view = net.view(a);
    assert_eq!((view.cause, view.members, view.set), (Cause::Network, vec![a], vec![a]));
    assert!(net.next(a).is_none());
}

/// spec: c-api-cases FL35; a loose message that runs ahead of its view waits for it.
#[test]
fn a_message_of_the_next_view_is_held() {
    let (mut net, all) = Net::group(&["a"]);
    let a = all[0];
    let b = net.add("b");
    net.join(b);
    net.settle();
    net.asked(a);
    net.send(a, ServiceType::FIFO, "before the flush").unwrap();
    net.flush(a).unwrap();
    // b installs the view and sends in it before a has taken anything.
    while net.step(b) {}
    assert_eq!(net.view(b).members, [a, b]);
    net.send(b, ServiceType::FIFO, "early").unwrap();
    // The network lets it overtake.
    let early = net.inboxes.get_mut(&a).unwrap().pop_back().unwrap();
    let at =
        net.inboxes[&a].iter().position(|m| matches!(m, Message::Data(d) if d.message_type() == -32_768));
    net.inboxes.get_mut(&a).unwrap().insert(at.unwrap(), early);
    net.settle();
    assert_eq!(net.text(a), "before the flush");
    assert_eq!(net.view(a).members, [a, b]);
    assert_eq!(net.text(a), "early");
    assert_eq!(net.text(b), "early");
    assert!(net.next(b).is_none(), "a message of a view b was not in");
}

/// spec: flush-api 6, FL51: a partition and what follows, seen by a member
#[test]
fn a_network_change_asks_and_installs() {
    let (mut net, all) = Net::group(&["a", "b", "c"]);
    let [a, b, c] = all[..] else { panic!() };
    net.inboxes.remove(&c);
    net.engines.remove(&c);
    net.members = vec![a, b];
    net.index = 1;
    for who in [a, b] {
        let inbox = net.inboxes.get_mut(&who).unwrap();
        inbox.push_back(Message::Transition { group: name(G), id: GroupId::default() });
        inbox.push_back(Message::Membership(Membership {
            group: name(G),
            cause: Cause::Network,
            id: GroupId { proc: 1, time: 2, index: 1 },
            members: vec![a, b],
            own_index: None,
            vs_sets: vec![vec![a, b]],
            own_set: 0,
        }));
    }
    net.settle();
    for who in [a, b] {
        assert!(matches!(net.next(who), Some(Event::Transition { .. })));
        net.asked(who);
        net.flush(who).unwrap();
    }
    net.settle();
    for who in [a, b] {
        let view = net.view(who);
        assert_eq!((view.cause, view.members, view.set), (Cause::Network, vec![a, b], vec![a, b]));
    }
}

/// spec: flush-api 3.3, 5; c-api-cases FL19 to FL23, FL38
#[test]
fn parts_of_a_group_and_strangers() {
    let (mut net, all) = Net::group(&["a", "b"]);
    let [a, b] = all[..] else { panic!() };
    let engine = net.engines.get_mut(&b).unwrap();
    engine.send(ServiceType::FIFO, name(G), Some(&[a]), 7, b"only a").unwrap();
    net.perform(b);
    net.settle();
    match net.next(a) {
        Some(Event::Data(data)) => {
            assert_eq!(data.groups, [a, name(G)]);
            assert_eq!(&data.data[..], b"only a");
            assert_eq!(data.service_type, ServiceType(0x4000_0004));
        }
        other => panic!("{other:?}"),
    }
    assert!(net.next(b).is_none());
    // A stranger's message to the group is dropped, one to a member is not.
    let x = net.add("x");
    for to in [name(G), a] {
        let mut bytes =
            bytes::BytesMut::from(&build::multicast(ServiceType::FIFO, &x, &[to], 1, 0).unwrap()[..]);
        let frame = FrameDecoder::client().decode(&mut bytes).unwrap().unwrap();
        net.inboxes.get_mut(&a).unwrap().push_back(Message::from_frame(frame, &a).unwrap());
    }
    net.settle();
    assert!(matches!(net.next(a), Some(Event::Data(data)) if data.groups == [a]));
    assert!(net.next(a).is_none());
    let engine = net.engines.get_mut(&a).unwrap();
    for (bits, kind, code) in [(0, 0, -12), (0x1004, 0, -12), (0x2000_0004, 0, -12), (4, -32_766, -26)] {
        assert_eq!(engine.send(ServiceType(bits), name(G), None, kind, b"").unwrap_err().code(), code);
    }
}

proptest! {
    /// Members come, go, send and flush at their own pace. Everybody who installs a view agrees on its members; whatever
    /// a member delivers in a view was sent in it by a member of it; two members that go from one view to the same next
    /// one have delivered the same messages in it.
    #[test]
    fn views_are_synchronous(ops in prop::collection::vec((0u8..8, 0usize..5), 1..120)) {
        let mut net = Net::default();
        let all: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|n| net.add(n)).collect();
        let mut seen: BTreeMap<GroupName, Vec<(GroupId, Vec<String>)>> = BTreeMap::new();
        let mut members: BTreeMap<GroupId, Vec<GroupName>> = BTreeMap::new();
        let mut count = 0;
        let mut take = |net: &mut Net, flush: bool| {
            let mut again = false;
            for who in all.iter().filter(|who| net.engines.contains_key(who)).copied().collect::<Vec<_>>() {
                while let Some(event) = net.next(who) {
                    again = true;
                    match event {
                        Event::View(view) => {
                            let known = members.entry(view.id).or_insert_with(|| view.members.clone());
                            assert_eq!(known, &view.members);
                            seen.entry(who).or_default().push((view.id, Vec::new()));
                        }
                        Event::Data(data) => {
                            let text = String::from_utf8(data.data.to_vec()).unwrap();
                            let (id, texts) = seen.get_mut(&who).unwrap().last_mut().unwrap();
                            let sent_in = text.split(' ').next().unwrap().to_owned();
                            assert_eq!(sent_in, format!("{}", id.index), "{who} gets {text} in another view");
                            assert!(members[id].contains(&data.sender));
                            texts.push(text);
                        }
                        Event::FlushRequest { .. } if flush => net.flush(who).unwrap(),
                        Event::FlushRequest { .. } => {
                            // Answered later.
                            net.events.get_mut(&who).unwrap().push_front(Event::FlushRequest { group: name(G) });
                            return false;
                        }
                        Event::SelfLeave { .. } => { seen.entry(who).or_default().clear(); }
                        Event::Transition { .. } | Event::Other(_) => {}
                    }
                }
            }
            again
        };
        let mut joined = std::collections::BTreeSet::new();
        for (op, i) in ops {
            let who = all[i];
            if !net.engines.contains_key(&who) {
                continue;
            }
            match op {
                0 | 1 if joined.insert(who) => net.join(who),
                2 if count % 7 == 0 => { net.die(who); }
                3 | 4 => {
                    take(&mut net, true);
                    // The view the sender is in, by its id.
                    let id = net.engines[&who].groups_id();
                    let service = [ServiceType::FIFO, ServiceType::AGREED, ServiceType::RELIABLE][count % 3];
                    count += 1;
                    if let Some(id) = id {
                        let _ = net.send(who, service, &format!("{} {count} {who}", id.index));
                    }
                }
                5 => { take(&mut net, true); }
                _ => { for _ in 0..3 { net.step(who); } }
            }
        }
        net.settle();
        while take(&mut net, true) {
            net.settle();
        }
        // All that are left are in the same view, and it has exactly them.
        let left: Vec<_> = net.members.clone();
        for who in &left {
            let (id, _) = seen[who].last().unwrap();
            prop_assert_eq!(&members[id], &left);
        }
        for a in &left {
            for b in &left {
                for (pair_a, pair_b) in seen[a].windows(2).flat_map(|x| seen[b].windows(2).map(move |y| (x, y))) {
                    if pair_a[0].0 == pair_b[0].0 && pair_a[1].0 == pair_b[1].0 {
                        prop_assert_eq!(&pair_a[0].1, &pair_b[0].1);
                    }
                }
            }
        }
    }
}
