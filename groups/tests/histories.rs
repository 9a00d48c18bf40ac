//! Random histories over an ideal ring, with all its faults, checked against what clients may rely on.
//!
//! spec: group-semantics 7

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use spread_groups::Ended;
use spread_wire::{Frame, GroupId, GroupName, Kind, ServiceType};

use support::bus::{Bus, Received};
use support::oracle::{self, ClientLog, Event, Message, Place, View};

/// Groups that have a member on each daemon from its start: they never die out, so their ids are unique.
const LASTING: [&str; 2] = ["g", "h"];
const GROUPS: [&str; 4] = ["g", "h", "a", "z"];
const DAEMONS: u16 = 4;

#[derive(Clone, Debug)]
enum Op {
    Connect {
        node: u16,
        membership: bool,
    },
    Join {
        client: usize,
        group: usize,
    },
    Leave {
        client: usize,
        group: usize,
    },
    Send {
        client: usize,
        service: usize,
        discard: bool,
        groups: Vec<usize>,
        private: Option<usize>,
    },
    End {
        client: usize,
        requested: bool,
    },
    /// The layer above gives this many messages to its ring.
    Fill {
        node: u16,
        n: usize,
    },
    Turn {
        node: u16,
        n: usize,
    },
    Stabilize {
        node: u16,
    },
    Settle,
    Partition(Vec<usize>),
    Heal,
    Drop {
        at: u16,
        source: u16,
    },
    DropNext {
        at: u16,
        source: u16,
    },
    ClearDrops,
    Reform,
    /// The component of this daemon forms its ring; the others notice later.
    ReformOne {
        node: u16,
    },
    /// The others count on this daemon, which does not come along.
    ReformWithout {
        node: u16,
    },
    Kill {
        node: u16,
    },
    Start {
        node: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..DAEMONS;
    let client = 0..64usize;
    let group = 0..GROUPS.len();
    prop_oneof![
        2 => (node.clone(), proptest::bool::weighted(0.8))
            .prop_map(|(node, membership)| Op::Connect { node, membership }),
        8 => (client.clone(), group.clone()).prop_map(|(client, group)| Op::Join { client, group }),
        4 => (client.clone(), group.clone()).prop_map(|(client, group)| Op::Leave { client, group }),
        12 => (
            client.clone(),
            0..6usize,
            proptest::bool::weighted(0.2),
            proptest::collection::vec(group, 0..3),
            proptest::option::weighted(0.2, client.clone()),
        )
            .prop_map(|(client, service, discard, groups, private)| Op::Send {
                client,
                service,
                discard,
                groups,
                private
            }),
        2 => (client, any::<bool>()).prop_map(|(client, requested)| Op::End { client, requested }),
        4 => (node.clone(), 1..4usize).prop_map(|(node, n)| Op::Fill { node, n }),
        12 => (node.clone(), 1..6usize).prop_map(|(node, n)| Op::Turn { node, n }),
        3 => node.clone().prop_map(|node| Op::Stabilize { node }),
        2 => Just(Op::Settle),
        4 => proptest::collection::vec(0..3usize, usize::from(DAEMONS)).prop_map(Op::Partition),
        2 => Just(Op::Heal),
        2 => (node.clone(), node.clone()).prop_map(|(at, source)| Op::Drop { at, source }),
        3 => (node.clone(), node.clone()).prop_map(|(at, source)| Op::DropNext { at, source }),
        2 => Just(Op::ClearDrops),
        4 => Just(Op::Reform),
        4 => node.clone().prop_map(|node| Op::ReformOne { node }),
        1 => node.clone().prop_map(|node| Op::ReformWithout { node }),
        1 => node.clone().prop_map(|node| Op::Kill { node }),
        1 => node.prop_map(|node| Op::Start { node }),
    ]
}

struct History {
    bus: Bus,
    logs: Vec<ClientLog>,
    alive: BTreeSet<usize>,
    by_node: BTreeMap<u16, Vec<usize>>,
    numbers: u32,
}

fn group(name: &str) -> GroupName {
    GroupName::new(name.as_bytes()).expect("a name")
}

impl History {
    fn new() -> Self {
        let names: Vec<_> = (0..DAEMONS).map(|n| format!("n{n}")).collect();
        // Ids in another order than the configuration, and far apart.
        let ids = [7, 4_157_588_601, 11_282_039, 3];
        let daemons: Vec<_> = names.iter().map(String::as_str).zip(ids).collect();
        let all: Vec<_> = (0..DAEMONS).collect();
        let mut history = Self {
            bus: Bus::new(&daemons, &[&all]),
            logs: Vec::new(),
            alive: BTreeSet::new(),
            by_node: BTreeMap::new(),
            numbers: 0,
        };
        (0..DAEMONS).for_each(|node| history.permanent(node));
        history.bus.settle();
        history
    }

