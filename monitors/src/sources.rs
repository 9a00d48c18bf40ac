//! Who publishes, and what of it was missed: the numbers that `mod_log_spread` gives its lines.
//!
//! A monitor only listens: it asks nobody to send again. Lines of numbered streams that come twice are counted once,
//! and numbers that did not come are counted as missed until they do. Plain lines of a source that keeps none
//! (`SpreadLogAudit off`, or no log writer) carry no number: of these only what the source itself reports is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use log_stream::frame::FLAG_STRICT;
use log_stream::{Frame, Kind, SourceId, number_of};
use serde::Serialize;

/// Streams (one source in one group) that are remembered; the longest silent one is forgotten for a new one.
const STREAMS_MAX: usize = 8192;
/// Web servers with counts of their own; further ones count as [`access_log::stats::OTHER`].
const SERVERS_MAX: usize = 256;
/// Senders whose names are remembered.
const SENDERS_MAX: usize = 16_384;
/// A sender whose name is not known is asked so often, and not sooner again than after so many milliseconds. Old ones
/// never answer.
const ASKED_MAX: u8 = 3;
const ASK_EVERY_MS: i64 = 5000;
/// Ranges of missing numbers that can still be filled, for each stream.
const HOLES_MAX: usize = 16;

/// One web server, as the monitor knows it from its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceFigures {
    /// The daemon its lines come through.
    pub daemon: String,
    /// Name of the Apache (its main `ServerName`), once it has said hello; else empty.
    pub apache: String,
    /// Streams (child processes in one group) that were heard and did not say goodbye.
    pub processes: usize,
    /// How often it was restarted gracefully.
    pub generation: Option<u64>,
    /// Lines received, each once.
    pub lines: u64,
    /// Of these, lines without a number: whether one is missing cannot be known.
    pub unnumbered: u64,
    /// Numbered lines that did not come.
    pub missed: u64,
    /// Lines that the server itself reports as dropped before they were sent.
    pub dropped: u64,
    /// Lines that came again and were left.
    pub twice: u64,
    /// When it was last heard, in milliseconds since 1970.
    pub last_ms: i64,
}

/// Who sent a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// The daemon it came through.
    pub daemon: Arc<str>,
    /// Name of the Apache; empty while it is not known.
    pub apache: Arc<str>,
    /// Both in one: `apache@daemon`, or the daemon alone.
    pub label: Arc<str>,
}

impl Server {
    fn new(daemon: &str, apache: &str) -> Arc<Self> {
        let label = if apache.is_empty() { daemon.to_owned() } else { format!("{apache}@{daemon}") };
        Arc::new(Self { daemon: daemon.into(), apache: apache.into(), label: label.into() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    /// It said who it is.
    Source(SourceId),
    /// It was never heard to say hello: the sender's name has to do.
    Sender(Bytes),
}

#[derive(Debug)]
struct Stream {
    server: Arc<Server>,
    next: u64,
    strict: bool,
    framed: bool,
    holes: VecDeque<Hole>,
    heard_ms: i64,
}

/// Numbers that may still come. Those from before this monitor listened are not missed when they do not.
#[derive(Clone, Copy, Debug)]
struct Hole {
    from: u64,
    to: u64,
    owed: bool,
}

/// What a line is for the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    New,
    Twice,
}

/// The sources of all lines. Everything in it is bounded.
#[derive(Debug, Default)]
pub struct Sources {
    streams: BTreeMap<(Bytes, Id), Stream>,
    /// (sender, group) of plain lines: their source and the number of the next one.
    cursors: BTreeMap<(Bytes, Bytes), (Id, u64)>,
    senders: BTreeMap<Bytes, Arc<Server>>,
    /// Senders without a name: how often they were asked, and when last.
    asked: BTreeMap<Bytes, (u8, i64)>,
    questions: Vec<Question>,
    servers: BTreeMap<Arc<Server>, SourceFigures>,
    broken: u64,
}

/// A sender to be asked who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its private name: `#name#daemon`.
    pub sender: Bytes,
    /// The log group that it sends to.
    pub group: Bytes,
}

/// A message of a log group or of its audit group.
#[derive(Clone, Debug)]
pub struct Arrived<'a> {
    /// Private name of the sender: `#name#daemon`.
    pub sender: &'a [u8],
    /// The log group, also if the message came in its audit group.
    pub group: &'a [u8],
    /// It came in the audit group.
    pub audit: bool,
    /// Type of the message.
    pub mess_type: i16,
    /// Its bytes.
    pub payload: Bytes,
}

