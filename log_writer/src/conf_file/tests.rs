use super::*;
use crate::output::Target;
use crate::route::Rewrite;

fn errors(text: &str) -> Vec<String> {
    parse(text, false).expect_err("bad").iter().map(Note::to_string).collect()
}

#[test]
fn a_block_says_what_to_write_where() {
    let text = "Spread{Port=4913@h Log{Group = a File=a.log Match = x Match=\"y z\"}\n\
                Log { Group = b VhostDir = v RewriteTimestamp = CommonLogFormat } } # end";
    let conf = parse(text, false).expect("good");
    let session = &conf.sessions[0];
    assert_eq!(session.daemons[0].0, "4913@h");
    assert_eq!(session.logs[0].target, Some(Target::File("a.log".into())));
    assert_eq!(session.logs[0].matches.len(), 2);
    assert_eq!(session.logs[1].vhost_dir, Some("v".into()));
    assert_eq!(session.logs[1].rewrite, Rewrite::Common);
}

#[test]
fn blocks_of_one_daemon_are_one_session() {
    let text = "Spread { Log { Group = a File = a } } Spread { Port = 4803 Log { Group = b File = b } }";
    let conf = parse(text, false).expect("good");
    assert_eq!(conf.sessions.len(), 1);
    assert_eq!(conf.sessions[0].groups().len(), 2);
}

#[test]
fn all_errors_are_told_with_their_lines() {
    let text = "BufferSize = many\nSpread {\n  Prot = 4803\n  Log {\n    Group = a b\n    File = x\n  }\n\
                \n  Log { File = y }\n";
    assert_eq!(
        errors(text),
        [
            "line 1: \"many\" is not a number",
            "line 3: \"Prot\" is not understood here: Port, Host, Log or } can stand here; did you mean \"Port\"?",
            "line 5: \"b\" is not understood here: Group, File, Match, VhostDir, RewriteTimestamp or } can \
             stand here",
            "line 9: the \"Log\" block has no \"Group\"",
            "line 9: the block of line 2 is not closed",
        ]
    );
    assert!(errors("Spread { port = 1 }")[0].ends_with("did you mean \"Port\"?"));
}

#[test]
fn what_is_not_supported_names_a_replacement_and_can_be_ignored() {
    let text = "PerlLib .\nLoadModule a b\nSpread { Log { Group = a File = f PerlLog x } }";
    assert_eq!(errors(text).len(), 3);
    assert!(errors(text)[0].contains("|command"));
    let conf = parse(text, true).expect("ignored");
    assert_eq!(conf.warnings.len(), 3);
}

#[test]
fn one_file_cannot_have_two_orders() {
    let text =
        "Spread { Port = 1 Log { Group = a File = f } } Spread { Port = 2 Log { Group = a File = f } }";
    assert!(errors(text)[0].contains("fed by two daemons"));
}

#[test]
fn recorded_cases_are_judged_as_specified() {
    // spec: log-cases/writer-conf.jsonl
    let cases = include_str!("../../cases/writer-conf.jsonl");
    let mut seen = 0;
    for line in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = case["text"].as_str().expect("text");
        let result = parse(text, false);
        assert_eq!(result.is_ok(), case["ours"] == "accept", "{}: {result:?}", case["id"]);
        seen += 1;
    }
    assert_eq!(seen, 47);
}

#[test]
fn mutations_of_the_cases_are_survived() {
    // A fixed xorshift: the same mutations in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).expect("31 bits") % n.max(1)
    };
    let cases = include_str!("../../cases/writer-conf.jsonl");
    for line in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text: Vec<char> = case["text"].as_str().expect("text").chars().collect();
        for _ in 0..400 {
            let mut text = text.clone();
            for _ in 0..=next(3) {
                let at = next(text.len());
                match next(3) {
                    0 if !text.is_empty() => drop(text.remove(at)),
                    1 => text.insert(at, ['{', '}', '=', '"', '#', '\n', 'é', ' '][next(8)]),
                    _ => text.truncate(at),
                }
            }
            let _ = parse(&text.into_iter().collect::<String>(), next(2) == 0);
        }
    }
}
