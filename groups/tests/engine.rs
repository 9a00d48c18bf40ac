//! The engine of one daemon at its edges: sessions, refused requests, limits, hostile messages, many groups.

mod support;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use spread_groups::{
    Accepted, ConfigError, ConfigId, ConnectError, Daemon, Ended, Groups, GroupsConfig, MEMBERS_MAX, Output,
    ReconfigureError, Refusal, RingService, SessionId, Submission,
};
use spread_wire::{Frame, FrameDecoder, GroupName, Kind, PrivateGroup, PrivateName, ServiceType, build};

use support::bus::{Bus, Received};

fn config(names: &[&str], me: u16) -> GroupsConfig {
    let daemon = |(name, id): (&&str, i32)| Daemon { name: name.parse().expect("a name"), id };
    GroupsConfig { daemons: names.iter().zip(1..).map(daemon).collect(), me }
}

/// One daemon alone, in its first configuration.
fn alone() -> Groups {
    let mut groups = Groups::new(config(&["n1", "n2"], 0)).expect("a configuration");
    groups.handle_regular(ConfigId { epoch: 10, rep: 0, nonce: 1 }, &[0]);
    groups
}

fn name(text: &str) -> PrivateName {
    text.parse().expect("a private name")
}

fn group(text: &str) -> GroupName {
    GroupName::new(text.as_bytes()).expect("a group name")
}

fn frame(private: &PrivateGroup, bytes: &Bytes) -> Frame {
    let mut buffer = BytesMut::from(&bytes[..]);
    FrameDecoder::daemon(*private).decode(&mut buffer).expect("legal").expect("complete")
}

/// A ring of one member: what is submitted is delivered.
fn spin(groups: &mut Groups) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(message) = groups.poll_submit() {
        groups.handle_deliver(0, &message.into_parts());
        outputs.extend(std::iter::from_fn(|| groups.poll_output()));
    }
    groups.invariants().expect("invariants");
    outputs
}

fn frames(outputs: &[Output]) -> Vec<(Vec<SessionId>, Frame)> {
    let frame = |output: &Output| match output {
        Output::Deliver { to, except, frame } => {
            let to = to.iter().copied().filter(|s| Some(*s) != *except).collect();
            Some((to, Frame::parse(frame.to_bytes(), 1 << 24).expect("a frame")))
        }
        Output::Close(_) => None,
    };
    outputs.iter().filter_map(frame).collect()
}

#[test]
fn contradictory_configurations_are_refused() {
    let refused = |config| Groups::new(config).expect_err("refused");
    assert_eq!(refused(config(&[], 0)), ConfigError::DaemonCount(0));
    assert_eq!(refused(config(&["a", "b"], 2)), ConfigError::UnknownSelf { me: 2, daemons: 2 });
    assert!(matches!(refused(config(&["a", "b", "a"], 0)), ConfigError::DuplicateName(_)));
    let names: Vec<_> = (0..129).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(refused(config(&names, 0)), ConfigError::DaemonCount(129));
    assert!(Groups::new(config(&names[..128], 127)).is_ok());
}

/// spec: client-protocol 6.3, "between the drop and the delivery of the removal the name is still taken"
#[test]
fn a_name_is_taken_until_the_disconnect_is_delivered() {
    for ended in [Ended::Requested, Ended::Broken] {
        let mut groups = alone();
        groups.connect(SessionId(1), name("bob"), true).expect("a free name");
        assert_eq!(groups.connect(SessionId(2), name("bob"), true), Err(ConnectError::NameInUse));
        assert_eq!(groups.connect(SessionId(1), name("eve"), true), Err(ConnectError::SessionInUse));
        groups.disconnect(SessionId(1), ended);
        groups.disconnect(SessionId(1), ended);
        assert!(groups.is_name_in_use(name("bob")));
        let message = groups.poll_submit().expect("a message");
        let service = if ended == Ended::Broken { RingService::Safe } else { RingService::Agreed };
        assert_eq!(message.service, service);
        assert!(groups.poll_submit().is_none(), "one disconnect only");
        assert_eq!(groups.connect(SessionId(2), name("bob"), true), Err(ConnectError::NameInUse));
        groups.handle_deliver(0, &message.into_parts());
        assert!(matches!(groups.poll_output(), Some(Output::Close(SessionId(1)))));
        assert!(!groups.is_name_in_use(name("bob")));
        assert!(groups.connect(SessionId(2), name("bob"), true).is_ok());
    }
}

