//! Lines of a message: which are wanted, and the time in them.
// spec: log_writer 3.5, 5.2

use regex::bytes::{Regex, RegexBuilder};

/// Memory that a compiled expression may take.
const MATCHER_BYTES_MAX: usize = 1 << 20;

/// A match expression. Its time is linear in the length of the line, whatever the expression.
#[derive(Clone, Debug)]
pub struct Matcher(Regex);

impl Matcher {
    /// Compiles an expression (POSIX extended syntax; no back-references).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(expression: &str) -> Result<Self, String> {
        // POSIX expressions know nothing of Unicode: a dot is one byte.
        let built = RegexBuilder::new(expression).unicode(false).size_limit(MATCHER_BYTES_MAX).build();
        built.map(Self).map_err(|error| error.to_string().lines().last().unwrap_or("bad expression").into())
    }
}

/// What happens to the time in a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Rewrite {
    /// Nothing.
    #[default]
    Keep,
    /// The writer's time, in the form of the common log format. Two writers then differ.
    Common,
    /// The later one of the line's time and the time of the line written before: two writers agree.
    Monotone,
    /// The writer's time, in a form of strftime that brings its own brackets. Two writers then differ.
    Format(String),
}

pub(super) fn wanted(matches: &[Matcher], line: &[u8]) -> bool {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    matches.is_empty() || matches.iter().any(|m| m.0.is_match(text))
}

/// Appends a message and returns its lines.
pub(super) fn append_line(buffer: &mut Vec<u8>, payload: &[u8]) -> u64 {
    buffer.extend_from_slice(payload);
    // Nearly always one line with its end.
    match memchr::memchr(b'\n', payload) {
        Some(at) if at + 1 == payload.len() => 1,
        Some(_) => {
            let open = !payload.ends_with(b"\n");
            if open {
                buffer.push(b'\n');
            }
            memchr::memchr_iter(b'\n', payload).count() as u64 + u64::from(open)
        }
        None => {
            buffer.push(b'\n');
            1
        }
    }
}

/// Time and text of the latest line of a route.
pub(super) type Latest = Option<(i64, [u8; TIME_BYTES])>;

/// The line with its time replaced, if that is wanted and the line has one.
pub(super) fn rewritten<'a>(
    rewrite: &Rewrite,
    latest: &mut Latest,
    line: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> &'a [u8] {
    let format = match rewrite {
        Rewrite::Monotone => return monotone(latest, line, scratch),
        Rewrite::Keep => return line,
        Rewrite::Common => "[%d/%b/%Y:%H:%M:%S %z]",
        Rewrite::Format(format) => format,
    };
    let Some(at) = time_of(line) else { return line };
    let Ok(now) = jiff::fmt::strtime::format(format, &jiff::Zoned::now()) else { return line };
    scratch.clear();
    scratch.extend_from_slice(&line[..at]);
    scratch.extend_from_slice(now.as_bytes());
    scratch.extend_from_slice(&line[at + TIME_BYTES..]);
    scratch
}

/// The line, with the latest time before it if its own is earlier.
fn monotone<'a>(latest: &mut Latest, line: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let Some(at) = time_of(line) else { return line };
    let Some(text) = line.get(at..at + TIME_BYTES).and_then(|t| <[u8; TIME_BYTES]>::try_from(t).ok()) else {
        return line;
    };
    let Some(stamp) = access_log::parse_clf_time(&text[1..TIME_BYTES - 1]) else { return line };
    match latest {
        Some((unix, before)) if stamp.unix < *unix => {
            scratch.clear();
            scratch.extend_from_slice(line);
            scratch[at..at + TIME_BYTES].copy_from_slice(before);
            scratch
        }
        _ => {
            *latest = Some((stamp.unix, text));
            line
        }
    }
}

/// Length of `[10/Oct/2000:13:55:36 -0700]`.
const TIME_BYTES: usize = 28;

/// Place of the bracket pair that holds the time: brackets around an address are not taken for it.
pub(crate) fn time_of(line: &[u8]) -> Option<usize> {
    let shape = b"[00/Aaa/0000:00:00:00 +0000]";
    memchr::memchr_iter(b'[', line).find(|at| {
        let Some(window) = line.get(*at..at + TIME_BYTES) else { return false };
        window.iter().zip(shape).all(|(b, want)| match want {
            b'0' => b.is_ascii_digit(),
            b'A' => b.is_ascii_uppercase(),
            b'a' => b.is_ascii_lowercase(),
            b'+' => *b == b'+' || *b == b'-',
            want => b == want,
        })
    })
}
