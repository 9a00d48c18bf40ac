//! Total order, reliability and daemon membership (Extended Virtual Synchrony) as a pure state machine.
#![forbid(unsafe_code)]

mod api;
pub mod assemble;
mod commit;
mod conf;
mod config;
mod data;
mod features;
mod fingerprint;
mod flow;
mod gather;
mod hearing;
mod idle;
mod install;
mod invariants;
mod leave;
mod live;
mod membership;
mod midset;
#[cfg(feature = "mutations")]
pub mod mutation;
#[cfg(not(feature = "mutations"))]
mod mutation;
mod operational;
pub mod pack;
mod presence;
mod recovery;
mod repair;
mod ring;
mod rng;
mod stats;
mod store;
#[cfg(test)]
mod tests;
mod timers;
mod types;
pub mod wire;

pub use api::{Body, Boot, Class, Event, Path, PeerRef, SubmitError, Transmit};
pub use config::{Limits, RingConfig, Timers, Windows};
pub use features::{FEATURE_ACKS, FEATURE_PARK, FEATURES};
pub use live::{Condition, Membership, Successor, successor};
pub use ring::{ConfigError, Ring};
pub use stats::{CAUSES, Cause, Drops, Histogram, PeerStats, Stats};
pub use types::{ConfId, Mid, NODES_MAX, Nanos, NodeId, NodeSet, Seq, Service};
