use spread::GroupName;

use super::*;
use crate::vhosts::{OPEN_MAX, VHOSTS_MAX};

const LINE: &[u8] = b"192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n";

fn log(group: &str, dir: &Path, file: Option<&str>) -> LogConfig {
    LogConfig {
        target: file.map(|f| Target::File(dir.join(f))),
        ..LogConfig::new(group.parse::<GroupName>().expect("group"))
    }
}

const OPTIONS: RouterOptions =
    RouterOptions { lock: true, durable: false, index: false, now: Timestamp::UNIX_EPOCH };

fn router(logs: Vec<LogConfig>) -> Router {
    let session = SessionConfig { daemons: vec![], logs, state: None };
    Router::open(&session, OPTIONS, None).expect("open").0
}

fn put(router: &mut Router, group: &'static str, payload: &[u8]) {
    router.append(&Bytes::from_static(group.as_bytes()), payload, None);
    router.flush().expect("flush");
}

fn read(dir: &Path, name: &str) -> String {
    String::from_utf8(std::fs::read(dir.join(name)).expect(name)).expect("text")
}

#[test]
fn groups_have_their_files_and_share_one() {
    let dir = tempfile::tempdir().expect("dir");
    let dir = dir.path();
    let mut r = router(vec![log("a", dir, Some("1")), log("b", dir, Some("2")), log("c", dir, Some("1"))]);
    for group in ["a", "b", "c", "other"] {
        put(&mut r, group, format!("{group}\n").as_bytes());
    }
    put(&mut r, "a", b"no feed");
    assert_eq!(read(dir, "1"), "a\nc\nno feed\n");
    assert_eq!(read(dir, "2"), "b\n");
}

#[test]
fn recorded_messages_give_their_lines() {
    // spec: log-cases/streams.jsonl; a character of a text is a byte.
    let mut seen = 0;
    for line in include_str!("../../cases/streams.jsonl").lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let (true, Some(raw)) = (case["kind"] == "message", case["raw"].as_str()) else { continue };
        let raw: Vec<u8> = raw.chars().map(|c| u8::try_from(c).expect("a byte")).collect();
        let dir = tempfile::tempdir().expect("dir");
        let mut r = router(vec![log("a", dir.path(), Some("1"))]);
        if !raw.is_empty() {
            put(&mut r, "a", &raw);
        }
        let written = std::fs::read(dir.path().join("1")).expect("read");
        let lines = written.iter().filter(|b| **b == b'\n').count();
        assert_eq!(Some(lines as u64), case["expect"]["lines_written"].as_u64(), "{}", case["id"]);
        assert!(written.is_empty() || written.ends_with(b"\n"));
        seen += 1;
    }
    assert!(seen > 2, "{seen} cases");
}

#[test]
fn any_match_is_enough() {
    let dir = tempfile::tempdir().expect("dir");
    let dir = dir.path();
    let matches = ["^G[A-Z]T", "x{2}$"].map(|m| Matcher::new(m).expect("good")).to_vec();
    let mut r = router(vec![LogConfig { matches, ..log("a", dir, Some("1")) }]);
    put(&mut r, "a", b"GET\nPUT\nxx\nx\n");
    assert_eq!(read(dir, "1"), "GET\nxx\n");
    Matcher::new("(a)\\1").expect_err("back-references are refused");
    Matcher::new("(").expect_err("broken");
}

#[test]
fn virtual_hosts_have_files_and_bad_names_stay_inside() {
    let dir = tempfile::tempdir().expect("dir");
    let base = dir.path();
    let vhosts = base.join("vhosts");
    let mut r = router(vec![LogConfig { vhost_dir: Some(vhosts.clone()), ..log("a", base, None) }]);
    put(&mut r, "a", b"WWW.example.com 1 2\n../evil 3\n.. 4\n/etc/x 5\nnospace\n\nwww.example.com 6\n");
    put(&mut r, "a", &[&b"x".repeat(300)[..], b" 7\n"].concat());
    assert_eq!(read(&vhosts, "www.example.com"), "1 2\n6\n");
    let long = "x".repeat(300);
    assert_eq!(read(&vhosts, "_invalid"), format!("../evil 3\n.. 4\n/etc/x 5\nnospace\n\n{long} 7\n"));
    assert_eq!(std::fs::read_dir(base).expect("dir").count(), 1);
    assert_eq!(std::fs::read_dir(&vhosts).expect("dir").count(), 2);
}

