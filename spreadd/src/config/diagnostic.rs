//! Errors and warnings with their place in the file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Most errors that are shown of one file.
pub const ERRORS_MAX: usize = 40;

/// What is wrong with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A word that cannot stand at this place.
    Syntax,
    /// A word of the right kind with a forbidden value.
    Value,
    /// More than is possible.
    Limit,
    /// Two parts of the file contradict each other.
    Consistency,
    /// Something that is required is missing altogether.
    Empty,
    /// A name cannot be resolved to an address of the right family.
    Lookup,
    /// The daemon does not find itself in the file.
    Identity,
}

/// What is odd in a configuration that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WarningClass {
    /// A segment address is in 127/8 or is ::1.
    SegmentAddressLoopback,
    /// An IPv6 segment address is unicast.
    Ipv6SegmentNotMulticast,
    /// Text like an IPv4 address that is none.
    MalformedAddress,
    /// A daemon name ends with `;`.
    NameEndsWithSemicolon,
    /// An interface of this daemon is not an address of this host.
    InterfaceNotLocal,
    /// An empty `RuntimeDir`, `DaemonUser` or `DaemonGroup`.
    EmptyValueIgnored,
    /// A daemon name was cut to 19 bytes.
    NameCut,
    /// A daemon name has a character that separates the parts of private groups.
    NameWithSeparator,
    /// A value was cut to its longest form.
    ValueCut,
    /// A stray bracket or control character was skipped.
    StrayCharacter,
    /// Port 0 stands for the default port.
    PortZero,
    /// A word in an authentication list is no method.
    UnknownAuthMethod,
    /// The authentication lists refuse everybody.
    NobodyCanConnect,
    /// Timeouts that do not fit together.
    TimeoutOrder,
    /// The daemon accepts this and does not do it.
    NotHonored,
}

/// A `spread.conf` as it is shown in messages.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    /// The text, with the same offsets as the bytes of the file.
    text: Arc<str>,
}

impl Source {
    /// Takes the bytes of a file. What is not UTF-8 is shown as `?`.
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '?'));
        }
        Self { name: name.into(), text: text.into() }
    }

    /// What messages call the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Line and column of an offset, both from 1; the column counts characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Most errors and most warnings of one file that are kept; more are counted.
const KEPT_MAX: usize = 500;

/// What was found so far. Bounded: a file of nonsense has an error in every word.
#[derive(Clone, Debug)]
pub(crate) struct Found<T> {
    pub(crate) items: Vec<T>,
    pub(crate) more: usize,
}

impl<T> Found<T> {
    pub(crate) const fn new() -> Self {
        Self { items: Vec::new(), more: 0 }
    }

