//! Rows held against their contract: types, nulls, ranges, allowed values; and keys made comparable.
//!
//! Knows contracts and record batches, not where they come from. Every refusal names the file, the column, the row
//! (0-based in its file) and the row's key. Others' inputs are refused at their first bad row; of tables that we make
//! ourselves all bad rows are counted and the first ones kept ([`Findings`]).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, RecordBatch, RecordBatchOptions, new_empty_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Context, Error, Kind, Result};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::finding::{Findings, Rule};

/// Whether an input's column of physical type `found` can be read as `column`.
pub(crate) fn accepts(column: &Column, found: &DataType) -> bool {
    let named = |n: &str| column.accept.iter().any(|a| a == n);
    // What writers make of a column without any value; nulls are the checker's business.
    if found.is_null() {
        return true;
    }
    if let (ColumnType::List(inner), Some(child)) = (&column.column_type, list_child(found)) {
        let plain = matches!(found, DataType::List(_));
        let loose = named("large_list");
        let child_ok = match (inner.as_ref(), child.data_type()) {
            (ColumnType::Utf8, DataType::Utf8) | (_, DataType::Null) => true,
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
        (_, DataType::Null) => true,
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
/// The rows whose value does not fit, ascending: all of them where the types cannot be cast.
pub(crate) fn cast_column(column: &Column, found: &ArrayRef, width: usize) -> Result<ArrayRef, Vec<usize>> {
    let (cast, lost) = cast_what_fits(column, found, width)?;
    if lost.is_empty() { Ok(cast) } else { Err(lost) }
}

/// Casts one column to the contract's type, with null in place of values that do not fit, and names their rows,
/// ascending.
///
/// # Errors
/// All rows where the types cannot be cast; of vectors the rows that do not fit.
pub(crate) fn cast_what_fits(
    column: &Column,
    found: &ArrayRef,
    width: usize,
) -> Result<(ArrayRef, Vec<usize>), Vec<usize>> {
    let all = || (0..found.len()).collect::<Vec<_>>();
    let target = column.column_type.arrow(width);
    if found.data_type() == &target {
        return Ok((Arc::clone(found), Vec::new()));
    }
    if column.column_type == ColumnType::Vector {
        return as_vector(found, width).unwrap_or_else(|| Err(all())).map(|vector| (vector, Vec::new()));
    }
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = match (&column.column_type, without_zone(found)) {
        // A timestamp without a zone is read as UTC, and Arrow would want a time zone database to say so.
        (ColumnType::TimestampUs, Some(naive)) => {
            Arc::new(naive.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
        }
        _ => cast_with_options(found, &target, &safe).map_err(|_| all())?,
    };
    // Nulls of a dictionary's keys are not those of its values.
    let nulls = found.logical_nulls();
    let was_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let lost = match cast.null_count() > found.logical_null_count() {
        true => (0..cast.len()).filter(|row| cast.is_null(*row) && !was_null(*row)).collect(),
        false => Vec::new(),
    };
    Ok((cast, lost))
}

/// Whether a value of a column of physical type `found` can break the contract: others need not be looked at.
pub(crate) fn can_break(column: &Column, found: &DataType) -> bool {
    let has_rule =
        column.min_length.is_some() || column.values.is_some() || column.min.is_some() || column.max.is_some();
    let can_misfit = found.is_numeric() && found != &column.column_type.arrow(0);
    !column.nullable || column.finite || has_rule || can_misfit || column.column_type == ColumnType::TimestampUs
}

/// Rows whose value breaks a column's rules, each with the rule.
pub(crate) type Broken = Vec<(usize, Rule)>;

/// A column of an input in the contract's type, with null in place of what does not fit, and the rows whose value breaks
/// the contract. This alone says which rows those are, for checks and for queries.
///
/// # Errors
/// As [`cast_what_fits`].
pub(crate) fn judge_column(column: &Column, found: &ArrayRef) -> Result<(ArrayRef, Broken), Vec<usize>> {
    let width = match (&column.column_type, found.data_type()) {
        (ColumnType::Vector, DataType::FixedSizeList(_, n)) => usize::try_from(*n).unwrap_or(0),
        _ => 0,
    };
    let (cast, lost) = cast_what_fits(column, found, width)?;
    if !can_break(column, found.data_type()) {
        return if lost.is_empty() { Ok((cast, Vec::new())) } else { Err(lost) };
    }
    let mut bad: Vec<(usize, Rule)> = lost.iter().map(|row| (*row, Rule::Type)).collect();
    if !column.nullable && cast.null_count() > lost.len() {
        let is_missing = |row: &usize| cast.is_null(*row) && lost.binary_search(row).is_err();
        bad.extend((0..cast.len()).filter(is_missing).map(|row| (row, Rule::NotNull)));
    }
    each_bad_value(column, &cast, |row, rule| bad.push((row, rule)));
    Ok((cast, bad))
}

/// A vector column from any list of floats, or the rows whose width or values are wrong; `None` where the types cannot
/// be cast.
fn as_vector(found: &ArrayRef, width: usize) -> Option<Result<ArrayRef, Vec<usize>>> {
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    let size = i32::try_from(width).ok()?;
    let wanted = DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), size);
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = cast_with_options(found, &wanted, &safe).ok()?;
    let lists = cast.as_fixed_size_list();
    let values = lists.values();
    // Under a null list the values are null as well; the checker names that row as null.
    let is_torn = |row: usize| (row * width..(row + 1) * width).any(|i| values.is_null(i));
    let mut lost = Vec::new();
    if cast.null_count() > found.logical_null_count() || values.null_count() > 0 {
        lost.extend((0..cast.len()).filter(|row| match cast.is_null(*row) {
            true => found.is_valid(*row),
            false => is_torn(*row),
        }));
    }
    if !lost.is_empty() {
        return Some(Err(lost));
    }
    let data = values.as_primitive::<Float32Type>().values().clone();
    let values = Arc::new(arrow::array::Float32Array::new(data, None));
    let vector = FixedSizeListArray::try_new(field, size, values, lists.nulls().cloned()).ok()?;
    Some(Ok(Arc::new(vector)))
}

/// Columns with the rows whose values do not fit.
type Misfits<'a> = Vec<(&'a Column, Vec<usize>)>;

/// Brings a batch that we made ourselves into the contract's columns, order and types; every column may hold nulls.
/// The vector width is taken from the batch.
///
/// # Errors
/// `Kind::Internal` for a missing column. The inner error names values that do not fit their column.
pub(crate) fn cast_batch<'a>(contract: &'a Contract, batch: &RecordBatch) -> Result<Result<RecordBatch, Misfits<'a>>> {
    let mut width = 0;
    let mut arrays = Vec::with_capacity(contract.columns.len());
    let mut misfits = Vec::new();
    for column in &contract.columns {
        let found = batch.column_by_name(&column.name).ok_or_else(|| {
            Error::new(Kind::Internal, "the rows made for a table lack one of its columns")
                .with("table", &contract.name)
                .with("column", &column.name)
        })?;
        if let (ColumnType::Vector, DataType::FixedSizeList(_, n)) = (&column.column_type, found.data_type()) {
            width = usize::try_from(*n).unwrap_or(0);
        }
        match cast_column(column, found, width) {
            Ok(array) => arrays.push(array),
            Err(rows) if rows.is_empty() => arrays.push(new_empty_array(&column.column_type.arrow(width))),
            Err(rows) => misfits.push((column, rows)),
        }
    }
    if !misfits.is_empty() {
        return Ok(Err(misfits));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let loose = Arc::new(Schema::new(contract.fields(width, false)));
    RecordBatch::try_new_with_options(loose, arrays, &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))
        .map(Ok)
}

