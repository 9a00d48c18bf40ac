//! How a status looks: a table, a block of the dialogue, JSON.

use std::fmt::Write as _;

use super::link::{Link, Peer};
use crate::monitor::packet::Status;

/// What a daemon answered.
pub(super) struct Answer {
    pub(super) peer: usize,
    pub(super) status: Option<Status>,
    /// Why there is no status.
    pub(super) why: String,
}

/// A line for each daemon.
pub(super) fn table(link: &Link, answers: &[Answer]) -> String {
    let head = [
        "DAEMON", "ADDRESS", "STATE", "UP", "DAEMONS", "SESSIONS", "GROUPS", "SENT", "RECEIVED", "RESENT",
        "WINDOW", "VERSION",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).into()];
    let mut silent = String::new();
    for answer in answers {
        let Some(peer) = link.peers.get(answer.peer) else { continue };
        let mut row = vec![peer.name.clone(), peer.addr.to_string()];
        match &answer.status {
            Some(status) => row.extend(cells(link, status)),
            None => {
                row.push("silent".to_owned());
                let _ = writeln!(silent, "{}: {}", peer.name, answer.why);
            }
        }
        rows.push(row);
    }
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if !silent.is_empty() {
        out.push('\n');
        out.push_str(&silent);
    }
    out
}

fn cells(link: &Link, status: &Status) -> Vec<String> {
    let leader = name_of(link, status.leader_id);
    vec![
        format!("{}/{}", status.state_name(), status.gstate_name()),
        uptime(status.sec),
        format!("{} of {} ({leader})", status.num_procs, link.peers.len()),
        status.num_sessions.to_string(),
        status.num_groups.to_string(),
        status.packet_sent.to_string(),
        status.packet_recv.to_string(),
        status.retrans.to_string(),
        format!("{}/{}/{}", status.window, status.personal_window, status.accelerated_window),
        version(status),
    ]
}

fn version(status: &Status) -> String {
    format!("{}.{}.{}", status.major_version, status.minor_version, status.patch_version)
}

fn name_of(link: &Link, id: u32) -> String {
    let peer = link.peers.iter().find(|peer| peer.id == id);
    peer.map_or_else(|| if id == 0 { "none".to_owned() } else { id.to_string() }, |peer| peer.name.clone())
}

fn uptime(seconds: i32) -> String {
    let (days, hours, minutes, seconds) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    if days > 0 { format!("{days}d{hours:02}h") } else { format!("{hours:02}:{minutes:02}:{seconds:02}") }
}

/// For programs: fields are only ever added.
pub(super) fn json(link: &Link, answers: &[Answer]) -> serde_json::Value {
    let daemon = |answer: &Answer| {
        let peer = link.peers.get(answer.peer)?;
        let fields = answer.status.as_ref().map(|status| {
            let fields = status.fields().map(|(name, value)| (name.to_owned(), value.into()));
            serde_json::Value::Object(fields.collect())
        });
        Some(serde_json::json!({
            "name": peer.name,
            "id": peer.id,
            "address": peer.addr.to_string(),
            "answered": answer.status.is_some(),
            "reason": if answer.status.is_none() { Some(&answer.why) } else { None },
            "leader": answer.status.as_ref().map(|status| name_of(link, status.leader_id)),
            "status": fields,
        }))
    };
    serde_json::json!({
        "configuration_hash": link.hash,
        "daemons": answers.iter().filter_map(daemon).collect::<Vec<_>>(),
    })
}

fn n(value: impl Into<i64>) -> i64 {
    value.into()
}

/// A block of the dialogue, in the order of the original; `before` is the block received last, of any daemon.
pub(super) fn block(link: &Link, peer: &Peer, status: &Status, before: Option<&Status>) -> String {
    let accelerated = if status.accelerated_ring != 0 { "Accelerated Ring" } else { "Original Ring" };
    let zero = Status::default();
    let before = before.unwrap_or(&zero);
    let mut out = String::new();
    let _ = writeln!(out, "\n============================");
    let _ = writeln!(
        out,
        "Status at {} V {} (state {}, gstate {}) after {} seconds :",
        peer.name,
        version(status),
        status.state,
        status.gstate,
        status.sec
    );
    let _ = writeln!(
        out,
        "Membership  :  {} procs in {} segments, leader is {}, protocol: {accelerated}",
        status.num_procs,
        status.num_segments,
        name_of(link, status.leader_id),
    );
    let row = |out: &mut String, cells: [(&str, i64); 3]| {
        let cells = cells.map(|(name, value)| format!("{name:<11} : {value:>9}"));
        let _ = writeln!(out, "{}", cells.join("   "));
    };
    row(
        &mut out,
        [
            ("rounds", n(status.token_rounds)),
            ("tok_hurry", n(status.token_hurry)),
            ("memb change", n(status.membership_changes)),
        ],
    );
    row(
        &mut out,
        [
            ("sent pack", n(status.packet_sent)),
            ("recv pack", n(status.packet_recv)),
            ("retrans", n(status.retrans)),
        ],
    );
    row(
        &mut out,
        [
            ("u retrans", n(status.u_retrans)),
            ("s retrans", n(status.s_retrans)),
            ("b retrans", n(status.b_retrans)),
        ],
    );
    row(
        &mut out,
        [("My_aru", n(status.my_aru)), ("Aru", n(status.aru)), ("Highest seq", n(status.highest_seq))],
    );
    row(
        &mut out,
        [
            ("Sessions", n(status.num_sessions)),
            ("Groups", n(status.num_groups)),
            ("Window", n(status.window)),
        ],
    );
    row(
        &mut out,
        [
            ("Deliver M", n(status.message_delivered)),
            ("Deliver Pk", n(status.packet_delivered)),
            ("P/A Window", n(status.personal_window)),
        ],
    );
    let _ = writeln!(out, "Accelerated window : {}", status.accelerated_window);
    row(
        &mut out,
        [
            ("Delta Mes", n(status.message_delivered.wrapping_sub(before.message_delivered))),
            ("Delta Pack", n(status.aru.wrapping_sub(before.aru))),
            ("Delta sec", n(status.sec.wrapping_sub(before.sec))),
        ],
    );
    let _ = writeln!(out, "==================================");
    out
}
