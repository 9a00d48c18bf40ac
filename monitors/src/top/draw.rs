//! Draws the view; works from 80 by 24 characters.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::app::{App, Panel};
use super::panel::draw_panel;
use crate::snapshot::{LatencyFigures, SeriesFigures, Snapshot, WindowFigures};

const HELP: &str = " 1 2 3 4     figures of 1 s, 10 s, 1 min, 1 h
 t           lists of that window, or since the start
 up down     select a server     Enter  only this server
 right left  select in the panel, and back; Enter: only this one
 /           filter, e.g. status=5xx and path~/api/
 Esc         no filter
 s           sort servers by name, req/s, Mbit/s, errors, p95
 Tab         next panel          PgUp PgDn  scroll it
 c           compare   a b  next server left, right
                       A B  next window left, right
 p           pause               q  leave";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let Some(shot) = &app.shot else { return };
    let servers = u16::try_from(shot.servers.len()).unwrap_or(u16::MAX).clamp(1, (area.height / 3).max(3));
    let tall = area.height > 30 || !matches!(app.panel, Panel::Compare | Panel::Machines);
    let [head, totals, spark, table, panel, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        // A comparison or a list of machines is worth more than the chart.
        Constraint::Length(if tall { 3 } else { 0 }),
        Constraint::Length(servers + 1),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, app, shot);
    draw_totals(frame, totals, app, &shot.total);
    let seconds = &shot.total.seconds;
    let shown = &seconds[seconds.len().saturating_sub(usize::from(spark.width))..];
    frame.render_widget(Sparkline::default().data(shown).style(Style::new().cyan()), spark);
    draw_servers(frame, table, app);
    draw_panel(frame, panel, app, shot);
    draw_foot(frame, foot, app);
    if app.help {
        let width = 66.min(area.width);
        let height = 13.min(area.height);
        let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
        frame.render_widget(Clear, place);
        frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" Keys ")), place);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App, shot: &Snapshot) {
    let daemon = match &shot.daemon {
        Some(daemon) => Span::from(format!("daemon {daemon}")).green(),
        None => Span::from("not connected").red(),
    };
    let missed = match (shot.intake.reconnects, shot.intake.missed) {
        (0, 0) => Span::from("no line missed"),
        (0, missed) => Span::from(format!("{missed} lines missed")).red(),
        (n, 0) => Span::from(format!("connection lost {n} times: lines were missed")).red(),
        (n, missed) => Span::from(format!("connection lost {n} times, {missed} lines missed or more")).red(),
    };
    let since = (shot.now_ms - shot.since_ms) / 1000;
    let mut line = Line::from(vec![
        Span::from(format!("{} ", app.title)).bold(),
        Span::from(format!(" counting for {}, ", elapsed(since))),
        missed,
        Span::from("  "),
        // Last: its path can be long.
        daemon,
    ]);
    if app.paused {
        line.push_span(Span::from("  PAUSED").yellow().bold());
    }
    frame.render_widget(line, area);
}

fn draw_totals(frame: &mut Frame<'_>, area: Rect, app: &App, total: &SeriesFigures) {
    let w = total.windows.get(app.span).copied().unwrap_or_default();
    let l = total.latency.get(app.latency_span()).copied().unwrap_or_default();
    let mut line = Line::from(vec![
        Span::from(format!("last {:<4}", app.span)),
        Span::from(format!("{} req/s  ", rate(w.rps))).bold(),
        Span::from(format!("{:.2} Mbit/s  ", w.mbps)).bold(),
    ]);
    for (class, color) in [(2, Color::Green), (3, Color::Blue), (4, Color::Yellow), (5, Color::Red)] {
        line.push_span(Span::from(format!("{class}xx {}  ", w.classes[class])).fg(color));
    }
    let mut second =
        Line::from(format!("         {} clients, {} requests in all  ", total.clients, total.requests));
    if l.count > 0 {
        second.push_span(format!("p50 {} p95 {} p99 {}", duration(l.p50), duration(l.p95), duration(l.p99)));
    }
    frame.render_widget(Paragraph::new(vec![line, second]), area);
}

