//! The soak, short: the long one is `cargo xtask soak`.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use tests::soak::{Scenario, run};
use tests::{crowd, fuzz_live};

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let seed = rand::random();
    println!("seed {seed}");
    let scenario = Scenario {
        clients: 40,
        time: Duration::from_secs(8),
        groups: 10,
        life: Duration::from_secs(3),
        pause: Duration::from_millis(300),
        seed,
    };
    let report = run(&scenario, |line| println!("{line}")).unwrap();
    println!("{report}");
    assert!(report.faults.is_empty(), "{report}");
}

#[test]
fn hostile_clients_and_forged_datagrams_hurt_nobody_healthy() {
    let seed = rand::random();
    println!("seed {seed}");
    let scenario = fuzz_live::Scenario {
        clients: Duration::from_secs(5),
        datagrams: Duration::from_secs(2),
        hostile: 8,
        seed,
    };
    println!("{}", fuzz_live::run(&scenario, |line| println!("{line}")).unwrap());
}

#[test]
fn hundreds_of_idle_clients_and_groups_are_served() {
    spreadd::sessions_that_fit(1000);
    let scenario = crowd::Scenario { idle: 600, groups: 50, members: 20 };
    let report = crowd::run(&scenario).unwrap();
    println!("{report}");
    let [empty, idle, ..] = report.resident_kib;
    let each = ((idle - empty) << 10) / 600;
    assert!(each < 20_000, "an idle client costs {each} bytes");
}
