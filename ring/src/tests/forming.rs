//! Gather, commit, recovery, install (`ring-protocol` 4), step by step.

use crate::ring::Phase;
use crate::tests::lab::{Lab, chunk};
use crate::tests::net::ms;
use crate::types::{NodeId, Service};
use crate::wire::{HopStatus, Kind, Request};

/// Node `me` of a ring {0, 1, 2} agrees with node 0 that 2 failed.
pub(super) fn without_two(lab: &mut Lab) {
    let epoch = lab.ring.conf.id.epoch;
    lab.join_with(0, &[0, 1, 2], &[2], |join| join.epoch = epoch);
    assert_eq!(lab.ring.phase, Phase::Gather);
    lab.join(0, &[0, 1, 2], &[2]);
}

#[test]
fn the_old_token_is_dropped_once_the_ring_was_left() {
    let mut lab = Lab::new(3, 1);
    let t = lab.token();
    without_two(&mut lab);
    lab.clear();
    lab.put(0, Kind::Token, |out| t.write(out));
    assert_eq!(lab.tokens().len(), 0);
    assert_eq!((lab.ring.phase, lab.ring.stats().drops.ring), (Phase::Gather, 1));
}

#[test]
fn old_packets_count_in_gather_and_not_after_the_report() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    without_two(&mut lab);
    lab.data(2, 2, base + 1, Service::Agreed, b"in gather");
    assert_eq!(lab.story(), [""; 0], "nothing is delivered before the next ring");
    let commit = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &commit);
    assert_eq!(lab.ring.phase, Phase::Commit);
    let sent = lab.commits().pop().unwrap();
    assert_eq!((sent.hop, sent.groups[0].held().collect::<Vec<_>>()), (2, vec![base + 1]));
    lab.data(2, 2, base + 2, Service::Agreed, b"in commit");
    assert_eq!(lab.ring.stats().drops.frozen, 1);
    // Pass 2: node 0 held packet 3.
    let mut second = sent;
    second.hop = 3;
    assert!(second.groups[0].insert(base + 3));
    lab.put_commit(0, &second);
    assert_eq!(lab.ring.phase, Phase::Recovery);
    assert_eq!(lab.commits().pop().unwrap().done_run, 0, "a packet is missing");
    lab.data(0, 2, base + 2, Service::Agreed, b"not in the union");
    assert_eq!(lab.ring.stats().drops.frozen, 2);
    lab.data(2, 2, base + 3, Service::Agreed, b"from an outsider");
    assert_eq!(lab.ring.stats().drops.frozen, 3);
    lab.data(0, 0, base + 3, Service::Agreed, b"in the union");
    assert_eq!(lab.ring.conf.store.top(), base + 3);
    // The freeze lasts beyond the attempt.
    lab.wait(lab.ring.attempt_limit());
    assert_eq!(lab.ring.phase, Phase::Gather);
    lab.data(2, 2, base + 2, Service::Agreed, b"late");
    assert_eq!(lab.ring.stats().drops.frozen, 4);
}

#[test]
fn the_base_divides_regular_from_transitional() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    for seq in 1..=3u64 {
        lab.data(0, 0, base + seq, Service::Safe, format!("s{seq}").as_bytes());
    }
    without_two(&mut lab);
    // Node 0 knows that 1 and 2 are safe.
    let commit = lab.commit(&[0, 1], 1, base + 2, &[base + 3]);
    lab.put_commit(0, &commit);
    let mut second = lab.commits().pop().unwrap();
    (second.hop, second.done_run) = (3, 1);
    lab.put_commit(0, &second);
    assert_eq!(lab.commits().pop().unwrap().done_run, 2);
    assert_eq!(lab.ring.phase, Phase::Recovery, "only the token installs");
    assert_eq!(lab.story(), [""; 0]);
    let mut t = lab.token();
    (t.ring, t.token_seq, t.seq, t.aru, t.safe, t.done_run) = (second.ring.into(), 5, 0, 0, 0, 2);
    lab.put(0, Kind::Token, |out| t.write(out));
    assert_eq!(lab.story(), ["s1", "s2", "T2", "s3", "R2"]);
    assert_eq!(lab.tokens().pop().unwrap().token_seq, 6);
}

