//! Alerts: rules over the figures, looked at every second, told once when they begin and once when they end.
//!
//! ```toml
//! [[alert]]
//! name = "many 5xx"
//! kind = "status"            # share of a status class, per server
//! status = "5xx"
//! above_percent = 5.0
//! over = "1m"
//! min_requests = 20
//! webhook = "http://127.0.0.1:9000/alerts"
//!
//! [[alert]]
//! name = "server silent"
//! kind = "silent"            # a server that was seen logs nothing
//! seconds = 30
//!
//! [[alert]]
//! name = "traffic imbalance"
//! kind = "imbalance"         # one server has more than so many times the mean of all
//! factor = 3.0
//! over = "1m"
//! min_requests = 100
//!
//! [[alert]]
//! name = "fewer writers"
//! kind = "members"           # a log group has fewer members
//! group = "site4"
//! at_least = 2
//! command = ["/usr/local/bin/page-me"]
//! ```
//!
//! Every alert is logged. `webhook` gets an HTTP POST with JSON, `command` is run with the same values in
//! `ALERT_NAME`, `ALERT_STATE` (`begins` or `ends`), `ALERT_SUBJECT`, `ALERT_TEXT`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use access_log::stats::Span;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::snapshot::{Snapshot, span_name};

/// A file of rules.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    alert: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    /// Its name, in messages and metrics.
    pub name: String,
    /// What must hold for the alert to begin.
    #[serde(flatten)]
    pub condition: Condition,
    /// Where to post it: `http://host:port/path`.
    pub webhook: Option<String>,
    /// Program with arguments to run.
    pub command: Option<Vec<String>>,
}

/// What must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Condition {
    /// Share of a status class among the requests of a server.
    Status {
        /// `1xx` to `5xx`.
        status: String,
        /// Percent.
        above_percent: f64,
        /// Time span.
        over: String,
        /// Fewer requests never make an alert.
        #[serde(default)]
        min_requests: u64,
    },
    /// A server that was seen logs nothing for so long.
    Silent {
        /// Seconds.
        seconds: u64,
    },
    /// A server has more requests than `factor` times the mean of all servers.
    Imbalance {
        /// Times the mean.
        factor: f64,
        /// Time span.
        over: String,
        /// Fewer requests of all servers together never make an alert.
        #[serde(default)]
        min_requests: u64,
    },
    /// A log group has fewer members.
    Members {
        /// The group.
        group: String,
        /// Members it must have.
        at_least: usize,
    },
}

/// An alert that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Name of the rule.
    pub name: String,
    /// `begins` or `ends`.
    pub state: &'static str,
    /// The server or group it is about.
    pub subject: String,
    /// One sentence with the figures.
    pub text: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// The rules and which alerts are on.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    rules: Vec<Rule>,
    active: BTreeMap<(usize, String), String>,
}

fn span_of(name: &str) -> anyhow::Result<Span> {
    let span = Span::ALL.into_iter().find(|span| span_name(*span) == name);
    span.with_context(|| format!("over = {name:?}: expected one of 1s, 10s, 1m, 1h"))
}

fn class_of(status: &str) -> anyhow::Result<usize> {
    let class = status.strip_suffix("xx").and_then(|class| class.parse().ok());
    class
        .filter(|class| (1..=5).contains(class))
        .with_context(|| format!("status = {status:?}: expected 1xx, 2xx, 3xx, 4xx or 5xx"))
}

impl Alerts {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// If it cannot be read or understood: file, place, what was found and what is expected.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    /// Reads rules.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        refuse_unknown(text)?;
        for rule in &file.alert {
            check(rule).with_context(|| format!("alert {:?}", rule.name))?;
        }
        Ok(Self { rules: file.alert, active: BTreeMap::new() })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The alerts that are on: rule, subject, text.
    pub fn active(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.active
            .iter()
            .map(|((rule, subject), text)| (self.rules[*rule].name.as_str(), subject.as_str(), text.as_str()))
    }

    /// Looks at the figures of now; gives what began and what ended, each with its rule.
    pub fn look(&mut self, shot: &Snapshot) -> Vec<(Rule, Change)> {
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for (subject, text) in rule.condition.holds(shot) {
                let key = (index, subject.clone());
                seen.insert(key.clone());
                if self.active.insert(key, text.clone()).is_none() {
                    changes.push((rule.clone(), change(rule, "begins", &subject, text, shot.now_ms)));
                }
            }
        }
        let ended: Vec<_> = self.active.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        for key in ended {
            self.active.remove(&key);
            let rule = &self.rules[key.0];
            let text = format!("{} is over for {}", rule.name, key.1);
            changes.push((rule.clone(), change(rule, "ends", &key.1, text, shot.now_ms)));
        }
        changes
    }
}

