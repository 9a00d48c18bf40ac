//! (c) The chains themselves: a burst between two announcements, what a decision costs, simulated queues.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

use anyhow::Result;
use backhand::chain::NoExternal;
use backhand::{Chain, Function, Micros, Random, RequestView, Server, ServerStat, Snapshot};

use crate::traffic::exponential;

fn chain(lines: &str) -> Result<Chain> {
    let mut chain = Chain::default();
    for line in lines.split(", ") {
        let (name, arg) = line.split_once(' ').map_or((line, None), |(name, arg)| (name, Some(arg)));
        let function = Function::parse(name, arg).map_err(anyhow::Error::msg)?;
        chain.push(line.to_owned(), function).map_err(anyhow::Error::msg)?;
    }
    Ok(chain)
}

fn server(load: u32) -> Option<Server> {
    let stat = ServerStat {
        mtime: Micros(1),
        arriba: 100,
        load,
        load_hwm: 8,
        nservers: 100_000,
        aservers: 100_000 - load / 1000,
        tmem: 8 << 30,
        amem: 4 << 30,
        ..ServerStat::default()
    };
    Some(Server { stat, interval_ms: 1000, ..Server::default() })
}

pub(crate) const PAPER: &str = "byAge, byRandom, byLogWindow, byLoad";

/// The case of the paper: 1,000 requests between two announcements of ten servers.
pub(crate) fn burst() {
    println!("(c) 1,000 requests between two announcements, 10 servers with loads 1.0, 1.1 .. 1.9");
    println!("    {:<58} {:>9} {:>12}", "chain", "max share", "servers used");
    for lines in [
        "byAge, byLoad",
        PAPER,
        "byAge, byRandom, byLogWindow, byLoad, addPrediction",
        "byAge, byCost",
        "byAge, byCost, addPrediction",
        "byAge, byRandom, byLogWindow, byCost, addPrediction",
        "byAge, byRandom",
    ] {
        let Ok(chain) = chain(lines) else { continue };
        let slots = (0..10).map(|n| server(1000 + n * 100)).collect();
        let mut snapshot = Snapshot { now: Micros(2), slots };
        let mut random = Random::new(1);
        let mut chosen = BTreeMap::<u16, u32>::new();
        for _ in 0..1000 {
            let decision =
                chain.decide(&snapshot, &RequestView::default(), &mut random, &mut NoExternal, false);
            let Some(first) = decision.set.first() else { continue };
            *chosen.entry(*first).or_default() += 1;
            if let Some(Some(server)) = snapshot.slots.get_mut(usize::from(*first)) {
                server.live.predicted_load += decision.charge.unwrap_or(0);
            }
        }
        let most = chosen.values().max().copied().unwrap_or(0);
        println!("    {lines:<58} {:>9.3} {:>12}", f64::from(most) / 1000.0, chosen.len());
    }
}

/// What one decision costs, without the reading of the table.
pub(crate) fn decision_cost() {
    for servers in [10u32, 100, 1000] {
        let Ok(chain) = chain(PAPER) else { continue };
        let snapshot = Snapshot { now: Micros(2), slots: (0..servers).map(|n| server(1000 + n)).collect() };
        let (mut random, runs) = (Random::new(1), 2_000_000 / servers);
        let begun = Instant::now();
        for _ in 0..runs {
            let decision =
                chain.decide(&snapshot, &RequestView::default(), &mut random, &mut NoExternal, false);
            std::hint::black_box(decision);
        }
        let nanos = begun.elapsed().as_nanos() / u128::from(runs);
        println!("    one decision of the paper's chain, {servers} servers: {nanos} ns");
    }
}

