//! `spuser`: a daemon by hand.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver as Inbox, Sender as Outbox, TryRecvError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use spread::blocking::{Receiver, Sender};
use spread::{Cause, Message, SendError, Service};

use crate::cli::{USER_COMMANDS, UserArgs, target};
use crate::printable;

/// How long the reader waits for a message before it looks for commands.
const LOOK: Duration = Duration::from_millis(50);

/// Messages of a burst.
const BURST: usize = 10;

/// What stands in the line that is typed in, if it is a terminal's. A message that comes meanwhile takes the line, and
/// this is shown again below.
static PROMPT: Mutex<&str> = Mutex::new("");

/// What the reader is told.
enum Order {
    /// Show messages as they come.
    Show,
    /// Leave them where they are.
    Keep,
    /// Show one, and tell when that is done.
    One(Outbox<()>),
    /// Show one if it is there, and tell when that is done.
    Poll(Outbox<()>),
}

/// Runs the program.
///
/// # Errors
/// The end of the connection, or what cannot be read or written.
pub fn run(args: &UserArgs) -> anyhow::Result<()> {
    let (mut sender, receiver) = args.daemon.connect(true, false)?.split();
    println!("You are {} at {}. Commands:\n{USER_COMMANDS}", sender.private_group(), sender.address());
    let (orders, inbox) = mpsc::channel();
    let reader = thread::spawn(move || {
        if let Err(error) = read(receiver, &inbox) {
            // Nothing else ends the wait for what is typed.
            eprintln!("spuser: {error:#}");
            std::process::exit(1);
        }
    });
    let result = type_commands(args, &mut sender, &orders);
    drop(orders);
    let ended = sender.disconnect();
    result?;
    ended?;
    reader.join().map_err(|_| anyhow!("the reader failed"))
}

