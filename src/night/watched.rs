//! A night as what watches it is told: what its manifest counts as Prometheus metrics, its stages as steps, its inputs and
//! tables as OpenLineage datasets.
//!
//! Knows what a run records of itself; knows nothing of how it is told or of how a run works.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::config::Job;
use crate::error::Error;
use crate::night::decide::TablePlan;
use crate::night::manifest::{Manifest, StageRecord, TableRecord};
use crate::night::prepare::Prepared;
use crate::watch::exposition::Exposition;
use crate::watch::lineage::{Amount, Dataset};
use crate::watch::places::Watch;
use crate::watch::run::{End, Identity, Step, WatchedRun, dataset, told};
use crate::watch::trace::Attribute;

/// A run that is watched, or not.
pub(super) struct Watched {
    run: WatchedRun,
    lookback_code: u8,
    /// The tables that are to be made, by their names.
    outputs: BTreeMap<String, Dataset>,
    /// Where it failed.
    failed: Option<StageRecord>,
}

impl Watched {
    /// Tells that a run has begun.
    pub(super) fn begin(job: &Job, manifest: &Manifest, watch: &Watch, lookback_code: u8) -> Watched {
        let identity = Identity {
            command: "run".to_owned(),
            job: manifest.job.clone(),
            run_id: manifest.run_id.clone(),
            // Two warehouses may have jobs of one name.
            place: format!("{} {}", manifest.host, job.spec.warehouse),
            interval: (manifest.interval_start.clone(), manifest.interval_end.clone()),
            began: moment(&manifest.started_at).unwrap_or_else(Utc::now),
        };
        Watched { run: WatchedRun::begin(watch, identity), lookback_code, outputs: BTreeMap::new(), failed: None }
    }

    /// Notes what was found: the inputs, and the tables that are to be built.
    pub(super) fn found(&mut self, prepared: &Prepared, plans: &[TablePlan]) {
        if !self.run.wants_lineage() {
            return;
        }
        let contract = |table: &str| prepared.graph.contract(table).ok();
        let inputs = prepared.inputs.iter().map(|(name, input)| {
            let amount = Amount { rows: input.rows(), bytes: input.bytes(), files: input.files.len() as u64 };
            Dataset { amount: Some(amount), ..dataset(&input.location, contract(name)) }
        });
        self.run.reads(inputs.collect());
        self.outputs = plans
            .iter()
            .filter(|plan| plan.is_build())
            .map(|plan| (plan.table.clone(), dataset(&prepared.root.child(&plan.table), contract(&plan.table))))
            .collect();
    }

    /// Tells that a run is at work on what was found.
    pub(super) fn running(&self) {
        let planned: Vec<Dataset> = self.outputs.values().cloned().collect();
        self.run.running(&planned);
    }

    /// Notes the stage in which a run failed, as far as it came.
    pub(super) fn failed_in(&mut self, stage: StageRecord) {
        self.failed = Some(stage);
    }

    /// Tells how a run has ended, by its manifest.
    pub(super) fn ended(&self, manifest: &Manifest, error: Option<&Error>) {
        let amount =
            |table: &TableRecord| Amount { rows: table.rows, bytes: table.bytes, files: table.files.len() as u64 };
        let is_published = manifest.status == PUBLISHED;
        let written = |name: &String| {
            let of_name = |table: &&TableRecord| table.table == *name && table.action == BUILT;
            manifest.tables.iter().find(of_name).filter(|_| is_published).map(amount)
        };
        let with_amount = |(name, table): (&String, &Dataset)| Dataset { amount: written(name), ..table.clone() };
        let outputs: Vec<Dataset> = self.outputs.iter().map(with_amount).collect();
        let mut steps: Vec<Step> = manifest.stages.iter().filter_map(step).collect();
        let failed = self.failed.as_ref().and_then(step);
        steps.extend(failed.map(|step| Step { rows: None, error: error.map(told), ..step }));
        let end = End {
            error,
            code: error.map_or(self.lookback_code, |e| e.kind().exit_code()),
            seconds: manifest.seconds,
            steps: &steps,
            outputs: &outputs,
            attributes: tokens(manifest),
        };
        self.run.ended(end, |page| measured(manifest, page));
    }
}

