//! Rules of normal operation where a fault would be silent (`ring-protocol` 3).

use crate::ring::Phase;
use crate::tests::lab::Lab;
use crate::tests::net::ms;
use crate::types::{NodeId, Service};
use crate::wire::Content;

fn ranges(token: &crate::wire::Token, requester: u16) -> Vec<(u64, u64, u8)> {
    let mine = token.requests.iter().filter(|r| r.requester == NodeId(requester));
    mine.map(|r| (r.start, r.end(), r.tries)).collect()
}

#[test]
fn only_packets_of_the_round_before_are_requested() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let mut t = lab.token();
    t.seq = base + 5;
    let t = lab.visit(0, &t);
    assert_eq!(ranges(&t, 1), [], "packets of this round may still be on their way");
    assert_eq!((t.aru, t.aru_id), (base, Some(NodeId(1))));
    let mut t = lab.token();
    t.seq = base + 8;
    t.aru_id = Some(NodeId(1));
    t.aru = base;
    lab.data(0, 0, base + 3, Service::Agreed, b"3");
    let t = lab.visit(0, &t);
    assert_eq!(ranges(&t, 1), [(base + 1, base + 2, 0), (base + 4, base + 5, 0)]);
    let requests = t.requests;
    let mut again = lab.token();
    (again.seq, again.requests) = (base + 8, requests);
    let t = lab.visit(0, &again);
    let wanted = [(base + 1, base + 2, 1), (base + 4, base + 5, 1), (base + 6, base + 8, 0)];
    assert_eq!(ranges(&t, 1), wanted, "own requests are renewed and counted");
}

#[test]
fn what_somebody_else_requests_is_not_requested_again() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let mut t = lab.token();
    t.seq = base + 4;
    lab.visit(0, &t);
    let mut t = lab.token();
    t.requests.push(lab.request(2, base + 2, 2, 0));
    let t = lab.visit(0, &t);
    assert_eq!(ranges(&t, 1), [(base + 1, base + 1, 0), (base + 4, base + 4, 0)]);
    assert_eq!(ranges(&t, 2), [(base + 2, base + 3, 0)], "what I do not have stays");
}

#[test]
fn requests_are_answered_before_anything_else_and_in_turn() {
    let mut lab = Lab::new(4, 1);
    let base = lab.ring.conf.high;
    for seq in [base + 1, base + 2, base + 4] {
        lab.data(0, 0, seq, Service::Agreed, b"x");
    }
    lab.submit(Service::Agreed, b"new");
    let mut t = lab.token();
    t.seq = base + 5;
    (t.aru, t.aru_id) = (base, Some(NodeId(3)));
    t.requests.push(lab.request(3, base + 1, 5, 0));
    let t = lab.visit(0, &t);
    let sent: Vec<u64> = lab.data_sent().iter().map(|d| d.head().seq).collect();
    assert_eq!(sent, [base + 1, base + 2, base + 4, base + 6]);
    let kinds: Vec<bool> = lab.out.iter().map(|(_, _, p)| matches!(p.content, Content::Token(_))).collect();
    assert_eq!(kinds, [false, false, false, true, false], "repairs, token, accelerated packet");
    assert_eq!(ranges(&t, 3), [(base + 3, base + 3, 0), (base + 5, base + 5, 0)]);
    // Tried before: the member after the requester answers, then the next one.
    for (tries, mine) in [(1, false), (2, true), (3, false), (4, false), (5, true)] {
        let mut t = lab.token();
        t.seq = base + 6;
        (t.aru, t.aru_id) = (base, Some(NodeId(3)));
        t.requests.push(lab.request(3, base + 1, 1, tries));
        lab.visit(0, &t);
        let resent = lab.data_sent().iter().any(|d| d.head().seq == base + 1);
        assert_eq!(resent, mine, "try {tries}");
    }
}

#[test]
fn a_repeated_token_changes_nothing_and_is_acknowledged() {
    let mut lab = Lab::new(3, 1);
    let t = lab.token();
    lab.visit(0, &t);
    lab.clear();
    let before = lab.ring.conf.last_ts;
    lab.wait(ms(1));
    lab.submit(Service::Agreed, b"waits");
    lab.put(0, crate::wire::Kind::Token, |out| t.write(out));
    assert!(lab.tokens().iter().all(|sent| sent.token_seq == t.token_seq + 1), "copies only");
    assert_eq!(lab.data_sent().len(), 0);
    assert_eq!(lab.ring.conf.last_ts, before);
    assert_eq!(lab.hop_acks().last().unwrap().hop, before);
}

