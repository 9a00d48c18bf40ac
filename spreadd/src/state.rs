//! What a daemon remembers from one life to the next: the highest epoch it took part in.
//!
//! Identifiers of configurations, and with them those of groups, begin with the epoch. At the start it is at
//! least the time in seconds, so a clock that was set back, or a daemon alone that is started twice in a second,
//! could repeat one. The file excludes that. Without it the daemon works as well as the clock does.
//!
//! The file is written before the daemon serves anybody, and again, by a thread of its own, whenever a
//! configuration is installed: to a new file, synced, then renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tracing::warn;

/// First line of the file.
const HEADER: &str = "spreadd epoch 1";

/// A greater number is taken for a damaged file: the epoch grows by 2 with each membership change.
const EPOCH_MAX: u64 = 1 << 48;

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the state file {}", path.display())]
pub struct StateError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    epoch: AtomicU64,
    end: AtomicBool,
}

/// The file, kept up to date until this is dropped.
#[derive(Debug)]
pub(crate) struct EpochFile {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// For the ring thread: says which epoch is in use.
#[derive(Clone, Debug)]
pub(crate) struct EpochNote {
    shared: Arc<Shared>,
    thread: thread::Thread,
}

impl EpochNote {
    /// A configuration of this epoch was installed. Does not block.
    pub(crate) fn note(&self, epoch: u64) {
        if self.shared.epoch.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.thread.unpark();
        }
    }
}

/// The lowest epoch that this life may use, from the file in `dir` of an earlier life; 0 if there is none. A
/// damaged file is told and replaced later.
pub(crate) fn read(path: &Path) -> u64 {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "Cannot read the state file; going on without it.");
            }
            return 0;
        }
    };
    let epoch = text.strip_prefix(HEADER).and_then(|rest| rest.trim().parse::<u64>().ok());
    match epoch.filter(|epoch| *epoch <= EPOCH_MAX) {
        Some(epoch) => epoch + 1,
        None => {
            warn!(path = %path.display(), "The state file is damaged; going on without it.");
            0
        }
    }
}

/// The state file of a daemon.
pub(crate) fn path(dir: &Path, name: &str, port: u16) -> PathBuf {
    // Names may contain anything but zero bytes.
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    dir.join(format!("{name}-{port}.epoch"))
}

impl EpochFile {
    /// Writes `epoch`, the first one of this life, and starts to follow.
    pub(crate) fn start(path: PathBuf, epoch: u64) -> Result<Self, StateError> {
        write(&path, epoch).map_err(|source| StateError { path: path.clone(), source })?;
        let shared = Arc::new(Shared { path, epoch: AtomicU64::new(epoch), end: AtomicBool::new(false) });
        let follower = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("state".into())
            .spawn(move || follow(&follower, epoch))
            .map_err(|source| StateError { path: shared.path.clone(), source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn note(&self) -> Option<EpochNote> {
        let thread = self.thread.as_ref()?.thread().clone();
        Some(EpochNote { shared: Arc::clone(&self.shared), thread })
    }
}

impl Drop for EpochFile {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

fn follow(shared: &Shared, mut written: u64) {
    let mut failed = false;
    loop {
        let end = shared.end.load(Ordering::Acquire);
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch > written {
            match write(&shared.path, epoch) {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    failed = true;
                    warn!(path = %shared.path.display(), %error, "Cannot write the state file.");
                }
                Err(_) => {}
            }
            written = epoch;
        } else if end {
            return;
        } else {
            thread::park();
        }
    }
}

/// Replaces the file, so that a crash leaves the old or the new one.
fn write(path: &Path, epoch: u64) -> io::Result<()> {
    let new = path.with_extension("epoch-new");
    let mut file = File::create(&new)?;
    writeln!(file, "{HEADER}\n{epoch}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_begins_above_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "web 1", 4803);
        assert_eq!(path, dir.path().join("web_1-4803.epoch"));
        assert_eq!(read(&path), 0, "the first life");
        let file = EpochFile::start(path.clone(), 10).unwrap();
        assert_eq!(read(&path), 11, "at once");
        let note = file.note().unwrap();
        for epoch in [12, 40, 14] {
            note.note(epoch);
        }
        drop(file);
        assert_eq!(read(&path), 41);
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_stay_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "a", 1);
        for text in [
            "",
            "spreadd epoch 1\n",
            "spreadd epoch 1\n-4\n",
            "spreadd epoch 1\n18446744073709551615\n",
            "x 5",
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), 0, "{text:?}");
        }
        fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(read(&path), 0);
        assert!(EpochFile::start(dir.path().join("no/such/dir/x.epoch"), 1).is_err());
    }
}
