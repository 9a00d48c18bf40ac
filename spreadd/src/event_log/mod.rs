//! The event log: where it goes, what is in it, and how its lines look.
//!
//! Lines go to standard error until the configuration is read; then [`EventLog::apply`] obeys its options
//! `EventLogFile`, `EventPriority`, `DebugFlags`, `EventTimeStamp` and `EventPreciseTimeStamp`. All of them may
//! be applied again while the daemon runs. spec: daemon-config 9

mod filter;
mod line;
mod sink;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::line::{Line, Stamp};
use self::sink::{Lines, Sink};
use crate::config::Options;

pub(crate) use filter::directives;

/// Lines written, by level.
static LINES: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// The levels in the order of the counters.
const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// Lines of the event log of this process so far, by level.
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    LEVELS.iter().zip(&LINES).map(|((name, _), count)| (*name, count.load(Ordering::Relaxed)))
}

/// Why the log cannot be as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// `--log-level` or its variable is wrong.
    #[error("{text:?} is no log level")]
    Level {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The file of `EventLogFile` cannot be opened.
    #[error("cannot open the log file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The log of this process.
#[derive(Clone, Debug)]
pub struct EventLog {
    sink: Arc<Sink>,
    filter: reload::Handle<EnvFilter, Registry>,
    /// What the command line or the environment say; wins over the configuration.
    level: Option<String>,
}

impl EventLog {
    /// Starts the log on standard error. `level` is that of the command line or the environment, if there is
    /// one.
    ///
    /// # Errors
    /// The level is wrong.
    ///
    /// # Panics
    /// If the process has another subscriber of events already.
    pub fn start(level: Option<&str>) -> Result<Self, LogError> {
        let filter = EnvFilter::try_new(level.unwrap_or("info"))
            .map_err(|source| LogError::Level { text: level.unwrap_or_default().to_owned(), source })?;
        let (filter, handle) = reload::Layer::new(filter);
        let sink = Arc::new(Sink::stderr());
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(sink.is_terminal())
            .event_format(Line::new(Arc::clone(&sink)))
            .with_writer(Lines(Arc::clone(&sink)));
        Registry::default().with(filter).with(Count).with(lines).init();
        tell_panics();
        Ok(Self { sink, filter: handle, level: level.map(str::to_owned) })
    }

    /// Obeys the options of a configuration. On an error nothing has changed.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn apply(&self, options: &Options, host_name: &str) -> Result<(), LogError> {
        match options.log_file(host_name) {
            Some(path) => {
                self.sink.use_file(&path).map_err(|source| LogError::File { path, source })?;
            }
            None => self.sink.use_stderr(),
        }
        self.sink.set_stamp(options.time_stamp.as_ref().map(Stamp::from));
        let wanted = match &self.level {
            Some(level) => level.clone(),
            None => directives(options),
        };
        // The level was checked at the start, and ours are right; see the tests of `directives`.
        if let Ok(filter) = EnvFilter::try_new(&wanted) {
            // Fails only when the subscriber is gone.
            let _ = self.filter.reload(filter);
        }
        Ok(())
    }

    /// Opens the log file again, after a tool has renamed it. Without a log file this does nothing.
    ///
    /// # Errors
    /// The file cannot be opened; the log goes on in the old one.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.sink.reopen().map_err(|(path, source)| LogError::File { path, source })
    }

    /// The log file, if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.sink.file()
    }
}

/// A panic is a fault of ours: it must be in the log file too, not on standard error alone.
fn tell_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or_default();
        tracing::error!(thread = thread.name().unwrap_or_default(), %place, "A thread failed: {text}");
    }));
}

/// Counts the lines.
struct Count;

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = event.metadata().level();
        if let Some(at) = LEVELS.iter().position(|(_, known)| known == level) {
            LINES[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}
