//! Process groups over the totally ordered deliveries of the ring: who receives what, and the membership
//! messages of `spec/group-semantics.md`.
//!
//! [`Groups`] is the engine of one daemon. It takes requests of the daemon's sessions and turns them into
//! messages for the ring; it takes what the ring delivers, and its changes of configuration, and turns them into
//! frames for sessions. It opens no socket, knows no time and starts no thread.
//!
//! All daemons of a configuration see the same deliveries in the same order, so they come to the same group
//! tables without further agreement. Only when daemons meet that were apart they exchange tables first.
#![forbid(unsafe_code)]

mod change;
mod deliver;
mod exchange;
mod groups;
#[cfg(feature = "mutations")]
pub mod mutation;
#[cfg(not(feature = "mutations"))]
mod mutation;
mod notify;
mod payload;
mod queue;
mod registry;
mod reload;
mod stats;
mod table;
mod types;
mod views;

pub use groups::Groups;
pub use queue::QUEUE_MESSAGES_MAX;
pub use reload::ReconfigureError;
pub use stats::Stats;
pub use table::{GROUPS_MAX, MEMBERS_MAX, MEMBERSHIPS_MAX};
pub use types::{
    Accepted, ConfigError, ConfigId, ConnectError, DAEMONS_MAX, Daemon, Ended, GroupsConfig, OutFrame,
    Output, Recipients, Refusal, RingService, SessionId, Submission,
};
