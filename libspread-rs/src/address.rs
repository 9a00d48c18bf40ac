//! Where a daemon listens: the connect string of Spread and its typed form.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::AddressError;

/// Port of a daemon when nothing else is said.
pub const DEFAULT_PORT: u16 = 4803;

/// Directory of the Unix sockets, unless the environment or the builder says otherwise.
pub const DEFAULT_SOCKET_DIR: &str = "/tmp";

/// Longest connect string in bytes that is accepted (spec: client-protocol 1.3).
const CONNECT_STRING_MAX: usize = 70;

/// Longest name of a host in bytes.
const HOST_MAX: usize = 253;

/// Where to find a daemon.
///
/// Parsed from the connect string that all Spread programs take (spec: client-protocol 1.3):
///
/// | string | meaning |
/// |---|---|
/// | empty | the same as `4803` |
/// | `4803` | the Unix socket `/tmp/4803` |
/// | `4803@host` | TCP; `host` is a name, an IPv4 address or an IPv6 address without brackets |
/// | `/run/spread/4803` | the Unix socket with this path (an extension: the original refuses it) |
/// | `tls://host:4843` | TCP with TLS (an extension; needs the feature `tls`); an IPv6 address stands in brackets |
///
/// The number is read as the original reads it: leading blanks, a sign and leading zeros are accepted, it is taken
/// modulo 65,536, and text after a blank behind the host is ignored.
///
/// ```
/// use spread::Address;
///
/// let local: Address = "4803".parse()?;
/// assert_eq!(local, Address::Unix("/tmp/4803".into()));
/// let remote: Address = "4803@log.example.net".parse()?;
/// assert_eq!(remote, Address::Tcp { host: "log.example.net".into(), port: 4803 });
/// assert!("log.example.net".parse::<Address>().is_err());
/// # Ok::<(), spread::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A Unix domain socket.
    Unix(PathBuf),
    /// TCP. The host is resolved at each connection attempt; every address it has is tried in order.
    Tcp {
        /// Host name or address literal.
        host: String,
        /// Port number.
        port: u16,
    },
    /// TCP with TLS around it. To connect, the library must be built with the feature `tls`.
    Tls {
        /// Host name or address literal; the certificate of the daemon must have it.
        host: String,
        /// Port number.
        port: u16,
    },
}

impl Address {
    /// Gives the address of the Unix socket of the daemon with this port, `/tmp/<port>`.
    pub fn local(port: u16) -> Self {
        Self::Unix(PathBuf::from(format!("{DEFAULT_SOCKET_DIR}/{port}")))
    }
}

