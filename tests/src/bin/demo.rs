//! `cargo xtask demo`: three daemons on three hosts, three Apaches, one unified log, a dashboard. Ctrl-C ends it.
//!
//! Slow downloads occupy workers of one Apache, fewer of the next and none of the third; every 20 seconds they move on.
//! Requests reach all three evenly, and `mod_backhand` passes them to the one that is idle: the log and the dashboard
//! show each request where it was served.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nix::sys::signal::Signal;
use tests::apache::{Apache, Mpm, free_address};
use tests::cluster::Cluster;
use tests::process::Process;
use tests::weblog::{self, Place};
use tests::{bins, load, netns, wait};
use tokio::signal::unix::{SignalKind, signal};

/// A small cluster with Apache on this machine, its unified log growing.
#[derive(Parser)]
struct Args {
    /// End after so many seconds; otherwise Ctrl-C ends it
    #[arg(long)]
    seconds: Option<u64>,
    /// Address of the dashboard; a free port of it is taken if it is in use
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Requests per second to each Apache
    #[arg(long, default_value_t = 25)]
    rate: u32,
}

const GROUP: &str = "$site4";
const STATS_GROUP: &str = "stats";
/// Slow downloads at the busiest, the next and the idle Apache.
const SLOW: [usize; 3] = [9, 4, 0];
/// So long before they move on.
const PHASE: Duration = Duration::from_secs(20);
const FORMAT: &str = r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    // Not by blocking the signals: what is started here would have them blocked too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        println!("\nEnding.");
        asked.store(true, Ordering::Relaxed);
    });
    run(&args, &stop)
}

fn run(args: &Args, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut cluster = match netns::unavailable() {
        None => Cluster::on_hosts(3)?,
        Some(reason) => {
            println!("One loopback address per host instead of network namespaces: {reason}.");
            Cluster::on_loopback(3)?
        }
    };
    cluster.start_all()?;
    for index in 0..cluster.len() {
        let what = cluster.connect_string(index);
        cluster.daemon(index)?.wait_printed("daemons=3", Duration::from_secs(20))?;
        println!("h{}: spreadd serves clients at {what}.", index + 1);
    }
    println!("The three daemons form one ring (configuration: {}).", cluster.conf().display());

    let log = cluster.host_dir(2).join("access.log");
    let mut writer = start_writer(&cluster, &log)?;
    let apaches = [start_apache(&cluster, 0)?, start_apache(&cluster, 1)?, start_apache(&cluster, 2)?];
    let mut web = start_dashboard(&cluster, args.listen)?;

    let served = Arc::new(AtomicU64::new(0));
    let clients: Vec<JoinHandle<()>> = (0..apaches.len())
        .map(|index| start_traffic(&cluster, index, apaches[index].address(), args.rate, stop, &served))
        .collect::<anyhow::Result<_>>()?;
    let phase = Arc::new(AtomicUsize::new(0));
    let slow: Vec<JoinHandle<()>> = (0..apaches.len())
        .map(|index| start_downloads(&cluster, index, apaches[index].address(), stop, &phase))
        .collect::<anyhow::Result<_>>()?;
    println!(
        "Slow downloads keep workers of web1 and web2 busy and move on every {} s; requests flow to who is idle.",
        PHASE.as_secs()
    );
    show(&log, stop, &served, &phase, args.seconds)?;

    stop.store(true, Ordering::Relaxed);
    for client in clients.into_iter().chain(slow) {
        client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    }
    for apache in apaches {
        // The module hands over what it has before its process ends.
        apache.stop(Duration::from_secs(30))?;
    }
    let served = served.load(Ordering::Relaxed);
    let complete = wait::until("the last lines", Duration::from_secs(10), || {
        let lines = lines(&log);
        if lines == served { Ok(()) } else { Err(lines) }
    });
    web.signal(Signal::SIGTERM)?;
    web.wait_end(Duration::from_secs(10))?;
    writer.signal(Signal::SIGTERM)?;
    writer.wait_end(Duration::from_secs(10))?;
    for index in 0..cluster.len() {
        cluster.stop(index)?;
    }
    println!("{served} requests were answered, {} lines are in the unified log.", lines(&log));
    complete
}

