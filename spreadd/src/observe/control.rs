//! The control socket: how `spreadd status` asks a running daemon.
//!
//! A Unix socket beside the one for clients, named `<port>.control`. It is for root and for the user the daemon
//! runs as; the system says who asks. A question is one line; the answer ends with the connection:
//!
//! | question | answer |
//! |---|---|
//! | `status` | [`Snapshot`] as JSON |
//! | `events` | the last events of the ring thread, one per line |
//! | `changes` | the events before each of the last membership changes |
//!
//! An answer that begins with `error: ` says why there is none.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::probe::{Detail, Probe};
use super::snapshot::Snapshot;

/// Ending of the socket's name.
pub const SUFFIX: &str = ".control";
/// Longest question, in bytes.
const QUESTION_MAX: usize = 64;
/// Connections at once; further ones wait.
const CONNECTIONS_MAX: usize = 4;
/// Time for a question and its answer.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Longest answer that is taken, in bytes.
const ANSWER_MAX: u64 = 64 << 20;
/// Pause after the system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The control socket of the daemon on `port`.
pub fn path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("{port}{SUFFIX}"))
}

/// Serves for ever.
pub(crate) async fn serve(listener: UnixListener, probe: Arc<Probe>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "Cannot accept a connection on the control socket; trying again.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let probe = Arc::clone(&probe);
        tokio::spawn(async move {
            if !matches!(timeout(TIME_MAX, converse(stream, probe)).await, Ok(Ok(()))) {
                debug!("A question on the control socket was not answered.");
            }
            drop(permit);
        });
    }
}

async fn converse(mut stream: UnixStream, probe: Arc<Probe>) -> io::Result<()> {
    let asker = Uid::from_raw(stream.peer_cred()?.uid());
    // Read in any case: a question that meets a closed socket would never see the answer.
    let text = match read_question(&mut stream).await? {
        _ if !asker.is_root() && asker != Uid::effective() => {
            "error: only root and the user that the daemon runs as may ask\n".to_owned()
        }
        Some(question) => answer(&question, probe).await,
        None => "error: a question is one short line\n".to_owned(),
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

async fn read_question(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::with_capacity(QUESTION_MAX);
    while line.len() < QUESTION_MAX {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            return Ok(String::from_utf8(line).ok());
        }
        line.push(byte);
    }
    Ok(None)
}

async fn answer(question: &str, probe: Arc<Probe>) -> String {
    let question = question.to_owned();
    // The ring thread is waited for: not on a thread that serves clients.
    let answered = tokio::task::spawn_blocking(move || match question.as_str() {
        "status" => {
            let look = probe.look(Detail::STATUS)?;
            let json = serde_json::to_string(&Snapshot::of(&look));
            Some(json.unwrap_or_else(|error| format!("error: {error}")) + "\n")
        }
        "events" => probe.blackbox(),
        "changes" => Some(changes(&probe.look(Detail::SUMS)?)),
        _ => Some("error: there are the questions status, events and changes\n".to_owned()),
    });
    match answered.await {
        Ok(Some(text)) => text,
        _ => "error: the ring thread does not answer\n".to_owned(),
    }
}

fn changes(look: &super::probe::Look) -> String {
    let mut text = String::new();
    for (row, change) in Snapshot::of(look).changes.iter().zip(&look.ring.changes) {
        text.push_str(&format!(
            "== {:.1} s ago: ring {} of {} ({})\n{}",
            row.seconds_ago,
            row.id,
            row.members.join(" "),
            row.cause,
            change.events
        ));
    }
    text
}

/// Why a running daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The folder of sockets cannot be read.
    #[error("cannot look for daemons in {}", dir.display())]
    Dir {
        /// The folder.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No control socket.
    #[error(
        "no daemon runs here: there is no control socket in {}. If its sockets are elsewhere, say so with \
         --socket-dir",
        dir.display()
    )]
    NoDaemon {
        /// Where was looked.
        dir: PathBuf,
    },
    /// More than one control socket.
    #[error("several daemons run here; choose one with --port: {}", list(ports))]
    Several {
        /// Their ports.
        ports: Vec<u16>,
    },
    /// The socket of the port is not there.
    #[error("no daemon runs here on port {port}: there is no {}", path.display())]
    NotThere {
        /// The port.
        port: u16,
        /// The missing socket.
        path: PathBuf,
    },
    /// The socket of a daemon that is gone.
    #[error("no daemon answers at {}: it ended without removing this file", path.display())]
    Dead {
        /// The socket.
        path: PathBuf,
    },
    /// Not root, and not the user of the daemon.
    #[error(
        "{}: permission denied; only root and the user that the daemon runs as may ask", path.display()
    )]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Asking failed in another way.
    #[error("cannot ask the daemon at {}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The daemon says why not.
    #[error("the daemon answers: {0}")]
    Refused(String),
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Finds the control socket in `dir`: of `port`, or the only one that is there.
///
/// # Errors
/// [`AskError`].
pub fn find(dir: &Path, port: Option<u16>) -> Result<PathBuf, AskError> {
    if let Some(port) = port {
        let path = path(dir, port);
        return if path.exists() { Ok(path) } else { Err(AskError::NotThere { port, path }) };
    }
    let failed = |source| AskError::Dir { dir: dir.to_owned(), source };
    let mut ports: Vec<u16> = std::fs::read_dir(dir)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(SUFFIX)?.parse().ok())
        .collect();
    ports.sort_unstable();
    // What dead daemons left does not count, unless there is nothing else.
    let living =
        ports.iter().copied().filter(|port| StdStream::connect(path(dir, *port)).is_ok()).collect::<Vec<_>>();
    match (living.as_slice(), ports.as_slice()) {
        ([port], _) | ([], [port]) => Ok(path(dir, *port)),
        ([], []) => Err(AskError::NoDaemon { dir: dir.to_owned() }),
        ([], _) => Err(AskError::Several { ports }),
        _ => Err(AskError::Several { ports: living }),
    }
}

