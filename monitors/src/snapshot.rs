//! All figures at one moment, as the terminal draws them, the page shows them and the API gives them.

use std::collections::{BTreeMap, BTreeSet};

use access_log::stats::{Counters, Dimension, Series, Span, Window};
use serde::Serialize;

use crate::filter::Filter;
use crate::machines::Machine;
use crate::ring::Ring;
use crate::sources::SourceFigures;
use crate::state::{ActiveAlert, Intake, Notice, State};

/// Everything at one moment. Times are milliseconds since 1970, durations microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The moment.
    pub now_ms: i64,
    /// The last second that is counted as complete: all windows end with it.
    pub last_second: i64,
    /// Since when these figures count.
    pub since_ms: i64,
    /// The filter they are of.
    pub filter: Option<String>,
    /// The daemon this monitor is connected to.
    pub daemon: Option<String>,
    /// Members of the log groups.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Daemons of these members, each with them.
    pub daemons: BTreeMap<String, BTreeSet<String>>,
    /// All daemons, if the metrics of one are known (`--daemon-metrics`).
    pub ring: Option<Ring>,
    /// The web servers that were heard, and what of their lines was missed.
    pub sources: Vec<SourceFigures>,
    /// Everything together.
    pub total: SeriesFigures,
    /// By server, in order of their names.
    pub servers: Vec<SeriesFigures>,
    /// By virtual host, in order of their names.
    pub vhosts: Vec<SeriesFigures>,
    /// By method.
    pub methods: BTreeMap<String, WindowFigures>,
    /// By status.
    pub statuses: BTreeMap<u16, WindowFigures>,
    /// The most frequent values over [`top_over`](Self::top_over).
    pub top: BTreeMap<&'static str, Vec<TopFigures>>,
    /// `1s`, `10s`, `1m`, `1h` or `start` (since the start).
    pub top_over: &'static str,
    /// Counts of the stream itself (of everything, whatever the filter).
    pub intake: Intake,
    /// Lines whose time is ahead of this machine's clock.
    pub clock_ahead: u64,
    /// Machines that announce their resources.
    pub machines: Vec<Machine>,
    /// The alerts that are on.
    pub alerts: Vec<ActiveAlert>,
    /// The newest notices, the newest first.
    pub notices: Vec<Notice>,
}

/// Figures of one server, virtual host or everything.
#[derive(Clone, Debug, Serialize)]
pub struct SeriesFigures {
    /// Its name; empty for everything.
    pub name: String,
    /// By length of time: `1s`, `10s`, `1m`, `1h`.
    pub windows: BTreeMap<&'static str, WindowFigures>,
    /// Durations of the last `10s`, `1m`, `1h`.
    pub latency: BTreeMap<&'static str, LatencyFigures>,
    /// Requests of each of the last 60 seconds, the oldest first.
    pub seconds: Vec<u64>,
    /// Requests of each of the last 60 minutes, the oldest first, the running one last.
    pub minutes: Vec<u64>,
    /// Requests since the start.
    pub requests: u64,
    /// Bytes since the start.
    pub bytes: u64,
    /// Different clients since the start (within 1.6 %).
    pub clients: u64,
    /// The latest second that an entry named.
    pub last_second: Option<i64>,
}

/// Counters over a length of time, and what they are per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WindowFigures {
    /// Requests.
    pub requests: u64,
    /// Bytes of the responses.
    pub bytes: u64,
    /// Without a status from 100 to 599, then 1xx to 5xx.
    pub classes: [u64; 6],
    /// Requests per second.
    pub rps: f64,
    /// Megabits per second.
    pub mbps: f64,
}

/// Quantiles of durations in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Requests with a duration.
    pub count: u64,
    /// Median.
    pub p50: Option<u64>,
    /// 95 %.
    pub p95: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

