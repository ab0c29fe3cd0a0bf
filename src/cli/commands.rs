//! The command line: flags, help, exit codes.
//!
//! Data goes to standard output, everything else to standard error. Knows every other module; nothing but the binary knows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::cancel::CancelToken;
use crate::cli::arguments::{
    IntervalArgs, JobArgs, block_on, block_on_or_stop, compute_or_stop, read_lines, watch_signals,
};
use crate::cli::learn::LearnCommand;
use crate::cli::models::ModelsCommand;
use crate::cli::output::{Format, Out, file_lines, print, print_json, say, tell, write_rows};
use crate::config::{self, Interval, Job};
use crate::destination::Destination;
use crate::error::{Context, Error, Kind, Result};
use crate::night::lookback::{self, LookedBack};
use crate::night::{plan, run, warehouse};
use crate::operate::simulate;
use crate::operate::{compact, export, feast, forget, garbage, runs};
use crate::operate::{import, inspect};
use crate::query::session::Session;
use crate::scratch;
use crate::table::redact::redact;
use crate::telemetry::{self, Voice};

const EXAMPLES: &str = "\
Examples:
  curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
  curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
  curec sql --job jobs/nightly.toml \"select reason from reason limit 5\"
  curec import movielens ml-100k --out input
  curec export jobs/nightly.toml --out training

Exit codes: 0 published or nothing to do; 1 refused to publish, a rerun does not help; 2 usage or configuration;
75 temporary or not arrived yet, progress is kept, run it again; 99 nothing to do (with --skip-exit-code); 3 `forget`
did all, but some ids were not found.";

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
    /// Improve the model: align, judge, reinforce, gate and promote it; and measure what features are worth.
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
  curec forget jobs/nightly.toml --user-file requests.txt --json",
        after_help = "Removes the users' rows from every derived table; the model's answers to prompts that were theirs \
and nobody else's; files that dead runs left; quarantined rows, and samples and errors in reports and manifests, that \
name them. First tries all of it: what cannot be read or written is refused before anything is removed; days that are \
rewritten take room twice meanwhile. Killed, run it again. Refused with 75 while a run is live.\n\n\
Exit codes: 0 all ids were found, now or by an earlier `forget`; 3 everything was done, and ids that stand nowhere are \
named (in --json as `unmatched`): mistyped, or never there; 1, 2 and 75 as everywhere.\n\n\
Writes a manifest (_runs/forget-...) with keyed digests of the ids; the key stays in the warehouse (_forget/key). To ask \
later whether an id was forgotten, forget it again: 0 says yes, 3 says no.\n\n\
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
    /// Publish empty tables when the interval has no event, instead of waiting for its log ([interval] empty).
    #[arg(long)]
    allow_empty: bool,
    /// Before that, look at the intervals of so many days before and build those again that were published and are no
    /// longer up to date; with `[interval] lookback_missing` those also that never were published (overrides `[interval] lookback_days`). Where the interval itself goes well, days that fail
    /// decide the exit code: 75 if one may pass, else 1 or 2.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(..=config::MAX_LOOKBACK_DAYS))]
    lookback: Option<u64>,
    /// Exit with 99 instead of 0 when there is nothing to do, for Airflow's skip.
    #[arg(long)]
    skip_exit_code: bool,
    /// Also write the JSON summary to this file, pipe or device, for example /airflow/xcom/return.json.
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
    /// Join features too that were written by a model which learned from events after their day. Not for measuring.
    #[arg(long)]
    allow_later_training: bool,
    /// Print a Feast definition of the feature tables (Python) and export nothing.
    #[arg(long, conflicts_with_all = ["out", "from", "to", "overwrite", "allow_later_training"])]
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
    fn execute(&self) -> Result<()> {
        let job = self.job.load()?;
        let entity = |features: &Features| match features {
            Features::Item => export::Entity::Item,
            Features::User => export::Entity::User,
        };
        let features: Vec<_> = self.features.iter().map(entity).collect();
        let Some(out) = self.out.clone() else { return print(&feast::definition(&job, &features)?) };
        let moment = |flag, text: &Option<String>| text.as_ref().map(|t| config::parse_moment(flag, t)).transpose();
        let (from, to) = (moment("--from", &self.from)?, moment("--to", &self.to)?);
        let (overwrite, allow_later_training) = (self.overwrite, self.allow_later_training);
        let options = export::Options { out: out.clone(), from, to, features, overwrite, allow_later_training };
        let done = block_on_or_stop(export::export(&job, &options))?;
        tell(&done.summary(&out), None)
    }
}