fn lines(log: &Path) -> u64 {
    File::open(log).map_or(0, |file| BufReader::new(file).lines().map_while(Result::ok).count() as u64)
}

fn start_writer(cluster: &Cluster, log: &Path) -> anyhow::Result<Process> {
    let program = bins::bin("log_writer", "log_writer")?;
    let (daemon, output) = (cluster.connect_string(2), log.to_string_lossy());
    let args = ["-s", &daemon, "--group", &GROUP[1..], "--output", &output];
    let writer = cluster.spawn(2, "log_writer", program, &args)?;
    println!("h3: log_writer writes {output}.");
    Ok(writer)
}

fn place(cluster: &Cluster, index: usize) -> Place<'_> {
    cluster.net().map_or(Place::Here, |net| Place::Host(net.host(index)))
}

fn start_apache(cluster: &Cluster, index: usize) -> anyhow::Result<Apache> {
    let name = format!("web{}", index + 1);
    let listen = match cluster.net() {
        Some(_) => SocketAddr::new(cluster.addr(index), 80),
        None => free_address()?,
    };
    let root = cluster.dir().join(&name);
    // A file that takes minutes at 8 KiB a second.
    std::fs::create_dir_all(root.join("htdocs/slow"))?;
    std::fs::write(root.join("htdocs/slow/file"), vec![b'.'; 4 << 20])?;
    let modules: String = ["ratelimit", "env", "proxy", "proxy_http"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let accept: String = match cluster.net() {
        Some(_) => (0..cluster.len()).map(|i| format!("AcceptStats {}\n", cluster.addr(i))).collect(),
        None => format!("AcceptStats {}\n", listen.ip()),
    };
    let config = format!(
        "LoadModule log_spread_module {log_module}\nSpreadDaemon {daemon}\nLogFormat \"{format}\" demo\n\
         CustomLog {GROUP} demo \"expr=-z reqenv('BACKHAND_TO') && %{{REQUEST_URI}} !~ m#^/slow/#\"\n\
         {modules}LoadModule backhand_module {backhand}\n\
         BackhandStatsGroup {STATS_GROUP}\nBackhandSpreadDaemon {daemon}\nBackhandInterval 200ms\nBackhandArriba 100\n\
         BackhandHostname {name}\nBackhandContact {listen}\n{accept}\
         <Location />\nBackhand byAge 2\nBackhand byRandom\nBackhand byBusyChildren\nBackhand addPrediction\n</Location>\n\
         <Location /slow/>\nBackhand off\nSetOutputFilter RATE_LIMIT\nSetEnv rate-limit 8\n</Location>\n\
         <Location /backhand/>\nBackhand off\nSetHandler backhand-handler\n</Location>\n",
        log_module = bins::shared_library("mod_log_spread", "mod_log_spread")?.display(),
        backhand = bins::shared_library("mod_backhand", "mod_backhand")?.display(),
        daemon = cluster.connect_string(index),
        format = FORMAT.replace('"', "\\\""),
    );
    let setup = weblog::setup(&name, listen, Mpm::Event, config);
    let apache = weblog::apache(cluster.dir(), place(cluster, index), setup)?;
    println!("h{}: Apache serves http://{listen}/ and publishes its access log to {GROUP}.", index + 1);
    Ok(apache)
}

fn start_dashboard(cluster: &Cluster, wanted: SocketAddr) -> anyhow::Result<Process> {
    let program = bins::bin("monitors", "spread-web")?;
    let free = || TcpListener::bind(SocketAddr::new(wanted.ip(), 0));
    let listen = TcpListener::bind(wanted)
        .or_else(|_| free())
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("no port is free on {}", wanted.ip()))?;
    // Not on a host but here, where a browser is: through the local socket, which no network namespace hides.
    let socket: PathBuf = cluster.host_dir(2).join(cluster.port().to_string());
    let mut command = std::process::Command::new(program);
    command.arg("-s").arg(socket).args([
        "--group",
        GROUP,
        "--backhand-group",
        STATS_GROUP,
        "--format",
        FORMAT,
        "--listen",
        &listen.to_string(),
    ]);
    let mut web = Process::start("spread-web", cluster.dir(), command)?;
    web.wait_printed("The page is at", Duration::from_secs(10))?;
    println!("Dashboard: http://{listen}/");
    Ok(web)
}