impl Sources {
    /// Takes a message and adds the payloads to `out` whose lines are to be counted, each once. Gives who sent it.
    pub fn handle(&mut self, now_ms: i64, message: Arrived<'_>, out: &mut Vec<Bytes>) -> Arc<Server> {
        let sender = Bytes::copy_from_slice(message.sender);
        let group = Bytes::copy_from_slice(message.group);
        let mut payload = message.payload;
        if Frame::looks_like(&payload) {
            while !payload.is_empty() {
                let Ok(frame) = Frame::decode(&mut payload) else {
                    self.broken += 1;
                    break;
                };
                self.frame(now_ms, &sender, &group, message.audit, &frame, out);
            }
        } else if message.audit {
            self.broken += 1;
        } else if number_of(message.mess_type, 1).is_some() {
            self.plain(now_ms, &sender, &group, message.mess_type, payload, out);
        } else {
            let server = self.server_of(&sender);
            let figures = self.figures(now_ms, &server);
            figures.lines += lines_in(&payload);
            figures.unnumbered += lines_in(&payload);
            out.push(payload);
        }
        let server = self.server_of(&sender);
        if server.apache.is_empty() {
            self.wonder(now_ms, sender, group);
        }
        server
    }

    /// It said hello before this monitor listened, or never does.
    fn wonder(&mut self, now_ms: i64, sender: Bytes, group: Bytes) {
        let (times, last_ms) = self.asked.get(&sender).copied().unwrap_or((0, i64::MIN));
        if times >= ASKED_MAX || now_ms < last_ms.saturating_add(ASK_EVERY_MS) {
            return;
        }
        if self.asked.len() >= SENDERS_MAX {
            self.asked.clear();
        }
        self.asked.insert(sender.clone(), (times + 1, now_ms));
        if self.questions.len() < SENDERS_MAX {
            self.questions.push(Question { sender, group });
        }
    }

    /// Senders to be asked, each once.
    pub fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    fn frame(
        &mut self,
        now_ms: i64,
        sender: &Bytes,
        group: &Bytes,
        audit: bool,
        frame: &Frame,
        out: &mut Vec<Bytes>,
    ) {
        let key = (group.clone(), Id::Source(frame.source));
        let strict = frame.flags & FLAG_STRICT != 0;
        match frame.kind {
            Kind::Lines => {
                self.meet(now_ms, &key, sender, frame.seq, true);
                for (seq, line) in (frame.seq..).zip(frame.records()) {
                    self.line(now_ms, &key, seq, line.clone(), out);
                }
            }
            Kind::Hello => self.hello(now_ms, &key, sender, audit, strict, frame),
            Kind::Gap => {
                if let Some(to) = frame.number("to").filter(|to| *to >= frame.seq && *to < u64::MAX) {
                    self.meet(now_ms, &key, sender, frame.seq, !audit);
                    self.dropped(now_ms, &key, frame.seq, to);
                    if let Some((_, next)) = self.cursors.get_mut(&(sender.clone(), group.clone())) {
                        *next = (*next).max(to + 1);
                    }
                }
            }
            Kind::Goodbye => {
                self.cursors.remove(&(sender.clone(), group.clone()));
                let loose = self.streams.get(&key).is_some_and(|stream| !stream.framed && !stream.strict);
                if !loose {
                    self.advance(&key, frame.seq.saturating_add(1));
                }
                self.streams.remove(&key);
                self.senders.remove(sender);
                self.asked.remove(sender);
            }
            Kind::Ack | Kind::Summary | Kind::Rotate | Kind::Barrier | Kind::Ask => {}
        }
    }