#[test]
fn the_token_is_sent_again_until_there_is_evidence() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let t = lab.token();
    let sent = lab.visit(0, &t);
    lab.clear();
    lab.wait(ms(60));
    let copies = lab.tokens();
    assert!(copies.len() >= 2 && copies.iter().all(|copy| *copy == sent), "{}", copies.len());
    let mut head = lab.head(lab.ring.conf.id, 2, base + 1, Service::Agreed);
    head.token_seq = sent.token_seq - 1;
    let data = super::lab::chunk(head, Service::Agreed, b"old");
    lab.put(2, crate::wire::Kind::Data, |out| out.extend_from_slice(data.body()));
    assert!(lab.ring.copy.is_some(), "data of an earlier visit is no evidence");
    head.token_seq = sent.token_seq;
    head.seq = base + 2;
    let data = super::lab::chunk(head, Service::Agreed, b"new");
    lab.put(2, crate::wire::Kind::Data, |out| out.extend_from_slice(data.body()));
    lab.clear();
    lab.wait(ms(100));
    assert_eq!(lab.tokens().len(), 0);
}

#[test]
fn safe_needs_two_visits_or_reports_of_all() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 1, Service::Safe, b"s");
    lab.data(0, 0, base + 2, Service::Agreed, b"a");
    let mut t = lab.token();
    t.seq = base + 2;
    t.aru = base + 2;
    lab.visit(0, &t);
    assert_eq!(lab.story(), [""; 0], "one visit proves nothing");
    let mut t = lab.token();
    t.seq = base + 2;
    t.aru = base + 1;
    t.aru_id = Some(NodeId(2));
    lab.visit(0, &t);
    assert_eq!(lab.story(), ["s", "a"], "the smaller of two visits is safe");
    lab.clear();
    lab.data(0, 0, base + 3, Service::Safe, b"v");
    let ring = lab.ring.conf.key;
    let ack = |aru| crate::wire::Ack { ring, aru, safe: 0, token_seq: 0 };
    lab.put(0, crate::wire::Kind::Ack, |out| ack(base + 3).write(out));
    assert_eq!(lab.story(), [""; 0]);
    lab.put(2, crate::wire::Kind::Ack, |out| ack(base + 3).write(out));
    assert_eq!(lab.story(), ["v"], "all reported it");
}

#[test]
fn a_safe_message_holds_back_what_follows_but_not_what_precedes() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 1, Service::Agreed, b"1");
    lab.data(0, 0, base + 2, Service::Safe, b"2");
    lab.data(0, 0, base + 3, Service::Agreed, b"3");
    assert_eq!(lab.story(), ["1"]);
    let mut head = lab.head(lab.ring.conf.id, 0, base + 4, Service::Agreed);
    head.safe = base + 2;
    let data = super::lab::chunk(head, Service::Agreed, b"4");
    lab.put(0, crate::wire::Kind::Data, |out| out.extend_from_slice(data.body()));
    assert_eq!(lab.story(), ["1", "2", "3", "4"], "hearsay is a fact");
}

#[test]
fn an_ack_is_sent_for_safe_and_for_nothing_else() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let acks = |lab: &Lab| {
        lab.out.iter().filter(|(_, _, p)| matches!(p.content, Content::Ack(a) if a.aru > base)).count()
    };
    lab.data(0, 0, base + 1, Service::Agreed, b"a");
    lab.wait(ms(3));
    assert_eq!(acks(&lab), 0);
    lab.data(0, 0, base + 2, Service::Safe, b"s");
    lab.wait(ms(3));
    assert_eq!(acks(&lab), 1);
    lab.wait(ms(20));
    assert_eq!(acks(&lab), 1, "once");
}

#[test]
fn the_store_never_takes_what_it_cannot_hold() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let first = lab.ring.conf.store.released() + lab.ring.conf.store.capacity() + 1;
    lab.data(0, 0, first, Service::Agreed, b"far");
    assert_eq!(lab.ring.stats().drops.store_full, 1);
    assert_eq!(lab.ring.conf.high, base, "and learns nothing from it");
}

#[test]
fn nothing_above_safe_is_released() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    for seq in 1..=20 {
        lab.data(0, 0, base + seq, Service::Agreed, b"x");
    }
    assert_eq!(lab.events.len(), 20);
    assert_eq!(lab.ring.conf.store.held_in_slots(), 20);
    let mut t = lab.token();
    t.seq = base + 20;
    t.safe = base + 15;
    t.aru = base + 15;
    lab.visit(0, &t);
    assert_eq!(lab.ring.conf.store.held_in_slots(), 5);
}

