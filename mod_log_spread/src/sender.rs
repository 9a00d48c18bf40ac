//! The background thread of a child: the session with the daemon.
// spec: mod_log_spread 5, 9.2

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httpd::{Level, Log};
use log_stream::{Publisher, PublisherConfig, Service as Wanted, SourceId, Transmit};
use spread::blocking::{Receiver, Sender};
use spread::{Builder, ConnectError, GroupName, Message, SendError};

use crate::child::Desk;
use crate::counters::Counters;
use crate::plan::Link;
use crate::settings::Global;

/// A daemon that takes nothing for so long counts as dead.
const PROGRESS_LIMIT: Duration = Duration::from_secs(5);
/// One attempt to connect takes at most so long.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The sender looks at its timers at least so often while lines are under way.
const TICK: Duration = Duration::from_millis(100);
/// And so often when nothing is to be done.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Losses are reported at most so often.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// When so little time is left at the end of a child, one acknowledgement is enough.
const DRAIN_RELAX: Duration = Duration::from_millis(1_000);
const STACK_BYTES: usize = 256 << 10;

/// Starts the thread of one link.
pub(crate) fn start(
    desk: &'static Desk,
    link: Link,
    global: Global,
    counters: &'static Counters,
    log: Log,
    about: String,
) -> io::Result<()> {
    let source = SourceId(random()?);
    let cfg = PublisherConfig {
        source,
        audit: global.audit,
        acks: global.acks,
        batch_bytes: global.batch_bytes,
        about,
    };
    let mut publisher = Publisher::new(cfg, link.streams.clone());
    let now = seconds();
    for (index, stream) in (0..).zip(&link.streams).filter(|(_, s)| s.heard) {
        for writer in counters.writers(&stream.group, now) {
            publisher.expect_writer(Duration::ZERO, index, bytes::Bytes::copy_from_slice(&writer));
        }
    }
    let thread = SenderThread {
        desk,
        publisher,
        global,
        counters,
        log,
        link,
        begun: Instant::now(),
        session: None,
        sessions: 0,
        next_try: Instant::now(),
        pause: Duration::ZERO,
        complained: None,
        losses: Losses::default(),
        seen: (0, 0),
    };
    thread::Builder::new().name("spread-log".into()).stack_size(STACK_BYTES).spawn(move || thread.run())?;
    Ok(())
}

struct SenderThread {
    desk: &'static Desk,
    publisher: Publisher,
    global: Global,
    counters: &'static Counters,
    log: Log,
    link: Link,
    begun: Instant,
    session: Option<Session>,
    sessions: u64,
    next_try: Instant,
    pause: Duration,
    /// When a failure to connect was last written to the error log.
    complained: Option<Instant>,
    losses: Losses,
    /// Message counters of the publisher that are already in the shared ones.
    seen: (u64, u64),
}

struct Session {
    number: u64,
    sender: Sender,
    own: GroupName,
    text: String,
}

/// Losses that the error log does not know yet.
#[derive(Default)]
struct Losses {
    dropped_full: u64,
    in_doubt: u64,
    told: Option<Instant>,
}

impl SenderThread {
    fn run(mut self) {
        let mut records = VecDeque::new();
        let stop = loop {
            let wait = self.wait_time();
            let mut work = self.desk.wait(wait, records, self.global.queue_bytes);
            if let Some(deadline) = work.stop {
                self.publisher.handle_records(work.records.drain(..));
                break deadline;
            }
            self.batch_wait(&mut work.records);
            self.step(&mut work.records, work.inbox, work.broken, work.pressure);
            self.counters.queue_high_water.fetch_max(work.high_water as u64, Relaxed);
            records = work.records;
        };
        self.drain(stop);
        self.desk.finish();
    }

    /// How long the thread may sleep.
    fn wait_time(&self) -> Duration {
        match self.session {
            Some(_) if self.publisher.is_idle() => IDLE_TICK,
            Some(_) => TICK,
            None => self.next_try.saturating_duration_since(Instant::now()).min(IDLE_TICK),
        }
    }

    /// Waits a moment for more lines, so that frames are worth their head.
    fn batch_wait(&self, records: &mut VecDeque<log_stream::Record>) {
        let framed = self.link.streams.iter().any(|s| s.wire == log_stream::Wire::Framed);
        let bytes: usize = records.iter().map(log_stream::Record::cost).sum();
        if framed
            && !records.is_empty()
            && bytes < self.global.batch_bytes
            && !self.global.batch_wait.is_zero()
        {
            thread::sleep(self.global.batch_wait);
        }
    }

