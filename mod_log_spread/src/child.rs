//! What a child process holds, and the way of a line into the queue.
// spec: mod_log_spread M-9 to M-16

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use httpd::logwriter::Portions;
use httpd::{Log, Request};
use log_spool::Ring;
use log_stream::intake::RECORD_COST;
use log_stream::{Intake, Pushed, Record, WhenFull, line};

use crate::counters::Counters;
use crate::plan::{self, Plan};
use crate::sender;
use crate::session::Opened;

/// Messages of the private group that wait for the sender; more are left (writers repeat theirs).
const INBOX_MAX: usize = 10_000;
/// Time for the end of a child, spec M-14.
const DRAIN_LIMIT: Duration = Duration::from_millis(2_000);
const JOIN_LIMIT: Duration = Duration::from_millis(2_500);

/// A child with its links.
pub(crate) struct Child {
    plan: Plan,
    links: Vec<&'static Desk>,
    counters: &'static Counters,
    log: Log,
}

/// Where request threads, the sender and the receiver of one link meet.
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    /// Wakes the sender.
    bell: Condvar,
    /// Wakes requests that wait for room, and the end of the child that waits for the sender.
    room: Condvar,
}

struct Inner {
    intake: Intake,
    /// Of a sender with a spool: lines that it did not yet append to its journal.
    ring: Option<Ring>,
    inbox: VecDeque<Bytes>,
    /// Sessions that were found broken by their receiver.
    broken: Option<u64>,
    /// What came of an attempt to connect.
    opened: Option<Opened>,
    asleep: bool,
    stop: Option<Instant>,
    done: bool,
    /// Lines dropped since the sender last asked.
    dropped: u64,
}

/// What the sender finds at its desk.
pub(crate) struct Work {
    pub(crate) records: VecDeque<Record>,
    pub(crate) inbox: VecDeque<Bytes>,
    pub(crate) broken: Option<u64>,
    pub(crate) opened: Option<Opened>,
    /// The child ends: be done by then.
    pub(crate) stop: Option<Instant>,
    /// Little room is left.
    pub(crate) pressure: bool,
    pub(crate) high_water: usize,
    /// Place in the ring behind the records.
    pub(crate) ring: u64,
}

