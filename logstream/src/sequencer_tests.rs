//! Tests of the sequencer alone; with the publisher: `publisher_tests.rs`.

use super::*;
use crate::{TYPE_FRAME, TYPE_PLAIN, numbered_type};

const A: SourceId = SourceId([1; 16]);
const ME: SourceId = SourceId([8; 16]);
const SENDER: Bytes = Bytes::from_static(b"#m1#d1");
const GROUP: Bytes = Bytes::from_static(b"site4");

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lines(strict: bool, seq: u64, texts: &[&[u8]]) -> Bytes {
    Frame::encode(Kind::Lines, if strict { FLAG_STRICT } else { 0 }, A, seq, 0, texts).expect("small")
}

fn hello(strict: bool, next: u64, first: u64) -> Bytes {
    let text = format!("first={first}\nhost=www1\n");
    let flags = if strict { FLAG_STRICT } else { 0 };
    Frame::encode(Kind::Hello, flags, A, next, 0, &[text.as_bytes()]).expect("small")
}

fn get(s: &mut Sequencer, audit: bool, mess_type: i16, payload: Bytes) -> Vec<String> {
    let mut out = Vec::new();
    s.handle_message(at(0), &SENDER, &GROUP, audit, mess_type, payload, &mut out);
    out.into_iter()
        .filter(|o| !matches!(o, Output::Duplicate { .. }))
        .map(|o| match o {
            Output::Line { line, .. } => String::from_utf8_lossy(&line).into_owned(),
            Output::Duplicate { .. } => String::new(),
            Output::Rotate { writer, at, now } => format!("rotate {at} {} {now}", writer == ME),
            Output::Source { first, .. } => format!("source from {first}"),
            Output::Gap { from, to, reason, .. } => format!("gap {from}..{to} {reason:?}"),
            Output::End { last, complete, .. } => format!("end {last} {complete}"),
            Output::Reject(why) => format!("reject: {why}"),
        })
        .collect()
}

fn frame(s: &mut Sequencer, payload: Bytes) -> Vec<String> {
    get(s, false, TYPE_FRAME, payload)
}

/// The answers now: number and flags.
fn acks(s: &mut Sequencer, now: Duration) -> Vec<(u64, u8)> {
    s.acks(now)
        .into_iter()
        .flat_map(|(to, mut message)| {
            assert_eq!(to, SENDER);
            std::iter::from_fn(move || Frame::decode(&mut message).ok()).collect::<Vec<_>>()
        })
        .map(|f| (f.seq, f.flags))
        .collect()
}

#[test]
fn plain_lines_of_old_modules_are_written_at_once() {
    let mut s = Sequencer::new(ME);
    assert_eq!(get(&mut s, false, TYPE_PLAIN, Bytes::from_static(b"x\n")), ["x\n"]);
    assert_eq!(get(&mut s, false, 0, Bytes::from_static(b"y\n")), ["y\n"]);
    assert!(!s.wants_acks());
    assert_eq!((s.counters().lines, s.counters().unnumbered), (2, 2));
}

#[test]
fn numbered_plain_lines_wait_for_their_hello() {
    let mut s = Sequencer::new(ME);
    assert_eq!(get(&mut s, false, numbered_type(5), Bytes::from_static(b"x\n")), [""; 0]);
    assert_eq!(acks(&mut s, at(0)), [(0, FLAG_RESEND)]);
    assert_eq!(acks(&mut s, at(100)), []);
    assert_eq!(acks(&mut s, at(200)), [(0, FLAG_RESEND)]);
    assert_eq!(get(&mut s, true, TYPE_FRAME, hello(true, 5, 5)), ["source from 5"]);
    assert_eq!(get(&mut s, false, numbered_type(5), Bytes::from_static(b"x\n")), ["x\n"]);
    assert_eq!(acks(&mut s, at(500)), [(5, 0)]);
    assert_eq!(acks(&mut s, at(900)), []);
}

#[test]
fn a_sender_that_does_not_answer_is_left_alone() {
    let mut s = Sequencer::new(ME);
    get(&mut s, false, numbered_type(5), Bytes::from_static(b"x\n"));
    let asked = (0..100).filter(|i| !acks(&mut s, at(i * 1000)).is_empty()).count();
    assert_eq!(asked, 10);
    assert!(!s.wants_acks());
}