#[test]
fn requests_after_a_disconnect_request_are_refused() {
    let mut groups = alone();
    let bob = groups.connect(SessionId(1), name("bob"), true).expect("a free name");
    let kill = frame(&bob, &build::kill(&bob.as_group()));
    assert_eq!(groups.request(SessionId(1), &kill), Ok(Accepted::Disconnecting));
    assert_eq!(groups.request(SessionId(1), &kill), Err(Refusal::UnknownSession));
    assert_eq!(groups.request(SessionId(7), &kill), Err(Refusal::UnknownSession));
    assert_eq!(spin(&mut groups).len(), 1);
    assert_eq!(groups.sessions_len(), 0);
}

/// What the decoder of sessions refuses is refused here too: this layer does not depend on it.
#[test]
fn illegal_frames_are_refused() {
    let mut groups = alone();
    let bob = groups.connect(SessionId(1), name("bob"), true).expect("a free name").as_group();
    let eve = groups.connect(SessionId(2), name("eve"), true).expect("a free name").as_group();
    let legal = Frame::parse(build::join(&bob, &group("g")), 1000).expect("a frame");
    let mut changed = |change: &dyn Fn(&mut Frame)| {
        let mut frame = legal.clone();
        change(&mut frame);
        groups.request(SessionId(1), &frame)
    };
    assert_eq!(changed(&|f| f.header.sender = eve), Err(Refusal::ForeignSender));
    assert_eq!(changed(&|f| f.header.num_groups = 0), Err(Refusal::NoGroup));
    for bits in [0, 0x3, 0x1_0010, 0x8_0010, 0x40_0010, 0x1010, 0x2010, 0x110] {
        let refused = changed(&|f| f.header.service = ServiceType(bits));
        assert_eq!(refused, Err(Refusal::IllegalType(bits)));
    }
    assert_eq!(changed(&|_| ()), Ok(Accepted::Queued));
}

