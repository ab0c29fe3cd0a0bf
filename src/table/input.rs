//! Inputs: one Parquet file, a folder, or Hive partitions, owned by others and held against a contract before use.
//!
//! Knows Parquet files on a store. Knows nothing of SQL or of what the rows are for.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{BoxFuture, FutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::{ProjectionMask, async_reader::ParquetRecordBatchStream};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};

use crate::error::{Context, Error, Kind, Result};
use crate::table::bad_rows::{BadRows, LeftOut, kinds};
use crate::table::check::{
    Checker, KeyHasher, accepts, cast_column, finish_batch, hash_of, judge_column, key_text, strict,
};
use crate::table::contract::{Column, ColumnType, Contract};
use crate::table::footer::wild_count;
use crate::table::store::{Entry, Location, fail, missing};

/// Rows per batch when files are read for checking.
const BATCH_ROWS: usize = 8192;
/// Read from the end of a file at first: most footers are shorter.
const FOOTER_BYTES: u64 = 64 << 10;
/// Key hashes held at once while looking for duplicates: 256 MiB.
const KEY_HASHES: usize = 32 << 20;

/// One file of an input.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Where it is.
    pub location: Location,
    /// Rows, from its footer.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// What its content is known by: blake3 for local files, the store's tag elsewhere.
    pub digest: String,
    /// The earliest `event_timestamp` by the footer's statistics, microseconds since 1970 UTC; `None` where they do not
    /// say.
    pub first_event: Option<i64>,
    /// Values of the Hive partition columns in its path.
    pub partition: Vec<(String, String)>,
}

/// How a contract's column is found in the files.
#[derive(Debug, Clone)]
pub struct InputColumn {
    /// Its name in the contract.
    pub name: String,
    /// The contract's Arrow type.
    pub target: DataType,
    /// The files' column that carries it; `None`: read as null.
    pub source: Option<String>,
    /// That column's physical Arrow type.
    pub source_type: Option<DataType>,
    /// Whether the files hold its moments in nanoseconds, which are cut to microseconds.
    pub is_cut: bool,
}

/// An input that fits its contract as far as footers tell.
#[derive(Debug, Clone)]
pub struct InputTable {
    /// The contract's name.
    pub table: String,
    /// What the job named: a file or a folder.
    pub location: Location,
    /// Its files in the order of their paths.
    pub files: Vec<InputFile>,
    /// The physical schema of the files, restricted to the columns that the contract reads.
    pub schema: SchemaRef,
    /// Where each column of the contract comes from.
    pub columns: Vec<InputColumn>,
    /// Names of Hive partition columns in the paths, in order.
    pub hive_columns: Vec<String>,
    /// The share of rows that may break the contract and are then left out wherever the input is read; with 0 none may.
    pub max_bad_fraction: f64,
}

impl InputTable {
    /// The same input, of which up to a share of rows may break the contract.
    pub fn allowing(self, max_bad_fraction: f64) -> Self {
        InputTable { max_bad_fraction, ..self }
    }

    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// One digest over the contents of all files and their places below the input's location: 32 hex digits.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            let place = file.location.relative_to(&self.location).unwrap_or_default();
            hasher.update(format!("{}:{place}:{}\n", place.len(), file.digest).as_bytes());
        }
        hasher.finalize().to_hex().as_str()[..32].to_owned()
    }
}

/// What a full look at an input found.
#[derive(Debug, Clone, Default)]
pub struct InputReport {
    /// Rows, those that are left out included.
    pub rows: u64,
    /// Rows that break the contract and are left out.
    pub left_out: LeftOut,
    /// Nulls by column of the contract, in rows that are not left out.
    pub nulls: BTreeMap<String, u64>,
    /// The first and last `event_timestamp`, microseconds since 1970 UTC, where the contract has that column.
    pub time_range: Option<(i64, i64)>,
    /// What is allowed but worth knowing, one sentence each.
    pub warnings: Vec<String>,
}

impl InputReport {
    /// Items without a title.
    pub fn null_titles(&self) -> u64 {
        self.nulls.get("title").copied().unwrap_or(0)
    }
}

