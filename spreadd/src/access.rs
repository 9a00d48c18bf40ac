//! The files that say who may connect and what clients may do.
//!
//! spec: daemon-config 12, 13

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;

use crate::config::{AuthMethod, Config, Policy as PolicyWord};
use crate::session::{
    AccessError, AccessList, Auth, Method, Methods, PasswordError, Passwords, Permit, Policy, RuleError,
    Rules,
};

/// Where the files are looked for, in this order.
const DIRS: [&str; 2] = ["", "/etc"];

/// Why the access rules cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessFileError {
    /// The access file of the `IP` method has an error.
    #[error("{}: {error}", file.display())]
    Addresses {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: AccessError,
    },
    /// The password file has an error.
    #[error("{}: {error}", file.display())]
    Passwords {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: PasswordError,
    },
    /// The policy file has an error.
    #[error("{}: {error}", file.display())]
    Rules {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: RuleError,
    },
    /// `AccessControlPolicy = FILE`, and there is no such file. Going on without it would allow everything or nothing.
    #[error("AccessControlPolicy is FILE, but there is neither ./{0} nor /etc/{0}")]
    NoRules(&'static str),
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Reads what the configuration needs of `spread.access_ip`, `spread.access_pword` and `spread.access_policy`.
///
/// A method whose file does not exist refuses everybody; a warning says so.
///
/// # Errors
/// [`AccessFileError`].
pub(crate) fn load(config: &Config) -> Result<(Auth, Arc<dyn Policy>), AccessFileError> {
    load_from(config, &DIRS.map(PathBuf::from))
}

fn load_from(config: &Config, dirs: &[PathBuf]) -> Result<(Auth, Arc<dyn Policy>), AccessFileError> {
    let methods = |list: &[AuthMethod]| {
        list.iter().fold(Methods::NONE, |set, method| {
            set.with(match method {
                AuthMethod::Null => Method::Null,
                AuthMethod::Ip => Method::Ip,
                AuthMethod::Pword => Method::Pword,
            })
        })
    };
    let mut auth = Auth {
        allowed: methods(&config.options.allowed_auth()),
        required: methods(config.options.required_auth_methods.as_deref().unwrap_or_default()),
        ..Auth::default()
    };
    let uses = |method| auth.allowed.contains(method) || auth.required.contains(method);
    let (ip, pword) = (uses(Method::Ip), uses(Method::Pword));
    if ip && let Some((file, text)) = read_for("IP", "spread.access_ip", dirs)? {
        auth.access = AccessList::parse(&text).map_err(|error| AccessFileError::Addresses { file, error })?;
    }
    if pword && let Some((file, text)) = read_for("PWORD", "spread.access_pword", dirs)? {
        auth.passwords =
            Passwords::parse(&text).map_err(|error| AccessFileError::Passwords { file, error })?;
    }
    let policy: Arc<dyn Policy> = match config.options.access_control_policy.unwrap_or_default() {
        PolicyWord::Permit => Arc::new(Permit),
        PolicyWord::File => {
            const NAME: &str = "spread.access_policy";
            let (file, text) = read(NAME, dirs)?.ok_or(AccessFileError::NoRules(NAME))?;
            Arc::new(Rules::parse(&text).map_err(|error| AccessFileError::Rules { file, error })?)
        }
    };
    Ok((auth, policy))
}

fn read_for(
    method: &str,
    name: &str,
    dirs: &[PathBuf],
) -> Result<Option<(PathBuf, String)>, AccessFileError> {
    let found = read(name, dirs)?;
    if found.is_none() {
        warn!("The {method} method is configured, but there is no file {name}: it refuses everybody.");
    }
    Ok(found)
}

fn read(name: &str, dirs: &[PathBuf]) -> Result<Option<(PathBuf, String)>, AccessFileError> {
    for file in dirs.iter().map(|dir| dir.join(name)) {
        match std::fs::read_to_string(&file) {
            Ok(text) => return Ok(Some((file, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(AccessFileError::Read { file, source }),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SystemHost, parse};

    #[test]
    fn files_are_read_where_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [PathBuf::from("/nonexistent"), dir.path().to_owned()];
        let config = |options: &str| {
            let text = format!("Spread_Segment 127.0.0.255 {{ a 127.0.0.1 }}\n{options}");
            parse("test.conf", text.as_bytes(), &SystemHost).unwrap()
        };
        let plain = config("");
        let all = config("AllowedAuthMethods = \"IP PWORD\"\nAccessControlPolicy = FILE");
        let (auth, policy) = load_from(&plain, &dirs).unwrap();
        assert!(auth.allowed.contains(Method::Null) && policy.permits_all());
        let error = load_from(&all, &dirs).unwrap_err();
        assert!(matches!(error, AccessFileError::NoRules(_)), "{error}");
        std::fs::write(dir.path().join("spread.access_policy"), "allow any *\n").unwrap();
        let (auth, policy) = load_from(&all, &dirs).unwrap();
        assert!(auth.passwords.is_empty() && !policy.permits_all(), "nobody passes, and no more is needed");
        std::fs::write(dir.path().join("spread.access_pword"), "a:abgOeLfPimXQo\n").unwrap();
        assert!(!load_from(&all, &dirs).unwrap().0.passwords.is_empty());
        std::fs::write(dir.path().join("spread.access_ip"), "local\nnowhere\n").unwrap();
        let error = load_from(&all, &dirs).unwrap_err().to_string();
        assert!(error.contains("spread.access_ip: line 2"), "{error}");
        load_from(&plain, &dirs).unwrap();
    }
}
