//! A ring in shared memory, backed by a file: request threads put each line there, in a few stores, so that it is not
//! lost when the process is killed before the sender has appended it to the journal.
//!
//! ```text
//! offset 0     magic word
//!        64    head: bytes ever put, counted from the last time the ring was empty
//!        128   tail: of these, bytes that are in the journal
//!        4096  records (see `record`), one after another; 0xffffffff where the rest up to the end is unused
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use log_stream::Record;
use log_stream::intake::What;

use crate::journal::open;
use crate::record::{self, Found, HEAD_BYTES};

const MAGIC: u64 = u64::from_be_bytes(*b"MLSRING1");
const PAGE: usize = 4096;
const HEAD_AT: usize = 64;
const TAIL_AT: usize = 128;
/// The rest of the ring is unused.
const SKIP: [u8; 4] = [0xff; 4];

/// The ring. Its owner keeps it behind a lock.
#[derive(Debug)]
pub struct Ring {
    memory: NonNull<u8>,
    /// Bytes for records.
    size: usize,
    head: u64,
    tail: u64,
    buf: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone; other processes read the file only after this one is gone.
unsafe impl Send for Ring {}

impl Ring {
    /// Makes the ring of a journal. Its blocks are reserved, so that a full disk cannot be met later.
    ///
    /// # Errors
    /// When the file system cannot reserve or map `size` bytes.
    pub fn create(folder: &Path, size: usize) -> io::Result<Self> {
        let file = open(&folder.join("ring"))?;
        let bytes = PAGE + size;
        let len = libc::off_t::try_from(bytes).map_err(|_| io::Error::other("the ring is too large"))?;
        // SAFETY: plain call on an open file.
        let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
        let memory = map(&file, bytes)?;
        let ring = Self { memory, size, head: 0, tail: 0, buf: Vec::new() };
        ring.word(HEAD_AT).store(0, Relaxed);
        ring.word(TAIL_AT).store(0, Relaxed);
        ring.word(0).store(MAGIC.to_be(), Release);
        Ok(ring)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: the first page is mapped and the places are aligned to 8.
        unsafe { AtomicU64::from_ptr(self.memory.as_ptr().add(at).cast()) }
    }

    /// Puts a line. False when there is no room: it is then in memory only until the sender appended it.
    pub fn push(&mut self, record: &Record) -> bool {
        let What::Line { data, .. } = &record.what else { return true };
        let need = record::line_bytes(data.len());
        if self.head == self.tail && self.head > 0 {
            // Begin anew: a quiet ring stays in the same few pages. A reader takes a head before its tail for empty.
            self.word(HEAD_AT).store(0, Release);
            self.word(TAIL_AT).store(0, Release);
            (self.head, self.tail) = (0, 0);
        }
        let size = self.size as u64;
        let mut at = usize::try_from(self.head % size).unwrap_or(0);
        let skip = if at + need > self.size { self.size - at } else { 0 };
        if need > self.size || (self.head - self.tail) + (skip + need) as u64 > size {
            return false;
        }
        if skip > 0 {
            let mark = &SKIP[..skip.min(4)];
            // SAFETY: `at + skip` is the end of the mapping, and the lock gives us the only writer.
            unsafe { self.body().add(at).copy_from_nonoverlapping(mark.as_ptr(), mark.len()) };
            at = 0;
        }
        self.buf.clear();
        record::encode(record, &mut self.buf);
        // SAFETY: `at + need <= size` and `buf` has `need` bytes; see above.
        unsafe { self.body().add(at).copy_from_nonoverlapping(self.buf.as_ptr(), self.buf.len()) };
        self.head += (skip + need) as u64;
        self.word(HEAD_AT).store(self.head, Release);
        true
    }

    fn body(&self) -> *mut u8 {
        // SAFETY: the mapping is one page longer than the records.
        unsafe { self.memory.as_ptr().add(PAGE) }
    }

    /// The place behind the last line.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Everything up to this place is in the journal.
    pub fn release(&mut self, upto: u64) {
        self.tail = self.tail.max(upto.min(self.head));
        self.word(TAIL_AT).store(self.tail, Release);
    }

    /// The lines in the file of a ring whose process is gone: as many as are whole.
    pub(crate) fn records(file: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        let word =
            |at: usize| file.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
        let (head, mut tail) = (word(HEAD_AT), word(TAIL_AT));
        let Some(body) = file.get(PAGE..).filter(|b| !b.is_empty() && word(0) == MAGIC.to_be()) else {
            return records;
        };
        let size = body.len() as u64;
        if head.saturating_sub(tail) > size {
            return records;
        }
        while tail < head {
            let at = usize::try_from(tail % size).unwrap_or(0);
            let rest = &body[at..];
            if rest.len() < HEAD_BYTES || rest.starts_with(&SKIP) {
                tail += rest.len() as u64;
                continue;
            }
            let Found::Record(record, len) = record::decode(rest) else { break };
            records.push(record);
            tail += len as u64;
        }
        records
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `create`, which nothing uses any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), PAGE + self.size) };
    }
}

fn map(file: &File, bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh shared mapping of a file that has these bytes.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("the system mapped address zero"))
}
