//! The sender's side: windows of lines that are not confirmed yet, what to send next, what a reply releases.
//!
//! Calling order: [`Publisher::handle_connected`] when a session is up, then for every wake-up give it all input
//! (`handle_*`), send everything that [`Publisher::poll_transmit`] gives, and collect [`Publisher::released`].
//! [`Publisher::handle_disconnected`] when the session is gone. Time is any clock that does not go back.
//!
//! | state of a stream | a line is done with | lost session |
//! |---|---|---|
//! | loose | when a barrier sent after it came back | sent lines without barrier are counted as in doubt |
//! | strict | when a writer acknowledged it | everything not acknowledged is sent again |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{
    ANYONE, FLAG_CUT, FLAG_LAST, FLAG_RESEND, FLAG_STRICT, Frame, HEAD_BYTES, Kind, SourceId, TAIL_BYTES,
};
use crate::intake::{Record, What};
use crate::{MESSAGE_BYTES_MAX, PLAIN_WINDOW, TYPE_FRAME, TYPE_PLAIN, numbered_type};

/// Form of the lines of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wire {
    /// One line is one message, exactly its bytes; numbers travel in the audit group.
    #[default]
    Plain,
    /// Many lines in one frame, with their numbers.
    Framed,
}

/// Whether writers are asked for acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Audit {
    /// No announcements: a line is confirmed when the daemons have ordered it.
    Off,
    /// Announce; a stream becomes strict when a writer answers.
    #[default]
    Auto,
    /// Strict from the start: without a writer lines wait, then are dropped and counted.
    On,
}

/// How many writers must have acknowledged a line of a strict stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// All that are known, so that each has every line, also after a partition. A writer that does not answer for
    /// long, or that ended in order, does not count; and when the queue is nearly full one is enough.
    #[default]
    All,
    /// So many (at least 1).
    Count(usize),
}

/// What is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Service of the message.
    pub service: Service,
    /// Receiving group; `None`: the own private group.
    pub group: Option<Bytes>,
    /// Message type.
    pub mess_type: i16,
    /// The message.
    pub payload: Bytes,
}

/// Ordering that a message needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// The service that is configured for lines: at least FIFO.
    Lines,
    /// Held by all daemons before it is delivered.
    Safe,
}

/// Settings of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamConfig {
    /// Group of the lines.
    pub group: Bytes,
    /// Group of the announcements of plain lines; `None` when its name would be too long or audit is off.
    pub audit_group: Option<Bytes>,
    /// Form of the lines.
    pub wire: Wire,
    /// A writer answered an earlier source of this server: be strict from the start.
    pub heard: bool,
}

/// Settings of a publisher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublisherConfig {
    /// The own identity.
    pub source: SourceId,
    /// Announcements.
    pub audit: Audit,
    /// Acknowledgements needed.
    pub acks: Acks,
    /// With [`Acks::All`], a writer that is asked and does not answer for this long is not waited for until it does.
    pub writer_limit: Duration,
    /// Most bytes of lines in one frame.
    pub batch_bytes: usize,
    /// `key=value` lines for the hello: host, process, generation.
    pub about: String,
}

/// What came out of the publisher's hands since the last call of [`Publisher::released`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Released {
    /// Room of the intake queue to give back.
    pub cost: usize,
    /// Lines acknowledged by a writer.
    pub acked: u64,
    /// Of these, lines that another known writer does not have and will not get.
    pub acked_in_part: u64,
    /// Lines ordered by the daemons (loose streams).
    pub ordered: u64,
    /// Lines whose fate is unknown: sent, but the session broke before the barrier came back.
    pub in_doubt: u64,
    /// Lines given up without being sent.
    pub dropped: u64,
}

/// Time between two announcements of a stream that no writer has answered: it doubles from the first to the second, as
/// there may be many streams and no writer.
const HELLO_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(64));
/// A strict stream with unacknowledged lines asks after this silence: likewise from the first to the second.
const PROBE_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// A second wish to resend within this time is the echo of the first.
const REWIND_EVERY: Duration = Duration::from_millis(100);
/// Questions of those who only listen are answered at most this often, all with one hello.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// With [`Audit::Auto`], a sent line may be given up (as in doubt) for newer ones when no acknowledgement came for
/// this long: old subscribers must not starve because a writer of ours went away.
const PRESSURE_AFTER: Duration = Duration::from_secs(1);
/// Most writers that are known; others are ignored.
const WRITERS_MAX: usize = 64;

