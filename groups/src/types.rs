//! What goes into the group engine and what comes out of it, as values.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use spread_wire::DaemonName;

/// Largest number of configured daemons.
pub const DAEMONS_MAX: usize = 128;

/// One accepted client connection of this daemon. The session layer chooses the numbers and never uses one
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A configured daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its name: the last part of the private groups of its sessions.
    pub name: DaemonName,
    /// Its number in group identifiers: the configured `VirtualID`, or the hash of its name.
    pub id: i32,
}

/// What the engine must know before it starts.
#[derive(Clone, Debug)]
pub struct GroupsConfig {
    /// All daemons in configuration order: segment after segment. Node numbers are positions in this list.
    pub daemons: Vec<Daemon>,
    /// The node number of this daemon.
    pub me: u16,
}

impl GroupsConfig {
    /// Whether the engine can work with it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Self { daemons, me } = self;
        if daemons.is_empty() || daemons.len() > DAEMONS_MAX {
            return Err(ConfigError::DaemonCount(daemons.len()));
        }
        for (i, daemon) in daemons.iter().enumerate() {
            if daemons[..i].iter().any(|d| d.name == daemon.name) {
                return Err(ConfigError::DuplicateName(daemon.name));
            }
        }
        if usize::from(*me) >= daemons.len() {
            return Err(ConfigError::UnknownSelf { me: *me, daemons: daemons.len() });
        }
        Ok(())
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// More daemons than [`DAEMONS_MAX`], or none.
    #[error("{0} daemons are configured; 1 to {DAEMONS_MAX} are possible")]
    DaemonCount(usize),
    /// Two daemons have one name.
    #[error("daemon name {0} is used twice")]
    DuplicateName(DaemonName),
    /// `me` is not a position in the list.
    #[error("node number {me} is not below the number of daemons, {daemons}")]
    UnknownSelf {
        /// The number given.
        me: u16,
        /// The number of daemons.
        daemons: usize,
    },
}

/// Identifies a configuration of the ring, regular or transitional.
///
/// Group identifiers carry the number of daemon `rep` and the low half of `epoch`: the ring never forms two
/// configurations for which both are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfigId {
    /// Grows with every configuration this daemon takes part in.
    pub epoch: u64,
    /// Node number of the first member.
    pub rep: u16,
    /// Drawn at random for each attempt to form a configuration.
    pub nonce: u32,
}

/// Delivery service to ask of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RingService {
    /// No loss between connected daemons.
    Reliable,
    /// Ordered by sender.
    Fifo,
    /// Ordered by causality.
    Causal,
    /// One total order.
    Agreed,
    /// One total order, delivered when every member of the configuration has it.
    Safe,
}

/// A message for the ring. Its bytes are `head` followed by `body`; `body` is empty or a slice of the client's
/// own frame.
#[derive(Clone, Debug)]
pub struct Submission {
    /// As the ring is to deliver it.
    pub service: RingService,
    /// The first bytes.
    pub head: Bytes,
    /// The rest; may be empty.
    pub body: Bytes,
}

impl Submission {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Never true: a message has at least its prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message in slices, without empty ones.
    pub fn into_parts(self) -> Vec<Bytes> {
        if self.body.is_empty() { vec![self.head] } else { vec![self.head, self.body] }
    }
}

/// Sessions that a frame goes to, each once. Cloning copies no sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipients(Arc<[SessionId]>);

impl Recipients {
    /// The given sessions; the caller makes sure that none is repeated.
    pub(crate) fn new(sessions: &[SessionId]) -> Self {
        Self(Arc::from(sessions))
    }
}

impl Deref for Recipients {
    type Target = [SessionId];
    fn deref(&self) -> &[SessionId] {
        &self.0
    }
}

/// One frame of the client protocol in pieces, to be written one after the other. Cloning copies no bytes.
///
/// A data message is made of slices of the ring's message; a frame of the daemon itself is in one piece.
#[derive(Clone, Debug)]
pub struct OutFrame {
    head: Bytes,
    body: Bytes,
    more: Option<Arc<[Bytes]>>,
}

