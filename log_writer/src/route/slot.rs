//! An output whose file may be followed by another one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::archive::Job;
use crate::output::{Output, Target};
use crate::rotate::{NUMBERS_MAX, Rotation};

/// An output whose file may be followed by another one.
#[derive(Debug)]
pub(super) struct Slot {
    /// What was configured, to find it again.
    pub(super) name: String,
    pub(super) output: Output,
    pub(super) rotating: Option<Rotating>,
}

#[derive(Debug)]
pub(super) struct Rotating {
    pub(super) plan: Arc<Rotation>,
    pub(super) begin: Timestamp,
    /// Place of the file in its period.
    pub(super) number: u32,
    /// The last attempt failed: not every line tries again.
    pub(super) failed: bool,
}

impl Slot {
    /// Begins another file before a line that would make this one too large.
    pub(super) fn make_room(&mut self, len: usize, sealed: &mut Vec<Job>) {
        let Some(Rotating { plan, number, failed: false, .. }) = &self.rotating else { return };
        let have = self.output.len();
        if have == 0 || plan.size.is_none_or(|size| have + len as u64 <= size) {
            return;
        }
        // The same size at the same line on every writer, so the files are the same too.
        let next = (number + 1).min(NUMBERS_MAX);
        if let Err(error) = self.begin_file(None, next, sealed) {
            let target = self.output.target();
            tracing::error!(%target, %error, "No new file could be begun; lines go on to the old one.");
            if let Some(rotating) = &mut self.rotating {
                rotating.failed = true;
            }
        }
    }

    pub(super) fn next_period(&mut self, at: Timestamp, sealed: &mut Vec<Job>) -> io::Result<()> {
        let begin = self.rotating.as_ref().map(|r| r.plan.begin(at));
        self.begin_file(begin, 0, sealed).inspect_err(|_| {
            // Not again at every look at the clock: the next period is another chance.
            if let (Some(rotating), Some(begin)) = (&mut self.rotating, begin) {
                rotating.begin = begin;
            }
        })
    }

    /// Ends the file; the next one is of the period that begins at `begin` (`None`: of the same).
    pub(super) fn begin_file(
        &mut self,
        begin: Option<Timestamp>,
        number: u32,
        sealed: &mut Vec<Job>,
    ) -> io::Result<()> {
        let Some(rotating) = &mut self.rotating else { return Ok(()) };
        self.output.flush()?;
        let plan = Arc::clone(&rotating.plan);
        let new_begin = begin.unwrap_or(rotating.begin);
        let next = plan.current(new_begin, number, "");
        let aside =
            (0..=NUMBERS_MAX).map_while(|n| plan.aside(rotating.begin, n)).find(|path| !is_taken(path));
        if aside.is_none() && self.output.target() == &Target::File(next.clone()) {
            // The name does not change with this period, or all numbers are used up.
            (rotating.begin, rotating.number) = (new_begin, number);
            return Ok(());
        }
        let path = self.output.rotate(next, aside.as_deref())?;
        (rotating.begin, rotating.number, rotating.failed) = (new_begin, number, false);
        link(Some(&plan), self.output.target());
        sealed.push(Job { path, plan });
        Ok(())
    }
}

/// Whether there is a file of this name, packed or not.
fn is_taken(path: &Path) -> bool {
    ["", ".gz", ".zst", ".parquet"].iter().any(|s| crate::output::with_suffix(path, s).exists())
}

/// The place of the last file of a period: writing goes on there.
pub(super) fn last_number(plan: &Rotation, begin: Timestamp) -> u32 {
    if !plan.template.has_time() {
        return 0;
    }
    let name = |n| plan.current(begin, n, "");
    let last = (0..NUMBERS_MAX).take_while(|n| is_taken(&name(*n))).last().unwrap_or(0);
    // A packed file is complete.
    if is_taken(&name(last)) && !name(last).exists() { last + 1 } else { last }
}

/// Makes the symbolic link to the current file.
pub(super) fn link(plan: Option<&Arc<Rotation>>, target: &Target) {
    let (Some(link), Target::File(path)) = (plan.and_then(|p| p.link.as_ref()), target) else { return };
    let to = match (path.file_name(), path.parent() == link.parent()) {
        (Some(name), true) => PathBuf::from(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
    };
    let new = crate::output::with_suffix(link, ".new");
    // What stands in the way may be a left-over; only links are replaced.
    let _ = std::fs::remove_file(&new);
    let other = link.symlink_metadata().is_ok_and(|m| !m.is_symlink());
    let made = match other {
        true => Err(io::Error::other("there is a file of this name that is no link")),
        false => std::os::unix::fs::symlink(&to, &new).and_then(|()| std::fs::rename(&new, link)),
    };
    if let Err(error) = made {
        tracing::warn!(link = %link.display(), %error, "The link to the current file cannot be made.");
    }
}