    /// A source says who it is and where it stands.
    fn hello(
        &mut self,
        now_ms: i64,
        key: &(Bytes, Id),
        sender: &Bytes,
        audit: bool,
        strict: bool,
        frame: &Frame,
    ) {
        let next = frame.seq.max(1);
        let first = frame.number("first").unwrap_or(next).clamp(1, next);
        self.introduce(now_ms, sender, frame);
        let sender_key = (sender.clone(), key.0.clone());
        self.streams.remove(&(key.0.clone(), Id::Sender(sender.clone())));
        let known = self.streams.contains_key(key);
        self.meet(now_ms, key, sender, next, !audit);
        let server = self.server_of(sender);
        let mut lost_before = None;
        if let Some(stream) = self.streams.get_mut(key) {
            stream.server = server;
            if !known && first < next {
                // Sent before this monitor listened; if they come again, they are counted.
                stream.holes.push_back(Hole { from: first, to: next - 1, owed: false });
            } else if audit && !stream.strict {
                // Plain lines of a loose source carry no numbers: those before this hello were counted as they came.
                stream.next = stream.next.max(if strict { first } else { next });
            } else {
                lost_before = Some(first);
            }
            stream.strict = strict;
        }
        if let Some(first) = lost_before {
            // What lies before the first line that the source still has will not come.
            self.advance(key, first);
        }
        if audit && (self.cursors.len() < STREAMS_MAX || self.cursors.contains_key(&sender_key)) {
            self.cursors.insert(sender_key, (key.1.clone(), next));
        }
    }

    /// A plain line with a part of its number.
    fn plain(
        &mut self,
        now_ms: i64,
        sender: &Bytes,
        group: &Bytes,
        mess_type: i16,
        line: Bytes,
        out: &mut Vec<Bytes>,
    ) {
        let cursor = (sender.clone(), group.clone());
        if self.cursors.len() >= STREAMS_MAX && !self.cursors.contains_key(&cursor) {
            self.cursors.pop_first();
        }
        // Without a hello the whole number is not known, but any that ends with these bits tells what is missing.
        let unknown = || (Id::Sender(sender.clone()), number_of(mess_type, 1 << 32).unwrap_or(1));
        let (id, next) = self.cursors.entry(cursor).or_insert_with(unknown);
        let seq = number_of(mess_type, *next).unwrap_or(*next);
        *next = seq.saturating_add(1);
        let key = (group.clone(), id.clone());
        self.meet(now_ms, &key, sender, seq, false);
        self.line(now_ms, &key, seq, line, out);
    }

    fn line(&mut self, now_ms: i64, key: &(Bytes, Id), seq: u64, line: Bytes, out: &mut Vec<Bytes>) {
        self.advance(key, seq);
        let Some(stream) = self.streams.get_mut(key) else { return };
        let verdict = if seq >= stream.next {
            stream.next = seq.saturating_add(1);
            Verdict::New
        } else {
            Verdict::Twice
        };
        let filled = (verdict == Verdict::Twice).then(|| stream.fill(seq)).flatten();
        stream.heard_ms = now_ms;
        let server = Arc::clone(&stream.server);
        let figures = self.figures(now_ms, &server);
        if verdict == Verdict::Twice && filled.is_none() {
            figures.twice += 1;
            return;
        }
        if filled == Some(true) {
            figures.missed = figures.missed.saturating_sub(1);
        }
        figures.lines += 1;
        out.push(line);
    }

    /// Numbers before `next` that did not come are missed from now on.
    fn advance(&mut self, key: &(Bytes, Id), next: u64) {
        let Some(stream) = self.streams.get_mut(key).filter(|stream| next > stream.next) else { return };
        let hole = Hole { from: stream.next, to: next - 1, owed: true };
        stream.next = next;
        if stream.holes.len() >= HOLES_MAX {
            // What was missed stays missed.
            stream.holes.pop_front();
        }
        stream.holes.push_back(hole);
        let (server, now_ms) = (Arc::clone(&stream.server), stream.heard_ms);
        self.figures(now_ms, &server).missed += hole.to - hole.from + 1;
    }

