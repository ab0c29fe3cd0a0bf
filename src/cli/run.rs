//! `curec run` and `curec plan`: their flags, the JSON summary or what a person sees in its place, the exit code.
//!
//! What a run does, [`crate::night`] knows.

use std::path::PathBuf;

use clap::Args;

use crate::cancel::CancelToken;
use crate::cli::arguments::{IntervalArgs, JobArgs, watch_signals};
use crate::cli::output::{is_for_a_person, print, print_json, print_toned, save, say, say_error, tell};
use crate::cli::shown;
use crate::config::{self, Interval};
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::night::lookback::{self, LookedBack};
use crate::night::{plan, run};
use crate::table::redact::redact;
use crate::telemetry::Voice;
use crate::watch::places::Watch;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    interval: IntervalArgs,
    /// Build every table even where nothing changed.
    #[arg(long)]
    full: bool,
    /// Build again where prompts failed in an earlier run of this interval.
    #[arg(long)]
    retry_failed: bool,
    /// Publish empty tables when the interval has no event, instead of waiting for its log (`[interval] empty`).
    #[arg(long)]
    allow_empty: bool,
    /// First check the intervals of so many days before, and rebuild those that were published and are out of date; with
    /// `[interval] lookback_missing` also those that were never published (overrides `[interval] lookback_days`). If the
    /// interval itself succeeds, days that fail decide the exit code: 75 if a rerun may help, else 1 or 2.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(..=config::MAX_LOOKBACK_DAYS))]
    lookback: Option<u64>,
    /// Where tables are made: local, or ballista for a cluster (overrides `[query] engine`).
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Exit with 99 instead of 0 when there is nothing to do, for Airflow's skip.
    #[arg(long)]
    skip_exit_code: bool,
    /// Print the JSON summary on a terminal too, where people get tables in its place.
    #[arg(long)]
    json: bool,
    /// Also write the JSON summary to this file, pipe or device, for example /airflow/xcom/return.json.
    #[arg(long, value_name = "PATH")]
    summary: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    interval: IntervalArgs,
    /// Plan as for `run --full`.
    #[arg(long)]
    full: bool,
    /// Plan as for `run --lookback`.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(..=config::MAX_LOOKBACK_DAYS))]
    lookback: Option<u64>,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the job and prints the summary; returns the exit code.
pub(super) async fn run_job(args: RunArgs, voice: Voice) -> Result<u8> {
    let engine: Vec<String> = args.engine.iter().map(|engine| format!("query.engine={engine}")).collect();
    // If the summary cannot be written, say so now and not after hours.
    let (found, summary) = match args.summary.as_deref().map(Destination::find).transpose() {
        Ok(summary) => (args.job.load_with(&engine).and_then(|job| Ok((job, args.interval.parse()?))), summary),
        Err(e) => (Err(e), None),
    };
    let is_watched = is_for_a_person(args.json || summary.as_ref().is_some_and(Destination::is_stdout));
    let tell = if is_watched { save } else { tell };
    let (job, interval) = match found {
        Ok(found) => found,
        Err(e) => {
            // The error comes first: a closed pipe must not hide it.
            let _ = tell(&failure(None, args.interval.parse().ok(), &e), summary.as_ref());
            return Err(e);
        }
    };
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let watch = Watch::of(&job.spec.watch);
    let options = run::Options {
        full: args.full,
        retry_failed: args.retry_failed,
        allow_empty: args.allow_empty,
        voice,
        watch: watch.clone(),
        lookback_code: 0,
    };
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let lookback = lookback::look_back(&job, interval, days, options.clone(), &stop).await;
    for (day, e) in lookback.iter().filter_map(|day| Some((day, day.error.as_ref()?))) {
        say_error(&format!("looking back at dt={}: ", day.dt), e);
    }
    let options = run::Options { lookback_code: lookback::exit_code(&lookback), ..options };
    let outcome = run::run(&job, interval, options, stop).await;
    let mut line = match &outcome {
        Ok(done) => done.manifest.summary(done.report.as_deref()),
        Err(e) => failure(Some(&job.spec.name), Some(interval), e),
    };
    line["lookback"] = lookback.iter().map(LookedBack::json).collect();
    // Before the summary, which is the last line also where both streams go to one place.
    watch.settle().await;
    let told = tell(&line, summary.as_ref());
    let done = outcome?;
    let before = lookback::story(&lookback);
    let before = if before.is_empty() { before } else { before + "\n" };
    if is_watched && voice != Voice::Quiet {
        if done.nothing_to_do {
            print(&format!("{before}{}\n", done.story))?;
        } else {
            print(&before)?;
            print_toned(&shown::of_run(&done.manifest, done.report.as_deref(), &done.notes))?;
        }
    } else if voice == Voice::Terminal {
        say(&format!("{before}{}", done.story));
    }
    told?;
    let nothing_to_do = done.nothing_to_do && lookback.iter().all(|day| day.run_id.is_none());
    Ok(match lookback::exit_code(&lookback) {
        0 if nothing_to_do && args.skip_exit_code => 99,
        code => code,
    })
}

/// The summary of a run that failed, however early.
fn failure(job: Option<&str>, interval: Option<Interval>, e: &Error) -> serde_json::Value {
    serde_json::json!({
        "status": e.kind().name(),
        "job": job,
        "run_id": e.context().iter().find(|(name, _)| *name == run::RUN).map(|(_, id)| id),
        "interval_start": interval.map(|i| i.start.to_rfc3339()),
        "interval_end": interval.map(|i| i.end.to_rfc3339()),
        "error": redact(&e.to_string()),
        "rerun_helps": e.kind().rerun_helps(),
        "lookback": [],
    })
}

/// Prints the plan; returns the exit code.
pub(super) async fn show_plan(args: PlanArgs) -> Result<u8> {
    let (job, interval) = (args.job.load()?, args.interval.parse()?);
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let plan = plan::plan(&job, interval, days, args.full).await?;
    match args.json {
        true => print_json(&format!("{}\n", plan.json())),
        false => print(&plan.to_string()),
    }
    .map(|()| 0)
}
