//! Open files: every client is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors for everything that is no client: sockets of the ring, listeners, the log, the runtime.
const RESERVED: u64 = 64;

/// With a limit so low that not even these fit, errors of accept show it.
const SESSIONS_MIN: usize = 64;

/// Raises the soft limit of open files to the hard one. Returns how many of `wanted` sessions fit in it; says so if
/// they are fewer.
///
/// Without this a daemon at its limit could not even refuse a client: it would wait unseen in the system's queue.
pub fn sessions_that_fit(wanted: usize) -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            warn!(%error, "The limit of open files is not known.");
            return wanted;
        }
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            warn!(%error, soft, hard, "Cannot raise the limit of open files.");
            soft
        }
    };
    let fit = sessions_within(limit, wanted);
    if fit < wanted {
        let needed = (wanted as u64).saturating_add(RESERVED);
        info!(
            sessions = fit,
            wanted, limit, needed, "The limit of open files (RLIMIT_NOFILE) allows fewer sessions."
        );
    }
    fit
}

fn sessions_within(limit: u64, wanted: usize) -> usize {
    let fit = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    fit.max(SESSIONS_MIN).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_room_for_the_rest() {
        assert_eq!(sessions_within(1024, 16_384), 960);
        assert_eq!(sessions_within(1 << 20, 16_384), 16_384);
        assert_eq!(sessions_within(10, 16_384), 64);
        assert_eq!(sessions_within(u64::MAX, 5), 5);
        assert_eq!(sessions_that_fit(1), 1);
        assert!(sessions_that_fit(usize::MAX) < usize::MAX);
    }
}
