//! The command line: flags, what is printed, exit codes.
//!
//! Data goes to standard output, everything else to standard error. Knows every other module; nothing knows it.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::TryStreamExt;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{self, Interval, Job};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::models;
use crate::generate::registry::{self, Registry, Trained};
use crate::job::lookback::{self, LookedBack};
use crate::job::stop::Stop;
use crate::job::{
    align, compact, evaluate, examples, export, feast, forget, improve, learning_page, plan, reinforce, reward, run,
    runs, weekly,
};
use crate::keepers::keep;
use crate::learn::reinforce::Method;
use crate::llm::adapter::Precision;
use crate::llm::weights::ModelFiles;
use crate::query::session::{Rows, Session};
use crate::recommend::simulate;
use crate::table::store::StoreOptions;
use crate::table::{import, inspect};
use crate::telemetry::{self, Voice};

const EXAMPLES: &str = "\
Examples:
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
  curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
  curec sql --job jobs/nightly.toml \"select reason from reason limit 5\"
  curec import movielens ml-100k --out input
  curec export jobs/nightly.toml --out training

Exit codes: 0 published or nothing to do; 1 refused to publish, a rerun does not help; 2 usage or configuration;
75 temporary, progress is kept, run it again; 99 nothing to do (with --skip-exit-code).";

