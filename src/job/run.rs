//! One run: check inputs, make tables, generate, score, embed, audit what is staged, publish, report.
//!
//! The order of the steps is the design's (write, audit, publish): nothing is published before every staged table has
//! passed its audits. Knows every layer below; knows nothing of the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use crate::columns::{at, floats, integers, text, text_lists};
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::feature::Pooler;
use crate::generate::functions;
use crate::generate::models::Models;
use crate::job::generate::{Sink, generate};
use crate::job::manifest::{self, AuditRecord, InputRecord, Manifest, StageRecord, TableRecord};
use crate::job::report::{self, Details, Sample};
use crate::job::stop::Stop;
use crate::job::tables::{self, PENDING, Prepared, TablePlan, locate, prepare};
use crate::query::audit::{self, Drift};
use crate::query::session::{BatchStream, Session, TableFile};
use crate::reward::checks::{self, Vocabulary};
use crate::reward::score::score_batch;
use crate::table::finding::{Finding, Findings};
use crate::table::input::{InputTable, check_input, open_input};
use crate::table::lease::{Holder, Lease};
use crate::table::partition::{self, Publisher, StagedTable, commit_record};
use crate::table::quarantine::{self, Origin};
use crate::table::redact::redact;
use crate::table::store::Location;
use crate::table::traffic::{Traffic, traffic};
use crate::table::write::Stamp;
use crate::telemetry::{self, Progress, Voice};

/// How long a run that cannot begin tries to say so in the warehouse.
const TRACE_PATIENCE: Duration = Duration::from_secs(10);

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
pub async fn run(job: &Job, interval: Interval, options: Options, stop: Stop) -> Result<Done> {
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
    };
    let (finished, is_finished) = tokio::sync::oneshot::channel();
    let keep_alive = tokio::spawn(renew(lease.clone(), stop.clone(), is_finished));
    // Whoever finds what a killed run has paid for finds the run.
    leave(job, &manifest).await;
    let mut result = tokio::select! {
        result = build.everything(&lease) => result,
        error = out_of_grace(stop, grace, is_publishing) => Err(error),
    };
    // Not aborted: half a renewal would be in the way of giving the lease back.
    drop(finished);
    keep_alive.await.context(Kind::Internal, || "the lease's keeper died".into())?;
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
    stop: &Stop,
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
    let plans = prepared.decide(options.full, options.retry_failed).await?;
    if !plans.iter().any(TablePlan::is_build) {
        return Ok((prepared, plans, None));
    }
    let ttl = Duration::from_secs_f64(job.spec.publish.lease_seconds);
    // Partitions are days of the warehouse, whichever job or length of interval writes them.
    let name = format!("dt={}", interval.dt());
    let lease = Lease::acquire(&prepared.root, &name, Holder::here(&manifest.run_id), ttl).await?;
    // Another run may have published between the first look and the lease.
    let plans = match prepared.decide(options.full, options.retry_failed).await {
        Ok(plans) if plans.iter().any(TablePlan::is_build) => return Ok((prepared, plans, Some(lease))),
        other => other,
    };
    lease.release().await?;
    Ok((prepared, plans?, None))
}

/// Fills in how the run ended.
fn close(manifest: &mut Manifest, error: Option<&Error>, started: Instant, traffic_before: Traffic) {
    manifest.store = traffic().since(traffic_before);
    manifest.seconds = started.elapsed().as_secs_f64();
    manifest.finished_at = now();
    manifest.peak_memory = telemetry::peak_memory();
    manifest.status = error.map_or("published", |e| e.kind().name()).into();
    manifest.error = error.map(|e| redact(&e.to_string()));
}

/// Writes the manifest alone, where the warehouse can be written: a run that cannot begin is worth a trace, but the
/// trace is not worth a run.
async fn leave(job: &Job, manifest: &Manifest) {
    let write = async {
        let folder = locate(job, &job.spec.warehouse)?.child("_runs").child(&manifest.run_id);
        write_manifest(&folder, manifest).await
    };
    match tokio::time::timeout(TRACE_PATIENCE, write).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = %e, "the run leaves no manifest"),
        Err(_) => tracing::warn!("the run leaves no manifest: the warehouse does not answer"),
    }
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

