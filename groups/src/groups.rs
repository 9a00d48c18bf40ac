//! The engine: state, sessions, and what comes out.

use std::collections::VecDeque;

use spread_wire::{DaemonName, Frame, GroupId, GroupName, PrivateGroup, PrivateName, ServiceType};

use crate::exchange::Exchange;
use crate::payload::is_request;
use crate::queue::{Queue, Request};
use crate::registry::Registry;
use crate::stats::Stats;
use crate::table::Table;
use crate::types::{
    Accepted, ConfigError, ConfigId, ConnectError, Daemon, Ended, GroupsConfig, Nodes, OutFrame, Output,
    Recipients, Refusal, RingService, SessionId, Submission,
};

/// The process groups of one daemon: sessions, memberships, routing, membership messages.
///
/// A pure state machine. Calls, in any order:
///
/// - From the session layer: [`connect`](Self::connect), [`request`](Self::request),
///   [`disconnect`](Self::disconnect).
/// - From the ring, in the order of its events: [`handle_deliver`](Self::handle_deliver),
///   [`handle_transitional`](Self::handle_transitional), [`handle_regular`](Self::handle_regular). The first
///   event is `handle_regular` with this daemon alone; each later one follows a `handle_transitional`.
/// - After each batch of these: [`poll_output`](Self::poll_output) until it is empty, and
///   [`poll_submit`](Self::poll_submit) as long as the ring takes messages. Every message taken must be given
///   to the ring, in order, and the ring must deliver it here too.
///
/// Nothing that arrives causes a panic. What the ring delivers from other daemons is checked; what is not
/// understood is dropped and counted in [`stats`](Self::stats).
///
/// spec: group-semantics
#[derive(Debug)]
pub struct Groups {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) me: u16,
    pub(crate) registry: Registry,
    pub(crate) table: Table,
    pub(crate) queue: Queue,
    /// The current regular configuration; none before the first.
    pub(crate) config: Option<Configuration>,
    /// Set between a transitional configuration and the regular one that follows.
    pub(crate) transition: Option<Transition>,
    /// Set until the group tables of the current configuration are exchanged.
    pub(crate) exchange: Option<Exchange>,
    /// The daemons that have the same table as this one.
    pub(crate) side: Nodes,
    /// The last transitional configuration that ended views here. A break during an exchange ends none: nothing
    /// was delivered since the one before.
    pub(crate) parted: ConfigId,
    /// See [`crate::queue`].
    pub(crate) generation: u32,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) scratch: Vec<SessionId>,
    pub(crate) stats: Stats,
}

/// A regular configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    pub(crate) id: ConfigId,
    pub(crate) members: Nodes,
}

/// A transitional configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transition {
    pub(crate) id: ConfigId,
    /// The daemons that go on together.
    pub(crate) survivors: Nodes,
}

