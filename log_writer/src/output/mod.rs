//! One place that lines go to: a file, a command's standard input, or standard output.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::sink::Sink;
pub(crate) use self::sink::same_file;
pub use self::target::{OpenOptionsOf, Target};
use crate::index::{Event, Index, Record};
use crate::repair::{Torn, repair};
use crate::route::Written;

mod sink;
mod target;
#[cfg(test)]
mod tests;

/// An open output with the bytes that are not written yet.
#[derive(Debug)]
pub struct Output {
    target: Target,
    options: OpenOptionsOf,
    sink: Option<Sink>,
    buf: Vec<u8>,
    /// Bytes of `buf` that are written.
    written: usize,
    dirty: bool,
    /// Length and inode of a file.
    position: Option<(u64, u64)>,
    /// The audit index of a file.
    index: Option<Index>,
}

impl Output {
    /// Opens an output. A file is created if need be, with its directory.
    ///
    /// # Errors
    /// When it cannot be opened, or another process holds the lock.
    pub fn open(target: Target, options: OpenOptionsOf) -> io::Result<Self> {
        let mut output = Self::lazy(target, options);
        output.connect(Sink::open(&output.target, options)?)?;
        Ok(output)
    }

    /// An output that is opened when the first bytes are written.
    pub fn lazy(target: Target, options: OpenOptionsOf) -> Self {
        Self {
            target,
            options,
            sink: None,
            buf: Vec::new(),
            written: 0,
            dirty: false,
            position: None,
            index: None,
        }
    }

    fn connect(&mut self, sink: Sink) -> io::Result<()> {
        self.position = match sink.file() {
            Some(file) => Some(file.metadata()?).filter(|m| m.is_file()).map(|m| (m.len(), m.ino())),
            None => None,
        };
        self.sink = Some(sink);
        Ok(())
    }

