//! The segments of a store table such as `response`: one appended, which of them count, many merged into few, rows taken out.
//!
//! A store table is all of its `seg-<hash>.parquet`, except those that a record `_replaced-<hash>.json` says other
//! segments stand for. Merging writes the merged segments, then the record; only a later [`remove_replaced`] takes the
//! old ones. Dying anywhere leaves every row readable: without the record the rows of old and merged segments stand
//! twice (readers take one answer a key), with it once. A record counts only while everything that it names as the
//! replacement is there, so that no record, whatever its bytes, can make a row disappear.
//!
//! Knows files and rows; which rows a merge keeps is the caller's affair.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Kind, Result};
use crate::table::check::{Checker, conform};
use crate::table::contract::Contract;
use crate::table::filter::{count_matching, rows_without};
use crate::table::input::open_input;
use crate::table::lease::{FORMAT, check_format};
use crate::table::store::{Entry, Location, remove_folder};
use crate::table::write::{Stamp, TableWriter, writer_properties};

/// Segments below this many bytes are small: worth merging.
pub const SMALL_BYTES: u64 = 16 << 20;
/// A merged segment ends at about this many bytes.
const MERGED_BYTES: usize = 64 << 20;

/// Which segments stand for which, in `<table>/_replaced-<hash>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replacement {
    /// Version of this record's own format.
    format: u32,
    /// Names of segments that do not count any more.
    replaced: Vec<String>,
    /// Names of the segments that hold their rows.
    by: Vec<String>,
}

impl Replacement {
    /// Whether following it could lose rows or leave the folder.
    fn is_sound(&self) -> bool {
        let plain = |name: &String| is_segment(name) && !name.contains(['/', '\\']);
        self.replaced.iter().chain(&self.by).all(plain)
            && !self.by.is_empty()
            && !self.by.iter().any(|name| self.replaced.contains(name))
    }
}

/// What lies in a store table's folder.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    /// Every segment that is there, by name.
    pub all: Vec<Entry>,
    /// Records that count.
    records: Vec<(Entry, Replacement)>,
}

impl Segments {
    /// Looks at a store table. Empty where there is none.
    ///
    /// # Errors
    /// `Kind::Config` for a record of a newer curec; the store's. A damaged record is told and does not count.
    pub async fn find(root: &Location, table: &str) -> Result<Segments> {
        let (mut all, mut records) = (Vec::new(), Vec::new());
        for entry in root.child(table).list().await? {
            let name = entry.location.name().to_owned();
            if is_segment(&name) {
                all.push(entry);
            } else if name.starts_with("_replaced-") && name.ends_with(".json") {
                let Some(bytes) = entry.location.get().await? else { continue };
                match check_format(&bytes, &entry.location) {
                    Err(newer) if newer.kind() == Kind::Config => return Err(newer),
                    _ => {}
                }
                match serde_json::from_slice::<Replacement>(&bytes) {
                    Ok(record) if record.is_sound() => records.push((entry, record)),
                    _ => tracing::warn!(file = %entry.location, "this record of merged segments is damaged; ignored"),
                }
            }
        }
        let there: BTreeSet<&str> = all.iter().map(|e| e.location.name()).collect();
        let gone: BTreeSet<String> = records.iter().flat_map(|(_, r)| r.replaced.clone()).collect();
        records.retain(|(_, r)| r.by.iter().all(|name| there.contains(name.as_str()) && !gone.contains(name)));
        Ok(Segments { all, records })
    }

    /// The segments that count.
    pub fn current(&self) -> Vec<Entry> {
        let replaced: BTreeSet<&String> = self.records.iter().flat_map(|(_, r)| &r.replaced).collect();
        self.all.iter().filter(|e| !replaced.contains(&e.location.name().to_owned())).cloned().collect()
    }

    /// Whether a record of a merge still stands.
    pub fn has_replaced(&self) -> bool {
        !self.records.is_empty()
    }

    /// Small segments that may be merged. A merged one must not be while its own record stands: records do not chain.
    pub fn small(&self) -> Vec<Entry> {
        let merged: BTreeSet<&String> = self.records.iter().flat_map(|(_, r)| &r.by).collect();
        let is_free = |e: &Entry| e.size < SMALL_BYTES && !merged.contains(&e.location.name().to_owned());
        self.current().into_iter().filter(is_free).collect()
    }
}

fn is_segment(name: &str) -> bool {
    name.starts_with("seg-") && name.ends_with(".parquet")
}

/// The segments of a store table that count, by name. Empty where there is none.
///
/// # Errors
/// As [`Segments::find`].
pub async fn segments(root: &Location, table: &str) -> Result<Vec<Entry>> {
    Ok(Segments::find(root, table).await?.current())
}

/// An append-only segment that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its content-hashed name inside the table's folder.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Appends rows to a store table such as `response` as one small file, `<root>/<table>/seg-<hash>.parquet`: all of it
/// or nothing. The same rows give the same segment. `None` for no rows.
///
/// # Errors
/// `Kind::Audit` for rows that break the contract; the store's.
pub async fn append_segment(root: &Location, contract: &Contract, batch: &RecordBatch) -> Result<Option<Segment>> {
    match Encoded::of(contract, batch)? {
        Some(encoded) => encoded.append(root, contract).await.map(Some),
        None => Ok(None),
    }
}

/// A segment that is not written yet.
#[derive(Debug)]
pub struct Encoded {
    /// What it will be.
    pub segment: Segment,
    bytes: Bytes,
}

impl Encoded {
    /// Rows as a segment; `None` for no rows.
    ///
    /// # Errors
    /// `Kind::Audit` for rows that break the contract.
    pub fn of(contract: &Contract, batch: &RecordBatch) -> Result<Option<Encoded>> {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        encode(contract, batch).map(Some)
    }