/// Turns interaction logs into reasons and content features for recommenders.
#[derive(Debug, Parser)]
#[command(name = "curec", version, before_help = EXAMPLES, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log JSON lines even on a terminal.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build one interval of a job and publish it.
    #[command(before_help = "Examples:\n\
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22\n\
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --set model.device=wgpu\n\
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --retry-failed\n\
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --lookback 3")]
    Run(RunArgs),
    /// Say what `run` would build and why; changes nothing.
    #[command(before_help = "Examples:\n\
  curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22\n\
  curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --json")]
    Plan(PlanArgs),
    /// Query every table of a warehouse.
    #[command(before_help = "Examples:\n\
  curec sql --job jobs/nightly.toml \"show tables\"\n\
  curec sql --job jobs/nightly.toml \"select reason from reason where dt = '2026-11-21' limit 5\"\n\
  curec sql --job jobs/nightly.toml --format parquet --output out.parquet \"select * from item_feature\"\n\
  echo \"select generate('Name a colour.') as text\" | curec sql --job jobs/nightly.toml -")]
    Sql(SqlArgs),
    /// Write what a ranker trains on: every event with the newest features that were true before or at its moment.
    #[command(
        before_help = "Examples:\n\
  curec export jobs/nightly.toml --out training\n\
  curec export jobs/nightly.toml --out s3://lake/training --from 2026-10-01 --to 2026-11-01 --features item\n\
  curec export jobs/nightly.toml --feast > feature_repo/curec.py",
        after_help = "Writes Parquet, sorted by event_timestamp, user_id and item_id: user_id, item_id, event, rating, \
event_timestamp, and the columns of item_feature and user_feature under item_ and user_. An event has the newest feature \
row whose event_timestamp is not after its own (a feature row for moment T is made from events before T). Where there is \
none, item_missing is true, item_event_timestamp null and the embedding zeros; likewise for users.\n\n\
The files are in place when _export.json is; it lists them. jobs/loaders/ranker_loader.py feeds them to PyTorch."
    )]
    Export(ExportArgs),
    /// Turn a public data set into the input tables.
    #[command(
        subcommand,
        before_help = "Examples:\n\
  curec import movielens ml-100k --out input\n\
  curec import csv ratings.csv --items films.csv --mapping user_id=userId,item_id=movieId --out input\n\
  curec import jsonl Gift_Cards_5.json --metadata meta_Gift_Cards.json --out input"
    )]
    Import(ImportCommand),
    /// What the weekly jobs do: so far, measure what features are worth.
    #[command(subcommand)]
    Learn(LearnCommand),
    /// Write input tables from a known preference structure, to test recommenders and how they are measured.
    #[command(before_help = "Examples:\n\
  curec simulate --out input --users 2000 --items 1000 --events-per-user 30 --seed 7 --signal co-consumption\n\
  curec simulate --out control --users 2000 --items 1000 --events-per-user 30 --seed 7 --signal none")]
    Simulate(SimulateArgs),
    /// Show schema, counts and first rows of a Parquet file or folder, through an independent reader.
    #[command(before_help = "Example:\n  curec inspect warehouse/item_feature --rows 3")]
    Inspect {
        /// A Parquet file or a folder of them.
        path: PathBuf,
        /// Rows to show.
        #[arg(long, default_value_t = 5)]
        rows: usize,
    },
    /// Print every key of a job file with its default and meaning.
    #[command(before_help = "Example:\n  curec config > jobs/mine.toml")]
    Config,
    /// Remove what dead runs left behind, and merge the small files of the response store.
    #[command(before_help = "Example:\n  curec gc jobs/nightly.toml")]
    Gc {
        #[command(flatten)]
        job: JobArgs,
    },
    /// List, show and compare the runs of a warehouse by their manifests.
    #[command(
        subcommand,
        before_help = "Examples:\n\
  curec runs list jobs/nightly.toml --limit 5\n\
  curec runs show jobs/nightly.toml latest\n\
  curec runs diff jobs/nightly.toml nightly-20261121 nightly-20261122"
    )]
    Runs(RunsCommand),
    /// Keep versions of adapters in a registry, and say which one is in use.
    #[command(
        subcommand,
        before_help = "Examples:\n\
  curec models add writer --adapter weekly/adapter --job jobs/nightly.toml --about about.json\n\
  curec models list --job jobs/nightly.toml\n\
  curec models promote writer latest --registry s3://lake/registry\n\
  curec models rollback writer --registry s3://lake/registry\n\
  curec models export writer --merged --out writer-merged --job jobs/nightly.toml",
        after_help = "A job with `adapter = \"registry:writer\"` in its [model] uses what is promoted when a run starts."
    )]
    Models(ModelsCommand),
    /// Remove users from every table, the answers and the reports (privacy requests).
    #[command(
        before_help = "Examples:\n\
  curec forget jobs/nightly.toml --user-id 4711 --dry-run\n\
  curec forget jobs/nightly.toml --user-id 4711 --user-id 0815\n\
  curec forget jobs/nightly.toml --user-file requests.txt",
        after_help = "Removes the users' rows from every derived table; the model's answers to prompts that were theirs \
and nobody else's; files that dead runs left; quarantined rows, and samples and errors in reports and manifests, that \
name them. Writes a manifest (_runs/forget-...) that holds digests of the ids. Killed, run it again. Refused with 75 \
while a run is live.\n\n\
Not touched: the inputs (mend them first, or the next run that reads them brings the rows back); counts over many users \
(item_audience, reports' totals) and what was written from them; answers whose prompts stand in no partition any more \
(--unlinked removes them); models and anything learned; logs, older versions and backups that the store keeps, \
and copies made elsewhere."
    )]
    Forget(ForgetArgs),
    /// Print a completion script for a shell.
    #[command(before_help = "Example:\n  curec completions bash > /etc/bash_completion.d/curec")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum LearnCommand {
    /// Teach the language model to answer out of its evidence: a LoRA adapter for the nightly job.
    #[command(
        before_help = "Example:\n  curec learn align jobs/weekly.toml --interval-start 1998-03-01 --interval-end 1998-03-20",
        after_help = "Prints one JSON line. Examples, adapter, curve and record go to the folder `out` of the file. Killed, run it \
again: it goes on from its checkpoint to the same adapter."
    )]
    Align {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Train the judges that say what a reason is worth, and measure whether they may.
    #[command(
        before_help = "Example:\n  curec learn reward jobs/weekly.toml --interval-start 1998-03-01 --interval-end 1998-03-20",
        after_help = "Prints one JSON line. Judges, examples, answers and the record reward.json go to the folder `out` of the file. \
Where a gate fails, all is written and the exit code is 1. Killed, run it again: it goes on to the same bytes."
    )]
    Reward {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// The whole weekly run: align, reward, reinforce, evaluate, gate, promote.
    #[command(
        before_help = "Example:\n  curec learn weekly jobs/weekly.toml --interval-start 1998-03-01 --interval-end 1998-03-20",
        after_help = "Prints one JSON line. Everything goes to the folder `out` of the file: weekly.json is the record of the \
stages, report.html the page. Killed, run it again: stages that are done are not done again, and the one that was under way \
goes on. Another interval or changed keys redo what depends on them.\n\n\
Exit codes: 0 the new version is in use; 1 the reward model or the gate refuses, nothing is promoted (the version is in the \
registry where it came to that: `curec models show`); 75 interrupted, or another process works in the folder."
    )]
    Weekly {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Learn from what the language model's own answers are worth to the judges of `learn reward`.
    #[command(
        before_help = "Example:\n  curec learn reinforce jobs/weekly.toml --method best-of-n --interval-start 1998-03-01 \
--interval-end 1998-03-20",
        after_help = "Prints one JSON line. Adapter, curve and record go to the folder `out` of the file. Killed, run it \
again: it goes on after the last finished round to the same adapter."
    )]
    Reinforce {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        /// What is learned: best-of-n, weighted, grpo or dpo.
        #[arg(long, default_value_t = Method::BestOfN)]
        method: Method,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Train recommenders with and without content features and tell what the features are worth.
    #[command(
        before_help = "Example:\n  curec learn evaluate jobs/ablation.toml",
        after_help = "Prints one JSON line. Tables, ABLATION.md and a page go to the folder `out` of the file. Killed, run \
it again: finished trainings and texts are kept."
    )]
    Evaluate {
        /// The evaluation's file, such as jobs/ablation.toml.
        file: PathBuf,
    },
    /// Write the questions and answers that a language model is aligned with.
    #[command(
        before_help = "Example:\n  curec learn examples jobs/nightly.toml --interval-start 2026-11-01 \\\n    \
        --interval-end 2026-11-22 --out examples.parquet",
        after_help = "Evidence is from before the interval, labels are from the interval. Publishes nothing."
    )]
    Examples {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        interval: IntervalArgs,
        /// The Parquet file to write.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// Examples in all, at most.
        #[arg(long, default_value_t = examples::Size::default().max_examples)]
        max_examples: u64,
    },
}

