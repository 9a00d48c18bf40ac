//! `cargo xtask`: the project's own commands. `cargo xtask help` lists them.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

mod install;

const HELP: &str = "\
Usage: cargo xtask COMMAND [ARGUMENTS]

  demo            build everything, start a small cluster with Apache on this machine and show its unified
                  log growing; Ctrl-C ends it
  test [FILTER]   run all tests, as CI does
  test-sinks      lints and tests of log_writer with the features that are off by default (zstd, parquet, kafka), and
                  against a real ClickHouse server; of these, `test` has those of kafka only
  check           formatting, lints, documentation; changes nothing
  fix             format and apply what the lints suggest
  bench NAME      benchmarks; without a name, lists them
  sim ARGUMENTS   simulate random histories of the ring, e.g. `cargo xtask sim --seeds 100000`
  soak-ring       a ring under full load, e.g. `cargo xtask soak-ring --minutes 10`
  dist ARGUMENTS  build for release and stage an installation: programs, C libraries, Apache modules, man pages,
                  completions; `cargo xtask dist --help`
  survive         100,000 requests over two Apaches while a daemon is killed and restarted; with --minutes 5,
                  requests while daemons, networks, servers and log writers fail by chance
  soak            three daemons, 1,000 clients that come, talk and die at random for 30 minutes; judges memory,
                  memberships and counters (--minutes, --clients)
  fuzz-live       hostile clients and forged datagrams on living daemons for 10 minutes (--minutes, --seed)
  crowd           10,000 idle clients, then 1,000 groups x 100 members, on one daemon: what they cost

Each command installs what it needs (Debian packages through apt-get, when root) and says so.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (command, rest) = args.split_first().map_or(("help", &[][..]), |(c, rest)| (c.as_str(), rest));
    let result = match command {
        "demo" => demo(rest),
        "test" => test(rest),
        "test-sinks" => test_sinks(rest),
        "check" => check(),
        "fix" => fix(),
        "bench" => bench(rest),
        "sim" => simulate(rest),
        "survive" => survive(rest),
        "soak" | "crowd" => on_daemons(command, rest),
        "fuzz-live" => on_daemons("fuzz_live", rest),
        "dist" => dist(rest),
        "soak-ring" => soak_ring(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("there is no command `{other}`\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy)]
enum Profile {
    Debug,
    Release,
}

impl Profile {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}

fn demo(args: &[String]) -> Result<()> {
    install::packages(install::APACHE)?;
    install::packages(install::HOSTS)?;
    // Not optimized: it shall start soon, and a demonstration has little to do.
    build(Profile::Debug, PRODUCT)?;
    // Replaces this process: Ctrl-C reaches the demonstration alone, which then ends what it started.
    let error = program_command(Profile::Debug, "demo", args).exec();
    Err(error).context("cannot start the demonstration")
}

fn survive(args: &[String]) -> Result<()> {
    install::packages(install::APACHE)?;
    install::packages(install::HOSTS)?;
    build(Profile::Release, PRODUCT)?;
    program(Profile::Release, "survive", args)
}

/// Runs the simulator. It has a package of its own: the product need not be built for it.
fn simulate(args: &[String]) -> Result<()> {
    let features: &[&str] = if args.iter().any(|arg| arg == "--mutations" || arg == "--without-rule") {
        &["--features", "mutations"]
    } else {
        &[]
    };
    let mut command = cargo(&["run", "--quiet", "--profile", "sim", "--package", "sim"]);
    run(command.args(features).arg("--").args(args))
}

/// Programs that run daemons and their own clients.
fn on_daemons(name: &str, args: &[String]) -> Result<()> {
    build(Profile::Release, &["spreadd"])?;
    program(Profile::Release, name, args)
}

fn soak_ring(args: &[String]) -> Result<()> {
    install::packages(install::HOSTS)?;
    build(Profile::Release, &["spreadd"])?;
    program(Profile::Release, "soak_ring", args)
}

/// What is installed.
const INSTALLED: &[&str] = &[
    "spreadd",
    "log_writer",
    "monitors",
    "spread-tools",
    "spread-core",
    "tspread-core",
    "spread-full",
    "mod_log_spread",
    "mod_backhand",
    "dist",
];

fn dist(args: &[String]) -> Result<()> {
    let only: Vec<&str> = args
        .iter()
        .zip(args.iter().skip(1))
        .filter(|(flag, _)| *flag == "--part")
        .map(|(_, part)| part.as_str())
        .collect();
    // The C libraries alone need neither Apache nor the rest.
    let packages = match only[..] {
        ["c"] => &["spread-core", "tspread-core", "spread-full", "dist"][..],
        _ => INSTALLED,
    };
    if packages.len() == INSTALLED.len() {
        install::packages(install::APACHE)?;
    }
    build(Profile::Release, packages)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let built = target.join("release");
    let mut command = Command::new(built.join("dist"));
    run(command.args(args).arg("--built").arg(&built).arg("--root").arg(root()))
}

fn test(args: &[String]) -> Result<()> {
    install::packages(install::APACHE)?;
    install::packages(install::HOSTS)?;
    install::packages(install::BROWSER)?;
    install::packages(install::PYTHON)?;
    install::packages(install::KAFKA)?;
    build(Profile::Debug, &[])?;
    // The programs under test are the ones just built; the tests need not ask cargo again.
    let built = [("SPREAD_TESTS_BUILT", "1")];
    if install::has("cargo-nextest") {
        run(cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]).args(args).envs(built))?;
    } else {
        println!("xtask: cargo-nextest is not installed; using `cargo test`");
        run(cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]).args(args).envs(built))?;
    }
    if args.is_empty() {
        run(&mut cargo(&["test", "--workspace", "--doc"]))?;
        // The mock broker; the default build has no Kafka.
        run(&mut cargo(&["test", "--package", "log_writer", "--features", "kafka", "--test", "kafka"]))?;
        // Apart from the rest: the engines of the tests and of the product are built without this feature.
        let oracles = ["run", "--quiet", "--package", "sim", "--features", "mutations"];
        run(cargo(&oracles).args(["--", "--mutations", "--known"]))?;
        let scripted = ["test", "--package", "spread-groups", "--features", "mutations", "--test", "rules"];
        run(&mut cargo(&scripted))?;
    }
    Ok(())
}

