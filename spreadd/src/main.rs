//! The program `spreadd`: command line, signals, exit codes. Everything else is in the library.

mod hangup;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;
use nix::unistd::{AccessFlags, access};
use spread_wire::{DaemonName, limits::DEFAULT_PORT};
use spreadd::cli::{Args, Command, StatusArgs};
use spreadd::config::{self, ConfigErrors, LoadError, SystemHost};
use spreadd::event_log::EventLog;
use spreadd::observe::{self, Snapshot, control};
use spreadd::ring_driver::KeyRing;
use spreadd::{Account, Daemon, Options, Request, SOCKET_DIR};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

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
    let result = match &args.command {
        Some(Command::Status(args)) => status(args),
        None => start_log(&args).and_then(|log| run(&args, &log)),
    };
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, ExitCode::from(EXIT_USAGE)),
        Err(Failure::Failed(error)) => (error, ExitCode::FAILURE),
    };
    eprintln!("spreadd: {error:#}");
    code
}

fn start_log(args: &Args) -> Result<EventLog, Failure> {
    let from_env = std::env::var(LOG_VAR).ok();
    let level = args.log_level.as_deref().or(from_env.as_deref());
    EventLog::start(level).map_err(|error| Failure::Usage(error.into()))
}

/// `spreadd status`.
fn status(args: &StatusArgs) -> Result<(), Failure> {
    let dir = socket_dir(args.socket_dir.as_ref());
    let path = control::find(&dir, args.port).context("no status")?;
    let question = match (args.events, args.changes) {
        (true, _) => "events",
        (_, true) => "changes",
        _ => "status",
    };
    let answer = control::ask(&path, question).context("no status")?;
    let text = if args.json || question != "status" {
        answer
    } else {
        let status: Snapshot =
            serde_json::from_str(&answer).context("the daemon is of another version; try --json")?;
        observe::render_table(&status, args.all)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("cannot print the status")?),
    }
}

/// The directory of sockets: the option, the variable, or the usual one.
fn socket_dir(option: Option<&PathBuf>) -> PathBuf {
    let from_env = || std::env::var_os(SOCKET_DIR_VAR).map(PathBuf::from);
    option.cloned().or_else(from_env).unwrap_or_else(|| PathBuf::from(SOCKET_DIR))
}