impl Default for Address {
    /// Gives the address of a local daemon on the default port.
    fn default() -> Self {
        Self::local(DEFAULT_PORT)
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port } => write!(f, "{port}@{host}"),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls://{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads a connect string.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if the string has none of the forms above or more than 70 bytes (paths: more than 107).
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            // sockaddr_un has room for 108 bytes with the final zero.
            if text.len() > 107 || text.bytes().any(|b| b == 0) {
                return Err(AddressError::Path { text: text.to_owned() });
            }
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        if let Some(place) = text.strip_prefix("tls://") {
            return tls_place(place).ok_or_else(|| AddressError::Form { text: text.to_owned() });
        }
        if text.len() > CONNECT_STRING_MAX {
            return Err(AddressError::Length { found: text.len() });
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || AddressError::Form { text: text.to_owned() };
        let (port, rest) = scan_port(text).ok_or_else(bad)?;
        let rest = rest.trim_start_matches(is_blank);
        if rest.is_empty() {
            return Ok(Self::local(port));
        }
        let host = rest.strip_prefix('@').ok_or_else(bad)?;
        let host = host.split(is_blank).next().unwrap_or_default();
        if host.is_empty() || host.bytes().any(|b| b == 0) {
            return Err(bad());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

/// Reads `host:port` or `[address]:port`.
fn tls_place(place: &str) -> Option<Address> {
    let (host, port) = place.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').filter(|host| host.contains(':'))?,
        None => Some(host).filter(|host| !host.contains([':', '/', '@', ']']))?,
    };
    let good =
        (1..=HOST_MAX).contains(&host.len()) && !host.contains(|c: char| c.is_whitespace() || c == '\0');
    good.then_some(Address::Tls { host: host.to_owned(), port: port.parse().ok()? })
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Reads a number as C's scan of an unsigned short does: blanks, a sign, digits; modulo 65,536.
fn scan_port(text: &str) -> Option<(u16, &str)> {
    let text = text.trim_start_matches(is_blank);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    let mut value: Option<u64> = Some(0);
    for b in digits[..end].bytes() {
        value = value.and_then(|v| v.checked_mul(10)?.checked_add(u64::from(b - b'0')));
    }
    // On overflow the C library gives the largest number, whatever the sign.
    let value = match value {
        Some(v) if negative => v.wrapping_neg(),
        Some(v) => v,
        None => u64::MAX,
    };
    #[allow(clippy::cast_possible_truncation, reason = "modulo 65,536 is the meaning of the string")]
    Some((value as u16, &digits[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(port: u16) -> Address {
        Address::Unix(format!("/tmp/{port}").into())
    }

    fn tcp(port: u16, host: &str) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    /// spec: client-protocol 1.3, c-api-cases CN5 to CN17.
    #[test]
    fn connect_strings_mean_what_the_original_says() {
        let good = [
            ("", unix(4803)),
            ("4803", unix(4803)),
            ("  4803", unix(4803)),
            ("+4803", unix(4803)),
            ("04803", unix(4803)),
            ("70346", unix(4810)),
            ("-60726", unix(4810)),
            ("-1", unix(65535)),
            ("0", unix(0)),
            ("99999999999", unix(59_391)),
            ("99999999999999999999999", unix(65535)),
            ("4803@localhost", tcp(4803, "localhost")),
            ("4803 @localhost", tcp(4803, "localhost")),
            (" 4803@localhost extra", tcp(4803, "localhost")),
            ("4803@::1", tcp(4803, "::1")),
            ("4803@0", tcp(4803, "0")),
            ("/run/spread/4803", Address::Unix("/run/spread/4803".into())),
        ];
        for (text, want) in good {
            assert_eq!(text.parse::<Address>(), Ok(want), "{text:?}");
        }
        for text in [
            "abc",
            "@localhost",
            "4803localhost",
            "4803:localhost",
            "4803x",
            "4803@",
            "0x12e8",
            "4803@ host",
            "-",
        ] {
            assert!(matches!(text.parse::<Address>(), Err(AddressError::Form { .. })), "{text:?}");
        }
    }

    /// spec: c-api-cases CN14.
    #[test]
    fn a_string_of_71_bytes_is_refused() {
        assert!(format!("{:>70}", "4803@localhost").parse::<Address>().is_ok());
        assert!(format!("{:>71}", "4803@localhost").parse::<Address>().is_err());
        assert!(format!("/{}", "x".repeat(107)).parse::<Address>().is_err());
    }

    #[test]
    fn display_reads_back() {
        for text in ["4803@localhost", "/tmp/4803", "4803@::1", "tls://log1:4843", "tls://[::1]:4843"] {
            let addr: Address = text.parse().unwrap();
            assert_eq!(addr.to_string().parse::<Address>(), Ok(addr));
        }
    }

    #[test]
    fn tls_addresses_have_a_host_and_a_port() {
        let tls = |host: &str| Address::Tls { host: host.into(), port: 4843 };
        assert_eq!("tls://log.example.net:4843".parse(), Ok(tls("log.example.net")));
        assert_eq!("tls://10.0.0.1:4843".parse(), Ok(tls("10.0.0.1")));
        assert_eq!("tls://[::1]:4843".parse(), Ok(tls("::1")));
        let long = format!("tls://{}:1", "x".repeat(254));
        for text in [
            "tls://",
            "tls://host",
            "tls://:1",
            "tls://host:",
            "tls://host:70000",
            "tls://::1:1",
            "tls://[host]:1",
            "tls://a b:1",
            "tls://u@host:1",
            "tls://host/:1",
            &long,
        ] {
            assert!(matches!(text.parse::<Address>(), Err(AddressError::Form { .. })), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_string_panics(text in ".{0,80}") {
            let _ = text.parse::<Address>();
        }
    }
}
