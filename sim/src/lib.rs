//! The deterministic simulator of daemons, and the oracle that judges it.
//!
//! One seed is one history: some daemons with the real [`spread_ring::Ring`], a network and a time that exist
//! only in memory, clients that submit numbered messages, and faults. The same seed gives the same history,
//! whatever the machine. After every step the engine's own invariants are checked; at the end the logs of all
//! processes go through the [`oracle`]; in half of the histories the faults end at some point, and from there
//! on everything must settle and be delivered.
//!
//! A history that fails prints the command that repeats it. [`shrink`] leaves out faults as long as the
//! failure stays, so the command names those that are not needed.

mod body;
pub mod explore;
pub mod group_log;
pub mod group_oracle;
pub mod log;
#[cfg(feature = "mutations")]
pub mod mutations;
mod net;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod shrink;
mod watch;
mod world;

pub use plan::Plan;
pub use world::{Failure, Figures, Options, Outcome, quiet_panics, run};
