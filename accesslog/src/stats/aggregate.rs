//! All figures of one stream of entries.

use std::collections::BTreeMap;

use super::topk::Hashed;
use super::{Counted, Counters, Hll, Latency, Span, TopK, TopWindow, Window};
use crate::{Entry, unescape};

/// How many different keys are kept; all further ones count under [`OTHER`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Servers; about 350 KiB each.
    pub servers: usize,
    /// Virtual hosts; about 350 KiB each.
    pub vhosts: usize,
    /// Methods; about 9 KiB each.
    pub methods: usize,
    /// Most frequent values of each [`Dimension`] since the start; up to about 400 bytes each.
    pub top: usize,
    /// The same of each second and each minute of an hour: 125 times as many, up to about 400 bytes each. The error
    /// of a count over a window is at most the requests of the window divided by this.
    pub top_window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { servers: 128, vhosts: 128, methods: 16, top: 1000, top_window: 200 }
    }
}

impl Limits {
    /// Bytes of memory that an [`Aggregate`] with these limits takes at most, whatever comes.
    pub fn memory_max(&self) -> usize {
        const KIB: usize = 1024;
        // Everything beyond a limit has a series, too, and so has everything together.
        let series = (self.servers + self.vhosts + 3) * 350 * KIB;
        let windows = (self.methods + 1 + STATUSES) * 9 * KIB;
        let tops = Dimension::ALL.len() * (self.top + TopWindow::PERIODS * self.top_window) * 400;
        series + windows + tops
    }
}

/// Different statuses that an entry can have: three digits.
const STATUSES: usize = 1000;

/// The key of everything beyond a limit.
pub const OTHER: &str = "(other)";

/// What the most frequent values are kept of, since the start and over each [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Path without its query.
    Path,
    /// Path of requests that ended with status 400 to 599.
    FailedPath,
    /// Client host or address.
    Client,
    /// The client's program.
    UserAgent,
    /// The referring page.
    Referer,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Path, Self::FailedPath, Self::Client, Self::UserAgent, Self::Referer];
}

/// Durations of ten seconds or a minute each.
const TENS: usize = 7;
const MINUTES: usize = 61;

/// Figures of one server, one virtual host, or everything.
#[derive(Clone, Debug)]
pub struct Series {
    window: Window,
    tens: Vec<(i64, Latency)>,
    minutes: Vec<(i64, Latency)>,
    clients: Hll,
    last_second: i64,
}

impl Default for Series {
    fn default() -> Self {
        let empty = |count| vec![(i64::MIN, Latency::default()); count];
        Self {
            window: Window::default(),
            tens: empty(TENS),
            minutes: empty(MINUTES),
            clients: Hll::default(),
            last_second: i64::MIN,
        }
    }
}

impl Series {
    fn add(&mut self, second: i64, counters: Counters, entry: &Entry<'_>) {
        self.window.add(second, counters);
        self.last_second = self.last_second.max(second);
        if let Some(micros) = entry.duration_us {
            add_latency(&mut self.tens, second.div_euclid(10), micros);
            add_latency(&mut self.minutes, second.div_euclid(60), micros);
        }
        if !entry.host.is_empty() {
            self.clients.add(entry.host);
        }
    }

    /// Requests, bytes and classes over the windows.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Different clients since the start, within 1.6 % (one standard error).
    pub fn clients(&self) -> u64 {
        self.clients.estimate()
    }

    /// The latest second that an entry named; `None` before the first entry.
    pub fn last_second(&self) -> Option<i64> {
        (self.last_second > i64::MIN).then_some(self.last_second)
    }

    /// Durations of the last ten seconds, the last minute (both in steps of ten seconds: the running one and
    /// those before it) or the last hour (in steps of a minute).
    pub fn latency(&self, span: Span, last: i64) -> Latency {
        let (slots, last, count) = match span {
            Span::Second | Span::TenSeconds => (&self.tens, last.div_euclid(10), 2),
            Span::Minute => (&self.tens, last.div_euclid(10), 6),
            Span::Hour => (&self.minutes, last.div_euclid(60), 60),
        };
        let mut sum = Latency::default();
        for (_, latency) in slots.iter().filter(|(period, _)| (last - count + 1..=last).contains(period)) {
            sum.merge(latency);
        }
        sum
    }
}

