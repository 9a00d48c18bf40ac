//! What the driver remembers for people: why and when the ring re-formed, and links that are broken.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use spread_ring::{Cause, ConfId, Mid, Nanos, NodeId, NodeSet};

use super::blackbox::Blackbox;

/// Membership changes that are remembered.
pub const CHANGES_MAX: usize = 16;

/// Lines of the black box that are kept of each.
const EVENTS: usize = 200;

/// How often the links are looked at.
const LINKS_PERIOD: Duration = Duration::from_secs(1);

/// Looks after which a link counts as broken: a daemon that starts or dies is not heard by all at once.
const LINKS_LOOKS: u8 = 3;

/// A way from one daemon to another: `(a, b)` is what `a` hears of `b`.
pub type Link = (NodeId, NodeId);

/// What the engine says about itself beside its counters.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// The regular configuration installed last.
    pub id: ConfId,
    /// Its members in ring order.
    pub members: Vec<Mid>,
    /// Whether it is in operation; otherwise the ring re-forms.
    pub operational: bool,
    /// Configured daemons that are heard now.
    pub heard: NodeSet,
    /// Daemons kept outside for a while because rings with them broke soon.
    pub penalties: NodeSet,
    /// Optional abilities that all members share: `spread_ring::FEATURE_*`.
    pub features: u32,
    /// Why the last membership change began.
    pub cause: Option<Cause>,
    /// How long it took.
    pub forming: Duration,
}

/// A regular configuration that was installed.
#[derive(Clone, Debug)]
pub struct Change {
    /// When.
    pub at: SystemTime,
    /// The configuration.
    pub id: ConfId,
    /// Its members in ring order.
    pub members: Vec<NodeId>,
    /// Why the change began; `None` for the first configuration, this daemon alone.
    pub cause: Option<Cause>,
    /// From the first sign to the installation.
    pub forming: Duration,
    /// The last events of the driver before it, one per line.
    pub events: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    changes: VecDeque<Change>,
    looked_at: Nanos,
    suspects: Vec<Suspect>,
}

/// A link that was deaf lately.
#[derive(Debug)]
struct Suspect {
    link: Link,
    /// Looks at which it was deaf, less those at which it was not; from 0 to [`LINKS_LOOKS`]. A busy machine may
    /// miss a report here and there.
    level: u8,
    /// It was at the top, and not at 0 since.
    broken: bool,
}

impl Watch {
    /// The nodes get other numbers. Those that are not configured any more are forgotten.
    pub(super) fn renumber(&mut self, numbers: &[Option<NodeId>]) {
        let new = |node: &NodeId| numbers.get(node.index()).copied().flatten();
        for change in &mut self.changes {
            change.members = change.members.iter().filter_map(new).collect();
        }
        self.suspects.clear();
    }

    /// A regular configuration was installed.
    pub(super) fn note_change(&mut self, outlook: Outlook, blackbox: &Blackbox, trace: &VecDeque<String>) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        let mut events = blackbox.last(EVENTS);
        for line in trace.iter().skip(trace.len().saturating_sub(EVENTS)) {
            events.push_str(line);
            events.push('\n');
        }
        self.changes.push_back(Change {
            at: SystemTime::now(),
            id: outlook.id,
            members: outlook.members.iter().map(|mid| mid.node).collect(),
            cause: outlook.cause,
            forming: outlook.forming,
            events,
        });
    }

    /// The last changes, oldest first.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    /// Whether the links are to be looked at now.
    pub(super) fn is_due(&mut self, now: Nanos) -> bool {
        let due = now.since(self.looked_at) >= LINKS_PERIOD;
        if due {
            self.looked_at = now;
        }
        due
    }

    /// Takes what the engine says now. Returns the links that have become broken, and those that work again.
    pub(super) fn note_links(&mut self, deaf: &[Link]) -> (Vec<Link>, Vec<Link>) {
        for link in deaf {
            if !self.suspects.iter().any(|suspect| suspect.link == *link) {
                self.suspects.push(Suspect { link: *link, level: 0, broken: false });
            }
        }
        let (mut broken, mut healed) = (Vec::new(), Vec::new());
        for suspect in &mut self.suspects {
            if deaf.contains(&suspect.link) {
                suspect.level = (suspect.level + 1).min(LINKS_LOOKS);
            } else {
                suspect.level -= 1;
            }
            if suspect.level == LINKS_LOOKS && !suspect.broken {
                suspect.broken = true;
                broken.push(suspect.link);
            } else if suspect.level == 0 && suspect.broken {
                healed.push(suspect.link);
            }
        }
        self.suspects.retain(|suspect| suspect.level > 0);
        (broken, healed)
    }

    /// Links that are broken: `(a, b)` says that `a` does not hear `b`.
    pub(super) fn broken_links(&self) -> Vec<Link> {
        self.suspects.iter().filter(|suspect| suspect.broken).map(|suspect| suspect.link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_broken_when_it_was_deaf_three_times_and_is_told_once() {
        let mut watch = Watch::default();
        let link = [(NodeId(0), NodeId(2))];
        assert_eq!(watch.note_links(&link), (vec![], vec![]));
        assert_eq!(watch.note_links(&link), (vec![], vec![]));
        assert_eq!(watch.note_links(&link), (link.to_vec(), vec![]));
        assert_eq!(watch.note_links(&link), (vec![], vec![]));
        assert_eq!(watch.broken_links(), link);
        assert_eq!(watch.note_links(&[]), (vec![], vec![]), "once is chance");
        assert_eq!(watch.note_links(&link), (vec![], vec![]), "and nothing new");
        for _ in 0..2 {
            assert_eq!(watch.note_links(&[]), (vec![], vec![]));
            assert_eq!(watch.broken_links(), link);
        }
        assert_eq!(watch.note_links(&[]), (vec![], link.to_vec()));
        assert!(watch.broken_links().is_empty() && watch.suspects.is_empty());
        assert_eq!(watch.note_links(&link), (vec![], vec![]), "counted anew");
    }

    #[test]
    fn the_last_changes_are_kept_with_what_came_before_them() {
        let mut watch = Watch::default();
        let mut blackbox = Blackbox::new();
        for epoch in 0..20 {
            blackbox.note(Nanos(epoch), super::super::blackbox::What::Leave, None, epoch, 0);
            let outlook = Outlook { id: ConfId { epoch, ..ConfId::default() }, ..Outlook::default() };
            watch.note_change(outlook, &blackbox, &VecDeque::from(["trace".to_owned()]));
        }
        let changes = watch.changes();
        assert_eq!(changes.len(), CHANGES_MAX);
        assert_eq!(changes[CHANGES_MAX - 1].id.epoch, 19);
        assert!(changes[0].events.ends_with("leave a=4 b=0\ntrace\n"), "{}", changes[0].events);
    }
}
