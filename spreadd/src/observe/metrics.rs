//! The metrics as Prometheus text (exposition format 0.0.4).
//!
//! Every family exists from the start. Labels have few, known values: no names of clients or groups, so that
//! the number of time series does not depend on what clients do.

use std::fmt::{Display, Write};
use std::time::Duration;

use spread_ring::{Cause, Histogram, NodeId, Stats};

use super::probe::Look;
use crate::event_log;
use crate::monitor::Refused;
use crate::monitor::packet::Command as MonitorCommand;
use crate::ring_driver::{DropReason, IoStats};

/// Buckets of histograms: powers of two of a nanosecond from 16 µs to 17 s; what is shorter counts in the first.
const BUCKET_FIRST: Duration = Duration::from_nanos(1 << 14);
const BUCKET_LAST: Duration = Duration::from_nanos(1 << 34);

/// Content type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All counters of the engine with their names.
pub(super) fn ring_counters(stats: &Stats) -> Vec<(&'static str, u64)> {
    let Stats { drops, .. } = stats;
    vec![
        ("token_visits", stats.visits),
        ("messages_submitted", stats.submitted),
        ("submissions_refused_full", stats.submit_full),
        ("messages_delivered", stats.delivered),
        ("message_bytes_delivered", stats.delivered_bytes),
        ("data_packets_sent", stats.data_sent),
        ("data_bytes_sent", stats.data_sent_bytes),
        ("data_packets_received", stats.data_received),
        ("data_bytes_received", stats.data_received_bytes),
        ("data_duplicates", stats.data_duplicates),
        ("retransmissions_sent", stats.answered),
        ("retransmissions_requested", stats.requested.iter().sum()),
        ("retransmissions_requested_again", stats.requested.iter().skip(1).sum()),
        ("packets_repaired", stats.repaired),
        ("tokens_resent", stats.token_resent),
        ("token_duplicates", stats.token_duplicates),
        ("tokens_lost", stats.token_lost),
        ("token_parked", stats.parked),
        ("token_jumps", stats.jumps),
        ("token_requests_sent", stats.wakes),
        ("acks_sent", stats.acks_sent),
        ("acks_received", stats.acks_received),
        ("joins_sent", stats.joins_sent),
        ("joins_received", stats.joins_received),
        ("presences_sent", stats.presences_sent),
        ("presences_received", stats.presences_received),
        ("formings_aborted_commit", stats.aborts_commit),
        ("formings_aborted_recovery", stats.aborts_recovery),
        ("commit_tokens_made", stats.commits),
        ("commit_tokens_refused", stats.rejects),
        ("members_blamed", stats.blames),
        ("members_penalized", stats.penalties),
        ("stalls", stats.stalls),
        ("configurations_installed", stats.installs),
        ("dropped_sender", drops.sender),
        ("dropped_hash", drops.hash),
        ("dropped_session", drops.session),
        ("dropped_decode", drops.decode),
        ("dropped_ring", drops.ring),
        ("dropped_frozen", drops.frozen),
        ("dropped_store_full", drops.store_full),
        ("dropped_join", drops.join),
        ("dropped_facts", drops.facts),
        ("dropped_chunk", drops.chunk),
        ("dropped_control_len", drops.control_len),
    ]
}

/// All counters of the driver with their names.
pub(super) fn io_counters(io: &IoStats) -> Vec<(&'static str, u64)> {
    vec![
        ("packets_sent", io.packets_sent),
        ("bytes_sent", io.bytes_sent),
        ("send_calls", io.send_calls),
        ("offload_sends", io.offload_sends),
        ("offload_packets", io.offload_packets),
        ("offload_refused", io.offload_refused),
        ("send_blocked", io.send_blocked),
        ("send_abandoned", io.send_abandoned),
        ("send_refused_late", io.send_refused_late),
        ("send_errors", io.send_errors),
        ("packets_received", io.packets_received),
        ("bytes_received", io.bytes_received),
        ("receive_calls", io.receive_calls),
        ("coalesced_receives", io.coalesced_receives),
        ("coalesced_packets", io.coalesced_packets),
        ("receive_errors", io.receive_errors),
        ("socket_drops", io.socket_drops),
        ("buffers_allocated", io.slabs_allocated),
        ("wakeups", io.wakeups),
        ("pauses", io.pauses),
        ("submissions", io.submissions),
        ("submissions_refused", io.submissions_refused),
        ("submit_full", io.submit_full),
        ("deliveries", io.deliveries),
    ]
}