    /// Writes it, all of it or nothing.
    ///
    /// # Errors
    /// The store's.
    pub async fn append(self, root: &Location, contract: &Contract) -> Result<Segment> {
        root.child(&contract.name).child(&self.segment.name).put(self.bytes).await?;
        Ok(self.segment)
    }
}

fn encode(contract: &Contract, batch: &RecordBatch) -> Result<Encoded> {
    let mut checker = Checker::new(contract, &contract.name);
    let batch = conform(contract, batch, &mut checker)?;
    let encode = || -> Result<Vec<u8>, ParquetError> {
        let properties =
            writer_properties(contract, &batch.schema(), None).map_err(|e| ParquetError::General(e.to_string()))?;
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    let bytes = encode().context(Kind::Internal, || format!("cannot encode a segment of {}", contract.name))?;
    let name = format!("seg-{}.parquet", &blake3::hash(&bytes).to_hex().as_str()[..32]);
    let (rows, size) = (batch.num_rows() as u64, bytes.len() as u64);
    Ok(Encoded { segment: Segment { name, rows, bytes: size }, bytes: Bytes::from(bytes) })
}

/// Writes `rows` as segments and records that they stand for `old`. Whatever this staging folder held is removed.
/// Returns the names of the new segments.
///
/// # Errors
/// The stream's own; `Kind::Audit` for rows that break the contract; the store's. Nothing is lost by any of them.
pub async fn replace(
    root: &Location,
    contract: &Contract,
    staging: &Location,
    old: &[Entry],
    rows: impl Stream<Item = Result<RecordBatch>>,
) -> Result<Vec<String>> {
    let mut sorted = contract.clone();
    sorted.sorted_by = contract.grain.clone();
    sorted.writer.file_bytes = MERGED_BYTES;
    let by = write(root, &sorted, staging, rows).await?;
    let name = |e: &Entry| e.location.name().to_owned();
    // A merge that died before its record gives the same bytes again, and so the same names.
    let replaced: Vec<String> = old.iter().map(name).filter(|name| !by.contains(name)).collect();
    if by.is_empty() || replaced.is_empty() {
        return Ok(by);
    }
    let record = Replacement { format: FORMAT, replaced, by: by.clone() };
    let mut json = serde_json::to_vec_pretty(&record).context(Kind::Internal, || "merged segments".into())?;
    json.push(b'\n');
    let name = format!("_replaced-{}.json", &blake3::hash(&json).to_hex().as_str()[..32]);
    // One that is there already has this content: its name says so.
    root.child(&contract.name).child(&name).put_new(Bytes::from(json)).await?;
    Ok(by)
}

/// Writes rows as segments, in the order in which they come; returns their names.
async fn write(
    root: &Location,
    contract: &Contract,
    staging: &Location,
    rows: impl Stream<Item = Result<RecordBatch>>,
) -> Result<Vec<String>> {
    remove_folder(staging).await?;
    let stamp = Stamp::default();
    let mut writer = TableWriter::new(contract, staging.clone(), &stamp);
    let mut checker = Checker::new(contract, &contract.name);
    let mut rows = std::pin::pin!(rows);
    let outcome: Result<()> = async {
        while let Some(batch) = rows.next().await {
            writer.push(conform(contract, &batch?, &mut checker)?).await?;
        }
        writer.finish().await
    }
    .await;
    if let Err(error) = outcome {
        writer.abort().await;
        return Err(error);
    }
    let mut names = Vec::new();
    for file in &writer.files {
        let name = format!("seg-{}.parquet", &file.blake3[..32]);
        file.location.copy_to(&root.child(&contract.name).child(&name)).await?;
        names.push(name);
    }
    remove_folder(staging).await?;
    Ok(names)
}

/// Removes the segments that others stand for, with their records, where `may_remove` says so of the record. Returns
/// files and bytes that are gone.
///
/// # Errors
/// As [`Segments::find`].
pub async fn remove_replaced(
    root: &Location,
    table: &str,
    may_remove: impl Fn(&Entry) -> bool,
) -> Result<(usize, u64)> {
    let found = Segments::find(root, table).await?;
    let mut removed = (0, 0);
    for (entry, record) in found.records.iter().filter(|(entry, _)| may_remove(entry)) {
        for old in found.all.iter().filter(|e| record.replaced.iter().any(|name| name == e.location.name())) {
            old.location.delete().await?;
            removed = (removed.0 + 1, removed.1 + old.size);
        }
        // Last: without it, an old segment that is still there would count again.
        entry.location.delete().await?;
    }
    Ok(removed)
}

/// Takes the rows whose text in `column` is one of `values` out of every segment that is there, replaced or not; a
/// segment without such rows is not touched. Returns rows and segments that are gone. Nobody else may write meanwhile.
///
/// # Errors
/// `Kind::Input` for a damaged segment; the store's. Running it again completes it.
pub async fn remove_rows(
    root: &Location,
    contract: &Contract,
    staging: &Location,
    column: &str,
    values: &BTreeSet<String>,
) -> Result<(u64, usize)> {
    let mut removed = (0, 0);
    for entry in Segments::find(root, &contract.name).await?.all {
        let n = count_matching(&entry.location, entry.size, column, values).await?;
        if n == 0 {
            continue;
        }
        let table = [open_input(contract, &entry.location).await?];
        // The rest first: dying in between leaves it twice, and the next call sees to the old segment.
        write(root, contract, staging, rows_without(contract, &table, column, values)).await?;
        entry.location.delete().await?;
        removed = (removed.0 + n, removed.1 + 1);
    }
    Ok(removed)
}
