//! The lower half: what is most frequent, the tail, the comparison, the machines, the stream.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use super::app::{App, Panel, Side, latency_span};
use super::draw::{duration, elapsed, printable, rate, size};
use crate::machines::Machine;
use crate::snapshot::{SeriesFigures, Snapshot, TopFigures, WindowFigures};
use crate::sources::SourceFigures;

/// Draws the panel that is chosen.
pub(super) fn draw_panel(frame: &mut Frame<'_>, area: Rect, app: &App, shot: &Snapshot) {
    let mut title = Line::default();
    for panel in Panel::ALL {
        let span = Span::from(format!(" {} ", panel.title()));
        title.push_span(if panel == app.panel { span.reversed() } else { span.dim() });
    }
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let height = usize::from(inner.height);
    let mut lines: Vec<Line<'_>> = match app.panel {
        Panel::Paths => top_lines(shot, "path"),
        Panel::Failing => top_lines(shot, "failed_path"),
        Panel::Clients => top_lines(shot, "client"),
        Panel::Vhosts => app.vhosts().into_iter().map(|host| vhost_line(app, host)).collect(),
        Panel::Statuses => {
            let line = |(status, w): (&u16, &WindowFigures)| {
                Line::from(format!("{:>10} in the last minute  {status}", w.requests))
            };
            shot.statuses.iter().map(line).collect()
        }
        Panel::Tail => app
            .tail
            .iter()
            .map(|kept| {
                let text = printable(&String::from_utf8_lossy(kept.line.trim_ascii_end()));
                Line::from(vec![Span::from(format!("{} ", kept.server)).cyan(), Span::from(text)])
            })
            .collect(),
        Panel::Compare => compare_lines(app, shot),
        Panel::Machines => machine_lines(shot),
        Panel::Stream => stream_lines(shot),
    };
    if let Some(line) = app.item.and_then(|item| lines.get_mut(item)) {
        *line = std::mem::take(line).patch_style(Style::new().reversed());
    }
    // The tail is read from its end, everything else from its head.
    let skip = match (app.panel, app.item) {
        (Panel::Tail, _) => lines.len().saturating_sub(height + app.scroll),
        (_, Some(item)) => (item + 1).saturating_sub(height),
        (_, None) => app.scroll.min(lines.len().saturating_sub(height)),
    };
    frame.render_widget(Paragraph::new(lines.into_iter().skip(skip).take(height).collect::<Vec<_>>()), inner);
}

fn top_lines<'a>(shot: &'a Snapshot, kind: &str) -> Vec<Line<'a>> {
    let line = |top: &'a TopFigures| {
        let mut line = count_line(top.count, top.bytes, &top.value);
        if top.error > 0 {
            line.push_span(Span::from(format!("  (at most {} too many)", top.error)).dim());
        }
        line
    };
    shot.top.get(kind).map(|top| top.iter().map(line).collect()).unwrap_or_default()
}

fn vhost_line<'a>(app: &App, host: &'a SeriesFigures) -> Line<'a> {
    let window = host.windows.get(app.span).copied().unwrap_or_default();
    let (requests, bytes) =
        if app.since_start { (host.requests, host.bytes) } else { (window.requests, window.bytes) };
    count_line(requests, bytes, &host.name)
}

fn count_line(count: u64, bytes: u64, name: &str) -> Line<'_> {
    Line::from(vec![Span::from(format!("{count:>10} {:>9}  ", size(bytes))), Span::from(printable(name))])
}

/// What is compared: its name, the figure of a side, and how it is written.
type Figure = (&'static str, fn(&SeriesFigures, &Side) -> Option<f64>, fn(f64) -> String);

const FIGURES: [Figure; 7] = [
    ("requests/s", |s, side| Some(s.windows.get(side.span)?.rps), |n| if n < 1.0 { two(n) } else { rate(n) }),
    ("Mbit/s", |s, side| Some(s.windows.get(side.span)?.mbps), two),
    ("4xx %", |s, side| percent(s, side, 4), two),
    ("5xx %", |s, side| percent(s, side, 5), two),
    ("p50", |s, side| micros(s.latency.get(latency_span(side.span))?.p50), of_micros),
    ("p95", |s, side| micros(s.latency.get(latency_span(side.span))?.p95), of_micros),
    ("p99", |s, side| micros(s.latency.get(latency_span(side.span))?.p99), of_micros),
];

fn percent(series: &SeriesFigures, side: &Side, class: usize) -> Option<f64> {
    let window = series.windows.get(side.span)?;
    (window.requests > 0).then(|| window.classes[class] as f64 * 100.0 / window.requests as f64)
}

fn micros(micros: Option<u64>) -> Option<f64> {
    micros.map(|micros| micros as f64)
}

fn two(n: f64) -> String {
    format!("{n:.2}")
}

fn of_micros(n: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "came from whole microseconds"
    )]
    duration(Some(n as u64))
}

