//! What the hub tells people about its sessions and groups.

use std::time::Instant;

use spread_wire::{DaemonName, GroupName, PrivateGroup};

use super::Hub;
use crate::session::Peer;

/// A session as people see it.
#[derive(Clone, Debug)]
pub(crate) struct SessionView {
    pub(crate) private: PrivateGroup,
    pub(crate) peer: Option<Peer>,
    pub(crate) since: Instant,
    pub(crate) membership: bool,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) written_messages: u64,
    /// Its socket took no more at the last try.
    pub(crate) blocked: bool,
    /// It has more messages waiting than it may keep.
    pub(crate) slow: bool,
    /// Its removal is ordered.
    pub(crate) ending: bool,
}

/// The state of the layer above the ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct HubReport {
    /// Names of the configured daemons, by node number.
    pub(crate) names: Vec<DaemonName>,
    /// The sessions with the longest queues first, as many as were asked for.
    pub(crate) sessions: Vec<SessionView>,
    pub(crate) sessions_len: usize,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) queued_messages_max: usize,
    pub(crate) slow: usize,
    /// The largest groups first, as many as were asked for.
    pub(crate) groups: Vec<(GroupName, usize)>,
    pub(crate) groups_len: usize,
    pub(crate) memberships_len: usize,
    /// Whether all daemons of the ring have the same group table.
    pub(crate) synced: bool,
    /// Requests that wait for the ring.
    pub(crate) requests_waiting: usize,
    pub(crate) request_bytes_waiting: usize,
    pub(crate) groups_stats: spread_groups::Stats,
}

impl Hub {
    /// The state now, with at most so many sessions and groups one by one.
    pub(crate) fn report(&self, sessions_max: usize, groups_max: usize) -> HubReport {
        let (requests_waiting, request_bytes_waiting) = self.groups.waiting();
        let mut report = HubReport {
            names: self.live.names().to_vec(),
            groups: if groups_max > 0 { self.groups.largest(groups_max) } else { Vec::new() },
            groups_len: self.groups.groups_len(),
            memberships_len: self.groups.memberships_len(),
            synced: self.groups.is_synced(),
            requests_waiting,
            request_bytes_waiting,
            groups_stats: *self.groups.stats(),
            ..HubReport::default()
        };
        for session in self.sessions.iter().flatten() {
            let load = session.outbox.load();
            report.sessions_len += 1;
            report.queued_messages += load.frames;
            report.queued_bytes += load.bytes;
            report.queued_messages_max = report.queued_messages_max.max(load.frames);
            report.slow += usize::from(session.over.is_some());
            if sessions_max == 0 {
                continue;
            }
            report.sessions.push(SessionView {
                private: session.client.private,
                peer: session.seat.peer,
                since: session.seat.since,
                membership: session.membership,
                queued_messages: load.frames,
                queued_bytes: load.bytes,
                written_messages: session.outbox.written_total().0,
                blocked: session.outbox.is_blocked(),
                slow: session.over.is_some(),
                ending: session.dying,
            });
        }
        report.sessions.sort_by(|a, b| {
            b.queued_messages
                .cmp(&a.queued_messages)
                .then_with(|| a.private.as_group().cmp(&b.private.as_group()))
        });
        report.sessions.truncate(sessions_max);
        report
    }
}
