//! The 48-byte header.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | type, marked with the byte order of the writer |
//! | 4 | 32 | sender (in membership messages: the group) |
//! | 36 | 4 | number of 32-byte names that follow, signed |
//! | 40 | 4 | hint, with a mark of its own |
//! | 44 | 4 | number of data bytes, signed |
//!
//! Source: `spec/client-protocol.md#3.1`.

use crate::frame::FrameError;
use crate::limits::{GROUP_FIELD, HEADER, REJECT_WORD};
use crate::names::GroupName;
use crate::service::{ByteOrder, Hint, ServiceType};

/// The fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Service and flag bits, without the byte-order mark.
    pub service: ServiceType,
    /// The private group of the sender, or the group of a membership message. Bytes after the first zero of
    /// the field have no meaning and are not kept here.
    pub sender: GroupName,
    /// Number of names that follow.
    pub num_groups: u32,
    /// The message type of the application, untouched.
    pub hint: Hint,
    /// Number of data bytes that follow the names.
    pub data_len: u32,
    /// The order in which `service`, `num_groups` and `data_len` stand on the wire.
    pub order: ByteOrder,
}

impl Header {
    /// Reads the fields. Only the signs of the two counts are checked.
    ///
    /// # Errors
    /// [`FrameError::GroupCount`] or [`FrameError::DataLength`] for a negative count.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, FrameError> {
        let order = ByteOrder::of_word(word(bytes, 0));
        let num_groups = order.read(word(bytes, 36)).cast_signed();
        let data_len = order.read(word(bytes, 44)).cast_signed();
        Ok(Self {
            service: ServiceType::from_word(word(bytes, 0), order),
            sender: GroupName::from_field(sender_field(bytes)),
            num_groups: u32::try_from(num_groups).map_err(|_| FrameError::GroupCount(num_groups))?,
            hint: Hint(word(bytes, 40)),
            data_len: u32::try_from(data_len).map_err(|_| FrameError::DataLength(data_len))?,
            order,
        })
    }

    /// The 48 bytes, in the order that `order` says.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&self.service.to_word(self.order));
        out[4..36].copy_from_slice(self.sender.as_field());
        out[36..40].copy_from_slice(&self.order.write(self.num_groups));
        out[40..44].copy_from_slice(&self.hint.0);
        out[44..].copy_from_slice(&self.order.write(self.data_len));
        out
    }

    /// Bytes of names and data together (S in the specification).
    #[inline]
    pub const fn body_len(&self) -> u64 {
        GROUP_FIELD as u64 * self.num_groups as u64 + self.data_len as u64
    }

    /// Bytes between header and names: 4 in a rejected message, else 0.
    #[inline]
    pub(crate) const fn gap(&self) -> usize {
        if self.service.intersects(ServiceType::REJECT) { REJECT_WORD } else { 0 }
    }
}

/// Rewrites the words of a header to what a little-endian daemon writes: type with its mark, the counts; byte
/// 31 of the sender becomes zero. The hint stays as it is.
///
/// spec: client-protocol 5.1
#[inline]
pub(crate) fn normalize(bytes: &mut [u8; HEADER], header: &Header) {
    bytes[..4].copy_from_slice(&header.service.to_word(ByteOrder::Little));
    bytes[35] = 0;
    bytes[36..40].copy_from_slice(&header.num_groups.to_le_bytes());
    bytes[44..].copy_from_slice(&header.data_len.to_le_bytes());
}

/// The word at `at`, which is one of the offsets of the table above.
#[inline]
fn word(bytes: &[u8; HEADER], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

#[inline]
fn sender_field(bytes: &[u8; HEADER]) -> [u8; GROUP_FIELD] {
    let mut field = [0; GROUP_FIELD];
    field.copy_from_slice(&bytes[4..36]);
    field
}
