//! Messages that wait on disk for a client that does not read.
//!
//! The writer of the session moves its queue here while its socket is full, and reads it back when the socket has
//! room; the ring thread never waits for the disk. What is here is older than what is in the queue. The file has no
//! name: it vanishes with its session. It holds the bytes as they go to the client.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use spread_wire::PrivateGroup;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::outbox::{Load, Outbox, Piece};
use super::quiet::Quiet;
use super::stats::Counters;

/// Bytes read back at once.
const READ_LEN: usize = 128 << 10;

/// Bytes gathered for one system call when messages are written.
const WRITE_LEN: usize = 256 << 10;

/// What spilling needs to know of the daemon.
#[derive(Debug)]
pub(crate) struct SpillRules {
    pub(crate) dir: PathBuf,
    /// Bytes on disk for each client.
    pub(crate) bytes_max: u64,
    /// Messages in memory from which on they go to disk.
    pub(crate) frames_max: usize,
    /// Log lines about spilling.
    pub(crate) quiet: Quiet,
}

/// Why spilling ended the session.
#[derive(Debug)]
pub(crate) enum SpillError {
    /// No more bytes may wait for this client.
    Full(u64),
    /// The disk failed.
    Io(io::Error),
}

impl From<io::Error> for SpillError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The file of one session.
pub(crate) struct Spill {
    rules: Arc<SpillRules>,
    counters: Arc<Counters>,
    client: PrivateGroup,
    file: Option<Arc<File>>,
    /// What waits is from here...
    start: u64,
    /// ...to here.
    end: u64,
    /// The file system gives room back that was read. Otherwise the file may only be as long as its limit.
    punches: bool,
    /// Messages written since the file was empty.
    frames: u64,
}

impl Spill {
    pub(crate) fn new(rules: Arc<SpillRules>, counters: Arc<Counters>, client: PrivateGroup) -> Self {
        Self { rules, counters, client, file: None, start: 0, end: 0, punches: true, frames: 0 }
    }

    /// Whether nothing waits on disk.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Moves the queue to disk if it is long.
    ///
    /// # Cancel safety
    /// When dropped before it ends, messages are lost: for a session that ends anyway.
    pub(crate) async fn absorb(&mut self, outbox: &Outbox) -> Result<(), SpillError> {
        // Half of the limit: so that not each further message is a write of its own.
        if outbox.load().frames <= self.rules.frames_max / 2 {
            return Ok(());
        }
        let mut pieces = Vec::new();
        if !outbox.take(&mut pieces) {
            return Ok(());
        }
        let moved = Load {
            frames: pieces.iter().filter(|piece| piece.ends_frame).count(),
            bytes: pieces.iter().map(|piece| piece.bytes.len()).sum(),
        };
        let waiting = if self.punches { self.end - self.start } else { self.end };
        if waiting + moved.bytes as u64 > self.rules.bytes_max {
            return Err(SpillError::Full(waiting));
        }
        if self.is_empty()
            && let Some(suppressed) = self.rules.quiet.admit()
        {
            warn!(client = %self.client, suppressed, "The client does not read its messages: they wait on disk.");
        }
        let (file, dir, at) = (self.file.clone(), self.rules.dir.clone(), self.end);
        let file =
            spawn_blocking(move || write(file, &dir, at, &pieces)).await.map_err(io::Error::other)??;
        self.file = Some(file);
        self.end += moved.bytes as u64;
        self.frames += moved.frames as u64;
        outbox.spilled(moved);
        self.counters.spilled_total.add(moved.frames as u64);
        self.counters.spilled_bytes_total.add(moved.bytes as u64);
        Ok(())
    }

    /// Takes the oldest bytes off the disk. Empty if there are none.
    pub(crate) async fn read(&mut self) -> Result<Bytes, SpillError> {
        let Some(file) = self.file.clone() else { return Ok(Bytes::new()) };
        let (at, punches) = (self.start, self.punches);
        let len = READ_LEN.min(usize::try_from(self.end - at).unwrap_or(READ_LEN));
        let last = at + len as u64 == self.end;
        let (bytes, punches) =
            spawn_blocking(move || read(&file, at, len, last, punches)).await.map_err(io::Error::other)??;
        self.punches = punches;
        if last {
            info!(client = %self.client, messages = self.frames, bytes = self.end, "The client has read what waited on disk.");
            (self.start, self.end, self.frames, self.punches) = (0, 0, 0, true);
        } else {
            self.start += len as u64;
        }
        Ok(bytes)
    }
}

fn write(file: Option<Arc<File>>, dir: &Path, at: u64, pieces: &[Piece]) -> io::Result<Arc<File>> {
    let file = match file {
        Some(file) => file,
        None => Arc::new(create(dir)?),
    };
    let mut out = BufWriter::with_capacity(WRITE_LEN, At { file: &file, at });
    for piece in pieces {
        out.write_all(&piece.bytes)?;
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

fn read(file: &File, at: u64, len: usize, last: bool, punches: bool) -> io::Result<(Bytes, bool)> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)?;
    let mut punched = punches;
    if last {
        file.set_len(0)?;
    } else if punches {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (at, len) = (i64::try_from(at), i64::try_from(len));
        punched = matches!((at, len), (Ok(at), Ok(len)) if fallocate(file, hole, at, len).is_ok());
    }
    Ok((bytes.into(), punched))
}

/// A file without a name in `dir`.
pub(crate) fn create(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(dir) {
        // Not every file system has such files: then one that loses its name at once.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {}
        other => return other,
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".spreadd-{}-{number}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Writes at a place of a file.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write_at(bytes, self.at)?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::slow::SlowAction;
    use super::*;

    fn fill(outbox: &Outbox, frames: usize, byte: u8) {
        let bytes = Bytes::from(vec![byte; 1000]);
        let piece = Piece { bytes, ends_frame: true, action: SlowAction::Spill, mark: false };
        let added = Load { frames, bytes: frames * 1000 };
        outbox.append(&mut vec![piece; frames], added, None);
    }

    #[tokio::test]
    async fn what_is_spilled_comes_back_in_order_and_the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let rules = SpillRules {
            dir: dir.path().to_owned(),
            bytes_max: 400_000,
            frames_max: 10,
            quiet: Quiet::default(),
        };
        let client = PrivateGroup::parse(b"#slow#d").unwrap();
        let mut spill = Spill::new(Arc::new(rules), Arc::default(), client);
        let outbox = Outbox::default();
        fill(&outbox, 5, 0);
        spill.absorb(&outbox).await.unwrap();
        assert!(spill.is_empty(), "few messages stay in memory");
        for round in 1..=3 {
            fill(&outbox, 100, round);
            spill.absorb(&outbox).await.unwrap();
            assert_eq!(outbox.load(), Load::default());
        }
        fill(&outbox, 100, 9);
        assert!(matches!(spill.absorb(&outbox).await, Err(SpillError::Full(305_000))));
        let mut all = Vec::new();
        while !spill.is_empty() {
            all.extend_from_slice(&spill.read().await.unwrap());
        }
        let expected: Vec<u8> = [(0, 5), (1, 100), (2, 100), (3, 100)]
            .into_iter()
            .flat_map(|(byte, frames)| vec![byte; frames * 1000])
            .collect();
        assert_eq!(all, expected);
        assert!(spill.read().await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no name is left");
        assert!(create(Path::new("/nonexistent")).is_err());
    }
}