#[test]
fn strict_frames_are_written_once_in_order_and_holes_are_asked_for() {
    let mut s = Sequencer::new(ME);
    frame(&mut s, hello(true, 1, 1));
    assert_eq!(frame(&mut s, lines(true, 1, &[b"1\n", b"2\n"])), ["1\n", "2\n"]);
    assert_eq!(frame(&mut s, lines(true, 4, &[b"4\n"])), [""; 0]);
    assert_eq!(acks(&mut s, at(0)), [(2, FLAG_RESEND)]);
    frame(&mut s, hello(true, 2, 2));
    assert_eq!(frame(&mut s, lines(true, 2, &[b"2\n", b"3\n", b"4\n"])), ["3\n", "4\n"]);
    assert_eq!(acks(&mut s, at(0)), [(4, 0)]);
    assert_eq!((s.counters().duplicates, s.counters().early, s.counters().missing), (1, 1, 0));
}

#[test]
fn loose_frames_are_never_asked_for() {
    let mut s = Sequencer::new(ME);
    assert_eq!(frame(&mut s, lines(false, 7, &[b"7\n"])), ["source from 7", "7\n"]);
    assert_eq!(frame(&mut s, lines(false, 10, &[b"a\n"])), ["gap 8..9 Lost", "a\n"]);
    assert_eq!(frame(&mut s, lines(false, 9, &[b"9\n"])), [""; 0]);
    assert_eq!(s.counters().missing, 2);
}

#[test]
fn what_another_writer_acknowledged_is_a_declared_hole() {
    let mut s = Sequencer::new(ME);
    frame(&mut s, hello(true, 1, 1));
    assert_eq!(frame(&mut s, hello(true, 5, 5)), ["gap 1..4 Elsewhere"]);
    assert_eq!(frame(&mut s, lines(true, 5, &[b"5\n"])), ["5\n"]);
}

#[test]
fn gaps_of_the_source_stand_in_their_place() {
    let mut s = Sequencer::new(ME);
    let gap = |from, to: u64| {
        let text = format!("to={to}\n");
        Frame::encode(Kind::Gap, FLAG_STRICT, A, from, 0, &[text.as_bytes()]).expect("small")
    };
    get(&mut s, true, TYPE_FRAME, hello(true, 1, 1));
    assert_eq!(get(&mut s, true, TYPE_FRAME, gap(1, 3)), ["gap 1..3 Publisher"]);
    assert_eq!(get(&mut s, false, numbered_type(4), Bytes::from_static(b"4\n")), ["4\n"]);
    assert_eq!(get(&mut s, true, TYPE_FRAME, gap(1, 3)), [""; 0], "a repeat");
    assert_eq!(get(&mut s, true, TYPE_FRAME, gap(9, 9)), [""; 0], "after a hole");
    assert_eq!(acks(&mut s, at(0)), [(4, FLAG_RESEND)]);
    assert!(get(&mut s, true, TYPE_FRAME, gap(5, u64::MAX))[0].starts_with("reject"));
    assert!(get(&mut s, true, TYPE_FRAME, gap(5, 4))[0].starts_with("reject"));
}

#[test]
fn goodbye_proves_completeness() {
    let mut s = Sequencer::new(ME);
    let bye = |last| Frame::encode(Kind::Goodbye, FLAG_STRICT, A, last, 0, &[]).expect("small");
    frame(&mut s, hello(true, 1, 1));
    frame(&mut s, lines(true, 1, &[b"1\n"]));
    assert_eq!(frame(&mut s, bye(1)), ["end 1 true"]);
    assert_eq!(s.sources(), 0);
    frame(&mut s, hello(true, 2, 2));
    assert_eq!(frame(&mut s, bye(4)), ["end 4 false"]);
}

