//! `curec explain`: its flags.
//!
//! What is looked up and shown, [`crate::operate::explain`] knows.

use clap::Args;

use crate::cli::arguments::JobArgs;
use crate::cli::output::{print_json, print_toned};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::operate::about::About;
use crate::operate::explain::{Question, explain};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The item whose reason to show: its id, exactly as it stands in the tables. With --user-id: why this user may like it.
    #[arg(long, value_name = "ID", allow_hyphen_values = true, required_unless_present = "user_id")]
    item_id: Option<String>,
    /// The user whose reason to show: the id, exactly as it stands in the tables.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    user_id: Option<String>,
    /// Look at no day that begins after this one (a day or a moment, UTC). Without it the newest counts.
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    /// Prints the reason with its evidence.
    pub(super) async fn execute(&self) -> Result<()> {
        let about = match (self.item_id.clone(), self.user_id.clone()) {
            (Some(item_id), Some(user_id)) => About::Pair { user_id, item_id },
            (Some(id), None) => About::Item(id),
            (None, Some(id)) => About::User(id),
            (None, None) => return Err(Error::new(Kind::Usage, "neither an item nor a user is named")),
        };
        let at = self.at.as_deref().map(|at| config::parse_moment("--at", at)).transpose()?;
        let found = explain(&self.job.load()?, &Question { about, at }).await?;
        match self.json {
            true => print_json(&found.json()),
            false => print_toned(&found.pieces()),
        }
    }
}
