//! (b) Lines from the module's side to the file.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use log_stream::{
    Acks, Audit, Intake, Publisher, PublisherConfig, Service as Wanted, SourceId, StreamConfig, WhenFull,
    Wire,
};
use spread::{Builder, GroupName, Message, Service};
use tests::cluster::Cluster;
use tests::wait;
use tests::weblog::{Place, Writer};

use crate::{Options, cpu_of, line};

/// The paper's 40 million lines a day, in a minute.
const AIM: f64 = 670_000.0;
const QUEUE_BYTES: usize = 8 << 20;
/// Lines that a source puts before it looks at its session: as many as requests end in a millisecond.
const BURST: u64 = 500;

/// What a stream of lines took.
pub(crate) struct Carried {
    pub(crate) lines: u64,
    pub(crate) took: Duration,
    /// CPU of the sources, the daemon and the writer.
    pub(crate) cpu: [Duration; 3],
}

pub(crate) fn run(options: &Options) -> Result<()> {
    println!(
        "\n(b) {} lines of {} bytes, {}, {} sources, one daemon, log_writer --fsync {}",
        options.lines, options.bytes, options.wire, options.sources, options.fsync
    );
    let deadline = Instant::now() + Duration::from_secs_f64(options.limit);
    let carried = carry(options, options.lines, deadline)?;
    let rate = carried.lines as f64 / carried.took.as_secs_f64();
    println!("lines/s until all are in the file: {rate:.0}; {:.2} of the aim ({AIM:.0})", rate / AIM);
    let million = carried.lines as f64 / 1e6;
    for (name, cpu) in ["sources", "daemon", "log_writer"].iter().zip(carried.cpu) {
        println!("CPU of the {name}: {:.2} s for a million lines", cpu.as_secs_f64() / million);
    }
    Ok(())
}

/// Sends lines, and waits until they are in the file, each once.
pub(crate) fn carry(options: &Options, lines: u64, deadline: Instant) -> Result<Carried> {
    let mut cluster = Cluster::on_loopback(1)?;
    cluster.start_all()?;
    // The local socket, as on a web server with its own daemon.
    let daemon = cluster.host_dir(0).join(cluster.port().to_string());
    let daemon = daemon.to_string_lossy().into_owned();
    let mut command = Place::Here.command(tests::bins::bin("log_writer", "log_writer")?);
    let output = cluster.dir().join("bench.access");
    command.args(["-s", &daemon, "--group", "bench", "--fsync", &options.fsync, "--output"]).arg(&output);
    let mut writer = Writer::of(cluster.dir(), "writer", command, output.clone())?.joined()?;
    let before = [own_cpu(), cpu_of(cluster.daemon(0)?), cpu_of(writer.process())];
    let begun = Instant::now();
    let share = lines / options.sources as u64;
    // Confirmations come when the file is forced to disk, up to a second later: the time ends before them.
    let (told, put) = sync_channel(options.sources);
    let (bytes, took) = thread::scope(|scope| {
        let source = |told: SyncSender<u64>| source(&daemon, options, share, deadline, &told);
        let sources: Vec<_> = (0..options.sources)
            .map(|_| {
                let told = told.clone();
                scope.spawn(move || source(told))
            })
            .collect();
        drop(told);
        let bytes = put.iter().sum();
        let written = await_size(&output, bytes, deadline).map(|()| (bytes, begun.elapsed()));
        for source in sources {
            source.join().unwrap_or_else(|_| anyhow::bail!("a source panicked"))?;
        }
        written
    })?;
    let after = [own_cpu(), cpu_of(cluster.daemon(0)?), cpu_of(writer.process())];
    writer.stop_unread()?;
    ensure!(
        fs::metadata(&output)?.len() == bytes,
        "the file has {} bytes, not {bytes}",
        fs::metadata(&output)?.len()
    );
    let cpu = [0, 1, 2].map(|i| after[i].saturating_sub(before[i]));
    Ok(Carried { lines: lines / options.sources as u64 * options.sources as u64, took, cpu })
}

