//! [`Ring`]: the public interface, and the dispatch of packets and timers to the phases.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::{Body, Boot, Class, Event, Path, SubmitError, Transmit};
use crate::assemble::Assembler;
use crate::commit::Attempt;
use crate::conf::Conf;
use crate::config::RingConfig;
use crate::gather::Gather;
use crate::hearing::{Hearing, Links, Standing};
use crate::leave::Leaving;
use crate::midset::MidSet;
use crate::pack::Packer;
use crate::rng::Rng;
use crate::stats::{Cause, PeerStats, Stats};
use crate::store::Store;
use crate::timers::{TIMERS, Timer, Timers};
use crate::types::{ConfId, Mid, NODES_MAX, Nanos, NodeId, NodeSet, Service};
use crate::wire::{Content, FRAGMENT_LEN, FRAGMENTS_MAX, Fragment, HEADER_LEN, Header, Heard, Kind, split};

/// Events that may wait for the driver before delivery pauses.
pub(crate) const EVENTS_MAX: usize = 16_384;
/// Lines of the trace that are kept for the driver.
const TRACE_MAX: usize = 65_536;
/// The same without the lines of normal operation.
const NOTES_MAX: usize = 1024;
/// Smallest packet that can be configured.
const PACKET_LEN_MIN: usize = 256;
/// Largest packet of UDP, without the trailer.
const PACKET_LEN_MAX: usize = 65_000;

/// A configuration that the engine cannot work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No daemon, or more than [`NODES_MAX`].
    #[error("{found} daemons are configured, 1 to {NODES_MAX} are possible")]
    Nodes {
        /// Number of configured daemons.
        found: usize,
    },
    /// This daemon is not one of those configured.
    #[error("this daemon has the number {me}, only {nodes} are configured")]
    Me {
        /// `RingConfig::me`.
        me: NodeId,
        /// Number of configured daemons.
        nodes: usize,
    },
    /// Packets are too short or too long.
    #[error("packets of {found} bytes are not possible, {min} to {max} are")]
    PacketLen {
        /// `RingConfig::packet_len_max`.
        found: usize,
        /// Smallest possible value.
        min: usize,
        /// Greatest possible value.
        max: usize,
    },
    /// The session is 0.
    #[error("the session must not be 0")]
    Session,
    /// A time limit is zero.
    #[error("the time limit {name} is zero")]
    Timer {
        /// Name of the field in [`Timers`](crate::Timers).
        name: &'static str,
    },
}

/// State of the membership (`ring-protocol` 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Operational,
    Gather,
    Commit,
    Recovery,
}

impl Phase {
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Operational => 'O',
            Self::Gather => 'G',
            Self::Commit => 'C',
            Self::Recovery => 'V',
        }
    }
}

/// The token or commit token as it was forwarded, until there is evidence that it arrived.
#[derive(Clone, Debug)]
pub(crate) struct TokenCopy {
    pub(crate) to: NodeId,
    /// token_seq, or hop of a commit token: one number space, so evidence is compared the same way.
    pub(crate) number: u64,
    pub(crate) packets: Vec<Bytes>,
    pub(crate) wait: Duration,
}

/// The ring engine: total order, reliability and daemon membership as a state machine without clock, socket
/// or thread.
///
/// Calling order: any number of inputs ([`Ring::handle_packet`], [`Ring::submit`], [`Ring::handle_timeout`],
/// [`Ring::leave`]) with non-decreasing `now`, then all outputs: [`Ring::poll_transmit`] until `None` (the
/// order must be kept on the wire), [`Ring::poll_event`] until `None`, then [`Ring::poll_timeout`]. Packets
/// that are there are handed in before timers that are due.
#[derive(Clone, Debug)]
pub struct Ring {
    pub(crate) cfg: Arc<RingConfig>,
    pub(crate) me: Mid,
    pub(crate) rng: Rng,
    pub(crate) now: Nanos,
    pub(crate) phase: Phase,
    /// The regular configuration installed last; outside [`Phase::Operational`] it is the old ring.
    pub(crate) conf: Conf,
    /// The ring that is being formed.
    pub(crate) attempt: Option<Box<Attempt>>,
    pub(crate) gather: Gather,
    pub(crate) hearing: Hearing,
    /// Highest epoch promised.
    pub(crate) epoch: u64,
    /// Highest epoch seen anywhere.
    pub(crate) seen: u64,
    /// What is held of the old ring was reported: from now on only packets of the union count.
    pub(crate) frozen: bool,
    /// Origins whose messages must be delivered in the next transitional configuration even after a gap.
    pub(crate) obligations: MidSet,
    pub(crate) outq: Packer,
    pub(crate) asm: Assembler,
    pub(crate) copy: Option<TokenCopy>,
    pub(crate) timers: Timers,
    pub(crate) links: Links,
    pub(crate) links_at: Nanos,
    pub(crate) tx: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    /// Delivery waits for the driver to take events.
    pub(crate) paused: bool,
    /// A submission was refused: `Writable` is due when there is room.
    pub(crate) refused: bool,
    /// The token rests here and there is work: the visit begins when the driver asks for output, so that all
    /// submissions of a batch go with it.
    pub(crate) visit_due: bool,
    pub(crate) wake_wait: Duration,
    /// One of my messages at a time, by number, and when it was submitted: for the latencies.
    pub(crate) sample: Option<(u64, Nanos)>,
    /// Messages of mine that were delivered.
    pub(crate) own_delivered: u64,
    pub(crate) join_no: u32,
    pub(crate) control_id: u32,
    pub(crate) presence_count: u32,
    pub(crate) presence_at: Nanos,
    /// Peers that get the next presence also by unicast.
    pub(crate) greet: NodeSet,
    pub(crate) hop_ack_at: Nanos,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) gone: bool,
    pub(crate) stats: Stats,
    pub(crate) tracing: bool,
    pub(crate) trace: VecDeque<String>,
}

