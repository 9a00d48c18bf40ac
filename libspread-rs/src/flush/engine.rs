//! The flush protocol of one connection as a state machine without a socket.
//!
//! ```text
//!            SP view                    flush                   all FLUSH_OK
//! STEADY ------------> AUTHORIZE -----------------> AGREE ------------------> VERIFY
//!   ^    flush request            sends FLUSH_OK     ^        view; sends       |  |
//!   |                                                |        FLUSH_RECV        |  |
//!   |                                    a joiner ---+                          |  |
//!   +---------------------------- all FLUSH_RECV -------------------------------+  |
//!                      AUTHORIZE <---------------- SP view ------------------------+
//! ```
//!
//! Calling order: a command or [`Engine::handle_message`], then [`Engine::poll_output`] until it gives nothing. Messages
//! to be sent keep their order.
//!
//! Differences from the original: it crashes on every network change of the membership; here the rules of the
//! specification are followed. Reads `spec/flush-api.md#5` and `#6`.

#![cfg_attr(
    not(feature = "capi"),
    allow(unreachable_pub, dead_code, reason = "part of it is for the C interface alone")
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use spread_wire::{ByteOrder, Frame, GroupId, GroupName, ServiceType};

use crate::error::{ReceiveError, SendError};
use crate::message::{Cause, Membership, Message};

/// Mark of a message to a part of a group.
pub(crate) const SUBGROUP: u32 = 0x4000_0000;
const FLUSH_REQUEST: u32 = 0x2000_0000;

/// Message types of the protocol; those of applications are above.
const FLUSH_OK: i16 = -32_768;
const FLUSH_RECV: i16 = -32_767;
const VULNERABLE: i16 = -32_766;
/// The least message type an application may use.
pub const MESSAGE_TYPE_MIN: i16 = -32_765;

/// Membership messages after which a FLUSH_OK for a view that never came is forgotten.
const AGE_MAX: u32 = 200;

/// Bytes of a group name behind the data of a subgroup message.
const NAME_TRAILER: usize = 32;
/// Bytes of the original type and of the view behind the data of a vulnerable message.
const VIEW_TRAILER: usize = 2 + GroupId::SIZE;

/// Why a command is refused (spec: flush-api 3).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Not an installed member of the group, a member already, or no group name.
    #[error("{group} is not a group this can be done in now")]
    IllegalGroup {
        /// The name.
        group: GroupName,
    },
    /// The group was flushed and its next view is not there yet, or there is no request to be answered.
    #[error("the flush state of {group} does not allow this")]
    IllegalState {
        /// The group.
        group: GroupName,
    },
    /// A message type below -32,765: those are the protocol's own.
    #[error("message types below {MESSAGE_TYPE_MIN} are reserved, {found} is one of them")]
    MessageType {
        /// The type.
        found: i16,
    },
    /// A receiver was not a member of the current view.
    #[error("{receiver} is not a member of the current view of {group}")]
    Receiver {
        /// The group.
        group: GroupName,
        /// Who is not a member.
        receiver: GroupName,
    },
    /// A service with bits of membership messages or of the protocol, or without exactly one service bit.
    #[error("type bits {found:#x} cannot be sent")]
    Service {
        /// The bits.
        found: u32,
    },
    /// The message could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl FlushError {
    /// Gives the code of the C interface.
    pub fn code(&self) -> i32 {
        match self {
            Self::IllegalGroup { .. } => -14,
            Self::IllegalState { .. } => -27,
            Self::MessageType { .. } => -26,
            Self::Receiver { .. } => -28,
            Self::Service { .. } => -12,
            Self::Send(error) => error.code(),
        }
    }
}

/// What the application sees.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Data, in the view its sender sent it in.
    Data(FlushData),
    /// The membership is about to change: answer by a flush, once. Until then messages can be sent.
    FlushRequest {
        /// The group.
        group: GroupName,
    },
    /// A new view is installed.
    View(View),
    /// Members of the current view are gone.
    Transition {
        /// The group.
        group: GroupName,
    },
    /// This session has left the group.
    SelfLeave {
        /// The group.
        group: GroupName,
    },
    /// A message of the daemon that is none of the flush layer's business: a refused request, a reconnect.
    Other(Message),
}

