//! The only DataFusion session: memory limit with spilling, stores, tables over files, parameters, read-only SQL.
//!
//! Knows Arrow, contracts and locations; knows nothing of jobs, models or language models. What runs here is
//! deterministic as long as its SQL orders its rows: settings that let timing decide are off.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::SpillFile;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF, cast, lit, try_cast};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{DataFrame, SessionConfig, ident};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::StreamExt;
use futures::stream::BoxStream;
use parquet::arrow::AsyncArrowWriter;
use parquet::errors::ParquetError;

use crate::config::temporary_folder;
use crate::error::{Error, Kind, Result};
use crate::query::good_rows::is_good;
use crate::scratch::Scratch;
use crate::table::check::can_break;
use crate::table::contract::{Column, Contract};
use crate::table::input::{PathColumn, Source, source_of};
use crate::table::store::{Location, is_store_fault, missing};
use crate::table::write::writer_properties;

/// Footers read at once when files are registered.
const FOOTERS_AT_ONCE: usize = 16;

/// Record batches as they are computed.
pub type BatchStream = BoxStream<'static, Result<RecordBatch>>;

/// What a session may use.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Bytes that queries may hold in memory; what does not fit is spilled where the operator can.
    pub memory_limit: usize,
    /// Threads, and so partitions of a plan; 0 = as many as the machine has.
    pub threads: usize,
    /// Where spilled rows go; `None`: the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// Rows per batch.
    pub batch_size: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { memory_limit: 1 << 30, threads: 0, spill_dir: None, batch_size: 8192 }
    }
}

/// A value for a named parameter, `$name` in SQL.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// BIGINT.
    Int(i64),
    /// DOUBLE.
    Float(f64),
    /// VARCHAR.
    Text(String),
    /// BOOLEAN.
    Bool(bool),
    /// A moment, microseconds since 1970 UTC.
    Timestamp(i64),
    /// A vector of that many zeros: what a missing embedding holds.
    ZeroVector(usize),
}

impl Param {
    fn value(&self) -> Result<ScalarValue> {
        Ok(match self {
            Param::Int(v) => ScalarValue::Int64(Some(*v)),
            Param::Float(v) => ScalarValue::Float64(Some(*v)),
            Param::Text(v) => ScalarValue::Utf8(Some(v.clone())),
            Param::Bool(v) => ScalarValue::Boolean(Some(*v)),
            Param::Timestamp(v) => ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into())),
            Param::ZeroVector(width) => {
                let field = Arc::new(Field::new("item", DataType::Float32, false));
                let width = i32::try_from(*width)
                    .map_err(|_| Error::new(Kind::Internal, format!("a vector cannot be {width} wide")))?;
                let zeros = Arc::new(Float32Array::from(vec![0.0; width.unsigned_abs() as usize]));
                let list = FixedSizeListArray::try_new(field, width, zeros, None)
                    .map_err(|e| fail(e.into(), "a zero vector"))?;
                ScalarValue::FixedSizeList(Arc::new(list))
            }
        })
    }
}

/// One Parquet file of a table.
#[derive(Debug, Clone)]
pub struct TableFile {
    /// Where it is.
    pub location: Location,
    /// Columns that its path tells (Hive partitions), by name; `None`: null.
    pub columns: Vec<PathColumn>,
}

impl From<Location> for TableFile {
    fn from(location: Location) -> Self {
        TableFile { location, columns: Vec::new() }
    }
}

/// The DataFusion session. Cheap to clone; clones share their tables and functions.
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
    /// Files of the tables that were set aside, by table; they go with the last of their holders.
    aside: Arc<Mutex<BTreeMap<String, Arc<dyn SpillFile>>>>,
    pub(super) this: Arc<tokio::sync::Mutex<()>>,
}

