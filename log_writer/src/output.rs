//! One place that lines go to: a file, a command's standard input, or standard output.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::repair::{Torn, repair};

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
        let sink = Sink::open(&target, options)?;
        Ok(Self { target, options, sink: Some(sink), buf: Vec::new(), written: 0, dirty: false })
    }

    /// An output that is opened when the first bytes are written.
    pub fn lazy(target: Target, options: OpenOptionsOf) -> Self {
        Self { target, options, sink: None, buf: Vec::new(), written: 0, dirty: false }
    }

    /// Cuts the end that a crash left: everything after `keep` bytes, or after the last line feed. Only for files.
    ///
    /// # Errors
    /// See [`repair`].
    pub fn repair(&mut self, keep: Option<u64>) -> io::Result<Option<Torn>> {
        let Target::File(path) = &self.target else { return Ok(None) };
        match &mut self.sink {
            Some(Sink::File(file)) if file.metadata()?.is_file() => repair(path, file, keep),
            Some(Sink::Locked(file)) if file.metadata()?.is_file() => repair(path, file, keep),
            _ => Ok(None),
        }
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Adds bytes to what will be written.
    pub fn append(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Bytes not written yet.
    pub fn pending(&self) -> usize {
        self.buf.len() - self.written
    }

    /// Writes everything. After an error the rest is kept, and the next call goes on where this one stopped.
    ///
    /// # Errors
    /// What the system said. A command that ended is started anew by the next call and gets the rest.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written < self.buf.len() {
            let sink = match &mut self.sink {
                Some(sink) => sink,
                None => self.sink.insert(Sink::open(&self.target, self.options)?),
            };
            match sink.write(&self.buf[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    self.dirty = true;
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
        self.buf.clear();
        self.written = 0;
        Ok(())
    }

    /// Asks the system to put everything written on the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let result = match &self.sink {
            Some(Sink::File(file)) => file.sync_data(),
            Some(Sink::Locked(file)) => file.sync_data(),
            _ => Ok(()),
        };
        match result {
            // Pipes, terminals and the like cannot be synced.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {}
            other => other?,
        }
        self.dirty = false;
        Ok(())
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
        self.close();
        self.sink = Some(new);
        Ok(())
    }

    /// Length and inode of the file.
    pub fn position(&self) -> Option<(u64, u64)> {
        let meta = match &self.sink {
            Some(Sink::File(file)) => file.metadata(),
            Some(Sink::Locked(file)) => file.metadata(),
            _ => return None,
        };
        meta.ok().filter(std::fs::Metadata::is_file).map(|m| (m.len(), m.ino()))
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

impl Sink {
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

fn same_file(file: &File, path: &Path) -> bool {
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
