//! Who may connect: the authentication methods and the access file of the `IP` method.
//!
//! spec: client-protocol 2.4 to 2.6, daemon-config 12

use std::fmt;
use std::net::IpAddr;

use super::passwords::Passwords;

/// An authentication method this daemon knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Everybody passes.
    Null,
    /// The address of the client decides; see [`AccessList`].
    Ip,
    /// A user and a password of at most 8 bytes, sent in clear text; see [`Passwords`].
    Pword,
}

/// The methods in the order in which they are offered.
const METHODS: [Method; 3] = [Method::Null, Method::Ip, Method::Pword];

impl Method {
    /// The name on the wire and in the configuration, case-sensitive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Ip => "IP",
            Self::Pword => "PWORD",
        }
    }

    /// The method with this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        METHODS.into_iter().find(|method| method.name().as_bytes() == name)
    }
}

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods(u8);

impl Methods {
    /// No method.
    pub const NONE: Self = Self(0);

    /// This one method.
    pub fn one(method: Method) -> Self {
        Self(1 << method as u8)
    }

    /// With `method` added.
    #[must_use]
    pub fn with(self, method: Method) -> Self {
        Self(self.0 | Self::one(method).0)
    }

    /// Whether `method` is in the set.
    pub fn contains(self, method: Method) -> bool {
        self.0 & Self::one(method).0 != 0
    }

    /// The methods in the order in which they are offered.
    pub fn iter(self) -> impl Iterator<Item = Method> {
        METHODS.into_iter().filter(move |method| self.contains(*method))
    }
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket.
    Local,
    /// TCP from this address.
    Ip(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Ip(addr) => addr.fmt(f),
        }
    }
}

/// The rules for new clients.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Methods a client may choose.
    pub allowed: Methods,
    /// Methods that are run whatever the client chose.
    pub required: Methods,
    /// For the `IP` method.
    pub access: AccessList,
    /// For the `PWORD` method.
    pub passwords: Passwords,
}

impl Default for Auth {
    /// Everybody may connect.
    fn default() -> Self {
        Self {
            allowed: Methods::one(Method::Null),
            required: Methods::NONE,
            access: AccessList::default(),
            passwords: Passwords::default(),
        }
    }
}

impl Auth {
    /// The methods to run for a client that names `chosen`, all of which must pass: the named ones in its order,
    /// then the required ones. `None`: it is refused, because it names one that is not allowed, or none.
    pub(crate) fn plan<'a>(&self, chosen: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Method>> {
        let mut plan = Vec::new();
        for name in chosen {
            plan.push(Method::from_name(name).filter(|method| self.allowed.contains(*method))?);
        }
        let required: Vec<_> = self.required.iter().filter(|method| !plan.contains(method)).collect();
        (!plan.is_empty()).then(|| [plan, required].concat())
    }

    /// Whether a client from before 3.16, which cannot choose, passes. Unlike the original, required methods
    /// are run for it too; it can never pass `PWORD`. spec: client-protocol 2.9, 10
    pub(crate) fn decide_old(&self, peer: Peer) -> bool {
        let method = if self.allowed.contains(Method::Ip) { Method::Ip } else { Method::Null };
        self.allowed.contains(method)
            && std::iter::once(method).chain(self.required.iter()).all(|method| match method {
                Method::Null => true,
                Method::Ip => self.access.allows(peer),
                Method::Pword => false,
            })
    }
}

/// The addresses that pass the `IP` method. Empty: nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    rules: Vec<AddrRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddrRule {
    Unix,
    Net { addr: IpAddr, prefix: u8 },
}

/// A line of the access file that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {text:?} is not an address, a network (address/bits), \"local\" or \"unix\"")]
pub struct AccessError {
    /// Line number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl AccessList {
    /// Reads the text of a `spread.access_ip` file: one rule a line, `#` starts a comment.
    ///
    /// # Errors
    /// The first line that is no rule.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let mut rules = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let word = line.split_whitespace().next().unwrap_or("");
            if word.is_empty() || word.starts_with('#') {
                continue;
            }
            let found = AddrRule::parse(word);
            rules.extend(found.ok_or_else(|| AccessError { line: i + 1, text: line.to_owned() })?);
        }
        Ok(Self { rules })
    }

    /// Whether a client from `peer` passes.
    pub fn allows(&self, peer: Peer) -> bool {
        self.rules.iter().any(|rule| rule.allows(peer))
    }
}

