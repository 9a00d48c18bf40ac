//! Messages per second from clients through daemons to clients, with the client library.
//!
//! Every client is a member of one group and receives all messages; some of them send. At most `--window` messages
//! of each sender are under way to the slowest client, as in an application that does not want to be cut off. Messages are numbered,
//! and a missing, repeated or reordered one ends the run with an error.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use spread::blocking::{Receiver, Sender};
use spread::{Builder, GroupName, Message, Service};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::wait;

/// Ordered messages per second, delivered to every client.
#[derive(Parser)]
struct Args {
    /// Daemons, all on loopback; 1: one without a configuration file.
    #[arg(long, default_value_t = 1)]
    daemons: u8,
    /// Daemons that run already, as PORT@HOST; instead of --daemons.
    #[arg(long, value_delimiter = ',')]
    at: Vec<String>,
    /// Clients on each daemon.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Clients that send, spread over the daemons.
    #[arg(long, default_value_t = 1)]
    senders: usize,
    /// Bytes of a message's data.
    #[arg(long, default_value_t = 1000)]
    size: usize,
    /// Messages of each sender that are under way to the slowest client.
    #[arg(long, default_value_t = 2000)]
    window: u64,
    /// Seconds that are measured, after one second of warming up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Delivery service.
    #[arg(long, value_enum, default_value_t = Order::Agreed)]
    service: Order,
    /// Connect over the local socket (one daemon only).
    #[arg(long)]
    local: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Fifo,
    Agreed,
    Safe,
}

/// What the clients share.
struct Shared {
    stop: AtomicBool,
    /// Messages sent by all.
    sent: AtomicU64,
    /// Messages of all senders that may be under way.
    window: u64,
    /// Messages received, by client.
    received: Vec<AtomicU64>,
    senders: Mutex<Vec<thread::Thread>>,
}

impl Shared {
    fn counts(&self) -> Vec<u64> {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Messages that may be sent now.
    fn room(&self) -> u64 {
        let slowest = self.received.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(0);
        (slowest + self.window).saturating_sub(self.sent.load(Ordering::Relaxed))
    }
}

fn shared_senders(shared: &Shared) -> std::sync::MutexGuard<'_, Vec<thread::Thread>> {
    shared.senders.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

enum Daemons {
    Here,
    Alone { _process: Process, _dir: tempfile::TempDir },
    Cluster { _cluster: Cluster },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (addresses, daemons) = start(&args)?;
    let clients = addresses.len() * args.clients;
    ensure!(args.size >= 8, "messages are numbered, so they have at least 8 bytes");
    ensure!(args.senders <= clients, "{} senders of {clients} clients", args.senders);
    let group: GroupName = "bench".parse()?;
    let mut connections = Vec::new();
    for i in 0..clients {
        connections.push(connect(&addresses[i % addresses.len()], group)?);
    }
    for (_, receiver) in &mut connections {
        members(receiver, clients)?;
    }
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        window: args.window * args.senders as u64,
        received: (0..clients).map(|_| AtomicU64::new(0)).collect(),
        senders: Mutex::default(),
    });
    let service = match args.service {
        Order::Fifo => Service::FIFO,
        Order::Agreed => Service::AGREED,
        Order::Safe => Service::SAFE,
    };
    let mut threads = Vec::new();
    for (i, (sender, receiver)) in connections.into_iter().enumerate() {
        if i < args.senders {
            let (all, size) = (Arc::clone(&shared), args.size);
            let thread = thread::spawn(move || send(sender, service, group, size, &all));
            shared_senders(&shared).push(thread.thread().clone());
            threads.push(thread);
        }
        let shared = Arc::clone(&shared);
        threads.push(thread::spawn(move || receive(receiver, i, &shared)));
    }
    thread::sleep(Duration::from_secs(1));
    let cpu = cpu_seconds();
    let start = Instant::now();
    let before = shared.counts();
    thread::sleep(Duration::from_secs(args.seconds));
    let after = shared.counts();
    let took = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().ok().context("a client panicked")??;
    }
    drop(daemons);
    let slowest = before.iter().zip(&after).map(|(a, b)| b - a).min().unwrap_or(0);
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = slowest as f64 / took;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let mib = rate * args.size as f64 / f64::from(1 << 20);
    println!(
        "{} daemons, {clients} clients, {} senders, {} bytes: {rate:.0} messages/s to each client, {mib:.0} MiB/s; \
         clients used {:.2} processors",
        addresses.len(),
        args.senders,
        args.size,
        cpu / took
    );
    Ok(())
}

