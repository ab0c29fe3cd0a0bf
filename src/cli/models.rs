//! `curec models`: versions of adapters and projections in a registry.
//!
//! Knows its flags and what it prints; what a registry is, [`crate::registry::versions`] knows.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::output::{is_for_a_person, print, print_json, print_toned};
use crate::cli::shown;
use crate::config::{self, Job};
use crate::error::{Error, Kind, Result};
use crate::generate::models;
use crate::llm::adapter::Precision;
use crate::llm::weights::ModelFiles;
use crate::registry::card::Trained;
use crate::registry::versions::{self, Registry};
use crate::table::store::StoreOptions;

/// Where the registry is.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// The registry, a folder or s3:// URL, instead of the job's `[project] registry`.
    #[arg(long, value_name = "URL", required_unless_present = "job")]
    registry: Option<String>,
    /// A job file: for its registry, its store and its language model.
    #[arg(long, value_name = "PATH")]
    job: Option<PathBuf>,
    /// Override a key of the job file.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "job")]
    overrides: Vec<String>,
}

impl RegistryArgs {
    fn job(&self) -> Result<Option<Job>> {
        self.job.as_ref().map(|path| Job::load(path, &self.overrides)).transpose()
    }

    fn open(&self) -> Result<Registry> {
        match (self.job()?, &self.registry) {
            (Some(job), None) => Registry::of(&job),
            (Some(job), Some(url)) => Registry::open(url, &StoreOptions::of(&job)),
            (None, Some(url)) => {
                Registry::open(url, &StoreOptions { vars: config::store_variables(), ..StoreOptions::default() })
            }
            (None, None) => Err(Error::new(Kind::Usage, "no registry is named").hint("pass --registry or --job")),
        }
    }

    /// The language model that adapters are for.
    async fn base(&self, given: Option<&PathBuf>) -> Result<ModelFiles> {
        match (given, self.job()?) {
            (Some(path), _) => ModelFiles::open(path),
            (None, Some(job)) => models::base(&job).await,
            (None, None) => Err(Error::new(Kind::Usage, "the language model is not named")
                .hint("pass --model, or --job for the job's own")),
        }
    }
}

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Add an adapter in PEFT's format as the next version of a name; prints the version.
    #[command(before_help = "Example:\n    curec models add writer --adapter weekly/adapter --job jobs/nightly.toml")]
    Add {
        /// The name.
        name: String,
        /// The adapter's folder.
        #[arg(long, value_name = "FOLDER")]
        adapter: PathBuf,
        /// The language model that it is for, instead of the job's.
        #[arg(long, value_name = "PATH")]
        model: Option<PathBuf>,
        /// A JSON file with any of `interval` ([first day, first day after]), `metrics` (an object), `seeds` (a list) and
        /// `gate` (a list of {"what", "value", "holds"}), for the card.
        #[arg(long, value_name = "PATH")]
        about: Option<PathBuf>,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// List versions.
    #[command(before_help = "Example:\n    curec models list --job jobs/nightly.toml")]
    List {
        /// Of this name alone.
        name: Option<String>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Show a version's card and the name's history of promotions; in a pipe as JSON.
    #[command(before_help = "Example:\n    curec models show writer promoted --job jobs/nightly.toml")]
    Show {
        /// The name.
        name: String,
        /// The version: its number, the beginning of its id, `latest` or `promoted`.
        #[arg(default_value = "latest")]
        version: String,
        /// Print the JSON on a terminal too, where people get the same in words.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Bring a version into use. Refused with 1 where its card has no gate that holds.
    #[command(before_help = "Example:\n    curec models promote writer latest --job jobs/nightly.toml")]
    Promote {
        /// The name.
        name: String,
        /// The version: its number, the beginning of its id, or `latest`.
        version: String,
        /// Promote it whatever the gate says; the history tells.
        #[arg(long)]
        force: bool,
        /// Why, for the history.
        #[arg(long, default_value = "")]
        why: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Bring the version into use again that was before the one in use.
    #[command(
        before_help = "Example:\n    curec models rollback writer --job jobs/nightly.toml --why 'worse on Mondays'"
    )]
    Rollback {
        /// The name.
        name: String,
        /// Why, for the history.
        #[arg(long, default_value = "")]
        why: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Copy an adapter or a projection out of the registry, or the whole model with an adapter.
    #[command(before_help = "Examples:
    curec models export writer --out adapter --job jobs/nightly.toml
    curec models export writer latest --merged --f16 --out model --model SmolLM2-135M-Instruct \\
        --registry registry")]
    Export {
        /// The name.
        name: String,
        /// The version: its number, the beginning of its id, `latest` or `promoted`.
        #[arg(default_value = "promoted")]
        version: String,
        /// The folder to make.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Write a Hugging Face directory of the language model with the adapter merged.
        #[arg(long)]
        merged: bool,
        /// The language model, instead of the job's.
        #[arg(long, value_name = "PATH", requires = "merged")]
        model: Option<PathBuf>,
        /// With 16 bits instead of 32.
        #[arg(long, requires = "merged")]
        f16: bool,
        #[command(flatten)]
        registry: RegistryArgs,
    },
}

impl ModelsCommand {
    /// Does it and prints what came of it.
    ///
    /// # Errors
    /// The registry's, the model's.
    pub(crate) async fn execute(&self) -> Result<()> {
        let now = chrono::Utc::now();
        match self {
            ModelsCommand::Add { name, adapter, model, about, registry } => {
                let trained = about.as_ref().map_or_else(|| Ok(Trained::default()), |path| Trained::read(path))?;
                let base = registry.base(model.as_ref()).await?;
                let card = registry.open()?.add(name, adapter, &base, trained, now).await?;
                print(&format!("{name} {}\n", card.version))
            }
            ModelsCommand::List { name, json, registry } => {
                let found = registry.open()?.list(name.as_deref()).await?;
                if *json { print_json(&versions::list_json(&found)?) } else { print(&versions::list_text(&found)) }
            }
            ModelsCommand::Show { name, version, json, registry } => {
                let registry = registry.open()?;
                let (card, promotions) = (registry.find(name, version).await?, registry.promotions(name).await?);
                if is_for_a_person(*json) {
                    return print_toned(&shown::of_version(&card, &promotions));
                }
                let shown = serde_json::json!({ "card": card, "promoted": promotions.current(), "history": promotions.history });
                print_json(&format!("{shown:#}\n"))
            }
            ModelsCommand::Promote { name, version, force, why, registry } => {
                let card = registry.open()?.promote(name, version, why, *force, now).await?;
                print(&format!("{name} {} is promoted\n", card.version))
            }
            ModelsCommand::Rollback { name, why, registry } => {
                let card = registry.open()?.rollback(name, why, now).await?;
                print(&format!("{name} {} is promoted again\n", card.version))
            }
            ModelsCommand::Export { name, version, out, merged: false, registry, .. } => {
                let registry = registry.open()?;
                let card = registry.find(name, version).await?;
                registry.export(&card, out).await?;
                print(&format!("{name} {} in {}\n", card.version, out.display()))
            }
            ModelsCommand::Export { name, version, out, model, f16, registry: args, .. } => {
                let registry = args.open()?;
                let card = registry.find(name, version).await?;
                let base = args.base(model.as_ref()).await?;
                let precision = if *f16 { Precision::F16 } else { Precision::F32 };
                for lack in registry.export_merged(&card, &base, out, precision).await? {
                    tracing::warn!("{lack}");
                }
                print(&format!("{name} {} and its model in {}\n", card.version, out.display()))
            }
        }
    }
}
