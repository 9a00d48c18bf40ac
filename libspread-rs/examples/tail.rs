//! Follows the lines that Apache's `mod_log_spread` (or anybody) sends to log groups, like `tail -f` over all hosts.
//!
//! ```sh
//! cargo run --example tail -- 4803 weblogs other
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write};

use spread::{Builder, Message, Reconnect};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let daemon = args.next().ok_or("usage: tail DAEMON GROUP...")?;
    let mut connection = Builder::new(&daemon)?.reconnect(Reconnect::default()).connect_blocking()?;
    for group in args {
        connection.join(group.parse()?)?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    loop {
        // Whole batches are written at once; when nothing more has arrived, what there is must be seen.
        let message = match connection.try_receive()? {
            Some(message) => message,
            None => {
                out.flush()?;
                connection.receive()?
            }
        };
        match message {
            Message::Data(data) => {
                out.write_all(data.payload())?;
                if !data.payload().ends_with(b"\n") {
                    out.write_all(b"\n")?;
                }
            }
            Message::Reconnected(gap) => {
                eprintln!("tail: no daemon for {:?}; lines are missing here", gap.downtime);
            }
            _ => {}
        }
    }
}