#[test]
fn lines_of_a_loose_plain_source_are_no_gap() {
    let mut s = Sequencer::new(ME);
    let text = Bytes::from_static(b"x\n");
    assert_eq!(get(&mut s, true, TYPE_FRAME, hello(false, 1, 1)), ["source from 1"]);
    assert_eq!(get(&mut s, false, TYPE_PLAIN, text.clone()), ["x\n"]);
    assert_eq!(get(&mut s, true, TYPE_FRAME, hello(false, 2, 2)), [""; 0]);
    assert_eq!(get(&mut s, false, TYPE_PLAIN, text.clone()), ["x\n"]);
    assert_eq!(get(&mut s, true, TYPE_FRAME, hello(true, 3, 3)), [""; 0]);
    assert_eq!(get(&mut s, false, numbered_type(3), text), ["x\n"]);
    assert_eq!(get(&mut s, true, TYPE_FRAME, hello(true, 6, 6)), ["gap 4..5 Elsewhere"]);
}

#[test]
fn after_a_lost_session_plain_lines_need_a_new_hello() {
    let mut s = Sequencer::new(ME);
    get(&mut s, true, TYPE_FRAME, hello(true, 1, 1));
    assert_eq!(get(&mut s, false, numbered_type(1), Bytes::from_static(b"1\n")), ["1\n"]);
    s.handle_session_lost();
    assert_eq!(get(&mut s, false, numbered_type(3), Bytes::from_static(b"3\n")), [""; 0]);
    get(&mut s, true, TYPE_FRAME, hello(true, 2, 2));
    assert_eq!(get(&mut s, false, numbered_type(2), Bytes::from_static(b"2\n")), ["2\n"]);
}

#[test]
fn restored_positions_drop_what_was_written_before() {
    let mut s = Sequencer::new(ME);
    s.restore(GROUP, A, 3);
    assert!(!s.wants_acks());
    frame(&mut s, hello(true, 1, 1));
    assert_eq!(frame(&mut s, lines(true, 1, &[b"1\n", b"2\n", b"3\n"])), ["3\n"]);
    assert_eq!(s.positions().map(|p| p.2).collect::<Vec<_>>(), [4]);
}

#[test]
fn broken_input_is_counted_and_changes_nothing() {
    let mut s = Sequencer::new(ME);
    assert!(get(&mut s, true, 0, Bytes::from_static(b"x"))[0].starts_with("reject"));
    assert!(get(&mut s, false, 0, Bytes::new())[0].starts_with("reject"));
    assert!(frame(&mut s, lines(true, 1, &[b"1\n"]).slice(..30))[0].starts_with("reject"));
    assert_eq!(frame(&mut s, hello(true, 0, 9)), ["source from 1"]);
    assert_eq!(frame(&mut s, hello(true, u64::MAX, u64::MAX)).len(), 1);
    assert_eq!(s.counters().rejected, 3);
}

#[test]
fn the_last_answer_says_so() {
    let mut s = Sequencer::new(ME);
    frame(&mut s, hello(true, 1, 1));
    frame(&mut s, lines(true, 1, &[b"1\n"]));
    assert_eq!(acks(&mut s, at(0)), [(1, 0)]);
    let mut last = s.farewells(at(1)).remove(0).1;
    let frame = Frame::decode(&mut last).expect("own frame");
    assert_eq!((frame.seq, frame.flags, &frame.records()[1][..]), (1, FLAG_LAST, &ME.0[..]));
}

#[test]
fn silent_sources_are_forgotten() {
    let mut s = Sequencer::new(ME);
    frame(&mut s, hello(true, 1, 1));
    s.forget_silent(at(23 * 3_600_000));
    assert_eq!(s.sources(), 1);
    s.forget_silent(at(24 * 3_600_000));
    assert_eq!(s.sources(), 0);
}

#[test]
fn sources_are_bounded() {
    let mut s = Sequencer::new(ME);
    let mut out = Vec::new();
    for i in 0..SOURCES_MAX as u64 + 10 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&i.to_be_bytes());
        let frame = Frame::encode(Kind::Lines, 0, SourceId(id), 1, 0, &[b"x\n"]).expect("small");
        if i % 20_000 == 0 || i > SOURCES_MAX as u64 - 10 {
            s.handle_message(at(i), &SENDER, &GROUP, false, TYPE_FRAME, frame, &mut out);
        } else {
            s.restore(GROUP, SourceId(id), 1);
        }
    }
    assert!((SOURCES_MAX / 16 * 15..=SOURCES_MAX).contains(&s.sources()), "{}", s.sources());
}

