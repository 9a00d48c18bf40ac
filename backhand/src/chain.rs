//! Candidacy functions, chains of them, and decisions.
//!
//! A chain starts with all servers that are up; each function reorders or removes (`addSelf` adds), and the first
//! server that is left is the decision. Orderings are stable: equal servers keep their order, so `byRandom` before an
//! ordering breaks ties at random. An empty set ends the chain: the request is served here.
// spec: mod_backhand 4

use std::net::{IpAddr, Ipv4Addr};

use regex::bytes::{Regex, RegexBuilder};
use smallvec::SmallVec;

use crate::cost::{Weights, costs};
use crate::stat::{Figures, Micros, Server, ServerStat};

/// Most functions in a chain.
pub const CHAIN_MAX: usize = 64;
/// Age in seconds that `byAge` allows without an argument.
const AGE_DEFAULT: Micros = Micros::from_secs(5);
/// Load times 1000 that `addPrediction` adds without an argument: one runnable job.
const PREDICTION_DEFAULT: i64 = 1000;
/// Slot of this server.
pub const SELF: u16 = 0;

/// Names of the built-in functions.
pub const FUNCTIONS: &[&str] = &[
    "HTTPRedirectToIP",
    "HTTPRedirectToName",
    "addPrediction",
    "addSelf",
    "backhand_off",
    "byAge",
    "byBusyChildren",
    "byCPU",
    "byCost",
    "byHostname",
    "byInFlight",
    "byLoad",
    "byLogWindow",
    "byRandom",
    "bySession",
    "off",
    "removeSelf",
];

/// Slots, in the order in which they shall be tried. Usual numbers of servers need no memory but the stack: that of
/// the allocator is rarely in a cache when a thread of a web server begins a request, and costs more than the chain.
pub type Set = SmallVec<[u16; 16]>;

/// The matrix as a chain sees it. Functions ask for what they compare: the stack of a thread that begins a request is
/// rarely in a cache, and a copy of the matrix there costs more than all functions of a chain.
pub trait Servers {
    /// Time of this host.
    fn now(&self) -> Micros;
    /// There is no server from this slot on.
    fn used(&self) -> u16;
    /// What functions compare of a server.
    fn figures(&self, slot: u16) -> Option<Figures>;
    /// All that is announced of a server.
    fn stat(&self, slot: u16) -> Option<ServerStat>;

    /// Whether a chain begins with this server.
    fn is_candidate(&self, slot: u16) -> bool {
        self.figures(slot).is_some_and(|s| s.is_candidate(self.now()))
    }

    /// When the record of a server was last received.
    fn mtime(&self, slot: u16) -> Option<Micros> {
        self.figures(slot).map(|s| s.mtime)
    }

    /// The servers a chain begins with, in the order of their slots.
    #[inline]
    fn candidates(&self) -> Set {
        let mut set = Set::new();
        for slot in 0..self.used() {
            if self.is_candidate(slot) {
                set.push(slot);
            }
        }
        set
    }
}

/// A copy of the matrix.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Time of this host.
    pub now: Micros,
    /// By slot number.
    pub slots: Vec<Option<Server>>,
}

impl Snapshot {
    /// A server.
    pub fn get(&self, slot: u16) -> Option<&Server> {
        self.slots.get(usize::from(slot))?.as_ref()
    }
}

impl Servers for Snapshot {
    fn now(&self) -> Micros {
        self.now
    }

    fn used(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    fn figures(&self, slot: u16) -> Option<Figures> {
        self.get(slot).map(Server::figures)
    }

    fn stat(&self, slot: u16) -> Option<ServerStat> {
        self.get(slot).map(|server| server.stat)
    }
}

/// What functions look at of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestView<'a> {
    /// Values of the `Cookie` headers.
    pub cookies: &'a [&'a [u8]],
    /// The query, without its `?`.
    pub query: &'a [u8],
}

/// How a request is given to another server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// This server fetches the answer.
    #[default]
    Proxy,
    /// The client is sent to the name of the server, written with a format.
    RedirectToName(Option<String>),
    /// The client is sent to the address of the server.
    RedirectToIp,
}

