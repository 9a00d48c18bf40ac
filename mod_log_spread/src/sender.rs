//! The background thread of a child: the session with the daemon.
// spec: mod_log_spread 5, 9.2

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use httpd::{Level, Log};
use log_spool::{Budget, Journal, Meta, Orphan, Ring};
use log_stream::{Publisher, PublisherConfig, Released, SourceId, StreamConfig, Transmit};
use spread::SendError;

use crate::child::Desk;
use crate::counters::Counters;
use crate::plan::{Link, stream_config};
use crate::session::{Attempt, Opened, PROGRESS_LIMIT, Session, chain, random, seconds};
use crate::settings::{Global, Spool};
use crate::spooler::Spooler;

/// The sender waits so long for a daemon before it looks at its queue again.
const TRANSMIT_LIMIT: Duration = Duration::from_millis(10);
/// One attempt to connect takes at most so long.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The sender looks at its timers at least so often while lines are under way.
const TICK: Duration = Duration::from_millis(100);
/// And so often when nothing is to be done.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Losses are reported at most so often.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// A log writer that does not answer for this long is not waited for.
const WRITER_LIMIT: Duration = Duration::from_secs(30);
/// With a spool there is room for longer.
const SPOOLED_WRITER_LIMIT: Duration = Duration::from_secs(120);
/// The end of a child with a spool takes at most so long.
const SPOOLED_DRAIN_LIMIT: Duration = Duration::from_millis(300);
/// When so little time is left at the end of a child, one acknowledgement is enough.
const DRAIN_RELAX: Duration = Duration::from_millis(1_000);
const STACK_BYTES: usize = 256 << 10;
/// Most bytes of lines that the request threads keep for the case that the process is killed.
const RING_BYTES: usize = 1 << 20;
/// Memory for sending the lines of an ended child.
const REPLAY_BYTES: usize = 2 << 20;

/// What a sender needs.
pub(crate) struct Begin {
    pub(crate) desk: &'static Desk,
    pub(crate) link: Link,
    pub(crate) global: Global,
    pub(crate) counters: &'static Counters,
    pub(crate) log: Log,
    /// `key=value` lines for the hello.
    pub(crate) about: String,
}

/// Tells from the name of its link whether an orphan is to be adopted.
pub(crate) type Adopts = Box<dyn Fn(&str) -> bool + Send>;

/// Starts the thread of one link.
pub(crate) fn start(begin: Begin, adopts: Adopts) -> io::Result<()> {
    let source = SourceId(random()?);
    let publisher = publisher(&begin, source);
    let spooler = journal(&begin, source).map(|(journal, ring)| {
        if let Some(ring) = ring {
            begin.desk.set_ring(ring);
        }
        Spooler::new(journal, begin.global.queue_bytes, begin.counters, begin.log)
    });
    SenderThread { spooler, adopts: Some(adopts), ..SenderThread::new(begin, publisher) }.spawn()
}

/// The journal of a new source, if there is a spool.
fn journal(begin: &Begin, source: SourceId) -> Option<(Journal, Option<Ring>)> {
    let spool = begin.global.spool.as_ref()?;
    let meta = Meta {
        source,
        link: begin.link.name(),
        about: begin.about.clone(),
        streams: begin.link.streams.iter().map(|s| (s.group.clone(), s.wire)).collect(),
    };
    let instance = begin.counters.instance.load(Relaxed);
    let complain = |error: io::Error| {
        begin.counters.spool_errors.fetch_add(1, Relaxed);
        let text = format!("spool {}: {error}; a child goes on in memory only", spool.root.display());
        begin.log.write(Level::Error, &text);
    };
    let budget = budget(begin.counters, spool);
    let journal = Journal::create(&spool.root, &meta, instance, budget).map_err(complain).ok()?;
    let ring =
        Ring::create(journal.folder(), begin.global.queue_bytes.min(RING_BYTES)).map_err(complain).ok();
    Some((journal, ring))
}

