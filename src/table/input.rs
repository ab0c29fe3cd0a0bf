//! Inputs: one Parquet file, a folder, Hive partitions, or a Delta table, owned by others and checked against a contract before use.
//!
//! Knows Parquet files on a store. Knows nothing of SQL or of what the rows are for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use futures::future::FutureExt;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStream;

use crate::error::{Context, Error, Kind, Result};
use crate::table::bad_rows::{BadRows, LeftOut, kinds};
use crate::table::cast::{cast_column, strict};
use crate::table::check::{Checker, finish_batch};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::keys::{KeyHasher, hash_of, key_text};
use crate::table::labels::{Label, wrong_labels};
use crate::table::listing::{ListedFile, ListedInput, list_input};
use crate::table::mapping::rows_read;
use crate::table::parquet_file::{BATCH_ROWS, ObjectReader, damaged, earliest, int96_columns, open_parquet, torn};
use crate::table::rules::judge_column;
use crate::table::source::{PathColumn, Source, find_column, near};
use crate::table::store::Location;

/// Footers read at once: most of the time goes by in waiting for the store.
const FOOTERS_AT_ONCE: usize = 64;

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
    /// Identifies its content: blake3 for local files, the store's tag elsewhere.
    pub digest: String,
    /// The earliest `event_timestamp` by the footer's statistics, microseconds since 1970 UTC; `None` where they do not
    /// say.
    pub first_event: Option<i64>,
    /// Values of the Hive partition columns in its path; `None`: null.
    pub partition: Vec<PathColumn>,
}

