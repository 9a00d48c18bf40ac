//! The configuration beyond the corpus: messages, the own entry, what the ring is told, and hostile files.
//!
//! spec: daemon-config
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use spreadd::config::{
    Config, ConfigErrors, ErrorClass, FILE_MAX, Host, LoadError, WarningClass, load, parse,
};

/// A host with two networks and one name.
struct TestHost;

impl Host for TestHost {
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        match name {
            "web1" => Ok(vec![ip("10.0.0.1")]),
            _ => Err("unknown".to_owned()),
        }
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(["127.0.0.1", "10.0.0.1", "10.9.0.1", "fd00::1"].map(ip).to_vec())
    }

    fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![ip("10.0.0.255"), ip("10.9.0.255")])
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    parse("spread.conf", text.as_bytes(), &TestHost)
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|e| panic!("{e}"))
}

/// Line, column and class of all errors.
fn errors(text: &str) -> Vec<(usize, usize, ErrorClass)> {
    let errors = read(text).unwrap_err();
    let place = |p| errors.position(p).unwrap_or((0, 0));
    errors.problems().iter().map(|p| (place(p).0, place(p).1, p.class())).collect()
}

#[test]
fn all_errors_are_shown_with_place_and_advice() {
    let text = "\
DebugFlag = { PRINT }
Window=100
EventPriority = info
Spread_Segment 10.0.0.255:4803 {
  web1 10.0.0.1,
  web2 10.0.0.1
  Window 10.0.0.5
  n\u{153}ud 10.0.0.6:4803
}
TokenTimeout = 5s
";
    let expected = "\
error: unknown option `DebugFlag`
 --> spread.conf:1:1
  |
1 | DebugFlag = { PRINT }
  | ^^^^^^^^^ expected an option or `Spread_Segment`
  |
  = help: did you mean `DebugFlags`?

error: `Window=100` is one word
 --> spread.conf:2:1
  |
2 | Window=100
  | ^^^^^^^^^^ white space is missing around `=`
  |
  = help: write `Window = 100`

error: expected one of `pDEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL`, `FATAL`, found `info`
 --> spread.conf:3:17
  |
3 | EventPriority = info
  |                 ^^^^ expected one of `pDEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL`, `FATAL`
  |
  = help: upper and lower case count: write `INFO`

error: `10.0.0.1,` is one word and would be looked up as a host name
 --> spread.conf:5:8
  |
5 |   web1 10.0.0.1,
  |        ^^^^^^^^^ `,` is glued to the address
  |
  = help: entries are separated by white space or ` ; `

error: two daemons have the address 10.0.0.1 and port 4803
 --> spread.conf:6:8
  |
5 |   web1 10.0.0.1,
  |        --------- first daemon
6 |   web2 10.0.0.1
  |        ^^^^^^^^ second daemon

error: expected a daemon name or address, or `}`, found the keyword `Window`
 --> spread.conf:7:3
  |
7 |   Window 10.0.0.5
  |   ^^^^^^ expected a daemon name or address, or `}`
  |
  = help: to use it as a name put it in quotes: \"Window\"

error: expected an address without a port, found the address with port `10.0.0.6:4803`
 --> spread.conf:8:8
  |
8 |   n\u{153}ud 10.0.0.6:4803
  |        ^^^^^^^^^^^^^ expected an address without a port
  |
  = help: daemons use the port of their segment

error: expected a number, found `5s`
  --> spread.conf:10:16
   |
10 | TokenTimeout = 5s
   |                ^^ expected a number
   |
   = help: numbers have no unit; times are in milliseconds";
    let found = read(text).unwrap_err().to_string();
    assert_eq!(found, expected, "\n{found}");
}

#[test]
fn an_unclosed_segment_is_one_error() {
    let text = "Spread_Segment 10.0.0.255 {\n  web1 10.0.0.1\nWindow = 100\nDaemonUser = root\n}\n";
    assert_eq!(errors(text), [(3, 1, ErrorClass::Syntax)]);
    let text = "Spread_Segment 10.0.0.255 {\n  a 10.0.0.1 { D 10.0.0.1\nWindow = 100\n}\n}\nWindow = 1\n";
    assert_eq!(errors(text)[0], (3, 1, ErrorClass::Syntax));
    let text = "DebugFlags = { PRINT\nSpread_Segment 10.0.0.255 {\n  a 10.0.0.1\n}\n";
    assert_eq!(errors(text), [(2, 1, ErrorClass::Syntax)]);
}

#[test]
fn a_missing_value_does_not_swallow_the_next_option() {
    let text = "Window =\nPersonalWindow = x\nSpread_Segment 10.0.0.255 { a 10.0.0.1 }";
    // The missing value is noticed at the word that stands there instead.
    assert_eq!(errors(text), [(2, 1, ErrorClass::Syntax), (2, 18, ErrorClass::Syntax)]);
}

