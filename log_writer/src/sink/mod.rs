//! Places beyond the log file that lines go to: archives and databases.
//!
//! Sinks never stand between a web server and its log: they are fed from files that are written already, with the
//! numbers of their index, so a slow or absent one costs nothing but time, and the position in the file is the position
//! in the sink.
//!
//! | module | job |
//! |---|---|
//! | [`records`] | lines of a file with their numbers |
//! | `parquet` | complete files as Parquet (feature `parquet`) |
//! | [`clickhouse`] | rows for ClickHouse over HTTP |
//! | `kafka` | messages for Kafka (feature `kafka`) |

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;

use self::clickhouse::ClickHouse;

pub mod clickhouse;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod records;

pub use records::{Origin, Record, Records};

/// A place that lines go to.
pub trait Sink {
    /// Takes a line; it may wait in memory until [`Sink::commit`].
    ///
    /// # Errors
    /// When it cannot be taken. The lines since the last commit are to be put again.
    fn put(&mut self, record: &Record) -> anyhow::Result<()>;

    /// Returns when everything that was put is with the receiver for good.
    ///
    /// # Errors
    /// When that is not known. The lines since the last commit are to be put again.
    fn commit(&mut self) -> anyhow::Result<()>;
}

/// How lines are given to a place.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// Form of the lines: raw, meta or json.
    pub format: Option<String>,
    /// LogFormat of the lines, for json.
    pub log_format: Option<String>,
    /// Settings of the sink's library.
    pub config: Option<PathBuf>,
}

/// A sink by its address; one that waits gives up when `stop` is set.
///
/// # Errors
/// When the address or an option is not understood.
pub fn open(to: &str, options: &Options, stop: &Arc<AtomicBool>) -> anyhow::Result<Box<dyn Sink>> {
    match to.split_once(':') {
        Some(("clickhouse", url)) => {
            if let Some(format) = options.format.as_deref().filter(|f| *f != "json") {
                bail!("--format {format}: rows for ClickHouse are json");
            }
            if let Some(path) = &options.config {
                bail!("--sink-config {}: ClickHouse has none", path.display());
            }
            Ok(Box::new(ClickHouse::new(url, options.log_format.as_deref())?))
        }
        Some(("kafka", rest)) => kafka_sink(rest, options, stop),
        _ => bail!("--to {to}: clickhouse:http://... or kafka:... is expected"),
    }
}

#[cfg(feature = "kafka")]
fn kafka_sink(to: &str, options: &Options, stop: &Arc<AtomicBool>) -> anyhow::Result<Box<dyn Sink>> {
    Ok(Box::new(kafka::Kafka::new(to, options, Arc::clone(stop))?))
}

#[cfg(not(feature = "kafka"))]
fn kafka_sink(_: &str, _: &Options, _: &Arc<AtomicBool>) -> anyhow::Result<Box<dyn Sink>> {
    bail!("this log_writer was built without the feature kafka (cargo build -p log_writer --features kafka)")
}