#[test]
fn open_files_and_names_are_bounded() {
    let dir = tempfile::tempdir().expect("dir");
    let mut r = router(vec![LogConfig { vhost_dir: Some(dir.path().into()), ..log("a", dir.path(), None) }]);
    for chunk in 0..11 {
        for i in 0..1000 {
            r.append(&Bytes::from_static(b"a"), format!("h{} line\n", chunk * 1000 + i).as_bytes(), None);
        }
        r.flush().expect("flush");
        assert!(r.vhosts[0].open_count() <= OPEN_MAX);
    }
    assert_eq!(r.file_count(), VHOSTS_MAX + 1);
    assert_eq!(read(dir.path(), "_overflow").lines().count(), 1000);
}

#[test]
fn only_the_bracket_pair_with_the_time_is_rewritten() {
    let mut scratch = Vec::new();
    let line = [&b"[2001:db8::1] - - "[..], &LINE[14..]].concat();
    let new = rewritten(&Rewrite::Format("[%Y]".into()), &mut None, &line, &mut scratch);
    let text = String::from_utf8_lossy(new);
    assert!(text.starts_with("[2001:db8::1] - - [2"), "{text}");
    assert!(text.ends_with("] \"GET /1 HTTP/1.1\" 200 5\n"), "{text}");
    let mut scratch = Vec::new();
    let common = rewritten(&Rewrite::Common, &mut None, LINE, &mut scratch);
    assert_eq!(time_of(common), time_of(LINE), "{}", String::from_utf8_lossy(common));
    assert_ne!(common, LINE);
    assert_eq!(rewritten(&Rewrite::Common, &mut None, b"no time\n", &mut Vec::new()), b"no time\n");
}

#[test]
fn monotone_times_never_go_back() {
    let dir = tempfile::tempdir().expect("dir");
    let rewrite = Rewrite::Monotone;
    let mut r = router(vec![LogConfig { rewrite, ..log("a", dir.path(), Some("1")) }]);
    let line = |s: u32| format!("h [10/Oct/2000:13:55:{s:02} -0700] {s}\n");
    put(&mut r, "a", [line(5), line(3), "x\n".into(), line(7)].concat().as_bytes());
    assert_eq!(
        read(dir.path(), "1"),
        [line(5), line(3).replace(":03", ":05"), "x\n".into(), line(7)].concat()
    );
}

#[test]
fn size_and_period_begin_new_files() {
    let dir = tempfile::tempdir().expect("dir");
    let name = |n: &str| dir.path().join(n).display().to_string();
    for template in ["a.log", "b-%F.log"] {
        let template = crate::rotate::Template::parse(&name(template)).expect("template");
        let mut plan = Rotation::new(template);
        plan.every = Some(crate::rotate::Period::Days(1));
        plan.size = Some(6);
        plan.link = Some(dir.path().join("link"));
        let rotation = Some(Arc::new(plan));
        let log = LogConfig { rotation, ..log("a", dir.path(), Some("a.log")) };
        let mut r = router(vec![log]);
        put(&mut r, "a", b"1\n");
        put(&mut r, "a", b"2\n");
        put(&mut r, "a", b"345\n");
        let day = Timestamp::from_second(86_400).expect("time");
        assert_eq!(r.next_rotation(), Some(day));
        assert_eq!(r.rotate(day, false).0, 1);
        assert_eq!(r.rotate(day, false).0, 0, "once is enough");
        put(&mut r, "a", b"6\n");
        assert_eq!(r.take_sealed().len(), 2);
        assert_eq!(r.rotate(day, true).0, 1, "in the middle of a period");
        assert_eq!(r.rotate(day, true).0, 0, "an empty file is enough");
    }
    let wanted = [
        ("a.log", ""),
        ("a.log-19700102-000000", "6\n"),
        ("a.log-19700101-000000", "1\n2\n"),
        ("a.log-19700101-000000.1", "345\n"),
        ("b-1970-01-01.log", "1\n2\n"),
        ("b-1970-01-01.log.1", "345\n"),
        ("b-1970-01-02.log", "6\n"),
        ("b-1970-01-02.log.1", ""),
        ("link", ""),
    ];
    for (name, text) in wanted {
        assert_eq!(read(dir.path(), name), text, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), wanted.len());
}

