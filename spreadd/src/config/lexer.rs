//! Words of the file. The longest word wins; of equally long readings the first of this table.
//!
//! | word | form |
//! |---|---|
//! | comment | `#` to the end of the line |
//! | `{` `}` | need no space around them |
//! | `=` `:` `;` | only as words of their own |
//! | `!` | if anything follows on the line |
//! | keyword | exact spelling |
//! | number | 1 to 9 digits |
//! | IPv4 address | also with `:port` |
//! | IPv6 address | also with `%interface`; with a port in brackets |
//! | quoted string | `"..."`, `'...'`, no escapes |
//! | string | everything else up to white space, `#`, braces and brackets |
//!
//! Whether a word is a keyword, a flag or a name is for the parser to say: it knows what it expects.
//!
//! Source: `spec/daemon-config.md#1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::config::diagnostic::{ErrorClass, Found, Problem, Source, Warning, WarningClass};
use crate::config::model::ConfigAddr;
use crate::config::words::is_keyword;

/// A word with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) span: Range<usize>,
    /// The first word of its line.
    pub(super) first_of_line: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    Open,
    Close,
    Equals,
    Colon,
    Semicolon,
    Bang,
    /// A word of the language in its exact spelling; also the letters `D`, `C` and `M`.
    Keyword(&'a str),
    /// A boolean or three-way word, in any case.
    Switch(&'a str),
    Number(u32),
    Addr(ConfigAddr),
    AddrPort(ConfigAddr, u16),
    /// A plain or quoted string.
    Str(&'a [u8]),
    /// What was already reported as an error. It stands where anything may stand.
    Bad,
    End,
}

/// All words of a file. The last is [`TokenKind::End`].
pub(super) struct Lexed<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) problems: Found<Problem>,
    pub(super) warnings: Found<Warning>,
}

struct Lexer<'a> {
    bytes: &'a [u8],
    source: &'a Source,
    at: usize,
    first_of_line: bool,
    out: Lexed<'a>,
}

pub(super) fn lex<'a>(bytes: &'a [u8], source: &'a Source) -> Lexed<'a> {
    let out = Lexed { tokens: Vec::new(), problems: Found::new(), warnings: Found::new() };
    let mut lexer = Lexer { bytes, source, at: 0, first_of_line: true, out };
    lexer.byte_order_mark();
    lexer.run();
    lexer.out
}

/// Bytes that end a plain string.
const fn ends_string(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | b'#' | b'{' | b'}' | b'[' | b']')
}

/// How many bytes at the start of `bytes` are a plain string.
fn string_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| ends_string(b)).unwrap_or(bytes.len())
}

impl<'a> Lexer<'a> {
    /// The mark would make the first keyword an unknown word, for us and for Spread 5.0.1.
    fn byte_order_mark(&mut self) {
        if self.bytes.starts_with(b"\xef\xbb\xbf") {
            self.error(
                Problem::new(ErrorClass::Syntax, 0..3, "the file begins with a byte order mark")
                    .label("invisible bytes EF BB BF")
                    .help("save the file as UTF-8 without a byte order mark; Spread 5 stops at it"),
            );
            self.at = 3;
        }
    }

