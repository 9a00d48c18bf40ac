//! The decision for a request, and what follows from it.
// spec: mod_backhand 9

use std::ffi::CStr;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::Ordering::Relaxed;

use backhand::chain::SELF;
use backhand::matrix::SLOTS_MAX;
use backhand::table::View;
use backhand::{
    Chain, Decision, Method, Micros, Random, RequestView, Servers, Table, redirect, request as view, sample,
};
use httpd::proxy::Attempt;
use httpd::requests::dir_config;
use httpd::{Level, Outcome, Request};

use crate::explain;
use crate::external::Objects;
use crate::module::{Backhand, Child, child};
use crate::receive::{HOP, signed};
use crate::settings::{Category, Dir, Fallback, log, micros};
use crate::shared;

pub(crate) fn handler(request: Request<'_>) -> Outcome {
    let Some(dir) = dir_config::<Backhand>(request) else { return Outcome::Declined };
    let Some(chain) = dir.chain.as_ref().filter(|chain| !chain.is_off()) else { return Outcome::Declined };
    let Some((child, table)) = child().zip(shared::table()) else { return Outcome::Declined };
    if !is_eligible(request) {
        return Outcome::Declined;
    }
    let watched = dir.explain() || dir.dry_run();
    if watched && target_elsewhere(request).is_none() {
        return Outcome::Declined;
    }
    // The manager has not begun: nothing is known yet.
    if table.used() == 0 {
        return Outcome::Declined;
    }
    request.mark::<Backhand>();
    if chain.reads_in_flight() {
        table.count_own();
    }
    let now = now(request, table);
    let servers = table.at(now);
    let decision = decide(request, chain, &servers, child.random(request, now), watched);
    if !decision.errors().is_empty() {
        tell_errors(request, table, &decision);
    }
    let work = Work { request, dir, child, table, servers, decision: &decision };
    if watched {
        work.explain();
        request.subprocess_env().set_static(c"BACKHAND_METHOD", c"local");
    }
    if work.stays() { work.stay() } else { work.leave() }
}

/// The time, without asking for it once more: when the request line was read, or when the manager last looked at the
/// clock, as a client may send its headers slowly.
fn now(request: Request<'_>, table: &Table<SLOTS_MAX>) -> Micros {
    Micros(request.began()).max(Micros(table.heartbeat.load(Relaxed)))
}

#[cold]
fn tell_errors(request: Request<'_>, table: &Table<SLOTS_MAX>, decision: &Decision) {
    for error in decision.errors() {
        let before = table.counters.external_errors.fetch_add(1, Relaxed);
        // Powers of two: a function that always errs does not fill the disk.
        if (before + 1).is_power_of_two() {
            let text = format!("candidacy function {error}; its result is ignored ({} so far)", before + 1);
            log(request.server().log(), Category::Proxy, Level::Error, &text);
        }
    }
}

/// Whether a decision is made for it at all.
// spec: mod_backhand 9.1
fn is_eligible(request: Request<'_>) -> bool {
    // Once is enough, and what another server sent (or says so) is never sent on.
    let marked =
        || std::iter::successors(Some(request), |r| r.previous()).any(Request::is_marked::<Backhand>);
    // The commonest first: the handlers of a request that is sent on run again.
    !request.is_proxied()
        && request.is_main()
        && request.status() == 200
        && !marked()
        && !request.is_connect_or_trace()
}

/// Path and query for another server. `None` if there are none, or if the client wants another protocol.
fn target_elsewhere(request: Request<'_>) -> Option<&[u8]> {
    let upgrade = request.headers_in().get(c"Upgrade");
    view::target(request.original().unparsed_uri()).filter(|_| upgrade.is_none())
}

fn decide(
    request: Request<'_>,
    chain: &Chain,
    servers: &View<'_, SLOTS_MAX>,
    mut random: Random,
    explain: bool,
) -> Decision {
    let session = chain.reads_session();
    let cookies = if session { request.headers_in().all(c"Cookie") } else { Vec::new() };
    let view = RequestView { cookies: &cookies, query: if session { request.query() } else { b"" } };
    chain.decide(servers, &view, &mut random, &mut Objects(request), explain)
}

struct Work<'a> {
    request: Request<'a>,
    dir: &'a Dir,
    child: &'a Child,
    table: &'static Table<SLOTS_MAX>,
    servers: View<'a, SLOTS_MAX>,
    decision: &'a Decision,
}

