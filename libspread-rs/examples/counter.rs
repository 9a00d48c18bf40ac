//! A replicated counter: every replica applies the same additions in the same order, so all hold the same value; a new
//! replica gets the value from an old one.
//!
//! ```sh
//! cargo run --example counter -- 4803 hits        # several times; type numbers
//! ```
//!
//! The method: additions are AGREED messages, and the view that lets a replica in has its place in the same order. The
//! old members that know the value send it as it was at that place; the new one counts the additions it sees from there
//! and adds the first value that arrives.

use std::env;
use std::error::Error;
use std::io::{self, BufRead};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use spread::{Builder, Cause, GroupName, Membership, Message, Service};

/// Message types.
const ADD: i16 = 1;
const VALUE: i16 = 2;

struct Replica {
    value: i64,
    /// Whether `value` is that of the group, not only what was added since this replica came.
    complete: bool,
}

impl Replica {
    /// Applies a message; gives the value when it has changed.
    fn apply(&mut self, message_type: i16, number: i64) -> Option<i64> {
        match message_type {
            ADD => self.value += number,
            VALUE if !self.complete => {
                self.value += number;
                self.complete = true;
            }
            _ => return None,
        }
        self.complete.then_some(self.value)
    }

    /// Tells to whom this replica has to send its value because of a new view.
    fn welcome(&mut self, view: &Membership) -> Option<GroupName> {
        let Cause::Join(new) = view.cause else { return None };
        // Alone: the count begins here.
        self.complete |= view.members == [new];
        (self.complete && view.members.len() > 1).then_some(new)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [daemon, group] = &args[..] else { return Err("usage: counter DAEMON GROUP".into()) };
    let group: GroupName = group.parse()?;
    let mut connection = Builder::new(daemon)?.membership(true).connect_blocking()?;
    connection.join(group)?;

    let (lines, typed) = mpsc::channel();
    thread::spawn(move || io::stdin().lock().lines().map_while(Result::ok).try_for_each(|l| lines.send(l)));
    let mut replica = Replica { value: 0, complete: false };
    loop {
        loop {
            match typed.try_recv() {
                Ok(line) => {
                    let number: i64 = line.trim().parse()?;
                    connection.enqueue(Service::AGREED, group, ADD, number.to_le_bytes())?;
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(connection.disconnect()?),
            }
        }
        // Waiting writes what is queued.
        match connection.receive_timeout(Duration::from_millis(50))? {
            Some(Message::Data(data)) => {
                let number = i64::from_le_bytes(data.payload().try_into()?);
                if let Some(value) = replica.apply(data.message_type(), number) {
                    println!("{value}");
                }
            }
            Some(Message::Membership(view)) => {
                if let Some(new) = replica.welcome(&view)
                    && new != connection.private_group().as_group()
                {
                    connection.enqueue(Service::AGREED, new, VALUE, replica.value.to_le_bytes())?;
                }
            }
            _ => {}
        }
    }
}
