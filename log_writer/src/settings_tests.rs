//! Tests of flags and TOML files.

use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::retention::Keep;
use crate::rotate::Period;

fn of(args: &[&str]) -> anyhow::Result<Config> {
    configuration(&Args::try_parse_from([&["log_writer"], args].concat())?)
}

fn toml_of(text: &str) -> anyhow::Result<Config> {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("w.toml");
    std::fs::write(&path, text).expect("write");
    of(&["-c", path.to_str().expect("text")])
}

#[test]
fn the_plain_call_is_understood() {
    let config = of(&["-s", "4803", "--group", "site4", "--output", "access.log"]).expect("good");
    let session = &config.sessions[0];
    assert_eq!(session.daemons[0].0, "4803");
    assert_eq!(session.logs[0].target, Some(Target::File("access.log".into())));
    assert_eq!(session.state, Some("access.log.state".into()));
    assert_eq!(config.fsync, Fsync::Every(Duration::from_secs(1)));
    assert!(session.logs[0].rotation.is_none() && config.index && !config.exactly_once);
}

#[test]
fn wrong_use_is_told() {
    let error = |args: &[&str]| format!("{:#}", of(args).expect_err("wrong"));
    assert!(error(&["--output", "x"]).contains("which group"));
    assert!(error(&["--group", "x"]).contains("where to"));
    assert!(error(&["--group", "a b", "--output", "x"]).contains("no group name"));
    assert!(error(&["--group", &"x".repeat(40), "--output", "x"]).contains("no group name"));
    assert!(error(&["-s", "host", "--group", "a", "--output", "x"]).contains("daemon \"host\""));
    assert!(error(&["--group", "a", "--output", "x", "--match", "("]).contains("no expression"));
    assert!(error(&["--group", "a", "--output", "x", "--fsync", "often"]).contains("1s or 200ms"));
    assert!(error(&["-c", "/nowhere"]).contains("cannot read /nowhere"));
    assert!(error(&["--group", "a", "--output", "x-%q", "--rotate", "1d"]).contains("%q cannot stand"));
    assert!(error(&["--group", "a", "--output", "x", "--keep", "3"]).contains("files that are rotated"));
    assert!(error(&["--group", "a", "--output", "x", "--rotate", "7h"]).contains("cannot be divided"));
    assert!(error(&["--group", "a", "--vhost-dir", "x", "--rotate", "1d"]).contains("--vhost-name"));
    assert!(error(&["--group", "a", "--output", "x", "--format", "xml"]).contains("raw, meta, json"));
    assert!(error(&["--group", "a", "--output", "x", "--rotate", "1d", "--zone", "Mars"]).contains("Mars"));
}