#[derive(Debug, Args)]
struct JobArgs {
    /// The job file.
    job: PathBuf,
    /// Override a key of the job file, for example `--set model.device=wgpu`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl JobArgs {
    fn load(&self) -> Result<Job> {
        Job::load(&self.job, &self.overrides)
    }
}

#[derive(Debug, Args)]
struct IntervalArgs {
    /// First day or moment of the interval (UTC).
    #[arg(long)]
    interval_start: String,
    /// First day or moment after the interval (UTC).
    #[arg(long)]
    interval_end: String,
}

impl IntervalArgs {
    fn parse(&self) -> Result<Interval> {
        Interval::parse(&self.interval_start, &self.interval_end)
    }
}

#[derive(Debug, Args)]
struct RunArgs {
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
    /// Publish empty tables when the interval has no event, instead of refusing.
    #[arg(long)]
    allow_empty: bool,
    /// Before that, look at the intervals of so many days before and build those again that were published and are no
    /// longer up to date (overrides `[interval] lookback_days`). Where the interval itself goes well, days that fail
    /// decide the exit code: 75 if one may pass, else 1 or 2.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(..=config::MAX_LOOKBACK_DAYS))]
    lookback: Option<u64>,
    /// Exit with 99 instead of 0 when there is nothing to do, for Airflow's skip.
    #[arg(long)]
    skip_exit_code: bool,
    /// Also write the JSON summary to this file, for example /airflow/xcom/return.json.
    #[arg(long, value_name = "PATH")]
    summary: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ExportArgs {
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
    /// Print a Feast definition of the feature tables (Python) and export nothing.
    #[arg(long, conflicts_with_all = ["out", "from", "to", "overwrite"])]
    feast: bool,
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
    fn execute(&self) -> Result<String> {
        let job = self.job.load()?;
        let entity = |features: &Features| match features {
            Features::Item => export::Entity::Item,
            Features::User => export::Entity::User,
        };
        let features: Vec<_> = self.features.iter().map(entity).collect();
        let Some(out) = self.out.clone() else { return feast::definition(&job, &features) };
        let moment = |flag, text: &Option<String>| text.as_ref().map(|t| config::parse_moment(flag, t)).transpose();
        let (from, to) = (moment("--from", &self.from)?, moment("--to", &self.to)?);
        let options = export::Options { out: out.clone(), from, to, features, overwrite: self.overwrite };
        let done = block_on(export::export(&job, &options))?;
        Ok(format!("{}\n", done.summary(&out)))
    }
}

#[derive(Debug, Args)]
struct ForgetArgs {
    #[command(flatten)]
    job: JobArgs,
    /// A user's id, exactly as it stands in the tables; may be given several times.
    #[arg(long = "user-id", value_name = "ID", allow_hyphen_values = true, required_unless_present = "user_file")]
    user_ids: Vec<String>,
    /// A file with one user id a line; empty lines are left out, spaces belong to the id.
    #[arg(long, value_name = "PATH")]
    user_file: Option<PathBuf>,
    /// Say what would go; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove also all answers whose prompts stand in no partition: left by other settings or by runs that did not end.
    /// Nobody can tell whose they were, and prompts among them that come back are paid for again.
    #[arg(long)]
    unlinked: bool,
}

impl ForgetArgs {
    fn users(&self) -> Result<BTreeSet<String>> {
        let mut users: BTreeSet<String> = self.user_ids.iter().cloned().collect();
        if let Some(path) = &self.user_file {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::new(Kind::Usage, "cannot read the users").with("file", path.display()).source(e))?;
            users.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_string));
        }
        Ok(users)
    }
}