/// Source of randomness: `splitmix64`.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts with a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1. The bias is below 2^-48 for sets that fit into memory.
    #[allow(clippy::cast_possible_truncation, reason = "the result is below `bound`")]
    pub const fn below(&mut self, bound: usize) -> usize {
        ((self.next() as u128 * bound as u128) >> 64) as usize
    }

    fn shuffle(&mut self, set: &mut [u16]) {
        for end in (1..set.len()).rev() {
            set.swap(end, self.below(end + 1));
        }
    }
}

/// A candidacy function with its argument.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Function {
    /// Removes servers whose record is older.
    ByAge(Micros),
    /// Puts the set into a random order.
    ByRandom,
    /// Keeps the first floor(log2 n), at least one; or a fixed number.
    ByLogWindow(Option<usize>),
    /// Least CPU utilization first.
    ByCpu,
    /// Least load first; the bias (load times 1000) is added to all but this server.
    ByLoad(i64),
    /// Fewest busy workers first; the bias counts in thousandths of a worker.
    ByBusyChildren(i64),
    /// Fewest requests of this host under way first; the bias counts in thousandths of a request.
    ByInFlight(i64),
    /// Least cost first.
    ByCost(Weights),
    /// Charges the decision to the chosen server: load times 1000.
    AddPrediction(i64),
    /// Corrects the announced figures by what changed under way since.
    AddPredictionInFlight,
    /// Appends this server.
    AddSelf,
    /// Removes this server.
    RemoveSelf,
    /// Keeps the server that a session names.
    BySession(Box<[u8]>),
    /// Keeps servers whose name matches.
    ByHostname(Box<Regex>),
    /// Sets the method.
    Redirect(Box<Method>),
    /// Empties the set.
    Off,
    /// A function of the user; the number is the caller's.
    External(usize),
}

impl Function {
    /// Whether it only compares servers with each other: one alone stays as it is.
    const fn orders(&self) -> bool {
        use Function::{ByBusyChildren, ByCost, ByCpu, ByInFlight, ByLoad, ByLogWindow, ByRandom};
        matches!(
            self,
            ByRandom | ByLogWindow(_) | ByCpu | ByLoad(_) | ByBusyChildren(_) | ByInFlight(_) | ByCost(_)
        )
    }

    /// Finds a function by its name and reads its argument.
    ///
    /// # Errors
    /// What is wrong, with the known names for an unknown one.
    pub fn parse(name: &str, arg: Option<&str>) -> Result<Self, String> {
        let function = match name {
            "byAge" => Self::ByAge(arg.map_or(Ok(AGE_DEFAULT), parse_age)?),
            "byLogWindow" => Self::ByLogWindow(arg.map(parse_window).transpose()?),
            "byLoad" => Self::ByLoad(parse_bias(arg)?),
            "byBusyChildren" => Self::ByBusyChildren(parse_bias(arg)?),
            "byInFlight" => Self::ByInFlight(parse_bias(arg)?),
            "byCost" => Self::ByCost(parse_weights(arg.unwrap_or_default())?),
            "addPrediction" => match arg {
                None => Self::AddPrediction(PREDICTION_DEFAULT),
                Some("inflight") => Self::AddPredictionInFlight,
                Some(delta) => Self::AddPrediction(
                    delta.parse().ok().filter(|delta| (0..=1_000_000).contains(delta)).ok_or_else(|| {
                        format!("\"{delta}\" is neither a load times 1000 nor \"inflight\"")
                    })?,
                ),
            },
            "bySession" => Self::BySession(arg.unwrap_or("PHPSESSID=").as_bytes().into()),
            "byHostname" => Self::ByHostname(parse_expression(arg)?.into()),
            "HTTPRedirectToName" => {
                Self::Redirect(Method::RedirectToName(arg.map(parse_format).transpose()?).into())
            }
            _ => {
                let function = match name {
                    "byRandom" => Self::ByRandom,
                    "byCPU" => Self::ByCpu,
                    "addSelf" => Self::AddSelf,
                    "removeSelf" => Self::RemoveSelf,
                    "HTTPRedirectToIP" => Self::Redirect(Method::RedirectToIp.into()),
                    "backhand_off" | "off" => Self::Off,
                    _ => {
                        return Err(format!(
                            "there is no function \"{name}\"; there are: {}",
                            FUNCTIONS.join(", ")
                        ));
                    }
                };
                if let Some(arg) = arg {
                    return Err(format!("{name} takes no argument, but \"{arg}\" is given"));
                }
                function
            }
        };
        Ok(function)
    }
}

