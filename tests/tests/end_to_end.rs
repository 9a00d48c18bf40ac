//! Apache lines of several hosts in one unified log, and what happens when a daemon dies.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::Duration;

use tests::apache::Mpm;
use tests::survive::{Course, Report, Scenario, Trouble, all_trouble, one_kill, random, run, unavailable};

fn scenario(requests: u64, trouble: Vec<(u64, Trouble)>) -> Scenario {
    Scenario {
        course: Course::Requests(requests, trouble),
        clients: 8,
        pace: Duration::ZERO,
        mpms: [Mpm::Event; 2],
        spool: false,
        config: String::new(),
    }
}

/// Runs and checks; `None` where there can be no hosts.
fn checked(scenario: &Scenario) -> Option<Report> {
    if let Some(why) = unavailable() {
        eprintln!("not run: {why}");
        return None;
    }
    let report = run(scenario).unwrap();
    println!("{report}");
    report.check().unwrap_or_else(|error| panic!("{error}\n{report}\n{}", report.notes.join("\n")));
    Some(report)
}

#[test]
fn every_request_is_in_both_files_once() {
    let Some(report) = checked(&scenario(2_000, vec![])) else { return };
    assert_eq!(report.outcome.answered.len() + report.outcome.unsure.len(), 2_000);
    for verdict in &report.verdicts {
        assert!(verdict.missing.is_empty(), "{verdict:?}");
    }
    assert_eq!((report.dropped(), report.in_doubt()), (0, 0));
}

#[test]
fn a_killed_daemon_costs_no_line() {
    let Some(report) = checked(&scenario(4_000, one_kill())) else { return };
    // Once a log writer was heard, lines are kept until acknowledged: nothing is in doubt, nothing is lost.
    for verdict in &report.verdicts {
        assert!(verdict.missing.is_empty(), "{verdict:?}\n{report}");
    }
    assert_eq!((report.dropped(), report.in_doubt()), (0, 0));
}

#[test]
fn a_killed_daemon_costs_no_line_of_framed_logs() {
    let framed = Scenario { config: "SpreadLogWire framed\n".into(), ..scenario(4_000, one_kill()) };
    let Some(report) = checked(&framed) else { return };
    for verdict in &report.verdicts {
        assert!(verdict.missing.is_empty(), "{verdict:?}\n{report}");
    }
}

#[test]
fn all_trouble_in_turn_costs_no_line() {
    let troubled = Scenario { pace: Duration::from_millis(10), ..scenario(16_000, all_trouble()) };
    checked(&troubled);
}

/// The short form of `cargo xtask survive --minutes 5`.
#[test]
fn trouble_by_chance_costs_no_line_of_a_spooled_log() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    println!("seed {seed}");
    let length = Duration::from_secs(14);
    let by_chance = Scenario {
        course: Course::Time(length, random(seed, length)),
        pace: Duration::from_millis(20),
        mpms: [Mpm::Event, Mpm::Prefork],
        spool: true,
        ..scenario(0, vec![])
    };
    let Some(report) = checked(&by_chance) else { return };
    assert_eq!((report.dropped(), report.in_doubt()), (0, 0), "seed {seed}: {report}");
}
