//! What every table of a run is made from, and whether its partition stands: fingerprints against commit records.
//!
//! Reads job, contracts, SQL, footers and model headers; loads no model and changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDate;

use crate::columns::{floats, integers};
use crate::config::{CorrectSpec, Interval, Job};
use crate::error::{Error, Result};
use crate::generate::answers::Examples;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::generate::prompt::PromptTemplate;
use crate::generate::registry;
use crate::job::manifest::UsageAll;
use crate::query::model::Model;
use crate::query::session::{Param, Session, SessionOptions, TableFile};
use crate::reward::saved;
use crate::table::contract::{self, Contract};
use crate::table::input::{InputFile, InputTable, open_input};
use crate::table::partition::{CommitRecord, commit_record, missing_file, partition, segments};
use crate::table::store::{Location, StoreOptions};

/// The derived tables in the order in which they are made.
pub const TABLES: [&str; 9] = [
    "user_history",
    "item_audience",
    "reason_prompt",
    "correction_prompt",
    "reason_correction",
    "reason",
    "reason_score",
    "item_feature",
    "user_feature",
];

/// Those of them that are made only where `[correct] judge` is set.
pub const CORRECTION: [&str; 2] = ["correction_prompt", "reason_correction"];

/// Tables that a run makes for the ones above and does not publish, in the order in which they are made.
const UNPUBLISHED: [&str; 5] = ["opinion", "item_taste", "item_pair", "item_category", "correction_case"];

/// A user's latest events that a judge is shown; it looks at the end of what it is shown.
const PAST_EVENTS: i64 = 100;

/// The part that tells which earlier days corrections lean on.
pub const EARLIER: &str = "earlier reasons";

/// Changes whenever the Rust code that fills a table changes what it writes.
const METHOD: &str = "1";

/// A job whose files were all found: inputs, contracts, SQL, templates.
#[derive(Clone)]
pub struct Prepared {
    /// The job.
    pub job: Job,
    /// The interval.
    pub interval: Interval,
    /// The warehouse.
    pub root: Location,
    /// Contracts of all tables by name.
    pub contracts: BTreeMap<String, Contract>,
    /// The input tables by name, without files that are surely later than the interval.
    pub inputs: BTreeMap<String, InputTable>,
    /// Table definitions by name.
    pub sql: BTreeMap<String, Model>,
    /// The models, not loaded.
    pub models: Arc<Models>,
    /// The input tables with all their files.
    found: BTreeMap<String, InputTable>,
}

/// What was published before an interval and corrections of it lean on.
pub struct Earlier {
    /// Of `reason` and `reason_prompt`, oldest first.
    pub records: Vec<CommitRecord>,
    /// Digest of their fingerprints: forgetting a user does not change it.
    pub digest: String,
}

/// What happens to one table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// Its name.
    pub table: String,
    /// What it is made from, by part.
    pub parts: BTreeMap<String, String>,
    /// Digest of the parts.
    pub fingerprint: String,
    /// Why it is built; empty: it is up to date.
    pub why: Vec<String>,
    /// The partition as it stands.
    pub standing: Option<CommitRecord>,
}

impl TablePlan {
    /// Whether the table is built.
    pub fn is_build(&self) -> bool {
        !self.why.is_empty()
    }
}

/// The tables that a table is made from.
pub fn upstream(table: &str) -> &'static [&'static str] {
    match table {
        "reason_prompt" => &["user_history", "item_audience"],
        "reason" => &["reason_prompt"],
        "reason_score" => &["reason", "reason_prompt"],
        "item_feature" => &["item_audience", "reason_score"],
        "reason_correction" => &["correction_prompt"],
        "user_feature" => &["user_history", "reason_score", "reason_correction"],
        _ => &[],
    }
}

/// Begins the names of parts that tell what the tables before one held; they are no part of a fingerprint.
const ROWS_OF: &str = "rows of ";

/// The part that tells what a table before this one held.
pub fn rows_of(table: &str) -> String {
    format!("{ROWS_OF}{table}")
}

