//! The commands for scripts.

use std::io::{IsTerminal as _, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::WrongUse;
use super::cli::{Args, Flow};
use super::link::Link;
use super::show::{Answer, json, table};
use crate::monitor::packet::{Command, Status};

/// Clears the screen, and goes to its first place.
const CLEAR: &str = "\x1b[2J\x1b[H";

fn ask(link: &Link, names: &[String], limit: Duration) -> anyhow::Result<Vec<Answer>> {
    let peers = peers(link, names)?;
    let found = link.collect(&peers, limit)?;
    let answer = |(peer, status): (usize, Option<Status>)| {
        let why = if status.is_none() { link.why_silent(peer) } else { String::new() };
        Answer { peer, status, why }
    };
    Ok(peers.into_iter().zip(found).map(answer).collect())
}

/// One report; false if a daemon is silent.
pub(super) fn status(
    link: &Link,
    names: &[String],
    args: &Args,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let answers = ask(link, names, Duration::from_millis(args.timeout))?;
    if args.json {
        writeln!(out, "{:#}", json(link, &answers))?;
    } else {
        write!(out, "{}", table(link, &answers))?;
    }
    Ok(answers.iter().all(|answer| answer.status.is_some()))
}

/// Reports until it is interrupted.
pub(super) fn watch(link: &Link, names: &[String], args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let clear = std::io::stdout().is_terminal();
    let interval = Duration::from_secs(args.interval.into());
    // A silent daemon must not keep the figures of the others back.
    let limit = Duration::from_millis(args.timeout).min(interval);
    loop {
        let start = Instant::now();
        let answers = ask(link, names, limit)?;
        if args.json {
            writeln!(out, "{}", json(link, &answers))?;
        } else {
            if clear {
                write!(out, "{CLEAR}")?;
            }
            writeln!(out, "{}", table(link, &answers))?;
        }
        out.flush()?;
        thread::sleep(interval.saturating_sub(start.elapsed()));
    }
}

/// Names as numbers; none for all.
fn peers(link: &Link, names: &[String]) -> anyhow::Result<Vec<usize>> {
    if names.is_empty() || names == ["all"] {
        return Ok((0..link.peers.len()).collect());
    }
    names.iter().map(|name| peer(link, name)).collect()
}

fn peer(link: &Link, name: &str) -> anyhow::Result<usize> {
    let known = || link.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ");
    Ok(link
        .find(name)
        .ok_or_else(|| WrongUse(format!("no daemon is called {name:?}; there are {}", known())))?)
}

/// Commands that daemons ignore without `DangerousMonitor` had better not look successful.
fn dangerous(link: &Link) -> anyhow::Result<()> {
    if link.dangerous {
        return Ok(());
    }
    Err(WrongUse(
        "the configuration does not have `DangerousMonitor = true`: daemons would ignore this".to_owned(),
    )
    .into())
}

fn everyone(link: &Link) -> std::ops::Range<usize> {
    0..link.peers.len()
}

/// `NAME=NUMBER`.
fn assignment<'a>(link: &Link, text: &'a str) -> anyhow::Result<(Option<usize>, &'a str)> {
    match text.rsplit_once('=') {
        Some((name, number)) => Ok((Some(peer(link, name)?), number)),
        None => Ok((None, text)),
    }
}

fn number(text: &str, min: i16) -> anyhow::Result<i16> {
    let number = text.parse().ok().filter(|number| *number >= min);
    Ok(number.ok_or_else(|| WrongUse(format!("{text:?} is no number from {min} to {}", i16::MAX)))?)
}

pub(super) fn partition(link: &Link, components: &[String], out: &mut impl Write) -> anyhow::Result<bool> {
    dangerous(link)?;
    let mut numbers = vec![0; link.peers.len()];
    for text in components {
        let (Some(peer), value) = assignment(link, text)? else {
            return Err(WrongUse(format!("{text:?} is not NAME=NUMBER")).into());
        };
        if let Some(slot) = numbers.get_mut(peer) {
            *slot = number(value, 0)?;
        }
    }
    link.command(Command::Partition, link.components(&numbers), everyone(link)).context("cannot send")?;
    writeln!(out, "The partition was sent to {} daemons; it lasts 60 seconds.", link.peers.len())?;
    Ok(true)
}

pub(super) fn heal(link: &Link, out: &mut impl Write) -> anyhow::Result<bool> {
    dangerous(link)?;
    link.command(Command::Partition, link.components(&[]), everyone(link)).context("cannot send")?;
    writeln!(out, "The end of the partition was sent to {} daemons.", link.peers.len())?;
    Ok(true)
}

pub(super) fn flow(link: &Link, flow: &Flow, out: &mut impl Write) -> anyhow::Result<bool> {
    dangerous(link)?;
    let mut windows = vec![(-1, -1); link.peers.len()];
    let mut set = |texts: &[String], min: i16, field: fn(&mut (i16, i16)) -> &mut i16| {
        for text in texts {
            let (only, value) = assignment(link, text)?;
            let value = number(value, min)?;
            for (_, pair) in
                windows.iter_mut().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at))
            {
                *field(pair) = value;
            }
        }
        anyhow::Ok(())
    };
    set(&flow.personal, 1, |pair| &mut pair.0)?;
    set(&flow.accelerated, 0, |pair| &mut pair.1)?;
    let numbers = link.windows(&windows, flow.window.unwrap_or(-1));
    link.command(Command::FlowControl, numbers, everyone(link)).context("cannot send")?;
    writeln!(out, "The windows were sent to {} daemons.", link.peers.len())?;
    Ok(true)
}

pub(super) fn kill(link: &Link, names: &[String], out: &mut impl Write) -> anyhow::Result<bool> {
    dangerous(link)?;
    let chosen = peers(link, names)?;
    let mut numbers = vec![0; link.peers.len()];
    for peer in &chosen {
        if let Some(slot) = numbers.get_mut(*peer) {
            *slot = -1;
        }
    }
    link.command(Command::Partition, link.components(&numbers), chosen.iter().copied())
        .context("cannot send")?;
    writeln!(out, "{} daemons were told to end.", chosen.len())?;
    Ok(true)
}

pub(super) fn reload(link: &Link, out: &mut impl Write) -> anyhow::Result<bool> {
    link.command(Command::Reload, Vec::new(), everyone(link)).context("cannot send")?;
    writeln!(out, "{} daemons were told to read their configuration again.", link.peers.len())?;
    Ok(true)
}