/// The state machine. See the module.
#[derive(Debug)]
pub struct Publisher {
    cfg: PublisherConfig,
    streams: Vec<Stream>,
    by_group: BTreeMap<Bytes, u32>,
    /// Streams that may have something to send.
    active: VecDeque<u32>,
    connected: bool,
    /// Loose streams with sent lines that no barrier covers.
    uncovered: Vec<u32>,
    barrier: Option<Barrier>,
    barriers: u64,
    released: Released,
    newly_heard: Vec<u32>,
    /// Writers that answered (or left, false) since the last question.
    heard_writers: BTreeMap<(u32, Bytes), bool>,
    /// Streams whose front moved since the last question.
    moved: BTreeSet<u32>,
    messages: u64,
    resent: u64,
}

#[derive(Debug)]
struct Barrier {
    id: u64,
    sent: Vec<(u32, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Writer {
    acked: u64,
    heard: Duration,
    /// It did not answer for too long.
    gone: bool,
}

#[derive(Debug)]
struct Stream {
    cfg: StreamConfig,
    strict: bool,
    /// The next message of the stream must be a hello.
    hello_due: bool,
    /// When the last hello went out or the last answer came in.
    spoke: Duration,
    /// Silence after which the stream says hello again.
    pause: Duration,
    /// When somebody who only listens was last answered.
    asked: Option<Duration>,
    acked_at: Duration,
    /// Since when something waits for an acknowledgement.
    waits_since: Duration,
    writers: BTreeMap<Bytes, Writer>,
    rewound: Option<Duration>,
    window: VecDeque<Record>,
    /// Records at the front of `window` that were sent in this session.
    sent: usize,
    /// Of these, records at the front that were sent loose: a barrier releases them, they are never sent again.
    loose: usize,
    /// Number that the next record of the intake will have.
    next: u64,
    /// Of a source that goes on: the number behind the last one of the earlier process. Writers may know lines that
    /// this publisher has yet to be given.
    end: u64,
    /// Highest number ever sent: lower ones are repeats.
    top: u64,
    queued: bool,
    uncovered: bool,
    /// Something was ever sent in this session.
    spoken_here: bool,
}

impl Publisher {
    /// A publisher for these streams; their index is their place in the list.
    pub fn new(cfg: PublisherConfig, streams: Vec<StreamConfig>) -> Self {
        let by_group = (0..).zip(&streams).map(|(i, s)| (s.group.clone(), i)).collect();
        let streams = streams
            .into_iter()
            .map(|s| Stream {
                strict: can_audit(cfg.audit, &s)
                    && (cfg.audit == Audit::On || cfg.audit == Audit::Auto && s.heard),
                cfg: s,
                hello_due: false,
                spoke: Duration::ZERO,
                pause: HELLO_EVERY.0,
                asked: None,
                acked_at: Duration::ZERO,
                waits_since: Duration::ZERO,
                writers: BTreeMap::new(),
                rewound: None,
                window: VecDeque::new(),
                sent: 0,
                loose: 0,
                next: 1,
                end: 0,
                top: 0,
                queued: false,
                uncovered: false,
                spoken_here: false,
            })
            .collect();
        Self {
            cfg,
            streams,
            by_group,
            active: VecDeque::new(),
            connected: false,
            uncovered: Vec::new(),
            barrier: None,
            barriers: 0,
            released: Released::default(),
            newly_heard: Vec::new(),
            heard_writers: BTreeMap::new(),
            moved: BTreeSet::new(),
            messages: 0,
            resent: 0,
        }
    }

    /// A writer that answered another source of this server a short time ago: it is waited for too, although it did not
    /// answer this source yet.
    pub fn expect_writer(&mut self, now: Duration, stream: u32, writer: Bytes) {
        if let Some(stream) = self.streams.get_mut(stream as usize)
            && stream.strict
            && stream.writers.len() < WRITERS_MAX
        {
            stream.writers.entry(writer).or_insert(Writer { acked: 0, heard: now, gone: false });
        }
    }

    /// The source goes on where an earlier process left it: everything before `front` is done with, and numbers below
    /// `end` were given to lines that may have reached writers. Before any record.
    pub fn resume(&mut self, stream: u32, front: u64, end: u64) {
        if let Some(stream) = self.streams.get_mut(stream as usize) {
            stream.next = front.max(1);
            stream.end = end;
        }
    }

    /// Takes records from the intake queue, in their order.
    pub fn handle_records(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            let Some(stream) = self.streams.get_mut(record.stream as usize) else { continue };
            stream.next = record.last() + 1;
            let index = record.stream;
            let unsent = stream.window.len() > stream.sent;
            match (&record.what, stream.window.back_mut().map(|r| &mut r.what)) {
                (What::Gap { to: more, why }, Some(What::Gap { to, why: before }))
                    if unsent && why == before =>
                {
                    *to = *more;
                }
                _ => stream.window.push_back(record),
            }
            self.activate(index);
        }
    }

    /// A session is up. Streams in `announce` say hello even without lines.
    pub fn handle_connected(&mut self, now: Duration, announce: impl IntoIterator<Item = u32>) {
        self.connected = true;
        for index in announce {
            if let Some(stream) = self.streams.get_mut(index as usize) {
                stream.hello_due = can_audit(self.cfg.audit, &stream.cfg);
                self.activate(index);
            }
        }
        for index in 0..u32::try_from(self.streams.len()).unwrap_or(u32::MAX) {
            let stream = &mut self.streams[index as usize];
            (stream.acked_at, stream.waits_since) = (now, now);
            stream.pause = if stream.strict { PROBE_AFTER.0 } else { HELLO_EVERY.0 };
            if !stream.window.is_empty() {
                stream.hello_due = can_audit(self.cfg.audit, &stream.cfg);
                self.activate(index);
            }
        }
    }

    /// The session is gone: loose lines under way are in doubt, strict ones will be sent again.
    pub fn handle_disconnected(&mut self) {
        self.connected = false;
        self.barrier = None;
        self.uncovered.clear();
        self.active.clear();
        for (index, stream) in (0..).zip(&mut self.streams) {
            if stream.loose > 0 {
                self.moved.insert(index);
            }
            for record in stream.window.drain(..stream.loose) {
                self.released.cost += record.cost();
                self.released.in_doubt += record.lines();
            }
            (stream.sent, stream.loose) = (0, 0);
            (stream.queued, stream.uncovered, stream.spoken_here) = (false, false, false);
        }
    }

    /// A message to the own private group: a barrier of our own, or a writer's answer. Others are ignored.
    pub fn handle_private(&mut self, now: Duration, mut payload: Bytes) {
        while let Ok(frame) = Frame::decode(&mut payload) {
            let mine = frame.source == self.cfg.source;
            match frame.kind {
                Kind::Barrier if mine => self.barrier_back(frame.seq),
                Kind::Ack if mine || frame.source == ANYONE && frame.seq == 0 => {
                    self.acknowledge(now, &frame)
                }
                Kind::Ask => self.asked(now, &frame),
                _ => {}
            }
        }
    }

    /// Somebody listens who was not there at the last hello. It is no writer: nothing waits for it.
    fn asked(&mut self, now: Duration, frame: &Frame) {
        let group = frame.records().first().cloned().unwrap_or_default();
        let Some(&index) = self.by_group.get(&group) else { return };
        let stream = &mut self.streams[index as usize];
        let again = stream.asked.is_some_and(|at| now < at + ASKED_EVERY);
        if self.connected && !again && can_audit(self.cfg.audit, &stream.cfg) {
            stream.asked = Some(now);
            stream.hello_due = true;
            self.activate(index);
        }
    }

    fn barrier_back(&mut self, id: u64) {
        let Some(barrier) = self.barrier.take_if(|b| b.id == id) else { return };
        for (index, upto) in barrier.sent {
            self.moved.insert(index);
            let stream = &mut self.streams[index as usize];
            while stream.loose > 0 && stream.window.front().is_some_and(|r| r.last() <= upto) {
                let Some(record) = stream.window.pop_front() else { break };
                (stream.sent, stream.loose) = (stream.sent - 1, stream.loose - 1);
                self.released.cost += record.cost();
                self.released.ordered += record.lines();
            }
        }
    }

    fn acknowledge(&mut self, now: Duration, frame: &Frame) {
        let group = frame.records().first().cloned().unwrap_or_default();
        let Some(&index) = self.by_group.get(&group) else { return };
        let stream = &mut self.streams[index as usize];
        if self.cfg.audit == Audit::Off || frame.seq >= stream.next.max(stream.end) {
            return;
        }
        (stream.acked_at, stream.spoke, stream.pause) = (now, now, PROBE_AFTER.0);
        if !stream.strict {
            // From here on the lines carry numbers; those sent before wait for their barrier.
            stream.strict = true;
            stream.hello_due = true;
            self.newly_heard.push(index);
        }
        // A writer says who it is; one that does not yet know this source does not count yet.
        let name = frame.records().get(1).cloned().unwrap_or_default();
        if frame.source == self.cfg.source
            && (stream.writers.len() < WRITERS_MAX || stream.writers.contains_key(&name))
        {
            let writer =
                stream.writers.entry(name.clone()).or_insert(Writer { acked: 0, heard: now, gone: false });
            writer.acked = writer.acked.max(frame.seq);
            (writer.heard, writer.gone) = (now, false);
        }
        let upto = stream.confirmed(self.cfg.acks);
        if stream.release(upto, now, &mut self.released) {
            self.moved.insert(index);
        }
        let left = frame.flags & FLAG_LAST != 0;
        if left {
            stream.writers.remove(&name);
        }
        if frame.source == self.cfg.source {
            self.heard_writers.insert((index, name), !left);
        }
        let echo = stream.rewound.is_some_and(|at| now < at + REWIND_EVERY);
        if frame.flags & FLAG_RESEND != 0 && !echo {
            stream.rewound = Some(now);
            stream.sent = stream.loose;
            stream.hello_due = true;
        }
        self.activate(index);
    }

    /// Announces what must be announced again, and gives up sent lines when the queue is short (`pressure`).
    pub fn handle_timeout(&mut self, now: Duration, pressure: bool) {
        if !self.connected {
            return;
        }
        for index in 0..u32::try_from(self.streams.len()).unwrap_or(u32::MAX) {
            let stream = &mut self.streams[index as usize];
            if !can_audit(self.cfg.audit, &stream.cfg) {
                continue;
            }
            let waits = if stream.strict { stream.sent > stream.loose } else { stream.spoken_here };
            let due = waits && now.saturating_sub(stream.spoke) >= stream.pause;
            if due {
                stream.hello_due = true;
                let longest = if stream.strict { PROBE_AFTER.1 } else { HELLO_EVERY.1 };
                stream.pause = (stream.pause * 2).min(longest);
            }
            if stream.strict {
                let since = stream.waits_since;
                for writer in stream.writers.values_mut() {
                    writer.gone |= now.saturating_sub(writer.heard.max(since)) >= self.cfg.writer_limit;
                }
                let enough = if pressure { Acks::Count(1) } else { self.cfg.acks };
                let upto = stream.confirmed(enough);
                if stream.release(upto, now, &mut self.released) {
                    self.moved.insert(index);
                }
            }
            let starving = now.saturating_sub(stream.acked_at) >= PRESSURE_AFTER;
            if pressure
                && starving
                && self.cfg.audit == Audit::Auto
                && stream.strict
                && stream.sent > stream.loose
            {
                self.moved.insert(index);
                let half = stream.sent.div_ceil(2);
                for record in stream.window.drain(..half) {
                    self.released.cost += record.cost();
                    self.released.in_doubt += record.lines();
                }
                (stream.sent, stream.loose) = (stream.sent - half, stream.loose.saturating_sub(half));
            }
            if due {
                self.activate(index);
            }
        }
    }

    /// Asks the writers where they stand, behind everything that is to be sent: the process ends soon.
    pub fn probe(&mut self) {
        for index in 0..u32::try_from(self.streams.len()).unwrap_or(u32::MAX) {
            let stream = &mut self.streams[index as usize];
            if stream.strict && stream.sent > stream.loose && stream.sent == stream.window.len() {
                stream.hello_due = true;
                self.activate(index);
            }
        }
    }

    /// From now on one acknowledgement is enough: the process ends soon.
    pub fn relax(&mut self, now: Duration) {
        self.cfg.acks = Acks::Count(1);
        for (index, stream) in (0..).zip(&mut self.streams) {
            let upto = stream.confirmed(self.cfg.acks);
            if stream.release(upto, now, &mut self.released) {
                self.moved.insert(index);
            }
        }
    }

    /// Gives up everything: the process ends. Lines that were sent are in doubt, the others dropped.
    pub fn give_up(&mut self) {
        self.active.clear();
        for stream in &mut self.streams {
            let ever_sent = stream.top;
            for record in stream.window.drain(..) {
                self.released.cost += record.cost();
                if record.last() <= ever_sent {
                    self.released.in_doubt += record.lines();
                } else {
                    self.released.dropped += record.lines();
                }
            }
            (stream.sent, stream.loose, stream.queued) = (0, 0, false);
        }
    }

    /// The next message to send, in order; `None` when there is nothing to send now.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Transmit> {
        if !self.connected {
            return None;
        }
        while let Some(&index) = self.active.front() {
            if let Some(transmit) = self.stream_transmit(now, index) {
                // One frame each in turn; a plain stream goes on until it is empty, in the order of its lines.
                if self.streams[index as usize].cfg.wire == Wire::Framed {
                    self.active.rotate_left(1);
                }
                self.messages += 1;
                return Some(transmit);
            }
            self.active.pop_front();
            self.streams[index as usize].queued = false;
        }
        self.barrier_transmit()
    }

