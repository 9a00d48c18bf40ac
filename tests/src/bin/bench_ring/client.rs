//! Tier C: a client of the host's daemon, through the client library. Every client is a member of one group.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BufMut;
use clap::Args;
use spread::blocking::{Receiver, Sender};
use spread::{Builder, GroupName, Message, Service};

use crate::host::{Deliveries, Host, STAMP, Shared, addr, cpu, now};

/// Own messages under way: enough to keep the path full, few enough not to be cut off as too slow.
const WINDOW: u64 = 2000;

/// Messages put into one write.
const BATCH: u64 = 64;

const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Who this process is.
#[derive(Args, Debug)]
pub(crate) struct ClientArgs {
    /// Number of this host, from 0.
    #[arg(long)]
    me: u16,
    /// Number of hosts.
    #[arg(long)]
    count: u16,
    /// The daemon's port.
    #[arg(long)]
    port: u16,
}

/// Runs until standard input ends.
pub(crate) fn run(args: &ClientArgs) -> Result<()> {
    let address = format!("{}@{}", args.port, addr(args.me));
    let begin = Instant::now();
    let mut connection = loop {
        let builder = Builder::new(&address)?.private_name(&format!("c{}", args.me))?.membership(true);
        match builder.connect_blocking() {
            Ok(connection) => break connection,
            Err(error) if begin.elapsed() > CONNECT_LIMIT => return Err(error).context(address),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let group: GroupName = "bench".parse()?;
    connection.join(group)?;
    let (sender, receiver) = connection.split();
    let shared = Arc::new(Shared::default());
    let own = Arc::new(AtomicU64::new(0));
    let sending = {
        let (shared, own) = (Arc::clone(&shared), Arc::clone(&own));
        thread::spawn(move || report("sending", send(sender, group, &shared, &own)))
    };
    let waker = sending.thread().clone();
    let deliveries = Deliveries::new(Arc::clone(&shared), usize::from(args.count));
    let (me, wake) = (usize::from(args.me), waker.clone());
    thread::spawn(move || report("receiving", receive(receiver, me, deliveries, &own, &wake)));
    Host::new(args.me, shared, move || waker.unpark()).serve(|line| match line {
        "use" => Some(format!("{} 0 0 0", cpu())),
        _ => None,
    })
}

fn report(what: &str, result: Result<()>) {
    if let Err(error) = result {
        eprintln!("{what}: {error:#}");
        std::process::exit(1);
    }
}

fn send(mut sender: Sender, group: GroupName, shared: &Shared, own: &AtomicU64) -> Result<()> {
    let (mut number, mut data) = (0, Vec::new());
    loop {
        let room = (own.load(Ordering::Acquire) + WINDOW).saturating_sub(number).min(BATCH);
        let service = if shared.safe.load(Ordering::Relaxed) { Service::SAFE } else { Service::AGREED };
        let mut sent = 0;
        while sent < room {
            let paced = || shared.paced.lock().ok().and_then(|mut paced| paced.pop_front());
            let time = if shared.flood.load(Ordering::Relaxed) { Some(now()) } else { paced() };
            let Some(time) = time else { break };
            number += 1;
            sent += 1;
            data.clear();
            data.put_u64_le(time);
            data.put_u64_le(number);
            data.resize(shared.size.load(Ordering::Relaxed).max(STAMP), 7);
            sender.enqueue(service, group, 0, &data)?;
        }
        sender.flush()?;
        if sent == 0 {
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}

fn receive(
    mut receiver: Receiver,
    me: usize,
    mut deliveries: Deliveries,
    own: &AtomicU64,
    sender: &thread::Thread,
) -> Result<()> {
    let mut unreported = 0;
    loop {
        // What came together is counted together.
        let message = match receiver.try_receive()? {
            Some(message) => message,
            None => {
                deliveries.flush();
                if unreported > 0 {
                    own.fetch_add(std::mem::take(&mut unreported), Ordering::Release);
                    sender.unpark();
                }
                receiver.receive()?
            }
        };
        match message {
            Message::Data(data) => {
                let from = index(data.sender())?;
                deliveries.deliver(from, std::iter::once(data.payload()));
                if from == me {
                    unreported += 1;
                    if unreported >= WINDOW / 4 {
                        own.fetch_add(std::mem::take(&mut unreported), Ordering::Release);
                        sender.unpark();
                    }
                }
            }
            Message::Membership(view) => {
                let id = view.id;
                deliveries.begin(&format!("{}/{}/{}", id.proc, id.time, id.index), view.members.len());
            }
            _ => deliveries.end(),
        }
    }
}

/// The number in `#c2#h3`.
fn index(sender: GroupName) -> Result<usize> {
    let name = sender.as_bytes();
    let digits =
        name.strip_prefix(b"#c").unwrap_or_default().split(|b| *b == b'#').next().unwrap_or_default();
    match std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
        Some(index) => Ok(index),
        None => bail!("a message of {sender}"),
    }
}