/// Reads one object for the Parquet reader.
#[derive(Debug)]
pub struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    size: u64,
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { Ok(self.store.get_range(&self.path, range).await?) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { Ok(self.store.get_ranges(&self.path, &ranges).await?) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let (size, short) = (self.size, || ParquetError::EOF("the file is shorter than its footer".into()));
            if size < 8 {
                return Err(short());
            }
            let tail = self.get_bytes(size.saturating_sub(FOOTER_BYTES)..size).await?;
            let footer = FooterTail::try_new(tail.last_chunk().ok_or_else(short)?)?;
            if footer.is_encrypted_footer() {
                return Err(ParquetError::General("the footer is encrypted".into()));
            }
            let length = footer.metadata_length() as u64 + 8;
            let start = size.checked_sub(length).ok_or_else(short)?;
            let bytes = match tail.len().checked_sub(length as usize) {
                Some(at) => tail.slice(at..),
                None => self.get_bytes(start..size).await?,
            };
            let bytes = bytes.slice(..bytes.len() - 8);
            if let Some(what) = wild_count(&bytes) {
                return Err(ParquetError::General(what));
            }
            let options = options.map(|o| o.metadata_options());
            Ok(Arc::new(ParquetMetaDataReader::decode_metadata_with_options(&bytes, options)?))
        }
        .boxed()
    }
}

/// Opens a Parquet file of `size` bytes by its footer. Moments of the old type INT96 are read as microseconds: as
/// nanoseconds those before 1677 and after 2262 would come out as others.
///
/// # Errors
/// `Kind::Input` naming the file where it is missing, truncated or not Parquet; the store's own errors.
pub async fn open_parquet(at: &Location, size: u64) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>> {
    let reader = ObjectReader { store: at.store(), path: at.path().clone(), size };
    // The library panics at a schema in its own format that names types which do not exist.
    match AssertUnwindSafe(ParquetRecordBatchStreamBuilder::new(reader)).catch_unwind().await {
        Err(_) => Err(Error::new(Kind::Input, "the Parquet file is damaged: its footer names types that do not exist")
            .with("file", at)
            .with("bytes", size)),
        Ok(Ok(builder)) => match without_int96(&builder) {
            None => Ok(builder.with_batch_size(BATCH_ROWS)),
            Some(schema) => {
                let options = ArrowReaderOptions::new().with_schema(schema);
                let metadata = ArrowReaderMetadata::try_new(Arc::clone(builder.metadata()), options);
                let metadata = metadata.map_err(|e| damaged(&e, at))?;
                let reader = ObjectReader { store: at.store(), path: at.path().clone(), size };
                let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata);
                Ok(builder.with_batch_size(BATCH_ROWS))
            }
        },
        Ok(Err(error)) => {
            if let Some(error) = store_error(&error) {
                return Err(fail(error, "read", at));
            }
            let end = size.min(4);
            let start = at.store().get_range(at.path(), 0..end).await.unwrap_or_default();
            let what = match &start[..] {
                b"PAR1" => "the Parquet file is truncated or damaged: it has no readable footer",
                b"" => "the file is empty, not Parquet",
                _ => "not a Parquet file",
            };
            Err(Error::new(Kind::Input, what).with("file", at).with("bytes", size).source(error))
        }
    }
}

/// The file's schema with microseconds for its columns of type INT96; `None` where it has none.
fn without_int96(builder: &ParquetRecordBatchStreamBuilder<ObjectReader>) -> Option<SchemaRef> {
    let fields = builder.schema().fields();
    let coerced: Vec<_> = fields
        .iter()
        .map(|field| match is_int96(builder, field.name()) {
            true => Arc::new(field.as_ref().clone().with_data_type(DataType::Timestamp(TimeUnit::Microsecond, None))),
            false => Arc::clone(field),
        })
        .collect();
    let schema = builder.schema();
    (coerced != fields.to_vec()).then(|| Arc::new(Schema::new_with_metadata(coerced, schema.metadata().clone())))
}