    fn step(
        &mut self,
        records: &mut VecDeque<log_stream::Record>,
        inbox: VecDeque<bytes::Bytes>,
        broken: Option<u64>,
        pressure: bool,
    ) {
        self.publisher.handle_records(records.drain(..));
        for payload in inbox {
            self.publisher.handle_private(self.begun.elapsed(), payload);
        }
        if broken.is_some() && broken == self.session.as_ref().map(|s| s.number) {
            self.lose("the daemon closed the session");
        }
        if self.session.is_none() && Instant::now() >= self.next_try {
            self.connect(CONNECT_LIMIT);
        }
        self.publisher.handle_timeout(self.begun.elapsed(), pressure);
        self.transmit(PROGRESS_LIMIT);
        self.account();
        self.report(false);
    }

    /// Hands everything that is due to the daemon.
    fn transmit(&mut self, limit: Duration) {
        while let Some(session) = &mut self.session {
            let now = self.begun.elapsed();
            let result = match self.publisher.poll_transmit(now) {
                Some(transmit) => session.put(&transmit, self.global.service, limit),
                None => match session.sender.flush_timeout(limit) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(()) => {}
                Err(SendError::TimedOut) => self.lose("the daemon takes nothing"),
                Err(error) => self.lose(&chain(&error)),
            }
        }
    }

    fn lose(&mut self, why: &str) {
        let Some(mut session) = self.session.take() else { return };
        self.counters.sessions.fetch_sub(1, Relaxed);
        self.counters.lost_sessions.fetch_add(1, Relaxed);
        self.publisher.handle_disconnected();
        self.account();
        let waiting = self.publisher.waiting();
        let text = format!("session with {} lost: {why}; lines waiting: {waiting}", session.text);
        self.log.write(Level::Warning, &text);
        // Closes the socket, so that the receiver ends too. Nothing is to be waited for.
        session.sender.set_send_timeout(Some(Duration::ZERO));
        let _ = session.sender.disconnect();
        self.pause = Duration::ZERO;
        self.next_try = Instant::now();
    }

    /// Tries all daemons in their order.
    fn connect(&mut self, limit: Duration) {
        let mut failures = Vec::new();
        for daemon in &self.link.daemons {
            match self.open(daemon.address.clone(), limit) {
                Ok((sender, receiver)) => {
                    let (text, own) = (daemon.text.clone(), sender.private_group().as_group());
                    return self.connected(sender, receiver, own, text);
                }
                Err(error) => failures.push(format!("{}: {}", daemon.text, chain(&error))),
            }
            self.counters.connect_failures.fetch_add(1, Relaxed);
        }
        self.failed(&failures.join("; "));
    }

    fn open(&self, address: spread::Address, limit: Duration) -> Result<(Sender, Receiver), ConnectError> {
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

    fn connected(&mut self, sender: Sender, receiver: Receiver, own: GroupName, text: String) {
        self.sessions += 1;
        let (desk, number) = (self.desk, self.sessions);
        let spawned = thread::Builder::new()
            .name("spread-log-in".into())
            .stack_size(STACK_BYTES)
            .spawn(move || receive(receiver, own, desk, number));
        if let Err(error) = spawned {
            return self.failed(&format!("no thread for the receiver: {error}"));
        }
        self.counters.connects.fetch_add(1, Relaxed);
        self.counters.sessions.fetch_add(1, Relaxed);
        let level = if self.complained.take().is_some() { Level::Notice } else { Level::Info };
        let waiting = self.publisher.waiting();
        self.log.write(level, &format!("session with {text} is up, as {own}; lines waiting: {waiting}"));
        self.pause = Duration::ZERO;
        self.session = Some(Session { number, sender, own, text });
        self.publisher.handle_connected(self.begun.elapsed(), self.link.announce.iter().copied());
    }

    fn failed(&mut self, why: &str) {
        let grown = if self.pause.is_zero() { self.global.retry_min } else { self.pause * 2 };
        self.pause = grown.min(self.global.retry_max);
        // A random part, so that the children do not come all at once.
        let jitter = random::<2>().map_or(0.5, |r| f64::from(u16::from_le_bytes(r)) / 65_536.0);
        self.next_try = Instant::now() + self.pause.mul_f64(0.5 + jitter / 2.0);
        if self.complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            self.complained = Some(Instant::now());
            self.log.write(Level::Error, &format!("no Spread daemon answers, lines wait in memory: {why}"));
        }
    }

    /// Moves what the publisher is done with into the counters, and gives its room back.
    fn account(&mut self) {
        let released = self.publisher.released();
        let counters = self.counters;
        counters.acked.fetch_add(released.acked, Relaxed);
        counters.acked_in_part.fetch_add(released.acked_in_part, Relaxed);
        counters.ordered.fetch_add(released.ordered, Relaxed);
        counters.in_doubt.fetch_add(released.in_doubt, Relaxed);
        counters.dropped_exit.fetch_add(released.dropped, Relaxed);
        self.losses.in_doubt += released.in_doubt;
        self.desk.release(released.cost);
        for stream in self.publisher.newly_heard() {
            if let Some(stream) = self.link.streams.get(stream as usize) {
                counters.set_heard(&stream.group);
            }
        }
        for ((stream, writer), here) in self.publisher.heard_writers() {
            if let Some(stream) = self.link.streams.get(stream as usize) {
                counters.note_writer(&stream.group, &writer, here, seconds());
            }
        }
        let (messages, resent) = self.publisher.messages();
        counters.messages.fetch_add(messages - self.seen.0, Relaxed);
        counters.resent.fetch_add(resent - self.seen.1, Relaxed);
        self.seen = (messages, resent);
        self.losses.dropped_full += self.desk.take_dropped();
    }

