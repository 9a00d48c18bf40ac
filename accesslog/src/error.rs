//! What can be wrong with a line or a format.

/// Why a line is not of its format. The classes and the order of the checks are those of the recorded cases
/// (`tests/cases/README.md`): too long, torn, empty, control byte, then field by field from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// A backslash that begins no escape of the server.
    #[error("a backslash that begins no escape")]
    BadEscape,
    /// Host with other bytes than letters, digits and `._:%-`.
    #[error("the host has an illegal byte")]
    BadHost,
    /// None or two spaces where one is required.
    #[error("exactly one space is required between fields")]
    BadSeparator,
    /// Size of another form, or 2^64 and above. Also other numbers: durations, bytes read.
    #[error("the size is not a number")]
    BadSize,
    /// Status of another form than three digits from 100 to 999.
    #[error("the status is not a number from 100 to 999")]
    BadStatus,
    /// No valid time where one is required.
    #[error("the time is not valid")]
    BadTime,
    /// Virtual host or port of a wrong form.
    #[error("the virtual host or its port is not valid")]
    BadVhost,
    /// A byte 0x00 to 0x1F or 0x7F. The server writes these as escapes.
    #[error("a control byte in the line")]
    ControlByte,
    /// Only a line feed.
    #[error("the line is empty")]
    Empty,
    /// Text of the format that the line does not have.
    #[error("the line lacks a text of its format")]
    LiteralMismatch,
    /// The line ends before its format does.
    #[error("the line ends too soon")]
    MissingField,
    /// More than [`LINE_LEN_MAX`](crate::LINE_LEN_MAX) bytes.
    #[error("the line is too long")]
    TooLong,
    /// No line feed at the end: the rest of the line may be missing.
    #[error("the line has no line feed")]
    Torn,
    /// The format ends before the line does.
    #[error("the line goes on after its format")]
    TrailingData,
    /// A quote that is not closed.
    #[error("a quote is not closed")]
    UnterminatedQuote,
}

impl LineError {
    /// Every class, in alphabetical order.
    pub const ALL: [Self; 15] = [
        Self::BadEscape,
        Self::BadHost,
        Self::BadSeparator,
        Self::BadSize,
        Self::BadStatus,
        Self::BadTime,
        Self::BadVhost,
        Self::ControlByte,
        Self::Empty,
        Self::LiteralMismatch,
        Self::MissingField,
        Self::TooLong,
        Self::Torn,
        Self::TrailingData,
        Self::UnterminatedQuote,
    ];

    /// Name of the class, for counters and test data.
    pub fn class(self) -> &'static str {
        match self {
            Self::BadEscape => "bad_escape",
            Self::BadHost => "bad_host",
            Self::BadSeparator => "bad_separator",
            Self::BadSize => "bad_size",
            Self::BadStatus => "bad_status",
            Self::BadTime => "bad_time",
            Self::BadVhost => "bad_vhost",
            Self::ControlByte => "control_byte",
            Self::Empty => "empty",
            Self::LiteralMismatch => "literal_mismatch",
            Self::MissingField => "missing_field",
            Self::TooLong => "too_long",
            Self::Torn => "torn",
            Self::TrailingData => "trailing_data",
            Self::UnterminatedQuote => "unterminated_quote",
        }
    }
}

/// Why a `LogFormat` string cannot be compiled. `at` is a byte offset in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// `%` at the end, or a brace that is not closed.
    #[error("the directive at byte {at} is not complete")]
    Incomplete {
        /// Where it begins.
        at: usize,
    },
    /// Two directives stand together and nothing tells where the first ends.
    #[error("nothing separates `{first}` from what follows at byte {at}")]
    Ambiguous {
        /// The first of them.
        first: String,
        /// Where the second begins.
        at: usize,
    },
}