impl Groups {
    /// An engine without sessions and groups.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration contradicts itself.
    pub fn new(config: GroupsConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let GroupsConfig { daemons, me } = config;
        Ok(Self {
            daemons,
            me,
            registry: Registry::default(),
            table: Table::default(),
            queue: Queue::default(),
            config: None,
            transition: None,
            exchange: None,
            side: Nodes::one(me),
            parted: ConfigId::default(),
            // No regular configuration has an odd epoch, so no later generation is the same.
            generation: 1,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Takes a new session. Its private name is taken from now until [`Output::Close`].
    ///
    /// # Errors
    /// [`ConnectError`] if the name or the number is in use; nothing has changed then.
    pub fn connect(
        &mut self,
        session: SessionId,
        name: PrivateName,
        membership: bool,
    ) -> Result<PrivateGroup, ConnectError> {
        let private = PrivateGroup::new(name, self.name());
        self.registry.insert(session, private.as_group(), membership)?;
        Ok(private)
    }

    /// Whether a session of this daemon has the name.
    pub fn is_name_in_use(&self, name: PrivateName) -> bool {
        self.registry.contains_name(&PrivateGroup::new(name, self.name()).as_group())
    }

    /// Takes a message of a session, as [`spread_wire::FrameDecoder::daemon`] gave it. Requests of one session
    /// take effect in the order they come here.
    ///
    /// # Errors
    /// [`Refusal`]: the session is to be dropped with [`disconnect`](Self::disconnect).
    pub fn request(&mut self, session: SessionId, frame: &Frame) -> Result<Accepted, Refusal> {
        let sender = self.registry.get_mut(session).filter(|s| !s.closing).ok_or(Refusal::UnknownSession)?;
        let header = &frame.header;
        if header.sender != sender.name {
            return Err(Refusal::ForeignSender);
        }
        if !is_request(header.service) {
            return Err(Refusal::IllegalType(header.service.0));
        }
        let kill = header.service.intersects(ServiceType::KILL);
        if header.service.intersects(ServiceType::JOIN | ServiceType::LEAVE) && header.num_groups == 0 {
            return Err(Refusal::NoGroup);
        }
        if self.queue.is_full() && !kill {
            return Err(Refusal::QueueFull);
        }
        sender.closing |= kill;
        self.stats.requests += 1;
        self.queue.push(Request::Frame { service: ring_service(header.service), raw: frame.raw().clone() });
        Ok(if kill { Accepted::Disconnecting } else { Accepted::Queued })
    }

    /// Ends a session. Its name is free, and its members are gone, when the ring has delivered it
    /// ([`Output::Close`]). Does nothing if the session is unknown or ends already.
    pub fn disconnect(&mut self, session: SessionId, ended: Ended) {
        let Some(ending) = self.registry.get_mut(session).filter(|s| !s.closing) else { return };
        ending.closing = true;
        self.queue.push(match ended {
            Ended::Requested => {
                Request::Frame { service: RingService::Agreed, raw: spread_wire::build::kill(&ending.name) }
            }
            Ended::Broken => Request::Broken(ending.name),
        });
    }

    /// The next thing for the session layer to do.
    #[inline]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next message for the ring. None while there is nothing to send, and while the group tables are
    /// exchanged: requests wait then.
    ///
    /// spec: group-semantics 4 R3
    pub fn poll_submit(&mut self) -> Option<Submission> {
        // What is given to a ring that is breaking may have to be given again to the next one.
        if self.config.is_none() || self.transition.is_some() {
            return None;
        }
        if let Some(exchange) = &mut self.exchange {
            let piece = exchange.poll_piece(&self.table, &self.daemons)?;
            self.queue.note_other();
            self.stats.state_messages_sent += 1;
            return Some(piece);
        }
        self.queue.take(self.generation)
    }

    /// Requests that wait for their turn: number and bytes. The session layer stops reading from its clients
    /// above a limit of its own (500 in the original) and goes on below it.
    ///
    /// spec: client-protocol 6.1
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.waiting()
    }

    /// Messages taken by [`poll_submit`](Self::poll_submit) that the ring has not delivered yet.
    pub fn under_way(&self) -> usize {
        self.queue.under_way()
    }

    /// Whether all daemons of the current configuration are known to have the same group table.
    pub fn is_synced(&self) -> bool {
        self.config.is_some() && self.exchange.is_none()
    }

    /// Number of groups with at least one member in this component.
    pub fn groups_len(&self) -> usize {
        self.table.len()
    }

    /// Number of sessions of this daemon, with those that are ending.
    pub fn sessions_len(&self) -> usize {
        self.registry.len()
    }

    /// Memberships: pairs of session and group.
    pub fn memberships_len(&self) -> usize {
        self.table.memberships()
    }

    /// Names and numbers of members of the `max` groups with the most members, the largest first; groups of
    /// the same size in byte order. For status displays.
    pub fn largest(&self, max: usize) -> Vec<(GroupName, usize)> {
        self.table.largest(max)
    }

    /// The members of a group in member order and the id of its view; for status displays and tests.
    pub fn view(&self, group: &GroupName) -> Option<(GroupId, Vec<GroupName>)> {
        let group = self.table.get(group)?;
        Some((group.id, group.members().iter().map(|m| m.name).collect()))
    }

    /// The names of all groups in byte order; for status displays and tests.
    pub fn group_names(&self) -> Vec<GroupName> {
        self.table.names(|_| true)
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Checks what must hold after every call; for tests and the simulator.
    ///
    /// # Errors
    /// What does not hold.
    pub fn invariants(&self) -> Result<(), String> {
        self.table.check()?;
        for group in self.table.names(|_| true) {
            for member in self.table.get(&group).map(|g| g.members()).unwrap_or_default() {
                if member.local != self.registry.local(&member.name).filter(|_| member.node == self.me) {
                    return Err(format!("member {} of {group} does not match its session", member.name));
                }
            }
        }
        if self.transition.is_none() && !self.table.names(|g| g.reaches_beyond(self.side)).is_empty() {
            return Err("a group has members of other sides".to_owned());
        }
        if self.is_synced() && self.transition.is_none() && !self.table.names(|g| g.changed).is_empty() {
            return Err("a changed group was not announced".to_owned());
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> DaemonName {
        self.daemons[usize::from(self.me)].name
    }

    /// Puts a frame of this daemon into the output, unless nobody gets it.
    pub(crate) fn send(&mut self, to: &[SessionId], frame: bytes::Bytes) {
        if !to.is_empty() {
            self.stats.notifications += 1;
            let to = Recipients::new(to);
            self.outputs.push_back(Output::Deliver { to, except: None, frame: OutFrame::from(frame) });
        }
    }

    /// The number of a daemon in group ids.
    pub(crate) fn daemon_id(&self, node: u16) -> i32 {
        self.daemons.get(usize::from(node)).map_or(0, |d| d.id)
    }

    /// The id with counter 0 of groups that begin in the given configuration.
    pub(crate) fn base_id(&self, config: ConfigId) -> GroupId {
        GroupId { proc: self.daemon_id(config.rep), time: low_half(config.epoch).cast_signed(), index: 0 }
    }
}

/// The low half of an epoch.
#[allow(clippy::cast_possible_truncation, reason = "that is what is wanted")]
pub(crate) fn low_half(epoch: u64) -> u32 {
    epoch as u32
}

/// What a client's service asks of the ring. Joins, leaves and disconnects are ordered like AGREED.
///
/// spec: group-semantics 1.2
fn ring_service(service: ServiceType) -> RingService {
    if service.intersects(ServiceType::SAFE) {
        RingService::Safe
    } else if service.intersects(ServiceType::FIFO) {
        RingService::Fifo
    } else if service.intersects(ServiceType::CAUSAL) {
        RingService::Causal
    } else if service.intersects(ServiceType::UNRELIABLE | ServiceType::RELIABLE) {
        RingService::Reliable
    } else {
        RingService::Agreed
    }
}