impl Session {
    /// Opens a session without tables.
    ///
    /// # Errors
    /// `Kind::Config` when the spill folder cannot be used.
    pub fn new(options: SessionOptions) -> Result<Self> {
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            .with_target_partitions(threads)
            .with_batch_size(options.batch_size.max(1));
        let settings = config.options_mut();
        // Under Ballista files taken from a shared queue would be read twice; and timing would decide who reads what.
        settings.execution.enable_file_stream_work_stealing = false;
        settings.execution.time_zone = Some("UTC".into());
        // One text type everywhere: contracts know only Utf8, and functions need not accept two.
        settings.sql_parser.map_string_types_to_utf8view = false;
        // As the checks of inputs read them: as nanoseconds, far moments would come out as others.
        settings.execution.parquet.coerce_int96 = Some("us".into());
        settings.execution.parquet.schema_force_view_types = false;
        let top = std::num::NonZeroUsize::MIN.saturating_add(4);
        let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_limit), top);
        let scratch = match &options.spill_dir {
            Some(folder) => Some(Scratch::within(folder).map_err(|e| {
                let is_final = matches!(
                    e.kind(),
                    ErrorKind::PermissionDenied
                        | ErrorKind::ReadOnlyFilesystem
                        | ErrorKind::NotADirectory
                        | ErrorKind::AlreadyExists
                );
                let kind = if is_final { Kind::Config } else { Kind::Temporary };
                Error::new(kind, "cannot create the folder for spilled rows").with("folder", folder.display()).source(e)
            })?),
            None => Scratch::within(&temporary_folder())
                .inspect_err(|e| tracing::debug!(error = %e, "no temporary folder: what does not fit in memory fails"))
                .ok(),
        };
        let mode = match &scratch {
            Some(scratch) => DiskManagerMode::Directories(vec![scratch.path().to_path_buf()]),
            None => DiskManagerMode::Disabled,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(Pool { pool, _scratch: scratch }))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode));
        let runtime = runtime.build_arc().map_err(|e| fail(e, "cannot open a session"))?;
        let state =
            SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        let context = SessionContext::new_with_state(state);
        Ok(Session { context, aside: Arc::default(), this: Arc::default() })
    }

    /// Makes the store behind a location readable.
    pub fn register_location(&self, location: &Location) {
        self.context.register_object_store(location.store_url(), location.store());
    }

    /// Registers batches under a name, in place of what had it.
    ///
    /// # Errors
    /// `Kind::Internal` when a batch does not have `schema`.
    pub fn register_batches(&self, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
        let table = MemTable::try_new(schema, vec![batches])
            .map_err(|e| fail(e, "cannot register rows").with("table", name))?;
        self.replace(name, Arc::new(table))
    }

    /// Registers Parquet files as one table in the contract's columns, order and types.
    ///
    /// Aliases are renamed, accepted types cast, missing nullable columns are typed nulls, unknown columns are left out;
    /// a Hive partition column of the path counts as a column of the file ([`source_of`]). Files may differ in all of
    /// this. Columns of the path that the contract does not have are left out as well.
    ///
    /// # Errors
    /// `Kind::Input` naming the file that cannot be read, or the column that no file of its shape has.
    pub async fn register_files(&self, name: &str, contract: &Contract, files: &[TableFile]) -> Result<()> {
        self.register(name, contract, files, None, false).await
    }

    /// As [`Session::register_files`], for an input of which bad rows are left out: rows that break the contract, as the
    /// check of inputs finds them, are not there.
    ///
    /// # Errors
    /// As [`Session::register_files`].
    pub async fn register_good_rows(&self, name: &str, contract: &Contract, files: &[TableFile]) -> Result<()> {
        self.register(name, contract, files, None, true).await
    }

    /// Registers all committed files of a derived table, with its partition's date as the column `dt` (text, last).
    ///
    /// The caller reads the commit records; only what they list belongs to the table.
    ///
    /// # Errors
    /// `Kind::Input` naming the file that cannot be read.
    pub async fn register_published(
        &self,
        name: &str,
        contract: &Contract,
        files: &[(Location, String)],
    ) -> Result<()> {
        let files: Vec<_> = files
            .iter()
            .map(|(location, dt)| TableFile {
                location: location.clone(),
                columns: vec![("dt".into(), Some(dt.clone()))],
            })
            .collect();
        self.register(name, contract, &files, Some("dt"), false).await
    }

    async fn register(
        &self,
        name: &str,
        contract: &Contract,
        files: &[TableFile],
        extra: Option<&'static str>,
        is_filtered: bool,
    ) -> Result<()> {
        if files.is_empty() {
            let schema = contract.arrow_schema(None);
            let fields = schema.fields().iter().cloned();
            let extra = extra.map(|name| Arc::new(Field::new(name, DataType::Utf8, false)));
            let schema = Arc::new(Schema::new(fields.chain(extra).collect::<Vec<_>>()));
            return self.register_batches(name, schema, Vec::new());
        }
        // Files of one shape become one scan; a log of many days is still a handful of scans.
        let mut shapes: Vec<Shape> = Vec::new();
        let format = TableParquetOptions {
            global: self.context.copied_config().options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let format = ParquetFormat::default().with_options(format);
        let options = ListingOptions::new(Arc::new(format)).with_file_extension("");
        let state = self.context.state();
        let mut footers = futures::stream::iter(files.iter().map(|file| {
            self.register_location(&file.location);
            let (options, state) = (&options, &state);
            async move {
                let url = listing_url(&file.location)?;
                let schema = options.infer_schema(state, &url).await.map_err(|e| unreadable(e, &file.location))?;
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
            let wanted = |n: &str| extra == Some(n) || contract.columns.iter().any(|c| c.names().any(|a| a == n));
            let told: Vec<_> = file.columns.iter().filter(|(n, _)| wanted(n)).cloned().collect();
            match shapes.iter_mut().find(|(s, t, _)| *s == schema && *t == told) {
                Some((_, _, urls)) => urls.push(url),
                None => shapes.push((schema, told, vec![url])),
            }
        }
        drop(footers);
        let mut whole: Option<DataFrame> = None;
        let width = vector_width(contract, shapes.iter().map(|(s, _, _)| s)).map_err(|e| e.with("table", name))?;
        let target = contract.arrow_schema(width);
        for (schema, told, urls) in shapes {
            let place = |e: DataFusionError| fail(e, "cannot register files").with("table", name);
            let first = urls.first().map(ToString::to_string).unwrap_or_default();
            let config = ListingTableConfig::new_with_multi_paths(urls)
                .with_listing_options(options.clone())
                .with_schema(Arc::clone(&schema));
            let table = ListingTable::try_new(config).map_err(place)?;
            let mut frame = self.context.read_table(Arc::new(table)).map_err(place)?;
            let mut judged: Vec<(&Column, Expr)> = Vec::new();
            let mut columns: Vec<Expr> = Vec::with_capacity(target.fields().len() + 1);
            for (column, field) in contract.columns.iter().zip(target.fields()) {
                let null = || ScalarValue::try_from(field.data_type()).map(lit).map_err(place);
                let found = match source_of(column, &schema, &told) {
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
                    judged.push((column, found.clone()));
                }
                // What does not fit is in a row that is left out.
                let fitted = if is_filtered { try_cast } else { cast };
                let value = fitted(found, field.data_type().clone());
                columns.push(value.alias(&column.name));
            }
            if let Some(extra) = extra {
                let value = told.iter().find(|(n, _)| n == extra).and_then(|(_, v)| v.clone()).unwrap_or_default();
                columns.push(lit(value).alias(extra));
            }
            if let Some(is_good) = is_good(contract, judged) {
                frame = frame.filter(is_good).map_err(place)?;
            }
            let frame = frame.select(columns).map_err(place)?;
            whole = Some(match whole {
                None => frame,
                Some(whole) => whole.union(frame).map_err(place)?,
            });
        }
        match whole {
            Some(frame) => self.replace(name, frame.into_view()),
            None => Ok(()),
        }
    }

    /// Sets rows aside in a temporary file beside the spilled ones and registers them as a table; returns how many.
    ///
    /// The rows come in the contract's columns and types. The file goes when the table is replaced or removed, or the
    /// session ends.
    ///
    /// # Errors
    /// The stream's own; `Kind::Temporary` when the file cannot be written.
    pub async fn register_aside(&self, name: &str, contract: &Contract, mut rows: BatchStream) -> Result<u64> {
        let unwritable = |why: String| {
            Error::new(Kind::Temporary, "cannot set a table's rows aside")
                .with("table", name)
                .hint("is there room where [resources] spill_dir points to?")
                .source(why)
        };
        let broken = |e: ParquetError| unwritable(e.to_string());
        let disk = &self.context.runtime_env().disk_manager;
        let file = disk.create_tmp_file(name).map_err(|e| unwritable(e.to_string()))?;
        let path = file.path().and_then(|p| p.to_str()).ok_or_else(|| unwritable("no local path".into()))?.to_owned();
        let mut open: Option<AsyncArrowWriter<tokio::fs::File>> = None;
        let mut n = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let writer = match &mut open {
                Some(writer) => writer,
                None => {
                    let sink = tokio::fs::File::create(&path).await.map_err(|e| unwritable(e.to_string()))?;
                    let properties = writer_properties(contract, &batch.schema(), None)?;
                    let writer = AsyncArrowWriter::try_new(sink, batch.schema(), Some(properties)).map_err(broken)?;
                    open.insert(writer)
                }
            };
            writer.write(&batch).await.map_err(broken)?;
            n += batch.num_rows() as u64;
        }
        let mut files: Vec<TableFile> = Vec::new();
        if let Some(writer) = open {
            writer.close().await.map_err(broken)?;
            files.push(Location::parse(&path)?.into());
        }
        self.register_files(name, contract, &files).await?;
        self.aside.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), file);
        Ok(n)
    }

    /// Registers a table whose files cannot be read, with its partition's date where `is_published`: queries over other
    /// tables go on, and one that reads this table gets `why`.
    ///
    /// # Errors
    /// `Kind::Internal` when the session refuses.
    pub fn register_unreadable(&self, name: &str, contract: &Contract, is_published: bool, why: Error) -> Result<()> {
        let fields = contract.arrow_schema(None).fields().iter().cloned().collect::<Vec<_>>();
        let dt = is_published.then(|| Arc::new(Field::new("dt", DataType::Utf8, false)));
        let schema = Arc::new(Schema::new(fields.into_iter().chain(dt).collect::<Vec<_>>()));
        let rows = Arc::new(Unreadable { schema: Arc::clone(&schema), why: Arc::new(why) });
        let table = StreamingTable::try_new(schema, vec![rows])
            .map_err(|e| fail(e, "cannot register a table").with("table", name))?;
        self.replace(name, Arc::new(table))
    }

    /// Gives a table a second name, in place of what had it.
    ///
    /// # Errors
    /// `Kind::Internal` when there is no table `table`.
    pub async fn register_alias(&self, name: &str, table: &str) -> Result<()> {
        let provider =
            self.context.table_provider(table).await.map_err(|e| fail(e, "no such table").with("table", table))?;
        self.replace(name, provider)
    }

    /// Registers the rows of a query under a name; the query runs anew whenever the table is read.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn register_view(&self, name: &str, text: &str, params: &[(&str, Param)]) -> Result<()> {
        let rows = self.sql(text, params).await?;
        self.replace(name, rows.frame.into_view())
    }

    /// Removes a table; nothing happens where there is none.
    ///
    /// # Errors
    /// `Kind::Internal` when the session refuses.
    pub fn deregister(&self, name: &str) -> Result<()> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.context
            .deregister_table(name)
            .map(|_| ())
            .map_err(|e| fail(e, "cannot remove a table").with("table", name))
    }

    /// Whether there is a table of that name.
    pub fn has_table(&self, name: &str) -> bool {
        self.context.table_exist(name).unwrap_or(false)
    }

    /// Names of the registered tables, sorted.
    pub fn table_names(&self) -> Vec<String> {
        let schema = self.context.catalog("datafusion").and_then(|c| c.schema("public"));
        let mut names = schema.map(|s| s.table_names()).unwrap_or_default();
        names.sort();
        names
    }

    /// Registers a scalar function.
    pub fn register_function(&self, function: ScalarUDF) {
        self.context.register_udf(function);
    }

    /// Plans SQL of our own files. Nothing is computed until the rows are asked for.
    ///
    /// # Errors
    /// `Kind::Config` for SQL that cannot be planned or a parameter without a value.
    pub async fn sql(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        self.plan(&self.context, text, params, Kind::Config).await
    }

    /// As [`Session::sql`], with joins as they are written: the left side is held in memory, as a whole, and the rows of
    /// the right side keep their order. Otherwise statistics decide, which over a whole log guess wrong.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn sql_as_written(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        let mut state = self.context.state();
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.join_reordering = false;
        optimizer.repartition_joins = false;
        // Rows that are dealt out by item are dealt out by item and anything else as well: no need to deal again.
        optimizer.subset_repartition_threshold = 1;
        self.plan(&SessionContext::new_with_state(state), text, params, Kind::Config).await
    }

    /// As [`Session::sql`], with joins of sorted rows, which spill what does not fit: for wide rows on both sides, of which
    /// none is to be held in memory as a whole.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn sql_with_sorted_joins(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        let mut state = self.context.state();
        state.config_mut().options_mut().optimizer.prefer_hash_join = false;
        self.plan(&SessionContext::new_with_state(state), text, params, Kind::Config).await
    }

    /// Plans SQL that a person typed: one SELECT, EXPLAIN, SHOW or DESCRIBE.
    ///
    /// # Errors
    /// `Kind::Usage` for anything that would write a file, make a table or change a setting, and for SQL that cannot be
    /// planned.
    pub async fn sql_read_only(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        let mut statements = DFParser::parse_sql(text).map_err(|e| planning(e, Kind::Usage))?;
        let refuse = |what: String| {
            Error::new(Kind::Usage, format!("{what} is not allowed here")).hint(
                "curec sql only reads: SELECT, EXPLAIN, SHOW and DESCRIBE; send the rows to a file with --format and >",
            )
        };
        match (statements.pop_front(), statements.len()) {
            (None, _) => return Err(Error::new(Kind::Usage, "the SQL is empty").hint("try: select 1")),
            (Some(_), 1..) => return Err(refuse("more than one statement".into())),
            (Some(statement), 0) => {
                if let Some(what) = writes(&statement) {
                    return Err(refuse(what));
                }
            }
        }
        self.plan(&self.context, text, params, Kind::Usage).await
    }

    async fn plan(&self, context: &SessionContext, text: &str, params: &[(&str, Param)], kind: Kind) -> Result<Rows> {
        // Behind the parser's check: whatever slipped through still cannot write.
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = context.sql_with_options(text, options).await.map_err(|e| planning(e, kind))?;
        let values = params.iter().map(|(n, p)| Ok(((*n).to_owned(), p.value()?))).collect::<Result<Vec<_>>>()?;
        let frame = frame.with_param_values(ParamValues::from(values)).map_err(|e| planning(e, kind))?;
        Ok(Rows { frame })
    }

    /// The physical plan of a query, as text.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn explain(&self, text: &str, params: &[(&str, Param)]) -> Result<String> {
        let rows = self.sql(text, params).await?;
        let explained = rows.frame.explain(false, false).map_err(|e| planning(e, Kind::Config))?;
        let batches = Rows { frame: explained }.collect().await?;
        arrow::util::pretty::pretty_format_batches(&batches)
            .map(|t| t.to_string())
            .map_err(|e| Error::new(Kind::Internal, "cannot show a plan").source(e))
    }

    fn replace(&self, name: &str, table: Arc<dyn datafusion::catalog::TableProvider>) -> Result<()> {
        let place = |e| fail(e, "cannot register a table").with("table", name);
        self.deregister(name)?;
        self.context.register_table(name, table).map_err(place)?;
        Ok(())
    }
}