fn parse_age(text: &str) -> Result<Micros, String> {
    let secs = text.parse::<f64>().ok().filter(|s| (0.0..=1e9).contains(s));
    let secs = secs.ok_or_else(|| format!("\"{text}\" is not a number of seconds"))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok(Micros((secs * 1e6) as u64))
}

fn parse_window(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| *size > 0);
    size.ok_or_else(|| format!("\"{text}\" is not a size of a window"))
}

/// In thousandths.
fn parse_bias(arg: Option<&str>) -> Result<i64, String> {
    let Some(text) = arg else { return Ok(0) };
    let bias = text.parse::<f64>().ok().filter(|b| b.abs() <= 1e9);
    #[allow(clippy::cast_possible_truncation, reason = "checked just above")]
    bias.map(|b| (b * 1000.0) as i64).ok_or_else(|| format!("\"{text}\" is not a number"))
}

fn parse_weights(text: &str) -> Result<Weights, String> {
    let mut weights = Weights::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let value = value.parse::<f64>().ok().filter(|w| (0.0..=1e6).contains(w));
        match (name, value) {
            ("cpu", Some(value)) => weights.cpu = value,
            ("mem", Some(value)) => weights.mem = value,
            _ => return Err(format!("\"{word}\" is neither cpu=W nor mem=W")),
        }
    }
    Ok(weights)
}

fn parse_expression(arg: Option<&str>) -> Result<Regex, String> {
    let text = arg.ok_or("byHostname takes a regular expression")?;
    RegexBuilder::new(text)
        .size_limit(1 << 20)
        .build()
        .map_err(|e| format!("\"{text}\" is not a regular expression: {e}"))
}

fn parse_format(text: &str) -> Result<String, String> {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let directive = if c == '%' { chars.next() } else { Some('h') };
        if !directive.is_some_and(|d| "hlHD%".contains(d)) || c.is_whitespace() || c == '/' {
            return Err(format!("\"{text}\" is not a format of %h, %l, %H, %D and letters"));
        }
    }
    Ok(text.to_owned())
}

/// The functions of a context, in their order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    // Apart from their texts: the functions of a usual chain have two lines of the cache then.
    functions: Vec<Function>,
    texts: Vec<String>,
    // What requests want to know before they run it.
    off: bool,
    reads_session: bool,
    reads_in_flight: bool,
    in_flight: bool,
}

/// Runs functions that are not ours.
pub trait External {
    /// Runs function number `id` over the set, which may change in any way, and may choose a method.
    ///
    /// # Errors
    /// What it did wrong. The set is then as before.
    fn call(&mut self, id: usize, set: &mut Set, servers: &dyn Servers) -> Result<Option<Method>, String>;
}

/// For chains without such functions.
#[derive(Debug)]
pub struct NoExternal;

impl External for NoExternal {
    fn call(&mut self, _: usize, _: &mut Set, _: &dyn Servers) -> Result<Option<Method>, String> {
        Err("there are no external functions here".to_owned())
    }
}

/// One step of a decision, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The function.
    pub call: String,
    /// Slots after it.
    pub set: Set,
    /// What went wrong.
    pub error: Option<String>,
}

/// Result of a chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Slots in the order in which they shall be tried; none: serve here.
    pub set: Set,
    /// How.
    pub method: Method,
    /// Load times 1000 to charge to the server that takes the request.
    pub charge: Option<i64>,
    report: Option<Box<Report>>,
}

/// What most decisions have nothing of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Report {
    steps: Vec<Step>,
    errors: Vec<String>,
}

impl Decision {
    /// Steps, if they were asked for, the first being the initial set.
    pub fn steps(&self) -> &[Step] {
        self.report.as_ref().map_or(&[], |report| &report.steps)
    }

    /// What external functions did wrong.
    pub fn errors(&self) -> &[String] {
        self.report.as_ref().map_or(&[], |report| &report.errors)
    }

    #[cold]
    fn step(&mut self, call: &str, error: Option<String>) {
        let (call, set) = (call.to_owned(), self.set.clone());
        self.report.get_or_insert_default().steps.push(Step { call, set, error });
    }

