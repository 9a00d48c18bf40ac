//! When a new file begins, and what it is called.
//!
//! A period begins at a fixed place of the clock of a time zone (midnight, the full hour), whatever the time at which
//! the writer was started. The name of a file is made from the begin of its period, so it is the same on every host.
// spec: log_writer 5.7, L-16

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use regex::bytes::{Regex, RegexBuilder};

use crate::retention::Keep;

/// Conversions of strftime that may stand in a name, and what they look like. Others are refused: files that belong
/// together are found by their names.
const CONVERSIONS: [(char, &str, u32); 13] = [
    ('Y', "[0-9]{4}", 86_400),
    ('y', "[0-9]{2}", 86_400),
    ('m', "[0-9]{2}", 86_400),
    ('b', "[A-Za-z]{3}", 86_400),
    ('d', "[0-9]{2}", 86_400),
    ('j', "[0-9]{3}", 86_400),
    ('F', "[0-9]{4}-[0-9]{2}-[0-9]{2}", 86_400),
    ('H', "[0-9]{2}", 3_600),
    ('M', "[0-9]{2}", 60),
    ('R', "[0-9]{2}:[0-9]{2}", 60),
    ('S', "[0-9]{2}", 1),
    ('T', "[0-9]{2}:[0-9]{2}:[0-9]{2}", 1),
    ('s', "[0-9]+", 1),
];
/// Stamp of a file that has no time in its name, when it is set aside.
const STAMP: &str = "%Y%m%d-%H%M%S";
const STAMP_SHAPE: &str = "[0-9]{8}-[0-9]{6}";
/// Most files that the same period may have (rotation by size).
pub const NUMBERS_MAX: u32 = 99_999;
/// Seconds of a day.
const DAY: u32 = 86_400;

/// How often a new file begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// So many seconds after midnight, and so on; at midnight in any case.
    Seconds(u32),
    /// So many days, counted from 1970-01-01.
    Days(u32),
}

impl Period {
    /// Reads `10s`, `15m`, `1h`, `1d`, `1w`.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || "a period like 15m, 1h, 1d or 1w is expected".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u32 = digits.parse().ok().filter(|n| (1..=366).contains(n)).ok_or_else(expected)?;
        let unit = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => return Ok(Self::Days(number)),
            "w" => return Ok(Self::Days(7 * number)),
            _ => return Err(expected()),
        };
        match number * unit {
            seconds if seconds < DAY && DAY.is_multiple_of(seconds) => Ok(Self::Seconds(seconds)),
            DAY => Ok(Self::Days(1)),
            _ => Err(format!("a day cannot be divided by {text}: {}", expected())),
        }
    }

    /// Begin of the period that a time is in.
    pub fn begin(self, time: Timestamp, zone: &TimeZone) -> Timestamp {
        let zoned = time.to_zoned(zone.clone());
        let Ok(midnight) = zoned.start_of_day() else { return time };
        match self {
            Self::Seconds(step) => {
                let passed = time.as_second() - midnight.timestamp().as_second();
                let begin = midnight.timestamp().as_second() + passed / i64::from(step) * i64::from(step);
                Timestamp::from_second(begin).unwrap_or(time)
            }
            Self::Days(1) => midnight.timestamp(),
            Self::Days(step) => {
                let days =
                    zoned.date().since(jiff::civil::date(1970, 1, 1)).map_or(0, |span| span.get_days());
                let back = days.rem_euclid(i32::try_from(step).unwrap_or(1));
                let begin = midnight.checked_sub(back.days()).and_then(|z| z.start_of_day());
                begin.map_or(time, |z| z.timestamp())
            }
        }
    }

    /// Begin of the next period.
    pub fn next(self, begin: Timestamp, zone: &TimeZone) -> Timestamp {
        let zoned = begin.to_zoned(zone.clone());
        let days = match self {
            Self::Days(days) => i64::from(days),
            Self::Seconds(_) => 1,
        };
        let day =
            zoned.checked_add(days.days()).and_then(|z| z.start_of_day()).map_or(begin, |z| z.timestamp());
        match self {
            Self::Days(_) => day,
            Self::Seconds(step) => {
                let step = begin.as_second().saturating_add(i64::from(step));
                Timestamp::from_second(step).map_or(day, |t| t.min(day))
            }
        }
    }
}

