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

/// First bytes of an index.
pub const MAGIC: &[u8; 6] = b"LWIX1\n";
/// Longest body of a block that is accepted.
const BODY_MAX: usize = 64 << 20;
/// Longest text in a record.
const TEXT_MAX: usize = 4096;
/// Most sources of one file whose places are remembered.
const SOURCES_MAX: usize = 1 << 20;

/// One record. Numbers of sources stand relative to the next expected one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A source; later records mean it by its place among the sources of the file, from 0.
    Source {
        /// Who.
        id: SourceId,
        /// Group of the lines.
        group: Bytes,
        /// Number of its first line in this file, as far as the writer is concerned.
        first: u64,
    },
    /// Lines with consecutive numbers.
    Lines {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// One numbered message of several lines, or of none.
    Multi {
        /// Place of the source.
        source: usize,
        /// The number.
        seq: u64,
        /// Lines.
        lines: u64,
    },
    /// Lines without numbers.
    Plain(u64),
    /// Numbers that arrived, but whose lines belong elsewhere by the configuration (match expressions).
    Elsewhere {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// Numbers that will never come.
    Gap {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
        /// Why.
        reason: GapReason,
    },
    /// Lines that came again and were left out.
    Duplicates {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// A source ended.
    End {
        /// Place of the source.
        source: usize,
        /// Its last number.
        last: u64,
    },
    /// Something that happened to the writer.
    Event(Event),
}

/// What can happen to a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It began.
    Start,
    /// It ended in order.
    Stop,
    /// Its session with the daemon was lost: lines without numbers may be missing.
    SessionLost,
    /// It found the file longer than the index: lines before this have no numbers.
    Recovered,
    /// The file is complete: a new one follows.
    Sealed,
}

impl Event {
    const ALL: [Self; 5] = [Self::Start, Self::Stop, Self::SessionLost, Self::Recovered, Self::Sealed];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::SessionLost => "session lost",
            Self::Recovered => "recovered",
            Self::Sealed => "sealed",
        }
    }
}

/// Head of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// First byte of the log that it is about.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Their CRC-32.
    pub crc: u32,
    /// Lines in them.
    pub lines: u64,
}

/// Why an index cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("no audit index of a log writer")]
    Magic,
    /// A block has a good checksum and a bad content.
    #[error("the block at byte {0} is not understood")]
    Content(u64),
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn take_bytes<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

/// Signed distances as small numbers.
fn zigzag(from: u64, to: u64) -> u64 {
    let delta = to.wrapping_sub(from).cast_signed();
    ((delta << 1) ^ (delta >> 63)).cast_unsigned()
}

fn unzigzag(from: u64, code: u64) -> u64 {
    let delta = (code >> 1).cast_signed() ^ -((code & 1).cast_signed());
    from.wrapping_add(delta.cast_unsigned())
}

/// Codes and decodes records: knows what number each source is expected to have next.
#[derive(Clone, Debug, Default)]
struct Coder {
    next: Vec<u64>,
}

impl Coder {
    fn encode(&mut self, record: &Record, out: &mut Vec<u8>) {
        let tag = |out: &mut Vec<u8>, kind: u64, n: u64| put(out, n << 4 | kind);
        let (kind, source, seq, count) = match record {
            Record::Source { id, group, first } => {
                tag(out, 0, group.len() as u64);
                out.extend_from_slice(&id.0);
                out.extend_from_slice(group);
                put(out, *first);
                return self.next.push(*first);
            }
            Record::Plain(n) => return tag(out, 3, *n),
            Record::Event(event) => {
                let place = Event::ALL.iter().position(|e| e == event).unwrap_or(0);
                return tag(out, 7, place as u64);
            }
            Record::Lines { source, seq, count } => (1, *source, *seq, *count),
            Record::Multi { source, seq, lines } => (2, *source, *seq, *lines),
            Record::Elsewhere { source, seq, count } => (4, *source, *seq, *count),
            Record::Gap { source, seq, count, reason } => {
                let reason = match reason {
                    GapReason::Publisher => 8,
                    GapReason::Elsewhere => 9,
                    GapReason::Lost => 10,
                };
                (reason, *source, *seq, *count)
            }
            Record::Duplicates { source, seq, count } => (6, *source, *seq, *count),
            Record::End { source, last } => (5, *source, *last, 0),
        };
        tag(out, kind, source as u64);
        put(out, zigzag(self.next[source], seq));
        put(out, count);
        self.advance(record);
    }

