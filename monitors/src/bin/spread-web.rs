//! `spread-web`: the cluster's access log live on a web page, as JSON and for Prometheus.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use monitors::alerts::Alerts;
use monitors::cli::SourceArgs;
use monitors::history::History;
use monitors::web::{Options, Users};
use monitors::{notify, web};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Shows the access log of a whole cluster live: a web page at /, JSON under /api/, Prometheus at /metrics
///
/// Connects to a spreadd as any subscriber does, counts every line that the web servers publish, and keeps all
/// figures in bounded memory. The page needs nothing from elsewhere.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "Example:\n  spread-web -s 4803 --group site4 --format combined --listen 127.0.0.1:8080"
)]
struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Address of the page
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Rules for alerts (docs/reference/monitors.md)
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// Keep the figures of each minute in this file
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Days that are kept in the file
    #[arg(long, value_name = "DAYS", default_value_t = 30, requires = "history")]
    history_days: u32,
    /// Ask for a user and a password of this file (made with `htpasswd -B`)
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Serve over TLS: file with the certificate and its chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    monitors::cli::log_to_stderr();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spread-web: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let alerts = args.alerts.as_deref().map(Alerts::load).transpose()?;
        let users = args.users.as_deref().map(Users::load).transpose()?;
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => Some(web::acceptor(certificate, key)?),
            _ => None,
        };
        let history =
            args.history.as_deref().map(|path| History::open(path, args.history_days)).transpose()?;
        let listener = web::bind(args.listen).await?;
        let state = args.source.start()?;
        if let Some(alerts) = alerts {
            notify::start(alerts, state.clone())?;
        }
        if let Some(history) = &history {
            history.start(state.clone())?;
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        info!("The page is at {scheme}://{}/.", listener.local_addr()?);
        let router = web::router(state, Options { users, history });
        web::serve(listener, tls, router, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    })
}
