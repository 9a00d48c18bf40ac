//! What tests of sinks share.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log_stream::SourceId;
use log_writer::index::Index;

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Group of all lines.
pub(crate) const GROUP: Bytes = Bytes::from_static(b"site4");

/// Waits for a condition.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LIMIT, "no {what} after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ended when the test does.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log of numbered lines with its index.
pub(crate) fn log(dir: &Path, lines: u64, line: fn(u64) -> String) -> PathBuf {
    let path = dir.join("access.log");
    let mut index = Index::open(Index::path_of(&path), 0, false, |_| Ok((0, 0))).unwrap();
    let mut text = Vec::new();
    for seq in 1..=lines {
        index.line(&GROUP, SourceId([9; 16]), seq, 1);
        text.extend_from_slice(line(seq).as_bytes());
    }
    index.flush(text.len() as u64, crc32fast::hash(&text), lines).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}
