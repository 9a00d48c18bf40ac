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

mod option;
mod segment;

use std::ops::Range;

use crate::config::diagnostic::{ErrorClass, Found, Problem};
use crate::config::lexer::{Token, TokenKind};
use crate::config::model::{ConfigAddr, Use};
use crate::config::options::{EventFlags, EventPriority, PortReuse};
use crate::config::words::{SEGMENT, is_top_level, nearest, options};

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
    /// Where something is served.
    Listen(std::net::SocketAddr),
    /// The option stands alone.
    Bare,
    Str(&'a [u8]),
    Number(u32),
    Bool(bool),
    Reuse(PortReuse),
    Priority(EventPriority),
    Flags(EventFlags),
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
                TokenKind::Keyword(word) if options().any(|option| option == word) => self.option(word),
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
            && let Some(word) = options().find(|o| *o == word)
        {
            return Problem::new(ErrorClass::Syntax, span, format!("`{text}` is one word"))
                .label("white space is missing around `=`")
                .help(format!("write `{word} = {value}`").trim_end().to_owned());
        }
        let problem = Problem::new(ErrorClass::Syntax, span, format!("unknown option `{text}`"))
            .label("expected an option or `Spread_Segment`");
        match nearest(&text, options().chain([SEGMENT])) {
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
}
