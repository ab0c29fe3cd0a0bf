//! How a run makes its tables: one loop over the order that the graph gives, a step for each way of building.
//!
//! What is up to date is kept; what is built is staged and audited, and published by the caller when all of it stands.
//! Unpublished tables are made when a table that is built needs them and dropped when none does any more. Knows tables,
//! models and the lease under which answers are paid for; knows nothing of how a run begins and ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::Array;
use futures::{StreamExt, TryStreamExt};

use crate::cancel::CancelToken;
use crate::columns::{at, text};
use crate::error::{Context, Error, Kind, Result};
use crate::feature::Pooler;
use crate::llm::device;
use crate::night::asking::Asking;
use crate::night::correct::{self, Corrector, Pass};
use crate::night::decide::TablePlan;
use crate::night::engine::{answers, engine_of};
use crate::night::generation::{Checks, Sink};
use crate::night::graph::{EARLIER, RESPONSE};
use crate::night::made_from::{self, UNPAID, rows_of};
use crate::night::manifest::{Manifest, StageRecord, TableRecord, Usage};
use crate::night::prepare::Prepared;
use crate::night::record::{self, look, table_record};
use crate::night::report::Details;
use crate::night::samples::vocabulary;
use crate::night::spending::{Cap, Purse, Unpaid};
use crate::night::tables;
use crate::night::verify::{audit_table, check_inputs, count_unknown_items, look_for_events, note, refused};
use crate::query::session::{BatchStream, Param, Session, TableFile};
use crate::query::texts;
use crate::reward::score::score_batch;
use crate::table::build::By;
use crate::table::finding::Findings;
use crate::table::lease::Lease;
use crate::table::partition::{Publisher, StagedTable};
use crate::table::write::Stamp;
use crate::telemetry::{Progress, Voice};

/// A run at work.
pub(super) struct Build {
    pub(super) prepared: Prepared,
    pub(super) plans: Vec<TablePlan>,
    voice: Voice,
    allow_empty: bool,
    stop: CancelToken,
    pub(super) publisher: Publisher,
    pub(super) manifest: Manifest,
    pub(super) details: Details,
    /// What waits for being published, in the order in which it was made.
    pub(super) staged: Vec<(TablePlan, StagedTable)>,
    /// Digest of each table's files, staged or kept, for what is made from it.
    content: BTreeMap<String, String>,
    corrector: Option<Arc<Corrector>>,
    /// When the generate stage began: since then a cap counts minutes.
    began: Option<Instant>,
    /// The stage that has not ended yet, and when it began.
    under_way: Option<(String, Instant)>,
}

impl Build {
    pub(super) fn new(
        prepared: Prepared,
        plans: Vec<TablePlan>,
        voice: Voice,
        allow_empty: bool,
        stop: CancelToken,
        manifest: Manifest,
    ) -> Build {
        Build {
            publisher: Publisher::new(prepared.root.clone(), &manifest.run_id)
                .with_delta_logs(prepared.job.spec.publish.delta),
            prepared,
            plans,
            voice,
            allow_empty,
            stop,
            manifest,
            details: Details::default(),
            staged: Vec::new(),
            content: BTreeMap::new(),
            corrector: None,
            began: None,
            under_way: None,
        }
    }

    /// Checks the inputs and makes, stages and audits every table that is to be built.
    pub(super) async fn everything(&mut self, lease: &Lease) -> Result<()> {
        let started = self.begin("check inputs");
        let rows = check_inputs(&self.prepared, &mut self.manifest).await?;
        self.stage("check inputs", started, rows);
        let engine = engine_of(&self.prepared, self.publisher.set_aside()).await?;
        let session = self.prepared.session_on(engine).await?;
        look_for_events(&self.prepared, &session, self.allow_empty).await?;
        count_unknown_items(&session, &mut self.manifest).await?;
        let graph = self.prepared.graph.clone();
        for table in graph.order() {
            self.stop.check()?;
            let started = Instant::now();
            match self.plans.iter().find(|plan| plan.table == table).cloned() {
                Some(plan) if !plan.is_build() => self.keep(&session, &plan).await?,
                Some(plan) => {
                    let unpaid = self.pay(&session, table, lease).await?;
                    self.make(&session, &plan, unpaid).await?;
                    self.drop_unneeded(&session, table)?;
                }
                None if !self.prepared.is_made(table)? => {
                    // Who reads it finds no rows.
                    session.register_batches(table, graph.contract(table)?.arrow_schema(None), Vec::new())?;
                }
                None if self.is_needed_by(self.plans.iter(), table) => self.make_unpublished(&session, table).await?,
                None => continue,
            }
            tracing::debug!(table, seconds = started.elapsed().as_secs_f64(), "made");
        }
        look(&self.prepared, &session, &self.plans, &mut self.manifest, &mut self.details).await?;
        self.stop.check()
    }

