//! `cargo xtask bench ring`: ordered throughput and latency of the ring beside a bare multicast loop between
//! the same hosts in the same run.
//!
//! Tier A: the ring thread with a synthetic layer above it, in one process per host (network namespaces on a
//! bridge). Tier C: daemons, and one client with the client library on each host. Figures of a run are ratios first: all processes share this machine's processors. See
//! `docs/internals/ring-driver.md`.

#![allow(clippy::cast_possible_truncation, reason = "figures for people")]

mod bare;
mod client;
mod control;
mod host;
mod node;
mod report;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use control::{Cluster, Kind, Options};
use report::{Sample, median, row};
use tests::netns::Net;

/// Throughput and latency of the ring.
#[derive(Parser)]
#[command(name = "bench-ring")]
struct Args {
    #[command(subcommand)]
    node: Option<Node>,
    /// Numbers of daemons.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    daemons: Vec<u8>,
    /// Bytes of a message.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,8000")]
    sizes: Vec<usize>,
    /// Length of one measurement.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// Measurements of each kind; the median is printed.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Parts to run: throughput, clients, sealed, latency, loss, kill, idle.
    #[arg(long, value_delimiter = ',', default_value = "throughput,clients,sealed,latency,loss,kill,idle")]
    parts: Vec<String>,
    /// Kills in the part `kill`.
    #[arg(long, default_value_t = 6)]
    kills: usize,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Node {
    /// One host's ring; started by the benchmark itself.
    #[command(hide = true)]
    Node(node::NodeArgs),
    /// One host's client; started by the benchmark itself.
    #[command(hide = true)]
    Client(client::ClientArgs),
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.node {
        Some(Node::Node(node)) => return node::run(node),
        Some(Node::Client(client)) => return client::run(client),
        None => {}
    }
    if let Some(reason) = tests::netns::unavailable() {
        bail!("{reason}");
    }
    let has = |part: &str| args.parts.iter().any(|p| p == part);
    println!("processors: {}", std::thread::available_parallelism().map_or(0, std::num::NonZero::get));
    for &count in &args.daemons {
        let net = Net::new(count)?;
        let mut cluster = Cluster::start(&net, Kind::Plain, args.options)?;
        if has("throughput") {
            throughput(&args, &mut cluster)?;
        }
        if has("clients") {
            clients(&args, count, &mut cluster)?;
        }
        if has("sealed") {
            let mut sealed = Cluster::start(&net, Kind::Sealed, args.options)?;
            sealed_throughput(&args, &mut cluster, &mut sealed)?;
            sealed.stop()?;
        }
        if has("latency") {
            latency(&args, &mut cluster)?;
        }
        if has("loss") && count > 1 {
            loss(&args, &net, &mut cluster)?;
        }
        if has("kill") && count >= 3 {
            kill(&args, &mut cluster)?;
        }
        if has("idle") {
            idle(&mut cluster)?;
        }
        cluster.stop()?;
    }
    Ok(())
}

fn throughput(args: &Args, cluster: &mut Cluster<'_>) -> Result<()> {
    let count = cluster.len();
    println!("\nordered throughput, {count} daemons, all send, every daemon delivers all (AGREED)");
    println!(
        "{:>34} {:>10} {:>10} {:>7} {:>7} {:>9}",
        "", "messages/s", "Mbit/s", "spread", "us/msg", "lost"
    );
    for &size in &args.sizes {
        let (mut ring, mut one) = (Vec::new(), Vec::new());
        let (mut plain, mut offload) = (Vec::new(), Vec::new());
        for _ in 0..args.repeats {
            if count > 1 {
                plain.push(cluster.bare(size, args.ms, false)?);
                offload.push(cluster.bare(size, args.ms, true)?);
            }
            ring.push(cluster.load(size, "agreed", args.ms, &(0..count).collect::<Vec<_>>())?);
            if count > 1 {
                one.push(cluster.load(size, "agreed", args.ms, &[0])?);
            }
        }
        let ring = row(&format!("{size} bytes: ring"), &ring);
        if count > 1 {
            let one = row("ring, one sender", &one);
            let plain = row("bare sendmmsg/recvmmsg", &plain);
            let offload = row("bare GSO/GRO", &offload);
            println!(
                "{:>34} {:.2} of bare sendmmsg, {:.2} of bare GSO (one sender: {:.2}, {:.2})",
                "ratio",
                ring / plain,
                ring / offload,
                one / plain,
                one / offload
            );
        }
    }
    Ok(())
}

/// Tier C beside tier A: what the groups, the sessions and the client library cost.
fn clients(args: &Args, count: u8, ring: &mut Cluster<'_>) -> Result<()> {
    let mut daemons = tests::cluster::Cluster::on_hosts(count)?;
    daemons.start_all()?;
    let net = daemons.net().context("the daemons have no hosts")?;
    let mut clients = Cluster::start(net, Kind::Client, args.options)?;
    let senders: Vec<_> = (0..clients.len()).collect();
    println!("\nwith clients: {count} daemons, a client on each, all clients receive all (AGREED)");
    for &size in &args.sizes {
        let (mut a, mut all, mut one) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.repeats {
            a.push(ring.load(size, "agreed", args.ms, &senders)?);
            all.push(clients.load(size, "agreed", args.ms, &senders)?);
            if count > 1 {
                one.push(clients.load(size, "agreed", args.ms, &[0])?);
            }
        }
        let a = row(&format!("{size} bytes: ring alone"), &a);
        let all = row("clients, all send", &all);
        if count > 1 {
            row("clients, one sends", &one);
        }
        println!("{:>34} {:.2}", "ratio", all / a);
    }
    let ms = args.ms.max(2000);
    for (service, name) in [("agreed", "AGREED"), ("safe", "SAFE")] {
        let samples: Result<Vec<_>> =
            (0..args.repeats).map(|_| clients.paced(100, service, ms, 50, &[0])).collect();
        let samples = samples?;
        println!(
            "{:>34} p50 {:.0} us, p99 {:.0} us",
            format!("{name}, idle, client to clients"),
            median(samples.iter().map(|s| s.p50_us)),
            median(samples.iter().map(|s| s.p99_us))
        );
    }
    clients.stop()
}

fn sealed_throughput(args: &Args, plain: &mut Cluster<'_>, sealed: &mut Cluster<'_>) -> Result<()> {
    let count = plain.len();
    println!("\nsealed (AES-256-GCM), {count} daemons, all send");
    for &size in &args.sizes {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let senders: Vec<_> = (0..count).collect();
        for _ in 0..args.repeats {
            a.push(plain.load(size, "agreed", args.ms, &senders)?);
            b.push(sealed.load(size, "agreed", args.ms, &senders)?);
        }
        let a = row(&format!("{size} bytes: in clear"), &a);
        let b = row("sealed", &b);
        println!("{:>34} {:.2}", "ratio", b / a);
    }
    Ok(())
}

fn latency(args: &Args, cluster: &mut Cluster<'_>) -> Result<()> {
    let count = cluster.len();
    let ms = args.ms.max(2000);
    println!(
        "\nlatency in us, {count} daemons, 100-byte messages, from submission to delivery at all daemons"
    );
    println!("{:>34} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p99", "max", "messages");
    let print = |name: &str, samples: &[Sample]| {
        let pick = |f: fn(&Sample) -> f64| median(samples.iter().map(f));
        println!(
            "{name:>34} {:>9.0} {:>9.0} {:>9.0} {:>9}",
            pick(|s| s.p50_us),
            pick(|s| s.p99_us),
            pick(|s| s.max_us),
            samples.iter().map(|s| s.count).sum::<u64>()
        );
    };
    if count > 1 {
        let bare: Result<Vec<_>> = (0..args.repeats).map(|_| cluster.bare_paced(100, ms, 50)).collect();
        print("bare datagram to all others, idle", &bare?);
    }
    let mut rounds = |service: &str, rate: u64, senders: &[usize]| -> Result<Vec<Sample>> {
        (0..args.repeats).map(|_| cluster.paced(100, service, ms, rate, senders)).collect()
    };
    print("AGREED, idle, last sender", &rounds("agreed", 50, &[0])?);
    if count > 1 {
        print("AGREED, idle, another member", &rounds("agreed", 50, &[0, 1])?);
    }
    print("SAFE, idle, last sender", &rounds("safe", 50, &[0])?);
    if count > 1 {
        print("SAFE, idle, another member", &rounds("safe", 50, &[0, 1])?);
    }
    let all: Vec<_> = (0..count).collect();
    let most = cluster.load(1000, "agreed", ms, &all)?.messages_per_second;
    let each = (most / 2.0 / count as f64) as u64;
    let samples: Result<Vec<_>> =
        (0..args.repeats).map(|_| cluster.paced(1000, "agreed", ms, each.max(1), &all)).collect();
    print(&format!("AGREED, 1000 B at {:.0}/s (half)", most / 2.0), &samples?);
    Ok(())
}

/// Every host drops some of what it receives. What is dropped is a whole received run, so up to 63 packets.
fn loss(args: &Args, net: &Net, cluster: &mut Cluster<'_>) -> Result<()> {
    let count = cluster.len();
    println!("\nordered throughput with loss, {count} daemons, all send, 1000 bytes (AGREED)");
    let senders: Vec<_> = (0..count).collect();
    for per_mille in [0, 1, 10, 50] {
        for host in net.hosts() {
            host.nft(&format!(
                "add table inet loss\ndelete table inet loss\ntable inet loss {{\n chain input {{\n  type filter \
                 hook input priority 0;\n  udp dport {{ 4803, 4804 }} numgen random mod 1000 < {per_mille} drop\n \
                 }}\n}}\n"
            ))?;
        }
        let samples: Result<Vec<_>> =
            (0..args.repeats).map(|_| cluster.load(1000, "agreed", args.ms, &senders)).collect();
        row(&format!("{:.1} % lost", f64::from(per_mille) / 10.0), &samples?);
    }
    for host in net.hosts() {
        host.nft("delete table inet loss\n")?;
    }
    Ok(())
}

fn kill(args: &Args, cluster: &mut Cluster<'_>) -> Result<()> {
    println!("\nmembership after kill -9 of one of {} daemons, and after its restart", cluster.len());
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for round in 0..args.kills {
        let victim = round % cluster.len();
        down.push(cluster.kill(victim)?);
        up.push(cluster.restart(victim)?);
    }
    let print = |name: &str, times: &[Duration]| {
        let ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        println!(
            "{name:>34} median {:.0} ms, worst {:.0} ms of {}",
            median(ms.iter().copied()),
            ms.iter().fold(0f64, |a, b| a.max(*b)),
            ms.len()
        );
    };
    print("new configuration after kill", &down);
    print("all together after restart", &up);
    Ok(())
}

fn idle(cluster: &mut Cluster<'_>) -> Result<()> {
    let used = cluster.idle(Duration::from_secs(4))?;
    println!("\nidle, {} daemons", cluster.len());
    for [cpu, wakeups, received, sent] in used {
        println!(
            "{cpu:>34.2} % of a processor, per second {wakeups:.0} wake-ups, {received:.0} packets in, {sent:.0} out"
        );
    }
    Ok(())
}
