#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use log_stream::intake::What;
use log_stream::{GapWhy, Record, SourceId, Wire};
use proptest::prelude::*;

use crate::{Budget, Journal, Meta, Orphan, Ring, adopt, bytes_in};

fn budget(limit: u64) -> Budget {
    Budget { used: Box::leak(Box::new(AtomicU64::new(0))), limit }
}

fn meta(id: u8) -> Meta {
    Meta {
        source: SourceId([id; 16]),
        link: "4803 4803@b".into(),
        about: "host=a\npid=7\n".into(),
        streams: vec![
            (Bytes::from_static(b"site4"), Wire::Plain),
            (Bytes::from_static(b"a=b"), Wire::Framed),
        ],
    }
}

fn line(stream: u32, seq: u64) -> Record {
    let data = Bytes::from(format!("group {stream} line {seq}\n"));
    Record { stream, seq, time_us: seq, what: What::Line { data, cut: seq.is_multiple_of(5) } }
}

fn lines(stream: u32, numbers: impl IntoIterator<Item = u64>) -> VecDeque<Record> {
    numbers.into_iter().map(|seq| line(stream, seq)).collect()
}

fn adopted(root: &Path, budget: Budget) -> Option<(Orphan, VecDeque<Record>)> {
    let mut orphan = adopt(root, budget, |_| true).unwrap()?;
    let mut all = VecDeque::new();
    while !orphan.journal.read(&mut orphan.cursor, 1000, &mut all).unwrap() {}
    Some((orphan, all))
}

fn newest_log(folder: &Path) -> PathBuf {
    let logs = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

#[test]
fn what_was_appended_is_read_back_from_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), &meta(1), 9, budget(1 << 20)).unwrap();
    journal.append(&lines(0, 1..=10)).unwrap();
    let mut place = journal.append(&lines(1, 1..=500)).unwrap();
    let (mut got, mut rounds) = (VecDeque::new(), 0);
    while !journal.read(&mut place, 4000, &mut got).unwrap() {
        rounds += 1;
    }
    assert_eq!(got, lines(1, 1..=500));
    assert!(rounds > 5, "read in parts: {rounds}");
    journal.append(&lines(0, 11..=12)).unwrap();
    got.clear();
    assert!(journal.read(&mut place, 4000, &mut got).unwrap());
    assert_eq!(got, lines(0, 11..=12));
}

#[test]
fn a_journal_in_use_is_not_adopted_and_afterwards_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), &meta(1), 9, budget(1 << 20)).unwrap();
    journal.append(&lines(0, 1..=3)).unwrap();
    assert!(adopt(dir.path(), budget(0), |_| true).unwrap().is_none());
    drop(journal);
    assert!(adopt(dir.path(), budget(0), |link| link == "other").unwrap().is_none());
    let (orphan, got) = adopted(dir.path(), budget(0)).unwrap();
    assert_eq!((orphan.instance, orphan.lines, orphan.torn), (9, 3, 0));
    assert_eq!(orphan.meta, meta(1));
    assert_eq!(got, lines(0, 1..=3));
    assert!(adopt(dir.path(), budget(0), |_| true).unwrap().is_none());
    orphan.journal.finish().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn confirmed_lines_are_not_sent_again_and_holes_are_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), &meta(1), 9, budget(1 << 20)).unwrap();
    journal.append(&lines(0, 1..=6)).unwrap();
    journal.append(&lines(0, 9..=10)).unwrap();
    journal.mark(0, 4, true).unwrap();
    journal.leave().unwrap();
    let (orphan, got) = adopted(dir.path(), budget(0)).unwrap();
    assert_eq!((orphan.instance, orphan.lines, &*orphan.fronts), (0, 5, &[(4, true), (1, false)][..]));
    let mut want = lines(0, 4..=6);
    let what = What::Gap { to: 8, why: GapWhy::Crash };
    want.push_back(Record { stream: 0, seq: 7, time_us: 9, what });
    want.extend(lines(0, 9..=10));
    assert_eq!(got, want);
}