/// One digest over the digests of a table's files.
pub fn content<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    files.for_each(|digest| {
        hasher.update(digest.as_bytes());
    });
    hasher.finalize().to_hex()[..32].to_string()
}

/// A folder of the job, where an empty text means none.
fn folder(text: &str) -> Option<&Path> {
    (!text.is_empty()).then(|| Path::new(text))
}

/// Opens a location with the job's credentials.
pub fn locate(job: &Job, text: &str) -> Result<Location> {
    Location::parse_with(text, &StoreOptions::of(job))
}

/// The contract of a table, the job's own where it has one.
pub fn contract_of(job: &Job, table: &str) -> Result<Contract> {
    Contract::find(table, folder(&job.spec.project.schemas))
}

/// Finds everything that a run of the interval needs, and holds inputs against their contracts as far as footers tell.
///
/// # Errors
/// [`Kind::Input`] for inputs, [`Kind::Config`] for contracts, SQL and templates, [`Kind::Model`] for models.
pub async fn prepare(job: &Job, interval: Interval) -> Result<Prepared> {
    let root = locate(job, &job.spec.warehouse)?;
    let mut job = job.clone();
    if !job.spec.correct.judge.is_empty() {
        // From here on a folder of this machine, wherever it came from.
        job.spec.correct.judge = registry::judge(&job, &job.spec.correct.judge).await?.display().to_string();
    }
    let job = &job;
    let mut contracts = BTreeMap::new();
    for table in contract::builtin_names() {
        contracts.insert(table.to_string(), contract_of(job, table)?);
    }
    Contract::check_references(&contract::builtin_names().filter_map(|n| contracts.get(n)).collect::<Vec<_>>())?;
    let mut sql = BTreeMap::new();
    for table in TABLES.iter().chain(&UNPUBLISHED).filter(|t| **t != "reason_score" && !CORRECTION.contains(t)) {
        sql.insert(table.to_string(), Model::find(table, folder(&job.spec.project.sql))?);
    }
    let models = Models::new(job)?;
    models.fetch().await?;
    let mut found = BTreeMap::new();
    let input = &job.spec.input;
    for (table, text) in [("interaction", &input.interaction), ("item", &input.item), ("review", &input.review)] {
        if !text.is_empty() {
            found.insert(table.to_string(), open_input(&contracts[table], &locate(job, text)?).await?);
        }
    }
    let inputs = BTreeMap::new();
    let prepared = Prepared { job: job.clone(), interval, root, contracts, inputs, sql, models, found };
    Ok(prepared.at(interval))
}

/// Leaves out files that are surely later than the interval: nothing in them can count, and a new day's logs must not
/// make an old interval look changed. Those are files whose statistics say so, and Hive partitions `dt=` that lie
/// more than `late_days` after the interval's end: logs may be filed by local time. What is no date stays.
fn keep_before(input: &mut InputTable, interval: Interval, late_days: u64) {
    let end = interval.end;
    input.files.retain(|file| file.first_event.is_none_or(|first| first < end.timestamp_micros()));
    let Some(last) = end.date_naive().checked_add_days(chrono::Days::new(late_days)) else { return };
    let parse = |day: &str| ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|f| NaiveDate::parse_from_str(day, f).ok());
    let may_count = |day: &str| parse(day).is_none_or(|day| day <= last);
    input.files.retain(|file| file.partition.iter().all(|(key, day)| key != "dt" || may_count(day)));
}

fn digest_of(value: &impl fmt::Debug) -> String {
    blake3::hash(format!("{value:?}").as_bytes()).to_hex()[..16].to_string()
}

impl Prepared {
    /// The same job, with the files that were found then, for another interval.
    pub fn at(&self, interval: Interval) -> Prepared {
        let mut inputs = self.found.clone();
        inputs.values_mut().for_each(|input| keep_before(input, interval, self.job.spec.input.late_days));
        Prepared { interval, inputs, ..self.clone() }
    }

