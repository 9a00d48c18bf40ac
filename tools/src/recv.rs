//! `sprecv`: groups to standard output.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spread::Message;

use crate::cli::RecvArgs;
use crate::json::Line;

/// Runs the program.
///
/// # Errors
/// The end of the connection, or what cannot be written.
pub fn run(args: &RecvArgs) -> anyhow::Result<()> {
    let limit = args.timeout.map(Duration::try_from_secs_f64).transpose().context("--timeout")?;
    let mut connection = args.daemon.connect(args.membership, args.reconnect)?;
    for group in &args.groups {
        connection.join(*group)?;
    }
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        // What came together is written together; what is there must be seen before a wait.
        let message = match connection.try_receive()? {
            Some(message) => message,
            None => {
                out.flush()?;
                match limit {
                    None => connection.receive()?,
                    Some(limit) => match within(&mut connection, limit)? {
                        Some(message) => message,
                        None => break,
                    },
                }
            }
        };
        if write(args, &message, &mut out)? {
            left -= 1;
        }
    }
    out.flush()?;
    // Whoever wants the name next shall have it.
    connection.disconnect()?;
    Ok(())
}

fn within(connection: &mut spread::blocking::Connection, limit: Duration) -> anyhow::Result<Option<Message>> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match connection.receive_timeout(left)? {
            None if !end.saturating_duration_since(Instant::now()).is_zero() => {}
            result => return Ok(result),
        }
    }
}

/// Writes a message; tells whether it counts.
fn write(args: &RecvArgs, message: &Message, out: &mut impl Write) -> anyhow::Result<bool> {
    if args.json {
        let Some(line) = Line::new(message) else { return Ok(false) };
        serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        return Ok(matches!(message, Message::Data(_)) || args.membership);
    }
    match message {
        Message::Data(data) => {
            out.write_all(data.payload())?;
            if args.zero {
                out.write_all(b"\0")?;
            } else if !data.payload().ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
            Ok(true)
        }
        Message::Reconnected(gap) => {
            eprintln!("sprecv: there was no daemon for {:?}; messages are missing here", gap.downtime);
            Ok(false)
        }
        Message::Reject(rejected) => {
            let groups: Vec<String> = rejected.groups().map(|group| group.to_string()).collect();
            anyhow::bail!("the daemon's policy refuses {}", groups.join(" "));
        }
        _ => Ok(false),
    }
}
