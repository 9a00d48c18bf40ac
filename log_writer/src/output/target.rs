//! Names of outputs, and how they are opened.

use std::path::PathBuf;

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
