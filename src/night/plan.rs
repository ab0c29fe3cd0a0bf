//! What a run would build and why, and what its generate stage would cost.
//!
//! Changes nothing and loads no model: evidence and prompts are made in memory, tokens are counted.

use std::fmt;

use arrow::array::RecordBatch;
use futures::TryStreamExt;

use crate::columns::{at, integers, text};
use crate::config::{Interval, Job};
use crate::error::Result;
use crate::night::decide::TablePlan;
use crate::night::graph::RESPONSE;
use crate::night::manifest::Manifest;
use crate::night::owner;
use crate::night::prepare::{Prepared, prepare};
use crate::night::spending::{Cap, Spent};
use crate::night::tables;
use crate::query::texts;
use crate::table::build::By;
use crate::table::partition::CommitRecord;
use crate::table::store::Location;

/// New tokens per second of SmolLM2-135M on two cores, prompts included (benches/RESULTS.md): the guess before any run.
const CPU_TOKENS_PER_SECOND: f64 = 60.0;
/// New tokens per second of one request to an endpoint: the guess before any run.
const ENDPOINT_TOKENS_PER_SECOND: f64 = 30.0;
/// The share of answers that the checks refuse: the guess before any run. The adapter that ships wrote 638 answers to 537
/// prompts that it was asked at most three times (benches/RESULTS.md, films that nobody learned from and a night of the quick
/// start): 1 + q + q^2 a prompt, with this q.
const REFUSED: f64 = 0.16;

/// A plan for people and programs.
#[derive(Debug)]
pub struct Plan {
    job: String,
    dt: String,
    warehouse: String,
    inputs: Vec<(String, usize, u64)>,
    tables: Vec<TablePlan>,
    /// What the generate stage would do, where the prompts are known.
    work: Option<Work>,
    /// Prompts that failed in earlier runs and have no answer.
    failed_prompts: u64,
    /// The intervals before this one that a lookback looks at; oldest first.
    lookback: Vec<Plan>,
    /// Why a day that was looked back at stays as it is, though it is not up to date.
    stays: Option<String>,
}

/// Prompts and tokens that a run would pay for.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Work {
    /// Rows to explain.
    pub prompts: u64,
    /// Different prompts.
    pub distinct: u64,
    /// Of those, such as need no answer any more.
    pub answered: u64,
    /// Prompt tokens of the rest, asked for as often as in the job's last run or, without one, as often as the adapter that
    /// ships has to be.
    pub prompt_tokens: u64,
    /// Whether these were estimated from characters: an endpoint's tokenizer is not at hand.
    pub is_estimate: bool,
    /// At most so many new tokens.
    pub completion_tokens_at_most: u64,
    /// Minutes for answers of full length, at the speed of the job's last run or, without one, of a two-core CPU or a guess of an
    /// endpoint's.
    pub minutes: f64,
    /// Price at the job's rates, at the most.
    pub price: f64,
    /// What the caps of `[budget]` let a run pay for; absent where the job has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<Capped>,
}

/// How far a run under a cap would come, with answers of full length.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Capped {
    /// The caps, as people write them.
    pub caps: String,
    /// The one that would be reached; absent where the estimate fits under all of them.
    pub reached: Option<String>,
    /// Prompts that the run would begin.
    pub paid: u64,
    /// Their share of the prompts that need an answer; 1 where none does.
    pub share: f64,
    /// Whether a run that has reached a cap stops without publishing.
    pub stops: bool,
}

/// Plans a run that looks back so many days.
///
/// # Errors
/// As a run that checks its inputs by their footers.
pub async fn plan(job: &Job, interval: Interval, lookback_days: u64, full: bool) -> Result<Plan> {
    let prepared = prepare(job, interval).await?;
    let mut lookback = Vec::new();
    for before in interval.lookback(lookback_days) {
        if !prepared.without_inputs(before).is_looked_back_at().await? {
            continue;
        }
        let before = prepared.at(before).await?;
        // A day before the first snapshot of the items stays as it is.
        if before.check_snapshot().is_ok() {
            let tables = before.decide(false, false).await?;
            let allowed = owner::check(&before.job, &tables).and_then(|()| before.check_learned(&tables));
            lookback.push(match allowed {
                Ok(()) => plan_work(&before, tables).await?,
                Err(e) => Plan { stays: Some(e.message().to_owned()), ..plan_work(&before, Vec::new()).await? },
            });
        }
    }
    Ok(Plan { lookback, ..plan_one(&prepared, full).await? })
}

async fn plan_one(prepared: &Prepared, full: bool) -> Result<Plan> {
    let tables = prepared.decide(full, false).await?;
    owner::check(&prepared.job, &tables)?;
    prepared.check_learned(&tables)?;
    plan_work(prepared, tables).await
}

async fn plan_work(prepared: &Prepared, tables: Vec<TablePlan>) -> Result<Plan> {
    let inputs = prepared.inputs.iter().map(|(name, i)| (name.clone(), i.files.len(), i.rows())).collect();
    let work = match tables.iter().any(TablePlan::is_build) {
        true => Some(estimate(prepared).await?),
        false => None,
    };
    Ok(Plan {
        job: prepared.job.spec.name.clone(),
        dt: prepared.interval.dt(),
        warehouse: prepared.root.url().to_string(),
        inputs,
        tables,
        work,
        failed_prompts: prepared.failed_prompts().await?,
        lookback: Vec::new(),
        stays: None,
    })
}