/// The rows of a query, not computed yet.
pub struct Rows {
    pub(super) frame: DataFrame,
}

impl Rows {
    /// Their columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(self.frame.schema().as_arrow().clone())
    }

    /// Holds that no two columns have one name: readers of JSON, CSV and Parquet keep one of them, or refuse the file.
    ///
    /// # Errors
    /// `Kind::Usage` naming the column and a way out.
    pub fn each_name_once(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        let schema = self.frame.schema().as_arrow();
        match schema.fields().iter().find(|field| !seen.insert(field.name())) {
            None => Ok(()),
            Some(field) => Err(Error::new(Kind::Usage, "two columns of the result have the same name")
                .with("column", field.name())
                .hint(format!("give one of them another: select a.{0}, b.{0} as other_{0} ...", field.name()))),
        }
    }

    /// The rows sorted by columns, ascending, nulls last.
    ///
    /// # Errors
    /// `Kind::Config` when there is no such column.
    pub fn sorted_by(self, columns: &[String]) -> Result<Self> {
        if columns.is_empty() {
            return Ok(self);
        }
        let order = columns.iter().map(|c| ident(c).sort(true, false)).collect();
        Ok(Rows { frame: self.frame.sort(order).map_err(|e| planning(e, Kind::Config))? })
    }

    /// At most that many rows.
    ///
    /// # Errors
    /// `Kind::Internal` when the plan refuses.
    pub fn limit(self, rows: usize) -> Result<Self> {
        Ok(Rows { frame: self.frame.limit(0, Some(rows)).map_err(|e| fail(e, "cannot limit rows"))? })
    }

    /// The number of rows.
    ///
    /// # Errors
    /// As [`Rows::stream`].
    pub async fn count(self) -> Result<u64> {
        self.frame.count().await.map(|n| n as u64).map_err(|e| fail(e, "a query failed"))
    }

    /// The rows as they are computed, in order.
    ///
    /// # Errors
    /// What a function returned as [`Error`] comes back as it was; `Kind::Config` when memory does not suffice;
    /// `Kind::Temporary` for store failures; else `Kind::Input` for values that do not fit.
    pub async fn stream(self) -> Result<BatchStream> {
        let stream = self.frame.execute_stream().await.map_err(|e| fail(e, "a query failed"))?;
        Ok(stream.map(|b| b.map_err(|e| fail(e, "a query failed"))).boxed())
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`Rows::stream`].
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.frame.collect().await.map_err(|e| fail(e, "a query failed"))
    }
}

