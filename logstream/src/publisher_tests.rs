//! Tests of the publisher alone, and of publisher and sequencer together over a network that fails.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::GapWhy;
use crate::intake::{Intake, WhenFull};
use crate::sequencer::{Output, Sequencer};

const ID: SourceId = SourceId([3; 16]);
const GROUP: Bytes = Bytes::from_static(b"site4");
const AUDIT: Bytes = Bytes::from_static(b"site4~");

fn stream(wire: Wire) -> StreamConfig {
    StreamConfig { group: GROUP, audit_group: Some(AUDIT), wire, heard: false }
}

fn publisher(audit: Audit, wire: Wire) -> Publisher {
    let cfg = PublisherConfig {
        source: ID,
        audit,
        acks: Acks::All,
        writer_limit: at(30_000),
        batch_bytes: 100,
        about: "pid=7\n".into(),
    };
    Publisher::new(cfg, vec![stream(wire)])
}

fn line(seq: u64) -> Record {
    let data = Bytes::from(format!("line {seq}\n"));
    Record { stream: 0, seq, time_us: seq, what: What::Line { data, cut: false } }
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Everything that is to be sent now, as text: `type group payload-or-frame`.
fn sent(publisher: &mut Publisher, now: Duration) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(t) = publisher.poll_transmit(now) {
        let group = t.group.map_or_else(|| "self".into(), |g| String::from_utf8_lossy(&g).into_owned());
        let mut payload = t.payload.clone();
        all.push(match Frame::decode(&mut payload) {
            Ok(f) => format!("{group} {:?} {} n{} f{}", f.kind, f.seq, f.records().len(), f.flags),
            Err(_) if t.mess_type > 0x4000 => {
                format!("{group} N {}", String::from_utf8_lossy(&t.payload).trim_end())
            }
            Err(_) => format!("{group} {} {}", t.mess_type, String::from_utf8_lossy(&t.payload).trim_end()),
        });
    }
    all
}

fn ack(seq: u64, flags: u8) -> Bytes {
    Frame::encode(Kind::Ack, flags, ID, seq, 0, &[&GROUP]).expect("small")
}

fn ack_of(writer: &'static str, seq: u64, flags: u8) -> Bytes {
    Frame::encode(Kind::Ack, flags, ID, seq, 0, &[&GROUP, writer.as_bytes()]).expect("small")
}

fn barrier(id: u64) -> Bytes {
    Frame::encode(Kind::Barrier, 0, ID, id, 0, &[]).expect("small")
}

#[test]
fn plain_lines_without_audit_are_plain_and_confirmed_by_a_barrier() {
    let mut p = publisher(Audit::Off, Wire::Plain);
    p.handle_records([line(1), line(2)]);
    assert_eq!(sent(&mut p, at(0)), [""; 0], "no session yet");
    p.handle_connected(at(0), [0]);
    assert_eq!(sent(&mut p, at(0)), ["site4 1 line 1", "site4 1 line 2", "self Barrier 1 n0 f0"]);
    p.handle_records([line(3)]);
    assert_eq!(sent(&mut p, at(0)), ["site4 1 line 3"], "one barrier at a time");
    p.handle_private(at(1), barrier(1));
    assert_eq!(p.released(), Released { ordered: 2, cost: 2 * (7 + 64), ..Released::default() });
    assert_eq!(sent(&mut p, at(1)), ["self Barrier 2 n0 f0"]);
    p.handle_disconnected();
    assert_eq!(p.released(), Released { in_doubt: 1, cost: 7 + 64, ..Released::default() });
    assert!(p.is_idle());
}

