//! The writer's side: what to write, what to leave, whom to ask, whom to acknowledge.
//!
//! Give every received message to [`Sequencer::handle_message`] in delivery order, write the lines of its outputs in
//! order, and after each flush send what [`Sequencer::acks`] gives. All decisions but the timing of acknowledgements
//! depend on the stream alone: two writers that receive the same messages write the same bytes.
// spec: log_writer L-4

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{ANYONE, FLAG_LAST, FLAG_NOW, FLAG_RESEND, FLAG_STRICT, Frame, Kind, SourceId};
use crate::{MESSAGE_BYTES_MAX, number_of};

/// Most sources of one group that are remembered; the longest silent ones are forgotten for new ones.
pub const SOURCES_MAX: usize = 65_536;
/// Most sources of one group that are remembered after their end, see [`Sequencer::remember_ended`].
pub const ENDED_MAX: usize = 262_144;
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
    Line {
        /// The bytes.
        line: Bytes,
        /// Its source and number; `None` for a line without a number.
        origin: Option<(SourceId, u64)>,
    },
    /// A line that is in the log already; it was left out.
    Duplicate {
        /// The source.
        source: SourceId,
        /// Number of the line.
        seq: u64,
    },
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
        /// The number that would have been written next.
        next: u64,
        /// Every line up to the last was written.
        complete: bool,
    },
    /// A log writer asks all to begin new files here, for the period that begins at this time (seconds since 1970).
    Rotate {
        /// Who asks.
        writer: SourceId,
        /// Begin of the new period.
        at: i64,
        /// Also in the middle of a period.
        now: bool,
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
    groups: BTreeMap<Bytes, Group>,
    remember_ended: bool,
    counters: Counters,
    urgent: bool,
}

/// What is known about one log group.
#[derive(Debug, Default)]
struct Group {
    sources: BTreeMap<SourceId, Source>,
    /// Sender of plain lines -> source and number of the next one.
    cursors: BTreeMap<Bytes, (SourceId, u64)>,
    /// Senders whose numbers are not known: they are asked to say hello.
    unknown: BTreeMap<Bytes, Wish>,
    /// Sources that are gone -> number of the next line.
    ended: BTreeMap<SourceId, u64>,
    /// In the order of their ends.
    ended_order: VecDeque<SourceId>,
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
    /// The first number that is handled, but not written.
    held: Option<u64>,
    /// Numbers not below `next` that were written before a restart.
    written: BTreeSet<u64>,
}

