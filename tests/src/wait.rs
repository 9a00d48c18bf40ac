//! Waiting for a condition with a deadline, never for a time.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Looks every 5 ms until `look` gives a value.
///
/// # Errors
/// After `limit`: a message with `what` was waited for and the last thing seen, which `look` returns as `Err`.
pub fn until<T, E: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= deadline => {
                anyhow::bail!("waited {limit:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