/// The thread that receives.
fn read(mut receiver: Receiver, orders: &Inbox<Order>) -> anyhow::Result<()> {
    let mut shown = true;
    loop {
        let order = if shown {
            match orders.try_recv() {
                Ok(order) => Some(order),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        } else {
            match orders.recv() {
                Ok(order) => Some(order),
                Err(_) => return Ok(()),
            }
        };
        match order {
            None => {
                match receiver.receive_timeout(LOOK) {
                    Ok(Some(message)) => show(&message)?,
                    Ok(None) => {}
                    // We ended it.
                    Err(_) if matches!(orders.try_recv(), Err(TryRecvError::Disconnected)) => return Ok(()),
                    Err(error) => return Err(error).context("the session has ended"),
                }
            }
            Some(Order::Show) => shown = true,
            Some(Order::Keep) => shown = false,
            Some(Order::One(done)) => {
                show(&receiver.receive().context("the session has ended")?)?;
                // Nobody waits if the program ends meanwhile.
                let _ = done.send(());
            }
            Some(Order::Poll(done)) => {
                match receiver.try_receive() {
                    Ok(Some(message)) => show(&message)?,
                    Ok(None) => println!("no message is there"),
                    Err(error) => return Err(error).context("the session has ended"),
                }
                let _ = done.send(());
            }
        }
    }
}

fn show(message: &Message) -> anyhow::Result<()> {
    let prompt = PROMPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = io::stdout().lock();
    if !prompt.is_empty() {
        write!(out, "\r\x1b[K")?;
    }
    match message {
        Message::Data(data) => {
            let groups: Vec<String> = data.groups().map(|group| group.to_string()).collect();
            writeln!(
                out,
                "{} of {} to {}, type {}, {} bytes: {}",
                data.service().kind(),
                data.sender(),
                groups.join(" "),
                data.message_type(),
                data.payload().len(),
                printable(data.payload())
            )?;
        }
        Message::Membership(view) => {
            let cause = match view.cause {
                Cause::Join(who) => format!("{who} joined"),
                Cause::Leave(who) => format!("{who} left"),
                Cause::Disconnect(who) => format!("{who} is gone"),
                Cause::Network => "the network changed".to_owned(),
            };
            let members: Vec<String> = view.members.iter().map(ToString::to_string).collect();
            let plural = if members.len() == 1 { "" } else { "s" };
            let (count, members) = (members.len(), members.join(" "));
            writeln!(out, "group {}: {cause}; {count} member{plural}: {members}", view.group)?;
            if view.cause == Cause::Network {
                for (i, set) in view.vs_sets.iter().enumerate() {
                    let names: Vec<String> = set.iter().map(ToString::to_string).collect();
                    let own = if i == view.own_set { " (with us)" } else { "" };
                    writeln!(out, "  came together{own}: {}", names.join(" "))?;
                }
            }
        }
        Message::Transition { group, .. } => writeln!(out, "group {group}: the network is changing")?,
        Message::SelfLeave { group } => writeln!(out, "group {group}: you left")?,
        Message::Reject(rejected) => {
            let groups: Vec<String> = rejected.groups().map(|group| group.to_string()).collect();
            writeln!(out, "refused by the daemon's policy: {}", groups.join(" "))?;
        }
        other => writeln!(out, "{other:?}")?,
    }
    write!(out, "{prompt}")?;
    Ok(out.flush()?)
}

fn type_commands(args: &UserArgs, sender: &mut Sender, orders: &Outbox<Order>) -> anyhow::Result<()> {
    let stdin = io::stdin();
    let mut lines = Lines { input: stdin.lock(), prompt: stdin.is_terminal() && io::stdout().is_terminal() };
    while let Some(line) = lines.next("> ")? {
        let (command, rest) = line.trim().split_at(line.trim().chars().next().map_or(0, char::len_utf8));
        let rest = rest.trim();
        let done = match command {
            "" => continue,
            "q" => break,
            "j" | "l" | "s" | "m" | "b" => with_group(args, sender, &mut lines, command, rest),
            "e" | "d" => {
                let order = if command == "e" { Order::Show } else { Order::Keep };
                // A reader that has ended tells why when it is joined.
                if orders.send(order).is_err() { break } else { Ok(()) }
            }
            "r" | "p" => {
                let (tell, told) = mpsc::channel();
                let order = if command == "r" { Order::One(tell) } else { Order::Poll(tell) };
                if orders.send(order).is_err() || told.recv().is_err() {
                    break;
                }
                Ok(())
            }
            "h" | "?" => {
                println!("{USER_COMMANDS}");
                Ok(())
            }
            _ => Err(anyhow!("no such command; h lists them")),
        };
        match done {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Err(error),
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}

/// Whether nothing can be sent any more.
fn is_end(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<SendError>(),
        Some(SendError::Closed | SendError::Io(_) | SendError::Reconnect(_))
    )
}

fn with_group(
    args: &UserArgs,
    sender: &mut Sender,
    lines: &mut Lines<impl BufRead>,
    command: &str,
    rest: &str,
) -> anyhow::Result<()> {
    let (name, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let service = Service::from(args.service);
    ensure!(!name.is_empty(), "which group? {command} GROUP");
    // A message can also go to one session, by its private group.
    let group = target(name).map_err(|error| anyhow!("{name:?}: {error}"))?;
    match command {
        "j" => sender.join(group)?,
        "l" => sender.leave(group)?,
        "s" => {
            let typed;
            let text = match text.trim_start() {
                "" => {
                    typed = lines.next("message: ")?.unwrap_or_default();
                    typed.trim_end_matches(['\r', '\n'])
                }
                text => text,
            };
            sender.multicast(service, group, 1, text)?;
        }
        "m" => {
            let mut text = String::new();
            while let Some(line) = lines.next("message: ")? {
                if line.trim_end_matches(['\r', '\n']).is_empty() {
                    break;
                }
                text.push_str(&line);
            }
            sender.multicast(service, group, 1, text)?;
        }
        _ => {
            let bytes = match text.trim() {
                "" => 100,
                number => {
                    number.parse::<usize>().with_context(|| format!("{number:?} is no number of bytes"))?
                }
            };
            for i in 1..=BURST {
                let mut text = format!("message {i} of {BURST} ");
                // The daemon's limit is told by the send.
                let fill = bytes.min(200_000).saturating_sub(text.len());
                text.extend(std::iter::repeat_n('.', fill));
                text.truncate(bytes.min(200_000));
                sender.enqueue(service, group, 1, text)?;
            }
            sender.flush()?;
        }
    }
    Ok(())
}

/// Lines that are typed.
struct Lines<R> {
    input: R,
    prompt: bool,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self, prompt: &'static str) -> anyhow::Result<Option<String>> {
        let set = |prompt| -> io::Result<()> {
            let mut shown = PROMPT.lock().unwrap_or_else(PoisonError::into_inner);
            *shown = prompt;
            print!("{prompt}");
            io::stdout().flush()
        };
        if self.prompt {
            set(prompt)?;
        }
        let mut line = Vec::new();
        let n = self.input.read_until(b'\n', &mut line).context("standard input")?;
        if self.prompt {
            set("")?;
        }
        Ok((n > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
    }
}
