//! One run: check inputs, make tables, generate, score, embed, audit what is staged, publish, report.
//!
//! The order of the steps is the design's (write, audit, publish): nothing is published before every staged table has
//! passed its audits. What keeps a run from publishing stands in `audit`, what it says of itself in `record`, how it ends
//! in `publish`. Knows every layer below; knows nothing of the command line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::Array;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use crate::background::spawn;
use crate::cancel::CancelToken;
use crate::columns::{at, text};
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::feature::Pooler;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::llm::device;
use crate::night::correct::{self, Corrector};
use crate::night::generation::{Sink, generate};
use crate::night::manifest::{Manifest, StageRecord, TableRecord, Usage};
use crate::night::owner;
use crate::night::publish::{out_of_grace, publish, renew};
use crate::night::record::{
    begin, close, describe, failed_story, leave, look, story, table_record, vocabulary, write_run,
};
use crate::night::report::Details;
use crate::night::tables::{self, Prepared, TablePlan, locate, prepare};
use crate::night::verify::{audit_table, check_inputs, count_unknown_items, look_for_events, note, refused};
use crate::query::session::{BatchStream, Param, Session, TableFile};
use crate::query::texts;
use crate::reward::score::score_batch;
use crate::table::contract::Contract;
use crate::table::finding::Findings;
use crate::table::lease::{Holder, Lease};
use crate::table::partition::{self, Publisher, StagedTable};
use crate::table::quarantine;
use crate::table::traffic::traffic;
use crate::table::write::Stamp;
use crate::telemetry::{Progress, Voice};

/// What the caller wants besides the job.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Build every table.
    pub full: bool,
    /// Build where prompts had failed.
    pub retry_failed: bool,
    /// Publish empty tables for an interval without events.
    pub allow_empty: bool,
    /// How to show progress.
    pub voice: Voice,
}

/// A run that ended well.
pub struct Done {
    /// What it did.
    pub manifest: Manifest,
    /// Where the report is.
    pub report: Option<String>,
    /// Whether everything was up to date.
    pub nothing_to_do: bool,
    /// The same for a person, some lines.
    pub story: String,
}

/// What an error's place calls the run, for whoever looks for its manifest.
pub const RUN: &str = "run";

/// Runs one interval of a job.
///
/// # Errors
/// Every [`Kind`]; nothing is published unless all audits pass. Answers of the language model are kept in any case.
pub async fn run(job: &Job, interval: Interval, options: Options, stop: CancelToken) -> Result<Done> {
    let started = Instant::now();
    let traffic_before = traffic();
    let mut manifest = begin(job, interval);
    let (prepared, plans, lease) = match enter(job, interval, options, &stop, &mut manifest).await {
        Ok((prepared, plans, Some(lease))) => (prepared, plans, Arc::new(lease)),
        Ok((prepared, plans, None)) => return Ok(nothing_to_do(&prepared, manifest, &plans, started).await),
        Err(e) => {
            close(&mut manifest, Some(&e), started, traffic_before);
            leave(job, &manifest).await;
            return Err(e.with(RUN, &manifest.run_id));
        }
    };
    let is_publishing = Arc::new(AtomicBool::new(false));
    let grace = Duration::from_secs_f64(job.spec.publish.grace_seconds);
    let mut build = Build {
        is_publishing: is_publishing.clone(),
        content: BTreeMap::new(),
        publisher: Publisher::new(prepared.root.clone(), &manifest.run_id),
        prepared,
        plans,
        options,
        stop: stop.clone(),
        manifest: manifest.clone(),
        details: Details::default(),
        staged: Vec::new(),
        corrector: None,
    };
    let (finished, is_finished) = tokio::sync::oneshot::channel();
    let keep_alive = spawn(renew(lease.clone(), stop.clone(), is_finished));
    let mut time_is_up = spawn(out_of_grace(stop, grace, is_publishing));
    // Whoever finds what a killed run has paid for finds the run.
    leave(job, &manifest).await;
    let mut result = tokio::select! {
        result = build.everything(&lease) => result,
        error = &mut time_is_up => Err(error.unwrap_or_else(|_| Error::new(Kind::Internal, "the task that watches the grace time died"))),
    };
    time_is_up.abort();
    // Not aborted: half a renewal would be in the way of giving the lease back.
    drop(finished);
    keep_alive.await.context(Kind::Internal, || "the task that renews the lease died".into())?;
    if result.is_err() {
        // What was staged is worthless now; a failure to remove it is gc's business and must not hide the cause.
        if let Err(e) = build.publisher.abort().await {
            tracing::warn!(error = %e, "staged files stay until `curec gc`");
        }
    }
    if let Err(e) = &result
        && matches!(e.kind(), Kind::Interrupted | Kind::Temporary | Kind::Input | Kind::Internal)
        && let Err(lost) = lease.check().await
        && lost.kind() == Kind::Busy
    {
        // Whoever has taken over may have cleaned up after us; what that made fail is not the cause.
        result = Err(lost);
    }
    manifest = build.manifest;
    close(&mut manifest, result.as_ref().err(), started, traffic_before);
    let folder = build.prepared.root.child("_runs").child(&manifest.run_id);
    let report = write_run(&folder, &manifest, &build.details).await;
    // Last, so that `gc` leaves alone what is being written. A lease that cannot be given back runs out by itself.
    if let Err(e) = lease.release().await {
        tracing::warn!(error = %e, "the lease was not given back");
    }
    result.map_err(|e| e.with(RUN, &manifest.run_id))?;
    let report = report?;
    let story = story(&manifest, &report, &build.prepared.root);
    Ok(Done { manifest, report: Some(report), nothing_to_do: false, story })
}