    /// The part that tells the interval.
    fn interval_part(&self) -> String {
        format!("{}/{}", self.interval.start.to_rfc3339(), self.interval.end.to_rfc3339())
    }

    /// Whether this very interval was published, in part at least: a partition of another length does not count.
    pub async fn is_published(&self) -> Result<bool> {
        for table in TABLES {
            let record = commit_record(&self.root, table, &self.interval.dt()).await?;
            if record.is_some_and(|r| r.parts.get("interval") == Some(&self.interval_part())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tables that a run of this job makes, in order.
    pub fn tables(&self) -> impl Iterator<Item = &'static str> {
        let is_correcting = self.is_correcting();
        TABLES.into_iter().filter(move |table| is_correcting || !CORRECTION.contains(table))
    }

    /// Whether reasons of earlier runs are corrected.
    pub fn is_correcting(&self) -> bool {
        !self.job.spec.correct.judge.is_empty()
    }

    /// What was published for intervals that ended before this one began, `[correct] days` back.
    ///
    /// # Errors
    /// As [`commit_record`].
    pub async fn earlier(&self) -> Result<Earlier> {
        let (mut records, mut hasher) = (Vec::new(), blake3::Hasher::new());
        for back in (1..=self.job.spec.correct.days).rev() {
            let Some(day) = self.interval.start.date_naive().checked_sub_days(chrono::Days::new(back)) else {
                continue;
            };
            let dt = day.format("%Y-%m-%d").to_string();
            for table in ["reason", "reason_prompt"] {
                let Some(record) = commit_record(&self.root, table, &dt).await? else { continue };
                let interval = record.parts.get("interval").and_then(|text| text.split_once('/'));
                let interval = interval.and_then(|(start, end)| Interval::parse(start, end).ok());
                if interval.is_some_and(|interval| interval.end <= self.interval.start) {
                    hasher.update(format!("{table} {dt} {};", record.fingerprint).as_bytes());
                    records.push(record);
                }
            }
        }
        Ok(Earlier { records, digest: hasher.finalize().to_hex()[..32].to_string() })
    }

    /// What `table` is made from, by part; `fingerprints` holds those of the tables before it.
    fn parts(
        &self,
        table: &str,
        fingerprints: &BTreeMap<String, String>,
        earlier: &str,
    ) -> Result<BTreeMap<String, String>> {
        let spec = &self.job.spec;
        let mut parts = BTreeMap::from([
            ("contract".to_string(), self.contracts[table].digest().to_string()),
            ("method".to_string(), METHOD.to_string()),
            ("interval".to_string(), self.interval_part()),
        ]);
        let mut add = |name: &str, value: String| {
            parts.insert(name.to_string(), value);
        };
        if let Some(model) = self.sql.get(table) {
            add("sql", model.digest().to_string());
        }
        for name in self.unpublished(table) {
            add(&format!("contract {name}"), self.contracts[name].digest().to_string());
            add(&format!("sql {name}"), self.sql[name].digest().to_string());
        }
        match table {
            "user_history" | "item_audience" => {
                for name in ["interaction", "item"] {
                    if let Some(input) = self.inputs.get(name) {
                        add(&format!("input {name}"), input.digest());
                    }
                }
                add("settings [history]", digest_of(&spec.history));
            }
            "reason_prompt" => {
                for (kind, digest) in self.models.template_digests() {
                    add(&format!("template {kind}"), digest.to_string());
                }
                let print = &self.models.generator()?.fingerprint;
                add("generator", print.model_name());
                add("settings [sampling]", print.prompt_key(&[]));
            }
            // Which prompts are too long depends on it.
            "reason" => add("settings [model] max_positions", spec.model.max_positions.to_string()),
            "reason_score" => add("settings [check]", digest_of(&spec.check)),
            "correction_prompt" | "reason_correction" => {
                for name in ["interaction", "item"] {
                    if let Some(input) = self.inputs.get(name) {
                        add(&format!("input {name}"), input.digest());
                    }
                }
                let print = &self.models.generator()?.fingerprint;
                add("generator", print.model_name());
                add("settings [sampling]", print.prompt_key(&[]));
                add("settings [model] max_positions", spec.model.max_positions.to_string());
                add("settings [check]", digest_of(&spec.check));
                add("settings [history] like_threshold", spec.history.like_threshold.to_string());
                // Where the judge lies does not matter.
                let correct = CorrectSpec { judge: String::new(), template: String::new(), ..spec.correct.clone() };
                add("settings [correct]", digest_of(&correct));
                add("template rewrite", PromptTemplate::load(&spec.correct.template)?.digest().to_string());
                add("templates of answers", Examples::new()?.digest());
                add("judge", saved::digest(Path::new(&spec.correct.judge))?);
                add("encoder", self.models.encoder_files()?.digest().to_string());
                add(EARLIER, earlier.to_string());
            }
            "item_feature" | "user_feature" => add("encoder", self.models.encoder_files()?.digest().to_string()),
            _ => {}
        }
        for name in upstream(table) {
            // A table that this job does not make is no part.
            if let Some(fingerprint) = fingerprints.get(*name) {
                add(&format!("table {name}"), fingerprint.clone());
            }
        }
        Ok(parts)
    }

    /// The unpublished tables that `table` is made from, directly or not, in the order in which they are made.
    pub fn unpublished(&self, table: &str) -> Vec<&'static str> {
        let reads = |table: &str, name: &str| match self.sql.get(table) {
            Some(model) => model.tables().contains(name),
            None => CORRECTION.contains(&table) && name == "correction_case",
        };
        let mut found: Vec<&'static str> = Vec::new();
        for name in UNPUBLISHED.into_iter().rev() {
            if reads(table, name) || found.iter().any(|f| reads(f, name)) {
                found.push(name);
            }
        }
        found.reverse();
        found
    }

    /// Makes one of them and registers it; returns its rows.
    ///
    /// # Errors
    /// As [`Model::run`] and [`Session::register_aside`].
    pub async fn make_unpublished(&self, session: &Session, name: &str) -> Result<u64> {
        let contract = &self.contracts[name];
        let rows = self.sql[name].run(session, contract, &params(self)?).await?;
        session.register_aside(name, contract, rows).await
    }

    /// Removes the unpublished tables that none of `later` is made from.
    ///
    /// # Errors
    /// `Kind::Internal` when the session refuses.
    pub fn drop_unpublished<'a>(&self, session: &Session, later: impl Iterator<Item = &'a str>) -> Result<()> {
        let wanted: Vec<_> = later.flat_map(|table| self.unpublished(table)).collect();
        UNPUBLISHED.iter().filter(|name| !wanted.contains(name)).try_for_each(|name| session.deregister(name))
    }