#[test]
fn a_full_window_stops_new_packets() {
    let mut lab = Lab::new(3, 1);
    for _ in 0..300 {
        lab.submit(Service::Agreed, &[1; 1300]);
    }
    let mut t = lab.token();
    t.window = 50;
    t.fcc = 45;
    let t = lab.visit(0, &t);
    assert_eq!(lab.data_sent().len(), 5);
    assert_eq!((t.fcc, t.last_sender), (50, NodeId(1)));
    assert!(t.backlog > 250);
    let mut t2 = lab.token();
    (t2.window, t2.fcc, t2.backlog, t2.credit_last) = (50, 50, t.backlog, 3);
    let t = lab.visit(0, &t2);
    assert_eq!(lab.data_sent().len(), 3, "the slowest member's credit counts");
    assert_eq!(t.fcc, 48, "my part of the last rotation is taken back");
    let mut t3 = lab.token();
    (t3.window, t3.credit_last) = (50, 0);
    let t3 = lab.visit(0, &t3);
    assert_eq!(lab.data_sent().len(), 0);
    assert_eq!(t3.idle, 0, "a ring with work never rests");
}

#[test]
fn the_token_rests_at_the_last_sender_only() {
    let mut lab = Lab::new(3, 1);
    let mut t = lab.token();
    t.idle = 50;
    assert_eq!(lab.visit(0, &t).idle, 51);
    let mut t = lab.token();
    (t.idle, t.last_sender) = (1, NodeId(1));
    assert_eq!(lab.visit(0, &t).idle, 2, "not all members saw the ring idle yet");
    let mut t = lab.token();
    (t.idle, t.last_sender) = (50, NodeId(1));
    lab.clear();
    lab.put(0, crate::wire::Kind::Token, |out| t.write(out));
    assert_eq!(lab.tokens().len(), 0, "it rests");
    // A member that is not of this ring's state asks in vain; a member gets it at once.
    let request = crate::wire::TokenRequest { ring: lab.ring.conf.key, token_seq: 1 };
    lab.put(2, crate::wire::Kind::TokenRequest, |out| request.write(out));
    let jumped = lab.tokens().pop().unwrap();
    assert_eq!((jumped.idle, jumped.token_seq), (0, t.token_seq + 1));
    lab.clear();
    lab.put(0, crate::wire::Kind::TokenRequest, |out| request.write(out));
    assert_eq!(lab.tokens().len(), 0, "there is only one");
}

#[test]
fn a_resting_token_makes_a_round_before_anybody_misses_it() {
    let mut lab = Lab::new(3, 1);
    let mut t = lab.token();
    (t.idle, t.last_sender) = (50, NodeId(1));
    lab.put(0, crate::wire::Kind::Token, |out| t.write(out));
    lab.clear();
    lab.wait(lab.ring.cfg.timers.park());
    assert_eq!(lab.tokens().first().unwrap().token_seq, t.token_seq + 1);
}

#[test]
fn packets_of_other_rings_and_strangers_change_nothing() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let mut id = lab.ring.conf.id;
    id.nonce ^= 1;
    let head = lab.head(id, 0, base + 1, Service::Agreed);
    let data = super::lab::chunk(head, Service::Agreed, b"foreign");
    lab.put(0, crate::wire::Kind::Data, |out| out.extend_from_slice(data.body()));
    let mut t = lab.token();
    t.ring.epoch -= 2;
    lab.put(0, crate::wire::Kind::Token, |out| t.write(out));
    assert_eq!(lab.ring.stats().drops.ring, 2);
    // Another life of node 0.
    lab.mids[0].session += 1000;
    let t = lab.token();
    lab.put(0, crate::wire::Kind::Token, |out| t.write(out));
    assert_eq!(lab.ring.stats().drops.session, 1);
    assert!(lab.ring.phase == Phase::Operational && lab.events.is_empty());
}

/// A wrong name in the token kept its aru down, and SAFE messages back, for ever.
#[test]
fn an_aru_that_nobody_can_raise_is_raised() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 1, Service::Agreed, b"x");
    let mut t = lab.token();
    (t.seq, t.aru, t.aru_id) = (base + 1, base, Some(NodeId(77)));
    let t = lab.visit(0, &t);
    assert_eq!((t.aru, t.aru_id), (base + 1, None));
}