#[test]
fn an_incomplete_visit_starts_the_count_again_and_asks_for_what_is_missing() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    without_two(&mut lab);
    let commit = lab.commit(&[0, 1], 1, base, &[base + 1, base + 2, base + 4]);
    lab.put_commit(0, &commit);
    let mut second = lab.commits().pop().unwrap();
    (second.hop, second.done_run) = (3, 1);
    lab.put_commit(0, &second);
    let mut t = lab.token();
    (t.ring, t.token_seq, t.seq, t.aru, t.safe, t.done_run) = (second.ring.into(), 5, 0, 0, 0, 1);
    let sent = lab.visit(0, &t);
    assert_eq!((sent.done_run, sent.token_seq), (0, 6));
    let asked: Vec<(u8, u64, u64)> = sent.requests.iter().map(|r| (r.group, r.start, r.end())).collect();
    assert_eq!(asked, [(1, base + 1, base + 2), (1, base + 4, base + 4)]);
    for seq in [base + 1, base + 2, base + 4] {
        lab.data(0, 0, seq, Service::Agreed, b"x");
    }
    assert!(lab.ring.obligations.is_empty());
    t.token_seq = 7;
    let sent = lab.visit(0, &t);
    assert_eq!((sent.done_run, sent.requests.len()), (2, 0));
    assert_eq!(lab.ring.phase, Phase::Operational, "two complete visits in a row: all of two are complete");
    assert_eq!(lab.story(), ["x", "x", "T2", "x", "R2"]);
}

#[test]
fn old_packets_are_answered_in_recovery_to_the_group() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 1, Service::Agreed, b"x");
    without_two(&mut lab);
    let commit = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &commit);
    let mut second = lab.commits().pop().unwrap();
    second.hop = 3;
    lab.put_commit(0, &second);
    let mut t = lab.token();
    (t.ring, t.token_seq, t.seq, t.aru, t.safe, t.done_run) = (second.ring.into(), 5, 0, 0, 0, 0);
    t.requests.push(Request { group: 1, tries: 0, requester: NodeId(0), start: base + 1, len: 1 });
    let sent = lab.visit(0, &t);
    assert_eq!(sent.requests.len(), 0);
    let data = lab.data_sent();
    assert_eq!((data.len(), data[0].head().seq), (1, base + 1));
    assert!(lab.out.iter().any(|(_, to, p)| p.header.kind == Kind::Data && *to == [0]), "not to outsiders");
}

/// The minimal example of 4.6: ring {q, p, x}; x's packet 1 reaches nobody, q sends SAFE 2, x is cut off. In
/// the attempt {q, p} both are complete; q may install and deliver 2. The token to p is lost and p stays
/// alone.
pub(super) fn obliged_and_left_alone() -> Lab {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 2, Service::Safe, b"two");
    without_two(&mut lab);
    let commit = lab.commit(&[0, 1], 1, base, &[base + 2]);
    lab.put_commit(0, &commit);
    let mut second = lab.commits().pop().unwrap();
    (second.hop, second.done_run) = (3, 1);
    lab.put_commit(0, &second);
    assert_eq!(lab.commits().pop().unwrap().done_run, 2, "q may install with this");
    lab.wait(ms(3000));
    lab
}

/// p must deliver 2 as well, although 2 comes after a gap and q is not with it any more.
#[test]
fn what_an_attempt_obliged_to_is_delivered_alone_after_a_gap() {
    let lab = obliged_and_left_alone();
    assert_eq!(lab.ring.conf.members.len(), 1);
    assert_eq!(lab.story(), ["T1", "two", "R1"]);
}

#[test]
fn without_an_obligation_nothing_is_delivered_after_a_gap() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    lab.data(0, 0, base + 2, Service::Agreed, b"two");
    lab.wait(ms(3000));
    assert_eq!(lab.story(), ["T1", "R1"]);
}

