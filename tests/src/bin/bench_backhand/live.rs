//! (d) Live: real Apaches in front of servers whose capacity is one worker, not the CPU.
// spec: load-balancing-evaluation 6

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backhand::Random;
use tests::apache::{Apache, Mpm, Setup, free_address};
use tests::backhand::{Pretender, Webs, load_modules};

use crate::queues::exponential;
use crate::{Client, Options, median};

/// Back ends with one worker each; every other one is four times slower.
const BACK_ENDS: u8 = 6;
const SLOWER: f64 = 4.0;
const MEAN: Duration = Duration::from_millis(30);
const RHO: f64 = 0.7;
/// Clients that wait for their turn: requests are sent on time even if earlier ones are late.
const CLIENTS: usize = 200;

/// Methods of mod_proxy_balancer, and chains.
const BALANCERS: [&str; 2] = ["byrequests", "bybusyness"];
const CHAINS: [&str; 8] = [
    "byRandom",
    "byLoad",
    "byRandom, byLogWindow, byLoad",
    "byRandom, byLogWindow, byLoad, addPrediction",
    "byRandom, byLogWindow, byCost, addPrediction",
    "byRandom, byCost, addPrediction",
    "byRandom, byInFlight",
    "byRandom, byCost, addPrediction inflight",
];

/// A back end whose capacity is its one worker, not the CPU.
struct BackEnd {
    addr: SocketAddr,
    factor: f64,
    /// Requests here, waiting ones included.
    present: AtomicU32,
    /// Requests that came in the running second.
    came: AtomicU32,
    busy: Mutex<bool>,
    free: Condvar,
}

impl BackEnd {
    fn start(number: u8) -> Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 20 + number), 0))?;
        let factor = if number.is_multiple_of(2) { 1.0 } else { SLOWER };
        let (addr, present, came) = (listener.local_addr()?, AtomicU32::new(0), AtomicU32::new(0));
        let this =
            Arc::new(Self { addr, factor, present, came, busy: Mutex::new(false), free: Condvar::new() });
        let back_end = Arc::clone(&this);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let back_end = Arc::clone(&back_end);
                // Ends with its connection.
                thread::spawn(move || back_end.serve(BufReader::new(stream)));
            }
        });
        Ok(this)
    }

    fn serve(&self, mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
        loop {
            let mut first = String::new();
            if stream.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line)? == 0 {
                    return Ok(());
                }
            }
            self.present.fetch_add(1, Ordering::Relaxed);
            self.came.fetch_add(1, Ordering::Relaxed);
            let micros = first.split(['?', ' ']).nth(2).and_then(|m| m.parse().ok()).unwrap_or(0.0);
            {
                let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
                while *busy {
                    busy = self.free.wait(busy).unwrap_or_else(PoisonError::into_inner);
                }
                *busy = true;
            }
            thread::sleep(Duration::from_secs_f64(micros * self.factor / 1e6));
            *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = false;
            self.free.notify_one();
            self.present.fetch_sub(1, Ordering::Relaxed);
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
        }
    }
}

/// One request: when it is sent, how long it takes on a fast server, at which front it arrives.
struct Job {
    at: Duration,
    service: Duration,
    front: usize,
}

/// Mostly cheap requests, some heavy; the same for all policies.
fn schedule(secs: f64, fronts: usize) -> Vec<Job> {
    let mut random = Random::new(21);
    let speed: f64 = (0..BACK_ENDS).map(|n| if n.is_multiple_of(2) { 1.0 } else { 1.0 / SLOWER }).sum();
    let gap = MEAN.as_secs_f64() / (RHO * speed);
    let (mut at, mut jobs) = (0.0, Vec::new());
    while at < secs {
        at += exponential(&mut random, gap);
        // One in ten takes ten times as long; the mean is MEAN.
        let heavy = random.below(10) == 0;
        let mean = MEAN.as_secs_f64() / 1.9 * if heavy { 10.0 } else { 1.0 };
        let service = Duration::from_secs_f64(exponential(&mut random, mean));
        jobs.push(Job { at: Duration::from_secs_f64(at), service, front: random.below(fronts) });
    }
    jobs
}

