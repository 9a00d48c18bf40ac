//! (d) Live: real Apaches in front of servers whose capacity is one worker, not the CPU.
//!
//! All policies of a workload run at the same time, each with servers of its own and the same requests, so that
//! whatever else happens on the machine happens to all of them.
// spec: load-balancing-evaluation 6

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::apache::{Apache, Mpm, Setup, free_address};
use tests::backhand::{Webs, load_modules};

use crate::back_end::{BackEnd, announce, beat, disturb, kill_some};
use crate::queues::PAPER;
use crate::traffic::{Arrivals, MEAN, Seen, Service, drive, schedule};
use crate::{Options, median};

/// Back ends with one worker each, of every policy.
const BACK_ENDS: u8 = 6;
/// On unequal servers every other one is so much slower.
const SLOWER: f64 = 4.0;
/// Part of the capacity that is asked for.
const RHO: f64 = 0.7;
/// A server that failed is not tried again for so long, by ours and by theirs.
const DOWN: &str = "2";

/// A way to choose a server.
#[derive(Clone, Debug)]
enum Policy {
    /// A method of mod_proxy_balancer.
    Balancer(&'static str),
    /// A chain; this part of the announcements is lost.
    Chain(&'static str, f64),
}

struct Workload {
    name: &'static str,
    what: &'static str,
    unequal: bool,
    service: Service,
    arrivals: Arrivals,
    /// Servers are killed and come back.
    kills: bool,
    /// Servers have other work too.
    outside: bool,
    /// Announcements are lost.
    loss: bool,
}

const PLAIN: Workload = Workload {
    name: "",
    what: "",
    unequal: false,
    service: Service::Exponential,
    arrivals: Arrivals::Poisson,
    kills: false,
    outside: false,
    loss: false,
};

const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "W2",
        what: "heavy tail: bounded Pareto 1.1, 8 ms to 2.5 s",
        service: Service::Pareto,
        ..PLAIN
    },
    Workload {
        name: "W3",
        what: "bursts: ten times as many requests in 0.3 s of every 3 s",
        arrivals: Arrivals::Bursts,
        ..PLAIN
    },
    Workload {
        name: "W4",
        what: "half of the servers 4 times slower, one request in ten 10 times heavier",
        unequal: true,
        service: Service::Mixed,
        ..PLAIN
    },
    Workload {
        name: "W5",
        what: "two servers busy for a second at times, with work that no front sent",
        outside: true,
        ..PLAIN
    },
    Workload {
        name: "W6",
        what: "two servers killed, one after the other, and back after a quarter of the run",
        kills: true,
        ..PLAIN
    },
    Workload { name: "W7", what: "announcements lost", loss: true, ..PLAIN },
];

const PREDICTION: &str = "byAge, byRandom, byLogWindow, byLoad, addPrediction";

impl Workload {
    fn policies(&self) -> Vec<Policy> {
        if self.loss {
            let chains = ["byAge, byLoad", PAPER, PREDICTION];
            return chains
                .into_iter()
                .flat_map(|chain| [0.0, 0.1, 0.5].map(|lost| Policy::Chain(chain, lost)))
                .collect();
        }
        let theirs = ["byrequests", "bybusyness", "heartbeat"].map(Policy::Balancer);
        let ours = [
            "byAge, byRandom",
            "byAge, byLoad",
            PAPER,
            PREDICTION,
            "byAge, byRandom, byLogWindow, byCost, addPrediction",
            "byAge, byRandom, byInFlight",
        ];
        theirs.into_iter().chain(ours.map(|chain| Policy::Chain(chain, 0.0))).collect()
    }
}

/// A policy with its servers.
struct Cell {
    policy: Policy,
    back_ends: Vec<Arc<BackEnd>>,
}

impl Cell {
    fn name(&self) -> String {
        match &self.policy {
            Policy::Balancer(method) => format!("mod_proxy_balancer {method}"),
            Policy::Chain(chain, lost) if *lost > 0.0 => format!("{chain} ({:.0} % lost)", lost * 100.0),
            Policy::Chain(chain, _) => (*chain).to_owned(),
        }
    }
}

/// Runs the wanted workloads.
pub(crate) fn run(options: &Options) -> Result<()> {
    for name in &options.workloads {
        ensure!(WORKLOADS.iter().any(|w| w.name == *name), "there is no workload {name}; there are W2 to W7");
    }
    println!(
        "(d) {} fronts, {BACK_ENDS} servers of one worker, mean service time {} ms on a fast one, rho {RHO}, statistics every\n    \
         {} ms ({:.1} mean service times), {} runs of {} s; milliseconds from the intended time of sending",
        options.fronts,
        MEAN.as_millis(),
        options.interval_ms,
        options.interval_ms as f64 / MEAN.as_secs_f64() / 1000.0,
        options.live_rounds,
        options.live_secs,
    );
    let all = options.workloads.is_empty();
    WORKLOADS
        .iter()
        .filter(|w| all || options.workloads.iter().any(|name| name == w.name))
        .try_for_each(|workload| one(workload, options))
}

