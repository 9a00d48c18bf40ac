//! Every case of the corpus of `spread.conf` files: what Spread 5.0.1 makes of it, as far as we want the same.
//!
//! spec: daemon-config, `config-cases/README.md`
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use spread_wire::DaemonName;
use spreadd::config::{
    AuthMethod, Config, ErrorClass, Host, IpVersion, Options, Policy, PortReuse, Use, WarningClass, parse,
};

/// The machine that the cases assume.
struct CaseHost;

impl Host for CaseHost {
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let addrs: &[&str] = match name {
            "localhost" => &["127.0.0.1"],
            "alpha" => &["127.0.0.2"],
            "beta" => &["127.0.0.3"],
            "dual" => &["fd00:77::1", "127.0.0.4"],
            "six" => &["fd00:77::2"],
            "remote" => &["192.0.2.77"],
            _ => return Err("name or service not known".to_owned()),
        };
        Ok(addrs.iter().map(|a| a.parse().unwrap()).collect())
    }

    fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let v6 = ["::1", "fd00:77::1", "fd00:77::2"].map(|a| a.parse().unwrap());
        Ok((1..=6).map(|n| IpAddr::from([127, 0, 0, n])).chain(v6).collect())
    }

    fn broadcast_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

#[derive(Deserialize)]
struct Case {
    case: String,
    run: Run,
    modern: String,
    warnings: BTreeSet<String>,
    expect: Option<Value>,
    error: Option<ExpectedError>,
    log_file: Option<String>,
}

#[derive(Deserialize)]
struct Run {
    name: Option<String>,
}

#[derive(Deserialize)]
struct ExpectedError {
    class: String,
    stage: String,
    line: Option<usize>,
}

fn cases() -> Vec<(Case, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "json"));
    files.sort();
    let load = |json: PathBuf| {
        (serde_json::from_slice(&fs::read(&json).unwrap()).unwrap(), json.with_extension("conf"))
    };
    files.into_iter().map(load).collect()
}

fn warning_word(class: WarningClass) -> Option<&'static str> {
    Some(match class {
        WarningClass::SegmentAddressLoopback => "segment-address-loopback",
        WarningClass::Ipv6SegmentNotMulticast => "ipv6-segment-not-multicast",
        WarningClass::MalformedAddress => "malformed-address",
        WarningClass::NameEndsWithSemicolon => "name-ends-with-semicolon",
        WarningClass::InterfaceNotLocal => "interface-not-local",
        WarningClass::EmptyValueIgnored => "empty-value-ignored",
        // Ours alone.
        _ => return None,
    })
}

fn error_word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Syntax => "syntax",
        ErrorClass::Value => "value",
        ErrorClass::Limit => "limit",
        ErrorClass::Consistency => "consistency",
        ErrorClass::Empty => "empty",
        ErrorClass::Lookup => "lookup",
        ErrorClass::Identity => "identity",
        other => panic!("{other:?}"),
    }
}

