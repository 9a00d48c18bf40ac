//! Finds and opens logs and their indexes, also compressed or renamed ones.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::index::Index;

/// Suffixes of compressed files.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

/// Opens a log; compressed ones by their suffix.
///
/// # Errors
/// When it cannot be opened.
pub fn log(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    let name = path.as_os_str().as_encoded_bytes();
    if name.ends_with(b".gz") {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))));
    }
    if name.ends_with(b".zst") {
        return zst(file);
    }
    Ok(Box::new(BufReader::with_capacity(256 << 10, file)))
}

#[cfg(feature = "zstd")]
fn zst(file: File) -> io::Result<Box<dyn Read>> {
    Ok(Box::new(zstd::stream::read::Decoder::new(file)?))
}

#[cfg(not(feature = "zstd"))]
fn zst(_: File) -> io::Result<Box<dyn Read>> {
    Err(io::Error::other("this log_writer was built without the feature zstd; unpack the file first"))
}

/// Whether a file is an index, by its name.
pub fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "audit")
}

/// Finds the index of a log and opens it. `access.log.2.gz` may have `access.log.2.audit` (renamed by the writer)
/// or `access.log.audit.2` (renamed by logrotate), compressed or not.
///
/// # Errors
/// When there is one that cannot be opened.
pub fn index(log: &Path) -> anyhow::Result<Option<(PathBuf, Box<dyn Read>)>> {
    for path in candidates(log) {
        if path.is_file() {
            let input = self::log(&path).with_context(|| format!("cannot open {}", path.display()))?;
            return Ok(Some((path, input)));
        }
    }
    Ok(None)
}

/// The indexes of a directory of virtual hosts: the current one, and one for each period before.
///
/// # Errors
/// When the directory above cannot be read.
pub fn indexes_of_dir(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = dir.to_string_lossy();
    let dir = PathBuf::from(text.trim_end_matches('/'));
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", parent.display()))?.path();
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let middle = file.strip_prefix(&name).and_then(|rest| rest.strip_suffix(".audit"));
        let stamp = |m: &str| {
            m.is_empty() || m.strip_prefix('.').is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()))
        };
        if middle.is_some_and(stamp) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn candidates(log: &Path) -> Vec<PathBuf> {
    let text = log.to_string_lossy();
    let plain = COMPRESSED.iter().find_map(|s| text.strip_suffix(s)).unwrap_or(&text).trim_end_matches('/');
    let mut found = vec![Index::path_of(Path::new(plain))];
    if let Some((name, suffix)) = plain.rsplit_once(['.', '-'])
        && !suffix.is_empty()
        && suffix.bytes().all(|b| b.is_ascii_digit())
    {
        let separator = &plain[name.len()..=name.len()];
        found.push(format!("{name}.audit{separator}{suffix}").into());
    }
    let packed = found.iter().flat_map(|p| COMPRESSED.map(|s| PathBuf::from(format!("{}{s}", p.display()))));
    let packed: Vec<_> = packed.collect();
    found.extend(packed);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_looked_for_where_writers_and_logrotate_leave_it() {
        let first = |name: &str| {
            candidates(Path::new(name))
                .into_iter()
                .map(|p| p.display().to_string())
                .take(2)
                .collect::<Vec<_>>()
        };
        assert_eq!(first("a/access.log")[0], "a/access.log.audit");
        assert_eq!(first("a/access.log.2.gz"), ["a/access.log.2.audit", "a/access.log.audit.2"]);
        assert_eq!(
            first("access.log-20261128.zst"),
            ["access.log-20261128.audit", "access.log.audit-20261128"]
        );
        assert_eq!(first("vhosts/")[0], "vhosts.audit");
    }
}
