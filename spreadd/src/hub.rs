//! The layer above the ring: client requests go down through it, deliveries go up.
//!
//! The hub lives on the ring thread. It owns the group engine, takes what the sessions put into the
//! [`Inbox`], and sorts what the ring delivers into the sessions' outboxes. It works in batches: frames are
//! staged per session while a batch of events is handled, and [`flush`](Hub::flush) hands each session its
//! share with one lock and one wake-up.

pub(crate) mod report;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spread_groups::{Ended, Groups, Output, RingService, SessionId, Submission};
use spread_ring::{Body, Event, NodeId, Service};
use spread_wire::{Frame, ServiceType, build};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::config::Variants;
use crate::monitor::Facts;
use crate::reload::{Live, Notice, Step};
use crate::ring_driver::{Order, Upper, View};
use crate::session::inbox::{Command, Inbox};
use crate::session::outbox::{BEHIND_BYTES, Load, Outbox, Piece};
use crate::session::policy::{Access, Client, Policy};
use crate::session::quiet::Quiet;
use crate::session::registry::{Seat, slot_of};
use crate::session::slow::{SlowAction, SlowRules};
use crate::session::stats::Counters;
use crate::state::EpochNote;

/// Requests given to the group engine ahead of the ring.
const AHEAD_MAX: usize = 512;

/// When a client is too slow, and what is done then.
#[derive(Clone, Debug)]
pub(crate) struct SlowLimits {
    /// What is done with which messages.
    pub(crate) rules: SlowRules,
    /// `MaxSessionMessages`: frames that may wait for the client.
    pub(crate) frames: usize,
    /// A client with more frames than that is dropped unless, in each such time, it gets below or reads as many
    /// frames as may wait for it.
    pub(crate) grace: Duration,
    /// A client with more frames than that is dropped at once if they have more bytes than this.
    pub(crate) bytes: usize,
    /// `MaxSessionBytes`: as `frames`, for bytes.
    pub(crate) session_bytes: Option<usize>,
}

impl SlowLimits {
    /// Whether more waits than may.
    fn exceeded_by(&self, load: Load) -> bool {
        load.frames > self.frames || self.session_bytes.is_some_and(|max| load.bytes > max)
    }

    /// What may wait before frames are dropped.
    fn shed_above(&self) -> Option<Load> {
        let bytes = self.session_bytes.unwrap_or(self.bytes).min(self.bytes);
        (!self.rules.is_plain()).then_some(Load { frames: self.frames, bytes })
    }

    /// Whether a client that has read so much in a time of grace is only behind.
    fn reads_enough(&self, frames: u64, bytes: u64) -> bool {
        frames >= self.frames as u64 || self.session_bytes.is_some_and(|max| bytes >= max as u64)
    }
}

struct Session {
    /// Dropped, and with it the name free again, before others can see that the session is over.
    seat: Seat,
    client: Client,
    /// It asked for membership messages.
    membership: bool,
    outbox: Arc<Outbox>,
    /// Frames of the current batch.
    staged: Vec<Piece>,
    added: Load,
    /// While it is above the limit of frames.
    over: Option<Over>,
    /// Messages for it may wait on disk.
    spills: bool,
    /// Messages dropped since it became slow.
    shed: Load,
    /// Its writer is behind.
    behind: bool,
    /// Its removal is ordered.
    dying: bool,
}

/// A session above the limit of frames.
#[derive(Clone, Copy)]
struct Over {
    /// Start of the current time of grace.
    since: Instant,
    /// Frames and bytes it had read then.
    read: (u64, u64),
}

