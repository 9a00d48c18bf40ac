//! Lines in a sequence of bytes: a file after a crash, the payload of a message.

use memchr::{memchr, memrchr};

/// Iterates over the complete lines of `bytes`, each with its line feed, and then knows the tail.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

/// What follows the last line feed. Not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail<'a>(pub &'a [u8]);

impl<'a> Lines<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// After the last complete line: what is left, if anything.
    pub fn tail(&self) -> Option<Tail<'a>> {
        (!self.rest.is_empty()).then_some(Tail(self.rest))
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        Some(line)
    }
}

/// Length of `bytes` up to and including the last line feed: what is kept of a file whose last write was torn.
pub fn complete_len(bytes: &[u8]) -> usize {
    memrchr(b'\n', bytes).map_or(0, |last| last + 1)
}
