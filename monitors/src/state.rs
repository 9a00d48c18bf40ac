//! What a monitor knows: figures of everything and of each filter in use, the last lines, who is there, and
//! since when and how completely it counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use access_log::stats::{Aggregate, Limits};
use access_log::{Format, LineError, Lines};
use bytes::Bytes;
use spread::{Cause, Data, GroupName, Membership, Message, Reconnected};

use crate::filter::Filter;
use crate::machines::Machines;
use crate::ring::Ring;
use crate::sources::{Arrived, Question, SourceFigures, Sources};

/// Bounds of a monitor's memory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Keys and most frequent values.
    pub limits: Limits,
    /// Bytes of the last lines that are kept.
    pub tail_bytes: usize,
    /// Filters in use at one time; each has figures of its own. The one that was used longest ago makes room.
    pub filters: usize,
    /// Notices that are kept.
    pub notices: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { limits: Limits::default(), tail_bytes: 8 << 20, filters: 8, notices: 200 }
    }
}

/// A line that was received.
#[derive(Clone, Debug)]
pub struct TailLine {
    /// Running number, from 1.
    pub number: u64,
    /// When it arrived, in milliseconds since 1970.
    pub at_ms: i64,
    /// From which server.
    pub server: Arc<str>,
    /// As received, with its line feed.
    pub line: Box<[u8]>,
}

/// Something that a viewer should know beside the figures.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Notice {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// One sentence.
    pub text: String,
}

/// Counts of the stream itself.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Intake {
    /// Messages received.
    pub messages: u64,
    /// Lines received.
    pub lines: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lines that are not of the format, by class.
    pub rejected: BTreeMap<&'static str, u64>,
    /// How often the connection was lost and made again: what was published meanwhile was missed.
    pub reconnects: u64,
    /// Time without a connection, in milliseconds.
    pub disconnected_ms: u64,
    /// Numbered lines that did not come.
    pub missed: u64,
    /// Lines that the web servers report as dropped before they were sent.
    pub dropped: u64,
    /// Lines that came again and were counted once.
    pub twice: u64,
    /// Messages that are neither lines nor a whole frame.
    pub broken: u64,
}

/// The figures of one filter.
#[derive(Debug)]
struct View {
    filter: Filter,
    figures: Aggregate,
    since_ms: i64,
    used: u64,
}

/// All that a monitor knows. Everything in it is bounded.
#[derive(Debug)]
pub struct State {
    bounds: Bounds,
    format: Format,
    all: Aggregate,
    views: BTreeMap<String, View>,
    clock: u64,
    tail: VecDeque<TailLine>,
    tail_bytes: usize,
    notices: VecDeque<Notice>,
    groups: BTreeMap<String, Vec<String>>,
    sources: Sources,
    audits: BTreeMap<Box<[u8]>, Box<[u8]>>,
    by_apache: bool,
    intake: Intake,
    since_ms: i64,
    now_ms: i64,
    connected: Option<String>,
    alerts: Vec<ActiveAlert>,
    machines: Machines,
    ring: Option<Ring>,
}

/// An alert that is on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ActiveAlert {
    /// Name of its rule.
    pub name: String,
    /// The server or group it is about.
    pub subject: String,
    /// One sentence with the figures.
    pub text: String,
}

impl State {
    /// Begins to count at `now_ms` (milliseconds since 1970).
    pub fn new(format: Format, bounds: Bounds, now_ms: i64) -> Self {
        Self {
            bounds,
            format,
            all: Aggregate::new(bounds.limits),
            views: BTreeMap::new(),
            clock: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            notices: VecDeque::new(),
            groups: BTreeMap::new(),
            sources: Sources::default(),
            audits: BTreeMap::new(),
            by_apache: false,
            intake: Intake::default(),
            since_ms: now_ms,
            now_ms,
            connected: None,
            alerts: Vec::new(),
            machines: Machines::default(),
            ring: None,
        }
    }