/// See the module.
pub(crate) struct Hub {
    groups: Groups,
    inbox: Arc<Inbox>,
    access: Arc<Access>,
    counters: Arc<Counters>,
    slow: SlowLimits,
    /// Load from which on frames are dropped, if any ever are.
    shed_above: Option<Load>,
    /// By slot.
    sessions: Vec<Option<Session>>,
    /// Slots with staged frames.
    staged: Vec<usize>,
    /// Slots above the limit of frames.
    over: Vec<usize>,
    /// Taken from the inbox, not handled yet.
    commands: VecDeque<Command>,
    /// The batch of requests that is being handled.
    batch: Option<Batch>,
    /// Slots whose writers are behind: no room is given to requests while there is one.
    behind: Vec<usize>,
    /// Room of handled requests that is kept back.
    kept_room: usize,
    /// What changes while the daemon runs.
    live: Live,
    /// Messages delivered to sessions.
    delivered: u64,
    /// The daemons of the ring, as last announced.
    members: Vec<u16>,
    /// For timers.
    runtime: Handle,
    /// Log lines about dropped clients.
    quiet: Quiet,
    /// Log lines about daemons with another configuration.
    foreign: Quiet,
    /// The first bytes of the configuration's hash, as text.
    hash: String,
    variants: Arc<Variants>,
    epochs: Option<EpochNote>,
    /// Wakes this thread to look at slow sessions again.
    timer: Option<JoinHandle<()>>,
}

struct Batch {
    id: SessionId,
    frames: std::vec::IntoIter<Frame>,
    cost: usize,
}

impl Hub {
    pub(crate) fn new(
        groups: Groups,
        inbox: Arc<Inbox>,
        access: Arc<Access>,
        counters: Arc<Counters>,
        slow: SlowLimits,
        live: Live,
        runtime: Handle,
    ) -> Self {
        Self {
            groups,
            inbox,
            access,
            counters,
            shed_above: slow.shed_above(),
            slow,
            sessions: Vec::new(),
            staged: Vec::new(),
            over: Vec::new(),
            commands: VecDeque::new(),
            batch: None,
            behind: Vec::new(),
            kept_room: 0,
            live,
            delivered: 0,
            members: Vec::new(),
            runtime,
            quiet: Quiet::default(),
            foreign: Quiet::default(),
            hash: String::new(),
            variants: Arc::default(),
            epochs: None,
            timer: None,
        }
    }

    /// Sets the hash of the configuration, for messages, and those of configurations that are nearly the same.
    pub(crate) fn with_hash(mut self, hash: &[u8], variants: Arc<Variants>) -> Self {
        (self.hash, self.variants) = (short(hash), variants);
        self
    }

    /// Sets who is told the epochs of configurations.
    pub(crate) fn with_epochs(mut self, epochs: Option<EpochNote>) -> Self {
        self.epochs = epochs;
        self
    }

    fn name(&self, node: NodeId) -> String {
        self.live.names().get(node.index()).map_or_else(|| node.to_string(), ToString::to_string)
    }

    fn hand_out(&mut self) {
        let now = Instant::now();
        let (mut frames, mut bytes) = (0, 0);
        for slot in std::mem::take(&mut self.staged) {
            let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { continue };
            let added = std::mem::take(&mut session.added);
            if session.dying {
                session.staged.clear();
                continue;
            }
            frames += added.frames;
            bytes += added.bytes;
            let (load, shed) = session.outbox.append(&mut session.staged, added, self.shed_above);
            if shed.frames > 0 || session.shed.frames > 0 {
                note_shed(session, load, shed, &self.slow, &self.counters, &self.quiet);
            }
            if load.bytes > BEHIND_BYTES && !session.behind && session.outbox.is_behind(BEHIND_BYTES) {
                session.behind = true;
                self.behind.push(slot);
            }
            if self.slow.exceeded_by(load) {
                if session.spills {
                    session.outbox.set_overfull();
                } else if session.over.is_none() {
                    session.over = Some(Over { since: now, read: session.outbox.written_total() });
                    self.over.push(slot);
                }
                if load.bytes > self.slow.bytes {
                    self.drop_slow(slot, load);
                }
            }
        }
        if frames > 0 {
            self.counters.deliveries_total.add(frames as u64);
            self.counters.delivery_bytes_total.add(bytes as u64);
        }
        if !self.over.is_empty() {
            self.check_over(now);
        }
    }

