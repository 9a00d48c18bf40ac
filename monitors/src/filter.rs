//! One expression that selects entries, the same in the terminal, on the page and in the API.
//!
//! ```text
//! status=5xx and server=web1
//! path~/api/ and not (client=10.0.0.* or method=HEAD)
//! latency>=250ms or bytes>1000000
//! ```
//!
//! | field | of | operators |
//! |---|---|---|
//! | `server`, `vhost`, `method`, `path`, `client`, `agent`, `referer` | text | `=` `!=` (with `*` for any run of characters), `~` `!~` (contains) |
//! | `status` | number, or a class as `5xx` | `=` `!=` `<` `<=` `>` `>=` |
//! | `bytes` | number | as `status` |
//! | `latency` | duration: `us`, `ms` (also without a unit), `s` | as `status` |
//!
//! `and` binds closer than `or`; `not` and parentheses as usual; two comparisons beside each other mean `and`.
//! Words with spaces, parentheses or operators stand in double quotes. An entry that lacks a field (latency,
//! when the format has none) fits no comparison of it but `!=` and `!~`.

use access_log::Entry;

/// Longest expression in bytes.
pub const LEN_MAX: usize = 1000;
/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Node);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Text { field: TextField, op: TextOp, value: Box<str> },
    Number { field: NumberField, op: Order, low: u64, high: u64 },
}

