//! The writer's side: what to write, what to leave, whom to ask, whom to acknowledge.
//!
//! Give every received message to [`Sequencer::handle_message`] in delivery order, write the lines of its outputs in
//! order, and after each flush send what [`Sequencer::acks`] gives. All decisions but the timing of acknowledgements
//! depend on the stream alone: two writers that receive the same messages write the same bytes.
// spec: log_writer L-4

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{ANYONE, FLAG_LAST, FLAG_RESEND, FLAG_STRICT, Frame, Kind, SourceId};
use crate::{MESSAGE_BYTES_MAX, number_of};

/// Most (source, group) pairs that are remembered; the longest silent one is forgotten for a new one.
pub const SOURCES_MAX: usize = 65_536;
/// A source that was silent for this long is forgotten: its process is gone.
const SILENT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Time between two requests to send again to the same source.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A sender that does not answer is asked at most so often, until it is heard again.
const WISHES_MAX: u32 = 10;

/// What a message means for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Write this line (it ends with a line feed).
    Line(Bytes),
    /// A source is new to this writer; its lines before `first` were never this writer's to write.
    Source {
        /// The source.
        source: SourceId,
        /// Group of its lines.
        group: Bytes,
        /// The first number that will be written.
        first: u64,
        /// Its own words: host, process, generation.
        about: Bytes,
    },
    /// Lines that are not in the file and will not come.
    Gap {
        /// The source.
        source: SourceId,
        /// Group of the lines.
        group: Bytes,
        /// First missing number.
        from: u64,
        /// Last missing number.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// A source ended in order.
    End {
        /// The source.
        source: SourceId,
        /// Group of its lines.
        group: Bytes,
        /// Its last number.
        last: u64,
        /// Every line up to the last was written.
        complete: bool,
    },
    /// Something that is no message of the log.
    Reject(&'static str),
}

/// Why lines are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapReason {
    /// The source dropped them.
    Publisher,
    /// Another writer acknowledged them; this one did not receive them.
    Elsewhere,
    /// They were lost on the way and the source does not keep lines.
    Lost,
}

/// Counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Lines to write.
    pub lines: u64,
    /// Of these, lines without a number.
    pub unnumbered: u64,
    /// Lines that were received again and left.
    pub duplicates: u64,
    /// Lines that were left because an earlier one is missing; they come again.
    pub early: u64,
    /// Lines known to be missing.
    pub missing: u64,
    /// Requests to send again.
    pub asked: u64,
    /// Messages that were no log messages.
    pub rejected: u64,
}

/// The state machine. See the module.
#[derive(Debug)]
pub struct Sequencer {
    /// Who this writer is: the same over restarts.
    me: SourceId,
    sources: BTreeMap<(Bytes, SourceId), Source>,
    /// (sender, group) of plain lines -> source and number of the next one.
    cursors: BTreeMap<(Bytes, Bytes), (SourceId, u64)>,
    /// (sender, group) whose numbers are not known: they are asked to say hello.
    unknown: BTreeMap<(Bytes, Bytes), Wish>,
    counters: Counters,
    urgent: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    asked: Option<Duration>,
    times: u32,
}

#[derive(Debug)]
struct Source {
    next: u64,
    sender: Bytes,
    strict: bool,
    dirty: bool,
    resend: bool,
    asked: Option<Duration>,
    heard: Duration,
}

/// What a frame or a plain line is for the log.
struct Arrival<'a> {
    group: &'a Bytes,
    source: SourceId,
    seq: u64,
    strict: bool,
}

impl Sequencer {
    /// A sequencer without history. `me` tells this writer from others; a writer that goes on after a restart keeps
    /// it.
    pub fn new(me: SourceId) -> Self {
        Self {
            me,
            sources: BTreeMap::new(),
            cursors: BTreeMap::new(),
            unknown: BTreeMap::new(),
            counters: Counters::default(),
            urgent: false,
        }
    }

    /// Who this writer is.
    pub fn me(&self) -> SourceId {
        self.me
    }

    /// Restores the position of a source from a state file.
    pub fn restore(&mut self, group: Bytes, source: SourceId, next: u64) {
        let source_state = Source { dirty: false, ..Source::new(next, Bytes::new(), Duration::ZERO) };
        self.sources.insert((group, source), source_state);
    }

