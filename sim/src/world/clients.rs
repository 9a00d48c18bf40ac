//! The real [`Groups`] on top of the ring, and its clients: they connect, join, leave, send, read late, and
//! go away with and without a word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use spread_groups::{
    Accepted, ConfigId, Daemon, Ended, Groups, GroupsConfig, OutFrame, Output, RingService, SessionId,
};
use spread_ring::{Body, ConfId, Mid, Service};
use spread_wire::limits::RECEIVED_BODY_MAX;
use spread_wire::{
    DaemonName, Frame, FrameDecoder, GroupId, GroupName, Kind, Membership, PrivateGroup, PrivateName,
    ServiceType, build,
};

use super::{Next, Step, World, body, violation};
use crate::group_log::{Act, ClientLog, ClientNo, MsgNo, Place, Sent, View};
use crate::log::{Entry, Msg};
use crate::oracle::Violation;
use crate::plan::{GroupLoad, MS};
use crate::rng::{Rng, mix};

/// Requests of clients that a daemon holds before it stops reading from them.
const WAITING_MAX: usize = 500;
/// Clients of a whole history.
const CLIENTS_MAX: usize = 400;

/// What runs above the ring in a process, if groups are simulated.
pub(super) struct Upper {
    pub(super) groups: Groups,
    /// Taken from the groups and not yet taken by the ring.
    held: Option<(Service, Vec<Bytes>)>,
    sessions: BTreeMap<SessionId, ClientNo>,
    /// Something happened since the invariants were checked.
    pub(super) touched: bool,
}

impl Upper {
    /// Checks the invariants if anything happened since the last time.
    pub(super) fn invariants(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.touched) { self.groups.invariants() } else { Ok(()) }
    }
}

/// What waits for a client.
enum Item {
    Frame(Frame),
    /// [`Act::Broken`] or [`Act::Together`].
    Mark(Act),
}

/// A client of some daemon.
pub(super) struct Client {
    node: usize,
    /// The start of its daemon that it belongs to.
    start: u64,
    session: SessionId,
    name: GroupName,
    private: PrivateGroup,
    /// Never leaves and never goes.
    permanent: bool,
    joined: BTreeSet<usize>,
    inbox: VecDeque<Item>,
    /// Where its daemon was when it put out what the client reads now.
    place: Place,
    /// It said goodbye, or is dead.
    over: bool,
}

impl World {
    /// The groups of a process that starts.
    pub(super) fn upper(&self, node: usize) -> Result<Option<Box<Upper>>, Violation> {
        if self.plan.groups.is_none() {
            return Ok(None);
        }
        let daemon = |i: usize| Daemon {
            name: daemon_name(i),
            // Not in the order of the nodes.
            id: u32::try_from(mix(self.plan.seed ^ i as u64) >> 32).unwrap_or(0).cast_signed(),
        };
        let daemons = (0..self.plan.nodes).map(daemon).collect();
        match Groups::new(GroupsConfig { daemons, me: u16::try_from(node).unwrap_or(0) }) {
            Ok(groups) => {
                Ok(Some(Box::new(Upper { groups, held: None, sessions: BTreeMap::new(), touched: true })))
            }
            Err(err) => violation("PANIC", format!("the groups refuse their configuration: {err}")),
        }
    }

    /// The first client of a daemon joins all groups and stays; others come later.
    pub(super) fn first_clients(&mut self, node: usize) -> Step {
        let Some(load) = self.plan.groups.clone() else { return Ok(()) };
        let start = self.nodes[node].start;
        if let Some(no) = self.connect(node, true)? {
            for group in 0..load.groups {
                self.join(no, group)?;
            }
        }
        for _ in 0..self.load.below(load.clients + 1) {
            let at = self.now + self.load.below(load.every * 20);
            self.at(at, Next::Connect { node, start });
        }
        Ok(())
    }

