//! Candidacy functions, chains of them, and decisions.
//!
//! A chain starts with all servers that are up; each function reorders or removes (`addSelf` adds), and the first
//! server that is left is the decision. Orderings are stable: equal servers keep their order, so `byRandom` before an
//! ordering breaks ties at random. An empty set ends the chain: the request is served here.
// spec: mod_backhand 4

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use regex::bytes::{Regex, RegexBuilder};
use smallvec::SmallVec;

use crate::cost::{Weights, costs};
use crate::stat::{Micros, Server, ServerStat};

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

/// The matrix as one request sees it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Time of this host.
    pub now: Micros,
    /// By slot number.
    pub slots: SmallVec<[Option<Server>; 8]>,
}

impl Snapshot {
    /// Without any server.
    pub fn new(now: Micros) -> Self {
        Self { now, slots: SmallVec::new() }
    }

    /// A server.
    pub fn get(&self, slot: u16) -> Option<&Server> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// The servers a chain begins with, in the order of their slots.
    pub fn candidates(&self) -> Set {
        let numbered = (0..=u16::MAX).zip(&self.slots);
        let is_candidate = |s: &Option<Server>| s.as_ref().is_some_and(|s| s.is_candidate(self.now));
        numbered.filter(|(_, s)| is_candidate(s)).map(|(slot, _)| slot).collect()
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
    BySession(Vec<u8>),
    /// Keeps servers whose name matches.
    ByHostname(Regex),
    /// Sets the method.
    Redirect(Method),
    /// Empties the set.
    Off,
    /// A function of the user; the number is the caller's.
    External(usize),
}

impl Function {
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
            "bySession" => Self::BySession(arg.unwrap_or("PHPSESSID=").as_bytes().to_vec()),
            "byHostname" => Self::ByHostname(parse_expression(arg)?),
            "HTTPRedirectToName" => {
                Self::Redirect(Method::RedirectToName(arg.map(parse_format).transpose()?))
            }
            _ => {
                let function = match name {
                    "byRandom" => Self::ByRandom,
                    "byCPU" => Self::ByCpu,
                    "addSelf" => Self::AddSelf,
                    "removeSelf" => Self::RemoveSelf,
                    "HTTPRedirectToIP" => Self::Redirect(Method::RedirectToIp),
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

/// A function as it stands in the configuration.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name with argument, for people.
    pub text: String,
    /// What it does.
    pub function: Function,
}

/// The functions of a context, in their order.
#[derive(Clone, Debug, Default)]
pub struct Chain(Vec<Call>);

/// Runs functions that are not ours.
pub trait External {
    /// Runs function number `id` over the set, which may change in any way, and may choose a method.
    ///
    /// # Errors
    /// What it did wrong. The set is then as before.
    fn call(&mut self, id: usize, set: &mut Set, snapshot: &Snapshot) -> Result<Option<Method>, String>;
}

/// For chains without such functions.
#[derive(Debug)]
pub struct NoExternal;

impl External for NoExternal {
    fn call(&mut self, _: usize, _: &mut Set, _: &Snapshot) -> Result<Option<Method>, String> {
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
    /// Steps, if asked for, the first being the initial set.
    pub steps: Vec<Step>,
    /// What external functions did wrong.
    pub errors: Vec<String>,
}

impl Chain {
    /// Appends a function.
    ///
    /// # Errors
    /// If there are [`CHAIN_MAX`] already.
    pub fn push(&mut self, text: String, function: Function) -> Result<(), String> {
        if self.0.len() >= CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} functions in a chain"));
        }
        self.0.push(Call { text, function });
        Ok(())
    }

    /// The functions.
    pub fn calls(&self) -> &[Call] {
        &self.0
    }

    /// Whether it looks at the cookies and the query of a request.
    pub fn reads_session(&self) -> bool {
        self.0.iter().any(|call| matches!(call.function, Function::BySession(_)))
    }

    /// Whether it decides nothing: no function, or switched off.
    pub fn is_off(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|c| matches!(c.function, Function::Off))
    }

