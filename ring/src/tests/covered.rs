//! Rules that random histories do not miss, because others cover for them: what each is for, with the rule and
//! without it. Why nothing worse happens is told in `docs/internals/simulation.md`.

use crate::mutation::{Rule, take_out};
use crate::ring::Phase;
use crate::tests::forming::{obliged_and_left_alone, without_two};
use crate::tests::lab::Lab;
use crate::tests::net::{Net, Seen, ms};
use crate::types::{Mid, NodeId};
use crate::wire::Kind;

/// What comes of something with the rule, and without it.
fn both<T>(rule: Rule, act: impl Fn() -> T) -> [T; 2] {
    // Each test has a thread of its own: what panics leaves no rule taken out for others.
    let with = act();
    take_out(Some(rule));
    let without = act();
    take_out(None);
    [with, without]
}

/// The minimal example of 4.6, as in `forming.rs`: node 0 may have delivered the SAFE message in an attempt that
/// failed here. It comes after a gap, and its origin is not there any more: only the obligation has it delivered.
#[test]
fn what_an_attempt_obliged_to_is_delivered_by_the_one_left_alone() {
    let story = || obliged_and_left_alone().story().join(" ");
    assert_eq!(both(Rule::Obligations, story), ["T1 two R1", "T1 R1"]);
}

/// The representative tried again, and a copy of its first commit token comes late. It must not undo the second try.
#[test]
fn a_late_commit_token_costs_no_attempt() {
    let phase = || {
        let mut lab = Lab::new(3, 1);
        without_two(&mut lab);
        let base = lab.ring.conf.high;
        let first = lab.commit(&[0, 1], 1, base, &[]);
        lab.put_commit(0, &first);
        let second = lab.commit(&[0, 1], 1, base, &[]);
        assert!(second.ring.epoch > first.ring.epoch);
        lab.put_commit(0, &second);
        let mut pass2 = lab.commits().pop().unwrap();
        assert_eq!(pass2.ring, second.ring);
        lab.put_commit(0, &first);
        pass2.hop = 3;
        lab.put_commit(0, &pass2);
        lab.ring.phase
    };
    assert_eq!(both(Rule::CommitFresh, phase), [Phase::Recovery, Phase::Commit]);
}

/// A commit token with a daemon that failed here meanwhile: its representative hears of it at once. Otherwise all
/// would wait in the attempt, and if the daemon lives they would form the ring that this one just gave up.
#[test]
fn a_commit_token_with_others_is_refused_at_once() {
    let answer = || {
        let mut lab = Lab::new(3, 1);
        without_two(&mut lab);
        let commit = lab.commit(&[0, 1, 2], 1, lab.ring.conf.high, &[]);
        lab.clear();
        lab.put_commit(0, &commit);
        (lab.ring.phase, lab.commits().len())
    };
    assert_eq!(both(Rule::CommitMembers, answer), [(Phase::Gather, 0), (Phase::Commit, 1)]);
}

/// A daemon that was started again does not hear one of my members yet. As it is none itself, its word does not
/// break up my ring, whatever its former life was.
#[test]
fn a_restarted_member_has_no_say_in_its_former_ring() {
    let failed = || {
        let mut lab = Lab::new(4, 1);
        let fine = lab.mids[0];
        lab.mids[3] = Mid { node: NodeId(3), session: lab.mids[3].session + 1000 };
        lab.join(3, &[0, 1, 2, 3], &[]);
        lab.join(3, &[0, 1, 2, 3], &[0]);
        assert_eq!(lab.ring.phase, Phase::Gather);
        lab.ring.gather.fail.contains(fine)
    };
    assert_eq!(both(Rule::SessionCounts, failed), [false, true]);
}

/// A member that is heard all the time, of which nothing else comes through: it never agrees, and never falls silent.
#[test]
fn who_never_agrees_does_not_keep_the_others_from_a_ring() {
    let pair = || {
        let mut net = Net::new(3);
        net.settle(&[0, 1, 2], ms(3000));
        net.filter = Box::new(|hop| hop.from != 2 || hop.kind == Kind::Presence);
        net.run(ms(10_000));
        let formed = |seen: &Seen| matches!(seen, Seen::Regular { members, .. } if *members == [0, 1]);
        [0, 1].map(|node: usize| net.seen[node].iter().any(formed))
    };
    assert_eq!(both(Rule::Consensus, pair), [[true, true], [false, false]]);
}

/// A daemon dies, and is there again while the others look for a new ring: the former process fails as soon as the
/// next one is heard, and not only when it did not agree in time.
#[test]
fn a_restart_during_the_gather_does_not_wait_for_the_dead() {
    let failed = || {
        let mut lab = Lab::with(3, 1, |cfg| cfg.timers.dead = ms(10_000));
        lab.join(0, &[0, 1, 2], &[]);
        let dead = lab.mids[2];
        lab.mids[2] = Mid { node: NodeId(2), session: dead.session + 1000 };
        lab.join(2, &[0, 1, 2], &[]);
        let at_once = lab.ring.gather.fail.contains(dead);
        lab.wait(2 * lab.ring.cfg.timers.consensus);
        (at_once, lab.ring.phase == Phase::Operational && !lab.ring.conf.contains(dead))
    };
    assert_eq!(both(Rule::Superseded, failed), [(true, true), (false, true)]);
}