/// Makes evidence and prompts in memory and counts what has no answer yet.
async fn estimate(prepared: &Prepared) -> Result<Work> {
    let session = prepared.session().await?;
    let graph = &prepared.graph;
    let generated: Vec<&str> =
        graph.order().filter(|table| graph.build(table).is_ok_and(|build| build.by == By::Generate)).collect();
    let earlier = prepared.earlier().await?;
    for table in graph.before(&generated) {
        if !prepared.is_made(table)? {
            session.register_batches(table, graph.contract(table)?.arrow_schema(None), Vec::new())?;
            continue;
        }
        prepared.register_earlier(&session, table, &earlier).await?;
        let (contract, rows) = (graph.contract(table)?, prepared.rows(&session, table).await?);
        if !graph.is_published(table) {
            session.register_spilled(table, contract, rows).await?;
            continue;
        }
        let rows: Vec<RecordBatch> = rows.try_collect().await?;
        // As the SQL made them: only staging holds them against the contract's nulls.
        let schema = rows.first().map_or_else(|| contract.arrow_schema(None), |batch| batch.schema());
        session.register_batches(table, schema, rows)?;
    }
    tables::register_responses(&session, &prepared.root, graph.contract(RESPONSE)?).await?;
    let prompts = tables::count(&session, texts::PROMPTS).await?;
    let distinct = tables::count(&session, texts::ASKED_PROMPTS).await?;
    let models = &prepared.models;
    // Before anything is counted: an endpoint may have to be asked which model it serves.
    models.model_name()?;
    let spec = &prepared.job.spec;
    let cap = Cap::of(spec);
    let last = last_pace(&prepared.root).await?;
    // Answers that will be asked for, and their prompts' tokens; then those that may be.
    let (mut waiting, mut answers, mut prompt_tokens) = (0, 0.0, 0.0);
    let (mut answers_at_most, mut prompt_tokens_at_most) = (0, 0);
    let guess = match models.endpoint() {
        Some(endpoint) => ENDPOINT_TOKENS_PER_SECOND * endpoint.at_once() as f64,
        None => CPU_TOKENS_PER_SECOND,
    };
    let per_token = last.map_or(1.0 / guess, |last| last.seconds_per_token);
    let of_an_answer = spec.sampling.max_new_tokens as u64;
    let minutes = |answers: f64| answers * of_an_answer as f64 * per_token / 60.0;
    let (mut reached, mut paid) = (None, 0);
    let mut rows = tables::pending_prompts(&session, spec.sampling.attempts, cap.is_some()).await?;
    while let Some(batch) = rows.try_next().await? {
        let (prompt, stem) = (text(&batch, "prompt_text")?, text(&batch, "answer_stem")?);
        let answered = integers(&batch, "attempts")?;
        for i in 0..batch.num_rows() {
            let (prompt, stem) = (at(&prompt, i).unwrap_or_default(), at(&stem, i).unwrap_or_default());
            let tokens = models.count(prompt, stem, usize::MAX)?;
            let left = (spec.sampling.attempts as u64).saturating_sub(answered.value(i) as u64);
            let expected = match last {
                Some(last) => last.answers_per_prompt.min(left as f64),
                None => answers_before_any_run(left),
            };
            if let Some(cap) = &cap {
                let completion_tokens = answers * of_an_answer as f64;
                let spent = Spent { prompt_tokens, completion_tokens, minutes: minutes(answers) };
                reached = reached.or_else(|| cap.reached(&spent));
                paid += u64::from(reached.is_none());
            }
            answers += expected;
            prompt_tokens += expected * tokens as f64;
            answers_at_most += left;
            prompt_tokens_at_most += left * tokens as u64;
        }
        waiting += batch.num_rows() as u64;
    }
    let completion_tokens_at_most = answers_at_most * of_an_answer;
    let capped = |cap: Cap| Capped {
        caps: cap.to_string(),
        reached: reached.map(|limit| limit.to_string()),
        paid,
        share: if waiting == 0 { 1.0 } else { paid as f64 / waiting as f64 },
        stops: cap.stops(),
    };
    Ok(Work {
        prompts,
        distinct,
        answered: distinct - waiting,
        prompt_tokens: prompt_tokens.round() as u64,
        is_estimate: models.estimates_tokens()?,
        completion_tokens_at_most,
        minutes: minutes(answers),
        price: (prompt_tokens_at_most as f64 * spec.price.prompt_tokens_million
            + completion_tokens_at_most as f64 * spec.price.completion_tokens_million)
            / 1e6,
        cap: cap.map(capped),
    })
}