/// The tokens of a run, by OpenTelemetry's names; none where no language model was asked.
fn tokens(manifest: &Manifest) -> Vec<(&'static str, Attribute)> {
    let usage = &manifest.usage;
    let counts =
        [("gen_ai.usage.input_tokens", usage.prompt_tokens), ("gen_ai.usage.output_tokens", usage.completion_tokens)];
    counts.into_iter().filter(|_| usage.generated > 0).map(|(key, n)| (key, Attribute::Count(n))).collect()
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

fn step(of: &StageRecord) -> Option<Step> {
    let began = moment(&of.started_at)?;
    Some(Step { name: of.stage.clone(), began, seconds: of.seconds, rows: Some(of.rows), error: None })
}

/// The status of a run that published, as manifests write it.
const PUBLISHED: &str = "published";
/// The action of a table that was built.
const BUILT: &str = "built";

/// Adds what nights measure to the gauges that every run has. Each name is explained in docs/watching.md.
fn measured(m: &Manifest, page: &mut Exposition) {
    fn counts(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, f64)> {
        counts.iter().map(|(name, n)| (name.as_str(), *n as f64))
    }
    let usage = &m.usage;
    for (name, help, n) in [
        ("curec_last_run_prompts", "Prompts that the last run made.", usage.prompts),
        ("curec_last_run_prompts_distinct", "Different prompts among them.", usage.distinct_prompts),
        (
            "curec_last_run_prompts_from_cache",
            "Different prompts that an earlier run had paid for.",
            usage.answered_before,
        ),
        ("curec_last_run_answers", "Answers that the last run generated.", usage.generated),
        (
            "curec_last_run_answers_asked_again",
            "Of these, answers that the checks refused and that were asked for again.",
            usage.asked_again,
        ),
        ("curec_last_run_prompts_unpaid", "Prompts that a cap of [budget] left unpaid.", usage.unpaid),
        ("curec_last_run_prompt_tokens", "Prompt tokens of the answers.", usage.prompt_tokens),
        ("curec_last_run_prompt_tokens_shared", "Of these, tokens whose prefill was shared.", usage.cached_tokens),
        ("curec_last_run_completion_tokens", "Tokens that the last run generated.", usage.completion_tokens),
    ] {
        page.gauge(name, help, n as f64);
    }
    page.gauge(
        "curec_last_run_budget_reached",
        "1 where a cap of [budget] ended the asking, else 0.",
        f64::from(u8::from(usage.cap_reached.is_some())),
    );
    let failed = counts(&usage.failed);
    page.gauges("curec_last_run_prompts_failed", "Prompts that failed, by code.", "code", failed);

    let reasons = &m.reasons;
    page.gauges("curec_last_run_reasons", "Reasons, by kind.", "kind", counts(&reasons.by_kind));
    let accepted = counts(&reasons.accepted);
    page.gauges("curec_last_run_reasons_accepted", "Reasons that passed all checks, by kind.", "kind", accepted);
    let refused = counts(&reasons.refused);
    page.gauges("curec_last_run_reasons_refused", "Reasons that were refused, by refusal.", "refusal", refused);

    let left_out = m.inputs.iter().map(|(name, input)| (name.as_str(), input.left_out as f64));
    let help = "Rows of each input that break its contract and were left out.";
    page.gauges("curec_last_run_rows_quarantined", help, "input", left_out);
    let audits = m.audits.iter().map(|audit| (audit.severity.as_str(), 1.0));
    page.gauges("curec_last_run_audits_failed", "Audits that found something, by severity.", "severity", audits);
    // What a run that failed has staged, nobody can read.
    if m.status == PUBLISHED || m.status == NOTHING_TO_DO {
        let rows = m.tables.iter().map(|table| (table.table.as_str(), table.rows as f64));
        let help = "Rows of the interval's partition of each table, as it stands after the last run.";
        page.gauges("curec_last_run_rows_published", help, "table", rows);
    }
}

/// The status of a run that found everything up to date.
const NOTHING_TO_DO: &str = "nothing_to_do";

#[cfg(test)]
mod tests;