/// How a contract's column is found in the files. Each file may carry it under another of its names, in another of its
/// accepted types, or not at all where it may be null.
#[derive(Debug, Clone)]
pub struct InputColumn {
    /// Its name in the contract.
    pub name: String,
    /// The contract's Arrow type.
    pub target: DataType,
    /// The column of the first file that carries it; `None`: none does.
    pub source: Option<String>,
    /// Whether the files hold timestamps in nanoseconds, which are truncated to microseconds.
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
    /// Where each column of the contract comes from.
    pub columns: Vec<InputColumn>,
    /// Names of Hive partition columns in the paths, in order.
    pub hive_columns: Vec<String>,
    /// Every column of the files, those that the contract does not know included, with the types that it has in them.
    pub fields: BTreeMap<String, Vec<DataType>>,
    /// Columns of the files that become texts in the contract's `attributes`, in this order.
    pub labels: Vec<Label>,
    /// The share of rows that may break the contract; they are left out wherever the input is read. 0: none may.
    pub max_bad_fraction: f64,
    /// What is allowed but worth knowing, one sentence each.
    pub warnings: Vec<String>,
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

/// What a full check of an input found.
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

/// Lists an input (one file, a folder, Hive partitions, or a Delta table) and checks every file's footer against the contract.
///
/// # Errors
/// `Kind::NotArrived` where nothing is there yet; `Kind::Input` naming the file and column: not Parquet, truncated, a column
/// missing or of a wrong type, files that differ among themselves in what cannot be one column; a part that cannot be read;
/// a table of Iceberg or Hudi, and one of Delta that uses what is not read. The store's own errors. Of several columns that are wrong the error keeps all
/// ([`Error::into_all`]), each at the first file where it is.
pub async fn open_input(contract: &Contract, at: &Location) -> Result<InputTable> {
    open_labelled(contract, at, &[]).await
}

/// The same, where further columns of the files become texts `Label: value` in the contract's `attributes`.
///
/// # Errors
/// As [`open_input`]; `Kind::Config` naming a column that no file has, or of whose values no text can be made.
pub async fn open_labelled(contract: &Contract, at: &Location, labels: &[Label]) -> Result<InputTable> {
    let listed = list_input(at).await.map_err(|e| e.with("table", &contract.name))?;
    open_listed(contract, listed, labels).await
}

/// Opens the files that are left of a listed input, and no others. There may be none: then nothing is known of its columns.
///
/// # Errors
/// As [`open_labelled`], but for what the listing tells.
pub(crate) async fn open_listed(contract: &Contract, listed: ListedInput, labels: &[Label]) -> Result<InputTable> {
    let ListedInput { location, files: listed, warnings } = listed;
    let is_empty = listed.is_empty();
    let mut files = Vec::with_capacity(listed.len());
    let mut columns: Vec<InputColumn> = Vec::new();
    for column in &contract.columns {
        let target = column.column_type.arrow(0);
        columns.push(InputColumn { name: column.name.clone(), target, source: None, is_cut: false });
    }
    let mut first_of: BTreeMap<&str, (Field, Location)> = BTreeMap::new();
    let mut notes = Notes::default();
    let mut hive_columns: Vec<String> = Vec::new();
    let mut fields: BTreeMap<String, Vec<DataType>> = BTreeMap::new();
    let (mut wrong, mut refused, mut unread) = (Vec::<Error>::new(), BTreeSet::<&str>::new(), None);
    let open = |file: ListedFile| async move {
        let opened = open_parquet(&file.entry.location, file.entry.size).await;
        (file, opened)
    };
    let mut footers = stream::iter(listed).map(open).buffered(FOOTERS_AT_ONCE);
    while let Some((ListedFile { entry, partition }, opened)) = footers.next().await {
        let builder = match opened {
            Ok(builder) => builder,
            Err(e) => {
                unread = Some(e);
                break;
            }
        };
        let mut first_event = None;
        for (column, found) in contract.columns.iter().zip(&mut columns) {
            if refused.contains(column.name.as_str()) {
                continue;
            }
            let source = match find_column(contract, column, builder.schema(), &partition, &entry.location) {
                Ok(source) => source,
                Err(e) => {
                    refused.insert(column.name.as_str());
                    wrong.push(e);
                    continue;
                }
            };
            notes.take(column, source.as_ref(), builder.schema(), &entry.location);
            let Some(Source::Field(field)) = source else { continue };
            if column.name == "event_timestamp" {
                first_event = earliest(&builder, field.name(), column.epoch);
            }
            found.is_cut |= matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _))
                || int96_columns(builder.parquet_schema()).contains(field.name().as_str())
                || (column.epoch == Some(TimeUnit::Nanosecond) && field.data_type().is_integer());
            if let Some((first, there)) = first_of.get(column.name.as_str()) {
                if !is_alike(&column.column_type, field.data_type(), first.data_type()) {
                    let here = format!("{} {}", field.name(), field.data_type());
                    let there = format!("{} {} in {there}", first.name(), first.data_type());
                    let error = Error::new(Kind::Input, format!("files of one input differ: {here}, but {there}"))
                        .with("table", &contract.name)
                        .with("file", &entry.location)
                        .with("column", field.name())
                        .hint("write all files with one type: ids as texts and as numbers need not mean the same");
                    refused.insert(column.name.as_str());
                    wrong.push(error);
                }
                continue;
            }
            found.source = Some(field.name().clone());
            if column.column_type == ColumnType::Vector {
                found.target = field.data_type().clone();
            }
            first_of.insert(&column.name, (field, entry.location.clone()));
        }
        for field in builder.schema().fields() {
            let types = fields.entry(field.name().clone()).or_default();
            if !types.contains(field.data_type()) {
                types.push(field.data_type().clone());
            }
        }
        for (name, _) in &partition {
            if !hive_columns.contains(name) {
                hive_columns.push(name.clone());
            }
        }
        if !wrong.is_empty() {
            continue;
        }
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let digest = match (entry.location.local_path(), entry.e_tag) {
            (None, Some(tag)) => format!("{tag}-{}", entry.size),
            _ => entry.location.digest().await?,
        };
        files.push(InputFile { location: entry.location, rows, bytes: entry.size, digest, first_event, partition });
    }
    match unread {
        // Which columns there are is not known then.
        Some(e) => wrong.push(e),
        None if is_empty => {}
        None => wrong.extend(wrong_labels(contract, labels, &fields, &hive_columns)),
    }
    if let Some(e) = Error::of_all(wrong) {
        return Err(e);
    }
    let warnings = [warnings, notes.warnings(files.len())].concat();
    let (table, labels, max_bad_fraction) = (contract.name.clone(), labels.to_vec(), 0.0);
    Ok(InputTable { table, location, files, columns, hive_columns, fields, labels, max_bad_fraction, warnings })
}

