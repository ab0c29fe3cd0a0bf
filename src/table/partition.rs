//! Publishing: stage, (audit), publish; the commit record, the lease that fences it, append-only segments, `gc`.
//!
//! A partition `<root>/<table>/dt=YYYY-MM-DD/` is what its commit record `_commit.json` lists, nothing else. Publishing
//! copies staged files to names that carry their content's hash, switches the record with one compare-and-swap, then removes
//! what the record no longer lists. Dying anywhere leaves the old or the new partition, plus files that nobody lists
//! (`gc` removes them; so does the next publish). **What a plain reader can see**: one that lists files instead of reading the record
//! sees old and new files together between the first copy and the last removal.
//!
//! Bytes of data files depend on the rows, the contract and the stamp only: no wall clock, no host, no batch
//! boundaries. Knows nothing of SQL; audits are run by the caller on what was staged.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::{Stream, StreamExt};
use object_store::buffered::BufWriter;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::arrow::async_writer::{AsyncArrowWriter, AsyncFileWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::error::{Context, Error, Kind, Result};
use crate::table::check::{Checker, KeyHasher, conform, key_text};
use crate::table::contract::{ColumnType, Contract};
use crate::table::store::{Entry, Location, Version, fail};

/// Rows handed to the Parquet writer at a time, whatever batches came in: part of the format, since page and row group
/// borders follow from it.
const CHUNK_ROWS: usize = 8192;
/// The commit record's name inside a partition.
const RECORD: &str = "_commit.json";
/// The format of commit records and leases that this code writes and reads.
const FORMAT: u32 = 1;

/// What a table was made from; stands in the files' footers and in the commit record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Digest over everything that the rows depend on.
    pub fingerprint: String,
    /// What went into the fingerprint, by name, so that a plan can say what changed.
    pub parts: BTreeMap<String, String>,
    /// The build's logical time: microseconds since 1970, UTC. Never the wall clock.
    pub created_timestamp: i64,
}

/// A staged data file.
#[derive(Debug, Clone)]
pub struct StagedFile {
    /// Where it lies now.
    pub location: Location,
    /// Its content-hashed name once published.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// blake3 of its bytes, 64 hex digits.
    pub blake3: String,
}

/// A table's partition, written under `_staging/<run id>/` and not yet visible.
#[derive(Debug, Clone)]
pub struct StagedTable {
    /// The table.
    pub table: String,
    /// The version of its contract.
    pub contract_version: String,
    /// The partition's date, `YYYY-MM-DD`.
    pub dt: String,
    /// The folder that holds the staged files and nothing else; absent when there are no rows.
    pub location: Location,
    /// The files in row order; empty when there are no rows.
    pub files: Vec<StagedFile>,
    /// Rows of all files.
    pub rows: u64,
    /// The files' schema; without rows a vector column has width 0.
    pub schema: SchemaRef,
    /// What it was made from.
    pub stamp: Stamp,
}

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

    /// Reads a record; any bytes give a record or an error.
    fn parse(bytes: &[u8], at: &Location) -> Result<Self> {
        let broken = |why: String| {
            Error::new(Kind::Input, format!("the commit record is damaged: {why}"))
                .with("file", at)
                .hint("remove it and run the interval again; its data files are then orphans that 'curec gc' removes")
        };
        check_format(bytes, at)?;
        let record: CommitRecord = serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?;
        for file in &record.files {
            let plain =
                file.name.ends_with(".parquet") && !file.name.contains(['/', '\\']) && !file.name.starts_with('.');
            if !plain {
                return Err(broken(format!("{:?} is no data file's name", file.name)));
            }
        }
        Ok(record)
    }
}

/// Refuses what a newer curec wrote before its fields are looked at.
fn check_format(bytes: &[u8], at: &Location) -> Result<()> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, format!("the commit record or lease is damaged: {e}"))
            .with("file", at)
            .hint("remove it and run the interval again")
    })?;
    if head.format == FORMAT {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("format {} is unknown to this curec, which knows {FORMAT}", head.format))
        .with("file", at)
        .hint("use the curec that wrote it, or a newer one"))
}

