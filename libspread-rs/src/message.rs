//! What arrives.

use std::time::Duration;

use bytes::Bytes;
use spread_wire::{
    Cause as WireCause, Frame, Gap, GroupId, GroupName, Kind, MembershipBody, PrivateGroup, ServiceType,
};

use crate::address::Address;
use crate::error::ReceiveError;
use crate::service::Service;

/// One message from the daemon, or an event of the connection.
///
/// ```no_run
/// use spread::{Builder, Message};
///
/// let mut connection = Builder::new("4803")?.membership(true).connect_blocking()?;
/// connection.join("chat".parse()?)?;
/// loop {
///     match connection.receive()? {
///         Message::Data(data) => println!("{}: {:?}", data.sender(), data.payload()),
///         Message::Membership(view) => println!("{} has {} members", view.group, view.members.len()),
///         Message::SelfLeave { group } => println!("left {group}"),
///         other => println!("{other:?}"),
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// Data that a client sent.
    Data(Data),
    /// A group has a new view. Only for sessions that asked for membership messages.
    Membership(Membership),
    /// The guarantees of the current view of a group are reduced from here to its next view.
    /// Only for sessions that asked for membership messages.
    ///
    /// spec: group-semantics 2.7
    Transition {
        /// The group.
        group: GroupName,
        /// The view that ends.
        id: GroupId,
    },
    /// This session has left a group at its own request; no data of the group follows.
    /// Only for sessions that asked for membership messages.
    SelfLeave {
        /// The group.
        group: GroupName,
    },
    /// The daemon's policy refused a request of this session.
    Reject(Rejected),
    /// The connection was lost and made again; see [`Builder::reconnect`](crate::Builder::reconnect).
    /// Always received, also without membership messages.
    Reconnected(Reconnected),
    /// The daemon dropped messages to this session here, because it did not read them in time. Only for sessions
    /// that asked for it with [`Builder::gap_marks`](crate::Builder::gap_marks).
    Gap(Gap),
}

/// Data that a client sent, with where it was sent to.
///
/// Keeps the message as it arrived; what it gives is read from there. Messages that arrived together share one
/// block of memory (64 KiB or the size of the message), which is freed when the last of them is dropped: copy out
/// what is kept for long.
#[derive(Clone, Debug)]
pub struct Data(Frame);

impl Data {
    /// Gives the service it was sent with.
    pub fn service(&self) -> Service {
        // The frame was taken for data because one of the service bits is set. A forged combination of several reads
        // as the weakest.
        let bits = self.0.header.service;
        let kind = bits.only(ServiceType::REGULAR).0;
        let lowest = kind & kind.wrapping_neg();
        Service::from_bits(lowest | bits.only(ServiceType::SELF_DISCARD).0).unwrap_or(Service::UNRELIABLE)
    }

    /// Gives all bits of the type field, without the byte-order mark.
    pub fn service_type(&self) -> ServiceType {
        self.0.header.service
    }

    /// Gives the private group of the sender. Messages sent to it reach the sender alone.
    pub fn sender(&self) -> GroupName {
        self.0.header.sender
    }

    /// Gives the sender as name and daemon; `None` if the daemon let something else pass.
    pub fn sender_private_group(&self) -> Option<PrivateGroup> {
        PrivateGroup::try_from(&self.0.header.sender).ok()
    }

    /// Gives the groups it was sent to, in the sender's order, also those this session is no member of.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = GroupName> + '_ {
        self.0.group_names()
    }

    /// Gives the 16-bit number the application of the sender chose.
    pub fn message_type(&self) -> i16 {
        self.0.message_type()
    }

    /// Tells whether the sender's machine has the other byte order than this one. The data is never converted.
    pub fn endian_mismatch(&self) -> bool {
        self.0.header.hint.order() != spread_wire::ByteOrder::NATIVE
    }

    /// Gives the data.
    pub fn payload(&self) -> &[u8] {
        self.0.data_bytes()
    }

    /// Gives the data without copying it.
    pub fn to_bytes(&self) -> Bytes {
        self.0.data()
    }

    /// Gives the message as it stood on the wire.
    pub fn frame(&self) -> &Frame {
        &self.0
    }
}

/// Why a group has a new view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This member joined.
    Join(GroupName),
    /// This member left at its own request.
    Leave(GroupName),
    /// This member disconnected or its process ended.
    Disconnect(GroupName),
    /// Daemons were lost or found; [`Membership::vs_sets`] says who came together.
    Network,
}

impl Cause {
    /// Gives the member that joined, left or disconnected.
    pub fn member(&self) -> Option<GroupName> {
        match self {
            Self::Join(member) | Self::Leave(member) | Self::Disconnect(member) => Some(*member),
            Self::Network => None,
        }
    }
}