fn test_sinks(args: &[String]) -> Result<()> {
    install::packages(install::KAFKA)?;
    install::packages(install::CLICKHOUSE)?;
    let sinks = ["--package", "log_writer", "--features", "zstd,parquet,kafka,test-clickhouse"];
    run(cargo(&["clippy", "--all-targets"]).args(sinks).args(["--", "-D", "warnings"]))?;
    let mut command = cargo(&["test", "--lib", "--bins", "--tests"]);
    run(command.args(sinks).args(args))
}

/// Features of the client library that are checked alone; the workspace has the others together.
const LIBRARY_FEATURES: [&str; 3] = ["", "tls", "tokio"];

fn check() -> Result<()> {
    install::packages(install::APACHE)?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    for features in LIBRARY_FEATURES {
        let mut command = cargo(&["clippy", "--package", "libspread", "--lib", "--no-default-features"]);
        run(command.args(["--features", features, "--", "-D", "warnings"]))?;
    }
    run(cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}

fn fix() -> Result<()> {
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"]))?;
    run(&mut cargo(&["fmt", "--all"]))
}

struct Bench {
    name: &'static str,
    /// What it needs of the system.
    system: &'static [install::Package],
    /// Our packages whose programs or libraries it runs.
    packages: &'static [&'static str],
    /// What it measures.
    what: &'static str,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "ring",
        system: install::HOSTS,
        packages: &["spreadd"],
        what: "ordered messages/s for 1 and 3 daemons against a bare multicast loop",
    },
    Bench {
        name: "membership",
        system: install::HOSTS,
        packages: &["spreadd"],
        what: "time from a kill, a start and a heal to the new ring; lost messages",
    },
    Bench {
        name: "messages",
        system: &[],
        packages: &["spreadd"],
        what: "messages/s from clients through daemons to clients",
    },
    Bench {
        name: "client",
        system: &[],
        packages: &["spreadd", "spread-core", "tspread-core"],
        what: "messages/s, system calls and latency of the client library",
    },
    Bench {
        name: "backhand",
        system: install::APACHE,
        packages: &["mod_backhand", "spreadd"],
        what: "requests/s with mod_backhand and without; its choices beside mod_proxy_balancer",
    },
    Bench {
        name: "log",
        system: install::LOG_RIVALS,
        packages: &["mod_log_spread", "spreadd", "log_writer"],
        what: "what the unified log costs Apache; lines/s to disk; log_writer against rsyslog",
    },
    Bench {
        name: "monitor",
        system: install::RIVALS,
        packages: &[],
        what: "lines/s of the access-log parser and its figures against GoAccess",
    },
];

fn bench(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        println!("Usage: cargo xtask bench NAME [ARGUMENTS]\n");
        for bench in BENCHES {
            println!("  {:<10} {}", bench.name, bench.what);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("there is no benchmark `{name}`; there are: {}", known.join(", "));
    };
    install::packages(bench.system)?;
    if !bench.packages.is_empty() {
        build(Profile::Release, bench.packages)?;
    }
    program(Profile::Release, &format!("bench_{name}"), rest)
}

/// What the way of a log line takes.
const PRODUCT: &[&str] = &["spreadd", "mod_log_spread", "log_writer", "monitors", "tests"];

/// Builds the programs and libraries of these packages. Without any: all targets of the workspace, tests too, so
/// that features are unified as in the test run and nothing is built twice.
fn build(profile: Profile, packages: &[&str]) -> Result<()> {
    println!("xtask: building (the first time takes a few minutes)");
    let mut command = cargo(&["build"]);
    command.args(profile.args());
    if packages.is_empty() {
        command.args(["--workspace", "--all-targets"]);
    } else {
        command.args(["--bins", "--lib"]);
        command.args(packages.iter().flat_map(|package| ["--package", package]));
    }
    run(&mut command)
}

/// Runs a program of the `tests` crate.
fn program(profile: Profile, name: &str, args: &[String]) -> Result<()> {
    run(&mut program_command(profile, name, args))
}

fn program_command(profile: Profile, name: &str, args: &[String]) -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "tests", "--bin", name]);
    command.args(profile.args()).arg("--").args(args).env("SPREAD_TESTS_BUILT", "1");
    command
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

fn root() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.parent().unwrap_or(dir).to_owned()
}

fn run(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
