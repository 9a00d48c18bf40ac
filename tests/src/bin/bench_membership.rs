//! How long membership changes take, with real daemons on hosts of their own (network namespaces).
//!
//! Three daemons, a client on each. While the first client sends numbered messages all the time, the third daemon
//! is killed, started again, cut off and healed. Times are what clients see: from the event to the membership
//! message that tells of it, so they include the exchange of group tables. The second client must receive every
//! message of the first, in order: it was in the same component all the time, so nothing may be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use spread::blocking::{Connection, Receiver};
use spread::{GroupName, Message, Service};
use tests::cluster::Cluster;

/// Times of membership changes: kill to new ring, start to ring, heal to merge; lost messages.
#[derive(Parser)]
struct Args {
    /// How often everything is done.
    #[arg(long, default_value_t = 50)]
    repeats: usize,
    /// Microseconds between two messages of the sender.
    #[arg(long, default_value_t = 500)]
    pace: u64,
}

/// Longest wait for a membership message.
const LIMIT: Duration = Duration::from_secs(90);
/// Daemons whose ring broke soon after it formed stay apart for a while; rings get this long to count as stable. It
/// is most of the time that this takes: about 22 seconds a round.
const STABLE: Duration = Duration::from_millis(10_500);

/// A client whose messages a thread reads: the number of members in its last view and since when.
struct Watcher {
    view: Arc<(std::sync::Mutex<(usize, Instant)>, std::sync::Condvar)>,
    received: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Watcher {
    fn start(mut receiver: Receiver) -> Self {
        let view = Arc::new((std::sync::Mutex::new((0, Instant::now())), std::sync::Condvar::new()));
        let received = Arc::new(AtomicU64::new(0));
        let broken = Arc::new(AtomicBool::new(false));
        let watcher =
            Self { view: Arc::clone(&view), received: Arc::clone(&received), broken: Arc::clone(&broken) };
        thread::spawn(move || {
            loop {
                match receiver.receive() {
                    Ok(Message::Membership(change)) => {
                        let (lock, changed) = &*view;
                        if let Ok(mut view) = lock.lock() {
                            *view = (change.members.len(), Instant::now());
                        }
                        changed.notify_all();
                    }
                    Ok(Message::Data(data)) => {
                        let number = <[u8; 8]>::try_from(data.payload()).ok().map(u64::from_le_bytes);
                        let expected = received.fetch_add(1, Ordering::AcqRel);
                        if number != Some(expected) {
                            broken.store(true, Ordering::Release);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        watcher
    }

    /// Waits until the view has so many members; when that was.
    fn wait(&self, members: usize, after: Instant) -> anyhow::Result<Instant> {
        let (lock, changed) = &*self.view;
        let mut view = lock.lock().map_err(|_| anyhow::anyhow!("the reading thread failed"))?;
        let deadline = Instant::now() + LIMIT;
        while !(view.0 == members && view.1 >= after) {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no view with {members} members after {LIMIT:?}; there are {}", view.0);
            view =
                changed.wait_timeout(view, left).map_err(|_| anyhow::anyhow!("the reading thread failed"))?.0;
        }
        Ok(view.1)
    }
}

struct Figures {
    what: &'static str,
    times: Vec<Duration>,
}

impl Figures {
    fn print(&mut self, token: Duration) {
        self.times.sort_unstable();
        let at =
            |part: usize| self.times.get((self.times.len() * part / 100).min(self.times.len() - 1)).copied();
        let (Some(median), Some(p90), Some(worst)) = (at(50), at(90), self.times.last().copied()) else {
            return;
        };
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{:<42} median {:>8.1} ms   90 % {:>8.1} ms   worst {:>8.1} ms   median / token timeout {:>5.2}",
            self.what,
            ms(median),
            ms(p90),
            ms(worst),
            ms(median) / ms(token)
        );
    }
}

fn join(cluster: &Cluster, index: usize, group: GroupName) -> anyhow::Result<Connection> {
    let mut client = cluster.client(index, &format!("c{index}"), LIMIT)?;
    client.join(group)?;
    Ok(client)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.repeats > 0, "at least one repetition");
    let group: GroupName = "bench".parse()?;
    let mut cluster =
        Cluster::on_hosts(3).context("this measures between hosts: it needs root, ip and nft")?;
    let begin = Instant::now();
    cluster.start_all()?;
    cluster.wait_ring(&[0, 1, 2], LIMIT)?;
    let first_ring = begin.elapsed();

    let (mut sender, receiver) = join(&cluster, 0, group)?.split();
    let near = Watcher::start(receiver);
    let (_keep, receiver) = join(&cluster, 1, group)?.split();
    let witness = Watcher::start(receiver);
    let mut far = join(&cluster, 2, group)?.split();
    near.wait(3, begin)?;
    witness.wait(3, begin)?;

    // From here on the witness counts from 0: nothing was sent before.
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let sending = {
        let (stop, sent, pace) = (Arc::clone(&stop), Arc::clone(&sent), Duration::from_micros(args.pace));
        thread::spawn(move || -> anyhow::Result<()> {
            while !stop.load(Ordering::Acquire) {
                let number = sent.load(Ordering::Acquire);
                sender.multicast(Service::AGREED, group, 0, number.to_le_bytes())?;
                sent.store(number + 1, Ordering::Release);
                thread::sleep(pace);
            }
            Ok(())
        })
    };

    let mut kill = Figures { what: "kill of a daemon to the others' new view", times: Vec::new() };
    let mut start = Figures { what: "start of a daemon to a ring of all", times: Vec::new() };
    let mut cut = Figures { what: "cut of the network to the others' new view", times: Vec::new() };
    let mut heal = Figures { what: "heal of the network to one view of all", times: Vec::new() };
    for round in 1..=args.repeats {
        thread::sleep(STABLE);
        let at = Instant::now();
        cluster.kill(2)?;
        kill.times.push(near.wait(2, at)?.duration_since(at));
        drop(far);

        let at = Instant::now();
        cluster.start(2)?;
        cluster.wait_ring(&[0, 1, 2], LIMIT)?;
        start.times.push(at.elapsed());
        let at = Instant::now();
        far = join(&cluster, 2, group)?.split();
        near.wait(3, at)?;

        thread::sleep(STABLE);
        let net = cluster.net().context("no hosts")?;
        let at = Instant::now();
        net.partition(&[&[0, 1], &[2]])?;
        cut.times.push(near.wait(2, at)?.duration_since(at));
        cluster.wait_ring(&[2], LIMIT)?;
        let net = cluster.net().context("no hosts")?;
        let at = Instant::now();
        net.heal()?;
        heal.times.push(near.wait(3, at)?.duration_since(at));
        eprint!("\rround {round} of {}", args.repeats);
    }
    eprintln!();
    stop.store(true, Ordering::Release);
    match sending.join() {
        Ok(result) => result.context("the sender")?,
        Err(_) => bail!("the sender failed"),
    }
    let sent = sent.load(Ordering::Acquire);
    let deadline = Instant::now() + LIMIT;
    while witness.received.load(Ordering::Acquire) < sent && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let received = witness.received.load(Ordering::Acquire);

    let token = spread_ring::Timers::lan().token;
    println!(
        "3 daemons on 3 hosts, token timeout {} ms, {} repetitions of each",
        token.as_millis(),
        args.repeats
    );
    println!("{:<42} {:>8.1} ms", "start of all daemons to the first ring", first_ring.as_secs_f64() * 1e3);
    for figures in [&mut kill, &mut start, &mut cut, &mut heal] {
        figures.print(token);
    }
    println!(
        "messages sent while all this happened: {sent}; lost at a client that stayed connected: {}",
        sent.saturating_sub(received)
    );
    ensure!(received == sent, "{received} of {sent} messages came");
    ensure!(!witness.broken.load(Ordering::Acquire), "messages came out of order");
    Ok(())
}
