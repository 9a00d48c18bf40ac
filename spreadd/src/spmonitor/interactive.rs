//! The dialogue: the menu of the original, read line by line, so that it can also be driven through a pipe.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cli::Args;
use super::link::Link;
use super::show::block;
use crate::monitor::packet::{Command, Status};

/// A partition is renewed so often: daemons end it after 60 seconds.
const RENEW: Duration = Duration::from_secs(25);

const MENU: &str = "
==========
Monitor Menu:
----------
\t0. Activate/Deactivate Status {all, none, NAME ...}

\t1. Define Partition
\t2. Send   Partition
\t3. Review Partition
\t4. Cancel Partition Effects

\t5. Define Flow Control
\t6. Send   Flow Control
\t7. Review Flow Control

\t8. Terminate Spread Daemons {all, none, NAME ...}

\tr. Reload Configuration

\t9. Exit
";

enum Input {
    Line(String),
    End,
    Datagram(Vec<u8>),
}

struct Dialogue<'a, W> {
    link: Link,
    out: &'a mut W,
    input: Receiver<Input>,
    interval: Duration,
    /// Whose status is asked for.
    watched: BTreeSet<usize>,
    ask_at: Instant,
    /// Components as defined.
    defined: Vec<i16>,
    /// Components in effect, and when they are sent again.
    partition: Option<(Vec<i16>, Instant)>,
    windows: Vec<(i16, i16)>,
    global: i16,
    last: Option<Status>,
}