/// What a frame or a plain line is for the log.
#[derive(Clone, Copy)]
struct Arrival {
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
            groups: BTreeMap::new(),
            remember_ended: false,
            counters: Counters::default(),
            urgent: false,
        }
    }

    /// Who this writer is.
    pub fn me(&self) -> SourceId {
        self.me
    }

    /// Remembers the position of sources after their end, so that lines which come again later (a spool that is
    /// replayed) are known as duplicates. At most [`ENDED_MAX`] for each group.
    pub fn remember_ended(&mut self) {
        self.remember_ended = true;
    }

    /// Restores the position of a source from a state file.
    pub fn restore(&mut self, group: Bytes, source: SourceId, next: u64) {
        let source_state = Source { dirty: false, ..Source::new(next, Bytes::new(), Duration::ZERO) };
        self.groups.entry(group).or_default().sources.insert(source, source_state);
    }

    /// Lines from this number on are handled, but not written yet: the source is told so, and positions say so. `None`:
    /// everything handled is written.
    pub fn hold(&mut self, lowest: &BTreeMap<(Bytes, SourceId), u64>) {
        for (name, group) in &mut self.groups {
            for (id, source) in &mut group.sources {
                let held = lowest.get(&(name.clone(), *id)).copied();
                source.dirty |= source.held != held;
                source.held = held;
            }
        }
    }

    /// Lines behind the restored position of a source that are in the log already.
    pub fn restore_written(&mut self, group: &Bytes, source: SourceId, numbers: BTreeSet<u64>) {
        if let Some(source) = self.groups.get_mut(group).and_then(|g| g.sources.get_mut(&source)) {
            source.written = numbers;
        }
    }

    /// Restores the position of a source that has ended.
    pub fn restore_ended(&mut self, group: Bytes, source: SourceId, next: u64) {
        let group = self.groups.entry(group).or_default();
        if !group.sources.contains_key(&source) {
            group.end(source, next);
        }
    }

    /// Positions to keep in a state file: group, source, next number.
    pub fn positions(&self) -> impl Iterator<Item = (&Bytes, SourceId, u64)> {
        self.groups.iter().flat_map(|(name, g)| g.sources.iter().map(move |(id, s)| (name, *id, s.done())))
    }

    /// Positions of sources that have ended, oldest first within a group.
    pub fn ended(&self) -> impl Iterator<Item = (&Bytes, SourceId, u64)> {
        self.groups.iter().flat_map(|(name, g)| {
            g.ended_order.iter().filter_map(move |id| Some((name, *id, *g.ended.get(id)?)))
        })
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
        if !self.groups.contains_key(group) {
            self.groups.insert(group.clone(), Group::default());
        }
        let Some(state) = self.groups.get_mut(group) else { return };
        let mut step = Step {
            now,
            sender,
            name: group,
            group: state,
            remember_ended: self.remember_ended,
            counters: &mut self.counters,
            urgent: &mut self.urgent,
            out,
        };
        step.message(audit, mess_type, payload);
    }

    /// The own session was lost: plain lines may have been missed, so their numbers are unknown until the next hello.
    pub fn handle_session_lost(&mut self) {
        for group in self.groups.values_mut() {
            group.cursors.clear();
            group.unknown.clear();
        }
    }

    /// Forgets sources that were silent for a day. To be called now and then.
    pub fn forget_silent(&mut self, now: Duration) {
        let remember = self.remember_ended;
        for group in self.groups.values_mut() {
            let silent = |s: &Source| now.saturating_sub(s.heard) >= SILENT_MAX;
            let ids = group.sources.iter().filter(|(_, s)| silent(s)).map(|(id, _)| *id).collect();
            group.forget(remember, ids);
        }
    }

    /// True once after a source said where it stands: it waits for an answer.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// True when [`Sequencer::acks`] would give something, or will after a short time.
    pub fn wants_acks(&self) -> bool {
        self.groups.values().any(|g| !g.unknown.is_empty() || g.sources.values().any(|s| s.dirty || s.resend))
    }

    /// Acknowledgements and requests: receiver (private group) and message. An acknowledgement covers everything
    /// handled so far, so only call it when all of that is as durable as promised.
    pub fn acks(&mut self, now: Duration) -> Vec<(Bytes, Bytes)> {
        self.answers(now, 0)
    }

    /// The last acknowledgements, to all sources: this writer ends in order and is not to be waited for.
    pub fn farewells(&mut self, now: Duration) -> Vec<(Bytes, Bytes)> {
        for group in self.groups.values_mut() {
            group.unknown.clear();
            group.sources.values_mut().for_each(|s| (s.dirty, s.resend) = (true, false));
        }
        self.answers(now, FLAG_LAST)
    }

    fn answers(&mut self, now: Duration, all_flags: u8) -> Vec<(Bytes, Bytes)> {
        let mut messages: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        let Self { groups, counters, me, .. } = self;
        for (name, group) in groups {
            for (id, source) in &mut group.sources {
                let ask = source.resend && source.asked.is_none_or(|at| now >= at + ASK_EVERY);
                if !(source.dirty || ask) || source.sender.is_empty() {
                    continue;
                }
                source.dirty = false;
                let mut flags = all_flags;
                if ask {
                    source.asked = Some(now);
                    counters.asked += 1;
                    flags |= FLAG_RESEND;
                }
                let frame = Frame::encode(Kind::Ack, flags, *id, source.done() - 1, 0, &[name, &me.0]);
                messages.entry(source.sender.clone()).or_default().extend(frame);
            }
            group.unknown.retain(|_, wish| wish.times < WISHES_MAX);
            for (sender, wish) in &mut group.unknown {
                if wish.asked.is_some_and(|at| now < at + ASK_EVERY) {
                    continue;
                }
                *wish = Wish { asked: Some(now), times: wish.times + 1 };
                counters.asked += 1;
                let frame = Frame::encode(Kind::Ack, FLAG_RESEND, ANYONE, 0, 0, &[name]);
                messages.entry(sender.clone()).or_default().extend(frame);
            }
        }
        messages.into_iter().flat_map(|(to, frames)| packed(&to, frames)).collect()
    }

    /// The message (for an audit group) that asks all log writers to begin new files where it stands in the order,
    /// for the period that begins at `at` (seconds since 1970), or with `now` in the middle of one.
    pub fn rotation(&self, at: i64, now: bool) -> Option<Bytes> {
        Frame::encode(Kind::Rotate, if now { FLAG_NOW } else { 0 }, self.me, u64::try_from(at).ok()?, 0, &[])
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sources known now.
    pub fn sources(&self) -> usize {
        self.groups.values().map(|g| g.sources.len()).sum()
    }
}

impl Group {
    fn end(&mut self, source: SourceId, next: u64) {
        if self.ended.insert(source, next).is_none() {
            self.ended_order.push_back(source);
        }
        while self.ended_order.len() > ENDED_MAX {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, remember: bool, ids: Vec<SourceId>) {
        for id in ids {
            if let Some(source) = self.sources.remove(&id)
                && remember
            {
                self.end(id, source.next);
            }
        }
    }
}

/// One message on its way through the state.
struct Step<'a> {
    now: Duration,
    sender: &'a Bytes,
    name: &'a Bytes,
    group: &'a mut Group,
    remember_ended: bool,
    counters: &'a mut Counters,
    urgent: &'a mut bool,
    out: &'a mut Vec<Output>,
}