/// One of the most frequent values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopFigures {
    /// The value; bytes that are not UTF-8 are replaced.
    pub value: String,
    /// How often it occurred, at most.
    pub count: u64,
    /// By how much `count` can be too large.
    pub error: u64,
    /// Bytes of its responses.
    pub bytes: u64,
}

/// Which of the most frequent values are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopList {
    /// How many of each kind.
    pub count: usize,
    /// Over which window; since the start without one.
    pub over: Option<Span>,
}

impl From<usize> for TopList {
    /// Since the start.
    fn from(count: usize) -> Self {
        Self { count, over: None }
    }
}

/// The window of a name: `1s`, `10s`, `1m`, `1h`, or `start` for none.
///
/// # Errors
/// Any other name: what is expected.
pub fn parse_over(name: &str) -> Result<Option<Span>, String> {
    if name == "start" {
        return Ok(None);
    }
    let span = Span::ALL.into_iter().find(|span| span_name(*span) == name);
    span.map(Some).ok_or_else(|| format!("{name:?}: expected one of 1s, 10s, 1m, 1h, start"))
}

/// A line is logged when its request ends and arrives a moment later: the running second and the one before
/// are not complete.
const LAG_SECONDS: i64 = 2;

/// Name of a length of time in the API.
pub fn span_name(span: Span) -> &'static str {
    match span {
        Span::Second => "1s",
        Span::TenSeconds => "10s",
        Span::Minute => "1m",
        Span::Hour => "1h",
    }
}

/// Name of a dimension in the API.
pub fn dimension_name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Path => "path",
        Dimension::FailedPath => "failed_path",
        Dimension::Client => "client",
        Dimension::UserAgent => "agent",
        Dimension::Referer => "referer",
    }
}

impl WindowFigures {
    fn new(sum: Counters, seconds: u32) -> Self {
        let per_second = |n: u64| n as f64 / f64::from(seconds.max(1));
        Self {
            requests: sum.requests,
            bytes: sum.bytes,
            classes: sum.classes,
            rps: per_second(sum.requests),
            mbps: per_second(sum.bytes) * 8.0 / 1e6,
        }
    }

    fn of(window: &Window, span: Span, last: i64) -> Self {
        Self::new(window.sum(span, last), span.seconds())
    }
}

impl SeriesFigures {
    fn new(name: &str, series: &Series, last: i64) -> Self {
        let window = series.window();
        let latency = |span: Span| {
            let latency = series.latency(span, last);
            LatencyFigures {
                count: latency.count(),
                p50: latency.quantile(500),
                p95: latency.quantile(950),
                p99: latency.quantile(990),
                max: latency.max(),
            }
        };
        Self {
            name: name.to_owned(),
            windows: Span::ALL.map(|span| (span_name(span), WindowFigures::of(window, span, last))).into(),
            latency: [Span::TenSeconds, Span::Minute, Span::Hour].map(|s| (span_name(s), latency(s))).into(),
            seconds: window.seconds(60, last).iter().map(|counters| counters.requests).collect(),
            minutes: window.minutes(60, last).iter().map(|counters| counters.requests).collect(),
            requests: window.total().requests,
            bytes: window.total().bytes,
            clients: series.clients(),
            last_second: series.last_second(),
        }
    }
}

impl Snapshot {
    /// The figures at `now_ms`, with the most frequent values of each kind.
    pub fn take(
        state: &mut State,
        filter: Option<(&str, &Filter)>,
        now_ms: i64,
        top: impl Into<TopList>,
    ) -> Self {
        Self::ending_with(state, filter, now_ms, now_ms.div_euclid(1000) - LAG_SECONDS, top)
    }

