//! Group communication daemon, compatible with Spread clients.

pub mod ring_driver;
