//! The packets of the monitor protocol, both directions.
//!
//! | offset | size | field | in requests | in status replies |
//! |---|---|---|---|---|
//! | 0 | 4 | type and byte order | one control bit | status |
//! | 4 | 4 | transmitter | identifier of the entry the monitor runs as | 0 |
//! | 8 | 4 | daemon | the same | identifier of the replying daemon |
//! | 12 | 8 | membership | 0 | 0 |
//! | 20 | 4 | sequence | UDP port for the reply | 0 |
//! | 24 | 4 | token round | 0 | 0 |
//! | 28 | 4 | configuration hash | hash of the configuration | 0 |
//! | 32 | 2 | data length | bytes after the header | 96 |
//! | 34 | 6 | padding, fragment | 0 | 0 |
//!
//! Senders of little-endian words set the bits of `MARK` in the type, others clear them; both are read.
//!
//! spec: monitor-protocol 2, 3

/// Bytes of the header.
pub const HEADER_LEN: usize = 40;

/// Bytes of a status reply after the header.
pub const STATUS_LEN: usize = 96;

/// Entries of a partition, and pairs but one of a flow control command, as the monitor sends them.
pub const ENTRIES: usize = 128;

/// Both bits set: little-endian words. It reads the same in both byte orders.
const MARK: u32 = 0x8000_0080;

const STATUS: u32 = 0x0100_0000;
const PARTITION: u32 = 0x0200_0000;
const FLOW_CONTROL: u32 = 0x0400_0000;
const RELOAD: u32 = 0x0800_0000;
const CONTROL: u32 = STATUS | PARTITION | FLOW_CONTROL | RELOAD;

/// "Routed": without effect.
const ROUTED: u32 = 0x20;

/// What a monitor asks of a daemon. Several bits: the first of partition, status, flow control, reload counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A [`Status`] is wanted.
    Status,
    /// One number per daemon, see [`Packet::numbers`].
    Partition,
    /// Pairs of numbers.
    FlowControl,
    /// The configuration is to be read again.
    Reload,
}

impl Command {
    /// All commands.
    pub const ALL: [Self; 4] = [Self::Status, Self::Partition, Self::FlowControl, Self::Reload];

    /// The name of the counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Partition => "partition",
            Self::FlowControl => "flow_control",
            Self::Reload => "reload",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Self::Status => STATUS,
            Self::Partition => PARTITION,
            Self::FlowControl => FLOW_CONTROL,
            Self::Reload => RELOAD,
        }
    }

    fn of(word: u32) -> Option<Self> {
        [Self::Partition, Self::Status, Self::FlowControl, Self::Reload]
            .into_iter()
            .find(|command| word & command.bit() != 0)
    }
}

/// Why bytes are no packet of the monitor protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Shorter than a header.
    #[error("{0} bytes are less than a header of {HEADER_LEN}")]
    Short(usize),
    /// The data length does not fit.
    #[error("{found} bytes came after the header, which announces {announced}")]
    Length {
        /// What the header says.
        announced: usize,
        /// What came.
        found: usize,
    },
    /// No control bit.
    #[error("type {0:#010x} has no control bit")]
    Type(u32),
}

/// A packet. `body` is as it came, in the byte order of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it asks for.
    pub command: Command,
    /// Identifier of the configured daemon that the monitor runs as.
    pub transmitter: u32,
    /// The same, or the replying daemon.
    pub daemon: u32,
    /// UDP port for the reply.
    pub reply_port: u16,
    /// Hash of the configuration.
    pub hash: u32,
    body: &'a [u8],
    little: bool,
}

/// Whether a datagram on the data port may be one of the monitor protocol: its type has a control bit and nothing
/// else, and the bytes in between are zero. No packet of the ring looks like that.
pub fn is_monitor(datagram: &[u8]) -> bool {
    let Some(word) = datagram.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) else { return false };
    let word = if word & MARK == 0 { word.swap_bytes() } else { word };
    (word & MARK == MARK || word & MARK == 0) && word & CONTROL != 0 && word & !(MARK | CONTROL | ROUTED) == 0
}

