//! The thread that listens to the log groups.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use log_stream::frame::ANYONE;
use log_stream::{Frame, Kind, TYPE_FRAME};
use spread::blocking::Connection;
use spread::{Builder, GroupName, PrivateGroup, Reconnect, Service};
use tracing::{debug, warn};

use crate::sources::Question;
use crate::state::Shared;

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Source {
    /// Connect string of the daemon.
    pub daemon: String,
    /// The groups to join: those with numbers of lines before those with the lines.
    pub groups: Vec<GroupName>,
}

/// Messages that are handled under one lock.
const BATCH: usize = 256;

/// Connects, joins, and keeps `state` up to date in a thread of its own for as long as the program runs. A lost
/// connection is made again; the viewers are told what that means for the figures.
///
/// # Errors
/// If the first connection cannot be made.
pub fn start(source: &Source, state: Shared) -> anyhow::Result<()> {
    let builder = Builder::new(&source.daemon)
        .with_context(|| format!("`{}` is not the address of a daemon (4803, or 4803@host)", source.daemon))?
        .membership(true)
        .connect_timeout(Some(Duration::from_secs(5)))
        .reconnect(Reconnect::default());
    let mut connection = builder
        .connect_blocking()
        .with_context(|| format!("cannot connect to the daemon at {}; is spreadd running?", source.daemon))?;
    for group in &source.groups {
        connection.join(*group).with_context(|| format!("cannot join {group}"))?;
    }
    state.lock().set_connected(now_ms(), Some(connection.address().to_string()));
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        loop {
            let mut next = match connection.receive() {
                Ok(message) => Some(message),
                Err(error) => {
                    warn!(%error, "The connection is lost for good.");
                    state.lock().set_connected(now_ms(), None);
                    return;
                }
            };
            let now = now_ms();
            let mut locked = state.lock();
            for _ in 0..BATCH {
                let Some(message) = next else { break };
                locked.handle_message(now, &message);
                // What is wrong with the connection shows at the next receive.
                next = connection.try_receive().unwrap_or_default();
            }
            if let Some(message) = next {
                locked.handle_message(now, &message);
            }
            let questions = locked.take_questions();
            drop(locked);
            for question in questions {
                ask(&mut connection, &question);
            }
        }
    })?;
    Ok(())
}

/// Asks a sender to say hello.
fn ask(connection: &mut Connection, question: &Question) {
    // Whoever sends has a private name.
    let Ok(to) = PrivateGroup::parse(&question.sender) else { return };
    let to = to.as_group();
    let Some(frame) = Frame::encode(Kind::Ask, 0, ANYONE, 0, 0, &[&question.group]) else { return };
    match connection.multicast(Service::FIFO, to, TYPE_FRAME, frame) {
        Ok(()) => debug!(sender = %to, "Asked who it is."),
        // It is asked again when it sends more; what is wrong with the connection shows at the next receive.
        Err(error) => debug!(sender = %to, %error, "Cannot ask who it is."),
    }
}
