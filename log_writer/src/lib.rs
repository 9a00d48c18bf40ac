//! The unified access log: joins Spread groups and writes what web servers publish there, every line once and in
//! the order of delivery, which is the same on every host.
//!
//! ```text
//! daemon --> reader thread --> queue (bounded) --> writer thread --> files
//!   ^        (only reads)                           (order, duplicates, holes)
//!   +------------------- acknowledgements ----------------+
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`config`] | what to read and where to write; from flags or from a `spreadlogd.conf` |
//! | [`conf_file`] | the language of `spreadlogd.conf` |
//! | [`queue`] | the bounded queue between the two threads |
//! | [`reader`] | the session: connect, join, read, reconnect |
//! | [`writer`] | lines to files, acknowledgements |
//! | [`route`] | which line goes to which file, and in which form |
//! | [`output`] | one file, pipe or standard output |
//! | [`repair`] | the torn end of a file after a crash |
//! | [`state`] | the position kept over restarts |
//! | [`run`](mod@run) | threads and signals |

#![forbid(unsafe_code)]

pub mod cli;
pub mod conf_file;
pub mod config;
pub mod output;
pub mod queue;
pub mod reader;
pub mod repair;
pub mod route;
pub mod run;
pub mod state;
pub mod writer;

pub use config::Config;
