//! The recorded group cases, replayed over an ideal ring: every delivery must be the recorded one.
//!
//! How a case's faults are scripted: while a token packet is held back nobody has a turn; when it is let go,
//! the members after it have one turn each, as far as the token gets; a partition is noticed at the end of its
//! step. What clients ask for after a partition and before it is noticed waits, as in the original.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use spread_groups::Ended;
use spread_wire::GroupName;

use support::bus::{Bus, Received};
use support::case::{self, Action, Log, Scenario, Seen, Step, Timed};

/// A pause of this length lets the ring come to rest.
const PAUSE_MS: u64 = 30;

struct Replay {
    bus: Bus,
    clients: BTreeMap<String, GroupName>,
    ended: BTreeSet<String>,
    /// Members that the token does not reach.
    held: BTreeSet<u16>,
    log: Log<(i32, i32)>,
}

impl Replay {
    fn new(scenario: &Scenario) -> Self {
        let daemons: Vec<_> = scenario.daemons.iter().map(|d| (d.name.as_str(), d.virtual_id)).collect();
        let all: Vec<u16> = (0u16..).take(daemons.len()).collect();
        let alone: Vec<&[u16]> = all.chunks(1).collect();
        // In this case the daemons are connected in step 2 only.
        let components: &[&[u16]] = if scenario.name == "25-first-contact" { &alone } else { &[&all] };
        Self {
            bus: Bus::new(&daemons, components),
            clients: BTreeMap::new(),
            ended: BTreeSet::new(),
            held: BTreeSet::new(),
            log: Log::new(),
        }
    }

    fn step(&mut self, scenario: &Scenario, step: &Step) {
        for client in scenario.clients.iter().filter(|c| c.connects_before_step == step.step) {
            let name = self.bus.connect(&client.private_group, client.membership_messages);
            self.clients.insert(client.private_group.clone(), name);
        }
        for Timed { after_ms, action } in &step.actions {
            if *after_ms >= PAUSE_MS && self.held.is_empty() {
                self.bus.settle();
            }
            self.act(action);
        }
        if scenario.name == "26-slow-reader" && step.step == 2 {
            self.overrun();
        }
        self.held.clear();
        self.bus.reform();
        self.bus.settle();
        self.collect(step.step);
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Join { client, group } => self.bus.join(&self.clients[client], &group_name(group)),
            Action::Leave { client, group } => self.bus.leave(&self.clients[client], &group_name(group)),
            Action::Multicast { client, service, groups, mess_type, payload } => {
                let groups: Vec<_> = groups.iter().map(|g| group_name(g)).collect();
                let service = case::service_bits(service);
                self.bus.multicast(&self.clients[client], service, &groups, *mess_type, payload.as_bytes());
            }
            Action::Disconnect { client } => {
                self.bus.end(&self.clients[client], Ended::Requested);
                self.ended.insert(client.clone());
            }
            Action::CloseSocket { client } => {
                self.bus.end(&self.clients[client], Ended::Broken);
                self.ended.insert(client.clone());
            }
            Action::KillDaemon { daemon } => self.bus.kill(self.bus.node(daemon)),
            Action::StartDaemons { daemons } => {
                self.nodes(daemons).into_iter().for_each(|node| self.bus.start(node));
            }
            Action::Partition { components, clear_drops } => {
                let components: Vec<_> = components.iter().map(|c| self.nodes(c)).collect();
                let components: Vec<_> = components.iter().map(Vec::as_slice).collect();
                self.bus.partition(&components);
                if *clear_drops {
                    self.bus.clear_drops();
                }
            }
            Action::Heal => {
                self.bus.heal();
                self.bus.clear_drops();
            }
            Action::HealPartitionKeepDrops => self.bus.heal(),
            Action::DropTokenPackets { at, source } if !source.is_empty() => {
                self.held.extend(self.nodes(at));
            }
            Action::DropTokenPackets { at, .. } => {
                let at = self.nodes(at)[0];
                self.held.remove(&at);
                self.pass_token(at);
            }
            Action::PassOneTokenThenDrop { at, .. } => {
                let at = self.nodes(at)[0];
                self.held.insert(at);
                self.pass_token(at);
            }
            Action::DropDataPackets { at, source } => {
                for (at, source) in self.pairs(at, source) {
                    self.bus.drop_data(at, source);
                }
            }
            Action::DropFirstDataPacket { at, source } => {
                for (at, source) in self.pairs(at, source) {
                    self.bus.drop_first(at, source);
                }
            }
        }
    }

    /// The token reaches `first`: it has its turn, and then each member after it that the token gets to.
    fn pass_token(&mut self, first: u16) {
        let members = self.bus.ring_members(first);
        let at = members.iter().position(|&m| m == first).expect("a member");
        let whole = self.bus.is_whole(first);
        let others = members[at + 1..].iter().chain(&members[..at]);
        self.bus.turn(first, usize::MAX);
        for &next in others {
            if self.held.contains(&next) || !whole {
                return;
            }
            self.bus.turn(next, usize::MAX);
        }
    }

    fn nodes(&self, names: &[String]) -> Vec<u16> {
        names.iter().map(|name| self.bus.node(name)).collect()
    }

    fn pairs(&self, at: &[String], source: &[String]) -> Vec<(u16, u16)> {
        let (at, source) = (self.nodes(at), self.nodes(source));
        at.iter().flat_map(|&a| source.iter().map(move |&s| (a, s))).collect()
    }

    /// Step 2 of case 26, which has no actions.
    fn overrun(&mut self) {
        let slow = "#slow#n1".to_owned();
        self.bus.stop_reading(&self.clients[&slow], 200);
        self.ended.insert(slow);
        for _ in 0..1200 {
            self.bus.multicast(&self.clients["#b#n2"], 0x50, &[group_name("g")], 0, &[0; 200]);
        }
    }

    fn collect(&mut self, step: u32) {
        for (client, name) in &self.clients {
            let log = self.log.entry(client.clone()).or_default();
            for received in self.bus.inbox.get_mut(name).expect("a client").drain(..) {
                match received {
                    _ if self.ended.contains(client) => {}
                    Received::Frame(frame) => log.push((step, case::read(&frame, client))),
                    Received::Closed => log.push((step, Seen::Closed)),
                }
            }
        }
    }
}

