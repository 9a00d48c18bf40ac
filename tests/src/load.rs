//! A load generator: keep-alive HTTP requests, each with an id of its own in the path.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Requests to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// Servers; the clients are spread over them.
    pub servers: Vec<SocketAddr>,
    /// Clients at once, each with one connection.
    pub clients: usize,
    /// Requests of all clients together.
    pub requests: u64,
    /// First id; ids count up from here.
    pub first: u64,
    /// More bytes in each path.
    pub padding: usize,
    /// Value of the `Host` header.
    pub host: String,
    /// Time between two requests of a client.
    pub pace: Duration,
    /// No request begins later.
    pub until: Option<Instant>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Ids that were answered: the server has logged each once.
    pub answered: BTreeSet<u64>,
    /// Ids whose connection ended before the answer: logged once or not at all.
    pub unsure: BTreeSet<u64>,
    /// Longest time from request to answer.
    pub slowest: Duration,
    /// Time of the whole.
    pub took: Duration,
}

impl Load {
    /// A load on these servers.
    pub fn new(servers: &[SocketAddr], clients: usize, requests: u64) -> Self {
        Self {
            servers: servers.to_vec(),
            clients,
            requests,
            first: 1,
            padding: 0,
            host: "load.test".into(),
            pace: Duration::ZERO,
            until: None,
        }
    }

    /// Makes all requests; `progress` has the number of answers so far.
    ///
    /// # Errors
    /// When a server cannot be reached for 20 s, or answers with something else than 200.
    pub fn run(&self, progress: &AtomicU64) -> anyhow::Result<Outcome> {
        let begun = Instant::now();
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let parts: Vec<anyhow::Result<Outcome>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|client| {
                    let (next, failed) = (&next, &failed);
                    scope.spawn(move || {
                        let result = self.client(client, next, failed, progress);
                        failed.fetch_or(result.is_err(), Ordering::Relaxed);
                        result
                    })
                })
                .collect();
            clients.into_iter().map(|c| c.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
        });
        let mut all = Outcome::default();
        for part in parts {
            let part = part?;
            all.answered.extend(part.answered);
            all.unsure.extend(part.unsure);
            all.slowest = all.slowest.max(part.slowest);
        }
        all.took = begun.elapsed();
        Ok(all)
    }

    fn client(
        &self,
        client: usize,
        next: &AtomicU64,
        failed: &AtomicBool,
        progress: &AtomicU64,
    ) -> anyhow::Result<Outcome> {
        let server = self.servers[client % self.servers.len()];
        let mut outcome = Outcome::default();
        let mut connection: Option<Connection> = None;
        while !failed.load(Ordering::Relaxed) {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let id = next.fetch_add(1, Ordering::Relaxed);
            if id >= self.requests {
                break;
            }
            let id = self.first + id;
            thread::sleep(self.pace);
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(server)?,
            };
            let begun = Instant::now();
            match open.get(&path(id, self.padding), &self.host) {
                Ok(answer) => {
                    ensure!(answer.status == 200, "request {id} was answered with {}", answer.status);
                    outcome.answered.insert(id);
                    outcome.slowest = outcome.slowest.max(begun.elapsed());
                    progress.fetch_add(1, Ordering::Relaxed);
                    connection = answer.stays.then_some(open);
                }
                // A server may close an idle connection (or its child end) while we send.
                Err(_) => {
                    outcome.unsure.insert(id);
                }
            }
        }
        Ok(outcome)
    }
}

fn path(id: u64, padding: usize) -> String {
    format!("/index.html?id={id}&{}", "x".repeat(padding))
}

/// One GET request; status and body.
///
/// # Errors
/// When the server does not answer.
pub fn get(server: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut connection = Connection::open(server)?;
    let answer = connection.get(path, "load.test")?;
    Ok((answer.status, answer.body))
}

struct Connection(BufReader<TcpStream>);

struct Answer {
    status: u16,
    stays: bool,
    body: String,
}

impl Connection {
    fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let begun = Instant::now();
        loop {
            match TcpStream::connect_timeout(&server, Duration::from_secs(5)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                    return Ok(Self(BufReader::new(stream)));
                }
                Err(error) if begun.elapsed() > Duration::from_secs(20) => {
                    return Err(error).with_context(|| format!("no connection to {server}"));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn get(&mut self, path: &str, host: &str) -> anyhow::Result<Answer> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
        let (mut len, mut stays) = (None, true);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse::<u64>().ok();
            }
            stays &= !line.starts_with("connection: close");
        }
        let mut body = String::new();
        match len {
            Some(len) => self.0.by_ref().take(len).read_to_string(&mut body)?,
            None => {
                stays = false;
                self.0.read_to_string(&mut body)?
            }
        };
        Ok(Answer { status, stays, body })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the server closed the connection");
        Ok(line.trim_end().to_owned())
    }
}

/// How often each id is in a log.
pub fn count_ids(log: &str) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    for line in log.lines() {
        let id =
            line.split("?id=").nth(1).and_then(|rest| rest.split('&').next()).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            *ids.entry(id).or_insert(0) += 1;
        }
    }
    ids
}

/// What is wrong with a log, seen from the clients.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Answered, but not in the log.
    pub missing: Vec<u64>,
    /// More than once in the log.
    pub doubled: Vec<u64>,
    /// In the log, but never asked.
    pub strange: Vec<u64>,
}

impl Outcome {
    /// Compares with a log.
    pub fn compare(&self, log: &str) -> Verdict {
        let ids = count_ids(log);
        let known = |id: &u64| self.answered.contains(id) || self.unsure.contains(id);
        Verdict {
            missing: self.answered.iter().filter(|id| !ids.contains_key(id)).copied().collect(),
            doubled: ids.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect(),
            strange: ids.keys().filter(|id| !known(id)).copied().collect(),
        }
    }

    /// Adds the ids of another load.
    pub fn add(&mut self, other: Self) {
        self.answered.extend(other.answered);
        self.unsure.extend(other.unsure);
        self.slowest = self.slowest.max(other.slowest);
        self.took += other.took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_judged() {
        let outcome = Outcome { answered: [1, 2, 3].into(), unsure: [4, 5].into(), ..Outcome::default() };
        let log = "\"GET /index.html?id=1& HTTP/1.1\"\n?id=3&\n?id=3&\n?id=4&\n?id=9&\nother\n";
        let verdict = outcome.compare(log);
        assert_eq!(verdict, Verdict { missing: vec![2], doubled: vec![3], strange: vec![9] });
    }
}
