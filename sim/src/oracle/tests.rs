//! A correct history, and each promise broken in it: the oracle must see every one.

use spread_ring::NodeId;

use super::super::log::Line;
use super::*;

const A: Proc = Proc(0);
const B: Proc = Proc(1);
const C: Proc = Proc(2);

fn mid(p: Proc) -> Mid {
    Mid { node: NodeId(u16::try_from(p.0).unwrap()), session: 70 + u64::from(p.0) }
}

fn conf(epoch: u64, first: Proc, nonce: u32) -> ConfId {
    ConfId { epoch, rep: mid(first).node, nonce }
}

fn all(procs: &[Proc]) -> Vec<Mid> {
    procs.iter().map(|p| mid(*p)).collect()
}

/// Three daemons meet in one ring, talk, and fall into {A, B} and {C} while SAFE messages are on their way.
struct Script {
    log: Log,
    time: u64,
}

impl Script {
    fn new() -> Self {
        let mut script = Self { log: Log::default(), time: 0 };
        for p in [A, B, C] {
            script.log.start(mid(p));
            script.regular(&[p], 2, &[p], p.0 + 1);
        }
        script
    }

    fn put(&mut self, p: Proc, entry: Entry) {
        self.time += 1;
        self.log.push(p, self.time, entry);
    }

    fn submit(&mut self, by: Proc, no: u32, service: Service) {
        self.put(by, Entry::Submit { msg: Msg { by, no }, service });
    }

    fn deliver(&mut self, at: &[Proc], by: Proc, no: u32, place: Place, service: Service) {
        for p in at {
            self.put(*p, Entry::Deliver { msg: Msg { by, no }, place, service });
        }
    }

    fn trans(&mut self, at: &[Proc], epoch: u64, members: &[Proc], nonce: u32, of: ConfId) {
        for p in at {
            let id = conf(epoch, members[0], nonce);
            self.put(*p, Entry::Transitional { id, members: all(members), of });
        }
    }

    fn regular(&mut self, at: &[Proc], epoch: u64, members: &[Proc], nonce: u32) {
        for p in at {
            self.put(*p, Entry::Regular { id: conf(epoch, members[0], nonce), members: all(members) });
        }
    }
}

const RING: ConfId = ConfId { epoch: 4, rep: NodeId(0), nonce: 9 };

fn good() -> Log {
    use Service::{Agreed, Safe};
    let mut s = Script::new();
    for p in [A, B, C] {
        s.trans(&[p], 3, &[p], 9, conf(2, p, p.0 + 1));
    }
    s.regular(&[A, B, C], 4, &[A, B, C], 9);
    s.submit(A, 1, Agreed);
    s.deliver(&[A, B, C], A, 1, (1, 0), Agreed);
    s.submit(B, 1, Safe);
    s.submit(C, 1, Agreed);
    s.deliver(&[A, B, C], B, 1, (2, 0), Safe);
    s.deliver(&[A, B, C], C, 1, (2, 1), Agreed);
    s.submit(A, 2, Agreed);
    s.submit(B, 2, Agreed);
    s.deliver(&[B], A, 2, (3, 0), Agreed);
    // B has seen A's second message before it sends its third one.
    s.submit(B, 3, Safe);
    s.submit(C, 2, Agreed);
    s.deliver(&[A], A, 2, (3, 0), Agreed);
    s.deliver(&[A, B], B, 2, (4, 0), Agreed);
    s.trans(&[A, B], 5, &[A, B], 11, RING);
    // Packet 5 of C reached nobody: a gap, and then B's third one, which A and B have.
    s.deliver(&[A, B], B, 3, (6, 0), Safe);
    s.regular(&[A, B], 6, &[A, B], 11);
    s.deliver(&[C], A, 2, (3, 0), Agreed);
    s.deliver(&[C], B, 2, (4, 0), Agreed);
    s.trans(&[C], 5, &[C], 12, RING);
    s.deliver(&[C], C, 2, (5, 0), Agreed);
    s.regular(&[C], 6, &[C], 12);
    s.log
}

#[test]
fn the_undamaged_history_is_accepted() {
    assert_eq!(check(&good()), Ok(()));
}

fn find(log: &Log, p: Proc, by: Proc, no: u32) -> usize {
    let is = |line: &Line| matches!(line.entry, Entry::Deliver { msg, .. } if msg == Msg { by, no });
    log.proc(p).lines.iter().position(is).expect("the message is delivered")
}

/// Removes the delivery of a message at a process.
fn remove(log: &mut Log, p: Proc, by: Proc, no: u32) {
    let i = find(log, p, by, no);
    log.proc_mut(p).lines.remove(i);
}

fn place(log: &mut Log, p: Proc, by: Proc, no: u32) -> &mut Place {
    let i = find(log, p, by, no);
    match &mut log.proc_mut(p).lines[i].entry {
        Entry::Deliver { place, .. } => place,
        other => unreachable!("{other:?}"),
    }
}