/// What the run needs, what it is to build, and the lease under which it may; no lease where nothing is to be built.
async fn enter(
    job: &Job,
    interval: Interval,
    options: Options,
    stop: &CancelToken,
    manifest: &mut Manifest,
) -> Result<(Prepared, Vec<TablePlan>, Option<Lease>)> {
    stop.check()?;
    let prepared = tokio::select! {
        prepared = prepare(job, interval) => prepared?,
        // Fetching models may take long.
        () = stop.requested() => {
            return Err(Error::new(Kind::Interrupted, "stopped by a signal before the work began")
                .hint("run the same command again"));
        }
    };
    describe(&prepared, manifest)?;
    warn_of_unknown(&prepared);
    let plans = prepared.decide(options.full, options.retry_failed).await?;
    manifest.learned_later = told_of_later(&plans);
    prepared.check_learned(&plans)?;
    if !plans.iter().any(TablePlan::is_build) {
        return Ok((prepared, plans, None));
    }
    owner::check(job, &plans)?;
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    // Partitions are days of the warehouse, whichever job or length of interval writes them.
    let name = format!("dt={}", interval.dt());
    let lease = Lease::acquire(&prepared.root, &name, Holder::here(&manifest.run_id), ttl).await?;
    // Another run may have published between the first look and the lease.
    let decided = prepared.decide(options.full, options.retry_failed).await;
    let plans = match decided.and_then(|plans| owner::check(job, &plans).map(|()| plans)) {
        Ok(plans) if plans.iter().any(TablePlan::is_build) => match prepared.check_learned(&plans) {
            Ok(()) => {
                manifest.learned_later = told_of_later(&plans);
                return Ok((prepared, plans, Some(lease)));
            }
            Err(e) => Err(e),
        },
        other => other,
    };
    lease.release().await?;
    Ok((prepared, plans?, None))
}

/// Says once that nobody can tell whether an adapter or a judge knows what came later.
fn warn_of_unknown(prepared: &Prepared) {
    static SAID: std::sync::Once = std::sync::Once::new();
    let unknown = prepared.learned.unknown(&prepared.job);
    if !unknown.is_empty() {
        SAID.call_once(|| {
            tracing::warn!(
                unknown = unknown.join(", "),
                "no record beside it tells until when it has learned: if from events after a day, the day's features know them"
            );
        });
    }
}

/// Until when models have learned that wrote of earlier events, by their places in the job.
fn told_of_later(plans: &[TablePlan]) -> BTreeMap<String, String> {
    let all = plans.iter().flat_map(|plan| tables::learned_later(&plan.parts));
    all.map(|(place, until)| (place.to_owned(), until.to_rfc3339())).collect()
}

async fn nothing_to_do(prepared: &Prepared, mut manifest: Manifest, plans: &[TablePlan], started: Instant) -> Done {
    let dt = prepared.interval.dt();
    manifest.status = "nothing_to_do".into();
    manifest.tables = plans.iter().map(|p| table_record(p, &dt)).collect();
    manifest.failed_prompts = prepared.failed_prompts().await.unwrap_or_else(|e| {
        tracing::warn!(error = %e, "cannot count the prompts that failed");
        0
    });
    manifest.seconds = started.elapsed().as_secs_f64();
    let story =
        format!("Nothing to do: every table of dt={dt} is up to date.{}", failed_story(manifest.failed_prompts));
    Done { manifest, report: None, nothing_to_do: true, story }
}