    /// Different prompts of the standing partition of `reason` that were asked and failed.
    pub async fn failed_prompts(&self) -> Result<u64> {
        let Some(record) = commit_record(&self.root, "reason", &self.interval.dt()).await? else { return Ok(0) };
        let session = new_session(&self.job)?;
        session.register_files("reason", &self.contracts["reason"], &files_in(&self.root, &record)?).await?;
        count(&session, "select distinct prompt_key from reason where error not in ('not_generated', 'bad_format')")
            .await
    }

    /// Compares every table with its partition. `force` builds all; `retry_failed` builds `reason` where a prompt has
    /// failed. What is made from a table that is built is built as well.
    pub async fn decide(&self, force: bool, retry_failed: bool) -> Result<Vec<TablePlan>> {
        let dt = self.interval.dt();
        let mut fingerprints = BTreeMap::new();
        let mut contents: BTreeMap<&str, String> = BTreeMap::new();
        let retry_failed = retry_failed && self.failed_prompts().await? > 0;
        let mut plans: Vec<TablePlan> = Vec::new();
        let earlier = match self.is_correcting() {
            true => self.earlier().await?.digest,
            false => String::new(),
        };
        for table in self.tables() {
            let parts = self.parts(table, &fingerprints, &earlier)?;
            let mut hasher = blake3::Hasher::new();
            for (name, value) in &parts {
                hasher.update(format!("{}:{name}={}:{value};", name.len(), value.len()).as_bytes());
            }
            let fingerprint = hasher.finalize().to_hex()[..32].to_string();
            let standing = commit_record(&self.root, table, &dt).await?;
            let mut why = Vec::new();
            match &standing {
                _ if force => why.push("--full".to_string()),
                None => why.push("missing".to_string()),
                Some(old) if old.fingerprint != fingerprint => {
                    let changed = |name: &String| !name.starts_with(ROWS_OF) && old.parts.get(name) != parts.get(name);
                    let mut names: Vec<&String> =
                        parts.keys().chain(old.parts.keys()).filter(|name| changed(name)).collect();
                    names.sort();
                    names.dedup();
                    why.extend(names.into_iter().map(|name| format!("{name} changed")));
                }
                Some(old) => {
                    let replaced = |name: &&&str| {
                        let known = old.parts.get(&rows_of(name));
                        known.is_some_and(|known| contents.get(**name) != Some(known))
                    };
                    why.extend(
                        upstream(table).iter().filter(replaced).map(|name| format!("table {name} was replaced")),
                    );
                }
            }
            if let Some(standing) = &standing
                && why.is_empty()
                && let Some(file) = missing_file(&self.root, standing).await?
            {
                why.push(format!("its file {file} is gone"));
            }
            if let Some(standing) = &standing {
                contents.insert(table, content(standing.files.iter().map(|f| f.blake3.as_str())));
            }
            if why.is_empty() && retry_failed && table == "reason" {
                why.push("--retry-failed".to_string());
            }
            if why.is_empty() {
                // Equal fingerprints do not mean equal rows where a table is made again because its prompts had failed
                // or because a crash had left it behind.
                let is_built = |name: &&&str| plans.iter().any(|p| p.table == **name && p.is_build());
                why.extend(upstream(table).iter().filter(is_built).map(|name| format!("table {name} is built")));
            }
            fingerprints.insert(table.to_string(), fingerprint.clone());
            plans.push(TablePlan { table: table.to_string(), parts, fingerprint, why, standing });
        }
        Ok(plans)
    }
}