/// Stages and publishes the partitions of one run.
#[derive(Debug, Clone)]
pub struct Publisher {
    root: Location,
    run_id: String,
}

impl Publisher {
    /// A publisher for the warehouse at `root`.
    pub fn new(root: Location, run_id: impl Into<String>) -> Self {
        Publisher { root, run_id: run_id.into() }
    }

    /// The folder that holds everything this run has staged.
    pub fn staging(&self) -> Location {
        self.root.child("_staging").child(&self.run_id)
    }

    /// Writes rows under `_staging/<run id>/<table>/dt=.../` and holds every one against the contract: types, nulls, ranges,
    /// order, and the grain where it is what the rows are sorted by. Whatever this run had staged there before is replaced.
    ///
    /// # Errors
    /// The stream's own; `Kind::Audit` for rows that break the contract; `Kind::Internal` for wrong columns or order;
    /// the store's.
    pub async fn stage(
        &self,
        contract: &Contract,
        dt: &str,
        stamp: &Stamp,
        rows: impl Stream<Item = Result<RecordBatch>>,
    ) -> Result<StagedTable> {
        check_dt(dt)?;
        let location = self.staging().child(&contract.name).child(&format!("dt={dt}"));
        remove_folder(&location).await?;
        let mut writer = TableWriter::new(contract, location.clone(), stamp);
        let mut rows = std::pin::pin!(rows);
        let mut checker = Checker::new(contract, format!("{} dt={dt}", contract.name));
        let mut order = OrderCheck::new(contract)?;
        let outcome: Result<()> = async {
            while let Some(batch) = rows.next().await {
                let batch = conform(contract, &batch?, &mut checker)?;
                order.check(&batch)?;
                writer.push(batch).await?;
            }
            writer.finish().await
        }
        .await;
        if let Err(error) = outcome {
            writer.abort().await;
            return Err(error);
        }
        Ok(StagedTable {
            table: contract.name.clone(),
            contract_version: contract.version.clone(),
            dt: dt.to_owned(),
            location,
            rows: writer.files.iter().map(|f| f.rows).sum(),
            schema: writer.schema.clone().unwrap_or_else(|| contract.arrow_schema(None)),
            files: writer.files,
            stamp: stamp.clone(),
        })
    }

    /// Makes a staged partition the published one: copies, switches the commit record, removes what is no longer listed. An
    /// empty staged table clears the partition. Publishing what is published already changes nothing.
    ///
    /// # Errors
    /// `Kind::Busy` when the lease has been lost or another publisher came first; the store's.
    pub async fn publish(&self, lease: &Lease, staged: StagedTable) -> Result<CommitRecord> {
        let folder = partition(&self.root, &staged.table, &staged.dt)?;
        let at = folder.child(RECORD);
        lease.check().await?;
        let seen = at.get_versioned().await?;
        let old = match &seen {
            Some((bytes, _)) => Some(CommitRecord::parse(bytes, &at)?),
            None => None,
        };
        let fenced = || {
            Error::new(Kind::Busy, "another run has published this partition since; this one may not any more")
                .with("table", &staged.table)
                .with("dt", &staged.dt)
        };
        if old.as_ref().is_some_and(|r| r.lease_epoch > lease.epoch) {
            return Err(fenced());
        }
        let before = folder.list().await?;
        let files: Vec<CommittedFile> = staged
            .files
            .iter()
            .map(|f| CommittedFile { name: f.name.clone(), rows: f.rows, bytes: f.bytes, blake3: f.blake3.clone() })
            .collect();
        for file in &staged.files {
            let target = folder.child(&file.name);
            let there = before.iter().any(|e| e.location == target && e.size == file.bytes);
            if !there {
                file.location.copy_to(&target).await?;
            }
        }
        let mut record = CommitRecord {
            format: FORMAT,
            table: staged.table.clone(),
            contract_version: staged.contract_version,
            dt: staged.dt.clone(),
            files,
            fingerprint: staged.stamp.fingerprint,
            parts: staged.stamp.parts,
            created_timestamp: staged.stamp.created_timestamp,
            run_id: self.run_id.clone(),
            lease_epoch: lease.epoch,
        };
        let same = old.as_ref().is_some_and(|old| {
            record.files == old.files
                && record.fingerprint == old.fingerprint
                && record.parts == old.parts
                && record.contract_version == old.contract_version
        });
        if same {
            record = old.unwrap_or(record);
        } else {
            let mut json = serde_json::to_vec_pretty(&record).context(Kind::Internal, || "commit record".into())?;
            json.push(b'\n');
            lease.check().await?;
            if !at.put_if(seen.as_ref().map(|(_, version)| version), Bytes::from(json)).await? {
                return Err(fenced());
            }
        }
        // A run that took over since may have listed files of ours or of before: only the record's owner may remove.
        let ours = commit_record(&self.root, &staged.table, &staged.dt).await?.is_some_and(|now| now == record);
        if ours {
            remove_unlisted(&before, &record, &folder).await?;
        }
        remove_folder(&staged.location).await?;
        self.remove_empty_folders(&staged.table).await;
        Ok(record)
    }

