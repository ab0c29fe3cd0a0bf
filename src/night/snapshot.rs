//! Dated snapshots of the catalogue: whole tables of items, one a day in Hive partitions `dt=`, of which a night reads one.
//!
//! Nobody can tell at what time of its day a snapshot was taken. So one counts for nights that end after its whole day: what
//! it says was known then. Knows files and their days; knows nothing of what is in them.

use chrono::{DateTime, NaiveDate, Utc};

use crate::error::{Error, Kind, Result};
use crate::table::input::{InputFile, InputTable};

/// The value of `[input] item_snapshot` under which the items are dated snapshots.
pub(super) const LATEST: &str = "latest";

/// The day of the snapshot that a file is part of.
fn day_of(file: &InputFile) -> Option<NaiveDate> {
    let (_, day) = file.partition.iter().find(|(name, _)| name == "dt")?;
    parse_day(day.as_deref()?)
}

/// A day as folders have it; `None` for anything else.
pub(super) fn parse_day(day: &str) -> Option<NaiveDate> {
    ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|form| NaiveDate::parse_from_str(day, form).ok())
}

/// Refuses an input with files that are part of no snapshot: they would count for every night or for none.
///
/// # Errors
/// [`Kind::Config`] naming the first of them.
pub(super) fn demand_days(input: &InputTable) -> Result<()> {
    match input.files.iter().find(|file| day_of(file).is_none()) {
        None => Ok(()),
        Some(file) => Err(Error::new(
            Kind::Config,
            "a file of the items is part of no dated snapshot, as item_snapshot says",
        )
        .with("file", &file.location)
        .with("key", "input.item_snapshot")
        .hint(
            "put each snapshot into a folder dt=YYYY-MM-DD; COPY items TO 'items' (FORMAT parquet, PARTITION_BY (dt)) \
                     in DuckDB does it by a column dt",
        )),
    }
}

/// Leaves the files of the latest snapshot: of those whose whole day lies before `end`, or of all. There may be none.
pub(super) fn keep_latest(input: &mut InputTable, end: Option<DateTime<Utc>>) {
    let counts = |day: &NaiveDate| end.is_none_or(|end| *day < end.date_naive());
    let latest = input.files.iter().filter_map(day_of).filter(counts).max();
    input.files.retain(|file| latest.is_some() && day_of(file) == latest);
}

/// The error for a night before the first snapshot.
pub(super) fn too_early(input: &InputTable, end: DateTime<Utc>) -> Error {
    Error::new(Kind::Input, "every snapshot of the items is of a day after the interval")
        .with("file", &input.location)
        .with("interval ends", end.to_rfc3339())
        .with("key", "input.item_snapshot")
        .hint("add a snapshot of the interval's last day or of one before it")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table::store::Location;
    use std::collections::BTreeMap;

    fn input(days: &[&str]) -> InputTable {
        let location = Location::parse("memory://snapshots/items").unwrap();
        let file = |day: &&str| InputFile {
            location: location.child(&format!("dt={day}/part.parquet")),
            rows: 1,
            bytes: 1,
            digest: String::new(),
            first_event: None,
            partition: vec![("dt".to_owned(), (!day.is_empty()).then(|| (*day).to_owned()))],
        };
        InputTable {
            table: "item".to_owned(),
            files: days.iter().map(file).collect(),
            location: location.clone(),
            columns: Vec::new(),
            hive_columns: vec!["dt".to_owned()],
            fields: BTreeMap::new(),
            labels: Vec::new(),
            max_bad_fraction: 0.0,
            warnings: Vec::new(),
        }
    }

    fn kept(days: &[&str], end: Option<&str>) -> Vec<String> {
        let mut input = input(days);
        let end = end.map(|end| parse_day(end).unwrap().and_time(chrono::NaiveTime::MIN).and_utc());
        keep_latest(&mut input, end);
        input.files.iter().map(|file| file.partition[0].1.clone().unwrap()).collect()
    }

    #[test]
    fn the_latest_snapshot_that_cannot_know_what_came_later_counts() {
        let days = ["2026-01-10", "2026-01-20", "2026-01-20", "20260121"];
        assert_eq!(kept(&days, None), ["20260121"]);
        // Midnight is the end of the day before: a snapshot of the 21st may have been taken at any time of the 21st.
        assert_eq!(kept(&days, Some("2026-01-22")), ["20260121"]);
        assert_eq!(kept(&days, Some("2026-01-21")), ["2026-01-20", "2026-01-20"]);
        assert_eq!(kept(&days, Some("2026-01-20")), ["2026-01-10"]);
        assert_eq!(kept(&days, Some("2026-01-10")), [""; 0]);
    }

    #[test]
    fn a_file_without_a_day_is_refused() {
        assert!(demand_days(&input(&["2026-01-10", "20260111"])).is_ok());
        for day in ["", "latest", "2026-13-01"] {
            let error = demand_days(&input(&["2026-01-10", day])).unwrap_err();
            assert!(error.kind() == Kind::Config && error.to_string().contains(&format!("dt={day}/")), "{error}");
        }
    }
}
