//! `spread.conf`: the whole language of Spread 5.0.1, with errors that say what to do.
//!
//! [`load()`] reads a file, [`parse`] a text; both give a [`Config`] or *all* errors of the file, each shown
//! with its line, a caret, what was found and what is accepted. [`Config::identify`] finds the entry of the
//! daemon that runs here. What the file asks for and this daemon does not do is in [`Config::warnings`].
//!
//! Source: `spec/daemon-config.md`. Every key is described in `docs/reference/spread.conf.md`.

mod check;
mod client_words;
mod diagnostic;
mod hash;
mod host;
mod identity;
mod lexer;
mod load;
mod model;
mod options;
mod parser;
mod ring;
mod variants;
mod words;

pub use check::{DAEMONS_MAX, SEGMENTS_MAX};
pub use client_words::ClientOptions;
pub use diagnostic::{ConfigErrors, ERRORS_MAX, ErrorClass, Problem, Source, Warning, WarningClass};
pub use hash::{HashText, hash, virtual_id};
pub use host::{Host, SystemHost};
pub use load::{FILE_MAX, LoadError, SEARCH, find, load, parse};
pub use model::{Config, ConfigAddr, Daemon, Interface, IpVersion, Segment, Use};
pub use options::{
    AuthMethod, DEFAULT_ACCELERATED_WINDOW, DEFAULT_PERSONAL_WINDOW, DEFAULT_WINDOW, EventFlags,
    EventPriority, Options, Policy, PortReuse, TimeStamp, Timeouts,
};
pub use variants::Variants;
