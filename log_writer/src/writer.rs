//! The writer of a session: lines to files in delivery order, then acknowledgements.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log_stream::sequencer::GapReason;
use log_stream::{Output as Event, Sequencer, SourceId, TYPE_FRAME};
use spread::blocking::Sender;
use spread::{PrivateGroup, Service};
use tracing::{debug, error, info, warn};

use crate::config::{Config, Fsync};
use crate::output::Target;
use crate::queue::{Item, Queue};
use crate::reader::Control;
use crate::route::Router;
use crate::state::State;

/// Bytes in memory that are written without waiting for more.
const BATCH_BYTES: usize = 1 << 20;
/// Lines after which the disk is asked for even if the time has not come: sources wait for acknowledgements.
const SYNC_LINES: u64 = 4_000;
/// Shortest time between two rounds of acknowledgements.
const ACK_EVERY: Duration = Duration::from_millis(50);
/// A round of acknowledgements costs so much per source, so that many sources do not mean constant work.
const ACK_COST: Duration = Duration::from_micros(20);
/// The daemon must take acknowledgements in this time; they are repeated anyway.
const ACK_LIMIT: Duration = Duration::from_millis(200);
/// Time between two attempts to write to an output that failed.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// The same trouble is written to the log at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Sources that are gone are looked for at most so often.
const CLEAN_EVERY: Duration = Duration::from_secs(600);
/// At the end of the program an output that fails is tried for so long.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Writes what its queue brings.
pub struct Writer {
    config: Config,
    state_path: Option<PathBuf>,
    queue: Arc<Queue>,
    control: Arc<Control>,
    router: Router,
    sequencer: Sequencer,
    events: Vec<Event>,
    sender: Option<Sender>,
    begun: Instant,
    /// When the oldest line that is not written came.
    waiting: Option<Instant>,
    unsynced: u64,
    synced: Instant,
    acked: Instant,
    cleaned: Instant,
    urgent: bool,
    reopens: u64,
    shows: u64,
    complained: Option<Instant>,
    rejects: Rejects,
    failing: bool,
    /// Standard output was closed by its reader.
    closed: bool,
    bytes: u64,
}

#[derive(Default)]
struct Rejects {
    count: u64,
    told: Option<Instant>,
}

impl Writer {
    /// A writer over open outputs.
    pub fn new(
        config: Config,
        state_path: Option<PathBuf>,
        state: Option<State>,
        router: Router,
        queue: Arc<Queue>,
        control: Arc<Control>,
    ) -> Self {
        let me = state.as_ref().and_then(|s| s.writer).unwrap_or_else(|| SourceId(rand::random()));
        let mut sequencer = Sequencer::new(me);
        for (group, source, next) in state.into_iter().flat_map(|s| s.positions) {
            sequencer.restore(group, source, next);
        }
        let now = Instant::now();
        Self {
            config,
            state_path,
            queue,
            control,
            router,
            sequencer,
            events: Vec::new(),
            sender: None,
            begun: now,
            waiting: None,
            unsynced: 0,
            synced: now,
            acked: now,
            cleaned: now,
            urgent: false,
            reopens: 0,
            shows: 0,
            complained: None,
            rejects: Rejects::default(),
            failing: false,
            closed: false,
            bytes: 0,
        }
    }

    /// The thread: writes until the program ends. `reader_ended`, which is asked then, tells when nothing more will
    /// come.
    ///
    /// Returns the bytes that could not be written.
    pub fn run(mut self, reader_ended: impl Fn() -> bool) -> usize {
        loop {
            // Before the last look into the queue, so that nothing that came before the end is missed.
            let last = self.control.stopping() && reader_ended();
            let items = self.queue.take(if last { Duration::ZERO } else { self.wait_time() });
            let cost = items.iter().map(Queue::cost).sum();
            let idle = items.is_empty();
            for item in items {
                self.handle(item);
            }
            // Lines are in the buffers of the outputs now, which are written before more is taken.
            self.work(idle);
            self.queue.done(cost);
            if last {
                return self.end();
            }
        }
    }

    /// How long the queue may be waited for.
    fn wait_time(&self) -> Duration {
        let now = Instant::now();
        let flush = self.waiting.map(|at| (at + self.config.flush_every).saturating_duration_since(now));
        let sync = match self.config.fsync {
            Fsync::Every(time) if self.unsynced > 0 => {
                Some((self.synced + time).saturating_duration_since(now))
            }
            _ => None,
        };
        let ack = self.sequencer.wants_acks().then(|| self.ack_due().saturating_duration_since(now));
        let ack = ack.filter(|_| self.unsynced == 0).map(|t| t.max(Duration::from_millis(5)));
        let end = self.control.stopping().then_some(Duration::from_millis(20));
        [flush, sync, ack, end].into_iter().flatten().min().unwrap_or(Duration::from_secs(1))
    }

