//! Time stamps: the fixed form of the common format, and the pieces of `%{...}t`.

/// A time of the common format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970 UTC.
    pub unix: i64,
    /// Seconds east of UTC, as written.
    pub utc_offset: i32,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Length of `10/Oct/2000:13:55:36 -0700`.
pub(crate) const CLF_LEN: usize = 26;

/// Parses `10/Oct/2000:13:55:36 -0700`, without brackets. Second 60 counts as the next second.
pub fn parse_clf_time(text: &[u8]) -> Option<Stamp> {
    let t: &[u8; CLF_LEN] = text.try_into().ok()?;
    let fixed =
        t[2] == b'/' && t[6] == b'/' && t[11] == b':' && t[14] == b':' && t[17] == b':' && t[20] == b' ';
    if !fixed {
        return None;
    }
    let parts = Parts {
        year: Some(digits(&t[7..11])?),
        month: month(&t[3..6]),
        day: Some(digits(&t[0..2])?),
        hour: digits(&t[12..14])?,
        minute: digits(&t[15..17])?,
        second: digits(&t[18..20])?,
        ..Parts::default()
    };
    let utc_offset = zone(&t[21..26])?;
    parts.month?;
    Some(Stamp { unix: parts.unix()? - i64::from(utc_offset), utc_offset })
}

/// Number of a month, 1 to 12, by its English short name.
pub(crate) fn month(name: &[u8]) -> Option<i64> {
    (1..).zip(MONTHS).find(|(_, known)| known.as_slice() == name).map(|(number, _)| number)
}

/// A number of digits only.
pub(crate) fn digits(text: &[u8]) -> Option<i64> {
    crate::scan::number(text).and_then(|n| i64::try_from(n).ok())
}

/// `+hhmm` in seconds; at most 14 hours.
pub(crate) fn zone(text: &[u8]) -> Option<i32> {
    let [sign @ (b'+' | b'-'), clock @ ..] = text else { return None };
    let clock: &[u8; 4] = clock.try_into().ok()?;
    let (hours, minutes) = (digits(&clock[..2])?, digits(&clock[2..])?);
    let seconds = hours * 3600 + minutes * 60;
    if minutes > 59 || seconds > 14 * 3600 {
        return None;
    }
    let seconds = i32::try_from(seconds).ok()?;
    Some(if *sign == b'-' { -seconds } else { seconds })
}

/// What the time directives of one line said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) year: Option<i64>,
    pub(crate) month: Option<i64>,
    pub(crate) day: Option<i64>,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) utc_offset: Option<i32>,
    /// Whole time stamps, by precision.
    pub(crate) sec: Option<i64>,
    pub(crate) msec: Option<i64>,
    pub(crate) usec: Option<i64>,
    /// Microseconds of the fraction.
    pub(crate) fraction: Option<i64>,
    /// Time of the end of the request, in microseconds; used only if nothing tells its start.
    pub(crate) end_usec: Option<i64>,
}

impl Parts {
    /// Local date and time as seconds since 1970, the offset not applied. `None` if there is no date or if it
    /// does not exist.
    pub(crate) fn unix(&self) -> Option<i64> {
        let (year, month, day) = (self.year?, self.month?, self.day?);
        let legal = (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && (0..=23).contains(&self.hour)
            && (0..=59).contains(&self.minute)
            && (0..=60).contains(&self.second);
        legal.then(|| days(year, month, day) * 86_400 + self.hour * 3600 + self.minute * 60 + self.second)
    }

    /// The best time of the record in microseconds since 1970. The start of the request goes before its end,
    /// the more precise before the less.
    pub(crate) fn micros(&self) -> Option<i64> {
        if self.usec.is_some() {
            return self.usec;
        }
        let date = || Some(self.unix()? - i64::from(self.utc_offset.unwrap_or(0)));
        let second = self.msec.map(|ms| ms.div_euclid(1000)).or(self.sec).or_else(date);
        match (second, self.fraction, self.msec) {
            (Some(second), Some(fraction), _) => second.checked_mul(1_000_000)?.checked_add(fraction),
            (Some(_), None, Some(msec)) => msec.checked_mul(1000),
            (Some(second), None, None) => second.checked_mul(1_000_000),
            (None, ..) => self.end_usec,
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date of the Gregorian calendar. The year begins in March here, so that the leap day
/// is its last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        let at = |text: &str| parse_clf_time(text.as_bytes());
        assert_eq!(at("29/Feb/2024:00:00:00 +0000").map(|s| s.unix), Some(1_709_164_800));
        assert_eq!(at("29/Feb/2023:00:00:00 +0000"), None);
        assert_eq!(at("01/Jan/1970:00:00:60 +0100").map(|s| s.unix), Some(60 - 3600));
        assert_eq!(at("01/Jan/1970:00:00:00 +1401"), None);
        assert_eq!(at("01/jan/1970:00:00:00 +0000"), None);
    }

    #[test]
    fn days_count_through_centuries() {
        let mut expected = days(1900, 1, 1);
        for year in 1900..2100 {
            for month in 1..=12 {
                assert_eq!(days(year, month, 1), expected, "{year}-{month}");
                expected += days_of(year, month);
            }
        }
        assert_eq!(days(1970, 1, 1), 0);
    }
}
