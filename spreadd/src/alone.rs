//! Provisional: a ring of one member without the engine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use spread_ring::{ConfId, Event, Mid, NodeId};

use crate::hub::Hub;
use crate::session::inbox::Inbox;

#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
}

pub(crate) struct RingThread {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl RingThread {
    pub(crate) fn start(mut hub: Hub, inbox: &Inbox) -> io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let waker = Arc::clone(&signal);
        inbox.set_waker(move || {
            *waker.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
            waker.wake.notify_one();
        });
        let seen = Arc::clone(&signal);
        let thread = std::thread::Builder::new().name("ring".into()).spawn(move || {
            let me = Mid { node: NodeId(0), session: 1 };
            let id = ConfId { epoch: 2, rep: NodeId(0), nonce: 1 };
            hub.handle_event(Event::Regular { id, members: vec![me] });
            let mut seq = 0;
            while !seen.stop.load(Ordering::Acquire) {
                loop {
                    let mut n = 0;
                    while n < 512
                        && let Some((service, body)) = hub.next_submission()
                    {
                        seq += 1;
                        n += 1;
                        hub.handle_event(Event::Deliver { seq, index: 0, sender: me, service, body });
                    }
                    hub.flush();
                    if n == 0 {
                        break;
                    }
                }
                let mut woken = seen.woken.lock().unwrap_or_else(PoisonError::into_inner);
                if !*woken {
                    woken = seen
                        .wake
                        .wait_timeout(woken, Duration::from_millis(100))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                *woken = false;
            }
        })?;
        Ok(Self { signal, thread: Some(thread) })
    }

    pub(crate) fn stop(&mut self) {
        self.signal.stop.store(true, Ordering::Release);
        *self.signal.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