    /// Folders are a matter of local disks only; one that is not empty stays.
    async fn remove_empty_folders(&self, table: &str) {
        for folder in [self.staging().child(table), self.staging(), self.root.child("_staging")] {
            if let Some(path) = folder.local_path() {
                let _ = tokio::fs::remove_dir(path).await;
            }
        }
    }

    /// Removes everything that this run has staged.
    ///
    /// # Errors
    /// The store's.
    pub async fn abort(&self) -> Result<()> {
        remove_folder(&self.staging()).await
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

fn check_dt(dt: &str) -> Result<()> {
    let date = chrono::NaiveDate::parse_from_str(dt, "%Y-%m-%d").ok();
    match date {
        Some(date) if date.format("%Y-%m-%d").to_string() == dt => Ok(()),
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

/// The commit records of all partitions of a table, by date. Empty where there is none.
///
/// # Errors
/// As [`commit_record`].
pub async fn partitions(root: &Location, table: &str) -> Result<Vec<CommitRecord>> {
    let mut records = Vec::new();
    for entry in root.child(table).list().await? {
        let relative = entry.location.relative_to(&root.child(table)).unwrap_or_default();
        let Some((folder, RECORD)) = relative.split_once('/') else { continue };
        let Some(dt) = folder.strip_prefix("dt=") else { continue };
        records.extend(commit_record(root, table, dt).await?);
    }
    Ok(records)
}

async fn remove_unlisted(before: &[Entry], record: &CommitRecord, folder: &Location) -> Result<usize> {
    let listed: BTreeSet<&str> = record.files.iter().map(|f| f.name.as_str()).collect();
    let mut removed = 0;
    for entry in before {
        let name = entry.location.relative_to(folder).unwrap_or_default();
        if name.ends_with(".parquet") && !name.starts_with('_') && !listed.contains(name.as_str()) {
            entry.location.delete().await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a folder and all in it; on local disk also what the store's listing hides, such as torn uploads.
async fn remove_folder(folder: &Location) -> Result<()> {
    for entry in folder.list().await? {
        entry.location.delete().await?;
    }
    if let Some(path) = folder.local_path() {
        match tokio::fs::remove_dir_all(&path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(Kind::Temporary, "cannot remove a folder").with("file", folder).source(e));
            }
            _ => {}
        }
    }
    Ok(())
}

// --------------------------------------------------------------------------------------------------------- writing

/// Checks that rows come in the contract's order and, where that order is the grain, that no key stands twice.
struct OrderCheck<'a> {
    contract: &'a Contract,
    keys: Option<KeyHasher>,
    unique: bool,
    last: Option<Vec<u8>>,
    rows: u64,
}

impl<'a> OrderCheck<'a> {
    fn new(contract: &'a Contract) -> Result<Self> {
        let sorted: BTreeSet<&String> = contract.sorted_by.iter().collect();
        let unique = !contract.grain.is_empty() && contract.grain.iter().collect::<BTreeSet<_>>() == sorted;
        let keys = match contract.sorted_by.is_empty() {
            true => None,
            false => Some(KeyHasher::over(contract, &contract.sorted_by)?),
        };
        Ok(OrderCheck { contract, keys, unique, last: None, rows: 0 })
    }

    fn check(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        let rows = keys.rows(batch)?;
        for (i, row) in rows.iter().enumerate() {
            let order = self.last.as_deref().map_or(Ordering::Less, |last| last.cmp(row.as_ref()));
            let problem = match order {
                Ordering::Less => None,
                Ordering::Equal if self.unique => Some((Kind::Audit, "the same key stands twice")),
                Ordering::Equal => None,
                Ordering::Greater => Some((Kind::Internal, "the rows are not in the contract's order")),
            };
            if let Some((kind, message)) = problem {
                return Err(Error::new(kind, message)
                    .with("table", &self.contract.name)
                    .with("column", self.contract.sorted_by.join(", "))
                    .with("row", self.rows + i as u64)
                    .with("key", key_text(self.contract, batch, i).unwrap_or_default()));
            }
            match &mut self.last {
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(row.as_ref());
                }
                None => self.last = Some(row.as_ref().to_vec()),
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

/// Cuts a stream of batches into the same chunks of [`CHUNK_ROWS`], however it was cut before.
#[derive(Default)]
struct Chunks {
    waiting: VecDeque<RecordBatch>,
    rows: usize,
}

impl Chunks {
    fn push(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.rows += batch.num_rows();
            self.waiting.push_back(batch);
        }
    }

    /// The next full chunk; with `rest` also the last, shorter one.
    fn pop(&mut self, rest: bool) -> Result<Option<RecordBatch>> {
        let wanted = if rest { self.rows.min(CHUNK_ROWS) } else { CHUNK_ROWS };
        if wanted == 0 || self.rows < wanted {
            return Ok(None);
        }
        let (mut parts, mut missing) = (Vec::new(), wanted);
        while missing > 0 {
            let Some(batch) = self.waiting.pop_front() else { break };
            if batch.num_rows() > missing {
                self.waiting.push_front(batch.slice(missing, batch.num_rows() - missing));
                parts.push(batch.slice(0, missing));
                missing = 0;
            } else {
                missing -= batch.num_rows();
                parts.push(batch);
            }
        }
        self.rows -= wanted;
        let Some(first) = parts.first() else { return Ok(None) };
        let schema = first.schema();
        concat_batches(&schema, &parts).context(Kind::Internal, || "cannot join batches".into()).map(Some)
    }
}

/// Passes bytes on to the store and hashes them on the way.
struct HashingWriter {
    inner: BufWriter,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        self.hasher.update(&bytes);
        self.bytes += bytes.len() as u64;
        async move { self.inner.put(bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { self.inner.shutdown().await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }
}

struct OpenFile {
    location: Location,
    rows: u64,
    writer: AsyncArrowWriter<HashingWriter>,
}

/// Writes a table's rows into one or more Parquet files.
struct TableWriter<'a> {
    contract: &'a Contract,
    folder: Location,
    stamp: &'a Stamp,
    schema: Option<SchemaRef>,
    chunks: Chunks,
    open: Option<OpenFile>,
    files: Vec<StagedFile>,
}

impl<'a> TableWriter<'a> {
    fn new(contract: &'a Contract, folder: Location, stamp: &'a Stamp) -> Self {
        TableWriter { contract, folder, stamp, schema: None, chunks: Chunks::default(), open: None, files: Vec::new() }
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        match &self.schema {
            None => self.schema = Some(batch.schema()),
            Some(schema) if *schema == batch.schema() => {}
            Some(schema) => {
                let message = format!("the vector width changes within a table: {schema}, then {}", batch.schema());
                return Err(Error::new(Kind::Internal, message).with("table", &self.contract.name));
            }
        }
        self.chunks.push(batch);
        while let Some(chunk) = self.chunks.pop(false)? {
            self.write(chunk).await?;
        }
        Ok(())
    }

    async fn write(&mut self, chunk: RecordBatch) -> Result<()> {
        if self.open.is_none() {
            let location = self.folder.child(&format!("part-{:05}.parquet", self.files.len()));
            let inner = BufWriter::new(location.store(), location.path().clone());
            let sink = HashingWriter { inner, hasher: blake3::Hasher::new(), bytes: 0 };
            let properties = writer_properties(self.contract, &chunk.schema(), Some(self.stamp))?;
            let options = ArrowWriterOptions::new().with_properties(properties);
            let writer = AsyncArrowWriter::try_new_with_options(sink, chunk.schema(), options)
                .map_err(|e| unwritable(&e, &location))?;
            self.open = Some(OpenFile { location, rows: 0, writer });
        }
        let Some(file) = &mut self.open else { return Ok(()) };
        file.rows += chunk.num_rows() as u64;
        file.writer.write(&chunk).await.map_err(|e| unwritable(&e, &file.location))?;
        if file.writer.bytes_written() + file.writer.in_progress_size() >= self.contract.writer.file_bytes {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut file) = self.open.take() else { return Ok(()) };
        file.writer.finish().await.map_err(|e| unwritable(&e, &file.location))?;
        let sink = file.writer.into_inner();
        let blake3 = sink.hasher.finalize().to_hex().to_string();
        let name = format!("part-{:05}-{}.parquet", self.files.len(), &blake3[..16]);
        self.files.push(StagedFile { location: file.location, name, rows: file.rows, bytes: sink.bytes, blake3 });
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        while let Some(chunk) = self.chunks.pop(true)? {
            self.write(chunk).await?;
        }
        self.close().await
    }

    /// Gives up; nothing of the table stays.
    async fn abort(&mut self) {
        if let Some(file) = self.open.take() {
            // What cannot be cancelled lies under `_staging`, where `gc` finds it.
            let _ = file.writer.into_inner().inner.abort().await;
        }
        let _ = remove_folder(&self.folder).await;
    }
}

fn unwritable(error: &ParquetError, at: &Location) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(store) = cause.downcast_ref::<object_store::Error>() {
            return fail(store, "write", at);
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Error::new(Kind::Temporary, "could not write").with("file", at).source(io.to_string());
        }
        next = cause.source();
    }
    Error::new(Kind::Internal, "cannot encode Parquet").with("file", at).source(error.to_string())
}

/// How a contract's files are encoded, with the footer that names what they are.
pub(crate) fn writer_properties(
    contract: &Contract,
    schema: &SchemaRef,
    stamp: Option<&Stamp>,
) -> Result<WriterProperties> {
    let wanted = &contract.writer;
    let compression = match wanted.zstd_level() {
        Ok(Some(0)) => Compression::UNCOMPRESSED,
        Ok(Some(level)) => {
            Compression::ZSTD(ZstdLevel::try_new(level).context(Kind::Config, || "compression level".into())?)
        }
        _ => Compression::SNAPPY,
    };
    let parquet = ArrowSchemaConverter::new()
        .convert(schema)
        .context(Kind::Internal, || format!("Parquet schema of table {}", contract.name))?;
    let mut footer = vec![
        ("curec.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("curec.table", contract.name.clone()),
        ("curec.contract_version", contract.version.clone()),
        ("curec.grain", contract.grain.join(",")),
    ];
    if let Some(stamp) = stamp {
        footer.push(("curec.fingerprint", stamp.fingerprint.clone()));
        footer.push(("curec.created_timestamp", stamp.created_timestamp.to_string()));
    }
    let mut sorting = Vec::new();
    for name in &contract.sorted_by {
        let leaf = parquet.columns().iter().position(|c| c.path().string() == *name);
        let index = leaf.and_then(|i| i32::try_from(i).ok());
        sorting.extend(index.map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false }));
    }
    let mut builder = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_bytes(Some(wanted.row_group_bytes))
        .set_sorting_columns((!sorting.is_empty()).then_some(sorting));
    for leaf in parquet.columns() {
        let root = leaf.path().parts().first().cloned().unwrap_or_default();
        let vector = contract.column(&root).is_some_and(|c| c.column_type == ColumnType::Vector);
        let named = |list: &[String]| vector || list.contains(&root);
        let path = leaf.path().clone();
        if named(&wanted.no_dictionary) || named(&wanted.byte_stream_split) {
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
        }
        if named(&wanted.byte_stream_split) {
            builder = builder.set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT);
        }
        if named(&wanted.no_statistics) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        if wanted.bloom_filter.contains(&root) {
            builder = builder.set_column_bloom_filter_enabled(path, true);
        }
    }
    for field in schema.fields() {
        if let DataType::FixedSizeList(_, width) = field.data_type() {
            footer.push(("curec.vector_width", width.to_string()));
        }
    }
    let footer = footer.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
    Ok(builder.set_key_value_metadata(Some(footer)).build())
}

// -------------------------------------------------------------------------------------------------------- segments

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
    if batch.num_rows() == 0 {
        return Ok(None);
    }
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
    root.child(&contract.name).child(&name).put(Bytes::from(bytes)).await?;
    Ok(Some(Segment { name, rows, bytes: size }))
}

/// The segments of a store table, by name. Empty where there is none.
///
/// # Errors
/// The store's.
pub async fn segments(root: &Location, table: &str) -> Result<Vec<Entry>> {
    let entries = root.child(table).list().await?;
    let is_segment = |e: &Entry| e.location.name().starts_with("seg-") && e.location.name().ends_with(".parquet");
    Ok(entries.into_iter().filter(is_segment).collect())
}

// ----------------------------------------------------------------------------------------------------------- lease

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// The run.
    pub run_id: String,
    /// What tells this very process from every other of the same kernel: boot, process namespace, start time. Empty
    /// where the system does not say.
    #[serde(default)]
    pub process: String,
}

impl Holder {
    /// This process.
    pub fn here(run_id: impl Into<String>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let pid = std::process::id();
        let started = start_time(pid).unwrap_or_default();
        let process = kernel().map(|kernel| format!("{kernel}/{started}")).unwrap_or_default();
        Holder { host: read("/proc/sys/kernel/hostname"), pid, run_id: run_id.into(), process }
    }