    /// As [`take`](Self::take), with windows that end with the second `last`.
    pub fn ending_with(
        state: &mut State,
        filter: Option<(&str, &Filter)>,
        now_ms: i64,
        last: i64,
        top: impl Into<TopList>,
    ) -> Self {
        let top = top.into();
        let (figures, since_ms) = state.figures(filter);
        let minute = |window: &Window| WindowFigures::of(window, Span::Minute, last);
        let top_of = |dimension| {
            let counted = match top.over {
                None => figures.top(dimension).top(top.count),
                Some(span) => figures.top_over(dimension, span, last, top.count),
            };
            let top = counted.into_iter().map(|counted| TopFigures {
                value: String::from_utf8_lossy(&counted.value).into_owned(),
                count: counted.count,
                error: counted.error,
                bytes: counted.weight,
            });
            (dimension_name(dimension), top.collect())
        };
        Self {
            now_ms,
            last_second: last,
            since_ms,
            filter: filter.map(|(text, _)| text.to_owned()),
            total: SeriesFigures::new("", figures.total(), last),
            servers: figures.servers().map(|(name, series)| SeriesFigures::new(name, series, last)).collect(),
            vhosts: figures.vhosts().map(|(name, series)| SeriesFigures::new(name, series, last)).collect(),
            methods: figures.methods().map(|(name, window)| (name.to_owned(), minute(window))).collect(),
            statuses: figures.statuses().map(|(status, window)| (status, minute(window))).collect(),
            top: Dimension::ALL.into_iter().map(top_of).collect(),
            top_over: top.over.map_or("start", span_name),
            clock_ahead: figures.clock_ahead(),
            daemon: state.connected().map(str::to_owned),
            groups: state.groups().clone(),
            daemons: state.daemons(),
            ring: state.ring().cloned(),
            sources: state.sources(),
            intake: state.intake(),
            machines: state.machines().iter().cloned().collect(),
            alerts: state.alerts().to_vec(),
            notices: state.notices().rev().take(20).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use access_log::Format;

    use super::*;
    use crate::state::Bounds;

    /// The figures of a window are those of the lines that name its seconds: what anybody can recompute from
    /// the log.
    #[test]
    fn a_snapshot_can_be_recomputed_from_the_lines() {
        let now_ms = 971_211_340_000;
        let mut state = State::new(Format::named("common").unwrap(), Bounds::default(), now_ms);
        let (web1, web2): (Arc<str>, Arc<str>) = ("web1".into(), "web2".into());
        for second in 30..40 {
            let line = format!(
                "192.0.2.{second} - - [10/Oct/2000:13:55:{second} -0700] \"GET /{second} HTTP/1.1\" 200 1000\n"
            );
            state.handle_payload(now_ms, if second < 35 { &web1 } else { &web2 }, line.as_bytes());
        }
        let shot = Snapshot::take(&mut state, None, now_ms, 3);
        assert_eq!(shot.last_second, 971_211_338);
        assert_eq!(shot.total.windows["1s"].requests, 1);
        // 10 s end with second 38: 29 to 38.
        assert_eq!(shot.total.windows["10s"].requests, 9);
        assert!((shot.total.windows["10s"].mbps - 9.0 * 8000.0 / 1e7).abs() < 1e-9);
        assert_eq!(shot.total.requests, 10);
        assert_eq!(
            shot.servers.iter().map(|s| (s.name.as_str(), s.requests)).collect::<Vec<_>>(),
            [("web1", 5), ("web2", 5)]
        );
        assert_eq!(shot.total.seconds.iter().sum::<u64>(), 9);
        assert_eq!((shot.top["path"].len(), shot.top_over), (3, "start"));
        let second = TopList { count: 3, over: parse_over("1s").unwrap() };
        let second = Snapshot::take(&mut state, None, now_ms, second);
        assert_eq!((second.top["path"].len(), second.top["path"][0].value.as_str()), (1, "/38"));
        assert!(parse_over("5m").unwrap_err().contains("1m"));
        assert_eq!(shot.statuses[&200].requests, 9);
        let json = serde_json::to_value(&shot).unwrap();
        assert_eq!(json["total"]["windows"]["10s"]["classes"][2], 9);
    }
}
