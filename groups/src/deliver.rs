//! What the ring delivers: requests are routed or take effect, state messages are collected.

use bytes::Bytes;
use spread_wire::limits::{GROUP_FIELD, HEADER};
use spread_wire::{GroupName, Header, PrivateGroup, ServiceType};
use tracing::warn;

use crate::exchange::Received;
use crate::groups::Groups;
use crate::mutation::{Rule, without};
use crate::payload::{PREFIX, Payload, window};
use crate::types::{OutFrame, Output, Recipients};

impl Groups {
    /// Takes the next message that the ring delivers, from the daemon with node number `from`. `parts` are its
    /// slices; the message is their concatenation.
    pub fn handle_deliver(&mut self, from: u16, parts: &[Bytes]) {
        if from == self.me {
            self.queue.note_delivered();
        }
        match Payload::parse(parts) {
            Some(Payload::Request { generation, header }) => {
                if self.is_current(generation) {
                    self.deliver_request(from, &header, parts);
                }
            }
            Some(Payload::Broken { generation, session }) => {
                if self.is_current(generation) && self.is_session_of(from, &session) {
                    self.end_session(from, &session);
                }
            }
            Some(Payload::State) => self.deliver_state(from, parts),
            None => self.note_malformed(from),
        }
    }

    /// Whether a request was given to the ring under the group table that is valid now. If not, its daemon
    /// gives it to the ring again ([`crate::queue`]).
    #[inline]
    fn is_current(&mut self, generation: u32) -> bool {
        let known = generation == self.generation || without(Rule::Generation);
        let current = known && self.exchange.is_none();
        if !current {
            self.stats.stale_requests += 1;
        }
        current
    }

    fn deliver_request(&mut self, from: u16, header: &Header, parts: &[Bytes]) {
        if header.service.is_regular() {
            self.deliver_data(from, header, parts);
            return;
        }
        if !self.is_session_of(from, &header.sender) {
            return;
        }
        if header.service.intersects(ServiceType::KILL) {
            self.end_session(from, &header.sender);
            return;
        }
        // Only the first name counts. spec: client-protocol 4.2
        let mut scratch = Vec::new();
        let field = window(parts, PREFIX + HEADER, GROUP_FIELD, &mut scratch);
        let Some(field) = field.filter(|_| header.num_groups > 0).and_then(<[u8]>::first_chunk) else {
            self.note_malformed(from);
            return;
        };
        let group = GroupName::from_field(*field);
        if header.service.intersects(ServiceType::JOIN) {
            self.join(from, header.sender, group, &OutFrame::from_parts(parts, PREFIX));
        } else {
            self.leave(from, &header.sender, group);
        }
    }

    /// Whether `name` is the private group of a session of daemon `from`.
    fn is_session_of(&mut self, from: u16, name: &GroupName) -> bool {
        let daemon = self.daemons.get(usize::from(from)).map(|d| d.name);
        let legal = PrivateGroup::try_from(name).is_ok_and(|p| Some(p.daemon()) == daemon);
        if !legal {
            self.note_malformed(from);
        }
        legal
    }

    /// Routes a data message to the sessions of this daemon that are members of at least one target.
    ///
    /// spec: group-semantics 1.4, client-protocol 4.5
    fn deliver_data(&mut self, from: u16, header: &Header, parts: &[Bytes]) {
        self.stats.data_messages += 1;
        let mut scratch = Vec::new();
        let names_len = header.num_groups as usize * GROUP_FIELD;
        let names = window(parts, PREFIX + HEADER, names_len, &mut scratch);
        let Some(names) = names.map(|names| names.as_chunks::<GROUP_FIELD>().0) else { return };
        let to = match names {
            [] => return,
            [one] => self.recipients(one).cloned(),
            several => self.union(several),
        };
        let Some(to) = to.filter(|to| !to.is_empty()) else { return };
        let discard = header.service.is_self_discard() && !without(Rule::SelfDiscard);
        let except = if discard && from == self.me { self.registry.id(&header.sender) } else { None };
        if let Some(sender) = except
            && *to == [sender]
        {
            return;
        }
        self.stats.data_messages_delivered += 1;
        let frame = OutFrame::from_parts(parts, PREFIX);
        self.outputs.push_back(Output::Deliver { to, except, frame });
    }

    /// The sessions here that one target stands for.
    #[inline]
    fn recipients(&mut self, field: &[u8; GROUP_FIELD]) -> Option<&Recipients> {
        let target = GroupName::from_field(*field);
        if target.is_private() {
            self.registry.alone(&target)
        } else {
            self.table.get_mut(&target).map(|group| group.recipients())
        }
    }

    /// The sessions here that any of several targets stands for, each once.
    fn union(&mut self, names: &[[u8; GROUP_FIELD]]) -> Option<Recipients> {
        let mut all = std::mem::take(&mut self.scratch);
        let mut only = None;
        let mut sources = 0;
        for name in names {
            if let Some(some) = self.recipients(name).filter(|some| !some.is_empty()) {
                all.extend_from_slice(some);
                sources += 1;
                only = Some(some.clone());
            }
        }
        if sources > 1 {
            all.sort_unstable();
            all.dedup();
            only = Some(Recipients::new(&all));
        }
        all.clear();
        self.scratch = all;
        only
    }

    fn deliver_state(&mut self, from: u16, parts: &[Bytes]) {
        let Some(exchange) = &mut self.exchange else {
            self.stats.state_messages_stale += 1;
            return;
        };
        let message = match parts {
            [one] => one.clone(),
            several => Bytes::from(several.concat()),
        };
        let received = exchange.receive(from, &message, &self.daemons);
        match received {
            Received::Stale => self.stats.state_messages_stale += 1,
            Received::Malformed => self.note_malformed(from),
            Received::Taken | Received::Complete => self.stats.state_messages_received += 1,
        }
        if received == Received::Complete {
            self.complete_exchange();
        }
    }

    #[cold]
    fn note_malformed(&mut self, from: u16) {
        self.stats.malformed += 1;
        if self.stats.malformed.is_power_of_two() {
            warn!(
                from,
                malformed = self.stats.malformed,
                "Message of another daemon not understood; dropped."
            );
        }
    }
}
