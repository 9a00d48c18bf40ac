//! Rules that random histories do not miss, shown by histories made for them: with the rule, and with the feature
//! `mutations` also without it.

mod support;

use spread_wire::{GroupName, Kind, Membership};

use support::bus::{Bus, Received};

/// What comes of a history with the rule, and without it.
fn both<T: PartialEq + std::fmt::Debug>(rule: &str, act: impl Fn() -> T, with: &T, without: &T) {
    assert_eq!(act(), *with, "with {rule}");
    #[cfg(feature = "mutations")]
    {
        use spread_groups::mutation::{Rule, take_out};
        take_out(Rule::ALL.iter().copied().find(|r| format!("{r:?}") == rule));
        assert_eq!(act(), *without, "without {rule}");
        take_out(None);
    }
    let _ = without;
}

fn group() -> GroupName {
    GroupName::new(b"g").expect("a name")
}

/// A request was given to the ring before a merge. The tables are exchanged by others, whose turn comes first: when
/// the request comes out of the ring everybody has the same table again. It is stale all the same, for its daemon
/// has given it out again.
#[test]
fn a_request_that_outlives_the_exchange_takes_effect_once() {
    let deliveries = || {
        let mut bus = Bus::new(&[("n1", 1), ("n2", 2), ("n3", 3)], &[&[0, 1], &[2]]);
        let clients = ["#a#n1", "#b#n2", "#c#n3"].map(|name| bus.connect(name, true));
        clients.iter().for_each(|client| bus.join(client, &group()));
        bus.settle();
        bus.multicast(&clients[1], 0x10, &[group()], 0, b"once");
        bus.fill(1, 1);
        bus.heal();
        bus.reform();
        for speaker in [0, 2] {
            bus.turn(speaker, usize::MAX);
        }
        assert!(bus.groups(1).expect("running").is_synced(), "all tables are there");
        bus.settle();
        let data = |client| {
            let frames = bus.inbox[client].iter();
            frames.filter(|r| matches!(r, Received::Frame(f) if f.kind() == Kind::Data)).count()
        };
        clients.each_ref().map(data)
    };
    both("Generation", deliveries, &[1, 1, 1], &[2, 2, 2]);
}

/// Two daemons leave a view in different transitional configurations, and the group goes on counting in both: see
/// `sides_that_left_a_view_apart_are_different_sets`.
#[test]
fn the_id_alone_does_not_tell_who_was_together() {
    let sets = || {
        let mut bus = Bus::new(&[("n1", 1), ("n2", 2), ("n3", 3)], &[&[0, 1], &[2]]);
        let [a, b] = ["#a#n1", "#b#n2"].map(|name| bus.connect(name, true));
        bus.join(&b, &group());
        bus.settle();
        // Behind a SAFE message that is not stable: the join is delivered in transition.
        bus.multicast(&a, 0x20, &[GroupName::new(b"other").expect("a name")], 0, b"");
        bus.join(&a, &group());
        bus.turn(0, usize::MAX);
        bus.heal();
        bus.reform_without(1);
        bus.reform();
        bus.settle();
        let Some(Received::Frame(view)) = bus.inbox[&a].last() else { panic!("no view") };
        Membership::decode(view).expect("a view").0.sets.len()
    };
    both("Parted", sets, &2, &1);
}
