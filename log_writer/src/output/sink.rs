//! Open files and commands.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::target::{OpenOptionsOf, Target};

/// Mode of new files.
const FILE_MODE: u32 = 0o640;
/// Mode of new directories.
const DIR_MODE: u32 = 0o750;

#[derive(Debug)]
pub(super) enum Sink {
    File(File),
    Locked(Flock<File>),
    Command(Child),
}

impl Sink {
    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Self::File(file) => Some(file),
            Self::Locked(file) => Some(file),
            Self::Command(_) => None,
        }
    }

    pub(super) fn open(target: &Target, options: OpenOptionsOf) -> io::Result<Self> {
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

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
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
