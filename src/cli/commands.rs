//! The command line: commands, help, exit codes.
//!
//! Data goes to standard output, everything else to standard error. Knows every other module; only the binary knows it.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::arguments::{JobArgs, block_on, block_on_or_stop};
use crate::cli::check::CheckArgs;
use crate::cli::cluster::ClusterCommand;
use crate::cli::config::ConfigArgs;
use crate::cli::explain::ExplainArgs;
use crate::cli::export::ExportArgs;
use crate::cli::forget::ForgetArgs;
use crate::cli::import::{ImportCommand, SimulateArgs};
use crate::cli::init::InitArgs;
use crate::cli::learn::LearnArgs;
use crate::cli::manual::ManArgs;
use crate::cli::models::ModelsCommand;
use crate::cli::output::{print, say_error};
use crate::cli::run::{self, PlanArgs, RunArgs};
use crate::cli::runs::{self, RunsCommand};
use crate::cli::sql::SqlArgs;
use crate::error::{Kind, Result};
use crate::operate::inspect;
use crate::scratch;
use crate::telemetry::{self, Voice};

const EXAMPLES: &str = "\
Examples:
    curec init --interactions logs --items catalogue.parquet my-job
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
    curec check jobs/nightly.toml
    curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
    curec sql --job jobs/nightly.toml \"select reason from reason limit 5\"
    curec explain jobs/nightly.toml --item-id 597
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
    /// Print errors only.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log JSON lines even on a terminal.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Propose a job for your own logs from a sample of them, in a folder of its own.
    #[command(
        before_help = "Examples:
    curec init --interactions logs --items catalogue.parquet my-job
    curec init --interactions events.csv --items products.csv my-job
    curec init --interactions reviews.jsonl --reviews reviews.jsonl --items meta.jsonl my-job
    curec init --interactions 's3://lake/events/*.parquet' --edit sql my-job",
        after_help = "Columns are found by the names that logs have for them, units of time by the size of the numbers, likes by the scale \
of the ratings or by what events are called. What cannot be told is said, and marked UNDECIDED in FOLDER/job.toml; of two columns \
that fit alike neither is taken. A job reads Parquet: for CSV and JSON lines the commands that convert them are printed."
    )]
    Init(InitArgs),
    /// Build one interval of a job and publish it.
    #[command(before_help = "Examples:
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 \\
        --set model.device=wgpu
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --retry-failed
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --lookback 3")]
    Run(RunArgs),
    /// Show what `run` would build and why; changes nothing.
    #[command(before_help = "Examples:
    curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22
    curec plan jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 --json")]
    Plan(PlanArgs),
    /// Check everything that a night needs and report all problems at once: settings, templates, models, tables, warehouse, inputs.
    #[command(
        before_help = "Examples:
    curec check jobs/nightly.toml
    curec check jobs/nightly.toml --at 2026-11-21 --write
    curec check jobs/nightly.toml --json",
        after_help = "Reads the first rows of each input, up to 20000 of at most 16 files, and of items all ids. Writes nothing \
without --write, and fetches no model: of one on a store it tells only whether it is there.\n\n\
Exit codes: 0 no problems, whatever the warnings; 2 problems."
    )]
    Check(CheckArgs),
    /// Query every table of a warehouse: one statement, a file of them, a saved query, or in a shell.
    #[command(before_help = "Examples:
    curec sql --job jobs/nightly.toml
    curec sql --job jobs/nightly.toml \"show tables\"
    curec sql --job jobs/nightly.toml \"select reason from reason where dt = '2026-11-21' limit 5\"
    curec sql --job jobs/nightly.toml --format parquet --output out.parquet \\
        \"select * from item_feature\"
    curec sql --job jobs/nightly.toml -f report.sql
    curec sql --job jobs/nightly.toml --query refusals
    curec sql --job jobs/nightly.toml --query
    echo \"select generate('Name a colour.') as text\" | curec sql --job jobs/nightly.toml -")]
    Sql(SqlArgs),
    /// Show a reason beside its evidence, with what it uses marked, and everything that it came from.
    #[command(
        before_help = "Examples:
    curec explain jobs/nightly.toml --item-id 597
    curec explain jobs/nightly.toml --user-id 825 --at 2026-11-21
    curec explain jobs/nightly.toml --user-id 825 --item-id 597
    curec explain jobs/nightly.toml --item-id 597 --json",
        after_help = "Shows the newest published day that has a prompt about the item, the user or the pair. Where a terminal has colours, \
words and titles of the evidence that the reason uses are bold, and words of the reason that no evidence holds are red; \
elsewhere, or with NO_COLOR set, they stand as *word* and ?word?."
    )]
    Explain(ExplainArgs),
    /// Write training data for a ranker: every event with the newest features that were known at its time.
    #[command(
        before_help = "Examples:
    curec export jobs/nightly.toml --out training
    curec export jobs/nightly.toml --out s3://lake/training --from 2026-10-01 --to 2026-11-01 \\
        --features item
    curec export jobs/nightly.toml --feast > feature_repo/curec.py",
        after_help = "Writes Parquet, sorted by event_timestamp, user_id and item_id: user_id, item_id, event, rating, \
event_timestamp, and the columns of item_feature and user_feature under item_ and user_. An event has the newest feature \
row whose event_timestamp is not after its own (a feature row for moment T is made from events before T). Where there is \
none, item_missing is true, item_event_timestamp null and the embedding zeros; likewise for users.\n\n\
The files are in place when _export.json is; it lists them. jobs/loaders/ranker_loader.py feeds them to PyTorch. Prints one \
JSON line; on a terminal a table."
    )]
    Export(ExportArgs),
    /// Turn a public data set into the input tables.
    #[command(
        subcommand,
        before_help = "Examples:
    curec import movielens ml-100k --out input
    curec import csv ratings.csv --items films.csv \\
        --mapping user_id=userId,item_id=movieId --out input
    curec import jsonl Gift_Cards_5.json --metadata meta_Gift_Cards.json --out input"
    )]
    Import(ImportCommand),
    /// Improve the model: align, train a reward model, reinforce, gate and promote; and measure the value of features.
    Learn(LearnArgs),
    /// Write input tables from a known preference structure, to test recommenders and how they are measured.
    #[command(before_help = "Examples:
    curec simulate --out input --users 2000 --items 1000 --events-per-user 30 --seed 7 \\
        --signal co-consumption
    curec simulate --out control --users 2000 --items 1000 --events-per-user 30 --seed 7 \\
        --signal none
    curec simulate --out new --users 4000 --items 3000 --events-per-user 8 --tastes 120 --seed 7 \\
        --signal content")]
    Simulate(SimulateArgs),
    /// Show schema, counts and first rows of a Parquet file or folder, through an independent reader.
    #[command(before_help = "Example:\n    curec inspect warehouse/item_feature --rows 3")]
    Inspect {
        /// A Parquet file or a folder of them.
        path: PathBuf,
        /// Rows to show.
        #[arg(long, default_value_t = 5)]
        rows: usize,
    },
    /// Print every key of a job file with its default and meaning, or the resolved values of a file and their origins.
    #[command(
        before_help = "Examples:
    curec config > jobs/mine.toml
    curec config jobs/nightly.toml",
        after_help = "Credentials are printed as ***."
    )]
    Config(ConfigArgs),
    /// Remove what dead runs left behind, and merge the small files of the response store.
    #[command(before_help = "Example:\n    curec gc jobs/nightly.toml")]
    Gc {
        #[command(flatten)]
        job: JobArgs,
    },
    /// List, show and compare the runs of a warehouse by their manifests.
    #[command(
        subcommand,
        before_help = "Examples:
    curec runs list jobs/nightly.toml --limit 5
    curec runs show jobs/nightly.toml latest
    curec runs diff jobs/nightly.toml nightly-20261121 nightly-20261122"
    )]
    Runs(RunsCommand),
    /// Keep versions of adapters and projections in a registry, and say which one is in use.
    #[command(
        subcommand,
        before_help = "Examples:
    curec models add writer --adapter weekly/adapter --job jobs/nightly.toml --about about.json
    curec models list --job jobs/nightly.toml
    curec models promote writer latest --registry s3://lake/registry
    curec models rollback writer --registry s3://lake/registry
    curec models export writer --merged --out writer-merged --job jobs/nightly.toml",
        after_help = "A job with `adapter = \"registry:writer\"` or `projection = \"registry:map\"` in its [model] uses what is \
promoted when a run starts.\nProjections are added by `curec learn project`; they have no language model to be merged into."
    )]
    Models(ModelsCommand),
    /// Remove users from every table, the answers and the reports (privacy requests).
    #[command(
        before_help = "Examples:
    curec forget jobs/nightly.toml --user-id 4711 --dry-run
    curec forget jobs/nightly.toml --user-id 4711 --user-id 0815
    curec forget jobs/nightly.toml --user-file requests.txt --json",
        after_help = "Removes the users' rows from every derived table; the model's answers to prompts of these users \
alone; files that dead runs left; and quarantined rows, samples and errors in reports and manifests that name the users. \
Everything is tried first: what cannot be read or written is refused before anything is removed. Days that are rewritten \
take twice their space meanwhile. If it is killed, run it again. It is refused with 75 while a run is live.\n\n\
Exit codes: 0 all ids were found, now or by an earlier `forget`; 3 everything was done, and ids that were found \
nowhere are listed (in --json as `unmatched`): mistyped, or never there; 1, 2 and 75 as everywhere.\n\n\
Writes a manifest (_runs/forget-...) with keyed digests of the ids; the key stays in the warehouse (_forget/key). To ask \
later whether an id was forgotten, forget it again: 0 says yes, 3 says no.\n\n\
Not touched: the inputs (correct them first, or the next run that reads them brings the rows back); counts over many \
users (item_audience, totals in reports) and what was written from them; answers whose prompts are in no partition any \
more (--unlinked removes them); models and anything learned; logs, older versions and backups that the store keeps, \
and copies made elsewhere."
    )]
    Forget(ForgetArgs),
    /// Make a run's tables on several machines: the processes of a cluster, for `[query] engine = "ballista"`.
    #[command(
        subcommand,
        before_help = "Examples:
    curec cluster scheduler
    curec cluster executor --scheduler df://127.0.0.1:50050
    curec run jobs/nightly.toml --interval-start 2026-11-21 --interval-end 2026-11-22 \\
        --engine ballista --set query.scheduler=df://127.0.0.1:50050",
        after_help = "Needs a curec that was built with --features cluster. Each process opens stores with the AWS variables of its own \
environment. Connections are neither encrypted nor authenticated: keep them inside a private network."
    )]
    Cluster(ClusterCommand),
    /// Print a completion script for a shell.
    #[command(before_help = "Example:\n    curec completions bash > /etc/bash_completion.d/curec")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command.
    #[command(before_help = "Example:\n    curec man --out ~/.local/share/man/man1")]
    Man(ManArgs),
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
    // Cancelled work may still hold its temporary files.
    scratch::clean();
    match done {
        Ok(code) => code,
        Err(e) => {
            if e.kind() != Kind::BrokenPipe {
                say_error("", &e);
            }
            e.kind().exit_code()
        }
    }
}

