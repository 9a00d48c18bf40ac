//! Names of groups, sessions and daemons.
//!
//! A legal name character is a byte from `$` (0x24) to `~` (0x7E); `#` is below it and separates the parts of
//! a private group, `#name#daemon`. Group names are **not** checked by the daemon: whatever stands in the
//! 32-byte field up to its first zero is the name.
//!
//! Source: `spec/client-protocol.md#0`, `#2.7`, `#4.2`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::{DAEMON_NAME_MAX, GROUP_FIELD, GROUP_NAME_MAX, PRIVATE_NAME_MAX};

/// Why bytes are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no bytes.
    #[error("name is empty")]
    Empty,
    /// The name has too many bytes.
    #[error("name has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The most allowed.
        max: usize,
    },
    /// A byte is not a legal name character.
    #[error("byte 0x{byte:02x} at position {at} is not a legal name character")]
    IllegalByte {
        /// The byte.
        byte: u8,
        /// Its position, from 0.
        at: usize,
    },
    /// The bytes do not have the form `#name#daemon`.
    #[error("not of the form #name#daemon")]
    NotPrivate,
}

/// Whether `byte` may stand in a private, daemon or (by the client libraries) group name.
const fn is_legal(byte: u8) -> bool {
    matches!(byte, 0x24..=0x7e)
}

fn check(bytes: &[u8], max: usize, legal: fn(u8) -> bool) -> Result<(), NameError> {
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > max {
        return Err(NameError::TooLong { len: bytes.len(), max });
    }
    match bytes.iter().position(|&b| !legal(b)) {
        Some(at) => Err(NameError::IllegalByte { byte: bytes[at], at }),
        None => Ok(()),
    }
}

fn display(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for &b in bytes {
        if matches!(b, 0x21..=0x7e) {
            fmt::Write::write_char(f, char::from(b))?;
        } else {
            write!(f, "\\x{b:02x}")?;
        }
    }
    Ok(())
}

/// The name of a group as it stands in its wire field: up to 32 bytes, zero-padded.
///
/// Bytes after the first zero are dropped, so equality and order are those of the bytes up to the first zero,
/// as the daemon compares them. A private group is a group name that begins with `#`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName([u8; GROUP_FIELD]);

impl GroupName {
    /// The empty name.
    pub const EMPTY: Self = Self([0; GROUP_FIELD]);

    /// A name that the client libraries accept: 1 to 31 legal characters.
    ///
    /// # Errors
    /// [`NameError`] if it is empty, too long or has another byte.
    pub fn new(name: &[u8]) -> Result<Self, NameError> {
        check(name, GROUP_NAME_MAX, is_legal)?;
        Ok(Self::padded(name))
    }

    /// The name in a wire field, unchecked: the bytes up to the first zero, or all 32.
    #[inline]
    pub fn from_field(mut field: [u8; GROUP_FIELD]) -> Self {
        let len = len_to_zero(&field);
        field[len..].fill(0);
        Self(field)
    }

    /// `name` cut to 32 bytes and to its first zero.
    fn padded(name: &[u8]) -> Self {
        let mut field = [0; GROUP_FIELD];
        let len = name.len().min(GROUP_FIELD);
        field[..len].copy_from_slice(&name[..len]);
        Self::from_field(field)
    }

    /// The bytes of the name, without padding.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..len_to_zero(&self.0)]
    }

    /// The zero-padded wire field.
    #[inline]
    pub const fn as_field(&self) -> &[u8; GROUP_FIELD] {
        &self.0
    }

    /// Whether the name is empty.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    /// Whether messages to this name are routed as to a private group: it begins with `#`.
    #[inline]
    pub const fn is_private(&self) -> bool {
        self.0[0] == b'#'
    }
}

