//! The writer of a session: lines to files in delivery order, then acknowledgements.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use log_stream::{Output as Event, Sequencer, SourceId};
use spread::GroupName;
use spread::blocking::Sender;
use tracing::{debug, error, info, warn};

use self::durable::RETRY_EVERY;
use self::rotation::ROTATE_LIMIT;
use crate::archive::Archiver;
use crate::audit::reason_of;
use crate::config::{Config, Fsync, Order};
use crate::ended::Ended;
use crate::index;
use crate::order::{Held, TimeOrder};
use crate::queue::{Item, Queue};
use crate::reader::Control;
use crate::route::Router;
use crate::state::State;

mod durable;
mod rotation;

/// Bytes in memory that are written without waiting for more.
const BATCH_BYTES: usize = 1 << 20;
/// The daemon must take acknowledgements in this time; they are repeated anyway.
const ACK_LIMIT: Duration = Duration::from_millis(200);
/// The same trouble is written to the log at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Sources that are gone are looked for at most so often.
const CLEAN_EVERY: Duration = Duration::from_secs(600);
/// Without acknowledgements the state is kept at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What a writer works with.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// Where the position is kept.
    pub state_path: Option<PathBuf>,
    /// The position that was kept.
    pub state: Option<State>,
    /// Positions of sources that have ended.
    pub ended: Option<Ended>,
    /// Open outputs.
    pub router: Router,
    /// Audit groups, in which writers tell each other when to rotate.
    pub audit_groups: Vec<GroupName>,
    /// Takes complete files.
    pub archiver: Option<Archiver>,
    /// Where messages come from.
    pub queue: Arc<Queue>,
    /// Flags of all threads.
    pub control: Arc<Control>,
}

/// Writes what its queue brings.
pub struct Writer {
    config: Config,
    state_path: Option<PathBuf>,
    ended: Option<Ended>,
    audit_groups: Vec<GroupName>,
    archiver: Option<Archiver>,
    order: Option<TimeOrder>,
    released: Vec<Held>,
    next_rotation: Option<Timestamp>,
    /// When the wish to rotate was sent.
    rotation_asked: Option<Instant>,
    rotations: u64,
    /// Signals that asked for new files.
    rotations_wanted: u64,
    /// The last wish for new files in the middle of a period.
    forced: Option<(SourceId, Timestamp)>,
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
    /// The program is to end, and the reader was told where.
    ending: bool,
    reopens: u64,
    shows: u64,
    complained: Option<Instant>,
    rejects: Rejects,
    failing: bool,
    spilling: bool,
    /// Standard output was closed by its reader.
    closed: bool,
    bytes: u64,
    /// `bytes` when the state was saved.
    saved_bytes: u64,
}

#[derive(Default)]
struct Rejects {
    count: u64,
    told: Option<Instant>,
}