    /// The first client of a daemon, which joins the lasting groups and stays.
    fn permanent(&mut self, node: u16) {
        let client = self.connect(node, true).expect("the daemon runs");
        for name in LASTING {
            self.join(client, group(name));
        }
    }

    fn connect(&mut self, node: u16, membership: bool) -> Option<usize> {
        self.bus.groups(node)?;
        let client = self.logs.len();
        let name = self.bus.connect(&format!("#c{client}#n{node}"), membership);
        self.logs.push(ClientLog { name, membership, excused: false, events: Vec::new() });
        self.alive.insert(client);
        self.by_node.entry(node).or_default().push(client);
        Some(client)
    }

    /// A living client other than the permanent ones, if there is any.
    fn pick(&self, n: usize) -> Option<usize> {
        let alive: Vec<_> = self.alive.iter().copied().collect();
        (!alive.is_empty()).then(|| alive[n % alive.len()])
    }

    fn is_permanent(&self, client: usize) -> bool {
        self.by_node.values().any(|clients| clients.first() == Some(&client))
    }

    fn join(&mut self, client: usize, group: GroupName) {
        self.collect();
        self.logs[client].events.push(Event::JoinRequest(group));
        self.bus.join(&self.logs[client].name, &group);
    }

    fn send(&mut self, client: usize, service: u32, groups: Vec<GroupName>) {
        self.collect();
        self.numbers += 1;
        let message_type = i16::try_from(self.numbers % 1000).expect("small") - 500;
        let sender = self.logs[client].name;
        let service = ServiceType(service);
        let m = Message { number: self.numbers, sender, service, groups, message_type };
        self.bus.multicast(&sender, service.0, &m.groups, message_type, &m.number.to_be_bytes());
        self.logs[client].events.push(Event::Send(m));
    }

