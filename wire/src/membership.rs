//! The body of regular membership messages.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 12 | group id: three words |
//! | 12 | 4 | number of vs sets, at least 1 |
//! | 16 | 4 | offset of the receiver's own set, counted from offset 20 |
//! | 20 | ... | the sets: member count, then as many 32-byte names |
//!
//! All words are in the byte order of the header.
//!
//! Source: `spec/client-protocol.md#5.2`.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::build::put_frame;
use crate::frame::{Frame, Kind};
use crate::header::Header;
use crate::limits::GROUP_FIELD;
use crate::names::GroupName;
use crate::service::{ByteOrder, Hint, ServiceType};

/// The identifier of a view of a group. Two are equal when all three words are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The daemon that formed the daemon membership; opaque to clients.
    pub proc: i32,
    /// Time stamp of that membership, in seconds.
    pub time: i32,
    /// Number of the change within that membership.
    pub index: i32,
}

impl GroupId {
    /// Bytes of an id on the wire.
    pub const SIZE: usize = 12;

    /// Writes the three words.
    pub const fn encode(self, order: ByteOrder) -> [u8; Self::SIZE] {
        let p = order.write(self.proc.cast_unsigned());
        let t = order.write(self.time.cast_unsigned());
        let i = order.write(self.index.cast_unsigned());
        [p[0], p[1], p[2], p[3], t[0], t[1], t[2], t[3], i[0], i[1], i[2], i[3]]
    }

    /// Reads the three words.
    pub const fn decode(bytes: [u8; Self::SIZE], order: ByteOrder) -> Self {
        let [p0, p1, p2, p3, t0, t1, t2, t3, i0, i1, i2, i3] = bytes;
        Self {
            proc: order.read([p0, p1, p2, p3]).cast_signed(),
            time: order.read([t0, t1, t2, t3]).cast_signed(),
            index: order.read([i0, i1, i2, i3]).cast_signed(),
        }
    }

    /// The id of the old view that a transitional signal carries.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if the frame has less than 12 data bytes.
    pub fn of_transition(frame: &Frame) -> Result<Self, BodyError> {
        let bytes = frame.data_bytes().first_chunk().ok_or(BodyError::Truncated)?;
        Ok(Self::decode(*bytes, frame.header.order))
    }
}

/// Why a group changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A member joined.
    Join,
    /// A member left.
    Leave,
    /// A member was disconnected.
    Disconnect,
    /// Daemons were lost or found.
    Network,
}

impl Cause {
    /// The cause bit of the type word.
    pub const fn bit(self) -> ServiceType {
        match self {
            Self::Join => ServiceType::CAUSED_BY_JOIN,
            Self::Leave => ServiceType::CAUSED_BY_LEAVE,
            Self::Disconnect => ServiceType::CAUSED_BY_DISCONNECT,
            Self::Network => ServiceType::CAUSED_BY_NETWORK,
        }
    }

    /// The cause in a type word that has exactly one cause bit.
    pub fn of(service: ServiceType) -> Option<Self> {
        [Self::Join, Self::Leave, Self::Disconnect, Self::Network].into_iter().find(|c| {
            service.only(ServiceType::MEMBERSHIP).without(ServiceType::REG_MEMB | ServiceType::TRANSITION)
                == c.bit()
        })
    }
}

/// Why a frame is not a membership message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The frame is something else.
    #[error("type {0} is not a regular membership message")]
    Type(ServiceType),
    /// Not exactly one cause bit is set.
    #[error("type {0} has no single cause")]
    Cause(ServiceType),
    /// The body ends too early.
    #[error("membership body is truncated")]
    Truncated,
    /// Bytes follow the last set.
    #[error("{0} bytes follow the last set of the membership body")]
    Trailing(usize),
    /// There is no vs set.
    #[error("membership body without a set")]
    NoSets,
    /// The own-set offset is not the start of a set.
    #[error("own-set offset {0} is not the start of a set")]
    OwnOffset(u32),
}

/// A checked view of a membership message's body.
#[derive(Clone, Copy, Debug)]
pub struct MembershipBody<'a> {
    /// Why the group changed.
    pub cause: Cause,
    /// The id of the new view.
    pub id: GroupId,
    /// Number of vs sets.
    pub num_sets: u32,
    /// Offset of the receiver's own set, counted from offset 20 of the body.
    pub own_offset: u32,
    /// Which set is the receiver's own one, from 0.
    pub own_set: usize,
    order: ByteOrder,
    sets: &'a [u8],
}

impl<'a> MembershipBody<'a> {
    /// Offset of the first set in the body.
    pub const SETS_AT: usize = 20;

