//! One run: check inputs, make tables, generate, score, embed, audit what is staged, publish, report.
//!
//! The order of the steps is the design's (write, audit, publish): nothing is published before every staged table has
//! passed its audits. The tables are made in `steps`; what keeps a run from publishing stands in `verify`, what it says of
//! itself in `record`, how it ends in `publish`. Knows every layer below; knows nothing of the command line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::background::spawn;
use crate::cancel::CancelToken;
use crate::config::{Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::night::decide::TablePlan;
use crate::night::history;
use crate::night::made_from::learned_later;
use crate::night::manifest::Manifest;
use crate::night::owner;
use crate::night::prepare::{Prepared, prepare};
use crate::night::publish::{follow_logs, out_of_grace, publish, renew};
use crate::night::record::{begin, close, describe, failed_story, leave, notes, story, table_record, write_run};
use crate::night::steps::Build;
use crate::night::watched::Watched;
use crate::table::delta_write;
use crate::table::lease::{Holder, Lease};
use crate::table::traffic::traffic;
use crate::telemetry::Voice;
use crate::watch::places::Watch;

/// What the caller wants besides the job.
#[derive(Debug, Clone)]
pub struct Options {
    /// Build every table.
    pub full: bool,
    /// Build where prompts had failed.
    pub retry_failed: bool,
    /// Publish empty tables for an interval without events.
    pub allow_empty: bool,
    /// How to show progress.
    pub voice: Voice,
    /// Whom to tell how it goes.
    pub watch: Watch,
    /// The exit code of days that were built before this one in the same process, 0 where none failed: a run that ends well
    /// tells it in the place of its own.
    pub lookback_code: u8,
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
    /// What of that asks for attention: prompts that failed or were not paid, requests that were made again. Empty, or lines.
    pub notes: String,
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
    let mut watched = Watched::begin(job, &manifest, &options.watch, options.lookback_code);
    let (prepared, plans, lease) = match enter(job, interval, &options, &stop, &mut manifest).await {
        Ok((prepared, plans, Some(lease))) => (prepared, plans, Arc::new(lease)),
        Ok((prepared, plans, None)) => {
            watched.found(&prepared, &plans);
            if let Err(e) = follow_logs(&prepared).await {
                close(&mut manifest, Some(&e), started, traffic_before);
                watched.ended(&manifest, Some(&e));
                if let Some(runs) = leave(job, &manifest).await {
                    history::note(&runs, &manifest).await;
                }
                return Err(e.with(RUN, &manifest.run_id));
            }
            let done = nothing_to_do(&prepared, manifest, &plans, started).await;
            watched.ended(&done.manifest, None);
            return Ok(done);
        }
        Err(e) => {
            close(&mut manifest, Some(&e), started, traffic_before);
            watched.ended(&manifest, Some(&e));
            if let Some(runs) = leave(job, &manifest).await {
                history::note(&runs, &manifest).await;
            }
            return Err(e.with(RUN, &manifest.run_id));
        }
    };
    watched.found(&prepared, &plans);
    watched.running();
    let is_publishing = Arc::new(AtomicBool::new(false));
    let grace = Duration::from_secs_f64(job.spec.publish.grace_seconds);
    let mut build = Build::new(prepared, plans, options.voice, options.allow_empty, stop.clone(), manifest.clone());
    let (finished, is_finished) = tokio::sync::oneshot::channel();
    let keep_alive = spawn(renew(lease.clone(), stop.clone(), is_finished));
    let mut time_is_up = spawn(out_of_grace(stop, grace, is_publishing.clone()));
    // Whoever finds what a killed run has paid for finds the run.
    leave(job, &manifest).await;
    let mut result = tokio::select! {
        result = make_and_publish(&mut build, &lease, &is_publishing) => result,
        error = &mut time_is_up => Err(error.unwrap_or_else(|_| Error::new(Kind::Internal, "the task that watches the grace time died"))),
    };
    time_is_up.abort();
    // Not aborted: half a renewal would be in the way of giving the lease back.
    drop(finished);
    keep_alive.await.context(Kind::Internal, || "the task that renews the lease died".into())?;
    if result.is_err() {
        if let Some(stage) = build.take_unfinished() {
            watched.failed_in(stage);
        }
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
    let runs = build.prepared.root.child("_runs");
    let report = write_run(&runs.child(&manifest.run_id), &manifest, &mut build.details).await;
    watched.ended(&manifest, result.as_ref().err().or(report.as_ref().err()));
    if report.is_ok() {
        history::note(&runs, &manifest).await;
    }
    // Last, so that `gc` leaves alone what is being written. A lease that cannot be given back runs out by itself.
    if let Err(e) = lease.release().await {
        tracing::warn!(error = %e, "the lease was not given back");
    }
    result.map_err(|e| e.with(RUN, &manifest.run_id))?;
    let report = report?;
    let story = story(&manifest, &report, &build.prepared.root);
    let notes = notes(&manifest);
    Ok(Done { manifest, report: Some(report), nothing_to_do: false, story, notes })
}

async fn make_and_publish(build: &mut Build, lease: &Lease, is_publishing: &AtomicBool) -> Result<()> {
    build.everything(lease).await?;
    if !build.prepared.job.spec.query.is_local() {
        build.publisher.clear_set_aside().await?;
    }
    let started = build.begin("publish");
    is_publishing.store(true, Ordering::SeqCst);
    let staged = std::mem::take(&mut build.staged);
    let rows = publish(&build.prepared, &build.plans, staged, &build.publisher, lease).await?;
    // All is published by now: the next run brings the log up to date, or says why it cannot.
    if let Err(e) = follow_logs(&build.prepared).await {
        tracing::warn!(error = %e.explain(), "a Delta log is not up to date; the next run tries again");
    }
    build.stage("publish", started, rows);
    Ok(())
}

/// What the run needs, what it is to build, and the lease under which it may; no lease where nothing is to be built.
async fn enter(
    job: &Job,
    interval: Interval,
    options: &Options,
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
    for plan in plans.iter().filter(|plan| plan.is_build()) {
        // Before anything is paid for that could not be published.
        delta_write::demand_followable(&prepared.root, &plan.table).await?;
    }
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

/// Warns once that no record tells whether an adapter or a reward model has learned from later events.
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
    let all = plans.iter().flat_map(|plan| learned_later(&plan.parts));
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
    let notes = notes(&manifest);
    let story =
        format!("Nothing to do: every table of dt={dt} is up to date.{}", failed_story(manifest.failed_prompts));
    Done { manifest, report: None, nothing_to_do: true, story, notes }
}
