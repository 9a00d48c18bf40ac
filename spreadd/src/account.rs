//! `DaemonUser` and `DaemonGroup`: who a daemon becomes that was started as root.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, chown, initgroups, setgid, setgroups, setuid};
use tracing::warn;

/// Why the daemon cannot become another user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// No such user or group.
    #[error("`{word} = {name}`: this host has no such {what}")]
    Unknown {
        /// The option.
        word: &'static str,
        /// Its value.
        name: String,
        /// `user` or `group`.
        what: &'static str,
    },
    /// The system refused a step.
    #[error("cannot {step}")]
    Refused {
        /// The step.
        step: &'static str,
        /// The system's reason.
        source: Errno,
    },
    /// A file cannot be given to the user.
    #[error("cannot give {} to the user of `DaemonUser`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: Errno,
    },
}

/// A user and group of this host.
#[derive(Clone, Debug)]
pub struct Account {
    user: Option<(CString, Uid)>,
    group: Gid,
}

impl Account {
    /// Looks up the values of the two options. `None`: there is nothing to do, because none is set or the
    /// process is not root (which is told). Without `DaemonGroup` it is the user's own group.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], or the system's user database fails.
    pub fn find(user: Option<&OsStr>, group: Option<&OsStr>) -> Result<Option<Self>, AccountError> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        if !Uid::effective().is_root() {
            warn!("`DaemonUser` and `DaemonGroup` have no effect: the daemon was not started as root.");
            return Ok(None);
        }
        let failed = |step| move |source| AccountError::Refused { step, source };
        let user = match user {
            Some(name) => {
                let unknown = || AccountError::Unknown {
                    word: "DaemonUser",
                    name: name.to_string_lossy().into_owned(),
                    what: "user",
                };
                let found = User::from_name(name.to_str().ok_or_else(unknown)?);
                Some(found.map_err(failed("read the user database"))?.ok_or_else(unknown)?)
            }
            None => None,
        };
        let group = match group {
            Some(name) => {
                let unknown = || AccountError::Unknown {
                    word: "DaemonGroup",
                    name: name.to_string_lossy().into_owned(),
                    what: "group",
                };
                let found = Group::from_name(name.to_str().ok_or_else(unknown)?);
                found.map_err(failed("read the group database"))?.ok_or_else(unknown)?.gid
            }
            None => user.as_ref().map_or_else(Gid::current, |user| user.gid),
        };
        let user =
            user.and_then(|user| Some((CString::new(OsStr::new(&user.name).as_bytes()).ok()?, user.uid)));
        Ok(Some(Self { user, group }))
    }

    /// Gives `files` to the user, then becomes the user for good, with all threads of the process.
    ///
    /// # Errors
    /// A step is refused; the process must end then.
    pub fn enter(&self, files: &[&Path]) -> Result<(), AccountError> {
        for file in files {
            // It may be gone, or never have been made.
            match chown(*file, self.user.as_ref().map(|(_, uid)| *uid), Some(self.group)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(source) => return Err(AccountError::File { path: file.to_path_buf(), source }),
            }
        }
        let failed = |step| move |source| AccountError::Refused { step, source };
        match &self.user {
            Some((name, _)) => initgroups(name, self.group),
            None => setgroups(&[self.group]),
        }
        .map_err(failed("set the groups of the process"))?;
        setgid(self.group).map_err(failed("set the group of the process"))?;
        if let Some((_, uid)) = &self.user {
            setuid(*uid).map_err(failed("set the user of the process"))?;
            if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
                return Err(AccountError::Refused {
                    step: "give up the rights of root",
                    source: Errno::EPERM,
                });
            }
        }
        Ok(())
    }
}