/// A memory pool that keeps the folder of spilled rows for as long as anything may spill.
#[derive(Debug)]
struct Pool {
    pool: TrackConsumersPool<FairSpillPool>,
    _scratch: Option<Arc<Scratch>>,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pool.fmt(f)
    }
}

impl MemoryPool for Pool {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::error::Result<()> {
        self.pool.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

/// Files with the same columns, the columns that their paths tell, and where they are.
type Shape = (SchemaRef, Vec<PathColumn>, Vec<ListingTableUrl>);

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

/// What a statement would do besides reading; `None`: it only reads.
fn writes(statement: &Statement) -> Option<String> {
    match statement {
        Statement::Explain(explain) => writes(&explain.statement),
        Statement::Statement(sql) => sql_writes(sql),
        Statement::CreateExternalTable(_) => Some("CREATE EXTERNAL TABLE".into()),
        Statement::CopyTo(_) => Some("COPY".into()),
        Statement::Reset(_) => Some("RESET".into()),
    }
}

fn sql_writes(statement: &SqlStatement) -> Option<String> {
    match statement {
        SqlStatement::Query(_)
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ExplainTable { .. } => None,
        SqlStatement::Explain { statement, .. } => sql_writes(statement),
        other => {
            let text = other.to_string();
            let words = text.split_whitespace().take_while(|w| w.chars().all(|c| c.is_ascii_uppercase()));
            let head: Vec<_> = words.take(2).collect();
            Some(if head.is_empty() { "this statement".into() } else { head.join(" ") })
        }
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

/// An error while planning: the SQL is wrong.
fn planning(error: DataFusionError, kind: Kind) -> Error {
    Error::new(kind, format!("the SQL cannot be planned: {}", first_line(&error)))
        .hint("curec sql \"show tables\" lists the tables, \"describe item\" a table's columns")
        .source(error)
}

fn first_line(error: &DataFusionError) -> String {
    error.find_root().strip_backtrace().lines().next().unwrap_or_default().to_owned()
}

/// An error while running: the kind follows from what failed.
pub(super) fn fail(error: DataFusionError, doing: &str) -> Error {
    let error = match own(error) {
        Ok(own) => return own,
        Err(error) => match find_own(&error) {
            Some(own) => return own,
            None => error,
        },
    };
    let (kind, hint) = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            (Kind::Config, Some("raise the memory limit of queries, or lower the limits on users, items and pairs"))
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => (Kind::Temporary, None),
        DataFusionError::Internal(_) => (Kind::Internal, None),
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => (Kind::Config, None),
        _ if is_store_fault(&error) => (Kind::Temporary, None),
        _ => (Kind::Input, None),
    };
    let mut told = Error::new(kind, format!("{doing}: {}", first_line(&error)));
    if let Some(hint) = hint {
        told = told.hint(hint);
    }
    told.source(error)
}

/// Finds an error of ours that a function of ours returned through DataFusion.
fn own(error: DataFusionError) -> std::result::Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(own) => Ok(*own),
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(nested) => own(*nested),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
        },
        DataFusionError::Context(text, inner) => own(*inner).map_err(|e| DataFusionError::Context(text, Box::new(e))),
        DataFusionError::ArrowError(inner, trace) => match *inner {
            arrow::error::ArrowError::ExternalError(inner) => own(DataFusionError::External(inner)),
            other => Err(DataFusionError::ArrowError(Box::new(other), trace)),
        },
        DataFusionError::Shared(inner) => match Arc::try_unwrap(inner) {
            Ok(inner) => own(inner),
            Err(inner) => Err(DataFusionError::Shared(inner)),
        },
        other => Err(other),
    }
}

/// A copy of our own error inside an error that others hold too.
fn find_own(error: &DataFusionError) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(own) = e.downcast_ref::<Error>() {
            return Some(own.again());
        }
        cause = e.source();
    }
    None
}
