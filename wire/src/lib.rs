//! The client protocol of Spread 5, both ends: handshake, frames, names, service types, membership bodies,
//! limits and codes.
//!
//! The crate is pure: it turns bytes into checked values and back. It opens no socket and knows no time.
//! Nothing that arrives makes it panic, and what it asks to be buffered is bounded by [`limits`].
//!
//! A daemon reads a session with [`handshake::Hello::decode`], [`handshake::AuthChoice::decode`] and then a
//! [`FrameDecoder::daemon`]; a client reads with [`handshake::MethodList::decode`],
//! [`handshake::Accept::decode`] and a [`FrameDecoder::client`]. Every decoder takes what has arrived so far
//! and takes nothing out of the buffer until its unit is complete, so it does not matter how the bytes were
//! cut into segments.
//!
//! Source: `spec/client-protocol.md`.
#![forbid(unsafe_code)]

pub mod build;
pub mod codes;
mod frame;
mod gap;
pub mod handshake;
mod header;
pub mod limits;
mod membership;
mod names;
mod service;

pub use frame::{Frame, FrameDecoder, FrameError, Kind};
pub use gap::Gap;
pub use header::Header;
pub use membership::{BodyError, Cause, GroupId, Membership, MembershipBody, VsSets};
pub use names::{DaemonName, GroupName, NameError, PrivateGroup, PrivateName};
pub use service::{ByteOrder, Hint, ServiceType};
