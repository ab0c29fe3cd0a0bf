//! Typed access to the columns of a record batch, whatever physical type a query engine chose for them.
//!
//! Knows Arrow only.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use std::sync::Arc;

use crate::error::{Context, Error, Kind, Result};

/// The column `name`, cast to `to`.
pub fn column(batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef> {
    let found = batch
        .column_by_name(name)
        .ok_or_else(|| Error::new(Kind::Internal, "a query lacks a column").with("column", name))?;
    if found.data_type() == to {
        return Ok(found.clone());
    }
    cast(found, to).context(Kind::Internal, || format!("cannot read column {name} as {to}"))
}

/// A text column.
pub fn text(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    Ok(column(batch, name, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A whole-number column.
pub fn integers(batch: &RecordBatch, name: &str) -> Result<Int64Array> {
    Ok(column(batch, name, &DataType::Int64)?.as_primitive::<arrow::datatypes::Int64Type>().clone())
}

/// A number column.
pub fn floats(batch: &RecordBatch, name: &str) -> Result<Float64Array> {
    Ok(column(batch, name, &DataType::Float64)?.as_primitive::<arrow::datatypes::Float64Type>().clone())
}

/// A column of lists of texts; nulls are empty lists, null elements are left out.
pub fn text_lists(batch: &RecordBatch, name: &str) -> Result<Vec<Vec<String>>> {
    let to = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    Ok(as_text_lists(&column(batch, name, &to)?))
}

/// The same for an array that is already a list of `Utf8`.
pub fn as_text_lists(lists: &ArrayRef) -> Vec<Vec<String>> {
    let lists = lists.as_list::<i32>();
    (0..lists.len())
        .map(|i| {
            if lists.is_null(i) {
                return Vec::new();
            }
            let values = lists.value(i);
            values.as_string::<i32>().iter().flatten().map(str::to_string).collect()
        })
        .collect()
}

/// The value at `i`, or `None` for null.
pub fn at(array: &StringArray, i: usize) -> Option<&str> {
    array.is_valid(i).then(|| array.value(i))
}
