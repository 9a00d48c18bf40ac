//! Tests of the audit.

use std::io::Write;

use super::*;
use crate::index::Index;

const GROUP: Bytes = Bytes::from_static(b"site4");

fn id(n: u8) -> SourceId {
    SourceId([n; 16])
}

/// A log with its index: (source, number) of each line.
fn write(dir: &Path, name: &str, lines: &[(u8, u64)], more: impl FnOnce(&mut Index)) -> PathBuf {
    let path = dir.join(name);
    let text: String = lines.iter().map(|(n, seq)| format!("line {seq} of {n}\n")).collect();
    std::fs::write(&path, &text).expect("write");
    let mut index = Index::open(Index::path_of(&path), 0, false, |_| Ok((0, 0))).expect("index");
    for (n, seq) in lines {
        index.line(&GROUP, id(*n), *seq, 1);
    }
    more(&mut index);
    index.flush(text.len() as u64, crc32fast::hash(text.as_bytes()), lines.len() as u64).expect("flush");
    path
}

fn nothing(_: &mut Index) {}

#[test]
fn files_are_complete_together_in_any_order() {
    let dir = tempfile::tempdir().expect("dir");
    let a = write(dir.path(), "a", &[(1, 1), (2, 7), (1, 2)], nothing);
    let b = write(dir.path(), "b", &[(1, 3), (2, 8)], |index| index.end(&GROUP, id(1), 3));
    for paths in [[a.clone(), b.clone()], [b.clone(), a]] {
        let audit = Audit::of(&paths).expect("audit");
        assert!(audit.is_clean(), "{audit:?}");
        let one = &audit.sources[&(GROUP, id(1))];
        assert_eq!((one.lines, one.range(), one.ended), (3, Some((1, 3)), Some(3)));
    }
    let audit = Audit::of(&[b]).expect("audit");
    assert!(audit.is_clean(), "one file alone has no hole before its first line");
    assert_eq!(report::json(&audit)["clean"], true);
    assert!(report::text(&audit).contains("CLEAN"));
}

#[test]
fn holes_doubles_and_wrong_order_are_found() {
    let dir = tempfile::tempdir().expect("dir");
    let path = write(dir.path(), "a", &[(1, 1), (1, 2), (1, 5), (1, 2), (2, 3), (2, 1), (2, 2)], |index| {
        index.gap(&GROUP, id(1), 6, 7, GapReason::Publisher);
        index.duplicate(&GROUP, id(1), 5);
        index.end(&GROUP, id(2), 4);
    });
    let audit = Audit::of(std::slice::from_ref(&path)).expect("audit");
    let one = &audit.sources[&(GROUP, id(1))];
    assert_eq!((one.doubled, one.reordered, one.left_out, one.missing()), (1, 1, 1, 4));
    assert_eq!(one.holes(), [(3, 4)]);
    let two = &audit.sources[&(GROUP, id(2))];
    assert_eq!((two.doubled, two.reordered, two.missing()), (0, 1, 1));
    assert_eq!(two.holes(), [(4, 4)]);
    let text = report::text(&audit);
    for word in ["GAP 6..7", "HOLE 3..4", "NOT CLEAN", "dropped by the web server"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn lines_that_belong_elsewhere_are_no_hole() {
    let dir = tempfile::tempdir().expect("dir");
    let path = write(dir.path(), "a", &[(1, 1)], |index| {
        index.elsewhere(&GROUP, id(1), 2);
        index.elsewhere(&GROUP, id(1), 3);
        index.end(&GROUP, id(1), 3);
    });
    let audit = Audit::of(&[path]).expect("audit");
    assert!(audit.is_clean(), "{audit:?}");
}

#[test]
fn changed_cut_and_added_bytes_are_found() {
    let dir = tempfile::tempdir().expect("dir");
    let path = write(dir.path(), "a", &[(1, 1), (1, 2)], nothing);
    let text = std::fs::read(&path).expect("read");
    let problems = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("write");
        let audit = Audit::of(std::slice::from_ref(&path)).expect("audit");
        assert!(!audit.is_clean());
        audit.files[0].problems.join("; ")
    };
    let mut changed = text.clone();
    changed[0] = b'L';
    assert!(problems(&changed).contains("not those that were written"));
    assert!(problems(&text[..20]).contains("ends at byte 20"));
    assert!(
        problems(&[&text[..], b"one more\n"].concat())
            .contains("last 9 bytes (1 lines) are not in the index")
    );
    std::fs::remove_file(Index::path_of(&path)).expect("remove");
    assert!(problems(&text).contains("no audit index"));
}

#[test]
fn compressed_logs_are_read() {
    let dir = tempfile::tempdir().expect("dir");
    let path = write(dir.path(), "a.log", &[(1, 1), (1, 2)], nothing);
    let packed = dir.path().join("a.log.gz");
    let mut gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(&packed).expect("file"),
        flate2::Compression::fast(),
    );
    gzip.write_all(&std::fs::read(&path).expect("read")).expect("write");
    gzip.finish().expect("finish");
    std::fs::remove_file(path).expect("remove");
    assert!(Audit::of(&[packed]).expect("audit").is_clean());
}

#[test]
fn two_writers_are_compared() {
    let dir = tempfile::tempdir().expect("dir");
    let a = write(dir.path(), "a", &[(1, 1), (1, 2), (2, 1)], nothing);
    let same = write(dir.path(), "same", &[(1, 1), (1, 2), (2, 1)], nothing);
    let order = write(dir.path(), "order", &[(1, 1), (2, 1), (1, 2)], nothing);
    let less = write(dir.path(), "less", &[(1, 1), (1, 2)], nothing);
    let of = |other: &Path| compare::Comparison::of(&a, other).expect("compare");
    assert!(of(&same).identical());
    let c = of(&order);
    assert!(!c.identical() && c.same_numbers() && c.same_lines == 1);
    let origins = c.differ.as_ref().expect("differ").each_ref().map(|p| p.origin.clone().expect("origin"));
    assert_eq!(origins, [(GROUP, id(1), 2), (GROUP, id(2), 1)]);
    let c = of(&less);
    assert_eq!((c.only[0].len(), c.only[1].len(), c.same_lines), (1, 0, 2));
    let text = report::comparison_text(&c);
    assert!(text.contains("ends here") && text.contains("only in"), "{text}");
    assert_eq!(report::comparison_json(&c)["same_lines"], 2);
}

#[test]
fn a_directory_of_virtual_hosts_is_counted() {
    let dir = tempfile::tempdir().expect("dir");
    let hosts = dir.path().join("hosts");
    std::fs::create_dir(&hosts).expect("dir");
    std::fs::write(hosts.join("a"), "1\n2\n").expect("write");
    std::fs::write(hosts.join("b"), "3\n").expect("write");
    let mut index = Index::open(Index::path_of(&hosts), 0, false, |_| Ok((0, 0))).expect("index");
    for seq in 1..=3 {
        index.line(&GROUP, id(1), seq, 1);
    }
    index.flush(0, 0, 3).expect("flush");
    assert!(Audit::of(std::slice::from_ref(&hosts)).expect("audit").is_clean());
    std::fs::remove_file(hosts.join("b")).expect("remove");
    let audit = Audit::of(&[hosts]).expect("audit");
    assert!(audit.files[0].problems[0].contains("tells of 3 lines"), "{audit:?}");
}
