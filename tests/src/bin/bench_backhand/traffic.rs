//! Requests: when they are sent, how long they take, and what comes of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backhand::Random;

use crate::Client;
use crate::back_end::BackEnd;

/// Mean service time on a fast server.
pub(crate) const MEAN: Duration = Duration::from_millis(40);
/// Clients that wait for their turn: requests are sent on time even if earlier ones are late.
const CLIENTS: usize = 160;

/// How long requests take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Service {
    Exponential,
    /// One in ten takes ten times as long.
    Mixed,
    /// Bounded Pareto of shape 1.1, from 8.3 ms to 2.5 s.
    Pareto,
}

/// How requests arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrivals {
    Poisson,
    /// Ten times as many in 0.3 s of 3 s.
    Bursts,
}

/// One request: when it is sent, how long it takes on a fast server, at which front it arrives.
pub(crate) struct Job {
    at: Duration,
    service: Duration,
    front: usize,
}

/// The requests of a run, the same for all policies. `speed` is that of all servers together.
pub(crate) fn schedule(
    (service, arrivals): (Service, Arrivals),
    (secs, fronts, seed): (f64, usize, u64),
    speed: f64,
    rho: f64,
) -> Vec<Job> {
    let mut random = Random::new(seed);
    let rate = rho * speed / MEAN.as_secs_f64();
    // The mean over a period stays the same.
    let (calm, most) = match arrivals {
        Arrivals::Poisson => (rate, rate),
        Arrivals::Bursts => (rate / 1.9, rate / 1.9 * 10.0),
    };
    let (mut at, mut jobs) = (0.0, Vec::new());
    loop {
        at += exponential(&mut random, 1.0 / most);
        if at >= secs {
            return jobs;
        }
        let now = if arrivals == Arrivals::Bursts && at % 3.0 >= 2.0 && at % 3.0 < 2.3 { most } else { calm };
        if unit(&mut random) * most >= now {
            continue;
        }
        let service = Duration::from_secs_f64(time(service, &mut random));
        jobs.push(Job { at: Duration::from_secs_f64(at), service, front: random.below(fronts) });
    }
}

fn time(service: Service, random: &mut Random) -> f64 {
    let mean = MEAN.as_secs_f64();
    match service {
        Service::Exponential => exponential(random, mean),
        Service::Mixed => {
            let heavy = random.below(10) == 0;
            exponential(random, mean / 1.9 * if heavy { 10.0 } else { 1.0 })
        }
        Service::Pareto => {
            const SHAPE: f64 = 1.1;
            // Its mean is MEAN.
            let (least, most) = (0.0083, 2.5f64);
            let tail = (least / most).powf(SHAPE);
            least / (1.0 - unit(random) * (1.0 - tail)).powf(1.0 / SHAPE)
        }
    }
}

/// At least 0, less than 1.
fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) fn exponential(random: &mut Random, mean: f64) -> f64 {
    -mean * (1.0 - unit(random)).ln()
}

/// What came of the requests of a policy.
#[derive(Default)]
pub(crate) struct Seen {
    /// Time from the intended moment of sending, and the same by the service time; in milliseconds, without the first
    /// tenth.
    pub(crate) times: Vec<(f64, f64)>,
    /// How late they were sent, in milliseconds.
    pub(crate) late: Vec<f64>,
    pub(crate) failed: usize,
    /// Why the first one failed, and when.
    pub(crate) why: Option<String>,
    /// Largest part of the requests of a second that one server got.
    pub(crate) shares: Vec<f64>,
}

/// Sends the requests of a policy and waits for all answers.
pub(crate) fn drive(
    jobs: &[Job],
    begun: Instant,
    fronts: &[SocketAddr],
    path: &str,
    back_ends: &[Arc<BackEnd>],
) -> Seen {
    let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let idle: Vec<Mutex<Vec<Client>>> = fronts.iter().map(|_| Mutex::default()).collect();
    let seen = Mutex::new(Seen::default());
    let shares = thread::scope(|scope| {
        let counter = scope.spawn(|| shares(&ended, back_ends));
        let client = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(number) else { return };
                thread::sleep(job.at.saturating_sub(begun.elapsed()));
                let late = begun.elapsed().saturating_sub(job.at);
                let target = format!("{path}?{}", job.service.as_micros());
                let (addr, idle) = (fronts[job.front], &idle[job.front]);
                let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let used = kept.map_or_else(|| Client::new(addr), Ok);
                let used = used.and_then(|mut client| client.get(&target).map(|()| client));
                let time = begun.elapsed().saturating_sub(job.at).as_secs_f64() * 1000.0;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.late.push(late.as_secs_f64() * 1000.0);
                match used {
                    Ok(client) => {
                        // The first tenth warms up.
                        if number >= jobs.len() / 10 {
                            seen.times.push((time, time / (job.service.as_secs_f64() * 1000.0).max(1.0)));
                        }
                        drop(seen);
                        idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                    }
                    Err(error) => {
                        seen.failed += 1;
                        seen.why.get_or_insert_with(|| format!("{error:#}, after {time:.0} ms"));
                    }
                }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().for_each(|client| client.join().unwrap_or_default());
        ended.store(true, Ordering::Relaxed);
        counter.join().unwrap_or_default()
    });
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.shares = shares;
    seen
}

/// Looks once a second how the requests are spread.
fn shares(ended: &AtomicBool, back_ends: &[Arc<BackEnd>]) -> Vec<f64> {
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
    shares
}
