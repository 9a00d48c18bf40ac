//! What a daemon does with a packet of the monitor protocol: the checks, in their order, and what follows.
//!
//! spec: monitor-protocol 4, 6, 7, 8

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spread_ring::{Condition, NodeId, NodeSet, Windows};
use tracing::{info, warn};

use super::packet::{Command, ENTRIES, Packet};
use super::report::{Facts, status};
use super::stats::{MonitorStats, Refused};
use crate::config::Config;
use crate::session::quiet::Quiet;

/// A partition ends so long after the last packet that asked for it.
const PARTITION_MAX: Duration = Duration::from_secs(60);

/// The monitor sends each command twice: a reload within this time of another is the same.
const SAME_RELOAD: Duration = Duration::from_secs(3);

/// A configured daemon as the monitor protocol sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) addr: IpAddr,
    pub(crate) segment: u16,
}

/// What the configuration says about the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    hash: u32,
    entries: Vec<Entry>,
    me: u16,
    dangerous: bool,
    pub(crate) accelerated: bool,
    window: Option<u16>,
    personal: Option<u16>,
    accelerated_window: Option<u16>,
}

impl Cluster {
    pub(crate) fn new(config: &Config, me: u16) -> Self {
        let entry = |(daemon, segment): (&crate::config::Daemon, u16)| Entry {
            id: daemon.virtual_id,
            addr: daemon.address.ip,
            segment,
        };
        let Windows { window, personal, accelerated } = config.windows();
        Self {
            hash: config.hash(),
            entries: config.daemons().zip(config.segment_numbers()).map(entry).collect(),
            me,
            dangerous: config.options.dangerous_monitor == Some(true),
            accelerated: config.options.accelerated_ring == Some(true),
            window,
            personal,
            accelerated_window: accelerated,
        }
    }

    pub(crate) fn entry(&self, node: u16) -> Option<&Entry> {
        self.entries.get(usize::from(node))
    }

    pub(crate) fn me(&self) -> Option<&Entry> {
        self.entry(self.me)
    }

    fn by_id(&self, id: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    pub(crate) fn windows(&self) -> Windows {
        Windows { window: self.window, personal: self.personal, accelerated: self.accelerated_window }
    }
}

/// What a packet leads to.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// These bytes go to this address.
    Reply(SocketAddr, Vec<u8>),
    /// Packets of these daemons only are taken from now on.
    Admit(NodeSet),
    /// These windows are used from now on.
    Windows(Windows),
    /// The configuration is to be read again.
    Reload,
    /// The daemon is to end.
    Stop,
}

/// The daemon's end of the protocol.
#[derive(Debug)]
pub(crate) struct Monitor {
    cluster: Cluster,
    /// Whether the monitor may ask for a reload.
    may_reload: bool,
    windows: Windows,
    /// The daemons of this one's component, and until when.
    partition: Option<(NodeSet, Instant)>,
    reloaded: Option<Instant>,
    stats: Arc<MonitorStats>,
    quiet: Quiet,
}

impl Monitor {
    pub(crate) fn new(cluster: Cluster, may_reload: bool, stats: Arc<MonitorStats>) -> Self {
        let windows = cluster.windows();
        Self { cluster, may_reload, windows, partition: None, reloaded: None, stats, quiet: Quiet::default() }
    }

    /// Another configuration is in force. It ends a partition and the windows that a monitor set.
    pub(crate) fn reconfigure(&mut self, cluster: Cluster) {
        self.windows = cluster.windows();
        self.cluster = cluster;
        self.partition = None;
    }

