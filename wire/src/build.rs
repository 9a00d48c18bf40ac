//! Frames made from values: the requests of a client and the messages of a daemon.
//!
//! Source: `spec/client-protocol.md#4`, `#5`.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::codes;
use crate::frame::Frame;
use crate::header::Header;
use crate::limits::{BODY_MAX, GROUP_FIELD, GROUPS_MAX, HEADER, REJECT_WORD};
use crate::membership::{GroupId, word};
use crate::names::GroupName;
use crate::service::{ByteOrder, Hint, ServiceType};

/// Why a client library does not send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// Not exactly one service bit is set. The C library lets several pass; the daemon then drops the session.
    #[error("type {0} does not have exactly one service bit")]
    Service(ServiceType),
    /// The type has bits that only a daemon may set; the daemon would drop the session.
    #[error("type {0} has bits that only a daemon may set")]
    Bits(ServiceType),
    /// More than 100 names.
    #[error("{0} groups, at most {GROUPS_MAX} are allowed")]
    TooManyGroups(usize),
    /// Names and data together are larger than a daemon carries.
    #[error("{0} bytes of names and data, at most {BODY_MAX} are allowed")]
    TooLong(usize),
}

impl SendError {
    /// The code that the C library returns for it.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Service(_) | Self::Bits(_) => codes::ILLEGAL_SERVICE,
            Self::TooManyGroups(_) => codes::ILLEGAL_GROUP,
            Self::TooLong(_) => codes::MESSAGE_TOO_LONG,
        }
    }
}

/// Appends header, original type and names to `out` and makes room for `reserve` bytes of data.
///
/// `header.num_groups` is the number of `groups`, and `original` is there exactly if the type has
/// [`ServiceType::REJECT`]; both are the caller's care.
pub fn put_frame<'a>(
    out: &mut BytesMut,
    header: &Header,
    original: Option<ServiceType>,
    groups: impl Iterator<Item = &'a [u8; GROUP_FIELD]>,
    reserve: usize,
) {
    let names = (header.num_groups as usize).saturating_mul(GROUP_FIELD);
    out.reserve((HEADER + REJECT_WORD).saturating_add(names).saturating_add(reserve));
    out.put_slice(&header.encode());
    if let Some(original) = original {
        out.put_slice(&original.to_word(header.order));
    }
    for group in groups {
        out.put_slice(group);
    }
}

/// A request of one name and no data.
fn request(service: ServiceType, sender: &GroupName, group: &GroupName) -> Bytes {
    let order = ByteOrder::NATIVE;
    let header =
        Header { service, sender: *sender, num_groups: 1, hint: Hint::new(0, order), data_len: 0, order };
    let mut out = BytesMut::new();
    put_frame(&mut out, &header, None, [group.as_field()].into_iter(), 0);
    out.freeze()
}

/// The request of `sender` to join `group`.
pub fn join(sender: &GroupName, group: &GroupName) -> Bytes {
    request(ServiceType::JOIN, sender, group)
}

/// The request of `sender` to leave `group`.
pub fn leave(sender: &GroupName, group: &GroupName) -> Bytes {
    request(ServiceType::LEAVE, sender, group)
}

/// The request of `sender` to be disconnected.
pub fn kill(sender: &GroupName) -> Bytes {
    request(ServiceType::KILL, sender, sender)
}

/// Header and names of a multicast; its `data_len` bytes of data are sent right behind it.
///
/// # Errors
/// [`SendError`] if a daemon would refuse the message.
pub fn multicast(
    service: ServiceType,
    sender: &GroupName,
    groups: &[GroupName],
    message_type: i16,
    data_len: usize,
) -> Result<Bytes, SendError> {
    let mut out = BytesMut::new();
    put_multicast(&mut out, service, sender, groups, message_type, data_len, 0)?;
    Ok(out.freeze())
}

/// Appends header and names of a multicast to `out` and makes room for `reserve` bytes more.
///
/// # Errors
/// [`SendError`] if a daemon would refuse the message; `out` is then unchanged.
pub fn put_multicast(
    out: &mut BytesMut,
    service: ServiceType,
    sender: &GroupName,
    groups: &[GroupName],
    message_type: i16,
    data_len: usize,
    reserve: usize,
) -> Result<(), SendError> {
    const BITS: ServiceType = ServiceType(
        ServiceType::GROUPS.0
            | ServiceType::REJECT.0
            | ServiceType::MEMBERSHIP.0
            | ServiceType::JOIN.0
            | ServiceType::LEAVE.0
            | ServiceType::KILL.0,
    );
    if service.only(ServiceType::REGULAR).0.count_ones() != 1 {
        return Err(SendError::Service(service));
    }
    if service.intersects(BITS) {
        return Err(SendError::Bits(service));
    }
    if groups.len() > GROUPS_MAX {
        return Err(SendError::TooManyGroups(groups.len()));
    }
    let body = data_len.saturating_add(groups.len() * GROUP_FIELD);
    if body > BODY_MAX {
        return Err(SendError::TooLong(body));
    }
    let order = ByteOrder::NATIVE;
    let header = Header {
        service,
        sender: *sender,
        num_groups: word(groups.len()),
        hint: Hint::new(message_type, order),
        data_len: word(data_len),
        order,
    };
    put_frame(out, &header, None, groups.iter().map(GroupName::as_field), reserve);
    Ok(())
}

/// The message that tells a session that it has left `group`.
///
/// spec: client-protocol 5.3
pub fn self_leave(group: &GroupName) -> Bytes {
    Bytes::copy_from_slice(&daemon_header(ServiceType::CAUSED_BY_LEAVE, group, 0, 0).encode())
}

/// The transitional signal of `group`, whose view was `old`.
///
/// spec: client-protocol 5.4
pub fn transition(group: &GroupName, old: GroupId) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + GroupId::SIZE);
    out.put_slice(&daemon_header(ServiceType::TRANSITION, group, 0, GroupId::SIZE).encode());
    out.put_slice(&old.encode(ByteOrder::Little));
    out.freeze()
}

/// The refused message `frame` as it goes back to its sender: head and data. `None` if the sender did not
/// want a copy.
///
/// A message of 100 names keeps that count: the sender takes the place of its last name.
///
/// spec: client-protocol 5.5
pub fn reject(frame: &Frame) -> Option<(Bytes, Bytes)> {
    let service = frame.header.service;
    if service.is_self_discard() {
        return None;
    }
    let mut original = service.without(ServiceType::JOIN | ServiceType::LEAVE);
    if service.intersects(ServiceType::JOIN) {
        original |= ServiceType::CAUSED_BY_JOIN;
    }
    if service.intersects(ServiceType::LEAVE) {
        original |= ServiceType::CAUSED_BY_LEAVE;
    }
    let kept = (frame.header.num_groups as usize).min(GROUPS_MAX - 1);
    let header = Header {
        service: ServiceType::REJECT,
        num_groups: word(kept + 1),
        order: ByteOrder::Little,
        ..frame.header
    };
    let mut out = BytesMut::new();
    let names = frame.groups().take(kept).chain([header.sender.as_field()]);
    put_frame(&mut out, &header, Some(original), names, 0);
    Some((out.freeze(), frame.data()))
}

/// A header as a little-endian daemon makes it for its own messages.
fn daemon_header(service: ServiceType, group: &GroupName, num_groups: usize, data_len: usize) -> Header {
    let order = ByteOrder::Little;
    Header {
        service,
        sender: *group,
        num_groups: word(num_groups),
        hint: Hint::new(0, order),
        data_len: word(data_len),
        order,
    }
}