    pub(super) fn connect_later(&mut self, node: usize, start: u64) -> Step {
        let n = &self.nodes[node];
        if n.start != start || n.process.is_none() || self.quiet || self.clients.len() >= CLIENTS_MAX {
            return Ok(());
        }
        if let Some(no) = self.connect(node, false)?
            && let Some(groups) = self.plan.groups.as_ref().map(|load| load.groups)
        {
            for _ in 0..self.load.below(3) {
                let group = self.load.index(groups);
                self.join(no, group)?;
            }
        }
        self.drain(node)
    }

    fn connect(&mut self, node: usize, permanent: bool) -> Result<Option<ClientNo>, Violation> {
        let no = ClientNo(u32::try_from(self.clients.len()).unwrap_or(u32::MAX));
        let membership = permanent || self.load.per_mille(800);
        let session = SessionId(u64::from(no.0) + 1);
        // Names are not in the order of the numbers.
        let name = format!("{}{}", ["a", "Z", "m", "c"][no.index() % 4], no.0);
        let (Ok(name), start) = (PrivateName::new(name.as_bytes()), self.nodes[node].start) else {
            return violation("PANIC", format!("the name {name} is refused"));
        };
        let Some(process) = &mut self.nodes[node].process else { return Ok(None) };
        if process.leaving_since.is_some() {
            return Ok(None);
        }
        let place = Place { broken: process.in_trans, ..Place::whole(process.conf) };
        let Some(upper) = &mut process.upper else { return Ok(None) };
        let private = match upper.groups.connect(session, name, membership) {
            Ok(private) => private,
            Err(err) => return violation("GROUPS", format!("n{node} refuses {name}: {err}")),
        };
        upper.sessions.insert(session, no);
        upper.touched = true;
        let name = private.as_group();
        self.note(node, || format!("client {no} is {name}, membership {membership}"));
        self.group_log.clients.push(ClientLog { name, node, membership, excused: false, acts: Vec::new() });
        self.clients.push(Client {
            node,
            start,
            session,
            name,
            private,
            permanent,
            joined: BTreeSet::new(),
            inbox: VecDeque::new(),
            place,
            over: false,
        });
        let at = self.now + self.load.below(self.turn_every());
        self.at(at, Next::Turn(no));
        Ok(Some(no))
    }

    fn turn_every(&self) -> u64 {
        self.plan.groups.as_ref().map_or(MS, |load| load.every)
    }

    /// A client reads what has come and does something.
    pub(super) fn turn(&mut self, no: ClientNo) -> Step {
        let client = &self.clients[no.index()];
        let node = client.node;
        if client.over {
            return Ok(());
        }
        let at = self.now + self.load.below(2 * self.turn_every()) + 1;
        self.at(at, Next::Turn(no));
        if self.nodes[node].paused > 0 {
            return Ok(());
        }
        self.read_all(no)?;
        let Some(load) = self.plan.groups.clone().filter(|_| !self.quiet) else { return Ok(()) };
        let room = |upper: &Upper| upper.groups.waiting().0 < WAITING_MAX;
        let process = self.nodes[node].process.as_ref().filter(|p| p.leaving_since.is_none());
        if !process.and_then(|p| p.upper.as_deref()).is_some_and(room) {
            return Ok(());
        }
        let permanent = self.clients[no.index()].permanent;
        match self.load.below(100) {
            0..62 => {
                for _ in 0..self.load.range(1, load.burst) {
                    self.send_something(no, &load)?;
                }
            }
            62..76 => {
                let group = self.load.index(load.groups);
                self.join(no, group)?;
            }
            76..85 if !permanent => {
                let group = self.load.index(load.groups);
                self.leave_group(no, group)?;
            }
            85..88 if !permanent => self.close(no)?,
            _ => {}
        }
        self.drain(node)
    }

    fn act(&mut self, no: ClientNo, act: Act) {
        if self.tracing {
            let node = self.clients[no.index()].node;
            self.note(node, || format!("client {no}: {act:?}"));
        }
        self.group_log.clients[no.index()].acts.push(act);
    }

