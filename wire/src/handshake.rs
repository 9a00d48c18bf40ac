//! The connect handshake, both ends.
//!
//! ```text
//! client                                        daemon
//!   | Hello ------------------------------------> |
//!   | <------------- MethodList, or a reject byte |
//!   | AuthChoice -------------------------------> |
//!   | <---- bytes of the chosen methods, if any -> |
//!   | <----------------- Accept, or a reject byte |
//! ```
//!
//! Every `decode` takes nothing until its unit is complete, and then exactly the unit; what a peer sends
//! ahead stays in the buffer. No unit has more than [`UNIT_MAX`] bytes.
//!
//! Source: `spec/client-protocol.md#2`.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;

use crate::codes;
use crate::limits::{AUTH_CHOICE, AUTH_SLOT, AUTH_SLOTS, PRIVATE_NAME_MAX, PWORD_PASSWORD, PWORD_USER};
use crate::names::{GroupName, NameError, PrivateGroup, PrivateName};

/// Most bytes of a unit of the handshake: a method list with its length.
pub const UNIT_MAX: usize = AUTH_CHOICE + 1;

/// A byte that the daemon sends instead of going on. The connection is closed behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RejectCode(pub i8);

impl RejectCode {
    /// Too many sessions.
    pub const QUOTA: Self = Self(-3);
    /// No name; not sent by Spread 5.0.1.
    pub const NO_NAME: Self = Self(-4);
    /// The private name is not legal.
    pub const ILLEGAL_NAME: Self = Self(-5);
    /// Another session has the private name.
    pub const NOT_UNIQUE: Self = Self(-6);
    /// The client is too old.
    pub const VERSION: Self = Self(-7);
    /// Authentication or the access policy refused.
    pub const AUTH: Self = Self(-9);

    /// The byte on the wire.
    pub const fn to_byte(self) -> u8 {
        self.0.cast_unsigned()
    }

    /// The code as the C library returns it.
    pub const fn code(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::QUOTA => "too many sessions",
            Self::NO_NAME => "no private name",
            Self::ILLEGAL_NAME => "illegal private name",
            Self::NOT_UNIQUE => "private name in use",
            Self::VERSION => "version not supported",
            Self::AUTH => "authentication refused",
            _ => "unknown code",
        };
        write!(f, "{text} ({})", self.0)
    }
}

impl fmt::Debug for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RejectCode({self})")
    }
}

/// Why a client cannot go on with the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The daemon refused.
    #[error("refused by the daemon: {0}")]
    Rejected(RejectCode),
    /// The daemon sent something that is not the protocol.
    #[error("malformed answer of the daemon: {0}")]
    Malformed(&'static str),
    /// The daemon is too old for what was asked.
    #[error("daemon version {0} is too old")]
    Version(Version),
    /// The daemon does not offer a method that was asked for.
    #[error("authentication method is not offered by the daemon")]
    Method,
}

impl HandshakeError {
    /// The code that the C library returns for it.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Rejected(code) => code.code(),
            Self::Malformed(_) => codes::CONNECTION_CLOSED,
            Self::Version(_) => codes::REJECT_VERSION,
            Self::Method => codes::REJECT_AUTH,
        }
    }
}

/// Version of a library or daemon. The bytes are signed on the wire; a negative one is never legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major number.
    pub major: i8,
    /// Minor number.
    pub minor: i8,
    /// Patch number.
    pub patch: i8,
}

impl Version {
    /// The version that we report: 5.0.1.
    pub const CURRENT: Self = Self { major: 5, minor: 0, patch: 1 };

    /// Whether a client of this version sends, and expects, the patch byte: 3.15 and newer.
    pub const fn has_patch(self) -> bool {
        self.release() > 314
    }

    /// Whether a client of this version takes part in the authentication: 3.16 and newer.
    pub const fn has_auth(self) -> bool {
        self.release() > 315
    }

    /// Whether a daemon serves clients of this version: 3.1 and newer.
    pub const fn is_supported(self) -> bool {
        let patch = if self.has_patch() { self.patch as i32 } else { 0 };
        self.release() * 100 + patch >= 30_100
    }