    /// Whether the holder is certainly gone: it ran under this very kernel and process namespace, and its process is no more.
    fn is_dead(&self) -> bool {
        let Some((place, started)) = self.process.rsplit_once('/') else { return false };
        kernel().is_some_and(|here| here == place) && start_time(self.pid).is_none_or(|now| now != started)
    }
}

/// Boot id and process namespace.
fn kernel() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

/// When a process of this host started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses: count from the last one.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseState {
    format: u32,
    holder: Holder,
    epoch: u64,
    /// Milliseconds since 1970 by the holder's clock.
    expires: u64,
    released: bool,
}

/// The right to publish one job's interval, held by one run at a time.
///
/// Clocks of hosts that share a warehouse may differ by less than the time to live. A holder that was paused beyond it can be
/// overtaken; it then fails every [`Lease::check`], and the compare-and-swap of the commit record stops it even between check and commit.
#[derive(Debug)]
pub struct Lease {
    at: Location,
    holder: Holder,
    /// Grows with every new holder; what fences an old one.
    pub epoch: u64,
    ttl: Duration,
    version: tokio::sync::Mutex<Version>,
}

impl Lease {
    /// Takes the lease `<root>/_leases/<name>.json`, where `name` is `<job>.<start>.<end>`. A lease that has been released, has
    /// expired, or whose process is certainly dead is taken over.
    ///
    /// # Errors
    /// `Kind::Busy` naming the holder; the store's.
    pub async fn acquire(root: &Location, name: &str, holder: Holder, ttl: Duration) -> Result<Lease> {
        let safe: String =
            name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let at = root.child("_leases").child(&format!("{safe}.json"));
        let seen = at.get_versioned().await?;
        let before = match &seen {
            Some((bytes, _)) => Some(read_lease(bytes, &at)?),
            None => None,
        };
        if let Some(state) = &before
            && is_live(state)
        {
            return Err(busy(&state.holder, state.expires, &at));
        }
        // From the clock, so that it grows even where someone removed the lease's file.
        let epoch = before.map_or(0, |s| s.epoch + 1).max(now_ms());
        let state = LeaseState { format: FORMAT, holder, epoch, expires: now_ms() + millis(ttl), released: false };
        if !at.put_if(seen.as_ref().map(|(_, v)| v), lease_bytes(&state)?).await? {
            let now = at.get().await?.map(|bytes| read_lease(&bytes, &at)).transpose()?;
            return Err(now.map_or_else(|| lost(&at), |s| busy(&s.holder, s.expires, &at)));
        }
        let (bytes, version) = at.get_versioned().await?.ok_or_else(|| lost(&at))?;
        let now = read_lease(&bytes, &at)?;
        if now.epoch != epoch || now.holder != state.holder {
            return Err(busy(&now.holder, now.expires, &at));
        }
        Ok(Lease { at, holder: state.holder, epoch, ttl, version: tokio::sync::Mutex::new(version) })
    }

