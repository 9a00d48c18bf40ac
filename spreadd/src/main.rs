//! The program `spreadd`: command line, signals, exit codes. Everything else is in the library.

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use spread_wire::{DaemonName, limits::DEFAULT_PORT};
use spreadd::{Daemon, Options, SOCKET_DIR};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// Exit code for wrong use or configuration.
const EXIT_USAGE: u8 = 2;

/// Environment variable for `--socket-dir`.
const SOCKET_DIR_VAR: &str = "SPREAD_SOCKET_DIR";

/// Environment variable for `--log-level`.
const LOG_VAR: &str = "SPREADD_LOG";

/// Group communication daemon, compatible with Spread clients.
///
/// Clients connect over TCP to PORT@HOST, or on the same host over the local socket /tmp/PORT, join groups and
/// send messages to them; all members of a group see the same messages in the same order. Daemons that are
/// configured together form one ring and serve the groups jointly.
///
/// Without a configuration file the daemon runs alone on port 4803. With one, give the same file to every host
/// and tell each daemon its name with --name.
#[derive(Parser)]
#[command(name = "spreadd", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Args {
    /// Name of this daemon: the entry of the configuration file that is this host.
    ///
    /// Without a file: the name the daemon runs under, "localhost" by default.
    #[arg(short, long, value_name = "NAME", value_parser = daemon_name)]
    name: Option<DaemonName>,

    /// Configuration file (spread.conf). Without this option ./spread.conf, then /etc/spread.conf.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Read the configuration, say what this daemon would do, and exit.
    #[arg(long)]
    check: bool,

    /// Port for clients, if there is no configuration file. 0 takes a free one.
    #[arg(short, long, value_name = "PORT", conflicts_with = "config")]
    port: Option<u16>,

    /// Address for TCP clients, if there is no configuration file; may be repeated. Default: all of the host.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    listen: Vec<IpAddr>,

    /// Directory of the local socket, whose name is the port. Client libraries look in /tmp.
    ///
    /// The environment variable SPREAD_SOCKET_DIR does the same.
    #[arg(long, value_name = "DIR", conflicts_with = "no_local_socket")]
    socket_dir: Option<PathBuf>,

    /// Do not open a local socket.
    #[arg(long)]
    no_local_socket: bool,

    /// Threads that serve clients. Default: one per processor, at most 4.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// What is logged to standard error: error, warn, info, debug or trace.
    ///
    /// Parts can be set apart, as in "info,spreadd::session=debug". The environment variable SPREADD_LOG does
    /// the same.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// For start scripts of Spread 5: accepted and without effect, the log is always written.
    #[arg(short = 'l', value_name = "y|n")]
    log: Option<YesNo>,
}

const AFTER_HELP: &str = "\
Examples:
  spreadd                              run alone on port 4803
  spreadd -n web1 -c /etc/spread.conf  run as the daemon web1 of the configuration
  spreadd --check -n web1 -c new.conf  check a configuration

Signals: TERM and INT end the daemon in order: it leaves the ring and removes its local socket.
Exit status: 0 ended in order, 1 failed, 2 wrong use or configuration.";

#[derive(Clone, Copy, ValueEnum)]
enum YesNo {
    Y,
    N,
}

fn daemon_name(text: &str) -> Result<DaemonName, String> {
    DaemonName::new(text.as_bytes()).map_err(|error| error.to_string())
}

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
    let options = options(args)?;
    if args.check {
        println!("spreadd: the configuration is good: {}", describe(&options));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    // Before the sockets are opened: what is opened is also removed.
    let mut signals = runtime.block_on(async { Signals::new() }).context("cannot wait for signals")?;
    let daemon = Daemon::start(options).context("cannot start")?;
    announce(&daemon);
    runtime.block_on(signals.end());
    notify(&[sd_notify::NotifyState::Stopping]);
    info!("Ending.");
    daemon.stop();
    info!("Ended.");
    Ok(())
}

fn options(args: &Args) -> Result<Options, Failure> {
    let name = match args.name {
        Some(name) => name,
        None => DaemonName::new(b"localhost").context("the default name")?,
    };
    let mut options = Options::alone(name, args.port.unwrap_or(DEFAULT_PORT));
    options.listen.clone_from(&args.listen);
    if args.no_local_socket {
        options.socket_dir = None;
    } else {
        let from_env = std::env::var_os(SOCKET_DIR_VAR).map(PathBuf::from);
        options.socket_dir = args.socket_dir.clone().or(from_env).or_else(|| Some(PathBuf::from(SOCKET_DIR)));
    }
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
    }
    Ok(options)
}

fn describe(options: &Options) -> String {
    format!("{} daemons, port {}", options.daemons.len(), options.port)
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
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for TERM or INT.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {
                    info!("SIGHUP: there is nothing to reload; restart the daemon for a new configuration.");
                }
            }
        }
    }
}