#[test]
fn a_commit_token_is_accepted_once_and_only_for_the_agreed_set() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    without_two(&mut lab);
    lab.clear();
    let wrong = lab.commit(&[0, 1, 2], 1, base, &[]);
    lab.put_commit(0, &wrong);
    assert_eq!((lab.ring.phase, lab.hop_acks()[0].status), (Phase::Gather, HopStatus::Reject));
    let mut old = lab.commit(&[0, 1], 1, base, &[]);
    old.ring.epoch = lab.ring.epoch;
    lab.put_commit(0, &old);
    assert_eq!((lab.ring.phase, lab.hop_acks()[1].status), (Phase::Gather, HopStatus::Reject));
    let mut foreign = lab.commit(&[0, 1], 1, base, &[]);
    foreign.groups[0].ring.nonce ^= 1;
    lab.put_commit(0, &foreign);
    assert_eq!((lab.ring.phase, lab.hop_acks()[2].status), (Phase::Gather, HopStatus::Reject));
    let good = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &good);
    assert_eq!((lab.ring.phase, lab.hop_acks()[3].status), (Phase::Commit, HopStatus::Ok));
    assert_eq!(lab.ring.gather.rotations, 1);
    lab.clear();
    lab.put_commit(0, &good);
    assert_eq!((lab.commits().len(), lab.hop_acks()[0].status), (0, HopStatus::Ok), "acknowledged only");
    // Another representative's token: refused. The same one's later try: taken (R13).
    let mut other = lab.commit(&[1, 2], 1, base, &[]);
    other.members.swap_remove(0);
    other.members.insert(0, wrong.members[1]);
    lab.put_commit(2, &other);
    assert_eq!(lab.ring.epoch, good.ring.epoch);
    let again = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &again);
    assert_eq!((lab.ring.phase, lab.ring.epoch), (Phase::Commit, again.ring.epoch));
}

#[test]
fn joins_move_an_operational_member_only_when_they_should() {
    let mut lab = Lab::new(3, 1);
    lab.join(0, &[0, 1, 2], &[1]);
    assert_eq!(lab.ring.phase, Phase::Operational, "the sender excludes me");
    lab.join_with(0, &[0, 1, 2], &[2], |join| join.epoch -= 2);
    assert_eq!(lab.ring.phase, Phase::Operational, "older than the ring");
    lab.join_with(0, &[0, 1, 2], &[2], |join| join.hear.retain(|heard| heard.mid.node != NodeId(1)));
    assert_eq!(lab.ring.phase, Phase::Operational, "the sender does not hear me");
    lab.join_with(0, &[0, 1, 2], &[2], |join| join.join_no = 3);
    assert_eq!(lab.ring.phase, Phase::Operational, "a join of before");
    assert_eq!(lab.ring.stats().drops.join, 4);
    lab.join(0, &[0, 1, 2], &[]);
    assert_eq!(lab.ring.phase, Phase::Gather);
}

#[test]
fn joins_abort_an_attempt_only_if_they_are_later() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    let before = lab.ring.epoch;
    without_two(&mut lab);
    let commit = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &commit);
    lab.join_with(0, &[0, 1, 2], &[2], |join| join.epoch = before);
    assert_eq!(lab.ring.phase, Phase::Commit, "of before the attempt");
    lab.join(2, &[0, 1, 2], &[]);
    assert_eq!(lab.ring.phase, Phase::Commit, "not a member of the attempt");
    lab.join(0, &[0, 1, 2], &[2]);
    assert_eq!((lab.ring.phase, lab.ring.stats().aborts_commit), (Phase::Gather, 1));
}

#[test]
fn an_outsider_cannot_break_up_my_ring() {
    let mut lab = Lab::new(4, 1);
    lab.join(0, &[0, 1, 2, 3], &[]);
    // Node 3 turns up as another process, which is not of my ring.
    let mine = lab.ring.conf.members.clone();
    lab.ring.conf.members.retain(|mid| mid.node != NodeId(3));
    lab.ring.conf = crate::conf::Conf::new(
        &lab.ring.cfg,
        lab.ring.conf.id,
        lab.ring.conf.members.clone(),
        lab.ring.conf.store.clone(),
        lab.now,
    );
    lab.join(3, &[0, 1, 2, 3], &[0]);
    assert!(!lab.ring.gather.fail.contains(mine[0]), "an outsider says so");
    lab.join(2, &[0, 1, 2, 3], &[0]);
    assert!(lab.ring.gather.fail.contains(mine[0]), "a member says so");
}

#[test]
fn who_says_that_i_failed_is_excluded_and_i_never_fail_myself() {
    let mut lab = Lab::new(3, 1);
    lab.join(0, &[0, 1, 2], &[]);
    lab.join(2, &[0, 1, 2], &[1]);
    assert!(lab.ring.gather.fail.contains(lab.mids[2]));
    assert!(!lab.ring.gather.fail.contains(lab.mids[1]));
}

