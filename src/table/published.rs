//! What a table has published: the commit records of all its days, read side by side, with its data files.
//!
//! One listing of the table's folder finds the records and the sizes of the data files alike, so that nobody has to ask
//! the store for either again. Knows nothing of how a day is published.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::table::commit::{CommitRecord, RECORD, commit_record};
use crate::table::store::{Entry, Location};

/// Commit records read at once: most of the time goes by in waiting for the store.
const RECORDS_AT_ONCE: usize = 64;

/// One published partition.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its commit record.
    pub record: CommitRecord,
    /// The data files that the record lists, in its order, as the table's listing shows them; `None` for one that is not in the
    /// listing, because it is missing or was published after it.
    pub entries: Vec<Option<Entry>>,
}

/// All published partitions of a table, by date. Empty where there is none.
///
/// # Errors
/// As [`commit_record`].
pub async fn published(root: &Location, table: &str) -> Result<Vec<Published>> {
    let folder = root.child(table);
    let mut days: Vec<String> = Vec::new();
    let mut there: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in folder.list().await? {
        let Some(relative) = entry.location.relative_to(&folder) else { continue };
        match relative.split_once('/') {
            Some((day, RECORD)) => days.extend(day.strip_prefix("dt=").map(str::to_owned)),
            _ => _ = there.insert(relative, entry),
        }
    }
    let read = |dt: String| async move { commit_record(root, table, &dt).await };
    let records: Vec<Option<CommitRecord>> =
        stream::iter(days).map(read).buffered(RECORDS_AT_ONCE).try_collect().await?;
    let with_files = |record: CommitRecord| {
        let entry = |name: &str| there.get(&format!("dt={}/{name}", record.dt)).cloned();
        let entries = record.files.iter().map(|file| entry(&file.name)).collect();
        Published { record, entries }
    };
    Ok(records.into_iter().flatten().map(with_files).collect())
}

/// The commit records of all partitions of a table, by date. Empty where there is none.
///
/// # Errors
/// As [`commit_record`].
pub async fn partitions(root: &Location, table: &str) -> Result<Vec<CommitRecord>> {
    Ok(published(root, table).await?.into_iter().map(|day| day.record).collect())
}