#[test]
fn virtual_hosts_have_a_file_for_each_period() {
    let dir = tempfile::tempdir().expect("dir");
    let template = dir.path().join("v/%{vhost}-%F").display().to_string();
    let plan = Rotation::new(crate::rotate::Template::parse(&template).expect("template"));
    let log = LogConfig {
        rotation: Some(Arc::new(plan)),
        vhost_dir: Some(dir.path().join("v")),
        ..log("a", dir.path(), None)
    };
    let session = SessionConfig { daemons: vec![], logs: vec![log], state: None };
    let options = RouterOptions { index: true, ..OPTIONS };
    let mut r = Router::open(&session, options, None).expect("open").0;
    put(&mut r, "a", b"h1 1\nh2 2\n");
    r.rotate(Timestamp::from_second(86_400).expect("time"), false);
    put(&mut r, "a", b"h1 3\n");
    let dir = dir.path();
    for (name, text) in [("h1-1970-01-01", "1\n"), ("h2-1970-01-01", "2\n"), ("h1-1970-01-02", "3\n")] {
        assert_eq!(read(&dir.join("v"), name), text);
    }
    assert_eq!(r.take_sealed().len(), 2);
    let audit = crate::audit::Audit::of(&[dir.join("v")]).expect("audit");
    assert_eq!((audit.files[0].lines, audit.files[0].problems.len()), (3, 0), "{audit:?}");
    assert!(dir.join("v.0.audit").exists() && dir.join("v.audit").exists());
}

#[test]
fn the_same_group_and_file_twice_is_one_route() {
    let dir = tempfile::tempdir().expect("dir");
    let matching = |m: &str| LogConfig {
        matches: vec![Matcher::new(m).expect("good")],
        ..log("a", dir.path(), Some("1"))
    };
    let mut r = router(vec![matching("x"), matching("y")]);
    put(&mut r, "a", b"xy\ny\nz\n");
    assert_eq!(read(dir.path(), "1"), "xy\ny\n");
}

#[test]
fn a_known_file_is_cut_to_the_recorded_length_another_to_its_last_line() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("1");
    std::fs::write(&path, b"a\nb\nc").expect("write");
    let (_, inode) = {
        let output = Output::open(Target::File(path.clone()), OpenOptionsOf { lock: false, no_links: false });
        output.expect("open").position().expect("file")
    };
    let session = SessionConfig { daemons: vec![], logs: vec![log("a", dir.path(), Some("1"))], state: None };
    for (recorded, left) in [((2, inode + 1), "a\nb\n"), ((2, inode), "a\n"), ((9, inode), "a\n")] {
        let state = State { files: [(path.clone(), recorded)].into(), ..State::default() };
        Router::open(&session, OPTIONS, Some(&state)).expect("open");
        assert_eq!(read(dir.path(), "1"), left);
    }
}

#[test]
fn an_output_that_cannot_be_opened_is_named() {
    let session = SessionConfig {
        daemons: vec![],
        logs: vec![log("a", Path::new("/proc/nothing"), Some("1"))],
        state: None,
    };
    let error = Router::open(&session, OPTIONS, None).expect_err("no such place");
    assert!(error.to_string().starts_with("cannot open /proc/nothing/1: "), "{error}");
}
