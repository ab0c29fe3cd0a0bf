//! Checkpoints of a Delta log: what stands after one of its versions, as a Parquet file of one action a row.
//!
//! Turns such a file into the lines of JSON that a version's own file holds, and back. Knows nothing of what actions mean.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use futures::TryStreamExt;
use futures::future::FutureExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use crate::error::{Context, Error, Kind, Result};
use crate::table::parquet_file::{damaged, open_parquet, torn};
use crate::table::store::Location;

/// What is read of a checkpoint. Statistics of columns, for one, are not: they may be of any type.
const READ: [&str; 10] = [
    "protocol",
    "metaData",
    "sidecar",
    "add.path",
    "add.partitionValues",
    "add.size",
    "add.modificationTime",
    "add.dataChange",
    "add.stats",
    "add.deletionVector",
];

/// The actions of a checkpoint file as lines of JSON. Rows of other kinds are empty objects.
///
/// # Errors
/// `Kind::Input` for a damaged file; the store's.
pub(crate) async fn read_checkpoint(at: &Location, size: u64) -> Result<Vec<u8>> {
    let builder = open_parquet(at, size).await?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), READ);
    let build = AssertUnwindSafe(|| builder.with_projection(mask).build());
    let stream = std::panic::catch_unwind(build).unwrap_or_else(|_| Err(torn()));
    let mut stream = stream.map_err(|e| damaged(&e, at))?;
    let mut lines = LineDelimitedWriter::new(Vec::new());
    loop {
        let next = AssertUnwindSafe(stream.try_next()).catch_unwind().await.unwrap_or_else(|_| Err(torn()));
        let Some(batch) = next.map_err(|e| damaged(&e, at))? else { break };
        lines.write(&batch).map_err(|e| {
            Error::new(Kind::Input, "the checkpoint of the Delta log cannot be understood").with("file", at).source(e)
        })?;
    }
    lines.finish().context(Kind::Internal, || format!("lines of {at}"))?;
    Ok(lines.into_inner())
}

/// A checkpoint file of these actions: `protocol`, `metaData` and `add`.
///
/// # Errors
/// `Kind::Internal` where an action does not have the form that the protocol wants.
pub(crate) fn encode_checkpoint(actions: &[Value]) -> Result<Vec<u8>> {
    let wrong = || "a checkpoint of the Delta log".to_owned();
    let schema = Arc::new(schema());
    let decoder = ReaderBuilder::new(Arc::clone(&schema)).build_decoder();
    let mut decoder = decoder.context(Kind::Internal, wrong)?;
    decoder.serialize(actions).context(Kind::Internal, wrong)?;
    let batch = decoder.flush().context(Kind::Internal, wrong)?;
    let encode = || -> Result<Vec<u8>, ParquetError> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        if let Some(batch) = &batch {
            writer.write(batch)?;
        }
        writer.into_inner()
    };
    encode().context(Kind::Internal, wrong)
}

fn schema() -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let whole = |name: &str| Field::new(name, DataType::Int32, true);
    let texts_by_name = |name: &str| {
        let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
        let entries = Field::new("key_value", DataType::Struct(entry.into()), false);
        Field::new(name, DataType::Map(Arc::new(entries), false), true)
    };
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(fields.into()), true);
    let texts = Field::new("partitionColumns", DataType::List(Arc::new(text("element"))), true);
    Schema::new(vec![
        group("protocol", vec![whole("minReaderVersion"), whole("minWriterVersion")]),
        group(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                group("format", vec![text("provider"), texts_by_name("options")]),
                text("schemaString"),
                texts,
                texts_by_name("configuration"),
                long("createdTime"),
            ],
        ),
        group(
            "add",
            vec![
                text("path"),
                texts_by_name("partitionValues"),
                long("size"),
                long("modificationTime"),
                Field::new("dataChange", DataType::Boolean, true),
                text("stats"),
            ],
        ),
        // Readers look for all kinds of actions, also where there are none.
        group(
            "remove",
            vec![text("path"), long("deletionTimestamp"), Field::new("dataChange", DataType::Boolean, true)],
        ),
        group("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
    ])
}
