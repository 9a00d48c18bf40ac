//! What the clients of a history did and read, as the oracle of the group semantics reads it.
//!
//! spec: group-semantics 7.1

use std::fmt;

use spread_ring::ConfId;
use spread_wire::{Cause, GroupId, GroupName, ServiceType};

/// Number of a client in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNo(pub u32);

impl ClientNo {
    /// As an array index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ClientNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// Number of a client message in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsgNo(pub u32);

impl MsgNo {
    /// As an array index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for MsgNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// A message as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The sender.
    pub by: ClientNo,
    /// Type word, with SELF_DISCARD.
    pub service: ServiceType,
    /// The target list.
    pub targets: Vec<GroupName>,
    /// The application's message type.
    pub message_type: i16,
    /// Length of the payload.
    pub len: usize,
}

impl Sent {
    /// FIFO, CAUSAL, AGREED, SAFE.
    pub fn is_ordered(&self) -> bool {
        !self.service.intersects(ServiceType::UNRELIABLE | ServiceType::RELIABLE)
    }

    /// Not to be delivered to its sender.
    pub fn is_self_discard(&self) -> bool {
        self.service.intersects(ServiceType::SELF_DISCARD)
    }

    /// Whether the group is a target.
    pub fn goes_to(&self, group: GroupName) -> bool {
        self.targets.contains(&group)
    }
}

/// A regular membership message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The group.
    pub group: GroupName,
    /// Its id.
    pub id: GroupId,
    /// The cause.
    pub cause: Cause,
    /// The members in order.
    pub members: Vec<GroupName>,
    /// The vs sets.
    pub sets: Vec<Vec<GroupName>>,
    /// Number of the receiver's own set.
    pub own: usize,
    /// Not known to a client: where it was delivered, if its id alone does not name it.
    pub place: Option<Place>,
}

/// Where a daemon is in the course of daemon views: epoch and nonce of the regular configuration, and the
/// transitional one once it is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Regular configuration.
    pub regular: (u64, u32),
    /// Transitional configuration.
    pub broken: Option<ConfId>,
}

impl Place {
    /// In a regular configuration.
    pub fn whole(id: ConfId) -> Self {
        Self { regular: (id.epoch, id.nonce), broken: None }
    }

    /// After [`Act::Broken`] and [`Act::Together`].
    pub fn go(&mut self, act: &Act) {
        match act {
            Act::Broken(id) => self.broken = Some(*id),
            // A transitional configuration comes right before the regular one that it leads to.
            Act::Together(id) => *self = Self { regular: (id.epoch + 1, id.nonce), broken: None },
            _ => {}
        }
    }
}

/// What names a view: group, id, and for a view that announces a single change also where it was delivered. A
/// daemon may lack the last messages of a daemon view that another one delivered. If that leaves a group untouched
/// by the break on its side, the group goes on counting there, and the other side counts other joins with the
/// same numbers, before or after the break.
pub type ViewKey = (GroupName, GroupId, Option<Place>);

impl View {
    /// Announced between a transitional signal and the next network view.
    pub fn is_in_transition(&self) -> bool {
        self.cause == Cause::Network && self.id.index >= 2
    }

    /// What names it.
    pub fn key(&self) -> ViewKey {
        let base = self.cause == Cause::Network && !self.is_in_transition();
        (self.group, self.id, self.place.filter(|_| !base))
    }

    /// The receiver's own set.
    pub fn own_set(&self) -> &[GroupName] {
        self.sets.get(self.own).map_or(&[], |set| set)
    }
}

/// One thing that a client did or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sent a message; logged before it is written.
    Send(MsgNo),
    /// Asked to join.
    JoinReq(GroupName),
    /// Asked to leave.
    LeaveReq(GroupName),
    /// Ended its connection.
    Close,
    /// Read a message, with the type word, target list and message type that it had.
    Data {
        /// Which one.
        msg: MsgNo,
        /// What its header says.
        read: Sent,
    },
    /// Read a regular membership message.
    View(View),
    /// Read a transitional signal.
    Trans(GroupName, GroupId),
    /// Read a self-leave.
    SelfLeave(GroupName),
    /// Not known to a client: its daemon got this transitional configuration.
    Broken(ConfId),
    /// Not known to a client: its daemon went on to the next daemon view, together with those of this
    /// transitional configuration.
    Together(ConfId),
}

/// The log of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLog {
    /// Its private group.
    pub name: GroupName,
    /// Its daemon.
    pub node: usize,
    /// Whether it asked for membership messages.
    pub membership: bool,
    /// It closed, crashed, was disconnected, or its daemon ended.
    pub excused: bool,
    /// In order.
    pub acts: Vec<Act>,
}

/// The logs of all clients of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// By number.
    pub clients: Vec<ClientLog>,
    /// By number.
    pub messages: Vec<Sent>,
    /// The history came to rest: everything that was to be read was read. The nodes of each part of the
    /// network, at the end. `None`: it was stopped in the middle.
    pub rest: Option<Vec<Vec<usize>>>,
    /// First message sent after the rest: all members get these.
    pub after_rest: Option<MsgNo>,
}

impl GroupLog {
    /// The client with this private group.
    pub fn find(&self, name: GroupName) -> Option<ClientNo> {
        let index = self.clients.iter().position(|client| client.name == name)?;
        u32::try_from(index).ok().map(ClientNo)
    }
}
