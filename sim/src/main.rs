//! `cargo xtask sim`: random histories of daemons, judged by the oracle of Extended Virtual Synchrony.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::explore::{self, Bounds, Start};
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
    /// Visit every state that a few daemons can get into, instead of random histories: from this beginning, or `all`.
    #[arg(long, value_name = "BEGINNING", value_parser = ["all", "boot", "two", "three", "hole", "merge"])]
    explore: Option<String>,
    /// With --explore: timers that fire at each daemon.
    #[arg(long, default_value_t = 3)]
    timers: u8,
    /// With --explore: packets that are lost.
    #[arg(long, default_value_t = 0)]
    losses: u8,
    /// With --explore: packets that come twice.
    #[arg(long, default_value_t = 0)]
    duplicates: u8,
    /// With --explore: packets that are overtaken.
    #[arg(long, default_value_t = 0)]
    late: u8,
    /// With --explore: daemons that die.
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// With --explore: daemons that died and start again.
    #[arg(long, default_value_t = 0)]
    restarts: u8,
    /// With --explore: daemons that are cut off.
    #[arg(long, default_value_t = 0)]
    cuts: u8,
    /// With --explore: try every order of moves, also where it does not matter.
    #[arg(long)]
    every_order: bool,
    /// With --explore: longest branch.
    #[arg(long, default_value_t = 200)]
    depth: usize,
    /// With --explore: most states.
    #[arg(long, default_value_t = 20_000_000)]
    states: u64,
    /// With --explore: one of so many branches is followed until everything has settled.
    #[arg(long, default_value_t = 1)]
    settle_one_of: u64,
    /// Take one rule after the other out of the engines and see after how many histories somebody notices: at most
    /// --seeds histories and --seconds seconds each.
    #[arg(long)]
    mutations: bool,
    /// With --mutations: only what is known to be found soon, and fail if it is not.
    #[arg(long, requires = "mutations")]
    known: bool,
    /// With --mutations: only this rule. With --seed: run the history without it.
    #[arg(long, value_name = "RULE")]
    without_rule: Option<String>,
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
    if args.mutations {
        return mutations(&args);
    }
    #[cfg(feature = "mutations")]
    let _out = match chosen(&args) {
        Ok(mut list) => {
            args.without_rule.as_ref().and_then(|_| list.pop()).map(sim::mutations::Mutation::take_out)
        }
        Err(code) => return code,
    };
    match (&args.explore, args.seed) {
        (Some(name), _) => explore(&args, name),
        (None, Some(seed)) => one(&args, seed),
        (None, None) => many(&args),
    }
}

fn explore(args: &Args, name: &str) -> ExitCode {
    let bounds = Bounds {
        timers: args.timers,
        losses: args.losses,
        duplicates: args.duplicates,
        late: args.late,
        crashes: args.crashes,
        cuts: args.cuts,
        restarts: args.restarts,
        reduced: !args.every_order,
        depth: args.depth,
        states: args.states,
        time: Duration::from_secs(args.seconds.unwrap_or(600)),
        settle_one_of: args.settle_one_of,
    };
    println!(
        "at most {} timers at each daemon, {} losses, {} duplicates, {} late packets, {} crashes, {} restarts, {} cuts, {} moves",
        bounds.timers,
        bounds.losses,
        bounds.duplicates,
        bounds.late,
        bounds.crashes,
        bounds.restarts,
        bounds.cuts,
        bounds.depth
    );
    for start in Start::ALL.iter().filter(|start| name == "all" || start.name() == name) {
        let begin = Instant::now();
        let report = match explore::explore(*start, &bounds) {
            Ok(report) => report,
            Err(violation) => {
                println!("{}: FAILED at the begin: {violation}", start.name());
                return ExitCode::FAILURE;
            }
        };
        println!(
            "{:<6} {}: {} states, {} moves, {} branches judged ({} until rest, {} cut off at the depth), longest {}, {:.1} s",
            start.name(),
            if report.complete { "complete" } else { "NOT complete" },
            report.states,
            report.moves,
            report.ends + report.too_deep,
            report.settled,
            report.too_deep,
            report.deepest,
            begin.elapsed().as_secs_f64()
        );
        if let Some((violation, story)) = report.failure {
            println!("FAILED {violation}");
            story.iter().for_each(|line| println!("  {line}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(not(feature = "mutations"))]
fn mutations(_: &Args) -> ExitCode {
    eprintln!("sim: built without the feature `mutations`; `cargo xtask sim` builds with it");
    ExitCode::from(2)
}

/// The rules that the arguments mean.
#[cfg(feature = "mutations")]
fn chosen(args: &Args) -> Result<Vec<sim::mutations::Mutation>, ExitCode> {
    use sim::mutations::Mutation;
    let all: Vec<Mutation> = Mutation::all().collect();
    let Some(name) = &args.without_rule else { return Ok(all) };
    let found: Vec<Mutation> = all.iter().copied().filter(|m| m.name() == *name).collect();
    if found.is_empty() {
        let names: Vec<String> = all.iter().map(|m| m.name()).collect();
        eprintln!("sim: there is no rule {name}; there are {}", names.join(", "));
        return Err(ExitCode::from(2));
    }
    Ok(found)
}

#[cfg(feature = "mutations")]
fn mutations(args: &Args) -> ExitCode {
    let list = match chosen(args) {
        Ok(list) => list,
        Err(code) => return code,
    };
    let time = Duration::from_secs(args.seconds.unwrap_or(60));
    let mut missed = 0;
    println!("{:<24} {:>9} {:<7} without the rule", "rule", "histories", "seen by");
    for mutation in list {
        if args.known && mutation.is_rare() {
            continue;
        }
        let seeds = if args.known { sim::mutations::SEEDS_KNOWN } else { args.seeds };
        let (done, found) = sim::mutations::hunt(mutation, |seed| args.plan(seed), seeds, time);
        let seen = found.as_ref().map_or("nobody", |found| found.failure.promise.as_str());
        println!("{:<24} {done:>9} {seen:<7} {}", mutation.name(), mutation.what());
        missed += usize::from(found.is_none());
    }
    if missed > 0 {
        println!("{missed} were not noticed");
    }
    if missed > 0 && args.known { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