impl Ring {
    /// Starts the engine: installs the configuration of this daemon alone and begins to look for others.
    ///
    /// # Errors
    ///
    /// The configuration is not possible.
    pub fn new(cfg: Arc<RingConfig>, boot: Boot, now: Nanos) -> Result<Self, ConfigError> {
        check_config(&cfg, &boot)?;
        let me = Mid { node: cfg.me, session: boot.session };
        let mut rng = Rng::new(boot.seed, boot.session);
        let epoch = even_up(boot.epoch_min.min(u64::MAX >> 2)).max(2);
        let id = ConfId { epoch, rep: me.node, nonce: rng.next_u32() };
        let store = Store::new(cfg.limits.store_packets);
        let conf = Conf::new(&cfg, id, vec![me], store, now);
        let nodes = cfg.nodes.len();
        // At random, so that pieces of two lives of a daemon do not fit together.
        let control_id = rng.next_u32();
        let mut ring = Self {
            me,
            rng,
            now,
            phase: Phase::Operational,
            conf,
            attempt: None,
            gather: Gather::new(nodes, me),
            hearing: Hearing::new(&cfg, me),
            epoch,
            seen: epoch,
            frozen: false,
            obligations: MidSet::default(),
            outq: Packer::new(&cfg.limits),
            asm: Assembler::new(nodes, cfg.limits.message_len_max),
            copy: None,
            timers: Timers::new(),
            links: Links { multicast: false, packet_len: cfg.packet_len_max },
            links_at: now,
            tx: VecDeque::with_capacity(256),
            events: VecDeque::with_capacity(256),
            paused: false,
            refused: false,
            visit_due: false,
            wake_wait: Duration::ZERO,
            sample: None,
            own_delivered: 0,
            join_no: 0,
            control_id,
            presence_count: 0,
            presence_at: Nanos(0),
            greet: NodeSet::EMPTY,
            hop_ack_at: Nanos(0),
            leaving: None,
            gone: false,
            stats: Stats { installs: 1, peers: vec![PeerStats::default(); nodes], ..Stats::default() },
            tracing: false,
            trace: VecDeque::new(),
            cfg,
        };
        ring.events.push_back(Event::Regular { id, members: vec![me] });
        ring.timers.set(Timer::Presence, now);
        ring.start_gather(Cause::Start);
        Ok(ring)
    }

    /// Takes a packet: header and body, opened and checked for replay by the driver, which also verified
    /// that it came from an address of `from`. No packet makes the engine panic.
    pub fn handle_packet(&mut self, now: Nanos, path: Path, from: NodeId, plain: Bytes) {
        self.advance(now);
        if self.gone || self.leaves_now() {
            return;
        }
        let Ok(header) = Header::check(&plain) else {
            self.stats.drops.decode += 1;
            return;
        };
        if header.sender != from || from == self.me.node || from.index() >= self.cfg.nodes.len() {
            self.stats.drops.sender += 1;
            return;
        }
        if header.config_hash != self.header_hash() {
            self.stats.drops.hash += 1;
            return;
        }
        if header.session == 0 {
            self.stats.drops.session += 1;
            return;
        }
        let mid = Mid { node: from, session: header.session };
        let len = plain.len();
        match (self.hearing.standing(now, mid), header.kind) {
            (Standing::Refused, _) => self.stats.drops.session += 1,
            (Standing::Usable, _) => {
                self.hearing.note_packet(now, from, path, header.kind, len);
                self.handle_content(mid, header.kind, plain.slice(HEADER_LEN..), path, len);
            }
            (_, Kind::Presence | Kind::Join | Kind::Fragment) => {
                self.handle_content(mid, header.kind, plain.slice(HEADER_LEN..), path, len);
            }
            (Standing::Heard | Standing::New, _) => self.stats.drops.session += 1,
        }
        self.after_input();
    }

