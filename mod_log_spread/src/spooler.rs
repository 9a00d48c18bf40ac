//! The sender's side of the spool: every line goes to a journal first. What does not fit in the memory stays there alone,
//! and is read back, in order, when there is room again.
// spec: mod_log_spread 9.2, 9.3

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use httpd::{Level, Log};
use log_spool::{Cursor, Journal};
use log_stream::intake::What;
use log_stream::{GapWhy, Publisher, Record};

use crate::child::Desk;
use crate::counters::Counters;

/// Trouble with the disk is told at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The journal of a sender, and what is only there.
pub(crate) struct Spooler {
    journal: Journal,
    /// The next record that the publisher does not have; `None` when it has all.
    cursor: Option<Cursor>,
    /// Records that were taken from the queue and are neither in the journal nor with the publisher: the spool is full.
    pending: VecDeque<Record>,
    /// Place in the ring up to which everything was taken.
    taken: u64,
    /// Cost of what the publisher holds.
    held: usize,
    /// Above this the publisher gets nothing more.
    memory: usize,
    /// Lines that are in the journal alone.
    outside: u64,
    /// Lines went on in memory alone at some time, because the journal took none.
    bare: bool,
    complained: Option<Instant>,
    counters: &'static Counters,
    log: Log,
}

impl Spooler {
    /// A spooler for a new journal.
    pub(crate) fn new(journal: Journal, queue_bytes: usize, counters: &'static Counters, log: Log) -> Self {
        Self {
            journal,
            cursor: None,
            pending: VecDeque::new(),
            taken: 0,
            held: 0,
            // The rest is for the requests while the sender is not scheduled.
            memory: queue_bytes / 4,
            outside: 0,
            bare: false,
            complained: None,
            counters,
            log,
        }
    }

    /// Begins with an adopted journal, of which so many lines are to be sent.
    pub(crate) fn adopted(mut self, cursor: Cursor, lines: u64) -> Self {
        (self.cursor, self.outside) = (Some(cursor), lines);
        self
    }

    /// Lines that are in the journal alone, or taken and nowhere yet.
    pub(crate) fn outside(&self) -> u64 {
        self.outside + self.pending.iter().map(Record::lines).sum::<u64>()
    }

    /// True when records may be taken from the queue: otherwise it fills up, and drops as it is configured to.
    pub(crate) fn takes(&self) -> bool {
        self.pending.is_empty()
    }

    /// True when everything is with the publisher.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.cursor.is_none()
    }

    /// True when lines of the journal wait and there is room for them.
    pub(crate) fn can_read(&self) -> bool {
        self.cursor.is_some() && self.held <= self.memory / 2
    }

    /// Takes records of the queue; `taken` is the place in the ring behind them.
    pub(crate) fn take(
        &mut self,
        records: &mut VecDeque<Record>,
        taken: u64,
        desk: &Desk,
        to: &mut Publisher,
    ) {
        self.pending.append(records);
        self.taken = taken;
        self.place(desk, to);
    }

    /// Puts what was taken into the journal, and gives it to the publisher if there is room and nothing is before it.
    fn place(&mut self, desk: &Desk, to: &mut Publisher) {
        if self.pending.is_empty() {
            return;
        }
        let cost: usize = self.pending.iter().map(Record::cost).sum();
        match self.journal.append(&self.pending) {
            Ok(_) if self.cursor.is_none() && self.held + cost <= self.memory => {
                self.held += cost;
                to.handle_records(self.pending.drain(..));
            }
            Ok(place) => {
                self.cursor.get_or_insert(place);
                let lines = self.pending.iter().map(Record::lines).sum::<u64>();
                self.outside += lines;
                self.counters.spilled.fetch_add(lines, Relaxed);
                self.pending.clear();
                desk.release(cost);
            }
            Err(error) => {
                self.complain(&error, "lines are in memory only");
                // With lines before them in the journal they must wait, and the queue fills up.
                if self.cursor.is_none() {
                    self.held += cost;
                    self.bare = true;
                    to.handle_records(self.pending.drain(..));
                }
                return;
            }
        }
        desk.appended(self.taken);
    }

    /// Gives the publisher what it has room for.
    pub(crate) fn refill(&mut self, desk: &Desk, to: &mut Publisher) {
        self.place(desk, to);
        while self.can_read()
            && let Some(cursor) = &mut self.cursor
        {
            let mut records = VecDeque::new();
            let end = match self.journal.read(cursor, self.memory / 2, &mut records) {
                Ok(end) => end,
                Err(error) => {
                    self.complain(&error, "the lines there wait");
                    return;
                }
            };
            let cost: usize = records.iter().map(Record::cost).sum();
            let lost: u64 = records.iter().map(lost_in_crash).sum();
            self.counters.lost_crash.fetch_add(lost, Relaxed);
            if lost > 0 {
                let text = format!("lines lost in the end of a child that was killed: {lost}");
                self.log.write(Level::Error, &text);
            }
            self.outside = self.outside.saturating_sub(records.iter().map(Record::lines).sum());
            self.held += cost;
            desk.charge(cost);
            to.handle_records(records);
            if end {
                self.cursor = None;
                self.place(desk, to);
            }
        }
    }

    /// The publisher is done with some lines.
    pub(crate) fn account(&mut self, released: usize, from: &mut Publisher) {
        self.held = self.held.saturating_sub(released);
        let moved = from.moved();
        if moved.is_empty() {
            return;
        }
        for stream in moved {
            if let Err(error) = self.journal.mark(stream, from.front(stream), from.is_strict(stream)) {
                self.complain(&error, "after a crash lines may be sent twice");
            }
        }
        self.journal.reap(self.cursor.is_some(), |stream| from.front(stream));
    }

    /// A log writer answered for a stream.
    pub(crate) fn heard(&self, stream: u32, from: &Publisher) {
        // Only says how to replay; the next confirmation writes it again.
        let _ = self.journal.mark(stream, from.front(stream), true);
    }

    /// True when a stream has something that is not confirmed.
    pub(crate) fn holds(&self, stream: u32, front: u64) -> bool {
        self.journal.holds(stream, front)
    }

    /// The sender ends. Gives the lines that stay in the journal for another one, and those that are lost.
    pub(crate) fn end(mut self, from: &Publisher) -> (u64, u64) {
        let pending: u64 = self.pending.iter().map(Record::lines).sum();
        let waiting = from.waiting_lines() + self.outside;
        let left = if self.bare {
            // Not all that the publisher holds is in the journal.
            self.journal.lines(|stream| from.front(stream)).unwrap_or(0).min(waiting)
        } else {
            waiting
        };
        let folder = self.journal.folder().to_owned();
        let ended =
            if left == 0 && !self.left_gap(from) { self.journal.finish() } else { self.journal.leave() };
        if let Err(error) = ended {
            self.complained = None;
            let text = format!("spool {}: {error}", folder.display());
            self.log.write(Level::Error, &text);
        }
        (left, waiting - left + pending)
    }

    /// True when a gap is not told yet.
    fn left_gap(&self, from: &Publisher) -> bool {
        self.journal.streams().into_iter().any(|stream| self.journal.holds(stream, from.front(stream)))
    }

    fn complain(&mut self, error: &std::io::Error, and: &str) {
        self.counters.spool_errors.fetch_add(1, Relaxed);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            let text = format!("spool {}: {error}; {and}", self.journal.folder().display());
            self.log.write(Level::Error, &text);
        }
    }
}

fn lost_in_crash(record: &Record) -> u64 {
    match record.what {
        What::Gap { to, why: GapWhy::Crash } => to - record.seq + 1,
        _ => 0,
    }
}
