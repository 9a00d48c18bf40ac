//! Rings of daemons with different optional abilities, and of different wire versions.

use std::cell::RefCell;
use std::rc::Rc;

use crate::features::{FEATURE_ACKS, FEATURE_PARK, FEATURES};
use crate::tests::net::{Net, ms};
use crate::types::Service;
use crate::wire::Kind;

/// Receiver, sender and bytes of a packet.
type Taken = (usize, usize, Vec<u8>);

/// Three daemons, of which the last has only these abilities; it never sends or gets what it has not.
fn with_old_one(features: u32) -> Net {
    let mut net = Net::with(3, |cfg| {
        if cfg.me.0 == 2 {
            cfg.features = features;
        }
    });
    net.filter = Box::new(move |hop| {
        let needs = match hop.kind {
            Kind::Ack => FEATURE_ACKS,
            Kind::TokenRequest => FEATURE_PARK,
            _ => 0,
        };
        let old = hop.from == 2 || hop.to == 2;
        assert!(!old || needs & features == needs, "{:?} from {} to {}", hop.kind, hop.from, hop.to);
        true
    });
    net.settle(&[0, 1, 2], ms(3000));
    net
}

fn traffic(net: &mut Net, round: u8) {
    let before: Vec<usize> = (0..3).map(|node| net.bodies(node).len()).collect();
    for node in 0..3u8 {
        net.submit(node.into(), Service::Safe, &[node, round]);
        net.run(ms(20));
        net.submit(node.into(), Service::Agreed, &[node, round]);
    }
    net.run(ms(500));
    for (node, before) in before.into_iter().enumerate() {
        assert_eq!(net.bodies(node).len(), before + 6, "round {round}, node {node}");
    }
}

#[test]
fn a_ring_runs_at_what_all_members_have() {
    for features in [0, FEATURE_ACKS, FEATURE_PARK, FEATURES] {
        let mut net = with_old_one(features);
        for node in 0..3 {
            assert_eq!(net.ring(node).features(), features, "node {node}");
        }
        traffic(&mut net, 1);
        net.run(ms(1000));
        traffic(&mut net, 2);
        let acks: u64 = (0..3).map(|node| net.ring(node).stats().acks_sent).sum();
        let parked: u64 = (0..3).map(|node| net.ring(node).stats().parked).sum();
        assert_eq!(acks > 0, features & FEATURE_ACKS != 0, "{acks} acks");
        assert_eq!(parked > 0, features & FEATURE_PARK != 0, "the token rested {parked} times");
    }
}

/// One daemon after the other is replaced by one with all abilities, while messages flow.
#[test]
fn a_rolling_upgrade_gains_the_abilities_with_the_last_daemon() {
    let mut net = Net::with(3, |cfg| cfg.features = 0);
    net.settle(&[0, 1, 2], ms(3000));
    for node in 0..3 {
        traffic(&mut net, node as u8);
        net.leave(node);
        net.run(ms(300));
        let rest: Vec<u16> = (0..3).filter(|other| *other != node as u16).collect();
        net.settle(&rest, ms(3000));
        net.change(node, |cfg| cfg.features = FEATURES);
        net.start(node);
        net.settle(&[0, 1, 2], ms(5000));
        let expected = if node == 2 { FEATURES } else { 0 };
        for other in 0..3 {
            assert_eq!(net.ring(other).features(), expected, "after {node}, at {other}");
        }
    }
    net.submit(0, Service::Safe, b"end");
    net.run(ms(200));
    for node in 0..3 {
        assert_eq!(net.bodies(node).last().unwrap(), b"end");
    }
}

/// A later version may have more abilities; what is not known here is left alone.
#[test]
fn unknown_abilities_are_ignored() {
    let mut net = Net::with(2, |cfg| cfg.features = u32::MAX);
    net.settle(&[0, 1], ms(3000));
    assert_eq!(net.ring(0).features(), FEATURES);
}

#[test]
fn another_wire_version_stays_outside() {
    let mut net = Net::new(3);
    // What node 2 sends and gets is of a version that the others do not know.
    let between: Rc<RefCell<Vec<Taken>>> = Rc::default();
    let taken = Rc::clone(&between);
    net.filter = Box::new(move |hop| {
        let other = hop.from == 2 || hop.to == 2;
        if other {
            taken.borrow_mut().push((hop.to, hop.from, hop.packet.to_vec()));
        }
        !other
    });
    for _ in 0..300 {
        net.run(ms(10));
        let packets = std::mem::take(&mut *between.borrow_mut());
        for (to, from, mut packet) in packets {
            packet[2] = 2;
            net.inject(to, from, packet.into());
        }
    }
    net.settle(&[0, 1], ms(1000));
    net.settle(&[2], ms(1000));
    assert!(net.ring(0).stats().drops.decode > 0 && net.ring(2).stats().drops.decode > 0);
    net.submit(0, Service::Safe, b"x");
    net.run(ms(200));
    assert_eq!(
        (net.bodies(0), net.bodies(1), net.bodies(2)),
        (vec![b"x".to_vec()], vec![b"x".to_vec()], vec![])
    );
}