fn budget(counters: &'static Counters, spool: &Spool) -> Budget {
    Budget { used: &counters.spool_bytes, limit: spool.bytes }
}

/// How long a log writer that does not answer is waited for.
fn writer_limit(global: &Global) -> Duration {
    if global.spool.is_some() { SPOOLED_WRITER_LIMIT } else { WRITER_LIMIT }
}

fn publisher(begin: &Begin, source: SourceId) -> Publisher {
    let Begin { link, global, counters, about, .. } = begin;
    let cfg = PublisherConfig {
        source,
        audit: global.audit,
        acks: global.acks,
        writer_limit: writer_limit(global),
        batch_bytes: global.batch_bytes,
        about: about.clone(),
    };
    let mut publisher = Publisher::new(cfg, link.streams.clone());
    // Those that no child heard for so long are not waited for at all.
    let (now, limit) = (seconds(), writer_limit(global).max(2 * WRITER_LIMIT).as_secs());
    for (index, stream) in (0..).zip(&link.streams).filter(|(_, s)| s.heard) {
        for writer in counters.writers(&stream.group, now, limit) {
            publisher.expect_writer(Duration::ZERO, index, bytes::Bytes::copy_from_slice(&writer));
        }
    }
    publisher
}

struct SenderThread {
    desk: &'static Desk,
    publisher: Publisher,
    global: Global,
    counters: &'static Counters,
    log: Log,
    link: Link,
    begun: Instant,
    session: Option<Session>,
    sessions: u64,
    next_try: Instant,
    pause: Duration,
    /// When a failure to connect was last written to the error log.
    complained: Option<Instant>,
    losses: Losses,
    /// Message counters of the publisher that are already in the shared ones.
    seen: (u64, u64),
    spooler: Option<Spooler>,
    /// Which orphans this sender looks after; `None` for one that is itself sending an orphan's lines.
    adopts: Option<Adopts>,
    /// The desk of the sender for the orphan that is being sent.
    replay: Option<&'static Desk>,
    /// An attempt to connect is under way, in a thread of its own.
    connecting: bool,
    /// A message for which the daemon had no room yet.
    unsent: Option<Transmit>,
    /// Since when the daemon takes nothing, and the bytes that wait for it.
    stalled: Option<(Instant, usize)>,
}

/// Losses that the error log does not know yet.
#[derive(Default)]
struct Losses {
    dropped_full: u64,
    in_doubt: u64,
    told: Option<Instant>,
}

impl SenderThread {
    fn new(begin: Begin, publisher: Publisher) -> Self {
        let Begin { desk, link, global, counters, log, .. } = begin;
        Self {
            desk,
            publisher,
            global,
            counters,
            log,
            link,
            begun: Instant::now(),
            session: None,
            sessions: 0,
            next_try: Instant::now(),
            pause: Duration::ZERO,
            complained: None,
            losses: Losses::default(),
            seen: (0, 0),
            spooler: None,
            adopts: None,
            replay: None,
            connecting: false,
            unsent: None,
            stalled: None,
        }
    }

    fn spawn(self) -> io::Result<()> {
        thread::Builder::new().name("spread-log".into()).stack_size(STACK_BYTES).spawn(move || self.run())?;
        Ok(())
    }

    fn run(mut self) {
        let mut records = VecDeque::new();
        let stop = loop {
            let wait = self.wait_time();
            let take = self.spooler.as_ref().is_none_or(Spooler::takes);
            let mut work = self.desk.wait(wait, take, records, self.global.queue_bytes);
            if let Some(deadline) = work.stop {
                self.take(&mut work.records, work.ring);
                self.receive(work.inbox, work.broken, work.opened);
                break deadline;
            }
            if self.adopts.is_none() && self.is_idle() {
                break Instant::now() + PROGRESS_LIMIT;
            }
            self.batch_wait(&work.records);
            self.take(&mut work.records, work.ring);
            self.step(work.inbox, work.broken, work.opened, work.pressure);
            self.counters.queue_high_water.fetch_max(work.high_water as u64, Relaxed);
            records = work.records;
        };
        self.drain(stop);
        self.desk.finish();
    }

