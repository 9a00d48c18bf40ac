//! Lines to the outputs and to the disk, then to the sources that they are there.
// spec: log_writer 5.5

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log_stream::TYPE_FRAME;
use spread::{PrivateGroup, Service};
use tracing::{debug, error, info};

use super::{ACK_LIMIT, COMPLAIN_EVERY, Writer};
use crate::config::Fsync;
use crate::output::Target;
use crate::reader::Control;
use crate::state::State;

/// Lines after which the disk is asked for even if the time has not come: sources wait for acknowledgements.
const SYNC_LINES: u64 = 4_000;
/// Shortest time between two rounds of acknowledgements.
const ACK_EVERY: Duration = Duration::from_millis(50);
/// A round of acknowledgements costs so much per source or file, so that many do not mean constant work.
const ACK_COST: Duration = Duration::from_micros(20);
/// Time between two attempts to write to an output that failed.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(500);
/// At the end of the program an output that fails is tried for so long.
const END_LIMIT: Duration = Duration::from_secs(5);

impl Writer {
    pub(super) fn reopen(&mut self) {
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
    pub(super) fn flush(&mut self) -> bool {
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

    /// Tells the reader, through the daemon, where the end is: what was ordered before is in the log.
    pub(super) fn mark_end(&mut self) {
        let Some(sender) = &mut self.sender else { return };
        sender.set_send_timeout(Some(ACK_LIMIT));
        let own = sender.private_group().as_group();
        if let Err(error) = sender.multicast(Service::AGREED, own, 0, Bytes::new()) {
            debug!(%error, "The end was not marked.");
        }
    }

    pub(super) fn sync_due(&self) -> bool {
        match self.config.fsync {
            _ if self.unsynced == 0 => false,
            Fsync::Never => true,
            Fsync::Every(time) => self.urgent || Instant::now() >= self.sync_at(time),
        }
    }

    /// When the disk is to be asked for. With many lines, as soon as the sources may be answered and not more often:
    /// each time takes a while, in which nothing is written.
    pub(super) fn sync_at(&self, every: Duration) -> Instant {
        let at = self.synced + every;
        if self.unsynced >= SYNC_LINES { at.min(self.ack_due().max(self.synced + ACK_EVERY)) } else { at }
    }

    pub(super) fn sync(&mut self) {
        if self.config.fsync != Fsync::Never
            && let Err((target, error)) = self.router.sync()
        {
            return self.complain(&[(target, error)]);
        }
        self.synced = Instant::now();
        self.unsynced = 0;
    }

    pub(super) fn ack_due(&self) -> Instant {
        let entries = self.sequencer.sources() + self.router.file_count();
        self.acked + ACK_EVERY.max(ACK_COST * u32::try_from(entries).unwrap_or(u32::MAX))
    }

    /// Tells the sources what is durable, and asks for what is missing. Everything handled is written.
    pub(super) fn acknowledge(&mut self, last: bool) {
        if !(last || self.sequencer.wants_acks())
            || !(last || self.urgent || Instant::now() >= self.ack_due())
        {
            return;
        }
        self.acked = Instant::now();
        self.urgent = false;
        if let Some(order) = &self.order {
            self.sequencer.hold(&order.lowest());
        }
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

    pub(super) fn save_state(&mut self) -> bool {
        if let Some(ended) = &mut self.ended
            && let Err(error) = ended.save(self.config.fsync != Fsync::Never)
        {
            let target = Target::File(ended.path().into());
            self.complain(&[(target, error)]);
            return false;
        }
        let Some(path) = &self.state_path else { return true };
        let positions = self.sequencer.positions().map(|(g, s, n)| (g.clone(), s, n)).collect();
        let state = State { writer: Some(self.sequencer.me()), files: self.router.files(), positions };
        match state.save(path, self.config.fsync != Fsync::Never) {
            Ok(()) => {
                self.saved_bytes = self.bytes;
                true
            }
            Err(error) => {
                let target = Target::File(path.clone());
                self.complain(&[(target, error)]);
                false
            }
        }
    }
}

fn closed_pipe(failed: &(Target, io::Error)) -> bool {
    failed.0 == Target::Stdout && failed.1.kind() == io::ErrorKind::BrokenPipe
}
