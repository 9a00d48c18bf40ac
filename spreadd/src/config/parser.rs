//! From words to the structure of the file. Goes on after an error, so that one run shows all of them.
//!
//! ```text
//! file      = { segment | option }
//! segment   = "Spread_Segment" address[:port] { address } "{" { daemon } "}"
//! daemon    = ( name [ address ] | address ) [ "VirtualID" "=" number ] [ interfaces ] [ ";" ]
//! interfaces = "{" { "D" | "C" | "M" | address } "}"
//! option    = "DebugFlags" "=" "{" { [ "!" ] flag } "}"
//!           | "EventTimeStamp" [ "=" string ] | "EventPreciseTimeStamp" | word "=" value
//! ```
//!
//! A name directly followed by an address is one daemon, on whatever lines they stand.
//!
//! Source: `spec/daemon-config.md#2`, `#3`.

use std::net::IpAddr;
use std::ops::Range;

use crate::config::diagnostic::{ErrorClass, Found, Problem};
use crate::config::lexer::{Token, TokenKind};
use crate::config::model::{ConfigAddr, Use};
use crate::config::options::{EventFlags, EventPriority, PortReuse};
use crate::config::words::{OPTIONS, SEGMENT, VIRTUAL_ID, is_top_level, nearest};

/// Most addresses of a segment.
pub(super) const SEGMENT_ADDRESSES_MAX: usize = 5;
/// Most entries of an interface stanza.
pub(super) const INTERFACES_MAX: usize = 10;

/// Something with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// An entry of an interface stanza.
pub(super) type Entry = At<(ConfigAddr, Use)>;
/// A whole interface stanza.
pub(super) type Stanza = At<Vec<Entry>>;

#[derive(Debug)]
pub(super) enum Item<'a> {
    Segment(SegmentNode<'a>),
    Option(OptionNode<'a>),
}

#[derive(Debug)]
pub(super) struct SegmentNode<'a> {
    pub(super) keyword: Range<usize>,
    pub(super) addresses: Vec<At<ConfigAddr>>,
    pub(super) port: Option<At<u16>>,
    pub(super) daemons: Vec<DaemonNode<'a>>,
    /// Something in it could not be read: what is missing is not complained about.
    pub(super) broken: bool,
}

#[derive(Debug)]
pub(super) struct DaemonNode<'a> {
    pub(super) name: Option<At<&'a [u8]>>,
    pub(super) address: Option<At<ConfigAddr>>,
    pub(super) virtual_id: Option<At<u32>>,
    pub(super) interfaces: Option<Stanza>,
}

impl DaemonNode<'_> {
    /// The place of the entry: of its name, or of its address.
    pub(super) fn span(&self) -> Range<usize> {
        let name = self.name.as_ref().map(|n| n.span.clone());
        name.or_else(|| self.address.as_ref().map(|a| a.span.clone())).unwrap_or(0..0)
    }
}

#[derive(Debug)]
pub(super) struct OptionNode<'a> {
    pub(super) word: At<&'a str>,
    pub(super) value: At<Value<'a>>,
}

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// The option stands alone.
    Bare,
    Str(&'a [u8]),
    Number(u32),
    Bool(bool),
    Reuse(PortReuse),
    Priority(EventPriority),
    Flags(EventFlags),
}

/// What an option takes.
enum Takes {
    Nothing,
    MaybeString,
    String,
    Number,
    Bool,
    Reuse,
    Priority,
    Flags,
}

fn takes(word: &str) -> Takes {
    match word {
        "DebugFlags" => Takes::Flags,
        "EventPriority" => Takes::Priority,
        "EventTimeStamp" => Takes::MaybeString,
        "EventPreciseTimeStamp" => Takes::Nothing,
        "SocketPortReuse" => Takes::Reuse,
        "DangerousMonitor"
        | "AcceleratedRing"
        | "WideAreaNetwork"
        | "ExcludeSegAddrsFromHash"
        | "IgnoreMulticastJoinErrors" => Takes::Bool,
        "EventLogFile"
        | "RuntimeDir"
        | "DaemonUser"
        | "DaemonGroup"
        | "AllowedAuthMethods"
        | "RequiredAuthMethods"
        | "AccessControlPolicy"
        | "ActiveIPVersion" => Takes::String,
        // The windows, the queue and the nine timeouts.
        _ => Takes::Number,
    }
}

