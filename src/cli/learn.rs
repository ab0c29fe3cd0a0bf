//! `curec learn`: what improves the model, and what measures it.
//!
//! Knows flags, and the line that each command prints or what a person sees in its place; the work is in [`crate::weekly`]
//! and [`crate::evaluate`].

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cancel::CancelToken;
use crate::cli::arguments::{IntervalArgs, JobArgs, block_on, block_on_or_stop, watch_signals};
use crate::cli::output::{is_for_a_person, print, print_toned, say, tell};
use crate::cli::shown;
use crate::destination::Destination;
use crate::error::{Context, Kind, Result};
use crate::evaluate::{evaluation, evaluation_file};
use crate::learn::lessons::Method;
use crate::table::redact::redact;
use crate::telemetry::Voice;
use crate::weekly::watched::{Learning, Watched};
use crate::weekly::{align, examples, improve, learning_page, project, reinforce, reward, weekly_file, worth};
use crate::worth::whose::Whose;

#[derive(Debug, Args)]
pub(crate) struct LearnArgs {
    #[command(subcommand)]
    command: LearnCommand,
    /// Print the line of JSON on a terminal too, where people see the same in words.
    #[arg(long, global = true)]
    json: bool,
}

/// How a command tells what it did.
#[derive(Debug, Clone, Copy)]
struct Teller {
    voice: Voice,
    /// Whether a person reads standard output.
    is_watched: bool,
}

impl Teller {
    /// Prints the line of JSON; to a person its values, and where the page is.
    fn tell(self, line: &serde_json::Value, page: Option<&Path>) -> Result<()> {
        match self.is_watched {
            true if self.voice == Voice::Quiet => Ok(()),
            true => print_toned(&shown::of_record(line, page)),
            false => tell(line, None),
        }
    }
}

/// What is learned or measured.
#[derive(Debug, Subcommand)]
enum LearnCommand {
    /// Teach the language model to answer out of its evidence: a LoRA adapter for the nightly job.
    #[command(
        before_help = "Example:\n    curec learn align jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
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
        before_help = "Example:\n    curec learn reward jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
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
        before_help = "Example:\n    curec learn weekly jobs/weekly.toml --interval-start 1997-12-01 --interval-end 1998-03-05",
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
        before_help = "Example:
    curec learn reinforce jobs/weekly.toml --method best-of-n --interval-start 1997-12-01 \\
        --interval-end 1998-03-05",
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
    /// Measure what reasons of items, or histories, are worth to a recommender and, where that may be a reward, teach the best of several.
    #[command(
        before_help = "Example:\n    curec learn worth jobs/weekly.toml --interval-start 1998-03-05 --interval-end 1998-04-20",
        after_help = "Prints one JSON line. A recommender learns from the log before the interval, without texts; events of the \
interval say what the model's reasons are worth in the place of their item. The record worth.json, all answers with their worths \
(item_worth.parquet) and, where the gates hold, the folder adapter-worth and item_choice.parquet (what is to stand in the place of \
items' reasons, for [correct] item_choices of a nightly job) go to `out` of the file. With --of histories a user is known by the text \
about the history alone, and judged by what came next; history_worth.json, history_worth.parquet and adapter-worth-histories are the \
same of these, and no choices are written. Nothing is published. Killed, \
run it again: no answer is asked for twice. Run again with nothing changed, it makes the evidence anew to see that, asks and \
measures nothing, and says the same. The interval begins where the adapter that answers has ended learning, or later.\n\n\
Exit codes: 0 the gates hold, the best answers are taught and the choices are written; 1 a gate does not hold or a choice is not \
confirmed, which the record tells, or there is nothing to measure by."
    )]
    Worth {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        /// Whose reasons: items or histories.
        #[arg(long, default_value_t = Whose::Items, value_name = "WHOSE")]
        of: Whose,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Map the vectors of texts to where the log has what texts like them go with: the column `collaborative` of the nightly job.
    #[command(
        before_help = "Example:\n    curec learn project jobs/weekly.toml --interval-start 1998-03-05 --interval-end 1998-03-12",
        after_help = "Prints one JSON line. Learns from the log and from the vectors that nights have published, all of before the \
interval, and is judged by what users met first in it. The projection and its record project.json go to the folder projection/ of \
`out`, or to projection-refused/ where the gate does not hold; where [projection] name is set, into the registry too, and into use \
if the gate holds. No language model is run.\n\n\
Exit codes: 0 the gate holds; 1 it does not, or there is nothing to learn from; nothing is promoted then."
    )]
    Project {
        /// The weekly file, such as jobs/weekly.toml.
        file: PathBuf,
        #[command(flatten)]
        interval: IntervalArgs,
    },
    /// Train recommenders with and without content features and tell what the features are worth.
    #[command(
        before_help = "Example:\n    curec learn evaluate jobs/ablation.toml",
        after_help = "Prints one JSON line. Tables, ABLATION.md and a page go to the folder `out` of the file, after each data \
set. Killed, run it again: finished trainings and texts are kept."
    )]
    Evaluate {
        /// The evaluation's file, such as jobs/ablation.toml.
        file: PathBuf,
        /// Only this data set of the file; may be given several times. Its results take the place of those in `out`.
        #[arg(long, value_name = "NAME")]
        data: Vec<String>,
    },
    /// Write the questions and answers that a language model is aligned with.
    #[command(
        before_help = "Example:
    curec learn examples jobs/nightly.toml --interval-start 2026-11-01 \\
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

