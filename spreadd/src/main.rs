//! The program `spreadd`: command line, signals, exit codes. Everything else is in the library.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use spread_wire::{DaemonName, limits::DEFAULT_PORT};
use spreadd::cli::Args;
use spreadd::config::{self, ConfigErrors, LoadError, SystemHost};
use spreadd::ring_driver::KeyRing;
use spreadd::{Daemon, Options, SOCKET_DIR};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Exit code for wrong use or configuration.
const EXIT_USAGE: u8 = 2;

/// How often the program looks whether the daemon still works.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// Environment variable for `--socket-dir`.
const SOCKET_DIR_VAR: &str = "SPREAD_SOCKET_DIR";

/// Environment variable for `--log-level`.
const LOG_VAR: &str = "SPREADD_LOG";

/// Why the program ends with an error.
enum Failure {
    /// Exit code 2.
    Usage(anyhow::Error),
    /// Exit code 1.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = init_log(&args).and_then(|()| run(&args));
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, ExitCode::from(EXIT_USAGE)),
        Err(Failure::Failed(error)) => (error, ExitCode::FAILURE),
    };
    eprintln!("spreadd: {error:#}");
    code
}

fn init_log(args: &Args) -> Result<(), Failure> {
    let from_env = std::env::var(LOG_VAR).ok();
    let text = args.log_level.as_deref().or(from_env.as_deref()).unwrap_or("info");
    let filter = EnvFilter::try_new(text)
        .with_context(|| format!("{text:?} is no log level"))
        .map_err(Failure::Usage)?;
    let stderr = std::io::stderr();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr.is_terminal())
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

fn run(args: &Args) -> Result<(), Failure> {
    let mut plan = plan(args)?;
    if args.check {
        println!("spreadd: the configuration is good: {}", plan.text);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    // Before the sockets are opened: what is opened is also removed.
    let mut signals = runtime.block_on(async { Signals::new() }).context("cannot wait for signals")?;
    info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "Starting: {}.", plan.text);
    let sessions = &mut plan.options.limits.sessions_max;
    *sessions = spreadd::sessions_that_fit(*sessions);
    let daemon = Daemon::start(plan.options).context("cannot start")?;
    announce(&daemon);
    let ended_by_signal = runtime.block_on(async {
        tokio::select! {
            () = signals.end(&daemon) => true,
            () = failed(&daemon) => false,
        }
    });
    notify(&[sd_notify::NotifyState::Stopping]);
    info!("Ending.");
    daemon.stop();
    if !ended_by_signal {
        return Err(anyhow!("the ring thread ended by itself; the log says why").into());
    }
    info!("Ended.");
    Ok(())
}

/// Waits until the daemon has stopped by itself.
async fn failed(daemon: &Daemon) {
    while daemon.is_running() {
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

/// What the daemon is to do, and that in words.
struct Plan {
    options: Options,
    text: String,
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    let alone = args.port.is_some() || !args.listen.is_empty();
    let file = match &args.config {
        Some(file) => Some(file.clone()),
        None if alone => None,
        None => config::find(),
    };
    let mut plan = match file {
        Some(file) => configured(args, &file)?,
        None => without_file(args)?,
    };
    let options = &mut plan.options;
    if args.no_local_socket {
        options.socket_dir = None;
    } else {
        let from_env = std::env::var_os(SOCKET_DIR_VAR).map(PathBuf::from);
        options.socket_dir = args.socket_dir.clone().or(from_env).or_else(|| Some(PathBuf::from(SOCKET_DIR)));
    }
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
    }
    if let Some(file) = &args.key_file {
        let keys = KeyRing::load(file)
            .with_context(|| format!("key file {}", file.display()))
            .map_err(Failure::Usage)?;
        match &mut options.ring {
            Some(ring) => ring.keys = Some(keys),
            None => info!("The key file is not used: this daemon is alone."),
        }
    }
    Ok(plan)
}

fn without_file(args: &Args) -> Result<Plan, Failure> {
    let name = match args.name {
        Some(name) => name,
        None => DaemonName::new(b"localhost").context("the default name")?,
    };
    let port = args.port.unwrap_or(DEFAULT_PORT);
    let mut options = Options::alone(name, port);
    options.listen.clone_from(&args.listen);
    let text = format!("no configuration file, so the daemon {name} runs alone, on port {port}");
    Ok(Plan { options, text })
}

fn configured(args: &Args, file: &Path) -> Result<Plan, Failure> {
    let colors = std::io::stderr().is_terminal();
    let broken = |errors: ConfigErrors| {
        let (count, plural) = (errors.problems().len(), if errors.problems().len() == 1 { "" } else { "s" });
        eprintln!("{}", errors.render(colors));
        Failure::Usage(anyhow!("{count} error{plural} in {}", file.display()))
    };
    let mut config = config::load(file, &SystemHost).map_err(|error| match error {
        LoadError::Errors(errors) => broken(errors),
        other => Failure::Usage(other.into()),
    })?;
    let me = config.identify(args.name, &SystemHost).map_err(broken)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let options = Options::from_config(&config, me).map_err(|error| Failure::Usage(error.into()))?;
    let text = match (config.daemon(me), options.daemons.len()) {
        (Some((daemon, segment, _)), 1) => {
            format!(
                "{} has one daemon, {}, which runs alone, on port {}",
                file.display(),
                daemon.name,
                segment.port
            )
        }
        (Some((daemon, segment, _)), count) => format!(
            "this is {} ({}, port {}) of {count} daemons in {}",
            daemon.name,
            daemon.address,
            segment.port,
            file.display()
        ),
        (None, _) => return Err(anyhow!("no daemon number {me}").into()),
    };
    Ok(Plan { options, text })
}

/// Says where clients find the daemon, to the log and to the service manager.
fn announce(daemon: &Daemon) {
    let tcp: Vec<String> = daemon.tcp_addrs().iter().map(ToString::to_string).collect();
    let tcp = tcp.join(", ");
    match daemon.local_path() {
        Some(path) => info!(name = %daemon.name(), %tcp, local = %path.display(), "Serving clients."),
        None => info!(name = %daemon.name(), %tcp, "Serving clients."),
    }
    let status = format!("serving clients as {} on {tcp}", daemon.name());
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
}

/// Tells the service manager. Without one this does nothing.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        info!(%error, "Cannot tell the service manager.");
    }
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for TERM or INT.
    async fn end(&mut self, daemon: &Daemon) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.usr1.recv() => {
                    for line in daemon.status() {
                        info!("Status, {line}");
                    }
                }
                _ = self.hup.recv() => {
                    warn!("SIGHUP: there is nothing to reload; restart the daemon for a new configuration.");
                }
            }
        }
    }
}
