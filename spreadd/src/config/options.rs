//! The options, typed.
//!
//! Source: `spec/daemon-config.md#3`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::parser::Value;

/// `Window` of Spread 5.0.1 when the file gives none.
pub const DEFAULT_WINDOW: u16 = 160;
/// `PersonalWindow` of Spread 5.0.1 when the file gives none.
pub const DEFAULT_PERSONAL_WINDOW: u16 = 20;
/// `AcceleratedWindow` of Spread 5.0.1 when the file gives none.
pub const DEFAULT_ACCELERATED_WINDOW: u16 = 15;

/// The options of a file. `None`: not set there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// `DebugFlags`: classes of events that are logged.
    pub debug_flags: Option<EventFlags>,
    /// `EventPriority`: lowest priority that is logged.
    pub event_priority: Option<EventPriority>,
    /// `EventLogFile` as written; see [`Options::log_file`].
    pub event_log_file: Option<PathBuf>,
    /// `EventTimeStamp` and `EventPreciseTimeStamp`.
    pub time_stamp: Option<TimeStamp>,
    /// `DangerousMonitor`: the monitor may partition, kill and set flow control.
    pub dangerous_monitor: Option<bool>,
    /// `SocketPortReuse`.
    pub socket_port_reuse: Option<PortReuse>,
    /// `RuntimeDir`: working directory.
    pub runtime_dir: Option<PathBuf>,
    /// `DaemonUser`: who the daemon becomes when it is started as root.
    pub daemon_user: Option<OsString>,
    /// `DaemonGroup`: the group it gets then.
    pub daemon_group: Option<OsString>,
    /// `AllowedAuthMethods`: what clients may choose; see [`Options::allowed_auth`].
    pub allowed_auth_methods: Option<Vec<AuthMethod>>,
    /// `RequiredAuthMethods`: what is run whatever the client chose.
    pub required_auth_methods: Option<Vec<AuthMethod>>,
    /// `AccessControlPolicy`.
    pub access_control_policy: Option<Policy>,
    /// `MaxSessionMessages`: messages that may wait for a client; at least 1.
    pub max_session_messages: Option<u32>,
    /// `ActiveIPVersion`.
    pub active_ip_version: Option<super::IpVersion>,
    /// `Window`: packets of all daemons in one rotation, 1 to 32767.
    pub window: Option<u16>,
    /// `PersonalWindow`: packets of one daemon in one visit of the token, 1 to 32767.
    pub personal_window: Option<u16>,
    /// `AcceleratedRing`.
    pub accelerated_ring: Option<bool>,
    /// `AcceleratedWindow`: packets sent after the token was passed on, 0 to 32767.
    pub accelerated_window: Option<u16>,
    /// The nine timeouts. A file gives all of them or none.
    pub timeouts: Option<Timeouts>,
    /// `WideAreaNetwork`; see [`super::Config::is_wide_area`].
    pub wide_area_network: Option<bool>,
    /// `ExcludeSegAddrsFromHash`.
    pub exclude_segment_addresses: Option<bool>,
    /// `MetricsAddress`, a word of ours: where metrics are served.
    pub metrics_address: Option<std::net::SocketAddr>,
    /// `IgnoreMulticastJoinErrors`.
    pub ignore_multicast_join_errors: Option<bool>,
    /// Our own words about clients.
    pub clients: super::ClientOptions,
}

impl Options {
    /// Methods that a client may choose. Any of the two authentication options switches `NULL` off first, so
    /// the set can be empty: then nobody can connect.
    pub fn allowed_auth(&self) -> Vec<AuthMethod> {
        match (&self.allowed_auth_methods, &self.required_auth_methods) {
            (None, None) => vec![AuthMethod::Null],
            (allowed, _) => allowed.clone().unwrap_or_default(),
        }
    }

    /// `EventLogFile` with `%h` and `%H` replaced by the name of the host.
    pub fn log_file(&self, host_name: &str) -> Option<PathBuf> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut rest = self.event_log_file.as_ref()?.as_os_str().as_bytes();
        let mut out = Vec::new();
        while let Some((&byte, tail)) = rest.split_first() {
            if byte == b'%' && matches!(tail.first(), Some(b'h' | b'H')) {
                out.extend_from_slice(host_name.as_bytes());
                rest = &tail[1..];
            } else {
                out.push(byte);
                rest = tail;
            }
        }
        Some(PathBuf::from(OsString::from_vec(out)))
    }
}

/// Classes of events, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventFlags(pub u32);

impl Default for EventFlags {
    fn default() -> Self {
        Self(Self::EXIT | Self::PRINT | Self::CONFIGURATION)
    }
}

impl EventFlags {
    /// The last words of the daemon.
    pub const EXIT: u32 = 0x0000_0001;
    /// What is always printed.
    pub const PRINT: u32 = 0x0000_0010;
    /// Reading the configuration.
    pub const CONFIGURATION: u32 = 0x0000_0100;