impl<'a> Work<'a> {
    /// Most requests: nothing is to be sent anywhere.
    fn stays(&self) -> bool {
        match self.decision.set.first() {
            None => true,
            Some(&SELF) => !self.dir.self_redirect() || self.dir.dry_run(),
            Some(_) => self.dir.dry_run(),
        }
    }

    /// Leaves the request to the handlers of this server.
    fn stay(&self) -> Outcome {
        if !self.dir.dry_run() && !self.decision.set.is_empty() {
            self.charge(&mut None, SELF);
        }
        self.table.stay();
        self.serve_here()
    }

    fn serve_here(&self) -> Outcome {
        if self.table.counts_own() {
            self.table.begin(SELF);
            let table = self.table;
            self.request.pool().on_end(move || table.end(SELF, Micros(0), false));
        }
        Outcome::Declined
    }

    /// The prediction follows the request from server to server.
    fn charge(&self, charged: &mut Option<u16>, slot: u16) {
        let Some(load) = self.decision.charge else { return };
        if let Some(before) = charged.replace(slot) {
            self.table.charge(before, -load);
        }
        self.table.charge(slot, load);
    }

    /// Not part of [`handler`], which would need its room on the stack for all requests.
    #[inline(never)]
    fn leave(self) -> Outcome {
        let Some(target) = target_elsewhere(self.request) else { return Outcome::Declined };
        self.table.counters.left.fetch_add(1, Relaxed);
        Away { work: self, target, attempts: 0 }.run()
    }

    #[cold]
    fn explain(&self) {
        let (request, decision) = (self.request, self.decision);
        let text = explain::text(decision, &self.servers);
        explain::show(request, &text);
        log(request.server().log(), Category::Decision, Level::Debug, &text);
        if self.dir.dry_run() {
            let chosen = decision.set.first().filter(|slot| **slot != SELF);
            let tell = |name: &[u8]| request.subprocess_env().set(c"BACKHAND_WOULD", name);
            chosen.map_or_else(|| tell(b"local"), |slot| self.table.with_name(*slot, tell));
        }
    }
}

/// A request that is sent to other servers.
struct Away<'a> {
    work: Work<'a>,
    target: &'a [u8],
    attempts: u32,
}

impl<'a> Deref for Away<'a> {
    type Target = Work<'a>;

    fn deref(&self) -> &Work<'a> {
        &self.work
    }
}

