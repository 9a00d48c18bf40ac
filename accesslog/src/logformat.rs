//! Any `LogFormat` string: compiled to a list of texts and directives, matched from left to right.

use memchr::memmem;

use crate::clf::dash;
use crate::scan::{Scan, body, host, is_vhost, number, quoted_len, size, status};
use crate::time::{CLF_LEN, Parts, digits, month, parse_clf_time, zone};
use crate::{Entry, FormatError, LineError};

/// A compiled format.
#[derive(Clone, Debug)]
pub(crate) struct Custom {
    elements: Vec<Element>,
}

#[derive(Clone, Debug)]
enum Element {
    /// Text of the format.
    Literal(Vec<u8>),
    Directive(Directive),
}

#[derive(Clone, Debug)]
struct Directive {
    /// As written, for example `%{Referer}i`.
    text: String,
    kind: Kind,
    end: End,
}

/// How the end of a field is found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Its form tells.
    Form,
    /// The next quote that is not escaped.
    Quote,
    /// The next place with this text.
    Text(Vec<u8>),
    /// The next place where this text, a time in brackets and the text after the time follow. A user name may
    /// imitate a time, but not the bare quote that mostly comes after it.
    TextAndTime { text: Vec<u8>, after: Vec<u8> },
    /// The end of the line.
    Line,
    /// The next space or the end of the line: the last field, of a kind that has no spaces.
    Word,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Vhost,
    Port,
    Ident,
    User,
    Request,
    Status,
    Bytes,
    Duration {
        micros: u64,
    },
    Referer,
    UserAgent,
    Method,
    Path,
    Time(TimeForm),
    /// A number that no field of [`Entry`] takes.
    Number,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TimeForm {
    /// `[10/Oct/2000:13:55:36 -0700]`
    Clf { end: bool },
    /// Count since 1970 in units of so many microseconds.
    Count { unit: i64, end: bool },
    /// Part of a second in units of so many microseconds; as many digits.
    Fraction { unit: i64, len: usize },
    /// strftime conversions.
    Strftime { format: Vec<u8>, end: bool },
}

impl Custom {
    pub(crate) fn compile(format: &str) -> Result<Self, FormatError> {
        let mut elements = Vec::new();
        let mut literal = Vec::new();
        let bytes = format.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match (byte, bytes.get(at + 1)) {
                (b'%', Some(b'%')) => {
                    literal.push(b'%');
                    at += 2;
                }
                (b'%', _) => {
                    let len = directive_len(&bytes[at..]).ok_or(FormatError::Incomplete { at })?;
                    if !literal.is_empty() {
                        elements.push(Element::Literal(std::mem::take(&mut literal)));
                    }
                    let text = String::from_utf8_lossy(&bytes[at..at + len]).into_owned();
                    let kind = kind(&text);
                    elements.push(Element::Directive(Directive { text, kind, end: End::Form }));
                    at += len;
                }
                _ => {
                    literal.push(byte);
                    at += 1;
                }
            }
        }
        if !literal.is_empty() {
            elements.push(Element::Literal(literal));
        }
        find_ends(&mut elements)?;
        keep_finest_duration(&mut elements);
        Ok(Self { elements })
    }

    /// Parses a line with its line feed and gives each directive with its text to `each`.
    pub(crate) fn parse<'a>(
        &self,
        line: &'a [u8],
        mut each: impl FnMut(&str, &'a [u8]),
    ) -> Result<Entry<'a>, LineError> {
        let mut scan = Scan::new(body(line)?);
        let mut entry = Entry::default();
        let mut parts = Parts::default();
        let mut has_time = false;
        for element in &self.elements {
            match element {
                Element::Literal(text) => literal(&mut scan, text)?,
                Element::Directive(directive) => {
                    let field = directive.take(&mut scan)?;
                    directive.store(field, &mut entry, &mut parts)?;
                    has_time |= matches!(directive.kind, Kind::Time(_));
                    each(&directive.text, field);
                }
            }
        }
        if !scan.rest.is_empty() {
            return Err(LineError::TrailingData);
        }
        if has_time {
            entry.time_us = parts.micros();
            if entry.time_us.is_none() && parts.year.is_some() {
                return Err(LineError::BadTime);
            }
        }
        Ok(entry)
    }
}

/// Where the text that ends a field begins. Without it the line ended too soon if only a space was to come;
/// else it is a line of another format.
fn find(rest: &[u8], text: &[u8]) -> Result<usize, LineError> {
    memmem::find(rest, text).ok_or(if text == b" " {
        LineError::MissingField
    } else {
        LineError::LiteralMismatch
    })
}