    fn send_something(&mut self, no: ClientNo, load: &GroupLoad) -> Step {
        if self.submissions_left == 0 {
            return Ok(());
        }
        self.submissions_left -= 1;
        let mut targets = vec![group_name(self.load.index(load.groups))];
        if self.load.per_mille(250) {
            targets.push(group_name(self.load.index(load.groups)));
        }
        if self.load.per_mille(60) {
            let other = self.load.index(self.clients.len());
            targets.push(self.clients[other].name);
            targets.swap_remove(0);
        }
        if self.load.per_mille(30) {
            targets.push(group_name(90));
        }
        let services = [
            ServiceType::UNRELIABLE,
            ServiceType::RELIABLE,
            ServiceType::FIFO,
            ServiceType::CAUSAL,
            ServiceType::AGREED,
        ];
        let mut service =
            if self.load.per_mille(load.safe) { ServiceType::SAFE } else { self.load.pick(&services) };
        if self.load.per_mille(100) {
            service |= ServiceType::SELF_DISCARD;
        }
        let longest = if self.load.per_mille(60) { 20_000 } else { 800 };
        let len = usize::try_from(self.load.log_range(8, longest)).unwrap_or(8);
        self.send(no, service, targets, len)
    }

    fn send(&mut self, no: ClientNo, service: ServiceType, targets: Vec<GroupName>, len: usize) -> Step {
        let msg = MsgNo(u32::try_from(self.group_log.messages.len()).unwrap_or(u32::MAX));
        let message_type = i16::try_from(mix(u64::from(msg.0)) % 60_000).unwrap_or(-5);
        let sender = self.clients[no.index()].name;
        let head = match build::multicast(service, &sender, &targets, message_type, len) {
            Ok(head) => head,
            Err(err) => return violation("PANIC", format!("a message cannot be built: {err}")),
        };
        self.group_log.messages.push(Sent { by: no, service, targets, message_type, len });
        self.act(no, Act::Send(msg));
        self.request(no, &[&head[..], &payload(msg, len)].concat())?;
        self.figures.submitted += 1;
        Ok(())
    }

    fn join(&mut self, no: ClientNo, group: usize) -> Step {
        let name = group_name(group);
        self.clients[no.index()].joined.insert(group);
        self.act(no, Act::JoinReq(name));
        let sender = self.clients[no.index()].name;
        self.request(no, &build::join(&sender, &name)).map(drop)
    }

    fn leave_group(&mut self, no: ClientNo, group: usize) -> Step {
        let name = group_name(group);
        self.clients[no.index()].joined.remove(&group);
        self.act(no, Act::LeaveReq(name));
        let sender = self.clients[no.index()].name;
        self.request(no, &build::leave(&sender, &name)).map(drop)
    }

    /// A client goes: with a disconnect request, or its connection breaks. Another one may come.
    fn close(&mut self, no: ClientNo) -> Step {
        self.act(no, Act::Close);
        self.over(no);
        let client = &self.clients[no.index()];
        let (node, start, session, sender) = (client.node, client.start, client.session, client.name);
        if self.load.per_mille(500) {
            if self.request(no, &build::kill(&sender))? != Some(Accepted::Disconnecting) {
                return violation("GROUPS", format!("the goodbye of {no} is taken for something else"));
            }
        } else if let Some(upper) = self.nodes[node].process.as_mut().and_then(|p| p.upper.as_mut()) {
            upper.groups.disconnect(session, Ended::Broken);
        }
        let at = self.now + self.load.below(10 * self.turn_every());
        self.at(at, Next::Connect { node, start });
        Ok(())
    }

    fn over(&mut self, no: ClientNo) {
        let client = &mut self.clients[no.index()];
        client.over = true;
        client.inbox.clear();
        self.group_log.clients[no.index()].excused = true;
    }

