//! A place in a line, and the steps that all formats share.

use memchr::{memchr, memchr2};

use crate::escape::escape_len;
use crate::{LINE_LEN_MAX, LineError};

/// The checks of a line before its fields: length, line feed, control bytes. Gives the line without its line
/// feed.
pub(crate) fn body(line: &[u8]) -> Result<&[u8], LineError> {
    if line.len() > LINE_LEN_MAX {
        return Err(LineError::TooLong);
    }
    let Some((b'\n', body)) = line.split_last() else { return Err(LineError::Torn) };
    if body.is_empty() {
        return Err(LineError::Empty);
    }
    // Without a branch a byte, so that the compiler makes vector code of it: this reads every byte of a log.
    if body.iter().fold(false, |seen, &b| seen | (b < 0x20) | (b == 0x7f)) {
        return Err(LineError::ControlByte);
    }
    Ok(body)
}

/// The part of a line that is still to be read.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Scan<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Takes `n` bytes, or all if there are fewer.
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = tail;
        head
    }

    /// Takes all up to the next space, or the rest.
    pub(crate) fn word(&mut self) -> &'a [u8] {
        self.take(memchr(b' ', self.rest).unwrap_or(self.rest.len()))
    }

    /// Takes exactly one space between two fields.
    pub(crate) fn space(&mut self) -> Result<(), LineError> {
        match self.rest {
            [] | [b' '] => Err(LineError::MissingField),
            [b' ', b' ', ..] => Err(LineError::BadSeparator),
            [b' ', rest @ ..] => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(LineError::BadSeparator),
        }
    }

    /// Takes a quoted field with its quotes; gives the text between them, escapes checked and kept.
    pub(crate) fn quoted(&mut self) -> Result<&'a [u8], LineError> {
        match self.rest {
            [b'"', text @ ..] => {
                let len = quoted_len(text)?;
                self.rest = &text[len + 1..];
                Ok(&text[..len])
            }
            _ => Err(LineError::MissingField),
        }
    }
}

/// Length of the text before the next unescaped quote.
pub(crate) fn quoted_len(text: &[u8]) -> Result<usize, LineError> {
    let mut at = 0;
    loop {
        let found = memchr2(b'"', b'\\', &text[at..]).ok_or(LineError::UnterminatedQuote)?;
        at += found;
        if text[at] == b'"' {
            return Ok(at);
        }
        at += escape_len(&text[at..]).ok_or_else(|| match text[at..] {
            [_] => LineError::UnterminatedQuote,
            _ => LineError::BadEscape,
        })?;
    }
}

/// A decimal number below 2^64 without sign.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |n, &b| {
        let digit = b.wrapping_sub(b'0');
        (digit < 10).then(|| n.checked_mul(10)?.checked_add(u64::from(digit))).flatten()
    })
}

/// `-` or a number.
pub(crate) fn size(text: &[u8]) -> Result<Option<u64>, LineError> {
    match text {
        b"-" => Ok(None),
        digits => number(digits).map(Some).ok_or(LineError::BadSize),
    }
}

/// `-` or three digits from 100 to 999.
pub(crate) fn status(text: &[u8]) -> Result<Option<u16>, LineError> {
    match *text {
        [b'-'] => Ok(None),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            let digit = |d: u8| u16::from(d - b'0');
            Ok(Some(digit(a) * 100 + digit(b) * 10 + digit(c)))
        }
        _ => Err(LineError::BadStatus),
    }
}

/// Client host or address.
pub(crate) fn host(text: &[u8]) -> Result<&[u8], LineError> {
    let legal = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'%' | b'-');
    match text {
        [] => Err(LineError::BadSeparator),
        _ if text.iter().all(legal) => Ok(text),
        _ => Err(LineError::BadHost),
    }
}

/// Whether all bytes are those of a virtual host's name. A slash is not among them: the name may become a
/// file name.
pub(crate) fn is_vhost(text: &[u8]) -> bool {
    let legal = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'[' | b']' | b'-');
    !text.is_empty() && text.iter().all(legal)
}
