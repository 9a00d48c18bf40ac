//! Networks with one fault: cuts, lost tokens, sizes that do not pass (`ring-protocol` 4.2, 4.8).

use std::cell::Cell;
use std::rc::Rc;

use crate::api::{Class, Path, SubmitError};
use crate::tests::net::{Net, Seen, ms};
use crate::types::{NodeId, Service};
use crate::wire::{Content, Kind, Packet};

fn regulars(net: &Net) -> usize {
    (0..net.seen.len()).map(|node| net.count_regular(node)).sum()
}

#[test]
fn a_chain_of_three_is_quiet() {
    let mut net = Net::new(3);
    net.filter = Box::new(|hop| hop.from.abs_diff(hop.to) != 2);
    net.run(ms(3000));
    let before = regulars(&net);
    net.run(ms(10_000));
    assert_eq!(regulars(&net), before, "{:?}", net.rings_now());
    assert!(before <= 9, "{before} configurations of three nodes");
    let pairs = net.rings_now().iter().filter(|ring| ring.contains(", ")).count();
    assert_eq!(pairs, 2, "{:?}", net.rings_now());
}

#[test]
fn a_ring_that_becomes_a_chain_splits_once() {
    let mut net = Net::new(5);
    net.settle(&[0, 1, 2, 3, 4], ms(3000));
    net.run(ms(11_000));
    let before = regulars(&net);
    // 0-1 and 3-4 are cut.
    net.filter = Box::new(|hop| !matches!((hop.from, hop.to), (0, 1) | (1, 0) | (3, 4) | (4, 3)));
    net.run(ms(20_000));
    let split = regulars(&net) - before;
    net.run(ms(70_000));
    assert_eq!(regulars(&net), before + split, "{:?}", net.rings_now());
    assert!(split <= 12, "{split}");
}

#[test]
fn a_one_way_link_keeps_the_pair_apart() {
    let mut net = Net::new(2);
    net.filter = Box::new(|hop| hop.from == 0);
    net.run(ms(5000));
    assert_eq!(regulars(&net), 4, "each one alone, twice");
    net.filter = Box::new(|_| true);
    net.settle(&[0, 1], ms(2000));
}

/// R4 to R6: the commit token is lost at each hop, once, or for so long that the attempt fails.
#[test]
fn a_commit_token_lost_at_any_hop_is_repeated_or_the_attempt_repeated() {
    for hop in 1..=8u16 {
        for losses in [1, 200] {
            let mut net = Net::new(4);
            let left = Rc::new(Cell::new(losses));
            let count = left.clone();
            net.filter = Box::new(move |seen| {
                if seen.kind != Kind::Commit || count.get() == 0 {
                    return true;
                }
                let Ok(Packet { content: Content::Commit(commit), .. }) = Packet::check(seen.packet) else {
                    return true;
                };
                let lost = commit.hop == hop && commit.members.len() == 4;
                count.set(count.get() - u32::from(lost));
                !lost
            });
            net.run(ms(if losses == 1 { 1000 } else { 4000 }));
            assert!(left.get() < losses, "hop {hop}: nothing was lost");
            if losses == 1 {
                net.settle(&[0, 1, 2, 3], ms(1));
                assert_eq!(net.count_regular(0), 2, "hop {hop}: the token was repeated");
            } else {
                left.set(0);
                net.settle(&[0, 1, 2, 3], ms(20_000));
            }
        }
    }
}

/// A filter that forgets the token's port: the member behind it is blamed, the others go on in peace.
#[test]
fn a_member_that_tokens_do_not_reach_is_blamed() {
    let mut net = Net::new(4);
    net.filter = Box::new(|hop| !(hop.class == Class::Token && hop.to == 2));
    net.settle(&[0, 1, 3], ms(10_000));
    assert!(net.ring(0).stats().blames + net.ring(1).stats().blames + net.ring(3).stats().blames > 0);
    net.submit(1, Service::Safe, b"on");
    net.run(ms(50));
    assert_eq!(net.bodies(3), [b"on"]);
    net.run(ms(5_000));
    let before = regulars(&net);
    net.run(ms(120_000));
    assert_eq!(regulars(&net), before);
}

#[test]
fn a_member_that_receives_no_data_is_failed_by_the_others() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    net.filter = Box::new(|hop| !(hop.kind == Kind::Data && hop.to == 1));
    net.submit(0, Service::Safe, b"one");
    net.run(ms(300));
    assert_eq!(net.bodies(2), [b""; 0], "not safe while 1 lacks it");
    net.settle(&[0, 2], ms(3000));
    assert_eq!(net.bodies(2), [b"one"]);
    assert!(net.ring(0).stats().gathers[crate::stats::Cause::FailedToReceive as usize] > 0);
}