    /// Positions to keep in a state file: group, source, next number.
    pub fn positions(&self) -> impl Iterator<Item = (&Bytes, SourceId, u64)> {
        self.sources.iter().map(|((group, source), s)| (group, *source, s.next))
    }

    /// Takes one message. `group` is the log group, also when the message came in its audit group (`audit`).
    #[allow(clippy::too_many_arguments, reason = "these are the parts of a message")]
    pub fn handle_message(
        &mut self,
        now: Duration,
        sender: &Bytes,
        group: &Bytes,
        audit: bool,
        mess_type: i16,
        payload: Bytes,
        out: &mut Vec<Output>,
    ) {
        if Frame::looks_like(&payload) {
            self.frames(now, sender, group, audit, payload, out);
        } else if audit {
            self.reject("a message in an audit group that is no frame", out);
        } else if payload.is_empty() {
            self.reject("an empty message", out);
        } else if number_of(mess_type, 1).is_some() {
            self.numbered(now, sender, group, mess_type, payload, out);
        } else {
            self.counters.unnumbered += 1;
            self.line(payload, out);
        }
    }

    fn frames(
        &mut self,
        now: Duration,
        sender: &Bytes,
        group: &Bytes,
        audit: bool,
        mut payload: Bytes,
        out: &mut Vec<Output>,
    ) {
        while !payload.is_empty() {
            let Ok(frame) = Frame::decode(&mut payload) else {
                return self.reject("a broken frame", out);
            };
            let strict = frame.flags & FLAG_STRICT != 0;
            let arrival = Arrival { group, source: frame.source, seq: frame.seq, strict };
            match frame.kind {
                Kind::Lines => {
                    for (seq, line) in (frame.seq..).zip(frame.records()) {
                        self.arrive(now, sender, &Arrival { seq, ..arrival }, line, out);
                    }
                }
                Kind::Hello => self.hello(now, sender, &arrival, audit, &frame, out),
                Kind::Gap => self.gap(now, sender, &arrival, frame.number("to"), out),
                Kind::Goodbye => self.goodbye(sender, &arrival, out),
                Kind::Ack | Kind::Summary | Kind::Rotate | Kind::Barrier => {}
            }
        }
    }

    /// A plain line whose number was told in the audit group, and is repeated in part in the message type.
    fn numbered(
        &mut self,
        now: Duration,
        sender: &Bytes,
        group: &Bytes,
        mess_type: i16,
        line: Bytes,
        out: &mut Vec<Output>,
    ) {
        let key = (sender.clone(), group.clone());
        match self.cursors.get_mut(&key) {
            Some((source, next)) => {
                let seq = number_of(mess_type, *next).unwrap_or(*next);
                *next = seq.saturating_add(1);
                let arrival = Arrival { group, source: *source, seq, strict: true };
                self.arrive(now, sender, &arrival, &line, out);
            }
            None => {
                self.counters.early += 1;
                self.wish(key);
            }
        }
    }

    /// One numbered line.
    fn arrive(
        &mut self,
        now: Duration,
        sender: &Bytes,
        arrival: &Arrival<'_>,
        line: &Bytes,
        out: &mut Vec<Output>,
    ) {
        let known = self.sources.contains_key(&arrival.key());
        if !known && !arrival.strict {
            self.meet(now, sender, arrival, arrival.seq, Bytes::new(), out);
        }
        let Some(source) = self.sources.get_mut(&arrival.key()) else {
            // It keeps its lines: its hello will say where to begin.
            self.counters.early += 1;
            return self.wish((sender.clone(), arrival.group.clone()));
        };
        source.hear(now, sender, arrival.strict);
        if arrival.seq < source.next {
            self.counters.duplicates += 1;
            return;
        }
        if arrival.seq > source.next {
            if arrival.strict {
                self.counters.early += 1;
                source.resend = true;
                return;
            }
            self.missing(arrival, arrival.seq - 1, GapReason::Lost, out);
        }
        if let Some(source) = self.sources.get_mut(&arrival.key()) {
            source.next = arrival.seq + 1;
        }
        self.line(line.clone(), out);
    }