/// All metrics.
pub(super) fn render(look: &Look) -> String {
    let mut out = Text(String::with_capacity(32 << 10));
    daemon(&mut out, look);
    ring(&mut out, look);
    links(&mut out, look);
    sessions(&mut out, look);
    groups(&mut out, look);
    monitor(&mut out, look);
    out.0
}

fn daemon(out: &mut Text, look: &Look) {
    out.family("spreadd_info", "gauge", "Always 1; the labels say who this is.");
    let name = escape(&look.identity.name.to_string());
    let labels = format!("name=\"{name}\",version=\"{}\"", env!("CARGO_PKG_VERSION"));
    out.sample("spreadd_info", &labels, 1);
    let started = look.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    out.one("spreadd_start_time_seconds", "gauge", "Start of the daemon since 1970.", started.as_secs_f64());
    out.family("spreadd_log_events_total", "counter", "Lines of the event log by level.");
    for (level, count) in event_log::counts() {
        out.sample("spreadd_log_events_total", &format!("level=\"{level}\""), count);
    }
}

fn ring(out: &mut Text, look: &Look) {
    let (outlook, stats) = (&look.ring.outlook, &look.ring.ring);
    let number = |value: bool| u8::from(value);
    out.one(
        "spreadd_ring_operational",
        "gauge",
        "1 in operation, 0 while the ring re-forms.",
        number(outlook.operational),
    );
    out.one("spreadd_ring_members", "gauge", "Daemons in the ring.", outlook.members.len());
    out.one(
        "spreadd_ring_daemons_configured",
        "gauge",
        "Daemons in the configuration.",
        look.hub.names.len(),
    );
    out.one("spreadd_ring_daemons_heard", "gauge", "Other daemons that are heard.", outlook.heard.len());
    out.one(
        "spreadd_ring_broken_links",
        "gauge",
        "Links between daemons that do not work.",
        look.ring.broken_links.len(),
    );
    let formed =
        look.ring.changes.last().and_then(|change| change.at.duration_since(std::time::UNIX_EPOCH).ok());
    let formed = formed.unwrap_or_default().as_secs_f64();
    out.one(
        "spreadd_ring_formed_time_seconds",
        "gauge",
        "Installation of the configuration since 1970.",
        formed,
    );
    out.one("spreadd_ring_epoch", "gauge", "Epoch of the configuration.", outlook.id.epoch);
    out.one("spreadd_ring_window_packets", "gauge", "Packets of all members in one rotation.", stats.window);
    out.one("spreadd_ring_credit_packets", "gauge", "Free packets of the slowest member.", stats.credit);
    out.one("spreadd_ring_backlog_packets", "gauge", "Packets that wait at all members.", stats.backlog);
    let missing = stats.seq.saturating_sub(stats.my_aru);
    out.one(
        "spreadd_ring_missing_packets",
        "gauge",
        "Packets given out by the token and not received here.",
        missing,
    );
    let lag = stats.my_aru.saturating_sub(stats.safe);
    out.one(
        "spreadd_ring_aru_lag_packets",
        "gauge",
        "Packets received here and not known to be received by all.",
        lag,
    );
    let changes = "spreadd_ring_membership_changes_total";
    out.family(changes, "counter", "Membership changes begun, by cause.");
    for cause in Cause::ALL {
        out.sample(changes, &format!("cause=\"{}\"", cause.name()), stats.gathers[cause as usize]);
    }
    out.histogram(
        "spreadd_ring_rotation_seconds",
        "Time between two visits of the token in a busy ring.",
        &stats.rotation,
    );
    out.histogram(
        "spreadd_ring_forming_seconds",
        "Time from the start of a membership change to its installation.",
        &stats.forming,
    );
    out.histogram(
        "spreadd_ring_agreed_latency_seconds",
        "Submission to delivery of messages that are not SAFE (samples).",
        &stats.latency_agreed,
    );
    out.histogram(
        "spreadd_ring_safe_latency_seconds",
        "Submission to delivery of SAFE messages (samples).",
        &stats.latency_safe,
    );
    for (name, value) in ring_counters(stats).into_iter().filter(|(name, _)| !name.starts_with("dropped_")) {
        out.one(&format!("spreadd_ring_{name}_total"), "counter", "See docs/reference/metrics.md.", value);
    }
    let dropped = "spreadd_ring_packets_dropped_total";
    out.family(dropped, "counter", "Packets that the engine did not use, by reason.");
    for (name, value) in ring_counters(stats) {
        if let Some(reason) = name.strip_prefix("dropped_") {
            out.sample(dropped, &format!("reason=\"{reason}\""), value);
        }
    }
}

