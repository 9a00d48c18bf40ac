//! Random histories of daemons: a fresh sample at each run, all seeds that ever failed, and the simulator's own
//! promise that a seed means one history. `cargo xtask sim --seeds N` runs many more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sim::explore::{Bounds, Start, explore};
use sim::plan::MS;
use sim::{Options, Plan, run};

/// Long histories that failed once, because of the daemons or because of a property that asked for too much: leaves
/// and joins in transition, cascades, holes. What was wrong with the daemons is told in
/// `docs/internals/bugs-found-by-simulation.md`.
const FAILED_ONCE: &[u64] = &[
    7, 21, 184, 188, 224, 250, 477, 489, 982, 997, 1021, 1025, 1239, 1683, 1840, 2673, 102_079, 169_137,
    200_981, 201_215,
];

/// The same of the mix: groups that count on in two parts of a network with the same ids, rings that pull at a
/// third one for ever, requests that take effect twice when the epoch wraps, a token lost by chance after the rest,
/// epochs that cannot grow any more.
const FAILED_ONCE_MIX: &[u64] = &[5068, 12_123, 15_406, 15_427, 44_725, 116_419, 134_680, 441_752, 818_967];

/// Histories of the fresh sample.
const SAMPLE: u64 = 400;

/// Long histories and storms of the fresh sample, each.
const LONG: u64 = 8;

fn keeps_its_promises(plan: &Plan, flags: &str) {
    if let Some(failure) = run(plan, &Options::default()).failure {
        panic!("{failure}\nmake it smaller: cargo xtask sim --seed {}{flags} --shrink\n{plan}", plan.seed);
    }
}

#[test]
fn fresh_histories() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let first = u64::try_from(now % 1_000_000_000).unwrap_or(0) * 1000;
    println!("cargo xtask sim --from {first} --seeds {SAMPLE}");
    (first..first + SAMPLE).for_each(|seed| keeps_its_promises(&Plan::draw(seed), ""));
    println!("cargo xtask sim --long --from {first} --seeds {LONG}, and --storm");
    (first..first + LONG).for_each(|seed| keeps_its_promises(&Plan::long(seed), " --long"));
    (first..first + LONG).for_each(|seed| keeps_its_promises(&Plan::storm(seed), " --storm"));
}

#[test]
fn seeds_that_failed_once() {
    FAILED_ONCE_MIX.iter().for_each(|seed| keeps_its_promises(&Plan::draw(*seed), ""));
    FAILED_ONCE.iter().for_each(|seed| keeps_its_promises(&Plan::long(*seed), " --long"));
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 40] {
        let plan = Plan::long(seed);
        let traced = Options { trace: true, ..Options::default() };
        let (a, b) = (run(&plan, &traced), run(&plan, &traced));
        assert_eq!(a.digest, b.digest);
        assert_eq!(a.trace, b.trace);
        assert!(a.trace.len() > 100);
        // The trace changes nothing.
        let quiet = run(&plan, &Options::default());
        assert_eq!((quiet.digest, quiet.figures), (a.digest, a.figures));
        let other = run(&Plan::long(seed + 1), &Options::default());
        assert_ne!(other.digest, a.digest);
    }
}

/// Whatever somebody forges who knows addresses and sessions: no daemon panics, none runs hot.
#[test]
fn forged_packets_end_no_daemon() {
    let options = Options { hostile: true, ..Options::default() };
    for seed in 1..=8 {
        let outcome = run(&Plan::long(seed), &options);
        if let Some(failure) = outcome.failure.filter(|failure| failure.promise != "G10") {
            panic!("{failure}\ncargo xtask sim --seed {seed} --long --hostile --trace");
        }
    }
}

/// Eight daemons with nothing to do: signs of life ten times a second, and a token that rests.
#[test]
fn an_idle_ring_sends_little() {
    let mut plan = Plan::long(1);
    (plan.nodes, plan.active, plan.liveness) = (8, 20_000 * MS, false);
    (plan.latency, plan.jitter) = (100_000, 20_000);
    plan.faults.clear();
    plan.groups = None;
    plan.load.total = 8;
    let engine = &mut plan.engine;
    (engine.windows, engine.acks, engine.park, engine.token_ms) = ([None; 3], None, true, 500);
    let figures = run(&plan, &Options::default()).figures;
    assert_eq!(figures.installs, 8, "one ring");
    let presences = 10 * 8 * 7;
    // Eight rotations a second. In an idle ring a token goes out twice and has two receipts: it rests before it
    // comes back to tell that it arrived.
    let tokens = 8 * 8 * 4;
    let most = 20 * (presences + tokens);
    assert!(figures.packets < most, "{} packets in 20 s, at most {most}", figures.packets);
}

/// Nothing happens but that packets arrive.
const NOTHING: Bounds = Bounds {
    timers: 0,
    losses: 0,
    duplicates: 0,
    late: 0,
    crashes: 0,
    restarts: 0,
    cuts: 0,
    reduced: true,
    depth: 200,
    states: 1_000_000,
    time: Duration::from_secs(60),
    settle_one_of: 1,
};

/// All interleavings of packets and timers within small bounds; `cargo xtask sim --explore` goes further.
#[test]
fn small_worlds_are_visited_in_full() {
    let bounds = NOTHING;
    let one = Bounds { timers: 1, ..bounds };
    let worlds = [
        (Start::Boot, one, 1000),
        (Start::Two, Bounds { losses: 1, ..bounds }, 100),
        (Start::Two, Bounds { late: 1, ..bounds }, 100),
        (Start::Three, Bounds { losses: 1, ..bounds }, 100),
        (Start::Three, Bounds { crashes: 1, ..bounds }, 100),
        (Start::Hole, one, 1000),
        (Start::Merge, bounds, 1000),
        (Start::Two, Bounds { crashes: 1, restarts: 1, ..bounds }, 500),
    ];
    for (start, bounds, states) in worlds {
        let report = explore(start, &bounds).unwrap_or_else(|violation| panic!("{start:?}: {violation}"));
        if let Some((violation, story)) = report.failure {
            panic!("{start:?}: {violation}\n{}", story.join("\n"));
        }
        assert!(report.complete && report.states >= states && report.settled > 0, "{start:?}: {report:?}");
    }
}

/// Of moves whose order does not matter one order is tried: fewer states, and the same ends.
#[test]
fn one_order_of_moves_at_different_daemons_is_enough() {
    for (start, timers) in [(Start::Boot, 1), (Start::Two, 1), (Start::Hole, 1), (Start::Merge, 0)] {
        let [all, few] = [false, true].map(|reduced| {
            let bounds = Bounds { timers, reduced, ..NOTHING };
            let report = explore(start, &bounds).unwrap_or_else(|violation| panic!("{violation}"));
            assert!(report.complete, "{start:?}: {report:?}");
            report
        });
        assert_eq!(all.ends, few.ends, "{start:?}");
        assert!(few.states * 10 < all.states * 9, "{start:?}: {} of {}", few.states, all.states);
    }
}
