//! What a run says of itself: its manifest from the beginning to the end, the report, and the story for a person.
//!
//! Knows what a run has counted and where its record lies; does none of a run's work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::Array;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::TryStreamExt;

use crate::columns::{at, floats, integers, text};
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::night::compare::compare;
use crate::night::decide::TablePlan;
use crate::night::graph::RESPONSE;
use crate::night::manifest::{self, InputRecord, Manifest, StageRecord, TableRecord, Usage};
use crate::night::measures::Measures;
use crate::night::prepare::Prepared;
use crate::night::report::{self, Details};
use crate::night::samples::{samples, vocabulary};
use crate::night::tables::{self, locate};
use crate::query::session::{Param, Session};
use crate::query::texts;
use crate::table::input::InputTable;
use crate::table::redact::redact;
use crate::table::store::Location;
use crate::table::traffic::{Traffic, traffic};
use crate::telemetry;

/// How long a run that cannot begin tries to say so in the warehouse.
const TRACE_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn now() -> String {
    written(Utc::now())
}

/// A moment of the wall clock as records have it.
fn written(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The name of this machine.
pub(crate) fn host() -> String {
    std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_string()
}

/// A stage that ends now.
pub(super) fn stage(name: &str, started: Instant, rows: u64) -> StageRecord {
    let took = started.elapsed();
    let began = Utc::now() - TimeDelta::from_std(took).unwrap_or_default();
    StageRecord { stage: name.to_owned(), started_at: written(began), seconds: took.as_secs_f64(), rows }
}

/// The manifest as far as job and interval tell.
pub(super) fn begin(job: &Job, interval: Interval) -> Manifest {
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
        host: host(),
        pid,
        device: job.spec.model.device.clone(),
        ..Manifest::default()
    }
}

/// Fills in inputs and models.
pub(super) fn describe(prepared: &Prepared, manifest: &mut Manifest) -> Result<()> {
    let record = |(name, input): (&String, &InputTable)| {
        let (files, bytes, digest) = (input.files.len(), input.bytes(), input.digest());
        (name.clone(), InputRecord { files, rows: input.rows(), bytes, digest, ..InputRecord::default() })
    };
    manifest.inputs = prepared.inputs.iter().map(record).collect();
    manifest.models = BTreeMap::from([
        ("generator".to_string(), prepared.models.model_name()?),
        ("encoder".to_string(), prepared.models.encoder_files()?.digest().to_string()),
    ]);
    if let Some(projection) = prepared.projection() {
        manifest.models.insert("projection".to_string(), projection.digest().to_string());
    }
    Ok(())
}

pub(super) fn table_record(plan: &TablePlan, dt: &str) -> TableRecord {
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

/// Counts and samples for manifest and report.
pub(super) async fn look(
    prepared: &Prepared,
    session: &Session,
    plans: &[TablePlan],
    manifest: &mut Manifest,
    details: &mut Details,
) -> Result<()> {
    let reasons = &mut manifest.reasons;
    let mut rows = session.sql(texts::REASON_TALLY, &[]).await?.stream().await?;
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
    if prepared.is_correcting() {
        let corrections = manifest.corrections.get_or_insert_default();
        for batch in session.sql(texts::CORRECTION_TALLY, &[]).await?.collect().await? {
            let (outcome, n) = (text(&batch, "correction")?, integers(&batch, "n")?);
            let (before, after) = (floats(&batch, "gain_before")?, floats(&batch, "gain_after")?);
            for i in 0..batch.num_rows() {
                let outcome = outcome.value(i).to_string();
                corrections.by_fate.insert(outcome.clone(), n.value(i) as u64);
                corrections.gain_before.insert(outcome.clone(), before.value(i));
                if after.is_valid(i) {
                    corrections.gain_after.insert(outcome, after.value(i));
                }
            }
        }
    }
    for batch in session.sql(texts::REASON_MEASURES, &[]).await?.collect().await? {
        details.scores.extend(floats(&batch, "score")?.iter().flatten());
        details.lengths.extend(floats(&batch, "n_words")?.iter().flatten());
    }
    let (contract, root) = (prepared.graph.contract(RESPONSE)?, &prepared.root);
    if !session.has_table(RESPONSE) {
        tables::register_responses(session, root, contract).await?;
    }
    let usage_all = tables::usage_all(session, contract).await?;
    manifest.failed_prompts = usage_all.failed;
    manifest.usage_all = Some(usage_all);
    let price = &prepared.job.spec.price;
    details.price = (price.prompt_tokens_million, price.completion_tokens_million);
    let words = vocabulary(session, &prepared.job.spec).await?;
    let of = |accepted| [("accepted", Param::Bool(accepted))];
    let accepted = session.sql(texts::REPORT_SAMPLES, &of(true)).await?.collect().await?;
    let refused = session.sql(texts::REPORT_SAMPLES, &of(false)).await?.collect().await?;
    let refusals = session.sql(texts::REFUSAL_SAMPLES, &[]).await?.collect().await?;
    (details.accepted, details.refused) = (samples(&accepted, &words)?, samples(&refused, &words)?);
    details.refusals = samples(&refusals, &words)?;
    let mut means = [None; 2];
    for batch in session.sql(texts::REASON_MEANS, &[]).await?.collect().await? {
        for (mean, name) in means.iter_mut().zip(["score", "n_words"]) {
            *mean = floats(&batch, name)?.iter().flatten().next();
        }
    }
    details.measures = Measures::of(manifest, &prepared.interval.dt(), means);
    compare(prepared, session, plans, &words, details).await;
    Ok(())
}

/// Fills in how the run ended.
pub(super) fn close(manifest: &mut Manifest, error: Option<&Error>, started: Instant, traffic_before: Traffic) {
    manifest.store = traffic().since(traffic_before);
    manifest.seconds = started.elapsed().as_secs_f64();
    manifest.finished_at = now();
    manifest.peak_memory = telemetry::peak_memory();
    manifest.status = error.map_or("published", |e| e.kind().name()).into();
    manifest.error = error.map(|e| redact(&e.to_string()));
}

/// Writes the manifest alone, where the warehouse can be written: a run that cannot begin leaves a record if it can, and
/// does not fail for want of one. Returns where the runs are, where it could be written.
pub(super) async fn leave(job: &Job, manifest: &Manifest) -> Option<Location> {
    let write = async {
        let runs = locate(job, &job.spec.warehouse)?.child("_runs");
        write_manifest(&runs.child(&manifest.run_id), manifest).await.map(|()| runs)
    };
    match tokio::time::timeout(TRACE_PATIENCE, write).await {
        Ok(Ok(runs)) => return Some(runs),
        Ok(Err(e)) => tracing::warn!(error = %e, "the run leaves no manifest"),
        Err(_) => tracing::warn!("the run leaves no manifest: the warehouse does not answer"),
    }
    None
}

async fn write_manifest(folder: &Location, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).context(Kind::Internal, || "the manifest is not JSON".into())?;
    folder.child(Manifest::NAME).put(text.into()).await
}