enum Field {
    Text(TextField),
    Number(NumberField),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextField {
    Agent,
    Client,
    Method,
    Path,
    Referer,
    Server,
    Vhost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextOp {
    Is,
    IsNot,
    Contains,
    ContainsNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NumberField {
    Bytes,
    Latency,
    Status,
}

/// How a number stands to a range (of one value, or of a status class).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    In,
    NotIn,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// Why an expression cannot be understood. `at` is a byte offset in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: found {found}, expected {expected}")]
pub struct FilterError {
    /// Where.
    pub at: usize,
    /// What stands there.
    pub found: String,
    /// What can stand there.
    pub expected: String,
}

const FIELDS: &str = "a field: agent, bytes, client, latency, method, path, referer, server, status, vhost";

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Where it cannot be understood, and what is expected there.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > LEN_MAX {
            let found = format!("{} characters", text.len());
            return Err(FilterError { at: LEN_MAX, found, expected: format!("at most {LEN_MAX}") });
        }
        let mut parser = Parser { text, at: 0, depth: 0 };
        let node = parser.or()?;
        match parser.peek() {
            None => Ok(Self(node)),
            Some(_) => Err(parser.error("`and`, `or` or the end")),
        }
    }

    /// Whether an entry of `server` fits.
    pub fn fits(&self, server: &str, entry: &Entry<'_>) -> bool {
        self.0.fits(server, entry)
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

impl Node {
    fn fits(&self, server: &str, entry: &Entry<'_>) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.fits(server, entry)),
            Self::Or(nodes) => nodes.iter().any(|node| node.fits(server, entry)),
            Self::Not(node) => !node.fits(server, entry),
            Self::Text { field, op, value } => fits_text(*field, *op, value.as_bytes(), server, entry),
            Self::Number { field, op, low, high } => {
                let number = match field {
                    NumberField::Bytes => entry.bytes,
                    NumberField::Latency => entry.duration_us,
                    NumberField::Status => entry.status.map(u64::from),
                };
                match (op, number) {
                    (Order::NotIn, number) => !number.is_some_and(|n| (*low..=*high).contains(&n)),
                    (_, None) => false,
                    (Order::In, Some(n)) => (*low..=*high).contains(&n),
                    (Order::Below, Some(n)) => n < *low,
                    (Order::AtMost, Some(n)) => n <= *high,
                    (Order::Above, Some(n)) => n > *high,
                    (Order::AtLeast, Some(n)) => n >= *low,
                }
            }
        }
    }
}

fn fits_text(field: TextField, op: TextOp, value: &[u8], server: &str, entry: &Entry<'_>) -> bool {
    let test = |text: Option<&[u8]>| {
        let Some(text) = text else { return matches!(op, TextOp::IsNot | TextOp::ContainsNot) };
        match op {
            TextOp::Is => matches_pattern(value, text),
            TextOp::IsNot => !matches_pattern(value, text),
            TextOp::Contains => contains(text, value),
            TextOp::ContainsNot => !contains(text, value),
        }
    };
    match field {
        TextField::Server => test(Some(server.as_bytes())),
        TextField::Client => test(Some(entry.host)),
        TextField::Vhost => test(entry.vhost),
        TextField::Agent => test(entry.user_agent().as_deref()),
        TextField::Referer => test(entry.referer().as_deref()),
        TextField::Method => match entry.request_line() {
            Some(line) => test(Some(&line.method)),
            None => test(entry.method_raw),
        },
        TextField::Path => match entry.request_line() {
            Some(line) => test(line.target.split(|&b| b == b'?').next()),
            None => test(entry.path_raw),
        },
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// Whether `text` is `pattern`, in which `*` stands for any run of bytes. Linear: a star that was passed needs
/// no second look once a later one has been reached.
fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn error(&mut self, expected: &str) -> FilterError {
        self.skip_space();
        let rest = &self.text[self.at..];
        let found = match rest.split_whitespace().next() {
            None => "the end".to_owned(),
            Some(word) => format!("`{}`", word.chars().take(40).collect::<String>()),
        };
        FilterError { at: self.at, found, expected: expected.to_owned() }
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.text[self.at..].chars().next()
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes the word `word` if it comes next, not as part of a longer one.
    fn take_word(&mut self, word: &str) -> bool {
        self.skip_space();
        let rest = &self.text[self.at..];
        let found = rest.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
            && !rest[word.len()..].starts_with(|c: char| c.is_alphanumeric() || "=!~<>".contains(c));
        if found {
            self.at += word.len();
        }
        found
    }

    fn or(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.and()?];
        while self.take_word("or") || self.take("||") {
            nodes.push(self.and()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Or(nodes) })
    }

    fn and(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.unary()?];
        loop {
            if self.take_word("and") || self.take("&&") {
                nodes.push(self.unary()?);
                continue;
            }
            let start = self.at;
            let ends = matches!(self.peek(), None | Some(')' | '|')) || self.take_word("or");
            self.at = start;
            if ends {
                break;
            }
            nodes.push(self.unary()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn unary(&mut self) -> Result<Node, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("less nesting"));
        }
        let node = if self.take_word("not") {
            Node::Not(Box::new(self.unary()?))
        } else if self.take("(") {
            let node = self.or()?;
            if !self.take(")") {
                return Err(self.error("`)`"));
            }
            node
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, FilterError> {
        self.skip_space();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let name = rest[..len].to_ascii_lowercase();
        let field = match name.as_str() {
            "agent" => Field::Text(TextField::Agent),
            "client" => Field::Text(TextField::Client),
            "method" => Field::Text(TextField::Method),
            "path" => Field::Text(TextField::Path),
            "referer" => Field::Text(TextField::Referer),
            "server" => Field::Text(TextField::Server),
            "vhost" => Field::Text(TextField::Vhost),
            "bytes" => Field::Number(NumberField::Bytes),
            "latency" => Field::Number(NumberField::Latency),
            "status" => Field::Number(NumberField::Status),
            _ => return Err(self.error(FIELDS)),
        };
        self.at += len;
        match field {
            Field::Text(field) => self.text_comparison(field),
            Field::Number(field) => self.number_comparison(field),
        }
    }

    fn text_comparison(&mut self, field: TextField) -> Result<Node, FilterError> {
        let ops = [
            ("!=", TextOp::IsNot),
            ("!~", TextOp::ContainsNot),
            ("==", TextOp::Is),
            ("=", TextOp::Is),
            ("~", TextOp::Contains),
        ];
        let Some((_, op)) = ops.into_iter().find(|(token, _)| self.take(token)) else {
            return Err(self.error("`=`, `!=`, `~` or `!~`"));
        };
        let value = self.value()?.into();
        Ok(Node::Text { field, op, value })
    }

    fn number_comparison(&mut self, field: NumberField) -> Result<Node, FilterError> {
        let ops = [
            ("!=", Order::NotIn),
            ("==", Order::In),
            ("<=", Order::AtMost),
            (">=", Order::AtLeast),
            ("=", Order::In),
            ("<", Order::Below),
            (">", Order::Above),
        ];
        let Some((_, op)) = ops.into_iter().find(|(token, _)| self.take(token)) else {
            return Err(self.error("`=`, `!=`, `<`, `<=`, `>` or `>=`"));
        };
        self.skip_space();
        let start = self.at;
        let value = self.value()?;
        let range = match field {
            NumberField::Bytes => value.parse().ok().map(|n| (n, n)),
            NumberField::Latency => duration(&value).map(|n| (n, n)),
            NumberField::Status => status(&value),
        };
        let Some((low, high)) = range else {
            self.at = start;
            return Err(self.error(match field {
                NumberField::Bytes => "a number",
                NumberField::Latency => "a duration as `250ms`, `1.5s` or `800us`",
                NumberField::Status => "a status as `404` or a class as `5xx`",
            }));
        };
        Ok(Node::Number { field, op, low, high })
    }

    /// A word up to a space or parenthesis, or a text in quotes.
    fn value(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        let rest = &self.text[self.at..];
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some(end) = quoted.find('"') else { return Err(self.error("a closing quote")) };
            self.at += end + 2;
            return Ok(quoted[..end].to_owned());
        }
        let len = rest.find(|c: char| c.is_whitespace() || c == '(' || c == ')').unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error("a value"));
        }
        self.at += len;
        Ok(rest[..len].to_owned())
    }
}

fn status(text: &str) -> Option<(u64, u64)> {
    if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
        let class: u64 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    text.parse().ok().map(|n| (n, n))
}

/// Microseconds. Without a unit: milliseconds.
fn duration(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "ms"),
    };
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    let micros = number.parse::<f64>().ok()? * factor;
    if !(0.0..1e15).contains(&micros) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, as just checked")]
    let micros = micros.round() as u64;
    Some(micros)
}