    fn advance(&mut self, record: &Record) {
        match record {
            Record::Lines { source, seq, count }
            | Record::Elsewhere { source, seq, count }
            | Record::Gap { source, seq, count, .. } => self.next[*source] = seq.saturating_add(*count),
            Record::Multi { source, seq, .. } => self.next[*source] = seq.saturating_add(1),
            _ => {}
        }
    }

    fn decode(&mut self, bytes: &mut &[u8]) -> Option<Record> {
        let tag = take(bytes)?;
        let (kind, n) = (tag & 15, tag >> 4);
        match kind {
            0 => {
                let id = SourceId(take_bytes(bytes, 16)?.try_into().ok()?);
                let len = usize::try_from(n).ok().filter(|n| *n <= TEXT_MAX)?;
                let group = Bytes::copy_from_slice(take_bytes(bytes, len)?);
                let first = take(bytes)?;
                self.next.push(first);
                return Some(Record::Source { id, group, first });
            }
            3 => return Some(Record::Plain(n)),
            7 => return Some(Record::Event(*Event::ALL.get(usize::try_from(n).ok()?)?)),
            _ => {}
        }
        let source = usize::try_from(n).ok().filter(|n| *n < self.next.len())?;
        let seq = unzigzag(self.next[source], take(bytes)?);
        let count = take(bytes)?;
        let gap = |reason| Record::Gap { source, seq, count, reason };
        let record = match kind {
            1 => Record::Lines { source, seq, count },
            2 => Record::Multi { source, seq, lines: count },
            4 => Record::Elsewhere { source, seq, count },
            5 => Record::End { source, last: seq },
            6 => Record::Duplicates { source, seq, count },
            8 => gap(GapReason::Publisher),
            9 => gap(GapReason::Elsewhere),
            10 => gap(GapReason::Lost),
            _ => return None,
        };
        self.advance(&record);
        Some(record)
    }
}

/// Reads an index block by block.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    coder: Coder,
    /// Bytes read so far, all of whole blocks.
    good: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is no index.
    pub fn new(mut input: R) -> Result<Self, IndexError> {
        let mut magic = [0; 6];
        match input.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {
                Ok(Self { input, coder: Coder::default(), good: MAGIC.len() as u64 })
            }
            Ok(()) => Err(IndexError::Magic),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(IndexError::Magic),
            Err(error) => Err(error.into()),
        }
    }

    /// The next block; `None` at the end, also at a torn one (a crash leaves that).
    ///
    /// # Errors
    /// When the file cannot be read, or a block with a good checksum is not understood.
    pub fn block(&mut self) -> Result<Option<(Block, Vec<Record>)>, IndexError> {
        let mut head = [0; 8];
        if !filled(&mut self.input, &mut head)? {
            return Ok(None);
        }
        let [len, crc] =
            [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if len as usize > BODY_MAX {
            return Ok(None);
        }
        let mut body = vec![0; len as usize];
        if !filled(&mut self.input, &mut body)? || crc32fast::hash(&body) != crc {
            return Ok(None);
        }
        let content = self.content(&body).ok_or(IndexError::Content(self.good))?;
        self.good += 8 + u64::from(len);
        Ok(Some(content))
    }

    fn content(&mut self, mut body: &[u8]) -> Option<(Block, Vec<Record>)> {
        let bytes = &mut body;
        let (offset, len) = (take(bytes)?, take(bytes)?);
        let crc = u32::from_le_bytes(take_bytes(bytes, 4)?.try_into().ok()?);
        let block = Block { offset, len, crc, lines: take(bytes)? };
        let mut records = Vec::new();
        while !bytes.is_empty() {
            records.push(self.coder.decode(bytes)?);
        }
        Some((block, records))
    }

    /// Length of what is good so far.
    pub fn good(&self) -> u64 {
        self.good
    }
}