#[test]
fn a_torn_record_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), &meta(1), 9, budget(1 << 20)).unwrap();
    journal.append(&lines(0, 1..=6)).unwrap();
    let log = newest_log(journal.folder());
    drop(journal);
    let size = fs::metadata(&log).unwrap().len();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(size - 3).unwrap();
    let (orphan, got) = adopted(dir.path(), budget(0)).unwrap();
    assert_eq!(got, lines(0, 1..=5));
    assert!(orphan.torn > 20);
    assert_eq!(fs::metadata(&log).unwrap().len() + orphan.torn, size - 3);
}

#[test]
fn confirmed_segments_are_removed_and_a_stuck_group_keeps_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let limit = budget(1 << 30);
    let mut journal = Journal::create(dir.path(), &meta(1), 9, limit).unwrap();
    journal.append(&lines(1, 1..=1)).unwrap();
    let big = |seq| Record {
        what: What::Line { data: Bytes::from(vec![b'x'; 100_000]), cut: false },
        ..line(0, seq)
    };
    for seq in 1..=100 {
        journal.append(&[big(seq)].into()).unwrap();
    }
    assert_eq!(limit.used.load(Relaxed), journal.bytes());
    assert!(journal.bytes() > 10_000_000);
    journal.reap(false, |stream| if stream == 0 { 101 } else { 1 });
    assert!((4_000_000..5_000_000).contains(&journal.bytes()), "{}", journal.bytes());
    assert!(journal.holds(1, 1) && !journal.holds(0, 101));
    journal.reap(false, |_| 101);
    assert_eq!((journal.bytes(), limit.used.load(Relaxed)), (0, 0));
    // The segment that began anew is used again.
    let mut place = journal.append(&lines(0, 101..=103)).unwrap();
    let mut got = VecDeque::new();
    assert!(journal.read(&mut place, 1000, &mut got).unwrap());
    assert_eq!(got.len(), 3);
}

#[test]
fn the_limit_holds_and_nothing_is_written_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let limit = budget(1000);
    let mut journal = Journal::create(dir.path(), &meta(1), 9, limit).unwrap();
    journal.append(&lines(0, 1..=10)).unwrap();
    let error = journal.append(&lines(0, 11..=100)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    journal.append(&lines(0, 11..=12)).unwrap();
    assert!(limit.used.load(Relaxed) <= 1000);
    assert_eq!(bytes_in(dir.path()), limit.used.load(Relaxed));
    drop(journal);
    assert_eq!(adopted(dir.path(), limit).unwrap().1, lines(0, 1..=12));
}

#[test]
fn lines_that_only_the_ring_has_come_behind_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), &meta(1), 9, budget(1 << 20)).unwrap();
    let mut ring = Ring::create(journal.folder(), 1 << 16).unwrap();
    for seq in 1..=6 {
        assert!(ring.push(&line(0, seq)));
    }
    let taken = ring.head();
    assert!(ring.push(&line(0, 7)) && ring.push(&line(1, 1)));
    journal.append(&lines(0, 1..=6)).unwrap();
    drop((journal, ring));
    // Killed between the append and the release: nothing is taken twice.
    let (orphan, got) = adopted(dir.path(), budget(0)).unwrap();
    let mut want = lines(0, 1..=7);
    want.push_back(line(1, 1));
    assert_eq!((got, orphan.lines), (want.clone(), 8));
    // The one who adopted it is killed, too.
    drop(orphan);
    assert_eq!(adopted(dir.path(), budget(0)).unwrap().1, want);
    assert!(taken > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Lines of many sizes, released in parts: the file always tells exactly those that are not released, in order.
    #[test]
    fn the_ring_tells_what_is_not_released(steps in prop::collection::vec((0usize..300, 0u8..4), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::create(dir.path(), 2000).unwrap();
        let (mut waiting, mut seq) = (VecDeque::new(), 0);
        for (size, release) in steps {
            let data = Bytes::from(vec![b'l'; size]);
            let record = Record { stream: 0, seq, time_us: 0, what: What::Line { data, cut: false } };
            if ring.push(&record) {
                waiting.push_back((record, ring.head()));
                seq += 1;
            }
            for _ in 0..release {
                if let Some((_, head)) = waiting.pop_front() {
                    ring.release(head);
                }
            }
            let told = Ring::records(&fs::read(dir.path().join("ring")).unwrap());
            let want: Vec<Record> = waiting.iter().map(|(record, _)| record.clone()).collect();
            prop_assert_eq!(told, want);
        }
    }
}