    /// Checks the body of a regular membership message.
    ///
    /// # Errors
    /// [`BodyError`] says what is wrong.
    pub fn parse(frame: &'a Frame) -> Result<Self, BodyError> {
        let Header { service, order, .. } = frame.header;
        if frame.kind() != Kind::Membership {
            return Err(BodyError::Type(service));
        }
        let cause = Cause::of(service).ok_or(BodyError::Cause(service))?;
        let (id, rest) = frame.data_bytes().split_first_chunk().ok_or(BodyError::Truncated)?;
        let (num_sets, rest) = read(rest, order)?;
        let (own_offset, sets) = read(rest, order)?;
        if num_sets == 0 {
            return Err(BodyError::NoSets);
        }
        let mut own_set = None;
        let mut left = sets;
        // Every set takes at least four bytes, so the loop is bounded by the body, whatever num_sets says.
        for i in 0..num_sets {
            if sets.len() - left.len() == own_offset as usize {
                own_set = usize::try_from(i).ok();
            }
            (_, left) = split_set(left, order)?;
        }
        if !left.is_empty() {
            return Err(BodyError::Trailing(left.len()));
        }
        let own_set = own_set.ok_or(BodyError::OwnOffset(own_offset))?;
        Ok(Self { cause, id: GroupId::decode(*id, order), num_sets, own_offset, own_set, order, sets })
    }

    /// The vs sets in order, each as the name fields of its members.
    pub const fn sets(&self) -> VsSets<'a> {
        VsSets { left: self.sets, order: self.order }
    }

    /// The receiver's own set.
    pub fn own(&self) -> &'a [[u8; GROUP_FIELD]] {
        self.sets().nth(self.own_set).unwrap_or_default()
    }

    /// The one member that joined, left or was disconnected; `None` for a network change.
    pub fn changed(&self) -> Option<GroupName> {
        if self.cause == Cause::Network {
            return None;
        }
        self.sets().next()?.first().map(|field| GroupName::from_field(*field))
    }
}

/// Iterator over the vs sets of a body.
#[derive(Clone, Debug)]
pub struct VsSets<'a> {
    left: &'a [u8],
    order: ByteOrder,
}

impl<'a> Iterator for VsSets<'a> {
    type Item = &'a [[u8; GROUP_FIELD]];
    fn next(&mut self) -> Option<Self::Item> {
        let (set, left) = split_set(self.left, self.order).ok()?;
        self.left = left;
        Some(set)
    }
}

fn read(bytes: &[u8], order: ByteOrder) -> Result<(u32, &[u8]), BodyError> {
    let (word, rest) = bytes.split_first_chunk().ok_or(BodyError::Truncated)?;
    Ok((order.read(*word), rest))
}

type Set<'a> = (&'a [[u8; GROUP_FIELD]], &'a [u8]);

fn split_set(bytes: &[u8], order: ByteOrder) -> Result<Set<'_>, BodyError> {
    let (count, rest) = read(bytes, order)?;
    let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(GROUP_FIELD));
    let (names, rest) = len.and_then(|len| rest.split_at_checked(len)).ok_or(BodyError::Truncated)?;
    Ok((names.as_chunks().0, rest))
}

/// A regular membership message, as values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: GroupName,
    /// Why it changed.
    pub cause: Cause,
    /// The id of the new view.
    pub id: GroupId,
    /// The members after the change, by daemon and name.
    pub members: Vec<GroupName>,
    /// The vs sets. For all causes but [`Cause::Network`] one set with the member that changed.
    pub sets: Vec<Vec<GroupName>>,
}

impl Membership {
    /// Reads a frame. The second value is the number of the receiver's own set.
    ///
    /// # Errors
    /// [`BodyError`] says what is wrong.
    pub fn decode(frame: &Frame) -> Result<(Self, usize), BodyError> {
        let body = MembershipBody::parse(frame)?;
        let message = Self {
            group: frame.header.sender,
            cause: body.cause,
            id: body.id,
            members: frame.group_names().collect(),
            sets: body.sets().map(|s| s.iter().map(|f| GroupName::from_field(*f)).collect()).collect(),
        };
        Ok((message, body.own_set))
    }

    /// The frame that a little-endian daemon sends to the members of set number `own_set`. A number that is
    /// not one of a set stands for the first.
    pub fn encode(&self, own_set: usize) -> Bytes {
        self.encode_in(own_set, ByteOrder::Little)
    }

    /// The frame in the given byte order.
    pub fn encode_in(&self, own_set: usize, order: ByteOrder) -> Bytes {
        let sizes = self.sets.iter().map(|s| set_size(s.len()));
        let own_offset: usize = if own_set < self.sets.len() { sizes.clone().take(own_set).sum() } else { 0 };
        let data_len = MembershipBody::SETS_AT + sizes.sum::<usize>();
        let header = Header {
            service: ServiceType::REG_MEMB | self.cause.bit(),
            sender: self.group,
            num_groups: word(self.members.len()),
            hint: Hint::new(0, order),
            data_len: word(data_len),
            order,
        };
        let mut out = BytesMut::new();
        put_frame(&mut out, &header, None, self.members.iter().map(GroupName::as_field), data_len);
        out.put_slice(&self.id.encode(order));
        out.put_slice(&order.write(word(self.sets.len())));
        out.put_slice(&order.write(word(own_offset)));
        for set in &self.sets {
            out.put_slice(&order.write(word(set.len())));
            for name in set {
                out.put_slice(name.as_field());
            }
        }
        out.freeze()
    }
}

const fn set_size(members: usize) -> usize {
    4 + GROUP_FIELD * members
}

/// A count that the groups layer keeps far below 2^31; saturated rather than wrapped if it ever were not.
pub(crate) fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