    pub(crate) fn push(&mut self, make: impl FnOnce() -> T) {
        if self.items.len() < KEPT_MAX {
            self.items.push(make());
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.more += other.more;
        for item in other.items {
            self.push(|| item);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len() + self.more
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// One error.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(crate) class: ErrorClass,
    pub(crate) span: Option<Range<usize>>,
    pub(crate) message: String,
    /// Text at the caret.
    pub(crate) label: String,
    /// Another place that has to do with it.
    pub(crate) other: Option<(Range<usize>, String)>,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(class: ErrorClass, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            class,
            span: Some(span),
            message: message.into(),
            label: String::new(),
            other: None,
            help: None,
        }
    }

    pub(crate) fn nowhere(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { span: None, ..Self::new(class, 0..0, message) }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn other(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What kind of error it is.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// All errors of a file, in the order of the file. Never empty.
///
/// `Display` shows each with the line, a caret and what would be accepted, without colors.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    source: Source,
    problems: Vec<Problem>,
    /// Errors that were counted only.
    more: usize,
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    pub(crate) fn new(source: Source, found: Found<Problem>) -> Self {
        let Found { items: mut problems, more } = found;
        problems.sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |s| s.start));
        Self { source, problems, more }
    }

    pub(crate) fn one(source: Source, problem: Problem) -> Self {
        Self { source, problems: vec![problem], more: 0 }
    }

    /// The errors; a file with very many has the first ones here.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Line and column of an error, both from 1; `None` if it has no place in the file.
    pub fn position(&self, problem: &Problem) -> Option<(usize, usize)> {
        problem.span.as_ref().map(|span| self.source.position(span.start))
    }

    /// The text of all errors, with colors if a terminal shows it.
    pub fn render(&self, colors: bool) -> String {
        let renderer = if colors { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for problem in self.problems.iter().take(ERRORS_MAX) {
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&renderer.render(&[self.group(problem)]));
        }
        let more = self.problems.len().saturating_sub(ERRORS_MAX) + self.more;
        if more > 0 {
            out.push_str(&format!("\n\nand {more} more errors"));
        }
        out
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let title = Level::ERROR.primary_title(problem.message.as_str());
        let mut group = match &problem.span {
            Some(span) => {
                let other = problem.other.as_ref();
                let view = self.source.view(span, other.map(|(span, _)| span));
                let mut primary = AnnotationKind::Primary.span(view.place(span));
                if !problem.label.is_empty() {
                    primary = primary.label(problem.label.as_str());
                }
                let mut snippet = Snippet::source(view.text)
                    .line_start(view.first_line)
                    .path(&*self.source.name)
                    .annotation(primary);
                if let Some((span, label)) = other.filter(|(span, _)| view.contains(span)) {
                    let context = AnnotationKind::Context.span(view.place(span));
                    snippet = snippet.annotation(context.label(label.as_str()));
                }
                title.element(snippet)
            }
            None => title.element(Origin::path(&*self.source.name)),
        };
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }
}

/// The part of a file that a message shows.
struct View<'a> {
    text: &'a str,
    start: usize,
    first_line: usize,
}

impl View<'_> {
    /// Most bytes of a file that one message works on.
    const MAX: usize = 16 << 10;
    /// Bytes before and behind the place in a line that is too long to show.
    const AROUND: usize = 60;
    /// Most bytes that are marked.
    const MARKED: usize = 120;

    fn contains(&self, span: &Range<usize>) -> bool {
        (self.start..=self.start + self.text.len()).contains(&span.start)
    }

    /// The place in the shown text.
    fn place(&self, span: &Range<usize>) -> Range<usize> {
        let cut = |at: usize| self.text.floor_char_boundary(at.saturating_sub(self.start));
        cut(span.start)..cut(span.end.min(span.start + Self::MARKED))
    }
}

impl Source {
    /// The whole lines of both places if they are not too far apart, else those of the first.
    fn view(&self, span: &Range<usize>, other: Option<&Range<usize>>) -> View<'_> {
        let text = &*self.text;
        let line_start = |at: usize| text[..text.floor_char_boundary(at)].rfind('\n').map_or(0, |nl| nl + 1);
        let line_end = |at: usize| {
            let at = text.floor_char_boundary(at);
            text[at..].find('\n').map_or(text.len(), |nl| at + nl)
        };
        let from = span.start.min(other.map_or(usize::MAX, |o| o.start));
        let to = span.start.max(other.map_or(0, |o| o.start));
        let (mut start, mut end) = (line_start(from), line_end(to));
        if end - start > View::MAX {
            (start, end) = (line_start(span.start), line_end(span.start));
        }
        if end - start > View::MAX {
            start = text.ceil_char_boundary(start.max(span.start.saturating_sub(View::AROUND)));
            end = text.floor_char_boundary(end.min(span.start + View::MARKED + View::AROUND));
        }
        let first_line = self.position(start).0;
        View { text: &text[start..end.max(start)], start, first_line }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Something that is accepted and worth a line in the log.
///
/// `Display` is one line, `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What kind of oddity it is.
    pub class: WarningClass,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is odd and what is done about it.
    pub message: String,
    pub(crate) file: Arc<str>,
}

impl Warning {
    pub(crate) fn new(
        source: &Source,
        class: WarningClass,
        offset: usize,
        message: impl Into<String>,
    ) -> Self {
        let (line, column) = source.position(offset);
        Self { class, line, column, message: message.into(), file: Arc::clone(&source.name) }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}
