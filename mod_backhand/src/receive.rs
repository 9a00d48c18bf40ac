//! Requests that another server sent.
// spec: mod_backhand 9.3

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use backhand::hop::{Signed, verify};
use backhand::{Micros, address, request as view};
use httpd::{Level, Request};

use crate::module::{Backhand, child};
use crate::settings::{Category, log};
use crate::shared;

/// Name of the header.
pub(crate) const HOP: &std::ffi::CStr = c"Backhand-Hop";

/// What the header's code covers.
pub(crate) fn signed<'a>(request: Request<'a>, target: &'a [u8]) -> Signed<'a> {
    let host = request.headers_in().get(c"Host").unwrap_or_default();
    Signed { method: request.method(), host, target }
}

pub(crate) fn post_read(request: Request<'_>) {
    if request.previous().is_some() {
        return;
    }
    if let Some(value) = request.headers_in().get(HOP) {
        // Never sent on, even when it is not believed: servers whose keys or clocks differ must not play ball with it.
        request.mark::<Backhand>();
        receive(request, value);
    }
}

/// Not part of [`post_read`], which would need its room on the stack for all requests.
#[inline(never)]
fn receive(request: Request<'_>, value: &[u8]) {
    let Some((child, table)) = child().zip(shared::table()) else { return };
    let plan = &child.plan;
    let peer = request.peer();
    let is_peer = |from: SocketAddr| {
        let ip = from.ip();
        peer == Some(ip) && plan.global.networks.iter().any(|n| n.contains(ip)) && table.announces(ip)
    };
    let signed = || signed(request, view::target(request.unparsed_uri()).unwrap_or_default());
    let from = verify(value, Micros(request.began()), &plan.global.keys, signed, is_peer);
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
    request.subprocess_env().set(c"BACKHAND_FROM", from.text);
    let forwarded = request.headers_in().get(c"X-Forwarded-For").unwrap_or_default();
    // What is no address changes nothing.
    let client = view::forwarded(forwarded);
    if let Some(addr) = address::ip(client) {
        request.set_client(addr, client);
    }
    if plan.global.peer_keepalive {
        request.force_keepalive();
    }
}
