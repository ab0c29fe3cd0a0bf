//! Dated snapshots of the catalogue: whole tables of items, one a day in Hive partitions `dt=`, of which a night reads one.
//!
//! Nobody can tell at what time of its day a snapshot was taken. So one counts for nights that end after its whole day: what
//! it says was known then. All snapshots are listed; only those that a night reads are opened. Knows files and their days;
//! knows nothing of what is in them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, NaiveDate, Utc};

use crate::error::{Error, Kind, Result};
use crate::table::contract::Contract;
use crate::table::input::{InputTable, open_listed};
use crate::table::labels::Label;
use crate::table::listing::{ListedFile, ListedInput};

/// The value of `[input] item_snapshot` under which the items are dated snapshots.
pub(super) const LATEST: &str = "latest";

/// The day of the snapshot that a file is part of.
fn day_of(file: &ListedFile) -> Option<NaiveDate> {
    let (_, day) = file.partition.iter().find(|(name, _)| name == "dt")?;
    parse_day(day.as_deref()?)
}

/// A day as folders have it; `None` for anything else.
pub(super) fn parse_day(day: &str) -> Option<NaiveDate> {
    ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|form| NaiveDate::parse_from_str(day, form).ok())
}

/// The snapshots of a job's items, listed; each one is opened when it is asked for.
pub(super) struct Snapshots {
    contract: Contract,
    labels: Vec<Label>,
    listed: ListedInput,
    /// Those that were opened, by their days: nights beside each other often read the same one.
    opened: Mutex<BTreeMap<NaiveDate, InputTable>>,
}

impl Snapshots {
    /// Snapshots of a contract's rows, with columns that become attributes.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the first file that is part of no snapshot.
    pub(super) fn new(contract: &Contract, labels: &[Label], listed: ListedInput) -> Result<Snapshots> {
        demand_days(&listed)?;
        let (contract, labels) = (contract.clone(), labels.to_vec());
        Ok(Snapshots { contract, labels, listed, opened: Mutex::default() })
    }

    /// Opens the latest snapshot, and no other: of those whose whole day lies before `end`, or of all. An input without files
    /// where there is none.
    ///
    /// # Errors
    /// What its files say: as [`open_labelled`](crate::table::input::open_labelled).
    pub(super) async fn open(&self, end: Option<DateTime<Utc>>) -> Result<InputTable> {
        let mut chosen = self.listed.clone();
        let day = keep_latest(&mut chosen, end);
        if let Some(found) = day.and_then(|day| self.opened().get(&day).cloned()) {
            return Ok(found);
        }
        let input = open_listed(&self.contract, chosen, &self.labels).await?;
        if let Some(day) = day {
            self.opened().insert(day, input.clone());
        }
        Ok(input)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<NaiveDate, InputTable>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses an input with files that are part of no snapshot: they would count for every night or for none.
///
/// # Errors
/// [`Kind::Config`] naming the first of them.
fn demand_days(input: &ListedInput) -> Result<()> {
    match input.files.iter().find(|file| day_of(file).is_none()) {
        None => Ok(()),
        Some(file) => Err(Error::new(
            Kind::Config,
            "a file of the items is part of no dated snapshot, as item_snapshot says",
        )
        .with("file", &file.entry.location)
        .with("key", "input.item_snapshot")
        .hint(
            "put each snapshot into a folder dt=YYYY-MM-DD; COPY items TO 'items' (FORMAT parquet, PARTITION_BY (dt)) \
                     in DuckDB does it by a column dt",
        )),
    }
}

/// Leaves the files of the latest snapshot, of those whose whole day lies before `end` or of all, and tells its day. There may
/// be none.
fn keep_latest(input: &mut ListedInput, end: Option<DateTime<Utc>>) -> Option<NaiveDate> {
    let counts = |day: &NaiveDate| end.is_none_or(|end| *day < end.date_naive());
    let latest = input.files.iter().filter_map(day_of).filter(counts).max();
    input.files.retain(|file| latest.is_some() && day_of(file) == latest);
    latest
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
    use crate::table::store::{Entry, Location};

    fn input(days: &[&str]) -> ListedInput {
        let location = Location::parse("memory://snapshots/items").unwrap();
        let file = |day: &&str| ListedFile {
            entry: Entry {
                location: location.child(&format!("dt={day}/part.parquet")),
                size: 1,
                last_modified: DateTime::UNIX_EPOCH,
                e_tag: None,
            },
            partition: vec![("dt".to_owned(), (!day.is_empty()).then(|| (*day).to_owned()))],
        };
        ListedInput { files: days.iter().map(file).collect(), location: location.clone(), warnings: Vec::new() }
    }

    fn kept(days: &[&str], end: Option<&str>) -> Vec<String> {
        let mut input = input(days);
        let end = end.map(|end| parse_day(end).unwrap().and_time(chrono::NaiveTime::MIN).and_utc());
        let day = keep_latest(&mut input, end);
        assert_eq!(day.is_some(), !input.files.is_empty());
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
