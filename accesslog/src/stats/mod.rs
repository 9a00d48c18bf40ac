//! Live figures of a stream of entries: rates, codes, latency, the most frequent of everything, in memory that
//! does not grow with the traffic.

mod aggregate;
mod hll;
mod latency;
mod topk;
mod topwindow;
mod window;

pub use aggregate::{Aggregate, Dimension, Limits, OTHER, Series};
pub use hll::Hll;
pub use latency::Latency;
pub use topk::{Counted, TopK};
pub use topwindow::TopWindow;
pub use window::{Counters, Span, Window};
