//! The unified access log: joins Spread groups and writes what web servers publish there, every line once and in
//! the order of delivery, which is the same on every host.
//!
//! ```text
//! daemon --> reader thread --> queue (bounded) --> writer thread --> files
//!   ^        (only reads)                           (order, duplicates, holes)
//!   +------------------- acknowledgements ----------------+
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`config`] | what to read and where to write; from flags or from a `spreadlogd.conf` |
//! | [`cli`], [`words`], [`settings`] | flags and TOML files |
//! | [`conf_file`] | the language of `spreadlogd.conf` |
//! | [`queue`] | the bounded queue between the two threads |
//! | [`spill`] | what does not fit into it waits on disk |
//! | [`reader`] | the session: connect, join, read, reconnect |
//! | [`writer`] | lines to files, acknowledgements |
//! | [`route`] | which line goes to which file, and in which form |
//! | [`vhosts`] | a file for each virtual host |
//! | [`mod@format`] | lines as received, with numbers, as JSON |
//! | [`order`] | lines in the order of their times |
//! | [`skew`] | clocks of web servers that are ahead |
//! | [`output`] | one file, pipe or standard output |
//! | [`rotate`] | when a new file begins and what it is called |
//! | [`archive`] | compression of complete files |
//! | [`retention`] | which complete files are kept |
//! | [`index`] | the numbers of the lines, beside a file |
//! | [`audit`] | what a file holds, proved by its index |
//! | [`repair`] | the torn end of a file after a crash |
//! | [`state`] | the position kept over restarts |
//! | [`ended`] | positions of sources that have ended, for exactly-once |
//! | [`sink`], [`ship`] | Parquet, ClickHouse |
//! | [`run`](mod@run) | threads and signals |

#![forbid(unsafe_code)]

pub mod archive;
pub mod audit;
pub mod cli;
pub mod conf_file;
pub mod config;
pub mod ended;
pub mod format;
pub mod index;
pub mod order;
pub mod output;
pub mod queue;
pub mod reader;
pub mod repair;
pub mod retention;
pub mod rotate;
pub mod route;
pub mod run;
pub mod settings;
pub mod ship;
pub mod sink;
pub mod skew;
pub mod spill;
pub mod state;
pub mod vhosts;
pub mod words;
pub mod writer;

pub use config::Config;