/// Line, class and message of every error, in the order of the file.
type Errors = Vec<(Option<usize>, &'static str, String)>;

/// Reads and identifies as the daemon does at its start.
fn run(case: &Case, path: &Path) -> Result<(Config, u16), Errors> {
    let bytes = fs::read(path).unwrap();
    let mut config = parse(&case.case, &bytes, &CaseHost).map_err(|errors| {
        let shown = errors.to_string();
        for problem in errors.problems() {
            assert!(shown.contains(problem.message()), "{}: {shown}", case.case);
        }
        errors
            .problems()
            .iter()
            .map(|p| (errors.position(p).map(|(l, _)| l), error_word(p.class()), p.message().to_owned()))
            .collect::<Errors>()
    })?;
    let name = case.run.name.as_ref().map(|n| DaemonName::new(n.as_bytes()).unwrap());
    let own = config.identify(name, &CaseHost).map_err(|errors| {
        let problem = &errors.problems()[0];
        let line = errors.position(problem).map(|(line, _)| line);
        vec![(line, error_word(problem.class()), problem.message().to_owned())]
    })?;
    Ok((config, own))
}

fn described(config: &Config, own: u16) -> Value {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let uses = |uses: Use| {
        let letters = [("D", Use::DAEMON), ("C", Use::CLIENT), ("M", Use::MONITOR)];
        letters.iter().filter(|(_, u)| uses.contains(*u)).map(|(l, _)| *l).collect::<Vec<_>>()
    };
    let daemon = |d: &spreadd::config::Daemon| {
        let interface =
            |i: &spreadd::config::Interface| json!({ "address": i.address.ip, "use": uses(i.uses) });
        json!({
            "name": text(d.name.as_bytes()),
            "address": d.address.ip,
            "virtual_id": d.virtual_id,
            "virtual_id_from": if d.id_in_file { "file" } else { "name" },
            "interfaces": d.interfaces.as_ref().map(|list| list.iter().map(interface).collect::<Vec<_>>()),
        })
    };
    let segments: Vec<Value> = config
        .segments
        .iter()
        .map(|s| {
            json!({
                "port": s.port,
                "addresses": s.addresses.iter().map(|a| a.ip).collect::<Vec<_>>(),
                "daemons": s.daemons.iter().map(daemon).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "ip_version": match config.ip_version { IpVersion::V4 => 4, IpVersion::V6 => 6 },
        "config_hash": config.hash(),
        "self": text(config.daemon(own).unwrap().0.name.as_bytes()),
        "segments": segments,
        "options": Value::Object(options(&config.options)),
    })
}

fn options(o: &Options) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |word: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(word.to_owned(), value);
        }
    };
    let methods = |list: &Vec<AuthMethod>| {
        let word = |m: &AuthMethod| AuthMethod::WORDS.iter().find(|(_, method)| method == m).unwrap().0;
        json!(list.iter().map(word).collect::<Vec<_>>())
    };
    put("DebugFlags", o.debug_flags.map(|f| json!(format!("{:#010x}", f.0))));
    put("EventPriority", o.event_priority.map(|p| json!(p.word())));
    put("EventLogFile", o.event_log_file.as_ref().map(|p| json!(p)));
    put("EventTimeStamp", o.time_stamp.as_ref().map(|t| json!(t.format)));
    put("EventPreciseTimeStamp", o.time_stamp.as_ref().map(|t| json!(t.precise)));
    put("DangerousMonitor", o.dangerous_monitor.map(Value::from));
    let reuse = |r| match r {
        PortReuse::On => "on",
        PortReuse::Off => "off",
        PortReuse::Auto => "auto",
    };
    put("SocketPortReuse", o.socket_port_reuse.map(|r| json!(reuse(r))));
    put("RuntimeDir", o.runtime_dir.as_ref().map(|p| json!(p)));
    put("DaemonUser", o.daemon_user.as_ref().map(|u| json!(u.to_str())));
    put("DaemonGroup", o.daemon_group.as_ref().map(|g| json!(g.to_str())));
    put("AllowedAuthMethods", o.allowed_auth_methods.as_ref().map(methods));
    put("RequiredAuthMethods", o.required_auth_methods.as_ref().map(methods));
    put(
        "AccessControlPolicy",
        o.access_control_policy.map(|p| json!(if p == Policy::Permit { "PERMIT" } else { "FILE" })),
    );
    put("MaxSessionMessages", o.max_session_messages.map(Value::from));
    put("ActiveIPVersion", o.active_ip_version.map(|v| json!(v.to_string())));
    put("Window", o.window.map(Value::from));
    put("PersonalWindow", o.personal_window.map(Value::from));
    put("AcceleratedRing", o.accelerated_ring.map(Value::from));
    put("AcceleratedWindow", o.accelerated_window.map(Value::from));
    put("WideAreaNetwork", o.wide_area_network.map(Value::from));
    put("ExcludeSegAddrsFromHash", o.exclude_segment_addresses.map(Value::from));
    put("IgnoreMulticastJoinErrors", o.ignore_multicast_join_errors.map(Value::from));
    if let Some(t) = o.timeouts {
        for (word, time) in [
            ("TokenTimeout", t.token),
            ("HurryTimeout", t.hurry),
            ("AliveTimeout", t.alive),
            ("JoinTimeout", t.join),
            ("RepTimeout", t.rep),
            ("SegTimeout", t.seg),
            ("GatherTimeout", t.gather),
            ("FormTimeout", t.form),
            ("LookupTimeout", t.lookup),
        ] {
            put(word, Some(json!(u64::try_from(time.as_millis()).unwrap())));
        }
    }
    out
}

