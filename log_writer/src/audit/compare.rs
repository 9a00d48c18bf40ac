//! Compares the files of two writers.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use log_stream::SourceId;

use super::spans::Spans;
use super::{Audit, open};
use crate::index::{Reader, Record};

/// What two files have in common, and what not.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The two files.
    pub paths: [PathBuf; 2],
    /// Bytes that are the same from the begin.
    pub same_bytes: u64,
    /// Lines that are the same from the begin.
    pub same_lines: u64,
    /// The first line that differs (of both), with what the index says about it.
    pub differ: Option<[Place; 2]>,
    /// By numbers: lines that only the first, only the second has.
    pub only: [Vec<(Bytes, SourceId, Spans)>; 2],
}

/// A line in a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The text; `None` where the file has ended.
    pub line: Option<Vec<u8>>,
    /// Group, source and number by the index.
    pub origin: Option<(Bytes, SourceId, u64)>,
}

impl Comparison {
    /// Compares two files.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn of(first: &Path, second: &Path) -> anyhow::Result<Self> {
        let paths = [first.to_path_buf(), second.to_path_buf()];
        let open = |path: &Path| -> anyhow::Result<BufReader<Box<dyn Read>>> {
            let log = open::log(path).with_context(|| format!("cannot open {}", path.display()))?;
            Ok(BufReader::with_capacity(256 << 10, log))
        };
        let mut logs = [open(first)?, open(second)?];
        let mut lines = [Vec::new(), Vec::new()];
        let (mut same_bytes, mut same_lines) = (0, 0);
        let differ = loop {
            for ((log, line), path) in logs.iter_mut().zip(&mut lines).zip(&paths) {
                line.clear();
                log.read_until(b'\n', line).with_context(|| format!("cannot read {}", path.display()))?;
            }
            if lines[0] != lines[1] {
                break true;
            }
            if lines[0].is_empty() {
                break false;
            }
            same_bytes += lines[0].len() as u64;
            same_lines += 1;
        };
        let mut places = lines.map(|line| Place { line: Some(line).filter(|l| !l.is_empty()), origin: None });
        if differ {
            for (place, path) in places.iter_mut().zip(&paths).filter(|(p, _)| p.line.is_some()) {
                place.origin = origin_of(path, same_lines)?;
            }
        }
        let audits = [Audit::of(&paths[..1])?, Audit::of(&paths[1..])?];
        let only = [only(&audits[0], &audits[1]), only(&audits[1], &audits[0])];
        Ok(Self { paths, same_bytes, same_lines, differ: differ.then_some(places), only })
    }

    /// Byte for byte the same.
    pub fn identical(&self) -> bool {
        self.differ.is_none()
    }

    /// The same numbered lines, perhaps in another order.
    pub fn same_numbers(&self) -> bool {
        self.only.iter().all(Vec::is_empty)
    }
}

fn only(one: &Audit, other: &Audit) -> Vec<(Bytes, SourceId, Spans)> {
    let nothing = Spans::default();
    let rows = one.sources.iter().map(|(key, source)| {
        let others = other.sources.get(key).map_or(&nothing, |s| &s.written);
        (key.0.clone(), key.1, source.written.without(others))
    });
    rows.filter(|(_, _, spans)| spans.count() > 0).collect()
}

/// Where the line with this place (from 0) in a file comes from.
fn origin_of(log: &Path, line: u64) -> anyhow::Result<Option<(Bytes, SourceId, u64)>> {
    let Some((path, input)) = open::index(log)? else { return Ok(None) };
    let context = || format!("cannot read {}", path.display());
    let mut reader = Reader::new(input).with_context(context)?;
    let (mut sources, mut before) = (Vec::new(), 0);
    while let Some((_, records)) = reader.block().with_context(context)? {
        for record in records {
            let (source, seq, lines, step) = match record {
                Record::Source { id, group, .. } => {
                    sources.push((group, id));
                    continue;
                }
                Record::Lines { source, seq, count } => (Some(source), seq, count, 1),
                Record::Multi { source, seq, lines } => (Some(source), seq, lines, 0),
                Record::Plain(lines) => (None, 0, lines, 0),
                _ => continue,
            };
            if line < before + lines {
                let key = source.and_then(|s| sources.get(s));
                return Ok(key.map(|(group, id)| (group.clone(), *id, seq + step * (line - before))));
            }
            before += lines;
        }
    }
    Ok(None)
}
