//! Input tables on their way to disk: through the contract's own checks and writer, all of them or none.
//!
//! What comes out is what `open_input` accepts, byte for byte the same every time. Knows contracts. Knows nothing of the
//! files that the rows come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use polars::prelude::DataFrame;

use crate::destination::{Destination, Opened};
use crate::error::{Context, Error, Kind, Result};
use crate::operate::import::descriptions::describe;
use crate::operate::import::frames::{Texts, integers};
use crate::operate::import::rows::ItemRow;
use crate::table::check::{Checker, conform};
use crate::table::contract::Contract;
use crate::table::write::writer_properties;

/// Rows per batch when files are written.
const CHUNK_ROWS: usize = 8192;

/// What an import wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// The files written, with their rows.
    pub files: Vec<(PathBuf, u64)>,
    /// Lines left out because an identical one had come before.
    pub duplicates: u64,
    /// Items without a title.
    pub items_without_title: u64,
    /// Descriptions left out because their items are not among those that were imported.
    pub unknown_descriptions: u64,
}

/// Files that are being written beside their final names; renamed together, removed when anything fails.
pub(super) struct Output {
    folder: PathBuf,
    ready: Vec<(Opened, PathBuf, u64)>,
    report: ImportReport,
}

impl Output {
    /// # Errors
    /// `Kind::Config` where the folder cannot be made.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|e| Error::new(Kind::Config, "cannot make the folder").with("file", folder.display()).source(e))?;
        Ok(Output { folder: folder.to_path_buf(), ready: Vec::new(), report: ImportReport::default() })
    }

    fn write(&mut self, table: &str, rows: usize, batch: impl Fn(usize, usize) -> Result<RecordBatch>) -> Result<()> {
        let contract = Contract::builtin(table)?;
        let target = self.folder.join(format!("{table}.parquet"));
        let io = |e: String| Error::new(Kind::Temporary, "could not write").with("file", target.display()).source(e);
        let mut file = Destination::find(&target)?.open()?;
        let schema = contract.arrow_schema(None);
        let properties = writer_properties(&contract, &schema, None)?;
        let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).map_err(|e| io(e.to_string()))?;
        let mut checker = Checker::new(&contract, target.display());
        let mut start = 0;
        while start < rows {
            let count = CHUNK_ROWS.min(rows - start);
            let checked = conform(&contract, &batch(start, count)?, &mut checker)?;
            writer.write(&checked).map_err(|e| io(e.to_string()))?;
            start += count;
        }
        writer.close().map_err(|e| io(e.to_string()))?;
        self.ready.push((file, target, rows as u64));
        Ok(())
    }

    /// Writes `interaction.parquet`; a line that repeats the one before it is left out and counted.
    pub(super) fn interactions(&mut self, frame: DataFrame) -> Result<()> {
        let rows = frame.height();
        let keep = self.unique_rows(&frame)?;
        self.report.duplicates += (rows - keep.len()) as u64;
        let texts = |name: &str| Texts::of(&frame, name);
        let (users, items, events) = (texts("user_id")?, texts("item_id")?, texts("event")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(&frame, "event_timestamp")?;
        self.write("interaction", keep.len(), |start, count| {
            let picked = || keep[start..start + count].iter().copied();
            let rating: Float32Array = picked().map(|i| ratings.and_then(|r| r.get(i))).collect();
            let time: TimestampMicrosecondArray = picked().map(|i| times.get(i)).collect();
            batch_of([
                ("user_id", users.array(picked())),
                ("item_id", items.array(picked())),
                ("event", events.array(picked())),
                ("rating", Arc::new(rating) as ArrayRef),
                ("event_timestamp", Arc::new(time.with_timezone("UTC"))),
            ])
        })
    }

    /// Rows of a sorted frame without those that repeat the one before in every column.
    fn unique_rows(&self, frame: &DataFrame) -> Result<Vec<usize>> {
        let texts = |name: &str| Texts::of(frame, name);
        let (users, items, events) = (texts("user_id")?, texts("item_id")?, texts("event")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(frame, "event_timestamp")?;
        let rating = |i: usize| ratings.and_then(|r| r.get(i));
        let same_key = |a: usize, b: usize| {
            times.get(a) == times.get(b)
                && users.get(a) == users.get(b)
                && items.get(a) == items.get(b)
                && events.get(a) == events.get(b)
        };
        let mut keep: Vec<usize> = Vec::with_capacity(frame.height());
        for row in 0..frame.height() {
            match keep.last() {
                Some(last) if same_key(*last, row) => {
                    if rating(*last) != rating(row) {
                        let key = format!(
                            "user_id={}, item_id={}, event_timestamp={}",
                            users.get(row).unwrap_or_default(),
                            items.get(row).unwrap_or_default(),
                            times.get(row).unwrap_or_default()
                        );
                        return Err(Error::new(Kind::Input, "the same event stands twice with different ratings")
                            .with("key", key));
                    }
                }
                _ => keep.push(row),
            }
        }
        Ok(keep)
    }

    /// Writes `review.parquet`.
    pub(super) fn reviews(&mut self, frame: &DataFrame) -> Result<()> {
        let texts = |name: &str| Texts::of(frame, name);
        let (users, items) = (texts("user_id")?, texts("item_id")?);
        let (summaries, bodies) = (texts("summary")?, texts("text")?);
        let ratings = frame.column("rating").ok().and_then(|c| c.f32().ok());
        let times = integers(frame, "event_timestamp")?;
        self.write("review", frame.height(), |start, count| {
            let picked = || start..start + count;
            let rating: Float32Array = picked().map(|i| ratings.and_then(|r| r.get(i))).collect();
            let time: TimestampMicrosecondArray = picked().map(|i| times.get(i)).collect();
            batch_of([
                ("user_id", users.array(picked())),
                ("item_id", items.array(picked())),
                ("event_timestamp", Arc::new(time.with_timezone("UTC")) as ArrayRef),
                ("rating", Arc::new(rating)),
                ("summary", summaries.array(picked())),
                ("text", bodies.array(picked())),
            ])
        })
    }

    /// Writes `item.parquet`, with the descriptions of a file of their own where one is given.
    pub(super) fn items(&mut self, mut rows: Vec<ItemRow>, descriptions: Option<&Path>) -> Result<()> {
        if let Some(path) = descriptions {
            self.report.unknown_descriptions = describe(&mut rows, path)?;
        }
        self.report.items_without_title = rows.iter().filter(|row| row.title.is_none()).count() as u64;
        self.write("item", rows.len(), |start, count| {
            let part = &rows[start..start + count];
            let list = |pick: fn(&ItemRow) -> Option<&Vec<String>>| -> ArrayRef {
                let mut lists = ListBuilder::new(StringBuilder::new());
                for row in part {
                    pick(row).into_iter().flatten().for_each(|text| lists.values().append_value(text));
                    lists.append(pick(row).is_some());
                }
                Arc::new(lists.finish())
            };
            let text = |pick: fn(&ItemRow) -> Option<&str>| -> ArrayRef {
                Arc::new(part.iter().map(pick).collect::<StringArray>())
            };
            let years: Int32Array = part.iter().map(|row| row.release_year).collect();
            let prices: Float32Array = part.iter().map(|row| row.price).collect();
            batch_of([
                ("item_id", text(|row| Some(row.item_id.as_str()))),
                ("title", text(|row| row.title.as_deref())),
                ("categories", list(|row| row.categories.as_ref())),
                ("description", text(|row| row.description.as_deref())),
                ("brand", text(|row| row.brand.as_deref())),
                ("release_year", Arc::new(years) as ArrayRef),
                ("people", list(|row| row.people.as_ref())),
                ("price", Arc::new(prices)),
                // No source has facts that are said already.
                ("attributes", list(|_| None)),
            ])
        })
    }

    /// Gives every file its name.
    pub(super) fn publish(mut self) -> Result<ImportReport> {
        for (file, target, rows) in std::mem::take(&mut self.ready) {
            file.finish()?;
            self.report.files.push((target, rows));
        }
        Ok(std::mem::take(&mut self.report))
    }
}

fn batch_of<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .context(Kind::Internal, || "rows to import".into())
}
