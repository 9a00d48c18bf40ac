//! Journals whose process is gone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use log_stream::{Record, SourceId};

use crate::journal::{Budget, Cursor, Journal, Meta, Segment, marks, meta_of, open};
use crate::record::{self, Found, RECORD_BYTES_MAX};
use crate::ring::Ring;

/// A journal that was adopted: locked, repaired, ready to be read from its first line that is not confirmed.
#[derive(Debug)]
pub struct Orphan {
    /// Whose lines these are.
    pub meta: Meta,
    /// The server that counts the lines; 0 when the process ended in order.
    pub instance: u64,
    /// For each group: first number that is not confirmed, and whether a log writer ever answered.
    pub fronts: Vec<(u64, bool)>,
    /// Lines that are not confirmed.
    pub lines: u64,
    /// Bytes behind the last whole record, which were cut off.
    pub torn: u64,
    /// The journal.
    pub journal: Journal,
    /// Its beginning.
    pub cursor: Cursor,
}

/// Looks for a journal that nobody works with. `wanted` sees the source file's link name.
///
/// # Errors
/// When the spool cannot be read; a single journal that cannot be read is left where it is.
pub fn adopt(root: &Path, budget: Budget, wanted: impl Fn(&str) -> bool) -> io::Result<Option<Orphan>> {
    let mut names: Vec<_> =
        fs::read_dir(root)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    for name in names {
        let Some(source) = SourceId::parse(&name) else { continue };
        let folder = root.join(&name);
        let Ok(lock) = File::open(&folder) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        // Its last owner may have removed it between the two calls.
        let Ok(text) = fs::read_to_string(folder.join("source")) else {
            let _ = fs::remove_dir(&folder);
            continue;
        };
        let meta = meta_of(source, &text);
        if wanted(&meta.link)
            && let Ok(orphan) = Orphan::open(&folder, lock, meta, budget)
        {
            return Ok(Some(orphan));
        }
    }
    Ok(None)
}

/// Bytes of all journals in a spool. Removes what processes left that died while they made their folder: only at the
/// start of the server, when nobody else works there.
pub fn bytes_in(root: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    let mut sum = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.strip_prefix('.').and_then(SourceId::parse) {
            Some(_) => {
                // It stays when it cannot be removed, and costs nothing but a name.
                let _ = fs::remove_dir_all(entry.path());
            }
            None => {
                let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
                let logs = files.filter(|f| f.path().extension().is_some_and(|e| e == "log"));
                sum += logs.filter_map(|f| Some(f.metadata().ok()?.len())).sum::<u64>();
            }
        }
    }
    sum
}

impl Orphan {
    fn open(folder: &Path, lock: File, meta: Meta, budget: Budget) -> io::Result<Self> {
        let mut journal = Journal::open(folder.to_owned(), lock, budget)?;
        let fronts = marks(&journal.marks, meta.streams.len())?;
        let instance = fs::read_to_string(folder.join("instance")).ok();
        let instance = instance.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let front = |stream: u32| fronts.get(stream as usize).map_or(u64::MAX, |f| f.0);
        let mut numbers: Vec<u64> = fs::read_dir(folder)?
            .filter_map(|e| e.ok()?.file_name().into_string().ok()?.strip_suffix(".log")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let (mut lines, mut torn) = (0, 0);
        for number in numbers {
            let file = open(&journal.path(number))?;
            let survey = survey(&file, &front)?;
            let size = file.metadata()?.len();
            if size > survey.len {
                // A record that was being written when its process died, or that the disk lost.
                torn += size - survey.len;
                file.set_len(survey.len)?;
                budget.give(size - survey.len);
            }
            lines += survey.lines;
            journal.next_segment = number + 1;
            journal.segments.push_back(Segment { number, file, len: survey.len, last: survey.last });
        }
        lines += append_ring(folder, &mut journal, &front)?;
        let expect = (0..).zip(&fronts).map(|(stream, front)| (stream, front.0)).collect();
        Ok(Self { meta, instance, fronts, lines, torn, journal, cursor: Cursor::adopted(expect) })
    }
}

pub(crate) struct Survey {
    /// Bytes of whole records.
    len: u64,
    /// Lines that are not confirmed.
    pub(crate) lines: u64,
    last: BTreeMap<u32, u64>,
}

pub(crate) fn survey(file: &File, front: &impl Fn(u32) -> u64) -> io::Result<Survey> {
    let mut survey = Survey { len: 0, lines: 0, last: BTreeMap::new() };
    let mut buf = vec![0; 4 * RECORD_BYTES_MAX];
    loop {
        let mut have = 0;
        while have < buf.len() {
            match file.read_at(&mut buf[have..], survey.len + have as u64)? {
                0 => break,
                got => have += got,
            }
        }
        let mut at = 0;
        while let Found::Record(record, len) = record::decode(&buf[at..have]) {
            at += len;
            if record.seq >= front(record.stream) {
                survey.lines += record.lines();
            }
            let last = survey.last.entry(record.stream).or_default();
            *last = (*last).max(record.last());
        }
        if at == 0 {
            return Ok(survey);
        }
        survey.len += at as u64;
    }
}

/// Moves lines of the ring that the sender did not live to append behind the others. Gives their number.
fn append_ring(folder: &Path, journal: &mut Journal, front: &impl Fn(u32) -> u64) -> io::Result<u64> {
    let path = folder.join("ring");
    let Ok(bytes) = fs::read(&path) else { return Ok(0) };
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for (stream, last) in journal.segments.iter().flat_map(|s| &s.last) {
        let next = next.entry(*stream).or_default();
        *next = (*next).max(*last + 1);
    }
    let mut missing: VecDeque<Record> = Ring::records(&bytes).into();
    missing.retain(|r| r.seq >= front(r.stream) && r.seq >= next.get(&r.stream).copied().unwrap_or(0));
    if !missing.is_empty() {
        // Beyond the limit if need be: they are in the folder already.
        let budget = journal.budget;
        journal.budget.limit = u64::MAX;
        let appended = journal.append(&missing);
        journal.budget = budget;
        appended?;
    }
    fs::remove_file(&path)?;
    Ok(missing.len() as u64)
}
