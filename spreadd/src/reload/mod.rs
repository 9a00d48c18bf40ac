//! Another configuration while the daemon runs.
//!
//! ```text
//!  SIGHUP, monitor                      ring thread
//!       |                                   |
//!   read the file, compare  --- Plan --->   |  what needs no agreement: at once
//!   (errors: nothing happens)               |  another list of daemons: agree with the members, then change over
//! ```
//!
//! A list of daemons that changes changes the hash of the configuration and the numbers of the daemons, so all members
//! of a ring must change over together. They agree in the ring itself:
//!
//! 1. A daemon that has read a new file says so to the others: *prepared*. Nothing else happens as long as a member
//!    has not: its administrator did not reload it yet, or its file differs.
//! 2. When all members are prepared for the same configuration, each of them says *committed* and holds back the
//!    requests of its clients, for two rotations of the token.
//! 3. When all have said so, every message sent under the old configuration was delivered, at the same place in the
//!    order at all members. That is where they change over: groups and sessions stay, the ring engine goes on as the
//!    ring of those that stay ([`spread_ring::Successor`]) and takes in whoever is new.
//!
//! A member that is not in the new list agrees by itself and is alone afterwards. If the membership changes in between,
//! the agreement begins anew in the next ring.
//!
//! spec: daemon-config 10; ring-protocol D7

mod changeover;
mod compare;
mod live;
mod notice;
#[cfg(test)]
mod tests;

pub(crate) use compare::compare;
pub use compare::{Reloaded, Unchangeable};
pub(crate) use live::{Change, Live, LiveParts, Present, Step};
pub(crate) use notice::Notice;
