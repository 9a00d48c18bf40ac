//! The result of an audit for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::compare::{Comparison, Place};
use super::spans::Spans;
use super::{Audit, LISTED_MAX, SourceReport, reason_of};
use crate::index::{Block, Record};

/// Spans that a line of text lists.
const SHOWN_MAX: usize = 8;

/// The audit as text.
pub fn text(audit: &Audit) -> String {
    let mut out = String::new();
    for file in &audit.files {
        let sealed = if file.sealed { ", sealed" } else { "" };
        let _ = writeln!(out, "{}: {} lines, {} bytes{sealed}", file.path.display(), file.lines, file.bytes);
        if file.unnumbered > 0 {
            let _ = writeln!(out, "  UNKNOWN: {} lines have no numbers", file.unnumbered);
        }
        if file.sessions_lost > 0 {
            let _ = writeln!(out, "  the writer lost its session {} times", file.sessions_lost);
        }
        for problem in &file.problems {
            let _ = writeln!(out, "  PROBLEM: {problem}");
        }
    }
    if !audit.sources.is_empty() {
        let _ = writeln!(
            out,
            "{:<33}{:<16}{:>10}{:>10}{:>10}{:>9}{:>9}{:>10}{:>9}  end",
            "source", "group", "first", "last", "lines", "missing", "doubled", "reordered", "left out"
        );
    }
    for ((group, id), s) in &audit.sources {
        let (first, last) = s.range().map_or((0, 0), |r| r);
        let group = String::from_utf8_lossy(group).escape_debug().to_string();
        let end = if s.ended.is_some() { "goodbye" } else { "open" };
        let _ = writeln!(
            out,
            "{id} {group:<16}{first:>10}{last:>10}{:>10}{:>9}{:>9}{:>10}{:>9}  {end}",
            s.lines,
            s.missing(),
            s.doubled,
            s.reordered,
            s.left_out
        );
        for (from, to, reason) in s.gaps.iter().take(SHOWN_MAX) {
            let _ = writeln!(out, "  GAP {} : {reason}", span(*from, *to));
        }
        for (from, to) in s.holes().iter().take(SHOWN_MAX) {
            let _ = writeln!(out, "  HOLE {} : neither written nor declared", span(*from, *to));
        }
    }
    let sum = |f: fn(&SourceReport) -> u64| audit.sources.values().map(f).sum::<u64>();
    let verdict = if audit.is_clean() { "CLEAN: every line once and in order" } else { "NOT CLEAN" };
    let _ = writeln!(
        out,
        "{verdict}: {} lines of {} sources, {} missing, {} doubled, {} re-ordered; {} duplicates were left out",
        sum(|s| s.lines),
        audit.sources.len(),
        sum(SourceReport::missing),
        sum(|s| s.doubled),
        sum(|s| s.reordered),
        sum(|s| s.left_out)
    );
    out
}

fn span(from: u64, to: u64) -> String {
    if from == to { from.to_string() } else { format!("{from}..{to} ({} lines)", to - from + 1) }
}

/// The audit as JSON.
pub fn json(audit: &Audit) -> Value {
    let files: Vec<Value> = audit
        .files
        .iter()
        .map(|f| {
            json!({
                "file": f.path.display().to_string(), "lines": f.lines, "bytes": f.bytes,
                "unnumbered": f.unnumbered, "sealed": f.sealed, "sessions_lost": f.sessions_lost,
                "problems": f.problems,
            })
        })
        .collect();
    let sources: Vec<Value> = audit
        .sources
        .iter()
        .map(|((group, id), s)| {
            let (first, last) = s.range().unzip();
            let gaps = s.gaps.iter().take(LISTED_MAX);
            let gaps: Vec<_> = gaps.map(|(f, t, why)| json!({"from": f, "to": t, "reason": why})).collect();
            let holes = s.holes();
            let holes: Vec<_> =
                holes.iter().take(LISTED_MAX).map(|(f, t)| json!({"from": f, "to": t})).collect();
            json!({
                "source": id.to_string(), "group": String::from_utf8_lossy(group), "lines": s.lines,
                "first": first, "last": last, "missing": s.missing(), "doubled": s.doubled,
                "reordered": s.reordered, "left_out": s.left_out, "ended": s.ended, "gaps": gaps,
                "holes": holes, "clean": s.is_clean(),
            })
        })
        .collect();
    json!({ "clean": audit.is_clean(), "files": files, "sources": sources })
}

