//! Parquet files as one table in a contract's columns, order and types.
//!
//! Knows contracts, locations and DataFusion's scans. Knows nothing of which tables a session has.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::ScalarValue;
use datafusion::common::config::TableParquetOptions;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit, try_cast};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{DataFrame, ident};
use futures::StreamExt;

use crate::error::{Error, Kind, Result};
use crate::query::datafusion_error::fail;
use crate::query::event_meaning::is_read;
use crate::query::good_rows::is_good;
use crate::query::labelled::labelled;
use crate::table::contract::{Column, Contract};
use crate::table::labels::{ATTRIBUTES, Label};
use crate::table::mapping::EVENT;
use crate::table::rules::can_break;
use crate::table::source::{PathColumn, Source, source_of};
use crate::table::store::{Entry, Location};
use crate::table::store_error::{is_store_fault, missing};

/// Footers read at once when files are registered: most of the time goes by in waiting for the store.
const FOOTERS_AT_ONCE: usize = 64;

/// One Parquet file of a table.
#[derive(Debug, Clone)]
pub struct TableFile {
    /// Where it is.
    pub location: Location,
    /// Columns in its path (Hive partitions), by name; `None`: null.
    pub columns: Vec<PathColumn>,
    /// What a listing said of it; `None`: the store is asked.
    pub entry: Option<Entry>,
}

impl From<Location> for TableFile {
    fn from(location: Location) -> Self {
        TableFile { location, columns: Vec::new(), entry: None }
    }
}

impl From<Entry> for TableFile {
    fn from(entry: Entry) -> Self {
        TableFile { location: entry.location.clone(), columns: Vec::new(), entry: Some(entry) }
    }
}

/// Files of the same shape: their schema, the columns in their paths, and their URLs.
type Shape = (SchemaRef, Vec<PathColumn>, Vec<ListingTableUrl>);

/// The columns of a table: the contract's, and `extra` (a text) as the last one.
pub(super) fn schema(contract: &Contract, extra: Option<&str>) -> SchemaRef {
    let fields = contract.arrow_schema(None).fields().iter().cloned().collect::<Vec<_>>();
    let extra = extra.map(|name| Arc::new(Field::new(name, DataType::Utf8, false)));
    Arc::new(Schema::new(fields.into_iter().chain(extra).collect::<Vec<_>>()))
}

