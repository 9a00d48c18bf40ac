use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::stat::Name;

const NOW: Micros = Micros(1_000_000_000);

fn server(number: u8) -> Server {
    let stat = ServerStat {
        hostname: Name::new(&format!("www-{number}.example.com")).unwrap(),
        mtime: NOW,
        contact: SocketAddr::new(Ipv4Addr::new(10, 0, 5, 10 + number).into(), 80),
        nservers: 10,
        aservers: 10,
        ..ServerStat::default()
    };
    Server { stat, interval_ms: 1000, ..Server::default() }
}

fn servers(count: u8, change: impl Fn(u8, &mut Server)) -> Snapshot {
    let slots = (0..count)
        .map(|n| {
            let mut s = server(n);
            change(n, &mut s);
            Some(s)
        })
        .collect();
    Snapshot { now: NOW, slots }
}

fn chain(lines: &[&str]) -> Chain {
    let mut chain = Chain::default();
    for line in lines {
        let (name, arg) = line.split_once(' ').map_or((*line, None), |(name, arg)| (name, Some(arg)));
        chain.push((*line).to_owned(), Function::parse(name, arg).unwrap()).unwrap();
    }
    chain
}

fn run(lines: &[&str], snapshot: &Snapshot) -> Vec<u16> {
    decide(lines, snapshot, &RequestView::default()).set.to_vec()
}

fn decide(lines: &[&str], snapshot: &Snapshot, request: &RequestView<'_>) -> Decision {
    chain(lines).decide(snapshot, request, &mut Random::new(1), &mut NoExternal, true)
}

#[test]
fn by_age_removes_what_is_older() {
    // spec: mod_backhand 12 T3
    let ages = [4_900_000, 5_000_000, 5_100_000];
    let set = servers(3, |n, s| s.stat.mtime = Micros(NOW.0 - ages[usize::from(n)]));
    assert_eq!(run(&["byAge"], &set), [0, 1]);
    assert_eq!(run(&["byAge 4.95"], &set), [0]);
    assert_eq!(run(&["byAge 6"], &set), [0, 1, 2]);
    assert_eq!(run(&["byAge 2", "byLoad"], &set), [] as [u16; 0]);
}