impl Step<'_> {
    fn message(&mut self, audit: bool, mess_type: i16, payload: Bytes) {
        if Frame::looks_like(&payload) {
            self.frames(audit, payload);
        } else if audit {
            self.reject("a message in an audit group that is no frame");
        } else if payload.is_empty() {
            self.reject("an empty message");
        } else if number_of(mess_type, 1).is_some() {
            self.numbered(mess_type, payload);
        } else {
            self.counters.unnumbered += 1;
            self.counters.lines += 1;
            self.out.push(Output::Line { line: payload, origin: None });
        }
    }

    fn frames(&mut self, audit: bool, mut payload: Bytes) {
        while !payload.is_empty() {
            let Ok(frame) = Frame::decode(&mut payload) else {
                return self.reject("a broken frame");
            };
            let strict = frame.flags & FLAG_STRICT != 0;
            let arrival = Arrival { source: frame.source, seq: frame.seq, strict };
            match frame.kind {
                Kind::Lines => self.arrive(arrival, frame.records()),
                Kind::Hello => self.hello(arrival, audit, &frame),
                Kind::Gap => self.gap(arrival, frame.number("to")),
                Kind::Goodbye => self.goodbye(arrival),
                Kind::Rotate => match i64::try_from(frame.seq) {
                    Ok(at) if audit => {
                        let now = frame.flags & FLAG_NOW != 0;
                        self.out.push(Output::Rotate { writer: frame.source, at, now });
                    }
                    _ => self.reject("a rotation outside of the audit group"),
                },
                Kind::Ack | Kind::Summary | Kind::Barrier | Kind::Ask => {}
            }
        }
    }

    /// A plain line whose number was told in the audit group, and is repeated in part in the message type.
    fn numbered(&mut self, mess_type: i16, line: Bytes) {
        match self.group.cursors.get_mut(self.sender) {
            Some((source, next)) => {
                let seq = number_of(mess_type, *next).unwrap_or(*next);
                *next = seq.saturating_add(1);
                let arrival = Arrival { source: *source, seq, strict: true };
                self.arrive(arrival, &[line]);
            }
            None => {
                self.counters.early += 1;
                self.wish();
            }
        }
    }

    /// Numbered lines, one after another.
    fn arrive(&mut self, arrival: Arrival, lines: &[Bytes]) {
        let Arrival { source: id, mut seq, strict } = arrival;
        if !self.known(id) && !strict {
            self.meet(id, seq, Bytes::new());
        }
        let Some(source) = self.group.sources.get_mut(&id) else {
            // It keeps its lines: its hello will say where to begin.
            self.counters.early += lines.len() as u64;
            return self.wish();
        };
        source.hear(self.now, self.sender, strict);
        for line in lines {
            if seq < source.next {
                self.counters.duplicates += 1;
                self.out.push(Output::Duplicate { source: id, seq });
            } else if seq > source.next && strict {
                self.counters.early += 1;
                source.resend = true;
            } else {
                if seq > source.next {
                    let gap = source.missing(id, self.name, seq - 1, GapReason::Lost, self.counters);
                    self.out.extend(gap);
                }
                source.next = seq.saturating_add(1);
                if source.written.remove(&seq) {
                    self.counters.duplicates += 1;
                    self.out.push(Output::Duplicate { source: id, seq });
                    seq = source.next;
                    continue;
                }
                self.counters.lines += 1;
                self.out.push(Output::Line { line: line.clone(), origin: Some((id, seq)) });
            }
            seq = seq.saturating_add(1);
        }
    }

    fn hello(&mut self, arrival: Arrival, audit: bool, frame: &Frame) {
        *self.urgent = true;
        // Numbers begin at 1; a hello that says otherwise is read as if it said so.
        let next = frame.seq.max(1);
        let first = frame.number("first").unwrap_or(next).clamp(1, next);
        self.group.unknown.remove(self.sender);
        if !self.known(arrival.source) {
            let about = frame.records().first().cloned().unwrap_or_default();
            self.meet(arrival.source, first, about);
        }
        let Some(source) = self.group.sources.get_mut(&arrival.source) else { return };
        // Plain lines of a loose source carry no numbers: those before this hello were written as they came.
        if audit && !source.strict {
            source.next = source.next.max(if arrival.strict { first } else { next });
        }
        if first > source.next {
            let reason = if arrival.strict { GapReason::Elsewhere } else { GapReason::Lost };
            self.out.extend(source.missing(arrival.source, self.name, first - 1, reason, self.counters));
        }
        source.hear(self.now, self.sender, arrival.strict);
        // The source may have begun anew from a resend: what is asked for is judged by this hello.
        source.resend = arrival.strict && next > source.next;
        if self.group.cursors.len() < SOURCES_MAX || self.group.cursors.contains_key(self.sender) {
            self.group.cursors.insert(self.sender.clone(), (arrival.source, next));
        }
    }

    fn gap(&mut self, arrival: Arrival, to: Option<u64>) {
        let Some(to) = to.filter(|to| *to >= arrival.seq && *to < u64::MAX) else {
            return self.reject("a gap without numbers");
        };
        if let Some((source, next)) = self.group.cursors.get_mut(self.sender)
            && *source == arrival.source
        {
            *next = (*next).max(to + 1);
        }
        if !self.known(arrival.source) {
            if arrival.strict {
                return self.wish();
            }
            self.meet(arrival.source, arrival.seq, Bytes::new());
        }
        let Some(source) = self.group.sources.get_mut(&arrival.source) else { return };
        source.hear(self.now, self.sender, arrival.strict);
        if arrival.seq > source.next && arrival.strict {
            source.resend = true;
        } else if to >= source.next {
            let mut missing = |to, why| source.missing(arrival.source, self.name, to, why, self.counters);
            let lost = arrival.seq.checked_sub(1).and_then(|before| missing(before, GapReason::Lost));
            self.out.extend(lost);
            self.out.extend(missing(to, GapReason::Publisher));
        }
    }

    fn goodbye(&mut self, arrival: Arrival) {
        self.group.cursors.remove(self.sender);
        self.group.unknown.remove(self.sender);
        if let Some(source) = self.group.sources.remove(&arrival.source) {
            let next = source.next;
            if self.remember_ended {
                self.group.end(arrival.source, next);
            }
            let (last, complete) = (arrival.seq, next > arrival.seq);
            let group = self.name.clone();
            self.out.push(Output::End { source: arrival.source, group, last, next, complete });
        }
    }

    /// Whether a source has a position. One that has ended goes on where it was.
    fn known(&mut self, id: SourceId) -> bool {
        if self.group.sources.contains_key(&id) {
            return true;
        }
        let Some(next) = self.group.ended.get(&id).copied() else { return false };
        // Its place among the ended stays: it will end again.
        self.meet(id, next, Bytes::new());
        true
    }

    fn meet(&mut self, id: SourceId, first: u64, about: Bytes) {
        if self.group.sources.len() >= SOURCES_MAX {
            // Many at once, so that the next new one does not mean the same work again.
            let mut heard: Vec<_> = self.group.sources.iter().map(|(id, s)| (s.heard, *id)).collect();
            let (longest_silent, _, _) = heard.select_nth_unstable(SOURCES_MAX / 16);
            let ids = longest_silent.iter().map(|(_, id)| *id).collect();
            self.group.forget(self.remember_ended, ids);
        }
        self.group.sources.insert(id, Source::new(first, self.sender.clone(), self.now));
        self.out.push(Output::Source { source: id, group: self.name.clone(), first, about });
    }

    /// A sender that keeps its lines, but whose numbers are not known: it must say hello again.
    fn wish(&mut self) {
        if self.group.unknown.len() < SOURCES_MAX && !self.group.unknown.contains_key(self.sender) {
            self.group.unknown.insert(self.sender.clone(), Wish::default());
        }
    }

    fn reject(&mut self, why: &'static str) {
        self.counters.rejected += 1;
        self.out.push(Output::Reject(why));
    }
}

impl Source {
    fn new(next: u64, sender: Bytes, now: Duration) -> Self {
        Self {
            next,
            sender,
            strict: false,
            dirty: true,
            resend: false,
            asked: None,
            heard: now,
            held: None,
            written: BTreeSet::new(),
        }
    }

    /// The number after the last one that is written, with all before it.
    fn done(&self) -> u64 {
        self.held.unwrap_or(self.next).clamp(1, self.next)
    }

    fn hear(&mut self, now: Duration, sender: &Bytes, strict: bool) {
        if self.sender != *sender {
            self.sender = sender.clone();
        }
        self.strict = strict;
        self.heard = now;
        self.dirty = true;
    }

    /// Declares everything from the expected number to `to` as missing.
    fn missing(
        &mut self,
        id: SourceId,
        group: &Bytes,
        to: u64,
        reason: GapReason,
        counters: &mut Counters,
    ) -> Option<Output> {
        let from = self.next;
        if to < from {
            return None;
        }
        self.next = to.saturating_add(1);
        counters.missing = counters.missing.saturating_add(to - from + 1);
        Some(Output::Gap { source: id, group: group.clone(), from, to, reason })
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
