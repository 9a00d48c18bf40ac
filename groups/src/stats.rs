//! Counters.

/// What the engine did since its start. All counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests taken from sessions.
    pub requests: u64,
    /// Data messages routed, with those that nobody here received.
    pub data_messages: u64,
    /// Data messages of which at least one session here got a copy.
    pub data_messages_delivered: u64,
    /// Membership messages, transitional signals, self-leaves and rejections, each counted once however many
    /// sessions got it.
    pub notifications: u64,
    /// Joins returned to their sender because of a limit.
    pub joins_rejected: u64,
    /// Requests that were ordered before the group tables were exchanged and not delivered: their daemon sends
    /// them again.
    pub stale_requests: u64,
    /// Exchanges of group tables that began.
    pub exchanges_begun: u64,
    /// Exchanges of group tables that came to their end.
    pub exchanges_completed: u64,
    /// State messages given to the ring.
    pub state_messages_sent: u64,
    /// State messages of the current configuration that were delivered.
    pub state_messages_received: u64,
    /// State messages of an earlier configuration that were dropped.
    pub state_messages_stale: u64,
    /// Messages of other daemons that were not understood, in whole or in part.
    pub malformed: u64,
}