fn change(log: &mut Log, p: Proc, mut f: impl FnMut(&mut Entry)) {
    log.proc_mut(p).lines.iter_mut().for_each(|line| f(&mut line.entry));
}

/// The oracle names this promise.
fn breaks(promise: &str, damage: impl FnOnce(&mut Log)) {
    let mut log = good();
    damage(&mut log);
    let found = check(&log).expect_err("the damage is seen");
    assert_eq!(found.promise, promise, "{found}");
}

#[test]
fn g1_twice() {
    breaks("G1", |log| {
        let i = find(log, A, C, 1);
        let mut line = log.proc(A).lines[i].clone();
        if let Entry::Deliver { place, .. } = &mut line.entry {
            *place = (2, 2);
        }
        log.proc_mut(A).lines.insert(i + 1, line);
    });
}

#[test]
fn g1_in_two_configurations() {
    breaks("G1", |log| {
        // C gets B's third message in its next ring.
        let i = find(log, A, B, 3);
        let line = log.proc(A).lines[i].clone();
        log.proc_mut(C).lines.push(line);
    });
}

#[test]
fn g1_never_submitted() {
    breaks("G1", |log| {
        let is = |line: &Line| !matches!(line.entry, Entry::Submit { msg: Msg { no: 2, .. }, .. });
        log.proc_mut(C).lines.retain(is);
    });
}

#[test]
fn g1_before_it_was_submitted() {
    breaks("G1", |log| {
        for line in &mut log.proc_mut(A).lines {
            if let Entry::Submit { msg: Msg { no: 2, .. }, .. } = line.entry {
                line.order = 10_000;
            }
        }
    });
}

#[test]
fn g1_with_another_service() {
    breaks("G1", |log| {
        change(log, C, |entry| {
            if let Entry::Deliver { service, .. } = entry {
                *service = Service::Agreed;
            }
        });
    });
}

#[test]
fn g1_of_somebody_who_was_not_there() {
    breaks("G1", |log| {
        // C never was in the ring, but the others deliver its message there.
        let lines = &mut log.proc_mut(C).lines;
        let submits = |line: &Line| matches!(line.entry, Entry::Submit { .. });
        let first = lines.remove(0);
        lines.retain(submits);
        lines.insert(0, first);
    });
}

#[test]
fn g2_other_order() {
    breaks("G2", |log| {
        let i = find(log, B, B, 1);
        let lines = &mut log.proc_mut(B).lines;
        let (a, b) = (lines[i].entry.clone(), lines[i + 1].entry.clone());
        (lines[i].entry, lines[i + 1].entry) = (b, a);
    });
}

#[test]
fn g2_other_place() {
    breaks("G2", |log| *place(log, C, C, 1) = (2, 3));
}

#[test]
fn g2_two_messages_at_one_place() {
    breaks("G2", |log| {
        [A, B, C].into_iter().for_each(|p| *place(log, p, C, 1) = (2, 0));
    });
}

#[test]
fn g2_a_gap_in_a_regular_configuration() {
    breaks("G2", |log| remove(log, C, B, 1));
}

#[test]
fn g3_one_delivered_more_in_the_regular_configuration() {
    breaks("G3", |log| {
        // The last one before the transitional configuration, and all that depends on it.
        remove(log, A, B, 2);
        remove(log, A, B, 3);
        remove(log, B, B, 3);
    });
}

#[test]
fn g3_one_delivered_more_in_the_transitional_configuration() {
    breaks("G3", |log| remove(log, A, B, 3));
}

#[test]
fn g4_an_own_message_is_missing() {
    breaks("G4", |log| {
        // C's first message is delivered nowhere, its second one at C.
        [A, B, C].into_iter().for_each(|p| remove(log, p, C, 1));
    });
}

#[test]
fn g5_an_earlier_message_of_the_sender_is_missing() {
    breaks("G5", |log| {
        // B's second message reached only B itself, where it was the last before the gap: A and B deliver
        // the third one without it. B keeps no trace of it either, or G3 would see it first.
        [A, B, C].into_iter().for_each(|p| remove(log, p, B, 2));
    });
}

#[test]
fn g5_a_message_that_the_sender_had_delivered_is_missing() {
    let mut log = good();
    // B delivered A's second message before it sent its third one. C delivers the third one without it.
    let i = find(&log, A, B, 3);
    let third = log.proc(A).lines[i].clone();
    remove(&mut log, C, A, 2);
    remove(&mut log, C, B, 2);
    let i = find(&log, C, C, 2);
    log.proc_mut(C).lines.insert(i + 1, third);
    // Keep the stream of B whole: its second message is delivered by nobody and was never sent.
    for p in [A, B] {
        remove(&mut log, p, B, 2);
    }
    change(&mut log, B, |entry| {
        if let Entry::Submit { msg, .. } = entry
            && msg.no == 3
        {
            msg.no = 2;
        }
    });
    for p in [A, B, C] {
        change(&mut log, p, |entry| {
            if let Entry::Deliver { msg, .. } = entry
                && *msg == (Msg { by: B, no: 3 })
            {
                msg.no = 2;
            }
        });
    }
    log.proc_mut(B).lines.retain(|line| {
        !matches!(line.entry, Entry::Submit { msg: Msg { no: 2, .. }, service: Service::Agreed })
    });
    let found = check(&log).expect_err("the damage is seen");
    assert_eq!(found.promise, "G5", "{found}");
}