/// spec: group-semantics 5, "members per group"; client-protocol 5.5
#[test]
fn a_join_beyond_the_largest_view_comes_back() {
    let mut groups = alone();
    groups.connect(SessionId(1), name("watcher"), true).expect("a free name");
    // Without the flag the many members get no views, but the refusal reaches them.
    for n in 0..MEMBERS_MAX as u64 {
        let id = SessionId(100 + n);
        let private = groups.connect(id, name(&format!("m{n}")), false).expect("a free name");
        let join = frame(&private, &build::join(&private.as_group(), &group("g")));
        groups.request(id, &join).expect("accepted");
    }
    assert!(spin(&mut groups).is_empty());
    let late = groups.connect(SessionId(2), name("late"), false).expect("a free name");
    let join = frame(&late, &build::join(&late.as_group(), &group("g")));
    groups.request(SessionId(2), &join).expect("accepted");
    let outputs = frames(&spin(&mut groups));
    let [(to, rejected)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((&to[..], rejected.kind()), (&[SessionId(2)][..], Kind::Reject));
    assert_eq!(rejected.orig_type, Some(ServiceType::CAUSED_BY_JOIN));
    assert_eq!(rejected.group_names().collect::<Vec<_>>(), [group("g"), late.as_group()]);
    assert_eq!(groups.view(&group("g")).expect("a group").1.len(), MEMBERS_MAX);
    assert_eq!(groups.stats().joins_rejected, 1);
    // A repeated join by a member is still ignored, and another group is open.
    let other = frame(&late, &build::join(&late.as_group(), &group("h")));
    groups.request(SessionId(2), &other).expect("accepted");
    assert!(spin(&mut groups).is_empty());
    assert_eq!(groups.view(&group("h")).expect("a group").1, [late.as_group()]);
}

/// spec: client-protocol 4.5, 10: 44 to 100 names are routed like fewer.
#[test]
fn a_message_to_a_hundred_groups_comes_once() {
    let mut groups = alone();
    let bob = groups.connect(SessionId(1), name("bob"), false).expect("a free name");
    let eve = groups.connect(SessionId(2), name("eve"), false).expect("a free name");
    let names: Vec<_> = (0..100).map(|n| group(&format!("g{n}"))).collect();
    for joined in [&names[99], &names[50]] {
        groups.request(SessionId(1), &frame(&bob, &build::join(&bob.as_group(), joined))).expect("accepted");
    }
    let head = build::multicast(ServiceType::AGREED, &eve.as_group(), &names, 7, 3).expect("legal");
    let message = Bytes::from([&head[..], b"abc"].concat());
    groups.request(SessionId(2), &frame(&eve, &message)).expect("accepted");
    let outputs = frames(&spin(&mut groups));
    let [(to, frame)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(to, &[SessionId(1)]);
    assert_eq!(frame.raw(), &message);
}

/// spec: client-protocol 4.2, "treat the 32 bytes as the name"
#[test]
fn a_group_name_of_32_bytes_is_a_name() {
    let mut groups = alone();
    let bob = groups.connect(SessionId(1), name("bob"), true).expect("a free name");
    let long = GroupName::from_field([b'x'; 32]);
    groups.request(SessionId(1), &frame(&bob, &build::join(&bob.as_group(), &long))).expect("accepted");
    let outputs = frames(&spin(&mut groups));
    assert_eq!(outputs[0].1.header.sender, long);
}

/// An unstable SAFE message of an earlier configuration holds the tables back until the break: they are complete
/// in transition. Then the merged view is announced first, and ended by a signal.
///
/// spec: group-semantics 2.9, 4 R7
#[test]
fn an_exchange_may_be_completed_in_transition() {
    let mut bus = Bus::new(&[("n1", 1), ("n2", 2), ("n3", 3)], &[&[0, 1], &[2]]);
    let clients = ["#a#n1", "#b#n2", "#c#n3"].map(|name| bus.connect(name, true));
    let [a, b, c] = clients;
    clients.iter().for_each(|client| bus.join(client, &group("g")));
    bus.settle();
    bus.multicast(&c, 0x20, &[group("g")], 0, b"once");
    bus.fill(2, 1);
    bus.inbox.values_mut().for_each(Vec::clear);
    bus.heal();
    bus.reform();
    bus.turn(2, usize::MAX);
    bus.turn(0, usize::MAX);
    bus.partition(&[&[0, 1], &[2]]);
    bus.reform();
    bus.settle();
    let seen = |bus: &Bus, client: &GroupName| -> Vec<(Kind, usize)> {
        let frames = bus.inbox[client].iter().map(|received| match received {
            Received::Frame(frame) => (frame.kind(), frame.groups().len()),
            Received::Closed => panic!("closed"),
        });
        frames.collect()
    };
    for (client, left) in [(&a, 2), (&b, 2), (&c, 1)] {
        let mut wanted = vec![(Kind::Membership, 3), (Kind::Transition, 0), (Kind::Membership, left)];
        // It was not delivered while the tables were missing, and is sent again by the daemon that has it.
        wanted.extend((*client == c).then_some((Kind::Data, 1)));
        assert_eq!(seen(&bus, client), wanted, "{client}");
    }
}

/// Two daemons leave a view in different transitional configurations, and the group goes on counting in both: the
/// one counted on the other, which then did not come along and was not asked for a table. They delivered different
/// messages with the signal at different places, so they are different sets when they meet, whatever the ids say.
///
/// spec: group-semantics 2.5, 2.7, 8
#[test]
fn sides_that_left_a_view_apart_are_different_sets() {
    let mut bus = Bus::new(&[("n1", 1), ("n2", 2), ("n3", 3)], &[&[0, 1], &[2]]);
    let [a, b] = ["#a#n1", "#b#n2"].map(|name| bus.connect(name, true));
    bus.join(&b, &group("g"));
    bus.settle();
    // Behind a SAFE message that is not stable: the join is delivered in transition.
    bus.multicast(&a, 0x20, &[group("other")], 0, b"");
    bus.join(&a, &group("g"));
    bus.turn(0, usize::MAX);
    bus.heal();
    bus.reform_without(1);
    let at = |bus: &Bus, node| bus.groups(node).expect("running").view(&group("g")).expect("a view");
    let (left, members) = at(&bus, 0);
    assert_eq!((left.index, members), (2, vec![a, b]), "no signal: both are counted on");
    bus.reform();
    let (right, members) = at(&bus, 1);
    assert_eq!((right, members), (left, vec![b]), "the signal came before the join");
    bus.settle();
    for client in [&a, &b] {
        let Some(Received::Frame(view)) = bus.inbox[client].last() else { panic!("no view") };
        let (view, at) = spread_wire::Membership::decode(view).expect("a view");
        assert_eq!(view.members, [a, b]);
        let [first, second] = view.sets.as_slice() else {
            panic!("sets of members that were apart: {view:?}")
        };
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!(view.sets[at].contains(client), "the own set of {client}");
    }
}

/// State of 3 000 groups with two members each crosses a merge, in pieces; notifications come in name order.
///
/// spec: group-semantics 4 R9
#[test]
fn many_groups_survive_partition_and_merge() {
    const GROUPS: usize = 3000;
    let mut bus = Bus::new(&[("n1", 1), ("n2", 2)], &[&[0, 1]]);
    bus.checked = false;
    let a = bus.connect("#a#n1", true);
    let b = bus.connect("#b#n2", true);
    for n in 0..GROUPS {
        let name = group(&format!("g{n}"));
        bus.join(&a, &name);
        bus.join(&b, &name);
    }
    bus.settle();
    bus.inbox.values_mut().for_each(Vec::clear);
    bus.partition(&[&[0], &[1]]);
    bus.reform();
    bus.heal();
    bus.reform();
    bus.settle();
    for client in [&a, &b] {
        let got: Vec<_> = bus.inbox[client]
            .iter()
            .map(|r| if let Received::Frame(f) = r { (f.kind(), f.header.sender) } else { panic!("closed") })
            .collect();
        let kinds = [Kind::Transition, Kind::Membership, Kind::Membership];
        assert_eq!(got.len(), kinds.len() * GROUPS);
        for (batch, kind) in got.chunks(GROUPS).zip(kinds) {
            assert!(batch.iter().all(|(k, _)| *k == kind), "batches follow each other");
            assert!(batch.is_sorted_by(|a, b| a.1 < b.1), "in name order");
        }
    }
    let groups = bus.groups(0).expect("running");
    groups.invariants().expect("invariants");
    let stats = groups.stats();
    assert!(stats.state_messages_received > 4, "the tables took several pieces: {stats:?}");
}

/// A group whose members do not fit one piece.
#[test]
fn a_large_group_crosses_a_merge_in_pieces() {
    let mut bus = Bus::new(&[("n1", 1), ("a-daemon-of-19-char", 2)], &[&[0], &[1]]);
    let watcher = bus.connect("#watcher#n1", true);
    bus.join(&watcher, &group("g"));
    for n in 0..3000 {
        let client = bus.connect(&format!("#c{n}#a-daemon-of-19-char"), false);
        bus.join(&client, &group("g"));
    }
    bus.settle();
    bus.heal();
    bus.reform();
    bus.settle();
    let Some(Received::Frame(view)) = bus.inbox[&watcher].last() else { panic!("no view") };
    let (view, own) = spread_wire::Membership::decode(view).expect("a view");
    assert_eq!((view.members.len(), view.sets.len(), own), (3001, 2, 0));
    assert_eq!(view.sets.concat(), view.members);
    assert_eq!(
        bus.groups(0).expect("running").view(&group("g")),
        bus.groups(1).expect("running").view(&group("g"))
    );
}

/// A pair of daemons, with messages that the second one gave to the ring.
fn pair() -> (Groups, Vec<Submission>) {
    let mut one = Groups::new(config(&["n1", "n2"], 0)).expect("a configuration");
    let mut two = Groups::new(config(&["n1", "n2"], 1)).expect("a configuration");
    let id = ConfigId { epoch: 20, rep: 0, nonce: 9 };
    let mut messages = Vec::new();
    for (groups, me) in [(&mut one, 0), (&mut two, 1)] {
        groups.handle_regular(ConfigId { epoch: 10, rep: me, nonce: 1 }, &[me]);
    }
    let mut private = None;
    for n in 0..3 {
        let session = two.connect(SessionId(n), name(&format!("s{n}")), true).expect("a free name");
        let join = frame(&session, &build::join(&session.as_group(), &group("g")));
        two.request(SessionId(n), &join).expect("accepted");
        private = Some(session);
    }
    while let Some(message) = two.poll_submit() {
        two.handle_deliver(1, &message.into_parts());
    }
    one.connect(SessionId(1), name("here"), true).expect("a free name");
    for (groups, me) in [(&mut one, 0), (&mut two, 1)] {
        groups.handle_transitional(ConfigId { epoch: 19, rep: me, nonce: 9 }, &[me]);
        groups.handle_regular(id, &[0, 1]);
    }
    // Both tables complete the exchange at the second daemon, which then sends requests.
    let tables = [one.poll_submit().expect("a table"), two.poll_submit().expect("a table")];
    for (from, table) in (0..).zip(&tables) {
        two.handle_deliver(from, &table.clone().into_parts());
    }
    messages.extend(tables);
    let private = private.expect("a session");
    for bytes in [
        build::join(&private.as_group(), &group("h")),
        build::leave(&private.as_group(), &group("g")),
        build::kill(&private.as_group()),
    ] {
        two.request(SessionId(2), &frame(&private, &bytes)).expect("accepted");
    }
    two.disconnect(SessionId(1), Ended::Broken);
    messages.extend(std::iter::from_fn(|| two.poll_submit()));
    assert_eq!(messages.len(), 6);
    (one, messages)
}

/// Found by simulation: the generation of requests is the low half of the epoch, and 0 was also that of the first
/// configuration.
#[test]
fn a_stale_request_stays_stale_when_the_low_half_of_the_epoch_is_zero() {
    let mut one = Groups::new(config(&["n1", "n2"], 0)).expect("a configuration");
    let mut two = Groups::new(config(&["n1", "n2"], 1)).expect("a configuration");
    let epoch = 1 << 32;
    for (groups, me) in [(&mut one, 0), (&mut two, 1)] {
        groups.handle_regular(ConfigId { epoch: epoch - 2, rep: me, nonce: 1 }, &[me]);
    }
    let private = two.connect(SessionId(1), name("s"), true).expect("a free name");
    let sender = private.as_group();
    two.request(SessionId(1), &frame(&private, &build::join(&sender, &group("g")))).expect("accepted");
    let join = two.poll_submit().expect("a request");
    two.handle_deliver(1, &join.into_parts());
    let head = build::multicast(ServiceType::AGREED, &sender, &[group("g")], 0, 0).expect("a message");
    two.request(SessionId(1), &frame(&private, &head)).expect("accepted");
    let stale = two.poll_submit().expect("a request");
    for (groups, me) in [(&mut one, 0), (&mut two, 1)] {
        groups.handle_transitional(ConfigId { epoch: epoch - 1, rep: me, nonce: 9 }, &[me]);
        groups.handle_regular(ConfigId { epoch, rep: 0, nonce: 9 }, &[0, 1]);
    }
    let tables = [one.poll_submit().expect("a table"), two.poll_submit().expect("a table")];
    for (from, table) in (0..).zip(tables) {
        two.handle_deliver(from, &table.into_parts());
    }
    let again = two.poll_submit().expect("the request again");
    let mut read = |message: Submission| -> usize {
        while two.poll_output().is_some() {}
        two.handle_deliver(1, &message.into_parts());
        let outputs: Vec<Output> = std::iter::from_fn(|| two.poll_output()).collect();
        frames(&outputs).len()
    };
    assert_eq!((read(stale), read(again)), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What other daemons send may be anything: damaged, cut, repeated, from a daemon that does not exist.
    #[test]
    fn hostile_messages_do_no_harm(
        mangled in proptest::collection::vec(
            (0..6usize, 0..4u16, proptest::collection::vec((0..400usize, any::<u8>()), 0..4), 0..400usize),
            0..20,
        ),
    ) {
        let (mut groups, messages) = pair();
        for (which, from, bytes, keep) in mangled {
            let mut message = messages[which].clone().into_parts().concat();
            for (at, byte) in bytes {
                let at = at % message.len();
                message[at] = byte;
            }
            message.truncate(keep.max(1));
            groups.handle_deliver(from, &[Bytes::from(message)]);
            if let Err(broken) = groups.invariants() {
                return Err(TestCaseError::fail(broken));
            }
        }
        // The engine still works: in its next configuration it is alone and serves its sessions.
        groups.handle_transitional(ConfigId { epoch: 29, rep: 0, nonce: 3 }, &[0]);
        groups.handle_regular(ConfigId { epoch: 30, rep: 0, nonce: 3 }, &[0]);
        while groups.poll_output().is_some() {}
        let here = PrivateGroup::new(name("here"), "n1".parse().expect("a name"));
        groups.request(SessionId(1), &frame(&here, &build::join(&here.as_group(), &group("new")))).expect("accepted");
        let outputs = spin(&mut groups);
        prop_assert_eq!(frames(&outputs).len(), 1);
    }

    #[test]
    fn random_bytes_do_no_harm(message in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5u8) {
        let (mut groups, _) = pair();
        let mut message = message;
        if let Some(first) = message.first_mut() {
            *first = kind;
            message.iter_mut().skip(1).take(3).for_each(|b| *b = 0);
        }
        groups.handle_deliver(1, &[Bytes::from(message)]);
        prop_assert_eq!(groups.invariants(), Ok(()));
    }
}

/// What `Groups::reconfigure` takes and refuses, and that sessions, groups and names stay as they are.
#[test]
fn another_list_of_daemons_renumbers_and_changes_nothing_else() {
    let mut groups = alone();
    let bob = groups.connect(SessionId(1), name("bob"), true).expect("a free name");
    let join = |member: &PrivateGroup, to: &str| frame(member, &build::join(&member.as_group(), &group(to)));
    groups.request(SessionId(1), &join(&bob, "g")).expect("a join");
    spin(&mut groups);
    let view = groups.view(&group("g")).expect("a group");

    let refused = |groups: &mut Groups, config, numbers: &[Option<u16>]| {
        let error = groups.reconfigure(config, numbers).expect_err("refused");
        groups.invariants().expect("invariants");
        error
    };
    let error = refused(&mut groups, config(&["n1", "n1"], 0), &[Some(0), None]);
    assert!(matches!(error, ReconfigureError::Config(ConfigError::DuplicateName(_))), "{error:?}");
    assert_eq!(refused(&mut groups, config(&["n3", "n1"], 0), &[Some(1), None]), ReconfigureError::Renamed);
    // This daemon is in the ring, so it must have a number, its own, and one of the list.
    for numbers in [&[None, Some(1)][..], &[Some(0), None], &[Some(2), None], &[]] {
        let error = refused(&mut groups, config(&["n3", "n1"], 1), numbers);
        assert_eq!(error, ReconfigureError::Missing, "{numbers:?}");
    }

    groups.reconfigure(config(&["n3", "n1"], 1), &[Some(1), None]).expect("another list");
    groups.invariants().expect("invariants");
    assert_eq!(groups.view(&group("g")), Some(view), "the same group with the same identifier");
    assert!(groups.poll_output().is_none() && groups.poll_submit().is_none(), "clients notice nothing");
    // What the ring delivers has the new numbers.
    let eve = groups.connect(SessionId(2), name("eve"), true).expect("a free name");
    groups.request(SessionId(2), &join(&eve, "g")).expect("a join");
    let message = groups.poll_submit().expect("the join");
    groups.handle_deliver(1, &message.into_parts());
    let outputs: Vec<_> = std::iter::from_fn(|| groups.poll_output()).collect();
    let views: Vec<_> = frames(&outputs).into_iter().filter(|(_, f)| f.kind() == Kind::Membership).collect();
    assert!(!views.is_empty() && views.iter().all(|(_, f)| f.header.num_groups == 2), "{views:?}");
    // And the next configuration with a newcomer finds all of them.
    groups.handle_transitional(ConfigId { epoch: 11, rep: 1, nonce: 1 }, &[1]);
    assert_eq!(
        refused(&mut groups, config(&["n1"], 0), &[None, Some(0)]),
        ReconfigureError::Unsettled,
        "the ring is being changed"
    );
    groups.handle_regular(ConfigId { epoch: 12, rep: 0, nonce: 2 }, &[0, 1]);
    assert_eq!(
        refused(&mut groups, config(&["n1"], 0), &[None, Some(0)]),
        ReconfigureError::Unsettled,
        "tables are being exchanged"
    );
}

/// All members of the ring need numbers of the list, and different ones.
#[test]
fn no_daemon_of_the_ring_gets_lost_by_another_list() {
    let names = ["n1", "n2", "n3"];
    let mut ring = [0, 1].map(|me| {
        let mut groups = Groups::new(config(&names, me)).expect("a configuration");
        groups.handle_regular(ConfigId { epoch: 10, rep: 0, nonce: 1 }, &[0, 1]);
        groups
    });
    // They exchange their tables.
    while let Some((from, message)) =
        (0u16..).zip(&mut ring).find_map(|(from, groups)| Some((from, groups.poll_submit()?)))
    {
        let parts = message.into_parts();
        ring.iter_mut().for_each(|groups| groups.handle_deliver(from, &parts));
    }
    let [first, _] = &mut ring;
    assert!(first.is_synced());
    for numbers in [[Some(0), None, Some(1)], [Some(0), Some(0), Some(1)], [Some(0), Some(2), None]] {
        let refused = first.reconfigure(config(&names[..2], 0), &numbers);
        assert_eq!(refused, Err(ReconfigureError::Missing), "{numbers:?}");
    }
    // The third is not in the ring.
    first.reconfigure(config(&names[..2], 0), &[Some(0), Some(1), None]).expect("a list without it");
    first.invariants().expect("invariants");
}
