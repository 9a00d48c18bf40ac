//! `spsend`: standard input to groups.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context as _, anyhow, ensure};
use spread::blocking::Sender;
use spread::{GroupName, Service};

use crate::cli::{SendArgs, target};
use crate::json::Request;

/// Runs the program.
///
/// # Errors
/// What cannot be read or sent.
pub fn run(args: &SendArgs) -> anyhow::Result<()> {
    // Its own messages are of no use to it: it joins nothing, so it need not read.
    let (mut sender, _receiver) = args.daemon.connect(false, args.reconnect)?.split();
    let sent = if args.messages.is_empty() {
        send_input(args, &mut sender, io::stdin().lock())
    } else {
        args.messages.iter().try_for_each(|message| send(args, &mut sender, message.as_bytes()))
    };
    // What was good before an error is sent all the same.
    let ended = sender.disconnect();
    sent?;
    Ok(ended?)
}

fn send(args: &SendArgs, sender: &mut Sender, data: &[u8]) -> anyhow::Result<()> {
    sender.enqueue(Service::from(args.service), &args.groups, args.message_type, data)?;
    Ok(())
}

fn send_input(args: &SendArgs, sender: &mut Sender, input: impl Read) -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let mut data = Vec::new();
    if args.whole {
        // One byte more than fits is enough to find that out.
        input.take(200_000).read_to_end(&mut data).context("standard input")?;
        return send(args, sender, &data);
    }
    let end = if args.zero { 0 } else { b'\n' };
    for number in 1_u64.. {
        data.clear();
        if input.by_ref().take(400_000).read_until(end, &mut data).context("standard input")? == 0 {
            break;
        }
        if data.last() == Some(&end) {
            data.pop();
        }
        let sent = if args.json { send_object(args, sender, &data) } else { send(args, sender, &data) };
        sent.with_context(|| format!("message {number} of standard input"))?;
        // Many lines that came together leave together; the last does not wait for the next.
        if input.buffer().is_empty() {
            sender.flush()?;
        }
    }
    Ok(())
}

fn send_object(args: &SendArgs, sender: &mut Sender, line: &[u8]) -> anyhow::Result<()> {
    let Some(request) = Request::parse(line)? else { return Ok(()) };
    let service = Service::from(request.service()?.unwrap_or(args.service));
    let groups = if args.groups.is_empty() {
        let group = |name: &String| target(name).map_err(|error| anyhow!("group {name:?}: {error}"));
        request.groups.iter().map(group).collect::<anyhow::Result<Vec<GroupName>>>()?
    } else {
        args.groups.clone()
    };
    ensure!(!groups.is_empty(), "no group: neither in the object nor by --group");
    let message_type = request.message_type.unwrap_or(args.message_type);
    sender.enqueue(service, &groups, message_type, request.data()?)?;
    Ok(())
}
