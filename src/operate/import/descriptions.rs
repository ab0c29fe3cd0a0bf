//! Descriptions of items from a file of their own, CSV or Parquet: `item_id` and `description`.
//!
//! Knows these two columns; others, such as a title for people, are not read. Knows nothing of how items are written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::columns::{at, text};
use crate::error::{Error, Kind, Result};
use crate::operate::import::frames::{Texts, row_number};
use crate::operate::import::plain::{cannot_read, open};
use crate::operate::import::rows::ItemRow;
use crate::operate::import::separated::Source;
use crate::table::cast::accepts;
use crate::table::contract::Contract;

/// The columns that are read.
const COLUMNS: [&str; 2] = ["item_id", "description"];

/// How a Parquet file begins.
const PARQUET: [u8; 4] = *b"PAR1";

/// Sets the descriptions that a file has; an empty one leaves what is there. Returns how many of the file's items are not
/// among `rows`.
///
/// # Errors
/// `Kind::Input` naming file and line, or in Parquet the row from 0: a column is missing or of a wrong type, an id is empty
/// or stands twice, a text is not UTF-8.
pub(super) fn describe(rows: &mut [ItemRow], path: &Path) -> Result<u64> {
    let mut found = read(path)?;
    for row in rows {
        if let Some((Some(description), _)) = found.remove(&row.item_id) {
            row.description = Some(description);
        }
    }
    Ok(found.len() as u64)
}

/// The error where there are no items to describe.
pub(super) fn without_items(path: &Path, flag: &str) -> Error {
    Error::new(Kind::Usage, "descriptions need items to describe")
        .with("file", path.display())
        .hint(format!("name the items' file with {flag}, or leave --descriptions out"))
}

/// Descriptions by item, each with its place in the file.
type Found = BTreeMap<String, (Option<String>, u64)>;

fn read(path: &Path) -> Result<Found> {
    let mut magic = Vec::new();
    open(path)?.take(PARQUET.len() as u64).read_to_end(&mut magic).map_err(|e| cannot_read(path, e))?;
    if magic == PARQUET { read_parquet(path) } else { read_csv(path) }
}

/// Adds an item, or says what is wrong with it: `bad` makes the error, `place` names where the first of two stands.
fn add(
    found: &mut Found,
    (id, description): (Option<&str>, Option<&str>),
    row: u64,
    place: &dyn Fn(u64) -> String,
    bad: &dyn Fn(&str) -> Error,
) -> Result<()> {
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("the item is empty"))?;
    match found.entry(id.to_owned()) {
        Entry::Vacant(slot) => {
            let said = description.filter(|text| !text.trim().is_empty()).map(str::to_owned);
            slot.insert((said, row));
            Ok(())
        }
        Entry::Occupied(first) => {
            Err(bad("the item stands twice").with("key", format!("item_id={id}")).with("first", place(first.get().1)))
        }
    }
}

fn missing(path: &Path, column: &str, there: &[String]) -> Error {
    Error::new(Kind::Input, format!("the column {column} is missing"))
        .with("file", path.display())
        .with("column", column)
        .hint(format!("descriptions stand in the columns item_id and description; the file has {}", there.join(", ")))
}

fn read_csv(path: &Path) -> Result<Found> {
    let source = Source::open(path, b',', Some(b'"'))?;
    let header = source.header()?;
    if let Some(column) = COLUMNS.iter().find(|column| !header.iter().any(|name| name == *column)) {
        return Err(missing(path, column, &header));
    }
    let rows = source.read(&COLUMNS)?;
    let (ids, descriptions) = (Texts::of(&rows.frame, "item_id")?, Texts::of(&rows.frame, "description")?);
    let mut found = Found::new();
    for row in 0..rows.frame.height() {
        let number = row_number(&rows.frame, row);
        let line = |row: u64| format!("line {}", rows.lines.get(row as usize).copied().unwrap_or(0));
        add(&mut found, (ids.get(row), descriptions.get(row)), number, &line, &|why| rows.bad(number, why))?;
    }
    Ok(found)
}

fn read_parquet(path: &Path) -> Result<Found> {
    let broken =
        |why: String| Error::new(Kind::Input, "the file cannot be read").with("file", path.display()).source(why);
    let builder = ParquetRecordBatchReaderBuilder::try_new(open(path)?).map_err(|e| broken(e.to_string()))?;
    let schema = builder.schema().clone();
    let contract = Contract::builtin("item")?;
    let mut wanted = Vec::new();
    for name in COLUMNS {
        let Ok(place) = schema.index_of(name) else {
            let there: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            return Err(missing(path, name, &there));
        };
        let kind = schema.field(place).data_type();
        if contract.column(name).is_some_and(|column| !accepts(column, kind)) {
            return Err(Error::new(Kind::Input, format!("wrong type {kind}, texts are wanted"))
                .with("file", path.display())
                .with("column", name));
        }
        wanted.push(place);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let reader = builder.with_projection(mask).build().map_err(|e| broken(e.to_string()))?;
    let (mut found, mut before) = (Found::new(), 0);
    for batch in reader {
        let batch = batch.map_err(|e| broken(e.to_string()).with("row", format!("{before} or later")))?;
        let (ids, descriptions) = (text(&batch, "item_id")?, text(&batch, "description")?);
        for row in 0..batch.num_rows() {
            let number = before + row as u64;
            let bad = |why: &str| Error::new(Kind::Input, why).with("file", path.display()).with("row", number);
            add(&mut found, (at(&ids, row), at(&descriptions, row)), number, &|row| format!("row {row}"), &bad)?;
        }
        before += batch.num_rows() as u64;
    }
    Ok(found)
}
