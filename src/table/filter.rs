//! Rows of Parquet files picked by the text in one column: how many there are, and the same files without them.
//!
//! Values are compared as they are, byte for byte; numbers count as their decimal text, as in inputs. Memory: one batch
//! a file. Knows contracts and readers; knows nothing of why the rows go.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;

use crate::columns::text;
use crate::error::{Context, Kind, Result};
use crate::table::contract::Contract;
use crate::table::input::{InputReader, InputTable};
use crate::table::parquet_file::{damaged, open_parquet};
use crate::table::store::Location;

/// Some columns of a batch as texts, in the order in which they were asked for; all of one length.
pub type Texts = Vec<StringArray>;

/// Some columns of any Parquet file of `bytes` bytes as texts; `None` where the file lacks one of them.
///
/// # Errors
/// As [`open_parquet`]; `Kind::Internal` for a column that has no text.
pub async fn read_texts(
    at: &Location,
    bytes: u64,
    columns: &[&str],
) -> Result<Option<BoxStream<'static, Result<Texts>>>> {
    let builder = open_parquet(at, bytes).await?;
    let roots: Option<Vec<usize>> = columns.iter().map(|name| builder.schema().index_of(name).ok()).collect();
    let Some(roots) = roots else { return Ok(None) };
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let stream = builder.with_projection(mask).build().map_err(|e| damaged(&e, at))?;
    let (at, names) = (at.clone(), columns.iter().map(ToString::to_string).collect::<Vec<_>>());
    let texts = move |batch: parquet::errors::Result<RecordBatch>| {
        let batch = batch.map_err(|e| damaged(&e, &at))?;
        names.iter().map(|name| text(&batch, name)).collect()
    };
    Ok(Some(stream.map(texts).boxed()))
}

/// Rows of a Parquet file whose text in `column` is one of `values`; 0 where the file lacks the column.
///
/// # Errors
/// As [`read_texts`].
pub async fn count_matching(at: &Location, bytes: u64, column: &str, values: &BTreeSet<String>) -> Result<u64> {
    Ok(count_each(at, bytes, column, values).await?.values().sum())
}

/// The same by value; one that no row has is not among them.
///
/// # Errors
/// As [`read_texts`].
pub async fn count_each(
    at: &Location,
    bytes: u64,
    column: &str,
    values: &BTreeSet<String>,
) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let Some(mut stream) = read_texts(at, bytes, &[column]).await? else { return Ok(counts) };
    while let Some(texts) = stream.try_next().await? {
        for text in texts.iter().flatten().flatten() {
            match counts.get_mut(text) {
                Some(n) => *n += 1,
                None if values.contains(text) => _ = counts.insert(text.to_owned(), 1),
                None => {}
            }
        }
    }
    Ok(counts)
}

/// The rows of files in the contract's columns and in their order, without those whose text in `column` is one of
/// `values`. Null stays.
pub fn rows_without<'a>(
    contract: &'a Contract,
    tables: &'a [InputTable],
    column: &'a str,
    values: &'a BTreeSet<String>,
) -> impl Stream<Item = Result<RecordBatch>> + 'a {
    let files = tables.iter().flat_map(|table| table.files.iter().map(move |file| (table, file)));
    stream::iter(files)
        .then(move |(table, file)| InputReader::open(contract, table, file))
        .map_ok(|reader| {
            stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|rows| (rows, reader))) })
        })
        .try_flatten()
        .map(move |batch| {
            let batch = batch?;
            let texts = text(&batch, column)?;
            let keep: BooleanArray =
                texts.iter().map(|text| Some(!text.is_some_and(|text| values.contains(text)))).collect();
            filter_record_batch(&batch, &keep).context(Kind::Internal, || "cannot leave rows out".into())
        })
}