    /// Runs the chain. `explain` asks for the steps.
    pub fn decide(
        &self,
        snapshot: &Snapshot,
        request: &RequestView<'_>,
        rng: &mut Random,
        external: &mut dyn External,
        explain: bool,
    ) -> Decision {
        let in_flight = self.0.iter().any(|c| matches!(c.function, Function::AddPredictionInFlight));
        let view = View { snapshot, in_flight };
        let mut decision = Decision { set: snapshot.candidates(), ..Decision::default() };
        if explain {
            let call = "up".to_owned();
            decision.steps.push(Step { call, set: decision.set.clone(), error: None });
        }
        for call in &self.0 {
            if decision.set.is_empty() && !matches!(call.function, Function::AddSelf) {
                break;
            }
            let mut error = None;
            match &call.function {
                Function::Redirect(method) => decision.method = method.clone(),
                Function::AddPrediction(delta) => decision.charge = Some(*delta),
                Function::External(id) => {
                    let before = decision.set.clone();
                    match external.call(*id, &mut decision.set, snapshot) {
                        Ok(None) => {}
                        Ok(Some(method)) => decision.method = method,
                        Err(why) => {
                            decision.set = before;
                            error = Some(why.clone());
                            decision.errors.push(format!("{}: {why}", call.text));
                        }
                    }
                }
                function => view.apply(function, &mut decision.set, request, rng),
            }
            if explain {
                let (call, set) = (call.text.clone(), decision.set.clone());
                decision.steps.push(Step { call, set, error });
            }
        }
        decision
    }
}

/// The figures that functions compare.
struct View<'a> {
    snapshot: &'a Snapshot,
    /// Correct by what is under way instead of by what was charged.
    in_flight: bool,
}

impl View<'_> {
    fn apply(&self, function: &Function, set: &mut Set, request: &RequestView<'_>, rng: &mut Random) {
        match function {
            Function::ByAge(limit) => {
                set.retain(|slot| {
                    self.get(*slot).is_some_and(|s| self.snapshot.now.since(s.stat.mtime) <= *limit)
                });
            }
            Function::ByRandom => rng.shuffle(set),
            Function::ByLogWindow(size) => set.truncate(size.unwrap_or_else(|| window(set.len()))),
            Function::ByCpu => set.sort_by_key(|slot| Reverse(self.get(*slot).map_or(0, |s| s.stat.cpu))),
            Function::ByLoad(bias) => self.order(set, *bias, |s| self.load(s)),
            Function::ByBusyChildren(bias) => self.order(set, *bias, |s| {
                let more = if self.in_flight { under_way(s) } else { s.live.predicted_busy };
                (i64::from(s.stat.busy()) + more).max(0) * 1000
            }),
            Function::ByInFlight(bias) => self.order(set, *bias, |s| s.live.in_flight.max(0) * 1000),
            Function::ByCost(weights) => self.order_by_cost(set, *weights),
            Function::AddSelf => {
                if !set.contains(&SELF) && self.get(SELF).is_some() {
                    set.push(SELF);
                }
            }
            Function::RemoveSelf => set.retain(|slot| *slot != SELF),
            Function::BySession(identifier) => {
                let wanted = session_address(identifier, request).map(IpAddr::V4);
                let found =
                    set.iter().copied().find(|slot| self.get(*slot).map(|s| s.stat.contact.ip()) == wanted);
                if let Some(slot) = found.filter(|_| wanted.is_some()) {
                    set.clear();
                    set.push(slot);
                }
            }
            Function::ByHostname(expression) => set.retain(|slot| {
                self.get(*slot).is_some_and(|s| expression.is_match(s.stat.hostname.as_str().as_bytes()))
            }),
            Function::Off => set.clear(),
            // These say something about the decision, not about the set.
            Function::AddPrediction(_)
            | Function::AddPredictionInFlight
            | Function::Redirect(_)
            | Function::External(_) => {}
        }
    }

    fn get(&self, slot: u16) -> Option<&Server> {
        self.snapshot.get(slot)
    }

    /// Load times 1000 with what is known beyond the announcement.
    fn load(&self, server: &Server) -> i64 {
        let more = if self.in_flight { under_way(server) * 1000 } else { server.live.predicted_load };
        (i64::from(server.stat.load) + more).max(0)
    }

    /// Least first; unknown servers last. The bias makes all but this server look worse.
    fn order(&self, set: &mut [u16], bias: i64, key: impl Fn(&Server) -> i64) {
        set.sort_by_key(|slot| {
            let bias = if *slot == SELF { 0 } else { bias };
            self.get(*slot).map_or(i64::MAX, |server| key(server).saturating_add(bias))
        });
    }

    fn order_by_cost(&self, set: &mut Set, weights: Weights) {
        set.retain(|slot| self.get(*slot).is_some());
        let servers: Vec<(&ServerStat, i64)> =
            set.iter().filter_map(|slot| self.get(*slot)).map(|s| (&s.stat, self.load(s))).collect();
        let mut order: Vec<(f64, u16)> =
            costs(&servers, weights).into_iter().zip(set.iter().copied()).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        *set = order.into_iter().map(|(_, slot)| slot).collect();
    }
}

/// Change of the requests under way since the last announcement.
fn under_way(server: &Server) -> i64 {
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
