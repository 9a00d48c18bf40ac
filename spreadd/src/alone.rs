//! The ring thread of a daemon without others: the engine with one member, and no socket.
//!
//! A ring of one member sends nothing and delivers what is submitted at once, in every service.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use spread_ring::{Boot, ConfigError, Event, Nanos, NodeId, Ring, RingConfig, SubmitError};
use tracing::warn;

use crate::ring_driver::{Change, IoStats, Report, Upper, outlook};

/// Submissions taken in one turn, before what they cause is handed up.
const SUBMISSIONS: usize = 512;

/// Longest sleep without a deadline.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Questions that wait for the thread.
const QUESTIONS: usize = 16;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Something to look at on the thread.
type Look<U> = Box<dyn FnOnce(&Ring, &mut U, Nanos) + Send>;

/// The way to ask the thread from others.
pub(crate) struct AskAlone<U> {
    looks: Sender<Look<U>>,
    thread: std::thread::Thread,
}

impl<U: 'static> AskAlone<U> {
    /// The counters and the state; `None` if the thread has ended or hangs.
    pub(crate) fn report(&self) -> Option<Report> {
        let started = self.look(|ring, _, now| (ring.stats().clone(), outlook(ring), now))?;
        let (stats, outlook, now) = started;
        let uptime = now.since(Nanos(0));
        let change = Change {
            at: SystemTime::now() - uptime,
            id: outlook.id,
            members: vec![NodeId(0)],
            cause: None,
            forming: Duration::ZERO,
            events: String::new(),
        };
        Some(Report {
            io: IoStats::default(),
            ring: stats,
            outlook,
            changes: vec![change],
            broken_links: Vec::new(),
            uptime,
        })
    }

    /// Runs `look` on the thread.
    pub(crate) fn visit<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut U) -> T + Send + 'static,
    ) -> Option<T> {
        self.look(move |_, upper, _| look(upper))
    }

    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Ring, &mut U, Nanos) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, wait) = bounded(1);
        let look: Look<U> = Box::new(move |ring, upper, now| {
            // Nobody waits any more if this fails.
            let _ = answer.try_send(look(ring, upper, now));
        });
        self.looks.send_timeout(look, ANSWER_MAX).ok()?;
        self.thread.unpark();
        wait.recv_timeout(ANSWER_MAX).ok()
    }
}

/// The thread, seen from outside. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Alone {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AloneError {
    /// The engine does not accept its configuration.
    #[error("the ring configuration is not possible")]
    Config(#[from] ConfigError),
    /// The system gave no thread.
    #[error("the ring thread could not be started")]
    Thread(#[from] io::Error),
}

impl Alone {
    pub(crate) fn start<U: Upper + Send + 'static>(
        boot: Boot,
        upper: U,
    ) -> Result<(Self, AskAlone<U>), AloneError> {
        let clock = Instant::now();
        // One daemon in one segment; nobody ever sees the hash.
        let config = RingConfig::new(NodeId(0), vec![0], [0; 16]);
        let ring = Ring::new(Arc::new(config), boot, Nanos(0))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (looks, questions) = bounded(QUESTIONS);
        let thread = std::thread::Builder::new()
            .name("ring".into())
            .spawn(move || run(ring, upper, clock, &questions, &stopped))?;
        let ask = AskAlone { looks, thread: thread.thread().clone() };
        Ok((Self { stop, thread: Some(thread) }, ask))
    }

    /// Wakes the thread to take submissions.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let thread = self.thread.as_ref().map(|thread| thread.thread().clone());
        move || {
            if let Some(thread) = &thread {
                thread.unpark();
            }
        }
    }

    /// Whether the thread has ended, which it does only when it was stopped or by a fault.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the thread and waits for it.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<U: Upper>(
    mut ring: Ring,
    mut upper: U,
    clock: Instant,
    questions: &Receiver<Look<U>>,
    stop: &AtomicBool,
) {
    let mut held = None;
    while !stop.load(Ordering::Acquire) {
        let now = Nanos(0) + clock.elapsed();
        if ring.poll_timeout().is_some_and(|due| due <= now) {
            ring.handle_timeout(now);
        }
        for look in questions.try_iter().take(QUESTIONS) {
            look(&ring, &mut upper, now);
        }
        let mut idle = false;
        for _ in 0..SUBMISSIONS {
            let Some((service, body)) = held.take().or_else(|| upper.next_submission()) else {
                idle = true;
                break;
            };
            match ring.submit(now, service, body.clone()) {
                Ok(()) => {}
                Err(SubmitError::Full) => {
                    held = Some((service, body));
                    break;
                }
                // The layer above keeps to the limits, and nobody leaves this ring.
                Err(error) => warn!(%error, "The ring engine did not take a message."),
            }
        }
        // There is nobody to send to.
        while ring.poll_transmit().is_some() {}
        let mut delivered = false;
        while let Some(event) = ring.poll_event() {
            delivered = true;
            if !matches!(event, Event::Writable) {
                upper.handle_event(event);
            }
        }
        if delivered {
            upper.flush();
        } else if idle {
            let due = ring.poll_timeout().map_or(WAIT_MAX, |due| due.since(now));
            std::thread::park_timeout(due.min(WAIT_MAX));
        }
    }
}