/// Data that a member of the view sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushData {
    /// Type bits: the service, self-discard, and 0x40000000 if it went to a part of the group.
    pub service_type: ServiceType,
    /// The private group of the sender.
    pub sender: GroupName,
    /// Where it went; to a part of a group: the receivers, then the group.
    pub groups: Vec<GroupName>,
    /// The number of the application.
    pub message_type: i16,
    /// Whether the sender's machine has the other byte order.
    pub endian_mismatch: bool,
    /// The data.
    pub data: Bytes,
}

/// A view all of whose members agreed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct View {
    /// The group.
    pub group: GroupName,
    /// What changed.
    pub cause: Cause,
    /// Its id.
    pub id: GroupId,
    /// Its members, in the same order at every member.
    pub members: Vec<GroupName>,
    /// Place of this session among them.
    pub own_index: Option<usize>,
    /// The member that joined, left or was disconnected; after a network change those that came along from the
    /// previous view.
    pub set: Vec<GroupName>,
}

/// A message for the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing {
    /// Type bits: a service, or a join or leave request.
    pub service_type: ServiceType,
    /// Where it goes.
    pub groups: Vec<GroupName>,
    /// Message type.
    pub message_type: i16,
    /// Its data.
    pub data: Vec<u8>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this.
    Send(Outgoing),
    /// Tell the application.
    Deliver(Event),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinState {
    Joining,
    Joined,
    Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlushState {
    Steady,
    Authorize,
    Agree,
    Verify,
}

/// A change of the membership that is not installed, or of which only a FLUSH_OK is known.
#[derive(Debug, Default)]
struct Change {
    /// The view, once the membership message has come.
    view: Option<(Cause, Vec<GroupName>)>,
    /// Members of it that are not gone.
    current: BTreeSet<GroupName>,
    oks: BTreeSet<GroupName>,
    /// FLUSH_RECV that came before it was installed.
    recvs: BTreeSet<GroupName>,
    age: u32,
}

#[derive(Debug)]
struct Group {
    join: JoinState,
    state: FlushState,
    /// Members of the last membership message.
    last: Vec<GroupName>,
    /// The installed view.
    id: GroupId,
    members: Vec<GroupName>,
    /// Members of it that are not gone.
    current: BTreeSet<GroupName>,
    recvs: BTreeSet<GroupName>,
    transition_delivered: bool,
    /// Pending changes in their order; each is in `changes` with its view.
    queue: VecDeque<GroupId>,
    changes: BTreeMap<GroupId, Change>,
    /// Messages for the view at the head of the queue.
    held: Vec<FlushData>,
}

impl Group {
    fn joining(own: GroupName) -> Self {
        Self {
            join: JoinState::Joining,
            state: FlushState::Agree,
            last: Vec::new(),
            id: GroupId::default(),
            members: vec![own],
            current: BTreeSet::from([own]),
            recvs: BTreeSet::new(),
            transition_delivered: true,
            queue: VecDeque::new(),
            changes: BTreeMap::new(),
            held: Vec::new(),
        }
    }
}

/// The flush protocol of one connection.
#[derive(Debug)]
pub struct Engine {
    own: GroupName,
    groups: BTreeMap<GroupName, Group>,
    output: VecDeque<Output>,
}

impl Engine {
    /// Starts for the session with this private group.
    pub fn new(own: GroupName) -> Self {
        Self { own, groups: BTreeMap::new(), output: VecDeque::new() }
    }

    /// Joins a group.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`] if it is known already or the name is illegal.
    pub fn join(&mut self, group: GroupName) -> Result<(), FlushError> {
        if self.groups.contains_key(&group) || GroupName::new(group.as_bytes()).is_err() {
            return Err(FlushError::IllegalGroup { group });
        }
        self.request(ServiceType::JOIN, group);
        Ok(())
    }

    /// Leaves a group; in any flush state.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`] unless an installed member that is not leaving.
    pub fn leave(&mut self, group: GroupName) -> Result<(), FlushError> {
        let state = self.groups.get_mut(&group).filter(|state| state.join == JoinState::Joined);
        let Some(state) = state else { return Err(FlushError::IllegalGroup { group }) };
        state.join = JoinState::Leaving;
        self.request(ServiceType::LEAVE, group);
        Ok(())
    }

    /// Answers a flush request: the next view may be installed, and nothing can be sent to the group until it is.
    ///
    /// # Errors
    ///
    /// [`FlushError::IllegalGroup`] if the group is unknown or being left, [`FlushError::IllegalState`] if there is no
    /// request.
    pub fn flush(&mut self, group: GroupName) -> Result<(), FlushError> {
        let state = self.groups.get_mut(&group).filter(|state| state.join != JoinState::Leaving);
        let Some(state) = state else { return Err(FlushError::IllegalGroup { group }) };
        match (state.state, state.queue.front()) {
            (FlushState::Authorize, Some(&head)) => {
                state.state = FlushState::Agree;
                self.output.push_back(Output::Send(control(group, FLUSH_OK, head)));
                Ok(())
            }
            _ => Err(FlushError::IllegalState { group }),
        }
    }

    /// Sends to a group, to a private group, or, with `receivers`, to members of a group.
    ///
    /// # Errors
    ///
    /// [`FlushError`] in the order of `spec/flush-api.md#3.3`.
    pub fn send(
        &mut self,
        service_type: ServiceType,
        group: GroupName,
        receivers: Option<&[GroupName]>,
        message_type: i16,
        data: &[u8],
    ) -> Result<(), FlushError> {
        const FORBIDDEN: u32 = FLUSH_REQUEST | ServiceType::MEMBERSHIP.0 | ServiceType::RESERVED.0;
        let bits = service_type.0 & !SUBGROUP;
        if bits & (FORBIDDEN | ServiceType::REJECT.0 | ServiceType::MARK) != 0 {
            return Err(FlushError::Service { found: bits });
        }
        if message_type < MESSAGE_TYPE_MIN {
            return Err(FlushError::MessageType { found: message_type });
        }
        let service = ServiceType(bits);
        let mut view = None;
        if group.is_private() {
            if let Some(receiver) = receivers.into_iter().flatten().find(|receiver| **receiver != group) {
                return Err(FlushError::Receiver { group, receiver: *receiver });
            }
        } else {
            let state = self.groups.get(&group).filter(|state| state.join == JoinState::Joined);
            let Some(state) = state else { return Err(FlushError::IllegalGroup { group }) };
            if state.state == FlushState::Agree {
                return Err(FlushError::IllegalState { group });
            }
            if let Some(receiver) = receivers.into_iter().flatten().find(|r| !state.members.contains(r)) {
                return Err(FlushError::Receiver { group, receiver: *receiver });
            }
            let loose =
                service.intersects(ServiceType::UNRELIABLE | ServiceType::RELIABLE | ServiceType::FIFO);
            if loose && state.state != FlushState::Steady {
                view = Some(state.id);
            }
        }
        if service.only(ServiceType::REGULAR).0.count_ones() != 1 {
            return Err(FlushError::Service { found: bits });
        }
        let mut body = Vec::with_capacity(data.len() + VIEW_TRAILER + NAME_TRAILER);
        body.extend_from_slice(data);
        let mut wire_type = message_type;
        if let Some(id) = view {
            body.extend_from_slice(&message_type.to_ne_bytes());
            body.extend_from_slice(&id.encode(ByteOrder::NATIVE));
            wire_type = VULNERABLE;
        }
        let (service_type, groups) = match receivers {
            None => (service, vec![group]),
            Some(receivers) => {
                body.extend_from_slice(group.as_field());
                (service | ServiceType(SUBGROUP), receivers.to_vec())
            }
        };
        self.output.push_back(Output::Send(Outgoing {
            service_type,
            groups,
            message_type: wire_type,
            data: body,
        }));
        Ok(())
    }

    /// Takes a frame from the daemon.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Protocol`] if a daemon does not send such a frame.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<(), ReceiveError> {
        let message = Message::from_frame(frame, &self.own)?;
        self.handle_message(message);
        Ok(())
    }

    /// Takes a message from the daemon.
    pub fn handle_message(&mut self, message: Message) {
        match message {
            Message::Membership(view) => self.handle_view(view),
            Message::Transition { group, .. } => self.deliver_transition(group),
            Message::SelfLeave { group } => {
                self.groups.remove(&group);
                self.deliver(Event::SelfLeave { group });
            }
            Message::Data(data) => self.handle_data(FlushData {
                service_type: data.service_type(),
                sender: data.sender(),
                groups: data.groups().collect(),
                message_type: data.message_type(),
                endian_mismatch: data.endian_mismatch(),
                data: data.to_bytes(),
            }),
            other => self.deliver(Event::Other(other)),
        }
    }

    /// Gives the next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// The installed view of the only group.
    #[cfg(test)]
    pub(crate) fn groups_id(&self) -> Option<GroupId> {
        self.groups.values().next().filter(|state| state.join == JoinState::Joined).map(|state| state.id)
    }

    fn deliver(&mut self, event: Event) {
        self.output.push_back(Output::Deliver(event));
    }

    fn request(&mut self, service_type: ServiceType, group: GroupName) {
        let request = Outgoing { service_type, groups: vec![group], message_type: 0, data: Vec::new() };
        self.output.push_back(Output::Send(request));
    }

    /// A transitional, at most once in a view.
    fn deliver_transition(&mut self, group: GroupName) {
        if let Some(state) = self.groups.get_mut(&group)
            && !std::mem::replace(&mut state.transition_delivered, true)
        {
            self.deliver(Event::Transition { group });
        }
    }

    /// spec: flush-api 6, the rules for a regular membership message, by their numbers
    fn handle_view(&mut self, view: Membership) {
        let group = view.group;
        let own = self.own;
        // 1.
        let state = self.groups.entry(group).or_insert_with(|| Group::joining(own));
        // 2.
        let departed: Vec<GroupName> = match view.cause {
            Cause::Join(_) => Vec::new(),
            Cause::Leave(member) | Cause::Disconnect(member) => vec![member],
            Cause::Network => {
                let with_us = view.own_vs_set();
                state.last.iter().copied().filter(|member| !with_us.contains(member)).collect()
            }
        };
        state.last.clone_from(&view.members);
        // 3.
        let mut shrank = false;
        for member in &departed {
            shrank |= state.current.remove(member);
        }
        // 4.
        for change in state.changes.values_mut().filter(|change| change.view.is_none()) {
            change.age += 1;
        }
        let old = |(_, change): &(&GroupId, &Change)| change.view.is_none() && change.age > AGE_MAX;
        let forgotten = state.changes.iter().find(old).map(|(id, _)| *id).filter(|id| *id != view.id);
        if let Some(id) = forgotten {
            state.changes.remove(&id);
        }
        // 5.
        let head = state.queue.front().copied();
        let mut cause = view.cause;
        let mut dropped = false;
        for id in std::mem::take(&mut state.queue) {
            let Some(change) = state.changes.get_mut(&id) else { continue };
            let Some((its_cause, members)) = &mut change.view else { continue };
            let gone: Vec<_> = departed.iter().filter(|member| members.contains(member)).collect();
            if gone.iter().any(|member| !change.oks.contains(*member)) {
                state.changes.remove(&id);
                dropped = true;
                continue;
            }
            if std::mem::take(&mut dropped) {
                *its_cause = Cause::Network;
            }
            for member in gone {
                change.current.remove(member);
            }
            state.queue.push_back(id);
        }
        if dropped {
            cause = Cause::Network;
        }
        // 6.
        let change = state.changes.entry(view.id).or_default();
        change.current = view.members.iter().copied().collect();
        change.view = Some((cause, view.members));
        state.queue.push_back(view.id);
        if state.queue.front() != head.as_ref() {
            state.held.clear();
            self.begin_change(group);
        }
        // 7.
        if shrank {
            self.deliver_transition(group);
        }
        self.try_install(group);
    }

    /// The head of the queue is another one: asks the application, or agrees if it has agreed already.
    fn begin_change(&mut self, group: GroupName) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let Some(&head) = state.queue.front() else { return };
        match state.state {
            FlushState::Steady | FlushState::Verify => {
                state.state = FlushState::Authorize;
                self.deliver(Event::FlushRequest { group });
            }
            FlushState::Authorize => {}
            FlushState::Agree => self.output.push_back(Output::Send(control(group, FLUSH_OK, head))),
        }
    }

    /// Installs the head of the queue if all its members have agreed.
    fn try_install(&mut self, group: GroupName) {
        let own = self.own;
        let Some(state) = self.groups.get_mut(&group) else { return };
        let Some(&id) = state.queue.front() else { return };
        let complete = |change: &Change| {
            change.view.as_ref().is_some_and(|(_, members)| members.iter().all(|m| change.oks.contains(m)))
        };
        if state.state != FlushState::Agree || !state.changes.get(&id).is_some_and(complete) {
            return;
        }
        let Some(Change { view: Some((cause, members)), current, recvs, .. }) = state.changes.remove(&id)
        else {
            return;
        };
        state.queue.pop_front();
        let set = match cause.member() {
            Some(member) => vec![member],
            None => {
                let came_along = |m: &&GroupName| state.current.contains(m) && members.contains(m);
                state.members.iter().filter(came_along).copied().collect()
            }
        };
        let lost = current.len() < members.len();
        if state.join == JoinState::Joining {
            state.join = JoinState::Joined;
        }
        state.state = FlushState::Verify;
        state.id = id;
        state.members.clone_from(&members);
        state.current = current;
        state.recvs = recvs;
        state.transition_delivered = false;
        let held = std::mem::take(&mut state.held);
        let more = !state.queue.is_empty();
        let own_index = members.iter().position(|member| *member == own);
        self.deliver(Event::View(View { group, cause, id, members, own_index, set }));
        if more {
            self.begin_change(group);
        } else {
            self.output.push_back(Output::Send(control(group, FLUSH_RECV, id)));
        }
        if lost {
            self.deliver_transition(group);
        }
        for data in held {
            self.deliver(Event::Data(data));
        }
        self.check_verified(group);
    }

    fn check_verified(&mut self, group: GroupName) {
        if let Some(state) = self.groups.get_mut(&group)
            && state.state == FlushState::Verify
            && state.members.iter().all(|member| state.recvs.contains(member))
        {
            state.state = FlushState::Steady;
        }
    }

    fn handle_data(&mut self, mut data: FlushData) {
        let subgroup = data.service_type.0 & SUBGROUP != 0;
        // Stripped from the end: the group, the view, the type.
        let mut group = data.groups.first().copied();
        if subgroup {
            let Some(at) = data.data.len().checked_sub(NAME_TRAILER) else { return };
            let Some(field) = data.data[at..].first_chunk() else { return };
            let name = GroupName::from_field(*field);
            data.data.truncate(at);
            data.groups.push(name);
            group = Some(name);
        }
        let Some(group) = group else { return };
        let order = match (data.endian_mismatch, ByteOrder::NATIVE) {
            (false, native) => native,
            (true, ByteOrder::Little) => ByteOrder::Big,
            (true, ByteOrder::Big) => ByteOrder::Little,
        };
        if !subgroup && matches!(data.message_type, FLUSH_OK | FLUSH_RECV) {
            if let Some(id) = data.data.first_chunk() {
                self.handle_control(group, data.sender, data.message_type, GroupId::decode(*id, order));
            }
            return;
        }
        let mut sent_in = None;
        if data.message_type == VULNERABLE {
            let Some(at) = data.data.len().checked_sub(VIEW_TRAILER) else { return };
            let Some((kind, id)) = data.data[at..].split_first_chunk::<2>() else { return };
            let Some(id) = id.first_chunk() else { return };
            sent_in = Some(GroupId::decode(*id, order));
            data.message_type = match order {
                ByteOrder::Little => i16::from_le_bytes(*kind),
                ByteOrder::Big => i16::from_be_bytes(*kind),
            };
            data.data.truncate(at);
        }
        if group.is_private() {
            self.deliver(Event::Data(data));
            return;
        }
        let Some(state) = self.groups.get_mut(&group) else { return };
        let head = state.queue.front().filter(|_| state.state == FlushState::Agree);
        if let Some(head) = head
            && sent_in == Some(*head)
            && state.changes.get(head).is_some_and(|change| change.current.contains(&data.sender))
        {
            state.held.push(data);
        } else if state.current.contains(&data.sender) {
            self.deliver(Event::Data(data));
        }
    }

    fn handle_control(&mut self, group: GroupName, sender: GroupName, kind: i16, id: GroupId) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        if kind == FLUSH_OK {
            state.changes.entry(id).or_default().oks.insert(sender);
            self.try_install(group);
        } else if state.state == FlushState::Verify && state.id == id {
            state.recvs.insert(sender);
            self.check_verified(group);
        } else if state.state == FlushState::Agree
            && state.queue.front() == Some(&id)
            && let Some(change) = state.changes.get_mut(&id)
        {
            change.recvs.insert(sender);
        }
    }
}

/// A message of the protocol itself.
fn control(group: GroupName, message_type: i16, id: GroupId) -> Outgoing {
    Outgoing {
        service_type: ServiceType::FIFO,
        groups: vec![group],
        message_type,
        data: id.encode(ByteOrder::NATIVE).to_vec(),
    }
}
