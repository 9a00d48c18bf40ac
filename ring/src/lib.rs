//! Total order, reliability and daemon membership (Extended Virtual Synchrony) as a pure state machine.
#![forbid(unsafe_code)]

mod api;
pub mod assemble;
mod config;
pub mod pack;
mod types;
pub mod wire;

pub use api::{Body, Boot, Class, Event, Path, PeerRef, SubmitError, Transmit};
pub use config::{Limits, RingConfig, Timers, Windows};
pub use types::{ConfId, Mid, NODES_MAX, Nanos, NodeId, NodeSet, Seq, Service};
