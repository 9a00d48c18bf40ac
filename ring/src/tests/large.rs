//! Rings of many members: control packets in pieces, acks off, the window.

use crate::config::Timers;
use crate::tests::net::{Net, ms};
use crate::types::Service;

#[test]
fn sixty_daemons_form_a_ring_and_lose_a_third_of_it() {
    let mut net = Net::new(60);
    let all: Vec<u16> = (0..60).collect();
    net.settle(&all, ms(5_000));
    for node in 0..60 {
        net.submit(node, Service::Safe, &[node as u8; 3000]);
    }
    net.run(ms(1_000));
    let first = net.bodies(0);
    assert_eq!(first.len(), 60);
    assert!((1..60).all(|node| net.bodies(node) == first));
    for node in 20..40 {
        net.stop(node);
    }
    let rest: Vec<u16> = (0..20).chain(40..60).collect();
    net.settle(&rest, ms(5_000));
}

#[test]
fn a_wide_area_ring_works_with_its_times() {
    let mut net = Net::with(4, |cfg| cfg.timers = Timers::wan());
    net.delay = ms(40);
    net.settle(&[0, 1, 2, 3], ms(20_000));
    net.loss = 10;
    for round in 0..50u8 {
        for node in 0..4 {
            net.submit(node, Service::Agreed, &[round, node as u8]);
        }
        net.run(ms(100));
    }
    net.run(ms(3_000));
    assert_eq!(net.bodies(3).len(), 200);
    assert_eq!(net.bodies(3), net.bodies(0));
    assert_eq!(net.count_regular(0), 2);
}

/// Two members send all the time, a third one nothing: what waits at both goes out evenly.
#[test]
fn senders_share_the_ring() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3_000));
    for _ in 0..2000 {
        net.submit(0, Service::Agreed, &[0; 1300]);
        net.submit(1, Service::Agreed, &[1; 1300]);
    }
    while net.bodies(2).len() < 1000 {
        assert!(net.step(net.now + ms(1000)));
    }
    let from_one = net.bodies(2).iter().filter(|body| body[0] == 1).count();
    assert!((400..600).contains(&from_one), "{from_one} of 1000");
    net.run(ms(1000));
    assert_eq!(net.bodies(2).len(), 4000);
}
