//! What can go wrong, with the return codes of the C interface (spec: client-protocol 7.2).

use std::io;
use std::time::Duration;

/// The number the C interface returns for an error: negative, -1 to -20.
pub type Code = i32;

/// A connect string or path that means no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither a port, nor `port@host`, nor an absolute path, nor `tls://host:port`.
    #[error(
        "{text:?} is no daemon address: expected a port, port@host, an absolute path, or tls://host:port"
    )]
    Form {
        /// The string as given.
        text: String,
    },
    /// More than 70 bytes.
    #[error("a daemon address has at most 70 bytes, this one {found}")]
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// A path longer than 107 bytes or with a zero byte.
    #[error("{text:?} cannot be the path of a socket: longer than 107 bytes, or with a zero byte")]
    Path {
        /// The path as given.
        text: String,
    },
}

impl AddressError {
    /// Gives the code of the C interface: always -1, `ILLEGAL_SPREAD`.
    pub fn code(&self) -> Code {
        -1
    }
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host name is not known.
    #[error("host {host:?} cannot be resolved")]
    Resolve {
        /// The host as given.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// No daemon listens there, or the way to it is closed. Carries the failure of the last address tried.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address as it was tried.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The time limit passed before the daemon accepted the session.
    #[error("the daemon did not accept the session within {limit:?}")]
    TimedOut {
        /// The limit that was set.
        limit: Duration,
    },
    /// The daemon closed the connection during the handshake.
    #[error("the daemon closed the connection during the handshake")]
    Closed,
    /// The socket failed during the handshake.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// The daemon refuses the session.
    #[error("the daemon refuses the session: {reason}")]
    Rejected {
        /// What the daemon says.
        reason: Reject,
    },
    /// The daemon does not offer an authentication method this connection was told to use.
    #[error("the daemon does not offer the authentication method {method:?}, it offers {offered:?}")]
    AuthNotOffered {
        /// The method that is missing.
        method: String,
        /// The daemon's list.
        offered: String,
    },
    /// The daemon refuses the user or the password.
    #[error("the daemon refuses the credentials")]
    AuthFailed,
    /// The daemon is too old.
    #[error("the daemon has version {major}.{minor}.{patch}, at least 3.0.0 is needed")]
    Version {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
        /// Patch version.
        patch: u8,
    },
    /// The certificates or the settings of TLS are of no use, or the two sides do not trust each other.
    #[error("no TLS connection to {address}")]
    Tls {
        /// The address as it was given.
        address: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This library was built without the feature `tls`.
    #[error("{address} needs TLS, which this program was built without")]
    TlsMissing {
        /// The address as it was given.
        address: String,
    },
    /// What answers there does not speak the protocol.
    #[error("the answer is not of a Spread daemon: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
    },
}

impl ConnectError {
    /// What a failed TLS handshake comes to.
    #[cfg(feature = "tls")]
    pub(crate) fn of_handshake(address: &crate::Address, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Tls { address: address.to_string(), source: error.into() },
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }

    /// Gives the code of the C interface.
    pub fn code(&self) -> Code {
        match self {
            Self::Resolve { .. } => -1,
            Self::Connect { .. } | Self::Tls { .. } | Self::TlsMissing { .. } => -2,
            Self::TimedOut { .. } | Self::Closed | Self::Io(_) | Self::Protocol { .. } => -8,
            Self::Rejected { reason } => reason.code(),
            Self::AuthNotOffered { .. } | Self::AuthFailed => -9,
            Self::Version { .. } => -7,
        }
    }

    /// Tells whether another attempt later can succeed without a change here: the daemon is not there, does not
    /// answer, is full, or still holds the name of the session that was lost.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Closed
            | Self::Io(_)
            // Certificates are renewed.
            | Self::Tls { .. }
            | Self::Protocol { .. } => true,
            Self::Rejected { reason } => matches!(reason, Reject::Quota | Reject::NotUnique),
            Self::AuthNotOffered { .. }
            | Self::AuthFailed
            | Self::Version { .. }
            | Self::TlsMissing { .. } => false,
        }
    }
}