/// Whether a column of the file holds moments of the old type INT96.
fn is_int96(builder: &ParquetRecordBatchStreamBuilder<ObjectReader>, column: &str) -> bool {
    let columns = builder.parquet_schema().columns();
    columns.iter().any(|c| c.physical_type() == PhysicalType::INT96 && c.path().parts() == [column.to_owned()])
}

/// The store's error inside a Parquet error: a network fault is no reason to call a file damaged.
fn store_error(error: &ParquetError) -> Option<&object_store::Error> {
    match error {
        ParquetError::External(inner) => inner.downcast_ref::<object_store::Error>(),
        _ => None,
    }
}

/// Lists an input (one file, a folder, or Hive partitions) and holds every file's footer against the contract.
///
/// # Errors
/// `Kind::NotArrived` where nothing is there yet; `Kind::Input` naming the file and column: not Parquet, truncated, a column missing or of a wrong type, files
/// that differ among themselves. The store's own errors.
pub async fn open_input(contract: &Contract, at: &Location) -> Result<InputTable> {
    let entries = list_parquet(contract, at).await?;
    let mut files = Vec::with_capacity(entries.len());
    let mut columns: Vec<InputColumn> = Vec::new();
    let mut seen_in: BTreeMap<String, (DataType, Location)> = BTreeMap::new();
    for column in &contract.columns {
        let target = column.column_type.arrow(0);
        columns.push(InputColumn { name: column.name.clone(), target, source: None, source_type: None, is_cut: false });
    }
    let mut hive_columns: Vec<String> = Vec::new();
    for entry in entries {
        let builder = open_parquet(&entry.location, entry.size).await?;
        let mut first_event = None;
        for (column, found) in contract.columns.iter().zip(&mut columns) {
            let Some(field) = find_column(contract, column, builder.schema(), &entry.location)? else { continue };
            if column.name == "event_timestamp" {
                first_event = earliest(&builder, field.name());
            }
            found.is_cut |= matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _))
                || is_int96(&builder, field.name());
            match seen_in.get(&column.name) {
                None => {
                    found.source = Some(field.name().clone());
                    found.source_type = Some(field.data_type().clone());
                    if column.column_type == ColumnType::Vector {
                        found.target = field.data_type().clone();
                    }
                    seen_in.insert(column.name.clone(), (field.data_type().clone(), entry.location.clone()));
                }
                Some((kind, _)) if kind == field.data_type() && found.source.as_ref() == Some(field.name()) => {}
                Some((kind, first)) => {
                    let here = format!("{} {}", field.name(), field.data_type());
                    let there = format!("{} {kind} in {first}", found.source.as_deref().unwrap_or_default());
                    return Err(Error::new(Kind::Input, format!("files of one input differ: {here}, but {there}"))
                        .with("table", &contract.name)
                        .with("file", &entry.location)
                        .with("column", field.name()));
                }
            }
        }
        let partition = hive_values(&entry.location, at);
        for (name, _) in &partition {
            if !hive_columns.contains(name) {
                hive_columns.push(name.clone());
            }
        }
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let digest = match (entry.location.local_path(), entry.e_tag) {
            (None, Some(tag)) => format!("{tag}-{}", entry.size),
            _ => entry.location.digest().await?,
        };
        files.push(InputFile { location: entry.location, rows, bytes: entry.size, digest, first_event, partition });
    }
    let fields: Vec<Field> =
        columns.iter().filter_map(|c| Some(Field::new(c.source.as_ref()?, c.source_type.clone()?, true))).collect();
    let schema = Arc::new(Schema::new(fields));
    let (table, location) = (contract.name.clone(), at.clone());
    Ok(InputTable { table, location, files, schema, columns, hive_columns, max_bad_fraction: 0.0 })
}

