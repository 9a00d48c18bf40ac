//! `spread-web`: the cluster's access log live on a web page, as JSON and for Prometheus.

use std::process::ExitCode;

use clap::Parser as _;
use monitors::alerts::Alerts;
use monitors::cli::WebArgs;
use monitors::history::History;
use monitors::web::{Options, Users};
use monitors::{notify, web};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

fn main() -> ExitCode {
    let args = WebArgs::parse();
    monitors::cli::log_to_stderr();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spread-web: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &WebArgs) -> anyhow::Result<()> {
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