fn change(rule: &Rule, state: &'static str, subject: &str, text: String, at_ms: i64) -> Change {
    Change { name: rule.name.clone(), state, subject: subject.to_owned(), text, at_ms }
}

/// A key that no rule of its kind knows is a mistake, mostly a misspelled one.
fn refuse_unknown(text: &str) -> anyhow::Result<()> {
    let table: toml::Table = toml::from_str(text)?;
    let alerts = table.get("alert").and_then(toml::Value::as_array).map_or(&[][..], Vec::as_slice);
    for alert in alerts.iter().filter_map(toml::Value::as_table) {
        let of = |key: &str| alert.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        let own: &[&str] = match of("kind") {
            "status" => &["status", "above_percent", "over", "min_requests"],
            "silent" => &["seconds"],
            "imbalance" => &["factor", "over", "min_requests"],
            _ => &["group", "at_least"],
        };
        let known = [&["name", "kind", "webhook", "command"], own].concat();
        if let Some(key) = alert.keys().find(|key| !known.contains(&key.as_str())) {
            bail!("alert {:?}: unknown key {key:?}; expected one of {}", of("name"), known.join(", "));
        }
    }
    Ok(())
}

fn check(rule: &Rule) -> anyhow::Result<()> {
    match &rule.condition {
        Condition::Status { status, over, above_percent, .. } => {
            class_of(status)?;
            span_of(over)?;
            ensure!(
                (0.0..100.0).contains(above_percent),
                "above_percent = {above_percent}: expected 0 to 100"
            );
        }
        Condition::Silent { seconds } => ensure!(*seconds > 0, "seconds = 0: expected 1 or more"),
        Condition::Imbalance { factor, over, .. } => {
            span_of(over)?;
            ensure!(*factor >= 1.0, "factor = {factor}: expected 1 or more");
        }
        Condition::Members { at_least, .. } => ensure!(*at_least > 0, "at_least = 0: expected 1 or more"),
    }
    if let Some(url) = &rule.webhook {
        webhook_parts(url)?;
    }
    if rule.command.as_ref().is_some_and(Vec::is_empty) {
        bail!("command = []: expected a program and its arguments");
    }
    Ok(())
}