#[test]
fn those_who_do_not_agree_in_time_fail() {
    let mut lab = Lab::with(3, 1, |cfg| cfg.timers.dead = ms(10_000));
    lab.join(0, &[0, 1, 2], &[]);
    lab.wait(lab.ring.cfg.timers.consensus - ms(1));
    assert!(lab.ring.gather.fail.is_empty());
    lab.wait(ms(2));
    assert!(lab.ring.gather.fail.contains(lab.mids[2]));
    assert!(!lab.ring.gather.fail.contains(lab.mids[0]), "it agreed");
}

#[test]
fn the_third_agreement_on_the_same_set_blames_the_one_who_forwarded_least() {
    let mut lab = Lab::with(3, 1, |cfg| cfg.timers.dead = ms(60_000));
    let base = lab.ring.conf.high;
    lab.join(0, &[0, 1, 2], &[]);
    for round in 1..=2 {
        let rotations = |n: u16| move |join: &mut crate::wire::Join| join.rotations = n;
        lab.join_with(0, &[0, 1, 2], &[], rotations(1));
        lab.join_with(2, &[0, 1, 2], &[], rotations(0));
        assert!(lab.ring.gather.fail.is_empty(), "agreement {round}");
        let commit = lab.commit(&[0, 1, 2], 1, base, &[]);
        lab.put_commit(0, &commit);
        assert_eq!(lab.ring.phase, Phase::Commit);
        lab.wait(lab.ring.attempt_limit());
        assert_eq!(lab.ring.phase, Phase::Gather);
    }
    lab.join_with(2, &[0, 1, 2], &[], |join| join.rotations = 0);
    lab.join_with(0, &[0, 1, 2], &[], |join| join.rotations = 1);
    assert_eq!(lab.ring.stats().blames, 1);
    assert!(lab.ring.gather.fail.contains(lab.mids[2]));
    assert_eq!(lab.ring.gather.fail.len(), 1);
}

#[test]
fn data_of_the_new_ring_waits_for_the_install() {
    let mut lab = Lab::new(3, 1);
    let base = lab.ring.conf.high;
    without_two(&mut lab);
    let commit = lab.commit(&[0, 1], 1, base, &[]);
    lab.put_commit(0, &commit);
    let mut second = lab.commits().pop().unwrap();
    (second.hop, second.done_run) = (3, 1);
    lab.put_commit(0, &second);
    let head = lab.head(second.ring, 0, 1, Service::Agreed);
    let data = chunk(head, Service::Agreed, b"early");
    lab.put(0, Kind::Data, |out| out.extend_from_slice(data.body()));
    assert_eq!(lab.story(), [""; 0]);
    let mut t = lab.token();
    (t.ring, t.token_seq, t.seq, t.aru, t.safe, t.done_run) = (second.ring.into(), 5, 1, 0, 0, 2);
    lab.put(0, Kind::Token, |out| t.write(out));
    assert_eq!(lab.story(), ["T2", "R2", "early"]);
}

#[test]
fn my_message_that_was_half_sent_starts_again() {
    let mut lab = Lab::with(3, 1, |cfg| cfg.windows.personal = Some(2));
    lab.submit(Service::Agreed, &[b'm'; 5000]);
    let t = lab.token();
    lab.visit(0, &t);
    assert_eq!(lab.data_sent().len(), 2, "a part");
    lab.wait(ms(5000));
    let story: Vec<usize> = lab.story().iter().map(String::len).collect();
    assert_eq!(story, [2, 2, 5000], "T, R, and the whole message in the new configuration");
}

#[test]
fn a_former_member_in_a_later_ring_means_that_i_was_left_behind() {
    let mut lab = Lab::new(3, 1);
    let presence = |lab: &Lab, epoch: u64| crate::wire::Presence {
        epoch,
        seen: epoch,
        ring: Some(crate::types::ConfId { epoch, rep: NodeId(0), nonce: 5 }),
        state: crate::wire::State::Operational,
        token_seq: 0,
        leaving: false,
        probe: false,
        hash: [7; 16],
        members: [NodeId(0)].into_iter().collect(),
        hear: lab.mids.iter().map(|mid| crate::wire::Heard { mid: *mid, mtu: 1456, paths: 3 }).collect(),
    };
    let epoch = lab.ring.conf.id.epoch;
    let stale = presence(&lab, epoch - 2);
    lab.put(0, Kind::Presence, |out| stale.write(out));
    assert_eq!(lab.ring.phase, Phase::Operational);
    let later = presence(&lab, epoch + 2);
    lab.put(0, Kind::Presence, |out| later.write(out));
    assert_eq!(lab.ring.phase, Phase::Gather);
}