fn one(workload: &Workload, options: &Options) -> Result<()> {
    let cells: Vec<Cell> =
        (0..).zip(workload.policies()).map(|(n, p)| cell(n, p, workload)).collect::<Result<_>>()?;
    let (dir, interval) = (tempfile::tempdir()?, Duration::from_millis(options.interval_ms));
    let locations: String = (0..).zip(&cells).filter_map(|(n, cell)| location(n, cell)).collect();
    let webs = Webs::start(options.fronts, Mpm::Event, |_, _| {
        format!("BackhandDownTime {DOWN}s\n{MORE}{locations}")
    })?;
    let announced: Vec<_> = cells
        .iter()
        .filter_map(|cell| match &cell.policy {
            Policy::Balancer(_) => None,
            Policy::Chain(_, lost) => Some(cell.back_ends.iter().map(|b| (Arc::clone(b), *lost))),
        })
        .flatten()
        .collect();
    let _announcers = announce(&webs, &announced, interval)?;
    let own: Vec<String> = (1..=options.fronts).map(|n| format!("www-{n}.test")).collect();
    let names: Vec<&str> =
        announced.iter().map(|(b, _)| b.name.as_str()).chain(own.iter().map(String::as_str)).collect();
    (1..=options.fronts).try_for_each(|n| webs.wait_up(n, &names))?;
    let balancers: Vec<Apache> =
        (0..options.fronts).map(|n| balancer(dir.path(), n, &cells)).collect::<Result<_>>()?;
    let ours: Vec<SocketAddr> = (1..=options.fronts).map(|n| webs.web(n).address()).collect();
    let theirs: Vec<SocketAddr> = balancers.iter().map(Apache::address).collect();
    let beating = cells.iter().find(|c| matches!(c.policy, Policy::Balancer("heartbeat")));
    let _beats = beating.map(|cell| beat(&theirs, &cell.back_ends, interval));
    let _outside = workload.outside.then(|| disturb(cells.iter().map(|c| c.back_ends.as_slice())));
    let speed: f64 = cells.first().context("no policies")?.back_ends.iter().map(|b| 1.0 / b.factor).sum();
    let mut runs: Vec<Vec<Seen>> = cells.iter().map(|_| Vec::new()).collect();
    let (idle_before, all_before) = cpu()?;
    for seed in (21..).take(options.live_rounds) {
        let shape = (options.live_secs, usize::from(options.fronts), seed);
        let jobs = schedule((workload.service, workload.arrivals), shape, speed, RHO);
        let begun = Instant::now() + Duration::from_millis(200);
        let killer = workload.kills.then(|| {
            kill_some(begun, options.live_secs, cells.iter().map(|c| c.back_ends.clone()).collect())
        });
        thread::scope(|scope| -> Result<()> {
            let drivers: Vec<_> = (0..)
                .zip(&cells)
                .map(|(n, cell)| {
                    let (jobs, ours, theirs) = (&jobs, &ours, &theirs);
                    scope.spawn(move || match cell.policy {
                        Policy::Balancer(method) => {
                            drive(jobs, begun, theirs, &format!("/{method}"), &cell.back_ends)
                        }
                        Policy::Chain(..) => drive(jobs, begun, ours, &format!("/task/{n}"), &cell.back_ends),
                    })
                })
                .collect();
            for (driver, runs) in drivers.into_iter().zip(&mut runs) {
                runs.push(driver.join().map_err(|_| anyhow!("a driver panicked"))?);
            }
            Ok(())
        })?;
        if let Some(killer) = killer {
            killer.join().map_err(|_| anyhow!("who kills servers panicked"))?;
        }
    }
    let (idle, all) = cpu()?;
    show(workload, &cells, &runs)?;
    let idle = (idle - idle_before) / (all - all_before).max(1.0) * 100.0;
    let verdict = if idle < 40.0 {
        ": less than 40 %, so these figures are of the machine, not of the policies"
    } else {
        ""
    };
    let mut late: Vec<f64> = runs.iter().flatten().flat_map(|seen| seen.late.iter().copied()).collect();
    late.sort_by(f64::total_cmp);
    let late = late.get(late.len() * 99 / 100).copied().unwrap_or(0.0);
    println!("    CPU idle {idle:.0} %{verdict}; 99 % of the requests were sent at most {late:.1} ms late");
    Ok(())
}

