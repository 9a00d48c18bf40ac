//! The part of a packet that is the driver's business: the common header.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | magic `53 52` |
//! | 2 | 1 | version |
//! | 3 | 1 | type |
//! | 4 | 4 | first bytes of the configuration hash |
//! | 8 | 8 | session of the transmitter |
//! | 16 | 8 | counter (written here) |
//! | 24 | 2 | node number of the transmitter |
//! | 26 | 1 | key id (written here) |
//! | 27 | 1 | flags (bits 0 and 1 written here) |
//!
//! spec: ring-protocol 2.1

use spread_ring::NodeId;

/// Length of the header.
pub(super) const HEADER_LEN: usize = 28;

/// First two bytes of every packet.
pub(super) const MAGIC: [u8; 2] = [0x53, 0x52];

/// The only version.
pub(super) const VERSION: u8 = 1;

/// Flag: the body is encrypted.
pub(super) const SEALED: u8 = 1;

/// Flag: the body is in clear and authenticated.
pub(super) const AUTHENTICATED: u8 = 2;

/// Packet types that may introduce a session: join, presence, control fragment (of one of these).
const INTRODUCING: [u8; 3] = [5, 8, 9];

/// A header in a buffer that is long enough. The accessors cannot fail.
#[derive(Clone, Copy)]
pub(super) struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The header at the start of `packet`, if it is long enough.
    pub(super) fn of(packet: &'a [u8]) -> Option<Self> {
        packet.first_chunk().map(Self)
    }

    pub(super) fn magic(self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    pub(super) fn version(self) -> u8 {
        self.0[2]
    }

    pub(super) fn packet_type(self) -> u8 {
        self.0[3]
    }

    /// Whether a packet of this type may come from a session not heard of before.
    pub(super) fn introduces(self) -> bool {
        INTRODUCING.contains(&self.packet_type())
    }

    pub(super) fn hash(self) -> [u8; 4] {
        self.array(4)
    }

    pub(super) fn session(self) -> u64 {
        u64::from_le_bytes(self.array(8))
    }

    pub(super) fn counter(self) -> u64 {
        u64::from_le_bytes(self.array(16))
    }

    pub(super) fn sender(self) -> NodeId {
        NodeId(u16::from_le_bytes(self.array(24)))
    }

    pub(super) fn key_id(self) -> u8 {
        self.0[26]
    }

    pub(super) fn flags(self) -> u8 {
        self.0[27]
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }
}

/// Writes the driver's fields. The flags other than its own two stay.
pub(super) fn finish(header: &mut [u8; HEADER_LEN], counter: u64, key_id: u8, flags: u8) {
    header[16..24].copy_from_slice(&counter.to_le_bytes());
    header[26] = key_id;
    header[27] = header[27] & !(SEALED | AUTHENTICATED) | flags;
}
