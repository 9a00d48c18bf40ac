//! The agreement on a new configuration: see [`crate::reload`]. A state machine that knows neither time nor ring.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::notice::{Notice, Proposal, Step};

/// See the module.
#[derive(Debug)]
pub(crate) struct Changeover {
    me: u16,
    /// The present configuration: nobody changes over to it.
    present: [u8; 16],
    /// Members of the regular configuration; empty between a transitional one and the next regular one.
    members: Vec<u16>,
    /// What this daemon can change over to.
    wanted: Option<Proposal>,
    /// The last notice of each member.
    prepared: BTreeMap<u16, Proposal>,
    /// What all members are prepared for.
    agreed: Option<Proposal>,
    committed: BTreeSet<u16>,
    outgoing: VecDeque<Notice>,
    /// This daemon has committed itself.
    holds: bool,
}

impl Changeover {
    pub(crate) fn new(me: u16, present: [u8; 16]) -> Self {
        Self {
            me,
            present,
            members: Vec::new(),
            wanted: None,
            prepared: BTreeMap::new(),
            agreed: None,
            committed: BTreeSet::new(),
            outgoing: VecDeque::new(),
            holds: false,
        }
    }

    /// This daemon can use another configuration; with the present one, it does not want to change any more.
    pub(crate) fn want(&mut self, proposal: Proposal) {
        if self.wanted.is_none() && proposal.hash == self.present {
            return;
        }
        self.wanted = Some(proposal);
        self.announce();
    }

    fn announce(&mut self) {
        // Until there is a ring that works: its beginning asks again.
        if let Some(proposal) = self.wanted.filter(|_| !self.members.is_empty()) {
            self.outgoing.retain(|notice| notice.step == Step::Committed);
            self.outgoing.push_back(Notice { step: Step::Prepared, proposal });
        }
    }

    /// A transitional configuration: nothing counts until the next regular one.
    pub(crate) fn handle_transitional(&mut self) {
        self.members.clear();
        self.reset();
    }

    /// A regular configuration.
    pub(crate) fn handle_regular(&mut self, members: &[u16]) {
        self.reset();
        self.members = members.to_vec();
        self.announce();
    }

    fn reset(&mut self) {
        self.prepared.clear();
        self.agreed = None;
        self.committed.clear();
        self.outgoing.clear();
        self.holds = false;
    }

    /// A notice was delivered. Returns the configuration to change over to: here, at this place.
    pub(crate) fn handle_notice(&mut self, from: u16, notice: Notice) -> Option<Proposal> {
        if !self.members.contains(&from) {
            return None;
        }
        let proposal = notice.proposal;
        match (notice.step, self.agreed) {
            // From here on the present agreement is carried out; a later one begins in the ring after it.
            (Step::Prepared, Some(_)) => {}
            (Step::Prepared, None) => {
                self.prepared.insert(from, proposal);
                let open = self.wanted.is_none_or(|wanted| !wanted.keeps(self.me));
                if open && !proposal.keeps(self.me) && self.wanted != Some(proposal) {
                    // Nobody asks a daemon whether it may be removed.
                    self.wanted = Some(proposal);
                    self.announce();
                }
                let all = self.members.iter().all(|node| self.prepared.get(node) == Some(&proposal));
                if all && proposal.hash != self.present {
                    self.agreed = Some(proposal);
                    self.outgoing.push_back(Notice { step: Step::Committed, proposal });
                }
            }
            (Step::Committed, Some(agreed)) if agreed == proposal => {
                self.committed.insert(from);
                if self.members.iter().all(|node| self.committed.contains(node)) {
                    return Some(agreed);
                }
            }
            (Step::Committed, _) => {}
        }
        None
    }

    /// The next notice for the ring. `settled`: the groups of this daemon are in order, so that it can commit
    /// itself. After a commitment nothing else may be sent: see [`Changeover::holds`].
    pub(crate) fn poll_notice(&mut self, settled: bool) -> Option<Notice> {
        let notice = *self.outgoing.front()?;
        if notice.step == Step::Committed {
            if !settled {
                return None;
            }
            self.holds = true;
        }
        self.outgoing.pop_front();
        Some(notice)
    }

    /// Whether requests of clients must wait.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// Members that this daemon waits for, and whether they are prepared for something else.
    pub(crate) fn waits_for(&self) -> Vec<(u16, bool)> {
        let Some(wanted) = self.wanted.filter(|_| self.agreed.is_none()) else { return Vec::new() };
        let missing = |node: &u16| match self.prepared.get(node) {
            Some(proposal) if *proposal == wanted => None,
            other => Some((*node, other.is_some())),
        };
        self.members.iter().filter_map(missing).collect()
    }

