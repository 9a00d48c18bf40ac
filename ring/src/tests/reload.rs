//! Changes of an engine that runs.

use std::sync::Arc;
use std::time::Duration;

use super::net::{Net, Seen, ms};
use crate::config::{RingConfig, Timers, Windows};
use crate::live::{Membership, successor};
use crate::types::{NodeId, Service};

const HASH: [u8; 16] = [8; 16];

fn numbers(list: &[Option<u16>]) -> Vec<Option<NodeId>> {
    list.iter().map(|node| node.map(NodeId)).collect()
}

/// Changes over the engine on `node` as the layer above does: all members of the ring at the same place.
fn change(net: &mut Net, node: usize, me: u16, nodes: usize, list: &[Option<u16>]) {
    let numbers = numbers(list);
    let now = net.now;
    let ring = net.ring(node);
    let (id, members) = ring.configuration();
    let successor = successor(id, members, &numbers, &HASH).unwrap();
    let cfg = Arc::new(RingConfig::new(NodeId(me), vec![0; nodes], HASH));
    ring.reconfigure(now, cfg, &numbers, successor).unwrap();
    assert_eq!(ring.invariants(), Ok(()));
    net.drain(node);
}

fn memberships(net: &Net, node: usize) -> Vec<(char, Vec<u16>)> {
    let seen = net.seen[node].iter().filter_map(|seen| match seen {
        Seen::Message { .. } => None,
        Seen::Transitional { members, .. } => Some(('T', members.clone())),
        Seen::Regular { members, .. } => Some(('R', members.clone())),
    });
    seen.collect()
}

/// The numbers that a test uses are places in `net`; engines of another order cannot live in one `Net`, so these
/// tests keep the numbers of those that stay.
#[test]
fn those_that_stay_go_on_together() {
    let mut net = Net::new(3);
    // The fourth does not run yet.
    net.filter = Box::new(|hop| hop.to < 3);
    net.settle(&[0, 1, 2], ms(3000));
    for node in 0..3 {
        net.submit(node, Service::Agreed, b"before");
    }
    net.run(ms(100));
    for node in 0..3 {
        net.seen[node].clear();
        change(&mut net, node, u16::try_from(node).unwrap(), 4, &[Some(0), Some(1), Some(2)]);
    }
    net.run(ms(1000));
    for node in 0..3 {
        let all = vec![0, 1, 2];
        assert_eq!(memberships(&net, node), [('T', all.clone()), ('R', all)], "node {node}");
        assert_eq!(net.ring(node).condition().state, Membership::Operational);
        net.submit(node, Service::Safe, b"after");
    }
    net.run(ms(200));
    for node in 0..3 {
        let messages = net.seen[node].iter().filter(|seen| matches!(seen, Seen::Message { .. })).count();
        assert_eq!(messages, 3, "node {node}");
        assert_eq!(net.ring(node).stats().peers.len(), 4);
    }
}

#[test]
fn one_that_is_not_configured_any_more_stays_outside() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    for node in 0..2 {
        net.seen[node].clear();
        change(&mut net, node, u16::try_from(node).unwrap(), 2, &[Some(0), Some(1), None]);
    }
    net.seen[2].clear();
    net.run(ms(2000));
    for node in 0..2 {
        assert_eq!(memberships(&net, node), [('T', vec![0, 1]), ('R', vec![0, 1])], "node {node}");
    }
    assert_eq!(memberships(&net, 2).last(), Some(&('R', vec![2])));
}

#[test]
fn one_that_misses_the_change_comes_back_when_it_changes_over_alone() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    for node in 0..2 {
        change(&mut net, node, u16::try_from(node).unwrap(), 3, &[Some(0), Some(1), Some(2)]);
    }
    net.run(ms(2000));
    assert_eq!(memberships(&net, 0).last(), Some(&('R', vec![0, 1])));
    assert_eq!(memberships(&net, 2).last(), Some(&('R', vec![2])));
    change(&mut net, 2, 2, 3, &[Some(0), Some(1), Some(2)]);
    net.run(ms(3000));
    for node in 0..3 {
        assert_eq!(memberships(&net, node).last(), Some(&('R', vec![0, 1, 2])), "node {node}");
    }
}

#[test]
fn a_change_in_the_middle_of_a_membership_change_is_possible() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    net.stop(2);
    let (id, members) = net.ring(0).configuration();
    let members = members.to_vec();
    let end = net.now + ms(5000);
    // Until the token is lost and the members gather.
    while net.ring(0).is_operational() {
        assert!(net.step(end), "the ring never broke");
    }
    for node in 0..2 {
        net.seen[node].clear();
        let list = numbers(&[Some(0), Some(1), Some(2)]);
        let successor = successor(id, &members, &list, &HASH).unwrap();
        let cfg = RingConfig::new(NodeId(u16::try_from(node).unwrap()), vec![0; 3], HASH);
        let now = net.now;
        net.ring(node).reconfigure(now, Arc::new(cfg), &list, successor).unwrap();
        net.drain(node);
    }
    net.run(ms(2000));
    for node in 0..2 {
        assert_eq!(memberships(&net, node), [('T', vec![0, 1]), ('R', vec![0, 1])], "node {node}");
    }
}

#[test]
fn numbers_of_those_that_stay_may_change() {
    let members: Vec<_> = [(0, 5), (2, 7), (3, 6)]
        .map(|(node, session)| crate::types::Mid { node: NodeId(node), session })
        .into();
    let of = crate::types::ConfId { epoch: 100, rep: NodeId(0), nonce: 3 };
    let list = numbers(&[None, None, Some(4), Some(1)]);
    let next = successor(of, &members, &list, &HASH).unwrap();
    let got: Vec<_> = next.members.iter().map(|mid| (mid.node.0, mid.session)).collect();
    assert_eq!(got, [(1, 6), (4, 7)]);
    assert_eq!((next.id.rep, next.id.epoch % 2), (NodeId(1), 0));
    assert!(next.id.epoch > of.epoch && next.id.nonce != of.nonce);
    assert_eq!(successor(of, &members, &numbers(&[None; 4]), &HASH), None);
}

#[test]
fn impossible_changes_change_nothing() {
    let mut net = Net::new(2);
    net.settle(&[0, 1], ms(3000));
    let now = net.now;
    let ring = net.ring(0);
    let (id, members) = ring.configuration();
    let list = numbers(&[Some(0), Some(1)]);
    let next = successor(id, members, &list, &HASH).unwrap();
    let before = ring.condition();
    let cfg = |me: u16, nodes: usize| Arc::new(RingConfig::new(NodeId(me), vec![0; nodes], HASH));
    assert!(ring.reconfigure(now, cfg(0, 1), &list, next.clone()).is_err());
    assert!(ring.reconfigure(now, cfg(0, 200), &list, next.clone()).is_err());
    assert!(ring.reconfigure(now, cfg(2, 3), &list, next).is_err());
    let mut timers = Timers::lan();
    timers.token = Duration::ZERO;
    assert!(ring.set_timers(timers).is_err());
    assert_eq!(ring.condition(), before);
}

#[test]
fn windows_change_in_a_ring_that_runs() {
    let mut net = Net::new(2);
    net.settle(&[0, 1], ms(3000));
    for node in 0..2 {
        net.ring(node).set_windows(Windows { window: Some(50), personal: Some(7), accelerated: Some(3) });
    }
    net.submit(1, Service::Agreed, b"x");
    net.run(ms(300));
    for node in 0..2 {
        let condition = net.ring(node).condition();
        assert_eq!((condition.window, condition.personal, condition.accelerated), (50, 7, Some(3)), "{node}");
    }
}
