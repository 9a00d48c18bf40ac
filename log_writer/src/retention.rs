//! Which complete files are kept: so many, so old, so many bytes.
// spec: log_writer L-20

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{error, info};

use crate::archive::{complete_files, is_packed};
use crate::index::Index;
use crate::rotate::Rotation;

/// One limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// So many files.
    Files(usize),
    /// Files that were written within this time.
    Age(Duration),
    /// So many bytes.
    Bytes(u64),
}

impl Keep {
    /// Reads `90` (files), `30d` (age; `h`, `d`, `w`) or `100G` (bytes; `K`, `M`, `G`, `T`).
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected =
            || "a number of files (90), an age (12h, 30d, 8w) or a size (500M, 100G) is expected".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| expected())?;
        let age = |unit: u64| number.checked_mul(unit).map(|s| Self::Age(Duration::from_secs(s)));
        let bytes = |shift: u32| number.checked_mul(1 << shift).map(Self::Bytes);
        match &text[digits.len()..] {
            "" => usize::try_from(number).ok().map(Self::Files),
            "h" => age(3_600),
            "d" => age(86_400),
            "w" => age(7 * 86_400),
            "K" => bytes(10),
            "M" => bytes(20),
            "G" => bytes(30),
            "T" => bytes(40),
            _ => None,
        }
        .ok_or_else(expected)
    }
}

/// Removes complete files that are beyond a limit, oldest first, with their indexes; the file that is being written
/// stays. Limits count for each virtual host.
pub fn remove_oldest(plan: &Rotation, now: SystemTime) {
    if plan.keep.is_empty() {
        return;
    }
    let current = usize::from(plan.template.has_time());
    for mut files in complete_files(plan).into_values() {
        files.truncate(files.len().saturating_sub(current));
        let files: Vec<Found> = files.into_iter().filter_map(Found::of).collect();
        let old = plan.keep.iter().map(|keep| beyond(*keep, &files, now)).max().unwrap_or(0);
        files.iter().take(old).for_each(|file| remove(&file.path));
    }
}

struct Found {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

impl Found {
    /// `None`: it is gone already.
    fn of(path: PathBuf) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        Some(Self { bytes: meta.len(), written: meta.modified().ok()?, path })
    }
}

/// How many of the oldest are beyond the limit.
fn beyond(keep: Keep, files: &[Found], now: SystemTime) -> usize {
    match keep {
        Keep::Files(number) => files.len().saturating_sub(number),
        Keep::Age(age) => files
            .iter()
            // One with a time in the future is young.
            .take_while(|f| now.duration_since(f.written).is_ok_and(|passed| passed > age))
            .count(),
        Keep::Bytes(bytes) => {
            let mut left = bytes;
            let fit = files.iter().rev().take_while(|f| {
                let room = left.checked_sub(f.bytes);
                left = room.unwrap_or(0);
                room.is_some()
            });
            files.len() - fit.count()
        }
    }
}

fn remove(path: &Path) {
    let plain = if is_packed(path) { path.with_extension("") } else { path.to_owned() };
    match std::fs::remove_file(path) {
        Ok(()) => {
            info!(file = %path.display(), "Old file removed.");
            // There may be none.
            let _ = std::fs::remove_file(Index::path_of(&plain));
        }
        Err(error) => error!(file = %path.display(), %error, "An old file cannot be removed."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::rotate::Template;

    #[test]
    fn limits_have_units() {
        assert_eq!(Keep::parse("90"), Ok(Keep::Files(90)));
        assert_eq!(Keep::parse("2w"), Ok(Keep::Age(Duration::from_secs(14 * 86_400))));
        assert_eq!(Keep::parse("3G"), Ok(Keep::Bytes(3 << 30)));
        for wrong in ["", "d", "-1", "3m", "1.5G", "99999999999999T", "9 d"] {
            Keep::parse(wrong).expect_err(wrong);
        }
    }

    /// Names that are left of five daily files of 10 bytes, the last of which is being written.
    fn left(keep: &[&str], current: bool) -> Vec<u32> {
        let dir = tempfile::tempdir().expect("dir");
        let now = SystemTime::now();
        let name = |day: u32| {
            // With a time in the name, the newest is the current one.
            if current { format!("a-2026010{day}.log") } else { format!("a.log-2026010{day}-000000") }
        };
        for day in 1..=5 {
            let path = dir.path().join(name(day));
            std::fs::write(&path, "012345678\n").expect("write");
            std::fs::write(Index::path_of(&path), "").expect("write");
            let age = Duration::from_secs(u64::from(5 - day) * 86_400 + 60);
            File::options().write(true).open(&path).expect("open").set_modified(now - age).expect("time");
        }
        std::fs::write(dir.path().join("other"), "").expect("write");
        let template = dir.path().join(if current { "a-%Y%m%d.log" } else { "a.log" });
        let mut plan = Rotation::new(Template::parse(&template.display().to_string()).expect("template"));
        plan.keep = keep.iter().map(|k| Keep::parse(k).expect("good")).collect();
        remove_oldest(&plan, now);
        assert!(dir.path().join("other").exists());
        let there = |day: &u32| dir.path().join(name(*day)).exists();
        let left: Vec<u32> = (1..=5).filter(there).collect();
        let index = |day: &u32| Index::path_of(&dir.path().join(name(*day))).exists();
        assert_eq!((1..=5).filter(index).collect::<Vec<_>>(), left);
        left
    }

    #[test]
    fn each_limit_counts_and_the_current_file_stays() {
        assert_eq!(left(&[], true), [1, 2, 3, 4, 5]);
        assert_eq!(left(&["2"], true), [3, 4, 5]);
        assert_eq!(left(&["2"], false), [4, 5]);
        assert_eq!(left(&["0"], true), [5]);
        assert_eq!(left(&["2d"], true), [4, 5]);
        assert_eq!(left(&["9w"], true), [1, 2, 3, 4, 5]);
        assert_eq!(left(&["1h"], false), [5]);
        // 1 KiB is more than there is.
        assert_eq!(left(&["1K"], true), [1, 2, 3, 4, 5]);
        assert_eq!(left(&["0K"], true), [5]);
        assert_eq!(left(&["4", "3d", "1K"], false), [3, 4, 5]);
    }

    #[test]
    fn sizes_are_summed_from_the_newest() {
        let file = |bytes| Found { path: PathBuf::new(), bytes, written: SystemTime::UNIX_EPOCH };
        let files = [file(5), file(1), file(20), file(10)];
        for (limit, old) in [(9, 4), (10, 3), (29, 3), (30, 2), (31, 1), (35, 1), (36, 0)] {
            assert_eq!(beyond(Keep::Bytes(limit), &files, SystemTime::UNIX_EPOCH), old, "{limit}");
        }
    }
}