/// A line on prompts that have no answer; empty where all have one.
fn failed_story(prompts: u64) -> String {
    match prompts {
        0 => String::new(),
        n => format!("\n{n} prompt(s) failed and have no reason; --retry-failed tries them again."),
    }
}

/// Waits for the wish to stop and the grace time after it; a run that has begun to publish is let finish.
async fn out_of_grace(stop: Stop, grace: Duration, is_publishing: Arc<AtomicBool>) -> Error {
    stop.requested().await;
    tokio::time::sleep(grace).await;
    if is_publishing.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    Error::new(Kind::Interrupted, "stopped by a signal when the grace time was over; nothing was published")
        .hint("finished answers are kept; run the same command again")
}

/// Renews the lease until `finished`. A run that has lost it stops, since another one pays for the same prompts now;
/// where the store fails, publishing will find out.
async fn renew(lease: Arc<Lease>, stop: Stop, mut finished: tokio::sync::oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(lease.ttl() / 3) => {}
            _ = &mut finished => return,
        }
        if let Err(e) = lease.renew().await {
            tracing::warn!(error = %e, "the lease was not renewed");
            if e.kind() == Kind::Busy {
                stop.request();
                return;
            }
        }
    }
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
        // A missing input must not keep people from querying what was published.
        match open_input(&contract, &locate(job, text)?).await {
            Ok(found) => session.register_files(table, &contract, &tables::files_of(&found)).await?,
            Err(e) => tracing::warn!(table, error = %e, "this input cannot be queried"),
        }
    }
    for table in tables::TABLES {
        let mut files = Vec::new();
        for record in partition::partitions(&root, table).await? {
            let dt = record.dt.clone();
            files.extend(tables::files_in(&root, &record)?.into_iter().map(|f| (f.location, dt.clone())));
        }
        session.register_published(table, &tables::contract_of(job, table)?, &files).await?;
    }
    tables::register_responses(&session, &root, &tables::contract_of(job, "response")?).await?;
    let failed: Vec<TableFile> = quarantine::files(&root).await?.into_iter().map(|e| e.location.into()).collect();
    session.register_files("quarantine", &tables::contract_of(job, "quarantine")?, &failed).await?;
    Ok(session)
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