    /// Notes that a stage begins, and when.
    pub(super) fn begin(&mut self, name: &str) -> Instant {
        let started = Instant::now();
        self.under_way = Some((name.to_owned(), started));
        started
    }

    /// Takes the stage that has not ended, as one that ends now: where the run failed.
    pub(super) fn take_unfinished(&mut self) -> Option<StageRecord> {
        self.under_way.take().map(|(name, started)| record::stage(&name, started, 0))
    }

    /// Notes that a stage has ended.
    pub(super) fn stage(&mut self, name: &str, started: Instant, rows: u64) {
        self.under_way = None;
        self.manifest.stages.push(record::stage(name, started, rows));
    }

    /// Whether one of the plans is built and made from this unpublished table.
    fn is_needed_by<'a>(&self, mut plans: impl Iterator<Item = &'a TablePlan>, table: &str) -> bool {
        plans.any(|plan| plan.is_build() && self.prepared.graph.parts(&plan.table).contains(&table))
    }

    /// Drops the unpublished tables that nothing behind `made` is made from.
    fn drop_unneeded(&self, session: &Session, made: &str) -> Result<()> {
        let graph = &self.prepared.graph;
        let later = || self.plans.iter().skip_while(|plan| plan.table != made).skip(1);
        let unpublished = graph.order().filter(|table| !graph.is_published(table) && session.has_table(table));
        unpublished.filter(|table| !self.is_needed_by(later(), table)).try_for_each(|table| session.deregister(table))
    }

    /// Makes the rows of an up-to-date table visible to the tables after it.
    async fn keep(&mut self, session: &Session, plan: &TablePlan) -> Result<()> {
        let dt = self.prepared.interval.dt();
        let record = plan.standing.as_ref().ok_or_else(|| Error::new(Kind::Internal, "a kept table has no record"))?;
        let files = tables::files_in(&self.prepared.root, record)?;
        session.register_files(&plan.table, self.prepared.graph.contract(&plan.table)?, &files).await?;
        self.content.insert(plan.table.clone(), tables::content(record.files.iter().map(|f| f.blake3.as_str())));
        self.manifest.tables.push(table_record(plan, &dt));
        Ok(())
    }

    /// Makes a table that is not published and registers it.
    async fn make_unpublished(&mut self, session: &Session, table: &str) -> Result<()> {
        let started = self.begin(table);
        let graph = self.prepared.graph.clone();
        let rows = self.rows(session, table).await?;
        let n = match graph.build(table)?.by {
            By::Pool => {
                // One batch, held in memory: its schema alone tells the width of the vectors where it has no rows.
                let pooled: Vec<_> = rows.try_collect().await?;
                let n = pooled.iter().map(|batch| batch.num_rows() as u64).sum();
                let schema = pooled.first().map_or_else(|| Pooler::schema(0), |batch| batch.schema());
                session.register_rows(table, schema, pooled).await?;
                n
            }
            _ => session.register_spilled(table, graph.contract(table)?, rows).await?,
        };
        self.stage(table, started, n);
        Ok(())
    }

    /// Stages a table, registers it and audits it; `unpaid` prompts behind it have no answer yet because of a cap.
    async fn make(&mut self, session: &Session, plan: &TablePlan, unpaid: u64) -> Result<()> {
        let started = self.begin(&plan.table);
        let (table, dt) = (plan.table.as_str(), self.prepared.interval.dt());
        let graph = self.prepared.graph.clone();
        let contract = graph.contract(table)?;
        let stamp = Stamp {
            fingerprint: plan.fingerprint.clone(),
            parts: self.parts_of(plan, unpaid),
            created_timestamp: self.prepared.interval.end.timestamp_micros(),
        };
        let rows = self.rows(session, table).await?;
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
        self.stage(table, started, rows);
        Ok(())
    }

    /// The plan's parts and what the tables before it hold. The latter is known only now, and tells a later run that a
    /// crash between two publishes has left tables that do not belong together. So does what is unpaid: that run pays.
    fn parts_of(&self, plan: &TablePlan, unpaid: u64) -> BTreeMap<String, String> {
        let mut parts = plan.parts.clone();
        if unpaid > 0 {
            parts.insert(UNPAID.to_owned(), unpaid.to_string());
        }
        for table in self.prepared.graph.upstream(&plan.table) {
            if let Some(content) = self.content.get(table) {
                parts.insert(rows_of(table), content.clone());
            }
        }
        parts
    }

    /// The rows of a table, by the step that its contract names.
    async fn rows(&mut self, session: &Session, table: &str) -> Result<BatchStream> {
        self.register_earlier(session, table).await?;
        // Where the prompts' own table is kept, nobody has looked at the answers yet.
        if self.prepared.graph.reads(table).any(|read| read == RESPONSE) && !session.has_table(RESPONSE) {
            let contract = self.prepared.graph.contract(RESPONSE)?;
            tables::register_responses(session, &self.prepared.root, contract).await?;
        }
        match self.prepared.graph.build(table)?.by {
            By::Sql | By::Generate => self.prepared.rows(session, table).await,
            By::Score => self.score(session, table).await,
            By::Pool => self.pool(session, table).await,
            By::Correct => self.correct(session, table).await,
        }
    }

    /// The rows of a table's definition, before its step.
    async fn defined(&self, session: &Session, table: &str) -> Result<BatchStream> {
        let graph = &self.prepared.graph;
        let definition = graph.definition(table)?;
        let params = self.prepared.params_of(definition)?;
        definition.rows(session, graph.build(table)?.joins, &params).await?.stream().await
    }

    /// Registers what was published before the interval of the tables that the definition reads as earlier ones.
    ///
    /// # Errors
    /// [`Kind::Busy`] where that is not what the run was planned with.
    async fn register_earlier(&self, session: &Session, table: &str) -> Result<()> {
        let graph = &self.prepared.graph;
        if !graph.reads(table).any(|read| read.starts_with(EARLIER) && !session.has_table(read)) {
            return Ok(());
        }
        let earlier = self.prepared.earlier().await?;
        let is_planned = |plan: &TablePlan| match plan.parts.get(made_from::EARLIER) {
            Some(planned) => self.prepared.earlier_digest(&plan.table, &earlier).as_ref() == Some(planned),
            None => true,
        };
        if !self.plans.iter().filter(|plan| graph.parts(&plan.table).contains(&table)).all(is_planned) {
            return Err(Error::new(Kind::Busy, "another run has published a day before this one meanwhile")
                .hint("tables of this day lean on it; run the same command again"));
        }
        self.prepared.register_earlier(session, table, &earlier).await
    }

    /// Has the language model answer what a table needs answered before it can be made. Returns how many prompts a cap has left
    /// unpaid.
    async fn pay(&mut self, session: &Session, table: &str, lease: &Lease) -> Result<u64> {
        let graph = self.prepared.graph.clone();
        let unpaid = match graph.build(table)?.by {
            By::Generate => self.generate(session, lease).await?,
            By::Correct if graph.reads(table).any(|read| read == RESPONSE) => self.rewrite(session, lease).await?,
            _ => return Ok(0),
        };
        let later = self.plans.iter().skip_while(|plan| plan.table != table).skip(1);
        let asks = |plan: &TablePlan| {
            plan.is_build()
                && graph.build(&plan.table).is_ok_and(|build| matches!(build.by, By::Generate | By::Correct))
        };
        if !later.into_iter().any(asks) {
            self.stop_engine().await?;
        }
        Ok(unpaid)
    }

    /// What the run may still spend, where the job has a cap.
    fn purse(&mut self) -> Option<Purse> {
        let began = *self.began.get_or_insert_with(Instant::now);
        Some(Purse::new(Cap::of(&self.prepared.job.spec)?, began, &self.manifest.usage))
    }

    /// Notes what a cap has left unpaid of so many prompts, and returns their number.
    ///
    /// # Errors
    /// [`Kind::Budget`] where the job does not publish then.
    fn note_unpaid(&mut self, unpaid: Option<Unpaid>, of: u64) -> Result<u64> {
        let Some(unpaid) = unpaid else { return Ok(0) };
        let usage = &mut self.manifest.usage;
        usage.unpaid += unpaid.prompts;
        usage.cap_reached = Some(unpaid.limit.key.to_owned());
        tracing::warn!(cap = %unpaid.limit, unpaid = unpaid.prompts, "a cap of [budget] is reached: no further prompt is asked");
        match Cap::of(&self.prepared.job.spec) {
            Some(cap) if cap.stops() => Err(cap.stopped(&unpaid, of, usage)),
            _ => Ok(unpaid.prompts),
        }
    }

    async fn generate(&mut self, session: &Session, lease: &Lease) -> Result<u64> {
        let started = self.begin("generate");
        let (purse, mut unpaid) = (self.purse(), 0);
        let root = self.prepared.root.clone();
        let graph = self.prepared.graph.clone();
        let contract = graph.contract(RESPONSE)?;
        tables::register_responses(session, &root, contract).await?;
        let usage = &mut self.manifest.usage;
        usage.prompts = tables::count(session, texts::PROMPTS).await?;
        usage.distinct_prompts = tables::count(session, texts::ASKED_PROMPTS).await?;
        let attempts = [("attempts", Param::Int(self.prepared.job.spec.sampling.attempts as i64))];
        let waiting = session.sql(texts::PENDING_PROMPTS, &attempts).await?.count().await?;
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
            let purse = purse.as_ref();
            let sink = Sink {
                root: &root,
                contract,
                lease,
                run_id,
                interval,
                response,
                budget,
                total,
                waiting,
                purse,
                receipts: None,
            };
            let progress = Progress::begin(self.voice, "generate", waiting, "prompts", "new tokens");
            let pending = tables::pending_prompts(session, spec.sampling.attempts, purse.is_some()).await?;
            let checks = Checks {
                check: spec.check.clone(),
                vocabulary: vocabulary(session, spec).await?,
                // A job's own contract that cannot tell attempts apart has one.
                attempts: match contract.column("attempt").and(contract.column("accepted")) {
                    Some(_) => spec.sampling.attempts as u32,
                    None => 1,
                },
            };
            let models = &self.prepared.models;
            let (job, sink, stop) = (&self.prepared.job, &sink, &self.stop);
            let asking = Asking { session, job, models, checks: Some(&checks), sink, stop, progress: &progress };
            let outcome = answers(&asking, pending, usage).await;
            progress.finish();
            unpaid = self.note_unpaid(outcome?, total)?;
            tables::register_responses(session, &root, contract).await?;
        }
        self.stage("generate", started, waiting);
        Ok(unpaid)
    }

    /// Answers the rewrites that corrections ask for.
    async fn rewrite(&mut self, session: &Session, lease: &Lease) -> Result<u64> {
        let started = self.begin("rewrite");
        let (purse, mut unpaid) = (self.purse(), 0);
        let root = self.prepared.root.clone();
        let graph = self.prepared.graph.clone();
        let contract = graph.contract(RESPONSE)?;
        tables::register_responses(session, &root, contract).await?;
        let waiting = tables::count(session, texts::PENDING_REWRITES).await?;
        if waiting > 0 {
            let interval = self.prepared.interval;
            let (response, budget, run_id) =
                (&self.prepared.job.spec.response, &correct::BUDGET, &self.manifest.run_id);
            let (total, purse) = (waiting, purse.as_ref());
            let sink = Sink {
                root: &root,
                contract,
                lease,
                run_id,
                interval,
                response,
                budget,
                total,
                waiting,
                purse,
                receipts: None,
            };
            let progress = Progress::begin(self.voice, "rewrite", waiting, "prompts", "new tokens");
            let pending = session.sql(texts::PENDING_REWRITES, &[]).await?.stream().await?;
            // Counted apart: what fails here is none of the budget's business.
            let mut usage = Usage::default();
            let models = &self.prepared.models;
            let (job, sink, stop) = (&self.prepared.job, &sink, &self.stop);
            let asking = Asking { session, job, models, checks: None, sink, stop, progress: &progress };
            let outcome = answers(&asking, pending, &mut usage).await;
            progress.finish();
            let whole = &mut self.manifest.usage;
            whole.generated += usage.generated;
            whole.paid_twice += usage.paid_twice;
            whole.prompt_tokens += usage.prompt_tokens;
            whole.cached_tokens += usage.cached_tokens;
            whole.completion_tokens += usage.completion_tokens;
            whole.seconds += usage.seconds;
            self.manifest.corrections.get_or_insert_default().failed = usage.failed;
            unpaid = self.note_unpaid(outcome?, waiting)?;
            tables::register_responses(session, &root, contract).await?;
        }
        self.stage("rewrite", started, waiting);
        Ok(unpaid)
    }

    /// The weights are not needed any more tonight; the encoder's come next.
    async fn stop_engine(&self) -> Result<()> {
        let models = self.prepared.models.clone();
        tokio::task::spawn_blocking(move || models.stop_engine())
            .await
            .context(Kind::Internal, || "the engine did not stop".into())
    }

    /// The reward model with what else correction needs, read once.
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

    /// Cases, judged: rewrites to ask for, or corrections where the answers are there.
    async fn correct(&mut self, session: &Session, table: &str) -> Result<BatchStream> {
        let graph = self.prepared.graph.clone();
        let pass = match graph.reads(table).any(|read| read == RESPONSE) {
            true => Pass::Corrections,
            false => Pass::Prompts,
        };
        let corrector = self.corrector(session).await?;
        Ok(correct::rows(corrector, self.defined(session, table).await?, graph.contract(table)?, pass))
    }

    /// Reasons with their evidence, scored.
    async fn score(&self, session: &Session, table: &str) -> Result<BatchStream> {
        let check = self.prepared.job.spec.check.clone();
        let vocabulary = vocabulary(session, &self.prepared.job.spec).await?;
        let schema = self.prepared.graph.contract(table)?.arrow_schema(None);
        let rows = self.defined(session, table).await?;
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

    /// Texts, embedded and pooled: one row an entity. Where the definition names parts, each counts the same.
    async fn pool(&self, session: &Session, table: &str) -> Result<BatchStream> {
        let mut rows = self.defined(session, table).await?;
        let mut pooler = Pooler::new(self.prepared.models.encoder_files()?.dimension());
        while let Some(batch) = rows.try_next().await? {
            self.stop.check()?;
            let column = |name| {
                let of = |e: Error| e.of_kind(Kind::Config).with("table", table);
                text(&batch, name).map_err(of).map_err(|e| {
                    e.hint("what is pooled gives entity_id and reason, and may give part, all of them texts")
                })
            };
            let (entity, reason) = (column("entity_id")?, column("reason")?);
            let part = batch.column_by_name("part").map(|_| column("part")).transpose()?;
            let models = self.prepared.models.clone();
            let vectors = tokio::task::spawn_blocking(move || {
                let texts: Vec<&str> = (0..reason.len()).map(|i| at(&reason, i).unwrap_or_default()).collect();
                models.embed(&texts)
            })
            .await
            .context(Kind::Internal, || "embedding was interrupted".into())??;
            for (row, vector) in vectors.iter().enumerate() {
                let part = part.as_ref().and_then(|part| at(part, row)).unwrap_or_default();
                pooler.push_part(at(&entity, row).unwrap_or_default(), part, vector)?;
            }
        }
        let pooled = pooler.finish()?;
        Ok(futures::stream::iter([Ok(pooled)]).boxed())
    }
}