    fn end(&mut self, client: usize, ended: Ended) {
        self.collect();
        self.logs[client].excused = true;
        self.alive.remove(&client);
        self.bus.end(&self.logs[client].name, ended);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Connect { node, membership } => {
                if self.alive.len() < 24 {
                    self.connect(node, membership);
                }
            }
            Op::Join { client, group: g } => {
                if let Some(client) = self.pick(client) {
                    self.join(client, group(GROUPS[g]));
                }
            }
            Op::Leave { client, group: g } => {
                let Some(client) = self.pick(client) else { return };
                if !(self.is_permanent(client) && LASTING.contains(&GROUPS[g])) {
                    self.collect();
                    let group = group(GROUPS[g]);
                    self.logs[client].events.push(Event::LeaveRequest(group));
                    self.bus.leave(&self.logs[client].name, &group);
                }
            }
            Op::Send { client, service, discard, ref groups, private } => {
                let Some(client) = self.pick(client) else { return };
                let mut targets: Vec<_> = groups.iter().map(|&g| group(GROUPS[g])).collect();
                targets.extend(private.and_then(|p| self.pick(p)).map(|p| self.logs[p].name));
                self.send(client, 1 << service | if discard { 0x40 } else { 0 }, targets);
            }
            Op::End { client, requested } => {
                if let Some(client) = self.pick(client).filter(|&c| !self.is_permanent(c)) {
                    self.end(client, if requested { Ended::Requested } else { Ended::Broken });
                }
            }
            Op::Fill { node, n } => self.bus.fill(node, n),
            // A member of a ring that lost others may still have a turn before it is noticed.
            Op::Turn { node, n } => self.bus.turn(node, n),
            Op::Stabilize { node } => self.bus.stabilize(node),
            Op::Settle => self.bus.settle(),
            Op::Partition(ref of) => {
                let nodes = |c: usize| (0..DAEMONS).filter(|&n| of[usize::from(n)] == c).collect::<Vec<_>>();
                let parts = [nodes(0), nodes(1), nodes(2)];
                self.bus.partition(&[&parts[0], &parts[1], &parts[2]]);
            }
            Op::Heal => self.bus.heal(),
            Op::Drop { at, source } => self.bus.drop_data(at, source),
            Op::DropNext { at, source } => self.bus.drop_first(at, source),
            Op::ClearDrops => self.bus.clear_drops(),
            Op::Reform => self.bus.reform(),
            Op::ReformOne { node } => self.bus.reform_one(node),
            Op::ReformWithout { node } => self.bus.reform_without(node),
            Op::Kill { node } => {
                self.collect();
                for client in self.by_node.remove(&node).unwrap_or_default() {
                    self.alive.remove(&client);
                    self.logs[client].excused = true;
                }
                self.bus.kill(node);
            }
            Op::Start { node } => self.start(node),
        }
    }

    fn start(&mut self, node: u16) {
        if self.bus.groups(node).is_none() {
            self.bus.start(node);
            // In its first configuration, alone. An id stands for one view only while every daemon has a member:
            // otherwise a join that nobody but its own daemon got before a break, and another one after it,
            // give the same id to two views.
            self.permanent(node);
            self.bus.turn(node, usize::MAX);
        }
    }

    /// All faults end, and everything comes to rest; then everybody sends once more.
    fn finish(&mut self) {
        self.bus.clear_drops();
        (0..DAEMONS).for_each(|node| self.start(node));
        self.bus.heal();
        self.bus.reform();
        self.bus.settle();
        let senders: Vec<_> = self.alive.iter().copied().collect();
        let first_final = self.numbers + 1;
        for client in senders {
            self.send(client, 0x10, GROUPS.map(group).to_vec());
        }
        self.bus.settle();
        self.collect();
        self.check_final_delivery(first_final);
    }

    /// P24.
    fn check_final_delivery(&self, first: u32) {
        for (client, log) in self.logs.iter().enumerate().filter(|(c, _)| self.alive.contains(c)) {
            let mut joined = BTreeSet::new();
            let mut got = 0;
            for event in &log.events {
                match event {
                    Event::JoinRequest(g) => drop(joined.insert(*g)),
                    Event::LeaveRequest(g) => drop(joined.remove(g)),
                    Event::Data(m, _) if m.number >= first => got += 1,
                    _ => {}
                }
            }
            let wanted = if joined.is_empty() { 0 } else { self.alive.len() };
            assert_eq!(got, wanted, "P24: final messages at client {client}");
        }
        for node in 0..DAEMONS {
            let groups = self.bus.groups(node).expect("all daemons run");
            assert!(groups.is_synced() && groups.waiting() == (0, 0) && groups.under_way() == 0);
            assert_eq!(groups.stats().malformed, 0);
            assert_eq!(groups.group_names(), self.bus.groups(0).expect("running").group_names());
            for name in groups.group_names() {
                assert_eq!(groups.view(&name), self.bus.groups(0).expect("running").view(&name), "R6");
            }
        }
    }