#[test]
fn a_forgotten_multicast_group_slows_the_ring_and_does_not_stop_it() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    net.run(ms(2000));
    assert!(net.ring(0).links.multicast);
    net.filter = Box::new(|hop| !(hop.path == Path::Multicast && hop.to == 2));
    for round in 0..60u8 {
        net.submit(0, Service::Agreed, &[round; 500]);
        net.run(ms(50));
    }
    assert!(!net.ring(0).links.multicast && !net.ring(1).links.multicast);
    assert_eq!(net.bodies(2).len(), 60);
    assert_eq!(net.count_regular(0), 2);
    net.filter = Box::new(|_| true);
    net.run(ms(2000));
    assert!(net.ring(0).links.multicast, "and it comes back");
}

#[test]
fn a_tunnel_that_eats_long_packets_is_found_out() {
    let mut net = Net::new(3);
    net.filter = Box::new(|hop| !((hop.to == 2 || hop.from == 2) && hop.packet.len() > 1300));
    net.settle(&[0, 1, 2], ms(3000));
    net.run(ms(6000));
    assert_eq!(net.ring(0).links.packet_len, 1200);
    for round in 0..20u8 {
        net.submit(0, Service::Safe, &[round; 5000]);
    }
    net.run(ms(1000));
    assert_eq!(net.bodies(2).len(), 20);
}

#[test]
fn a_dead_member_costs_t_token_and_little_more() {
    let mut net = Net::new(8);
    net.settle(&[0, 1, 2, 3, 4, 5, 6, 7], ms(3000));
    net.run(ms(1000));
    net.stop(3);
    net.submit(5, Service::Agreed, b"x");
    let start = net.now;
    net.settle(&[0, 1, 2, 4, 5, 6, 7], ms(2000));
    assert!(net.now.since(start) < ms(600), "{:?}", net.now.since(start));
    net.run(ms(10));
    assert_eq!(net.bodies(0), [b"x"]);
}

#[test]
fn daemons_that_start_together_form_one_ring_soon() {
    let mut net = Net::new(8);
    let start = net.now;
    net.settle(&[0, 1, 2, 3, 4, 5, 6, 7], ms(1000));
    assert!(net.now.since(start) < ms(300), "{:?}", net.now.since(start));
    assert_eq!(net.count_regular(0), 2, "itself, then all");
}

#[test]
fn a_daemon_that_comes_later_joins_soon() {
    let mut net = Net::new(3);
    net.stop(2);
    net.settle(&[0, 1], ms(1000));
    net.run(ms(12_000));
    net.start(2);
    let start = net.now;
    net.settle(&[0, 1, 2], ms(1000));
    assert!(net.now.since(start) < ms(300), "{:?}", net.now.since(start));
    assert_eq!(net.count_regular(0), 3);
}

#[test]
fn a_long_message_goes_in_many_packets() {
    let mut net = Net::new(3);
    net.settle(&[0, 1, 2], ms(3000));
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    net.submit(1, Service::Agreed, b"before");
    net.submit(1, Service::Fifo, &body);
    net.submit(1, Service::Safe, b"after");
    net.run(ms(500));
    let got = net.bodies(2);
    assert_eq!(got.len(), 3);
    assert!(got[1] == body && got[2] == b"after");
    assert!(matches!(net.seen[2].last(), Some(Seen::Message { sender: 1, service: Service::Safe, .. })));
    assert_eq!(net.count_regular(0), 2);
}

#[test]
fn a_full_queue_refuses_and_says_when_there_is_room() {
    let mut net = Net::with(2, |cfg| cfg.limits.submit_count_max = 10);
    net.settle(&[0, 1], ms(3000));
    net.run(ms(1000));
    let now = net.now;
    let body = || crate::api::Body::One(bytes::Bytes::from_static(b"m"));
    let ring = net.ring(1);
    for _ in 0..10 {
        ring.submit(now, Service::Agreed, body()).unwrap();
    }
    assert_eq!(ring.submit(now, Service::Agreed, body()), Err(SubmitError::Full));
    let too_long = crate::api::Body::One(vec![0; (16 << 20) + 1].into());
    assert!(matches!(ring.submit(now, Service::Agreed, too_long), Err(SubmitError::TooLarge { .. })));
    let mut writable = 0;
    let end = net.now + ms(100);
    net.drain(1);
    while net.step(end) {
        writable += usize::from(!net.ring(1).refused);
    }
    assert!(writable > 0);
    assert_eq!(net.bodies(0).len(), 10);
    net.ring(1).leave(now);
    assert_eq!(net.ring(1).submit(now, Service::Agreed, body()), Err(SubmitError::Leaving));
}

