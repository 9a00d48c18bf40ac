//! Segments and daemons.

use std::net::IpAddr;

use super::option::number_help;
use super::{
    At, DaemonNode, Entry, INTERFACES_MAX, Item, Parser, SEGMENT_ADDRESSES_MAX, SegmentNode, Stanza,
};
use crate::config::diagnostic::{ErrorClass, Problem};
use crate::config::lexer::{Token, TokenKind};
use crate::config::model::{ConfigAddr, Use};
use crate::config::words::{VIRTUAL_ID, is_top_level};

impl<'a> Parser<'a> {
    pub(super) fn segment(&mut self) {
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
}

fn add(letters: Option<Use>, letter: Use) -> Use {
    letters.map_or(letter, |set| set.with(letter))
}
