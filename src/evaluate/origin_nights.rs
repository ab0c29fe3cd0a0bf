//! Which nights make the texts of an origin, and remake them in its test part.
//!
//! Knows a log's cut; knows nothing of jobs or of what a night does.

use chrono::{DateTime, Days, NaiveTime, Utc};

use crate::config::Interval;
use crate::error::{Error, Kind, Result};
use crate::recommend::split::{Part, Split};

/// The night that ends with the last midnight (UTC) at or before an origin, then at most `refreshes` more: the test part is cut into
/// so many blocks of about as many events, and each begins with a night that ends at the last midnight at or before its first
/// event. A night begins where the one before it ends; there are fewer where two would end together.
///
/// # Errors
/// `Kind::Input` where the cut or an event lies outside the calendar.
pub(crate) fn nights(split: &Split, refreshes: usize) -> Result<Vec<Interval>> {
    let end = midnight(split.valid_from())?;
    let mut found = vec![day_before(end)?];
    let (test, mut before) = (split.events(Part::Test), end);
    for block in 0..refreshes {
        let Some(event) = test.get(block * test.len() / refreshes) else { continue };
        let end = midnight(event.timestamp)?;
        if end > before {
            found.push(Interval { start: before, end });
            before = end;
        }
    }
    Ok(found)
}

/// The night as of whose end texts are judged at an origin: the last midnight (UTC) at or before this share of the training events,
/// counted from `end`, which is that of the origin's own night. None where that share is 0, or nothing lies before it.
///
/// # Errors
/// As [`nights`].
pub(crate) fn judged(split: &Split, end: DateTime<Utc>, share: f64) -> Result<Option<Interval>> {
    let known = split.train().partition_point(|event| event.timestamp < end.timestamp_micros());
    let first = (known as f64 * (1.0 - share)).floor() as usize;
    let Some(event) = split.train().get(first).filter(|_| first < known) else { return Ok(None) };
    let from = midnight(event.timestamp)?;
    let is_known = split.train().first().is_some_and(|event| event.timestamp < from.timestamp_micros());
    if is_known && from < end { day_before(from).map(Some) } else { Ok(None) }
}

fn outside(micros: i64) -> Error {
    Error::new(Kind::Input, "the split's cut lies outside the calendar").with("microseconds", micros)
}

fn midnight(micros: i64) -> Result<DateTime<Utc>> {
    let day = DateTime::<Utc>::from_timestamp_micros(micros).map(|t| t.with_time(NaiveTime::MIN));
    day.and_then(|day| day.single()).ok_or_else(|| outside(micros))
}

/// The day that ends at a midnight.
fn day_before(end: DateTime<Utc>) -> Result<Interval> {
    let start = end.checked_sub_days(Days::new(1)).ok_or_else(|| outside(end.timestamp_micros()))?;
    Ok(Interval { start, end })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recommend::data::{Event, Log};
    use crate::recommend::split::temporal;

    #[test]
    fn nights_end_at_midnight_and_none_knows_what_it_is_asked() {
        const HOUR: i64 = 3_600_000_000;
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        // An event every six hours for twenty days.
        let event = |n: u32| Event { user: n % 4, item: n % 5, rating: None, timestamp: i64::from(n) * 6 * HOUR };
        let log = Log::new(ids(4), ids(5), (0..80).map(event).collect()).unwrap();
        let split = temporal(&log, 0.5, 0.8).unwrap();
        let found = nights(&split, 4).unwrap();
        assert!(found[0].end.timestamp_micros() <= split.valid_from(), "the first knows no event of validation");
        assert!(split.valid_from() - found[0].end.timestamp_micros() < 24 * HOUR);
        assert!(found.iter().all(|night| night.end.timestamp_micros() % (24 * HOUR) == 0));
        assert!(found.windows(2).all(|two| two[0].end == two[1].start), "no day is left out");
        assert_eq!(found.len(), 5, "four refreshes over {} days of tests", split.events(Part::Test).len() / 4);
        assert_eq!(nights(&split, 0).unwrap(), found[..1]);
        // More refreshes than days: two that would end together are one.
        let days = nights(&split, 1000).unwrap();
        assert!(days.windows(2).all(|two| two[0].end < two[1].end) && days.len() < 15, "{}", days.len());
    }

    #[test]
    fn an_origin_is_judged_by_training_events_before_its_night() {
        const HOUR: i64 = 3_600_000_000;
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<Vec<String>>();
        let event = |n: u32| Event { user: n % 4, item: n % 5, rating: None, timestamp: i64::from(n) * 6 * HOUR };
        let log = Log::new(ids(4), ids(5), (0..80).map(event).collect()).unwrap();
        let split = temporal(&log, 0.5, 0.8).unwrap();
        let end = nights(&split, 4).unwrap()[0].end;
        assert_eq!(end.timestamp_micros(), 8 * 24 * HOUR, "32 events of training, four a day");
        let of = |share: f64| judged(&split, end, share).unwrap();
        // The last quarter begins with the seventh day.
        let quarter = of(0.25).unwrap();
        assert_eq!([quarter.start, quarter.end].map(|at| at.timestamp_micros()), [5 * 24 * HOUR, 6 * 24 * HOUR]);
        // A midnight before the first event that judges, so that a little more than the share does.
        assert_eq!(of(0.2), of(0.25));
        assert!(of(0.0).is_none() && of(1.0).is_none(), "nothing that judges, and nothing before it");
    }
}
