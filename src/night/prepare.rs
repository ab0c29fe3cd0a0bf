//! A job whose files were all found: inputs, contracts, definitions, templates, models.
//!
//! Finds and holds together what a run of an interval needs; loads no model, reads no row and changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use futures::StreamExt;

use crate::config::{Interval, Job, JobSpec};
use crate::error::{Error, Kind, Result};
use crate::feature::Entity;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::generate::prompt::PromptTemplate;
use crate::night::graph::Graph;
use crate::night::learned::{self, Learned};
use crate::night::snapshot::{self, Snapshots};
use crate::night::tables::{
    CHOICE, INPUTS, ITEM, PAIR, as_job_says, has_snapshots, inputs_of, like_threshold, list_snapshots, locate,
    new_session_on, open_input_of, register_input,
};
use crate::project::column;
use crate::project::saved::{self, Projection};
use crate::query::model::Model;
use crate::query::session::{BatchStream, Engine, Param, Session};
use crate::registry::card::Card;
use crate::registry::export;
use crate::reward::language::Language;
use crate::table::contract::Contract;
use crate::table::input::InputTable;
use crate::table::partition::commit_record;
use crate::table::redact::redact;
use crate::table::store::Location;

/// A user's latest events that the reward model is shown; it looks at the end of what it is shown.
const PAST_EVENTS: i64 = 100;

/// The parameter for the vector of an entity without reasons.
pub(super) const ZERO_EMBEDDING: &str = "zero_embedding";

/// A job whose files were all found.
#[derive(Clone)]
pub struct Prepared {
    /// The job.
    pub job: Job,
    /// The interval.
    pub interval: Interval,
    /// The warehouse.
    pub root: Location,
    /// The job's tables: contracts, definitions, and what each one is made from.
    pub graph: Arc<Graph>,
    /// The input tables by name, without files that are surely later than the interval.
    pub inputs: BTreeMap<String, InputTable>,
    /// The models, not loaded.
    pub models: Arc<Models>,
    /// Until when the models have learned.
    pub learned: Learned,
    /// The job's projection, where it names one.
    projection: Option<Arc<Projection>>,
    /// The settings by section and key.
    settings: serde_json::Value,
    /// The input tables with all their files, without items that are dated snapshots.
    found: BTreeMap<String, InputTable>,
    /// The items, where they are dated snapshots.
    snapshots: Option<Arc<Snapshots>>,
}

/// The error for a projection's folder whose record says that the gate does not hold.
fn refused(named: &str) -> Error {
    Error::new(Kind::Config, "the projection's gate does not hold, as the project.json beside it says")
        .with("key", "model.projection")
        .with("projection", redact(named))
        .hint(
            "name a folder that passed (`curec learn project` writes it to `projection`, and what does not pass to \
             `projection-refused`), or leave the key empty; `curec models promote --force` puts a version of the registry \
             into use all the same",
        )
}

/// A job's projection, brought to this machine: its folder, its card where a registry has it, and what it has learned.
///
/// # Errors
/// [`Kind::Config`] where its gate does not hold; [`Kind::Model`] where it cannot be read; the store's.
pub async fn open_projection(job: &Job) -> Result<(PathBuf, Option<Card>, Projection)> {
    let named = &job.spec.model.projection;
    let (folder, card) = export::projection(job, named).await?;
    // What the registry has in use passed, or somebody has said that it is to be used all the same.
    if card.is_none() && saved::has_failed(&folder)? {
        return Err(refused(named));
    }
    let projection = Projection::read(&folder).map_err(|e| e.with("key", "model.projection"))?;
    Ok((folder, card, projection))
}