pub(crate) fn now() -> String {
    Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// The manifest as far as job and interval tell.
fn begin(job: &Job, interval: Interval) -> Manifest {
    let started = Utc::now();
    let pid = std::process::id();
    Manifest {
        format: manifest::FORMAT,
        status: "running".into(),
        // A URL may hold what nobody else is to see.
        settings: job.settings.iter().map(|(key, value)| (key.clone(), redact(value))).collect(),
        curec: format!("curec {}", env!("CARGO_PKG_VERSION")),
        run_id: format!("{}-{}-{pid}", job.spec.name, started.format("%Y%m%dT%H%M%S%3fZ")),
        job: job.spec.name.clone(),
        job_file: job.origin.clone(),
        interval_start: interval.start.to_rfc3339(),
        interval_end: interval.end.to_rfc3339(),
        started_at: now(),
        finished_at: now(),
        host: std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_string(),
        pid,
        device: job.spec.model.device.clone(),
        ..Manifest::default()
    }
}

/// Fills in inputs and models.
fn describe(prepared: &Prepared, manifest: &mut Manifest) -> Result<()> {
    let record = |(name, input): (&String, &InputTable)| {
        let (files, bytes, digest) = (input.files.len(), input.bytes(), input.digest());
        (name.clone(), InputRecord { files, rows: input.rows(), bytes, digest, notes: Vec::new() })
    };
    manifest.inputs = prepared.inputs.iter().map(record).collect();
    manifest.models = BTreeMap::from([
        ("generator".to_string(), prepared.models.generator()?.fingerprint.model.clone()),
        ("encoder".to_string(), prepared.models.encoder_files()?.digest().to_string()),
    ]);
    Ok(())
}

fn table_record(plan: &TablePlan, dt: &str) -> TableRecord {
    let standing = plan.standing.as_ref();
    TableRecord {
        table: plan.table.clone(),
        dt: dt.to_string(),
        action: "kept".into(),
        why: Vec::new(),
        rows: standing.map_or(0, |r| r.rows()),
        bytes: standing.map_or(0, |r| r.files.iter().map(|f| f.bytes).sum()),
        files: standing.map_or_else(Vec::new, |r| r.files.iter().map(|f| f.name.clone()).collect()),
        fingerprint: plan.fingerprint.clone(),
        parts: standing.map_or_else(BTreeMap::new, |r| r.parts.clone()),
    }
}

struct Build {
    prepared: Prepared,
    plans: Vec<TablePlan>,
    options: Options,
    stop: Stop,
    publisher: Publisher,
    manifest: Manifest,
    details: Details,
    staged: Vec<(TablePlan, StagedTable)>,
    /// Digest of each table's files, staged or kept, for what is made from it.
    content: BTreeMap<String, String>,
    is_publishing: Arc<AtomicBool>,
}

impl Build {
    async fn everything(&mut self, lease: &Lease) -> Result<()> {
        self.check_inputs().await?;
        let session = tables::session(&self.prepared).await?;
        self.look_for_events(&session).await?;
        self.count_unknown_items(&session).await?;
        let plans = self.plans.clone();
        for (i, plan) in plans.iter().enumerate() {
            self.stop.check()?;
            let started = Instant::now();
            if !plan.is_build() {
                self.keep(&session, plan).await?;
            } else {
                if plan.table == "reason" {
                    self.generate(&session).await?;
                }
                if matches!(plan.table.as_str(), "item_feature" | "user_feature") {
                    self.pool(&session, &plan.table).await?;
                }
                self.make_unpublished(&session, &plan.table).await?;
                let started = Instant::now();
                let rows = self.make(&session, plan).await?;
                self.stage(&plan.table, started, rows);
                let later = plans[i + 1..].iter().filter(|p| p.is_build()).map(|p| p.table.as_str());
                self.prepared.drop_unpublished(&session, later)?;
            }
            tracing::debug!(table = plan.table, seconds = started.elapsed().as_secs_f64(), "made");
        }
        self.look(&session).await?;
        self.stop.check()?;
        self.publish(lease).await
    }

    fn stage(&mut self, name: &str, started: Instant, rows: u64) {
        let seconds = started.elapsed().as_secs_f64();
        self.manifest.stages.push(StageRecord { stage: name.to_string(), seconds, rows });
    }

    async fn check_inputs(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut rows = 0;
        for (name, input) in &self.prepared.inputs {
            let found = check_input(&self.prepared.contracts[name], input).await?;
            rows += found.rows;
            if let Some(record) = self.manifest.inputs.get_mut(name) {
                record.rows = found.rows;
                record.notes = found.warnings.clone();
                if found.null_titles() > 0 && record.notes.is_empty() {
                    record.notes.push(format!("{} rows without a title", found.null_titles()));
                }
            }
            for warning in &found.warnings {
                tracing::warn!(table = name, "{warning}");
            }
        }
        self.stage("check inputs", started, rows);
        Ok(())
    }

    /// Counts items that have events and no row in `item`: accepted, but somebody may want to know.
    async fn count_unknown_items(&mut self, session: &Session) -> Result<()> {
        for batch in session.sql(tables::UNKNOWN_ITEMS, &[]).await?.collect().await? {
            let (n, example) = (integers(&batch, "n")?, text(&batch, "example")?);
            if let (1.., Some(example)) = (n.value(0), at(&example, 0)) {
                let note = format!("{} items with events are not in `item`, for example {example}", n.value(0));
                tracing::warn!("{note}");
                self.manifest.inputs.entry("item".into()).or_default().notes.push(note);
            }
        }
        Ok(())
    }

    /// Refuses an interval without any event: the log has most likely not arrived yet, and publishing would empty the
    /// partition.
    async fn look_for_events(&self, session: &Session) -> Result<()> {
        let params = tables::params(&self.prepared)?;
        if self.options.allow_empty || session.sql(tables::EVENTS, &params).await?.count().await? > 0 {
            return Ok(());
        }
        let interval = self.prepared.interval;
        Err(Error::new(Kind::Input, "the input has no event in the interval; nothing was published")
            .with("interval", format!("{} to {}", interval.start.to_rfc3339(), interval.end.to_rfc3339()))
            .with("input", &self.prepared.job.spec.input.interaction)
            .hint("has the log arrived? Run again when it has, or add --allow-empty to publish empty tables"))
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
            None => self.score(session).await?,
        };
        let staged = match self.publisher.stage(contract, &dt, &stamp, rows).await {
            Ok(staged) => staged,
            Err(error) => {
                let found = Findings::of(&error).map(|f| f.found().to_vec()).unwrap_or_default();
                let at = self.note(table, &found).await?;
                return Err(refused(error, at, &self.prepared.job));
            }
        };
        let files: Vec<TableFile> = staged.files.iter().map(|f| f.location.clone().into()).collect();
        session.register_files(table, contract, &files).await?;
        self.content.insert(table.to_string(), tables::content(staged.files.iter().map(|f| f.blake3.as_str())));
        self.audit(session, plan).await?;
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
        for table in tables::upstream(&plan.table) {
            parts.insert(tables::rows_of(table), self.content.get(*table).cloned().unwrap_or_default());
        }
        parts
    }

    async fn audit(&mut self, session: &Session, plan: &TablePlan) -> Result<()> {
        let band = self.prepared.job.spec.audit.row_count_band;
        let drift = match band > 0.0 {
            true => self.rows_before(&plan.table).await?.map(|previous_rows| Drift { previous_rows, band }),
            false => None,
        };
        let contract = &self.prepared.contracts[&plan.table];
        let params = tables::params(&self.prepared)?;
        let report = audit::audit(session, contract, &plan.table, &params, drift).await?;
        let at = self.note(&plan.table, &report.found).await?;
        report.into_result().map(drop).map_err(|error| refused(error, at, &self.prepared.job))
    }

    /// Notes what audits found in log, manifest and quarantine; returns where it stands in the latter.
    async fn note(&mut self, table: &str, found: &[Finding]) -> Result<Option<Location>> {
        for finding in found {
            let (audit, severity) = (&finding.audit, finding.severity.name());
            tracing::warn!(table, audit, severity, rows = finding.failing, "an audit failed");
            self.manifest.audits.push(AuditRecord {
                table: table.to_string(),
                audit: audit.clone(),
                severity: severity.to_string(),
                rows: finding.failing,
            });
        }
        if found.is_empty() {
            return Ok(None);
        }
        let of = Origin { run_id: &self.manifest.run_id, dt: &self.prepared.interval.dt(), table };
        quarantine::record(&self.prepared.root, &self.prepared.contracts["quarantine"], of, found).await.map(Some)
    }

    /// Rows of the table's latest partition before this one.
    async fn rows_before(&self, table: &str) -> Result<Option<u64>> {
        let dt = self.prepared.interval.dt();
        let records = partition::partitions(&self.prepared.root, table).await?;
        Ok(records.iter().filter(|r| r.dt < dt).max_by(|a, b| a.dt.cmp(&b.dt)).map(|r| r.rows()))
    }

    async fn generate(&mut self, session: &Session) -> Result<()> {
        let started = Instant::now();
        let root = self.prepared.root.clone();
        let contract = &self.prepared.contracts["response"];
        tables::register_responses(session, &root, contract).await?;
        let usage = &mut self.manifest.usage;
        usage.prompts = tables::count(session, "select 1 as one from reason_prompt").await?;
        usage.distinct_prompts = tables::count(session, tables::ASKED).await?;
        let waiting = tables::count(session, PENDING).await?;
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
            let sink = Sink { root: &root, contract, run_id, interval, response, budget, total };
            let progress = Progress::begin(self.options.voice, "generate", waiting, "new tokens");
            let pending = session.sql(PENDING, &[]).await?.stream().await?;
            let outcome = generate(pending, &self.prepared.models, &sink, &self.stop, &progress, usage).await;
            progress.finish();
            outcome?;
            // The weights are not needed any more tonight; the encoder's come next.
            let models = self.prepared.models.clone();
            tokio::task::spawn_blocking(move || models.stop_engine())
                .await
                .context(Kind::Internal, || "the engine did not stop".into())?;
            tables::register_responses(session, &root, contract).await?;
        }
        self.stage("generate", started, waiting);
        Ok(())
    }

    /// Rows of `reason_score`.
    async fn score(&self, session: &Session) -> Result<BatchStream> {
        let vocabulary = vocabulary(session).await?;
        let schema = self.prepared.contracts["reason_score"].arrow_schema(None);
        let check = self.prepared.job.spec.check.clone();
        let rows = session.sql(tables::SCORED, &[]).await?.stream().await?;
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
        let mut rows = session.sql(&tables::accepted(kind), &[]).await?.stream().await?;
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

    /// Counts and samples for manifest and report.
    async fn look(&mut self, session: &Session) -> Result<()> {
        let reasons = &mut self.manifest.reasons;
        let mut rows = session.sql(tables::TALLY, &[]).await?.stream().await?;
        while let Some(batch) = rows.try_next().await? {
            let (kind, refusal) = (text(&batch, "kind")?, text(&batch, "refusal")?);
            let n = integers(&batch, "n")?;
            for i in 0..batch.num_rows() {
                let n = n.value(i) as u64;
                *reasons.by_kind.entry(kind.value(i).to_string()).or_default() += n;
                match at(&refusal, i) {
                    Some(code) => *reasons.refused.entry(code.to_string()).or_default() += n,
                    None => *reasons.accepted.entry(kind.value(i).to_string()).or_default() += n,
                }
            }
        }
        for batch in session.sql(tables::MEASURES, &[]).await?.collect().await? {
            self.details.scores.extend(floats(&batch, "score")?.iter().flatten());
            self.details.lengths.extend(floats(&batch, "n_words")?.iter().flatten());
        }
        let (contract, root) = (&self.prepared.contracts["response"], &self.prepared.root);
        if !session.has_table("response") {
            tables::register_responses(session, root, contract).await?;
        }
        let usage_all = tables::usage_all(session, contract).await?;
        self.manifest.failed_prompts = usage_all.failed;
        self.manifest.usage_all = Some(usage_all);
        let price = &self.prepared.job.spec.price;
        self.details.price = (price.prompt_tokens_million, price.completion_tokens_million);
        let words = vocabulary(session).await?;
        self.details.accepted = samples(&session.sql(&tables::samples(true), &[]).await?.collect().await?, &words)?;
        self.details.refused = samples(&session.sql(&tables::samples(false), &[]).await?.collect().await?, &words)?;
        Ok(())
    }

    async fn publish(&mut self, lease: &Lease) -> Result<()> {
        let started = Instant::now();
        self.is_publishing.store(true, Ordering::SeqCst);
        let mut rows = 0;
        for plan in self.plans.iter().filter(|p| !p.is_build()) {
            // What is staged was made from the kept tables as they stood: a run that was overtaken may have replaced one.
            if commit_record(&self.prepared.root, &plan.table, &self.prepared.interval.dt()).await? != plan.standing {
                return Err(Error::new(Kind::Busy, "another run has replaced a table that this one was made from")
                    .with("table", &plan.table)
                    .hint("run it again"));
            }
        }
        for (plan, staged) in self.staged.drain(..) {
            rows += staged.rows;
            self.publisher.publish(lease, staged).await?;
            tracing::debug!(table = plan.table, "published");
        }
        self.stage("publish", started, rows);
        Ok(())
    }
}

