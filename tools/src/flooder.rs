//! `spflooder`: many messages, and how fast they went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use spread::blocking::{Receiver, Sender};
use spread::{Message, Service};

use crate::cli::FlooderArgs;

/// How long a sender waits for its own messages before it says what is missing.
const STALL: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Messages sent.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// Bytes of data of a message.
    pub bytes: u32,
    /// From the first message to the last.
    pub seconds: f64,
    /// Messages that went by, each counted once.
    pub messages_per_second: f64,
    /// Their data.
    pub megabits_per_second: f64,
}

impl Figures {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn new(sent: u64, received: u64, bytes: u32, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let messages_per_second = sent.max(received) as f64 / seconds;
        let megabits_per_second = messages_per_second * f64::from(bytes) * 8.0 / 1e6;
        Self { sent, received, bytes, seconds, messages_per_second, megabits_per_second }
    }
}

/// What has come back. The sender goes no further ahead than the window: a daemon cuts off who does not keep up.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    failed: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Progress {
    fn tell(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// Waits until fewer than `window` of `sent` messages are under way.
    fn wait(&self, sent: u64, window: u64) -> anyhow::Result<()> {
        let end = Instant::now() + STALL;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.received.load(Ordering::Relaxed);
        let mut end_of_stall = end;
        loop {
            let received = self.received.load(Ordering::Relaxed);
            ensure!(!self.failed.load(Ordering::Relaxed), "the receiver failed");
            if sent.saturating_sub(received) < window {
                return Ok(());
            }
            if received != seen {
                (seen, end_of_stall) = (received, Instant::now() + STALL);
            }
            let left = end_of_stall.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "of {sent} messages {received} came back, then none for {STALL:?}");
            guard = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs the program.
///
/// # Errors
/// The end of the connection, or messages that do not come back.
pub fn run(args: &FlooderArgs) -> anyhow::Result<()> {
    let figures = flood(args)?;
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    println!(
        "{} messages sent, {} received, of {} bytes, in {:.3} s: {:.0} messages/s, {:.1} Mbit/s",
        figures.sent,
        figures.received,
        figures.bytes,
        figures.seconds,
        figures.messages_per_second,
        figures.megabits_per_second
    );
    Ok(())
}

fn flood(args: &FlooderArgs) -> anyhow::Result<Figures> {
    let (mut sender, mut receiver) = args.daemon.connect(false, false)?.split();
    let own = sender.private_group().as_group();
    if args.read_only {
        sender.join(args.group)?;
        let (count, time) = read_only(args, &mut receiver)?;
        sender.disconnect()?;
        return Ok(Figures::new(0, count, args.bytes, time));
    }
    if args.write_only {
        let start = Instant::now();
        write(args, &mut sender, None)?;
        sender.flush()?;
        let time = start.elapsed();
        sender.disconnect()?;
        return Ok(Figures::new(args.messages, 0, args.bytes, time));
    }
    sender.join(args.group)?;
    // The join has its place in the order: when this comes back, the group is joined.
    sender.multicast(Service::AGREED, own, 1, "")?;
    while !matches!(receiver.receive()?, Message::Data(data) if data.sender() == own) {}

    let progress = Arc::new(Progress::default());
    let start = Instant::now();
    let reader = {
        let (progress, count, window) = (Arc::clone(&progress), args.messages, args.window);
        thread::spawn(move || {
            let result = read_own(&mut receiver, own, count, window, &progress);
            progress.failed.store(result.is_err(), Ordering::Relaxed);
            progress.tell();
            result
        })
    };
    let written = write(args, &mut sender, Some(&progress))
        .and_then(|()| Ok(sender.flush()?))
        .and_then(|()| progress.wait(args.messages, 1));
    let time = start.elapsed();
    if written.is_err() {
        // Wakes the reader.
        drop(sender.take_unsent());
    }
    let read = reader.join().map_err(|_| anyhow::anyhow!("the reader failed"))?;
    // What the reader met is the cause, if it met something.
    read.context("receiving")?;
    written?;
    sender.disconnect()?;
    Ok(Figures::new(args.messages, args.messages, args.bytes, time))
}

fn write(args: &FlooderArgs, sender: &mut Sender, progress: Option<&Progress>) -> anyhow::Result<()> {
    let data = vec![b'x'; args.bytes as usize];
    for sent in 0..args.messages {
        if let Some(progress) = progress
            && sent.saturating_sub(progress.received.load(Ordering::Relaxed)) >= args.window
        {
            sender.flush()?;
            progress.wait(sent, args.window)?;
        }
        sender.enqueue(Service::from(args.service), args.group, 0, &data)?;
    }
    Ok(())
}

fn read_own(
    receiver: &mut Receiver,
    own: spread::GroupName,
    count: u64,
    window: u64,
    progress: &Progress,
) -> anyhow::Result<()> {
    // Told from time to time: a sender that follows each message would send single messages.
    let step = (window / 4).max(1);
    let mut received = 0;
    while received < count {
        if let Message::Data(data) = receiver.receive()?
            && data.sender() == own
        {
            received += 1;
            progress.received.store(received, Ordering::Relaxed);
            if received % step == 0 || received == count {
                progress.tell();
            }
        }
    }
    Ok(())
}

/// Counts messages of others, from the first on.
fn read_only(args: &FlooderArgs, receiver: &mut Receiver) -> anyhow::Result<(u64, Duration)> {
    let mut start = None;
    let mut received = 0;
    while received < args.messages {
        if let Message::Data(_) = receiver.receive()? {
            start.get_or_insert_with(Instant::now);
            received += 1;
        }
    }
    Ok((received, start.map_or(Duration::ZERO, |start| start.elapsed())))
}