#[test]
fn what_breaks_exactly_once_is_refused() {
    let with = |more: &[&str]| of(&[&["--group", "a", "--exactly-once"], more].concat());
    assert!(with(&["--output", "x"]).expect("good").exactly_once);
    for (more, why) in [
        (&["--output", "x", "--no-state"][..], "without a state file"),
        (&["--output", "|cat"], "cannot be taken back"),
        (&["--output", "-", "--state", "s"], "cannot be taken back"),
        (&["--output", "x", "--no-acks"], "not be sent again"),
        (&["--output", "x", "--fsync", "never"], "lost with the power"),
        (&["--output", "x", "--audit-suffix", ""], "no numbers"),
    ] {
        let error = with(more).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn rotation_follows_from_flags_or_from_the_name() {
    let rotation = |args: &[&str]| {
        let config = of(&[&["--group", "a"], args].concat()).expect("good");
        (config.sessions[0].logs[0].rotation.clone().expect("rotation"), config.sessions[0].state.clone())
    };
    let (plan, state) =
        rotation(&["--output", "l/a-%F.log", "--compress", "gzip", "--keep", "9", "--link", "l/a"]);
    assert_eq!(
        (plan.every, &plan.archive, &*plan.keep),
        (Some(Period::Days(1)), &Archive::Gzip, &[Keep::Files(9)][..])
    );
    assert_eq!(state, Some("l/a.log.state".into()));
    let (plan, _) = rotation(&["--output", "a", "--rotate", "15m", "--rotate-size", "1G"]);
    assert_eq!((plan.every, plan.size), (Some(Period::Seconds(900)), Some(1 << 30)));
    let (plan, _) = rotation(&["--vhost-dir", "v", "--vhost-name", "%{vhost}/%F.log"]);
    assert!(plan.template.has_vhost() && plan.every == Some(Period::Days(1)));
}

#[test]
fn a_toml_file_has_the_words_of_the_flags() {
    let config = toml_of(
        r#"
        [writer]
        fsync = "batch"
        buffer = "16M"
        spill = "2G"
        exactly-once = true

        [[spread]]
        daemon = ["4803@log1", "4803@log2"]
        [[spread.log]]
        group = ["a", "b"]
        output = "/tmp/x-%Y%m%d.log"
        compress = "gzip"
        keep = [30, "8w"]
        zone = "UTC"
        [[spread.log]]
        group = "c"
        vhost-dir = "/tmp/hosts"
        match = "GET"
        format = "json"
        log-format = "combined"

        [[spread]]
        state = "/tmp/y.state"
        [[spread.log]]
        group = "d"
        output = "/tmp/y"
        "#,
    )
    .expect("good");
    assert_eq!((config.buffer_bytes, config.spill_bytes), (16 << 20, 2 << 30));
    assert_eq!((config.fsync, config.exactly_once), (Fsync::Every(Duration::ZERO), true));
    assert_eq!(config.sessions.len(), 2);
    let first = &config.sessions[0];
    assert_eq!((first.daemons.len(), first.logs.len(), first.groups().len()), (2, 3, 3));
    let kept = &first.logs[0].rotation.as_ref().expect("rotation").keep;
    assert_eq!(kept[..], [Keep::Files(30), Keep::Age(Duration::from_secs(56 * 86_400))]);
    assert!(!first.logs[2].form.is_raw() && first.logs[2].matches.len() == 1);
    assert_eq!(first.state, Some("/tmp/x.log.state".into()));
    assert_eq!(config.sessions[1].state, Some("/tmp/y.state".into()));
}

#[test]
fn wrong_words_of_a_spreadlogd_conf_are_shown_with_carets() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("spreadlogd.conf");
    std::fs::write(&path, "Spread {\n\tLog {\n  Group = a\n  Flie = x\n  }\n Prot = 1\n}\n").expect("write");
    let error = of(&["-c", path.to_str().expect("text")]).expect_err("wrong").to_string();
    for wanted in ["  |\n 4 |   Flie = x\n   |   ^^^^", " 6 |  Prot = 1\n   |  ^^^^"] {
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn wrong_words_of_a_toml_file_are_shown_with_a_caret() {
    for (text, line, words) in [
        ("[[spread]]\n[[spread.log]]\ngroup = \"a\"\noutptu = \"x\"\n", 4, "unknown field `outptu`"),
        ("[[spread]]\n[[spread.log]]\ngroup = \"a b\"\n", 3, "no group name"),
        ("[writer]\nfsync = \"often\"\n", 2, "never, batch, or a time"),
        ("[writer]\nbuffer = 7\n", 2, "expected a string"),
        ("[writer]\nbuffer = \"7X\"\n", 2, "K, M or G"),
        ("[[spread]]\ndaemon = \"nowhere\"\n", 2, "no daemon"),
        ("[[spread]]\n[[spread.log]]\nmatch = [\"ok\", \"(\"]\n", 3, "no expression"),
        ("[[spread]]\n[[spread.log]]\ncompress = \"zip\"\n", 3, "none, gzip"),
        ("a = \n", 1, "TOML parse error"),
    ] {
        let error = format!("{:#}", toml_of(text).expect_err(text));
        assert!(error.contains(words), "{text}: {error}");
        assert!(error.contains(&format!("line {line},")) && error.contains('^'), "{text}: {error}");
    }
    assert!(format!("{:#}", toml_of("").expect_err("empty")).contains("nothing to do"));
    assert!(format!("{:#}", toml_of("[[spread]]\n").expect_err("empty")).contains("without a log"));
}