    fn hello(
        &mut self,
        now: Duration,
        sender: &Bytes,
        arrival: &Arrival<'_>,
        audit: bool,
        frame: &Frame,
        out: &mut Vec<Output>,
    ) {
        self.urgent = true;
        // Numbers begin at 1; a hello that says otherwise is read as if it said so.
        let next = frame.seq.max(1);
        let first = frame.number("first").unwrap_or(next).clamp(1, next);
        self.unknown.remove(&(sender.clone(), arrival.group.clone()));
        if !self.sources.contains_key(&arrival.key()) {
            let about = frame.records().first().cloned().unwrap_or_default();
            self.meet(now, sender, arrival, first, about, out);
        }
        // Plain lines of a loose source carry no numbers: those before this hello were written as they came.
        if let Some(source) = self.sources.get_mut(&arrival.key()).filter(|s| audit && !s.strict) {
            source.next = source.next.max(if arrival.strict { first } else { next });
        }
        if self.sources.get(&arrival.key()).is_some_and(|s| first > s.next) {
            let reason = if arrival.strict { GapReason::Elsewhere } else { GapReason::Lost };
            self.missing(arrival, first - 1, reason, out);
        }
        if self.cursors.len() < SOURCES_MAX
            || self.cursors.contains_key(&(sender.clone(), arrival.group.clone()))
        {
            self.cursors.insert((sender.clone(), arrival.group.clone()), (arrival.source, next));
        }
        if let Some(source) = self.sources.get_mut(&arrival.key()) {
            source.hear(now, sender, arrival.strict);
            // The source may have begun anew from a resend: what is asked for is judged by this hello.
            source.resend = arrival.strict && next > source.next;
        }
    }

    fn gap(
        &mut self,
        now: Duration,
        sender: &Bytes,
        arrival: &Arrival<'_>,
        to: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let Some(to) = to.filter(|to| *to >= arrival.seq && *to < u64::MAX) else {
            return self.reject("a gap without numbers", out);
        };
        if let Some((source, next)) = self.cursors.get_mut(&(sender.clone(), arrival.group.clone()))
            && *source == arrival.source
        {
            *next = (*next).max(to + 1);
        }
        if !self.sources.contains_key(&arrival.key()) {
            if arrival.strict {
                return self.wish((sender.clone(), arrival.group.clone()));
            }
            self.meet(now, sender, arrival, arrival.seq, Bytes::new(), out);
        }
        let Some(source) = self.sources.get_mut(&arrival.key()) else { return };
        source.hear(now, sender, arrival.strict);
        if arrival.seq > source.next && arrival.strict {
            source.resend = true;
        } else if to >= source.next {
            if arrival.seq > source.next {
                self.missing(arrival, arrival.seq - 1, GapReason::Lost, out);
            }
            self.missing(arrival, to, GapReason::Publisher, out);
        }
    }

    fn goodbye(&mut self, sender: &Bytes, arrival: &Arrival<'_>, out: &mut Vec<Output>) {
        self.cursors.remove(&(sender.clone(), arrival.group.clone()));
        self.unknown.remove(&(sender.clone(), arrival.group.clone()));
        if let Some(source) = self.sources.remove(&arrival.key()) {
            let complete = source.next > arrival.seq;
            let (source, group) = (arrival.source, arrival.group.clone());
            out.push(Output::End { source, group, last: arrival.seq, complete });
        }
    }

    /// Declares everything from the expected number to `to` as missing.
    fn missing(&mut self, arrival: &Arrival<'_>, to: u64, reason: GapReason, out: &mut Vec<Output>) {
        let Some(source) = self.sources.get_mut(&arrival.key()) else { return };
        let from = source.next;
        if to < from {
            return;
        }
        source.next = to + 1;
        self.counters.missing = self.counters.missing.saturating_add(to - from + 1);
        out.push(Output::Gap { source: arrival.source, group: arrival.group.clone(), from, to, reason });
    }

    fn meet(
        &mut self,
        now: Duration,
        sender: &Bytes,
        arrival: &Arrival<'_>,
        first: u64,
        about: Bytes,
        out: &mut Vec<Output>,
    ) {
        if self.sources.len() >= SOURCES_MAX {
            let silent = self.sources.iter().min_by_key(|(_, s)| s.heard).map(|(key, _)| key.clone());
            if let Some(key) = silent {
                self.sources.remove(&key);
            }
        }
        self.sources.insert(arrival.key(), Source::new(first, sender.clone(), now));
        out.push(Output::Source { source: arrival.source, group: arrival.group.clone(), first, about });
    }

