//! An ideal ring in memory: totally ordered configurations with Extended Virtual Synchrony, whose faults are
//! chosen by the test. It does what `spread-ring` promises (`ring-protocol` 1.2), and nothing more.
//!
//! A ring is one log. An entry says who has received it. A member delivers the log in order as far as it has
//! it, and a SAFE entry only once its ring knows it to be stable. When the network changes,
//! [`reform`](Bus::reform) does the rest: survivors share what they have, deliver what the old configuration
//! still allows, then the transitional configuration, then what is left, and then form the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use spread_groups::{
    ConfigId, Daemon, Ended, Groups, GroupsConfig, OutFrame, Output, RingService, SessionId,
};
use spread_wire::{DaemonName, Frame, FrameDecoder, GroupName, PrivateGroup, PrivateName};

use super::oracle::{Conf, Place};

fn conf(id: ConfigId) -> Conf {
    (id.epoch, id.rep, id.nonce)
}

/// What a session got, in order.
#[derive(Clone, Debug)]
pub enum Received {
    Frame(Frame),
    Closed,
}

pub struct Bus {
    pub daemons: Vec<Daemon>,
    nodes: Vec<Option<Node>>,
    rings: Vec<Ring>,
    /// Component of each node.
    reach: Vec<usize>,
    /// (at, source): what `source` sends does not arrive at `at`.
    drops: BTreeSet<(u16, u16)>,
    /// The next entry of a source is lost at these nodes.
    drop_next: BTreeMap<u16, BTreeSet<u16>>,
    epoch: u64,
    session: u64,
    /// What sessions got, by private group; sessions of dead daemons too.
    pub inbox: BTreeMap<GroupName, Vec<Received>>,
    /// Where each of these was delivered. Whoever empties one empties both.
    pub places: BTreeMap<GroupName, Vec<Place>>,
    /// Whether the engines are checked after every event; it takes long when there are many groups.
    pub checked: bool,
    /// Messages come out of the ring in pieces of at most this many bytes, if set.
    pub packet: Option<usize>,
}

struct Node {
    groups: Groups,
    ring: usize,
    /// Entries of the ring's log that were delivered.
    delivered: usize,
    /// Given to the ring and not sent yet.
    queue: VecDeque<(RingService, Vec<Bytes>)>,
    place: Place,
    /// It told others what it has of its ring, and they may have gone on. It takes, sends and delivers nothing more
    /// there until it goes on itself.
    frozen: bool,
    /// What these sent it will deliver then even after a hole: others may have delivered it, and counted on it.
    obliged: BTreeSet<u16>,
    sessions: BTreeMap<GroupName, Session>,
}

struct Session {
    id: SessionId,
    /// Deliveries after which a session that reads nothing is dropped.
    unread_max: Option<usize>,
    unread: usize,
    ended: bool,
}

struct Ring {
    members: BTreeSet<u16>,
    log: Vec<Entry>,
    /// Entries before this one are known to be stable.
    stable: usize,
}

struct Entry {
    from: u16,
    service: RingService,
    parts: Vec<Bytes>,
    have: BTreeSet<u16>,
}

impl Bus {
    /// All daemons run, in the given components, each of them one ring.
    pub fn new(daemons: &[(&str, u32)], components: &[&[u16]]) -> Self {
        let daemons: Vec<_> = daemons
            .iter()
            .map(|(name, id)| Daemon { name: name.parse().expect("a name"), id: id.cast_signed() })
            .collect();
        let mut bus = Self {
            nodes: daemons.iter().map(|_| None).collect(),
            reach: vec![usize::MAX; daemons.len()],
            daemons,
            rings: Vec::new(),
            drops: BTreeSet::new(),
            drop_next: BTreeMap::new(),
            epoch: 1_795_413_000,
            session: 0,
            inbox: BTreeMap::new(),
            places: BTreeMap::new(),
            checked: true,
            packet: None,
        };
        bus.partition(components);
        for node in 0..bus.daemons.len() {
            bus.start(u16::try_from(node).expect("few daemons"));
        }
        bus.reform();
        bus.settle();
        bus
    }

    pub fn node(&self, name: &str) -> u16 {
        let name: DaemonName = name.parse().expect("a daemon name");
        let at = self.daemons.iter().position(|d| d.name == name).expect("a configured daemon");
        u16::try_from(at).expect("few daemons")
    }

    pub fn groups(&self, node: u16) -> Option<&Groups> {
        self.nodes[usize::from(node)].as_ref().map(|n| &n.groups)
    }