    /// The source reports numbers that it never sent.
    fn dropped(&mut self, now_ms: i64, key: &(Bytes, Id), from: u64, to: u64) {
        let loose = self.streams.get(key).is_some_and(|stream| !stream.framed && !stream.strict);
        if !loose {
            self.advance(key, from);
        }
        let Some(stream) = self.streams.get_mut(key).filter(|stream| to >= stream.next) else { return };
        let first = stream.next.max(from);
        (stream.next, stream.heard_ms) = (to + 1, now_ms);
        let server = Arc::clone(&stream.server);
        self.figures(now_ms, &server).dropped += to - first + 1;
    }

    fn meet(&mut self, now_ms: i64, key: &(Bytes, Id), sender: &Bytes, next: u64, framed: bool) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.heard_ms = now_ms;
            return;
        }
        if self.streams.len() >= STREAMS_MAX {
            let silent = self.streams.iter().min_by_key(|(_, s)| s.heard_ms).map(|(key, _)| key.clone());
            silent.and_then(|key| self.streams.remove(&key));
        }
        let server = self.server_of(sender);
        let holes = VecDeque::new();
        // A line with a number in its type is one of a source that keeps its lines.
        let strict = matches!(key.1, Id::Sender(_));
        let stream = Stream { server, next, strict, framed, holes, heard_ms: now_ms };
        self.streams.insert(key.clone(), stream);
    }

    fn introduce(&mut self, now_ms: i64, sender: &Bytes, frame: &Frame) {
        let Some(host) = frame.value("host").filter(|host| *host != b"-") else { return };
        let apache = String::from_utf8_lossy(&host[..host.len().min(64)]).into_owned();
        let server = Server::new(&self.server_of(sender).daemon, &apache);
        self.senders.insert(sender.clone(), Arc::clone(&server));
        self.asked.remove(sender);
        let generation = frame.number("generation");
        let figures = self.figures(now_ms, &server);
        figures.generation = figures.generation.max(generation);
    }

    /// Who sends under this name.
    pub fn server_of(&mut self, sender: &[u8]) -> Arc<Server> {
        if let Some(server) = self.senders.get(sender) {
            return Arc::clone(server);
        }
        let text = String::from_utf8_lossy(sender);
        let daemon = text.rsplit('#').next().filter(|name| !name.is_empty()).unwrap_or("(unknown)");
        let server = Server::new(daemon, "");
        if self.senders.len() >= SENDERS_MAX {
            self.senders.clear();
        }
        self.senders.insert(Bytes::copy_from_slice(sender), Arc::clone(&server));
        server
    }

    fn figures(&mut self, now_ms: i64, server: &Arc<Server>) -> &mut SourceFigures {
        let key = if self.servers.len() < SERVERS_MAX || self.servers.contains_key(server) {
            Arc::clone(server)
        } else {
            Server::new(access_log::stats::OTHER, "")
        };
        let figures = self.servers.entry(key).or_default();
        figures.last_ms = figures.last_ms.max(now_ms);
        figures
    }

    /// The connection was lost: parts of numbers no longer tell how many lines were missed. Whole numbers do.
    pub fn handle_connection_lost(&mut self) {
        self.cursors.clear();
        self.streams.retain(|_, stream| stream.framed);
    }

    /// All web servers that were heard, by daemon and name.
    pub fn list(&self) -> Vec<SourceFigures> {
        let figures = |(server, figures): (&Arc<Server>, &SourceFigures)| SourceFigures {
            daemon: server.daemon.to_string(),
            apache: server.apache.to_string(),
            processes: self.streams.values().filter(|stream| stream.server == *server).count(),
            ..figures.clone()
        };
        self.servers.iter().map(figures).collect()
    }

    /// Lines that did not come, dropped lines, lines that came again, messages that are none.
    pub fn totals(&self) -> [u64; 4] {
        let sum = |of: fn(&SourceFigures) -> u64| self.servers.values().map(of).sum();
        [sum(|f| f.missed), sum(|f| f.dropped), sum(|f| f.twice), self.broken]
    }
}