#[derive(Debug, Args)]
struct PlanArgs {
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

#[derive(Debug, Args)]
struct SqlArgs {
    /// The query; `-` reads it from standard input.
    query: String,
    /// The job whose tables and models to use.
    #[arg(long)]
    job: PathBuf,
    /// Override a key of the job file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write the result to this file instead of standard output.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
    /// With a header line.
    Csv,
    /// A Parquet file; not for a terminal.
    Parquet,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// RecBole's atomic files of a MovieLens set: *.inter and *.item.
    #[command(before_help = "Example:\n  curec import movielens ml-100k --out input")]
    Movielens {
        /// The folder with the atomic files.
        folder: PathBuf,
        /// The folder to write interaction.parquet and item.parquet to.
        #[arg(long)]
        out: PathBuf,
    },
    /// Separated text files with a header line.
    #[command(before_help = "Example:\n  curec import csv ratings.csv --items films.csv \\\n    \
        --mapping user_id=userId,item_id=movieId --out input")]
    Csv {
        /// The file with the interactions.
        interactions: PathBuf,
        /// The file with the items.
        #[arg(long)]
        items: Option<PathBuf>,
        /// Which columns carry what, for example
        /// `user_id=userId,item_id=movieId,event_timestamp=ts,time_unit=ms,separator=tab`.
        #[arg(long, default_value = "")]
        mapping: String,
        /// The folder to write to.
        #[arg(long)]
        out: PathBuf,
    },
    /// JSON lines as in the Amazon 5-core sets.
    #[command(
        before_help = "Example:\n  curec import jsonl Gift_Cards_5.json --metadata meta_Gift_Cards.json --out input"
    )]
    Jsonl {
        /// The file with the reviews.
        reviews: PathBuf,
        /// The file with the items' metadata.
        #[arg(long)]
        metadata: Option<PathBuf>,
        /// The folder to write to.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// List runs, the newest first. A run that was killed stays `running`.
    #[command(before_help = "Example:\n  curec runs list jobs/nightly.toml --limit 5")]
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
    #[command(before_help = "Example:\n  curec runs show jobs/nightly.toml latest")]
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
    #[command(before_help = "Example:\n  curec runs diff jobs/nightly.toml nightly-20261121 latest")]
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
    async fn execute(&self) -> Result<String> {
        match self {
            RunsCommand::List { job, limit, json } => {
                let found = runs::list(&runs::root(&job.load()?)?, *limit).await?;
                Ok(if *json { runs::list_json(&found) } else { runs::list_text(&found) })
            }
            RunsCommand::Show { job, run, json } => {
                let manifest = runs::find(&runs::root(&job.load()?)?, run).await?;
                Ok(if *json { runs::show_json(&manifest)? } else { runs::show_text(&manifest) })
            }
            RunsCommand::Diff { job, a, b, json } => {
                let root = runs::root(&job.load()?)?;
                let (a, b) = (runs::find(&root, a).await?, runs::find(&root, b).await?);
                let differences = runs::diff(&a, &b)?;
                Ok(if *json { differences.json() } else { differences.to_string() })
            }
        }
    }
}