/// A driver that takes no events: delivery pauses, the ring waits, and in the end does without.
#[test]
fn a_driver_that_takes_no_events_stops_the_ring_for_a_while_only() {
    let mut net = Net::with(3, |cfg| cfg.limits.submit_count_max = 1 << 20);
    net.settle(&[0, 1, 2], ms(3000));
    net.run(ms(500));
    net.deaf = Some(2);
    for _ in 0..40 {
        for _ in 0..1000 {
            net.submit(0, Service::Agreed, b"many");
        }
        net.run(ms(10));
    }
    assert!(net.ring(2).paused);
    assert!(net.ring(2).events.len() < crate::ring::EVENTS_MAX + 1000);
    net.run(ms(100));
    net.settle(&[0, 1], ms(4000));
    net.run(ms(100));
    assert_eq!(net.bodies(0).len(), 40_000);
    assert!(net.ring(2).is_gone() && net.ring(2).stats().stalls == 1);
}

#[test]
fn a_slow_driver_loses_nothing() {
    let mut net = Net::with(2, |cfg| cfg.limits.submit_count_max = 1 << 20);
    net.settle(&[0, 1], ms(3000));
    net.run(ms(500));
    net.deaf = Some(1);
    for _ in 0..30 {
        for _ in 0..1000 {
            net.submit(0, Service::Agreed, b"many");
        }
        net.run(ms(10));
    }
    assert!(net.ring(1).paused);
    net.deaf = None;
    net.drain(1);
    net.run(ms(500));
    assert_eq!(net.bodies(1).len(), 30_000);
    assert_eq!(net.count_regular(1), 2);
}

#[test]
fn leaving_in_the_middle_of_forming_ends() {
    for time in 0..60 {
        let mut net = Net::new(3);
        net.run(ms(time * 5));
        net.leave(1);
        net.settle(&[0, 2], ms(3000));
        net.run(ms(600));
        assert!(net.ring(1).is_gone(), "after {} ms", time * 5);
    }
}

#[test]
fn packets_of_another_configuration_are_dropped() {
    let mut net = Net::new(2);
    net.filter = Box::new(|_| false);
    let mut packets = Vec::new();
    let other = Net::with(2, |cfg| cfg.hash = [8; 16]);
    drop(other);
    let mut header = bytes::BytesMut::new();
    let ring = net.ring(1);
    ring.write_header(Kind::Presence, 0, &mut header);
    packets.push(header.freeze());
    for packet in packets {
        let mut bytes = bytes::BytesMut::from(packet.as_ref());
        bytes[4] ^= 1;
        net.inject(0, 1, bytes.freeze());
    }
    assert_eq!(net.ring(0).stats().drops.hash, 1);
    let mut own = bytes::BytesMut::new();
    net.ring(0).write_header(Kind::Presence, 0, &mut own);
    net.inject(0, 0, own.clone().freeze());
    net.inject(0, 1, own.freeze());
    assert_eq!(net.ring(0).stats().drops.sender, 2, "own packets, and a sender of another address");
    assert!(net.ring(0).heard().is_empty());
    assert_eq!(net.ring(0).me().node, NodeId(0));
}

/// Daemons that do not want me (a penalty that I know nothing of) must not take my ring apart at each sign of
/// life of theirs.
#[test]
fn a_merge_that_is_not_answered_is_not_tried_again_at_once() {
    let mut net = Net::new(3);
    net.stop(2);
    net.settle(&[0, 1], ms(1000));
    net.start(2);
    let now = net.now;
    for node in 0..2 {
        let ring = net.ring(node);
        for _ in 0..5 {
            ring.punish(NodeId(2));
        }
    }
    net.run(ms(9_000));
    assert!(net.count_regular(2) <= 6, "{} configurations of a daemon alone", net.count_regular(2));
    assert_eq!(net.count_regular(0), 2);
    net.settle(&[0, 1, 2], ms(60_000));
    assert!(net.now.since(now) > ms(16_000));
}

/// A member dies and is back at once, and one of the others notices it later: they stay together.
#[test]
fn a_quick_restart_does_not_divide_the_others() {
    for time in 0..60u64 {
        for down in [0, 30, 100, 250] {
            for node in 0..3usize {
                let mut net = Net::new(3);
                net.settle(&[0, 1, 2], ms(2000));
                net.run(ms(500 + time * 3));
                net.loss = 10;
                let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
                let before: Vec<usize> = others.iter().map(|other| net.seen[*other].len()).collect();
                net.stop(node);
                for other in &others {
                    net.submit(*other, Service::Safe, b"load");
                }
                net.run(ms(down));
                let late = others[time as usize % 2];
                net.filter = Box::new(move |hop| (hop.from, hop.to) != (node, late));
                net.start(node);
                net.run(ms(time));
                net.filter = Box::new(|_| true);
                net.run(ms(600));
                for (other, before) in others.iter().zip(before) {
                    let new = &net.seen[*other][before..];
                    let alone = new
                        .iter()
                        .any(|seen| matches!(seen, Seen::Regular { members, .. } if members.len() == 1));
                    assert!(!alone, "{node} down for {down} at {time}: {other} was alone: {new:?}");
                }
                net.settle(&[0, 1, 2], ms(5000));
            }
        }
    }
}
