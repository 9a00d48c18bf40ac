//! The web page, its data, and metrics for Prometheus: one small HTTP server.

mod api;
mod assets;
mod auth;
mod metrics;
mod tls;

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::FromRef;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use auth::Users;
pub use tls::{TlsListener, acceptor};

use crate::history::History;
use crate::state::Shared;

/// What the routes work on.
#[derive(Clone, Debug)]
struct Context {
    state: Shared,
    history: Option<History>,
}

impl FromRef<Context> for Shared {
    fn from_ref(context: &Context) -> Self {
        context.state.clone()
    }
}

impl FromRef<Context> for Option<History> {
    fn from_ref(context: &Context) -> Self {
        context.history.clone()
    }
}

/// What a server can have beside the figures.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only these users may see it.
    pub users: Option<Users>,
    /// Figures of earlier minutes.
    pub history: Option<History>,
}

/// The routes over a state.
pub fn router(state: Shared, options: Options) -> Router {
    let router = Router::new()
        .route("/", get(assets::index))
        .route("/assets/{*name}", get(assets::asset))
        .route("/api/snapshot", get(api::snapshot))
        .route("/api/tail", get(api::tail))
        .route("/api/stream", get(api::stream))
        .route("/api/history", get(api::history))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(api::healthz))
        .with_state(Context { state, history: options.history });
    let router = match options.users {
        Some(users) => router.layer(from_fn_with_state(users, auth::check)),
        None => router,
    };
    router.layer(map_response(harden))
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

/// Serves until `stop` is ready, over TLS if there is an acceptor. Open event streams are cut then.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let server = async {
        match tls {
            None => axum::serve(listener, router).await,
            Some(acceptor) => axum::serve(TlsListener::new(listener, acceptor)?, router).await,
        }
    };
    tokio::select! {
        result = server => Ok(result?),
        () = stop => Ok(()),
    }
}