fn start(args: &Args) -> anyhow::Result<(Vec<String>, Daemons)> {
    if !args.at.is_empty() {
        return Ok((args.at.clone(), Daemons::Here));
    }
    if args.daemons == 1 {
        let dir = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = std::process::Command::new(tests::bins::bin("spreadd", "spreadd")?);
        let sockets = dir.path().to_string_lossy().into_owned();
        command.args(["--port", &port.to_string(), "--listen", "127.0.0.1", "--socket-dir", &sockets]);
        let mut process = Process::start("spreadd", dir.path(), command)?;
        process.wait_printed("Serving clients", Duration::from_secs(10))?;
        let address = if args.local {
            format!("{sockets}/{port}")
        } else {
            format!("{port}@{}", IpAddr::from([127, 0, 0, 1]))
        };
        return Ok((vec![address], Daemons::Alone { _process: process, _dir: dir }));
    }
    let mut cluster = Cluster::on_loopback(args.daemons)?;
    cluster.start_all()?;
    let addresses: Vec<String> = (0..cluster.len()).map(|i| cluster.connect_string(i)).collect();
    for i in 0..cluster.len() {
        cluster.daemon(i)?.wait_printed("Serving clients", Duration::from_secs(10))?;
    }
    Ok((addresses, Daemons::Cluster { _cluster: cluster }))
}

fn connect(address: &str, group: GroupName) -> anyhow::Result<(Sender, Receiver)> {
    let builder = || -> anyhow::Result<Builder> { Ok(Builder::new(address)?.membership(true)) };
    let connection = wait::until(address, Duration::from_secs(10), || {
        builder().and_then(|builder| Ok(builder.connect_blocking()?)).map_err(|e| e.to_string())
    })?;
    let (mut sender, receiver) = connection.split();
    sender.join(group)?;
    Ok((sender, receiver))
}

/// Waits until all clients are members.
fn members(receiver: &mut Receiver, clients: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match receiver.receive_timeout(deadline.saturating_duration_since(Instant::now()))? {
            Some(Message::Membership(view)) if view.members.len() == clients => return Ok(()),
            Some(_) => {}
            None => bail!("the {clients} clients did not meet in the group"),
        }
    }
}

fn send(
    mut sender: Sender,
    service: Service,
    group: GroupName,
    size: usize,
    shared: &Shared,
) -> anyhow::Result<()> {
    let mut data = vec![b'x'; size];
    let mut number = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let room = shared.room();
        if room == 0 {
            sender.flush()?;
            if shared.room() == 0 {
                thread::park_timeout(Duration::from_millis(10));
            }
        }
        for _ in 0..room.min(64) {
            if let Some(place) = data.first_chunk_mut() {
                *place = number.to_le_bytes();
            }
            sender.enqueue(service, group, 0, &data)?;
            number += 1;
            shared.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    sender.flush()?;
    // The receiver of this client sees the end.
    sender.disconnect()?;
    Ok(())
}

fn receive(mut receiver: Receiver, client: usize, shared: &Shared) -> anyhow::Result<()> {
    let report = (shared.window / 8).clamp(1, 256);
    let mut unreported = 0;
    // The next number of each sender: nothing may be missing, twice or out of order.
    let mut next: Vec<(GroupName, u64)> = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match receiver.receive_timeout(Duration::from_millis(100)) {
            Ok(Some(Message::Data(data))) => {
                if let Some(number) = data.payload().first_chunk() {
                    let (number, from) = (u64::from_le_bytes(*number), data.sender());
                    let place = next.iter().position(|(sender, _)| *sender == from).unwrap_or(next.len());
                    if place == next.len() {
                        next.push((from, 0));
                    }
                    ensure!(next[place].1 == number, "{from}: message {number} instead of {}", next[place].1);
                    next[place].1 += 1;
                }
                unreported += 1;
            }
            Ok(Some(_)) => {}
            Ok(None) => unreported = unreported.max(report),
            Err(_) if shared.stop.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => return Err(error).context("a client was cut off"),
        }
        if unreported >= report {
            // A turn without messages reports what there is, which may be nothing.
            let total: u64 = next.iter().map(|(_, count)| count).sum();
            shared.received[client].store(total, Ordering::Release);
            unreported = 0;
            shared_senders(shared).iter().for_each(thread::Thread::unpark);
        }
    }
    Ok(())
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    usage.map_or(0.0, |usage| {
        let time = usage.user_time() + usage.system_time();
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
            .as_secs_f64()
    })
}