/// Waits until a file has so many bytes.
pub(crate) fn await_size(path: &Path, bytes: u64, deadline: Instant) -> Result<()> {
    let mut have = (0, Instant::now());
    loop {
        let size = fs::metadata(path).map_or(0, |m| m.len());
        if size >= bytes {
            return Ok(());
        }
        if size > have.0 {
            have = (size, Instant::now());
        }
        let (stuck, now) = (have.1.elapsed(), Instant::now());
        ensure!(
            stuck < Duration::from_secs(30) && now < deadline,
            "{size} of {bytes} bytes are in {}, the last one came {stuck:.1?} ago (--limit gives more time)",
            path.display()
        );
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn own_cpu() -> Duration {
    crate::cpu(i32::try_from(std::process::id()).unwrap_or(0))
}

/// What a child of a web server does: queue, publisher, session. Tells the bytes of its lines when all are queued.
fn source(
    daemon: &str,
    options: &Options,
    lines: u64,
    deadline: Instant,
    told: &SyncSender<u64>,
) -> Result<()> {
    let builder = Builder::new(daemon)?.membership(false);
    let mut session =
        wait::until("the daemon", Duration::from_secs(30), || builder.clone().connect_blocking())?;
    let own = session.private_group().as_group();
    let group: GroupName = "bench".parse()?;
    let audit_group: GroupName = "bench~".parse()?;
    let wire = if options.wire == "plain" { Wire::Plain } else { Wire::Framed };
    let stream = StreamConfig {
        group: Bytes::from_static(b"bench"),
        audit_group: Some(Bytes::from_static(b"bench~")),
        wire,
        heard: true,
    };
    let cfg = PublisherConfig {
        source: SourceId(rand::random()),
        audit: Audit::Auto,
        acks: Acks::All,
        writer_limit: Duration::from_secs(30),
        batch_bytes: 16_384,
        about: "host=bench\n".into(),
    };
    let mut publisher = Publisher::new(cfg, vec![stream]);
    let mut intake = Intake::new(1, QUEUE_BYTES, WhenFull::DropNewest);
    let begun = Instant::now();
    publisher.handle_connected(begun.elapsed(), [0]);
    let (mut put, mut bytes) = (0, 0);
    let mut records = VecDeque::new();
    while put < lines || !publisher.is_idle() {
        ensure!(
            Instant::now() < deadline,
            "a source put {put} of {lines} lines, and not all are confirmed (--limit gives more time)"
        );
        let mut burst = 0;
        while put < lines && burst < BURST && intake.has_room(options.bytes + 128) {
            let data = line(put, options.bytes);
            bytes += data.len() as u64;
            intake.push(0, 0, Bytes::from(data), false);
            put += 1;
            burst += 1;
            if put == lines {
                told.send(bytes)?;
            }
        }
        intake.take(&mut records);
        publisher.handle_records(records.drain(..));
        while let Some(transmit) = publisher.poll_transmit(begun.elapsed()) {
            let service = if transmit.service == Wanted::Safe { Service::SAFE } else { Service::AGREED };
            let to = match &transmit.group {
                None => own,
                Some(name) if name.ends_with(b"~") => audit_group,
                Some(_) => group,
            };
            session.enqueue(service, to, transmit.mess_type, &transmit.payload)?;
        }
        session.flush()?;
        let idle = burst == 0;
        let limit = if idle { Duration::from_millis(10) } else { Duration::ZERO };
        let mut message = if idle { session.receive_timeout(limit)? } else { session.try_receive()? };
        while let Some(Message::Data(data)) = message {
            publisher.handle_private(begun.elapsed(), data.to_bytes());
            message = session.try_receive()?;
        }
        publisher.handle_timeout(begun.elapsed(), false);
        intake.release(publisher.released().cost);
    }
    for farewell in publisher.goodbyes(|_, _| false) {
        let to = if farewell.group.is_some_and(|g| g.ends_with(b"~")) { audit_group } else { group };
        session.enqueue(Service::AGREED, to, farewell.mess_type, &farewell.payload)?;
    }
    session.disconnect()?;
    Ok(())
}
