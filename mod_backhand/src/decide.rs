//! The decision for a request, and what follows from it.
// spec: mod_backhand 9

use std::ffi::CStr;
use std::sync::atomic::Ordering::Relaxed;

use backhand::chain::SELF;
use backhand::matrix::SLOTS_MAX;
use backhand::{
    Chain, Decision, Method, Micros, Random, RequestView, Server, Snapshot, Table, redirect, request as view,
    sample,
};
use httpd::proxy::Attempt;
use httpd::requests::dir_config;
use httpd::{Level, Outcome, Request};

use crate::explain;
use crate::external::Objects;
use crate::module::{Backhand, Child, child};
use crate::receive::{HOP, has_hopped, signed};
use crate::settings::{Category, Dir, Fallback, log, micros};
use crate::shared;

/// Marks a request that was decided: once is enough.
struct Decided;

pub(crate) fn handler(request: Request<'_>) -> Outcome {
    let Some(dir) = dir_config::<Backhand>(request) else { return Outcome::Declined };
    let Some(chain) = dir.chain.as_ref().filter(|chain| !chain.is_off()) else { return Outcome::Declined };
    let Some((child, table)) = child().zip(shared::table()) else { return Outcome::Declined };
    if !is_eligible(request) {
        return Outcome::Declined;
    }
    let Some(target) = view::target(request.original().unparsed_uri()) else { return Outcome::Declined };
    request.keep_state::<Backhand, Decided>(Decided);
    let time = sample::clock();
    let mut snapshot = Snapshot::new(time.into());
    table.read(&mut snapshot);
    // Without a record of this server the manager has not begun: nothing is known yet.
    if snapshot.get(SELF).is_none() {
        return Outcome::Declined;
    }
    let decision = decide(request, dir, chain, &snapshot, child.random(request, time));
    table.counters.decided.fetch_add(1, Relaxed);
    for error in &decision.errors {
        let before = table.counters.external_errors.fetch_add(1, Relaxed);
        // Powers of two: a function that always errs does not fill the disk.
        if (before + 1).is_power_of_two() {
            let text = format!("candidacy function {error}; its result is ignored ({} so far)", before + 1);
            log(request.server().log(), Category::Proxy, Level::Error, &text);
        }
    }
    let mut work =
        Work { request, dir, child, table, snapshot: &snapshot, decision: &decision, target, attempts: 0 };
    if dir.explain() || dir.dry_run() {
        let text = explain::text(&decision, &snapshot);
        explain::show(request, &text);
        log(request.server().log(), Category::Decision, Level::Debug, &text);
    }
    if dir.dry_run() {
        let would = decision.set.first().filter(|slot| **slot != SELF).and_then(|slot| snapshot.get(*slot));
        let would = would.map_or("local", |server| server.stat.hostname.as_str());
        request.subprocess_env().set(c"BACKHAND_WOULD", would.as_bytes());
        return work.local();
    }
    work.run()
}

/// Whether a decision is made for it at all.
// spec: mod_backhand 9.1
fn is_eligible(request: Request<'_>) -> bool {
    let decided = || {
        std::iter::successors(Some(request), |r| r.previous())
            .any(|r| r.state::<Backhand, Decided>().is_some())
    };
    let upgrade = || request.headers_in().get(c"Upgrade").is_some();
    // The commonest first: the handlers of a request that is sent on run again.
    !request.is_proxied()
        && request.is_main()
        && request.status() == 200
        && !decided()
        && !has_hopped(request)
        && !matches!(request.method(), b"CONNECT" | b"TRACE")
        && !upgrade()
}

fn decide(
    request: Request<'_>,
    dir: &Dir,
    chain: &Chain,
    snapshot: &Snapshot,
    mut random: Random,
) -> Decision {
    let cookies = if chain.reads_session() { request.headers_in().all(c"Cookie") } else { Vec::new() };
    let view = RequestView { cookies: &cookies, query: request.query() };
    let explain = dir.explain() || dir.dry_run();
    chain.decide(snapshot, &view, &mut random, &mut Objects(request), explain)
}