pub(super) struct Parser<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    bytes: &'a [u8],
    items: Vec<Item<'a>>,
    problems: Found<Problem>,
    /// Closing braces that still follow for segments that were given up at a keyword.
    surplus_braces: usize,
}

/// Reads the words of [`crate::config::lexer::lex`].
pub(super) fn parse<'a>(tokens: &'a [Token<'a>], bytes: &'a [u8]) -> (Vec<Item<'a>>, Found<Problem>) {
    let mut parser =
        Parser { tokens, at: 0, bytes, items: Vec::new(), problems: Found::new(), surplus_braces: 0 };
    parser.file();
    (parser.items, parser.problems)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a Token<'a> {
        // The last token is the end, which is never passed. A file of nonsense is not read further.
        let last = self.tokens.len() - 1;
        &self.tokens[if self.problems.more > 0 { last } else { self.at.min(last) }]
    }

    fn peek_after(&self) -> Option<&'a TokenKind<'a>> {
        self.tokens.get(self.at + 1).map(|token| &token.kind)
    }

    fn next(&mut self) -> &'a Token<'a> {
        let token = self.peek();
        if token.kind != TokenKind::End {
            self.at += 1;
        }
        token
    }

    fn eat(&mut self, kind: &TokenKind<'_>) -> bool {
        let found = self.peek().kind == *kind;
        if found {
            self.next();
        }
        found
    }

    /// The word as it stands in the file, for messages.
    fn text(&self, token: &Token<'_>) -> String {
        let bytes = self.bytes.get(token.span.clone()).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        if text.chars().count() <= 60 {
            return text.into_owned();
        }
        text.chars().take(57).chain("...".chars()).collect()
    }

    fn found(&self, token: &Token<'_>) -> String {
        match token.kind {
            TokenKind::End => "the end of the file".to_owned(),
            TokenKind::Number(_) => format!("the number `{}`", self.text(token)),
            TokenKind::Keyword(_) => format!("the keyword `{}`", self.text(token)),
            TokenKind::Addr(_) => format!("the address `{}`", self.text(token)),
            TokenKind::AddrPort(..) => format!("the address with port `{}`", self.text(token)),
            _ => format!("`{}`", self.text(token)),
        }
    }

    /// "expected X, found Y" at a word.
    fn unexpected(&self, token: &Token<'_>, expected: &str) -> Problem {
        let message = format!("expected {expected}, found {}", self.found(token));
        Problem::new(ErrorClass::Syntax, token.span.clone(), message).label(format!("expected {expected}"))
    }

    fn error(&mut self, problem: Problem) {
        self.problems.push(|| problem);
    }

    /// Reports `problem`, but not about a word that was already reported.
    fn report(&mut self, token: &Token<'_>, problem: Problem) {
        if token.kind != TokenKind::Bad {
            self.error(problem);
        }
    }

    // ---- The file ----

    fn file(&mut self) {
        loop {
            let token = self.peek();
            match token.kind {
                TokenKind::End => break,
                TokenKind::Keyword(SEGMENT) => self.segment(),
                TokenKind::Keyword(word) if OPTIONS.contains(&word) => self.option(word),
                TokenKind::Close if self.surplus_braces > 0 => {
                    self.surplus_braces -= 1;
                    self.next();
                }
                _ => {
                    let problem = self.not_an_option(token);
                    self.report(token, problem);
                    self.next();
                    self.skip_to_item();
                }
            }
        }
    }

    fn not_an_option(&self, token: &Token<'_>) -> Problem {
        let text = self.text(token);
        let span = token.span.clone();
        match &token.kind {
            TokenKind::Close => {
                return Problem::new(ErrorClass::Syntax, span, "closing brace without an opening one")
                    .label("nothing is open here");
            }
            TokenKind::Str(_) => {}
            _ => return self.unexpected(token, "an option or `Spread_Segment`"),
        }
        if let Some((word, value)) = text.split_once('=')
            && let Some(word) = OPTIONS.into_iter().find(|o| *o == word)
        {
            return Problem::new(ErrorClass::Syntax, span, format!("`{text}` is one word"))
                .label("white space is missing around `=`")
                .help(format!("write `{word} = {value}`").trim_end().to_owned());
        }
        let problem = Problem::new(ErrorClass::Syntax, span, format!("unknown option `{text}`"))
            .label("expected an option or `Spread_Segment`");
        match nearest(&text, OPTIONS.into_iter().chain([SEGMENT])) {
            Some(near) if near.eq_ignore_ascii_case(&text) => {
                problem.help(format!("upper and lower case count: write `{near}`"))
            }
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem,
        }
    }

    /// Skips to what looks like the next option or segment.
    fn skip_to_item(&mut self) {
        let mut depth = 0usize;
        loop {
            let token = self.peek();
            match token.kind {
                TokenKind::End => return,
                TokenKind::Keyword(word) if is_top_level(word) => return,
                TokenKind::Open => depth += 1,
                TokenKind::Close if depth == 0 => return,
                TokenKind::Close => depth -= 1,
                TokenKind::Str(word)
                    if token.first_of_line
                        && depth == 0
                        && (word.contains(&b'=') || self.peek_after() == Some(&TokenKind::Equals)) =>
                {
                    return;
                }
                _ => {}
            }
            self.next();
        }
    }

    /// Skips the rest of the line, but no brace and no keyword that begins something.
    fn skip_line(&mut self) {
        loop {
            let token = self.peek();
            match token.kind {
                TokenKind::End | TokenKind::Open | TokenKind::Close => return,
                TokenKind::Keyword(word) if is_top_level(word) => return,
                _ if token.first_of_line => return,
                _ => self.next(),
            };
        }
    }

    /// Whether a segment or option really begins here: its keyword could also be meant as a name.
    fn begins_item(&self) -> bool {
        match self.peek().kind {
            TokenKind::Keyword(SEGMENT | "EventTimeStamp" | "EventPreciseTimeStamp") => true,
            TokenKind::Keyword(word) => is_top_level(word) && self.peek_after() == Some(&TokenKind::Equals),
            _ => false,
        }
    }

    // ---- Segments ----

    fn segment(&mut self) {
        let keyword = self.next().span.clone();
        let mut node =
            SegmentNode { keyword, addresses: Vec::new(), port: None, daemons: Vec::new(), broken: false };
        if self.segment_head(&mut node) {
            self.segment_body(&mut node);
        } else {
            node.broken = true;
        }
        self.items.push(Item::Segment(node));
    }

    /// The addresses up to the opening brace. False: there is no brace.
    fn segment_head(&mut self, node: &mut SegmentNode<'a>) -> bool {
        let mut complained = false;
        loop {
            let token = self.peek();
            let first = node.addresses.is_empty();
            match &token.kind {
                TokenKind::Open => {
                    if first && !complained {
                        let problem = self.unexpected(token, "the address of the segment");
                        self.error(problem.help(
                            "write the multicast or broadcast address: `Spread_Segment 239.1.2.3:4803 {`",
                        ));
                        node.broken = true;
                    }
                    self.next();
                    return true;
                }
                TokenKind::Addr(addr) => self.segment_address(node, token, addr, &mut complained),
                TokenKind::AddrPort(addr, port) => {
                    if first {
                        node.port = Some(At { value: *port, span: token.span.clone() });
                    } else if !complained {
                        complained = true;
                        let problem = self.unexpected(token, "an address without a port");
                        self.error(
                            problem.help("the port of the first address is the port of the whole segment"),
                        );
                    }
                    self.segment_address(node, token, addr, &mut complained);
                }
                TokenKind::End | TokenKind::Close => {
                    let problem = self.unexpected(token, "`{`");
                    self.error(problem);
                    return false;
                }
                TokenKind::Keyword(word) if is_top_level(word) => {
                    let problem = self.unexpected(token, "`{`");
                    self.error(problem);
                    return false;
                }
                _ => {
                    if !complained {
                        complained = true;
                        node.broken = true;
                        let problem = self.not_a_segment_address(token, first);
                        self.report(token, problem);
                    }
                }
            }
            self.next();
        }
    }

    fn segment_address(
        &mut self,
        node: &mut SegmentNode<'a>,
        token: &Token<'_>,
        addr: &ConfigAddr,
        complained: &mut bool,
    ) {
        if node.addresses.len() < SEGMENT_ADDRESSES_MAX {
            node.addresses.push(At { value: addr.clone(), span: token.span.clone() });
        } else if !*complained {
            *complained = true;
            let message = format!("more than {SEGMENT_ADDRESSES_MAX} addresses of a segment");
            self.error(Problem::new(ErrorClass::Limit, token.span.clone(), message).label("one too many"));
        }
    }

    fn not_a_segment_address(&self, token: &Token<'_>, first: bool) -> Problem {
        let expected = if first { "a numeric address" } else { "`{` or a further address" };
        let problem = self.unexpected(token, expected);
        match token.kind {
            TokenKind::Str(word) if word.starts_with(b":") => problem.help("no white space before the port"),
            TokenKind::Colon => problem.help("no white space around the `:` of the port"),
            TokenKind::Str(word) if word.contains(&b':') => {
                problem.help("a port has 1 to 5 digits, and the address of a segment is numeric, not a name")
            }
            TokenKind::Str(_) => problem.help("names are not looked up here"),
            _ => problem,
        }
    }

    fn segment_body(&mut self, node: &mut SegmentNode<'a>) {
        loop {
            let token = self.peek();
            match &token.kind {
                TokenKind::Close => {
                    self.next();
                    return;
                }
                TokenKind::End => {
                    let problem = self.unexpected(token, "`}`");
                    self.error(problem.other(node.keyword.clone(), "this segment is not closed"));
                    node.broken = true;
                    return;
                }
                TokenKind::Keyword(_) if self.begins_item() => {
                    let problem = self.unexpected(token, "`}` or a daemon");
                    self.error(
                        problem
                            .other(node.keyword.clone(), "this segment is not closed")
                            .help("options stand outside of segments; a name that is a keyword needs quotes"),
                    );
                    node.broken = true;
                    self.surplus_braces += 1;
                    return;
                }
                TokenKind::Bad => {
                    node.broken = true;
                    self.next();
                }
                _ => match self.daemon() {
                    Some(daemon) => node.daemons.push(daemon),
                    None => node.broken = true,
                },
            }
        }
    }

    // ---- Daemons ----

    fn daemon(&mut self) -> Option<DaemonNode<'a>> {
        let token = self.peek();
        let mut node = DaemonNode { name: None, address: None, virtual_id: None, interfaces: None };
        match &token.kind {
            TokenKind::Str(name) => {
                self.next();
                match self.glued_address(token) {
                    Some(addr) => node.address = Some(At { value: addr, span: token.span.clone() }),
                    None => {
                        node.name = Some(At { value: name, span: token.span.clone() });
                        self.daemon_address(&mut node);
                    }
                }
            }
            TokenKind::Addr(_) | TokenKind::AddrPort(..) => self.daemon_address(&mut node),
            _ => {
                let problem = self.not_a_daemon(token);
                self.report(token, problem);
                self.next();
                self.skip_entry(token);
                return None;
            }
        }
        if self.peek().kind == TokenKind::Keyword(VIRTUAL_ID) {
            self.next();
            node.virtual_id = self.number_after_equals(VIRTUAL_ID);
        }
        if self.peek().kind == TokenKind::Open {
            node.interfaces = Some(self.interfaces());
        }
        self.eat(&TokenKind::Semicolon);
        Some(node)
    }

    /// The address behind a name, or alone.
    fn daemon_address(&mut self, node: &mut DaemonNode<'a>) {
        let token = self.peek();
        match &token.kind {
            TokenKind::Addr(addr) => {
                node.address = Some(At { value: addr.clone(), span: token.span.clone() })
            }
            TokenKind::AddrPort(addr, _) => {
                let problem = self.unexpected(token, "an address without a port");
                self.error(problem.help("daemons use the port of their segment"));
                node.address = Some(At { value: addr.clone(), span: token.span.clone() });
            }
            TokenKind::Str(_) => match self.glued_address(token) {
                Some(addr) => node.address = Some(At { value: addr, span: token.span.clone() }),
                None => return,
            },
            _ => return,
        }
        self.next();
    }

    /// An address with a comma or semicolon glued to it, as in lists. Spread 5.0.1 looks the whole word up as
    /// a host name; we say so and go on as if it were the address.
    fn glued_address(&mut self, token: &Token<'_>) -> Option<ConfigAddr> {
        let TokenKind::Str(word) = token.kind else { return None };
        let bare = word.trim_ascii_end();
        let cut = bare.iter().rposition(|b| !matches!(b, b',' | b';')).map_or(0, |at| at + 1);
        if cut == word.len() {
            return None;
        }
        let ip: IpAddr = str::from_utf8(&word[..cut]).ok()?.parse().ok()?;
        let mark = char::from(word[cut]);
        let text = self.text(token);
        let message = format!("`{text}` is one word and would be looked up as a host name");
        let help = if mark == ';' {
            format!("put white space before the `;`: `{ip} ;`")
        } else {
            "entries are separated by white space or ` ; `".to_owned()
        };
        let problem = Problem::new(ErrorClass::Lookup, token.span.clone(), message);
        self.error(problem.label(format!("`{mark}` is glued to the address")).help(help));
        Some(ConfigAddr { ip, scope: None })
    }

    fn not_a_daemon(&self, token: &Token<'_>) -> Problem {
        let problem = self.unexpected(token, "a daemon name or address, or `}`");
        match token.kind {
            TokenKind::Keyword(VIRTUAL_ID) => {
                problem.help("`VirtualID` stands behind the address and before the interfaces")
            }
            TokenKind::Keyword(_) | TokenKind::Switch(_) | TokenKind::Number(_) => {
                problem.help(format!("to use it as a name put it in quotes: \"{}\"", self.text(token)))
            }
            TokenKind::Bang => problem.help("a name that begins with `!` needs quotes"),
            TokenKind::Semicolon => problem.help("one `;` may follow a daemon"),
            _ => problem,
        }
    }

    /// Skips the rest of an entry that cannot be read: a stanza that opens here, and the rest of the line.
    fn skip_entry(&mut self, bad: &Token<'_>) {
        let mut depth = usize::from(bad.kind == TokenKind::Open);
        loop {
            let token = self.peek();
            match token.kind {
                TokenKind::End => return,
                TokenKind::Keyword(_) if self.begins_item() => return,
                TokenKind::Open => depth += 1,
                TokenKind::Close if depth == 0 => return,
                TokenKind::Close => depth -= 1,
                _ if token.first_of_line && depth == 0 => return,
                _ => {}
            }
            self.next();
        }
    }

    /// `= number` behind a word.
    fn number_after_equals(&mut self, word: &str) -> Option<At<u32>> {
        if !self.equals(word) {
            return None;
        }
        let token = self.peek();
        match token.kind {
            TokenKind::Number(value) => {
                self.next();
                Some(At { value, span: token.span.clone() })
            }
            _ => {
                self.bad_value(token, "a number", |problem| number_help(problem, token));
                None
            }
        }
    }

    fn interfaces(&mut self) -> Stanza {
        let open = self.next().span.clone();
        let mut entries: Vec<Entry> = Vec::new();
        let mut letters: Option<Use> = None;
        let errors_before = self.problems.len();
        loop {
            let token = self.peek();
            match &token.kind {
                TokenKind::Keyword("D") => letters = Some(add(letters, Use::DAEMON)),
                TokenKind::Keyword("C") => letters = Some(add(letters, Use::CLIENT)),
                TokenKind::Keyword("M") => letters = Some(add(letters, Use::MONITOR)),
                TokenKind::Addr(addr) => {
                    self.interface(&mut entries, token, addr, letters.take());
                }
                TokenKind::AddrPort(addr, _) => {
                    let problem = self.unexpected(token, "an address without a port");
                    self.error(problem.help("interfaces use the port of the segment"));
                    self.interface(&mut entries, token, addr, letters.take());
                }
                TokenKind::Close => {
                    if letters.is_some() {
                        let problem = self.unexpected(token, "an address behind the letter");
                        self.error(problem);
                    } else if entries.is_empty() && self.problems.len() == errors_before {
                        let problem = Problem::new(
                            ErrorClass::Empty,
                            token.span.clone(),
                            "interface list without an entry",
                        );
                        self.error(
                            problem
                                .label("expected an address")
                                .other(open.clone(), "the list begins here")
                                .help("without the list the daemon listens on all addresses"),
                        );
                    }
                    self.next();
                    return At { value: entries, span: open.start..token.span.end };
                }
                TokenKind::End => {
                    let problem = self.unexpected(token, "`}`");
                    self.error(problem.other(open.clone(), "this list is not closed"));
                    return At { value: entries, span: open };
                }
                TokenKind::Keyword(_) if self.begins_item() => {
                    // The segment around it reports the keyword.
                    self.surplus_braces += 1;
                    return At { value: entries, span: open };
                }
                _ => {
                    let problem = self.not_an_interface(token);
                    self.report(token, problem);
                    letters = None;
                }
            }
            self.next();
        }
    }

    fn interface(
        &mut self,
        entries: &mut Vec<Entry>,
        token: &Token<'_>,
        addr: &ConfigAddr,
        letters: Option<Use>,
    ) {
        let uses = letters.unwrap_or(Use::ALL);
        match entries.len() {
            0..INTERFACES_MAX => entries.push(At { value: (addr.clone(), uses), span: token.span.clone() }),
            INTERFACES_MAX => {
                // Kept so that the error comes once.
                entries.push(At { value: (addr.clone(), uses), span: token.span.clone() });
                let message = format!("more than {INTERFACES_MAX} interfaces of a daemon");
                self.error(
                    Problem::new(ErrorClass::Limit, token.span.clone(), message).label("one too many"),
                );
            }
            _ => {}
        }
    }

    fn not_an_interface(&self, token: &Token<'_>) -> Problem {
        let problem = self.unexpected(token, "`D`, `C`, `M` or an address");
        let text = self.text(token);
        let letters = |set: &str| !text.is_empty() && text.chars().all(|c| set.contains(c));
        if letters("DCM") {
            problem.help("put white space between the letters")
        } else if letters("dcmDCM") {
            problem.help("the letters are upper case, with white space between them")
        } else if token.kind == TokenKind::Semicolon {
            problem.help("the `;` follows the list")
        } else if matches!(token.kind, TokenKind::Str(_)) {
            problem.help("interfaces are numeric addresses")
        } else {
            problem
        }
    }

    // ---- Options ----

    fn option(&mut self, word: &'a str) {
        let word = At { value: word, span: self.next().span.clone() };
        let value = match takes(word.value) {
            Takes::Nothing => self.no_value(&word),
            Takes::MaybeString if self.peek().kind != TokenKind::Equals => {
                Some(At { value: Value::Bare, span: word.span.clone() })
            }
            kind if self.equals(word.value) => self.value(kind),
            _ => None,
        };
        if let Some(value) = value {
            self.items.push(Item::Option(OptionNode { word, value }));
        }
    }

    fn no_value(&mut self, word: &At<&str>) -> Option<At<Value<'a>>> {
        let token = self.peek();
        if token.kind != TokenKind::Equals {
            return Some(At { value: Value::Bare, span: word.span.clone() });
        }
        let problem = self.unexpected(token, "no value");
        self.error(
            problem
                .other(word.span.clone(), "stands alone")
                .help("the format is given with `EventTimeStamp`"),
        );
        self.next();
        self.skip_line();
        None
    }

    fn equals(&mut self, word: &str) -> bool {
        if self.eat(&TokenKind::Equals) {
            return true;
        }
        let token = self.peek();
        let problem = self.unexpected(token, &format!("`=` behind `{word}`"));
        let problem = match token.kind {
            TokenKind::Str([b'=', rest @ ..]) => problem
                .help(format!("white space is missing: write `{word} = {}`", String::from_utf8_lossy(rest),)),
            TokenKind::End => problem,
            _ => problem.help(format!("write `{word} = ...`")),
        };
        self.report(token, problem);
        self.skip_line();
        false
    }

    /// Reports a value of the wrong kind and skips it.
    fn bad_value(&mut self, token: &Token<'_>, expected: &str, help: impl FnOnce(Problem) -> Problem) {
        let problem = help(self.unexpected(token, expected));
        self.report(token, problem);
        let begins_item = matches!(token.kind, TokenKind::Keyword(word) if is_top_level(word));
        if !begins_item && !matches!(token.kind, TokenKind::Open | TokenKind::Close) {
            self.next();
            self.skip_line();
        }
    }

    fn value(&mut self, kind: Takes) -> Option<At<Value<'a>>> {
        if let Takes::Flags = kind {
            return self.flags();
        }
        let token = self.peek();
        let value = match (&kind, &token.kind) {
            (Takes::String | Takes::MaybeString, TokenKind::Str(text)) => Value::Str(text),
            (Takes::Number, TokenKind::Number(number)) => Value::Number(*number),
            (Takes::Bool, TokenKind::Switch(word)) if boolean(word).is_some() => {
                Value::Bool(boolean(word).unwrap_or_default())
            }
            (Takes::Reuse, TokenKind::Switch(word)) if reuse(word).is_some() => {
                Value::Reuse(reuse(word).unwrap_or_default())
            }
            (Takes::Priority, TokenKind::Keyword(word)) if priority(word).is_some() => {
                Value::Priority(priority(word).unwrap_or_default())
            }
            _ => {
                self.wrong_value(kind, token);
                return None;
            }
        };
        self.next();
        Some(At { value, span: token.span.clone() })
    }

    fn wrong_value(&mut self, kind: Takes, token: &Token<'_>) {
        let text = self.text(token);
        match kind {
            Takes::String | Takes::MaybeString => self.bad_value(token, "a text", |problem| {
                if matches!(token.kind, TokenKind::End | TokenKind::Open | TokenKind::Close) {
                    problem
                } else {
                    problem.help(format!("put it in quotes: \"{text}\""))
                }
            }),
            Takes::Number => self.bad_value(token, "a number", |problem| number_help(problem, token)),
            Takes::Bool => self.bad_value(token, "`true`, `yes`, `false` or `no`", |problem| problem),
            Takes::Reuse => self.bad_value(token, "`on`, `off` or `auto`", |problem| problem),
            Takes::Priority => {
                let words = EventPriority::WORDS.map(|(word, _)| word);
                self.bad_value(token, &one_of(&words), |problem| {
                    if text == "DEBUG" {
                        return problem.help("the lowest priority is called `pDEBUG`; `DEBUG` is a flag");
                    }
                    suggest(problem, &text, words)
                });
            }
            Takes::Flags | Takes::Nothing => {}
        }
    }

    fn flags(&mut self) -> Option<At<Value<'a>>> {
        let open = self.peek();
        if !self.eat(&TokenKind::Open) {
            let problem = self.unexpected(open, "`{`").help("write `DebugFlags = { PRINT EXIT }`");
            self.report(open, problem);
            self.skip_line();
            return None;
        }
        let mut mask = 0;
        let mut broken = false;
        loop {
            let token = self.next();
            match token.kind {
                TokenKind::Close => {
                    let span = open.span.start..token.span.end;
                    return (!broken).then_some(At { value: Value::Flags(EventFlags(mask)), span });
                }
                TokenKind::Bang => match flag(&self.peek().kind) {
                    Some(bits) => {
                        self.next();
                        mask &= !bits;
                    }
                    None => {
                        let token = self.next();
                        let problem = self.not_a_flag(token);
                        self.report(token, problem);
                        broken = true;
                        if token.kind == TokenKind::Close {
                            return None;
                        }
                    }
                },
                _ => match flag(&token.kind) {
                    Some(bits) => mask |= bits,
                    None => {
                        let begins = matches!(token.kind, TokenKind::Keyword(w) if is_top_level(w));
                        let problem = if begins || token.kind == TokenKind::End {
                            self.unexpected(token, "`}`").other(open.span.clone(), "this list is not closed")
                        } else {
                            self.not_a_flag(token)
                        };
                        self.report(token, problem);
                        broken = true;
                        if token.kind == TokenKind::End {
                            return None;
                        }
                        if begins {
                            self.at -= 1;
                            self.surplus_braces += 1;
                            return None;
                        }
                    }
                },
            }
        }
    }

    fn not_a_flag(&self, token: &Token<'_>) -> Problem {
        let text = self.text(token);
        let problem = self.unexpected(token, "a flag");
        if priority(&text).is_some() {
            return problem.help("priorities are set with `EventPriority`");
        }
        if text.starts_with('!') {
            return problem.help("`!` is followed by a flag on the same line");
        }
        suggest(problem, &text, EventFlags::WORDS.map(|(word, _)| word).into_iter().chain(["NONE"]))
    }
}

