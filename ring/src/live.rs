//! Changes of an engine that runs: windows, time limits, and the configuration itself.
//!
//! A changed list of daemons is another configuration, with another hash and other node numbers. The layer above
//! agrees with all members of the ring on a place in the order of messages at which they change over, see
//! [`Ring::reconfigure`]. From there on this engine is as if a ring of those that stay had just been formed under
//! the new configuration and nothing had been sent in it yet; the membership protocol then makes a ring that works
//! of it, with whoever else is configured now. So nothing of the protocol is different for it, and a daemon
//! that misses the change is like one that is partitioned.

use std::sync::Arc;

use crate::api::Event;
use crate::assemble::Assembler;
use crate::conf::Conf;
use crate::config::{RingConfig, Timers as TimeLimits, Windows};
use crate::gather::Gather;
use crate::hearing::Links;
use crate::midset::MidSet;
use crate::ring::{ConfigError, Phase, Ring, check_nodes};
use crate::stats::{Cause, PeerStats};
use crate::store::Store;
use crate::timers::{TIMERS, Timer};
use crate::types::{ConfId, Mid, Nanos, NodeId, NodeSet};

/// How far the epoch of [`successor`] is ahead: more changes of the membership than a member that missed the
/// change can go through before it hears of it.
const EPOCHS_AHEAD: u64 = 64;

/// The ring that goes on under another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its identifier, the same on all members. See [`successor`].
    pub id: ConfId,
    /// Those that stay, in ring order, with their new numbers. Contains this daemon.
    pub members: Vec<Mid>,
}

/// The ring that those members of `of` that are still configured make under another configuration. `numbers` are
/// the new numbers by old number. `None` if nobody stays.
///
/// Equal on all members that call it with the same arguments.
pub fn successor(
    of: ConfId,
    members: &[Mid],
    numbers: &[Option<NodeId>],
    hash: &[u8; 16],
) -> Option<Successor> {
    let new = |mid: &Mid| {
        let node = (*numbers.get(mid.node.index())?)?;
        Some(Mid { node, session: mid.session })
    };
    let mut members: Vec<Mid> = members.iter().filter_map(new).collect();
    members.sort_unstable();
    let rep = members.first()?.node;
    let [a, b, c, d, ..] = *hash;
    let nonce = of.nonce ^ u32::from_le_bytes([a, b, c, d]);
    Some(Successor { id: ConfId { epoch: of.epoch.saturating_add(EPOCHS_AHEAD), rep, nonce }, members })
}

/// What an engine is doing, for status displays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// State of the membership.
    pub state: Membership,
    /// Members of the regular configuration installed last.
    pub members: NodeSet,
    /// Its identifier.
    pub id: ConfId,
    /// Rotations of the token in it.
    pub rotations: u64,
    /// Packets in one rotation, of all members.
    pub window: u16,
    /// Packets in one visit of this daemon, at most.
    pub personal: u16,
    /// Packets sent after the token was passed on; `None`: all of a visit.
    pub accelerated: Option<u16>,
    /// Every packet up to here was received by all, as this daemon knows.
    pub safe: u64,
    /// Every packet up to here was received here.
    pub aru: u64,
    /// Highest packet known.
    pub high: u64,
    /// Configured daemons that are heard now.
    pub heard: NodeSet,
}

/// State of the membership (`ring-protocol` 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The regular configuration works.
    Operational,
    /// Members of the next one are looked for.
    Gather,
    /// They agreed.
    Commit,
    /// What is missing of the old ring is exchanged.
    Recovery,
}

impl Ring {
    /// What the engine is doing.
    pub fn condition(&self) -> Condition {
        let conf = &self.conf;
        let (personal, accelerated) = conf.flow.own_windows();
        Condition {
            state: match self.phase {
                Phase::Operational => Membership::Operational,
                Phase::Gather => Membership::Gather,
                Phase::Commit => Membership::Commit,
                Phase::Recovery => Membership::Recovery,
            },
            members: conf.nodes,
            id: conf.id,
            rotations: conf.last_ts / (conf.len() as u64).max(1),
            window: if self.stats.window > 0 {
                self.stats.window
            } else {
                conf.flow.window_start(conf.len())
            },
            personal,
            accelerated,
            safe: conf.safe,
            aru: conf.store.aru(),
            high: conf.high,
            heard: self.heard(),
        }
    }