/// A file name with conversions of strftime, perhaps also with `%{vhost}`.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    /// What names made from it look like, without number and suffix of compression.
    shape: String,
    /// The shortest time after which the name changes, in seconds; `None`: never.
    finest: Option<u32>,
    vhost: bool,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Template {
    /// Reads a name.
    ///
    /// # Errors
    /// A conversion that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut shape, mut finest, mut vhost) = (String::new(), None::<u32>, false);
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            shape.push_str(&regex::escape(&rest[..at]));
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix("{vhost}") {
                shape.push_str("([A-Za-z0-9._:-]+)");
                (rest, vhost) = (after, true);
                continue;
            }
            let letter = rest.chars().next();
            match letter.and_then(|c| CONVERSIONS.iter().find(|(known, ..)| *known == c)) {
                Some((_, pattern, step)) => {
                    shape.push_str(pattern);
                    finest = Some(finest.map_or(*step, |f| f.min(*step)));
                }
                None if letter == Some('%') => shape.push('%'),
                None => {
                    let known: String = CONVERSIONS.iter().map(|(c, ..)| *c).collect();
                    let found = letter.map_or_else(|| "the end".into(), |c| format!("%{c}"));
                    return Err(format!(
                        "{found} cannot stand in a file name; %{{vhost}}, %% and % with one of {known} can"
                    ));
                }
            }
            rest = &rest[letter.map_or(0, char::len_utf8)..];
        }
        shape.push_str(&regex::escape(rest));
        Ok(Self { text: text.into(), shape, finest, vhost })
    }

    /// True when the name changes with the time.
    pub fn has_time(&self) -> bool {
        self.finest.is_some()
    }

    /// True when there is a place for the name of a virtual host.
    pub fn has_vhost(&self) -> bool {
        self.vhost
    }

    /// The name without conversions.
    pub fn without_time(&self) -> PathBuf {
        let mut out = String::new();
        let mut rest = &*self.text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let skip = if rest.starts_with('{') { rest.find('}').map_or(0, |e| e + 1) } else { 1 };
            if rest.starts_with('%') {
                out.push('%');
            }
            rest = rest.get(skip..).unwrap_or_default();
        }
        out.push_str(rest);
        // What stood between the parts of the time goes with it.
        let name = out.rfind('/').map_or(0, |at| at + 1);
        let mut short = out[..name].to_owned();
        for c in out[name..].chars() {
            let separates = |c: char| "-_.:".contains(c);
            match short.chars().last() {
                Some(before) if separates(before) && separates(c) => {
                    short.pop();
                    short.push(c);
                }
                _ => short.push(c),
            }
        }
        short.into()
    }

    /// The directory that the name begins with, up to the first conversion.
    pub fn fixed_dir(&self) -> PathBuf {
        let fixed = self.text.split('%').next().unwrap_or_default();
        match fixed.rfind('/') {
            Some(0) => "/".into(),
            Some(at) => fixed[..at].into(),
            None => ".".into(),
        }
    }

    /// Directories below [`Template::fixed_dir`] down to the file.
    pub fn depth(&self) -> usize {
        let fixed = self.text.split('%').next().unwrap_or_default();
        self.text.matches('/').count() - fixed.matches('/').count()
    }

    /// True for `./name`.
    pub fn begins_with_dot(&self) -> bool {
        self.text.starts_with("./")
    }

    /// The longest period after which each file has another name.
    pub fn period(&self) -> Option<Period> {
        self.finest.map(|s| if s == DAY { Period::Days(1) } else { Period::Seconds(s) })
    }

    /// The name for a period.
    pub fn name(&self, begin: Timestamp, zone: &TimeZone, vhost: &str) -> PathBuf {
        let text = if self.finest.is_some() {
            // The mark of the host is no conversion.
            let parts: Vec<String> = self
                .text
                .split("%{vhost}")
                .map(|part| format_time(part, &begin.to_zoned(zone.clone())))
                .collect();
            parts.join(vhost)
        } else {
            self.text.replace("%{vhost}", vhost).replace("%%", "%")
        };
        text.into()
    }
}

fn format_time(format: &str, time: &Zoned) -> String {
    // All conversions were checked.
    jiff::fmt::strtime::format(format, time).unwrap_or_else(|_| format.into())
}

/// What is done with files that are complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Archive {
    /// Nothing.
    #[default]
    Keep,
    /// gzip.
    Gzip,
    /// zstd (feature `zstd`).
    Zstd,
    /// A Parquet file of the parsed fields (feature `parquet`).
    Parquet,
}

impl Archive {
    /// All that this build can do.
    pub const ALL: &[(&str, Self)] = &[
        ("none", Self::Keep),
        ("gzip", Self::Gzip),
        #[cfg(feature = "zstd")]
        ("zstd", Self::Zstd),
        #[cfg(feature = "parquet")]
        ("parquet", Self::Parquet),
    ];