    /// Runs an external function. What it did wrong has no effect.
    #[inline(never)]
    fn external(
        &mut self,
        call: &str,
        id: usize,
        servers: &dyn Servers,
        external: &mut dyn External,
    ) -> Option<String> {
        let before = self.set.clone();
        match external.call(id, &mut self.set, servers) {
            Ok(None) => None,
            Ok(Some(method)) => {
                self.method = method;
                None
            }
            Err(why) => {
                self.set = before;
                self.report.get_or_insert_default().errors.push(format!("{call}: {why}"));
                Some(why)
            }
        }
    }
}

impl Chain {
    /// Appends a function.
    ///
    /// # Errors
    /// If there are [`CHAIN_MAX`] already.
    pub fn push(&mut self, text: String, function: Function) -> Result<(), String> {
        if self.functions.len() >= CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} functions in a chain"));
        }
        self.off |= matches!(function, Function::Off);
        self.reads_session |= matches!(function, Function::BySession(_));
        self.in_flight |= matches!(function, Function::AddPredictionInFlight);
        self.reads_in_flight |= matches!(function, Function::AddPredictionInFlight | Function::ByInFlight(_));
        self.functions.push(function);
        self.texts.push(text);
        Ok(())
    }

    /// The functions as they stand in the configuration.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether it looks at the cookies and the query of a request.
    pub fn reads_session(&self) -> bool {
        self.reads_session
    }

    /// Whether it looks at the requests under way at each server.
    pub fn reads_in_flight(&self) -> bool {
        self.reads_in_flight
    }

    /// Whether it decides nothing: no function, or switched off.
    pub fn is_off(&self) -> bool {
        self.off || self.functions.is_empty()
    }

    /// Runs the chain. `explain` asks for the steps.
    #[inline]
    pub fn decide<S: Servers>(
        &self,
        servers: &S,
        request: &RequestView<'_>,
        rng: &mut Random,
        external: &mut dyn External,
        explain: bool,
    ) -> Decision {
        let view = View { servers, in_flight: self.in_flight };
        let mut decision = Decision { set: servers.candidates(), ..Decision::default() };
        if explain {
            decision.step("up", None);
        }
        for (function, text) in self.functions.iter().zip(&self.texts) {
            let mut error = None;
            match (function, decision.set.len()) {
                (Function::AddSelf, _) => view.apply(function, &mut decision.set, request, rng),
                (_, 0) => break,
                // Most chains soon have one server left.
                (function, 1) if function.orders() => {}
                (Function::Redirect(method), _) => decision.method = Method::clone(method),
                (Function::AddPrediction(delta), _) => decision.charge = Some(*delta),
                (Function::External(id), _) => {
                    error = decision.external(text, *id, servers, external);
                }
                (function, _) => view.apply(function, &mut decision.set, request, rng),
            }
            if explain {
                decision.step(text, error);
            }
        }
        decision
    }
}

/// The figures that functions compare.
struct View<'a, S> {
    servers: &'a S,
    /// Correct by what is under way instead of by what was charged.
    in_flight: bool,
}