    const fn release(self) -> i32 {
        self.major as i32 * 100 + self.minor as i32
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The first bytes of a client: 4 or 5 and the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the client library; the patch is 0 for clients that send none.
    pub version: Version,
    /// Whether the session wants membership messages.
    pub membership: bool,
    /// Whether the session wants [gap marks](crate::Gap): our own bit, which Spread 5 ignores.
    pub gaps: bool,
    /// Priority, 0 to 7; without effect.
    pub priority: u8,
    /// The private name that is asked for; without one the daemon invents it.
    pub name: Option<PrivateName>,
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The client is older than 3.1.
    #[error("client version {0} is not supported")]
    Version(Version),
    /// The announced length of the name is above 10.
    #[error("private name of {0} bytes, at most {PRIVATE_NAME_MAX} are allowed")]
    NameLength(u8),
    /// The name has an illegal character.
    #[error("illegal private name: {0}")]
    Name(#[source] NameError),
    /// The stream or the time ended within the name.
    #[error("incomplete private name")]
    Incomplete,
}

impl HelloError {
    /// The byte for the client.
    pub const fn reject(&self) -> RejectCode {
        match self {
            Self::Version(_) => RejectCode::VERSION,
            Self::NameLength(_) | Self::Name(_) | Self::Incomplete => RejectCode::ILLEGAL_NAME,
        }
    }
}

impl Hello {
    const MEMBERSHIP: u8 = 0x01;
    const GAPS: u8 = 0x02;

    /// The hello of this library.
    pub const fn new(name: Option<PrivateName>, membership: bool, priority: u8) -> Self {
        Self { version: Version::CURRENT, membership, gaps: false, priority, name }
    }

    /// Takes a hello off the front of `buf`, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`HelloError`], as soon as it is certain. Nothing more is to be read.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, HelloError> {
        let [major, minor, rest @ ..] = &buf[..] else { return Ok(None) };
        let mut version = Version { major: major.cast_signed(), minor: minor.cast_signed(), patch: 0 };
        // The release alone decides: a patch byte is read from 3.15 on and cannot lead below 3.1.
        if !version.is_supported() {
            return Err(HelloError::Version(version));
        }
        let rest = if version.has_patch() {
            let [patch, rest @ ..] = rest else { return Ok(None) };
            version.patch = patch.cast_signed();
            rest
        } else {
            rest
        };
        let [flags, len, rest @ ..] = rest else { return Ok(None) };
        let (flags, len) = (*flags, *len);
        if usize::from(len) > PRIVATE_NAME_MAX {
            return Err(HelloError::NameLength(len));
        }
        let Some(name) = rest.get(..usize::from(len)) else { return Ok(None) };
        let name = match name {
            [] => None,
            bytes => Some(PrivateName::new(bytes).map_err(HelloError::Name)?),
        };
        let size = buf.len() - rest.len() + usize::from(len);
        buf.advance(size);
        // The byte is signed: above 0x7f membership is off.
        let membership = flags & Self::MEMBERSHIP != 0 && flags < 0x80;
        let gaps = flags & Self::GAPS != 0 && flags < 0x80;
        Ok(Some(Self { version, membership, gaps, priority: (flags >> 4) & 7, name }))
    }

    /// What to do with the incomplete hello in `buf` when its time or its stream has ended: send the byte, or
    /// close silently if not even the fixed part is there.
    ///
    /// spec: client-protocol 2.8
    pub fn end(buf: &[u8]) -> Option<HelloError> {
        let fixed = match buf {
            [major, minor, ..] => {
                let version = Version { major: major.cast_signed(), minor: minor.cast_signed(), patch: 0 };
                if version.has_patch() { 5 } else { 4 }
            }
            _ => return None,
        };
        (buf.len() >= fixed).then_some(HelloError::Incomplete)
    }

    /// Appends the hello. It is to be sent with one write.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i8(self.version.major);
        out.put_i8(self.version.minor);
        if self.version.has_patch() {
            out.put_i8(self.version.patch);
        }
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = bit(self.membership, Self::MEMBERSHIP) | bit(self.gaps, Self::GAPS);
        out.put_u8(self.priority.min(7) << 4 | flags);
        let name = self.name.as_ref().map_or(&[][..], PrivateName::as_bytes);
        out.put_u8(u8::try_from(name.len()).unwrap_or(0));
        out.put_slice(name);
    }
}

