//! Our own access policy: the file `spread.access_policy`, one rule a line, the first that fits decides.
//!
//! ```text
//! # action  what          user            group     address
//! allow     connect       *               -         10.0.0.0/8
//! allow     join,send     authenticated   audit.*
//! deny      any           *               audit.*
//! allow     join,send     *
//! ```
//!
//! What no rule allows is denied. Missing words at the end of a line mean `*`. A member may always leave.

use spread_wire::GroupName;

use super::auth::AddrRule;
use super::policy::{Client, Policy};

/// A line of the policy file that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct RuleError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub problem: String,
}

/// The rules of a policy file. Without any: nothing is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    what: u8,
    user: User,
    group: Glob,
    /// One of these; empty: any.
    addrs: Vec<AddrRule>,
}

/// What a rule is about, as bits.
const CONNECT: u8 = 1;
const JOIN: u8 = 2;
const SEND: u8 = 4;
const WORDS: [(&str, u8); 4] =
    [("connect", CONNECT), ("join", JOIN), ("send", SEND), ("any", CONNECT | JOIN | SEND)];

#[derive(Clone, Debug, PartialEq, Eq)]
enum User {
    Any,
    /// Has no name that the daemon checked.
    Anonymous,
    Authenticated,
    /// A name that the daemon checked: of the `PWORD` method or of a certificate.
    Name(Glob),
    /// The private name, which a client chooses freely.
    Private(Glob),
}

/// A text with `*` for any number of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Box<[u8]>);

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.as_bytes().into())
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        let (mut p, mut t) = (0, 0);
        // The last star and where its match ends: longer matches of it are tried on a mismatch. Earlier stars
        // need no other try, so the work is at most pattern times text.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match self.0.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(byte) if *byte == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((at, end)) = star else { return false };
                    star = Some((at, end + 1));
                    p = at + 1;
                    t = end + 1;
                }
            }
        }
        self.0[p..].iter().all(|byte| *byte == b'*')
    }
}

impl Rules {
    /// Reads the text of a policy file; the form is in the head of this module and in
    /// `docs/reference/spread.conf.md`.
    ///
    /// # Errors
    /// The first line that is no rule.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut rules = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            rules.push(parse_rule(line).map_err(|problem| RuleError { line: i + 1, problem })?);
        }
        Ok(Self(rules))
    }

    fn decide(&self, what: u8, client: &Client, group: Option<&GroupName>) -> bool {
        let fits = |rule: &&Rule| {
            rule.what & what != 0
                && rule.user.fits(client)
                && group.is_none_or(|group| rule.group.matches(group.as_bytes()))
                && (rule.addrs.is_empty() || rule.addrs.iter().any(|addr| addr.allows(client.peer)))
        };
        self.0.iter().find(fits).is_some_and(|rule| rule.allow)
    }
}

fn parse_rule(line: &str) -> Result<Rule, String> {
    let mut words = line.split_whitespace();
    let allow = match words.next() {
        Some("allow") => true,
        Some("deny") => false,
        other => return Err(format!("{:?} is not \"allow\" or \"deny\"", other.unwrap_or_default())),
    };
    let what = words.next().ok_or("expected connect, join, send or any")?;
    let what = what.split(',').try_fold(0, |set, word| {
        let found = WORDS.iter().find(|(name, _)| *name == word);
        let (_, bits) = found.ok_or_else(|| format!("{word:?} is not connect, join, send or any"))?;
        Ok::<u8, String>(set | bits)
    })?;
    let user = match words.next().ok_or("expected a user: *, anonymous, authenticated, NAME or name:NAME")? {
        "*" => User::Any,
        "anonymous" => User::Anonymous,
        "authenticated" => User::Authenticated,
        name => match name.strip_prefix("name:") {
            Some(private) => User::Private(Glob::new(private)),
            None => User::Name(Glob::new(name)),
        },
    };
    let group = match words.next() {
        None | Some("-") => Glob::new("*"),
        Some(group) if what == CONNECT && group != "*" => {
            return Err(format!("a rule about connect has no group {group:?}: write - or *"));
        }
        Some(group) => Glob::new(group),
    };
    let addrs = match words.next() {
        None | Some("*") => Vec::new(),
        Some(word) => AddrRule::parse(word).ok_or_else(|| {
            format!("{word:?} is not an address, a network (address/bits), \"local\", \"unix\" or *")
        })?,
    };
    match words.next() {
        Some(word) => Err(format!("{word:?} is one word too many")),
        None => Ok(Rule { allow, what, user, group, addrs }),
    }
}