    /// Takes records of the queue: into the journal, if there is one, and to the publisher.
    fn take(&mut self, records: &mut VecDeque<log_stream::Record>, ring: u64) {
        match &mut self.spooler {
            Some(spooler) => spooler.take(records, ring, self.desk, &mut self.publisher),
            None => self.publisher.handle_records(records.drain(..)),
        }
    }

    /// True when nothing waits anywhere.
    fn is_idle(&self) -> bool {
        self.publisher.is_idle() && self.spooler.as_ref().is_none_or(Spooler::is_empty)
    }

    /// Takes over the lines of a child that is gone: another sender, with a session of its own, sends them under the old
    /// numbers.
    fn adopt(&mut self) {
        if self.replay.is_some_and(|desk| !desk.is_done()) {
            return;
        }
        let (Some(adopts), Some(spool)) = (&self.adopts, &self.global.spool) else { return };
        if self.replay.take().is_some() {
            self.counters.scan_again();
        }
        if !self.counters.may_scan(seconds()) {
            return;
        }
        let complain =
            |what: &str| self.log.write(Level::Error, &format!("spool {}: {what}", spool.root.display()));
        let orphan = match log_spool::adopt(&spool.root, budget(self.counters, spool), adopts) {
            Ok(None) => return,
            Ok(Some(orphan)) => orphan,
            Err(error) => return complain(&error.to_string()),
        };
        self.counters.scan_again();
        match self.replay_of(orphan) {
            Ok(desk) => self.replay = Some(desk),
            Err(error) => complain(&error.to_string()),
        }
    }