/// The rows of `files`; `None` where there are none. `extra` is a column of the path that the contract does not have; columns
/// of `labels` become texts in `attributes`, where a file has them; with `is_filtered` rows that break the contract are left
/// out, and events that the contract's job drops always.
///
/// # Errors
/// `Kind::Input` naming the file that cannot be read, or the column that no file of its shape has.
pub(super) async fn scan(
    context: &SessionContext,
    name: &str,
    contract: &Contract,
    files: &[TableFile],
    extra: Option<&'static str>,
    labels: &[Label],
    is_filtered: bool,
) -> Result<Option<DataFrame>> {
    // Files of the same shape become one scan, so that a log of many days is only a few scans.
    let mut shapes: Vec<Shape> = Vec::new();
    let options = listing_options(context);
    let state = context.state();
    let mut footers = futures::stream::iter(files.iter().map(|file| {
        context.register_object_store(file.location.store_url(), file.location.store());
        let (options, state) = (&options, &state);
        async move {
            let url = listing_url(&file.location)?;
            let schema = match &file.entry {
                // One request, for the footer.
                Some(entry) => {
                    let metas: Vec<_> = (entry.size > 0).then(|| entry.meta()).into_iter().collect();
                    options.format.infer_schema(state, &file.location.store(), &metas).await
                }
                None => options.infer_schema(state, &url).await,
            };
            let schema = schema.map_err(|e| unreadable(e, &file.location))?;
            if schema.fields().is_empty() && file.location.head().await?.is_none() {
                return Err(missing(&file.location));
            }
            Ok::<_, Error>((file, url, schema))
        }
    }))
    .buffered(FOOTERS_AT_ONCE);
    while let Some(footer) = footers.next().await {
        let (file, url, schema) = footer?;
        // Metadata differs between writers and means nothing here.
        let schema = Arc::new(Schema::new(schema.fields().clone()));
        let is_named = |n: &str| labels.iter().any(|(column, _)| column == n);
        let is_known = |n: &str| contract.columns.iter().any(|c| c.names().any(|a| a == n));
        let wanted = |n: &str| extra == Some(n) || is_named(n) || is_known(n);
        let in_path: Vec<_> = file.columns.iter().filter(|(n, _)| wanted(n)).cloned().collect();
        match shapes.iter_mut().find(|(s, t, _)| *s == schema && *t == in_path) {
            Some((_, _, urls)) => urls.push(url),
            None => shapes.push((schema, in_path, vec![url])),
        }
    }
    drop(footers);
    let mut whole: Option<DataFrame> = None;
    let width = vector_width(contract, shapes.iter().map(|(s, _, _)| s)).map_err(|e| e.with("table", name))?;
    let target = contract.arrow_schema(width);
    for (schema, in_path, urls) in shapes {
        let place = |e: DataFusionError| fail(e, "cannot register files").with("table", name);
        let first = urls.first().map(ToString::to_string).unwrap_or_default();
        let config = ListingTableConfig::new_with_multi_paths(urls)
            .with_listing_options(options.clone())
            .with_schema(Arc::clone(&schema));
        let table = ListingTable::try_new(config).map_err(place)?;
        let mut frame = context.read_table(Arc::new(table)).map_err(place)?;
        let mut fallible: Vec<(&Column, Expr)> = Vec::new();
        let mut event = None;
        let mut columns: Vec<Expr> = Vec::with_capacity(target.fields().len() + 1);
        for (column, field) in contract.columns.iter().zip(target.fields()) {
            let null = || ScalarValue::try_from(field.data_type()).map(lit).map_err(place);
            let found = match source_of(column, &schema, &in_path) {
                Some(Source::Field(found)) => ident(found.name()),
                Some(Source::Path(value)) => lit(ScalarValue::Utf8(value)),
                Some(Source::Null) => null()?,
                None if column.nullable => null()?,
                None => {
                    return Err(Error::new(Kind::Input, "a required column is missing")
                        .with("file", first)
                        .with("column", &column.name)
                        .with("table", &contract.name));
                }
            };
            let kind = found.get_type(frame.schema()).map_err(place)?;
            if is_filtered && can_break(column, &kind) {
                fallible.push((column, found.clone()));
            }
            if column.name == EVENT {
                event = Some(found.clone());
            }
            // A value that does not fit is in a row that is left out.
            let fitted = if is_filtered { try_cast } else { cast };
            let found = match column.epoch.filter(|_| kind.is_integer()) {
                Some(unit) => {
                    let moment = DataType::Timestamp(unit, Some("UTC".into()));
                    fitted(fitted(found, DataType::Int64), moment)
                }
                None => found,
            };
            let mut value = fitted(found, field.data_type().clone());
            if column.name == ATTRIBUTES && !labels.is_empty() {
                value = labelled(value, labels_of(labels, &schema, &in_path));
            }
            columns.push(value.alias(&column.name));
        }
        if let Some(extra) = extra {
            let value = in_path.iter().find(|(n, _)| n == extra).and_then(|(_, v)| v.clone()).unwrap_or_default();
            columns.push(lit(value).alias(extra));
        }
        if let Some(is_read) = is_read(&contract.events, event) {
            frame = frame.filter(is_read).map_err(place)?;
        }
        if let Some(is_good) = is_good(contract, fallible) {
            frame = frame.filter(is_good).map_err(place)?;
        }
        let frame = frame.select(columns).map_err(place)?;
        whole = Some(match whole {
            None => frame,
            Some(whole) => whole.union(frame).map_err(place)?,
        });
    }
    Ok(whole)
}