/// Refuses a projection that has learned from vectors of another encoder.
///
/// # Errors
/// [`Kind::Config`] for such a one; [`Kind::Model`] where the encoder cannot be read.
pub fn held_to_encoder(projection: &Projection, models: &Models) -> Result<()> {
    let (learned, encoder) = (&projection.origin().encoder, models.encoder_files()?.digest());
    match learned == encoder {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Config,
            "the projection has learned from vectors of another encoder than the job's",
        )
        .with("key", "model.projection")
        .with("its encoder", learned)
        .with("the job's", encoder)
        .hint(
            "learn one of this encoder's vectors with `curec learn project`, or name its encoder in [model] encoder",
        )),
    }
}

/// The kinds of prompts by which a model is asked in one language for reasons of another, with commas between them; `None`
/// where it is not. Only the languages of built-in templates are known.
pub fn foreign_templates(spec: &JobSpec) -> Option<String> {
    let asked_for = Language::of(&spec.check.language);
    let is_foreign = |name: &str| PromptTemplate::language(name).is_some_and(|tag| Language::of(tag) != asked_for);
    let names = [("item", &spec.prompt.item), ("history", &spec.prompt.history), ("pair", &spec.prompt.pair)];
    let is_asked = |kind: &str| kind != "pair" || !spec.input.pair.is_empty();
    let foreign = names.iter().filter(|(kind, name)| is_asked(kind) && is_foreign(name));
    let foreign: Vec<&str> = foreign.map(|(kind, _)| *kind).collect();
    (!foreign.is_empty()).then(|| foreign.join(", "))
}

/// What to do about [`foreign_templates`].
pub const FOREIGN_TEMPLATES: &str = "these built-in prompt templates are not of the language in [check]; name those of the \
                                     language (de-item, zh-item, ...) or files with templates of your own in [prompt]";

/// The settings by section and key.
///
/// # Errors
/// None that is known.
pub fn settings_of(spec: &JobSpec) -> Result<serde_json::Value> {
    serde_json::to_value(spec).map_err(|e| Error::new(Kind::Internal, "the settings have no serialised form").source(e))
}

/// One of [`settings_of`], or a section of them: `model.max_positions`, `check`.
///
/// # Errors
/// [`Kind::Config`] for a name that no setting has.
pub fn setting_of<'a>(settings: &'a serde_json::Value, name: &str) -> Result<&'a serde_json::Value> {
    name.split('.').try_fold(settings, |value, key| value.get(key)).ok_or_else(|| {
        Error::new(Kind::Config, format!("a contract's [build] names the setting {name}, which does not exist"))
            .hint("`curec config` prints every key")
    })
}

/// The values of the parameters that definitions and audits may name, but for the zero vector.
pub fn params_at(spec: &JobSpec, interval: Interval, interaction: &Contract) -> Vec<(&'static str, Param)> {
    let (history, pairs, evidence) = (&spec.history, &spec.pairs, &spec.evidence);
    let moment = |t: DateTime<Utc>| Param::Timestamp(t.timestamp_micros());
    // 0 stands for all; three centuries hold every log.
    let days = |days: i64| Param::Int(if days == 0 { 110_000 } else { days });
    vec![
        ("interval_start", moment(interval.start)),
        ("interval_end", moment(interval.end)),
        ("as_of", moment(interval.end)),
        ("like_threshold", like_threshold(history, interaction)),
        ("like_quantile", Param::Float(spec.events.like_quantile)),
        ("like_values", Param::Int(spec.events.like_values)),
        ("history_events", Param::Int(history.events)),
        ("max_pair_events", Param::Int(history.max_pair_events)),
        ("min_support", Param::Int(history.min_support)),
        ("title_chars", Param::Int(history.title_chars)),
        ("user_active_days", days(history.user_active_days)),
        ("items", Param::Text(history.items.clone())),
        ("item_active_days", days(history.item_active_days)),
        ("max_users", Param::Int(history.max_users)),
        ("max_items", Param::Int(history.max_items)),
        ("max_pairs_per_user", Param::Int(pairs.max_per_user)),
        ("max_pairs", Param::Int(pairs.max)),
        ("past_events", Param::Int(PAST_EVENTS)),
        ("max_outcomes", Param::Int(spec.correct.max_outcomes)),
        ("decimal_mark", Param::Text(evidence.decimal_mark.clone())),
        ("vector_of", Param::Text(spec.feature.vector_of.clone())),
    ]
    .into_iter()
    .chain(evidence.own_labels().map(|(name, label)| (name, Param::Text(label.to_owned()))))
    .collect()
}

