//! Directives.
// spec: mod_backhand 2

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use backhand::acl::parse_contact;
use backhand::matrix::SLOTS_MAX;
use backhand::{Chain, Destination, Function, Key, Micros, Name, Network};
use httpd::{DirDirective, Directive, Level, Log, Merged, Params, Scope, Setter};

use crate::external;
use crate::module::Backhand;

/// Settings of the whole server.
#[derive(Clone, Debug)]
pub(crate) struct Global {
    pub(crate) destinations: Vec<Destination>,
    pub(crate) networks: Vec<Network>,
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) pools: bool,
    pub(crate) interval: Duration,
    pub(crate) slots: usize,
    pub(crate) server_timeout: Duration,
    pub(crate) contact: Option<(IpAddr, Option<u16>)>,
    pub(crate) hostname: Option<Name>,
    pub(crate) group: Option<String>,
    pub(crate) daemon: spread::Address,
    pub(crate) keys: Vec<Key>,
    pub(crate) require_auth: Option<bool>,
    pub(crate) arriba: Option<u32>,
    pub(crate) connect_timeout: Duration,
    pub(crate) down_time: Duration,
    pub(crate) peer_keepalive: bool,
    /// Warnings of the directives, for the error log.
    pub(crate) warnings: Vec<String>,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            destinations: Vec::new(),
            networks: Vec::new(),
            socket_dir: None,
            pid_file: None,
            pools: true,
            interval: Duration::from_secs(1),
            slots: 64,
            server_timeout: Duration::from_secs(120),
            contact: None,
            hostname: None,
            group: None,
            daemon: spread::Address::local(spread::DEFAULT_PORT),
            keys: Vec::new(),
            require_auth: None,
            arriba: None,
            connect_timeout: Duration::from_secs(1),
            down_time: Duration::from_secs(5),
            peer_keepalive: true,
            warnings: Vec::new(),
        }
    }
}

impl Global {
    /// Whether anything is announced or heard.
    pub(crate) fn is_active(&self) -> bool {
        !self.destinations.is_empty() || self.group.is_some()
    }
}

/// What happens when no server took a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fallback {
    Local,
    Error,
}

/// Settings of a directory or location.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dir {
    /// Whether there is any directive.
    given: bool,
    /// Shared: sections are merged for every request.
    pub(crate) chain: Option<Arc<Chain>>,
    self_redirect: Option<bool>,
    max_attempts: Option<u32>,
    fallback: Option<Fallback>,
    redirect_methods: Option<Arc<[String]>>,
    dry_run: Option<bool>,
    explain: Option<bool>,
}

impl Dir {
    /// An inner section over those around it: a chain replaces a chain as a whole.
    // spec: mod_backhand 2.1
    pub(crate) fn merge(base: &Self, over: &Self) -> Merged<Self> {
        if !over.given {
            return Merged::Base;
        }
        if !base.given {
            return Merged::Over;
        }
        Merged::New(Self {
            given: true,
            chain: over.chain.clone().or_else(|| base.chain.clone()),
            self_redirect: over.self_redirect.or(base.self_redirect),
            max_attempts: over.max_attempts.or(base.max_attempts),
            fallback: over.fallback.or(base.fallback),
            redirect_methods: over.redirect_methods.clone().or_else(|| base.redirect_methods.clone()),
            dry_run: over.dry_run.or(base.dry_run),
            explain: over.explain.or(base.explain),
        })
    }

    pub(crate) fn self_redirect(&self) -> bool {
        self.self_redirect.unwrap_or(false)
    }

    pub(crate) fn max_attempts(&self) -> u32 {
        self.max_attempts.unwrap_or(3)
    }

    pub(crate) fn fallback(&self) -> Fallback {
        self.fallback.unwrap_or(Fallback::Local)
    }

    pub(crate) fn may_redirect(&self, method: &[u8]) -> bool {
        match &self.redirect_methods {
            Some(methods) => methods.iter().any(|m| m.as_bytes() == method),
            None => matches!(method, b"GET" | b"HEAD"),
        }
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }

    pub(crate) fn explain(&self) -> bool {
        self.explain.unwrap_or(false)
    }

