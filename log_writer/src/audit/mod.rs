//! `log_writer audit`: what a log holds, proved by the index beside it.
//!
//! | module | job |
//! |---|---|
//! | [`open`] | logs and indexes, also compressed or renamed |
//! | [`spans`] | sets of numbers |
//! | [`compare`](mod@compare) | the files of two writers |
//! | [`report`] | text and JSON |
// spec: log_writer L-21, L-22

pub mod compare;
pub mod open;
pub mod report;
pub mod spans;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use log_stream::SourceId;
use log_stream::sequencer::GapReason;

use crate::index::{Block, Event, Reader, Record};
use spans::Spans;

/// Most holes and places that are listed one by one.
pub const LISTED_MAX: usize = 1000;

/// What is known about one source over all files.
#[derive(Clone, Debug, Default)]
pub struct SourceReport {
    /// Lines in the files.
    pub lines: u64,
    /// Numbers with a line.
    pub written: Spans,
    /// Numbers that arrived and belong elsewhere by the configuration.
    pub elsewhere: Spans,
    /// Numbers that the writer declared as missing, with the reason.
    pub gaps: Vec<(u64, u64, &'static str)>,
    /// Written more than once.
    pub doubled: u64,
    /// Stand behind a later number of the same file.
    pub reordered: u64,
    /// Came again and were left out by the writer: no fault.
    pub left_out: u64,
    /// The source said goodbye with this number.
    pub ended: Option<u64>,
}

impl SourceReport {
    /// Everything that is accounted for.
    fn known(&self) -> Spans {
        let mut known = self.written.clone();
        let gaps = self.gaps.iter().map(|(from, to, _)| (*from, *to));
        for (from, to) in self.elsewhere.spans().iter().copied().chain(gaps) {
            known.add(from, to);
        }
        known
    }

    /// Numbers that are neither written nor declared.
    pub fn holes(&self) -> Vec<(u64, u64)> {
        let known = self.known();
        let mut holes = known.holes();
        if let (Some(last), Some(ended)) = (known.last(), self.ended)
            && ended > last
        {
            holes.push((last + 1, ended));
        }
        holes
    }

    /// First and last number that is accounted for.
    pub fn range(&self) -> Option<(u64, u64)> {
        let known = self.known();
        Some((known.first()?, known.last()?))
    }

    /// Lines that are missing: declared ones that are in none of the files, and holes.
    pub fn missing(&self) -> u64 {
        let mut gaps = Spans::default();
        for (from, to, _) in &self.gaps {
            gaps.add(*from, *to);
        }
        let holes: u64 = self.holes().iter().map(|(from, to)| to - from + 1).sum();
        gaps.without(&self.written).count() + holes
    }

    /// Every line is there once and in order.
    pub fn is_clean(&self) -> bool {
        self.missing() == 0 && self.doubled == 0 && self.reordered == 0
    }
}

/// What is known about one file.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Its name.
    pub path: PathBuf,
    /// Bytes (before compression).
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Lines without numbers: nothing can be said about them.
    pub unnumbered: u64,
    /// What the index does not know, or knows otherwise.
    pub problems: Vec<String>,
    /// How often the writer lost its session.
    pub sessions_lost: u64,
    /// The file is complete, another one followed.
    pub sealed: bool,
}

/// What is known about all files together.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// The files, as given.
    pub files: Vec<FileReport>,
    /// (group, source) -> what is known.
    pub sources: BTreeMap<(Bytes, SourceId), SourceReport>,
}

impl Audit {
    /// Reads logs and their indexes. The order of the files does not matter.
    ///
    /// # Errors
    /// A file that cannot be read, with its name.
    pub fn of(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut audit = Self::default();
        for path in paths {
            let report = if path.is_dir() { audit.directory(path)? } else { audit.file(path)? };
            audit.files.push(report);
        }
        Ok(audit)
    }