impl<'a> Packet<'a> {
    /// Reads a packet. After this no access can fail.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(PacketError::Short(bytes.len()));
        };
        let little = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) & MARK == MARK;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
        };
        let len = half([header[32], header[33]], little);
        if usize::from(len) != body.len() {
            return Err(PacketError::Length { announced: len.into(), found: body.len() });
        }
        let command = Command::of(word(0)).ok_or_else(|| PacketError::Type(word(0)))?;
        let [.., high, low] = word(20).to_be_bytes();
        Ok(Self {
            command,
            transmitter: word(4),
            daemon: word(8),
            // The upper bits are ignored.
            reply_port: u16::from_be_bytes([high, low]),
            hash: word(28),
            body,
            little,
        })
    }

    /// The body as signed numbers; a last odd byte does not count.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = i16> + '_ {
        self.body.as_chunks().0.iter().map(|bytes| half(*bytes, self.little).cast_signed())
    }

    /// The body as the status of the sender, if it is as long as one.
    pub fn status(&self) -> Option<Status> {
        Status::read(self.body, self.little)
    }
}

fn half(bytes: [u8; 2], little: bool) -> u16 {
    if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
}

/// A request to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// Identifier of the configured daemon that the monitor runs as.
    pub id: u32,
    /// UDP port for the reply.
    pub reply_port: u16,
    /// Hash of the configuration.
    pub hash: u32,
    /// The body.
    pub numbers: Vec<i16>,
}

impl Request {
    /// The packet, in little-endian words.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.numbers.iter().flat_map(|number| number.to_le_bytes());
        let len = u16::try_from(self.numbers.len() * 2).unwrap_or(u16::MAX);
        let mut out = header(self.command.bit(), self.id, self.id, self.reply_port.into(), self.hash, len);
        out.extend(body);
        out
    }
}

fn header(bit: u32, transmitter: u32, daemon: u32, seq: u32, hash: u32, len: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + usize::from(len));
    for word in [bit | MARK, transmitter, daemon, 0, 0, seq, 0, hash] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&len.to_le_bytes());
    out.resize(HEADER_LEN, 0);
    out
}

macro_rules! status {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// The status of a daemon, as the monitor protocol carries it. Counters wrap.
        ///
        /// spec: monitor-protocol 5
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Status {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Status {
            /// The name and value of each field, in the order of the packet.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, i64)> {
                [$((stringify!($field), i64::from(self.$field)),)*].into_iter()
            }

            fn write(&self, out: &mut Vec<u8>) {
                $(out.extend_from_slice(&self.$field.to_le_bytes());)*
            }

            fn read(bytes: &[u8], little: bool) -> Option<Self> {
                if bytes.len() != STATUS_LEN {
                    return None;
                }
                let mut rest = bytes;
                $(
                    let (field, after) = rest.split_first_chunk()?;
                    rest = after;
                    let $field = if little { <$kind>::from_le_bytes(*field) } else { <$kind>::from_be_bytes(*field) };
                )*
                let _ = rest;
                Some(Self { $($field,)* })
            }
        }
    };
}

