//! One Parquet file on a store: its footer, its rows as a stream, and what damage looks like.
//!
//! Knows the Parquet library and its weaknesses: it panics at some damaged files, and reads old timestamps (INT96) as
//! nanoseconds. Knows nothing of contracts.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescriptor;

use crate::error::{Error, Kind, Result};
use crate::table::cast::moments;
use crate::table::column_type::ColumnType;
use crate::table::footer::wild_count;
use crate::table::store::Location;
use crate::table::store_error::fail;

/// Rows per batch when files are read for checking.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Read from the end of a file at first: most footers are shorter.
const FOOTER_BYTES: u64 = 64 << 10;

/// Reads one object for the Parquet reader.
#[derive(Debug)]
pub struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    size: u64,
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { Ok(self.store.get_range(&self.path, range).await?) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { Ok(self.store.get_ranges(&self.path, &ranges).await?) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let (size, short) = (self.size, || ParquetError::EOF("the file is shorter than its footer".into()));
            if size < 8 {
                return Err(short());
            }
            let tail = self.get_bytes(size.saturating_sub(FOOTER_BYTES)..size).await?;
            let footer = FooterTail::try_new(tail.last_chunk().ok_or_else(short)?)?;
            if footer.is_encrypted_footer() {
                return Err(ParquetError::General("the footer is encrypted".into()));
            }
            let length = footer.metadata_length() as u64 + 8;
            let start = size.checked_sub(length).ok_or_else(short)?;
            let bytes = match tail.len().checked_sub(length as usize) {
                Some(at) => tail.slice(at..),
                None => self.get_bytes(start..size).await?,
            };
            let bytes = bytes.slice(..bytes.len() - 8);
            if let Some(what) = wild_count(&bytes) {
                return Err(ParquetError::General(what));
            }
            let options = options.map(|o| o.metadata_options());
            Ok(Arc::new(ParquetMetaDataReader::decode_metadata_with_options(&bytes, options)?))
        }
        .boxed()
    }
}

/// Opens a Parquet file of `size` bytes by its footer. Timestamps of the old type INT96 are read as microseconds: as
/// nanoseconds those before 1677 and after 2262 would wrap around.
///
/// # Errors
/// `Kind::Input` naming the file where it is missing, truncated or not Parquet; the store's own errors.
pub async fn open_parquet(at: &Location, size: u64) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>> {
    let reader = ObjectReader { store: at.store(), path: at.path().clone(), size };
    // The library panics at a schema in its own format that names types which do not exist.
    match AssertUnwindSafe(open_reader(reader)).catch_unwind().await {
        Err(_) => Err(Error::new(Kind::Input, "the Parquet file is damaged: its footer names types that do not exist")
            .with("file", at)
            .with("bytes", size)),
        Ok(Ok(builder)) => Ok(builder.with_batch_size(BATCH_ROWS)),
        Ok(Err(error)) => {
            if let Some(error) = store_error(&error) {
                return Err(fail(error, "read", at));
            }
            let end = size.min(4);
            let start = at.store().get_range(at.path(), 0..end).await.unwrap_or_default();
            let (what, hint) = match &start[..] {
                b"PAR1" => ("the Parquet file is truncated or damaged: it has no readable footer", None),
                b"" => ("the file is empty, not Parquet", None),
                [0x1f, 0x8b, ..] => ("packed by gzip, not a Parquet file", Some(conversion(at.name()))),
                _ => ("not a Parquet file", Some(conversion(at.name()))),
            };
            let error = Error::new(Kind::Input, what).with("file", at).with("bytes", size).source(error);
            Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
    }
}

/// How a text file of that name becomes Parquet, packed by gzip or not.
pub(crate) fn conversion(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.').map_or("", |(_, ending)| ending) {
        "csv" | "tsv" | "txt" => {
            "tables are Parquet: `curec import csv LOG --items ITEMS --out FOLDER` writes it, of files that gzip has packed too; \
             `curec init --interactions LOG --items ITEMS` proposes the whole command and the job"
        }
        "json" | "jsonl" | "ndjson" => {
            "tables are Parquet: `curec import jsonl LOG --metadata ITEMS --out FOLDER` writes it of lines as Amazon has them, packed \
             by gzip or not; `curec init --interactions LOG --items ITEMS` says how others become Parquet"
        }
        _ => {
            "tables are Parquet: `curec import` writes it of CSV, JSON lines and MovieLens, of files that gzip has packed too; \
             `curec init` proposes the command"
        }
    }
}

