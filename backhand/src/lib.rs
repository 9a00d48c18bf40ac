//! Resources of a cluster of web servers, and the choice of a server for a request.
//!
//! Every server announces its resources ([`announce`]); every server keeps a matrix of all announcements
//! ([`matrix`]), shares it with its request processes ([`table`]), and for each request runs a chain of candidacy
//! functions over it ([`chain`]).
//!
//! | module | job |
//! |---|---|
//! | [`stat`] | what is known of one server, with units |
//! | [`announce`] | the bytes of an announcement, with optional authentication |
//! | [`acl`] | from whom announcements are accepted; where they are sent |
//! | [`matrix`] | announcements to slots: ages, duplicates, departures, limits |
//! | [`table`] | the matrix in memory that many processes read without a lock |
//! | [`chain`] | candidacy functions and decisions |
//! | [`cost`] | the cost function of `byCost` |
//! | [`request`] | what is read of a request |
//! | [`redirect`] | whether a redirect is allowed, and to which name |
//! | [`hop`] | the header that marks a request sent from server to server |
//! | [`sample`] | the resources of this machine (Linux); the one module that reads clocks and files |
//!
//! All but [`sample`] is pure: time is an argument ([`Micros`]), randomness a seed.
// spec: mod_backhand
#![forbid(unsafe_code)]

pub mod acl;
pub mod address;
pub mod announce;
pub mod chain;
pub mod cost;
pub mod hop;
pub mod matrix;
pub mod redirect;
pub mod request;
pub mod sample;
pub mod stat;
pub mod table;

pub use acl::{Destination, Network};
pub use announce::{Announcement, DecodeError, Key};
pub use chain::{Chain, Decision, Function, Method, Random, RequestView, Servers, Snapshot};
pub use matrix::{Matrix, Refusal, Via};
pub use stat::{Figures, Live, Micros, Name, Server, ServerStat};
pub use table::Table;