#[test]
fn ports_must_leave_room_for_the_token() {
    let text = "Spread_Segment 10.0.0.255:65535 { a 10.0.0.1 }";
    assert_eq!(errors(text), [(1, 16, ErrorClass::Value)]);
    good("Spread_Segment 10.0.0.255:65534 { a 10.0.0.1 }");
}

#[test]
fn columns_count_characters() {
    let text = "Spread_Segment 10.0.0.255 { \u{153}\u{153}\u{153} 10.0.0.1:5 }";
    assert_eq!(errors(text), [(1, 33, ErrorClass::Syntax)]);
}

#[test]
fn bytes_that_are_no_text_are_shown_as_question_marks() {
    let bytes = b"Spread_Segment 10.0.0.255 { a\xff\xfeb 10.0.0.1 }\nCol\xffour = 1\n";
    let errors = parse("x", bytes, &TestHost).unwrap_err();
    assert!(errors.to_string().contains("Col?our = 1"), "{errors}");
    assert_eq!(errors.position(&errors.problems()[0]), Some((2, 1)));
}

#[test]
fn the_own_entry_is_found_by_name_or_address() {
    let text = "Spread_Segment 10.0.0.255 { far 10.0.0.9 web1 10.0.0.1 web2 10.9.0.1 }";
    let identify = |name: Option<&str>| good(text).identify(name.map(|n| n.parse().unwrap()), &TestHost);
    assert_eq!(identify(None).unwrap(), 1);
    assert_eq!(identify(Some("web2")).unwrap(), 2);
    assert_eq!(good(text).local_entries(&TestHost).unwrap(), [1, 2]);

    let shown = identify(Some("Web2")).unwrap_err().to_string();
    assert_eq!(
        shown,
        "error: no daemon is called `Web2`\n--> spread.conf\n \
         = help: upper and lower case count: there is `web2`"
    );
    let shown = identify(Some("far")).unwrap_err().to_string();
    assert!(shown.contains("10.0.0.9 is not an address of this host"), "{shown}");
    assert!(shown.contains("this host has 127.0.0.1, 10.0.0.1, 10.9.0.1, fd00::1"), "{shown}");

    let mut config = good("Spread_Segment 10.0.0.255 { far 10.0.0.9 }");
    let shown = config.identify(None, &TestHost).unwrap_err().to_string();
    assert!(shown.contains("no daemon of the file is on this host"), "{shown}");
}

#[test]
fn all_loopback_addresses_are_of_this_host_when_asked_for_by_name() {
    let text = "Spread_Segment 127.0.0.255 { a 127.0.0.7 b 127.0.0.1 }";
    assert_eq!(good(text).identify(Some("a".parse().unwrap()), &TestHost).unwrap(), 0);
    assert_eq!(good(text).identify(None, &TestHost).unwrap(), 1, "listed addresses come first");
}

#[test]
fn what_is_not_done_is_said() {
    let text = "\
TokenTimeout = 1000
HurryTimeout = 2000
AliveTimeout = 250
JoinTimeout = 250
RepTimeout = 625
SegTimeout = 500
GatherTimeout = 1250
FormTimeout = 300
LookupTimeout = 30000
SocketPortReuse = off
DangerousMonitor = yes
RequiredAuthMethods = \"IP\"
DaemonUser = spread
IgnoreMulticastJoinErrors = no
Spread_Segment 239.1.2.3:4803 239.1.2.4 { a 10.0.0.1 }
";
    let found: Vec<_> = good(text).warnings.iter().map(|w| (w.class, w.line, w.column)).collect();
    assert_eq!(
        found,
        [
            (WarningClass::TimeoutOrder, 2, 1),
            (WarningClass::NotHonored, 5, 1),
            (WarningClass::NotHonored, 6, 1),
            (WarningClass::TimeoutOrder, 8, 1),
            (WarningClass::NotHonored, 10, 1),
            (WarningClass::NobodyCanConnect, 12, 1),
            (WarningClass::NotHonored, 15, 31),
        ]
    );
    let shown = good(text).warnings[0].to_string();
    assert_eq!(shown, "spread.conf:2:1: `HurryTimeout` should be shorter than `TokenTimeout`");
}

