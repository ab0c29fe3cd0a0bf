//! `curec init`: its flags. What it writes, [`crate::operate::init`] knows.

use std::path::PathBuf;

use chrono::Utc;
use clap::{Args, ValueEnum};

use crate::cli::output::print;
use crate::config::{parse_moment, store_variables};
use crate::error::Result;
use crate::operate::init::run::{Options, init};
use crate::table::store::StoreOptions;

/// What the job gets copies of, to be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Edit {
    /// The SQL of all tables, the saved queries, and the contracts.
    Sql,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The log: Parquet, CSV or JSON lines, packed by gzip or not; a file, a folder or a pattern such as 'logs/*.csv', here or on S3.
    #[arg(long, value_name = "PATH")]
    interactions: String,
    /// The items, the same.
    #[arg(long, value_name = "PATH")]
    items: Option<String>,
    /// The reviews, the same; may be the log itself.
    #[arg(long, value_name = "PATH")]
    reviews: Option<String>,
    /// The language model that the job names: a folder, a GGUF file or an s3:// URL.
    #[arg(long, value_name = "PATH")]
    generator: Option<String>,
    /// The sentence encoder that the job names.
    #[arg(long, value_name = "PATH")]
    encoder: Option<String>,
    /// Copy what the job is to have of its own, and let it use the copies.
    #[arg(long, value_enum)]
    edit: Option<Edit>,
    /// The day of the proposal (a day or a moment, UTC): events after it do not tell which day the proposed commands build.
    /// Without it today.
    #[arg(long, value_name = "DATE")]
    at: Option<String>,
    /// The folder to write: one that does not exist or is empty.
    folder: PathBuf,
}

impl InitArgs {
    /// Writes the folder and says what was found.
    pub(super) async fn execute(self) -> Result<()> {
        let at = self.at.as_deref().map(|at| parse_moment("--at", at)).transpose()?;
        let options = Options {
            interactions: self.interactions,
            items: self.items,
            reviews: self.reviews,
            generator: self.generator,
            encoder: self.encoder,
            edits_sql: self.edit == Some(Edit::Sql),
            today: at.unwrap_or_else(Utc::now).date_naive(),
            folder: self.folder,
        };
        let store = StoreOptions { vars: store_variables(), ..StoreOptions::default() };
        print(&init(&options, &store).await?)
    }
}