/// What a run shows.
#[derive(Clone, Copy, Default)]
struct Figures {
    p50: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    mean: f64,
    /// Mean of response time by own service time.
    slowdown: f64,
    /// Largest part of the requests of a second that one server got, mean over the seconds.
    share: f64,
    failed: usize,
}

/// Response times from the intended time of sending, in milliseconds.
fn drive(fronts: &[SocketAddr], path: &str, secs: f64, back_ends: &[Arc<BackEnd>]) -> Result<Figures> {
    let jobs = schedule(secs, fronts.len());
    let (next, failed, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let (times, ended) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let shares = thread::scope(|scope| {
        let counter = scope.spawn(|| shares(&ended, back_ends));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut clients: Vec<Option<Client>> = fronts.iter().map(|_| None).collect();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(number) else { return };
                        thread::sleep(job.at.saturating_sub(begun.elapsed()));
                        let target = format!("{path}?{}", job.service.as_micros());
                        let result = clients[job.front]
                            .take()
                            .map_or_else(|| Client::new(fronts[job.front]), Ok)
                            .and_then(|mut client: Client| {
                                client.get(&target)?;
                                Ok(client)
                            });
                        match result {
                            Ok(used) => {
                                clients[job.front] = Some(used);
                                let time = (begun.elapsed() - job.at).as_secs_f64() * 1000.0;
                                // The first tenth warms up.
                                if number >= jobs.len() / 10 {
                                    let slowdown = time / (job.service.as_secs_f64() * 1000.0).max(1.0);
                                    times
                                        .lock()
                                        .unwrap_or_else(PoisonError::into_inner)
                                        .push((time, slowdown));
                                }
                            }
                            Err(_) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap_or_default());
        ended.store(true, Ordering::Relaxed);
        counter.join().unwrap_or_default()
    });
    let mut times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(!times.is_empty(), "no request was answered");
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = times.len() as f64;
    let at = |share: f64| times[((count - 1.0) * share) as usize].0;
    Ok(Figures {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        mean: times.iter().map(|t| t.0).sum::<f64>() / count,
        slowdown: times.iter().map(|t| t.1).sum::<f64>() / count,
        share: shares,
        failed: failed.into_inner(),
    })
}

/// Looks once a second how the requests are spread.
fn shares(ended: &AtomicBool, back_ends: &[Arc<BackEnd>]) -> f64 {
    let take = || back_ends.iter().map(|b| b.came.swap(0, Ordering::Relaxed)).collect::<Vec<_>>();
    take();
    let mut shares = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_secs(1));
        let came = take();
        let (all, most) = (came.iter().sum::<u32>(), came.iter().max().copied().unwrap_or(0));
        if all >= 10 {
            shares.push(f64::from(most) / f64::from(all));
        }
    }
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

const MORE: &str = "MaxKeepAliveRequests 0\nKeepAliveTimeout 60\nServerLimit 2\nStartServers 2\nThreadsPerChild 128\n\
                    MaxRequestWorkers 256\n";

/// Runs all policies in all cases.
pub(crate) fn run(options: &Options) -> Result<()> {
    println!(
        "(d) {BACK_ENDS} back ends of one worker, half of them {SLOWER} times slower, 10 % heavy requests, rho {RHO}, statistics\n    \
         every {} ms ({:.1} mean service times), {} runs of {} s; milliseconds from the intended time of sending",
        options.interval_ms,
        options.interval_ms as f64 / MEAN.as_secs_f64() / 1000.0,
        options.live_rounds,
        options.live_secs,
    );
    let back_ends: Vec<_> = (0..BACK_ENDS).map(BackEnd::start).collect::<Result<_>>()?;
    for (what, fronts, outside) in [
        ("one front", 1, false),
        ("three fronts", 3, false),
        ("three fronts, two fast servers loaded from elsewhere", 3, true),
    ] {
        println!("    {what}");
        case(options, fronts, outside, &back_ends)?;
    }
    Ok(())
}