fn add_latency(slots: &mut [(i64, Latency)], period: i64, micros: u64) {
    let count = i64::try_from(slots.len()).unwrap_or(1);
    let Ok(at) = usize::try_from(period.rem_euclid(count)) else { return };
    let slot = &mut slots[at];
    if slot.0 < period {
        slot.0 = period;
        slot.1.clear();
    }
    if slot.0 == period {
        slot.1.add(micros);
    }
}

/// All figures of a stream of entries, in bounded memory.
#[derive(Clone, Debug)]
pub struct Aggregate {
    limits: Limits,
    total: Series,
    servers: BTreeMap<Box<str>, Series>,
    vhosts: BTreeMap<Box<str>, Series>,
    methods: BTreeMap<Box<str>, Window>,
    statuses: BTreeMap<u16, Window>,
    tops: [Top; Dimension::ALL.len()],
    clock_ahead: u64,
}

/// The most frequent values of one dimension.
#[derive(Clone, Debug)]
struct Top {
    all: TopK,
    window: TopWindow,
}

/// An entry may name a time this much later than the clock of who counts: clocks differ a little.
const AHEAD_MAX: i64 = 5;

impl Aggregate {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: Series::default(),
            servers: BTreeMap::new(),
            vhosts: BTreeMap::new(),
            methods: BTreeMap::new(),
            statuses: BTreeMap::new(),
            tops: std::array::from_fn(|_| Top {
                all: TopK::new(limits.top),
                window: TopWindow::new(limits.top_window),
            }),
            clock_ahead: 0,
        }
    }

    /// Counts one entry that came from `server`. `now` is the time here in seconds since 1970: it is used for
    /// an entry without a time, or with one more than five seconds ahead.
    pub fn add(&mut self, now: i64, server: &str, entry: &Entry<'_>) {
        let mut second = entry.time_us.map_or(now, |micros| micros.div_euclid(1_000_000));
        if second > now.saturating_add(AHEAD_MAX) {
            self.clock_ahead += 1;
            second = now;
        }
        let counters = Counters::one(entry.status, entry.bytes);
        self.total.add(second, counters, entry);
        slot(&mut self.servers, self.limits.servers, server).add(second, counters, entry);
        if let Some(vhost) = entry.vhost {
            let vhost = String::from_utf8_lossy(vhost);
            slot(&mut self.vhosts, self.limits.vhosts, &vhost).add(second, counters, entry);
        }
        if let Some(status) = entry.status {
            self.statuses.entry(status).or_default().add(second, counters);
        }
        self.add_request(second, counters, entry);
        if !entry.host.is_empty() {
            self.add_value(Dimension::Client, second, entry.host, counters.bytes);
        }
        for (dimension, text) in
            [(Dimension::Referer, entry.referer_raw), (Dimension::UserAgent, entry.user_agent_raw)]
        {
            if let Some(text) = text.filter(|text| *text != b"-") {
                self.add_value(dimension, second, &unescape(text), counters.bytes);
            }
        }
    }

    fn add_request(&mut self, second: i64, counters: Counters, entry: &Entry<'_>) {
        let line = entry.request_line();
        let method = line.as_ref().map(|line| line.method.as_ref()).or(entry.method_raw);
        if let Some(method) = method {
            let method = String::from_utf8_lossy(method);
            slot(&mut self.methods, self.limits.methods, &method).add(second, counters);
        }
        let Some(target) = line.as_ref().map(|line| line.target.as_ref()).or(entry.path_raw) else { return };
        let path = target.split(|&b| b == b'?').next().unwrap_or(target);
        self.add_value(Dimension::Path, second, path, counters.bytes);
        if entry.status.is_some_and(|status| (400..600).contains(&status)) {
            self.add_value(Dimension::FailedPath, second, path, counters.bytes);
        }
    }

    fn add_value(&mut self, dimension: Dimension, second: i64, value: &[u8], weight: u64) {
        let top = &mut self.tops[dimension as usize];
        let value = Hashed::new(value);
        top.all.count(value, weight);
        top.window.count(second, value, weight);
    }

    /// Everything together.
    pub fn total(&self) -> &Series {
        &self.total
    }

    /// By server, in order of their names.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.servers.iter().map(|(name, series)| (name.as_ref(), series))
    }

    /// By virtual host, in order of their names.
    pub fn vhosts(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.vhosts.iter().map(|(name, series)| (name.as_ref(), series))
    }

    /// By method, in order of their names.
    pub fn methods(&self) -> impl Iterator<Item = (&str, &Window)> {
        self.methods.iter().map(|(name, window)| (name.as_ref(), window))
    }

    /// By status.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, &Window)> {
        self.statuses.iter().map(|(status, window)| (*status, window))
    }

    /// The most frequent values since the start.
    pub fn top(&self, dimension: Dimension) -> &TopK {
        &self.tops[dimension as usize].all
    }

    /// The `k` most frequent values over `span`, which ends with the second `last`; see [`TopWindow::top`].
    pub fn top_over(&self, dimension: Dimension, span: Span, last: i64, k: usize) -> Vec<Counted> {
        self.tops[dimension as usize].window.top(span, last, k)
    }

    /// Entries whose time was too far ahead: the clock of a server is wrong.
    pub fn clock_ahead(&self) -> u64 {
        self.clock_ahead
    }
}