fn draw_servers(frame: &mut Frame<'_>, area: Rect, app: &App) {
    // The trend takes what the numbers leave.
    let trend = area.width.saturating_sub(72);
    let titles = ["SERVER", "req/s", "Mbit/s", "2xx", "3xx", "4xx", "5xx", "p50", "p95", "p99", ""];
    let title = |(at, title): (usize, &'static str)| {
        let line = Line::from(title);
        if at == 0 { line } else { line.right_aligned() }
    };
    let header = Row::new(titles.into_iter().enumerate().map(title));
    let header = header.style(Style::new().add_modifier(Modifier::REVERSED));
    let rows = app.servers().into_iter().enumerate().map(|(at, server)| {
        let w = server.windows.get(app.span).copied().unwrap_or_default();
        let l = server.latency.get(app.latency_span()).copied().unwrap_or_default();
        let row = Row::new(server_cells(server, &w, &l, trend));
        if at == app.selected {
            row.style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
        } else {
            row
        }
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Min(0),
    ];
    // The selected one is always in sight.
    let visible = usize::from(area.height.saturating_sub(1)).max(1);
    let skip = app.selected.saturating_sub(visible - 1);
    let rows: Vec<Row<'_>> = rows.skip(skip).take(visible).collect();
    if rows.is_empty() {
        let [_, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
        frame.render_widget(Paragraph::new("no line has arrived yet").dim(), rest);
    }
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(0), area);
}

fn server_cells<'a>(
    server: &'a SeriesFigures,
    w: &WindowFigures,
    l: &LatencyFigures,
    trend: u16,
) -> [Cell<'a>; 11] {
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let class = |class: usize, color| {
        let style = if w.classes[class] > 0 { Style::new().fg(color) } else { Style::new().dim() };
        right(w.classes[class].to_string()).style(style)
    };
    [
        Cell::from(server.name.as_str()),
        right(rate(w.rps)),
        right(format!("{:.2}", w.mbps)),
        class(2, Color::Green),
        class(3, Color::Blue),
        class(4, Color::Yellow),
        class(5, Color::Red),
        right(duration(l.p50)),
        right(duration(l.p95)),
        right(duration(l.p99)),
        Cell::from(format!("  {}", bars(&server.seconds, usize::from(trend).saturating_sub(3)))),
    ]
}

/// A line of block characters, the newest value at the right.
fn bars(values: &[u64], width: usize) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let max = shown.iter().copied().max().unwrap_or(0).max(1);
    let level = |value: u64| usize::try_from((value * 8).div_ceil(max)).unwrap_or(8).min(8);
    shown.iter().map(|&value| BLOCKS[level(value)]).collect()
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let line = match (&app.editing, &app.error, &app.filter) {
        (Some(text), None, _) => {
            Line::from(vec![Span::from("filter: ").bold(), Span::from(format!("{text}_"))])
        }
        (Some(text), Some(error), _) => {
            Line::from(vec![Span::from(format!("filter: {text}_  ")), Span::from(error.as_str()).red()])
        }
        (None, _, Some((text, _))) => {
            Line::from(vec![Span::from(format!("filter: {text}")).yellow(), Span::from("   Esc: none").dim()])
        }
        (None, _, None) => Line::from(format!(
            "? keys  1-4 span  t lists: {}  / filter  Enter drill  s sort: {}  q quit",
            if app.since_start { "all" } else { app.span },
            app.sort.title()
        ))
        .dim(),
    };
    frame.render_widget(line, area);
}

/// Text of strangers: control characters must not reach the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub(super) fn rate(n: f64) -> String {
    if n >= 100.0 || n == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

pub(super) fn duration(micros: Option<u64>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(us @ ..1000) => format!("{us}us"),
        Some(us @ ..10_000) => format!("{:.1}ms", us as f64 / 1e3),
        Some(us @ ..1_000_000) => format!("{}ms", us / 1000),
        Some(us) => format!("{:.1}s", us as f64 / 1e6),
    }
}

