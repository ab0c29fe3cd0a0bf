//! One run of a job, as everything that watches it is told: as metrics, as events of its lineage, and as spans.
//!
//! Knows what all runs have: a name, an interval, steps, datasets, an end. What else there is to measure says who runs. Knows
//! nothing of what a run does or of how a place is reached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{Error, Kind};
use crate::printable;
use crate::table::contract::{self, Contract};
use crate::table::redact::redact;
use crate::table::store::Location;
use crate::watch::exposition::Exposition;
use crate::watch::lineage::{self, Column, Dataset, State};
use crate::watch::places::Watch;
use crate::watch::trace::{self, Attribute, Span};

/// The longest message of an error, in characters.
const MAX_MESSAGE: usize = 500;

/// What a run is called.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What was run: `run`, `learn weekly`.
    pub command: String,
    /// The job.
    pub job: String,
    /// The run.
    pub run_id: String,
    /// Tells runs of one id apart: a machine, and the folder that it works in.
    pub place: String,
    /// First moment of the interval and first after it, RFC 3339.
    pub interval: (String, String),
    /// When it began.
    pub began: DateTime<Utc>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Rows that came out, where they were counted.
    pub rows: Option<u64>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

/// The steps that a run has done so far. Cheap to clone; all clones share them.
#[derive(Debug, Clone, Default)]
pub struct Steps(Arc<Mutex<Vec<Step>>>);

