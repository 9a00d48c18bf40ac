//! Counters of the monitor protocol.

use std::sync::atomic::{AtomicU64, Ordering};

use super::packet::Command;

/// Why a request was dropped. In the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refused {
    /// No packet of the protocol, or of another length than it says.
    Malformed,
    /// Another configuration.
    Hash,
    /// From a daemon that is not configured.
    Unknown,
    /// The source is not the address of the daemon that it names.
    Source,
    /// It needs `DangerousMonitor`.
    Dangerous,
    /// Its body is too short for the configured daemons.
    Body,
    /// A value is out of range.
    Value,
    /// The reply would go to another host than the request came from.
    Reflected,
    /// Reloads by the monitor are switched off.
    Reload,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Hash,
        Self::Unknown,
        Self::Source,
        Self::Dangerous,
        Self::Body,
        Self::Value,
        Self::Reflected,
        Self::Reload,
    ];

    /// The name of the counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Hash => "hash",
            Self::Unknown => "unknown",
            Self::Source => "source",
            Self::Dangerous => "dangerous",
            Self::Body => "body",
            Self::Value => "value",
            Self::Reflected => "reflected",
            Self::Reload => "reload",
        }
    }

    /// For the log.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Malformed => "it is no packet of the monitor protocol",
            Self::Hash => "it has the hash of another configuration: the file of the monitor differs",
            Self::Unknown => "it names a daemon that is not configured",
            Self::Source => "its source is not the address of the daemon it names",
            Self::Dangerous => "the configuration does not say `DangerousMonitor = true`",
            Self::Body => "it is too short for the configured daemons",
            Self::Value => "a value is out of range",
            Self::Reflected => "the reply would go to another host",
            Self::Reload => "this daemon does not let the monitor reload it",
        }
    }
}

/// What came by the monitor protocol, since the start.
#[derive(Debug, Default)]
pub struct MonitorStats {
    accepted: [AtomicU64; Command::ALL.len()],
    refused: [AtomicU64; Refused::ALL.len()],
}

impl MonitorStats {
    pub(crate) fn accept(&self, command: Command) {
        self.accepted[command as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refuse(&self, reason: Refused) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests of this kind that were acted on.
    pub fn accepted(&self, command: Command) -> u64 {
        self.accepted[command as usize].load(Ordering::Relaxed)
    }

    /// Requests that were dropped for this reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// All datagrams that came, whatever they were.
    pub fn packets(&self) -> u64 {
        self.accepted.iter().chain(&self.refused).map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}