/// The earliest value of a column of moments by the statistics of the file's row groups, microseconds since 1970 UTC;
/// `None` where a row group does not say. A column without a time zone is read as UTC, as everywhere.
pub(crate) fn earliest(builder: &ParquetRecordBatchStreamBuilder<ObjectReader>, column: &str) -> Option<i64> {
    let converter = StatisticsConverter::try_new(column, builder.schema(), builder.parquet_schema()).ok()?;
    if !matches!(converter.arrow_field().data_type(), DataType::Timestamp(..)) {
        return None;
    }
    let minima = converter.row_group_mins(builder.metadata().row_groups()).ok()?;
    // Cast as the rows will be, so that both round alike.
    let minima = arrow::compute::cast(&minima, &ColumnType::TimestampUs.arrow(0)).ok()?;
    let minima = minima.as_primitive_opt::<TimestampMicrosecondType>()?;
    if minima.null_count() > 0 { None } else { arrow::compute::min(minima) }
}

/// The file's field that carries a contract's column; `None` for a nullable column that is absent.
fn find_column(contract: &Contract, column: &Column, schema: &SchemaRef, file: &Location) -> Result<Option<Field>> {
    let names = std::iter::once(&column.name).chain(&column.aliases);
    let found: Vec<&Field> = names.filter_map(|n| schema.field_with_name(n).ok()).collect();
    if let [first, second, ..] = found[..] {
        let what = format!("both {} and {} would be {}", first.name(), second.name(), column.name);
        return Err(Error::new(Kind::Input, what)
            .with("table", &contract.name)
            .with("file", file)
            .with("column", &column.name)
            .hint(format!(
                "leave one of them out of the file, or give the job its own contract of {} ([project] schemas) without \
                 the other name",
                contract.name
            )));
    }
    let Some(field) = found.into_iter().next() else {
        if column.nullable {
            return Ok(None);
        }
        let present: Vec<&str> = schema.fields().iter().take(20).map(|f| f.name().as_str()).collect();
        let mut hint = format!("the file has the columns {}", present.join(", "));
        if !column.aliases.is_empty() {
            hint.push_str(&format!("; {} may also be called {}", column.name, column.aliases.join(" or ")));
        }
        return Err(Error::new(Kind::Input, format!("the column {} is missing", column.name))
            .with("table", &contract.name)
            .with("file", file)
            .with("column", &column.name)
            .hint(hint));
    };
    if accepts(column, field.data_type()) {
        return Ok(Some(field.clone()));
    }
    let wanted = match column.accept.is_empty() {
        true => column.column_type.to_string(),
        false => format!("{} (or {})", column.column_type, column.accept.join(", ")),
    };
    let error = Error::new(Kind::Input, format!("wrong type {}, the contract wants {wanted}", field.data_type()))
        .with("table", &contract.name)
        .with("file", file)
        .with("column", field.name());
    Err(match (&column.column_type, field.data_type().is_numeric()) {
        (ColumnType::TimestampUs, true) => error
            .hint("a number does not say its unit: store a Parquet timestamp, or let 'curec import csv' convert it"),
        _ => error,
    })
}

/// The Parquet files at a location, in the order of their paths.
async fn list_parquet(contract: &Contract, at: &Location) -> Result<Vec<Entry>> {
    let place = |e: Error| e.with("table", &contract.name);
    let local = at.local_path();
    // The local store answers a question about a folder with an I/O error; the disk knows better.
    if !local.as_ref().is_some_and(|p| p.is_dir())
        && let Some(entry) = at.head().await.map_err(place)?
    {
        return Ok(vec![entry]);
    }
    if let Some(path) = local.filter(|p| !p.exists()) {
        return Err(place(match path.parent().is_some_and(std::path::Path::is_dir) {
            true => not_arrived("there is no such file or folder yet", at),
            false => missing(at).hint("check the path under [input] in the job file: its folder is not there either"),
        }));
    }
    let all = at.list().await.map_err(place)?;
    let total = all.len();
    let first = all.first().map(|e| e.location.name().to_owned());
    let hidden = |e: &Entry| {
        let path = e.location.relative_to(at).unwrap_or_default();
        path.split('/').any(|part| part.starts_with('_') || part.starts_with('.'))
    };
    let all_hidden = all.iter().all(&hidden);
    let named = |e: &Entry| e.location.name().to_ascii_lowercase().ends_with(".parquet");
    let files: Vec<Entry> = all.into_iter().filter(|e| named(e) && !hidden(e)).collect();
    if files.is_empty() {
        return Err(place(match first {
            None => not_arrived("the folder is empty", at),
            // What other tools leave while they write.
            Some(_) if all_hidden => not_arrived("the folder holds no .parquet file yet", at),
            Some(name) => {
                let message = format!("the folder holds no .parquet file (but {total} other, such as {name})");
                let error = Error::new(Kind::Input, message).with("file", at);
                error.hint("'curec import' converts MovieLens, CSV and JSON lines")
            }
        }));
    }
    Ok(files)
}

