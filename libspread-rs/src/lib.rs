//! Client library for Spread daemons.
//!
//! A *session* with a daemon sends messages to *groups* and receives what was sent to the groups it joined, in an order
//! and with guarantees that the sender chooses by a [`Service`]. Two faces share one protocol core:
//!
//! * [`blocking::Connection`] for plain threads, made by [`Builder::connect_blocking`];
//! * [`Connection`] for tokio, made by [`Builder::connect`] (feature `tokio`, on by default).
//!
//! ```no_run
//! use spread::{Builder, Message, Service};
//!
//! let mut connection = Builder::new("4803@localhost")?.membership(true).connect_blocking()?;
//! let chat = "chat".parse()?;
//! connection.join(chat)?;
//! connection.multicast(Service::AGREED, chat, 0, "hello")?;
//! loop {
//!     match connection.receive()? {
//!         Message::Membership(view) => println!("{} members", view.members.len()),
//!         Message::Data(data) => println!("{} says {:?}", data.sender(), data.payload()),
//!         _ => {}
//!     }
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Both work with Spread 4 and 5 daemons as well as with ours.
//!
//! | feature | what it adds | costs |
//! |---|---|---|
//! | `tokio` (default) | [`Connection`], [`Sender`], [`Receiver`], [`MessageSink`]: the async face | tokio |
//! | `capi` | `flush::Engine`: what the C interface (crates `spread-core`, `tspread-core`, `spread-full`) stands on | nothing |
//! | `tls` | addresses of the form `tls://host:port` for both faces, `TlsOptions` | rustls, ring |
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod address;
pub mod blocking;
mod builder;
mod error;
pub mod flush;
mod handshake;
mod message;
mod outbox;
mod service;
mod session;
mod target;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tokio")]
mod tokio_face;

pub use address::{Address, DEFAULT_PORT, DEFAULT_SOCKET_DIR};
pub use builder::{Auth, Builder, Reconnect};
pub use error::{AddressError, Code, ConnectError, ReceiveError, Reject, SendError};
pub use message::{Cause, Data, Membership, Message, Reconnected, Rejected};
pub use outbox::Unsent;
pub use service::Service;
pub use spread_wire::{
    DaemonName, Gap, GroupId, GroupName, NameError, PrivateGroup, PrivateName, ServiceType,
};
pub use target::Targets;
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
#[cfg(feature = "tokio")]
pub use tokio_face::{Connection, MessageSink, Outgoing, Receiver, Sender};
