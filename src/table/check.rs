//! Rows held against their contract: types, nulls, ranges, allowed values; and keys made comparable.
//!
//! Knows contracts and record batches, not where they come from. Every refusal names the file, the column, the row
//! (0-based in its file) and the row's key.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Context, Error, Kind, Result};
use crate::table::contract::{Column, ColumnType, Contract};

/// Whether an input's column of physical type `found` can be read as `column`.
pub(crate) fn accepts(column: &Column, found: &DataType) -> bool {
    let named = |n: &str| column.accept.iter().any(|a| a == n);
    if let (ColumnType::List(inner), Some(child)) = (&column.column_type, list_child(found)) {
        let plain = matches!(found, DataType::List(_));
        let loose = named("large_list");
        let child_ok = match (inner.as_ref(), child.data_type()) {
            (ColumnType::Utf8, DataType::Utf8) => true,
            (ColumnType::Utf8, t) => loose && is_text(t),
            (inner, t) => same_shape(inner, t),
        };
        return (plain || loose) && child_ok;
    }
    match (&column.column_type, found) {
        (ColumnType::Utf8, DataType::Utf8)
        | (ColumnType::Bool, DataType::Boolean)
        | (ColumnType::Int32, DataType::Int32)
        | (ColumnType::Int64, DataType::Int64)
        | (ColumnType::Float32, DataType::Float32)
        | (ColumnType::Float64, DataType::Float64)
        | (ColumnType::Date32, DataType::Date32) => true,
        (ColumnType::TimestampUs, DataType::Timestamp(unit, zone)) => {
            let unit_ok = match unit {
                TimeUnit::Microsecond => true,
                TimeUnit::Second => named("timestamp_s"),
                TimeUnit::Millisecond => named("timestamp_ms"),
                TimeUnit::Nanosecond => named("timestamp_ns"),
            };
            unit_ok && (zone.is_some() || named("timestamp_naive"))
        }
        (ColumnType::TimestampUs, DataType::Date32) => named("date32"),
        (ColumnType::Utf8, DataType::Dictionary(_, value)) => named("dictionary") && accepts(column, value),
        (ColumnType::Vector, DataType::FixedSizeList(child, _)) => child.data_type() == &DataType::Float32,
        (ColumnType::Struct(_), t) => same_shape(&column.column_type, t),
        (_, t) => physical_name(t).is_some_and(named),
    }
}

fn same_shape(wanted: &ColumnType, found: &DataType) -> bool {
    match (wanted, found) {
        (ColumnType::List(inner), t) => list_child(t).is_some_and(|c| same_shape(inner, c.data_type())),
        (ColumnType::Struct(fields), DataType::Struct(found)) => {
            fields.iter().all(|(name, kind)| found.iter().any(|f| f.name() == name && same_shape(kind, f.data_type())))
        }
        (ColumnType::Utf8, t) => is_text(t),
        (ColumnType::TimestampUs, DataType::Timestamp(..)) => true,
        (kind, t) => &kind.arrow(0) == t,
    }
}

fn is_text(found: &DataType) -> bool {
    matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn list_child(found: &DataType) -> Option<&FieldRef> {
    match found {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _) => Some(child),
        _ => None,
    }
}

pub(crate) fn physical_name(found: &DataType) -> Option<&'static str> {
    Some(match found {
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::LargeUtf8 => "large_utf8",
        DataType::Utf8View => "utf8_view",
        DataType::Date32 => "date32",
        _ => return None,
    })
}