/// A new view of a group.
///
/// spec: group-semantics 2.2 to 2.6
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// The group.
    pub group: GroupName,
    /// What changed.
    pub cause: Cause,
    /// The id of the view; ids can only be compared for equality.
    pub id: GroupId,
    /// The members after the change, in the same order at every member.
    pub members: Vec<GroupName>,
    /// Place of this session in `members`.
    pub own_index: Option<usize>,
    /// The virtual-synchrony sets: members of one set saw the same messages in the view before.
    /// For all causes but [`Cause::Network`] there is one, and it holds the member that changed.
    pub vs_sets: Vec<Vec<GroupName>>,
    /// Place of the set that came through the change together with this session.
    pub own_set: usize,
}

impl Membership {
    /// Gives the set that came through a network change together with this session; for other causes the changed
    /// member.
    pub fn own_vs_set(&self) -> &[GroupName] {
        self.vs_sets.get(self.own_set).map_or(&[], Vec::as_slice)
    }
}

/// A request of this session that the daemon's policy refused (spec: client-protocol 5.5).
#[derive(Clone, Debug)]
pub struct Rejected(Frame);

impl Rejected {
    /// Gives the type bits of the refused message. A refused join shows the bit of a membership change by a join, a
    /// refused leave that of a change by a leave.
    pub fn service_type(&self) -> ServiceType {
        self.0.orig_type.unwrap_or_default()
    }

    /// Tells whether it was a join.
    pub fn is_join(&self) -> bool {
        self.service_type().contains(ServiceType::CAUSED_BY_JOIN)
    }

    /// Tells whether it was a leave.
    pub fn is_leave(&self) -> bool {
        self.service_type().contains(ServiceType::CAUSED_BY_LEAVE)
    }

    /// Gives the groups of the refused message, without the private group of this session that the daemon appends.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = GroupName> + '_ {
        let count = self.0.groups().len().saturating_sub(1);
        self.0.group_names().take(count)
    }

    /// Gives the 16-bit number of the application.
    pub fn message_type(&self) -> i16 {
        self.0.message_type()
    }

    /// Gives the data of the refused message.
    pub fn payload(&self) -> &[u8] {
        self.0.data_bytes()
    }
}

/// A gap: the connection was lost and made again.
///
/// What this means for the application:
///
/// * Messages to this session's groups between the loss and the new join were missed. The next membership message of
///   each group (if asked for) shows the new session as a member that just joined.
/// * Messages that were wholly handed to the system before the loss may or may not have been sent on by the old daemon.
///   Those not wholly handed over were not: they are sent again, from the first byte, on the new session.
/// * The private group may be another one, and messages to the old one are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconnected {
    /// The private group before.
    pub old_private_group: PrivateGroup,
    /// The private group now.
    pub private_group: PrivateGroup,
    /// The daemon that is used now.
    pub address: Address,
    /// The groups that were joined again. Those an application left are not among them.
    pub rejoined: Vec<GroupName>,
    /// Time from the moment the loss was seen to the new session.
    pub downtime: Duration,
    /// Attempts it took, at least 1.
    pub attempts: u32,
    /// Number of this session of the connection: 0 was the first. A difference of more than 1 to the last event means
    /// that sessions came and went unseen.
    pub generation: u64,
}

impl Message {
    /// Interprets a frame for the session `own`.
    ///
    /// spec: client-protocol 12.3
    pub(crate) fn from_frame(frame: Frame, own: &GroupName) -> Result<Self, ReceiveError> {
        match frame.kind() {
            Kind::Data => Ok(Self::Data(Data(frame))),
            Kind::Reject => Ok(Self::Reject(Rejected(frame))),
            Kind::Membership => membership(&frame, own).map(Self::Membership),
            Kind::Transition => {
                let id = GroupId::of_transition(&frame).map_err(illegal)?;
                Ok(Self::Transition { group: frame.header.sender, id })
            }
            Kind::SelfLeave => Ok(Self::SelfLeave { group: frame.header.sender }),
            Kind::Request | Kind::Unknown => match Gap::of(&frame) {
                Some(gap) => Ok(Self::Gap(gap)),
                None => Err(illegal(format_args!("type {} is none of a daemon", frame.header.service))),
            },
        }
    }
}

pub(crate) fn illegal(what: impl std::fmt::Display) -> ReceiveError {
    ReceiveError::Protocol { what: what.to_string() }
}

fn membership(frame: &Frame, own: &GroupName) -> Result<Membership, ReceiveError> {
    let body = MembershipBody::parse(frame).map_err(illegal)?;
    let changed = || body.changed().ok_or_else(|| illegal("membership change without a member"));
    let cause = match body.cause {
        WireCause::Join => Cause::Join(changed()?),
        WireCause::Leave => Cause::Leave(changed()?),
        WireCause::Disconnect => Cause::Disconnect(changed()?),
        WireCause::Network => Cause::Network,
    };
    let members: Vec<_> = frame.group_names().collect();
    Ok(Membership {
        group: frame.header.sender,
        cause,
        id: body.id,
        own_index: members.iter().position(|member| member == own),
        members,
        vs_sets: body.sets().map(|set| set.iter().map(|f| GroupName::from_field(*f)).collect()).collect(),
        own_set: body.own_set,
    })
}