    /// A daemon starts, alone.
    pub fn start(&mut self, me: u16) {
        let config = GroupsConfig { daemons: self.daemons.clone(), me };
        let groups = Groups::new(config).expect("a configuration");
        let id = self.next_id(me);
        let ring = self.new_ring([me].into());
        let mut node = Node {
            groups,
            ring,
            delivered: 0,
            queue: VecDeque::new(),
            place: Place { regular: conf(id), broken: None, entry: None },
            frozen: false,
            obliged: BTreeSet::new(),
            sessions: BTreeMap::new(),
        };
        node.groups.handle_regular(id, &[me]);
        self.nodes[usize::from(me)] = Some(node);
    }

    /// A daemon dies; its clients see the end of the connection.
    pub fn kill(&mut self, node: u16) {
        if let Some(dead) = self.nodes[usize::from(node)].take() {
            for (name, session) in dead.sessions {
                if !session.ended {
                    self.inbox.entry(name).or_default().push(Received::Closed);
                    self.places.entry(name).or_default().push(dead.place);
                }
            }
        }
    }

    fn next_id(&mut self, rep: u16) -> ConfigId {
        self.epoch += 2;
        let nonce = u32::try_from(self.epoch % 1_000_003).expect("small");
        ConfigId { epoch: self.epoch, rep, nonce }
    }

    fn new_ring(&mut self, members: BTreeSet<u16>) -> usize {
        self.rings.push(Ring { members, log: Vec::new(), stable: 0 });
        self.rings.len() - 1
    }

    // --- sessions

    pub fn connect(&mut self, private: &str, membership: bool) -> GroupName {
        let private = PrivateGroup::parse(private.as_bytes()).expect("a private group");
        let name: PrivateName = private.name();
        let node = self.node(&private.daemon().to_string());
        self.session += 1;
        let id = SessionId(self.session);
        let node = self.nodes[usize::from(node)].as_mut().expect("a running daemon");
        let given = node.groups.connect(id, name, membership).expect("a free name");
        assert_eq!(given, private);
        let session = Session { id, unread_max: None, unread: 0, ended: false };
        node.sessions.insert(private.as_group(), session);
        self.inbox.entry(private.as_group()).or_default();
        self.places.entry(private.as_group()).or_default();
        private.as_group()
    }

    fn session(&mut self, client: &GroupName) -> Option<(&mut Groups, &mut Session)> {
        let node = self.nodes.iter_mut().flatten().find(|n| n.sessions.contains_key(client))?;
        let session = node.sessions.get_mut(client).filter(|s| !s.ended)?;
        Some((&mut node.groups, session))
    }

    /// The client writes bytes of a frame.
    pub fn request(&mut self, client: &GroupName, bytes: Bytes) {
        let private = PrivateGroup::try_from(client).expect("a private group");
        let Some((groups, session)) = self.session(client) else { return };
        let mut buffer = BytesMut::from(&bytes[..]);
        let frame = FrameDecoder::daemon(private).decode(&mut buffer).expect("legal").expect("complete");
        groups.request(session.id, &frame).expect("accepted");
    }

    pub fn join(&mut self, client: &GroupName, group: &GroupName) {
        self.request(client, spread_wire::build::join(client, group));
    }

    pub fn leave(&mut self, client: &GroupName, group: &GroupName) {
        self.request(client, spread_wire::build::leave(client, group));
    }

    pub fn multicast(
        &mut self,
        client: &GroupName,
        service: u32,
        groups: &[GroupName],
        message_type: i16,
        data: &[u8],
    ) {
        let service = spread_wire::ServiceType(service);
        let head = spread_wire::build::multicast(service, client, groups, message_type, data.len());
        let frame = [&head.expect("a legal message"), data].concat();
        self.request(client, frame.into());
    }

    /// The client ends, with or without a disconnect request.
    pub fn end(&mut self, client: &GroupName, ended: Ended) {
        if let Some((groups, session)) = self.session(client) {
            session.ended = true;
            groups.disconnect(session.id, ended);
        }
    }

    /// The client reads nothing any more, and is dropped at the next delivery after `max` unread ones.
    pub fn stop_reading(&mut self, client: &GroupName, max: usize) {
        if let Some((_, session)) = self.session(client) {
            session.unread_max = Some(max);
        }
    }

    // --- faults

