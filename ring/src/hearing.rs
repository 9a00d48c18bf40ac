//! Who hears whom: sessions, two-way links, groups, penalties (`ring-protocol` 2.6, 4.2).
//!
//! The graph chooses candidates only. Safety never depends on it.
//!
//! A new session of a node replaces the current one only if the current one is not usable, or if the new one
//! lists this daemon's own session: only then it is alive. So the recording of an earlier life of a peer
//! cannot push out the living one, and a restarted peer gets through with its second sign of life.
//!
//! Which of two sessions is the later one cannot be told from one packet: a late packet of the former life may
//! come after the first one of the next. So the guess is not final. A superseded session is taken again if it
//! lists this daemon and the current one was silent for T_dead. (The design refuses it for ever; a late packet
//! then isolates the living daemon. Recordings are kept out by the driver's replay window of each session.)

use std::collections::VecDeque;
use std::time::Duration;

use crate::api::Path;
use crate::config::RingConfig;
use crate::midset::MidSet;
use crate::rng::Rng;
use crate::types::{Mid, Nanos, NodeId, NodeSet};
use crate::wire::{Heard, Kind, PATH_MULTICAST, PATH_UNICAST, Reassembly};

/// Old sessions of a node that are remembered.
const SUPERSEDED_MAX: usize = 1024;
/// New sessions of one node that are accepted in a second.
const NEW_SESSIONS_MAX: u32 = 4;
/// How many T_pres a way (multicast, unicast) counts as open after a packet came by it.
const PATH_PRESENCES: u32 = 10;
/// How many T_pres the longest packet is remembered; also how long a session is taken to pass all lengths.
const MTU_PRESENCES: u32 = 20;
/// Packets of this length pass everywhere.
pub(crate) const PACKET_LEN_SAFE: usize = 548;
/// How many T_pres a peer needs to hear all that it can.
const SETTLED_PRESENCES: u32 = 4;
const PENALTY_MIN: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(60);
const PENALTY_HALF: Duration = Duration::from_secs(60);

/// What a peer said in its last presence or join.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) at: Nanos,
    /// By node number; a session of 0 means not heard.
    hear: Vec<(u64, u16, u8)>,
}

impl Report {
    fn hears(&self, mid: Mid) -> bool {
        self.hear.get(mid.node.index()).is_some_and(|(session, ..)| *session == mid.session)
    }

    fn link(&self, mid: Mid) -> Option<(u16, u8)> {
        let (session, mtu, paths) = self.hear.get(mid.node.index())?;
        (*session == mid.session).then_some((*mtu, *paths))
    }
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// 0: never heard.
    session: u64,
    usable: bool,
    since: Nanos,
    heard_at: Nanos,
    multicast: Way,
    unicast: Way,
    /// When something came by unicast to the token's port.
    token_at: Option<Nanos>,
    report: Option<Report>,
    /// From its joins; 0 until the first one.
    features: u32,
    /// Number of the last join that counted, and when it came.
    join: Option<(u32, Nanos)>,
    superseded: VecDeque<u64>,
    new_sessions: (Nanos, u32),
    fragments: Reassembly,
    /// The node stays outside.
    penalty: Pause,
    /// I do not ask the node to merge; if it asks me I do.
    shy: Pause,
    probe: Probe,
}

/// A pause that gets longer each time.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    /// Zero: never begun.
    level: Duration,
    until: Nanos,
}

impl Pause {
    /// Begins again, twice as long as the last time, but half as long for each minute without.
    fn begin(&mut self, now: Nanos, rng: &mut Rng) {
        if !self.level.is_zero() {
            let halvings = now.since(self.until).as_secs() / PENALTY_HALF.as_secs();
            let halvings = u32::try_from(halvings).unwrap_or(u32::MAX).min(16);
            self.level = self.level / 2u32.pow(halvings) * 2;
        }
        self.level = self.level.clamp(PENALTY_MIN, PENALTY_MAX);
        let jitter = self.level / 256 * u32::try_from(rng.next() % 64).unwrap_or(0);
        self.until = now + self.level + jitter;
    }

    fn is_on(self, now: Nanos) -> bool {
        now < self.until
    }
}

