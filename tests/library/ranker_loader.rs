//! How a ranker written in Rust reads what `curec export` wrote: dense row-major batches from Parquet.
//!
//! An example to copy; `tests/library/export.rs` uses it. It needs `parquet`, `arrow` and `serde_json`. Files are those that
//! `_export.json` lists, in row order, so batches come in the order of events. Only the columns that are used are read.

#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, TimestampMicrosecondType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

type Failure = Box<dyn std::error::Error>;

/// What a ranker looks at, for some events.
#[derive(Debug, Default)]
pub struct Batch {
    /// Who.
    pub user_ids: Vec<String>,
    /// On what.
    pub item_ids: Vec<String>,
    /// The label; NaN where there is none.
    pub ratings: Vec<f32>,
    /// When, microseconds since 1970 UTC.
    pub moments: Vec<i64>,
    /// The item's vectors, `[rows, item_width]`; zeros where `item_missing`.
    pub item_vectors: Vec<f32>,
    /// The width of an item's vector.
    pub item_width: usize,
    /// The item has no features, or none but zeros.
    pub item_missing: Vec<bool>,
    /// How old the item's features are, microseconds; `None` where there are none.
    pub item_age: Vec<Option<i64>>,
}

/// Reads an export batch by batch.
pub struct Batches {
    files: VecDeque<PathBuf>,
    open: Option<ParquetRecordBatchReader>,
    rows: usize,
}

const COLUMNS: [&str; 7] =
    ["user_id", "item_id", "rating", "event_timestamp", "item_event_timestamp", "item_embedding", "item_missing"];

impl Batches {
    /// Opens an export; batches have at most `rows` rows.
    pub fn open(folder: &Path, rows: usize) -> Result<Self, Failure> {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("_export.json"))?)?;
        let files = record["files"].as_array().ok_or("the record lists no files")?;
        let name = |file: &serde_json::Value| file["name"].as_str().map(|name| folder.join(name));
        let files = files.iter().map(name).collect::<Option<_>>().ok_or("a file has no name")?;
        Ok(Batches { files, open: None, rows })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, Failure> {
        loop {
            if let Some(batch) = self.open.as_mut().and_then(Iterator::next) {
                return dense(&batch?).map(Some);
            }
            let Some(path) = self.files.pop_front() else { return Ok(None) };
            let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
            let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
            self.open = Some(builder.with_projection(mask).with_batch_size(self.rows).build()?);
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

fn dense(batch: &RecordBatch) -> Result<Batch, Failure> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("there is no column {name}"));
    let texts = |name: &str| -> Result<Vec<String>, Failure> {
        Ok(column(name)?.as_string::<i32>().iter().flatten().map(str::to_string).collect())
    };
    let moments = column("event_timestamp")?.as_primitive::<TimestampMicrosecondType>();
    let since = column("item_event_timestamp")?.as_primitive::<TimestampMicrosecondType>();
    let vectors = column("item_embedding")?.as_fixed_size_list();
    let width = usize::try_from(vectors.value_length())?;
    // A batch may be a piece of a longer array; `value_offset` says where it begins.
    let start = usize::try_from(vectors.value_offset(0))?;
    let values = vectors.values().as_primitive::<Float32Type>().values();
    Ok(Batch {
        user_ids: texts("user_id")?,
        item_ids: texts("item_id")?,
        ratings: column("rating")?.as_primitive::<Float32Type>().iter().map(|r| r.unwrap_or(f32::NAN)).collect(),
        moments: moments.values().to_vec(),
        item_vectors: values[start..start + batch.num_rows() * width].to_vec(),
        item_width: width,
        item_missing: column("item_missing")?.as_boolean().values().iter().collect(),
        item_age: (0..batch.num_rows()).map(|i| since.is_valid(i).then(|| moments.value(i) - since.value(i))).collect(),
    })
}