    fn run(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => {
                    self.first_of_line = true;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'#' => self.at += line_len(&self.bytes[self.at..]),
                b'{' => self.push(TokenKind::Open, 1),
                b'}' => self.push(TokenKind::Close, 1),
                b'[' => self.bracket(),
                b']' | 0x0b | 0x0c => self.stray(),
                b'!' if self.something_follows() => self.push(TokenKind::Bang, 1),
                b'"' | b'\'' => self.quote(byte),
                _ => self.word(),
            }
        }
        self.push(TokenKind::End, 0);
    }

    fn error(&mut self, problem: Problem) {
        self.out.problems.push(|| problem);
    }

    fn warn(&mut self, class: WarningClass, message: String) {
        self.out.warnings.push(|| Warning::new(self.source, class, self.at, message));
    }

    fn push(&mut self, kind: TokenKind<'a>, len: usize) {
        let span = self.at..self.at + len;
        self.out.tokens.push(Token { kind, span, first_of_line: self.first_of_line });
        self.first_of_line = false;
        self.at += len;
    }

    fn something_follows(&self) -> bool {
        self.bytes.get(self.at + 1).is_some_and(|&b| b != b'\n')
    }

    /// A bracket or control character that belongs to nothing is skipped, as the original does.
    fn stray(&mut self) {
        let shown = match self.bytes[self.at] {
            byte @ (b'[' | b']') => format!("`{}`", char::from(byte)),
            _ => "control character".to_owned(),
        };
        let message = format!("stray {shown} is skipped");
        self.warn(WarningClass::StrayCharacter, message);
        self.at += 1;
    }

    /// `[IPv6]:port`, or a stray bracket.
    fn bracket(&mut self) {
        let rest = &self.bytes[self.at + 1..];
        let inner = string_len(rest);
        let Some(addr) = ipv6(&rest[..inner]) else { return self.stray() };
        let Some(after) = rest[inner..].strip_prefix(b"]:") else { return self.stray() };
        let port = string_len(after);
        let len = inner + 3 + port;
        match port_number(&after[..port]) {
            Some(Ok(port)) => self.push(TokenKind::AddrPort(addr, port), len),
            Some(Err(())) => self.bad_port(len),
            None => {
                let span = self.at..self.at + len;
                self.error(
                    Problem::new(ErrorClass::Syntax, span, "expected a port of 1 to 5 digits behind `]:`")
                        .label("no port"),
                );
                self.push(TokenKind::Bad, len);
            }
        }
    }

    fn zero_byte(&mut self, len: usize) {
        let span = self.at..self.at + len;
        self.error(
            Problem::new(ErrorClass::Syntax, span, "zero byte in a word").label("is this a text file?"),
        );
        self.push(TokenKind::Bad, len);
    }

    fn bad_port(&mut self, len: usize) {
        let span = self.at..self.at + len;
        self.error(Problem::new(ErrorClass::Value, span, "port above 65535").label("ports are 1 to 65534"));
        self.push(TokenKind::Bad, len);
    }

    /// A quoted string is taken if it is at least as long as the plain string that begins here. Otherwise the
    /// quotes would become part of a name, which nobody means.
    fn quote(&mut self, quote: u8) {
        let rest = &self.bytes[self.at..];
        let plain = string_len(rest);
        let close = rest[1..].iter().position(|&b| b == quote).map(|at| at + 2);
        let line = line_len(rest);
        match close {
            Some(len) if len <= line && len >= plain => match &rest[1..len - 1] {
                text if text.contains(&0) => self.zero_byte(len),
                text => self.push(TokenKind::Str(text), len),
            },
            Some(len) if len <= line => {
                let span = self.at..self.at + plain;
                self.error(
                    Problem::new(ErrorClass::Syntax, span, "text is glued to a quoted string")
                        .label(format!("the string ends after {len} bytes"))
                        .help("put white space behind the closing quote, or the quotes around everything"),
                );
                self.push(TokenKind::Str(&rest[1..len - 1]), plain);
            }
            _ => {
                let len = rest[..line].trim_ascii_end().len();
                let span = self.at..self.at + len;
                self.error(
                    Problem::new(ErrorClass::Syntax, span, "quoted string does not end on its line")
                        .label(format!("no closing {} follows", char::from(quote))),
                );
                self.push(TokenKind::Bad, len);
            }
        }
    }

    fn word(&mut self) {
        let len = string_len(&self.bytes[self.at..]);
        let word = &self.bytes[self.at..self.at + len];
        if word.contains(&0) {
            return self.zero_byte(len);
        }
        match word {
            b"=" => return self.push(TokenKind::Equals, 1),
            b":" => return self.push(TokenKind::Colon, 1),
            b";" => return self.push(TokenKind::Semicolon, 1),
            _ => {}
        }
        if let Some(number) = number(word) {
            return self.push(TokenKind::Number(number), len);
        }
        if let Some(addr) = ipv6(word) {
            return self.push(TokenKind::Addr(addr), len);
        }
        let (host, port) = match word.iter().position(|&b| b == b':') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        let port = port.map(|digits| (digits, port_number(digits)));
        if is_dotted_quad(host) && port.is_none_or(|(_, port)| port.is_some()) {
            let strict = str::from_utf8(host).ok().and_then(|text| text.parse::<Ipv4Addr>().ok());
            match (strict, port) {
                (Some(ip), None) => return self.push(TokenKind::Addr(plain_addr(ip)), len),
                (Some(ip), Some((_, Some(Ok(port))))) => {
                    return self.push(TokenKind::AddrPort(plain_addr(ip), port), len);
                }
                (Some(_), _) => return self.bad_port(len),
                (None, _) => {
                    let text = String::from_utf8_lossy(word);
                    let message = format!("`{text}` is not an IPv4 address and is taken as a name");
                    self.warn(WarningClass::MalformedAddress, message);
                }
            }
        }
        let kind = match str::from_utf8(word) {
            Ok(text) if is_keyword(text) => TokenKind::Keyword(text),
            Ok(text) if is_switch(text) => TokenKind::Switch(text),
            _ => TokenKind::Str(word),
        };
        self.push(kind, len);
    }
}

/// Bytes up to the end of the line, without it.
fn line_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len())
}

fn number(word: &[u8]) -> Option<u32> {
    if !(1..=9).contains(&word.len()) || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(word).ok()?.parse().ok()
}

/// A port of 1 to 5 digits; the inner value is an error above 65535.
fn port_number(digits: &[u8]) -> Option<Result<u16, ()>> {
    if !(1..=5).contains(&digits.len()) {
        return None;
    }
    number(digits).map(|n| u16::try_from(n).map_err(|_| ()))
}

