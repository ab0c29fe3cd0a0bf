//! Polars for importers and `curec inspect`: a thread of its own, paths, errors, and columns of frames.
//!
//! Knows Polars. Knows nothing of what frames hold.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use polars::prelude::{DataFrame, DataType, Int64Chunked, LazyFrame, PlRefPath, SortMultipleOptions, StringChunked};

use crate::error::{Context, Error, Kind, Result};

/// The helper column that numbers rows.
pub(super) const ROW: &str = "__row";

/// Runs Polars on a thread of its own: it blocks in ways that a thread of an asynchronous runtime may not, and a panic in
/// it must end the command, not the process.
///
/// # Errors
/// Those of `work`; `Kind::Internal` where it panicked.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "Polars broke off while it read the files")))
}

/// A path for Polars, absolute: `~x` and `a://b` are names of files here.
///
/// # Errors
/// `Kind::Input` where the path cannot be resolved.
pub(crate) fn polars_path(path: &Path) -> Result<PlRefPath> {
    let absolute = std::path::absolute(path)
        .map_err(|e| Error::new(Kind::Input, "the file cannot be read").with("file", path.display()).source(e))?;
    PlRefPath::try_from_path(&absolute).map_err(|e| unreadable(path, &e))
}

/// The error for a file that Polars cannot work with.
pub(super) fn unreadable(path: &Path, error: &polars::error::PolarsError) -> Error {
    Error::new(Kind::Input, "the file cannot be read").with("file", path.display()).source(error.to_string())
}

/// The rows sorted by columns; equal ones keep their order.
pub(super) fn sorted(lazy: LazyFrame, by: &[&str]) -> polars::error::PolarsResult<DataFrame> {
    let by: Vec<String> = by.iter().map(|s| (*s).to_owned()).collect();
    lazy.sort(by, SortMultipleOptions::default().with_maintain_order(true)).collect()
}

/// The number in the column [`ROW`].
pub(super) fn row_number(frame: &DataFrame, row: usize) -> u64 {
    let column = frame.column(ROW).ok().and_then(|c| c.cast(&DataType::UInt64).ok());
    column.and_then(|c| c.u64().ok().and_then(|numbers| numbers.get(row))).unwrap_or(0)
}

/// A text of a frame; `None`: null, or no such column.
pub(super) fn text_at(frame: &DataFrame, name: &str, row: usize) -> Option<String> {
    frame.column(name).ok()?.str().ok()?.get(row).map(str::to_owned)
}

/// A text column of a frame.
pub(super) struct Texts<'a>(&'a StringChunked);

impl<'a> Texts<'a> {
    pub(super) fn of(frame: &'a DataFrame, name: &str) -> Result<Self> {
        let column = frame.column(name).and_then(|c| c.str());
        column.map(Texts).context(Kind::Internal, || format!("column {name} to import"))
    }

    pub(super) fn get(&self, row: usize) -> Option<&'a str> {
        self.0.get(row)
    }

    pub(super) fn array(&self, rows: impl Iterator<Item = usize>) -> ArrayRef {
        Arc::new(rows.map(|row| self.get(row)).collect::<StringArray>())
    }
}

/// A column of whole numbers of a frame.
pub(super) fn integers<'a>(frame: &'a DataFrame, name: &str) -> Result<&'a Int64Chunked> {
    frame.column(name).and_then(|c| c.i64()).context(Kind::Internal, || format!("column {name} to import"))
}
