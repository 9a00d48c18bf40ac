//! What an engine must be told: the daemons, the limits, the timers.

use std::time::Duration;

use crate::types::NodeId;

/// Configuration of the engine. Equal on all daemons but for `me`.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// This daemon.
    pub me: NodeId,
    /// Segment index of each daemon by node number; `nodes.len()` is the number of configured daemons, 1 to
    /// 128. Ring order is the order of node numbers.
    pub nodes: Vec<u16>,
    /// Hash of the configuration text. Packets of daemons with another one are refused; the first four bytes
    /// are in every header.
    pub hash: [u8; 16],
    /// Largest packet in bytes, header included, without the trailing CRC or tag (`TRAILER_MAX` is reserved
    /// by the driver): at MTU 1500 and IPv4 1500 - 28 - 16 = 1456.
    pub packet_len_max: usize,
    /// Limits of queues and messages.
    pub limits: Limits,
    /// Windows; see `ring-protocol` 3.8.
    pub windows: Windows,
    /// Time limits; see `ring-protocol` 4.9.
    pub timers: Timers,
    /// Acks for SAFE messages (`ring-protocol` 3.4); `None`: on for rings of up to 16 members.
    pub acks: Option<bool>,
    /// The `FEATURE_*` that this daemon has; all of them but for tests of rings with other versions.
    pub features: u32,
    /// Let the token rest at the last sender of an idle ring (`ring-protocol` 3.6).
    pub park: bool,
}

impl RingConfig {
    /// A configuration with the default limits for local networks.
    pub fn new(me: NodeId, nodes: Vec<u16>, hash: [u8; 16]) -> Self {
        Self {
            me,
            nodes,
            hash,
            packet_len_max: 1456,
            limits: Limits::default(),
            windows: Windows::default(),
            timers: Timers::lan(),
            acks: None,
            features: crate::features::FEATURES,
            park: true,
        }
    }
}

/// Limits of the engine's memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest message in bytes.
    pub message_len_max: usize,
    /// Most bytes submitted and not yet sent.
    pub submit_bytes_max: usize,
    /// Most messages submitted and not yet sent.
    pub submit_count_max: usize,
    /// Packets kept for repair; a power of two.
    pub store_packets: usize,
    /// A driver that leaves events unread for so long makes the daemon leave the ring.
    pub stall_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_len_max: 16 << 20,
            submit_bytes_max: 8 << 20,
            submit_count_max: 8192,
            store_packets: 8192,
            stall_max: Duration::from_secs(2),
        }
    }
}

/// Flow control windows in packets. `None`: the engine's own rule.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// `Window`: packets of all members in one rotation.
    pub window: Option<u16>,
    /// `PersonalWindow`: packets of one member in one visit.
    pub personal: Option<u16>,
    /// `AcceleratedWindow`: packets sent after the token was passed on.
    pub accelerated: Option<u16>,
}

/// Time limits of the protocol.
#[derive(Clone, Debug)]
pub struct Timers {
    /// T_token, `TokenTimeout`.
    pub token: Duration,
    /// Smallest wait before a token is sent again.
    pub rto_min: Duration,
    /// Largest wait before a token is sent again, `HurryTimeout`.
    pub rto_max: Duration,
    /// T_pres, `AliveTimeout`. Fresh is 2.5 times this.
    pub presence: Duration,
    /// T_dead.
    pub dead: Duration,
    /// T_join, `JoinTimeout`.
    pub join: Duration,
    /// T_cons, `GatherTimeout`.
    pub consensus: Duration,
    /// T_commit, `FormTimeout`.
    pub commit: Duration,
    /// Upper bound for probes of silent daemons, `LookupTimeout`.
    pub probe_max: Duration,
    /// T_stable: a ring that dies sooner gives a penalty to the lost member.
    pub stable: Duration,
}

impl Timers {
    /// Defaults for local networks.
    pub fn lan() -> Self {
        Self {
            token: Duration::from_millis(500),
            rto_min: Duration::from_millis(1),
            rto_max: Duration::from_millis(100),
            presence: Duration::from_millis(100),
            dead: Duration::from_millis(400),
            join: Duration::from_millis(20),
            consensus: Duration::from_millis(200),
            commit: Duration::from_millis(250),
            probe_max: Duration::from_secs(30),
            stable: Duration::from_secs(10),
        }
    }

    /// Defaults for wide-area networks.
    pub fn wan() -> Self {
        Self {
            token: Duration::from_secs(5),
            rto_min: Duration::from_millis(20),
            rto_max: Duration::from_millis(1500),
            presence: Duration::from_secs(1),
            dead: Duration::from_secs(4),
            join: Duration::from_millis(250),
            consensus: Duration::from_millis(2500),
            commit: Duration::from_secs(3),
            probe_max: Duration::from_secs(30),
            stable: Duration::from_secs(10),
        }
    }

    /// How long a presence or join counts as fresh: 2.5 T_pres.
    pub fn fresh(&self) -> Duration {
        self.presence * 5 / 2
    }

    /// T_park: how long the token rests before it makes a round in an idle ring.
    pub fn park(&self) -> Duration {
        self.token / 4
    }
}
