//! Programs to use Spread groups by hand and from scripts.
//!
//! | program | module | what |
//! |---|---|---|
//! | `spuser` | [`user`] | join, leave, send and receive by typing |
//! | `spflooder` | [`flooder`] | many messages, and how fast they went |
//! | `spsend` | [`send`] | standard input to groups |
//! | `sprecv` | [`recv`] | groups to standard output |
//!
//! [`cli`] has their command lines, [`json`] the objects that `spsend` reads and `sprecv` writes.
#![forbid(unsafe_code)]

pub mod cli;
pub mod flooder;
pub mod json;
pub mod recv;
pub mod send;
pub mod user;

use std::io;
use std::process::ExitCode;

/// Ends a program: 0, or 1 with the error on standard error. A reader that closed the pipe is no error.
pub fn exit(name: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Makes text of a stranger harmless for a terminal: what is no text, and control characters, are shown escaped.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_is_harmless() {
        assert_eq!(printable(b"hello\tw\xc3\xb6rld\x1b[2J\xff"), "hello\\tw\u{f6}rld\\u{1b}[2J\u{fffd}");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let pipe = || anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&pipe().context("writing")));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
