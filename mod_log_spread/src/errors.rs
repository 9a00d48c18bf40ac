//! Lines of the error log, to a group.
//!
//! Only children send them: what the parent says at start is in the file alone. What this module says itself is never
//! sent: an error of sending cannot make more to send.

use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use httpd::errorlog::Entry;
use httpd::module::config;

use crate::child::Child;
use crate::module::LogSpread;
use crate::settings::LEVELS;

thread_local! {
    /// This thread is in `take`: an entry that comes now was made by it.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Lines that may go out, refilled with time, and those that did not.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
    left_out: u64,
}

static BUCKET: Mutex<Bucket> = Mutex::new(Bucket { tokens: 0.0, filled: None, left_out: 0 });

impl Bucket {
    /// Takes a token. `Some` with the number of lines that got none since the last one.
    fn take(&mut self, rate: u32, now: Instant) -> Option<u64> {
        let rate = f64::from(rate);
        let more = self.filled.replace(now).map_or(rate, |at| (now - at).as_secs_f64() * rate);
        self.tokens = (self.tokens + more).min(rate);
        if self.tokens < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Takes an entry of the error log.
pub(crate) fn take(entry: &Entry<'_>, child: &Child) {
    if entry.is_own() || INSIDE.replace(true) {
        return;
    }
    send(entry, child);
    INSIDE.set(false);
}

fn send(entry: &Entry<'_>, child: &Child) {
    let Some(errors) = entry.server().and_then(config::<LogSpread>).and_then(|s| s.errors.as_ref()) else {
        return;
    };
    if entry.level() > errors.level {
        return;
    }
    let Some(log) = child.error_log(&errors.name) else { return };
    let left_out = BUCKET.lock().unwrap_or_else(PoisonError::into_inner).take(errors.rate, Instant::now());
    let Some(left_out) = left_out else {
        child.counters().error_suppressed.fetch_add(1, Relaxed);
        return;
    };
    if left_out > 0 {
        let text = format!("lines left out: {left_out}; more than {} a second", errors.rate);
        child.write_error(log, line("log_spread", 4, None, text.as_bytes()));
    }
    child.write_error(log, line(&entry.module(), entry.level(), entry.client().as_deref(), entry.text()));
}

/// `[time] [module:level] [pid N:tid N] [client address] text`, as the server writes it, but the time in UTC.
fn line(module: &str, level: u32, client: Option<&str>, text: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let level = LEVELS.get(level as usize).copied().unwrap_or("-");
    let (pid, tid) = (std::process::id(), httpd::errorlog::thread_id());
    let mut head = String::with_capacity(128 + text.len());
    // Writing to a string cannot fail.
    let _ = write!(
        head,
        "[{}] [{module}:{level}] [pid {pid}:tid {tid}] ",
        time(now.as_secs(), now.subsec_micros())
    );
    if let Some(client) = client {
        let _ = write!(head, "[client {client}] ");
    }
    let mut line = head.into_bytes();
    for byte in text.iter().copied().filter(|b| *b != b'\r') {
        match byte {
            // One entry is one line, whatever is in it.
            b'\n' => line.extend_from_slice(b"\\n"),
            0..=8 | 11..=31 | 127 => line.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => line.push(byte),
        }
    }
    while line.ends_with(b"\\n") {
        line.truncate(line.len() - 2);
    }
    line.push(b'\n');
    line
}

/// `2026-01-31T23:59:59.123456Z`.
fn time(seconds: u64, micros: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    format!("{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z", era * 400 + year)
}