/// The value of `name`, or that of [`OTHER`] once there are `max`.
fn slot<'a, T: Default>(map: &'a mut BTreeMap<Box<str>, T>, max: usize, name: &str) -> &'a mut T {
    let name = if map.len() < max || map.contains_key(name) { name } else { OTHER };
    // No allocation for a name that is there: nearly every entry's.
    if !map.contains_key(name) {
        map.insert(name.into(), T::default());
    }
    map.get_mut(name).expect("inserted above if it was not there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    const NOW: i64 = 971_211_336;

    fn entry(format: &Format, line: &'static str) -> Entry<'static> {
        format.parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn figures_are_kept_by_server_host_status_and_path() {
        let format =
            Format::compile(r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#).unwrap();
        let mut all = Aggregate::new(Limits::default());
        let a = "www.example.com:80 192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /a?q=1 HTTP/1.1\" 200 5 \"-\" \"x\" 100\n";
        let b = "www.example.org:80 192.0.2.5 - - [10/Oct/2000:13:55:35 -0700] \"POST /b HTTP/1.1\" 503 7 \"/\" \"x\" 300\n";
        all.add(NOW, "web1", &entry(&format, a));
        all.add(NOW, "web2", &entry(&format, b));
        all.add(NOW, "web2", &entry(&format, a));
        let total = all.total().window().sum(Span::TenSeconds, NOW);
        assert_eq!((total.requests, total.bytes, total.classes), (3, 17, [0, 0, 2, 0, 0, 1]));
        assert_eq!(all.total().window().sum(Span::Second, NOW).requests, 2);
        let servers: Vec<_> = all.servers().map(|(name, s)| (name, s.window().total().requests)).collect();
        assert_eq!(servers, [("web1", 1), ("web2", 2)]);
        assert_eq!(all.vhosts().count(), 2);
        assert_eq!(
            all.statuses().map(|(status, w)| (status, w.total().requests)).collect::<Vec<_>>(),
            [(200, 2), (503, 1)]
        );
        assert_eq!(all.methods().map(|(name, _)| name).collect::<Vec<_>>(), ["GET", "POST"]);
        assert_eq!(all.top(Dimension::Path).top(1)[0].value, b"/a");
        assert_eq!(all.top(Dimension::FailedPath).top(9).len(), 1);
        let over = |span| all.top_over(Dimension::Path, span, NOW, 9).into_iter().map(|c| (c.value, c.count));
        assert_eq!(over(Span::Second).collect::<Vec<_>>(), [(b"/a".to_vec(), 2)]);
        assert_eq!(over(Span::Minute).collect::<Vec<_>>(), [(b"/a".to_vec(), 2), (b"/b".to_vec(), 1)]);
        assert_eq!(all.total().clients(), 2);
        assert_eq!(all.total().latency(Span::TenSeconds, NOW).quantile(0), Some(102), "100 us, to 1/16");
        assert_eq!(all.total().latency(Span::Hour, NOW).max(), Some(300));
    }

    #[test]
    fn keys_beyond_the_limit_count_as_other_and_clocks_ahead_as_now() {
        let format = Format::named("common").unwrap();
        let mut all = Aggregate::new(Limits { servers: 2, ..Limits::default() });
        let line = "192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5\n";
        for server in ["a", "b", "c", "d", "a"] {
            all.add(NOW - 60, server, &entry(&format, line));
        }
        let servers: Vec<_> = all.servers().map(|(name, s)| (name, s.window().total().requests)).collect();
        assert_eq!(servers, [(OTHER, 2), ("a", 2), ("b", 1)]);
        assert_eq!(all.clock_ahead(), 5);
        assert_eq!(all.total().window().sum(Span::Second, NOW - 60).requests, 5);
    }
}