/// The monitor's letter and the like are no oddity of the file; what we do not do is not one of the corpus.
fn warnings(config: &Config) -> (BTreeSet<&'static str>, BTreeSet<WarningClass>) {
    let classes = config.warnings.iter().map(|w| w.class);
    let shared = classes.clone().filter_map(warning_word).collect();
    let ours = classes.filter(|c| warning_word(*c).is_none() && *c != WarningClass::NotHonored).collect();
    (shared, ours)
}

#[test]
fn valid_files_mean_what_they_mean_to_the_original() {
    let mut accepted = 0;
    for (case, path) in cases() {
        let Some(expect) = case.expect.as_ref().filter(|_| case.modern != "reject") else { continue };
        let (config, own) = run(&case, &path).unwrap_or_else(|e| panic!("{}: {e:?}", case.case));
        assert_eq!(described(&config, own), *expect, "{}", case.case);
        let (shared, ours) = warnings(&config);
        assert_eq!(shared, case.warnings.iter().map(String::as_str).collect(), "{}", case.case);
        match case.modern.as_str() {
            "accept-with-warning" => {
                let more = shared.iter().any(|w| *w != "segment-address-loopback") || !ours.is_empty();
                assert!(more, "{} has an oddity to warn about", case.case);
            }
            // A word that is no method is worth a warning (daemon-config 3).
            "accept" if case.case == "v051-auth-options" => {
                assert_eq!(ours, BTreeSet::from([WarningClass::UnknownAuthMethod]));
            }
            "accept" => assert_eq!(ours, BTreeSet::new(), "{}", case.case),
            other => panic!("{other}"),
        }
        if let Some(log_file) = &case.log_file {
            let expected = log_file.replace("{host}", "web1.example");
            assert_eq!(config.options.log_file("web1.example"), Some(expected.into()));
        }
        accepted += 1;
    }
    assert_eq!(accepted, 61, "accepted files");
}

#[test]
fn files_that_only_the_original_takes_are_refused() {
    let reasons = BTreeMap::from([
        ("v050-odd-ipv4-spelling", (2, "lookup")),
        ("v052-zero-session-queue", (6, "value")),
        ("v053-window-wraps", (6, "value")),
        ("v054-newline-in-quotes", (2, "syntax")),
        ("v055-unterminated-quote", (2, "syntax")),
        ("v056-quote-with-tail", (2, "syntax")),
    ]);
    let mut refused = 0;
    for (case, path) in cases() {
        if case.expect.is_none() || case.modern != "reject" {
            continue;
        }
        let (line, class) = reasons[case.case.as_str()];
        let errors = run(&case, &path).unwrap_err();
        assert_eq!((errors[0].0, errors[0].1), (Some(line), class), "{}: {errors:?}", case.case);
        refused += 1;
    }
    assert_eq!(refused, reasons.len());
}

#[test]
fn invalid_files_are_refused_at_the_same_place() {
    // We say it at another place, or in another class, where that helps more.
    let differences = BTreeMap::from([
        // The segment that is empty, not the end of the file.
        ("e039-no-daemons", (Some(2), "empty")),
        // Found before anything is bound.
        ("e085-interface-listed-twice", (Some(2), "consistency")),
    ]);
    let mut refused = 0;
    let mut wrong = Vec::new();
    for (case, path) in cases() {
        let Some(error) = &case.error else { continue };
        assert_eq!(case.modern, "reject");
        let expected = differences
            .get(case.case.as_str())
            .map_or((error.line, error.class.as_str()), |(line, class)| (*line, *class));
        if error.class == "environment" && !differences.contains_key(case.case.as_str()) {
            // Nothing is wrong with the file; the host refuses when the daemon starts.
            assert_eq!(error.stage, "start");
            let (config, _) = run(&case, &path).unwrap_or_else(|e| panic!("{}: {e:?}", case.case));
            let (shared, _) = warnings(&config);
            assert_eq!(shared, case.warnings.iter().map(String::as_str).collect(), "{}", case.case);
            continue;
        }
        let errors = run(&case, &path).err().unwrap_or_else(|| panic!("{} is refused", case.case));
        // One mistake, one error.
        if errors.len() != 1 || (errors[0].0, errors[0].1) != expected {
            wrong.push(format!("{}: expected {expected:?}, found {errors:?}", case.case));
        }
        refused += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(refused, 87, "refused files");
}