    fn stream_transmit(&mut self, now: Duration, index: u32) -> Option<Transmit> {
        let source = self.cfg.source;
        let audits = can_audit(self.cfg.audit, &self.streams[index as usize].cfg);
        let stream = &mut self.streams[index as usize];
        if audits && (stream.hello_due || !stream.spoken_here) {
            stream.hello_due = false;
            stream.spoken_here = true;
            stream.spoke = now;
            return stream.hello(source, &self.cfg.about);
        }
        stream.spoken_here = true;
        loop {
            let record = stream.window.get(stream.sent)?;
            if stream.sent == 0 {
                stream.waits_since = now;
            }
            let (seq, last, time_us) = (record.seq, record.last(), record.time_us);
            let repeat = seq <= stream.top;
            let (group, mess_type, payload) = match (&record.what, stream.cfg.wire) {
                (What::Line { .. }, Wire::Framed) => {
                    let payload = stream.lines_frame(source, self.cfg.batch_bytes)?;
                    (Some(stream.cfg.group.clone()), TYPE_FRAME, payload)
                }
                (What::Line { data, .. }, Wire::Plain) => {
                    if stream.strict && seq - stream.number_at(stream.loose) >= PLAIN_WINDOW {
                        return None; // The next acknowledgement gives room.
                    }
                    let payload = data.clone();
                    let mess_type = if stream.strict { numbered_type(seq) } else { TYPE_PLAIN };
                    stream.after_send(1, last);
                    (Some(stream.cfg.group.clone()), mess_type, payload)
                }
                (What::Gap { why, .. }, _) => {
                    let why = why.text();
                    stream.after_send(1, last);
                    if !audits {
                        continue; // Nobody to tell.
                    }
                    let text = format!("to={last}\nreason={why}\n");
                    let payload =
                        Frame::encode(Kind::Gap, stream.flags(), source, seq, time_us, &[text.as_bytes()])?;
                    (stream.say_group(), TYPE_FRAME, payload)
                }
            };
            self.resent += u64::from(repeat);
            self.cover(index);
            return Some(Transmit { service: Service::Lines, group, mess_type, payload });
        }
    }

