//! Threads and signals of the program.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tracing::{error, info, warn};

use crate::archive::Archiver;
use crate::config::{Config, Fsync, SessionConfig};
use crate::ended::Ended;
use crate::output::with_suffix;
use crate::queue::Queue;
use crate::reader::{Control, Reader};
use crate::route::{Router, RouterOptions};
use crate::spill::Spill;
use crate::state::State;
use crate::writer::{Parts, Writer};

/// At the end a reader that waits for its daemon is not waited for longer than this.
const READER_LIMIT: Duration = Duration::from_secs(3);

/// Why the program ends with a failure.
#[derive(Debug)]
pub enum Failure {
    /// Wrong use or configuration, or an output that cannot be opened: nothing was started.
    Usage(anyhow::Error),
    /// Something failed while it ran.
    Failed(anyhow::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`Failure`].
pub fn run(config: Config) -> Result<(), Failure> {
    let signals = block_signals().map_err(Failure::Failed)?;
    let control = Arc::new(Control::default());
    let mut prepared = Vec::new();
    for session in &config.sessions {
        prepared.push(prepare(&config, session, &control).map_err(Failure::Usage)?);
    }
    let queues: Vec<_> = prepared.iter().map(|p| Arc::clone(&p.queue)).collect();
    let watched = (Arc::clone(&control), queues);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || watch(signals, &watched.0, &watched.1))
        .context("no thread for signals")
        .map_err(Failure::Failed)?;
    let mut writers = Vec::new();
    for p in prepared {
        writers.push(start(p).map_err(Failure::Failed)?);
    }
    let left: usize = writers.into_iter().map(|w| w.join().unwrap_or(1)).sum();
    if left > 0 {
        return Err(Failure::Failed(anyhow::anyhow!("{left} bytes of lines could not be written")));
    }
    Ok(())
}

struct Prepared {
    reader: Reader,
    writer: Writer,
    queue: Arc<Queue>,
}

fn prepare(config: &Config, session: &SessionConfig, control: &Arc<Control>) -> anyhow::Result<Prepared> {
    let state = match &session.state {
        Some(path) => State::load(path).with_context(|| {
            format!("the state file {} (move it away to start without a position)", path.display())
        })?,
        None => None,
    };
    let durable = config.fsync != Fsync::Never;
    let options =
        RouterOptions { lock: config.lock, durable, index: config.index, now: jiff::Timestamp::now() };
    let (router, torn) = Router::open(session, options, state.as_ref())?;
    for torn in torn {
        warn!(
            bytes = torn.cut, kept = torn.kept, saved = %torn.saved.display(),
            "The end of the output was not complete after the last run; it was cut and saved."
        );
    }
    let ended = match &session.state {
        Some(path) if config.exactly_once => {
            let path = with_suffix(path, ".ended");
            let ended = Ended::load(path.clone());
            Some(ended.with_context(|| format!("the positions of ended sources {}", path.display()))?)
        }
        _ => None,
    };
    let plans = router.plans();
    let archiver = match plans.is_empty() {
        true => None,
        false => Some(Archiver::start(plans).context("no thread for complete files")?),
    };
    let queue = Arc::new(match spill_path(config, session) {
        Some(path) => Queue::with_spill(config.buffer_bytes, Spill::new(path, config.spill_bytes)),
        None => Queue::new(config.buffer_bytes),
    });
    let reader =
        Reader::new(session.clone(), config.audit_suffix.as_deref(), Arc::clone(&queue), Arc::clone(control));
    let writer = Writer::new(Parts {
        config: config.clone(),
        state_path: session.state.clone(),
        state,
        ended,
        router,
        audit_groups: reader.audit_groups(),
        archiver,
        queue: Arc::clone(&queue),
        control: Arc::clone(control),
    });
    Ok(Prepared { reader, writer, queue })
}

/// Where lines wait on disk: in the directory that was given, or beside the state file.
fn spill_path(config: &Config, session: &SessionConfig) -> Option<PathBuf> {
    if config.spill_bytes == 0 {
        return None;
    }
    let name = format!("log_writer-{}-{:016x}.spill", std::process::id(), rand::random::<u64>());
    match (&config.spill_dir, &session.state) {
        (Some(dir), _) => Some(dir.join(name)),
        (None, Some(state)) => Some(state.with_file_name(name)),
        (None, None) => None,
    }
}

/// Starts the two threads of a session; gives the writer's.
fn start(p: Prepared) -> anyhow::Result<thread::JoinHandle<usize>> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    let (reader, writer, queue) = (p.reader, p.writer, p.queue);
    thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            reader.run();
            flag.store(true, Ordering::Release);
            queue.wake();
        })
        .context("no thread for the reader")?;
    thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            let since: Cell<Option<Instant>> = Cell::new(None);
            writer.run(|| {
                let at = since.get().unwrap_or_else(Instant::now);
                since.set(Some(at));
                ended.load(Ordering::Acquire) || at.elapsed() >= READER_LIMIT
            })
        })
        .context("no thread for the writer")
}

/// A flag that SIGTERM and SIGINT set; a second one ends at once.
///
/// # Errors
/// When signals cannot be blocked, or there is no thread.
pub fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("signals cannot be blocked")?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let wait = move || {
        while signals.wait().is_ok() {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("no thread for signals")?;
    Ok(stop)
}

/// Signals that this program answers, blocked in all threads: one thread waits for them.
fn block_signals() -> anyhow::Result<SigSet> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2] {
        set.add(signal);
    }
    set.thread_block().context("signals cannot be blocked")?;
    Ok(set)
}

fn watch(signals: SigSet, control: &Control, queues: &[Arc<Queue>]) {
    loop {
        let Ok(signal) = signals.wait() else { continue };
        match signal {
            Signal::SIGHUP => {
                control.reopens.fetch_add(1, Ordering::Relaxed);
            }
            Signal::SIGUSR1 => {
                control.rotations.fetch_add(1, Ordering::Relaxed);
            }
            Signal::SIGUSR2 => {
                control.shows.fetch_add(1, Ordering::Relaxed);
            }
            _ if control.stopping() => {
                error!("Second signal to end: ending at once.");
                std::process::exit(1);
            }
            signal => {
                info!(%signal, "Ending: writing what was read.");
                control.stop.store(true, Ordering::Relaxed);
            }
        }
        for queue in queues {
            queue.wake();
        }
    }
}
