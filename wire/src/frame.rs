//! Whole messages: incremental decoding, checks, and access without copying.
//!
//! ```text
//! +--------+-----------------+------------------------+----------+
//! | header | original type   | names                  | data     |
//! | 48     | 4, REJECT only  | num_groups x 32        | data_len |
//! +--------+-----------------+------------------------+----------+
//! ```
//!
//! Source: `spec/client-protocol.md#3`, `#4.1`, `#12.3`.

use std::fmt;
use std::iter::FusedIterator;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::header::{Header, normalize};
use crate::limits::{BODY_MAX, DATA_MAX, GROUP_FIELD, GROUPS_MAX, HEADER, RECEIVED_BODY_MAX};
use crate::names::{GroupName, PrivateGroup};
use crate::service::ServiceType;

/// Why a frame is refused. The stream cannot be read any further: a daemon drops the session, a client
/// library reports -13 (`ILLEGAL_MESSAGE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// None of the nine request bits is set.
    #[error("type {0} asks for nothing: no service, join, leave or kill bit")]
    NoRequest(ServiceType),
    /// More than one of the nine request bits is set.
    #[error("type {0} has more than one of the service, join, leave and kill bits")]
    SeveralRequests(ServiceType),
    /// The bit that only daemons use among themselves is set.
    #[error("type {0} has the bit that is internal to daemons")]
    InternalBit(ServiceType),
    /// The message claims to be a rejected one.
    #[error("type {0} has the bit of rejected messages, which only a daemon sends")]
    RejectBit(ServiceType),
    /// The message claims to be a membership message.
    #[error("type {0} has bits of membership messages, which only a daemon sends")]
    MembershipBits(ServiceType),
    /// The sender is not of the form `#name#daemon`.
    #[error("sender \"{0}\" is not a private group")]
    SenderForm(GroupName),
    /// The sender is on another daemon.
    #[error("sender \"{0}\" is not of this daemon")]
    SenderDaemon(GroupName),
    /// The sender is another session of this daemon.
    #[error("sender \"{0}\" is another session")]
    SenderName(GroupName),
    /// The number of names is negative or above the limit.
    #[error("number of groups {0} is out of range")]
    GroupCount(i32),
    /// The hint has bits besides the message type and the byte-order mark.
    #[error("hint {0:02x?} has illegal bits")]
    HintBits([u8; 4]),
    /// The number of data bytes is negative or above the limit.
    #[error("data length {0} is out of range")]
    DataLength(i32),
    /// Names and data together are above the limit.
    #[error("{bytes} bytes of names and data, at most {max} are allowed")]
    TooLong {
        /// Bytes of names and data.
        bytes: u64,
        /// The most allowed.
        max: usize,
    },
    /// A join or leave without a group name.
    #[error("type {0} without a group name")]
    NoGroup(ServiceType),
    /// The bytes given to [`Frame::parse`] are shorter or longer than the frame.
    #[error("frame of {expected} bytes in {found} bytes")]
    Length {
        /// Bytes according to the header; 48 if not even the header is there.
        expected: u64,
        /// Bytes given.
        found: usize,
    },
}

/// What a frame from the daemon is. The first row of `spec/client-protocol.md#12.3` step 5 that fits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A refused message of this session comes back.
    Reject,
    /// Data.
    Data,
    /// Regular membership message; read its body with [`crate::MembershipBody`].
    Membership,
    /// Transitional signal; its data is the id of the old view.
    Transition,
    /// This session has left the group.
    SelfLeave,
    /// A request (join, leave or kill), which only goes to a daemon.
    Request,
    /// None of these.
    Unknown,
}

/// A whole message. Its fields were checked against its bytes: no accessor fails.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The fields of the header.
    pub header: Header,
    /// The type of the original message, in a rejected one. Without the mark.
    pub orig_type: Option<ServiceType>,
    raw: Bytes,
    names_at: usize,
    data_at: usize,
}

impl Frame {
    /// Takes `raw` as one complete frame. Only the structure is checked: signs, the limit `body_max` and that
    /// the length fits exactly.
    ///
    /// # Errors
    /// [`FrameError::GroupCount`], [`FrameError::DataLength`], [`FrameError::TooLong`],
    /// [`FrameError::Length`].
    pub fn parse(raw: Bytes, body_max: usize) -> Result<Self, FrameError> {
        let Some(bytes) = raw.first_chunk() else {
            return Err(FrameError::Length { expected: HEADER as u64, found: raw.len() });
        };
        let header = Header::parse(bytes)?;
        let total = total_len(&header, body_max)?;
        if raw.len() != total {
            return Err(FrameError::Length { expected: total as u64, found: raw.len() });
        }
        Ok(Self::assemble(header, raw))
    }