    /// Notes that a loose stream sent something that no barrier covers yet.
    fn cover(&mut self, index: u32) {
        let stream = &mut self.streams[index as usize];
        if stream.loose > 0 && !mem::replace(&mut stream.uncovered, true) {
            self.uncovered.push(index);
        }
    }

    fn barrier_transmit(&mut self) -> Option<Transmit> {
        if self.barrier.is_some() || self.uncovered.is_empty() {
            return None;
        }
        self.barriers += 1;
        let mut sent = Vec::with_capacity(self.uncovered.len());
        for index in self.uncovered.drain(..) {
            let stream = &mut self.streams[index as usize];
            stream.uncovered = false;
            if let Some(last) = stream.loose.checked_sub(1).and_then(|i| stream.window.get(i)) {
                sent.push((index, last.last()));
            }
        }
        let payload = Frame::encode(Kind::Barrier, 0, self.cfg.source, self.barriers, 0, &[])?;
        self.barrier = Some(Barrier { id: self.barriers, sent });
        Some(Transmit { service: Service::Safe, group: None, mess_type: TYPE_FRAME, payload })
    }

    /// The farewell of every stream that said anything in this session, but for those with something `left` for another
    /// process to send (given the stream and its front): they go on later.
    pub fn goodbyes(&mut self, left: impl Fn(u32, u64) -> bool) -> Vec<Transmit> {
        let source = self.cfg.source;
        let audit = self.cfg.audit;
        let said = (0..).zip(&self.streams).filter(|(_, s)| s.spoken_here && can_audit(audit, &s.cfg));
        said.filter(|(index, s)| !left(*index, s.number_at(0)))
            .filter_map(|(_, s)| {
                let payload =
                    Frame::encode(Kind::Goodbye, s.flags(), source, s.next - 1, 0, &[&*s.cfg.group])?;
                let group = Some(s.say_group()?);
                Some(Transmit { service: Service::Lines, group, mess_type: TYPE_FRAME, payload })
            })
            .collect()
    }

