//! Physical types against a contract's: which are accepted, and how values are brought into the contract's type.
//!
//! Knows Arrow's types and contracts. Knows nothing of which values a contract allows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;

use crate::error::{Context, Error, Kind, Result};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};

/// Whether an input's column of physical type `found` can be read as `column`.
pub(crate) fn accepts(column: &Column, found: &DataType) -> bool {
    let named = |n: &str| column.accept.iter().any(|a| a == n);
    // Writers produce this type for a column without any value; nulls are checked elsewhere.
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
        (ColumnType::TimestampUs, t) if column.epoch.is_some() && t.is_integer() => true,
        (ColumnType::Utf8, DataType::Dictionary(_, value)) => named("dictionary") && accepts(column, value),
        (ColumnType::Vector, DataType::FixedSizeList(child, _)) => child.data_type() == &DataType::Float32,
        (ColumnType::FixedVector(wanted), DataType::FixedSizeList(child, n)) => {
            child.data_type() == &DataType::Float32 && usize::try_from(*n) == Ok(*wanted)
        }
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
        t if t.is_decimal() => "decimal",
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
    let vector = match column.column_type {
        ColumnType::Vector => Some(width),
        ColumnType::FixedVector(width) => Some(width),
        _ => None,
    };
    if let Some(width) = vector {
        return as_vector(found, width).unwrap_or_else(|| Err(all())).map(|vector| (vector, Vec::new()));
    }
    let counted = match column.epoch.filter(|_| found.data_type().is_integer()) {
        Some(unit) => Some(moments(found, unit).map_err(|_| all())?),
        None => None,
    };
    let given = counted.as_ref().unwrap_or(found);
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let cast = match (&column.column_type, without_zone(given)) {
        // A timestamp without a zone is read as UTC, and Arrow would want a time zone database to say so.
        (ColumnType::TimestampUs, Some(naive)) => {
            Arc::new(naive.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
        }
        _ => cast_with_options(given, &target, &safe).map_err(|_| all())?,
    };
    // A dictionary's keys and its values have nulls of their own.
    let nulls = found.logical_nulls();
    let was_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let lost = match cast.null_count() > found.logical_null_count() {
        true => (0..cast.len()).filter(|row| cast.is_null(*row) && !was_null(*row)).collect(),
        false => Vec::new(),
    };
    Ok((cast, lost))
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

/// Whole numbers as the moments that they count since 1970 UTC, with null for those that are too large.
pub(crate) fn moments(numbers: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef, ArrowError> {
    let safe = CastOptions { safe: true, format_options: FormatOptions::default() };
    let numbers = cast_with_options(numbers, &DataType::Int64, &safe)?;
    cast_with_options(&numbers, &DataType::Timestamp(unit, None), &safe)
}

/// Timestamps in microseconds without their zone: the same instants, in UTC.
pub(crate) fn without_zone(array: &ArrayRef) -> Option<ArrayRef> {
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

/// Columns with the rows whose values do not fit.
pub(crate) type Misfits<'a> = Vec<(&'a Column, Vec<usize>)>;

/// Brings a batch that curec made into the contract's columns, order and types; every column may hold nulls. The vector
/// width is taken from the batch.
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