    /// Reads a name.
    ///
    /// # Errors
    /// What this build knows.
    pub fn parse(text: &str) -> Result<Self, String> {
        match Self::ALL.iter().find(|(name, _)| *name == text) {
            Some((_, archive)) => Ok(*archive),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
                let hint = if ["zstd", "parquet"].contains(&text) {
                    "; this log_writer was built without that feature"
                } else {
                    ""
                };
                Err(format!("one of {} is expected{hint}", names.join(", ")))
            }
        }
    }

    /// Suffix of the file that is made.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Keep => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::Parquet => ".parquet",
        }
    }
}

/// How the files of one log follow one another.
#[derive(Clone, PartialEq, Debug)]
pub struct Rotation {
    /// The name; without a time in it the current file always has the same name, and is set aside under another.
    pub template: Template,
    /// A new file begins so often.
    pub every: Option<Period>,
    /// A new file begins before this size is exceeded.
    pub size: Option<u64>,
    /// Zone of periods and names.
    pub zone: TimeZone,
    /// A symbolic link to the current file.
    pub link: Option<PathBuf>,
    /// What is done with complete files.
    pub archive: Archive,
    /// Program that is run with each complete file.
    pub on_complete: Option<PathBuf>,
    /// Which complete files are kept (for each virtual host): those within all these limits.
    pub keep: Vec<Keep>,
}

impl Rotation {
    /// A rotation in UTC; a time in the name means a new file whenever the name changes.
    pub fn new(template: Template) -> Self {
        let every = template.period();
        Self {
            template,
            every,
            size: None,
            zone: TimeZone::UTC,
            link: None,
            archive: Archive::Keep,
            on_complete: None,
            keep: Vec::new(),
        }
    }

    /// Begin of the period that a time is in.
    pub fn begin(&self, now: Timestamp) -> Timestamp {
        self.every.map_or(now, |p| p.begin(now, &self.zone))
    }

    /// When the next period begins.
    pub fn next(&self, begin: Timestamp) -> Option<Timestamp> {
        self.every.map(|p| p.next(begin, &self.zone))
    }

    /// The name of the current file of a period; `number` counts the files of the period from 0.
    pub fn current(&self, begin: Timestamp, number: u32, vhost: &str) -> PathBuf {
        let name = self.template.name(begin, &self.zone, vhost);
        if self.template.has_time() { numbered(&name, number) } else { name }
    }

    /// The name under which the current file is set aside; `None` when it has its own already.
    pub fn aside(&self, begin: Timestamp, number: u32) -> Option<PathBuf> {
        if self.template.has_time() {
            return None;
        }
        let mut name = self.template.name(begin, &self.zone, "").into_os_string();
        name.push("-");
        name.push(format_time(STAMP, &begin.to_zoned(self.zone.clone())));
        Some(numbered(Path::new(&name), number))
    }

    /// What complete files are called: the whole path; the first group is the virtual host.
    ///
    /// # Errors
    /// When the template is too long for an expression.
    pub fn complete_shape(&self) -> Result<Regex, String> {
        let stamp = if self.template.has_time() { String::new() } else { format!("-{STAMP_SHAPE}") };
        let shape = format!(r"^{}{stamp}(?:\.[0-9]{{1,5}})?(?:\.gz|\.zst|\.parquet)?$", self.template.shape);
        RegexBuilder::new(&shape).unicode(false).build().map_err(|error| error.to_string())
    }
}