#[derive(Debug, Args)]
struct RegistryArgs {
    /// The registry, a folder or s3:// URL, instead of the job's [project] registry.
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

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Add an adapter in PEFT's format as the next version of a name; prints the version.
    #[command(before_help = "Example:\n  curec models add writer --adapter weekly/adapter --job jobs/nightly.toml")]
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
    #[command(before_help = "Example:\n  curec models list --job jobs/nightly.toml")]
    List {
        /// Of this name alone.
        name: Option<String>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Print a version's card and the name's history of promotions, as JSON.
    #[command(before_help = "Example:\n  curec models show writer promoted --job jobs/nightly.toml")]
    Show {
        /// The name.
        name: String,
        /// The version: its number, the beginning of its id, `latest` or `promoted`.
        #[arg(default_value = "latest")]
        version: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Bring a version into use. Refused with 1 where its card has no gate that holds.
    #[command(before_help = "Example:\n  curec models promote writer latest --job jobs/nightly.toml")]
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
        before_help = "Example:\n  curec models rollback writer --job jobs/nightly.toml --why 'worse on Mondays'"
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
    /// Copy an adapter out of the registry, or the whole model with it.
    #[command(before_help = "Examples:\n\
  curec models export writer --out adapter --job jobs/nightly.toml\n\
  curec models export writer latest --merged --f16 --out model --model SmolLM2-135M-Instruct --registry registry")]
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
    async fn execute(&self) -> Result<String> {
        let now = chrono::Utc::now();
        match self {
            ModelsCommand::Add { name, adapter, model, about, registry } => {
                let trained = about.as_ref().map_or_else(|| Ok(Trained::default()), |path| Trained::read(path))?;
                let base = registry.base(model.as_ref()).await?;
                let card = registry.open()?.add(name, adapter, &base, trained, now).await?;
                Ok(format!("{name} {}\n", card.version))
            }
            ModelsCommand::List { name, json, registry } => {
                let found = registry.open()?.list(name.as_deref()).await?;
                if *json { registry::list_json(&found) } else { Ok(registry::list_text(&found)) }
            }
            ModelsCommand::Show { name, version, registry } => {
                let registry = registry.open()?;
                let (card, promotions) = (registry.find(name, version).await?, registry.promotions(name).await?);
                let shown = serde_json::json!({ "card": card, "promoted": promotions.current(), "history": promotions.history });
                Ok(format!("{shown:#}\n"))
            }
            ModelsCommand::Promote { name, version, force, why, registry } => {
                let card = registry.open()?.promote(name, version, why, *force, now).await?;
                Ok(format!("{name} {} is promoted\n", card.version))
            }
            ModelsCommand::Rollback { name, why, registry } => {
                let card = registry.open()?.rollback(name, why, now).await?;
                Ok(format!("{name} {} is promoted again\n", card.version))
            }
            ModelsCommand::Export { name, version, out, merged: false, registry, .. } => {
                let registry = registry.open()?;
                let card = registry.find(name, version).await?;
                registry.export(&card, out).await?;
                Ok(format!("{name} {} in {}\n", card.version, out.display()))
            }
            ModelsCommand::Export { name, version, out, model, f16, registry: args, .. } => {
                let registry = args.open()?;
                let card = registry.find(name, version).await?;
                let base = args.base(model.as_ref()).await?;
                let precision = if *f16 { Precision::F16 } else { Precision::F32 };
                for lack in registry.export_merged(&card, &base, out, precision).await? {
                    tracing::warn!("{lack}");
                }
                Ok(format!("{name} {} and its model in {}\n", card.version, out.display()))
            }
        }
    }
}

impl ImportCommand {
    fn execute(&self) -> Result<import::ImportReport> {
        match self {
            ImportCommand::Movielens { folder, out } => import::movielens(folder, out),
            ImportCommand::Csv { interactions, items, mapping, out } => {
                import::csv(interactions, items.as_deref(), &import::CsvMapping::parse(mapping)?, out)
            }
            ImportCommand::Jsonl { reviews, metadata, out } => import::jsonl(reviews, metadata.as_deref(), out),
        }
    }
}

#[derive(Debug, Args)]
struct SimulateArgs {
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
    /// Days from 2026-01-01 on over which the events lie.
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Everything is drawn from it: the same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What preference comes from.
    #[arg(long, value_enum, default_value_t = Signal::CoConsumption)]
    signal: Signal,
}

/// What simulated preference comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Signal {
    /// Tastes that users keep: co-consumption tells what attributes do not.
    CoConsumption,
    /// Popularity alone: neither tells anything.
    None,
}

impl SimulateArgs {
    fn execute(&self) -> Result<Vec<(PathBuf, u64)>> {
        let signal = match self.signal {
            Signal::CoConsumption => simulate::Signal::CoConsumption,
            Signal::None => simulate::Signal::None,
        };
        let SimulateArgs { users, items, events_per_user, tastes, days, seed, .. } = *self;
        simulate::simulate(simulate::Options { users, items, events_per_user, tastes, days, seed, signal }, &self.out)
    }
}

/// Parses the process's arguments, runs the command and returns the exit code.
pub fn main() -> u8 {
    telemetry::bound_arenas();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help and version to standard output and mistakes to standard error.
            let _ = e.print();
            return if e.use_stderr() { Kind::Usage.exit_code() } else { 0 };
        }
    };
    let voice = Voice::detect(cli.quiet, cli.log_json);
    telemetry::init(voice, cli.verbose);
    match execute(cli.command, voice) {
        Ok(code) => code,
        Err(e) => {
            if e.kind() != Kind::BrokenPipe {
                eprintln!("error: {}", e.explain());
            }
            e.kind().exit_code()
        }
    }
}