/// Name, help and value for a node.
type Family<'a> = (&'static str, &'static str, &'a dyn Fn(usize) -> u64);

fn links(out: &mut Text, look: &Look) {
    let name =
        |node: usize| look.hub.names.get(node).map_or_else(String::new, |name| escape(&name.to_string()));
    let others = || (0..look.hub.names.len()).filter(|node| *node != usize::from(look.identity.me));
    let families: [Family<'_>; 3] = [
        ("spreadd_peer_member", "1 if the daemon is in the ring.", &|node| {
            u64::from(look.ring.outlook.members.iter().any(|mid| mid.node.index() == node))
        }),
        (
            "spreadd_peer_packets_lost_total",
            "Packets of this daemon that were lost on their way here.",
            &|node| look.ring.ring.peers.get(node).map_or(0, |peer| peer.lost),
        ),
        (
            "spreadd_peer_packets_resent_total",
            "Packets sent again here because this daemon asked for them.",
            &|node| look.ring.ring.peers.get(node).map_or(0, |peer| peer.resent),
        ),
    ];
    for (family, help, value) in families {
        out.family(family, if family.ends_with("_total") { "counter" } else { "gauge" }, help);
        for node in others() {
            out.sample(family, &format!("peer=\"{}\"", name(node)), value(node));
        }
    }
    out.family("spreadd_peer_heard", "gauge", "1 if the daemon is heard.");
    for node in others() {
        let heard = u16::try_from(node).is_ok_and(|node| look.ring.outlook.heard.contains(NodeId(node)));
        out.sample("spreadd_peer_heard", &format!("peer=\"{}\"", name(node)), u8::from(heard));
    }
    for (name, value) in io_counters(&look.ring.io) {
        out.one(&format!("spreadd_net_{name}_total"), "counter", "See docs/reference/metrics.md.", value);
    }
    let dropped = "spreadd_net_packets_dropped_total";
    out.family(dropped, "counter", "Datagrams dropped before the engine saw them, by reason.");
    for reason in DropReason::ALL {
        out.sample(dropped, &format!("reason=\"{reason}\""), look.ring.io.dropped(reason));
    }
    let io = &look.ring.io;
    let failures = [DropReason::Key, DropReason::Tag, DropReason::Replay].map(|reason| io.dropped(reason));
    out.one(
        "spreadd_net_crypto_failures_total",
        "counter",
        "Datagrams with a wrong key or tag, or replayed.",
        failures.iter().sum::<u64>(),
    );
}