    /// Gives room for requests, unless the daemon does not get its messages to the clients fast enough for lack
    /// of processor time. A client that does not read is no reason to wait: that is its own loss.
    fn give_room(&mut self) {
        self.behind.retain(|slot| {
            let Some(session) = self.sessions.get_mut(*slot).and_then(Option::as_mut) else { return false };
            // Asked for before the look, so that the wake-up cannot be missed.
            session.outbox.watch();
            session.behind = !session.dying && session.outbox.is_behind(BEHIND_BYTES / 2);
            session.behind
        });
        if self.behind.is_empty() {
            self.inbox.free(std::mem::take(&mut self.kept_room));
        }
    }

    /// Logs the daemons of a new configuration, once, with who came and who went.
    fn announce(&mut self, nodes: &[u16]) {
        if self.members == nodes {
            return;
        }
        let names = |list: &mut dyn Iterator<Item = &u16>| {
            let names = list.filter_map(|node| self.live.names().get(usize::from(*node)));
            names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let members = names(&mut nodes.iter());
        let joined = names(&mut nodes.iter().filter(|node| !self.members.contains(node)));
        let lost = names(&mut self.members.iter().filter(|node| !nodes.contains(node)));
        info!(daemons = nodes.len(), %members, %joined, %lost, "New membership of the ring.");
        self.members = nodes.to_vec();
    }

    /// Takes sessions that have caught up off the list, and drops those whose time is over.
    fn check_over(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.over) {
            let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { continue };
            let Some(over) = session.over else { continue };
            let load = session.outbox.load();
            if session.dying || !self.slow.exceeded_by(load) {
                session.over = None;
                continue;
            }
            if now.duration_since(over.since) >= self.slow.grace {
                let read = session.outbox.written_total();
                // One that reads is only behind, and one whose socket has room waits for us. The limit of bytes
                // still holds for it.
                let (frames, bytes) = (read.0 - over.read.0, read.1 - over.read.1);
                if session.outbox.is_blocked() && !self.slow.reads_enough(frames, bytes) {
                    self.drop_slow(slot, load);
                    continue;
                }
                session.over = Some(Over { since: now, read });
            }
            self.over.push(slot);
        }
        if !self.over.is_empty() && self.timer.as_ref().is_none_or(JoinHandle::is_finished) {
            // Nothing else may happen until the time of these sessions is over.
            let (inbox, grace) = (Arc::clone(&self.inbox), self.slow.grace);
            self.timer = Some(self.runtime.spawn(async move {
                tokio::time::sleep(grace).await;
                inbox.wake();
            }));
        }
    }

    /// Handles the next command. False if there is none.
    fn feed(&mut self) -> bool {
        if let Some(batch) = &mut self.batch {
            let id = batch.id;
            if let Some(frame) = batch.frames.next() {
                self.request(id, frame);
                return true;
            }
            self.kept_room += batch.cost;
            self.batch = None;
            self.give_room();
        }
        if self.commands.is_empty() {
            self.inbox.take(&mut self.commands);
        }
        match self.commands.pop_front() {
            None => return false,
            Some(Command::Connect { seat, client, membership, outbox }) => {
                self.connect(seat, client, membership, outbox);
            }
            Some(Command::Requests { id, frames }) => {
                let cost = self.inbox.batch_cost(&frames);
                self.batch = Some(Batch { id, frames: frames.into_iter(), cost });
            }
            Some(Command::Disconnect { id, kill }) => {
                if let Some(session) = self.session(id).filter(|session| !session.dying) {
                    session.dying = true;
                    self.groups.disconnect(id, if kill { Ended::Requested } else { Ended::Broken });
                }
            }
        }
        true
    }