/// Casts one column to the contract's type.
///
/// # Errors
/// `Err(Some(row))` names the first value that does not fit; `Err(None)` a cast that is not possible at all.
pub(crate) fn cast_column(column: &Column, found: &ArrayRef, width: usize) -> Result<ArrayRef, Option<usize>> {
    let target = column.column_type.arrow(width);
    if found.data_type() == &target {
        return Ok(Arc::clone(found));
    }
    if column.column_type == ColumnType::Vector {
        return as_vector(found, width);
    }
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = match (&column.column_type, without_zone(found)) {
        // A timestamp without a zone is read as UTC, and Arrow would want a time zone database to say so.
        (ColumnType::TimestampUs, Some(naive)) => {
            Arc::new(naive.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
        }
        _ => cast_with_options(found, &target, &safe).map_err(|_| None)?,
    };
    // Null counts of a dictionary's keys are not those of its values.
    if cast.null_count() > found.logical_null_count() {
        let lost = (0..cast.len()).find(|row| cast.is_null(*row) && found.is_valid(*row));
        if lost.is_some() {
            return Err(lost);
        }
    }
    Ok(cast)
}

/// A vector column from any list of floats; `Err(Some(row))` where a row's width or a value is wrong.
fn as_vector(found: &ArrayRef, width: usize) -> Result<ArrayRef, Option<usize>> {
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    let size = i32::try_from(width).map_err(|_| None)?;
    let wanted = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), size);
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = cast_with_options(found, &wanted, &safe).map_err(|_| None)?;
    if let Some(row) = (0..cast.len()).find(|row| cast.is_null(*row) && found.is_valid(*row)) {
        return Err(Some(row));
    }
    let lists = cast.as_fixed_size_list();
    let values = lists.values();
    if values.null_count() > 0 {
        // Under a null list the values are null as well; the checker names that row as null.
        let bad = (0..values.len()).find(|i| values.is_null(*i) && lists.is_valid(i / width.max(1)));
        if let Some(bad) = bad {
            return Err(Some(bad / width.max(1)));
        }
    }
    let data = values.as_primitive::<Float32Type>().values().clone();
    let values = Arc::new(arrow::array::Float32Array::new(data, None));
    let vector = FixedSizeListArray::try_new(field, size, values, lists.nulls().cloned()).map_err(|_| None)?;
    Ok(Arc::new(vector))
}

/// Brings a batch that we made ourselves (from SQL, say) into the contract's columns, order and types, and checks it.
///
/// Shapes: any batch that has every column by name; the result has exactly [`Contract::arrow_schema`]. The vector width
/// is taken from the batch.
///
/// # Errors
/// `Kind::Internal` for a missing column or a type that cannot be cast; [`Checker`]'s for rows that break the contract.
pub fn conform(contract: &Contract, batch: &RecordBatch, checker: &mut Checker<'_>) -> Result<RecordBatch> {
    let mut width = 0;
    let mut arrays = Vec::with_capacity(contract.columns.len());
    for column in &contract.columns {
        let place = |e: Error| e.with("table", &contract.name).with("column", &column.name);
        let found = batch
            .column_by_name(&column.name)
            .ok_or_else(|| place(Error::new(Kind::Internal, "the rows made for a table lack one of its columns")))?;
        if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
            width = usize::try_from(*n).unwrap_or(0);
        }
        arrays.push(cast_column(column, found, width).map_err(|row| match row {
            Some(row) => checker.refuse(column, batch, row, "a value does not fit the column's type"),
            None => {
                place(Error::new(Kind::Internal, format!("{} cannot become {}", found.data_type(), column.column_type)))
            }
        })?);
    }
    finish_batch(contract, arrays, batch.num_rows(), width, checker)
}

pub(crate) fn finish_batch(
    contract: &Contract,
    arrays: Vec<ArrayRef>,
    rows: usize,
    width: usize,
    checker: &mut Checker<'_>,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let loose = Arc::new(Schema::new(contract.fields(width, false)));
    let batch = RecordBatch::try_new_with_options(loose, arrays, &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))?;
    checker.check(&batch)?;
    let strict = contract.arrow_schema(Some(width));
    RecordBatch::try_new_with_options(strict, batch.columns().to_vec(), &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))
}

