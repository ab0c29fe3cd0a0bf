//! Intervals of event time, half open, and moments as people write them.
//!
//! Knows dates; knows nothing of jobs or of what is made for an interval.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::error::{Error, Kind, Result};

/// The longest lookback, ten years.
pub const MAX_LOOKBACK_DAYS: u64 = 3660;

/// A half-open interval `[start, end)` of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// First moment that belongs to it.
    pub start: DateTime<Utc>,
    /// First moment after it.
    pub end: DateTime<Utc>,
}

impl Interval {
    /// Parses two ISO dates or date-times (UTC where no offset is given).
    pub fn parse(start: &str, end: &str) -> Result<Self> {
        let (start, end) = (parse_moment("--interval-start", start)?, parse_moment("--interval-end", end)?);
        if start >= end {
            return Err(Error::new(Kind::Usage, "the interval is empty: its start is not before its end")
                .with("interval-start", start.to_rfc3339())
                .with("interval-end", end.to_rfc3339())
                .hint("the end is exclusive: for the day 2026-11-21 pass 2026-11-21 and 2026-11-22"));
        }
        if [start, end].iter().any(|moment| moment.time() != chrono::NaiveTime::MIN) {
            return Err(Error::new(Kind::Usage, "the interval must begin and end at midnight UTC")
                .with("interval-start", start.to_rfc3339())
                .with("interval-end", end.to_rfc3339())
                .hint("partitions are days: two intervals within one day would replace each other"));
        }
        Ok(Interval { start, end })
    }

    /// The partition's date: the start's.
    pub fn dt(&self) -> String {
        self.start.format("%Y-%m-%d").to_string()
    }

    /// The intervals of the same length that lie, in part at least, in the `days` before this one; oldest first.
    pub fn lookback(&self, days: u64) -> Vec<Interval> {
        let length = self.end - self.start;
        let n = days.div_ceil(u64::try_from(length.num_days()).unwrap_or(1).max(1));
        let back = |k: i32| {
            let by = length.checked_mul(k)?;
            Some(Interval { start: self.start.checked_sub_signed(by)?, end: self.end.checked_sub_signed(by)? })
        };
        (1..=i32::try_from(n).unwrap_or(i32::MAX)).rev().filter_map(back).collect()
    }
}

/// Parses an ISO date or date-time, UTC where no offset is given; `flag` is what an error names.
///
/// # Errors
/// [`Kind::Usage`] for anything else.
pub fn parse_moment(flag: &'static str, text: &str) -> Result<DateTime<Utc>> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0));
    let naive = date
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok())
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok());
    if let Some(naive) = naive {
        return Ok(naive.and_utc());
    }
    DateTime::parse_from_rfc3339(text).map(|d| d.with_timezone(&Utc)).map_err(|e| {
        Error::new(Kind::Usage, format!("{flag} is not a date: `{text}`"))
            .hint("use 2026-11-21 or 2026-11-21T00:00:00Z")
            .source(e)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn intervals_are_days_and_look_back_by_their_own_length() {
        let i = Interval::parse("1998-04-20", "1998-04-21").unwrap();
        assert_eq!(i.dt(), "1998-04-20");
        assert_eq!(Interval::parse("1998-04-21", "1998-04-21").unwrap_err().kind(), Kind::Usage);
        let back = |i: Interval, days| i.lookback(days).iter().map(Interval::dt).collect::<Vec<_>>().join(" ");
        assert_eq!(back(i, 3), "1998-04-17 1998-04-18 1998-04-19");
        assert_eq!(back(i, 0), "");
        let week = Interval::parse("1998-04-20", "1998-04-27").unwrap();
        assert_eq!(back(week, 8), "1998-04-06 1998-04-13", "whole intervals of the same length");
        assert!(week.lookback(8).iter().all(|i| (i.end - i.start).num_days() == 7));
        assert!(Interval::parse("yesterday", "1998-04-21").is_err());
        assert!(Interval::parse("1998-04-20T12:00:00Z", "1998-04-21").unwrap_err().explain().contains("midnight"));
    }
}