    /// The words of `DebugFlags` with their bits.
    pub const WORDS: [(&'static str, u32); 18] = [
        ("EXIT", Self::EXIT),
        ("DATA_LINK", 0x0000_0002),
        ("MEMORY", 0x0000_0004),
        ("EVENTS", 0x0000_0008),
        ("PRINT", Self::PRINT),
        ("NETWORK", 0x0000_0020),
        ("PROTOCOL", 0x0000_0040),
        ("SESSION", 0x0000_0080),
        ("CONFIGURATION", Self::CONFIGURATION),
        ("MEMBERSHIP", 0x0000_0200),
        ("FLOW_CONTROL", 0x0000_0400),
        ("STATUS", 0x0000_0800),
        ("DEBUG", 0x0000_1000),
        ("GROUPS", 0x0000_2000),
        ("SKIPLIST", 0x0020_0000),
        ("ACM", 0x0040_0000),
        ("SECURITY", 0x0080_0000),
        ("ALL", u32::MAX),
    ];

    /// Whether a bit of `bits` is set.
    pub const fn intersects(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

/// Lowest priority that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventPriority {
    /// `pDEBUG`.
    Debug,
    /// `INFO`.
    #[default]
    Info,
    /// `WARNING`.
    Warning,
    /// `ERROR`.
    Error,
    /// `CRITICAL`.
    Critical,
    /// `FATAL`.
    Fatal,
}

impl EventPriority {
    /// The words of `EventPriority`.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("pDEBUG", Self::Debug),
        ("INFO", Self::Info),
        ("WARNING", Self::Warning),
        ("ERROR", Self::Error),
        ("CRITICAL", Self::Critical),
        ("FATAL", Self::Fatal),
    ];

    /// The word in the file.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, priority)| *priority == self).map_or("INFO", |(word, _)| word)
    }
}

/// The time stamp before each line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeStamp {
    /// `strftime` text. With `precise` it ends in `%S` or `%s`.
    pub format: String,
    /// Append `.microseconds`.
    pub precise: bool,
}

impl TimeStamp {
    /// The format of a bare `EventTimeStamp`.
    pub const DEFAULT_FORMAT: &'static str = "%m/%d/%y %H:%M:%S";
    /// Longest format, in bytes.
    pub const FORMAT_MAX: usize = 39;
}

/// `SocketPortReuse`: when listeners set `SO_REUSEADDR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PortReuse {
    /// Always.
    On,
    /// Never.
    Off,
    /// For the listeners of an interface stanza.
    #[default]
    Auto,
}

/// A method of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// Everybody passes.
    Null,
    /// By the address of the client.
    Ip,
    /// By a password of the file `spread.access_pword`.
    Pword,
}

impl AuthMethod {
    /// The words of the two options, case sensitive.
    pub const WORDS: [(&'static str, Self); 3] =
        [("NULL", Self::Null), ("IP", Self::Ip), ("PWORD", Self::Pword)];
    /// Bytes of a list that count; the rest is cut.
    pub const LIST_MAX: usize = 89;
}

/// `AccessControlPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Everything is allowed.
    #[default]
    Permit,
    /// The rules of the file `spread.access_policy`: our own.
    File,
}

/// The nine timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `TokenTimeout`: the token is lost.
    pub token: Duration,
    /// `HurryTimeout`: the token is sent again.
    pub hurry: Duration,
    /// `AliveTimeout`: interval of presence messages.
    pub alive: Duration,
    /// `JoinTimeout`: interval of join messages.
    pub join: Duration,
    /// `RepTimeout`: wait while represented by another daemon. Our ring has no such phase.
    pub rep: Duration,
    /// `SegTimeout`: length of the segment phase. Our ring has no such phase.
    pub seg: Duration,
    /// `GatherTimeout`: length of the gather phase.
    pub gather: Duration,
    /// `FormTimeout`: wait for the form token.
    pub form: Duration,
    /// `LookupTimeout`: longest interval of probes for other daemons.
    pub lookup: Duration,
}

/// Why an option that is accepted changes nothing here; `None` for those that the daemon obeys. Keep in step
/// with `docs/reference/spread.conf.md`.
pub(super) fn not_honored(word: &str, value: &Value<'_>) -> Option<&'static str> {
    Some(match (word, value) {
        ("SocketPortReuse", Value::Reuse(PortReuse::Off)) => {
            "listeners always set SO_REUSEADDR, which on this system cannot admit a second listener"
        }
        ("RepTimeout" | "SegTimeout", _) => "the ring has no such phase",
        ("IgnoreMulticastJoinErrors", Value::Bool(true)) => {
            "a multicast group that cannot be joined is fatal"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_replaces_its_marks_in_the_log_file() {
        let options = Options { event_log_file: Some("evt_%h_%H_%%h_%q.log%".into()), ..Options::default() };
        assert_eq!(options.log_file("web1"), Some("evt_web1_web1_%web1_%q.log%".into()));
        assert_eq!(Options::default().log_file("web1"), None);
    }

    #[test]
    fn any_authentication_option_switches_null_off() {
        let mut options = Options::default();
        assert_eq!(options.allowed_auth(), [AuthMethod::Null]);
        options.required_auth_methods = Some(vec![AuthMethod::Ip]);
        assert_eq!(options.allowed_auth(), []);
        options.allowed_auth_methods = Some(vec![AuthMethod::Ip]);
        assert_eq!(options.allowed_auth(), [AuthMethod::Ip]);
    }
}