/// Whether two physical types, each of which the column accepts, mean the same values: an id as a number and as a text
/// do not, since leading zeros are lost, and vectors have one width.
fn is_alike(column: &ColumnType, a: &DataType, b: &DataType) -> bool {
    let is_number = |t: &DataType| match t {
        DataType::Dictionary(_, value) => value.is_numeric(),
        t => t.is_numeric(),
    };
    match column {
        ColumnType::Utf8 => is_number(a) == is_number(b),
        ColumnType::Vector => a == b,
        _ => true,
    }
}

/// Warnings about how files carry columns: the sentence, the number of files, and the first of them.
#[derive(Default)]
struct Notes(BTreeMap<String, (usize, Option<Location>)>);

impl Notes {
    fn add(&mut self, what: String, file: &Location) {
        let (n, _) = self.0.entry(what).or_insert_with(|| (0, Some(file.clone())));
        *n += 1;
    }

    fn take(&mut self, column: &Column, source: Option<&Source>, schema: &Schema, file: &Location) {
        let held = || column.names().filter(|n| schema.field_with_name(n).is_ok());
        match source {
            Some(Source::Field(field)) => {
                if matches!(field.data_type(), DataType::Timestamp(_, None)) {
                    let what = format!("the column {} names no time zone; it is read as UTC", field.name());
                    self.add(what, file);
                }
                for other in held().filter(|n| n != field.name()) {
                    self.add(format!("of the columns {} and {other} only {0} is read", field.name()), file);
                }
            }
            None => {
                if let Some(near) = near(column, schema) {
                    let what = format!("the column {near} is not read: {} is compared letter by letter", column.name);
                    self.add(what, file);
                }
            }
            _ => {}
        }
    }

    fn warnings(self, files: usize) -> Vec<String> {
        let told = self.0.into_iter().map(|(what, (n, first))| match first {
            Some(first) if n < files => format!("{what} (in {n} of {files} files, such as {first})"),
            _ => what,
        });
        told.collect()
    }
}