    fn add(&mut self, text: String, function: Function) -> Result<(), String> {
        match &function {
            Function::Redirect(_) => REDIRECTS.store(true, Relaxed),
            Function::Off => {}
            _ => CHOOSES.store(true, Relaxed),
        }
        Arc::make_mut(self.chain.get_or_insert_default()).push(text, function)
    }
}

/// Categories of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Category {
    /// Announcements.
    Net = 1,
    /// Decisions.
    Decision = 2,
    /// Manager.
    Manager = 4,
    /// Reallocation.
    Proxy = 8,
}

const CATEGORIES: [(&str, u32); 5] = [("all", 15), ("net", 1), ("dcsn", 2), ("mbcs", 4), ("proxy", 8)];
const CATEGORIES_DEFAULT: u32 = 15 & !2;
static CATEGORIES_ON: AtomicU32 = AtomicU32::new(CATEGORIES_DEFAULT);

/// Some chain chooses servers.
static CHOOSES: AtomicBool = AtomicBool::new(false);
/// Some chain asks for redirects.
static REDIRECTS: AtomicBool = AtomicBool::new(false);

/// Whether chains proxy for sure: they choose servers, and none of them asks for redirects.
pub(crate) fn needs_proxy() -> bool {
    CHOOSES.load(Relaxed) && !REDIRECTS.load(Relaxed)
}

/// Before directives are read.
pub(crate) fn reset() {
    CHOOSES.store(false, Relaxed);
    REDIRECTS.store(false, Relaxed);
    CATEGORIES_ON.store(CATEGORIES_DEFAULT, Relaxed);
}

/// Writes a message if its category is on.
#[track_caller]
pub(crate) fn log(log: Log, category: Category, level: Level, text: &str) {
    if CATEGORIES_ON.load(Relaxed) & category as u32 != 0 {
        log.write(level, text);
    }
}

fn text(word: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(word).map_err(|_| "is not UTF-8 text".to_owned())
}

fn texts<'a>(words: &[&'a [u8]]) -> Result<Vec<&'a str>, String> {
    words.iter().map(|word| text(word)).collect()
}

fn first<'a>(words: &[&'a [u8]]) -> Result<&'a str, String> {
    text(words.first().copied().unwrap_or_default())
}

fn on_off(words: &[&[u8]]) -> Result<bool, String> {
    match first(words)? {
        word if word.eq_ignore_ascii_case("on") => Ok(true),
        word if word.eq_ignore_ascii_case("off") => Ok(false),
        word => Err(format!("\"{word}\" is neither On nor Off")),
    }
}

/// `200ms`, `1s`, `2min`; a plain number counts seconds.
fn time(words: &[&[u8]], least: Duration, most: Duration) -> Result<Duration, String> {
    let word = first(words)?;
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "min" | "m" => 60_000,
        _ => return Err(format!("\"{word}\" is not a time such as 200ms, 5s, 2min")),
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let time = Duration::from_millis(millis.ok_or_else(|| format!("\"{word}\" is not a time"))?);
    if (least..=most).contains(&time) {
        Ok(time)
    } else {
        Err(format!("\"{word}\" is out of range: {least:?} to {most:?} are possible"))
    }
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    words: &[&[u8]],
    least: T,
    most: T,
) -> Result<T, String> {
    let word = first(words)?;
    let value = word.parse().ok().filter(|n| (&least..=&most).contains(&n));
    value.ok_or_else(|| format!("\"{word}\" is not a number from {least} to {most}"))
}

macro_rules! global {
    ($name:ident, $text:literal, $help:literal, $min:literal..=$max:literal, $set:expr) => {
        pub(crate) static $name: Directive<Backhand> =
            Directive { name: $text, help: $help, scope: Scope::Global, min: $min, max: $max, set: $set };
    };
}

