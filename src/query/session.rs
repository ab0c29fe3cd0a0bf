//! The only DataFusion session: memory limit with spilling, stores, tables over files, parameters, read-only SQL.
//!
//! Knows Arrow, contracts and locations; knows nothing of jobs, models or language models. What runs here is
//! deterministic as long as its SQL orders its rows: settings that let timing decide are off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::ParamValues;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SpillFile;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::{DataFrame, ident};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::errors::ParquetError;

use crate::error::{Error, Kind, Result};
use crate::query::datafusion_error::{fail, place_of, planning};
use crate::query::set_aside::set_aside;
use crate::query::state::{config_of, state_of};
use crate::query::{read_only, scan};
use crate::table::contract::Contract;
use crate::table::labels::Label;
use crate::table::store::Location;
use crate::table::write::writer_properties;

pub use crate::query::engine::Engine;
pub use crate::query::options::SessionOptions;
pub use crate::query::parameters::Param;
pub use crate::query::scan::TableFile;

/// Record batches as they are computed.
pub type BatchStream = BoxStream<'static, Result<RecordBatch>>;

/// Files of the spilled tables, by table; a file is removed when nothing holds it any more.
type SpilledFiles = BTreeMap<String, Vec<Arc<dyn SpillFile>>>;

/// The DataFusion session. Cheap to clone; clones share their tables and functions.
#[derive(Clone)]
pub struct Session {
    pub(super) context: SessionContext,
    pub(super) engine: Engine,
    spilled: Arc<Mutex<SpilledFiles>>,
    /// Held while an audit uses the table name `this`.
    pub(super) this: Arc<tokio::sync::Mutex<()>>,
}

impl Session {
    /// Opens a session without tables.
    ///
    /// # Errors
    /// `Kind::Config` when the spill folder cannot be used.
    pub fn new(options: SessionOptions) -> Result<Self> {
        let config = options.engine.config(config_of(options.partitions(), options.batch_size));
        let state = state_of(config, options.runtime()?, options.events, Vec::new())
            .map_err(|e| fail(e, "cannot open a session"))?;
        let context = SessionContext::new_with_state(state);
        Ok(Session { context, engine: options.engine, spilled: Arc::default(), this: Arc::default() })
    }

    /// Registers batches as a table; replaces one of the same name.
    ///
    /// # Errors
    /// `Kind::Internal` when a batch does not have `schema`.
    pub fn register_batches(&self, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
        let table = MemTable::try_new(schema, vec![batches])
            .map_err(|e| fail(e, "cannot register rows").with("table", name))?;
        self.replace(name, Arc::new(table))
    }

