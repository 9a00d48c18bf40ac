//! The journal of one source.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use log_stream::intake::What;
use log_stream::{GapWhy, Record, SourceId, Wire};

use crate::adopt::survey;
use crate::record::{self, Found, RECORD_BYTES_MAX};

/// A segment that is longer is not appended to.
const SEGMENT_BYTES: u64 = 4 << 20;
/// A segment whose lines are all confirmed begins anew when it is longer.
const REWIND_BYTES: u64 = 64 << 10;
/// Bytes read at once.
const CHUNK_BYTES: usize = 2 * RECORD_BYTES_MAX;
/// In a mark: a log writer answered for the group.
const STRICT: u64 = 1 << 63;

/// Bytes that all journals of a server may take together. The counter is shared by its processes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes in use.
    pub used: &'static AtomicU64,
    /// Most bytes.
    pub limit: u64,
}

impl Budget {
    fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|n| *n <= self.limit))
            .is_ok()
    }

    pub(crate) fn give(&self, bytes: u64) {
        // Another server may have shared the folder: never below zero.
        let _ = self.used.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
    }
}

/// Whose lines these are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Identity of the source.
    pub source: SourceId,
    /// Name of the link: its list of daemons.
    pub link: String,
    /// `key=value` lines for the hello.
    pub about: String,
    /// Groups, and the form of their lines.
    pub streams: Vec<(Bytes, Wire)>,
}

/// A place in a journal.
#[derive(Clone, Debug)]
pub struct Cursor {
    segment: u64,
    offset: u64,
    /// Of an adopted journal: the number that each group goes on with. Lower ones are left out, holes become gaps.
    expect: Option<BTreeMap<u32, u64>>,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) file: File,
    pub(crate) len: u64,
    /// Highest number of each group.
    pub(crate) last: BTreeMap<u32, u64>,
}

/// The journal. Dropping it leaves the files: another process may adopt them.
#[derive(Debug)]
pub struct Journal {
    pub(crate) folder: PathBuf,
    /// The open folder, whose lock says that its process lives.
    _lock: File,
    pub(crate) marks: File,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) next_segment: u64,
    pub(crate) budget: Budget,
    buf: Vec<u8>,
}