fn execute(command: Command, voice: Voice) -> Result<u8> {
    match command {
        Command::Run(args) => block_on(run::run_job(args, voice)),
        Command::Plan(args) => block_on_or_stop(run::show_plan(args)),
        Command::Check(args) => block_on_or_stop(args.execute()),
        Command::Sql(args) => args.execute(),
        Command::Explain(args) => block_on_or_stop(args.execute()).map(|()| 0),
        Command::Export(args) => args.execute(voice).map(|()| 0),
        Command::Init(args) => block_on_or_stop(args.execute()).map(|()| 0),
        Command::Import(command) => command.execute().map(|()| 0),
        Command::Learn(args) => args.execute(voice),
        Command::Simulate(args) => args.execute().map(|()| 0),
        Command::Inspect { path, rows } => print(&format!("{}\n", inspect::inspect(&path, rows)?)).map(|()| 0),
        Command::Config(args) => args.execute().map(|()| 0),
        Command::Gc { job } => runs::collect_garbage(&job).map(|()| 0),
        Command::Runs(command) => block_on_or_stop(command.execute()).map(|()| 0),
        Command::Models(command) => block_on_or_stop(command.execute()).map(|()| 0),
        Command::Forget(args) => args.execute(),
        Command::Cluster(command) => command.execute(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "curec", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| 0)
        }
        Command::Man(args) => args.execute(Cli::command()).map(|()| 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