    /// As [`Session::register_batches`], for rows that may be many: on a cluster they are set aside in a file that its
    /// executors read, where they would otherwise travel with every query.
    ///
    /// # Errors
    /// As [`Session::register_batches`]; `Kind::Temporary` when the file cannot be written.
    pub async fn register_rows(&self, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<()> {
        let n: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let folder = match self.engine.set_aside() {
            Some(folder) if n > 0 => folder,
            _ => return self.register_batches(name, schema, batches),
        };
        let rows = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
        let Some(file) = set_aside(folder, name, None, rows).await?.0 else {
            return self.register_batches(name, schema, Vec::new());
        };
        let table = scan::plain(&self.context, &[file], schema).map_err(|e| e.with("table", name))?;
        self.replace(name, table)
    }

    /// Registers Parquet files as one table in the contract's columns, order and types.
    ///
    /// Aliases are renamed, accepted types are cast, missing nullable columns become typed nulls. A Hive partition
    /// column in the path counts as a column of the file ([`source_of`](crate::table::source::source_of)). Columns that
    /// the contract does not have are left out. Files may differ in all of this.
    ///
    /// # Errors
    /// `Kind::Input` naming the file that cannot be read, or the column that no file of its shape has.
    pub async fn register_files(&self, name: &str, contract: &Contract, files: &[TableFile]) -> Result<()> {
        self.register(name, contract, files, None, &[], false).await
    }

    /// As [`Session::register_files`], under the contract's name. Columns that `labels` name become texts `Label: value`
    /// in the column `attributes`, behind those that the files have there; with `is_filtered` the rows that break the
    /// contract are left out, as the check of inputs finds them. Events that the contract's job drops are left out always.
    ///
    /// # Errors
    /// As [`Session::register_files`].
    pub async fn register_input(
        &self,
        contract: &Contract,
        files: &[TableFile],
        labels: &[Label],
        is_filtered: bool,
    ) -> Result<()> {
        self.register(&contract.name, contract, files, None, labels, is_filtered).await
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
        files: &[(TableFile, String)],
    ) -> Result<()> {
        let dated = |(file, dt): &(TableFile, String)| TableFile {
            columns: vec![("dt".into(), Some(dt.clone()))],
            ..file.clone()
        };
        let files: Vec<_> = files.iter().map(dated).collect();
        self.register(name, contract, &files, Some("dt"), &[], false).await
    }

    async fn register(
        &self,
        name: &str,
        contract: &Contract,
        files: &[TableFile],
        extra: Option<&'static str>,
        labels: &[Label],
        is_filtered: bool,
    ) -> Result<()> {
        if files.is_empty() {
            return self.register_batches(name, scan::schema(contract, extra), Vec::new());
        }
        match scan::scan(&self.context, name, contract, files, extra, labels, is_filtered).await? {
            Some(rows) => self.replace(name, rows.into_view()),
            None => Ok(()),
        }
    }

    /// Spills rows to temporary files and registers them as a table; returns how many.
    ///
    /// The rows must have the contract's columns and types. The files are removed when the table is replaced or removed,
    /// or when the session ends. There is one for each thread, and batches go to them in turn: where rows lie in an order,
    /// threads that read a file each stay side by side in it, and none waits until another one is at its end. On a cluster
    /// there is one file, where all executors read it, and whoever named that folder removes it.
    ///
    /// # Errors
    /// The stream's own; `Kind::Temporary` when a file cannot be written.
    pub async fn register_spilled(&self, name: &str, contract: &Contract, mut rows: BatchStream) -> Result<u64> {
        if let Some(folder) = self.engine.set_aside() {
            let (file, n) = set_aside(folder, name, Some(contract), rows).await?;
            let files: Vec<TableFile> = file.into_iter().map(TableFile::from).collect();
            self.register_files(name, contract, &files).await?;
            return Ok(n);
        }
        let unwritable = |why: String| {
            Error::new(Kind::Temporary, "cannot spill a table's rows")
                .with("table", name)
                .hint("is there room where [resources] spill_dir points to?")
                .source(why)
        };
        let broken = |e: ParquetError| unwritable(e.to_string());
        let disk = &self.context.runtime_env().disk_manager;
        let threads = self.context.copied_config().target_partitions().max(1);
        let (mut writers, mut files, mut held) = (Vec::new(), Vec::<TableFile>::new(), Vec::new());
        let (mut n, mut batches) = (0, 0);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let turn = batches % threads;
            if turn == writers.len() {
                let file = disk.create_tmp_file(name).map_err(|e| unwritable(e.to_string()))?;
                let path = file.path().and_then(|p| p.to_str()).ok_or_else(|| unwritable("no local path".into()))?;
                let sink = tokio::fs::File::create(path).await.map_err(|e| unwritable(e.to_string()))?;
                // Every file holds a row group until it is whole: together as much as one file would.
                let room = (contract.writer.row_group_bytes / threads).max(1);
                let properties = writer_properties(contract, &batch.schema(), None)?.into_builder();
                let properties = properties.set_max_row_group_bytes(Some(room)).build();
                writers.push(AsyncArrowWriter::try_new(sink, batch.schema(), Some(properties)).map_err(broken)?);
                files.push(Location::parse(path)?.into());
                held.push(file);
            }
            writers[turn].write(&batch).await.map_err(broken)?;
            n += batch.num_rows() as u64;
            batches += 1;
        }
        for writer in writers {
            writer.close().await.map_err(broken)?;
        }
        self.register_files(name, contract, &files).await?;
        self.spilled.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), held);
        Ok(n)
    }

    /// Registers a table whose files cannot be read, with its partition's date where `is_published`: queries over other
    /// tables work, and one that reads this table fails with `why`.
    ///
    /// # Errors
    /// `Kind::Internal` when the session refuses.
    pub fn register_unreadable(&self, name: &str, contract: &Contract, is_published: bool, why: Error) -> Result<()> {
        let schema = scan::schema(contract, is_published.then_some("dt"));
        self.replace(name, scan::unreadable_table(schema, why).map_err(|e| e.with("table", name))?)
    }

    /// Gives a table a second name; replaces a table of that name.
    ///
    /// # Errors
    /// `Kind::Internal` when there is no table `table`.
    pub async fn register_alias(&self, name: &str, table: &str) -> Result<()> {
        let provider =
            self.context.table_provider(table).await.map_err(|e| fail(e, "no such table").with("table", table))?;
        self.replace(name, provider)
    }

    /// Registers the rows of a query under a name; the query runs again whenever the table is read.
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
        self.spilled.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.context
            .deregister_table(name)
            .map(|_| ())
            .map_err(|e| fail(e, "cannot remove a table").with("table", name))
    }

    /// Whether there is a table of that name.
    pub fn has_table(&self, name: &str) -> bool {
        self.context.table_exist(name).unwrap_or(false)
    }

    /// The folder that all processes of a cluster read and write; `None` where queries are computed in this process.
    pub fn shared_folder(&self) -> Option<&Location> {
        self.engine.set_aside()
    }

    /// Names of the registered tables, sorted.
    pub fn table_names(&self) -> Vec<String> {
        let schema = self.context.catalog("datafusion").and_then(|c| c.schema("public"));
        let mut names = schema.map(|s| s.table_names()).unwrap_or_default();
        names.sort();
        names
    }

    /// The columns of a table; `None` where there is no table of that name.
    ///
    /// # Errors
    /// `Kind::Internal` when the session refuses.
    pub async fn columns_of(&self, name: &str) -> Result<Option<SchemaRef>> {
        if !self.has_table(name) {
            return Ok(None);
        }
        let table = self.context.table_provider(name).await;
        Ok(Some(table.map_err(|e| fail(e, "no such table").with("table", name))?.schema()))
    }

    /// Names of the functions, sorted: scalar ones, aggregates, and those over windows.
    pub fn function_names(&self) -> Vec<String> {
        let state = self.context.state();
        let (of_rows, of_groups) = (state.scalar_functions().keys(), state.aggregate_functions().keys());
        let names: BTreeSet<String> =
            of_rows.chain(of_groups).chain(state.window_functions().keys()).cloned().collect();
        names.into_iter().collect()
    }

    /// Registers a scalar function.
    pub fn register_function(&self, function: ScalarUDF) {
        self.context.register_udf(function);
    }

    /// Plans SQL of curec's own or of a job. Nothing is computed until the rows are read.
    ///
    /// # Errors
    /// `Kind::Config` for SQL that cannot be planned or a parameter without a value.
    pub async fn sql(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        self.plan(&self.context, text, params, Kind::Config).await
    }

    /// As [`Session::sql`], with joins as written: the left side is held in memory as a whole, and the rows of the
    /// right side keep their order. Otherwise statistics decide, and they are wrong for a whole log.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn sql_as_written(&self, text: &str, params: &[(&str, Param)]) -> Result<Rows> {
        let mut state = self.context.state();
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.join_reordering = false;
        // On a cluster no process has a whole side.
        if self.engine.is_local() {
            optimizer.repartition_joins = false;
            // Rows that are partitioned by item are also partitioned by item and any other column.
            optimizer.subset_repartition_threshold = 1;
        }
        self.plan(&SessionContext::new_with_state(state), text, params, Kind::Config).await
    }

    /// As [`Session::sql`], with sort-merge joins, which can spill: for wide rows on both sides, when neither side fits
    /// in memory.
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
        read_only::check(text)?;
        self.plan(&self.context, text, params, Kind::Usage).await
    }

    async fn plan(&self, context: &SessionContext, text: &str, params: &[(&str, Param)], kind: Kind) -> Result<Rows> {
        // A second check after the parser's: a statement that passed it still cannot write.
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = match context.sql_with_options(text, options).await {
            Ok(frame) => frame,
            Err(e) => return Err(located(context, text, options, e, kind).await),
        };
        let values = params.iter().map(|(n, p)| Ok(((*n).to_owned(), p.value()?))).collect::<Result<Vec<_>>>()?;
        let frame = frame.with_param_values(ParamValues::from(values)).map_err(|e| planning(e, kind))?;
        Ok(Rows { frame, engine: self.engine.clone() })
    }

    /// The physical plan of a query, as text.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn explain(&self, text: &str, params: &[(&str, Param)]) -> Result<String> {
        let rows = self.sql(text, params).await?;
        let explained = rows.frame.explain(false, false).map_err(|e| planning(e, Kind::Config))?;
        let batches = Rows { frame: explained, engine: Engine::Local }.collect().await?;
        arrow::util::pretty::pretty_format_batches(&batches)
            .map(|t| t.to_string())
            .map_err(|e| Error::new(Kind::Internal, "cannot show a plan").source(e))
    }

    fn replace(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
        let place = |e| fail(e, "cannot register a table").with("table", name);
        self.deregister(name)?;
        self.context.register_table(name, table).map_err(place)?;
        Ok(())
    }
}