/// The reason a daemon gives for refusing a session (spec: client-protocol 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// It has all the sessions it can hold.
    #[error("too many sessions")]
    Quota,
    /// It wants a private name.
    #[error("a private name is needed")]
    NoName,
    /// The private name is too long or has an illegal character.
    #[error("illegal private name")]
    IllegalName,
    /// Another session of this daemon has the private name.
    #[error("the private name is in use")]
    NotUnique,
    /// This library is too old for it.
    #[error("the version of this library is refused")]
    Version,
    /// Authentication or the daemon's policy says no.
    #[error("authentication failed")]
    Auth,
    /// A code this library does not know.
    #[error("code {0}")]
    Other(i8),
}

impl Reject {
    /// Gives the code as the daemon sends it.
    pub fn code(&self) -> Code {
        match self {
            Self::Quota => -3,
            Self::NoName => -4,
            Self::IllegalName => -5,
            Self::NotUnique => -6,
            Self::Version => -7,
            Self::Auth => -9,
            Self::Other(code) => Code::from(*code),
        }
    }

    pub(crate) fn from_code(code: i8) -> Self {
        match code {
            -3 => Self::Quota,
            -4 => Self::NoName,
            -5 => Self::IllegalName,
            -6 => Self::NotUnique,
            -7 => Self::Version,
            -9 => Self::Auth,
            other => Self::Other(other),
        }
    }
}

/// Why a message was not taken.
///
/// After any of these nothing of the message at hand was queued. Messages queued before it are kept unless the error is
/// [`Closed`](Self::Closed) or [`Io`](Self::Io).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Data and names together have more than 143,152 bytes (32 bytes for each group).
    #[error("{len} bytes of data for {groups} groups are {over} bytes too many for one message")]
    TooLong {
        /// Bytes of data.
        len: usize,
        /// Number of groups.
        groups: usize,
        /// Bytes above the limit.
        over: usize,
    },
    /// More than 100 groups.
    #[error("a message goes to at most 100 groups, not {groups}")]
    TooManyGroups {
        /// Number of groups.
        groups: usize,
    },
    /// The name cannot be joined or left: it is the name of a session, not of a group.
    #[error("{name:?} is not the name of a group")]
    IllegalGroup {
        /// The name as given.
        name: String,
    },
    /// The queue is full and the daemon did not take anything within the time limit.
    #[error("the daemon did not take the message in time")]
    TimedOut,
    /// The connection is closed, by this side or by the daemon, and is not made again.
    #[error("the connection is closed")]
    Closed,
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The connection was lost and making it again failed for good.
    #[error("the connection was lost and cannot be made again")]
    Reconnect(#[source] std::sync::Arc<ConnectError>),
}

impl SendError {
    /// Gives the code of the C interface.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => -17,
            Self::TooManyGroups { .. } => -13,
            Self::IllegalGroup { .. } => -14,
            Self::TimedOut | Self::Closed | Self::Io(_) => -8,
            Self::Reconnect(error) => error.code(),
        }
    }
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The connection is closed, by this side or by the daemon, and is not made again. What arrived before was delivered.
    #[error("the connection is closed")]
    Closed,
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// What arrives is not the protocol; the stream cannot be used any further.
    #[error("the daemon sent an illegal message: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
    },
    /// The connection was lost and making it again failed for good.
    #[error("the connection was lost and cannot be made again")]
    Reconnect(#[source] std::sync::Arc<ConnectError>),
}

impl ReceiveError {
    /// Gives the code of the C interface.
    pub fn code(&self) -> Code {
        match self {
            Self::Closed | Self::Io(_) => -8,
            Self::Protocol { .. } => -13,
            Self::Reconnect(error) => error.code(),
        }
    }
}