/// The error for an input that most likely comes later.
fn not_arrived(what: &str, at: &Location) -> Error {
    Error::new(Kind::NotArrived, what)
        .with("file", at)
        .hint("run again when it has arrived; if it should be there, check the path under [input] in the job file")
}

/// `key=value` folders between the input's location and the file.
fn hive_values(file: &Location, root: &Location) -> Vec<(String, String)> {
    let relative = file.relative_to(root).unwrap_or_default();
    let mut parts: Vec<&str> = relative.split('/').collect();
    parts.pop();
    let pairs = parts.into_iter().filter_map(|part| part.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), percent_decoded(value))).collect()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    // Parsing a number alone would take a sign for a digit.
    let is_hex = |hex: &&str| hex.bytes().all(|b| b.is_ascii_hexdigit());
    while i < bytes.len() {
        let code = text.get(i + 1..i + 3).filter(is_hex).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[i], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A file of an input as batches in the contract's columns and types, checked.
pub struct InputReader<'a> {
    contract: &'a Contract,
    table: &'a InputTable,
    file: &'a InputFile,
    stream: ParquetRecordBatchStream<ObjectReader>,
    checker: Checker<'a>,
    /// Rows of the file before the last batch of [`InputReader::next_good`], and which of its rows were kept.
    last: (u64, Option<BooleanArray>),
}

