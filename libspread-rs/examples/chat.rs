//! A chat room: lines typed here appear at everybody in the room, in the same order.
//!
//! ```sh
//! cargo run --example chat -- 4803 room ann
//! ```

use std::env;
use std::error::Error;
use std::io::{self, BufRead};
use std::thread;

use spread::{Builder, Cause, GroupName, Message, ReceiveError, Reconnect, Service};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [daemon, room, name] = &args[..] else {
        return Err("usage: chat DAEMON ROOM NAME, e.g. chat 4803@localhost room ann".into());
    };
    let room: GroupName = room.parse()?;
    let connection = Builder::new(daemon)?
        .private_name(name)?
        .membership(true)
        .reconnect(Reconnect::default())
        .connect_blocking()?;
    let (mut sender, mut receiver) = connection.split();
    sender.join(room)?;

    let printer = thread::spawn(move || {
        loop {
            match receiver.receive() {
                Ok(message) => print(&message),
                Err(ReceiveError::Closed) => return,
                Err(error) => return eprintln!("{error}"),
            }
        }
    });
    for line in io::stdin().lock().lines() {
        sender.multicast(Service::AGREED, room, 0, line?)?;
    }
    sender.disconnect()?;
    printer.join().map_err(|_| "the printer failed")?;
    Ok(())
}

fn print(message: &Message) {
    match message {
        Message::Data(data) => {
            let name =
                data.sender_private_group().map_or_else(String::new, |sender| sender.name().to_string());
            println!("{name}: {}", String::from_utf8_lossy(data.payload()));
        }
        Message::Membership(view) => match view.cause {
            Cause::Join(who) => println!("* {who} joins, {} here", view.members.len()),
            Cause::Leave(who) | Cause::Disconnect(who) => println!("* {who} leaves"),
            Cause::Network => println!("* the network changed, {} here", view.members.len()),
        },
        Message::Reconnected(gap) => println!("* lost the daemon for {:?}; lines were missed", gap.downtime),
        _ => {}
    }
}
