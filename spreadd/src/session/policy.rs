//! What clients may do: the access-control hooks.
//!
//! spec: daemon-config 13

use std::fmt;

use spread_wire::{GroupName, PrivateGroup, PrivateName};

use super::auth::Peer;

/// Decides what clients may do. Every hook permits by default. Hooks run on the threads of the daemon and
/// must not block.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Whether a client that is authenticated may open a session. Denied: it is refused.
    fn connect(&self, _name: &PrivateName, _peer: Peer) -> bool {
        true
    }

    /// Whether `client` may join `group`. Denied: the request comes back to the client as a rejected one.
    fn join(&self, _client: &PrivateGroup, _group: &GroupName) -> bool {
        true
    }

    /// Whether `client` may leave `group`. Denied: the request comes back to the client as a rejected one.
    fn leave(&self, _client: &PrivateGroup, _group: &GroupName) -> bool {
        true
    }

    /// Whether [`multicast`](Self::multicast) permits everything, so that it need not be asked.
    fn permits_all(&self) -> bool {
        false
    }

    /// Whether `client` may send to `target`; asked for every target. One denied target denies the message,
    /// which comes back to the client as a rejected one, unless it has SELF_DISCARD.
    fn multicast(&self, _client: &PrivateGroup, _target: &GroupName) -> bool {
        true
    }
}

/// `AccessControlPolicy = "PERMIT"`: everything is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permit;

impl Policy for Permit {
    fn permits_all(&self) -> bool {
        true
    }
}