macro_rules! dir {
    ($name:ident, $text:literal, $help:literal, $min:literal..=$max:literal, $set:expr) => {
        pub(crate) static $name: DirDirective<Backhand> = {
            fn set(c: &mut Dir, p: &Params<'_>, w: &[&[u8]]) -> Result<(), String> {
                const SET: Setter<Dir> = $set;
                c.given = true;
                SET(c, p, w)
            }
            DirDirective { name: $text, help: $help, min: $min, max: $max, set }
        };
    };
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

global!(
    MULTICAST_STATS,
    c"MulticastStats",
    c"[interface-address[:port]] destination:port[,ttl]",
    1..=2,
    |c, _, w| {
        let destination = Destination::parse(&texts(w)?)?;
        if let Some(warning) = destination.warning() {
            c.warnings.push(format!("MulticastStats: {} {warning}", destination.dest));
        }
        c.destinations.push(destination);
        Ok(())
    }
);
global!(ACCEPT_STATS, c"AcceptStats", c"an address, address/bits or address/netmask", 1..=1, |c, _, w| {
    c.networks.push(Network::parse(first(w)?)?);
    Ok(())
});
global!(UNIX_SOCKET_DIR, c"UnixSocketDir", c"a directory", 1..=1, |c, p, w| {
    c.socket_dir = p.path(w.first().copied().unwrap_or_default());
    Ok(())
});
global!(PID_FILE, c"BackhandModeratorPIDFile", c"a file", 1..=1, |c, p, w| {
    c.pid_file = p.path(w.first().copied().unwrap_or_default());
    Ok(())
});
global!(POOLS, c"BackhandConnectionPools", c"On or Off", 1..=1, |c, _, w| {
    c.pools = on_off(w)?;
    Ok(())
});
global!(
    LOG_LEVEL,
    c"BackhandLogLevel",
    c"categories: all net dcsn mbcs proxy, with + or -",
    1..=16,
    |_, _, w| {
        let mut on = CATEGORIES_ON.load(Relaxed);
        for (n, word) in texts(w)?.into_iter().enumerate() {
            let (sign, name) = match word.split_at_checked(1) {
                Some((sign @ ("+" | "-"), name)) => (sign, name),
                _ => ("", word),
            };
            let known = CATEGORIES.iter().find(|(known, _)| *known == name);
            let (_, bits) = known.ok_or_else(|| format!("there is no category \"{name}\""))?;
            on = match sign {
                "+" => on | bits,
                "-" => on & !bits,
                _ if n == 0 => *bits,
                _ => on | bits,
            };
        }
        CATEGORIES_ON.store(on, Relaxed);
        Ok(())
    }
);
global!(INTERVAL, c"BackhandInterval", c"a time from 50ms to 60s", 1..=1, |c, _, w| {
    c.interval = time(w, MS * 50, Duration::from_secs(60))?;
    Ok(())
});
global!(MAX_SERVERS, c"BackhandMaxServers", c"a number from 2 to 4096", 1..=1, |c, _, w| {
    c.slots = number(w, 2, SLOTS_MAX)?;
    Ok(())
});
global!(SERVER_TIMEOUT, c"BackhandServerTimeout", c"a time", 1..=1, |c, _, w| {
    c.server_timeout = time(w, Duration::from_secs(1), HOUR * 24)?;
    Ok(())
});
global!(CONTACT, c"BackhandContact", c"[http://]address[:port]", 1..=1, |c, _, w| {
    let word = first(w)?;
    let word = word.strip_prefix("http://").unwrap_or(word);
    c.contact = Some(parse_contact(word)?);
    Ok(())
});
global!(HOSTNAME, c"BackhandHostname", c"a host name", 1..=1, |c, _, w| {
    let word = first(w)?;
    c.hostname = Some(Name::new(word).ok_or_else(|| format!("\"{word}\" is not a host name"))?);
    Ok(())
});
global!(STATS_GROUP, c"BackhandStatsGroup", c"the name of a Spread group", 1..=1, |c, _, w| {
    let word = first(w)?;
    let good = spread::GroupName::new(word.as_bytes()).is_ok() && !word.starts_with('#');
    c.group = Some(good.then(|| word.to_owned()).ok_or_else(|| format!("\"{word}\" is not a group name"))?);
    Ok(())
});
global!(SPREAD_DAEMON, c"BackhandSpreadDaemon", c"port or port@host of a Spread daemon", 1..=1, |c, _, w| {
    let word = first(w)?;
    c.daemon = word.parse().map_err(|e| format!("\"{word}\": {e}"))?;
    Ok(())
});
global!(STATS_KEY, c"BackhandStatsKey", c"a number from 0 to 255 and a file", 2..=2, |c, p, w| {
    let id = number(w, 0, u8::MAX)?;
    let path = p.path(w.get(1).copied().unwrap_or_default()).ok_or("no file")?;
    let mut secret = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(format!("{}: the key is empty", path.display()));
    }
    c.keys.push(Key::new(id, &secret));
    Ok(())
});
global!(REQUIRE_AUTH, c"BackhandStatsRequireAuth", c"On or Off", 1..=1, |c, _, w| {
    c.require_auth = Some(on_off(w)?);
    Ok(())
});
global!(ARRIBA, c"BackhandArriba", c"auto or a number from 1", 1..=1, |c, _, w| {
    c.arriba = if first(w)? == "auto" { None } else { Some(number(w, 1, 1_000_000_000)?) };
    Ok(())
});
global!(CONNECT_TIMEOUT, c"BackhandConnectTimeout", c"a time", 1..=1, |c, _, w| {
    c.connect_timeout = time(w, MS * 10, Duration::from_secs(300))?;
    Ok(())
});
global!(DOWN_TIME, c"BackhandDownTime", c"a time", 1..=1, |c, _, w| {
    c.down_time = time(w, Duration::ZERO, HOUR)?;
    Ok(())
});
global!(PEER_KEEPALIVE, c"BackhandPeerKeepAlive", c"On or Off", 1..=1, |c, _, w| {
    c.peer_keepalive = on_off(w)?;
    Ok(())
});