/// Finds everything that a run of the interval needs, and holds inputs against their contracts as far as footers tell.
///
/// # Errors
/// [`Kind::Input`] for inputs, [`Kind::NotArrived`] for those that are not there yet, [`Kind::Config`] for contracts,
/// definitions and templates, [`Kind::Model`] for models.
pub async fn prepare(job: &Job, interval: Interval) -> Result<Prepared> {
    find(job, interval).await?.at(interval).await
}

/// The same without the interval's inputs, which [`Prepared::at`] gives: no snapshot of the items is opened.
///
/// # Errors
/// As [`prepare`].
pub(super) async fn find(job: &Job, interval: Interval) -> Result<Prepared> {
    let root = locate(job, &job.spec.warehouse)?;
    let (mut job, mut judged) = (job.clone(), None);
    if !job.spec.correct.judge.is_empty() {
        // From here on a folder of this machine, wherever it came from.
        let (folder, card) = export::judge(&job, &job.spec.correct.judge).await?;
        judged = learned::told(&job, &job.spec.correct.judge, card.as_ref()).await?;
        job.spec.correct.judge = folder.display().to_string();
    }
    let (mut projection, mut projected) = (None, None);
    if !job.spec.model.projection.is_empty() {
        let (folder, card, opened) = open_projection(&job).await?;
        projected = learned::told(&job, &job.spec.model.projection, card.as_ref()).await?;
        projection = Some(Arc::new(opened));
        job.spec.model.projection = folder.display().to_string();
    }
    let job = &job;
    let settings = settings_of(&job.spec)?;
    let graph = Graph::of(job)?;
    let models = Models::new(job)?;
    if let Some(templates) = foreign_templates(&job.spec) {
        tracing::warn!(language = job.spec.check.language, templates, "{FOREIGN_TEMPLATES}");
    }
    models.fetch().await?;
    if let Some(projection) = &projection {
        held_to_encoder(projection, &models)?;
    }
    let learned = Learned {
        generator: learned::of_generator(job).await?,
        adapter: learned::told(job, &job.spec.model.adapter, models.promoted()).await?,
        judge: judged,
        projection: projected,
    };
    let (mut found, mut snapshots) = (BTreeMap::new(), None);
    for (table, text) in inputs_of(job) {
        let contract = graph.contract(table)?;
        if table == ITEM && has_snapshots(job) {
            match list_snapshots(job, contract, text).await {
                Ok(listed) => snapshots = Some(Arc::new(listed)),
                Err(e) if e.kind() == Kind::NotArrived => return Err(e.of_kind(job.spec.interval.late())),
                Err(e) => return Err(e),
            }
            continue;
        }
        match open_input_of(job, contract, text).await {
            Ok(input) => _ = found.insert(table.to_string(), input),
            // What could not be confirmed was removed: nothing is chosen, and nobody waits for it.
            Err(e) if table == CHOICE && e.kind() == Kind::NotArrived => {
                tracing::warn!(file = %redact(text), "nothing is chosen for items' reasons: there is no such file");
            }
            Err(e) if table == CHOICE => return Err(e.with("key", "correct.item_choices")),
            Err(e) if e.kind() == Kind::NotArrived => return Err(e.of_kind(job.spec.interval.late())),
            Err(e) => return Err(e),
        }
    }
    let inputs = BTreeMap::new();
    let (job, graph) = (job.clone(), Arc::new(graph));
    Ok(Prepared { job, interval, root, graph, inputs, models, learned, projection, settings, found, snapshots })
}

