//! The processes on their hosts, as seen by the benchmark.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tests::netns::Net;

use crate::report::Sample;

const FORM_LIMIT_MS: u64 = 20_000;
const WARM_MS: u64 = 300;

/// One process.
struct Node {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("finished")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "a node has ended");
        let line = line.trim().to_owned();
        ensure!(!line.starts_with("error"), "{line}");
        Ok(line)
    }

    /// The end of its input is the end of a node.
    fn finish(mut self) {
        self.input = None;
        // The answer does not matter, only that it ends.
        let _ = self.child.wait();
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.hear().with_context(|| format!("after {line:?}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the processes are started.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Run the daemons under `perf record` and leave the files in the current folder.
    #[arg(long)]
    pub(crate) perf: bool,
    /// Personal window in packets; the engine's own rule without it.
    #[arg(long)]
    pub(crate) personal: Option<u16>,
    /// Show what the daemons counted.
    #[arg(long)]
    pub(crate) report: bool,
}

/// What the processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ring threads.
    Plain,
    /// Ring threads that encrypt.
    Sealed,
    /// Clients of the hosts' daemons.
    Client,
}

/// One process per host.
pub(crate) struct Cluster<'a> {
    net: &'a Net,
    kind: Kind,
    options: Options,
    nodes: Vec<Option<Node>>,
    /// Configurations of all living daemons together, as last seen.
    installs: u64,
}

fn numbers(line: &str) -> Result<Vec<u64>> {
    line.split_whitespace().map(|word| Ok(word.parse()?)).collect()
}

fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

impl<'a> Cluster<'a> {
    pub(crate) fn start(net: &'a Net, kind: Kind, options: Options) -> Result<Self> {
        let mut cluster = Self { net, kind, options, nodes: Vec::new(), installs: 0 };
        for index in 0..net.hosts().len() {
            let node = cluster.spawn(index)?;
            cluster.nodes.push(Some(node));
        }
        cluster.formed()?;
        Ok(cluster)
    }

