//! The session with a daemon: an attempt to connect, the thread that receives, handing over messages.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log_stream::{Service as Wanted, Transmit};
use spread::blocking::{Receiver, Sender};
use spread::{Builder, ConnectError, GroupName, Message, SendError};

use crate::child::Desk;
use crate::counters::Counters;
use crate::settings::Daemon;

/// A daemon that takes nothing for so long counts as dead.
pub(crate) const PROGRESS_LIMIT: Duration = Duration::from_secs(5);

/// A session that is up.
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) sender: Sender,
    own: GroupName,
    /// The daemon, as written.
    pub(crate) text: String,
}

impl Session {
    /// A session that was opened.
    pub(crate) fn new(number: u64, sender: Sender, text: String) -> Self {
        let own = sender.private_group().as_group();
        Self { number, sender, own, text }
    }

    /// The own private group.
    pub(crate) fn own(&self) -> GroupName {
        self.own
    }

    /// Hands a message over.
    pub(crate) fn put(
        &mut self,
        transmit: &Transmit,
        lines: spread::Service,
        limit: Duration,
    ) -> Result<(), SendError> {
        let service = match transmit.service {
            Wanted::Lines => lines,
            Wanted::Safe => spread::Service::SAFE,
        };
        let group = match &transmit.group {
            Some(name) => GroupName::new(name)
                .map_err(|_| SendError::IllegalGroup { name: String::from_utf8_lossy(name).into_owned() })?,
            None => self.own,
        };
        self.sender.set_send_timeout(Some(limit));
        self.sender.enqueue(service, group, transmit.mess_type, transmit.payload.clone())
    }
}

/// An attempt to connect.
pub(crate) struct Attempt {
    pub(crate) daemons: Vec<Daemon>,
    /// For each daemon.
    pub(crate) limit: Duration,
    pub(crate) desk: &'static Desk,
    pub(crate) number: u64,
    pub(crate) counters: &'static Counters,
}

/// What came of an attempt: the sending half and the name of the daemon, or why there is none.
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) result: Result<(Sender, String), String>,
}

impl Attempt {
    /// Connects, tells the desk, then reads everything the daemon sends, so that it never takes this session for a slow
    /// one.
    pub(crate) fn run(self) {
        let Self { desk, number, .. } = self;
        let (sender, mut receiver, text) = match self.connect() {
            Ok(open) => open,
            Err(why) => return desk.opened(Opened { number, result: Err(why) }),
        };
        let own = sender.private_group().as_group();
        desk.opened(Opened { number, result: Ok((sender, text)) });
        while let Ok(message) = receiver.receive() {
            if let Message::Data(data) = message
                && data.groups().any(|g| g == own)
            {
                desk.deliver(data.to_bytes());
            }
        }
        desk.report_broken(number);
    }

    fn connect(&self) -> Result<(Sender, Receiver, String), String> {
        let mut failures = Vec::new();
        for daemon in &self.daemons {
            match open(daemon.address.clone(), self.limit) {
                Ok((sender, receiver)) => return Ok((sender, receiver, daemon.text.clone())),
                Err(error) => failures.push(format!("{}: {}", daemon.text, chain(&error))),
            }
            self.counters.connect_failures.fetch_add(1, Relaxed);
        }
        Err(failures.join("; "))
    }
}

fn open(address: spread::Address, limit: Duration) -> Result<(Sender, Receiver), ConnectError> {
    // A name in use is very unlikely (it has 4 random digits); the next attempt takes another one.
    let builder = Builder::from_address(address);
    let builder = builder
        .clone()
        .private_name(&private_name())
        .unwrap_or(builder)
        .membership(false)
        .connect_timeout(Some(limit))
        .send_timeout(Some(PROGRESS_LIMIT));
    Ok(builder.connect_blocking()?.split())
}

/// `m`, the process id and four random digits, all in base 36.
// spec: mod_log_spread 4.1
fn private_name() -> String {
    let mut name = String::from("m");
    name.push_str(&base36(u64::from(std::process::id()), 1));
    let noise = random::<8>().map_or(0, u64::from_le_bytes);
    name.push_str(&base36(noise % 36u64.pow(4), 4));
    name.truncate(10);
    name
}

fn base36(mut value: u64, width: usize) -> String {
    let mut digits = Vec::new();
    while value > 0 || digits.len() < width {
        digits.push(char::from_digit(u32::try_from(value % 36).unwrap_or(0), 36).unwrap_or('0'));
        value /= 36;
    }
    digits.iter().rev().collect()
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut have = 0;
    while have < N {
        // SAFETY: the rest of the array is writable.
        let got = unsafe { libc::getrandom(bytes[have..].as_mut_ptr().cast(), N - have, 0) };
        match usize::try_from(got) {
            Ok(n) => have += n,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(bytes)
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}