fn sessions(out: &mut Text, look: &Look) {
    out.one(
        "spreadd_sessions",
        "gauge",
        "Client sessions, those in authentication included.",
        look.sessions_live,
    );
    out.one("spreadd_sessions_max", "gauge", "Most sessions at once.", look.identity.sessions_max);
    out.one(
        "spreadd_sessions_slow",
        "gauge",
        "Sessions with more waiting messages than allowed.",
        look.hub.slow,
    );
    out.one(
        "spreadd_session_queued_messages",
        "gauge",
        "Messages that wait for all clients.",
        look.hub.queued_messages,
    );
    out.one(
        "spreadd_session_queued_bytes",
        "gauge",
        "Bytes that wait for all clients.",
        look.hub.queued_bytes,
    );
    out.one(
        "spreadd_session_queued_messages_longest",
        "gauge",
        "Messages that wait for the slowest client.",
        look.hub.queued_messages_max,
    );
    out.one(
        "spreadd_session_messages_max",
        "gauge",
        "Messages that may wait for one client.",
        look.identity.session_messages_max,
    );
    out.one(
        "spreadd_requests_waiting",
        "gauge",
        "Requests that wait for the ring.",
        look.hub.requests_waiting,
    );
    out.one(
        "spreadd_request_bytes_waiting",
        "gauge",
        "Bytes of requests that wait for the ring.",
        look.hub.request_bytes_waiting,
    );
    for (name, value) in look.counters.iter() {
        let name = name.strip_suffix("_total").unwrap_or(name);
        out.one(
            &format!("spreadd_session_{name}_total"),
            "counter",
            "See docs/reference/spreadd.md, counters.",
            value,
        );
    }
}

fn groups(out: &mut Text, look: &Look) {
    let stats = &look.hub.groups_stats;
    out.one("spreadd_groups", "gauge", "Groups with at least one member.", look.hub.groups_len);
    out.one("spreadd_group_memberships", "gauge", "Pairs of session and group.", look.hub.memberships_len);
    out.one(
        "spreadd_groups_synced",
        "gauge",
        "1 if all daemons of the ring have the same group table.",
        u8::from(look.hub.synced),
    );
    for (name, value) in [
        ("requests", stats.requests),
        ("data_messages", stats.data_messages),
        ("data_messages_delivered", stats.data_messages_delivered),
        ("notifications", stats.notifications),
        ("joins_rejected", stats.joins_rejected),
        ("stale_requests", stats.stale_requests),
        ("exchanges_begun", stats.exchanges_begun),
        ("exchanges_completed", stats.exchanges_completed),
        ("state_messages_sent", stats.state_messages_sent),
        ("state_messages_received", stats.state_messages_received),
        ("state_messages_stale", stats.state_messages_stale),
        ("malformed", stats.malformed),
    ] {
        out.one(&format!("spreadd_groups_{name}_total"), "counter", "See docs/reference/metrics.md.", value);
    }
}

fn monitor(out: &mut Text, look: &Look) {
    let stats = &look.monitor;
    out.one(
        "spreadd_monitor_packets_total",
        "counter",
        "Datagrams of the monitor protocol, refused ones included.",
        stats.packets(),
    );
    let requests = "spreadd_monitor_requests_total";
    out.family(requests, "counter", "Requests of monitors that were acted on, by command.");
    for command in MonitorCommand::ALL {
        out.sample(requests, &format!("command=\"{}\"", command.name()), stats.accepted(command));
    }
    let refused = "spreadd_monitor_refused_total";
    out.family(refused, "counter", "Requests of monitors that were dropped, by reason.");
    for reason in Refused::ALL {
        out.sample(refused, &format!("reason=\"{}\"", reason.name()), stats.refused(reason));
    }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// A family without labels.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let mut sum = 0;
        for (bound, count) in histogram.buckets() {
            sum += count;
            if (BUCKET_FIRST..=BUCKET_LAST).contains(&bound) {
                self.sample(&format!("{name}_bucket"), &format!("le=\"{}\"", bound.as_secs_f64()), sum);
            }
        }
        self.sample(&format!("{name}_bucket"), "le=\"+Inf\"", histogram.count());
        self.sample(&format!("{name}_sum"), "", histogram.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), "", histogram.count());
    }
}

/// A label value. spec: Prometheus exposition format 0.0.4.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_end_with_everything() {
        let mut out = Text(String::new());
        out.histogram("x_seconds", "X.", &Histogram::default());
        let lines: Vec<&str> = out.0.lines().collect();
        assert_eq!(lines[..2], ["# HELP x_seconds X.", "# TYPE x_seconds histogram"]);
        assert_eq!(lines[2], "x_seconds_bucket{le=\"0.000016384\"} 0");
        assert_eq!(lines.len(), 2 + 21 + 3);
        assert_eq!(lines[lines.len() - 3], "x_seconds_bucket{le=\"+Inf\"} 0");
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
