//! Which daemons are in the ring, also those without a member of a log group: the metrics of a daemon tell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::state::Shared;
use crate::watch::now_ms;

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(2);
/// Time for a connection, and for each piece of the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const ANSWER_MAX: u64 = 1 << 20;
/// Most daemons that are shown; a ring has no more.
const DAEMONS_MAX: usize = 128;

/// The ring, as the daemon that was asked sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// When it was asked, in milliseconds since 1970.
    pub asked_ms: i64,
    /// Why there was no answer; the daemons are then those of the last one.
    pub error: Option<String>,
    /// All configured daemons, in order of their names.
    pub daemons: Vec<RingDaemon>,
}

/// One daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RingDaemon {
    /// Its name.
    pub name: String,
    /// Whether it is a member of the ring.
    pub member: bool,
    /// Whether it is heard.
    pub heard: bool,
}

impl Ring {
    /// Takes an answer, or the lack of one.
    pub fn handle_answer(&mut self, now_ms: i64, answer: Result<&str, String>) {
        self.asked_ms = now_ms;
        match answer.map(read) {
            Ok(daemons) if !daemons.is_empty() => (self.error, self.daemons) = (None, daemons),
            Ok(_) => self.error = Some("these are not the metrics of a spreadd".to_owned()),
            Err(error) => self.error = Some(error),
        }
    }
}

/// The daemons that a page of metrics names: the one that was asked, and its peers.
fn read(metrics: &str) -> Vec<RingDaemon> {
    let mut daemons: Vec<RingDaemon> = Vec::new();
    for line in metrics.lines() {
        let Some((metric, rest)) = line.split_once('{') else { continue };
        let label = if metric == "spreadd_info" { "name=\"" } else { "peer=\"" };
        let Some((name, rest)) = rest.strip_prefix(label).and_then(|rest| rest.split_once('"')) else {
            continue;
        };
        let value = rest.ends_with(" 1");
        let (member, heard) = match metric {
            "spreadd_info" => (true, true),
            "spreadd_peer_member" => (value, false),
            "spreadd_peer_heard" => (false, value),
            _ => continue,
        };
        if let Some(known) = daemons.iter_mut().find(|known| known.name == name) {
            (known.member, known.heard) = (known.member | member, known.heard | heard);
        } else if daemons.len() < DAEMONS_MAX {
            daemons.push(RingDaemon { name: name.to_owned(), member, heard });
        }
    }
    daemons.sort_unstable();
    daemons
}

/// Asks a daemon every two seconds, in a thread of its own for as long as the program runs.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(daemon: SocketAddr, state: Shared) -> anyhow::Result<()> {
    thread::Builder::new().name("ring".to_owned()).spawn(move || {
        loop {
            let answer = ask(daemon);
            let answer = answer.as_deref().map_err(|error| format!("{error:#}"));
            state.lock().handle_ring(now_ms(), answer);
            thread::sleep(EVERY);
        }
    })?;
    Ok(())
}

fn ask(daemon: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&daemon, LIMIT).with_context(|| format!("{daemon}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {daemon}\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut bytes).with_context(|| format!("{daemon}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{daemon}: no whole answer"))?;
    let first = head.lines().next().unwrap_or_default();
    ensure!(first.split(' ').nth(1) == Some("200"), "{daemon} answers {first:?}");
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_name_all_daemons() {
        let text = "# HELP spreadd_info Always 1\nspreadd_info{name=\"h1\",version=\"0.1.0\"} 1\n\
                    spreadd_peer_member{peer=\"h3\"} 0\nspreadd_peer_member{peer=\"h2\"} 1\n\
                    spreadd_peer_heard{peer=\"h3\"} 1\nspreadd_peer_heard{peer=\"h2\"} 1\n\
                    spreadd_peer_packets_lost_total{peer=\"h2\"} 1\nspreadd_peer_member{peer=\"broken\n";
        let mut ring = Ring::default();
        ring.handle_answer(5, Ok(text));
        let seen: Vec<_> = ring.daemons.iter().map(|d| (d.name.as_str(), d.member, d.heard)).collect();
        assert_eq!(seen, [("h1", true, true), ("h2", true, true), ("h3", false, true)]);
        ring.handle_answer(6, Err("refused".to_owned()));
        assert_eq!((ring.asked_ms, ring.error.as_deref(), ring.daemons.len()), (6, Some("refused"), 3));
        ring.handle_answer(7, Ok("<html>"));
        assert!(ring.error.as_ref().is_some_and(|error| error.contains("not the metrics")));
        ring.handle_answer(8, Ok(text));
        assert_eq!(ring.error, None);
    }
}