/// A file of an input as batches in the contract's columns and types, checked.
pub struct InputReader<'a> {
    contract: &'a Contract,
    table: &'a InputTable,
    file: &'a InputFile,
    /// Of every column of the contract.
    sources: Vec<Option<Source>>,
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
        Self::open_in_batches(contract, table, file, BATCH_ROWS).await
    }

    /// The same, in batches of at most so many rows.
    ///
    /// # Errors
    /// As [`open_parquet`].
    pub(crate) async fn open_in_batches(
        contract: &'a Contract,
        table: &'a InputTable,
        file: &'a InputFile,
        rows: usize,
    ) -> Result<Self> {
        let builder = open_parquet(&file.location, file.bytes).await?.with_batch_size(rows);
        let root = builder.schema();
        let mut checker = Checker::new(contract, &file.location);
        let (mut sources, mut wanted) = (Vec::with_capacity(contract.columns.len()), Vec::new());
        for column in &contract.columns {
            let source = find_column(contract, column, root, &file.partition, &file.location)?;
            if let Some(Source::Field(field)) = &source {
                wanted.extend(root.index_of(field.name()).ok());
                if *field.name() != column.name {
                    checker.sources.insert(column.name.clone(), field.name().clone());
                }
            }
            sources.push(source);
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let build = AssertUnwindSafe(|| builder.with_projection(mask).build());
        let stream = std::panic::catch_unwind(build).unwrap_or_else(|_| Err(torn()));
        let stream = stream.map_err(|e| damaged(&e, &file.location))?;
        Ok(InputReader { contract, table, file, sources, stream, checker, last: (0, None) })
    }

    /// What the file and its path have for every column of the contract, uncast: nulls where neither has it.
    fn found(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        let nothing = |input: &InputColumn| new_null_array(&input.target, batch.num_rows());
        let found = self.table.columns.iter().zip(&self.sources).map(|(input, source)| match source {
            Some(Source::Field(field)) => batch.column_by_name(field.name()).cloned().unwrap_or_else(|| nothing(input)),
            Some(Source::Path(text)) => Arc::new(StringArray::from(vec![text.as_deref(); batch.num_rows()])),
            Some(Source::Null) | None => nothing(input),
        });
        found.collect()
    }

    /// The next rows as the file has them.
    async fn next_raw(&mut self) -> Result<Option<RecordBatch>> {
        let next = AssertUnwindSafe(self.stream.try_next()).catch_unwind().await.unwrap_or_else(|_| Err(torn()));
        next.map_err(|e| damaged(&e, &self.file.location))
    }

    /// The next rows without events that the job drops, of which nothing is said, and without those that break the contract,
    /// which are noted; `None` at the end. A batch may be empty.
    ///
    /// # Errors
    /// `Kind::Input` for damaged data.
    pub async fn next_good(&mut self, noted: &mut BadRows) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.next_raw().await? else { return Ok(None) };
        let mut arrays = Vec::with_capacity(self.contract.columns.len());
        let found = self.found(&batch);
        let read = rows_read(self.contract, &found, batch.num_rows());
        let is_read = |row: usize| read.as_ref().is_none_or(|read| read[row]);
        let mut bad: Vec<(&Column, &ArrayRef, Vec<_>)> = Vec::new();
        let mut width = 0;
        for (column, found) in self.contract.columns.iter().zip(&found) {
            if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
                width = usize::try_from(*n).unwrap_or(0);
            }
            let (array, mut rows) = judge_column(column, found).map_err(|rows| self.misfit(column, &batch, &rows))?;
            rows.retain(|(row, _)| is_read(*row));
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
        let all = batch.num_rows();
        let (keep, n_read) = match (keep, &read) {
            (keep, None) => (keep, all),
            (keep, Some(read)) => {
                let is_kept = |row: usize| read[row] && keep.as_ref().is_none_or(|keep| keep.value(row));
                let kept: Vec<bool> = (0..all).map(is_kept).collect();
                (Some(BooleanArray::from(kept)), read.iter().filter(|is| **is).count())
            }
        };
        let good = match &keep {
            None => rows,
            Some(keep) => {
                filter_record_batch(&rows, keep).context(Kind::Internal, || "cannot leave rows out".into())?
            }
        };
        noted.rows += n_read as u64;
        noted.bad += (n_read - good.num_rows()) as u64;
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
        for (column, found) in self.contract.columns.iter().zip(&self.found(&batch)) {
            if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
                width = usize::try_from(*n).unwrap_or(0);
            }
            arrays.push(cast_column(column, found, width).map_err(|rows| self.misfit(column, &batch, &rows))?);
        }
        finish_batch(self.contract, arrays, batch.num_rows(), width, &mut self.checker).map(Some)
    }
}

/// Streams every row of an input through a [`Checker`] and looks for duplicate keys among those that keep the contract.
///
/// Memory: one batch, and at most 256 MiB of key hashes at a time; inputs with more keys are read several times.
///
/// # Errors
/// `Kind::Input` naming file, column, row and key of the first row that breaks the contract, and how many do, where
/// these are more than the input may have; the same for duplicate keys.
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
    report.warnings.extend(table.warnings.iter().cloned());
    Ok(report)
}

/// Reads again and compares the keys themselves where their hashes were equal.
pub(crate) async fn confirm_duplicates(contract: &Contract, table: &InputTable, suspects: &HashSet<u64>) -> Result<()> {
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
