//! Sets of daemon processes.

use std::fmt;

use crate::types::{Mid, NodeSet};
use crate::wire::LIST_MAX;

/// An ordered set of [`Mid`]s, at most [`LIST_MAX`]: what a join can carry. The order is ring order, and
/// sessions of the same node are neighbors.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct MidSet(Vec<Mid>);

impl MidSet {
    pub(crate) fn one(mid: Mid) -> Self {
        Self(vec![mid])
    }

    pub(crate) fn contains(&self, mid: Mid) -> bool {
        self.0.binary_search(&mid).is_ok()
    }

    /// Adds `mid`; returns whether the set changed. Beyond [`LIST_MAX`] nothing is added.
    pub(crate) fn insert(&mut self, mid: Mid) -> bool {
        match self.0.binary_search(&mid) {
            Ok(_) => false,
            Err(_) if self.0.len() >= LIST_MAX => false,
            Err(at) => {
                self.0.insert(at, mid);
                true
            }
        }
    }

    pub(crate) fn extend(&mut self, mids: impl IntoIterator<Item = Mid>) -> bool {
        mids.into_iter().fold(false, |changed, mid| self.insert(mid) | changed)
    }

    pub(crate) fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|mid| other.contains(*mid))
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().copied().filter(|mid| !other.contains(*mid)).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Mid> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn as_slice(&self) -> &[Mid] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn first(&self) -> Option<Mid> {
        self.0.first().copied()
    }

    pub(crate) fn nodes(&self) -> NodeSet {
        self.0.iter().map(|mid| mid.node).collect()
    }
}

impl FromIterator<Mid> for MidSet {
    fn from_iter<T: IntoIterator<Item = Mid>>(mids: T) -> Self {
        let mut list: Vec<Mid> = mids.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        list.truncate(LIST_MAX);
        Self(list)
    }
}

impl fmt::Debug for MidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for MidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, mid) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "," };
            write!(f, "{gap}{}:{:04x}", mid.node.0, mid.session & 0xffff)?;
        }
        f.write_str("}")
    }
}
