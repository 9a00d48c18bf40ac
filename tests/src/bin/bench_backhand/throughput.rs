//! (a) and (b): what a request costs with the module and without, in many short turns side by side.
//!
//! A machine that does other things too changes from second to second. So turns are short, the two servers take them
//! alternately, and each pair gives one ratio. The CPU time of the servers for a request is shown beside the rate: what
//! else runs makes requests late, but not longer.
//!
//! Both servers are started many times: where a process happens to lie in memory makes it faster or slower by some
//! percent for as long as it lives. So a start gives one value, the median of its ratios; the median of the starts and its
//! interval of confidence are shown.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tests::apache::{Apache, Mpm, Setup, free_address};
use tests::backhand::{Webs, load_modules};

use crate::{Client, Options, median};

const CLIENTS: usize = 8;

/// A server under test.
struct Side<'a> {
    target: &'a str,
    /// Servers whose CPU time counts, by the id of their group of processes.
    groups: Vec<i32>,
    clients: Vec<Client>,
}

/// What a turn shows.
struct Turn {
    /// Requests per second.
    rate: f64,
    /// CPU time of the servers for a request, in microseconds.
    cpu: f64,
}

impl<'a> Side<'a> {
    fn new(addr: SocketAddr, target: &'a str, groups: Vec<i32>) -> Result<Self> {
        let clients = (0..CLIENTS).map(|_| Client::new(addr)).collect::<Result<_>>()?;
        Ok(Self { target, groups, clients })
    }

