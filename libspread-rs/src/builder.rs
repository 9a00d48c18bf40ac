//! How a connection is made: addresses, names, limits.

use std::time::Duration;

use spread_wire::{NameError, PrivateName};

use crate::address::Address;
use crate::blocking;
use crate::error::{AddressError, ConnectError};

/// One authentication method. A connection may name up to three; all must succeed.
///
/// spec: client-protocol 2.6.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Auth {
    /// No authentication. The default.
    Null,
    /// The daemon decides by the address of this host.
    Ip,
    /// User name and password, sent in clear text. The user has at most 32 bytes, the password 8; longer ones are cut.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
}

impl Auth {
    /// Gives the name of the method as the daemon lists it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Ip => "IP",
            Self::Password { .. } => "PWORD",
        }
    }
}

impl std::fmt::Debug for Auth {
    /// Shows the method, never the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            other => f.write_str(other.name()),
        }
    }
}

/// How a lost connection is made again.
///
/// The first attempt follows at once, the next after a random part of `first_delay`, which doubles up to `max_delay`.
/// Groups that were joined are joined again before anything else is sent. What the application missed is told by
/// [`Message::Reconnected`](crate::Message::Reconnected).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// Longest pause before the second attempt.
    pub first_delay: Duration,
    /// Longest pause between two attempts.
    pub max_delay: Duration,
    /// How long to try before the connection is given up for good; `None`: without end.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    /// Pauses of 100 ms to 5 s, without end.
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
            give_up_after: None,
        }
    }
}

/// Everything a connection needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) addresses: Vec<Address>,
    pub(crate) name: Option<PrivateName>,
    pub(crate) membership: bool,
    pub(crate) gap_marks: bool,
    pub(crate) priority: bool,
    pub(crate) auth: Vec<Auth>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) batch_bytes: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) reconnect: Option<Reconnect>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::TlsOptions>,
}

#[cfg(feature = "tls")]
impl Config {
    /// The TLS side of a new connection.
    pub(crate) fn tls_session(
        &self,
        host: &str,
        address: &Address,
    ) -> Result<crate::tls::Session, ConnectError> {
        let options = self.tls.clone().unwrap_or_default();
        crate::tls::Session::new(&options, host)
            .map_err(|error| ConnectError::Tls { address: address.to_string(), source: error.into() })
    }
}

/// Collects what a connection needs, then makes it.
///
/// ```no_run
/// use std::time::Duration;
/// use spread::{Builder, Reconnect};
///
/// let connection = Builder::new("4803@log.example.net")?
///     .private_name("web1")?
///     .membership(true)
///     .connect_timeout(Some(Duration::from_secs(3)))
///     .reconnect(Reconnect::default())
///     .connect_blocking()?;
/// println!("I am {}", connection.private_group());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    config: Config,
}

/// Authentication methods a connection can name at most.
const AUTH_MAX: usize = 3;

impl Builder {
    /// Starts from a connect string, see [`Address`].
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none. Nothing is resolved here.
    pub fn new(connect_string: &str) -> Result<Self, AddressError> {
        Ok(Self::from_address(connect_string.parse()?))
    }

    /// Starts from an address.
    pub fn from_address(address: Address) -> Self {
        Self {
            config: Config {
                addresses: vec![address],
                name: None,
                membership: false,
                gap_marks: false,
                priority: false,
                auth: vec![Auth::Null],
                connect_timeout: Some(Duration::from_secs(10)),
                send_timeout: None,
                batch_bytes: 64 * 1024,
                queue_bytes: 512 * 1024,
                reconnect: None,
                #[cfg(feature = "tls")]
                tls: None,
            },
        }
    }

    /// Adds a daemon to be tried when those named before cannot be reached. At each attempt the list is tried from its
    /// head.
    pub fn fallback(mut self, address: Address) -> Self {
        self.config.addresses.push(address);
        self
    }

    /// Sets the name of this session, 1 to 10 bytes, unique on its daemon. Without it the daemon invents one.
    ///
    /// # Errors
    ///
    /// [`NameError`] if it is empty, longer than 10 bytes or has a byte outside `$` to `~`.
    pub fn private_name(mut self, name: &str) -> Result<Self, NameError> {
        self.config.name = Some(PrivateName::new(name.as_bytes())?);
        Ok(self)
    }

    /// Says whether the session receives membership, transitional and self-leave messages. The default is no.
    pub fn membership(mut self, wanted: bool) -> Self {
        self.config.membership = wanted;
        self
    }

    /// Asks `spreadd` for a [`Message::Gap`](crate::Message::Gap) wherever it dropped messages because this session
    /// did not read them in time, which it only does if its configuration says so (`SlowClient`, `SlowGroup`). The
    /// default is no: then the messages are missing without a sign. Spread 5 never drops any.
    pub fn gap_marks(mut self, wanted: bool) -> Self {
        self.config.gap_marks = wanted;
        self
    }

    /// Asks for priority 1 instead of 0. Daemons store it; it has no effect on order.
    pub fn priority(mut self, high: bool) -> Self {
        self.config.priority = high;
        self
    }

    /// Sets the authentication methods, in the order in which they are run; of more than three the first three count.
    /// The default is [`Auth::Null`] alone.
    pub fn auth(mut self, methods: impl IntoIterator<Item = Auth>) -> Self {
        self.config.auth = methods.into_iter().take(AUTH_MAX).collect();
        self
    }

    /// Limits connecting and the handshake together, for each daemon address; the look-up of the host name is not
    /// counted in the blocking face. `None`: no limit. The default is 10 s.
    pub fn connect_timeout(mut self, limit: Option<Duration>) -> Self {
        self.config.connect_timeout = limit;
        self
    }

    /// Limits how long a blocking send waits for the daemon to take bytes. `None`, the default: no limit. The async
    /// face does not use it; wrap its futures in a timeout.
    pub fn send_timeout(mut self, limit: Option<Duration>) -> Self {
        self.config.send_timeout = limit;
        self
    }

    /// Sets how many queued bytes are written without being asked to. At least 1; the default is 64 KiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.config.batch_bytes = bytes.max(1);
        self
    }

    /// Sets how many bytes may be queued before a send waits (back-pressure). The default is 512 KiB; one message is
    /// always taken, so with 1 nothing is queued behind anything.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.config.queue_bytes = bytes.max(1);
        self
    }

    /// Makes the connection again when it is lost. The default is to report the loss as an error and stop.
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.config.reconnect = Some(policy);
        self
    }

    /// Says whom to trust on `tls://` addresses. The default is
    /// [`TlsOptions::default`](crate::TlsOptions::default), which looks at the environment.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, options: crate::TlsOptions) -> Self {
        self.config.tls = Some(options);
        self
    }

    #[cfg(test)]
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Connects, for use by plain threads: no runtime is needed.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: of the last address, if there are several. A first connection is not retried, whatever
    /// [`reconnect`](Self::reconnect) says.
    pub fn connect_blocking(self) -> Result<blocking::Connection, ConnectError> {
        blocking::Connection::connect(self.config)
    }

    /// Connects, on a tokio runtime with its I/O and time drivers enabled.
    ///
    /// # Errors
    ///
    /// As for [`connect_blocking`](Self::connect_blocking).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the half-made connection.
    #[cfg(feature = "tokio")]
    pub async fn connect(self) -> Result<crate::Connection, ConnectError> {
        crate::Connection::connect(self.config).await
    }
}