    fn connect(&mut self, seat: Seat, client: Client, membership: bool, outbox: Arc<Outbox>) {
        let id = seat.id;
        if let Err(error) = self.groups.connect(id, client.private.name(), membership) {
            // The registry gives out names and numbers once, so this is a fault of ours: the client is let go.
            warn!(client = %client.private, %error, "A session was refused by the group engine.");
            outbox.close();
            return;
        }
        let slot = slot_of(id);
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        self.sessions[slot] = Some(Session {
            seat,
            client,
            membership,
            outbox,
            staged: Vec::new(),
            added: Load::default(),
            over: None,
            spills: false,
            shed: Load::default(),
            behind: false,
            dying: false,
        });
    }

    fn request(&mut self, id: SessionId, frame: Frame) {
        let policy = self.access.policy();
        // Requests of a session that was dropped in the meantime.
        let Some(session) = self.session(id).filter(|session| !session.dying) else { return };
        let private = session.client.private;
        if !permitted(&*policy, &session.client, &frame) {
            self.counters.rejected_total.add(1);
            if let Some((head, data)) = build::reject(&frame) {
                self.stage(id, [head, data].iter(), SlowAction::Disconnect);
            }
            return;
        }
        if let Err(refusal) = self.groups.request(id, &frame) {
            if let Some(suppressed) = self.quiet.admit() {
                warn!(client = %private, %refusal, suppressed, "Session dropped: illegal request.");
            }
            self.counters.dropped_illegal_total.add(1);
            self.drop_session(slot_of(id));
        }
    }

    fn sort_outputs(&mut self) {
        while let Some(output) = self.groups.poll_output() {
            match output {
                Output::Deliver { to, except, frame } => {
                    self.delivered += 1;
                    let action = match (self.shed_above, frame.parts().next()) {
                        (Some(_), Some(head)) => self.slow.rules.action(head),
                        _ => SlowAction::Disconnect,
                    };
                    for id in to.iter().filter(|id| Some(**id) != except) {
                        self.stage(*id, frame.parts(), action);
                    }
                }
                Output::Close(id) => self.close(id),
            }
        }
    }

    fn stage<'a>(
        &mut self,
        id: SessionId,
        parts: impl Iterator<Item = &'a bytes::Bytes>,
        action: SlowAction,
    ) {
        let slot = slot_of(id);
        let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { return };
        if session.seat.id != id || session.dying {
            return;
        }
        if session.staged.is_empty() {
            self.staged.push(slot);
        }
        session.spills |= action == SlowAction::Spill;
        for bytes in parts {
            session.added.bytes += bytes.len();
            session.staged.push(Piece { bytes: bytes.clone(), ends_frame: false, action, mark: false });
        }
        if let Some(last) = session.staged.last_mut() {
            last.ends_frame = true;
            session.added.frames += 1;
        }
    }

    fn close(&mut self, id: SessionId) {
        let slot = slot_of(id);
        if let Some(entry) = self.sessions.get_mut(slot)
            && let Some(session) = entry.take_if(|session| session.seat.id == id)
        {
            if session.shed.frames > 0 {
                let Load { frames, bytes } = session.shed;
                info!(client = %session.client.private, messages = frames, bytes, "A slow client is gone; messages to it were dropped.");
            }
            // The name is free before the client can see the end of its stream.
            let Session { seat, outbox, .. } = session;
            drop(seat);
            outbox.close();
        }
    }

    fn drop_slow(&mut self, slot: usize, load: Load) {
        if let Some(session) = self.sessions.get(slot).and_then(Option::as_ref).filter(|s| !s.dying) {
            if let Some(suppressed) = self.quiet.admit() {
                warn!(
                    client = %session.client.private, messages = load.frames, bytes = load.bytes,
                    messages_max = self.slow.frames, socket_full = session.outbox.is_blocked(), suppressed,
                    "Session dropped: the client does not read its messages fast enough."
                );
            }
            self.counters.dropped_slow_total.add(1);
            self.drop_session(slot);
        }
    }

    /// Ends a session from our side: the client's connection stays open, silent, until the removal is
    /// delivered. spec: client-protocol 6.3
    fn drop_session(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { return };
        session.dying = true;
        session.outbox.discard();
        self.groups.disconnect(session.seat.id, Ended::Broken);
        // There is something to submit again.
        self.inbox.wake();
    }

    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(slot_of(id))?.as_mut().filter(|session| session.seat.id == id)
    }
}

