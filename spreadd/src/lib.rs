//! Group communication daemon, compatible with Spread clients.
//!
//! [`Daemon::start`] runs a daemon inside the process; the program `spreadd` is this with a command line.

mod alone;
pub mod config;
mod daemon;
mod hub;
pub mod ring_driver;
mod session;

pub use daemon::{Daemon, Member, Options, SOCKET_DIR, SessionLimits, StartError, auto_id};
pub use session::{
    AccessError, AccessList, Auth, ListenError, Method, Methods, Peer, Permit, Policy, SessionStats,
};
