//! Counters of the driver. All exist from the start with 0.

use std::fmt;

/// Why a datagram was dropped before the engine saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum DropReason {
    /// Longer than a receive buffer.
    Truncated,
    /// Too short for a header and its protection.
    Short,
    /// No packet of the ring protocol.
    Magic,
    /// Another version.
    Version,
    /// Another configuration.
    Hash,
    /// From an address that is not in the configuration.
    Source,
    /// The sender named in the packet has another address.
    Sender,
    /// This daemon's own multicast.
    Own,
    /// From a session that is unknown or over.
    Session,
    /// Too many new sessions.
    SessionRate,
    /// From a session that does not hear this daemon yet.
    NotUsable,
    /// No such key, or protected in another way than configured.
    Key,
    /// The authentication tag is wrong.
    Tag,
    /// The checksum is wrong.
    Checksum,
    /// The counter was seen before, or is too old.
    Replay,
    /// From a daemon that a monitor keeps apart from this one.
    Partition,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 16] = [
        Self::Truncated,
        Self::Short,
        Self::Magic,
        Self::Version,
        Self::Hash,
        Self::Source,
        Self::Sender,
        Self::Own,
        Self::Session,
        Self::SessionRate,
        Self::NotUsable,
        Self::Key,
        Self::Tag,
        Self::Checksum,
        Self::Replay,
        Self::Partition,
    ];

    /// The name of the counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Short => "short",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Hash => "hash",
            Self::Source => "source",
            Self::Sender => "sender",
            Self::Own => "own",
            Self::Session => "session",
            Self::SessionRate => "session_rate",
            Self::NotUsable => "not_usable",
            Self::Key => "key",
            Self::Tag => "tag",
            Self::Checksum => "checksum",
            Self::Replay => "replay",
            Self::Partition => "partition",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the driver counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Datagrams sent.
    pub packets_sent: u64,
    /// Bytes of these, without IP and UDP headers.
    pub bytes_sent: u64,
    /// Calls of `sendmmsg`.
    pub send_calls: u64,
    /// Sends that the kernel cut into several datagrams.
    pub offload_sends: u64,
    /// Datagrams of these.
    pub offload_packets: u64,
    /// Times that the kernel or a device refused to cut; single datagrams for a minute after each.
    pub offload_refused: u64,
    /// Times that a socket or the kernel had no room and the driver waited.
    pub send_blocked: u64,
    /// Packets given up after waiting too long for room.
    pub send_abandoned: u64,
    /// Late ICMP refusals of earlier packets.
    pub send_refused_late: u64,
    /// Sends that failed; each is like a lost packet.
    pub send_errors: u64,
    /// Error code of the last one.
    pub send_error_last: i32,
    /// Datagrams received.
    pub packets_received: u64,
    /// Bytes of these, without IP and UDP headers.
    pub bytes_received: u64,
    /// Calls of `recvmmsg` that gave something.
    pub receive_calls: u64,
    /// Receives that held several datagrams.
    pub coalesced_receives: u64,
    /// Datagrams of these.
    pub coalesced_packets: u64,
    /// Receives that failed.
    pub receive_errors: u64,
    /// Datagrams that the kernel dropped because a receive buffer was full.
    pub socket_drops: u64,
    /// Datagrams dropped, by [`DropReason`].
    pub drops: [u64; DropReason::ALL.len()],
    /// Receive buffers allocated.
    pub slabs_allocated: u64,
    /// Times that the driver looked for work.
    pub wakeups: u64,
    /// Times that this thread did not run for more than a quarter of the token timeout.
    pub pauses: u64,
    /// Messages taken from the layer above.
    pub submissions: u64,
    /// Messages refused by the engine as too large.
    pub submissions_refused: u64,
    /// Times that the layer above was held up by a full queue.
    pub submit_full: u64,
    /// Messages given to the layer above.
    pub deliveries: u64,
}

impl IoStats {
    /// Counts a dropped datagram.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Datagrams dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut stats = IoStats::default();
        for reason in DropReason::ALL {
            stats.drop(reason);
        }
        assert_eq!(stats.drops, [1; DropReason::ALL.len()]);
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