/// Leaves out files that are surely later than the interval: nothing in them can count, and a new day's logs must not
/// make an old interval look changed. Those are files whose statistics say so, and Hive partitions `dt=` that lie
/// more than `late_days` after the interval's end: logs may be filed by local time. What is no date stays.
fn keep_before(input: &mut InputTable, interval: Interval, late_days: u64) {
    let end = interval.end;
    input.files.retain(|file| file.first_event.is_none_or(|first| first < end.timestamp_micros()));
    let Some(last) = end.date_naive().checked_add_days(chrono::Days::new(late_days)) else { return };
    keep_days(input, |day| day <= last);
}

/// Leaves out the files in Hive partitions `dt=` of days that do not count. What is no date stays.
fn keep_days(input: &mut InputTable, counts: impl Fn(NaiveDate) -> bool) {
    let may_count = |day: &str| snapshot::parse_day(day).is_none_or(&counts);
    input
        .files
        .retain(|file| file.partition.iter().all(|(key, day)| key != "dt" || day.as_deref().is_none_or(may_count)));
}

impl Prepared {
    /// The same job for another interval, without its inputs: enough to ask what was published.
    pub(super) fn without_inputs(&self, interval: Interval) -> Prepared {
        Prepared { interval, inputs: BTreeMap::new(), ..self.clone() }
    }

    /// The same job, with the files that were found then, for another interval. Of dated snapshots the one that this interval
    /// reads is opened, if none before has read it.
    ///
    /// # Errors
    /// [`Kind::Input`] where that snapshot breaks its contract; the store's.
    pub async fn at(&self, interval: Interval) -> Result<Prepared> {
        let mut inputs = self.found.clone();
        if let Some(snapshots) = &self.snapshots {
            let items = snapshots.open(Some(interval.end)).await?;
            inputs.insert(ITEM.to_owned(), as_job_says(&self.job, self.graph.contract(ITEM)?, items));
        }
        inputs.values_mut().for_each(|input| keep_before(input, interval, self.job.spec.input.late_days));
        if let Some(pair) = inputs.get_mut(PAIR) {
            // Other nights' candidates are none of this one's, and theirs must not make it look changed.
            keep_days(pair, |day| day == interval.start.date_naive());
        }
        Ok(Prepared { interval, inputs, ..self.clone() })
    }

    /// Refuses a night before the first snapshot of the items, where they are snapshots.
    ///
    /// # Errors
    /// [`Kind::Input`] for such a night.
    pub(crate) fn check_snapshot(&self) -> Result<()> {
        match self.inputs.get(ITEM) {
            Some(items) if has_snapshots(&self.job) && items.files.is_empty() => {
                Err(snapshot::too_early(items, self.interval.end))
            }
            _ => Ok(()),
        }
    }

    /// The part that tells the interval.
    pub(super) fn interval_part(&self) -> String {
        format!("{}/{}", self.interval.start.to_rfc3339(), self.interval.end.to_rfc3339())
    }

    /// A setting, or a section of them: `model.max_positions`, `check`.
    ///
    /// # Errors
    /// [`Kind::Config`] for a name that no setting has.
    pub fn setting(&self, name: &str) -> Result<&serde_json::Value> {
        setting_of(&self.settings, name)
    }

    /// Whether the condition of a table's `[build]` holds.
    ///
    /// # Errors
    /// As [`Prepared::setting`].
    pub fn is_made(&self, table: &str) -> Result<bool> {
        let Some(condition) = &self.graph.build(table)?.condition else { return Ok(true) };
        if let Some((name, wanted)) = condition.split_once('=') {
            return Ok(self.setting(name.trim())?.as_str() == Some(wanted.trim()));
        }
        Ok(match self.setting(condition)? {
            serde_json::Value::String(text) => !text.is_empty(),
            serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
            value => value != &serde_json::Value::Bool(false) && !value.is_null(),
        })
    }

