//! One place that lines go to: a file, a command's standard input, or standard output.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::index::{Event, Index, Record};
use crate::repair::{Torn, repair};
use crate::route::Written;

/// Mode of new files.
const FILE_MODE: u32 = 0o640;
/// Mode of new directories.
const DIR_MODE: u32 = 0o750;

/// Where an output goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A file, appended to.
    File(PathBuf),
    /// A command of `/bin/sh -c`.
    Command(String),
    /// Standard output.
    Stdout,
}

impl Target {
    /// Reads a name: `-` is standard output, `|command` a command, everything else a file.
    pub fn parse(name: &str) -> Self {
        match name.strip_prefix('|') {
            Some(command) => Self::Command(command.trim().to_owned()),
            None if name == "-" => Self::Stdout,
            None => Self::File(name.into()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command(command) => write!(f, "|{command}"),
            Self::Stdout => f.write_str("standard output"),
        }
    }
}

/// How files are opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptionsOf {
    /// Take an exclusive lock, so that two writers do not mix their lines.
    pub lock: bool,
    /// Refuse a symbolic link (for names that come from log lines).
    pub no_links: bool,
}

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

#[derive(Debug)]
enum Sink {
    File(File),
    Locked(Flock<File>),
    Command(Child),
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

impl Sink {
    fn file(&self) -> Option<&File> {
        match self {
            Self::File(file) => Some(file),
            Self::Locked(file) => Some(file),
            Self::Command(_) => None,
        }
    }

    fn open(target: &Target, options: OpenOptionsOf) -> io::Result<Self> {
        match target {
            Target::File(path) => open_file(path, options),
            Target::Command(command) => {
                let child = Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::piped()).spawn()?;
                Ok(Self::Command(child))
            }
            // Not through the library's own buffer: what it took and could not pass on would be lost or doubled.
            Target::Stdout => Ok(Self::File(File::from(io::stdout().as_fd().try_clone_to_owned()?))),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Locked(file) => file.write(bytes),
            Self::Command(child) => match &mut child.stdin {
                Some(stdin) => stdin.write(bytes),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }
}

fn open_file(path: &Path, options: OpenOptionsOf) -> io::Result<Sink> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    }
    let flags = if options.no_links { nix::libc::O_NOFOLLOW } else { 0 };
    let mut open = OpenOptions::new();
    open.append(true).create(true).mode(FILE_MODE).custom_flags(flags);
    // Reading is needed only for the repair at start; a pipe or device may refuse it.
    let file = open.clone().read(true).open(path).or_else(|_| open.open(path))?;
    if !options.lock || !file.metadata()?.is_file() {
        return Ok(Sink::File(file));
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(Sink::Locked(locked)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            Err(io::Error::other("another process writes to it (it holds the lock)"))
        }
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Whether a name still means an open file.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: OpenOptionsOf = OpenOptionsOf { lock: true, no_links: false };

    #[test]
    fn names_are_files_commands_or_standard_output() {
        assert_eq!(Target::parse("a.log"), Target::File("a.log".into()));
        assert_eq!(Target::parse("| cat >x"), Target::Command("cat >x".into()));
        assert_eq!(Target::parse("-"), Target::Stdout);
    }

    #[test]
    fn lines_are_appended_and_directories_made() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x/y/a.log");
        for _ in 0..2 {
            let mut output = Output::open(Target::File(path.clone()), PLAIN).expect("open");
            output.append(b"a\n");
            assert_eq!(output.pending(), 2);
            output.flush().expect("flush");
            output.sync().expect("sync");
            assert_eq!(output.pending(), 0);
        }
        assert_eq!(std::fs::read(&path).expect("read"), b"a\na\n");
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let target = Target::File(dir.path().join("a.log"));
        let _first = Output::open(target.clone(), PLAIN).expect("open");
        let error = Output::open(target.clone(), PLAIN).expect_err("locked");
        assert!(error.to_string().contains("another process"), "{error}");
        Output::open(target, OpenOptionsOf { lock: false, no_links: false }).expect("without locks");
    }