/// Host with port, and path.
pub(crate) fn webhook_parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://");
    let rest = rest.with_context(|| format!("webhook = {url:?}: expected http://host:port/path"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    ensure!(!host.is_empty(), "webhook = {url:?}: expected a host");
    ensure!(!url.bytes().any(|b| b <= b' '), "webhook = {url:?}: no spaces are allowed in it");
    Ok((host, path))
}

impl Condition {
    /// The subjects for which it holds, each with a sentence.
    fn holds(&self, shot: &Snapshot) -> Vec<(String, String)> {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        match self {
            Self::Status { status, above_percent, over, min_requests } => {
                let class = class_of(status).unwrap_or(5);
                let found = shot.servers.iter().filter_map(|server| {
                    let w = server.windows.get(over.as_str())?;
                    let share = percent(w.classes[class], w.requests);
                    let holds = w.requests >= (*min_requests).max(1) && share > *above_percent;
                    holds.then(|| {
                        let (n, of) = (w.classes[class], w.requests);
                        let text = format!(
                            "{}: {n} of {of} requests ({share:.1} %) were {status} in {over}",
                            server.name
                        );
                        (server.name.clone(), text)
                    })
                });
                found.collect()
            }
            Self::Silent { seconds } => {
                let limit = i64::try_from(*seconds).unwrap_or(i64::MAX);
                let found = shot.servers.iter().filter_map(|server| {
                    let silent = shot.now_ms.div_euclid(1000) - server.last_second?;
                    let text = format!("{}: no line for {silent} s", server.name);
                    (silent > limit).then(|| (server.name.clone(), text))
                });
                found.collect()
            }
            Self::Imbalance { factor, over, min_requests } => {
                let requests = |server: &crate::snapshot::SeriesFigures| {
                    server.windows.get(over.as_str()).map_or(0, |w| w.requests)
                };
                let all: u64 = shot.servers.iter().map(requests).sum();
                let mean = all as f64 / shot.servers.len().max(1) as f64;
                if all < (*min_requests).max(1) {
                    return Vec::new();
                }
                let found = shot.servers.iter().filter_map(|server| {
                    let n = requests(server);
                    let text =
                        format!("{}: {n} requests in {over}, the mean of all is {mean:.0}", server.name);
                    (n as f64 > mean * factor).then(|| (server.name.clone(), text))
                });
                found.collect()
            }
            Self::Members { group, at_least } => {
                let n = shot.groups.get(group).map_or(0, Vec::len);
                // Just after a new connection the members are not known yet.
                let unknown = shot.intake.reconnects > 0 && !shot.groups.contains_key(group);
                if n >= *at_least || unknown {
                    return Vec::new();
                }
                vec![(group.clone(), format!("{group} has {n} members, not {at_least}"))]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use access_log::Format;

    use super::*;
    use crate::state::{Bounds, State};

    const NOW_MS: i64 = 971_211_340_000;

    fn line(status: u16) -> String {
        format!("192.0.2.4 - - [10/Oct/2000:13:55:37 -0700] \"GET / HTTP/1.1\" {status} 5\n")
    }

    fn texts(changes: Vec<(Rule, Change)>) -> Vec<(String, &'static str, String)> {
        changes.into_iter().map(|(_, c)| (c.name, c.state, c.text)).collect()
    }

    #[test]
    fn each_kind_begins_once_and_ends_once() {
        let rules = r#"
            [[alert]]
            name = "errors"
            kind = "status"
            status = "5xx"
            above_percent = 5.0
            over = "1m"
            min_requests = 20
            [[alert]]
            name = "silent"
            kind = "silent"
            seconds = 30
            [[alert]]
            name = "imbalance"
            kind = "imbalance"
            factor = 1.5
            over = "10s"
            min_requests = 30
            [[alert]]
            name = "writers"
            kind = "members"
            group = "site4"
            at_least = 2
        "#;
        let mut alerts = Alerts::parse(rules).unwrap();
        let mut state = State::new(Format::named("common").unwrap(), Bounds::default(), NOW_MS);
        let (web1, web2): (Arc<str>, Arc<str>) = ("web1".into(), "web2".into());
        for n in 0..38 {
            state.handle_payload(NOW_MS, &web1, line(if n < 2 { 500 } else { 200 }).as_bytes());
        }
        state.handle_payload(NOW_MS, &web2, line(500).as_bytes());
        let mut look = |at_ms: i64| texts(alerts.look(&Snapshot::take(&mut state, None, at_ms, 0)));
        let begun = look(NOW_MS);
        let expected = [
            ("errors", "begins", "web1: 2 of 38 requests (5.3 %) were 5xx in 1m"),
            ("imbalance", "begins", "web1: 38 requests in 10s, the mean of all is 20"),
            ("writers", "begins", "site4 has 0 members, not 2"),
        ];
        assert_eq!(begun.len(), 3, "{begun:?}");
        for (seen, expected) in begun.iter().zip(expected) {
            assert_eq!((seen.0.as_str(), seen.1, seen.2.as_str()), expected);
        }
        assert_eq!(look(NOW_MS), []);
        let later: Vec<_> = look(NOW_MS + 20_000).into_iter().map(|(name, state, _)| (name, state)).collect();
        assert_eq!(later, [("imbalance".to_owned(), "ends")]);
        let silent = look(NOW_MS + 40_000);
        assert_eq!(silent[0].2, "web1: no line for 43 s");
        assert_eq!(silent.len(), 2);
    }

    #[test]
    fn wrong_rules_are_refused_with_place_and_expectation() {
        let error = |text: &str| format!("{:#}", Alerts::parse(text).unwrap_err());
        let e = error("[[alert]]\nname = \"x\"\nkind = \"sttus\"\n");
        assert!(e.contains("line 1") && e.contains("status") && e.contains("sttus"), "{e}");
        let e = error(
            "[[alert]]\nname = \"x\"\nkind = \"status\"\nstatus = \"9xx\"\nabove_percent = 5.0\nover = \"1m\"\n",
        );
        assert_eq!(e, "alert \"x\": status = \"9xx\": expected 1xx, 2xx, 3xx, 4xx or 5xx");
        let e = error("[[alert]]\nname = \"x\"\nkind = \"imbalance\"\nfactor = 2.0\nover = \"5m\"\n");
        assert_eq!(e, "alert \"x\": over = \"5m\": expected one of 1s, 10s, 1m, 1h");
        let e = error("[[alert]]\nname = \"x\"\nkind = \"silent\"\nseconds = 1\nweb = 1\n");
        assert_eq!(
            e,
            "alert \"x\": unknown key \"web\"; expected one of name, kind, webhook, command, seconds"
        );
        let e = error("[[alert]]\nname = \"x\"\nkind = \"silent\"\nseconds = 1\nwebhook = \"https://x/\"\n");
        assert!(e.contains("expected http://host:port/path"), "{e}");
    }
}