#[test]
fn loose_lines_in_doubt_are_not_sent_again() {
    let mut p = publisher(Audit::Auto, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    assert_eq!(sent(&mut p, at(0)), ["site4~ Hello 1 n1 f0", "site4 1 line 1", "self Barrier 1 n0 f0"]);
    p.handle_disconnected();
    p.handle_records([line(2)]);
    p.handle_connected(at(5), [0]);
    assert_eq!(sent(&mut p, at(5)), ["site4~ Hello 2 n1 f0", "site4 1 line 2", "self Barrier 2 n0 f0"]);
    assert_eq!(p.released().in_doubt, 1);
}

#[test]
fn the_first_answer_makes_a_stream_strict() {
    let mut p = publisher(Audit::Auto, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    sent(&mut p, at(0));
    p.handle_private(at(1), ack(0, 0));
    assert_eq!(p.newly_heard(), [0]);
    p.handle_records([line(2)]);
    assert_eq!(sent(&mut p, at(1)), ["site4~ Hello 2 n1 f4", "site4 N line 2"]);
    p.handle_private(at(1), barrier(1));
    assert_eq!(p.released(), Released { ordered: 1, cost: 71, ..Released::default() });
    // A lost session: the strict line is sent again, after a hello.
    p.handle_disconnected();
    p.handle_connected(at(9), [0]);
    assert_eq!(sent(&mut p, at(9)), ["site4~ Hello 2 n1 f4", "site4 N line 2"]);
    assert_eq!(p.messages().1, 1);
    p.handle_private(at(9), ack(2, 0));
    assert_eq!(p.released(), Released { acked: 1, cost: 71, ..Released::default() });
}

#[test]
fn a_writer_gets_what_it_misses_once_per_request() {
    let mut p = publisher(Audit::On, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records((1..=3).map(line));
    assert_eq!(sent(&mut p, at(0)).len(), 4);
    p.handle_private(at(1), ack(1, FLAG_RESEND));
    assert_eq!(sent(&mut p, at(1)), ["site4~ Hello 2 n1 f4", "site4 N line 2", "site4 N line 3"]);
    p.handle_private(at(2), ack(1, FLAG_RESEND));
    assert_eq!(sent(&mut p, at(2)), [""; 0], "the second writer's request is answered by the same repeat");
    p.handle_private(at(200), ack(1, FLAG_RESEND));
    assert_eq!(sent(&mut p, at(200)).len(), 3);
}

/// A writer has all lines of a process that ended before it knew; the one that goes on has few of them in memory yet.
#[test]
fn lines_that_writers_have_from_an_earlier_process_are_done_when_they_come() {
    let mut p = publisher(Audit::On, Wire::Plain);
    p.resume(0, 5, 11);
    p.handle_connected(at(0), [0]);
    assert_eq!(sent(&mut p, at(0)), ["site4~ Hello 5 n1 f4"]);
    p.handle_private(at(1), ack_of("a", 11, 0));
    assert!(p.is_idle(), "11 was never given out: that answer is nonsense");
    p.handle_private(at(1), ack_of("a", 10, 0));
    p.handle_records((5..=7).map(line));
    p.handle_timeout(at(2), false);
    assert_eq!(p.released().acked, 3, "nothing is sent that is known to be there");
    p.handle_records((8..=11).map(line));
    p.handle_timeout(at(3), false);
    assert_eq!(p.released().acked, 3);
    assert_eq!(sent(&mut p, at(3)), ["site4~ Hello 11 n1 f4", "site4 N line 11"]);
}

#[test]
fn frames_hold_what_fits_and_gaps_stand_in_their_place() {
    let mut p = publisher(Audit::On, Wire::Framed);
    p.handle_connected(at(0), [0]);
    p.handle_records((1..=8).map(line));
    p.handle_records([Record {
        stream: 0,
        seq: 9,
        time_us: 0,
        what: What::Gap { to: 10, why: GapWhy::QueueFull },
    }]);
    p.handle_records([Record {
        stream: 0,
        seq: 11,
        time_us: 0,
        what: What::Gap { to: 12, why: GapWhy::QueueFull },
    }]);
    p.handle_records([line(13)]);
    assert_eq!(
        sent(&mut p, at(0)),
        [
            "site4 Hello 1 n1 f4",
            "site4 Lines 1 n8 f4", // 8 times 7 + 4 bytes
            "site4 Gap 9 n1 f4",
            "site4 Lines 13 n1 f4",
        ]
    );
}

#[test]
fn silence_is_asked_about() {
    let mut p = publisher(Audit::On, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    sent(&mut p, at(0));
    p.handle_timeout(at(999), false);
    assert_eq!(sent(&mut p, at(999)), [""; 0]);
    p.handle_timeout(at(1000), false);
    assert_eq!(sent(&mut p, at(1000)), ["site4~ Hello 2 n1 f4"]);
}

#[test]
fn who_only_listens_is_told_who_speaks_and_changes_nothing() {
    let ask = |group: &[u8]| Frame::encode(Kind::Ask, 0, ANYONE, 0, 0, &[group]).expect("small");
    for (audit, wire, hello) in [
        (Audit::Auto, Wire::Plain, &["site4~ Hello 2 n1 f0"][..]),
        (Audit::On, Wire::Plain, &["site4~ Hello 2 n1 f4"]),
        (Audit::Off, Wire::Plain, &[]),
    ] {
        let mut p = publisher(audit, wire);
        p.handle_private(at(0), ask(&GROUP));
        p.handle_connected(at(0), [0]);
        p.handle_records([line(1)]);
        sent(&mut p, at(0));
        p.handle_private(at(1), barrier(1));
        p.handle_private(at(1), ask(b"another"));
        assert_eq!(sent(&mut p, at(1)), [""; 0]);
        p.handle_private(at(2), ask(&GROUP));
        p.handle_private(at(2), ask(&GROUP));
        assert_eq!(sent(&mut p, at(2)), hello, "{audit:?}");
        p.handle_private(at(1001), ask(&GROUP));
        assert_eq!(sent(&mut p, at(1001)), [""; 0], "once a second");
        p.handle_private(at(1002), ask(&GROUP));
        assert_eq!(sent(&mut p, at(1002)), hello, "{audit:?}");
    }
}

#[test]
fn a_probe_stands_behind_the_lines() {
    let mut p = publisher(Audit::On, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.probe();
    p.handle_records([line(1)]);
    assert_eq!(sent(&mut p, at(0)), ["site4~ Hello 1 n1 f4", "site4 N line 1"]);
    p.probe();
    assert_eq!(sent(&mut p, at(0)), ["site4~ Hello 2 n1 f4"]);
}

#[test]
fn announcements_that_nobody_answers_become_rare() {
    let mut p = publisher(Audit::Auto, Wire::Plain);
    p.handle_connected(at(0), [0]);
    sent(&mut p, at(0));
    let mut times = Vec::new();
    for s in 1..200 {
        p.handle_timeout(at(s * 1000), false);
        times.extend(sent(&mut p, at(s * 1000)).iter().map(|_| s));
    }
    assert_eq!(times, [2, 6, 14, 30, 62, 126, 190]);
}

#[test]
fn without_a_writer_a_short_queue_gives_up_sent_lines_only_in_auto() {
    for (audit, in_doubt) in [(Audit::Auto, 2), (Audit::On, 0)] {
        let cfg = PublisherConfig {
            source: ID,
            audit,
            acks: Acks::All,
            writer_limit: at(30_000),
            batch_bytes: 100,
            about: String::new(),
        };
        let mut p = Publisher::new(cfg, vec![StreamConfig { heard: true, ..stream(Wire::Plain) }]);
        p.handle_connected(at(0), [0]);
        p.handle_records((1..=3).map(line));
        sent(&mut p, at(0));
        p.handle_timeout(at(500), true);
        assert_eq!(p.released().in_doubt, 0);
        p.handle_timeout(at(1500), true);
        assert_eq!(p.released().in_doubt, in_doubt, "{audit:?}");
    }
}

#[test]
fn all_writers_must_have_a_line_unless_one_is_gone() {
    let start = || {
        let mut p = publisher(Audit::On, Wire::Plain);
        p.handle_connected(at(0), [0]);
        p.handle_records((1..=3).map(line));
        sent(&mut p, at(0));
        p.handle_private(at(1), ack_of("b", 1, 0));
        p.handle_private(at(1), ack_of("a", 3, 0));
        assert_eq!(p.released().acked, 1, "both have the first");
        p
    };
    let both = |r: Released| (r.acked, r.acked_in_part);
    let mut p = start();
    p.handle_private(at(2), ack_of("b", 2, FLAG_LAST));
    p.handle_timeout(at(3), false);
    assert_eq!(both(p.released()), (2, 0), "the second ended in order");
    let mut p = start();
    p.handle_timeout(at(29_000), false);
    assert_eq!(both(p.released()), (0, 0));
    p.handle_private(at(30_000), ack_of("a", 3, 0));
    p.handle_timeout(at(32_000), false);
    assert_eq!(both(p.released()), (2, 2), "the second does not answer");
    let mut p = start();
    p.handle_timeout(at(3), true);
    assert_eq!(both(p.released()), (2, 2), "room is short");
    let mut p = start();
    p.relax(at(3));
    assert_eq!(both(p.released()), (2, 2), "the process ends");
}

#[test]
fn a_writer_that_another_source_knows_is_waited_for() {
    let cfg = PublisherConfig {
        source: ID,
        audit: Audit::Auto,
        acks: Acks::All,
        writer_limit: at(30_000),
        batch_bytes: 100,
        about: String::new(),
    };
    let mut p = Publisher::new(cfg, vec![StreamConfig { heard: true, ..stream(Wire::Plain) }]);
    p.expect_writer(at(0), 0, Bytes::from_static(b"b"));
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    sent(&mut p, at(0));
    p.handle_private(at(1), ack_of("a", 1, 0));
    assert_eq!(p.released().acked, 0);
    assert_eq!(p.heard_writers().into_iter().collect::<Vec<_>>(), [((0, Bytes::from_static(b"a")), true)]);
    p.handle_private(at(2), ack_of("b", 1, FLAG_LAST));
    assert_eq!(p.released().acked, 1);
    assert_eq!(p.heard_writers().into_iter().collect::<Vec<_>>(), [((0, Bytes::from_static(b"b")), false)]);
}

#[test]
fn giving_up_tells_sent_lines_from_unsent() {
    let mut p = publisher(Audit::On, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    sent(&mut p, at(0));
    p.handle_disconnected();
    p.handle_records([line(2), line(3)]);
    p.give_up();
    assert_eq!(p.released(), Released { in_doubt: 1, dropped: 2, cost: 3 * 71, ..Released::default() });
    assert_eq!(p.waiting(), 0);
}

#[test]
fn nonsense_in_the_private_group_changes_nothing() {
    let mut p = publisher(Audit::Auto, Wire::Plain);
    p.handle_connected(at(0), [0]);
    p.handle_records([line(1)]);
    sent(&mut p, at(0));
    for payload in [
        Bytes::from_static(b"hello"),
        Bytes::new(),
        ack(99, 0),
        Frame::encode(Kind::Ack, 0, SourceId([9; 16]), 1, 0, &[&GROUP]).expect("small"),
        Frame::encode(Kind::Ack, 0, ID, 1, 0, &[b"other"]).expect("small"),
        Frame::encode(Kind::Ack, 0, ID, 1, 0, &[]).expect("small"),
        barrier(7),
    ] {
        p.handle_private(at(1), payload);
    }
    assert_eq!((p.released(), p.waiting(), p.newly_heard()), (Released::default(), 1, vec![]));
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Op {
    /// Requests end.
    Push(u8),
    /// The sender hands so many messages to its daemon.
    Send(u8),
    /// So many messages reach the writers.
    Deliver(u8),
    /// Writer flushes and acknowledges; the answers reach the source.
    Ack(bool),
    /// The daemon of the source dies with what was not delivered, and is back.
    Kill,
    /// The source's daemon is alone: what is sent now reaches nobody.
    Alone(bool),
    /// A second writer starts from nothing.
    Join,
    /// The second writer is (or is no more) in another component.
    Cut(bool),
    Wait,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1u8..6).prop_map(Op::Push),
        4 => (1u8..8).prop_map(Op::Send),
        4 => (1u8..8).prop_map(Op::Deliver),
        3 => any::<bool>().prop_map(Op::Ack),
        1 => Just(Op::Kill),
        1 => any::<bool>().prop_map(Op::Alone),
        1 => Just(Op::Join),
        1 => any::<bool>().prop_map(Op::Cut),
        2 => Just(Op::Wait),
    ];
    prop::collection::vec(op, 0..120)
}

/// A writer with what it wrote.
struct Witness {
    sequencer: Sequencer,
    lines: Vec<u64>,
    missing: BTreeSet<u64>,
    first: Option<u64>,
}

impl Witness {
    fn new(id: u8) -> Self {
        let sequencer = Sequencer::new(SourceId([id; 16]));
        Self { sequencer, lines: Vec::new(), missing: BTreeSet::new(), first: None }
    }

    fn receive(&mut self, now: Duration, sender: &Bytes, t: &Transmit) {
        let mut out = Vec::new();
        let audit = t.group.as_ref() == Some(&AUDIT);
        self.sequencer.handle_message(now, sender, &GROUP, audit, t.mess_type, t.payload.clone(), &mut out);
        for output in out {
            match output {
                Output::Line { line, .. } => {
                    let text = String::from_utf8_lossy(&line);
                    self.lines
                        .push(text.trim().strip_prefix("line ").expect("ours").parse().expect("number"));
                }
                Output::Gap { from, to, .. } => self.missing.extend(from..=to),
                Output::Source { first, .. } => self.first = self.first.or(Some(first)),
                Output::End { complete, .. } => assert!(complete),
                Output::Duplicate { .. } | Output::Rotate { .. } => {}
                Output::Reject(why) => panic!("{why}"),
            }
        }
    }
}

struct World {
    now: Duration,
    intake: Intake,
    pushed: u64,
    dropped: BTreeSet<u64>,
    publisher: Publisher,
    session: u32,
    alone: bool,
    /// Messages on their way to the writers: sender and message.
    wire: VecDeque<(Bytes, Transmit)>,
    writers: Vec<Witness>,
    cut: bool,
}

impl World {
    fn new(wire: Wire) -> Self {
        let mut publisher = publisher(Audit::On, wire);
        publisher.handle_connected(Duration::ZERO, [0]);
        Self {
            now: Duration::ZERO,
            intake: Intake::new(1, 71 * 20, WhenFull::DropNewest),
            pushed: 0,
            dropped: BTreeSet::new(),
            publisher,
            session: 0,
            alone: false,
            wire: VecDeque::new(),
            writers: vec![Witness::new(1)],
            cut: false,
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Push(n) => (0..n).for_each(|_| self.push()),
            Op::Send(n) => self.send(usize::from(n)),
            Op::Deliver(n) => (0..n).for_each(|_| self.deliver()),
            Op::Ack(first_only) => self.ack(first_only),
            Op::Kill => {
                self.wire.clear();
                self.session += 1;
                self.publisher.handle_disconnected();
                self.publisher.handle_connected(self.now, [0]);
            }
            Op::Alone(alone) => self.alone = alone,
            Op::Join => {
                if self.writers.len() == 1 {
                    self.writers.push(Witness::new(2));
                }
            }
            Op::Cut(cut) => self.cut = cut,
            Op::Wait => {
                self.now += at(250);
                self.publisher.handle_timeout(self.now, false);
            }
        }
        self.intake.release(self.publisher.released().cost);
    }

    fn push(&mut self) {
        self.pushed += 1;
        // All lines cost the same, so the bound is a number of lines.
        let data = Bytes::from(format!("line {:<4}", self.pushed) + "\n");
        if !self.intake.push(0, 0, data, false).accepted {
            self.dropped.insert(self.pushed);
        }
    }

    fn send(&mut self, n: usize) {
        let mut records = VecDeque::new();
        self.intake.take(&mut records);
        self.publisher.handle_records(records);
        for _ in 0..n {
            let Some(transmit) = self.publisher.poll_transmit(self.now) else { return };
            if !self.alone && transmit.group.is_some() {
                self.wire.push_back((Bytes::from(format!("#m{}#d", self.session)), transmit));
            }
        }
    }

    fn deliver(&mut self) {
        if let Some((sender, transmit)) = self.wire.pop_front() {
            let reached = if self.cut { 1 } else { self.writers.len() };
            for writer in &mut self.writers[..reached] {
                writer.receive(self.now, &sender, &transmit);
            }
        }
    }

    fn ack(&mut self, first_only: bool) {
        let n = if first_only || self.cut { 1 } else { self.writers.len() };
        for writer in &mut self.writers[..n] {
            for (to, message) in writer.sequencer.acks(self.now) {
                if to == format!("#m{}#d", self.session) && !self.alone {
                    self.publisher.handle_private(self.now, message);
                }
            }
        }
    }

    /// Faults end; everything settles.
    fn settle(&mut self) {
        (self.alone, self.cut) = (false, false);
        for round in 0..40 {
            // One more line, from which a writer that was cut off learns what it lacks.
            if round == 20 {
                self.push();
            }
            for op in [Op::Send(100), Op::Deliver(100), Op::Ack(false), Op::Wait] {
                self.step(&op);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is killed, lost or cut off: every accepted line is in the first writer's file once and in order, and
    /// every other is reported as missing. A later writer has no duplicates and says what it lacks.
    #[test]
    fn accepted_lines_are_written_once_and_in_order(framed: bool, ops in ops()) {
        let mut world = World::new(if framed { Wire::Framed } else { Wire::Plain });
        for op in &ops {
            world.step(op);
        }
        world.settle();
        prop_assert_eq!(world.publisher.waiting(), 0);
        for (i, writer) in world.writers.iter().enumerate() {
            prop_assert!(writer.lines.is_sorted_by(|a, b| a < b), "{:?}", writer.lines);
            let Some(first) = writer.first else {
                prop_assert!(writer.lines.is_empty());
                continue;
            };
            let got: BTreeSet<u64> = writer.lines.iter().chain(&writer.missing).copied().collect();
            prop_assert_eq!(&got, &(first..=world.pushed).collect::<BTreeSet<_>>());
            prop_assert_eq!(got.len(), writer.lines.len() + writer.missing.len());
            // A writer has everything from its start on, but for what the source itself dropped.
            let dropped: BTreeSet<u64> = world.dropped.range(first..).copied().collect();
            if i == 0 {
                prop_assert_eq!(first, 1);
                prop_assert_eq!(&writer.missing, &dropped);
            } else {
                prop_assert!(writer.missing.is_superset(&dropped));
            }
        }
        // With two writers one acknowledgement is enough, so the union is complete.
        let union: BTreeSet<u64> = world.writers.iter().flat_map(|w| &w.lines).copied().collect();
        let accepted: BTreeSet<u64> = (1..=world.pushed).filter(|n| !world.dropped.contains(n)).collect();
        prop_assert_eq!(union, accepted);
    }
}