/// The rows of files of the session's own, as they are.
///
/// # Errors
/// As [`fail`].
pub(super) fn plain(context: &SessionContext, files: &[Location], schema: SchemaRef) -> Result<Arc<dyn TableProvider>> {
    for file in files {
        context.register_object_store(file.store_url(), file.store());
    }
    let config = ListingTableConfig::new_with_multi_paths(files.iter().map(listing_url).collect::<Result<Vec<_>>>()?)
        .with_listing_options(listing_options(context))
        .with_schema(schema);
    let table = ListingTable::try_new(config).map_err(|e| fail(e, "cannot register a file"))?;
    Ok(Arc::new(table))
}

/// Parquet files as the session reads them, whatever their names end in.
fn listing_options(context: &SessionContext) -> ListingOptions {
    let format = TableParquetOptions {
        global: context.copied_config().options().execution.parquet.clone(),
        ..TableParquetOptions::default()
    };
    ListingOptions::new(Arc::new(ParquetFormat::default().with_options(format))).with_file_extension("")
}

/// The labels whose columns files of a shape have, in a field or in their path, each with its column.
fn labels_of(labels: &[Label], schema: &Schema, path: &[PathColumn]) -> Vec<(String, Expr)> {
    let found = |name: &str| match schema.field_with_name(name).ok().filter(|field| !field.data_type().is_null()) {
        Some(_) => Some(ident(name)),
        None => path.iter().find(|(n, _)| n == name).map(|(_, value)| lit(ScalarValue::Utf8(value.clone()))),
    };
    labels.iter().filter_map(|(column, label)| Some((label.clone(), found(column)?))).collect()
}

/// A table whose files cannot be read: reading its rows fails with `why`.
///
/// # Errors
/// As [`fail`].
pub(super) fn unreadable_table(schema: SchemaRef, why: Error) -> Result<Arc<dyn TableProvider>> {
    let rows = Arc::new(Unreadable { schema: Arc::clone(&schema), why: Arc::new(why) });
    let table = StreamingTable::try_new(schema, vec![rows]).map_err(|e| fail(e, "cannot register a table"))?;
    Ok(Arc::new(table))
}

/// The rows of a table that cannot be read.
#[derive(Debug)]
struct Unreadable {
    schema: SchemaRef,
    why: Arc<Error>,
}

impl PartitionStream for Unreadable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let why = Arc::clone(&self.why);
        let rows = futures::stream::once(async move { Err(DataFusionError::External(Box::new(why.again()))) });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// The width of the contract's vector column as the files have it.
fn vector_width<'a>(contract: &Contract, schemas: impl Iterator<Item = &'a SchemaRef>) -> Result<Option<usize>> {
    let Some(column) = contract.vector_column() else { return Ok(None) };
    let widths: std::collections::BTreeSet<i32> = schemas
        .filter_map(|s| match s.field_with_name(&column.name).ok()?.data_type() {
            DataType::FixedSizeList(_, n) => Some(*n),
            _ => None,
        })
        .collect();
    if widths.len() > 1 {
        let error = Error::new(Kind::Config, "partitions of this table hold vectors of different widths");
        return Err(error
            .with("column", &column.name)
            .with("widths", widths.iter().map(i32::to_string).collect::<Vec<_>>().join(", "))
            .hint(
                "another encoder was used for some days: run those with --full, or keep a warehouse for each encoder",
            ));
    }
    Ok(widths.first().and_then(|n| usize::try_from(*n).ok()))
}

fn unreadable(error: DataFusionError, at: &Location) -> Error {
    let kind = if is_store_fault(&error) { Kind::Temporary } else { Kind::Input };
    Error::new(kind, "cannot read a Parquet file").with("file", at).source(error)
}

/// The URL of one file. Every character that an URL or the engine could take for something else is escaped, for the
/// engine decodes what stands here; a name ending in `/` would be a folder, and no glob stands in an URL.
fn listing_url(location: &Location) -> Result<ListingTableUrl> {
    let mut path = String::new();
    for byte in location.path().as_ref().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'=' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    let mut url = location.store_url().clone();
    url.set_path(&path);
    ListingTableUrl::try_new(url, None).map_err(|e| fail(e, "cannot name a file").with("file", location))
}