    fn handle(&mut self, item: Item) {
        match item {
            Item::Up(sender) => self.sender = Some(sender),
            Item::Lost => {
                self.sender = None;
                self.sequencer.handle_session_lost();
            }
            Item::Message(m) => {
                let now = self.begun.elapsed();
                let mut events = std::mem::take(&mut self.events);
                self.sequencer.handle_message(
                    now,
                    &m.sender,
                    &m.group,
                    m.audit,
                    m.mess_type,
                    m.payload,
                    &mut events,
                );
                self.urgent |= self.sequencer.take_urgent();
                for event in events.drain(..) {
                    self.event(&m.group, event);
                }
                self.events = events;
                if self.router.pending() >= BATCH_BYTES {
                    self.flush();
                }
            }
        }
    }

    fn event(&mut self, group: &Bytes, event: Event) {
        match event {
            Event::Line { line, origin: _ } => {
                self.waiting.get_or_insert_with(Instant::now);
                self.unsynced += 1;
                self.bytes += line.len() as u64;
                self.router.append(group, &line);
            }
            Event::Source { source, group, first, about } => {
                let about = String::from_utf8_lossy(&about).replace('\n', " ");
                let (group, about) = (text(&group), about.escape_debug().to_string());
                debug!(%source, group, first, about, "New source.");
            }
            Event::Gap { source, group, from, to, reason } => {
                let (group, lines) = (text(&group), to - from + 1);
                let reason = match reason {
                    GapReason::Publisher => "the web server dropped them",
                    GapReason::Elsewhere => "another log writer has them, or the web server gave them up",
                    GapReason::Lost => "they were lost on the way",
                };
                warn!(%source, group, from, to, lines, reason, "GAP: lines are missing here.");
            }
            Event::End { source, group, last, next: _, complete } => {
                let group = text(&group);
                if complete {
                    debug!(%source, group, last, "Source ended, all its lines are written.");
                } else {
                    warn!(%source, group, last, "GAP: a source ended before its last lines arrived.");
                }
            }
            Event::Duplicate { .. } | Event::Rotate { .. } => {}
            Event::Reject(why) => self.reject(why),
        }
    }