fn literal(scan: &mut Scan<'_>, text: &[u8]) -> Result<(), LineError> {
    if scan.rest.starts_with(text) {
        scan.take(text.len());
        return Ok(());
    }
    Err(if text.starts_with(scan.rest) { LineError::MissingField } else { LineError::LiteralMismatch })
}

/// Length of the directive at the head of `text`: `%`, status condition and modifiers, `{argument}`, letter.
fn directive_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    while matches!(text.get(at)?, b'!' | b'<' | b'>' | b',' | b'0'..=b'9') {
        at += 1;
    }
    if *text.get(at)? == b'{' {
        at += memchr::memchr(b'}', &text[at..])? + 1;
    }
    // `^` begins a directive of two letters: `%{name}^ti`.
    let letters = if *text.get(at)? == b'^' { 3 } else { 1 };
    (at + letters <= text.len()).then_some(at + letters)
}

/// The meaning of a directive. One that depends on a status can be `-` for any line, so it is only text.
fn kind(text: &str) -> Kind {
    let spec = text.trim_start_matches(['%', '<', '>']);
    let (argument, letter) = match spec.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((argument, letter)) => (Some(argument), letter),
        None => (None, spec),
    };
    match (letter, argument) {
        ("h" | "a", None) => Kind::Host,
        ("a", Some("c")) => Kind::Host,
        ("v" | "V", None) => Kind::Vhost,
        ("p", _) => Kind::Port,
        ("l", None) => Kind::Ident,
        ("u", None) => Kind::User,
        ("r", None) => Kind::Request,
        ("s", None) => Kind::Status,
        ("b" | "B" | "O", None) => Kind::Bytes,
        ("I" | "S" | "k" | "P", None) => Kind::Number,
        ("D", None) | ("T", Some("us")) => Kind::Duration { micros: 1 },
        ("T", Some("ms")) => Kind::Duration { micros: 1000 },
        ("T", None | Some("s")) => Kind::Duration { micros: 1_000_000 },
        ("m", None) => Kind::Method,
        ("U", None) => Kind::Path,
        ("i", Some(name)) if name.eq_ignore_ascii_case("referer") => Kind::Referer,
        ("i", Some(name)) if name.eq_ignore_ascii_case("user-agent") => Kind::UserAgent,
        ("t", argument) => Kind::Time(time_form(argument.unwrap_or(""))),
        _ => Kind::Other,
    }
}

fn time_form(argument: &str) -> TimeForm {
    let (end, form) = match argument.split_once(':') {
        Some(("begin", form)) => (false, form),
        Some(("end", form)) => (true, form),
        _ if argument == "end" => (true, ""),
        _ if argument == "begin" => (false, ""),
        _ => (false, argument),
    };
    match form {
        "" => TimeForm::Clf { end },
        "sec" => TimeForm::Count { unit: 1_000_000, end },
        "msec" => TimeForm::Count { unit: 1000, end },
        "usec" => TimeForm::Count { unit: 1, end },
        "msec_frac" => TimeForm::Fraction { unit: 1000, len: 3 },
        "usec_frac" => TimeForm::Fraction { unit: 1, len: 6 },
        format => TimeForm::Strftime { format: format.into(), end },
    }
}

/// Tells each directive how its end is found: from the text that follows it.
fn find_ends(elements: &mut [Element]) -> Result<(), FormatError> {
    let mut at = 0;
    for index in 0..elements.len() {
        let quoted = index > 0
            && matches!(&elements[index - 1], Element::Literal(text) if text.last() == Some(&b'"'))
            && matches!(elements.get(index + 1), Some(Element::Literal(text)) if text.first() == Some(&b'"'));
        let before_time = match (elements.get(index + 2), elements.get(index + 3)) {
            (Some(Element::Directive(d)), after) if matches!(d.kind, Kind::Time(TimeForm::Clf { .. })) => {
                Some(if let Some(Element::Literal(text)) = after { text.clone() } else { Vec::new() })
            }
            _ => None,
        };
        let next = match elements.get(index + 1) {
            None => None,
            Some(Element::Literal(text)) => Some(Some(text.clone())),
            Some(Element::Directive(_)) => Some(None),
        };
        match &mut elements[index] {
            Element::Literal(text) => at += text.len() + text.iter().filter(|&&b| b == b'%').count(),
            Element::Directive(directive) => {
                at += directive.text.len();
                directive.end = match next {
                    _ if directive.has_form() => End::Form,
                    Some(Some(_)) if quoted => End::Quote,
                    Some(Some(text)) => match before_time {
                        Some(after) => End::TextAndTime { text, after },
                        None => End::Text(text),
                    },
                    None if directive.is_word() => End::Word,
                    None => End::Line,
                    Some(None) => {
                        return Err(FormatError::Ambiguous { first: directive.text.clone(), at });
                    }
                };
            }
        }
    }
    Ok(())
}

