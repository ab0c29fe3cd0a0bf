//! Checks the rows of one file against their contract: types, nulls, ranges, allowed values.
//!
//! Knows contracts and record batches, not where they come from. Every refusal names the file, the column, the row
//! (0-based in its file) and the row's key. Inputs are refused at their first bad row; of tables that curec makes all
//! bad rows are counted and the first ones kept ([`Findings`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;

use crate::error::{Context, Error, Kind, Result};
use crate::table::cast::{Misfits, cast_batch, strict};
use crate::table::contract::{Column, Contract};
use crate::table::finding::{Findings, Rule};
use crate::table::keys::key_text;
use crate::table::row_json::row_json;
use crate::table::rules::{Broken, each_bad_value, problem, value_text};

/// Brings a batch that curec made (from SQL, say) into the contract's columns, order and types, and checks it.
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

/// Checks the rows of one file against a contract: nulls, NaN and infinities, ranges, allowed values, empty texts.
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
    /// `Kind::Input` for inputs, `Kind::Audit` for curec's own tables, naming file, column, row and key of a bad row.
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

    /// As [`Checker::check`], but records all bad rows and continues.
    pub(crate) fn find(&mut self, batch: &RecordBatch, findings: &mut Findings) {
        let mut bad = Vec::new();
        self.each_bad(batch, |column, row, rule| bad.push((column, row, rule)));
        for (column, row, rule) in bad {
            let error = || self.refuse(column, batch, row, &problem(column, batch, row, rule));
            findings.add(rule, &column.name, || row_json(self.contract, batch, row, Some(column)), error);
        }
        self.rows += batch.num_rows() as u64;
    }

    /// Records values that do not fit their columns.
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

    /// Records the rows of an input's batch that break the contract, by column as
    /// [`judge_column`](crate::table::rules::judge_column) found them, and counts the batch; returns which rows to
    /// keep, `None` where all are.
    ///
    /// `batch` holds the contract's columns; `found` is what the file has for a column.
    pub(crate) fn leave_out(
        &mut self,
        batch: &RecordBatch,
        bad: &[(&Column, &ArrayRef, Broken)],
        findings: &mut Findings,
    ) -> Option<BooleanArray> {
        let mut keep: Option<Vec<bool>> = None;
        // Sorted by row, so that the first finding is the first in the file.
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

    /// The error for one row of the current batch.
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