impl Writer {
    /// A writer over open outputs.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, state_path, state, ended, mut router, audit_groups, archiver, queue, control } =
            parts;
        let me = state.as_ref().and_then(|s| s.writer).unwrap_or_else(|| SourceId(rand::random()));
        let mut sequencer = Sequencer::new(me);
        let mut order = None;
        if let Order::Time(window) = config.order {
            order = Some(TimeOrder::new(window, config.buffer_bytes / 2));
        }
        let positions = state.map(|s| s.positions).unwrap_or_default();
        for (group, source, next) in &positions {
            sequencer.restore(group.clone(), *source, *next);
        }
        if order.is_some() {
            for ((group, source), (_, numbers)) in router.written_behind(&positions) {
                sequencer.restore_written(&group, source, numbers);
            }
        }
        if let Some(ended) = &ended {
            sequencer.remember_ended();
            for (group, source, next) in ended.positions() {
                sequencer.restore_ended(group.clone(), *source, *next);
            }
        }
        if let Some(archiver) = &archiver {
            router.take_sealed().into_iter().for_each(|job| archiver.take(job));
        }
        let next_rotation = router.next_rotation();
        let now = Instant::now();
        Self {
            config,
            state_path,
            ended,
            audit_groups,
            archiver,
            order,
            released: Vec::new(),
            next_rotation,
            rotation_asked: None,
            rotations: 0,
            rotations_wanted: 0,
            forced: None,
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
            ending: false,
            reopens: 0,
            shows: 0,
            complained: None,
            rejects: Rejects::default(),
            failing: false,
            spilling: false,
            closed: false,
            bytes: 0,
            saved_bytes: 0,
        }
    }

    /// The thread: writes until the program ends. `reader_ended`, which is asked then, tells when nothing more will
    /// come.
    ///
    /// Returns the bytes that could not be written.
    pub fn run(mut self, reader_ended: impl Fn() -> bool) -> usize {
        loop {
            if self.control.stopping() && !std::mem::replace(&mut self.ending, true) {
                self.mark_end();
            }
            // Before the last look into the queue, so that nothing that came before the end is missed.
            let last = self.control.stopping() && reader_ended();
            let items = match self.queue.take(if last { Duration::ZERO } else { self.wait_time() }) {
                Ok(items) => items,
                Err(error) => {
                    error!(%error, "Lines that waited on disk cannot be read; numbered sources send them again.");
                    // As after a lost session: what plain lines follow is not known.
                    self.sequencer.handle_session_lost();
                    self.router.event(index::Event::SessionLost);
                    continue;
                }
            };
            if self.spilling != (self.queue.fill().spilled > 0) {
                self.spilling = !self.spilling;
                if !self.spilling {
                    info!("The lines that waited on disk are taken.");
                }
            }
            let cost = items.iter().map(Queue::cost).sum();
            let idle = items.is_empty();
            for item in items {
                self.handle(item);
            }
            // Lines are in the buffers of the outputs now, which are written before more is taken.
            self.work(idle);
            self.queue.done(cost);
            // At the end, what waits on disk is still taken, as long as the output takes it.
            if last && (idle || self.failing) {
                return self.end();
            }
        }
    }

    /// How long the queue may be waited for.
    fn wait_time(&self) -> Duration {
        let now = Instant::now();
        let flush = self.waiting.map(|at| match self.urgent {
            // Written as soon as nothing more comes.
            true => Duration::ZERO,
            false => (at + self.config.flush_every).saturating_duration_since(now),
        });
        let sync = match self.config.fsync {
            Fsync::Every(time) if self.unsynced > 0 => {
                let time = self.sync_at(time).saturating_duration_since(now);
                Some(sync_wait(time, flush, self.failing))
            }
            _ => None,
        };
        let ack = self.sequencer.wants_acks().then(|| self.ack_due().saturating_duration_since(now));
        let ack = ack.filter(|_| self.unsynced == 0).map(|t| t.max(Duration::from_millis(5)));
        let end = self.control.stopping().then_some(Duration::from_millis(20));
        let rotate = self.next_rotation.map(|at| match self.rotation_asked {
            Some(asked) => (asked + ROTATE_LIMIT).saturating_duration_since(now),
            None => Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default(),
        });
        let order = self.order.as_ref().and_then(TimeOrder::deadline);
        let order = order.map(|at| at.saturating_duration_since(now));
        [flush, sync, ack, end, rotate, order].into_iter().flatten().min().unwrap_or(Duration::from_secs(1))
    }

    fn handle(&mut self, item: Item) {
        match item {
            Item::Up(sender) => self.sender = Some(sender),
            Item::Lost => {
                self.sender = None;
                self.sequencer.handle_session_lost();
                self.router.event(index::Event::SessionLost);
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
            Event::Line { line, origin } => {
                self.bytes += line.len() as u64;
                if let Some(order) = &mut self.order {
                    let held = Held { group: group.clone(), line, origin };
                    order.push(Instant::now(), held, &mut self.released);
                    return self.write_released();
                }
                self.waiting.get_or_insert_with(Instant::now);
                self.unsynced += 1;
                return self.router.append(group, &line, origin);
            }
            Event::Rotate { writer, at, now } => return self.rotation(writer, at, now),
            Event::Reject(why) => return self.reject(why),
            _ => self.router.note(group, &event),
        }
        match event {
            Event::Source { source, group, first, about } => {
                let about = String::from_utf8_lossy(&about).replace('\n', " ");
                let (group, about) = (text(&group), about.escape_debug().to_string());
                debug!(%source, group, first, about, "New source.");
            }
            Event::Gap { source, group, from, to, reason } => {
                let (group, lines, reason) = (text(&group), to - from + 1, reason_of(reason));
                warn!(%source, group, from, to, lines, reason, "GAP: lines are missing here.");
            }
            Event::End { source, group, last, next, complete } => {
                if let Some(ended) = &mut self.ended {
                    ended.add(&group, source, next);
                }
                let group = text(&group);
                if complete {
                    debug!(%source, group, last, "Source ended, all its lines are written.");
                } else {
                    warn!(%source, group, last, "GAP: a source ended before its last lines arrived.");
                }
            }
            _ => {}
        }
    }

    fn write_released(&mut self) {
        for held in std::mem::take(&mut self.released) {
            self.waiting.get_or_insert_with(Instant::now);
            self.unsynced += 1;
            self.router.append(&held.group, &held.line, held.origin);
        }
    }

    /// Writes all lines that are held for their order.
    fn release(&mut self) {
        if let Some(order) = &mut self.order {
            order.release(&mut self.released);
            self.write_released();
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
        let rotations = self.control.rotations.load(Ordering::Relaxed);
        if rotations != self.rotations_wanted {
            self.rotations_wanted = rotations;
            self.ask_for_rotation(Timestamp::now(), true);
        }
        let shows = self.control.shows.load(Ordering::Relaxed);
        if shows != self.shows {
            self.shows = shows;
            self.show();
        }
        if self.order.as_ref().and_then(TimeOrder::deadline).is_some_and(|at| at <= Instant::now()) {
            self.release();
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
            // Nobody waits for lines without numbers, but a follower of the file wants to know what will stay.
            if self.saved_bytes != self.bytes && self.acked.elapsed() >= SAVE_EVERY {
                self.acked = Instant::now();
                self.save_state();
            }
        }
        self.look_at_clock();
        self.archive();
        if self.cleaned.elapsed() >= CLEAN_EVERY {
            self.cleaned = Instant::now();
            self.sequencer.forget_silent(self.begun.elapsed());
        }
    }

    fn show(&self) {
        let c = self.sequencer.counters();
        let (held, late) = self.order.as_ref().map_or((0, 0), TimeOrder::counts);
        let fill = self.queue.fill();
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
            rotations = self.rotations,
            held,
            late,
            clocks_ahead = self.order.as_ref().map_or(0, |order| order.ahead().len()),
            queued = fill.bytes,
            high_water = fill.high_water,
            spilled = fill.spilled,
            spilled_total = fill.spilled_total,
            spill_high_water = fill.spill_high_water,
            "Counters."
        );
    }

    /// The end of the program: everything out, the last acknowledgements, farewell.
    fn end(mut self) -> usize {
        self.release();
        self.router.event(index::Event::Stop);
        if self.flush() {
            self.sync();
            if self.unsynced == 0 {
                self.acknowledge(true);
            }
        }
        self.show();
        self.archive();
        if let Some(archiver) = self.archiver.take() {
            archiver.finish();
        }
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

/// How long the queue may be waited for until the disk is asked for, which is due in `time`: not before the lines are
/// written, and not again and again while it fails.
fn sync_wait(time: Duration, flush: Option<Duration>, failing: bool) -> Duration {
    let retry = if failing { RETRY_EVERY } else { Duration::ZERO };
    time.max(flush.unwrap_or_default()).max(retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `--fsync batch` the time is always over: the thread looked at its queue without a pause until the lines
    /// were written.
    #[test]
    fn a_disk_is_not_waited_for_without_a_pause() {
        let [none, short, long] = [0, 30, 700].map(Duration::from_millis);
        assert_eq!(sync_wait(none, Some(short), false), short);
        assert_eq!(sync_wait(long, Some(short), false), long);
        assert_eq!(sync_wait(none, None, false), none);
        assert_eq!(sync_wait(none, None, true), RETRY_EVERY);
    }
}