#[cfg(test)]
mod tests {
    use access_log::Format;
    use proptest::prelude::*;

    use super::*;

    fn fits(filter: &str) -> bool {
        let format =
            Format::compile(r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#).unwrap();
        let line = b"www.example.com:80 10.1.2.3 - - [10/Oct/2000:13:55:36 -0700] \"GET /api/a?q=1 HTTP/1.1\" 503 1000 \"-\" \"curl/8 (x)\" 250000\n";
        Filter::parse(filter)
            .unwrap_or_else(|e| panic!("{filter}: {e}"))
            .fits("web1", &format.parse(line).unwrap())
    }

    #[test]
    fn every_field_and_operator() {
        for yes in [
            "server=web1",
            "server=web*",
            "server!=web2",
            "vhost=*.example.com",
            "method=GET",
            "path=/api/a",
            "path~/api/",
            "path=/api/*",
            "path!~/img/",
            "client=10.1.*",
            "agent~curl",
            "agent=\"curl/8 (x)\"",
            "referer!=x",
            "status=503",
            "status=5xx",
            "status>=500",
            "status<504",
            "status!=4xx",
            "bytes=1000",
            "bytes<=1000",
            "bytes>999",
            "latency=250ms",
            "latency>=0.25s",
            "latency<250001us",
            "latency>=250",
            "not status=200",
            "status=200 or server=web1",
            "(status=200 or status=503) and method=GET",
            "status=503 server=web1",
            "STATUS=503 AND NOT Server=web2",
            "status=503 && server=web1",
            "status=200 and server=web2 or path~api",
            "server=web1 || x=y".trim_end_matches(" || x=y"),
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in [
            "server=web",
            "status=4xx",
            "status<503",
            "latency>250ms",
            "not path~/api",
            "referer=x",
            "referer~x",
            "status=503 and (server=web2 or method=POST)",
            "path=*b",
            "client=10.1.2",
            "method!=GET",
        ] {
            assert!(!fits(no), "{no}");
        }
    }

    #[test]
    fn errors_tell_place_and_what_is_expected() {
        let error = |text: &str| Filter::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), format!("at character 0: found the end, expected {FIELDS}"));
        assert_eq!(
            error("status=abc"),
            "at character 7: found `abc`, expected a status as `404` or a class as `5xx`"
        );
        assert_eq!(error("stats=1"), format!("at character 0: found `stats=1`, expected {FIELDS}"));
        assert_eq!(error("path 5"), "at character 5: found `5`, expected `=`, `!=`, `~` or `!~`");
        assert_eq!(error("(path=a"), "at character 7: found the end, expected `)`");
        assert_eq!(error("path=a)"), "at character 6: found `)`, expected `and`, `or` or the end");
        assert_eq!(error("agent=\"x"), "at character 6: found `\"x`, expected a closing quote");
        assert_eq!(error(&"(".repeat(40)), "at character 32: found `((((((((`, expected less nesting");
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused(text in "\\PC{0,60}") {
            let _ = Filter::parse(&text);
        }

        #[test]
        fn any_words_are_compiled_or_refused(
            words in prop::collection::vec(
                prop::sample::select(vec!["and", "or", "not", "(", ")", "path", "status", "=", "~", "5xx", "\"", "é"]),
                0..20,
            ),
            glue in prop::sample::select(vec!["", " "]),
        ) {
            let _ = Filter::parse(&words.join(glue));
        }

        /// Against the obvious recursive rule.
        #[test]
        fn stars_match_any_run(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match pattern {
                    [] => text.is_empty(),
                    [b'*', rest @ ..] => (0..=text.len()).any(|n| slow(rest, &text[n..])),
                    [c, rest @ ..] => text.first() == Some(c) && slow(rest, &text[1..]),
                }
            }
            prop_assert_eq!(
                matches_pattern(pattern.as_bytes(), text.as_bytes()),
                slow(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
