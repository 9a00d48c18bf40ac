//! Real-time views of a cluster's access log: what `spread-top` and `spread-web` share.
#![forbid(unsafe_code)]

pub mod alerts;
pub mod cli;
pub mod filter;
pub mod history;
pub mod machines;
pub mod notify;
pub mod ring;
pub mod snapshot;
pub mod sources;
pub mod state;
pub mod top;
pub mod watch;
pub mod web;