    /// `raw` has exactly the length that the header says.
    #[inline]
    fn assemble(header: Header, raw: Bytes) -> Self {
        let names_at = HEADER + header.gap();
        let data_at = raw.len() - header.data_len as usize;
        let word = raw.get(HEADER..names_at).and_then(<[u8]>::first_chunk);
        let orig_type = word.map(|word| ServiceType::from_word(*word, header.order));
        Self { header, orig_type, raw, names_at, data_at }
    }

    /// What the frame is, for the receiver in a client.
    pub fn kind(&self) -> Kind {
        let service = self.header.service;
        if service.intersects(ServiceType::REJECT) {
            Kind::Reject
        } else if service.is_regular() {
            Kind::Data
        } else if service.intersects(ServiceType::REG_MEMB) {
            Kind::Membership
        } else if service.intersects(ServiceType::TRANSITION) {
            Kind::Transition
        } else if service.only(ServiceType::MEMBERSHIP) == ServiceType::CAUSED_BY_LEAVE {
            Kind::SelfLeave
        } else if service.intersects(ServiceType::REQUEST) {
            Kind::Request
        } else {
            Kind::Unknown
        }
    }

    /// The whole frame. From [`FrameDecoder::daemon`] it is the normalized one.
    #[inline]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The whole frame, taken out.
    #[inline]
    pub fn into_raw(self) -> Bytes {
        self.raw
    }

    /// The name fields as they stand in the frame, in order.
    #[inline]
    pub fn groups(&self) -> Groups<'_> {
        Groups(self.raw[self.names_at..self.data_at].as_chunks().0.iter())
    }

    /// The names, cut at their first zero.
    #[inline]
    pub fn group_names(&self) -> impl ExactSizeIterator<Item = GroupName> + '_ {
        self.groups().map(|field| GroupName::from_field(*field))
    }

    /// The first name, if there is one.
    #[inline]
    pub fn first_group(&self) -> Option<GroupName> {
        self.group_names().next()
    }

    /// The data, sharing the memory of the frame.
    #[inline]
    pub fn data(&self) -> Bytes {
        self.raw.slice(self.data_at..)
    }

    /// The data as a plain slice.
    #[inline]
    pub fn data_bytes(&self) -> &[u8] {
        &self.raw[self.data_at..]
    }

    /// The bytes before the data: header, original type and names.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.raw[..self.data_at]
    }

    /// The application's message type.
    #[inline]
    pub const fn message_type(&self) -> i16 {
        self.header.hint.message_type()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("header", &self.header)
            .field("orig_type", &self.orig_type)
            .field("groups", &self.group_names().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Iterator over the name fields of a frame.
#[derive(Clone, Debug)]
pub struct Groups<'a>(std::slice::Iter<'a, [u8; GROUP_FIELD]>);

impl<'a> Iterator for Groups<'a> {
    type Item = &'a [u8; GROUP_FIELD];
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Groups<'_> {}
impl FusedIterator for Groups<'_> {}

/// Cuts a byte stream into frames.
///
/// Call [`decode`](Self::decode) with the same buffer whenever bytes were appended to it, until it gives
/// `None`. A header is checked as soon as its 48 bytes are there, before names or data are waited for, so
/// that at most one frame within the limits is ever buffered for it.
///
/// After an error the stream is broken; further calls give errors or garbage, never a panic.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    side: Side,
    /// The header of the frame at the front of the buffer and the length of that frame, once it is checked.
    pending: Option<(Header, usize)>,
}

#[derive(Clone, Debug)]
enum Side {
    Daemon { private: PrivateGroup, sender: GroupName },
    Client { body_max: usize },
}

/// Room made at once for a frame that is still on its way. Large frames get more as they arrive, so that a
/// header alone does not make anyone allocate much.
const RESERVE: usize = 16 << 10;

impl FrameDecoder {
    /// The daemon's side of the session with this private group.
    ///
    /// Every check of `spec/client-protocol.md#4.1` is made. The frames are normalized on the way: type (with
    /// its mark), `num_groups` and `data_len` become little-endian, byte 31 of the sender zero; the hint and
    /// everything behind the header stay. [`Header::order`] still says what the client wrote.
    pub fn daemon(private: PrivateGroup) -> Self {
        Self { side: Side::Daemon { private, sender: private.as_group() }, pending: None }
    }

    /// The client's side.
    pub const fn client() -> Self {
        Self { side: Side::Client { body_max: RECEIVED_BODY_MAX }, pending: None }
    }

    /// The client's side with a limit of its own for names and data together, in bytes.
    pub const fn client_with_limit(body_max: usize) -> Self {
        Self { side: Side::Client { body_max }, pending: None }
    }

    /// Takes the next frame off the front of `buf`, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`FrameError`] if the header is refused.
    #[inline]
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let (header, total) = match self.pending {
            Some(pending) => pending,
            None => match buf.first_chunk_mut() {
                Some(bytes) => self.side.check(bytes)?,
                None => return Ok(None),
            },
        };
        if buf.len() < total {
            self.pending = Some((header, total));
            buf.reserve((total - buf.len()).min(RESERVE));
            return Ok(None);
        }
        self.pending = None;
        Ok(Some(Frame::assemble(header, buf.split_to(total).freeze())))
    }

    /// Bytes that must be added to a buffer of `buffered` bytes before the next call of
    /// [`decode`](Self::decode) can get further; 0 if it can now. Who reads exactly this many never reads
    /// beyond the current frame.
    pub fn wanted(&self, buffered: usize) -> usize {
        self.pending.map_or(HEADER, |(_, total)| total).saturating_sub(buffered)
    }

    /// The header of the frame that is being waited for, once it has arrived and was checked.
    pub fn pending(&self) -> Option<&Header> {
        self.pending.as_ref().map(|(header, _)| header)
    }
}