#[test]
fn the_ring_is_told_what_the_file_says() {
    let text = "\
Spread_Segment 10.0.0.255:4900 { a 10.0.0.1 { D 0.0.0.0 C 10.9.0.1 } b 10.0.0.2 { 10.0.0.2 D 10.0.0.3 } }
Spread_Segment 239.1.2.3 { c 10.9.0.1 }
Window = 100
AcceleratedRing = false
";
    let config = good(text);
    assert!(config.is_wide_area());
    let ring = config.ring_config(2);
    assert_eq!((ring.me.0, &ring.nodes[..]), (2, &[0, 0, 1][..]));
    assert_eq!(ring.hash, config.ring_hash());
    let windows = config.windows();
    assert_eq!((windows.window, windows.personal, windows.accelerated), (Some(100), None, Some(0)));
    assert_eq!(config.timers().token, Duration::from_secs(5), "two segments are a wide-area network");

    let network = config.network(0, &TestHost);
    let nodes: Vec<_> = network.nodes.iter().map(|n| (n.segment, n.port, n.addrs.clone())).collect();
    assert_eq!(
        nodes,
        [
            (0, 4900, vec![ip("10.0.0.1")]),
            (0, 4900, vec![ip("10.0.0.2"), ip("10.0.0.3")]),
            (1, 4803, vec![ip("10.9.0.1")]),
        ]
    );
    assert_eq!(network.segments[0].multicast, Some("10.0.0.255:4900".parse().unwrap()));
    assert_eq!(network.segments[1].multicast, None, "another segment is not sent to at once");
    let alone = config.network(2, &TestHost);
    assert_eq!(alone.segments[1].multicast, None, "one daemon needs no multicast");
}

#[test]
fn a_segment_address_that_reaches_nobody_at_once_is_not_used() {
    let text = "Spread_Segment 10.0.0.77 { a 10.0.0.1 b 10.0.0.2 }";
    let mut config = good(text);
    assert_eq!(config.warnings, []);
    config.identify(None, &TestHost).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert_eq!((warning.class, warning.line, warning.column), (WarningClass::NotHonored, 1, 16));
    assert_eq!(config.network(0, &TestHost).segments[0].multicast, None);
}

#[test]
fn metrics_have_an_address() {
    let with =
        |value: &str| format!("MetricsAddress = {value}\nSpread_Segment 239.1.2.3:4803 {{ a 10.0.0.1 }}\n");
    let addr = |value| good(&with(value)).options.metrics_address.unwrap().to_string();
    assert_eq!(addr("9480"), "127.0.0.1:9480", "a port alone means the loopback interface");
    assert_eq!(addr("10.0.0.1:9480"), "10.0.0.1:9480");
    assert_eq!(addr("[fd00::1]:9480"), "[fd00::1]:9480");
    for wrong in ["0", "70000", "10.0.0.1", "everywhere"] {
        let errors = read(&with(wrong)).unwrap_err();
        let shown = errors.render(false);
        assert!(shown.contains("expected a port (1 to 65535) or address:port"), "{wrong}: {shown}");
    }
}

#[test]
fn timers_keep_the_rules_of_the_ring() {
    let text = "\
TokenTimeout = 1250
HurryTimeout = 500
AliveTimeout = 250
JoinTimeout = 250
RepTimeout = 625
SegTimeout = 500
GatherTimeout = 1250
FormTimeout = 1250
LookupTimeout = 30000
Spread_Segment 10.0.0.255 { a 10.0.0.1 }
";
    let ms = Duration::from_millis;
    let timers = good(text).timers();
    assert_eq!((timers.token, timers.rto_max, timers.presence), (ms(1250), ms(500), ms(250)));
    assert_eq!((timers.consensus, timers.commit, timers.probe_max), (ms(1250), ms(1250), ms(30_000)));
    assert!(timers.dead < timers.token && timers.dead >= 2 * timers.presence);
    assert!(timers.consensus > 5 * timers.join);
}

#[test]
fn configurations_that_differ_do_not_talk() {
    let base = "Spread_Segment 10.0.0.255 { a 10.0.0.1 b 10.0.0.2 }";
    let hashes = |text: &str| (good(text).hash(), good(text).ring_hash());
    for same in [
        "Spread_Segment 10.0.0.255:4803 { a 10.0.0.1 b 10.0.0.2 { 10.0.0.2 } }",
        "Window = 100 Spread_Segment 10.0.0.255 { a 10.0.0.1 b 10.0.0.2 } AcceleratedRing = false",
    ] {
        assert_eq!(hashes(same), hashes(base), "{same}");
    }
    for other in [
        "Spread_Segment 10.0.0.255 { b 10.0.0.2 a 10.0.0.1 }",
        "Spread_Segment 10.0.0.255:4804 { a 10.0.0.1 b 10.0.0.2 }",
        "Spread_Segment 10.0.0.254 { a 10.0.0.1 b 10.0.0.2 }",
        "Spread_Segment 10.0.0.255 { a 10.0.0.1 VirtualID = 1 b 10.0.0.2 }",
        "Spread_Segment 10.0.0.255 { a 10.0.0.1 b 10.0.0.2 } AcceleratedRing = true",
    ] {
        let (base, other_hashes) = (hashes(base), hashes(other));
        assert!(base.0 != other_hashes.0 && base.1 != other_hashes.1, "{other}");
    }
}

