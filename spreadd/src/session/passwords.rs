//! The users and password hashes of the `PWORD` method: the file `spread.access_pword`.
//!
//! ```text
//! # user:hash, as `htpasswd -B` (bcrypt) or `htpasswd -d` (crypt, as Spread 3 had it) writes them
//! alice:$2y$10$Uo...
//! bob:abgOeLfPimXQo
//! ```
//!
//! spec: client-protocol 2.6, daemon-config 12

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use spread_wire::limits::PWORD_USER;
use tokio::sync::Semaphore;

use super::brake::{Brake, Source};
use super::descrypt;

/// Passwords that are checked at once: a check may take a tenth of a second of a processor.
const CHECKS_MAX: usize = 2;

/// A line of the password file that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct PasswordError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong. Never has the hash in it.
    pub problem: String,
}

/// Users and their hashes. Empty: nobody passes.
#[derive(Clone)]
pub struct Passwords {
    hashes: Arc<BTreeMap<String, String>>,
    checks: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { hashes: Arc::default(), checks: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hashes.keys()).finish()
    }
}

impl Passwords {
    /// Reads the text of a password file: `user:hash` a line, `#` starts a comment line. What follows a further
    /// colon is ignored.
    ///
    /// # Errors
    /// The first line that is no user with a hash.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let mut hashes = BTreeMap::new();
        for (i, line) in text.lines().enumerate() {
            let failed = |problem: String| PasswordError { line: i + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((user, rest)) = line.split_once(':') else {
                return Err(failed("expected user:hash".to_owned()));
            };
            if user.is_empty() || user.len() > PWORD_USER {
                return Err(failed(format!(
                    "the user {user:?} has {} bytes, not 1 to {PWORD_USER}",
                    user.len()
                )));
            }
            let hash = rest.split(':').next().unwrap_or_default();
            if !descrypt::is_hash(hash.as_bytes()) && !is_bcrypt(hash) {
                return Err(failed(format!(
                    "the hash of {user:?} is neither bcrypt (`htpasswd -B`) nor crypt of 13 characters (`htpasswd -d`)"
                )));
            }
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(failed(format!("the user {user:?} is there twice")));
            }
        }
        Ok(Self { hashes: Arc::new(hashes), ..Self::default() })
    }

    /// The user if the password is right and `brake` lets `source` try. Takes as long for an unknown user as for one
    /// of the file.
    pub(crate) async fn check(
        &self,
        user: &[u8],
        password: &[u8],
        source: Source,
        brake: &Brake,
    ) -> Option<Arc<str>> {
        let known = str::from_utf8(user).ok().and_then(|user| self.hashes.get_key_value(user));
        let (name, hash) = known.or_else(|| self.hashes.first_key_value())?;
        let (name, hash, known) = (Arc::from(name.as_str()), hash.clone(), known.is_some());
        let password = password.to_vec();
        let _turn = self.checks.acquire().await.ok()?;
        // Not before it is its turn: many guesses at once must not all get in before the first has failed.
        if !brake.admits(source, Instant::now()) {
            return None;
        }
        let right = tokio::task::spawn_blocking(move || verify(&password, &hash)).await.unwrap_or(false);
        if !(right && known) {
            brake.failed(source, Instant::now());
            return None;
        }
        Some(name)
    }

    /// Whether there is no user at all.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

fn is_bcrypt(hash: &str) -> bool {
    hash.parse::<bcrypt::HashParts>().is_ok()
}

fn verify(password: &[u8], hash: &str) -> bool {
    match descrypt::hash(password, hash.as_bytes()) {
        Some(made) if descrypt::is_hash(hash.as_bytes()) => {
            // Without an early end: the time must not tell how many characters are right.
            made.iter().zip(hash.as_bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
        }
        _ => bcrypt::verify(password, hash).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth::Peer;
    use super::*;

    #[tokio::test]
    async fn right_passwords_pass_and_no_others() {
        // "test" and "password": the second made with bcrypt at its lowest cost.
        let bcrypt = bcrypt::hash("password", 4).unwrap();
        let text = format!("# users\n\nalice:abgOeLfPimXQo:old field\n bob:{bcrypt}\n");
        let users = Passwords::parse(&text).unwrap();
        let brake = Brake::default();
        let source = Source::new(Peer::Local, 0);
        let check = |user, password| users.check(user, password, source, &brake);
        assert_eq!(check(b"alice", b"test").await.as_deref(), Some("alice"));
        assert_eq!(check(b"bob", b"password").await.as_deref(), Some("bob"));
        for (user, password) in [
            (&b"alice"[..], &b"tesT"[..]),
            (b"alice", b""),
            (b"bob", b"test"),
            (b"carol", b"test"),
            (b"", b"test"),
            (b"Alice", b"test"),
            (b"\xff", b"test"),
        ] {
            assert_eq!(check(user, password).await, None, "{user:?}");
        }
        assert_eq!(Passwords::default().check(b"alice", b"test", source, &brake).await, None);
        assert_eq!(check(b"alice", b"test").await.as_deref(), Some("alice"), "not too many were wrong");
        for _ in 0..3 {
            assert_eq!(check(b"alice", b"wrong").await, None);
        }
        assert_eq!(check(b"alice", b"test").await, None, "too many were");
        let other = Source::new(Peer::Local, 1);
        assert_eq!(users.check(b"alice", b"test", other, &brake).await.as_deref(), Some("alice"));
    }

    #[test]
    fn a_bad_line_is_named_without_its_hash() {
        for (text, expected) in [
            ("alice", "line 1: expected user:hash"),
            ("#\n:abgOeLfPimXQo", "line 2: the user \"\" has 0 bytes, not 1 to 32"),
            ("a:abgOeLfPimXQo\na:abgOeLfPimXQo", "line 2: the user \"a\" is there twice"),
        ] {
            assert_eq!(Passwords::parse(text).unwrap_err().to_string(), expected);
        }
        let error = Passwords::parse("a:$apr1$secret").unwrap_err().to_string();
        assert!(error.contains("neither bcrypt") && !error.contains("apr1"), "{error}");
        assert_eq!(format!("{:?}", Passwords::parse("a:abgOeLfPimXQo").unwrap()), "{\"a\"}");
    }
}