    /// Takes what the library received at `now_ms`.
    pub fn handle_message(&mut self, now_ms: i64, message: &Message) {
        self.now_ms = self.now_ms.max(now_ms);
        match message {
            Message::Data(data) => self.handle_data(now_ms, data),
            Message::Membership(view) => self.handle_membership(now_ms, view),
            Message::Reconnected(event) => self.handle_reconnected(now_ms, event),
            Message::Reject(_) => self.notice(now_ms, "the daemon refused a request".to_owned()),
            _ => {}
        }
    }

    fn handle_data(&mut self, now_ms: i64, data: &Data) {
        if data.payload().starts_with(b"BKHS") {
            self.machines.handle(now_ms, data.payload());
            return;
        }
        let target = data.groups().next();
        let target = target.as_ref().map_or(&b""[..], GroupName::as_bytes);
        let log = self.audits.get(target).map(|log| &**log);
        let sender = data.sender();
        let message = Arrived {
            sender: sender.as_bytes(),
            group: log.unwrap_or(target),
            audit: log.is_some(),
            mess_type: data.message_type(),
            payload: data.to_bytes(),
        };
        self.intake.messages += 1;
        let mut payloads = Vec::<Bytes>::new();
        let server = self.sources.handle(now_ms, message, &mut payloads);
        let label = Arc::clone(if self.by_apache { &server.label } else { &server.daemon });
        for payload in payloads {
            self.handle_lines(now_ms, &label, &payload);
        }
    }

    /// Takes what a daemon says of the ring.
    pub fn handle_ring(&mut self, now_ms: i64, answer: Result<&str, String>) {
        self.ring.get_or_insert_default().handle_answer(now_ms, answer);
    }

    /// The ring, if a daemon is asked.
    pub fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// Senders that are to be asked who they are.
    pub fn take_questions(&mut self) -> Vec<Question> {
        self.sources.take_questions()
    }

    /// The machines that announce their resources.
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Takes the lines of one message that `server` published. A last line without a line feed counts as one.
    pub fn handle_payload(&mut self, now_ms: i64, server: &Arc<str>, payload: &[u8]) {
        self.intake.messages += 1;
        self.handle_lines(now_ms, server, payload);
    }

    fn handle_lines(&mut self, now_ms: i64, server: &Arc<str>, payload: &[u8]) {
        let mut lines = Lines::new(payload);
        for line in lines.by_ref() {
            self.handle_line(now_ms, server, line);
        }
        if let Some(tail) = lines.tail() {
            self.handle_line(now_ms, server, &[tail.0, b"\n"].concat());
        }
    }

    fn handle_line(&mut self, now_ms: i64, server: &Arc<str>, line: &[u8]) {
        self.intake.lines += 1;
        self.intake.bytes += line.len() as u64;
        let now = now_ms.div_euclid(1000);
        match self.format.parse(line) {
            Ok(entry) => {
                self.all.add(now, server, &entry);
                for view in self.views.values_mut() {
                    if view.filter.fits(server, &entry) {
                        view.figures.add(now, server, &entry);
                    }
                }
            }
            Err(error) => *self.intake.rejected.entry(LineError::class(error)).or_default() += 1,
        }
        self.tail_bytes += line.len();
        let (number, server) = (self.intake.lines, Arc::clone(server));
        self.tail.push_back(TailLine { number, at_ms: now_ms, server, line: line.into() });
        while self.tail_bytes > self.bounds.tail_bytes {
            let Some(old) = self.tail.pop_front() else { break };
            self.tail_bytes -= old.line.len();
        }
    }

    fn handle_membership(&mut self, now_ms: i64, view: &Membership) {
        let group = view.group.to_string();
        if self.audits.contains_key(group.as_bytes()) {
            return;
        }
        let text = match view.cause {
            Cause::Join(member) => format!("{member} joined {group}"),
            Cause::Leave(member) => format!("{member} left {group}"),
            Cause::Disconnect(member) => format!("{member} of {group} disconnected"),
            Cause::Network => {
                let members = view.members.len();
                format!(
                    "the network changed: {group} now has {members} members in {} parts",
                    view.vs_sets.len()
                )
            }
        };
        self.notice(now_ms, text);
        self.groups.insert(group, view.members.iter().map(ToString::to_string).collect());
    }

