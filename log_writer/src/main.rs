//! `log_writer`: one access log for all web servers.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser as _;
use log_writer::audit::compare::Comparison;
use log_writer::audit::{Audit, open, report};
use log_writer::cli::{Args, AuditArgs, Command, ShipArgs};
use log_writer::index::Reader;
use log_writer::output::with_suffix;
use log_writer::rotate::{Rotation, Template};
use log_writer::run::{self, Failure};
use log_writer::settings::configuration;
use log_writer::ship::Ship;
use log_writer::sink;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = init_log(&args).and_then(|()| match &args.command {
        Some(Command::Audit(audit)) => check_files(audit).map_err(Failure::Usage),
        Some(Command::Ship(args)) => ship(args).map(|()| true),
        Some(Command::Index { file }) => print_index(file).map(|()| true).map_err(Failure::Usage),
        None => write(&args).map(|()| true),
    });
    let (error, code) = match result {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Failed(error)) => (error, 1),
    };
    // Who reads our output has seen enough.
    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("log_writer: {error:#}");
    ExitCode::from(code)
}

fn write(args: &Args) -> Result<(), Failure> {
    let config = configuration(args).map_err(Failure::Usage)?;
    if args.check { Ok(()) } else { run::run(config) }
}

fn init_log(args: &Args) -> Result<(), Failure> {
    let level = if args.verbose { "debug" } else { &args.log_level };
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("{level:?} is no log level"))
        .map_err(Failure::Usage)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr);
    // The journal has its own time stamps.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init()
    } else {
        builder.init()
    }
    Ok(())
}

fn ship(args: &ShipArgs) -> Result<(), Failure> {
    let usage = |error: anyhow::Error| Failure::Usage(error);
    let template = Template::parse(&args.file).map_err(|e| usage(anyhow::anyhow!("{:?}: {e}", args.file)))?;
    // Signals first: threads of a sink are not to take them.
    let stop = run::stop_flag().map_err(Failure::Failed)?;
    let options = sink::Options {
        format: args.format.clone(),
        log_format: args.log_format.clone(),
        config: args.sink_config.clone(),
    };
    let mut sink = sink::open(&args.to, &options, &stop).map_err(usage)?;
    let beside = |suffix| with_suffix(&template.without_time(), suffix);
    let ship = Ship {
        position: args.position.clone().unwrap_or_else(|| beside(".shipped")),
        state: args.state.clone().unwrap_or_else(|| beside(".state")),
        batch: args.batch.max(1),
        wait: args.wait,
        once: args.once,
        plan: Rotation::new(template),
    };
    let lines = ship.run(&mut *sink, &stop).map_err(Failure::Failed)?;
    tracing::info!(lines, "Shipped.");
    Ok(())
}

/// True when everything is as it should be.
fn check_files(args: &AuditArgs) -> anyhow::Result<bool> {
    let mut audit = Audit::of(&args.files)?;
    if args.allow_unnumbered {
        audit.allow_unnumbered();
    }
    let mut good = audit.is_clean();
    let mut comparisons = Vec::new();
    if let Some(other) = &args.compare {
        for file in &args.files {
            let comparison = Comparison::of(file, &counterpart(file, other, args.files.len())?)?;
            good &= comparison.identical();
            comparisons.push(comparison);
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut value = report::json(&audit);
        value["comparisons"] = comparisons.iter().map(report::comparison_json).collect();
        serde_json::to_writer_pretty(&mut out, &value)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", report::text(&audit))?;
        for comparison in &comparisons {
            write!(out, "{}", report::comparison_text(comparison))?;
        }
    }
    Ok(good)
}

fn counterpart(file: &Path, other: &Path, files: usize) -> anyhow::Result<PathBuf> {
    if other.is_dir() {
        return Ok(other.join(file.file_name().context("a file without a name")?));
    }
    anyhow::ensure!(
        files == 1,
        "several files are compared with a directory that has files of the same names"
    );
    Ok(other.into())
}

fn print_index(path: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", path.display());
    let mut reader = Reader::new(open::log(path).with_context(context)?).with_context(context)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some((block, records)) = reader.block().with_context(context)? {
        serde_json::to_writer(&mut out, &report::block_json(&block))?;
        writeln!(out)?;
        for record in &records {
            serde_json::to_writer(&mut out, &report::record_json(record))?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}
