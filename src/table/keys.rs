//! Keys of rows: their columns, as text for people, and as bytes and hashes that compare.
//!
//! Knows contracts and record batches, not where they come from.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Context, Kind, Result};
use crate::table::cast::without_zone;
use crate::table::contract::Contract;

/// The columns that identify a row: the grain, or without one those that hold no nulls.
pub(crate) fn key_columns(contract: &Contract) -> Vec<&str> {
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