/// An error of planning a query, with its place, and its line where the query stands in a file. The planner is asked again for
/// it: to keep track of places costs time.
async fn located(
    context: &SessionContext,
    text: &str,
    options: SQLOptions,
    error: DataFusionError,
    kind: Kind,
) -> Error {
    let mut state = context.state();
    state.config_mut().options_mut().sql_parser.collect_spans = true;
    let again = SessionContext::new_with_state(state).sql_with_options(text, options).await.err();
    let place = again.as_ref().and_then(|again| place_of(again, text));
    let told = planning(error, kind);
    let told = match &place {
        // What people type stands in no file.
        Some(found) if kind == Kind::Config => told.with("line", found.line()),
        _ => told,
    };
    told.showing(place)
}

/// The rows of a query, not computed yet.
pub struct Rows {
    pub(super) frame: DataFrame,
    engine: Engine,
}

impl Rows {
    /// Their columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(self.frame.schema().as_arrow().clone())
    }

    /// Checks that no two columns have the same name: readers of JSON, CSV and Parquet keep one of them, or refuse the
    /// file.
    ///
    /// # Errors
    /// `Kind::Usage` naming the column and how to rename it.
    pub fn each_name_once(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let schema = self.frame.schema().as_arrow();
        match schema.fields().iter().find(|field| !seen.insert(field.name())) {
            None => Ok(()),
            Some(field) => Err(Error::new(Kind::Usage, "two columns of the result have the same name")
                .with("column", field.name())
                .hint(format!("give one of them another: select a.{0}, b.{0} as other_{0} ...", field.name()))),
        }
    }

    /// Holds the types of what functions and operators get against what they take, as is done before rows are read. Computes
    /// nothing.
    ///
    /// # Errors
    /// `Kind::Config` for what does not fit.
    pub fn analyse(self) -> Result<()> {
        let (state, plan) = self.frame.into_parts();
        let analysed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {});
        analysed.map(drop).map_err(|e| planning(e, Kind::Config))
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
        Ok(Rows { frame: self.frame.sort(order).map_err(|e| planning(e, Kind::Config))?, engine: self.engine })
    }

    /// At most that many rows.
    ///
    /// # Errors
    /// `Kind::Internal` when the plan refuses.
    pub fn limit(self, rows: usize) -> Result<Self> {
        let frame = self.frame.limit(0, Some(rows)).map_err(|e| fail(e, "cannot limit rows"))?;
        Ok(Rows { frame, engine: self.engine })
    }

    /// The number of rows.
    ///
    /// # Errors
    /// As [`Rows::stream`].
    pub async fn count(self) -> Result<u64> {
        self.engine.count(self.frame).await.map_err(|e| fail(e, "a query failed"))
    }

    /// The rows as they are computed, in order.
    ///
    /// # Errors
    /// An [`Error`] of a function comes back unchanged; `Kind::Config` when memory does not suffice;
    /// `Kind::Temporary` for store failures; else `Kind::Input` for values that do not fit.
    pub async fn stream(self) -> Result<BatchStream> {
        let stream = self.engine.stream(self.frame).await.map_err(|e| fail(e, "a query failed"))?;
        Ok(stream.map(|b| b.map_err(|e| fail(e, "a query failed"))).boxed())
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`Rows::stream`].
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        if self.engine.is_local() {
            return self.frame.collect().await.map_err(|e| fail(e, "a query failed"));
        }
        self.stream().await?.try_collect().await
    }
}
