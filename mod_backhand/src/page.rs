//! The diagnostic page: the matrix of this server, as HTML or JSON.
// spec: mod_backhand 11

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use backhand::matrix::SLOTS_MAX;
use backhand::{Micros, Server, Table, sample};
use httpd::requests::{config_of_path, server_dir_config};
use httpd::{Outcome, Request};

use crate::module::{Backhand, child};
use crate::shared;

const STYLE: &str = "body{font:14px sans-serif;margin:1.5em;color:#222}table{border-collapse:collapse}\
th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid #ddd}th{background:#f4f4f4}\
th button{font:inherit;font-weight:bold;color:inherit;border:0;background:none;padding:0;cursor:pointer}\
th[aria-sort=ascending] button::after{content:' \u{25b2}'}th[aria-sort=descending] button::after{content:' \u{25bc}'}\
div{overflow-x:auto}\
td:nth-child(2),td:nth-child(3),td:nth-child(4){text-align:left}.gone,.stale,.suspect{color:#6b6b6b}\
.self{font-weight:bold}@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}th{background:#2a2a2a}a{color:#8ab4f8}\
.gone,.stale,.suspect{color:#9a9a9a}}";
/// Sorts by the column that is chosen, and again after a refresh.
const SCRIPT: &str = "const t=document.querySelector('table'),s=(i,d)=>{const b=t.tBodies[0];\
[...b.rows].sort((x,y)=>{const p=x.cells[i].dataset.v,q=y.cells[i].dataset.v;\
return d*(isNaN(p)||isNaN(q)?p.localeCompare(q):p-q)}).forEach(r=>b.append(r));\
[...t.tHead.rows[0].cells].forEach((h,j)=>j==i?h.ariaSort=d>0?'ascending':'descending':h.removeAttribute('aria-sort'));\
try{sessionStorage.sort=i+','+d}catch{}};\
[...t.tHead.rows[0].cells].forEach((h,i)=>h.firstChild.onclick=()=>s(i,h.ariaSort=='ascending'?-1:1));\
try{const[i,d]=sessionStorage.sort.split(',');s(+i,+d)}catch{}";

#[cold]
pub(crate) fn show(request: Request<'_>) -> Outcome {
    if !matches!(request.method(), b"GET" | b"HEAD") {
        request.err_headers_out().set(c"Allow", b"GET, HEAD");
        return Outcome::Status(405);
    }
    let Some(table) = shared::table() else { return Outcome::Status(503) };
    let query = std::str::from_utf8(request.query()).unwrap_or_default();
    let mut fields = query.split('&');
    let accept = request.headers_in().get(c"Accept").unwrap_or_default();
    let wants_json = accept.starts_with(b"application/json");
    let json = wants_json || fields.any(|field| field == "json");
    let refresh = query.split('&').find_map(|field| field.strip_prefix("refresh=")?.parse::<u32>().ok());
    request.headers_out().set(c"Cache-Control", b"no-store");
    let page = if json {
        request.set_content_type(c"application/json");
        json_page(table)
    } else {
        request.set_content_type(c"text/html; charset=utf-8");
        html_page(request, table, refresh.filter(|secs| (1..=3600).contains(secs)))
    };
    if !request.header_only() {
        request.write(page.as_bytes());
    }
    Outcome::Done(0)
}

/// Text for HTML and for JSON strings. Names have few characters anyway.
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

fn json_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn thousandths(value: i64) -> f64 {
    value as f64 / 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn mean_ms(server: &Server) -> f64 {
    if server.sent == 0 { 0.0 } else { server.time_us as f64 / server.sent as f64 / 1000.0 }
}

/// Requests of this host under way at a server. Those at this one are counted only if a chain compares them: otherwise
/// its busy workers tell as much.
fn in_flight(table: &Table<SLOTS_MAX>, slot: usize, server: &Server) -> i64 {
    if slot == 0 && !table.counts_own() { server.stat.busy().into() } else { server.live.in_flight }
}

fn via(slot: usize, server: &Server) -> &'static str {
    match (slot, server.flags.spread) {
        (0, _) => "self",
        (_, true) => "spread",
        (_, false) => "udp",
    }
}

fn interval_ms(table: &Table<SLOTS_MAX>) -> u32 {
    table.row(0).map_or(0, |row| row.interval_ms)
}

