//! The control socket in `UnixSocketDir`: who connects is given the matrix and the counters as JSON, and that is all.
//!
//! Unlike the diagnostic page it also answers when all workers are busy or stuck.
// spec: mod_backhand 2.1, mod_backhand-httpd24 6.6

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use backhand::Table;
use backhand::matrix::SLOTS_MAX;

use crate::page::json_page;

/// Name of the socket in the folder.
const NAME: &str = "mod_backhand-control";
/// A client that does not read is left after this time: one answer is given at a time.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// Where it is, if this server has a folder for it.
pub(crate) fn path(arriba_file: Option<&Path>) -> Option<PathBuf> {
    Some(arriba_file?.parent()?.join(NAME))
}

/// Listens, and answers in a thread of its own. The socket of a former manager makes way.
///
/// # Errors
/// If the folder cannot be written, or something else has the name.
pub(crate) fn start(path: &Path, table: &'static Table<SLOTS_MAX>) -> std::io::Result<()> {
    remove(path)?;
    let listener = UnixListener::bind(path)?;
    // The user and the group of the server, and root.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    thread::Builder::new().name("backhand-control".to_owned()).spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else {
                // For example too many open files. Not in a tight loop.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // A client that is gone has no wish any more.
            let _ = client.set_write_timeout(Some(WRITE_MAX));
            let _ = client.write_all(json_page(table).as_bytes());
        }
    })?;
    Ok(())
}

/// Takes the socket away. What is no socket stays, and is an error.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(std::io::Error::other("it is there and is no socket")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
