//! `curec forget`: its flags and how its outcome is printed.
//!
//! What is removed, [`crate::operate::forget`] knows.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::{JobArgs, block_on_or_stop, read_lines};
use crate::cli::output::{print, tell};
use crate::error::{Error, Kind, Result};
use crate::operate::forget::record::{Done, Options};
use crate::operate::forget::run;
use crate::table::redact::redact;

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    job: JobArgs,
    /// A user's id, exactly as it stands in the tables; may be given several times.
    #[arg(long = "user-id", value_name = "ID", allow_hyphen_values = true, required_unless_present = "user_file")]
    user_ids: Vec<String>,
    /// A UTF-8 file with one user id a line; a byte order mark, line ends of Windows and empty lines are left out, spaces
    /// belong to the id.
    #[arg(long, value_name = "PATH")]
    user_file: Option<PathBuf>,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    json: bool,
    /// Show what would be removed; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also remove all answers whose prompts are in no partition: left by other settings or by runs that did not finish.
    /// Nobody can tell whose they were; if such a prompt comes back, its answer is generated again.
    #[arg(long)]
    unlinked: bool,
}

impl ForgetArgs {
    fn users(&self) -> Result<BTreeSet<String>> {
        let mut users: BTreeSet<String> = self.user_ids.iter().cloned().collect();
        if let Some(path) = &self.user_file {
            users.extend(read_lines(path)?);
        }
        Ok(users)
    }

    /// Removes the users and prints the outcome; returns the exit code.
    pub(super) fn execute(&self) -> Result<u8> {
        let outcome = self.forget();
        match &outcome {
            Ok(done) if self.json => tell(&done.json(), None)?,
            Ok(done) => print(&done.to_string())?,
            Err(e) if self.json => {
                let (status, rerun_helps) = (e.kind().name(), e.kind().rerun_helps());
                let error = redact(&e.to_string());
                let line = serde_json::json!({ "status": status, "error": error, "rerun_helps": rerun_helps });
                // The error itself is reported in any case.
                let _ = tell(&line, None);
            }
            Err(_) => {}
        }
        outcome.map(|done| done.exit_code())
    }

    fn forget(&self) -> Result<Done> {
        let options = Options { users: self.users()?, dry_run: self.dry_run, unlinked: self.unlinked };
        let done = block_on_or_stop(run::forget(&self.job.load()?, &options)).map_err(|e| match e.kind() {
            Kind::Interrupted => {
                Error::new(Kind::Interrupted, "stopped by a signal: some rows may be removed, others not")
                    .hint("run the same command again before the next `curec run`")
            }
            _ => e,
        })?;
        for warning in &done.warnings {
            tracing::warn!("{warning}");
        }
        Ok(done)
    }
}
