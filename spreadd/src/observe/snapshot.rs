//! The answer of `spreadd status` as values: what `--json` prints.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use spread_ring::NodeId;

use super::metrics::{io_counters, ring_counters};
use super::probe::Look;

/// Everything `spreadd status` shows. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Name of the daemon.
    pub name: String,
    /// Seconds since 1970 when it started.
    pub started: f64,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// Port of the clients.
    pub port: u16,
    /// Where TCP clients are served.
    pub tcp: Vec<String>,
    /// The local socket.
    pub local_socket: Option<String>,
    /// Hash of the configuration, in hex; daemons with another one are refused. None without other daemons.
    pub configuration_hash: Option<String>,
    /// Whether packets between daemons are encrypted.
    pub encrypted: bool,
    /// The ring now.
    pub ring: RingState,
    /// All configured daemons.
    pub daemons: Vec<PeerRow>,
    /// Links between daemons that do not work.
    pub broken_links: Vec<LinkRow>,
    /// The last membership changes, oldest first.
    pub changes: Vec<ChangeRow>,
    /// The clients.
    pub sessions: SessionsState,
    /// The groups of the ring.
    pub groups: GroupsState,
    /// All counters, by part and name.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The ring as this daemon sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RingState {
    /// `operational`, or `re-forming`.
    pub state: String,
    /// Identifier of the configuration.
    pub id: String,
    /// Names of the members in ring order.
    pub members: Vec<String>,
    /// Optional abilities of the ring protocol that all members share, as bits.
    pub features: u32,
    /// Place of this daemon among them, from 1.
    pub place: usize,
    /// Seconds since the configuration was installed.
    pub formed_seconds_ago: f64,
    /// Packets of all members in one rotation.
    pub window: u16,
    /// Packets sent in the ring and not received here yet.
    pub missing: u64,
    /// Packets received here and not known to be received by all (the lag of the safe line).
    pub safe_lag: u64,
    /// Packets that wait to be sent at all members.
    pub backlog: u32,
    /// Rotations of the token while there is work.
    pub rotation: RotationState,
}

/// Distribution of the token's rotation times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RotationState {
    /// Rotations.
    pub count: u64,
    /// Mean in seconds.
    pub mean_seconds: f64,
    /// Half of them were not longer (upper bound of a bucket, a power of two of a nanosecond).
    pub median_seconds: f64,
    /// The same for 99 of 100.
    pub p99_seconds: f64,
    /// The longest.
    pub max_seconds: f64,
    /// Buckets that are not empty: upper bound in seconds, and number.
    pub buckets: Vec<(f64, u64)>,
}

/// A configured daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerRow {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub address: String,
    /// `here`, `member`, `outside` (heard, not in the ring), `penalty` (kept outside for a while), `silent`.
    pub state: String,
    /// Packets of it that were lost on their way here and came as a retransmission.
    pub lost: u64,
    /// Packets sent again here because it asked for them.
    pub resent: u64,
}

/// A link that does not work: what `from` sends does not reach `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkRow {
    /// The sender.
    pub from: String,
    /// Who does not hear it.
    pub to: String,
}

/// A membership change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangeRow {
    /// Seconds since 1970 of the installation.
    pub at: f64,
    /// Seconds since then.
    pub seconds_ago: f64,
    /// Identifier of the configuration.
    pub id: String,
    /// Why it began, as in the metrics: `start`, `token_loss`, `merge`...
    pub cause: String,
    /// From the first sign to the installation, in seconds.
    pub forming_seconds: f64,
    /// The members.
    pub members: Vec<String>,
    /// Who came.
    pub joined: Vec<String>,
    /// Who went.
    pub lost: Vec<String>,
}

/// The clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionsState {
    /// Sessions now, those in authentication included.
    pub live: usize,
    /// Most at once.
    pub max: usize,
    /// Messages that may wait for one.
    pub messages_max: usize,
    /// Messages that wait for all.
    pub queued_messages: usize,
    /// Bytes of these.
    pub queued_bytes: usize,
    /// Sessions with more waiting messages than allowed.
    pub slow: usize,
    /// The sessions with the longest queues first, at most 4096.
    pub list: Vec<SessionRow>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionRow {
    /// Its private group.
    pub name: String,
    /// Where it is: an address, or `local`.
    pub address: String,
    /// Seconds since it connected.
    pub connected_seconds: f64,
    /// Whether it asked for membership messages.
    pub membership: bool,
    /// Messages that wait for it.
    pub queued_messages: usize,
    /// Bytes of these.
    pub queued_bytes: usize,
    /// Messages written to it.
    pub written_messages: u64,
    /// `ok`, `blocked` (its socket is full), `slow` (it has more waiting messages than allowed), `ending`.
    pub state: String,
}

/// The groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupsState {
    /// Groups in this component.
    pub count: usize,
    /// Pairs of session and group.
    pub memberships: usize,
    /// Whether all daemons of the ring have the same table.
    pub synced: bool,
    /// The largest groups first, at most 4096.
    pub list: Vec<GroupRow>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// Number of members.
    pub members: usize,
}

