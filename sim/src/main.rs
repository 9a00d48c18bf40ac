//! `cargo xtask sim`: random histories of daemons, judged by the oracle of Extended Virtual Synchrony.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{Failure, Figures, Options, Outcome, Plan, run, shrink};

/// Runs random histories of daemons in memory: loss, delay, partitions, crashes. One seed is one history.
#[derive(Parser)]
struct Args {
    /// Number of histories.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this history only.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print the trace.
    #[arg(long)]
    trace: bool,
    /// With --seed: leave out these faults, by number.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// With --seed: submit only this part of the messages, in percent.
    #[arg(long)]
    load: Option<u64>,
    /// With --seed: look for a smaller history that fails in the same way.
    #[arg(long)]
    shrink: bool,
    /// Somebody forges packets: only the survival of the daemons is judged.
    #[arg(long)]
    hostile: bool,
    /// Histories of few daemons with one broken recovery after the other.
    #[arg(long)]
    storm: bool,
    /// Long histories only: up to 12 daemons, thousands of messages, up to 30 faults.
    #[arg(long, conflicts_with = "storm")]
    long: bool,
    /// Histories that run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Stop after so many seconds, whatever is left.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print the figures so far every so many seconds.
    #[arg(long)]
    progress: Option<u64>,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    sim::quiet_panics();
    match args.seed {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        match (self.storm, self.long) {
            (true, _) => Plan::storm(seed),
            (_, true) => Plan::long(seed),
            _ => Plan::draw(seed),
        }
    }
}

fn command(args: &Args, seed: u64, options: &Options) -> String {
    let mut command = format!("cargo xtask sim --seed {seed}");
    if args.storm {
        command += " --storm";
    }
    if args.long {
        command += " --long";
    }
    if !options.without.is_empty() {
        let list: Vec<String> = options.without.iter().map(ToString::to_string).collect();
        command += &format!(" --without {}", list.join(","));
    }
    if options.hostile {
        command += " --hostile";
    }
    if let Some(percent) = options.load {
        command += &format!(" --load {percent}");
    }
    command
}

fn one(args: &Args, seed: u64) -> ExitCode {
    let plan = args.plan(seed);
    let mut options =
        Options { without: args.without.clone(), load: args.load, hostile: args.hostile, trace: false };
    print!("{plan}");
    if args.shrink
        && let Some(failure) = run(&plan, &options).failure
    {
        let (best, _) = shrink::shrink(&plan, &options, &failure, 300);
        options = best;
        println!("repeat with: {} --trace", command(args, seed, &options));
    }
    options.trace = args.trace;
    let begin = Instant::now();
    let outcome = run(&plan, &options);
    for line in &outcome.trace {
        println!("{line}");
    }
    report(&outcome.figures, 1, begin.elapsed());
    println!("digest {:016x}", outcome.digest);
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("FAILED {failure}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Total {
    figures: Figures,
    done: u64,
    failed: Vec<(u64, Failure)>,
    /// Second of the last progress report.
    said: u64,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.figures.add(&outcome.figures);
        self.done += 1;
        if let Some(failure) = &outcome.failure {
            println!("seed {seed} FAILED {failure}");
            self.failed.push((seed, failure.clone()));
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let begin = Instant::now();
    let next = AtomicU64::new(args.from);
    let stop = AtomicBool::new(false);
    let options = Options { hostile: args.hostile, ..Options::default() };
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = args.seconds.is_some_and(|s| begin.elapsed() > Duration::from_secs(s));
                    if seed >= args.from.saturating_add(args.seeds) || late {
                        break;
                    }
                    let outcome = run(&args.plan(seed), &options);
                    let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    total.add(seed, &outcome);
                    if total.failed.len() >= args.failures {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let wall = begin.elapsed();
                    if args.progress.is_some_and(|every| wall.as_secs() >= total.said + every) {
                        total.said = wall.as_secs();
                        print!("up to seed {seed}, {} failed: ", total.failed.len());
                        report(&total.figures, total.done, wall);
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    report(&total.figures, total.done, begin.elapsed());
    for (seed, failure) in &total.failed {
        let plan = args.plan(*seed);
        let (best, smaller) = shrink::shrink(&plan, &options, failure, 120);
        println!("\nseed {seed} FAILED {smaller}");
        println!("  repeat with: {} --trace", command(args, *seed, &best));
    }
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(f: &Figures, histories: u64, wall: Duration) {
    println!(
        "{histories} histories, {} s of virtual time in {:.1} s: {} daemons started, {} rings tried, {} installs, \
         {} messages submitted, {} deliveries ({} transitional), {} packets ({} lost), {} ambushes; clients of \
         groups read {} messages, {} views ({} in transition), {} signals",
        f.time / 1_000_000_000,
        wall.as_secs_f64(),
        f.starts,
        f.rings,
        f.installs,
        f.submitted,
        f.deliveries,
        f.transitional,
        f.packets,
        f.lost,
        f.strikes,
        f.client_deliveries,
        f.views,
        f.transition_views,
        f.signals
    );
}