impl Journal {
    /// Makes the folder of a source in `root`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create(root: &Path, meta: &Meta, instance: u64, budget: Budget) -> io::Result<Self> {
        // Others must not find it before it is locked.
        let hidden = root.join(format!(".{}", meta.source));
        DirBuilder::new().mode(0o700).create(&hidden)?;
        let made = Self::fill(&hidden, meta, instance, budget).and_then(|mut journal| {
            journal.folder = root.join(meta.source.to_string());
            fs::rename(&hidden, &journal.folder).map(|()| journal)
        });
        if made.is_err() {
            // The error is told; what is left over is removed at the next start.
            let _ = fs::remove_dir_all(&hidden);
        }
        made
    }

    fn fill(folder: &Path, meta: &Meta, instance: u64, budget: Budget) -> io::Result<Self> {
        let lock = File::open(folder)?;
        lock.try_lock()?;
        fs::write(folder.join("source"), meta_text(meta))?;
        let mut journal = Self::open(folder.to_owned(), lock, budget)?;
        journal.set_instance(instance)?;
        // Not with the first line: making a file can take long on a busy disk.
        journal.begin_segment()?;
        Ok(journal)
    }

    pub(crate) fn open(folder: PathBuf, lock: File, budget: Budget) -> io::Result<Self> {
        let marks = open(&folder.join("marks"))?;
        Ok(Self {
            folder,
            _lock: lock,
            marks,
            segments: VecDeque::new(),
            next_segment: 1,
            budget,
            buf: Vec::new(),
        })
    }

    /// Says which server counts these lines as its own; 0: none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_instance(&self, instance: u64) -> io::Result<()> {
        fs::write(self.folder.join("instance"), instance.to_string())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends records, all or none. They must follow the earlier ones of their groups. Gives their place.
    ///
    /// # Errors
    /// `StorageFull` when the budget or the disk is used up; what else the system says. The journal stays good.
    pub fn append(&mut self, records: &VecDeque<Record>) -> io::Result<Cursor> {
        self.buf.clear();
        for record in records {
            record::encode(record, &mut self.buf);
        }
        let bytes = self.buf.len() as u64;
        if !self.budget.take(bytes) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the spool has its full size"));
        }
        let place = self.write();
        match place {
            Ok(place) => {
                if let Some(segment) = self.segments.back_mut() {
                    segment.len += bytes;
                    for record in records {
                        segment.last.insert(record.stream, record.last());
                    }
                }
                Ok(place)
            }
            Err(error) => {
                self.budget.give(bytes);
                Err(error)
            }
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.next_segment;
        let file = open(&self.path(number))?;
        self.next_segment += 1;
        self.segments.push_back(Segment { number, file, len: 0, last: BTreeMap::new() });
        Ok(())
    }

    fn write(&mut self) -> io::Result<Cursor> {
        if self.segments.back().is_none_or(|s| s.len >= SEGMENT_BYTES) {
            self.begin_segment()?;
        }
        let Some(segment) = self.segments.back_mut() else { return Err(io::Error::other("no segment")) };
        if let Err(error) = segment.file.write_all_at(&self.buf, segment.len) {
            // What was written in part is behind the end; the next write goes over it.
            let _ = segment.file.set_len(segment.len);
            return Err(error);
        }
        Ok(Cursor { segment: segment.number, offset: segment.len, expect: None })
    }

    /// Reads records from a place on, until they cost `cost` or the end is reached, and moves the place. True at the end.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self, cursor: &mut Cursor, cost: usize, out: &mut VecDeque<Record>) -> io::Result<bool> {
        let mut have = 0;
        while let Some(segment) = self.segments.iter().find(|s| s.number >= cursor.segment) {
            if segment.number > cursor.segment {
                (cursor.segment, cursor.offset) = (segment.number, 0);
            }
            let left = segment.len.saturating_sub(cursor.offset);
            if left == 0 {
                if self.segments.back().is_some_and(|s| s.number == cursor.segment) {
                    return Ok(true);
                }
                (cursor.segment, cursor.offset) = (cursor.segment + 1, 0);
                continue;
            }
            if have >= cost {
                return Ok(false);
            }
            let want = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            self.buf.resize(want, 0);
            segment.file.read_exact_at(&mut self.buf, cursor.offset)?;
            let mut at = 0;
            while have < cost {
                let Found::Record(record, len) = record::decode(&self.buf[at..]) else { break };
                at += len;
                have += record.cost();
                cursor.admit(record, out);
            }
            if at == 0 {
                // It was whole when it was written or adopted: the disk lost it. What follows cannot be found.
                cursor.offset = segment.len;
            }
            cursor.offset += at as u64;
        }
        Ok(true)
    }

    /// Remembers up to where a group is confirmed, and whether a log writer ever answered for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark(&self, stream: u32, front: u64, strict: bool) -> io::Result<()> {
        let mark = front & !STRICT | if strict { STRICT } else { 0 };
        self.marks.write_all_at(&mark.to_be_bytes(), 8 * u64::from(stream))
    }

    /// Removes what is confirmed: everything before the front of each group. While a cursor is in use (`reading`) the
    /// last segment stays as it is.
    pub fn reap(&mut self, reading: bool, front: impl Fn(u32) -> u64) {
        let newest = self.segments.back().map(|s| s.number);
        let folder = &self.folder;
        let budget = self.budget;
        self.segments.retain_mut(|segment| {
            let current = Some(segment.number) == newest;
            let needed = current && (reading || segment.len < REWIND_BYTES)
                || segment.last.iter().any(|(stream, last)| front(*stream) <= *last);
            if !needed && !current {
                // If it cannot be removed it is found, and left out, by the process that adopts it.
                let _ = fs::remove_file(path(folder, segment.number));
                budget.give(segment.len);
            } else if !needed && segment.file.set_len(0).is_ok() {
                budget.give(segment.len);
                segment.len = 0;
                segment.last.clear();
                return true;
            }
            needed || current
        });
    }

    /// True when the journal has something of the group from `front` on.
    pub fn holds(&self, stream: u32, front: u64) -> bool {
        self.segments.iter().any(|s| s.last.get(&stream).is_some_and(|last| *last >= front))
    }

    /// Lines from the front of each group on. Reads all files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn lines(&self, front: impl Fn(u32) -> u64) -> io::Result<u64> {
        self.segments.iter().map(|s| Ok(survey(&s.file, &front)?.lines)).sum()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum()
    }

    /// The process ends in order and leaves lines. They are not forced to the disk: that can take longer than a server
    /// waits for its children, and the system does it before it shuts down.
    ///
    /// # Errors
    /// When that cannot be written; the lines are there nevertheless.
    pub fn leave(self) -> io::Result<()> {
        self.set_instance(0)
    }

    /// Everything is confirmed: removes all.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn finish(mut self) -> io::Result<()> {
        for segment in self.segments.drain(..) {
            self.budget.give(segment.len);
        }
        fs::remove_dir_all(&self.folder)
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        path(&self.folder, number)
    }

    /// The number behind the last one of a group in the journal; 0 when there is none.
    pub fn end(&self, stream: u32) -> u64 {
        self.segments.iter().filter_map(|s| s.last.get(&stream)).max().map_or(0, |last| last + 1)
    }

    /// Groups of which something is in the journal.
    pub fn streams(&self) -> BTreeSet<u32> {
        self.segments.iter().flat_map(|s| s.last.keys().copied()).collect()
    }
}

