//! Decisions for people: a response header, a note for the access log, an environment variable.

use std::fmt::Write;

use backhand::{Decision, Method, Servers};
use httpd::Request;

/// Note, and name of the header.
pub(crate) const EXPLAIN: &std::ffi::CStr = c"Backhand-Explain";
/// Longest explanation; the rest is cut.
const LEN_MAX: usize = 4000;

/// Candidates after each step: `up: www-1 www-2; byAge 2: www-1; -> www-1`.
pub(crate) fn text(decision: &Decision, servers: &impl Servers) -> String {
    let mut text = String::new();
    let name = |slot: &u16| servers.stat(*slot).map_or_else(|| "?".to_owned(), |s| s.hostname.to_string());
    for step in decision.steps() {
        let _ = write!(text, "{}:", step.call);
        step.set.iter().for_each(|slot| {
            let _ = write!(text, " {}", name(slot));
        });
        if step.set.is_empty() {
            text.push_str(" none");
        }
        if let Some(error) = &step.error {
            let _ = write!(text, " (error: {error})");
        }
        text.push_str("; ");
    }
    let method = match decision.method {
        Method::Proxy => "proxy",
        Method::RedirectToName(_) => "redirect by name",
        Method::RedirectToIp => "redirect by address",
    };
    match decision.set.first() {
        None => text.push_str("-> local: no candidate"),
        Some(0) => text.push_str("-> local: this server is the best"),
        Some(slot) => {
            let _ = write!(text, "-> {} by {method}", name(slot));
        }
    }
    // It becomes a header: one line of plain characters.
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(LEN_MAX).collect()
}

/// Shows it: to the client, the access log and scripts.
pub(crate) fn show(request: Request<'_>, text: &str) {
    request.err_headers_out().set(EXPLAIN, text.as_bytes());
    request.notes().set(EXPLAIN, text.as_bytes());
    request.subprocess_env().set(c"BACKHAND_EXPLAIN", text.as_bytes());
}
