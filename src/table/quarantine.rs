//! The quarantine: which rows failed which audit in which run, as the table `quarantine`.
//!
//! One Parquet file for each table of a run that had findings, `<root>/_quarantine/<run id>/<table>.parquet`, written
//! once and never changed: a later good run does not erase it, `curec gc` removes it by its age. The leading underscore
//! keeps it out of what readers of the warehouse take for published tables. Knows nothing of how rows are found.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::errors::ParquetError;

use crate::error::{Context, Kind, Result};
use crate::table::check::{Checker, conform};
use crate::table::contract::Contract;
use crate::table::finding::Finding;
use crate::table::store::{Entry, Location, remove_folder};
use crate::table::write::writer_properties;

/// Where it lies in a warehouse.
const FOLDER: &str = "_quarantine";

/// Whose findings they are.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The partition's date.
    pub dt: &'a str,
    /// The table.
    pub table: &'a str,
}

/// Writes findings; returns where they stand. Their order is the order of the rows.
///
/// # Errors
/// The store's.
pub async fn record(root: &Location, contract: &Contract, of: Origin<'_>, found: &[Finding]) -> Result<Location> {
    let batch = rows(of, found).context(Kind::Internal, || "rows of the quarantine".into())?;
    let batch = conform(contract, &batch, &mut Checker::new(contract, &contract.name))?;
    let properties = writer_properties(contract, &batch.schema(), None)?;
    let encode = || -> Result<Vec<u8>, ParquetError> {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    let bytes = encode().context(Kind::Internal, || "cannot encode the quarantine".into())?;
    let at = root.child(FOLDER).child(of.run_id).child(&format!("{}.parquet", of.table));
    at.put(Bytes::from(bytes)).await?;
    Ok(at)
}

fn rows(of: Origin<'_>, found: &[Finding]) -> Result<RecordBatch, arrow::error::ArrowError> {
    // An audit that is about no single row still has its line.
    let lines: Vec<(&Finding, i64, Option<&str>)> = found
        .iter()
        .flat_map(|finding| {
            let none = finding.rows.is_empty().then_some((finding, 0, None));
            let some = finding.rows.iter().zip(1..).map(move |(row, place)| (finding, place, Some(row.as_str())));
            none.into_iter().chain(some)
        })
        .collect();
    let text = |value: fn(&Finding) -> &str| {
        Arc::new(StringArray::from_iter_values(lines.iter().map(|(f, ..)| value(f)))) as ArrayRef
    };
    let same = |value: &str| Arc::new(StringArray::from(vec![value; lines.len()])) as ArrayRef;
    let failing = lines.iter().map(|(f, ..)| i64::try_from(f.failing).unwrap_or(i64::MAX));
    RecordBatch::try_from_iter([
        ("run_id", same(of.run_id)),
        ("dt", same(of.dt)),
        ("table_name", same(of.table)),
        ("audit", text(|f| &f.audit)),
        ("severity", text(|f| f.severity.name())),
        ("description", text(|f| &f.description)),
        ("n_failing", Arc::new(Int64Array::from_iter_values(failing))),
        ("place", Arc::new(Int64Array::from_iter_values(lines.iter().map(|(_, place, _)| *place)))),
        ("failing_row", Arc::new(StringArray::from_iter(lines.iter().map(|(.., row)| *row)))),
    ])
}

/// The quarantine's files, by path. Empty where nothing ever failed.
///
/// # Errors
/// The store's.
pub async fn files(root: &Location) -> Result<Vec<Entry>> {
    let folder = root.child(FOLDER);
    let is_ours = |entry: &Entry| {
        let path = entry.location.relative_to(&folder).unwrap_or_default();
        path.ends_with(".parquet") && path.matches('/').count() == 1
    };
    Ok(folder.list().await?.into_iter().filter(is_ours).collect())
}

/// Removes everything in the quarantine that was written before a moment; returns files and bytes.
///
/// # Errors
/// The store's.
pub async fn clean(root: &Location, before: DateTime<Utc>) -> Result<(usize, u64)> {
    let folder = root.child(FOLDER);
    let (old, kept): (Vec<_>, Vec<_>) = folder.list().await?.into_iter().partition(|e| e.last_modified < before);
    let run_of = |entry: &Entry| {
        let path = entry.location.relative_to(&folder).unwrap_or_default();
        path.split('/').next().unwrap_or_default().to_owned()
    };
    for entry in &old {
        entry.location.delete().await?;
        // Folders are a matter of local disks only.
        if entry.location.local_path().is_some() && !kept.iter().any(|k| run_of(k) == run_of(entry)) {
            remove_folder(&folder.child(&run_of(entry))).await?;
        }
    }
    Ok((old.len(), old.iter().map(|e| e.size).sum()))
}