    fn handle_content(&mut self, from: Mid, kind: Kind, body: Bytes, path: Path, len: usize) {
        let Ok(content) = Content::check(kind, body) else {
            self.stats.drops.decode += 1;
            return;
        };
        match content {
            Content::Data(data) => self.on_data(from, data),
            Content::Token(token) => self.on_token(from, token),
            Content::TokenRequest(request) => self.on_token_request(from, request),
            Content::Ack(ack) => self.on_ack(from, ack),
            Content::Join(join) => {
                if self.introduce(from, &join.hash, join.hear.as_slice(), (path, kind, len)) {
                    self.on_join(from, *join);
                }
            }
            Content::Commit(commit) => self.on_commit(from, *commit),
            Content::HopAck(ack) => self.on_hop_ack(from, ack),
            Content::Presence(presence) => {
                if self.introduce(from, &presence.hash, presence.hear.as_slice(), (path, kind, len)) {
                    self.on_presence(from, &presence);
                }
            }
            Content::Fragment(fragment) => self.on_fragment(from, fragment, path, len),
        }
    }

    fn on_fragment(&mut self, from: Mid, fragment: Fragment, path: Path, len: usize) {
        let now = self.now;
        let whole = self.hearing.fragments(from.node).and_then(|pieces| pieces.push(now, fragment));
        let Some((kind, body)) = whole else { return };
        let usable = self.hearing.is_usable(from);
        if usable || matches!(kind, Kind::Join | Kind::Presence) {
            self.handle_content(from, kind, body, path, len);
        } else {
            self.stats.drops.session += 1;
        }
    }