    /// A sender that keeps its lines, but whose numbers are not known: it must say hello again.
    fn wish(&mut self, key: (Bytes, Bytes)) {
        if self.unknown.len() < SOURCES_MAX {
            self.unknown.entry(key).or_default();
        }
    }

    fn line(&mut self, payload: Bytes, out: &mut Vec<Output>) {
        self.counters.lines += 1;
        out.push(Output::Line(payload));
    }

    fn reject(&mut self, why: &'static str, out: &mut Vec<Output>) {
        self.counters.rejected += 1;
        out.push(Output::Reject(why));
    }

    /// The own session was lost: plain lines may have been missed, so their numbers are unknown until the next hello.
    pub fn handle_session_lost(&mut self) {
        self.cursors.clear();
        self.unknown.clear();
    }

    /// Forgets sources that were silent for a day. To be called now and then.
    pub fn forget_silent(&mut self, now: Duration) {
        self.sources.retain(|_, s| now.saturating_sub(s.heard) < SILENT_MAX);
    }

    /// True once after a source said where it stands: it waits for an answer.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// True when [`Sequencer::acks`] would give something, or will after a short time.
    pub fn wants_acks(&self) -> bool {
        !self.unknown.is_empty() || self.sources.values().any(|s| s.dirty || s.resend)
    }

    /// Acknowledgements and requests: receiver (private group) and message. An acknowledgement covers everything
    /// handled so far, so only call it when all of that is as durable as promised.
    pub fn acks(&mut self, now: Duration) -> Vec<(Bytes, Bytes)> {
        self.answers(now, 0)
    }

    /// The last acknowledgements, to all sources: this writer ends in order and is not to be waited for.
    pub fn farewells(&mut self, now: Duration) -> Vec<(Bytes, Bytes)> {
        self.unknown.clear();
        self.sources.values_mut().for_each(|s| (s.dirty, s.resend) = (true, false));
        self.answers(now, FLAG_LAST)
    }

    fn answers(&mut self, now: Duration, all_flags: u8) -> Vec<(Bytes, Bytes)> {
        let mut messages: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        for ((group, id), source) in &mut self.sources {
            let ask = source.resend && source.asked.is_none_or(|at| now >= at + ASK_EVERY);
            if !(source.dirty || ask) || source.sender.is_empty() {
                continue;
            }
            source.dirty = false;
            let mut flags = all_flags;
            if ask {
                source.asked = Some(now);
                self.counters.asked += 1;
                flags |= FLAG_RESEND;
            }
            if let Some(frame) =
                Frame::encode(Kind::Ack, flags, *id, source.next - 1, 0, &[group, &self.me.0])
            {
                messages.entry(source.sender.clone()).or_default().push(frame);
            }
        }
        self.unknown.retain(|_, wish| wish.times < WISHES_MAX);
        for ((sender, group), wish) in &mut self.unknown {
            if wish.asked.is_some_and(|at| now < at + ASK_EVERY) {
                continue;
            }
            *wish = Wish { asked: Some(now), times: wish.times + 1 };
            self.counters.asked += 1;
            if let Some(frame) = Frame::encode(Kind::Ack, FLAG_RESEND, ANYONE, 0, 0, &[group]) {
                messages.entry(sender.clone()).or_default().push(frame);
            }
        }
        messages.into_iter().flat_map(|(to, frames)| packed(&to, frames)).collect()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sources known now.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }
}

impl Arrival<'_> {
    fn key(&self) -> (Bytes, SourceId) {
        (self.group.clone(), self.source)
    }
}

impl Source {
    fn new(next: u64, sender: Bytes, now: Duration) -> Self {
        Self { next, sender, strict: false, dirty: true, resend: false, asked: None, heard: now }
    }

    fn hear(&mut self, now: Duration, sender: &Bytes, strict: bool) {
        if self.sender != *sender {
            self.sender = sender.clone();
        }
        self.strict = strict;
        self.heard = now;
        self.dirty = true;
    }
}

/// Frames for one receiver, as few messages as fit.
fn packed(to: &Bytes, frames: Vec<Bytes>) -> Vec<(Bytes, Bytes)> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for frame in frames {
        match messages.last_mut().filter(|m| m.len() + frame.len() <= MESSAGE_BYTES_MAX) {
            Some(message) => message.extend_from_slice(&frame),
            None => messages.push(frame.to_vec()),
        }
    }
    messages.into_iter().map(|m| (to.clone(), Bytes::from(m))).collect()
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
