//! `curec runs` and `curec gc`: what runs there were, and what dead ones left behind.

use clap::Subcommand;

use crate::cli::arguments::{JobArgs, block_on_or_stop};
use crate::cli::output::{print, print_json};
use crate::config;
use crate::error::Result;
use crate::operate::{compact, garbage, runs};
use crate::scratch;

#[derive(Debug, Subcommand)]
pub(super) enum RunsCommand {
    /// List runs, the newest first. A run that was killed stays `running`.
    #[command(before_help = "Example:\n    curec runs list jobs/nightly.toml --limit 5")]
    List {
        #[command(flatten)]
        job: JobArgs,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one run.
    #[command(before_help = "Example:\n    curec runs show jobs/nightly.toml latest")]
    Show {
        #[command(flatten)]
        job: JobArgs,
        /// The run's id, its beginning, or `latest`.
        run: String,
        /// Print the manifest as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say in what two runs differ: inputs, models, settings, what the tables were made from, rows, usage, seconds.
    #[command(before_help = "Example:\n    curec runs diff jobs/nightly.toml nightly-20261121 latest")]
    Diff {
        #[command(flatten)]
        job: JobArgs,
        /// One run's id, its beginning, or `latest`.
        a: String,
        /// The other's.
        b: String,
        /// Print the differences as JSON.
        #[arg(long)]
        json: bool,
    },
}

impl RunsCommand {
    /// Prints what was asked for.
    pub(super) async fn execute(&self) -> Result<()> {
        match self {
            RunsCommand::List { job, limit, json } => {
                let found = runs::list(&runs::root(&job.load()?)?, *limit).await?;
                if *json { print_json(&runs::list_json(&found)) } else { print(&runs::list_text(&found)) }
            }
            RunsCommand::Show { job, run, json } => {
                let manifest = runs::find(&runs::root(&job.load()?)?, run).await?;
                if *json { print_json(&runs::show_json(&manifest)?) } else { print(&runs::show_text(&manifest)) }
            }
            RunsCommand::Diff { job, a, b, json } => {
                let root = runs::root(&job.load()?)?;
                let (a, b) = (runs::find(&root, a).await?, runs::find(&root, b).await?);
                let differences = runs::diff(&a, &b)?;
                if *json { print_json(&differences.json()) } else { print(&differences.to_string()) }
            }
        }
    }
}

/// Removes what dead runs left behind, merges small response segments, and prints what was done.
pub(super) fn collect_garbage(job: &JobArgs) -> Result<()> {
    let job = job.load()?;
    let done = block_on_or_stop(garbage::collect_garbage(&job))?;
    print(&format!(
        "removed {} staged file(s), {} orphan(s) and {} old file(s) of the quarantine, {} bytes\n",
        done.staged_files, done.orphans, done.quarantined, done.bytes
    ))?;
    let swept = config::temporary_places(&job).into_iter().map(|place| scratch::sweep(&place));
    let (folders, bytes) = swept.fold((0, 0), |(n, bytes), s| (n + s.folders, bytes + s.bytes));
    if folders > 0 {
        print(&format!("removed {folders} temporary folder(s) of dead processes, {bytes} bytes\n"))?;
    }
    if !done.live_runs.is_empty() {
        tracing::warn!(runs = done.live_runs.join(", "), "orphans stay while runs are live; try again later");
    }
    let merge = block_on_or_stop(compact::compact(&job))?;
    if merge.removed > 0 {
        print(&format!("removed {} merged response segment(s), {} bytes\n", merge.removed, merge.bytes))?;
    }
    if merge.merged > 0 {
        print(&format!("merged {} response segments into {}\n", merge.merged, merge.into))?;
    }
    if let Some(busy) = merge.busy {
        tracing::warn!(busy, "response segments were not merged; try again later");
    }
    Ok(())
}
