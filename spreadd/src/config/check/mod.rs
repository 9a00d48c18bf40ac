//! From the structure of the file to its meaning: names are looked up, values checked, contradictions found.
//!
//! Source: `spec/daemon-config.md#2`, `#3`, `#6`.

mod client;
mod option;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use spread_wire::{DaemonName, limits};

use crate::config::diagnostic::{ErrorClass, Found, Problem, Source, Warning, WarningClass};
use crate::config::hash::virtual_id;
use crate::config::host::Host;
use crate::config::model::{Config, ConfigAddr, Daemon, Interface, IpVersion, Places, Segment, Use};
use crate::config::options::{Options, TimeStamp};
use crate::config::parser::{At, DaemonNode, Entry, Item, SegmentNode, Stanza};

/// Most segments of a configuration.
pub const SEGMENTS_MAX: usize = 20;
/// Most daemons of a configuration.
pub const DAEMONS_MAX: usize = spread_ring::NODES_MAX;
/// Port that the segment may not have: the tokens use the one behind it.
const PORT_LAST: u16 = u16::MAX;

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

    // ---- The whole file ----

    fn finish(mut self) -> Result<Config, Found<Problem>> {
        self.windows();
        self.all_timeouts();
        self.authentication();
        self.clients();
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
}

fn wrong_family(span: Range<usize>, ip: IpAddr, family: IpVersion, decided: Range<usize>) -> Problem {
    let message = format!("{ip} is an {} address in an {family} configuration", IpVersion::of(ip));
    Problem::new(ErrorClass::Consistency, span, message)
        .label(format!("expected an {family} address"))
        .other(decided, format!("{family} was decided here"))
}