impl AddrRule {
    /// Reads an address, a network, `unix` or `local`, which are two rules.
    pub(crate) fn parse(word: &str) -> Option<Vec<Self>> {
        if word.starts_with("unix") {
            Some(vec![Self::Unix])
        } else if word.starts_with("local") {
            let v6 = IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1]);
            Some(vec![
                Self::Net { addr: IpAddr::from([127, 0, 0, 0]), prefix: 8 },
                Self::Net { addr: v6, prefix: 128 },
            ])
        } else {
            Some(vec![parse_net(word)?])
        }
    }

    pub(crate) fn allows(self, peer: Peer) -> bool {
        match (self, peer) {
            (Self::Unix, Peer::Local) => true,
            (Self::Net { addr, prefix }, Peer::Ip(ip)) => in_net(ip.to_canonical(), addr, prefix),
            _ => false,
        }
    }
}

fn parse_net(word: &str) -> Option<AddrRule> {
    let (addr, prefix) = match word.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (word, None),
    };
    let addr: IpAddr = addr.parse().ok()?;
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) => prefix.parse().ok().filter(|p| *p <= bits)?,
        None => bits,
    };
    Some(AddrRule::Net { addr, prefix })
}

fn in_net(ip: IpAddr, net: IpAddr, prefix: u8) -> bool {
    let (ip, net, bits) = match (ip, net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => (u128::from(ip.to_bits()), u128::from(net.to_bits()), 32),
        (IpAddr::V6(ip), IpAddr::V6(net)) => (ip.to_bits(), net.to_bits(), 128u32),
        _ => return false,
    };
    let shift = bits - u32::from(prefix);
    (ip ^ net).checked_shr(shift).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    #[test]
    fn access_rules_match_networks_local_and_unix() {
        let list =
            AccessList::parse("# who\n 10.1.2.3\n192.168.1.7/24 office\n\nlocal\nfe80::/10\n").unwrap();
        for yes in ["10.1.2.3", "192.168.1.200", "127.5.5.5", "::1", "fe80::1", "::ffff:10.1.2.3"] {
            assert!(list.allows(ip(yes)), "{yes}");
        }
        for no in ["10.1.2.4", "192.168.2.1", "2001:db8::1"] {
            assert!(!list.allows(ip(no)), "{no}");
        }
        assert!(!list.allows(Peer::Local));
        assert!(AccessList::parse("unix").unwrap().allows(Peer::Local));
        assert!(AccessList::parse("0.0.0.0/0").unwrap().allows(ip("8.8.8.8")));
        assert!(!AccessList::default().allows(ip("127.0.0.1")));
    }

    #[test]
    fn a_bad_access_rule_is_named_with_its_line() {
        let error = AccessList::parse("10.0.0.1\n10.0.0.0/33\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: \"10.0.0.0/33\" is not an address, a network (address/bits), \"local\" or \"unix\""
        );
    }

    #[test]
    fn choice_must_be_allowed_and_required_methods_run_too() {
        use Method::{Ip, Null, Pword};
        let local_only = AccessList::parse("local").unwrap();
        let mut auth = Auth {
            allowed: Methods::one(Null),
            required: Methods::one(Ip),
            access: local_only,
            ..Auth::default()
        };
        let plan = |auth: &Auth, names: &[&str]| auth.plan(names.iter().map(|name| name.as_bytes()));
        assert_eq!(plan(&auth, &["NULL"]), Some(vec![Null, Ip]));
        assert_eq!(plan(&auth, &["IP"]), None, "not allowed");
        assert_eq!(plan(&auth, &[]), None, "none named");
        assert!(!auth.decide_old(ip("10.0.0.1")), "old clients do not bypass required methods");
        assert!(auth.decide_old(ip("127.0.0.1")));
        auth.required = auth.required.with(Pword);
        assert!(!auth.decide_old(ip("127.0.0.1")), "they know no passwords");
        auth.allowed = auth.allowed.with(Pword);
        assert_eq!(plan(&auth, &["PWORD", "NULL"]), Some(vec![Pword, Null, Ip]));
        let all = Auth::default();
        assert_eq!(plan(&all, &["NULL", "NULL"]), Some(vec![Null, Null]));
        assert_eq!(plan(&all, &["NULL", "FOO"]), None);
    }
}
