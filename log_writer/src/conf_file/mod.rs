//! The language of `spreadlogd.conf`, read unchanged and a little more freely.
//!
//! ```text
//! Spread {
//!   Port = 4803
//!   Log {
//!     Group = site4
//!     File = access.log
//!   }
//! }
//! ```
//!
//! Differences from the original: `=` needs no blanks around it, `Port`, `Host` and global keys may stand anywhere in
//! their block, lines are counted from 1, all errors of a file are told in one run, a quote that is not closed is an
//! error, there is no limit of ten `Match`, two `Log` of one group both work.
// spec: log_writer 2, L-1

use std::fmt;

use self::parser::Parser;
use self::words::split;
use crate::config::SessionConfig;

mod parser;
#[cfg(test)]
mod tests;
mod words;

/// Something in the file that is wrong, or has no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Line, from 1.
    pub line: usize,
    /// What.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct ConfFile {
    /// One for each daemon: blocks of the same daemon are one session, so that their lines have one order.
    pub sessions: Vec<SessionConfig>,
    /// What has no effect.
    pub warnings: Vec<Note>,
}

/// Reads a file.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, ignore_unsupported: bool) -> Result<ConfFile, Vec<Note>> {
    let (words, errors) = split(text);
    let last_line = text.lines().count().max(1);
    let mut parser =
        Parser { words, at: 0, last_line, ignore_unsupported, errors, conf: ConfFile::default() };
    parser.file();
    parser.check();
    if parser.errors.is_empty() {
        Ok(parser.conf)
    } else {
        parser.errors.sort_by_key(|e| e.line);
        Err(parser.errors)
    }
}
