//! `spreadd status` for people.

use std::fmt::Write;
use std::time::Duration;

use super::snapshot::Snapshot;

/// Rows of sessions and groups that are shown unless all are asked for.
const ROWS: usize = 20;

/// The status as a text of several tables. `all`: every session and group, not the first 20.
pub fn render(status: &Snapshot, all: bool) -> String {
    let mut out = String::new();
    head(&mut out, status);
    daemons(&mut out, status);
    changes(&mut out, status);
    rotation(&mut out, status);
    sessions(&mut out, status, all);
    groups(&mut out, status, all);
    out
}

fn line(out: &mut String, what: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{what:<15} {value}");
}

fn head(out: &mut String, status: &Snapshot) {
    let Snapshot { ring, .. } = status;
    line(out, "daemon", format_args!("{}, version {}, pid {}", status.name, status.version, status.pid));
    line(out, "running for", duration(status.uptime_seconds));
    let mut places = status.tcp.clone();
    places.extend(status.local_socket.clone());
    line(out, "clients at", places.join(", "));
    let hash = status.configuration_hash.as_deref().map(|hash| hash.get(..8).unwrap_or(hash));
    match hash {
        Some(hash) => {
            let traffic = if status.encrypted { "encrypted" } else { "in clear" };
            line(
                out,
                "configuration",
                format_args!("{} daemons, hash {hash}, traffic {traffic}", status.daemons.len()),
            );
        }
        None => line(out, "configuration", "one daemon, no network between daemons"),
    }
    line(
        out,
        "ring",
        format_args!(
            "{}, {} of {} daemons, this one is number {}, formed {} ago",
            ring.state,
            ring.members.len(),
            status.daemons.len(),
            ring.place,
            duration(ring.formed_seconds_ago)
        ),
    );
    line(out, "", ring.id.as_str());
    line(
        out,
        "flow",
        format_args!(
            "window {}, missing {}, not yet safe {}, backlog {}",
            ring.window, ring.missing, ring.safe_lag, ring.backlog
        ),
    );
    for link in &status.broken_links {
        line(out, "BROKEN LINK", format_args!("what {} sends does not reach {}", link.from, link.to));
    }
}

fn daemons(out: &mut String, status: &Snapshot) {
    if status.daemons.len() < 2 {
        return;
    }
    let _ =
        writeln!(out, "\n{:<20} {:<24} {:<8} {:>12} {:>12}", "DAEMON", "ADDRESS", "STATE", "LOST", "RESENT");
    for row in &status.daemons {
        let _ = writeln!(
            out,
            "{:<20} {:<24} {:<8} {:>12} {:>12}",
            row.name, row.address, row.state, row.lost, row.resent
        );
    }
}

fn changes(out: &mut String, status: &Snapshot) {
    let _ = writeln!(out, "\n{:<14} {:<18} {:>10}  MEMBERSHIP CHANGE", "AGO", "CAUSE", "TOOK");
    for row in status.changes.iter().rev().take(5) {
        let mut what =
            format!("{} daemon{}", row.members.len(), if row.members.len() == 1 { "" } else { "s" });
        for (sign, names) in [("+", &row.joined), ("-", &row.lost)] {
            for name in names {
                let _ = write!(what, " {sign}{name}");
            }
        }
        let _ = writeln!(
            out,
            "{:<14} {:<18} {:>10}  {what}",
            duration(row.seconds_ago),
            row.cause,
            short(row.forming_seconds)
        );
    }
}

fn rotation(out: &mut String, status: &Snapshot) {
    let rotation = &status.ring.rotation;
    if rotation.count == 0 {
        return;
    }
    let _ = writeln!(
        out,
        "\nTOKEN ROTATION  {} busy rotations, mean {}, median {}, 99 % {}, longest {}",
        rotation.count,
        short(rotation.mean_seconds),
        short(rotation.median_seconds),
        short(rotation.p99_seconds),
        short(rotation.max_seconds)
    );
    let most = rotation.buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (bound, count) in &rotation.buckets {
        let width = usize::try_from(count * 40 / most).unwrap_or(40);
        let _ = writeln!(out, "  up to {:>10} {count:>12} {}", short(*bound), "#".repeat(width));
    }
}

fn sessions(out: &mut String, status: &Snapshot, all: bool) {
    let sessions = &status.sessions;
    let _ = writeln!(
        out,
        "\nSESSIONS {} of at most {}, {} slow, {} messages ({} bytes) wait; one may have {}",
        sessions.live,
        sessions.max,
        sessions.slow,
        sessions.queued_messages,
        sessions.queued_bytes,
        sessions.messages_max
    );
    if sessions.list.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "{:<32} {:<24} {:>10} {:>9} {:>11} {:>12}  STATE",
        "CLIENT", "ADDRESS", "CONNECTED", "QUEUED", "BYTES", "WRITTEN"
    );
    let rows = if all { sessions.list.len() } else { ROWS };
    for row in sessions.list.iter().take(rows) {
        let _ = writeln!(
            out,
            "{:<32} {:<24} {:>10} {:>9} {:>11} {:>12}  {}",
            row.name,
            row.address,
            duration(row.connected_seconds),
            row.queued_messages,
            row.queued_bytes,
            row.written_messages,
            row.state
        );
    }
    rest(out, sessions.list.len(), rows);
}

fn groups(out: &mut String, status: &Snapshot, all: bool) {
    let groups = &status.groups;
    let synced = if groups.synced { "" } else { ", tables are being exchanged" };
    let _ = writeln!(out, "\nGROUPS {}, {} memberships{synced}", groups.count, groups.memberships);
    let rows = if all { groups.list.len() } else { ROWS };
    for row in groups.list.iter().take(rows) {
        let _ = writeln!(
            out,
            "{:<32} {:>8} member{}",
            row.name,
            row.members,
            if row.members == 1 { "" } else { "s" }
        );
    }
    rest(out, groups.list.len(), rows);
}

fn rest(out: &mut String, len: usize, shown: usize) {
    if len > shown {
        let _ = writeln!(out, "... and {} more; --all shows them", len - shown);
    }
}

/// `3d 4h`, `5m 6s`, `2.1s`.
fn duration(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds:.1}s"),
        (0, 0, _) => format!("{minutes}m {}s", whole % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// With a fitting unit.
fn short(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1e-3 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{:.0} us", seconds * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in
            [(0.04, "0.0s"), (59.94, "59.9s"), (61.0, "1m 1s"), (7_260.0, "2h 1m"), (273_600.0, "3d 4h")]
        {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!([short(0.000_016_384), short(0.004_19), short(2.5)], ["16 us", "4.19 ms", "2.50 s"]);
    }
}
