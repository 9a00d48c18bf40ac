//! A small safe layer over the module interface of Apache httpd 2.4.
//!
//! A module implements [`Module`], lists its [`Directive`]s and exports itself with [`export!`]; hooks are methods
//! of the trait, switched on in [`Module::register`]. The layer keeps the promises that the server's interface asks
//! for: nothing unwinds into C, texts given to the server live in its pools, statics hold no configuration.
//!
//! | module | job |
//! |---|---|
//! | [`module`] | the trait, the exported structure, hooks |
//! | [`directive`] | directives and the tree of the configuration |
//! | [`requests`] | modules with a say in each request; settings of directories |
//! | [`proxy`] | requests sent on through mod_proxy |
//! | [`manager`] | a process beside the children |
//! | [`pool`] | memory pools and what runs when they end |
//! | [`server`] | views of servers and requests |
//! | [`log`] | writing to the error log |
//! | [`errorlog`] | seeing what goes into the error log |
//! | [`logwriter`] | taking over the writer of mod_log_config |
//! | [`shared`] | memory that all children share and that survives restarts |
//!
//! # Rules for code on top
//!
//! - The shared object must not be unloaded while its threads run: link with `-z nodelete` (see the build script of
//!   `mod_log_spread`).
//! - No thread, no connection, no random number before [`Module::child_init`]: the parent forks.
//! - Views ([`server::Server`], [`server::Request`], [`pool::Pool`]) are borrowed from a callback and stay in it.
// spec: httpd-ffi 11

pub mod directive;
pub mod errorlog;
mod guard;
pub mod log;
pub mod logwriter;
pub mod manager;
pub mod module;
pub mod pool;
pub mod proxy;
pub mod requests;
pub mod server;
pub mod shared;

#[doc(hidden)]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the headers of the installed server"
)]
pub mod ffi {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use directive::{DirDirective, Directive, Node, Params, Scope, Setter};
pub use log::{Level, Log};
pub use module::{Hooks, Module, Order, Status};
pub use pool::Pool;
pub use requests::{Merged, Outcome, RequestModule};
pub use server::{MainState, Request, Server, StatusForm};