    /// Who holds it: this run.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// How long it lasts after every renewal; renew at a third of it.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes it last for another time to live.
    ///
    /// # Errors
    /// `Kind::Busy` when another run has taken it; the store's.
    pub async fn renew(&self) -> Result<()> {
        self.write(false).await
    }

    /// Gives it back; the next run need not wait.
    ///
    /// # Errors
    /// `Kind::Busy` when another run has taken it; the store's.
    pub async fn release(&self) -> Result<()> {
        self.write(true).await
    }

    async fn write(&self, released: bool) -> Result<()> {
        let mut version = self.version.lock().await;
        let state = LeaseState {
            format: FORMAT,
            holder: self.holder.clone(),
            epoch: self.epoch,
            expires: now_ms() + millis(self.ttl),
            released,
        };
        if !self.at.put_if(Some(&version), lease_bytes(&state)?).await? {
            return Err(self.taken().await);
        }
        let (bytes, now) = self.at.get_versioned().await?.ok_or_else(|| lost(&self.at))?;
        if read_lease(&bytes, &self.at)?.epoch != self.epoch {
            return Err(self.taken().await);
        }
        *version = now;
        Ok(())
    }

    /// Makes sure that this run still holds it.
    ///
    /// # Errors
    /// `Kind::Busy` when it has expired or another run has taken it; the store's.
    pub async fn check(&self) -> Result<()> {
        let Some(bytes) = self.at.get().await? else { return Err(lost(&self.at)) };
        let state = read_lease(&bytes, &self.at)?;
        let ours = state.epoch == self.epoch && state.holder == self.holder && !state.released;
        if !ours {
            return Err(self.taken().await);
        }
        if state.expires <= now_ms() {
            return Err(Error::new(Kind::Busy, "the lease has expired before this run could publish")
                .with("lease", &self.at)
                .hint("run it again; finished responses are kept"));
        }
        Ok(())
    }

