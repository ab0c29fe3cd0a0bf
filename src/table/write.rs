//! Rows to staged Parquet files as their contract says: order checked, encodings set, named by content.
//!
//! Knows contracts, Arrow and Parquet's writer. Knows nothing of partitions or of what becomes of the files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use object_store::buffered::BufWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::async_writer::{AsyncArrowWriter, AsyncFileWriter};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tokio::io::AsyncWriteExt;

use crate::destination::Destination;
use crate::error::{Context, Error, Kind, Result};
use crate::table::column_type::ColumnType;
use crate::table::contract::Contract;
use crate::table::finding::{Findings, Rule};
use crate::table::keys::{KeyHasher, key_text};
use crate::table::row_json::row_json;
use crate::table::store::{Location, remove_folder};
use crate::table::store_error::{FULL, fail, is_full};

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

/// Rows handed to the Parquet writer at a time, whatever batches came in: part of the format, since page and row group
/// borders follow from it.
const CHUNK_ROWS: usize = 8192;

/// Checks that rows come in the contract's order and, where that order is the grain, that no key stands twice.
pub(crate) struct OrderCheck<'a> {
    contract: &'a Contract,
    keys: Option<KeyHasher>,
    unique: bool,
    last: Option<Vec<u8>>,
    rows: u64,
}

impl<'a> OrderCheck<'a> {
    pub(crate) fn new(contract: &'a Contract) -> Result<Self> {
        let sorted: BTreeSet<&String> = contract.sorted_by.iter().collect();
        let unique = !contract.grain.is_empty() && contract.grain.iter().collect::<BTreeSet<_>>() == sorted;
        let keys = match contract.sorted_by.is_empty() {
            true => None,
            false => Some(KeyHasher::over(contract, &contract.sorted_by)?),
        };
        Ok(OrderCheck { contract, keys, unique, last: None, rows: 0 })
    }