/// The matrix and the counters as JSON: of the page and of the control socket.
pub(crate) fn json_page(table: &Table<SLOTS_MAX>) -> String {
    let now = sample::now();
    let snapshot = table.snapshot(now);
    let mut servers = Vec::new();
    for (slot, server) in snapshot.slots.iter().enumerate() {
        let Some(server) = server else { continue };
        let stat = &server.stat;
        servers.push(format!(
            "{{\"slot\":{slot},\"hostname\":{},\"contact\":\"{}\",\"self\":{},\"state\":\"{}\",\"age_ms\":{},\
             \"via\":\"{}\",\"auth\":{},\"arriba\":{},\"aservers\":{},\"nservers\":{},\"load\":{},\"load_hwm\":{},\
             \"cpu_idle\":{},\"ncpu\":{},\"tmem\":{},\"amem\":{},\"predicted_load\":{},\"inflight\":{},\
             \"numbacked\":{},\"tatime_ms\":{:.3}}}",
            json_text(stat.hostname.as_str()),
            stat.contact,
            slot == 0,
            server.state(now).word(),
            now.since(stat.mtime).0 / 1000,
            via(slot, server),
            server.flags.authenticated,
            stat.arriba,
            stat.aservers,
            stat.nservers,
            thousandths(stat.load.into()),
            stat.load_hwm,
            thousandths(stat.cpu.into()),
            stat.ncpu,
            stat.tmem,
            stat.amem,
            thousandths(server.live.predicted_load),
            in_flight(table, slot, server),
            server.sent,
            mean_ms(server),
        ));
    }
    let mut counters = table.counts();
    let restarts = table.counters.manager_starts.load(Relaxed).saturating_sub(1);
    counters.push(("manager_restarts", restarts));
    let counters: Vec<String> = counters.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!(
        "{{\"v\":1,\"time\":{:.3},\"self\":0,\"interval_ms\":{},\"manager\":{},\"servers\":[{}],\"counters\":{{{}}}}}\n",
        now.as_secs_f64(),
        interval_ms(table),
        table.manager.load(Relaxed),
        servers.join(","),
        counters.join(",")
    )
}

fn html_page(request: Request<'_>, table: &Table<SLOTS_MAX>, refresh: Option<u32>) -> String {
    let now = sample::now();
    let snapshot = table.snapshot(now);
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta name=\"viewport\" content=\"width=device-width\"><title>Backhand</title>",
    );
    if let Some(secs) = refresh {
        let _ = write!(page, "<meta http-equiv=\"refresh\" content=\"{secs}\">");
    }
    let _ = write!(
        page,
        "<style>{STYLE}</style></head><body><h1>Backhand</h1>\n<div role=\"region\" aria-label=\"Servers\" tabindex=\"0\"><table><thead><tr>"
    );
    for title in [
        "slot",
        "host",
        "contact",
        "state",
        "age s",
        "via",
        "arriba",
        "idle",
        "workers",
        "load",
        "high water",
        "CPU idle %",
        "CPUs",
        "memory MiB",
        "available MiB",
        "predicted",
        "in flight",
        "sent",
        "mean ms",
    ] {
        let _ = write!(page, "<th scope=\"col\"><button type=\"button\">{title}</button></th>");
    }
    page.push_str("</tr></thead><tbody>\n");
    for (slot, server) in snapshot.slots.iter().enumerate() {
        if let Some(server) = server {
            html_row(&mut page, slot, server, in_flight(table, slot, server), now);
        }
    }
    page.push_str("</tbody></table></div>\n");
    let _ = writeln!(
        page,
        "<p>mod_backhand {}, announcements every {} ms, manager process {}; <a href=\"?json\">JSON</a>, \
         <a href=\"?refresh=1\">refresh every second</a></p>",
        env!("CARGO_PKG_VERSION"),
        interval_ms(table),
        table.manager.load(Relaxed)
    );
    let query = std::str::from_utf8(request.query()).unwrap_or_default();
    let path = query.split('&').find_map(|field| field.strip_prefix("uri="));
    let (place, settings) = match path {
        Some(path) => (escape(path), config_of_path::<Backhand>(request, path.as_bytes())),
        None => ("outside of sections".to_owned(), server_dir_config::<Backhand>(request.server())),
    };
    let chain = settings.and_then(|dir| dir.chain.as_ref());
    let calls = chain.map(|chain| chain.texts().iter().map(|text| escape(text)).collect::<Vec<_>>());
    let calls = calls.map_or_else(|| "none".to_owned(), |calls| calls.join(", "));
    let _ = write!(page, "<p>Chain {place}: {calls}");
    if child().is_some_and(|child| child.workers.is_none()) {
        page.push_str(". mod_proxy is not loaded: requests can be redirected only");
    }
    page.push_str("</p>\n<p>");
    for (name, value) in table.counts() {
        let _ = write!(page, "{name} {value} &nbsp; ");
    }
    let _ = writeln!(page, "</p>\n<script>{SCRIPT}</script></body></html>");
    page
}

fn html_row(page: &mut String, slot: usize, server: &Server, in_flight: i64, now: Micros) {
    let (stat, state) = (&server.stat, server.state(now).word());
    let class = if slot == 0 { "self" } else { state };
    let _ = write!(page, "<tr class=\"{class}\">");
    let mut cell = |value: String| {
        let _ = write!(page, "<td data-v=\"{value}\">{value}</td>");
    };
    cell(slot.to_string());
    cell(escape(stat.hostname.as_str()));
    cell(stat.contact.to_string());
    cell(state.to_owned());
    cell(format!("{:.1}", now.since(stat.mtime).as_secs_f64()));
    cell(via(slot, server).to_owned());
    cell(stat.arriba.to_string());
    cell(stat.aservers.to_string());
    cell(stat.nservers.to_string());
    cell(format!("{:.2}", thousandths(stat.load.into())));
    cell(stat.load_hwm.to_string());
    cell(format!("{:.1}", thousandths(stat.cpu.into()) * 100.0));
    cell(stat.ncpu.to_string());
    cell((stat.tmem >> 20).to_string());
    cell((stat.amem >> 20).to_string());
    cell(format!("{:.2}", thousandths(server.live.predicted_load)));
    cell(in_flight.to_string());
    cell(server.sent.to_string());
    cell(format!("{:.1}", mean_ms(server)));
    page.push_str("</tr>\n");
}