    /// Opens the audit index beside a file, after [`Output::repair`]. Other outputs have none.
    ///
    /// # Errors
    /// When it cannot be opened, or is something else.
    pub fn open_index(&mut self) -> io::Result<()> {
        let (Target::File(path), Some((len, _))) = (&self.target, self.position) else { return Ok(()) };
        let rest = |from| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(from))?;
            lines_and_checksum(&mut file.take(len - from))
        };
        self.index = Some(Index::open(Index::path_of(path), len, self.options.no_links, rest)?);
        Ok(())
    }

    /// Enters numbers that the index says are in the file.
    pub(crate) fn written_behind(&self, found: &mut Written) {
        let Some(index) = &self.index else { return };
        let Ok(file) = File::open(index.path()) else { return };
        let Ok(mut reader) = crate::index::Reader::new(io::BufReader::new(file)) else { return };
        let mut places = Vec::new();
        while let Ok(Some((_, records))) = reader.block() {
            for record in records {
                let (place, from, count) = match record {
                    Record::Source { id, group, .. } => {
                        places.push((group, id));
                        continue;
                    }
                    Record::Lines { source, seq, count } | Record::Elsewhere { source, seq, count } => {
                        (source, seq, count)
                    }
                    Record::Multi { source, seq, .. } => (source, seq, 1),
                    _ => continue,
                };
                if let Some((next, numbers)) = places.get(place).and_then(|key| found.get_mut(key)) {
                    numbers.extend((from.max(*next)..from.saturating_add(count)).take(WRITTEN_MAX));
                }
            }
        }
    }

    /// The audit index, to enter what is appended.
    pub fn index(&mut self) -> Option<&mut Index> {
        self.index.as_mut()
    }

    /// Cuts the end that a crash left: everything after `keep` bytes, or after the last line feed. Only for files.
    ///
    /// # Errors
    /// See [`repair`].
    pub fn repair(&mut self, keep: Option<u64>) -> io::Result<Option<Torn>> {
        let Target::File(path) = &self.target else { return Ok(None) };
        let torn = match &mut self.sink {
            Some(Sink::File(file)) if self.position.is_some() => repair(path, file, keep)?,
            Some(Sink::Locked(file)) if self.position.is_some() => repair(path, file, keep)?,
            _ => None,
        };
        if let (Some(torn), Some((len, _))) = (&torn, &mut self.position) {
            *len = torn.kept;
        }
        Ok(torn)
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Adds bytes to what will be written.
    pub fn append(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Gives the buffer, to append whole lines to it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Bytes not written yet.
    pub fn pending(&self) -> usize {
        self.buf.len() - self.written
    }

    /// Length of the file with everything that is pending.
    pub fn len(&self) -> u64 {
        self.position.map_or(0, |(len, _)| len) + self.pending() as u64
    }

    /// True when nothing was ever written to the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes everything. After an error the rest is kept, and the next call goes on where this one stopped.
    ///
    /// # Errors
    /// What the system said. A command that ended is started anew by the next call and gets the rest.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written < self.buf.len() {
            if self.sink.is_none() {
                self.connect(Sink::open(&self.target, self.options)?)?;
            }
            let Some(sink) = &mut self.sink else { return Err(io::ErrorKind::NotConnected.into()) };
            match sink.write(&self.buf[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    self.dirty = true;
                    if let Some((len, _)) = &mut self.position {
                        *len += n as u64;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::BrokenPipe {
                        self.close();
                    }
                    return Err(error);
                }
            }
        }
        let result = match (&mut self.index, self.position) {
            (Some(index), Some((len, _))) => {
                let lines = memchr::memchr_iter(b'\n', &self.buf).count() as u64;
                let crc = if self.buf.is_empty() { 0 } else { crc32fast::hash(&self.buf) };
                index.flush(len, crc, lines)
            }
            _ => Ok(()),
        };
        // What the index could not take it keeps itself.
        self.buf.clear();
        self.buf.shrink_to(BUFFER_KEPT);
        self.written = 0;
        result
    }

    /// Asks the system to put everything written on the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            let result = self.sink.as_ref().and_then(Sink::file).map_or(Ok(()), File::sync_data);
            match result {
                // Pipes, terminals and the like cannot be synced.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {}
                other => other?,
            }
            self.dirty = false;
        }
        self.index.as_mut().map_or(Ok(()), Index::sync)
    }

    /// Whether something was written that may not be on the disk.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The file system was put on the disk as a whole.
    pub fn synced(&mut self) {
        self.dirty = false;
    }

    /// Opens the target anew: after the file was renamed, lines go to a new one. On an error the old one stays.
    ///
    /// # Errors
    /// When it cannot be opened; what is buffered is written to the old one then.
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.target == Target::Stdout {
            return Ok(());
        }
        // The same file cannot be locked twice: let go first, but only of a file that still is the named one.
        if let (Some(Sink::Locked(file)), Target::File(path)) = (&self.sink, &self.target)
            && same_file(file, path)
        {
            return Ok(());
        }
        let new = Sink::open(&self.target, self.options)?;
        let name = self.name_of_old();
        let had_index = self.index.is_some();
        self.seal_index();
        if let (Some(index), Some(name)) = (self.index.take(), name) {
            set_aside(&index, &Index::path_of(&name));
        }
        self.close();
        self.connect(new)?;
        if had_index { self.open_index() } else { Ok(()) }
    }

    /// Where the open file is now, if it was renamed: the system knows.
    fn name_of_old(&self) -> Option<PathBuf> {
        let (Some(file), Target::File(path)) = (self.sink.as_ref().and_then(Sink::file), &self.target) else {
            return None;
        };
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
        // A file that was removed has no name; its index is kept under one.
        name.filter(|name| same_file(file, name)).or_else(|| Some(with_suffix(path, ".removed")))
    }

    fn seal_index(&mut self) {
        if let (Some(index), Some((len, _))) = (&mut self.index, self.position) {
            index.event(Event::Sealed);
            // If it fails, the index says less than it could; the log is complete.
            let _ = index.flush(len, 0, 0).and_then(|()| index.sync());
        }
    }

    /// Ends the file and goes on with another one. `aside` renames the file that ends.
    /// Everything must be written. On an error the old file is used on.
    ///
    /// # Errors
    /// What the system said.
    pub fn rotate(&mut self, next: PathBuf, aside: Option<&Path>) -> io::Result<PathBuf> {
        let Target::File(old) = self.target.clone() else {
            return Err(io::Error::other("only files are rotated"));
        };
        self.sync()?;
        let sealed = aside.map_or_else(|| old.clone(), Path::to_path_buf);
        if let Some(aside) = aside {
            std::fs::rename(&old, aside)?;
        }
        let target = Target::File(next);
        let new = Sink::open(&target, self.options).inspect_err(|_| {
            if aside.is_some() {
                // The name is free: what was there is this very file.
                let _ = std::fs::rename(&sealed, &old);
            }
        })?;
        self.seal_index();
        let had_index = self.index.is_some();
        if let (Some(index), Some(aside)) = (self.index.take(), aside) {
            set_aside(&index, &Index::path_of(aside));
        }
        self.close();
        self.target = target;
        self.connect(new)?;
        if had_index {
            self.open_index()?;
        }
        Ok(sealed)
    }

    /// Length and inode of the file, as far as written.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position
    }

    fn close(&mut self) {
        if let Some(Sink::Command(mut child)) = self.sink.take() {
            drop(child.stdin.take());
            // The command ends when its input does; a hanging one must not hang the log.
            let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.close();
    }
}

/// Most numbers of one run that are looked at: a source has fewer lines under way.
const WRITTEN_MAX: usize = 1 << 20;
/// Memory that an output keeps between two batches.
const BUFFER_KEPT: usize = 4 << 20;

/// Lines and CRC-32 of what is left of a file.
fn lines_and_checksum(input: &mut impl Read) -> io::Result<(u64, u32)> {
    let (mut lines, mut crc) = (0, crc32fast::Hasher::new());
    let mut buf = [0; 64 << 10];
    loop {
        match input.read(&mut buf) {
            Ok(0) => return Ok((lines, crc.finalize())),
            Ok(n) => {
                lines += memchr::memchr_iter(b'\n', &buf[..n]).count() as u64;
                crc.update(&buf[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Renames an index after its log. One that was renamed already (by logrotate) stays where it is; so does one whose
/// new name is taken, with a number.
fn set_aside(index: &Index, name: &Path) {
    if !index.is_at_its_path() {
        return;
    }
    let names =
        std::iter::once(name.to_path_buf()).chain((1..1000).map(|n| with_suffix(name, &format!(".{n}"))));
    for name in names {
        if !name.exists() {
            // The log is complete without it.
            if let Err(error) = std::fs::rename(index.path(), &name) {
                tracing::warn!(index = %index.path().display(), %error, "The audit index cannot be renamed.");
            }
            return;
        }
    }
}

/// A path with something behind its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
