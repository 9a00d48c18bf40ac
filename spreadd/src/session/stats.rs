//! Counters of the session layer. All exist from the start with 0.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters while the daemon runs.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// A reading of the session layer's counters.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct SessionStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// All of them, now.
            pub(crate) fn read(&self) -> SessionStats {
                SessionStats { $($name: self.$name.get(),)* }
            }
        }

        impl SessionStats {
            /// Names and values, for display.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections the system gave us.
    connections_total,
    /// Sessions that passed the handshake.
    sessions_total,
    /// Refused: all seats taken (code -3).
    refused_quota_total,
    /// Refused: private name illegal (code -5).
    refused_name_total,
    /// Refused: private name in use (code -6).
    refused_not_unique_total,
    /// Refused: client too old (code -7).
    refused_version_total,
    /// Refused: authentication or policy (code -9).
    refused_auth_total,
    /// Passwords that were wrong, or of users that are not known.
    password_failures_total,
    /// Passwords that were not looked at, because too many of their source were wrong.
    password_refused_total,
    /// Sources of wrong passwords that were forgotten early, because there were too many.
    password_sources_forgotten_total,
    /// Gone or too slow before the handshake was over, without a code.
    handshakes_broken_total,
    /// Ended by the client's own request.
    ended_by_request_total,
    /// Ended by the client closing its connection, or by an error of it.
    ended_by_close_total,
    /// Dropped: the client broke the protocol.
    dropped_illegal_total,
    /// Dropped: the client did not read what was sent to it.
    dropped_slow_total,
    /// Messages dropped because their receiver did not read: one per receiver.
    slow_discarded_total,
    /// Bytes of these.
    slow_discarded_bytes_total,
    /// Messages that waited on disk for a client that did not read.
    spilled_total,
    /// Bytes of these.
    spilled_bytes_total,
    /// Requests taken from clients; what another client sends after they are counted is ordered after them.
    requests_total,
    /// Bytes of these.
    request_bytes_total,
    /// Requests sent back by the policy.
    rejected_total,
    /// Frames handed to clients: one per receiver.
    deliveries_total,
    /// Bytes of these.
    delivery_bytes_total,
}
