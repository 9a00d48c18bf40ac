//! From the structure of the file to its meaning: names are looked up, values checked, contradictions found.
//!
//! Source: `spec/daemon-config.md#2`, `#3`, `#6`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use spread_wire::{DaemonName, limits};

use crate::config::diagnostic::{ErrorClass, Found, Problem, Source, Warning, WarningClass};
use crate::config::hash::virtual_id;
use crate::config::host::Host;
use crate::config::model::{Config, ConfigAddr, Daemon, Interface, IpVersion, Places, Segment, Use};
use crate::config::options::{
    AuthMethod, DEFAULT_ACCELERATED_WINDOW, DEFAULT_PERSONAL_WINDOW, DEFAULT_WINDOW, Options, Policy,
    TimeStamp, Timeouts, not_honored,
};
use crate::config::parser::{At, DaemonNode, Entry, Item, OptionNode, SegmentNode, Stanza, Value};
use crate::config::words::nearest;

/// Most segments of a configuration.
pub const SEGMENTS_MAX: usize = 20;
/// Most daemons of a configuration.
pub const DAEMONS_MAX: usize = spread_ring::NODES_MAX;
/// Largest window: Spread 5.0.1 keeps it in 16 signed bits.
const WINDOW_MAX: u32 = 32_767;
/// Longest `RuntimeDir`, in bytes.
const RUNTIME_DIR_MAX: usize = 4096;
/// Longest `DaemonUser` and `DaemonGroup`, in bytes.
const USER_MAX: usize = 32;
/// Port that the segment may not have: the tokens use the one behind it.
const PORT_LAST: u16 = u16::MAX;

/// The nine timeouts in the order of [`Timeouts`].
const TIMEOUTS: [&str; 9] = [
    "TokenTimeout",
    "HurryTimeout",
    "AliveTimeout",
    "JoinTimeout",
    "RepTimeout",
    "SegTimeout",
    "GatherTimeout",
    "FormTimeout",
    "LookupTimeout",
];

pub(super) struct Checker<'a> {
    host: &'a dyn Host,
    source: &'a Source,
    bytes: &'a [u8],
    problems: Found<Problem>,
    warnings: Found<Warning>,
    /// What decided the family, with its place.
    family: Option<(IpVersion, Range<usize>)>,
    segments: Vec<Segment>,
    places: Vec<Places>,
    segment_places: Vec<usize>,
    names: BTreeMap<Vec<u8>, Range<usize>>,
    addresses: BTreeMap<(IpAddr, u16), Range<usize>>,
    ids: BTreeMap<u32, Range<usize>>,
    options: Options,
    /// The last place of each option that is set.
    set: BTreeMap<&'a str, Range<usize>>,
    timeouts: [Option<u32>; 9],
    time_format: Option<String>,
    precise: bool,
}

/// Gives the configuration, or the errors. `problems` and `warnings` are those found so far.
pub(super) fn check<'a>(
    items: &'a [Item<'a>],
    source: &'a Source,
    bytes: &'a [u8],
    host: &'a dyn Host,
    problems: Found<Problem>,
    warnings: Found<Warning>,
) -> Result<Config, Found<Problem>> {
    let mut checker = Checker {
        host,
        source,
        bytes,
        problems,
        warnings,
        family: None,
        segments: Vec::new(),
        places: Vec::new(),
        segment_places: Vec::new(),
        names: BTreeMap::new(),
        addresses: BTreeMap::new(),
        ids: BTreeMap::new(),
        options: Options::default(),
        set: BTreeMap::new(),
        timeouts: [None; 9],
        time_format: None,
        precise: false,
    };
    checker.items(items);
    checker.finish()
}

impl<'a> Checker<'a> {
    fn error(&mut self, problem: Problem) {
        self.problems.push(|| problem);
    }

    fn warn(&mut self, class: WarningClass, span: &Range<usize>, message: impl Into<String>) {
        self.warnings.push(|| Warning::new(self.source, class, span.start, message));
    }