    fn handle_reconnected(&mut self, now_ms: i64, event: &Reconnected) {
        self.intake.reconnects += 1;
        self.sources.handle_connection_lost();
        // Who is in the groups now is told next.
        self.groups.clear();
        let lost_ms = u64::try_from(event.downtime.as_millis()).unwrap_or(u64::MAX);
        self.intake.disconnected_ms = self.intake.disconnected_ms.saturating_add(lost_ms);
        self.connected = Some(event.address.to_string());
        self.notice(now_ms, format!("connected again after {lost_ms} ms; lines of that time were missed"));
    }

    /// Notes that the connection stands (to which daemon), or that it does not.
    pub fn set_connected(&mut self, now_ms: i64, daemon: Option<String>) {
        if daemon != self.connected {
            let text = match &daemon {
                Some(daemon) => format!("connected to {daemon}"),
                None => "not connected".to_owned(),
            };
            self.notice(now_ms, text);
        }
        self.connected = daemon;
    }

    /// Keeps a sentence for the viewers.
    pub fn notice(&mut self, at_ms: i64, text: String) {
        if self.notices.len() >= self.bounds.notices {
            self.notices.pop_front();
        }
        self.notices.push_back(Notice { at_ms, text });
    }

    /// The figures of everything, or of a filter, and since when (milliseconds since 1970) they count. A filter
    /// that is new begins with the lines that are still kept.
    pub fn figures(&mut self, filter: Option<(&str, &Filter)>) -> (&Aggregate, i64) {
        let Some((text, filter)) = filter else { return (&self.all, self.since_ms) };
        self.clock += 1;
        if !self.views.contains_key(text) {
            if self.views.len() >= self.bounds.filters {
                let oldest = self.views.iter().min_by_key(|(_, view)| view.used).map(|(key, _)| key.clone());
                oldest.and_then(|key| self.views.remove(&key));
            }
            let view = self.view_of_tail(filter);
            self.views.insert(text.to_owned(), view);
        }
        match self.views.get_mut(text) {
            Some(view) => {
                view.used = self.clock;
                (&view.figures, view.since_ms)
            }
            None => (&self.all, self.since_ms),
        }
    }

    fn view_of_tail(&self, filter: &Filter) -> View {
        let limits = Limits { top_window: self.bounds.limits.top_window.min(50), ..self.bounds.limits };
        let mut figures = Aggregate::new(limits);
        for kept in &self.tail {
            if let Ok(entry) = self.format.parse(&kept.line)
                && filter.fits(&kept.server, &entry)
            {
                figures.add(kept.at_ms.div_euclid(1000), &kept.server, &entry);
            }
        }
        // If nothing was dropped yet, the tail is everything since the start.
        let complete = self.tail.front().is_none_or(|first| first.number == 1);
        let since_ms =
            if complete { self.since_ms } else { self.tail.front().map_or(0, |first| first.at_ms) };
        View { filter: filter.clone(), figures, since_ms, used: self.clock }
    }

    /// The last lines that fit, at most `count`, newer than number `after`; the oldest first.
    pub fn tail(&self, filter: Option<&Filter>, after: u64, count: usize) -> Vec<TailLine> {
        let fits = |kept: &&TailLine| match filter {
            None => true,
            Some(filter) => {
                self.format.parse(&kept.line).is_ok_and(|entry| filter.fits(&kept.server, &entry))
            }
        };
        let newer = self.tail.iter().rev().take_while(|kept| kept.number > after);
        let mut lines: Vec<TailLine> = newer.filter(fits).take(count).cloned().collect();
        lines.reverse();
        lines
    }

    /// The notices, the oldest first.
    pub fn notices(&self) -> impl DoubleEndedIterator<Item = &Notice> {
        self.notices.iter()
    }

    /// Members of the log groups by the last view of each.
    pub fn groups(&self) -> &BTreeMap<String, Vec<String>> {
        &self.groups
    }

    /// The daemons that members of the log groups are connected to, each with these members; this monitor's own one
    /// is always there. A daemon without a member in a log group does not show; [`ring`](Self::ring) has them all.
    pub fn daemons(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut daemons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (group, members) in &self.groups {
            for member in members {
                let mut parts = member.trim_start_matches('#').splitn(2, '#');
                let (name, daemon) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                daemons.entry(daemon.to_owned()).or_default().insert(format!("{name} in {group}"));
            }
        }
        daemons
    }