    /// What is done with since the last call.
    pub fn released(&mut self) -> Released {
        mem::take(&mut self.released)
    }

    /// Streams that a writer answered for the first time since the last call.
    pub fn newly_heard(&mut self) -> Vec<u32> {
        mem::take(&mut self.newly_heard)
    }

    /// Writers (by stream) that answered since the last call; false for those that ended in order.
    pub fn heard_writers(&mut self) -> BTreeMap<(u32, Bytes), bool> {
        mem::take(&mut self.heard_writers)
    }

    /// First number of a stream that is not done with: the next one when nothing waits.
    pub fn front(&self, stream: u32) -> u64 {
        self.streams.get(stream as usize).map_or(u64::MAX, |s| s.number_at(0))
    }

    /// True when a writer answered for the stream, so that its lines are kept until they are acknowledged.
    pub fn is_strict(&self, stream: u32) -> bool {
        self.streams.get(stream as usize).is_some_and(|s| s.strict)
    }

    /// Streams whose front moved since the last call.
    pub fn moved(&mut self) -> BTreeSet<u32> {
        mem::take(&mut self.moved)
    }

    /// Records in the hands of the publisher.
    pub fn waiting(&self) -> usize {
        self.streams.iter().map(|s| s.window.len()).sum()
    }

    /// As [`Publisher::waiting`], without the gaps.
    pub fn waiting_lines(&self) -> u64 {
        self.streams.iter().flat_map(|s| &s.window).map(Record::lines).sum()
    }

