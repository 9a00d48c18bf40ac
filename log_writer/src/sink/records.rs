//! Lines of a log file with their numbers, read side by side from the file and its index.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use log_stream::SourceId;

use crate::audit::open;
use crate::index::{self, Reader};

/// Where a line comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Group.
    pub group: Bytes,
    /// Source.
    pub source: SourceId,
    /// Number of the message.
    pub seq: u64,
    /// Place among the lines of the message.
    pub part: u64,
}

impl Origin {
    /// For the forms of lines.
    pub fn of_line(&self) -> crate::format::Origin<'_> {
        crate::format::Origin { group: &self.group, source: self.source, seq: self.seq, part: self.part }
    }
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// With its line feed.
    pub line: Vec<u8>,
    /// `None`: it has no number, or the index does not tell.
    pub origin: Option<Origin>,
}

/// Reads the lines of a file.
pub struct Records {
    log: BufReader<Box<dyn Read>>,
    origins: Option<Origins>,
    /// The begin of a line whose end is not there yet.
    partial: Vec<u8>,
    bytes: u64,
    lines: u64,
    limit: u64,
}

impl Records {
    /// Opens a log and, if there is one, its index. Compressed files are known by their suffix.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let origins = match open::index(path)? {
            Some((_, input)) => Some(Origins::new(input)?),
            None => None,
        };
        Ok(Self {
            log: BufReader::with_capacity(256 << 10, open::log(path)?),
            origins,
            partial: Vec::new(),
            bytes: 0,
            lines: 0,
            limit: u64::MAX,
        })
    }

    /// Nothing behind this place is read: it may still be cut.
    pub fn limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// The next whole line; `None` when there is none (yet).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Record>> {
        if self.bytes >= self.limit {
            return Ok(None);
        }
        self.log.read_until(b'\n', &mut self.partial)?;
        if !self.partial.ends_with(b"\n") || self.bytes + self.partial.len() as u64 > self.limit {
            return Ok(None);
        }
        let origin = match &mut self.origins {
            Some(origins) => origins.next_line()?,
            None => None,
        };
        let line = std::mem::take(&mut self.partial);
        self.bytes += line.len() as u64;
        self.lines += 1;
        Ok(Some(Record { line, origin }))
    }

    /// Skips lines up to a place; false when the file is shorter.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn skip_to(&mut self, bytes: u64) -> io::Result<bool> {
        while self.bytes < bytes {
            if self.next_line()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of the lines that were read.
    pub fn position(&self) -> u64 {
        self.bytes
    }
}

/// Numbers of lines, one after another.
struct Origins {
    reader: Reader<Box<dyn Read>>,
    sources: Vec<(Bytes, SourceId)>,
    runs: VecDeque<Run>,
}

/// Lines of one source, one after another.
struct Run {
    /// Place of the source.
    source: Option<usize>,
    seq: u64,
    part: u64,
    /// All lines are of one message.
    same: bool,
    left: u64,
}

impl Origins {
    fn new(input: Box<dyn Read>) -> anyhow::Result<Self> {
        Ok(Self { reader: Reader::new(input)?, sources: Vec::new(), runs: VecDeque::new() })
    }

    fn next_line(&mut self) -> io::Result<Option<Origin>> {
        loop {
            match self.runs.front_mut() {
                Some(Run { left: 0, .. }) => drop(self.runs.pop_front()),
                Some(run) => {
                    let source = run.source.and_then(|p| self.sources.get(p));
                    let origin = source.map(|(group, source)| Origin {
                        group: group.clone(),
                        source: *source,
                        seq: run.seq,
                        part: run.part,
                    });
                    run.left -= 1;
                    let next = if run.same { &mut run.part } else { &mut run.seq };
                    *next = next.wrapping_add(1);
                    return Ok(origin);
                }
                None => match self.reader.block().map_err(io::Error::other)? {
                    Some((_, records)) => self.learn(records),
                    None => return Ok(None),
                },
            }
        }
    }

    fn learn(&mut self, records: Vec<index::Record>) {
        for record in records {
            match record {
                index::Record::Source { id, group, .. } => self.sources.push((group, id)),
                index::Record::Lines { source, seq, count } => {
                    self.runs.push_back(Run { source: Some(source), seq, part: 0, same: false, left: count });
                }
                index::Record::Multi { source, seq, lines } => {
                    self.runs.push_back(Run { source: Some(source), seq, part: 0, same: true, left: lines });
                }
                index::Record::Plain(lines) => {
                    self.runs.push_back(Run { source: None, seq: 0, part: 0, same: true, left: lines });
                }
                _ => {}
            }
        }
    }
}

/// CRC-32 of the first line, by which a file is known again after it was renamed or compressed; `None` while it has
/// none.
pub fn first_line(path: &Path) -> io::Result<Option<u32>> {
    let mut line = Vec::new();
    BufReader::new(open::log(path)?.take(1 << 20)).read_until(b'\n', &mut line)?;
    Ok(Some(crc32fast::hash(&line)).filter(|_| !line.is_empty()))
}

/// Whether a file is still the one of its name: a file that was replaced is complete.
pub fn is_same(path: &Path, file: &File) -> bool {
    crate::output::same_file(file, path)
}
