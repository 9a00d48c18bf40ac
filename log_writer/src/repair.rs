//! The end of a file after a crash.
// spec: log_writer L-11

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes that are looked at in one step, from the end.
const STEP: u64 = 64 << 10;
/// Most files `<name>.torn-<n>`.
const TORN_MAX: u32 = 1_000;

/// What was cut from a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// Length of the file now.
    pub kept: u64,
    /// Bytes cut.
    pub cut: u64,
    /// Where they are.
    pub saved: PathBuf,
}

/// Cuts everything after `keep` bytes, or (`None`) after the last line feed, and saves it beside the file.
///
/// # Errors
/// When the file cannot be read or cut, or the bytes cannot be saved; the file is then unchanged.
pub fn repair(path: &Path, file: &mut File, keep: Option<u64>) -> io::Result<Option<Torn>> {
    let len = file.metadata()?.len();
    let kept = match keep {
        Some(keep) => keep.min(len),
        None => end_of_last_line(file, len)?,
    };
    if kept == len {
        return Ok(None);
    }
    let (mut save, saved) = torn_file(path)?;
    file.seek(SeekFrom::Start(kept))?;
    io::copy(&mut Read::by_ref(file).take(len - kept), &mut save)?;
    save.sync_all()?;
    file.set_len(kept)?;
    file.sync_all()?;
    Ok(Some(Torn { kept, cut: len - kept, saved }))
}

/// Position after the last line feed.
fn end_of_last_line(file: &mut File, len: u64) -> io::Result<u64> {
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut buf = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buf)?;
        if let Some(at) = buf.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn torn_file(path: &Path) -> io::Result<(File, PathBuf)> {
    for n in 1..=TORN_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".torn-{n}"));
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(file) => return Ok((file, name.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("there are {TORN_MAX} files {}.torn-* already", path.display())))
}

/// Appends to a file, as a crash would leave it: for tests of this and other modules.
#[doc(hidden)]
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(content: &[u8], keep: Option<u64>) -> (Vec<u8>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        std::fs::write(&path, content).expect("write");
        let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let torn = repair(&path, &mut file, keep).expect("repair");
        (std::fs::read(&path).expect("read"), torn.map(|t| std::fs::read(t.saved).expect("saved")))
    }

    #[test]
    fn whole_files_stay() {
        assert_eq!(repaired(b"", None), (vec![], None));
        assert_eq!(repaired(b"a\nb\n", None), (b"a\nb\n".to_vec(), None));
        assert_eq!(repaired(b"a\nb\n", Some(4)), (b"a\nb\n".to_vec(), None));
        assert_eq!(repaired(b"a\nb\n", Some(99)), (b"a\nb\n".to_vec(), None));
    }

    #[test]
    fn what_follows_the_last_line_is_saved_and_cut() {
        assert_eq!(repaired(b"a\nb", None), (b"a\n".to_vec(), Some(b"b".to_vec())));
        assert_eq!(repaired(b"ab", None), (vec![], Some(b"ab".to_vec())));
        let long = [&b"a\n"[..], &vec![0; 200_000]].concat();
        assert_eq!(repaired(&long, None), (b"a\n".to_vec(), Some(vec![0; 200_000])));
    }

    #[test]
    fn a_recorded_length_wins_over_lines() {
        assert_eq!(repaired(b"a\nb\nc\n", Some(2)), (b"a\n".to_vec(), Some(b"b\nc\n".to_vec())));
    }

    #[test]
    fn recorded_files_are_cut_as_specified() {
        // spec: log-cases/streams.jsonl; a character of a text is a byte.
        let mut seen = 0;
        for line in include_str!("../cases/streams.jsonl").lines() {
            let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if case["kind"] != "file" {
                continue;
            }
            let raw = bytes_of(&case["raw"]);
            let keep =
                usize::try_from(case["expect"]["truncate_to"].as_u64().expect("length")).expect("small");
            assert_eq!(repaired(&raw, None).0, raw[..keep], "{}", case["id"]);
            seen += 1;
        }
        assert!(seen > 4, "{seen} cases");
    }

    fn bytes_of(value: &serde_json::Value) -> Vec<u8> {
        let bytes = |text: &str| text.chars().map(|c| u8::try_from(c).expect("a byte")).collect::<Vec<u8>>();
        match value.as_str() {
            Some(text) => bytes(text),
            None => {
                let parts = value["parts"].as_array().expect("parts").iter();
                let part = |p: &serde_json::Value| {
                    let count = usize::try_from(p[1].as_u64().expect("count")).expect("small");
                    bytes(p[0].as_str().expect("text")).repeat(count)
                };
                parts.flat_map(part).collect()
            }
        }
    }

    #[test]
    fn earlier_torn_ends_are_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        for n in 1..=3 {
            append(&path, b"torn").expect("append");
            let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
            let torn = repair(&path, &mut file, None).expect("repair").expect("torn");
            assert!(torn.saved.ends_with(format!("a.log.torn-{n}")), "{torn:?}");
        }
    }
}