    /// True when every line of every source is there once, in order, and the bytes are those that were written.
    pub fn is_clean(&self) -> bool {
        self.files.iter().all(|f| f.problems.is_empty() && f.unnumbered == 0)
            && self.sources.values().all(SourceReport::is_clean)
    }

    /// Lines without numbers are no fault from here on.
    pub fn allow_unnumbered(&mut self) {
        for file in &mut self.files {
            file.unnumbered = 0;
        }
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<FileReport> {
        use anyhow::Context;
        let mut log = open::log(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut report = FileReport::new(path);
        let context = || format!("cannot read {}", path.display());
        let Some((index_path, index)) = open::index(path)? else {
            let (bytes, lines) = count(&mut log).with_context(context)?;
            (report.bytes, report.lines, report.unnumbered) = (bytes, lines, lines);
            report.problems.push("there is no audit index beside it".into());
            return Ok(report);
        };
        let index_context = || format!("cannot read {}", index_path.display());
        let mut reader = Reader::new(index).with_context(index_context)?;
        let mut seen = Seen::default();
        while let Some((block, records)) = reader.block().with_context(index_context)? {
            report.block(&mut log, block).with_context(context)?;
            self.records(&records, &mut seen, &mut report);
        }
        let (bytes, lines) = count(&mut log).with_context(context)?;
        if bytes > 0 {
            report.problems.push(format!("the last {bytes} bytes ({lines} lines) are not in the index"));
            report.unnumbered += lines;
        }
        report.bytes += bytes;
        report.lines += lines;
        Ok(report)
    }

    /// A directory with a file for each virtual host: the index knows the numbers, not the bytes.
    fn directory(&mut self, path: &Path) -> anyhow::Result<FileReport> {
        use anyhow::Context;
        let mut report = FileReport::new(path);
        let context = || format!("cannot read {}", path.display());
        let indexes = open::indexes_of_dir(path)?;
        if indexes.is_empty() {
            anyhow::bail!("{} is a directory without an audit index ({0}.audit)", path.display());
        }
        let mut told = 0;
        for index_path in indexes {
            let index_context = || format!("cannot read {}", index_path.display());
            let input = open::log(&index_path).with_context(index_context)?;
            let mut reader = Reader::new(input).with_context(index_context)?;
            let mut seen = Seen::default();
            while let Some((block, records)) = reader.block().with_context(index_context)? {
                told += block.lines;
                self.records(&records, &mut seen, &mut report);
            }
        }
        for entry in std::fs::read_dir(path).with_context(context)? {
            let file = entry.with_context(context)?.path();
            if file.is_file() && !open::is_index(&file) {
                let mut log = open::log(&file).with_context(|| format!("cannot open {}", file.display()))?;
                let (bytes, lines) =
                    count(&mut log).with_context(|| format!("cannot read {}", file.display()))?;
                report.bytes += bytes;
                report.lines += lines;
            }
        }
        if report.lines != told {
            report.problems.push(format!("the index tells of {told} lines, the files have {}", report.lines));
        }
        Ok(report)
    }

    fn records(&mut self, records: &[Record], seen: &mut Seen, report: &mut FileReport) {
        for record in records {
            let place = match record {
                Record::Source { id, group, .. } => {
                    let key = (group.clone(), *id);
                    self.sources.entry(key.clone()).or_default();
                    seen.keys.push(key);
                    seen.last.push(0);
                    continue;
                }
                Record::Plain(lines) => {
                    report.unnumbered += lines;
                    continue;
                }
                Record::Event(event) => {
                    report.sessions_lost += u64::from(*event == Event::SessionLost);
                    report.sealed = *event == Event::Sealed;
                    continue;
                }
                Record::Lines { source, .. }
                | Record::Multi { source, .. }
                | Record::Elsewhere { source, .. }
                | Record::Gap { source, .. }
                | Record::Duplicates { source, .. }
                | Record::End { source, .. } => *source,
            };
            let Some(source) = seen.keys.get(place).and_then(|key| self.sources.get_mut(key)) else {
                continue;
            };
            match record {
                Record::Lines { seq, count, .. } => {
                    source.write(*seq, *count, *count, seen.pass(place, *seq, *count));
                }
                Record::Multi { seq, lines, .. } => source.write(*seq, 1, *lines, seen.pass(place, *seq, 1)),
                Record::Elsewhere { seq, count, .. } => {
                    source.elsewhere.add(*seq, last_of(*seq, *count));
                }
                Record::Gap { seq, count, reason, .. } => {
                    source.gaps.push((*seq, last_of(*seq, *count), reason_of(*reason)));
                }
                Record::Duplicates { count, .. } => source.left_out += count,
                Record::End { last, .. } => source.ended = source.ended.max(Some(*last)),
                Record::Source { .. } | Record::Plain(_) | Record::Event(_) => {}
            }
        }
    }
}

impl SourceReport {
    fn write(&mut self, seq: u64, count: u64, lines: u64, late: bool) {
        self.doubled += self.written.add(seq, last_of(seq, count));
        self.lines += lines;
        self.reordered += u64::from(late);
    }
}

/// Sources of one file by their places.
#[derive(Default)]
struct Seen {
    keys: Vec<(Bytes, SourceId)>,
    last: Vec<u64>,
}

impl Seen {
    /// True when a run stands behind a later number.
    fn pass(&mut self, place: usize, seq: u64, count: u64) -> bool {
        let Some(last) = self.last.get_mut(place) else { return false };
        let late = seq <= *last;
        *last = (*last).max(last_of(seq, count));
        late
    }
}

fn last_of(seq: u64, count: u64) -> u64 {
    seq.saturating_add(count.saturating_sub(1))
}

/// Reasons of gaps in words.
pub fn reason_of(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Publisher => "dropped by the web server",
        GapReason::Elsewhere => "written by another log writer, or given up by the web server",
        GapReason::Lost => "lost on the way",
    }
}

impl FileReport {
    fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            bytes: 0,
            lines: 0,
            unnumbered: 0,
            problems: Vec::new(),
            sessions_lost: 0,
            sealed: false,
        }
    }

    /// Holds the bytes of a block against its checksum.
    fn block(&mut self, log: &mut impl Read, block: Block) -> io::Result<()> {
        if block.len == 0 {
            return Ok(());
        }
        if block.offset != self.bytes {
            self.problem(format!("the index goes on at byte {} instead of {}", block.offset, self.bytes));
        }
        let (mut crc, mut lines, mut left) = (crc32fast::Hasher::new(), 0, block.len);
        let mut buf = [0; 64 << 10];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(buf.len()).min(buf.len());
            match log.read(&mut buf[..want]) {
                Ok(0) => break,
                Ok(n) => {
                    crc.update(&buf[..n]);
                    lines += newlines(&buf[..n]);
                    left -= n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let read = block.len - left;
        if left > 0 {
            self.problem(format!("the file ends at byte {}, {left} bytes are missing", self.bytes + read));
        } else if crc.finalize() != block.crc {
            let (from, line) = (self.bytes, self.lines + 1);
            self.problem(format!(
                "{read} bytes from byte {from} (line {line}) are not those that were written"
            ));
        } else if lines != block.lines {
            self.problem(format!("{} lines at byte {} were written as {}", lines, self.bytes, block.lines));
        }
        self.bytes += read;
        self.lines += lines;
        Ok(())
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < LISTED_MAX {
            self.problems.push(text);
        }
    }
}

pub(crate) fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Bytes and lines of what is left of a file; an end without a line feed counts as a line.
fn count(input: &mut impl Read) -> io::Result<(u64, u64)> {
    let (mut bytes, mut lines, mut open) = (0, 0, false);
    let mut buf = [0; 64 << 10];
    loop {
        match input.read(&mut buf) {
            Ok(0) => return Ok((bytes, lines + u64::from(open))),
            Ok(n) => {
                bytes += n as u64;
                lines += newlines(&buf[..n]);
                open = buf[n - 1] != b'\n';
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