    /// All clients of a process that ends.
    pub(super) fn clients_die(&mut self, node: usize) {
        let start = self.nodes[node].start;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.node == node && client.start == start && !client.over {
                self.over(ClientNo(u32::try_from(index).unwrap_or(u32::MAX)));
            }
        }
    }

    /// Hands the bytes of a request to the daemon of the client.
    fn request(&mut self, no: ClientNo, bytes: &[u8]) -> Result<Option<Accepted>, Violation> {
        let client = &self.clients[no.index()];
        let (node, session) = (client.node, client.session);
        let mut buffer = BytesMut::from(bytes);
        let frame = match FrameDecoder::daemon(client.private).decode(&mut buffer) {
            Ok(Some(frame)) => frame,
            other => return violation("PANIC", format!("a request of {no} is not legal: {other:?}")),
        };
        let Some(upper) = self.nodes[node].process.as_mut().and_then(|p| p.upper.as_mut()) else {
            return Ok(None);
        };
        upper.touched = true;
        match upper.groups.request(session, &frame) {
            Ok(accepted) => Ok(Some(accepted)),
            Err(refusal) => violation("GROUPS", format!("n{node} refuses a request of {no}: {refusal}")),
        }
    }

    /// Moves what the groups of a node put out: frames to the clients, messages to the ring. Returns whether
    /// there was anything.
    pub(super) fn pump(&mut self, node: usize) -> Result<bool, Violation> {
        let mut moved = self.put_out(node)?;
        loop {
            let Some(process) = &mut self.nodes[node].process else { return Ok(moved) };
            let Some(upper) = &mut process.upper else { return Ok(moved) };
            if process.full || process.leaving_since.is_some() {
                return Ok(moved);
            }
            let next = upper.held.take().or_else(|| {
                let submission = upper.groups.poll_submit()?;
                Some((ring_service(submission.service), submission.into_parts()))
            });
            let Some((service, parts)) = next else { return Ok(moved) };
            moved = true;
            self.submit_parts(node, service, parts)?;
        }
    }

    /// Moves frames of the groups of a node to the clients. Returns whether there were any.
    fn put_out(&mut self, node: usize) -> Result<bool, Violation> {
        let mut moved = false;
        let next = |n: &mut super::Node| n.process.as_mut()?.upper.as_mut()?.groups.poll_output();
        while let Some(output) = next(&mut self.nodes[node]) {
            moved = true;
            self.output(node, output)?;
        }
        Ok(moved)
    }

    /// The ring of a node gets a transitional configuration.
    pub(super) fn daemon_view_breaks(&mut self, node: usize, id: ConfId, members: &[Mid]) -> Step {
        self.put_out(node)?;
        if let Some(upper) = self.nodes[node].process.as_mut().and_then(|p| p.upper.as_mut()) {
            upper.touched = true;
            upper.groups.handle_transitional(config_id(id), &nodes(members));
            self.mark(node, &Act::Broken(id));
        }
        Ok(())
    }

    /// The ring of a node forms a configuration; `trans` led to it.
    pub(super) fn new_daemon_view(
        &mut self,
        node: usize,
        id: ConfId,
        members: &[Mid],
        trans: Option<ConfId>,
    ) -> Step {
        self.put_out(node)?;
        if let Some(upper) = self.nodes[node].process.as_mut().and_then(|p| p.upper.as_mut()) {
            upper.touched = true;
            upper.groups.handle_regular(config_id(id), &nodes(members));
            if let Some(trans) = trans {
                self.mark(node, &Act::Together(trans));
            }
        }
        Ok(())
    }

    fn mark(&mut self, node: usize, act: &Act) {
        let start = self.nodes[node].start;
        let local = self.clients.iter_mut().filter(|c| c.node == node && c.start == start && !c.over);
        local.for_each(|client| client.inbox.push_back(Item::Mark(act.clone())));
    }

    fn submit_parts(&mut self, node: usize, service: Service, parts: Vec<Bytes>) -> Step {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let msg = Msg { by: process.proc, no: process.submitted + 1 };
        let len = parts.iter().map(Bytes::len).sum();
        let mut with_head = vec![body::head(msg, service, len)];
        with_head.extend(parts.iter().cloned());
        match process.ring.submit(process.clock.read(now), service, Body::Many(with_head)) {
            Ok(()) => {
                process.submitted += 1;
                let proc = process.proc;
                self.log.push(proc, now, Entry::Submit { msg, service });
                self.mix(u64::from(msg.no) << 8 | service as u64);
                self.note(node, || format!("submits {msg} {service:?}, {len} bytes"));
            }
            Err(spread_ring::SubmitError::Full) => {
                process.full = true;
                if let Some(upper) = &mut process.upper {
                    upper.held = Some((service, parts));
                }
            }
            Err(err) => return violation("PANIC", format!("n{node} refuses a message: {err}")),
        }
        Ok(())
    }

    fn output(&mut self, node: usize, output: Output) -> Step {
        match output {
            Output::Deliver { to, except, frame } => self.deliver(node, &to, except, &frame),
            Output::Close(session) => {
                let upper = self.nodes[node].process.as_mut().and_then(|p| p.upper.as_mut());
                let Some(no) = upper.and_then(|upper| upper.sessions.remove(&session)) else {
                    return violation("GROUPS", format!("n{node} closes the unknown {session:?}"));
                };
                if !self.clients[no.index()].over {
                    return violation("GROUPS", format!("n{node} closes {no}, which did not ask for it"));
                }
                Ok(())
            }
        }
    }

    fn deliver(
        &mut self,
        node: usize,
        to: &[SessionId],
        except: Option<SessionId>,
        frame: &OutFrame,
    ) -> Step {
        let frame = match Frame::parse(frame.to_bytes(), RECEIVED_BODY_MAX) {
            Ok(frame) => frame,
            Err(err) => {
                return violation("GROUPS", format!("n{node} puts out a frame that is refused: {err}"));
            }
        };
        let mut seen = BTreeSet::new();
        for session in to {
            let upper = self.nodes[node].process.as_ref().and_then(|p| p.upper.as_ref());
            let no = upper.and_then(|upper| upper.sessions.get(session)).copied();
            let Some(no) = no.filter(|_| seen.insert(*session)) else {
                return violation("GROUPS", format!("n{node} delivers to {session:?}, unknown or twice"));
            };
            if Some(*session) == except || self.clients[no.index()].over {
                continue;
            }
            self.clients[no.index()].inbox.push_back(Item::Frame(frame.clone()));
        }
        Ok(())
    }

    pub(super) fn read_all(&mut self, no: ClientNo) -> Step {
        while let Some(item) = self.clients[no.index()].inbox.pop_front() {
            let frame = match item {
                Item::Frame(frame) => frame,
                Item::Mark(act) => {
                    self.clients[no.index()].place.go(&act);
                    self.act(no, act);
                    continue;
                }
            };
            let bad = |what: String| violation("GROUPS", format!("{no} reads {what}: {frame:?}"));
            let group = frame.header.sender;
            let act = match frame.kind() {
                Kind::Data => match self.read_data(&frame) {
                    Ok(act) => act,
                    Err(what) => return bad(what),
                },
                Kind::Membership => match Membership::decode(&frame) {
                    Ok((m, own)) => Act::View(View {
                        group: m.group,
                        id: m.id,
                        cause: m.cause,
                        members: m.members,
                        sets: m.sets,
                        own,
                        place: Some(self.clients[no.index()].place),
                    }),
                    Err(err) => return bad(err.to_string()),
                },
                Kind::Transition => match GroupId::of_transition(&frame) {
                    Ok(id) => Act::Trans(group, id),
                    Err(err) => return bad(err.to_string()),
                },
                Kind::SelfLeave => Act::SelfLeave(group),
                other => return bad(format!("{other:?}")),
            };
            match &act {
                Act::Data { .. } => self.figures.client_deliveries += 1,
                Act::View(view) => {
                    self.figures.views += 1;
                    self.figures.transition_views += u64::from(view.is_in_transition());
                }
                Act::Trans(..) => self.figures.signals += 1,
                _ => {}
            }
            self.act(no, act);
        }
        Ok(())
    }

    fn read_data(&self, frame: &Frame) -> Result<Act, String> {
        let data = frame.data_bytes();
        let number = data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let msg = MsgNo(number.ok_or("a message without a number")?);
        let sent = self.group_log.messages.get(msg.index()).ok_or("a message that was never sent")?;
        if data != payload(msg, data.len()) {
            return Err(format!("damaged bytes in {msg}"));
        }
        if frame.header.sender != self.clients[sent.by.index()].name {
            return Err(format!("{msg} of another sender"));
        }
        let header = &frame.header;
        let read = Sent {
            by: sent.by,
            service: header.service,
            targets: frame.group_names().collect(),
            message_type: frame.message_type(),
            len: data.len(),
        };
        Ok(Act::Data { msg, read })
    }

    /// Whether all requests of all clients took effect.
    pub(super) fn groups_idle(&self) -> bool {
        let uppers = self.nodes.iter().filter_map(|n| n.process.as_ref()?.upper.as_ref());
        let idle = |upper: &Upper| {
            upper.groups.is_synced()
                && upper.groups.waiting().0 == 0
                && upper.groups.under_way() == 0
                && upper.held.is_none()
        };
        uppers.into_iter().all(|upper| idle(upper))
    }

    /// At rest: each permanent client sends to all groups, and everything is read.
    pub(super) fn last_words(&mut self) -> Step {
        self.read_everything()?;
        let first = MsgNo(u32::try_from(self.group_log.messages.len()).unwrap_or(u32::MAX));
        self.group_log.after_rest = Some(first);
        let Some(groups) = self.plan.groups.as_ref().map(|load| load.groups) else { return Ok(()) };
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.over || !client.permanent {
                continue;
            }
            let (no, node) = (ClientNo(u32::try_from(index).unwrap_or(u32::MAX)), client.node);
            for group in 0..groups {
                let service = if group == 0 { ServiceType::SAFE } else { ServiceType::AGREED };
                self.send(no, service, vec![group_name(group)], 100)?;
            }
            self.drain(node)?;
        }
        Ok(())
    }

    pub(super) fn read_everything(&mut self) -> Step {
        for index in 0..self.clients.len() {
            self.read_all(ClientNo(u32::try_from(index).unwrap_or(u32::MAX)))?;
        }
        Ok(())
    }

    /// All daemons of a part have the same group table.
    pub(super) fn tables_agree(&self, part: &[usize]) -> Step {
        let uppers =
            part.iter().filter_map(|node| Some((node, self.nodes[*node].process.as_ref()?.upper.as_ref()?)));
        let mut first: Option<(usize, Vec<Listed>)> = None;
        for (node, upper) in uppers {
            let groups = &upper.groups;
            let list: Vec<_> =
                groups.group_names().into_iter().map(|name| (name, groups.view(&name))).collect();
            match &first {
                None => first = Some((*node, list)),
                Some((_, known)) if *known == list => {}
                Some((other, known)) => {
                    let what = format!("n{other} has the groups {known:?}, n{node} has {list:?}");
                    return violation("R6", what);
                }
            }
        }
        Ok(())
    }
}