impl<S: Servers> View<'_, S> {
    fn apply(&self, function: &Function, set: &mut Set, request: &RequestView<'_>, rng: &mut Random) {
        match function {
            Function::ByAge(limit) => {
                let now = self.servers.now();
                set.retain(|slot| self.servers.mtime(*slot).is_some_and(|at| now.since(at) <= *limit));
            }
            Function::AddSelf => {
                if !set.contains(&SELF) && self.get(SELF).is_some() {
                    set.push(SELF);
                }
            }
            Function::RemoveSelf => set.retain(|slot| *slot != SELF),
            Function::Off => set.clear(),
            Function::ByHostname(_) | Function::BySession(_) => self.look_up(function, set, request),
            function => self.compare(function, set, rng),
        }
    }

    /// The functions that compare servers with each other. As the others below not part of [`apply`](Self::apply):
    /// the less code and stack a usual request needs, the less of it is missing in the caches.
    #[inline(never)]
    fn compare(&self, function: &Function, set: &mut Set, rng: &mut Random) {
        match function {
            Function::ByRandom => rng.shuffle(set),
            Function::ByLogWindow(size) => set.truncate(size.unwrap_or_else(|| window(set.len()))),
            Function::ByCpu => self.order(set, 0, |s| -i64::from(s.cpu)),
            Function::ByLoad(bias) => self.order(set, *bias, |s| self.load(s)),
            Function::ByBusyChildren(bias) => self.order(set, *bias, |s| {
                let more = if self.in_flight { under_way(s) } else { s.live.predicted_busy };
                (i64::from(s.busy) + more).max(0) * 1000
            }),
            Function::ByInFlight(bias) => self.order(set, *bias, |s| s.live.in_flight.max(0) * 1000),
            Function::ByCost(weights) => self.order_by_cost(set, *weights),
            // The others say something about the decision, not about the set.
            _ => {}
        }
    }

    /// The functions that look for servers by their records.
    #[inline(never)]
    fn look_up(&self, function: &Function, set: &mut Set, request: &RequestView<'_>) {
        match function {
            Function::BySession(identifier) => {
                let wanted = session_address(identifier, request).map(IpAddr::V4);
                let is_wanted = |slot: &u16| self.servers.stat(*slot).map(|s| s.contact.ip()) == wanted;
                let found = wanted.and_then(|_| set.iter().copied().find(is_wanted));
                if let Some(slot) = found {
                    set.clear();
                    set.push(slot);
                }
            }
            Function::ByHostname(expression) => set.retain(|slot| {
                self.servers.stat(*slot).is_some_and(|s| expression.is_match(s.hostname.as_bytes()))
            }),
            _ => {}
        }
    }

    fn get(&self, slot: u16) -> Option<Figures> {
        self.servers.figures(slot)
    }

    /// Load times 1000 with what is known beyond the announcement.
    fn load(&self, server: &Figures) -> i64 {
        let more = if self.in_flight { under_way(server) * 1000 } else { server.live.predicted_load };
        (i64::from(server.load) + more).max(0)
    }

    /// Least first; unknown servers last. The bias makes all but this server look worse.
    fn order(&self, set: &mut [u16], bias: i64, key: impl Fn(&Figures) -> i64) {
        sort(set, |slot| {
            let bias = if slot == SELF { 0 } else { bias };
            self.get(slot).map_or(i64::MAX, |server| key(&server).saturating_add(bias))
        });
    }

    #[inline(never)]
    fn order_by_cost(&self, set: &mut Set, weights: Weights) {
        let known = |slot: &u16| Some((*slot, self.servers.stat(*slot)?, self.load(&self.get(*slot)?)));
        let known: Vec<(u16, ServerStat, i64)> = set.iter().filter_map(known).collect();
        let servers: Vec<(&ServerStat, i64)> = known.iter().map(|(_, stat, load)| (stat, *load)).collect();
        let costs = costs(&servers, weights);
        let mut order: Vec<(f64, u16)> = costs.into_iter().zip(known.iter().map(|k| k.0)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        *set = order.into_iter().map(|(_, slot)| slot).collect();
    }
}

/// Stable, by keys that are asked for once: figures of the matrix change at any time.
#[inline(never)]
fn sort(set: &mut [u16], key: impl Fn(u16) -> i64) {
    let mut keyed: SmallVec<[(i64, u16); 16]> = set.iter().map(|slot| (key(*slot), *slot)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    for (place, (_, slot)) in set.iter_mut().zip(keyed) {
        *place = slot;
    }
}

/// Change of the requests under way since the last announcement.
fn under_way(server: &Figures) -> i64 {
    server.live.in_flight.max(0) - server.live.in_flight_announced.max(0)
}

/// `max(1, floor(log2 n))`
fn window(n: usize) -> usize {
    n.checked_ilog2().map_or(1, |log| log.max(1) as usize)
}

/// The address that eight hexadecimal digits after the identifier spell, in a cookie or else in the query.
// spec: mod_backhand 4.5
fn session_address(identifier: &[u8], request: &RequestView<'_>) -> Option<Ipv4Addr> {
    let mut places = request.cookies.iter().copied().chain([request.query]);
    places.find_map(|text| {
        let at = text.windows(identifier.len().max(1)).position(|w| w == identifier)?;
        let digits = text.get(at + identifier.len()..)?.get(..8)?;
        let legal = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| legal)?;
        u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
    })
}

#[cfg(test)]
mod tests;
