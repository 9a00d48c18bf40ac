//! Client sessions: listeners, handshake, reading and writing.
//!
//! Every connection is a task of its own. A session that is established has a reader, which puts requests
//! into the [`Inbox`](inbox::Inbox) of the ring thread, and a writer, which empties its
//! [`Outbox`](outbox::Outbox). Both wait for their client only: a slow, broken or hostile client hurts itself.

pub(crate) mod auth;
pub(crate) mod brake;
mod descrypt;
pub(crate) mod handshake;
pub(crate) mod inbox;
pub(crate) mod listen;
pub(crate) mod outbox;
mod passwords;
pub(crate) mod policy;
pub(crate) mod quiet;
mod reader;
pub(crate) mod registry;
pub(crate) mod rules;
mod serve;
pub(crate) mod slow;
pub(crate) mod spill;
pub(crate) mod stats;
pub(crate) mod tls;
mod writer;

pub use auth::{AccessError, AccessList, Auth, Method, Methods, Peer};
pub use listen::ListenError;
pub use passwords::{PasswordError, Passwords};
pub use policy::{Client, Permit, Policy};
pub use rules::{RuleError, Rules};
pub use slow::{SlowAction, SlowRules};
pub use stats::SessionStats;
pub use tls::{TlsError, TlsOptions};

pub(crate) use serve::{Shared, accept_local, accept_tcp};
pub(crate) use tls::accept_tls;