impl LearnArgs {
    /// Does it; returns the exit code.
    ///
    /// # Errors
    /// The command's.
    pub(crate) fn execute(self, voice: Voice) -> Result<u8> {
        let teller = Teller { voice, is_watched: is_for_a_person(self.json) };
        match self.command {
            LearnCommand::Align { file, interval } => block_on(learn_align(file, interval, teller)),
            LearnCommand::Weekly { file, interval } => block_on(learn_weekly(file, interval, teller)),
            LearnCommand::Reward { file, interval } => block_on(learn_reward(file, interval, teller)),
            LearnCommand::Reinforce { file, method, interval } => {
                block_on(learn_reinforce(file, method, interval, teller))
            }
            LearnCommand::Worth { file, of, interval } => block_on(learn_worth(file, of, interval, teller)),
            LearnCommand::Project { file, interval } => block_on(learn_project(file, interval, teller)),
            LearnCommand::Evaluate { file, data } => block_on(learn_evaluate(file, data, teller)),
            LearnCommand::Examples { job, interval, out, max_examples } => {
                let size = examples::Size { max_examples, ..examples::Size::default() };
                Destination::find(&out)?;
                let rows = block_on_or_stop(examples::examples(&job.load()?, interval.parse()?, size, Some(&out)))?;
                let n: usize = rows.iter().map(|batch| batch.num_rows()).sum();
                print(&format!("{n} examples in {}\n", out.display())).map(|()| 0)
            }
        }
    }
}

async fn learn_align(file: PathBuf, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let done = align::align(&spec, interval, teller.voice, &stop).await?;
        let page = learning_page::write(&spec.folder()?)?;
        Ok((done, page))
    };
    let (done, page) = Watched::begin(&spec, Learning::Align, interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "aligned", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of the training".into())?;
    if let (Some(line), serde_json::Value::Object(mut done)) = (line.as_object_mut(), done) {
        // They are for reading, in align.json.
        done.remove("samples");
        line.extend(done);
    }
    teller.tell(&line, Some(&page)).map(|()| 0)
}

async fn learn_weekly(file: PathBuf, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let mut name = None;
    let work = async {
        let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
        let stop = CancelToken::default();
        watch_signals(stop.clone());
        name = Some(spec.name.clone());
        let watched = Watched::begin(&spec, Learning::Weekly, interval);
        let work = improve::improve(&spec, interval, teller.voice, watched.steps(), &stop);
        watched.through(work).await
    };
    let outcome = work.await;
    let mut line = match &outcome {
        Ok(done) => serde_json::to_value(done).context(Kind::Internal, || "the run's record".into())?,
        Err(e) => serde_json::json!({ "error": redact(&e.to_string()), "rerun_helps": e.kind().rerun_helps() }),
    };
    line["status"] = outcome.as_ref().map_or_else(|e| e.kind().name(), |_| "promoted").into();
    line["name"] = name.into();
    // What went wrong is told as an error; for programs the line is there as well.
    let told = match outcome.is_err() && teller.is_watched {
        true => Ok(()),
        false => teller.tell(&line, None),
    };
    outcome?;
    told.map(|()| 0)
}