#[test]
fn lines_tell_where_they_come_from_and_what_came_again() {
    let mut s = Sequencer::new(ME);
    let mut out = Vec::new();
    for payload in
        [lines(false, 1, &[b"1\n", b"2\n"]), lines(false, 2, &[b"2\n"]), Bytes::from_static(b"x\n")]
    {
        let mess_type = if Frame::looks_like(&payload) { TYPE_FRAME } else { TYPE_PLAIN };
        s.handle_message(at(0), &SENDER, &GROUP, false, mess_type, payload, &mut out);
    }
    let seen: Vec<_> = out
        .iter()
        .filter_map(|o| match o {
            Output::Line { origin, .. } => Some(*origin),
            Output::Duplicate { source, seq } => Some(Some((*source, seq + 100))),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [Some((A, 1)), Some((A, 2)), Some((A, 102)), None]);
}

#[test]
fn a_spool_that_is_replayed_after_the_end_doubles_nothing() {
    let bye = |last| Frame::encode(Kind::Goodbye, FLAG_STRICT, A, last, 0, &[]).expect("small");
    for remember in [false, true] {
        let mut s = Sequencer::new(ME);
        if remember {
            s.remember_ended();
        }
        frame(&mut s, hello(true, 1, 1));
        frame(&mut s, lines(true, 1, &[b"1\n", b"2\n"]));
        frame(&mut s, bye(2));
        // The acknowledgement was lost with the process; another one sends its spool.
        let mut again = frame(&mut s, hello(true, 1, 1));
        again.extend(frame(&mut s, lines(true, 1, &[b"1\n", b"2\n", b"3\n"])));
        let wanted: &[&str] =
            if remember { &["source from 3", "3\n"] } else { &["source from 1", "1\n", "2\n", "3\n"] };
        assert_eq!(again, wanted);
        frame(&mut s, bye(3));
        assert_eq!(s.ended().count(), usize::from(remember));
        // Over a restart.
        let mut next = Sequencer::new(ME);
        next.remember_ended();
        for (group, source, number) in s.ended() {
            next.restore_ended(group.clone(), source, number);
        }
        let after = frame(&mut next, lines(true, 1, &[b"1\n", b"2\n", b"3\n", b"4\n"]));
        assert_eq!(after, if remember { vec!["source from 4", "4\n"] } else { vec![] });
    }
}

#[test]
fn what_is_remembered_of_ended_sources_is_bounded() {
    let mut s = Sequencer::new(ME);
    for i in 0..ENDED_MAX as u64 + 5 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&i.to_be_bytes());
        s.restore_ended(GROUP, SourceId(id), 7);
    }
    assert_eq!(s.ended().count(), ENDED_MAX);
}

#[test]
fn a_rotation_stands_in_the_order_and_only_in_the_audit_group() {
    let mut s = Sequencer::new(ME);
    let marker = s.rotation(1_700_000_000, true).expect("a time");
    assert_eq!(get(&mut s, true, TYPE_FRAME, marker.clone()), ["rotate 1700000000 true true"]);
    assert!(get(&mut s, false, TYPE_FRAME, marker)[0].starts_with("reject"));
    assert_eq!(s.rotation(-1, false), None);
}

#[test]
fn held_lines_are_neither_acknowledged_nor_part_of_the_position() {
    let mut s = Sequencer::new(ME);
    frame(&mut s, hello(true, 1, 1));
    frame(&mut s, lines(true, 1, &[b"1\n", b"2\n", b"3\n"]));
    s.hold(&[((GROUP, A), 2)].into());
    assert_eq!(acks(&mut s, at(0)), [(1, 0)]);
    assert_eq!(s.positions().map(|p| p.2).collect::<Vec<_>>(), [2]);
    assert!(!s.wants_acks());
    s.hold(&BTreeMap::new());
    assert_eq!(acks(&mut s, at(0)), [(3, 0)]);
    // Line 3 was written before the crash, line 2 was held.
    let mut s = Sequencer::new(ME);
    s.restore(GROUP, A, 2);
    s.restore_written(&GROUP, A, [3].into());
    frame(&mut s, hello(true, 2, 2));
    assert_eq!(frame(&mut s, lines(true, 2, &[b"2\n", b"3\n", b"4\n"])), ["2\n", "4\n"]);
    assert_eq!(s.counters().duplicates, 1);
}
