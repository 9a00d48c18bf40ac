//! Announcements over a Spread group.
// spec: mod_backhand 8

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use backhand::Via;
use httpd::Level;
use spread::blocking::{Receiver, Sender};
use spread::{Builder, GroupName, Message, SendError, Service};

use crate::manager::Core;
use crate::settings::Category;

/// Message type of announcements; others are ignored.
const MESSAGE_TYPE: i16 = 0x4248;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The session with the daemon: this end sends, a thread receives and keeps it up.
pub(crate) struct SpreadLink {
    group: GroupName,
    sender: Arc<Mutex<Option<Sender>>>,
    stop: Arc<AtomicBool>,
}

impl SpreadLink {
    /// Starts the thread.
    pub(crate) fn start(core: &Arc<Core>, group: &str) -> Option<Self> {
        let group = GroupName::new(group.as_bytes()).ok()?;
        let link = Self { group, sender: Arc::default(), stop: Arc::default() };
        let (core, sender, stop) = (Arc::clone(core), Arc::clone(&link.sender), Arc::clone(&link.stop));
        let spawned = {
            let core = Arc::clone(&core);
            thread::Builder::new()
                .name("backhand-spread".into())
                .spawn(move || keep_up(&core, group, &sender, &stop))
        };
        match spawned {
            Ok(_) => Some(link),
            Err(error) => {
                core.log(
                    Category::Manager,
                    Level::Error,
                    &format!("no thread for the Spread session: {error}"),
                );
                None
            }
        }
    }

    /// Sends without waiting. `None` while there is no session; an announcement for which there is no room is skipped.
    pub(crate) fn send(&self, bytes: &[u8]) -> Option<Result<(), String>> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let result =
            sender.as_mut()?.try_multicast(Service::FIFO.self_discard(), self.group, MESSAGE_TYPE, bytes);
        match result {
            Ok(()) => Some(Ok(())),
            Err(SendError::TimedOut) => Some(Err("to the group: the daemon takes nothing".to_owned())),
            // The receiving thread sees the end too, and makes a new session.
            Err(error) => {
                *sender = None;
                Some(Err(format!("to the group: {error}")))
            }
        }
    }

    /// Leaves the daemon, so that the others see it at once.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut sender) = sender {
            sender.set_send_timeout(Some(Duration::from_millis(200)));
            // The process ends anyway.
            let _ = sender.disconnect();
        }
    }
}

fn keep_up(core: &Core, group: GroupName, sender: &Mutex<Option<Sender>>, stop: &AtomicBool) {
    let mut pause = RETRY_FIRST;
    let mut complained = false;
    while !stop.load(Relaxed) {
        match connect(core, group) {
            Ok((out, mut input)) => {
                core.log(Category::Net, Level::Info, &format!("member of the group {group}"));
                *sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(out);
                (pause, complained) = (RETRY_FIRST, false);
                let why = receive(core, group, &mut input);
                *sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if !stop.load(Relaxed) {
                    core.log(Category::Net, Level::Warning, &format!("the Spread session is lost: {why}"));
                }
            }
            Err(why) => {
                if !std::mem::replace(&mut complained, true) {
                    let text =
                        format!("no Spread daemon for BackhandStatsGroup {group}: {why}; trying again");
                    core.log(Category::Net, Level::Warning, &text);
                }
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn connect(core: &Core, group: GroupName) -> Result<(Sender, Receiver), String> {
    let name = format!("bh{}", std::process::id() % 100_000_000);
    let connection = Builder::from_address(core.plan.global.daemon.clone())
        .private_name(&name)
        .map_err(|e| e.to_string())?
        .membership(true)
        .connect_timeout(Some(CONNECT_LIMIT))
        .connect_blocking();
    let mut connection = connection.map_err(|e| e.to_string())?;
    connection.join(group).map_err(|e| e.to_string())?;
    Ok(connection.split())
}

/// Until the session ends; says why.
fn receive(core: &Core, group: GroupName, input: &mut Receiver) -> String {
    loop {
        match input.receive() {
            Ok(Message::Data(data)) if data.message_type() == MESSAGE_TYPE => {
                core.hear(Via::Spread(&data.sender().to_string()), data.payload());
            }
            Ok(Message::Membership(view)) if view.group == group => {
                let members: Vec<String> = view.members.iter().map(ToString::to_string).collect();
                core.members(|member| members.iter().any(|m| m == member));
            }
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}
