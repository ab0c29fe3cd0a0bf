//! Rows as JSON objects, for samples of bad rows in reports and the quarantine.
//!
//! Knows record batches and contracts. Knows nothing of why a row is shown.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};

use crate::error::{Context, Kind, Result};
use crate::table::column_type::ColumnType;
use crate::table::contract::{Column, Contract};
use crate::table::keys::key_columns;
use crate::table::rules::MOMENTS;

/// A row's key and one more column as a JSON object. Vectors are left out, since nobody reads their numbers, and so are
/// timestamps outside of any calendar.
pub(crate) fn row_json(contract: &Contract, batch: &RecordBatch, row: usize, column: Option<&Column>) -> String {
    let key = key_columns(contract);
    let is_vector = |c: &Column| matches!(c.column_type, ColumnType::Vector | ColumnType::FixedVector(_));
    let shown = column.filter(|c| !is_vector(c) && !key.contains(&c.name.as_str()));
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
