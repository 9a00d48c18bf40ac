//! Reads an index.

use std::io::{self, Read};

use super::MAGIC;
use super::code::{Coder, take, take_bytes};
use super::record::Record;

/// Longest body of a block that is accepted.
const BODY_MAX: usize = 64 << 20;

/// Head of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// First byte of the log that it is about.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Their CRC-32.
    pub crc: u32,
    /// Lines in them.
    pub lines: u64,
}

/// Why an index cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("no audit index of a log writer")]
    Magic,
    /// A block has a good checksum and a bad content.
    #[error("the block at byte {0} is not understood")]
    Content(u64),
}

/// Reads an index block by block.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    pub(super) coder: Coder,
    /// Bytes read so far, all of whole blocks.
    good: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is no index.
    pub fn new(mut input: R) -> Result<Self, IndexError> {
        let mut magic = [0; 6];
        match input.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {
                Ok(Self { input, coder: Coder::default(), good: MAGIC.len() as u64 })
            }
            Ok(()) => Err(IndexError::Magic),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(IndexError::Magic),
            Err(error) => Err(error.into()),
        }
    }

    /// The next block; `None` at the end, also at a torn one (a crash leaves that).
    ///
    /// # Errors
    /// When the file cannot be read, or a block with a good checksum is not understood.
    pub fn block(&mut self) -> Result<Option<(Block, Vec<Record>)>, IndexError> {
        let mut head = [0; 8];
        if !filled(&mut self.input, &mut head)? {
            return Ok(None);
        }
        let [len, crc] =
            [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if len as usize > BODY_MAX {
            return Ok(None);
        }
        let mut body = vec![0; len as usize];
        if !filled(&mut self.input, &mut body)? || crc32fast::hash(&body) != crc {
            return Ok(None);
        }
        let content = self.content(&body).ok_or(IndexError::Content(self.good))?;
        self.good += 8 + u64::from(len);
        Ok(Some(content))
    }

    fn content(&mut self, mut body: &[u8]) -> Option<(Block, Vec<Record>)> {
        let bytes = &mut body;
        let (offset, len) = (take(bytes)?, take(bytes)?);
        let crc = u32::from_le_bytes(take_bytes(bytes, 4)?.try_into().ok()?);
        let block = Block { offset, len, crc, lines: take(bytes)? };
        let mut records = Vec::new();
        while !bytes.is_empty() {
            records.push(self.coder.decode(bytes)?);
        }
        Some((block, records))
    }

    /// Length of what is good so far.
    pub fn good(&self) -> u64 {
        self.good
    }
}

/// Reads all of `buf`, or tells that the end came before.
fn filled(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
