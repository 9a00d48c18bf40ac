//! What a new configuration changes: what happens at once, what must be agreed on, and what needs a restart.

use std::ops::Range;
use std::sync::Arc;

use spread_groups::GroupsConfig;
use spread_ring::NodeId;

use super::notice::Proposal;
use crate::config::{Config, ConfigErrors, ErrorClass, Options as FileOptions, Problem, Use};
use crate::daemon::{Options, RingOptions};
use crate::hub::SlowLimits;
use crate::monitor::Cluster;
use crate::ring_driver::{NetworkError, check_network};
use crate::session::TlsError;

/// Why a daemon that runs cannot take a configuration. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unchangeable {
    /// The daemon runs without a configuration file.
    #[error("this daemon was started without a configuration file")]
    NoFile,
    /// Something about this daemon itself is different.
    #[error("{0}")]
    Entry(ConfigErrors),
    /// The addresses do not fit together.
    #[error("the network configuration is not possible")]
    Network(#[from] NetworkError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Too many changes are under way.
    #[error("earlier changes of the configuration are still under way")]
    Busy,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Options that are in force now, or with the new ring: name and new value.
    pub changed: Vec<(&'static str, String)>,
    /// Options that are different in the file and need a restart.
    pub restart: Vec<&'static str>,
    /// Daemons that join the configuration.
    pub joining: Vec<String>,
    /// Daemons that are no longer in the configuration.
    pub leaving: Vec<String>,
    /// Whether the daemons have to agree on the change: the hash of the configuration is another one.
    pub agreement: bool,
}

/// What the ring thread needs to know of a new configuration.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    pub(crate) cluster: Cluster,
    pub(crate) slow: SlowLimits,
    pub(crate) ring: RingPlan,
}

/// The ring's part.
#[derive(Debug)]
pub(crate) struct RingPlan {
    pub(crate) options: RingOptions,
    pub(crate) groups: GroupsConfig,
    /// New numbers by old number.
    pub(crate) numbers: Vec<Option<NodeId>>,
    pub(crate) proposal: Proposal,
    /// Whether there is nothing to agree on.
    pub(crate) same_hash: bool,
}

/// Compares a configuration with the present one, which the daemon `me` of it works with.
pub(crate) fn compare(present: &Config, me: u16, new: &Options) -> Result<(Plan, Reloaded), Unchangeable> {
    let (Some(config), Some(ring)) = (&new.config, &new.ring) else { return Err(Unchangeable::NoFile) };
    own_entry(present, me, config, new.me).map_err(Unchangeable::Entry)?;
    check_network(&ring.network, ring.ring.me)?;
    let numbers = numbers(present, config);
    let stay = numbers.iter().zip(0u32..).filter(|(number, _)| number.is_some());
    let stay = stay.fold(0u128, |set, (_, node)| set | 1u128.checked_shl(node).unwrap_or(0));
    let proposal = Proposal { hash: ring.ring.hash, stay };
    let same_hash = present.ring_hash() == proposal.hash;
    let staying = |node: usize| numbers.contains(&u16::try_from(node).ok().map(NodeId));
    let joining = config.daemons().enumerate().filter(|(node, _)| !staying(*node));
    let leaving = present.daemons().zip(&numbers).filter(|(_, number)| number.is_none());
    let mut reloaded = Reloaded {
        joining: joining.map(|(_, daemon)| daemon.name.to_string()).collect(),
        leaving: leaving.map(|(daemon, _)| daemon.name.to_string()).collect(),
        agreement: !same_hash,
        ..Reloaded::default()
    };
    options(&present.options, &config.options, &mut reloaded);
    if present.is_wide_area() != config.is_wide_area() {
        reloaded.changed.push(("WideAreaNetwork", config.is_wide_area().to_string()));
    }
    let plan = Plan {
        config: Arc::clone(config),
        cluster: Cluster::new(config, new.me),
        slow: new.slow_limits(),
        ring: RingPlan {
            options: ring.clone(),
            groups: GroupsConfig {
                daemons: new
                    .daemons
                    .iter()
                    .map(|d| spread_groups::Daemon { name: d.name, id: d.id })
                    .collect(),
                me: new.me,
            },
            numbers,
            proposal,
            same_hash,
        },
    };
    Ok((plan, reloaded))
}

/// A daemon is the same if everything is that its messages and its members' names depend on.
fn numbers(present: &Config, new: &Config) -> Vec<Option<NodeId>> {
    let key = |config: &Config| -> Vec<_> {
        let addrs = config.socket_addrs();
        config.daemons().zip(addrs).map(|(daemon, addr)| (daemon.name, addr, daemon.virtual_id)).collect()
    };
    let new = key(new);
    let number = |daemon: &_| new.iter().position(|other| other == daemon);
    let found = key(present);
    let number = |daemon: &_| number(daemon).and_then(|node| u16::try_from(node).ok()).map(NodeId);
    found.iter().map(number).collect()
}

