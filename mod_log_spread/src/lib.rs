//! Apache module: publishes access-log lines to Spread groups.
//!
//! ```apache
//! LoadModule log_spread_module modules/mod_log_spread.so
//! SpreadDaemon 4803
//! CustomLog $site4 common
//! ```
//!
//! A thread that ends a request puts the line into a bounded queue and goes on; it never waits for the daemon. One
//! background thread of each child talks to the daemon. What is promised for a line, and how it is counted when the
//! promise cannot be kept: `log_stream::publisher`.
//!
//! | file | job |
//! |---|---|
//! | `settings` | directives |
//! | `plan` | the logs of the configuration: which groups, through which daemons |
//! | `child` | what a child holds; the way of a line into the queue |
//! | `sender` | the background thread |
//! | `session` | connecting, receiving, handing over messages |
//! | `spooler` | lines on disk until they are confirmed |
//! | `errors` | lines of the error log |
//! | `counters` | counters shared by all children, and their page |
//! | `module` | the module itself: hooks |

mod child;
mod counters;
mod errors;
mod module;
mod plan;
mod sender;
mod session;
mod settings;
mod spooler;