impl Hub {
    /// Another daemon speaks about a configuration. If this is the place where all change over, the groups do: as
    /// if a ring of those that stay had been formed, with the numbers of the new configuration.
    fn notice(&mut self, from: u16, notice: Notice) {
        let Some(Step { survivors, transitional, regular, plan }) = self.live.handle_notice(from, notice)
        else {
            return;
        };
        if let Some(epochs) = &self.epochs {
            epochs.note(regular.epoch);
        }
        self.groups.handle_transitional(transitional, &survivors);
        self.groups.handle_regular(regular, &survivors);
        self.members = survivors;
        if let Some(ring) = plan.map(|plan| &plan.ring) {
            let new = |node: u16| ring.numbers.get(usize::from(node)).copied().flatten().map(|node| node.0);
            let numbers: Vec<Option<u16>> = ring.numbers.iter().map(|node| node.map(|node| node.0)).collect();
            self.members = self.members.iter().filter_map(|node| new(*node)).collect();
            self.hash = short(&ring.options.ring.hash);
            self.variants = Arc::clone(&ring.options.variants);
            if let Err(error) = self.groups.reconfigure(ring.groups.clone(), &numbers) {
                error!(%error, "The groups cannot go on under the new configuration; this daemon leaves the ring.");
                self.live.leave();
            }
        }
        self.sort_outputs();
        self.hand_out();
        if let Some(linger) = self.live.linger() {
            let inbox = Arc::clone(&self.inbox);
            self.runtime.spawn(async move {
                tokio::time::sleep(linger).await;
                inbox.wake();
            });
        }
    }
}

impl Upper for Hub {
    fn next_submission(&mut self) -> Option<(Service, Body)> {
        if let Some(notice) = self.live.poll_notice(&self.groups) {
            return Some(notice);
        }
        while !self.live.holds() {
            if let Some(submission) = self.groups.poll_submit() {
                return Some(to_ring(submission));
            }
            // While group tables are exchanged the engine holds requests back: do not pile them up there.
            if self.groups.waiting().0 >= AHEAD_MAX || !self.feed() {
                break;
            }
        }
        // Nothing may be delivered for long: rejected requests and the time of slow clients do not wait for it.
        if !self.staged.is_empty() || !self.over.is_empty() {
            self.hand_out();
        }
        if self.kept_room > 0 {
            self.give_room();
        }
        None
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Deliver { sender, body, .. } => {
                if let Some(notice) = Notice::parse(body.parts()) {
                    return self.notice(sender.node.0, notice);
                }
                if self.live.is_switching() {
                    return;
                }
                self.groups.handle_deliver(sender.node.0, body.parts());
            }
            Event::Transitional { id, members, .. } => {
                if !self.live.handle_transitional() {
                    return;
                }
                self.groups.handle_transitional(config_id(id), &nodes(&members));
            }
            Event::Regular { id, members } => {
                if !self.live.handle_regular(id, &members) {
                    return;
                }
                let nodes = nodes(&members);
                self.announce(&nodes);
                if let Some(epochs) = &self.epochs {
                    epochs.note(id.epoch);
                }
                self.groups.handle_regular(config_id(id), &nodes);
            }
            Event::Writable => return,
        }
        self.sort_outputs();
    }

    fn flush(&mut self) {
        self.hand_out();
    }

    fn handle_foreign(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        view: &dyn Fn() -> Option<View>,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let View { condition, stats } = view()?;
        let Self { groups, delivered, live, .. } = self;
        live.handle_foreign(from, datagram, |uptime, transitional, sessions| Facts {
            uptime,
            condition,
            ring: stats,
            transitional,
            synced: groups.is_synced(),
            messages_delivered: *delivered,
            sessions,
            groups: groups.groups_len(),
        })
    }

    fn poll_order(&mut self) -> Option<Order> {
        if let Some(slow) = self.live.take_changes() {
            self.shed_above = slow.shed_above();
            self.slow = slow;
        }
        self.live.poll_order()
    }

    fn note_links(&mut self, broken: &[(NodeId, NodeId)], healed: &[(NodeId, NodeId)]) {
        for (to, from) in broken {
            let (to, from) = (self.name(*to), self.name(*from));
            warn!(%from, %to, "Broken link: what {from} sends does not reach {to}, though others hear both.");
        }
        for (to, from) in healed {
            let (to, from) = (self.name(*to), self.name(*from));
            info!(%from, %to, "What {from} sends reaches {to} again, or one of them is gone.");
        }
    }

    fn note_other_configuration(&mut self, node: NodeId, hash: [u8; 4]) {
        if let Some(suppressed) = self.foreign.admit() {
            let difference =
                self.variants.difference(hash).unwrap_or("more than one thing, or one that its log names");
            let (daemon, hash, ours, parts) =
                (self.name(node), short(&hash), &self.hash, self.variants.parts());
            warn!(
                %daemon, %hash, %ours, difference, parts, suppressed,
                "{daemon} has another configuration and is refused: other daemons, addresses, ports or \
                 identifiers. Compare what `spreadd --check -c FILE` prints there and here."
            );
        }
    }
}