/// Reads all of `buf`, or tells that the end came before.
fn filled(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: SourceId = SourceId([1; 16]);
    const B: SourceId = SourceId([2; 16]);
    const GROUP: Bytes = Bytes::from_static(b"site4");

    fn none(_: u64) -> io::Result<(u64, u32)> {
        panic!("everything is covered")
    }

    fn records(path: &Path) -> Vec<Record> {
        let mut reader = Reader::new(File::open(path).expect("open")).expect("index");
        std::iter::from_fn(|| reader.block().expect("good")).flat_map(|(_, records)| records).collect()
    }

    #[test]
    fn runs_of_lines_are_one_record_and_sources_are_named_once() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.audit");
        let mut index = Index::open(path.clone(), 0, false, none).expect("open");
        for seq in 5..8 {
            index.line(&GROUP, A, seq, 1);
        }
        index.line(&GROUP, B, 1, 2);
        index.plain(1);
        index.plain(2);
        index.line(&GROUP, A, 8, 1);
        index.duplicate(&GROUP, A, 6);
        index.gap(&GROUP, A, 9, 10, GapReason::Lost);
        index.flush(100, 7, 8).expect("flush");
        index.line(&GROUP, A, 11, 1);
        index.end(&GROUP, A, 11);
        index.event(Event::Stop);
        index.flush(110, 8, 1).expect("flush");
        index.sync().expect("sync");
        let wanted = [
            Record::Source { id: A, group: GROUP, first: 5 },
            Record::Lines { source: 0, seq: 5, count: 3 },
            Record::Source { id: B, group: GROUP, first: 1 },
            Record::Multi { source: 1, seq: 1, lines: 2 },
            Record::Plain(3),
            Record::Lines { source: 0, seq: 8, count: 1 },
            Record::Duplicates { source: 0, seq: 6, count: 1 },
            Record::Gap { source: 0, seq: 9, count: 2, reason: GapReason::Lost },
            Record::Lines { source: 0, seq: 11, count: 1 },
            Record::End { source: 0, last: 11 },
            Record::Event(Event::Stop),
        ];
        assert_eq!(records(&path), wanted);
    }

    #[test]
    fn interleaved_sources_cost_three_bytes_a_line() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.audit");
        let mut index = Index::open(path.clone(), 0, false, none).expect("open");
        for seq in 1..=10_000 {
            index.line(&GROUP, A, seq, 1);
            index.line(&GROUP, B, seq, 1);
        }
        index.flush(1, 0, 20_000).expect("flush");
        let len = std::fs::metadata(&path).expect("file").len();
        assert!(len < 3 * 20_000 + 200, "{len} bytes");
    }

    #[test]
    fn an_index_goes_on_where_it_was_and_a_torn_end_is_cut() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.audit");
        {
            let mut index = Index::open(path.clone(), 0, false, none).expect("open");
            index.line(&GROUP, A, 1, 1);
            index.flush(10, 0, 1).expect("flush");
            index.line(&GROUP, A, 2, 1);
            index.flush(20, 0, 1).expect("flush");
        }
        let whole = std::fs::read(&path).expect("read");
        for torn in 0..whole.len() {
            std::fs::write(&path, &whole[..torn]).expect("write");
            let mut covered = None;
            let mut index = Index::open(path.clone(), 20, false, |from| {
                covered = Some(from);
                Ok((9, 0))
            })
            .expect("open");
            index.line(&GROUP, A, 3, 1);
            index.flush(30, 0, 1).expect("flush");
            let seen = records(&path);
            assert_eq!(seen.last(), Some(&Record::Lines { source: 0, seq: 3, count: 1 }), "{torn}: {seen:?}");
            assert_eq!(covered.is_some(), torn < whole.len(), "{torn}");
            assert_eq!(
                seen.contains(&Record::Event(Event::Recovered)),
                covered.is_some(),
                "{torn}: {seen:?}"
            );
        }
        // A log that was cut: what the index says about the rest goes too.
        std::fs::write(&path, &whole).expect("write");
        Index::open(path.clone(), 10, false, none).expect("open");
        assert_eq!(records(&path).len(), 2);
        std::fs::write(&path, b"something else").expect("write");
        let error = Index::open(path, 10, false, none).expect_err("another file");
        assert!(error.to_string().contains("no audit index"), "{error}");
    }

    proptest! {
        #[test]
        fn numbers_come_back(n: u64, from: u64, to: u64) {
            let mut out = Vec::new();
            put(&mut out, n);
            prop_assert_eq!(take(&mut &out[..]), Some(n));
            prop_assert_eq!(unzigzag(from, zigzag(from, to)), to);
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let body = [&[0u8, 0, 0, 0, 0, 0, 0][..], &bytes].concat();
            let mut file = MAGIC.to_vec();
            file.extend(u32::try_from(body.len()).expect("small").to_le_bytes());
            file.extend(crc32fast::hash(&body).to_le_bytes());
            file.extend(body);
            let mut reader = Reader::new(&file[..]).expect("head");
            let _ = reader.block();
        }
    }
}
