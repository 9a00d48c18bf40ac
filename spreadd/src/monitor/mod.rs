//! The monitor protocol: how `spmonitor` asks daemons for their status and commands them, by UDP on the data port.
//!
//! [`packet`] is the codec, for both ends. The daemon's end runs on the ring thread: it checks what comes and says
//! what is to be done. Nothing in the protocol proves who sent a packet but its source address and the hash of the
//! configuration, so what does harm needs `DangerousMonitor` in the configuration.
//!
//! spec: monitor-protocol

mod answer;
pub mod packet;
mod report;
mod stats;

pub(crate) use answer::{Action, Cluster, Monitor};
pub(crate) use report::Facts;
pub use stats::{MonitorStats, Refused};