fn show(workload: &Workload, cells: &[Cell], runs: &[Vec<Seen>]) -> Result<()> {
    println!("    {}: {}", workload.name, workload.what);
    println!(
        "    {:<61} {:>5} {:>5} {:>5} {:>6} {:>14} {:>8} {:>9} {:>6}",
        "policy", "p50", "p95", "p99", "p99.9", "mean (range)", "slowdown", "max share", "failed"
    );
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        sum / f64::from(count.max(1))
    };
    for (cell, runs) in cells.iter().zip(runs) {
        let mut times: Vec<f64> = runs.iter().flat_map(|seen| seen.times.iter().map(|t| t.0)).collect();
        ensure!(!times.is_empty(), "{}: no request was answered", cell.name());
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let (_, least, most) =
            median(runs.iter().map(|seen| mean(&mut seen.times.iter().map(|t| t.0))).collect());
        println!(
            "    {:<61} {:>5.0} {:>5.0} {:>5.0} {:>6.0} {:>14} {:>8.1} {:>9.2} {:>6}",
            cell.name(),
            at(0.5),
            at(0.95),
            at(0.99),
            at(0.999),
            format!("{:.0} ({least:.0}-{most:.0})", mean(&mut times.iter().copied())),
            mean(&mut runs.iter().flat_map(|seen| seen.times.iter().map(|t| t.1))),
            mean(&mut runs.iter().flat_map(|seen| seen.shares.iter().copied())),
            runs.iter().map(|seen| seen.failed).sum::<usize>(),
        );
        if let Some(why) = runs.iter().find_map(|seen| seen.why.as_ref()) {
            println!("      the first failure: {why}");
        }
    }
    Ok(())
}

/// Servers of a policy; their addresses are their own, as mod_lbmethod_heartbeat knows servers by address only.
fn cell(number: u8, policy: Policy, workload: &Workload) -> Result<Cell> {
    let back_ends = (0..BACK_ENDS)
        .map(|n| {
            let factor = if workload.unequal && !n.is_multiple_of(2) { SLOWER } else { 1.0 };
            let addr = Ipv4Addr::new(127, 0, 0, 20 + number * BACK_ENDS + n);
            BackEnd::start(format!("b{number}-{n}"), addr, factor)
        })
        .collect::<Result<_>>()?;
    Ok(Cell { policy, back_ends })
}

fn location(number: u8, cell: &Cell) -> Option<String> {
    let Policy::Chain(chain, _) = &cell.policy else { return None };
    let mut calls: Vec<&str> = chain.split(", ").collect();
    let only = format!("byHostname ^b{number}-");
    calls.insert(0, &only);
    let lines: String = calls.iter().map(|call| format!("Backhand {call}\n")).collect();
    Some(format!("<Location /task/{number}>\n{lines}</Location>\n"))
}

/// Idle and all CPU time of the machine so far.
fn cpu() -> Result<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> =
        line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    Ok((ticks.get(3).copied().unwrap_or(0.0), ticks.iter().take(8).sum()))
}

const MORE: &str = "MaxKeepAliveRequests 0\nKeepAliveTimeout 60\nServerLimit 2\nStartServers 2\nThreadLimit 256\n\
                    ThreadsPerChild 256\nMaxRequestWorkers 512\nMaxSpareThreads 512\n";

/// A front with mod_proxy_balancer.
fn balancer(dir: &Path, number: u8, cells: &[Cell]) -> Result<Apache> {
    let modules: String =
        load_modules()?.lines().filter(|l| !l.contains("backhand")).map(|l| format!("{l}\n")).collect();
    let mut config = format!("{modules}TypesConfig /dev/null\n{MORE}");
    let methods = ["lbmethod_byrequests", "lbmethod_bybusyness", "lbmethod_heartbeat", "heartmonitor"];
    for name in ["slotmem_shm", "proxy_balancer"].into_iter().chain(methods) {
        config += &format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
    }
    // It wants to listen too, though here all is told to its handler.
    let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    config += &format!("HeartbeatListen 239.77.8.3:{port}\n");
    config += "HeartbeatMaxServers 64\n<Location /beat>\nSetHandler heartbeat\n</Location>\n";
    for cell in cells {
        let Policy::Balancer(method) = &cell.policy else { continue };
        let member = |b: &Arc<BackEnd>| format!("BalancerMember http://{} retry={DOWN}\n", b.addr);
        let members: String = cell.back_ends.iter().map(member).collect();
        config += &format!(
            "<Proxy balancer://{method}>\n{members}ProxySet lbmethod={method}\n</Proxy>\n\
             ProxyPass /{method} balancer://{method}/task\n"
        );
    }
    let setup = Setup { name: format!("balancer{number}"), listen: free_address()?, mpm: Mpm::Event, config };
    Apache::start_here(dir, setup).context("the balancer does not start")
}