impl<'a> InputReader<'a> {
    /// Opens one file of an input.
    ///
    /// # Errors
    /// As [`open_parquet`].
    pub async fn open(contract: &'a Contract, table: &'a InputTable, file: &'a InputFile) -> Result<Self> {
        let builder = open_parquet(&file.location, file.bytes).await?;
        let root = builder.schema();
        let wanted = table.columns.iter().filter_map(|c| root.index_of(c.source.as_deref()?).ok());
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.collect::<Vec<_>>());
        let build = AssertUnwindSafe(|| builder.with_projection(mask).build());
        let stream = std::panic::catch_unwind(build).unwrap_or_else(|_| Err(torn()));
        let stream = stream.map_err(|e| damaged(&e, &file.location))?;
        let mut checker = Checker::new(contract, &file.location);
        for column in &table.columns {
            if let Some(source) = column.source.as_ref().filter(|s| **s != column.name) {
                checker.sources.insert(column.name.clone(), source.clone());
            }
        }
        Ok(InputReader { contract, table, file, stream, checker, last: (0, None) })
    }

    /// The next rows as the file has them.
    async fn next_raw(&mut self) -> Result<Option<RecordBatch>> {
        let next = AssertUnwindSafe(self.stream.try_next()).catch_unwind().await.unwrap_or_else(|_| Err(torn()));
        next.map_err(|e| damaged(&e, &self.file.location))
    }

    /// The next rows without those that break the contract, which are noted; `None` at the end. A batch may be empty.
    ///
    /// # Errors
    /// `Kind::Input` for damaged data.
    pub async fn next_good(&mut self, noted: &mut BadRows) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.next_raw().await? else { return Ok(None) };
        let mut arrays = Vec::with_capacity(self.contract.columns.len());
        let mut bad: Vec<(&Column, &ArrayRef, Vec<_>)> = Vec::new();
        let mut width = 0;
        for (column, input) in self.contract.columns.iter().zip(&self.table.columns) {
            let Some(found) = input.source.as_ref().and_then(|s| batch.column_by_name(s)) else {
                arrays.push(new_null_array(&input.target, batch.num_rows()));
                continue;
            };
            if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
                width = usize::try_from(*n).unwrap_or(0);
            }
            let (array, rows) = judge_column(column, found).map_err(|rows| self.misfit(column, &batch, &rows))?;
            arrays.push(array);
            if !rows.is_empty() {
                bad.push((column, found, rows));
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let loose = Arc::new(Schema::new(self.contract.fields(width, false)));
        let rows = RecordBatch::try_new_with_options(loose, arrays, &options)
            .context(Kind::Internal, || format!("rows of table {}", self.contract.name))?;
        let before = self.checker.rows();
        let keep = self.checker.leave_out(&rows, &bad, &mut noted.findings);
        let good = match &keep {
            None => rows,
            Some(keep) => {
                filter_record_batch(&rows, keep).context(Kind::Internal, || "cannot leave rows out".into())?
            }
        };
        noted.rows += batch.num_rows() as u64;
        noted.bad += (batch.num_rows() - good.num_rows()) as u64;
        self.checker.count_nulls(&good);
        self.last = (before, keep);
        strict(self.contract, &good).map(Some)
    }

    /// Where in the file a row of the last batch of [`InputReader::next_good`] stands.
    fn row_in_file(&self, row: usize) -> u64 {
        let (before, keep) = &self.last;
        let place = match keep {
            None => row,
            Some(keep) => (0..keep.len()).filter(|i| keep.value(*i)).nth(row).unwrap_or(row),
        };
        before + place as u64
    }

    fn misfit(&self, column: &Column, batch: &RecordBatch, rows: &[usize]) -> Error {
        let problem = format!("a value does not fit {}", column.column_type);
        self.checker.refuse(column, batch, rows.first().copied().unwrap_or(0), &problem)
    }

    /// The next rows, or `None` at the end.
    ///
    /// # Errors
    /// `Kind::Input` for damaged data and for rows that break the contract.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.next_raw().await? else { return Ok(None) };
        let mut arrays = Vec::with_capacity(self.contract.columns.len());
        let mut width = 0;
        for (column, input) in self.contract.columns.iter().zip(&self.table.columns) {
            let found = input.source.as_ref().and_then(|s| batch.column_by_name(s));
            let Some(found) = found else {
                arrays.push(new_null_array(&input.target, batch.num_rows()));
                continue;
            };
            if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
                width = usize::try_from(*n).unwrap_or(0);
            }
            arrays.push(cast_column(column, found, width).map_err(|rows| self.misfit(column, &batch, &rows))?);
        }
        finish_batch(self.contract, arrays, batch.num_rows(), width, &mut self.checker).map(Some)
    }
}

/// What stands for a panic of the library over damaged pages.
fn torn() -> ParquetError {
    ParquetError::General("its pages cannot be understood".into())
}

pub(crate) fn damaged(error: &ParquetError, at: &Location) -> Error {
    if let Some(error) = store_error(error) {
        return fail(error, "read", at);
    }
    Error::new(Kind::Input, "the Parquet file is damaged").with("file", at).source(error.to_string())
}

