//! The wall between Rust and C: a panic becomes an error-log line and a fixed value.
// spec: httpd-ffi 7

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::log::{Level, Log};

/// Runs a callback of the server. When it panics, the panic is logged and `fallback` is returned.
///
/// The state that the callback saw may be half changed; modules keep such state behind locks that recover from
/// poisoning, or give it up.
pub(crate) fn guard<T>(what: &'static str, fallback: T, body: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(panic) => {
            let text = text_of(&*panic);
            Log::process().write(Level::Critical, &format!("internal error in {what}: {text}"));
            // The payload's own destructor could panic: leave it.
            std::mem::forget(panic);
            fallback
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}
