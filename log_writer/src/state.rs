//! The position that is kept over restarts: how long the files are and which line of each source comes next.
// spec: log_writer L-10
//!
//! It is written before the lines are acknowledged. So after a crash the files are cut to the recorded lengths, and
//! the sources, which keep what was not acknowledged, send exactly what was cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use log_stream::SourceId;

/// First line of the file.
const HEAD: &str = "log_writer state 1";
/// A larger file is not ours.
const BYTES_MAX: u64 = 64 << 20;

/// The content of a state file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Who the writer is, to its sources.
    pub writer: Option<SourceId>,
    /// Path -> length and inode.
    pub files: BTreeMap<PathBuf, (u64, u64)>,
    /// Group, source, number of the next line.
    pub positions: Vec<(Bytes, SourceId, u64)>,
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is not what this program writes.
    #[error("line {0} is not understood")]
    Line(usize),
    /// Too large.
    #[error("{0} bytes are too many for a state file")]
    Large(u64),
}

impl State {
    /// Reads a state file; `None` when there is none.
    ///
    /// # Errors
    /// When there is one that cannot be used.
    pub fn load(path: &Path) -> Result<Option<Self>, StateError> {
        let bytes = match std::fs::metadata(path) {
            Ok(meta) if meta.len() > BYTES_MAX => return Err(StateError::Large(meta.len())),
            Ok(_) => std::fs::read(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Self::parse(&bytes).map(Some)
    }

    fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::default();
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line != HEAD) {
            return Err(StateError::Line(1));
        }
        for (i, line) in lines {
            state.line(line).ok_or(StateError::Line(i + 1))?;
        }
        Ok(state)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let mut words = line.splitn(4, ' ');
        match (words.next()?, words.next()?, words.next()?, words.next()?) {
            ("file", len, inode, path) => {
                self.files.insert(unescape(path)?.into(), (len.parse().ok()?, inode.parse().ok()?));
            }
            ("writer", id, _, _) => self.writer = Some(SourceId::parse(id)?),
            ("source", id, next, group) => {
                let group = Bytes::copy_from_slice(group.as_bytes());
                self.positions.push((group, SourceId::parse(id)?, next.parse().ok()?));
            }
            _ => return None,
        }
        Some(())
    }

    /// Writes the file: whole or not at all. With `sync`, also against loss of power.
    ///
    /// # Errors
    /// What the system said.
    pub fn save(&self, path: &Path, sync: bool) -> io::Result<()> {
        let mut text = format!("{HEAD}\n").into_bytes();
        if let Some(writer) = self.writer {
            writeln!(text, "writer {writer} - -")?;
        }
        for (file, (len, inode)) in &self.files {
            let file = file.to_string_lossy().replace('\\', "\\\\").replace('\n', "\\n");
            writeln!(text, "file {len} {inode} {file}")?;
        }
        for (group, source, next) in &self.positions {
            writeln!(text, "source {source} {next} {}", String::from_utf8_lossy(group))?;
        }
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        if sync {
            file.sync_data()?;
        }
        std::fs::rename(&new, path)?;
        if sync && let Some(dir) = path.parent() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// Undoes the escapes of a path: `\\\\` and `\\n`.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.state");
        assert!(State::load(&path).expect("no file").is_none());
        let state = State {
            writer: Some(SourceId([0xcd; 16])),
            files: [(PathBuf::from("/var/log/a b.log"), (7, 9)), ("x\\y\nz\\n".into(), (0, 1))].into(),
            positions: vec![(Bytes::from_static(b"site4"), SourceId([0xab; 16]), 17)],
        };
        for sync in [false, true] {
            state.save(&path, sync).expect("save");
            assert_eq!(State::load(&path).expect("load"), Some(state.clone()));
        }
    }

    #[test]
    fn other_files_are_refused() {
        for (text, line) in [
            ("", 1),
            ("something\n", 1),
            ("log_writer state 1\nfile x 2 a\n", 2),
            ("log_writer state 1\nfile 1 2 a\nsource 00 1 g\n", 3),
            ("log_writer state 1\nsource\n", 2),
        ] {
            assert!(
                matches!(State::parse(text.as_bytes()), Err(StateError::Line(n)) if n == line),
                "{text:?}"
            );
        }
    }
}