/// Tells where the rows stand that an error is about.
fn refused(error: Error, quarantine: Option<Location>, job: &Job) -> Error {
    let Some(at) = quarantine else { return error };
    error.with("quarantine", at).hint(format!(
        "see the rows with: curec sql --job {} \"select * from quarantine order by run_id desc\"; then mend the cause and run again",
        job.origin
    ))
}

/// The attributes of the catalogue.
async fn vocabulary(session: &Session) -> Result<Vocabulary> {
    let mut categories = Vec::new();
    for batch in session.sql(tables::CATEGORIES, &[]).await?.collect().await? {
        categories.extend(text(&batch, "category")?.iter().flatten().map(str::to_string));
    }
    Ok(Vocabulary::new(categories.iter().map(String::as_str)))
}

fn samples(batches: &[RecordBatch], vocabulary: &Vocabulary) -> Result<Vec<Sample>> {
    let mut all = Vec::new();
    for batch in batches {
        let [kind, entity] = [text(batch, "kind")?, text(batch, "entity")?];
        let [reason, refusal, subject] = [text(batch, "reason")?, text(batch, "refusal")?, text(batch, "subject")?];
        let score = floats(batch, "score")?;
        let lists = ["liked", "disliked", "related", "attributes"].map(|name| (name, text_lists(batch, name)));
        let mut evidence: Vec<Vec<String>> = (0..batch.num_rows())
            .map(|i| at(&subject, i).map(|s| format!("about: {s}")).into_iter().collect())
            .collect();
        let mut pieces: Vec<Vec<String>> =
            (0..batch.num_rows()).map(|i| at(&subject, i).map(str::to_string).into_iter().collect()).collect();
        for (name, lists) in lists {
            for ((held, pieces), list) in evidence.iter_mut().zip(&mut pieces).zip(lists?) {
                pieces.extend(list.iter().cloned());
                if !list.is_empty() {
                    held.push(format!("{name}: {}", list.join("; ")));
                }
            }
        }
        for (i, evidence) in evidence.into_iter().enumerate() {
            let pieces: Vec<&str> = pieces[i].iter().map(String::as_str).collect();
            let said = at(&reason, i).unwrap_or_default();
            all.push(Sample {
                invented: checks::mentions(said, &pieces, vocabulary).invented,
                kind: kind.value(i).to_string(),
                entity: at(&entity, i).unwrap_or_default().to_string(),
                evidence,
                reason: said.to_string(),
                score: score.is_valid(i).then(|| score.value(i)),
                refusal: at(&refusal, i).map(str::to_string),
            });
        }
    }
    Ok(all)
}