fn add(letters: Option<Use>, letter: Use) -> Use {
    letters.map_or(letter, |set| set.with(letter))
}

fn boolean(word: &str) -> Option<bool> {
    let is = |text: &str| word.eq_ignore_ascii_case(text);
    if is("true") || is("yes") {
        Some(true)
    } else if is("false") || is("no") {
        Some(false)
    } else {
        None
    }
}

fn reuse(word: &str) -> Option<PortReuse> {
    [("on", PortReuse::On), ("off", PortReuse::Off), ("auto", PortReuse::Auto)]
        .into_iter()
        .find(|(text, _)| word.eq_ignore_ascii_case(text))
        .map(|(_, value)| value)
}

fn priority(word: &str) -> Option<EventPriority> {
    EventPriority::WORDS.into_iter().find(|(text, _)| *text == word).map(|(_, value)| value)
}

fn flag(kind: &TokenKind<'_>) -> Option<u32> {
    let TokenKind::Keyword(word) = kind else { return None };
    if *word == "NONE" {
        return Some(0);
    }
    EventFlags::WORDS.into_iter().find(|(text, _)| text == word).map(|(_, bits)| bits)
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    format!("one of {}", quoted.join(", "))
}

fn suggest<'a>(problem: Problem, text: &str, words: impl IntoIterator<Item = &'a str>) -> Problem {
    match nearest(text, words) {
        Some(near) if near.eq_ignore_ascii_case(text) => {
            problem.help(format!("upper and lower case count: write `{near}`"))
        }
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem,
    }
}

fn number_help(problem: Problem, token: &Token<'_>) -> Problem {
    let TokenKind::Str(word) = token.kind else { return problem };
    let digits = word.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == word.len() {
        problem.help("numbers have at most 9 digits")
    } else if digits > 0 {
        problem.help("numbers have no unit; times are in milliseconds")
    } else if word.starts_with(b"-") || word.starts_with(b"+") {
        problem.help("numbers have no sign")
    } else {
        problem
    }
}