    async fn taken(&self) -> Error {
        match self.at.get().await {
            Ok(Some(bytes)) => match read_lease(&bytes, &self.at) {
                Ok(state) if state.epoch != self.epoch => busy(&state.holder, state.expires, &self.at),
                _ => lost(&self.at),
            },
            _ => lost(&self.at),
        }
    }
}

fn is_live(state: &LeaseState) -> bool {
    !state.released && state.expires > now_ms() && !state.holder.is_dead()
}

fn read_lease(bytes: &[u8], at: &Location) -> Result<LeaseState> {
    check_format(bytes, at)?;
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(Kind::Input, format!("the lease is damaged: {e}")).with("file", at).hint("remove it and run again")
    })
}

fn lease_bytes(state: &LeaseState) -> Result<Bytes> {
    let mut json = serde_json::to_vec_pretty(state).context(Kind::Internal, || "lease".into())?;
    json.push(b'\n');
    Ok(Bytes::from(json))
}

fn busy(holder: &Holder, expires: u64, at: &Location) -> Error {
    let seconds = expires.saturating_sub(now_ms()).div_ceil(1000);
    let who = format!("run {} (process {} on {})", holder.run_id, holder.pid, holder.host);
    Error::new(Kind::Busy, format!("{who} is working on this interval"))
        .with("lease", at)
        .hint(format!("wait for it, or if it died run again when its lease has expired, in {seconds} s"))
}