/// Counts and logs dropped messages: at the first one, and when the client has caught up.
fn note_shed(
    session: &mut Session,
    load: Load,
    shed: Load,
    slow: &SlowLimits,
    counters: &Counters,
    quiet: &Quiet,
) {
    let client = &session.client.private;
    if shed.frames > 0 {
        if session.shed.frames == 0
            && let Some(suppressed) = quiet.admit()
        {
            warn!(
                %client, messages = load.frames, bytes = load.bytes, messages_max = slow.frames, suppressed,
                "The client does not read its messages fast enough: some are dropped."
            );
        }
        session.shed = session.shed + shed;
        counters.slow_discarded_total.add(shed.frames as u64);
        counters.slow_discarded_bytes_total.add(shed.bytes as u64);
    } else if load.frames <= slow.frames / 2 && !session.outbox.is_blocked() {
        let Load { frames, bytes } = std::mem::take(&mut session.shed);
        if let Some(suppressed) = quiet.admit() {
            info!(%client, messages = frames, bytes, suppressed, "A slow client has caught up; messages to it were dropped.");
        }
    }
}

/// Asks the policy. A multicast needs the permission for every target.
fn permitted(policy: &dyn Policy, client: &Client, frame: &Frame) -> bool {
    let service = frame.header.service;
    if service.intersects(ServiceType::JOIN) {
        frame.first_group().is_none_or(|group| policy.join(client, &group))
    } else if service.intersects(ServiceType::LEAVE) {
        frame.first_group().is_none_or(|group| policy.leave(client, &group))
    } else {
        policy.permits_all() || frame.group_names().all(|target| policy.multicast(client, &target))
    }
}

/// The first bytes of a hash, which packets carry.
fn short(hash: &[u8]) -> String {
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn to_ring(submission: Submission) -> (Service, Body) {
    let service = match submission.service {
        RingService::Reliable => Service::Reliable,
        RingService::Fifo => Service::Fifo,
        RingService::Causal => Service::Causal,
        RingService::Agreed => Service::Agreed,
        RingService::Safe => Service::Safe,
    };
    (service, Body::Many(submission.into_parts()))
}

fn config_id(id: spread_ring::ConfId) -> spread_groups::ConfigId {
    spread_groups::ConfigId { epoch: id.epoch, rep: id.rep.0, nonce: id.nonce }
}

fn nodes(members: &[spread_ring::Mid]) -> Vec<u16> {
    members.iter().map(|mid| mid.node.0).collect()
}