/// A session with every table of the job's warehouse and the job's functions, for ad-hoc queries.
pub async fn session_of(job: &Job) -> Result<Session> {
    let session = tables::new_session(job)?;
    let root = locate(job, &job.spec.warehouse)?;
    functions::all(&Models::new(job)?).into_iter().for_each(|f| session.register_function(f));
    let input = &job.spec.input;
    for (table, text) in [("interaction", &input.interaction), ("item", &input.item), ("review", &input.review)] {
        if text.is_empty() {
            continue;
        }
        let contract = tables::contract_of(job, table)?;
        let found = async {
            let found = tables::open_input_of(job, &contract, text).await?;
            found.warnings.iter().for_each(|warning| tracing::warn!(table, "{warning}"));
            tables::register_input(&session, &contract, &found).await
        };
        // An input that is away must not keep people from querying what was published.
        if let Err(e) = found.await {
            without(&session, table, &contract, false, e)?;
        }
    }
    let there = |e: Error| if e.kind() == Kind::Temporary { Err(e) } else { Ok(e) };
    for table in tables::TABLES {
        let contract = tables::contract_of(job, table)?;
        let found = async {
            let mut files = Vec::new();
            for record in partition::partitions(&root, table).await? {
                let dt = record.dt.clone();
                files.extend(tables::files_in(&root, &record)?.into_iter().map(|f| (f.location, dt.clone())));
            }
            session.register_published(table, &contract, &files).await
        };
        if let Err(e) = found.await {
            without(&session, table, &contract, true, there(e)?)?;
        }
    }
    let contract = tables::contract_of(job, "response")?;
    if let Err(e) = tables::register_responses(&session, &root, &contract).await {
        without(&session, "response", &contract, false, there(e)?)?;
    }
    let contract = tables::contract_of(job, "quarantine")?;
    let failed = async {
        let files: Vec<TableFile> = quarantine::files(&root).await?.into_iter().map(|e| e.location.into()).collect();
        session.register_files("quarantine", &contract, &files).await
    };
    if let Err(e) = failed.await {
        without(&session, "quarantine", &contract, false, there(e)?)?;
    }
    Ok(session)
}

/// Goes on without a table that cannot be read; who asks for it is told why.
fn without(session: &Session, table: &str, contract: &Contract, is_published: bool, why: Error) -> Result<()> {
    tracing::warn!(table, error = %why, "this table cannot be queried");
    session.register_unreadable(table, contract, is_published, why)
}

/// Removes what dead runs left behind, and what has stood in the quarantine for long.
pub async fn collect_garbage(job: &Job) -> Result<partition::GcReport> {
    let root = locate(job, &job.spec.warehouse)?;
    let mut report = partition::gc(&root).await?;
    let before = Utc::now() - chrono::Duration::days(job.spec.audit.quarantine_days);
    let (files, bytes) = quarantine::clean(&root, before).await?;
    report.quarantined = files;
    report.bytes += bytes;
    Ok(report)
}

struct Build {
    prepared: Prepared,
    plans: Vec<TablePlan>,
    options: Options,
    stop: CancelToken,
    publisher: Publisher,
    manifest: Manifest,
    details: Details,
    staged: Vec<(TablePlan, StagedTable)>,
    /// Digest of each table's files, staged or kept, for what is made from it.
    content: BTreeMap<String, String>,
    is_publishing: Arc<AtomicBool>,
    corrector: Option<Arc<Corrector>>,
}