    /// What can reach what from now on. Nodes that are not listed reach nobody.
    pub fn partition(&mut self, components: &[&[u16]]) {
        let alone = components.len();
        for (node, component) in self.reach.iter_mut().enumerate() {
            let at = components.iter().position(|c| c.iter().any(|&n| usize::from(n) == node));
            *component = at.unwrap_or(alone + node);
        }
    }

    pub fn heal(&mut self) {
        self.reach.fill(0);
    }

    pub fn drop_data(&mut self, at: u16, source: u16) {
        self.drops.insert((at, source));
    }

    pub fn clear_drops(&mut self) {
        self.drops.clear();
        self.drop_next.clear();
    }

    /// The next entry of `source` does not arrive at `at`.
    pub fn drop_first(&mut self, at: u16, source: u16) {
        self.drop_next.entry(source).or_default().insert(at);
    }

    /// Whether all members of the ring of `node` run and reach each other.
    pub fn is_whole(&self, node: u16) -> bool {
        let Some(n) = &self.nodes[usize::from(node)] else { return false };
        self.rings[n.ring]
            .members
            .iter()
            .all(|&m| self.reach[usize::from(m)] == self.reach[usize::from(node)] && self.is_in(m, n.ring))
    }

    /// Whether a daemon still takes part in a ring.
    fn is_in(&self, node: u16, ring: usize) -> bool {
        self.nodes[usize::from(node)].as_ref().is_some_and(|n| n.ring == ring && !n.frozen)
    }

    pub fn ring_members(&self, node: u16) -> Vec<u16> {
        let ring = self.nodes[usize::from(node)].as_ref().map(|n| n.ring);
        ring.map_or_else(Vec::new, |ring| self.rings[ring].members.iter().copied().collect())
    }

    // --- the ring at work

    /// The layer above gives up to `max` messages to its ring, which does not send yet.
    pub fn fill(&mut self, node: u16, max: usize) {
        let Some(node) = self.nodes[usize::from(node)].as_mut() else { return };
        for _ in 0..max {
            let Some(message) = node.groups.poll_submit() else { return };
            node.queue.push_back((message.service, message.into_parts()));
        }
    }

    /// A member has its turn: it sends at most `max` of its messages, which arrive where they can.
    pub fn turn(&mut self, me: u16, max: usize) {
        self.fill(me, usize::MAX);
        let Some(node) = self.nodes[usize::from(me)].as_mut().filter(|n| !n.frozen) else { return };
        let at = node.ring;
        let n = node.queue.len().min(max);
        let sent: Vec<_> = node.queue.drain(..n).collect();
        for (service, parts) in sent {
            let lost = self.drop_next.remove(&me).unwrap_or_default();
            // A member that has left the ring for another one takes nothing of it any more.
            let have = self.rings[at].members.iter().copied().filter(|&m| {
                let reached = self.is_in(m, at)
                    && self.reach[usize::from(m)] == self.reach[usize::from(me)]
                    && !self.drops.contains(&(m, me))
                    && !lost.contains(&m);
                m == me || reached
            });
            let have = have.collect();
            let parts = self.packet.map_or_else(|| parts.clone(), |size| cut(&parts, size));
            self.rings[at].log.push(Entry { from: me, service, parts, have });
        }
        self.deliver(at);
    }

    /// What was sent becomes known to be stable in the ring of `node`, as far as it is.
    pub fn stabilize(&mut self, node: u16) {
        let Some(n) = self.nodes[usize::from(node)].as_ref().filter(|n| !n.frozen) else { return };
        let at = n.ring;
        let ring = &mut self.rings[at];
        while ring.log.get(ring.stable).is_some_and(|e| e.have.is_superset(&ring.members)) {
            ring.stable += 1;
        }
        self.deliver(at);
    }

    fn deliver(&mut self, ring: usize) {
        for me in self.rings[ring].members.clone() {
            while let Some(at) = self.deliverable(me, ring) {
                self.hand_over(me, ring, at);
            }
        }
    }

    /// The next entry of `ring` for `me`, if it may deliver it.
    fn deliverable(&self, me: u16, ring: usize) -> Option<usize> {
        let node = self.nodes[usize::from(me)].as_ref().filter(|_| self.is_in(me, ring))?;
        let at = node.delivered;
        let entry = self.rings[ring].log.get(at)?;
        let held_back = entry.service == RingService::Safe && at >= self.rings[ring].stable;
        (entry.have.contains(&me) && !held_back).then_some(at)
    }