fn lost(at: &Location) -> Error {
    Error::new(Kind::Busy, "this run has lost its lease").with("lease", at).hint("run it again")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// -------------------------------------------------------------------------------------------------------------- gc

/// What `gc` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Staged files of runs that are no more.
    pub staged_files: usize,
    /// Data files that no commit record lists.
    pub orphans: usize,
    /// Bytes freed.
    pub bytes: u64,
    /// Runs that hold a lease; while there are any, data files stay.
    pub live_runs: Vec<String>,
}

/// Removes what dead runs left: their staged files, and data files that no commit record lists.
///
/// # Errors
/// The store's; a damaged commit record stops it before anything of that partition is removed.
pub async fn gc(root: &Location) -> Result<GcReport> {
    let mut report = GcReport { live_runs: live_runs(root).await?, ..GcReport::default() };
    let staging = root.child("_staging");
    let mut dead: BTreeSet<String> = BTreeSet::new();
    for entry in staging.list().await? {
        let relative = entry.location.relative_to(&staging).unwrap_or_default();
        let run = relative.split('/').next().unwrap_or_default().to_owned();
        if !report.live_runs.contains(&run) {
            entry.location.delete().await?;
            report.staged_files += 1;
            report.bytes += entry.size;
            dead.insert(run);
        }
    }
    for run in dead {
        remove_folder(&staging.child(&run)).await?;
    }
    if !report.live_runs.is_empty() {
        return Ok(report);
    }
    let mut folders: BTreeMap<(String, String), Vec<Entry>> = BTreeMap::new();
    for entry in root.list().await? {
        let relative = entry.location.relative_to(root).unwrap_or_default();
        let parts: Vec<&str> = relative.split('/').collect();
        if let [table, dt, name] = parts[..]
            && let Some(dt) = dt.strip_prefix("dt=")
            && !table.starts_with(['_', '.'])
            && name.starts_with("part-")
        {
            folders.entry((table.to_owned(), dt.to_owned())).or_default().push(entry);
        }
    }
    for ((table, dt), entries) in folders {
        if check_dt(&dt).is_err() {
            continue;
        }
        let record = commit_record(root, &table, &dt).await?;
        let listed: BTreeSet<String> =
            record.map(|r| r.files.into_iter().map(|f| f.name).collect()).unwrap_or_default();
        for entry in entries {
            if listed.contains(entry.location.name()) {
                continue;
            }
            // A run may have begun since: its copied files are not yet listed.
            if !live_runs(root).await?.is_empty() {
                return Ok(report);
            }
            entry.location.delete().await?;
            report.orphans += 1;
            report.bytes += entry.size;
        }
    }
    Ok(report)
}

async fn live_runs(root: &Location) -> Result<Vec<String>> {
    let mut runs = Vec::new();
    for entry in root.child("_leases").list().await? {
        let Some(bytes) = entry.location.get().await? else { continue };
        let state = read_lease(&bytes, &entry.location)?;
        if is_live(&state) {
            runs.push(state.holder.run_id);
        }
    }
    Ok(runs)
}