    /// Lines that were sent and wait for a barrier or an acknowledgement.
    pub fn unconfirmed(&self) -> usize {
        self.streams.iter().map(|s| s.sent).sum()
    }

    /// Messages made so far, and how many of them began with a line that was sent before.
    pub fn messages(&self) -> (u64, u64) {
        (self.messages, self.resent)
    }

    /// True when the session that is up is needed for nothing any more.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.barrier.is_none()
    }

    fn activate(&mut self, index: u32) {
        let stream = &mut self.streams[index as usize];
        if self.connected && !mem::replace(&mut stream.queued, true) {
            self.active.push_back(index);
        }
    }
}

/// True when the stream has a place to say hello, gap and goodbye.
fn can_audit(audit: Audit, stream: &StreamConfig) -> bool {
    match stream.wire {
        Wire::Framed => true,
        Wire::Plain => audit != Audit::Off && stream.audit_group.is_some(),
    }
}

impl Stream {
    fn flags(&self) -> u8 {
        if self.strict { FLAG_STRICT } else { 0 }
    }

    /// Group of hello, gap and goodbye.
    fn say_group(&self) -> Option<Bytes> {
        match self.cfg.wire {
            Wire::Framed => Some(self.cfg.group.clone()),
            Wire::Plain => self.cfg.audit_group.clone(),
        }
    }

