//! The data of the page as JSON, at one moment or as a stream of events.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};

use crate::filter::Filter;
use crate::history::History;
use crate::snapshot::{Snapshot, TopList, parse_over};
use crate::state::{Shared, TailLine};
use crate::watch::now_ms;

/// Most lines and most frequent values that one answer has.
const COUNT_MAX: usize = 1000;

#[derive(Deserialize)]
pub(super) struct Params {
    filter: Option<String>,
    /// Most frequent values of each kind.
    top: Option<usize>,
    /// Window of the most frequent values; since the start without one.
    over: Option<String>,
    /// Lines.
    count: Option<usize>,
    /// Number of the last line that is known.
    after: Option<u64>,
}

/// A filter with its text.
type Named = Option<(String, Filter)>;

impl Params {
    fn filter(&self) -> Result<Named, Refusal> {
        let text = self.filter.as_deref().map_or("", str::trim);
        if text.is_empty() {
            return Ok(None);
        }
        match Filter::parse(text) {
            Ok(filter) => Ok(Some((text.to_owned(), filter))),
            Err(error) => Err(Refusal { at: Some(error.at), error: error.to_string() }),
        }
    }

    fn top(&self) -> Result<TopList, Refusal> {
        let over = parse_over(self.over.as_deref().unwrap_or("start"))
            .map_err(|expected| Refusal { error: format!("over={expected}"), at: None })?;
        Ok(TopList { count: self.top.unwrap_or(20).min(COUNT_MAX), over })
    }

    fn count(&self) -> usize {
        self.count.unwrap_or(100).min(COUNT_MAX)
    }
}

/// Why a question cannot be answered.
#[derive(Serialize)]
struct Refusal {
    error: String,
    /// Where in the filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<usize>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(self)).into_response()
    }
}

fn named(filter: &Named) -> Option<(&str, &Filter)> {
    filter.as_ref().map(|(text, filter)| (text.as_str(), filter))
}

/// One line of the tail.
#[derive(Serialize)]
struct Line {
    number: u64,
    at_ms: i64,
    server: String,
    line: String,
}

impl From<TailLine> for Line {
    fn from(kept: TailLine) -> Self {
        Self {
            number: kept.number,
            at_ms: kept.at_ms,
            server: kept.server.to_string(),
            line: String::from_utf8_lossy(kept.line.trim_ascii_end()).into_owned(),
        }
    }
}

fn lines(state: &Shared, filter: &Named, after: u64, count: usize) -> Vec<Line> {
    let kept = state.lock().tail(filter.as_ref().map(|(_, filter)| filter), after, count);
    kept.into_iter().map(Line::from).collect()
}

pub(super) async fn snapshot(State(state): State<Shared>, Query(params): Query<Params>) -> Response {
    match params.filter().and_then(|filter| Ok((filter, params.top()?))) {
        Ok((filter, top)) => {
            Json(Snapshot::take(&mut state.lock(), named(&filter), now_ms(), top)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

pub(super) async fn tail(State(state): State<Shared>, Query(params): Query<Params>) -> Response {
    match params.filter() {
        Ok(filter) => Json(lines(&state, &filter, params.after.unwrap_or(0), params.count())).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// What an event of the stream carries.
#[derive(Serialize)]
struct Tick {
    snapshot: Snapshot,
    /// Lines since the last event, the newest if there are too many.
    lines: Vec<Line>,
}

/// Every second the figures and the new lines.
pub(super) async fn stream(State(state): State<Shared>, Query(params): Query<Params>) -> Response {
    match params.filter().and_then(|filter| Ok((filter, params.top()?))) {
        Ok((filter, top)) => {
            Sse::new(ticks(state, &params, filter, top)).keep_alive(KeepAlive::default()).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn ticks(
    state: Shared,
    params: &Params,
    filter: Named,
    top: TopList,
) -> impl Stream<Item = Result<Event, axum::Error>> + use<> {
    let (count, mut after) = (params.count(), params.after.unwrap_or(0));
    IntervalStream::new(tokio::time::interval(Duration::from_secs(1))).map(move |_| {
        let snapshot = Snapshot::take(&mut state.lock(), named(&filter), now_ms(), top);
        let lines = lines(&state, &filter, after, count);
        after = lines.last().map_or(after, |last| last.number);
        Event::default().json_data(Tick { snapshot, lines })
    })
}

#[derive(Deserialize)]
pub(super) struct Range {
    /// Seconds since 1970.
    from: Option<i64>,
    to: Option<i64>,
}

/// The minutes of a range; without one, of the last day.
pub(super) async fn history(State(history): State<Option<History>>, Query(range): Query<Range>) -> Response {
    // Not an error: the page asks whether there is one.
    let Some(history) = history else { return StatusCode::NO_CONTENT.into_response() };
    let now = now_ms().div_euclid(1000);
    let (from, to) = (range.from.unwrap_or(now - 86_400), range.to.unwrap_or(now));
    match tokio::task::spawn_blocking(move || history.range(from, to)).await {
        Ok(Ok(minutes)) => Json(minutes).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// 200 while connected to a daemon, else 503.
pub(super) async fn healthz(State(state): State<Shared>) -> Response {
    match state.lock().connected() {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not connected to a daemon\n").into_response(),
    }
}