    /// Notes the rows that are out of order or whose key stands before them already.
    pub(crate) fn find(&mut self, batch: &RecordBatch, findings: &mut Findings) -> Result<()> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        let rows = keys.rows(batch)?;
        for (i, row) in rows.iter().enumerate() {
            let order = self.last.as_deref().map_or(Ordering::Less, |last| last.cmp(row.as_ref()));
            let problem = match order {
                Ordering::Less => None,
                Ordering::Equal if self.unique => Some((Kind::Audit, Rule::Unique, "the same key stands twice")),
                Ordering::Equal => None,
                // The rows were sorted before they came here.
                Ordering::Greater => Some((Kind::Internal, Rule::Order, "the rows are not in the contract's order")),
            };
            if let Some((kind, rule, message)) = problem {
                let columns = self.contract.sorted_by.join(", ");
                let error = || {
                    Error::new(kind, message)
                        .with("table", &self.contract.name)
                        .with("column", &columns)
                        .with("row", self.rows + i as u64)
                        .with("key", key_text(self.contract, batch, i).unwrap_or_default())
                };
                findings.add(rule, &columns, || row_json(self.contract, batch, i, None), error);
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
pub(crate) struct HashingWriter {
    location: Location,
    inner: BufWriter,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl HashingWriter {
    /// A new object; it is there once the writer is completed.
    pub(crate) fn new(location: Location) -> Self {
        let inner = BufWriter::new(location.store(), location.path().clone());
        HashingWriter { location, inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    /// What was written, as the `number`th file of its table.
    pub(crate) fn staged(self, number: usize, rows: u64) -> StagedFile {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let name = format!("part-{number:05}-{}.parquet", &blake3[..16]);
        StagedFile { location: self.location, name, rows, bytes: self.bytes, blake3 }
    }

    /// Gives up what is not completed. What cannot be cancelled lies where it was staged.
    pub(crate) async fn abort(mut self) {
        let _ = self.inner.abort().await;
    }
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        self.hasher.update(&bytes);
        self.bytes += bytes.len() as u64;
        async move { self.inner.put(bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move {
            let Err(e) = self.inner.shutdown().await else { return Ok(()) };
            // An upload that was completed without an answer cannot be completed again. Before, there was nothing here.
            match self.location.head().await {
                Ok(Some(there)) if there.size == self.bytes => Ok(()),
                _ => Err(ParquetError::External(Box::new(e))),
            }
        }
        .boxed()
    }
}

struct OpenFile {
    location: Location,
    rows: u64,
    writer: AsyncArrowWriter<HashingWriter>,
}

/// Writes a table's rows into one or more Parquet files.
pub(crate) struct TableWriter<'a> {
    contract: &'a Contract,
    folder: Location,
    stamp: &'a Stamp,
    pub(crate) schema: Option<SchemaRef>,
    chunks: Chunks,
    open: Option<OpenFile>,
    pub(crate) files: Vec<StagedFile>,
}

impl<'a> TableWriter<'a> {
    pub(crate) fn new(contract: &'a Contract, folder: Location, stamp: &'a Stamp) -> Self {
        TableWriter { contract, folder, stamp, schema: None, chunks: Chunks::default(), open: None, files: Vec::new() }
    }

    pub(crate) async fn push(&mut self, batch: RecordBatch) -> Result<()> {
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
            let sink = HashingWriter::new(location.clone());
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
        self.files.push(file.writer.into_inner().staged(self.files.len(), file.rows));
        Ok(())
    }

    pub(crate) async fn finish(&mut self) -> Result<()> {
        while let Some(chunk) = self.chunks.pop(true)? {
            self.write(chunk).await?;
        }
        self.close().await
    }

    /// Gives up; nothing of the table stays.
    pub(crate) async fn abort(&mut self) {
        if let Some(file) = self.open.take() {
            // What cannot be cancelled lies under `_staging`, where `gc` finds it.
            file.writer.into_inner().abort().await;
        }
        let _ = remove_folder(&self.folder).await;
    }
}

/// The error for a file that could not be written: the store's, the disk's or the encoder's.
pub(crate) fn unwritable(error: &ParquetError, at: &Location) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(store) = cause.downcast_ref::<object_store::Error>() {
            return fail(store, "write", at);
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            // The buffered writer wraps the store's error in an I/O error, which leaves it out of its sources.
            if let Some(store) = io.get_ref().and_then(|e| e.downcast_ref::<object_store::Error>()) {
                return fail(store, "write", at);
            }
            let error = Error::new(Kind::Temporary, "could not write").with("file", at).source(io.to_string());
            return if is_full(io.kind()) { error.hint(FULL) } else { error };
        }
        next = cause.source();
    }
    Error::new(Kind::Internal, "cannot encode Parquet").with("file", at).source(error.to_string())
}

/// Writes batches of one schema to a Parquet file on this machine, whole or not at all.
///
/// # Errors
/// `Kind::Internal` without a batch; `Kind::Config` for batches that differ and where writing fails; as
/// [`Destination::find`].
pub(crate) fn write_local(path: &std::path::Path, batches: &[RecordBatch]) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(Kind::Config, "cannot write a Parquet file").with("file", path.display()).source(e)
    };
    let schema = batches.first().ok_or_else(|| Error::new(Kind::Internal, "there are no rows to write"))?.schema();
    let mut out = Destination::find(path)?.open()?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let write = || -> std::result::Result<(), ParquetError> {
        let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties))?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
        writer.close().map(|_| ())
    };
    write().map_err(|e| failed(std::io::Error::other(e)))?;
    out.finish()
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
        let kind = contract.column(&root).map(|c| &c.column_type);
        let vector = matches!(kind, Some(ColumnType::Vector | ColumnType::FixedVector(_)));
        let named = |list: &[String]| vector || list.contains(&root);
        let path = leaf.path().clone();
        // Not for every vector: Spark's own reader knows no byte streams.
        let is_split = wanted.byte_stream_split.contains(&root);
        if named(&wanted.no_dictionary) || is_split {
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
        }
        if is_split {
            builder = builder.set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT);
        }
        if named(&wanted.no_statistics) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        if wanted.bloom_filter.contains(&root) {
            builder = builder.set_column_bloom_filter_enabled(path, true);
        }
    }
    let is_fixed =
        |name: &str| contract.column(name).is_some_and(|c| matches!(c.column_type, ColumnType::FixedVector(_)));
    for field in schema.fields().iter().filter(|field| !is_fixed(field.name())) {
        if let DataType::FixedSizeList(_, width) = field.data_type() {
            footer.push(("curec.vector_width", width.to_string()));
        }
    }
    let footer = footer.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
    Ok(builder.set_key_value_metadata(Some(footer)).build())
}
