//! A run as what watches it is told: its manifest as Prometheus metrics, its inputs and tables as OpenLineage datasets.
//!
//! Knows what a run records of itself; knows nothing of how it is told or of how a run works.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::config::Job;
use crate::error::{Error, Kind};
use crate::night::decide::TablePlan;
use crate::night::manifest::{Manifest, TableRecord};
use crate::night::prepare::Prepared;
use crate::printable;
use crate::table::contract::{self, Contract};
use crate::table::redact::redact;
use crate::table::store::Location;
use crate::watch::exposition::Exposition;
use crate::watch::lineage::{self, Amount, Column, Dataset, State};
use crate::watch::places::Watch;

/// A run that is watched, or not.
pub(super) struct Watched {
    watch: Watch,
    lookback_code: u8,
    /// Only where somebody wants lineage.
    run: Option<lineage::Run>,
    inputs: Vec<Dataset>,
    /// The tables that are to be made, by their names.
    outputs: BTreeMap<String, Dataset>,
}

impl Watched {
    /// Tells that a run has begun.
    pub(super) fn begin(job: &Job, manifest: &Manifest, watch: &Watch, lookback_code: u8) -> Watched {
        let began = DateTime::parse_from_rfc3339(&manifest.started_at).map_or_else(|_| Utc::now(), |at| at.to_utc());
        let run = watch.lineage_namespace().map(|namespace| lineage::Run {
            // Two warehouses may have jobs of one name.
            id: lineage::uuid(&format!("{} {} {}", manifest.run_id, manifest.host, job.spec.warehouse), began),
            namespace: namespace.to_owned(),
            job: manifest.job.clone(),
            interval: (manifest.interval_start.clone(), manifest.interval_end.clone()),
        });
        let (inputs, outputs) = (Vec::new(), BTreeMap::new());
        let watched = Watched { watch: watch.clone(), lookback_code, run, inputs, outputs };
        watched.tell(&State::Start, &[]);
        watched
    }

    /// Notes what was found: the inputs, and the tables that are to be built.
    pub(super) fn found(&mut self, prepared: &Prepared, plans: &[TablePlan]) {
        if self.run.is_none() {
            return;
        }
        let contract = |table: &str| prepared.graph.contract(table).ok();
        self.inputs = prepared
            .inputs
            .iter()
            .map(|(name, input)| {
                let amount = Amount { rows: input.rows(), bytes: input.bytes(), files: input.files.len() as u64 };
                Dataset { amount: Some(amount), ..dataset(&input.location, contract(name)) }
            })
            .collect();
        self.outputs = plans
            .iter()
            .filter(|plan| plan.is_build())
            .map(|plan| (plan.table.clone(), dataset(&prepared.root.child(&plan.table), contract(&plan.table))))
            .collect();
    }

    /// Tells that a run is at work on what was found.
    pub(super) fn running(&self) {
        let planned: Vec<Dataset> = self.outputs.values().cloned().collect();
        self.tell(&State::Running, &planned);
    }

    /// Tells how a run has ended, by its manifest.
    pub(super) fn ended(&self, manifest: &Manifest, error: Option<&Error>) {
        if self.watch.wants_metrics() {
            let code = error.map_or(self.lookback_code, |e| e.kind().exit_code());
            let now = Utc::now();
            self.watch.tell_metrics(&manifest.job, metrics(manifest, code, now), error.is_none(), now);
        }
        if self.run.is_none() {
            return;
        }
        let state = match (error.map(Error::kind), error.map(told)) {
            (Some(Kind::Interrupted), Some(why)) => State::Abort(why),
            (_, Some(why)) => State::Fail(why),
            _ => State::Complete,
        };
        let amount =
            |table: &TableRecord| Amount { rows: table.rows, bytes: table.bytes, files: table.files.len() as u64 };
        let is_published = manifest.status == PUBLISHED;
        let written = |name: &String| {
            let of_name = |table: &&TableRecord| table.table == *name && table.action == BUILT;
            manifest.tables.iter().find(of_name).filter(|_| is_published).map(amount)
        };
        let with_amount = |(name, table): (&String, &Dataset)| Dataset { amount: written(name), ..table.clone() };
        let outputs: Vec<Dataset> = self.outputs.iter().map(with_amount).collect();
        self.tell(&state, &outputs);
    }

    fn tell(&self, state: &State, outputs: &[Dataset]) {
        if let Some(run) = &self.run {
            self.watch.tell_lineage(&lineage::event(run, state, Utc::now(), &self.inputs, outputs));
        }
    }
}

/// What others are told of an error: its first line without its places, which may name users.
fn told(error: &Error) -> String {
    let first = error.message().lines().next().unwrap_or_default();
    let line: String = printable::line(&redact(first)).chars().take(MAX_MESSAGE).collect();
    format!("{}: {line}", error.kind().name())
}

/// The longest message of an error in an event, in characters.
const MAX_MESSAGE: usize = 500;
/// The status of a run that published, as manifests write it.
const PUBLISHED: &str = "published";
/// The action of a table that was built.
const BUILT: &str = "built";

/// A table where it lies, in OpenLineage's names for stores.
fn dataset(at: &Location, of: Option<&Contract>) -> Dataset {
    let (namespace, name) = match at.local_path() {
        Some(path) => ("file".to_owned(), path.display().to_string()),
        None => (redact(at.store_url().as_str().trim_end_matches('/')), at.path().to_string()),
    };
    let column = |column: &contract::Column| Column {
        name: column.name.clone(),
        kind: column.column_type.to_string(),
        description: column.description.clone(),
    };
    let columns = of.map(|contract| contract.columns.iter().map(column).collect()).unwrap_or_default();
    Dataset { namespace, name, columns, amount: None }
}

/// A manifest as gauges. Each name is explained in docs/watching.md.
fn metrics(m: &Manifest, code: u8, now: DateTime<Utc>) -> Exposition {
    fn counts(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, f64)> {
        counts.iter().map(|(name, n)| (name.as_str(), *n as f64))
    }
    let mut page = Exposition::of(&m.job);
    let seconds = |at: DateTime<Utc>| at.timestamp_millis() as f64 / 1000.0;
    page.gauge(
        "curec_last_run_timestamp_seconds",
        "When the last run ended, however it ended, in seconds since 1970 UTC.",
        seconds(now),
    );
    page.gauge(
        "curec_last_run_exit_status",
        "Exit code of the last run: 0 it went well, 75 run it again, others it needs somebody.",
        f64::from(code),
    );
    page.gauge("curec_last_run_duration_seconds", "How long the last run took.", m.seconds);
    if let Ok(end) = DateTime::parse_from_rfc3339(&m.interval_end) {
        page.gauge(
            "curec_last_run_interval_end_timestamp_seconds",
            "End of the interval that the last run was of, in seconds since 1970 UTC.",
            seconds(end.to_utc()),
        );
    }
    let steps = m.stages.iter().map(|s| (s.stage.as_str(), s.seconds));
    page.gauges("curec_last_run_step_duration_seconds", "How long each step of the last run took.", "step", steps);

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
    page
}

/// The status of a run that found everything up to date.
const NOTHING_TO_DO: &str = "nothing_to_do";

#[cfg(test)]
mod tests;
