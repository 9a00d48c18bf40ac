//! A regular configuration and everything that is born and dies with it.

use std::fmt;
use std::time::Duration;

use crate::config::RingConfig;
use crate::flow::Flow;
use crate::mutation::{Rule, without};
use crate::store::Store;
use crate::types::{ConfId, Mid, NODES_MAX, Nanos, NodeId, NodeSet, Seq};
use crate::wire::{RingKey, Token};

const NOBODY: u8 = u8::MAX;

/// Positions by node number.
#[derive(Clone)]
struct Places(Box<[u8; NODES_MAX]>);

impl fmt::Debug for Places {
    /// The members say the same in less space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// How far delivery has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Every chunk of every packet up to here is delivered.
    pub(crate) seq: Seq,
    /// Chunks of packet `seq + 1` that are delivered.
    pub(crate) chunk: u8,
    /// Messages that ended in packet `seq + 1` and are delivered.
    pub(crate) index: u16,
}

/// `ring-protocol` 3.1: the state of a member in a ring.
#[derive(Clone, Debug)]
pub(crate) struct Conf {
    pub(crate) id: ConfId,
    pub(crate) key: RingKey,
    /// In ring order.
    pub(crate) members: Vec<Mid>,
    pub(crate) nodes: NodeSet,
    /// Position in `members` by node number.
    places: Places,
    /// My position.
    pub(crate) pos: usize,
    pub(crate) store: Store,
    /// Highest number seen in a packet or token.
    pub(crate) high: Seq,
    /// Every member has received every packet up to here: a fact, valid for ever in this ring.
    pub(crate) safe: Seq,
    /// Highest aru that each member itself reported, by position.
    arus: Vec<Seq>,
    /// token_seq of my last visit (or hop of the commit token); older or equal ones are duplicates.
    pub(crate) last_ts: u64,
    /// `seq` and `aru` of the token as I forwarded it at my previous visit.
    pub(crate) prev: Option<(Seq, Seq)>,
    pub(crate) cursor: Cursor,
    pub(crate) flow: Flow,
    /// The token, while it rests here.
    pub(crate) parked: Option<Box<Token>>,
    /// Who asked for the token while it was not here, and when.
    pub(crate) wanted: Option<(NodeId, Nanos)>,
    pub(crate) installed_at: Nanos,
    /// Time of my last visit.
    pub(crate) visited_at: Nanos,
    /// Whether the last visit was idle: then the token may rest somewhere before the next one.
    pub(crate) visit_idle: bool,
    /// Mean time of a rotation and mean deviation, once measured.
    pub(crate) rotation: Option<(Duration, Duration)>,
    /// I sent the token again since my last visit.
    pub(crate) resent: bool,
    /// Highest packet with a SAFE message that I hold.
    pub(crate) safe_top: Seq,
    /// Highest aru that I reported in a packet or ack.
    pub(crate) reported: Seq,
    /// When the last ack was sent.
    pub(crate) acked_at: Nanos,
    /// What all members are able to, see [`crate::features`].
    pub(crate) features: u32,
    /// Who holds the ring's aru back: value, member, visits, since when.
    pub(crate) stuck: Option<Stuck>,
}

/// `ring-protocol` 4.4, "failed to receive".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stuck {
    pub(crate) aru: Seq,
    pub(crate) who: NodeId,
    pub(crate) visits: u32,
    pub(crate) since: Nanos,
}

impl Conf {
    /// `members` are in ring order and contain `me`.
    pub(crate) fn new(cfg: &RingConfig, id: ConfId, members: Vec<Mid>, store: Store, now: Nanos) -> Self {
        let mut places = Places(Box::new([NOBODY; NODES_MAX]));
        for (at, mid) in members.iter().enumerate().take(NODES_MAX) {
            if let (Some(place), Ok(at)) = (places.0.get_mut(mid.node.index()), u8::try_from(at)) {
                *place = at;
            }
        }
        let pos = members.iter().position(|mid| mid.node == cfg.me).unwrap_or(0);
        Self {
            id,
            key: id.into(),
            nodes: members.iter().map(|mid| mid.node).collect(),
            places,
            pos,
            high: store.top(),
            safe: 0,
            arus: vec![0; members.len()],
            last_ts: 0,
            prev: None,
            cursor: Cursor::default(),
            flow: Flow::new(cfg, members.len()),
            parked: None,
            wanted: None,
            installed_at: now,
            visited_at: now,
            visit_idle: true,
            rotation: None,
            resent: false,
            safe_top: 0,
            reported: 0,
            acked_at: Nanos(0),
            features: cfg.features & crate::features::FEATURES,
            stuck: None,
            members,
            store,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn is_single(&self) -> bool {
        self.members.len() == 1
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.places.0.get(node.index()).copied().filter(|at| *at != NOBODY).map(usize::from)
    }

    /// The member on this node.
    pub(crate) fn member(&self, node: NodeId) -> Option<Mid> {
        self.members.get(self.place(node)?).copied()
    }

    pub(crate) fn contains(&self, mid: Mid) -> bool {
        self.member(mid.node) == Some(mid) || without(Rule::SessionCounts) && self.member(mid.node).is_some()
    }

    /// Where the token goes from here.
    pub(crate) fn next(&self) -> NodeId {
        let next = (self.pos + 1) % self.members.len().max(1);
        self.members.get(next).map_or(NodeId(0), |mid| mid.node)
    }

    /// Whether a request that was tried `tries` times before is mine to answer, if I hold the packet:
    /// at first whoever has it, then one member after the other, so that a member whose packets never reach
    /// the requester cannot swallow the request for ever.
    pub(crate) fn my_turn(&self, tries: u8, requester: NodeId) -> bool {
        let (n, Some(from)) = (self.members.len(), self.place(requester)) else { return false };
        if from == self.pos || n < 2 {
            return false;
        }
        match usize::from(tries).checked_sub(1) {
            None => true,
            Some(k) => (from + k % (n - 1) + 1) % n == self.pos,
        }
    }

    /// A member itself reported that it has everything up to `aru`.
    pub(crate) fn note_aru(&mut self, node: NodeId, aru: Seq) {
        if let Some(slot) = self.place(node).and_then(|at| self.arus.get_mut(at)) {
            *slot = aru.max(*slot);
        }
    }

    /// Raises the safe line to a fact that another member knows. Returns whether it can be one: if every
    /// member has a packet, then I have it.
    pub(crate) fn note_safe(&mut self, safe: Seq) -> bool {
        let aru = self.store.aru();
        self.safe = self.safe.max(safe.min(aru));
        safe <= aru
    }

    /// Vector rule (`ring-protocol` 3.4).
    pub(crate) fn raise_safe_by_vector(&mut self) {
        let mine = self.store.aru();
        let pos = self.pos;
        let arus = self.arus.iter().enumerate().map(|(at, aru)| if at == pos { mine } else { *aru });
        let fact = if without(Rule::SafeAllMembers) { arus.max() } else { arus.min() };
        self.safe = self.safe.max(fact.unwrap_or(mine).min(mine));
    }

    /// What may be given up: nothing above `safe`, for somebody may ask for it, and nothing undelivered.
    pub(crate) fn release(&mut self) {
        let keep = if without(Rule::KeepUnsafe) { self.cursor.seq } else { self.safe };
        self.store.release(keep.min(self.cursor.seq));
    }

    /// The arus by position, for the invariants.
    pub(crate) fn arus(&self) -> &[Seq] {
        &self.arus
    }
}