impl Cursor {
    /// The beginning of an adopted journal.
    pub(crate) fn adopted(fronts: BTreeMap<u32, u64>) -> Self {
        Self { segment: 0, offset: 0, expect: Some(fronts) }
    }

    fn admit(&mut self, record: Record, out: &mut VecDeque<Record>) {
        let Some(expect) = &mut self.expect else { return out.push_back(record) };
        let next = expect.entry(record.stream).or_insert(1);
        if record.last() < *next {
            return;
        }
        if record.seq > *next {
            let what = What::Gap { to: record.seq - 1, why: GapWhy::Crash };
            out.push_back(Record { seq: *next, what, ..record });
        }
        *next = record.last() + 1;
        out.push_back(record);
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

/// Opens a file of ours: only for its owner, and never through a link.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn meta_text(meta: &Meta) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    let _ = writeln!(text, "link={}", meta.link);
    for line in meta.about.lines() {
        let _ = writeln!(text, "about.{line}");
    }
    for (group, wire) in &meta.streams {
        let wire = if *wire == Wire::Framed { "framed" } else { "plain" };
        let _ = writeln!(text, "{wire}={}", String::from_utf8_lossy(group));
    }
    text
}

/// Reads what `meta_text` wrote.
pub(crate) fn meta_of(source: SourceId, text: &str) -> Meta {
    let mut meta = Meta { source, link: String::new(), about: String::new(), streams: Vec::new() };
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "link" => value.clone_into(&mut meta.link),
            "plain" => meta.streams.push((Bytes::copy_from_slice(value.as_bytes()), Wire::Plain)),
            "framed" => meta.streams.push((Bytes::copy_from_slice(value.as_bytes()), Wire::Framed)),
            _ => {
                if let Some(key) = key.strip_prefix("about.") {
                    meta.about.push_str(&format!("{key}={value}\n"));
                }
            }
        }
    }
    meta
}

/// The marks of `n` groups: front and strictness.
pub(crate) fn marks(file: &File, n: usize) -> io::Result<Vec<(u64, bool)>> {
    let mut bytes = vec![0; 8 * n];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], have as u64)? {
            0 => break,
            got => have += got,
        }
    }
    let word = |b: &[u8]| b.try_into().map_or(0, u64::from_be_bytes);
    Ok(bytes.chunks_exact(8).map(word).map(|mark| ((mark & !STRICT).max(1), mark & STRICT != 0)).collect())
}
