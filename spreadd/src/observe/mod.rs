//! A daemon that explains itself: `spreadd status`, the metrics, and what both are made of.
//!
//! ```text
//!   ring thread: engine, driver, hub        sessions' counters       event log's counters
//!                      \                          |                   /
//!                       +-------> Probe::look (a question to the ring thread, at most 2 s)
//!                                      |
//!              control socket (JSON) --+-- metrics over HTTP (Prometheus text)
//! ```
//!
//! Nothing here changes the daemon: all requests only read.

pub mod control;
mod http;
mod metrics;
mod probe;
mod snapshot;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tracing::{info, warn};

use crate::StartError;
use crate::session::listen::{SocketFile, listen_unix};

pub(crate) use probe::{Identity, Probe, RingLink};
pub use snapshot::{
    ChangeRow, GroupRow, GroupsState, LinkRow, PeerRow, RingState, RotationState, SessionRow, SessionsState,
    Snapshot,
};
pub use table::render as render_table;

/// Only the daemon's user and root may ask.
const CONTROL_MODE: u32 = 0o600;

/// Opens the control socket and the metrics, if they are wanted. A control socket that cannot be made is told:
/// it is no reason to serve nobody.
pub(crate) fn start(
    runtime: &Runtime,
    probe: &Arc<Probe>,
    control: Option<PathBuf>,
    metrics: Option<SocketAddr>,
) -> Result<(Option<SocketFile>, Option<SocketAddr>), StartError> {
    let _guard = runtime.enter();
    let mut file = None;
    if let Some(path) = control {
        match listen_unix(&path, CONTROL_MODE) {
            Ok(Some((listener, socket_file))) => {
                let listener = UnixListener::from_std(listener).map_err(StartError::Runtime)?;
                runtime.spawn(control::serve(listener, Arc::clone(probe)));
                file = Some(socket_file);
            }
            Ok(None) => {
                warn!(path = %path.display(), "Another daemon has the control socket; going on without one.");
            }
            Err(error) => {
                warn!(%error, "No control socket: `spreadd status` will not find this daemon.");
            }
        }
    }
    let mut served = None;
    if let Some(addr) = metrics {
        let failed = |source| StartError::Metrics { addr, source };
        let listener = std::net::TcpListener::bind(addr).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        info!(addr = %local, "Serving metrics.");
        served = Some(local);
        runtime.spawn(http::serve(TcpListener::from_std(listener).map_err(failed)?, Arc::clone(probe)));
    }
    Ok((file, served))
}