#[test]
fn g7_a_member_goes_on_without_a_safe_message_of_the_regular_configuration() {
    breaks("G7", |log| {
        // A and B deliver the third message of B while C is still a member, as if it were safe; C goes on.
        for p in [A, B] {
            let i = find(log, p, B, 3);
            let lines = &mut log.proc_mut(p).lines;
            let line = lines.remove(i);
            lines.insert(i - 1, line);
        }
        remove(log, C, C, 2);
        // Nothing of C's second message: otherwise the gap in the regular configuration is seen first.
        log.proc_mut(C)
            .lines
            .retain(|line| !matches!(line.entry, Entry::Submit { msg: Msg { no: 2, .. }, .. }));
    });
}

#[test]
fn g7_a_member_that_did_not_come_along_lost_a_safe_message_of_the_transitional_configuration() {
    // B gets as far as its transitional configuration with A, delivers the SAFE message there, and crashes
    // before the next ring. A goes on without the message, in a configuration of its own.
    breaks("G7", |log| {
        let (last, first) = (find(log, A, B, 3), find(log, A, B, 2));
        let lines = &mut log.proc_mut(A).lines;
        lines.remove(last);
        lines.truncate(last);
        let of = RING;
        lines[first + 1].entry = Entry::Transitional { id: conf(7, A, 20), members: all(&[A]), of };
        log.push(A, 500, Entry::Regular { id: conf(8, A, 20), members: all(&[A]) });
        log.proc_mut(B).lines.pop();
        log.end(B);
    });
}

#[test]
fn g7_does_not_ask_the_dead() {
    let mut log = good();
    // C crashed before it could deliver anything.
    let i = find(&log, C, A, 1);
    log.proc_mut(C).lines.truncate(i);
    log.end(C);
    let submits = |line: &Line| !matches!(line.entry, Entry::Deliver { msg: Msg { by: C, .. }, .. });
    [A, B].into_iter().for_each(|p| log.proc_mut(p).lines.retain(submits));
    assert_eq!(check(&log), Ok(()));
}

#[test]
fn g8_a_safe_message_before_all_have_installed_the_ring() {
    breaks("G8", |log| {
        for line in &mut log.proc_mut(C).lines {
            if matches!(line.entry, Entry::Regular { id, .. } if id == RING) {
                line.order = 9_000;
            }
        }
    });
}

#[test]
fn g9_different_members() {
    breaks("G9", |log| {
        change(log, B, |entry| {
            if let Entry::Regular { id, members } = entry
                && id.epoch == 6
            {
                *members = all(&[A, B, C]);
            }
        });
    });
}

#[test]
fn g9_not_a_member_of_the_own_configuration() {
    breaks("G9", |log| {
        change(log, B, |entry| {
            if let Entry::Regular { id, members } = entry
                && id.epoch == 6
            {
                *members = all(&[A]);
            }
        });
    });
}

#[test]
fn g9_no_transitional_configuration() {
    breaks("G9", |log| {
        let is = |line: &Line| !matches!(line.entry, Entry::Transitional { id, .. } if id.epoch == 5);
        log.proc_mut(C).lines.retain(is);
    });
}

#[test]
fn g9_a_transitional_configuration_of_another_one() {
    breaks("G9", |log| {
        change(log, C, |entry| {
            if let Entry::Transitional { of, .. } = entry {
                of.nonce ^= 1;
            }
        });
    });
}

#[test]
fn g9_one_came_along_and_is_missing() {
    breaks("G9", |log| {
        // A says that it came to the ring alone, although B came from the same one.
        change(log, A, |entry| {
            if let Entry::Transitional { id, members, .. } = entry
                && id.epoch == 5
            {
                *members = all(&[A]);
            }
        });
    });
}

#[test]
fn g9_an_identifier_is_used_again() {
    breaks("G9", |log| {
        change(log, C, |entry| {
            if let Entry::Regular { id, .. } = entry
                && id.epoch == 6
            {
                id.epoch = 4;
            }
        });
    });
}

#[test]
fn g9_a_member_that_never_started() {
    breaks("G9", |log| {
        let ghost = Mid { session: 999, ..mid(C) };
        for p in [A, B] {
            change(log, p, |entry| {
                if let Entry::Regular { id, members } = entry
                    && id.epoch == 6
                {
                    members.push(ghost);
                }
            });
        }
    });
}
