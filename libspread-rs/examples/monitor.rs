//! A custom monitor in thirty lines: messages and bytes per second and sender of a group.
//!
//! ```sh
//! cargo run --example monitor -- 4803 weblogs
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use spread::{Builder, Message, Reconnect};
use tokio::time::{MissedTickBehavior, interval};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(daemon), Some(group)) = (args.next(), args.next()) else { return Err("DAEMON GROUP".into()) };
    let mut connection = Builder::new(&daemon)?.reconnect(Reconnect::default()).connect().await?;
    connection.join(group.parse()?).await?;
    let mut rates: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            message = connection.receive() => if let Message::Data(data) = message? {
                let rate = rates.entry(data.sender().to_string()).or_default();
                *rate = (rate.0 + 1, rate.1 + data.payload().len() as u64);
            },
            _ = second.tick() => for (sender, (messages, bytes)) in std::mem::take(&mut rates) {
                println!("{sender:32} {messages:8} messages/s {bytes:10} bytes/s");
            },
        }
    }
}
