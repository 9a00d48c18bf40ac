//! What the user chose, and what the keys do. Knows no terminal.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::filter::Filter;
use crate::snapshot::{SeriesFigures, Snapshot};
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
    /// Notices and counts of the stream.
    Stream,
}

impl Panel {
    /// In the order of the keys.
    pub const ALL: [Self; 7] =
        [Self::Paths, Self::Failing, Self::Clients, Self::Vhosts, Self::Statuses, Self::Tail, Self::Stream];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Paths => "Paths",
            Self::Failing => "Failing",
            Self::Clients => "Clients",
            Self::Vhosts => "Hosts",
            Self::Statuses => "Statuses",
            Self::Tail => "Tail",
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
        self.shot = Some(Snapshot::take(state, filter, now_ms, TOP));
        self.tail = state.tail(self.filter.as_ref().map(|(_, filter)| filter), 0, TAIL);
        self.selected = self.selected.min(self.servers().len().saturating_sub(1));
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
        if self.span == "1s" { "10s" } else { self.span }
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
            KeyCode::Esc | KeyCode::Backspace => self.set_filter(""),
            KeyCode::Char('s') => self.sort = next(&Sort::ALL, self.sort),
            KeyCode::Tab => {
                self.panel = next(&Panel::ALL, self.panel);
                self.scroll = 0;
            }
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected = (self.selected + 1).min(self.servers().len().saturating_sub(1));
            }
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(5),
            KeyCode::PageDown => self.scroll = (self.scroll + 5).min(TAIL),
            KeyCode::Enter => {
                let name = self.servers().get(self.selected).map(|server| server.name.clone());
                if let Some(name) = name {
                    self.set_filter(&format!("server=\"{name}\""));
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