/// A format may have several durations: `%T` beside `%D` must not blur it.
fn keep_finest_duration(elements: &mut [Element]) {
    let units = elements.iter().filter_map(|element| match element {
        Element::Directive(Directive { kind: Kind::Duration { micros }, .. }) => Some(*micros),
        _ => None,
    });
    let Some(finest) = units.min() else { return };
    for element in elements {
        if let Element::Directive(Directive { kind, .. }) = element
            && matches!(kind, Kind::Duration { micros } if *micros != finest)
        {
            *kind = Kind::Number;
        }
    }
}

impl Directive {
    /// Whether its own form tells where it ends.
    fn has_form(&self) -> bool {
        match &self.kind {
            Kind::Time(TimeForm::Strftime { format, .. }) => is_known_strftime(format),
            Kind::Time(_) => true,
            _ => false,
        }
    }

    /// Whether the field can contain no space.
    fn is_word(&self) -> bool {
        !matches!(self.kind, Kind::User | Kind::Request | Kind::Referer | Kind::UserAgent | Kind::Other)
    }

    /// Takes the field from the line.
    fn take<'a>(&self, scan: &mut Scan<'a>) -> Result<&'a [u8], LineError> {
        let rest = scan.rest;
        if rest.is_empty() {
            return Err(LineError::MissingField);
        }
        let len = match &self.end {
            End::Form => self.form_len(rest).ok_or(LineError::BadTime)?,
            End::Quote => quoted_len(rest)?,
            End::Text(text) => find(rest, text)?,
            End::TextAndTime { text, after } => memmem::find_iter(rest, text)
                .find(|at| {
                    let (open, close) = (at + text.len(), at + text.len() + CLF_LEN + 1);
                    rest.get(open) == Some(&b'[')
                        && rest.get(close) == Some(&b']')
                        && rest[close + 1..].starts_with(after)
                })
                .map_or_else(|| find(rest, text), Ok)?,
            End::Line => rest.len(),
            End::Word => memchr::memchr(b' ', rest).unwrap_or(rest.len()),
        };
        Ok(scan.take(len))
    }

    fn form_len(&self, rest: &[u8]) -> Option<usize> {
        let Kind::Time(form) = &self.kind else { return None };
        match form {
            TimeForm::Clf { .. } => Some(CLF_LEN + 2),
            TimeForm::Count { .. } => Some(rest.iter().take_while(|b| b.is_ascii_digit()).count()),
            TimeForm::Fraction { len, .. } => Some(*len),
            TimeForm::Strftime { format, .. } => strftime(format, rest, &mut Parts::default()),
        }
    }

    fn store<'a>(&self, field: &'a [u8], entry: &mut Entry<'a>, parts: &mut Parts) -> Result<(), LineError> {
        match &self.kind {
            Kind::Host => entry.host = host(field)?,
            Kind::Vhost if is_vhost(field) => entry.vhost = Some(field),
            Kind::Vhost => return Err(LineError::BadVhost),
            Kind::Port => {
                let port = number(field).and_then(|port| u16::try_from(port).ok());
                entry.vhost_port = Some(port.ok_or(LineError::BadVhost)?);
            }
            Kind::Ident => entry.ident = dash(field),
            Kind::User => entry.user = if field == b"\"\"" { Some(b"") } else { dash(field) },
            Kind::Request => entry.request_raw = Some(field),
            Kind::Status => entry.status = status(field)?,
            Kind::Bytes => entry.bytes = size(field)?,
            Kind::Duration { micros } => {
                entry.duration_us = size(field)?.map(|count| count.saturating_mul(*micros));
            }
            Kind::Number => {
                size(field)?;
            }
            Kind::Referer => entry.referer_raw = Some(field),
            Kind::UserAgent => entry.user_agent_raw = Some(field),
            Kind::Method => entry.method_raw = dash(field),
            Kind::Path => entry.path_raw = dash(field),
            Kind::Other => {}
            Kind::Time(form) => store_time(form, field, entry, parts).ok_or(LineError::BadTime)?,
        }
        Ok(())
    }
}