dir!(BACKHAND, c"Backhand", c"a candidacy function and at most one argument", 1..=3, |c, _, w| {
    let words = texts(w)?;
    let (name, args) = words.split_first().ok_or("no function")?;
    // byCost has two arguments; all others have one.
    let arg = if args.is_empty() { None } else { Some(args.join(" ")) };
    let function = Function::parse(name, arg.as_deref())?;
    c.add(words.join(" "), function)
});
dir!(
    BACKHAND_FROM_SO,
    c"BackhandFromSO",
    c"a shared object, a function and at most one argument",
    2..=3,
    |c, p, w| {
        let [file, symbol, rest @ ..] = w else { return Err("a file and a function".to_owned()) };
        let path = p.path(file).ok_or("no such path")?;
        let id = external::load(&path, symbol, rest.first().copied())?;
        let words = texts(w)?;
        c.add(words.get(1..).unwrap_or_default().join(" "), Function::External(id))
    }
);
dir!(SELF_REDIRECT, c"BackhandSelfRedirect", c"On or Off", 1..=1, |c, _, w| {
    c.self_redirect = Some(on_off(w)?);
    Ok(())
});
dir!(MAX_ATTEMPTS, c"BackhandMaxAttempts", c"a number from 1 to 100", 1..=1, |c, _, w| {
    c.max_attempts = Some(number(w, 1, 100)?);
    Ok(())
});
dir!(FALLBACK, c"BackhandFallback", c"local or error", 1..=1, |c, _, w| {
    c.fallback = Some(match first(w)? {
        "local" => Fallback::Local,
        "error" => Fallback::Error,
        word => return Err(format!("\"{word}\" is neither local nor error")),
    });
    Ok(())
});
dir!(REDIRECT_METHODS, c"BackhandRedirectMethods", c"a list of methods", 1..=16, |c, _, w| {
    c.redirect_methods = Some(texts(w)?.into_iter().map(str::to_owned).collect());
    Ok(())
});
dir!(DRY_RUN, c"BackhandDryRun", c"On or Off", 1..=1, |c, _, w| {
    c.dry_run = Some(on_off(w)?);
    Ok(())
});
dir!(EXPLAIN, c"BackhandExplain", c"On or Off", 1..=1, |c, _, w| {
    c.explain = Some(on_off(w)?);
    Ok(())
});

/// Times of the library crate.
pub(crate) fn micros(time: Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// What a manager and the children need, made when the configuration is complete.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) global: Global,
    /// Contacts by destination; the first is this server's.
    pub(crate) contacts: Vec<SocketAddr>,
    pub(crate) hostname: Name,
    pub(crate) arriba_file: Option<PathBuf>,
    pub(crate) log: Log,
}