/// A session with the job's limits and nothing in it.
pub fn new_session(job: &Job) -> Result<Session> {
    let spill = &job.spec.resources.spill_dir;
    Session::new(SessionOptions {
        // The pool counts neither what is being decoded nor what is being written.
        memory_limit: job.memory_limit / 4 * 3,
        spill_dir: (!spill.is_empty()).then(|| PathBuf::from(spill)),
        ..SessionOptions::default()
    })
}

/// A session with the inputs of a run and the job's functions.
pub async fn session(prepared: &Prepared) -> Result<Session> {
    let session = new_session(&prepared.job)?;
    functions::all(&prepared.models).into_iter().for_each(|f| session.register_function(f));
    for (name, input) in &prepared.inputs {
        session.register_files(name, &prepared.contracts[name], &files_of(input)).await?;
    }
    Ok(session)
}

/// An input's files with what their paths tell.
pub fn files_of(input: &InputTable) -> Vec<TableFile> {
    let file = |f: &InputFile| TableFile { location: f.location.clone(), columns: f.partition.clone() };
    input.files.iter().map(file).collect()
}

/// The files of a published partition.
pub fn files_in(root: &Location, record: &CommitRecord) -> Result<Vec<TableFile>> {
    let folder = partition(root, &record.table, &record.dt)?;
    Ok(record.files.iter().map(|f| folder.child(&f.name).into()).collect())
}

/// Registers all committed segments of the response store as `response`.
pub async fn register_responses(session: &Session, root: &Location, contract: &Contract) -> Result<()> {
    let files: Vec<TableFile> = segments(root, "response").await?.into_iter().map(|e| e.location.into()).collect();
    session.register_files("response", contract, &files).await
}

