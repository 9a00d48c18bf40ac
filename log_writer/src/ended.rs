//! Positions of sources that have ended, for a writer that writes every line exactly once: a spool that is replayed
//! days later is known then.
//!
//! Lines of text are appended as sources end, before anything is acknowledged; at the start the file is written anew
//! without what is too old. A torn last line is a source whose last lines were not acknowledged: it is left out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use log_stream::SourceId;

/// First line of the file.
const HEAD: &str = "log_writer ended 1";
/// Spools older than this are not replayed.
pub const AGE_MAX: Duration = Duration::from_secs(14 * 86_400);

/// The positions.
#[derive(Debug)]
pub struct Ended {
    path: PathBuf,
    file: File,
    positions: Vec<(Bytes, SourceId, u64)>,
    /// Lines that are not written yet.
    new: Vec<u8>,
}

impl Ended {
    /// Reads the file, or makes one.
    ///
    /// # Errors
    /// When it cannot be read or written, or is something else.
    pub fn load(path: PathBuf) -> io::Result<Self> {
        let mut known: BTreeMap<(Bytes, SourceId), (u64, u64)> = BTreeMap::new();
        let oldest = now().saturating_sub(AGE_MAX.as_secs());
        match File::open(&path) {
            Ok(file) => {
                let mut lines = io::BufReader::new(file).split(b'\n');
                if lines.next().transpose()?.is_none_or(|head| head != HEAD.as_bytes()) {
                    return Err(io::Error::other(
                        "is no file of ended sources; move it away to start without",
                    ));
                }
                for line in lines {
                    if let Some((time, next, source, group)) = parse(&line?)
                        && time >= oldest
                    {
                        known.insert((group, source), (time, next));
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut rows: Vec<_> = known.into_iter().collect();
        rows.sort_by_key(|(_, (time, _))| *time);
        let new = crate::output::with_suffix(&path, ".new");
        let mut text = format!("{HEAD}\n").into_bytes();
        for ((group, source), (time, next)) in &rows {
            write_row(&mut text, *time, *next, *source, group);
        }
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&new, &path)?;
        let file = OpenOptions::new().append(true).open(&path)?;
        let positions = rows.into_iter().map(|((group, source), (_, next))| (group, source, next)).collect();
        Ok(Self { path, file, positions, new: Vec::new() })
    }

    /// What was read, oldest first.
    pub fn positions(&self) -> &[(Bytes, SourceId, u64)] {
        &self.positions
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A source has ended; `next` is the number that would have been written next.
    pub fn add(&mut self, group: &Bytes, source: SourceId, next: u64) {
        write_row(&mut self.new, now(), next, source, group);
    }

    /// Writes what was added. With `sync`, also against loss of power.
    ///
    /// # Errors
    /// What the system said; what is not written is kept.
    pub fn save(&mut self, sync: bool) -> io::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        while !self.new.is_empty() {
            match self.file.write(&self.new) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.new.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn write_row(out: &mut Vec<u8>, time: u64, next: u64, source: SourceId, group: &[u8]) {
    // A group name has no line feed: spaces and control bytes are refused where groups are joined.
    out.extend_from_slice(format!("{time} {next} {source} ").as_bytes());
    out.extend_from_slice(group);
    out.extend_from_slice(b" .\n");
}

fn parse(line: &[u8]) -> Option<(u64, u64, SourceId, Bytes)> {
    let mut words = line.strip_suffix(b" .")?.splitn(4, |b| *b == b' ');
    let mut text = || std::str::from_utf8(words.next()?).ok();
    let (time, next) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let source = SourceId::parse(text()?)?;
    Some((time, next, source, Bytes::copy_from_slice(words.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = SourceId([1; 16]);
    const B: SourceId = SourceId([2; 16]);

    #[test]
    fn positions_come_back_the_last_one_wins_and_a_torn_line_is_left_out() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x.ended");
        let group = Bytes::from_static(b"site 4");
        let mut ended = Ended::load(path.clone()).expect("new");
        ended.add(&group, A, 7);
        ended.save(true).expect("save");
        ended.add(&group, A, 9);
        ended.add(&group, B, 3);
        ended.save(false).expect("save");
        drop(ended);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 2]).expect("torn");
        let ended = Ended::load(path.clone()).expect("load");
        assert_eq!(ended.positions(), [(group, A, 9)]);
        assert_eq!(std::fs::read_to_string(&path).expect("read").lines().count(), 2, "written anew");
    }

    #[test]
    fn what_is_too_old_is_forgotten_and_other_files_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x.ended");
        let old = now() - AGE_MAX.as_secs() - 10;
        let text = format!("{HEAD}\n{old} 7 {A} g .\n{} 7 {B} g .\nnonsense\n", old + 100);
        std::fs::write(&path, text).expect("write");
        let ended = Ended::load(path.clone()).expect("load");
        assert_eq!(ended.positions().len(), 1);
        std::fs::write(&path, "something\n").expect("write");
        Ended::load(path).expect_err("another file");
    }
}