fn run(args: &Args, log: &EventLog) -> Result<(), Failure> {
    let mut plan = plan(args, log)?;
    if args.check {
        println!("spreadd: the configuration is good: {}", plan.text);
        print!("{}", plan.hash);
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
    settle(&daemon, &plan.place, log)?;
    announce(&daemon);
    let reload = || reload(&daemon, args, plan.file.as_deref(), log);
    let in_order = runtime.block_on(async {
        tokio::select! {
            () = signals.end(&daemon, reload) => true,
            () = failed(&daemon) => false,
        }
    });
    notify(&[sd_notify::NotifyState::Stopping]);
    info!("Ending.");
    daemon.stop();
    if !in_order {
        return Err(anyhow!("the ring thread ended by itself; the log says why").into());
    }
    info!("Ended.");
    Ok(())
}

/// Goes where the configuration says, and becomes who it says. After the sockets are open: then neither is
/// needed any more to open them.
fn settle(daemon: &Daemon, place: &Place, log: &EventLog) -> Result<(), Failure> {
    if let Some(dir) = &place.runtime_dir
        && let Err(error) = std::env::set_current_dir(dir)
    {
        warn!(dir = %dir.display(), %error, "Cannot go to `RuntimeDir`; the daemon stays where it is.");
    }
    if let Some(account) = &place.account {
        let log_file = log.file();
        let files = [daemon.local_path(), daemon.control_path(), log_file.as_deref(), daemon.state_path()];
        let files: Vec<&Path> = files.into_iter().flatten().collect();
        account.enter(&files).context("cannot become DaemonUser")?;
        info!(user = %nix::unistd::Uid::effective(), group = %nix::unistd::Gid::effective(), "Gave up the rights of root.");
    }
    Ok(())
}

/// Waits until the daemon has stopped by itself. Meanwhile tells the service manager's watchdog that it works,
/// if the ring thread answers.
async fn failed(daemon: &Daemon) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut told = tokio::time::Instant::now();
    while daemon.is_running() {
        tokio::time::sleep(HEALTH_INTERVAL.min(watchdog.unwrap_or(HEALTH_INTERVAL) / 4)).await;
        if let Some(limit) = watchdog
            && told.elapsed() >= limit / 3
        {
            let health = daemon.health();
            if tokio::task::spawn_blocking(health).await.unwrap_or(false) {
                told = tokio::time::Instant::now();
                notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
    }
}

/// What the daemon is to do, and that in words.
struct Plan {
    options: Options,
    place: Place,
    text: String,
    /// What must be equal on all daemons, for `--check`.
    hash: String,
    /// The configuration file, from the root directory: it may be read again when the working directory is another.
    file: Option<PathBuf>,
}

/// Where and as whom it works.
#[derive(Default)]
struct Place {
    runtime_dir: Option<PathBuf>,
    account: Option<Account>,
}

fn plan(args: &Args, log: &EventLog) -> Result<Plan, Failure> {
    let alone = args.port.is_some() || !args.listen.is_empty();
    let file = match &args.config {
        Some(file) => Some(file.clone()),
        None if alone => None,
        None => config::find(),
    };
    let mut plan = match file {
        Some(file) => configured(args, &file, log)?,
        None => without_file(args)?,
    };
    finish(args, &mut plan.options).map_err(Failure::Usage)?;
    let from_env = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    // Whoever asks for it gets it or an error; the directory of the configuration may be for root only.
    let runtime_dir = plan.place.runtime_dir.clone();
    let usable = runtime_dir.filter(|dir| access(dir, AccessFlags::W_OK).is_ok());
    plan.options.state_dir = args.state_dir.clone().or(from_env).or(usable);
    Ok(plan)
}

/// Adds to the options what the command line says.
fn finish(args: &Args, options: &mut Options) -> anyhow::Result<()> {
    options.monitor_reload = !args.no_monitor_reload;
    if args.no_local_socket {
        options.socket_dir = None;
    } else {
        options.socket_dir = Some(socket_dir(args.socket_dir.as_ref()));
        options.control_dir.clone_from(&options.socket_dir);
    }
    options.metrics = args.metrics.or(options.metrics);
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
    }
    if let (Some(features), Some(ring)) = (args.ring_features, &mut options.ring) {
        ring.ring.features &= features;
    }
    if let Some(file) = &args.key_file {
        let keys = KeyRing::load(file).with_context(|| format!("key file {}", file.display()))?;
        match &mut options.ring {
            Some(ring) => ring.keys = Some(keys),
            None => info!("The key file is not used: this daemon is alone."),
        }
    }
    Ok(())
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
    Ok(Plan { options, place: Place::default(), text, hash: String::new(), file: None })
}

fn configured(args: &Args, file: &Path, log: &EventLog) -> Result<Plan, Failure> {
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
    let place = Place {
        runtime_dir: config.options.runtime_dir.clone(),
        account: Account::find(config.options.daemon_user.as_deref(), config.options.daemon_group.as_deref())
            .map_err(|error| Failure::Usage(error.into()))?,
    };
    if !args.check {
        let host = nix::unistd::gethostname().unwrap_or_default();
        log.apply(&config.options, &host.to_string_lossy()).context("cannot start")?;
        if let Some(file) = log.file() {
            eprintln!("spreadd: the log goes to {}", file.display());
        }
    }
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
    let ring_hash = config.ring_hash().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let hash = format!(
        "\nIts hash is {ring_hash}. Only daemons with the same one form a ring; it covers:\n\n{}",
        String::from_utf8_lossy(config.hash_text().as_bytes())
    );
    let file = std::path::absolute(file).context("the configuration file")?;
    Ok(Plan { options, place, text, hash, file: Some(file) })
}

/// Says where clients find the daemon, to the log and to the service manager.
fn announce(daemon: &Daemon) {
    let tcp: Vec<String> = daemon.tcp_addrs().iter().map(ToString::to_string).collect();
    let tcp = tcp.join(", ");
    match daemon.local_path() {
        Some(path) => info!(name = %daemon.name(), %tcp, local = %path.display(), "Serving clients."),
        None => info!(name = %daemon.name(), %tcp, "Serving clients."),
    }
    if !daemon.tls_addrs().is_empty() {
        let tls: Vec<String> = daemon.tls_addrs().iter().map(ToString::to_string).collect();
        info!(name = %daemon.name(), tls = tls.join(", "), "Serving clients over TLS.");
    }
    ready(daemon, "");
}

/// Tells the service manager that the daemon serves clients, and what `systemctl status` shows.
fn ready(daemon: &Daemon, more: &str) {
    let tcp: Vec<String> = daemon.tcp_addrs().iter().map(ToString::to_string).collect();
    let status = format!("serving clients as {} on {}{more}", daemon.name(), tcp.join(", "));
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

    /// Waits for TERM or INT, or for a monitor that ends the daemon.
    async fn end(&mut self, daemon: &Daemon, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.usr1.recv() => {
                    for line in daemon.status() {
                        info!("Status, {line}");
                    }
                }
                _ = self.hup.recv() => reload(),
                request = daemon.requested() => match request {
                    Request::Stop => return,
                    _ => reload(),
                },
            }
        }
    }
}

/// Reads the configuration again, and opens the log file again.
fn reload(daemon: &Daemon, args: &Args, file: Option<&Path>, log: &EventLog) {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let usec = now.map_or(0, |now| i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1000);
    notify(&[sd_notify::NotifyState::Reloading, sd_notify::NotifyState::MonotonicUsec(usec)]);
    if let Err(error) = log.reopen() {
        warn!(%error, "The log goes on in the old file.");
    }
    let finish = |options: &mut Options| finish(args, options).map_err(|error| format!("{error:#}"));
    let good = hangup::reload(daemon, file, log, finish);
    // The service manager cannot be told that a reload has failed, but it can show it.
    ready(daemon, if good { "" } else { "; the last reload failed, see the log" });
}