    #[test]
    fn after_a_rename_lines_go_to_a_new_file() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        let mut output = Output::open(Target::File(path.clone()), PLAIN).expect("open");
        output.append(b"1\n");
        output.flush().expect("flush");
        output.reopen().expect("nothing was renamed");
        std::fs::rename(&path, dir.path().join("a.log.1")).expect("rename");
        output.append(b"2\n");
        output.flush().expect("flush");
        output.reopen().expect("reopen");
        output.append(b"3\n");
        output.flush().expect("flush");
        assert_eq!(std::fs::read(dir.path().join("a.log.1")).expect("read"), b"1\n2\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"3\n");
    }

    fn audited(path: &Path) -> Output {
        let mut output = Output::open(Target::File(path.into()), PLAIN).expect("open");
        output.open_index().expect("index");
        output
    }

    fn put(output: &mut Output, seq: u64) {
        output.append(format!("{seq}\n").as_bytes());
        let group = bytes::Bytes::from_static(b"g");
        output.index().expect("index").line(&group, log_stream::SourceId([1; 16]), seq, 1);
        output.flush().expect("flush");
    }

    #[test]
    fn the_index_follows_a_renamed_file() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        let mut output = audited(&path);
        put(&mut output, 1);
        std::fs::rename(&path, dir.path().join("a.log-1")).expect("rename");
        output.reopen().expect("reopen");
        put(&mut output, 2);
        assert!(dir.path().join("a.log-1.audit").exists());
        // By logrotate, both at once.
        std::fs::rename(&path, dir.path().join("a.log-2")).expect("rename");
        std::fs::rename(dir.path().join("a.log.audit"), dir.path().join("a.log.audit-2")).expect("rename");
        output.reopen().expect("reopen");
        put(&mut output, 3);
        // Removed.
        std::fs::remove_file(&path).expect("remove");
        output.reopen().expect("reopen");
        assert!(dir.path().join("a.log.removed.audit").exists());
        put(&mut output, 4);
        drop(output);
        let paths = ["a.log-1", "a.log-2", "a.log"].map(|name| dir.path().join(name));
        let audit = crate::audit::Audit::of(&paths).expect("audit");
        let source = audit.sources.values().next().expect("one");
        assert_eq!((source.lines, source.holes()), (3, vec![(3, 3)]), "{audit:?}");
    }

    #[test]
    fn a_file_is_ended_and_another_begun() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        let mut output = audited(&path("a.log"));
        put(&mut output, 1);
        assert_eq!(output.rotate(path("a.log"), Some(&path("a.log-x"))).expect("rotate"), path("a.log-x"));
        put(&mut output, 2);
        assert_eq!(output.rotate(path("b.log"), None).expect("rotate"), path("a.log"));
        put(&mut output, 3);
        // The next file cannot be opened: the old one is used on, under its name.
        output.rotate("/proc/nothing/x".into(), Some(&path("aside"))).expect_err("no such place");
        put(&mut output, 4);
        drop(output);
        let read = |name: &str| std::fs::read_to_string(path(name)).expect(name);
        assert_eq!(
            (read("a.log-x"), read("a.log"), read("b.log")),
            ("1\n".into(), "2\n".into(), "3\n4\n".into())
        );
        let audit = crate::audit::Audit::of(&["a.log-x", "a.log", "b.log"].map(path)).expect("audit");
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!(audit.files.iter().map(|f| f.sealed).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn links_are_refused_where_names_come_from_outside() {
        let dir = tempfile::tempdir().expect("dir");
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).expect("link");
        let target = Target::File(dir.path().join("link"));
        Output::open(target.clone(), OpenOptionsOf { lock: true, no_links: true }).expect_err("a link");
        Output::open(target, PLAIN).expect("the administrator's own link");
    }

    #[test]
    fn a_full_disk_keeps_the_rest() {
        let mut output = Output::open(Target::File("/dev/full".into()), PLAIN).expect("open");
        output.append(b"a\n");
        let error = output.flush().expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(output.pending(), 2);
    }

    #[test]
    fn a_command_that_ended_is_started_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let out = dir.path().join("out");
        // Each run takes one line.
        let command = format!("head -n 1 >>{}", out.display());
        let mut output = Output::open(Target::Command(command), PLAIN).expect("open");
        let begun = std::time::Instant::now();
        let mut lines = 0;
        while lines < 2 {
            assert!(begun.elapsed().as_secs() < 20, "the command was not started anew");
            output.append(b"line\n");
            // The command may end between two writes: the error leaves the line for the next run.
            let _ = output.flush();
            lines = std::fs::read(&out).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
        }
    }
}