    /// Lets the daemons leave, and waits for them.
    pub(crate) fn stop(mut self) -> Result<()> {
        if self.options.report && self.kind != Kind::Client {
            for report in self.reports()? {
                println!("{:?}: {report}", self.kind);
            }
        }
        for node in self.nodes.drain(..).flatten() {
            node.finish();
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    fn spawn(&self, index: usize) -> Result<Node> {
        let host = self.net.host(index);
        let program = std::env::current_exe()?;
        let mut command: Command;
        if self.options.perf {
            command = host.command("perf");
            command.args(["record", "-q", "-g", "-o", &format!("perf.{:?}.{index}", self.kind)]).arg(program);
        } else {
            command = host.command(program);
        }
        let (word, port) = match self.kind {
            Kind::Plain => ("node", 4803),
            Kind::Sealed => ("node", 4903),
            Kind::Client => ("client", 4803),
        };
        command.args([word, "--me", &index.to_string(), "--count", &self.net.hosts().len().to_string()]);
        command.args(["--port", &port.to_string()]);
        if let Some(personal) = self.options.personal.filter(|_| self.kind != Kind::Client) {
            command.args(["--personal", &personal.to_string()]);
        }
        if self.kind == Kind::Sealed {
            command.arg("--sealed");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = Some(child.stdin.take().context("no pipe")?);
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Node { child, input, output })
    }

    fn living(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().flatten()
    }

    /// Asks all, and only then waits for the answers.
    fn ask_all(&mut self, line: impl Fn(usize) -> String) -> Result<Vec<String>> {
        for (index, node) in self.living().enumerate() {
            node.tell(&line(index))?;
        }
        self.living().map(Node::hear).collect()
    }

    /// Waits until all living ones are in one configuration; when that happened at the last one.
    fn formed(&mut self) -> Result<u64> {
        let count = self.living().count();
        let times = self.ask_all(|_| format!("members {count} {FORM_LIMIT_MS}"))?;
        self.installs = 0;
        for answer in self.ask_all(|_| "confs".into())? {
            self.installs += answer.split_whitespace().count() as u64;
        }
        times.iter().map(|time| Ok(time.parse::<u64>()?)).try_fold(0, |a, b: Result<u64>| Ok(a.max(b?)))
    }

    /// Floods from the given daemons; the slowest daemon counts.
    pub(crate) fn load(&mut self, size: usize, service: &str, ms: u64, senders: &[usize]) -> Result<Sample> {
        let answers = self.ask_all(|index| {
            let sends = u8::from(senders.contains(&index));
            format!("load {size} {service} {WARM_MS} {ms} {sends}")
        })?;
        self.finish(&answers)
    }

    /// Submits `rate` messages a second at each of the given daemons, evenly shifted.
    pub(crate) fn paced(
        &mut self,
        size: usize,
        service: &str,
        ms: u64,
        rate: u64,
        senders: &[usize],
    ) -> Result<Sample> {
        let answers = self.ask_all(|index| match senders.iter().position(|s| *s == index) {
            Some(place) => {
                let offset = 1_000_000 / rate * place as u64 / senders.len() as u64;
                format!("paced {size} {service} {WARM_MS} {ms} {rate} {offset}")
            }
            None => format!("paced {size} {service} {WARM_MS} {ms} 0 0"),
        })?;
        self.finish(&answers)
    }

    fn finish(&mut self, answers: &[String]) -> Result<Sample> {
        let mut sample = Sample { messages_per_second: f64::INFINITY, ..Sample::default() };
        for answer in answers {
            let answer = numbers(answer)?;
            let [time, count, bytes, cpu] = answer[..] else { bail!("{answer:?}") };
            let seconds = time as f64 / 1e9;
            if count as f64 / seconds < sample.messages_per_second {
                sample.messages_per_second = count as f64 / seconds;
                sample.mbit_per_second = bytes as f64 * 8.0 / 1e6 / seconds;
            }
            sample.cpu_us += cpu as f64 / 1e3 / count.max(1) as f64;
        }
        let mut all_installs = 0;
        for answer in self.ask_all(|_| "quiet".into())? {
            let answer = numbers(&answer)?;
            let [faults, installs, count, p50, p99, max] = answer[..] else { bail!("{answer:?}") };
            all_installs += installs;
            ensure!(faults == 0, "{faults} messages of a daemon came twice, not at all, or out of order");
            sample.count += count;
            sample.p50_us = sample.p50_us.max(p50 as f64 / 1e3);
            sample.p99_us = sample.p99_us.max(p99 as f64 / 1e3);
            sample.max_us = sample.max_us.max(max as f64 / 1e3);
        }
        if all_installs != self.installs {
            eprintln!("the membership changed during a measurement: the machine stood still for too long");
            self.installs = all_installs;
        }
        self.same_order()?;
        Ok(sample)
    }

    /// Compares the order of deliveries at all daemons.
    fn same_order(&mut self) -> Result<()> {
        let answers = self.ask_all(|_| "checks".into())?;
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for answer in &answers {
            for check in answer.split_whitespace() {
                let (place, hash) = check.split_once(':').context("no hash")?;
                let first = *seen.entry(place).or_insert(hash);
                ensure!(
                    first == hash,
                    "two daemons delivered in different order (before epoch.number {place})"
                );
            }
        }
        Ok(())
    }

    /// The loop without ring: the first host sends, all others receive.
    pub(crate) fn bare(&mut self, size: usize, ms: u64, offload: bool) -> Result<Sample> {
        self.ask_all(|_| format!("bare-open {}", u8::from(offload)))?;
        let receivers = self.len() - 1;
        let answers = self.ask_all(|index| match index {
            0 => format!("bare-send {receivers} {size} {ms}"),
            _ => format!("bare-receive {}", ms + 100),
        })?;
        let first = numbers(&answers[0])?;
        let [_, sent, parts, cpu] = first[..] else { bail!("{first:?}") };
        let mut sample = Sample { messages_per_second: f64::INFINITY, ..Sample::default() };
        sample.cpu_us = cpu as f64 / 1e3 / (sent / parts).max(1) as f64;
        for answer in &answers[1..] {
            let answer = numbers(answer)?;
            let [time, count, bytes, cpu, ..] = answer[..] else { bail!("{answer:?}") };
            let seconds = (time as f64 / 1e9).max(1e-9);
            let rate = (count / parts) as f64 / seconds;
            if rate < sample.messages_per_second {
                sample.messages_per_second = rate;
                sample.mbit_per_second = bytes as f64 * 8.0 / 1e6 / seconds;
            }
            sample.lost = sample.lost.max(sent.saturating_sub(count));
            sample.cpu_us += cpu as f64 / 1e3 / (count / parts).max(1) as f64;
        }
        Ok(sample)
    }

    /// Single datagrams, from the first host to all others.
    pub(crate) fn bare_paced(&mut self, size: usize, ms: u64, rate: u64) -> Result<Sample> {
        self.ask_all(|_| "bare-open 1".into())?;
        let answers = self.ask_all(|index| match index {
            0 => format!("bare-pace {size} {ms} {rate}"),
            _ => format!("bare-receive {}", ms + 100),
        })?;
        let mut sample = Sample::default();
        for answer in &answers[1..] {
            let answer = numbers(answer)?;
            let [_, count, _, _, p50, p99, max] = answer[..] else { bail!("{answer:?}") };
            sample.count += count;
            sample.p50_us = sample.p50_us.max(p50 as f64 / 1e3);
            sample.p99_us = sample.p99_us.max(p99 as f64 / 1e3);
            sample.max_us = sample.max_us.max(max as f64 / 1e3);
        }
        Ok(sample)
    }

    /// Kills a daemon and returns the time until the last survivor had the new configuration.
    pub(crate) fn kill(&mut self, victim: usize) -> Result<Duration> {
        let node = self.nodes[victim].take().context("already dead")?;
        let begin = now()?;
        kill(Pid::from_raw(node.child.id().cast_signed()), Signal::SIGKILL)?;
        drop(node);
        let end = self.formed()?;
        Ok(Duration::from_nanos(end.saturating_sub(begin)))
    }

    /// Starts a daemon again and returns the time until all are together.
    pub(crate) fn restart(&mut self, index: usize) -> Result<Duration> {
        let begin = now()?;
        self.nodes[index] = Some(self.spawn(index)?);
        let end = self.formed()?;
        Ok(Duration::from_nanos(end.saturating_sub(begin)))
    }

    /// Use of each daemon while nothing happens: processor in per cent, then wake-ups, packets in and
    /// packets out per second.
    pub(crate) fn idle(&mut self, time: Duration) -> Result<Vec<[f64; 4]>> {
        let before = self.ask_all(|_| "use".into())?;
        std::thread::sleep(time);
        let after = self.ask_all(|_| "use".into())?;
        let seconds = time.as_secs_f64();
        before
            .iter()
            .zip(&after)
            .map(|(before, after)| {
                let (before, after) = (numbers(before)?, numbers(after)?);
                let mut figures = [0.0; 4];
                for (figure, (a, b)) in figures.iter_mut().zip(before.iter().zip(&after)) {
                    *figure = b.saturating_sub(*a) as f64 / seconds;
                }
                figures[0] /= 1e7;
                Ok(figures)
            })
            .collect()
    }

    /// What the daemons counted.
    fn reports(&mut self) -> Result<Vec<String>> {
        self.living().map(|node| node.ask("report")).collect()
    }
}