    fn items(&mut self, items: &'a [Item<'a>]) {
        let mut daemons = 0;
        let mut segments = 0;
        for item in items {
            match item {
                Item::Option(option) => self.option(option),
                Item::Segment(segment) => {
                    segments += 1;
                    if segments == SEGMENTS_MAX + 1 {
                        let message = format!("more than {SEGMENTS_MAX} segments");
                        self.error(
                            Problem::new(ErrorClass::Limit, segment.keyword.clone(), message)
                                .label("one too many"),
                        );
                    }
                    if segments <= SEGMENTS_MAX {
                        self.segment(segment, &mut daemons);
                    }
                }
            }
        }
        if segments == 0 && self.problems.is_empty() {
            let end = self.bytes.len();
            self.error(
                Problem::new(ErrorClass::Empty, end..end, "no segment in the file")
                    .label("expected `Spread_Segment`")
                    .help("the smallest file is `Spread_Segment 239.1.2.3:4803 { myhost 10.0.0.1 }`"),
            );
        }
    }

    // ---- Segments ----

    fn segment(&mut self, node: &'a SegmentNode<'a>, daemons: &mut usize) {
        let port = self.port(node);
        let mut segment = Segment {
            port,
            addresses: node.addresses.iter().map(|a| a.value.clone()).collect(),
            daemons: Vec::new(),
        };
        for entry in &node.daemons {
            *daemons += 1;
            if *daemons == DAEMONS_MAX + 1 {
                let message = format!("more than {DAEMONS_MAX} daemons");
                self.error(Problem::new(ErrorClass::Limit, entry.span(), message).label("one too many"));
            }
            if *daemons <= DAEMONS_MAX
                && let Some(daemon) = self.daemon(entry, port)
            {
                segment.daemons.push(daemon);
            }
        }
        if node.daemons.is_empty() && !node.broken {
            let problem = Problem::new(ErrorClass::Empty, node.keyword.clone(), "segment without a daemon");
            self.error(problem.label("expected at least one daemon between the braces"));
        }
        for address in &node.addresses {
            self.segment_address(address);
        }
        if let Some(second) = node.addresses.get(1) {
            let message =
                "only one address of a segment is used: the first multicast address, else the first";
            self.warn(WarningClass::NotHonored, &second.span, message);
        }
        self.segments.push(segment);
        self.segment_places.push(node.addresses.first().map_or(node.keyword.start, |a| a.span.start));
    }

    fn port(&mut self, node: &SegmentNode<'_>) -> u16 {
        match &node.port {
            None => limits::DEFAULT_PORT,
            Some(At { value: 0, span }) => {
                let message = format!("port 0 stands for the default port {}", limits::DEFAULT_PORT);
                self.warn(WarningClass::PortZero, span, message);
                limits::DEFAULT_PORT
            }
            Some(At { value: PORT_LAST, span }) => {
                let problem = Problem::new(ErrorClass::Value, span.clone(), "port 65535 is not possible");
                self.error(problem.label("tokens need the port behind it"));
                PORT_LAST
            }
            Some(port) => port.value,
        }
    }

    /// Sockets are bound to addresses; which interface has the address is the system's to know.
    fn scope(&mut self, address: &ConfigAddr, span: &Range<usize>) {
        if let Some(scope) = &address.scope {
            let message =
                format!("`%{scope}` has no effect: the interface with the daemon's address is used");
            self.warn(WarningClass::NotHonored, span, message);
        }
    }

    fn segment_address(&mut self, address: &At<ConfigAddr>) {
        let ip = address.value.ip;
        self.scope(&address.value, &address.span);
        if ip.is_unspecified() {
            let problem = Problem::new(
                ErrorClass::Value,
                address.span.clone(),
                "the wildcard is no address of a segment",
            );
            return self.error(problem.label("expected a multicast, broadcast or host address"));
        }
        if let Some((family, decided)) = &self.family
            && *family != IpVersion::of(ip)
        {
            let problem = wrong_family(address.span.clone(), ip, *family, decided.clone());
            return self.error(problem);
        }
        if ip.is_loopback() {
            let message = format!("segment address {ip} reaches only this host");
            self.warn(WarningClass::SegmentAddressLoopback, &address.span, message);
        } else if ip.is_ipv6() && !ip.is_multicast() {
            let message = format!("segment address {ip} is not a multicast address");
            self.warn(WarningClass::Ipv6SegmentNotMulticast, &address.span, message);
        }
    }

    // ---- Daemons ----

    fn daemon(&mut self, node: &'a DaemonNode<'a>, port: u16) -> Option<Daemon> {
        let name = self.name(node);
        let address = self.address(node);
        let id = self.virtual_id(node, name.as_ref());
        let (address, place) = address?;
        self.unique_address(&address, port, &place);
        self.scope(&address, &place);
        let interfaces = node.interfaces.as_ref().map(|stanza| {
            self.covers_address(stanza, &address);
            let entry = |i: &Entry| Interface { address: i.value.0.clone(), uses: i.value.1 };
            stanza.value.iter().map(entry).collect()
        });
        let name = name?;
        let interface_places = node.interfaces.as_ref().map(|s| s.value.iter().map(|i| i.span.clone()));
        self.places
            .push(Places { address: place, interfaces: interface_places.into_iter().flatten().collect() });
        Some(Daemon { name, address, virtual_id: id?, id_in_file: node.virtual_id.is_some(), interfaces })
    }

    /// The name as written, or made from the address.
    fn name(&mut self, node: &DaemonNode<'_>) -> Option<DaemonName> {
        let span = node.span();
        let text = match (&node.name, &node.address) {
            (Some(name), _) => name.value,
            (None, Some(address)) => {
                let text = self.bytes.get(address.span.clone()).unwrap_or_default();
                // A glued `;` or port was reported; the scope is no part of the name.
                text.split(|b| matches!(b, b'%' | b',' | b';')).next().unwrap_or_default()
            }
            (None, None) => return None,
        };
        if text.is_empty() {
            self.error(Problem::new(ErrorClass::Value, span, "empty daemon name").label("expected a name"));
            return None;
        }
        let cut = &text[..text.len().min(limits::DAEMON_NAME_MAX)];
        let shown = String::from_utf8_lossy(cut).into_owned();
        if cut.len() < text.len() {
            let message = format!("daemon name is cut to {} bytes: `{shown}`", limits::DAEMON_NAME_MAX);
            self.warn(WarningClass::NameCut, &span, message);
        }
        if text.ends_with(b";") {
            let message = format!("the `;` is part of the daemon name `{shown}`; put white space before it");
            self.warn(WarningClass::NameEndsWithSemicolon, &span, message);
        }
        if cut.contains(&b'#') {
            let message = format!(
                "daemon name `{shown}` has a `#`, which separates the parts of private groups (#user#daemon)"
            );
            self.warn(WarningClass::NameWithSeparator, &span, message);
        }
        if let Some(other) = self.names.insert(cut.to_vec(), span.clone()) {
            let message = format!("daemon name `{shown}` is used twice");
            let mut problem = Problem::new(ErrorClass::Consistency, span.clone(), message)
                .label("second use")
                .other(other, "first use");
            if cut.len() < text.len() {
                problem = problem.help("names are compared after the cut to 19 bytes");
            }
            self.error(problem);
            return None;
        }
        match DaemonName::new(cut) {
            Ok(name) => Some(name),
            Err(error) => {
                let message = format!("`{}` cannot be a daemon name: {error}", cut.escape_ascii());
                self.error(Problem::new(ErrorClass::Value, span, message));
                None
            }
        }
    }

    /// The address as written, or looked up.
    fn address(&mut self, node: &DaemonNode<'_>) -> Option<(ConfigAddr, Range<usize>)> {
        let (address, span) = match (&node.address, &node.name) {
            (Some(address), _) => (address.value.clone(), address.span.clone()),
            (None, Some(name)) => (self.lookup(name)?, name.span.clone()),
            (None, None) => return None,
        };
        let ip = address.ip;
        let forbidden = if ip.is_unspecified() {
            Some("the wildcard is no address of a daemon")
        } else if ip.is_multicast() {
            Some("a multicast address is no address of a daemon")
        } else {
            None
        };
        if let Some(message) = forbidden {
            let problem = Problem::new(ErrorClass::Value, span, message);
            self.error(problem.label("expected the address of a host"));
            return None;
        }
        match &self.family {
            None => self.family = Some((IpVersion::of(ip), span.clone())),
            Some((family, decided)) if *family != IpVersion::of(ip) => {
                let problem = wrong_family(span, ip, *family, decided.clone());
                self.error(problem);
                return None;
            }
            Some(_) => {}
        }
        Some((address, span))
    }

    fn lookup(&mut self, name: &At<&[u8]>) -> Option<ConfigAddr> {
        let text = String::from_utf8_lossy(name.value);
        let failed = |reason: String| {
            Problem::new(ErrorClass::Lookup, name.span.clone(), format!("cannot look up `{text}`: {reason}"))
                .label("no address is given, so this is looked up as a host name")
                .help("write the address behind the name")
        };
        // Resolvers read some of these as octal or shortened addresses, which nobody means.
        let numeric = !name.value.is_empty()
            && name.value.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b':'));
        if numeric {
            let problem = failed("it is not an address".to_owned());
            let help = "IPv4 addresses are four numbers of 0 to 255 without leading zeros";
            self.error(problem.label("not an IPv4 address").help(help));
            return None;
        }
        if name.value.is_empty() {
            // The empty name was reported.
            return None;
        }
        let found = match self.host.lookup(&text) {
            Ok(found) => found,
            Err(reason) => {
                self.error(failed(reason));
                return None;
            }
        };
        let family = self.family.as_ref().map(|(family, _)| *family);
        let fits = |ip: &&IpAddr| family.is_none_or(|family| IpVersion::of(**ip) == family);
        match (found.iter().find(fits), family) {
            (Some(ip), _) => Some(ConfigAddr { ip: *ip, scope: None }),
            (None, Some(family)) => {
                self.error(failed(format!("it has no {family} address")));
                None
            }
            (None, None) => {
                self.error(failed("it has no address".to_owned()));
                None
            }
        }
    }

    fn virtual_id(&mut self, node: &DaemonNode<'_>, name: Option<&DaemonName>) -> Option<u32> {
        let (id, span) = match (&node.virtual_id, name) {
            (Some(At { value: 0, span }), _) => {
                let problem = Problem::new(ErrorClass::Value, span.clone(), "VirtualID 0 is reserved");
                self.error(problem.label("expected 1 to 999999999"));
                return None;
            }
            (Some(id), _) => (id.value, id.span.clone()),
            (None, Some(name)) => (virtual_id(name.as_bytes()), node.span()),
            (None, None) => return None,
        };
        if let Some(other) = self.ids.insert(id, span.clone()) {
            let message = format!("two daemons have the VirtualID {id}");
            let mut problem = Problem::new(ErrorClass::Consistency, span, message)
                .label("second daemon")
                .other(other, "first daemon");
            if node.virtual_id.is_none() {
                problem = problem.help("this one is the hash of its name; give it a `VirtualID` of its own");
            }
            self.error(problem);
        }
        Some(id)
    }

    fn unique_address(&mut self, address: &ConfigAddr, port: u16, span: &Range<usize>) {
        if let Some(other) = self.addresses.insert((address.ip, port), span.clone()) {
            let message = format!("two daemons have the address {} and port {port}", address.ip);
            let problem = Problem::new(ErrorClass::Consistency, span.clone(), message);
            self.error(problem.label("second daemon").other(other, "first daemon"));
        }
    }

    fn covers_address(&mut self, stanza: &Stanza, address: &ConfigAddr) {
        let covers = |entry: &Entry| {
            let (listens, uses) = (&entry.value.0, entry.value.1);
            let wildcard = listens.ip.is_unspecified() && listens.ip.is_ipv4() == address.ip.is_ipv4();
            uses.contains(Use::DAEMON) && (listens.ip == address.ip || wildcard)
        };
        if !stanza.value.is_empty() && !stanza.value.iter().any(covers) {
            let message = format!("no interface for daemons covers the daemon's address {}", address.ip);
            let problem = Problem::new(ErrorClass::Consistency, stanza.span.clone(), message);
            self.error(problem.label("this list").help(format!("add `D {}` or the wildcard", address.ip)));
        }
    }

    // ---- Options ----

    fn option(&mut self, node: &'a OptionNode<'a>) {
        let word = node.word.value;
        self.set.insert(word, node.word.span.clone());
        if let Some(reason) = not_honored(word, &node.value.value) {
            self.warn(WarningClass::NotHonored, &node.word.span, format!("`{word}` has no effect: {reason}"));
        }
        let span = &node.value.span;
        match (word, &node.value.value) {
            ("DebugFlags", Value::Flags(flags)) => self.options.debug_flags = Some(*flags),
            ("EventPriority", Value::Priority(priority)) => self.options.event_priority = Some(*priority),
            ("EventTimeStamp", Value::Bare) => self.time_format = Some(TimeStamp::DEFAULT_FORMAT.to_owned()),
            ("EventTimeStamp", Value::Str(text)) => self.time_format(text, span),
            ("EventPreciseTimeStamp", _) => self.precise = true,
            ("SocketPortReuse", Value::Reuse(reuse)) => self.options.socket_port_reuse = Some(*reuse),
            (_, Value::Bool(value)) => self.boolean(word, *value),
            (_, Value::Number(number)) => self.number(word, *number, span),
            (_, Value::Str(text)) => self.string(word, text, span),
            _ => {}
        }
    }

    fn boolean(&mut self, word: &str, value: bool) {
        let option = match word {
            "DangerousMonitor" => &mut self.options.dangerous_monitor,
            "AcceleratedRing" => &mut self.options.accelerated_ring,
            "WideAreaNetwork" => &mut self.options.wide_area_network,
            "ExcludeSegAddrsFromHash" => &mut self.options.exclude_segment_addresses,
            _ => &mut self.options.ignore_multicast_join_errors,
        };
        *option = Some(value);
    }

    fn number(&mut self, word: &str, number: u32, span: &Range<usize>) {
        let (min, max, expected) = match word {
            "Window" | "PersonalWindow" => (1, WINDOW_MAX, "1 to 32767"),
            "AcceleratedWindow" => (0, WINDOW_MAX, "0 to 32767"),
            _ => (1, u32::MAX, "at least 1"),
        };
        if !(min..=max).contains(&number) {
            let problem =
                Problem::new(ErrorClass::Value, span.clone(), format!("`{word}` cannot be {number}"));
            let problem = problem.label(format!("expected {expected}"));
            self.error(match word {
                "MaxSessionMessages" => problem.help("with 0 every client is cut off at its first message"),
                _ if number > max => {
                    problem.help("Spread 5 keeps it in 16 bits; a larger window stops the ring")
                }
                _ => problem,
            });
            return;
        }
        let window = u16::try_from(number).unwrap_or(u16::MAX);
        match word {
            "Window" => self.options.window = Some(window),
            "PersonalWindow" => self.options.personal_window = Some(window),
            "AcceleratedWindow" => self.options.accelerated_window = Some(window),
            "MaxSessionMessages" => self.options.max_session_messages = Some(number),
            _ => {
                if let Some(at) = TIMEOUTS.iter().position(|name| *name == word) {
                    self.timeouts[at] = Some(number);
                }
            }
        }
    }

    fn string(&mut self, word: &str, text: &[u8], span: &Range<usize>) {
        match word {
            "ActiveIPVersion" => self.ip_version(text, span),
            "AccessControlPolicy" if text == b"PERMIT" => {
                self.options.access_control_policy = Some(Policy::Permit);
            }
            "AccessControlPolicy" => {
                let message = format!("unknown access policy `{}`", String::from_utf8_lossy(text));
                let problem = Problem::new(ErrorClass::Value, span.clone(), message);
                self.error(problem.label("expected `PERMIT`"));
            }
            "AllowedAuthMethods" | "RequiredAuthMethods" => self.auth_methods(word, text, span),
            _ if text.is_empty() => {
                self.warn(WarningClass::EmptyValueIgnored, span, format!("empty `{word}` is ignored"));
            }
            "EventLogFile" => self.options.event_log_file = Some(path(text)),
            "RuntimeDir" => {
                if self.fits(word, text, RUNTIME_DIR_MAX, span) {
                    self.options.runtime_dir = Some(path(text));
                }
            }
            _ => {
                if self.fits(word, text, USER_MAX, span) {
                    let name = Some(OsString::from_vec(text.to_vec()));
                    match word {
                        "DaemonUser" => self.options.daemon_user = name,
                        _ => self.options.daemon_group = name,
                    }
                }
            }
        }
    }

    fn fits(&mut self, word: &str, text: &[u8], max: usize, span: &Range<usize>) -> bool {
        let fits = text.len() <= max;
        if !fits {
            let message = format!("`{word}` has {} bytes", text.len());
            let problem = Problem::new(ErrorClass::Limit, span.clone(), message);
            self.error(problem.label(format!("at most {max} are possible")));
        }
        fits
    }

    fn ip_version(&mut self, text: &[u8], span: &Range<usize>) {
        let version = match text {
            b"IPv4" => IpVersion::V4,
            b"IPv6" => IpVersion::V6,
            _ => {
                let text = String::from_utf8_lossy(text);
                let problem =
                    Problem::new(ErrorClass::Value, span.clone(), format!("unknown IP version `{text}`"))
                        .label("expected `IPv4` or `IPv6`");
                return self.error(match nearest(&text, ["IPv4", "IPv6"]) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem,
                });
            }
        };
        self.options.active_ip_version = Some(version);
        match &self.family {
            None => self.family = Some((version, span.clone())),
            Some((family, decided)) if *family != version => {
                let message =
                    format!("`ActiveIPVersion` is {version}, but the addresses so far are {family}");
                let problem = Problem::new(ErrorClass::Consistency, span.clone(), message)
                    .label("too late")
                    .other(decided.clone(), format!("{family} was decided here"))
                    .help("put `ActiveIPVersion` before the first segment");
                self.error(problem);
            }
            Some(_) => {}
        }
    }

    fn auth_methods(&mut self, word: &str, text: &[u8], span: &Range<usize>) {
        let cut = &text[..text.len().min(AuthMethod::LIST_MAX)];
        if cut.len() < text.len() {
            let message = format!("`{word}` is cut to {} bytes", AuthMethod::LIST_MAX);
            self.warn(WarningClass::ValueCut, span, message);
        }
        let mut found = Vec::new();
        for name in cut.split(|&b| b == b' ').filter(|name| !name.is_empty()) {
            match AuthMethod::WORDS.into_iter().find(|(w, _)| w.as_bytes() == name) {
                Some((_, method)) => found.push(method),
                None => {
                    let name = String::from_utf8_lossy(name);
                    let message = format!(
                        "`{name}` in `{word}` is not a method and is ignored; methods are NULL and IP"
                    );
                    self.warn(WarningClass::UnknownAuthMethod, span, message);
                }
            }
        }
        let list = match word {
            "AllowedAuthMethods" => &mut self.options.allowed_auth_methods,
            _ => &mut self.options.required_auth_methods,
        };
        let list = list.get_or_insert_default();
        for method in found {
            if !list.contains(&method) {
                list.push(method);
            }
        }
    }

    fn time_format(&mut self, text: &[u8], span: &Range<usize>) {
        let mut format = String::from_utf8_lossy(text).into_owned();
        if format.len() > TimeStamp::FORMAT_MAX {
            let end = (0..=TimeStamp::FORMAT_MAX).rev().find(|at| format.is_char_boundary(*at));
            format.truncate(end.unwrap_or(0));
            let message = format!("time format is cut to {} bytes: `{format}`", TimeStamp::FORMAT_MAX);
            self.warn(WarningClass::ValueCut, span, message);
        }
        self.time_format = Some(format);
    }

    // ---- The whole file ----

    fn finish(mut self) -> Result<Config, Found<Problem>> {
        self.windows();
        self.all_timeouts();
        self.authentication();
        if self.time_format.is_some() || self.precise {
            let mut format = self.time_format.take().unwrap_or_else(|| TimeStamp::DEFAULT_FORMAT.to_owned());
            if self.precise && !format.ends_with("%S") && !format.ends_with("%s") {
                format.push_str(" %s");
            }
            self.options.time_stamp = Some(TimeStamp { format, precise: self.precise });
        }
        let Some((ip_version, _)) = self.family.filter(|_| self.problems.is_empty()) else {
            return Err(self.problems);
        };
        let mut warnings = self.warnings.items;
        warnings.sort_by_key(|w| (w.line, w.column));
        Ok(Config {
            ip_version,
            segments: self.segments,
            options: self.options,
            warnings,
            source: self.source.clone(),
            places: self.places,
            segment_places: self.segment_places,
        })
    }

    /// Whichever of the words stands last in the file.
    fn last_of(&self, words: &[&str]) -> Option<Range<usize>> {
        words.iter().filter_map(|word| self.set.get(word)).max_by_key(|span| span.start).cloned()
    }

    fn windows(&mut self) {
        let personal = self.options.personal_window.unwrap_or(DEFAULT_PERSONAL_WINDOW);
        let window = self.options.window.unwrap_or(DEFAULT_WINDOW);
        let accelerated = self.options.accelerated_window.unwrap_or(DEFAULT_ACCELERATED_WINDOW);
        if personal > window
            && let Some(span) = self.last_of(&["Window", "PersonalWindow"])
        {
            let message = format!("PersonalWindow ({personal}) is larger than Window ({window})");
            self.error(
                Problem::new(ErrorClass::Consistency, span, message)
                    .label("expected PersonalWindow <= Window")
                    .help("options that are not given count with their defaults, 20 and 160"),
            );
        }
        if self.options.accelerated_ring == Some(true)
            && accelerated > personal
            && let Some(span) = self.last_of(&["AcceleratedRing", "AcceleratedWindow", "PersonalWindow"])
        {
            let message =
                format!("AcceleratedWindow ({accelerated}) is larger than PersonalWindow ({personal})");
            self.error(
                Problem::new(ErrorClass::Consistency, span, message)
                    .label("expected AcceleratedWindow <= PersonalWindow")
                    .help("options that are not given count with their defaults, 15 and 20"),
            );
        }
    }

    fn all_timeouts(&mut self) {
        let places = TIMEOUTS.map(|word| self.set.get(word).cloned());
        let Some(first) = places.iter().flatten().min_by_key(|span| span.start).cloned() else { return };
        if places.iter().zip(&self.timeouts).any(|(place, ms)| place.is_some() && ms.is_none()) {
            // A value was reported already; one error is enough.
            return;
        }
        let missing: Vec<&str> = TIMEOUTS.into_iter().filter(|word| !self.set.contains_key(word)).collect();
        if !missing.is_empty() {
            let problem =
                Problem::new(ErrorClass::Consistency, first, "some of the nine timeouts are missing")
                    .label("either all or none are given")
                    .help(format!("add {}", missing.join(", ")));
            return self.error(problem);
        }
        let ms = self.timeouts.map(|ms| Duration::from_millis(ms.unwrap_or(1).into()));
        let [token, hurry, alive, join, rep, seg, gather, form, lookup] = ms;
        self.options.timeouts = Some(Timeouts { token, hurry, alive, join, rep, seg, gather, form, lookup });
        let mut odd = |word: &str, rule: &str, broken: bool| {
            if broken && let Some(span) = self.set.get(word).cloned() {
                self.warn(WarningClass::TimeoutOrder, &span, format!("`{word}` should be {rule}"));
            }
        };
        odd("HurryTimeout", "shorter than `TokenTimeout`", hurry >= token);
        odd("GatherTimeout", "at least two `JoinTimeout`s long", gather < 2 * join);
        odd("FormTimeout", "at least two `JoinTimeout`s long", form < 2 * join);
        odd("LookupTimeout", "at least two `AliveTimeout`s long", lookup < 2 * alive);
    }

    fn authentication(&mut self) {
        if self.options.allowed_auth().is_empty()
            && let Some(span) = self.last_of(&["AllowedAuthMethods", "RequiredAuthMethods"])
        {
            let message = "no authentication method is allowed, so nobody can connect; \
                 add `AllowedAuthMethods = \"NULL\"` or \"IP\"";
            self.warn(WarningClass::NobodyCanConnect, &span, message);
        }
    }
}

fn wrong_family(span: Range<usize>, ip: IpAddr, family: IpVersion, decided: Range<usize>) -> Problem {
    let message = format!("{ip} is an {} address in an {family} configuration", IpVersion::of(ip));
    Problem::new(ErrorClass::Consistency, span, message)
        .label(format!("expected an {family} address"))
        .other(decided, format!("{family} was decided here"))
}

fn path(text: &[u8]) -> PathBuf {
    OsString::from_vec(text.to_vec()).into()
}
