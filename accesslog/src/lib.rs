//! Access-log lines of Apache httpd: compiled formats, a parser that copies nothing, exact error classes.
//!
//! ```
//! use access_log::Format;
//!
//! let format = Format::compile(r#"%h %l %u %t "%r" %>s %b"#)?;
//! let line = b"192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.1\" 200 5\n";
//! let entry = format.parse(line)?;
//! assert_eq!(entry.host, b"192.0.2.4");
//! assert_eq!(entry.status, Some(200));
//! assert_eq!(entry.request_line().unwrap().target.as_ref(), b"/a");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod clf;
mod entry;
mod error;
mod escape;
mod format;

mod lines;
mod logformat;
mod scan;
pub mod stats;
mod time;

pub use entry::{Entry, RequestLine};
pub use error::{FormatError, LineError};
pub use escape::unescape;
pub use format::Format;
pub use lines::{Lines, Tail, complete_len};
pub use time::{Stamp, parse_clf_time};

/// Longest line that is accepted, in bytes, line feed included.
pub const LINE_LEN_MAX: usize = 131_072;