/// Queues as in section 3 of the evaluation: 10 servers, one front, exponential service of mean 1, load 0.9, announced
/// every 33 units.
pub(crate) fn queues(arrivals: u64) {
    println!(
        "    simulated queues: 10 servers, 1 front, rho 0.9, announced every 33 service times, {arrivals} arrivals"
    );
    println!("    {:<52} {:>7} {:>7} {:>9}   expected mean / p99", "chain", "mean", "p99", "max share");
    for (lines, expected) in [
        ("byRandom", "10.0 / 45"),
        ("byRandom, byLoad", "62 / 232 (least)"),
        ("byRandom, byLogWindow, byLoad", "16.6 / 58 (win)"),
        ("byRandom, byLogWindow, byLoad, addPrediction", "8.0 / 25 (win+p)"),
        ("byRandom, byLoad, addPrediction", "9.9 / 28 (least+p)"),
        ("byRandom, byLogWindow, byLoad, addPrediction inflight", "2.5 / 9.2 (win+i)"),
        ("byRandom, byLogWindow 2, byLoad", "10.5 / 36 (p2)"),
        ("byRandom, byInFlight", "1.9 / 8.0 (lc)"),
        ("byRandom, byCost, addPrediction", "-"),
    ] {
        match chain(lines) {
            Ok(chain) => {
                let (mean, p99, share) = simulate(&chain, arrivals);
                println!("    {lines:<52} {mean:>7.1} {p99:>7.1} {share:>9.2}   {expected}");
            }
            Err(error) => println!("    {lines}: {error}"),
        }
    }
}

const SERVERS: usize = 10;
const INTERVAL: f64 = 33.0;

/// End of a job, ordered by time.
#[derive(PartialEq)]
struct End(f64, usize);

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// Mean and 99th percentile of the response time, and the largest share of a server in an interval.
fn simulate(chain: &Chain, arrivals: u64) -> (f64, f64, f64) {
    let (mut arrive, mut serve, mut decide) = (Random::new(11), Random::new(12), Random::new(13));
    let mut snapshot = Snapshot { now: Micros(2), slots: (0..SERVERS).map(|_| server(0)).collect() };
    let mut free_at = [0.0f64; SERVERS];
    let mut queue = [0u32; SERVERS];
    let mut ends = BinaryHeap::new();
    let mut phase = Random::new(14);
    let mut next_announcement: Vec<f64> =
        (0..SERVERS).map(|_| INTERVAL * phase.below(1000) as f64 / 1000.0).collect();
    let (mut now, mut times) = (0.0, Vec::new());
    let (mut window, mut window_end, mut shares) = ([0u32; SERVERS], INTERVAL, Vec::new());
    for number in 0..arrivals {
        now += exponential(&mut arrive, 1.0 / (0.9 * SERVERS as f64));
        loop {
            let announcer = (0..SERVERS)
                .min_by(|a, b| next_announcement[*a].total_cmp(&next_announcement[*b]))
                .unwrap_or(0);
            let end = ends.peek().map_or(f64::INFINITY, |end: &End| end.0);
            if end <= now && end <= next_announcement[announcer] {
                let Some(End(_, at)) = ends.pop() else { break };
                queue[at] -= 1;
                with(&mut snapshot, at, |s| s.live.in_flight -= 1);
            } else if next_announcement[announcer] <= now {
                next_announcement[announcer] += INTERVAL;
                let load = queue[announcer] * 1000;
                with(&mut snapshot, announcer, |s| {
                    s.stat.load = load;
                    s.live.predicted_load = 0;
                    s.live.in_flight_announced = s.live.in_flight;
                });
            } else {
                break;
            }
        }
        let decision = chain.decide(&snapshot, &RequestView::default(), &mut decide, &mut NoExternal, false);
        let at = usize::from(decision.set.first().copied().unwrap_or(0));
        let charge = decision.charge.unwrap_or(0);
        with(&mut snapshot, at, |s| {
            s.live.predicted_load += charge;
            s.live.in_flight += 1;
        });
        let end = free_at[at].max(now) + exponential(&mut serve, 1.0);
        free_at[at] = end;
        queue[at] += 1;
        ends.push(End(end, at));
        if now >= window_end {
            let all: u32 = window.iter().sum();
            shares.push(f64::from(window.iter().max().copied().unwrap_or(0)) / f64::from(all.max(1)));
            (window, window_end) = ([0; SERVERS], now + INTERVAL);
        }
        window[at] += 1;
        if number >= arrivals / 10 {
            times.push(end - now);
        }
    }
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0.0);
    (mean, p99, shares.iter().sum::<f64>() / shares.len().max(1) as f64)
}

fn with(snapshot: &mut Snapshot, at: usize, change: impl FnOnce(&mut Server)) {
    if let Some(Some(server)) = snapshot.slots.get_mut(at) {
        change(server);
    }
}
