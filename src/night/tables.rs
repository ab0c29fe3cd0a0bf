//! What every table of a run is made from, and whether its partition stands: fingerprints against commit records.
//!
//! Reads job, contracts, SQL, footers and model headers; loads no model and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};

use crate::columns::{floats, integers};
use crate::config::{CorrectSpec, HistorySpec, Interval, Job, JobSpec, parse_moment};
use crate::error::{Error, Kind, Result};
use crate::fingerprint::Fingerprint;
use crate::generate::answers::Examples;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::generate::prompt::PromptTemplate;
use crate::night::learned::{self, Learned};
use crate::night::manifest::UsageAll;
use crate::query::model::Model;
use crate::query::session::{Param, Session, SessionOptions, TableFile};
use crate::registry::export;
use crate::reward::checks::Language;
use crate::reward::saved;
use crate::table::contract::{self, ColumnType, Contract};
use crate::table::input::{InputFile, InputTable, check_input, open_input};
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

/// The inputs, as table definitions name them.
const INPUTS: [&str; 3] = ["interaction", "item", "review"];

/// Begins the names of parts that tell until when a model has learned that wrote of earlier events; what follows is the
/// model's place in the job, the value a moment in RFC 3339. Tables without such a part were made by no such model, as far
/// as records tell.
pub const LEARNED_LATER: &str = "learned from later events: ";

/// The version of each way of building: it changes whenever Rust code changes what it writes into the table, or what a
/// parameter of its SQL means.
fn version(table: &str) -> u32 {
    match table {
        // 2: `$like_threshold` is rounded as ratings are.
        "user_history" | "item_audience" | "correction_prompt" | "reason_correction" => 2,
        _ => 1,
    }
}

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
    /// Until when the models have learned.
    pub learned: Learned,
    /// The input tables with all their files.
    found: BTreeMap<String, InputTable>,
}