/// The name of an authentication method in a slot of the choice: 1 to 30 bytes without zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodName([u8; AUTH_SLOT]);

impl MethodName {
    /// Always succeeds.
    pub const NULL: Self = Self::literal(b"NULL");
    /// By the address of the client.
    pub const IP: Self = Self::literal(b"IP");
    /// User name and password in clear text.
    pub const PWORD: Self = Self::literal(b"PWORD");

    const fn literal(name: &[u8]) -> Self {
        let mut slot = [0; AUTH_SLOT];
        slot.split_at_mut(name.len()).0.copy_from_slice(name);
        Self(slot)
    }

    /// A name of 1 to 29 bytes without zero and space.
    pub fn new(name: &[u8]) -> Option<Self> {
        let fits = (1..AUTH_SLOT).contains(&name.len());
        (fits && !name.contains(&0) && !name.contains(&b' ')).then(|| Self::literal(name))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&b| b == 0).next().unwrap_or_default()
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The methods that a daemon offers: their names, each followed by one space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodList {
    text: Vec<u8>,
}

impl MethodList {
    /// The list of these methods, in this order. At most three fit; further ones are left out.
    pub fn new(methods: impl IntoIterator<Item = MethodName>) -> Self {
        let mut text = Vec::new();
        for method in methods.into_iter().take(AUTH_SLOTS) {
            // A name from a slot can be one byte longer than the text has room for.
            if text.len() + method.as_bytes().len() < AUTH_CHOICE {
                text.extend_from_slice(method.as_bytes());
                text.push(b' ');
            }
        }
        Self { text }
    }

    /// Whether no method is offered. The daemon then sends the list and [`RejectCode::AUTH`].
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The words of the list.
    pub fn methods(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&b| b == b' ').filter(|word| !word.is_empty())
    }

    /// Whether `method` is a word of the list.
    pub fn offers(&self, method: &MethodName) -> bool {
        self.methods().any(|word| word == method.as_bytes())
    }

    /// Takes a list off the front of `buf`, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`HandshakeError::Rejected`] if the daemon refused instead, [`HandshakeError::Malformed`] for a list
    /// above 90 bytes.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, HandshakeError> {
        let Some((&len, rest)) = buf.split_first() else { return Ok(None) };
        if len >= 0x80 {
            return Err(HandshakeError::Rejected(RejectCode(len.cast_signed())));
        }
        let len = usize::from(len);
        if len > AUTH_CHOICE {
            return Err(HandshakeError::Malformed("method list above 90 bytes"));
        }
        let Some(text) = rest.get(..len) else { return Ok(None) };
        let text = text.to_vec();
        buf.advance(1 + len);
        Ok(Some(Self { text }))
    }

    /// Appends the list with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::try_from(self.text.len()).unwrap_or(0));
        out.put_slice(&self.text);
    }
}

/// The methods that a client chose, in its order: up to three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthChoice {
    slots: [Option<MethodName>; AUTH_SLOTS],
}

impl AuthChoice {
    /// A choice of these methods; at most three fit, further ones are left out.
    pub fn new(methods: impl IntoIterator<Item = MethodName>) -> Self {
        let mut slots = [None; AUTH_SLOTS];
        for (slot, method) in slots.iter_mut().zip(methods) {
            *slot = Some(method);
        }
        Self { slots }
    }

    /// The chosen methods. None at all is to be denied.
    pub fn methods(&self) -> impl Iterator<Item = MethodName> {
        self.slots.into_iter().flatten()
    }

    /// Takes the 90 bytes of a choice off the front of `buf`, or `None` if they are not complete yet. The
    /// first empty slot ends the list, also all three slots may be in use.
    ///
    /// spec: client-protocol 2.5
    pub fn decode(buf: &mut BytesMut) -> Option<Self> {
        let bytes: [u8; AUTH_CHOICE] = *buf.first_chunk()?;
        buf.advance(AUTH_CHOICE);
        let used = bytes.as_chunks::<AUTH_SLOT>().0.iter().take_while(|slot| slot[0] != 0);
        Some(Self::new(used.map(|slot| {
            let mut name = *slot;
            let len = slot.iter().position(|&b| b == 0).unwrap_or(AUTH_SLOT);
            name[len..].fill(0);
            MethodName(name)
        })))
    }