impl Steps {
    /// Notes a step that ends now; `error` says why it failed, where it did.
    pub fn add(&self, name: &str, took: Duration, error: Option<String>) {
        let began = Utc::now() - TimeDelta::from_std(took).unwrap_or_default();
        let step = Step { name: name.to_owned(), began, seconds: took.as_secs_f64(), rows: None, error };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a run has ended.
#[derive(Debug, Default)]
pub struct End<'a> {
    /// Its error, where it failed.
    pub error: Option<&'a Error>,
    /// Its exit code.
    pub code: u8,
    /// How long it took.
    pub seconds: f64,
    /// What it did.
    pub steps: &'a [Step],
    /// What it made, or was to make.
    pub outputs: &'a [Dataset],
    /// What its span says besides.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A run that is watched, or not.
pub struct WatchedRun {
    watch: Watch,
    of: Identity,
    /// A UUID: the same in all events and spans.
    id: String,
    inputs: Vec<Dataset>,
}

impl WatchedRun {
    /// Tells that a run has begun.
    pub fn begin(watch: &Watch, of: Identity) -> WatchedRun {
        let id = lineage::uuid(&format!("{} {}", of.run_id, of.place), of.began);
        let watched = WatchedRun { watch: watch.clone(), of, id, inputs: Vec::new() };
        watched.tell(&State::Start, &[]);
        watched
    }

    /// Whether anybody wants to know what is read and made.
    pub fn wants_lineage(&self) -> bool {
        self.watch.lineage_namespace().is_some()
    }

    /// Notes what is read.
    pub fn reads(&mut self, inputs: Vec<Dataset>) {
        self.inputs = inputs;
    }

    /// Tells that it is at work on what is to be made.
    pub fn running(&self, outputs: &[Dataset]) {
        self.tell(&State::Running, outputs);
    }

    /// Tells how it has ended; `measured` adds gauges of its own.
    pub fn ended(&self, end: End<'_>, measured: impl FnOnce(&mut Exposition)) {
        let now = Utc::now();
        if self.watch.wants_metrics() {
            let mut page = page(&self.of, &end, now);
            measured(&mut page);
            self.watch.tell_metrics(&self.of.job, page, end.error.is_none(), now);
        }
        let state = match (end.error.map(Error::kind), end.error.map(told)) {
            (Some(Kind::Interrupted), Some(why)) => State::Abort(why),
            (_, Some(why)) => State::Fail(why),
            _ => State::Complete,
        };
        self.tell(&state, end.outputs);
        if self.watch.wants_traces() {
            let (run, steps) = spans(&self.of, end);
            self.watch.tell_trace(|parent| trace::request(&self.id, parent, &run, &steps));
        }
    }

    /// Waits until all is told, for two seconds at most.
    pub async fn settle(&self) {
        self.watch.settle().await;
    }

    fn tell(&self, state: &State, outputs: &[Dataset]) {
        let Some(namespace) = self.watch.lineage_namespace() else { return };
        let run = lineage::Run {
            id: self.id.clone(),
            namespace: namespace.to_owned(),
            job: self.of.job.clone(),
            interval: self.of.interval.clone(),
        };
        self.watch.tell_lineage(&lineage::event(&run, state, Utc::now(), &self.inputs, outputs));
    }
}

/// The gauges that every run has. Each name is explained in docs/watching.md.
pub fn page(of: &Identity, end: &End<'_>, now: DateTime<Utc>) -> Exposition {
    let mut page = Exposition::of(&of.job);
    let seconds = |at: DateTime<Utc>| at.timestamp_millis() as f64 / 1000.0;
    page.gauge(
        "curec_last_run_timestamp_seconds",
        "When the last run ended, however it ended, in seconds since 1970 UTC.",
        seconds(now),
    );
    let command = [(of.command.as_str(), 1.0)];
    page.gauges("curec_last_run_info", "Always 1: what was run.", "command", command);
    page.gauge(
        "curec_last_run_exit_status",
        "Exit code of the last run: 0 it went well, 75 run it again, others it needs somebody.",
        f64::from(end.code),
    );
    page.gauge("curec_last_run_duration_seconds", "How long the last run took.", end.seconds);
    if let Ok(end) = DateTime::parse_from_rfc3339(&of.interval.1) {
        page.gauge(
            "curec_last_run_interval_end_timestamp_seconds",
            "End of the interval that the last run was of, in seconds since 1970 UTC.",
            seconds(end.to_utc()),
        );
    }
    let steps = end.steps.iter().map(|step| (step.name.as_str(), step.seconds));
    page.gauges("curec_last_run_step_duration_seconds", "How long each step of the last run took.", "step", steps);
    page
}

/// A run and its steps as spans.
fn spans(of: &Identity, end: End<'_>) -> (Span, Vec<Span>) {
    let text = |text: &str| Attribute::Text(text.to_owned());
    let mut attributes = vec![
        ("curec.job", text(&of.job)),
        ("curec.run_id", text(&of.run_id)),
        ("curec.interval_start", text(&of.interval.0)),
        ("curec.interval_end", text(&of.interval.1)),
        ("curec.exit_code", Attribute::Count(end.code.into())),
    ];
    attributes.extend(end.attributes);
    let error = end.error.map(told);
    let name = format!("curec {}", of.command);
    let run = Span { name, began: of.began, seconds: end.seconds, attributes, error };
    let step = |step: &Step| Span {
        name: step.name.clone(),
        began: step.began,
        seconds: step.seconds,
        attributes: step.rows.map(|rows| ("curec.rows", Attribute::Count(rows))).into_iter().collect(),
        error: step.error.clone(),
    };
    (run, end.steps.iter().map(step).collect())
}

/// What others are told of an error: its first line without its places, which may name users.
pub fn told(error: &Error) -> String {
    let first = error.message().lines().next().unwrap_or_default();
    let line: String = printable::line(&redact(first)).chars().take(MAX_MESSAGE).collect();
    format!("{}: {line}", error.kind().name())
}

/// A table where it lies, in OpenLineage's names for stores.
pub fn dataset(at: &Location, of: Option<&Contract>) -> Dataset {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn identity() -> Identity {
        Identity {
            command: "learn weekly".into(),
            job: "weekly".into(),
            run_id: "weekly-1".into(),
            place: "here".into(),
            interval: ("2026-01-12T00:00:00+00:00".into(), "2026-01-20T00:00:00+00:00".into()),
            began: DateTime::from_timestamp(1_768_971_600, 0).unwrap(),
        }
    }

    #[test]
    fn an_error_is_told_without_its_places() {
        let error =
            Error::new(Kind::Input, "a row is bad in http://u:hunter2@host/x\nuser 4711").with("user_id", "4711");
        assert_eq!(told(&error), "input: a row is bad in http://***@host/x");
    }

    #[test]
    fn a_run_of_any_kind_has_its_gauges_and_spans() {
        let (steps, refused) = (Steps::default(), Error::new(Kind::Audit, "no").with("user_id", "4711"));
        steps.add("align", Duration::from_secs(3), None);
        steps.clone().add("gate", Duration::from_secs(1), Some(told(&refused)));
        let done = steps.all();
        let end = End { error: Some(&refused), code: 1, seconds: 4.5, steps: &done, ..End::default() };
        let now = DateTime::from_timestamp(1_768_971_700, 0).unwrap();
        let page = page(&identity(), &end, now).text();
        for line in [
            "curec_last_run_timestamp_seconds{curec_job=\"weekly\"} 1768971700\n",
            "curec_last_run_info{curec_job=\"weekly\",command=\"learn weekly\"} 1\n",
            "curec_last_run_exit_status{curec_job=\"weekly\"} 1\n",
            "curec_last_run_duration_seconds{curec_job=\"weekly\"} 4.5\n",
            "curec_last_run_interval_end_timestamp_seconds{curec_job=\"weekly\"} 1768867200\n",
            "curec_last_run_step_duration_seconds{curec_job=\"weekly\",step=\"align\"} 3\n",
            "curec_last_run_step_duration_seconds{curec_job=\"weekly\",step=\"gate\"} 1\n",
        ] {
            assert!(page.contains(line), "{line}{page}");
        }
        let (run, below) = spans(&identity(), end);
        assert_eq!((run.name.as_str(), run.error.as_deref()), ("curec learn weekly", Some("audit: no")));
        assert!(run.attributes.contains(&("curec.exit_code", Attribute::Count(1))), "{run:?}");
        assert_eq!((below[0].error.as_deref(), below[1].error.as_deref()), (None, Some("audit: no")));
        assert_eq!((below[1].name.as_str(), below[1].seconds), ("gate", 1.0));
    }
}