/// What was published before an interval and corrections of it lean on.
pub struct Earlier {
    /// Of `reason` and `reason_prompt`, oldest first.
    pub records: Vec<CommitRecord>,
    /// Digest of their fingerprints: forgetting a user does not change it.
    pub digest: String,
    /// Until when models have learned that wrote them, where that is after the day they wrote of.
    pub learned_until: Option<DateTime<Utc>>,
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

/// What a table is made from, but for the tables before it.
#[derive(Default)]
struct Reads {
    tables: BTreeSet<String>,
    params: BTreeSet<String>,
    generator: bool,
    templates: bool,
    encoder: bool,
}

/// Digest of a section's settings.
fn settings(section: &str, of: &impl serde::Serialize) -> Result<String> {
    Ok(Fingerprint::new("settings", 1).add_settings(section, of)?.digest())
}

/// The tables that a table is made from wherever its SQL is the built-in one, or that Rust reads for it.
fn upstream(table: &str) -> &'static [&'static str] {
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

/// Says so where a model is asked in English for reasons of another language.
fn warn_of_english_templates(spec: &JobSpec) {
    let asks_in_english = |name: &String| PromptTemplate::builtin(name).is_some();
    let names = [("item", &spec.prompt.item), ("history", &spec.prompt.history)];
    let built_in: Vec<&str> = names.iter().filter(|(_, name)| asks_in_english(name)).map(|(kind, _)| *kind).collect();
    if Language::of(&spec.check.language) != Language::default() && !built_in.is_empty() {
        tracing::warn!(
            language = spec.check.language,
            templates = built_in.join(", "),
            "the built-in prompt templates are English; name files with templates of the language in [prompt]"
        );
    }
}

/// Finds everything that a run of the interval needs, and holds inputs against their contracts as far as footers tell.
///
/// # Errors
/// [`Kind::Input`] for inputs, [`Kind::NotArrived`] for those that are not there yet, [`Kind::Config`] for contracts, SQL and templates, [`Kind::Model`] for models.
pub async fn prepare(job: &Job, interval: Interval) -> Result<Prepared> {
    let root = locate(job, &job.spec.warehouse)?;
    let (mut job, mut judged) = (job.clone(), None);
    if !job.spec.correct.judge.is_empty() {
        // From here on a folder of this machine, wherever it came from.
        let (folder, card) = export::judge(&job, &job.spec.correct.judge).await?;
        judged = learned::told(&job, &job.spec.correct.judge, card.as_ref()).await?;
        job.spec.correct.judge = folder.display().to_string();
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
    warn_of_english_templates(&job.spec);
    models.fetch().await?;
    let learned = Learned {
        generator: learned::of_generator(job).await?,
        adapter: learned::told(job, &job.spec.model.adapter, models.promoted()).await?,
        judge: judged,
    };
    let mut found = BTreeMap::new();
    let input = &job.spec.input;
    for (table, text) in [("interaction", &input.interaction), ("item", &input.item), ("review", &input.review)] {
        if !text.is_empty() {
            let late = |e: Error| match e.kind() {
                Kind::NotArrived => e.of_kind(job.spec.interval.late()),
                _ => e,
            };
            found.insert(table.to_string(), open_input_of(job, &contracts[table], text).await.map_err(late)?);
        }
    }
    let inputs = BTreeMap::new();
    let prepared = Prepared { job: job.clone(), interval, root, contracts, inputs, sql, models, learned, found };
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
    input
        .files
        .retain(|file| file.partition.iter().all(|(key, day)| key != "dt" || day.as_deref().is_none_or(may_count)));
}

/// The moments that [`LEARNED_LATER`] tells of among a table's parts, by the model's place in the job.
pub fn learned_later(parts: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, DateTime<Utc>)> {
    parts
        .iter()
        .filter_map(|(name, until)| Some((name.strip_prefix(LEARNED_LATER)?, parse_moment("learned", until).ok()?)))
}

/// The interval that parts tell.
fn interval_of(parts: &BTreeMap<String, String>) -> Option<Interval> {
    let (start, end) = parts.get("interval")?.split_once('/')?;
    Interval::parse(start, end).ok()
}

/// The first moment after the interval that a partition was made for.
pub fn as_of(record: &CommitRecord) -> Option<DateTime<Utc>> {
    interval_of(&record.parts).map(|interval| interval.end)
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

    /// Whether nothing was published for the interval's day, by a run of whatever length.
    pub async fn is_vacant(&self) -> Result<bool> {
        for table in TABLES {
            if commit_record(&self.root, table, &self.interval.dt()).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a lookback looks at the interval: it was published, or may be for the first time.
    pub async fn is_looked_back_at(&self) -> Result<bool> {
        Ok(self.is_published().await? || (self.job.spec.interval.lookback_missing && self.is_vacant().await?))
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
        let (mut records, mut hasher, mut learned_until) = (Vec::new(), blake3::Hasher::new(), None);
        for back in (1..=self.job.spec.correct.days).rev() {
            let Some(day) = self.interval.start.date_naive().checked_sub_days(chrono::Days::new(back)) else {
                continue;
            };
            let dt = day.format("%Y-%m-%d").to_string();
            for table in ["reason", "reason_prompt"] {
                let Some(record) = commit_record(&self.root, table, &dt).await? else { continue };
                if as_of(&record).is_some_and(|end| end <= self.interval.start) {
                    learned_until = learned_until.max(learned_later(&record.parts).map(|(_, until)| until).max());
                    hasher.update(format!("{table} {dt} {};", record.fingerprint).as_bytes());
                    records.push(record);
                }
            }
        }
        Ok(Earlier { records, digest: hasher.finalize().to_hex()[..32].to_string(), learned_until })
    }

    /// What `table` is made from; `fingerprints` holds those of the tables before it.
    fn made_from(
        &self,
        table: &'static str,
        fingerprints: &BTreeMap<&'static str, String>,
        earlier: Option<&Earlier>,
    ) -> Result<Fingerprint> {
        let spec = &self.job.spec;
        let mut made = Fingerprint::new(table, version(table));
        made.add("contract", self.contracts[table].digest()).add("interval", self.interval_part());
        if let Some(model) = self.sql.get(table) {
            made.add("sql", model.digest());
        }
        for name in self.unpublished(table) {
            made.add(format!("contract {name}"), self.contracts[name].digest());
            made.add(format!("sql {name}"), self.sql[name].digest());
        }
        let reads = self.reads(table);
        // Which rows of an input count depends on whether bad ones are left out, not on how many may be.
        if spec.input.max_bad_fraction > 0.0 && INPUTS.iter().any(|name| reads.tables.contains(*name)) {
            made.add("bad rows of inputs", "left out");
        }
        for name in INPUTS.into_iter().filter(|name| reads.tables.contains(*name)) {
            made.add(format!("contract {name}"), self.contracts[name].digest());
            if let Some(input) = self.inputs.get(name) {
                made.add(format!("input {name}"), input.digest());
            }
        }
        if reads.tables.contains("response") {
            made.add("contract response", self.contracts["response"].digest());
        }
        self.add_parameters(&reads, &mut made)?;
        if reads.generator {
            let print = &self.models.generator()?.fingerprint;
            made.add("generator", print.model_name()).add("settings [sampling]", print.prompt_key(&[]));
        }
        if reads.templates {
            for (kind, digest) in self.models.template_digests() {
                made.add(format!("template {kind}"), digest);
            }
        }
        if reads.encoder {
            made.add("encoder", self.models.encoder_files()?.digest());
        }
        match table {
            // Which prompts are too long depends on it.
            "reason" => _ = made.add("settings [model] max_positions", spec.model.max_positions),
            "reason_score" => _ = made.add("settings [check]", settings("check", &spec.check)?),
            "correction_prompt" | "reason_correction" => {
                made.add("settings [model] max_positions", spec.model.max_positions);
                made.add("settings [check]", settings("check", &spec.check)?);
                // Where the judge lies does not matter.
                let correct = CorrectSpec { judge: String::new(), template: String::new(), ..spec.correct.clone() };
                made.add("settings [correct]", settings("correct", &correct)?);
                made.add("template rewrite", PromptTemplate::load(&spec.correct.template)?.digest());
                made.add("templates of answers", Examples::new()?.digest());
                made.add("judge", saved::digest(Path::new(&spec.correct.judge))?);
                made.add(EARLIER, earlier.map_or("", |earlier| earlier.digest.as_str()));
            }
            _ => {}
        }
        for name in self.upstream(table) {
            // A table that this job does not make is no part.
            if let Some(fingerprint) = fingerprints.get(name) {
                made.add(format!("table {name}"), fingerprint);
            }
        }
        for (place, until) in self.learned_later(table, earlier) {
            made.add(format!("{LEARNED_LATER}{place}"), until.to_rfc3339());
        }
        Ok(made)
    }

    /// Adds the parameters that the SQL of a table needs, but for the interval's, which is a part itself.
    fn add_parameters(&self, reads: &Reads, made: &mut Fingerprint) -> Result<()> {
        let mut history = Fingerprint::new("parameters", 1);
        for (name, value) in params(self)? {
            let text = match value {
                _ if !reads.params.contains(name) => continue,
                Param::Timestamp(_) | Param::ZeroVector(_) => continue,
                Param::Int(v) => v.to_string(),
                Param::Float(v) => v.to_string(),
                Param::Bool(v) => v.to_string(),
                Param::Text(v) => v,
            };
            match name {
                "past_events" => made.add("past events", text),
                "max_outcomes" => made.add("settings [correct] max_outcomes", text),
                _ => history.add(name, text),
            };
        }
        if history.pairs().len() > 1 {
            made.add("settings [history]", history.digest());
        }
        Ok(())
    }

    /// Models that wrote what stands in a table and have learned from events after the interval, as far as records tell,
    /// and until when.
    fn learned_later(&self, table: &str, earlier: Option<&Earlier>) -> Vec<(&'static str, DateTime<Utc>)> {
        let (writes, judges) = match table {
            "reason" | "reason_score" | "item_feature" => (true, false),
            "correction_prompt" => (false, true),
            "reason_correction" | "user_feature" => (true, true),
            _ => (false, false),
        };
        let learned = &self.learned;
        let models = [
            ("model.generator", writes, learned.generator),
            ("model.adapter", writes, learned.adapter),
            ("correct.judge", judges && self.is_correcting(), learned.judge),
            ("earlier reasons", judges, earlier.and_then(|earlier| earlier.learned_until)),
        ];
        let end = self.interval.end;
        models
            .into_iter()
            .filter_map(|(place, is_asked, until)| {
                until.filter(|until| is_asked && *until > end).map(|until| (place, until))
            })
            .collect()
    }

    /// Refuses to build what a model would write that has learned from events after the interval, unless the job allows it.
    ///
    /// # Errors
    /// [`Kind::Config`], with the ways out.
    pub fn check_learned(&self, plans: &[TablePlan]) -> Result<()> {
        let of_plan = plans.iter().filter(|plan| plan.is_build()).flat_map(|plan| learned_later(&plan.parts));
        let Some((place, until)) = of_plan.max_by_key(|(_, until)| *until) else { return Ok(()) };
        if self.job.spec.model.allow_later_training {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("{place} has learned from events after this interval: its features would know what came later"),
        )
        .with("learned until", until.to_rfc3339())
        .with("interval ends", self.interval.end.to_rfc3339())
        .hint(
            "take a version that learned from earlier events (`curec models list` shows their intervals, `curec models \
             promote` or `export` brings one back), or set [model] allow_later_training = true: the days are then marked, \
             and `curec export` refuses them unless it is told --allow-later-training",
        ))
    }

    /// What the SQL of a table and of the unpublished tables before it reads, calls and needs, and what Rust reads for it.
    fn reads(&self, table: &str) -> Reads {
        let mut reads = Reads::default();
        let definitions = std::iter::once(table).chain(self.unpublished(table)).filter_map(|name| self.sql.get(name));
        for model in definitions {
            reads.tables.extend(model.tables().iter().cloned());
            reads.params.extend(model.params().iter().cloned());
            for function in model.functions() {
                match function.as_str() {
                    "render_prompt" | "render_stem" => (reads.templates, reads.generator) = (true, true),
                    "prompt_key" | "generate" | "score" => reads.generator = true,
                    "embed" => reads.encoder = true,
                    _ => {}
                }
            }
        }
        reads.encoder |= reads.params.contains("zero_embedding");
        match table {
            // Prompts are asked under keys that tell both, whatever the SQL calls.
            "reason_prompt" => (reads.templates, reads.generator) = (true, true),
            // The words that the catalogue uses.
            "reason_score" => {
                reads.tables.insert("item".into());
                reads.params.insert("title_chars".into());
            }
            "correction_prompt" | "reason_correction" => {
                reads.tables.extend(["interaction", "item", "response"].map(String::from));
                reads.params.insert("title_chars".into());
                (reads.generator, reads.encoder) = (true, true);
            }
            "item_feature" | "user_feature" => reads.encoder = true,
            _ => {}
        }
        reads
    }

    /// The tables before `table` that it is made from: those that its SQL reads, its own definition or the built-in one,
    /// and those that Rust reads for it.
    pub fn upstream(&self, table: &str) -> Vec<&'static str> {
        let reads = self.reads(table).tables;
        let is_read = |name: &&'static str| {
            // Answers are those to a night's prompts; corrections ask their own.
            let answers = !CORRECTION.contains(&table)
                && reads.contains("response")
                && matches!(*name, "reason_prompt" | "reason");
            upstream(table).contains(name) || reads.contains(*name) || answers
        };
        TABLES.into_iter().take_while(|name| *name != table).filter(is_read).collect()
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
    /// As [`Model::run`] and [`Session::register_spilled`].
    pub async fn make_unpublished(&self, session: &Session, name: &str) -> Result<u64> {
        let contract = &self.contracts[name];
        let rows = self.sql[name].run(session, contract, &params(self)?).await?;
        session.register_spilled(name, contract, rows).await
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
            true => Some(self.earlier().await?),
            false => None,
        };
        for table in self.tables() {
            let made = self.made_from(table, &fingerprints, earlier.as_ref())?;
            let (fingerprint, parts) = (made.digest(), made.into_pairs());
            let upstream = self.upstream(table);
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
                    why.extend(upstream.iter().filter(replaced).map(|name| format!("table {name} was replaced")));
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
                why.extend(upstream.iter().filter(is_built).map(|name| format!("table {name} is built")));
            }
            fingerprints.insert(table, fingerprint.clone());
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
        register_input(&session, &prepared.contracts[name], input).await?;
    }
    Ok(session)
}

/// Opens an input at the place that the job names, with the share of bad rows that the job allows.
///
/// # Errors
/// As [`open_input`].
pub async fn open_input_of(job: &Job, contract: &Contract, text: &str) -> Result<InputTable> {
    let input = open_input(contract, &locate(job, text)?).await?;
    Ok(input.allowing(job.spec.input.max_bad_fraction))
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

/// Registers an input under its contract's name: the one place that decides whether queries see its bad rows.
///
/// # Errors
/// As [`Session::register_files`].
pub async fn register_input(session: &Session, contract: &Contract, input: &InputTable) -> Result<()> {
    match input.max_bad_fraction > 0.0 {
        true => session.register_good_rows(&contract.name, contract, &files_of(input)).await,
        false => session.register_files(&contract.name, contract, &files_of(input)).await,
    }
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

/// `$like_threshold`, rounded to the type that `interaction` has its ratings in: a rating of just the threshold is a like,
/// in every table, example and case that compares them. SQL compares a single with a double as doubles.
pub fn like_threshold(history: &HistorySpec, interaction: &Contract) -> Param {
    match interaction.column("rating").map(|column| &column.column_type) {
        Some(ColumnType::Float32) => Param::Float(f64::from(history.liked())),
        _ => Param::Float(history.like_threshold),
    }
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
        ("like_threshold", like_threshold(history, &prepared.contracts["interaction"])),
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

/// Every attribute that the catalogue uses, as prompts show it.
pub const CATEGORIES: &str = "select distinct category from (
         select unnest(clean_text(cast(categories as varchar[]), cast($title_chars as bigint))) as category from item)
     where category is not null";

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
