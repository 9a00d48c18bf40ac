//! The messages of this layer as the ring carries them.
//!
//! ```text
//!  0      1       4            8
//! +------+-------+------------+---------------------------------------------+
//! | kind | 0 0 0 | generation | content                                     |
//! +------+-------+------------+---------------------------------------------+
//! ```
//!
//! | kind | content |
//! |---|---|
//! | 1 request | the client's frame: header in little-endian words, names, data |
//! | 2 broken session | private group of a session that ended without a disconnect request, 32 bytes |
//! | 3 state | a piece of a group table, see [`crate::exchange`] |
//!
//! The generation (little-endian) says under which group table the sender gave a request to the ring: see
//! [`crate::queue`]. It is zero in state messages, which name their configuration in full.
//!
//! What arrives was sent by a daemon that the ring admits, but is checked all the same: nothing in it can
//! cause a panic.

use bytes::{BufMut, Bytes, BytesMut};
use spread_wire::limits::{BODY_MAX, GROUP_FIELD, GROUPS_MAX, HEADER};
use spread_wire::{GroupName, Header, ServiceType};

/// Bytes before the content.
pub(crate) const PREFIX: usize = 8;

const REQUEST: u8 = 1;
const BROKEN: u8 = 2;
const STATE: u8 = 3;

/// The kind of a message, with what is needed to route it.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A client's frame.
    Request { generation: u32, header: Header },
    /// A session ended without a request.
    Broken { generation: u32, session: GroupName },
    /// A piece of a group table.
    State,
}

/// The prefix of a client's frame.
pub(crate) fn request_prefix(generation: u32) -> Bytes {
    prefix(REQUEST, generation, 0).freeze()
}

/// The message that a session ended without a request.
pub(crate) fn broken(generation: u32, session: &GroupName) -> Bytes {
    let mut out = prefix(BROKEN, generation, GROUP_FIELD);
    out.put_slice(session.as_field());
    out.freeze()
}

/// The prefix of a state message with room for `room` bytes more.
pub(crate) fn state_prefix(room: usize) -> BytesMut {
    prefix(STATE, 0, room)
}

fn prefix(kind: u8, generation: u32, room: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(PREFIX + room);
    out.put_u32_le(u32::from(kind));
    out.put_u32_le(generation);
    out
}

impl Payload {
    /// Reads the prefix and checks a request's header against the length of the message. `None` if malformed.
    pub(crate) fn parse(parts: &[Bytes]) -> Option<Self> {
        let mut scratch = Vec::new();
        let bytes = window(parts, 0, PREFIX, &mut scratch)?;
        let kind = u32::from_le_bytes(*bytes.first_chunk()?);
        let generation = u32::from_le_bytes(*bytes.last_chunk()?);
        match u8::try_from(kind).ok()? {
            REQUEST => {
                let bytes = window(parts, PREFIX, HEADER, &mut scratch)?;
                let header = Header::parse(bytes.first_chunk()?).ok()?;
                let groups = usize::try_from(header.num_groups).ok()?;
                let body = usize::try_from(header.body_len()).ok()?;
                let len: usize = parts.iter().map(Bytes::len).sum();
                let legal = groups <= GROUPS_MAX
                    && body <= BODY_MAX
                    && len == PREFIX + HEADER + body
                    && is_request(header.service);
                legal.then_some(Self::Request { generation, header })
            }
            BROKEN => {
                let bytes = window(parts, PREFIX, GROUP_FIELD, &mut scratch)?;
                Some(Self::Broken { generation, session: GroupName::from_field(*bytes.first_chunk()?) })
            }
            STATE => Some(Self::State),
            _ => None,
        }
    }
}

/// Whether `service` is what a client may ask for: exactly one service, join, leave or disconnect, and no bit
/// that only a daemon may set.
///
/// spec: client-protocol 4.1; group-semantics 1.4
pub(crate) fn is_request(service: ServiceType) -> bool {
    const FORBIDDEN: ServiceType =
        ServiceType(ServiceType::GROUPS.0 | ServiceType::REJECT.0 | ServiceType::MEMBERSHIP.0);
    service.only(ServiceType::REQUEST).0.count_ones() == 1 && !service.intersects(FORBIDDEN)
}

/// `len` bytes from position `at` of the message: a slice of a part, or gathered in `scratch` if they are
/// spread over several. `None` if the message is shorter.
#[inline]
pub(crate) fn window<'a>(
    parts: &'a [Bytes],
    at: usize,
    len: usize,
    scratch: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    match parts.first()?.get(at..at.checked_add(len)?) {
        Some(all) => Some(all),
        None => gather(parts, at, len, scratch),
    }
}

fn gather<'a>(parts: &'a [Bytes], mut at: usize, len: usize, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    scratch.clear();
    for part in parts {
        let Some(rest) = part.get(at..) else {
            at -= part.len();
            continue;
        };
        if scratch.is_empty()
            && let Some(all) = rest.get(..len)
        {
            return Some(all);
        }
        scratch.extend_from_slice(rest.get(..len - scratch.len()).unwrap_or(rest));
        at = 0;
        if scratch.len() == len {
            return Some(scratch);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn window_reads_across_any_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            cuts in proptest::collection::vec(0usize..64, 0..6),
            at in 0usize..70,
            len in 0usize..70,
        ) {
            let mut parts = Vec::new();
            let mut rest = Bytes::from(bytes.clone());
            for cut in cuts {
                parts.push(rest.split_to(cut.min(rest.len())));
            }
            parts.push(rest);
            let mut scratch = Vec::new();
            let found = window(&parts, at, len, &mut scratch).map(<[u8]>::to_vec);
            prop_assert_eq!(found, bytes.get(at..at + len).map(<[u8]>::to_vec));
        }

        #[test]
        fn parse_never_panics(parts in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..40), 0..5)) {
            let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
            let _ = Payload::parse(&parts);
        }
    }

    #[test]
    fn broken_session_survives_the_wire() {
        let name = GroupName::from_field(*b"#session#daemon\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let parts = [broken(7, &name)];
        let Some(Payload::Broken { generation: 7, session }) = Payload::parse(&parts) else {
            panic!("parsed as {:?}", Payload::parse(&parts));
        };
        assert_eq!(session, name);
    }
}
