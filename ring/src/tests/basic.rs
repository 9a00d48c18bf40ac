//! Forming, ordering, repair, idle ring.

use std::time::Duration;

use crate::rng::Rng;
use crate::tests::net::{Net, Seen, ms};
use crate::types::Service;

#[test]
fn three_form_one_ring_and_deliver_in_one_order() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(2000));
    for round in 0..50u8 {
        for node in 0..3u8 {
            net.submit(node.into(), Service::Agreed, &[node, round]);
        }
    }
    net.run(ms(200));
    let first = net.bodies(0);
    assert_eq!(first.len(), 150);
    assert_eq!(net.bodies(1), first);
    assert_eq!(net.bodies(2), first);
}

#[test]
fn one_configured_daemon_delivers_at_once_without_packets() {
    let mut net = Net::new(1);
    net.submit(0, Service::Safe, b"a");
    net.run(ms(1000));
    net.submit(0, Service::Agreed, b"b");
    assert_eq!(net.bodies(0), [b"a", b"b"]);
    assert_eq!(net.packets, 0);
    assert!(matches!(net.seen[0][0], Seen::Regular { .. }));
}

#[test]
fn lost_packets_are_repaired_and_lost_tokens_sent_again() {
    let mut net = Net::new(4);
    net.settle(&[0, 1, 2, 3], ms(2000));
    net.loss = 100;
    for round in 0..200u16 {
        for node in 0..4u8 {
            let service = if round % 7 == 0 { Service::Safe } else { Service::Agreed };
            let mut body = vec![node; 700];
            body.extend(round.to_le_bytes());
            net.submit(node.into(), service, &body);
        }
        net.run(ms(2));
    }
    net.run(ms(1000));
    let first = net.bodies(0);
    assert_eq!(first.len(), 800);
    for node in 1..4 {
        assert!(net.bodies(node) == first, "node {node}");
    }
    assert_eq!(net.count_regular(0), 2, "{:?}", net.rings_now());
}

#[test]
fn an_idle_ring_sends_few_packets_and_wakes_fast() {
    let mut net = Net::new(5);
    net.settle(&[0, 1, 2, 3, 4], ms(2000));
    net.run(ms(1000));
    let before = net.packets;
    net.run(ms(1000));
    let idle = net.packets - before;
    assert!(idle < 5 * 20 + 8 * 10, "{idle} packets in a second");
    let before = net.now;
    net.submit(3, Service::Agreed, b"wake");
    while net.bodies(0).is_empty() {
        assert!(net.step(before + ms(10)));
    }
    // Request, jump, data: three hops.
    assert!(net.now.since(before) <= net.delay * 3, "{:?}", net.now.since(before));
}

#[test]
fn a_partition_splits_and_heals() {
    let mut net = Net::new(4);
    net.settle(&[0, 1, 2, 3], ms(2000));
    net.filter = Box::new(|hop| (hop.from < 2) == (hop.to < 2));
    net.settle(&[0, 1], ms(2000));
    net.settle(&[2, 3], ms(2000));
    net.submit(0, Service::Safe, b"left");
    net.submit(3, Service::Safe, b"right");
    net.run(ms(100));
    assert_eq!(net.bodies(1), [b"left"]);
    assert_eq!(net.bodies(2), [b"right"]);
    net.filter = Box::new(|_| true);
    net.settle(&[0, 1, 2, 3], ms(5000));
}

#[test]
fn a_crashed_member_is_replaced_by_its_next_life() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(2000));
    net.stop(0);
    net.settle(&[1, 2], ms(1500));
    net.start(0);
    net.settle(&[0, 1, 2], ms(5000));
    net.start(1);
    net.settle(&[0, 1, 2], ms(8000));
}

#[test]
fn a_leaving_member_is_out_at_once() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(2000));
    net.submit(1, Service::Agreed, b"last words");
    net.leave(1);
    let before = net.now;
    net.settle(&[0, 2], ms(300));
    assert!(net.now.since(before) < ms(150), "{:?}", net.now.since(before));
    assert_eq!(net.bodies(0), [b"last words"]);
    net.run(ms(100));
    assert!(net.ring(1).is_gone());
    assert_eq!(net.ring(1).poll_timeout(), None);
}

/// However long ago the last message was: the token is on its way, or comes when asked for.
#[test]
fn a_single_message_is_delivered_in_a_few_hops_at_any_time() {
    let mut net = Net::new(4);
    net.settle(&[0, 1, 2, 3], ms(2000));
    net.run(ms(500));
    let mut rng = Rng::new([4; 32], 1);
    let (mut sum, mut worst, count) = (Duration::ZERO, Duration::ZERO, 2000);
    for _ in 0..count {
        net.run(Duration::from_micros(rng.next() % 4000));
        let (from, to) = (rng.next() % 4, rng.next() % 4);
        let seen = net.seen[to as usize].len();
        let before = net.now;
        net.submit(from as usize, Service::Agreed, b"m");
        while net.seen[to as usize].len() == seen {
            assert!(net.step(before + ms(100)));
        }
        let time = net.now.since(before);
        (sum, worst) = (sum + time, worst.max(time));
        net.run(ms(1));
    }
    assert!(worst <= net.delay * 12, "{worst:?}");
    assert!(sum / count <= net.delay * 4, "{:?}", sum / count);
}
