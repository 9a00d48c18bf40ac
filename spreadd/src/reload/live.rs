//! The part of the ring thread that carries out changes of the configuration, and what the monitor asks for.
//!
//! It stands between the ring's driver and the group engine: notices of other daemons end here, and so do events of a
//! ring that was left already.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use spread_groups::{ConfigId, Groups};
use spread_ring::{Body, ConfId, Mid, NodeId, NodeSet, Service, successor};
use spread_wire::DaemonName;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::changeover::Changeover;
use super::compare::{Plan, RingPlan};
use super::notice::{Notice, Proposal};
use crate::config::Config;
use crate::daemon::{Request, RingOptions};
use crate::hub::SlowLimits;
use crate::monitor::{Action, Facts, Monitor};
use crate::ring_driver::{Order, Reconfiguration};
use crate::session::registry::Registry;

/// Plans that may wait for agreement.
const PLANS_MAX: usize = 8;

/// Bounds of the time between the changeover of this daemon and that of its ring engine: the others must hear that
/// all have committed themselves.
const LINGER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How often the log says whom a change waits for.
const REMINDER: Duration = Duration::from_secs(60);

/// From the thread that reads configurations.
#[derive(Debug)]
pub(crate) enum Change {
    /// Another configuration is to be used.
    Plan(Box<Plan>),
}

/// The configuration in force, for the thread that reads new ones, and the number of this daemon in it. None: the
/// daemon runs without a file.
#[derive(Clone, Debug)]
pub(crate) struct Present(Arc<Mutex<Option<Own>>>);

/// A configuration, and the number of this daemon in it.
type Own = (Arc<Config>, u16);

impl Present {
    pub(crate) fn new(config: Option<Arc<Config>>, me: u16) -> Self {
        Self(Arc::new(Mutex::new(config.map(|config| (config, me)))))
    }

    pub(crate) fn get(&self) -> Option<Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, config: Arc<Config>, me: u16) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((config, me));
    }
}

/// What a [`Live`] is made of.
pub(crate) struct LiveParts {
    pub(crate) me: u16,
    /// The ring's options, if there is a ring.
    pub(crate) ring: Option<RingOptions>,
    pub(crate) monitor: Option<Monitor>,
    pub(crate) changes: Receiver<Change>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) present: Present,
    /// Who is connected.
    pub(crate) registry: Arc<Registry>,
    /// Names of the configured daemons, by node number.
    pub(crate) names: Vec<DaemonName>,
}

/// See the module.
pub(crate) struct Live {
    parts: LiveParts,
    changeover: Changeover,
    plans: VecDeque<Box<Plan>>,
    /// The regular configuration.
    conf: (ConfId, Vec<Mid>),
    transitional: bool,
    /// The groups have changed over, the ring's engine has not: when it does, and to what.
    switching: Option<(Instant, Box<Reconfiguration>)>,
    orders: VecDeque<Order>,
    /// What was changed over to last.
    applied: Option<Box<Plan>>,
    reminder: Option<Instant>,
    start: Instant,
}

/// What a changeover does to the layer above the ring.
pub(crate) struct Step<'a> {
    /// The members that go on, with their present numbers.
    pub(crate) survivors: Vec<u16>,
    pub(crate) transitional: ConfigId,
    pub(crate) regular: ConfigId,
    /// The new list of daemons; none if this daemon is not in it.
    pub(crate) plan: Option<&'a Plan>,
}

impl Live {
    pub(crate) fn new(parts: LiveParts) -> Self {
        let present = parts.ring.as_ref().map_or([0; 16], |ring| ring.ring.hash);
        Self {
            changeover: Changeover::new(parts.me, present),
            parts,
            plans: VecDeque::new(),
            conf: (ConfId::default(), Vec::new()),
            transitional: false,
            switching: None,
            orders: VecDeque::new(),
            applied: None,
            reminder: None,
            start: Instant::now(),
        }
    }

    /// Names of the configured daemons, by node number.
    pub(crate) fn names(&self) -> &[DaemonName] {
        &self.parts.names
    }

    /// Sessions that exist now.
    pub(crate) fn sessions(&self) -> usize {
        self.parts.registry.live()
    }

    /// Whether what the ring reports concerns nobody any more.
    pub(crate) fn is_switching(&self) -> bool {
        self.switching.is_some()
    }

    /// Whether requests of clients must wait.
    pub(crate) fn holds(&self) -> bool {
        self.switching.is_some() || self.changeover.holds()
    }

