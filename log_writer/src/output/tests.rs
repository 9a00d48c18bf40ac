use super::*;

const PLAIN: OpenOptionsOf = OpenOptionsOf { lock: true, no_links: false };

#[test]
fn names_are_files_commands_or_standard_output() {
    assert_eq!(Target::parse("a.log"), Target::File("a.log".into()));
    assert_eq!(Target::parse("| cat >x"), Target::Command("cat >x".into()));
    assert_eq!(Target::parse("-"), Target::Stdout);
}

#[test]
fn lines_are_appended_and_directories_made() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x/y/a.log");
    for _ in 0..2 {
        let mut output = Output::open(Target::File(path.clone()), PLAIN).expect("open");
        output.append(b"a\n");
        assert_eq!(output.pending(), 2);
        output.flush().expect("flush");
        output.sync().expect("sync");
        assert_eq!(output.pending(), 0);
    }
    assert_eq!(std::fs::read(&path).expect("read"), b"a\na\n");
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let target = Target::File(dir.path().join("a.log"));
    let _first = Output::open(target.clone(), PLAIN).expect("open");
    let error = Output::open(target.clone(), PLAIN).expect_err("locked");
    assert!(error.to_string().contains("another process"), "{error}");
    Output::open(target, OpenOptionsOf { lock: false, no_links: false }).expect("without locks");
}

#[test]
fn after_a_rename_lines_go_to_a_new_file() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("a.log");
    let mut output = Output::open(Target::File(path.clone()), PLAIN).expect("open");
    output.append(b"1\n");
    output.flush().expect("flush");
    output.reopen().expect("nothing was renamed");
    std::fs::rename(&path, dir.path().join("a.log.1")).expect("rename");
    output.append(b"2\n");
    output.flush().expect("flush");
    output.reopen().expect("reopen");
    output.append(b"3\n");
    output.flush().expect("flush");
    assert_eq!(std::fs::read(dir.path().join("a.log.1")).expect("read"), b"1\n2\n");
    assert_eq!(std::fs::read(&path).expect("read"), b"3\n");
}

fn audited(path: &Path) -> Output {
    let mut output = Output::open(Target::File(path.into()), PLAIN).expect("open");
    output.open_index().expect("index");
    output
}

fn put(output: &mut Output, seq: u64) {
    output.append(format!("{seq}\n").as_bytes());
    let group = bytes::Bytes::from_static(b"g");
    output.index().expect("index").line(&group, log_stream::SourceId([1; 16]), seq, 1);
    output.flush().expect("flush");
}

#[test]
fn the_index_follows_a_renamed_file() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("a.log");
    let mut output = audited(&path);
    put(&mut output, 1);
    std::fs::rename(&path, dir.path().join("a.log-1")).expect("rename");
    output.reopen().expect("reopen");
    put(&mut output, 2);
    assert!(dir.path().join("a.log-1.audit").exists());
    // By logrotate, both at once.
    std::fs::rename(&path, dir.path().join("a.log-2")).expect("rename");
    std::fs::rename(dir.path().join("a.log.audit"), dir.path().join("a.log.audit-2")).expect("rename");
    output.reopen().expect("reopen");
    put(&mut output, 3);
    // Removed.
    std::fs::remove_file(&path).expect("remove");
    output.reopen().expect("reopen");
    assert!(dir.path().join("a.log.removed.audit").exists());
    put(&mut output, 4);
    drop(output);
    let paths = ["a.log-1", "a.log-2", "a.log"].map(|name| dir.path().join(name));
    let audit = crate::audit::Audit::of(&paths).expect("audit");
    let source = audit.sources.values().next().expect("one");
    assert_eq!((source.lines, source.holes()), (3, vec![(3, 3)]), "{audit:?}");
}

#[test]
fn a_file_is_ended_and_another_begun() {
    let dir = tempfile::tempdir().expect("dir");
    let path = |name: &str| dir.path().join(name);
    let mut output = audited(&path("a.log"));
    put(&mut output, 1);
    assert_eq!(output.rotate(path("a.log"), Some(&path("a.log-x"))).expect("rotate"), path("a.log-x"));
    put(&mut output, 2);
    assert_eq!(output.rotate(path("b.log"), None).expect("rotate"), path("a.log"));
    put(&mut output, 3);
    // The next file cannot be opened: the old one is used on, under its name.
    output.rotate("/proc/nothing/x".into(), Some(&path("aside"))).expect_err("no such place");
    put(&mut output, 4);
    drop(output);
    let read = |name: &str| std::fs::read_to_string(path(name)).expect(name);
    assert_eq!(
        (read("a.log-x"), read("a.log"), read("b.log")),
        ("1\n".into(), "2\n".into(), "3\n4\n".into())
    );
    let audit = crate::audit::Audit::of(&["a.log-x", "a.log", "b.log"].map(path)).expect("audit");
    assert!(audit.is_clean(), "{audit:?}");
    assert_eq!(audit.files.iter().map(|f| f.sealed).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn links_are_refused_where_names_come_from_outside() {
    let dir = tempfile::tempdir().expect("dir");
    std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).expect("link");
    let target = Target::File(dir.path().join("link"));
    Output::open(target.clone(), OpenOptionsOf { lock: true, no_links: true }).expect_err("a link");
    Output::open(target, PLAIN).expect("the administrator's own link");
}

#[test]
fn a_full_disk_keeps_the_rest() {
    let mut output = Output::open(Target::File("/dev/full".into()), PLAIN).expect("open");
    output.append(b"a\n");
    let error = output.flush().expect_err("full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(output.pending(), 2);
}

#[test]
fn a_command_that_ended_is_started_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    // Each run takes one line.
    let command = format!("head -n 1 >>{}", out.display());
    let mut output = Output::open(Target::Command(command), PLAIN).expect("open");
    let begun = std::time::Instant::now();
    let mut lines = 0;
    while lines < 2 {
        assert!(begun.elapsed().as_secs() < 20, "the command was not started anew");
        output.append(b"line\n");
        // The command may end between two writes: the error leaves the line for the next run.
        let _ = output.flush();
        lines = std::fs::read(&out).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
    }
}