fn case(options: &Options, fronts: u8, outside: bool, back_ends: &[Arc<BackEnd>]) -> Result<()> {
    let chains: String = (0..).zip(CHAINS).map(|(n, lines)| location(n, lines)).collect();
    let webs = Webs::start(fronts, Mpm::Event, |_, _| format!("{MORE}{chains}"))?;
    let announcers = Announcers::start(&webs, back_ends, Duration::from_millis(options.interval_ms))?;
    let names: Vec<String> = (0..BACK_ENDS)
        .map(|n| format!("b-{n}"))
        .chain((1..=fronts).map(|n| format!("www-{n}.test")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (1..=fronts).try_for_each(|n| webs.wait_up(n, &names))?;
    let dir = tempfile::tempdir()?;
    let balancers: Vec<Apache> =
        (0..fronts).map(|n| balancer(dir.path(), n, back_ends)).collect::<Result<_>>()?;
    let ours: Vec<SocketAddr> = (1..=fronts).map(|n| webs.web(n).address()).collect();
    let theirs: Vec<SocketAddr> = balancers.iter().map(Apache::address).collect();
    let mut policies: Vec<(String, String, &[SocketAddr])> = Vec::new();
    for method in BALANCERS {
        policies.push((format!("mod_proxy_balancer {method}"), format!("/{method}"), &theirs));
    }
    for (n, lines) in CHAINS.iter().enumerate() {
        policies.push(((*lines).to_owned(), format!("/task/{n}"), &ours));
    }
    let antagonist = outside.then(|| Antagonist::start(back_ends));
    let mut results: Vec<Vec<Figures>> = policies.iter().map(|_| Vec::new()).collect();
    let mut random = Random::new(33);
    let (idle_before, all_before) = cpu()?;
    for _ in 0..options.live_rounds {
        // Another order each time: what else the machine does falls on all alike.
        let mut order: Vec<usize> = (0..policies.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for at in order {
            let (_, path, addrs) = &policies[at];
            results[at].push(drive(addrs, path, options.live_secs, back_ends)?);
        }
    }
    let (idle, all) = cpu()?;
    drop((antagonist, announcers));
    println!(
        "    {:<46} {:>5} {:>5} {:>5} {:>6} {:>14} {:>8} {:>9} {:>6}",
        "policy", "p50", "p95", "p99", "p99.9", "mean (range)", "slowdown", "max share", "failed"
    );
    for ((name, _, _), runs) in policies.iter().zip(&results) {
        let middle = |of: fn(&Figures) -> f64| median(runs.iter().map(of).collect());
        let (mean, least, most) = middle(|f| f.mean);
        println!(
            "    {name:<46} {:>5.0} {:>5.0} {:>5.0} {:>6.0} {:>14} {:>8.1} {:>9.2} {:>6}",
            middle(|f| f.p50).0,
            middle(|f| f.p95).0,
            middle(|f| f.p99).0,
            middle(|f| f.p999).0,
            format!("{mean:.0} ({least:.0}-{most:.0})"),
            middle(|f| f.slowdown).0,
            middle(|f| f.share).0,
            runs.iter().map(|f| f.failed).sum::<usize>(),
        );
    }
    let idle = (idle - idle_before) / (all - all_before).max(1.0) * 100.0;
    let verdict = if idle < 40.0 {
        ": less than 40 %, so these figures are of the machine, not of the policies"
    } else {
        ""
    };
    println!("    CPU idle {idle:.0} %{verdict}");
    Ok(())
}

fn location(number: usize, lines: &str) -> String {
    let calls: String = lines.split(", ").map(|call| format!("Backhand {call}\n")).collect();
    format!("<Location /task/{number}>\nBackhand byAge\nBackhand byHostname ^b-\n{calls}</Location>\n")
}

/// Idle and all CPU time of the machine so far.
fn cpu() -> Result<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> =
        line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    Ok((ticks.get(3).copied().unwrap_or(0.0), ticks.iter().take(8).sum()))
}

fn balancer(dir: &std::path::Path, number: u8, back_ends: &[Arc<BackEnd>]) -> Result<Apache> {
    let modules: String =
        load_modules()?.lines().filter(|l| !l.contains("backhand")).map(|l| format!("{l}\n")).collect();
    let methods = BALANCERS.map(|method| format!("lbmethod_{method}"));
    let more: String = ["slotmem_shm".to_owned(), "proxy_balancer".to_owned()]
        .iter()
        .chain(&methods)
        .map(|m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n"))
        .collect();
    let members: String = back_ends.iter().map(|b| format!("BalancerMember http://{}\n", b.addr)).collect();
    let pools = BALANCERS.map(|method| {
        format!(
            "<Proxy balancer://{method}>\n{members}ProxySet lbmethod={method}\n</Proxy>\n\
             ProxyPass /{method} balancer://{method}/task\n"
        )
    });
    let config = format!("{modules}{more}TypesConfig /dev/null\n{MORE}{}", pools.concat());
    let setup = Setup { name: format!("balancer{number}"), listen: free_address()?, mpm: Mpm::Event, config };
    Apache::start_here(dir, setup).context("the balancer does not start")
}

/// A thread that ends with its owner.
struct Background {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Announces the back ends, each by its number of requests.
struct Announcers;

impl Announcers {
    fn start(webs: &Webs, back_ends: &[Arc<BackEnd>], interval: Duration) -> Result<Background> {
        let mut pretenders = Vec::new();
        for (n, back_end) in (0..).zip(back_ends) {
            let addr = Ipv4Addr::new(127, 0, 0, 20 + n);
            let mut pretender = Pretender::new(webs, addr, back_end.addr.port(), &format!("b-{n}"))?;
            // What the speed of a machine says.
            pretender.stat.arriba = (100.0 / back_end.factor) as u32;
            pretender.stat.tmem = 8 << 30;
            pretender.stat.amem = 8 << 30;
            pretenders.push((pretender, Arc::clone(back_end)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for (pretender, back_end) in &mut pretenders {
                    let present = back_end.present.load(Ordering::Relaxed);
                    pretender.stat.load = present * 1000;
                    pretender.stat.load_hwm = backhand::stat::high_water(present * 1000);
                    pretender.stat.nservers = 1000;
                    pretender.stat.aservers = 1000 - present.min(1000);
                    // The next one follows at once if this is lost.
                    let _ = pretender.announce(None);
                }
                thread::sleep(interval);
            }
        });
        Ok(Background { stop, threads: vec![thread] })
    }
}

/// Occupies two fast servers for random times, which only their statistics tell.
struct Antagonist;

impl Antagonist {
    fn start(back_ends: &[Arc<BackEnd>]) -> Background {
        let stop = Arc::new(AtomicBool::new(false));
        let fast = back_ends.iter().filter(|b| b.factor <= 1.0).take(2).cloned();
        let threads = (41..)
            .zip(fast)
            .map(|(seed, back_end)| {
                let ended = Arc::clone(&stop);
                thread::spawn(move || {
                    let mut random = Random::new(seed);
                    while !ended.load(Ordering::Relaxed) {
                        // A second of work, a second and a half without.
                        let busy = Duration::from_secs_f64(exponential(&mut random, 1.0).min(5.0));
                        let target = format!("/task?{}", busy.as_micros());
                        let _ = Client::new(back_end.addr).and_then(|mut client| client.get(&target));
                        thread::sleep(Duration::from_secs_f64(exponential(&mut random, 1.5).min(5.0)));
                    }
                })
            })
            .collect();
        Background { stop, threads }
    }
}