    /// A notice for the ring.
    pub(crate) fn poll_notice(&mut self, groups: &Groups) -> Option<(Service, Body)> {
        if self.switching.is_some() {
            return None;
        }
        let notice = self.changeover.poll_notice(groups.is_synced())?;
        Some((Service::Safe, Body::One(notice.to_bytes())))
    }

    /// A transitional configuration of the ring. False if it concerns nobody.
    pub(crate) fn handle_transitional(&mut self) -> bool {
        if let Some((when, _)) = &mut self.switching {
            // The ring breaks because others have left it.
            *when = Instant::now();
            return false;
        }
        self.transitional = true;
        self.changeover.handle_transitional();
        true
    }

    /// A regular configuration of the ring. False if it concerns nobody.
    pub(crate) fn handle_regular(&mut self, id: ConfId, members: &[Mid]) -> bool {
        if self.switching.is_some() {
            return false;
        }
        self.transitional = false;
        self.conf = (id, members.to_vec());
        let nodes: Vec<u16> = members.iter().map(|mid| mid.node.0).collect();
        self.changeover.handle_regular(&nodes);
        true
    }

    /// A notice was delivered. Returns what the groups are to do, if this is the place of a changeover.
    pub(crate) fn handle_notice(&mut self, from: u16, notice: Notice) -> Option<Step<'_>> {
        let name = self.parts.names.get(usize::from(from)).map(ToString::to_string).unwrap_or_default();
        debug!(%name, ?notice, "Another daemon speaks about a configuration.");
        let proposal = self.changeover.handle_notice(from, notice)?;
        self.switch(proposal)
    }

    fn switch(&mut self, proposal: Proposal) -> Option<Step<'_>> {
        let me = self.parts.me;
        let plan = self.plans.iter().position(|plan| plan.ring.proposal == proposal);
        let plan = plan.and_then(|at| self.plans.remove(at)).filter(|_| proposal.keeps(me));
        for dropped in self.plans.drain(..) {
            warn!(file = %dropped.config.name(), "A later change of the configuration must be asked for again.");
        }
        if plan.is_none() && proposal.keeps(me) {
            // It prepared itself for that, so it must have known it.
            error!("This daemon does not know the configuration that it agreed on; it leaves the ring.");
            self.orders.push_back(Order::Leave);
            return None;
        }
        let (numbers, options): (Vec<Option<NodeId>>, RingOptions) = match (&plan, &self.parts.ring) {
            (Some(plan), _) => (plan.ring.numbers.clone(), plan.ring.options.clone()),
            (None, Some(ring)) => {
                warn!(
                    "This daemon is not in the configuration of the others any more. It is alone from now on; \
                     its clients see nobody else."
                );
                let alone = (0..self.parts.names.len()).map(|node| u16::try_from(node).ok().map(NodeId));
                (alone.collect(), ring.clone())
            }
            (None, None) => return None,
        };
        let (id, members) = &self.conf;
        let stays = |mid: &&Mid| match &plan {
            Some(_) => proposal.keeps(mid.node.0),
            None => mid.node.0 == me,
        };
        let members: Vec<Mid> = members.iter().filter(stays).copied().collect();
        let Some(next) = successor(*id, &members, &numbers, &proposal.hash) else {
            error!("The ring cannot go on under the new configuration; this daemon leaves it.");
            self.orders.push_back(Order::Leave);
            return None;
        };
        let survivors: Vec<u16> = members.iter().map(|mid| mid.node.0).collect();
        let rep = survivors
            .iter()
            .copied()
            .find(|node| numbers.get(usize::from(*node)) == Some(&Some(next.id.rep)));
        let config_id = |epoch: u64| ConfigId { epoch, rep: rep.unwrap_or(me), nonce: next.id.nonce };
        let (transitional, regular) = (config_id(next.id.epoch - 1), config_id(next.id.epoch));
        let linger = (options.ring.timers.presence / 2).clamp(LINGER.0, LINGER.1);
        let reconfiguration = Reconfiguration {
            ring: options.ring.clone(),
            network: options.network.clone(),
            cluster: options.cluster.clone(),
            numbers,
            successor: next,
        };
        self.switching = Some((Instant::now() + linger, Box::new(reconfiguration)));
        self.reminder = None;
        let (new_me, hash) = (options.ring.me.0, options.ring.hash);
        self.changeover.finish(new_me, hash);
        self.parts.me = new_me;
        self.parts.ring = Some(options);
        if let Some(plan) = plan {
            info!(file = %plan.config.name(), daemons = plan.ring.groups.daemons.len(), "Changing over to the new configuration.");
            self.parts.names = plan.ring.groups.daemons.iter().map(|daemon| daemon.name).collect();
            if let Some(monitor) = &mut self.parts.monitor {
                monitor.reconfigure(plan.cluster.clone());
            }
            self.parts.present.set(Arc::clone(&plan.config), new_me);
            self.applied = Some(plan);
        } else {
            self.applied = None;
        }
        Some(Step { survivors, transitional, regular, plan: self.applied.as_deref() })
    }

    /// Leaves the ring: something that cannot be was found.
    pub(crate) fn leave(&mut self) {
        self.switching = None;
        self.orders.push_back(Order::Leave);
    }

    /// How long the engine still has to wait before it changes over.
    pub(crate) fn linger(&self) -> Option<Duration> {
        self.switching.as_ref().map(|(when, _)| when.saturating_duration_since(Instant::now()))
    }

    /// Takes configurations that were read. Returns the limits for slow clients, if there is a new one.
    pub(crate) fn take_changes(&mut self) -> Option<SlowLimits> {
        let mut slow = None;
        while let Ok(Change::Plan(plan)) = self.parts.changes.try_recv() {
            slow = Some(plan.slow.clone());
            self.take(plan);
        }
        slow
    }

    /// The next change that the ring's driver is to make.
    pub(crate) fn poll_order(&mut self) -> Option<Order> {
        let now = Instant::now();
        if let Some(action) = self.parts.monitor.as_mut().and_then(|monitor| monitor.poll(now)) {
            self.act(action);
        }
        self.remind(now);
        if let Some((_, change)) = self.switching.take_if(|(when, _)| *when <= now) {
            self.orders.push_back(Order::Reconfigure(change));
        }
        self.orders.pop_front()
    }

    /// A configuration that was read and found to be possible.
    fn take(&mut self, plan: Box<Plan>) {
        let RingPlan { options, proposal, same_hash, .. } = &plan.ring;
        if *same_hash {
            // Windows, time limits, and addresses that packets may come from.
            self.orders.push_back(Order::Network(Box::new(options.network.clone())));
            self.orders.push_back(Order::Windows(options.ring.windows.clone()));
            self.orders.push_back(Order::Timers(Box::new(options.ring.timers.clone())));
            self.orders.push_back(Order::Admit(NodeSet(u128::MAX)));
            if let Some(monitor) = &mut self.parts.monitor {
                monitor.reconfigure(plan.cluster.clone());
            }
            self.changeover.want(*proposal);
            self.plans.clear();
            self.parts.ring = Some(options.clone());
            self.parts.present.set(Arc::clone(&plan.config), self.parts.me);
            return;
        }
        let proposal = *proposal;
        if self.plans.len() >= PLANS_MAX {
            self.plans.pop_front();
        }
        self.plans.push_back(plan);
        self.changeover.want(proposal);
        self.reminder = Some(Instant::now() + Duration::from_secs(1));
    }

    /// Says whom a change waits for: soon, and then now and then.
    fn remind(&mut self, now: Instant) {
        if self.reminder.is_none_or(|at| now < at) {
            return;
        }
        let waits = self.changeover.waits_for();
        self.reminder = (!waits.is_empty()).then(|| now + REMINDER);
        if waits.is_empty() {
            return;
        }
        let name = |(node, other): &(u16, bool)| {
            let name = self.parts.names.get(usize::from(*node)).map(ToString::to_string).unwrap_or_default();
            if *other { format!("{name} (has read a different one)") } else { name }
        };
        let daemons: Vec<String> = waits.iter().map(name).collect();
        warn!(
            waits_for = daemons.join(", "),
            "The new configuration is not in force yet: all daemons of the ring must have read it. Reload these too."
        );
    }

    /// A datagram of the monitor protocol.
    pub(crate) fn handle_foreign(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        facts: impl FnOnce(Duration, bool, usize) -> Facts,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let (uptime, transitional) = (self.start.elapsed(), self.transitional);
        let sessions = self.sessions();
        let monitor = self.parts.monitor.as_mut()?;
        let action = monitor.handle(Instant::now(), from, datagram, || facts(uptime, transitional, sessions));
        if let Action::Reply(to, bytes) = action {
            return Some((to, bytes));
        }
        self.act(action);
        None
    }

    fn act(&mut self, action: Action) {
        let request = match action {
            Action::Nothing | Action::Reply(..) => return,
            Action::Admit(nodes) => return self.orders.push_back(Order::Admit(nodes)),
            Action::Windows(windows) => return self.orders.push_back(Order::Windows(windows)),
            Action::Reload => Request::Reload,
            Action::Stop => Request::Stop,
        };
        if self.parts.requests.try_send(request).is_err() {
            warn!(?request, "A request of a monitor is dropped: others wait already, or nobody takes them.");
        }
    }
}