fn execute(command: Command, voice: Voice) -> Result<u8> {
    match command {
        Command::Run(args) => block_on(run_job(args, voice)),
        Command::Plan(args) => block_on(show_plan(args)),
        Command::Sql(args) => block_on(query(args)),
        Command::Export(args) => print(&args.execute()?).map(|()| 0),
        Command::Import(command) => {
            let report = command.execute()?;
            if report.duplicates > 0 {
                tracing::warn!(lines = report.duplicates, "left out lines that stood there before");
            }
            if report.items_without_title > 0 {
                tracing::warn!(items = report.items_without_title, "items without a title");
            }
            print(&file_lines(&report.files)).map(|()| 0)
        }
        Command::Learn(LearnCommand::Align { file, interval }) => block_on(learn_align(file, interval, voice)),
        Command::Learn(LearnCommand::Weekly { file, interval }) => block_on(learn_weekly(file, interval, voice)),
        Command::Learn(LearnCommand::Reward { file, interval }) => block_on(learn_reward(file, interval, voice)),
        Command::Learn(LearnCommand::Reinforce { file, method, interval }) => {
            block_on(learn_reinforce(file, method, interval, voice))
        }
        Command::Learn(LearnCommand::Evaluate { file }) => block_on(learn_evaluate(file, voice)),
        Command::Learn(LearnCommand::Examples { job, interval, out, max_examples }) => {
            let size = examples::Size { max_examples, ..examples::Size::default() };
            let rows = block_on(examples::examples(&job.load()?, interval.parse()?, size, Some(&out)))?;
            let n: usize = rows.iter().map(|batch| batch.num_rows()).sum();
            print(&format!("{n} examples in {}\n", out.display())).map(|()| 0)
        }
        Command::Simulate(args) => print(&file_lines(&args.execute()?)).map(|()| 0),
        Command::Inspect { path, rows } => print(&format!("{}\n", inspect::inspect(&path, rows)?)).map(|()| 0),
        Command::Config => print(config::DEFAULTS).map(|()| 0),
        Command::Gc { job } => {
            let job = job.load()?;
            let done = block_on(run::collect_garbage(&job))?;
            print(&format!(
                "removed {} staged file(s), {} orphan(s) and {} old file(s) of the quarantine, {} bytes\n",
                done.staged_files, done.orphans, done.quarantined, done.bytes
            ))?;
            if !done.live_runs.is_empty() {
                tracing::warn!(runs = done.live_runs.join(", "), "orphans stay while runs are live; try again later");
            }
            let merge = block_on(compact::compact(&job))?;
            if merge.removed > 0 {
                print(&format!("removed {} merged response segment(s), {} bytes\n", merge.removed, merge.bytes))?;
            }
            if merge.merged > 0 {
                print(&format!("merged {} response segments into {}\n", merge.merged, merge.into))?;
            }
            if let Some(busy) = merge.busy {
                tracing::warn!(busy, "response segments were not merged; try again later");
            }
            Ok(0)
        }
        Command::Runs(command) => print(&block_on(command.execute())?).map(|()| 0),
        Command::Models(command) => print(&block_on(command.execute())?).map(|()| 0),
        Command::Forget(args) => {
            let options = forget::Options { users: args.users()?, dry_run: args.dry_run, unlinked: args.unlinked };
            let done = block_on(forget::forget(&args.job.load()?, &options))?;
            for warning in &done.warnings {
                tracing::warn!("{warning}");
            }
            print(&done.to_string()).map(|()| 0)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "curec", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| 0)
        }
    }
}

/// A line for every file written.
fn file_lines(files: &[(PathBuf, u64)]) -> String {
    files.iter().map(|(file, rows)| format!("{}  {rows} rows\n", file.display())).collect()
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(Kind::Internal, || "the asynchronous runtime does not start".into())?;
    let result = runtime.block_on(work);
    // Work that was given up, such as loading a model, must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// Writes data to standard output; a reader that has gone away is no error of ours.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)
}

fn output_error(e: std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::BrokenPipe { Kind::BrokenPipe } else { Kind::Temporary };
    Error::new(kind, "cannot write the output").source(e)
}