    /// What is to be done because time has passed.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        let (_, until) = self.partition?;
        if now < until {
            return None;
        }
        self.partition = None;
        info!("The partition that a monitor asked for is over.");
        Some(Action::Admit(ALL))
    }

    /// Takes a datagram. `condition` and `facts` are asked for only if they are needed.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        facts: impl FnOnce() -> Facts,
    ) -> Action {
        match self.act(now, from, datagram, facts) {
            Ok((command, action)) => {
                self.stats.accept(command);
                action
            }
            Err(refused) => {
                self.stats.refuse(refused);
                if let Some(suppressed) = self.quiet.admit() {
                    warn!(%from, reason = refused.text(), suppressed, "A request of a monitor is dropped.");
                }
                Action::Nothing
            }
        }
    }

    fn act(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        facts: impl FnOnce() -> Facts,
    ) -> Result<(Command, Action), Refused> {
        let packet = Packet::parse(datagram).map_err(|_| Refused::Malformed)?;
        if packet.hash != self.cluster.hash {
            return Err(Refused::Hash);
        }
        let transmitter = self.cluster.by_id(packet.transmitter).ok_or(Refused::Unknown)?;
        if transmitter.addr != from.ip() {
            return Err(Refused::Source);
        }
        if matches!(packet.command, Command::Partition | Command::FlowControl) && !self.cluster.dangerous {
            return Err(Refused::Dangerous);
        }
        let action = match packet.command {
            Command::Status => {
                let target = self.cluster.by_id(packet.daemon).ok_or(Refused::Unknown)?;
                // The original replies to any configured address.
                if target.addr != from.ip() {
                    return Err(Refused::Reflected);
                }
                let mut to = from;
                to.set_port(packet.reply_port);
                Action::Reply(to, status(&facts(), &self.cluster).to_bytes())
            }
            Command::Partition => self.partition(now, from, &packet)?,
            Command::FlowControl => {
                self.cluster.by_id(packet.daemon).ok_or(Refused::Unknown)?;
                self.flow_control(from, &packet, &facts().condition)?
            }
            Command::Reload => {
                if !self.may_reload {
                    return Err(Refused::Reload);
                }
                if self.reloaded.is_some_and(|last| now.duration_since(last) < SAME_RELOAD) {
                    Action::Nothing
                } else {
                    self.reloaded = Some(now);
                    info!(%from, "A monitor asks for a reload of the configuration.");
                    Action::Reload
                }
            }
        };
        Ok((packet.command, action))
    }

    fn partition(&mut self, now: Instant, from: SocketAddr, packet: &Packet<'_>) -> Result<Action, Refused> {
        let numbers: Vec<i16> = packet.numbers().take(self.cluster.entries.len()).collect();
        if numbers.len() < self.cluster.entries.len() {
            return Err(Refused::Body);
        }
        let mine = numbers.get(usize::from(self.cluster.me)).copied().ok_or(Refused::Body)?;
        if mine == -1 {
            warn!(%from, "A monitor ends this daemon.");
            return Ok(Action::Stop);
        }
        let same = (0..).map(NodeId).zip(&numbers).filter(|(_, number)| **number == mine);
        let component: NodeSet = same.map(|(node, _)| node).collect();
        let whole = numbers.iter().all(|number| *number == mine);
        let before = self.partition.map(|(component, _)| component);
        self.partition = (!whole).then_some((component, now + PARTITION_MAX));
        let after = self.partition.map(|(component, _)| component);
        if before == after {
            // The monitor says it again.
            return Ok(Action::Nothing);
        }
        match after {
            Some(component) => warn!(%from, ?component, "A monitor partitions the daemons."),
            None => info!(%from, "A monitor ends the partition."),
        }
        Ok(Action::Admit(after.unwrap_or(ALL)))
    }

    fn flow_control(
        &mut self,
        from: SocketAddr,
        packet: &Packet<'_>,
        condition: &Condition,
    ) -> Result<Action, Refused> {
        let numbers: Vec<i16> = packet.numbers().collect();
        let (pairs, _) = numbers.as_chunks::<2>();
        let daemons = self.cluster.entries.len();
        // With as many daemons as possible the pair of the global window lies outside of what is sent.
        if pairs.len() <= daemons && daemons < ENTRIES {
            return Err(Refused::Body);
        }
        let [personal, accelerated] = *pairs.get(usize::from(self.cluster.me)).ok_or(Refused::Body)?;
        let global = pairs.get(daemons).map_or(-1, |pair| pair[0]);
        let value = |number: i16, min: i16, old: Option<u16>| match number {
            -1 => Ok(old),
            _ if number < min => Err(Refused::Value),
            _ => Ok(Some(number.unsigned_abs())),
        };
        let new = Windows {
            window: value(global, 1, self.windows.window)?,
            personal: value(personal, 1, self.windows.personal)?,
            accelerated: value(accelerated, 0, self.windows.accelerated)?,
        };
        // What the engine chooses by itself fits.
        let window = new.window.unwrap_or(condition.window);
        if new.personal.is_some_and(|personal| personal > window) {
            return Err(Refused::Value);
        }
        if (new.window, new.personal, new.accelerated)
            == (self.windows.window, self.windows.personal, self.windows.accelerated)
        {
            return Ok(Action::Nothing);
        }
        info!(
            %from, window = ?new.window, personal = ?new.personal, accelerated = ?new.accelerated,
            "A monitor sets the windows."
        );
        self.windows = new.clone();
        Ok(Action::Windows(new))
    }
}

/// No partition.
pub(crate) const ALL: NodeSet = NodeSet(u128::MAX);

#[cfg(test)]
mod tests;