async fn open_reader(
    mut reader: ObjectReader,
) -> parquet::errors::Result<ParquetRecordBatchStreamBuilder<ObjectReader>> {
    let mut found = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new()).await?;
    if let Some(schema) = int96_in_microseconds(&found) {
        let options = ArrowReaderOptions::new().with_schema(schema);
        found = ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)?;
    }
    Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(reader, found))
}

/// The schema of a file whose timestamps have the type INT96, as Spark wrote them for years, in microseconds: in
/// nanoseconds, the default, placeholders such as 9999-12-31 would become other years. `None` where the file has none.
fn int96_in_microseconds(file: &ArrowReaderMetadata) -> Option<SchemaRef> {
    let roots = int96_columns(file.parquet_schema());
    if roots.is_empty() {
        return None;
    }
    let fields = file.schema().fields().iter().map(|field| match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) if roots.contains(field.name().as_str()) => {
            let kind = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            Arc::new(field.as_ref().clone().with_data_type(kind))
        }
        _ => Arc::clone(field),
    });
    Some(Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), file.schema().metadata().clone())))
}

/// The columns of a file that hold timestamps of the old type INT96.
pub(crate) fn int96_columns(schema: &SchemaDescriptor) -> HashSet<&str> {
    let columns = schema.columns().iter();
    columns
        .filter(|c| c.physical_type() == PhysicalType::INT96 && c.path().parts().len() == 1)
        .map(|c| c.name())
        .collect()
}

/// The earliest value of a timestamp column by the statistics of the file's row groups, microseconds since 1970 UTC;
/// `None` where a row group does not say. A column without a time zone is read as UTC, as everywhere; whole numbers count
/// `epoch` since 1970, and say nothing without it.
pub(crate) fn earliest(
    builder: &ParquetRecordBatchStreamBuilder<ObjectReader>,
    column: &str,
    epoch: Option<TimeUnit>,
) -> Option<i64> {
    let converter = StatisticsConverter::try_new(column, builder.schema(), builder.parquet_schema()).ok()?;
    let minima = || converter.row_group_mins(builder.metadata().row_groups()).ok();
    let minima = match (converter.arrow_field().data_type(), epoch) {
        (DataType::Timestamp(..), _) => minima()?,
        (found, Some(unit)) if found.is_integer() => moments(&minima()?, unit).ok()?,
        _ => return None,
    };
    // Cast as the rows will be, so that both are rounded in the same way.
    let minima = arrow::compute::cast(&minima, &ColumnType::TimestampUs.arrow(0)).ok()?;
    let minima = minima.as_primitive_opt::<TimestampMicrosecondType>()?;
    if minima.null_count() > 0 { None } else { arrow::compute::min(minima) }
}

/// The greatest values of a column by the statistics of the file's row groups, null where one does not say; `None` where no
/// statistics can be read.
pub(crate) fn greatest_of(builder: &ParquetRecordBatchStreamBuilder<ObjectReader>, column: &str) -> Option<ArrayRef> {
    let converter = StatisticsConverter::try_new(column, builder.schema(), builder.parquet_schema()).ok()?;
    converter.row_group_maxes(builder.metadata().row_groups()).ok()
}

pub(crate) fn damaged(error: &ParquetError, at: &Location) -> Error {
    if let Some(error) = store_error(error) {
        return fail(error, "read", at);
    }
    Error::new(Kind::Input, "the Parquet file is damaged").with("file", at).source(error.to_string())
}

/// The error for a panic of the library at damaged pages.
pub(crate) fn torn() -> ParquetError {
    ParquetError::General("its pages cannot be understood".into())
}

/// The store's error inside a Parquet error: a network fault does not mean that the file is damaged.
fn store_error(error: &ParquetError) -> Option<&object_store::Error> {
    match error {
        ParquetError::External(inner) => inner.downcast_ref::<object_store::Error>(),
        _ => None,
    }
}
