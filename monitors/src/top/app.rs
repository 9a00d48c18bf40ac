//! What the user chose, and what the keys do. Knows no terminal.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::filter::Filter;
use crate::snapshot::{SeriesFigures, Snapshot, TopList, parse_over};
use crate::state::{State, TailLine};

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// The user wants to leave.
    Quit,
}

/// What the lower half shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// Most frequent paths.
    Paths,
    /// Most frequent paths of failed requests.
    Failing,
    /// Most frequent clients.
    Clients,
    /// Virtual hosts.
    Vhosts,
    /// Status codes.
    Statuses,
    /// Lines as they arrive.
    Tail,
    /// Two servers or two windows side by side.
    Compare,
    /// Resources of the machines.
    Machines,
    /// Notices, counts of the stream, who publishes.
    Stream,
}

impl Panel {
    /// In the order of the keys.
    pub const ALL: [Self; 9] = [
        Self::Paths,
        Self::Failing,
        Self::Clients,
        Self::Vhosts,
        Self::Statuses,
        Self::Tail,
        Self::Compare,
        Self::Machines,
        Self::Stream,
    ];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Paths => "Paths",
            Self::Failing => "Failing",
            Self::Clients => "Clients",
            Self::Vhosts => "Hosts",
            Self::Statuses => "Statuses",
            Self::Tail => "Tail",
            Self::Compare => "Compare",
            Self::Machines => "Machines",
            Self::Stream => "Stream",
        }
    }
}

/// What the servers are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Name, from A.
    Name,
    /// Requests per second, the most first; so are the others.
    Requests,
    /// Megabits per second.
    Bits,
    /// Requests with status 4xx and 5xx.
    Errors,
    /// The duration that 95 % do not exceed.
    Latency,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Name, Self::Requests, Self::Bits, Self::Errors, Self::Latency];

    /// Its name.
    pub fn title(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Requests => "req/s",
            Self::Bits => "Mbit/s",
            Self::Errors => "errors",
            Self::Latency => "p95",
        }
    }
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// A server, or all of them.
    pub server: Option<String>,
    /// Name of its window.
    pub span: &'static str,
}

const SPANS: [&str; 4] = ["1s", "10s", "1m", "1h"];

/// Lines that the tail shows at most.
const TAIL: usize = 200;
/// Most frequent values that are taken.
const TOP: usize = 100;

/// The state of the view.
#[derive(Debug)]
pub struct App {
    /// What is watched.
    pub title: String,
    /// The figures that are shown; frozen while paused.
    pub shot: Option<Snapshot>,
    /// The last lines that fit the filter.
    pub tail: Vec<TailLine>,
    /// Name of the time span in the snapshot: `1s`, `10s`, `1m`, `1h`.
    pub span: &'static str,
    /// Lower half.
    pub panel: Panel,
    /// Order of the servers.
    pub sort: Sort,
    /// Selected line of the servers.
    pub selected: usize,
    /// Selected line of the panel, while it is chosen from; the arrows then move there.
    pub item: Option<usize>,
    /// Whether the most frequent values are those since the start, not those of the window.
    pub since_start: bool,
    /// What is compared: left and right.
    pub sides: [Side; 2],
    /// Lines of the panel that are scrolled over.
    pub scroll: usize,
    /// Whether the figures are frozen.
    pub paused: bool,
    /// The filter and its text.
    pub filter: Option<(String, Filter)>,
    /// The text being edited, if the user edits it.
    pub editing: Option<String>,
    /// What is wrong with the text.
    pub error: Option<String>,
    /// Whether the keys are explained.
    pub help: bool,
}