    /// Delivers entry `at` of a log to one member.
    fn hand_over(&mut self, me: u16, ring: usize, at: usize) {
        let entry = &self.rings[ring].log[at];
        if let Some(node) = self.nodes[usize::from(me)].as_mut() {
            node.delivered = at + 1;
            node.place.entry = Some(at);
            node.groups.handle_deliver(entry.from, &entry.parts);
            if self.checked {
                node.groups.invariants().expect("invariants after a delivery");
            }
        }
        self.drain(me);
    }

    fn drain(&mut self, me: u16) {
        let Some(node) = self.nodes[usize::from(me)].as_mut() else { return };
        while let Some(output) = node.groups.poll_output() {
            match output {
                Output::Deliver { to, except, frame } => {
                    let unique: BTreeSet<_> = to.iter().collect();
                    assert_eq!(unique.len(), to.len(), "a session gets a frame twice");
                    let frame = decode(&frame);
                    for id in to.iter().filter(|id| Some(**id) != except) {
                        // A session that is gone for us may still be among the receivers.
                        let Some((name, session)) = node.sessions.iter_mut().find(|(_, s)| s.id == *id)
                        else {
                            continue;
                        };
                        if session.ended {
                            continue;
                        }
                        if let Some(max) = session.unread_max {
                            if session.unread == max {
                                session.ended = true;
                                node.groups.disconnect(*id, Ended::Broken);
                                continue;
                            }
                            session.unread += 1;
                        }
                        self.inbox.entry(*name).or_default().push(Received::Frame(frame.clone()));
                        self.places.entry(*name).or_default().push(node.place);
                    }
                }
                Output::Close(id) => {
                    let name = node.sessions.iter().find(|(_, s)| s.id == id).map(|(name, _)| *name);
                    let session = name.and_then(|name| node.sessions.remove(&name)).expect("a session");
                    assert!(session.ended, "a session is closed without being asked");
                }
            }
        }
    }

    /// Lets all whole rings run until nothing is left to send, and everything is stable that arrived.
    pub fn settle(&mut self) {
        loop {
            let mut active = false;
            for me in 0..u16::try_from(self.nodes.len()).expect("few daemons") {
                if !self.is_whole(me) {
                    continue;
                }
                self.fill(me, usize::MAX);
                active |= self.nodes[usize::from(me)].as_ref().is_some_and(|n| !n.queue.is_empty());
                self.turn(me, usize::MAX);
                self.repair(me);
                self.stabilize(me);
            }
            if !active {
                return;
            }
        }
    }

    /// Lost entries are sent again, unless packets of their sender are still lost.
    fn repair(&mut self, node: u16) {
        let Some(n) = &self.nodes[usize::from(node)] else { return };
        let at = n.ring;
        let staying: BTreeSet<_> =
            self.rings[at].members.iter().copied().filter(|&m| self.is_in(m, at)).collect();
        let ring = &mut self.rings[at];
        for entry in &mut ring.log {
            let missing = staying.difference(&entry.have).copied();
            let arriving: Vec<_> = missing.filter(|&m| !self.drops.contains(&(m, entry.from))).collect();
            entry.have.extend(arriving);
        }
    }

    /// The daemons notice who can reach whom, and form new configurations where that is not what their rings
    /// say.
    pub fn reform(&mut self) {
        (0..u16::try_from(self.nodes.len()).expect("few daemons")).for_each(|node| self.reform_one(node));
    }

    /// As [`reform`](Self::reform), for the component of one daemon; the others notice later.
    pub fn reform_one(&mut self, node: u16) {
        if self.nodes[usize::from(node)].is_none() {
            return;
        }
        let members = self.component(node);
        if !(self.is_whole(node) && self.ring_members(node).len() == members.len()) {
            self.form(&members, &BTreeSet::new());
        }
    }

    /// The component of `absent` forms a configuration, and that daemon is cut off before it gets there: the others
    /// count on it, share messages with it, and are wrong. It has what they have, for they did not go on before, but
    /// nothing of it was delivered there. It goes on from its old ring, with others or alone.
    pub fn reform_without(&mut self, absent: u16) {
        let members = self.component(absent);
        if members.len() > 1 && members.contains(&absent) {
            self.form(&members, &[absent].into());
        }
    }

    /// The running daemons that reach `node`.
    fn component(&self, node: u16) -> BTreeSet<u16> {
        let component = self.reach[usize::from(node)];
        (0u16..)
            .zip(self.reach.iter().zip(&self.nodes))
            .filter(|(_, (reach, n))| **reach == component && n.is_some())
            .map(|(node, _)| node)
            .collect()
    }

