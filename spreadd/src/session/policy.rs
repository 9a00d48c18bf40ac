//! What clients may do: the access-control hooks.
//!
//! spec: daemon-config 13

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use spread_wire::{GroupName, PrivateGroup};

use super::auth::{Auth, Peer};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The private group. Its name part was chosen by the client and proves nothing.
    pub private: PrivateGroup,
    /// The name that the daemon checked: of the `PWORD` method, or else of the client's certificate.
    pub user: Option<Arc<str>>,
    /// Where it comes from.
    pub peer: Peer,
}

/// Decides what clients may do. Every hook permits by default. Hooks run on the threads of the daemon and
/// must not block.
pub trait Policy: fmt::Debug + Send + Sync {
    /// Whether a client that passed the authentication may open a session. Denied: it is refused.
    fn connect(&self, _client: &Client) -> bool {
        true
    }

    /// Whether `client` may join `group`. Denied: the request comes back to the client as a rejected one.
    fn join(&self, _client: &Client, _group: &GroupName) -> bool {
        true
    }

    /// Whether `client` may leave `group`. Denied: the request comes back to the client as a rejected one.
    fn leave(&self, _client: &Client, _group: &GroupName) -> bool {
        true
    }

    /// Whether [`multicast`](Self::multicast) permits everything, so that it need not be asked.
    fn permits_all(&self) -> bool {
        false
    }

    /// Whether `client` may send to `target`; asked for every target. One denied target denies the message,
    /// which comes back to the client as a rejected one, unless it has SELF_DISCARD.
    fn multicast(&self, _client: &Client, _target: &GroupName) -> bool {
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

/// Who may connect and what clients may do, exchangeable while the daemon runs.
#[derive(Debug)]
pub(crate) struct Access {
    auth: RwLock<Arc<Auth>>,
    policy: RwLock<Arc<dyn Policy>>,
}

impl Access {
    pub(crate) fn new(auth: Auth, policy: Arc<dyn Policy>) -> Self {
        Self { auth: RwLock::new(Arc::new(auth)), policy: RwLock::new(policy) }
    }

    /// From now on these hold: `auth` for new clients, `policy` for all.
    pub(crate) fn set(&self, auth: Auth, policy: Arc<dyn Policy>) {
        *self.auth.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(auth);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    pub(crate) fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.auth.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn policy(&self) -> Arc<dyn Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }
}