/// Asks the run to drain on the first SIGINT or SIGTERM and ends the process on the second.
fn watch_signals(stop: Stop) {
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

async fn run_job(args: RunArgs, voice: Voice) -> Result<u8> {
    let (job, interval) = (args.job.load()?, args.interval.parse()?);
    let stop = Stop::default();
    watch_signals(stop.clone());
    let options =
        run::Options { full: args.full, retry_failed: args.retry_failed, allow_empty: args.allow_empty, voice };
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let lookback = lookback::look_back(&job, interval, days, options, &stop).await;
    for (day, e) in lookback.iter().filter_map(|day| Some((day, day.error.as_ref()?))) {
        eprintln!("error: looking back at dt={}: {}", day.dt, e.explain());
    }
    let outcome = run::run(&job, interval, options, stop).await;
    let mut line = match &outcome {
        Ok(done) => done.manifest.summary(done.report.as_deref()),
        Err(e) => serde_json::json!({
            "status": e.kind().name(),
            "job": job.spec.name,
            "run_id": e.context().iter().find(|(name, _)| *name == run::RUN).map(|(_, id)| id),
            "interval_start": interval.start.to_rfc3339(),
            "interval_end": interval.end.to_rfc3339(),
            "error": e.to_string(),
            "rerun_helps": e.kind().rerun_helps(),
        }),
    };
    line["lookback"] = lookback.iter().map(LookedBack::json).collect();
    // The run's own error comes first: whoever listens to its outcome must not hear of a closed pipe instead.
    let written = match &args.summary {
        Some(path) => std::fs::write(path, line.to_string()).map_err(|e| {
            Error::new(Kind::Temporary, "cannot write the summary").with("file", path.display()).source(e)
        }),
        None => Ok(()),
    };
    let printed = print(&format!("{line}\n"));
    let done = outcome?;
    written?;
    if voice == Voice::Terminal {
        let before = lookback::story(&lookback);
        eprintln!("{before}{}{}", if before.is_empty() { "" } else { "\n" }, done.story);
    }
    printed?;
    let nothing_to_do = done.nothing_to_do && lookback.iter().all(|day| day.run_id.is_none());
    Ok(match lookback::exit_code(&lookback) {
        0 if nothing_to_do && args.skip_exit_code => 99,
        code => code,
    })
}

async fn learn_align(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly::load(&file)?, interval.parse()?);
    let stop = Stop::default();
    watch_signals(stop.clone());
    let _hold = spec.hold()?;
    let done = align::align(&spec, interval, voice, &stop).await?;
    learning_page::write(&spec.folder()?)?;
    let mut line = serde_json::json!({ "status": "aligned", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of the training".into())?;
    if let (Some(line), serde_json::Value::Object(mut done)) = (line.as_object_mut(), done) {
        // They are for reading, in align.json.
        done.remove("samples");
        line.extend(done);
    }
    print(&format!("{line}\n")).map(|()| 0)
}

async fn learn_weekly(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly::load(&file)?, interval.parse()?);
    let stop = Stop::default();
    watch_signals(stop.clone());
    let outcome = improve::improve(&spec, interval, voice, &stop).await;
    let mut line = match &outcome {
        Ok(done) => serde_json::to_value(done).context(Kind::Internal, || "the run's record".into())?,
        Err(e) => serde_json::json!({ "error": e.to_string(), "rerun_helps": e.kind().rerun_helps() }),
    };
    line["status"] = outcome.as_ref().map_or_else(|e| e.kind().name(), |_| "promoted").into();
    line["name"] = spec.name.clone().into();
    let printed = print(&format!("{line}\n"));
    outcome?;
    printed.map(|()| 0)
}

async fn learn_reward(file: PathBuf, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly::load(&file)?, interval.parse()?);
    let stop = Stop::default();
    watch_signals(stop.clone());
    let _hold = spec.hold()?;
    let outcome = reward::reward(&spec, interval, voice, &stop).await;
    // A judge that fails its gates has a page too.
    learning_page::write(&spec.folder()?)?;
    let done = outcome?;
    let line = serde_json::json!({
        "status": "rewarded",
        "name": spec.name,
        "examples": done.examples,
        "texts": done.texts,
        "gain": done.judge.gates.gain,
        "judge": done.judge.digest,
        "second": done.second.digest,
        "record": PathBuf::from(&spec.out).join("reward.json"),
    });
    print(&format!("{line}\n")).map(|()| 0)
}

