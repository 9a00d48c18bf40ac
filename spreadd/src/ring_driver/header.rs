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
use spread_ring::wire::{COUNTER_AT, FLAGS_AT, KEY_ID_AT, Kind};
pub(super) use spread_ring::wire::{
    FLAG_AUTHENTICATED as AUTHENTICATED, FLAG_SEALED as SEALED, HEADER_LEN, MAGIC, VERSION,
};

/// Packet type: data. By far the most frequent, so it is not noted in the black box.
pub(super) const DATA: u8 = Kind::Data as u8;

/// Packet types that may introduce a session: join, presence, or a fragment of one of these.
const INTRODUCING: [u8; 3] = [Kind::Join as u8, Kind::Presence as u8, Kind::Fragment as u8];

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
        u64::from_le_bytes(self.array(COUNTER_AT))
    }

    pub(super) fn sender(self) -> NodeId {
        NodeId(u16::from_le_bytes(self.array(24)))
    }

    pub(super) fn key_id(self) -> u8 {
        self.0[KEY_ID_AT]
    }

    pub(super) fn flags(self) -> u8 {
        self.0[FLAGS_AT]
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }
}

/// Writes the driver's fields. The flags other than its own two stay.
pub(super) fn finish(header: &mut [u8; HEADER_LEN], counter: u64, key_id: u8, flags: u8) {
    header[COUNTER_AT..COUNTER_AT + 8].copy_from_slice(&counter.to_le_bytes());
    header[KEY_ID_AT] = key_id;
    header[FLAGS_AT] = header[FLAGS_AT] & !(SEALED | AUTHENTICATED) | flags;
}