    /// Moves what clients got into their logs.
    fn collect(&mut self) {
        for log in &mut self.logs {
            let places = self.bus.places.get_mut(&log.name).expect("a client").drain(..);
            for (received, place) in
                self.bus.inbox.get_mut(&log.name).expect("a client").drain(..).zip(places)
            {
                if let (Received::Frame(frame), false) = (received, log.excused) {
                    // Where a group cannot die out and begin again, its ids must tell more.
                    let lasts = LASTING.map(group).contains(&frame.header.sender);
                    let entry = place.entry.filter(|_| !lasts);
                    log.events.push(read(&frame, Some(Place { entry, ..place })));
                }
            }
        }
    }
}

fn read(frame: &Frame, place: Option<Place>) -> Event {
    let group = frame.header.sender;
    match frame.kind() {
        Kind::Data => Event::Data(
            Message {
                number: u32::from_be_bytes(*frame.data_bytes().first_chunk().expect("a number")),
                sender: group,
                service: frame.header.service,
                groups: frame.group_names().collect(),
                message_type: frame.message_type(),
            },
            place,
        ),
        Kind::Membership => {
            let (message, own) = spread_wire::Membership::decode(frame).expect("a membership body");
            let (id, cause) = (message.id, message.cause);
            Event::View(View { group, id, cause, members: message.members, sets: message.sets, own, place })
        }
        Kind::Transition => Event::Transition(group, GroupId::of_transition(frame).expect("an id")),
        Kind::SelfLeave => Event::SelfLeave(group),
        other => panic!("a frame of kind {other:?}"),
    }
}

fn run(ops: &[Op], packet: Option<usize>) -> Result<History, String> {
    let mut history = History::new();
    history.bus.packet = packet;
    for op in ops {
        history.apply(op);
    }
    history.finish();
    oracle::check(&history.logs, &GROUPS.map(group), true)?;
    Ok(history)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_have_the_properties_clients_rely_on(
        ops in proptest::collection::vec(op(), 0..160),
        packet in proptest::option::of(40usize..400),
    ) {
        if let Err(broken) = run(&ops, packet) {
            return Err(TestCaseError::fail(broken));
        }
    }
}

/// The histories above are worth something: what is rare happens in them.
#[test]
fn histories_reach_the_rare_cases() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = proptest::collection::vec(op(), 100..160);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..240 {
        let ops = strategy.new_tree(&mut runner).expect("a history").current();
        let history = run(&ops, None).expect("the properties hold");
        let mut add = |what, n| *seen.entry(what).or_default() += n;
        for node in 0..DAEMONS {
            let stats = history.bus.groups(node).expect("running").stats();
            add("requests given out again", stats.stale_requests);
            add("exchanges interrupted", stats.exchanges_begun - stats.exchanges_completed);
            add("state messages of another configuration", stats.state_messages_stale);
        }
        let without = ops.iter().filter(|op| matches!(op, Op::ReformWithout { .. }));
        add("configurations that a daemon did not get to", without.count() as u64);
        for log in &history.logs {
            let mut signaled = BTreeSet::new();
            for event in &log.events {
                match event {
                    Event::Transition(group, _) => drop(signaled.insert(*group)),
                    Event::Data(m, _) if m.groups.iter().any(|g| signaled.contains(g)) => {
                        add("messages in transition", 1);
                        add(
                            "SAFE messages in transition",
                            u64::from(m.service.intersects(ServiceType::SAFE)),
                        );
                    }
                    Event::View(v) => {
                        let in_transition = v.cause == spread_wire::Cause::Network && v.id.index >= 2;
                        add("views in transition", u64::from(in_transition));
                        let empty = v.sets.iter().any(Vec::is_empty);
                        add("views in transition with an empty set", u64::from(empty));
                        let own_alone = v.sets[v.own] == [log.name] && in_transition;
                        add("own joins in transition", u64::from(own_alone));
                        if !in_transition {
                            signaled.remove(&v.group);
                            let after = v.cause == spread_wire::Cause::Network && v.sets.len() >= 3;
                            add("merges of three sides and more", u64::from(after));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    println!("{seen:#?}");
    for (what, n) in seen {
        assert!(n >= 10, "{what}: only {n} times");
    }
}
