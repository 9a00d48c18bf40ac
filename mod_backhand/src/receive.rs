//! Requests that another server sent.
// spec: mod_backhand 9.3

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use backhand::hop::{Signed, verify};
use backhand::{request as view, sample};
use httpd::{Level, Request};

use crate::module::child;
use crate::settings::{Category, log};
use crate::shared;

/// Name of the header, and of the note that a request has it.
pub(crate) const HOP: &std::ffi::CStr = c"Backhand-Hop";
/// Note of a request with a header, believed or not: it is never sent on.
const NOTE: &std::ffi::CStr = c"backhand-hop";

/// Whether another server sent it, or says so.
pub(crate) fn has_hopped(request: Request<'_>) -> bool {
    request.original().notes().get(NOTE).is_some()
}

/// What the header's code covers.
pub(crate) fn signed<'a>(request: Request<'a>, target: &'a [u8]) -> Signed<'a> {
    let host = request.headers_in().get(c"Host").unwrap_or_default();
    Signed { method: request.method(), host, target }
}

pub(crate) fn post_read(request: Request<'_>) {
    if request.previous().is_some() {
        return;
    }
    let Some(value) = request.headers_in().get(HOP) else { return };
    // Never sent on, even when it is not believed: servers whose keys or clocks differ must not play ball with it.
    request.notes().set_static(NOTE, c"1");
    let Some((child, table)) = child().zip(shared::table()) else { return };
    let plan = &child.plan;
    let peer = request.peer();
    let is_peer = |from: SocketAddr| {
        let ip = from.ip();
        peer == Some(ip) && plan.global.networks.iter().any(|n| n.contains(ip)) && table.announces(ip)
    };
    let target = view::target(request.unparsed_uri()).unwrap_or_default();
    let from = verify(value, sample::now(), &plan.global.keys, signed(request, target), is_peer);
    let Some(from) = from else {
        request.headers_in().remove(HOP);
        let before = table.counters.hop_forged.fetch_add(1, Relaxed);
        // Anybody can send the header: not a line for each.
        if (before + 1).is_power_of_two() {
            let peer = peer.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
            let text = format!(
                "Backhand-Hop from {peer} is not believed; the request is served here ({} so far)",
                before + 1
            );
            log(request.server().log(), Category::Proxy, Level::Warning, &text);
        }
        return;
    };
    table.counters.hop_in.fetch_add(1, Relaxed);
    request.subprocess_env().set(c"BACKHAND_FROM", from.text.as_bytes());
    let forwarded = request.headers_in().get(c"X-Forwarded-For").unwrap_or_default();
    // What is no address changes nothing.
    request.set_client(view::forwarded(forwarded));
    if plan.global.peer_keepalive {
        request.force_keepalive();
    }
}