struct Work<'a> {
    request: Request<'a>,
    dir: &'a Dir,
    child: &'a Child,
    table: &'static Table<SLOTS_MAX>,
    snapshot: &'a Snapshot,
    decision: &'a Decision,
    target: &'a [u8],
    attempts: u32,
}

impl Work<'_> {
    fn run(&mut self) -> Outcome {
        let mut charged = None;
        for slot in &self.decision.set {
            let Some(server) = self.snapshot.get(*slot) else { continue };
            if self.attempts > 0 {
                self.table.counters.retried.fetch_add(1, Relaxed);
            }
            self.charge(&mut charged, *slot);
            if *slot == SELF && !self.dir.self_redirect() {
                return self.local();
            }
            if let Some(outcome) = self.redirect(*slot, server) {
                return outcome;
            }
            if self.attempts >= self.dir.max_attempts() {
                break;
            }
            self.attempts += 1;
            if let Some(outcome) = self.proxy(*slot, server) {
                return outcome;
            }
        }
        if self.decision.set.is_empty() {
            return self.local();
        }
        self.table.counters.failed.fetch_add(1, Relaxed);
        let text = format!("no server took {}", String::from_utf8_lossy(self.target));
        log(self.request.server().log(), Category::Proxy, Level::Warning, &text);
        match self.dir.fallback() {
            Fallback::Local => self.local(),
            Fallback::Error => Outcome::Status(503),
        }
    }

    /// The prediction follows the request from server to server.
    fn charge(&self, charged: &mut Option<u16>, slot: u16) {
        let Some(load) = self.decision.charge else { return };
        if let Some(before) = charged.replace(slot) {
            self.table.charge(before, -load);
        }
        self.table.charge(slot, load);
    }

    /// Leaves the request to the handlers of this server.
    fn local(&self) -> Outcome {
        self.table.counters.local.fetch_add(1, Relaxed);
        self.request.subprocess_env().set_static(c"BACKHAND_METHOD", c"local");
        if self.attempts > 0 {
            self.request.replay_body();
            self.note_attempts();
        }
        self.table.begin(SELF);
        let table = self.table;
        self.request.pool().on_end(move || table.end(SELF, Micros(0), false));
        Outcome::Declined
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
    fn redirect(&self, slot: u16, server: &Server) -> Option<Outcome> {
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
        let names = self.snapshot.slots.iter().flatten().map(|s| s.stat.hostname.as_str());
        if !redirect::is_allowed(host, names) {
            return Some(self.local());
        }
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
        self.tell(server, c"redirect");
        Some(Outcome::Status(302))
    }

    fn tell(&self, server: &Server, method: &'static CStr) {
        let env = self.request.subprocess_env();
        env.set(c"BACKHAND_TO", server.stat.hostname.as_bytes());
        env.set_static(c"BACKHAND_METHOD", method);
        self.note_attempts();
    }

    /// `None` if the next server is to be tried.
    // spec: mod_backhand 9.3, 9.4
    fn proxy(&self, slot: u16, server: &Server) -> Option<Outcome> {
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
        headers.set(HOP, self.child.origin.header(begun, key, signed(request, self.target)).as_bytes());
        let repeatable = view::is_idempotent(request.method()) && !has_body(request);
        self.table.begin(slot);
        let addr = server.stat.contact;
        let attempt = workers.attempt(request, addr, self.target, repeatable);
        let now = sample::now();
        let answered = matches!(attempt, Some(Attempt::Answered(_)));
        self.table.end(slot, now.since(begun), answered);
        let (code, why) = match attempt {
            Some(Attempt::Answered(code)) => {
                self.table.counters.proxied.fetch_add(1, Relaxed);
                self.tell(server, c"proxy");
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
        let text = format!("{} ({addr}): {why}", server.stat.hostname);
        log(request.server().log(), Category::Proxy, Level::Warning, &text);
        code.map(|code| {
            self.tell(server, c"proxy");
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