/// Four groups of one to three digits, whatever their values.
fn is_dotted_quad(text: &[u8]) -> bool {
    let mut groups = 0;
    text.split(|&b| b == b'.').all(|group| {
        groups += 1;
        (1..=3).contains(&group.len()) && group.iter().all(u8::is_ascii_digit)
    }) && groups == 4
}

/// A full or `::` form with an optional `%interface`. Embedded dotted quads are not in the language.
fn ipv6(text: &[u8]) -> Option<ConfigAddr> {
    let text = str::from_utf8(text).ok()?;
    let (addr, scope) = match text.split_once('%') {
        Some((addr, scope)) if !scope.is_empty() => (addr, Some(scope.to_owned())),
        Some(_) => return None,
        None => (text, None),
    };
    if addr.contains('.') {
        return None;
    }
    Some(ConfigAddr { ip: IpAddr::V6(addr.parse::<Ipv6Addr>().ok()?), scope })
}

fn plain_addr(ip: Ipv4Addr) -> ConfigAddr {
    ConfigAddr { ip: ip.into(), scope: None }
}

fn is_switch(word: &str) -> bool {
    ["true", "false", "yes", "no", "on", "off", "auto"].iter().any(|s| s.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind<'_>> {
        let source: &'static Source = Box::leak(Box::new(Source::new("test", text.as_bytes())));
        let mut tokens = lex(text.as_bytes(), source).tokens;
        assert_eq!(tokens.pop().map(|t| t.kind), Some(TokenKind::End));
        tokens.into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn longest_reading_wins() {
        use TokenKind::*;
        assert_eq!(kinds("Window"), [Keyword("Window")]);
        assert_eq!(kinds("Windows"), [Str(b"Windows")]);
        assert_eq!(kinds("Window=1"), [Str(b"Window=1")]);
        assert_eq!(kinds("No noon"), [Switch("No"), Str(b"noon")]);
        assert_eq!(kinds("123456789 1234567890 007"), [Number(123_456_789), Str(b"1234567890"), Number(7)]);
        assert_eq!(kinds("a#b\nc"), [Str(b"a"), Str(b"c")]);
        assert_eq!(kinds("a{b}"), [Str(b"a"), Open, Str(b"b"), Close]);
        assert_eq!(kinds("; ;; ="), [Semicolon, Str(b";;"), Equals]);
    }

    #[test]
    fn a_bang_needs_something_behind_it() {
        use TokenKind::*;
        assert_eq!(kinds("!EXIT"), [Bang, Keyword("EXIT")]);
        assert_eq!(kinds("! EXIT"), [Bang, Keyword("EXIT")]);
        assert_eq!(kinds("!\n"), [Str(b"!")]);
        assert_eq!(kinds("a!b"), [Str(b"a!b")]);
    }

    #[test]
    fn addresses() {
        let v4 = |a, b, c, d| plain_addr(Ipv4Addr::new(a, b, c, d));
        let v6 = |text| ipv6(text).expect("address");
        use TokenKind::*;
        assert_eq!(kinds("127.0.0.1"), [Addr(v4(127, 0, 0, 1))]);
        assert_eq!(kinds("127.0.0.1:4803"), [AddrPort(v4(127, 0, 0, 1), 4803)]);
        assert_eq!(kinds("127.0.0.1:004803"), [Str(b"127.0.0.1:004803")]);
        assert_eq!(kinds("127.0.0.1:70000"), [Bad]);
        assert_eq!(kinds("127.0.0.01"), [Str(b"127.0.0.01")]);
        assert_eq!(kinds("127.0.0.1,"), [Str(b"127.0.0.1,")]);
        assert_eq!(kinds("::1:4830"), [Addr(v6(b"::1:4830"))]);
        assert_eq!(kinds("fe80::1%eth0"), [Addr(v6(b"fe80::1%eth0"))]);
        assert_eq!(kinds("[ff02::1%lo]:4830"), [AddrPort(v6(b"ff02::1%lo"), 4830)]);
        assert_eq!(kinds("[::1]"), [Addr(v6(b"::1"))], "stray brackets are skipped");
        assert_eq!(kinds("[::1]:123456"), [Bad]);
        assert_eq!(kinds("::ffff:1.2.3.4"), [Str(b"::ffff:1.2.3.4")]);
    }

    #[test]
    fn quotes() {
        use TokenKind::*;
        assert_eq!(kinds("\"a b#c\" 'd'"), [Str(b"a b#c"), Str(b"d")]);
        assert_eq!(kinds("\"\""), [Str(b"")]);
        assert_eq!(kinds("\"a b\"c"), [Str(b"a b"), Str(b"c")]);
        assert_eq!(kinds("it's"), [Str(b"it's")]);
        assert_eq!(kinds("\"abc 1\nx"), [Bad, Str(b"x")]);
        assert_eq!(kinds("\"a\nb\" x"), [Bad, Str(b"b\""), Str(b"x")]);
    }
}
