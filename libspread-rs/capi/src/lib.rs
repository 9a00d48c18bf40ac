//! The C interface of the Spread client library: the functions of `sp.h` and `sp_events.h` with the behaviour of
//! Spread 5.0.1, for programs that are linked again or just started with another library path.
//!
//! One implementation, safe for threads, serves all library names; the crates `spread-core` and `tspread-core` give it
//! its names. Unlike the Rust faces it never reads ahead: programs wait for their mailbox with `select` and rely on it.
//!
//! | module | what |
//! |---|---|
//! | [`session`] | the table of mailboxes, locks, fork |
//! | [`connect`] | connecting and authentication |
//! | [`send`] | join, leave, multicast |
//! | [`receive`] | receive, poll |
//! | [`wanted`] | where the parts of a message go |
//! | [`membership`] | reading the bodies of membership messages |
//! | [`events`] | the `E_` loop |
//! | [`layer`] | what the flush layer of `libspread.so.3` stands on |
//!
//! Source: `spec/c-api.md`.
//!
//! # Safety
//!
//! All exported functions take pointers as the C prototypes in `include/sp_func.h` say: those must point to what the
//! prototype promises, or be null where the specification allows that. No function panics or unwinds out, with one
//! exception that is wanted: a thread that is cancelled while it waits for a message.

#![deny(missing_docs)]

pub mod connect;
pub mod events;
pub mod layer;
pub mod membership;
pub mod misc;
pub mod receive;
pub mod send;
pub mod session;
mod sys;
pub mod types;
pub mod wanted;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use spread_wire::codes;

/// Runs the body of an exported function; a bug in it becomes an error code instead of the end of the process.
pub fn guard(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(codes::SP_BUG)
}
