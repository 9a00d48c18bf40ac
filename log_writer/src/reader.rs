//! The session of a writer: connects, joins, reads, and connects again. It never waits for a disk.
// spec: log_writer 5.4, L-9

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spread::blocking::{Receiver, Sender};
use spread::{Builder, ConnectError, GroupName};
use tracing::{info, warn};

use crate::config::SessionConfig;
use crate::queue::{Item, Message, Pushed, Queue};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The reader looks at the stop flag at least so often.
const TICK: Duration = Duration::from_millis(200);
/// At the end of the program, what was ordered before it is waited for so long.
const END_LIMIT: Duration = Duration::from_secs(1);
/// The same trouble is written to the log at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Flags and counters that threads and signals share.
#[derive(Debug, Default)]
pub struct Control {
    /// End in order.
    pub stop: AtomicBool,
    /// How often files are to be opened anew.
    pub reopens: AtomicU64,
    /// How often new files are to be begun.
    pub rotations: AtomicU64,
    /// How often counters are to be shown.
    pub shows: AtomicU64,
}

impl Control {
    /// True when the program is to end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Reads one session into a queue until the program ends.
pub struct Reader {
    config: SessionConfig,
    /// Pairs of joined group and log group; audit groups first.
    groups: Vec<(GroupName, Bytes, bool)>,
    queue: Arc<Queue>,
    control: Arc<Control>,
    /// The last sender, to share its name among its messages.
    sender: (GroupName, Bytes),
}

impl Reader {
    /// A reader; audit groups have this suffix.
    pub fn new(
        config: SessionConfig,
        audit_suffix: Option<&str>,
        queue: Arc<Queue>,
        control: Arc<Control>,
    ) -> Self {
        let mut groups = Vec::new();
        for group in config.groups() {
            let log = Bytes::copy_from_slice(group.as_bytes());
            let audit =
                audit_suffix.and_then(|s| GroupName::new(&[group.as_bytes(), s.as_bytes()].concat()).ok());
            groups.extend(audit.map(|audit| (audit, log.clone(), true)));
            groups.push((group, log, false));
        }
        // What is said about lines must not be missed when lines are received.
        groups.sort_by_key(|(_, _, audit)| !audit);
        let none = GroupName::from_field([0; 32]);
        Self { config, groups, queue, control, sender: (none, Bytes::new()) }
    }

    /// The audit groups that are joined.
    pub fn audit_groups(&self) -> Vec<GroupName> {
        self.groups.iter().filter(|(_, _, audit)| *audit).map(|(group, ..)| *group).collect()
    }

    /// The thread: returns when the program ends.
    pub fn run(mut self) {
        let mut pause = Duration::ZERO;
        let mut complained: Option<Instant> = None;
        let mut lost: Option<Instant> = None;
        while !self.control.stopping() {
            match self.connect() {
                Ok((name, sender, receiver)) => {
                    (pause, complained) = (Duration::ZERO, None);
                    let down_ms = lost.map(|at| at.elapsed().as_millis());
                    info!(daemon = %name, session = %sender.private_group(), down_ms, "Session is up.");
                    if self.queue.push(Item::Up(sender), |_| ()) == Pushed::Closed {
                        return;
                    }
                    let why = self.read(receiver);
                    if self.control.stopping() {
                        return;
                    }
                    warn!(
                        daemon = %name, %why,
                        "Session lost. Numbered sources will send what is missing; lines of others are missing \
                         from here until the next session."
                    );
                    lost = Some(Instant::now());
                    if self.queue.push(Item::Lost, |_| ()) == Pushed::Closed {
                        return;
                    }
                }
                Err(errors) => {
                    pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                    if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                        complained = Some(Instant::now());
                        warn!(%errors, "No daemon answers; trying again.");
                    }
                    self.sleep(pause);
                }
            }
        }
    }