/// A batch of [`cast_batch`] whose rows were all found good, in exactly [`Contract::arrow_schema`].
///
/// # Errors
/// `Kind::Internal` where a column that must not hold nulls does.
pub(crate) fn strict(contract: &Contract, batch: &RecordBatch) -> Result<RecordBatch> {
    let width = batch.columns().iter().find_map(|c| match c.data_type() {
        DataType::FixedSizeList(_, n) => usize::try_from(*n).ok(),
        _ => None,
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(contract.arrow_schema(width), batch.columns().to_vec(), &options)
        .context(Kind::Internal, || format!("rows of table {}", contract.name))
}

/// Brings a batch that we made ourselves (from SQL, say) into the contract's columns, order and types, and checks it.
///
/// Shapes: any batch that has every column by name; the result has exactly [`Contract::arrow_schema`]. The vector width
/// is taken from the batch.
///
/// # Errors
/// `Kind::Internal` for a missing column; [`Checker`]'s for rows that break the contract.
pub fn conform(contract: &Contract, batch: &RecordBatch, checker: &mut Checker<'_>) -> Result<RecordBatch> {
    match cast_batch(contract, batch)? {
        Ok(cast) => {
            checker.check(&cast)?;
            strict(contract, &cast)
        }
        Err(misfits) => Err(checker.misfit(batch, &misfits)),
    }
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
    strict(contract, &batch)
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
    /// `Kind::Input` for inputs, `Kind::Audit` for our own tables, naming file, column, row and key of a bad row.
    pub fn check(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut first = None;
        self.each_bad(batch, |column, row, rule| {
            first.get_or_insert((column, row, rule));
        });
        if let Some((column, row, rule)) = first {
            return Err(self.refuse(column, batch, row, &problem(column, batch, row, rule)));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// As [`Checker::check`], but notes all bad rows and goes on.
    pub(crate) fn find(&mut self, batch: &RecordBatch, findings: &mut Findings) {
        let mut bad = Vec::new();
        self.each_bad(batch, |column, row, rule| bad.push((column, row, rule)));
        for (column, row, rule) in bad {
            let error = || self.refuse(column, batch, row, &problem(column, batch, row, rule));
            findings.add(rule, &column.name, || row_json(self.contract, batch, row, Some(column)), error);
        }
        self.rows += batch.num_rows() as u64;
    }

    /// Notes values that do not fit their columns.
    pub(crate) fn find_misfits(&mut self, batch: &RecordBatch, misfits: &Misfits<'_>, findings: &mut Findings) {
        for (column, rows) in misfits {
            for row in rows {
                let json = || row_json(self.contract, batch, *row, Some(column));
                findings.add(Rule::Type, &column.name, json, || self.misfit(batch, misfits));
            }
        }
        self.rows += batch.num_rows() as u64;
    }

    /// The error for the first value that does not fit.
    fn misfit(&self, batch: &RecordBatch, misfits: &Misfits<'_>) -> Error {
        let Some((column, Some(row))) = misfits.first().map(|(column, rows)| (column, rows.first())) else {
            return Error::new(Kind::Internal, "a batch misfits without a row");
        };
        let found = batch.column_by_name(&column.name).map(|a| a.data_type().to_string()).unwrap_or_default();
        let problem = format!("a value does not fit the column's type: {found} into {}", column.column_type);
        self.refuse(column, batch, *row, &problem)
    }

    /// Calls `bad` for every value that the contract does not allow, column by column.
    fn each_bad(&mut self, batch: &RecordBatch, mut bad: impl FnMut(&'a Column, usize, Rule)) {
        for (column, seen) in self.contract.columns.iter().zip(&mut self.nulls) {
            let Some(array) = batch.column_by_name(&column.name) else {
                continue;
            };
            let nulls = array.logical_null_count();
            *seen += nulls as u64;
            if nulls > 0 && !column.nullable {
                (0..array.len()).filter(|row| array.is_null(*row)).for_each(|row| bad(column, row, Rule::NotNull));
            }
            each_bad_value(column, array, |row, rule| bad(column, row, rule));
        }
    }

    /// Notes the rows of an input's batch that break the contract, by column as [`judge_column`] found them, and counts
    /// the batch; returns which rows to keep, `None` where all are.
    ///
    /// `batch` holds the contract's columns; `found` is what the file has for a column.
    pub(crate) fn leave_out(
        &mut self,
        batch: &RecordBatch,
        bad: &[(&Column, &ArrayRef, Broken)],
        findings: &mut Findings,
    ) -> Option<BooleanArray> {
        let mut keep: Option<Vec<bool>> = None;
        // By row, so that the first is the first in the file.
        let mut bad: Vec<_> = bad
            .iter()
            .flat_map(|(column, found, rows)| rows.iter().map(move |(row, rule)| (column, found, row, rule)))
            .collect();
        bad.sort_by_key(|(_, _, row, _)| **row);
        for (column, found, row, rule) in bad {
            keep.get_or_insert_with(|| vec![true; batch.num_rows()])[*row] = false;
            let json = || {
                let at = format!("row {} of {}", self.rows + *row as u64, self.file);
                let row = row_json(self.contract, batch, *row, Some(column));
                match serde_json::from_str(&row) {
                    Ok(serde_json::Value::Object(mut object)) => {
                        object.insert("at".into(), at.into());
                        serde_json::Value::Object(object).to_string()
                    }
                    _ => row,
                }
            };
            let error = || {
                let problem = match rule {
                    Rule::Type => format!("{} does not fit {}", value_text(found, *row), column.column_type),
                    rule => problem(column, batch, *row, *rule),
                };
                self.refuse(column, batch, *row, &problem)
            };
            findings.add(*rule, &column.name, json, error);
        }
        self.rows += batch.num_rows() as u64;
        keep.map(BooleanArray::from)
    }

    /// Counts the nulls of rows that are kept.
    pub(crate) fn count_nulls(&mut self, batch: &RecordBatch) {
        for (column, seen) in self.contract.columns.iter().zip(&mut self.nulls) {
            *seen += batch.column_by_name(&column.name).map_or(0, |array| array.logical_null_count() as u64);
        }
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

/// The columns that tell one row from another: the grain, or without one those that hold no nulls.
fn key_columns(contract: &Contract) -> Vec<&str> {
    match contract.grain.is_empty() {
        false => contract.grain.iter().map(String::as_str).collect(),
        true => contract.columns.iter().filter(|c| !c.nullable).map(|c| c.name.as_str()).collect(),
    }
}

/// The row's grain columns as `user_id=1, item_id=7`.
pub(crate) fn key_text(contract: &Contract, batch: &RecordBatch, row: usize) -> Option<String> {
    let names = key_columns(contract);
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

/// The moments of the years 0 to 10000, microseconds since 1970 UTC. What others write for "never" and "always" (years 1
/// and 9999, in any time zone) lies within; beyond it calendars and their texts fail, and units overflow.
const MOMENTS: std::ops::Range<i64> = -62_167_219_200_000_000..253_433_923_200_000_000;

/// Calls `bad` for every value of a column that its contract does not allow; nulls are another matter.
fn each_bad_value(column: &Column, array: &ArrayRef, mut bad: impl FnMut(usize, Rule)) {
    if let Some(strings) = array.as_string_opt::<i32>() {
        if column.min_length.is_none() && column.values.is_none() {
            return;
        }
        for (row, value) in strings.iter().enumerate() {
            let Some(value) = value else { continue };
            if column.min_length.is_some_and(|n| value.len() < n) {
                bad(row, Rule::MinLength);
            } else if column.values.as_ref().is_some_and(|allowed| !allowed.iter().any(|a| a == value)) {
                bad(row, Rule::Values);
            }
        }
        return;
    }
    if let Some(times) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        let is_bad = |time: i64| !MOMENTS.contains(&time);
        times
            .iter()
            .enumerate()
            .filter(|(_, time)| time.is_some_and(is_bad))
            .for_each(|(row, _)| bad(row, Rule::Moment));
        return;
    }
    if array.as_fixed_size_list_opt().is_some() {
        if column.finite {
            (0..array.len()).filter(|row| infinite_in_vector(array, *row).is_some()).for_each(|r| bad(r, Rule::Finite));
        }
        return;
    }
    if !column.finite && column.min.is_none() && column.max.is_none() {
        return;
    }
    let broken = |value: f64| {
        if column.finite && !value.is_finite() {
            Some(Rule::Finite)
        } else if column.min.is_some_and(|min| value < min) {
            Some(Rule::Min)
        } else {
            column.max.is_some_and(|max| value > max).then_some(Rule::Max)
        }
    };
    macro_rules! scan {
        ($type:ty) => {
            if let Some(values) = array.as_primitive_opt::<$type>() {
                for (row, value) in values.iter().enumerate() {
                    if let Some(rule) = value.and_then(|v| broken(v as f64)) {
                        bad(row, rule);
                    }
                }
            }
        };
    }
    scan!(Float32Type);
    scan!(Float64Type);
    scan!(Int32Type);
    scan!(Int64Type);
}

/// The first number of a row's vector that is not finite.
fn infinite_in_vector(array: &ArrayRef, row: usize) -> Option<f32> {
    let lists = array.as_fixed_size_list_opt().filter(|l| l.is_valid(row))?;
    let width = usize::try_from(lists.value_length()).ok()?;
    let values = lists.values().as_primitive_opt::<Float32Type>()?.values();
    values.get(row * width..(row + 1) * width)?.iter().copied().find(|v| !v.is_finite())
}

/// A value as the file has it, for people: of moments the number and its unit, since no calendar may have them.
fn value_text(found: &ArrayRef, row: usize) -> String {
    let one = found.slice(row, 1);
    let (one, unit) = match found.data_type() {
        DataType::Timestamp(unit, _) => (cast(&one, &DataType::Int64).unwrap_or(one), format!(" {unit}")),
        _ => (one, String::new()),
    };
    let text = ArrayFormatter::try_new(&one, &FormatOptions::default()).map(|f| f.value(0).to_string());
    let text: String = text.unwrap_or_else(|_| "a value".into()).chars().take(80).collect();
    format!("{text}{unit}")
}

/// What is wrong with a value, for people.
fn problem(column: &Column, batch: &RecordBatch, row: usize, rule: Rule) -> String {
    let Some(array) = batch.column_by_name(&column.name) else { return rule.description().to_owned() };
    let text = array.as_string_opt::<i32>().map(|a| a.value(row)).unwrap_or_default();
    let number = infinite_in_vector(array, row).map(f64::from).or_else(|| {
        let one = cast(&array.slice(row, 1), &DataType::Float64).ok()?;
        one.as_primitive_opt::<Float64Type>().map(|v| v.value(0))
    });
    let number = || number.unwrap_or_default();
    match rule {
        Rule::NotNull => "null in a column that must not hold nulls".into(),
        Rule::MinLength if text.is_empty() => "empty text".into(),
        Rule::MinLength => "text is too short".into(),
        Rule::Values => {
            let shown: String = text.chars().take(40).collect();
            format!("{shown:?} is not one of {}", column.values.as_deref().unwrap_or_default().join(", "))
        }
        Rule::Finite => format!("{} is not a finite number", number()),
        Rule::Moment => {
            let times = array.as_primitive_opt::<TimestampMicrosecondType>();
            let time = times.map(|times| times.value(row)).unwrap_or_default();
            format!("{time} microseconds since 1970 are no moment of the years 0 to 10000")
        }
        Rule::Min => format!("{} is less than {}", number(), column.min.unwrap_or_default()),
        Rule::Max => format!("{} is greater than {}", number(), column.max.unwrap_or_default()),
        Rule::Type | Rule::Unique | Rule::Order => rule.description().to_owned(),
    }
}

/// A row's key and one more column as a JSON object. Vectors are left out: their numbers tell nobody anything; so are
/// moments that no calendar has.
pub(crate) fn row_json(contract: &Contract, batch: &RecordBatch, row: usize, column: Option<&Column>) -> String {
    let key = key_columns(contract);
    let shown = column.filter(|c| c.column_type != ColumnType::Vector && !key.contains(&c.name.as_str()));
    let names = key.iter().copied().chain(shown.map(|c| c.name.as_str()));
    let is_moment = |array: &ArrayRef| match array.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => times.is_null(0) || MOMENTS.contains(&times.value(0)),
        None => true,
    };
    let columns = names.filter_map(|n| Some((n, batch.column_by_name(n)?.slice(row, 1))));
    let columns = columns.filter(|(_, array)| is_moment(array));
    let one = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)));
    let json = one.ok().and_then(|one| json_rows(&one).ok()?.pop());
    json.unwrap_or_else(|| "{}".into())
}

/// Every row as a JSON object, nulls included. Numbers that JSON cannot write (NaN, infinities) become texts.
///
/// # Errors
/// `Kind::Internal` for a type that cannot be written as JSON.
pub(crate) fn json_rows(batch: &RecordBatch) -> Result<Vec<String>> {
    let shown = |array: &ArrayRef| {
        let doubles = array.data_type().is_floating().then(|| cast(array, &DataType::Float64).ok()).flatten();
        let wild = doubles.is_some_and(|d| d.as_primitive::<Float64Type>().iter().flatten().any(|v| !v.is_finite()));
        let text = if wild { cast(array, &DataType::Utf8).ok() } else { None };
        text.unwrap_or_else(|| Arc::clone(array))
    };
    let write = || -> Result<Vec<u8>, arrow::error::ArrowError> {
        let schema = batch.schema();
        let columns =
            schema.fields().iter().zip(batch.columns()).map(|(field, array)| (field.name(), shown(array), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        writer.write(&batch)?;
        writer.finish()?;
        Ok(writer.into_inner())
    };
    let bytes = write().context(Kind::Internal, || "failing rows cannot be written as JSON".into())?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
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

#[expect(clippy::disallowed_types, reason = "compared within one process, never kept")]
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