/// The values of the table definitions' parameters.
pub fn params(prepared: &Prepared) -> Result<Vec<(&'static str, Param)>> {
    let (history, interval) = (&prepared.job.spec.history, prepared.interval);
    let moment = |t: chrono::DateTime<chrono::Utc>| Param::Timestamp(t.timestamp_micros());
    // 0 stands for all; three centuries hold every log.
    let days = |days: i64| Param::Int(if days == 0 { 110_000 } else { days });
    Ok(vec![
        ("interval_start", moment(interval.start)),
        ("interval_end", moment(interval.end)),
        ("as_of", moment(interval.end)),
        ("like_threshold", Param::Float(history.like_threshold)),
        ("history_events", Param::Int(history.events)),
        ("max_pair_events", Param::Int(history.max_pair_events)),
        ("min_support", Param::Int(history.min_support)),
        ("title_chars", Param::Int(history.title_chars)),
        ("user_active_days", days(history.user_active_days)),
        ("item_active_days", days(history.item_active_days)),
        ("max_users", Param::Int(history.max_users)),
        ("max_items", Param::Int(history.max_items)),
        ("past_events", Param::Int(PAST_EVENTS)),
        ("max_outcomes", Param::Int(prepared.job.spec.correct.max_outcomes)),
        ("zero_embedding", Param::ZeroVector(prepared.models.encoder_files()?.dimension())),
    ])
}

/// Rows of a query.
pub async fn count(session: &Session, text: &str) -> Result<u64> {
    session.sql(text, &[]).await?.count().await
}

/// An event of the interval, if there is one.
pub const EVENTS: &str = "select 1 as one from interaction \
     where event_timestamp >= $interval_start and event_timestamp < $interval_end limit 1";

/// How many items have events and no row in `item`, and one of them.
pub const UNKNOWN_ITEMS: &str = "select count(*) as n, min(item_id) as example \
     from (select distinct item_id from interaction) as i left anti join item on item.item_id = i.item_id";

/// Every attribute that the catalogue uses.
pub const CATEGORIES: &str =
    "select distinct category from (select unnest(categories) as category from item) where category is not null";

/// What a prompt must hold to be worth asking: a question about nothing has no grounded answer.
macro_rules! has_evidence {
    () => {
        "(p.subject is not null or coalesce(cardinality(p.liked), 0) + coalesce(cardinality(p.disliked), 0) \
          + coalesce(cardinality(p.related), 0) + coalesce(cardinality(p.attributes), 0) > 0)"
    };
}

/// Different prompts that are asked: those with evidence.
pub const ASKED: &str = concat!("select distinct p.prompt_key from reason_prompt as p where ", has_evidence!());

/// Of those, prompts that no response without an error exists for, each once.
pub const PENDING: &str = concat!(
    "select p.prompt_key, min(p.prompt_text) as prompt_text, min(p.answer_stem) as answer_stem \
     from reason_prompt as p \
     left anti join (select prompt_key from response where error is null) as r on r.prompt_key = p.prompt_key where ",
    has_evidence!(),
    " group by p.prompt_key order by p.prompt_key"
);

