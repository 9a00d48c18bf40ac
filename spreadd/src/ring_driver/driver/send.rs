//! From the engine to the sockets.

use std::io;
use std::thread;
use std::time::Duration;

use spread_ring::Nanos;
use tracing::warn;

use super::super::batch::Flush;
use super::super::blackbox::What;
use super::super::header::{DATA, Header};
use super::super::sys::wait_writable;
use super::{Driver, Engine, NO_BUFFERS_WAIT, Upper};

/// How long one flush may wait for room before its packets count as lost.
const BLOCKED_MAX: Duration = Duration::from_millis(100);

impl<E: Engine, U: Upper> Driver<E, U> {
    /// Seals and sends all that the engine has to send.
    pub(in super::super) fn transmit(&mut self, now: Nanos) {
        while let Some(transmit) = self.engine.poll_transmit() {
            if !self.queue.has_room(transmit.packet.len(), &*self.sealer) {
                self.flush(now);
            }
            if let Some(kind) =
                Header::of(&transmit.packet).map(Header::packet_type).filter(|kind| *kind != DATA)
            {
                self.blackbox.note(
                    now,
                    What::Sent(kind),
                    transmit.to.first(),
                    transmit.packet.len() as u64,
                    0,
                );
            }
            self.queue.push(&transmit, &mut *self.sealer);
        }
        self.flush(now);
    }

    /// Sends the queue, waiting a little if there is no room: nothing is overtaken and, for so long,
    /// nothing is lost.
    fn flush(&mut self, now: Nanos) {
        let mut waiting_since = None;
        let errors = self.stats.send_errors;
        loop {
            let flush = self.queue.flush(now, &self.transport, &mut &self.sockets, &mut self.stats);
            let before = self.clock.now();
            match flush {
                Flush::Done => break,
                Flush::Blocked(class) => wait_writable(self.sockets.output(class), Duration::from_millis(1)),
                Flush::NoBuffers => thread::sleep(NO_BUFFERS_WAIT),
            }
            let since = *waiting_since.get_or_insert(before);
            if self.clock.now().since(since) > BLOCKED_MAX {
                let lost = self.queue.abandon();
                self.stats.send_abandoned += lost;
                self.blackbox.note(now, What::Abandoned, None, lost, 0);
                warn!(
                    lost,
                    total = self.stats.send_abandoned,
                    "The network takes no packets; some are given up."
                );
                break;
            }
        }
        if waiting_since.is_some() {
            self.blackbox.note(now, What::Blocked, None, self.stats.send_blocked, 0);
        }
        if self.stats.send_errors > errors {
            let code = self.stats.send_error_last;
            self.blackbox.note(now, What::SendError, None, u64::from(code.unsigned_abs()), 0);
            if errors == 0 || self.stats.send_errors.is_power_of_two() {
                let error = io::Error::from_raw_os_error(code);
                warn!(%error, total = self.stats.send_errors, "Sending failed.");
            }
        }
    }
}