async fn write_manifest(folder: &Location, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).context(Kind::Internal, || "the manifest is not JSON".into())?;
    folder.child(Manifest::NAME).put(text.into()).await
}

async fn write_run(folder: &Location, manifest: &Manifest, details: &Details) -> Result<String> {
    write_manifest(folder, manifest).await?;
    folder.child("report.json").put(report::json(manifest, details)?.into()).await?;
    let page = folder.child("report.html");
    page.put(report::html(manifest, details)?.into()).await?;
    Ok(page.local_path().map_or_else(|| page.url().to_string(), |p| p.display().to_string()))
}

fn story(m: &Manifest, report: &str, root: &Location) -> String {
    let kinds = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
    };
    let refused: Vec<String> = m.reasons.refused.iter().map(|(code, n)| format!("{code} {n}")).collect();
    format!(
        "Published {} reasons ({}) in {:.1} s; accepted {:.1} % ({}); refused: {}.\n\
         Generated {} prompts, {} prompt tokens ({} shared), {} new tokens at {:.1} tokens/s.{}{}\n\
         {}Tables: {}\nReport: {report}",
        m.reasons.total(),
        kinds(&m.reasons.by_kind),
        m.seconds,
        100.0 * m.reasons.acceptance(),
        kinds(&m.reasons.accepted),
        if refused.is_empty() { "none".to_string() } else { refused.join(", ") },
        m.usage.generated,
        m.usage.prompt_tokens,
        m.usage.cached_tokens,
        m.usage.completion_tokens,
        m.usage.completion_tokens as f64 / m.usage.seconds.max(1e-9),
        match &m.usage_all {
            // Without earlier runs it would say the same again.
            Some(all) if m.usage.answered_before > 0 || all.runs > 1 => format!(
                "\nWith earlier runs: {} prompts answered, {} prompt tokens, {} new tokens, {:.1} s, paid by {} run(s).",
                all.answered, all.prompt_tokens, all.completion_tokens, all.seconds, all.runs
            ),
            _ => String::new(),
        },
        failed_story(m.failed_prompts),
        match m.store.retries {
            0 => String::new(),
            n => format!("Store: {n} of {} requests failed and were made again.\n", m.store.requests),
        },
        root.local_path().map_or_else(|| root.url().to_string(), |p: PathBuf| p.display().to_string()),
    )
}
