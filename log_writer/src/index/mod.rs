//! The audit index beside a log file: which numbers of which sources the file holds, in which order.
//!
//! Plain lines carry no numbers, so the writer keeps them beside the file, run-length coded: about three bytes for
//! each change of the source. `log_writer audit` reads it ([`crate::audit`]).
//!
//! | bytes | content |
//! |---|---|
//! | 6 | `LWIX1` and a line feed |
//! | then blocks: | |
//! | 4 | length of the body |
//! | 4 | CRC-32 of the body |
//! | v v | offset and length of the bytes of the log that the block is about |
//! | 4 | CRC-32 of these bytes |
//! | v | lines in them |
//! | | records, see [`Record`] |
//!
//! Integers of fixed size are little-endian, `v` is a number of seven bits a byte, lowest first. A block is appended
//! after the bytes it is about were written, so after a crash the index may be too short (the rest of the log counts
//! as lines without numbers) or have a torn end (which is cut), never wrong.
// spec: log_writer 5.8

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use log_stream::SourceId;
use log_stream::sequencer::GapReason;
use rustc_hash::FxHashMap;

use self::code::{Coder, put};
pub use self::read::{Block, IndexError, Reader};
pub use self::record::{Event, Record};

mod code;
mod read;
mod record;
#[cfg(test)]
mod tests;

/// First bytes of an index.
pub const MAGIC: &[u8; 6] = b"LWIX1\n";
/// Most sources of one file whose places are remembered.
const SOURCES_MAX: usize = 1 << 20;

/// What an index says, for one that goes on.
struct Known {
    good: u64,
    covered: u64,
    coder: Coder,
    places: FxHashMap<(Bytes, SourceId), usize>,
    /// There are blocks about more than the log has.
    beyond: bool,
}

impl Known {
    fn read(input: impl Read, len: u64) -> Result<Self, IndexError> {
        let mut reader = Reader::new(io::BufReader::new(input))?;
        let (mut covered, mut places, mut beyond, mut good) = (0, FxHashMap::default(), false, reader.good());
        let mut place = 0;
        while let Some((block, records)) = reader.block()? {
            let end = block.offset.saturating_add(block.len);
            beyond = end > len;
            if beyond {
                break;
            }
            (good, covered) = (reader.good(), covered.max(end));
            for record in records {
                if let Record::Source { id, group, .. } = record {
                    places.insert((group, id), place);
                    place += 1;
                }
            }
        }
        Ok(Self { good, covered, coder: reader.coder, places, beyond })
    }
}

/// An index that grows with its log.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    file: File,
    coder: Coder,
    places: FxHashMap<(Bytes, SourceId), usize>,
    /// Group and source of the last line, to find its place quickly.
    last: Option<(Bytes, SourceId, usize)>,
    /// The record that may grow.
    open: Option<Record>,
    records: Vec<u8>,
    /// A block that could not be written whole yet.
    block: Vec<u8>,
    /// Length and inode of the file.
    position: (u64, u64),
    /// Bytes of the log that have blocks.
    covered: u64,
    dirty: bool,
}

impl Index {
    /// The name of the index of a log.
    pub fn path_of(log: &Path) -> PathBuf {
        let mut name = log.as_os_str().to_owned();
        name.push(".audit");
        name.into()
    }