    fn replay_of(&self, orphan: Orphan) -> io::Result<&'static Desk> {
        let Orphan { meta, instance, fronts, lines, torn, journal, cursor } = orphan;
        let text = format!(
            "lines of an ended child are sent: {lines}; source {}, torn bytes {torn}, spool {}",
            meta.source,
            journal.folder().display()
        );
        self.log.write(Level::Notice, &text);
        let own = self.counters.instance.load(Relaxed);
        if instance != own {
            journal.set_instance(own)?;
            self.counters.adopted.fetch_add(lines, Relaxed);
        }
        let mut link = Link { daemons: self.link.daemons.clone(), ..Link::default() };
        for (index, (group, wire)) in (0..).zip(&meta.streams) {
            let heard = fronts.get(index as usize).is_some_and(|f| f.1) || self.counters.heard(group);
            link.streams.push(StreamConfig { heard, ..stream_config(&self.global, group, *wire) });
        }
        link.announce.extend(journal.streams());
        let desk = Desk::new(link.streams.len(), self.global.queue_bytes, self.global.when_full);
        let about = format!("{}replayed=1\n", meta.about);
        let Self { counters, log, .. } = *self;
        let begin = Begin { desk, link, global: self.global.clone(), counters, log, about };
        let mut publisher = publisher(&begin, meta.source);
        for (index, (front, _)) in (0..).zip(fronts) {
            publisher.resume(index, front, journal.end(index));
        }
        let spooler = Spooler::new(journal, self.global.queue_bytes.min(REPLAY_BYTES), counters, log);
        let spooler = spooler.adopted(cursor, lines);
        Self { spooler: Some(spooler), ..Self::new(begin, publisher) }.spawn()?;
        Ok(desk)
    }

    /// How long the thread may sleep.
    fn wait_time(&self) -> Duration {
        match self.session {
            Some(_) if self.stalled.is_some() => Duration::ZERO,
            Some(_) if self.spooler.as_ref().is_some_and(Spooler::can_read) => Duration::ZERO,
            Some(_) if self.is_idle() => IDLE_TICK,
            Some(_) => TICK,
            None if self.connecting => IDLE_TICK,
            None => self.next_try.saturating_duration_since(Instant::now()).min(IDLE_TICK),
        }
    }

    /// Waits a moment for more lines: frames are then worth their head, and plain lines go out, and through the daemon
    /// and to the log writers, many to a system call.
    fn batch_wait(&self, records: &VecDeque<log_stream::Record>) {
        let bytes: usize = records.iter().map(log_stream::Record::cost).sum();
        if !records.is_empty() && bytes < self.global.batch_bytes && !self.global.batch_wait.is_zero() {
            thread::sleep(self.global.batch_wait);
        }
    }

    fn step(
        &mut self,
        inbox: VecDeque<bytes::Bytes>,
        broken: Option<u64>,
        opened: Option<Opened>,
        pressure: bool,
    ) {
        self.receive(inbox, broken, opened);
        if self.session.is_none() && !self.connecting && Instant::now() >= self.next_try {
            self.connect(CONNECT_LIMIT);
        }
        self.refill();
        self.publisher.handle_timeout(self.begun.elapsed(), pressure);
        self.transmit(TRANSMIT_LIMIT);
        self.account();
        self.report(false);
        if self.session.is_some() {
            self.adopt();
        }
    }

    /// What came from the daemon, and from the attempt to reach it.
    fn receive(&mut self, inbox: VecDeque<bytes::Bytes>, broken: Option<u64>, opened: Option<Opened>) {
        if let Some(opened) = opened {
            self.connected(opened);
        }
        for payload in inbox {
            self.publisher.handle_private(self.begun.elapsed(), payload);
        }
        if broken.is_some() && broken == self.session.as_ref().map(|s| s.number) {
            self.lose("the daemon closed the session");
        }
    }

    fn refill(&mut self) {
        if let Some(spooler) = &mut self.spooler {
            spooler.refill(self.desk, &mut self.publisher);
        }
    }

    /// Hands what is due to the daemon, as far as it takes it within `limit`. The rest goes with the next call: the queue
    /// of the requests must not be left alone for long.
    fn transmit(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while let Some(session) = &mut self.session {
            let now = self.begun.elapsed();
            let left = until.saturating_duration_since(Instant::now());
            let result = match self.unsent.take().or_else(|| self.publisher.poll_transmit(now)) {
                Some(transmit) => {
                    let result = session.put(&transmit, self.global.service, left);
                    if matches!(result, Err(SendError::TimedOut)) {
                        self.unsent = Some(transmit);
                    }
                    result
                }
                None => match session.sender.flush_timeout(left) {
                    Ok(()) => {
                        self.stalled = None;
                        return;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(()) => {}
                Err(SendError::TimedOut) => {
                    let queued = session.sender.queued_bytes();
                    let before = self.stalled.filter(|(_, bytes)| queued >= *bytes);
                    let (since, _) = *self.stalled.insert(before.unwrap_or_else(|| (Instant::now(), queued)));
                    if since.elapsed() < PROGRESS_LIMIT {
                        return;
                    }
                    self.lose("the daemon takes nothing");
                }
                Err(error) => self.lose(&chain(&error)),
            }
        }
    }

    fn lose(&mut self, why: &str) {
        let Some(mut session) = self.session.take() else { return };
        (self.unsent, self.stalled) = (None, None);
        self.counters.sessions.fetch_sub(1, Relaxed);
        self.counters.lost_sessions.fetch_add(1, Relaxed);
        self.publisher.handle_disconnected();
        self.account();
        let waiting = self.waiting();
        let text = format!("session with {} lost: {why}; lines waiting: {waiting}", session.text);
        self.log.write(Level::Warning, &text);
        // Closes the socket, so that the receiver ends too. Nothing is to be waited for.
        session.sender.set_send_timeout(Some(Duration::ZERO));
        let _ = session.sender.disconnect();
        self.pause = Duration::ZERO;
        self.next_try = Instant::now();
    }

    /// Tries all daemons in their order, in the thread that will receive: the result comes to the desk.
    fn connect(&mut self, limit: Duration) {
        self.sessions += 1;
        let attempt = Attempt {
            daemons: self.link.daemons.clone(),
            limit,
            desk: self.desk,
            number: self.sessions,
            counters: self.counters,
        };
        let thread = thread::Builder::new().name("spread-log-in".into()).stack_size(STACK_BYTES);
        match thread.spawn(move || attempt.run()) {
            Ok(_) => self.connecting = true,
            Err(error) => self.failed(&format!("no thread for the session: {error}")),
        }
    }

    fn connected(&mut self, opened: Opened) {
        self.connecting = false;
        let Opened { number, result } = opened;
        let (sender, text) = match result {
            Ok(open) => open,
            Err(why) => return self.failed(&why),
        };
        let session = Session::new(number, sender, text);
        self.counters.connects.fetch_add(1, Relaxed);
        self.counters.sessions.fetch_add(1, Relaxed);
        let level = if self.complained.take().is_some() { Level::Notice } else { Level::Info };
        let waiting = self.waiting();
        let (text, own) = (&session.text, session.own());
        self.log.write(level, &format!("session with {text} is up, as {own}; lines waiting: {waiting}"));
        self.pause = Duration::ZERO;
        self.session = Some(session);
        self.publisher.handle_connected(self.begun.elapsed(), self.link.announce.iter().copied());
    }

    /// Lines that are not confirmed.
    fn waiting(&self) -> u64 {
        self.publisher.waiting_lines() + self.spooler.as_ref().map_or(0, Spooler::outside)
    }

    fn failed(&mut self, why: &str) {
        let grown = if self.pause.is_zero() { self.global.retry_min } else { self.pause * 2 };
        self.pause = grown.min(self.global.retry_max);
        // A random part, so that the children do not come all at once.
        let jitter = random::<2>().map_or(0.5, |r| f64::from(u16::from_le_bytes(r)) / 65_536.0);
        self.next_try = Instant::now() + self.pause.mul_f64(0.5 + jitter / 2.0);
        if self.complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            self.complained = Some(Instant::now());
            let place = if self.spooler.is_some() { "in the spool" } else { "in memory" };
            self.log.write(Level::Error, &format!("no Spread daemon answers, lines wait {place}: {why}"));
        }
    }

    /// Moves what the publisher is done with into the counters, and gives its room back.
    fn account(&mut self) {
        let released = self.publisher.released();
        let counters = self.counters;
        counters.acked.fetch_add(released.acked, Relaxed);
        counters.acked_in_part.fetch_add(released.acked_in_part, Relaxed);
        counters.ordered.fetch_add(released.ordered, Relaxed);
        counters.in_doubt.fetch_add(released.in_doubt, Relaxed);
        counters.dropped_exit.fetch_add(released.dropped, Relaxed);
        self.losses.in_doubt += released.in_doubt;
        self.desk.release(released.cost);
        if let Some(spooler) = &mut self.spooler {
            spooler.account(released.cost, &mut self.publisher);
        }
        for stream in self.publisher.newly_heard() {
            if let Some(spooler) = &self.spooler {
                spooler.heard(stream, &self.publisher);
            }
            if let Some(stream) = self.link.streams.get(stream as usize) {
                counters.set_heard(&stream.group);
            }
        }
        for ((stream, writer), here) in self.publisher.heard_writers() {
            if let Some(stream) = self.link.streams.get(stream as usize) {
                counters.note_writer(&stream.group, &writer, here, seconds());
            }
        }
        let (messages, resent) = self.publisher.messages();
        counters.messages.fetch_add(messages - self.seen.0, Relaxed);
        counters.resent.fetch_add(resent - self.seen.1, Relaxed);
        self.seen = (messages, resent);
        self.losses.dropped_full += self.desk.take_dropped();
    }

    /// Losses, with their numbers, at most every 10 s.
    // spec: mod_log_spread M-18
    fn report(&mut self, last: bool) {
        let Losses { dropped_full, in_doubt, told } = self.losses;
        let due = last || told.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if dropped_full + in_doubt == 0 || !due {
            return;
        }
        self.losses = Losses { told: Some(Instant::now()), ..Losses::default() };
        if dropped_full > 0 {
            let text = format!("lines dropped: {dropped_full}; the queue was full (SpreadLogQueue)");
            self.log.write(Level::Error, &text);
        }
        if in_doubt > 0 {
            let text = format!(
                "lines in doubt: {in_doubt}; sent, but the daemon went away before it confirmed them"
            );
            self.log.write(Level::Error, &text);
        }
    }

    /// The child ends: send and wait for confirmations until `deadline`.
    fn drain(&mut self, deadline: Instant) {
        let mut probed = 0;
        // What is in the spool is safe, and another child sends it: a slot of the server is worth more than the wait.
        let soon = Instant::now() + SPOOLED_DRAIN_LIMIT;
        let deadline = if self.spooler.is_some() { deadline.min(soon) } else { deadline };
        if let Some(replay) = self.replay {
            replay.stop(Instant::now());
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (mut records, ring) = self.desk.close();
            self.take(&mut records, ring);
            let (inbox, broken, opened) = self.desk.take_inbox();
            self.receive(inbox, broken, opened);
            if self.session.is_none() && self.publisher.waiting() > 0 && !left.is_zero() {
                self.next_try = self.next_try.min(deadline);
            }
            self.drain_step(left);
            if self.session.is_some() && std::mem::replace(&mut probed, self.sessions) != self.sessions {
                self.publisher.probe();
                self.transmit(left);
            }
            // A writer that is away must not cost what another has confirmed.
            if left < DRAIN_RELAX && self.spooler.is_none() {
                self.publisher.relax(self.begun.elapsed());
                self.account();
            }
            // What is in the spool need not be waited for: another child will send it.
            let kept = self.session.is_none() && self.spooler.is_some();
            if self.is_idle() || left.is_zero() || kept {
                break;
            }
            // Confirmations come through the inbox; without a session the next attempt is what to wait for.
            let pause = if self.session.is_some() || self.connecting {
                TICK
            } else {
                self.next_try.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))
            };
            self.desk.wait_inbox(pause.min(left));
        }
        self.part(deadline);
    }

    fn drain_step(&mut self, left: Duration) {
        let worth = self.publisher.waiting() > 0 && left > Duration::from_millis(20);
        if self.session.is_none() && !self.connecting && worth && Instant::now() >= self.next_try {
            self.connect(left.min(CONNECT_LIMIT));
        }
        self.refill();
        self.publisher.handle_timeout(self.begun.elapsed(), false);
        self.transmit(left);
        self.account();
    }

    /// Farewell, and the final account of what could not be sent.
    fn part(&mut self, deadline: Instant) {
        let spooler = self.spooler.take();
        let kept = |stream, front| spooler.as_ref().is_some_and(|s| s.holds(stream, front));
        let farewell = self.publisher.goodbyes(kept);
        let released = match spooler {
            None => {
                self.publisher.give_up();
                self.publisher.released()
            }
            Some(spooler) => {
                let (left, dropped) = spooler.end(&self.publisher);
                self.counters.spooled.fetch_add(left, Relaxed);
                Released { dropped, ..Released::default() }
            }
        };
        self.counters.in_doubt.fetch_add(released.in_doubt, Relaxed);
        self.counters.dropped_exit.fetch_add(released.dropped, Relaxed);
        self.losses.in_doubt += released.in_doubt;
        if released.dropped > 0 {
            let text = format!("lines dropped: {}; the child ends and no daemon took them", released.dropped);
            self.log.write(Level::Error, &text);
        }
        self.report(true);
        if let Some(mut session) = self.session.take() {
            self.counters.sessions.fetch_sub(1, Relaxed);
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(50));
            for transmit in farewell {
                if session.put(&transmit, self.global.service, left).is_err() {
                    return;
                }
            }
            session.sender.set_send_timeout(Some(left));
            // Nothing is left to lose: an error here changes nothing.
            let _ = session.sender.disconnect();
        }
        if let Some(replay) = self.replay {
            // One that is late is as if killed: the lines it did not confirm are sent again.
            replay.wait_done(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
