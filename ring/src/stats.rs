//! Counters and distributions. All exist from the start with 0.

use std::time::Duration;

use crate::types::Seq;

const BUCKETS: usize = 40;

/// Distribution of durations in powers of two of a nanosecond.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, d: Duration) {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let bucket = usize::try_from(u64::BITS - ns.leading_zeros()).unwrap_or(0).min(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all values.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The greatest value.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// Mean of all values, zero if there is none.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count).unwrap_or(0))
    }

    /// Upper bound of the bucket that holds the value below which `percent` of all values lie.
    pub fn percentile(&self, percent: u8) -> Duration {
        let rank = self.count.saturating_mul(percent.min(100).into()).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Duration::from_nanos(1 << bucket).min(self.max());
            }
        }
        Duration::ZERO
    }

    /// Upper bounds and counts of the buckets.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(bucket, count)| (Duration::from_nanos(1 << bucket), *count))
    }
}

/// What became of packets that were not used.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    /// Sender does not belong to the address, is this daemon, or is not configured.
    pub sender: u64,
    /// Another configuration.
    pub hash: u64,
    /// A session that is not the current one of its node, or not usable.
    pub session: u64,
    /// Malformed.
    pub decode: u64,
    /// Belongs to another ring, or to a state that does not take it.
    pub ring: u64,
    /// Packets of the old ring after what is held of it was reported.
    pub frozen: u64,
    /// Further ahead than the store reaches.
    pub store_full: u64,
    /// Joins without use: old, one-way, from failed or inadmissible daemons.
    pub join: u64,
    /// Statements of members that cannot be true: a fault of their engine or of this one.
    pub facts: u64,
    /// Chunks that do not continue a message.
    pub chunk: u64,
    /// Control packets longer than all their fragments may be.
    pub control_len: u64,
}

/// Why a membership change began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// The engine started.
    Start,
    /// T_token passed without a visit.
    TokenLoss,
    /// A join came.
    Join,
    /// Daemons outside can be merged with.
    Merge,
    /// A member restarted.
    Restart,
    /// A member left.
    Leave,
    /// A member does not receive.
    FailedToReceive,
    /// A former member is operational in a later ring.
    LeftBehind,
    /// The commit token was refused.
    Reject,
    /// The commit token did not fit this daemon's state.
    Abort,
    /// The daemons changed over to another configuration.
    Reload,
}

/// Number of [`Cause`]s.
pub const CAUSES: usize = 11;

impl Cause {
    /// All causes.
    pub const ALL: [Self; CAUSES] = [
        Self::Start,
        Self::TokenLoss,
        Self::Join,
        Self::Merge,
        Self::Restart,
        Self::Leave,
        Self::FailedToReceive,
        Self::LeftBehind,
        Self::Reject,
        Self::Abort,
        Self::Reload,
    ];

    /// As in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::TokenLoss => "token_loss",
            Self::Join => "join",
            Self::Merge => "merge",
            Self::Restart => "restart",
            Self::Leave => "leave",
            Self::FailedToReceive => "failed_to_receive",
            Self::LeftBehind => "left_behind",
            Self::Reject => "reject",
            Self::Abort => "abort",
            Self::Reload => "reload",
        }
    }
}

/// What was repaired between this daemon and another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Packets of this peer that were lost on their way here and came as a retransmission.
    pub lost: u64,
    /// Packets sent again here because this peer asked for them.
    pub resent: u64,
}

/// Counters of the engine (`ring-protocol` 6.4). Counters of sockets and seals are the driver's.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Time between two visits of a busy ring.
    pub rotation: Histogram,
    /// Time from a membership change's start to the installation.
    pub forming: Histogram,
    /// Time from submission to delivery here of messages that are not SAFE, one at a time.
    pub latency_agreed: Histogram,
    /// The same of SAFE messages.
    pub latency_safe: Histogram,
    /// Visits.
    pub visits: u64,
    /// Messages accepted by `submit`.
    pub submitted: u64,
    /// Messages refused by `submit` because the queue was full.
    pub submit_full: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Bytes of messages delivered.
    pub delivered_bytes: u64,
    /// New data packets of this daemon.
    pub data_sent: u64,
    /// Bytes of them, header included.
    pub data_sent_bytes: u64,
    /// Data packets received and not held before.
    pub data_received: u64,
    /// Bytes of them, without the header.
    pub data_received_bytes: u64,
    /// Data packets received and held before.
    pub data_duplicates: u64,
    /// Data packets sent again for others.
    pub answered: u64,
    /// Packets asked for, by the number of times they were asked for before (0, 1, 2, 3 and more).
    pub requested: [u64; 4],
    /// Missing packets that came as a retransmission.
    pub repaired: u64,
    /// Tokens sent again.
    pub token_resent: u64,
    /// Tokens received that were processed before.
    pub token_duplicates: u64,
    /// Times T_token fired.
    pub token_lost: u64,
    /// Times the token came to rest here.
    pub parked: u64,
    /// Times a resting token was sent to a member that asked.
    pub jumps: u64,
    /// Token requests sent.
    pub wakes: u64,
    /// Acks sent.
    pub acks_sent: u64,
    /// Acks received.
    pub acks_received: u64,
    /// Joins sent.
    pub joins_sent: u64,
    /// Joins received.
    pub joins_received: u64,
    /// Presences sent.
    pub presences_sent: u64,
    /// Presences received.
    pub presences_received: u64,
    /// Membership changes begun from normal operation, by cause ([`Cause::ALL`]).
    pub gathers: [u64; CAUSES],
    /// Forming attempts given up in the first pass of the commit token.
    pub aborts_commit: u64,
    /// Forming attempts given up in recovery.
    pub aborts_recovery: u64,
    /// Commit tokens made.
    pub commits: u64,
    /// Commit tokens refused.
    pub rejects: u64,
    /// Members failed because an agreement failed for the third time.
    pub blames: u64,
    /// Members kept outside for a while.
    pub penalties: u64,
    /// Times the driver left events unread for so long that the daemon left.
    pub stalls: u64,
    /// Regular configurations installed, the first one included.
    pub installs: u64,
    /// Why the last membership change began; `None` before the first one.
    pub last_cause: Option<Cause>,
    /// Time from the start of the last finished membership change to its installation.
    pub last_forming: Duration,
    /// Repairs by node number.
    pub peers: Vec<PeerStats>,
    /// What was thrown away.
    pub drops: Drops,
    /// Packet that the token gave out last, as far as known here.
    pub seq: Seq,
    /// Every packet up to here was received here.
    pub my_aru: Seq,
    /// aru of the token at the last visit.
    pub aru: Seq,
    /// Every packet up to here was received by all.
    pub safe: Seq,
    /// Packets of all members in one rotation.
    pub window: u16,
    /// Free packets of the slowest member in the last rotation.
    pub credit: u16,
    /// Packets that wait at all members.
    pub backlog: u32,
}