    /// Losses, with their numbers, at most every 10 s.
    // spec: mod_log_spread M-18
    fn report(&mut self, last: bool) {
        let Losses { dropped_full, in_doubt, told } = self.losses;
        let due = last || told.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if dropped_full + in_doubt == 0 || !due {
            return;
        }
        self.losses = Losses { told: Some(Instant::now()), ..Losses::default() };
        if dropped_full > 0 {
            let text = format!("lines dropped: {dropped_full}; the queue was full (SpreadLogQueue)");
            self.log.write(Level::Error, &text);
        }
        if in_doubt > 0 {
            let text = format!(
                "lines in doubt: {in_doubt}; sent, but the daemon went away before it confirmed them"
            );
            self.log.write(Level::Error, &text);
        }
    }

    /// The child ends: send and wait for confirmations until `deadline`.
    fn drain(&mut self, deadline: Instant) {
        let mut probed = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut records = self.desk.close();
            let (inbox, broken) = self.desk.take_inbox();
            if self.session.is_none() && self.publisher.waiting() > 0 && !left.is_zero() {
                self.next_try = self.next_try.min(deadline);
            }
            self.drain_step(&mut records, inbox, broken, left);
            if self.session.is_some() && std::mem::replace(&mut probed, self.sessions) != self.sessions {
                self.publisher.probe();
                self.transmit(left);
            }
            // A writer that is away must not cost what another has confirmed.
            if left < DRAIN_RELAX {
                self.publisher.relax(self.begun.elapsed());
                self.account();
            }
            if self.publisher.is_idle() || left.is_zero() {
                break;
            }
            // Confirmations come through the inbox; without a session the next attempt is what to wait for.
            let pause = if self.session.is_some() {
                TICK
            } else {
                self.next_try.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))
            };
            self.desk.wait_inbox(pause.min(left));
        }
        self.part(deadline);
    }

    fn drain_step(
        &mut self,
        records: &mut VecDeque<log_stream::Record>,
        inbox: VecDeque<bytes::Bytes>,
        broken: Option<u64>,
        left: Duration,
    ) {
        self.publisher.handle_records(records.drain(..));
        for payload in inbox {
            self.publisher.handle_private(self.begun.elapsed(), payload);
        }
        if broken.is_some() && broken == self.session.as_ref().map(|s| s.number) {
            self.lose("the daemon closed the session");
        }
        let worth = self.publisher.waiting() > 0 && left > Duration::from_millis(20);
        if self.session.is_none() && worth && Instant::now() >= self.next_try {
            self.connect(left.min(CONNECT_LIMIT));
        }
        self.publisher.handle_timeout(self.begun.elapsed(), false);
        self.transmit(left);
        self.account();
    }

    /// Farewell, and the final account of what could not be sent.
    fn part(&mut self, deadline: Instant) {
        let farewell = self.publisher.goodbyes();
        self.publisher.give_up();
        let released = self.publisher.released();
        self.counters.in_doubt.fetch_add(released.in_doubt, Relaxed);
        self.counters.dropped_exit.fetch_add(released.dropped, Relaxed);
        self.losses.in_doubt += released.in_doubt;
        if released.dropped > 0 {
            let text = format!("lines dropped: {}; the child ends and no daemon took them", released.dropped);
            self.log.write(Level::Error, &text);
        }
        self.report(true);
        if let Some(mut session) = self.session.take() {
            self.counters.sessions.fetch_sub(1, Relaxed);
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(50));
            for transmit in farewell {
                if session.put(&transmit, self.global.service, left).is_err() {
                    return;
                }
            }
            session.sender.set_send_timeout(Some(left));
            // Nothing is left to lose: an error here changes nothing.
            let _ = session.sender.disconnect();
        }
    }
}

impl Session {
    fn put(&mut self, transmit: &Transmit, lines: spread::Service, limit: Duration) -> Result<(), SendError> {
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

/// Reads everything the daemon sends, so that it never takes this session for a slow one.
fn receive(mut receiver: Receiver, own: GroupName, desk: &'static Desk, number: u64) {
    while let Ok(message) = receiver.receive() {
        if let Message::Data(data) = message
            && data.groups().any(|g| g == own)
        {
            desk.deliver(data.to_bytes());
        }
    }
    desk.report_broken(number);
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
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Random bytes of the system.
fn random<const N: usize>() -> io::Result<[u8; N]> {
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
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}