impl OutFrame {
    /// The bytes of `parts` after the first `skip`.
    pub(crate) fn from_parts(parts: &[Bytes], mut skip: usize) -> Self {
        let mut at = 0;
        while let Some(part) = parts.get(at)
            && part.len() <= skip
        {
            skip -= part.len();
            at += 1;
        }
        let head = parts.get(at).map_or_else(Bytes::new, |part| part.slice(skip..));
        let body = parts.get(at + 1).cloned().unwrap_or_default();
        let more = parts.get(at + 2..).filter(|rest| !rest.is_empty()).map(Arc::from);
        Self { head, body, more }
    }

    /// The pieces in order, without empty ones.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        [&self.head, &self.body]
            .into_iter()
            .chain(self.more.iter().flat_map(|more| more.iter()))
            .filter(|part| !part.is_empty())
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.parts().map(Bytes::len).sum()
    }

    /// Never true: a frame has at least its header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame in one piece; copies if it has several.
    pub fn to_bytes(&self) -> Bytes {
        if self.body.is_empty() && self.more.is_none() {
            return self.head.clone();
        }
        let mut all = Vec::with_capacity(self.len());
        self.parts().for_each(|part| all.extend_from_slice(part));
        all.into()
    }
}

impl From<Bytes> for OutFrame {
    fn from(head: Bytes) -> Self {
        Self { head, body: Bytes::new(), more: None }
    }
}

/// What the engine tells the session layer, in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// One frame for several sessions.
    Deliver {
        /// The receivers. Sessions for which a disconnect was already requested may be among them; the session
        /// layer skips those.
        to: Recipients,
        /// A session in `to` that does not get it: the sender of a self-discard message.
        except: Option<SessionId>,
        /// The frame.
        frame: OutFrame,
    },
    /// The disconnect of this session took effect: its name is free again. Close the socket.
    Close(SessionId),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It waits for its turn.
    Queued,
    /// It was a disconnect request: stop reading from and writing to this session, and wait for
    /// [`Output::Close`].
    Disconnecting,
}

/// Why a request is refused. The session is to be dropped ([`crate::Groups::disconnect`]); the client gets no
/// message about it.
///
/// spec: client-protocol 4.1, 10
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a session, or one that is being disconnected.
    #[error("unknown session")]
    UnknownSession,
    /// The sender field is not the private group of the session.
    #[error("sender is not the private group of the session")]
    ForeignSender,
    /// Not exactly one of the six services, join, leave, disconnect; or bits that only a daemon may set.
    #[error("type 0x{0:08x} is not legal from a client")]
    IllegalType(u32),
    /// A join or leave without a group name.
    #[error("join or leave names no group")]
    NoGroup,
    /// More than [`crate::QUEUE_MESSAGES_MAX`] requests wait: the session layer did not stop reading.
    #[error("too many requests wait for their turn")]
    QueueFull,
}

/// Why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Another session has the name, perhaps one whose disconnect did not take effect yet.
    ///
    /// spec: client-protocol 2.3 step 7
    #[error("the private name is in use")]
    NameInUse,
    /// The session number was used before.
    #[error("the session number is in use")]
    SessionInUse,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a disconnect request: ordered like AGREED.
    Requested,
    /// Without one (end of stream, illegal header, slow reader): ordered like SAFE.
    Broken,
}

/// A set of node numbers below [`DAEMONS_MAX`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nodes(pub(crate) u128);

impl Nodes {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn one(node: u16) -> Self {
        Self(1u128.checked_shl(u32::from(node)).unwrap_or(0))
    }

    pub(crate) fn of(nodes: &[u16]) -> Self {
        nodes.iter().fold(Self::EMPTY, |set, &n| Self(set.0 | Self::one(n).0))
    }

    pub(crate) fn contains(self, node: u16) -> bool {
        self.0 & Self::one(node).0 != 0
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first node in configuration order.
    pub(crate) fn first(self) -> Option<u16> {
        if self.is_empty() { None } else { u16::try_from(self.0.trailing_zeros()).ok() }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0u16..128).filter(|&n| self.contains(n))).finish()
    }
}