/// Position of the first zero, or 32.
#[inline]
fn len_to_zero(field: &[u8; GROUP_FIELD]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    for (i, word) in field.as_chunks::<8>().0.iter().enumerate() {
        let w = u64::from_le_bytes(*word);
        // The lowest bit set marks the first zero byte exactly; borrows disturb only the bytes above it.
        let zeros = w.wrapping_sub(LOW) & !w & HIGH;
        if zeros != 0 {
            return i * 8 + zeros.trailing_zeros() as usize / 8;
        }
    }
    GROUP_FIELD
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(self.as_bytes(), f)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for GroupName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s.as_bytes())
    }
}

/// Up to `N` bytes, zero-padded, with their number; the order is that of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Short<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    fn new(name: &[u8], legal: fn(u8) -> bool) -> Result<Self, NameError> {
        check(name, N, legal)?;
        let mut bytes = [0; N];
        bytes[..name.len()].copy_from_slice(name);
        Ok(Self { bytes, len: u8::try_from(name.len()).unwrap_or(u8::MAX) })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

macro_rules! short_name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $legal:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Short<{ $max }>);

        impl $name {
            /// Checks the bytes of a name.
            ///
            /// # Errors
            /// [`NameError`] if it is empty, too long or has an illegal byte.
            pub fn new(name: &[u8]) -> Result<Self, NameError> {
                Short::new(name, $legal).map(Self)
            }

            /// The bytes of the name.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                display(self.as_bytes(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{self}\"")
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s.as_bytes())
            }
        }
    };
}

short_name!(
    /// The private name of a session: 1 to 10 legal characters, unique on its daemon.
    PrivateName,
    PRIVATE_NAME_MAX,
    is_legal
);

impl PrivateName {
    /// The name as text; legal characters are ASCII.
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

short_name!(
    /// The name of a daemon: 1 to 19 bytes without zero.
    ///
    /// Spread 5.0.1 takes any bytes as the name of a daemon in its configuration and then drops every client
    /// of a daemon whose name is not all legal characters. We serve them: it costs nothing, because the name
    /// is the rest of a private group after its second `#`.
    DaemonName,
    DAEMON_NAME_MAX,
    |byte| byte != 0
);

/// The group of one session, `#name#daemon`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrivateGroup {
    name: PrivateName,
    daemon: DaemonName,
}

impl PrivateGroup {
    /// The private group of the session `name` of `daemon`.
    pub const fn new(name: PrivateName, daemon: DaemonName) -> Self {
        Self { name, daemon }
    }

    /// Parses `#name#daemon`.
    ///
    /// # Errors
    /// [`NameError`] if the form or one of the parts is not legal.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        let rest = bytes.strip_prefix(b"#").ok_or(NameError::NotPrivate)?;
        let at = rest.iter().position(|&b| b == b'#').ok_or(NameError::NotPrivate)?;
        Ok(Self { name: PrivateName::new(&rest[..at])?, daemon: DaemonName::new(&rest[at + 1..])? })
    }

    /// The private name of the session.
    pub const fn name(&self) -> PrivateName {
        self.name
    }

    /// The daemon that the session is connected to.
    pub const fn daemon(&self) -> DaemonName {
        self.daemon
    }

    /// The group name `#name#daemon`, at most 31 bytes.
    pub fn as_group(&self) -> GroupName {
        let (name, daemon) = (self.name.as_bytes(), self.daemon.as_bytes());
        let mut field = [0; GROUP_FIELD];
        field[0] = b'#';
        field[1..=name.len()].copy_from_slice(name);
        field[name.len() + 1] = b'#';
        field[name.len() + 2..][..daemon.len()].copy_from_slice(daemon);
        GroupName(field)
    }
}

impl TryFrom<&GroupName> for PrivateGroup {
    type Error = NameError;
    fn try_from(group: &GroupName) -> Result<Self, NameError> {
        Self::parse(group.as_bytes())
    }
}

impl FromStr for PrivateGroup {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::parse(s.as_bytes())
    }
}

impl fmt::Display for PrivateGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}#{}", self.name, self.daemon)
    }
}

impl fmt::Debug for PrivateGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}
