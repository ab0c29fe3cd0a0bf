//! A job's tables in a session: inputs, answers, published partitions.
//!
//! Knows jobs, contracts and where files lie; knows nothing of which tables are built, or why.

use std::path::{Path, PathBuf};

use crate::columns::{floats, integers};
use crate::config::{HistorySpec, Job};
use crate::error::{Error, Result};
use crate::night::manifest::UsageAll;
use crate::night::snapshot::{self, Snapshots};
use crate::project::column;
use crate::query::session::{BatchStream, Engine, Param, Session, SessionOptions, TableFile};
use crate::query::texts;
use crate::table::column_type::ColumnType;
use crate::table::contract::Contract;
use crate::table::input::{InputFile, InputTable, check_input, open_labelled};
use crate::table::labels::Label;
use crate::table::listing::list_input;
use crate::table::mapping::{as_carried, carried_as};
use crate::table::partition::{CommitRecord, partition, segments};
use crate::table::store::{Location, StoreOptions};

/// The inputs, as table definitions name them.
pub const INPUTS: [&str; 5] = [INTERACTION, ITEM, "review", PAIR, CHOICE];

/// The log.
const INTERACTION: &str = "interaction";

/// The candidates of users and items, where the job names any.
pub const PAIR: &str = "pair";

/// What stands best in the place of items' reasons, where the job names it.
pub const CHOICE: &str = "item_choice";

/// The input whose further columns a job may name.
pub(crate) const ITEM: &str = "item";

/// The prompts that wait, for the query that sorts them.
const WAITING: &str = "prompt_that_waits";

/// One digest over the digests of a table's files.
pub fn content<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    files.for_each(|digest| {
        hasher.update(digest.as_bytes());
    });
    hasher.finalize().to_hex()[..32].to_string()
}

/// The inputs that a job names, with where they lie.
pub fn inputs_of(job: &Job) -> impl Iterator<Item = (&'static str, &str)> {
    let input = &job.spec.input;
    let all = [
        (INTERACTION, &input.interaction),
        (ITEM, &input.item),
        ("review", &input.review),
        (PAIR, &input.pair),
        (CHOICE, &job.spec.correct.item_choices),
    ];
    all.into_iter().map(|(table, text)| (table, text.as_str())).filter(|(_, text)| !text.is_empty())
}

/// A folder of the job, where an empty text means none.
pub(super) fn folder(text: &str) -> Option<&Path> {
    (!text.is_empty()).then(|| Path::new(text))
}

/// Opens a location with the job's credentials.
pub fn locate(job: &Job, text: &str) -> Result<Location> {
    Location::parse_with(text, &StoreOptions::of(job))
}

/// The contract of a table, the job's own where it has one, with the column of a projection where the job names one, and of
/// an input as the job's files carry it.
///
/// # Errors
/// As [`Contract::find`] and [`as_carried`].
pub fn contract_of(job: &Job, table: &str) -> Result<Contract> {
    of_job(Contract::find(table, folder(&job.spec.project.schemas))?, job)
}

/// A contract with what a job adds to it.
pub(super) fn of_job(contract: Contract, job: &Job) -> Result<Contract> {
    let contract = as_carried(contract, &job.spec)?;
    Ok(if is_projecting(job) { column::extended(contract) } else { contract })
}

/// Whether a job names a projection, so that tables of features have its column.
fn is_projecting(job: &Job) -> bool {
    !job.spec.model.projection.is_empty()
}

/// A session with the job's limits and nothing in it, in this process.
pub fn new_session(job: &Job) -> Result<Session> {
    new_session_on(job, Engine::Local)
}

/// Bytes that the queries of a job may hold in memory. The pool counts neither what is being decoded nor what is being written.
pub(super) fn query_memory(job: &Job) -> usize {
    job.memory_limit / 4 * 3
}

/// Where a job's queries spill; `None`: the system's temporary folder.
pub(super) fn spill_dir(job: &Job) -> Option<PathBuf> {
    let folder = &job.spec.resources.spill_dir;
    (!folder.is_empty()).then(|| PathBuf::from(folder))
}