fn compare_lines<'a>(app: &App, shot: &'a Snapshot) -> Vec<Line<'a>> {
    let [left, right] = &app.sides;
    let name = |side: &Side| {
        // A long name keeps its end out, not its window.
        let name: String = side.server.as_deref().unwrap_or("all").chars().take(16).collect();
        format!("{name} {}", side.span)
    };
    let text = |what: &str, a: &str, b: &str, ratio: &str| format!("{what:<10}{a:>20}  {b:>20}{ratio:>15}");
    let head = text("", &name(left), &name(right), "right / left");
    let mut lines = vec![Line::from(head).bold()];
    for (what, figure, show) in FIGURES {
        let (a, b) = (figure(app.side(shot, left), left), figure(app.side(shot, right), right));
        let ratio = match (a, b) {
            (Some(a), Some(b)) if a > 0.0 && b > 0.0 => two(b / a),
            _ => "-".to_owned(),
        };
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), show);
        lines.push(Line::from(text(what, &shown(a), &shown(b), &ratio)));
    }
    lines.push(Line::from("a b: next server left, right   A B: next window").dim());
    lines
}

fn machine_lines(shot: &Snapshot) -> Vec<Line<'_>> {
    if shot.machines.is_empty() {
        return vec![Line::from("no machine announces its resources (--backhand-group)").dim()];
    }
    let head = format!(
        "{:<16}{:<22}{:>7}{:>6}{:>5}{:>9}{:>9}{:>6}",
        "MACHINE", "serves at", "load", "idle%", "CPUs", "free", "workers", "age s"
    );
    let line = |m: &Machine| {
        let age = (shot.now_ms - m.at_ms).max(0);
        let name: String = printable(&m.name).chars().take(15).collect();
        let text = format!(
            "{name:<16}{:<22}{:>7.2}{:>6.1}{:>5}{:>9}{:>9}{:>6.1}{}",
            m.contact,
            m.load,
            m.cpu_idle,
            m.cpus,
            size(m.memory_available),
            format!("{}/{}", m.workers_idle, m.workers),
            age as f64 / 1000.0,
            if m.draining { " draining" } else { "" }
        );
        if age > 5 * i64::from(m.interval_ms) { Line::from(text).dim() } else { Line::from(text) }
    };
    std::iter::once(Line::from(head).bold()).chain(shot.machines.iter().map(line)).collect()
}

fn stream_lines(shot: &Snapshot) -> Vec<Line<'_>> {
    let intake = &shot.intake;
    let mut lines = vec![Line::from(format!(
        "{} lines in {} messages, {}; {} are not of the format",
        intake.lines,
        intake.messages,
        size(intake.bytes),
        intake.rejected.values().sum::<u64>(),
    ))];
    let source = |s: &SourceFigures| {
        let name = if s.apache.is_empty() { "unnamed Apache".to_owned() } else { printable(&s.apache) };
        let mut text = format!("{name} on {}: {} lines, {} missed", s.daemon, s.lines, s.missed);
        for (n, what) in [(s.dropped, "dropped"), (s.twice, "came twice"), (s.unnumbered, "without number")] {
            if n > 0 {
                text.push_str(&format!(", {n} {what}"));
            }
        }
        if s.missed + s.dropped > 0 { Line::from(text).red() } else { Line::from(text) }
    };
    lines.extend(shot.sources.iter().map(source));
    for (group, members) in &shot.groups {
        lines.push(Line::from(format!("{group}: {}", members.join(" "))));
    }
    let daemons: Vec<&str> = shot.daemons.keys().map(String::as_str).collect();
    if !daemons.is_empty() {
        lines.push(Line::from(format!("daemons with members: {}", daemons.join(" "))));
    }
    if let Some(ring) = &shot.ring {
        let names = |members: bool| {
            let those = ring.daemons.iter().filter(|daemon| daemon.member == members);
            those.map(|daemon| printable(&daemon.name)).collect::<Vec<_>>().join(" ")
        };
        lines.push(Line::from(format!("ring: {}", names(true))));
        if ring.daemons.iter().any(|daemon| !daemon.member) {
            lines.push(Line::from(format!("not in the ring: {}", names(false))).red());
        }
        if let Some(error) = &ring.error {
            lines.push(Line::from(format!("the ring is not known: {}", printable(error))).red());
        }
    }
    let age = |at_ms: i64| elapsed((shot.now_ms - at_ms) / 1000);
    lines.extend(
        shot.notices
            .iter()
            .map(|notice| Line::from(format!("{:>8} ago  {}", age(notice.at_ms), notice.text))),
    );
    lines
}