impl Snapshot {
    pub(crate) fn of(look: &Look) -> Self {
        let Look { identity, hub, ring, .. } = look;
        let name =
            |node: NodeId| hub.names.get(node.index()).map_or_else(|| node.to_string(), ToString::to_string);
        let mut counters = BTreeMap::new();
        let own = |list: Vec<(&'static str, u64)>| list.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        counters.insert("sessions".to_owned(), own(look.counters.iter().collect()));
        counters.insert("ring".to_owned(), own(ring_counters(&ring.ring)));
        counters.insert("network".to_owned(), own(io_counters(&ring.io)));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            name: identity.name.to_string(),
            started: unix(look.started),
            uptime_seconds: look.uptime.as_secs_f64(),
            port: identity.port,
            tcp: identity.tcp.iter().map(ToString::to_string).collect(),
            local_socket: identity.local.as_ref().map(|path| path.display().to_string()),
            configuration_hash: identity.hash.map(|hash| hash.iter().map(|b| format!("{b:02x}")).collect()),
            encrypted: identity.encrypted,
            ring: RingState {
                state: if ring.outlook.operational { "operational" } else { "re-forming" }.to_owned(),
                id: ring.outlook.id.to_string(),
                members: ring.outlook.members.iter().map(|mid| name(mid.node)).collect(),
                features: ring.outlook.features,
                place: 1 + ring
                    .outlook
                    .members
                    .iter()
                    .position(|mid| mid.node.0 == identity.me)
                    .unwrap_or_default(),
                formed_seconds_ago: ring.changes.last().map_or(0.0, |change| ago(change.at)),
                window: ring.ring.window,
                missing: ring.ring.seq.saturating_sub(ring.ring.my_aru),
                safe_lag: ring.ring.my_aru.saturating_sub(ring.ring.safe),
                backlog: ring.ring.backlog,
                rotation: RotationState {
                    count: ring.ring.rotation.count(),
                    mean_seconds: ring.ring.rotation.mean().as_secs_f64(),
                    median_seconds: ring.ring.rotation.percentile(50).as_secs_f64(),
                    p99_seconds: ring.ring.rotation.percentile(99).as_secs_f64(),
                    max_seconds: ring.ring.rotation.max().as_secs_f64(),
                    buckets: ring
                        .ring
                        .rotation
                        .buckets()
                        .filter(|(_, count)| *count > 0)
                        .map(|(bound, count)| (bound.as_secs_f64(), count))
                        .collect(),
                },
            },
            daemons: peers(look),
            broken_links: ring
                .broken_links
                .iter()
                .map(|(to, from)| LinkRow { from: name(*from), to: name(*to) })
                .collect(),
            changes: changes(look, name),
            sessions: SessionsState {
                live: look.sessions_live,
                max: identity.sessions_max,
                messages_max: identity.session_messages_max,
                queued_messages: hub.queued_messages,
                queued_bytes: hub.queued_bytes,
                slow: hub.slow,
                list: sessions(look),
            },
            groups: GroupsState {
                count: hub.groups_len,
                memberships: hub.memberships_len,
                synced: hub.synced,
                list: hub
                    .groups
                    .iter()
                    .map(|(group, members)| GroupRow { name: group.to_string(), members: *members })
                    .collect(),
            },
            counters,
        }
    }
}

fn peers(look: &Look) -> Vec<PeerRow> {
    let outlook = &look.ring.outlook;
    let row = |(node, name): (u16, &spread_wire::DaemonName)| {
        let id = NodeId(node);
        let stats = look.ring.ring.peers.get(id.index()).copied().unwrap_or_default();
        let state = if node == look.identity.me {
            "here"
        } else if outlook.members.iter().any(|mid| mid.node == id) {
            "member"
        } else if outlook.penalties.contains(id) {
            "penalty"
        } else if outlook.heard.contains(id) {
            "outside"
        } else {
            "silent"
        };
        PeerRow {
            name: name.to_string(),
            address: look.identity.addresses.get(id.index()).cloned().unwrap_or_default(),
            state: state.to_owned(),
            lost: stats.lost,
            resent: stats.resent,
        }
    };
    (0u16..).zip(&look.hub.names).map(row).collect()
}

fn changes(look: &Look, name: impl Fn(NodeId) -> String) -> Vec<ChangeRow> {
    let mut before: &[NodeId] = &[];
    let mut rows = Vec::new();
    for change in &look.ring.changes {
        let new = change.members.iter().filter(|node| !before.contains(node));
        let gone = before.iter().filter(|node| !change.members.contains(node));
        rows.push(ChangeRow {
            at: unix(change.at),
            seconds_ago: ago(change.at),
            id: change.id.to_string(),
            cause: change.cause.map_or("start", spread_ring::Cause::name).to_owned(),
            forming_seconds: change.forming.as_secs_f64(),
            members: change.members.iter().map(|node| name(*node)).collect(),
            joined: new.map(|node| name(*node)).collect(),
            lost: gone.map(|node| name(*node)).collect(),
        });
        before = &change.members;
    }
    rows
}

fn sessions(look: &Look) -> Vec<SessionRow> {
    let state = |session: &crate::hub::report::SessionView| {
        if session.ending {
            "ending"
        } else if session.slow {
            "slow"
        } else if session.blocked && session.queued_messages > 0 {
            "blocked"
        } else {
            "ok"
        }
    };
    let row = |session: &crate::hub::report::SessionView| SessionRow {
        name: session.private.to_string(),
        address: session.peer.map_or_else(String::new, |peer| peer.to_string()),
        connected_seconds: session.since.elapsed().as_secs_f64(),
        membership: session.membership,
        queued_messages: session.queued_messages,
        queued_bytes: session.queued_bytes,
        written_messages: session.written_messages,
        state: state(session).to_owned(),
    };
    look.hub.sessions.iter().map(row).collect()
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn ago(time: SystemTime) -> f64 {
    time.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
}