/// Runs until the end of the input or the command to leave.
pub(super) fn run(
    link: Link,
    args: &Args,
    input: impl BufRead + Send + 'static,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (sender, receiver) = channel();
    let lines = sender.clone();
    thread::spawn(move || {
        for line in input.lines() {
            let Ok(line) = line else { break };
            if lines.send(Input::Line(line)).is_err() {
                return;
            }
        }
        // Nobody waits for it after the command to leave.
        let _ = lines.send(Input::End);
    });
    let socket = link.receiver().context("cannot receive")?;
    thread::spawn(move || {
        let mut buf = [0; 2048];
        loop {
            // Refusals of earlier packets are reported here too.
            let Ok(len) = socket.recv(&mut buf) else { continue };
            if sender.send(Input::Datagram(buf[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    let daemons = link.peers.len();
    writeln!(
        out,
        "Spread monitor, as {} of {daemons} daemons, hash {:#010x}, replies to {}",
        link.peers.get(link.me).map_or("", |peer| peer.name.as_str()),
        link.hash,
        link.local()?
    )?;
    if !link.dangerous {
        writeln!(out, "Partition, flow control and termination need `DangerousMonitor = true`.")?;
    }
    let mut dialogue = Dialogue {
        link,
        out,
        input: receiver,
        interval: Duration::from_secs(args.interval.into()),
        watched: BTreeSet::new(),
        ask_at: Instant::now(),
        defined: vec![0; daemons],
        partition: None,
        windows: vec![(-1, -1); daemons],
        global: -1,
        last: None,
    };
    dialogue.menu()?;
    while let Some(line) = dialogue.line()? {
        if !dialogue.command(line.trim_start())? {
            break;
        }
    }
    writeln!(dialogue.out, "Bye.")?;
    Ok(())
}

impl<W: Write> Dialogue<'_, W> {
    fn menu(&mut self) -> anyhow::Result<()> {
        writeln!(self.out, "{MENU}")?;
        self.prompt("Monitor> ")
    }

    fn prompt(&mut self, text: &str) -> anyhow::Result<()> {
        write!(self.out, "{text}")?;
        Ok(self.out.flush()?)
    }

    /// The next line; meanwhile asks for the status, renews the partition and shows replies. None at the end.
    fn line(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            let now = Instant::now();
            if now >= self.ask_at && !self.watched.is_empty() {
                self.ask_at = now + self.interval;
                for peer in &self.watched {
                    // A daemon that cannot be reached is one that is silent.
                    let _ = self.link.ask(*peer);
                }
            }
            if let Some((components, at)) = &mut self.partition
                && now >= *at
            {
                *at = now + RENEW;
                let all = 0..self.link.peers.len();
                let _ = self.link.command(Command::Partition, self.link.components(components), all);
            }
            let asks = (!self.watched.is_empty()).then_some(self.ask_at);
            let next = asks.into_iter().chain(self.partition.as_ref().map(|(_, at)| *at)).min();
            let wait = next.map_or(RENEW, |at| at.saturating_duration_since(Instant::now()));
            match self.input.recv_timeout(wait) {
                Ok(Input::Line(line)) => return Ok(Some(line)),
                Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Ok(Input::Datagram(bytes)) => self.show(&bytes)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn show(&mut self, datagram: &[u8]) -> anyhow::Result<()> {
        let Some((peer, status)) = self.link.reply(datagram) else { return Ok(()) };
        if let Some(peer) = self.link.peers.get(peer) {
            write!(self.out, "{}", block(&self.link, peer, &status, self.last.as_ref()))?;
            self.last = Some(status);
            self.prompt("Monitor> ")?;
        }
        Ok(())
    }

    /// Does a command; false to leave. Only the first character counts.
    fn command(&mut self, line: &str) -> anyhow::Result<bool> {
        match line.chars().next() {
            Some('0') => {
                if let Some(chosen) = self.names(&self.watched.clone())? {
                    self.watched = chosen;
                    self.ask_at = Instant::now();
                }
            }
            Some('1') => self.define_partition()?,
            Some('2') => {
                self.partition = Some((self.defined.clone(), Instant::now()));
                writeln!(self.out, "The partition is sent, and sent again until it is canceled.")?;
            }
            Some('3') => self.review_partition()?,
            Some('4') => {
                self.partition = None;
                self.send(Command::Partition, self.link.components(&[]))?;
                writeln!(self.out, "The end of the partition is sent.")?;
            }
            Some('5') => self.define_windows()?,
            Some('6') => {
                self.send(Command::FlowControl, self.link.windows(&self.windows, self.global))?;
                writeln!(self.out, "The windows are sent.")?;
            }
            Some('7') => self.review_windows()?,
            Some('8') => self.terminate()?,
            Some('r') => self.reload()?,
            Some('9' | 'q') => return Ok(false),
            None => {}
            Some(_) => writeln!(self.out, "There is no such command.")?,
        }
        self.menu()?;
        Ok(true)
    }

    fn send(&mut self, command: Command, numbers: Vec<i16>) -> anyhow::Result<()> {
        let all = 0..self.link.peers.len();
        if let Err(error) = self.link.command(command, numbers, all) {
            writeln!(self.out, "It could not be sent to all: {error}")?;
        }
        Ok(())
    }

    /// Names, `all` or `none`, one in each line; an empty line ends. None at the end of the input.
    fn names(&mut self, before: &BTreeSet<usize>) -> anyhow::Result<Option<BTreeSet<usize>>> {
        let mut chosen = before.clone();
        loop {
            self.prompt("Enter daemon name (all, none, empty line to end): ")?;
            let Some(line) = self.line()? else { return Ok(None) };
            match line.trim() {
                "" => return Ok(Some(chosen)),
                "all" => chosen = (0..self.link.peers.len()).collect(),
                "none" => chosen.clear(),
                name => match self.link.find(name) {
                    Some(peer) => {
                        chosen.insert(peer);
                    }
                    None => writeln!(self.out, "No daemon is called {name}.")?,
                },
            }
        }
    }

    /// A number of at least `min`; an empty line for -1.
    fn number(&mut self, prompt: &str, min: i16) -> anyhow::Result<Option<i16>> {
        loop {
            self.prompt(prompt)?;
            let Some(line) = self.line()? else { return Ok(None) };
            let text = line.trim();
            if text.is_empty() {
                return Ok(Some(-1));
            }
            let digits = text.split(|c: char| !c.is_ascii_digit() && c != '-').next().unwrap_or_default();
            match digits.parse() {
                Ok(number) if number >= min || number == -1 => return Ok(Some(number)),
                _ => writeln!(self.out, "Expected a number from {min} to {}.", i16::MAX)?,
            }
        }
    }

    fn define_partition(&mut self) -> anyhow::Result<()> {
        for peer in 0..self.link.peers.len() {
            let name = self.link.peers.get(peer).map(|peer| peer.name.clone()).unwrap_or_default();
            let Some(number) = self.number(&format!("\t{name}: component number: "), 0)? else {
                return Ok(());
            };
            if let Some(slot) = self.defined.get_mut(peer) {
                // Not named: the first component. -1 would end the daemon.
                *slot = number.max(0);
            }
        }
        Ok(())
    }

    fn review_partition(&mut self) -> anyhow::Result<()> {
        let Some((components, _)) = &self.partition else {
            writeln!(self.out, "There is no partition in effect.")?;
            return Ok(());
        };
        for (peer, component) in self.link.peers.iter().zip(components) {
            writeln!(self.out, "\t{}: {component}", peer.name)?;
        }
        Ok(())
    }

    fn define_windows(&mut self) -> anyhow::Result<()> {
        let Some(global) = self.number("\tglobal window (empty: unchanged): ", 1)? else { return Ok(()) };
        self.global = global;
        for peer in 0..self.link.peers.len() {
            let name = self.link.peers.get(peer).map(|peer| peer.name.clone()).unwrap_or_default();
            let Some(personal) = self.number(&format!("\t{name}: personal window: "), 1)? else {
                return Ok(());
            };
            // The original sends 0 here if its ring is not the accelerated one.
            let mut accelerated = -1;
            if self.link.accelerated {
                let Some(number) = self.number(&format!("\t{name}: accelerated window: "), 0)? else {
                    return Ok(());
                };
                accelerated = number;
            }
            if let Some(pair) = self.windows.get_mut(peer) {
                *pair = (personal, accelerated);
            }
        }
        Ok(())
    }

    fn review_windows(&mut self) -> anyhow::Result<()> {
        let shown = |number: i16| if number == -1 { "unchanged".to_owned() } else { number.to_string() };
        writeln!(self.out, "\tglobal window: {}", shown(self.global))?;
        for (peer, (personal, accelerated)) in self.link.peers.iter().zip(&self.windows) {
            let (personal, accelerated) = (shown(*personal), shown(*accelerated));
            writeln!(self.out, "\t{}: personal {personal}, accelerated {accelerated}", peer.name)?;
        }
        Ok(())
    }

    fn terminate(&mut self) -> anyhow::Result<()> {
        let Some(chosen) = self.names(&BTreeSet::new())? else { return Ok(()) };
        let mut numbers = match &self.partition {
            Some((components, _)) => components.clone(),
            None => vec![0; self.link.peers.len()],
        };
        for peer in &chosen {
            if let Some(slot) = numbers.get_mut(*peer) {
                *slot = -1;
            }
        }
        let numbers = self.link.components(&numbers);
        if let Err(error) = self.link.command(Command::Partition, numbers, chosen.iter().copied()) {
            writeln!(self.out, "It could not be sent to all: {error}")?;
        }
        writeln!(self.out, "{} daemons are told to end.", chosen.len())?;
        Ok(())
    }

    fn reload(&mut self) -> anyhow::Result<()> {
        self.send(Command::Reload, Vec::new())?;
        self.watched.clear();
        self.partition = None;
        match self.link.reread() {
            Ok(()) => writeln!(self.out, "Reload is sent; the configuration was read again.")?,
            Err(error) => writeln!(self.out, "Reload is sent. This monitor goes on as before: {error:#}")?,
        }
        let daemons = self.link.peers.len();
        self.defined = vec![0; daemons];
        self.windows = vec![(-1, -1); daemons];
        self.global = -1;
        Ok(())
    }
}