/// Requests as people make them: some pages often, some seldom, some that are not there.
fn start_traffic(
    cluster: &Cluster,
    index: usize,
    server: SocketAddr,
    rate: u32,
    stop: &Arc<AtomicBool>,
    served: &Arc<AtomicU64>,
) -> anyhow::Result<JoinHandle<()>> {
    let (stop, served) = (Arc::clone(stop), Arc::clone(served));
    let work = move || {
        let pause = Duration::from_secs(1) / rate.clamp(1, 1000);
        for n in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let path = match n % 10 {
                3 => format!("/index.html?page={}", n % 7),
                7 => "/favicon.ico".to_owned(),
                9 if n % 50 == 49 => format!("/missing-{}", n % 3),
                _ => "/index.html".to_owned(),
            };
            match load::get(server, &path) {
                Ok(_) => served.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    println!("web{}: {error:#}", index + 1);
                    0
                }
            };
            // Not to wait for anything: this is the pace of the traffic.
            thread::sleep(pause);
        }
    };
    match cluster.net() {
        Some(net) => net.host(index).enter(work),
        None => Ok(thread::spawn(work)),
    }
}

/// Slow downloads from one Apache, as many as the phase says.
fn start_downloads(
    cluster: &Cluster,
    index: usize,
    server: SocketAddr,
    stop: &Arc<AtomicBool>,
    phase: &Arc<AtomicUsize>,
) -> anyhow::Result<JoinHandle<()>> {
    let (stop, phase) = (Arc::clone(stop), Arc::clone(phase));
    let work = move || {
        let mut downloads: Vec<TcpStream> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let wanted = SLOW[(index + phase.load(Ordering::Relaxed)) % SLOW.len()];
            downloads.truncate(wanted);
            while downloads.len() < wanted {
                let Ok(mut download) = TcpStream::connect(server) else { break };
                // What is not read waits in the sockets: at 8 KiB a second, that lasts.
                if download.write_all(b"GET /slow/file HTTP/1.1\r\nHost: demo\r\n\r\n").is_err() {
                    break;
                }
                downloads.push(download);
            }
            for download in &mut downloads {
                let _ = download.set_nonblocking(true);
                while download.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
            }
            // The pace of looking after them.
            thread::sleep(Duration::from_millis(100));
        }
    };
    match cluster.net() {
        Some(net) => net.host(index).enter(work),
        None => Ok(thread::spawn(work)),
    }
}

/// Every second some of the new lines of the unified log, until it is time to end.
fn show(
    log: &Path,
    stop: &AtomicBool,
    served: &AtomicU64,
    phase: &AtomicUsize,
    seconds: Option<u64>,
) -> anyhow::Result<()> {
    println!("The unified log, a few lines of each second (Ctrl-C ends):");
    let start = Instant::now();
    let mut offset = 0;
    let mut total = 0;
    while !stop.load(Ordering::Relaxed) && seconds.is_none_or(|s| start.elapsed() < Duration::from_secs(s)) {
        let turn = usize::try_from(start.elapsed().as_secs() / PHASE.as_secs()).unwrap_or(0);
        phase.store(turn, Ordering::Relaxed);
        // Shows once a second, looks more often whether to end.
        for _ in 0..10 {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        let Ok(file) = File::open(log) else { continue };
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(offset))?;
        let mut line = String::new();
        let mut new = Vec::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            offset += line.len() as u64;
            new.push(std::mem::take(&mut line));
        }
        total += new.len();
        for line in new.iter().rev().take(3).rev() {
            print!("  {line}");
        }
        // The lines name the server that served: `%v`.
        let of = |web: usize| new.iter().filter(|line| line.starts_with(&format!("web{}.", web + 1))).count();
        let shares: Vec<String> = (0..SLOW.len())
            .map(|web| {
                format!("web{} {} ({} slow downloads)", web + 1, of(web), SLOW[(web + turn) % SLOW.len()])
            })
            .collect();
        println!("-- served in this second: {}", shares.join(", "));
        println!("-- {total} lines in all, {} requests answered", served.load(Ordering::Relaxed));
    }
    Ok(())
}
