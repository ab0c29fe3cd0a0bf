//! `curec export`: its flags, and the line of JSON or what a person sees in its place.
//!
//! What is exported, [`crate::operate::export`] knows.

use clap::{Args, ValueEnum};

use crate::cli::arguments::{JobArgs, block_on_or_stop};
use crate::cli::output::{is_for_a_person, print, print_toned, tell};
use crate::cli::shown;
use crate::config;
use crate::error::Result;
use crate::feature::Entity;
use crate::operate::{export, feast};
use crate::telemetry::Voice;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The folder to write to: a path or an s3:// URL.
    #[arg(long, value_name = "FOLDER", required_unless_present = "feast")]
    out: Option<String>,
    /// First day or moment (UTC) whose events are exported; all features before it count.
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// First day or moment (UTC) whose events are not exported any more.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// Whose features.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Features::Item, Features::User])]
    features: Vec<Features>,
    /// Replace the export that is in the folder.
    #[arg(long)]
    overwrite: bool,
    /// Also join features of a model that was trained on events after their day. Not for measuring.
    #[arg(long)]
    allow_later_training: bool,
    /// Print a Feast definition of the feature tables (Python) and export nothing.
    #[arg(long, conflicts_with_all = ["out", "from", "to", "overwrite", "allow_later_training"])]
    feast: bool,
    /// Print the line of JSON on a terminal too, where people get a table in its place.
    #[arg(long, conflicts_with = "feast")]
    json: bool,
}

/// Whose features are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Features {
    /// The item's.
    Item,
    /// The user's.
    User,
}

impl ExportArgs {
    /// Exports, or prints the Feast definition.
    pub(super) fn execute(&self, voice: Voice) -> Result<()> {
        let job = self.job.load()?;
        let entity = |features: &Features| match features {
            Features::Item => Entity::Item,
            Features::User => Entity::User,
        };
        let features: Vec<_> = self.features.iter().map(entity).collect();
        let Some(out) = self.out.clone() else { return print(&feast::definition(&job, &features)?) };
        let moment = |flag, text: &Option<String>| text.as_ref().map(|t| config::parse_moment(flag, t)).transpose();
        let (from, to) = (moment("--from", &self.from)?, moment("--to", &self.to)?);
        let (overwrite, allow_later_training) = (self.overwrite, self.allow_later_training);
        let options = export::Options { out: out.clone(), from, to, features, overwrite, allow_later_training };
        let done = block_on_or_stop(export::export(&job, &options))?;
        match is_for_a_person(self.json) {
            true if voice == Voice::Quiet => Ok(()),
            true => print_toned(&shown::of_export(&done, &out)),
            false => tell(&done.summary(&out), None),
        }
    }
}
