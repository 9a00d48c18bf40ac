//! Log lines on disk until they are confirmed.
//!
//! A *journal* is a folder of one source (a child process of a web server and one list of daemons):
//!
//! ```text
//! SPOOL/<source id>/        locked (flock on the folder) by the process that works with it
//!   source                  whose lines these are: daemons, words for the hello, groups
//!   instance                the server that counts the lines; 0 when the process ended in order
//!   marks                   8 bytes for each group: first number that is not confirmed; top bit: a log writer answered
//!   ring                    lines that the request threads took and the sender did not yet append (shared memory)
//!   00000001.log, ...       the lines, see `record`
//! ```
//!
//! A folder that nobody holds locked belongs to a process that is gone. Any other process may adopt it, and sends what
//! is not confirmed with the old source id and the old numbers, so that log writers can tell what they have.
//!
//! | module | job |
//! |---|---|
//! | `record` | bytes of a record, both ways |
//! | `journal` | append, read back, confirm, remove |
//! | `adopt` | journals of processes that are gone, and their repair |
//! | `ring` | what request threads put down before the sender runs |
//!
//! All of it survives the death of the process (kill -9). What a crash of the machine leaves is what the system wrote
//! back: on Linux, all but about the last 30 seconds.
// spec: mod_log_spread 9.1, 9.3

mod adopt;
mod journal;
mod record;
mod ring;

#[cfg(test)]
mod tests;

pub use adopt::{Orphan, adopt, bytes_in};
pub use journal::{Budget, Cursor, Journal, Meta};
pub use ring::Ring;
