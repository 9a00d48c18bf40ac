//! From what the daemon knows of itself to the status of the monitor protocol.

use std::time::Duration;

use spread_ring::{Condition, Membership, Stats};

use super::answer::Cluster;
use super::packet::Status;

/// The version that is told: that of the protocols, whose first number monitors compare.
const VERSION: (i16, i16, i16) = (5, 0, 1);

/// What the status is made of.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) uptime: Duration,
    pub(crate) condition: Condition,
    pub(crate) ring: Stats,
    /// A transitional configuration was delivered and no regular one yet.
    pub(crate) transitional: bool,
    /// The daemons of the configuration have the same group tables.
    pub(crate) synced: bool,
    pub(crate) messages_delivered: u64,
    pub(crate) sessions: usize,
    pub(crate) groups: usize,
}

/// spec: monitor-protocol 5
pub(crate) fn status(facts: &Facts, cluster: &Cluster) -> Status {
    let Facts { condition, ring, .. } = facts;
    let members: Vec<_> = condition.members.iter().filter_map(|node| cluster.entry(node.0)).collect();
    let mut segments: Vec<u16> = members.iter().map(|entry| entry.segment).collect();
    segments.dedup();
    // The engine begins with a ring of its own, which nobody sees, and forms the first one from it.
    let formed = ring.installs > 1;
    let personal = condition.personal.min(condition.window);
    Status {
        sec: low(facts.uptime.as_secs()),
        state: match condition.state {
            Membership::Operational if formed => 1,
            Membership::Operational | Membership::Gather => 4,
            Membership::Commit => 5,
            Membership::Recovery => 6,
        },
        gstate: match (facts.transitional, facts.synced) {
            (false, true) => 1,
            (true, true) => 2,
            (false, false) => 3,
            (true, false) => 4,
        },
        packet_sent: low(ring.data_sent),
        packet_recv: low(ring.data_received),
        packet_delivered: low(ring.delivered),
        retrans: low(ring.answered),
        u_retrans: 0,
        s_retrans: 0,
        // A repair goes to all members: others may miss the packet too.
        b_retrans: low(ring.answered),
        aru: low(condition.safe),
        my_aru: low(condition.aru),
        highest_seq: low(condition.high),
        token_hurry: low(ring.token_resent + ring.token_duplicates),
        token_rounds: low(condition.rotations),
        my_id: cluster.me().map_or(0, |entry| entry.id),
        leader_id: members.first().filter(|_| formed).map_or(0, |entry| entry.id),
        message_delivered: low(facts.messages_delivered),
        membership_changes: small(ring.installs.saturating_sub(1)),
        num_procs: if formed { small(members.len()) } else { 0 },
        num_segments: if formed { small(segments.len()) } else { 0 },
        window: small(condition.window),
        personal_window: small(personal),
        accelerated_ring: i16::from(cluster.accelerated),
        accelerated_window: small(condition.accelerated.unwrap_or(personal)),
        num_sessions: small(facts.sessions),
        num_groups: small(facts.groups),
        major_version: VERSION.0,
        minor_version: VERSION.1,
        patch_version: VERSION.2,
    }
}

/// Counters of 32 bits wrap.
fn low(n: u64) -> i32 {
    let [a, b, c, d, ..] = n.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn small(n: impl TryInto<i16>) -> i16 {
    n.try_into().unwrap_or(i16::MAX)
}