/// A group with its id and members.
type Listed = (GroupName, Option<(GroupId, Vec<GroupName>)>);

fn ring_service(service: RingService) -> Service {
    match service {
        RingService::Reliable => Service::Reliable,
        RingService::Fifo => Service::Fifo,
        RingService::Causal => Service::Causal,
        RingService::Agreed => Service::Agreed,
        RingService::Safe => Service::Safe,
    }
}

pub(super) fn config_id(id: ConfId) -> ConfigId {
    ConfigId { epoch: id.epoch, rep: id.rep.0, nonce: id.nonce }
}

pub(super) fn nodes(members: &[Mid]) -> Vec<u16> {
    members.iter().map(|mid| mid.node.0).collect()
}

fn daemon_name(node: usize) -> DaemonName {
    DaemonName::new(format!("d{node}").as_bytes()).unwrap_or_else(|_| unreachable!("a short name"))
}

/// Names whose byte order is not that of the numbers.
fn group_name(group: usize) -> GroupName {
    let first = ["m", "Z", "a", "g"][group % 4];
    GroupName::new(format!("{first}{group}").as_bytes()).unwrap_or_else(|_| unreachable!("a short name"))
}

fn payload(msg: MsgNo, len: usize) -> Vec<u8> {
    let mut bytes = msg.0.to_le_bytes().to_vec();
    let mut rng = Rng::new(u64::from(msg.0), 9);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.bits().to_le_bytes());
    }
    bytes.truncate(len.max(4));
    bytes
}