    /// The changeover is done: this daemon has the number `me` under the configuration `present`.
    pub(crate) fn finish(&mut self, me: u16, present: [u8; 16]) {
        self.reset();
        self.members.clear();
        self.me = me;
        self.present = present;
        // Numbers are others now; who still wants another configuration says it anew.
        self.wanted = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: [u8; 16] = [1; 16];
    const NEW: Proposal = Proposal { hash: [2; 16], stay: 0b111 };

    /// Daemons whose notices are delivered in one order.
    struct Ring {
        daemons: Vec<Changeover>,
        order: Vec<(u16, Notice)>,
        /// How much of the order each has delivered.
        delivered: Vec<usize>,
        switched: Vec<Option<(usize, Proposal)>>,
    }

    impl Ring {
        fn new(count: u16) -> Self {
            let members: Vec<u16> = (0..count).collect();
            let mut daemons: Vec<_> = (0..count).map(|me| Changeover::new(me, OLD)).collect();
            daemons.iter_mut().for_each(|daemon| daemon.handle_regular(&members));
            let count = daemons.len();
            Self { daemons, order: Vec::new(), delivered: vec![0; count], switched: vec![None; count] }
        }

        fn send(&mut self, node: usize) -> bool {
            let Some(notice) = self.daemons[node].poll_notice(true) else { return false };
            self.order.push((u16::try_from(node).unwrap(), notice));
            true
        }

        fn deliver(&mut self, node: usize) -> bool {
            let at = self.delivered[node];
            let Some((from, notice)) = self.order.get(at).copied() else { return false };
            self.delivered[node] += 1;
            if self.switched[node].is_none()
                && let Some(proposal) = self.daemons[node].handle_notice(from, notice)
            {
                self.switched[node] = Some((at, proposal));
            }
            true
        }

        fn run(&mut self) {
            while (0..self.daemons.len()).any(|node| self.send(node) | self.deliver(node)) {}
        }
    }

    #[test]
    fn nothing_happens_before_all_are_prepared() {
        let mut ring = Ring::new(3);
        ring.daemons[0].want(NEW);
        ring.daemons[1].want(NEW);
        ring.run();
        assert_eq!(ring.switched, [None; 3]);
        assert!(ring.daemons.iter().all(|daemon| !daemon.holds()));
        assert_eq!(ring.daemons[0].waits_for(), [(2, false)]);
        ring.daemons[2].want(NEW);
        ring.run();
        assert_eq!(ring.switched[0].map(|(_, proposal)| proposal), Some(NEW));
        assert!(ring.switched.iter().all(|switched| *switched == ring.switched[0]));
    }

    #[test]
    fn different_configurations_wait_for_each_other() {
        let mut ring = Ring::new(2);
        let other = Proposal { hash: [3; 16], ..NEW };
        ring.daemons[0].want(NEW);
        ring.daemons[1].want(other);
        ring.run();
        assert_eq!(ring.switched, [None; 2]);
        assert_eq!(ring.daemons[0].waits_for(), [(1, true)]);
        ring.daemons[0].want(other);
        ring.run();
        assert_eq!(ring.switched[1].map(|(_, proposal)| proposal), Some(other));
    }

    #[test]
    fn a_daemon_that_is_removed_agrees_by_itself() {
        let mut ring = Ring::new(3);
        let without = Proposal { stay: 0b011, ..NEW };
        ring.daemons[0].want(without);
        ring.daemons[1].want(without);
        ring.run();
        assert!(ring.switched.iter().all(|switched| switched.is_some()), "{:?}", ring.switched);
    }

    #[test]
    fn a_change_can_be_withdrawn() {
        let mut ring = Ring::new(2);
        ring.daemons[0].want(NEW);
        ring.run();
        ring.daemons[0].want(Proposal { hash: OLD, stay: 0b11 });
        ring.run();
        ring.daemons[1].want(NEW);
        ring.run();
        assert_eq!(ring.switched, [None; 2]);
    }

    #[test]
    fn another_ring_begins_anew() {
        let mut ring = Ring::new(2);
        ring.daemons.iter_mut().for_each(|daemon| daemon.want(NEW));
        assert!(ring.send(0) && ring.send(1));
        while ring.deliver(0) {}
        assert!(ring.send(0));
        assert!(ring.daemons[0].holds());
        // Daemon 0 is cut off before daemon 1 commits itself.
        ring.daemons[0].handle_transitional();
        assert!(!ring.daemons[0].holds());
        assert_eq!(ring.daemons[0].handle_notice(1, Notice { step: Step::Committed, proposal: NEW }), None);
        ring.daemons[0].handle_regular(&[0]);
        let prepared = ring.daemons[0].poll_notice(true).unwrap();
        assert_eq!(prepared.step, Step::Prepared);
        assert_eq!(ring.daemons[0].handle_notice(0, prepared), None);
        // Not before the groups are settled.
        assert_eq!(ring.daemons[0].poll_notice(false), None);
        let committed = ring.daemons[0].poll_notice(true).unwrap();
        assert_eq!(ring.daemons[0].handle_notice(0, committed), Some(NEW));
    }

    proptest! {
        /// Whatever the daemons want and whenever: who changes over does so at the same place and to the same
        /// configuration, after which nobody who holds back sends anything.
        #[test]
        fn all_change_over_at_one_place(
            steps in prop::collection::vec((0usize..3, 0u8..6, 0u8..3), 0..120),
        ) {
            let mut ring = Ring::new(3);
            for (node, what, hash) in steps {
                match what {
                    0 if ring.switched[node].is_none() => {
                        let stay = if hash == 2 { 0b011 } else { 0b111 };
                        ring.daemons[node].want(Proposal { hash: [hash + 1; 16], stay });
                    }
                    1 | 2 => { ring.send(node); }
                    _ => { ring.deliver(node); }
                }
            }
            ring.run();
            prop_assert!(ring.switched.iter().all(|switched| *switched == ring.switched[0]), "{:?}", ring.switched);
        }
    }
}