    /// Uses other windows from now on. The window of the whole ring is that of its first member.
    pub fn set_windows(&mut self, windows: Windows) {
        let mut cfg = RingConfig::clone(&self.cfg);
        cfg.windows = windows;
        self.cfg = Arc::new(cfg);
        self.conf.flow.set_windows(&self.cfg);
    }

    /// Uses other time limits from now on; what is armed already keeps its deadline.
    ///
    /// # Errors
    ///
    /// A limit is zero; nothing has changed then.
    pub fn set_timers(&mut self, timers: TimeLimits) -> Result<(), ConfigError> {
        let mut cfg = RingConfig::clone(&self.cfg);
        cfg.timers = timers;
        check_nodes(&cfg)?;
        self.cfg = Arc::new(cfg);
        self.hearing.set_timers(&self.cfg);
        Ok(())
    }

    /// Goes on under another configuration, as a member of the ring `successor`. `numbers` are the new numbers
    /// of the present nodes by old number, `None` for those that are not configured any more.
    ///
    /// The caller has delivered the same messages of the present ring as all members of `successor`, and none of
    /// this daemon is under way. Whatever is left of the present ring is dropped, events that were not taken
    /// included. The next events are those of the membership change from `successor` to the first ring that
    /// works under the new configuration.
    ///
    /// # Errors
    ///
    /// The configuration is not possible, or does not contain `successor` or this daemon as its member. Nothing has
    /// changed then.
    pub fn reconfigure(
        &mut self,
        now: Nanos,
        cfg: Arc<RingConfig>,
        numbers: &[Option<NodeId>],
        successor: Successor,
    ) -> Result<(), ConfigError> {
        check_nodes(&cfg)?;
        let nodes = cfg.nodes.len();
        let Successor { id, members } = successor;
        let me = Mid { node: cfg.me, session: self.me.session };
        if !members.contains(&me) || members.iter().any(|mid| mid.node.index() >= nodes) {
            return Err(ConfigError::Me { me: cfg.me, nodes });
        }
        self.now = self.now.max(now);
        if self.leaving.is_some() || self.gone {
            return Ok(());
        }
        self.note(|ring| format!("reconfigure of={} id={id} nodes={nodes} me={}", ring.conf.id, me.node));
        self.hearing.renumber(&cfg, me, numbers);
        let mut peers = vec![PeerStats::default(); nodes];
        for (old, number) in self.stats.peers.iter().zip(numbers) {
            if let Some(slot) = number.and_then(|number| peers.get_mut(number.index())) {
                *slot = *old;
            }
        }
        self.stats.peers = peers;
        self.me = me;
        self.cfg = cfg;
        for timer in TIMERS {
            self.timers.stop(timer);
        }
        let store = Store::new(self.cfg.limits.store_packets);
        self.conf = Conf::new(&self.cfg, id, members, store, self.now);
        self.attempt = None;
        self.gather = Gather::new(nodes, me);
        self.epoch = self.epoch.max(id.epoch);
        self.seen = self.seen.max(self.epoch);
        self.frozen = false;
        self.obligations = MidSet::default();
        self.outq.rewind();
        self.asm = Assembler::new(nodes, self.cfg.limits.message_len_max);
        self.copy = None;
        self.visit_due = false;
        self.links = Links { multicast: false, packet_len: self.cfg.packet_len_max };
        self.links_at = self.now;
        self.tx.clear();
        self.events.retain(|event| matches!(event, Event::Writable));
        self.paused = false;
        self.greet = NodeSet::EMPTY;
        // Its message will not come, or came before.
        self.sample = None;
        self.own_delivered = self.stats.submitted.saturating_sub(self.outq.len() as u64);
        self.phase = Phase::Operational;
        self.timers.set(Timer::Presence, self.now);
        self.enter_gather(Cause::Reload, &[], &MidSet::default());
        self.note_room();
        Ok(())
    }
}