/// What the sockets and the members' names of this daemon depend on cannot change.
fn own_entry(present: &Config, me: u16, new: &Config, new_me: u16) -> Result<(), ConfigErrors> {
    let (Some((old, old_segment, _)), Some((daemon, segment, _))) = (present.daemon(me), new.daemon(new_me))
    else {
        let message = format!("no daemon has the number {new_me}");
        return Err(ConfigErrors::one(new.source.clone(), Problem::nowhere(ErrorClass::Identity, message)));
    };
    let place = new.places.get(usize::from(new_me)).map_or(0..0, |places| places.address.clone());
    let segment_place = new.segment_place(new_me).map_or(0..0, |(_, at)| at..at + 1);
    let refuse = |span: Range<usize>, what: &str, was: String| {
        let message = format!("{what} of this daemon cannot change while it runs");
        let problem = Problem::new(ErrorClass::Consistency, span, message)
            .label(format!("it was {was}"))
            .help(format!("restart {} for this configuration", old.name));
        Err(ConfigErrors::one(new.source.clone(), problem))
    };
    if daemon.name != old.name {
        return refuse(place, "the name", old.name.to_string());
    }
    if daemon.address != old.address {
        return refuse(place, "the address", old.address.to_string());
    }
    if segment.port != old_segment.port {
        return refuse(segment_place, "the port", old_segment.port.to_string());
    }
    if daemon.virtual_id != old.virtual_id {
        return refuse(place, "the VirtualID", old.virtual_id.to_string());
    }
    if daemon.interfaces != old.interfaces {
        let listed = old.interfaces.as_ref().map(|list| {
            let letters = |uses: Use| if uses == Use::ALL { "" } else { "with letters " };
            let texts: Vec<_> = list.iter().map(|i| format!("{}{}", letters(i.uses), i.address)).collect();
            texts.join(", ")
        });
        return refuse(place, "the list of interfaces", listed.unwrap_or_else(|| "empty".to_owned()));
    }
    // With one daemon the segment's address has no socket yet.
    if segment.addresses != old_segment.addresses && old_segment.daemons.len() > 1 {
        let was: Vec<_> = old_segment.addresses.iter().map(ToString::to_string).collect();
        return refuse(segment_place, "the segment address", was.join(" "));
    }
    Ok(())
}

/// Sorts the options that are different into those that change now and those that do not.
fn options(old: &FileOptions, new: &FileOptions, out: &mut Reloaded) {
    fn shown<T: std::fmt::Debug>(value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| "default".to_owned(), |value| format!("{value:?}"))
    }
    macro_rules! live {
        ($($field:ident: $name:literal,)*) => {
            $(if old.$field != new.$field { out.changed.push(($name, shown(&new.$field))); })*
        };
    }
    macro_rules! restart {
        ($($field:ident: $name:literal,)*) => {
            $(if old.$field != new.$field { out.restart.push($name); })*
        };
    }
    live! {
        debug_flags: "DebugFlags",
        event_priority: "EventPriority",
        event_log_file: "EventLogFile",
        time_stamp: "EventTimeStamp",
        dangerous_monitor: "DangerousMonitor",
        allowed_auth_methods: "AllowedAuthMethods",
        required_auth_methods: "RequiredAuthMethods",
        access_control_policy: "AccessControlPolicy",
        max_session_messages: "MaxSessionMessages",
        window: "Window",
        personal_window: "PersonalWindow",
        accelerated_ring: "AcceleratedRing",
        accelerated_window: "AcceleratedWindow",
        timeouts: "the timeouts",
        exclude_segment_addresses: "ExcludeSegAddrsFromHash",
    }
    restart! {
        socket_port_reuse: "SocketPortReuse",
        runtime_dir: "RuntimeDir",
        daemon_user: "DaemonUser",
        daemon_group: "DaemonGroup",
        ignore_multicast_join_errors: "IgnoreMulticastJoinErrors",
    }
    let (was, now) = (&old.clients, &new.clients);
    if (was.session_bytes_max, was.slow_client, &was.slow_groups)
        != (now.session_bytes_max, now.slow_client, &now.slow_groups)
    {
        out.changed.push(("the rules for slow clients", String::new()));
    }
    if (was.tls_port, &was.tls_addresses) != (now.tls_port, &now.tls_addresses) {
        out.restart.push("TlsPort or TlsAddress");
    }
    // The files themselves are read again whether their names have changed or not.
    if (&was.tls_certificate, &was.tls_key, &was.tls_client_ca, was.tls_client_required)
        != (&now.tls_certificate, &now.tls_key, &now.tls_client_ca, now.tls_client_required)
    {
        out.changed.push(("the certificates of TLS", String::new()));
    }
    if (was.sessions_max, &was.spill_dir, was.spill_bytes_max)
        != (now.sessions_max, &now.spill_dir, now.spill_bytes_max)
    {
        out.restart.push("MaxSessions, SpillDir or SpillBytes");
    }
}
