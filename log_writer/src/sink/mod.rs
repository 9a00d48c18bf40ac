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

pub mod clickhouse;
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