impl Build {
    async fn everything(&mut self, lease: &Lease) -> Result<()> {
        let started = Instant::now();
        let rows = check_inputs(&self.prepared, &mut self.manifest).await?;
        self.stage("check inputs", started, rows);
        let session = tables::session(&self.prepared).await?;
        look_for_events(&self.prepared, &session, self.options.allow_empty).await?;
        count_unknown_items(&session, &mut self.manifest).await?;
        let plans = self.plans.clone();
        for (i, plan) in plans.iter().enumerate() {
            self.stop.check()?;
            let started = Instant::now();
            if !plan.is_build() {
                self.keep(&session, plan).await?;
            } else {
                if tables::CORRECTION.contains(&plan.table.as_str()) {
                    self.prepare_correction(&session, plan, lease).await?;
                }
                if plan.table == "reason" {
                    self.generate(&session, lease).await?;
                }
                if matches!(plan.table.as_str(), "item_feature" | "user_feature") {
                    self.pool(&session, &plan.table).await?;
                }
                self.make_unpublished(&session, &plan.table).await?;
                let started = Instant::now();
                let rows = match plan.table == "user_feature" && self.prepared.is_correcting() {
                    true => self.make_with_corrections(&session, plan).await?,
                    false => self.make(&session, plan).await?,
                };
                self.stage(&plan.table, started, rows);
                let later = plans[i + 1..].iter().filter(|p| p.is_build()).map(|p| p.table.as_str());
                self.prepared.drop_unpublished(&session, later)?;
            }
            tracing::debug!(table = plan.table, seconds = started.elapsed().as_secs_f64(), "made");
        }
        look(&self.prepared, &session, &mut self.manifest, &mut self.details).await?;
        self.stop.check()?;
        let started = Instant::now();
        self.is_publishing.store(true, Ordering::SeqCst);
        let staged = std::mem::take(&mut self.staged);
        let rows = publish(&self.prepared, &self.plans, staged, &self.publisher, lease).await?;
        self.stage("publish", started, rows);
        Ok(())
    }

    fn stage(&mut self, name: &str, started: Instant, rows: u64) {
        let seconds = started.elapsed().as_secs_f64();
        self.manifest.stages.push(StageRecord { stage: name.to_string(), seconds, rows });
    }

    /// Makes the rows of an up-to-date table visible to the tables after it.
    async fn keep(&mut self, session: &Session, plan: &TablePlan) -> Result<()> {
        let dt = self.prepared.interval.dt();
        let record = plan.standing.as_ref().ok_or_else(|| Error::new(Kind::Internal, "a kept table has no record"))?;
        let files = tables::files_in(&self.prepared.root, record)?;
        session.register_files(&plan.table, &self.prepared.contracts[&plan.table], &files).await?;
        self.content.insert(plan.table.clone(), tables::content(record.files.iter().map(|f| f.blake3.as_str())));
        self.manifest.tables.push(table_record(plan, &dt));
        Ok(())
    }

    /// Makes what `table` is made from and nobody publishes, as far as it is not there yet.
    async fn make_unpublished(&mut self, session: &Session, table: &str) -> Result<()> {
        for name in self.prepared.unpublished(table) {
            if !session.has_table(name) {
                self.stop.check()?;
                let started = Instant::now();
                let rows = self.prepared.make_unpublished(session, name).await?;
                self.stage(name, started, rows);
            }
        }
        Ok(())
    }

    /// Stages a table, registers it and audits it; returns its rows.
    async fn make(&mut self, session: &Session, plan: &TablePlan) -> Result<u64> {
        let (table, dt) = (plan.table.as_str(), self.prepared.interval.dt());
        let contract = &self.prepared.contracts[table].clone();
        let stamp = Stamp {
            fingerprint: plan.fingerprint.clone(),
            parts: self.parts_of(plan),
            created_timestamp: self.prepared.interval.end.timestamp_micros(),
        };
        let rows = match self.prepared.sql.get(table) {
            Some(model) => model.run(session, contract, &tables::params(&self.prepared)?).await?,
            None if table == "correction_prompt" => {
                correct::prompts(self.corrector(session).await?, session, contract).await?
            }
            None if table == "reason_correction" => {
                correct::corrections(self.corrector(session).await?, session, contract).await?
            }
            None => self.score(session).await?,
        };
        let staged = match self.publisher.stage(contract, &dt, &stamp, rows).await {
            Ok(staged) => staged,
            Err(error) => {
                let found = Findings::of(&error).map(|f| f.found().to_vec()).unwrap_or_default();
                let at = note(&self.prepared, table, &found, &mut self.manifest).await?;
                return Err(refused(error, at, &self.prepared.job));
            }
        };
        let files: Vec<TableFile> = staged.files.iter().map(|f| f.location.clone().into()).collect();
        session.register_files(table, contract, &files).await?;
        self.content.insert(table.to_string(), tables::content(staged.files.iter().map(|f| f.blake3.as_str())));
        audit_table(&self.prepared, session, table, &mut self.manifest).await?;
        let rows = staged.rows;
        let record = TableRecord {
            table: table.to_string(),
            dt,
            action: "built".into(),
            why: plan.why.clone(),
            rows,
            bytes: staged.files.iter().map(|f| f.bytes).sum(),
            files: staged.files.iter().map(|f| f.name.clone()).collect(),
            fingerprint: plan.fingerprint.clone(),
            parts: staged.stamp.parts.clone(),
        };
        self.manifest.tables.push(record);
        self.staged.push((plan.clone(), staged));
        Ok(rows)
    }

