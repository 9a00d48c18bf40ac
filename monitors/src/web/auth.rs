//! Who may see the page: users of an htpasswd file, by HTTP basic authentication.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Users and their bcrypt hashes, as `htpasswd -B` writes them.
#[derive(Clone, Debug)]
pub struct Users(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hashes: BTreeMap<String, String>,
    /// Headers that were right: a hash takes long on purpose, and a browser sends its header with each request.
    good: Mutex<Vec<String>>,
}

/// Right headers that are remembered.
const GOOD_MAX: usize = 64;

impl Users {
    /// Reads a file of `user:hash` lines.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not of this form: file, line, and what is expected.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut hashes = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((user, hash)) = line.split_once(':') else {
                bail!("line {number}: expected `user:hash`");
            };
            let is_bcrypt =
                hash.len() == 60 && ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind));
            ensure!(is_bcrypt, "line {number}: the hash of {user:?} is not bcrypt; use `htpasswd -B`");
            hashes.insert(user.to_owned(), hash.to_owned());
        }
        ensure!(!hashes.is_empty(), "no user in the file; nobody could see the page");
        Ok(Self(Arc::new(Inner { hashes, good: Mutex::new(Vec::new()) })))
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(header) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        if self.good().iter().any(|known| known == header) {
            return true;
        }
        let Some((scheme, encoded)) = header.split_once(' ') else { return false };
        let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
            return false;
        };
        let hash = self.0.hashes.get(user);
        let right = scheme.eq_ignore_ascii_case("basic")
            && hash.is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false));
        if right {
            let mut good = self.good();
            if good.len() >= GOOD_MAX {
                good.clear();
            }
            good.push(header.to_owned());
        }
        right
    }

    fn good(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a request pass if its user may; `/healthz` is for everybody.
pub(super) async fn check(State(users): State<Users>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" {
        return next.run(request).await;
    }
    let headers = request.headers().clone();
    // On a thread that may be busy: a hash takes milliseconds.
    let allowed = tokio::task::spawn_blocking(move || users.allows(&headers)).await.unwrap_or(false);
    if allowed {
        return next.run(request).await;
    }
    let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"spread-web\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, ask, "a user and a password are needed\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(user: &str, password: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_right_password_passes_again_and_again() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let users = Users::parse(&format!("# people\nadmin:{hash}\n")).unwrap();
        for _ in 0..2 {
            assert!(users.allows(&headers("admin", "secret")));
            assert!(!users.allows(&headers("admin", "wrong")));
            assert!(!users.allows(&headers("nobody", "secret")));
        }
        assert!(!users.allows(&HeaderMap::new()));
        let mut other = HeaderMap::new();
        other.insert(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(!users.allows(&other));
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let error = |text: &str| Users::parse(text).unwrap_err().to_string();
        assert_eq!(error("a:b\n"), "line 1: the hash of \"a\" is not bcrypt; use `htpasswd -B`");
        assert_eq!(error("\nabc\n"), "line 2: expected `user:hash`");
        assert_eq!(error("# none\n"), "no user in the file; nobody could see the page");
    }
}
