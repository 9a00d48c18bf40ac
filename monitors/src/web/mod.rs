//! The web page, its data, and metrics for Prometheus: one small HTTP server.

mod api;
mod assets;
mod metrics;

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::state::Shared;

/// The routes over a state.
pub fn router(state: Shared) -> Router {
    Router::new()
        .route("/", get(assets::index))
        .route("/assets/{*name}", get(assets::asset))
        .route("/api/snapshot", get(api::snapshot))
        .route("/api/tail", get(api::tail))
        .route("/api/stream", get(api::stream))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(api::healthz))
        .layer(map_response(harden))
        .with_state(state)
}

/// Nothing from elsewhere runs in the page, and nobody frames it: what it shows was written by strangers.
async fn harden(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    response
}

/// Listens on `address`.
///
/// # Errors
/// If the address cannot be used, for example because another program has it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another one with --listen"))
}

/// Serves until `stop` is ready. Open event streams are cut then.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    state: Shared,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let server = axum::serve(listener, router(state));
    tokio::select! {
        result = async { server.await } => Ok(result?),
        () = stop => Ok(()),
    }
}