    /// The plan's parts and what the tables before it hold. The latter is known only now, and tells a later run that a
    /// crash between two publishes has left tables that do not belong together.
    fn parts_of(&self, plan: &TablePlan) -> BTreeMap<String, String> {
        let mut parts = plan.parts.clone();
        for table in self.prepared.upstream(&plan.table) {
            if let Some(content) = self.content.get(table) {
                parts.insert(tables::rows_of(table), content.clone());
            }
        }
        parts
    }

    async fn generate(&mut self, session: &Session, lease: &Lease) -> Result<()> {
        let started = Instant::now();
        let root = self.prepared.root.clone();
        let contract = &self.prepared.contracts["response"];
        tables::register_responses(session, &root, contract).await?;
        let usage = &mut self.manifest.usage;
        usage.prompts = tables::count(session, texts::PROMPTS).await?;
        usage.distinct_prompts = tables::count(session, texts::ASKED_PROMPTS).await?;
        let waiting = tables::count(session, texts::PENDING_PROMPTS).await?;
        usage.answered_before = usage.distinct_prompts - waiting;
        tracing::info!(
            prompts = usage.prompts,
            different = usage.distinct_prompts,
            answered_before = usage.answered_before,
            waiting,
            "generating"
        );
        if waiting > 0 {
            let spec = &self.prepared.job.spec;
            let interval = self.prepared.interval;
            let (response, budget, total) = (&spec.response, &spec.budget, usage.distinct_prompts);
            let run_id = &self.manifest.run_id;
            let sink = Sink { root: &root, contract, lease, run_id, interval, response, budget, total };
            let progress = Progress::begin(self.options.voice, "generate", waiting, "new tokens");
            let pending = session.sql(texts::PENDING_PROMPTS, &[]).await?.stream().await?;
            let outcome = generate(pending, &self.prepared.models, &sink, &self.stop, &progress, usage).await;
            progress.finish();
            outcome?;
            tables::register_responses(session, &root, contract).await?;
        }
        self.stop_engine().await?;
        self.stage("generate", started, waiting);
        Ok(())
    }

    /// The weights are not needed any more tonight; the encoder's come next.
    async fn stop_engine(&self) -> Result<()> {
        let models = self.prepared.models.clone();
        tokio::task::spawn_blocking(move || models.stop_engine())
            .await
            .context(Kind::Internal, || "the engine did not stop".into())
    }

    /// The judge, read once.
    async fn corrector(&mut self, session: &Session) -> Result<Arc<Corrector>> {
        if let Some(corrector) = &self.corrector {
            return Ok(corrector.clone());
        }
        let prepared = self.prepared.clone();
        let vocabulary = vocabulary(session, &prepared.job.spec).await?;
        let opened =
            device::guarded_blocking("reading the judge", move || Corrector::open(&prepared, vocabulary)).await?;
        Ok(self.corrector.insert(Arc::new(opened)).clone())
    }

