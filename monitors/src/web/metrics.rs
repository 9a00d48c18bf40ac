//! Figures for Prometheus, in its text format. Labels are servers, status classes and line classes: few, known
//! values, never a path or a client.

use std::fmt::Write;

use access_log::stats::Span;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::state::{Shared, State as Figures};
use crate::watch::now_ms;

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) async fn metrics(State(state): State<Shared>) -> Response {
    let text = render(&mut state.lock(), now_ms());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A label's value: quotes, backslashes and line feeds escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn render(state: &mut Figures, now_ms: i64) -> String {
    let mut out = Text(String::new());
    let (figures, _) = state.figures(None);
    out.family("spread_log_requests_total", "counter", "Requests by server and status class.");
    for (server, series) in figures.servers() {
        for (class, count) in CLASSES.iter().zip(series.window().total().classes) {
            let labels = format!("server=\"{}\",class=\"{class}\"", label(server));
            out.sample("spread_log_requests_total", &labels, count);
        }
    }
    out.family("spread_log_response_bytes_total", "counter", "Bytes of responses by server.");
    for (server, series) in figures.servers() {
        let labels = format!("server=\"{}\"", label(server));
        out.sample("spread_log_response_bytes_total", &labels, series.window().total().bytes);
    }
    out.family(
        "spread_log_latency_seconds",
        "gauge",
        "Quantiles of the request duration over the last minute.",
    );
    let last = now_ms.div_euclid(1000);
    for (server, series) in figures.servers() {
        let latency = series.latency(Span::Minute, last);
        for (per_mille, quantile) in [(500, "0.5"), (950, "0.95"), (990, "0.99")] {
            if let Some(micros) = latency.quantile(per_mille) {
                let labels = format!("server=\"{}\",quantile=\"{quantile}\"", label(server));
                out.sample("spread_log_latency_seconds", &labels, micros as f64 / 1e6);
            }
        }
    }
    out.family(
        "spread_log_last_entry_timestamp_seconds",
        "gauge",
        "Latest time that an entry of a server named.",
    );
    for (server, series) in figures.servers() {
        if let Some(second) = series.last_second() {
            let labels = format!("server=\"{}\"", label(server));
            out.sample("spread_log_last_entry_timestamp_seconds", &labels, second);
        }
    }
    out.family("spread_log_clients", "gauge", "Different clients since the start (estimate).");
    out.sample("spread_log_clients", "", figures.total().clients());

    let intake = state.intake();
    out.family("spread_log_lines_total", "counter", "Lines received.");
    out.sample("spread_log_lines_total", "", intake.lines);
    out.family("spread_log_messages_total", "counter", "Messages received.");
    out.sample("spread_log_messages_total", "", intake.messages);
    out.family("spread_log_rejected_lines_total", "counter", "Lines that are not of the format, by class.");
    for error in access_log::LineError::ALL {
        let count = intake.rejected.get(error.class()).copied().unwrap_or(0);
        out.sample("spread_log_rejected_lines_total", &format!("class=\"{}\"", error.class()), count);
    }
    out.family(
        "spread_log_reconnects_total",
        "counter",
        "Connections to the daemon that were lost and made again.",
    );
    out.sample("spread_log_reconnects_total", "", intake.reconnects);
    for (name, value, help) in [
        ("spread_log_missed_lines", intake.missed, "Numbered lines that did not come."),
        ("spread_log_dropped_lines_total", intake.dropped, "Lines that the web servers report as dropped."),
        ("spread_log_repeated_lines_total", intake.twice, "Lines that came again and were counted once."),
        ("spread_log_broken_messages_total", intake.broken, "Messages that are neither lines nor a frame."),
    ] {
        out.family(
            name, // A missing line may still come.
            if name.contains("missed") { "gauge" } else { "counter" },
            help,
        );
        out.sample(name, "", value);
    }
    out.family("spread_log_connected", "gauge", "1 while connected to a daemon.");
    out.sample("spread_log_connected", "", u8::from(state.connected().is_some()));
    out.family("spread_log_group_members", "gauge", "Members of each log group.");
    for (group, members) in state.groups() {
        out.sample("spread_log_group_members", &format!("group=\"{}\"", label(group)), members.len());
    }
    out.family("spread_log_alert_active", "gauge", "1 while an alert is on.");
    for alert in state.alerts() {
        let labels = format!("alert=\"{}\",subject=\"{}\"", label(&alert.name), label(&alert.subject));
        out.sample("spread_log_alert_active", &labels, 1);
    }
    out.0
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use access_log::Format;

    use super::*;
    use crate::state::Bounds;

    /// However many servers, hosts, paths and clients there are, the samples stay few.
    #[test]
    fn the_number_of_samples_is_bounded() {
        let mut state = Figures::new(Format::named("common").unwrap(), Bounds::default(), 0);
        for n in 0..1000 {
            let line = format!(
                "192.0.2.{n} - - [10/Oct/2000:13:55:36 -0700] \"M{n} /{n} HTTP/1.1\" {} 5\n",
                100 + n % 500
            );
            state.handle_payload(971_211_336_000, &format!("web{n}").into(), line.as_bytes());
        }
        let text = render(&mut state, 971_211_336_000);
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        let servers = access_log::stats::Limits::default().servers + 1;
        // Six classes, bytes, three quantiles, the last time; and what is there once.
        assert!(samples <= servers * 11 + 40, "{samples}");
    }

    #[test]
    fn labels_are_few_and_escaped() {
        let mut state = Figures::new(Format::named("common").unwrap(), Bounds::default(), 0);
        let server: Arc<str> = "we\"b".into();
        let line = "192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /secret HTTP/1.1\" 404 5\n";
        state.handle_payload(971_211_336_000, &server, line.as_bytes());
        let text = render(&mut state, 971_211_336_000);
        assert!(text.contains("spread_log_requests_total{server=\"we\\\"b\",class=\"4xx\"} 1\n"), "{text}");
        assert!(text.contains("spread_log_response_bytes_total{server=\"we\\\"b\"} 5\n"));
        assert!(text.contains("spread_log_rejected_lines_total{class=\"bad_time\"} 0\n"));
        assert!(!text.contains("secret") && !text.contains("192.0.2.4"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