    /// The web servers that were heard.
    pub fn sources(&self) -> Vec<SourceFigures> {
        self.sources.list()
    }

    /// Counts of the stream.
    pub fn intake(&self) -> Intake {
        let [missed, dropped, twice, broken] = self.sources.totals();
        Intake { missed, dropped, twice, broken, ..self.intake.clone() }
    }

    /// Pairs of audit group and log group: numbers of plain lines are told in the former.
    pub fn set_audit_groups(&mut self, pairs: impl IntoIterator<Item = (GroupName, GroupName)>) {
        self.audits =
            pairs.into_iter().map(|(audit, log)| (audit.as_bytes().into(), log.as_bytes().into())).collect();
    }

    /// A server of the figures is one Apache (`name@daemon`) from now on, not all of a host.
    pub fn count_by_apache(&mut self) {
        self.by_apache = true;
    }

    /// The daemon this monitor is connected to.
    pub fn connected(&self) -> Option<&str> {
        self.connected.as_deref()
    }

    /// Sets the alerts that are on.
    pub fn set_alerts(&mut self, alerts: Vec<ActiveAlert>) {
        self.alerts = alerts;
    }

    /// The alerts that are on.
    pub fn alerts(&self) -> &[ActiveAlert] {
        &self.alerts
    }

    /// Since when it counts, in milliseconds since 1970.
    pub fn since_ms(&self) -> i64 {
        self.since_ms
    }
}

/// A state that the receiving thread and the viewers share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// Shares a state.
    pub fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// For as long as the guard lives, nothing is received: keep it short.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Figures of a viewer that panicked are still figures.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.1\" 200 5\n";
    const NOW_MS: i64 = 971_211_336_500;

    fn state(tail_bytes: usize) -> State {
        let bounds = Bounds { tail_bytes, ..Bounds::default() };
        State::new(Format::named("common").unwrap(), bounds, NOW_MS)
    }

    #[test]
    fn a_new_filter_begins_with_the_kept_lines() {
        let mut state = state(1 << 20);
        let web1: Arc<str> = "web1".into();
        state.handle_payload(NOW_MS, &web1, format!("{LINE}{LINE}").as_bytes());
        state.handle_payload(NOW_MS, &web1, LINE.replace("200", "404").trim_end().as_bytes());
        state.handle_payload(NOW_MS, &web1, b"what is this\n");
        let filter = Filter::parse("status=404").unwrap();
        let count = |state: &mut State| {
            let (figures, since) = state.figures(Some(("status=404", &filter)));
            (figures.total().window().total().requests, since)
        };
        assert_eq!(count(&mut state), (1, NOW_MS));
        state.handle_payload(NOW_MS, &web1, LINE.replace("200", "404").as_bytes());
        assert_eq!(count(&mut state).0, 2);
        assert_eq!(state.figures(None).0.total().window().total().requests, 4);
        assert_eq!(state.intake().lines, 5);
        assert_eq!(state.intake().rejected, BTreeMap::from([("missing_field", 1)]));
    }

    #[test]
    fn lines_filters_and_notices_are_bounded_and_since_is_honest() {
        let mut state = state(LINE.len() * 3);
        let web1: Arc<str> = "web1".into();
        for n in 0..10 {
            state.handle_payload(NOW_MS + n, &web1, LINE.as_bytes());
            state.notice(n, "x".to_owned());
        }
        assert_eq!(state.tail(None, 0, 100).iter().map(|l| l.number).collect::<Vec<_>>(), [8, 9, 10]);
        assert_eq!(state.tail(None, 9, 100).len(), 1);
        for n in 0..20 {
            let text = format!("status={n}");
            let filter = Filter::parse(&text).unwrap();
            assert_eq!(state.figures(Some((&text, &filter))).1, NOW_MS + 7);
        }
        assert_eq!(state.views.len(), Bounds::default().filters);
        for _ in 0..500 {
            state.notice(0, "x".to_owned());
        }
        assert_eq!(state.notices().count(), Bounds::default().notices);
    }
}