    /// Number of the record at a place of the window.
    fn number_at(&self, index: usize) -> u64 {
        self.window.get(index).map_or(self.next, |r| r.seq)
    }

    fn hello(&self, source: SourceId, about: &str) -> Option<Transmit> {
        // In a loose stream nothing that was sent will be sent again.
        let first = self.number_at(if self.strict { self.loose } else { self.sent });
        let text = format!("group={}\nfirst={first}\n{about}", String::from_utf8_lossy(&self.cfg.group));
        let payload = Frame::encode(
            Kind::Hello,
            self.flags(),
            source,
            self.number_at(self.sent),
            0,
            &[text.as_bytes()],
        )?;
        let group = Some(self.say_group()?);
        Some(Transmit { service: Service::Lines, group, mess_type: TYPE_FRAME, payload })
    }

    /// The number up to which enough writers have acknowledged.
    fn confirmed(&self, acks: Acks) -> u64 {
        let mut acked: Vec<u64> = self.writers.values().map(|w| w.acked).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let needed = match acks {
            Acks::Count(n) => n.max(1),
            Acks::All => {
                return self.writers.values().filter(|w| !w.gone).map(|w| w.acked).min().unwrap_or(0);
            }
        };
        acked.get(needed - 1).copied().unwrap_or(0)
    }

    /// Lets go of everything up to a number; true when that was something.
    fn release(&mut self, upto: u64, now: Duration, released: &mut Released) -> bool {
        let before = self.window.len();
        let everywhere = self.writers.values().map(|w| w.acked).min().unwrap_or(u64::MAX);
        while self.window.front().is_some_and(|r| r.last() <= upto) {
            let Some(record) = self.window.pop_front() else { break };
            // A line that need not be sent: plain ones after it have too few bits to tell so long a step.
            self.hello_due |= self.sent == 0;
            (self.sent, self.loose) = (self.sent.saturating_sub(1), self.loose.saturating_sub(1));
            self.waits_since = now;
            released.cost += record.cost();
            released.acked += record.lines();
            if record.last() > everywhere {
                released.acked_in_part += record.lines();
            }
        }
        if self.window.is_empty() {
            self.waits_since = now;
        }
        self.window.len() < before
    }

    fn after_send(&mut self, records: usize, last: u64) {
        self.sent += records;
        self.top = self.top.max(last);
        if !self.strict {
            self.loose = self.sent;
        }
    }

    /// As many consecutive lines as fit.
    fn lines_frame(&mut self, source: SourceId, batch_bytes: usize) -> Option<Bytes> {
        let room = batch_bytes.min(MESSAGE_BYTES_MAX - HEAD_BYTES - TAIL_BYTES);
        let mut bytes = 0;
        let mut flags = self.flags();
        let mut lines: Vec<&[u8]> = Vec::new();
        let first = self.window.get(self.sent)?;
        let (seq, time_us) = (first.seq, first.time_us);
        for record in self.window.range(self.sent..) {
            let What::Line { data, cut } = &record.what else { break };
            if !lines.is_empty() && (bytes + data.len() + 4 > room || lines.len() == usize::from(u16::MAX)) {
                break;
            }
            bytes += data.len() + 4;
            flags |= if *cut { FLAG_CUT } else { 0 };
            lines.push(data);
        }
        let payload = Frame::encode(Kind::Lines, flags, source, seq, time_us, &lines)?;
        let records = lines.len();
        self.after_send(records, seq + records as u64 - 1);
        Some(payload)
    }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