impl Desk {
    /// A desk for so many streams. It is never freed: a thread that outlives its time limit may still look at it.
    pub(crate) fn new(streams: usize, queue_bytes: usize, when_full: WhenFull) -> &'static Self {
        Box::leak(Box::new(Self {
            inner: Mutex::new(Inner {
                intake: Intake::new(streams, queue_bytes, when_full),
                ring: None,
                inbox: VecDeque::new(),
                broken: None,
                opened: None,
                asleep: false,
                stop: None,
                done: false,
                dropped: 0,
            }),
            bell: Condvar::new(),
            room: Condvar::new(),
        }))
    }

    /// Puts lines into this ring too, from now on.
    pub(crate) fn set_ring(&self, ring: Ring) {
        self.lock().ring = Some(ring);
    }

    /// What is in the ring up to this place is in the journal.
    pub(crate) fn appended(&self, upto: u64) {
        if let Some(ring) = &mut self.lock().ring {
            ring.release(upto);
        }
    }

    /// The sender read records of this cost back from its journal.
    pub(crate) fn charge(&self, cost: usize) {
        self.lock().intake.charge(cost);
    }

    /// The sender is to end by then.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.lock().stop.get_or_insert(deadline);
        self.bell.notify_all();
        self.room.notify_all();
    }

    /// True when the sender is done.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Waits until the sender is done, at most for `limit`. False if it is not.
    pub(crate) fn wait_done(&self, limit: Duration) -> bool {
        let (inner, _) = self
            .room
            .wait_timeout_while(self.lock(), limit, |i| !i.done)
            .unwrap_or_else(PoisonError::into_inner);
        inner.done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do, at most for `limit`. The taken records are put into `records`, which is empty; without
    /// `take` they stay where they are.
    pub(crate) fn wait(
        &self,
        limit: Duration,
        take: bool,
        mut records: VecDeque<Record>,
        queue_bytes: usize,
    ) -> Work {
        let mut inner = self.lock();
        let idle = |i: &Inner| {
            (!take || i.intake.is_empty())
                && i.inbox.is_empty()
                && i.broken.is_none()
                && i.opened.is_none()
                && i.stop.is_none()
        };
        if idle(&inner) && !limit.is_zero() {
            inner.asleep = true;
            (inner, _) = self
                .bell
                .wait_timeout_while(inner, limit, |i| idle(i))
                .unwrap_or_else(PoisonError::into_inner);
            inner.asleep = false;
        }
        if take {
            inner.intake.take(&mut records);
        }
        Work {
            ring: inner.ring.as_ref().map_or(0, Ring::head),
            records,
            inbox: std::mem::take(&mut inner.inbox),
            broken: inner.broken.take(),
            opened: inner.opened.take(),
            stop: inner.stop,
            pressure: inner.intake.used() > queue_bytes / 10 * 9,
            high_water: inner.intake.high_water(),
        }
    }

    /// Gives room back to the queue.
    pub(crate) fn release(&self, cost: usize) {
        if cost > 0 {
            self.lock().intake.release(cost);
            self.room.notify_all();
        }
    }

    /// A message to the private group arrived.
    pub(crate) fn deliver(&self, payload: Bytes) {
        let mut inner = self.lock();
        if inner.inbox.len() < INBOX_MAX {
            inner.inbox.push_back(payload);
            self.ring(&inner);
        }
    }

    /// The session with this number is broken.
    pub(crate) fn report_broken(&self, session: u64) {
        let mut inner = self.lock();
        inner.broken = Some(session);
        self.ring(&inner);
    }

    /// No line is taken any more; gives what was taken last.
    pub(crate) fn close(&self) -> (VecDeque<Record>, u64) {
        let mut inner = self.lock();
        inner.intake.close();
        let mut records = VecDeque::new();
        inner.intake.take(&mut records);
        (records, inner.ring.as_ref().map_or(0, Ring::head))
    }

    /// Lines dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// An attempt to connect is over.
    pub(crate) fn opened(&self, opened: Opened) {
        let mut inner = self.lock();
        inner.opened = Some(opened);
        self.ring(&inner);
    }

    /// Messages of the private group, the number of a broken session, the result of an attempt to connect.
    pub(crate) fn take_inbox(&self) -> (VecDeque<Bytes>, Option<u64>, Option<Opened>) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.inbox), inner.broken.take(), inner.opened.take())
    }

    /// Waits for a message of the private group or the end of the session, at most for `limit`.
    pub(crate) fn wait_inbox(&self, limit: Duration) {
        let mut inner = self.lock();
        inner.asleep = true;
        let (mut inner, _) = self
            .bell
            .wait_timeout_while(inner, limit, |i| {
                i.inbox.is_empty() && i.broken.is_none() && i.opened.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        inner.asleep = false;
    }

    /// The sender is done.
    pub(crate) fn finish(&self) {
        self.lock().done = true;
        self.room.notify_all();
    }

    fn ring(&self, inner: &Inner) {
        if inner.asleep {
            self.bell.notify_one();
        }
    }

    fn push(&self, stream: u32, data: Bytes, cut: bool, max_wait: Duration) -> Pushed {
        let time_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let time_us = u64::try_from(time_us).unwrap_or(0);
        let mut inner = self.lock();
        if !max_wait.is_zero() {
            let cost = data.len() + RECORD_COST;
            (inner, _) = self
                .room
                .wait_timeout_while(inner, max_wait, |i| i.stop.is_none() && !i.intake.has_room(cost))
                .unwrap_or_else(PoisonError::into_inner);
        }
        let pushed = inner.intake.push(stream, time_us, data, cut);
        let Inner { intake, ring, .. } = &mut *inner;
        if let (true, Some(ring), Some(record)) = (pushed.accepted, ring, intake.newest()) {
            // A full ring is no loss: the line is safe a moment later, when the sender appends it.
            ring.push(record);
        }
        inner.dropped += pushed.dropped;
        if pushed.wake {
            self.ring(&inner);
        }
        pushed
    }
}

impl Child {
    /// Starts the senders. Links whose thread cannot be started drop (and count) their lines.
    pub(crate) fn start(plan: Plan, counters: &'static Counters, log: Log, about: &str) -> Self {
        let mut links = Vec::new();
        for link in &plan.links {
            let mut link = link.clone();
            let own = link.name();
            for stream in &mut link.streams {
                stream.heard = counters.heard(&stream.group);
            }
            let global = &plan.global;
            let desk = Desk::new(link.streams.len(), global.queue_bytes, global.when_full);
            // Journals of links that are configured no more go through the first one.
            let strangers = links.is_empty();
            let names: Vec<String> = plan.links.iter().map(plan::Link::name).collect();
            let adopts = move |name: &str| name == own || strangers && !names.iter().any(|n| n == name);
            let begin =
                sender::Begin { desk, link, global: global.clone(), counters, log, about: about.to_owned() };
            if let Err(error) = sender::start(begin, Box::new(adopts)) {
                log.write(
                    httpd::Level::Error,
                    &format!("the sender thread cannot be started, lines are dropped: {error}"),
                );
                desk.close();
                desk.finish();
            }
            links.push(desk);
        }
        Self { plan, links, counters, log }
    }

    /// Takes a line from a request thread.
    pub(crate) fn write(&self, request: Request<'_>, log: u32, portions: Portions<'_>) {
        let begun = Instant::now();
        let counters = self.counters;
        let (link, stream) = match self.plan.logs.get(log as usize) {
            Some(plan::Log::Group { link, stream }) => (*link, *stream),
            Some(plan::Log::Family { link, first, n, hash }) => {
                let host = request.server().hostname().unwrap_or_default();
                (*link, first + hash.bucket(host, *n))
            }
            Some(plan::Log::Bad) | None => {
                counters.lines.fetch_add(1, Relaxed);
                counters.dropped_name.fetch_add(1, Relaxed);
                return;
            }
        };
        let mut text = Vec::with_capacity(portions.len() + 1);
        for portion in portions.iter() {
            text.extend_from_slice(portion);
        }
        self.put(link, stream, text);
        let spent = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if spent > counters.write_max_us.load(Relaxed) {
            counters.write_max_us.fetch_max(spent, Relaxed);
        }
    }

    /// Takes a line of the error log.
    pub(crate) fn write_error(&self, log: u32, text: Vec<u8>) {
        if let Some(plan::Log::Group { link, stream }) = self.plan.logs.get(log as usize) {
            self.counters.error_lines.fetch_add(1, Relaxed);
            self.put(*link, *stream, text);
        }
    }

    /// Counters of all children.
    pub(crate) fn counters(&self) -> &'static Counters {
        self.counters
    }

    /// The error log for this group, as written in the configuration.
    pub(crate) fn error_log(&self, name: &[u8]) -> Option<u32> {
        self.plan.errors.iter().find(|(n, _)| **n == *name).map(|(_, log)| *log)
    }

    fn put(&self, link: usize, stream: u32, mut text: Vec<u8>) {
        let counters = self.counters;
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        counters.bytes.fetch_add(text.len() as u64, Relaxed);
        let cut = line::cut(&mut text, self.plan.global.line_bytes);
        if cut {
            counters.cut.fetch_add(1, Relaxed);
        }
        let pushed = self.links[link].push(stream, Bytes::from(text), cut, self.plan.global.max_wait);
        // Now, not before: a child that is killed here has counted what will be found in its spool.
        counters.lines.fetch_add(1, Relaxed);
        if pushed.dropped > 0 {
            counters.dropped_full.fetch_add(pushed.dropped, Relaxed);
        }
    }

    /// The child ends: the senders flush, for a limited time.
    pub(crate) fn end(&self) {
        let begun = Instant::now();
        for desk in &self.links {
            desk.stop(begun + DRAIN_LIMIT);
        }
        for desk in &self.links {
            if !desk.wait_done(JOIN_LIMIT.saturating_sub(begun.elapsed())) {
                self.log.write(
                    httpd::Level::Error,
                    "the sender did not end in time; lines of this child may be lost without being counted",
                );
            }
        }
    }
}