#[test]
fn authentication_lists_accumulate() {
    let text = "\
AllowedAuthMethods = \"NULL\"
AllowedAuthMethods = \"IP NULL\"
Spread_Segment 10.0.0.255 { a 10.0.0.1 }
";
    assert_eq!(good(text).options.allowed_auth().len(), 2);
}

#[test]
fn files_are_read_or_the_reason_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spread.conf");
    let missing = load(&path, &TestHost).unwrap_err();
    assert!(matches!(&missing, LoadError::Read { .. }), "{missing}");
    assert_eq!(missing.to_string(), format!("cannot read {}", path.display()));

    fs::write(&path, "Spread_Segment 10.0.0.255 {\n  web1\n}\n").unwrap();
    assert_eq!(load(&path, &TestHost).unwrap().daemons().next().unwrap().address.ip, ip("10.0.0.1"));

    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&vec![b' '; usize::try_from(FILE_MAX).unwrap() + 1]).unwrap();
    assert!(matches!(load(&path, &TestHost).unwrap_err(), LoadError::TooLarge { .. }));
}

/// A file full of nonsense is refused in bounded time and space, with a short message.
#[test]
fn nonsense_is_bounded() {
    for word in ["[", "x\n", "= ", "a=b\n", "Window=1\n", "{", "\"", "1.2.3.999 ", "Spread_Segment ", "!a "] {
        let text = word.repeat(usize::try_from(FILE_MAX).unwrap() / word.len());
        let errors = read(&text).unwrap_err();
        assert!(errors.problems().len() <= 500, "{word}");
        let shown = errors.to_string().len();
        assert!(shown < 10 << 20, "{word}: {shown} bytes");
    }
}

/// All files of the corpus.
fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "conf"));
    files.sort();
    files.iter().map(|p| fs::read(p).unwrap()).collect()
}

/// Whatever is read: an error has a place in the file and can be shown.
fn read_anything(bytes: &[u8]) {
    match parse("any", bytes, &TestHost) {
        Ok(mut config) => {
            let _ = (config.hash(), config.identify(None, &TestHost).is_ok());
            for warning in &config.warnings {
                assert!(!warning.to_string().is_empty());
            }
            for number in 0..config.daemons().count() {
                let number = u16::try_from(number).unwrap();
                let _ = (config.ring_config(number), config.network(number, &TestHost));
            }
        }
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            let lines = bytes.split(|b| *b == b'\n').count();
            for problem in errors.problems() {
                let (line, column) = errors.position(problem).unwrap();
                assert!((1..=lines).contains(&line) && column >= 1);
            }
            assert!(errors.render(true).len() >= errors.render(false).len());
        }
    }
}

proptest! {
    #[test]
    fn changed_files_do_not_panic(
        file in any::<prop::sample::Index>(),
        cuts in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let files = corpus();
        let mut bytes = files[file.index(files.len())].clone();
        for (at, byte) in cuts {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match byte % 3 {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, byte),
            }
        }
        read_anything(&bytes);
    }

    #[test]
    fn cut_files_do_not_panic(file in any::<prop::sample::Index>(), end in any::<prop::sample::Index>()) {
        let files = corpus();
        let bytes = &files[file.index(files.len())];
        read_anything(&bytes[..end.index(bytes.len() + 1)]);
    }

    #[test]
    fn mixed_words_do_not_panic(words in vec(prop::sample::select(vec![
        "Spread_Segment", "10.0.0.255:4803", "10.0.0.1", "web1", "{", "}", "=", ";", ":", "!", "\n", "VirtualID",
        "12", "0", "D", "C", "M", "DebugFlags", "PRINT", "Window", "EventTimeStamp", "EventPreciseTimeStamp",
        "true", "off", "\"a b\"", "\"", "'", "[", "]", "::1", "[ff02::1]:4803", "ActiveIPVersion", "IPv6", "#x\n",
        "TokenTimeout", "AllowedAuthMethods", "Window=5", "10.0.0.1;", "\u{153}", "EventPriority", "INFO",
    ]), 0..40), glue in any::<u64>()) {
        let mut text = String::new();
        for (i, word) in words.iter().enumerate() {
            text.push_str(word);
            if glue >> (i % 64) & 1 == 0 {
                text.push(' ');
            }
        }
        read_anything(text.as_bytes());
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_anything(&bytes);
    }
}