impl Stream {
    /// Takes a number out of the missing ones: whether it was owed, `None` if it is not missing.
    fn fill(&mut self, seq: u64) -> Option<bool> {
        let at = self.holes.iter().position(|hole| (hole.from..=hole.to).contains(&seq))?;
        let hole = self.holes.remove(at)?;
        let parts = [Hole { to: seq.wrapping_sub(1), ..hole }, Hole { from: seq + 1, ..hole }];
        for part in parts.into_iter().filter(|part| part.from <= part.to && part.to != u64::MAX) {
            self.holes.push_back(part);
        }
        Some(hole.owed)
    }
}

fn lines_in(payload: &[u8]) -> u64 {
    let ends = payload.iter().filter(|b| **b == b'\n').count() as u64;
    ends + u64::from(!payload.is_empty() && !payload.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use log_stream::{TYPE_FRAME, TYPE_PLAIN, numbered_type};

    use super::*;

    const ME: &[u8] = b"#m1abcd#h1";
    const ID: SourceId = SourceId([7; 16]);

    fn arrived(audit: bool, mess_type: i16, payload: Bytes) -> Arrived<'static> {
        Arrived { sender: ME, group: b"site4", audit, mess_type, payload }
    }

    fn frame(kind: Kind, flags: u8, seq: u64, records: &[&[u8]]) -> Bytes {
        Frame::encode(kind, flags, ID, seq, 0, records).unwrap()
    }

    fn take(sources: &mut Sources, message: Arrived<'_>) -> Vec<Bytes> {
        let mut out = Vec::new();
        sources.handle(5, message, &mut out);
        out
    }

    #[test]
    fn frames_are_counted_once_and_holes_until_they_are_filled() {
        let mut sources = Sources::default();
        let hello =
            frame(Kind::Hello, FLAG_STRICT, 5, &[b"group=site4\nfirst=3\nhost=web.test\ngeneration=2\n"]);
        assert!(take(&mut sources, arrived(false, TYPE_FRAME, hello)).is_empty());
        let lines = |seq, n: usize| {
            arrived(false, TYPE_FRAME, frame(Kind::Lines, FLAG_STRICT, seq, &vec![&b"x\n"[..]; n]))
        };
        assert_eq!(take(&mut sources, lines(5, 2)).len(), 2);
        // 7 and 8 are missing; 6 comes again.
        assert_eq!(take(&mut sources, lines(9, 1)).len(), 1);
        assert_eq!(take(&mut sources, lines(6, 1)).len(), 0);
        assert_eq!(sources.totals(), [2, 0, 1, 0]);
        assert_eq!(take(&mut sources, lines(7, 1)).len(), 1);
        // From before: 3 and 4 were never this monitor's, but they are lines.
        assert_eq!(take(&mut sources, lines(3, 2)).len(), 2);
        assert_eq!(sources.totals(), [1, 0, 1, 0]);
        let gap = frame(Kind::Gap, FLAG_STRICT, 10, &[b"to=12\n"]);
        take(&mut sources, arrived(false, TYPE_FRAME, gap));
        let goodbye = frame(Kind::Goodbye, FLAG_STRICT, 14, &[]);
        take(&mut sources, arrived(false, TYPE_FRAME, goodbye));
        take(&mut sources, arrived(false, TYPE_FRAME, Bytes::from_static(b"MLS1 nonsense")));
        assert_eq!(sources.totals(), [3, 3, 1, 1], "8, 13, 14 did not come");
        let seen = &sources.list()[0];
        assert_eq!(
            (seen.daemon.as_str(), seen.apache.as_str(), seen.generation),
            ("h1", "web.test", Some(2))
        );
        assert_eq!((seen.lines, seen.unnumbered, seen.processes), (6, 0, 0));
    }

    #[test]
    fn plain_lines_with_numbers_are_followed_with_and_without_a_hello() {
        let mut sources = Sources::default();
        let line = |seq| arrived(false, numbered_type(seq), Bytes::from_static(b"x\n"));
        for seq in [16_382, 16_383, 16_385] {
            assert_eq!(take(&mut sources, line(seq)).len(), 1);
        }
        assert_eq!(sources.totals(), [1, 0, 0, 0], "16384 did not come");
        let hello = frame(Kind::Hello, FLAG_STRICT, 16_386, &[b"group=site4\nfirst=16386\nhost=a\n"]);
        take(&mut sources, arrived(true, TYPE_FRAME, hello));
        for seq in [16_386, 16_389, 16_387, 16_387] {
            take(&mut sources, line(seq));
        }
        assert_eq!(sources.totals(), [2, 0, 1, 0], "16388 neither");
        // Sent again from the first unacknowledged one.
        let hello = frame(Kind::Hello, FLAG_STRICT, 16_387, &[b"group=site4\nfirst=16387\nhost=a\n"]);
        take(&mut sources, arrived(true, TYPE_FRAME, hello));
        let counted: usize = (16_387..16_391).map(|seq| take(&mut sources, line(seq)).len()).sum();
        assert_eq!(counted, 2, "16388 and 16390");
        assert_eq!(sources.totals()[0], 1);
        sources.handle_connection_lost();
        take(&mut sources, line(10));
        assert_eq!(sources.totals()[0], 1, "what was missed meanwhile has no number");
    }

    #[test]
    fn a_loose_source_is_believed_only_what_it_says() {
        let mut sources = Sources::default();
        let hello = |seq: u64| {
            let text = format!("group=site4\nfirst={seq}\nhost=a\n");
            arrived(true, TYPE_FRAME, frame(Kind::Hello, 0, seq, &[text.as_bytes()]))
        };
        take(&mut sources, hello(1));
        let plain = || arrived(false, TYPE_PLAIN, Bytes::from_static(b"x\ny\n"));
        take(&mut sources, plain());
        take(&mut sources, hello(3));
        take(&mut sources, arrived(true, TYPE_FRAME, frame(Kind::Gap, 0, 3, &[b"to=4\n"])));
        take(&mut sources, plain());
        take(&mut sources, arrived(true, TYPE_FRAME, frame(Kind::Goodbye, 0, 6, &[])));
        assert_eq!(sources.totals(), [0, 2, 0, 0]);
        assert_eq!((sources.list()[0].lines, sources.list()[0].unnumbered), (4, 4));
    }

    #[test]
    fn who_is_not_known_is_asked_a_few_times() {
        let mut sources = Sources::default();
        let mut asked = Vec::new();
        for now in 0..40_000 {
            if now % 500 == 0 {
                let message = arrived(false, TYPE_PLAIN, Bytes::from_static(b"x\n"));
                sources.handle(now, message, &mut Vec::new());
            }
            let questions = sources.take_questions();
            assert!(questions.iter().all(|q| q.sender == ME && q.group == b"site4"[..]));
            asked.extend(questions.iter().map(|_| now));
        }
        assert_eq!(asked, [0, 5000, 10_000]);
        let hello = frame(Kind::Hello, 0, 1, &[b"group=site4\nfirst=1\nhost=a\n"]);
        take(&mut sources, arrived(true, TYPE_FRAME, hello));
        take(&mut sources, arrived(false, TYPE_PLAIN, Bytes::from_static(b"x\n")));
        assert!(sources.take_questions().is_empty() && sources.asked.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut sources = Sources::default();
        for n in 0..9_000_u32 {
            let sender = format!("#m{n}#d{n}");
            let message = Arrived {
                sender: sender.as_bytes(),
                group: b"site4",
                audit: false,
                mess_type: numbered_type(1),
                payload: Bytes::from_static(b"x\n"),
            };
            sources.handle(i64::from(n), message, &mut Vec::new());
        }
        assert!(sources.streams.len() <= STREAMS_MAX && sources.senders.len() <= SENDERS_MAX);
        assert!(sources.asked.len() <= SENDERS_MAX && sources.questions.len() <= SENDERS_MAX);
        assert!(sources.cursors.len() <= STREAMS_MAX);
        assert_eq!(sources.servers.len(), SERVERS_MAX + 1);
    }
}
