//! `curec import` and `curec simulate`: where input tables come from, and the flags for it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::arguments::compute_or_stop;
use crate::cli::output::{file_lines, print};
use crate::error::Result;
use crate::operate::import::writing::ImportReport;
use crate::operate::import::{csv, jsonl, movielens};
use crate::operate::simulate::simulate;
use crate::operate::simulate_world;

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// RecBole's atomic files of a MovieLens set: *.inter and *.item.
    #[command(before_help = "Example:\n    curec import movielens ml-100k --out input")]
    Movielens {
        /// The folder with the atomic files.
        folder: PathBuf,
        /// Descriptions of the items: CSV or Parquet with the columns item_id and description. They replace what the
        /// items have; empty ones leave it.
        #[arg(long, value_name = "FILE")]
        descriptions: Option<PathBuf>,
        /// The folder to write interaction.parquet and item.parquet to.
        #[arg(long)]
        out: PathBuf,
    },
    /// Separated text files with a header line.
    #[command(before_help = "Example:
    curec import csv ratings.csv --items films.csv \\
        --mapping user_id=userId,item_id=movieId --out input")]
    Csv {
        /// The file with the interactions.
        interactions: PathBuf,
        /// The file with the items.
        #[arg(long)]
        items: Option<PathBuf>,
        /// Descriptions of the items: CSV or Parquet with the columns item_id and description. They replace what the
        /// items have; empty ones leave it.
        #[arg(long, value_name = "FILE")]
        descriptions: Option<PathBuf>,
        /// Which columns carry what, for example
        /// `user_id=userId,item_id=movieId,event_timestamp=ts,time_unit=ms,separator=tab`. `quote=none` turns quoting off.
        #[arg(long, default_value = "")]
        mapping: String,
        /// The folder to write to.
        #[arg(long)]
        out: PathBuf,
    },
    /// JSON lines as in the Amazon 5-core sets.
    #[command(
        before_help = "Example:\n    curec import jsonl Gift_Cards_5.json --metadata meta_Gift_Cards.json --out input"
    )]
    Jsonl {
        /// The file with the reviews.
        reviews: PathBuf,
        /// The file with the items' metadata.
        #[arg(long)]
        metadata: Option<PathBuf>,
        /// Descriptions of the items: CSV or Parquet with the columns item_id and description. They replace what the
        /// items have; empty ones leave it.
        #[arg(long, value_name = "FILE")]
        descriptions: Option<PathBuf>,
        /// The folder to write to.
        #[arg(long)]
        out: PathBuf,
    },
}

impl ImportCommand {
    /// Imports and prints the files that were written.
    pub(super) fn execute(self) -> Result<()> {
        let report = compute_or_stop(move || self.import())?;
        if report.duplicates > 0 {
            tracing::warn!(lines = report.duplicates, "left out repeated lines");
        }
        if report.items_without_title > 0 {
            tracing::warn!(items = report.items_without_title, "items without a title");
        }
        if report.unknown_descriptions > 0 {
            tracing::warn!(items = report.unknown_descriptions, "left out descriptions of items that are not there");
        }
        print(&file_lines(&report.files))
    }

    fn import(&self) -> Result<ImportReport> {
        match self {
            ImportCommand::Movielens { folder, descriptions, out } => {
                movielens::import(folder, descriptions.as_deref(), out)
            }
            ImportCommand::Csv { interactions, items, descriptions, mapping, out } => {
                let mapping = csv::CsvMapping::parse(mapping)?;
                csv::import(interactions, items.as_deref(), descriptions.as_deref(), &mapping, out)
            }
            ImportCommand::Jsonl { reviews, metadata, descriptions, out } => {
                jsonl::import(reviews, metadata.as_deref(), descriptions.as_deref(), out)
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The folder to write interaction.parquet and item.parquet to.
    #[arg(long)]
    out: PathBuf,
    /// Users.
    #[arg(long, default_value_t = 1000)]
    users: u32,
    /// Items.
    #[arg(long, default_value_t = 1000)]
    items: u32,
    /// Mean number of events of a user; each has half to one and a half times as many.
    #[arg(long, default_value_t = 30)]
    events_per_user: u32,
    /// Groups of items that are taken together; 0 makes one for every 50 items.
    #[arg(long, default_value_t = 0)]
    tastes: u32,
    /// Days, from 2026-01-01 on, over which the events are spread.
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Seed of all random numbers: the same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where preference comes from.
    #[arg(long, value_enum, default_value_t = Signal::CoConsumption)]
    signal: Signal,
}

/// Where simulated preference comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Signal {
    /// Lasting tastes of users: co-consumption shows what attributes do not.
    CoConsumption,
    /// Popularity alone: neither shows anything.
    None,
    /// Lasting tastes of users, which descriptions tell, also of the many items that the log does not know yet.
    Content,
}

impl SimulateArgs {
    /// Simulates and prints the files that were written.
    pub(super) fn execute(self) -> Result<()> {
        print(&file_lines(&compute_or_stop(move || self.simulate())?))
    }

    fn simulate(&self) -> Result<Vec<(PathBuf, u64)>> {
        let signal = match self.signal {
            Signal::CoConsumption => simulate_world::Signal::CoConsumption,
            Signal::None => simulate_world::Signal::None,
            Signal::Content => simulate_world::Signal::Content,
        };
        let SimulateArgs { users, items, events_per_user, tastes, days, seed, .. } = *self;
        simulate(simulate_world::Options { users, items, events_per_user, tastes, days, seed, signal }, &self.out)
    }
}