/// As [`new_session`], whose queries are computed by an engine.
pub(super) fn new_session_on(job: &Job, engine: Engine) -> Result<Session> {
    Session::new(SessionOptions {
        memory_limit: query_memory(job),
        spill_dir: spill_dir(job),
        events: job.spec.events.meanings(),
        engine,
        ..SessionOptions::default()
    })
}

/// Opens an input at the place that the job names, with the share of bad rows that the job allows and, of items, the
/// columns that it names as attributes; of dated snapshots the latest one.
///
/// # Errors
/// As [`open_labelled`]; `Kind::Config` for a file that is part of no snapshot, where there should be snapshots.
pub async fn open_input_of(job: &Job, contract: &Contract, text: &str) -> Result<InputTable> {
    if contract.name == ITEM && has_snapshots(job) {
        return Ok(as_job_says(job, contract, list_snapshots(job, contract, text).await?.open(None).await?));
    }
    let input = open_labelled(contract, &locate(job, text)?, labels_of(job, contract)).await?;
    Ok(as_job_says(job, contract, input))
}

/// The columns of an input that a job names as attributes.
fn labels_of<'a>(job: &'a Job, contract: &Contract) -> &'a [Label] {
    if contract.name == ITEM { &job.spec.evidence.attributes.0[..] } else { &[] }
}

/// Whether the job's items are dated snapshots.
pub(crate) fn has_snapshots(job: &Job) -> bool {
    job.spec.input.item_snapshot == snapshot::LATEST
}

/// Lists the snapshots of a job's items; none is opened.
///
/// # Errors
/// As [`list_input`]; `Kind::Config` for a file that is part of no snapshot.
pub(super) async fn list_snapshots(job: &Job, contract: &Contract, text: &str) -> Result<Snapshots> {
    let listed = list_input(&locate(job, text)?).await.map_err(|e| e.with("table", &contract.name))?;
    Snapshots::new(contract, labels_of(job, contract), listed)
}

/// An opened input with the share of bad rows that the job allows and, of items, a warning of undated attributes.
pub(super) fn as_job_says(job: &Job, contract: &Contract, input: InputTable) -> InputTable {
    let mut input = input.allowing(job.spec.input.max_bad_fraction);
    if contract.name != ITEM {
        return input;
    }
    let undated: Vec<&str> = job.spec.evidence.undated_columns().collect();
    if !undated.is_empty() {
        input.warnings.push(format!(
            "undated columns are attributes ({}): nobody knows when they were counted, so they may hold what happened after \
             the day that is built, and flatter every measurement",
            undated.join(", ")
        ));
    }
    input
}

/// Opens the job's log for recommenders, which read the built-in contract.
///
/// # Errors
/// As [`contract_of`] and [`open_input_of`].
pub async fn open_log(job: &Job) -> Result<(Contract, InputTable)> {
    let contract = carried_as(Contract::builtin(INTERACTION)?, &contract_of(job, INTERACTION)?);
    let input = open_input_of(job, &contract, &job.spec.input.interaction).await?;
    Ok((contract, input))
}

/// The keys that put a file in the contract's own columns in the place of a job's items.
pub fn items_at(job: &Job, file: &Path) -> Vec<String> {
    let own = |(column, _): &(String, String)| format!("input.columns.item.{column}={column}");
    let columns = job.spec.input.columns.of(ITEM).iter().map(own);
    [format!("input.item={}", file.display()), "input.item_snapshot=".to_owned()].into_iter().chain(columns).collect()
}

/// Holds an input against the share of bad rows that the job allows, where it allows any: those who read it without a run
/// have not looked at its rows.
///
/// # Errors
/// As [`check_input`].
pub async fn hold_bad_rows(contract: &Contract, input: &InputTable) -> Result<()> {
    if input.max_bad_fraction > 0.0 {
        check_input(contract, input).await?;
    }
    Ok(())
}

/// Registers an input under its contract's name: the one place that decides whether queries see its bad rows, and which
/// further columns they see as attributes.
///
/// # Errors
/// As [`Session::register_input`].
pub async fn register_input(session: &Session, contract: &Contract, input: &InputTable) -> Result<()> {
    session.register_input(contract, &files_of(input), &input.labels, input.max_bad_fraction > 0.0).await
}