/// The name with a number, if it is not the first.
fn numbered(name: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return name.into();
    }
    let mut name = name.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn periods_begin_at_fixed_places() {
        let utc = TimeZone::UTC;
        let now = at("2026-03-05T14:37:12Z");
        for (text, begin, next) in [
            ("15m", "2026-03-05T14:30:00Z", "2026-03-05T14:45:00Z"),
            ("1h", "2026-03-05T14:00:00Z", "2026-03-05T15:00:00Z"),
            ("6h", "2026-03-05T12:00:00Z", "2026-03-05T18:00:00Z"),
            ("24h", "2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z"),
            ("1d", "2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z"),
            ("1w", "2026-03-05T00:00:00Z", "2026-03-12T00:00:00Z"),
            ("10s", "2026-03-05T14:37:10Z", "2026-03-05T14:37:20Z"),
        ] {
            let period = Period::parse(text).expect(text);
            let found = period.begin(now, &utc);
            assert_eq!((found, period.next(found, &utc)), (at(begin), at(next)), "{text}");
        }
        for text in ["", "h", "0h", "7h", "1x", "1000m", "-1h", "25h"] {
            Period::parse(text).expect_err(text);
        }
    }

    #[test]
    fn days_follow_the_clock_of_the_zone() {
        let Ok(zone) = TimeZone::get("Europe/Berlin") else { return };
        // The day of 23 hours.
        let day = Period::Days(1);
        let begin = day.begin(at("2026-03-29T10:00:00Z"), &zone);
        assert_eq!((begin, day.next(begin, &zone)), (at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z")));
        // Six hours after a midnight of that day are seven o'clock; midnight ends the last period.
        let six = Period::Seconds(6 * 3600);
        let last = six.begin(at("2026-03-29T20:00:00Z"), &zone);
        assert_eq!((last, six.next(last, &zone)), (at("2026-03-29T17:00:00Z"), at("2026-03-29T22:00:00Z")));
    }

    #[test]
    fn names_are_made_from_the_period_and_found_again() {
        let rotation = Rotation::new(Template::parse("/l/%Y/a-%F-%H.log").expect("good"));
        assert_eq!(rotation.every, Some(Period::Seconds(3600)));
        let begin = rotation.begin(at("2026-03-05T14:37:12Z"));
        assert_eq!(rotation.current(begin, 0, ""), Path::new("/l/2026/a-2026-03-05-14.log"));
        assert_eq!(rotation.current(begin, 2, ""), Path::new("/l/2026/a-2026-03-05-14.log.2"));
        assert_eq!(rotation.aside(begin, 0), None);
        let shape = rotation.complete_shape().expect("shape");
        for (name, ours) in [
            ("/l/2026/a-2026-03-05-14.log", true),
            ("/l/2026/a-2026-03-05-14.log.2.gz", true),
            ("/l/2026/a-2026-03-05-14.log.zst", true),
            ("/l/2026/a-2026-03-05-14.log.audit", false),
            ("/l/2026/b-2026-03-05-14.log", false),
            ("/l/2026/a-2026-03-05-14xlog", false),
            ("/x/l/2026/a-2026-03-05-14.log", false),
        ] {
            assert_eq!(shape.is_match(name.as_bytes()), ours, "{name}");
        }
    }

    #[test]
    fn a_name_without_a_time_is_set_aside_with_one() {
        let mut rotation = Rotation::new(Template::parse("a%%.log").expect("good"));
        assert_eq!((rotation.every, rotation.next(at("2026-03-05T14:37:12Z"))), (None, None));
        rotation.every = Some(Period::Days(1));
        let begin = rotation.begin(at("2026-03-05T14:37:12Z"));
        assert_eq!(rotation.current(begin, 3, ""), Path::new("a%.log"));
        assert_eq!(rotation.aside(begin, 3).expect("aside"), Path::new("a%.log-20260305-000000.3"));
        let shape = rotation.complete_shape().expect("shape");
        assert!(shape.is_match(b"a%.log-20260305-000000.3.gz"));
        assert!(!shape.is_match(b"a%.log") && !shape.is_match(b"a%.log.state"));
    }

    #[test]
    fn names_of_virtual_hosts_have_their_place() {
        let rotation = Rotation::new(Template::parse("v/%{vhost}-%Y%m%d").expect("good"));
        assert!(rotation.template.has_vhost());
        let begin = rotation.begin(at("2026-03-05T14:37:12Z"));
        let name = rotation.current(begin, 0, "www.example.com");
        assert_eq!(name, Path::new("v/www.example.com-20260305"));
        let shape = rotation.complete_shape().expect("shape");
        let found = shape.captures(b"v/www.example.com-20260305.gz").expect("ours");
        assert_eq!(&found[1], b"www.example.com");
    }

    #[test]
    fn a_name_without_its_time_is_a_name() {
        let of = |text: &str| Template::parse(text).expect("good").without_time().display().to_string();
        assert_eq!(of("/l/a-%F-%H%M.log"), "/l/a.log");
        assert_eq!(of("../l/a_%Y.%m.log"), "../l/a.log");
        assert_eq!(of("a%%.log"), "a%.log");
    }

    #[test]
    fn other_conversions_are_refused() {
        let error = Template::parse("a-%q").expect_err("unknown");
        assert!(error.starts_with("%q cannot stand"), "{error}");
        assert!(Template::parse("a%").expect_err("unknown").starts_with("the end"));
        assert!(Archive::parse("zip").expect_err("unknown").contains("gzip"));
        assert_eq!(Archive::parse("gzip"), Ok(Archive::Gzip));
    }
}