#[test]
fn by_log_window_keeps_the_first() {
    // spec: mod_backhand 12 T4
    for (n, k) in
        [(1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (10, 3), (16, 4), (31, 4), (64, 6), (100, 6)]
    {
        assert_eq!(run(&["byLogWindow"], &servers(n, |_, _| {})).len(), k, "{n}");
    }
    assert_eq!(run(&["byLogWindow 2"], &servers(10, |_, _| {})), [0, 1]);
}

#[test]
fn by_random_gives_each_order_equally_often() {
    // spec: mod_backhand 12 T5
    let set = servers(3, |_, _| {});
    let (chain, mut rng) = (chain(&["byRandom"]), Random::new(7));
    let mut seen = std::collections::BTreeMap::<Vec<u16>, u32>::new();
    for _ in 0..60_000 {
        let decision = chain.decide(&set, &RequestView::default(), &mut rng, &mut NoExternal, false);
        *seen.entry(decision.set.to_vec()).or_default() += 1;
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.values().all(|n| (9_600..=10_400).contains(n)), "{seen:?}");
}

#[test]
fn orderings_put_the_best_first_and_keep_ties() {
    // spec: mod_backhand 12 T6, T7
    assert_eq!(run(&["byLoad"], &servers(5, |_, s| s.stat.load = 700)), [0, 1, 2, 3, 4]);
    let cpu = [100, 900, 500];
    assert_eq!(run(&["byCPU"], &servers(3, |n, s| s.stat.cpu = cpu[usize::from(n)])), [1, 2, 0]);
    let load = [2000, 1000, 3000, 500];
    let set = servers(4, |n, s| s.stat.load = load[usize::from(n)]);
    assert_eq!(run(&["byLoad"], &set), [3, 1, 0, 2]);
    // All others look 1.6 worse: this server comes before those that are not that much better.
    assert_eq!(run(&["byLoad 1.6"], &set), [0, 3, 1, 2]);
    let idle = [0, 4, 2];
    assert_eq!(
        run(&["byBusyChildren"], &servers(3, |n, s| s.stat.aservers = idle[usize::from(n)])),
        [1, 2, 0]
    );
    let under_way = [3, 0, 1];
    assert_eq!(
        run(&["byInFlight"], &servers(3, |n, s| s.live.in_flight = under_way[usize::from(n)])),
        [1, 2, 0]
    );
}

#[test]
fn by_cost_orders_as_in_the_specification() {
    // spec: mod_backhand 4.4, 12 T8
    let set = |rows: &[(u32, u32, u32, u32, u64, u64)]| {
        servers(u8::try_from(rows.len()).unwrap(), |n, s| {
            let (ncpu, arriba, load, load_hwm, amem, tmem) = rows[usize::from(n)];
            s.stat = ServerStat { ncpu, arriba, load, load_hwm, amem, tmem, ..s.stat };
        })
    };
    let a = set(&[
        (1, 100, 2000, 4, 50, 100),
        (1, 100, 1000, 4, 25, 100),
        (1, 100, 3000, 4, 75, 100),
        (1, 100, 500, 1, 10, 100),
    ]);
    assert_eq!(run(&["byCost"], &a), [0, 1, 2, 3]);
    assert_eq!(run(&["byLoad"], &a), [3, 1, 0, 2]);
    assert_eq!(run(&["byCost mem=0"], &a), [3, 1, 0, 2]);
    let b = set(&[(2, 200, 4000, 4, 500, 1000), (1, 100, 500, 1, 250, 500), (1, 200, 1000, 2, 250, 1000)]);
    assert_eq!(run(&["byCost"], &b), [0, 2, 1]);
}

#[test]
fn predictions_spread_decisions_between_announcements() {
    // spec: mod_backhand 12 T9
    let mut set = servers(3, |_, _| {});
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let decision = decide(&["byLoad", "addPrediction"], &set, &RequestView::default());
        let first = decision.set[0];
        chosen.push(first);
        let server = set.slots[usize::from(first)].as_mut().unwrap();
        server.live.predicted_load += decision.charge.unwrap();
    }
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn in_flight_prediction_corrects_the_announced_figures() {
    let set = servers(3, |n, s| {
        s.stat.load = 1000;
        s.live.in_flight = [2, 0, 1][usize::from(n)];
        s.live.in_flight_announced = [0, 1, 1][usize::from(n)];
        s.live.predicted_load = [0, 90_000, 0][usize::from(n)];
    });
    assert_eq!(run(&["byLoad", "addPrediction inflight"], &set), [1, 2, 0]);
    assert_eq!(run(&["byLoad"], &set), [0, 2, 1]);
}

#[test]
fn a_session_goes_to_the_server_it_names() {
    // spec: mod_backhand 4.5, 12 T10
    let set = servers(5, |_, _| {});
    let with = |cookies: &[&[u8]], query: &[u8]| {
        decide(&["bySession"], &set, &RequestView { cookies, query }).set.to_vec()
    };
    assert_eq!(with(&[b"a=b", b"x=1; PHPSESSID=0a00050dffff"], b""), [3]);
    assert_eq!(with(&[], b"PHPSESSID=0A00050D"), [3]);
    assert_eq!(with(&[b"PHPSESSID=0a0005zz"], b"").len(), 5);
    assert_eq!(with(&[b"PHPSESSID=0a00"], b"").len(), 5);
    assert_eq!(with(&[b"PHPSESSID=7f000001"], b"").len(), 5);
    let request = RequestView { cookies: &[b"SID:0a00050e"], query: b"" };
    assert_eq!(decide(&["bySession SID:"], &set, &request).set[..], [4]);
}

#[test]
fn names_self_and_methods() {
    let set = servers(4, |n, s| {
        if n > 1 {
            s.stat.hostname = Name::new(&format!("app-{n}.alpha.example.com")).unwrap();
        }
    });
    assert_eq!(run(&["byHostname alpha"], &set), [2, 3]);
    assert_eq!(run(&["byHostname ^www-"], &set), [0, 1]);
    assert_eq!(run(&["byHostname alpha", "addSelf"], &set), [2, 3, 0]);
    assert_eq!(run(&["addSelf"], &set), [0, 1, 2, 3]);
    assert_eq!(run(&["removeSelf"], &set), [1, 2, 3]);
    assert_eq!(run(&["byHostname nothing", "addSelf"], &set), [0]);
    assert_eq!(run(&["off"], &set), [] as [u16; 0]);
    let decision = decide(&["byAge", "HTTPRedirectToName %l.%D"], &set, &RequestView::default());
    assert_eq!(decision.method, Method::RedirectToName(Some("%l.%D".into())));
    let decision = decide(&["HTTPRedirectToIP"], &set, &RequestView::default());
    assert_eq!(decision.method, Method::RedirectToIp);
    assert_eq!(decision.steps()[1].set[..], [0, 1, 2, 3]);
}

#[test]
fn servers_that_are_not_up_are_no_candidates() {
    let mut set = servers(5, |n, s| match n {
        1 => s.flags.gone = true,
        2 => s.flags.draining = true,
        3 => s.live.suspect_until = Micros(NOW.0 + 1),
        _ => {}
    });
    set.slots.push(None);
    assert_eq!(run(&["byRandom", "byLoad"], &set).len(), 2);
    assert_eq!(set.candidates()[..], [0, 4]);
}

#[test]
fn a_bad_external_function_leaves_the_set() {
    struct Mad;
    impl External for Mad {
        fn call(&mut self, id: usize, set: &mut Set, _: &dyn Servers) -> Result<Option<Method>, String> {
            set.clear();
            if id == 0 { Err("1000 entries".to_owned()) } else { Ok(Some(Method::RedirectToIp)) }
        }
    }
    let set = servers(3, |_, _| {});
    let mut chain = Chain::default();
    chain.push("mad".into(), Function::External(0)).unwrap();
    let decision = chain.decide(&set, &RequestView::default(), &mut Random::new(1), &mut Mad, false);
    assert_eq!((decision.set.len(), decision.errors().len()), (3, 1));
    chain.push("good".into(), Function::External(1)).unwrap();
    let decision = chain.decide(&set, &RequestView::default(), &mut Random::new(1), &mut Mad, false);
    assert_eq!((decision.set.len(), decision.method), (0, Method::RedirectToIp));
}

#[test]
fn one_server_is_not_compared_but_explained() {
    let set = servers(1, |_, _| {});
    let lines =
        ["byAge", "byRandom", "byLogWindow", "byLoad", "byCost", "addPrediction", "removeSelf", "byLoad"];
    let decision = decide(&lines, &set, &RequestView::default());
    let steps: Vec<_> = decision.steps().iter().map(|step| (step.call.as_str(), step.set.len())).collect();
    let mut expected: Vec<_> = ["up"].into_iter().chain(lines).map(|line| (line, 1)).collect();
    // Nothing runs once no server is left.
    expected.pop();
    expected[7].1 = 0;
    assert_eq!(steps, expected);
    assert_eq!(decision.charge, Some(1000));
}

#[test]
fn wrong_functions_and_arguments_are_refused() {
    for (name, arg) in [
        ("byage", None),
        ("byAge", Some("soon")),
        ("byAge", Some("-1")),
        ("byRandom", Some("1")),
        ("byLogWindow", Some("0")),
        ("byCost", Some("disk=1")),
        ("byHostname", None),
        ("byHostname", Some("(")),
        ("addPrediction", Some("lots")),
        ("HTTPRedirectToName", Some("%x")),
        ("HTTPRedirectToName", Some("evil.com/%h")),
    ] {
        assert!(Function::parse(name, arg).is_err(), "{name} {arg:?}");
    }
    let error = Function::parse("byage", None).unwrap_err();
    assert!(FUNCTIONS.iter().all(|name| error.contains(name)), "{error}");
    for name in FUNCTIONS {
        let arg = (*name == "byHostname").then_some("x");
        assert!(Function::parse(name, arg).is_ok(), "{name}");
    }
    let mut chain = chain(&["byAge"; CHAIN_MAX]);
    assert!(chain.push("byAge".into(), Function::ByRandom).is_err());
}

fn any_server() -> impl Strategy<Value = Server> {
    (any::<[u16; 8]>(), any::<[bool; 2]>(), 0..20_000_000u64).prop_map(|(w, flags, age)| {
        let mut s = server((w[0] % 200) as u8);
        let [_, nservers, aservers, load, cpu, tmem, amem, in_flight] = w.map(u32::from);
        s.stat = ServerStat {
            mtime: Micros(NOW.0 - age),
            nservers,
            aservers,
            load,
            cpu: cpu % 1001,
            load_hwm: crate::stat::high_water(load),
            tmem: tmem.into(),
            amem: amem.into(),
            ..s.stat
        };
        s.live.in_flight = in_flight.into();
        s.flags.gone = flags[0] && flags[1];
        s
    })
}

/// Functions that only reorder.
const ORDERINGS: &[&str] = &[
    "byRandom",
    "byCPU",
    "byLoad",
    "byLoad 0.5",
    "byBusyChildren",
    "byInFlight 2",
    "byCost",
    "addPrediction",
];
/// Functions that only remove.
const FILTERS: &[&str] =
    &["byAge", "byAge 1", "byLogWindow", "byLogWindow 3", "removeSelf", "byHostname 1", "off", "bySession"];

proptest! {
    #[test]
    fn orderings_keep_the_set_and_filters_keep_the_order(
        slots in proptest::collection::vec(proptest::option::of(any_server()), 0..40),
        seed in any::<u64>(),
        before in 0..ORDERINGS.len(),
        then in 0..ORDERINGS.len(),
        filter in 0..FILTERS.len(),
    ) {
        let snapshot = Snapshot { now: NOW, slots };
        let lines = [ORDERINGS[before], ORDERINGS[then], FILTERS[filter]];
        let view = RequestView::default();
        let decision = chain(&lines).decide(&snapshot, &view, &mut Random::new(seed), &mut NoExternal, true);
        let sorted = |set: &[u16]| { let mut set = set.to_vec(); set.sort_unstable(); set };
        let initial = snapshot.candidates();
        prop_assert!(decision.errors().is_empty());
        for step in decision.steps().iter().take(3) {
            prop_assert_eq!(sorted(&step.set), initial.to_vec());
        }
        if let Some(ordered) = decision.steps().get(2) {
            // What is left stands in the same order: a subsequence.
            let mut rest = ordered.set.iter();
            prop_assert!(decision.set.iter().all(|slot| rest.any(|s| s == slot)));
        }
        // The same seed gives the same decision.
        let again = chain(&lines).decide(&snapshot, &view, &mut Random::new(seed), &mut NoExternal, true);
        prop_assert_eq!(decision, again);
    }

    #[test]
    fn sessions_read_any_bytes(cookie in proptest::collection::vec(any::<u8>(), 0..40), query in "PHPSESSID=.{0,12}") {
        let set = servers(3, |_, _| {});
        let request = RequestView { cookies: &[&cookie], query: query.as_bytes() };
        let left = decide(&["bySession"], &set, &request).set.len();
        prop_assert!(left == 1 || left == 3);
    }
}