    /// Opens the index of a log that has `len` bytes, or makes one. What does not fit is cut; lines of the log that the
    /// index does not know (`lines_of` counts them) are entered as lines without numbers.
    ///
    /// # Errors
    /// When it cannot be read or written, or is a file of something else.
    pub fn open(
        path: PathBuf,
        len: u64,
        no_links: bool,
        lines_of: impl FnOnce(u64) -> io::Result<(u64, u32)>,
    ) -> io::Result<Self> {
        let flags = if no_links { nix::libc::O_NOFOLLOW } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640).custom_flags(flags);
        let mut file = options.open(&path)?;
        let had = file.metadata()?.len();
        let mut index = Self::empty(path, file.try_clone()?);
        let mut good = 0;
        if had >= MAGIC.len() as u64 {
            let other = |error| io::Error::other(format!("{}: {error}", index.path.display()));
            let mut known = Known::read(&file, len).map_err(other)?;
            if known.beyond {
                // The log was cut: what follows was learnt from blocks that go with it.
                io::Seek::rewind(&mut file)?;
                known = Known::read(Read::take(&file, known.good), len).map_err(other)?;
            }
            (good, index.covered, index.coder, index.places) =
                (known.good, known.covered, known.coder, known.places);
        }
        if had != good {
            file.set_len(good)?;
        }
        if good == 0 {
            file.write_all(MAGIC)?;
        }
        index.position = (good.max(MAGIC.len() as u64), file.metadata()?.ino());
        if index.covered < len {
            let (lines, crc) = lines_of(index.covered)?;
            index.record(Record::Plain(lines));
            index.record(Record::Event(Event::Recovered));
            index.flush(len, crc, lines)?;
        }
        Ok(index)
    }

    fn empty(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file,
            coder: Coder::default(),
            places: FxHashMap::default(),
            last: None,
            open: None,
            records: Vec::new(),
            block: Vec::new(),
            position: (0, 0),
            covered: 0,
            dirty: false,
        }
    }

    /// Length and inode of the index itself.
    pub fn position(&self) -> (u64, u64) {
        self.position
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still where it was opened.
    pub fn is_at_its_path(&self) -> bool {
        crate::output::same_file(&self.file, &self.path)
    }

    /// Bytes of the log that have blocks, written or about to be.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Place of a source; one that is new here is entered.
    fn place(&mut self, group: &Bytes, id: SourceId, seq: u64) -> usize {
        if let Some((last_group, last_id, place)) = &self.last
            && *last_id == id
            && last_group == group
        {
            return *place;
        }
        let place = match self.places.get(&(group.clone(), id)) {
            Some(place) => *place,
            None => {
                self.close();
                let place = self.coder.next.len();
                let record = Record::Source { id, group: group.clone(), first: seq };
                self.coder.encode(&record, &mut self.records);
                // Only a file of many months has so many; entering one again costs some bytes.
                if self.places.len() >= SOURCES_MAX {
                    self.places.clear();
                }
                self.places.insert((group.clone(), id), place);
                place
            }
        };
        self.last = Some((group.clone(), id, place));
        place
    }

    /// A numbered message of so many lines was put into the log.
    pub fn line(&mut self, group: &Bytes, id: SourceId, seq: u64, lines: u64) {
        let source = self.place(group, id, seq);
        if lines == 1 {
            self.run(Record::Lines { source, seq, count: 1 });
        } else {
            self.record(Record::Multi { source, seq, lines });
        }
    }

    /// Lines without numbers were put into the log.
    pub fn plain(&mut self, lines: u64) {
        if let Some(Record::Plain(count)) = &mut self.open {
            *count += lines;
        } else {
            self.close();
            self.open = Some(Record::Plain(lines));
        }
    }

    /// A numbered message has no line here by the configuration.
    pub fn elsewhere(&mut self, group: &Bytes, id: SourceId, seq: u64) {
        let source = self.place(group, id, seq);
        self.run(Record::Elsewhere { source, seq, count: 1 });
    }

    /// A numbered message came again.
    pub fn duplicate(&mut self, group: &Bytes, id: SourceId, seq: u64) {
        let source = self.place(group, id, seq.saturating_add(1));
        self.run(Record::Duplicates { source, seq, count: 1 });
    }

    /// Numbers that will never come.
    pub fn gap(&mut self, group: &Bytes, id: SourceId, from: u64, to: u64, reason: GapReason) {
        let source = self.place(group, id, from);
        self.record(Record::Gap { source, seq: from, count: (to - from).saturating_add(1), reason });
    }

    /// A source ended. One without a line here is not entered.
    pub fn end(&mut self, group: &Bytes, id: SourceId, last: u64) {
        if let Some(source) = self.places.get(&(group.clone(), id)).copied() {
            self.record(Record::End { source, last });
        }
    }

    /// Something happened to the writer.
    pub fn event(&mut self, event: Event) {
        self.record(Record::Event(event));
    }

    /// A record that grows while its successors follow.
    fn run(&mut self, record: Record) {
        let grown = match (&mut self.open, &record) {
            (Some(Record::Lines { source, seq, count }), Record::Lines { source: s, seq: n, .. })
            | (Some(Record::Elsewhere { source, seq, count }), Record::Elsewhere { source: s, seq: n, .. })
            | (
                Some(Record::Duplicates { source, seq, count }),
                Record::Duplicates { source: s, seq: n, .. },
            ) if *source == *s && seq.checked_add(*count) == Some(*n) => {
                *count += 1;
                true
            }
            _ => false,
        };
        if !grown {
            self.close();
            self.open = Some(record);
        }
    }

    fn record(&mut self, record: Record) {
        self.close();
        self.coder.encode(&record, &mut self.records);
    }

    fn close(&mut self) {
        if let Some(record) = self.open.take() {
            self.coder.encode(&record, &mut self.records);
        }
    }

    /// Appends a block: all records since the last one belong to the bytes of the log up to `end`, which are written
    /// and have this checksum and so many lines.
    ///
    /// # Errors
    /// What the system said; [`Index::retry`] goes on where it stopped.
    pub fn flush(&mut self, end: u64, crc: u32, lines: u64) -> io::Result<()> {
        self.close();
        if end == self.covered && self.records.is_empty() {
            return self.retry();
        }
        let mut body = Vec::with_capacity(self.records.len() + 32);
        put(&mut body, self.covered);
        put(&mut body, end.saturating_sub(self.covered));
        body.extend_from_slice(&crc.to_le_bytes());
        put(&mut body, lines);
        body.append(&mut self.records);
        // A batch is a megabyte of lines: its records are shorter.
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.block.extend_from_slice(&len.to_le_bytes());
        self.block.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        self.block.extend_from_slice(&body);
        self.covered = end.max(self.covered);
        self.retry()
    }

    /// Writes what is left of blocks.
    ///
    /// # Errors
    /// What the system said.
    pub fn retry(&mut self) -> io::Result<()> {
        while !self.block.is_empty() {
            match self.file.write(&self.block) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.block.drain(..n);
                    self.position.0 += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.dirty = true;
        }
        Ok(())
    }

    /// Asks the system to put it on the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.file.sync_data().inspect_err(|_| self.dirty = true)?;
        }
        Ok(())
    }

    /// True when everything is written.
    pub fn is_clean(&self) -> bool {
        self.block.is_empty() && self.records.is_empty() && self.open.is_none()
    }
}