impl User {
    fn fits(&self, client: &Client) -> bool {
        let user = client.user.as_deref();
        match self {
            Self::Any => true,
            Self::Anonymous => user.is_none(),
            Self::Authenticated => user.is_some(),
            Self::Name(glob) => user.is_some_and(|user| glob.matches(user.as_bytes())),
            Self::Private(glob) => glob.matches(client.private.name().as_bytes()),
        }
    }
}

impl Policy for Rules {
    fn connect(&self, client: &Client) -> bool {
        self.decide(CONNECT, client, None)
    }

    fn join(&self, client: &Client, group: &GroupName) -> bool {
        self.decide(JOIN, client, Some(group))
    }

    fn multicast(&self, client: &Client, target: &GroupName) -> bool {
        self.decide(SEND, client, Some(target))
    }
}

#[cfg(test)]
mod tests {
    use spread_wire::PrivateGroup;

    use super::super::auth::Peer;
    use super::*;

    fn client(name: &str, user: Option<&str>, peer: &str) -> Client {
        Client {
            private: PrivateGroup::parse(format!("#{name}#d").as_bytes()).unwrap(),
            user: user.map(Into::into),
            peer: if peer == "unix" { Peer::Local } else { Peer::Ip(peer.parse().unwrap()) },
        }
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_none_denies() {
        let rules = Rules::parse(
            "# who may what\n\
             allow connect * - 10.0.0.0/8\n allow connect authenticated\n\
             allow join,send alice audit.*\n deny any * audit.*\n\
             allow join,send name:mon* * local\n allow join * public unix\n",
        )
        .unwrap();
        let (near, far) = (client("bob", None, "10.1.1.1"), client("bob", None, "11.1.1.1"));
        let alice = client("x", Some("alice"), "11.1.1.1");
        let named_alice = client("alice", None, "10.1.1.1");
        let (monitor, local) = (client("mon1", None, "127.0.0.1"), client("z", None, "unix"));
        assert!(rules.connect(&near) && rules.connect(&alice) && !rules.connect(&far));
        assert!(!rules.connect(&local), "no rule");
        assert!(rules.join(&alice, &group("audit.x")) && rules.multicast(&alice, &group("audit.")));
        assert!(!rules.join(&named_alice, &group("audit.x")), "a private name proves nothing");
        assert!(!rules.multicast(&near, &group("audit.x")) && !rules.multicast(&near, &group("other")));
        assert!(rules.join(&monitor, &group("any")) && rules.multicast(&monitor, &group("any")));
        assert!(!rules.join(&monitor, &group("audit.x")), "denied above");
        assert!(rules.join(&local, &group("public")) && !rules.multicast(&local, &group("public")));
        assert!(rules.leave(&far, &group("audit.x")));
        assert!(!rules.permits_all());
        assert!(!Rules::default().connect(&near), "an empty file allows nothing");
    }

    #[test]
    fn bad_rules_are_named_with_their_lines() {
        for (text, expected) in [
            ("permit any *", "line 1: \"permit\" is not \"allow\" or \"deny\""),
            ("\nallow", "line 2: expected connect, join, send or any"),
            ("allow join,leave *", "line 1: \"leave\" is not connect, join, send or any"),
            ("allow join", "line 1: expected a user: *, anonymous, authenticated, NAME or name:NAME"),
            ("allow connect * g", "line 1: a rule about connect has no group \"g\": write - or *"),
            (
                "allow any * * 10.0.0.0/40",
                "line 1: \"10.0.0.0/40\" is not an address, a network (address/bits), \"local\", \"unix\" or *",
            ),
            ("allow any * * * x", "line 1: \"x\" is one word too many"),
        ] {
            assert_eq!(Rules::parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn stars_match_any_text() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*ab", "aab", true),
            ("**", "x", true),
            ("abc", "ab", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text.as_bytes()), fits, "{pattern} {text}");
        }
        let long = "a".repeat(5000);
        assert!(!Glob::new("*a*a*a*a*a*a*a*b").matches(long.as_bytes()));
    }
}