async fn learn_reinforce(file: PathBuf, method: Method, interval: IntervalArgs, voice: Voice) -> Result<u8> {
    let (spec, interval) = (weekly::load(&file)?, interval.parse()?);
    let stop = Stop::default();
    watch_signals(stop.clone());
    let _hold = spec.hold()?;
    let done = reinforce::reinforce(&spec, interval, method, voice, &stop).await?;
    learning_page::write(&spec.folder()?)?;
    let mut line = serde_json::json!({ "status": "reinforced", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of it".into())?;
    if let (Some(line), serde_json::Value::Object(done)) = (line.as_object_mut(), done) {
        line.extend(done);
    }
    print(&format!("{line}\n")).map(|()| 0)
}

async fn learn_evaluate(file: PathBuf, voice: Voice) -> Result<u8> {
    let spec = evaluate::load(&file)?;
    let stop = Stop::default();
    watch_signals(stop.clone());
    let done = evaluate::evaluate(&spec, voice, &stop).await?;
    let line = serde_json::json!({
        "status": "evaluated",
        "evaluation": spec.name,
        "measurements": done.results.measurements.len(),
        "contrasts": done.results.contrasts.len(),
        "page": done.page,
    });
    print(&format!("{line}\n"))?;
    if voice == Voice::Terminal {
        eprintln!("{}", done.story);
    }
    Ok(0)
}

async fn show_plan(args: PlanArgs) -> Result<u8> {
    let (job, interval) = (args.job.load()?, args.interval.parse()?);
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let plan = plan::plan(&job, interval, days, args.full).await?;
    let text = if args.json { format!("{}\n", plan.json()) } else { plan.to_string() };
    print(&text).map(|()| 0)
}

async fn query(args: SqlArgs) -> Result<u8> {
    let job = Job::load(&args.job, &args.overrides)?;
    let text = match args.query.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context(Kind::Usage, || "cannot read the query".into())?,
        text => text.to_string(),
    };
    if args.format == Format::Parquet && args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "Parquet is not for a terminal").hint("add --output result.parquet"));
    }
    let session: Session = run::session_of(&job).await?;
    let rows = session.sql_read_only(&text, &[]).await?;
    match &args.output {
        Some(path) => {
            let unusable =
                |e| Error::new(Kind::Usage, "cannot write the output").with("file", path.display()).source(e);
            // Beside it first: a query that fails leaves the file of before.
            let beside = PathBuf::from(format!("{}.part", path.display()));
            let file = std::fs::File::create(&beside).map_err(unusable)?;
            let written = write_rows(rows, args.format, std::io::BufWriter::new(file)).await;
            if written.is_err() {
                let _ = std::fs::remove_file(&beside);
            }
            written?;
            std::fs::rename(&beside, path).map_err(unusable)?;
        }
        None => write_rows(rows, args.format, std::io::stdout()).await?,
    }
    Ok(0)
}

/// A writer that remembers that its reader has gone: Arrow's writers turn that into a text among others.
struct Watched<W> {
    inner: W,
    is_broken: Arc<AtomicBool>,
}

impl<W: Write> Watched<W> {
    fn watch<T>(&self, result: std::io::Result<T>) -> std::io::Result<T> {
        if result.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = self.inner.write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let result = self.inner.flush();
        self.watch(result)
    }
}

async fn write_rows(rows: Rows, format: Format, out: impl Write + Send) -> Result<()> {
    let is_broken = Arc::new(AtomicBool::new(false));
    let mut out = Watched { inner: out, is_broken: is_broken.clone() };
    let schema = rows.schema();
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| match is_broken.load(Ordering::Relaxed) {
        true => output_error(std::io::ErrorKind::BrokenPipe.into()),
        false => Error::new(Kind::Usage, "cannot write the result in this format").source(e),
    };
    let arrow = |e: arrow::error::ArrowError| failed(e.into());
    let parquet = |e: parquet::errors::ParquetError| failed(e.into());
    let nested = schema.fields().iter().find(|f| f.data_type().is_nested());
    if let (Format::Csv, Some(field)) = (format, nested) {
        return Err(Error::new(Kind::Usage, "CSV cannot hold lists")
            .with("column", field.name())
            .hint("name other columns, use array_to_string(column, ', '), or --format json"));
    }
    let mut rows = rows.stream().await?;
    match format {
        Format::Table => {
            let batches: Vec<_> = rows.try_collect().await?;
            let table = arrow::util::pretty::pretty_format_batches_with_schema(schema, &batches).map_err(arrow)?;
            writeln!(out, "{table}").map_err(output_error)?;
        }
        Format::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(arrow)?;
            }
            writer.finish().map_err(arrow)?;
        }
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            writer.write(&arrow::array::RecordBatch::new_empty(schema)).map_err(arrow)?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(arrow)?;
            }
        }
        Format::Parquet => {
            let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, schema, None).map_err(parquet)?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(&batch).map_err(parquet)?;
            }
            writer.close().map_err(parquet)?;
        }
    }
    out.flush().map_err(output_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