    fn reject(&mut self, why: &'static str) {
        self.rejects.count += 1;
        if self.rejects.told.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            warn!(count = self.rejects.count, why, "Messages that are no log lines were left out.");
            self.rejects = Rejects { count: 0, told: Some(Instant::now()) };
        }
    }

    /// What is due after a batch.
    fn work(&mut self, idle: bool) {
        let reopens = self.control.reopens.load(Ordering::Relaxed);
        if reopens != self.reopens {
            self.reopens = reopens;
            self.reopen();
        }
        let shows = self.control.shows.load(Ordering::Relaxed);
        if shows != self.shows {
            self.shows = shows;
            self.show();
        }
        let due = self.waiting.is_some_and(|at| at.elapsed() >= self.config.flush_every);
        if due || self.urgent && idle {
            self.flush();
        }
        if self.waiting.is_none() && self.sync_due() {
            self.sync();
        }
        if self.waiting.is_none() && self.unsynced == 0 {
            self.acknowledge(false);
        }
        if self.cleaned.elapsed() >= CLEAN_EVERY {
            self.cleaned = Instant::now();
            self.sequencer.forget_silent(self.begun.elapsed());
        }
    }

    fn reopen(&mut self) {
        self.flush();
        self.reopen_outputs();
        self.save_state();
    }

    fn reopen_outputs(&mut self) {
        let failed = self.router.reopen();
        for (target, error) in &failed {
            error!(%target, %error, "The output cannot be opened anew; lines go on to the old one.");
        }
        if failed.is_empty() {
            info!("Outputs opened anew.");
        }
    }

    /// Writes everything; while an output fails, again and again: nothing is lost, and the queue fills meanwhile.
    fn flush(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let end = |control: &Control| control.stopping().then(|| Instant::now() + END_LIMIT);
        let mut deadline = end(&self.control);
        loop {
            match self.router.flush() {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        info!("The output takes lines again; none was lost.");
                    }
                    self.waiting = None;
                    return true;
                }
                Err(failed) if failed.iter().any(closed_pipe) => {
                    // Who reads our standard output has seen enough: an orderly end.
                    self.closed = true;
                    self.control.stop.store(true, Ordering::Relaxed);
                    return false;
                }
                Err(failed) => self.complain(&failed),
            }
            deadline = deadline.or_else(|| end(&self.control));
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return false;
            }
            std::thread::sleep(RETRY_EVERY);
            // The way out may be another file.
            let reopens = self.control.reopens.load(Ordering::Relaxed);
            if std::mem::replace(&mut self.reopens, reopens) != reopens {
                self.reopen_outputs();
            }
        }
    }

    fn complain(&mut self, failed: &[(Target, io::Error)]) {
        self.failing = true;
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            for (target, error) in failed.iter().take(5) {
                let waiting = self.router.pending();
                error!(%target, %error, waiting, "The output cannot be written; lines wait in memory.");
            }
        }
    }

    fn sync_due(&self) -> bool {
        match self.config.fsync {
            _ if self.unsynced == 0 => false,
            Fsync::Never => true,
            Fsync::Every(time) => self.urgent || self.unsynced >= SYNC_LINES || self.synced.elapsed() >= time,
        }
    }

    fn sync(&mut self) {
        if self.config.fsync != Fsync::Never
            && let Err((target, error)) = self.router.sync()
        {
            return self.complain(&[(target, error)]);
        }
        self.synced = Instant::now();
        self.unsynced = 0;
    }

    fn ack_due(&self) -> Instant {
        let sources = u32::try_from(self.sequencer.sources()).unwrap_or(u32::MAX);
        self.acked + ACK_EVERY.max(ACK_COST * sources)
    }

    /// Tells the sources what is durable, and asks for what is missing. Everything handled is written.
    fn acknowledge(&mut self, last: bool) {
        if !(last || self.sequencer.wants_acks())
            || !(last || self.urgent || Instant::now() >= self.ack_due())
        {
            return;
        }
        self.acked = Instant::now();
        self.urgent = false;
        // What is acknowledged is never sent again: the position must be kept first.
        if !self.save_state() || !self.config.acks {
            return;
        }
        let Some(sender) = &mut self.sender else { return };
        sender.set_send_timeout(Some(ACK_LIMIT));
        let now = self.begun.elapsed();
        let answers = if last { self.sequencer.farewells(now) } else { self.sequencer.acks(now) };
        for (to, message) in answers {
            // What a sender calls itself may be no private group (an injected message): nobody to answer then.
            let Ok(group) = PrivateGroup::parse(&to) else { continue };
            if let Err(error) = sender.enqueue(Service::FIFO, group.as_group(), TYPE_FRAME, message) {
                debug!(%error, "An acknowledgement was not taken; it will be repeated.");
                return;
            }
        }
        if let Err(error) = sender.flush_timeout(ACK_LIMIT) {
            debug!(%error, "Acknowledgements wait.");
        }
    }

    fn save_state(&mut self) -> bool {
        let Some(path) = &self.state_path else { return true };
        let positions = self.sequencer.positions().map(|(g, s, n)| (g.clone(), s, n)).collect();
        let state = State { writer: Some(self.sequencer.me()), files: self.router.files(), positions };
        match state.save(path, self.config.fsync != Fsync::Never) {
            Ok(()) => true,
            Err(error) => {
                let target = Target::File(path.clone());
                self.complain(&[(target, error)]);
                false
            }
        }
    }

    fn show(&self) {
        let c = self.sequencer.counters();
        let (queued, high_water) = self.queue.fill();
        info!(
            lines = c.lines,
            bytes = self.bytes,
            unnumbered = c.unnumbered,
            duplicates = c.duplicates,
            early = c.early,
            missing = c.missing,
            asked = c.asked,
            rejected = c.rejected,
            sources = self.sequencer.sources(),
            queued,
            high_water,
            "Counters."
        );
    }

    /// The end of the program: everything out, the last acknowledgements, farewell.
    fn end(mut self) -> usize {
        if self.flush() {
            self.sync();
            if self.unsynced == 0 {
                self.acknowledge(true);
            }
        }
        self.show();
        if let Some(mut sender) = self.sender.take() {
            sender.set_send_timeout(Some(Duration::from_secs(1)));
            // Nothing is left to lose.
            let _ = sender.disconnect();
        }
        let left = if self.closed { 0 } else { self.router.pending() };
        if left > 0 {
            error!(bytes = left, "The output did not take the last lines; they were not acknowledged.");
        }
        left
    }
}

fn closed_pipe(failed: &(Target, io::Error)) -> bool {
    failed.0 == Target::Stdout && failed.1.kind() == io::ErrorKind::BrokenPipe
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}
