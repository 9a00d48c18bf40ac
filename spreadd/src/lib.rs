//! Group communication daemon, compatible with Spread clients.
//!
//! [`Daemon::start`] runs a daemon inside the process; the program `spreadd` is this with a command line.
//!
//! ```
//! use spreadd::{Daemon, Options};
//!
//! // Alone, on a free port of the loopback interface, without a local socket.
//! let mut options = Options::alone("test".parse()?, 0);
//! options.listen = vec!["127.0.0.1".parse()?];
//! options.socket_dir = None;
//! let daemon = Daemon::start(options)?;
//! println!("clients connect to {}@127.0.0.1", daemon.port());
//! daemon.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod account;
mod alone;
pub mod cli;
mod cluster;
pub mod config;
mod daemon;
mod descriptors;
pub mod event_log;
mod hub;
pub mod monitor;
pub mod observe;
mod reload;
pub mod ring_driver;
mod session;
pub mod spmonitor;
mod state;

pub use access::AccessFileError;
pub use account::{Account, AccountError};
pub use alone::AloneError;
pub use cluster::ClusterError;
pub use daemon::{Daemon, Member, Options, Request, RingOptions, SOCKET_DIR, SessionLimits, StartError};
pub use descriptors::sessions_that_fit;
pub use monitor::packet::Command as MonitorCommand;
pub use monitor::{MonitorStats, Refused};
pub use reload::{Reloaded, Unchangeable};
pub use session::{
    AccessError, AccessList, Auth, Client, ListenError, Method, Methods, PasswordError, Passwords, Peer,
    Permit, Policy, RuleError, Rules, SessionStats, SlowAction, SlowRules, TlsError, TlsOptions,
};
pub use state::StateError;