impl App {
    /// Nothing chosen yet.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            shot: None,
            tail: Vec::new(),
            span: "10s",
            panel: Panel::Paths,
            sort: Sort::Name,
            selected: 0,
            item: None,
            since_start: false,
            sides: [Side { server: None, span: "10s" }, Side { server: None, span: "1m" }],
            scroll: 0,
            paused: false,
            filter: None,
            editing: None,
            error: None,
            help: false,
        }
    }

    /// Takes the figures of now, unless they are frozen.
    pub fn refresh(&mut self, state: &mut State, now_ms: i64) {
        if self.paused && self.shot.is_some() {
            return;
        }
        let filter = self.filter.as_ref().map(|(text, filter)| (text.as_str(), filter));
        let over = if self.since_start { "start" } else { self.span };
        let top = TopList { count: TOP, over: parse_over(over).unwrap_or_default() };
        self.shot = Some(Snapshot::take(state, filter, now_ms, top));
        self.tail = state.tail(self.filter.as_ref().map(|(_, filter)| filter), 0, TAIL);
        self.selected = self.selected.min(self.servers().len().saturating_sub(1));
        let last = self.items().len().checked_sub(1);
        self.item = self.item.zip(last).map(|(item, last)| item.min(last));
    }

    /// The lines of the panel that can be chosen: what is shown, and the comparison that narrows to it.
    pub fn items(&self) -> Vec<String> {
        let Some(shot) = &self.shot else { return Vec::new() };
        let top = |kind: &str, field: &str| -> Vec<String> {
            let values = shot.top.get(kind).map_or(&[][..], Vec::as_slice);
            values.iter().map(|top| format!("{field}={}", quoted(&top.value))).collect()
        };
        match self.panel {
            Panel::Paths => top("path", "path"),
            Panel::Failing => top("failed_path", "path"),
            Panel::Clients => top("client", "client"),
            Panel::Vhosts => self.vhosts().iter().map(|v| format!("vhost={}", quoted(&v.name))).collect(),
            Panel::Statuses => shot.statuses.keys().map(|status| format!("status={status}")).collect(),
            Panel::Tail | Panel::Compare | Panel::Machines | Panel::Stream => Vec::new(),
        }
    }

    /// The virtual hosts, the busiest of the window first.
    pub fn vhosts(&self) -> Vec<&SeriesFigures> {
        let mut hosts: Vec<&SeriesFigures> = self.shot.iter().flat_map(|shot| &shot.vhosts).collect();
        let requests = |host: &SeriesFigures| match self.since_start {
            true => host.requests,
            false => host.windows.get(self.span).map_or(0, |w| w.requests),
        };
        hosts.sort_by_key(|host| std::cmp::Reverse(requests(host)));
        hosts
    }

    /// The figures of one side, of everything if its server is not there.
    pub fn side<'a>(&self, shot: &'a Snapshot, side: &Side) -> &'a SeriesFigures {
        let server = |name: &String| shot.servers.iter().find(|server| server.name == *name);
        side.server.as_ref().and_then(server).unwrap_or(&shot.total)
    }

    /// The servers in the chosen order.
    pub fn servers(&self) -> Vec<&SeriesFigures> {
        let mut servers: Vec<&SeriesFigures> = self.shot.iter().flat_map(|shot| &shot.servers).collect();
        let window = |s: &SeriesFigures| s.windows.get(self.span).copied().unwrap_or_default();
        let latency = |s: &SeriesFigures| s.latency.get(self.latency_span()).and_then(|l| l.p95).unwrap_or(0);
        match self.sort {
            Sort::Name => {}
            Sort::Requests => servers.sort_by_key(|s| std::cmp::Reverse(window(s).requests)),
            Sort::Bits => servers.sort_by_key(|s| std::cmp::Reverse(window(s).bytes)),
            Sort::Errors => {
                servers.sort_by_key(|s| std::cmp::Reverse(window(s).classes[4] + window(s).classes[5]));
            }
            Sort::Latency => servers.sort_by_key(|s| std::cmp::Reverse(latency(s))),
        }
        servers
    }

    /// Durations are kept from ten seconds on.
    pub fn latency_span(&self) -> &'static str {
        latency_span(self.span)
    }

    /// Does what a key asks for.
    pub fn handle_key(&mut self, key: KeyEvent) -> Flow {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Flow::Quit;
        }
        if self.editing.is_some() {
            self.edit(key.code);
            return Flow::Continue;
        }
        self.help = key.code == KeyCode::Char('?') && !self.help;
        match key.code {
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('1') => self.span = "1s",
            KeyCode::Char('2') => self.span = "10s",
            KeyCode::Char('3') => self.span = "1m",
            KeyCode::Char('4') => self.span = "1h",
            KeyCode::Char('/') => {
                self.error = None;
                self.editing = Some(self.filter.as_ref().map_or(String::new(), |(text, _)| text.clone()));
            }
            KeyCode::Esc if self.item.is_some() => self.item = None,
            KeyCode::Esc | KeyCode::Backspace => self.set_filter(""),
            KeyCode::Char('t') => self.since_start = !self.since_start,
            KeyCode::Char('c') => self.show(Panel::Compare),
            KeyCode::Char('a') => self.next_server(0),
            KeyCode::Char('b') => self.next_server(1),
            KeyCode::Char('A') => self.sides[0].span = next(&SPANS, self.sides[0].span),
            KeyCode::Char('B') => self.sides[1].span = next(&SPANS, self.sides[1].span),
            KeyCode::Right => self.item = (!self.items().is_empty()).then_some(0),
            KeyCode::Left => self.item = None,
            KeyCode::Char('s') => self.sort = next(&Sort::ALL, self.sort),
            KeyCode::Tab => self.show(next(&Panel::ALL, self.panel)),
            KeyCode::BackTab => {
                self.show(next(&Panel::ALL.iter().rev().copied().collect::<Vec<_>>(), self.panel))
            }
            KeyCode::Up | KeyCode::Char('k') => match &mut self.item {
                Some(item) => *item = item.saturating_sub(1),
                None => self.selected = self.selected.saturating_sub(1),
            },
            KeyCode::Down | KeyCode::Char('j') => match self.item {
                Some(item) => self.item = Some((item + 1).min(self.items().len().saturating_sub(1))),
                None => self.selected = (self.selected + 1).min(self.servers().len().saturating_sub(1)),
            },
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(5),
            KeyCode::PageDown => self.scroll = (self.scroll + 5).min(TAIL),
            KeyCode::Enter => {
                let of_server =
                    || self.servers().get(self.selected).map(|s| format!("server={}", quoted(&s.name)));
                let clause = match self.item {
                    Some(item) => self.items().get(item).cloned(),
                    None => of_server(),
                };
                if let Some(clause) = clause {
                    self.narrow(&clause);
                }
            }
            _ => {}
        }
        Flow::Continue
    }

    fn edit(&mut self, code: KeyCode) {
        let Some(text) = &mut self.editing else { return };
        match code {
            KeyCode::Esc => self.editing = None,
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Char(c) if text.len() < crate::filter::LEN_MAX => text.push(c),
            KeyCode::Enter => {
                let text = text.clone();
                self.set_filter(&text);
            }
            _ => {}
        }
    }

    fn show(&mut self, panel: Panel) {
        (self.panel, self.scroll, self.item) = (panel, 0, None);
    }

    /// The next server for a side; all of them after the last.
    fn next_server(&mut self, side: usize) {
        let names: Vec<&String> = self.shot.iter().flat_map(|shot| &shot.servers).map(|s| &s.name).collect();
        let at = self.sides[side].server.as_ref().and_then(|name| names.iter().position(|n| *n == name));
        self.sides[side].server = names.get(at.map_or(0, |at| at + 1)).map(|name| (*name).clone());
        self.show(Panel::Compare);
    }

    /// Only what fits the filter and this, too.
    fn narrow(&mut self, clause: &str) {
        let text = match &self.filter {
            Some((text, _)) if text.contains(clause) => text.clone(),
            Some((text, _)) if text.contains(" or ") => format!("({text}) and {clause}"),
            Some((text, _)) => format!("{text} and {clause}"),
            None => clause.to_owned(),
        };
        self.set_filter(&text);
        self.item = None;
    }

    /// Sets the filter, or says what is wrong with it and lets the user go on editing.
    fn set_filter(&mut self, text: &str) {
        let text = text.trim();
        self.error = None;
        if text.is_empty() {
            self.filter = None;
            self.editing = None;
            return;
        }
        match Filter::parse(text) {
            Ok(filter) => {
                self.filter = Some((text.to_owned(), filter));
                self.editing = None;
            }
            Err(error) => {
                self.error = Some(error.to_string());
                self.editing = Some(text.to_owned());
            }
        }
    }
}

