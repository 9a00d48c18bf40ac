//! Where the log goes.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nix::sys::stat::fstat;
use tracing_subscriber::fmt::MakeWriter;

use super::line::Stamp;

#[derive(Debug)]
enum Target {
    Stderr,
    File { file: File, path: PathBuf },
}

/// The place and the look of the log; both may change while it is written.
#[derive(Debug)]
pub(super) struct Sink {
    target: Mutex<Target>,
    stamp: RwLock<Option<Stamp>>,
    /// Standard error is a terminal.
    terminal: bool,
    /// Standard error is the journal.
    journal: bool,
}

impl Sink {
    pub(super) fn stderr() -> Self {
        Self {
            target: Mutex::new(Target::Stderr),
            stamp: RwLock::default(),
            terminal: io::stderr().is_terminal(),
            journal: is_journal(),
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether lines go to the journal now, and whether to a terminal.
    pub(super) fn looks(&self) -> (bool, bool) {
        match &*self.lock() {
            Target::Stderr => (self.journal, self.terminal),
            Target::File { .. } => (false, false),
        }
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_stamp(&self, stamp: Option<Stamp>) {
        *self.stamp.write().unwrap_or_else(PoisonError::into_inner) = stamp;
    }

    pub(super) fn use_stderr(&self) {
        *self.lock() = Target::Stderr;
    }

    /// Goes on in this file, which is made if it is not there.
    pub(super) fn use_file(&self, path: &Path) -> io::Result<()> {
        // The daemon may change its working directory later; the file stays where it is.
        let path = std::path::absolute(path)?;
        let file = open(&path)?;
        *self.lock() = Target::File { file, path };
        Ok(())
    }

    /// Opens the file again.
    pub(super) fn reopen(&self) -> Result<(), (PathBuf, io::Error)> {
        let Some(path) = self.file() else { return Ok(()) };
        match open(&path) {
            Ok(file) => {
                *self.lock() = Target::File { file, path };
                Ok(())
            }
            Err(error) => Err((path, error)),
        }
    }

    pub(super) fn file(&self) -> Option<PathBuf> {
        match &*self.lock() {
            Target::Stderr => None,
            Target::File { path, .. } => Some(path.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether standard error goes to the journal: `JOURNAL_STREAM` names its device and inode.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let (Ok(device), Ok(inode)) = (device.parse::<u64>(), inode.parse::<u64>()) else { return false };
    fstat(io::stderr().as_fd()).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode)
}

/// Writes one line with one call.
#[derive(Debug)]
pub(super) struct Writer<'a>(MutexGuard<'a, Target>);

impl Write for Writer<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0 {
            Target::Stderr => io::stderr().write(line),
            Target::File { file, .. } => file.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the writer of each line.
#[derive(Debug)]
pub(super) struct Lines(pub(super) Arc<Sink>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Writer<'a> {
        Writer(self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sink: &Arc<Sink>, text: &str) {
        Lines(Arc::clone(sink)).make_writer().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_renamed_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("events"), dir.path().join("events.1"));
        let sink = Arc::new(Sink::stderr());
        sink.use_file(&path).unwrap();
        line(&sink, "one\n");
        std::fs::rename(&path, &old).unwrap();
        line(&sink, "two\n");
        sink.reopen().unwrap();
        line(&sink, "three\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        // What cannot be opened again is written to as before.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(sink.reopen().unwrap_err().0, path);
        line(&sink, "four\n");
        assert_eq!(sink.file(), Some(path));
    }
}