/// What was paid for the interval's prompts, whichever run paid: sums over `response`. Failed attempts count their time
/// and no tokens.
pub async fn usage_all(session: &Session, response: &Contract) -> Result<UsageAll> {
    // A job's own contract may be older than these columns.
    let column = |name: &str, kind: &str| match response.columns.iter().any(|c| c.name == name) {
        true => format!("r.{name}"),
        false => format!("cast(null as {kind})"),
    };
    let (seconds, run_id) = (column("seconds", "double"), column("run_id", "varchar"));
    let text = format!(
        "select count(*) filter (where answers > 0) as answered, count(*) filter (where answers = 0) as failed, \
           sum(attempts - answers) as failed_attempts, sum(prompt_tokens) as prompt_tokens, \
           sum(cached_tokens) as cached_tokens, sum(completion_tokens) as completion_tokens, sum(seconds) as seconds \
         from (select r.prompt_key, count(*) as attempts, count(*) filter (where r.error is null) as answers, \
             sum(case when r.error is null then r.prompt_tokens end) as prompt_tokens, \
             sum(case when r.error is null then r.cached_tokens end) as cached_tokens, \
             sum(case when r.error is null then r.completion_tokens end) as completion_tokens, \
             sum({seconds}) as seconds \
           from response as r left semi join reason_prompt as p on p.prompt_key = r.prompt_key group by r.prompt_key)"
    );
    let mut usage = UsageAll::default();
    for batch in session.sql(&text, &[]).await?.collect().await? {
        let n = |name: &str| Ok::<_, Error>(integers(&batch, name)?.iter().flatten().sum::<i64>() as u64);
        usage.answered += n("answered")?;
        usage.failed += n("failed")?;
        usage.failed_attempts += n("failed_attempts")?;
        usage.prompt_tokens += n("prompt_tokens")?;
        usage.cached_tokens += n("cached_tokens")?;
        usage.completion_tokens += n("completion_tokens")?;
        usage.seconds += floats(&batch, "seconds")?.iter().flatten().sum::<f64>();
    }
    let runs = format!(
        "select distinct {run_id} as run_id from response as r \
         left semi join reason_prompt as p on p.prompt_key = r.prompt_key where {run_id} is not null"
    );
    usage.runs = count(session, &runs).await?;
    Ok(usage)
}

/// Reasons with their evidence, for scoring. All keys are compared alike, null with null: a key compared otherwise would
/// become a filter, and the join quadratic.
pub const SCORED: &str = "select r.kind, r.user_id, r.item_id, r.as_of, r.prompt_key, r.reason, r.error, r.finish, \
     r.logprob_sum, r.completion_tokens, p.subject, p.verdict, p.liked, p.disliked, p.related, p.attributes \
     from reason as r join reason_prompt as p on (p.kind is not distinct from r.kind) and (p.user_id is not distinct from r.user_id) \
     and (p.item_id is not distinct from r.item_id) \
     order by r.kind, r.user_id nulls first, r.item_id nulls first";

/// How many reasons there are of each kind and fate.
pub const TALLY: &str = "select kind, refusal, count(*) as n from reason_score group by kind, refusal \
     order by kind, refusal nulls first";

/// Scores and lengths for the histograms: all of them, or the first 20,000.
pub const MEASURES: &str = "select score, cast(n_words as double) as n_words from reason_score \
     where score is not null order by kind, user_id nulls first, item_id nulls first limit 20000";

/// Accepted reasons of a kind with the entity that they describe.
pub fn accepted(kind: &str) -> String {
    let entity = if kind == "item" { "item_id" } else { "user_id" };
    format!(
        "select r.{entity} as entity_id, r.reason from reason as r join reason_score as s on (s.kind is not distinct from r.kind) \
         and (s.user_id is not distinct from r.user_id) and (s.item_id is not distinct from r.item_id) \
         where s.accepted and r.kind = '{kind}' order by r.{entity}, r.prompt_key"
    )
}

/// Ten reasons with their evidence for the report: the best accepted ones or the first refused ones of each kind.
pub fn samples(accepted: bool) -> String {
    let order = if accepted { "s.score desc, r.prompt_key" } else { "r.prompt_key" };
    format!(
        "select kind, entity, reason, refusal, score, subject, liked, disliked, related, attributes from ( \
           select r.kind, coalesce(r.user_id, r.item_id) as entity, r.reason, s.refusal, s.score, p.subject, p.liked, \
             p.disliked, p.related, p.attributes, row_number() over (partition by r.kind order by {order}) as place \
           from reason as r \
           join reason_score as s on (s.kind is not distinct from r.kind) and (s.user_id is not distinct from r.user_id) \
             and (s.item_id is not distinct from r.item_id) \
           join reason_prompt as p on (p.kind is not distinct from r.kind) and (p.user_id is not distinct from r.user_id) \
             and (p.item_id is not distinct from r.item_id) \
           where s.accepted = {accepted}) \
         where place <= 5 order by kind, place"
    )
}