    fn sleep(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.control.stopping() && Instant::now() < end {
            thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Connects to the first daemon that answers, and joins.
    fn connect(&self) -> Result<(String, Sender, Receiver), String> {
        let mut errors = Vec::new();
        for (text, address) in &self.config.daemons {
            if self.control.stopping() {
                break;
            }
            match self.session(address.clone()) {
                Ok((sender, receiver)) => return Ok((text.clone(), sender, receiver)),
                Err(error) => errors.push(format!("{text}: {error:#}")),
            }
        }
        Err(errors.join("; "))
    }

    fn session(&self, address: spread::Address) -> anyhow::Result<(Sender, Receiver)> {
        let builder =
            || Builder::from_address(address.clone()).membership(true).connect_timeout(Some(CONNECT_LIMIT));
        let named = builder().private_name(&format!("lw{}", std::process::id() % 100_000_000))?;
        let connection = match named.connect_blocking() {
            // Another writer of this process has the name (one session per Spread block): take any.
            Err(ConnectError::Rejected { .. }) => builder().connect_blocking()?,
            other => other?,
        };
        let (mut sender, receiver) = connection.split();
        for (group, _, _) in &self.groups {
            sender.join(*group)?;
        }
        Ok((sender, receiver))
    }

    /// Reads until the session breaks or the program ends; tells why. At the end, up to the message that the writer
    /// sends to this session then: whatever was ordered before it is read.
    fn read(&mut self, mut receiver: Receiver) -> String {
        let mut missing: BTreeSet<GroupName> = self.groups.iter().map(|(group, _, _)| *group).collect();
        let own = receiver.private_group().as_group();
        let mut deadline = None;
        loop {
            if self.control.stopping() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_LIMIT);
                if !missing.is_empty() || Instant::now() >= deadline {
                    return "the program ends".into();
                }
            }
            let message = match receiver.receive_timeout(TICK) {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(error) => return format!("{:#}", anyhow::Error::from(error)),
            };
            match message {
                spread::Message::Data(data) if data.sender() == own && data.groups().any(|g| g == own) => {
                    return "the program ends".into();
                }
                spread::Message::Data(data) if !self.deliver(&data) => return "the writer ended".into(),
                spread::Message::Membership(view) => {
                    if missing.remove(&view.group) && missing.is_empty() {
                        info!(groups = %self.names(), "Joined; lines are written from here.");
                    }
                    let members = view.members.len();
                    tracing::debug!(group = %view.group, members, cause = ?view.cause, "Membership changed.");
                }
                _ => {}
            }
        }
    }

    fn names(&self) -> String {
        let logs = self.groups.iter().filter(|(_, _, audit)| !audit);
        logs.map(|(group, _, _)| group.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Puts a message into the queue, once for each of our groups it was sent to.
    fn deliver(&mut self, data: &spread::Data) -> bool {
        if self.sender.0 != data.sender() {
            self.sender = (data.sender(), Bytes::copy_from_slice(data.sender().as_bytes()));
        }
        for target in data.groups() {
            let Some((_, group, audit)) = self.groups.iter().find(|(group, _, _)| *group == target) else {
                continue;
            };
            let message = Message {
                sender: self.sender.1.clone(),
                group: group.clone(),
                audit: *audit,
                mess_type: data.message_type(),
                payload: data.to_bytes(),
            };
            let slow = |why: Option<std::io::Error>| {
                let fill = self.queue.fill();
                let disk = why.map(|error| error.to_string());
                warn!(
                    bytes = fill.bytes,
                    spilled = fill.spilled,
                    disk,
                    "The output is slow: everything that may be read ahead is read, reading stops. When it lasts, the \
                     daemon drops this session; numbered sources then send again, others lose lines."
                );
            };
            match self.queue.push(Item::Message(message), slow) {
                Pushed::Done => {}
                Pushed::Spills => {
                    let bytes = self.queue.fill().bytes;
                    warn!(bytes, "The output is slow: memory for reading ahead is full, lines wait on disk.");
                }
                Pushed::Waited(time) => {
                    info!(waited_ms = time.as_millis(), "The output took lines again; reading goes on.");
                }
                Pushed::Closed => return false,
            }
        }
        true
    }
}