fn group_name(name: &str) -> GroupName {
    let mut field = [0; 32];
    field[..name.len()].copy_from_slice(name.as_bytes());
    GroupName::from_field(field)
}

fn replay(name: &str) {
    replay_without(name, &[], false);
}

/// Replays a case, with messages that come out of the ring in one piece and in many.
fn replay_without(name: &str, unplaced: &[&str], drop_data: bool) {
    for packet in [None, Some(100), Some(5)] {
        replay_in_packets(name, unplaced, drop_data, packet);
    }
}

fn replay_in_packets(name: &str, unplaced: &[&str], drop_data: bool, packet: Option<usize>) {
    let (scenario, recorded) = case::load(name);
    let mut replay = Replay::new(&scenario);
    replay.bus.packet = packet;
    for step in &scenario.steps {
        replay.step(&scenario, step);
    }
    if drop_data {
        let is_data = |seen: &Seen<_>| matches!(seen, Seen::Data { .. });
        replay.log.values_mut().for_each(|log| log.retain(|(_, seen)| !is_data(seen)));
    }
    if let Err(difference) = case::compare(&recorded, &replay.log, unplaced) {
        panic!("case {name} ({}), packets of {packet:?}: {difference}", scenario.determinism);
    }
}

macro_rules! cases {
    ($($test:ident: $name:literal;)*) => {
        $(#[test] fn $test() { replay($name); })*

        /// Every recorded case is replayed by a test of this file.
        #[test]
        fn no_case_is_left_out() {
            let mut replayed = vec![$($name,)* "09-safe-in-transition", "10-hole-in-transition", "26-slow-reader"];
            replayed.sort_unstable();
            let mut recorded: Vec<_> = std::fs::read_dir(case::folder())
                .expect("the folder of the cases")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .filter_map(|name| name.strip_suffix(".jsonl").map(str::to_owned))
                // The flush library's; it is no matter of the daemon.
                .filter(|name| name != "f1-flush-trace")
                .collect();
            recorded.sort();
            assert_eq!(recorded, replayed);
        }
    };
}

cases! {
    first_join: "01-first-join";
    second_join: "02-second-join";
    leave: "03-leave";
    disconnect: "04-disconnect";
    client_crash: "05-client-crash";
    daemon_crash: "06-daemon-crash";
    partition_and_merge: "07-partition-merge";
    three_way: "08-three-way";
    join_in_transition: "11-join-in-transition";
    leave_in_transition: "12-leave-in-transition";
    disconnect_in_transition: "13-disconnect-in-transition";
    remote_join_in_transition: "14-remote-join-in-transition";
    cascade_with_lost_state: "15-cascade-during-merge-1";
    cascade_with_recovered_state: "16-cascade-during-merge-2";
    cascade_back_to_the_old_split: "17-cascade-during-merge-3";
    swap_of_partners: "18-swap-partition";
    several_targets: "19-multi-group";
    client_without_membership_messages: "20-no-membership-client";
    services: "21-services";
    several_groups_at_once: "22-two-groups-at-once";
    pipelined_requests: "23-pipelined";
    configuration_order: "24-conf-order";
    first_contact: "25-first-contact";
    requests_while_the_ring_is_broken: "27-requests-while-ring-is-broken";
}

// The place of the RELIABLE message r1 is not specified in the next two; ours comes in sequence.

#[test]
fn safe_in_transition() {
    replay_without("09-safe-in-transition", &["r1"], false);
}

#[test]
fn hole_in_transition() {
    replay_without("10-hole-in-transition", &["r1"], false);
}

/// Data messages are not recorded in this case.
#[test]
fn slow_reader() {
    replay_without("26-slow-reader", &[], true);
}
