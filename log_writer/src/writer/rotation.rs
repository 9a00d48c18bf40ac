//! New files, begun at the same line by all writers.
// spec: log_writer L-17

use std::time::{Duration, Instant};

use jiff::Timestamp;
use log_stream::{SourceId, TYPE_FRAME};
use spread::Service;
use tracing::{debug, error, info, warn};

use super::{ACK_LIMIT, Writer};

/// So long a writer waits for its own wish to rotate to come back in the order of lines.
pub(super) const ROTATE_LIMIT: Duration = Duration::from_secs(10);
/// Clocks of writers may differ by so much; other wishes to rotate are not followed.
const ROTATE_AHEAD_MAX: i64 = 600;

impl Writer {
    /// A writer asks for new files here.
    // spec: log_writer L-17
    pub(super) fn rotation(&mut self, writer: SourceId, at: i64, forced: bool) {
        let now = Timestamp::now();
        let Some(at) =
            Timestamp::from_second(at).ok().filter(|at| at.as_second() <= now.as_second() + ROTATE_AHEAD_MAX)
        else {
            return self
                .reject("a wish to rotate for a time to come; do the clocks of the log writers differ?");
        };
        // The message may come once for each group.
        if forced && self.forced.replace((writer, at)) != Some((writer, at))
            || self.next_rotation.is_some_and(|next| next <= at)
        {
            self.rotate(at, forced);
        }
    }

    pub(super) fn rotate(&mut self, at: Timestamp, forced: bool) {
        // Everything before the mark belongs to the old files.
        self.release();
        self.flush();
        let (begun, failed) = self.router.rotate(at, forced);
        for (target, error) in &failed {
            error!(%target, %error, "No new file could be begun; lines go on to the old one.");
        }
        self.rotations += 1;
        self.rotation_asked = None;
        self.next_rotation = self.router.next_rotation();
        info!(period = %at, begun, "New files begun.");
        self.save_state();
        self.archive();
    }

    pub(super) fn archive(&mut self) {
        let sealed = self.router.take_sealed();
        if let Some(archiver) = &self.archiver {
            sealed.into_iter().for_each(|job| archiver.take(job));
        }
    }

    /// Looks at the clock: when a period ends, all writers are asked for new files, this one too. Where the message
    /// stands in the order of lines, all of them begin a new file, so the files are the same.
    pub(super) fn look_at_clock(&mut self) {
        let Some(next) = self.next_rotation.filter(|next| *next <= Timestamp::now()) else { return };
        if let Some(asked) = self.rotation_asked {
            if asked.elapsed() >= ROTATE_LIMIT {
                warn!(
                    "The wish to rotate did not come back; rotating alone: files of other writers may differ here."
                );
                self.rotate(next, false);
            }
            return;
        }
        // After a long sleep only the present period matters.
        if self.ask_for_rotation(Timestamp::now().max(next), false) {
            self.rotation_asked = Some(Instant::now());
        }
    }

    /// Asks all writers, this one too, for new files; without a session this one alone. True when it was asked.
    pub(super) fn ask_for_rotation(&mut self, at: Timestamp, now: bool) -> bool {
        let marker = self.sequencer.rotation(at.as_second(), now);
        if let (Some(sender), Some(marker), false) = (&mut self.sender, marker, self.audit_groups.is_empty())
        {
            sender.set_send_timeout(Some(ACK_LIMIT));
            let sent = sender
                .enqueue(Service::AGREED, self.audit_groups.as_slice(), TYPE_FRAME, marker)
                .and_then(|()| sender.flush_timeout(ACK_LIMIT));
            if let Err(error) = sent {
                debug!(%error, "The wish to rotate was not taken.");
            }
            return true;
        }
        self.rotate(at, now);
        false
    }
}