/// Writes manifest, measures and report; returns where the page is.
pub(super) async fn write_run(folder: &Location, manifest: &Manifest, details: &mut Details) -> Result<String> {
    details.measures.seconds = manifest.seconds;
    write_manifest(folder, manifest).await?;
    // Later runs are held against what was published alone.
    if manifest.status == "published" {
        let text =
            serde_json::to_string(&details.measures).context(Kind::Internal, || "the measures are not JSON".into())?;
        folder.child(Measures::NAME).put(text.into()).await?;
    }
    folder.child("report.json").put(report::json(manifest, details)?.into()).await?;
    let page = folder.child("report.html");
    page.put(report::html(manifest, details)?.into()).await?;
    Ok(page.local_path().map_or_else(|| page.url().to_string(), |p| p.display().to_string()))
}

pub(super) fn story(m: &Manifest, report: &str, root: &Location) -> String {
    let kinds = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
    };
    let again = match m.usage.asked_again {
        0 => String::new(),
        n => format!(" ({n} of them refused and asked for again)"),
    };
    let refused: Vec<String> = m.reasons.refused.iter().map(|(code, n)| format!("{code} {n}")).collect();
    format!(
        "Published {} reasons ({}) in {:.1} s; accepted {:.1} % ({}); refused: {}.\n\
         Generated {} answers{again}, {} prompt tokens ({} shared), {} new tokens at {:.1} tokens/s.{}{}{}{}\n\
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
        unpaid_story(&m.usage),
        twice_story(&m.usage),
        store_story(m),
        root.local_path().map_or_else(|| root.url().to_string(), |p: PathBuf| p.display().to_string()),
    )
}

/// What asks for attention in a run that ended well, a line each; empty where nothing does.
pub(super) fn notes(m: &Manifest) -> String {
    let told = [failed_story(m.failed_prompts), unpaid_story(&m.usage), twice_story(&m.usage), store_story(m)];
    let lines: Vec<&str> = told.iter().map(|told| told.trim()).filter(|told| !told.is_empty()).collect();
    lines.join("\n")
}

/// A line on requests that were made again; empty where none were.
fn store_story(m: &Manifest) -> String {
    match m.store.retries {
        0 => String::new(),
        n => format!("Store: {n} of {} requests failed and were made again.\n", m.store.requests),
    }
}

/// A line on what a spend cap has left unpaid; empty where all is paid.
fn unpaid_story(usage: &Usage) -> String {
    match &usage.cap_reached {
        None => String::new(),
        Some(cap) => format!(
            "\n[budget] {cap} is reached: {} prompt(s) are not paid; rows that were never asked have the refusal `budget` and \
             features of their evidence. Run the same day again to pay for the rest.",
            usage.unpaid
        ),
    }
}

/// A line on answers that were paid for twice; empty where none were.
fn twice_story(usage: &Usage) -> String {
    match usage.paid_twice {
        0 => String::new(),
        n => format!("\n{n} answer(s) were paid for twice: an executor was lost before it had handed them over."),
    }
}

/// A line on prompts that have no answer; empty where all have one.
pub(super) fn failed_story(prompts: u64) -> String {
    match prompts {
        0 => String::new(),
        n => format!("\n{n} prompt(s) failed and have no reason; --retry-failed tries them again."),
    }
}
