use proptest::prelude::*;

use super::code::{take, unzigzag, zigzag};
use super::*;

const A: SourceId = SourceId([1; 16]);
const B: SourceId = SourceId([2; 16]);
const GROUP: Bytes = Bytes::from_static(b"site4");

fn none(_: u64) -> io::Result<(u64, u32)> {
    panic!("everything is covered")
}

fn records(path: &Path) -> Vec<Record> {
    let mut reader = Reader::new(File::open(path).expect("open")).expect("index");
    std::iter::from_fn(|| reader.block().expect("good")).flat_map(|(_, records)| records).collect()
}

#[test]
fn runs_of_lines_are_one_record_and_sources_are_named_once() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("a.audit");
    let mut index = Index::open(path.clone(), 0, false, none).expect("open");
    for seq in 5..8 {
        index.line(&GROUP, A, seq, 1);
    }
    index.line(&GROUP, B, 1, 2);
    index.plain(1);
    index.plain(2);
    index.line(&GROUP, A, 8, 1);
    index.duplicate(&GROUP, A, 6);
    index.gap(&GROUP, A, 9, 10, GapReason::Lost);
    index.flush(100, 7, 8).expect("flush");
    index.line(&GROUP, A, 11, 1);
    index.end(&GROUP, A, 11);
    index.event(Event::Stop);
    index.flush(110, 8, 1).expect("flush");
    index.sync().expect("sync");
    let wanted = [
        Record::Source { id: A, group: GROUP, first: 5 },
        Record::Lines { source: 0, seq: 5, count: 3 },
        Record::Source { id: B, group: GROUP, first: 1 },
        Record::Multi { source: 1, seq: 1, lines: 2 },
        Record::Plain(3),
        Record::Lines { source: 0, seq: 8, count: 1 },
        Record::Duplicates { source: 0, seq: 6, count: 1 },
        Record::Gap { source: 0, seq: 9, count: 2, reason: GapReason::Lost },
        Record::Lines { source: 0, seq: 11, count: 1 },
        Record::End { source: 0, last: 11 },
        Record::Event(Event::Stop),
    ];
    assert_eq!(records(&path), wanted);
}

#[test]
fn interleaved_sources_cost_three_bytes_a_line() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("a.audit");
    let mut index = Index::open(path.clone(), 0, false, none).expect("open");
    for seq in 1..=10_000 {
        index.line(&GROUP, A, seq, 1);
        index.line(&GROUP, B, seq, 1);
    }
    index.flush(1, 0, 20_000).expect("flush");
    let len = std::fs::metadata(&path).expect("file").len();
    assert!(len < 3 * 20_000 + 200, "{len} bytes");
}

#[test]
fn an_index_goes_on_where_it_was_and_a_torn_end_is_cut() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("a.audit");
    {
        let mut index = Index::open(path.clone(), 0, false, none).expect("open");
        index.line(&GROUP, A, 1, 1);
        index.flush(10, 0, 1).expect("flush");
        index.line(&GROUP, A, 2, 1);
        index.flush(20, 0, 1).expect("flush");
    }
    let whole = std::fs::read(&path).expect("read");
    for torn in 0..whole.len() {
        std::fs::write(&path, &whole[..torn]).expect("write");
        let mut covered = None;
        let mut index = Index::open(path.clone(), 20, false, |from| {
            covered = Some(from);
            Ok((9, 0))
        })
        .expect("open");
        index.line(&GROUP, A, 3, 1);
        index.flush(30, 0, 1).expect("flush");
        let seen = records(&path);
        assert_eq!(seen.last(), Some(&Record::Lines { source: 0, seq: 3, count: 1 }), "{torn}: {seen:?}");
        assert_eq!(covered.is_some(), torn < whole.len(), "{torn}");
        assert_eq!(seen.contains(&Record::Event(Event::Recovered)), covered.is_some(), "{torn}: {seen:?}");
    }
    // A log that was cut: what the index says about the rest goes too.
    std::fs::write(&path, &whole).expect("write");
    Index::open(path.clone(), 10, false, none).expect("open");
    assert_eq!(records(&path).len(), 2);
    std::fs::write(&path, b"something else").expect("write");
    let error = Index::open(path, 10, false, none).expect_err("another file");
    assert!(error.to_string().contains("no audit index"), "{error}");
}

proptest! {
    #[test]
    fn numbers_come_back(n: u64, from: u64, to: u64) {
        let mut out = Vec::new();
        put(&mut out, n);
        prop_assert_eq!(take(&mut &out[..]), Some(n));
        prop_assert_eq!(unzigzag(from, zigzag(from, to)), to);
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        let body = [&[0u8, 0, 0, 0, 0, 0, 0][..], &bytes].concat();
        let mut file = MAGIC.to_vec();
        file.extend(u32::try_from(body.len()).expect("small").to_le_bytes());
        file.extend(crc32fast::hash(&body).to_le_bytes());
        file.extend(body);
        let mut reader = Reader::new(&file[..]).expect("head");
        let _ = reader.block();
    }
}