/// Holds the rows of one file against a contract: nulls, NaN and infinities, ranges, allowed values, empty texts.
///
/// Feed it the file's batches in order, in the contract's columns.
pub struct Checker<'a> {
    contract: &'a Contract,
    file: String,
    rows: u64,
    nulls: Vec<u64>,
    /// The name of each column in the file, where it is another.
    pub(crate) sources: BTreeMap<String, String>,
}

impl<'a> Checker<'a> {
    /// A checker for one file; `file` is what errors show.
    pub fn new(contract: &'a Contract, file: impl fmt::Display) -> Self {
        let nulls = vec![0; contract.columns.len()];
        Checker { contract, file: file.to_string(), rows: 0, nulls, sources: BTreeMap::new() }
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Nulls seen, by column.
    pub fn nulls(&self) -> impl Iterator<Item = (&str, u64)> {
        self.contract.columns.iter().map(|c| c.name.as_str()).zip(self.nulls.iter().copied())
    }

    /// Checks the next rows; columns are found by name.
    ///
    /// # Errors
    /// `Kind::Input` for inputs, `Kind::Audit` for our own tables, naming file, column, row and key.
    pub fn check(&mut self, batch: &RecordBatch) -> Result<()> {
        for (i, column) in self.contract.columns.iter().enumerate() {
            let Some(array) = batch.column_by_name(&column.name) else {
                continue;
            };
            let nulls = array.logical_null_count();
            self.nulls[i] += nulls as u64;
            if nulls > 0 && !column.nullable {
                let row = (0..array.len()).find(|row| array.is_null(*row)).unwrap_or(0);
                return Err(self.refuse(column, batch, row, "null in a column that must not hold nulls"));
            }
            if let Some((row, problem)) = bad_value(column, array) {
                return Err(self.refuse(column, batch, row, &problem));
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The error for one row of the batch that is being looked at.
    pub(crate) fn refuse(&self, column: &Column, batch: &RecordBatch, row: usize, problem: &str) -> Error {
        let mut error = Error::new(self.contract.refusal(), problem)
            .with("table", &self.contract.name)
            .with("file", &self.file)
            .with("column", self.sources.get(&column.name).unwrap_or(&column.name))
            .with("row", self.rows + row as u64);
        if let Some(key) = key_text(self.contract, batch, row) {
            error = error.with("key", key);
        }
        error
    }
}

/// The row's grain columns as `user_id=1, item_id=7`.
pub(crate) fn key_text(contract: &Contract, batch: &RecordBatch, row: usize) -> Option<String> {
    let names: Vec<&str> = match contract.grain.is_empty() {
        false => contract.grain.iter().map(String::as_str).collect(),
        true => contract.columns.iter().filter(|c| !c.nullable).map(|c| c.name.as_str()).collect(),
    };
    let format = FormatOptions::default().with_null("null");
    let mut parts = Vec::new();
    for name in names {
        let Some(array) = batch.column_by_name(name) else { continue };
        // The formatter knows zones by name only with a time zone database; UTC needs none.
        let array = match array.data_type() {
            DataType::Timestamp(_, Some(_)) => without_zone(array)?,
            _ => Arc::clone(array),
        };
        let text = ArrayFormatter::try_new(&array, &format).ok()?.value(row).to_string();
        let text: String = text.chars().take(80).collect();
        parts.push(format!("{name}={text}"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Timestamps in microseconds without their zone: the same instants, in UTC.
fn without_zone(array: &ArrayRef) -> Option<ArrayRef> {
    let DataType::Timestamp(unit, _) = array.data_type() else { return None };
    macro_rules! strip {
        ($type:ty) => {
            Arc::new(array.as_primitive::<$type>().clone().with_timezone_opt(None::<&str>)) as ArrayRef
        };
    }
    let naive = match unit {
        TimeUnit::Second => strip!(TimestampSecondType),
        TimeUnit::Millisecond => strip!(TimestampMillisecondType),
        TimeUnit::Microsecond => strip!(TimestampMicrosecondType),
        TimeUnit::Nanosecond => strip!(TimestampNanosecondType),
    };
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    cast_with_options(&naive, &DataType::Timestamp(TimeUnit::Microsecond, None), &safe).ok()
}

/// The first value of a column that its contract does not allow.
fn bad_value(column: &Column, array: &ArrayRef) -> Option<(usize, String)> {
    if let Some(strings) = array.as_string_opt::<i32>() {
        for (row, value) in strings.iter().enumerate() {
            let Some(value) = value else { continue };
            if column.min_length.is_some_and(|n| value.len() < n) {
                return Some((row, if value.is_empty() { "empty text".into() } else { "text is too short".into() }));
            }
            if column.values.as_ref().is_some_and(|allowed| !allowed.iter().any(|a| a == value)) {
                let shown: String = value.chars().take(40).collect();
                let allowed = column.values.as_deref().unwrap_or_default().join(", ");
                return Some((row, format!("{shown:?} is not one of {allowed}")));
            }
        }
        return None;
    }
    if let Some(lists) = array.as_fixed_size_list_opt() {
        let width = usize::try_from(lists.value_length()).unwrap_or(0).max(1);
        let values = lists.values().as_primitive_opt::<Float32Type>()?;
        let bad = column.finite.then(|| values.values().iter().position(|v| !v.is_finite())).flatten();
        return bad.map(|i| (i / width, format!("{} is not a finite number", values.value(i))));
    }
    let check = |row: usize, value: f64| -> Option<(usize, String)> {
        if column.finite && !value.is_finite() {
            return Some((row, format!("{value} is not a finite number")));
        }
        if column.min.is_some_and(|min| value < min) {
            return Some((row, format!("{value} is less than {}", column.min.unwrap_or_default())));
        }
        if column.max.is_some_and(|max| value > max) {
            return Some((row, format!("{value} is greater than {}", column.max.unwrap_or_default())));
        }
        None
    };
    if !column.finite && column.min.is_none() && column.max.is_none() {
        return None;
    }
    macro_rules! scan {
        ($type:ty) => {
            if let Some(values) = array.as_primitive_opt::<$type>() {
                return values.iter().enumerate().find_map(|(row, v)| check(row, v? as f64));
            }
        };
    }
    scan!(Float32Type);
    scan!(Float64Type);
    scan!(Int32Type);
    scan!(Int64Type);
    None
}

/// Turns a table's grain into comparable bytes and hashes.
pub(crate) struct KeyHasher {
    names: Vec<String>,
    converter: RowConverter,
}

impl KeyHasher {
    pub(crate) fn new(contract: &Contract) -> Result<Self> {
        Self::over(contract, &contract.grain)
    }

    /// Over any columns of the contract; rows compare ascending with nulls last.
    pub(crate) fn over(contract: &Contract, names: &[String]) -> Result<Self> {
        let order = arrow::compute::SortOptions { descending: false, nulls_first: false };
        let columns = names.iter().filter_map(|n| contract.column(n));
        let fields = columns.map(|c| SortField::new_with_options(c.column_type.arrow(0), order)).collect();
        let converter =
            RowConverter::new(fields).context(Kind::Config, || format!("key of table {}", contract.name))?;
        Ok(KeyHasher { names: names.to_vec(), converter })
    }

    pub(crate) fn rows(&mut self, batch: &RecordBatch) -> Result<arrow::row::Rows> {
        let columns: Vec<ArrayRef> = self.names.iter().filter_map(|n| batch.column_by_name(n).cloned()).collect();
        self.converter.convert_columns(&columns).context(Kind::Internal, || "cannot compare keys".into())
    }

    pub(crate) fn hash(&mut self, batch: &RecordBatch) -> Result<Vec<u64>> {
        Ok(self.rows(batch)?.iter().map(|row| hash_of(row.as_ref())).collect())
    }
}

pub(crate) fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