/// A comparison as text.
pub fn comparison_text(c: &Comparison) -> String {
    let names = c.paths.each_ref().map(|p| p.display().to_string());
    let mut out = String::new();
    let Some(places) = &c.differ else {
        let _ = writeln!(
            out,
            "IDENTICAL: {} and {}: {} lines, {} bytes",
            names[0], names[1], c.same_lines, c.same_bytes
        );
        return out;
    };
    let _ = writeln!(
        out,
        "DIFFERENT: {} and {} from line {} (byte {}) on",
        names[0],
        names[1],
        c.same_lines + 1,
        c.same_bytes
    );
    for (name, place) in names.iter().zip(places) {
        let _ = writeln!(out, "  {name}: {}", place_text(place));
    }
    if c.same_numbers() {
        let _ = writeln!(out, "  both have the same numbered lines, in another order");
    }
    for (name, rows) in names.iter().zip(&c.only) {
        for (group, id, spans) in rows {
            let group = String::from_utf8_lossy(group).escape_debug().to_string();
            let _ = writeln!(out, "  only in {name}: source {id} group {group}: {}", list(spans));
        }
    }
    out
}

fn list(spans: &Spans) -> String {
    let shown: Vec<_> = spans.spans().iter().take(SHOWN_MAX).map(|(from, to)| span(*from, *to)).collect();
    let more = spans.spans().len().saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} lines: {}{more}", spans.count(), shown.join(", "))
}

fn place_text(place: &Place) -> String {
    let Some(line) = &place.line else { return "ends here".into() };
    let origin = match &place.origin {
        Some((_, id, seq)) => format!("source {id} number {seq}"),
        None => "without a number".into(),
    };
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let text: String = String::from_utf8_lossy(line).chars().take(120).collect();
    format!("{origin}: {}", text.escape_debug())
}

/// A comparison as JSON.
pub fn comparison_json(c: &Comparison) -> Value {
    let place = |p: &Place| {
        json!({
            "line": p.line.as_deref().map(String::from_utf8_lossy),
            "source": p.origin.as_ref().map(|o| o.1.to_string()), "seq": p.origin.as_ref().map(|o| o.2),
        })
    };
    let only = |rows: &[(bytes::Bytes, log_stream::SourceId, Spans)]| -> Vec<Value> {
        let row = |(group, id, spans): &(bytes::Bytes, log_stream::SourceId, Spans)| {
            json!({
                "group": String::from_utf8_lossy(group), "source": id.to_string(), "lines": spans.count(),
                "spans": spans.spans().iter().take(LISTED_MAX).collect::<Vec<_>>(),
            })
        };
        rows.iter().map(row).collect()
    };
    json!({
        "files": c.paths.each_ref().map(|p| p.display().to_string()), "identical": c.identical(),
        "same_numbers": c.same_numbers(), "same_lines": c.same_lines, "same_bytes": c.same_bytes,
        "differ": c.differ.as_ref().map(|p| p.each_ref().map(place)),
        "only_first": only(&c.only[0]), "only_second": only(&c.only[1]),
    })
}

/// The head of a block of an index as JSON.
pub fn block_json(block: &Block) -> Value {
    json!({ "block": { "offset": block.offset, "bytes": block.len, "crc32": block.crc, "lines": block.lines } })
}

/// A record of an index as JSON.
pub fn record_json(record: &Record) -> Value {
    match record {
        Record::Source { id, group, first } => {
            json!({ "new_source": id.to_string(), "group": String::from_utf8_lossy(group), "first": first })
        }
        Record::Lines { source, seq, count } => json!({ "lines": count, "source": source, "seq": seq }),
        Record::Multi { source, seq, lines } => json!({ "message_of": lines, "source": source, "seq": seq }),
        Record::Plain(lines) => json!({ "unnumbered": lines }),
        Record::Elsewhere { source, seq, count } => {
            json!({ "elsewhere": count, "source": source, "seq": seq })
        }
        Record::Gap { source, seq, count, reason } => {
            json!({ "gap": count, "source": source, "seq": seq, "reason": reason_of(*reason) })
        }
        Record::Duplicates { source, seq, count } => {
            json!({ "left_out": count, "source": source, "seq": seq })
        }
        Record::End { source, last } => json!({ "end": last, "source": source }),
        Record::Event(event) => json!({ "event": event.name() }),
    }
}