    fn form(&mut self, members: &BTreeSet<u16>, absent: &BTreeSet<u16>) {
        let id = self.next_id(*members.first().expect("not empty"));
        let ring = self.new_ring(members.clone());
        let mut sides: BTreeMap<usize, BTreeSet<u16>> = BTreeMap::new();
        for &m in members {
            let old = self.nodes[usize::from(m)].as_ref().expect("running").ring;
            sides.entry(old).or_default().insert(m);
        }
        let list: Vec<_> = members.iter().copied().collect();
        for (old, survivors) in sides {
            self.recover(old, &survivors, absent, id);
            for &m in survivors.difference(absent) {
                let node = self.nodes[usize::from(m)].as_mut().expect("running");
                (node.ring, node.delivered) = (ring, 0);
                node.place = Place { regular: conf(id), broken: None, entry: None };
                (node.frozen, node.obliged) = (false, BTreeSet::new());
                node.groups.handle_regular(id, &list);
                if self.checked {
                    node.groups.invariants().expect("invariants after a configuration");
                }
                self.drain(m);
            }
        }
    }

    /// Ends the ring `old` for members that go on together.
    fn recover(&mut self, old: usize, survivors: &BTreeSet<u16>, absent: &BTreeSet<u16>, next: ConfigId) {
        let held = |entry: &Entry| !entry.have.is_disjoint(survivors);
        let obliged = survivors.iter().filter_map(|&m| self.nodes[usize::from(m)].as_ref());
        let mut origins: BTreeSet<u16> = obliged.flat_map(|node| node.obliged.iter().copied()).collect();
        origins.extend(survivors);
        let ring = &self.rings[old];
        let end = ring.log.iter().rposition(held).map_or(0, |last| last + 1);
        let break_at = (0..end)
            .find(|&i| {
                let entry = &ring.log[i];
                !held(entry) || (entry.service == RingService::Safe && i >= ring.stable)
            })
            .unwrap_or(end);
        // After a hole only what survivors sent, which cannot depend on the hole, and what others counted on.
        let mut gap = false;
        let rest: Vec<_> = (break_at..end)
            .filter(|&i| {
                let entry = &ring.log[i];
                gap |= !held(entry);
                held(entry) && (!gap || origins.contains(&entry.from))
            })
            .collect();
        let id = ConfigId {
            epoch: next.epoch - 1,
            rep: *survivors.first().expect("not empty"),
            nonce: next.nonce,
        };
        let list: Vec<_> = survivors.iter().copied().collect();
        for &m in survivors.intersection(absent) {
            for entry in self.rings[old].log.iter_mut().filter(|entry| held(entry)) {
                entry.have.insert(m);
            }
            let node = self.nodes[usize::from(m)].as_mut().expect("running");
            (node.frozen, node.obliged) = (true, origins.clone());
        }
        for &m in survivors.difference(absent) {
            let delivered = self.nodes[usize::from(m)].as_ref().expect("running").delivered;
            for at in delivered..break_at {
                self.hand_over(m, old, at);
            }
            let node = self.nodes[usize::from(m)].as_mut().expect("running");
            node.place.broken = Some(conf(id));
            node.groups.handle_transitional(id, &list);
            if self.checked {
                node.groups.invariants().expect("invariants after a transitional configuration");
            }
            self.drain(m);
            for &at in rest.iter().filter(|&&at| at >= delivered) {
                self.hand_over(m, old, at);
            }
        }
    }
}

/// The same message in pieces of `size` bytes, as it comes out of packets.
fn cut(parts: &[Bytes], size: usize) -> Vec<Bytes> {
    let mut whole = Bytes::from(parts.concat());
    let mut pieces = Vec::new();
    while !whole.is_empty() {
        pieces.push(whole.split_to(size.min(whole.len())));
    }
    pieces
}

/// Reads a frame back, in pieces as a client's socket would give it.
fn decode(frame: &OutFrame) -> Frame {
    let mut buffer = BytesMut::new();
    let mut decoder = FrameDecoder::client();
    let mut found = None;
    for part in frame.parts() {
        assert!(found.is_none(), "bytes follow a complete frame");
        buffer.extend_from_slice(part);
        found = decoder.decode(&mut buffer).expect("a legal frame");
    }
    assert!(buffer.is_empty(), "bytes follow a complete frame");
    assert_eq!(frame.len(), frame.to_bytes().len());
    found.expect("a complete frame")
}