    fn turn(&mut self, secs: f64) -> Result<Turn> {
        let (target, cpu_before, begun) = (self.target, cpu_time(&self.groups)?, Instant::now());
        let end = begun + Duration::from_secs_f64(secs);
        let requests = thread::scope(|scope| {
            let clients: Vec<_> = self
                .clients
                .iter_mut()
                .map(|client| {
                    scope.spawn(move || -> Result<u32> {
                        let mut done = 0;
                        while Instant::now() < end {
                            client.get(target)?;
                            done += 1;
                        }
                        Ok(done)
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
                .sum::<Result<u32>>()
        })?;
        let (requests, elapsed) = (f64::from(requests.max(1)), begun.elapsed().as_secs_f64());
        let cpu = cpu_time(&self.groups)?.saturating_sub(cpu_before) as f64 / 1000.0 / requests;
        Ok(Turn { rate: requests / elapsed, cpu })
    }
}

/// Nanoseconds on a CPU so far of all living threads of these groups of processes.
fn cpu_time(groups: &[i32]) -> Result<u64> {
    let mut sum = 0;
    for process in fs::read_dir("/proc")?.flatten() {
        // Others come and go while we look.
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        let group = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
        if !group.is_some_and(|group| groups.contains(&group)) {
            continue;
        }
        for thread in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// Median of a sample with a 95 % interval for the median of all: order statistics, so no shape is assumed. Of less than
/// six values all between the least and the most.
fn interval(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let low = ((count - 1.96 * count.sqrt()) / 2.0).floor().max(0.0) as usize;
    (median(values.clone()).0, values[low], values[values.len() - 1 - low])
}

/// Turns of both servers, in pairs.
struct Pairs {
    /// Ours and the other.
    both: Vec<(Turn, Turn)>,
    /// Rates of the other against itself, a turn later.
    same: Vec<f64>,
}

impl Pairs {
    /// Lets two servers that were just started take turns.
    fn add<'a>(&mut self, mut ours: Side<'a>, mut theirs: Side<'a>, options: &Options) -> Result<()> {
        for side in [&mut ours, &mut theirs] {
            // Their processes and caches get warm.
            side.turn(options.turn_secs.max(0.5))?;
        }
        let mut last: Option<f64> = None;
        for number in 0..options.pairs.div_ceil(options.starts) {
            // The order changes, so that neither is always the first one.
            let (a, b) = if number.is_multiple_of(2) {
                let a = ours.turn(options.turn_secs)?;
                (a, theirs.turn(options.turn_secs)?)
            } else {
                let b = theirs.turn(options.turn_secs)?;
                (ours.turn(options.turn_secs)?, b)
            };
            self.same.extend(last.replace(b.rate).map(|before| b.rate / before));
            self.both.push((a, b));
        }
        Ok(())
    }
}

/// Starts two servers again and again, lets them take turns and prints the ratios.
fn compare(what: &str, aim: f64, options: &Options, start: impl Fn(&mut Pairs) -> Result<()>) -> Result<()> {
    ensure!(options.starts > 0 && options.pairs > 0, "--starts and --pairs must not be 0");
    let mut pairs = Pairs { both: Vec::new(), same: Vec::new() };
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..options.starts {
        let before = pairs.both.len();
        start(&mut pairs)?;
        let middle = |ratio: &dyn Fn(&(Turn, Turn)) -> f64| {
            median(pairs.both.iter().skip(before).map(ratio).collect()).0
        };
        rates.push(middle(&|(a, b)| a.rate / b.rate));
        cpus.push(middle(&|(a, b)| a.cpu / b.cpu.max(1e-9)));
    }
    let (rates, cpus) = (interval(rates), interval(cpus));
    let Pairs { both: pairs, same } = pairs;
    let middle = |of: &dyn Fn(&(Turn, Turn)) -> f64| median(pairs.iter().map(of).collect()).0;
    let show = |(middle, low, high): (f64, f64, f64)| format!("{middle:.3} [{low:.3}, {high:.3}]");
    let verdict = match rates {
        (_, low, _) if low >= aim => "met",
        (_, _, high) if high < aim => "missed",
        _ => "not decided: it lies in the interval",
    };
    println!("{what} ({} starts, {} pairs of turns of {} s)", options.starts, pairs.len(), options.turn_secs);
    println!(
        "    requests/s        {:>8.0} / {:>8.0} = {}   aim {aim}: {verdict}",
        middle(&|p| p.0.rate),
        middle(&|p| p.1.rate),
        show(rates)
    );
    println!(
        "    server CPU        {:>5.1} us / {:>5.1} us = {} for a request",
        middle(&|p| p.0.cpu),
        middle(&|p| p.1.cpu),
        show(cpus)
    );
    if !same.is_empty() {
        println!("    the second server against itself, a turn later: {}", show(interval(same)));
    }
    Ok(())
}

/// One child: connections stay for all turns, and if chance gave one server two busy children and the other one, it
/// would be the chance that is measured.
///
/// Both servers have the same sections: what Apache takes to merge one is not ours.
///
/// As in the configuration that Apache ships: without `AllowOverride None` a request that is mapped to a file looks for
/// `.htaccess` in each folder above it, one that `ProxyPass` takes does not.
const MORE: &str = "MaxKeepAliveRequests 0\nServerLimit 1\nStartServers 1\nThreadsPerChild 50\nMaxRequestWorkers 50\nMaxSpareThreads 50\n\
                    <Directory />\nAllowOverride None\n</Directory>\n";

/// As often as by default; the tests let the manager announce five times a second.
const INTERVAL: &str = "BackhandInterval 1s\n";

/// Of a server without our module: all other modules, and a section in place of that of the diagnostic page.
fn other_lines() -> Result<String> {
    let modules: Vec<String> =
        load_modules()?.lines().filter(|line| !line.contains("backhand")).map(str::to_owned).collect();
    let section = "<Location /backhand/>\nSetHandler none\n</Location>\n";
    Ok(format!("{}\nTypesConfig /dev/null\nKeepAliveTimeout 5\n{section}", modules.join("\n")))
}

fn group(apache: &Apache) -> i32 {
    apache.pid().as_raw()
}

pub(crate) fn local_overhead(options: &Options) -> Result<()> {
    let chain = "Backhand byAge\nBackhand byRandom\nBackhand byLogWindow\nBackhand byLoad\n";
    let section = |lines: &str| format!("{MORE}<Location /who>\nSetEnv SECTION who\n{lines}</Location>\n");
    compare("(a) a chain that serves here / no module", 0.99, options, |pairs| {
        let webs = Webs::start(1, Mpm::Event, |_, _| format!("{INTERVAL}{}", section(chain)))?;
        webs.wait_all_up()?;
        let dir = tempfile::tempdir()?;
        let config = format!("{}{}", other_lines()?, section(""));
        let plain = Setup { name: "plain".into(), listen: free_address()?, mpm: Mpm::Event, config };
        let plain = Apache::start_here(dir.path(), plain)?;
        fs::write(plain.root().join("htdocs/who"), "www-1\n")?;
        let ours = Side::new(webs.web(1).address(), "/who", vec![group(webs.web(1))])?;
        let theirs = Side::new(plain.address(), "/who", vec![group(&plain)])?;
        pairs.add(ours, theirs, options)
    })
}

pub(crate) fn proxied(options: &Options) -> Result<()> {
    compare("(b) proxied / ProxyPass with connections that stay open", 0.95, options, |pairs| {
        let webs = Webs::start(2, Mpm::Event, |n, _| {
            let chain = "<Location /who>\nBackhand byAge\nBackhand removeSelf\n</Location>\n";
            format!("{INTERVAL}{MORE}{}", if n == 1 { chain } else { "" })
        })?;
        webs.wait_all_up()?;
        let dir = tempfile::tempdir()?;
        let pass = format!(
            "<Location /who>\nProxyPass http://{}/who\n</Location>\nProxyPreserveHost On\n",
            webs.web(2).address()
        );
        let config = format!("{}{MORE}{pass}", other_lines()?);
        let plain = Setup { name: "plain".into(), listen: free_address()?, mpm: Mpm::Event, config };
        let plain = Apache::start_here(dir.path(), plain)?;
        // The server that answers is the same one; it also has to believe our header.
        let (front, back) = (group(webs.web(1)), group(webs.web(2)));
        let ours = Side::new(webs.web(1).address(), "/who", vec![front, back])?;
        let theirs = Side::new(plain.address(), "/who", vec![group(&plain), back])?;
        pairs.add(ours, theirs, options)
    })
}