    /// The tables that a run of this job publishes, in the order in which they are made.
    ///
    /// # Errors
    /// As [`Prepared::setting`].
    pub fn tables(&self) -> Result<Vec<&str>> {
        let mut made = Vec::new();
        for table in self.graph.published() {
            if self.is_made(table)? {
                made.push(table);
            }
        }
        Ok(made)
    }

    /// Whether this very interval was published, in part at least: a partition of another length does not count.
    pub async fn is_published(&self) -> Result<bool> {
        for table in self.graph.published() {
            let record = commit_record(&self.root, table, &self.interval.dt()).await?;
            if record.is_some_and(|r| r.parts.get("interval") == Some(&self.interval_part())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nothing was published for the interval's day, by a run of whatever length.
    pub async fn is_vacant(&self) -> Result<bool> {
        for table in self.graph.published() {
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

    /// A session with the inputs and the job's functions, in this process.
    ///
    /// # Errors
    /// What the inputs say.
    pub async fn session(&self) -> Result<Session> {
        self.session_on(Engine::Local).await
    }

    /// As [`Prepared::session`], whose queries are computed by an engine.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn session_on(&self, engine: Engine) -> Result<Session> {
        self.check_snapshot()?;
        let session = new_session_on(&self.job, engine)?;
        functions::all(&self.models).into_iter().for_each(|f| session.register_function(f));
        for name in INPUTS {
            let contract = self.graph.contract(name)?;
            match self.inputs.get(name) {
                Some(input) => register_input(&session, contract, input).await?,
                // Definitions find no rows where the job names no such input.
                None => session.register_files(name, contract, &[]).await?,
            }
        }
        Ok(session)
    }

    /// The values of the parameters that definitions and audits may name, but for the zero vector.
    ///
    /// # Errors
    /// [`Kind::Config`] where `interaction` has no contract.
    pub fn params(&self) -> Result<Vec<(&'static str, Param)>> {
        Ok(params_at(&self.job.spec, self.interval, self.graph.contract("interaction")?))
    }

    /// The values of a definition's parameters: with the zero vector where it names it, whose width the encoder tells.
    ///
    /// # Errors
    /// As [`Prepared::params`]; [`Kind::Model`] where the encoder cannot be read.
    pub fn params_of(&self, definition: &Model) -> Result<Vec<(&'static str, Param)>> {
        let mut params = self.params()?;
        if definition.params().contains(ZERO_EMBEDDING) {
            params.push(self.zero_embedding()?);
        }
        Ok(params)
    }

    /// The parameter for the vector of an entity without reasons.
    pub(super) fn zero_embedding(&self) -> Result<(&'static str, Param)> {
        Ok((ZERO_EMBEDDING, Param::ZeroVector(self.models.encoder_files()?.dimension())))
    }

    /// The rows of a table that SQL alone makes, with the column of the projection where the table has it.
    ///
    /// # Errors
    /// As [`Model::run`] and [`column::with_column`].
    pub async fn rows(&self, session: &Session, table: &str) -> Result<BatchStream> {
        let (definition, contract) = (self.graph.definition(table)?, self.graph.contract(table)?);
        let params = self.params_of(definition)?;
        let Some((projection, entity)) = self.projection_of(table) else {
            return definition.run(session, contract, &params).await;
        };
        let rows = definition.run(session, &column::defined(contract), &params).await?;
        Ok(rows.map(move |batch| column::with_column(&batch?, entity, &projection)).boxed())
    }

    /// The job's projection, where it names one.
    pub(super) fn projection(&self) -> Option<&Projection> {
        self.projection.as_deref()
    }

    /// The projection that makes a column of a table, and of whose features; `None` where none does.
    pub(super) fn projection_of(&self, table: &str) -> Option<(Arc<Projection>, Entity)> {
        let entity = column::projected(self.graph.contract(table).ok()?)?;
        Some((self.projection.clone()?, entity))
    }

    /// Whether reasons of earlier runs are corrected.
    pub fn is_correcting(&self) -> bool {
        !self.job.spec.correct.judge.is_empty()
    }
}