/// An input's files with what their paths tell.
pub fn files_of(input: &InputTable) -> Vec<TableFile> {
    let file = |f: &InputFile| TableFile { location: f.location.clone(), columns: f.partition.clone(), entry: None };
    input.files.iter().map(file).collect()
}

/// The files of a published partition.
pub fn files_in(root: &Location, record: &CommitRecord) -> Result<Vec<TableFile>> {
    let folder = partition(root, &record.table, &record.dt)?;
    Ok(record.files.iter().map(|f| folder.child(&f.name).into()).collect())
}

/// Registers all committed segments of the response store as `response`. Columns that a job's own, older contract lacks are
/// there for what reads them, as in segments of before.
pub async fn register_responses(session: &Session, root: &Location, contract: &Contract) -> Result<()> {
    let files: Vec<TableFile> = segments(root, "response").await?.into_iter().map(TableFile::from).collect();
    session.register_files("response", &with_every_column(contract)?, &files).await
}

/// A job's contract of the answers with the columns that a newer one has, which may be null.
///
/// # Errors
/// None that is known; as [`Contract::builtin`].
pub(super) fn with_every_column(response: &Contract) -> Result<Contract> {
    let mut contract = response.clone();
    let lacking = Contract::builtin("response")?.columns.into_iter().filter(|column| column.nullable);
    let lacking: Vec<_> = lacking.filter(|column| contract.column(&column.name).is_none()).collect();
    contract.columns.extend(lacking);
    Ok(contract)
}

/// `$like_threshold`, rounded to the type that `interaction` has its ratings in: a rating of just the threshold is a like,
/// in every table, example and case that compares them. SQL compares a single with a double as doubles.
pub fn like_threshold(history: &HistorySpec, interaction: &Contract) -> Param {
    match interaction.column("rating").map(|column| &column.column_type) {
        Some(ColumnType::Float32) => Param::Float(f64::from(history.liked())),
        _ => Param::Float(history.like_threshold),
    }
}

/// The prompts that no answer counts for yet, of those that may be asked `attempts` times: by key, or for a job that may not pay for
/// all of them those first that are worth most.
///
/// # Errors
/// The session's.
pub async fn pending_prompts(session: &Session, attempts: usize, is_by_worth: bool) -> Result<BatchStream> {
    let attempts = [("attempts", Param::Int(attempts as i64))];
    // A job's own prompts may be made of other tables.
    if !is_by_worth || !["item_audience", "user_history"].iter().all(|table| session.has_table(table)) {
        return session.sql_with_sorted_joins(texts::PENDING_PROMPTS, &attempts).await?.stream().await;
    }
    session.register_view(WAITING, texts::PENDING_PROMPTS, &attempts).await?;
    let rows = session.sql_with_sorted_joins(texts::PROMPTS_BY_WORTH, &[]).await?.stream().await?;
    session.deregister(WAITING)?;
    Ok(rows)
}

/// Rows of a query.
pub async fn count(session: &Session, text: &str) -> Result<u64> {
    session.sql(text, &[]).await?.count().await
}

/// What was paid for the interval's prompts, whichever run paid: sums over `response`. Failed attempts count their time
/// and no tokens.
///
/// # Errors
/// The session's.
pub async fn usage_all(session: &Session, response: &Contract) -> Result<UsageAll> {
    let mut usage = UsageAll::default();
    for batch in session.sql(texts::USAGE, &[]).await?.collect().await? {
        let n = |name: &str| Ok::<_, Error>(integers(&batch, name)?.iter().flatten().sum::<i64>() as u64);
        usage.answered += n("answered")?;
        usage.failed += n("failed")?;
        usage.failed_attempts += n("failed_attempts")?;
        usage.prompt_tokens += n("prompt_tokens")?;
        usage.cached_tokens += n("cached_tokens")?;
        usage.completion_tokens += n("completion_tokens")?;
    }
    // A job's own contract may be older than these columns.
    if response.column("seconds").is_some() {
        for batch in session.sql(texts::USAGE_SECONDS, &[]).await?.collect().await? {
            usage.seconds += floats(&batch, "seconds")?.iter().flatten().sum::<f64>();
        }
    }
    if response.column("run_id").is_some() {
        usage.runs = count(session, texts::USAGE_RUNS).await?;
    }
    Ok(usage)
}
