//! A format, compiled once and used for every line.

use crate::clf::{self, Named};
use crate::logformat::Custom;
use crate::{Entry, FormatError, LineError};

const NAMED: [(Named, &str, &str); 3] = [
    (Named::Common, "common", r#"%h %l %u %t "%r" %>s %b"#),
    (Named::Combined, "combined", r#"%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i""#),
    (
        Named::VhostCombined,
        "vhost_combined",
        r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i""#,
    ),
];

/// A compiled format of access-log lines.
#[derive(Clone, Debug)]
pub struct Format(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Named(Named),
    Custom(Custom),
}

impl Format {
    /// The format of a name known to every configuration of Apache: `common`, `combined`, `vhost_combined`.
    pub fn named(name: &str) -> Option<Self> {
        NAMED.iter().find(|(_, known, _)| *known == name).map(|(named, ..)| Self(Inner::Named(*named)))
    }

    /// Compiles the string of a `LogFormat` or `CustomLog` directive, after the configuration's own quotes and
    /// backslashes were removed. One of the three names above is understood too.
    ///
    /// # Errors
    /// If a directive is not complete, or if two directives stand together so that nothing tells where the
    /// first ends.
    pub fn compile(format: &str) -> Result<Self, FormatError> {
        // `%O` and `%b` differ in what they count, not in how they are written.
        let same = |known: &str| known == format || known.replace("%O", "%b") == format.replace("%O", "%b");
        let named = NAMED.iter().find(|(_, name, known)| *name == format || same(known));
        match named {
            Some((named, ..)) => Ok(Self(Inner::Named(*named))),
            None => Custom::compile(format).map(|custom| Self(Inner::Custom(custom))),
        }
    }

    /// Parses one line with its line feed.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`LineError`] for the order of the checks.
    pub fn parse<'a>(&self, line: &'a [u8]) -> Result<Entry<'a>, LineError> {
        match &self.0 {
            Inner::Named(named) => clf::parse(*named, line),
            Inner::Custom(custom) => custom.parse(line, |_, _| {}),
        }
    }

    /// As [`parse`](Self::parse), and gives each directive with its text to `each`, in the order of the
    /// format. Escapes are kept. For the three named formats `each` is not called: all they have is in
    /// [`Entry`].
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_fields<'a>(
        &self,
        line: &'a [u8],
        each: impl FnMut(&str, &'a [u8]),
    ) -> Result<Entry<'a>, LineError> {
        match &self.0 {
            Inner::Named(named) => clf::parse(*named, line),
            Inner::Custom(custom) => custom.parse(line, each),
        }
    }
}