async fn learn_reward(file: PathBuf, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let outcome = reward::reward(&spec, interval, teller.voice, &stop).await;
        // A judge that fails its gates has a page too.
        let page = learning_page::write(&spec.folder()?)?;
        Ok((outcome?, page))
    };
    let (done, page) = Watched::begin(&spec, Learning::Reward, interval).through(work).await?;
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
    teller.tell(&line, Some(&page)).map(|()| 0)
}

async fn learn_reinforce(file: PathBuf, method: Method, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let done = reinforce::reinforce(&spec, interval, method, teller.voice, &stop).await?;
        let page = learning_page::write(&spec.folder()?)?;
        Ok((done, page))
    };
    let (done, page) = Watched::begin(&spec, Learning::Reinforce(method), interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "reinforced", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of it".into())?;
    if let (Some(line), serde_json::Value::Object(done)) = (line.as_object_mut(), done) {
        line.extend(done);
    }
    teller.tell(&line, Some(&page)).map(|()| 0)
}

async fn learn_worth(file: PathBuf, whose: Whose, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        let outcome = worth::worth(&spec, whose, interval, teller.voice, &stop).await;
        // What a gate refuses has a page too.
        let page = learning_page::write(&spec.folder()?);
        let done = outcome?;
        Ok((done, page?))
    };
    let (done, page) = Watched::begin(&spec, Learning::Worth(whose), interval).through(work).await?;
    let out = PathBuf::from(&spec.out);
    let mut line = serde_json::json!({
        "status": "taught",
        "name": spec.name,
        (whose.described()): done.asked.number(),
        "answers": done.answers,
        "accepted": done.accepted,
        "chosen": done.chosen,
    });
    if whose == Whose::Items {
        line["correction"] = serde_json::json!(done.correction);
        line["reach"] = serde_json::json!(done.reach);
        line["choices"] = serde_json::json!(out.join(worth::CHOICES));
    }
    line["taught"] = serde_json::json!(done.taught);
    line["record"] = serde_json::json!(out.join(whose.record()));
    teller.tell(&line, Some(&page)).map(|()| 0)
}

async fn learn_project(file: PathBuf, interval: IntervalArgs, teller: Teller) -> Result<u8> {
    let (spec, interval) = (weekly_file::load(&file)?, interval.parse()?);
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let work = async {
        let _hold = spec.hold()?;
        project::project(&spec, interval, &stop).await
    };
    let done = Watched::begin(&spec, Learning::Project, interval).through(work).await?;
    let mut line = serde_json::json!({ "status": "projected", "name": spec.name });
    let done = serde_json::to_value(&done).context(Kind::Internal, || "the record of a projection".into())?;
    if let (Some(line), serde_json::Value::Object(done)) = (line.as_object_mut(), done) {
        line.extend(done);
    }
    teller.tell(&line, None).map(|()| 0)
}

async fn learn_evaluate(file: PathBuf, data: Vec<String>, teller: Teller) -> Result<u8> {
    let mut spec = evaluation_file::load(&file)?;
    spec.only(&data)?;
    let stop = CancelToken::default();
    watch_signals(stop.clone());
    let done = evaluation::evaluate(&spec, teller.voice, &stop).await?;
    let line = serde_json::json!({
        "status": "evaluated",
        "evaluation": spec.name,
        "measurements": done.results.measurements.len(),
        "contrasts": done.results.contrasts.len(),
        "page": done.page,
    });
    if teller.is_watched && teller.voice != Voice::Quiet {
        print(&format!("{}\n", done.story.trim_end()))?;
        return Ok(0);
    }
    teller.tell(&line, None)?;
    if teller.voice == Voice::Terminal {
        say(&done.story);
    }
    Ok(0)
}
