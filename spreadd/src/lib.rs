//! Group communication daemon, compatible with Spread clients.
//!
//! [`Daemon::start`] runs a daemon inside the process; the program `spreadd` is this with a command line.

mod alone;
mod cluster;
pub mod config;
mod daemon;
mod hub;
pub mod ring_driver;
mod session;

pub use alone::AloneError;
pub use cluster::ClusterError;
pub use daemon::{Daemon, Member, Options, RingOptions, SOCKET_DIR, SessionLimits, StartError};
pub use session::{
    AccessError, AccessList, Auth, ListenError, Method, Methods, Peer, Permit, Policy, SessionStats,
};