#[derive(Debug, Args)]
struct ForgetArgs {
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
            users.extend(read_lines(path)?);
        }
        Ok(users)
    }

    fn execute(&self) -> Result<u8> {
        let outcome = self.forget();
        match &outcome {
            Ok(done) if self.json => tell(&done.json(), None)?,
            Ok(done) => print(&done.to_string())?,
            Err(e) if self.json => {
                let (status, rerun_helps) = (e.kind().name(), e.kind().rerun_helps());
                let error = redact(&e.to_string());
                let line = serde_json::json!({ "status": status, "error": error, "rerun_helps": rerun_helps });
                // The error itself comes first.
                let _ = tell(&line, None);
            }
            Err(_) => {}
        }
        outcome.map(|done| done.exit_code())
    }

    fn forget(&self) -> Result<forget::Done> {
        let options = forget::Options { users: self.users()?, dry_run: self.dry_run, unlinked: self.unlinked };
        let done = block_on_or_stop(forget::forget(&self.job.load()?, &options)).map_err(|e| match e.kind() {
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
    /// Write the result to this file, pipe or device instead of standard output. A file is replaced whole.
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// As CSV, write texts that spreadsheets take for formulas (=, +, -, @ at their beginning) as they are, without an
    /// apostrophe before them.
    #[arg(long)]
    raw: bool,
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
        /// `user_id=userId,item_id=movieId,event_timestamp=ts,time_unit=ms,separator=tab`. `quote=none` turns quoting off.
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
    async fn execute(&self) -> Result<()> {
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
    let done = execute(cli.command, voice);
    // Work that was given up may hold its files still.
    scratch::clean();
    match done {
        Ok(code) => code,
        Err(e) => {
            if e.kind() != Kind::BrokenPipe {
                say(&format!("error: {}", e.explain()));
            }
            e.kind().exit_code()
        }
    }
}

fn execute(command: Command, voice: Voice) -> Result<u8> {
    match command {
        Command::Run(args) => block_on(run_job(args, voice)),
        Command::Plan(args) => block_on_or_stop(show_plan(args)),
        Command::Sql(args) => block_on_or_stop(query(args)),
        Command::Export(args) => args.execute().map(|()| 0),
        Command::Import(command) => {
            let report = compute_or_stop(move || command.execute())?;
            if report.duplicates > 0 {
                tracing::warn!(lines = report.duplicates, "left out lines that stood there before");
            }
            if report.items_without_title > 0 {
                tracing::warn!(items = report.items_without_title, "items without a title");
            }
            print(&file_lines(&report.files)).map(|()| 0)
        }
        Command::Learn(command) => command.execute(voice),
        Command::Simulate(args) => print(&file_lines(&compute_or_stop(move || args.execute())?)).map(|()| 0),
        Command::Inspect { path, rows } => print(&format!("{}\n", inspect::inspect(&path, rows)?)).map(|()| 0),
        Command::Config => print(config::DEFAULTS).map(|()| 0),
        Command::Gc { job } => {
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
            Ok(0)
        }
        Command::Runs(command) => block_on_or_stop(command.execute()).map(|()| 0),
        Command::Models(command) => block_on_or_stop(command.execute()).map(|()| 0),
        Command::Forget(args) => args.execute(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "curec", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| 0)
        }
    }
}

async fn run_job(args: RunArgs, voice: Voice) -> Result<u8> {
    // Whoever waits for a summary learns now, not after hours, that there will be none.
    let (found, summary) = match args.summary.as_deref().map(Destination::find).transpose() {
        Ok(summary) => (args.job.load().and_then(|job| Ok((job, args.interval.parse()?))), summary),
        Err(e) => (Err(e), None),
    };
    let (job, interval) = match found {
        Ok(found) => found,
        Err(e) => {
            // The error comes first: whoever listens to it must not hear of a closed pipe instead.
            let _ = tell(&failure(None, args.interval.parse().ok(), &e), summary.as_ref());
            return Err(e);
        }
    };
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let options =
        run::Options { full: args.full, retry_failed: args.retry_failed, allow_empty: args.allow_empty, voice };
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let lookback = lookback::look_back(&job, interval, days, options, &stop).await;
    for (day, e) in lookback.iter().filter_map(|day| Some((day, day.error.as_ref()?))) {
        say(&format!("error: looking back at dt={}: {}", day.dt, e.explain()));
    }
    let outcome = run::run(&job, interval, options, stop).await;
    let mut line = match &outcome {
        Ok(done) => done.manifest.summary(done.report.as_deref()),
        Err(e) => failure(Some(&job.spec.name), Some(interval), e),
    };
    line["lookback"] = lookback.iter().map(LookedBack::json).collect();
    let told = tell(&line, summary.as_ref());
    let done = outcome?;
    if voice == Voice::Terminal {
        let before = lookback::story(&lookback);
        say(&format!("{before}{}{}", if before.is_empty() { "" } else { "\n" }, done.story));
    }
    told?;
    let nothing_to_do = done.nothing_to_do && lookback.iter().all(|day| day.run_id.is_none());
    Ok(match lookback::exit_code(&lookback) {
        0 if nothing_to_do && args.skip_exit_code => 99,
        code => code,
    })
}

/// The summary of a run that failed, however early.
fn failure(job: Option<&str>, interval: Option<Interval>, e: &Error) -> serde_json::Value {
    serde_json::json!({
        "status": e.kind().name(),
        "job": job,
        "run_id": e.context().iter().find(|(name, _)| *name == run::RUN).map(|(_, id)| id),
        "interval_start": interval.map(|i| i.start.to_rfc3339()),
        "interval_end": interval.map(|i| i.end.to_rfc3339()),
        "error": redact(&e.to_string()),
        "rerun_helps": e.kind().rerun_helps(),
        "lookback": [],
    })
}

async fn show_plan(args: PlanArgs) -> Result<u8> {
    let (job, interval) = (args.job.load()?, args.interval.parse()?);
    let days = args.lookback.unwrap_or(job.spec.interval.lookback_days);
    let plan = plan::plan(&job, interval, days, args.full).await?;
    match args.json {
        true => print_json(&format!("{}\n", plan.json())),
        false => print(&plan.to_string()),
    }
    .map(|()| 0)
}

async fn query(args: SqlArgs) -> Result<u8> {
    let to = args.output.as_deref().map(Destination::find).transpose()?;
    let job = Job::load(&args.job, &args.overrides)?;
    let text = match args.query.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context(Kind::Usage, || "cannot read the query".into())?,
        text => text.to_string(),
    };
    let not_for_terminals =
        || Error::new(Kind::Usage, "Parquet is not for a terminal").hint("add --output result.parquet");
    if args.format == Format::Parquet && to.is_none() && Out::Stdout.is_terminal() {
        return Err(not_for_terminals());
    }
    let session: Session = warehouse::session_of(&job).await?;
    let rows = session.sql_read_only(&text, &[]).await?;
    let out = Out::open(to.as_ref())?;
    if args.format == Format::Parquet && out.is_terminal() {
        return Err(not_for_terminals());
    }
    write_rows(rows, args.format, args.raw, out).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