/// What came by one way.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    at: Option<Nanos>,
    /// Longest packet in this and in the last period, and when this one began.
    longest: (usize, usize),
    since: Nanos,
}

impl Way {
    fn note(&mut self, now: Nanos, len: usize, period: Duration) {
        if now.since(self.since) > period {
            self.longest = (0, self.longest.0);
            self.since = now;
        }
        self.longest.0 = self.longest.0.max(len);
        self.at = Some(now);
    }

    fn is_open(&self, now: Nanos, limit: Duration) -> bool {
        self.at.is_some_and(|at| now.since(at) <= limit)
    }

    fn longest(&self) -> u16 {
        u16::try_from(self.longest.0.max(self.longest.1)).unwrap_or(u16::MAX)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    at: Nanos,
    wait: Duration,
}

/// What a packet's session is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The current session; it hears this daemon.
    Usable,
    /// The current session; not known to hear this daemon.
    Heard,
    /// Never heard before, or in place of the current one.
    New,
    /// Superseded, or too many new ones.
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    me: Mid,
    peers: Vec<Peer>,
    segments: Vec<u16>,
    dead: Duration,
    fresh: Duration,
    presence: Duration,
    probe_max: Duration,
    packet_len: usize,
}

/// What all pairs of a ring's members can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) multicast: bool,
    pub(crate) packet_len: usize,
}

impl Hearing {
    pub(crate) fn new(cfg: &RingConfig, me: Mid) -> Self {
        Self {
            me,
            peers: vec![Peer::default(); cfg.nodes.len()],
            segments: cfg.nodes.clone(),
            dead: cfg.timers.dead,
            fresh: cfg.timers.fresh(),
            presence: cfg.timers.presence,
            probe_max: cfg.timers.probe_max.max(Duration::from_secs(1)),
            packet_len: cfg.packet_len_max,
        }
    }

    /// Uses the time limits of `cfg` from now on.
    pub(crate) fn set_timers(&mut self, cfg: &RingConfig) {
        self.dead = cfg.timers.dead;
        self.fresh = cfg.timers.fresh();
        self.presence = cfg.timers.presence;
        self.probe_max = cfg.timers.probe_max.max(Duration::from_secs(1));
    }

    /// The nodes get other numbers: `numbers` has the new ones by old number, none for nodes that are not
    /// configured any more. What is known of a node goes with it.
    pub(crate) fn renumber(&mut self, cfg: &RingConfig, me: Mid, numbers: &[Option<NodeId>]) {
        let mut new = Self::new(cfg, me);
        let old = std::mem::take(&mut self.peers);
        let moves = || numbers.iter().enumerate().filter_map(|(from, to)| Some((from, (*to)?.index())));
        for (mut peer, to) in old.into_iter().zip(numbers).filter_map(|(peer, to)| Some((peer, (*to)?))) {
            if let Some(report) = &mut peer.report {
                let mut hear = vec![(0, 0, 0); new.peers.len()];
                for (from, to) in moves() {
                    if let (Some(slot), Some(heard)) = (hear.get_mut(to), report.hear.get(from)) {
                        *slot = *heard;
                    }
                }
                report.hear = hear;
            }
            // Pieces of packets of the former configuration fit to nothing that comes.
            peer.fragments = Reassembly::default();
            if let Some(slot) = new.peers.get_mut(to.index()) {
                *slot = peer;
            }
        }
        *self = new;
    }

    fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(node.index())
    }

    /// The process of this node that is heard, or was last.
    pub(crate) fn current(&self, node: NodeId) -> Option<Mid> {
        if node == self.me.node {
            return Some(self.me);
        }
        let session = self.peer(node)?.session;
        (session != 0).then_some(Mid { node, session })
    }

    /// What `mid` is worth before its packet is looked at.
    pub(crate) fn standing(&self, now: Nanos, mid: Mid) -> Standing {
        let Some(peer) = self.peer(mid.node) else { return Standing::Refused };
        if peer.session == mid.session {
            return if peer.usable { Standing::Usable } else { Standing::Heard };
        }
        let alive = now.since(peer.heard_at) <= self.dead;
        if alive && peer.superseded.contains(&mid.session) { Standing::Refused } else { Standing::New }
    }

    /// Takes a new session in, unless there are too many or a living one is there. `lists_me`: the packet
    /// says that it hears this daemon's session. Returns the process that is replaced.
    pub(crate) fn take_in(&mut self, now: Nanos, mid: Mid, lists_me: bool) -> Result<Option<Mid>, ()> {
        let peer = self.peers.get_mut(mid.node.index()).ok_or(())?;
        let again = peer.superseded.contains(&mid.session);
        if (peer.usable || again) && !lists_me {
            return Err(());
        }
        let (since, count) = &mut peer.new_sessions;
        if now.since(*since) >= Duration::from_secs(1) || *count == 0 {
            (*since, *count) = (now, 0);
        }
        if *count >= NEW_SESSIONS_MAX {
            return Err(());
        }
        *count += 1;
        peer.superseded.retain(|session| *session != mid.session);
        let old = (peer.session != 0).then_some(Mid { node: mid.node, session: peer.session });
        if peer.usable {
            if peer.superseded.len() >= SUPERSEDED_MAX {
                peer.superseded.pop_front();
            }
            peer.superseded.push_back(peer.session);
        }
        *peer = Peer {
            session: mid.session,
            since: now,
            heard_at: now,
            superseded: std::mem::take(&mut peer.superseded),
            new_sessions: peer.new_sessions,
            penalty: peer.penalty,
            shy: peer.shy,
            ..Peer::default()
        };
        Ok(old)
    }

    /// A packet of the current session came.
    pub(crate) fn note_packet(&mut self, now: Nanos, node: NodeId, path: Path, kind: Kind, len: usize) {
        let period = self.presence * MTU_PRESENCES;
        let Some(peer) = self.peers.get_mut(node.index()) else { return };
        peer.heard_at = now;
        peer.probe = Probe::default();
        match path {
            Path::Multicast => peer.multicast.note(now, len, period),
            Path::Unicast => {
                peer.unicast.note(now, len, period);
                if matches!(kind, Kind::Token | Kind::Commit | Kind::HopAck | Kind::Presence) {
                    peer.token_at = Some(now);
                }
            }
        }
    }

    /// A join of the current session says what its sender is able to.
    pub(crate) fn note_features(&mut self, mid: Mid, features: u32) {
        if let Some(peer) = self.peers.get_mut(mid.node.index()).filter(|peer| peer.session == mid.session) {
            peer.features = features;
        }
    }

    /// The abilities of a process, as far as known.
    pub(crate) fn features(&self, mid: Mid) -> u32 {
        self.peer(mid.node).filter(|peer| peer.session == mid.session).map_or(0, |peer| peer.features)
    }

    /// Keeps a hear list. Returns whether the peer became usable by it.
    pub(crate) fn note_report(&mut self, now: Nanos, node: NodeId, hear: &[Heard]) -> bool {
        let (me, len) = (self.me, self.peers.len());
        let Some(peer) = self.peers.get_mut(node.index()) else { return false };
        let report = peer.report.get_or_insert_with(|| Report { at: now, hear: Vec::new() });
        report.at = now;
        report.hear.clear();
        report.hear.resize(len, (0, 0, 0));
        for heard in hear {
            if let Some(slot) = report.hear.get_mut(heard.mid.node.index()) {
                *slot = (heard.mid.session, heard.mtu, heard.paths);
            }
        }
        let became = !peer.usable && report.hears(me);
        peer.usable |= became;
        became
    }

    /// Whether this join is the newest of its sender; remembers it. After T_dead without one, any counts: a
    /// wrong number must not silence a peer for ever.
    pub(crate) fn is_newest_join(&mut self, now: Nanos, node: NodeId, join_no: u32) -> bool {
        let dead = self.dead;
        let Some(peer) = self.peers.get_mut(node.index()) else { return false };
        // Numbers are compared around the wrap.
        let newer = |last: u32| join_no.wrapping_sub(last).wrapping_sub(1) < u32::MAX / 2;
        let counts = peer.join.is_none_or(|(last, at)| newer(last) || now.since(at) > dead);
        if counts {
            peer.join = Some((join_no, now));
        }
        counts
    }

    pub(crate) fn fragments(&mut self, node: NodeId) -> Option<&mut Reassembly> {
        self.peers.get_mut(node.index()).map(|peer| &mut peer.fragments)
    }

    /// Whether the process was heard within T_dead.
    pub(crate) fn is_heard(&self, now: Nanos, mid: Mid) -> bool {
        mid == self.me
            || self
                .peer(mid.node)
                .is_some_and(|p| p.session == mid.session && now.since(p.heard_at) <= self.dead)
    }

    /// When the process was heard last, if ever.
    pub(crate) fn heard_at(&self, mid: Mid) -> Option<Nanos> {
        self.peer(mid.node).filter(|p| p.session == mid.session).map(|p| p.heard_at)
    }

    /// Whether the process's hear list contains this daemon's session, heard recently by itself.
    pub(crate) fn is_usable(&self, mid: Mid) -> bool {
        self.peer(mid.node).is_some_and(|p| p.session == mid.session && p.usable)
    }

    /// The hear list to send.
    pub(crate) fn list(&self, now: Nanos) -> Vec<Heard> {
        let paths_open = self.presence * PATH_PRESENCES;
        let unjudged = self.presence * MTU_PRESENCES;
        let mut list = Vec::new();
        for (node, peer) in (0u16..).zip(&self.peers) {
            let mid = Mid { node: NodeId(node), session: peer.session };
            if peer.session == 0 || mid == self.me || now.since(peer.heard_at) > self.dead {
                continue;
            }
            let multicast = peer.multicast.is_open(now, paths_open);
            let unicast = peer.unicast.is_open(now, paths_open);
            // A packet goes by any way that is open.
            let mtu = match (now.since(peer.since) > unjudged, multicast, unicast) {
                (false, ..) => u16::MAX,
                (_, true, true) => peer.multicast.longest().min(peer.unicast.longest()),
                (_, true, false) => peer.multicast.longest(),
                (_, false, _) => peer.unicast.longest(),
            };
            let multicast = if multicast { PATH_MULTICAST } else { 0 };
            let token = peer.token_at.is_some_and(|at| now.since(at) <= paths_open);
            let unicast = if token { PATH_UNICAST } else { 0 };
            list.push(Heard { mid, mtu, paths: multicast | unicast });
        }
        list
    }

    /// Nodes heard within T_dead.
    pub(crate) fn heard_nodes(&self, now: Nanos) -> NodeSet {
        let heard = |(_, peer): &(u16, &Peer)| peer.session != 0 && now.since(peer.heard_at) <= self.dead;
        (0u16..).zip(&self.peers).filter(heard).map(|(node, _)| NodeId(node)).collect()
    }

    /// Nodes to which a presence goes now: those that are heard, and silent ones now and then, at first
    /// every second, later up to `probe_max`. With `by_multicast`, all of this segment: it costs nothing.
    pub(crate) fn presence_targets(&mut self, now: Nanos, by_multicast: bool) -> NodeSet {
        let mut to = self.heard_nodes(now);
        let mine = self.segments.get(self.me.node.index()).copied();
        for (node, peer) in (0u16..).zip(&mut self.peers) {
            let id = NodeId(node);
            if to.contains(id) {
                continue;
            }
            if by_multicast && self.segments.get(id.index()).copied() == mine {
                to.insert(id);
            } else if now >= peer.probe.at {
                peer.probe.wait = (peer.probe.wait * 2).clamp(Duration::from_secs(1), self.probe_max);
                peer.probe.at = now + peer.probe.wait;
                to.insert(id);
            }
        }
        to.remove(self.me.node);
        to
    }

    fn fresh_report(&self, now: Nanos, mid: Mid) -> Option<&Report> {
        let peer = self.peer(mid.node).filter(|p| p.session == mid.session)?;
        peer.report.as_ref().filter(|report| now.since(report.at) <= self.fresh)
    }

    /// See [`Ring::deaf_links`](crate::Ring::deaf_links). Who is not heard here cannot be asked; if it is heard
    /// by another one, that it does not reach this daemon is a broken link too.
    pub(crate) fn deaf_links(&self, now: Nanos) -> Vec<(NodeId, NodeId)> {
        let heard = self.heard_nodes(now);
        let fresh: Vec<(Mid, &Report)> = heard
            .iter()
            .filter_map(|node| self.current(node))
            .filter_map(|mid| self.fresh_report(now, mid).map(|report| (mid, report)))
            .collect();
        let mut deaf = Vec::new();
        for (mid, report) in &fresh {
            let others = fresh.iter().map(|(other, _)| *other).chain([self.me]);
            for other in others.filter(|other| other.node != mid.node && !report.hears(*other)) {
                deaf.push((mid.node, other.node));
            }
            for (node, (session, ..)) in (0u16..).map(NodeId).zip(&report.hear) {
                if *session != 0 && node != self.me.node && !heard.contains(node) {
                    deaf.push((self.me.node, node));
                }
            }
        }
        deaf.sort_unstable();
        deaf.dedup();
        deaf
    }

    /// Whether a presence or join of the process came within 2.5 T_pres.
    pub(crate) fn is_fresh(&self, now: Nanos, mid: Mid) -> bool {
        mid == self.me || self.fresh_report(now, mid).is_some()
    }

    /// Whether `a` hears `b`, by fresh evidence.
    fn hears(&self, now: Nanos, a: Mid, b: Mid) -> bool {
        if a == self.me {
            return self.is_heard(now, b);
        }
        self.fresh_report(now, a).is_some_and(|report| report.hears(b))
    }

    /// Whether both hear each other, by fresh evidence of both.
    pub(crate) fn connected(&self, now: Nanos, a: Mid, b: Mid) -> bool {
        a == b || (self.hears(now, a, b) && self.hears(now, b, a))
    }

    /// Whether something of `a` came lately to `b` by the way of the token: by unicast, to its port.
    fn unicast_passes(&self, now: Nanos, a: Mid, b: Mid) -> bool {
        if b == self.me {
            let open = self.presence * PATH_PRESENCES;
            let came = |p: &Peer| p.token_at.is_some_and(|at| now.since(at) <= open);
            return self.peer(a.node).is_some_and(|p| p.session == a.session && came(p));
        }
        let link = self.fresh_report(now, b).and_then(|report| report.link(a));
        link.is_some_and(|(_, paths)| paths & PATH_UNICAST != 0)
    }

    /// Whether all of `ours` and all of `theirs` are connected, also by unicast, and nobody of them is in
    /// penalty.
    pub(crate) fn can_merge(&self, now: Nanos, ours: &[Mid], theirs: &[Mid]) -> bool {
        !theirs.is_empty()
            && theirs.iter().all(|q| !self.in_penalty(now, q.node))
            && theirs.iter().all(|q| {
                ours.iter().all(|p| {
                    self.connected(now, *p, *q)
                        && self.unicast_passes(now, *p, *q)
                        && self.unicast_passes(now, *q, *p)
                })
            })
    }

    /// Whether the process was replaced by a later one of its node.
    pub(crate) fn is_superseded(&self, mid: Mid) -> bool {
        self.peer(mid.node).is_some_and(|p| p.session != mid.session && p.superseded.contains(&mid.session))
    }

    /// The process said that it leaves: it is not heard any more.
    pub(crate) fn forget(&mut self, mid: Mid) {
        if let Some(peer) = self.peers.get_mut(mid.node.index()).filter(|p| p.session == mid.session) {
            peer.heard_at = Nanos(0);
            peer.report = None;
        }
    }

    /// Whether two processes are known not to hear each other: both have fresh hear lists and have been
    /// heard long enough to have found each other.
    pub(crate) fn apart(&self, now: Nanos, a: Mid, b: Mid) -> bool {
        let settled = |mid: Mid| {
            let old = |p: &Peer| now.since(p.since) > self.presence * SETTLED_PRESENCES;
            mid == self.me || self.peer(mid.node).is_some_and(old)
        };
        let known = settled(a) && settled(b) && self.is_fresh(now, a) && self.is_fresh(now, b);
        known && !self.connected(now, a, b)
    }

    /// Whether a fresh hear list names another process of this one's node: it restarted, as somebody knows.
    fn is_contradicted(&self, now: Nanos, mid: Mid) -> bool {
        self.peers.iter().any(|peer| {
            let fresh = peer.report.as_ref().filter(|report| now.since(report.at) <= self.fresh);
            let heard = fresh.and_then(|report| report.hear.get(mid.node.index()));
            heard.is_some_and(|(session, ..)| *session != 0 && *session != mid.session)
        })
    }

    /// Groups of processes that all hear each other, built greedily in ring order, and out of them mine:
    /// returns the fresh ones of `set` that are outside of it. Those in `failed` are left out, and those that
    /// are known to have restarted: the living must not be divided by whether they noticed it yet.
    pub(crate) fn outside_my_group(&self, now: Nanos, set: &MidSet, failed: &MidSet) -> MidSet {
        let counts = |mid: &Mid| {
            *mid == self.me
                || (self.is_fresh(now, *mid) && !failed.contains(*mid) && !self.is_contradicted(now, *mid))
        };
        let mut groups: Vec<Vec<Mid>> = Vec::new();
        for mid in set.iter().filter(counts) {
            let fits = |group: &&mut Vec<Mid>| group.iter().all(|other| self.connected(now, *other, mid));
            match groups.iter_mut().find(fits) {
                Some(group) => group.push(mid),
                None => groups.push(vec![mid]),
            }
        }
        groups.into_iter().filter(|group| !group.contains(&self.me)).flatten().collect()
    }

    /// What all pairs of `members` can use, by what they last reported. Pairs that reported nothing count as
    /// closed to multicast and open to long packets.
    pub(crate) fn links(&self, now: Nanos, members: &[Mid]) -> Links {
        let mine = self.list(now);
        let link = |a: Mid, b: Mid| -> Option<(u16, u8)> {
            if a == self.me {
                return mine.iter().find(|h| h.mid == b).map(|h| (h.mtu, h.paths));
            }
            self.peer(a.node).filter(|p| p.session == a.session)?.report.as_ref()?.link(b)
        };
        let (mut multicast, mut len) = (true, self.packet_len);
        for a in members {
            for b in members.iter().filter(|b| *b != a) {
                match link(*a, *b) {
                    Some((mtu, paths)) => {
                        multicast &= paths & PATH_MULTICAST != 0;
                        len = len.min(mtu.into());
                    }
                    None => multicast = false,
                }
            }
        }
        Links { multicast, packet_len: len.max(PACKET_LEN_SAFE.min(self.packet_len)) }
    }

    /// Keeps a node outside for a while, longer each time.
    pub(crate) fn punish(&mut self, now: Nanos, node: NodeId, rng: &mut Rng) {
        if let Some(peer) = self.peers.get_mut(node.index()) {
            peer.penalty.begin(now, rng);
        }
    }

    pub(crate) fn in_penalty(&self, now: Nanos, node: NodeId) -> bool {
        self.peer(node).is_some_and(|p| p.penalty.is_on(now))
    }

    /// The node did not answer when I wanted to merge: I wait before I ask again. It has a reason that I cannot
    /// see; without a pause its next sign of life would take my ring apart again.
    pub(crate) fn be_shy(&mut self, now: Nanos, node: NodeId, rng: &mut Rng) {
        if let Some(peer) = self.peers.get_mut(node.index()) {
            peer.shy.begin(now, rng);
        }
    }

    pub(crate) fn is_shy(&self, now: Nanos, node: NodeId) -> bool {
        self.peer(node).is_some_and(|p| p.shy.is_on(now))
    }

    /// A ring with the node was installed.
    pub(crate) fn note_mate(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(node.index()) {
            peer.shy = Pause::default();
        }
    }

    /// Nodes that are in penalty.
    pub(crate) fn penalties(&self, now: Nanos) -> NodeSet {
        let nodes = (0u16..).zip(&self.peers).map(|(node, _)| NodeId(node));
        nodes.filter(|node| self.in_penalty(now, *node)).collect()
    }
}

#[cfg(test)]
mod tests;
