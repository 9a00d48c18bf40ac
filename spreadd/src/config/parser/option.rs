//! Options and their values.

use std::net::{Ipv4Addr, SocketAddr};

use super::{At, Item, OptionNode, Parser, Value};
use crate::config::client_words;
use crate::config::diagnostic::Problem;
use crate::config::lexer::{Token, TokenKind};
use crate::config::options::{EventFlags, EventPriority, PortReuse};
use crate::config::words::{is_top_level, nearest};

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
    Address,
}

fn takes(word: &str) -> Takes {
    match word {
        "DebugFlags" => Takes::Flags,
        "EventPriority" => Takes::Priority,
        "EventTimeStamp" => Takes::MaybeString,
        "EventPreciseTimeStamp" => Takes::Nothing,
        "SocketPortReuse" => Takes::Reuse,
        "MetricsAddress" => Takes::Address,
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
        _ if client_words::TEXTS.contains(&word) => Takes::String,
        _ if client_words::SWITCHES.contains(&word) => Takes::Bool,
        // The windows, the queue and the nine timeouts.
        _ => Takes::Number,
    }
}

impl<'a> Parser<'a> {
    pub(super) fn option(&mut self, word: &'a str) {
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

    pub(super) fn equals(&mut self, word: &str) -> bool {
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
    pub(super) fn bad_value(
        &mut self,
        token: &Token<'_>,
        expected: &str,
        help: impl FnOnce(Problem) -> Problem,
    ) {
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
            // A port alone means the loopback interface.
            (Takes::Address, TokenKind::Number(port)) if u16::try_from(*port).is_ok_and(|port| port > 0) => {
                let port = u16::try_from(*port).unwrap_or_default();
                Value::Listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
            }
            (Takes::Address, TokenKind::AddrPort(addr, port)) if addr.scope.is_none() => {
                Value::Listen(SocketAddr::new(addr.ip, *port))
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
            Takes::Address => self.bad_value(token, "a port (1 to 65535) or address:port", |problem| {
                problem.help("write `MetricsAddress = 9480` or `MetricsAddress = 10.0.0.1:9480`")
            }),
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

pub(super) fn number_help(problem: Problem, token: &Token<'_>) -> Problem {
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