impl Capped {
    /// A line for people; `waiting` prompts need an answer.
    fn story(&self, waiting: u64) -> String {
        let Some(reached) = &self.reached else {
            return format!("[budget] {}: the estimate fits", self.caps);
        };
        let then = if self.stops {
            "then the run stops and publishes nothing"
        } else {
            "the other rows get features of their evidence"
        };
        let (paid, percent) = (self.paid, 100.0 * self.share);
        format!(
            "[budget] {reached} would be reached: about {paid} of {waiting} prompts ({percent:.0} %) would be paid, items first; {then}"
        )
    }
}

/// How many answers a prompt takes that may be asked for `at_most` more, where nothing tells how many are refused: each is
/// asked for where all before it were refused.
fn answers_before_any_run(at_most: u64) -> f64 {
    (1.0 - REFUSED.powi(i32::try_from(at_most).unwrap_or(i32::MAX))) / (1.0 - REFUSED)
}

/// What a run that generated something tells of the next.
#[derive(Clone, Copy)]
struct Pace {
    /// Seconds per new token, prefill included.
    seconds_per_token: f64,
    /// More than 1 where refused answers were asked for again.
    answers_per_prompt: f64,
}

/// The pace of the latest run that generated something.
async fn last_pace(root: &Location) -> Result<Option<Pace>> {
    let mut manifests: Vec<_> = root.child("_runs").list().await?;
    manifests.retain(|e| e.location.name() == Manifest::NAME);
    manifests.sort_by_key(|e| std::cmp::Reverse(e.last_modified));
    for entry in manifests.into_iter().take(20) {
        let Some(bytes) = entry.location.get().await? else { continue };
        // A manifest of another version of curec is no reason to fail a plan.
        let Ok(manifest) = Manifest::parse(&bytes) else { continue };
        if manifest.usage.completion_tokens > 0 {
            let usage = manifest.usage;
            let prompts = usage.generated.saturating_sub(usage.asked_again).max(1);
            return Ok(Some(Pace {
                seconds_per_token: usage.seconds / usage.completion_tokens as f64,
                answers_per_prompt: (usage.generated as f64 / prompts as f64).max(1.0),
            }));
        }
    }
    Ok(None)
}

impl Plan {
    /// Whether the answers of the language model are put together again, failed prompts with them.
    fn retries(&self) -> bool {
        self.tables.iter().any(|t| t.table == "reason" && t.is_build())
    }

    /// One JSON object.
    pub fn json(&self) -> serde_json::Value {
        let tables: Vec<_> = self
            .tables
            .iter()
            .map(|t| {
                serde_json::json!({
                    "table": t.table,
                    "dt": self.dt,
                    "build": t.is_build(),
                    "why": t.why,
                    "fingerprint": t.fingerprint,
                    "rows_standing": t.standing.as_ref().map(CommitRecord::rows),
                })
            })
            .collect();
        serde_json::json!({
            "job": self.job, "dt": self.dt, "warehouse": self.warehouse, "tables": tables, "work": self.work,
            "failed_prompts": self.failed_prompts, "stays": self.stays, "lookback": self.lookback.iter().map(Plan::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for before in &self.lookback {
            match (&before.stays, before.tables.iter().any(TablePlan::is_build)) {
                (Some(why), _) => writeln!(f, "looking back, dt={} stays as it is: {why}", before.dt)?,
                (None, true) => write!(f, "looking back, {before}")?,
                (None, false) => writeln!(f, "looking back, dt={} is up to date", before.dt)?,
            }
        }
        writeln!(f, "job {} for dt={} in {}", self.job, self.dt, self.warehouse)?;
        for (name, files, rows) in &self.inputs {
            writeln!(f, "  reads  {name:<15} {files} file(s), {rows} rows")?;
        }
        for t in &self.tables {
            let why = if t.is_build() { format!("build: {}", t.why.join(", ")) } else { "up to date".into() };
            writeln!(f, "  table  {:<15} {why}", t.table)?;
        }
        match &self.work {
            Some(w) => writeln!(
                f,
                "  prompts {} ({} different, {} answered before); {} prompt tokens{}, at most {} new tokens, about {:.1} minutes, price at most {:.2}",
                w.prompts,
                w.distinct,
                w.answered,
                w.prompt_tokens,
                if w.is_estimate { " (estimated from characters)" } else { "" },
                w.completion_tokens_at_most,
                w.minutes,
                w.price
            ),
            None => writeln!(f, "nothing to do"),
        }?;
        if let Some(work) = &self.work
            && let Some(cap) = &work.cap
        {
            writeln!(f, "  {}", cap.story(work.distinct - work.answered))?;
        }
        match (self.failed_prompts, self.retries()) {
            (0, _) => Ok(()),
            (n, true) => writeln!(f, "  {n} prompt(s) failed before and are tried again"),
            (n, false) => writeln!(f, "  {n} prompt(s) failed and have no reason; run --retry-failed tries them again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_any_run_a_prompt_takes_as_many_answers_as_was_measured() {
        assert_eq!(answers_before_any_run(1), 1.0);
        let measured = 638.0 / 537.0;
        assert!((answers_before_any_run(3) - measured).abs() < 0.01, "{}", answers_before_any_run(3));
        assert!(answers_before_any_run(16) < 1.2);
    }
}
