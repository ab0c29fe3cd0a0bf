//! Commit records: what each partition of a table consists of.
//!
//! Knows the layout `<root>/<table>/dt=YYYY-MM-DD/_commit.json` and reads it. Knows nothing of how a record is switched:
//! that is [`crate::table::partition`]'s.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::paths;
use crate::table::lease::check_format;
use crate::table::store::Location;

/// The commit record's name inside a partition.
pub(crate) const RECORD: &str = "_commit.json";

/// A data file as the commit record lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommittedFile {
    /// Its name inside the partition.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// blake3 of its bytes, 64 hex digits.
    pub blake3: String,
}

/// What a partition consists of: the content of `_commit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    /// Version of this record's own format.
    pub format: u32,
    /// The table.
    pub table: String,
    /// The version of its contract.
    pub contract_version: String,
    /// The partition's date, `YYYY-MM-DD`.
    pub dt: String,
    /// The data files in row order.
    pub files: Vec<CommittedFile>,
    /// Digest over everything that the rows depend on.
    pub fingerprint: String,
    /// What went into the fingerprint, by name.
    pub parts: BTreeMap<String, String>,
    /// The build's logical time: microseconds since 1970, UTC.
    pub created_timestamp: i64,
    /// The run that published it.
    pub run_id: String,
    /// The epoch of the lease under which it was published; a lower one can no longer replace it.
    pub lease_epoch: u64,
}

impl CommitRecord {
    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// The job that published it, by the id of its run; `None` where the id is of another form, as where `curec forget`
    /// of before rewrote the partition.
    pub fn job(&self) -> Option<&str> {
        let (rest, _pid) = self.run_id.rsplit_once('-')?;
        let (job, moment) = rest.rsplit_once('-')?;
        let is_moment = chrono::NaiveDateTime::parse_from_str(moment, "%Y%m%dT%H%M%S%3fZ").is_ok();
        (is_moment && job != "forget").then_some(job)
    }

    /// Reads a record; any bytes give a record or an error.
    pub(crate) fn parse(bytes: &[u8], at: &Location) -> Result<Self> {
        let broken = |why: String| {
            Error::new(Kind::Input, format!("the commit record is damaged: {why}"))
                .with("file", at)
                .hint("remove it and run the interval again; its data files are then orphans that 'curec gc' removes")
        };
        check_format(bytes, at)?;
        let record: CommitRecord = serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?;
        for file in &record.files {
            let is_data = file.name.ends_with(".parquet") && !file.name.starts_with('.');
            if !is_data || paths::plain(&file.name).is_err() {
                return Err(broken(format!("{:?} is no data file's name", file.name)));
            }
        }
        let mut rows = record.files.iter().map(|f| f.rows.max(f.bytes));
        if rows.try_fold(0_u64, u64::checked_add).is_none() {
            return Err(broken("its rows or bytes cannot be counted".into()));
        }
        Ok(record)
    }
}

/// The folder of a partition.
///
/// # Errors
/// `Kind::Usage` for a `dt` that is no date.
pub fn partition(root: &Location, table: &str, dt: &str) -> Result<Location> {
    check_dt(dt)?;
    Ok(root.child(table).child(&format!("dt={dt}")))
}

/// Refuses what is no date.
pub(crate) fn check_dt(dt: &str) -> Result<()> {
    let date = chrono::NaiveDate::parse_from_str(dt, "%Y-%m-%d").ok();
    match date {
        Some(date) if dt.len() == 10 && date.format("%Y-%m-%d").to_string() == dt => Ok(()),
        _ => Err(Error::new(Kind::Usage, format!("{dt:?} is no date of the form YYYY-MM-DD"))),
    }
}

/// The commit record of a partition; `None` where nothing was ever published.
///
/// # Errors
/// `Kind::Input` for a damaged record, `Kind::Config` for one of an unknown format; the store's.
pub async fn commit_record(root: &Location, table: &str, dt: &str) -> Result<Option<CommitRecord>> {
    let at = partition(root, table, dt)?.child(RECORD);
    let Some(bytes) = at.get().await? else { return Ok(None) };
    let record = CommitRecord::parse(&bytes, &at)?;
    if record.table != table || record.dt != dt {
        return Err(Error::new(Kind::Input, format!("the commit record is of {} dt={}", record.table, record.dt))
            .with("file", &at));
    }
    Ok(Some(record))
}

/// The names of the tables that have a commit record below a root, sorted.
///
/// # Errors
/// The store's.
pub async fn tables(root: &Location) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for entry in root.list().await? {
        let relative = entry.location.relative_to(root).unwrap_or_default();
        if let [table, partition, RECORD] = relative.split('/').collect::<Vec<_>>()[..]
            && partition.starts_with("dt=")
            && !table.starts_with('_')
        {
            found.insert(table.to_owned());
        }
    }
    Ok(found.into_iter().collect())
}