fn store_time<'a>(form: &TimeForm, field: &'a [u8], entry: &mut Entry<'a>, parts: &mut Parts) -> Option<()> {
    match form {
        TimeForm::Clf { end } => {
            let text = field.strip_prefix(b"[")?.strip_suffix(b"]")?;
            let stamp = parse_clf_time(text)?;
            if *end {
                parts.end_usec = parts.end_usec.or_else(|| stamp.unix.checked_mul(1_000_000));
            } else {
                entry.time = Some(text);
                entry.utc_offset = Some(stamp.utc_offset);
                parts.sec = parts.sec.or(Some(stamp.unix));
            }
        }
        TimeForm::Count { unit, end } => {
            let count = digits(field)?;
            match (end, unit) {
                (true, _) => parts.end_usec = Some(count.checked_mul(*unit)?),
                (false, 1) => parts.usec = Some(count),
                (false, 1000) => parts.msec = Some(count),
                (false, _) => parts.sec = Some(count),
            }
        }
        TimeForm::Fraction { unit, .. } => {
            let fraction = digits(field)?.checked_mul(*unit)?;
            // The finest fraction of the line: a coarser one is a multiple of 1000.
            if parts.fraction.is_none_or(|known| known % 1000 == 0) {
                parts.fraction = Some(fraction);
            }
        }
        TimeForm::Strftime { format, end } => {
            let mut local = Parts::default();
            let target = if *end { &mut local } else { parts };
            if is_known_strftime(format) && strftime(format, field, target)? != field.len() {
                return None;
            }
            entry.utc_offset = entry.utc_offset.or(target.utc_offset);
        }
    }
    Some(())
}

/// Whether every conversion of a strftime format is one that [`strftime`] reads.
fn is_known_strftime(format: &[u8]) -> bool {
    let mut rest = format;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (
                b'%',
                [
                    b'Y' | b'm' | b'd' | b'e' | b'H' | b'M' | b'S' | b'z' | b'b' | b'T' | b'F' | b's' | b'%',
                    t @ ..,
                ],
            ) => t,
            (b'%', _) => return false,
            _ => tail,
        };
    }
    true
}

/// Reads `text` by a strftime format into `parts`; gives the length that was read.
fn strftime(format: &[u8], text: &[u8], parts: &mut Parts) -> Option<usize> {
    let mut at = 0;
    let mut rest = format;
    while let [byte, tail @ ..] = rest {
        let (byte, conversion) = match (byte, tail) {
            (b'%', [conversion, t @ ..]) => {
                rest = t;
                (b'%', *conversion)
            }
            _ => {
                rest = tail;
                (*byte, 0)
            }
        };
        let mut take = |len: usize| {
            let piece = text.get(at..at + len)?;
            at += len;
            Some(piece)
        };
        match conversion {
            0 | b'%' => {
                if take(1)? != [byte] {
                    return None;
                }
            }
            b'Y' => parts.year = Some(digits(take(4)?)?),
            b'm' => parts.month = Some(digits(take(2)?)?),
            b'b' => parts.month = Some(month(take(3)?)?),
            b'd' => parts.day = Some(digits(take(2)?)?),
            b'e' => parts.day = Some(digits(take(2)?.trim_ascii_start())?),
            b'H' => parts.hour = digits(take(2)?)?,
            b'M' => parts.minute = digits(take(2)?)?,
            b'S' => parts.second = digits(take(2)?)?,
            b'z' => parts.utc_offset = Some(zone(take(5)?)?),
            b'T' => at += strftime(b"%H:%M:%S", text.get(at..)?, parts)?,
            b'F' => at += strftime(b"%Y-%m-%d", text.get(at..)?, parts)?,
            b's' => {
                let len = text.get(at..)?.iter().take_while(|b| b.is_ascii_digit()).count();
                parts.sec = Some(digits(text.get(at..at + len)?)?);
                at += len;
            }
            _ => return None,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_that_touch_are_refused_unless_their_form_tells_the_end() {
        let error = Custom::compile("%h %b%O x").unwrap_err();
        assert_eq!(error, FormatError::Ambiguous { first: "%b".into(), at: 5 });
        Custom::compile("%{usec_frac}t%{%z}t").unwrap();
        assert_eq!(Custom::compile("%h %{Referer").unwrap_err(), FormatError::Incomplete { at: 3 });
        assert_eq!(Custom::compile("100%").unwrap_err(), FormatError::Incomplete { at: 3 });
    }

    #[test]
    fn the_finest_duration_of_a_line_counts() {
        let parse = |format: &str, line: &'static str| {
            Custom::compile(format).unwrap().parse(line.as_bytes(), |_, _| {}).unwrap().duration_us
        };
        assert_eq!(parse("%D %T", "1234567 1\n"), Some(1_234_567));
        assert_eq!(parse("%T %D", "1 1234567\n"), Some(1_234_567));
        assert_eq!(parse("%{ms}T", "12\n"), Some(12_000));
    }

    #[test]
    fn a_user_with_spaces_ends_where_the_time_begins() {
        let format = Custom::compile("%u %t %>s").unwrap();
        let line = b"a [b] c [10/Oct/2000:13:55:36 -0700] 200\n";
        assert_eq!(format.parse(line, |_, _| {}).unwrap().user, Some(b"a [b] c".as_slice()));
    }
}
