//! Identifiers, sets and time of the engine.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Largest number of configured daemons. Node numbers are `0..NODES_MAX`, so a set of nodes is one `u128`.
pub const NODES_MAX: usize = 128;

/// Monotonic time in nanoseconds since an arbitrary origin of the driver. Never wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The time that passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Self> for Nanos {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Number of a configured daemon: its position in the configuration (segment after segment), from 0. Ring
/// order is the order of these numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl NodeId {
    /// As an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A set of nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NodeSet(pub u128);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// The set of one node. A number of [`NODES_MAX`] or above gives the empty set.
    pub fn one(n: NodeId) -> Self {
        Self(1u128.checked_shl(u32::from(n.0)).unwrap_or(0))
    }

    /// Whether `n` is in the set.
    pub fn contains(self, n: NodeId) -> bool {
        self.0 & Self::one(n).0 != 0
    }

    /// Adds `n`.
    pub fn insert(&mut self, n: NodeId) {
        self.0 |= Self::one(n).0;
    }

    /// Removes `n`.
    pub fn remove(&mut self, n: NodeId) {
        self.0 &= !Self::one(n).0;
    }

    /// Number of nodes in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set has no node.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All nodes in either set.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All nodes in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// All nodes of this set that are not in `other`.
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every node of this set is in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The nodes in ring order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            u16::try_from(bit).ok().map(NodeId)
        })
    }

    /// The first node in ring order: the representative of a ring with these members.
    pub fn first(self) -> Option<NodeId> {
        self.iter().next()
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<T: IntoIterator<Item = NodeId>>(nodes: T) -> Self {
        let mut set = Self::EMPTY;
        for n in nodes {
            set.insert(n);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|n| n.0)).finish()
    }
}

/// A running daemon: node and session. A restarted daemon has the same node number and another session, and
/// is another process in every respect. `session` is random and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid {
    /// The configured daemon.
    pub node: NodeId,
    /// Drawn at random when the process started.
    pub session: u64,
}

/// Identifies a configuration, regular or transitional (`ring-protocol` 4.3). Regular configurations have an
/// even `epoch`, transitional ones an odd one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfId {
    /// Grows with every configuration that a daemon takes part in.
    pub epoch: u64,
    /// The first member.
    pub rep: NodeId,
    /// Random, so that two configurations with equal epoch and representative differ.
    pub nonce: u32,
}

impl fmt::Display for ConfId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:08x}", self.epoch, self.rep, self.nonce)
    }
}

/// Number of a packet in its ring, from 1. Never wraps.
pub type Seq = u64;

/// Delivery service of a message. The first four are delivered in agreed order (`ring-protocol` 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// No loss between connected daemons.
    Reliable = 1,
    /// Ordered by sender.
    Fifo = 2,
    /// Ordered by causality.
    Causal = 3,
    /// One total order.
    Agreed = 4,
    /// One total order, delivered when every member of the configuration has it.
    Safe = 5,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_set_iterates_in_ring_order() {
        let set: NodeSet = [NodeId(127), NodeId(0), NodeId(64)].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [NodeId(0), NodeId(64), NodeId(127)]);
        assert_eq!(set.first(), Some(NodeId(0)));
        assert!(NodeSet::one(NodeId(128)).is_empty());
    }
}
