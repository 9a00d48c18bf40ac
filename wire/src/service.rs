//! The type word and the hint word of a header, and the byte order they are marked with.
//!
//! Source: `spec/client-protocol.md#3.2`, `#3.3`, `#3.4`.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// The order in which a peer writes the words of its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Both mark bits of the word are set.
    Little,
    /// The mark bits are clear (or, from a broken peer, differ).
    Big,
}

impl ByteOrder {
    /// The order of this machine.
    pub const NATIVE: Self = if cfg!(target_endian = "big") { Self::Big } else { Self::Little };

    /// The order that a type or hint word is marked with.
    ///
    /// The mark is symmetric under byte reversal. A word with one mark bit alone is read as the other order
    /// than little-endian, as a little-endian Spread does.
    #[inline]
    pub const fn of_word(word: [u8; 4]) -> Self {
        if word[0] & word[3] & 0x80 != 0 { Self::Little } else { Self::Big }
    }

    /// Reads a word of this order.
    #[inline]
    pub const fn read(self, word: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        }
    }

    /// Writes a word in this order.
    #[inline]
    pub const fn write(self, word: u32) -> [u8; 4] {
        match self {
            Self::Little => word.to_le_bytes(),
            Self::Big => word.to_be_bytes(),
        }
    }

    /// The mark bits that a writer of this order sets in a type or hint word.
    const fn mark(self) -> u32 {
        match self {
            Self::Little => ServiceType::MARK,
            Self::Big => 0,
        }
    }
}

/// The type field of a header: service and flag bits, without the byte-order mark.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ServiceType(pub u32);

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl ServiceType {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }
    };
}

bits! {
    /// Unreliable; the daemon treats it like [`RELIABLE`](Self::RELIABLE).
    UNRELIABLE = 0x01;
    /// Reliable, no ordering promise.
    RELIABLE = 0x02;
    /// Ordered per sender.
    FIFO = 0x04;
    /// Causal; the daemon treats it like [`AGREED`](Self::AGREED).
    CAUSAL = 0x08;
    /// Total order.
    AGREED = 0x10;
    /// Total order, delivered when every daemon has it.
    SAFE = 0x20;
    /// All six service bits.
    REGULAR = 0x3f;
    /// Not to be delivered to the sender.
    SELF_DISCARD = 0x40;
    /// Membership change by a join.
    CAUSED_BY_JOIN = 0x100;
    /// Membership change by a leave; alone it is the self-leave message.
    CAUSED_BY_LEAVE = 0x200;
    /// Membership change by a disconnect.
    CAUSED_BY_DISCONNECT = 0x400;
    /// Membership change by the network.
    CAUSED_BY_NETWORK = 0x800;
    /// Regular membership message.
    REG_MEMB = 0x1000;
    /// Transitional signal.
    TRANSITION = 0x2000;
    /// All membership bits.
    MEMBERSHIP = 0x3f00;
    /// Join request.
    JOIN = 0x1_0000;
    /// Leave request.
    LEAVE = 0x2_0000;
    /// Disconnect request.
    KILL = 0x4_0000;
    /// Internal to daemons; never legal from a client.
    GROUPS = 0x8_0000;
    /// Our own: messages are missing here; see [`Gap`](crate::Gap).
    GAP = 0x10_0000;
    /// A refused message that comes back to its sender.
    REJECT = 0x40_0000;
    /// The bits that are published as reserved.
    RESERVED = 0x3f_c000;
    /// Option of the C library's receive call; passes through if it is sent.
    DROP_RECV = 0x100_0000;
    /// The nine bits of which a client's message has exactly one.
    REQUEST = Self::REGULAR.0 | Self::JOIN.0 | Self::LEAVE.0 | Self::KILL.0;
}

impl ServiceType {
    /// The byte-order mark.
    pub const MARK: u32 = 0x8000_0080;

    /// The type without the mark in a word of the given order.
    #[inline]
    pub const fn from_word(word: [u8; 4], order: ByteOrder) -> Self {
        Self(order.read(word) & !Self::MARK)
    }

    /// The word with the mark of `order`.
    #[inline]
    pub const fn to_word(self, order: ByteOrder) -> [u8; 4] {
        order.write(self.0 & !Self::MARK | order.mark())
    }

    /// Whether all bits of `bits` are set.
    #[inline]
    pub const fn contains(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Whether a bit of `bits` is set.
    #[inline]
    pub const fn intersects(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }

    /// The bits that are also in `bits`.
    #[inline]
    pub const fn only(self, bits: Self) -> Self {
        Self(self.0 & bits.0)
    }

    /// The bits that are not in `bits`.
    #[inline]
    pub const fn without(self, bits: Self) -> Self {
        Self(self.0 & !bits.0)
    }

    /// Whether one of the six service bits is set: the message carries data.
    #[inline]
    pub const fn is_regular(self) -> bool {
        self.intersects(Self::REGULAR)
    }

    /// Whether the sender does not want its own copy.
    #[inline]
    pub const fn is_self_discard(self) -> bool {
        self.intersects(Self::SELF_DISCARD)
    }
}

impl BitOr for ServiceType {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ServiceType {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(u32, &str); 18] = [
            (0x01, "UNRELIABLE"),
            (0x02, "RELIABLE"),
            (0x04, "FIFO"),
            (0x08, "CAUSAL"),
            (0x10, "AGREED"),
            (0x20, "SAFE"),
            (0x40, "SELF_DISCARD"),
            (0x100, "CAUSED_BY_JOIN"),
            (0x200, "CAUSED_BY_LEAVE"),
            (0x400, "CAUSED_BY_DISCONNECT"),
            (0x800, "CAUSED_BY_NETWORK"),
            (0x1000, "REG_MEMB"),
            (0x2000, "TRANSITION"),
            (0x1_0000, "JOIN"),
            (0x2_0000, "LEAVE"),
            (0x4_0000, "KILL"),
            (0x8_0000, "GROUPS"),
            (0x40_0000, "REJECT"),
        ];
        let mut rest = self.0;
        let mut separator = "";
        for (bit, name) in NAMES {
            if rest & bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = "+";
                rest &= !bit;
            }
        }
        if rest != 0 || self.0 == 0 {
            write!(f, "{separator}0x{rest:x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceType({self})")
    }
}

/// The hint word of a header: the 16-bit message type of the application with a byte-order mark of its own.
///
/// The four bytes of a data message reach every receiver as its sender wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hint(pub [u8; 4]);

impl Hint {
    /// The bits that a client may set.
    const LEGAL: u32 = 0x80ff_ff80;

    /// A hint as a writer of `order` makes it.
    #[inline]
    pub const fn new(message_type: i16, order: ByteOrder) -> Self {
        let bits = (message_type.cast_unsigned() as u32) << 8;
        Self(order.write(bits | order.mark()))
    }

    /// The message type of the application.
    #[inline]
    pub const fn message_type(self) -> i16 {
        match self.order() {
            ByteOrder::Little => i16::from_le_bytes([self.0[1], self.0[2]]),
            ByteOrder::Big => i16::from_be_bytes([self.0[1], self.0[2]]),
        }
    }

    /// The byte order of the original sender.
    #[inline]
    pub const fn order(self) -> ByteOrder {
        ByteOrder::of_word(self.0)
    }

    /// Whether only the message type and mark bits are set: bytes 0 and 3 are 0x00 or 0x80.
    #[inline]
    pub const fn is_legal(self) -> bool {
        u32::from_le_bytes(self.0) & !Self::LEGAL == 0
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint({}, {:?})", self.message_type(), self.order())
    }
}
