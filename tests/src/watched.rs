//! What can be seen of a daemon from outside: its memory, its counters, its log.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

use crate::process::Process;
use crate::wait;

/// Resident memory of a process in KiB.
///
/// # Errors
/// If it has ended.
pub fn resident_kib(process: &Process) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The counters of the session layer, which the daemon writes to its log on request; `live` are its sessions.
///
/// # Errors
/// If it writes none within `limit`.
pub fn session_counters(process: &Process, limit: Duration) -> anyhow::Result<BTreeMap<String, u64>> {
    let lines = |printed: &str| printed.lines().filter(|line| line.contains("Status, sessions:")).count();
    let before = lines(&process.printed());
    process.signal(Signal::SIGUSR1)?;
    let printed = wait::until("counters in the log", limit, || {
        let printed = process.printed();
        // The line is written as a whole.
        if lines(&printed) > before && printed.ends_with('\n') { Ok(printed) } else { Err(()) }
    })?;
    let line = printed.lines().rfind(|line| line.contains("Status, sessions:")).unwrap_or_default();
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    Ok(words.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Fails if the process has ended or its log tells of a fault.
///
/// # Errors
/// Then.
pub fn check_alive(process: &mut Process) -> anyhow::Result<()> {
    let printed = process.printed();
    let fault = printed.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
    ensure!(fault.is_none(), "the daemon's log says: {}", fault.unwrap_or_default());
    resident_kib(process).context("the daemon has ended")?;
    Ok(())
}

/// Memory over time, and what is said of it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Samples in KiB, at equal intervals.
    pub samples: Vec<u64>,
}

/// Growth from the first to the last part of the samples that is no leak: what the allocator keeps back in other
/// places each time.
const GROWTH_KIB: u64 = 8 << 10;

impl Memory {
    /// The median of the second and of the last quarter. The first quarter is left out: tables and pools still grow.
    pub fn quarters(&self) -> Option<(u64, u64)> {
        let n = self.samples.len();
        if n < 8 {
            return None;
        }
        let median = |part: &[u64]| {
            let mut part = part.to_vec();
            part.sort_unstable();
            part[part.len() / 2]
        };
        Some((median(&self.samples[n / 4..n / 2]), median(&self.samples[n - n / 4..])))
    }

    /// Whether it does not grow: the last quarter is at most a tenth and 8 MiB above the second.
    pub fn is_flat(&self) -> bool {
        self.quarters().is_none_or(|(early, late)| late <= early + early / 10 + GROWTH_KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_is_told_from_memory_that_does_not() {
        let flat = Memory { samples: (0..100).map(|i| 50_000 + i % 7 * 1000).collect() };
        assert!(flat.is_flat());
        let start = Memory { samples: (0..100).map(|i| 50_000.min(10_000 + i * 4000)).collect() };
        assert!(start.is_flat(), "growth at the start is none");
        let leak = Memory { samples: (0..100).map(|i| 50_000 + i * 500).collect() };
        assert!(!leak.is_flat(), "{:?}", leak.quarters());
    }
}