    /// What a table of the correct stage is made from: reasons of earlier days, and answers to its prompts.
    async fn prepare_correction(&mut self, session: &Session, plan: &TablePlan, lease: &Lease) -> Result<()> {
        if !session.has_table("earlier_reason") {
            let expected = plan.parts.get(tables::EARLIER).map(String::as_str).unwrap_or_default();
            correct::register_earlier(&self.prepared, session, expected).await?;
        }
        if plan.table != "reason_correction" {
            return Ok(());
        }
        let started = Instant::now();
        let root = self.prepared.root.clone();
        let contract = &self.prepared.contracts["response"];
        tables::register_responses(session, &root, contract).await?;
        let waiting = tables::count(session, texts::PENDING_REWRITES).await?;
        if waiting > 0 {
            let interval = self.prepared.interval;
            let (response, budget, run_id) =
                (&self.prepared.job.spec.response, &correct::BUDGET, &self.manifest.run_id);
            let sink = Sink { root: &root, contract, lease, run_id, interval, response, budget, total: waiting };
            let progress = Progress::begin(self.options.voice, "rewrite", waiting, "new tokens");
            let pending = session.sql(texts::PENDING_REWRITES, &[]).await?.stream().await?;
            // Counted apart: what fails here is none of the budget's business.
            let mut usage = Usage::default();
            let outcome = generate(pending, &self.prepared.models, &sink, &self.stop, &progress, &mut usage).await;
            progress.finish();
            let whole = &mut self.manifest.usage;
            whole.generated += usage.generated;
            whole.prompt_tokens += usage.prompt_tokens;
            whole.cached_tokens += usage.cached_tokens;
            whole.completion_tokens += usage.completion_tokens;
            whole.seconds += usage.seconds;
            self.manifest.corrections.get_or_insert_default().failed = usage.failed;
            outcome?;
            tables::register_responses(session, &root, contract).await?;
            if !self.plans.iter().any(|p| p.table == "reason" && p.is_build()) {
                self.stop_engine().await?;
            }
        }
        self.stage("rewrite", started, waiting);
        Ok(())
    }

    /// As [`Build::make`], with corrected reasons among the users' scores.
    async fn make_with_corrections(&mut self, session: &Session, plan: &TablePlan) -> Result<u64> {
        const ASIDE: &str = "reason_score_alone";
        session.register_alias(ASIDE, "reason_score").await?;
        session.register_view("reason_score", texts::SCORES_WITH_CORRECTIONS, &[]).await?;
        let rows = self.make(session, plan).await;
        session.register_alias("reason_score", ASIDE).await?;
        session.deregister(ASIDE)?;
        rows
    }

    /// Rows of `reason_score`.
    async fn score(&self, session: &Session) -> Result<BatchStream> {
        let check = self.prepared.job.spec.check.clone();
        let vocabulary = vocabulary(session, &self.prepared.job.spec).await?;
        let schema = self.prepared.contracts["reason_score"].arrow_schema(None);
        let rows = session.sql(texts::REASONS_TO_SCORE, &[]).await?.stream().await?;
        let (check, vocabulary) = (Arc::new(check), Arc::new(vocabulary));
        let scored = rows.then(move |batch| {
            let (schema, check, vocabulary) = (schema.clone(), check.clone(), vocabulary.clone());
            async move {
                let batch = batch?;
                tokio::task::spawn_blocking(move || score_batch(&batch, schema, &check, &vocabulary))
                    .await
                    .context(Kind::Internal, || "scoring was interrupted".into())?
            }
        });
        Ok(scored.boxed())
    }

    /// Embeds the accepted reasons and registers `pooled_embedding` once.
    async fn pool(&mut self, session: &Session, table: &str) -> Result<()> {
        let kind = if table == "item_feature" { "item" } else { "history" };
        let started = Instant::now();
        let width = self.prepared.models.encoder_files()?.dimension();
        let rows = match kind == "history" && self.prepared.is_correcting() {
            true => session.sql(texts::ACCEPTED_AND_CORRECTED_REASONS, &[]).await?,
            false => session.sql(texts::ACCEPTED_REASONS, &[("kind", Param::Text(kind.into()))]).await?,
        };
        let mut rows = rows.stream().await?;
        let mut pooler = Pooler::new(kind, width);
        let mut n = 0;
        while let Some(batch) = rows.try_next().await? {
            self.stop.check()?;
            let (entity, reason) = (text(&batch, "entity_id")?, text(&batch, "reason")?);
            let models = self.prepared.models.clone();
            let vectors = tokio::task::spawn_blocking(move || {
                let texts: Vec<&str> = (0..reason.len()).map(|i| at(&reason, i).unwrap_or_default()).collect();
                models.embed(&texts)
            })
            .await
            .context(Kind::Internal, || "embedding was interrupted".into())??;
            for (entity, vector) in entity.iter().zip(&vectors) {
                pooler.push(entity.unwrap_or_default(), vector)?;
            }
            n += vectors.len() as u64;
        }
        let pooled = pooler.finish()?;
        session.register_batches("pooled_embedding", pooled.schema(), vec![pooled])?;
        self.stage(if kind == "item" { "embed items" } else { "embed histories" }, started, n);
        Ok(())
    }
}