status! {
    /// Seconds since the daemon started.
    sec: i32,
    /// State of the membership: 1 OP, 2 SEG, 3 REPRESENTED, 4 GATHER, 5 FORM, 6 EVS.
    state: i32,
    /// State of the groups: 1 normal, 2 transitional, 3 and 4 exchanging tables.
    gstate: i32,
    /// New data packets this daemon sent.
    packet_sent: i32,
    /// New data packets accepted from others.
    packet_recv: i32,
    /// Packets delivered to the upper layer.
    packet_delivered: i32,
    /// Retransmissions made: the sum of the next three.
    retrans: i32,
    /// Those to one daemon.
    u_retrans: i32,
    /// Those to one segment.
    s_retrans: i32,
    /// Those to all.
    b_retrans: i32,
    /// Highest packet that all members have.
    aru: i32,
    /// Highest packet that this daemon has without gaps.
    my_aru: i32,
    /// Highest packet seen.
    highest_seq: i32,
    /// Tokens sent again.
    token_hurry: i32,
    /// Rounds of the token in the current membership.
    token_rounds: i32,
    /// Identifier of the daemon.
    my_id: u32,
    /// Identifier of the first member; 0 before the first membership.
    leader_id: u32,
    /// Messages delivered to sessions.
    message_delivered: i32,
    /// Memberships installed since the start.
    membership_changes: i16,
    /// Daemons in the current membership; 0 before the first.
    num_procs: i16,
    /// Segments with at least one of them.
    num_segments: i16,
    /// Global window in effect.
    window: i16,
    /// Personal window in effect.
    personal_window: i16,
    /// 1 if the configuration says `AcceleratedRing = true`.
    accelerated_ring: i16,
    /// Accelerated window in effect.
    accelerated_window: i16,
    /// Client sessions, those in authentication included.
    num_sessions: i16,
    /// Groups.
    num_groups: i16,
    /// Version, first part.
    major_version: i16,
    /// Version, second part.
    minor_version: i16,
    /// Version, third part.
    patch_version: i16,
}

impl Status {
    /// The reply of the daemon `my_id`.
    pub fn to_bytes(&self) -> Vec<u8> {
        // The transmitter of a reply is 0.
        let len = u16::try_from(STATUS_LEN).unwrap_or(u16::MAX);
        let mut out = header(STATUS, 0, self.my_id, 0, 0, len);
        self.write(&mut out);
        out
    }

    /// The state of the membership in words.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            1 => "OP",
            2 => "SEG",
            3 => "REPRESENTED",
            4 => "GATHER",
            5 => "FORM",
            6 => "EVS",
            _ => "UNKNOWN",
        }
    }

    /// The state of the groups in words.
    pub fn gstate_name(&self) -> &'static str {
        match self.gstate {
            1 => "GOP",
            2 => "GTRANS",
            3 => "GGATHER",
            4 => "GGT",
            _ => "UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ring_packets_are_not_taken_for_the_monitor() {
        for kind in 0..=255 {
            assert!(!is_monitor(&[0x53, 0x52, 1, kind, 0]));
        }
        assert!(is_monitor(&[0x80, 0, 0, 0x81]));
        assert!(is_monitor(&[0xa0, 0, 0, 0x88]));
        assert!(is_monitor(&[1, 0, 0, 0]));
        assert!(is_monitor(&[4, 0, 0, 0x20]));
        for other in [[0x80, 0, 0, 1], [0, 0, 0, 0x81], [1, 0, 1, 0], [0, 0, 0, 0], [0x80, 0, 0, 0x80]] {
            assert!(!is_monitor(&other), "{other:02x?}");
        }
        assert!(!is_monitor(&[1, 0]));
    }

    #[test]
    fn the_order_of_bits_decides() {
        let word = |bits: u32| Command::of(bits);
        assert_eq!(word(STATUS | FLOW_CONTROL), Some(Command::Status));
        assert_eq!(word(STATUS | PARTITION), Some(Command::Partition));
        assert_eq!(word(RELOAD | FLOW_CONTROL), Some(Command::FlowControl));
        assert_eq!(word(ROUTED), None);
    }

    proptest! {
        #[test]
        fn a_request_survives_the_wire(id: u32, reply_port: u16, hash: u32, numbers: Vec<i16>, kind in 0usize..4) {
            let command = [Command::Status, Command::Partition, Command::FlowControl, Command::Reload][kind];
            let request = Request { command, id, reply_port, hash, numbers };
            let bytes = request.to_bytes();
            prop_assert!(is_monitor(&bytes));
            let packet = Packet::parse(&bytes).unwrap();
            prop_assert_eq!((packet.command, packet.transmitter, packet.daemon), (command, id, id));
            prop_assert_eq!((packet.reply_port, packet.hash), (reply_port, hash));
            prop_assert_eq!(packet.numbers().collect::<Vec<_>>(), request.numbers);
        }

        #[test]
        fn nothing_breaks_it(bytes: Vec<u8>) {
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = (packet.numbers().count(), packet.status());
            }
            is_monitor(&bytes);
        }
    }
}