impl Away<'_> {
    /// Sends the request to the servers of the decision, one after another.
    fn run(&mut self) -> Outcome {
        let mut charged = None;
        for slot in &self.decision.set {
            let Some(contact) = self.table.contact(*slot) else { continue };
            if self.attempts > 0 {
                self.table.counters.retried.fetch_add(1, Relaxed);
            }
            self.charge(&mut charged, *slot);
            if *slot == SELF && !self.dir.self_redirect() {
                return self.local();
            }
            if let Some(outcome) = self.redirect(*slot) {
                return outcome;
            }
            if self.attempts >= self.dir.max_attempts() {
                break;
            }
            self.attempts += 1;
            if let Some(outcome) = self.proxy(*slot, contact) {
                return outcome;
            }
        }
        self.table.counters.failed.fetch_add(1, Relaxed);
        let text = format!("no server took {}", String::from_utf8_lossy(self.target));
        log(self.request.server().log(), Category::Proxy, Level::Warning, &text);
        match self.dir.fallback() {
            Fallback::Local => self.local(),
            Fallback::Error => Outcome::Status(503),
        }
    }

    /// Leaves the request to the handlers of this server.
    fn local(&self) -> Outcome {
        self.table.counters.returned.fetch_add(1, Relaxed);
        self.request.subprocess_env().set_static(c"BACKHAND_METHOD", c"local");
        if self.attempts > 0 {
            self.request.replay_body();
            self.note_attempts();
        }
        self.serve_here()
    }

    fn note_attempts(&self) {
        let env = self.request.subprocess_env();
        match self.attempts {
            1 => env.set_static(c"BACKHAND_ATTEMPTS", c"1"),
            more => env.set(c"BACKHAND_ATTEMPTS", more.to_string().as_bytes()),
        }
    }

    /// `None` if the request is to be proxied.
    // spec: mod_backhand 9.2
    #[inline(never)]
    fn redirect(&self, slot: u16) -> Option<Outcome> {
        let format = match &self.decision.method {
            Method::Proxy => return None,
            Method::RedirectToName(format) => Some(format.as_deref()),
            Method::RedirectToIp => None,
        };
        if slot == SELF {
            return Some(self.local());
        }
        if !self.dir.may_redirect(self.request.method()) {
            return None;
        }
        let host = self.request.headers_in().get(c"Host").unwrap_or_default();
        let host = std::str::from_utf8(host).unwrap_or_default();
        let snapshot = self.table.snapshot(self.servers.now());
        let mut names = snapshot.slots.iter().flatten().map(|s| s.stat.hostname.as_str());
        let server = snapshot.get(slot).filter(|_| redirect::is_allowed(host, &mut names));
        let Some(server) = server else { return Some(self.local()) };
        let (scheme, port) = self.request.scheme();
        let authority = match format {
            Some(format) => redirect::by_name(&server.stat, format, host, port),
            None => Some(redirect::by_ip(&server.stat, port)),
        };
        let Some(authority) = authority else { return Some(self.local()) };
        let location = [format!("{scheme}://{authority}").as_bytes(), self.target].concat();
        self.request.headers_out().set(c"Location", &location);
        self.request.err_headers_out().set(c"Cache-Control", b"no-store");
        self.table.counters.redirected.fetch_add(1, Relaxed);
        self.tell(slot, c"redirect");
        Some(Outcome::Status(302))
    }

    #[inline(never)]
    fn tell(&self, slot: u16, method: &'static CStr) {
        let env = self.request.subprocess_env();
        self.table.with_name(slot, |name| env.set(c"BACKHAND_TO", name));
        env.set_static(c"BACKHAND_METHOD", method);
        self.note_attempts();
    }

    /// `None` if the next server is to be tried.
    // spec: mod_backhand 9.3, 9.4
    fn proxy(&self, slot: u16, addr: SocketAddr) -> Option<Outcome> {
        let Some(workers) = &self.child.workers else { return Some(self.local()) };
        let (request, begun) = (self.request, sample::now());
        let headers = request.headers_in();
        let host_before = headers.get(c"Host");
        if host_before.is_none() {
            // mod_proxy would take this name; the code of the header must cover it.
            headers.set(c"Host", request.server().hostname().unwrap_or(b"localhost"));
        }
        let proto_before = headers.get(c"X-Forwarded-Proto");
        let scheme = if request.scheme().0 == "https" { c"https" } else { c"http" };
        headers.set_static(c"X-Forwarded-Proto", scheme);
        let key = self.child.plan.global.keys.first();
        let signed = || signed(request, self.target);
        headers.set(HOP, &self.child.origin.header(begun, key, signed));
        let repeatable = view::is_idempotent(request.method()) && !has_body(request);
        self.table.begin(slot);
        let attempt = workers.attempt(request, addr, self.target, repeatable);
        let now = sample::now();
        let answered = matches!(attempt, Some(Attempt::Answered(_)));
        self.table.end(slot, now.since(begun), answered);
        let (code, why) = match attempt {
            Some(Attempt::Answered(code)) => {
                self.table.counters.proxied.fetch_add(1, Relaxed);
                self.tell(slot, c"proxy");
                return Some(Outcome::Done(code));
            }
            Some(Attempt::NoConnection) => (None, "no connection"),
            Some(Attempt::Broken(code)) => ((!repeatable).then_some(code), "the connection was lost"),
            None => (None, "mod_proxy gives no worker"),
        };
        self.table.suspect(slot, now.plus(micros(self.child.plan.global.down_time)));
        headers.remove(HOP);
        put_back(headers, c"X-Forwarded-Proto", proto_before);
        put_back(headers, c"Host", host_before);
        self.table.with_name(slot, |name| {
            let text = format!("{} ({addr}): {why}", String::from_utf8_lossy(name));
            log(request.server().log(), Category::Proxy, Level::Warning, &text);
        });
        code.map(|code| {
            self.tell(slot, c"proxy");
            Outcome::Done(code)
        })
    }
}

fn put_back(headers: httpd::requests::Table<'_>, name: &'static CStr, value: Option<&[u8]>) {
    match value {
        Some(value) => headers.set(name, value),
        None => headers.remove(name),
    }
}

fn has_body(request: Request<'_>) -> bool {
    let headers = request.headers_in();
    view::has_body(headers.get(c"Transfer-Encoding"), headers.get(c"Content-Length"))
}