impl Side {
    /// Checks a header and, in a daemon, normalizes it. Gives it with the length of its frame.
    #[inline]
    fn check(&self, bytes: &mut [u8; HEADER]) -> Result<(Header, usize), FrameError> {
        match self {
            Self::Daemon { private, sender } => {
                // spec: client-protocol 4.1, "byte 31 is forced to zero first"
                bytes[35] = 0;
                let header = Header::parse(bytes)?;
                check_request(&header, private, sender)?;
                normalize(bytes, &header);
                Ok((header, total_len(&header, BODY_MAX)?))
            }
            Self::Client { body_max } => {
                let header = Header::parse(bytes)?;
                Ok((header, total_len(&header, *body_max)?))
            }
        }
    }
}

/// Length of the frame, if names and data are within `body_max`.
#[inline]
fn total_len(header: &Header, body_max: usize) -> Result<usize, FrameError> {
    let bytes = header.body_len();
    match usize::try_from(bytes) {
        Ok(body) if body <= body_max => Ok(HEADER + header.gap() + body),
        _ => Err(FrameError::TooLong { bytes, max: body_max }),
    }
}

/// The checks of a client's header. The limit of S is checked by [`total_len`].
///
/// spec: client-protocol 4.1
#[inline]
fn check_request(header: &Header, private: &PrivateGroup, sender: &GroupName) -> Result<(), FrameError> {
    let service = header.service;
    match service.only(ServiceType::REQUEST).0.count_ones() {
        1 => {}
        0 => return Err(FrameError::NoRequest(service)),
        _ => return Err(FrameError::SeveralRequests(service)),
    }
    const FORBIDDEN: ServiceType =
        ServiceType(ServiceType::GROUPS.0 | ServiceType::REJECT.0 | ServiceType::MEMBERSHIP.0);
    if service.intersects(FORBIDDEN) {
        return Err(forbidden_bit(service));
    }
    if header.sender != *sender {
        return Err(wrong_sender(header.sender, private));
    }
    if header.num_groups as usize > GROUPS_MAX {
        return Err(FrameError::GroupCount(header.num_groups.cast_signed()));
    }
    if !header.hint.is_legal() {
        return Err(FrameError::HintBits(header.hint.0));
    }
    if header.data_len as usize > DATA_MAX {
        return Err(FrameError::DataLength(header.data_len.cast_signed()));
    }
    if header.num_groups == 0 && service.intersects(ServiceType::JOIN | ServiceType::LEAVE) {
        return Err(FrameError::NoGroup(service));
    }
    Ok(())
}

#[cold]
fn forbidden_bit(service: ServiceType) -> FrameError {
    if service.intersects(ServiceType::GROUPS) {
        FrameError::InternalBit(service)
    } else if service.intersects(ServiceType::REJECT) {
        FrameError::RejectBit(service)
    } else {
        FrameError::MembershipBits(service)
    }
}

#[cold]
fn wrong_sender(found: GroupName, session: &PrivateGroup) -> FrameError {
    match PrivateGroup::try_from(&found) {
        Err(_) => FrameError::SenderForm(found),
        Ok(private) if private.daemon() != session.daemon() => FrameError::SenderDaemon(found),
        Ok(_) => FrameError::SenderName(found),
    }
}
