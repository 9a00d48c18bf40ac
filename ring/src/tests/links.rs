//! Links that work one way only: who says what about them, and that the ring comes to rest.

use crate::tests::net::{Net, ms};
use crate::types::{NodeId, Service};

#[test]
fn all_sides_know_which_link_is_deaf() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    for node in 0..3 {
        assert_eq!(net.ring(node).deaf_links(), [], "node {node}");
    }
    // Node 0 does not hear node 2; node 1 hears and is heard by both.
    net.filter = Box::new(|hop| (hop.from, hop.to) != (2, 0));
    net.run(ms(30_000));
    for node in 0..3 {
        assert_eq!(net.ring(node).deaf_links(), [(NodeId(0), NodeId(2))], "node {node}");
    }
    let installs = |net: &mut Net| (0..3).map(|node| net.ring(node).stats().installs).sum::<u64>();
    let before = installs(&mut net);
    net.run(ms(30_000));
    assert_eq!(installs(&mut net), before, "{:?}", net.rings_now());
    net.filter = Box::new(|_| true);
    net.settle(&[0, 1, 2], ms(70_000));
    net.run(ms(1000));
    assert_eq!(net.ring(1).deaf_links(), []);
    net.submit(2, Service::Safe, b"x");
    net.run(ms(200));
    assert_eq!(net.bodies(0).last().unwrap(), b"x");
}

#[test]
fn who_is_not_heard_at_all_is_told_by_those_who_are() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    // Nobody hears node 2, which hears all.
    net.filter = Box::new(|hop| hop.from != 2);
    net.run(ms(10_000));
    assert_eq!(net.ring(2).deaf_links(), [(NodeId(0), NodeId(2)), (NodeId(1), NodeId(2))]);
    assert_eq!(net.ring(0).deaf_links(), [], "a daemon that is not heard may be down");
    net.settle(&[0, 1], ms(1000));
}
