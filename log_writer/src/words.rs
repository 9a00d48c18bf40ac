//! Words of flags and of configuration files: sizes, times, names.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use spread::{Address, GroupName};

use crate::config::Fsync;
use crate::retention::Keep;
use crate::rotate::{Archive, Period, Template};
use crate::route::{Matcher, Rewrite};

/// Something that is written as one word.
pub trait Word: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, and what is expected.
    fn read(text: &str) -> Result<Self, String>;
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// A daemon with the text it came from.
#[derive(Clone, Debug)]
pub struct Daemon(pub String, pub Address);

impl Word for Size {
    fn read(text: &str) -> Result<Self, String> {
        let expected = "a number of bytes, perhaps with K, M or G, is expected";
        let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            _ => return Err(expected.into()),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        bytes.map(Size).ok_or_else(|| expected.into())
    }
}

impl Word for Duration {
    fn read(text: &str) -> Result<Self, String> {
        let expected = || "a time like 1s or 200ms is expected".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| expected())?;
        match &text[digits.len()..] {
            "ms" => Ok(Self::from_millis(number)),
            "s" => Ok(Self::from_secs(number)),
            _ => Err(expected()),
        }
    }
}

impl Word for Fsync {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "never" | "none" => Ok(Self::Never),
            "batch" => Ok(Self::Every(Duration::ZERO)),
            text => {
                let time = Duration::read(text)
                    .map_err(|_| "never, batch, or a time like 1s or 200ms is expected")?;
                Ok(Self::Every(time))
            }
        }
    }
}

impl Word for Period {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Word for Archive {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Word for Keep {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Word for Template {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Word for Rewrite {
    fn read(text: &str) -> Result<Self, String> {
        Ok(match text {
            "keep" => Self::Keep,
            "common" => Self::Common,
            "monotone" => Self::Monotone,
            format if format.contains('%') => Self::Format(format.into()),
            _ => return Err("keep, common, monotone, or a format of strftime is expected".into()),
        })
    }
}

impl Word for Matcher {
    fn read(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| format!("no expression: {error}"))
    }
}

impl Word for GroupName {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("no group name: {error}"))
    }
}

impl Word for Daemon {
    fn read(text: &str) -> Result<Self, String> {
        let address = text.parse().map_err(|error| format!("no daemon: {error}"))?;
        Ok(Self(text.into(), address))
    }
}

/// A value of a configuration file.
///
/// # Errors
/// What [`Word::read`] says, with the value.
pub fn one<'de, D: Deserializer<'de>, W: Word>(input: D) -> Result<Option<W>, D::Error> {
    let text = String::deserialize(input)?;
    W::read(&text).map(Some).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

/// A value, or a list of values.
///
/// # Errors
/// As [`one`].
pub fn many<'de, D: Deserializer<'de>, W: Word>(input: D) -> Result<Vec<W>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum OneOrMany {
        One(Text),
        Many(Vec<Text>),
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text")]
    enum Text {
        Text(String),
        // `keep = 90`
        Number(u64),
    }
    let values = match OneOrMany::deserialize(input)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    };
    let texts = values.into_iter().map(|value| match value {
        Text::Text(text) => text,
        Text::Number(number) => number.to_string(),
    });
    let read = |text: String| W::read(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")));
    texts.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units() {
        assert_eq!(Size::read("64M"), Ok(Size(64 << 20)));
        assert_eq!(Size::read("8192"), Ok(Size(8192)));
        for wrong in ["M", "1MM", "-1", "", "99999999999999999999", "99999999999G"] {
            Size::read(wrong).expect_err(wrong);
        }
        assert_eq!(Duration::read("200ms"), Ok(Duration::from_millis(200)));
        assert!(Duration::read("1").is_err() && Duration::read("s").is_err());
        assert_eq!(Fsync::read("never"), Ok(Fsync::Never));
        assert_eq!(Fsync::read("batch"), Ok(Fsync::Every(Duration::ZERO)));
        assert_eq!(Rewrite::read("[%Y]"), Ok(Rewrite::Format("[%Y]".into())));
        assert!(Rewrite::read("sometimes").is_err());
    }
}