    /// Appends the 90 bytes. They are to be sent with one write.
    pub fn encode(&self, out: &mut BytesMut) {
        for slot in &self.slots {
            out.put_slice(&slot.map_or([0; AUTH_SLOT], |name| name.0));
        }
    }
}

/// User and password of the method `PWORD`, in clear text, zero-padded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password {
    user: [u8; PWORD_USER],
    password: [u8; PWORD_PASSWORD],
}

impl Password {
    /// The answer of the daemon to a right password.
    pub const GOOD: u8 = 1;
    /// The answer of the daemon to a wrong password.
    pub const BAD: u8 = 0;

    /// The exchange of these; both are cut to their fields.
    pub fn new(user: &[u8], password: &[u8]) -> Self {
        Self { user: padded(user), password: padded(password) }
    }

    /// The user name, up to its first zero.
    pub fn user(&self) -> &[u8] {
        self.user.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// The password, up to its first zero.
    pub fn password(&self) -> &[u8] {
        self.password.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// Takes the 40 bytes off the front of `buf`, or `None` if they are not complete yet.
    pub fn decode(buf: &mut BytesMut) -> Option<Self> {
        let (user, rest) = buf.split_first_chunk()?;
        let unit = Self { user: *user, password: *rest.first_chunk()? };
        buf.advance(PWORD_USER + PWORD_PASSWORD);
        Some(unit)
    }

    /// Appends the 40 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.user);
        out.put_slice(&self.password);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password")
            .field("user", &self.user().escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
    field
}

/// The last unit of the handshake: the session is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Version of the daemon.
    pub version: Version,
    /// The private group of the session, as the daemon wrote it.
    pub private_group: GroupName,
}

impl Accept {
    /// The accept block of this daemon for the session `private`.
    pub fn new(private: &PrivateGroup) -> Self {
        Self { version: Version::CURRENT, private_group: private.as_group() }
    }

    /// Takes an accept block off the front of `buf`, or `None` if it is not complete yet. `priority` is the
    /// one of the hello.
    ///
    /// # Errors
    /// [`HandshakeError`] if the daemon refused, is too old, or the block is malformed.
    ///
    /// spec: client-protocol 2.10
    pub fn decode(buf: &mut BytesMut, priority: u8) -> Result<Option<Self>, HandshakeError> {
        let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
        if i32::from(first) != codes::ACCEPT_SESSION {
            return Err(HandshakeError::Rejected(RejectCode(first.cast_signed())));
        }
        let [major, minor, patch, len, rest @ ..] = rest else { return Ok(None) };
        if *major >= 0x80 || *minor >= 0x80 || *patch >= 0x80 {
            return Err(HandshakeError::Malformed("negative version"));
        }
        if *len >= 32 {
            return Err(HandshakeError::Malformed("private group above 31 bytes"));
        }
        let (major, minor, patch) = (major.cast_signed(), minor.cast_signed(), patch.cast_signed());
        let version = Version { major, minor, patch };
        if major < 3 || (priority > 0 && major == 3 && minor < 8) {
            return Err(HandshakeError::Version(version));
        }
        let len = usize::from(*len);
        let Some(name) = rest.get(..len) else { return Ok(None) };
        let private_group = GroupName::from_field(padded(name));
        buf.advance(5 + len);
        Ok(Some(Self { version, private_group }))
    }

    /// Appends the block for a client of the given version.
    pub fn encode(&self, client: Version, out: &mut BytesMut) {
        out.put_u8(1);
        out.put_i8(self.version.major);
        out.put_i8(self.version.minor);
        if client.has_patch() {
            out.put_i8(self.version.patch);
        }
        let name = self.private_group.as_bytes();
        out.put_u8(u8::try_from(name.len()).unwrap_or(0));
        out.put_slice(name);
    }
}
