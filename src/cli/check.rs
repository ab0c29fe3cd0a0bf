//! `curec check`: its flags and its exit code.
//!
//! What is looked at and told, [`crate::operate::check`] knows.

use chrono::Utc;
use clap::Args;

use crate::cli::arguments::JobArgs;
use crate::cli::output::{is_for_a_person, print, print_json, print_toned};
use crate::config;
use crate::error::{Kind, Result};
use crate::operate::check::{Ask, check};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The day of the night to look at (a day or a moment, UTC): events after it lie in the future. Without it today.
    #[arg(long, value_name = "DATE")]
    at: Option<String>,
    /// Also write an object to the warehouse and remove it again. Without it the warehouse is only listed.
    #[arg(long)]
    write: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    /// Prints everything that was found; returns the exit code.
    pub(super) async fn execute(&self) -> Result<u8> {
        let at = self.at.as_deref().map(|at| config::parse_moment("--at", at)).transpose()?;
        let found = check(self.job.examine(), Ask { at: at.unwrap_or_else(Utc::now), write: self.write }).await;
        match self.json {
            true => print_json(&format!("{}\n", found.json()))?,
            false if is_for_a_person(false) => print_toned(&found.pieces())?,
            false => print(&found.to_string())?,
        }
        Ok(if found.problems() == 0 { 0 } else { Kind::Config.exit_code() })
    }
}
