//! Timestamps as data sets write them: numbers of some unit, or texts.
//!
//! Knows time formats only.

use crate::epoch::EpochUnit;

/// What a timestamp column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamps {
    /// Numbers of a unit since 1970, UTC; of seconds fractions are allowed.
    Counted(EpochUnit),
    /// Text such as `2026-11-21T10:00:00Z`, `2026-11-21 10:00:00` (UTC), `2026-11-21 12:00:00.000+02`, `2026-11-21 10:00:00 UTC`
    /// or `2026-11-21`.
    Text,
}

/// Microseconds since 1970 of a text; a time without a zone is UTC.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let date = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let (time, east) = match rest.rfind(['+', '-']) {
        Some(at) => (&rest[..at], offset_seconds(&rest[at..])?),
        None => (["Z", "z", "UTC", "GMT"].iter().find_map(|zone| rest.strip_suffix(zone)).unwrap_or(rest), 0),
    };
    // ISO 8601 allows a comma before the fraction, and loggers write it.
    let time = time.trim_end().replace(',', ".");
    let time = ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| chrono::NaiveTime::parse_from_str(&time, form).ok())?;
    date.and_time(time).and_utc().timestamp_micros().checked_sub(east * 1_000_000)
}

/// Seconds east of Greenwich of `+02:00`, `+0200` or `+02`.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at_checked(1)?;
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let minutes = if minutes.is_empty() { 0 } else { minutes.parse::<i64>().ok()? };
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes * 60;
    (minutes < 60 && seconds <= 15 * 3600).then_some(if sign == "-" { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times_of_many_kinds() {
        for text in [
            "1998-04-20",
            "1998-04-20T00:00:00Z",
            "1998-04-20 00:00:00",
            "1998-04-20T02:00:00+02:00",
            "1998-04-20 00:00",
            "1998-04-20 00:00:00 UTC",
            "1998-04-20 02:00:00.0+02",
            "1998-04-19T20:30:00-0330",
            "1998-04-20t00:00:00z",
            "1998-04-20 00:00:00,000",
            "1998-04-20 00:00:00.0000000 +00:00",
        ] {
            assert_eq!(parse_time(text), Some(893_030_400_000_000), "{text}");
        }
        for text in
            ["yesterday", "1998-04-20 00:00:00 CET", "1998-04-20 00:00:00+2", "1998-04-20 00:00:00+02:75", "1998-13-01"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