pub(super) fn size(bytes: u64) -> String {
    let mut n = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if n < 1000.0 {
            return if unit == "B" { format!("{n:.0} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1000.0;
    }
    format!("{n:.1} TB")
}

pub(super) fn elapsed(seconds: i64) -> String {
    match seconds.max(0) {
        s @ ..60 => format!("{s} s"),
        s @ ..3600 => format!("{} min", s / 60),
        s @ ..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use access_log::Format;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::state::{Bounds, State};

    const NOW_MS: i64 = 971_211_340_000;

    fn screen(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        terminal.backend().to_string()
    }

    fn state() -> State {
        let format = Format::compile(r#"%h %l %u %t "%r" %>s %b %D"#).unwrap();
        let mut state = State::new(format, Bounds::default(), NOW_MS - 65_000);
        for (server, status, path) in
            [("web1", 200, "/a"), ("web1", 404, "/b"), ("web2", 200, "/a"), ("web2", 500, "/c")]
        {
            let server: Arc<str> = server.into();
            let line = format!(
                "192.0.2.4 - - [10/Oct/2000:13:55:37 -0700] \"GET {path}?x HTTP/1.1\" {status} 125000 2500\n"
            );
            for _ in 0..10 {
                state.handle_payload(NOW_MS, &server, line.as_bytes());
            }
        }
        state
    }

    #[test]
    fn everything_fits_into_80_by_24() {
        let mut state = state();
        let mut app = App::new("site4");
        app.refresh(&mut state, NOW_MS);
        let text = screen(&app, 80, 24);
        for part in [
            "site4  counting for 1 min, no line missed  not connected",
            "last 10s 4.0 req/s  4.00 Mbit/s  2xx 20  3xx 0  4xx 10  5xx 10",
            "1 clients, 40 requests in all  p50 2.5ms p95 2.5ms p99 2.5ms",
            "SERVER            req/s Mbit/s   2xx  3xx  4xx  5xx   p50   p95   p99",
            "web1                2.0   2.00    10    0   10    0 2.5ms 2.5ms 2.5ms",
            " Paths  Failing  Clients  Hosts  Statuses  Tail  Compare  Machines  Stream ",
            "        20    2.5 MB  /a",
            "q quit",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_panel_and_any_size_is_drawn() {
        let mut state = state();
        let mut app = App::new("site4");
        for (width, height) in [(80, 24), (200, 60), (20, 5), (1, 1), (80, 3)] {
            for _ in Panel::ALL {
                app.handle_key(KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE));
                app.refresh(&mut state, NOW_MS);
                screen(&app, width, height);
            }
        }
        app.handle_key(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
        assert!(screen(&app, 80, 24).contains("only this server"));
        screen(&app, 3, 3);
    }

    #[test]
    fn enter_narrows_to_the_selected_server() {
        let mut state = state();
        let mut app = App::new("site4");
        app.refresh(&mut state, NOW_MS);
        for code in [KeyCode::Down, KeyCode::Enter] {
            app.handle_key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        app.refresh(&mut state, NOW_MS);
        let text = screen(&app, 80, 24);
        assert!(text.contains("filter: server=\"web2\"") && !text.contains("web1"), "{text}");
        assert!(text.contains("20 requests in all"), "{text}");
    }

    #[test]
    fn a_path_of_the_panel_is_drilled_into() {
        let mut state = state();
        let mut app = App::new("site4");
        app.refresh(&mut state, NOW_MS);
        for code in [KeyCode::Enter, KeyCode::Right, KeyCode::Down, KeyCode::Enter] {
            app.handle_key(KeyEvent::new(code, KeyModifiers::NONE));
            app.refresh(&mut state, NOW_MS);
        }
        let text = screen(&app, 80, 24);
        assert!(text.contains("filter: server=\"web1\" and path=\"/b\""), "{text}");
        assert!(text.contains("10 requests in all"), "{text}");
    }

    #[test]
    fn two_servers_and_two_windows_stand_side_by_side() {
        let mut state = state();
        let mut app = App::new("site4");
        app.refresh(&mut state, NOW_MS);
        for c in ['a', 'b', 'b'] {
            app.handle_key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
        }
        let text = screen(&app, 80, 24);
        for part in [
            "                      web1 10s               web2 1m   right / left",
            "requests/s                 2.0                  0.33           0.17",
            "4xx %                    50.00                  0.00              -",
            "p95                      2.5ms                 2.5ms           1.00",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        app.handle_key(KeyEvent::new(KeyCode::Char('B'), KeyModifiers::NONE));
        assert!(screen(&app, 80, 24).contains("web2 1h"));
        assert!(screen(&app, 60, 12).contains("web2 1h"), "{}", screen(&app, 60, 12));
    }

    #[test]
    fn lists_are_of_the_window_or_since_the_start() {
        let mut state = state();
        let mut app = App::new("site4");
        // The lines are of 23 s before.
        app.refresh(&mut state, NOW_MS + 20_000);
        assert!(!screen(&app, 80, 24).contains("2.5 MB  /a"));
        app.handle_key(KeyEvent::new(KeyCode::Char('t'), KeyModifiers::NONE));
        app.refresh(&mut state, NOW_MS + 20_000);
        let text = screen(&app, 80, 24);
        assert!(text.contains("2.5 MB  /a") && text.contains("t lists: all"), "{text}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