/// Durations are kept from ten seconds on.
pub(super) fn latency_span(span: &'static str) -> &'static str {
    if span == "1s" { "10s" } else { span }
}

/// A value as the filter reads it; what cannot be written there matches anything.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "*"))
}

fn next<T: Copy + PartialEq>(all: &[T], now: T) -> T {
    let at = all.iter().position(|one| *one == now).map_or(0, |at| at + 1);
    all[at % all.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(app: &mut App, keys: &str) -> Flow {
        let mut flow = Flow::Continue;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            flow = app.handle_key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        flow
    }

    #[test]
    fn a_filter_is_edited_refused_with_a_reason_and_cleared() {
        let mut app = App::new("");
        press(&mut app, "/status=5xq\n");
        assert!(app.error.as_deref().unwrap_or("").contains("5xx"), "{:?}", app.error);
        assert_eq!(app.editing.as_deref(), Some("status=5xq"));
        app.handle_key(KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE));
        press(&mut app, "x\n");
        assert_eq!(app.filter.as_ref().map(|(text, _)| text.as_str()), Some("status=5xx"));
        // While editing, keys are text.
        assert_eq!(press(&mut app, "/q\x1b"), Flow::Continue);
        press(&mut app, "\x1b");
        assert!(app.filter.is_none());
        assert_eq!(press(&mut app, "q"), Flow::Quit);
    }

    #[test]
    fn ctrl_c_leaves_always() {
        let mut app = App::new("");
        press(&mut app, "/abc");
        assert_eq!(app.handle_key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Flow::Quit);
    }
}
