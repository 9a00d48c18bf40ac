//! The recorded lines of `tests/cases/`.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is a failed test")]

use access_log::{Entry, Format, Lines, complete_len, unescape};
use serde_json::Value;

/// Bytes in JSON: a character a byte; long values as repeated parts.
fn bytes(value: &Value) -> Vec<u8> {
    let text = |s: &str| -> Vec<u8> { s.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect() };
    match value {
        Value::String(s) => text(s),
        _ => {
            let parts = value["parts"].as_array().unwrap();
            let part = |p: &Value| text(p[0].as_str().unwrap()).repeat(p[1].as_u64().unwrap() as usize);
            parts.iter().flat_map(part).collect()
        }
    }
}

fn maybe(value: &Value) -> Option<Vec<u8>> {
    (!value.is_null()).then(|| bytes(value))
}

fn format_of(case: &Value) -> Format {
    match case["format"].as_str().unwrap() {
        "custom" => Format::compile(case["logformat"].as_str().unwrap()).unwrap(),
        named => Format::named(named).unwrap(),
    }
}

fn cases(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn owned(text: Option<std::borrow::Cow<'_, [u8]>>) -> Option<Vec<u8>> {
    text.map(std::borrow::Cow::into_owned)
}

fn check_entry(id: &str, entry: &Entry<'_>, ok: &Value) {
    assert_eq!(entry.vhost.map(<[u8]>::to_vec), maybe(&ok["vhost"]), "{id} vhost");
    assert_eq!(entry.vhost_port.map(u64::from), ok["vhost_port"].as_u64(), "{id} port");
    assert_eq!(entry.host, bytes(&ok["host"]), "{id} host");
    assert_eq!(entry.ident.map(<[u8]>::to_vec), maybe(&ok["ident"]), "{id} ident");
    assert_eq!(owned(entry.user()), maybe(&ok["user"]), "{id} user");
    assert_eq!(entry.time.unwrap(), bytes(&ok["time"]), "{id} time");
    assert_eq!(entry.time_us.unwrap(), ok["time_unix"].as_i64().unwrap() * 1_000_000, "{id} time_unix");
    assert_eq!(entry.utc_offset.map(i64::from), ok["utc_offset_s"].as_i64(), "{id} offset");
    assert_eq!(entry.request_raw.unwrap(), bytes(&ok["request_raw"]), "{id} request_raw");
    assert_eq!(owned(entry.request()), maybe(&ok["request"]), "{id} request");
    let (method, target, protocol) = match entry.request_line() {
        Some(line) => (Some(line.method), Some(line.target), line.protocol),
        None => (None, None, None),
    };
    assert_eq!(owned(method), maybe(&ok["method"]), "{id} method");
    assert_eq!(owned(target), maybe(&ok["target"]), "{id} target");
    assert_eq!(owned(protocol), maybe(&ok["protocol"]), "{id} protocol");
    assert_eq!(entry.status.map(u64::from), ok["status"].as_u64(), "{id} status");
    assert_eq!(entry.bytes, ok["bytes"].as_u64(), "{id} bytes");
    assert_eq!(owned(entry.referer()), maybe(&ok["referer"]), "{id} referer");
    assert_eq!(owned(entry.user_agent()), maybe(&ok["user_agent"]), "{id} user_agent");
}

#[test]
fn every_recorded_line_is_parsed_or_refused_as_recorded() {
    let cases = cases(include_str!("cases/cases.jsonl"));
    assert_eq!(cases.len(), 142);
    for case in &cases {
        let id = case["id"].as_str().unwrap();
        let raw = bytes(&case["raw"]);
        let mut fields = Vec::new();
        let result = format_of(case).parse_fields(&raw, |name, text| fields.push((name.to_owned(), text)));
        match (&case["expect"]["ok"], result) {
            (Value::Null, result) => {
                let error = result.expect_err(id);
                assert_eq!(error.class(), case["expect"]["error"].as_str().unwrap(), "{id}");
            }
            (ok, result) => {
                let entry = result.unwrap_or_else(|error| panic!("{id}: {error}"));
                if case["format"] != "custom" {
                    check_entry(id, &entry, ok);
                    continue;
                }
                assert_eq!(entry.time_us, ok["time_us"].as_i64(), "{id} time_us");
                let expected = ok["fields"].as_array().unwrap().iter();
                let expected: Vec<_> = expected.map(|f| (f[0].as_str().unwrap(), bytes(&f[1]))).collect();
                let seen: Vec<_> = fields.iter().map(|(name, text)| (name.as_str(), text.to_vec())).collect();
                assert_eq!(seen, expected, "{id}");
            }
        }
    }
}

/// The three named formats and the same string with a harmless difference, which is compiled: two parsers
/// that must agree on what they accept.
#[test]
fn the_compiled_parser_agrees_with_the_one_by_hand() {
    let same = [
        ("common", r#"%h %l %u %t "%r" %s %b"#),
        ("combined", r#"%h %l %u %t "%r" %s %b "%{referer}i" "%{user-agent}i""#),
        ("vhost_combined", r#"%v:%p %h %l %u %t "%r" %s %b "%{referer}i" "%{user-agent}i""#),
    ];
    let mut compared = 0;
    for case in cases(include_str!("cases/cases.jsonl")) {
        let Some((_, format)) = same.iter().find(|(name, _)| case["format"] == *name) else { continue };
        let raw = bytes(&case["raw"]);
        let by_hand = format_of(&case).parse(&raw);
        // A virtual host that is an IPv6 address has colons of its own; no format string can tell them apart.
        if case["expect"]["ok"].is_null() || case["expect"]["ok"]["vhost"].to_string().contains('[') {
            continue;
        }
        assert_eq!(Format::compile(format).unwrap().parse(&raw), by_hand, "{}", case["id"]);
        compared += 1;
    }
    assert!(compared > 70, "{compared}");
}

#[test]
fn streams_are_cut_into_lines_as_recorded() {
    for case in cases(include_str!("cases/streams.jsonl")) {
        let id = case["id"].as_str().unwrap();
        let raw = bytes(&case["raw"]);
        let expect = &case["expect"];
        let format = format_of(&case);
        let mut lines = Lines::new(&raw);
        let mut offset = 0;
        let mut count = 0;
        for (line, expected) in lines.by_ref().zip(expect["lines"].as_array().unwrap()) {
            assert_eq!(offset, expected["offset"].as_u64().unwrap(), "{id}");
            assert_eq!(line.len() as u64, expected["len"].as_u64().unwrap(), "{id}");
            let seen = format.parse(line).err().map(access_log::LineError::class);
            assert_eq!(seen, expected["error"].as_str(), "{id}");
            offset += line.len() as u64;
            count += 1;
        }
        assert_eq!(count, expect["lines"].as_array().unwrap().len(), "{id}");
        let tail = lines.tail().map(|tail| tail.0.len() as u64);
        assert_eq!(tail, expect["tail"]["len"].as_u64(), "{id}");
        if let Some(keep) = expect["truncate_to"].as_u64() {
            assert_eq!(complete_len(&raw) as u64, keep, "{id}");
        }
        if let Some(written) = expect["lines_written"].as_u64() {
            assert_eq!(count as u64 + u64::from(tail.is_some()), written, "{id}");
        }
    }
}

proptest::proptest! {
    /// No input panics, in any format; and what unescape gives never grows.
    #[test]
    fn any_bytes_are_parsed_or_refused(
        mut line in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::prelude::any::<u8>(),
                proptest::sample::select(b" \"[]\\-:/x0123".to_vec()),
            ],
            0..200,
        ),
    ) {
        line.push(b'\n');
        for format in ["common", "combined", "vhost_combined", "%{%F %T}t.%{usec_frac}t %u %t \"%r\" %D"] {
            let _ = Format::compile(format).unwrap().parse(&line);
        }
        proptest::prop_assert!(unescape(&line).len() <= line.len());
    }

    /// A good line with one byte changed or cut is parsed or refused, never a panic.
    #[test]
    fn damaged_lines_are_parsed_or_refused(case in 0_usize..142, at: proptest::sample::Index, byte: u8) {
        let case = &cases(include_str!("cases/cases.jsonl"))[case];
        let mut raw = bytes(&case["raw"]);
        if raw.is_empty() || raw.len() > 10_000 {
            return Ok(());
        }
        let at = at.index(raw.len());
        let format = format_of(case);
        raw[at] = byte;
        let _ = format.parse(&raw);
        raw.truncate(at);
        raw.push(b'\n');
        let _ = format.parse(&raw);
    }

    /// Any format string is compiled or refused.
    #[test]
    fn any_format_is_compiled_or_refused(format in "[%a-zA-Z{}>!<,0-9 \"^:-]{0,40}") {
        if let Ok(format) = Format::compile(&format) {
            let _ = format.parse(b"1 2 3\n");
        }
    }
}