    /// Performs what is due.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.advance(now);
        if self.gone {
            return;
        }
        for timer in TIMERS {
            if !self.gone && self.timers.take_due(timer, now) {
                self.fire(timer);
            }
        }
        self.after_input();
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Token => self.on_token_loss(),
            Timer::Rto => self.resend_token(),
            Timer::Park => self.on_park_end(),
            Timer::Wake => self.send_token_request(),
            Timer::Ack => self.send_ack(),
            Timer::Presence => self.send_presence(),
            Timer::Join => self.on_join_timer(),
            Timer::Consensus => self.on_consensus_timer(),
            Timer::Commit => self.on_commit_timer(),
            Timer::Leave => self.on_leave_timer(),
            Timer::Stall => self.on_stall(),
        }
    }

    /// Queues a message. Messages are sent in the order of submission, in every state; during a membership
    /// change they wait.
    ///
    /// # Errors
    ///
    /// The message is not taken; see [`SubmitError`].
    pub fn submit(&mut self, now: Nanos, service: Service, body: Body) -> Result<(), SubmitError> {
        self.advance(now);
        if self.leaving.is_some() || self.gone {
            return Err(SubmitError::Leaving);
        }
        let idle = self.outq.is_empty();
        if let Err(e) = self.outq.push(service, body) {
            if e == SubmitError::Full {
                self.stats.submit_full += 1;
                self.refused = true;
            }
            return Err(e);
        }
        self.stats.submitted += 1;
        if self.sample.is_none() {
            self.sample = Some((self.stats.submitted, now));
        }
        if self.phase == Phase::Operational {
            if self.conf.is_single() {
                self.deliver_alone();
            } else if self.conf.parked.is_some() {
                self.visit_due = true;
            } else if idle {
                self.arm_wake();
            }
        }
        Ok(())
    }

    /// Leaves the ring: what was submitted is sent first, for at most T_token, then the others are told.
    /// [`Ring::is_gone`] says when it is done.
    pub fn leave(&mut self, now: Nanos) {
        self.advance(now);
        self.begin_leave();
    }

    /// Whether the daemon left: the engine does nothing any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The next packet to send. The order of emission must be kept on the wire.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.visit_due {
            self.visit_parked();
        }
        self.tx.pop_front()
    }

    /// The next event for the layer above.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.visit_due {
            self.visit_parked();
        }
        if self.paused && self.events.len() < EVENTS_MAX / 2 {
            self.resume_delivery();
        }
        self.events.pop_front()
    }

    /// When [`Ring::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Nanos> {
        match (self.gone, self.visit_due) {
            (true, _) => None,
            (false, true) => Some(self.now),
            (false, false) => self.timers.next(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The regular configuration installed last.
    pub fn configuration(&self) -> (ConfId, &[Mid]) {
        (self.conf.id, &self.conf.members)
    }

    /// Whether the regular configuration works: messages submitted now are sent now.
    pub fn is_operational(&self) -> bool {
        self.phase == Phase::Operational
    }

    /// Highest epoch promised, to be kept in the state file: see [`Boot::epoch_min`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// This daemon process.
    pub fn me(&self) -> Mid {
        self.me
    }

    /// Whether this process is the current one of its node and hears this daemon's session: data and tokens
    /// count from such processes only.
    pub fn is_usable(&self, mid: Mid) -> bool {
        self.hearing.is_usable(mid)
    }

    /// Configured daemons that are heard now.
    pub fn heard(&self) -> NodeSet {
        self.hearing.heard_nodes(self.now)
    }

    /// Pairs `(a, b)` of daemons that are heard here, this one included, of which `a` does not hear `b` by its
    /// own recent word. In a sound network there is none for longer than a daemon needs to start.
    pub fn deaf_links(&self) -> Vec<(NodeId, NodeId)> {
        self.hearing.deaf_links(self.now)
    }

    /// Daemons kept outside for a while because rings with them broke soon.
    pub fn penalties(&self) -> NodeSet {
        self.hearing.penalties(self.now)
    }

    /// Turns the lines of normal operation (visits, repairs) on or off; off at first. What concerns the
    /// membership always has its line.
    pub fn set_trace(&mut self, on: bool) {
        self.tracing = on;
    }

    /// Lets the counters that wrap (joins, signs of life, control packets, messages of 32 bits) begin at `n`. Only
    /// right after [`Ring::new`]; for tests of the wrap.
    pub fn start_counters_at(&mut self, n: u32) {
        (self.join_no, self.control_id) = (n, n);
        // 0 says that none was sent yet.
        self.presence_count = n.max(1);
        self.outq.start_messages_at(n);
    }

    /// The next line of the trace: `time node state event key=value..`. The oldest lines are lost if they
    /// are not taken.
    pub fn poll_trace(&mut self) -> Option<String> {
        self.trace.pop_front()
    }

    /// Adds a line of normal operation to the trace. It is only made if somebody wants it.
    pub(crate) fn trace(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tracing {
            self.note(line);
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        let max = if self.tracing { TRACE_MAX } else { NOTES_MAX };
        while self.trace.len() >= max {
            self.trace.pop_front();
        }
        let line = format!("{} {} {} {}", self.now.0, self.me.node, self.phase.letter(), line(self));
        self.trace.push_back(line);
    }

    fn advance(&mut self, now: Nanos) {
        self.now = self.now.max(now);
    }

    /// What every input may have made possible.
    fn after_input(&mut self) {
        self.note_room();
        if cfg!(debug_assertions) {
            debug_assert_eq!(self.cheap_invariants(), Ok(()));
        }
    }

    /// Says when the queue is half empty again after a submission was refused.
    pub(crate) fn note_room(&mut self) {
        let limits = &self.cfg.limits;
        let room = self.outq.len() <= limits.submit_count_max / 2
            && self.outq.bytes_waiting() <= limits.submit_bytes_max / 2;
        if self.refused && room {
            self.refused = false;
            self.events.push_back(Event::Writable);
        }
    }

    fn header_hash(&self) -> u32 {
        let [a, b, c, d, ..] = self.cfg.hash;
        u32::from_le_bytes([a, b, c, d])
    }

    /// A packet buffer that begins with the header.
    pub(crate) fn write_header(&self, kind: Kind, flags: u8, out: &mut impl BufMut) {
        let header = Header {
            kind,
            config_hash: self.header_hash(),
            session: self.me.session,
            counter: 0,
            sender: self.me.node,
            key_id: 0,
            flags,
        };
        header.write(out);
    }

    /// Builds the packet of a body, or its fragments if it exceeds one. Empty if it exceeds all of them.
    pub(crate) fn control_packets(&mut self, kind: Kind, body: &[u8]) -> Vec<Bytes> {
        let len_max = self.links.packet_len;
        if HEADER_LEN + body.len() <= len_max {
            let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
            self.write_header(kind, 0, &mut out);
            out.extend_from_slice(body);
            return vec![out.freeze()];
        }
        self.control_id = self.control_id.wrapping_add(1);
        // Sixteen pieces must do, whatever the links pass.
        let piece_min = body.len() / usize::from(FRAGMENTS_MAX) + 1 + FRAGMENT_LEN + 1;
        let piece = (len_max - HEADER_LEN).max(piece_min).min(self.cfg.packet_len_max - HEADER_LEN);
        let Some(fragments) = split(kind, body, self.control_id, piece) else {
            self.stats.drops.control_len += 1;
            return Vec::new();
        };
        let packet = |fragment: &Fragment| {
            let mut out = BytesMut::with_capacity(HEADER_LEN + FRAGMENT_LEN + fragment.bytes.len());
            self.write_header(Kind::Fragment, 0, &mut out);
            fragment.write(&mut out);
            out.freeze()
        };
        fragments.iter().map(packet).collect()
    }

    fn configured(&self) -> NodeSet {
        let unused = NODES_MAX.saturating_sub(self.cfg.nodes.len());
        NodeSet(u128::MAX.checked_shr(u32::try_from(unused).unwrap_or(u32::MAX)).unwrap_or(0))
    }

    pub(crate) fn is_configured(&self, mid: Mid) -> bool {
        mid.node.index() < self.cfg.nodes.len()
    }

    pub(crate) fn emit(&mut self, to: NodeSet, multicast: bool, class: Class, packet: Bytes) {
        // What members say may name nodes that do not exist.
        let mut to = to.intersection(self.configured());
        to.remove(self.me.node);
        if !to.is_empty() {
            self.tx.push_back(Transmit { to, multicast, class, packet });
        }
    }

    /// Notes a session, hear list and path of a presence or join. Returns whether its content counts: the
    /// sender's session is the current one.
    fn introduce(
        &mut self,
        from: Mid,
        hash: &[u8; 16],
        hear: &[Heard],
        (path, kind, len): (Path, Kind, usize),
    ) -> bool {
        if *hash != self.cfg.hash {
            self.stats.drops.hash += 1;
            return false;
        }
        let (now, me) = (self.now, self.me);
        let lists_me = hear.iter().any(|heard| heard.mid == me);
        let mut news = false;
        if self.hearing.standing(now, from) == Standing::New {
            let Ok(old) = self.hearing.take_in(now, from, lists_me) else {
                self.stats.drops.session += 1;
                return false;
            };
            news = true;
            self.note(|_| format!("session node={} new={:016x} old={old:?}", from.node, from.session));
        }
        self.hearing.note_packet(now, from.node, path, kind, len);
        if self.hearing.note_report(now, from.node, hear) {
            news = true;
            self.note(|_| format!("usable node={} session={:016x}", from.node, from.session));
            self.on_usable(from);
        }
        if news {
            self.greet.insert(from.node);
            self.presence_soon();
        }
        true
    }
}

/// The smallest even number that is not less than `n`.
pub(crate) fn even_up(n: u64) -> u64 {
    n.saturating_add(1) & !1
}

fn check_config(cfg: &RingConfig, boot: &Boot) -> Result<(), ConfigError> {
    if boot.session == 0 {
        return Err(ConfigError::Session);
    }
    check_nodes(cfg)
}

/// What does not depend on the process.
pub(crate) fn check_nodes(cfg: &RingConfig) -> Result<(), ConfigError> {
    let nodes = cfg.nodes.len();
    if nodes == 0 || nodes > NODES_MAX {
        return Err(ConfigError::Nodes { found: nodes });
    }
    if cfg.me.index() >= nodes {
        return Err(ConfigError::Me { me: cfg.me, nodes });
    }
    let (found, min, max) = (cfg.packet_len_max, PACKET_LEN_MIN, PACKET_LEN_MAX);
    if !(min..=max).contains(&found) {
        return Err(ConfigError::PacketLen { found, min, max });
    }
    let t = &cfg.timers;
    let limits = [
        ("token", t.token),
        ("rto_min", t.rto_min),
        ("rto_max", t.rto_max),
        ("presence", t.presence),
        ("dead", t.dead),
        ("join", t.join),
        ("consensus", t.consensus),
        ("commit", t.commit),
    ];
    match limits.iter().find(|(_, limit)| limit.is_zero()) {
        Some((name, _)) => Err(ConfigError::Timer { name }),
        None => Ok(()),
    }
}
