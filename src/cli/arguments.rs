//! Arguments that several commands have, and what runs their work.
//!
//! Knows the runtime and signals; knows nothing of what is run.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Interval, Job};
use crate::error::{Context, Kind, Result};
use crate::job::stop::Stop;
use crate::keepers::keep;

/// A job file, with keys that are different.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job file.
    job: PathBuf,
    /// Override a key of the job file, for example `--set model.device=wgpu`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl JobArgs {
    /// The job, with the overrides on top.
    pub(crate) fn load(&self) -> Result<Job> {
        Job::load(&self.job, &self.overrides)
    }
}

/// The interval that a command works on.
#[derive(Debug, Args)]
pub(crate) struct IntervalArgs {
    /// First day or moment of the interval (UTC).
    #[arg(long)]
    interval_start: String,
    /// First day or moment after the interval (UTC).
    #[arg(long)]
    interval_end: String,
}

impl IntervalArgs {
    /// The interval that the two moments name.
    pub(crate) fn parse(&self) -> Result<Interval> {
        Interval::parse(&self.interval_start, &self.interval_end)
    }
}

/// Runs asynchronous work to its end.
///
/// # Errors
/// The work's.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(Kind::Internal, || "the asynchronous runtime does not start".into())?;
    let result = runtime.block_on(work);
    // Work that was given up, such as loading a model, must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// Asks the run to drain on the first SIGINT or SIGTERM and ends the process on the second.
pub(crate) fn watch_signals(stop: Stop) {
    keep(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for round in 0.. {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if round > 0 {
                std::process::exit(code);
            }
            tracing::warn!("stopping: finished rows are kept; a second signal stops at once");
            stop.request();
        }
    });
}
