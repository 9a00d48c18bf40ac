//! Bytes on their way in: one large read gives many messages, which share its memory.

use std::io;

use bytes::BytesMut;

/// Size of a block. A read takes what is left of it.
const BLOCK: usize = 64 * 1024;
/// A read with less space than this would cost more than a new block.
const SPACE_MIN: usize = 4 * 1024;

/// What was read and not yet taken, and room behind it in the same block.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    /// Arrived bytes; the decoder takes whole frames off its front.
    pub(crate) data: BytesMut,
    /// Zeroed space directly behind `data`.
    space: BytesMut,
}

impl ReadBuffer {
    /// Starts with bytes that have arrived already.
    pub(crate) fn new(data: BytesMut) -> Self {
        Self { data, space: BytesMut::new() }
    }

    /// Reads once. `wanted` is the number of bytes the message at hand still needs, if known.
    pub(crate) fn fill(
        &mut self,
        wanted: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.space.len() < wanted.max(SPACE_MIN) {
            let mut block = BytesMut::zeroed((self.data.len() + wanted.max(SPACE_MIN)).max(BLOCK));
            block[..self.data.len()].copy_from_slice(&self.data);
            self.space = block.split_off(self.data.len());
            self.data = block;
        }
        let n = read(&mut self.space)?.min(self.space.len());
        let got = self.space.split_to(n);
        if self.data.is_empty() {
            self.data = got;
        } else {
            // The two are neighbours in one block: nothing is copied.
            self.data.unsplit(got);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Bytes come out as they went in, whatever the sizes of reads and takes.
        #[test]
        fn nothing_is_lost_or_reordered(
            steps in prop::collection::vec((0usize..90_000, 0usize..90_000, 0usize..200_000), 1..12),
        ) {
            let mut buffer = ReadBuffer::default();
            let (mut produced, mut consumed) = (0u32, 0u32);
            for (arrive, take, wanted) in steps {
                let n = buffer.fill(wanted, |space| {
                    let n = arrive.min(space.len());
                    for byte in &mut space[..n] {
                        *byte = (produced % 251) as u8;
                        produced += 1;
                    }
                    Ok(n)
                }).unwrap();
                prop_assert!(n == arrive || n >= SPACE_MIN.min(arrive));
                let part = buffer.data.split_to(take.min(buffer.data.len()));
                for byte in part {
                    prop_assert_eq!(u32::from(byte), consumed % 251);
                    consumed += 1;
                }
            }
            prop_assert_eq!(produced - consumed, u32::try_from(buffer.data.len()).unwrap());
        }
    }
}