/// Asks the daemon at `path` one of the questions of this module.
///
/// # Errors
/// [`AskError`].
pub fn ask(path: &Path, question: &str) -> Result<String, AskError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => AskError::Dead { path: path.to_owned() },
        io::ErrorKind::PermissionDenied => AskError::Denied { path: path.to_owned() },
        _ => AskError::Failed { path: path.to_owned(), source },
    };
    let mut stream = StdStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(TIME_MAX)).map_err(failed)?;
    stream.set_write_timeout(Some(TIME_MAX)).map_err(failed)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut text = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut text).map_err(failed)?;
    match text.strip_prefix("error: ") {
        Some(reason) => Err(AskError::Refused(reason.trim_end().to_owned())),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_or_it_is_said_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let message = |port| find(dir.path(), port).unwrap_err().to_string();
        assert!(message(None).starts_with("no daemon runs here: there is no control socket in "));
        assert!(message(Some(4803)).starts_with("no daemon runs here on port 4803: there is no "));
        let bind = |port| std::os::unix::net::UnixListener::bind(path(dir.path(), port)).unwrap();
        drop(bind(4803));
        assert_eq!(find(dir.path(), None).unwrap(), path(dir.path(), 4803), "the only one, though dead");
        let dead = ask(&path(dir.path(), 4803), "status").unwrap_err().to_string();
        assert!(dead.ends_with("it ended without removing this file"), "{dead}");
        let _living = (bind(4805), std::fs::write(dir.path().join("x.control"), ""));
        assert_eq!(find(dir.path(), None).unwrap(), path(dir.path(), 4805), "the only living one");
        let _other = bind(4807);
        assert_eq!(message(None), "several daemons run here; choose one with --port: 4805, 4807");
        assert_eq!(find(dir.path(), Some(4807)).unwrap(), path(dir.path(), 4807));
        let missing = find(&dir.path().join("no"), None).unwrap_err().to_string();
        assert!(missing.starts_with("cannot look for daemons in "), "{missing}");
    }
}