/// Streams every row of an input through a [`Checker`] and looks for duplicate keys among those that keep the contract.
///
/// Memory: one batch, and at most 256 MiB of key hashes at a time; inputs with more keys are read several times.
///
/// # Errors
/// `Kind::Input` naming file, column, row and key of the first row that breaks the contract, and how many do, where
/// these are more than the input may have; the same for keys that stand twice.
pub async fn check_input(contract: &Contract, table: &InputTable) -> Result<InputReport> {
    let mut report = InputReport::default();
    let passes = (table.rows() as usize).div_ceil(KEY_HASHES).max(1) as u64;
    let mut suspects: HashSet<u64> = HashSet::new();
    let mut noted = BadRows::new(contract);
    for pass in 0..passes {
        let mut again = BadRows::new(contract);
        let mut hashes: Vec<u64> = Vec::new();
        for file in &table.files {
            let mut reader = InputReader::open(contract, table, file).await?;
            let mut keys = KeyHasher::new(contract)?;
            while let Some(batch) = reader.next_good(if pass == 0 { &mut noted } else { &mut again }).await? {
                if pass == 0 {
                    widen(&mut report.time_range, &batch);
                }
                if contract.grain.is_empty() {
                    continue;
                }
                hashes.extend(keys.hash(&batch)?.into_iter().filter(|h| h % passes == pass));
            }
            if pass == 0 {
                report.rows += reader.checker.rows();
                for (name, nulls) in reader.checker.nulls() {
                    *report.nulls.entry(name.to_owned()).or_default() += nulls;
                }
            }
        }
        if pass == 0 {
            report.left_out = std::mem::replace(&mut noted, BadRows::new(contract)).within(table.max_bad_fraction)?;
        }
        hashes.sort_unstable();
        suspects.extend(hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
    }
    if !suspects.is_empty() {
        confirm_duplicates(contract, table, &suspects).await?;
    }
    if report.left_out.rows > 0 {
        let (rows, all) = (report.left_out.rows, report.rows);
        let (share, kinds) = (100.0 * rows as f64 / all as f64, kinds(&report.left_out.found));
        report
            .warnings
            .push(format!("{rows} of {all} rows break the contract and are left out ({share:.4} %): {kinds}"));
    }
    if report.null_titles() > 0 {
        report.warnings.push(format!("{} of {} items have no title", report.null_titles(), report.rows));
    }
    for column in table.columns.iter().filter(|c| matches!(c.source_type, Some(DataType::Timestamp(_, None)))) {
        let source = column.source.as_deref().unwrap_or(&column.name);
        report.warnings.push(format!("the column {source} names no time zone; it is read as UTC"));
    }
    Ok(report)
}

/// Reads again and compares the keys themselves wherever their hashes met.
async fn confirm_duplicates(contract: &Contract, table: &InputTable, suspects: &HashSet<u64>) -> Result<()> {
    let mut first: BTreeMap<Vec<u8>, (Location, u64)> = BTreeMap::new();
    for file in &table.files {
        let mut reader = InputReader::open(contract, table, file).await?;
        let mut keys = KeyHasher::new(contract)?;
        let mut noted = BadRows::new(contract);
        while let Some(batch) = reader.next_good(&mut noted).await? {
            let rows = keys.rows(&batch)?;
            for (i, row) in rows.iter().enumerate() {
                if !suspects.contains(&hash_of(row.as_ref())) {
                    continue;
                }
                let here = reader.row_in_file(i);
                if let Some((other, row)) = first.get(row.as_ref()) {
                    let is_cut = |c: &&InputColumn| c.is_cut && contract.grain.contains(&c.name);
                    let hint = match table.columns.iter().find(is_cut) {
                        None => "every key may stand once: drop the rows that repeat one".to_owned(),
                        Some(column) => format!(
                            "{} is stored in nanoseconds and cut to microseconds: rows less than a microsecond apart have \
                             the same key. Keep one of them, or move the others by a microsecond",
                            column.source.as_deref().unwrap_or(&column.name)
                        ),
                    };
                    return Err(Error::new(contract.refusal(), "the same key stands twice")
                        .with("table", &contract.name)
                        .with("file", &file.location)
                        .with("column", contract.grain.join(", "))
                        .with("row", here)
                        .with("key", key_text(contract, &batch, i).unwrap_or_default())
                        .with("first", format!("row {row} of {other}"))
                        .hint(hint));
                }
                first.insert(row.as_ref().to_vec(), (file.location.clone(), here));
            }
        }
    }
    Ok(())
}

fn widen(range: &mut Option<(i64, i64)>, batch: &RecordBatch) {
    let Some(column) = batch.column_by_name("event_timestamp") else { return };
    let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() else { return };
    let (low, high) = (arrow::compute::min(times), arrow::compute::max(times));
    if let (Some(low), Some(high)) = (low, high) {
        *range = Some(range.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
    }
}
