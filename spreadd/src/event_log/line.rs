//! How a line of the log looks.

use std::fmt;
use std::sync::Arc;

use jiff::Zoned;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use super::sink::Sink;
use crate::config::TimeStamp;

/// The time stamp that the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    format: String,
    precise: bool,
}

impl From<&TimeStamp> for Stamp {
    fn from(stamp: &TimeStamp) -> Self {
        Self { format: stamp.format.clone(), precise: stamp.precise }
    }
}

impl Stamp {
    /// The stamp of `now`: the format, then `.microseconds`. What the format does not know stays as it is.
    pub(super) fn text(&self, now: &Zoned) -> String {
        let config = Config::new().lenient(true);
        let time = BrokenDownTime::from(now);
        let mut text =
            time.to_string_with_config(&config, &self.format).unwrap_or_else(|_| self.format.clone());
        if self.precise {
            text.push_str(&format!(".{:06}", now.subsec_nanosecond() / 1000));
        }
        text
    }
}

/// Formats events: priority for the journal, time stamp, level, text, fields.
pub(super) struct Line {
    sink: Arc<Sink>,
    rest: Format<Full, ()>,
}

impl Line {
    pub(super) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, rest: format().without_time().with_target(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (journal, terminal) = self.sink.looks();
        if journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        match self.sink.stamp() {
            Some(stamp) => {
                let text = stamp.text(&Zoned::now());
                if !text.is_empty() {
                    write!(writer, "{text} ")?;
                }
            }
            // The journal has its own time stamps.
            None if journal => {}
            None => {
                SystemTime.format_time(&mut writer)?;
                writer.write_char(' ')?;
            }
        }
        if terminal {
            return self.rest.format_event(context, writer, event);
        }
        // Without colors, also if the process began on a terminal.
        let mut plain = String::new();
        self.rest.format_event(context, Writer::new(&mut plain), event)?;
        writer.write_str(&plain)
    }
}

/// The priority of `syslog` for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_follow_the_format() {
        let time: jiff::Timestamp = "2001-09-09T01:46:40.123456789Z".parse().unwrap();
        let now = time.to_zoned(jiff::tz::TimeZone::UTC);
        let text = |format: &str, precise| Stamp { format: format.to_owned(), precise }.text(&now);
        assert_eq!(text(TimeStamp::DEFAULT_FORMAT, false), "09/09/01 01:46:40");
        assert_eq!(text("[%a %d %b %Y %H:%M:%S]", false), "[Sun 09 Sep 2001 01:46:40]");
        assert_eq!(text("%s", true), "1000000000.123456");
        assert_eq!(text("", false), "");
        assert_eq!(text("%H %! x", false), "01 %! x", "an unknown conversion stays");
    }
}
